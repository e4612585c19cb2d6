//! Data types, number formats and tensors.
//!
//! Knows nothing of graphs or machines: a format is a definition, a tensor is a type, a shape and bytes.

pub mod dtype;
pub mod tensor;

pub use dtype::DType;
pub use tensor::{Data, Tensor};
