//! Gradient rules of indexing ops, and the gradient op of `Gather`.

use super::kernels::position;
use super::rules::{self, axis_of, typed};
use crate::gradient::Backward;
use crate::op::elements::{Float, by_float};
use crate::op::rules as shared;
use crate::op::space::reduced;
use crate::op::{
    Access, Class, Combine, Ctx, Datum, Engine, EvalCtx, Fact, IterSpace, Op, OpDef, Port, Work, context,
    opt, req,
};
use crate::{AttrKind, Attrs, Dim, ValueId};
use orrery_base::Result;
use orrery_numerics::{DType, Tensor};

pub(super) const GATHER_GRAD: OpDef = OpDef {
    inputs: &[Port::One("indices"), Port::One("dY")],
    outputs: &[Port::One("dData")],
    attrs: &[
        opt("axis", AttrKind::Int, "The dimension of the data that indices select from; 0."),
        req("extent", AttrKind::Int, "The data's extent in that dimension."),
    ],
    class: Class::Rounding,
    engine: Engine::Vector,
    infer: gather_grad_infer,
    work: |ctx| Work::vector(ctx.input_elements(1), Dim::Known(0)),
    space: gather_grad_space,
    eval: gather_grad,
    ..OpDef::new(
        Op::GatherGrad,
        "Gradient of the data of Gather: zeros to which the slices of dY are added where the indices say. Not part of ONNX.",
    )
};

/// Rank of the data, and the axis, where the ranks are known.
fn gathered(ctx: &Ctx<'_>) -> std::result::Result<Option<(usize, usize)>, String> {
    let (Some(indices), Some(dy)) = (ctx.rank(0), ctx.rank(1)) else { return Ok(None) };
    let rank = (dy + 1)
        .checked_sub(indices)
        .filter(|rank| *rank > 0)
        .ok_or_else(|| format!("indices of {indices} dimensions make no gradient of {dy}"))?;
    Ok(Some((rank, axis_of(ctx, 0, rank)?)))
}
fn gather_grad_infer(ctx: &Ctx<'_>) -> std::result::Result<Vec<Fact>, String> {
    shared::integer(ctx, 0)?;
    let dtype = shared::float(ctx, 1)?;
    let extent = ctx.attrs().int("extent").filter(|n| *n >= 0).ok_or("attribute `extent` is no extent")?;
    let (Some((_, axis)), Some(indices), Some(dy)) = (gathered(ctx)?, ctx.shape(0), ctx.shape(1)) else {
        return Ok(vec![typed(dtype, None)]);
    };
    for (a, b) in indices.iter().zip(&dy[axis..]) {
        shared::equal(a, b, || {
            format!("extents of indices {indices:?} and of the gradient {dy:?} from {axis} on")
        })?;
    }
    let shape = [&dy[..axis], &[Dim::Known(extent)], &dy[axis + indices.len()..]].concat();
    Ok(vec![typed(dtype, Some(shape))])
}
/// Places in the data are parallel but for the axis; parts of the indices make partial sums.
fn gather_grad_space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let (rank, axis) = gathered(ctx).ok()??;
    let mut space = IterSpace::over_output(&ctx.output_shape(0)?);
    space.axes[axis].extent = Dim::Known(1);
    space.outputs[0][axis] = Access::Whole;
    let indices: Vec<Access> = (rank..).take(ctx.rank(0)?).map(Access::along).collect();
    space.axes.extend(ctx.shape(0)?.into_iter().map(|extent| reduced("index", extent, Combine::Sum)));
    let before = (0..axis).map(Access::along);
    let behind = (axis + 1..rank).map(Access::along);
    let dy = before.chain(indices.iter().cloned()).chain(behind).collect();
    space.inputs = vec![indices, dy];
    Some(space)
}
fn gather_grad(ctx: &EvalCtx<'_>) -> std::result::Result<Vec<Datum>, String> {
    let (dtype, shape) = shared::check_one(ctx)?;
    let axis = context::normalize_axis(ctx.attrs().int_or("axis", 0), shape.len())?;
    let extent = shape[axis];
    let places: Vec<usize> =
        ctx.ints(0)?.into_iter().map(|i| position(i, extent)).collect::<std::result::Result<_, _>>()?;
    let run: usize = shape[axis + 1..].iter().product();
    let outer: usize = shape[..axis].iter().product();
    Ok(vec![
        by_float!(dtype, T => {
            let dy = T::read(ctx.tensor(1)?)?;
            let mut sums = vec![T::ZERO; shape.iter().product()];
            for row in 0..outer {
                for (i, place) in places.iter().enumerate() {
                    let (from, to) = ((row * places.len() + i) * run, (row * extent + place) * run);
                    (0..run).for_each(|k| sums[to + k] += dy[from + k]);
                }
            }
            T::tensor(dtype, shape, sums)
        })
        .into(),
    ])
}

