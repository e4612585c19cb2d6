//! Elements while a program runs.

use orrery_base::{Diagnostic, Result};
use orrery_ir::op::Combine;
use orrery_numerics::{DType, Format, Rounding, Tensor, round_slice};
use orrery_program::Range;
use std::sync::Arc;

/// A dense array. Floats of 32 bits and fewer are carried as f32 values that lie on their type's grid, so that no step
/// converts; everything else is a tensor.
#[derive(Clone, Debug)]
pub struct Array {
    dtype: DType,
    shape: Vec<usize>,
    elements: Elements,
}

#[derive(Clone, Debug)]
enum Elements {
    Float(Arc<Vec<f32>>),
    Other(Tensor),
}

/// True for types that are carried as f32.
pub(super) fn is_carried(dtype: DType) -> bool {
    dtype.is_float() && dtype != DType::F64
}

impl Array {
    /// From a tensor.
    ///
    /// # Errors
    /// `mapping` for types that no device buffer has.
    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
        let elements = if is_carried(dtype) {
            let values = tensor.to_f32().map_err(|e| Diagnostic::error("mapping", e.to_string()))?;
            Elements::Float(Arc::new(values.into_owned()))
        } else {
            Elements::Other(tensor.clone())
        };
        Ok(Self { dtype, shape, elements })
    }
    /// Floats of a type on whose grid they lie.
    pub fn floats(dtype: DType, shape: Vec<usize>, values: Vec<f32>) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), values.len(), "values fill the shape");
        Self { dtype, shape, elements: Elements::Float(Arc::new(values)) }
    }
    /// Floats rounded to the nearest of a type.
    pub fn rounded(dtype: DType, shape: Vec<usize>, values: Vec<f32>) -> Self {
        Self::floats(DType::F32, shape, values).stored_as(dtype)
    }
    /// All zero.
    pub fn zeros(dtype: DType, shape: Vec<usize>) -> Self {
        let count: usize = shape.iter().product();
        if is_carried(dtype) {
            return Self::floats(dtype, shape, vec![0.0; count]);
        }
        let tensor = Tensor::from_raw(dtype, shape.clone(), vec![0_u8; count * dtype.host_bytes()]);
        Self { dtype, shape, elements: Elements::Other(tensor) }
    }
    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// Extents.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
    /// The elements as f32, where they are carried so.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.elements {
            Elements::Float(values) => Some(values),
            Elements::Other(_) => None,
        }
    }
    /// As a tensor of its type.
    pub fn to_tensor(&self) -> Tensor {
        match &self.elements {
            Elements::Float(values) => Tensor::from_f32(
                self.dtype,
                self.shape.clone(),
                values.as_slice(),
                Rounding::NearestEven,
                false,
            ),
            Elements::Other(tensor) => tensor.clone(),
        }
    }
    /// As a tensor to compute on: f32 where it is carried so.
    pub fn to_operand(&self) -> Tensor {
        match &self.elements {
            Elements::Float(values) => Tensor::from_vec(self.shape.clone(), values.to_vec()),
            Elements::Other(tensor) => tensor.clone(),
        }
    }
    /// In another type that is carried alike, rounded to the nearest; other arrays stay as they are.
    #[must_use]
    pub fn stored_as(self, dtype: DType) -> Self {
        self.round_to(dtype, Rounding::NearestEven, &[0])
    }
    /// As [`Array::stored_as`] with a rounding. For stochastic rounding the elements are cut in as many equal runs as
    /// there are `firsts`, which number the first of each.
    #[must_use]
    pub fn round_to(self, dtype: DType, rounding: Rounding, firsts: &[u64]) -> Self {
        let (Elements::Float(values), Some(format), true) =
            (&self.elements, Format::of(dtype), is_carried(dtype))
        else {
            return self;
        };
        if dtype == self.dtype || dtype == DType::F32 {
            return Self { dtype, ..self };
        }
        let mut values = values.to_vec();
        let run = values.len() / firsts.len().max(1);
        for (values, first) in values.chunks_mut(run.max(1)).zip(firsts) {
            round_slice(values, format, rounding, false, *first);
        }
        Self { dtype, shape: self.shape, elements: Elements::Float(Arc::new(values)) }
    }
    /// In another shape, or none where the number of elements differs.
    pub fn reshaped(self, shape: Vec<usize>) -> Option<Self> {
        if self.shape == shape {
            return Some(self);
        }
        if shape.iter().product::<usize>() != self.shape.iter().product::<usize>() {
            return None;
        }
        let elements = match self.elements {
            Elements::Float(values) => Elements::Float(values),
            Elements::Other(tensor) => Elements::Other(tensor.reshaped(shape.clone())),
        };
        Some(Self { dtype: self.dtype, shape, elements })
    }
    /// True where both are the same elements in memory.
    pub fn is_same(&self, other: &Self) -> bool {
        let together = match (&self.elements, &other.elements) {
            (Elements::Float(a), Elements::Float(b)) => Arc::ptr_eq(a, b),
            (Elements::Other(a), Elements::Other(b)) => a.bytes().as_ptr() == b.bytes().as_ptr(),
            _ => false,
        };
        together && self.dtype == other.dtype && self.shape == other.shape
    }
    /// The elements of one array after the other. None where their types differ or they do not fill the shape.
    pub fn joined(arrays: &[&Self], shape: Vec<usize>) -> Option<Self> {
        let dtype = arrays.first()?.dtype;
        let count: usize = shape.iter().product();
        if arrays.iter().any(|array| array.dtype != dtype) {
            return None;
        }
        if is_carried(dtype) {
            let mut values = Vec::with_capacity(count);
            for array in arrays {
                values.extend_from_slice(array.as_f32()?);
            }
            return (values.len() == count).then(|| Self::floats(dtype, shape, values));
        }
        let mut bytes = Vec::with_capacity(count * dtype.host_bytes());
        for array in arrays {
            let Elements::Other(tensor) = &array.elements else { return None };
            bytes.extend_from_slice(tensor.bytes());
        }
        let fits = bytes.len() == count * dtype.host_bytes();
        fits.then(|| {
            let tensor = Tensor::from_raw(dtype, shape.clone(), bytes);
            Self { dtype, shape, elements: Elements::Other(tensor) }
        })
    }
    /// Copies one behind the other, along a dimension in front of `rank` others.
    pub(super) fn repeated(&self, count: usize, rank: usize) -> Self {
        let lead = vec![1; rank.saturating_sub(self.shape.len())];
        let shape = [&[count][..], &lead, &self.shape].concat();
        Self::joined(&vec![self; count], shape).unwrap_or_else(|| self.clone())
    }
    /// The elements from number `first` on, as many as a shape takes; none where there are fewer.
    pub fn run(&self, first: usize, shape: Vec<usize>) -> Option<Self> {
        let count: usize = shape.iter().product();
        let elements = match &self.elements {
            Elements::Float(values) => Elements::Float(Arc::new(values.get(first..first + count)?.to_vec())),
            Elements::Other(tensor) => {
                let size = self.dtype.host_bytes();
                let bytes = tensor.bytes().get(first * size..(first + count) * size)?;
                Elements::Other(Tensor::from_raw(self.dtype, shape.clone(), bytes.to_vec()))
            }
        };
        Some(Self { dtype: self.dtype, shape, elements })
    }
    /// The elements in a box; what lies outside of the array is `padding`.
    pub fn slice(&self, ranges: &[Range], padding: f64) -> Self {
        let whole = ranges.iter().zip(&self.shape).all(|(r, &e)| r.lo == 0 && r.hi == e as i64);
        if whole {
            return self.clone();
        }
        let shape: Vec<usize> = ranges.iter().map(|r| usize::try_from(r.len()).unwrap_or(0)).collect();
        match &self.elements {
            Elements::Float(values) => {
                let mut out = vec![padding as f32; shape.iter().product()];
                for_rows(ranges, &self.shape, &shape, |from, to, len| {
                    out[to..to + len].copy_from_slice(&values[from..from + len]);
                });
                Self::floats(self.dtype, shape, out)
            }
            Elements::Other(tensor) => {
                let size = self.dtype.host_bytes();
                let mut out = vec![0_u8; shape.iter().product::<usize>() * size];
                let bytes = tensor.bytes();
                for_rows(ranges, &self.shape, &shape, |from, to, len| {
                    out[to * size..(to + len) * size]
                        .copy_from_slice(&bytes[from * size..(from + len) * size]);
                });
                let tensor = Tensor::from_raw(self.dtype, shape.clone(), out);
                Self { dtype: self.dtype, shape, elements: Elements::Other(tensor) }
            }
        }
    }
    /// Each element combined with the one at its place in another array of that shape and type. None for types that no
    /// machine reduces into.
    pub fn combined(&self, other: &Self, how: Combine) -> Option<Self> {
        let (Elements::Float(left), Elements::Float(right)) = (&self.elements, &other.elements) else {
            return None;
        };
        if self.dtype != other.dtype || self.shape != other.shape {
            return None;
        }
        let combine = |(a, b): (&f32, &f32)| match how {
            Combine::Sum => a + b,
            Combine::Max => a.max(*b),
            Combine::Min => a.min(*b),
        };
        let values = left.iter().zip(right.iter()).map(combine).collect();
        Some(Self::rounded(self.dtype, self.shape.clone(), values))
    }
    /// Puts a box of elements in; what lies outside of the array is left out.
    pub fn put(&mut self, ranges: &[Range], from: &Self) {
        let extents = self.shape.clone();
        match (&mut self.elements, &from.elements) {
            (Elements::Float(to), Elements::Float(from_values)) => {
                let to = Arc::make_mut(to);
                for_rows(ranges, &extents, &from.shape, |at, source, len| {
                    to[at..at + len].copy_from_slice(&from_values[source..source + len]);
                });
            }
            (Elements::Other(to), Elements::Other(from_tensor)) => {
                let size = self.dtype.host_bytes();
                let mut bytes = to.bytes().to_vec();
                let source_bytes = from_tensor.bytes();
                for_rows(ranges, &extents, &from.shape, |at, source, len| {
                    bytes[at * size..(at + len) * size]
                        .copy_from_slice(&source_bytes[source * size..(source + len) * size]);
                });
                *to = Tensor::from_raw(self.dtype, extents, bytes);
            }
            _ => {}
        }
    }
}

