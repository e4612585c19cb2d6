//! Drivers over the whole way.
//!
//! Each driver takes a model and machines, walks the way from graph to program to timeline or tensors, as often as its
//! question needs, and answers in plain types. None prints, and none knows a terminal.

pub mod calibrate;
pub mod check;
pub mod compare;
mod cut;
pub mod explain;
mod generation;
pub mod inputs;
mod memory;
pub mod model;
pub mod outcome;
mod placement;
mod power;
pub mod run;
pub mod setup;
mod suggest;
pub mod sweep;
pub mod training;
pub mod validate;
mod variant;
pub mod way;
pub mod work;
mod workload;

pub use model::Model;
pub use setup::Setup;
pub use suggest::Suggestion;
pub use work::Work;
