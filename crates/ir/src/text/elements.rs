//! Elements of constants as text, exact to the bit.

use super::lex::{Cursor, Token};
use crate::weights::hash64;
use orrery_base::Result;
use orrery_numerics::{DType, Format, Rounding, Tensor, tensor::checked_count};

/// A digest of the elements in the order in which they are stored: equal for equal elements, whatever the shape.
pub fn digest(tensor: &Tensor) -> u64 {
    let fold = |digest: u64, bytes: &[u8]| {
        let words = bytes.chunks(8).fold(digest, |digest, chunk| hash64(digest, word(chunk)));
        hash64(words, bytes.len() as u64)
    };
    tensor.strings().iter().fold(fold(0, tensor.bytes()), |digest, text| fold(digest, text.as_bytes()))
}

/// Up to eight little-endian bytes as an integer.
fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| (word << 8) | u64::from(*byte))
}

/// All elements: in brackets and separated by commas, a scalar's alone.
pub(super) fn elements_text(tensor: &Tensor) -> String {
    let dtype = tensor.dtype();
    let items: Vec<String> = match dtype {
        DType::Str => tensor.strings().iter().map(|text| format!("{text:?}")).collect(),
        _ => {
            tensor.bytes().chunks_exact(dtype.host_bytes()).map(|bytes| element_text(dtype, bytes)).collect()
        }
    };
    if tensor.rank() == 0 { items.join("") } else { format!("[{}]", items.join(", ")) }
}

fn element_text(dtype: DType, bytes: &[u8]) -> String {
    if let Some(format) = Format::of(dtype) {
        return float_text(format, word(bytes));
    }
    if let Some(format) = component(dtype) {
        let (real, imaginary) = bytes.split_at(bytes.len() / 2);
        return format!("({}, {})", float_text(format, word(real)), float_text(format, word(imaginary)));
    }
    let code = word(bytes);
    match (dtype, code) {
        (DType::Bool, 0) => "false".into(),
        (DType::Bool, 1) => "true".into(),
        (DType::Bool, _) => bits_text(code),
        _ => {
            let spare = 64 - dtype.bits();
            let value = match dtype.is_signed_int() {
                true => i128::from((code << spare).cast_signed() >> spare),
                false => i128::from((code << spare) >> spare),
            };
            if integer_code(dtype, value) == code { value.to_string() } else { bits_text(code) }
        }
    }
}

/// The format of the two parts of a complex type.
fn component(dtype: DType) -> Option<Format> {
    match dtype {
        DType::C64 => Some(Format::FP32),
        DType::C128 => Some(Format::FP64),
        _ => None,
    }
}

fn bits_text(code: u64) -> String {
    format!("bits({code:#x})")
}

/// How an integer is stored: types below eight bits in the low bits of a byte, the others zero.
fn integer_code(dtype: DType, value: i128) -> u64 {
    (value as u64) & (u64::MAX >> (64 - dtype.bits()))
}

/// The code of a float as text from which [`float`] makes the same code.
pub(super) fn float_text(format: Format, code: u64) -> String {
    let text = if format == Format::FP32 {
        format!("{:?}", f32::from_bits(code as u32))
    } else {
        format!("{:?}", format.decode(code))
    };
    let text = text.replace("NaN", "nan");
    match read(format, &text) {
        Some(again) if again == code => text,
        _ => bits_text(code),
    }
}

/// The code nearest to a decimal; none where the text is no number or has no code.
fn read(format: Format, text: &str) -> Option<u64> {
    let value: f64 = text.parse().ok()?;
    if format == Format::FP32 {
        // By way of binary64 it could be rounded twice.
        let single: f32 = text.parse().ok()?;
        return (single.is_finite() == value.is_finite()).then(|| u64::from(single.to_bits()));
    }
    let code = match value {
        _ if value.is_nan() => format.nan_code()?,
        _ if format == Format::FP64 => value.to_bits(),
        _ => format.encode(value, Rounding::NearestEven, false, 0),
    };
    let decoded = format.decode(code);
    (decoded.is_finite() == value.is_finite() && decoded.is_nan() == value.is_nan()).then_some(code)
}

