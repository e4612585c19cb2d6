//! Gradient rules of normalizations.

use super::moments::{batch_moments, both, spread, wide};
use super::{layer_axis, mean_axes, reduced};
use crate::gradient::Backward;
use crate::op::{Op, context};
use crate::{Attrs, ValueId};
use orrery_base::Result;

fn epsilon(b: &Backward<'_>) -> f64 {
    b.attrs().float_or("epsilon", 1e-5)
}
/// A value in the type of input `i`, as its gradient.
fn give_as(b: &mut Backward<'_>, i: usize, value: ValueId) -> Result<()> {
    let dtype = b.dtype(b.x(i)?);
    let value = b.cast(value, dtype)?;
    b.give(i, value);
    Ok(())
}

/// With given statistics, Y = (X - mean) factor + B with factor = scale / deviation. With those of the batch, mean and
/// variance pass on what they get to X; the running ones are taken as fixed.
pub(super) fn batch(b: &mut Backward<'_>) -> Result<()> {
    let (x, scale, dy) = (b.x(0)?, b.x(1)?, b.dy0()?);
    let training = b.attrs().flag("training_mode");
    if b.dy(1).is_some() || b.dy(2).is_some() {
        return Err(b.fails("there is no gradient rule for the running mean and variance".into()));
    }
    let dtype = wide(b.dtype(x));
    let (mean, variance) = (b.x(3)?, b.x(4)?);
    let [mean, variance] =
        if training { batch_moments(b, x, mean)? } else { [b.cast(mean, dtype)?, b.cast(variance, dtype)?] };
    let sums = b.op(Op::ChannelMoments, &[x, mean, dy], Attrs::new())?;
    let [sum, product] = both(b, sums)?;
    let least = epsilon(b);
    let safe = b.plus(variance, least)?;
    let deviation = b.unary(Op::Sqrt, safe)?;
    let scale = b.cast(scale, dtype)?;
    let factor = b.div(scale, deviation)?;
    // What one distance from the mean costs the variance.
    let slope = b.div(product, safe)?;
    let slope = b.mul(slope, factor)?;
    let lost = b.mul(sum, factor)?;
    if b.wants(0) {
        let each = spread(b, factor, x)?;
        let mut dx = b.mul(dy, each)?;
        if training {
            let shape = b.shape(x)?;
            let share = -(shape[1].max(1) as f64) / shape.iter().product::<i64>().max(1) as f64;
            let (lost, slope) = (b.scale(lost, share)?, b.scale(slope, share)?);
            let (lost, slope, mean) = (spread(b, lost, x)?, spread(b, slope, x)?, spread(b, mean, x)?);
            let distance = b.sub(x, mean)?;
            let turned = b.mul(distance, slope)?;
            dx = b.op(Op::Sum, &[dx, turned, lost], Attrs::new())?;
        }
        b.give(0, dx);
    }
    if b.wants(1) {
        let dscale = b.div(product, deviation)?;
        give_as(b, 1, dscale)?;
    }
    if b.wants(2) {
        give_as(b, 2, sum)?;
    }
    if b.wants(3) && !training {
        let dmean = b.unary(Op::Neg, lost)?;
        give_as(b, 3, dmean)?;
    }
    if b.wants(4) && !training {
        let dvariance = b.scale(slope, -0.5)?;
        give_as(b, 4, dvariance)?;
    }
    Ok(())
}

