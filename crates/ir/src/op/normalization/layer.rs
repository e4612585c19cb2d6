//! Normalisation of rows: the last dimensions of a tensor.

use super::super::elements::{Float, broadcast_strides, by_float};
use super::super::space::{broadcast_access, parallel};
use super::super::{Access, Ctx, Datum, EvalCtx, Fact, IterSpace, context, rules};
use super::{Moments, apply};
use crate::{Attrs, Dim};
use orrery_numerics::{DType, Tensor};

pub(super) fn layer_axis(ctx: &Ctx<'_>) -> Result<usize, String> {
    match ctx.rank(0) {
        Some(0) => Err("a scalar has no dimension to normalise over".into()),
        Some(rank) => context::normalize_axis(ctx.attrs().int_or("axis", -1), rank),
        None => Ok(0),
    }
}

pub(super) fn layer_infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let dtype = rules::float(ctx, 0)?;
    rules::float(ctx, 1)?;
    let stash = ctx.attrs().dtype("stash_type").unwrap_or(DType::F32);
    if !stash.is_float() {
        return Err(format!("attribute `stash_type` must be a floating-point type, is {stash}"));
    }
    let Some(shape) = ctx.shape(0) else {
        return Ok(vec![Fact::unranked(dtype), Fact::unranked(stash), Fact::unranked(stash)]);
    };
    let axis = layer_axis(ctx)?;
    for i in 1..ctx.input_count() {
        if let Some(parameter) = ctx.shape(i) {
            let fits = parameter.len() <= shape.len()
                && parameter
                    .iter()
                    .zip(&shape[shape.len() - parameter.len()..])
                    .all(|(p, n)| p.is(1) || rules::equal(p, n, String::new).is_ok());
            if !fits {
                return Err(format!(
                    "input `{}` of shape {} does not broadcast to the input's shape {}",
                    rules::input_name(ctx, i),
                    rules::shape_text(&parameter),
                    rules::shape_text(&shape)
                ));
            }
        }
    }
    let kept = shape.iter().enumerate().map(|(d, n)| if d < axis { n.clone() } else { Dim::Known(1) });
    let kept = Fact::tensor(stash, kept.collect());
    Ok(vec![Fact::tensor(dtype, shape), kept.clone(), kept])
}

pub(super) fn layer_space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let shape = ctx.shape(0)?;
    let axis = layer_axis(ctx).ok()?;
    let hold = |mut access: Vec<Access>| {
        for a in &mut access {
            if a.axis().is_some_and(|i| i >= axis) {
                *a = Access::Whole;
            }
        }
        access
    };
    let row = hold((0..shape.len()).map(Access::along).collect());
    let mut inputs = vec![row.clone()];
    for i in 1..ctx.input_count() {
        inputs.push(match ctx.shape(i) {
            Some(parameter) => hold(broadcast_access(&parameter, &shape)),
            None if ctx.has(i) => return None,
            None => Vec::new(),
        });
    }
    Some(IterSpace {
        axes: shape[..axis].iter().map(|extent| parallel("row", extent.clone())).collect(),
        inputs,
        outputs: vec![row; ctx.output_count()],
        part_attrs: Attrs::new(),
        padding: 0.0,
    })
}

pub(super) fn layer(ctx: &EvalCtx<'_>, centred: bool) -> Result<Vec<Datum>, String> {
    let types = rules::check(ctx)?;
    let (dtype, shape) = types[0].clone();
    let axis = context::normalize_axis(ctx.attrs().int_or("axis", -1), shape.len())?;
    let reduced: Vec<bool> = (0..shape.len()).map(|d| d >= axis).collect();
    let steps = |tensor: &Tensor| broadcast_strides(tensor.shape(), &shape);
    Ok(by_float!(dtype, T => {
        let (x, scale) = (T::read(ctx.tensor(0)?)?, T::read(ctx.tensor(1)?)?);
        let moments = Moments::<T>::new(&x, &shape, &reduced, centred);
        let factor = moments.inverse_deviation(ctx.attrs().float_or("epsilon", 1e-5));
        let bias = ctx.optional(2)?.map(|b| Ok::<_, String>((T::read(b)?, steps(b)))).transpose()?;
        let y = apply::<T>(
            &x,
            &shape,
            (&moments.mean, &factor, &moments.steps),
            (&scale, &steps(ctx.tensor(1)?)),
            bias.as_ref().map(|(b, s)| (&b[..], &s[..])),
        );
        let kept = types[1].clone();
        vec![
            T::tensor(dtype, shape.clone(), y).into(),
            T::tensor(kept.0, kept.1.clone(), moments.mean).into(),
            T::tensor(kept.0, kept.1, factor).into(),
        ]
    }))
}
