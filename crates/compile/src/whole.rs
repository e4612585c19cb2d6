//! Values that lie whole in one memory: what the execution models share whose steps work on such.

use crate::Fidelity;
use crate::groups::{Group, GroupKind};
use crate::lower::{Body, Emitter, fill, grid, join, reads};
use orrery_ir::ValueId;
use orrery_ir::op::{Access, Engine};
use orrery_program::{BufferClass, BufferId, Cutting, Layout, MemoryId, Step, StepKind};

impl Emitter<'_> {
    /// All of a value.
    pub fn whole(&self, value: ValueId) -> Vec<Access> {
        vec![Access::Whole; self.type_of(value).1.len()]
    }
    /// Adds a buffer in which a value lies whole, without making it the value's own.
    pub fn whole_buffer(
        &mut self,
        value: ValueId,
        suffix: &str,
        class: BufferClass,
        home: MemoryId,
    ) -> BufferId {
        let layout = Layout::whole(self.type_of(value).1.len(), 0);
        self.buffer(value, suffix, class, home, layout)
    }
    /// Whole values from buffer to buffer, by one step.
    pub fn pass(
        &mut self,
        name: String,
        kind: StepKind,
        values: &[ValueId],
        from: &[BufferId],
        to: &[BufferId],
    ) {
        let body = join(values.iter().map(|value| self.identity(*value)));
        let mut step = self.step(name, kind, body);
        step.reads = reads(from, values.iter().map(|value| self.whole(*value)).collect());
        step.writes = to.iter().zip(values).map(|(to, value)| fill(*to, self.whole(*value))).collect();
        self.push(step);
    }
    /// Lets a step write these values to buffers of their own.
    pub fn make_results(
        &mut self,
        step: &mut Step,
        values: &[ValueId],
        writes: Vec<Vec<Access>>,
        home: MemoryId,
    ) {
        for (&value, access) in values.iter().zip(writes) {
            let buffer = self.whole_buffer(value, "", BufferClass::Scratch, home);
            self.buffer_of.insert(value, buffer);
            step.writes.push(fill(buffer, access));
        }
    }
    /// The step of a group that only moves or renames values.
    pub fn uncut(
        &mut self,
        group: &Group,
        kind: StepKind,
        body: Body,
        sources: &[BufferId],
        home: MemoryId,
    ) -> Step {
        let mut step = self.step(group.name(self.graph), kind, body.graph);
        step.reads = reads(sources, body.reads);
        self.make_results(&mut step, &body.results, body.writes, home);
        if let (GroupKind::View, [from, ..], [to, ..]) = (group.kind, sources, &step.writes[..])
            && self.program.buffers[*from].home == home
        {
            self.program.buffers[to.buffer].view_of = Some(*from);
        }
        self.mapped(group, Fidelity::Exact);
        step
    }
    /// The step of a group that computes, in one part, before it has results; and how the group is mapped.
    pub fn computing(&self, group: &Group, body: &Body, sources: &[BufferId]) -> (Step, Fidelity) {
        let engine = self.graph.nodes[group.nodes[0]].op.def().engine;
        let mut step = self.step(group.name(self.graph), StepKind::Compute, body.graph.clone());
        step.work = self.work(&group.nodes);
        step.approximate = engine == Engine::Control || (engine == Engine::Matrix && group.space.is_none());
        step.reads = reads(sources, body.reads.clone());
        if let Some(space) = &group.space {
            step.grid = grid(space, |_| Cutting::Parts(1));
            step.part_attrs = space.part_attrs.clone();
            step.padding = space.padding;
        }
        let fidelity = if step.approximate { Fidelity::Approximated } else { Fidelity::Exact };
        (step, fidelity)
    }
}
