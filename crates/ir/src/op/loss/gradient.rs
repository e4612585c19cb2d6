//! Gradient rules of losses, and the gradient op of softmax and cross entropy.

use super::{IGNORE_INDEX, classes_first};
use crate::gradient::Backward;
use crate::op::elements::{Float, by_float, integers};
use crate::op::space::parallel;
use crate::op::{Access, Class, Ctx, Datum, EvalCtx, Fact, IterSpace, Op, OpDef, Port, Work, rules};
use crate::{Attrs, Dim, ValueId};
use orrery_base::Result;

pub(super) const SOFTMAX_CROSS_ENTROPY_GRAD: OpDef = OpDef {
    inputs: &[Port::One("scores"), Port::One("labels"), Port::One("dLoss"), Port::Optional("weights")],
    outputs: &[Port::One("dScores")],
    attrs: &[IGNORE_INDEX],
    class: Class::Rounding,
    infer,
    // Softmax, product with the factor; a difference at the label.
    work: |ctx| {
        let scores = ctx.input_elements(0);
        Work::vector(scores.clone() * Dim::Known(5) + ctx.input_elements(1), scores)
    },
    space,
    eval,
    ..OpDef::new(
        Op::SoftmaxCrossEntropyGrad,
        "Gradient of the scores of a softmax and cross entropy: softmax less one at the label, times weight and dLoss, which \
         is a scalar or a number for each label. Not part of ONNX.",
    )
};

fn infer(ctx: &Ctx<'_>) -> std::result::Result<Vec<Fact>, String> {
    let dtype = rules::float(ctx, 0)?;
    rules::integer(ctx, 1)?;
    rules::of_type(ctx, [2, 3], dtype)?;
    if let Some(scores) = ctx.shape(0) {
        let (classes, labels) = classes_first(&scores)?;
        rules::has_shape(ctx, 1, &labels)?;
        if ctx.rank(2).is_some_and(|rank| rank > 0) {
            rules::has_shape(ctx, 2, &labels)?;
        }
        rules::has_shape(ctx, 3, &[classes])?;
        return Ok(vec![Fact::tensor(dtype, scores)]);
    }
    Ok(vec![Fact::unranked(dtype)])
}

fn space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let (_, labels) = classes_first(&ctx.shape(0)?).ok()?;
    let places: Vec<Access> = (0..labels.len()).map(Access::along).collect();
    let mut scores = places.clone();
    scores.insert(1, Access::Whole);
    let loss = if ctx.rank(2)? == 0 { Vec::new() } else { places.clone() };
    let mut inputs = vec![scores.clone(), places, loss];
    if ctx.input_count() > 3 {
        inputs.push(if ctx.has(3) { vec![Access::Whole] } else { Vec::new() });
    }
    Some(IterSpace {
        axes: labels.into_iter().map(|extent| parallel("position", extent)).collect(),
        inputs,
        outputs: vec![scores],
        part_attrs: Attrs::new(),
        padding: 0.0,
    })
}

fn eval(ctx: &EvalCtx<'_>) -> std::result::Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let (classes, inner) = (shape[1], shape[2..].iter().product::<usize>());
    let labels = integers(ctx.tensor(1)?)?;
    let ignored = ctx.attrs().int("ignore_index");
    Ok(vec![
        by_float!(dtype, T => {
            let (scores, losses) = (T::read(ctx.tensor(0)?)?, T::read(ctx.tensor(2)?)?);
            let weights = ctx.optional(3)?.map(T::read).transpose()?;
            let mut out = vec![T::ZERO; scores.len()];
            for (place, &label) in labels.iter().enumerate().filter(|(_, label)| Some(**label) != ignored) {
                let label = super::class(label, classes)?;
                let at = |c: usize| (place / inner * classes + c) * inner + place % inner;
                let weight = weights.as_ref().map_or(T::ONE, |w| w[label]);
                let factor = losses[if losses.len() == 1 { 0 } else { place }] * weight;
                let top = (0..classes).fold(-T::INFINITY, |top, c| top.larger(scores[at(c)]));
                let sum: T = (0..classes).map(|c| (scores[at(c)] - top).exp()).sum();
                for c in 0..classes {
                    let target = if c == label { T::ONE } else { T::ZERO };
                    out[at(c)] = ((scores[at(c)] - top).exp() / sum - target) * factor;
                }
            }
            T::tensor(dtype, shape, out)
        })
        .into(),
    ])
}

