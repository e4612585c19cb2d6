//! Rounding, encoding and decoding of whole slices of binary32, without branches so that vector instructions do it.
//!
//! The results are those of [`Format::encode`] and [`Format::decode`] to the bit, except that where values are kept as
//! binary32 the payload of a NaN is open.

use crate::format::{Flavour, power_of_two};
use crate::{Format, Rounding};

/// Constants of the fast path from binary32 to one format.
struct Narrow {
    format: Format,
    /// Mantissa bits of binary32 that the format drops.
    dropped: u32,
    /// Binary32 bits of the format's smallest normal number.
    min_normal: u32,
    /// Adding and subtracting this rounds a number below `min_normal` to the format's spacing there.
    magic: f32,
    /// Binary32 bits of the largest finite number.
    max: u32,
    /// What a number beyond the largest becomes, without its sign.
    overflow: u32,
    /// Sign bit that a zero result keeps: none where the format has an unsigned zero.
    zero_sign: u32,
    /// What the two biases differ by, in the place of a code's exponent field.
    rebias: u32,
    /// Code of infinity, or of NaN where there is no infinity.
    special: u32,
    /// Bits of a binary32 NaN that its code keeps.
    payload: u32,
    /// From the place of the sign in binary32 to that in a code.
    sign_shift: u32,
}

const SIGN: u32 = 1 << 31;
const INFINITY: u32 = 0x7f80_0000;

impl Narrow {
    /// The constants, or none where the format is too wide or too odd for the fast path.
    fn new(format: Format, saturate: bool) -> Option<Self> {
        if format.exponent_bits > 8 || format.mantissa_bits > 22 || format.flavour == Flavour::PowerOfTwo {
            return None;
        }
        let bits = |code: u64| (format.decode(code) as f32).to_bits();
        Some(Self {
            format,
            dropped: 23 - format.mantissa_bits,
            min_normal: (format.min_normal() as f32).to_bits(),
            magic: power_of_two(format.min_exponent() - format.mantissa_bits as i32 + 23) as f32,
            max: bits(format.max_code()),
            overflow: bits(format.encode_overflow(false, saturate)) & !SIGN,
            zero_sign: if format.flavour == Flavour::FiniteNanUnsignedZero { 0 } else { SIGN },
            rebias: ((127 - format.bias) as u32) << format.mantissa_bits,
            special: format.infinity_code().or(format.nan_code()).unwrap_or(0) as u32,
            payload: if format.flavour == Flavour::Ieee { 0x007f_ffff } else { 0 },
            sign_shift: 32 - format.bits(),
        })
    }
    /// `value` rounded to the nearest, ties to even. No branches, so that loops over it use vector instructions.
    #[inline(always)]
    fn nearest(&self, value: f32) -> f32 {
        let bits = value.to_bits();
        let (sign, magnitude) = (bits & SIGN, bits & !SIGN);
        let mask = (1_u32 << self.dropped) - 1;
        let even = (mask >> 1) + (magnitude >> self.dropped & 1);
        let normal = magnitude.wrapping_add(even) & !mask;
        let subnormal = ((f32::from_bits(magnitude) + self.magic) - self.magic).to_bits();
        let rounded = if magnitude < self.min_normal { subnormal } else { normal };
        let rounded = if rounded > self.max { self.overflow } else { rounded };
        let sign = if rounded == 0 { sign & self.zero_sign } else { sign };
        let nan = magnitude & !mask | 0x0040_0000;
        if magnitude > INFINITY {
            if self.format.flavour == Flavour::Finite {
                f32::from_bits(!bits & SIGN)
            } else {
                f32::from_bits(nan | bits & SIGN)
            }
        } else {
            f32::from_bits(rounded | sign)
        }
    }
    /// The code of a number that the format has, or of a NaN or infinity.
    #[inline(always)]
    fn code(&self, rounded: f32) -> u32 {
        let bits = rounded.to_bits();
        let (sign, magnitude) = (bits & SIGN, bits & !SIGN);
        let subnormal = (f32::from_bits(magnitude) + self.magic).to_bits().wrapping_sub(self.magic.to_bits());
        let normal = (magnitude >> self.dropped).wrapping_sub(self.rebias);
        let finite = if magnitude < self.min_normal { subnormal } else { normal };
        let special = self.special | (magnitude & self.payload) >> self.dropped;
        let code = if magnitude < INFINITY { finite } else { special };
        code | sign >> self.sign_shift
    }
    /// The value of a code of an IEEE format.
    #[inline(always)]
    fn value(&self, code: u32) -> f32 {
        let sign = (code << self.sign_shift) & SIGN;
        let magnitude = code & ((SIGN >> self.sign_shift) - 1);
        let subnormal = f32::from_bits(magnitude + self.magic.to_bits()) - self.magic;
        let normal = (magnitude + self.rebias) << self.dropped;
        let is_normal = magnitude >> self.format.mantissa_bits != 0;
        let finite = if is_normal { normal } else { subnormal.to_bits() };
        let special = INFINITY | (magnitude << self.dropped) & 0x007f_ffff;
        f32::from_bits(sign | if magnitude >= self.special { special } else { finite })
    }
}

