//! Program to tensors, with real numbers, on the host.

pub mod program;
