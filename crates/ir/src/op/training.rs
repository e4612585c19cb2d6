//! Ops of the family `training`: one step of an optimizer on any number of parameters.
//!
//! Inputs are the learning rate R, the number of the step T (0 for the first), and then all parameters, all gradients,
//! and all of each kind of state; outputs are the new parameters and states in the same order. The penalty
//! `norm_coefficient` times the parameter is added to its gradient.

use super::elements::{Float, by_float, scalar_f64, scalar_i64};
use super::space::elementwise;
use super::{AttrDef, Class, Ctx, Datum, EvalCtx, Fact, Op, OpDef, Port, Work, opt, req, rules};
use crate::{AttrKind, Attrs, Dim};
use orrery_numerics::Tensor;

const INPUTS: &[Port] = &[Port::One("R"), Port::One("T"), Port::Variadic("inputs")];
const OUTPUTS: &[Port] = &[Port::Variadic("outputs")];
const NORM: AttrDef =
    opt("norm_coefficient", AttrKind::Float, "Factor of the parameter that is added to its gradient; 0.");
const EPSILON: AttrDef = opt("epsilon", AttrKind::Float, "Added to the root that is divided by; 1e-6.");

/// The entries.
pub const TABLE: &[OpDef] = &[
    OpDef {
        inputs: INPUTS,
        outputs: OUTPUTS,
        attrs: &[
            opt("alpha", AttrKind::Float, "Part of the mean gradient that is kept; 0.9."),
            opt("beta", AttrKind::Float, "Part of the mean squared gradient that is kept; 0.999."),
            EPSILON,
            NORM,
            opt("norm_coefficient_post", AttrKind::Float, "Part of the new parameter that is taken off; 0."),
        ],
        class: Class::Rounding,
        infer: |ctx| infer(ctx, 2),
        work: |ctx| work(ctx, 2, 10),
        space: elementwise,
        eval: |ctx| evaluate(ctx, 2),
        ..OpDef::new(Op::Adam, "Adam: states are the running means V of the gradient and H of its square.")
    },
    OpDef {
        inputs: INPUTS,
        outputs: OUTPUTS,
        attrs: &[
            opt("decay_factor", AttrKind::Float, "Decay of the learning rate with the step; 0."),
            EPSILON,
            NORM,
        ],
        class: Class::Rounding,
        infer: |ctx| infer(ctx, 1),
        work: |ctx| work(ctx, 1, 5),
        space: elementwise,
        eval: |ctx| evaluate(ctx, 1),
        ..OpDef::new(Op::Adagrad, "AdaGrad: the state H is the sum of all squared gradients.")
    },
    OpDef {
        inputs: INPUTS,
        outputs: OUTPUTS,
        attrs: &[
            req("alpha", AttrKind::Float, "Part of the momentum that is kept."),
            req("beta", AttrKind::Float, "Part of the gradient that is added, from the second step on."),
            req(
                "norm_coefficient",
                AttrKind::Float,
                "Factor of the parameter that is added to its gradient.",
            ),
            req("mode", AttrKind::Str, "`standard` or `nesterov`."),
        ],
        class: Class::Rounding,
        infer: |ctx| infer(ctx, 1),
        work: |ctx| work(ctx, 1, 5),
        space: elementwise,
        eval: |ctx| evaluate(ctx, 1),
        ..OpDef::new(Op::Momentum, "Gradient descent with momentum V, plain or Nesterov's.")
    },
];

/// Number of parameters, of which there are as many gradients and as many of each of `states` kinds of state.
fn count(inputs: usize, states: usize) -> Result<usize, String> {
    let lists = states + 2;
    let rest = inputs.saturating_sub(2);
    if rest == 0 || !rest.is_multiple_of(lists) {
        return Err(format!("after R and T come {lists} lists of equal length, together {rest} inputs"));
    }
    Ok(rest / lists)
}

fn infer(ctx: &Ctx<'_>, states: usize) -> Result<Vec<Fact>, String> {
    let n = count(ctx.input_count(), states)?;
    rules::float(ctx, 0)?;
    rules::integer(ctx, 1)?;
    let mut facts = Vec::new();
    for list in [0].into_iter().chain(2..states + 2) {
        for i in 0..n {
            rules::float(ctx, 2 + list * n + i)?;
            if let Some(shape) = ctx.shape(2 + i) {
                rules::has_shape(ctx, 2 + n + i, &shape)?;
                rules::has_shape(ctx, 2 + list * n + i, &shape)?;
            }
            facts.push(Fact::of(ctx.fact(2 + list * n + i).ok_or("a parameter is missing")?.ty.clone()));
        }
    }
    Ok(facts)
}

