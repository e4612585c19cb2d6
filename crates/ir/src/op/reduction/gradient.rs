//! Gradient rules of reductions, and the gradient op of softmax.

use super::super::elements::{Float, Loops, broadcast_strides, by_float, strides};
use super::super::rules as shared;
use super::rules;
use super::*;
use crate::ValueId;
use crate::gradient::Backward;
use orrery_base::Result;

pub(super) const SOFTMAX_GRAD: OpDef = OpDef {
    inputs: &[Port::One("Y"), Port::One("dY")],
    outputs: &[Port::One("dX")],
    attrs: LANE_ATTRS,
    class: Class::Rounding,
    infer: |ctx| {
        let facts = rules::lanes(ctx)?;
        shared::of_type(ctx, [1], ctx.dtype(0)?)?;
        if let Some(shape) = ctx.shape(0) {
            shared::has_shape(ctx, 1, &shape)?;
        }
        Ok(facts)
    },
    // Product and sum of it, difference and product.
    work: each::<4, 0, 0>,
    space: |ctx| {
        let mut space = lane_space(ctx)?;
        space.inputs[1] = space.inputs[0].clone();
        Some(space)
    },
    eval: softmax_grad,
    ..OpDef::new(
        Op::SoftmaxGrad,
        "Gradient of the input of a softmax from its output Y: Y (dY - the sum of Y dY along the axis). Not part of ONNX.",
    )
};

fn softmax_grad(ctx: &EvalCtx<'_>) -> std::result::Result<Vec<Datum>, String> {
    let (dtype, shape) = shared::check_one(ctx)?;
    let mut kept = shape.clone();
    if let Some(extent) = kept.get_mut(rules::axis_of(ctx.attrs(), -1, shape.len())?) {
        *extent = 1;
    }
    let loops = Loops::new(&shape, [&strides(&shape), &broadcast_strides(&kept, &shape)]);
    Ok(vec![
        by_float!(dtype, T => {
            let (y, dy) = (T::read(ctx.tensor(0)?)?, T::read(ctx.tensor(1)?)?);
            let mut sums = vec![T::ZERO; kept.iter().product()];
            loops.each(|[at, k]| sums[k as usize] += y[at as usize] * dy[at as usize]);
            let mut dx = vec![T::ZERO; y.len()];
            loops.each(|[at, k]| dx[at as usize] = y[at as usize] * (dy[at as usize] - sums[k as usize]));
            T::tensor(dtype, shape, dx)
        })
        .into(),
    ])
}

