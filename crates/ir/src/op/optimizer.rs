//! Ops of the family `optimizer`: the step of an optimizer on one parameter, element by element.
//!
//! Inputs are the learning rate R, the number of the step T (1 for the first), the parameter P, its gradient G and the
//! states; outputs are the new parameter and the new states. Formulas and defaults are those of `torch.optim` (PyTorch
//! 2), whose symbols the attributes name; weight decay is added to the gradient unless it is decoupled. All are computed
//! in the parameter's type.

use super::elements::{Float, by_float, scalar_f64, scalar_i64};
use super::{AttrDef, Class, Ctx, Datum, EvalCtx, Fact, Op, OpDef, Port, Work, opt, rules, space};
use crate::{AttrKind, Dim};

const BETA1: AttrDef = opt("beta1", AttrKind::Float, "Part of the mean gradient that is kept; 0.9.");
const BETA2: AttrDef = opt("beta2", AttrKind::Float, "Part of the mean squared gradient that is kept; 0.999.");
const EPSILON: AttrDef = opt("epsilon", AttrKind::Float, "Added to the root that is divided by; 1e-8.");
const DECAY: AttrDef = opt("weight_decay", AttrKind::Float, "Factor of the parameter that is added to its gradient; 0.");
const DECOUPLED: AttrDef = opt(
    "decoupled",
    AttrKind::Int,
    "Weight decay times the learning rate is taken off the parameter instead; 0.",
);
const ONE_STATE: &[Port] =
    &[Port::One("R"), Port::One("T"), Port::One("P"), Port::One("G"), Port::Optional("M")];
const TWO_STATES: &[Port] =
    &[Port::One("R"), Port::One("T"), Port::One("P"), Port::One("G"), Port::One("M"), Port::One("V")];
/// Inputs before the states.
const STATES_AT: usize = 4;

/// The entries.
pub const TABLE: &[OpDef] = &[
    OpDef {
        inputs: ONE_STATE,
        outputs: &[Port::One("P'"), Port::Optional("M'")],
        attrs: &[
            opt("momentum", AttrKind::Float, "Part of the momentum that is kept; 0."),
            opt("dampening", AttrKind::Float, "Part of the gradient that is left out of the momentum; 0."),
            opt("nesterov", AttrKind::Int, "Looks ahead along the momentum; 0."),
            DECAY,
        ],
        work: |ctx| work(ctx, 5, 0),
        eval: |ctx| evaluate(ctx),
        ..entry(Op::SgdStep, "Gradient descent, with momentum M where it is given.")
    },
    OpDef {
        inputs: TWO_STATES,
        outputs: &[Port::One("P'"), Port::One("M'"), Port::One("V'")],
        attrs: &[BETA1, BETA2, EPSILON, DECAY, DECOUPLED],
        work: |ctx| work(ctx, 10, 2),
        eval: |ctx| evaluate(ctx),
        ..entry(Op::AdamStep, "Adam, or AdamW where weight decay is decoupled: M and V are the running means of the gradient and its square.")
    },
    OpDef {
        inputs: TWO_STATES,
        outputs: &[Port::One("P'"), Port::One("M'"), Port::One("V'")],
        attrs: &[BETA1, BETA2, EPSILON, DECAY],
        work: |ctx| work(ctx, 9, 1),
        eval: |ctx| evaluate(ctx),
        ..entry(Op::AdamaxStep, "Adamax: V is the largest gradient, decaying.")
    },
    OpDef {
        inputs: TWO_STATES,
        outputs: &[Port::One("P'"), Port::One("M'"), Port::One("V'")],
        attrs: &[
            opt("alpha", AttrKind::Float, "Part of the mean squared gradient that is kept; 0.99."),
            opt("momentum", AttrKind::Float, "Part of the momentum M that is kept; 0."),
            EPSILON,
            DECAY,
        ],
        work: |ctx| work(ctx, 8, 2),
        eval: |ctx| evaluate(ctx),
        ..entry(Op::RmsPropStep, "RMSprop: V is the running mean of the squared gradient, M the momentum.")
    },
    OpDef {
        inputs: TWO_STATES,
        outputs: &[Port::One("U"), Port::One("M'"), Port::One("V'")],
        attrs: &[
            BETA1,
            BETA2,
            opt("epsilon", AttrKind::Float, "Added to the root that is divided by; 1e-6."),
            DECAY,
        ],
        work: |ctx| work(ctx, 10, 2),
        eval: |ctx| evaluate(ctx),
        ..entry(
            Op::LambDirection,
            "The direction U in which LAMB moves a parameter: Adam's with weight decay added (You and others 2020).",
        )
    },
];

const fn entry(op: Op, doc: &'static str) -> OpDef {
    OpDef { class: Class::Rounding, infer, space: space::elementwise, ..OpDef::new(op, doc) }
}

