//! Records and their comparison.
//!
//! A [`Record`] is the outcome of a run in one form, whether simulated, executed on this host, measured by a user or
//! published by somebody. Everything is compared as Records, so that all of them can stand in one table. Types only: this
//! crate reads no file and knows no machine.
//!
//! Invariants:
//! 1. A Record always says where its figures come from; nothing turns a simulated figure into a measured one.
//! 2. A Record has either measurements or the reason why there are none.
//! 3. JSON ([`Record::to_json`]) and rows of a measurements file ([`rows`]) convert there and back without loss.
//! 4. A comparison that is not fair names why, and then names no winner.

mod compare;
mod json;
mod record;
pub mod rows;

pub use compare::{Comparison, Group, Unfairness, compare, precision_class};
pub use record::{
    Batch, Counted, Identity, Lengths, Measurement, Outcome, Phase, Provenance, Record, Refusal, Scope,
    Scored, Statistic, Workload,
};