fn reduced(b: &Backward<'_>) -> Result<Vec<bool>> {
    b.known(rules::known_axes)?.ok_or_else(|| b.fails("the axes are not known".into()))
}
/// A value of the reduced shape with the reduced dimensions back, of extent 1.
fn unreduced(b: &mut Backward<'_>, value: ValueId) -> Result<ValueId> {
    let extents = b.shape(b.x(0)?)?.into_iter().zip(reduced(b)?);
    let shape: Vec<i64> = extents.map(|(extent, gone)| if gone { 1 } else { extent }).collect();
    b.reshape(value, &shape)
}
/// How many elements become one.
fn count(b: &Backward<'_>) -> Result<i64> {
    let extents = b.shape(b.x(0)?)?.into_iter().zip(reduced(b)?);
    Ok(extents.filter(|(_, gone)| *gone).map(|(extent, _)| extent).product())
}
/// A rule of a reduction of numbers: `gradient` appends dX, given X, and Y and dY with the reduced dimensions back. What
/// it makes is broadcast to the shape of X.
fn of_lane(
    b: &mut Backward<'_>,
    gradient: impl FnOnce(&mut Backward<'_>, ValueId, ValueId, ValueId) -> Result<ValueId>,
) -> Result<()> {
    let (x, y, dy) = (b.x(0)?, b.y(0)?, b.dy0()?);
    let (y, dy) = (unreduced(b, y)?, unreduced(b, dy)?);
    let dx = gradient(b, x, y, dy)?;
    let shape = b.shape(x)?;
    let dx = b.expand(dx, &shape)?;
    b.give(0, dx);
    Ok(())
}

pub(super) fn sum(b: &mut Backward<'_>) -> Result<()> {
    of_lane(b, |_, _, _, dy| Ok(dy))
}
pub(super) fn mean(b: &mut Backward<'_>) -> Result<()> {
    let count = count(b)?.max(1);
    of_lane(b, |b, _, _, dy| b.scale(dy, 1.0 / count as f64))
}
/// Of the largest or the smallest: all that equal it share the gradient.
pub(super) fn extreme(b: &mut Backward<'_>) -> Result<()> {
    let axes: Vec<i64> = (0..).zip(reduced(b)?).filter(|(_, gone)| *gone).map(|(d, _)| d).collect();
    of_lane(b, |b, x, y, dy| {
        let dtype = b.dtype(x);
        let chosen = b.op(Op::Equal, &[x, y], Attrs::new())?;
        let chosen = b.cast(chosen, dtype)?;
        let number = b.sum(chosen, &axes, true)?;
        let share = b.div(dy, number)?;
        b.mul(chosen, share)
    })
}
/// The products of all others: of those before it and of those behind it, so that zeros do no harm.
pub(super) fn product(b: &mut Backward<'_>) -> Result<()> {
    let (gone, count) = (reduced(b)?, count(b)?);
    of_lane(b, |b, x, _, dy| {
        let shape = b.shape(x)?;
        let (last, first): (Vec<i64>, Vec<i64>) = (0..shape.len() as i64).partition(|d| gone[*d as usize]);
        let order = [first.clone(), last].concat();
        let moved = b.transpose(x, &order)?;
        let moved_shape: Vec<i64> = order.iter().map(|d| shape[*d as usize]).collect();
        let flat: Vec<i64> = first.iter().map(|d| shape[*d as usize]).chain([count]).collect();
        let lanes = b.reshape(moved, &flat)?;
        let axis = b.scalar(orrery_numerics::DType::I64, first.len() as f64);
        let attrs = Attrs::new().with("exclusive", 1);
        let before = b.op(Op::CumProd, &[lanes, axis], attrs.clone())?;
        let behind = b.op(Op::CumProd, &[lanes, axis], attrs.with("reverse", 1))?;
        let others = b.mul(before, behind)?;
        let others = b.reshape(others, &moved_shape)?;
        let mut back = vec![0; order.len()];
        order.iter().zip(0..).for_each(|(d, at)| back[*d as usize] = at);
        let others = b.transpose(others, &back)?;
        b.mul(others, dy)
    })
}
pub(super) fn l1(b: &mut Backward<'_>) -> Result<()> {
    of_lane(b, |b, x, _, dy| {
        let sign = b.unary(Op::Sign, x)?;
        b.mul(sign, dy)
    })
}
/// X / Y, zero where Y is.
pub(super) fn l2(b: &mut Backward<'_>) -> Result<()> {
    of_lane(b, |b, x, y, dy| {
        let zero = b.scalar_like(y, 0.0);
        let none = b.op(Op::Equal, &[y, zero], Attrs::new())?;
        let share = b.div(dy, y)?;
        let share = b.op(Op::Where, &[none, zero, share], Attrs::new())?;
        b.mul(x, share)
    })
}
/// One over the sum, which is exp(Y).
pub(super) fn log_sum(b: &mut Backward<'_>) -> Result<()> {
    of_lane(b, |b, _, y, dy| {
        let sum = b.unary(Op::Exp, y)?;
        b.div(dy, sum)
    })
}
/// The softmax.
pub(super) fn log_sum_exp(b: &mut Backward<'_>) -> Result<()> {
    of_lane(b, |b, x, y, dy| {
        let difference = b.sub(x, y)?;
        let share = b.unary(Op::Exp, difference)?;
        b.mul(share, dy)
    })
}
pub(super) fn sum_square(b: &mut Backward<'_>) -> Result<()> {
    of_lane(b, |b, x, _, dy| {
        let twice = b.scale(dy, 2.0)?;
        b.mul(x, twice)
    })
}

/// The running sum the other way.
fn scanned_back(b: &mut Backward<'_>, value: ValueId) -> Result<ValueId> {
    let axis = b.x(1)?;
    let reverse = i64::from(!b.attrs().flag("reverse"));
    let attrs = b.attrs().clone().with("reverse", reverse);
    b.op(Op::CumSum, &[value, axis], attrs)
}
pub(super) fn cumulative_sum(b: &mut Backward<'_>) -> Result<()> {
    let dy = b.dy0()?;
    let dx = scanned_back(b, dy)?;
    b.give(0, dx);
    Ok(())
}
/// The running sum of Y dY the other way, over X: no element may be zero.
pub(super) fn cumulative_product(b: &mut Backward<'_>) -> Result<()> {
    let (x, y, dy) = (b.x(0)?, b.y(0)?, b.dy0()?);
    let product = b.mul(y, dy)?;
    let sum = scanned_back(b, product)?;
    let dx = b.div(sum, x)?;
    b.give(0, dx);
    Ok(())
}

fn lane(b: &Backward<'_>) -> Result<i64> {
    let rank = b.rank(b.x(0)?)?;
    b.known(|ctx| rules::axis_of(ctx.attrs(), -1, rank)).map(|axis| axis as i64)
}
pub(super) fn softmax(b: &mut Backward<'_>) -> Result<()> {
    let (y, dy, axis) = (b.y(0)?, b.dy0()?, lane(b)?);
    let dx = b.op(Op::SoftmaxGrad, &[y, dy], Attrs::new().with("axis", axis))?;
    b.give(0, dx);
    Ok(())
}
/// dY less the softmax times the sum of dY.
pub(super) fn log_softmax(b: &mut Backward<'_>) -> Result<()> {
    let (y, dy, axis) = (b.y(0)?, b.dy0()?, lane(b)?);
    let axes = if b.rank(y)? == 0 { Vec::new() } else { vec![axis] };
    let sum = b.sum(dy, &axes, true)?;
    let softmax = b.unary(Op::Exp, y)?;
    let product = b.mul(softmax, sum)?;
    let dx = b.sub(dy, product)?;
    b.give(0, dx);
    Ok(())
}
