//! Ops of the family `normalization`: elements less a mean, over a deviation, times a scale, plus a bias; what differs
//! is over which elements mean and deviation are taken.
//!
//! Statistics are taken in the type that elements are computed in, in two passes: the mean first, then the mean of the
//! squared distances from it.

mod batch;
mod gradient;
mod layer;
mod moments;

use super::elements::{Float, Loops, broadcast_strides, by_float, strides};
use super::space::parallel;
use super::{
    Access, AttrDef, Class, Ctx, Datum, EvalCtx, Fact, IterSpace, Op, OpDef, Port, Work, context, opt, req,
    rules,
};
use crate::{AttrKind, Attrs, Dim};
use batch::{batch, batch_infer, batch_space, batch_work};
use layer::{layer, layer_axis, layer_infer, layer_space};
pub use moments::batch_moments;

const EPSILON: AttrDef =
    opt("epsilon", AttrKind::Float, "Added to the variance, against division by zero; 1e-5.");
const STASH_TYPE: AttrDef =
    opt("stash_type", AttrKind::DType, "Type of mean and deviation; f32. f64 is always computed in f64.");
const AXIS: AttrDef = opt(
    "axis",
    AttrKind::Int,
    "First of the dimensions normalised over, counted from the end where negative; -1.",
);
const LAYER_PORTS: &[Port] = &[Port::One("X"), Port::One("Scale"), Port::Optional("B")];

