//! Attributes of nodes.

use crate::Type;
use orrery_numerics::DType;
use std::collections::BTreeMap;

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Attr {
    /// An integer; flags are 0 or 1.
    Int(i64),
    /// A number.
    Float(f64),
    /// A string.
    Str(String),
    /// An element type.
    DType(DType),
    /// A type.
    Type(Type),
    /// Integers.
    Ints(Vec<i64>),
    /// Numbers.
    Floats(Vec<f64>),
    /// Strings.
    Strs(Vec<String>),
}

/// What kind of value an attribute takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttrKind {
    /// [`Attr::Int`].
    Int,
    /// [`Attr::Float`].
    Float,
    /// [`Attr::Str`].
    Str,
    /// [`Attr::DType`].
    DType,
    /// [`Attr::Type`].
    Type,
    /// [`Attr::Ints`].
    Ints,
    /// [`Attr::Floats`].
    Floats,
    /// [`Attr::Strs`].
    Strs,
}

impl Attr {
    /// The kind of this value.
    pub fn kind(&self) -> AttrKind {
        match self {
            Self::Int(_) => AttrKind::Int,
            Self::Float(_) => AttrKind::Float,
            Self::Str(_) => AttrKind::Str,
            Self::DType(_) => AttrKind::DType,
            Self::Type(_) => AttrKind::Type,
            Self::Ints(_) => AttrKind::Ints,
            Self::Floats(_) => AttrKind::Floats,
            Self::Strs(_) => AttrKind::Strs,
        }
    }
}

/// The attributes of a node by name. An absent one has the default that the op table states.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attrs(BTreeMap<String, Attr>);

impl Attrs {
    /// None at all.
    pub fn new() -> Self {
        Self::default()
    }
    /// With one more.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Attr>) -> Self {
        self.set(name, value);
        self
    }
    /// Sets one.
    pub fn set(&mut self, name: &str, value: impl Into<Attr>) {
        self.0.insert(name.to_owned(), value.into());
    }
    /// Takes one out.
    pub fn remove(&mut self, name: &str) -> Option<Attr> {
        self.0.remove(name)
    }
    /// The value, where given.
    pub fn get(&self, name: &str) -> Option<&Attr> {
        self.0.get(name)
    }
    /// All in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Attr)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
    /// True where there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// An integer, or none where absent or of another kind.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.get(name) {
            Some(Attr::Int(value)) => Some(*value),
            _ => None,
        }
    }
    /// An integer or a default.
    pub fn int_or(&self, name: &str, default: i64) -> i64 {
        self.int(name).unwrap_or(default)
    }
    /// A flag; absent is false.
    pub fn flag(&self, name: &str) -> bool {
        self.int_or(name, 0) != 0
    }
    /// A number, or none; integers count.
    pub fn float(&self, name: &str) -> Option<f64> {
        match self.get(name) {
            Some(Attr::Float(value)) => Some(*value),
            Some(Attr::Int(value)) => Some(*value as f64),
            _ => None,
        }
    }
    /// A number or a default.
    pub fn float_or(&self, name: &str, default: f64) -> f64 {
        self.float(name).unwrap_or(default)
    }
    /// A string, or none.
    pub fn str(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Some(Attr::Str(value)) => Some(value),
            _ => None,
        }
    }
    /// A string or a default.
    pub fn str_or<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        self.str(name).unwrap_or(default)
    }
    /// Integers, or none.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.get(name) {
            Some(Attr::Ints(value)) => Some(value),
            _ => None,
        }
    }
    /// Numbers, or none.
    pub fn floats(&self, name: &str) -> Option<&[f64]> {
        match self.get(name) {
            Some(Attr::Floats(value)) => Some(value),
            _ => None,
        }
    }
    /// Strings, or none.
    pub fn strs(&self, name: &str) -> Option<&[String]> {
        match self.get(name) {
            Some(Attr::Strs(value)) => Some(value),
            _ => None,
        }
    }
    /// An element type, or none.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        match self.get(name) {
            Some(Attr::DType(value)) => Some(*value),
            _ => None,
        }
    }
    /// A type, or none.
    pub fn ty(&self, name: &str) -> Option<&Type> {
        match self.get(name) {
            Some(Attr::Type(value)) => Some(value),
            _ => None,
        }
    }
}

macro_rules! from {
    ($($t:ty => $v:ident),*) => { $(impl From<$t> for Attr { fn from(value: $t) -> Self { Self::$v(value.into()) } })* };
}
from!(i64 => Int, f64 => Float, &str => Str, String => Str, DType => DType, Type => Type, Vec<i64> => Ints,
    Vec<f64> => Floats, Vec<String> => Strs);
impl From<bool> for Attr {
    fn from(value: bool) -> Self {
        Self::Int(i64::from(value))
    }
}
