//! A step in numbers: what the cost formulas start from.

use crate::contraction::{Contraction, Product, Role};
use crate::kernel::{AttentionShape, RecurrenceShape};
use orrery_base::Result;
use orrery_ir::op::Engine;
use orrery_ir::{Bindings, Dim, Op};
use orrery_numerics::DType;
use orrery_program::memory::unbound;
use orrery_program::{
    BoundGrid, Buffer, BufferClass, BufferId, Cut, Cutting, Layout, Program, Step, StepKind, access_range,
};

/// A step in numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Measure {
    /// The whole step as a product, where its first op is one and it is known how it is cut.
    pub product: Option<Product>,
    /// The largest part as a product.
    pub part: Option<Product>,
    /// Parts in all, empty ones counted.
    pub parts: f64,
    /// Parts along axes that are summed over.
    pub depth_parts: f64,
    /// The step as an attention, where its first op is one.
    pub attention: Option<AttentionShape>,
    /// The step as a recurrent layer, where its first op is one.
    pub recurrence: Option<RecurrenceShape>,
    /// Multiply-accumulates of the whole step.
    pub macs: f64,
    /// Simple vector operations of the whole step.
    pub vector: f64,
    /// Special functions of the whole step.
    pub special: f64,
    /// Bytes read, by class of buffer.
    pub read_bytes: Vec<(BufferClass, f64)>,
    /// Bytes written.
    pub written_bytes: f64,
    /// Bytes that the largest part reads.
    pub part_read_bytes: f64,
    /// Bytes that the largest part writes.
    pub part_written_bytes: f64,
    /// Largest block of a source and of a destination, for exchanges: what one core sends and receives at most.
    pub block_out_bytes: f64,
    /// See `block_out_bytes`.
    pub block_in_bytes: f64,
    /// Of the bytes that come in: those that come to pairs of neighbouring cores alike.
    pub shared_in_bytes: f64,
    /// Elements that the largest part reads from the mesh as they arrive.
    pub part_arriving: f64,
    /// Cores among which an exchange moves data: groups of so many whose numbers follow one another.
    pub reach: f64,
    /// Cores that an exchange takes from or brings to.
    pub span: f64,
    /// The largest part's share of the axes.
    pub largest_share: f64,
    /// Widest type of the operands.
    pub dtype: DType,
    /// Of one item of the batch: the step's work is shared out over them, not done anew for each.
    pub shared: bool,
}

