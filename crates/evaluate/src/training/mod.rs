//! Training: a model's step run again and again, on this host or in a machine's arithmetic.

mod anatomy;
mod batches;
mod checkpoint;
mod engine;
mod fit;
mod forecast;
mod habits;
mod history;
mod holdings;
mod judge;
mod metrics;
mod room;
mod scaling;
mod schedule;
mod timed;
mod trainer;
mod trouble;

pub(crate) use anatomy::anatomy;
pub use anatomy::{Anatomy, Part};
pub use checkpoint::{is_checkpoint, options_of};
pub use fit::{Event, Length, Request, Trained, train};
pub use forecast::{Forecast, Predicted};
pub use habits::{Habits, default_loss, habits};
pub use history::Epoch;
pub use holdings::{Holding, Holdings};
pub use judge::{Evaluated, evaluate};
pub use metrics::Metric;
pub use room::MADE_AGAIN;
pub use scaling::LossScaling;
pub use schedule::Schedule;
pub(crate) use timed::can_train;
pub use timed::{
    TimedStep, Wanted, build_step, largest_batch, parameter_bytes, time_step, usual_loss, usual_optimizer,
};
pub use trainer::{StepOutcome, Trainer};
