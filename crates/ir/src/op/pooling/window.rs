//! Pooling over sliding windows.

use super::super::convolution::outputs;
use super::super::convolution::window::{AUTO_PAD, DILATIONS, PADS, Padding, STRIDES, Span, Window, windows};
use super::super::elements::{Float, by_float};
use super::super::space::parallel;
use super::super::{
    Access, AttrDef, Class, Ctx, Datum, EvalCtx, Fact, IterSpace, Op, OpDef, Port, Work, opt, req, rules,
};
use super::{Pool, images, lp_work, order};
use crate::{AttrKind, Attrs, Dim};
use orrery_numerics::{DType, Tensor};

pub(super) const CEIL_MODE: AttrDef =
    opt("ceil_mode", AttrKind::Int, "1: the last window may reach beyond the padding behind; 0.");
pub(super) const KERNEL: AttrDef = req("kernel_shape", AttrKind::Ints, "Extents of the window.");

pub(super) const COUNT_INCLUDE_PAD: AttrDef =
    opt("count_include_pad", AttrKind::Int, "1: padding counts as elements that are zero; 0.");

pub(super) const MAX_POOL: OpDef = OpDef {
    inputs: &[Port::One("X")],
    outputs: &[Port::One("Y"), Port::Optional("Indices")],
    attrs: &[
        AUTO_PAD,
        CEIL_MODE,
        DILATIONS,
        KERNEL,
        PADS,
        opt(
            "storage_order",
            AttrKind::Int,
            "1: indices count the first spatial dimension fastest; 0: the last.",
        ),
        STRIDES,
    ],
    infer: |ctx| {
        let dtype = rules::float(ctx, 0).or_else(|_| rules::eight_bit(ctx, 0))?;
        let fact = infer(ctx, dtype)?;
        let indices = Fact::of(match &fact.ty {
            crate::Type::Tensor(t) => {
                crate::Type::Tensor(crate::TensorType { dtype: DType::I64, ..t.clone() })
            }
            other => other.clone(),
        });
        Ok(vec![fact, indices])
    },
    work: |ctx| Work::vector(elements_read(ctx), Dim::Known(0)),
    // Indices count through the whole tensor.
    space: |ctx| if ctx.output_count() > 1 { None } else { space(ctx, f64::NEG_INFINITY, true) },
    eval: max_pool,
    ..OpDef::new(
        Op::MaxPool,
        "The largest element of each window, padding left out, and where it lies: its index in the whole tensor.",
    )
};

pub(super) const AVERAGE_POOL: OpDef = OpDef {
    inputs: &[Port::One("X")],
    outputs: &[Port::One("Y")],
    attrs: &[
        AUTO_PAD,
        CEIL_MODE,
        COUNT_INCLUDE_PAD,
        DILATIONS,
        KERNEL,
        PADS,
        STRIDES,
    ],
    class: Class::Rounding,
    infer: |ctx| Ok(vec![infer(ctx, rules::float(ctx, 0)?)?]),
    work: |ctx| Work::vector(elements_read(ctx), ctx.output_elements(0)),
    space: |ctx| {
        let windows = windows_of(ctx.attrs(), ctx.rank(0)?).ok()?;
        // A part cannot tell padding from elements, so either there is none or it counts as much.
        let unpadded = windows.iter().all(|w| w.padding == Padding::Given { before: 0, after: 0 });
        let uniform = (unpadded || ctx.attrs().flag("count_include_pad")) && !ctx.attrs().flag("ceil_mode");
        space(ctx, 0.0, uniform)
    },
    eval: |ctx| {
        let padded = ctx.attrs().flag("count_include_pad");
        pool(ctx, Pool::Average, padded)
    },
    ..OpDef::new(Op::AveragePool, "The mean of each window, over its elements without or with the padding.")
};