fn work(ctx: &Ctx<'_>, states: usize, each: i64) -> Work {
    let n = count(ctx.input_count(), states).unwrap_or(0);
    let elements: Dim = (0..n).map(|i| ctx.input_elements(2 + i)).sum();
    Work::vector(elements.clone() * Dim::Known(each), elements * Dim::Known(2))
}

fn evaluate(ctx: &EvalCtx<'_>, states: usize) -> Result<Vec<Datum>, String> {
    rules::facts(ctx)?;
    let n = count(ctx.inputs.len(), states)?;
    let mut lists: Vec<Vec<Datum>> = vec![Vec::new(); states + 1];
    for i in 0..n {
        let made = by_float!(ctx.tensor(2 + i)?.dtype(), T => step::<T>(ctx, n, i, states))?;
        lists.iter_mut().zip(made).for_each(|(list, tensor)| list.push(tensor.into()));
    }
    Ok(lists.into_iter().flatten().collect())
}

/// The new parameter number `i` and its new states.
fn step<T: Float>(ctx: &EvalCtx<'_>, n: usize, i: usize, states: usize) -> Result<Vec<Tensor>, String> {
    let rate = scalar_f64(ctx.tensor(0)?)?;
    let time = scalar_i64(ctx.tensor(1)?)? as f64;
    let attrs = ctx.attrs();
    let number = |name: &str, default: f64| T::from_f64(attrs.float_or(name, default));
    let read = |list: usize| -> Result<Vec<T>, String> {
        let tensor = ctx.tensor(2 + list * n + i)?;
        Ok(T::read(tensor)?.into_owned())
    };
    let (mut x, mut gradient) = (read(0)?, read(1)?);
    let mut kept: Vec<Vec<T>> = (0..states).map(|s| read(2 + s)).collect::<Result<_, _>>()?;
    let norm = number("norm_coefficient", 0.0);
    gradient.iter_mut().zip(&x).for_each(|(g, x)| *g += norm * *x);
    match (ctx.node.op, &mut kept[..]) {
        (Op::Adam, [mean, square]) => {
            let (alpha, beta) = (attrs.float_or("alpha", 0.9), attrs.float_or("beta", 0.999));
            let corrected = if time > 0.0 {
                rate * (1.0 - beta.powf(time)).sqrt() / (1.0 - alpha.powf(time))
            } else {
                rate
            };
            let (a, b, rate) = (T::from_f64(alpha), T::from_f64(beta), T::from_f64(corrected));
            let (epsilon, post) = (number("epsilon", 1e-6), number("norm_coefficient_post", 0.0));
            for (((x, g), v), h) in x.iter_mut().zip(&gradient).zip(mean).zip(square) {
                *v = a * *v + (T::ONE - a) * *g;
                *h = b * *h + (T::ONE - b) * *g * *g;
                *x = (T::ONE - post) * (*x - rate * *v / (h.sqrt() + epsilon));
            }
        }
        (Op::Adagrad, [square]) => {
            let rate = T::from_f64(rate / (1.0 + time * attrs.float_or("decay_factor", 0.0)));
            let epsilon = number("epsilon", 1e-6);
            for ((x, g), h) in x.iter_mut().zip(&gradient).zip(square) {
                *h += *g * *g;
                *x = *x - rate * *g / (h.sqrt() + epsilon);
            }
        }
        (Op::Momentum, [momentum]) => {
            let nesterov = nesterov(attrs)?;
            let (alpha, rate) = (number("alpha", 0.0), T::from_f64(rate));
            let beta = if time > 0.0 { number("beta", 0.0) } else { T::ONE };
            for ((x, g), v) in x.iter_mut().zip(&gradient).zip(momentum) {
                *v = alpha * *v + beta * *g;
                *x = *x - rate * if nesterov { *g + alpha * *v } else { *v };
            }
        }
        _ => return Err(format!("{} is no optimizer with {states} states", ctx.node.op)),
    }
    std::iter::once(x)
        .chain(kept)
        .enumerate()
        .map(|(list, values)| {
            let like = ctx.tensor(2 + if list == 0 { i } else { (list + 1) * n + i })?;
            Ok(T::tensor(like.dtype(), like.shape().to_vec(), values))
        })
        .collect()
}

fn nesterov(attrs: &Attrs) -> Result<bool, String> {
    match attrs.str_or("mode", "standard") {
        "standard" => Ok(false),
        "nesterov" => Ok(true),
        other => Err(format!("mode must be standard or nesterov, is `{other}`")),
    }
}
