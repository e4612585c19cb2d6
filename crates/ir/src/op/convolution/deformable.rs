//! `DeformConv`: a convolution whose windows' elements lie at learned places.

use super::super::elements::{Float, by_float};
use super::super::matrix::ACCUMULATE;
use super::super::matrix::kernel::{Scalar, View};
use super::super::space::parallel;
use super::super::{
    Access, AttrDef, Class, Ctx, Datum, Engine, EvalCtx, IterSpace, Op, OpDef, Port, Work, opt, rules,
};
use super::window::{DILATIONS, KERNEL_SHAPE, PADS, STRIDES, Span};
use super::{Form, GROUP, Known, add_bias, divisible, kernel};
use crate::{AttrKind, Attrs, Dim};
use orrery_numerics::Accumulation;

pub(super) const OFFSET_GROUP: AttrDef =
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

pub(super) const FORM: Form = Form { x: 0, w: 1, bias: Some(3), per_channel: &[] };

pub(super) fn offset_groups(attrs: &Attrs) -> Result<usize, String> {
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
    let how = ctx.accumulation(dtype)?;
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

/// Where a deformed convolution reads its samples: one for each window, element of the kernel and group of channels that
/// share offsets.
pub(super) struct Places<'a, T> {
    pub(super) spans: &'a [Span],
    pub(super) offset_groups: usize,
    /// Channels of an image.
    pub(super) channels: usize,
    /// [image, offset group, kernel element, dimension, window].
    pub(super) offset: &'a [T],
    /// The same without dimensions.
    pub(super) mask: Option<&'a [T]>,
}

/// What all channels of a group have in common at a sample.
pub(super) struct Sample<T> {
    pub(super) channels: std::ops::Range<usize>,
    /// Among the elements of a channel's samples.
    pub(super) index: usize,
    /// Where its mask is.
    pub(super) mask_at: usize,
    pub(super) factor: T,
    /// Where the offset along a dimension is.
    pub(super) offset_at: Vec<usize>,
    pub(super) place: Vec<T>,
}

impl<T: Float> Places<'_, T> {
    /// Calls `each` with every sample of an image.
    pub(super) fn each(&self, image: usize, mut each: impl FnMut(Sample<T>)) {
        let windows = kernel::Windows::new(self.spans);
        let (count, kernel_size, dims) = (windows.count(), windows.kernel(), self.spans.len());
        let shared = self.channels / self.offset_groups;
        for g in 0..self.offset_groups {
            for k in 0..kernel_size {
                let element = (image * self.offset_groups + g) * kernel_size + k;
                for o in 0..count {
                    let offset_at: Vec<usize> = (0..dims).map(|d| (element * dims + d) * count + o).collect();
                    let undisplaced = places(self.spans, o, k).into_iter();
                    let place = undisplaced.zip(&offset_at).map(|(p, &at)| T::from_f64(p as f64) + self.offset[at]);
                    let mask_at = element * count + o;
                    each(Sample {
                        channels: g * shared..(g + 1) * shared,
                        index: k * count + o,
                        mask_at,
                        factor: self.mask.map_or(T::ONE, |m| m[mask_at]),
                        place: place.collect(),
                        offset_at,
                    });
                }
            }
        }
    }
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
    let places = Places { spans, offset_groups, channels, offset, mask };
    let mut samples = vec![T::default(); channels * kernel_size * count];
    for i in 0..sizes.images {
        places.each(i, |sample| {
            let corners = corners(spans, &sample.place, None);
            for c in sample.channels {
                let image = &x[(i * channels + c) * input..];
                let value: T = corners.iter().map(|&(at, weight)| image[at] * weight).sum();
                samples[c * kernel_size * count + sample.index] = value * sample.factor;
            }
        });
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

/// The image elements around a place, with their weights; those outside of the image are left out. Along the dimension
/// `sloping` what a step adds to the weights takes their place.
pub(super) fn corners<T: Float>(spans: &[Span], at: &[T], sloping: Option<usize>) -> Vec<(usize, T)> {
    let mut corners = vec![(0, T::ONE)];
    for (d, (span, &at)) in spans.iter().zip(at).enumerate() {
        let low = at.floor();
        let fraction = at - low;
        let shares = if sloping == Some(d) { [-T::ONE, T::ONE] } else { [T::ONE - fraction, fraction] };
        let mut next = Vec::with_capacity(corners.len() * 2);
        for &(base, weight) in &corners {
            for (place, share) in [low, low + T::ONE].into_iter().zip(shares) {
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
