//! The plain program: every group a step over memory behind the chip, cut into pieces that follow one another.

use crate::groups::{Group, GroupKind};
use crate::lower::{Body, Emitter};
use crate::needed::needed;
use crate::states::{Kept, Way};
use crate::{Fidelity, Options};
use orrery_base::Result;
use orrery_cost::spatial::{DDR, HBM, PMU, Units, read_again, stage_cycles, stage_work};
use orrery_cost::{Measure, Target};
use orrery_ir::infer::Facts;
use orrery_ir::op::{Access, AxisKind, Combine, IterSpace};
use orrery_ir::{Bindings, Graph, Op, ValueId};
use orrery_program::memory::unbound;
use orrery_program::{
    BufferClass, BufferId, Cutting, Layout, MemoryId, Program, Step, StepKind, Unit, WriteMode,
};
use std::collections::BTreeSet;

/// Most pieces of a step: enough that a piece of a large batch is a sample, and that filling a pipeline of a hundred stages
const MOST_PIECES: u64 = 1024;
/// An operand that is less than this part of the result is kept whole without harm.
const SMALL_OPERAND: f64 = 0.125;
/// Times that differ by no more than this are taken as equal.
const NEARLY: f64 = 1.05;
/// A stage's pieces are chosen for this part of the chip.
const TYPICAL_SHARE: u64 = 16;

/// The program, and how each node was mapped.
///
/// # Errors
/// As [`crate::compile`].
pub(super) fn emit(
    graph: &Graph,
    facts: &Facts,
    groups: &[Group],
    target: &Target<'_>,
    units: &Units<'_>,
    options: &Options,
) -> Result<(Program, Vec<(String, Fidelity)>)> {
    let mut emitter = Emitter::new(graph, facts, target, options);
    let host = emitter.memory("host", 1, u64::MAX, 0);
    let ddr = emitter.memory(DDR, 1, units.machine.ddr_bytes, 0);
    if let Some(bytes) = units.machine.hbm_bytes {
        emitter.memory(HBM, 1, bytes, 0);
    }
    emitter.memory(PMU, 1, units.machine.pmus.saturating_mul(units.machine.pmu_bytes), 0);
    let mut plain = Plain { emitter, ddr, units, nominal: options.nominal(), of_weights: BTreeSet::new() };
    for &value in &graph.inputs {
        plain.host_input(value, host);
    }
    for group in groups {
        plain.emitter.enter(group);
        match group.kind {
            GroupKind::View => plain.simple(group, StepKind::View, ddr)?,
            GroupKind::Extents => plain.simple(group, StepKind::View, host)?,
            GroupKind::Movement => plain.simple(group, StepKind::Exchange, ddr)?,
            GroupKind::Compute => plain.compute(group)?,
        }
    }
    let way: Way<'_> = &|_, _| (StepKind::Stream, Unit::Device);
    let mut kept = Vec::new();
    for state in &graph.states {
        let (input, value) = plain.emitter.ends(state);
        let (from, to) = (plain.operand(value)?, plain.emitter.given[&input]);
        kept.push(Kept { name: plain.emitter.name_of(input), from, moved: None, to });
    }
    plain.emitter.set_aside(&mut kept, way);
    for (i, &value) in graph.outputs.iter().enumerate() {
        if !plain.emitter.stays(i) {
            plain.host_output(value, graph.output_name(i), host)?;
        }
    }
    plain.emitter.keep(kept, way);
    plain.emitter.list_inputs();
    let Emitter { program, nodes, .. } = plain.emitter;
    Ok((needed(program), nodes))
}

struct Plain<'a> {
    emitter: Emitter<'a>,
    ddr: MemoryId,
    units: &'a Units<'a>,
    nominal: Bindings,
    /// Values that are made of weights alone, as weights in another type or turned.
    of_weights: BTreeSet<BufferId>,
}

