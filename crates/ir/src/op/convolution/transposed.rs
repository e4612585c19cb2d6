//! `ConvTranspose`: every input element adds its window to the output.

use super::super::elements::by_float;
use super::super::matrix::ACCUMULATE;
use super::super::space::{parallel, reduced};
use super::super::{
    Access, Class, Combine, Ctx, Datum, Engine, EvalCtx, Fact, IterSpace, Op, OpDef, Port, Work, opt, rules,
};
use super::kernel::{Sizes, convolve_transposed};
use super::window::{
    AUTO_PAD, DILATIONS, KERNEL_SHAPE, PADS, Padding, STRIDES, Span, Window, numbers, windows,
};
use super::{GROUP, SPATIAL, add_bias, divisible};
use crate::{AttrKind, Attrs, Dim};

pub(super) const CONV_TRANSPOSE: OpDef = OpDef {
    inputs: &[Port::One("X"), Port::One("W"), Port::Optional("B")],
    outputs: &[Port::One("Y")],
    attrs: &[
        AUTO_PAD,
        DILATIONS,
        GROUP,
        KERNEL_SHAPE,
        opt("output_padding", AttrKind::Ints, "Elements added at the end of each output dimension; 0."),
        opt("output_shape", AttrKind::Ints, "Spatial extents of the output, from which padding follows."),
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
        Op::ConvTranspose,
        "Transpose of a convolution: images [n, channel, spatial...] with weights [channel, out / group, kernel...], plus \
         a bias.",
    )
};

/// The extents of the op, as far as known.
struct Extents {
    n: Dim,
    channels: Dim,
    /// Output channels of a group.
    group_outputs: Dim,
    group: i64,
    input: Vec<Dim>,
    windows: Vec<Window>,
    output: Vec<Dim>,
    /// Padding in front; none where it depends on an unknown extent.
    before: Vec<Option<i64>>,
}

fn group(attrs: &Attrs, channels: &Dim) -> Result<i64, String> {
    match attrs.int_or("group", 1) {
        given if (1..=i64::from(i32::MAX)).contains(&given) => {
            divisible(channels, given, "input channels")?;
            Ok(given)
        }
        given => Err(format!("attribute `group` is {given}, must be at least 1")),
    }
}

fn extents(ctx: &Ctx<'_>) -> Result<Option<Extents>, String> {
    let (Some(x), Some(w)) = (ctx.shape(0), ctx.shape(1)) else { return Ok(None) };
    if x.len() < 3 || w.len() != x.len() {
        return Err(format!(
            "images [n, channel, spatial...] and weights of as many dimensions are needed, got {} and {}",
            rules::shape_text(&x),
            rules::shape_text(&w)
        ));
    }
    rules::equal(&x[1], &w[0], || "the input's channels and the weights' first extent".into())?;
    let group = group(ctx.attrs(), &x[1])?;
    let windows = windows(ctx.attrs(), &w[2..])?;
    let count = windows.len();
    let added = numbers(ctx.attrs(), "output_padding", count, 0, 0)?;
    let asked = match ctx.attrs().ints("output_shape") {
        // Some exporters give the whole output shape.
        Some(shape) if shape.len() == x.len() => Some(shape[2..].to_vec()),
        Some(_) => Some(numbers(ctx.attrs(), "output_shape", count, 0, 0)?),
        None => None,
    };
    let (mut output, mut before) = (Vec::new(), Vec::new());
    for (d, window) in windows.iter().enumerate() {
        let stride = Dim::Known(window.stride);
        let full =
            (x[d + 2].clone() - Dim::Known(1)) * stride.clone() + window.reach() + Dim::Known(added[d]);
        let extent = match (&asked, window.padding) {
            (Some(asked), _) => Dim::Known(asked[d]),
            (None, Padding::Given { before, after }) => full.clone() - Dim::Known(before) - Dim::Known(after),
            (None, _) => x[d + 2].clone() * stride,
        };
        if extent.known().is_some_and(|n| n < 0) {
            return Err(format!("padding leaves {extent} elements in spatial dimension {d}"));
        }
        before.push(match window.padding {
            Padding::Given { before, .. } if asked.is_none() => Some(before),
            padding => (full - extent.clone()).known().map(|total| {
                let total = total.max(0);
                if padding == Padding::SameUpper { total / 2 } else { total - total / 2 }
            }),
        });
        output.push(extent);
    }
    Ok(Some(Extents {
        n: x[0].clone(),
        channels: x[1].clone(),
        group_outputs: w[1].clone(),
        group,
        input: x[2..].to_vec(),
        windows,
        output,
        before,
    }))
}

