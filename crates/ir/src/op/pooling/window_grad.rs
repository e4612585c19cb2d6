//! Gradients of pooling over sliding windows.

use super::super::convolution::outputs;
use super::super::convolution::window::{AUTO_PAD, DILATIONS, PADS, STRIDES, Span, numbers};
use super::super::elements::{Float, by_float};
use super::super::space::parallel;
use super::super::{
    Access, Class, Ctx, Datum, EvalCtx, Fact, IterSpace, Op, OpDef, Port, Work, req, rules,
};
use super::images;
use super::window::{
    CEIL_MODE, COUNT_INCLUDE_PAD, KERNEL, elements, largest, limited, padded_count, windows_of,
};
use crate::{AttrKind, Attrs, Dim};

pub(super) const MAX_POOL_GRAD: OpDef = OpDef {
    inputs: &[Port::One("X"), Port::One("dY")],
    outputs: &[Port::One("dX")],
    attrs: &[AUTO_PAD, CEIL_MODE, DILATIONS, KERNEL, PADS, STRIDES],
    class: Class::Rounding,
    infer: |ctx| {
        let dtype = rules::float(ctx, 0)?;
        rules::of_type(ctx, [1], dtype)?;
        let Some(shape) = images(ctx)? else { return Ok(vec![Fact::unranked(dtype)]) };
        fits(ctx, &shape, 1)?;
        Ok(vec![Fact::tensor(dtype, shape)])
    },
    // Each element of a window is compared, and one of them added to.
    work: |ctx| {
        Work::vector(ctx.input_elements(1) * (window_elements(ctx.attrs()) + Dim::Known(1)), Dim::Known(0))
    },
    space: |ctx| space(ctx, 2),
    eval: max_pool_grad,
    ..OpDef::new(
        Op::MaxPoolGrad,
        "Gradient of MaxPool: what comes back for a window goes to the first of its largest elements.",
    )
};

pub(super) const AVERAGE_POOL_GRAD: OpDef = OpDef {
    inputs: &[Port::One("dY")],
    outputs: &[Port::One("dX")],
    attrs: &[
        AUTO_PAD,
        CEIL_MODE,
        COUNT_INCLUDE_PAD,
        DILATIONS,
        req("extents", AttrKind::Ints, "Spatial extents of the images that were pooled."),
        KERNEL,
        PADS,
        STRIDES,
    ],
    class: Class::Rounding,
    infer: |ctx| {
        let dtype = rules::float(ctx, 0)?;
        let Some(mut shape) = images(ctx)? else { return Ok(vec![Fact::unranked(dtype)]) };
        let extents = numbers(ctx.attrs(), "extents", shape.len() - 2, 0, 0)?;
        shape.splice(2.., extents.into_iter().map(Dim::Known));
        fits(ctx, &shape, 0)?;
        Ok(vec![Fact::tensor(dtype, shape)])
    },
    work: |ctx| {
        Work::vector(ctx.input_elements(0) * window_elements(ctx.attrs()), ctx.input_elements(0))
    },
    space: |ctx| space(ctx, 1),
    eval: average_pool_grad,
    ..OpDef::new(
        Op::AveragePoolGrad,
        "Gradient of AveragePool: what comes back for a window is dealt out to its elements in equal shares.",
    )
};

/// Checks that the gradient at input `dy` has an element for each window over images of that shape.
fn fits(ctx: &Ctx<'_>, images: &[Dim], dy: usize) -> Result<(), String> {
    let mut pooled = images.to_vec();
    pooled.splice(2.., outputs(&windows_of(ctx.attrs(), images.len())?, &images[2..])?);
    rules::has_shape(ctx, dy, &pooled)
}

fn window_elements(attrs: &Attrs) -> Dim {
    attrs.ints("kernel_shape").unwrap_or(&[]).iter().map(|&n| Dim::Known(n)).product()
}

/// Along batch and channels: windows that overlap add to the same elements.
fn space(ctx: &Ctx<'_>, inputs: usize) -> Option<IterSpace> {
    let shape = ctx.output_shape(0)?;
    let mut access = vec![Access::along(0), Access::along(1)];
    access.resize(shape.len(), Access::Whole);
    Some(IterSpace {
        axes: vec![parallel("n", shape[0].clone()), parallel("channel", shape[1].clone())],
        inputs: vec![access.clone(); inputs],
        outputs: vec![access],
        part_attrs: Attrs::new(),
        padding: 0.0,
    })
}

/// Of each channel of images of shape `shape`: `deal` adds what comes back for it, an element for each window.
fn each_channel<T: Float>(
    ctx: &EvalCtx<'_>,
    shape: &[usize],
    dy: &[T],
    mut deal: impl FnMut(usize, &[Span], &[T], &mut [T]),
) -> Result<Vec<T>, String> {
    let spans = limited(Span::all(&windows_of(ctx.attrs(), shape.len())?, &shape[2..])?)?;
    let windows: usize = spans.iter().map(|s| s.output).product();
    let plane: usize = shape[2..].iter().product();
    let mut out = vec![T::ZERO; shape.iter().product()];
    for channel in 0..shape[0] * shape[1] {
        let dy = &dy[channel * windows..(channel + 1) * windows];
        deal(channel, &spans, dy, &mut out[channel * plane..(channel + 1) * plane]);
    }
    Ok(out)
}

fn max_pool_grad(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let plane: usize = shape[2..].iter().product();
    Ok(vec![
        by_float!(dtype, T => {
            let (x, dy) = (T::read(ctx.tensor(0)?)?, T::read(ctx.tensor(1)?)?);
            let out = each_channel::<T>(ctx, &shape, &dy, |channel, spans, dy, out| {
                let x = &x[channel * plane..(channel + 1) * plane];
                for (o, &dy) in dy.iter().enumerate() {
                    if let Some(at) = largest(x, spans, o).1 {
                        out[at] += dy;
                    }
                }
            })?;
            T::tensor(dtype, shape, out)
        })
        .into(),
    ])
}

fn average_pool_grad(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let padded = ctx.attrs().flag(COUNT_INCLUDE_PAD.name);
    Ok(vec![
        by_float!(dtype, T => {
            let dy = T::read(ctx.tensor(0)?)?;
            let out = each_channel::<T>(ctx, &shape, &dy, |_, spans, dy, out| {
                let mut window = Vec::new();
                for (o, &dy) in dy.iter().enumerate() {
                    window.clear();
                    elements(spans, o, &mut |at| window.push(at));
                    let count = if padded { padded_count(spans, o) } else { window.len() };
                    let share = dy / T::from_f64(count as f64);
                    window.iter().for_each(|&at| out[at] += share);
                }
            })?;
            T::tensor(dtype, shape, out)
        })
        .into(),
    ])
}