type Infer = fn(&Ctx<'_>) -> Result<Vec<Fact>, String>;
type Count = fn(&Ctx<'_>) -> Work;
type Eval = fn(&EvalCtx<'_>) -> Result<Vec<Datum>, String>;

const fn layer_grad(op: Op, doc: &'static str, work: Count, eval: Eval) -> OpDef {
    OpDef {
        inputs: &[Port::One("X"), Port::One("Scale"), Port::One("dY")],
        outputs: &[Port::One("dX")],
        attrs: &[AXIS, EPSILON],
        class: Class::Rounding,
        infer: layer::grad_infer,
        work,
        space: layer_space,
        eval,
        ..OpDef::new(op, doc)
    }
}
const fn scale_grad(op: Op, doc: &'static str, infer: Infer, work: Count, eval: Eval) -> OpDef {
    OpDef {
        inputs: &[Port::One("X"), Port::One("dY")],
        outputs: &[Port::One("dScale")],
        attrs: &[AXIS, EPSILON],
        class: Class::Rounding,
        infer,
        work,
        space: layer::scale_grad_space,
        eval,
        ..OpDef::new(op, doc)
    }
}

/// The entries.
pub const TABLE: &[OpDef] = &[
    OpDef {
        inputs: &[
            Port::One("X"),
            Port::One("scale"),
            Port::One("B"),
            Port::One("input_mean"),
            Port::One("input_var"),
        ],
        outputs: &[Port::One("Y"), Port::Optional("running_mean"), Port::Optional("running_var")],
        attrs: &[
            EPSILON,
            opt(
                "momentum",
                AttrKind::Float,
                "Share of the old running mean and variance in the new ones; 0.9.",
            ),
            opt("training_mode", AttrKind::Int, "1: mean and variance are those of this batch; 0."),
        ],
        class: Class::Rounding,
        infer: batch_infer,
        work: batch_work,
        space: batch_space,
        eval: batch,
        ..OpDef::new(
            Op::BatchNormalization,
            "Normalises each channel by a given mean and variance or, in training, by those of the batch, and then moves \
             the running ones towards them.",
        )
    }.gradient(gradient::batch),
    OpDef {
        inputs: &[Port::One("input"), Port::One("scale"), Port::One("B")],
        attrs: &[EPSILON],
        class: Class::Rounding,
        infer: |ctx| channels_infer(ctx, 2),
        work: |ctx| centred_work(ctx, rows(ctx, 2)),
        space: instance_space,
        eval: |ctx| {
            let x = ctx.tensor(0)?;
            let epsilon = ctx.attrs().float_or("epsilon", 1e-5);
            let groups = *x.shape().get(1).ok_or("the input has no channels")?;
            grouped(ctx, groups, epsilon)
        },
        ..OpDef::new(
            Op::InstanceNormalization,
            "Normalises each channel of each instance over the spatial dimensions.",
        )
    }.gradient(gradient::instance),
    OpDef {
        inputs: LAYER_PORTS,
        outputs: &[Port::One("Y"), Port::Optional("Mean"), Port::Optional("InvStdDev")],
        attrs: &[AXIS, EPSILON, STASH_TYPE],
        class: Class::Rounding,
        infer: layer_infer,
        work: |ctx| centred_work(ctx, rows(ctx, layer_axis(ctx).unwrap_or(0))),
        space: layer_space,
        eval: |ctx| layer(ctx, true),
        ..OpDef::new(
            Op::LayerNormalization,
            "Normalises over the last dimensions from `axis` on; also gives mean and inverse deviation.",
        )
    }.gradient(gradient::layer_norm),
    OpDef {
        inputs: &[Port::One("X"), Port::One("scale"), Port::One("bias")],
        outputs: &[Port::One("Y")],
        attrs: &[
            opt(
                "channels_per_group",
                AttrKind::Int,
                "Channels of a group, in place of `num_groups`: for parts of a cut op. Not part of ONNX.",
            ),
            EPSILON,
            req("num_groups", AttrKind::Int, "Number of groups that the channels fall into."),
            STASH_TYPE,
        ],
        class: Class::Rounding,
        infer: |ctx| {
            let facts = channels_infer(ctx, 2)?;
            if let Some(shape) = ctx.shape(0) {
                groups(ctx.attrs(), &shape[1])?;
            }
            Ok(facts)
        },
        work: |ctx| {
            let groups = ctx.shape(0).and_then(|s| Some(s[0].clone() * groups(ctx.attrs(), &s[1]).ok()??));
            centred_work(ctx, groups)
        },
        space: group_space,
        eval: |ctx| {
            rules::check_one(ctx)?;
            let channels = ctx.tensor(0)?.shape()[1];
            let groups = groups(ctx.attrs(), &Dim::from(channels))?.and_then(|g| g.extent()).unwrap_or(1);
            grouped(ctx, groups, ctx.attrs().float_or("epsilon", 1e-5))
        },
        ..OpDef::new(
            Op::GroupNormalization,
            "Normalises each group of channels of each instance, with a scale and a bias for each channel.",
        )
    }.gradient(gradient::group),
    OpDef {
        inputs: &[Port::One("X"), Port::One("scale")],
        outputs: &[Port::One("Y")],
        attrs: &[AXIS, EPSILON, STASH_TYPE],
        class: Class::Rounding,
        infer: layer_infer,
        // Square and sum, times the inverse root of their mean, times the scale.
        work: |ctx| {
            let rows = rows(ctx, layer_axis(ctx).unwrap_or(0)).unwrap_or(Dim::Known(0));
            Work::vector(ctx.input_elements(0) * Dim::Known(4), rows)
        },
        space: layer_space,
        eval: |ctx| layer(ctx, false),
        ..OpDef::new(
            Op::RMSNormalization,
            "Divides by the root of the mean square over the last dimensions from `axis` on, times a scale.",
        )
    }.gradient(gradient::rms_norm),
    OpDef {
        attrs: &[
            opt("axis", AttrKind::Int, "Dimension normalised over, counted from the end where negative; -1."),
            opt("p", AttrKind::Int, "Order of the norm, 1 or 2; 2."),
        ],
        class: Class::Rounding,
        infer: lp_infer,
        // Magnitude or square, sum, quotient.
        work: |ctx| Work::vector(ctx.input_elements(0) * Dim::Known(2), ctx.input_elements(0)),
        space: |ctx| along_axes(ctx, &[ctx.attrs().int_or("axis", -1)]),
        eval: lp,
        ..OpDef::new(
            Op::LpNormalization,
            "Divides by the L1 or L2 norm along a dimension.",
        )
    }.gradient(gradient::lp),
    OpDef {
        inputs: &[Port::One("X")],
        outputs: &[Port::One("Y")],
        attrs: &[
            opt("alpha", AttrKind::Float, "Factor of the mean square; 1e-4."),
            opt("beta", AttrKind::Float, "Exponent; 0.75."),
            opt("bias", AttrKind::Float, "Added to the sum; 1."),
            req("size", AttrKind::Int, "Number of neighbouring channels summed over."),
        ],
        class: Class::Rounding,
        infer: |ctx| {
            rules::float(ctx, 0)?;
            least_rank(ctx, 2)?;
            match ctx.attrs().int_or("size", 1) {
                1.. => context::same_as_first(ctx),
                size => Err(format!("attribute `size` is {size}, must be at least 1")),
            }
        },
        work: |ctx| {
            let size = Dim::Known(ctx.attrs().int_or("size", 1));
            // Squares, sums, factor, bias; power and quotient.
            Work::vector(
                ctx.input_elements(0) * (size + Dim::Known(3)),
                ctx.input_elements(0) * Dim::Known(2),
            )
        },
        space: |ctx| along_axes(ctx, &[1]),
        eval: lrn,
        ..OpDef::new(
            Op::LRN,
            "Divides by (bias + alpha / size * sum of squares over neighbouring channels) to the power beta.",
        )
    }.gradient(gradient::lrn),
    OpDef {
        inputs: &[Port::One("X")],
        outputs: &[Port::One("Y")],
        attrs: &[opt("axes", AttrKind::Ints, "Dimensions normalised over; 0, 2 and 3.")],
        class: Class::Rounding,
        infer: |ctx| {
            rules::float(ctx, 0)?;
            if let Some(rank) = ctx.rank(0) {
                reduced(&mean_axes(ctx.attrs()), rank)?;
            }
            context::same_as_first(ctx)
        },
        // Sum, distance, its square and sum, times the inverse deviation.
        work: |ctx| {
            let kept = ctx.shape(0).and_then(|shape| {
                let reduced = reduced(&mean_axes(ctx.attrs()), shape.len()).ok()?;
                Some(shape.into_iter().zip(reduced).filter(|(_, r)| !r).map(|(n, _)| n).product::<Dim>())
            });
            Work::vector(ctx.input_elements(0) * Dim::Known(5), kept.unwrap_or(Dim::Known(0)))
        },
        space: |ctx| along_axes(ctx, &mean_axes(ctx.attrs())),
        eval: mean_variance,
        ..OpDef::new(
            Op::MeanVarianceNormalization,
            "Elements less their mean, over their standard deviation plus 1e-9.",
        )
    }.gradient(gradient::mean_variance),
    layer_grad(
        Op::LayerNormalizationGrad,
        "Gradient of the input of LayerNormalization; mean and deviation are computed anew. Not part of ONNX.",
        |ctx| layer::grad_work(ctx, true),
        |ctx| layer::grad(ctx, true),
    ),
    scale_grad(
        Op::LayerNormalizationScaleGrad,
        "Gradients of scale and bias of LayerNormalization behind each other, each of the shape of what is normalised over: \
         sums over rows of dY times the normalised elements, and of dY. Not part of ONNX.",
        |ctx| layer::scale_grad_infer(ctx, true),
        |ctx| layer::scale_grad_work(ctx, true),
        |ctx| layer::scale_grad(ctx, true),
    ),
    layer_grad(
        Op::RMSNormalizationGrad,
        "Gradient of the input of RMSNormalization; the root is computed anew. Not part of ONNX.",
        |ctx| layer::grad_work(ctx, false),
        |ctx| layer::grad(ctx, false),
    ),
    scale_grad(
        Op::RMSNormalizationScaleGrad,
        "Gradient of the scale of RMSNormalization, of the shape of what is normalised over: the sum over rows of dY times \
         the normalised elements. Not part of ONNX.",
        |ctx| layer::scale_grad_infer(ctx, false),
        |ctx| layer::scale_grad_work(ctx, false),
        |ctx| layer::scale_grad(ctx, false),
    ),
    moments::CHANNEL_MOMENTS,
];

fn mean_axes(attrs: &Attrs) -> Vec<i64> {
    attrs.ints("axes").map_or(vec![0, 2, 3], <[i64]>::to_vec)
}

/// For each dimension, whether it is among `axes`.
fn reduced(axes: &[i64], rank: usize) -> Result<Vec<bool>, String> {
    let mut reduced = vec![false; rank];
    for &axis in axes {
        let at = context::normalize_axis(axis, rank)?;
        *reduced.get_mut(at).ok_or("a scalar has no dimension to normalise over")? = true;
    }
    Ok(reduced)
}

fn least_rank(ctx: &Ctx<'_>, least: usize) -> Result<(), String> {
    match ctx.shape(0) {
        Some(shape) if shape.len() < least => Err(format!(
            "input `{}` must have at least {least} dimensions, has {}",
            rules::input_name(ctx, 0),
            rules::shape_text(&shape)
        )),
        _ => Ok(()),
    }
}

/// Number of rows when dimensions from `axis` on make a row.
fn rows(ctx: &Ctx<'_>, axis: usize) -> Option<Dim> {
    Some(rules::product(ctx.shape(0)?.get(..axis)?))
}

/// Sum, distance, its square and sum, times the inverse deviation, scale, bias: seven for each element.
fn centred_work(ctx: &Ctx<'_>, rows: Option<Dim>) -> Work {
    let bias = i64::from(ctx.has(2));
    Work::vector(ctx.input_elements(0) * Dim::Known(6 + bias), rows.unwrap_or(Dim::Known(0)))
}

/// Parallel in all dimensions but `axes`, for ops of one input.
fn along_axes(ctx: &Ctx<'_>, axes: &[i64]) -> Option<IterSpace> {
    let reduced = reduced(axes, ctx.rank(0)?).ok()?;
    super::space::free_except(ctx, |d| reduced[d])
}

/// Statistics over some dimensions.
struct Moments<T> {
    mean: Vec<T>,
    variance: Vec<T>,
    /// For each dimension of the input, how far it moves in `mean`: 0 in those taken together.
    steps: Vec<isize>,
}

impl<T: Float> Moments<T> {
    /// Means and variances over the dimensions for which `reduced` says true; about zero instead of the mean unless
    /// `centred`.
    fn new(x: &[T], shape: &[usize], reduced: &[bool], centred: bool) -> Self {
        let kept: Vec<usize> = (0..shape.len()).map(|d| if reduced[d] { 1 } else { shape[d] }).collect();
        let steps = broadcast_strides(&kept, shape);
        let count: usize = (0..shape.len()).filter(|&d| reduced[d]).map(|d| shape[d]).product();
        let count = T::from_f64(count as f64);
        let mut mean = vec![T::ZERO; kept.iter().product()];
        let mut variance = mean.clone();
        let loops = Loops::new(shape, [&strides(shape), &steps]);
        if centred {
            loops.each(|[at, k]| mean[k as usize] += x[at as usize]);
            mean.iter_mut().for_each(|m| *m = *m / count);
        }
        loops.each(|[at, k]| {
            let distance = x[at as usize] - mean[k as usize];
            variance[k as usize] += distance * distance;
        });
        variance.iter_mut().for_each(|v| *v = *v / count);
        Self { mean, variance, steps }
    }
    fn inverse_deviation(&self, epsilon: f64) -> Vec<T> {
        self.variance.iter().map(|&v| T::ONE / (v + T::from_f64(epsilon)).sqrt()).collect()
    }
}

/// (x - mean) * factor * scale + bias; parameters with their steps in each dimension of x.
fn apply<T: Float>(
    x: &[T],
    shape: &[usize],
    (mean, factor, steps): (&[T], &[T], &[isize]),
    (scale, scale_steps): (&[T], &[isize]),
    bias: Option<(&[T], &[isize])>,
) -> Vec<T> {
    let mut out = vec![T::ZERO; x.len()];
    let (zero, still) = ([T::ZERO], vec![0; shape.len()]);
    let (bias, bias_steps) = bias.unwrap_or((&zero, &still));
    Loops::new(shape, [&strides(shape), steps, scale_steps, bias_steps]).each(|[at, k, s, b]| {
        let distance = x[at as usize] - mean[k as usize];
        out[at as usize] = distance * factor[k as usize] * scale[s as usize] + bias[b as usize];
    });
    out
}

/// Type rule of ops with a scale and a bias for each channel.
fn channels_infer(ctx: &Ctx<'_>, least: usize) -> Result<Vec<Fact>, String> {
    let dtype = rules::float(ctx, 0)?;
    rules::of_type(ctx, [1, 2], dtype)?;
    least_rank(ctx, least)?;
    if let Some(shape) = ctx.shape(0) {
        rules::has_shape(ctx, 1, &shape[1..2])?;
        rules::has_shape(ctx, 2, &shape[1..2])?;
    }
    context::same_as_first(ctx)
}

/// The number of groups of `channels`; none where it follows from an unknown extent.
fn groups(attrs: &Attrs, channels: &Dim) -> Result<Option<Dim>, String> {
    let (name, count) = match attrs.int("channels_per_group") {
        Some(own) => ("channels_per_group", own),
        None => ("num_groups", attrs.int_or("num_groups", 1)),
    };
    if !(1..=i64::from(i32::MAX)).contains(&count) {
        return Err(format!("attribute `{name}` is {count}, must be at least 1"));
    }
    if channels.known().is_some_and(|n| n % count != 0) {
        return Err(format!("attribute `{name}` is {count}, which does not divide {channels} channels"));
    }
    Ok(if name == "num_groups" {
        Some(Dim::Known(count))
    } else {
        channels.known().map(|n| Dim::Known(n / count))
    })
}

fn instance_space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let shape = ctx.shape(0)?;
    let mut image = vec![Access::Whole; shape.len()];
    image[0] = Access::along(0);
    image[1] = Access::along(1);
    let channel = vec![Access::along(1)];
    Some(IterSpace {
        axes: vec![parallel("n", shape[0].clone()), parallel("channel", shape[1].clone())],
        inputs: vec![image.clone(), channel.clone(), channel],
        outputs: vec![image],
        part_attrs: Attrs::new(),
        padding: 0.0,
    })
}

fn group_space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let shape = ctx.shape(0)?;
    let groups = groups(ctx.attrs(), &shape[1]).ok()??;
    let own = shape[1].floor_div(&groups).known()?;
    let mut space = instance_space(ctx)?;
    space.axes[1] = parallel("group", groups);
    let channels = Access::Along { axis: 1, scale: Dim::Known(own) };
    for access in space.inputs.iter_mut().chain(&mut space.outputs) {
        let at = access.len().min(2) - 1;
        access[at] = channels.clone();
    }
    space.part_attrs.set("channels_per_group", own);
    Some(space)
}

/// Normalises each of `groups` groups of channels of each instance.
fn grouped(ctx: &EvalCtx<'_>, groups: usize, epsilon: f64) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let plane: usize = shape[2..].iter().product();
    let own = shape[1] / groups.max(1);
    let view = [shape[0], groups, own, plane];
    let channel_steps = [0, own as isize, 1, 0];
    Ok(vec![by_float!(dtype, T => {
        let (x, scale, bias) = (T::read(ctx.tensor(0)?)?, T::read(ctx.tensor(1)?)?, T::read(ctx.tensor(2)?)?);
        let moments = Moments::<T>::new(&x, &view, &[false, false, true, true], true);
        let factor = moments.inverse_deviation(epsilon);
        let y = apply::<T>(
            &x,
            &view,
            (&moments.mean, &factor, &moments.steps),
            (&scale, &channel_steps),
            Some((&bias, &channel_steps)),
        );
        T::tensor(dtype, shape, y)
    })
    .into()])
}

fn lp_infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    rules::float(ctx, 0)?;
    if let Some(rank) = ctx.rank(0) {
        reduced(&[ctx.attrs().int_or("axis", -1)], rank)?;
    }
    match ctx.attrs().int_or("p", 2) {
        1 | 2 => context::same_as_first(ctx),
        p => Err(format!("attribute `p` is {p}, must be 1 or 2")),
    }
}

