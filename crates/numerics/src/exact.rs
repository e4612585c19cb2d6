//! Sums without rounding.

use crate::Format;
use crate::round::Rounding;

/// Place value of the lowest bit: the product of two smallest binary64.
const LOWEST: i32 = -2148;
/// Words for the product of two largest binary64 and 2^90 of them added up.
const WORDS: usize = 67;

/// The exact sum of binary64 numbers and of their products: a fixed-point number wide enough for all of them.
#[derive(Clone, Debug)]
pub struct ExactSum {
    /// Two's complement, lowest word first.
    words: [u64; WORDS],
    /// Sum of the terms that are no finite numbers; zero where there were none.
    special: f64,
}

impl Default for ExactSum {
    fn default() -> Self {
        Self::new()
    }
}

impl ExactSum {
    /// Zero.
    pub const fn new() -> Self {
        Self { words: [0; WORDS], special: 0.0 }
    }
    /// Adds a number.
    pub fn add(&mut self, value: f64) {
        self.add_product(value, 1.0);
    }
    /// Adds a product.
    pub fn add_product(&mut self, a: f64, b: f64) {
        if !a.is_finite() || !b.is_finite() {
            self.special += a * b;
            return;
        }
        let (significand_a, exponent_a) = parts(a);
        let (significand_b, exponent_b) = parts(b);
        let product = u128::from(significand_a) * u128::from(significand_b);
        let place = (exponent_a + exponent_b - LOWEST) as usize;
        let (word, shift) = (place / 64, place % 64);
        // 106 bits shifted by at most 63 span three words.
        let low = product << shift;
        let high = if shift == 0 { 0 } else { (product >> (128 - shift)) as u64 };
        let addend = [low as u64, (low >> 64) as u64, high];
        let negative = a.is_sign_negative() != b.is_sign_negative();
        let mut carry = false;
        for (position, target) in self.words[word..].iter_mut().enumerate() {
            let term = addend.get(position).copied().unwrap_or(0);
            if position >= addend.len() && !carry {
                break;
            }
            let (partial, first) =
                if negative { target.overflowing_sub(term) } else { target.overflowing_add(term) };
            let (total, second) = if negative {
                partial.overflowing_sub(carry.into())
            } else {
                partial.overflowing_add(carry.into())
            };
            *target = total;
            carry = first || second;
        }
    }
    /// The sum rounded once to `format`; overflow is infinite where the format has infinities. Stochastic rounding
    /// sees the leading 64 bits of the sum and whether more follow.
    pub fn round(&self, format: Format, rounding: Rounding, index: u64) -> f64 {
        if self.special != 0.0 {
            return format.round(self.special, rounding, false, index);
        }
        let negative = self.words[WORDS - 1] >> 63 == 1;
        let mut words = self.words;
        if negative {
            let mut carry = true;
            for word in &mut words {
                (*word, carry) = (!*word).overflowing_add(carry.into());
            }
        }
        let Some(top) = words.iter().rposition(|&word| word != 0) else { return 0.0 };
        let below = |count: usize| top.checked_sub(count).map_or(0, |position| words[position]);
        let zeros = words[top].leading_zeros();
        let pair = u128::from(words[top]) << 64 | u128::from(below(1));
        let leading = (pair << zeros >> 64) as u64;
        let more = (pair << zeros) as u64 != 0 || top > 1 && words[..top - 1].iter().any(|&word| word != 0);
        let exponent = LOWEST + 64 * top as i32 - zeros as i32;
        let code =
            format.encode_scaled(negative, leading | u64::from(more), exponent, rounding, false, index);
        format.decode(code)
    }
    /// The binary64 nearest to the sum.
    pub fn value(&self) -> f64 {
        self.round(Format::FP64, Rounding::NearestEven, 0)
    }
}

/// Significand and exponent of the magnitude of a finite number.
fn parts(value: f64) -> (u64, i32) {
    let bits = value.to_bits();
    let field = (bits >> 52 & 0x7ff) as i32;
    (bits & ((1 << 52) - 1) | u64::from(field != 0) << 52, field.max(1) - 1075)
}
