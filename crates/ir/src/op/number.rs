//! Arithmetic on elements of any real type: floats and integers under one trait.

use super::elements::{Float, integers};
use orrery_numerics::tensor::Element;
use orrery_numerics::{DType, Tensor};
use std::borrow::Cow;

/// The type that arithmetic on an element type is done in: a [`Float`] for floats, `u64` for unsigned 64-bit integers, `i64` for
/// all other integers and bool. Integers wrap, in their own width once they are cut to it.
pub trait Number: Copy + Default + PartialOrd + std::fmt::Debug + Send + Sync + 'static {
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// True for integers.
    const INTEGER: bool;
    /// Elements of a tensor of a type that is computed in this one.
    ///
    /// # Errors
    /// For strings and complex numbers.
    fn read(tensor: &Tensor) -> Result<Cow<'_, [Self]>, String>;
    /// A tensor of such a type; floats are rounded once, integers keep the low bits.
    fn write(dtype: DType, shape: Vec<usize>, values: Vec<Self>) -> Tensor;
    /// The nearest number; integers are cut off and held within their range.
    fn from_f64(value: f64) -> Self;
    /// The nearest binary64.
    fn to_f64(self) -> f64;
    /// Sum.
    fn plus(self, other: Self) -> Self;
    /// Difference.
    fn minus(self, other: Self) -> Self;
    /// Product.
    fn times(self, other: Self) -> Self;
    /// Quotient; integers are cut off, and zero where `other` is.
    fn over(self, other: Self) -> Self;
    /// What a division leaves, of the sign of `self`; zero where an integer `other` is.
    fn remainder(self, other: Self) -> Self;
    /// What a division leaves, of the sign of `other`; zero where an integer `other` is.
    fn modulo(self, other: Self) -> Self {
        let left = self.remainder(other);
        if left != Self::ZERO && (left < Self::ZERO) != (other < Self::ZERO) {
            left.plus(other)
        } else {
            left
        }
    }
    /// Magnitude.
    fn magnitude(self) -> Self;
    /// -1, 0 or 1; NaN stays.
    fn sign(self) -> Self;
    /// The larger; NaN where one is.
    #[must_use]
    fn larger(self, other: Self) -> Self {
        if self > other || self.partial_cmp(&self).is_none() { self } else { other }
    }
    /// The smaller; NaN where one is.
    #[must_use]
    fn smaller(self, other: Self) -> Self {
        if self < other || self.partial_cmp(&self).is_none() { self } else { other }
    }
}
macro_rules! number {
    (float $($t:ident)*) => { $(impl Number for $t {
        const ZERO: Self = 0.0;
        const ONE: Self = 1.0;
        const INTEGER: bool = false;
        fn read(tensor: &Tensor) -> Result<Cow<'_, [Self]>, String> {
            Float::read(tensor)
        }
        fn write(dtype: DType, shape: Vec<usize>, values: Vec<Self>) -> Tensor {
            Float::tensor(dtype, shape, values)
        }
        fn from_f64(value: f64) -> Self {
            value as Self
        }
        fn to_f64(self) -> f64 {
            self.into()
        }
        fn plus(self, other: Self) -> Self {
            self + other
        }
        fn minus(self, other: Self) -> Self {
            self - other
        }
        fn times(self, other: Self) -> Self {
            self * other
        }
        fn over(self, other: Self) -> Self {
            self / other
        }
        fn remainder(self, other: Self) -> Self {
            self % other
        }
        fn magnitude(self) -> Self {
            $t::abs(self)
        }
        fn sign(self) -> Self {
            if self > 0.0 { 1.0 } else if self < 0.0 { -1.0 } else { self }
        }
    })* };
    (integer $($t:ident, $abs:ident, $sign:ident;)*) => { $(impl Number for $t {
        const ZERO: Self = 0;
        const ONE: Self = 1;
        const INTEGER: bool = true;
        fn read(tensor: &Tensor) -> Result<Cow<'_, [Self]>, String> {
            if tensor.dtype() == Self::DTYPE {
                return Ok(tensor.raw());
            }
            Ok(integers(tensor)?.iter().map(|&v| v as Self).collect())
        }
        fn write(dtype: DType, shape: Vec<usize>, values: Vec<Self>) -> Tensor {
            if dtype == Self::DTYPE {
                return Tensor::from_vec(shape, values);
            }
            Tensor::from_i64(dtype, shape, values.into_iter().map(|v| v as i64).collect::<Vec<_>>())
        }
        fn from_f64(value: f64) -> Self {
            value as Self
        }
        fn to_f64(self) -> f64 {
            self as f64
        }
        fn plus(self, other: Self) -> Self {
            self.wrapping_add(other)
        }
        fn minus(self, other: Self) -> Self {
            self.wrapping_sub(other)
        }
        fn times(self, other: Self) -> Self {
            self.wrapping_mul(other)
        }
        fn over(self, other: Self) -> Self {
            if other == 0 { 0 } else { self.wrapping_div(other) }
        }
        fn remainder(self, other: Self) -> Self {
            if other == 0 { 0 } else { self.wrapping_rem(other) }
        }
        fn magnitude(self) -> Self {
            self.$abs()
        }
        fn sign(self) -> Self {
            self.$sign()
        }
    })* };
}
number!(float f32 f64);
number! { integer
    i64, wrapping_abs, signum;
    u64, itself, one_or_zero;
}
/// What unsigned integers have instead of magnitude and sign.
trait Unsigned {
    fn itself(self) -> Self;
    fn one_or_zero(self) -> Self;
}
impl Unsigned for u64 {
    fn itself(self) -> Self {
        self
    }
    fn one_or_zero(self) -> Self {
        self.min(1)
    }
}

/// Evaluates the expression, a `Result<_, String>`, with `$T` as the [`Number`] of elements of type `$dtype`.
macro_rules! by_number {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            orrery_numerics::DType::F64 => {
                type $T = f64;
                $body
            }
            #[allow(clippy::absurd_extreme_comparisons, reason = "the same holds for numbers with a sign")]
            orrery_numerics::DType::U64 => {
                type $T = u64;
                $body
            }
            dtype if dtype.is_float() => {
                type $T = f32;
                $body
            }
            dtype if dtype.is_int() || dtype == orrery_numerics::DType::Bool => {
                type $T = i64;
                $body
            }
            dtype => Err(format!("elements of type {dtype} are no real numbers")),
        }
    };
}
pub(crate) use by_number;
