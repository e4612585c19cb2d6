//! Element types by their ONNX numbers.

use super::proto::tensor_proto::DataType;
use orrery_base::{Diagnostic, Result};
use orrery_numerics::DType;

const PAIRS: [(DataType, DType); 26] = [
    (DataType::Float, DType::F32),
    (DataType::Uint8, DType::U8),
    (DataType::Int8, DType::I8),
    (DataType::Uint16, DType::U16),
    (DataType::Int16, DType::I16),
    (DataType::Int32, DType::I32),
    (DataType::Int64, DType::I64),
    (DataType::String, DType::Str),
    (DataType::Bool, DType::Bool),
    (DataType::Float16, DType::F16),
    (DataType::Double, DType::F64),
    (DataType::Uint32, DType::U32),
    (DataType::Uint64, DType::U64),
    (DataType::Complex64, DType::C64),
    (DataType::Complex128, DType::C128),
    (DataType::Bfloat16, DType::BF16),
    (DataType::Float8e4m3fn, DType::F8E4M3FN),
    (DataType::Float8e4m3fnuz, DType::F8E4M3FNUZ),
    (DataType::Float8e5m2, DType::F8E5M2),
    (DataType::Float8e5m2fnuz, DType::F8E5M2FNUZ),
    (DataType::Uint4, DType::U4),
    (DataType::Int4, DType::I4),
    (DataType::Float4e2m1, DType::F4E2M1),
    (DataType::Float8e8m0, DType::F8E8M0),
    (DataType::Uint2, DType::U2),
    (DataType::Int2, DType::I2),
];

/// The type of an ONNX number; none for 0, which says nothing.
///
/// # Errors
/// `onnx-type` for numbers that no version up to the newest defines.
pub(super) fn dtype_of(number: i64) -> Result<Option<DType>> {
    if number == 0 {
        return Ok(None);
    }
    match PAIRS.iter().find(|(onnx, _)| i64::from(*onnx as i32) == number) {
        Some((_, dtype)) => Ok(Some(*dtype)),
        None => Diagnostic::error("onnx-type", format!("element type {number} is not one that ONNX defines"))
            .err(),
    }
}

/// The ONNX number of a type.
///
/// # Errors
/// `onnx-export` for types that ONNX has not.
pub(super) fn number_of(dtype: DType) -> Result<i32> {
    match PAIRS.iter().find(|(_, ours)| *ours == dtype) {
        Some((onnx, _)) => Ok(*onnx as i32),
        None => Diagnostic::error("onnx-export", format!("ONNX has no element type {dtype}")).err(),
    }
}

/// The type of a name as the first version of Cast wrote it: `FLOAT`.
///
/// # Errors
/// `onnx-type` for a name that is none.
pub(super) fn dtype_named(name: &str) -> Result<DType> {
    let named = DataType::from_str_name(name).map(|onnx| dtype_of(i64::from(onnx as i32)));
    match named {
        Some(Ok(Some(dtype))) => Ok(dtype),
        _ => Diagnostic::error("onnx-type", format!("`{name}` names no element type")).err(),
    }
}
