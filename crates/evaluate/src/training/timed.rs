//! A training step compiled for a machine and timed.

use super::anatomy::{Anatomy, anatomy};
use super::engine::precision;
use super::habits::{habits, kept_in};
use super::holdings::{Holdings, holdings};
use crate::memory;
use crate::model::Bound;
use crate::run::Place;
use crate::setup::Setup;
use crate::way::{Built, with_room, with_sums_apart};
use orrery_base::index::Id;
use orrery_base::{Diagnostic, Result};
use orrery_compile::{Cuts, Options, Streamed};
use orrery_cost::Target;
use orrery_ir::{Bindings, Graph, NodeId, Op};
use orrery_machine::{ExecutionModel, Precision};
use orrery_program::verify;
use orrery_simulate::{MemoryTrack, Timeline, simulate};
use orrery_transform::training::{self, Loss, LossSpec, Optimizer, Recompute, Spec, Step};
use orrery_transform::{Weights, spread_attention, store_border};

/// What the user says of a training step that is only timed.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// What is minimised; by the shape of the model's first output where none: see [`usual_loss`].
    pub loss: Option<LossSpec>,
    /// How; by the model's ops where none: see [`usual_optimizer`].
    pub optimizer: Option<Optimizer>,
    /// All of the step, where it is known: loss and optimizer are those of it then, and the machine's habits do not count.
    pub spec: Option<Box<Spec>>,
    /// How activations are kept for the backward pass.
    pub recompute: Recompute,
    /// Weights, gradients and optimizer state are shared out over devices that one of them is timed for: what it holds is
    /// not held against its memory.
    pub shared_out: bool,
    /// Chips in sequence over which it is dealt; the fewest that hold it where none is said, on machines whose chips hold
    /// weights themselves, else one.
    pub chips: Option<u64>,
    /// What may lie in the memory behind the chips, where chips hold weights themselves.
    pub streamed: Streamed,
}

/// A training step in time.
#[derive(Clone, Debug)]
pub struct TimedStep {
    /// The step as a graph of the machine's number formats.
    pub step: Bound,
    /// Its program.
    pub built: Built,
    /// One run of it.
    pub timeline: Timeline,
    /// Where its time goes.
    pub anatomy: Anatomy,
    /// What its memories hold.
    pub holdings: Vec<Holdings>,
}

/// The loss that a model with such a first output is usually trained on: the squared error of one or two numbers, binary
/// cross-entropy of one channel of an image, else cross-entropy.
pub fn usual_loss(model: &Graph) -> Loss {
    let ty = model.outputs.first().and_then(|id| model.values[*id].ty.as_tensor());
    let shape = ty.and_then(orrery_ir::TensorType::extents).unwrap_or_default();
    match shape[..] {
        [] | [_] | [_, 0..=2] => Loss::Mse,
        [_, 1, ..] if shape.len() > 3 => Loss::Bce,
        _ => Loss::CrossEntropy,
    }
}

/// The optimizer that a model of such ops is usually trained with: AdamW where it has embeddings or normalizes tokens, else
/// gradient descent with a momentum of 0.9.
pub fn usual_optimizer(model: &Graph) -> Optimizer {
    let of_tokens = model.nodes.values().any(|node| {
        let op = node.op;
        matches!(op, Op::Gather | Op::LayerNormalization | Op::RMSNormalization | Op::Attention)
    });
    if of_tokens {
        let (betas, epsilon) = ([0.9, 0.999], 1e-8);
        return Optimizer::Adam { betas, epsilon, weight_decay: 0.01, decoupled: true };
    }
    Optimizer::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 }
}

impl Wanted {
    /// The loss of a step of this model.
    pub(crate) fn loss_of(&self, model: &Graph) -> LossSpec {
        let said = self.spec.as_ref().map(|spec| &spec.loss).or(self.loss.as_ref());
        said.cloned().unwrap_or_else(|| LossSpec { kind: usual_loss(model), output: None })
    }
    /// Its optimizer.
    pub(crate) fn optimizer_of(&self, model: &Graph) -> Optimizer {
        let said = self.spec.as_ref().map(|spec| spec.optimizer).or(self.optimizer);
        said.unwrap_or_else(|| usual_optimizer(model))
    }
}

/// Refuses precisions in which nothing can be trained.
///
/// # Errors
/// `unsupported-training`.
pub(crate) fn trains(target: &Target<'_>) -> Result<()> {
    let (system, precision) = (target.system, target.precision);
    if can_train(precision) {
        return Ok(());
    }
    let others = system.precisions.iter().filter(|other| can_train(other)).map(|other| other.name.as_str());
    let cause = format!(
        "{} of {} is for inference: gradients and small changes of weights do not fit {} without scales for each tensor",
        precision.name, system.title, precision.storage
    );
    Diagnostic::error("unsupported-training", cause)
        .help(format!("precisions to train in: {}", others.collect::<Vec<_>>().join(", ")))
        .err()
}

/// Whether weights and gradients can be kept in a precision's storage.
pub(crate) fn can_train(precision: &Precision) -> bool {
    precision.storage.is_float() && precision.storage.bits() >= 16
}

