//! Sums and dot products as machines do them, and how far they can stray from the exact result.
//!
//! A matrix unit forms exact products, adds them in groups, and rounds the running sum to the format of its
//! accumulator after each group. This is the slow path that defines the result, not the one that is fast.

use crate::Format;
use crate::exact::ExactSum;
use crate::round::Rounding;

/// How a machine adds up products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Accumulation {
    /// Format of the running sum.
    pub format: Format,
    /// Products added to each other before they are added to the running sum; at least 1.
    pub group: u64,
    /// Format to which the sum within a group is rounded after each product; none where it is exact.
    pub within: Option<Format>,
    /// Rounding of the running sum and of the sum within a group.
    pub rounding: Rounding,
}

impl Accumulation {
    /// A running sum of that format, rounded to the nearest after each product.
    pub const fn new(format: Format) -> Self {
        Self { format, group: 1, within: None, rounding: Rounding::NearestEven }
    }
    /// The same in groups of `group` products, each summed exactly and added with one rounding.
    #[must_use]
    pub const fn grouped(self, group: u64) -> Self {
        Self { group, ..self }
    }
    /// The sum of the products of `pairs` from left to right. Every product is exact. Overflow is infinite where the
    /// format has infinities.
    ///
    /// `index` is the index of the result among the results, for stochastic rounding: its random bits are those of
    /// the position `index` · 2^32 + the number of the rounding.
    pub fn dot(&self, pairs: impl IntoIterator<Item = (f64, f64)>, index: u64) -> f64 {
        let mut place = index << 32;
        let mut pairs = pairs.into_iter().fuse().peekable();
        let mut sum = 0.0;
        while pairs.peek().is_some() {
            let group = (0..self.group).map_while(|_| pairs.next());
            if let Some(within) = self.within {
                let mut partial = 0.0;
                for (a, b) in group {
                    partial = add_product(partial, a, b, within, self.rounding, place);
                    place += 1;
                }
                sum = add_product(sum, partial, 1.0, self.format, self.rounding, place);
            } else if self.group == 1 {
                for (a, b) in group {
                    sum = add_product(sum, a, b, self.format, self.rounding, place);
                }
            } else {
                let mut exact = ExactSum::new();
                exact.add(sum);
                group.for_each(|(a, b)| exact.add_product(a, b));
                sum = exact.round(self.format, self.rounding, place);
            }
            place += 1;
        }
        sum
    }
    /// The sum of `values` from left to right, as [`Accumulation::dot`] with ones.
    pub fn sum(&self, values: impl IntoIterator<Item = f64>, index: u64) -> f64 {
        self.dot(values.into_iter().map(|value| (value, 1.0)), index)
    }
    /// How far the sum of `terms` products, in any order and in any tree of partial sums of this kind, can be from
    /// the exact one, given the sum of the products' magnitudes.
    ///
    /// One rounding gives x(1 + d) + e with |d| at most u ([`Format::relative_error`]) and |e| at most h
    /// ([`Format::absolute_error`]), and not both. A product passes through at most n = ⌈terms / group⌉ roundings of
    /// the running sum, and m = min(group, terms) within a group where those are rounded, so it reaches the result
    /// with a factor between (1 - u)^n (1 - v)^m and (1 + u)^n (1 + v)^m, v being u of the format within. The n + n m
    /// underflow errors are amplified by no more than that factor. So, with g = (1 + u)^n (1 + v)^m - 1,
    ///
    /// error ≤ g · magnitude + (1 + g) (n h + n m h')
    ///
    /// (1 + u)^n - 1 is at most the customary γ(n) = n u / (1 - n u) and, unlike that, holds for every n. The first
    /// rounding of a sum that starts with zero counts as one, so that the bound also covers products which are
    /// rounded to the accumulator's format themselves and then added to each other. In another order a group may be
    /// cut short, which adds roundings: with group > 1 the bound is for one sum from left to right.
    ///
    /// Infinite where a partial sum could overflow: the magnitudes exceed the largest finite number.
    pub fn bound(&self, terms: u64, magnitude: f64) -> f64 {
        self.bounds(terms)(magnitude)
    }
    /// [`Accumulation::bound`] as a function of the magnitude, for many sums of the same length.
    pub fn bounds(&self, terms: u64) -> impl Fn(f64) -> f64 + use<> {
        let roundings = terms.div_ceil(self.group) as f64;
        let inside = if self.within.is_some() { self.group.min(terms) as f64 } else { 0.0 };
        let within = self.within.unwrap_or(self.format);
        let growth = (roundings * self.format.relative_error(self.rounding).ln_1p()
            + inside * within.relative_error(self.rounding).ln_1p())
        .exp_m1();
        let underflow = roundings
            * (self.format.absolute_error(self.rounding) + inside * within.absolute_error(self.rounding));
        let largest = self.format.max_finite().min(within.max_finite());
        move |magnitude| {
            let error = growth * magnitude + (1.0 + growth) * underflow;
            match terms {
                0 => 0.0,
                _ if magnitude + error > largest => f64::INFINITY,
                _ => error * EVALUATION,
            }
        }
    }
}

