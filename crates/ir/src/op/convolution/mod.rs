//! Ops of the family `convolution`.

mod deformable;
mod deformable_grad;
pub(super) mod gradient;
mod integer;
mod kernel;
mod transposed;
mod weight_grad;
pub(super) mod window;

use super::elements::{Float, by_float};
use super::matrix::ACCUMULATE;
use super::space::{parallel, reduced};
use super::{
    Access, AttrDef, Class, Combine, Ctx, Datum, Engine, EvalCtx, Fact, IterSpace, Op, OpDef, Port, Work,
    opt, rules,
};
use crate::{AttrKind, Attrs, Dim};
use kernel::Sizes;
use orrery_numerics::DType;
use window::{AUTO_PAD, DILATIONS, KERNEL_SHAPE, PADS, STRIDES, Span, Window, windows};

/// The entries.
pub const TABLE: &[OpDef] = &[
    OpDef {
        inputs: &[Port::One("X"), Port::One("W"), Port::Optional("B")],
        outputs: &[Port::One("Y")],
        attrs: &[AUTO_PAD, DILATIONS, GROUP, KERNEL_SHAPE, PADS, STRIDES, ACCUMULATE],
        class: Class::Rounding,
        engine: Engine::Matrix,
        infer: |ctx| {
            let dtype = rules::float(ctx, 0)?;
            rules::of_type(ctx, [1, 2], dtype)?;
            PLAIN.infer(ctx, dtype)
        },
        work: |ctx| PLAIN.work(ctx),
        space: |ctx| PLAIN.space(ctx, !ctx.has(2), Some(0.0)),
        eval: conv,
        ..OpDef::new(
            Op::Conv,
            "Convolution of images [n, channel, spatial...] with weights [out, channel / group, kernel...], plus a bias.",
        )
    }
    .gradient(gradient::conv),
    transposed::CONV_TRANSPOSE.gradient(gradient::conv_transpose),
    integer::CONV_INTEGER.flat(),
    integer::QLINEAR_CONV.flat(),
    deformable::DEFORM_CONV.gradient(deformable_grad::gradient),
    deformable_grad::DEFORM_CONV_GRAD,
    weight_grad::CONV_WEIGHT_GRAD,
];

const GROUP: AttrDef = opt(
    "group",
    AttrKind::Int,
    "Groups of channels convolved apart; 1. 0 takes what the shapes say, for parts of a cut op.",
);

/// Where a convolution's operands stand among the inputs.
struct Form {
    x: usize,
    w: usize,
    bias: Option<usize>,
    /// Inputs with one value or one for each output channel.
    per_channel: &'static [usize],
}

const PLAIN: Form = Form { x: 0, w: 1, bias: Some(2), per_channel: &[] };

/// The extents of a convolution, as far as known.
struct Extents {
    n: Dim,
    in_channels: Dim,
    /// Input channels of a group.
    group_channels: Dim,
    out_channels: Dim,
    input: Vec<Dim>,
    windows: Vec<Window>,
    output: Vec<Dim>,
    /// None where the shapes leave it open.
    group: Option<i64>,
}

