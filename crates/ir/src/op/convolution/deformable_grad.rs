//! `DeformConvGrad`: from what a deformed convolution read back to images, offsets and masks; and the whole gradient rule.

use super::super::elements::{Float, by_float};
use super::super::space::parallel;
use super::super::{
    Access, Class, Ctx, Datum, EvalCtx, Fact, IterSpace, Op, OpDef, Port, Work, req, rules,
};
use super::deformable::{FORM, OFFSET_GROUP, Places, corners, offset_groups};
use super::gradient::{OPEN, bias};
use super::kernel;
use super::window::{DILATIONS, PADS, STRIDES, Span, Window, windows};
use super::{divisible, outputs};
use crate::gradient::Backward;
use crate::{AttrKind, Attrs, Dim};
use orrery_numerics::Tensor;

const OFFSET: usize = 1;
const SAMPLES: usize = 2;
const MASK: usize = 3;

pub(super) const DEFORM_CONV_GRAD: OpDef = OpDef {
    inputs: &[Port::One("X"), Port::One("offset"), Port::One("dsamples"), Port::Optional("mask")],
    outputs: &[Port::One("dX"), Port::One("doffset"), Port::Optional("dmask")],
    attrs: &[
        DILATIONS,
        req("kernel_shape", AttrKind::Ints, "Extents of the window."),
        OFFSET_GROUP,
        PADS,
        STRIDES,
    ],
    class: Class::Rounding,
    infer,
    // For each of the 2^d corners of a sample a product and a sum: for the element, the mask, and each coordinate.
    work: |ctx| {
        let dims = ctx.rank(0).map_or(0, |rank| rank as i64 - 2).clamp(0, 32);
        Work::vector(ctx.input_elements(SAMPLES) * Dim::Known((2 << dims) * (2 + dims)), Dim::Known(0))
    },
    space,
    eval,
    ..OpDef::new(
        Op::DeformConvGrad,
        "Gradients of image, offsets and mask of DeformConv by that of what it read, [n, channel x kernel element, \
         position...]. Not part of ONNX.",
    )
};

/// The windows over images of a shape.
fn windows_over(ctx: &Ctx<'_>, x: &[Dim]) -> Result<Vec<Window>, String> {
    let kernel = ctx.attrs().ints("kernel_shape").unwrap_or(&[]);
    if x.len() < 3 || kernel.len() + 2 != x.len() {
        let shape = rules::shape_text(x);
        return Err(format!("attribute `kernel_shape` has {} extents for images {shape}", kernel.len()));
    }
    windows(ctx.attrs(), &kernel.iter().map(|&n| Dim::Known(n)).collect::<Vec<_>>())
}

fn infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let dtype = rules::float(ctx, 0)?;
    rules::of_type(ctx, 1..4, dtype)?;
    if let Some(x) = ctx.shape(0) {
        let windows = windows_over(ctx, &x)?;
        let output = outputs(&windows, &x[2..])?;
        let groups = offset_groups(ctx.attrs())?;
        divisible(&x[1], groups as i64, "input channels")?;
        let kernel: Dim = windows.into_iter().map(|w| w.kernel).product();
        let shape = |channels: Dim| [vec![x[0].clone(), channels], output.clone()].concat();
        let places = kernel.clone() * Dim::from(groups);
        rules::has_shape(ctx, OFFSET, &shape(places.clone() * Dim::from(output.len())))?;
        rules::has_shape(ctx, SAMPLES, &shape(x[1].clone() * kernel))?;
        rules::has_shape(ctx, MASK, &shape(places))?;
    }
    if ctx.output_count() > 2 && !ctx.has(MASK) {
        return Err("there is no mask to have a gradient".into());
    }
    let facts = [0, OFFSET, MASK].into_iter().filter_map(|i| ctx.fact(i));
    Ok(facts.map(|fact| Fact::of(fact.ty.clone())).collect())
}

/// Samples add to the same elements, and all channels to the gradients of their places.
fn space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let x = ctx.shape(0)?;
    let mut access = vec![Access::Whole; x.len()];
    access[0] = Access::along(0);
    let of = |i: usize| if ctx.has(i) { access.clone() } else { Vec::new() };
    Some(IterSpace {
        axes: vec![parallel("n", x[0].clone())],
        inputs: (0..ctx.input_count()).map(of).collect(),
        outputs: vec![access.clone(); ctx.output_count()],
        part_attrs: Attrs::new(),
        padding: 0.0,
    })
}

