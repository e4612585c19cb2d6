//! Ids, units and diagnostics shared by every crate.
//!
//! Knows nothing of graphs, machines or files; never prints, never reads a clock.

pub mod diagnostic;
pub mod index;
mod nearest;
pub mod progress;
pub mod units;

pub use diagnostic::{Diagnostic, Result, Severity};
pub use index::IndexVec;
pub use nearest::nearest;
pub use progress::Progress;
pub use units::Picoseconds;