impl Form {
    /// None where a rank is unknown.
    fn extents(&self, ctx: &Ctx<'_>) -> Result<Option<Extents>, String> {
        let x = ctx.shape(self.x);
        if let Some(shape) = &x
            && shape.len() < 3
        {
            let (name, shape) = (rules::input_name(ctx, self.x), rules::shape_text(shape));
            return Err(format!(
                "input `{name}` must have a batch, a channel and at least one spatial dimension, has {shape}"
            ));
        }
        let (Some(x), Some(w)) = (x, ctx.shape(self.w)) else { return Ok(None) };
        if w.len() != x.len() {
            let w_name = rules::input_name(ctx, self.w);
            return Err(format!(
                "images of {} dimensions need weights of as many, input `{w_name}` has {}",
                x.len(),
                rules::shape_text(&w)
            ));
        }
        let windows = windows(ctx.attrs(), &w[2..])?;
        let output = outputs(&windows, &x[2..])?;
        let group = group(ctx.attrs(), &x[1], &w[1])?;
        if let Some(group) = group {
            rules::equal(&x[1], &(w[1].clone() * Dim::Known(group)), || {
                format!("the input's channels and the weights' channels times {group} groups")
            })?;
            divisible(&w[0], group, "output channels")?;
        }
        Ok(Some(Extents {
            n: x[0].clone(),
            in_channels: x[1].clone(),
            group_channels: w[1].clone(),
            out_channels: w[0].clone(),
            input: x[2..].to_vec(),
            windows,
            output,
            group,
        }))
    }
    fn infer(&self, ctx: &Ctx<'_>, dtype: DType) -> Result<Vec<Fact>, String> {
        let Some(e) = self.extents(ctx)? else { return Ok(vec![Fact::unranked(dtype)]) };
        if let Some(bias) = self.bias {
            rules::has_shape(ctx, bias, std::slice::from_ref(&e.out_channels))?;
        }
        for &i in self.per_channel {
            rules::one_or_vector(ctx, i, &e.out_channels)?;
        }
        Ok(vec![Fact::tensor(dtype, e.shape())])
    }
    fn work(&self, ctx: &Ctx<'_>) -> Work {
        let Ok(Some(e)) = self.extents(ctx) else { return Work::NONE };
        let out = rules::product(&e.shape());
        let kernel: Dim = e.windows.iter().map(|w| w.kernel.clone()).product();
        let bias = self.bias.is_some_and(|i| ctx.has(i));
        Work {
            macs: out.clone() * e.group_channels.clone() * kernel,
            vector: if bias { out } else { Dim::Known(0) },
            ..Work::NONE
        }
    }
    /// How it is cut; along the input channels only where partial results can be `added`, along spatial dimensions
    /// only where it is known what `padding` holds.
    fn space(&self, ctx: &Ctx<'_>, added: bool, padding: Option<f64>) -> Option<IterSpace> {
        let e = self.extents(ctx).ok()??;
        let group = e.group?;
        let mut axes = vec![parallel("n", e.n.clone())];
        let mut x = vec![Access::along(0)];
        let mut w;
        let out_channel;
        if group == 1 {
            axes.push(parallel("out_channel", e.out_channels.clone()));
            out_channel = Access::along(1);
            w = vec![out_channel.clone()];
        } else {
            let by = Dim::Known(group);
            axes.push(parallel("group", by.clone()));
            out_channel = Access::Along { axis: 1, scale: e.out_channels.floor_div(&by) };
            x.push(Access::Along { axis: 1, scale: e.group_channels.clone() });
            w = vec![out_channel.clone(), Access::Whole];
        }
        let mut out = vec![Access::along(0), out_channel.clone()];
        let mut spatial = Vec::new();
        for (d, window) in e.windows.iter().enumerate() {
            match window.access(&e.input[d], axes.len()).filter(|_| padding.is_some()) {
                Some(access) => {
                    out.push(Access::along(axes.len()));
                    spatial.push(access);
                    axes.push(parallel(SPATIAL[d.min(2) + 3 - e.windows.len().min(3)], e.output[d].clone()));
                }
                None => {
                    out.push(Access::Whole);
                    spatial.push(Access::Whole);
                }
            }
        }
        if group == 1 {
            let channel = if added {
                axes.push(reduced("in_channel", e.in_channels, Combine::Sum));
                Access::along(axes.len() - 1)
            } else {
                Access::Whole
            };
            x.push(channel.clone());
            w.push(channel);
        }
        let all_cut = spatial.iter().all(|a| *a != Access::Whole);
        let none_cut = spatial.iter().all(|a| *a == Access::Whole);
        if !all_cut && !none_cut {
            // Padding is given up for all dimensions or for none.
            return None;
        }
        x.extend(spatial);
        w.extend(vec![Access::Whole; e.windows.len()]);
        let inputs = (0..ctx.input_count()).map(|i| {
            if i == self.x {
                x.clone()
            } else if i == self.w {
                w.clone()
            } else {
                match ctx.shape(i).as_deref() {
                    None | Some([]) => Vec::new(),
                    Some([one]) if one.is(1) && Some(i) != self.bias => vec![Access::Whole],
                    _ => vec![out_channel.clone()],
                }
            }
        });
        let inputs = inputs.collect();
        let mut part_attrs = Attrs::new();
        if all_cut {
            part_attrs.set("pads", vec![0; 2 * e.windows.len()]);
            part_attrs.set("auto_pad", "NOTSET");
        }
        if group != 1 {
            part_attrs.set("group", 0);
        }
        Some(IterSpace { axes, inputs, outputs: vec![out], part_attrs, padding: padding.unwrap_or(0.0) })
    }
}

