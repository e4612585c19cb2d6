//! Rounding of numbers to a [`Format`]: one correct rounding from the exact value, whatever the source.
//!
//! The scalar functions are the definition. [`round_slice`] and [`encode_slice`] are the fast path from binary32, and
//! give the same bits.

use crate::format::{Flavour, power_of_two};
use crate::{Format, random_word};
use std::cmp::Ordering::{Greater, Less};

/// Which neighbour a number between two values of a format becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Rounding {
    /// The nearer one; of two equally near, the one with an even significand.
    #[default]
    NearestEven,
    /// The nearer one; of two equally near, the one farther from zero.
    NearestAway,
    /// The one nearer to zero.
    TowardZero,
    /// The one farther from zero.
    AwayFromZero,
    /// Either, each with a probability exactly proportional to the distance from the other. The random bits are those
    /// of [`random_word`] under `seed` at the element's index.
    Stochastic {
        /// Seed of the random bits.
        seed: u64,
    },
}

impl Rounding {
    /// True where the result is a nearest one, so that the error is at most half a unit in the last place.
    pub const fn is_nearest(self) -> bool {
        matches!(self, Self::NearestEven | Self::NearestAway)
    }
}

impl Format {
    /// The code of `value` rounded to this format.
    ///
    /// - Overflow (after rounding, as with an unbounded exponent) and infinities become the largest finite number
    ///   where `saturate` is set; otherwise infinity, or NaN where the format has none, or the largest finite number
    ///   where it has neither. Rounding toward zero never overflows from a finite number.
    /// - NaN becomes NaN of the same sign, in IEEE formats quiet with the leading bits of the payload. In e2m1, which
    ///   has none, it becomes a zero of the opposite sign, as `ml_dtypes` has it.
    /// - e8m0 has neither sign nor zero: negative numbers become NaN, positive ones below 2^-127 become 2^-127;
    ///   zero becomes 2^-127 where `saturate` is set and NaN otherwise.
    ///
    /// `index` is the element's index, which matters to stochastic rounding only.
    pub fn encode(self, value: f64, rounding: Rounding, saturate: bool, index: u64) -> u64 {
        let bits = value.to_bits();
        let negative = value.is_sign_negative();
        if value.is_nan() {
            return self.encode_nan(negative, bits & ((1 << 52) - 1));
        }
        if value.is_infinite() {
            return self.encode_overflow(negative, saturate);
        }
        let field = (bits >> 52 & 0x7ff) as i32;
        let significand = bits & ((1 << 52) - 1) | u64::from(field != 0) << 52;
        self.encode_scaled(negative, significand, field.max(1) - 1075, rounding, saturate, index)
    }
    /// The code of ±`significand` · 2^`exponent` rounded to this format, as [`Format::encode`] does.
    pub fn encode_scaled(
        self,
        negative: bool,
        significand: u64,
        exponent: i32,
        rounding: Rounding,
        saturate: bool,
        index: u64,
    ) -> u64 {
        if significand == 0 {
            return self.encode_zero(negative, saturate);
        }
        if negative && self.flavour == Flavour::PowerOfTwo {
            return self.encode_nan(negative, 0);
        }
        let mantissa_bits = self.mantissa_bits as i32;
        let leading = 63 - significand.leading_zeros() as i32 + exponent;
        let binade = leading.max(self.min_exponent());
        // Bits of the significand below the format's last place: dropped if positive, missing if negative.
        let dropped = binade - mantissa_bits - exponent;
        let kept = if dropped <= 0 {
            significand << -dropped
        } else {
            let (floor, fraction) = match dropped {
                1..=63 => (significand >> dropped, significand & ((1 << dropped) - 1)),
                _ => (0, significand),
            };
            floor + u64::from(round_up(floor, fraction, dropped as u32, rounding, index))
        };
        // A carry out of the significand runs into the exponent field, as it should.
        let lowest = if self.flavour == Flavour::PowerOfTwo { 0 } else { 1 };
        let field = (binade - self.min_exponent()) as u64 + lowest;
        let code = ((field << mantissa_bits) + kept).saturating_sub(1 << mantissa_bits);
        if code > self.max_code() {
            return match rounding {
                Rounding::TowardZero => self.encode_overflow(negative, true),
                _ => self.encode_overflow(negative, saturate),
            };
        }
        if code == 0 && self.flavour != Flavour::PowerOfTwo {
            return self.encode_zero(negative, saturate);
        }
        code | self.sign_of(negative)
    }
    /// `value` rounded to this format: the value of [`Format::encode`]'s code.
    pub fn round(self, value: f64, rounding: Rounding, saturate: bool, index: u64) -> f64 {
        if self == Self::FP64 {
            return value;
        }
        self.decode(self.encode(value, rounding, saturate, index))
    }
    /// `value` rounded to the nearest value of this format, ties to even, overflow as the format has it.
    pub fn nearest(self, value: f64) -> f64 {
        self.round(value, Rounding::NearestEven, false, 0)
    }
    /// Largest error of one rounding relative to the exact value, in the normal range.
    pub fn relative_error(self, rounding: Rounding) -> f64 {
        if rounding.is_nearest() { self.unit_roundoff() } else { self.epsilon() }
    }
    /// Largest error of one rounding below the normal range.
    pub fn absolute_error(self, rounding: Rounding) -> f64 {
        // e8m0 has no numbers between zero and its smallest.
        if rounding.is_nearest() && self.flavour != Flavour::PowerOfTwo {
            self.min_subnormal() / 2.0
        } else {
            self.min_subnormal()
        }
    }

