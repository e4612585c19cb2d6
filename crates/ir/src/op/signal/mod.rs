//! Ops of the family `signal`: Fourier transforms, windows, and the mel scale.
//!
//! Complex numbers lie in a last dimension of extent 2: real, imaginary. Transforms are sums in f64, by definition.

mod gradient;

use super::elements::{element_count, scalar_f64, scalar_i64};
use super::{AttrDef, Class, Ctx, Datum, EvalCtx, Fact, Op, OpDef, Port, Work, context, opt, rules};
use crate::{Attr, AttrKind, Attrs, Dim};
use orrery_numerics::{DType, Rounding, Tensor};
use std::f64::consts::TAU;

const WINDOW_ATTRS: &[AttrDef] = &[
    opt("output_datatype", AttrKind::DType, "Element type of the window; f32."),
    opt("periodic", AttrKind::Int, "1 for a window that repeats after its size, 0 for a symmetric one; 1."),
];

const fn window(op: Op, doc: &'static str, eval: fn(&EvalCtx<'_>) -> Result<Vec<Datum>, String>) -> OpDef {
    OpDef {
        inputs: &[Port::One("size")],
        attrs: WINDOW_ATTRS,
        class: Class::Rounding,
        infer: |ctx| {
            rules::integer(ctx, 0)?;
            let size =
                ctx.content(0).and_then(|c| c.first().cloned()).unwrap_or_else(|| ctx.unknown_dim(0, 0));
            Ok(vec![Fact::tensor(output_type(ctx.attrs())?, vec![size])])
        },
        work: |ctx| {
            Work::vector(ctx.output_elements(0) * Dim::Known(4), ctx.output_elements(0) * Dim::Known(2))
        },
        eval,
        ..OpDef::new(op, doc)
    }
    .flat()
}

/// The entries.
pub const TABLE: &[OpDef] = &[
    OpDef {
        inputs: &[Port::One("input"), Port::Optional("dft_length"), Port::Optional("axis")],
        attrs: &[
            opt("inverse", AttrKind::Int, "1 for the inverse transform, divided by the length; 0."),
            opt(
                "onesided",
                AttrKind::Int,
                "1 to make only the frequencies from 0 to half the length, of a real signal; 0.",
            ),
        ],
        class: Class::Rounding,
        infer: dft_infer,
        work: |ctx| {
            let length = ctx.output_elements(0);
            Work::vector(length.clone() * Dim::Known(8), length)
        },
        eval: dft,
        ..OpDef::new(Op::DFT, "Discrete Fourier transform along an axis, the last but one by default.")
    }
    .gradient(gradient::dft),
    OpDef {
        inputs: &[
            Port::One("signal"),
            Port::One("frame_step"),
            Port::Optional("window"),
            Port::Optional("frame_length"),
        ],
        attrs: &[opt(
            "onesided",
            AttrKind::Int,
            "1 to make only the frequencies from 0 to half the length, of a real signal; 1.",
        )],
        class: Class::Rounding,
        infer: stft_infer,
        work: |ctx| {
            let length = ctx.output_elements(0);
            Work::vector(length.clone() * Dim::Known(9), length)
        },
        eval: stft,
        ..OpDef::new(
            Op::STFT,
            "Fourier transforms of overlapping frames of a signal, each weighted by a window.",
        )
    }
    .gradient(gradient::stft),
    window(Op::HannWindow, "Raised cosine that starts at zero.", |ctx| {
        make_window(ctx, |phase| 0.5 - 0.5 * phase.cos())
    }),
    window(Op::HammingWindow, "Raised cosine whose first side lobe is cancelled.", |ctx| {
        make_window(ctx, |phase| 25.0 / 46.0 - 21.0 / 46.0 * phase.cos())
    }),
    window(Op::BlackmanWindow, "Sum of two cosines with low side lobes.", |ctx| {
        make_window(ctx, |phase| 0.42 - 0.5 * phase.cos() + 0.08 * (2.0 * phase).cos())
    }),
    OpDef {
        inputs: &[
            Port::One("num_mel_bins"),
            Port::One("dft_length"),
            Port::One("sample_rate"),
            Port::One("lower_edge_hertz"),
            Port::One("upper_edge_hertz"),
        ],
        attrs: &[opt("output_datatype", AttrKind::DType, "Element type of the weights; f32.")],
        class: Class::Rounding,
        infer: |ctx| {
            let first = |i: usize| ctx.content(i).and_then(|c| c.first().cloned());
            let bins = first(0).unwrap_or_else(|| ctx.unknown_dim(0, 1));
            let rows = first(1).map_or_else(
                || ctx.unknown_dim(0, 0),
                |length| length.floor_div(&Dim::Known(2)) + Dim::Known(1),
            );
            Ok(vec![Fact::tensor(output_type(ctx.attrs())?, vec![rows, bins])])
        },
        eval: mel_weights,
        ..OpDef::new(Op::MelWeightMatrix, "Weights that turn a linear spectrum into bins of the mel scale.")
    }
    // Edges are rounded to frequencies.
    .flat(),
];