impl Plain<'_> {
    fn host_input(&mut self, value: ValueId, host: MemoryId) {
        if self.emitter.is_state(value) {
            let layout = Layout::whole(self.emitter.whole(value).len(), 0);
            let state = self.emitter.state(value, self.ddr, layout);
            self.emitter.buffer_of.insert(value, state);
            return;
        }
        let from = self.emitter.whole_buffer(value, "@host", BufferClass::Input, host);
        self.emitter.given.insert(value, from);
        let to = self.emitter.whole_buffer(value, "", BufferClass::Scratch, self.ddr);
        let name = format!("{} to device", self.emitter.name_of(value));
        self.emitter.pass(name, StepKind::Host, &[value], &[from], &[to]);
        self.emitter.buffer_of.insert(value, to);
    }
    fn host_output(&mut self, value: ValueId, name: &str, host: MemoryId) -> Result<()> {
        let from = self.operand(value)?;
        let suffix = format!("@host.{}", self.emitter.program.outputs.len());
        let to = self.emitter.whole_buffer(value, &suffix, BufferClass::Scratch, host);
        self.emitter.pass(format!("{name} to host"), StepKind::Host, &[value], &[from], &[to]);
        self.emitter.program.outputs.push((name.to_owned(), to));
        Ok(())
    }
    fn operand(&mut self, value: ValueId) -> Result<BufferId> {
        let ddr = self.ddr;
        self.emitter.source(value, |e| Ok(e.whole_buffer(value, "", BufferClass::Parameter, ddr)))
    }
    fn operands(&mut self, body: &Body) -> Result<Vec<BufferId>> {
        body.operands.iter().map(|value| self.operand(*value)).collect()
    }
    fn is_weight(&self, buffer: BufferId) -> bool {
        let program = &self.emitter.program;
        let class = program.buffers[program.storage(buffer)].class;
        matches!(class, BufferClass::Parameter | BufferClass::State) || self.of_weights.contains(&buffer)
    }
    /// Pushes the step of a group.
    fn push(&mut self, step: Step) {
        if step.reads.iter().all(|read| self.is_weight(read.buffer)) {
            self.of_weights.extend(step.writes.iter().map(|write| write.buffer));
        }
        self.emitter.push(step);
    }
    /// A group as one step without a grid.
    fn simple(&mut self, group: &Group, kind: StepKind, home: MemoryId) -> Result<()> {
        let body = self.emitter.body(&group.nodes, None);
        let sources = self.operands(&body)?;
        let step = self.emitter.uncut(group, kind, body, &sources, home);
        self.push(step);
        Ok(())
    }
    fn compute(&mut self, group: &Group) -> Result<()> {
        let body = self.emitter.body(&group.nodes, group.space.as_ref());
        let sources = self.operands(&body)?;
        let (mut step, fidelity) = self.emitter.computing(group, &body, &sources);
        self.emitter.make_results(&mut step, &body.results, body.writes, self.ddr);
        if let Some(space) = group.space.as_ref().filter(|_| !step.approximate) {
            self.cut(&mut step, space)?;
        }
        let cut_sum = |axis: usize| {
            step.grid[axis].is_cut()
                && group.space.as_ref().is_some_and(|s| s.axes[axis].kind == AxisKind::Reduce(Combine::Sum))
        };
        if (0..step.grid.len()).any(cut_sum) {
            step.writes.iter_mut().for_each(|w| w.mode = WriteMode::Combined(Combine::Sum));
        }
        self.push(step);
        self.emitter.mapped(group, fidelity);
        Ok(())
    }
    fn bytes(&self, buffer: BufferId) -> Result<f64> {
        Ok(self.emitter.program.block_bytes(buffer, &self.nominal)? as f64)
    }
    /// Axes along which pieces can follow one another, outermost first: those that the result and every operand of some size
    /// that is made here follow.
    fn piece_axes(&self, step: &Step, space: &IterSpace) -> Result<Vec<(usize, u64)>> {
        let mut made = 0.0;
        for write in &step.writes {
            made += self.bytes(write.buffer)?;
        }
        let mut followers = Vec::new();
        for read in &step.reads {
            if !self.is_weight(read.buffer) && self.bytes(read.buffer)? > made * SMALL_OPERAND {
                followers.push(&read.access);
            }
        }
        let follows = |access: &[Access], axis: usize| access.iter().any(|a| a.axis() == Some(axis));
        let mut axes = Vec::new();
        // Sums over what an operand counts first, as samples, are added to piece by piece, where what follows is the same for
        // a sum as for its parts.
        let summed = |a: &Access| a.axis().filter(|x| space.axes[*x].kind == AxisKind::Reduce(Combine::Sum));
        let counted = followers.iter().map(|access| access.iter().map_while(summed).collect::<Vec<_>>());
        let linear = step.body.nodes.values().skip(1).all(|node| node.op == Op::Cast);
        let sums = counted.filter(|_| linear).max_by_key(Vec::len).unwrap_or_default();
        let sums: Vec<Access> = sums.into_iter().map(Access::along).collect();
        for access in sums.iter().chain(step.writes.first().into_iter().flat_map(|w| &w.access)) {
            let Access::Along { axis, scale } = access else { continue };
            let parallel = space.axes[*axis].kind == AxisKind::Parallel;
            let everywhere = (!parallel || step.writes.iter().all(|w| follows(&w.access, *axis)))
                && followers.iter().all(|access| follows(access, *axis));
            if scale.is(1) && everywhere {
                let extent = step.grid[*axis].extent.eval(&self.nominal).map_err(|s| unbound(&s))?;
                axes.push((*axis, extent.max(1).unsigned_abs()));
            }
        }
        Ok(axes)
    }
    /// Cuts a step into as many pieces as cost least: more let the next stage begin sooner, fewer fill the units better.
    fn cut(&self, step: &mut Step, space: &IterSpace) -> Result<()> {
        let axes = self.piece_axes(step, space)?;
        let mut tried = Vec::new();
        let mut before = Vec::new();
        for wanted in std::iter::successors(Some(1_u64), |n| Some(n * 2)).take_while(|n| *n <= MOST_PIECES) {
            let mut left = wanted;
            for &(axis, extent) in &axes {
                let block = extent.div_ceil(left.min(extent));
                let parts = extent.div_ceil(block);
                step.grid[axis].cutting = Cutting::Parts(parts);
                left /= parts.max(1);
                if left <= 1 || parts < extent {
                    break;
                }
            }
            let cuts: Vec<Cutting> = step.grid.iter().map(|c| c.cutting).collect();
            if cuts == before {
                continue;
            }
            before = cuts;
            tried.push((self.time(step)?, step.grid.clone()));
        }
        let least = tried.iter().map(|(time, _)| *time).fold(f64::INFINITY, f64::min);
        // Smaller pieces take less memory.
        let chosen = tried.into_iter().rfind(|(time, _)| *time <= least * NEARLY);
        step.grid = chosen.map_or_else(|| step.grid.clone(), |(_, grid)| grid);
        Ok(())
    }
    /// Time of a step as a stage, with the wait for its first piece, where it has its share of the chip; all of the chip
    /// where an operand that the chip cannot hold beside others comes again for every piece.
    fn time(&self, step: &Step) -> Result<f64> {
        let measure = Measure::of(&self.emitter.program, step, &self.nominal)?;
        let work = stage_work(step, &measure);
        let mut again = 0.0_f64;
        for read in &step.reads {
            let bytes = self.bytes(read.buffer)?;
            if bytes > self.units.pmu_bytes() as f64 * super::plan::MOST_OF_PMUS {
                again = again.max(bytes * read_again(&step.grid, &read.access));
            }
        }
        let share = if again > 0.0 { 1 } else { TYPICAL_SHARE };
        let cycles = stage_cycles(&work, (self.units.cores() / share).max(1), self.units).total();
        let seconds = cycles * (1.0 + 1.0 / work.pieces) / self.units.machine.clock_hz;
        Ok(seconds.max(again / self.units.bandwidth(true)))
    }
}
