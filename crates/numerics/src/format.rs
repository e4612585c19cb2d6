//! Binary number formats as plain data, and the limits that follow from the data.
//!
//! A format is at most as wide as binary64, so that every value of every format is an `f64` exactly.

use crate::DType;

/// What a format does with the codes at the ends of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// The highest exponent holds infinities and NaNs, as IEEE 754 has it.
    Ieee,
    /// No infinities; NaN is all ones under either sign (OCP `fn`).
    FiniteNan,
    /// No infinities and no negative zero, whose code is the only NaN (`fnuz`).
    FiniteNanUnsignedZero,
    /// Every code is a finite number.
    Finite,
    /// No sign, no zero and no mantissa: a power of two; NaN is all ones (OCP e8m0).
    PowerOfTwo,
}

/// A binary floating-point format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Format {
    /// Name in files and tables.
    pub name: &'static str,
    /// Bits of the exponent field.
    pub exponent_bits: u32,
    /// Bits of the mantissa field; the leading one is not stored.
    pub mantissa_bits: u32,
    /// Exponent field of 1.0.
    pub bias: i32,
    /// Meaning of the extreme codes.
    pub flavour: Flavour,
}

const fn format(
    name: &'static str,
    exponent_bits: u32,
    mantissa_bits: u32,
    bias: i32,
    flavour: Flavour,
) -> Format {
    Format { name, exponent_bits, mantissa_bits, bias, flavour }
}

impl Format {
    /// IEEE binary64.
    pub const FP64: Self = format("fp64", 11, 52, 1023, Flavour::Ieee);
    /// IEEE binary32.
    pub const FP32: Self = format("fp32", 8, 23, 127, Flavour::Ieee);
    /// TensorFloat-32: what the matrix units of A100 and H100 read of a binary32. Stored as binary32.
    pub const TF32: Self = format("tf32", 8, 10, 127, Flavour::Ieee);
    /// IEEE binary16.
    pub const FP16: Self = format("fp16", 5, 10, 15, Flavour::Ieee);
    /// bfloat16.
    pub const BF16: Self = format("bf16", 8, 7, 127, Flavour::Ieee);
    /// cbfloat16 of Cerebras. Subnormals, infinities and NaN as in IEEE formats are assumed, no source says.
    pub const CB16: Self = format("cb16", 6, 9, 31, Flavour::Ieee);
    /// fp8 e4m3 of OCP and H100, maximum 448.
    pub const E4M3FN: Self = format("e4m3fn", 4, 3, 7, Flavour::FiniteNan);
    /// fp8 e4m3 with one NaN and one zero, maximum 240.
    pub const E4M3FNUZ: Self = format("e4m3fnuz", 4, 3, 8, Flavour::FiniteNanUnsignedZero);
    /// fp8 e4m3 with infinities, maximum 240 (Gaudi2).
    pub const E4M3: Self = format("e4m3", 4, 3, 7, Flavour::Ieee);
    /// fp8 e5m2, maximum 57344.
    pub const E5M2: Self = format("e5m2", 5, 2, 15, Flavour::Ieee);
    /// fp8 e5m2 with one NaN and one zero.
    pub const E5M2FNUZ: Self = format("e5m2fnuz", 5, 2, 16, Flavour::FiniteNanUnsignedZero);
    /// fp4 e2m1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
    pub const E2M1: Self = format("e2m1", 2, 1, 1, Flavour::Finite);
    /// Power-of-two scale of a microscaling block, 2^-127 to 2^127.
    pub const E8M0: Self = format("e8m0", 8, 0, 127, Flavour::PowerOfTwo);

    /// Every named format, widest first.
    pub const ALL: [Self; 13] = [
        Self::FP64,
        Self::FP32,
        Self::TF32,
        Self::FP16,
        Self::BF16,
        Self::CB16,
        Self::E4M3FN,
        Self::E4M3FNUZ,
        Self::E4M3,
        Self::E5M2,
        Self::E5M2FNUZ,
        Self::E2M1,
        Self::E8M0,
    ];

