//! Type rules of the movement ops.

use crate::op::content::{self, list, list_len, never_negative, numbers};
use crate::op::context::{broadcast, normalize_axis};
use crate::op::{Ctx, Fact};
use crate::{Dim, TensorType, Type};
use orrery_numerics::DType;
use std::collections::BTreeSet;

type Facts = Result<Vec<Fact>, String>;

fn typed(dtype: DType, shape: Option<Vec<Dim>>) -> Fact {
    Fact::of(Type::Tensor(TensorType { dtype, shape }))
}
/// A tensor of that rank, or of unknown rank, whose extents only running can tell.
fn open(ctx: &Ctx<'_>, dtype: DType, rank: Option<usize>) -> Fact {
    typed(dtype, rank.map(|rank| (0..rank).map(|d| ctx.unknown_dim(0, d)).collect()))
}
/// The content of input 0, for a result that holds the same elements in the same order.
fn same_content(ctx: &Ctx<'_>, rank: usize) -> Option<Vec<Dim>> {
    content::of(ctx, 0).filter(|_| rank <= 1)
}
/// Content along the only axis, changed.
fn changed_content(ctx: &Ctx<'_>, change: impl FnOnce(Vec<Dim>) -> Option<Vec<Dim>>) -> Option<Vec<Dim>> {
    content::of(ctx, 0).and_then(change).filter(|list| list.len() <= content::MOST)
}
/// Axes counted from the front, none of them twice.
pub(super) fn distinct_axes(axes: &[i64], rank: usize) -> Result<Vec<usize>, String> {
    let found: Vec<usize> = axes
        .iter()
        .map(|&axis| if rank == 0 { Err(scalar_axis(axis)) } else { normalize_axis(axis, rank) })
        .collect::<Result<_, _>>()?;
    if found.iter().collect::<BTreeSet<_>>().len() < found.len() {
        return Err(format!("axes {axes:?} name a dimension of {rank} twice"));
    }
    Ok(found)
}
fn scalar_axis(axis: i64) -> String {
    format!("axis {axis} is out of range for a scalar")
}
/// As `normalize_axis`, for ops that need a dimension.
fn axis_of(axis: i64, rank: usize) -> Result<usize, String> {
    if rank == 0 { Err(scalar_axis(axis)) } else { normalize_axis(axis, rank) }
}
fn not_negative(shape: &[Dim]) -> Result<(), String> {
    match shape.iter().find(|d| d.known().is_some_and(|n| n < 0)) {
        Some(d) => Err(format!("{shape:?} is no shape: {d} is negative")),
        None => Ok(()),
    }
}

pub(super) fn shape(ctx: &Ctx<'_>) -> Facts {
    ctx.tensor_type(0)?;
    let Some(shape) = ctx.shape(0) else { return Ok(vec![open(ctx, DType::I64, Some(1))]) };
    let rank = shape.len() as i64;
    let at = |i: i64| (if i < 0 { i.saturating_add(rank) } else { i }).clamp(0, rank) as usize;
    let (start, end) = (at(ctx.attrs().int_or("start", 0)), at(ctx.attrs().int_or("end", rank)));
    let part = shape.get(start..end).unwrap_or_default().to_vec();
    Ok(vec![Fact::tensor(DType::I64, vec![part.len().into()]).with_content(Some(part))])
}
pub(super) fn size(ctx: &Ctx<'_>) -> Facts {
    let elements = ctx.tensor_type(0)?.elements();
    Ok(vec![Fact::tensor(DType::I64, Vec::new()).with_content(elements.map(|n| vec![n]))])
}

