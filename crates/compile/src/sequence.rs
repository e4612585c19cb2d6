//! Programs whose values lie whole in one memory, or in one memory after the other.
//!
//! Where a machine computes on whole values and not on what its cores hold, a group is one step, and its memory is where
//! its results are made. What a step needs from another memory is brought once, by a step of its own.

use crate::groups::{Group, GroupKind};
use crate::lower::Emitter;
use crate::needed::needed;
use crate::states::{Kept, Way, in_place};
use crate::{Compiled, Options};
use orrery_base::Result;
use orrery_cost::{Role, Target};
use orrery_ir::infer::Facts;
use orrery_ir::op::Engine;
use orrery_ir::{Bindings, Graph, ValueId};
use orrery_program::{BufferClass, BufferId, Cutting, Layout, Memory, MemoryId, StepKind, Unit};
use std::collections::BTreeMap;

/// Where groups find their values, and how wide a block of outputs a matrix unit makes.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// Memories.
    pub(crate) memories: Vec<Memory>,
    /// The memory of each group.
    pub(crate) of_group: Vec<usize>,
    /// Output columns that come out of the matrix unit at a time.
    pub(crate) columns: u64,
}

/// Emits the groups one after the other.
///
/// # Errors
/// As [`crate::compile`], but for memories that do not hold what is put there.
pub(crate) fn emit(
    graph: &Graph,
    facts: &Facts,
    groups: &[Group],
    target: &Target<'_>,
    options: &Options,
    places: &Places,
) -> Result<Compiled> {
    let mut emitter = Emitter::new(graph, facts, target, options);
    let host = emitter.memory("host", 1, u64::MAX, 0);
    let memories =
        places.memories.iter().map(|m| emitter.memory(&m.name, m.cores, m.bytes, m.reserved)).collect();
    let mut lowering = Lowering {
        emitter,
        host,
        memories,
        at: 0,
        placed: BTreeMap::new(),
        columns: places.columns,
        nominal: options.nominal(),
    };
    let first_use = first_uses(graph, groups, places);
    lowering.host_inputs(&first_use);
    for (group, &at) in groups.iter().zip(&places.of_group) {
        lowering.at = at;
        lowering.emitter.enter(group);
        match group.kind {
            GroupKind::View => lowering.simple(group, StepKind::View)?,
            GroupKind::Extents => lowering.extents(group)?,
            GroupKind::Movement => lowering.simple(group, StepKind::Exchange)?,
            GroupKind::Compute => lowering.compute(group)?,
        }
    }
    lowering.outputs()?;
    lowering.emitter.list_inputs();
    let Emitter { mut program, nodes, .. } = lowering.emitter;
    in_place(&mut program);
    Ok(Compiled { program: needed(program), nodes, notes: Vec::new() })
}

/// The memory in which each value is used first, by what an output needs.
fn first_uses(graph: &Graph, groups: &[Group], places: &Places) -> BTreeMap<ValueId, usize> {
    let mut first: BTreeMap<ValueId, usize> = graph.outputs.iter().map(|v| (*v, 0)).collect();
    for (group, &at) in groups.iter().zip(&places.of_group).rev() {
        if group.nodes.iter().any(|n| graph.nodes[*n].outputs.iter().flatten().any(|v| first.contains_key(v)))
        {
            let read = group.nodes.iter().flat_map(|n| graph.nodes[*n].inputs.iter().flatten());
            first.extend(read.map(|value| (*value, at)));
        }
    }
    first
}

struct Lowering<'a> {
    emitter: Emitter<'a>,
    host: MemoryId,
    memories: Vec<MemoryId>,
    /// The memory that steps are emitted for.
    at: usize,
    /// Values in memories other than the one they were made in, and parameters.
    placed: BTreeMap<(ValueId, usize), BufferId>,
    columns: u64,
    nominal: Bindings,
}