fn infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    rules::float(ctx, 0)?;
    rules::integer(ctx, 1)?;
    let dtype = rules::float(ctx, 2)?;
    for i in 3..ctx.input_count() {
        rules::of_type(ctx, [i], dtype)?;
        if let Some(shape) = ctx.shape(2) {
            rules::has_shape(ctx, i, &shape)?;
        }
    }
    let parameter = ctx.fact(2).ok_or("the parameter is missing")?;
    let states = ctx.input_count().saturating_sub(STATES_AT);
    if ctx.output_count() > states + 1 {
        return Err("every state that comes out must go in".into());
    }
    Ok(vec![Fact::of(parameter.ty.clone()); ctx.output_count()])
}

fn work(ctx: &Ctx<'_>, vector: i64, special: i64) -> Work {
    let elements = ctx.input_elements(2);
    Work::vector(elements.clone() * Dim::Known(vector), elements * Dim::Known(special))
}

fn evaluate(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    rules::facts(ctx)?;
    by_float!(ctx.tensor(2)?.dtype(), T => step::<T>(ctx))
}

fn step<T: Float>(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let attrs = ctx.attrs();
    let rate = scalar_f64(ctx.tensor(0)?)?;
    let time = scalar_i64(ctx.tensor(1)?)?.max(1) as f64;
    let parameter = ctx.tensor(2)?;
    let mut p = T::read(parameter)?.into_owned();
    let mut g = T::read(ctx.tensor(3)?)?.into_owned();
    let read = |i: usize| -> Result<Option<Vec<T>>, String> {
        ctx.optional(i)?.map(|t| Ok(T::read(t)?.into_owned())).transpose()
    };
    let (m, v) = (read(STATES_AT)?, read(STATES_AT + 1)?);
    let number = |name: &str, default: f64| T::from_f64(attrs.float_or(name, default));
    let decay = number("weight_decay", 0.0);
    let (beta1, beta2) = (attrs.float_or("beta1", 0.9), attrs.float_or("beta2", 0.999));
    let (b1, b2) = (T::from_f64(beta1), T::from_f64(beta2));
    let (first, second) = (1.0 - beta1.powf(time), 1.0 - beta2.powf(time));
    let lr = T::from_f64(rate);
    if ctx.node.op != Op::LambDirection && !attrs.flag("decoupled") && decay != T::ZERO {
        g.iter_mut().zip(&p).for_each(|(g, p)| *g += decay * *p);
    }
    let states: Vec<Vec<T>> = match (ctx.node.op, m, v) {
        (Op::SgdStep, None, _) => {
            p.iter_mut().zip(&g).for_each(|(p, g)| *p = *p - lr * *g);
            Vec::new()
        }
        (Op::SgdStep, Some(mut m), _) => {
            let (kept, nesterov) = (number("momentum", 0.0), attrs.flag("nesterov"));
            let added = if time > 1.0 { T::ONE - number("dampening", 0.0) } else { T::ONE };
            for ((p, g), m) in p.iter_mut().zip(&g).zip(&mut m) {
                *m = kept * *m + added * *g;
                *p = *p - lr * if nesterov { *g + kept * *m } else { *m };
            }
            vec![m]
        }
        (Op::AdamStep | Op::LambDirection, Some(mut m), Some(mut v)) => {
            let lamb = ctx.node.op == Op::LambDirection;
            let epsilon = number("epsilon", if lamb { 1e-6 } else { 1e-8 });
            let shrunk = if attrs.flag("decoupled") { T::ONE - lr * decay } else { T::ONE };
            let rate = T::from_f64(rate / first);
            let (root, unbias) = (T::from_f64(second.sqrt()), T::from_f64(1.0 / first));
            for (((p, g), m), v) in p.iter_mut().zip(&g).zip(&mut m).zip(&mut v) {
                *m = b1 * *m + (T::ONE - b1) * *g;
                *v = b2 * *v + (T::ONE - b2) * *g * *g;
                let below = v.sqrt() / root + epsilon;
                *p = if lamb { unbias * *m / below + decay * *p } else { shrunk * *p - rate * *m / below };
            }
            vec![m, v]
        }
        (Op::AdamaxStep, Some(mut m), Some(mut v)) => {
            let (epsilon, rate) = (number("epsilon", 1e-8), T::from_f64(rate / first));
            for (((p, g), m), v) in p.iter_mut().zip(&g).zip(&mut m).zip(&mut v) {
                *m = b1 * *m + (T::ONE - b1) * *g;
                *v = (b2 * *v).larger(g.abs() + epsilon);
                *p = *p - rate * *m / *v;
            }
            vec![m, v]
        }
        (Op::RmsPropStep, Some(mut m), Some(mut v)) => {
            let (alpha, kept, epsilon) =
                (number("alpha", 0.99), number("momentum", 0.0), number("epsilon", 1e-8));
            for (((p, g), m), v) in p.iter_mut().zip(&g).zip(&mut m).zip(&mut v) {
                *v = alpha * *v + (T::ONE - alpha) * *g * *g;
                *m = kept * *m + *g / (v.sqrt() + epsilon);
                *p = *p - lr * *m;
            }
            vec![m, v]
        }
        (op, ..) => return Err(format!("{op} needs its states")),
    };
    let (dtype, shape) = (parameter.dtype(), parameter.shape());
    let made = std::iter::once(p).chain(states).map(|values| T::tensor(dtype, shape.to_vec(), values).into());
    Ok(made.take(ctx.output_count().max(1)).collect())
}
