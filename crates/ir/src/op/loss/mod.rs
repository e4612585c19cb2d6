//! Ops of the family `loss`: what classification is trained on.

mod gradient;

use super::elements::{Float, by_float, integers};
use super::space::{parallel, reduced};
use super::{
    Access, AttrDef, Class, Combine, Ctx, Datum, EvalCtx, Fact, IterSpace, Op, OpDef, Port, Work, opt, rules,
};
use crate::{AttrKind, Attrs, Dim};
use orrery_numerics::Tensor;

const IGNORE_INDEX: AttrDef =
    opt("ignore_index", AttrKind::Int, "A class whose elements count for nothing; none.");
const ATTRS: &[AttrDef] = &[
    IGNORE_INDEX,
    opt(
        "mean_of",
        AttrKind::Int,
        "How many elements the mean is of, where these are some of them: for parts of a cut op. Not part of ONNX.",
    ),
    opt("reduction", AttrKind::Str, "`none`, `sum`, or `mean` over the weights of what counts; `mean`."),
];

/// The entries.
pub const TABLE: &[OpDef] = &[
    OpDef {
        inputs: &[Port::One("input"), Port::One("target"), Port::Optional("weight")],
        outputs: &[Port::One("loss")],
        attrs: ATTRS,
        class: Class::Rounding,
        infer,
        space,
        work: |ctx| Work::vector(ctx.input_elements(1) * Dim::Known(2), Dim::Known(0)),
        eval: |ctx| evaluate(ctx, false),
        ..OpDef::new(
            Op::NegativeLogLikelihoodLoss,
            "Minus the weighted log probability of the target class; classes lie along the second dimension.",
        )
    }
    .gradient(gradient::negative_log_likelihood),
    OpDef {
        inputs: &[Port::One("scores"), Port::One("labels"), Port::Optional("weights")],
        outputs: &[Port::One("output"), Port::Optional("log_prob")],
        attrs: ATTRS,
        class: Class::Rounding,
        infer,
        space,
        work: |ctx| Work::vector(ctx.input_elements(0) * Dim::Known(4), ctx.input_elements(0)),
        eval: |ctx| evaluate(ctx, true),
        ..OpDef::new(
            Op::SoftmaxCrossEntropyLoss,
            "Minus the weighted log of the softmax of the scores at the label; classes lie along the second dimension.",
        )
    }
    .gradient(gradient::softmax_cross_entropy),
    gradient::SOFTMAX_CROSS_ENTROPY_GRAD,
];

/// The number of classes, and the shape of the labels, of scores of that shape.
fn classes_first(scores: &[Dim]) -> Result<(Dim, Vec<Dim>), String> {
    let [batch, classes, rest @ ..] = scores else {
        return Err("scores must have at least two dimensions: batch and classes".into());
    };
    Ok((classes.clone(), std::iter::once(batch).chain(rest).cloned().collect()))
}

fn infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let dtype = rules::float(ctx, 0)?;
    rules::integer(ctx, 1)?;
    rules::of_type(ctx, [2], dtype)?;
    let reduction = ctx.attrs().str_or("reduction", "mean");
    if !["none", "sum", "mean"].contains(&reduction) {
        return Err(format!("reduction must be none, sum or mean, is `{reduction}`"));
    }
    let targets = ctx.shape(1);
    let mut facts = vec![match (reduction, &targets) {
        ("none", Some(shape)) => Fact::tensor(dtype, shape.clone()),
        ("none", None) => Fact::unranked(dtype),
        _ => Fact::tensor(dtype, Vec::new()),
    }];
    if let Some(scores) = ctx.shape(0) {
        let (classes, expected) = classes_first(&scores)?;
        rules::has_shape(ctx, 1, &expected)?;
        rules::has_shape(ctx, 2, &[classes])?;
        facts.push(Fact::tensor(dtype, scores));
    } else {
        facts.push(Fact::unranked(dtype));
    }
    facts.truncate(ctx.output_count());
    Ok(facts)
}

