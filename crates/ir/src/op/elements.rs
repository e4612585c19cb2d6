//! What the meanings of ops share: sizes, strides, broadcasting, reading and writing elements, moving them about.
//!
//! Kernels are generic over [`Float`] where they compute and over [`Unit`] where they only move, never over every
//! element type: floats below 32 bits are computed in `f32` and rounded once, integers in 64 bits and cut to their
//! width, and what is moved is moved as so many bytes.

use orrery_numerics::{DType, Rounding, Tensor};
use std::borrow::Cow;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Rem, Sub};

/// Most bytes that a tensor may take: sizes beyond it come from a wrong model, not from a large one.
const MOST_BYTES: usize = 1 << 40;
/// What every host has to give, so that it need not be asked.
const ALWAYS_THERE: usize = 1 << 28;

/// Number of elements of a tensor that is about to be made.
///
/// # Errors
/// Where the size overflows, or this host cannot hold it with a copy in 64 bits, as meanings make. An extent of zero
/// makes none of the others bearable.
pub fn element_count(dtype: DType, shape: &[usize]) -> Result<usize, String> {
    let unit = if dtype == DType::Str { size_of::<String>() } else { dtype.host_bytes().max(8) };
    shape
        .iter()
        .try_fold(unit, |bytes, &n| bytes.checked_mul(n.max(1)))
        .filter(|&bytes| bytes <= MOST_BYTES)
        .filter(|&bytes| bytes <= ALWAYS_THERE || Vec::<u8>::new().try_reserve_exact(bytes).is_ok())
        .map(|_| shape.iter().product())
        .ok_or_else(|| format!("a tensor {dtype}{shape:?} is too large to be made"))
}

/// Integers as extents.
///
/// # Errors
/// Where one is negative.
pub fn extents(sizes: &[i64]) -> Result<Vec<usize>, String> {
    sizes
        .iter()
        .map(|&n| usize::try_from(n).map_err(|_| format!("{sizes:?} is no shape: {n} is negative")))
        .collect()
}

/// Row-major strides in elements.
pub fn strides(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1_isize; shape.len()];
    for d in (1..shape.len()).rev() {
        strides[d - 1] = strides[d].wrapping_mul(shape[d].max(1) as isize);
    }
    strides
}

/// Strides that read a tensor of shape `shape` as if it were of the wider shape `out`: zero where it is repeated.
/// `shape` must broadcast to `out`.
pub fn broadcast_strides(shape: &[usize], out: &[usize]) -> Vec<isize> {
    let lead = out.len() - shape.len();
    let own = strides(shape);
    (0..out.len()).map(|d| if d < lead || shape[d - lead] == 1 { 0 } else { own[d - lead] }).collect()
}

/// The shape that all broadcast to.
///
/// # Errors
/// Where two extents differ and neither is one.
pub fn broadcast_shapes(shapes: &[&[usize]]) -> Result<Vec<usize>, String> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![1; rank];
    for shape in shapes {
        let lead = rank - shape.len();
        for (have, &extent) in out[lead..].iter_mut().zip(*shape) {
            if *have == 1 {
                *have = extent;
            } else if extent != 1 && extent != *have {
                let list: Vec<String> = shapes.iter().map(|s| format!("{s:?}")).collect();
                return Err(format!("shapes {} do not broadcast", list.join(", ")));
            }
        }
    }
    Ok(out)
}

/// A walk over all indices of a shape in row-major order with `N` operands of any strides, dimensions merged where
/// all operands allow it.
pub struct Loops<const N: usize> {
    outer: Vec<(usize, [isize; N])>,
    inner: usize,
    steps: [isize; N],
}

