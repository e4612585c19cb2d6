//! Microscaling blocks and integer quantisation.

use orrery_numerics::microscaling::{BLOCK, Blocks, pack_nibbles, unpack_nibbles};
use orrery_numerics::quantise::Affine;
use orrery_numerics::{DType, Format, Rounding, random_unit};
use proptest::prelude::*;

fn mxfp4(values: &[f32]) -> Blocks {
    Blocks::quantise(values, Format::E2M1, BLOCK, Rounding::NearestEven)
}

#[test]
fn a_block_has_the_scale_of_its_largest() {
    // The largest is 12 = 1.5 · 2^3; the largest e2m1 is 6 = 1.5 · 2^2: the scale is 2.
    let blocks = mxfp4(&[12.0, -3.0, 1.0, 0.4, 0.0, 11.0]);
    assert_eq!(blocks.scales, [128]);
    assert_eq!(blocks.dequantise(), [12.0, -3.0, 1.0, 0.0, 0.0, 12.0]);
    // 7 · 2 would be 14: above the largest element it saturates.
    assert_eq!(mxfp4(&[15.9]).dequantise(), [12.0]);
    assert_eq!(mxfp4(&[16.0]).dequantise(), [16.0]);
}

#[test]
fn each_block_stands_alone() {
    let values: Vec<f32> = (0..70).map(|i| (i / BLOCK * 10) as f32).map(f32::exp2).collect();
    let blocks = mxfp4(&values);
    assert_eq!(blocks.scales, [125, 135, 145]);
    assert_eq!(blocks.dequantise(), values);
}

#[test]
fn extremes() {
    assert_eq!(mxfp4(&[0.0; 32]).scales, [0]);
    assert_eq!(mxfp4(&[0.0, -0.0]).dequantise(), [0.0, 0.0]);
    // The scale of the smallest numbers ends at 2^-127, that of the largest is 2^125.
    assert_eq!(mxfp4(&[f32::from_bits(1)]).scales, [0]);
    assert_eq!(mxfp4(&[f32::MAX]).scales, [252]);
    for special in [f32::NAN, f32::INFINITY] {
        let blocks = mxfp4(&[1.0, special]);
        assert_eq!(blocks.scales, [255]);
        assert!(blocks.dequantise().iter().all(|v| v.is_nan()));
    }
}

#[test]
fn the_other_formats_of_ocp_work_alike() {
    let values: Vec<f32> = (0..64).map(|i| random_unit(1, i) as f32 - 0.5).collect();
    // The binade from 1/4 to 1/2 ends at 1.5, 1.75 and 1.75 of its start: what lies beyond saturates.
    for (element, error) in [(Format::E2M1, 0.125), (Format::E4M3FN, 0.0625), (Format::E5M2, 0.0625)] {
        let back = Blocks::quantise(&values, element, BLOCK, Rounding::NearestEven).dequantise();
        for (a, b) in values.iter().zip(back) {
            assert!((a - b).abs() <= error, "{element}: {a} {b}");
        }
    }
}

#[test]
fn nibbles_pack_low_half_first() {
    assert_eq!(pack_nibbles(&[1, 2, 15, 0, 7]), [0x21, 0x0f, 0x07]);
    assert_eq!(unpack_nibbles(&[0x21, 0x0f]), [1, 2, 15, 0]);
}

proptest! {
    #[test]
    fn quantised_numbers_quantise_to_themselves(scale in 0_u8..252, codes in proptest::collection::vec(0_u8..16, 31)) {
        // With an element of the highest binade the scale is the same again.
        let mut codes = codes;
        codes.push(7);
        let values = Blocks { element: Format::E2M1, block: BLOCK, scales: vec![scale], codes }.dequantise();
        let again = mxfp4(&values);
        prop_assert_eq!(&again.scales, &[scale]);
        prop_assert_eq!(again.dequantise(), values);
    }

    #[test]
    fn elements_are_the_nearest_of_all(values in proptest::collection::vec(-100.0_f32..100.0, 32)) {
        let blocks = mxfp4(&values);
        let scale = Format::E8M0.decode(blocks.scales[0].into());
        for (value, got) in values.iter().zip(blocks.dequantise()) {
            let distance = |code| (Format::E2M1.decode(code) * scale - f64::from(*value)).abs();
            let least = (0..16).map(distance).fold(f64::INFINITY, f64::min);
            prop_assert_eq!((f64::from(got) - f64::from(*value)).abs(), least);
        }
    }

    #[test]
    fn integers_come_back_within_half_a_step(values in proptest::collection::vec(-50.0_f32..70.0, 1..40)) {
        for dtype in [DType::I8, DType::I4, DType::U8, DType::U4, DType::I16] {
            let covering = Affine::covering(dtype, &values);
            let schemes = if dtype.is_signed_int() {
                vec![covering, Affine::symmetric(dtype, &values)]
            } else {
                vec![covering]
            };
            for scheme in schemes {
                prop_assert_eq!(scheme.dequantise(scheme.quantise(0.0)), 0.0);
                for &value in &values {
                    let back = scheme.dequantise(scheme.quantise(value));
                    // A zero point rounded up takes half a step from the end of the range.
                    prop_assert!((back - value).abs() <= scheme.scale * 1.001, "{:?} {} {}", scheme, value, back);
                }
            }
        }
    }
}

#[test]
fn onnx_examples() {
    // The example of DynamicQuantizeLinear.
    let values = [0.0, 2.0, -3.0, -2.5, 1.34, 0.5];
    let scheme = Affine::covering(DType::U8, &values);
    assert_eq!((scheme.scale, scheme.zero_point), (0.019_607_844, 153));
    assert_eq!(values.map(|v| scheme.quantise(v)), [153, 255, 0, 26, 221, 179]);
    // That of QuantizeLinear and DequantizeLinear.
    let scheme = Affine { dtype: DType::U8, scale: 2.0, zero_point: 128 };
    assert_eq!(
        [0.0, 2.0, 3.0, 1000.0, -254.0, -1000.0].map(|v| scheme.quantise(v)),
        [128, 129, 130, 255, 1, 0]
    );
    assert_eq!([0, 3, 128, 255].map(|v| scheme.dequantise(v)), [-256.0, -250.0, 0.0, 254.0]);
    assert_eq!(Affine::symmetric(DType::I8, &[0.0]), Affine { dtype: DType::I8, scale: 1.0, zero_point: 0 });
    assert_eq!(scheme.quantise(f32::NAN), 128);
}