/// Rounds every value to `format` in place; `values[0]` has the index `first`.
pub fn round_slice(values: &mut [f32], format: Format, rounding: Rounding, saturate: bool, first: u64) {
    if format.contains(Format::FP32) && !saturate {
        return;
    }
    if let (Rounding::NearestEven, Some(narrow)) = (rounding, Narrow::new(format, saturate)) {
        for value in values {
            *value = narrow.nearest(*value);
        }
        return;
    }
    for (value, index) in values.iter_mut().zip(first..) {
        *value = format.round(f64::from(*value), rounding, saturate, index) as f32;
    }
}

/// Writes the code of every value, rounded to `format`, as units of `T`; `values[0]` has the index `first`.
/// Panics where the slices differ in length.
pub(crate) fn encode_slice<T: Code>(
    values: &[f32],
    codes: &mut [T],
    format: Format,
    rounding: Rounding,
    saturate: bool,
    first: u64,
) {
    assert_eq!(values.len(), codes.len(), "one code a value");
    if let (Rounding::NearestEven, Some(narrow)) = (rounding, Narrow::new(format, saturate)) {
        for (value, code) in values.iter().zip(codes) {
            *code = T::from_code(narrow.code(narrow.nearest(*value)));
        }
        return;
    }
    if let (Rounding::Stochastic { .. }, Some(narrow)) = (rounding, Narrow::new(format, saturate)) {
        for ((value, code), index) in values.iter().zip(codes).zip(first..) {
            let rounded = format.round(f64::from(*value), rounding, saturate, index) as f32;
            *code = T::from_code(narrow.code(rounded));
        }
        return;
    }
    for ((value, code), index) in values.iter().zip(codes).zip(first..) {
        *code = T::from_code(format.encode(f64::from(*value), rounding, saturate, index) as u32);
    }
}

/// Writes the value of every code of an IEEE format of at most 16 bits. Panics where the slices differ in length.
pub(crate) fn decode_slice(codes: &[u16], values: &mut [f32], format: Format) {
    assert_eq!(codes.len(), values.len(), "one value a code");
    let narrow = Narrow::new(format, false).expect("a format of at most 16 bits with a sign is narrow");
    for (code, value) in codes.iter().zip(values) {
        *value = narrow.value(u32::from(*code));
    }
}

/// A storage unit that holds a code in its low bits.
pub(crate) trait Code: Copy {
    /// Keeps the low bits.
    fn from_code(code: u32) -> Self;
}
macro_rules! code {
    ($($t:ty),*) => { $(impl Code for $t { fn from_code(code: u32) -> Self { code as Self } })* };
}
code!(u8, u16);
