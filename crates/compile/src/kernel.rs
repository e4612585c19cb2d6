//! Kernel-by-kernel machines: every group is a kernel on one queue, over buffers in device memory.

use crate::groups::{Group, GroupKind};
use crate::lower::{Body, Emitter, fill, reads, reduction_body, retype_output};
use crate::needed::needed;
use crate::states::{Kept, Way, growing, in_place};
use crate::{Compiled, Options};
use orrery_base::Result;
use orrery_cost::contraction::SPLIT;
use orrery_cost::{Measure, Role, Target, kernel};
use orrery_ir::infer::Facts;
use orrery_ir::op::{Access, AxisKind, Combine, Engine, IterSpace};
use orrery_ir::{Bindings, Dim, Graph, Op, State, ValueId};
use orrery_machine::{KernelMachine, Losses};
use orrery_numerics::DType;
use orrery_program::memory::unbound;
use orrery_program::{
    Buffer, BufferClass, BufferId, Cut, Cutting, Growth, Layout, MemoryId, Step, StepKind, Unit,
};
use std::collections::BTreeMap;

/// Compiles groups for a machine with a queue of kernels.
///
/// # Errors
/// As [`crate::compile`].
pub fn compile(
    graph: &Graph,
    facts: &Facts,
    groups: &[Group],
    target: &Target<'_>,
    machine: &KernelMachine,
    options: &Options,
) -> Result<Compiled> {
    let mut emitter = Emitter::new(graph, facts, target, options);
    let host = emitter.memory("host", 1, u64::MAX, 0);
    let device = emitter.memory("device", 1, machine.hbm_bytes, machine.hbm_reserved_bytes);
    let (nominal, states) = (options.nominal(), growing(graph));
    let mut lowering = Lowering { emitter, device, machine, nominal, states };
    for &value in &graph.inputs {
        lowering.host_input(value, host);
    }
    for group in groups {
        lowering.emitter.enter(group);
        match group.kind {
            GroupKind::View => lowering.simple(group, StepKind::View, device)?,
            GroupKind::Extents => lowering.simple(group, StepKind::View, host)?,
            GroupKind::Movement => lowering.simple(group, StepKind::Exchange, device)?,
            GroupKind::Compute => lowering.compute(group)?,
        }
    }
    let way: Way<'_> = &|_, _| (StepKind::Exchange, Unit::Device);
    let mut kept = Vec::new();
    for state in &graph.states {
        kept.push(lowering.kept(state)?);
    }
    lowering.emitter.set_aside(&mut kept, way);
    for (i, &value) in graph.outputs.iter().enumerate() {
        if !lowering.emitter.stays(i) {
            lowering.host_output(value, graph.output_name(i), host)?;
        }
    }
    lowering.emitter.keep(kept, way);
    lowering.emitter.list_inputs();
    let Emitter { mut program, nodes, .. } = lowering.emitter;
    in_place(&mut program);
    Ok(Compiled { program: needed(program), nodes, notes: Vec::new() })
}

struct Lowering<'a> {
    emitter: Emitter<'a>,
    device: MemoryId,
    machine: &'a KernelMachine,
    nominal: Bindings,
    /// Outputs that are a longer state, and the inputs that they lengthen.
    states: BTreeMap<ValueId, ValueId>,
}

