//! Types of values: `TypeProto` and back.

use super::dtype::{dtype_of, number_of};
use super::proto::tensor_shape_proto::{Dimension, dimension};
use super::proto::{TensorShapeProto, TypeProto, type_proto};
use orrery_base::{Diagnostic, Result};
use orrery_ir::{Dim, TensorType, Type};
use orrery_numerics::DType;

/// More elements than this in one tensor is a mistake in the file, not a model.
const MOST_ELEMENTS: i128 = 1 << 48;

/// What exporters write as the name of an extent that they know nothing of: no two of these need be equal.
const NAMELESS: [&str; 4] = ["", "?", "-1", "None"];

/// Reads a type. An extent without number or name becomes a symbol of its own: `OWNER.dimN`.
///
/// # Errors
/// `onnx-type` for types that are not tensors, sequences or optionals; `onnx-shape` for negative and absurd extents.
pub(super) fn read_type(proto: &TypeProto, owner: &str) -> Result<Type> {
    let inner = |of: &Option<Box<TypeProto>>| match of {
        Some(of) => read_type(of, owner).map(Box::new),
        None => Ok(Box::new(Type::Unknown)),
    };
    match &proto.value {
        Some(type_proto::Value::TensorType(tensor)) => {
            let Some(dtype) = dtype_of(tensor.elem_type.unwrap_or(0).into())? else {
                return Ok(Type::Unknown);
            };
            let shape = tensor.shape.as_ref().map(|shape| read_shape(shape, dtype, owner)).transpose()?;
            Ok(Type::Tensor(TensorType { dtype, shape }))
        }
        Some(type_proto::Value::SequenceType(of)) => inner(&of.elem_type).map(Type::Sequence),
        Some(type_proto::Value::OptionalType(of)) => inner(&of.elem_type).map(Type::Optional),
        Some(type_proto::Value::MapType(_)) => unsupported("map", owner),
        Some(type_proto::Value::SparseTensorType(_)) => unsupported("sparse tensor", owner),
        Some(type_proto::Value::OpaqueType(_)) => unsupported("opaque", owner),
        None => Ok(Type::Unknown),
    }
}

fn unsupported(kind: &str, owner: &str) -> Result<Type> {
    Diagnostic::error(
        "onnx-type",
        format!("`{owner}` is a {kind}; only tensors, sequences and optionals are handled"),
    )
    .err()
}

fn read_shape(shape: &TensorShapeProto, dtype: DType, owner: &str) -> Result<Vec<Dim>> {
    let mut dims = Vec::with_capacity(shape.dim.len());
    for (number, dim) in shape.dim.iter().enumerate() {
        dims.push(match &dim.value {
            Some(dimension::Value::DimValue(extent)) if *extent < -1 => {
                return Diagnostic::error("onnx-shape", format!("extent {number} of `{owner}` is {extent}"))
                    .help("an extent that is not known is written as a name, or left out")
                    .err();
            }
            // Some exporters write -1 where nothing is known.
            Some(dimension::Value::DimValue(extent)) if *extent >= 0 => Dim::Known(*extent),
            Some(dimension::Value::DimParam(name)) if !NAMELESS.contains(&name.as_str()) => Dim::symbol(name),
            _ => Dim::symbol(&format!("{owner}.dim{number}")),
        });
    }
    let known: Vec<i64> = dims.iter().filter_map(Dim::known).collect();
    check_size(dtype, &known, owner)?;
    Ok(dims)
}

/// Checks that a tensor of these extents can exist.
///
/// # Errors
/// `onnx-shape` for more elements than any model has.
pub(super) fn check_size(dtype: DType, extents: &[i64], owner: &str) -> Result<()> {
    // Beside a zero the others count too: their product is taken on the way.
    let count = extents.iter().filter(|extent| **extent != 0).try_fold(1_i128, |n, &extent| {
        let n = n * i128::from(extent);
        (n <= MOST_ELEMENTS).then_some(n)
    });
    match count {
        Some(_) => Ok(()),
        None => Diagnostic::error(
            "onnx-shape",
            format!("`{owner}` is {dtype}{extents:?}: more elements than any memory holds"),
        )
        .err(),
    }
}

/// Writes a type; none where nothing is known.
///
/// # Errors
/// `onnx-export` for element types that ONNX has not.
pub(super) fn write_type(ty: &Type) -> Result<Option<TypeProto>> {
    let boxed = |of: &Type| write_type(of).map(|ty| ty.map(Box::new));
    let value = match ty {
        Type::Unknown => return Ok(None),
        Type::Tensor(tensor) => type_proto::Value::TensorType(type_proto::Tensor {
            elem_type: Some(number_of(tensor.dtype)?),
            shape: tensor
                .shape
                .as_ref()
                .map(|dims| TensorShapeProto { dim: dims.iter().map(write_dim).collect() }),
        }),
        Type::Sequence(of) => {
            type_proto::Value::SequenceType(Box::new(type_proto::Sequence { elem_type: boxed(of)? }))
        }
        Type::Optional(of) => {
            type_proto::Value::OptionalType(Box::new(type_proto::Optional { elem_type: boxed(of)? }))
        }
    };
    Ok(Some(TypeProto { denotation: None, value: Some(value) }))
}

/// A number, or the text of the symbol or formula.
fn write_dim(dim: &Dim) -> Dimension {
    let value = match (dim.known(), dim.as_symbol()) {
        (Some(n), _) => dimension::Value::DimValue(n),
        (None, Some(symbol)) => dimension::Value::DimParam(symbol.to_owned()),
        (None, None) => dimension::Value::DimParam(dim.to_string()),
    };
    Dimension { denotation: None, value: Some(value) }
}