impl Measure {
    /// Measures a step.
    ///
    /// # Errors
    /// `unbound-symbol` where a symbol has no value.
    pub fn of(program: &Program, step: &Step, bindings: &Bindings) -> Result<Self> {
        Self::of_items(program, step, bindings, 1.0)
    }
    /// Measures what one item of the batch takes of a step, of those that follow one another in time.
    ///
    /// # Errors
    /// As [`Measure::of`].
    pub fn of_one_item(program: &Program, step: &Step, bindings: &Bindings) -> Result<Self> {
        Self::of_items(program, step, bindings, program.items.max(1) as f64)
    }
    fn of_items(program: &Program, step: &Step, bindings: &Bindings, items: f64) -> Result<Self> {
        let (shared, in_time) = by_item(program, step);
        let share = |buffer: &Buffer| if buffer.by_item.is_some() { 1.0 / items } else { 1.0 };
        let work_share = if shared { 1.0 / items } else { 1.0 };
        let number = |dim: &Dim| dim.eval(bindings).map(|n| n as f64).map_err(|s| Box::new(unbound(&s)));
        let grid = BoundGrid::new(step.base, &step.grid, bindings).map_err(|s| unbound(&s))?;
        let first = vec![0; grid.cuts.len()];
        let largest = grid.box_at(&first);
        let macs = number(&step.work.macs)? * work_share;
        let contraction = Contraction::of_step(program, step, bindings)?;
        let mut extents: Vec<f64> = grid.cuts.iter().map(|c| c.extent as f64).collect();
        let mut piece: Vec<f64> = largest.iter().map(|r| r.len() as f64).collect();
        if let Some(axis) = in_time {
            extents[axis] /= items;
            piece[axis] = (piece[axis] / items).ceil();
        }
        let (mut product, mut part) = (None, None);
        if let (Some(contraction), true) = (&contraction, macs > 0.0 && !step.approximate) {
            product = Some(contraction.product(macs, &extents, &extents));
            part = Some(contraction.product(macs, &extents, &piece));
        }
        let depth_parts = |contraction: &Contraction| -> f64 {
            let parts = contraction.roles.iter().zip(&grid.cuts).filter(|(role, _)| **role == Role::Depth);
            parts.map(|(_, c)| c.parts as f64).product()
        };
        let mut read_bytes: Vec<(BufferClass, f64)> = Vec::new();
        let (reach, span) = match step.kind {
            StepKind::Exchange => reach(program, step, bindings)?,
            _ => (0.0, 0.0),
        };
        let moves = step.body.nodes.values().next().is_some_and(|n| n.op.def().engine == Engine::Movement);
        let (attention, recurrence) = shapes(program, step, bindings)?;
        let mut measure = Self {
            product,
            part,
            attention,
            recurrence,
            parts: grid.parts() as f64,
            depth_parts: contraction.as_ref().map_or(1.0, depth_parts),
            macs,
            vector: number(&step.work.vector)? * work_share,
            special: number(&step.work.special)? * work_share,
            read_bytes: Vec::new(),
            written_bytes: 0.0,
            part_read_bytes: 0.0,
            part_written_bytes: 0.0,
            block_out_bytes: 0.0,
            block_in_bytes: 0.0,
            shared_in_bytes: 0.0,
            part_arriving: 0.0,
            reach,
            span,
            largest_share: extents.iter().zip(&piece).map(|(all, part)| part / all.max(1.0)).product(),
            dtype: DType::Bool,
            shared,
        };
        for read in &step.reads {
            let buffer = &program.buffers[read.buffer];
            let share = share(buffer);
            let bytes = share * number(&buffer.elements())? * buffer.dtype.bits() as f64 / 8.0;
            let class = program.buffers[program.storage(read.buffer)].class;
            read_bytes.push((class, bytes));
            let part = share * part_bytes(buffer, &read.access, &largest, bindings)?;
            measure.part_read_bytes += part;
            if program.memories[buffer.home].is_mesh() {
                measure.part_arriving += part * 8.0 / buffer.dtype.bits() as f64;
            }
            measure.block_out_bytes += share * program.block_bytes(read.buffer, bindings)? as f64;
            widen(&mut measure.dtype, buffer.dtype);
        }
        for write in &step.writes {
            let buffer = &program.buffers[write.buffer];
            let share = share(buffer);
            measure.written_bytes += share * number(&buffer.elements())? * buffer.dtype.bits() as f64 / 8.0;
            measure.part_written_bytes += share * part_bytes(buffer, &write.access, &largest, bindings)?;
            let received = share * program.block_bytes(write.buffer, bindings)? as f64;
            measure.block_in_bytes += received;
            if neighbours_share(&buffer.layout) {
                measure.shared_in_bytes += received;
            }
            if step.reads.is_empty() {
                widen(&mut measure.dtype, buffer.dtype);
            }
        }
        for write in &step.writes {
            let Some(from) = program.lengthens(write.buffer) else { continue };
            // What is there already is not written, and where it is only moved, not read.
            let bytes =
                number(&program.buffers[from].elements())? * program.buffers[from].dtype.bits() as f64 / 8.0;
            measure.written_bytes -= bytes;
            if moves && let Some(at) = step.reads.iter().position(|r| r.buffer == from) {
                read_bytes[at].1 = 0.0;
            }
        }
        // Matrices that no row chooses are not read.
        if let (Some(contraction), Some(node)) = (&contraction, step.body.nodes.values().next())
            && let Some([_, right]) = Contraction::operands(node)
            && let Some(at) =
                step.body.inputs.iter().position(|v| Some(Some(*v)) == node.inputs.get(right).copied())
            && let Some(read) = read_bytes.get_mut(at)
        {
            read.1 *= contraction.read_share(&extents);
        }
        // What a slice or a gather leaves out is not read.
        let total: f64 = read_bytes.iter().map(|(_, bytes)| bytes).sum();
        if moves && total > measure.written_bytes {
            read_bytes.iter_mut().for_each(|(_, bytes)| *bytes *= measure.written_bytes / total);
        }
        measure.read_bytes = read_bytes;
        Ok(measure)
    }
    /// Bytes read in all.
    pub fn total_read(&self) -> f64 {
        self.read_bytes.iter().map(|(_, b)| b).sum()
    }
}

