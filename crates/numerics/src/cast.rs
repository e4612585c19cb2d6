//! The elementwise cast between types, as ONNX `Cast` defines it.

use crate::convert::integers;
use crate::{DType, Format, Rounding, Tensor};
use orrery_base::Diagnostic;

/// Why elements are not of the type asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CastError {
    /// A number is asked for where there are strings or complex numbers.
    #[error("elements of type {from} are no real numbers")]
    NotNumbers {
        /// Type of the elements.
        from: DType,
    },
    /// No rule leads from one type to the other.
    #[error("no cast leads from {from} to {to}")]
    Unsupported {
        /// Type of the elements.
        from: DType,
        /// Type asked for.
        to: DType,
    },
    /// A string does not read as a number.
    #[error("element {index}, the string {text:?}, is no number that {to} can hold")]
    NotANumber {
        /// Flat index of the element.
        index: usize,
        /// The string.
        text: String,
        /// Type asked for.
        to: DType,
    },
}

impl From<CastError> for Box<Diagnostic> {
    fn from(error: CastError) -> Self {
        let code = match error {
            CastError::NotNumbers { .. } => "tensor-not-numbers",
            CastError::Unsupported { .. } => "tensor-cast",
            CastError::NotANumber { .. } => "tensor-string-number",
        };
        Self::new(Diagnostic::error(code, error.to_string()))
    }
}

/// The elements of `tensor` as `dtype`.
///
/// - To floats: one rounding with `rounding`, at the element's flat index; out of range infinite. `saturate` holds
///   types of at most eight bits at their largest number instead, as [`Format::encode`] says, and is without effect
///   on wider types. The `round_mode` of ONNX, for e8m0 only, is [`Rounding::AwayFromZero`] for `up` (its default),
///   [`Rounding::TowardZero`] for `down`, [`Rounding::NearestAway`] for `nearest`.
/// - Floats to integers: truncated toward zero. Out of range ONNX leaves the result open: here it is the nearest end
///   of the range, and 0 for NaN.
/// - Integers to narrower integers: the low bits.
/// - To bool: false for zeros, true for all else, NaN among it. From bool: 0 and 1.
/// - Numbers to strings: the shortest decimal that reads back as the same number of that type, plain from 1e-5 up to
///   1e16 and scientific outside; `NaN`, `INF`, `-INF`; bool as `0` and `1`.
/// - Strings to numbers: plain and scientific decimals, `NaN`, `INF`, `+INF` and `-INF` in any case, spaces around
///   them ignored; to integers through truncation where they have a fraction; to bool also `true` and `false`.
///
/// # Errors
/// Where a string is no number, and between complex and other types.
pub fn cast(tensor: &Tensor, dtype: DType, rounding: Rounding, saturate: bool) -> Result<Tensor, CastError> {
    let from = tensor.dtype();
    if from == dtype {
        return Ok(tensor.clone());
    }
    if from.is_complex() || dtype.is_complex() {
        return Err(CastError::Unsupported { from, to: dtype });
    }
    let shape = tensor.shape().to_vec();
    let saturate = saturate && dtype.bits() <= 8;
    if dtype == DType::Str {
        return Ok(Tensor::from_strings(shape, to_strings(tensor)?));
    }
    if from == DType::Str {
        return from_strings(tensor, dtype, rounding, saturate);
    }
    if from == DType::F64 {
        return Ok(Tensor::from_f64(dtype, shape, tensor.to_f64()?, rounding, saturate));
    }
    if from.is_float() {
        return Ok(Tensor::from_f32(dtype, shape, tensor.to_f32()?, rounding, saturate));
    }
    let values = tensor.to_i64()?;
    if !dtype.is_float() {
        return Ok(integers(dtype, shape, values.iter().copied()));
    }
    let signed = from != DType::U64;
    let scaled = values.iter().map(|&v| if signed { (v < 0, v.unsigned_abs()) } else { (false, v as u64) });
    Ok(Tensor::floats_from_integers(dtype, shape, scaled, rounding, saturate))
}

fn to_strings(tensor: &Tensor) -> Result<Vec<String>, CastError> {
    let from = tensor.dtype();
    Ok(match Format::of(from) {
        None if from == DType::U64 => tensor.to_i64()?.iter().map(|&v| (v as u64).to_string()).collect(),
        None => tensor.to_i64()?.iter().map(ToString::to_string).collect(),
        Some(format) => tensor.to_f64()?.iter().map(|&v| shortest(v, format)).collect(),
    })
}

/// The shortest decimal that reads back as `value` in `format`.
fn shortest(value: f64, format: Format) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "INF" } else { "-INF" }.into();
    }
    // 17 digits tell any two binary64 apart.
    let scientific = (0..17)
        .map(|digits| format!("{value:.digits$e}"))
        .find(|text| text.parse().is_ok_and(|v: f64| format.nearest(v) == value))
        .unwrap_or_else(|| format!("{value:e}"));
    if value == 0.0 || (1e-5..1e16).contains(&value.abs()) {
        // Digits past the shortest ones are zero: the shortest decimal itself, as binary64, prints them plainly.
        scientific.parse::<f64>().map_or(scientific, |v| v.to_string())
    } else {
        scientific
    }
}

fn from_strings(
    tensor: &Tensor,
    dtype: DType,
    rounding: Rounding,
    saturate: bool,
) -> Result<Tensor, CastError> {
    let shape = tensor.shape().to_vec();
    let strings = tensor.strings();
    let all = |parse: &dyn Fn(&str) -> Option<f64>| parse_all(strings, dtype, parse);
    Ok(match dtype {
        DType::F32 if rounding == Rounding::NearestEven => {
            // Read as binary32 at once: by way of binary64 it could be rounded twice.
            Tensor::from_vec(shape, parse_all(strings, dtype, |text| text.parse::<f32>().ok())?)
        }
        DType::Bool => Tensor::from_f64(dtype, shape, all(&parse_bool)?, rounding, saturate),
        DType::U64 => Tensor::from_vec(shape, parse_all(strings, dtype, parse_integer::<u64>)?),
        _ if dtype.is_int() => {
            integers(dtype, shape, parse_all(strings, dtype, parse_integer::<i64>)?.into_iter())
        }
        _ => Tensor::from_f64(dtype, shape, all(&|text| text.parse().ok())?, rounding, saturate),
    })
}

fn parse_all<T>(
    strings: &[String],
    to: DType,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, CastError> {
    let parsed = strings.iter().enumerate().map(|(index, text)| {
        parse(text.trim()).ok_or_else(|| CastError::NotANumber { index, text: text.clone(), to })
    });
    parsed.collect()
}

fn parse_bool(text: &str) -> Option<f64> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Some(1.0),
        "false" => Some(0.0),
        number => number.parse().ok(),
    }
}

/// An integer, or a decimal fraction without it, within the range of `T`.
fn parse_integer<T: std::str::FromStr + TryFrom<i128>>(text: &str) -> Option<T> {
    if let Ok(value) = text.parse() {
        return Some(value);
    }
    let value: f64 = text.parse().ok()?;
    value.is_finite().then(|| T::try_from(value as i128).ok())?
}