impl<const N: usize> Loops<N> {
    /// A walk over `shape`; operand `k` moves by `strides[k][d]` elements for each step in dimension `d`.
    pub fn new(shape: &[usize], strides: [&[isize]; N]) -> Self {
        let mut dims: Vec<(usize, [isize; N])> = Vec::new();
        for (d, &extent) in shape.iter().enumerate() {
            if extent == 1 {
                continue;
            }
            let step: [isize; N] = std::array::from_fn(|k| strides[k][d]);
            match dims.last_mut() {
                Some((before, outer))
                    if (0..N).all(|k| outer[k] == step[k].wrapping_mul(extent as isize)) =>
                {
                    *before *= extent;
                    *outer = step;
                }
                _ => dims.push((extent, step)),
            }
        }
        let (inner, steps) = dims.pop().unwrap_or((1, [0; N]));
        Self { outer: dims, inner, steps }
    }
    /// Length of a row: the innermost dimension after merging.
    pub fn inner(&self) -> usize {
        self.inner
    }
    /// How far each operand moves along a row.
    pub fn steps(&self) -> [isize; N] {
        self.steps
    }
    /// Calls `row` with each operand's offset at the start of every row.
    pub fn rows(&self, mut row: impl FnMut([isize; N])) {
        if self.inner == 0 || self.outer.iter().any(|(extent, _)| *extent == 0) {
            return;
        }
        let mut index = vec![0_usize; self.outer.len()];
        let mut at = [0_isize; N];
        loop {
            row(at);
            let mut d = self.outer.len();
            loop {
                if d == 0 {
                    return;
                }
                d -= 1;
                let (extent, step) = self.outer[d];
                index[d] += 1;
                if index[d] < extent {
                    (0..N).for_each(|k| at[k] += step[k]);
                    break;
                }
                index[d] = 0;
                (0..N).for_each(|k| at[k] -= step[k] * (extent as isize - 1));
            }
        }
    }
    /// Calls `each` with each operand's offset at every index.
    pub fn each(&self, mut each: impl FnMut([isize; N])) {
        self.rows(|mut at| {
            for _ in 0..self.inner {
                each(at);
                (0..N).for_each(|k| at[k] += self.steps[k]);
            }
        });
    }
}

/// A storage unit that is moved as it is: so many bytes, or a string.
pub trait Unit: Clone + Default + PartialEq + Send + Sync + 'static {
    /// The elements of a tensor whose elements take as many bytes.
    fn of(tensor: &Tensor) -> Cow<'_, [Self]>;
    /// A tensor of such elements.
    fn tensor(dtype: DType, shape: Vec<usize>, elements: Vec<Self>) -> Tensor;
}
macro_rules! unit {
    ($($t:ty),*) => { $(impl Unit for $t {
        fn of(tensor: &Tensor) -> Cow<'_, [Self]> {
            tensor.raw()
        }
        fn tensor(dtype: DType, shape: Vec<usize>, elements: Vec<Self>) -> Tensor {
            Tensor::from_raw(dtype, shape, elements)
        }
    })* };
}
unit!(u8, u16, u32, u64, u128);
impl Unit for String {
    fn of(tensor: &Tensor) -> Cow<'_, [Self]> {
        Cow::Borrowed(tensor.strings())
    }
    fn tensor(_: DType, shape: Vec<usize>, elements: Vec<Self>) -> Tensor {
        Tensor::from_strings(shape, elements)
    }
}

/// Evaluates the expression with `$T` as the [`Unit`] of elements of type `$dtype`.
macro_rules! by_unit {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype.host_bytes() {
            #[allow(
                clippy::clone_on_copy,
                clippy::cloned_instead_of_copied,
                reason = "strings are units too"
            )]
            0 => {
                type $T = String;
                $body
            }
            #[allow(
                clippy::clone_on_copy,
                clippy::cloned_instead_of_copied,
                reason = "strings are units too"
            )]
            1 => {
                type $T = u8;
                $body
            }
            #[allow(
                clippy::clone_on_copy,
                clippy::cloned_instead_of_copied,
                reason = "strings are units too"
            )]
            2 => {
                type $T = u16;
                $body
            }
            #[allow(
                clippy::clone_on_copy,
                clippy::cloned_instead_of_copied,
                reason = "strings are units too"
            )]
            4 => {
                type $T = u32;
                $body
            }
            #[allow(
                clippy::clone_on_copy,
                clippy::cloned_instead_of_copied,
                reason = "strings are units too"
            )]
            8 => {
                type $T = u64;
                $body
            }
            #[allow(
                clippy::clone_on_copy,
                clippy::cloned_instead_of_copied,
                reason = "strings are units too"
            )]
            _ => {
                type $T = u128;
                $body
            }
        }
    };
}
pub(crate) use by_unit;