/// Takes a float and returns its code in `format`, rounded to the nearest where it has none.
pub(super) fn float(cursor: &mut Cursor<'_>, format: Format) -> Result<u64> {
    let start = cursor.offset();
    if cursor.at_name("bits") {
        return bits(cursor, u64::MAX >> (64 - format.bits().next_multiple_of(8)));
    }
    let negative = cursor.take("-")?;
    let sign = if negative { "-" } else { "" };
    let text = match *cursor.peek() {
        Token::Number(digits) if !digits.starts_with("0x") => format!("{sign}{digits}"),
        Token::Name("inf") => format!("{sign}inf"),
        Token::Name("nan") if !negative => "nan".to_owned(),
        _ => return cursor.expected("a number").err(),
    };
    match read(format, &text) {
        Some(code) => cursor.advance().map(|_| code),
        None if text.ends_with(['f', 'n']) => {
            cursor.error_at(start, format!("{} has no `{text}`", format.name)).err()
        }
        None => cursor.error_at(start, format!("{text} is out of range of {}", format.name)).err(),
    }
}

/// `bits(0x…)`.
fn bits(cursor: &mut Cursor<'_>, most: u64) -> Result<u64> {
    cursor.expect_name("bits")?;
    cursor.expect("(")?;
    let code = cursor.integer("the stored bits as an integer", 0, most.into())?;
    cursor.expect(")")?;
    Ok(u64::try_from(code).expect("in the range asked for"))
}

/// Takes elements as [`elements_text`] prints them.
pub(super) fn elements(cursor: &mut Cursor<'_>, dtype: DType, shape: Vec<usize>) -> Result<Tensor> {
    let start = cursor.offset();
    let mut data = Elements::default();
    if shape.is_empty() {
        data.take(cursor, dtype)?;
    } else {
        cursor.expect("[")?;
        cursor.list("]", |cursor| data.take(cursor, dtype))?;
    }
    if checked_count(&shape) != Some(data.count) {
        let cause = format!("{dtype}{shape:?} does not hold {} elements", data.count);
        return cursor.diagnostic_at(start, "text-elements", cause).err();
    }
    if dtype == DType::Str {
        return Ok(Tensor::from_strings(shape, data.strings));
    }
    Tensor::from_bytes(dtype, shape, data.bytes.into())
        .map_err(|mismatch| Box::new(cursor.diagnostic_at(start, "text-elements", mismatch.to_string())))
}

#[derive(Default)]
struct Elements {
    count: u64,
    bytes: Vec<u8>,
    strings: Vec<String>,
}

impl Elements {
    fn take(&mut self, cursor: &mut Cursor<'_>, dtype: DType) -> Result<()> {
        self.count += 1;
        if dtype == DType::Str {
            self.strings.push(cursor.string_value("a string")?);
        } else if let Some(format) = component(dtype) {
            cursor.expect("(")?;
            self.push(float(cursor, format)?, dtype.host_bytes() / 2);
            cursor.expect(",")?;
            self.push(float(cursor, format)?, dtype.host_bytes() / 2);
            cursor.expect(")")?;
        } else {
            let code = element(cursor, dtype)?;
            self.push(code, dtype.host_bytes());
        }
        Ok(())
    }
    fn push(&mut self, code: u64, bytes: usize) {
        self.bytes.extend_from_slice(&code.to_le_bytes()[..bytes]);
    }
}

fn element(cursor: &mut Cursor<'_>, dtype: DType) -> Result<u64> {
    if let Some(format) = Format::of(dtype) {
        return float(cursor, format);
    }
    if cursor.at_name("bits") {
        return bits(cursor, u64::MAX >> (64 - 8 * dtype.host_bytes()));
    }
    if dtype == DType::Bool {
        return match cursor.take_name("true")? {
            true => Ok(1),
            false => cursor.expect_name("false").map(|()| 0),
        };
    }
    let (least, most) = dtype.int_range();
    Ok(integer_code(dtype, cursor.integer("an integer", least, most)?))
}

