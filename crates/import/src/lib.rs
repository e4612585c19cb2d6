//! Model files to Graph and back.
//!
//! [`onnx`] reads and writes ONNX. Weights are never copied: a tensor is a slice of the mapped file.

mod map;
pub mod onnx;

pub use map::map_file;
