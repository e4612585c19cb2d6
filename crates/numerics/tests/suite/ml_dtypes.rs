//! Against tables that numpy and ml_dtypes made (`tests/oracle/ml_dtypes_tables.py`).

use orrery_numerics::{DType, Format, Rounding, Tensor, cast};
use std::path::PathBuf;

const NARROW: [&str; 7] = ["e4m3fn", "e4m3fnuz", "e4m3", "e5m2", "e5m2fnuz", "e2m1", "e8m0"];
const WIDE: [&str; 2] = ["fp16", "bf16"];

/// The folder with the tables. Without it the test is skipped, which continuous integration does not allow.
fn tables() -> Option<PathBuf> {
    let cache = std::env::var_os("ORRERY_CACHE")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache")), PathBuf::from);
    let folder = cache.join("ml_dtypes");
    if folder.join("VERSIONS").exists() {
        return Some(folder);
    }
    assert!(std::env::var_os("CI").is_none(), "the tables of ml_dtypes are missing in {}", folder.display());
    println!(
        "skipped: no tables in {}; python tests/oracle/ml_dtypes_tables.py makes them",
        folder.display()
    );
    None
}

fn table<T: bytemuck::Pod>(folder: &std::path::Path, name: &str) -> Vec<T> {
    let bytes = std::fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    bytemuck::allocation::pod_collect_to_vec(&bytes)
}

fn codes(folder: &std::path::Path, source: &str, target: &str) -> Vec<u16> {
    if WIDE.contains(&target) {
        table(folder, &format!("{source}_to_{target}.u16"))
    } else {
        table::<u8>(folder, &format!("{source}_to_{target}.u8")).into_iter().map(u16::from).collect()
    }
}

fn named(name: &str) -> (Format, DType) {
    let format = Format::parse(name).expect("a name of the table");
    (format, format.dtype().expect("a stored format"))
}

/// The codes of a tensor of a float type of at most 16 bits.
fn stored(tensor: &Tensor) -> Vec<u16> {
    if tensor.dtype().host_bytes() == 1 {
        tensor.bytes().iter().map(|&code| code.into()).collect()
    } else {
        tensor.raw::<u16>().into_owned()
    }
}

/// The same code, or, where a format has many NaNs, NaN of the same sign.
fn same(format: Format, got: u16, expected: u16) -> bool {
    let (a, b) = (format.decode(got.into()), format.decode(expected.into()));
    got == expected || a.is_nan() && b.is_nan() && a.is_sign_negative() == b.is_sign_negative()
}

#[test]
fn every_code_decodes_as_there() {
    let Some(folder) = tables() else { return };
    for name in NARROW.into_iter().chain(WIDE) {
        let (format, dtype) = named(name);
        let expected: Vec<f32> = table(&folder, &format!("{name}.decode.f32"));
        assert_eq!(expected.len(), 1 << format.bits());
        let shape = vec![expected.len()];
        let tensor = if dtype.host_bytes() == 1 {
            Tensor::from_raw(dtype, shape, (0..expected.len()).map(|code| code as u8).collect())
        } else {
            Tensor::from_raw(dtype, shape, (0..expected.len()).map(|code| code as u16).collect())
        };
        let bulk = tensor.to_f32().expect("numbers");
        for (code, &value) in expected.iter().enumerate() {
            let scalar = format.decode(code as u64) as f32;
            for got in [scalar, bulk[code]] {
                let equal = got.to_bits() == value.to_bits() || got.is_nan() && value.is_nan();
                assert!(equal, "{name} code {code:#x}: {got} for {value}");
            }
        }
    }
}

/// Checks the scalar and the bulk conversion of `values` against `expected` codes of the format `name`; gives the codes.
fn check(name: &str, values: &[f32], expected: &[u16]) -> Vec<u16> {
    let (format, dtype) = named(name);
    assert_eq!(values.len(), expected.len());
    let bulk = Tensor::from_f32(dtype, vec![values.len()], values, Rounding::NearestEven, false);
    let bulk = stored(&bulk);
    let smallest = Format::E8M0.min_normal() as f32;
    for (position, (&value, &code)) in values.iter().zip(expected).enumerate() {
        let scalar = format.encode(value.into(), Rounding::NearestEven, false, 0) as u16;
        let shown = value.to_bits();
        if name == "e8m0" && (smallest..1.5 * smallest).contains(&value) && value != smallest {
            // The one place where the oracle does not give the nearest value.
            assert_eq!((scalar, code, bulk[position]), (0, 1, 0), "e8m0 of {value} ({shown:#x})");
            continue;
        }
        assert!(same(format, scalar, code), "{name} of {value} ({shown:#x}): {scalar:#x} for {code:#x}");
        // Bulk and scalar agree to the bit, NaN included.
        assert_eq!(bulk[position], scalar, "{name} of {value} ({shown:#x}) in bulk");
    }
    bulk
}

#[test]
fn f32_rounds_as_there() {
    let Some(folder) = tables() else { return };
    let inputs: Vec<f32> = table(&folder, "inputs.f32");
    assert!(inputs.len() > 1_000_000);
    for name in NARROW.into_iter().chain(WIDE) {
        check(name, &inputs, &codes(&folder, "f32", name));
    }
}

#[test]
fn every_f16_and_bf16_rounds_as_there() {
    let Some(folder) = tables() else { return };
    for source in WIDE {
        let (_, from) = named(source);
        let every = Tensor::from_raw(from, vec![1 << 16], (0..=u16::MAX).collect());
        for name in NARROW.into_iter().chain(WIDE).filter(|&name| name != source) {
            let (_, dtype) = named(name);
            let values = every.to_f32().expect("numbers");
            let checked = check(name, &values, &codes(&folder, source, name));
            let by_cast = cast(&every, dtype, Rounding::NearestEven, false).expect("between floats");
            assert_eq!(stored(&by_cast), checked, "{source} to {name}");
        }
    }
}

#[test]
fn f64_rounds_to_f16_once() {
    let Some(folder) = tables() else { return };
    let inputs: Vec<f64> = table(&folder, "inputs.f64");
    let expected: Vec<u16> = table(&folder, "f64_to_fp16.u16");
    let bulk =
        Tensor::from_f64(DType::F16, vec![inputs.len()], inputs.as_slice(), Rounding::NearestEven, false);
    let mut twice = 0;
    for ((&value, &code), &got) in inputs.iter().zip(&expected).zip(bulk.raw::<u16>().iter()) {
        assert_eq!(got, code, "{value:e}");
        twice += usize::from(half::f16::from_f32(value as f32).to_bits() != code);
    }
    assert!(twice > 10_000, "the inputs catch rounding by way of binary32: {twice}");
}

#[test]
fn narrow_integers_wrap_as_there() {
    let Some(folder) = tables() else { return };
    let every: Vec<i64> = (-512..512).collect();
    for (name, dtype) in [("i4", DType::I4), ("u4", DType::U4), ("i2", DType::I2), ("u2", DType::U2)] {
        let expected: Vec<i8> = table(&folder, &format!("integers_to_{name}.i8"));
        let got = Tensor::from_i64(dtype, vec![every.len()], every.as_slice());
        assert!(got.bytes().iter().all(|&byte| u64::from(byte) < 1 << dtype.bits()), "high bits are zero");
        let got: Vec<i8> = got.to_i64().expect("numbers").iter().map(|&v| v as i8).collect();
        assert_eq!(got, expected, "{name}");
    }
}
