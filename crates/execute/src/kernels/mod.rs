//! Fast kernels on f32.

pub mod attention;
pub mod backward;
pub mod buffer;
pub mod conv;
pub mod depthwise;
mod few;
pub mod gemm;
pub mod left;
pub mod math;
pub mod matmul;
pub mod movement;
pub mod optimizer;
pub mod outer;
pub mod pointwise;
pub mod recurrent;
pub mod reduce;
mod scratch;
pub mod simd;
pub mod softmax;
pub mod threads;
mod tiles;
pub mod transposed;
pub mod window;
pub mod winograd;
