//! `ChannelMoments`: the sums that mean and variance of a batch, and the gradients through them, are made of.
//!
//! Unlike mean and variance themselves, sums of parts add up: a batch that is spread over a machine is normalised without
//! being brought together.

use super::super::elements::{Float, Loops, by_float, strides};
use super::super::space::{parallel, reduced};
use super::super::{
    Access, Class, Combine, Ctx, Datum, EvalCtx, Fact, IterSpace, Op, OpDef, Port, Work, opt, rules,
};
use crate::extend::Extend;
use crate::gradient::Backward;
use crate::{AttrKind, Attrs, Dim, ValueId};
use orrery_base::Result;
use orrery_numerics::DType;

pub(super) const CHANNEL_MOMENTS: OpDef = OpDef {
    inputs: &[Port::One("X"), Port::One("shift"), Port::Optional("dY")],
    outputs: &[Port::One("sums")],
    attrs: &[opt(
        "count",
        AttrKind::Int,
        "What sums are divided by: the number of a channel's elements makes means of them; 1.",
    )],
    class: Class::Rounding,
    infer,
    // Distance, sum, product, sum.
    work: |ctx| Work::vector(ctx.input_elements(0) * Dim::Known(4 - i64::from(ctx.has(2))), Dim::Known(0)),
    space,
    eval,
    ..OpDef::new(
        Op::ChannelMoments,
        "Sums over each channel, the second dimension of X: with distances D = X - shift, a number for each channel, those of \
         D and behind them those of its squares; given dY, those of dY and of dY D. Binary32 at least. Not part of ONNX.",
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
    let channels = match ctx.shape(0) {
        Some(shape) => {
            rules::has_shape(ctx, 1, &shape[1..2])?;
            rules::has_shape(ctx, 2, &shape)?;
            shape[1].clone()
        }
        None => ctx.unknown_dim(0, 1),
    };
    Ok(vec![Fact::tensor(wide(dtype), vec![Dim::Known(2), channels])])
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
    let outputs = vec![vec![Access::Whole, Access::along(0)]];
    Some(IterSpace { axes, inputs, outputs, part_attrs: Attrs::new(), padding: 0.0 })
}

fn eval(ctx: &EvalCtx<'_>) -> std::result::Result<Vec<Datum>, String> {
    let (dtype, out) = rules::check_one(ctx)?;
    let shape = ctx.tensor(0)?.shape();
    let channel_steps: Vec<isize> = (0..shape.len()).map(|d| isize::from(d == 1)).collect();
    Ok(vec![
        by_float!(dtype, T => {
            let (x, shift) = (T::read(ctx.tensor(0)?)?, T::read(ctx.tensor(1)?)?);
            let dy = ctx.optional(2)?.map(T::read).transpose()?;
            let mut sums = vec![T::ZERO; 2 * out[1]];
            Loops::new(shape, [&strides(shape), &channel_steps]).each(|[at, c]| {
                let distance = x[at as usize] - shift[c as usize];
                let other = dy.as_ref().map_or(distance, |dy| dy[at as usize]);
                sums[c as usize] += other;
                sums[out[1] + c as usize] += other * distance;
            });
            let count = T::from_f64(ctx.attrs().int_or("count", 1) as f64);
            T::tensor(dtype, out, sums.into_iter().map(|sum| sum / count).collect())
        })
        .into(),
    ])
}

/// The two values that stand behind each other in one.
pub(super) fn both(graph: &mut Extend, stacked: ValueId) -> Result<[ValueId; 2]> {
    let mut part = |i: f64| {
        let i = graph.scalar(DType::I64, i);
        graph.op(Op::Gather, &[stacked, i], Attrs::new())
    };
    Ok([part(0.0)?, part(1.0)?])
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

/// With D = X - shift, the sums S of D and Q of D² pass on dS and 2 D dQ.
fn gradient(b: &mut Backward<'_>) -> Result<()> {
    if b.given(2).is_some() {
        return Err(b.fails("there is no gradient rule for the sums of a gradient".into()));
    }
    let (x, shift, sums, dy) = (b.x(0)?, b.x(1)?, b.y(0)?, b.dy0()?);
    let shape = b.shape(x)?;
    let share = 1.0 / b.attrs().int_or("count", 1) as f64;
    let [ds, dq] = both(b, dy)?;
    if b.wants(0) {
        let (of_sum, of_squares) = (b.scale(ds, share)?, b.scale(dq, 2.0 * share)?);
        let near = spread(b, shift, x)?;
        let (of_sum, of_squares) = (spread(b, of_sum, x)?, spread(b, of_squares, x)?);
        let distance = b.sub(x, near)?;
        let dx = b.mul(distance, of_squares)?;
        let dx = b.add(dx, of_sum)?;
        b.give(0, dx);
    }
    if b.wants(1) {
        let elements = shape.iter().product::<i64>() / shape[1].max(1);
        let dtype = b.dtype(shift);
        let [sum, _] = both(b, sums)?;
        let all = b.scale(ds, -elements as f64 * share)?;
        let product = b.mul(sum, dq)?;
        let product = b.scale(product, -2.0)?;
        let dshift = b.add(all, product)?;
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
    let dtype = wide(graph.dtype(x));
    let shift = graph.cast(shift, dtype)?;
    let attrs = Attrs::new().with("count", count.max(1));
    let means = graph.op(Op::ChannelMoments, &[x, shift], attrs)?;
    let [distance, around] = both(graph, means)?;
    let mean = graph.add(shift, distance)?;
    let square = graph.mul(distance, distance)?;
    let variance = graph.sub(around, square)?;
    // Rounding may leave it below zero.
    let variance = graph.unary(Op::Relu, variance)?;
    Ok([mean, variance])
}