/// Of one that is centred or not: the rows' gradients, and the sums over rows of those of scale and bias.
fn layer(b: &mut Backward<'_>, [to_x, to_scale]: [Op; 2], centred: bool) -> Result<()> {
    let (x, scale, dy) = (b.x(0)?, b.x(1)?, b.dy0()?);
    if b.dy(1).is_some() || b.dy(2).is_some() {
        return Err(b.fails("there is no gradient rule for mean and deviation as outputs".into()));
    }
    let axis = b.known(layer_axis)? as i64;
    let attrs = Attrs::new().with("axis", axis).with("epsilon", epsilon(b));
    if b.wants(0) {
        let dx = b.op(to_x, &[x, scale, dy], attrs.clone())?;
        b.give(0, dx);
    }
    if b.wants(1) || b.wants(2) {
        let sums = b.op(to_scale, &[x, dy], attrs)?;
        let sums = if centred { both(b, sums)?.to_vec() } else { vec![sums] };
        for (i, sum) in (1..).zip(sums).filter(|(i, _)| b.wants(*i)).collect::<Vec<_>>() {
            let shape = b.shape(b.x(i)?)?;
            let sum = b.sum_to(sum, &shape)?;
            give_as(b, i, sum)?;
        }
    }
    Ok(())
}
pub(super) fn layer_norm(b: &mut Backward<'_>) -> Result<()> {
    layer(b, [Op::LayerNormalizationGrad, Op::LayerNormalizationScaleGrad], true)
}
pub(super) fn rms_norm(b: &mut Backward<'_>) -> Result<()> {
    layer(b, [Op::RMSNormalizationGrad, Op::RMSNormalizationScaleGrad], false)
}

/// Groups of channels of an instance are rows of a layer normalization without a scale.
fn grouped(b: &mut Backward<'_>, groups: i64) -> Result<()> {
    let (x, scale, dy) = (b.x(0)?, b.x(1)?, b.dy0()?);
    let shape = b.shape(x)?;
    let rows = [shape[0], groups, shape[1..].iter().product::<i64>() / groups.max(1)];
    let apart = b.reshape(x, &rows)?;
    let one = b.scalar_like(x, 1.0);
    let attrs = Attrs::new().with("axis", 2).with("epsilon", epsilon(b));
    if b.wants(0) {
        let each = spread(b, scale, x)?;
        let scaled = b.mul(dy, each)?;
        let scaled = b.reshape(scaled, &rows)?;
        let dx = b.op(Op::LayerNormalizationGrad, &[apart, one, scaled], attrs.clone())?;
        let dx = b.reshape(dx, &shape)?;
        b.give(0, dx);
    }
    let others: Vec<i64> = (0..shape.len() as i64).filter(|d| *d != 1).collect();
    if b.wants(1) {
        let normal = b.op(Op::LayerNormalization, &[apart, one], attrs)?;
        let normal = b.reshape(normal, &shape)?;
        let product = b.mul(dy, normal)?;
        let dscale = b.sum(product, &others, false)?;
        b.give(1, dscale);
    }
    if b.wants(2) {
        let dbias = b.sum(dy, &others, false)?;
        b.give(2, dbias);
    }
    Ok(())
}
pub(super) fn instance(b: &mut Backward<'_>) -> Result<()> {
    let channels = b.shape(b.x(0)?)?[1];
    grouped(b, channels)
}
pub(super) fn group(b: &mut Backward<'_>) -> Result<()> {
    let channels = b.shape(b.x(0)?)?[1];
    let groups = match b.attrs().int("channels_per_group") {
        Some(own) => channels / own.max(1),
        None => b.attrs().int_or("num_groups", 1),
    };
    grouped(b, groups)
}

fn mean_of(b: &mut Backward<'_>, x: ValueId, axes: &[i64]) -> Result<ValueId> {
    let axes = b.ints(axes);
    b.op(Op::ReduceMean, &[x, axes], Attrs::new())
}
/// With D the distances from the mean, S their deviation and E = S + 1e-9: dY / E less D mean(dY D) / (S E²), less the mean
/// of it.
pub(super) fn mean_variance(b: &mut Backward<'_>) -> Result<()> {
    let (x, dy) = (b.x(0)?, b.dy0()?);
    let rank = b.rank(x)?;
    let flags = b.known(|ctx| reduced(&mean_axes(ctx.attrs()), rank))?;
    let axes: Vec<i64> = (0..).zip(flags).filter(|(_, gone)| *gone).map(|(d, _)| d).collect();
    if axes.is_empty() {
        return Err(b.fails("there is no gradient rule where nothing is taken together".into()));
    }
    let mean = mean_of(b, x, &axes)?;
    let distance = b.sub(x, mean)?;
    let square = b.mul(distance, distance)?;
    let variance = mean_of(b, square, &axes)?;
    let deviation = b.unary(Op::Sqrt, variance)?;
    let safe = b.plus(deviation, 1e-9)?;
    let product = b.mul(dy, distance)?;
    let product = mean_of(b, product, &axes)?;
    let below = b.mul(safe, safe)?;
    let below = b.mul(below, deviation)?;
    let slope = b.div(product, below)?;
    let first = b.div(dy, safe)?;
    let second = b.mul(distance, slope)?;
    let centred = b.sub(first, second)?;
    let mean = mean_of(b, centred, &axes)?;
    let dx = b.sub(centred, mean)?;
    b.give(0, dx);
    Ok(())
}