impl Extents {
    fn out_channels(&self) -> Dim {
        self.group_outputs.clone() * Dim::Known(self.group)
    }
}

fn infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let dtype = rules::float(ctx, 0)?;
    rules::of_type(ctx, [1, 2], dtype)?;
    let Some(e) = extents(ctx)? else { return Ok(vec![Fact::unranked(dtype)]) };
    rules::has_shape(ctx, 2, &[e.out_channels()])?;
    let shape = [e.n.clone(), e.out_channels()].into_iter().chain(e.output).collect();
    Ok(vec![Fact::tensor(dtype, shape)])
}

fn work(ctx: &Ctx<'_>) -> Work {
    let Ok(Some(e)) = extents(ctx) else { return Work::NONE };
    let kernel: Dim = e.windows.iter().map(|w| w.kernel.clone()).product();
    let input = e.n.clone() * e.channels.clone() * rules::product(&e.input);
    let bias = if ctx.has(2) { ctx.output_elements(0) } else { Dim::Known(0) };
    Work { macs: input * e.group_outputs * kernel, vector: bias, ..Work::NONE }
}

/// How blocks of `stride` elements of an output dimension follow from the input.
struct Blocks {
    /// Number of blocks.
    count: Dim,
    /// Elements of the input in front of a block's own that reach into it.
    before: i64,
    /// Elements of the input that one block needs.
    reach: i64,
    /// Padding of a part: what the windows of its elements reach beyond it, in front and behind.
    pads: [i64; 2],
}

impl Blocks {
    /// Element `i` of the input reaches outputs `i * stride - pad ..+ reach`. None where the output is no whole number of
    /// blocks.
    fn of(window: &Window, output: &Dim, pad: i64) -> Option<Self> {
        let (stride, reach, output) = (window.stride, window.reach().known()?, output.known()?);
        if output % stride != 0 || pad < 0 || pad >= reach {
            return None;
        }
        let (before, after) = ((reach - 1 - pad) / stride, (stride - 1 + pad) / stride);
        Some(Self {
            count: Dim::Known(output / stride),
            before,
            reach: before + 1 + after,
            pads: [before * stride + pad, (after - 1) * stride + reach - pad],
        })
    }
}

