//! Ops that draw random numbers.
//!
//! Every number is a function of the run's seed, the node's place, the attribute `seed` and the element's index, so that
//! results depend neither on order nor on the machine.

use super::elements::{extents, scalar_f64};
use super::number::Number;
use super::rules::{check_one, facts, float};
use super::space::{elementwise, free_except};
use super::{AttrDef, Class, Ctx, Datum, EvalCtx, Fact, Op, OpDef, Port, Work, content, opt, req};
use crate::weights::hash64;
use crate::gradient::Backward;
use crate::{Attr, AttrKind, Attrs, Dim, TensorType, Type};
use orrery_numerics::{DType, Tensor};

type Outcome = Result<Vec<Datum>, String>;
type Facts = Result<Vec<Fact>, String>;

fn one(tensor: Tensor) -> Outcome {
    Ok(vec![tensor.into()])
}
/// The seed of a node's numbers.
fn seed(ctx: &EvalCtx<'_>) -> u64 {
    match ctx.attrs().get("seed") {
        Some(Attr::Float(seed)) => hash64(ctx.seed, seed.to_bits()),
        Some(Attr::Int(seed)) => hash64(ctx.seed, *seed as u64),
        _ => ctx.seed,
    }
}
/// A number from zero to below one.
fn unit(seed: u64, i: usize) -> f64 {
    (hash64(seed, i as u64) >> 11) as f64 * 0.5_f64.powi(53)
}
/// A number of mean 0 and deviation 1, by the transformation of Box and Muller, with functions whose last bit is the
/// same on every machine.
fn gaussian(seed: u64, i: usize) -> f64 {
    let (radius, angle) = (1.0 - unit(seed, 2 * i), unit(seed, 2 * i + 1));
    libm::sqrt(-2.0 * libm::log(radius)) * libm::cos(std::f64::consts::TAU * angle)
}

fn draw(ctx: &EvalCtx<'_>, number: impl Fn(u64, usize) -> f64) -> Outcome {
    let (dtype, shape) = check_one(ctx)?;
    let (count, seed) = (shape.iter().product(), seed(ctx));
    one(f64::write(dtype, shape, (0..count).map(|i| number(seed, i)).collect()))
}
fn normal(ctx: &EvalCtx<'_>) -> Outcome {
    let (mean, scale) = (ctx.attrs().float_or("mean", 0.0), ctx.attrs().float_or("scale", 1.0));
    draw(ctx, |seed, i| mean + scale * gaussian(seed, i))
}
fn uniform(ctx: &EvalCtx<'_>) -> Outcome {
    let (low, high) = (ctx.attrs().float_or("low", 0.0), ctx.attrs().float_or("high", 1.0));
    draw(ctx, |seed, i| low + (high - low) * unit(seed, i))
}
fn bernoulli(ctx: &EvalCtx<'_>) -> Outcome {
    let probability = ctx.tensor(0)?.to_f64().map_err(|e| e.to_string())?;
    let (dtype, shape) = check_one(ctx)?;
    let seed = seed(ctx);
    let values =
        probability.iter().enumerate().map(|(i, &p)| i64::from(unit(seed, i) < p)).collect::<Vec<_>>();
    one(Tensor::from_i64(dtype, shape, values))
}
/// Draws classes in proportion to the exponentials of a row.
fn multinomial(ctx: &EvalCtx<'_>) -> Outcome {
    let (dtype, shape) = check_one(ctx)?;
    let x = ctx.tensor(0)?;
    let (classes, samples, seed) = (x.shape()[1], shape[1], seed(ctx));
    if classes == 0 && shape[0] * samples > 0 {
        return Err("there are no classes to draw from".into());
    }
    let logits = x.to_f64().map_err(|e| e.to_string())?;
    let mut out = Vec::with_capacity(shape[0] * samples);
    for row in logits.chunks_exact(classes.max(1)) {
        let most = row.iter().fold(f64::NEG_INFINITY, |a, &v| a.larger(v));
        let mut total = 0.0;
        let ends: Vec<f64> = row
            .iter()
            .map(|v| {
                total += libm::exp(v - most);
                total
            })
            .collect();
        for _ in 0..samples {
            let at = unit(seed, out.len()) * total;
            out.push((ends.partition_point(|end| *end <= at).min(classes - 1)) as i64);
        }
    }
    one(Tensor::from_i64(dtype, shape, out))
}
/// In training an element goes with probability `ratio`, and what stays is scaled so that the mean is kept.
fn dropout(ctx: &EvalCtx<'_>) -> Outcome {
    facts(ctx)?;
    let x = ctx.tensor(0)?;
    let shape = x.shape().to_vec();
    let ratio = ctx.optional(1)?.map_or(Ok(0.5), scalar_f64)?;
    let training = ctx.optional(2)?.map_or(Ok(0.0), scalar_f64)? != 0.0;
    if !(0.0..1.0).contains(&ratio) {
        return Err(format!("ratio must be from 0 to below 1, is {ratio}"));
    }
    if !training || ratio == 0.0 {
        return Ok(vec![x.clone().into(), Tensor::from_bools(shape, (0..x.len()).map(|_| true)).into()]);
    }
    let seed = seed(ctx);
    let mask: Vec<bool> = (0..x.len()).map(|i| unit(seed, i) >= ratio).collect();
    let scale = 1.0 / (1.0 - ratio);
    let values = x.to_f64().map_err(|e| e.to_string())?;
    let kept = values.iter().zip(&mask).map(|(v, keep)| if *keep { v * scale } else { 0.0 }).collect();
    Ok(vec![f64::write(x.dtype(), shape.clone(), kept).into(), Tensor::from_bools(shape, mask).into()])
}

