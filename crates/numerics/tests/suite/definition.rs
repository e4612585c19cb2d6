//! Against definitions by exact real arithmetic: every value of every format of at most 19 bits, every midpoint, and
//! their binary64 neighbours. Binary64 holds all of these exactly.

use orrery_numerics::format::Flavour;
use orrery_numerics::{DType, Format, Rounding, Tensor, round_slice};
use proptest::prelude::*;

/// The non-negative finite values in order of their codes, written down from the definition of a format:
/// 2^(field - bias) · (1 + mantissa / 2^bits), or without the 1 for the field 0.
fn values(format: Format) -> Vec<f64> {
    let per_binade = 1_u64 << format.mantissa_bits;
    (0..=format.max_code())
        .map(|code| {
            let field = (code / per_binade) as i32;
            let fraction = (code % per_binade) as f64 / per_binade as f64;
            match format.flavour {
                Flavour::PowerOfTwo => 2_f64.powi(field - format.bias),
                _ if field == 0 => 2_f64.powi(1 - format.bias) * fraction,
                _ => 2_f64.powi(field - format.bias) * (1.0 + fraction),
            }
        })
        .collect()
}

fn small_formats() -> impl Iterator<Item = Format> {
    Format::ALL.into_iter().filter(|format| format.bits() <= 19)
}