fn axis(b: &Backward<'_>, rank: usize) -> Result<i64> {
    b.known(|ctx| context::normalize_axis(ctx.attrs().int_or("axis", 0), rank)).map(|axis| axis as i64)
}
fn zeros_like(b: &mut Backward<'_>, like: ValueId) -> Result<ValueId> {
    let (dtype, shape) = (b.dtype(like), b.shape(like)?);
    b.zeros(dtype, &shape)
}
pub(super) fn gather(b: &mut Backward<'_>) -> Result<()> {
    let (data, indices, dy) = (b.x(0)?, b.x(1)?, b.dy0()?);
    let shape = b.shape(data)?;
    let axis = axis(b, shape.len())?;
    let attrs = Attrs::new().with("axis", axis).with("extent", shape[axis as usize]);
    let dx = b.op(Op::GatherGrad, &[indices, dy], attrs)?;
    b.give(0, dx);
    Ok(())
}
/// dY added to zeros of the shape of input 0, where the indices say along an axis.
fn added(b: &mut Backward<'_>, indices: ValueId, axis: i64) -> Result<()> {
    let (x, dy) = (b.x(0)?, b.dy0()?);
    let zeros = zeros_like(b, x)?;
    let attrs = Attrs::new().with("axis", axis).with("reduction", "add");
    let dx = b.op(Op::ScatterElements, &[zeros, indices, dy], attrs)?;
    b.give(0, dx);
    Ok(())
}
pub(super) fn gather_elements(b: &mut Backward<'_>) -> Result<()> {
    let indices = b.x(1)?;
    let axis = axis(b, b.rank(b.x(0)?)?)?;
    added(b, indices, axis)
}
pub(super) fn top_k(b: &mut Backward<'_>) -> Result<()> {
    let x = b.x(0)?;
    let rank = b.rank(x)?;
    let axis = b.known(|ctx| axis_of(ctx, -1, rank))? as i64;
    let indices = match b.node().outputs.get(1).copied().flatten() {
        Some(indices) => indices,
        None => {
            let (inputs, attrs) = (b.node().inputs.clone(), b.attrs().clone());
            b.ops(Op::TopK, &inputs, attrs, 2)?[1]
        }
    };
    added(b, indices, axis)
}
/// Scattered by index tuples; those of batches are told their batch first.
pub(super) fn gather_nd(b: &mut Backward<'_>) -> Result<()> {
    let (x, mut indices, dy) = (b.x(0)?, b.x(1)?, b.dy0()?);
    let batch = b.known(|ctx| rules::batch_dims(ctx.attrs()))?;
    if batch > 0 {
        let mut shape = b.shape(indices)?;
        let extents: Vec<usize> = shape[..batch].iter().map(|n| *n as usize).collect();
        let mut numbers = Vec::new();
        for at in 0..extents.iter().product::<usize>() {
            let mut left = at;
            let mut tuple = vec![0_i64; batch];
            for d in (0..batch).rev() {
                tuple[d] = (left % extents[d]) as i64;
                left /= extents[d];
            }
            numbers.extend(tuple);
        }
        let mut own = extents;
        own.resize(shape.len() - 1, 1);
        own.push(batch);
        let numbers = b.tensor("batch", Tensor::from_vec(own, numbers));
        let last = shape.len() - 1;
        shape[last] = batch as i64;
        let numbers = b.expand(numbers, &shape)?;
        let dtype = b.dtype(indices);
        let numbers = b.cast(numbers, dtype)?;
        indices = b.op(Op::Concat, &[numbers, indices], Attrs::new().with("axis", -1))?;
    }
    let zeros = zeros_like(b, x)?;
    let dx = b.op(Op::ScatterND, &[zeros, indices, dy], Attrs::new().with("reduction", "add"))?;
    b.give(0, dx);
    Ok(())
}
/// Where updates are written, or added to what is there, each place has the gradient of one of them, or of both.
fn scattered(b: &mut Backward<'_>, gather: Op, attrs: Attrs) -> Result<()> {
    let (indices, updates, dy) = (b.x(1)?, b.x(2)?, b.dy0()?);
    let reduction = b.attrs().str_or("reduction", "none").to_owned();
    if b.wants(0) {
        let dx = match reduction.as_str() {
            "add" => dy,
            "none" => {
                let zeros = zeros_like(b, updates)?;
                let (op, attrs) = (b.node().op, b.attrs().clone());
                b.op(op, &[dy, indices, zeros], attrs)?
            }
            other => return Err(b.fails(format!("there is no gradient rule for the reduction `{other}`"))),
        };
        b.give(0, dx);
    }
    if b.wants(2) {
        if !["none", "add"].contains(&reduction.as_str()) {
            return Err(b.fails(format!("there is no gradient rule for the reduction `{reduction}`")));
        }
        let dx = b.op(gather, &[dy, indices], attrs)?;
        b.give(2, dx);
    }
    Ok(())
}
pub(super) fn scatter_elements(b: &mut Backward<'_>) -> Result<()> {
    let axis = axis(b, b.rank(b.x(0)?)?)?;
    scattered(b, Op::GatherElements, Attrs::new().with("axis", axis))
}
pub(super) fn scatter_nd(b: &mut Backward<'_>) -> Result<()> {
    scattered(b, Op::GatherND, Attrs::new())
}
/// Of the off and the on value: the sums over the places that have them.
pub(super) fn one_hot(b: &mut Backward<'_>) -> Result<()> {
    let (indices, depth, values, dy) = (b.x(0)?, b.x(1)?, b.x(2)?, b.dy0()?);
    let dtype = b.dtype(values);
    let pair = b.ints(&[0, 1]);
    let pair = b.cast(pair, dtype)?;
    let attrs = b.attrs().clone();
    let hot = b.op(Op::OneHot, &[indices, depth, pair], attrs)?;
    let on = b.mul(hot, dy)?;
    let axes: Vec<i64> = (0..b.rank(dy)? as i64).collect();
    let (all, on) = (b.sum(dy, &axes, false)?, b.sum(on, &axes, false)?);
    let off = b.sub(all, on)?;
    let (off, on) = (b.reshape(off, &[1])?, b.reshape(on, &[1])?);
    let dx = b.op(Op::Concat, &[off, on], Attrs::new().with("axis", 0))?;
    b.give(2, dx);
    Ok(())
}