fn eval(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let types = rules::check(ctx)?;
    let (dtype, shape) = types[0].clone();
    let kernel = ctx.attrs().ints("kernel_shape").unwrap_or(&[]).iter().map(|&n| Dim::Known(n));
    let spans = Span::all(&windows(ctx.attrs(), &kernel.collect::<Vec<_>>())?, &shape[2..])?;
    let offset_groups = offset_groups(ctx.attrs())?;
    let over = kernel::Windows::new(&spans);
    let (input, per_channel) = (over.input(), over.kernel() * over.count());
    Ok(by_float!(dtype, T => {
        let [x, offset, dsamples] = [T::read(ctx.tensor(0)?)?, T::read(ctx.tensor(1)?)?, T::read(ctx.tensor(2)?)?];
        let mask = ctx.optional(MASK)?.map(T::read).transpose()?;
        let mut made = [x.len(), offset.len(), mask.as_ref().map_or(0, |m| m.len())].map(|n| vec![T::ZERO; n]);
        let [dx, doffset, dmask] = &mut made;
        let channels = shape[1];
        let places = Places { spans: &spans, offset_groups, channels, offset: &offset, mask: mask.as_deref() };
        for image in 0..shape[0] {
            places.each(image, |sample| {
                let straight = corners(&spans, &sample.place, None);
                let sloping: Vec<_> =
                    (0..spans.len()).map(|d| corners(&spans, &sample.place, Some(d))).collect();
                for channel in sample.channels.map(|c| image * channels + c) {
                    let plane = channel * input..(channel + 1) * input;
                    let (from, to) = (&x[plane.clone()], &mut dx[plane]);
                    let back = dsamples[channel * per_channel + sample.index];
                    let read = |corners: &[(usize, T)]| corners.iter().map(|&(at, w)| from[at] * w).sum::<T>();
                    if let Some(dmask) = dmask.get_mut(sample.mask_at) {
                        *dmask += back * read(&straight);
                    }
                    let back = back * sample.factor;
                    straight.iter().for_each(|&(at, weight)| to[at] += back * weight);
                    for (&at, corners) in sample.offset_at.iter().zip(&sloping) {
                        doffset[at] += back * read(corners);
                    }
                }
            });
        }
        let made = made.into_iter().zip(types).take(ctx.output_count());
        made.map(|(values, (dtype, shape))| T::tensor(dtype, shape, values).into()).collect()
    }))
}

/// What was read are the columns of a matrix that the weights are multiplied with; a convolution with the identity for
/// weights reads them again.
pub(super) fn gradient(b: &mut Backward<'_>) -> orrery_base::Result<()> {
    let (x, w, offset, dy) = (b.x(0)?, b.x(1)?, b.x(2)?, b.dy0()?);
    let (spans, group) = b.known(|ctx| {
        let e = FORM.extents(ctx)?.ok_or(OPEN)?;
        let input: Option<Vec<usize>> = e.input.iter().map(Dim::extent).collect();
        Ok((Span::all(&e.windows, &input.ok_or(OPEN)?)?, e.group.ok_or(OPEN)?))
    })?;
    let offset_groups = b.attrs().int_or("offset_group", 1);
    let attrs = || Span::describe(&spans, Attrs::new()).with("offset_group", offset_groups);
    let (w_shape, y_shape, dtype) = (b.shape(w)?, b.shape(dy)?, b.dtype(dy));
    let taps: i64 = w_shape[2..].iter().product();
    let (n, positions) = (y_shape[0], y_shape[2..].iter().product::<i64>());
    let (outputs, rows) = (w_shape[0] / group, w_shape[1] * taps);
    let read = [vec![n, group * rows], y_shape[2..].to_vec()].concat();
    let mask = b.given(4);
    if b.wants(1) {
        let channels = group * w_shape[1];
        let side = taps as usize;
        let unit = (0..channels as usize * side * side)
            .map(|i| if (i % (side * side)).is_multiple_of(side + 1) { 1.0 } else { 0.0 });
        let extents = [channels * taps, 1].into_iter().chain(w_shape[2..].iter().copied());
        let unit = Tensor::from_vec(extents.map(|n| n as usize).collect(), unit.collect::<Vec<f64>>());
        let unit = b.tensor("identity", unit);
        let unit = b.cast(unit, dtype)?;
        let inputs = [Some(x), Some(unit), Some(offset), None, mask];
        let columns = b.ops(Op::DeformConv, &inputs, attrs().with("group", channels), 1)?[0];
        let columns = b.reshape(columns, &[n, group, rows, positions])?;
        let columns = b.transpose(columns, &[1, 0, 3, 2])?;
        let columns = b.reshape(columns, &[group, n * positions, rows])?;
        let sent = b.reshape(dy, &[n, group, outputs, positions])?;
        let sent = b.transpose(sent, &[1, 2, 0, 3])?;
        let sent = b.reshape(sent, &[group, outputs, n * positions])?;
        let dw = b.matmul(sent, columns)?;
        let dw = b.reshape(dw, &w_shape)?;
        b.give(1, dw);
    }
    if [0, 2, 4].into_iter().any(|i| b.wants(i)) {
        let turned = b.reshape(w, &[group, outputs, rows])?;
        let turned = b.transpose_last(turned)?;
        let sent = b.reshape(dy, &[n, group, outputs, positions])?;
        let dsamples = b.matmul(turned, sent)?;
        let dsamples = b.reshape(dsamples, &read)?;
        let mut inputs = vec![Some(x), Some(offset), Some(dsamples)];
        inputs.extend(mask.map(Some));
        let outputs = if b.wants(4) { 3 } else { 2 };
        let made = b.ops(Op::DeformConvGrad, &inputs, attrs(), outputs)?;
        for (i, gradient) in [0, 2, 4].into_iter().zip(made) {
            b.give(i, gradient);
        }
    }
    bias(b, dy, 3)
}