impl Lowering<'_> {
    fn host_input(&mut self, value: ValueId, host: MemoryId) {
        if self.emitter.is_state(value) || self.states.values().any(|past| *past == value) {
            let layout = Layout::whole(self.emitter.whole(value).len(), 0);
            let state = self.emitter.state(value, self.device, layout);
            self.emitter.buffer_of.insert(value, state);
            return;
        }
        let from = self.emitter.whole_buffer(value, "@host", BufferClass::Input, host);
        self.emitter.given.insert(value, from);
        let to = self.emitter.whole_buffer(value, "", BufferClass::Scratch, self.device);
        let name = format!("{} to device", self.emitter.name_of(value));
        self.emitter.pass(name, StepKind::Host, &[value], &[from], &[to]);
        self.emitter.buffer_of.insert(value, to);
    }
    fn host_output(&mut self, value: ValueId, name: &str, host: MemoryId) -> Result<()> {
        let from = self.operand(value)?;
        if let Some(past) = self.states.get(&value) {
            self.emitter.program.buffers[from].class = BufferClass::State;
            self.emitter.program.grows.push(Growth { from: self.emitter.buffer_of[past], to: from });
            self.emitter.program.outputs.push((name.to_owned(), from));
            return Ok(());
        }
        let suffix = format!("@host.{}", self.emitter.program.outputs.len());
        let to = self.emitter.whole_buffer(value, &suffix, BufferClass::Scratch, host);
        self.emitter.pass(format!("{name} to host"), StepKind::Host, &[value], &[from], &[to]);
        self.emitter.program.outputs.push((name.to_owned(), to));
        Ok(())
    }
    /// A state's new value, which stays.
    fn kept(&mut self, state: &State) -> Result<Kept> {
        let (input, value) = self.emitter.ends(state);
        let (from, to) = (self.operand(value)?, self.emitter.given[&input]);
        Ok(Kept { name: self.emitter.name_of(input), from, moved: None, to })
    }
    fn operand(&mut self, value: ValueId) -> Result<BufferId> {
        let device = self.device;
        self.emitter.source(value, |e| Ok(e.whole_buffer(value, "", BufferClass::Parameter, device)))
    }
    fn operands(&mut self, body: &Body) -> Result<Vec<BufferId>> {
        body.operands.iter().map(|value| self.operand(*value)).collect()
    }
    /// A group as one step without a grid.
    fn simple(&mut self, group: &Group, kind: StepKind, home: MemoryId) -> Result<()> {
        let body = self.emitter.body(&group.nodes, None);
        let sources = self.operands(&body)?;
        let step = self.emitter.uncut(group, kind, body, &sources, home);
        self.emitter.push(step);
        Ok(())
    }
    fn compute(&mut self, group: &Group) -> Result<()> {
        let body = self.emitter.body(&group.nodes, group.space.as_ref());
        let sources = self.operands(&body)?;
        let engine = self.emitter.graph.nodes[group.nodes[0]].op.def().engine;
        let (mut step, fidelity) = self.emitter.computing(group, &body, &sources);
        let attends =
            matches!(self.emitter.graph.nodes[group.nodes[0]].op, Op::Attention | Op::AttentionGrad);
        if engine == Engine::Matrix && group.space.is_some() && !attends {
            let dtype = Measure::of(&self.emitter.program, &step, &self.nominal)?.dtype;
            let contraction = self.emitter.contraction(group, &self.nominal)?;
            if let (Some(contraction), Losses::Kernel(losses)) = (contraction, &self.emitter.target.losses) {
                let number = |dim: &Dim| dim.eval(&self.nominal).map_err(|s| Box::new(unbound(&s)));
                let extents: Vec<f64> =
                    step.grid.iter().map(|c| Ok(number(&c.extent)? as f64)).collect::<Result<_>>()?;
                let product = contraction.product(number(&step.work.macs)? as f64, &extents, &extents);
                let (tile, splits) = kernel::best_tile(
                    &product,
                    dtype,
                    self.machine,
                    losses,
                    kernel::Rate::of(self.emitter.target.precision),
                );
                step.tile = Some(tile);
                let rows = contraction.roles.iter().filter(|role| **role == Role::Row).count();
                for (role, cut) in contraction.roles.iter().zip(&mut step.grid) {
                    // Rows of a convolution run over several axes, which the tiles of the output cross; executed
                    // as one piece, they come out the same.
                    match role {
                        Role::Column => cut.cutting = Cutting::Blocks(tile.n),
                        Role::Row if rows == 1 => cut.cutting = Cutting::Blocks(tile.m),
                        _ => {}
                    }
                }
                if splits > 1 && self.split(group, &mut step, &body.writes, splits) {
                    self.emitter.mapped(group, fidelity);
                    return Ok(());
                }
            }
        }
        self.emitter.make_results(&mut step, &body.results, body.writes, self.device);
        self.emitter.push(step);
        self.emitter.mapped(group, fidelity);
        Ok(())
    }

    /// Cuts the sum of a product in `splits` parts, with a kernel that adds the partial results. False where it has no
    /// axis that can be cut.
    fn split(&mut self, group: &Group, step: &mut Step, write_access: &[Vec<Access>], splits: u64) -> bool {
        let Some(space) = &group.space else { return false };
        let depth = space.axes.iter().position(|a| a.kind == AxisKind::Reduce(Combine::Sum));
        let output = self.emitter.graph.nodes[group.nodes[0]].outputs.iter().flatten().next().copied();
        let (Some(depth), Some(output)) = (depth, output) else { return false };
        let (_, shape) = self.emitter.type_of(output);
        let partial_shape: Vec<Dim> =
            std::iter::once(Dim::from(splits as i64)).chain(shape.iter().cloned()).collect();
        let rank = partial_shape.len();
        let partials = self.emitter.program.buffers.push(Buffer {
            name: format!("{}.partials", self.emitter.name_of(output)),
            class: BufferClass::Scratch,
            dtype: DType::F32,
            shape: partial_shape,
            home: self.device,
            layout: Layout::whole(rank, 0),
            weight: None,
            view_of: None,
            pieces: None,
            by_item: None,
        });
        let anchor = self.emitter.body(&group.nodes[..1], group.space.as_ref());
        let sources: Vec<BufferId> = anchor.operands.iter().map(|v| self.emitter.buffer_of[v]).collect();
        let mut first = step.clone();
        first.body = anchor.graph;
        first.work = self.emitter.work(&group.nodes[..1]);
        first.reads = reads(&sources, anchor.reads);
        let axis = split_axis(&mut first, depth, splits);
        retype_output(&mut first.body, DType::F32);
        first.writes = vec![fill(
            partials,
            std::iter::once(Access::along(axis)).chain(write_access[0].iter().cloned()).collect(),
        )];
        self.emitter.push(first);
        let over_output = IterSpace::over_output(&shape);
        let sum = reduction_body(&self.emitter, group, &over_output, Some(splits), DType::F32);
        let Some(sum) = sum else { return false };
        let mut sources = vec![partials];
        for &value in &sum.operands[1..] {
            match self.operand(value) {
                Ok(buffer) => sources.push(buffer),
                Err(_) => return false,
            }
        }
        let mut second =
            self.emitter.step(format!("{} (sum of parts)", step.name), StepKind::Compute, sum.graph);
        second.work = self.emitter.work(&group.nodes[1..]);
        second.work.vector =
            second.work.vector.clone() + first_elements(&self.emitter, output) * Dim::from(splits as i64);
        let whole = |value: &ValueId| self.emitter.whole(*value);
        let rank = self.emitter.program.buffers[partials].shape.len();
        let accesses = std::iter::once(vec![Access::Whole; rank]).chain(sum.operands[1..].iter().map(whole));
        second.reads = reads(&sources, accesses.collect());
        let writes = sum.results.iter().map(whole).collect();
        self.emitter.make_results(&mut second, &sum.results, writes, self.device);
        self.emitter.push(second);
        true
    }
}

