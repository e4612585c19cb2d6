//! What the tests of this crate share: machines, inputs, and running a program against the interpreter.

use orrery_base::Result;
use orrery_compile::{Compiled, Options, compile};
use orrery_cost::Target;
use orrery_execute::program::{self, Outcome};
use orrery_ir::op::Datum;
use orrery_ir::{Bindings, Graph, interpret, weights};
use orrery_machine::System;
use orrery_numerics::{DType, Rounding, Tensor};

/// A machine with some of its numbers replaced: `key = value` by the name of the parameter.
pub(crate) fn shrunk(name: &str, changes: &[(&str, u64)]) -> System {
    let (file, text) = orrery_machine::registry::BUILT_IN
        .iter()
        .find(|(file, _)| file.ends_with(&format!("/{name}.toml")))
        .expect("a built-in machine");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for (key, value) in changes {
        let header = format!("[parameter.{key}]");
        let at = lines.iter().position(|line| *line == header).expect("a parameter of the machine");
        assert!(lines[at + 1].starts_with("value = "), "{key}");
        lines[at + 1] = format!("value = {value}");
    }
    // A small machine has another peak than the data sheet says, which is checked on reading.
    let cores = orrery_machine::find(name).expect("a built-in machine").model.cores() as f64;
    let counts = ["tiles", "pcus", "pes"];
    let factor = changes.iter().find(|(key, _)| counts.contains(key)).map(|(_, n)| *n as f64 / cores);
    if let Some(factor) = factor {
        for at in 0..lines.len() {
            if lines[at] == "[precision.peak]" {
                let peak: f64 =
                    lines[at + 1].trim_start_matches("value = ").replace('_', "").parse().unwrap();
                lines[at + 1] = format!("value = {:e}", peak * factor);
            }
        }
    }
    System::parse(file, &lines.join("\n")).unwrap_or_else(|error| panic!("{error}"))
}

/// Inputs drawn for a graph whose symbols have these values. Integers are 0 or 1.
pub(crate) fn inputs(graph: &Graph, bindings: &Bindings, seed: u64) -> Vec<Tensor> {
    let inputs = graph.inputs.iter().zip(0..).map(|(id, number)| {
        let ty = graph.values[*id].ty.bind(bindings);
        let ty = ty.as_tensor().expect("inputs are tensors");
        let shape = ty.extents().expect("all symbols are bound");
        let count: usize = shape.iter().product();
        let seed = weights::hash64(seed, number);
        if ty.dtype.is_float() {
            let values = weights::normal(seed, count, 0.0, 1.0);
            Tensor::from_f32(ty.dtype, shape, values, Rounding::NearestEven, false)
        } else {
            let values = (0..count as u64).map(|i| (weights::hash64(seed, i) % 2) as f64).collect::<Vec<_>>();
            Tensor::from_f64(ty.dtype, shape, values, Rounding::NearestEven, false)
        }
    });
    inputs.collect()
}

/// A target's precision by name on a machine.
pub(crate) fn target<'a>(system: &'a System, precision: &str) -> Target<'a> {
    Target::new(system, Some(precision), None).unwrap_or_else(|error| panic!("{error}"))
}

/// Compiles a graph whose symbols are bound.
pub(crate) fn compile_for(graph: &Graph, system: &System, precision: &str) -> Result<Compiled> {
    compile(graph, &target(system, precision), &Options::default())
}

/// Runs a program, each compute step held against the interpreter.
pub(crate) fn run(program: &orrery_program::Program, inputs: &[Tensor]) -> Result<Outcome> {
    program::run(program, inputs, &program::Options { check: true, ..Default::default() })
}

/// The largest difference of two tensors and the largest magnitude of the second.
pub(crate) fn difference(got: &Tensor, want: &Tensor) -> (f64, f64) {
    assert_eq!((got.dtype(), got.shape()), (want.dtype(), want.shape()));
    if got.dtype() == DType::Bool || got.dtype().is_int() {
        return (if got.bytes() == want.bytes() { 0.0 } else { f64::INFINITY }, 1.0);
    }
    let (got, want) = (got.to_f64().unwrap(), want.to_f64().unwrap());
    let pairs = || got.iter().zip(want.iter());
    let same = |a: &f64, b: &f64| a == b || a.is_nan() && b.is_nan();
    let widest = pairs().filter(|(a, b)| !same(a, b)).map(|(a, b)| (a - b).abs());
    let widest = widest.fold(0.0, |w, d| if d.is_nan() { f64::INFINITY } else { f64::max(w, d) });
    (widest, want.iter().map(|x| x.abs()).filter(|x| x.is_finite()).fold(0.0, f64::max))
}

/// What the graph means on these inputs.
pub(crate) fn meaning(graph: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
    let data = inputs.iter().cloned().map(Datum::Tensor).collect();
    let outputs = interpret::run(graph, data, 0).unwrap_or_else(|error| panic!("{error}"));
    outputs.into_iter().map(|datum| datum.as_tensor().expect("outputs are tensors").clone()).collect()
}

/// Compiles and runs a graph and holds every step and the outputs against the interpreter: no disagreement, and outputs
/// within `tolerance` of the largest magnitude. Says in words what is wrong.
pub(crate) fn faults(graph: &Graph, system: &System, precision: &str, tolerance: f64) -> Vec<String> {
    let compiled = match compile_for(graph, system, precision) {
        Ok(compiled) => compiled,
        Err(error) => return vec![format!("compile: {error}")],
    };
    faults_of(graph, &compiled.program, &Bindings::new(), tolerance)
}

/// As [`faults`] for a program there is already.
pub(crate) fn faults_of(
    graph: &Graph,
    program: &orrery_program::Program,
    bindings: &Bindings,
    tolerance: f64,
) -> Vec<String> {
    let inputs = inputs(graph, bindings, 7);
    let outcome = match run(program, &inputs) {
        Ok(outcome) => outcome,
        Err(error) => return vec![format!("run: {error}")],
    };
    let mut faults: Vec<String> = outcome.disagreements.iter().map(|d| format!("{d:?}")).collect();
    for ((name, got), want) in outcome.outputs.iter().zip(meaning(graph, &inputs)) {
        let (difference, magnitude) = difference(got, &want);
        if difference.is_nan() || difference > tolerance * magnitude.max(1.0) {
            faults.push(format!("output `{name}` is off by {difference:e} of {magnitude:e}"));
        }
    }
    faults
}
