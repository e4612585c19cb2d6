//! A tensor: element type, shape, and bytes or strings.

use crate::DType;
use bytes::Bytes;
use std::borrow::Cow;
use std::sync::Arc;

/// Where the elements are. Cloning shares them.
#[derive(Clone, PartialEq, Eq)]
pub enum Data {
    /// Host storage as [`DType`] describes it; may be a slice of a memory-mapped file, at any alignment.
    Bytes(Bytes),
    /// Strings, for [`DType::Str`].
    Strings(Arc<[String]>),
}

/// A dense tensor in row-major order. Invariant: the data holds exactly the product of `shape` elements.
#[derive(Clone, PartialEq, Eq)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Data,
}

/// The data do not hold as many elements as the shape says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{dtype}{shape:?} needs {expected} bytes, got {got}")]
pub struct SizeMismatch {
    /// Element type.
    pub dtype: DType,
    /// Shape asked for.
    pub shape: Vec<usize>,
    /// Bytes (or strings) that it needs; `u64::MAX` where the product overflows.
    pub expected: u64,
    /// Bytes (or strings) given.
    pub got: u64,
}

/// Rust types that are a [`DType`] on the host.
pub trait Element: bytemuck::Pod + PartialOrd + Send + Sync {
    /// The tensor type it stores.
    const DTYPE: DType;
}
macro_rules! element {
    ($($t:ty => $d:ident),*) => { $(impl Element for $t { const DTYPE: DType = DType::$d; })* };
}
element!(f64 => F64, f32 => F32, half::f16 => F16, half::bf16 => BF16, i64 => I64, i32 => I32, i16 => I16,
    i8 => I8, u64 => U64, u32 => U32, u16 => U16, u8 => U8);

impl Tensor {
    /// A tensor over bytes in host storage.
    ///
    /// # Errors
    /// Where the bytes are not as many as dtype and shape need.
    pub fn from_bytes(dtype: DType, shape: Vec<usize>, bytes: Bytes) -> Result<Self, SizeMismatch> {
        let expected = checked_count(&shape).and_then(|n| n.checked_mul(dtype.host_bytes() as u64));
        if dtype == DType::Str || expected != Some(bytes.len() as u64) {
            return Err(SizeMismatch {
                dtype,
                shape,
                expected: expected.unwrap_or(u64::MAX),
                got: bytes.len() as u64,
            });
        }
        Ok(Self { dtype, shape, data: Data::Bytes(bytes) })
    }
    /// A tensor of Rust values. Panics where their number is not the product of the shape: the caller's fault.
    pub fn from_vec<T: Element>(shape: Vec<usize>, values: Vec<T>) -> Self {
        Self::from_raw(T::DTYPE, shape, values)
    }
    /// A bool tensor. Panics as [`Tensor::from_vec`].
    pub fn from_bools(shape: Vec<usize>, values: impl IntoIterator<Item = bool>) -> Self {
        Self::from_raw(DType::Bool, shape, values.into_iter().map(u8::from).collect())
    }
    /// A string tensor. Panics as [`Tensor::from_vec`].
    pub fn from_strings(shape: Vec<usize>, values: Vec<String>) -> Self {
        assert_eq!(checked_count(&shape), Some(values.len() as u64), "strings fill the shape {shape:?}");
        Self { dtype: DType::Str, shape, data: Data::Strings(values.into()) }
    }
    /// A tensor whose storage units are `T`, of a type that Rust has no name for: `u16` bits as [`DType::CB16`],
    /// `f32` pairs as [`DType::C64`]. Panics where the sizes do not fit.
    pub fn from_raw<T: bytemuck::Pod + Send + Sync>(dtype: DType, shape: Vec<usize>, values: Vec<T>) -> Self {
        struct Owner<T>(Vec<T>);
        impl<T: bytemuck::Pod> AsRef<[u8]> for Owner<T> {
            fn as_ref(&self) -> &[u8] {
                bytemuck::cast_slice(&self.0)
            }
        }
        let bytes = if values.is_empty() { Bytes::new() } else { Bytes::from_owner(Owner(values)) };
        match Self::from_bytes(dtype, shape, bytes) {
            Ok(tensor) => tensor,
            Err(mismatch) => panic!("{mismatch}"),
        }
    }
    /// A scalar.
    pub fn scalar<T: Element>(value: T) -> Self {
        Self::from_vec(Vec::new(), vec![value])
    }
    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// Extents, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// True where some extent is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The data, shared.
    pub fn data(&self) -> &Data {
        &self.data
    }
    /// Host bytes; empty for strings.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Bytes(bytes) => bytes,
            Data::Strings(_) => &[],
        }
    }
    /// Strings; empty for other types.
    pub fn strings(&self) -> &[String] {
        match &self.data {
            Data::Bytes(_) => &[],
            Data::Strings(strings) => strings,
        }
    }
    /// The storage as units of `T`, borrowed where it is aligned, copied where it is not (a mapped file).
    /// Panics where the storage is no whole number of `T`.
    pub fn raw<T: bytemuck::Pod>(&self) -> Cow<'_, [T]> {
        match bytemuck::try_cast_slice(self.bytes()) {
            Ok(slice) => Cow::Borrowed(slice),
            Err(_) => Cow::Owned(bytemuck::allocation::pod_collect_to_vec(self.bytes())),
        }
    }
    /// The elements as `T`, or none where that is not the type.
    pub fn values<T: Element>(&self) -> Option<Cow<'_, [T]>> {
        (self.dtype == T::DTYPE).then(|| self.raw())
    }
    /// The same elements in another shape. Panics where the number of elements differs.
    #[must_use]
    pub fn reshaped(&self, shape: Vec<usize>) -> Self {
        assert_eq!(
            checked_count(&shape),
            Some(self.len() as u64),
            "{:?} holds as many as {shape:?}",
            self.shape
        );
        Self { shape, ..self.clone() }
    }
}

/// Product of the extents, or none where it overflows.
pub fn checked_count(shape: &[usize]) -> Option<u64> {
    shape.iter().try_fold(1_u64, |n, &d| n.checked_mul(d as u64))
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)
    }
}
