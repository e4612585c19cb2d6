//! Program to tensors, with real numbers, on the host.
