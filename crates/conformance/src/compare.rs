//! Whether two values are the same, as far as an execution may differ.

use orrery_ir::op::Datum;
use orrery_numerics::{DType, Tensor};

/// Bound on the difference of floats: `absolute + relative * |expected|`.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Part of the expected value.
    pub relative: f64,
    /// Regardless of it.
    pub absolute: f64,
}

impl Default for Tolerance {
    /// What the ONNX backend tests use.
    fn default() -> Self {
        Self { relative: 1e-3, absolute: 1e-5 }
    }
}

/// Compares element types and shapes exactly, floats within the tolerance (NaN equals NaN), everything else exactly.
///
/// # Errors
/// The first difference.
pub fn same(expected: &Datum, got: &Datum, tolerance: Tolerance) -> Result<(), String> {
    match (expected, got) {
        (Datum::Tensor(expected), Datum::Tensor(got)) => same_tensor(expected, got, tolerance),
        (Datum::Sequence(expected), Datum::Sequence(got)) => {
            if expected.len() != got.len() {
                return Err(format!("a sequence of {} is expected, got {}", expected.len(), got.len()));
            }
            expected
                .iter()
                .zip(got)
                .enumerate()
                .try_for_each(|(i, (e, g))| same(e, g, tolerance).map_err(|why| format!("item {i}: {why}")))
        }
        (Datum::Optional(None), Datum::Optional(None)) => Ok(()),
        (Datum::Optional(Some(expected)), Datum::Optional(Some(got))) => same(expected, got, tolerance),
        _ => Err(format!("{expected:?} is expected, got {got:?}")),
    }
}

/// Compares element type and shape only, for results that depend on a seed.
///
/// # Errors
/// The first difference.
pub fn same_type(expected: &Datum, got: &Datum) -> Result<(), String> {
    match (expected, got) {
        (Datum::Tensor(e), Datum::Tensor(g)) if e.dtype() == g.dtype() && e.shape() == g.shape() => Ok(()),
        _ => Err(format!("{expected:?} is expected, got {got:?}")),
    }
}

fn same_tensor(expected: &Tensor, got: &Tensor, tolerance: Tolerance) -> Result<(), String> {
    if expected.dtype() != got.dtype() || expected.shape() != got.shape() {
        return Err(format!("{expected:?} is expected, got {got:?}"));
    }
    let dtype = expected.dtype();
    if dtype == DType::Str {
        return match expected.strings().iter().zip(got.strings()).position(|(e, g)| e != g) {
            None => Ok(()),
            Some(i) => {
                Err(format!("element {i} is {:?}, must be {:?}", got.strings()[i], expected.strings()[i]))
            }
        };
    }
    let (expected, got) = match dtype {
        DType::C64 => (parts_f32(expected), parts_f32(got)),
        DType::C128 => (expected.raw::<f64>().into_owned(), got.raw::<f64>().into_owned()),
        _ if dtype.is_float() => (floats(expected)?, floats(got)?),
        _ => {
            let width = dtype.host_bytes();
            let differ =
                expected.bytes().chunks(width).zip(got.bytes().chunks(width)).position(|(e, g)| e != g);
            return match differ {
                None => Ok(()),
                Some(i) => {
                    Err(format!("element {i} is {:?}, must be {:?}", integer(got, i), integer(expected, i)))
                }
            };
        }
    };
    let close = |e: f64, g: f64| {
        e == g
            || (e.is_nan() && g.is_nan())
            || (e.is_finite() && (e - g).abs() <= tolerance.absolute + tolerance.relative * e.abs())
    };
    let wrong: Vec<usize> = (0..expected.len()).filter(|&i| !close(expected[i], got[i])).collect();
    match wrong.first() {
        None => Ok(()),
        Some(&i) => Err(format!(
            "element {i} is {}, must be {} ({} of {} differ)",
            got[i],
            expected[i],
            wrong.len(),
            got.len()
        )),
    }
}

fn floats(tensor: &Tensor) -> Result<Vec<f64>, String> {
    Ok(tensor.to_f64().map_err(|e| e.to_string())?.into_owned())
}

fn parts_f32(tensor: &Tensor) -> Vec<f64> {
    tensor.raw::<f32>().iter().copied().map(f64::from).collect()
}

fn integer(tensor: &Tensor, at: usize) -> Option<i64> {
    tensor.to_i64().ok().map(|values| values[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_a_wrong_element_type_or_value() {
        let f = |v: Vec<f32>| Datum::from(Tensor::from_vec(vec![v.len()], v));
        let same = |a: &Datum, b: &Datum| same(a, b, Tolerance::default());
        assert!(
            same(&f(vec![1.0, f32::NAN, f32::INFINITY]), &f(vec![1.0005, f32::NAN, f32::INFINITY])).is_ok()
        );
        assert!(same(&f(vec![1.0]), &f(vec![1.01])).is_err());
        assert!(same(&f(vec![f32::NAN]), &f(vec![1.0])).is_err());
        assert!(same(&f(vec![f32::INFINITY]), &f(vec![1.0])).is_err());
        assert!(same(&f(vec![1.0]), &f(vec![1.0, 1.0])).is_err());
        let i = |v: Vec<i64>| Datum::from(Tensor::from_vec(vec![v.len()], v));
        assert!(same(&i(vec![3]), &i(vec![3])).is_ok());
        assert!(same(&i(vec![3000]), &i(vec![3001])).is_err());
        assert!(same(&i(vec![1]), &f(vec![1.0])).is_err());
    }
}
