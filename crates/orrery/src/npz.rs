//! Tensors in `.npz` files, NumPy's archive of arrays.
//!
//! Types that NumPy has travel as its own, strings as its fixed-width Unicode arrays. Types that it does not have travel
//! as raw bits, one element after another as on the host, under a name that ends in a colon and the type: `x:bf16` holds
//! u16, `x:f8e4m3fn` and `x:i4` hold u8. A list `x` travels as its elements `x[0]`, `x[1]`, … and their number `x[]`.

use crate::{DType, Datum, Tensor};
use npyz::{NpyHeader, Order};
use orrery_base::diagnostic::Context;
use orrery_base::{Diagnostic, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// Arrays larger than this are refused: they cannot be meant.
const LARGEST: u64 = 1 << 40;

fn failed(code: &'static str, what: &str, error: &dyn std::fmt::Display) -> Box<Diagnostic> {
    Box::new(Diagnostic::error(code, format!("{what}: {error}")))
}

/// Reads all arrays of a file, in the order of their names, lists put together.
///
/// # Errors
/// `npz-read` where it is no archive of arrays; `npz-type` for arrays of a type that no tensor has.
pub fn read(path: &Path) -> Result<Vec<(String, Datum)>> {
    read_all(path).at(|| path.display().to_string())
}

fn read_all(path: &Path) -> Result<Vec<(String, Datum)>> {
    let file = File::open(path).map_err(|e| failed("npz-read", "the file cannot be opened", &e))?;
    let mut archive =
        ZipArchive::new(BufReader::new(file)).map_err(|e| failed("npz-read", "it is no .npz file", &e))?;
    let mut arrays: BTreeMap<String, Tensor> = BTreeMap::new();
    for number in 0..archive.len() {
        let mut entry =
            archive.by_index(number).map_err(|e| failed("npz-read", "an array cannot be read", &e))?;
        let name = entry.name().map_err(|e| failed("npz-read", "the name of an array cannot be read", &e))?;
        let Some(name) = name.strip_suffix(".npy").map(str::to_owned) else { continue };
        let tensor = read_array(&mut entry).at(|| format!("array `{name}`"))?;
        let (name, tensor) = typed_by_name(name, tensor);
        arrays.insert(name, tensor);
    }
    Ok(put_lists_together(arrays))
}

/// `x:bf16` over u16 is `x` of type bf16.
fn typed_by_name(name: String, tensor: Tensor) -> (String, Tensor) {
    let Some((stem, suffix)) = name.rsplit_once(':') else { return (name, tensor) };
    match DType::parse(suffix).filter(|dtype| carrier(*dtype) == Some(tensor.dtype())) {
        Some(dtype) => {
            let bytes = bytes::Bytes::copy_from_slice(tensor.bytes());
            let typed = Tensor::from_bytes(dtype, tensor.shape().to_vec(), bytes)
                .expect("a type and its carrier are of one size");
            (stem.to_owned(), typed)
        }
        None => (name, tensor),
    }
}

fn put_lists_together(mut arrays: BTreeMap<String, Tensor>) -> Vec<(String, Datum)> {
    let lists: Vec<(String, usize)> = arrays
        .iter()
        .filter_map(|(name, tensor)| {
            let stem = name.strip_suffix("[]")?;
            let count = *tensor.values::<i64>()?.first()?;
            Some((stem.to_owned(), usize::try_from(count).ok().filter(|n| *n <= arrays.len())?))
        })
        .collect();
    let mut all: Vec<(String, Datum)> = Vec::new();
    for (stem, count) in lists {
        let elements: Option<Vec<Datum>> =
            (0..count).map(|i| arrays.get(&format!("{stem}[{i}]")).cloned().map(Datum::from)).collect();
        if let Some(elements) = elements {
            arrays.remove(&format!("{stem}[]"));
            (0..count).for_each(|i| {
                arrays.remove(&format!("{stem}[{i}]"));
            });
            all.push((stem, Datum::Sequence(elements)));
        }
    }
    all.extend(arrays.into_iter().map(|(name, tensor)| (name, tensor.into())));
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// The type under which the bits of a type that NumPy does not have travel.
fn carrier(dtype: DType) -> Option<DType> {
    match dtype {
        DType::BF16 | DType::CB16 => Some(DType::U16),
        DType::F8E4M3FN
        | DType::F8E4M3FNUZ
        | DType::F8E4M3
        | DType::F8E5M2
        | DType::F8E5M2FNUZ
        | DType::F4E2M1
        | DType::F8E8M0
        | DType::I4
        | DType::I2
        | DType::U4
        | DType::U2 => Some(DType::U8),
        _ => None,
    }
}

/// NumPy's word for a type, little end first; none where NumPy does not have it or its width follows from the elements.
fn descriptor(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::F64 => "<f8",
        DType::F32 => "<f4",
        DType::F16 => "<f2",
        DType::I64 => "<i8",
        DType::I32 => "<i4",
        DType::I16 => "<i2",
        DType::I8 => "|i1",
        DType::U64 => "<u8",
        DType::U32 => "<u4",
        DType::U16 => "<u2",
        DType::U8 => "|u1",
        DType::Bool => "|b1",
        DType::C64 => "<c8",
        DType::C128 => "<c16",
        _ => return None,
    })
}

