//! Rounding of numbers to a [`Format`]: one correct rounding from the exact value, whatever the source.
//!
//! These functions are the definition; [`crate::slices`] is the fast path from binary32 and gives the same bits.

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
        if self.mantissa_bits == 52 && !(saturate && value.is_infinite()) {
            return value;
        }
        self.round_inside(value, rounding, index)
            .unwrap_or_else(|| self.decode(self.encode(value, rounding, saturate, index)))
    }
    /// [`Format::round`] in a few instructions, for the common roundings to an IEEE format where there is no overflow.
    #[inline]
    fn round_inside(self, value: f64, rounding: Rounding, index: u64) -> Option<f64> {
        // The binade of 2^bias is the last one: below it nothing rounds to overflow.
        if self.flavour != Flavour::Ieee || value.is_nan() || value.abs() >= power_of_two(self.bias) {
            return None;
        }
        let normal = value.abs() >= power_of_two(self.min_exponent());
        let dropped = 52 - self.mantissa_bits;
        let bits = value.to_bits();
        let mask = (1 << dropped) - 1;
        match rounding {
            Rounding::NearestEven if normal => {
                let addend = (mask >> 1) + (bits >> dropped & 1);
                Some(f64::from_bits((bits + addend) & !mask))
            }
            Rounding::NearestEven => {
                // The sum's last place is the format's smallest number.
                let magic = power_of_two(self.min_exponent() - self.mantissa_bits as i32 + 52);
                Some(((value.abs() + magic) - magic).copysign(value))
            }
            Rounding::Stochastic { seed } if normal => {
                let random = random_word(seed, index, 0) >> (64 - dropped);
                Some(f64::from_bits((bits + random) & !mask))
            }
            _ => None,
        }
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
    pub(crate) fn encode_overflow(self, negative: bool, saturate: bool) -> u64 {
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