/// The shape that `wanted` asks for: 0 copies the extent at its place unless zeros are allowed, -1 is what is left.
fn reshaped(ctx: &Ctx<'_>, wanted: &[Dim], allow_zero: bool) -> Result<Vec<Dim>, String> {
    let have = ctx.shape(0);
    let mut rest = None;
    let mut out = Vec::with_capacity(wanted.len());
    for (d, extent) in wanted.iter().enumerate() {
        out.push(match extent.known() {
            Some(-1) if rest.is_some() => return Err(format!("shape {wanted:?} leaves two extents open")),
            Some(-1) => {
                rest = Some(d);
                Dim::Known(1)
            }
            Some(0) if !allow_zero => match &have {
                Some(have) => have.get(d).cloned().ok_or_else(|| {
                    format!("shape {wanted:?} copies extent {d}, but the operand has {}", have.len())
                })?,
                None => ctx.unknown_dim(0, d),
            },
            _ => extent.clone(),
        });
    }
    not_negative(&out)?;
    let Some(have) = have else {
        if let Some(d) = rest {
            out[d] = ctx.unknown_dim(0, d);
        }
        return Ok(out);
    };
    let mismatch = || format!("{have:?} cannot be reshaped to {wanted:?}");
    // Extents that stand in both cancel, so that what is left is found even where they may be zero.
    let (mut from, mut to) = (have.clone(), out.clone());
    if let Some(d) = rest {
        to.remove(d);
    }
    to.retain(|extent| match from.iter().position(|f| f == extent && f.known().is_none()) {
        Some(at) => {
            from.remove(at);
            false
        }
        None => true,
    });
    let (from, to): (Dim, Dim) = (from.into_iter().product(), to.into_iter().product());
    match rest {
        Some(_) if to.is(0) => return Err(mismatch()),
        Some(d) => {
            out[d] = from.floor_div(&to);
            let exact = out[d].clone() * to.clone();
            if from.known().is_some() && to.known().is_some() && exact != from {
                return Err(mismatch());
            }
        }
        None if from.known().is_some() && to.known().is_some() && from != to => return Err(mismatch()),
        None => {}
    }
    Ok(out)
}
pub(super) fn reshape(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    let allow_zero = ctx.attrs().flag("allowzero");
    Ok(vec![match list(ctx, 1)? {
        None => open(ctx, dtype, list_len(ctx, 1)),
        Some(wanted) => {
            let shape = reshaped(ctx, &wanted, allow_zero)?;
            let content = same_content(ctx, shape.len());
            typed(dtype, Some(shape)).with_content(content)
        }
    }])
}
pub(super) fn flatten(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    let Some(shape) = ctx.shape(0) else { return Ok(vec![open(ctx, dtype, Some(2))]) };
    let axis = flatten_axis(ctx.attrs().int_or("axis", 1), shape.len())?;
    let product = |dims: &[Dim]| dims.iter().cloned().product();
    Ok(vec![typed(dtype, Some(vec![product(&shape[..axis]), product(&shape[axis..])]))])
}
/// The axis before which all dimensions become one: the rank itself is allowed.
pub(super) fn flatten_axis(axis: i64, rank: usize) -> Result<usize, String> {
    let at = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
    usize::try_from(at)
        .ok()
        .filter(|at| *at <= rank)
        .ok_or_else(|| format!("axis {axis} is out of range for rank {rank}"))
}
pub(super) fn squeeze(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    let Some(shape) = ctx.shape(0) else { return Ok(vec![open(ctx, dtype, None)]) };
    let axes = if ctx.has(1) {
        let Some(axes) = numbers(ctx, 1)? else {
            return Ok(vec![open(ctx, dtype, list_len(ctx, 1).and_then(|n| shape.len().checked_sub(n)))]);
        };
        distinct_axes(&axes, shape.len())?
    } else if shape.iter().all(|n| n.known().is_some()) {
        (0..shape.len()).filter(|&d| shape[d].is(1)).collect()
    } else {
        // A symbol may turn out to be 1, and its dimension would go.
        return Ok(vec![open(ctx, dtype, None)]);
    };
    if let Some(d) = axes.iter().find(|&&d| shape[d].known().is_some_and(|n| n != 1)) {
        return Err(format!("dimension {d} of {shape:?} is not 1"));
    }
    let kept: Vec<Dim> = (0..shape.len()).filter(|d| !axes.contains(d)).map(|d| shape[d].clone()).collect();
    let content = same_content(ctx, kept.len());
    Ok(vec![typed(dtype, Some(kept)).with_content(content)])
}
pub(super) fn unsqueeze(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    let Some(shape) = ctx.shape(0) else { return Ok(vec![open(ctx, dtype, None)]) };
    let Some(axes) = numbers(ctx, 1)? else {
        return Ok(vec![open(ctx, dtype, list_len(ctx, 1).map(|n| n + shape.len()))]);
    };
    let rank = shape.len() + axes.len();
    let axes = distinct_axes(&axes, rank)?;
    let mut old = shape.into_iter();
    let out: Vec<Dim> =
        (0..rank).filter_map(|d| if axes.contains(&d) { Some(Dim::Known(1)) } else { old.next() }).collect();
    let content = same_content(ctx, out.len());
    Ok(vec![typed(dtype, Some(out)).with_content(content)])
}

