//! Fast kernels on f32.

pub mod attention;
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
pub mod softmax;
pub mod threads;
pub mod transposed;
pub mod window;
pub mod winograd;
