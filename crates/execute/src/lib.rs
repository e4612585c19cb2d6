//! Program to tensors, with real numbers, on the host.

pub mod program;

pub mod host;
pub mod kernels;
