//! What MemoryX does itself: states lie there, and where a run only changes a state, element by element, it is changed
//! there. What such a step needs of the wafer, a gradient above all, leaves the wafer; nothing of it comes back in this run.
//! Weights are sent in the type that the wafer computes in.

use super::lowering::{Lowering, Way};
use crate::groups::{Group, GroupKind, is_elementwise, is_inline};
use crate::lower::{fill, reads};
use crate::{Fidelity, Options};
use orrery_base::Result;
use orrery_base::index::Id;
use orrery_ir::op::Engine;
use orrery_ir::{Def, Graph, Op, ValueId};
use orrery_program::{BufferClass, BufferId, Layout, Phase, StepId, StepKind, Unit};
use std::collections::{BTreeMap, BTreeSet};

/// Which groups run in MemoryX: those of element-wise work that nothing but a state's new value, or another such group,
/// needs, and the gradients of embeddings. Of these what leaves the wafer is a row for each token, not the whole table of
/// which few rows are not zero; that MemoryX adds rows is assumed.
pub(super) fn beside(graph: &Graph, groups: &[Group]) -> Vec<bool> {
    let mut on_wafer: BTreeSet<ValueId> = BTreeSet::new();
    for (i, value) in graph.outputs.iter().enumerate() {
        if graph.state_of_output(i).is_none() {
            on_wafer.insert(*value);
        }
    }
    let mut left: BTreeSet<ValueId> = graph.states.iter().map(|state| graph.outputs[state.output]).collect();
    let mut found = vec![false; groups.len()];
    for (number, group) in groups.iter().enumerate().rev() {
        let made = group.nodes.iter().flat_map(|n| graph.nodes[*n].outputs.iter().flatten());
        let (mut here, mut there) = (false, false);
        for value in made {
            here |= on_wafer.contains(value);
            there |= left.contains(value);
        }
        let updates = group.nodes.iter().all(|n| graph.nodes[*n].op.def().engine == Engine::Vector)
            && group.space.as_ref().is_some_and(is_elementwise)
            || graph.nodes[group.nodes[0]].op == Op::GatherGrad;
        found[number] = group.kind == GroupKind::Compute && there && !here && updates;
        let read = group.nodes.iter().flat_map(|n| graph.nodes[*n].inputs.iter().flatten());
        if found[number] { left.extend(read) } else { on_wafer.extend(read) }
    }
    found
}

/// Steps of the wafer that a gradient has to leave it, while they run.
const LEAVING: i64 = 8;

/// The groups in an order in which those in MemoryX come some steps of the wafer after what they wait for: so what leaves
/// the wafer leaves while it goes on. With each whether it runs in MemoryX.
pub(super) fn in_order<'a>(graph: &Graph, groups: &'a [Group]) -> Vec<(&'a Group, bool)> {
    let beside = beside(graph, groups);
    let mut made_at: BTreeMap<ValueId, i64> = BTreeMap::new();
    let mut keyed = Vec::new();
    for (number, group) in groups.iter().enumerate() {
        let read = group.nodes.iter().flat_map(|n| graph.nodes[*n].inputs.iter().flatten());
        let last = read.filter_map(|value| made_at.get(value)).max().map_or(0, |last| last + LEAVING);
        let later = beside[number];
        let at = if later { last.max(0) } else { number as i64 };
        for node in &group.nodes {
            // Steps in MemoryX follow one another without waiting for the wafer.
            let at = if later { at - LEAVING } else { at };
            made_at.extend(graph.nodes[*node].outputs.iter().flatten().map(|value| (*value, at)));
        }
        keyed.push((at, later, number, group));
    }
    keyed.sort_by_key(|(at, later, number, _)| (*at, *later, *number));
    keyed.into_iter().map(|(_, later, _, group)| (group, later)).collect()
}

/// The values of the forward pass, moved or not, that nodes of the backward pass read.
pub(super) fn needed_later(graph: &Graph, groups: &[Group], options: &Options) -> BTreeSet<ValueId> {
    let mut needed: BTreeSet<ValueId> = BTreeSet::new();
    for group in groups.iter().rev() {
        let forward = options.phase(group.nodes[0]) == Phase::Forward;
        let outputs = group.nodes.iter().flat_map(|n| graph.nodes[*n].outputs.iter().flatten());
        // What is only moved is kept as it was before.
        let moves = matches!(group.kind, GroupKind::View | GroupKind::Movement);
        if !forward || moves && outputs.into_iter().any(|value| needed.contains(value)) {
            needed.extend(group.nodes.iter().flat_map(|n| graph.nodes[*n].inputs.iter().flatten()));
        }
    }
    needed
}

