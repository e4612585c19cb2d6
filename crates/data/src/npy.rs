//! Arrays in `.npy` files and in `.npz`, NumPy's archive of them.
//!
//! Types that NumPy has travel as its own, strings as its fixed-width Unicode arrays. Types that it does not have travel
//! as raw bits, one element after another as on the host, in an archive under a name that ends in a colon and the type:
//! `x:bf16` holds u16, `x:f8e4m3fn` and `x:i4` hold u8.

use bytes::Bytes;
use orrery_base::diagnostic::Context;
use orrery_base::{Diagnostic, Result};
use orrery_numerics::{DType, Tensor, map_file, write_file};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// Arrays with more elements are refused: they cannot be meant.
const LARGEST: u64 = 1 << 40;
/// Bytes that every array begins with.
pub(crate) const MAGIC: &[u8] = b"\x93NUMPY";

fn failed(code: &'static str, what: &str, error: &dyn std::fmt::Display) -> Box<Diagnostic> {
    Box::new(Diagnostic::error(code, format!("{what}: {error}")))
}

/// The array of an `.npy` file, a slice of the mapped file where its bytes are as on the host.
///
/// # Errors
/// `file-read` where the file cannot be opened; `npz-read` where it is no array or cut short; `npz-type` and `npz-order`
/// for arrays that no tensor is.
pub fn open(path: &Path) -> Result<Tensor> {
    let bytes = map_file(path)?;
    let mut rest: &[u8] = &bytes;
    let mut read = || {
        let header = Header::read(&mut rest)?;
        match header.dtype() {
            Some((dtype, false)) => {
                let whole = bytes.slice(bytes.len() - rest.len()..);
                let wanted = header.count.saturating_mul(dtype.host_bytes() as u64);
                let data = whole.slice(..short(whole.len() as u64, wanted)?);
                Ok(Tensor::from_bytes(dtype, header.shape, data).expect("as many bytes as the shape needs"))
            }
            _ => header.array(&mut rest),
        }
    };
    read().at(|| path.display().to_string())
}

/// `wanted` where there are as many bytes.
fn short(got: u64, wanted: u64) -> Result<usize> {
    if got < wanted {
        let cause = format!("the array ends after {got} of {wanted} bytes");
        return Diagnostic::error("npz-read", cause).help("the file was cut short: copy it again").err();
    }
    Ok(wanted as usize)
}

/// All arrays of an archive by their names.
///
/// # Errors
/// `npz-read` where it is no archive of arrays; `npz-type` and `npz-order` for arrays that no tensor is.
pub fn read_npz(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    read_all(path).at(|| path.display().to_string())
}

fn read_all(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let file = File::open(path).map_err(|e| failed("npz-read", "the file cannot be opened", &e))?;
    let mut archive =
        ZipArchive::new(BufReader::new(file)).map_err(|e| failed("npz-read", "it is no .npz file", &e))?;
    let mut arrays: BTreeMap<String, Tensor> = BTreeMap::new();
    for number in 0..archive.len() {
        let mut entry =
            archive.by_index(number).map_err(|e| failed("npz-read", "an array cannot be read", &e))?;
        let name = entry.name().map_err(|e| failed("npz-read", "the name of an array cannot be read", &e))?;
        let Some(name) = name.strip_suffix(".npy").map(str::to_owned) else { continue };
        let array = Header::read(&mut entry).and_then(|header| header.array(&mut entry));
        let tensor = array.at(|| format!("array `{name}`"))?;
        let (name, tensor) = typed_by_name(name, tensor);
        arrays.insert(name, tensor);
    }
    Ok(arrays)
}

