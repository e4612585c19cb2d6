//! Computing a model's outputs: on this host in fp32, or in a machine's arithmetic through its Program.

use crate::inputs::{Made, random};
use crate::memory;
use crate::model::{BatchAxis, Bound, Model};
use crate::outcome::{blank, figure, program_name, workload};
use crate::setup::Setup;
use crate::way::build;
use orrery_base::{Diagnostic, Progress, Result};
use orrery_execute::host::{RunOptions, Session};
use orrery_execute::program::{self, Disagreement};
use orrery_ir::op::Datum;
use orrery_ir::{Graph, Type, interpret};
use orrery_numerics::{DType, Rounding, Tensor, cast};
use orrery_record::{Batch, Counted, Identity, Measurement, Outcome, Phase, Provenance, Record, Scope};
use orrery_transform::{Options as Preparation, Weights, prepare};
use serde::Serialize;
use serde_json::Map;
use std::time::{Duration, Instant};

/// Where the numbers are computed as if.
#[derive(Clone, Debug)]
pub enum Place {
    /// On this host, in the model's own types, fast.
    Host,
    /// In a machine's arithmetic, part by part as its program says.
    Machine(Setup),
}

/// How to run.
pub struct RunRequest<'a> {
    /// Where.
    pub place: &'a Place,
    /// Samples at a time, for inputs that are drawn.
    pub batch: Option<u64>,
    /// Inputs by name; those that are not given are drawn at random.
    pub inputs: Vec<(String, Datum)>,
    /// Seed of random inputs and random ops.
    pub seed: u64,
    /// Threads to use.
    pub threads: usize,
    /// Compare with the interpreter.
    pub check: bool,
    /// Told of the steps, and asked whether to go on.
    pub progress: Progress,
}

/// How one output compares with the interpreter's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutputCheck {
    /// The output.
    pub name: String,
    /// Elements.
    pub elements: usize,
    /// Largest difference over the largest magnitude; none where types cannot be compared so. Zero where all are equal.
    pub relative_error: Option<f64>,
}

/// What holding a run against the interpreter found.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// Each output against the interpreter in the model's own types.
    pub outputs: Vec<OutputCheck>,
    /// Steps of the program that were held against the interpreter in the machine's formats.
    pub steps: usize,
    /// Those that strayed further than their formats and sums allow.
    pub disagreements: Vec<Disagreement>,
}

/// What a run gave.
pub struct RunResult {
    /// Outputs under the user's names.
    pub outputs: Vec<(String, Datum)>,
    /// Inputs that were drawn at random.
    pub drawn: Vec<Made>,
    /// How long it took here.
    pub record: Record,
    /// Present where it was asked for.
    pub checked: Option<Checked>,
    /// What the user should know.
    pub notes: Vec<Diagnostic>,
}

/// Runs a model.
///
/// # Errors
/// `host-memory`; `input-unknown` for inputs that the model does not have; `input-mismatch`, `input-random`, `weights-absent`,
/// `evaluation`, and those of compiling.
pub fn run(model: &Model, request: &RunRequest<'_>) -> Result<RunResult> {
    let (bound, inputs, drawn) = gather(model, request)?;
    let (outputs, record, mut checked, mut notes) = match request.place {
        Place::Host => on_host(&bound, &inputs, request)?,
        Place::Machine(setup) => on_machine(&bound, setup, &inputs, request)?,
    };
    if request.check {
        let expected = interpret::run(&bound.graph, inputs, request.seed)?;
        let compared = outputs.iter().zip(&expected).map(|((name, got), want)| compare(name, got, want));
        checked.get_or_insert_default().outputs = compared.collect();
    }
    notes.extend(unused(&bound.graph, request));
    Ok(RunResult { outputs, drawn, record, checked, notes })
}

/// A note for given arrays that the model has no input for.
fn unused(graph: &Graph, request: &RunRequest<'_>) -> Option<Diagnostic> {
    let input = |name: &str| graph.inputs.iter().any(|id| graph.values[*id].name == name);
    let others: Vec<String> =
        request.inputs.iter().filter(|(name, _)| !input(name)).map(|(name, _)| format!("`{name}`")).collect();
    let cause = format!("the model has no input for {}: left out", others.join(", "));
    (!others.is_empty()).then(|| Diagnostic::note("input-unused", cause))
}