/// The type that a float type is computed in: `f64` for binary64, `f32` for all others.
pub trait Float:
    Copy
    + Default
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Rem<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + std::iter::Sum
    + std::fmt::Debug
    + Send
    + Sync
    + 'static
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Positive infinity.
    const INFINITY: Self;
    /// Not a number.
    const NAN: Self;
    /// The nearest number.
    fn from_f64(value: f64) -> Self;
    /// The same number.
    fn to_f64(self) -> f64;
    /// Elements of a tensor of any real type.
    ///
    /// # Errors
    /// For strings and complex numbers.
    fn read(tensor: &Tensor) -> Result<Cow<'_, [Self]>, String>;
    /// A tensor of any real type, rounded once; integers are truncated. As many values as the shape says.
    fn tensor(dtype: DType, shape: Vec<usize>, values: Vec<Self>) -> Tensor;
    /// Magnitude.
    fn abs(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// e to its power.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Hyperbolic tangent.
    fn tanh(self) -> Self;
    /// To a power.
    fn powf(self, power: Self) -> Self;
    /// Rounded down.
    fn floor(self) -> Self;
    /// Rounded up.
    fn ceil(self) -> Self;
    /// To the nearest integer, ties to even.
    fn round_even(self) -> Self;
    /// True for NaN.
    fn is_nan(self) -> bool;
    /// The larger; NaN where one is.
    #[must_use]
    fn larger(self, other: Self) -> Self {
        if self > other || self.is_nan() { self } else { other }
    }
    /// The smaller; NaN where one is.
    #[must_use]
    fn smaller(self, other: Self) -> Self {
        if self < other || self.is_nan() { self } else { other }
    }
}
macro_rules! float {
    ($($t:ident, $to:ident, $from:ident;)*) => { $(impl Float for $t {
        const ZERO: Self = 0.0;
        const ONE: Self = 1.0;
        const INFINITY: Self = $t::INFINITY;
        const NAN: Self = $t::NAN;
        fn from_f64(value: f64) -> Self {
            value as Self
        }
        fn to_f64(self) -> f64 {
            self.into()
        }
        fn read(tensor: &Tensor) -> Result<Cow<'_, [Self]>, String> {
            tensor.$to().map_err(|e| e.to_string())
        }
        fn tensor(dtype: DType, shape: Vec<usize>, values: Vec<Self>) -> Tensor {
            Tensor::$from(dtype, shape, values, Rounding::NearestEven, false)
        }
        fn abs(self) -> Self {
            $t::abs(self)
        }
        fn sqrt(self) -> Self {
            $t::sqrt(self)
        }
        fn exp(self) -> Self {
            $t::exp(self)
        }
        fn ln(self) -> Self {
            $t::ln(self)
        }
        fn tanh(self) -> Self {
            $t::tanh(self)
        }
        fn powf(self, power: Self) -> Self {
            $t::powf(self, power)
        }
        fn floor(self) -> Self {
            $t::floor(self)
        }
        fn ceil(self) -> Self {
            $t::ceil(self)
        }
        fn round_even(self) -> Self {
            self.round_ties_even()
        }
        fn is_nan(self) -> bool {
            $t::is_nan(self)
        }
    })* };
}
float! {
    f32, to_f32, from_f32;
    f64, to_f64, from_f64;
}

/// Evaluates the expression with `$T` as the [`Float`] that elements of type `$dtype` are computed in.
/// Integers and bool take `f32`; the expression reports strings and complex numbers when it reads them.
macro_rules! by_float {
    ($dtype:expr, $T:ident => $body:expr) => {
        if $dtype == orrery_numerics::DType::F64 {
            type $T = f64;
            $body
        } else {
            type $T = f32;
            $body
        }
    };
}
pub(crate) use by_float;

