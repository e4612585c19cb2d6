//! Convolutions of quantised images: exact in 32 bits.

use super::super::elements::integers;
use super::super::matrix::requantise;
use super::super::{Class, Ctx, Datum, Engine, EvalCtx, Op, OpDef, Port, Work, rules};
use super::window::{AUTO_PAD, DILATIONS, KERNEL_SHAPE, PADS, STRIDES};
use super::{Form, GROUP, Known, kernel};
use crate::Dim;
use orrery_numerics::{DType, Tensor};

pub(super) const CONV_INTEGER: OpDef = OpDef {
    inputs: &[Port::One("x"), Port::One("w"), Port::Optional("x_zero_point"), Port::Optional("w_zero_point")],
    outputs: &[Port::One("y")],
    attrs: &[AUTO_PAD, DILATIONS, GROUP, KERNEL_SHAPE, PADS, STRIDES],
    engine: Engine::Matrix,
    infer: |ctx| {
        let (x, w) = (rules::eight_bit(ctx, 0)?, rules::eight_bit(ctx, 1)?);
        rules::of_type(ctx, [2], x)?;
        rules::of_type(ctx, [3], w)?;
        rules::one_or_vector(ctx, 2, &Dim::Known(1))?;
        INTEGER.infer(ctx, DType::I32)
    },
    work: |ctx| INTEGER.work(ctx),
    space: |ctx| INTEGER.space(ctx, true, zero_point(ctx, 2)),
    eval: |ctx| {
        let (dtype, shape) = rules::check_one(ctx)?;
        let sums = convolve(ctx, &INTEGER, ctx.optional(2)?, ctx.optional(3)?)?;
        Ok(vec![Tensor::from_raw(dtype, shape, sums).into()])
    },
    ..OpDef::new(
        Op::ConvInteger,
        "Convolution of 8-bit integers less their zero points, summed in i32 with wrap-around; padding counts as zero.",
    )
};

pub(super) const QLINEAR_CONV: OpDef = OpDef {
    inputs: &[
        Port::One("x"),
        Port::One("x_scale"),
        Port::One("x_zero_point"),
        Port::One("w"),
        Port::One("w_scale"),
        Port::One("w_zero_point"),
        Port::One("y_scale"),
        Port::One("y_zero_point"),
        Port::Optional("B"),
    ],
    outputs: &[Port::One("y")],
    attrs: &[AUTO_PAD, DILATIONS, GROUP, KERNEL_SHAPE, PADS, STRIDES],
    class: Class::Rounding,
    engine: Engine::Matrix,
    infer: |ctx| {
        let (x, w) = (rules::eight_bit(ctx, 0)?, rules::eight_bit(ctx, 3)?);
        rules::of_type(ctx, [2], x)?;
        rules::of_type(ctx, [5], w)?;
        rules::of_type(ctx, [1, 4, 6], DType::F32)?;
        rules::of_type(ctx, [8], DType::I32)?;
        for i in [1, 2, 6, 7] {
            rules::one_or_vector(ctx, i, &Dim::Known(1))?;
        }
        QLINEAR.infer(ctx, rules::eight_bit(ctx, 7)?)
    },
    work: |ctx| {
        let work = QLINEAR.work(ctx);
        // Each sum is scaled, rounded, shifted and held within the type's range.
        Work { vector: work.vector + ctx.output_elements(0) * Dim::Known(4), ..work }
    },
    space: |ctx| QLINEAR.space(ctx, false, zero_point(ctx, 2)),
    eval: qlinear,
    ..OpDef::new(
        Op::QLinearConv,
        "Convolution of quantised images, summed with the i32 bias in i32, scaled by x_scale w_scale / y_scale, rounded \
         to the nearest (ties to even), shifted by y_zero_point and saturated.",
    )
};

const INTEGER: Form = Form { x: 0, w: 1, bias: None, per_channel: &[3] };
const QLINEAR: Form = Form { x: 0, w: 3, bias: Some(8), per_channel: &[4, 5] };

/// What padding holds: the zero point, where it is known.
fn zero_point(ctx: &Ctx<'_>, i: usize) -> Option<f64> {
    if !ctx.has(i) {
        return Some(0.0);
    }
    Some(integers(ctx.constant(i)?).ok()?.first().copied()? as f64)
}

fn convolve(
    ctx: &EvalCtx<'_>,
    form: &Form,
    x_zero: Option<&Tensor>,
    w_zero: Option<&Tensor>,
) -> Result<Vec<i32>, String> {
    let known = Known::new(ctx, form)?;
    let zeros = |tensor: Option<&Tensor>| match tensor {
        Some(tensor) => integers(tensor).map(std::borrow::Cow::into_owned),
        None => Ok(vec![0]),
    };
    let (x, w) = (ctx.tensor(form.x)?, ctx.tensor(form.w)?);
    let (x_zero, w_zero) = (zeros(x_zero)?, zeros(w_zero)?);
    let x: Vec<i32> = integers(x)?.iter().map(|v| (v - x_zero[0]) as i32).collect();
    let plane = (w.len() / w.shape()[0].max(1)).max(1);
    let of_channel = |i: usize| if w_zero.len() == 1 { w_zero[0] } else { w_zero[i / plane] };
    let w: Vec<i32> = integers(w)?.iter().enumerate().map(|(i, v)| (v - of_channel(i)) as i32).collect();
    Ok(kernel::convolve(&known.sizes, &known.spans, &x, &w, None))
}

fn qlinear(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let mut sums = convolve(ctx, &QLINEAR, Some(ctx.tensor(2)?), Some(ctx.tensor(5)?))?;
    let channels = shape[1];
    let plane = shape[2..].iter().product::<usize>().max(1);
    if let Some(bias) = ctx.optional(8)? {
        let bias = integers(bias)?;
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = sum.wrapping_add(bias[i / plane % channels] as i32);
        }
    }
    let read = |i: usize| Ok::<_, String>(ctx.tensor(i)?.to_f32().map_err(|e| e.to_string())?.into_owned());
    let (x_scale, w_scale, y_scale, zero) = (read(1)?[0], read(4)?, read(6)?[0], read(7)?[0]);
    let scale = |i: usize| {
        let of_channel = if w_scale.len() == 1 { w_scale[0] } else { w_scale[i / plane % channels] };
        x_scale * of_channel / y_scale
    };
    let values: Vec<f32> = sums.iter().enumerate().map(|(i, &s)| requantise(s, scale(i), zero)).collect();
    Ok(vec![Tensor::from_f32(dtype, shape, values, Default::default(), true).into()])
}