pub(super) const LP_POOL: OpDef = OpDef {
    inputs: &[Port::One("X")],
    outputs: &[Port::One("Y")],
    attrs: &[
        AUTO_PAD,
        CEIL_MODE,
        DILATIONS,
        KERNEL,
        opt("p", AttrKind::Int, "Order of the norm; 2."),
        PADS,
        STRIDES,
    ],
    class: Class::Rounding,
    infer: |ctx| {
        order(ctx.attrs())?;
        Ok(vec![infer(ctx, rules::float(ctx, 0)?)?])
    },
    work: |ctx| lp_work(ctx.attrs(), elements_read(ctx), ctx.output_elements(0)),
    space: |ctx| space(ctx, 0.0, true),
    eval: |ctx| pool(ctx, Pool::Lp(order(ctx.attrs())?), false),
    ..OpDef::new(Op::LpPool, "The Lp norm of each window.")
};

pub(super) fn windows_of(attrs: &Attrs, rank: usize) -> Result<Vec<Window>, String> {
    let kernel = attrs.ints("kernel_shape").unwrap_or(&[]);
    if kernel.len() + 2 != rank {
        return Err(format!(
            "attribute `kernel_shape` has {} extents for images of {} spatial dimensions",
            kernel.len(),
            rank.saturating_sub(2)
        ));
    }
    windows(attrs, &kernel.iter().map(|&n| Dim::Known(n)).collect::<Vec<_>>())
}

fn infer(ctx: &Ctx<'_>, dtype: DType) -> Result<Fact, String> {
    let Some(mut shape) = images(ctx)? else { return Ok(Fact::unranked(dtype)) };
    let spatial = outputs(&windows_of(ctx.attrs(), shape.len())?, &shape[2..])?;
    shape.splice(2.., spatial);
    Ok(Fact::tensor(dtype, shape))
}

/// Elements that all windows together look at, padding counted.
fn elements_read(ctx: &Ctx<'_>) -> Dim {
    let kernel = ctx.attrs().ints("kernel_shape").unwrap_or(&[]);
    ctx.output_elements(0) * kernel.iter().map(|&n| Dim::Known(n)).product()
}

/// Along batch and channels and, where that is `spatial`ly possible, along the windows, `padding` around the image.
fn space(ctx: &Ctx<'_>, padding: f64, spatial: bool) -> Option<IterSpace> {
    let shape = ctx.shape(0)?;
    let out = ctx.output_shape(0)?;
    let windows = windows_of(ctx.attrs(), shape.len()).ok()?;
    let mut axes = vec![parallel("n", shape[0].clone()), parallel("channel", shape[1].clone())];
    let mut input = vec![Access::along(0), Access::along(1)];
    let mut output = input.clone();
    let mut part_attrs = Attrs::new();
    let access: Option<Vec<Access>> =
        windows.iter().zip(&shape[2..]).enumerate().map(|(d, (w, n))| w.access(n, d + 2)).collect();
    match access.filter(|_| spatial) {
        Some(access) => {
            input.extend(access);
            output.extend((2..out.len()).map(Access::along));
            axes.extend(out[2..].iter().map(|n| parallel("spatial", n.clone())));
            part_attrs.set("pads", vec![0; 2 * windows.len()]);
            part_attrs.set("auto_pad", "NOTSET");
            part_attrs.set("ceil_mode", 0);
        }
        None => {
            input.resize(shape.len(), Access::Whole);
            output.resize(shape.len(), Access::Whole);
        }
    }
    Some(IterSpace { axes, inputs: vec![input], outputs: vec![output], part_attrs, padding })
}

/// Calls `each` with the place in the channel of every element of window number `o` that is no padding, in order.
pub(super) fn elements(spans: &[Span], o: usize, each: &mut impl FnMut(usize)) {
    let mut index = [0; 8];
    let mut rest = o;
    for (d, span) in spans.iter().enumerate().rev() {
        index[d] = rest % span.output;
        rest /= span.output;
    }
    descend(spans, &index, 0, each);
}

fn descend(spans: &[Span], index: &[usize], base: usize, each: &mut impl FnMut(usize)) {
    let Some((span, inner)) = spans.split_first() else { return each(base) };
    for k in 0..span.kernel {
        let place = span.place(index[0], k);
        if place >= span.input as i64 {
            break;
        }
        if let Ok(place) = usize::try_from(place) {
            descend(inner, &index[1..], base * span.input + place, each);
        }
    }
}