/// What all ways to run one training step have in common.
pub(super) struct Prepared {
    /// The step with all activations kept.
    step: Step,
    /// How its ops were cut in the ways tried so far.
    cuts: Cuts,
}

/// Makes the training step of a bound model, without its weights' elements, whatever way it is to be run.
///
/// # Errors
/// `no-gradient` and others of making the step; `unsupported-training`.
pub(super) fn prepare_step(model: &Bound, setup: &Setup, wanted: &Wanted) -> Result<Prepared> {
    let place = Place::Machine(setup.clone());
    let target = setup.target()?;
    if matches!(target.system.model, ExecutionModel::Stream(_)) {
        return Diagnostic::error(
            "unsupported-training",
            format!("{} is an inference machine: nothing on it stays from run to run", target.system.title),
        )
        .help("train on another machine, and bring the trained model here")
        .err();
    }
    if let Some(stack) = target.stack.filter(|stack| !stack.trains) {
        return Diagnostic::error("unsupported-training", format!("{} is for inference", stack.title))
            .help("leave --stack out, or name one that models are trained with")
            .err();
    }
    trains(&target)?;
    let spec = match &wanted.spec {
        Some(spec) => (**spec).clone(),
        None => {
            let kept = kept_in(&target);
            Spec {
                loss: wanted.loss_of(&model.graph),
                loss_scaling: habits(&place)?.scaling.is_on(),
                parameters_in: kept,
                means_in: kept,
                ..Spec::new(Loss::Mse, wanted.optimizer_of(&model.graph))
            }
        }
    };
    let formats = precision(&place)?;
    let step = training::step(&model.graph, &spec, formats.as_ref(), Weights::ShapeOnly)?;
    Ok(Prepared { step, cuts: Cuts::default() })
}

/// Makes the training step of a bound model and compiles it, without its weights' elements.
///
/// # Errors
/// `no-gradient` and others of making the step; those of compiling: `does-not-fit`, `unsupported-training`.
pub fn build_step(model: &Bound, setup: &Setup, wanted: &Wanted) -> Result<(Step, Bound, Built)> {
    compile_step(&prepare_step(model, setup, wanted)?, model, setup, wanted)
}

/// Compiles a step in the way that is wanted.
fn compile_step(
    Prepared { step, cuts }: &Prepared,
    model: &Bound,
    setup: &Setup,
    wanted: &Wanted,
) -> Result<(Step, Bound, Built)> {
    let target = setup.target()?;
    let on_tiles = matches!(target.system.model, ExecutionModel::BulkSynchronous(_));
    let chips = wanted.chips.filter(|_| on_tiles).unwrap_or(1).max(1);
    let mut step = step.clone();
    training::recompute(&mut step, wanted.recompute)?;
    let mut graph = with_sums_apart(store_border(&step.graph)?, &target)?;
    if on_tiles {
        graph = spread_attention(&graph)?;
    }
    let options = Options {
        training: Some((
            first_of(&step.graph, step.backward, &graph),
            first_of(&step.graph, step.update, &graph),
        )),
        beyond_memory: wanted.shared_out,
        more_chips: chips - 1,
        streamed: if on_tiles { wanted.streamed } else { Streamed::default() },
        cuts: cuts.clone(),
        ..Options::default()
    };
    let held = step.states.iter().map(|slot| memory::machine_bytes(&slot.ty)).sum();
    let compiled = orrery_compile::compile(&graph, &target, &options).map_err(|mut refused| {
        if chips > 1 && refused.code == "does-not-fit" {
            refused.cause = format!(
                "of {chips} chips in sequence, taken as one with the memory of all: {}",
                refused.cause
            );
        }
        with_room(refused, model, setup, Some(held))
    })?;
    let notes = step.notes.iter().chain(&compiled.notes).cloned().collect();
    let built = Built { compiled, report: step.report.clone(), notes, devices: chips };
    Ok((step, Bound { graph, ..model.clone() }, built))
}

/// The place in `stored` of the nodes that begin with number `at` of a graph of which `stored` lacks some.
fn first_of(graph: &Graph, at: usize, stored: &Graph) -> NodeId {
    let made = |graph: &Graph, id: NodeId| {
        graph.nodes[id].outputs.iter().flatten().next().map(|v| graph.values[*v].name.clone())
    };
    let places: std::collections::BTreeMap<String, NodeId> =
        stored.nodes.ids().filter_map(|id| Some((made(stored, id)?, id))).collect();
    let mut from = (at..graph.nodes.len()).map(NodeId::new);
    from.find_map(|id| places.get(&made(graph, id)?).copied())
        .unwrap_or_else(|| NodeId::new(stored.nodes.len()))
}

