//! Stream machines: every group is one stream through a chip, over buffers in its memory slices.
//!
//! A model that one chip cannot hold is dealt over chips in sequence: each stage holds the weights of its steps, and what
//! later stages need of earlier ones crosses the links once. A stage is one chip, or several side by side where one step's
//! weights are more than a chip holds: they then lie cut by output over its chips.

mod stages;

use crate::groups::{Group, GroupKind};
use crate::lower::{Emitter, fill, grid, join, reads};
use crate::needed::needed;
use crate::{Compiled, Fidelity, Options};
use orrery_base::{Diagnostic, Result};
use orrery_cost::{Role, Target};
use orrery_ir::infer::Facts;
use orrery_ir::op::{Access, Engine};
use orrery_ir::{Bindings, Graph, ValueId};
use orrery_machine::StreamMachine;
use orrery_program::{BufferClass, BufferId, Cutting, Layout, MemoryId, StepKind, verify};
use stages::{Stage, Stages};
use std::collections::BTreeMap;

/// Compiles groups for a machine of streams.
///
/// # Errors
/// As [`crate::compile`].
pub fn compile(
    graph: &Graph,
    facts: &Facts,
    groups: &[Group],
    target: &Target<'_>,
    machine: &StreamMachine,
    options: &Options,
) -> Result<Compiled> {
    let one = Stages::one(groups.len());
    let mut compiled = emit(graph, facts, groups, target, machine, options, &one)?;
    let Err(first) = verify::capacity(&compiled.program) else { return Ok(compiled) };
    if first.code != "does-not-fit" {
        return Err(first);
    }
    let mut room = stages::room(&compiled.program, machine, &options.nominal())?;
    // What lives on a chip beside its own values is known only once the stages are: a little less each time.
    for _ in 0..stages::ATTEMPTS {
        let stages = stages::deal(graph, facts, groups, machine, room, &options.nominal())?;
        compiled = emit(graph, facts, groups, target, machine, options, &stages)?;
        match verify::capacity(&compiled.program) {
            Ok(()) => {
                let note = format!("{} chips in sequence hold the model: {}", stages.chips(), first.cause);
                compiled.notes.push(
                    Diagnostic::note("split-over-chips", note).help(
                        "the time of one run is that of all chips in turn; runs behind it follow sooner",
                    ),
                );
                return Ok(compiled);
            }
            Err(error) if error.code != "does-not-fit" => return Err(error),
            Err(_) => room *= stages::LESS,
        }
    }
    Err(Box::new(first.help(
        "its values alone are more than a chip holds beside any weights: chips in sequence do not help",
    )))
}

fn emit(
    graph: &Graph,
    facts: &Facts,
    groups: &[Group],
    target: &Target<'_>,
    machine: &StreamMachine,
    options: &Options,
    stages: &Stages,
) -> Result<Compiled> {
    let mut emitter = Emitter::new(graph, facts, target, options);
    let host = emitter.memory("host", 1, u64::MAX, 0);
    let sram: Vec<MemoryId> = stages
        .list
        .iter()
        .map(|stage| {
            let bytes = machine.sram_bytes.saturating_mul(stage.chips);
            let reserved = machine.program_bytes.saturating_mul(stage.chips);
            emitter.memory(&stage.memory_name(stages.chips()), 1, bytes, reserved)
        })
        .collect();
    let mut lowering = Lowering {
        emitter,
        host,
        sram,
        at: 0,
        placed: BTreeMap::new(),
        plane_outputs: machine.plane_outputs,
        nominal: options.nominal(),
    };
    lowering.host_inputs();
    for (group, &stage) in groups.iter().zip(&stages.of_group) {
        lowering.at = stage;
        match group.kind {
            GroupKind::View => lowering.simple(group, StepKind::View)?,
            GroupKind::Extents => lowering.extents(group)?,
            GroupKind::Movement => lowering.simple(group, StepKind::Exchange)?,
            GroupKind::Compute => lowering.compute(group)?,
        }
    }
    lowering.host_outputs()?;
    let Emitter { program, nodes, .. } = lowering.emitter;
    Ok(Compiled { program: needed(program), nodes, notes: Vec::new() })
}

struct Lowering<'a> {
    emitter: Emitter<'a>,
    host: MemoryId,
    /// The memory of each stage.
    sram: Vec<MemoryId>,
    /// The stage that steps are emitted for.
    at: usize,
    /// Values on stages other than the one that made them, and parameters.
    placed: BTreeMap<(ValueId, usize), BufferId>,
    plane_outputs: u64,
    nominal: Bindings,
}

