//! Elements of tensors: `TensorProto` and back.
//!
//! Raw data stay slices of the mapped file. Only what the host stores otherwise is copied: typed fields, and types below
//! eight bits, which the file packs and the host keeps one byte each.

use super::dtype::{dtype_of, number_of};
use super::external::External;
use super::proto::tensor_proto::DataLocation;
use super::proto::{SparseTensorProto, TensorProto};
use super::types::check_size;
use bytes::Bytes;
use orrery_base::diagnostic::Context;
use orrery_base::{Diagnostic, Result};
use orrery_numerics::{DType, Tensor, tensor::checked_count};

/// What a `TensorProto` holds.
pub(super) struct Loaded {
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    /// None where the file has no elements for it.
    pub(super) tensor: Option<Tensor>,
}

fn size_error(owner: &str, what: impl std::fmt::Display) -> Box<Diagnostic> {
    Box::new(Diagnostic::error("onnx-tensor-size", format!("tensor `{owner}` {what}")))
}

/// Reads a tensor. `owner` is what it is called in messages.
///
/// # Errors
/// `onnx-type`, `onnx-shape`, `onnx-tensor-size` where the elements are not as many as the shape says, `onnx-text` where
/// strings are not UTF-8, `onnx-external-*`.
pub(super) fn read_tensor(proto: &TensorProto, owner: &str, external: &mut External) -> Result<Loaded> {
    let Some(dtype) = dtype_of(proto.data_type.unwrap_or(0).into())? else {
        return Diagnostic::error("onnx-type", format!("tensor `{owner}` has no element type")).err();
    };
    if let Some(negative) = proto.dims.iter().find(|extent| **extent < 0) {
        return Diagnostic::error("onnx-shape", format!("tensor `{owner}` has the extent {negative}")).err();
    }
    check_size(dtype, &proto.dims, owner)?;
    let shape: Vec<usize> = proto.dims.iter().map(|&extent| extent as usize).collect();
    let count = checked_count(&shape).and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    if proto.segment.is_some() {
        return Err(size_error(owner, "is stored in segments, which are not handled"));
    }
    let raw = if proto.data_location == Some(DataLocation::External as i32) {
        match external.bytes(&proto.external_data).at(|| format!("tensor `{owner}`"))? {
            Some(bytes) => Some(bytes),
            None => return Ok(Loaded { dtype, shape, tensor: None }),
        }
    } else {
        proto.raw_data.clone()
    };
    let tensor = match raw {
        Some(_) if dtype == DType::Str => {
            return Err(size_error(owner, "holds strings as raw data, which ONNX does not allow"));
        }
        Some(bytes) => Some(from_raw(dtype, &shape, count, bytes, owner)?),
        None => from_fields(proto, dtype, &shape, count, owner)?,
    };
    Ok(Loaded { dtype, shape, tensor })
}

fn from_raw(dtype: DType, shape: &[usize], count: usize, bytes: Bytes, owner: &str) -> Result<Tensor> {
    let needed = dtype.machine_bytes(count as u64);
    if bytes.len() as u64 != needed {
        return Err(size_error(
            owner,
            format!("is {dtype}{shape:?}, {needed} bytes, but holds {}", bytes.len()),
        ));
    }
    let bytes = match dtype {
        DType::Bool if bytes.iter().any(|b| *b > 1) => bytes.iter().map(|b| u8::from(*b != 0)).collect(),
        _ if dtype.bits() < 8 => unpack(&bytes, dtype, count).into(),
        _ => bytes,
    };
    Tensor::from_bytes(dtype, shape.to_vec(), bytes).map_err(|e| size_error(owner, e.to_string()))
}

/// One byte an element from elements packed from the low bits up.
fn unpack(packed: &[u8], dtype: DType, count: usize) -> Vec<u8> {
    let bits = dtype.bits() as usize;
    let (each, mask) = (8 / bits, (1_u8 << bits) - 1);
    (0..count).map(|i| (packed[i / each] >> (i % each * bits)) & mask).collect()
}