fn first_elements(emitter: &Emitter<'_>, value: ValueId) -> Dim {
    emitter.type_of(value).1.into_iter().product()
}

/// Cuts the axis `depth` of a step's grid in `splits` parts by a new axis, and leads all accesses along it. Returns the
/// new axis. What the last part reads beyond the end is zero and adds nothing.
pub fn split_axis(step: &mut Step, depth: usize, splits: u64) -> usize {
    let parts = Dim::from(splits as i64);
    let block = step.grid[depth].extent.ceil_div(&parts);
    step.grid[depth].extent = block.clone();
    step.grid[depth].cutting = Cutting::Parts(1);
    let axis = step.grid.len();
    step.grid.push(Cut { name: SPLIT.into(), extent: parts, cutting: Cutting::Parts(splits), stride: 0 });
    for access in step.reads.iter_mut().flat_map(|r| &mut r.access).filter(|a| a.axis() == Some(depth)) {
        match access {
            Access::Along { scale, .. } => {
                *access = Access::Along { axis, scale: scale.clone() * block.clone() };
            }
            Access::Window { stride, before, reach, .. } => {
                // A part's windows side by side are one; where their number is open, so is what they reach, and none is cut.
                if let Some(block) = block.known() {
                    let reach = (block - 1) * *stride + *reach;
                    *access = Access::Window { axis, stride: block * *stride, before: *before, reach };
                }
            }
            Access::Whole => {}
        }
    }
    axis
}
