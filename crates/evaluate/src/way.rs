//! The way of a model through the arrows: prepare, legalise, compile, simulate.

use crate::model::Bound;
use crate::setup::Setup;
use crate::training::can_train;
use orrery_base::units::show_bytes;
use orrery_base::{Diagnostic, Result};
use orrery_compile::{Compiled, Options};
use orrery_cost::Target;
use orrery_cost::stream::chips_used;
use orrery_ir::{Bindings, Graph, Op};
use orrery_machine::{ExecutionModel, Precision};
use orrery_simulate::{Timeline, device_time, simulate};
use orrery_transform::legalise::{Legalised, PrecisionSpec, legalise, store_border};
use orrery_transform::{
    Options as Preparation, Prepared, Report, Weights, prepare, spread_attention, spread_bias,
    spread_normalization,
};

/// A graph that a machine could take, and what was done to make it so.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The graph, in the machine's number formats.
    pub graph: Graph,
    /// What was recognised and replaced.
    pub report: Report,
    /// What the user should know.
    pub notes: Vec<Diagnostic>,
}

/// The number formats that a graph has to be brought to for a target. What rounds stochastically is the program's choice.
pub(crate) fn formats(target: &Target<'_>) -> PrecisionSpec {
    let precision = target.precision;
    PrecisionSpec {
        storage: precision.storage,
        multiply: precision.multiply.clone(),
        accumulate: precision.accumulate.name().to_owned(),
        stochastic: false,
    }
}

/// Folds, fuses and brings to the number formats of a machine. Inputs and outputs have the machine's types: the host casts.
///
/// # Errors
/// Those of the passes.
pub fn make_ready(graph: &Graph, target: &Target<'_>, weights: Weights) -> Result<Ready> {
    let Prepared { graph: prepared, report } =
        prepare(graph, &Preparation { weights, ..Preparation::default() })?;
    let Legalised { graph, notes, .. } = legalise(&prepared, &formats(target), weights)?;
    let notes = report.notes.iter().cloned().chain(notes).collect();
    Ok(Ready { graph: with_sums_apart(store_border(&graph)?, target)?, report, notes })
}

/// With more PEs than that for each row, a wafer cuts normalizations along the rows too.
const PES_OF_A_ROW: u64 = 1024;

/// A graph without what hinders a machine from cutting sums over its cores.
///
/// # Errors
/// Those of the passes.
pub(crate) fn with_sums_apart(graph: Graph, target: &Target<'_>) -> Result<Graph> {
    match &target.system.model {
        ExecutionModel::BulkSynchronous(_) => spread_bias(&graph),
        ExecutionModel::Wafer(machine) => {
            let pes = machine.grid_columns * machine.grid_rows;
            spread_normalization(&spread_bias(&graph)?, pes / PES_OF_A_ROW)
        }
        _ => Ok(graph),
    }
}

/// A model compiled for a machine.
#[derive(Clone, Debug)]
pub struct Built {
    /// The program, with what is known of its nodes.
    pub compiled: Compiled,
    /// What was recognised and replaced on the way.
    pub report: Report,
    /// What the user should know.
    pub notes: Vec<Diagnostic>,
    /// Chips that it takes.
    pub devices: u64,
}

/// Compiles a bound model for a machine.
///
/// # Errors
/// Those of the passes and the compiler: `does-not-fit`, `unsupported-op` and others are answers, not faults.
pub fn build(model: &Bound, setup: &Setup, weights: Weights, options: &Options) -> Result<Built> {
    let target = setup.target()?;
    let ready = make_ready(&model.graph, &target, weights)?;
    let whole = orrery_compile::compile(&ready.graph, &target, options);
    let compiled = spread(&ready.graph, &whole, &target, options)
        .map_or(whole, Ok)
        .map_err(|refused| with_room(refused, model, setup, None))?;
    let notes = ready.notes.into_iter().chain(compiled.notes.iter().cloned()).collect();
    let devices = match &target.system.model {
        ExecutionModel::Stream(machine) => chips_used(&compiled.program, machine),
        _ => 1,
    };
    Ok(Built { compiled, report: ready.report, notes, devices })
}

/// How many times as long steps that are cut by rule may take as those that are cut by guess, to be taken in their place.
const GUESS: f64 = 2.0;