fn from_fields(
    proto: &TensorProto,
    dtype: DType,
    shape: &[usize],
    count: usize,
    owner: &str,
) -> Result<Option<Tensor>> {
    let fields = [
        proto.float_data.len(),
        proto.int32_data.len(),
        proto.string_data.len(),
        proto.int64_data.len(),
        proto.double_data.len(),
        proto.uint64_data.len(),
    ];
    if count > 0 && fields == [0; 6] {
        return Ok(None);
    }
    let expect = |held: usize, needed: usize| {
        if held == needed {
            return Ok(());
        }
        Err(size_error(owner, format!("is {dtype}{shape:?}, {needed} numbers, but holds {held}")))
    };
    let shape = shape.to_vec();
    let tensor = match dtype {
        DType::F32 | DType::C64 => {
            expect(proto.float_data.len(), if dtype == DType::F32 { count } else { 2 * count })?;
            Tensor::from_raw(dtype, shape, proto.float_data.clone())
        }
        DType::F64 | DType::C128 => {
            expect(proto.double_data.len(), if dtype == DType::F64 { count } else { 2 * count })?;
            Tensor::from_raw(dtype, shape, proto.double_data.clone())
        }
        DType::I64 => {
            expect(proto.int64_data.len(), count)?;
            Tensor::from_vec(shape, proto.int64_data.clone())
        }
        DType::U64 => {
            expect(proto.uint64_data.len(), count)?;
            Tensor::from_vec(shape, proto.uint64_data.clone())
        }
        DType::U32 => {
            expect(proto.uint64_data.len(), count)?;
            let narrow: Option<Vec<u32>> = proto.uint64_data.iter().map(|&v| v.try_into().ok()).collect();
            Tensor::from_vec(shape, narrow.ok_or_else(|| size_error(owner, "holds numbers beyond 32 bits"))?)
        }
        DType::I32 => {
            expect(proto.int32_data.len(), count)?;
            Tensor::from_vec(shape, proto.int32_data.clone())
        }
        DType::Str => {
            expect(proto.string_data.len(), count)?;
            let strings = proto.string_data.iter().map(|s| text(s, owner)).collect::<Result<Vec<_>>>()?;
            Tensor::from_strings(shape, strings)
        }
        _ => {
            let each = (8 / dtype.bits().min(8)) as usize;
            expect(proto.int32_data.len(), count.div_ceil(each))?;
            let bits = dtype.bits().max(8);
            let fits = |v: i32| (-(1_i64 << (bits - 1))..1 << bits).contains(&i64::from(v));
            if let Some(wide) = proto.int32_data.iter().find(|v| !fits(**v)) {
                return Err(size_error(owner, format!("holds {wide}, which has more than {bits} bits")));
            }
            if bits == 16 {
                Tensor::from_raw(dtype, shape, proto.int32_data.iter().map(|&v| v as u16).collect())
            } else {
                let bytes: Bytes = proto.int32_data.iter().map(|&v| v as u8).collect();
                return from_raw(dtype, &shape, count, bytes, owner).map(Some);
            }
        }
    };
    Ok(Some(tensor))
}

/// A string of the file.
///
/// # Errors
/// `onnx-text` where it is not UTF-8.
pub(super) fn text(bytes: &[u8], owner: &str) -> Result<String> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(e) => Diagnostic::error("onnx-text", format!("a string of `{owner}` is not UTF-8: {e}")).err(),
    }
}

/// A sparse tensor that takes more than this once dense is refused: it would have to be made in memory.
const MOST_DENSE_BYTES: usize = 1 << 33;

/// Reads a sparse tensor as a dense one.
///
/// # Errors
/// As [`read_tensor`]; `onnx-sparse` where indices do not fit.
pub(super) fn read_sparse(proto: &SparseTensorProto, owner: &str, external: &mut External) -> Result<Tensor> {
    let wrong = |cause: String| {
        Box::new(Diagnostic::error("onnx-sparse", format!("sparse tensor `{owner}` {cause}")))
    };
    let mut part = |proto: &Option<TensorProto>, what: &str| {
        let proto = proto.as_ref().ok_or_else(|| wrong(format!("has no {what}")))?;
        let loaded = read_tensor(proto, owner, external)?;
        loaded.tensor.ok_or_else(|| wrong(format!("has no {what}")))
    };
    let (values, indices) = (part(&proto.values, "values")?, part(&proto.indices, "indices")?);
    if let Some(negative) = proto.dims.iter().find(|extent| **extent < 0) {
        return Err(wrong(format!("has the extent {negative}")));
    }
    check_size(values.dtype(), &proto.dims, owner)?;
    let shape: Vec<usize> = proto.dims.iter().map(|&extent| extent as usize).collect();
    let count: usize = shape.iter().product();
    let given = indices.values::<i64>().ok_or_else(|| wrong("has indices that are not int64".into()))?;
    let flat: Vec<i64> = match indices.shape() {
        [n] if *n == values.len() => given.to_vec(),
        [n, rank] if *n == values.len() && *rank == shape.len() => given
            .chunks(shape.len().max(1))
            .map(|at| {
                at.iter().zip(&proto.dims).try_fold(0_i64, |flat, (&i, &extent)| {
                    (0..extent).contains(&i).then(|| flat * extent + i)
                })
            })
            .collect::<Option<_>>()
            .ok_or_else(|| wrong("has an index out of range".into()))?,
        other => return Err(wrong(format!("has {} values but indices of shape {other:?}", values.len()))),
    };
    let places = flat
        .into_iter()
        .map(|i| usize::try_from(i).ok().filter(|i| *i < count))
        .collect::<Option<Vec<usize>>>()
        .ok_or_else(|| wrong("has an index out of range".into()))?;
    if values.dtype() == DType::Str {
        if count > MOST_DENSE_BYTES / size_of::<String>() {
            return Err(wrong(format!("would hold {count} strings once dense")));
        }
        let mut dense = vec![String::new(); count];
        for (place, value) in places.into_iter().zip(values.strings()) {
            dense[place].clone_from(value);
        }
        return Ok(Tensor::from_strings(shape, dense));
    }
    let width = values.dtype().host_bytes();
    if count * width > MOST_DENSE_BYTES {
        return Err(wrong(format!("would take {} bytes once dense", count * width)));
    }
    let mut dense = vec![0_u8; count * width];
    for (place, value) in places.into_iter().zip(values.bytes().chunks(width)) {
        dense[place * width..][..width].copy_from_slice(value);
    }
    Tensor::from_bytes(values.dtype(), shape, dense.into()).map_err(|e| size_error(owner, e.to_string()))
}

