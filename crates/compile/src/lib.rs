//! Graph to Program, per execution model.
//!
//! Takes a prepared graph (folded, fused, in the machine's precision), groups its nodes, maps each group to the machine by
//! cost, and emits steps with the buffers they need. Chooses nothing that needs the end of the way: a driver above tries
//! other batches or precisions. What is not emitted is neither computed nor charged.

pub mod bulk_synchronous;
pub mod engines;
pub mod groups;
pub mod kernel;
pub mod lower;
mod needed;
pub mod partition;
mod sequence;
pub mod spatial;
mod states;
pub mod stream;
pub mod wafer;
mod whole;

pub use bulk_synchronous::problem::Cuts;
use orrery_base::{Diagnostic, Result};
use orrery_cost::Target;
use orrery_ir::{Bindings, Graph, NodeId, infer};
use orrery_machine::ExecutionModel;
use orrery_program::{Phase, Program, verify};
use std::collections::BTreeMap;

/// What may lie in the memory behind a chip until it is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Streamed {
    /// Any weights.
    #[default]
    Weights,
    /// States that only their update reads.
    Moments,
    /// Nothing: products get less room instead.
    Nothing,
}

/// What to compile for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Lowest and highest value of each symbol that stays open. The mapping is chosen for the highest.
    pub symbols: BTreeMap<String, (i64, i64)>,
    /// Round results at random in proportion, on machines that can; to the nearest otherwise.
    pub stochastic_rounding: bool,
    /// Write what every step makes to the memory behind the chip, as a forward pass does whose results a backward pass
    /// needs. Only machines that else pass results on within the chip take notice.
    pub keep_results: bool,
    /// Whether memories may be asked for more than they have, as where a plan shares out over devices what one of them
    /// is compiled for.
    pub beyond_memory: bool,
    /// Chips beside the first that the steps of a graph are dealt over as stages, on machines whose chips hold weights and
    /// activations themselves: together they hold one copy, and each has the code of its own steps.
    pub more_chips: u64,
    /// What may lie in the memory behind a chip until it is used, on machines that keep weights on the chip.
    pub streamed: Streamed,
    /// First nodes of the backward pass and of the update, in a graph that is a training step.
    pub training: Option<(NodeId, NodeId)>,
    /// Cuts found so far, which compilations of like graphs share. They change no program.
    pub cuts: Cuts,
}

impl Options {
    /// The symbols at their highest values.
    pub fn nominal(&self) -> Bindings {
        self.symbols.iter().map(|(name, range)| (name.clone(), range.1)).collect()
    }
    /// The part of a training step that a node belongs to.
    pub fn phase(&self, node: NodeId) -> Phase {
        match self.training {
            Some((_, update)) if node >= update => Phase::Update,
            Some((backward, _)) if node >= backward => Phase::Backward,
            _ => Phase::Forward,
        }
    }
}

/// How far the program of a node can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fidelity {
    /// Mapped as the machine would.
    Exact,
    /// Its work is counted, but how it is cut is a guess.
    Approximated,
}

/// A program with what there is to say about it.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The program; verified.
    pub program: Program,
    /// For each node of the graph that became part of a step: its place in the user's terms, and how it was mapped.
    pub nodes: Vec<(String, Fidelity)>,
    /// What the user should know.
    pub notes: Vec<Diagnostic>,
}

/// Compiles a graph for a target.
///
/// # Errors
/// `does-not-fit` with the amount; `unsupported-op` with the node; `unbound-symbol` where a symbol is neither bound in the
/// graph nor has a range in the options.
pub fn compile(graph: &Graph, target: &Target<'_>, options: &Options) -> Result<Compiled> {
    if options.stochastic_rounding && !target.precision.stochastic_rounding {
        return Diagnostic::error(
            "no-stochastic-rounding",
            format!("{} rounds to the nearest in {}", target.system.name, target.precision.name),
        )
        .help("leave stochastic rounding off for this machine")
        .err();
    }
    let turned;
    let graph = match &target.system.model {
        ExecutionModel::Spatial(_) => {
            turned = spatial::read_as_they_lie(graph);
            &turned
        }
        _ => graph,
    };
    let facts = infer::facts(graph)?;
    let groups = groups::form(graph, &facts, target, options)?;
    let compiled = match &target.system.model {
        ExecutionModel::Kernel(machine) => kernel::compile(graph, &facts, &groups, target, machine, options)?,
        ExecutionModel::BulkSynchronous(machine) => {
            bulk_synchronous::compile(graph, &facts, &groups, target, machine, options)?
        }
        ExecutionModel::Spatial(machine) => {
            spatial::compile(graph, &facts, &groups, target, machine, options)?
        }
        ExecutionModel::Stream(machine) => stream::compile(graph, &facts, &groups, target, machine, options)?,
        ExecutionModel::Engines(machine) => {
            engines::compile(graph, &facts, &groups, target, machine, options)?
        }
        ExecutionModel::Wafer(machine) => wafer::compile(graph, &facts, &groups, target, machine, options)?,
    };
    if options.beyond_memory {
        verify::all_but_capacity(&compiled.program)?;
    } else {
        verify::verify(&compiled.program)?;
    }
    Ok(compiled)
}