/// With the norm N: (dY - U sum(dY Y)) / N, where U is Y for the root of squares and the sign of X for magnitudes.
pub(super) fn lp(b: &mut Backward<'_>) -> Result<()> {
    let (x, y, dy) = (b.x(0)?, b.y(0)?, b.dy0()?);
    let rank = b.rank(x)?;
    let axis = b.known(|ctx| context::normalize_axis(ctx.attrs().int_or("axis", -1), rank))? as i64;
    let squared = b.attrs().int_or("p", 2) == 2;
    let axes = b.ints(&[axis]);
    let norm = b.op(if squared { Op::ReduceL2 } else { Op::ReduceL1 }, &[x, axes], Attrs::new())?;
    let product = b.mul(dy, y)?;
    let sum = b.sum(product, &[axis], true)?;
    let unit = if squared { y } else { b.unary(Op::Sign, x)? };
    let part = b.mul(unit, sum)?;
    let difference = b.sub(dy, part)?;
    let dx = b.div(difference, norm)?;
    b.give(0, dx);
    Ok(())
}

/// Sums over windows of channels: `before` of them before each, `behind` behind it.
fn windows(b: &mut Backward<'_>, x: ValueId, [before, behind]: [i64; 2]) -> Result<ValueId> {
    let shape = b.shape(x)?;
    let mut pads = vec![0; 2 * shape.len()];
    (pads[1], pads[shape.len() + 1]) = (before, behind);
    let pads = b.ints(&pads);
    let padded = b.op(Op::Pad, &[x, pads], Attrs::new())?;
    let axis = b.ints(&[1]);
    let mut parts = Vec::new();
    for at in 0..=before + behind {
        let (start, end) = (b.ints(&[at]), b.ints(&[at + shape[1]]));
        parts.push(b.op(Op::Slice, &[padded, start, end, axis], Attrs::new())?);
    }
    b.op(Op::Sum, &parts, Attrs::new())
}
/// With D = bias + alpha / size W(X²), W the sums over windows: dY D^-beta less 2 alpha beta / size X times the sums of
/// dY Y / D over the windows that X is in.
pub(super) fn lrn(b: &mut Backward<'_>) -> Result<()> {
    let (x, y, dy) = (b.x(0)?, b.y(0)?, b.dy0()?);
    let (alpha, beta) = (b.attrs().float_or("alpha", 1e-4), b.attrs().float_or("beta", 0.75));
    let (bias, size) = (b.attrs().float_or("bias", 1.0), b.attrs().int_or("size", 1));
    // Windows are not wider than all channels on either side.
    let most = b.shape(x)?[1];
    let [before, behind] = [(size - 1) / 2, size / 2].map(|n| n.min(most));
    let share = alpha / size as f64;
    let square = b.mul(x, x)?;
    let sums = windows(b, square, [before, behind])?;
    let sums = b.scale(sums, share)?;
    let below = b.plus(sums, bias)?;
    let power = b.scalar_like(x, -beta);
    let power = b.op(Op::Pow, &[below, power], Attrs::new())?;
    let first = b.mul(dy, power)?;
    let product = b.mul(dy, y)?;
    let quotient = b.div(product, below)?;
    let back = windows(b, quotient, [behind, before])?;
    let back = b.scale(back, 2.0 * beta * share)?;
    let second = b.mul(x, back)?;
    let dx = b.sub(first, second)?;
    b.give(0, dx);
    Ok(())
}
