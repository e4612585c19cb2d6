//! Elementwise programs, reductions, softmax and normalization.

use super::fuse::Numbers;
use super::prepare::{Choice, layout_at_hand, program};
use super::step::{Call, HostKernel, Outcome};
use super::value::Layout;
use crate::kernels::movement::transpose;
use crate::kernels::pointwise::{Bound, Operand, Program};
use crate::kernels::reduce::{Normalize, Reduction, reduce};
use crate::kernels::softmax::softmax;
use orrery_ir::op::context::normalize_axis;
use orrery_ir::{Graph, NodeId, Op, ValueId};
use orrery_numerics::DType;

pub(crate) fn choose(choice: &Choice<'_>) -> Option<Box<dyn HostKernel>> {
    if !choice.is_f32(0) {
        return None;
    }
    let node = choice.node;
    let attrs = &node.attrs;
    let only_first = node.outputs.iter().skip(1).all(Option::is_none);
    let epsilon = attrs.float_or("epsilon", 1e-5) as f32;
    let over = match node.op {
        Op::ReduceSum => Over::Sum,
        Op::ReduceMean => Over::Mean,
        Op::ReduceMax => Over::Max,
        Op::ReduceMin => Over::Min,
        Op::ReduceSumSquare => Over::SumOfSquares,
        Op::ReduceL1 => Over::SumOfMagnitudes,
        Op::ReduceL2 => Over::Length,
        Op::Softmax | Op::LogSoftmax => {
            let axis = attrs.int_or("axis", -1);
            return Some(Box::new(Softmax { axis, logarithm: node.op == Op::LogSoftmax }));
        }
        Op::LayerNormalization | Op::RMSNormalization if only_first => {
            let axis = attrs.int_or("axis", -1);
            return Some(Box::new(RowNorm { axis, center: node.op == Op::LayerNormalization, epsilon }));
        }
        Op::InstanceNormalization => return Some(Box::new(InstanceNorm { epsilon })),
        _ => return None,
    };
    let (keep, no_axes_is_none) = (attrs.int_or("keepdims", 1) != 0, attrs.flag("noop_with_empty_axes"));
    Some(Box::new(Reduce { over, keep, no_axes_is_none }))
}