/// The order of dimensions: as given, or reversed.
pub(super) fn order(perm: Option<&[i64]>, rank: usize) -> Result<Vec<usize>, String> {
    let Some(perm) = perm else { return Ok((0..rank).rev().collect()) };
    let order = perm.iter().map(|&d| usize::try_from(d).unwrap_or(usize::MAX)).collect::<Vec<_>>();
    let mut sorted = order.clone();
    sorted.sort_unstable();
    if sorted == (0..rank).collect::<Vec<_>>() {
        Ok(order)
    } else {
        Err(format!("perm {perm:?} is no order of {rank} dimensions"))
    }
}
pub(super) fn transpose(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    let perm = ctx.attrs().ints("perm");
    let Some(shape) = ctx.shape(0) else { return Ok(vec![open(ctx, dtype, perm.map(<[_]>::len))]) };
    let order = order(perm, shape.len())?;
    let content = same_content(ctx, shape.len());
    let moved = order.iter().map(|&d| shape[d].clone()).collect();
    Ok(vec![typed(dtype, Some(moved)).with_content(content)])
}
pub(super) fn concat(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    let axis = ctx.attrs().int("axis").ok_or("attribute `axis` is missing")?;
    for i in 1..ctx.input_count() {
        if ctx.dtype(i)? != dtype {
            return Err(format!("inputs must be of one type, got {dtype} and {}", ctx.dtype(i)?));
        }
    }
    let shapes: Option<Vec<Vec<Dim>>> = (0..ctx.input_count()).map(|i| ctx.shape(i)).collect();
    let Some(shapes) = shapes else {
        return Ok(vec![open(ctx, dtype, (0..ctx.input_count()).find_map(|i| ctx.rank(i)))]);
    };
    let mut out = shapes[0].clone();
    let axis = axis_of(axis, out.len())?;
    for shape in &shapes[1..] {
        let differ = || format!("{:?} and {shape:?} cannot be concatenated along axis {axis}", shapes[0]);
        if shape.len() != out.len() {
            return Err(differ());
        }
        for (d, extent) in shape.iter().enumerate() {
            if d == axis {
                out[d] = out[d].clone() + extent.clone();
            } else if out[d].known().is_none() {
                out[d] = extent.clone();
            } else if extent.known().is_some() && *extent != out[d] {
                return Err(differ());
            }
        }
    }
    let content = (out.len() == 1)
        .then(|| {
            let parts: Option<Vec<Vec<Dim>>> = (0..ctx.input_count()).map(|i| content::of(ctx, i)).collect();
            parts.map(|parts| parts.concat()).filter(|all| all.len() <= content::MOST)
        })
        .flatten();
    Ok(vec![typed(dtype, Some(out)).with_content(content)])
}
pub(super) fn split(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    let parts = ctx.output_count();
    let Some(shape) = ctx.shape(0) else { return Ok(vec![open(ctx, dtype, None); parts]) };
    let axis = axis_of(ctx.attrs().int_or("axis", 0), shape.len())?;
    let whole = &shape[axis];
    let sizes: Vec<Dim> = if ctx.has(1) {
        match list(ctx, 1)? {
            None => (0..parts).map(|i| ctx.unknown_dim(i, axis)).collect(),
            Some(sizes) => {
                not_negative(&sizes)?;
                let sum: Dim = sizes.iter().cloned().sum();
                if sizes.len() != parts {
                    return Err(format!("{} sizes are given for {parts} outputs", sizes.len()));
                }
                if sum.known().is_some() && whole.known().is_some() && sum != *whole {
                    return Err(format!("sizes {sizes:?} do not add up to {whole}"));
                }
                sizes
            }
        }
    } else {
        let count = ctx.attrs().int_or("num_outputs", parts as i64);
        if count != parts as i64 || count == 0 {
            return Err(format!("num_outputs is {count} but the node has {parts} outputs"));
        }
        let size = whole.ceil_div(&Dim::Known(count));
        match (whole.known(), size.known()) {
            // Where the last parts would be less than nothing, they are empty.
            (Some(whole), Some(size)) => {
                (0..count).map(|i| Dim::Known((whole - i * size).clamp(0, size))).collect()
            }
            _ => {
                let last = whole.clone() - size.clone() * Dim::Known(count - 1);
                let mut sizes = vec![size; parts];
                sizes[parts - 1] = last;
                sizes
            }
        }
    };
    let mut at = Some(0);
    Ok(sizes
        .into_iter()
        .map(|size| {
            let content = at.zip(size.extent()).and_then(|(at, n)| {
                let all = content::of(ctx, 0).filter(|_| shape.len() == 1)?;
                all.get(at..at + n).map(<[Dim]>::to_vec)
            });
            at = at.zip(size.extent()).map(|(at, n)| at.saturating_add(n));
            let mut part = shape.clone();
            part[axis] = size;
            typed(dtype, Some(part)).with_content(content)
        })
        .collect())
}