/// Makes, compiles and times the training step of a bound model: as wanted, and where tiles do not hold it so, by the
/// cheapest way by which they do; on a wafer with whatever activations are best made again.
///
/// # Errors
/// Those of [`build_step`].
pub fn time_step(model: &Bound, setup: &Setup, wanted: &Wanted) -> Result<TimedStep> {
    match setup.system.model {
        ExecutionModel::BulkSynchronous(_) => super::room::time_step(model, setup, wanted),
        // The compiler of a wafer says itself what is kept: more of it is fewer samples at a time, for which weights stream in.
        ExecutionModel::Wafer(_) if wanted.recompute == Recompute::Nothing => {
            let step = prepare_step(model, setup, wanted)?;
            let way = |recompute| time_one(&step, model, setup, &Wanted { recompute, ..wanted.clone() });
            match (way(Recompute::Elementwise), way(Recompute::Stretches)) {
                (Ok(cheap), Ok(more)) if more.timeline.device < cheap.timeline.device => Ok(more),
                (Err(_), Ok(more)) => Ok(more),
                (cheap, _) => cheap,
            }
        }
        _ => time_one(&prepare_step(model, setup, wanted)?, model, setup, wanted),
    }
}

/// As wanted.
pub(super) fn time_one(
    prepared: &Prepared,
    model: &Bound,
    setup: &Setup,
    wanted: &Wanted,
) -> Result<TimedStep> {
    let (step, bound, built) = compile_step(prepared, model, setup, wanted)?;
    let mut timeline = simulate(&built.compiled.program, &Bindings::new(), &setup.target()?)?;
    timeline.memory.iter_mut().for_each(|track| of_one_chip(track, built.devices));
    let anatomy = anatomy(&built.compiled.program, &timeline, &setup.system.model);
    let holdings = holdings(&built.compiled.program, &timeline, &step.states);
    Ok(TimedStep { step: bound, built, timeline, anatomy, holdings })
}

/// Chips in sequence are compiled as one whose tiles have the memory of all: what one of them holds is its part.
fn of_one_chip(track: &mut MemoryTrack, chips: u64) {
    track.capacity /= chips;
    let whole = |bytes: &mut u64| *bytes = bytes.div_ceil(chips);
    whole(&mut track.peak.bytes);
    track.bytes.iter_mut().for_each(whole);
    // Parts are rounded down, so that together they are not more than the whole.
    track.peak.by_class.iter_mut().for_each(|(_, bytes)| *bytes /= chips);
    track.peak.by_buffer.iter_mut().for_each(|(_, bytes)| *bytes /= chips);
}

/// The largest batch up to `most` whose step fits, to an eighth of it; none where not even one sample does. `at` binds the
/// model to a batch.
///
/// # Errors
/// Those of [`build_step`], but for what does not fit.
pub fn largest_batch(
    at: &dyn Fn(u64) -> Result<Bound>,
    setup: &Setup,
    wanted: &Wanted,
    most: u64,
) -> Result<Option<u64>> {
    // The part of the fullest memory that a batch takes; none where it takes more than there is.
    let filled = |batch: u64| -> Result<Option<f64>> {
        let program = match build_step(&at(batch)?, setup, wanted) {
            Ok((.., built)) => built.compiled.program,
            Err(error) if error.code == "does-not-fit" => return Ok(None),
            Err(error) => return Err(error),
        };
        if verify::capacity(&program).is_err() {
            return Ok(None);
        }
        let tracks = program.memory_use(&Bindings::new())?;
        let parts = tracks.iter().map(|(_, peak)| {
            let reserved = program.memories[peak.memory].reserved.min(peak.bytes);
            let there = program.memories[peak.memory].bytes.saturating_sub(reserved).max(1);
            (peak.bytes - reserved) as f64 / there as f64
        });
        Ok(Some(parts.fold(0.0, f64::max)))
    };
    // Batches that fit and what they fill: the last two say where the memory is full, as far as it fills evenly.
    let mut fitted: Vec<(u64, f64)> = Vec::new();
    let full = |fitted: &[(u64, f64)]| match fitted {
        [.., (less, low), (more, high)] if high > low => {
            let each = (high - low) / (more - less) as f64;
            Some(more + ((1.0 - high) / each) as u64)
        }
        _ => None,
    };
    let (mut tried, mut wide) = (1, most.saturating_add(1));
    while tried <= most {
        let Some(part) = filled(tried)? else {
            wide = tried;
            break;
        };
        fitted.push((tried, part));
        if tried == most {
            break;
        }
        tried = full(&fitted).unwrap_or(2 * tried).max(2 * tried).min(most);
    }
    while let Some(&(fitting, _)) = fitted.last() {
        let grain = (fitting / 8).max(1);
        if wide - fitting <= grain {
            break;
        }
        let middle = fitting + (wide - fitting) / 2;
        let between = full(&fitted).filter(|full| (fitting + grain..middle).contains(full)).unwrap_or(middle);
        match filled(between)? {
            Some(part) => fitted.push((between, part)),
            None => wide = between,
        }
    }
    Ok(fitted.last().map(|(batch, _)| *batch))
}

/// Bytes of the parameters of a step as it keeps them.
pub fn parameter_bytes(step: &Step) -> u64 {
    let parameters = step.states.iter().filter(|slot| slot.kind == training::StateKind::Parameter);
    parameters.map(|slot| memory::machine_bytes(&slot.ty)).sum()
}