fn output_type(attrs: &Attrs) -> Result<DType, String> {
    match attrs.get("output_datatype") {
        Some(Attr::DType(dtype)) if dtype.is_float() || dtype.is_int() => Ok(*dtype),
        Some(other) => Err(format!("output_datatype must be a type of numbers, is {other:?}")),
        None => Ok(DType::F32),
    }
}

fn number_of(ctx: &Ctx<'_>, i: usize) -> Option<Dim> {
    ctx.content(i).and_then(|c| c.first().cloned())
}

fn half(length: &Dim, onesided: bool) -> Dim {
    if onesided { length.floor_div(&Dim::Known(2)) + Dim::Known(1) } else { length.clone() }
}

fn dft_infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let dtype = rules::float(ctx, 0)?;
    let onesided = ctx.attrs().flag("onesided");
    if onesided && ctx.attrs().flag("inverse") {
        return Err("onesided and inverse cannot be combined".into());
    }
    let Some(mut shape) = ctx.shape(0) else { return Ok(vec![Fact::unranked(dtype)]) };
    let Some(last) = shape.len().checked_sub(1).filter(|r| *r > 0) else {
        return Err(
            "the signal must have a dimension for its elements and one for real and imaginary parts".into()
        );
    };
    if shape[last].known().is_some_and(|n| n != 1 && n != 2) {
        return Err(format!("the last dimension must be 1 (real) or 2 (complex), is {}", shape[last]));
    }
    if ctx.has(2) && number_of(ctx, 2).is_none() {
        return Ok(vec![Fact::tensor(dtype, (0..shape.len()).map(|d| ctx.unknown_dim(0, d)).collect())]);
    }
    let axis = number_of(ctx, 2).and_then(|a| a.known()).unwrap_or(-2);
    let axis = context::normalize_axis(axis, shape.len())?;
    if axis == last {
        return Err("the last dimension holds real and imaginary parts and cannot be transformed".into());
    }
    let length = match (ctx.has(1), number_of(ctx, 1)) {
        (true, Some(length)) => length,
        (true, None) => ctx.unknown_dim(0, axis),
        (false, _) => shape[axis].clone(),
    };
    shape[axis] = half(&length, onesided);
    shape[last] = Dim::Known(2);
    Ok(vec![Fact::tensor(dtype, shape)])
}

/// Twiddle factors: cosine and sine of all multiples of a turn's `length`th part.
fn twiddles(length: usize, inverse: bool) -> Vec<(f64, f64)> {
    let sign = if inverse { 1.0 } else { -1.0 };
    (0..length)
        .map(|k| {
            let angle = sign * TAU * k as f64 / length as f64;
            (angle.cos(), angle.sin())
        })
        .collect()
}