/// Over places, whose losses stay apart or add up; a mean only where all places count alike.
fn space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let (_, labels) = classes_first(&ctx.shape(0)?).ok()?;
    let reduction = ctx.attrs().str_or("reduction", "mean");
    let mut part_attrs = Attrs::new();
    if reduction == "mean" {
        if ctx.has(2) || ctx.attrs().int("ignore_index").is_some() {
            return None;
        }
        part_attrs.set("mean_of", rules::product(&labels).known()?);
    }
    let places: Vec<Access> = (0..labels.len()).map(Access::along).collect();
    let mut scores = places.clone();
    scores.insert(1, Access::Whole);
    let apart = reduction == "none";
    // The log probabilities of parts do not add up, as their losses do.
    if !apart && ctx.output_count() > 1 {
        return None;
    }
    let axis = |extent| {
        if apart { parallel("position", extent) } else { reduced("position", extent, Combine::Sum) }
    };
    let mut inputs = vec![scores.clone(), places.clone()];
    if ctx.input_count() > 2 {
        inputs.push(if ctx.has(2) { vec![Access::Whole] } else { Vec::new() });
    }
    let mut outputs = vec![if apart { places } else { Vec::new() }, scores];
    outputs.truncate(ctx.output_count());
    Some(IterSpace {
        axes: labels.into_iter().map(axis).collect(),
        inputs,
        outputs,
        part_attrs,
        padding: 0.0,
    })
}

/// A label as a class.
fn class(label: i64, classes: usize) -> Result<usize, String> {
    let class = usize::try_from(label).ok().filter(|c| *c < classes);
    class.ok_or_else(|| format!("target {label} is none of the {classes} classes"))
}

fn evaluate(ctx: &EvalCtx<'_>, softmax: bool) -> Result<Vec<Datum>, String> {
    rules::check(ctx)?;
    by_float!(ctx.tensor(0)?.dtype(), T => typed::<T>(ctx, softmax))
}

fn typed<T: Float>(ctx: &EvalCtx<'_>, softmax: bool) -> Result<Vec<Datum>, String> {
    let (scores, targets) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let (dtype, shape) = (scores.dtype(), scores.shape());
    let (batch, classes) = (shape[0], shape[1]);
    let inner: usize = shape[2..].iter().product();
    let mut log_probabilities = T::read(scores)?.into_owned();
    if softmax {
        for image in log_probabilities.chunks_mut((classes * inner).max(1)) {
            for i in 0..inner {
                let at = |c: usize| c * inner + i;
                let top = (0..classes).fold(-T::INFINITY, |top, c| top.larger(image[at(c)]));
                let sum: T = (0..classes).map(|c| (image[at(c)] - top).exp()).sum();
                for c in 0..classes {
                    image[at(c)] = image[at(c)] - top - sum.ln();
                }
            }
        }
    }
    let labels = integers(targets)?;
    let weights = ctx.optional(2)?.map(T::read).transpose()?;
    let ignored = ctx.attrs().int("ignore_index");
    let mut losses = vec![T::ZERO; batch * inner];
    let mut total_weight = T::ZERO;
    for (place, (loss, &label)) in losses.iter_mut().zip(labels.iter()).enumerate() {
        if Some(label) == ignored {
            continue;
        }
        let class = class(label, classes)?;
        let weight = weights.as_ref().map_or(T::ONE, |w| w[class]);
        *loss = -(weight * log_probabilities[(place / inner * classes + class) * inner + place % inner]);
        total_weight += weight;
    }
    let loss = match ctx.attrs().str_or("reduction", "mean") {
        "none" => T::tensor(dtype, targets.shape().to_vec(), losses),
        reduction => {
            let sum: T = losses.into_iter().sum();
            let all = ctx.attrs().int("mean_of").map_or(total_weight, |all| T::from_f64(all as f64));
            T::tensor(dtype, Vec::new(), vec![if reduction == "sum" { sum } else { sum / all }])
        }
    };
    let mut outputs: Vec<Datum> = vec![loss.into()];
    if softmax && ctx.output_count() > 1 {
        let log_probabilities: Tensor = T::tensor(dtype, shape.to_vec(), log_probabilities);
        outputs.push(log_probabilities.into());
    }
    Ok(outputs)
}