fn read_array(reader: &mut impl Read) -> Result<Tensor> {
    let header = NpyHeader::from_reader(&mut *reader)
        .map_err(|e| failed("npz-read", "the header of the array cannot be read", &e))?;
    let npyz::DType::Plain(plain) = header.dtype() else {
        return Diagnostic::error("npz-type", "the array has named fields, which no tensor has").err();
    };
    let word = plain.to_string();
    let shape: Option<Vec<usize>> = header.shape().iter().map(|&n| usize::try_from(n).ok()).collect();
    let count = header.shape().iter().try_fold(1_u64, |n, &extent| n.checked_mul(extent));
    let (Some(shape), Some(count)) = (shape, count.filter(|n| *n <= LARGEST)) else {
        return Diagnostic::error(
            "npz-read",
            format!("an array of shape {:?} cannot be held", header.shape()),
        )
        .err();
    };
    if header.order() == Order::Fortran && shape.len() > 1 {
        return Diagnostic::error("npz-order", "the array lies column by column (Fortran order)")
            .help("save numpy.ascontiguousarray(x) instead")
            .err();
    }
    if let Some(letters) = word.get(1..).and_then(|w| w.strip_prefix('U')) {
        let letters: u64 = letters.parse().unwrap_or(0);
        let bytes = read_bytes(reader, count, letters.saturating_mul(4))?;
        return Ok(Tensor::from_strings(shape, strings(&bytes, count as usize, letters as usize, &word)?));
    }
    let Some((dtype, swapped)) = type_of(&word) else {
        return Diagnostic::error("npz-type", format!("arrays of NumPy type `{word}` are no tensors"))
            .help("convert it with x.astype(...) first")
            .err();
    };
    let mut bytes = read_bytes(reader, count, dtype.host_bytes() as u64)?;
    if swapped {
        let unit = if dtype.is_complex() { dtype.host_bytes() / 2 } else { dtype.host_bytes() };
        bytes.chunks_exact_mut(unit).for_each(<[u8]>::reverse);
    }
    Tensor::from_bytes(dtype, shape, bytes.into())
        .map_err(|e| failed("npz-read", "the array is cut short", &e))
}

fn read_bytes(reader: &mut impl Read, count: u64, each: u64) -> Result<Vec<u8>> {
    let wanted = count.saturating_mul(each);
    let mut bytes = Vec::new();
    reader
        .take(wanted)
        .read_to_end(&mut bytes)
        .map_err(|e| failed("npz-read", "the array cannot be read", &e))?;
    if bytes.len() as u64 != wanted {
        let cause = format!("the array ends after {} of {wanted} bytes", bytes.len());
        return Diagnostic::error("npz-read", cause).err();
    }
    Ok(bytes)
}

/// The type of NumPy's word, and whether its bytes are the other way round.
fn type_of(word: &str) -> Option<(DType, bool)> {
    let all = DType::ALL.into_iter().filter_map(|dtype| Some((dtype, descriptor(dtype)?)));
    let (dtype, _) = all.into_iter().find(|(_, d)| d.get(1..) == word.get(1..))?;
    Some((dtype, word.starts_with('>') && dtype.host_bytes() > 1))
}

/// Strings of a fixed number of UTF-32 letters, padded with zeros.
fn strings(bytes: &[u8], count: usize, letters: usize, word: &str) -> Result<Vec<String>> {
    let letter = |four: &[u8]| {
        let four = [four[0], four[1], four[2], four[3]];
        if word.starts_with('>') { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }
    };
    if letters == 0 {
        return Ok(vec![String::new(); count]);
    }
    let one = |cell: &[u8]| -> Option<String> {
        let codes: Vec<u32> = cell.chunks_exact(4).map(letter).collect();
        let end = codes.iter().rposition(|code| *code != 0).map_or(0, |last| last + 1);
        codes[..end].iter().map(|code| char::from_u32(*code)).collect()
    };
    bytes
        .chunks_exact(4 * letters)
        .map(one)
        .collect::<Option<Vec<String>>>()
        .ok_or_else(|| Box::new(Diagnostic::error("npz-read", "a string of the array is not Unicode")))
}

/// Writes arrays under their names. The file appears whole or not at all.
///
/// # Errors
/// `file-write` where it cannot be written.
pub fn write(path: &Path, arrays: &[(String, Datum)]) -> Result<()> {
    let partial = path.with_extension("npz.partial");
    let written = write_all(&partial, arrays).and_then(|()| std::fs::rename(&partial, path));
    written.map_err(|error| {
        // What was begun is of no use; that it cannot be removed would not change the message.
        let _ = std::fs::remove_file(&partial);
        Box::new(
            Diagnostic::error("file-write", format!("the file cannot be written: {error}"))
                .at(path.display().to_string()),
        )
    })
}

