//! Bulk-synchronous machines: every group is cut over the tiles; what its parts need is exchanged first.
//!
//! A value lives on the tiles in the layout in which it was made. Ops that only move data are put off until a compute step
//! needs the value, and then done by the exchange that brings it. Weights lie where the step that uses them wants them, or
//! spread evenly and are sent round. Where the tiles cannot hold the weights, they stay in streaming memory.

use crate::groups::{Group, GroupKind, is_inline};
use crate::kernel::split_axis;
use crate::lower::{Body, Emitter, fill, grid, reads, reduction_body, retype_output};
use crate::needed::needed;
use crate::partition::{Axis, Choice, Operand, Problem, Tiles};
use crate::{Compiled, Fidelity, Options};
use orrery_base::{Diagnostic, Result};
use orrery_cost::Contraction;
use orrery_cost::Target;
use orrery_ir::infer::Facts;
use orrery_ir::op::{Access, AxisKind, Combine, Work};
use orrery_ir::{Bindings, Dim, Graph, NodeId, ValueId};
use orrery_machine::{BspLosses, BspMachine, Losses};
use orrery_numerics::DType;
use orrery_program::memory::unbound;
use orrery_program::{
    Buffer, BufferClass, BufferId, Cut, Cutting, Layout, MemoryId, Program, Step, StepKind, verify,
};
use std::collections::{BTreeMap, BTreeSet};

/// Compiles groups for a machine of tiles.
///
/// # Errors
/// As [`crate::compile`].
pub fn compile(
    graph: &Graph,
    facts: &Facts,
    groups: &[Group],
    target: &Target<'_>,
    machine: &BspMachine,
    options: &Options,
) -> Result<Compiled> {
    let Losses::BulkSynchronous(losses) = &target.losses else {
        return Diagnostic::error("cost-model", "the machine's losses are of another execution model").err();
    };
    let resident = emit(graph, facts, groups, target, machine, losses, options, false)?;
    let Err(first) = verify::capacity(&resident.program) else { return Ok(resident) };
    let mut streamed = emit(graph, facts, groups, target, machine, losses, options, true)?;
    if let Err(second) = verify::capacity(&streamed.program) {
        let smaller = if second.code == "does-not-fit" { second } else { first };
        return Err(Box::new(
            smaller
                .help("all weights are in streaming memory already; the rest is what one step needs at once"),
        ));
    }
    streamed.notes.push(
        Diagnostic::note("weights-streamed", format!("the tiles cannot hold the weights: {}", first.cause))
            .help("more chips in a pipeline would keep them on the tiles"),
    );
    Ok(streamed)
}

fn emit(
    graph: &Graph,
    facts: &Facts,
    groups: &[Group],
    target: &Target<'_>,
    machine: &BspMachine,
    losses: &BspLosses,
    options: &Options,
    stream_weights: bool,
) -> Result<Compiled> {
    let mut emitter = Emitter::new(graph, facts, target, options);
    let host = emitter.memory("host", 1, u64::MAX, 0);
    let tile = emitter.memory("tile", machine.tiles, machine.tile_bytes, 0);
    let streaming = emitter.memory("streaming", 1, machine.streaming_bytes, 0);
    let budget = (machine.tile_bytes as f64) * machine.matrix_temporary_fraction;
    let tiles = Tiles { machine, losses, macs: target.precision.macs(), budget };
    let mut lowering = Lowering {
        emitter,
        host,
        tile,
        streaming,
        stream_weights,
        tiles,
        nominal: options.nominal(),
        moved: BTreeMap::new(),
        next_core: 0,
        chosen: BTreeMap::new(),
    };
    for &value in &graph.inputs {
        lowering.host_input(value)?;
    }
    for group in groups {
        match group.kind {
            GroupKind::Extents => lowering.extents(group)?,
            GroupKind::View | GroupKind::Movement => lowering.movement(group)?,
            GroupKind::Compute => lowering.compute(group)?,
        }
    }
    for (i, &value) in graph.outputs.iter().enumerate() {
        lowering.host_output(value, graph.output_name(i))?;
    }
    let Emitter { program, nodes, .. } = lowering.emitter;
    let mut program = needed(program);
    program.memories[tile].reserved = code_bytes(&program, machine);
    Ok(Compiled { program, nodes, notes: Vec::new() })
}

