//! Stochastic rounding: exact probabilities, and independence of order and number of threads.

use orrery_numerics::{DType, Format, Rounding, Tensor, random_word, round_slice};

/// How many of `count` elements round up, and the bounds of five standard deviations around what is expected.
fn rounded_up(format: Format, value: f64, seed: u64, count: u64, probability: f64) -> (u64, f64, f64) {
    let low = format.round(value, Rounding::TowardZero, false, 0);
    let up = (0..count)
        .filter(|&index| format.round(value, Rounding::Stochastic { seed }, false, index) != low)
        .count();
    let mean = probability * count as f64;
    let spread = 5.0 * (mean * (1.0 - probability)).sqrt();
    (up as u64, mean - spread, mean + spread)
}

#[test]
fn each_neighbour_is_as_likely_as_it_is_near() {
    for format in [Format::FP16, Format::BF16, Format::CB16, Format::E4M3FN, Format::E5M2] {
        for (seed, eighths) in (1..8).enumerate() {
            let fraction = f64::from(eighths) / 8.0;
            // In a normal binade, in the subnormal range, and with the other sign.
            let step = format.epsilon();
            let cases =
                [1.0 + fraction * step, -(1.5 + fraction * step), (1.0 + fraction) * format.min_subnormal()];
            for value in cases {
                let (up, least, most) = rounded_up(format, value, seed as u64, 20_000, fraction);
                assert!((least..most).contains(&(up as f64)), "{format} {value}: {up} of {least}..{most}");
            }
        }
    }
}

#[test]
fn the_random_bits_decide_exactly() {
    // 50 bits are dropped here: the number rounds up where fraction + random >= 2^50, and not one step earlier.
    let format = Format::E5M2;
    for index in 0..2_000 {
        let random = random_word(9, index, 0) >> 14;
        let threshold = (1 << 50) - random;
        for (fraction, up) in [(threshold - 1, false), (threshold, true)] {
            if fraction == 0 || fraction >= 1 << 50 {
                continue;
            }
            let value = f64::from_bits(1.0_f64.to_bits() | fraction);
            let rounded = format.round(value, Rounding::Stochastic { seed: 9 }, false, index);
            assert_eq!(rounded, if up { 1.25 } else { 1.0 }, "{index}");
        }
    }
}

#[test]
fn numbers_far_below_the_smallest_one_still_count() {
    // 2^-13 of the smallest number of fp16 with a tail that reaches past the first 64 random bits.
    let value = Format::FP16.min_subnormal() * (2_f64.powi(-13) + 2_f64.powi(-65));
    let (up, least, most) = rounded_up(Format::FP16, value, 5, 1 << 20, 2_f64.powi(-13));
    assert!((least..most).contains(&(up as f64)), "{up} of {least}..{most}");
    let tiny = Format::FP16.min_subnormal() * 2_f64.powi(-70);
    let seed = Rounding::Stochastic { seed: 0 };
    assert!((0..10_000).all(|index| Format::FP16.round(tiny, seed, false, index) == 0.0));
}

#[test]
fn results_do_not_depend_on_the_cut_into_slices_or_on_the_source() {
    let values: Vec<f32> = (0..1_000).map(|i| (i as f32 * 0.37 - 100.0).exp2() + i as f32).collect();
    let rounding = Rounding::Stochastic { seed: 42 };
    for format in Format::ALL {
        let mut whole = values.clone();
        round_slice(&mut whole, format, rounding, false, 0);
        let mut pieces = values.clone();
        for (number, piece) in pieces.chunks_mut(77).enumerate().rev() {
            round_slice(piece, format, rounding, false, number as u64 * 77);
        }
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&whole), bits(&pieces), "{format}");
        let Some(dtype) = format.dtype() else { continue };
        let from_f32 = Tensor::from_f32(dtype, vec![values.len()], values.as_slice(), rounding, false);
        let wide: Vec<f64> = values.iter().map(|&v| v.into()).collect();
        assert_eq!(
            from_f32.bytes(),
            Tensor::from_f64(dtype, vec![values.len()], wide, rounding, false).bytes()
        );
        assert_eq!(bits(&from_f32.to_f32().expect("numbers")), bits(&whole), "{format}");
    }
    let other = Rounding::Stochastic { seed: 43 };
    let half =
        |rounding| Tensor::from_f32(DType::F16, vec![values.len()], values.as_slice(), rounding, false);
    assert_ne!(half(rounding).bytes(), half(other).bytes(), "the seed matters");
}

/// Rounding of many numbers is unbiased: the mean error of a sum vanishes where rounding to nearest drifts.
#[test]
fn a_sum_does_not_stagnate() {
    let how = orrery_numerics::Accumulation {
        rounding: Rounding::Stochastic { seed: 3 },
        ..orrery_numerics::Accumulation::new(Format::FP16)
    };
    let terms = || std::iter::repeat_n(1.0 / 4.0, 16_384);
    let nearest = orrery_numerics::Accumulation::new(Format::FP16).sum(terms(), 0);
    assert_eq!(nearest, 512.0, "a quarter is half a step at 512");
    let mean = (0..32).map(|index| how.sum(terms(), index)).sum::<f64>() / 32.0;
    assert!((mean - 4096.0).abs() < 64.0, "{mean}");
}