fn write_all(path: &Path, arrays: &[(String, Datum)]) -> std::io::Result<()> {
    let mut archive = ZipWriter::new(BufWriter::new(File::create(path)?));
    let mut flat = Vec::new();
    for (name, datum) in arrays {
        flatten(name, datum, &mut flat);
    }
    for (name, tensor) in &flat {
        let (name, word) = match (descriptor(tensor.dtype()), carrier(tensor.dtype())) {
            (Some(word), _) => (name.clone(), word.to_owned()),
            (None, Some(bits)) => {
                (format!("{name}:{}", tensor.dtype()), descriptor(bits).unwrap_or("|u1").to_owned())
            }
            (None, None) => (name.clone(), format!("<U{}", longest(tensor))),
        };
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .large_file(tensor.bytes().len() as u64 > u64::from(u32::MAX) / 2);
        archive.start_file(format!("{name}.npy"), options)?;
        archive.write_all(&header(&word, tensor.shape()))?;
        if tensor.dtype() == DType::Str {
            archive.write_all(&fixed_width(tensor))?;
        } else {
            archive.write_all(tensor.bytes())?;
        }
    }
    archive.finish()?.flush()
}

fn flatten(name: &str, datum: &Datum, into: &mut Vec<(String, Tensor)>) {
    match datum {
        Datum::Tensor(tensor) => into.push((name.to_owned(), tensor.clone())),
        Datum::Optional(Some(inner)) => flatten(name, inner, into),
        Datum::Optional(None) => {}
        Datum::Sequence(elements) => {
            into.push((format!("{name}[]"), Tensor::scalar(elements.len() as i64)));
            for (i, element) in elements.iter().enumerate() {
                flatten(&format!("{name}[{i}]"), element, into);
            }
        }
    }
}

fn longest(tensor: &Tensor) -> usize {
    tensor.strings().iter().map(|s| s.chars().count()).max().unwrap_or(0).max(1)
}

fn fixed_width(tensor: &Tensor) -> Vec<u8> {
    let width = longest(tensor);
    let padded = |text: &String| -> Vec<u8> {
        let codes = text.chars().map(u32::from).chain(std::iter::repeat(0)).take(width);
        codes.flat_map(u32::to_le_bytes).collect()
    };
    tensor.strings().iter().flat_map(padded).collect()
}

/// The header of version 1.0, padded so that the elements start at a multiple of 64.
fn header(word: &str, shape: &[usize]) -> Vec<u8> {
    let extents: String = shape.iter().map(|n| format!("{n}, ")).collect();
    let mut text = format!(
        "{{'descr': '{word}', 'fortran_order': False, 'shape': ({}), }}",
        extents.trim_end_matches(' ')
    );
    let unpadded = 10 + text.len() + 1;
    text.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(64) - unpadded));
    text.push('\n');
    let length = u16::try_from(text.len()).expect("a shape of few dimensions");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(length.to_le_bytes());
    bytes.extend(text.bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_goes_there_and_back() {
        let folder = std::env::temp_dir().join(format!("orrery-npz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("all.npz");
        let mut arrays: Vec<(String, Datum)> = Vec::new();
        for dtype in DType::ALL.into_iter().filter(|t| *t != DType::Str) {
            let bytes: Vec<u8> = (0..6 * dtype.host_bytes()).map(|i| (i % 2) as u8).collect();
            let tensor = Tensor::from_bytes(dtype, vec![2, 3], bytes.into()).unwrap();
            arrays.push((format!("a/{dtype}"), tensor.into()));
        }
        let words = ["", "ä", "three"].map(str::to_owned).to_vec();
        arrays.push(("strings".into(), Tensor::from_strings(vec![3], words).into()));
        arrays.push(("empty".into(), Tensor::from_vec::<f32>(vec![0, 2], Vec::new()).into()));
        arrays.push(("scalar".into(), Tensor::scalar(1.5_f64).into()));
        let list = [1_i32, 2].map(|v| Datum::from(Tensor::from_vec(vec![1], vec![v]))).to_vec();
        arrays.push(("list".into(), Datum::Sequence(list)));
        arrays.push(("nothing".into(), Datum::Sequence(Vec::new())));
        arrays.push(("tensor:0".into(), Tensor::scalar(7_u8).into()));
        arrays.sort_by(|a, b| a.0.cmp(&b.0));
        write(&path, &arrays).unwrap();
        assert_eq!(format!("{:?}", read(&path).unwrap()), format!("{arrays:?}"));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn other_files_are_refused() {
        let path = std::env::temp_dir().join(format!("orrery-no-npz-{}.npz", std::process::id()));
        std::fs::write(&path, b"no archive").unwrap();
        assert_eq!(read(&path).unwrap_err().code, "npz-read");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read(&path).unwrap_err().code, "npz-read");
    }
}