/// What was dropped gets nothing back, what was kept is scaled as it was.
fn dropout_gradient(b: &mut Backward<'_>) -> orrery_base::Result<()> {
    let dy = b.dy0()?;
    let training = b.ask(|ctx| match ctx.constant(2) {
        Some(flag) => scalar_f64(flag).ok().map(|flag| flag != 0.0),
        None => (!ctx.has(2)).then_some(false),
    });
    if training == Some(false) {
        b.give(0, dy);
        return Ok(());
    }
    let dtype = b.dtype(dy);
    let known = b.ask(|ctx| match ctx.constant(1) {
        Some(ratio) => scalar_f64(ratio).ok(),
        None => (!ctx.has(1)).then_some(0.5),
    });
    let mut scale = match known {
        Some(ratio) => b.scalar(dtype, 1.0 / (1.0 - ratio)),
        None => {
            let ratio = b.x(1)?;
            let (ratio, one) = (b.cast(ratio, dtype)?, b.scalar(dtype, 1.0));
            let kept = b.sub(one, ratio)?;
            b.unary(Op::Reciprocal, kept)?
        }
    };
    if training.is_none() {
        let (flag, one) = (b.x(2)?, b.scalar(dtype, 1.0));
        scale = b.op(Op::Where, &[flag, scale, one], Attrs::new())?;
    }
    let (mask, zero) = (b.also(1)?, b.scalar(dtype, 0.0));
    let scaled = b.mul(dy, scale)?;
    let dx = b.op(Op::Where, &[mask, scaled, zero], Attrs::new())?;
    b.give(0, dx);
    Ok(())
}

fn typed(dtype: DType, shape: Option<Vec<Dim>>) -> Facts {
    Ok(vec![Fact::of(Type::Tensor(TensorType { dtype, shape }))])
}
fn infer_declared(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.attrs().dtype("dtype").unwrap_or(DType::F32);
    let shape = extents(ctx.attrs().ints("shape").ok_or("attribute `shape` is missing")?)?;
    floating(dtype)?;
    typed(dtype, Some(shape.into_iter().map(Dim::from).collect()))
}
fn floating(dtype: DType) -> Result<(), String> {
    if dtype.is_float() { Ok(()) } else { Err(format!("only floats are drawn, not {dtype}")) }
}
fn infer_like(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.attrs().dtype("dtype").map_or_else(|| ctx.dtype(0), Ok)?;
    floating(dtype)?;
    typed(dtype, ctx.shape(0))
}
fn infer_bernoulli(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.attrs().dtype("dtype").unwrap_or(float(ctx, 0)?);
    if !(dtype.is_float() || dtype.is_int() || dtype == DType::Bool) {
        return Err(format!("elements of type {dtype} are no numbers"));
    }
    typed(dtype, ctx.shape(0))
}
fn infer_multinomial(ctx: &Ctx<'_>) -> Facts {
    float(ctx, 0)?;
    let dtype = ctx.attrs().dtype("dtype").unwrap_or(DType::I32);
    let samples = ctx.attrs().int_or("sample_size", 1);
    if !matches!(dtype, DType::I32 | DType::I64) || samples < 0 {
        return Err(format!("{samples} samples of type {dtype} cannot be drawn"));
    }
    let batch = match ctx.shape(0) {
        Some(shape) if shape.len() != 2 => return Err(format!("takes a row for each batch, got {shape:?}")),
        Some(mut shape) => shape.swap_remove(0),
        None => ctx.unknown_dim(0, 0),
    };
    typed(dtype, Some(vec![batch, Dim::Known(samples)]))
}
fn infer_dropout(ctx: &Ctx<'_>) -> Facts {
    let data = ctx.fact(0).ok_or("input 0 is missing")?;
    let mask = TensorType { dtype: DType::Bool, shape: ctx.shape(0) };
    floating(ctx.dtype(0)?)?;
    Ok(vec![Fact::of(data.ty.clone()), Fact::of(Type::Tensor(mask))])
}

