//! Data types, number formats and tensors.
//!
//! Knows nothing of graphs or machines: a format is a definition, a tensor is a type, a shape and bytes.

pub mod accumulate;
pub mod cast;
mod convert;
pub mod dtype;
pub mod exact;
mod file;
pub mod format;
pub mod microscaling;
pub mod quantise;
pub mod random;
pub mod round;
pub mod slices;
pub mod tensor;

pub use accumulate::Accumulation;
pub use cast::{CastError, cast};
pub use dtype::DType;
pub use exact::ExactSum;
pub use file::{check_writable, map_file, write_file};
pub use format::{Flavour, Format};
pub use random::{random_unit, random_word};
pub use round::Rounding;
pub use slices::round_slice;
pub use tensor::{Data, Tensor};