/// The program with attention spelled out, where that is better than in one piece: on tiles that do not hold the parts of
/// attention in one piece, and on a wafer where it is faster, or cuts by rule what is cut by guess else.
fn spread(
    graph: &Graph,
    whole: &Result<Compiled>,
    target: &Target<'_>,
    options: &Options,
) -> Option<Compiled> {
    let guesses = |compiled: &Compiled| compiled.program.steps.values().filter(|s| s.approximate).count();
    let seconds = |compiled: &Compiled| {
        Some(device_time(&compiled.program, &options.nominal(), target).ok()?.seconds())
    };
    let whole = match (&target.system.model, whole) {
        (ExecutionModel::BulkSynchronous(_), Err(refused)) if refused.code == "does-not-fit" => None,
        (ExecutionModel::Wafer(_), Ok(compiled)) => Some(compiled),
        _ => return None,
    };
    if !graph.nodes.values().any(|node| node.op == Op::Attention) {
        return None;
    }
    let spelled = orrery_compile::compile(&spread_attention(graph).ok()?, target, options).ok()?;
    let better = match whole {
        None => true,
        Some(whole) => {
            let worth = if guesses(&spelled) < guesses(whole) { GUESS } else { 1.0 };
            seconds(&spelled)? < worth * seconds(whole)?
        }
    };
    better.then_some(spelled)
}

/// Adds to what does not fit how there could be room: what this model on this machine leaves to choose, nothing else.
/// `states` are the bytes that a training step changes, which no batch makes less.
pub(crate) fn with_room(
    refused: Box<Diagnostic>,
    model: &Bound,
    setup: &Setup,
    states: Option<u64>,
) -> Box<Diagnostic> {
    if refused.code != "does-not-fit" {
        return refused;
    }
    let mut ways: Vec<String> = Vec::new();
    let shared = setup.most_devices() > 1 && setup.shards.is_none() && model.sharded(2).is_some();
    let sharing = "more devices that share a copy (--shards)";
    let there = memory_of(&setup.system.model);
    if let Some((states, there)) = states.zip(there).filter(|(states, there)| states > there) {
        let what = format!(
            "weights and what the optimizer keeps alone take {}, of {}: a smaller batch does not help",
            show_bytes(states as f64),
            show_bytes(there as f64)
        );
        let way =
            if shared { format!("{sharing}, or a larger machine") } else { "a larger machine".to_owned() };
        return Box::new(refused.help(what).help(way));
    }
    if let Some(batch) = model.batch.filter(|batch| *batch > 1) {
        ways.push(format!("a smaller batch than {batch}"));
    }
    if let Some(length) = model.sequence().filter(|length| *length > 1) {
        ways.push(format!("sequences shorter than {length}"));
    }
    if let Ok(target) = setup.target() {
        let bits = |precision: &Precision| precision.storage.bits();
        let narrower =
            setup.system.precisions.iter().filter(|other| {
                bits(other) < bits(target.precision) && (states.is_none() || can_train(other))
            });
        ways.extend(
            narrower.max_by_key(|other| bits(other)).map(|other| format!("--precision {}", other.name)),
        );
    }
    if shared {
        ways.push(sharing.to_owned());
    }
    if ways.is_empty() { refused } else { Box::new(refused.help(ways.join(", or "))) }
}

/// Bytes that a device holds behind its cores, where states of a training step can lie nowhere else.
fn memory_of(machine: &ExecutionModel) -> Option<u64> {
    match machine {
        ExecutionModel::Kernel(machine) => Some(machine.hbm_bytes.saturating_sub(machine.hbm_reserved_bytes)),
        ExecutionModel::Engines(machine) => {
            Some(machine.hbm_bytes.saturating_sub(machine.hbm_reserved_bytes))
        }
        _ => None,
    }
}

/// Compiles a bound model without its weights' elements, and times it.
///
/// # Errors
/// Those of [`build`].
pub fn time(model: &Bound, setup: &Setup) -> Result<(Built, Timeline)> {
    time_with(model, setup, &Options::default())
}

/// As [`time`], compiled with these options.
///
/// # Errors
/// Those of [`build`].
pub fn time_with(model: &Bound, setup: &Setup, options: &Options) -> Result<(Built, Timeline)> {
    let built = build(model, setup, Weights::ShapeOnly, options)?;
    let timeline = simulate(&built.compiled.program, &Bindings::new(), &setup.target()?)?;
    Ok((built, timeline))
}