struct Lowering<'a> {
    emitter: Emitter<'a>,
    host: MemoryId,
    tile: MemoryId,
    streaming: MemoryId,
    stream_weights: bool,
    tiles: Tiles<'a>,
    nominal: Bindings,
    /// Values that are another value moved: the source, and the nodes that move it.
    moved: BTreeMap<ValueId, (ValueId, Vec<NodeId>)>,
    /// The core at which the next even spread starts, so that small buffers do not pile up on the first tile.
    next_core: u64,
    /// Problems already solved: equal layers are cut alike.
    chosen: BTreeMap<Vec<u64>, Choice>,
}

impl Lowering<'_> {
    fn whole(&self, value: ValueId) -> Vec<Access> {
        vec![Access::Whole; self.emitter.type_of(value).1.len()]
    }
    fn extent(&self, dim: &Dim) -> Result<i64> {
        dim.eval(&self.nominal).map_err(|s| Box::new(unbound(&s)))
    }
    /// A layout that spreads a value evenly over the tiles.
    fn spread(&mut self, value: ValueId) -> Result<Layout> {
        let (_, shape) = self.emitter.type_of(value);
        let mut order: Vec<(i64, usize)> = Vec::new();
        for (d, dim) in shape.iter().enumerate() {
            order.push((self.extent(dim)?, d));
        }
        // The longest dimensions first: they are cut with least waste.
        order.sort_by_key(|&(extent, d)| (std::cmp::Reverse(extent), d));
        let mut parts = vec![1_u64; shape.len()];
        let mut left = self.tiles.machine.tiles;
        for (extent, d) in order {
            let extent = u64::try_from(extent).unwrap_or(0).max(1);
            let wanted = extent.min(left);
            let block = extent.div_ceil(wanted);
            parts[d] = extent.div_ceil(block);
            left /= parts[d];
        }
        let mut cuts: Vec<Cut> = shape
            .iter()
            .zip(&parts)
            .map(|(extent, &p)| Cut {
                name: "spread".into(),
                extent: extent.clone(),
                cutting: Cutting::Parts(p),
                stride: 0,
            })
            .collect();
        let cores = set_strides(&mut cuts);
        let base = if self.next_core + cores <= self.tiles.machine.tiles { self.next_core } else { 0 };
        self.next_core = (base + cores) % self.tiles.machine.tiles;
        Ok(Layout { base, cuts, access: (0..shape.len()).map(Access::along).collect() })
    }
    fn host_input(&mut self, value: ValueId) -> Result<()> {
        let whole = Layout::whole(self.whole(value).len(), 0);
        let from = self.emitter.buffer(value, "@host", BufferClass::Input, self.host, whole);
        self.emitter.program.inputs.push(from);
        let layout = self.spread(value)?;
        let to = self.emitter.buffer(value, "", BufferClass::Scratch, self.tile, layout);
        self.transfer(format!("{} to tiles", self.emitter.name_of(value)), StepKind::Host, value, from, to);
        self.emitter.buffer_of.insert(value, to);
        Ok(())
    }
    fn transfer(&mut self, name: String, kind: StepKind, value: ValueId, from: BufferId, to: BufferId) {
        let mut step = self.emitter.step(name, kind, self.emitter.identity(value));
        step.reads = reads(&[from], vec![self.whole(value)]);
        step.writes = vec![fill(to, self.whole(value))];
        self.emitter.push(step);
    }
    /// What a value is a movement of: a value with a buffer, or a constant, and the nodes in between.
    fn origin(&self, value: ValueId) -> (ValueId, Vec<NodeId>) {
        self.moved.get(&value).cloned().unwrap_or((value, Vec::new()))
    }
    /// The buffer of a value that is not a movement of another. `wanted` is where its user would have it.
    fn operand(&mut self, value: ValueId, wanted: Option<&Layout>) -> Result<BufferId> {
        if let Some(&buffer) = self.emitter.buffer_of.get(&value) {
            return Ok(buffer);
        }
        let layout = match wanted.filter(|layout| layout.copies().is_empty()) {
            Some(layout) => layout.clone(),
            None => self.spread(value)?,
        };
        if self.stream_weights {
            let whole = Layout::whole(self.whole(value).len(), 0);
            let from =
                self.emitter.buffer(value, "@streaming", BufferClass::Parameter, self.streaming, whole);
            let to = self.emitter.buffer(value, "", BufferClass::Scratch, self.tile, layout);
            self.transfer(
                format!("stream {}", self.emitter.name_of(value)),
                StepKind::Stream,
                value,
                from,
                to,
            );
            self.emitter.buffer_of.insert(value, to);
            return Ok(to);
        }
        let buffer = self.emitter.buffer(value, "", BufferClass::Parameter, self.tile, layout);
        self.emitter.buffer_of.insert(value, buffer);
        Ok(buffer)
    }
    /// Brings a value into a layout by an exchange, with whatever movements were put off.
    fn bring(&mut self, value: ValueId, layout: &Layout, padding: f64, for_step: &str) -> Result<BufferId> {
        let (source, chain) = self.origin(value);
        let buffer = self.operand(source, chain.is_empty().then_some(layout))?;
        let there = &self.emitter.program.buffers[buffer];
        if chain.is_empty() && there.home == self.tile && there.layout.same_place(layout) {
            return Ok(buffer);
        }
        let body = if chain.is_empty() {
            self.emitter.identity(value)
        } else {
            self.emitter.body(&chain, None).graph
        };
        let number = self.emitter.program.buffers.len();
        let to = self.emitter.buffer(
            value,
            &format!("@{number}"),
            BufferClass::Scratch,
            self.tile,
            layout.clone(),
        );
        let mut step = self.emitter.step(
            format!("{} for {for_step}", self.emitter.name_of(value)),
            StepKind::Exchange,
            body,
        );
        step.reads = reads(&[buffer], vec![self.whole(source)]);
        step.writes = vec![fill(to, self.whole(value))];
        step.padding = padding;
        self.emitter.push(step);
        Ok(to)
    }
    fn host_output(&mut self, value: ValueId, name: &str) -> Result<()> {
        let (source, chain) = self.origin(value);
        let from = self.operand(source, None)?;
        let whole = Layout::whole(self.whole(value).len(), 0);
        let suffix = format!("@host.{}", self.emitter.program.outputs.len());
        let to = self.emitter.buffer(value, &suffix, BufferClass::Scratch, self.host, whole);
        let body = if chain.is_empty() {
            self.emitter.identity(value)
        } else {
            self.emitter.body(&chain, None).graph
        };
        let mut step = self.emitter.step(format!("{name} to host"), StepKind::Host, body);
        step.reads = reads(&[from], vec![self.whole(source)]);
        step.writes = vec![fill(to, self.whole(value))];
        self.emitter.push(step);
        self.emitter.program.outputs.push((name.to_owned(), to));
        Ok(())
    }
    /// Integers that follow from extents stay on the host.
    fn extents(&mut self, group: &Group) -> Result<()> {
        let body = self.emitter.body(&group.nodes, None);
        let mut sources = Vec::new();
        for &value in &body.operands {
            let (source, chain) = self.origin(value);
            let buffer = if chain.is_empty() {
                self.operand(source, None)?
            } else {
                let layout = self.spread(value)?;
                self.bring(value, &layout, 0.0, "its extents")?
            };
            sources.push(buffer);
        }
        let mut step = self.emitter.step(group.name(self.emitter.graph), StepKind::View, body.graph);
        step.reads = reads(&sources, body.operands.iter().map(|v| self.whole(*v)).collect());
        for &value in &body.results {
            let layout = Layout::whole(self.whole(value).len(), 0);
            let buffer = self.emitter.buffer(value, "", BufferClass::Scratch, self.host, layout);
            self.emitter.buffer_of.insert(value, buffer);
            step.writes.push(fill(buffer, self.whole(value)));
        }
        self.emitter.push(step);
        self.emitter.mapped(group, Fidelity::Exact);
        Ok(())
    }
    fn movement(&mut self, group: &Group) -> Result<()> {
        self.emitter.mapped(group, Fidelity::Exact);
        let node = &self.emitter.graph.nodes[group.nodes[0]];
        let mut operands: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
        operands.retain(|v| !is_inline(self.emitter.graph, *v));
        if let ([input], [Some(output)]) = (&operands[..], &node.outputs[..]) {
            let (source, mut chain) = self.origin(*input);
            chain.push(group.nodes[0]);
            self.moved.insert(*output, (source, chain));
            return Ok(());
        }
        let body = self.emitter.body(&group.nodes, None);
        let mut sources = Vec::new();
        for &value in &body.operands {
            let (source, chain) = self.origin(value);
            let buffer = if chain.is_empty() {
                self.operand(source, None)?
            } else {
                let layout = self.spread(value)?;
                self.bring(value, &layout, 0.0, node.op.name())?
            };
            sources.push(buffer);
        }
        let mut step = self.emitter.step(group.name(self.emitter.graph), StepKind::Exchange, body.graph);
        step.reads = reads(&sources, body.operands.iter().map(|v| self.whole(*v)).collect());
        for &value in &body.results {
            let layout = self.spread(value)?;
            let buffer = self.emitter.buffer(value, "", BufferClass::Scratch, self.tile, layout);
            self.emitter.buffer_of.insert(value, buffer);
            step.writes.push(fill(buffer, self.whole(value)));
        }
        self.emitter.push(step);
        Ok(())
    }
    fn compute(&mut self, group: &Group) -> Result<()> {
        let body = self.emitter.body(&group.nodes, group.space.as_ref());
        let name = group.name(self.emitter.graph);
        let Some(space) = &group.space else { return self.whole_group(group, body, name) };
        let problem = self.problem(group, &body)?;
        let mut choice = self.choose(&problem);
        let mut cuts = grid(space, |i| Cutting::Parts(choice.parts[i]));
        set_strides(&mut cuts);
        let mut base = 0;
        if let Some((kept, at)) = self.kept_grid(group, &body)
            && let Some(parts) = kept
                .iter()
                .map(|c| if let Cutting::Parts(p) = c.cutting { Some(p) } else { None })
                .collect::<Option<Vec<_>>>()
        {
            // What lies where it was made need not be exchanged.
            let staying = Problem { operands: problem.operands[1..].to_vec(), ..problem.clone() };
            let stay = self.tiles.price(&staying, &parts);
            if stay.cycles <= choice.cycles {
                (choice, cuts, base) = (stay, kept, at);
            }
        }
        let splits: u64 = space
            .axes
            .iter()
            .zip(&choice.parts)
            .filter(|(a, _)| a.kind == AxisKind::Reduce(Combine::Sum))
            .map(|(_, &p)| p)
            .product();
        let mut step = self.emitter.step(name, StepKind::Compute, body.graph.clone());
        step.work = self.emitter.work(&group.nodes);
        step.part_attrs = space.part_attrs.clone();
        step.padding = space.padding;
        (step.base, step.grid) = (base, cuts);
        if splits > 1 {
            return self.split(group, step, &body.writes, splits);
        }
        step.reads = reads(&vec![BufferId(0); body.reads.len()], body.reads);
        self.bring_all(&mut step, &body.operands)?;
        for (&value, access) in body.results.iter().zip(body.writes) {
            let layout = Layout { base: step.base, cuts: step.grid.clone(), access: access.clone() };
            let buffer = self.emitter.buffer(value, "", BufferClass::Scratch, self.tile, layout);
            self.emitter.buffer_of.insert(value, buffer);
            step.writes.push(fill(buffer, access));
        }
        self.emitter.push(step);
        self.emitter.mapped(group, Fidelity::Exact);
        Ok(())
    }
    fn bring_all(&mut self, step: &mut Step, operands: &[ValueId]) -> Result<()> {
        for (i, &value) in operands.iter().enumerate() {
            let layout =
                Layout { base: step.base, cuts: step.grid.clone(), access: step.reads[i].access.clone() };
            step.reads[i].buffer = self.bring(value, &layout, step.padding, &step.name)?;
        }
        Ok(())
    }
    /// A group that cannot be cut by rule: counted as if its work were spread over all tiles.
    fn whole_group(&mut self, group: &Group, body: Body, name: String) -> Result<()> {
        let mut step = self.emitter.step(name, StepKind::Compute, body.graph);
        step.work = self.emitter.work(&group.nodes);
        step.approximate = true;
        for &value in &body.operands {
            let layout = self.spread(value)?;
            let buffer = self.bring(value, &layout, 0.0, &step.name)?;
            step.reads.push(orrery_program::Read { buffer, access: self.whole(value) });
        }
        for &value in &body.results {
            let layout = self.spread(value)?;
            let buffer = self.emitter.buffer(value, "", BufferClass::Scratch, self.tile, layout);
            self.emitter.buffer_of.insert(value, buffer);
            step.writes.push(fill(buffer, self.whole(value)));
        }
        self.emitter.push(step);
        self.emitter.mapped(group, Fidelity::Approximated);
        Ok(())
    }
    /// Cuts the sum: partial results on the tiles, an exchange, and a step that adds them and goes on with the followers.
    fn split(
        &mut self,
        group: &Group,
        mut step: Step,
        write_access: &[Vec<Access>],
        splits: u64,
    ) -> Result<()> {
        let depth = step
            .grid
            .iter()
            .enumerate()
            .find(|(i, c)| {
                c.cutting == Cutting::Parts(splits)
                    && group.space.as_ref().is_some_and(|s| s.axes[*i].kind != AxisKind::Parallel)
            })
            .map(|(i, _)| i);
        let output = self.emitter.graph.nodes[group.nodes[0]].outputs.iter().flatten().next().copied();
        let (Some(depth), Some(output)) = (depth, output) else {
            return Diagnostic::error("partition", "a sum is cut along two axes at once").err();
        };
        let anchor = self.emitter.body(&group.nodes[..1], group.space.as_ref());
        step.body = anchor.graph;
        step.work = self.emitter.work(&group.nodes[..1]);
        step.reads = reads(&vec![BufferId(0); anchor.reads.len()], anchor.reads);
        let axis = split_axis(&mut step, depth, splits);
        set_strides(&mut step.grid);
        self.bring_all(&mut step, &anchor.operands)?;
        let (_, shape) = self.emitter.type_of(output);
        // Partial results are kept in the format of the accumulator.
        let partial_type = orrery_numerics::Format::parse(&step.arithmetic.accumulate)
            .and_then(orrery_numerics::Format::dtype)
            .unwrap_or(DType::F32);
        let access: Vec<Access> =
            std::iter::once(Access::along(axis)).chain(write_access[0].iter().cloned()).collect();
        let partials = self.emitter.program.buffers.push(Buffer {
            name: format!("{}.partials", self.emitter.name_of(output)),
            class: BufferClass::Scratch,
            dtype: partial_type,
            shape: std::iter::once(Dim::from(splits as i64)).chain(shape.iter().cloned()).collect(),
            home: self.tile,
            layout: Layout { base: step.base, cuts: step.grid.clone(), access: access.clone() },
            weight: None,
            view_of: None,
        });
        retype_output(&mut step.body, partial_type);
        let name = step.name.clone();
        step.writes = vec![fill(partials, access)];
        self.emitter.push(step);
        self.sum_parts(group, output, partials, splits, partial_type, &name)?;
        self.emitter.mapped(group, Fidelity::Exact);
        Ok(())
    }
    fn sum_parts(
        &mut self,
        group: &Group,
        output: ValueId,
        partials: BufferId,
        splits: u64,
        partial_type: DType,
        name: &str,
    ) -> Result<()> {
        let Some(body) = reduction_body(&self.emitter, group, splits, partial_type) else {
            return Diagnostic::error("partition", "a sum without a result is cut").err();
        };
        let (_, shape) = self.emitter.type_of(output);
        // Every tile takes an even share of the output and all partial results of it.
        let mut layout = self.spread(output)?;
        layout.base = 0;
        let mut step = self.emitter.step(format!("{name} (sum of parts)"), StepKind::Compute, body.graph);
        step.grid = layout.cuts.clone();
        let elements: Dim = shape.iter().cloned().product();
        let followers = self.emitter.work(&group.nodes[1..]);
        step.work = Work { vector: followers.vector + elements * Dim::from(splits as i64), ..followers };
        let gathered_access = body.reads[0].clone();
        let number = self.emitter.program.buffers.len();
        let gathered = self.emitter.program.buffers.push(Buffer {
            name: format!("{}.partials@{number}", self.emitter.name_of(output)),
            layout: Layout { access: gathered_access.clone(), ..layout.clone() },
            ..self.emitter.program.buffers[partials].clone()
        });
        let mut exchange = self.emitter.step(
            format!("{name} (partial results)"),
            StepKind::Exchange,
            pass_through(&self.emitter.program.buffers[partials]),
        );
        exchange.reads = reads(&[partials], vec![vec![Access::Whole; shape.len() + 1]]);
        exchange.writes = vec![fill(gathered, vec![Access::Whole; shape.len() + 1])];
        self.emitter.push(exchange);
        step.reads.push(orrery_program::Read { buffer: gathered, access: gathered_access });
        for (&value, access) in body.operands[1..].iter().zip(&body.reads[1..]) {
            let at = Layout { access: access.clone(), ..layout.clone() };
            let buffer = self.bring(value, &at, 0.0, &step.name)?;
            step.reads.push(orrery_program::Read { buffer, access: access.clone() });
        }
        for &value in &body.results {
            let buffer = self.emitter.buffer(value, "", BufferClass::Scratch, self.tile, layout.clone());
            self.emitter.buffer_of.insert(value, buffer);
            step.writes.push(fill(buffer, layout.access.clone()));
        }
        self.emitter.push(step);
        Ok(())
    }
    fn problem(&self, group: &Group, body: &Body) -> Result<Problem> {
        let space =
            group.space.as_ref().ok_or_else(|| Diagnostic::error("partition", "a group without axes"))?;
        let mut axes = Vec::new();
        for axis in &space.axes {
            let extent = self.extent(&axis.extent)?.max(1);
            axes.push(Axis { extent, reduce: axis.kind != AxisKind::Parallel });
        }
        let operand = |value: &ValueId, access: &Vec<Access>| -> Result<Operand> {
            let (dtype, shape) = self.emitter.type_of(*value);
            let mut dims = Vec::new();
            for (dim, access) in shape.iter().zip(access) {
                let access = match access {
                    Access::Along { axis, scale } => {
                        Access::Along { axis: *axis, scale: Dim::Known(self.extent(scale)?) }
                    }
                    other => other.clone(),
                };
                dims.push((access, self.extent(dim)?));
            }
            Ok(Operand { dims, bits: dtype.bits() as f64 })
        };
        let work = self.emitter.work(&group.nodes);
        let number = |dim: &Dim| self.extent(dim).map(|n| n as f64);
        let dtype = body.results.first().map_or(DType::F32, |v| self.emitter.type_of(*v).0);
        let macs = number(&work.macs)?;
        Ok(Problem {
            axes,
            operands: body
                .operands
                .iter()
                .zip(&body.reads)
                .map(|(v, a)| operand(v, a))
                .collect::<Result<_>>()?,
            results: body
                .results
                .iter()
                .zip(&body.writes)
                .map(|(v, a)| operand(v, a))
                .collect::<Result<_>>()?,
            matrix: if macs > 0.0 { self.emitter.contraction(group, &self.nominal)? } else { None },
            macs,
            vector: number(&work.vector)?,
            special: number(&work.special)?,
            dtype,
        })
    }
    fn choose(&mut self, problem: &Problem) -> Choice {
        let key = signature(problem);
        self.chosen.entry(key).or_insert_with(|| self.tiles.choose(problem)).clone()
    }
    /// The grid under which the group's first operand stays where it is, where there is one.
    fn kept_grid(&self, group: &Group, body: &Body) -> Option<(Vec<Cut>, u64)> {
        let space = group.space.as_ref()?;
        let first = *body.operands.first()?;
        if self.moved.contains_key(&first) {
            return None;
        }
        let buffer = &self.emitter.program.buffers[*self.emitter.buffer_of.get(&first)?];
        if buffer.home != self.tile || !buffer.layout.copies().is_empty() {
            return None;
        }
        let mut cuts = grid(space, |_| Cutting::Parts(1));
        let mut used = BTreeSet::new();
        for (have, want) in buffer.layout.access.iter().zip(&body.reads[0]) {
            match (have, want) {
                (Access::Along { axis, scale }, Access::Along { axis: to, scale: wanted })
                    if scale == wanted && scale.is(1) =>
                {
                    let cut = &buffer.layout.cuts[*axis];
                    if cut.extent != space.axes[*to].extent || space.axes[*to].kind != AxisKind::Parallel {
                        return None;
                    }
                    used.insert(*axis);
                    cuts[*to] = Cut { name: space.axes[*to].name.to_owned(), ..cut.clone() };
                }
                (Access::Along { axis, .. }, _) if buffer.layout.cuts[*axis].is_cut() => return None,
                (Access::Window { .. }, _) | (_, Access::Window { .. }) => return None,
                _ => {}
            }
        }
        Some((cuts, buffer.layout.base))
    }
}

