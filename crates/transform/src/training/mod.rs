//! A training step as a graph: forward, loss, backward and update.
//!
//! [`step`] takes a model's graph and gives one whose inputs are data, labels and three scalars, and then states: the
//! parameters, the optimizer's moments, the running statistics of batch normalizations. Outputs are the loss, what is
//! asked for beside it, and the states anew. It is made in this order:
//!
//! 1. dropouts and batch normalizations are put in training mode, and the graph is cleaned and fused;
//! 2. weights become inputs, the loss is added, and the whole is differentiated in the model's own types;
//! 3. the result is brought to the machine's formats: parameters are cast where they are read, gradients cast back;
//! 4. the update is added in binary32: unscaling, clipping, optimizer.

mod evaluation;
mod loss;
mod optimizer;
mod parameters;
mod recompute;

pub use evaluation::{Evaluation, evaluation};
pub use loss::{IGNORED_LABEL, Loss, LossSpec};
pub use optimizer::Optimizer;
pub use recompute::{Recompute, recompute};

use crate::backward::differentiate;
use crate::batch::spread_batch_norm;
use crate::legalise::{PrecisionSpec, legalise};
use crate::unroll::unroll;
use crate::{Options, Prepared, Report, Weights, prepare};
use orrery_base::{Diagnostic, Result};
use orrery_ir::{Extend, Graph, State, Type, ValueId, Weight};
use orrery_numerics::DType;
use std::collections::BTreeMap;

/// What a training step is to do.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What is minimised.
    pub loss: LossSpec,
    /// How.
    pub optimizer: Optimizer,
    /// Gradients are scaled down together so that their norm is at most this.
    pub clip_norm: Option<f64>,
    /// The gradient of the loss starts at the input `loss_scale` and is divided by it before the update.
    pub loss_scaling: bool,
    /// The step gives the norm of all gradients: not a number where one of them is none.
    pub gradient_norm: bool,
    /// Parameters whose names start with one of these stay as they are.
    pub frozen: Vec<String>,
    /// Parameters whose names contain one of these, or that have one dimension where `bias` is among them, are not
    /// decayed.
    pub undecayed: Vec<String>,
    /// Type in which parameters are kept between steps.
    pub parameters_in: DType,
    /// Type in which running means of gradients are kept between steps; those of their squares are kept in binary32.
    pub means_in: DType,
    /// Micro-batches whose gradients make one update. With more than one, the graph is the step of one micro-batch, and its
    /// input `apply` says whether it is the last.
    pub accumulations: u64,
}

impl Spec {
    /// A loss on the model's first output, an optimizer, and nothing else.
    pub fn new(loss: Loss, optimizer: Optimizer) -> Self {
        Self {
            loss: LossSpec { kind: loss, output: None },
            optimizer,
            clip_norm: None,
            loss_scaling: false,
            gradient_norm: false,
            frozen: Vec::new(),
            undecayed: Vec::new(),
            parameters_in: DType::F32,
            means_in: DType::F32,
            accumulations: 1,
        }
    }
}

/// What a state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StateKind {
    /// A trained parameter.
    Parameter,
    /// What an optimizer keeps of earlier gradients.
    Moment,
    /// Running mean or variance of a batch normalization.
    Statistic,
    /// Gradients of the micro-batches of an update so far.
    Accumulated,
}

/// A value that the step finds in one of its inputs and leaves in one of its outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// Name: the weight's in the model, followed by the moment's.
    pub name: String,
    /// What it is.
    pub kind: StateKind,
    /// Position among the inputs.
    pub input: usize,
    /// Position among the outputs.
    pub output: usize,
    /// Elements before the first step.
    pub initial: Weight,
    /// Type.
    pub ty: Type,
}

/// A training step.
#[derive(Clone, Debug)]
pub struct Step {
    /// The graph.
    pub graph: Graph,
    /// Positions of the model's own inputs.
    pub data: std::ops::Range<usize>,
    /// Position of the input `labels`; none where the model makes its loss itself.
    pub labels: Option<usize>,
    /// Position of the input `learning_rate`, f32[].
    pub learning_rate: usize,
    /// Position of the input `step`, i64[], 1 for the first.
    pub step: usize,
    /// Position of the input `loss_scale`, f32[].
    pub loss_scale: Option<usize>,
    /// Position of the input `apply`, bool[].
    pub apply: Option<usize>,
    /// Position of the output with the norm of all gradients; the loss is output 0.
    pub gradient_norm: Option<usize>,
    /// The states, in the order of their inputs.
    pub states: Vec<Slot>,
    /// Node at which the backward pass starts, and that at which the update does.
    pub backward: usize,
    /// First node of the update.
    pub update: usize,
    /// What was recognised and replaced in the model.
    pub report: Report,
    /// What the user should know.
    pub notes: Vec<Diagnostic>,
}

