//! Sums and dot products against the processor's own arithmetic, exact sums, and the error bounds.

use orrery_numerics::accumulate::{bound, dot_i32, rounded_bound};
use orrery_numerics::{Accumulation, ExactSum, Format, Rounding, random_unit, random_word};
use proptest::prelude::*;

/// Binary32 numbers of many magnitudes and both signs.
fn numbers(seed: u64, count: u64, binades: u64) -> Vec<f32> {
    let number = |index| {
        let bits = random_word(seed, index, 0);
        let exponent = 127 - binades / 2 + (bits >> 32) % binades.max(1);
        f32::from_bits(bits as u32 & 0x807f_ffff | (exponent as u32) << 23)
    };
    (0..count).map(number).collect()
}

fn pairs(a: &[f32], b: &[f32]) -> Vec<(f64, f64)> {
    a.iter().zip(b).map(|(&a, &b)| (a.into(), b.into())).collect()
}

/// The exact dot product and the sum of magnitudes, each rounded once.
fn exact(pairs: &[(f64, f64)]) -> (f64, f64) {
    let (mut sum, mut magnitude) = (ExactSum::new(), ExactSum::new());
    for &(a, b) in pairs {
        sum.add_product(a, b);
        magnitude.add_product(a.abs(), b.abs());
    }
    (sum.value(), magnitude.value())
}

#[test]
fn exact_sums_are_exact() {
    let mut sum = ExactSum::new();
    for value in [f64::MAX, 1.0, 5e-324, -f64::MAX, -1.0] {
        sum.add(value);
    }
    assert_eq!(sum.value(), 5e-324);
    sum.add(-5e-324);
    assert_eq!(sum.value(), 0.0);

    // Products that binary64 cannot hold: (2^53 - 1)^2 - 2^106 = 1 - 2^54.
    let ones = 2_f64.powi(53) - 1.0;
    let mut sum = ExactSum::new();
    sum.add_product(ones, ones);
    sum.add_product(2_f64.powi(53), -(2_f64.powi(53)));
    assert_eq!(sum.value(), 1.0 - 2_f64.powi(54));
    sum.add_product(f64::MAX, f64::MAX);
    sum.add_product(5e-324, -5e-324);
    sum.add_product(-f64::MAX, f64::MAX);
    sum.add(2_f64.powi(54));
    assert_eq!(sum.value(), 1.0, "1 less something far below its last place");
    assert_eq!(sum.round(Format::FP32, Rounding::TowardZero, 0), f64::from(1_f32.next_down()));
}

/// What lies far below a tie decides it.
#[test]
fn ties_are_broken_by_the_smallest_term() {
    let tie = 2_f64.powi(-24);
    for far in [2_f64.powi(-60), 2_f64.powi(-100), 2_f64.powi(-1000)] {
        for (terms, expected) in [([1.0, tie, far], 1_f32.next_up()), ([1.0, tie, -far], 1.0)] {
            let got = Accumulation::new(Format::FP32).grouped(3).sum(terms, 0);
            assert_eq!(got, f64::from(expected), "{far:e}");
        }
    }
    // As a single product: 2^-24 (1 - 2^-40) on top of an odd significand, which the tie would round up.
    let (a, b) = (2_f32.powi(-12) * (1.0 + 2_f32.powi(-20)), 2_f32.powi(-12) * (1.0 - 2_f32.powi(-20)));
    let odd = 1_f32.next_up();
    let got = Accumulation::new(Format::FP32).dot([(odd.into(), 1.0), (a.into(), b.into())], 0);
    assert_eq!(got, f64::from(a.mul_add(b, odd)));
    assert_eq!(got, f64::from(odd));
}

#[test]
fn exact_sums_agree_with_integers_in_any_order() {
    let integers: Vec<i64> = (0..1_000).map(|index| random_word(1, index, 0) as i64 >> 12).collect();
    let total: i128 = integers.iter().map(|&v| i128::from(v)).sum();
    let (mut forward, mut backward) = (ExactSum::new(), ExactSum::new());
    integers.iter().for_each(|&v| forward.add(v as f64));
    integers.iter().rev().for_each(|&v| backward.add(v as f64));
    assert_eq!(forward.value(), total as f64);
    assert_eq!(backward.value(), total as f64);
}

#[test]
fn special_numbers_pass_through_sums() {
    let mut sum = ExactSum::new();
    sum.add(f64::INFINITY);
    sum.add(1.0);
    assert_eq!(sum.value(), f64::INFINITY);
    sum.add_product(-1.0, f64::INFINITY);
    assert!(sum.value().is_nan());
    for how in [Accumulation::new(Format::FP16), Accumulation::new(Format::FP16).grouped(4)] {
        assert_eq!(how.sum([60_000.0, 60_000.0, 1.0], 0), f64::INFINITY, "overflow");
        assert!(how.dot([(0.0, f64::INFINITY)], 0).is_nan());
        assert_eq!(how.sum([], 0), 0.0);
    }
}

