//! The cast between all pairs of types, by the tables and sentences of ONNX `Cast`.

use orrery_base::Diagnostic;
use orrery_numerics::{CastError, DType, Rounding, Tensor, cast};

const NEAREST: Rounding = Rounding::NearestEven;

fn f32s(values: &[f32]) -> Tensor {
    Tensor::from_vec(vec![values.len()], values.to_vec())
}
fn strings(values: &[&str]) -> Tensor {
    Tensor::from_strings(vec![values.len()], values.iter().map(ToString::to_string).collect())
}
fn to(tensor: &Tensor, dtype: DType) -> Tensor {
    cast(tensor, dtype, NEAREST, true).expect("a cast that ONNX has")
}
fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_f64().expect("numbers").into_owned()
}

#[test]
fn every_pair_of_types_carries_small_numbers() {
    let common = [0_i64, 1, 1, 0];
    for from in DType::ALL {
        for target in DType::ALL {
            if from.is_complex() || target.is_complex() {
                let none = match from {
                    DType::Str => strings(&[]),
                    _ => Tensor::from_raw(from, vec![0], Vec::<u8>::new()),
                };
                let expected = if from == target {
                    Ok(none.clone())
                } else {
                    Err(CastError::Unsupported { from, to: target })
                };
                assert_eq!(cast(&none, target, NEAREST, true), expected);
                continue;
            }
            // 0 is no number of e8m0.
            let values = if [from, target].contains(&DType::F8E8M0) { [1, 1, 1, 1] } else { common };
            let source = if from == DType::Str {
                strings(&values.map(|v| if v == 0 { "0" } else { "1" }))
            } else {
                Tensor::from_i64(from, vec![2, 2], values.as_slice())
            };
            let there = to(&source, target);
            assert_eq!((there.dtype(), there.shape()), (target, source.shape()));
            if target == DType::Str {
                assert_eq!(there.strings(), values.map(|v| v.to_string()), "{from}");
            } else {
                assert_eq!(there.to_i64().expect("numbers").as_ref(), values, "{from} to {target}");
            }
        }
    }
}

#[test]
fn fp8_follows_the_two_tables() {
    let values = f32s(&[0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e6, -1e6, 1.0625]);
    let saturating: [(DType, [u8; 8]); 4] = [
        (DType::F8E4M3FN, [0x00, 0x80, 0x7f, 0x7e, 0xfe, 0x7e, 0xfe, 0x38]),
        (DType::F8E4M3FNUZ, [0x00, 0x00, 0x80, 0x7f, 0xff, 0x7f, 0xff, 0x40]),
        (DType::F8E5M2, [0x00, 0x80, 0x7e, 0x7b, 0xfb, 0x7b, 0xfb, 0x3c]),
        (DType::F8E5M2FNUZ, [0x00, 0x00, 0x80, 0x7f, 0xff, 0x7f, 0xff, 0x40]),
    ];
    for (dtype, codes) in saturating {
        assert_eq!(cast(&values, dtype, NEAREST, true).unwrap().bytes(), codes, "{dtype}");
    }
    let open: [(DType, [u8; 8]); 4] = [
        (DType::F8E4M3FN, [0x00, 0x80, 0x7f, 0x7f, 0xff, 0x7f, 0xff, 0x38]),
        (DType::F8E4M3FNUZ, [0x00, 0x00, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40]),
        (DType::F8E5M2, [0x00, 0x80, 0x7e, 0x7c, 0xfc, 0x7c, 0xfc, 0x3c]),
        (DType::F8E5M2FNUZ, [0x00, 0x00, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40]),
    ];
    for (dtype, codes) in open {
        assert_eq!(cast(&values, dtype, NEAREST, false).unwrap().bytes(), codes, "{dtype}");
    }
}

#[test]
fn saturation_leaves_wide_types_alone() {
    let values = f32s(&[1e30, f32::INFINITY, -1e30]);
    for saturate in [true, false] {
        let half = numbers(&cast(&values, DType::F16, NEAREST, saturate).unwrap());
        assert_eq!(half, [f64::INFINITY, f64::INFINITY, f64::NEG_INFINITY]);
    }
}

#[test]
fn e8m0_has_its_round_modes() {
    let values = f32s(&[1.0, 1.25, 1.5, 1.75, 3.0, 0.0, f32::NAN, f32::INFINITY, f32::MAX, 1e-42]);
    let codes =
        |rounding, saturate| cast(&values, DType::F8E8M0, rounding, saturate).unwrap().bytes().to_vec();
    assert_eq!(
        codes(Rounding::AwayFromZero, true),
        [127, 128, 128, 128, 129, 0, 255, 254, 254, 0],
        "saturate and up"
    );
    assert_eq!(codes(Rounding::TowardZero, true), [127, 127, 127, 127, 128, 0, 255, 254, 254, 0], "down");
    assert_eq!(
        codes(Rounding::NearestAway, false),
        [127, 127, 128, 128, 129, 255, 255, 255, 255, 0],
        "non-saturate and nearest"
    );
}

#[test]
fn floats_to_integers_truncate_and_stop_at_the_ends() {
    let values = f32s(&[2.9, -2.9, 300.0, -300.0, f32::NAN, f32::INFINITY, -0.5]);
    let cases: [(DType, [i64; 7]); 8] = [
        (DType::I8, [2, -2, 127, -128, 0, 127, 0]),
        (DType::U8, [2, 0, 255, 0, 0, 255, 0]),
        (DType::I4, [2, -2, 7, -8, 0, 7, 0]),
        (DType::U4, [2, 0, 15, 0, 0, 15, 0]),
        (DType::I2, [1, -2, 1, -2, 0, 1, 0]),
        (DType::U2, [2, 0, 3, 0, 0, 3, 0]),
        (DType::I32, [2, -2, 300, -300, 0, i32::MAX as i64, 0]),
        (DType::Bool, [1, 1, 1, 1, 1, 1, 1]),
    ];
    for (dtype, expected) in cases {
        assert_eq!(to(&values, dtype).to_i64().unwrap().as_ref(), expected, "{dtype}");
    }
    let unsigned = to(&f32s(&[-1.0, 1.5, 1e20]), DType::U64);
    assert_eq!(unsigned.values::<u64>().unwrap().as_ref(), [0, 1, u64::MAX]);
    assert_eq!(numbers(&to(&f32s(&[0.0, -0.0, 0.1]), DType::Bool)), [0.0, 0.0, 1.0]);
}