/// The model bound to the given inputs' sizes, and all inputs in order.
fn gather(model: &Model, request: &RunRequest<'_>) -> Result<(Bound, Vec<Datum>, Vec<Made>)> {
    let graph = model.graph()?;
    let names: Vec<&str> = graph.inputs.iter().map(|id| graph.values[*id].name.as_str()).collect();
    // Where all inputs are there, what else the file holds is not meant for the model.
    let complete = names.iter().all(|name| request.inputs.iter().any(|(given, _)| given == name));
    let stray = request.inputs.iter().find(|(name, _)| !complete && !names.contains(&name.as_str()));
    if let Some((stray, _)) = stray {
        return Diagnostic::error("input-unknown", format!("the model has no input named `{stray}`"))
            .help(format!("its inputs: {}", names.join(", ")))
            .err();
    }
    let given = |name: &str| request.inputs.iter().find(|(n, _)| n == name).map(|(_, datum)| datum);
    let sizes = given_sizes(graph, &given)?;
    check_sizes(model, request.batch, &sizes)?;
    let bound = model.at_sizes(request.batch, &sizes)?;
    let graph = &bound.graph;
    let ends = memory::values(graph, &graph.inputs).saturating_add(memory::values(graph, &graph.outputs));
    // In a machine's arithmetic weights are made one by one, each where it is first read.
    let weights = if matches!(request.place, Place::Host) { memory::weights(graph) } else { 0 };
    memory::check(&[("weights", weights), ("inputs and outputs", ends)])?;
    let mut all = Vec::with_capacity(names.len());
    let mut drawn = Vec::new();
    for (number, name) in names.iter().enumerate() {
        match given(name) {
            Some(datum) => all.push(datum.clone()),
            None => {
                let made = random(&bound.graph, number, request.seed)?;
                all.push(made.datum.clone());
                drawn.push(made);
            }
        }
    }
    interpret::bind_inputs(&bound.graph, &all)?;
    Ok((bound, all, drawn))
}

/// Values of the symbols that the extents of given inputs tell.
fn given_sizes<'a>(graph: &Graph, given: &impl Fn(&str) -> Option<&'a Datum>) -> Result<orrery_ir::Bindings> {
    let mut sizes = orrery_ir::Bindings::new();
    for id in &graph.inputs {
        let value = &graph.values[*id];
        let (Type::Tensor(ty), Some(Datum::Tensor(tensor))) = (&value.ty, given(&value.name)) else {
            continue;
        };
        let Some(shape) = &ty.shape else { continue };
        for (dim, extent) in shape.iter().zip(tensor.shape()) {
            let Some(symbol) = dim.as_symbol() else { continue };
            let extent = i64::try_from(*extent).unwrap_or(i64::MAX);
            if *sizes.entry(symbol.to_owned()).or_insert(extent) != extent {
                let cause =
                    format!("`{symbol}` is {} in one input and {extent} in `{}`", sizes[symbol], value.name);
                return Diagnostic::error("input-mismatch", cause).err();
            }
        }
    }
    Ok(sizes)
}

/// Refuses inputs of other sizes than those that the user names.
fn check_sizes(model: &Model, batch: Option<u64>, sizes: &orrery_ir::Bindings) -> Result<()> {
    for (symbol, &extent) in sizes {
        let batch = batch.filter(|_| model.batch_axis == BatchAxis::Symbol(symbol.clone()));
        let named = batch.and_then(|n| i64::try_from(n).ok()).or_else(|| model.given_size(symbol));
        if let Some(named) = named.filter(|named| *named != extent) {
            let cause = format!("`{symbol}` is {extent} in the inputs, and {named} is asked for");
            return Diagnostic::error("input-mismatch", cause)
                .help("leave the size out: the inputs tell it")
                .err();
        }
    }
    Ok(())
}

type Ran = (Vec<(String, Datum)>, Record, Option<Checked>, Vec<Diagnostic>);

fn on_host(bound: &Bound, inputs: &[Datum], request: &RunRequest<'_>) -> Result<Ran> {
    let start = Instant::now();
    let options = Preparation { weights: Weights::Compute, ..Preparation::default() };
    let prepared = prepare(&bound.graph, &options)?;
    let session = Session::new(&prepared.graph, request.threads)?;
    let ready = start.elapsed();
    let start = Instant::now();
    let options = RunOptions { seed: request.seed, progress: Some(&request.progress) };
    let outputs = session.run_with(inputs.to_vec(), &options)?;
    let spent = start.elapsed();
    let outputs = named(&bound.graph, outputs);
    let record = executed(host_identity(bound), bound, ready, spent);
    Ok((outputs, record, None, prepared.report.notes))
}

fn on_machine(bound: &Bound, setup: &Setup, inputs: &[Datum], request: &RunRequest<'_>) -> Result<Ran> {
    let tensors: Option<Vec<Tensor>> = inputs.iter().map(|d| d.as_tensor().cloned()).collect();
    let Some(tensors) = tensors else {
        return Diagnostic::error("input-mismatch", "a machine takes tensors only, no lists")
            .help("run it with --on host")
            .err();
    };
    let start = Instant::now();
    let built = build(bound, setup, Weights::Compute, &orrery_compile::Options::default())?;
    let ready = start.elapsed();
    let start = Instant::now();
    let options =
        program::Options { seed: request.seed, check: request.check, ..program::Options::default() };
    let program = &built.compiled.program;
    let wanted = program.inputs.iter().map(|buffer| program.buffers[*buffer].dtype);
    let tensors =
        tensors.iter().zip(wanted).map(|(t, dtype)| in_type(t, dtype)).collect::<Result<Vec<_>>>()?;
    let outcome = program::run(program, &tensors, &options)?;
    let spent = start.elapsed();
    let declared =
        bound.graph.outputs.iter().map(|id| bound.graph.values[*id].ty.as_tensor().map(|t| t.dtype));
    let outputs = outcome.outputs.into_iter().zip(declared).map(|((name, tensor), declared)| {
        let dtype = declared.unwrap_or(tensor.dtype());
        Ok((name, in_type(&tensor, dtype)?.into()))
    });
    let outputs = outputs.collect::<Result<Vec<_>>>()?;
    let provenance = Provenance::Executed { by: program_name() };
    let identity = blank(bound, setup, provenance, &crate::work::Work::Inference).identity;
    let mut record = executed(identity, bound, ready, spent);
    record.remarks.push("times are this host's, computing in the machine's arithmetic".to_owned());
    let checked = request.check.then(|| Checked {
        outputs: Vec::new(),
        steps: outcome.checked,
        disagreements: outcome.disagreements,
    });
    Ok((outputs, record, checked, built.notes))
}