/// First element, and extent, of a slice of an extent; none where not known.
fn slice_range(extent: &Dim, start: &Dim, end: &Dim, step: i64) -> Option<(Dim, Dim)> {
    let (zero, one) = (Dim::Known(0), Dim::Known(1));
    // Far outside of any extent, on either side, the exact number does not matter.
    let position = |x: &Dim| match x.known() {
        Some(n) if n < 0 => Some(extent.clone() + x.clone()),
        Some(_) => Some(x.clone()),
        None if never_negative(x) => Some(x.clone()),
        None if never_negative(&(zero.clone() - x.clone())) => Some(extent.clone() + x.clone()),
        None => None,
    };
    let below = |x: Dim, most: &Dim| {
        if never_negative(&(most.clone() - x.clone())) {
            x
        } else if never_negative(&(x.clone() - most.clone())) {
            most.clone()
        } else {
            x.smaller(most)
        }
    };
    let above = |x: Dim, least: &Dim| {
        if never_negative(&(x.clone() - least.clone())) {
            x
        } else if never_negative(&(least.clone() - x.clone())) {
            least.clone()
        } else {
            x.larger(least)
        }
    };
    let (first, length) = if step > 0 {
        let first = below(above(position(start)?, &zero), extent);
        let last = below(above(position(end)?, &zero), extent);
        (first.clone(), last - first)
    } else {
        let (least, most) = (Dim::Known(-1), extent.clone() - one);
        let first = below(above(position(start)?, &least), &most);
        let last = below(above(position(end)?, &least), &most);
        (first.clone(), first - last)
    };
    Some((first, above(length, &zero).ceil_div(&Dim::Known(step.checked_abs()?))))
}

/// A slice of one dimension.
pub(super) struct Cut {
    /// The dimension.
    pub(super) axis: usize,
    /// First element, where known.
    pub(super) first: Option<i64>,
    /// Distance of elements.
    pub(super) step: i64,
    /// Number of elements, where known.
    pub(super) extent: Option<Dim>,
}

