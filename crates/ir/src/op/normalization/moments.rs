//! `ChannelMoments`: the sums that mean and variance of a batch, and the gradients through them, are made of.
//!
//! Unlike mean and variance themselves, sums of parts add up: a batch that is spread over a machine is normalised without
//! being brought together.

use super::super::elements::{Float, Loops, by_float, strides};
use super::super::space::{parallel, reduced};
use super::super::{
    Access, Class, Combine, Ctx, Datum, EvalCtx, Fact, IterSpace, Op, OpDef, Port, Work, rules,
};
use crate::extend::Extend;
use crate::gradient::Backward;
use crate::{Attrs, Dim, ValueId};
use orrery_base::Result;
use orrery_numerics::DType;

pub(super) const CHANNEL_MOMENTS: OpDef = OpDef {
    inputs: &[Port::One("X"), Port::One("shift"), Port::Optional("dY")],
    outputs: &[Port::One("sum"), Port::One("product")],
    class: Class::Rounding,
    infer,
    // Distance, sum, product, sum.
    work: |ctx| Work::vector(ctx.input_elements(0) * Dim::Known(4 - i64::from(ctx.has(2))), Dim::Known(0)),
    space,
    eval,
    ..OpDef::new(
        Op::ChannelMoments,
        "Sums over each channel, the second dimension of X: with distances D = X - shift, a number for each channel, those of \
         D and of its squares; given dY, those of dY and of dY D. Binary32 at least. Not part of ONNX.",
    )
}
.gradient(gradient);

/// The type that sums over a batch of that type are kept in.
pub(super) fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

fn infer(ctx: &Ctx<'_>) -> std::result::Result<Vec<Fact>, String> {
    let dtype = rules::float(ctx, 0)?;
    rules::float(ctx, 1)?;
    rules::of_type(ctx, [2], dtype)?;
    super::least_rank(ctx, 2)?;
    let sum = match ctx.shape(0) {
        Some(shape) => {
            rules::has_shape(ctx, 1, &shape[1..2])?;
            rules::has_shape(ctx, 2, &shape)?;
            Fact::tensor(wide(dtype), vec![shape[1].clone()])
        }
        None => Fact::tensor(wide(dtype), vec![ctx.unknown_dim(0, 0)]),
    };
    Ok(vec![sum.clone(), sum])
}

fn space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let shape = ctx.shape(0)?;
    let mut axes = vec![parallel("channel", shape[1].clone())];
    let mut image = Vec::new();
    for (d, extent) in shape.iter().enumerate() {
        if d == 1 {
            image.push(Access::along(0));
            continue;
        }
        image.push(Access::along(axes.len()));
        axes.push(reduced(if d == 0 { "n" } else { "spatial" }, extent.clone(), Combine::Sum));
    }
    let channel = vec![Access::along(0)];
    let mut inputs = vec![image.clone(), channel.clone()];
    if ctx.input_count() > 2 {
        inputs.push(if ctx.has(2) { image } else { Vec::new() });
    }
    Some(IterSpace { axes, inputs, outputs: vec![channel; 2], part_attrs: Attrs::new(), padding: 0.0 })
}

fn eval(ctx: &EvalCtx<'_>) -> std::result::Result<Vec<Datum>, String> {
    let (dtype, channels) = rules::check_one(ctx)?;
    let shape = ctx.tensor(0)?.shape();
    let channel_steps: Vec<isize> = (0..shape.len()).map(|d| isize::from(d == 1)).collect();
    Ok(by_float!(dtype, T => {
        let (x, shift) = (T::read(ctx.tensor(0)?)?, T::read(ctx.tensor(1)?)?);
        let dy = ctx.optional(2)?.map(T::read).transpose()?;
        let mut sums = [vec![T::ZERO; channels[0]], vec![T::ZERO; channels[0]]];
        Loops::new(shape, [&strides(shape), &channel_steps]).each(|[at, c]| {
            let distance = x[at as usize] - shift[c as usize];
            let other = dy.as_ref().map_or(distance, |dy| dy[at as usize]);
            sums[0][c as usize] += other;
            sums[1][c as usize] += other * distance;
        });
        sums.into_iter().map(|sum| T::tensor(dtype, channels.clone(), sum).into()).collect()
    }))
}

/// A number for each channel in the type of `x` and of a shape that broadcasts to it.
pub(super) fn spread(graph: &mut Extend, value: ValueId, x: ValueId) -> Result<ValueId> {
    let extents = graph.shape(x)?;
    let mut shape = vec![1; extents.len() - 1];
    shape[0] = extents[1];
    let dtype = graph.dtype(x);
    let value = graph.cast(value, dtype)?;
    graph.reshape(value, &shape)
}

/// D = X - shift: the sums of D and D² pass on dS and 2 D dQ.
fn gradient(b: &mut Backward<'_>) -> Result<()> {
    if b.given(2).is_some() {
        return Err(b.fails("there is no gradient rule for the sums of a gradient".into()));
    }
    let (x, shift) = (b.x(0)?, b.x(1)?);
    let shape = b.shape(x)?;
    let count = shape.iter().product::<i64>() / shape[1].max(1);
    let sums = b.y(0)?;
    let (mut to_x, mut to_shift) = (Vec::new(), Vec::new());
    if let Some(ds) = b.dy(0) {
        to_x.push(spread(b, ds, x)?);
        to_shift.push(b.scale(ds, -count as f64)?);
    }
    if let Some(dq) = b.dy(1) {
        let twice = b.scale(dq, 2.0)?;
        let (near, each) = (spread(b, shift, x)?, spread(b, twice, x)?);
        let distance = b.sub(x, near)?;
        to_x.push(b.mul(distance, each)?);
        let product = b.mul(sums, twice)?;
        to_shift.push(b.scale(product, -1.0)?);
    }
    if b.wants(0) {
        let dx = b.op(Op::Sum, &to_x, Attrs::new())?;
        let dx = b.expand(dx, &shape)?;
        b.give(0, dx);
    }
    if b.wants(1) {
        let dtype = b.dtype(shift);
        let dshift = b.op(Op::Sum, &to_shift, Attrs::new())?;
        let dshift = b.cast(dshift, dtype)?;
        b.give(1, dshift);
    }
    Ok(())
}

/// Mean and variance of each channel of a batch, by sums of distances from `shift`: the closer it is to the mean, the
/// less is lost.
///
/// # Errors
/// Where shapes are open or do not fit.
pub fn batch_moments(graph: &mut Extend, x: ValueId, shift: ValueId) -> Result<[ValueId; 2]> {
    let shape = graph.shape(x)?;
    let count = shape.iter().product::<i64>() / shape.get(1).copied().unwrap_or(1).max(1);
    let share = 1.0 / count.max(1) as f64;
    let dtype = wide(graph.dtype(x));
    let shift = graph.cast(shift, dtype)?;
    let sums = graph.ops(Op::ChannelMoments, &[Some(x), Some(shift)], Attrs::new(), 2)?;
    let distance = graph.scale(sums[0], share)?;
    let mean = graph.add(shift, distance)?;
    let square = graph.mul(distance, distance)?;
    let around = graph.scale(sums[1], share)?;
    let variance = graph.sub(around, square)?;
    // Rounding may leave it below zero.
    let variance = graph.unary(Op::Relu, variance)?;
    Ok([mean, variance])
}
