//! Dealing a model over chips in sequence.

use crate::groups::{Group, is_inline};
use orrery_base::units::show_bytes;
use orrery_base::{Diagnostic, Result};
use orrery_ir::infer::{Facts, node_place};
use orrery_ir::op::Engine;
use orrery_ir::{Bindings, Def, Graph, Type, ValueId};
use orrery_machine::StreamMachine;
use orrery_program::memory::unbound;
use orrery_program::{BufferClass, BufferId, Program, StepKind};
use std::collections::{BTreeMap, BTreeSet};

/// How often a dealing is tried, each time with less room for weights.
pub(super) const ATTEMPTS: usize = 24;
/// What is left of the room for weights each time.
pub(super) const LESS: f64 = 0.92;

/// Chips that hold the weights of some steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stage {
    /// Number of the first chip.
    pub(super) first: u64,
    /// How many.
    pub(super) chips: u64,
}

/// Which stage each group runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stages {
    /// In sequence.
    pub(super) list: Vec<Stage>,
    /// Of each group.
    pub(super) of_group: Vec<usize>,
}

impl Stages {
    /// Everything on one chip.
    pub(super) fn one(groups: usize) -> Self {
        Self { list: vec![Stage { first: 0, chips: 1 }], of_group: vec![0; groups] }
    }
    /// Chips in all.
    pub(super) fn chips(&self) -> u64 {
        self.list.iter().map(|stage| stage.chips).sum()
    }
}

/// Bytes of a chip that are left for what stays there beside the values of any one step; none where those alone are too
/// many.
///
/// # Errors
/// `unbound-symbol` where a symbol has no value.
pub(super) fn room(program: &Program, machine: &StreamMachine, nominal: &Bindings) -> Result<Option<f64>> {
    let usable = machine.sram_bytes.saturating_sub(machine.program_bytes);
    let mut most = 0_u64;
    for step in program.steps.values().filter(|s| s.kind == StepKind::Compute) {
        let read = step.reads.iter().map(|r| r.buffer);
        let touched: BTreeSet<BufferId> = read
            .chain(step.writes.iter().map(|w| w.buffer))
            .filter(|b| program.buffers[program.storage(*b)].class != BufferClass::Parameter)
            .collect();
        let sizes = touched.into_iter().map(|b| program.block_bytes(b, nominal));
        most = most.max(sizes.sum::<Result<u64>>()?);
    }
    Ok((most < usable).then(|| (usable - most) as f64))
}

/// The groups with what only prepares inputs (casts, masks, reshapes) directly before its first use, and what only
/// finishes outputs directly after what it finishes: so both are on the chip where they are needed, when they are needed.
pub(super) fn just_in_time(graph: &Graph, groups: &[Group]) -> Vec<Group> {
    let mut made_by: BTreeMap<ValueId, usize> = BTreeMap::new();
    let mut makers: Vec<BTreeSet<usize>> = Vec::new();
    let mut users = vec![BTreeSet::new(); groups.len()];
    for (i, group) in groups.iter().enumerate() {
        let read = group.nodes.iter().flat_map(|n| graph.nodes[*n].inputs.iter().flatten());
        let of: BTreeSet<usize> = read.filter_map(|value| made_by.get(value)).copied().collect();
        of.iter().for_each(|maker| {
            users[*maker].insert(i);
        });
        makers.push(of);
        made_by.extend(group.outputs(graph).into_iter().map(|value| (value, i)));
    }
    let light = |group: &Group| {
        !matches!(graph.nodes[group.nodes[0]].op.def().engine, Engine::Matrix | Engine::Control)
    };
    let light: Vec<bool> = groups.iter().map(light).collect();
    let (mut prepares, mut finishes) = (light.clone(), light);
    for i in 0..groups.len() {
        prepares[i] &= !users[i].is_empty() && makers[i].iter().all(|maker| prepares[*maker]);
    }
    for i in (0..groups.len()).rev() {
        finishes[i] &= !makers[i].is_empty() && users[i].iter().all(|user| finishes[*user]);
    }
    // Of a chain, all go to where the last is used, or the first is made.
    let mut place: Vec<usize> = (0..groups.len()).collect();
    for i in (0..groups.len()).rev().filter(|i| prepares[*i]) {
        place[i] = users[i].iter().map(|user| place[*user]).min().unwrap_or(i);
    }
    for i in (0..groups.len()).filter(|i| finishes[*i] && !prepares[*i]) {
        place[i] = makers[i].iter().map(|maker| place[*maker]).max().unwrap_or(i);
    }
    let mut order: Vec<usize> = (0..groups.len()).collect();
    order.sort_by_key(|i| (place[*i], *i));
    order.into_iter().map(|i| groups[i].clone()).collect()
}

