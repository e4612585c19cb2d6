//! Normalisation of rows: the last dimensions of a tensor.

use super::super::elements::{Float, Loops, broadcast_strides, by_float, strides};
use super::super::space::{broadcast_access, parallel, reduced as summed};
use super::super::{Access, Combine, Ctx, Datum, EvalCtx, Fact, IterSpace, Work, context, rules};
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

/// Type rule of the gradient of the input: as the input, which the last operand is too.
pub(super) fn grad_infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let mut facts = layer_infer(ctx)?;
    facts.truncate(1);
    same_as_input(ctx, 2)?;
    Ok(facts)
}
fn same_as_input(ctx: &Ctx<'_>, i: usize) -> Result<(), String> {
    rules::of_type(ctx, [i], ctx.dtype(0)?)?;
    ctx.shape(0).map_or(Ok(()), |shape| rules::has_shape(ctx, i, &shape))
}

/// Statistics, distance from the mean and its quotient; times the scale; sums; the rest of the formula.
pub(super) fn grad_work(ctx: &Ctx<'_>, centred: bool) -> Work {
    let rows = super::rows(ctx, layer_axis(ctx).unwrap_or(0)).unwrap_or(Dim::Known(0));
    Work::vector(ctx.input_elements(0) * Dim::Known(if centred { 14 } else { 9 }), rows)
}

/// With N the normalised elements and G = dY scale: (G - mean(G) - N mean(N G)) / deviation, without the mean of G unless
/// `centred`.
pub(super) fn grad(ctx: &EvalCtx<'_>, centred: bool) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let axis = context::normalize_axis(ctx.attrs().int_or("axis", -1), shape.len())?;
    let reduced: Vec<bool> = (0..shape.len()).map(|d| d >= axis).collect();
    let count: usize = shape[axis..].iter().product();
    let scale_steps = broadcast_strides(ctx.tensor(1)?.shape(), &shape);
    Ok(vec![
        by_float!(dtype, T => {
            let (x, scale, dy) = (T::read(ctx.tensor(0)?)?, T::read(ctx.tensor(1)?)?, T::read(ctx.tensor(2)?)?);
            let moments = Moments::<T>::new(&x, &shape, &reduced, centred);
            let factor = moments.inverse_deviation(ctx.attrs().float_or("epsilon", 1e-5));
            let loops = Loops::new(&shape, [&strides(&shape), &moments.steps, &scale_steps]);
            let normal = |at: isize, k: isize| (x[at as usize] - moments.mean[k as usize]) * factor[k as usize];
            let (mut sums, mut products) = (vec![T::ZERO; factor.len()], vec![T::ZERO; factor.len()]);
            loops.each(|[at, k, s]| {
                let scaled = dy[at as usize] * scale[s as usize];
                if centred {
                    sums[k as usize] += scaled;
                }
                products[k as usize] += scaled * normal(at, k);
            });
            let share = T::ONE / T::from_f64(count as f64);
            let mut dx = vec![T::ZERO; x.len()];
            loops.each(|[at, k, s]| {
                let lost = (sums[k as usize] + normal(at, k) * products[k as usize]) * share;
                dx[at as usize] = (dy[at as usize] * scale[s as usize] - lost) * factor[k as usize];
            });
            T::tensor(dtype, shape, dx)
        })
        .into(),
    ])
}

/// Type rule of the gradient of the scale, of the shape of a row; where `centred`, that of the bias stands behind it.
pub(super) fn scale_grad_infer(ctx: &Ctx<'_>, centred: bool) -> Result<Vec<Fact>, String> {
    let dtype = rules::float(ctx, 0)?;
    same_as_input(ctx, 1)?;
    let axis = layer_axis(ctx)?;
    let both: &[Dim] = if centred { &[Dim::Known(2)] } else { &[] };
    Ok(vec![match ctx.shape(0) {
        Some(shape) => Fact::tensor(dtype, [both, &shape[axis..]].concat()),
        None => Fact::unranked(dtype),
    }])
}

/// Statistics, distance from the mean and its quotient; product and sums.
pub(super) fn scale_grad_work(ctx: &Ctx<'_>, centred: bool) -> Work {
    let rows = super::rows(ctx, layer_axis(ctx).unwrap_or(0)).unwrap_or(Dim::Known(0));
    Work::vector(ctx.input_elements(0) * Dim::Known(if centred { 9 } else { 5 }), rows)
}

/// Parts of the rows make partial sums; a row stays whole, for its statistics.
pub(super) fn scale_grad_space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let shape = ctx.shape(0)?;
    let axis = layer_axis(ctx).ok()?;
    let access = |d| if d < axis { Access::along(d) } else { Access::Whole };
    let rows: Vec<Access> = (0..shape.len()).map(access).collect();
    Some(IterSpace {
        axes: shape[..axis].iter().map(|extent| summed("row", extent.clone(), Combine::Sum)).collect(),
        inputs: vec![rows.clone(), rows],
        outputs: vec![vec![Access::Whole; ctx.output_shape(0)?.len()]],
        part_attrs: Attrs::new(),
        padding: 0.0,
    })
}

pub(super) fn scale_grad(ctx: &EvalCtx<'_>, centred: bool) -> Result<Vec<Datum>, String> {
    let (dtype, out) = rules::check_one(ctx)?;
    let row = &out[usize::from(centred)..];
    let shape = ctx.tensor(0)?.shape();
    let axis = shape.len() - row.len();
    let reduced: Vec<bool> = (0..shape.len()).map(|d| d >= axis).collect();
    let row_steps = broadcast_strides(row, shape);
    let length: usize = row.iter().product();
    Ok(vec![
        by_float!(dtype, T => {
            let (x, dy) = (T::read(ctx.tensor(0)?)?, T::read(ctx.tensor(1)?)?);
            let moments = Moments::<T>::new(&x, shape, &reduced, centred);
            let factor = moments.inverse_deviation(ctx.attrs().float_or("epsilon", 1e-5));
            let mut sums = vec![T::ZERO; out.iter().product()];
            Loops::new(shape, [&strides(shape), &moments.steps, &row_steps]).each(|[at, k, r]| {
                let normal = (x[at as usize] - moments.mean[k as usize]) * factor[k as usize];
                sums[r as usize] += dy[at as usize] * normal;
                if centred {
                    sums[length + r as usize] += dy[at as usize];
                }
            });
            T::tensor(dtype, out, sums)
        })
        .into(),
    ])
}
