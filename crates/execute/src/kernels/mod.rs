//! Fast kernels on f32.

pub mod buffer;
pub mod conv;
pub mod depthwise;
pub mod gemm;
pub mod math;
pub mod matmul;
pub mod movement;
pub mod pointwise;
pub mod reduce;
pub mod simd;
pub mod threads;
pub mod window;