/// A hash and a conversion for each number.
fn draws<const SPECIAL: i64>(ctx: &Ctx<'_>) -> Work {
    let n = ctx.output_elements(0);
    Work::vector(n.clone() * Dim::Known(2), n * Dim::Known(SPECIAL))
}
/// A draw, a comparison and a product, where it is training.
fn dropout_work(ctx: &Ctx<'_>) -> Work {
    let inference = !ctx.has(2) || content::of(ctx, 2).is_some_and(|c| c.iter().all(|d| d.is(0)));
    if inference { Work::NONE } else { Work::vector(ctx.output_elements(0) * Dim::Known(4), Dim::Known(0)) }
}

const SEED: AttrDef = opt("seed", AttrKind::Float, "Mixed into the run's seed; nothing.");
const DTYPE: AttrDef = opt("dtype", AttrKind::DType, "Type of the output; f32.");
const LIKE: AttrDef = opt("dtype", AttrKind::DType, "Type of the output; the input's.");
const SHAPE: AttrDef = req("shape", AttrKind::Ints, "Shape of the output.");
const MEAN: AttrDef = opt("mean", AttrKind::Float, "Mean; 0.");
const SCALE: AttrDef = opt("scale", AttrKind::Float, "Standard deviation; 1.");
const LOW: AttrDef = opt("low", AttrKind::Float, "Least number; 0.");
const HIGH: AttrDef = opt("high", AttrKind::Float, "Numbers stay below it; 1.");

const fn entry(op: Op, doc: &'static str, attrs: &'static [AttrDef]) -> OpDef {
    OpDef { attrs, class: Class::Random, ..OpDef::new(op, doc) }.flat()
}

/// The entries.
pub const TABLE: &[OpDef] = &[
    OpDef {
        inputs: &[],
        infer: infer_declared,
        work: draws::<3>,
        eval: normal,
        ..entry(Op::RandomNormal, "Normally distributed numbers.", &[SHAPE, DTYPE, MEAN, SCALE, SEED])
    },
    OpDef {
        inputs: &[],
        infer: infer_declared,
        work: draws::<0>,
        eval: uniform,
        ..entry(Op::RandomUniform, "Evenly distributed numbers.", &[SHAPE, DTYPE, LOW, HIGH, SEED])
    },
    OpDef {
        infer: infer_like,
        work: draws::<3>,
        space: elementwise,
        eval: normal,
        ..entry(
            Op::RandomNormalLike,
            "Normally distributed numbers in the shape of the input.",
            &[LIKE, MEAN, SCALE, SEED],
        )
    },
    OpDef {
        infer: infer_like,
        work: draws::<0>,
        space: elementwise,
        eval: uniform,
        ..entry(
            Op::RandomUniformLike,
            "Evenly distributed numbers in the shape of the input.",
            &[LIKE, LOW, HIGH, SEED],
        )
    },
    OpDef {
        infer: infer_bernoulli,
        work: draws::<0>,
        space: elementwise,
        eval: bernoulli,
        ..entry(Op::Bernoulli, "1 with the probability that the element is, 0 otherwise.", &[LIKE, SEED])
    },
    OpDef {
        infer: infer_multinomial,
        work: draws::<1>,
        eval: multinomial,
        ..entry(
            Op::Multinomial,
            "Classes drawn in proportion to the exponentials of each row.",
            &[
                opt("dtype", AttrKind::DType, "Type of the output, i32 or i64; i32."),
                opt("sample_size", AttrKind::Int, "Draws for each row; 1."),
                SEED,
            ],
        )
    },
    OpDef {
        inputs: &[Port::One("data"), Port::Optional("ratio"), Port::Optional("training_mode")],
        outputs: &[Port::One("output"), Port::Optional("mask")],
        infer: infer_dropout,
        work: dropout_work,
        space: |ctx| {
            let mut space = free_except(ctx, |_| false)?;
            space.outputs.resize(ctx.output_count(), space.outputs[0].clone());
            Some(space)
        },
        eval: dropout,
        ..entry(
            Op::Dropout,
            "In training drops elements with probability ratio (0.5) and scales the rest; otherwise the input itself.",
            &[opt("seed", AttrKind::Int, "Mixed into the run's seed; nothing.")],
        )
    }
    .gradient(dropout_gradient),
];