/// The slices that the inputs ask for, of an operand of this shape; none where the axes are not known.
pub(super) fn cuts(ctx: &Ctx<'_>, shape: &[Dim]) -> Result<Option<Vec<Cut>>, String> {
    let (starts, ends) = (list(ctx, 1)?, list(ctx, 2)?);
    let count = starts.as_ref().or(ends.as_ref()).map(Vec::len).or_else(|| list_len(ctx, 1));
    let axes = match (ctx.has(3), count) {
        (true, _) => numbers(ctx, 3)?,
        (false, count) => count.map(|n| (0..n as i64).collect()),
    };
    let Some(axes) = axes else { return Ok(None) };
    let axes = distinct_axes(&axes, shape.len())?;
    let steps = if ctx.has(4) { list(ctx, 4)? } else { Some(vec![Dim::Known(1); axes.len()]) };
    for given in [&starts, &ends, &steps].into_iter().flatten() {
        if given.len() != axes.len() {
            return Err("starts, ends, axes and steps must be equally long".into());
        }
    }
    let at = |list: &Option<Vec<Dim>>, i: usize| list.as_ref().map(|list| list[i].clone());
    (0..axes.len())
        .map(|i| {
            let step = at(&steps, i).and_then(|s| s.known());
            if step == Some(0) {
                return Err("a slice has step 0".into());
            }
            let range = at(&starts, i)
                .zip(at(&ends, i))
                .zip(step)
                .and_then(|((start, end), step)| slice_range(&shape[axes[i]], &start, &end, step));
            let (first, extent) = range.unzip();
            let first = first.and_then(|f| f.known());
            Ok(Cut { axis: axes[i], first, step: step.unwrap_or(1), extent })
        })
        .collect::<Result<_, String>>()
        .map(Some)
}
pub(super) fn slice(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    let Some(mut shape) = ctx.shape(0) else { return Ok(vec![open(ctx, dtype, None)]) };
    let Some(cuts) = cuts(ctx, &shape)? else { return Ok(vec![open(ctx, dtype, Some(shape.len()))]) };
    for cut in &cuts {
        shape[cut.axis] = cut.extent.clone().unwrap_or_else(|| ctx.unknown_dim(0, cut.axis));
    }
    let content = (shape.len() == 1)
        .then(|| {
            changed_content(ctx, |all| {
                let [cut] = cuts.as_slice() else { return Some(all) };
                let (first, n) = (cut.first?, cut.extent.as_ref()?.known()?);
                (0..n).map(|i| all.get(usize::try_from(first + i * cut.step).ok()?).cloned()).collect()
            })
        })
        .flatten();
    Ok(vec![typed(dtype, Some(shape)).with_content(content)])
}
pub(super) fn expand(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    let (Some(have), Some(wanted)) = (ctx.shape(0), list(ctx, 1)?) else {
        let rank = list_len(ctx, 1).zip(ctx.rank(0)).map(|(a, b)| a.max(b));
        return Ok(vec![open(ctx, dtype, rank)]);
    };
    not_negative(&wanted)?;
    let shape = broadcast(&[&have, &wanted])?;
    let content = match shape.as_slice() {
        [] => content::of(ctx, 0),
        [n] => changed_content(ctx, |all| {
            let n = n.extent().filter(|n| *n <= content::MOST)?;
            if all.len() == n { Some(all) } else { (all.len() == 1).then(|| vec![all[0].clone(); n]) }
        }),
        _ => None,
    };
    Ok(vec![typed(dtype, Some(shape)).with_content(content)])
}
pub(super) fn tile(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    let (Some(have), Some(repeats)) = (ctx.shape(0), list(ctx, 1)?) else {
        return Ok(vec![open(ctx, dtype, ctx.rank(0).or_else(|| list_len(ctx, 1)))]);
    };
    if repeats.len() != have.len() {
        return Err(format!("{repeats:?} must hold one number for each of {} dimensions", have.len()));
    }
    not_negative(&repeats)?;
    let content = (have.len() == 1)
        .then(|| {
            changed_content(ctx, |all| {
                let n =
                    repeats[0].extent().filter(|n| n.saturating_mul(all.len().max(1)) <= content::MOST)?;
                Some(vec![all; n].concat())
            })
        })
        .flatten();
    let shape = have.into_iter().zip(repeats).map(|(extent, n)| extent * n).collect();
    Ok(vec![typed(dtype, Some(shape)).with_content(content)])
}

