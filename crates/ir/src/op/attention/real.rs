//! What attention is computed in.

use super::super::elements::Float;
use super::super::matrix::kernel::Scalar;
use orrery_numerics::{DType, Tensor};
use std::borrow::Cow;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

/// Numbers that attention can be computed in: floats, and what knows more of itself than a value.
pub trait Real:
    Scalar
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + std::iter::Sum
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Positive infinity.
    const INFINITY: Self;
    /// The nearest number.
    fn from_f64(value: f64) -> Self;
    /// Elements of a tensor of any real type.
    ///
    /// # Errors
    /// For strings and complex numbers.
    fn read(tensor: &Tensor) -> Result<Cow<'_, [Self]>, String>;
    /// A tensor for a result of a type, of as many numbers as the shape says.
    fn tensor(dtype: DType, shape: Vec<usize>, values: Vec<Self>) -> Tensor;
    /// e to its power.
    #[must_use]
    fn exp(self) -> Self;
    /// Hyperbolic tangent.
    #[must_use]
    fn tanh(self) -> Self;
    /// The larger.
    #[must_use]
    fn larger(self, other: Self) -> Self;
}

impl<T: Float + Scalar> Real for T {
    const ZERO: Self = <T as Float>::ZERO;
    const ONE: Self = <T as Float>::ONE;
    const INFINITY: Self = <T as Float>::INFINITY;
    fn from_f64(value: f64) -> Self {
        <T as Float>::from_f64(value)
    }
    fn read(tensor: &Tensor) -> Result<Cow<'_, [Self]>, String> {
        <T as Float>::read(tensor)
    }
    fn tensor(dtype: DType, shape: Vec<usize>, values: Vec<Self>) -> Tensor {
        <T as Float>::tensor(dtype, shape, values)
    }
    fn exp(self) -> Self {
        Float::exp(self)
    }
    fn tanh(self) -> Self {
        Float::tanh(self)
    }
    fn larger(self, other: Self) -> Self {
        Float::larger(self, other)
    }
}