fn lp(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let reduced = reduced(&[ctx.attrs().int_or("axis", -1)], shape.len())?;
    let kept: Vec<usize> = (0..shape.len()).map(|d| if reduced[d] { 1 } else { shape[d] }).collect();
    let squared = ctx.attrs().int_or("p", 2) == 2;
    let loops = Loops::new(&shape, [&strides(&shape), &broadcast_strides(&kept, &shape)]);
    Ok(vec![
        by_float!(dtype, T => {
            let x = T::read(ctx.tensor(0)?)?;
            let mut norm = vec![T::ZERO; kept.iter().product()];
            loops.each(|[at, k]| {
                let v = x[at as usize];
                norm[k as usize] += if squared { v * v } else { v.abs() };
            });
            if squared {
                norm.iter_mut().for_each(|n| *n = n.sqrt());
            }
            let mut out = vec![T::ZERO; x.len()];
            loops.each(|[at, k]| out[at as usize] = x[at as usize] / norm[k as usize]);
            T::tensor(dtype, shape, out)
        })
        .into(),
    ])
}

fn lrn(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let attrs = ctx.attrs();
    let (alpha, beta) = (attrs.float_or("alpha", 1e-4), attrs.float_or("beta", 0.75));
    let (bias, size) = (attrs.float_or("bias", 1.0), attrs.int_or("size", 1));
    let (before, behind) = ((size - 1) / 2, size / 2);
    let (channels, plane) = (shape[1], shape[2..].iter().product::<usize>());
    Ok(vec![by_float!(dtype, T => {
        let x = T::read(ctx.tensor(0)?)?;
        let (share, bias, beta) = (T::from_f64(alpha / size as f64), T::from_f64(bias), T::from_f64(beta));
        let mut out = Vec::with_capacity(x.len());
        for at in 0..x.len() {
            let c = (at / plane % channels) as i64;
            let from = (c - before).max(0);
            let to = c.saturating_add(behind).min(channels as i64 - 1);
            let first = at - (c - from) as usize * plane;
            let sum: T = (0..=(to - from) as usize).map(|i| x[first + i * plane] * x[first + i * plane]).sum();
            out.push(x[at] / (bias + share * sum).powf(beta));
        }
        T::tensor(dtype, shape, out)
    })
    .into()])
}

fn mean_variance(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let reduced = reduced(&mean_axes(ctx.attrs()), shape.len())?;
    Ok(vec![by_float!(dtype, T => {
        let x = T::read(ctx.tensor(0)?)?;
        let moments = Moments::<T>::new(&x, &shape, &reduced, true);
        let factor: Vec<T> =
            moments.variance.iter().map(|v| T::ONE / (v.sqrt() + T::from_f64(1e-9))).collect();
        let still = vec![0; shape.len()];
        let y = apply::<T>(&x, &shape, (&moments.mean, &factor, &moments.steps), (&[T::ONE], &still), None);
        T::tensor(dtype, shape, y)
    })
    .into()])
}