/// Bytes that the program takes on every tile.
fn code_bytes(program: &Program, machine: &BspMachine) -> u64 {
    let mut kinds = BTreeSet::new();
    let mut total = machine.tile_reserved_bytes;
    for step in program.steps.values() {
        total += machine.control_step_bytes;
        match step.kind {
            StepKind::Compute => {
                total += machine.vertex_state_bytes;
                let dtype = step.writes.first().map(|w| program.buffers[w.buffer].dtype);
                kinds.extend(step.body.nodes.values().map(|n| (n.op, dtype)));
            }
            StepKind::Exchange | StepKind::Stream | StepKind::Host => {
                total +=
                    machine.exchange_phase_bytes + machine.exchange_piece_bytes * step.reads.len() as u64;
            }
            StepKind::View => {}
        }
    }
    total + kinds.len() as u64 * machine.vertex_code_bytes
}

/// Row-major strides over the cores; returns the number of cores.
fn set_strides(cuts: &mut [Cut]) -> u64 {
    let mut stride = 1;
    for cut in cuts.iter_mut().rev() {
        if let Cutting::Parts(parts) = cut.cutting {
            cut.stride = if parts > 1 { stride } else { 0 };
            stride *= parts;
        }
    }
    stride
}

/// A body that passes a buffer through.
fn pass_through(buffer: &Buffer) -> Graph {
    let mut graph = Graph::new("");
    let ty = orrery_ir::Type::tensor(buffer.dtype, buffer.shape.iter().cloned());
    let input = graph.add_input("partials", ty.clone());
    let node = graph.add_node(
        orrery_ir::Op::Identity,
        "",
        vec![Some(input)],
        vec![Some("moved".into())],
        Default::default(),
        Vec::new(),
    );
    if let [Some(output)] = graph.nodes[node].outputs[..] {
        graph.values[output].ty = ty;
        graph.outputs.push(output);
    }
    graph
}

/// Equal for problems that are cut alike.
fn signature(problem: &Problem) -> Vec<u64> {
    let mut key = vec![
        problem.macs.to_bits(),
        problem.vector.to_bits(),
        problem.special.to_bits(),
        problem.dtype as u64,
    ];
    key.extend(problem.matrix.as_ref().map(Contraction::key).unwrap_or_default());
    for axis in &problem.axes {
        key.extend([axis.extent as u64, u64::from(axis.reduce)]);
    }
    for operand in problem.operands.iter().chain(&problem.results) {
        key.push(operand.bits.to_bits());
        for (access, extent) in &operand.dims {
            let (kind, axis, a, b) = match access {
                Access::Whole => (0, 0, 0, 0),
                Access::Along { axis, scale } => (1, *axis as u64, scale.known().unwrap_or(0), 0),
                Access::Window { axis, stride, reach, .. } => (2, *axis as u64, *stride, *reach),
            };
            key.extend([kind, axis, a as u64, b as u64, *extent as u64]);
        }
    }
    key
}
