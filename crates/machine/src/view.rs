//! Views: structs of plain numbers whose fields, keys and documentation are written once.

use crate::keys::Shape;
use crate::parameter::{Parameter, TileShape, Value};
use std::collections::BTreeMap;

/// A type a field of a view can have. Reading happens after the checks, so it cannot fail for a required key.
pub(crate) trait Field: Sized {
    const SHAPE: Shape;
    const REQUIRED: bool;
    fn read(parameter: Option<&Parameter>) -> Option<Self>;
}

impl Field for f64 {
    const SHAPE: Shape = Shape::Number;
    const REQUIRED: bool = true;
    fn read(parameter: Option<&Parameter>) -> Option<Self> {
        parameter?.number()
    }
}
impl Field for u64 {
    const SHAPE: Shape = Shape::Integer;
    const REQUIRED: bool = true;
    fn read(parameter: Option<&Parameter>) -> Option<Self> {
        Some(parameter?.number()? as Self)
    }
}
impl Field for Vec<TileShape> {
    const SHAPE: Shape = Shape::TileShapes;
    const REQUIRED: bool = true;
    fn read(parameter: Option<&Parameter>) -> Option<Self> {
        match &parameter?.value {
            Value::Shapes(shapes) => Some(shapes.clone()),
            Value::Number(_) => None,
        }
    }
}
impl<T: Field> Field for Option<T> {
    const SHAPE: Shape = T::SHAPE;
    const REQUIRED: bool = false;
    fn read(parameter: Option<&Parameter>) -> Option<Self> {
        Some(T::read(parameter))
    }
}

/// Reads one field of a view from checked parameters.
pub(crate) fn field<T: Field>(parameters: &BTreeMap<String, Parameter>, name: &str) -> T {
    T::read(parameters.get(name)).expect("required parameters were checked to be there with their shape")
}

/// Defines a view: its struct, its table of keys, and how it is read from checked parameters.
macro_rules! view {
    ($(#[$meta:meta])* pub struct $Name:ident { $($(#[doc = $doc:literal])+ $field:ident: $type:ty = $unit:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $Name {
            $($(#[doc = $doc])+ #[doc = concat!("\n\nUnit: ", $unit, ".")] pub $field: $type,)+
        }
        impl $Name {
            /// The keys in files, in the order of the fields.
            pub const KEYS: &'static [$crate::keys::Key] = &[$($crate::keys::Key {
                name: stringify!($field),
                unit: $unit,
                shape: <$type as $crate::view::Field>::SHAPE,
                required: <$type as $crate::view::Field>::REQUIRED,
                meaning: concat!($($doc),+),
            },)+];
            pub(crate) fn read(
                parameters: &std::collections::BTreeMap<String, $crate::parameter::Parameter>,
            ) -> Self {
                Self { $($field: $crate::view::field(parameters, stringify!($field)),)+ }
            }
        }
    };
}
pub(crate) use view;