    fn sign_of(self, negative: bool) -> u64 {
        if negative { self.sign_code() } else { 0 }
    }
    fn encode_zero(self, negative: bool, saturate: bool) -> u64 {
        match self.flavour {
            Flavour::PowerOfTwo if saturate => 0,
            Flavour::PowerOfTwo => self.max_code() + 1,
            Flavour::FiniteNanUnsignedZero => 0,
            _ => self.sign_of(negative),
        }
    }
    fn encode_overflow(self, negative: bool, saturate: bool) -> u64 {
        if negative && self.flavour == Flavour::PowerOfTwo {
            return self.max_code() + 1;
        }
        match (self.infinity_code(), self.nan_code()) {
            (Some(code), _) if !saturate => code | self.sign_of(negative),
            (None, Some(code)) if !saturate => code | self.sign_of(negative),
            _ => self.max_code() | self.sign_of(negative),
        }
    }
    /// `payload` is the mantissa of a binary64 NaN.
    fn encode_nan(self, negative: bool, payload: u64) -> u64 {
        match (self.flavour, self.nan_code()) {
            (Flavour::Ieee, Some(code)) => {
                code | payload >> (52 - self.mantissa_bits) | self.sign_of(negative)
            }
            (_, Some(code)) => code | self.sign_of(negative),
            (_, None) => self.sign_of(!negative),
        }
    }
}

/// Whether `floor` + `fraction` / 2^`bits` becomes `floor` + 1. `fraction` < 2^`bits`, `bits` > 0.
fn round_up(floor: u64, fraction: u64, bits: u32, rounding: Rounding, index: u64) -> bool {
    if fraction == 0 {
        return false;
    }
    let half = || if bits <= 64 { fraction.cmp(&(1 << (bits - 1))) } else { Less };
    match rounding {
        Rounding::NearestEven => half().then(if floor & 1 == 1 { Greater } else { Less }).is_gt(),
        Rounding::NearestAway => half().is_ge(),
        Rounding::TowardZero => false,
        Rounding::AwayFromZero => true,
        Rounding::Stochastic { seed } => {
            // fraction + random >= 2^bits, where random is the first `bits` bits of the element's stream: so the
            // outcome does not depend on how many zeros follow the fraction.
            let full_words = u64::from(bits - 1) / 64;
            let last_bits = bits - full_words as u32 * 64;
            // The fraction lies in the lowest 64 of `bits` bits: it spans two words unless they are aligned.
            let shift = 64 - last_bits;
            let aligned = u128::from(fraction) << shift;
            let (high, low) = ((aligned >> 64) as u64, aligned as u64);
            let (_, carry) = random_word(seed, index, full_words).overflowing_add(low);
            let mut carry = u64::from(carry);
            for word in (0..full_words).rev() {
                let addend = if word + 1 == full_words { u128::from(high) } else { 0 } + u128::from(carry);
                carry = ((u128::from(random_word(seed, index, word)) + addend) >> 64) as u64;
                if carry == 0 {
                    return false;
                }
            }
            carry == 1
        }
    }
}

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
        let format = self.format;
        let bits = rounded.to_bits();
        let (sign, magnitude) = (bits & SIGN, bits & !SIGN);
        let sign = sign >> (32 - format.bits());
        let subnormal = (f32::from_bits(magnitude) + self.magic).to_bits().wrapping_sub(self.magic.to_bits());
        let normal = (magnitude >> self.dropped).wrapping_sub(self.rebias);
        let finite = if magnitude < self.min_normal { subnormal } else { normal };
        let special = match format.flavour {
            // Exponent all ones, mantissa nought for infinity or the payload for NaN.
            Flavour::Ieee => {
                let field = ((1_u32 << format.exponent_bits) - 1) << format.mantissa_bits;
                field | (magnitude & 0x007f_ffff) >> self.dropped
            }
            Flavour::FiniteNan => format.max_code() as u32 + 1,
            _ => 0,
        };
        let unsigned_nan = format.flavour == Flavour::FiniteNanUnsignedZero;
        if magnitude < INFINITY {
            finite | sign
        } else if unsigned_nan {
            format.sign_code() as u32
        } else {
            special | sign
        }
    }
    /// The value of a code of an IEEE format.
    #[inline(always)]
    fn value(&self, code: u32) -> f32 {
        let format = self.format;
        let sign = (code << (32 - format.bits())) & SIGN;
        let magnitude = code & (format.sign_code() as u32 - 1);
        let subnormal = f32::from_bits(magnitude + self.magic.to_bits()) - self.magic;
        let normal = (magnitude + self.rebias) << self.dropped;
        let finite = if magnitude >> format.mantissa_bits == 0 { subnormal.to_bits() } else { normal };
        let special = INFINITY | (magnitude << self.dropped) & 0x007f_ffff;
        let infinity_field = ((1_u32 << format.exponent_bits) - 1) << format.mantissa_bits;
        f32::from_bits(sign | if magnitude >= infinity_field { special } else { finite })
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
            *code = T::from_code(u64::from(narrow.code(narrow.nearest(*value))));
        }
        return;
    }
    for ((value, code), index) in values.iter().zip(codes).zip(first..) {
        *code = T::from_code(format.encode(f64::from(*value), rounding, saturate, index));
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
    fn from_code(code: u64) -> Self;
}
macro_rules! code {
    ($($t:ty),*) => { $(impl Code for $t { fn from_code(code: u64) -> Self { code as Self } })* };
}
code!(u8, u16, u32, u64);
