//! Integers that stand for real numbers: `real = scale * (integer - zero_point)`, as ONNX `QuantizeLinear` has it.

use crate::DType;

/// How integers of one type stand for real numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    /// Type of the integers: at most 32 bits.
    pub dtype: DType,
    /// Distance of two neighbouring real numbers.
    pub scale: f32,
    /// The integer that stands for zero.
    pub zero_point: i32,
}

impl Affine {
    /// The symmetric scale for `values`: zero stands for zero and the largest magnitude for the type's largest
    /// number. All zeros have scale 1. `dtype` is a signed integer type of at most 32 bits.
    pub fn symmetric(dtype: DType, values: &[f32]) -> Self {
        let magnitude = values.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        let scale = magnitude / dtype.int_range().1 as f32;
        Self { dtype, scale: positive(scale), zero_point: 0 }
    }
    /// The scale and zero point by the rule of ONNX `DynamicQuantizeLinear`: the type's range covers the values and
    /// zero. All zeros have scale 1. `dtype` is an integer type of at most 32 bits.
    pub fn covering(dtype: DType, values: &[f32]) -> Self {
        let (low, high) = dtype.int_range();
        let (min, max) = values.iter().fold((0.0_f32, 0.0_f32), |(a, b), &v| (a.min(v), b.max(v)));
        let scale = positive((max - min) / (high - low) as f32);
        let zero = (low as f32 - min / scale).clamp(low as f32, high as f32);
        Self { dtype, scale, zero_point: zero.round_ties_even() as i32 }
    }
    /// The integer nearest to `value`: the quotient by the scale rounded to the nearest, ties to even, the zero point
    /// added, held within the type's range. NaN becomes the zero point.
    pub fn quantise(self, value: f32) -> i32 {
        let (low, high) = self.dtype.int_range();
        let integer = (value / self.scale).round_ties_even() as i64 + i64::from(self.zero_point);
        integer.clamp(low as i64, high as i64) as i32
    }
    /// The real number that `integer` stands for, rounded to binary32.
    pub fn dequantise(self, integer: i32) -> f32 {
        (i64::from(integer) - i64::from(self.zero_point)) as f32 * self.scale
    }
}

/// The scale, or 1 where nothing but zeros is to be scaled.
fn positive(scale: f32) -> f32 {
    if scale > 0.0 { scale } else { 1.0 }
}
