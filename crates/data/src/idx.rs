//! IDX, the format of MNIST's own files: a magic number, extents, and elements, big end first.

use crate::files;
use bytes::Bytes;
use orrery_base::diagnostic::Context;
use orrery_base::{Diagnostic, Result};
use orrery_numerics::tensor::checked_count;
use orrery_numerics::{DType, Tensor};
use std::path::Path;

/// The array of a file, packed by gzip or not; a slice of the mapped file where elements are single bytes.
///
/// # Errors
/// `file-read`; `data-format` where it is no IDX file; `data-truncated` where it is shorter than its extents say;
/// `data-too-large` where no memory could hold them.
pub(crate) fn open(path: &Path) -> Result<Tensor> {
    files::read(path).and_then(|bytes| read(&bytes).at(|| path.display().to_string()))
}

/// Whether bytes begin as an IDX file does.
pub(crate) fn is_idx(bytes: &[u8]) -> bool {
    matches!(bytes, [0, 0, kind, rank, ..] if element(*kind).is_some() && *rank > 0)
}

fn element(kind: u8) -> Option<DType> {
    Some(match kind {
        0x08 => DType::U8,
        0x09 => DType::I8,
        0x0b => DType::I16,
        0x0c => DType::I32,
        0x0d => DType::F32,
        0x0e => DType::F64,
        _ => return None,
    })
}

fn read(bytes: &Bytes) -> Result<Tensor> {
    let (dtype, rank) = match bytes.get(..4) {
        Some([0, 0, kind, rank]) if element(*kind).is_some() => (element(*kind), usize::from(*rank)),
        start => {
            return Diagnostic::error("data-format", format!("an IDX file does not begin with {start:02x?}"))
                .help("the first bytes are 00 00, the element type (08 for bytes), and the number of axes")
                .err();
        }
    };
    let dtype = dtype.expect("matched above");
    let Some(extents) = bytes.get(4..4 + 4 * rank) else {
        return short(bytes.len() as u64, 4 + 4 * rank as u64);
    };
    let shape: Vec<usize> =
        extents.chunks_exact(4).map(|e| u32::from_be_bytes([e[0], e[1], e[2], e[3]]) as usize).collect();
    let wanted = checked_count(&shape).and_then(|n| n.checked_mul(dtype.host_bytes() as u64));
    let Some(wanted) = wanted.filter(|n| *n <= 1 << 40) else {
        return Diagnostic::error("data-too-large", format!("an array of shape {shape:?} cannot be held"))
            .err();
    };
    let elements = bytes.slice(4 + 4 * rank..);
    if (elements.len() as u64) < wanted {
        return short(elements.len() as u64, wanted);
    }
    let mut elements = elements.slice(..wanted as usize);
    if dtype.host_bytes() > 1 {
        let mut turned = elements.to_vec();
        turned.chunks_exact_mut(dtype.host_bytes()).for_each(<[u8]>::reverse);
        elements = turned.into();
    }
    Ok(Tensor::from_bytes(dtype, shape, elements).expect("as many bytes as the shape needs"))
}

fn short<T>(got: u64, wanted: u64) -> Result<T> {
    Diagnostic::error("data-truncated", format!("the file ends after {got} of {wanted} bytes"))
        .help("the file was cut short: copy it again")
        .err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Scratch;

    #[test]
    fn arrays_are_read_packed_or_not() {
        let scratch = Scratch::new("idx");
        let bytes = [&[0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3][..], &[1, 2, 3, 4, 5, 6]].concat();
        for path in [scratch.file("a", &bytes), scratch.packed("a.gz", &bytes)] {
            let tensor = open(&path).unwrap();
            assert_eq!((tensor.dtype(), tensor.shape()), (DType::U8, &[2, 3][..]));
            assert_eq!(tensor.bytes(), [1, 2, 3, 4, 5, 6]);
        }
        let wide = [&[0, 0, 0x0c, 1, 0, 0, 0, 1][..], &[0, 0, 1, 2]].concat();
        assert_eq!(open(&scratch.file("w", &wide)).unwrap().values::<i32>().unwrap().as_ref(), [258]);
    }

    #[test]
    fn bad_files_are_told_apart() {
        let scratch = Scratch::new("bad-idx");
        let code = |bytes: &[u8]| open(&scratch.file("x", bytes)).unwrap_err().code;
        assert_eq!(code(b""), "data-format");
        assert_eq!(code(b"\x00\x01\x08\x01"), "data-format");
        assert_eq!(code(&[0, 0, 8, 3, 0, 0]), "data-truncated");
        assert_eq!(code(&[0, 0, 8, 1, 0, 0, 0, 9, 1, 2]), "data-truncated");
        assert_eq!(code(&[&[0, 0, 8, 4][..], &[0xff; 16]].concat()), "data-too-large");
    }
}
