//! Gradient rules of movements: the elements go back to where they came from, and what was repeated is summed.

use super::rules;
use crate::gradient::Backward;
use crate::{Attrs, Dim, Op, ValueId};
use orrery_base::Result;

/// Whether element or shape came first, the elements are the same.
pub(super) fn reshape(b: &mut Backward<'_>) -> Result<()> {
    let (x, dy) = (b.x(0)?, b.dy0()?);
    let dx = b.reshape_like(dy, x)?;
    b.give(0, dx);
    Ok(())
}
pub(super) fn transpose(b: &mut Backward<'_>) -> Result<()> {
    let dy = b.dy0()?;
    let rank = b.rank(dy)?;
    let order = b.known(|ctx| rules::order(ctx.attrs().ints("perm"), rank))?;
    let mut back = vec![0; rank];
    order.iter().zip(0..).for_each(|(d, at)| back[*d] = at);
    let dx = b.transpose(dy, &back)?;
    b.give(0, dx);
    Ok(())
}
fn axis(b: &Backward<'_>, rank: usize) -> Result<usize> {
    b.known(|ctx| ctx.axis(ctx.attrs().int_or("axis", 0), rank))
}
pub(super) fn concat(b: &mut Backward<'_>) -> Result<()> {
    let dy = b.dy0()?;
    let axis = axis(b, b.rank(dy)?)?;
    let count = b.node().inputs.len();
    let sizes: Vec<i64> = (0..count).map(|i| Ok(b.shape(b.x(i)?)?[axis])).collect::<Result<_>>()?;
    let sizes = b.ints(&sizes);
    let attrs = Attrs::new().with("axis", axis as i64);
    let parts = b.ops(Op::Split, &[Some(dy), Some(sizes)], attrs, count)?;
    for (i, part) in parts.into_iter().enumerate() {
        b.give(i, part);
    }
    Ok(())
}
pub(super) fn split(b: &mut Backward<'_>) -> Result<()> {
    let x = b.x(0)?;
    let (shape, dtype) = (b.shape(x)?, b.dtype(x));
    let axis = axis(b, shape.len())?;
    let sizes = b.known(rules::split)?;
    let mut parts = Vec::new();
    for (i, size) in sizes.iter().enumerate() {
        let extents = size.ty.as_tensor().and_then(|ty| ty.shape.as_ref());
        let extent = extents.and_then(|shape| shape[axis].known());
        let extent = extent.ok_or_else(|| b.fails("the sizes of the parts are not known".into()))?;
        let mut part = shape.clone();
        part[axis] = extent;
        parts.push(match b.dy(i) {
            Some(dy) => dy,
            None => b.zeros(dtype, &part)?,
        });
    }
    let dx = b.op(Op::Concat, &parts, Attrs::new().with("axis", axis as i64))?;
    b.give(0, dx);
    Ok(())
}
fn padded(b: &mut Backward<'_>, x: ValueId, front: &[i64], back: &[i64]) -> Result<ValueId> {
    if front.iter().chain(back).all(|n| *n == 0) {
        return Ok(x);
    }
    let pads = b.ints(&[front, back].concat());
    b.op(Op::Pad, &[x, pads], Attrs::new())
}
/// The slices in zeros. Steps are undone first: what was left out between two elements is zero.
pub(super) fn slice(b: &mut Backward<'_>) -> Result<()> {
    let x = b.x(0)?;
    let shape = b.shape(x)?;
    let extents: Vec<Dim> = shape.iter().copied().map(Dim::Known).collect();
    let unknown = || "the slices are not known".to_owned();
    let cuts = b.known(|ctx| rules::cuts(ctx, &extents)?.ok_or_else(unknown))?;
    let mut dx = b.dy0()?;
    let (mut front, mut back) = (vec![0; shape.len()], vec![0; shape.len()]);
    for cut in cuts {
        let mut have = b.shape(dx)?;
        let count = have[cut.axis];
        let first = cut.first.ok_or_else(|| b.fails(unknown()))?;
        let step = cut.step.abs();
        let least = if cut.step > 0 { first } else { first - (count - 1) * step };
        if cut.step < 0 {
            let [start, end, axes, steps] =
                [-1, i64::MIN, cut.axis as i64, -1].map(|number| b.ints(&[number]));
            dx = b.op(Op::Slice, &[dx, start, end, axes, steps], Attrs::new())?;
        }
        if step > 1 && count > 0 {
            have.insert(cut.axis + 1, 1);
            let apart = b.reshape(dx, &have)?;
            let mut behind = vec![0; have.len()];
            behind[cut.axis + 1] = step - 1;
            let apart = padded(b, apart, &vec![0; have.len()], &behind)?;
            have.remove(cut.axis + 1);
            have[cut.axis] = count * step;
            dx = b.reshape(apart, &have)?;
        }
        front[cut.axis] = if count > 0 { least } else { 0 };
        back[cut.axis] = shape[cut.axis] - front[cut.axis] - count * step;
    }
    let dx = padded(b, dx, &front, &back)?;
    b.give(0, dx);
    Ok(())
}
pub(super) fn expand(b: &mut Backward<'_>) -> Result<()> {
    let dy = b.dy0()?;
    b.give_summed(0, dy)
}
pub(super) fn tile(b: &mut Backward<'_>) -> Result<()> {
    let (x, dy) = (b.x(0)?, b.dy0()?);
    let (have, out) = (b.shape(x)?, b.shape(dy)?);
    let mut apart = Vec::new();
    let mut copies = Vec::new();
    for (&n, &all) in have.iter().zip(&out) {
        if n != all {
            copies.push(apart.len() as i64);
            apart.push(all / n.max(1));
        }
        apart.push(n);
    }
    let dx = if out.contains(&0) {
        let dtype = b.dtype(x);
        b.zeros(dtype, &have)?
    } else {
        let dx = b.reshape(dy, &apart)?;
        b.sum(dx, &copies, false)?
    };
    b.give(0, dx);
    Ok(())
}
/// Where zeros or a value were added, they are taken away; elements that were repeated gather what came of all copies.
pub(super) fn pad(b: &mut Backward<'_>) -> Result<()> {
    let (x, dy) = (b.x(0)?, b.dy0()?);
    let shape = b.shape(x)?;
    let unknown = || "the pads are not known".to_owned();
    let pads = b.known(|ctx| rules::paddings(ctx, shape.len())?.ok_or_else(unknown))?;
    let pads: Option<Vec<(i64, i64)>> = pads.iter().map(|(f, b)| Some((f.known()?, b.known()?))).collect();
    let pads = pads.ok_or_else(|| b.fails(unknown()))?;
    let mode = b.attrs().str_or("mode", "constant").to_owned();
    if mode != "constant" {
        let mut dx = dy;
        for (axis, ((front, back), extent)) in pads.into_iter().zip(shape).enumerate() {
            if (front, back) == (0, 0) {
                continue;
            }
            let from = |out: i64| super::kernels::pad_source(&mode, out - front, extent);
            let places = b.known(|_| {
                (0..extent + front + back).map(from).collect::<std::result::Result<Vec<_>, _>>()
            })?;
            let places = b.ints(&places.into_iter().flatten().collect::<Vec<_>>());
            let attrs = Attrs::new().with("axis", axis as i64).with("extent", extent);
            dx = b.op(Op::GatherGrad, &[places, dx], attrs)?;
        }
        b.give(0, dx);
        return Ok(());
    }
    let (front, back): (Vec<i64>, Vec<i64>) = pads.iter().map(|(front, back)| (-front, -back)).unzip();
    let dx = padded(b, dy, &front, &back)?;
    if b.wants(2) {
        let axes: Vec<i64> = (0..shape.len() as i64).collect();
        let (all, own) = (b.sum(dy, &axes, false)?, b.sum(dx, &axes, false)?);
        let rest = b.sub(all, own)?;
        let value = b.x(2)?;
        let rest = b.reshape_like(rest, value)?;
        b.give(2, rest);
    }
    b.give(0, dx);
    Ok(())
}
pub(super) fn depth_to_space(b: &mut Backward<'_>) -> Result<()> {
    let (x, dy) = (b.x(0)?, b.dy0()?);
    let block = b.attrs().int_or("blocksize", 1);
    let dx = if b.attrs().str_or("mode", "DCR") == "DCR" {
        b.op(Op::SpaceToDepth, &[dy], Attrs::new().with("blocksize", block))?
    } else {
        let (from, to) = (b.shape(dy)?, b.shape(x)?);
        let apart = b.reshape(dy, &[from[0], from[1], to[2], block, to[3], block])?;
        let moved = b.transpose(apart, &[0, 1, 3, 5, 2, 4])?;
        b.reshape(moved, &to)?
    };
    b.give(0, dx);
    Ok(())
}
pub(super) fn space_to_depth(b: &mut Backward<'_>) -> Result<()> {
    let dy = b.dy0()?;
    let attrs = b.attrs().clone();
    let dx = b.op(Op::DepthToSpace, &[dy], attrs)?;
    b.give(0, dx);
    Ok(())
}
/// The op itself, which keeps or moves the gradient's elements as it did those of the input.
pub(super) fn itself(b: &mut Backward<'_>) -> Result<()> {
    let dy = b.dy0()?;
    let (op, attrs) = (b.node().op, b.attrs().clone());
    let mut inputs = b.node().inputs.clone();
    inputs[0] = Some(dy);
    let dx = b.ops(op, &inputs, attrs, 1)?[0];
    b.give(0, dx);
    Ok(())
}
/// Crops where it was padded and pads where it was cropped.
pub(super) fn center_crop_pad(b: &mut Backward<'_>) -> Result<()> {
    let (x, dy) = (b.x(0)?, b.dy0()?);
    let shape = b.shape(x)?;
    let shape = b.ints(&shape);
    let dx = b.op(Op::CenterCropPad, &[dy, shape], Attrs::new())?;
    b.give(0, dx);
    Ok(())
}
pub(super) fn constant_of_shape(b: &mut Backward<'_>) -> Result<()> {
    let (value, dy) = (b.x(1)?, b.dy0()?);
    let axes: Vec<i64> = (0..b.rank(dy)? as i64).collect();
    let sum = b.sum(dy, &axes, false)?;
    let sum = b.reshape_like(sum, value)?;
    b.give(1, sum);
    Ok(())
}
