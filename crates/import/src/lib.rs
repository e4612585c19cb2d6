//! Model files to Graph and back.
//!
//! [`onnx`] reads and writes ONNX. Weights are never copied: a tensor is a slice of the mapped file.

pub mod onnx;

pub use orrery_numerics::map_file;