#[cfg(test)]
mod tests {
    use super::super::parts::all;
    use super::*;

    #[test]
    fn every_code_of_every_narrow_type_comes_back() {
        for dtype in DType::ALL.into_iter().filter(|t| (1..=16).contains(&t.bits())) {
            let size = dtype.host_bytes();
            let codes: Vec<u8> =
                (0..1_u32 << (8 * size)).flat_map(|c| c.to_le_bytes()[..size].to_vec()).collect();
            let tensor = Tensor::from_bytes(dtype, vec![codes.len() / size], codes.into()).unwrap();
            let text = elements_text(&tensor);
            let again = all(&text, |cursor| elements(cursor, dtype, tensor.shape().to_vec())).unwrap();
            assert!(again == tensor, "{dtype}");
            assert!(
                dtype.bits() < 8 || dtype == DType::Bool || text.matches("bits").count() < 2 * 1024,
                "{dtype}"
            );
        }
    }

    #[test]
    fn wide_elements_come_back() {
        let check = |tensor: Tensor, text: &str| {
            assert_eq!(elements_text(&tensor), text);
            let again =
                all(text, |cursor| elements(cursor, tensor.dtype(), tensor.shape().to_vec())).unwrap();
            assert!(again == tensor, "{text}");
        };
        check(
            Tensor::from_vec(vec![4], vec![0.1_f32, -0.0, f32::NEG_INFINITY, f32::from_bits(0x7fc0_0001)]),
            "[0.1, -0.0, -inf, bits(0x7fc00001)]",
        );
        check(
            Tensor::from_vec(vec![2, 1], vec![f64::MIN_POSITIVE, f64::NAN]),
            "[2.2250738585072014e-308, nan]",
        );
        check(
            Tensor::from_vec(vec![2], vec![i64::MIN, i64::MAX]),
            "[-9223372036854775808, 9223372036854775807]",
        );
        check(Tensor::scalar(u64::MAX), "18446744073709551615");
        check(Tensor::from_raw(DType::C64, vec![1], vec![1.5_f32, f32::NAN]), "[(1.5, nan)]");
        check(Tensor::from_raw(DType::C128, vec![], vec![-1.5_f64, 1e-300]), "(-1.5, 1e-300)");
        check(Tensor::from_strings(vec![2], vec!["ä\u{7f}\"".into(), String::new()]), r#"["ä\u{7f}\"", ""]"#);
        check(Tensor::from_bools(vec![0, 7], []), "[]");
    }

    #[test]
    fn elements_that_do_not_fit_are_refused() {
        for (text, dtype, shape) in [
            ("[1, 2]", DType::I64, vec![3]),
            ("[256]", DType::U8, vec![1]),
            ("[8]", DType::I4, vec![1]),
            ("1e5", DType::F16, vec![]),
            ("1e39", DType::F32, vec![]),
            ("inf", DType::F8E4M3FN, vec![]),
            ("nan", DType::F4E2M1, vec![]),
            ("bits(0x100)", DType::Bool, vec![]),
            ("1", DType::Bool, vec![]),
            ("[]", DType::F32, vec![usize::MAX, usize::MAX]),
            ("[1.0]", DType::I32, vec![1]),
            ("0x10", DType::F32, vec![]),
        ] {
            assert!(all(text, |cursor| elements(cursor, dtype, shape.clone())).is_err(), "{text} as {dtype}");
        }
    }

    #[test]
    fn digests_tell_elements_apart() {
        let of = |values: &[f32]| digest(&Tensor::from_vec(vec![values.len()], values.to_vec()));
        assert_eq!(of(&[1.0, 2.0]), of(&[1.0, 2.0]));
        assert_ne!(of(&[1.0, 2.0]), of(&[2.0, 1.0]));
        assert_ne!(of(&[0.0]), of(&[0.0, 0.0]));
        let strings = |values: &[&str]| {
            digest(&Tensor::from_strings(
                vec![values.len()],
                values.iter().map(ToString::to_string).collect(),
            ))
        };
        assert_ne!(strings(&["ab", "c"]), strings(&["a", "bc"]));
    }
}
