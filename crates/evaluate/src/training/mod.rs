//! Training: a model's step run again and again, on this host or in a machine's arithmetic.

mod batches;
mod checkpoint;
mod engine;
mod fit;
mod habits;
mod history;
mod metrics;
mod scaling;
mod schedule;
mod trainer;
mod trouble;

pub use fit::{Event, Length, Request, Trained, train};
pub use habits::{Habits, default_loss, habits};
pub use history::Epoch;
pub use metrics::Metric;
pub use scaling::LossScaling;
pub use schedule::Schedule;
pub use trainer::{StepOutcome, Trainer};
