//! `DeformConv`: a convolution whose windows' elements lie at learned places.

use super::super::elements::{Float, by_float};
use super::super::matrix::ACCUMULATE;
use super::super::matrix::kernel::{Scalar, View, accumulation};
use super::super::space::parallel;
use super::super::{
    Access, AttrDef, Class, Ctx, Datum, Engine, EvalCtx, IterSpace, Op, OpDef, Port, Work, opt, rules,
};
use super::window::{DILATIONS, KERNEL_SHAPE, PADS, STRIDES, Span};
use super::{Form, GROUP, Known, add_bias, divisible, kernel};
use crate::{AttrKind, Attrs, Dim};
use orrery_numerics::Accumulation;

const OFFSET_GROUP: AttrDef =
    opt("offset_group", AttrKind::Int, "Groups of input channels that share offsets; 1.");

pub(super) const DEFORM_CONV: OpDef = OpDef {
    inputs: &[
        Port::One("X"),
        Port::One("W"),
        Port::One("offset"),
        Port::Optional("B"),
        Port::Optional("mask"),
    ],
    outputs: &[Port::One("Y")],
    attrs: &[DILATIONS, GROUP, KERNEL_SHAPE, OFFSET_GROUP, PADS, STRIDES, ACCUMULATE],
    class: Class::Rounding,
    engine: Engine::Matrix,
    infer: |ctx| {
        let dtype = rules::float(ctx, 0)?;
        rules::of_type(ctx, 1..5, dtype)?;
        if let Some(e) = FORM.extents(ctx)? {
            let offset_groups = offset_groups(ctx.attrs())?;
            divisible(&e.in_channels, offset_groups as i64, "input channels")?;
            let kernel: Dim = e.windows.iter().map(|w| w.kernel.clone()).product();
            let places = kernel * Dim::from(offset_groups);
            let shape = |channels: Dim| [vec![e.n.clone(), channels], e.output.clone()].concat();
            rules::has_shape(ctx, 2, &shape(places.clone() * Dim::from(e.windows.len())))?;
            rules::has_shape(ctx, 4, &shape(places))?;
        }
        FORM.infer(ctx, dtype)
    },
    work,
    space,
    eval,
    ..OpDef::new(
        Op::DeformConv,
        "Convolution that reads each element of a window at its place plus an offset, interpolated linearly and times a \
         mask; outside of the image it is zero.",
    )
};

const FORM: Form = Form { x: 0, w: 1, bias: Some(3), per_channel: &[] };

fn offset_groups(attrs: &Attrs) -> Result<usize, String> {
    match attrs.int_or("offset_group", 1) {
        given if (1..=i64::from(i32::MAX)).contains(&given) => Ok(given as usize),
        given => Err(format!("attribute `offset_group` is {given}, must be at least 1")),
    }
}

/// The convolution's MACs; for each element of each window, a product and a sum for each of the 2^d corners.
fn work(ctx: &Ctx<'_>) -> Work {
    let work = FORM.work(ctx);
    let Ok(Some(e)) = FORM.extents(ctx) else { return work };
    let kernel: Dim = e.windows.iter().map(|w| w.kernel.clone()).product();
    let samples = e.n.clone() * e.in_channels.clone() * kernel * rules::product(&e.output);
    let corners = Dim::Known(2 << e.windows.len().min(32));
    let masked = Dim::Known(i64::from(ctx.has(4)));
    Work { vector: work.vector.clone() + samples * (corners + masked), ..work }
}

fn space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let e = FORM.extents(ctx).ok()??;
    let rank = e.windows.len() + 2;
    let one_group = e.group? == 1;
    let mut axes = vec![parallel("n", e.n.clone())];
    let channel = if one_group {
        axes.push(parallel("out_channel", e.out_channels.clone()));
        Access::along(1)
    } else {
        Access::Whole
    };
    let along_n = |channel: Access| {
        let mut access = vec![Access::Whole; rank];
        access[0] = Access::along(0);
        access[1] = channel;
        access
    };
    let mut weights = vec![Access::Whole; rank];
    weights[0] = channel.clone();
    let inputs = (0..ctx.input_count()).map(|i| match i {
        1 => weights.clone(),
        _ if !ctx.has(i) => Vec::new(),
        3 => vec![channel.clone()],
        _ => along_n(Access::Whole),
    });
    Some(IterSpace {
        inputs: inputs.collect(),
        axes,
        outputs: vec![along_n(channel.clone())],
        part_attrs: Attrs::new(),
        padding: 0.0,
    })
}