/// Cut over images, output channels and blocks of `stride` output positions, and with partial results over input channels.
fn space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let e = extents(ctx).ok()??;
    let mut axes = vec![parallel("n", e.n.clone())];
    let (mut out_channel, mut in_channel) = (Access::Whole, Access::Whole);
    if e.group == 1 {
        axes.push(parallel("out_channel", e.group_outputs.clone()));
        out_channel = Access::along(1);
    }
    // Padding is given anew for all dimensions or for none.
    let dims = e.windows.iter().zip(&e.output).zip(&e.before);
    let blocks: Option<Vec<Blocks>> =
        dims.map(|((window, output), before)| Blocks::of(window, output, (*before)?)).collect();
    let blocks = blocks.filter(|_| ctx.attrs().ints("output_shape").is_none());
    let (mut places, mut made) = (Vec::new(), Vec::new());
    let mut part_attrs = Attrs::new();
    match blocks {
        Some(blocks) => {
            for (d, block) in blocks.iter().enumerate() {
                let axis = axes.len();
                let own = (block.before, block.reach) == (0, 1) && block.count == e.input[d];
                places.push(match own {
                    true => Access::along(axis),
                    false => Access::Window { axis, stride: 1, before: block.before, reach: block.reach },
                });
                made.push(Access::Along { axis, scale: Dim::Known(e.windows[d].stride) });
                let name = SPATIAL[d.min(2) + 3 - e.windows.len().min(3)];
                axes.push(parallel(name, block.count.clone()));
            }
            // Windows that end before their block does leave its last elements to be added.
            let side = |of: fn(&Blocks) -> i64| blocks.iter().map(move |b| of(b).max(0));
            part_attrs.set("pads", side(|b| b.pads[0]).chain(side(|b| b.pads[1])).collect::<Vec<_>>());
            part_attrs.set("output_padding", side(|b| -b.pads[1]).collect::<Vec<_>>());
            part_attrs.set("auto_pad", "NOTSET");
        }
        None => {
            places.resize(e.windows.len(), Access::Whole);
            made.resize(e.windows.len(), Access::Whole);
        }
    }
    if e.group == 1 && !ctx.has(2) {
        in_channel = Access::along(axes.len());
        axes.push(reduced("in_channel", e.channels, Combine::Sum));
    }
    let input = [Access::along(0), in_channel.clone()].into_iter().chain(places).collect();
    let output = [Access::along(0), out_channel.clone()].into_iter().chain(made).collect();
    let kernel = e.windows.iter().map(|_| Access::Whole);
    let weights = [in_channel, out_channel.clone()].into_iter().chain(kernel).collect();
    let mut inputs = vec![input, weights];
    if ctx.input_count() > 2 {
        inputs.push(if ctx.has(2) { vec![out_channel] } else { Vec::new() });
    }
    Some(IterSpace { axes, inputs, outputs: vec![output], part_attrs, padding: 0.0 })
}

/// The windows that the input's elements add to an output of spatial extents `output`, nothing said of the padding behind;
/// and the number of groups.
pub(super) fn spans(ctx: &Ctx<'_>, output: &[i64]) -> Result<(Vec<Span>, i64), String> {
    let open = "its shapes are not known";
    let e = extents(ctx)?.ok_or(open)?;
    let spans: Option<Vec<Span>> = (0..e.windows.len())
        .map(|d| {
            let window = &e.windows[d];
            Some(Span {
                input: usize::try_from(output[d]).ok()?,
                output: e.input[d].extent()?,
                kernel: window.kernel.extent()?,
                stride: window.stride,
                dilation: window.dilation,
                before: e.before[d]?,
                after: 0,
            })
        })
        .collect();
    Ok((spans.ok_or(open)?, e.group))
}

fn eval(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let (x, w) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let facts = [x, w].map(|t| Some(Fact::constant(t)));
    let rule = Ctx {
        node: ctx.node,
        inputs: &facts,
        outputs: &[],
        output_names: &[],
        infer_body: &|_, _| Err("it has no body".into()),
    };
    let (spans, group) = spans(&rule, &shape[2..].iter().map(|&n| n as i64).collect::<Vec<_>>())?;
    let groups = group as usize;
    let sizes = Sizes { images: shape[0], groups, inputs: w.shape()[0] / groups, outputs: w.shape()[1] };
    let how = ctx.accumulation(dtype)?;
    Ok(vec![
        by_float!(dtype, T => {
            use super::super::elements::Float;
            let mut out = convolve_transposed::<T>(&sizes, &spans, &T::read(x)?, &T::read(w)?, how);
            if let Some(bias) = ctx.optional(2)? {
                add_bias(&mut out, &T::read(bias)?, shape[2..].iter().product());
            }
            T::tensor(dtype, shape, out)
        })
        .into(),
    ])
}