/// Names of spatial axes: the last three of them.
const SPATIAL: [&str; 3] = ["depth", "height", "width"];

impl Extents {
    fn shape(&self) -> Vec<Dim> {
        [self.n.clone(), self.out_channels.clone()].into_iter().chain(self.output.iter().cloned()).collect()
    }
}

/// Extents after windows have gone over `input`.
pub(super) fn outputs(windows: &[Window], input: &[Dim]) -> Result<Vec<Dim>, String> {
    windows
        .iter()
        .zip(input)
        .enumerate()
        .map(|(d, (w, n))| w.output(n).map_err(|e| format!("{e} in spatial dimension {d}")))
        .collect()
}

/// The number of groups; none where it follows from extents that are not known.
fn group(attrs: &Attrs, channels: &Dim, group_channels: &Dim) -> Result<Option<i64>, String> {
    match attrs.int_or("group", 1) {
        0 => Ok(match (channels.known(), group_channels.known()) {
            (Some(all), Some(own)) if own > 0 => Some((all / own).max(1)),
            _ => None,
        }),
        given if (1..=i64::from(i32::MAX)).contains(&given) => Ok(Some(given)),
        given => Err(format!("attribute `group` is {given}, must be at least 1")),
    }
}

/// Checks that a number of channels, where known, falls into groups.
fn divisible(channels: &Dim, groups: i64, what: &str) -> Result<(), String> {
    match channels.known() {
        Some(n) if n % groups != 0 => Err(format!("{n} {what} cannot be divided into {groups} groups")),
        _ => Ok(()),
    }
}

/// A context's extents when all shapes are numbers, for meanings.
struct Known {
    sizes: Sizes,
    spans: Vec<Span>,
}

impl Known {
    /// From shapes that the type rule has accepted.
    fn new(ctx: &EvalCtx<'_>, form: &Form) -> Result<Self, String> {
        let (x, w) = (ctx.tensor(form.x)?.shape(), ctx.tensor(form.w)?.shape());
        let dims = |shape: &[usize]| shape.iter().map(|&n| Dim::from(n)).collect::<Vec<_>>();
        let spans = Span::all(&windows(ctx.attrs(), &dims(&w[2..]))?, &x[2..])?;
        let groups = group(ctx.attrs(), &Dim::from(x[1]), &Dim::from(w[1]))?.unwrap_or(1) as usize;
        Ok(Self { sizes: Sizes { images: x[0], groups, inputs: w[1], outputs: w[0] / groups }, spans })
    }
}

/// Adds a bias to each channel of images whose channels have `plane` elements.
fn add_bias<T: Float>(values: &mut [T], bias: &[T], plane: usize) {
    if plane > 0 {
        for (values, &b) in values.chunks_exact_mut(plane).zip(bias.iter().cycle()) {
            values.iter_mut().for_each(|v| *v += b);
        }
    }
}

fn conv(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let known = Known::new(ctx, &PLAIN)?;
    let how = ctx.accumulation(dtype)?;
    Ok(vec![
        by_float!(dtype, T => {
            let (x, w) = (T::read(ctx.tensor(0)?)?, T::read(ctx.tensor(1)?)?);
            let mut out = kernel::convolve::<T>(&known.sizes, &known.spans, &x, &w, how);
            if let Some(bias) = ctx.optional(2)? {
                add_bias(&mut out, &T::read(bias)?, shape[2..].iter().product());
            }
            T::tensor(dtype, shape, out)
        })
        .into(),
    ])
}