/// Calls `copy(in the array, in the box, length)` for each run of elements that a box and an array share.
fn for_rows(ranges: &[Range], extents: &[usize], shape: &[usize], mut copy: impl FnMut(usize, usize, usize)) {
    let Some((last, outer)) = ranges.split_last() else { return copy(0, 0, 1) };
    let clip = |r: &Range, extent: usize| (r.lo.max(0), r.hi.min(extent as i64));
    let inner = extents[extents.len() - 1];
    let (lo, hi) = clip(last, inner);
    if hi <= lo {
        return;
    }
    let spans: Vec<(i64, i64)> = outer.iter().zip(extents).map(|(r, &e)| clip(r, e)).collect();
    if spans.iter().any(|(lo, hi)| hi <= lo) {
        return;
    }
    let mut at: Vec<i64> = spans.iter().map(|s| s.0).collect();
    let width = shape[shape.len() - 1];
    loop {
        let (mut from, mut to) = (0, 0);
        for (d, &i) in at.iter().enumerate() {
            from = from * extents[d] + i as usize;
            to = to * shape[d] + (i - ranges[d].lo) as usize;
        }
        copy(from * inner + lo as usize, to * width + (lo - last.lo) as usize, (hi - lo) as usize);
        let mut d = at.len();
        loop {
            if d == 0 {
                return;
            }
            d -= 1;
            at[d] += 1;
            if at[d] < spans[d].1 {
                break;
            }
            at[d] = spans[d].0;
        }
    }
}
