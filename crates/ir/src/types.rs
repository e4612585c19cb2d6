//! Types of values: tensors with symbolic shapes, sequences, optionals.

use crate::{Bindings, Dim};
use orrery_numerics::DType;
use std::fmt;

/// Element type and, where known, shape.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first; none where even the rank is unknown.
    pub shape: Option<Vec<Dim>>,
}

/// Type of a value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Type {
    /// A tensor.
    Tensor(TensorType),
    /// A list of values of one type.
    Sequence(Box<Type>),
    /// A value or nothing.
    Optional(Box<Type>),
    /// Nothing is known: a body's output before inference.
    Unknown,
}

impl TensorType {
    /// A tensor of known rank.
    pub fn new(dtype: DType, shape: impl IntoIterator<Item = impl Into<Dim>>) -> Self {
        Self { dtype, shape: Some(shape.into_iter().map(Into::into).collect()) }
    }
    /// A tensor of unknown rank.
    pub fn unranked(dtype: DType) -> Self {
        Self { dtype, shape: None }
    }
    /// Number of elements, where the rank is known.
    pub fn elements(&self) -> Option<Dim> {
        self.shape.as_ref().map(|shape| shape.iter().cloned().product())
    }
    /// All extents as numbers, where they are.
    pub fn extents(&self) -> Option<Vec<usize>> {
        self.shape.as_ref()?.iter().map(Dim::extent).collect()
    }
}

impl Type {
    /// A tensor type of known rank.
    pub fn tensor(dtype: DType, shape: impl IntoIterator<Item = impl Into<Dim>>) -> Self {
        Self::Tensor(TensorType::new(dtype, shape))
    }
    /// The tensor type, where it is one.
    pub fn as_tensor(&self) -> Option<&TensorType> {
        match self {
            Self::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }
    /// Puts numbers in for symbols.
    #[must_use]
    pub fn bind(&self, bindings: &Bindings) -> Self {
        self.map_dims(&|dim| dim.bind(bindings))
    }
    /// Changes every extent.
    #[must_use]
    pub fn map_dims(&self, change: &dyn Fn(&Dim) -> Dim) -> Self {
        match self {
            Self::Tensor(t) => Self::Tensor(TensorType {
                dtype: t.dtype,
                shape: t.shape.as_ref().map(|s| s.iter().map(change).collect()),
            }),
            Self::Sequence(of) => Self::Sequence(Box::new(of.map_dims(change))),
            Self::Optional(of) => Self::Optional(Box::new(of.map_dims(change))),
            Self::Unknown => Self::Unknown,
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.dtype)?;
        let Some(shape) = &self.shape else { return f.write_str("[..]") };
        f.write_str("[")?;
        for (i, dim) in shape.iter().enumerate() {
            write!(f, "{}{dim}", if i > 0 { ", " } else { "" })?;
        }
        f.write_str("]")
    }
}
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor(tensor) => write!(f, "{tensor}"),
            Self::Sequence(of) => write!(f, "sequence<{of}>"),
            Self::Optional(of) => write!(f, "optional<{of}>"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}
impl fmt::Debug for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
impl fmt::Debug for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