/// What is added in front of and behind each dimension; none where not known.
pub(super) fn paddings(ctx: &Ctx<'_>, rank: usize) -> Result<Option<Vec<(Dim, Dim)>>, String> {
    let axes = if ctx.has(3) { numbers(ctx, 3)? } else { Some((0..rank as i64).collect()) };
    let (Some(axes), Some(pads)) = (axes, list(ctx, 1)?) else { return Ok(None) };
    let axes = distinct_axes(&axes, rank)?;
    if pads.len() != 2 * axes.len() {
        return Err(format!("{} pads are given for {} dimensions", pads.len(), axes.len()));
    }
    let mut all = vec![(Dim::Known(0), Dim::Known(0)); rank];
    for (i, &axis) in axes.iter().enumerate() {
        all[axis] = (pads[i].clone(), pads[axes.len() + i].clone());
    }
    Ok(Some(all))
}
pub(super) fn pad(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    let Some(have) = ctx.shape(0) else { return Ok(vec![open(ctx, dtype, None)]) };
    if ctx.has(2) && ctx.dtype(2)? != dtype {
        return Err(format!("the value must be of type {dtype}, got {}", ctx.dtype(2)?));
    }
    let Some(pads) = paddings(ctx, have.len())? else { return Ok(vec![open(ctx, dtype, Some(have.len()))]) };
    let shape: Vec<Dim> =
        have.iter().zip(pads).map(|(extent, (front, back))| front + extent.clone() + back).collect();
    not_negative(&shape)?;
    Ok(vec![typed(dtype, Some(shape))])
}

/// The block size, and the operand's four extents where known.
pub(super) fn blocks(ctx: &Ctx<'_>) -> Result<(i64, Option<[Dim; 4]>), String> {
    let block = ctx.attrs().int("blocksize").ok_or("attribute `blocksize` is missing")?;
    if !(1..=1 << 20).contains(&block) {
        return Err(format!("blocksize {block} is out of range"));
    }
    let Some(shape) = ctx.shape(0) else { return Ok((block, None)) };
    let four = shape.try_into().map_err(|s| format!("takes four dimensions, got {s:?}"))?;
    Ok((block, Some(four)))
}
fn divided(extent: &Dim, by: i64) -> Result<Dim, String> {
    match extent.known() {
        Some(n) if n % by != 0 => Err(format!("extent {n} is no multiple of {by}")),
        _ => Ok(extent.floor_div(&Dim::Known(by))),
    }
}
pub(super) fn depth_to_space(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    let (block, Some([n, c, h, w])) = blocks(ctx)? else { return Ok(vec![open(ctx, dtype, Some(4))]) };
    let by = Dim::Known(block);
    Ok(vec![Fact::tensor(dtype, vec![n, divided(&c, block * block)?, h * by.clone(), w * by])])
}
pub(super) fn space_to_depth(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    let (block, Some([n, c, h, w])) = blocks(ctx)? else { return Ok(vec![open(ctx, dtype, Some(4))]) };
    let shape = vec![n, c * Dim::Known(block * block), divided(&h, block)?, divided(&w, block)?];
    Ok(vec![Fact::tensor(dtype, shape)])
}
pub(super) fn constant_of_shape(ctx: &Ctx<'_>) -> Facts {
    let dtype = if ctx.has(1) { ctx.dtype(1)? } else { DType::F32 };
    let Some(shape) = list(ctx, 0)? else { return Ok(vec![open(ctx, dtype, list_len(ctx, 0))]) };
    not_negative(&shape)?;
    let value = if ctx.has(1) { content::of(ctx, 1) } else { Some(vec![Dim::Known(0)]) };
    let n = match shape.as_slice() {
        [] => Some(1),
        [n] => n.extent().filter(|n| *n <= content::MOST),
        _ => None,
    };
    let content = value.zip(n).and_then(|(v, n)| Some(vec![v.first()?.clone(); n]));
    Ok(vec![typed(dtype, Some(shape)).with_content(content)])
}