/// Elements of an integer or bool tensor in 64 bits; u64 wraps.
///
/// # Errors
/// For other types.
pub fn integers(tensor: &Tensor) -> Result<Cow<'_, [i64]>, String> {
    if !tensor.dtype().is_int() && tensor.dtype() != DType::Bool {
        return Err(format!("integers are needed, got {}", tensor.dtype()));
    }
    tensor.to_i64().map_err(|e| e.to_string())
}

/// The bytes of a bool tensor.
///
/// # Errors
/// For other types.
pub fn bools(tensor: &Tensor) -> Result<&[u8], String> {
    if tensor.dtype() == DType::Bool {
        Ok(tensor.bytes())
    } else {
        Err(format!("a bool tensor is needed, got {}", tensor.dtype()))
    }
}

/// The only element of a tensor of any real type.
///
/// # Errors
/// Where there is none, or it is no real number.
pub fn scalar_f64(tensor: &Tensor) -> Result<f64, String> {
    only_one(tensor)?;
    Ok(tensor.to_f64().map_err(|e| e.to_string())?[0])
}

/// The only element of an integer tensor.
///
/// # Errors
/// As [`scalar_f64`].
pub fn scalar_i64(tensor: &Tensor) -> Result<i64, String> {
    only_one(tensor)?;
    Ok(integers(tensor)?[0])
}

fn only_one(tensor: &Tensor) -> Result<(), String> {
    if tensor.len() == 1 { Ok(()) } else { Err(format!("a single element is needed, got {tensor:?}")) }
}

/// `shape` elements of `source`: the one at index `i` is `source[base + sum(i * strides)]`. Transposition, slices,
/// reversal and repetition are all this. Panics where an offset lies outside of `source`: the caller's fault.
pub fn strided<T: Clone>(source: &[T], shape: &[usize], strides: &[isize], base: isize) -> Vec<T> {
    let mut out = Vec::with_capacity(shape.iter().product());
    let loops = Loops::new(shape, [strides]);
    let (inner, [step]) = (loops.inner(), loops.steps());
    loops.rows(|[at]| {
        let at = (base + at) as usize;
        match step {
            1 => out.extend_from_slice(&source[at..at + inner]),
            0 => out.extend(std::iter::repeat_n(&source[at], inner).cloned()),
            _ => {
                out.extend((0..inner as isize).map(|i| source[(at as isize + i * step) as usize].clone()));
            }
        }
    });
    out
}

/// As [`strided`], on a tensor.
///
/// # Errors
/// Where the result would be too large.
pub fn view(tensor: &Tensor, shape: Vec<usize>, strides: &[isize], base: isize) -> Result<Tensor, String> {
    element_count(tensor.dtype(), &shape)?;
    Ok(by_unit!(tensor.dtype(), T => {
        let elements = strided(&T::of(tensor), &shape, strides, base);
        T::tensor(tensor.dtype(), shape, elements)
    }))
}

/// Output dimension `d` is input dimension `order[d]`. `order` must be a permutation.
pub fn transpose(tensor: &Tensor, order: &[usize]) -> Tensor {
    let own = strides(tensor.shape());
    let shape = order.iter().map(|&d| tensor.shape()[d]).collect();
    let moved: Vec<isize> = order.iter().map(|&d| own[d]).collect();
    view(tensor, shape, &moved, 0).expect("it is as large as the operand")
}

/// Repeats a tensor to a shape that it broadcasts to.
///
/// # Errors
/// Where it does not broadcast to it, or the result would be too large.
pub fn expand(tensor: &Tensor, shape: &[usize]) -> Result<Tensor, String> {
    if broadcast_shapes(&[tensor.shape(), shape])? != shape {
        return Err(format!("shape {:?} does not broadcast to {shape:?}", tensor.shape()));
    }
    if tensor.shape() == shape {
        return Ok(tensor.clone());
    }
    view(tensor, shape.to_vec(), &broadcast_strides(tensor.shape(), shape), 0)
}

