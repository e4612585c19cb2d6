//! Running graphs on random inputs, and comparing what comes out.

use orrery_base::Result;
use orrery_ir::op::Datum;
use orrery_ir::weights::{hash64, normal};
use orrery_ir::{Bindings, Graph, infer, interpret};
use orrery_numerics::{DType, Rounding, Tensor, cast};

/// Roundings by which two orders of the same small computation may differ, relative to the largest magnitude.
pub(crate) const ROUNDINGS: f64 = 16.0;

/// A graph with its types inferred.
pub(crate) fn typed(mut graph: Graph) -> Result<Graph> {
    infer::infer(&mut graph)?;
    Ok(graph)
}

/// Random inputs for a graph: floats around zero, integers from 0 to 7, bools.
pub(crate) fn inputs(graph: &Graph, bindings: &Bindings, seed: u64) -> Vec<Datum> {
    let make = |(i, id): (usize, &orrery_ir::ValueId)| {
        let ty = graph.values[*id].ty.bind(bindings);
        let ty = ty.as_tensor().expect("inputs are tensors");
        let shape = ty.extents().unwrap_or_else(|| panic!("`{}` is open: {ty}", graph.values[*id].name));
        let count = shape.iter().product();
        let seed = hash64(seed, i as u64);
        let tensor = if ty.dtype.is_float() {
            Tensor::from_vec(shape, normal(seed, count, 0.0, 1.0))
        } else {
            let most = if ty.dtype == DType::Bool { 2 } else { 8 };
            Tensor::from_vec(
                shape,
                (0..count as u64).map(|k| (hash64(seed, k) % most) as i64).collect::<Vec<_>>(),
            )
        };
        cast(&tensor, ty.dtype, Rounding::NearestEven, false).expect("numbers").into()
    };
    graph.inputs.iter().enumerate().map(make).collect()
}

/// Outputs of the interpreter.
pub(crate) fn run(graph: &Graph, inputs: &[Datum]) -> std::result::Result<Vec<Tensor>, String> {
    let outputs = interpret::run(graph, inputs.to_vec(), 1).map_err(|d| d.to_string())?;
    outputs
        .iter()
        .map(|o| o.as_tensor().cloned().ok_or_else(|| "an output is no tensor".to_owned()))
        .collect()
}

/// Checks that outputs agree: same types and shapes, integers equal, floats within `tolerance` of the largest magnitude.
pub(crate) fn compare(
    graph: &Graph,
    expected: &[Tensor],
    got: &[Tensor],
    tolerance: f64,
) -> std::result::Result<(), String> {
    if expected.len() != got.len() {
        return Err(format!("{} outputs are expected, got {}", expected.len(), got.len()));
    }
    for (i, (expected, got)) in expected.iter().zip(got).enumerate() {
        let name = graph.output_name(i);
        if (expected.dtype(), expected.shape()) != (got.dtype(), got.shape()) {
            return Err(format!("`{name}` is {got:?}, expected {expected:?}"));
        }
        let (a, b) =
            (expected.to_f64().map_err(|e| e.to_string())?, got.to_f64().map_err(|e| e.to_string())?);
        let largest = a.iter().filter(|v| v.is_finite()).fold(0.0, |m: f64, v| m.max(v.abs()));
        let allowed = if expected.dtype().is_float() { tolerance * largest } else { 0.0 };
        for (at, (a, b)) in a.iter().zip(&*b).enumerate() {
            let same = a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= allowed;
            if !same {
                return Err(format!("`{name}` is {b} at {at}, expected {a} within {allowed:e}"));
            }
        }
    }
    Ok(())
}