#[test]
fn integers_wrap_and_become_floats_in_one_rounding() {
    let values = Tensor::from_vec(vec![3], vec![200_i16, -1, 36]);
    assert_eq!(to(&values, DType::I8).to_i64().unwrap().as_ref(), [-56, -1, 36]);
    assert_eq!(to(&values, DType::U64).values::<u64>().unwrap().as_ref(), [200, u64::MAX, 36]);
    assert_eq!(to(&values, DType::Bool).bytes(), [1, 1, 1]);
    // By way of binary64 this would first become a tie, and then be rounded to even.
    let large = Tensor::from_vec(vec![2], vec![(1_i64 << 60) + (1 << 36) + 1, -(1 << 24) - 1]);
    assert_eq!(
        to(&large, DType::F32).values::<f32>().unwrap().as_ref(),
        [2_f32.powi(60) + 2_f32.powi(37), -16_777_216.0]
    );
    let unsigned = Tensor::from_vec(vec![1], vec![u64::MAX]);
    assert_eq!(numbers(&to(&unsigned, DType::F64)), [2_f64.powi(64)]);
    assert_eq!(numbers(&to(&unsigned, DType::F16)), [f64::INFINITY]);
    assert_eq!(to(&unsigned, DType::I64).to_i64().unwrap().as_ref(), [-1]);
}

#[test]
fn strings_read_as_numbers() {
    let text = strings(&["0.47892547", "1000000", "1e-7", "1E8", "NaN", "INF", "+inf", "-Inf", " 2.5 "]);
    let expected =
        [0.478_925_47, 1e6, 1e-7, 1e8, f32::NAN, f32::INFINITY, f32::INFINITY, f32::NEG_INFINITY, 2.5];
    let read = to(&text, DType::F32);
    for (&got, &expected) in read.to_f32().unwrap().iter().zip(&expected) {
        assert!(got == expected || got.is_nan() && expected.is_nan(), "{got} for {expected}");
    }
    assert_eq!(numbers(&to(&strings(&["70000", "-0.1"]), DType::F16)), [f64::INFINITY, -0.099_975_585_937_5]);
    assert_eq!(numbers(&to(&strings(&["100.5", "-3", "1e3"]), DType::I32)), [100.0, -3.0, 1000.0]);
    let unsigned = to(&strings(&["18446744073709551615"]), DType::U64);
    assert_eq!(unsigned.values::<u64>().unwrap().as_ref(), [u64::MAX]);
    assert_eq!(to(&strings(&["True", "false", "0", "2"]), DType::Bool).bytes(), [1, 0, 0, 1]);
}

#[test]
fn strings_that_are_no_numbers_are_named() {
    for (text, dtype) in [
        ("Hello World!", DType::F32),
        ("", DType::F64),
        ("0x10", DType::I64),
        ("nan", DType::I32),
        ("-1", DType::U64),
        ("1e30", DType::I64),
        ("yes", DType::Bool),
    ] {
        let error = cast(&strings(&["1", text]), dtype, NEAREST, true).unwrap_err();
        assert_eq!(error, CastError::NotANumber { index: 1, text: text.into(), to: dtype });
    }
    let error = strings(&["1"]).to_f32().unwrap_err();
    assert_eq!(error, CastError::NotNumbers { from: DType::Str });
    assert_eq!(Box::<Diagnostic>::from(error).code, "tensor-not-numbers");
}

#[test]
fn numbers_print_as_the_shortest_decimal() {
    let values = f32s(&[314.159_27, 0.1, 1.0, -0.0, 1e-7, 1e20, f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
    assert_eq!(
        to(&values, DType::Str).strings(),
        ["314.15927", "0.1", "1", "-0", "1e-7", "1e20", "NaN", "INF", "-INF"]
    );
    let halves = to(&f32s(&[0.1, 65504.0, 1.0 / 3.0]), DType::F16);
    assert_eq!(to(&halves, DType::Str).strings(), ["0.1", "65500", "0.3333"]);
    let integers = Tensor::from_vec(vec![2], vec![u64::MAX, 0]);
    assert_eq!(to(&integers, DType::Str).strings(), ["18446744073709551615", "0"]);
    assert_eq!(to(&Tensor::from_bools(vec![2], [true, false]), DType::Str).strings(), ["1", "0"]);
}

#[test]
fn strings_carry_every_number_of_every_narrow_type_there_and_back() {
    for dtype in DType::ALL.into_iter().filter(|d| d.is_float() && d.bits() <= 16) {
        let count = 1_usize << dtype.bits();
        let every = if dtype.host_bytes() == 1 {
            Tensor::from_raw(dtype, vec![count], (0..count).map(|code| code as u8).collect())
        } else {
            Tensor::from_raw(dtype, vec![count], (0..count).map(|code| code as u16).collect())
        };
        let back = cast(&to(&every, DType::Str), dtype, NEAREST, false).unwrap();
        for (a, b) in numbers(&every).into_iter().zip(numbers(&back)) {
            assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "{dtype}: {a} {b}");
        }
    }
}