impl Lowering<'_> {
    fn here(&self) -> MemoryId {
        self.memories[self.at]
    }
    /// All inputs that are used in one transfer, each to the memory of its first use.
    fn host_inputs(&mut self, first_use: &BTreeMap<ValueId, usize>) {
        let (mut values, mut from, mut to) = (Vec::new(), Vec::new(), Vec::new());
        for &value in &self.emitter.graph.inputs {
            if self.emitter.is_state(value) {
                let at = first_use.get(&value).copied().unwrap_or(0);
                let layout = Layout::whole(self.emitter.whole(value).len(), 0);
                let state = self.emitter.state(value, self.memories[at], layout);
                self.emitter.buffer_of.insert(value, state);
                continue;
            }
            let given = self.emitter.whole_buffer(value, "@host", BufferClass::Input, self.host);
            self.emitter.given.insert(value, given);
            if let Some(&at) = first_use.get(&value) {
                let made = self.emitter.whole_buffer(value, "", BufferClass::Scratch, self.memories[at]);
                self.emitter.buffer_of.insert(value, made);
                values.push(value);
                from.push(given);
                to.push(made);
            }
        }
        if !values.is_empty() {
            self.emitter.pass("inputs to device".to_owned(), StepKind::Host, &values, &from, &to);
        }
    }
    /// The buffer of a value where it was made.
    fn made(&mut self, value: ValueId) -> Result<BufferId> {
        match self.emitter.buffer_of.get(&value) {
            Some(&buffer) => Ok(buffer),
            None => self.operand(value),
        }
    }
    /// All outputs in one transfer, but for new values of states, which stay.
    fn outputs(&mut self) -> Result<()> {
        let way: Way<'_> = &|_, _| (StepKind::Exchange, Unit::Device);
        let (graph, mut kept) = (self.emitter.graph, Vec::new());
        for state in &graph.states {
            let (input, value) = self.emitter.ends(state);
            let (from, to) = (self.made(value)?, self.emitter.given[&input]);
            kept.push(Kept { name: self.emitter.name_of(input), from, moved: None, to });
        }
        self.emitter.set_aside(&mut kept, way);
        let (mut values, mut from, mut to) = (Vec::new(), Vec::new(), Vec::new());
        for (i, &value) in graph.outputs.iter().enumerate() {
            if self.emitter.stays(i) {
                continue;
            }
            from.push(self.made(value)?);
            let made =
                self.emitter.whole_buffer(value, &format!("@host.{i}"), BufferClass::Scratch, self.host);
            self.emitter.program.outputs.push((graph.output_name(i).to_owned(), made));
            to.push(made);
            values.push(value);
        }
        if !values.is_empty() {
            self.emitter.pass("outputs to host".to_owned(), StepKind::Host, &values, &from, &to);
        }
        self.emitter.keep(kept, way);
        Ok(())
    }
    /// The buffer of a value in the memory that steps are emitted for. Parameters are in every memory that uses them;
    /// what was made in another is brought, once.
    fn operand(&mut self, value: ValueId) -> Result<BufferId> {
        let key = (value, self.at);
        if let Some(&there) = self.placed.get(&key) {
            return Ok(there);
        }
        let here = self.here();
        let Some(&made) = self.emitter.buffer_of.get(&value) else {
            let suffix = if self.at == 0 { String::new() } else { format!("@{}", self.at) };
            let buffer = self.emitter.whole_buffer(value, &suffix, BufferClass::Parameter, here);
            self.placed.insert(key, buffer);
            return Ok(buffer);
        };
        let home = self.emitter.program.buffers[made].home;
        if home == here || home == self.host {
            return Ok(made);
        }
        let to = self.emitter.whole_buffer(value, &format!("@{}", self.at), BufferClass::Scratch, here);
        let name = format!("{} to the next chip", self.emitter.name_of(value));
        self.emitter.pass(name, StepKind::Exchange, &[value], &[made], &[to]);
        self.placed.insert(key, to);
        Ok(to)
    }
    fn operands(&mut self, values: &[ValueId]) -> Result<Vec<BufferId>> {
        values.iter().map(|value| self.operand(*value)).collect()
    }
    /// Integers that follow from extents stay on the host.
    fn extents(&mut self, group: &Group) -> Result<()> {
        self.emit_whole(group, StepKind::View, self.host)
    }
    /// A group as one step without a grid.
    fn simple(&mut self, group: &Group, kind: StepKind) -> Result<()> {
        self.emit_whole(group, kind, self.here())
    }
    fn emit_whole(&mut self, group: &Group, kind: StepKind, home: MemoryId) -> Result<()> {
        let body = self.emitter.body(&group.nodes, None);
        let sources = self.operands(&body.operands)?;
        let step = self.emitter.uncut(group, kind, body, &sources, home);
        self.emitter.push(step);
        Ok(())
    }
    fn compute(&mut self, group: &Group) -> Result<()> {
        let body = self.emitter.body(&group.nodes, group.space.as_ref());
        let sources = self.operands(&body.operands)?;
        let engine = self.emitter.graph.nodes[group.nodes[0]].op.def().engine;
        let (mut step, fidelity) = self.emitter.computing(group, &body, &sources);
        if engine == Engine::Matrix
            && let Some(contraction) = self.emitter.contraction(group, &self.nominal)?
        {
            // Outputs come out of the matrix unit a block at a time.
            for (role, cut) in contraction.roles.iter().zip(&mut step.grid) {
                if *role == Role::Column {
                    cut.cutting = Cutting::Blocks(self.columns);
                }
            }
        }
        let here = self.here();
        self.emitter.make_results(&mut step, &body.results, body.writes, here);
        self.emitter.push(step);
        self.emitter.mapped(group, fidelity);
        Ok(())
    }
}