/// `sum` + `a` · `b`, rounded once.
fn add_product(sum: f64, a: f64, b: f64, format: Format, rounding: Rounding, index: u64) -> f64 {
    let product = a * b;
    if !(sum + product).is_finite() || format == Format::FP64 && rounding == Rounding::NearestEven {
        return format.round(a.mul_add(b, sum), rounding, false, index);
    }
    let binary32 = |v: f64| f64::from(v as f32) == v;
    if format.mantissa_bits > Format::FP32.mantissa_bits
        || matches!(rounding, Rounding::Stochastic { .. })
        || !(binary32(a) && binary32(b))
    {
        let mut exact = ExactSum::new();
        exact.add(sum);
        exact.add_product(a, b);
        return exact.round(format, rounding, index);
    }
    // The product of two binary32 is exact, and so is the error of the sum (Knuth's TwoSum). Where there is one, the
    // last bit of the sum is made odd: with at least two bits to spare, rounding that is rounding the exact sum
    // (Boldo and Melquiond 2008).
    let total = sum + product;
    let other = total - sum;
    let error = (sum - (total - other)) + (product - other);
    let odd = if error == 0.0 || total.to_bits() & 1 == 1 {
        total
    } else if (error > 0.0) == (total > 0.0) {
        f64::from_bits(total.to_bits() + 1)
    } else {
        f64::from_bits(total.to_bits() - 1)
    };
    format.round(odd, rounding, false, index)
}

/// Room for the roundings in the evaluation of a bound itself.
const EVALUATION: f64 = 1.0 + 1.0 / (1_u64 << 40) as f64;

/// How far a number can be from the exact one after rounding to `format`, given how far it was before (`error`) and
/// that the exact one is at most `magnitude`. Infinite where the number could overflow.
pub fn rounded_bound(error: f64, magnitude: f64, format: Format, rounding: Rounding) -> f64 {
    let reach = magnitude + error;
    let own = (format.relative_error(rounding) * reach).max(format.absolute_error(rounding));
    if reach > format.max_finite() { f64::INFINITY } else { (error + own) * EVALUATION }
}

/// How far a dot product or sum of `terms` products can be from the exact one: accumulated in `accumulator`, rounded
/// after each product, in any order; then rounded to `output` where that does not hold every value of the
/// accumulator; all to the nearest. `magnitude` is the sum of the products' magnitudes.
///
/// [`Accumulation::bound`] has the derivation, and other groups and roundings; [`rounded_bound`] the output's part.
pub fn bound(terms: u64, accumulator: Format, output: Format, magnitude: f64) -> f64 {
    let error = Accumulation::new(accumulator).bound(terms, magnitude);
    if output.contains(accumulator) {
        error
    } else {
        rounded_bound(error, magnitude, output, Rounding::NearestEven)
    }
}

/// The dot product of integers in 32 bits, wrapping: what int8 matrix units do. Without wrap-around it is exact, and
/// with operands of eight bits there is none below 131,072 products.
pub fn dot_i32(pairs: impl IntoIterator<Item = (i32, i32)>) -> i32 {
    pairs.into_iter().fold(0, |sum: i32, (a, b)| sum.wrapping_add(a.wrapping_mul(b)))
}