/// Deals groups over stages, with so many bytes on each chip of what stays there: weights, inputs and outputs.
///
/// # Errors
/// `does-not-fit` where that takes more chips than there are; `unbound-symbol`.
pub(super) fn deal(
    graph: &Graph,
    facts: &Facts,
    groups: &[Group],
    machine: &StreamMachine,
    room: f64,
    nominal: &Bindings,
) -> Result<Stages> {
    let mut stages = Stages { list: vec![Stage { first: 0, chips: 1 }], of_group: Vec::new() };
    let (mut here, mut filled, mut total) = (BTreeSet::new(), 0.0, 0.0);
    let mut largest = (0.0, String::new());
    for group in groups {
        let needs = staying(graph, group);
        let size = |values: &BTreeSet<ValueId>| -> Result<f64> {
            values.iter().map(|v| bytes(facts, *v, nominal)).sum()
        };
        let new: BTreeSet<ValueId> = needs.difference(&here).copied().collect();
        let mut added = size(&new)?;
        if filled > 0.0 && filled + added > room {
            let Some(last) = stages.list.last() else { continue };
            stages.list.push(Stage { first: last.first + last.chips, chips: 1 });
            (here, filled, added) = (BTreeSet::new(), 0.0, size(&needs)?);
        }
        if added > largest.0 {
            largest = (added, node_place(graph, group.nodes[0]));
        }
        here.extend(needs);
        filled += added;
        total += added;
        if let Some(stage) = stages.list.last_mut() {
            stage.chips = stage.chips.max((filled / room).ceil() as u64).max(1);
        }
        stages.of_group.push(stages.list.len() - 1);
    }
    let chips = stages.chips();
    if chips <= machine.sequence_chips {
        return Ok(stages);
    }
    let held = machine.sequence_chips as f64 * room;
    Diagnostic::error(
        "does-not-fit",
        format!(
            "needs {chips} chips in sequence, {} more than the {} of the installation: its weights, inputs and outputs are {}, {} more than \
             those hold beside the values of a run; the largest step holds {} (`{}`)",
            chips - machine.sequence_chips,
            machine.sequence_chips,
            show_bytes(total),
            show_bytes((total - held).max(0.0)),
            show_bytes(largest.0),
            largest.1,
        ),
    )
    .help("a narrower precision, a smaller model, or a file of the machine with a larger sequence_chips")
    .err()
}

/// What is there for a group throughout a run: weights, inputs of the model, and outputs.
fn staying(graph: &Graph, group: &Group) -> BTreeSet<ValueId> {
    let stays = |v: &ValueId| match graph.values[*v].def {
        Def::Constant(_) => !is_inline(graph, *v),
        Def::Input => true,
        Def::Node(..) => graph.outputs.contains(v),
    };
    let read = group.nodes.iter().flat_map(|n| graph.nodes[*n].inputs.iter().flatten());
    read.copied().chain(group.outputs(graph)).filter(stays).collect()
}

fn bytes(facts: &Facts, value: ValueId, nominal: &Bindings) -> Result<f64> {
    let Type::Tensor(ty) = &facts[value].ty else { return Ok(0.0) };
    let mut elements = 1.0;
    for dim in ty.shape.iter().flatten() {
        elements *= dim.eval(nominal).map_err(|s| unbound(&s))? as f64;
    }
    Ok(elements * ty.dtype.bits() as f64 / 8.0)
}
