//! Type rules of the indexing ops.

use crate::op::content;
use crate::op::context::normalize_axis;
use crate::op::rules::{equal, integer, of_type, ranked};
use crate::op::{Ctx, Fact};
use crate::{Dim, TensorType, Type};
use orrery_numerics::DType;

type Facts = Result<Vec<Fact>, String>;

pub(super) fn typed(dtype: DType, shape: Option<Vec<Dim>>) -> Fact {
    Fact::of(Type::Tensor(TensorType { dtype, shape }))
}
/// The axis attribute, of an operand that has a dimension.
pub(super) fn axis_of(ctx: &Ctx<'_>, default: i64, rank: usize) -> Result<usize, String> {
    let axis = ctx.attrs().int_or("axis", default);
    if rank == 0 {
        Err(format!("axis {axis} is out of range for a scalar"))
    } else {
        normalize_axis(axis, rank)
    }
}

pub(super) fn gather(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    integer(ctx, 1)?;
    let (Some(data), Some(indices)) = (ctx.shape(0), ctx.shape(1)) else {
        return Ok(vec![typed(dtype, None)]);
    };
    let axis = axis_of(ctx, 0, data.len())?;
    let shape = [&data[..axis], &indices, &data[axis + 1..]].concat();
    let content = content::of(ctx, 0).filter(|_| data.len() == 1).and_then(|all| {
        let n = all.len() as i64;
        let pick = |i: &Dim| {
            let i = i.known()?;
            all.get(usize::try_from(if i < 0 { i + n } else { i }).ok()?).cloned()
        };
        content::map(content::of(ctx, 1), pick)
    });
    Ok(vec![typed(dtype, Some(shape)).with_content(content)])
}
pub(super) fn gather_elements(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    integer(ctx, 1)?;
    if let (Some(data), Some(indices)) = (ctx.shape(0), ctx.shape(1)) {
        axis_of(ctx, 0, data.len())?;
        if data.len() != indices.len() {
            return Err(format!("data {data:?} and indices {indices:?} must be of one rank"));
        }
    }
    Ok(vec![typed(dtype, ctx.shape(1))])
}
/// Batch dimensions, and how many dimensions an index tuple selects, where known.
pub(super) fn tuples(ctx: &Ctx<'_>, batch: usize) -> Result<Option<usize>, String> {
    let (Some(data), Some(indices)) = (ctx.shape(0), ctx.shape(1)) else { return Ok(None) };
    let Some(last) = indices.last() else { return Err("indices must have a dimension".into()) };
    if batch >= indices.len() || batch > data.len() {
        return Err(format!("batch_dims {batch} is out of range for {data:?} and {indices:?}"));
    }
    for d in 0..batch {
        equal(&data[d], &indices[d], || format!("extents of batch dimension {d}"))?;
    }
    let Some(n) = last.extent() else { return Ok(None) };
    if n > data.len() - batch {
        return Err(format!("index tuples of {n} do not fit {data:?} with {batch} batch dimensions"));
    }
    Ok(Some(n))
}
pub(super) fn batch_dims(attrs: &crate::Attrs) -> Result<usize, String> {
    let batch = attrs.int_or("batch_dims", 0);
    usize::try_from(batch).map_err(|_| format!("batch_dims {batch} is negative"))
}
pub(super) fn gather_nd(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    integer(ctx, 1)?;
    let batch = batch_dims(ctx.attrs())?;
    let shape = tuples(ctx, batch)?
        .zip(ctx.shape(0))
        .zip(ctx.shape(1))
        .map(|((n, data), indices)| [&indices[..indices.len() - 1], &data[batch + n..]].concat());
    Ok(vec![typed(dtype, shape)])
}
pub(super) fn scatter_elements(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    integer(ctx, 1)?;
    of_type(ctx, [2], dtype)?;
    if let Some(data) = ctx.shape(0) {
        axis_of(ctx, 0, data.len())?;
        let indices = ranked(ctx, 1, data.len())?;
        if let (Some(indices), Some(updates)) = (indices, ranked(ctx, 2, data.len())?) {
            for (a, b) in indices.iter().zip(&updates) {
                equal(a, b, || "extents of indices and updates".into())?;
            }
        }
    }
    Ok(vec![typed(dtype, ctx.shape(0))])
}
pub(super) fn scatter_nd(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    integer(ctx, 1)?;
    of_type(ctx, [2], dtype)?;
    if let (Some(n), Some(data), Some(indices)) = (tuples(ctx, 0)?, ctx.shape(0), ctx.shape(1)) {
        let wanted = [&indices[..indices.len() - 1], &data[n..]].concat();
        if let Some(updates) = ranked(ctx, 2, wanted.len())? {
            for (a, b) in wanted.iter().zip(&updates) {
                equal(a, b, || {
                    format!("extents of updates {updates:?} and what indices select, {wanted:?},")
                })?;
            }
        }
    }
    Ok(vec![typed(dtype, ctx.shape(0))])
}
pub(super) fn one_hot(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(2)?;
    let Some(mut shape) = ctx.shape(0) else { return Ok(vec![typed(dtype, None)]) };
    let axis = axis_of(ctx, -1, shape.len() + 1)?;
    let depth = content::of(ctx, 1).and_then(|c| c.first().cloned());
    if let Some(n) = depth.as_ref().and_then(Dim::known).filter(|n| *n < 0) {
        return Err(format!("depth {n} is negative"));
    }
    shape.insert(axis, depth.unwrap_or_else(|| ctx.unknown_dim(0, axis)));
    Ok(vec![typed(dtype, Some(shape))])
}
pub(super) fn non_zero(ctx: &Ctx<'_>) -> Facts {
    ctx.tensor_type(0)?;
    let rank = ctx.rank(0).map_or_else(|| ctx.unknown_dim(0, 0), Dim::from);
    Ok(vec![Fact::tensor(DType::I64, vec![rank, ctx.unknown_dim(0, 1)])])
}
pub(super) fn top_k(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    let shape = match ctx.shape(0) {
        None => None,
        Some(mut shape) => {
            let axis = axis_of(ctx, -1, shape.len())?;
            let k = content::list(ctx, 1)?.and_then(|c| c.first().cloned());
            if let (Some(k), Some(n)) = (k.as_ref().and_then(Dim::known), shape[axis].known())
                && !(0..=n).contains(&k)
            {
                return Err(format!("k is {k}, but dimension {axis} has {n} elements"));
            }
            shape[axis] = k.unwrap_or_else(|| ctx.unknown_dim(0, axis));
            Some(shape)
        }
    };
    Ok(vec![typed(dtype, shape.clone()), typed(DType::I64, shape)])
}
pub(super) fn unique(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    let count = ctx.unknown_dim(0, 0);
    let (values, inverse) = match (ctx.shape(0), ctx.attrs().int("axis")) {
        (shape, None) => (
            Some(vec![count.clone()]),
            shape.map_or_else(|| ctx.unknown_dim(2, 0), |s| s.into_iter().product()),
        ),
        (None, Some(_)) => (None, ctx.unknown_dim(2, 0)),
        (Some(mut shape), Some(_)) => {
            let axis = axis_of(ctx, 0, shape.len())?;
            let inverse = std::mem::replace(&mut shape[axis], count.clone());
            (Some(shape), inverse)
        }
    };
    let list = |n: Dim| Fact::tensor(DType::I64, vec![n]);
    Ok(vec![typed(dtype, values), list(count.clone()), list(inverse), list(count)])
}
pub(super) fn compress(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    of_type(ctx, [1], DType::Bool)?;
    ranked(ctx, 1, 1)?;
    let shape = match (ctx.shape(0), ctx.attrs().int("axis")) {
        (_, None) => Some(vec![ctx.unknown_dim(0, 0)]),
        (None, Some(_)) => None,
        (Some(mut shape), Some(_)) => {
            let axis = axis_of(ctx, 0, shape.len())?;
            shape[axis] = ctx.unknown_dim(0, axis);
            Some(shape)
        }
    };
    Ok(vec![typed(dtype, shape)])
}
pub(super) fn non_max_suppression(ctx: &Ctx<'_>) -> Facts {
    let (boxes, scores) = (ranked(ctx, 0, 3)?, ranked(ctx, 1, 3)?);
    if let (Some(boxes), Some(scores)) = (boxes, scores) {
        equal(&boxes[0], &scores[0], || "batches of boxes and scores".into())?;
        equal(&boxes[1], &scores[2], || "numbers of boxes and of their scores".into())?;
        equal(&boxes[2], &Dim::Known(4), || "the numbers that make a box and 4".into())?;
    }
    Ok(vec![Fact::tensor(DType::I64, vec![ctx.unknown_dim(0, 0), Dim::Known(3)])])
}
pub(super) fn tensor_scatter(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    of_type(ctx, [1], dtype)?;
    if let Some(cache) = ctx.shape(0) {
        let axis = axis_of(ctx, -2, cache.len())?;
        if axis == 0 {
            return Err("axis must not be the batch dimension".into());
        }
        if let Some(update) = ranked(ctx, 1, cache.len())? {
            for d in (0..cache.len()).filter(|d| *d != axis) {
                equal(&cache[d], &update[d], || format!("extents of dimension {d} of cache and update"))?;
            }
        }
        if let Some(indices) = ranked(ctx, 2, 1)? {
            equal(&cache[0], &indices[0], || "the batch and the number of write indices".into())?;
        }
    }
    Ok(vec![typed(dtype, ctx.shape(0))])
}