/// What was written over gets nothing, and the updates what comes back to where they were written.
pub(super) fn tensor_scatter(b: &mut Backward<'_>) -> Result<()> {
    let (update, dy) = (b.x(1)?, b.dy0()?);
    let (whole, shape) = (b.shape(dy)?, b.shape(update)?);
    let axis = b.known(|ctx| axis_of(ctx, -2, whole.len()))?;
    let first = match b.given(2) {
        Some(first) => first,
        None => b.ints(&vec![0; whole[0] as usize]),
    };
    if b.wants(0) {
        let dtype = b.dtype(dy);
        let nothing = b.zeros(dtype, &shape)?;
        let attrs = b.attrs().clone();
        let dpast = b.op(Op::TensorScatter, &[dy, nothing, first], attrs)?;
        b.give(0, dpast);
    }
    if b.wants(1) {
        let along = |d: usize, extent: i64| -> Vec<i64> {
            (0..whole.len()).map(|i| if i == d { extent } else { 1 }).collect()
        };
        let first = b.cast(first, DType::I64)?;
        let first = b.reshape(first, &along(0, whole[0]))?;
        let steps = b.ints(&(0..shape[axis]).collect::<Vec<_>>());
        let steps = b.reshape(steps, &along(axis, shape[axis]))?;
        let mut at = b.add(first, steps)?;
        if b.attrs().str_or("mode", "linear") == "circular" {
            let extent = b.ints(&[whole[axis]]);
            at = b.op(Op::Mod, &[at, extent], Attrs::new())?;
        }
        let at = b.expand(at, &shape)?;
        let dupdate = b.op(Op::GatherElements, &[dy, at], Attrs::new().with("axis", axis as i64))?;
        b.give(1, dupdate);
    }
    Ok(())
}
