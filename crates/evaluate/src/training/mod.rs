//! Training: a model's step run again and again, on this host or in a machine's arithmetic.

mod engine;
mod trainer;

pub use trainer::{StepOutcome, Trainer};