/// Number of elements from `start` to `limit` in steps of `delta`, which is not zero.
pub(super) fn range_length(start: f64, limit: f64, delta: f64) -> i64 {
    ((limit - start) / delta).ceil().max(0.0) as i64
}
pub(super) fn range(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    let mut exact = Vec::new();
    for i in 0..3 {
        if ctx.dtype(i)? != dtype {
            return Err(format!(
                "start, limit and delta must be of one type, got {dtype} and {}",
                ctx.dtype(i)?
            ));
        }
        if let Some(tensor) = ctx.constant(i).filter(|t| t.dtype().is_float()) {
            exact.push(crate::op::elements::scalar_f64(tensor)?);
        }
    }
    if let [start, limit, delta] = exact[..] {
        if delta == 0.0 || !(start.is_finite() && limit.is_finite() && delta.is_finite()) {
            return Err(format!("there is no range from {start} to {limit} by {delta}"));
        }
        return Ok(vec![Fact::tensor(dtype, vec![Dim::Known(range_length(start, limit, delta))])]);
    }
    let one = |i: usize| content::of(ctx, i).filter(|c| c.len() == 1).map(|mut c| c.remove(0));
    let (Some(start), Some(limit), Some(delta)) = (one(0), one(1), one(2)) else {
        return Ok(vec![open(ctx, dtype, Some(1))]);
    };
    let Some(step) = delta.known() else { return Ok(vec![open(ctx, dtype, Some(1))]) };
    if step == 0 {
        return Err("delta is 0".into());
    }
    let span = if step > 0 { limit - start.clone() } else { start.clone() - limit };
    let span = if never_negative(&span) { span } else { span.larger(&Dim::Known(0)) };
    let length = span.ceil_div(&Dim::Known(step.checked_abs().ok_or("delta is out of range")?));
    let content = length
        .extent()
        .filter(|n| *n <= content::MOST)
        .map(|n| (0..n).map(|i| start.clone() + Dim::from(i) * delta.clone()).collect());
    Ok(vec![Fact::tensor(dtype, vec![length]).with_content(content)])
}
pub(super) fn eye_like(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.attrs().dtype("dtype").map_or_else(|| ctx.dtype(0), Ok)?;
    if !(dtype.is_float() || dtype.is_int() || dtype == DType::Bool) {
        return Err(format!("elements of type {dtype} are no numbers"));
    }
    match ctx.shape(0) {
        Some(shape) if shape.len() != 2 => Err(format!("takes a matrix, got {shape:?}")),
        shape => Ok(vec![typed(dtype, shape)]),
    }
}
pub(super) fn trilu(ctx: &Ctx<'_>) -> Facts {
    match ctx.shape(0) {
        Some(shape) if shape.len() < 2 => Err(format!("takes matrices, got {shape:?}")),
        shape => Ok(vec![typed(ctx.dtype(0)?, shape)]),
    }
}

/// Time and batch axis of ReverseSequence.
pub(super) fn sequence_axes(attrs: &crate::Attrs) -> Result<(usize, usize), String> {
    match (attrs.int_or("time_axis", 0), attrs.int_or("batch_axis", 1)) {
        (0, 1) => Ok((0, 1)),
        (1, 0) => Ok((1, 0)),
        (time, batch) => Err(format!("time_axis {time} and batch_axis {batch} must be 0 and 1 or 1 and 0")),
    }
}
pub(super) fn reverse_sequence(ctx: &Ctx<'_>) -> Facts {
    sequence_axes(ctx.attrs())?;
    match ctx.shape(0) {
        Some(shape) if shape.len() < 2 => Err(format!("takes at least two dimensions, got {shape:?}")),
        shape => Ok(vec![typed(ctx.dtype(0)?, shape)]),
    }
}
pub(super) fn center_crop_pad(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    let Some(mut shape) = ctx.shape(0) else { return Ok(vec![open(ctx, dtype, None)]) };
    let axes = match ctx.attrs().ints("axes") {
        Some(axes) => distinct_axes(axes, shape.len())?,
        None => (0..shape.len()).collect(),
    };
    match list(ctx, 1)? {
        None => axes.iter().for_each(|&d| shape[d] = ctx.unknown_dim(0, d)),
        Some(wanted) if wanted.len() != axes.len() => {
            return Err(format!("{} extents are given for {} dimensions", wanted.len(), axes.len()));
        }
        Some(wanted) => {
            not_negative(&wanted)?;
            axes.iter().zip(wanted).for_each(|(&d, extent)| shape[d] = extent);
        }
    }
    Ok(vec![typed(dtype, Some(shape))])
}