/// `x:bf16` over u16 is `x` of type bf16.
fn typed_by_name(name: String, tensor: Tensor) -> (String, Tensor) {
    let Some((stem, suffix)) = name.rsplit_once(':') else { return (name, tensor) };
    match DType::parse(suffix).filter(|dtype| carrier(*dtype) == Some(tensor.dtype())) {
        Some(dtype) => {
            let bytes = Bytes::copy_from_slice(tensor.bytes());
            let typed = Tensor::from_bytes(dtype, tensor.shape().to_vec(), bytes)
                .expect("a type and its carrier are of one size");
            (stem.to_owned(), typed)
        }
        None => (name, tensor),
    }
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

/// What stands before the elements of an array.
struct Header {
    /// NumPy's word for the type.
    word: String,
    shape: Vec<usize>,
    /// Elements, at most [`LARGEST`].
    count: u64,
}

impl Header {
    /// Reads the magic word, the version, the length of the text, and the text: a Python dictionary.
    fn read(reader: &mut impl Read) -> Result<Self> {
        let mut fixed = [0_u8; 8];
        let unread = |e: std::io::Error| failed("npz-read", "the header of the array cannot be read", &e);
        reader.read_exact(&mut fixed).map_err(unread)?;
        let wide = match fixed {
            [magic @ .., 1, _] if magic == MAGIC => 2,
            [magic @ .., 2 | 3, _] if magic == MAGIC => 4,
            _ => {
                return Diagnostic::error("npz-read", "it is no array of NumPy, or of a later version").err();
            }
        };
        let mut length = [0_u8; 4];
        reader.read_exact(&mut length[..wide]).map_err(unread)?;
        let mut text = Vec::new();
        let length = u32::from_le_bytes(length);
        reader.take(length.into()).read_to_end(&mut text).map_err(unread)?;
        let text = String::from_utf8_lossy(&text);
        let malformed =
            || Diagnostic::error("npz-read", format!("the header of the array is malformed: {text}"));
        let value = |key: &str| {
            let (_, after) = text.split_once(&format!("'{key}'")).ok_or_else(malformed)?;
            after.trim_start().strip_prefix(':').map(str::trim_start).ok_or_else(malformed)
        };
        let descr = value("descr")?;
        if descr.starts_with('[') {
            return Diagnostic::error("npz-type", "the array has named fields, which no tensor has").err();
        }
        let word = descr.split(['\'', '"']).nth(1).ok_or_else(malformed)?.to_owned();
        let inside = value("shape")?.strip_prefix('(').and_then(|s| Some(s.split_once(')')?.0));
        let extents =
            inside.ok_or_else(malformed)?.split(',').map(str::trim).filter(|extent| !extent.is_empty());
        let shape: Option<Vec<usize>> =
            extents.map(|extent| extent.trim_end_matches('L').parse().ok()).collect();
        let shape = shape.ok_or_else(malformed)?;
        let Some(count) = orrery_numerics::tensor::checked_count(&shape).filter(|n| *n <= LARGEST) else {
            return Diagnostic::error("npz-read", format!("an array of shape {shape:?} cannot be held"))
                .err();
        };
        if value("fortran_order")?.starts_with("True") && shape.len() > 1 {
            return Diagnostic::error("npz-order", "the array lies column by column (Fortran order)")
                .help("save numpy.ascontiguousarray(x) instead")
                .err();
        }
        Ok(Self { word, shape, count })
    }
    /// The element type, and whether its bytes are the other way round; none for strings and unknown types.
    fn dtype(&self) -> Option<(DType, bool)> {
        type_of(&self.word)
    }
    /// The elements that follow.
    fn array(self, reader: &mut impl Read) -> Result<Tensor> {
        let Self { word, shape, count } = self;
        if let Some(letters) = word.get(1..).and_then(|w| w.strip_prefix('U')) {
            let letters: u64 = letters.parse().unwrap_or(0);
            let bytes = read_bytes(reader, count, letters.saturating_mul(4))?;
            return Ok(Tensor::from_strings(
                shape,
                strings(&bytes, count as usize, letters as usize, &word)?,
            ));
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
        Ok(Tensor::from_bytes(dtype, shape, bytes.into()).expect("as many bytes as the shape needs"))
    }
}

fn read_bytes(reader: &mut impl Read, count: u64, each: u64) -> Result<Vec<u8>> {
    let wanted = count.saturating_mul(each);
    let mut bytes = Vec::new();
    reader
        .take(wanted)
        .read_to_end(&mut bytes)
        .map_err(|e| failed("npz-read", "the array cannot be read", &e))?;
    short(bytes.len() as u64, wanted)?;
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

/// Writes arrays into an archive under their names. The file appears whole or not at all.
///
/// # Errors
/// `file-write` where it cannot be written.
pub fn write_npz(path: &Path, arrays: &[(String, Tensor)]) -> Result<()> {
    write_file(path, |out| write_all(out, arrays))
}

fn write_all(out: &mut BufWriter<File>, arrays: &[(String, Tensor)]) -> std::io::Result<()> {
    let mut archive = ZipWriter::new(out);
    for (name, tensor) in arrays {
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
    use crate::files::Scratch;

    /// An array file with this text in its header and these bytes behind it.
    fn file(text: &str, elements: &[u8]) -> Vec<u8> {
        let mut bytes = [MAGIC, &[1, 0], &(text.len() as u16).to_le_bytes(), text.as_bytes()].concat();
        bytes.extend(elements);
        bytes
    }

    #[test]
    fn a_file_is_mapped_or_turned_round() {
        let scratch = Scratch::new("npy");
        let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }\n";
        let bytes = [1.5_f32.to_le_bytes(), 2.5_f32.to_le_bytes()].concat();
        let little = open(&scratch.file("little.npy", &file(text, &bytes))).unwrap();
        let bytes = [1.5_f32.to_be_bytes(), 2.5_f32.to_be_bytes()].concat();
        let big = open(&scratch.file("big.npy", &file(&text.replace('<', ">"), &bytes))).unwrap();
        for tensor in [little, big] {
            assert_eq!(tensor.shape(), [2, 1]);
            assert_eq!(tensor.values::<f32>().unwrap().as_ref(), [1.5, 2.5]);
        }
    }

    #[test]
    fn bad_files_are_told_apart() {
        let scratch = Scratch::new("bad-npy");
        let header = |descr: &str, order: &str, shape: &str| {
            format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}")
        };
        let cases = [
            (header("'<f4'", "False", "(2, 3)"), "npz-read", "ends after 8 of 24 bytes"),
            (header("'<f4'", "False", "(1152921504606846976,)"), "npz-read", "cannot be held"),
            (header("'<f4'", "False", "(1099511627776, 1099511627776)"), "npz-read", "cannot be held"),
            (header("'<f4'", "True", "(1, 2)"), "npz-order", "column by column"),
            (header("[('a', '<f4')]", "False", "(2,)"), "npz-type", "named fields"),
            (header("'|O'", "False", "(2,)"), "npz-type", "`|O`"),
            (header("'<f4'", "False", "(-2,)"), "npz-read", "malformed"),
            ("((((".repeat(1000), "npz-read", "malformed"),
        ];
        for (text, code, cause) in cases {
            let failed = open(&scratch.file("x.npy", &file(&text, &[0; 8]))).unwrap_err();
            assert!(failed.code == code && failed.cause.contains(cause), "{failed}");
        }
        for bytes in [&b""[..], b"\x93NUM", b"no array at all", b"\x93NUMPY\x02\x00\xff\xff\xff\xff{"] {
            assert_eq!(open(&scratch.file("x.npy", bytes)).unwrap_err().code, "npz-read");
        }
        assert_eq!(open(&scratch.path("none.npy")).unwrap_err().code, "file-read");
    }
}