impl Lowering<'_> {
    /// A group in MemoryX.
    pub(super) fn update(&mut self, group: &Group) -> Result<()> {
        let body = self.emitter.body(&group.nodes, None);
        let sources = self.all_in_memoryx(&body.operands)?;
        let mut step = self.emitter.step(group.name(self.emitter.graph), StepKind::Compute, body.graph);
        step.unit = Unit::Outward;
        step.work = self.emitter.work(&group.nodes);
        step.reads = reads(&sources, body.reads);
        for &value in &body.results {
            let buffer = self.memoryx_buffer(value, "", BufferClass::Scratch);
            self.emitter.buffer_of.insert(value, buffer);
            step.writes.push(fill(buffer, self.whole(value)));
        }
        self.push(step);
        self.emitter.mapped(group, Fidelity::Exact);
        Ok(())
    }
    /// True for a look-up in a table of weights: of a table in MemoryX only the rows that are wanted come to the wafer.
    pub(super) fn looks_up(&self, group: &Group) -> bool {
        let node = &self.emitter.graph.nodes[group.nodes[0]];
        let table = node.inputs.first().copied().flatten().filter(|_| node.op == Op::Gather);
        self.way == Way::Streamed && table.is_some_and(|table| self.is_weight(table))
    }
    /// A look-up, by MemoryX, which streams in what was found.
    pub(super) fn look_up(&mut self, group: &Group) -> Result<()> {
        let body = self.emitter.body(&group.nodes, None);
        let sources = self.all_in_memoryx(&body.operands)?;
        let mut step = self.emitter.step(group.name(self.emitter.graph), StepKind::Stream, body.graph);
        step.reads = reads(&sources, body.operands.iter().map(|value| self.whole(*value)).collect());
        self.leave_spread(&mut step, &body.results)?;
        self.push_stream(step);
        self.looked_up = self.emitter.program.steps.len().checked_sub(1).map(StepId::new);
        self.emitter.mapped(group, Fidelity::Exact);
        Ok(())
    }
    pub(super) fn memoryx_buffer(&mut self, value: ValueId, suffix: &str, class: BufferClass) -> BufferId {
        let whole = Layout::whole(self.whole(value).len(), 0);
        self.emitter.buffer(value, suffix, class, self.memoryx, whole)
    }
    fn all_in_memoryx(&mut self, values: &[ValueId]) -> Result<Vec<BufferId>> {
        values.iter().map(|value| self.in_memoryx(*value)).collect()
    }
    /// The buffer of a value in MemoryX, to which it leaves the wafer where it was made there.
    fn in_memoryx(&mut self, value: ValueId) -> Result<BufferId> {
        let (source, chain) = self.origin(value);
        let from = match (self.emitter.given_state(source), &self.emitter.graph.values[source].def) {
            (Some(state), _) => state,
            (None, Def::Constant(_)) => {
                let there = self.sent.get(&source).copied();
                there.unwrap_or_else(|| self.memoryx_buffer(source, "@memoryx", BufferClass::Parameter))
            }
            (None, _) => self.held(source)?,
        };
        if matches!(self.emitter.graph.values[source].def, Def::Constant(_)) {
            self.sent.insert(source, from);
        }
        let home = self.emitter.program.buffers[from].home;
        if chain.is_empty() && home == self.memoryx {
            return Ok(from);
        }
        if let Some(&there) = self.sent.get(&value) {
            return Ok(there);
        }
        let suffix = format!("@{}", self.emitter.program.buffers.len());
        let to = self.memoryx_buffer(value, &suffix, BufferClass::Scratch);
        let (kind, name) = if home == self.memoryx {
            (StepKind::Exchange, format!("{} moved", self.emitter.name_of(value)))
        } else {
            (StepKind::Stream, format!("{} from the wafer", self.emitter.name_of(value)))
        };
        let mut step = self.emitter.step(name, kind, self.movement_of(value));
        step.unit = Unit::Outward;
        step.reads = reads(&[from], vec![self.whole_buffer(from)]);
        step.writes = vec![fill(to, self.whole(value))];
        self.push(step);
        self.sent.insert(value, to);
        Ok(to)
    }
    /// True for an input that only groups in MemoryX read.
    pub(super) fn is_for_memoryx(&self, value: ValueId, order: &[(&Group, bool)]) -> bool {
        let graph = self.emitter.graph;
        let reads = |group: &Group| group.nodes.iter().any(|n| graph.nodes[*n].inputs.contains(&Some(value)));
        let mut readers = order.iter().filter(|(group, _)| reads(group)).peekable();
        readers.peek().is_some()
            && readers.all(|(group, beside)| *beside || self.looks_up(group))
            && !graph.outputs.contains(&value)
            && !is_inline(graph, value)
    }
}
