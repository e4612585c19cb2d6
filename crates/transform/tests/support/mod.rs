//! Running graphs, and comparing what comes out.

use orrery_ir::op::Datum;
use orrery_ir::{Graph, interpret};
use orrery_numerics::Tensor;

/// Outputs of the interpreter.
pub(crate) fn run(graph: &Graph, inputs: &[Datum]) -> Result<Vec<Tensor>, String> {
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
) -> Result<(), String> {
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