/// What counts of each label: its weight, zero where it is ignored; none where all count alike.
fn counted(b: &mut Backward<'_>) -> Result<Option<ValueId>> {
    let (scores, labels, weights) = (b.x(0)?, b.x(1)?, b.given(2));
    let mut safe = labels;
    let mut seen = None;
    if let Some(ignored) = b.attrs().int("ignore_index") {
        let (ignored, first) = (b.scalar_like(labels, ignored as f64), b.scalar_like(labels, 0.0));
        let hidden = b.op(Op::Equal, &[labels, ignored], Attrs::new())?;
        safe = b.op(Op::Where, &[hidden, first, labels], Attrs::new())?;
        seen = Some(b.unary(Op::Not, hidden)?);
    }
    let weight = match weights {
        Some(weights) => Some(b.op(Op::Gather, &[weights, safe], Attrs::new())?),
        None => None,
    };
    let (one, zero) = (b.scalar_like(scores, 1.0), b.scalar_like(scores, 0.0));
    Ok(match seen {
        Some(seen) => Some(b.op(Op::Where, &[seen, weight.unwrap_or(one), zero], Attrs::new())?),
        None => weight,
    })
}
/// The gradient of each label's loss before its weight, of the shape of the labels or one for all; and the weights.
fn shares(b: &mut Backward<'_>, dy: ValueId) -> Result<(ValueId, Option<ValueId>)> {
    let labels = b.shape(b.x(1)?)?;
    let mean = b.attrs().str_or("reduction", "mean") == "mean";
    let counted = counted(b)?;
    let share = match counted {
        _ if !mean => dy,
        None => b.scale(dy, 1.0 / labels.iter().product::<i64>().max(1) as f64)?,
        Some(counted) => {
            let axes: Vec<i64> = (0..labels.len() as i64).collect();
            let total = b.sum(counted, &axes, false)?;
            b.div(dy, total)?
        }
    };
    Ok((share, counted))
}

pub(super) fn softmax_cross_entropy(b: &mut Backward<'_>) -> Result<()> {
    let (scores, labels, weights) = (b.x(0)?, b.x(1)?, b.given(2));
    if b.wants(2) {
        return Err(b.fails("there is no gradient rule for the weights of classes".into()));
    }
    let mut parts = Vec::new();
    if let Some(dy) = b.dy(0) {
        let (share, _) = shares(b, dy)?;
        let attrs = match b.attrs().int("ignore_index") {
            Some(ignored) => Attrs::new().with("ignore_index", ignored),
            None => Attrs::new(),
        };
        let inputs = [Some(scores), Some(labels), Some(share), weights];
        let given = if weights.is_some() { 4 } else { 3 };
        parts.push(b.ops(Op::SoftmaxCrossEntropyGrad, &inputs[..given], attrs, 1)?[0]);
    }
    if let Some(dy) = b.dy(1) {
        let log = b.y(1)?;
        let sum = b.sum(dy, &[1], true)?;
        let softmax = b.unary(Op::Exp, log)?;
        let product = b.mul(softmax, sum)?;
        parts.push(b.sub(dy, product)?);
    }
    let dx = if let [one] = parts[..] { one } else { b.op(Op::Sum, &parts, Attrs::new())? };
    b.give(0, dx);
    Ok(())
}

/// Minus the share at the target class, zero at all others.
pub(super) fn negative_log_likelihood(b: &mut Backward<'_>) -> Result<()> {
    let (x, labels, dy) = (b.x(0)?, b.x(1)?, b.dy0()?);
    if b.wants(2) {
        return Err(b.fails("there is no gradient rule for the weights of classes".into()));
    }
    let (dtype, shape) = (b.dtype(x), b.shape(x)?);
    let (share, counted) = shares(b, dy)?;
    let mut factor = b.unary(Op::Neg, share)?;
    if let Some(counted) = counted {
        factor = b.mul(factor, counted)?;
    }
    if b.rank(factor)? > 0 {
        let mut one = shape.clone();
        one[1] = 1;
        factor = b.reshape(factor, &one)?;
    }
    let depth = b.ints(&[shape[1]]);
    let pair = b.ints(&[0, 1]);
    let pair = b.cast(pair, dtype)?;
    let hot = b.op(Op::OneHot, &[labels, depth, pair], Attrs::new().with("axis", 1))?;
    let dx = b.mul(hot, factor)?;
    b.give(0, dx);
    Ok(())
}
