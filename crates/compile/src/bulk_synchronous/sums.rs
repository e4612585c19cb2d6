//! Sums that are cut: over tiles, and in turns.
//!
//! Over tiles: each part sums a stretch into partial results of its own, which are exchanged and added. In turns: the
//! operands of one stretch are on the tiles at a time, and each turn adds to what the turns before it have made, in place.

use super::arrive::Stretch;
use super::{Lowering, set_strides};
use crate::Fidelity;
use crate::groups::Group;
use crate::kernel::split_axis;
use crate::lower::{fill, reads, reduction_body, retype_output};
use crate::partition::{Choice, Problem};
use crate::states::pass_through;
use orrery_base::{Diagnostic, Result};
use orrery_ir::op::{Access, AxisKind, Combine, IterSpace, Work};
use orrery_ir::{Dim, ValueId};
use orrery_numerics::{DType, Format};
use orrery_program::{Buffer, BufferClass, BufferId, Layout, Read, Step, StepKind, Write, WriteMode};

impl Lowering<'_> {
    /// Emits a group whose sum is cut: partial results on the tiles, what becomes of them, and the followers. `step` has
    /// the anchor's grid.
    pub(super) fn cut_sum(
        &mut self,
        group: &Group,
        step: &Step,
        problem: &Problem,
        choice: &Choice,
    ) -> Result<()> {
        let output = self.emitter.graph.nodes[group.nodes[0]].outputs.iter().flatten().next().copied();
        let (Some(space), Some(output)) = (&group.space, output) else {
            return Diagnostic::error("partition", "a sum without a result is cut").err();
        };
        let sums = |i: &usize| space.axes[*i].kind == AxisKind::Reduce(Combine::Sum);
        let cut = (0..space.axes.len()).filter(sums).find(|&i| choice.parts[i] > 1);
        let Some(depth) = cut.or_else(|| (0..space.axes.len()).find(sums)) else {
            return Diagnostic::error("partition", "what is cut is no sum").err();
        };
        let splits = choice.parts[depth];
        let anchor = self.emitter.body(&group.nodes[..1], Some(space));
        // Partial results are kept in the format of the accumulator.
        let partial_type =
            Format::parse(&step.arithmetic.accumulate).and_then(Format::dtype).unwrap_or(DType::F32);
        // Turns are taken along the axis that is cut, within its parts, or along another.
        let along = problem.turned.unwrap_or(depth);
        let length = space.axes[along].extent.clone();
        let (turns, turn_length) = match length.known() {
            Some(k) if choice.price.turns > 1 => {
                let turn = choice.price.turn.max(1) * if along == depth { splits as i64 } else { 1 };
                ((k + turn - 1) / turn, turn)
            }
            _ => (1, 0),
        };
        let mut stays: Vec<Option<BufferId>> = vec![None; anchor.operands.len()];
        let mut partials = None;
        let mut grid = step.grid.clone();
        for turn in 0..turns {
            let end = (turn + 1) * turn_length;
            let (from, to) = (turn * turn_length, length.known().map_or(end, |k| end.min(k)));
            let mut part = step.clone();
            part.body = anchor.graph.clone();
            retype_output(&mut part.body, partial_type);
            part.reads = reads(&vec![BufferId(0); anchor.reads.len()], anchor.reads.clone());
            let work = self.emitter.work(&group.nodes[..1]);
            part.work = work.clone();
            if turns > 1 {
                part.name = format!("{} (turn {} of {turns})", step.name, turn + 1);
                let macs = (work.macs * Dim::from(to - from)).floor_div(&length);
                part.work = if turn == 0 { Work { macs, ..work } } else { Work::macs(macs) };
                part.grid[along].extent = (to - from).into();
            }
            let mut access = anchor.writes[0].clone();
            if splits > 1 {
                access.insert(0, Access::along(split_axis(&mut part, depth, splits)));
            }
            set_strides(&mut part.grid, choice.price.inner);
            let mut arrivals = Vec::new();
            for (i, &value) in anchor.operands.iter().enumerate() {
                let of_turn: Vec<usize> = (0..anchor.reads[i].len())
                    .filter(|&d| turns > 1 && anchor.reads[i][d].axis() == Some(along))
                    .collect();
                let layout = self.layout_of(&part, &part.reads[i].access);
                let buffer = match (of_turn.is_empty(), stays[i]) {
                    (true, Some(there)) => there,
                    (true, None) => self.bring(value, None, &layout, &mut arrivals)?,
                    _ => {
                        let stretch = Stretch { dims: of_turn, from, to };
                        self.bring(value, Some(&stretch), &layout, &mut arrivals)?
                    }
                };
                stays[i] = Some(buffer).filter(|_| !anchor.reads[i].iter().any(|a| a.axis() == Some(along)));
                part.reads[i].buffer = buffer;
            }
            self.arrive(arrivals, part.padding, &part.name);
            let mode = if partials.is_some() { WriteMode::Reduce(Combine::Sum) } else { WriteMode::Fill };
            let buffer = *partials.get_or_insert_with(|| {
                let lead = (splits > 1).then(|| Dim::from(splits as i64));
                let class = if turns > 1 { BufferClass::Accumulator } else { BufferClass::Scratch };
                self.emitter.program.buffers.push(Buffer {
                    name: format!("{}.partials", self.emitter.name_of(output)),
                    class,
                    dtype: partial_type,
                    shape: lead.into_iter().chain(self.emitter.type_of(output).1).collect(),
                    home: self.tile,
                    layout: Layout { base: part.base, cuts: part.grid.clone(), access: access.clone() },
                    weight: None,
                    view_of: None,
                    pieces: None,
                    by_item: None,
                })
            });
            part.writes = vec![Write { buffer, access, mode }];
            grid.clone_from(&part.grid);
            self.emitter.push(part);
        }
        let Some(partials) = partials else {
            return Diagnostic::error("partition", "a sum of nothing is cut").err();
        };
        if splits > 1 {
            self.sum_parts(group, output, partials, splits, &step.name)?;
        } else {
            self.finish(group, space, output, partials, &Step { grid, ..step.clone() })?;
        }
        self.emitter.mapped(group, Fidelity::Exact);
        Ok(())
    }
    /// What follows on a sum that lies where its parts are.
    fn finish(
        &mut self,
        group: &Group,
        space: &IterSpace,
        output: ValueId,
        partials: BufferId,
        like: &Step,
    ) -> Result<()> {
        let (dtype, shape) = self.emitter.type_of(output);
        let partial_type = self.emitter.program.buffers[partials].dtype;
        if group.nodes.len() == 1 && dtype == partial_type {
            self.emitter.buffer_of.insert(output, partials);
            return Ok(());
        }
        let Some(body) = reduction_body(&self.emitter, group, space, None, partial_type) else {
            return Diagnostic::error("partition", "a sum without a result is cut").err();
        };
        let mut step =
            self.emitter.step(format!("{} (after the last turn)", like.name), StepKind::Compute, body.graph);
        (step.base, step.grid) = (like.base, like.grid.clone());
        let followers = self.emitter.work(&group.nodes[1..]);
        let rounded = if dtype == partial_type { Dim::from(0_i64) } else { shape.into_iter().product() };
        step.work = Work { vector: followers.vector + rounded, ..followers };
        self.complete(step, partials, &body.operands, &body.reads, &body.results, &body.writes)
    }
    /// Adds partial results: every tile takes an even share of the output and all partial results of it.
    fn sum_parts(
        &mut self,
        group: &Group,
        output: ValueId,
        partials: BufferId,
        splits: u64,
        name: &str,
    ) -> Result<()> {
        let (_, shape) = self.emitter.type_of(output);
        let over_output = IterSpace::over_output(&shape);
        let partial_type = self.emitter.program.buffers[partials].dtype;
        let Some(body) = reduction_body(&self.emitter, group, &over_output, Some(splits), partial_type)
        else {
            return Diagnostic::error("partition", "a sum without a result is cut").err();
        };
        let layout = Layout { base: 0, ..self.spread(output)? };
        let mut step = self.emitter.step(format!("{name} (sum of parts)"), StepKind::Compute, body.graph);
        step.grid = layout.cuts;
        let elements: Dim = shape.iter().cloned().product();
        let followers = self.emitter.work(&group.nodes[1..]);
        step.work = Work { vector: followers.vector + elements * Dim::from(splits as i64), ..followers };
        let number = self.emitter.program.buffers.len();
        let gathered = self.emitter.program.buffers.push(Buffer {
            name: format!("{}.partials@{number}", self.emitter.name_of(output)),
            class: BufferClass::Scratch,
            layout: self.layout_of(&step, &body.reads[0]),
            ..self.emitter.program.buffers[partials].clone()
        });
        let passed = &self.emitter.program.buffers[partials];
        let mut exchange =
            self.emitter.step(format!("{name} (partial results)"), StepKind::Exchange, pass_through(passed));
        exchange.reads = reads(&[partials], vec![self.whole_buffer(partials)]);
        exchange.writes = vec![fill(gathered, self.whole_buffer(gathered))];
        self.emitter.push(exchange);
        self.complete(step, gathered, &body.operands, &body.reads, &body.results, &body.writes)
    }
    /// Emits a step whose first operand is where it must be: brings the others, and lays out the results.
    fn complete(
        &mut self,
        mut step: Step,
        first: BufferId,
        operands: &[ValueId],
        accesses: &[Vec<Access>],
        results: &[ValueId],
        writes: &[Vec<Access>],
    ) -> Result<()> {
        step.reads = vec![Read { buffer: first, access: accesses[0].clone() }];
        let mut arrivals = Vec::new();
        for (&value, access) in operands[1..].iter().zip(&accesses[1..]) {
            let layout = self.layout_of(&step, access);
            let buffer = self.bring(value, None, &layout, &mut arrivals)?;
            step.reads.push(Read { buffer, access: access.clone() });
        }
        self.arrive(arrivals, 0.0, &step.name);
        for (&value, access) in results.iter().zip(writes) {
            let layout = self.layout_of(&step, access);
            let buffer = self.emitter.buffer(value, "", BufferClass::Scratch, self.tile, layout);
            self.emitter.buffer_of.insert(value, buffer);
            step.writes.push(fill(buffer, access.clone()));
        }
        self.emitter.push(step);
        Ok(())
    }
}