/// Makes a training step of a model whose shapes are numbers.
///
/// # Errors
/// `no-parameters` where nothing can be trained; `parameter-unknown` where a name in the spec is that of none; `loss-output` where the loss does not fit the model; `no-gradient` with
/// the node; those of the passes.
pub fn step(model: &Graph, spec: &Spec, precision: Option<&PrecisionSpec>, weights: Weights) -> Result<Step> {
    Passes::of(model, spec, precision, weights)?.with_update(spec)
}

/// The forward and backward passes, in the machine's formats. Outputs are the loss, the new statistics, which are the first
/// of what was found, and the gradients.
struct Passes {
    graph: Graph,
    /// Inputs: data, what was found, the labels, the factor of the loss.
    data: std::ops::Range<usize>,
    /// What was found in the model to be kept from step to step.
    found: Vec<Slot>,
    labels: Option<usize>,
    loss_scale: Option<usize>,
    /// Number of statistics.
    statistics: usize,
    /// Those of `found` that have gradients, in the order of these.
    given: Vec<usize>,
    /// Node at which the backward pass starts.
    backward: usize,
    report: Report,
    notes: Vec<Diagnostic>,
}

impl Passes {
    fn of(model: &Graph, spec: &Spec, precision: Option<&PrecisionSpec>, weights: Weights) -> Result<Self> {
        let own = model.outputs.len();
        let (graph, statistics) = parameters::training_mode(model);
        // Weights become inputs before anything is folded or shared: equal ones would become the same.
        let (graph, found) = parameters::to_inputs(graph, &statistics, &spec.frozen, spec.parameters_in)?;
        let options = Options { weights, fold_batch_norm: false, ..Options::default() };
        let Prepared { graph, report } = prepare(&unroll(&graph)?, &options)?;
        let graph = spread_batch_norm(&graph)?;
        let trained: Vec<usize> =
            (0..found.len()).filter(|i| found[*i].kind == StateKind::Parameter).collect();
        if trained.is_empty() {
            return Diagnostic::error("no-parameters", "the model has no weights that could be trained")
                .at(graph.name)
                .help(
                    "weights are float constants that products, convolutions, normalizations or embeddings read",
                )
                .err();
        }
        let data = 0..graph.inputs.len() - found.len();
        let moved = graph.outputs[own..].to_vec();
        let outputs = graph.outputs[..own].to_vec();
        let names: Vec<String> = (0..own).map(|i| graph.output_name(i).to_owned()).collect();
        let mut extend = Extend::new(graph)?;
        let attached = loss::attach(&mut extend, &spec.loss, &outputs, &names)?;
        let scale =
            spec.loss_scaling.then(|| extend.input("loss_scale", Type::tensor(DType::F32, [0_i64; 0])));
        let forward = extend.graph().nodes.len();
        let seed = match scale {
            Some(scale) => extend.cast(scale, extend.dtype(attached.loss))?,
            None => extend.scalar_like(attached.loss, 1.0),
        };
        let wrt: Vec<ValueId> = trained.iter().map(|i| extend.graph().inputs[found[*i].input]).collect();
        let gradients = differentiate(&mut extend, attached.loss, seed, &wrt)?;
        let mut notes = attached.notes;
        let without = trained.iter().zip(&gradients).filter(|(_, gradient)| gradient.is_none());
        let idle: Vec<&str> = without.map(|(i, _)| found[*i].name.as_str()).collect();
        notes.extend(idle_note(&idle));

        let mut graph = extend.finish();
        let statistics = moved.len();
        let (given, gradients): (Vec<usize>, Vec<ValueId>) =
            trained.iter().zip(gradients).filter_map(|(i, gradient)| Some((*i, gradient?))).unzip();
        graph.outputs = std::iter::once(attached.loss).chain(moved).chain(gradients).collect();
        graph.output_names = std::iter::once("loss".to_owned())
            .chain((0..statistics).map(|i| format!("{}.new", found[i].name)))
            .chain(given.iter().map(|i| format!("{}.gradient", found[*i].name)))
            .collect();
        let first_backward = graph.nodes.values().nth(forward).map(|node| node.name.clone());
        if let Some(precision) = precision {
            let legal = legalise(&graph, precision, weights)?;
            graph = legal.graph;
            notes.extend(legal.notes);
        }
        let backward = first_backward
            .and_then(|name| graph.nodes.values().position(|n| n.name == name))
            .unwrap_or(graph.nodes.len());
        let labels = attached.labels.map(|_| data.end + found.len());
        let loss_scale = scale.map(|_| data.end + found.len() + usize::from(labels.is_some()));
        Ok(Self { graph, data, found, labels, loss_scale, statistics, given, backward, report, notes })
    }
    /// With what makes new parameters of the gradients.
    fn with_update(self, spec: &Spec) -> Result<Step> {
        let Self { graph, data, mut found, labels, loss_scale, statistics, given, backward, report, notes } =
            self;
        let update = graph.nodes.len();
        let made = graph.outputs.clone();
        let mut extend = Extend::new(graph)?;
        let learning_rate = extend.graph().inputs.len();
        let rate = extend.input("learning_rate", Type::tensor(DType::F32, [0_i64; 0]));
        let time = extend.input("step", Type::tensor(DType::I64, [0_i64; 0]));
        let scale = loss_scale.map(|at| extend.graph().inputs[at]);
        let apply =
            (spec.accumulations > 1).then(|| extend.input("apply", Type::tensor(DType::Bool, [0_i64; 0])));
        let inputs: Vec<(ValueId, ValueId, String)> = given
            .iter()
            .zip(&made[1 + statistics..])
            .map(|(i, gradient)| (extend.graph().inputs[found[*i].input], *gradient, found[*i].name.clone()))
            .collect();
        let updated = optimizer::Update::new(spec, rate, time, scale, apply).append(&mut extend, &inputs)?;
        let mut outputs: Vec<(String, ValueId)> = vec![("loss".to_owned(), made[0])];
        let gradient_norm = updated.norm.filter(|_| spec.gradient_norm).map(|norm| {
            outputs.push(("grad_norm".to_owned(), norm));
            outputs.len() - 1
        });
        let new: BTreeMap<usize, ValueId> = given.into_iter().zip(updated.parameters).collect();
        for (i, slot) in found.iter_mut().enumerate() {
            // What the loss does not depend on stays as it is.
            let left = match made[1..].get(i).filter(|_| i < statistics) {
                Some(statistic) => *statistic,
                None => new.get(&i).copied().unwrap_or(extend.graph().inputs[slot.input]),
            };
            slot.output = outputs.len();
            outputs.push((format!("{}.new", slot.name), left));
        }
        let mut graph = extend.finish();
        let mut states = found;
        for moment in updated.moments {
            let ty = graph.values[moment.input].ty.clone();
            let position = graph.inputs.iter().position(|v| *v == moment.input).expect("it is an input");
            states.push(Slot {
                name: moment.name.clone(),
                kind: moment.kind,
                input: position,
                output: outputs.len(),
                initial: Weight::Seeded { seed: 0, mean: 0.0, deviation: 0.0 },
                ty,
            });
            outputs.push((format!("{}.new", moment.name), moment.output));
        }
        graph.outputs = outputs.iter().map(|(_, v)| *v).collect();
        graph.output_names = outputs.into_iter().map(|(name, _)| name).collect();
        graph.states = states
            .iter()
            .map(|slot| State { input: slot.input, output: slot.output, initial: slot.initial.clone() })
            .collect();
        crate::check(&graph)?;
        Ok(Step {
            graph,
            data,
            labels,
            learning_rate,
            step: learning_rate + 1,
            loss_scale,
            apply: apply.map(|_| learning_rate + 2),
            gradient_norm,
            states,
            backward,
            update,
            report,
            notes,
        })
    }
}

fn idle_note(idle: &[&str]) -> Option<Diagnostic> {
    let first = idle.first()?;
    let more = if idle.len() > 1 { format!(" and {} more", idle.len() - 1) } else { String::new() };
    let cause = format!("the loss does not depend on `{first}`{more}: they are not trained");
    Some(Diagnostic::note("parameter-idle", cause))
}
