//! Bringing operands to where a step's parts are: over the mesh from where they lie, or from MemoryX.

use super::lowering::{Lowering, Way};
use crate::lower::{fill, join, reads};
use orrery_base::Result;
use orrery_base::index::Id;
use orrery_cost::wafer::streamed_bytes;
use orrery_ir::op::Access;
use orrery_ir::{Graph, ValueId};
use orrery_program::{BufferClass, BufferId, Layout, Passing, Step, StepId, StepKind, Unit};

/// A value on its way.
pub(super) struct Arrival {
    name: String,
    from: BufferId,
    to: BufferId,
    /// How it is moved.
    body: Graph,
    /// Exchanged on the wafer, or streamed in.
    kind: StepKind,
}

impl Lowering<'_> {
    /// The buffer in which a value lies in a layout: one that there is, or one into which it is brought with whatever
    /// movements were put off, once [`Lowering::arrive`] takes the arrivals.
    pub(super) fn bring(
        &mut self,
        value: ValueId,
        layout: &Layout,
        arrivals: &mut Vec<Arrival>,
    ) -> Result<BufferId> {
        let (source, chain) = self.origin(value);
        let weight = self.is_weight(value);
        if weight && self.way == Way::Streamed {
            return Ok(self.stream(value, self.mesh, layout.clone(), arrivals));
        }
        if weight && chain.is_empty() && !self.emitter.is_state(value) {
            // Every layer has its own copy on its own rectangle.
            return Ok(self.emitter.buffer(value, "", BufferClass::Parameter, self.pe, layout.clone()));
        }
        let from = self.held(source)?;
        let there = &self.emitter.program.buffers[from];
        if chain.is_empty() && there.home == self.pe && there.layout.same_place(layout) {
            return Ok(from);
        }
        if let Some(there) = self.brought_to(value, layout) {
            return Ok(there);
        }
        let (from, body) = match self.passed_on(value) {
            Some(nearer) => (nearer, self.emitter.identity(value)),
            None => (from, self.movement_of(value)),
        };
        let suffix = format!("@{}", self.emitter.program.buffers.len());
        let to = self.emitter.buffer(value, &suffix, BufferClass::Scratch, self.pe, layout.clone());
        self.brought.entry(value).or_default().push(to);
        let name = self.emitter.name_of(value);
        arrivals.push(Arrival { name, from, to, body, kind: StepKind::Exchange });
        Ok(to)
    }
    /// The buffer into which a value has been brought in a layout before.
    pub(super) fn brought_to(&self, value: ValueId, layout: &Layout) -> Option<BufferId> {
        // What a window sees beyond the edge depends on the op.
        if layout.access.iter().any(|access| matches!(access, Access::Window { .. })) {
            return None;
        }
        let there = self.brought.get(&value)?.iter();
        there.copied().find(|b| self.emitter.program.buffers[*b].layout.same_place(layout))
    }
    /// In a pipeline, the copy of a value that the last stage before this one got: it is passed on from there, so that no
    /// stage has to keep it for all items between itself and a stage far away.
    fn passed_on(&self, value: ValueId) -> Option<BufferId> {
        let copies = self.brought.get(&value).filter(|_| self.way == Way::Resident)?;
        let windowed = |b: &&BufferId| {
            let access = &self.emitter.program.buffers[**b].layout.access;
            access.iter().any(|access| matches!(access, Access::Window { .. }))
        };
        let there = |b: &&BufferId| self.emitter.writer.contains_key(*b) && !windowed(b);
        copies.iter().rev().find(there).copied()
    }
    /// Spreads a value of the forward pass that the backward pass needs over all PEs of its stage, where it lies on few: until
    /// then every PE has about the same of what waits.
    pub(super) fn put_away(&mut self, value: ValueId) -> Result<()> {
        // Less is not worth an exchange.
        const LEAST: u64 = 64;
        const UNEVEN: u64 = 2;
        let Some(&from) = self.emitter.buffer_of.get(&value) else { return Ok(()) };
        if self.emitter.program.buffers[from].home != self.pe {
            return Ok(());
        }
        let layout = self.spread(value)?;
        let suffix = format!("@{}", self.emitter.program.buffers.len());
        let to = self.emitter.buffer(value, &suffix, BufferClass::Scratch, self.pe, layout);
        let program = &self.emitter.program;
        let held = |buffer| program.held_bytes(buffer, &Passing::default(), &self.nominal);
        if held(from)? <= (UNEVEN * held(to)?).max(LEAST) {
            return Ok(());
        }
        let (name, body) = (self.emitter.name_of(value), self.emitter.identity(value));
        self.put_away.insert(value, to);
        self.arrive(vec![Arrival { name, from, to, body, kind: StepKind::Exchange }], 0.0, "later");
        Ok(())
    }
    /// The backward pass begins: it finds values where they were put, and none of the copies that the forward pass had.
    pub(super) fn turn(&mut self) {
        self.emitter.buffer_of.append(&mut self.put_away);
        self.brought.clear();
    }
    /// How a value comes of what it is a movement of.
    pub(super) fn movement_of(&self, value: ValueId) -> Graph {
        let (_, chain) = self.origin(value);
        if chain.is_empty() {
            return self.emitter.identity(value);
        }
        let mut body = self.emitter.body(&chain, None).graph;
        // What others want of the values in between they move themselves.
        body.outputs = body.outputs.split_off(body.outputs.len().saturating_sub(1));
        body
    }
    /// A weight from MemoryX, which sends it in the order in which it is wanted.
    fn stream(
        &mut self,
        value: ValueId,
        home: orrery_program::MemoryId,
        layout: Layout,
        arrivals: &mut Vec<Arrival>,
    ) -> BufferId {
        let (source, _) = self.origin(value);
        let body = self.movement_of(value);
        let number = self.emitter.program.buffers.len();
        let whole = Layout::whole(self.whole(source).len(), 0);
        let from = match self.emitter.given_state(source) {
            Some(state) => state,
            None => self.emitter.buffer(source, "@memoryx", BufferClass::Parameter, self.memoryx, whole),
        };
        let to = self.emitter.buffer(value, &format!("@{number}"), BufferClass::Scratch, home, layout);
        let name = self.emitter.name_of(value);
        arrivals.push(Arrival { name, from, to, body, kind: StepKind::Stream });
        to
    }
    /// Where a value lies on the PEs: as it was made, or as the state that it is.
    pub(super) fn lies_in(&self, value: ValueId) -> Option<BufferId> {
        let made = self.emitter.buffer_of.get(&value).copied();
        made.or_else(|| self.emitter.given_state(value).filter(|_| self.way == Way::Resident))
    }
    /// The buffer of a value that is not a movement of another, on the PEs or, for extents, on the host.
    pub(super) fn held(&mut self, value: ValueId) -> Result<BufferId> {
        if let Some(buffer) = self.lies_in(value) {
            return Ok(buffer);
        }
        let layout = self.spread(value)?;
        if self.way == Way::Resident {
            let buffer = self.emitter.buffer(value, "", BufferClass::Parameter, self.pe, layout);
            self.emitter.buffer_of.insert(value, buffer);
            return Ok(buffer);
        }
        let mut arrivals = Vec::new();
        let buffer = self.stream(value, self.pe, layout, &mut arrivals);
        let name = self.emitter.name_of(value);
        self.arrive(arrivals, 0.0, &name);
        Ok(buffer)
    }
    /// An operand of a movement or of a step that is not cut: as it is, or in an even spread where a movement was put off.
    pub(super) fn spread_out(&mut self, value: ValueId, arrivals: &mut Vec<Arrival>) -> Result<BufferId> {
        let (source, chain) = self.origin(value);
        if self.way == Way::Streamed && self.is_weight(value) {
            let layout = self.spread(value)?;
            return Ok(self.stream(value, self.mesh, layout, arrivals));
        }
        if chain.is_empty() {
            return self.held(source);
        }
        let layout = self.spread(value)?;
        let from = self.held(source)?;
        let body = self.movement_of(value);
        let suffix = format!("@{}", self.emitter.program.buffers.len());
        let to = self.emitter.buffer(value, &suffix, BufferClass::Scratch, self.pe, layout);
        let name = self.emitter.name_of(value);
        arrivals.push(Arrival { name, from, to, body, kind: StepKind::Exchange });
        Ok(to)
    }
    /// One stream and one exchange for all arrivals, and one for those that are the same for every item of a pipeline. What lies
    /// outside of a value is `padding`.
    pub(super) fn arrive(&mut self, arrivals: Vec<Arrival>, padding: f64, for_step: &str) {
        let (streamed, exchanged): (Vec<Arrival>, Vec<Arrival>) =
            arrivals.into_iter().partition(|arrival| arrival.kind == StepKind::Stream);
        if let Some(step) = self.arriving(streamed, StepKind::Stream, padding, for_step) {
            self.push_stream(step);
        }
        let (once, each): (Vec<Arrival>, Vec<Arrival>) = exchanged
            .into_iter()
            .partition(|arrival| self.way == Way::Resident && self.is_steady(arrival.from));
        for arrivals in [once, each] {
            if let Some(step) = self.arriving(arrivals, StepKind::Exchange, padding, for_step) {
                self.push(step);
            }
        }
    }
    fn arriving(&self, arrivals: Vec<Arrival>, kind: StepKind, padding: f64, for_step: &str) -> Option<Step> {
        if arrivals.is_empty() {
            return None;
        }
        let names: Vec<&str> = arrivals.iter().map(|arrival| &arrival.name[..]).collect();
        let name = format!("{} for {for_step}", names.join(", "));
        let (from, to): (Vec<BufferId>, Vec<BufferId>) = arrivals.iter().map(|a| (a.from, a.to)).unzip();
        let body = join(arrivals.into_iter().map(|arrival| arrival.body));
        let mut step = self.emitter.step(name, kind, body);
        step.reads = reads(&from, from.iter().map(|b| self.whole_buffer(*b)).collect());
        step.writes = to.iter().map(|b| fill(*b, self.whole_buffer(*b))).collect();
        step.padding = padding;
        Some(step)
    }
    /// A stream begins once so many layers have ended that there is room for what it brings. What comes onto the PEs takes
    /// its turn with their steps.
    pub(super) fn push_stream(&mut self, mut step: Step) {
        let outputs =
            self.emitter.program.steps.iter().rfind(|(_, s)| s.unit == Unit::HostLink).map(|(id, _)| id);
        let on_pes = step.writes.iter().any(|w| self.emitter.program.buffers[w.buffer].home == self.pe)
            && self.way == Way::Streamed;
        if on_pes {
            step.after.extend(outputs);
            step.after.extend(&self.leaving);
            self.push(step);
            return;
        }
        self.waiting.resize(self.layers.len() + 1, 0.0);
        self.waiting[self.layers.len()] += streamed_bytes(&self.emitter.program, &step, &self.nominal);
        let mut waiting = 0.0;
        let full = self.waiting.iter().rposition(|bytes| {
            waiting += bytes;
            waiting > self.room
        });
        // The layer that the stream is for cannot make room for it.
        let full = full.map(|layer| layer.min(self.layers.len().saturating_sub(1)));
        step.after.extend(full.and_then(|layer| self.layers.get(layer)));
        let id = StepId::new(self.emitter.program.steps.len());
        for write in &step.writes {
            self.emitter.writer.insert(write.buffer, id);
        }
        self.emitter.program.steps.push(step);
    }
    /// A compute step; one that weights stream in for ends a layer.
    pub(super) fn push_layer(&mut self, step: Step) {
        let streamed = step.reads.iter().any(|r| self.emitter.program.buffers[r.buffer].home == self.mesh);
        let id = self.push(step);
        if streamed {
            self.layers.push(id);
        }
    }
    /// Bytes of a PE in which the weights of two layers wait until they are sent over the mesh, spread evenly.
    pub(super) fn staging_bytes(&self) -> u64 {
        let program = &self.emitter.program;
        let streams = program.steps.values().filter(|step| step.unit == Unit::Streaming);
        let bytes = |step| streamed_bytes(program, step, &self.nominal).ceil() as u64;
        let largest = streams.map(bytes).max().unwrap_or(0);
        (2 * largest).div_ceil(program.memories[self.pe].cores.max(1))
    }
}