    /// The format of a floating-point type; none for other types.
    pub const fn of(dtype: DType) -> Option<Self> {
        Some(match dtype {
            DType::F64 => Self::FP64,
            DType::F32 => Self::FP32,
            DType::F16 => Self::FP16,
            DType::BF16 => Self::BF16,
            DType::CB16 => Self::CB16,
            DType::F8E4M3FN => Self::E4M3FN,
            DType::F8E4M3FNUZ => Self::E4M3FNUZ,
            DType::F8E4M3 => Self::E4M3,
            DType::F8E5M2 => Self::E5M2,
            DType::F8E5M2FNUZ => Self::E5M2FNUZ,
            DType::F4E2M1 => Self::E2M1,
            DType::F8E8M0 => Self::E8M0,
            _ => return None,
        })
    }
    /// The type that stores exactly this format; none for tf32, whose values are stored as binary32.
    pub fn dtype(self) -> Option<DType> {
        DType::ALL.into_iter().find(|&t| Self::of(t) == Some(self))
    }
    /// The format of that name, or of the type of that name: `fp16` and `f16` are the same.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.name == name).or_else(|| Self::of(DType::parse(name)?))
    }

    /// Bits of a code: sign, exponent and mantissa.
    pub const fn bits(self) -> u32 {
        self.sign_bits() + self.exponent_bits + self.mantissa_bits
    }
    /// The code of the sign; nothing where the format has none.
    pub const fn sign_code(self) -> u64 {
        (self.sign_bits() as u64) << (self.exponent_bits + self.mantissa_bits)
    }
    /// Code of the largest finite number.
    pub const fn max_code(self) -> u64 {
        let ones = (1 << (self.exponent_bits + self.mantissa_bits)) - 1;
        match self.flavour {
            Flavour::Ieee => self.infinity_field() - 1,
            Flavour::FiniteNan | Flavour::PowerOfTwo => ones - 1,
            Flavour::FiniteNanUnsignedZero | Flavour::Finite => ones,
        }
    }
    /// Code of positive infinity, where the format has one.
    pub const fn infinity_code(self) -> Option<u64> {
        match self.flavour {
            Flavour::Ieee => Some(self.infinity_field()),
            _ => None,
        }
    }
    /// Code of the canonical NaN (positive and quiet, where there is a choice), where the format has one.
    pub const fn nan_code(self) -> Option<u64> {
        match self.flavour {
            Flavour::Ieee => Some(self.infinity_field() | 1 << (self.mantissa_bits - 1)),
            Flavour::FiniteNan | Flavour::PowerOfTwo => Some(self.max_code() + 1),
            Flavour::FiniteNanUnsignedZero => Some(self.sign_code()),
            Flavour::Finite => None,
        }
    }
    /// Exponent of the smallest normal number; in e8m0, of the smallest number.
    pub const fn min_exponent(self) -> i32 {
        match self.flavour {
            Flavour::PowerOfTwo => -self.bias,
            _ => 1 - self.bias,
        }
    }
    /// Spacing of the numbers from 1 to 2.
    pub fn epsilon(self) -> f64 {
        power_of_two(-(self.mantissa_bits as i32))
    }
    /// Largest relative error of rounding to nearest in the normal range: half of [`Format::epsilon`].
    pub fn unit_roundoff(self) -> f64 {
        self.epsilon() / 2.0
    }
    /// Largest finite number.
    pub fn max_finite(self) -> f64 {
        self.decode(self.max_code())
    }
    /// Smallest positive normal number.
    pub fn min_normal(self) -> f64 {
        power_of_two(self.min_exponent())
    }
    /// Smallest positive number, and the spacing of all numbers below [`Format::min_normal`].
    pub fn min_subnormal(self) -> f64 {
        power_of_two(self.min_exponent() - self.mantissa_bits as i32)
    }
    /// True where every value of `other`, the sign of zero aside, is a value of this format.
    pub fn contains(self, other: Self) -> bool {
        let has = |code: Option<u64>| code.is_some();
        self.mantissa_bits >= other.mantissa_bits
            && self.max_finite() >= other.max_finite()
            && self.min_subnormal() <= other.min_subnormal()
            && has(self.infinity_code()) >= has(other.infinity_code())
            && has(self.nan_code()) >= has(other.nan_code())
    }

    const fn sign_bits(self) -> u32 {
        !matches!(self.flavour, Flavour::PowerOfTwo) as u32
    }
    const fn infinity_field(self) -> u64 {
        ((1 << self.exponent_bits) - 1) << self.mantissa_bits
    }

    /// The value of a code; bits above [`Format::bits`] are ignored. A NaN keeps its sign.
    pub fn decode(self, code: u64) -> f64 {
        if self.exponent_bits == 11 && self.mantissa_bits == 52 {
            return f64::from_bits(code);
        }
        let sign = code & self.sign_code();
        let magnitude = code & ((1 << (self.exponent_bits + self.mantissa_bits)) - 1);
        let nan = match self.flavour {
            Flavour::Ieee => magnitude > self.infinity_field(),
            Flavour::FiniteNan | Flavour::PowerOfTwo => magnitude > self.max_code(),
            Flavour::FiniteNanUnsignedZero => sign != 0 && magnitude == 0,
            Flavour::Finite => false,
        };
        let value = if nan {
            f64::NAN
        } else if Some(magnitude) == self.infinity_code() {
            f64::INFINITY
        } else {
            let field = (magnitude >> self.mantissa_bits) as i32;
            let fraction = magnitude & ((1 << self.mantissa_bits) - 1);
            let implicit = field != 0 || self.flavour == Flavour::PowerOfTwo;
            let significand = fraction | u64::from(implicit) << self.mantissa_bits;
            let exponent = if implicit { field - self.bias } else { self.min_exponent() };
            significand as f64 * power_of_two(exponent - self.mantissa_bits as i32)
        };
        if sign == 0 { value } else { -value }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// 2 to the power of `exponent`, exactly; zero below 2^-1074, infinity above 2^1023.
pub fn power_of_two(exponent: i32) -> f64 {
    match exponent {
        -1022..=1023 => f64::from_bits(((exponent + 1023) as u64) << 52),
        -1074..=-1023 => f64::from_bits(1 << (exponent + 1074)),
        ..=-1075 => 0.0,
        _ => f64::INFINITY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Maximum, smallest normal and smallest subnormal as IEEE 754, OCP (fp8 and MX) and the vendors publish them.
    #[test]
    fn limits_are_the_published_ones() {
        let published = [
            (Format::FP64, f64::MAX, f64::MIN_POSITIVE, 5e-324),
            (Format::FP32, f64::from(f32::MAX), f64::from(f32::MIN_POSITIVE), f64::from(1e-45_f32)),
            (Format::FP16, 65504.0, 0.5_f64.powi(14), 0.5_f64.powi(24)),
            (Format::BF16, 3.389_531_389_251_535_5e38, 0.5_f64.powi(126), 0.5_f64.powi(133)),
            (Format::E4M3FN, 448.0, 0.5_f64.powi(6), 0.5_f64.powi(9)),
            (Format::E4M3FNUZ, 240.0, 0.5_f64.powi(7), 0.5_f64.powi(10)),
            (Format::E4M3, 240.0, 0.5_f64.powi(6), 0.5_f64.powi(9)),
            (Format::E5M2, 57344.0, 0.5_f64.powi(14), 0.5_f64.powi(16)),
            (Format::E5M2FNUZ, 57344.0, 0.5_f64.powi(15), 0.5_f64.powi(17)),
            (Format::E2M1, 6.0, 1.0, 0.5),
            (Format::E8M0, 2_f64.powi(127), 0.5_f64.powi(127), 0.5_f64.powi(127)),
        ];
        for (format, max, normal, subnormal) in published {
            assert_eq!(
                (format.max_finite(), format.min_normal(), format.min_subnormal()),
                (max, normal, subnormal),
                "{format}"
            );
        }
    }

    #[test]
    fn every_float_type_has_its_format_and_names_parse() {
        for dtype in DType::ALL {
            let format = Format::of(dtype);
            assert_eq!(format.is_some(), dtype.is_float(), "{dtype}");
            if let Some(format) = format {
                assert_eq!(u64::from(format.bits()), dtype.bits(), "{dtype}");
                assert_eq!(format.dtype(), Some(dtype));
                assert_eq!(Format::parse(dtype.name()), Some(format));
            }
        }
        for format in Format::ALL {
            assert_eq!(Format::parse(format.name), Some(format));
        }
        assert_eq!(Format::TF32.dtype(), None);
        assert_eq!(Format::parse("fp17"), None);
    }

    #[test]
    fn wider_formats_contain_narrower_ones() {
        for format in Format::ALL {
            assert!(Format::FP64.contains(format) && format.contains(format), "{format}");
        }
        assert!(Format::FP32.contains(Format::BF16) && Format::FP32.contains(Format::TF32));
        assert!(!Format::BF16.contains(Format::FP16) && !Format::FP16.contains(Format::BF16));
        assert!(!Format::E4M3FN.contains(Format::E4M3), "no infinity");
        assert!(Format::FP16.contains(Format::E5M2) && !Format::FP16.contains(Format::E8M0));
    }
}
