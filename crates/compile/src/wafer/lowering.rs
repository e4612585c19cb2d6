//! Groups to steps on a mesh.

use super::bring::Arrival;
use super::choose::Known;
use super::grid::{set_strides, spread_along_sum};
use super::room::Thrift;
use crate::Fidelity;
use crate::bulk_synchronous::problem::problem;
use crate::groups::{Group, is_inline};
use crate::lower::{Emitter, fill, grid, reads, reduction_body, retype_output};
use crate::states::Kept;
use orrery_base::Result;
use orrery_base::index::Id;
use orrery_cost::wafer::Core;
use orrery_ir::op::{Access, AxisKind, Engine, IterSpace};
use orrery_ir::{Bindings, Def, Dim, NodeId, Op, State, ValueId};
use orrery_program::memory::unbound;
use orrery_program::{
    BufferClass, BufferId, Cut, Cutting, Layout, MemoryId, Phase, Read, Region, Step, StepId, StepKind, Unit,
    Write, WriteMode,
};
use std::collections::{BTreeMap, BTreeSet};

/// Where weights are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// In MemoryX; they stream in when they are needed.
    Streamed,
    /// On the PEs of their layer's rectangle.
    Resident,
}

/// A program being emitted for a wafer.
pub(super) struct Lowering<'a> {
    pub(super) emitter: Emitter<'a>,
    pub(super) host: MemoryId,
    pub(super) pe: MemoryId,
    /// The mesh: where streamed weights are while they arrive.
    pub(super) mesh: MemoryId,
    pub(super) memoryx: MemoryId,
    pub(super) way: Way,
    pub(super) core: Core<'a>,
    /// How sparing the steps of the group that is being emitted are.
    pub(super) thrift: Thrift,
    pub(super) nominal: Bindings,
    /// Values that are another value moved: the source, and the nodes that move it.
    pub(super) moved: BTreeMap<ValueId, (ValueId, Vec<NodeId>)>,
    /// Rectangles of the stages; one of the whole mesh where weights stream in.
    pub(super) regions: Vec<Region>,
    /// The stage that is being emitted.
    pub(super) stage: usize,
    /// True where what is being emitted runs once all items have passed.
    pub(super) after_all: bool,
    /// Buffers that steps before the first item fill.
    pub(super) steady: BTreeSet<BufferId>,
    /// Items of the batch that go through the stages, or through the whole program, one after the other.
    pub(super) items: u64,
    /// Values that are in MemoryX beside where they were made.
    pub(super) sent: BTreeMap<ValueId, BufferId>,
    /// Steps that read what leaves the wafer, for which the next step on it waits: they leave room.
    pub(super) leaving: Vec<StepId>,
    /// The last look-up, which reads in MemoryX what is free once it has: the next step there waits for it.
    pub(super) looked_up: Option<StepId>,
    /// The last step of each layer so far that weights streamed in for.
    pub(super) layers: Vec<StepId>,
    /// Bytes that stream in for each of them, and for the next.
    pub(super) waiting: Vec<f64>,
    /// Bytes of weights that may wait on the wafer.
    pub(super) room: f64,
    /// Where values have been brought beside where they were made.
    pub(super) brought: BTreeMap<ValueId, Vec<BufferId>>,
    /// Where values of the forward pass lie until the backward pass needs them, beside where they were made.
    pub(super) put_away: BTreeMap<ValueId, BufferId>,
    /// Problems already solved: equal layers are cut alike.
    pub(super) chosen: BTreeMap<Vec<u64>, Known>,
}