/// One rounding of sum + product is what the processor's fused multiply-add does.
#[test]
fn fp32_is_the_fused_multiply_add() {
    for (seed, binades) in [(1, 1), (2, 8), (3, 40), (4, 120), (5, 250)] {
        let (a, b) = (numbers(seed, 20_000, binades), numbers(seed + 100, 20_000, binades));
        let mut fused = 0.0_f32;
        let mut ours = 0.0_f64;
        for (pair, (&a, &b)) in pairs(&a, &b).into_iter().zip(a.iter().zip(&b)) {
            // One step at a time, so that overflow does not end the test.
            ours = Accumulation::new(Format::FP32).dot([(ours, 1.0), pair], 0);
            fused = a.mul_add(b, fused);
            assert_eq!(ours, f64::from(fused), "{a:e} {b:e}");
            if !fused.is_finite() || binades > 100 && fused.abs() > 1e30 {
                (ours, fused) = (pair.0, a);
            }
        }
    }
}

#[test]
fn fp64_is_the_fused_multiply_add_and_groups_round_once() {
    let a: Vec<f64> = (0..500).map(|index| random_unit(1, index) - 0.5).collect();
    let b: Vec<f64> = (0..500).map(|index| random_unit(2, index) * 1e3).collect();
    let pairs: Vec<_> = a.into_iter().zip(b).collect();
    let fused = pairs.iter().fold(0.0_f64, |sum, &(a, b)| a.mul_add(b, sum));
    assert_eq!(Accumulation::new(Format::FP64).dot(pairs.iter().copied(), 0), fused);
    let whole = Accumulation::new(Format::FP64).grouped(500).dot(pairs.iter().copied(), 0);
    assert_eq!(whole, exact(&pairs).0);
    assert_ne!(whole, fused);
}

#[test]
fn fp16_rounds_after_each_product_or_each_group() {
    let ones = || std::iter::repeat_n(1.0, 4_096);
    assert_eq!(Accumulation::new(Format::FP16).sum(ones(), 0), 2_048.0, "2049 ties to 2048");
    assert_eq!(Accumulation::new(Format::FP16).grouped(16).sum(ones(), 0), 4_096.0);
    let within = Accumulation { within: Some(Format::FP32), ..Accumulation::new(Format::FP16).grouped(16) };
    assert_eq!(within.sum(ones(), 0), 4_096.0);
    // 2^-30 beside 1 is lost within a group of fp32, not within an exact one.
    let terms = || [1.0, 2_f64.powi(-30), -1.0].into_iter();
    assert_eq!(within.sum(terms(), 0), 0.0);
    assert_eq!(Accumulation::new(Format::FP32).grouped(3).sum(terms(), 0), 2_f64.powi(-30));
    // A last group may be short.
    assert_eq!(Accumulation::new(Format::FP16).grouped(3).sum([1.0; 7], 0), 7.0);
}

/// fp16 after each product, against a second way: products and sums of halves are exact in binary64 here.
#[test]
fn fp16_agrees_with_rounded_binary64() {
    let half = |seed, index| f64::from(half::f16::from_f64(random_unit(seed, index) * 4.0 - 2.0));
    let mut expected = 0.0;
    let mut pairs = Vec::new();
    for index in 0..5_000 {
        let (a, b) = (half(1, index), half(2, index));
        pairs.push((a, b));
        expected = Format::FP16.nearest(expected + a * b);
        if index % 500 == 0 {
            assert_eq!(Accumulation::new(Format::FP16).dot(pairs.iter().copied(), 0), expected);
        }
    }
}

#[test]
fn integers_add_up_exactly_and_wrap() {
    assert_eq!(dot_i32((0..131_071).map(|_| (-128, -128))), 131_071 * 16_384);
    assert_eq!(dot_i32((0..131_072).map(|_| (-128, -128))), i32::MIN, "one more and it wraps");
    assert_eq!(dot_i32([(127, -128), (3, 4)]), 127 * -128 + 12);
}

/// Ties that always go down: the bound is reached to within a fifth.
#[test]
fn the_bound_is_tight() {
    for format in [Format::FP16, Format::BF16, Format::FP32] {
        let small = format.unit_roundoff();
        let terms: Vec<f64> = std::iter::once(1.0).chain(std::iter::repeat_n(small, 15)).collect();
        let got = Accumulation::new(format).sum(terms.iter().copied(), 0);
        assert_eq!(got, 1.0);
        let magnitude: f64 = terms.iter().sum();
        let limit = bound(16, format, format, magnitude);
        assert!((15.0 * small..1.2 * 15.0 * small).contains(&limit), "{format}: {limit:e}");
    }
}