/// As the host hands it to a machine, or takes it back: rounded to the nearest.
pub(crate) fn in_type(tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    if tensor.dtype() == dtype {
        return Ok(tensor.clone());
    }
    cast(tensor, dtype, Rounding::NearestEven, false)
        .map_err(|error| Box::new(Diagnostic::error("input-mismatch", error.to_string())))
}

fn named(graph: &Graph, outputs: Vec<Datum>) -> Vec<(String, Datum)> {
    outputs.into_iter().enumerate().map(|(i, datum)| (graph.output_name(i).to_owned(), datum)).collect()
}

fn host_identity(bound: &Bound) -> Identity {
    Identity {
        workload: workload(bound, "inference"),
        model_digest: Some(bound.digest()),
        parameters: Some(orrery_ir::count::parameters(&bound.graph)),
        machine: "host".to_owned(),
        devices: Some(1.0),
        stack: None,
        stack_version: None,
        precision: Some("fp32".to_owned()),
    }
}

fn executed(identity: Identity, bound: &Bound, ready: Duration, spent: Duration) -> Record {
    let samples = bound.batch.unwrap_or(1);
    let run = figure("latency_ms", "ms", Scope::EndToEnd, spent.as_secs_f64() * 1e3);
    Record {
        id: None,
        identity: Identity {
            workload: orrery_record::Workload {
                batch: Batch { global: bound.batch, micro: bound.batch },
                ..identity.workload
            },
            ..identity
        },
        provenance: Provenance::Executed { by: program_name() },
        counted: Counted {
            samples: Some(samples),
            tokens: bound.sequence().map(|length| length.saturating_mul(samples)),
            steps: Some(1),
        },
        outcome: Outcome::Measurements(vec![
            Measurement {
                phase: Phase::Compile,
                ..figure("time_ms", "ms", Scope::EndToEnd, ready.as_secs_f64() * 1e3)
            },
            Measurement { phase: Phase::WarmUp, ..run },
        ]),
        remarks: Vec::new(),
        extra: Map::new(),
    }
}

fn compare(name: &str, got: &Datum, want: &Datum) -> OutputCheck {
    let mut check = OutputCheck { name: name.to_owned(), elements: 0, relative_error: None };
    let (Some(got), Some(want)) = (got.as_tensor(), want.as_tensor()) else { return check };
    check.elements = want.len();
    check.relative_error = relative_error(got, want);
    check
}

/// Largest difference over the largest magnitude; infinite where shapes differ or a value is no number in one alone.
/// None for strings and complex numbers that differ; zero where all bits are equal.
pub fn relative_error(got: &Tensor, want: &Tensor) -> Option<f64> {
    if got == want {
        return Some(0.0);
    }
    if got.shape() != want.shape() {
        return Some(f64::INFINITY);
    }
    let (got, want) = (got.to_f64().ok()?, want.to_f64().ok()?);
    let finite = want.iter().filter(|v| v.is_finite());
    let scale = finite.fold(0.0_f64, |largest, v| largest.max(v.abs()));
    let difference = got.iter().zip(want.iter()).fold(0.0_f64, |largest, (g, w)| {
        if g == w || (g.is_nan() && w.is_nan()) {
            return largest;
        }
        let difference = (g - w).abs();
        if difference.is_nan() { f64::INFINITY } else { largest.max(difference) }
    });
    Some(if difference == 0.0 { 0.0 } else { difference / scale.max(f64::MIN_POSITIVE) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_relative_to_the_largest_value() {
        let tensor = |values: &[f32]| Tensor::from_vec(vec![values.len()], values.to_vec());
        let want = tensor(&[1.0, -4.0]);
        assert_eq!(relative_error(&want, &want), Some(0.0));
        assert_eq!(relative_error(&tensor(&[1.5, -4.0]), &want), Some(0.125));
        assert_eq!(relative_error(&tensor(&[f32::NAN, -4.0]), &want), Some(f64::INFINITY));
        assert_eq!(relative_error(&tensor(&[1.0]), &want), Some(f64::INFINITY));
        assert_eq!(relative_error(&tensor(&[0.0]), &tensor(&[0.0])), Some(0.0));
    }
}