/// Elements of window number `o` between the paddings, padding counted.
pub(super) fn padded_count(spans: &[Span], o: usize) -> usize {
    let mut rest = o;
    let mut count = 1;
    for span in spans.iter().rev() {
        let at = rest % span.output;
        rest /= span.output;
        let end = span.input as i64 + span.after;
        count *= (0..span.kernel).take_while(|&k| span.place(at, k) < end).count();
    }
    count
}

/// The spans of the windows over the first input.
fn spans(ctx: &EvalCtx<'_>) -> Result<Vec<Span>, String> {
    let x = ctx.tensor(0)?.shape();
    limited(Span::all(&windows_of(ctx.attrs(), x.len())?, &x[2..])?)
}

/// The spans, where they are no more than [`elements`] can follow.
pub(super) fn limited(spans: Vec<Span>) -> Result<Vec<Span>, String> {
    if spans.len() > 8 {
        return Err(format!("images of {} spatial dimensions are more than the 8 supported", spans.len()));
    }
    Ok(spans)
}

fn pool(ctx: &EvalCtx<'_>, pool: Pool, count_padding: bool) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let spans = spans(ctx)?;
    let x = ctx.tensor(0)?;
    let plane: usize = x.shape()[2..].iter().product();
    let windows: usize = shape[2..].iter().product();
    Ok(vec![
        by_float!(dtype, T => {
            let x = T::read(x)?;
            let mut out = Vec::with_capacity(shape.iter().product());
            let mut window: Vec<T> = Vec::new();
            for image in 0..shape[0] * shape[1] {
                let channel = &x[image * plane..(image + 1) * plane];
                for o in 0..windows {
                    window.clear();
                    elements(&spans, o, &mut |at| window.push(channel[at]));
                    let count = if count_padding { padded_count(&spans, o) } else { window.len() };
                    out.push(pool.gather(window.iter().copied(), count));
                }
            }
            T::tensor(dtype, shape, out)
        })
        .into(),
    ])
}

/// The largest element of window number `o` of a channel and where the first such lies; none where all is padding.
pub(super) fn largest<T: Float>(channel: &[T], spans: &[Span], o: usize) -> (T, Option<usize>) {
    let (mut most, mut place) = (-T::INFINITY, None);
    elements(spans, o, &mut |at| {
        let v = channel[at];
        if place.is_none() || v > most || v.is_nan() && !most.is_nan() {
            (most, place) = (v, Some(at));
        }
    });
    (most, place)
}

fn max_pool(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check(ctx)?.swap_remove(0);
    let spans = spans(ctx)?;
    let x = ctx.tensor(0)?;
    let plane: usize = x.shape()[2..].iter().product();
    let windows: usize = shape[2..].iter().product();
    let columns_first = ctx.attrs().flag("storage_order");
    let mut indices = Vec::new();
    let wanted = ctx.wants(1);
    let y = by_float!(dtype, T => {
        let x = T::read(x)?;
        let mut out = Vec::with_capacity(shape.iter().product());
        for image in 0..shape[0] * shape[1] {
            let channel = &x[image * plane..(image + 1) * plane];
            for o in 0..windows {
                let (most, place) = largest(channel, &spans, o);
                out.push(most);
                if wanted {
                    let at = place.unwrap_or(0);
                    let at = if columns_first { transposed(&spans, at) } else { at };
                    indices.push((image * plane + at) as i64);
                }
            }
        }
        T::tensor(dtype, shape.clone(), out)
    });
    let mut outputs = vec![y.into()];
    if wanted {
        outputs.push(Tensor::from_vec(shape, indices).into());
    }
    Ok(outputs)
}

/// The place `at` of a channel when the first spatial dimension is counted fastest.
fn transposed(spans: &[Span], mut at: usize) -> usize {
    let mut index = vec![0; spans.len()];
    for (i, span) in index.iter_mut().zip(spans).rev() {
        *i = at % span.input;
        at /= span.input;
    }
    index.iter().zip(spans).rev().fold(0, |sum, (i, span)| sum * span.input + i)
}