#[test]
fn the_bound_knows_its_limits() {
    assert_eq!(bound(0, Format::FP32, Format::FP32, 0.0), 0.0);
    assert_eq!(bound(4, Format::FP16, Format::FP16, 70_000.0), f64::INFINITY, "a partial sum can overflow");
    assert_eq!(bound(4, Format::FP32, Format::FP16, 70_000.0), f64::INFINITY, "the output can overflow");
    assert_eq!(rounded_bound(0.0, 500.0, Format::E4M3FN, Rounding::NearestEven), f64::INFINITY);
    // γ(n) = n u / (1 - n u) is the customary bound, a little larger.
    let (n, u) = (1_000.0, Format::FP32.unit_roundoff());
    let ours = bound(1_000, Format::FP32, Format::FP32, 1.0);
    assert!(ours <= n * u / (1.0 - n * u) && ours > 0.999 * n * u);
    // Finite where n u > 1 and γ is not.
    assert!(bound(4_096, Format::FP16, Format::FP16, 1.0).is_finite());
    let wide = bound(64, Format::FP32, Format::FP16, 1.0);
    assert!(wide > Format::FP16.unit_roundoff() && wide < 1.1 * Format::FP16.unit_roundoff());
    assert_eq!(bound(64, Format::FP16, Format::FP32, 1.0), bound(64, Format::FP16, Format::FP16, 1.0));
    // Products below the smallest number: the underflow term is all there is.
    let tiny = 2_f64.powi(-25);
    assert_eq!(Accumulation::new(Format::FP16).sum([tiny; 64], 0), 0.0);
    assert!(bound(64, Format::FP16, Format::FP16, 64.0 * tiny) >= 64.0 * tiny);
}

fn any_accumulation() -> impl Strategy<Value = Accumulation> {
    let formats = vec![Format::FP16, Format::BF16, Format::CB16, Format::TF32, Format::FP32, Format::FP64];
    let roundings = vec![
        Rounding::NearestEven,
        Rounding::TowardZero,
        Rounding::AwayFromZero,
        Rounding::Stochastic { seed: 7 },
    ];
    (
        proptest::sample::select(formats.clone()),
        1_u64..20,
        proptest::option::of(proptest::sample::select(formats)),
        proptest::sample::select(roundings),
    )
        .prop_map(|(format, group, within, rounding)| Accumulation { format, group, within, rounding })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_dot_product_is_within_its_bound(how in any_accumulation(), seed: u64, count in 1_u64..200,
        binades in 1_u64..24) {
        let pairs = pairs(&numbers(seed, count, binades), &numbers(!seed, count, binades));
        let (value, magnitude) = exact(&pairs);
        let limit = how.bound(count, magnitude);
        let got = how.dot(pairs.iter().copied(), seed >> 40);
        let error = (got - value).abs();
        prop_assert!(error <= limit || limit.is_infinite(), "{how:?} {got} {value}: {error:e} > {limit:e}");
        for output in [Format::FP16, Format::BF16, Format::FP32] {
            let limit = rounded_bound(limit, magnitude, output, how.rounding);
            let error = (output.round(got, how.rounding, false, 3) - value).abs();
            prop_assert!(error <= limit || limit.is_infinite(), "{how:?} to {output}: {error:e} > {limit:e}");
        }
    }

    /// Partial sums of any tree, products rounded before they are added, and the output rounded.
    #[test]
    fn any_order_is_within_the_bound(seed: u64, count in 1_u64..300, binades in 1_u64..16,
        format in proptest::sample::select(vec![Format::FP16, Format::BF16, Format::FP32])) {
        let pairs = pairs(&numbers(seed, count, binades), &numbers(!seed, count, binades));
        let (value, magnitude) = exact(&pairs);
        let mut parts: Vec<f64> = pairs.iter().map(|(a, b)| format.nearest(a * b)).collect();
        let mut step = 0;
        while parts.len() > 1 {
            let take = |parts: &mut Vec<f64>, step| {
                let position = random_word(seed, step, 5) % parts.len() as u64;
                parts.swap_remove(position as usize)
            };
            let (a, b) = (take(&mut parts, step), take(&mut parts, step + 1));
            parts.push(format.nearest(a + b));
            step += 2;
        }
        for output in [Format::FP16, Format::E5M2, Format::FP32] {
            let error = (output.nearest(parts[0]) - value).abs();
            let limit = bound(count, format, output, magnitude);
            prop_assert!(error <= limit || limit.is_infinite(), "{error:e} > {limit:e}");
        }
    }

    /// A bound that lets a lost term pass would be useless: with terms of like size it is found.
    #[test]
    fn a_lost_term_breaks_the_bound(seed: u64, count in 2_u64..256) {
        let pairs = pairs(&numbers(seed, count, 1), &numbers(!seed, count, 1));
        let (value, magnitude) = exact(&pairs);
        let lost = (random_word(seed, 0, 9) % count) as usize;
        let kept = pairs.iter().enumerate().filter(|&(position, _)| position != lost).map(|(_, &pair)| pair);
        let error = (Accumulation::new(Format::FP32).dot(kept, 0) - value).abs();
        prop_assert!(error > bound(count, Format::FP32, Format::FP32, magnitude));
    }
}