/// The box of shape `shape` that starts at `start`. It must lie within the tensor.
pub fn crop(tensor: &Tensor, start: &[usize], shape: &[usize]) -> Tensor {
    let own = strides(tensor.shape());
    let empty = shape.contains(&0);
    let base = start.iter().zip(&own).map(|(&s, &stride)| s as isize * stride).sum();
    view(tensor, shape.to_vec(), &own, if empty { 0 } else { base })
        .expect("it is no larger than the operand")
}

/// Puts tensors of one type behind each other along `axis`, which must be in range.
///
/// # Errors
/// Where there are none, where types, ranks or other extents differ, or the result would be too large.
pub fn concat(tensors: &[&Tensor], axis: usize) -> Result<Tensor, String> {
    let first = tensors.first().ok_or("there is nothing to concatenate")?;
    let mut shape = first.shape().to_vec();
    *shape.get_mut(axis).ok_or("scalars cannot be concatenated")? = 0;
    for tensor in tensors {
        let fits = tensor.dtype() == first.dtype()
            && tensor.rank() == first.rank()
            && (0..shape.len()).all(|d| d == axis || tensor.shape()[d] == shape[d]);
        if !fits {
            return Err(format!("{first:?} and {tensor:?} cannot be concatenated along axis {axis}"));
        }
        shape[axis] = shape[axis].saturating_add(tensor.shape()[axis]);
    }
    let count = element_count(first.dtype(), &shape)?;
    let outer: usize = shape[..axis].iter().product();
    Ok(by_unit!(first.dtype(), T => {
        let parts: Vec<Cow<'_, [T]>> = tensors.iter().map(|t| T::of(t)).collect();
        let mut out = Vec::with_capacity(count);
        for row in 0..outer {
            for part in &parts {
                let run = part.len() / outer;
                out.extend_from_slice(&part[row * run..(row + 1) * run]);
            }
        }
        T::tensor(first.dtype(), shape, out)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn iota(shape: &[usize]) -> Tensor {
        Tensor::from_vec(shape.to_vec(), (0..shape.iter().product::<usize>() as i32).collect())
    }
    fn ints(tensor: &Tensor) -> Vec<i32> {
        tensor.raw::<i32>().into_owned()
    }

    #[test]
    fn moves_elements() {
        let t = iota(&[2, 3]);
        assert_eq!(ints(&transpose(&t, &[1, 0])), [0, 3, 1, 4, 2, 5]);
        assert_eq!(ints(&crop(&t, &[1, 1], &[1, 2])), [4, 5]);
        assert_eq!(ints(&crop(&t, &[2, 3], &[0, 0])), []);
        assert_eq!(ints(&expand(&iota(&[2, 1]), &[2, 2]).unwrap()), [0, 0, 1, 1]);
        assert_eq!(ints(&concat(&[&t, &t], 1).unwrap()), [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]);
        let words = Tensor::from_strings(vec![2], vec!["a".into(), "b".into()]);
        assert_eq!(concat(&[&words, &words], 0).unwrap().strings(), ["a", "b", "a", "b"]);
        assert!(concat(&[&t, &words], 0).is_err());
        assert!(element_count(DType::F32, &[usize::MAX, 2]).is_err());
        assert!(element_count(DType::F32, &[usize::MAX, 0]).is_err());
        assert_eq!(element_count(DType::F32, &[7, 0]), Ok(0));
    }

    #[test]
    fn walks_with_merged_dimensions() {
        let whole = Loops::new(&[2, 3, 4], [&strides(&[2, 3, 4])]);
        assert_eq!(whole.inner(), 24);
        let out = [2, 3, 2];
        let a = broadcast_strides(&[3, 1], &out);
        let mut seen = Vec::new();
        Loops::new(&out, [&a, &strides(&out)]).each(|[a, o]| seen.push((a, o)));
        assert_eq!(seen.len(), 12);
        assert_eq!(seen[..4], [(0, 0), (0, 1), (1, 2), (1, 3)]);
        assert_eq!(seen[11], (2, 11));
        let mut empty = 0;
        Loops::new(&[2, 0], [&[0, 1]]).each(|_| empty += 1);
        Loops::new(&[], [&[]]).each(|_| empty += 1);
        assert_eq!(empty, 1);
    }
}
