//! Normalisation of each channel over a batch.

use super::super::elements::{Float, by_float};
use super::super::space::parallel;
use super::super::{Access, Ctx, Datum, EvalCtx, Fact, IterSpace, Work, rules};
use super::{Moments, apply};
use crate::{Attrs, Dim};

pub(super) fn batch_infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    rules::float(ctx, 0)?;
    for i in 1..5 {
        rules::float(ctx, i)?;
    }
    let channels = ctx.shape(0).map(|shape| shape.get(1).cloned().unwrap_or(Dim::Known(1)));
    if let Some(channels) = &channels {
        for i in 1..5 {
            rules::has_shape(ctx, i, std::slice::from_ref(channels))?;
        }
    }
    if ctx.output_count() > 1 && !ctx.attrs().flag("training_mode") {
        return Err("running mean and variance are given only with `training_mode`".into());
    }
    let channels = channels.unwrap_or_else(|| ctx.unknown_dim(1, 0));
    let running = |i| Ok::<_, String>(Fact::tensor(ctx.dtype(i)?, vec![channels.clone()]));
    Ok(vec![Fact::of(ctx.fact(0).ok_or("input 0 is missing")?.ty.clone()), running(3)?, running(4)?])
}

/// With given statistics, a product and a sum for each element with a factor and a shift for each channel. In training,
/// mean and variance besides.
pub(super) fn batch_work(ctx: &Ctx<'_>) -> Work {
    let channels = ctx.input_elements(1);
    let (each, own) = if ctx.attrs().flag("training_mode") { (6, 9) } else { (2, 3) };
    Work::vector(ctx.input_elements(0) * Dim::Known(each) + channels.clone() * Dim::Known(own), channels)
}

pub(super) fn batch_space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let shape = ctx.shape(0)?;
    if shape.len() < 2 {
        return None;
    }
    let training = ctx.attrs().flag("training_mode");
    let (mut axes, mut image) = (Vec::new(), Vec::new());
    let mut channel = Access::Whole;
    for (d, extent) in shape.iter().enumerate() {
        if training && d != 1 {
            image.push(Access::Whole);
            continue;
        }
        image.push(Access::along(axes.len()));
        if d == 1 {
            channel = Access::along(axes.len());
        }
        axes.push(parallel(["n", "channel", "spatial"][d.min(2)], extent.clone()));
    }
    let mut outputs = vec![image.clone()];
    outputs.resize(ctx.output_count(), vec![channel.clone()]);
    let mut inputs = vec![image];
    inputs.resize(5, vec![channel]);
    Some(IterSpace { axes, inputs, outputs, part_attrs: Attrs::new(), padding: 0.0 })
}

pub(super) fn batch(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let types = rules::check(ctx)?;
    let (dtype, shape) = types[0].clone();
    let epsilon = ctx.attrs().float_or("epsilon", 1e-5);
    let channel_at = 1;
    let mut steps = vec![0; shape.len()];
    if let Some(step) = steps.get_mut(channel_at) {
        *step = 1;
    }
    by_float!(dtype, T => {
        let read = |i: usize| T::read(ctx.tensor(i)?);
        let (x, scale, bias, mean, variance) = (read(0)?, read(1)?, read(2)?, read(3)?, read(4)?);
        let training = ctx.attrs().flag("training_mode");
        let moments = if training {
            let reduced: Vec<bool> = (0..shape.len()).map(|d| d != channel_at).collect();
            let moments = Moments::<T>::new(&x, &shape, &reduced, true);
            Moments { steps: steps.clone(), ..moments }
        } else {
            Moments { mean: mean.to_vec(), variance: variance.to_vec(), steps: steps.clone() }
        };
        let factor = moments.inverse_deviation(epsilon);
        let y = apply::<T>(
            &x,
            &shape,
            (&moments.mean, &factor, &moments.steps),
            (&scale, &steps),
            Some((&bias, &steps)),
        );
        let mut out: Vec<Datum> = vec![T::tensor(dtype, shape, y).into()];
        if training {
            let momentum = ctx.attrs().float_or("momentum", 0.9);
            let (old_share, new_share) = (T::from_f64(momentum), T::from_f64(1.0 - momentum));
            for (old, new, ty) in
                [(&mean, &moments.mean, &types[1]), (&variance, &moments.variance, &types[2])]
            {
                let moved = old.iter().zip(new).map(|(&o, &n)| o * old_share + n * new_share).collect();
                out.push(T::tensor(ty.0, ty.1.clone(), moved).into());
            }
        }
        Ok(out)
    })
}