impl Lowering<'_> {
    fn whole(&self, value: ValueId) -> Vec<Access> {
        vec![Access::Whole; self.emitter.type_of(value).1.len()]
    }
    fn here(&self) -> MemoryId {
        self.sram[self.at]
    }
    fn make(&mut self, value: ValueId, suffix: &str, class: BufferClass, home: MemoryId) -> BufferId {
        let layout = Layout::whole(self.whole(value).len(), 0);
        self.emitter.buffer(value, suffix, class, home, layout)
    }
    /// Values from one memory to another in one transfer.
    fn pass(&mut self, name: String, kind: StepKind, values: &[ValueId], from: &[BufferId], to: &[BufferId]) {
        let body = join(values.iter().map(|value| self.emitter.identity(*value)));
        let mut step = self.emitter.step(name, kind, body);
        step.reads = reads(from, values.iter().map(|value| self.whole(*value)).collect());
        step.writes = to.iter().zip(values).map(|(to, value)| fill(*to, self.whole(*value))).collect();
        self.emitter.push(step);
    }
    /// All inputs in one transfer, to the first chip.
    fn host_inputs(&mut self) {
        let values = &self.emitter.graph.inputs.clone()[..];
        let (mut from, mut to) = (Vec::new(), Vec::new());
        for &value in values {
            from.push(self.make(value, "@host", BufferClass::Input, self.host));
            to.push(self.make(value, "", BufferClass::Scratch, self.sram[0]));
        }
        self.emitter.program.inputs.clone_from(&from);
        self.emitter.buffer_of.extend(values.iter().copied().zip(to.iter().copied()));
        if !values.is_empty() {
            self.pass("inputs to chip".to_owned(), StepKind::Host, values, &from, &to);
        }
    }
    /// All outputs in one transfer.
    fn host_outputs(&mut self) -> Result<()> {
        let values = &self.emitter.graph.outputs.clone()[..];
        let (mut from, mut to) = (Vec::new(), Vec::new());
        for (i, &value) in values.iter().enumerate() {
            from.push(match self.emitter.buffer_of.get(&value) {
                Some(&buffer) => buffer,
                None => self.operand(value)?,
            });
            let made = self.make(value, &format!("@host.{i}"), BufferClass::Scratch, self.host);
            self.emitter.program.outputs.push((self.emitter.graph.output_name(i).to_owned(), made));
            to.push(made);
        }
        if !values.is_empty() {
            self.pass("outputs to host".to_owned(), StepKind::Host, values, &from, &to);
        }
        Ok(())
    }
    /// The buffer of a value on the stage that steps are emitted for. Parameters are on every stage that uses them;
    /// what another stage has made comes over the links, once.
    fn operand(&mut self, value: ValueId) -> Result<BufferId> {
        let key = (value, self.at);
        if let Some(&there) = self.placed.get(&key) {
            return Ok(there);
        }
        let here = self.here();
        let Some(&made) = self.emitter.buffer_of.get(&value) else {
            let suffix = if self.at == 0 { String::new() } else { format!("@{}", self.at) };
            let buffer = self.make(value, &suffix, BufferClass::Parameter, here);
            self.placed.insert(key, buffer);
            return Ok(buffer);
        };
        let home = self.emitter.program.buffers[made].home;
        if home == here || home == self.host {
            return Ok(made);
        }
        let to = self.make(value, &format!("@{}", self.at), BufferClass::Scratch, here);
        let name = format!("{} to the next chip", self.emitter.name_of(value));
        self.pass(name, StepKind::Exchange, &[value], &[made], &[to]);
        self.placed.insert(key, to);
        Ok(to)
    }
    fn operands(&mut self, values: &[ValueId]) -> Result<Vec<BufferId>> {
        values.iter().map(|value| self.operand(*value)).collect()
    }
    fn results(&mut self, values: &[ValueId], home: MemoryId) -> Vec<BufferId> {
        let mut made = Vec::new();
        for &value in values {
            let buffer = self.make(value, "", BufferClass::Scratch, home);
            self.emitter.buffer_of.insert(value, buffer);
            made.push(buffer);
        }
        made
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
        let results = self.results(&body.results, home);
        if let (GroupKind::View, [from, ..], [to, ..]) = (group.kind, &sources[..], &results[..])
            && self.emitter.program.buffers[*from].home == home
        {
            self.emitter.program.buffers[*to].view_of = Some(*from);
        }
        let mut step = self.emitter.step(group.name(self.emitter.graph), kind, body.graph);
        step.reads = reads(&sources, body.reads);
        step.writes = results.iter().zip(body.writes).map(|(b, access)| fill(*b, access)).collect();
        self.emitter.push(step);
        self.emitter.mapped(group, Fidelity::Exact);
        Ok(())
    }
    fn compute(&mut self, group: &Group) -> Result<()> {
        let body = self.emitter.body(&group.nodes, group.space.as_ref());
        let sources = self.operands(&body.operands)?;
        let engine = self.emitter.graph.nodes[group.nodes[0]].op.def().engine;
        let mut step = self.emitter.step(group.name(self.emitter.graph), StepKind::Compute, body.graph);
        step.work = self.emitter.work(&group.nodes);
        step.approximate = engine == Engine::Control || (engine == Engine::Matrix && group.space.is_none());
        step.reads = reads(&sources, body.reads);
        if let Some(space) = &group.space {
            step.grid = grid(space, |_| Cutting::Parts(1));
            step.part_attrs = space.part_attrs.clone();
            step.padding = space.padding;
        }
        if engine == Engine::Matrix
            && let Some(contraction) = self.emitter.contraction(group, &self.nominal)?
        {
            // Outputs come out of the planes a block at a time.
            for (role, cut) in contraction.roles.iter().zip(&mut step.grid) {
                if *role == Role::Column {
                    cut.cutting = Cutting::Blocks(self.plane_outputs);
                }
            }
        }
        let fidelity = if step.approximate { Fidelity::Approximated } else { Fidelity::Exact };
        let results = self.results(&body.results, self.here());
        step.writes = results.iter().zip(body.writes).map(|(b, access)| fill(*b, access)).collect();
        self.emitter.push(step);
        self.emitter.mapped(group, fidelity);
        Ok(())
    }
}

impl Stage {
    fn memory_name(&self, chips: u64) -> String {
        match (chips, self.chips) {
            (1, _) => "sram".to_owned(),
            (_, 1) => format!("sram of chip {}", self.first),
            _ => format!("sram of chips {}-{}", self.first, self.first + self.chips - 1),
        }
    }
}
