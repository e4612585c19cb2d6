//! Type rules of the reductions.

use crate::op::content;
use crate::op::context::normalize_axis;
use crate::op::rules::{float, integer, real};
use crate::op::{Ctx, Fact};
use crate::{Attrs, Dim, TensorType, Type};
use orrery_numerics::DType;

type Facts = Result<Vec<Fact>, String>;

fn typed(dtype: DType, shape: Option<Vec<Dim>>) -> Fact {
    Fact::of(Type::Tensor(TensorType { dtype, shape }))
}

/// Which dimensions are reduced: those given, or all where none are and that is not to mean none.
pub(super) fn axes(given: &[i64], noop: bool, rank: usize) -> Result<Vec<bool>, String> {
    let mut reduced = vec![given.is_empty() && !noop; rank];
    for &axis in given {
        let d = if rank == 0 { None } else { Some(normalize_axis(axis, rank)?) };
        *d.and_then(|d| reduced.get_mut(d))
            .ok_or_else(|| format!("axis {axis} is out of range for a scalar"))? = true;
    }
    Ok(reduced)
}
/// As [`axes`], before running; none where they or the rank are not known.
pub(super) fn known_axes(ctx: &Ctx<'_>) -> Result<Option<Vec<bool>>, String> {
    let given = if ctx.has(1) { content::numbers(ctx, 1)? } else { Some(Vec::new()) };
    let (Some(given), Some(rank)) = (given, ctx.rank(0)) else { return Ok(None) };
    axes(&given, ctx.attrs().flag("noop_with_empty_axes"), rank).map(Some)
}
pub(super) fn keeps_dims(attrs: &Attrs) -> bool {
    attrs.int_or("keepdims", 1) != 0
}
fn without(shape: &[Dim], reduced: &[bool], keep: bool) -> Vec<Dim> {
    let each = shape.iter().zip(reduced);
    each.filter(|(_, gone)| keep || !**gone)
        .map(|(n, gone)| if *gone { Dim::Known(1) } else { n.clone() })
        .collect()
}

/// Reduced dimensions become 1 or go; content is folded where there is a function for it.
pub(super) fn reduce(ctx: &Ctx<'_>, bools: bool, combine: Option<fn(&Dim, &Dim) -> Dim>) -> Facts {
    let dtype = ctx.dtype(0)?;
    if !(bools && dtype == DType::Bool) {
        real(ctx, 0)?;
    }
    let keep = keeps_dims(ctx.attrs());
    let (Some(shape), Some(reduced)) = (ctx.shape(0), known_axes(ctx)?) else {
        let open = ctx.rank(0).filter(|_| keep);
        return Ok(vec![typed(dtype, open.map(|rank| (0..rank).map(|d| ctx.unknown_dim(0, d)).collect()))]);
    };
    let content = content::of(ctx, 0).zip(combine).and_then(|(all, combine)| match reduced.as_slice() {
        [true] => {
            let (first, rest) = all.split_first()?;
            rest.iter().try_fold(first.clone(), |a, b| content::exact(combine(&a, b))).map(|d| vec![d])
        }
        _ => None,
    });
    Ok(vec![
        typed(dtype, Some(without(&shape, &reduced, keep))).with_content(content::fitting(dtype, content)),
    ])
}
/// The axis attribute; a scalar has none.
pub(super) fn axis_of(attrs: &Attrs, default: i64, rank: usize) -> Result<usize, String> {
    normalize_axis(attrs.int_or("axis", default), rank)
}
pub(super) fn arg(ctx: &Ctx<'_>) -> Facts {
    real(ctx, 0)?;
    let Some(shape) = ctx.shape(0) else { return Ok(vec![typed(DType::I64, None)]) };
    let axis = axis_of(ctx.attrs(), 0, shape.len())?;
    let reduced: Vec<bool> = (0..shape.len()).map(|d| d == axis).collect();
    Ok(vec![typed(DType::I64, Some(without(&shape, &reduced, keeps_dims(ctx.attrs()))))])
}
/// The axis of a running result, which is an input.
pub(super) fn scan_axis(axis: i64, rank: usize) -> Result<usize, String> {
    normalize_axis(axis, rank)
}
pub(super) fn scan(ctx: &Ctx<'_>) -> Facts {
    real(ctx, 0)?;
    integer(ctx, 1)?;
    if let (Some(axis), Some(rank)) = (content::of(ctx, 1).and_then(|c| c.first()?.known()), ctx.rank(0)) {
        scan_axis(axis, rank)?;
    }
    Ok(vec![typed(ctx.dtype(0)?, ctx.shape(0))])
}
pub(super) fn lanes(ctx: &Ctx<'_>) -> Facts {
    float(ctx, 0)?;
    if let Some(rank) = ctx.rank(0) {
        axis_of(ctx.attrs(), -1, rank)?;
    }
    Ok(vec![typed(ctx.dtype(0)?, ctx.shape(0))])
}