/// Whether a step has a share of its work for each item of the batch, and the axis of its grid that counts them.
fn by_item(program: &Program, step: &Step) -> (bool, Option<usize>) {
    let reads = step.reads.iter().map(|r| (r.buffer, &r.access));
    let touched: Vec<_> = reads.chain(step.writes.iter().map(|w| (w.buffer, &w.access))).collect();
    let dim = |buffer: BufferId| program.buffers[buffer].by_item;
    let shared = touched.iter().any(|(buffer, _)| dim(*buffer).is_some());
    (shared, touched.iter().find_map(|(buffer, access)| access.get(dim(*buffer)?)?.axis()))
}

/// What the step's first node is besides a product.
fn shapes(
    program: &Program,
    step: &Step,
    bindings: &Bindings,
) -> Result<(Option<AttentionShape>, Option<RecurrenceShape>)> {
    let node = step.body.nodes.values().next();
    let Some(node) =
        node.filter(|n| matches!(n.op, Op::Attention | Op::AttentionGrad | Op::LSTM | Op::GRU | Op::RNN))
    else {
        return Ok((None, None));
    };
    let mut operands = Vec::new();
    for input in &node.inputs {
        let at = input.and_then(|value| step.body.inputs.iter().position(|v| *v == value));
        let Some(read) = at.and_then(|at| step.reads.get(at)) else {
            operands.push(Vec::new());
            continue;
        };
        let shape = program.buffers[read.buffer].shape.iter();
        let extents = shape.map(|d| d.eval(bindings).map(|n| n as f64).map_err(|s| Box::new(unbound(&s))));
        operands.push(extents.collect::<Result<Vec<f64>>>()?);
    }
    Ok((AttentionShape::new(node, &operands), RecurrenceShape::new(node, &operands)))
}

/// True where cores 0 and 1, 2 and 3 and so on hold the same: where copies lie on neighbouring cores.
fn neighbours_share(layout: &Layout) -> bool {
    let even =
        |cut: &Cut| matches!(cut.cutting, Cutting::Parts(parts) if parts.is_multiple_of(2) && parts > 0);
    let followed = |axis: usize| layout.access.iter().any(|a| a.axis() == Some(axis));
    let mut cuts = layout.cuts.iter().enumerate();
    layout.base.is_multiple_of(2) && cuts.any(|(i, cut)| cut.stride == 1 && even(cut) && !followed(i))
}

/// See [`Measure::reach`] and [`Measure::span`].
fn reach(program: &Program, step: &Step, bindings: &Bindings) -> Result<(f64, f64)> {
    let stays =
        step.body.nodes.values().all(|node| node.op == Op::Identity) && step.reads.len() == step.writes.len();
    let end = |buffer: BufferId| -> Result<u64> {
        let layout = &program.buffers[buffer].layout;
        let grid = BoundGrid::new(layout.base, &layout.cuts, bindings).map_err(|s| unbound(&s))?;
        Ok(grid.core_end() - layout.base)
    };
    let (mut reach, mut span) = (1_u64, 1_u64);
    for id in step.reads.iter().map(|r| r.buffer).chain(step.writes.iter().map(|w| w.buffer)) {
        span = span.max(end(id)?);
    }
    for (number, write) in step.writes.iter().enumerate() {
        let from = step.reads.get(number).filter(|_| stays).map(|read| read.buffer);
        let to = &program.buffers[write.buffer];
        let moved = match from.map(|from| &program.buffers[from]) {
            Some(from) if from.home == to.home => {
                from.layout.moved_among(&to.layout, bindings).map_err(|s| unbound(&s))?
            }
            _ => None,
        };
        reach = reach.max(moved.unwrap_or(span));
    }
    Ok((reach as f64, span as f64))
}

fn widen(have: &mut DType, other: DType) {
    if other.bits() > have.bits() && other.is_float() || !have.is_float() && other.bits() >= have.bits() {
        *have = other;
    }
}

fn part_bytes(
    buffer: &Buffer,
    access: &[orrery_ir::op::Access],
    largest: &[orrery_program::Range],
    bindings: &Bindings,
) -> Result<f64> {
    let mut elements = 1.0;
    for (dim, access) in buffer.shape.iter().zip(access) {
        let extent = dim.eval(bindings).map_err(|s| unbound(&s))?;
        elements *= access_range(access, largest, extent, bindings).map_err(|s| unbound(&s))?.len() as f64;
    }
    Ok(elements * buffer.dtype.bits() as f64 / 8.0)
}