/// Writes a tensor with its elements as raw data, packed as ONNX packs them.
///
/// # Errors
/// `onnx-export` for element types that ONNX has not.
pub(super) fn write_tensor(name: &str, tensor: &Tensor) -> Result<TensorProto> {
    let mut proto = TensorProto {
        name: (!name.is_empty()).then(|| name.to_owned()),
        data_type: Some(number_of(tensor.dtype())?),
        dims: tensor.shape().iter().map(|&extent| extent as i64).collect(),
        ..TensorProto::default()
    };
    match tensor.data() {
        orrery_numerics::Data::Strings(strings) => {
            proto.string_data = strings.iter().map(|s| Bytes::copy_from_slice(s.as_bytes())).collect();
        }
        orrery_numerics::Data::Bytes(bytes) if tensor.dtype().bits() < 8 => {
            proto.raw_data = Some(pack(bytes, tensor.dtype()).into());
        }
        orrery_numerics::Data::Bytes(bytes) => proto.raw_data = Some(bytes.clone()),
    }
    Ok(proto)
}

fn pack(elements: &[u8], dtype: DType) -> Vec<u8> {
    let bits = dtype.bits() as usize;
    let mask = (1_u8 << bits) - 1;
    elements
        .chunks(8 / bits)
        .map(|group| group.iter().enumerate().fold(0, |byte, (i, v)| byte | (v & mask) << (i * bits)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_is_undone_by_unpacking() {
        for (dtype, values) in [(DType::U4, vec![1, 15, 7]), (DType::I2, vec![3, 0, 1, 2, 3])] {
            let packed = pack(&values, dtype);
            assert_eq!(packed.len() as u64, dtype.machine_bytes(values.len() as u64));
            assert_eq!(unpack(&packed, dtype, values.len()), values);
        }
        assert_eq!(pack(&[1, 15, 7], DType::U4), [0xf1, 0x07]);
    }

    #[test]
    fn half_floats_are_bits_in_int32_fields() {
        let proto = TensorProto {
            dims: vec![2],
            data_type: Some(10),
            int32_data: vec![0x3c00, 0xc000],
            ..TensorProto::default()
        };
        let loaded = read_tensor(&proto, "w", &mut External::default()).unwrap();
        assert_eq!(loaded.tensor.unwrap().to_f32().unwrap().as_ref(), [1.0, -2.0]);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let code =
            |proto: TensorProto| read_tensor(&proto, "w", &mut External::default()).err().map(|d| d.code);
        let proto = TensorProto { dims: vec![3], data_type: Some(1), ..TensorProto::default() };
        assert_eq!(code(proto.clone()), None, "no elements at all: an absent weight");
        assert_eq!(code(TensorProto { float_data: vec![1.0], ..proto.clone() }), Some("onnx-tensor-size"));
        assert_eq!(
            code(TensorProto { raw_data: Some(Bytes::new()), ..proto.clone() }),
            Some("onnx-tensor-size")
        );
        assert_eq!(code(TensorProto { dims: vec![-3], ..proto.clone() }), Some("onnx-shape"));
        assert_eq!(code(TensorProto { dims: vec![1 << 30, 1 << 30], ..proto.clone() }), Some("onnx-shape"));
        assert_eq!(code(TensorProto { data_type: Some(99), ..proto }), Some("onnx-type"));
    }

    #[test]
    fn sparse_tensors_become_dense() {
        let proto = SparseTensorProto {
            values: Some(write_tensor("v", &Tensor::from_vec(vec![2], vec![5_f32, 7.0])).unwrap()),
            indices: Some(write_tensor("i", &Tensor::from_vec(vec![2, 2], vec![0_i64, 1, 1, 0])).unwrap()),
            dims: vec![2, 2],
        };
        let dense = read_sparse(&proto, "s", &mut External::default()).unwrap();
        assert_eq!(dense.values::<f32>().unwrap().as_ref(), [0.0, 5.0, 7.0, 0.0]);
    }
}
