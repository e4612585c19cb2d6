//! `ConvWeightGrad`: the gradient of a convolution's weights.

use super::super::elements::{Float, by_float};
use super::super::matrix::ACCUMULATE;
use super::super::space::{parallel, reduced};
use super::super::{
    Access, Class, Combine, Ctx, Datum, Engine, EvalCtx, Fact, IterSpace, Op, OpDef, Port, Work, opt, req,
    rules,
};
use super::kernel::{Sizes, weight_gradient};
use super::window::{DILATIONS, PADS, STRIDES, Span, Window, windows};
use super::{SPATIAL, divisible};
use crate::{AttrKind, Attrs, Dim};

pub(super) const CONV_WEIGHT_GRAD: OpDef = OpDef {
    inputs: &[Port::One("X"), Port::One("dY")],
    outputs: &[Port::One("dW")],
    attrs: &[
        DILATIONS,
        opt("group_channels", AttrKind::Int, "Input channels of a group; all, which is one group."),
        req("kernel_shape", AttrKind::Ints, "Extents of the window."),
        PADS,
        STRIDES,
        ACCUMULATE,
    ],
    class: Class::Rounding,
    engine: Engine::Matrix,
    infer,
    work,
    space,
    eval,
    ..OpDef::new(
        Op::ConvWeightGrad,
        "Gradient [out, channel / group, kernel...] of a convolution's weights by the images [n, channel, spatial...] that \
         went in and the gradient [n, out, position...] of what came out.",
    )
};

/// The extents of the op.
struct Extents {
    n: Dim,
    in_channels: Dim,
    /// Input channels of a group.
    group_channels: Dim,
    out_channels: Dim,
    input: Vec<Dim>,
    windows: Vec<Window>,
    positions: Vec<Dim>,
    /// None where the channels are open.
    group: Option<i64>,
}

/// None where a rank is unknown. There may be fewer positions than windows fit over the images, as after a transposed
/// convolution whose output was padded.
fn extents(ctx: &Ctx<'_>) -> Result<Option<Extents>, String> {
    let (Some(x), Some(dy)) = (ctx.shape(0), ctx.shape(1)) else { return Ok(None) };
    if x.len() < 3 || dy.len() != x.len() {
        return Err(format!(
            "images [n, channel, spatial...] and a gradient of as many dimensions are needed, got {} and {}",
            rules::shape_text(&x),
            rules::shape_text(&dy)
        ));
    }
    let n = rules::equal(&x[0], &dy[0], || "the batch of the images and of the gradient".into())?;
    let kernel = ctx.attrs().ints("kernel_shape").unwrap_or(&[]);
    if kernel.len() + 2 != x.len() {
        return Err(format!(
            "attribute `kernel_shape` has {} extents for images of {} spatial dimensions",
            kernel.len(),
            x.len() - 2
        ));
    }
    let windows = windows(ctx.attrs(), &kernel.iter().map(|&n| Dim::Known(n)).collect::<Vec<_>>())?;
    for (d, ((window, n), positions)) in windows.iter().zip(&x[2..]).zip(&dy[2..]).enumerate() {
        let most = window.output(n).map_err(|e| format!("{e} in spatial dimension {d}"))?;
        if let (Some(positions), Some(most)) = (positions.known(), most.known())
            && positions > most
        {
            return Err(format!("the gradient has {positions} positions where {most} windows fit"));
        }
    }
    let (group_channels, group) = match ctx.attrs().int("group_channels") {
        None => (x[1].clone(), Some(1)),
        Some(own) if (1..=i64::from(i32::MAX)).contains(&own) => {
            divisible(&x[1], own, "input channels")?;
            (Dim::Known(own), x[1].known().map(|all| (all / own).max(1)))
        }
        Some(own) => return Err(format!("attribute `group_channels` is {own}, must be at least 1")),
    };
    if let Some(group) = group {
        divisible(&dy[1], group, "output channels")?;
    }
    Ok(Some(Extents {
        n,
        in_channels: x[1].clone(),
        group_channels,
        out_channels: dy[1].clone(),
        input: x[2..].to_vec(),
        windows,
        positions: dy[2..].to_vec(),
        group,
    }))
}

impl Extents {
    fn shape(&self) -> Vec<Dim> {
        let kernel = self.windows.iter().map(|w| w.kernel.clone());
        [self.out_channels.clone(), self.group_channels.clone()].into_iter().chain(kernel).collect()
    }
}

fn infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let dtype = rules::float(ctx, 0)?;
    rules::of_type(ctx, [1], dtype)?;
    Ok(vec![match extents(ctx)? {
        Some(e) => Fact::tensor(dtype, e.shape()),
        None => Fact::unranked(dtype),
    }])
}

/// As many products as the convolution has.
fn work(ctx: &Ctx<'_>) -> Work {
    let Ok(Some(e)) = extents(ctx) else { return Work::NONE };
    Work::macs(e.n.clone() * rules::product(&e.positions) * rules::product(&e.shape()))
}

/// Cut over channels, and with partial results over images and positions.
fn space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let e = extents(ctx).ok()??;
    let group = e.group?;
    let (mut axes, x_channel, dy_channel, in_channel);
    if group == 1 {
        axes = vec![parallel("out_channel", e.out_channels.clone()), parallel("in_channel", e.in_channels)];
        (x_channel, dy_channel, in_channel) = (Access::along(1), Access::along(0), Access::along(1));
    } else {
        let by = Dim::Known(group);
        axes = vec![parallel("group", by.clone())];
        x_channel = Access::Along { axis: 0, scale: e.group_channels.clone() };
        dy_channel = Access::Along { axis: 0, scale: e.out_channels.floor_div(&by) };
        in_channel = Access::Whole;
    }
    let mut out = vec![dy_channel.clone(), in_channel];
    out.resize(2 + e.windows.len(), Access::Whole);
    let n = Access::along(axes.len());
    axes.push(reduced("n", e.n, Combine::Sum));
    let (mut x, mut dy) = (vec![n.clone(), x_channel], vec![n, dy_channel]);
    for (d, window) in e.windows.iter().enumerate() {
        x.push(window.access(&e.input[d], axes.len())?);
        dy.push(Access::along(axes.len()));
        let name = SPATIAL[d.min(2) + 3 - e.windows.len().min(3)];
        axes.push(reduced(name, e.positions[d].clone(), Combine::Sum));
    }
    let part_attrs = Attrs::new().with("pads", vec![0; 2 * e.windows.len()]);
    Some(IterSpace { axes, inputs: vec![x, dy], outputs: vec![out], part_attrs, padding: 0.0 })
}

fn eval(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let (x, dy) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let kernel: Vec<Dim> = shape[2..].iter().map(|&n| Dim::from(n)).collect();
    let mut spans = Span::all(&windows(ctx.attrs(), &kernel)?, &x.shape()[2..])?;
    spans.iter_mut().zip(&dy.shape()[2..]).for_each(|(span, &positions)| span.output = positions);
    let groups = (x.shape()[1] / shape[1].max(1)).max(1);
    let sizes = Sizes { images: x.shape()[0], groups, inputs: shape[1], outputs: shape[0] / groups };
    let how = ctx.accumulation(dtype)?;
    Ok(vec![
        by_float!(dtype, T => {
            let sums = weight_gradient::<T>(&sizes, &spans, &T::read(x)?, &T::read(dy)?, how);
            T::tensor(dtype, shape, sums)
        })
        .into(),
    ])
}