impl Lowering<'_> {
    pub(super) fn whole(&self, value: ValueId) -> Vec<Access> {
        vec![Access::Whole; self.emitter.type_of(value).1.len()]
    }
    pub(super) fn extent(&self, dim: &Dim) -> Result<i64> {
        dim.eval(&self.nominal).map_err(|s| Box::new(unbound(&s)))
    }
    pub(super) fn region(&self) -> Region {
        self.regions[self.stage.min(self.regions.len().saturating_sub(1))]
    }
    /// A step, staged where layers are resident: once there where it runs after all items, or before them as it needs nothing
    /// but weights. A PE rounds after every multiply-add.
    pub(super) fn push(&mut self, mut step: Step) -> StepId {
        step.arithmetic.group = 1;
        if self.way == Way::Resident && matches!(step.kind, StepKind::Compute | StepKind::Exchange) {
            step.region = u32::try_from(self.stage).ok();
            step.once = self.after_all || step.reads.iter().all(|read| self.is_steady(read.buffer));
            if step.once {
                self.steady.extend(step.writes.iter().map(|write| write.buffer));
            }
        }
        let (unit, takes) = (step.unit, step.kind == StepKind::Stream);
        match unit {
            Unit::Device => step.after.append(&mut self.leaving),
            Unit::Outward => step.after.extend(self.looked_up.take()),
            _ => {}
        }
        let id = self.emitter.push(step);
        if unit == Unit::Outward && takes {
            self.leaving.push(id);
        }
        id
    }
    /// True for what is there before the first item: weights, and what comes of nothing but weights.
    pub(super) fn is_steady(&self, buffer: BufferId) -> bool {
        let class = self.emitter.program.buffers[buffer].class;
        matches!(class, BufferClass::Parameter | BufferClass::State) || self.steady.contains(&buffer)
    }
    /// Puts the copies of states, which begin with step `first`, into the stages where they lie, but for those of which each
    /// item has a share.
    pub(super) fn place_copies(&mut self, first: usize) {
        let program = &mut self.emitter.program;
        for id in (first..program.steps.len()).map(StepId::new) {
            let step = &mut program.steps[id];
            let base = step.writes.first().map(|write| program.buffers[write.buffer].layout.base);
            let stage = program.regions.iter().position(|region| Some(region.base) == base);
            let shared = step.reads.iter().any(|read| program.buffers[read.buffer].by_item.is_some());
            if let (StepKind::Exchange, Some(stage), false) = (step.kind, stage, shared) {
                (step.region, step.once, step.phase) = (u32::try_from(stage).ok(), true, Phase::Update);
            }
        }
    }
    /// A layout that spreads a value evenly over the current region, its first dimensions apart.
    pub(super) fn spread(&mut self, value: ValueId) -> Result<Layout> {
        let (_, shape) = self.emitter.type_of(value);
        let region = self.region();
        let mut left = region.cores();
        let mut cuts = Vec::new();
        for (d, extent) in shape.iter().enumerate() {
            let length = u64::try_from(self.extent(extent)?).unwrap_or(0).max(1);
            // Items follow one another in time: every part has its share of every item.
            let in_time = self.emitter.by_item.get(&value) == Some(&d);
            let parts = match length / self.items {
                share if in_time => {
                    (1..=share.min(left)).rev().find(|p| share.is_multiple_of(*p)).unwrap_or(1)
                }
                _ => length.div_ceil(length.div_ceil(length.min(left))),
            };
            left /= parts;
            let cutting = Cutting::Parts(parts);
            cuts.push(Cut { name: "spread".into(), extent: extent.clone(), cutting, stride: 0 });
        }
        set_strides(&mut cuts, &[]);
        Ok(Layout { base: region.base, cuts, access: (0..shape.len()).map(Access::along).collect() })
    }
    /// What a value is a movement of, and the nodes in between.
    pub(super) fn origin(&self, value: ValueId) -> (ValueId, Vec<NodeId>) {
        self.moved.get(&value).cloned().unwrap_or((value, Vec::new()))
    }
    /// True for weights and other constants, and for states, moved or not.
    pub(super) fn is_weight(&self, value: ValueId) -> bool {
        let (source, _) = self.origin(value);
        matches!(self.emitter.graph.values[source].def, Def::Constant(_)) || self.emitter.is_state(source)
    }

    /// An input from the host, to the wafer or where only MemoryX needs it to there; a state lies in MemoryX.
    pub(super) fn host_input(&mut self, value: ValueId, for_memoryx: bool) -> Result<()> {
        let whole = Layout::whole(self.whole(value).len(), 0);
        if self.emitter.is_state(value) {
            let (home, layout) = match self.way {
                Way::Streamed => (self.memoryx, whole),
                Way::Resident => (self.pe, self.spread(value)?),
            };
            self.emitter.state(value, home, layout);
            return Ok(());
        }
        let from = self.emitter.buffer(value, "@host", BufferClass::Input, self.host, whole);
        self.emitter.given.insert(value, from);
        let to = if for_memoryx {
            self.memoryx_buffer(value, "", BufferClass::Scratch)
        } else {
            let layout = self.spread(value)?;
            self.emitter.buffer(value, "", BufferClass::Scratch, self.pe, layout)
        };
        let name = format!("{} to the wafer", self.emitter.name_of(value));
        let mut step = self.emitter.step(name, StepKind::Host, self.emitter.identity(value));
        step.reads = reads(&[from], vec![self.whole(value)]);
        step.writes = vec![fill(to, self.whole(value))];
        self.push(step);
        self.emitter.buffer_of.insert(value, to);
        Ok(())
    }
    pub(super) fn host_output(&mut self, value: ValueId, name: &str) -> Result<()> {
        let (source, _) = self.origin(value);
        let from = self.held(source)?;
        let whole = Layout::whole(self.whole(value).len(), 0);
        let suffix = format!("@host.{}", self.emitter.program.outputs.len());
        let to = self.emitter.buffer(value, &suffix, BufferClass::Scratch, self.host, whole);
        let mut step = self.emitter.step(format!("{name} to host"), StepKind::Host, self.movement_of(value));
        step.reads = reads(&[from], vec![self.whole(source)]);
        step.writes = vec![fill(to, self.whole(value))];
        self.push(step);
        self.emitter.program.outputs.push((name.to_owned(), to));
        Ok(())
    }
    /// A state's new value, which stays in MemoryX.
    pub(super) fn kept(&mut self, state: &State) -> Result<Kept> {
        let (input, value) = self.emitter.ends(state);
        let (source, chain) = self.origin(value);
        let from = match self.emitter.given_state(source) {
            Some(there) => there,
            None => self.held(source)?,
        };
        let moved = (!chain.is_empty()).then(|| self.movement_of(value));
        let to = self.emitter.given[&input];
        Ok(Kept { name: self.emitter.name_of(input), from, moved, to })
    }
    /// Integers that follow from extents stay on the host.
    pub(super) fn extents(&mut self, group: &Group) -> Result<()> {
        let mut step = self.gathered(group, StepKind::View, "its extents")?;
        for &value in &self.emitter.body(&group.nodes, None).results {
            let layout = Layout::whole(self.whole(value).len(), 0);
            let buffer = self.emitter.buffer(value, "", BufferClass::Scratch, self.host, layout);
            self.emitter.buffer_of.insert(value, buffer);
            step.writes.push(fill(buffer, self.whole(value)));
        }
        self.push(step);
        self.emitter.mapped(group, Fidelity::Exact);
        Ok(())
    }
    /// True for a group that brings a state to another type: MemoryX sends it in that type.
    pub(super) fn casts_a_state(&self, group: &Group) -> bool {
        let graph = self.emitter.graph;
        let [node] = group.nodes[..] else { return false };
        let input = graph.nodes[node].inputs.first().copied().flatten();
        graph.nodes[node].op == Op::Cast
            && input.is_some_and(|value| self.emitter.is_state(self.origin(value).0))
            && !graph.outputs.iter().any(|value| graph.nodes[node].outputs.contains(&Some(*value)))
    }
    /// Movements of one value are put off until something is computed with it; others are exchanges.
    pub(super) fn movement(&mut self, group: &Group) -> Result<()> {
        let node = &self.emitter.graph.nodes[group.nodes[0]];
        let name = node.op.name();
        let mut operands: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
        operands.retain(|v| !is_inline(self.emitter.graph, *v));
        if let ([input], [Some(output)]) = (&operands[..], &node.outputs[..]) {
            let (source, mut chain) = self.origin(*input);
            chain.push(group.nodes[0]);
            self.moved.insert(*output, (source, chain));
            self.emitter.mapped(group, Fidelity::Exact);
            return Ok(());
        }
        if self.looks_up(group) {
            return self.look_up(group);
        }
        let step = self.gathered(group, StepKind::Exchange, name)?;
        self.finish(group, step, Fidelity::Exact)
    }
    /// A group that cannot be cut by rule, or not as fine as the memory of a PE asks for: counted as if its work were spread
    /// over all PEs.
    fn whole_group(&mut self, group: &Group) -> Result<()> {
        let name = group.name(self.emitter.graph);
        let mut step = self.gathered(group, StepKind::Compute, &name)?;
        step.work = self.emitter.work(&group.nodes);
        step.approximate = true;
        self.finish(group, step, Fidelity::Approximated)
    }
    /// A step that is not cut, with its operands in even spreads.
    fn gathered(&mut self, group: &Group, kind: StepKind, for_step: &str) -> Result<Step> {
        let body = self.emitter.body(&group.nodes, None);
        let mut arrivals = Vec::new();
        let mut sources = Vec::new();
        for &value in &body.operands {
            sources.push(self.spread_out(value, &mut arrivals)?);
        }
        self.arrive(arrivals, 0.0, for_step);
        let mut step = self.emitter.step(group.name(self.emitter.graph), kind, body.graph);
        step.reads = reads(&sources, body.operands.iter().map(|v| self.whole(*v)).collect());
        Ok(step)
    }
    /// Lets a step leave results in even spreads.
    pub(super) fn leave_spread(&mut self, step: &mut Step, results: &[ValueId]) -> Result<()> {
        for &value in results {
            let layout = self.spread(value)?;
            let buffer = self.emitter.buffer(value, "", BufferClass::Scratch, self.pe, layout);
            self.emitter.buffer_of.insert(value, buffer);
            step.writes.push(fill(buffer, self.whole(value)));
        }
        Ok(())
    }
    /// Emits a step that is not cut, with its results in even spreads.
    fn finish(&mut self, group: &Group, mut step: Step, fidelity: Fidelity) -> Result<()> {
        self.leave_spread(&mut step, &self.emitter.body(&group.nodes, None).results)?;
        self.push(step);
        self.emitter.mapped(group, fidelity);
        Ok(())
    }

    pub(super) fn compute(&mut self, group: &Group) -> Result<()> {
        let body = self.emitter.body(&group.nodes, group.space.as_ref());
        let Some(space) = &group.space else { return self.whole_group(group) };
        let problem = problem(&self.emitter, &self.nominal, group, &body)?;
        let Some(cuts) = self.choose(group, &body, space, &problem)? else { return self.whole_group(group) };
        let mut step =
            self.emitter.step(group.name(self.emitter.graph), StepKind::Compute, body.graph.clone());
        step.work = self.emitter.work(&group.nodes);
        step.part_attrs = space.part_attrs.clone();
        step.padding = space.padding;
        (step.base, step.grid) = (self.region().base, cuts);
        let cut_sum =
            (0..space.axes.len()).any(|i| space.axes[i].kind != AxisKind::Parallel && step.grid[i].is_cut());
        if cut_sum {
            return self.cut_sum(group, space, step);
        }
        self.complete(&mut step, None, &body.operands, &body.reads)?;
        self.lay_out(step, &body.results, body.writes);
        self.emitter.mapped(group, Fidelity::Exact);
        Ok(())
    }
    /// Brings the operands of a step to where its parts are; `first` is there already.
    fn complete(
        &mut self,
        step: &mut Step,
        first: Option<BufferId>,
        operands: &[ValueId],
        accesses: &[Vec<Access>],
    ) -> Result<()> {
        let mut arrivals: Vec<Arrival> = Vec::new();
        for (number, (&value, access)) in operands.iter().zip(accesses).enumerate() {
            let buffer = match first.filter(|_| number == 0) {
                Some(buffer) => buffer,
                None => self.bring(value, &self.layout_of(step, access), &mut arrivals)?,
            };
            step.reads.push(Read { buffer, access: access.clone() });
        }
        self.arrive(arrivals, step.padding, &step.name);
        Ok(())
    }
    /// Emits a step with its results laid out as its parts make them.
    fn lay_out(&mut self, mut step: Step, results: &[ValueId], writes: Vec<Vec<Access>>) {
        for (&value, access) in results.iter().zip(writes) {
            let layout = self.layout_of(&step, &access);
            let buffer = self.emitter.buffer(value, "", BufferClass::Scratch, self.pe, layout);
            self.emitter.buffer_of.insert(value, buffer);
            step.writes.push(fill(buffer, access));
        }
        self.push_layer(step);
    }
    /// The layout in which the parts of a step find an operand, or leave a result.
    fn layout_of(&self, step: &Step, access: &[Access]) -> Layout {
        Layout { base: step.base, cuts: step.grid.clone(), access: access.to_vec() }
    }
    pub(super) fn whole_buffer(&self, buffer: BufferId) -> Vec<Access> {
        vec![Access::Whole; self.emitter.program.buffers[buffer].shape.len()]
    }

    /// A group whose sum is cut over PEs: the partial sums run along the mesh and arrive spread over the PEs that made
    /// them; what follows on the sum is a step of its own.
    fn cut_sum(&mut self, group: &Group, space: &IterSpace, like: Step) -> Result<()> {
        let anchor = self.emitter.body(&group.nodes[..1], Some(space));
        let mut step = Step { body: anchor.graph, work: self.emitter.work(&group.nodes[..1]), ..like };
        let partial = orrery_numerics::Format::parse(&step.arithmetic.accumulate)
            .and_then(orrery_numerics::Format::dtype)
            .unwrap_or(orrery_numerics::DType::F32);
        let product = self.emitter.graph.nodes[group.nodes[0]].op.def().engine == Engine::Matrix;
        if product {
            retype_output(&mut step.body, partial);
        }
        self.complete(&mut step, None, &anchor.operands, &anchor.reads)?;
        if !product {
            for (&value, access) in anchor.results.iter().zip(&anchor.writes) {
                let layout = spread_along_sum(step.base, &step.grid, space, access);
                let buffer = self.emitter.buffer(value, "", BufferClass::Scratch, self.pe, layout);
                self.emitter.buffer_of.insert(value, buffer);
                let mode = WriteMode::Combined(orrery_ir::op::Combine::Sum);
                step.writes.push(Write { buffer, access: access.clone(), mode });
            }
            self.push_layer(step);
            self.emitter.mapped(group, Fidelity::Exact);
            return Ok(());
        }
        let (output, access) = (anchor.results[0], anchor.writes[0].clone());
        let layout = spread_along_sum(step.base, &step.grid, space, &access);
        let alone = group.nodes.len() == 1;
        let suffix = if alone { "" } else { "@sum" };
        let buffer = self.emitter.buffer(output, suffix, BufferClass::Scratch, self.pe, layout.clone());
        let combine = WriteMode::Combined(orrery_ir::op::Combine::Sum);
        step.writes.push(Write { buffer, access, mode: combine });
        let (name, base) = (step.name.clone(), step.base);
        self.push_layer(step);
        self.emitter.mapped(group, Fidelity::Exact);
        if alone {
            self.emitter.buffer_of.insert(output, buffer);
            return Ok(());
        }
        let (dtype, shape) = self.emitter.type_of(output);
        let mut over_output = IterSpace::over_output(&shape);
        // Where a part makes whole blocks of the result, what follows is cut between blocks too.
        for (d, access) in layout.access.iter().enumerate() {
            if let Access::Along { axis, scale } = access {
                over_output.axes[d].extent = layout.cuts[*axis].extent.clone();
                over_output.outputs[0][d] = Access::Along { axis: d, scale: scale.clone() };
            }
        }
        let Some(body) = reduction_body(&self.emitter, group, &over_output, None, dtype) else {
            return Ok(());
        };
        let mut step = self.emitter.step(format!("{name} (after the sum)"), StepKind::Compute, body.graph);
        step.base = base;
        step.grid = grid(&over_output, |d| {
            layout.access[d].axis().map_or(Cutting::Parts(1), |a| layout.cuts[a].cutting)
        });
        for (cut, access) in step.grid.iter_mut().zip(&layout.access) {
            cut.stride = access.axis().map_or(0, |a| layout.cuts[a].stride);
        }
        step.work = self.emitter.work(&group.nodes[1..]);
        self.complete(&mut step, Some(buffer), &body.operands, &body.reads)?;
        self.lay_out(step, &body.results, body.writes);
        Ok(())
    }
}