/// The first `wanted` frequencies of a signal of complex numbers.
fn transform(signal: &[(f64, f64)], twiddles: &[(f64, f64)], wanted: usize) -> Vec<(f64, f64)> {
    let length = twiddles.len().max(1);
    (0..wanted)
        .map(|k| {
            signal.iter().enumerate().fold((0.0, 0.0), |(re, im), (n, &(x, y))| {
                let (c, s) = twiddles[k * n % length];
                (re + x * c - y * s, im + x * s + y * c)
            })
        })
        .collect()
}

fn length_of(ctx: &EvalCtx<'_>, i: usize, default: usize) -> Result<usize, String> {
    match ctx.optional(i)? {
        None => Ok(default),
        Some(tensor) => usize::try_from(scalar_i64(tensor)?)
            .map_err(|_| format!("length {} is negative", scalar_i64(tensor).unwrap_or(0))),
    }
}

fn dft(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, out_shape) = rules::check_one(ctx)?;
    let input = ctx.tensor(0)?;
    let shape = input.shape();
    let axis = ctx.optional(2)?.map(scalar_i64).transpose()?.unwrap_or(-2);
    let axis = context::normalize_axis(axis, shape.len())?;
    let inverse = ctx.attrs().flag("inverse");
    let length = length_of(ctx, 1, shape[axis])?;
    let values = input.to_f64().map_err(|e| e.to_string())?;
    let parts = shape[shape.len() - 1];
    let inner: usize = shape[axis + 1..shape.len() - 1].iter().product();
    let outer: usize = shape[..axis].iter().product();
    let (extent, wanted) = (shape[axis], out_shape[axis]);
    element_count(DType::F64, &[length])?;
    let table = twiddles(length, inverse);
    let scale = if inverse { 1.0 / length.max(1) as f64 } else { 1.0 };
    let mut out = vec![0.0; element_count(dtype, &out_shape)?];
    for o in 0..outer {
        for i in 0..inner {
            let signal: Vec<(f64, f64)> = (0..extent.min(length))
                .map(|n| {
                    let at = ((o * extent + n) * inner + i) * parts;
                    (values[at], if parts == 2 { values[at + 1] } else { 0.0 })
                })
                .collect();
            for (k, (re, im)) in transform(&signal, &table, wanted).into_iter().enumerate() {
                let at = ((o * wanted + k) * inner + i) * 2;
                out[at] = re * scale;
                out[at + 1] = im * scale;
            }
        }
    }
    Ok(vec![Tensor::from_f64(dtype, out_shape, out, Rounding::NearestEven, false).into()])
}

fn stft_infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let dtype = rules::float(ctx, 0)?;
    let Some(shape) = rules::ranked(ctx, 0, 3)? else {
        return Ok(vec![Fact::tensor(dtype, (0..4).map(|d| ctx.unknown_dim(0, d)).collect())]);
    };
    let frame = match (number_of(ctx, 3), rules::ranked(ctx, 2, 1)?) {
        (Some(frame), Some(window)) => {
            rules::equal(&frame, &window[0], || "frame length and window size".into())?
        }
        (Some(frame), None) => frame,
        (None, Some(window)) => window[0].clone(),
        (None, None) if ctx.has(3) || ctx.has(2) => ctx.unknown_dim(0, 2),
        (None, None) => shape[1].clone(),
    };
    let frames = match number_of(ctx, 1) {
        Some(step) if !step.is(0) => (shape[1].clone() - frame.clone()).floor_div(&step) + Dim::Known(1),
        Some(_) => return Err("frame_step must be positive".into()),
        None => ctx.unknown_dim(0, 1),
    };
    let onesided = ctx.attrs().int_or("onesided", 1) != 0;
    Ok(vec![Fact::tensor(dtype, vec![shape[0].clone(), frames, half(&frame, onesided), Dim::Known(2)])])
}