#[test]
fn there_are_as_many_codes_as_the_vendors_say() {
    // cb16: 6 exponent and 9 mantissa bits: infinity at field 63. tf32: 8 and 10 bits.
    assert_eq!(values(Format::CB16).len(), 63 << 9);
    assert_eq!(values(Format::CB16).last(), Some(&(2_f64.powi(31) * (2.0 - 2_f64.powi(-9)))));
    assert_eq!(values(Format::TF32).len(), 255 << 10);
    assert_eq!(values(Format::TF32).last(), Some(&(2_f64.powi(127) * (2.0 - 2_f64.powi(-10)))));
    assert_eq!(values(Format::E2M1), [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
}

#[test]
fn every_code_decodes_to_its_definition_and_back() {
    for format in small_formats() {
        let values = values(format);
        for (code, &value) in values.iter().enumerate() {
            let code = code as u64;
            assert_eq!(format.decode(code), value, "{format} {code:#x}");
            assert_eq!(format.encode(value, Rounding::TowardZero, false, 0), code, "{format} {value}");
            if format.sign_code() != 0 && !(code == 0 && format.flavour == Flavour::FiniteNanUnsignedZero) {
                let negative = format.decode(code | format.sign_code());
                assert_eq!(negative, -value);
                assert!(negative.is_sign_negative());
                assert_eq!(
                    format.encode(negative, Rounding::NearestEven, false, 0),
                    code | format.sign_code()
                );
            }
        }
        // Every code that is left is infinity or NaN.
        for code in format.max_code() + 1..(1 << (format.exponent_bits + format.mantissa_bits)) {
            let special = format.decode(code);
            assert_eq!(special.is_infinite(), Some(code) == format.infinity_code(), "{format} {code:#x}");
            assert_eq!(special.is_nan(), !special.is_infinite(), "{format} {code:#x}");
        }
    }
}

/// What each rounding makes of a number between neighbours `low` and `low` + 1, given how it compares to the midpoint.
fn expected(low: u64, to_midpoint: std::cmp::Ordering, rounding: Rounding) -> u64 {
    let up = match rounding {
        Rounding::NearestEven => to_midpoint.is_gt() || to_midpoint.is_eq() && low % 2 == 1,
        Rounding::NearestAway => to_midpoint.is_ge(),
        Rounding::AwayFromZero => true,
        Rounding::TowardZero | Rounding::Stochastic { .. } => false,
    };
    low + u64::from(up)
}

const DETERMINISTIC: [Rounding; 4] =
    [Rounding::NearestEven, Rounding::NearestAway, Rounding::TowardZero, Rounding::AwayFromZero];

#[test]
fn midpoints_and_their_neighbours_round_by_the_definition() {
    for format in small_formats() {
        // One value beyond the largest, as with an unbounded exponent: rounding to it is overflow.
        let mut values = values(format);
        let step = values[values.len() - 1] - values[values.len() - 2];
        let beyond = match format.flavour {
            Flavour::PowerOfTwo => 2_f64.powi(128),
            _ => values[values.len() - 1] + step,
        };
        values.push(beyond);
        for (low, pair) in values.windows(2).enumerate() {
            let midpoint = (pair[0] + pair[1]) / 2.0;
            for value in
                [pair[0].next_up(), midpoint.next_down(), midpoint, midpoint.next_up(), pair[1].next_down()]
            {
                for rounding in DETERMINISTIC {
                    // The single bit of e8m0 is always odd, so that its ties go up.
                    let odd = u64::from(format.flavour == Flavour::PowerOfTwo);
                    let even = low as u64 | odd;
                    let up = expected(even, value.total_cmp(&midpoint), rounding) - even;
                    let code = low as u64 + up;
                    for negative in [false, true] {
                        if negative && format.sign_code() == 0 {
                            continue;
                        }
                        let signed = if negative { -value } else { value };
                        let sign = if negative { format.sign_code() } else { 0 };
                        let saturated = format.encode(signed, rounding, true, 0);
                        let open = format.encode(signed, rounding, false, 0);
                        let context = format!("{format} {signed:e} {rounding:?}");
                        if code > format.max_code() {
                            assert_eq!(saturated, format.max_code() | sign, "{context}");
                            let special = format.infinity_code().or(format.nan_code());
                            assert_eq!(open, special.unwrap_or(format.max_code()) | sign, "{context}");
                        } else if code == 0 && format.flavour == Flavour::FiniteNanUnsignedZero {
                            assert_eq!((saturated, open), (0, 0), "{context}");
                        } else {
                            assert_eq!((saturated, open), (code | sign, code | sign), "{context}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn special_numbers() {
    let nearest = |format: Format, value, saturate| format.encode(value, Rounding::NearestEven, saturate, 0);
    for format in small_formats() {
        if let Some(nan) = format.nan_code() {
            assert_eq!(nearest(format, f64::NAN, true), nan, "{format}");
        }
        assert_eq!(nearest(format, f64::INFINITY, true), format.max_code(), "{format}");
        assert_eq!(nearest(format, f64::MAX, true), format.max_code(), "{format}");
        assert_eq!(
            format.encode(f64::MAX, Rounding::TowardZero, false, 0),
            format.max_code(),
            "{format}: toward zero there is no overflow"
        );
    }
    assert_eq!(nearest(Format::FP16, f64::NEG_INFINITY, false), 0xfc00);
    assert_eq!(nearest(Format::E4M3FN, f64::NEG_INFINITY, false), 0xff);
    assert_eq!(nearest(Format::E4M3FNUZ, f64::NEG_INFINITY, false), 0x80);
    assert_eq!(nearest(Format::E4M3FNUZ, -0.0, false), 0);
    assert_eq!(nearest(Format::E4M3FN, -0.0, false), 0x80);
    assert_eq!(nearest(Format::E2M1, f64::INFINITY, false), 7);
    for (value, saturated, open) in [
        (0.0, 0, 0xff),
        (-1.0, 0xff, 0xff),
        (f64::INFINITY, 0xfe, 0xff),
        (f64::NEG_INFINITY, 0xff, 0xff),
        (1e-300, 0, 0),
        (1e300, 0xfe, 0xff),
    ] {
        assert_eq!(nearest(Format::E8M0, value, true), saturated, "{value}");
        assert_eq!(nearest(Format::E8M0, value, false), open, "{value}");
    }
}

/// The conversions that the processor has are an oracle for binary32.
#[test]
fn f64_to_f32_is_what_the_processor_does() {
    let mut bits = 0x1234_5678_9abc_def0_u64;
    for _ in 0..200_000 {
        bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Exponents around the range of binary32, its subnormals and overflow included.
        let value = f64::from_bits(bits & !(0x7ff << 52) | (1023 - 160 + (bits >> 40) % 300) << 52);
        assert_eq!(Format::FP32.nearest(value), f64::from(value as f32), "{value:e}");
        let traps = f64::from(value as f32);
        for trap in [traps.next_up(), traps.next_down()] {
            assert_eq!(Format::FP32.nearest(trap), f64::from(trap as f32), "{trap:e}");
        }
    }
}

/// Values, midpoints and their binary32 neighbours of every small format, both signs, and special numbers.
fn f32_neighbourhoods(format: Format) -> Vec<f32> {
    let values = values(format);
    let mut numbers = vec![f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, -0.0];
    for pair in values.windows(2) {
        for number in [pair[0] as f32, ((pair[0] + pair[1]) / 2.0) as f32, pair[1] as f32] {
            for near in [number.next_down(), number, number.next_up()] {
                numbers.extend([near, -near]);
            }
        }
    }
    numbers
}

#[test]
fn slices_round_and_encode_as_the_scalar_definition() {
    for format in small_formats() {
        let numbers = f32_neighbourhoods(format);
        for saturate in [false, true] {
            let mut rounded = numbers.clone();
            round_slice(&mut rounded, format, Rounding::NearestEven, saturate, 0);
            let stored = format.dtype().map(|dtype| {
                let shape = vec![numbers.len()];
                let tensor =
                    Tensor::from_f32(dtype, shape, numbers.as_slice(), Rounding::NearestEven, saturate);
                (tensor.to_f32().expect("numbers").into_owned(), tensor)
            });
            for (position, &number) in numbers.iter().enumerate() {
                let code = format.encode(number.into(), Rounding::NearestEven, saturate, 0);
                let value = format.decode(code) as f32;
                let same = |got: f32| got.to_bits() == value.to_bits() || got.is_nan() && value.is_nan();
                assert!(same(rounded[position]), "{format} {number:e}: {} for {value}", rounded[position]);
                if let Some((decoded, tensor)) = &stored {
                    assert!(same(decoded[position]), "{format} {number:e}: {}", decoded[position]);
                    let got = match tensor.dtype().host_bytes() {
                        1 => u64::from(tensor.bytes()[position]),
                        _ => u64::from(tensor.raw::<u16>()[position]),
                    };
                    assert_eq!(got, code, "{format} {number:e}");
                }
            }
        }
    }
}

/// `round` has a short way of its own: it gives the value of the code.
#[test]
fn rounding_gives_the_value_of_the_code() {
    for format in small_formats().chain([Format::FP32]) {
        let numbers = f32_neighbourhoods(if format == Format::FP32 { Format::FP16 } else { format });
        for (index, number) in (0..).zip(numbers) {
            let number = f64::from(number);
            for value in [number, number.next_up(), number.next_down()] {
                for rounding in
                    [Rounding::NearestEven, Rounding::TowardZero, Rounding::Stochastic { seed: 1 }]
                {
                    let got = format.round(value, rounding, false, index);
                    let expected = format.decode(format.encode(value, rounding, false, index));
                    assert!(
                        got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan(),
                        "{format} {value:e} {rounding:?}: {got} for {expected}"
                    );
                }
            }
        }
    }
}

fn any_format() -> impl Strategy<Value = Format> {
    proptest::sample::select(Format::ALL.to_vec())
}
fn any_rounding() -> impl Strategy<Value = Rounding> {
    prop_oneof![
        proptest::sample::select(DETERMINISTIC.to_vec()),
        any::<u64>().prop_map(|seed| Rounding::Stochastic { seed }),
    ]
}
/// Binary64 numbers with exponents around those of the formats, as often as any bits at all.
fn any_number() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<u64>().prop_map(f64::from_bits),
        (any::<u64>(), -160_i64..160).prop_map(|(bits, exponent)| {
            f64::from_bits(bits & !(0x7ff << 52) | ((1023 + exponent) as u64) << 52)
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, max_global_rejects: 65_536, ..ProptestConfig::default() })]

    #[test]
    fn rounding_is_monotone(format in any_format(), rounding in any_rounding(), a in any_number(), b in any_number(),
        saturate: bool, index: u64) {
        prop_assume!(!a.is_nan() && !b.is_nan());
        let (a, b) = (a.min(b), a.max(b));
        let (low, high) =
            (format.round(a, rounding, saturate, index), format.round(b, rounding, saturate, index));
        prop_assert!(low <= high || low.is_nan() || high.is_nan(), "{low} {high}");
    }

    #[test]
    fn rounding_again_changes_nothing(format in any_format(), rounding in any_rounding(), value in any_number(),
        saturate: bool, index: u64) {
        let once = format.round(value, rounding, saturate, index);
        let twice = format.round(once, rounding, saturate, index);
        prop_assert!(once.to_bits() == twice.to_bits() || once.is_nan() && twice.is_nan(), "{once} {twice}");
    }

    #[test]
    fn the_error_is_within_the_stated_one(format in any_format(), rounding in any_rounding(), value in any_number(),
        index: u64) {
        prop_assume!(value.abs() <= format.max_finite() && (format.sign_code() != 0 || value > 0.0));
        let error = (format.round(value, rounding, true, index) - value).abs();
        let relative = format.relative_error(rounding) * value.abs();
        prop_assert!(error <= relative.max(format.absolute_error(rounding)), "{value:e} {error:e}");
    }

    #[test]
    fn the_sign_does_not_matter(format in any_format(), rounding in any_rounding(), value in any_number(), index: u64) {
        prop_assume!(format.sign_code() != 0 && !value.is_nan());
        let (plus, minus) = (format.round(value, rounding, false, index), format.round(-value, rounding, false, index));
        prop_assert!(plus == -minus || plus.is_nan() && minus.is_nan());
    }

    #[test]
    fn bytes_of_any_alignment_convert(values in proptest::collection::vec(any::<f32>(), 1..50)) {
        // A slice of a mapped file starts anywhere.
        let aligned = Tensor::from_vec(vec![values.len()], values.clone());
        let mut shifted = vec![0_u8];
        shifted.extend_from_slice(aligned.bytes());
        let shifted = bytes::Bytes::from(shifted).slice(1..);
        let tensor = Tensor::from_bytes(DType::F32, vec![values.len()], shifted).expect("as many bytes");
        let same = tensor.to_f32().expect("numbers").iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits());
        prop_assert!(same);
    }
}
