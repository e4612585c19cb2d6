//! Values in files of their own: the `.pb` files beside test models and saved inputs.

use super::external::External;
use super::parse::parse;
use super::proto::{OptionalProto, SequenceProto, TensorProto, optional_proto, sequence_proto};
use super::tensor::read_tensor;
use bytes::Bytes;
use orrery_base::{Diagnostic, Result};
use orrery_ir::Type;
use orrery_ir::op::Datum;

/// Reads a value of the given type: a `TensorProto`, `SequenceProto` or `OptionalProto`. The file does not say which.
///
/// # Errors
/// `onnx-*` where the bytes are no such value.
pub fn read_datum(bytes: &Bytes, ty: &Type) -> Result<Datum> {
    match ty {
        Type::Sequence(_) => sequence(&parse(bytes, "a sequence")?),
        Type::Optional(_) => optional(&parse(bytes, "an optional value")?),
        Type::Tensor(_) | Type::Unknown => tensor(&parse(bytes, "a tensor")?),
    }
}

fn tensor(proto: &TensorProto) -> Result<Datum> {
    match read_tensor(proto, proto.name(), &mut External::default())?.tensor {
        Some(tensor) => Ok(tensor.into()),
        None => Diagnostic::error("onnx-tensor-size", format!("tensor `{}` holds no elements", proto.name()))
            .err(),
    }
}

fn sequence(proto: &SequenceProto) -> Result<Datum> {
    use sequence_proto::DataType;
    let items: Result<Vec<Datum>> = match DataType::try_from(proto.elem_type()) {
        Ok(DataType::Undefined | DataType::Tensor) => proto.tensor_values.iter().map(tensor).collect(),
        Ok(DataType::Sequence) => proto.sequence_values.iter().map(sequence).collect(),
        Ok(DataType::Optional) => proto.optional_values.iter().map(optional).collect(),
        Ok(DataType::SparseTensor | DataType::Map) | Err(_) => unsupported(proto.elem_type()),
    };
    items.map(Datum::Sequence)
}

fn optional(proto: &OptionalProto) -> Result<Datum> {
    use optional_proto::DataType;
    let value = match DataType::try_from(proto.elem_type()) {
        Ok(DataType::Undefined) => None,
        Ok(DataType::Tensor) => proto.tensor_value.as_ref().map(tensor).transpose()?,
        Ok(DataType::Sequence) => proto.sequence_value.as_ref().map(sequence).transpose()?,
        Ok(DataType::Optional) => proto.optional_value.as_ref().map(|of| optional(of)).transpose()?,
        Ok(DataType::SparseTensor | DataType::Map) | Err(_) => return unsupported(proto.elem_type()),
    };
    Ok(Datum::Optional(value.map(Box::new)))
}

fn unsupported<T>(number: i32) -> Result<T> {
    Diagnostic::error(
        "onnx-type",
        format!("values of kind {number} are not handled: only tensors, sequences and optionals"),
    )
    .err()
}