/// Elementwise nodes as one program over the inputs.
pub(crate) struct Pointwise {
    program: Program,
    pub(crate) inputs: Vec<ValueId>,
    least_rank: usize,
}
impl Pointwise {
    /// None where a node is not elementwise on f32.
    pub(crate) fn new(graph: &Graph, nodes: &[NodeId], numbers: &Numbers) -> Option<Self> {
        let of = |v: &ValueId| graph.values[*v].ty.as_tensor();
        let all_inputs = || nodes.iter().flat_map(|n| graph.nodes[*n].inputs.iter().flatten());
        let floats = all_inputs().all(|v| of(v).is_some_and(|t| t.dtype == DType::F32));
        if !floats || !super::fuse::are_elementwise(graph, nodes, numbers) {
            return None;
        }
        let rank = |v: &ValueId| of(v).and_then(|t| t.shape.as_ref()).map_or(0, Vec::len);
        let least_rank = all_inputs().filter(|v| numbers.contains_key(v)).map(rank).max().unwrap_or(0);
        let (program, inputs) = program(graph, nodes, None, numbers);
        (!inputs.is_empty()).then_some(Self { program, inputs, least_rank })
    }
}
impl HostKernel for Pointwise {
    fn name(&self) -> &'static str {
        "elementwise"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let mut shape = vec![1; self.least_rank];
        for i in 0..self.inputs.len() {
            let own = call.shape(i);
            if own.len() > shape.len() {
                shape.splice(0..0, vec![1; own.len() - shape.len()]);
            }
            let lead = shape.len() - own.len();
            for (have, &extent) in shape[lead..].iter_mut().zip(&own) {
                match (*have, extent) {
                    (1, n) => *have = n,
                    (_, 1) => {}
                    (a, b) if a == b => {}
                    _ => return Ok(Outcome::Declined),
                }
            }
        }
        let mut layout = Layout::Plain;
        for i in 0..self.inputs.len() {
            let Some(value) = call.input(i).filter(|v| v.is_floats()) else { return Ok(Outcome::Declined) };
            if value.shape() == shape && !value.has(Layout::Plain) {
                layout = Layout::ChannelsLast;
            }
        }
        let mut in_place = None;
        for i in 0..self.inputs.len() {
            if call.shape(i) == shape
                && let Some(buffer) = call.take_over(i, layout)
            {
                in_place = Some((i, buffer));
                break;
            }
        }
        let mut fitted = Vec::with_capacity(self.inputs.len());
        for (i, id) in self.inputs.iter().enumerate() {
            let taken = in_place.as_ref().is_some_and(|(at, _)| *at == i);
            fitted.push(if taken { None } else { call.fit(*id, &shape, layout) });
        }
        let place = in_place.as_ref().map(|(i, _)| *i);
        let operands: Vec<Operand<'_>> =
            fitted.iter().map(|f| f.as_ref().map_or(Operand::InPlace, |f| f.operand())).collect();
        debug_assert!(fitted.iter().enumerate().all(|(i, f)| f.is_some() || place == Some(i)));
        let mut out = match in_place {
            Some((_, buffer)) => buffer,
            None => call.room_for(&shape)?,
        };
        Bound::new(&self.program, operands).run(&call.machine.threads, &mut out);
        call.make(shape, out, layout)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    Sum,
    Mean,
    Max,
    Min,
    SumOfSquares,
    SumOfMagnitudes,
    Length,
}
struct Reduce {
    over: Over,
    keep: bool,
    no_axes_is_none: bool,
}
impl HostKernel for Reduce {
    fn name(&self) -> &'static str {
        "reduction"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let shape = call.shape(0);
        let rank = shape.len();
        let axes = if call.has(1) { call.integers(1) } else { Some(Vec::new()) };
        let Some(axes) = axes else { return Ok(Outcome::Declined) };
        if axes.is_empty() && self.no_axes_is_none || shape.contains(&0) {
            return Ok(Outcome::Declined);
        }
        let mut reduced = vec![axes.is_empty(); rank];
        for axis in axes {
            reduced[normalize_axis(axis, rank)?] = true;
        }
        // What is left lies in the same order in both layouts.
        let all_spatial = rank > 2 && reduced[2..].iter().all(|r| *r);
        let channels_left = all_spatial && reduced[0] && !reduced[1];
        let at_hand = call.input(0).map_or(Layout::Plain, |v| match v.has(Layout::ChannelsLast) {
            true if channels_left => Layout::ChannelsLast,
            _ => layout_at_hand(v),
        });
        let layout = if self.keep || all_spatial { at_hand } else { Layout::Plain };
        let Some(data) = call.floats(0, layout) else { return Ok(Outcome::Declined) };
        // Dimensions in order of memory, those of extent one left out: nothing, or one run, is reduced; else they are moved.
        let order: Vec<usize> = layout.order(rank).into_iter().filter(|&d| shape[d] != 1).collect();
        let first = order.iter().position(|&d| reduced[d]).unwrap_or(order.len());
        let end = order.iter().rposition(|&d| reduced[d]).map_or(first, |p| p + 1);
        let product = |dims: &[usize]| dims.iter().map(|&d| shape[d]).product::<usize>();
        let kept: usize = order.iter().filter(|&&d| !reduced[d]).map(|&d| shape[d]).product();
        let mut out = call.room(kept);
        let how = match self.over {
            Over::Sum | Over::Mean => Reduction::Sum,
            Over::Max => Reduction::Max,
            Over::Min => Reduction::Min,
            Over::SumOfSquares | Over::Length => Reduction::SumOfSquares,
            Over::SumOfMagnitudes => Reduction::SumOfMagnitudes,
        };
        let threads = &call.machine.threads;
        let count = data.len() / kept.max(1);
        if order[first..end].iter().all(|&d| reduced[d]) {
            reduce(threads, &data, product(&order[first..end]), product(&order[end..]), how, &mut out);
        } else if channels_left && layout == Layout::Plain && how == Reduction::Sum {
            // Each image of each channel, then those of each channel.
            let images = shape[0] * kept;
            let mut sums = call.room(images);
            reduce(threads, &data, data.len() / images, 1, how, &mut sums);
            reduce(threads, &sums, shape[0], kept, how, &mut out);
            call.machine.give(sums);
        } else {
            let extents: Vec<usize> = order.iter().map(|&d| shape[d]).collect();
            let (inner, outer): (Vec<usize>, Vec<usize>) = (0..order.len()).partition(|&p| reduced[order[p]]);
            let moved: Vec<usize> = outer.into_iter().chain(inner).collect();
            let mut turned = call.room(data.len());
            transpose(threads, &data, &extents, &moved, &mut turned);
            reduce(threads, &turned, count, 1, how, &mut out);
            call.machine.give(turned);
        }
        match self.over {
            Over::Mean => {
                let factor = 1.0 / count as f32;
                out.iter_mut().for_each(|x| *x *= factor);
            }
            Over::Length => out.iter_mut().for_each(|x| *x = x.sqrt()),
            _ => {}
        }
        let out_shape = (0..rank)
            .filter(|&d| self.keep || !reduced[d])
            .map(|d| if reduced[d] { 1 } else { shape[d] })
            .collect();
        call.make(out_shape, out, if self.keep { layout } else { Layout::Plain })
    }
}