fn eval(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let known = Known::new(ctx, &FORM)?;
    let how = accumulation(ctx.attrs(), dtype)?;
    let groups = offset_groups(ctx.attrs())?;
    Ok(vec![by_float!(dtype, T => {
        let (x, w, offset) = (T::read(ctx.tensor(0)?)?, T::read(ctx.tensor(1)?)?, T::read(ctx.tensor(2)?)?);
        let mask = ctx.optional(4)?.map(T::read).transpose()?;
        let mut out = convolve::<T>(&known, groups, &x, &w, &offset, mask.as_deref(), how);
        if let Some(bias) = ctx.optional(3)? {
            add_bias(&mut out, &T::read(bias)?, shape[2..].iter().product());
        }
        T::tensor(dtype, shape, out)
    })
    .into()])
}

fn convolve<T: Float + Scalar>(
    known: &Known,
    offset_groups: usize,
    x: &[T],
    weights: &[T],
    offset: &[T],
    mask: Option<&[T]>,
    how: Option<Accumulation>,
) -> Vec<T> {
    let (sizes, spans) = (&known.sizes, &known.spans);
    let windows = kernel::Windows::new(spans);
    let (count, input, kernel_size) = (windows.count(), windows.input(), windows.kernel());
    let channels = sizes.groups * sizes.inputs;
    let rows = sizes.inputs * kernel_size;
    let mut out = vec![T::default(); sizes.images * sizes.groups * sizes.outputs * count];
    if out.is_empty() || channels == 0 {
        return out;
    }
    let weights = kernel::group_weights(sizes, weights, sizes.outputs, rows, how);
    let per_offset_group = channels / offset_groups;
    let mut samples = vec![T::default(); channels * kernel_size * count];
    for i in 0..sizes.images {
        for g in 0..offset_groups {
            for k in 0..kernel_size {
                for o in 0..count {
                    // Offsets are [image, offset group, kernel element, dimension, window].
                    let element = (i * offset_groups + g) * kernel_size + k;
                    let at: Vec<T> = places(spans, o, k)
                        .into_iter()
                        .enumerate()
                        .map(|(d, place)| {
                            T::from_f64(place as f64) + offset[(element * spans.len() + d) * count + o]
                        })
                        .collect();
                    let corners = corners(spans, &at);
                    let factor = mask.map_or(T::ONE, |m| m[element * count + o]);
                    for c in g * per_offset_group..(g + 1) * per_offset_group {
                        let image = &x[(i * channels + c) * input..];
                        let value: T = corners.iter().map(|&(at, weight)| image[at] * weight).sum();
                        samples[(c * kernel_size + k) * count + o] = value * factor;
                    }
                }
            }
        }
        for (g, weights) in weights.iter().enumerate() {
            let right = View::rows(&samples[g * rows * count..], count);
            let start = (i * sizes.groups + g) * sizes.outputs * count;
            weights.multiply(right, count, &mut out[start..], count);
        }
    }
    out
}

/// Where element `k` of window `o` lies in each dimension before it is displaced.
fn places(spans: &[Span], mut o: usize, mut k: usize) -> Vec<i64> {
    let mut places = vec![0; spans.len()];
    for (place, span) in places.iter_mut().zip(spans).rev() {
        *place = span.place(o % span.output, k % span.kernel);
        o /= span.output;
        k /= span.kernel;
    }
    places
}

/// The image elements around a place, with their weights; those outside of the image are left out.
fn corners<T: Float>(spans: &[Span], at: &[T]) -> Vec<(usize, T)> {
    let mut corners = vec![(0, T::ONE)];
    for (span, &at) in spans.iter().zip(at) {
        let low = at.floor();
        let fraction = at - low;
        let mut next = Vec::with_capacity(corners.len() * 2);
        for &(base, weight) in &corners {
            for (place, share) in [(low, T::ONE - fraction), (low + T::ONE, fraction)] {
                let place = place.to_f64();
                if place >= 0.0 && place < span.input as f64 && share != T::ZERO {
                    next.push((base * span.input + place as usize, weight * share));
                }
            }
        }
        corners = next;
    }
    corners
}