fn stft(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, out_shape) = rules::check_one(ctx)?;
    let signal = ctx.tensor(0)?;
    let (batch, extent, parts) = (signal.shape()[0], signal.shape()[1], signal.shape()[2]);
    if parts != 1 && parts != 2 {
        return Err(format!("the last dimension must be 1 (real) or 2 (complex), is {parts}"));
    }
    let step = length_of(ctx, 1, 1)?;
    let weights = ctx.optional(2)?.map(|w| w.to_f64().map_err(|e| e.to_string())).transpose()?;
    let default = weights.as_ref().map_or(extent, |w| w.len());
    let frame = length_of(ctx, 3, default)?;
    let values = signal.to_f64().map_err(|e| e.to_string())?;
    let (frames, wanted) = (out_shape[1], out_shape[2]);
    let table = twiddles(frame, false);
    let mut out = Vec::with_capacity(element_count(dtype, &out_shape)?);
    for b in 0..batch {
        for f in 0..frames {
            let piece: Vec<(f64, f64)> = (0..frame)
                .map(|n| {
                    let at = (b * extent + f * step + n) * parts;
                    let weight = weights.as_ref().map_or(1.0, |w| w[n]);
                    (values[at] * weight, if parts == 2 { values[at + 1] * weight } else { 0.0 })
                })
                .collect();
            out.extend(transform(&piece, &table, wanted).into_iter().flat_map(|(re, im)| [re, im]));
        }
    }
    Ok(vec![Tensor::from_f64(dtype, out_shape, out, Rounding::NearestEven, false).into()])
}

fn make_window(ctx: &EvalCtx<'_>, shape_of: impl Fn(f64) -> f64) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let periodic = ctx.attrs().int_or("periodic", 1) != 0;
    let period = if periodic { shape[0] } else { shape[0].saturating_sub(1) };
    let values: Vec<f64> = (0..shape[0]).map(|n| shape_of(TAU * n as f64 / period.max(1) as f64)).collect();
    Ok(vec![Tensor::from_f64(dtype, shape, values, Rounding::NearestEven, false).into()])
}

/// Frequency in Hz to mel, and back.
const MEL_FACTOR: f64 = 2595.0;
const MEL_HERTZ: f64 = 700.0;

fn mel_weights(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let (rows, bins) = (shape[0], shape[1]);
    let length = scalar_i64(ctx.tensor(1)?)? as f64;
    let rate = scalar_i64(ctx.tensor(2)?)? as f64;
    let mel = |hertz: f64| MEL_FACTOR * (1.0 + hertz / MEL_HERTZ).log10();
    let (low, high) = (mel(scalar_f64(ctx.tensor(3)?)?), mel(scalar_f64(ctx.tensor(4)?)?));
    let step = (high - low) / (bins as f64 + 2.0);
    let edge = |i: usize| -> Result<usize, String> {
        let hertz = MEL_HERTZ * (10_f64.powf((i as f64 * step + low) / MEL_FACTOR) - 1.0);
        let bin = ((length + 1.0) * hertz / rate).floor();
        if (0.0..rows as f64).contains(&bin) {
            Ok(bin as usize)
        } else {
            Err(format!("a mel bin lies at {hertz} Hz, outside of the spectrum"))
        }
    };
    let mut out = vec![0.0; element_count(dtype, &shape)?];
    for i in 0..bins {
        let (lower, centre, upper) = (edge(i)?, edge(i + 1)?, edge(i + 2)?);
        if lower == centre {
            out[centre * bins + i] = 1.0;
        }
        for j in lower..=centre {
            if centre > lower {
                out[j * bins + i] = (j - lower) as f64 / (centre - lower) as f64;
            }
        }
        for j in centre..upper {
            out[j * bins + i] = (upper - j) as f64 / (upper - centre) as f64;
        }
    }
    Ok(vec![Tensor::from_f64(dtype, shape, out, Rounding::NearestEven, false).into()])
}