struct Softmax {
    axis: i64,
    logarithm: bool,
}
impl HostKernel for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let shape = call.shape(0);
        let rank = shape.len();
        let axis = normalize_axis(self.axis, rank)?;
        if shape.is_empty() || shape.contains(&0) {
            return Ok(Outcome::Declined);
        }
        let layout = call.input(0).map_or(Layout::Plain, |v| layout_at_hand(v));
        let extents = layout.extents(&shape);
        let place = layout.place(axis, rank);
        let len = shape[axis];
        if extents[place + 1..].iter().all(|&n| n == 1) {
            let mut out = match call.take_over(0, layout) {
                Some(buffer) => buffer,
                None => {
                    let Some(data) = call.floats(0, layout) else { return Ok(Outcome::Declined) };
                    let mut out = call.room(data.len());
                    out.copy_from_slice(&data);
                    out
                }
            };
            softmax(&call.machine.threads, &mut out, len, self.logarithm);
            return call.make(shape, out, layout);
        }
        let Some(data) = call.floats(0, layout) else { return Ok(Outcome::Declined) };
        let inner: usize = extents[place + 1..].iter().product();
        let outer = data.len() / len / inner;
        let (mut turned, mut out) = (call.room(data.len()), call.room(data.len()));
        let threads = &call.machine.threads;
        transpose(threads, &data, &[outer, len, inner], &[0, 2, 1], &mut turned);
        softmax(threads, &mut turned, len, self.logarithm);
        transpose(threads, &turned, &[outer, inner, len], &[0, 2, 1], &mut out);
        call.machine.give(turned);
        call.make(shape, out, layout)
    }
}

/// Normalization over the dimensions from an axis on, with a factor for each place.
struct RowNorm {
    axis: i64,
    center: bool,
    epsilon: f32,
}
impl HostKernel for RowNorm {
    fn name(&self) -> &'static str {
        "normalization"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let shape = call.shape(0);
        let len: usize = shape[normalize_axis(self.axis, shape.len())?..].iter().product();
        let (Some(data), Some(scale)) = (call.floats(0, Layout::Plain), call.floats(1, Layout::Plain)) else {
            return Ok(Outcome::Declined);
        };
        let shift = call.floats(2, Layout::Plain);
        if scale.len() != len || shift.as_ref().is_some_and(|s| s.len() != len) || len == 0 {
            return Ok(Outcome::Declined);
        }
        let mut out = call.room(data.len());
        let (center, epsilon, by_row) = (self.center, self.epsilon, false);
        Normalize { len, center, epsilon, scale: Some(&scale), shift: shift.as_deref(), by_row }.run(
            &call.machine.threads,
            &data,
            &mut out,
        );
        call.make(shape, out, Layout::Plain)
    }
}

/// Normalization of every channel of every image by itself.
struct InstanceNorm {
    epsilon: f32,
}
impl HostKernel for InstanceNorm {
    fn name(&self) -> &'static str {
        "normalization"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let shape = call.shape(0);
        let (Some(data), Some(scale), Some(shift)) =
            (call.floats(0, Layout::Plain), call.floats(1, Layout::Plain), call.floats(2, Layout::Plain))
        else {
            return Ok(Outcome::Declined);
        };
        if shape.len() < 3 || shape.contains(&0) || scale.len() != shape[1] || shift.len() != shape[1] {
            return Ok(Outcome::Declined);
        }
        let len = shape[2..].iter().product();
        let mut out = call.room(data.len());
        Normalize {
            len,
            center: true,
            epsilon: self.epsilon,
            scale: Some(&scale),
            shift: Some(&shift),
            by_row: true,
        }
        .run(&call.machine.threads, &data, &mut out);
        call.make(shape, out, Layout::Plain)
    }
}
