//! Programs as the compiler makes them: executed, they are what their graphs mean; broken, they are found out.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking too")]

mod broken;
mod common;
mod engines;
mod graphs;
mod oracle;
mod random;
mod spatial;
mod states;
mod stream;
mod training;
mod wafer;
mod zoo;
