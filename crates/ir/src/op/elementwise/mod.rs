//! Ops that compute each output element from the input elements at its place.
//!
//! Operands broadcast as in NumPy. One correctly rounded operation is of class exact: its result does not depend on how
//! the op is cut. What takes a transcendental function or several roundings is of class rounding.

pub(crate) mod functions;
mod gradient;
mod kernels;
mod rules;

use super::{
    AttrDef, Class, Ctx, Datum, Engine, EvalCtx, Fact, Op, OpDef, Port, Rule, Work, opt, req, space,
};
use crate::{AttrKind, Dim};
use functions as f;
use kernels as k;
use rules::{Takes, each};

type Infer = fn(&Ctx<'_>) -> Result<Vec<Fact>, String>;
type Count = fn(&Ctx<'_>) -> Work;
type Eval = fn(&EvalCtx<'_>) -> Result<Vec<Datum>, String>;

const fn entry(op: Op, doc: &'static str, class: Class, infer: Infer, work: Count, eval: Eval) -> OpDef {
    OpDef { class, infer, work, eval, space: space::elementwise, ..OpDef::new(op, doc) }
}
/// A function of one float that rounds.
const fn function(op: Op, doc: &'static str, work: Count, rule: Rule, eval: Eval) -> OpDef {
    entry(op, doc, Class::Rounding, |ctx| rules::plain(ctx, Takes::Floats), work, eval).gradient(rule)
}
const fn binary(op: Op, doc: &'static str, infer: Infer, work: Count, eval: Eval) -> OpDef {
    OpDef { inputs: &[Port::One("a"), Port::One("b")], ..entry(op, doc, Class::Exact, infer, work, eval) }
}
const fn variadic(op: Op, doc: &'static str, class: Class, infer: Infer, work: Count, eval: Eval) -> OpDef {
    // The first is needed: there is nothing to fold without it.
    const PORTS: &[Port] = &[Port::One("first"), Port::Variadic("more")];
    OpDef { inputs: PORTS, ..entry(op, doc, class, infer, work, eval) }
}
const CAST_ATTRS: [AttrDef; 2] = [
    opt(
        "saturate",
        AttrKind::Int,
        "Types of at most 8 bits hold what is out of range at their largest number; 1.",
    ),
    opt("round_mode", AttrKind::Str, "Rounding to f8e8m0: up, down or nearest; up."),
];

/// The entries.
pub const TABLE: &[OpDef] = &[
    // Of one operand, exact.
    entry(
        Op::Abs,
        "The magnitude of x.",
        Class::Exact,
        |ctx| {
            rules::unary(ctx, Takes::Numbers, |d| {
                super::content::compare(d, &Dim::Known(-1)).filter(|o| o.is_gt()).map(|_| d.clone())
            })
        },
        each::<1, 0>,
        k::abs,
    )
    .gradient(gradient::abs),
    entry(
        Op::Neg,
        "Changes the sign.",
        Class::Exact,
        |ctx| rules::unary(ctx, Takes::Numbers, |d| Some(Dim::Known(0) - d.clone())),
        each::<1, 0>,
        k::neg,
    )
    .gradient(gradient::neg),
    entry(
        Op::Sign,
        "The sign: -1, 0 or 1.",
        Class::Exact,
        |ctx| rules::plain(ctx, Takes::Numbers),
        each::<1, 0>,
        k::sign,
    )
    .flat(),
    entry(
        Op::Relu,
        "The larger of x and zero.",
        Class::Exact,
        |ctx| rules::unary(ctx, Takes::Numbers, |d| Some(d.larger(&Dim::Known(0)))),
        each::<1, 0>,
        k::relu,
    )
    .gradient(gradient::relu),
    entry(
        Op::Floor,
        "Rounds down to an integer.",
        Class::Exact,
        |ctx| rules::unary(ctx, Takes::Floats, |d| Some(d.clone())),
        each::<1, 0>,
        |ctx| k::unary(ctx, f64::floor),
    )
    .flat(),
    entry(
        Op::Ceil,
        "Rounds up to an integer.",
        Class::Exact,
        |ctx| rules::unary(ctx, Takes::Floats, |d| Some(d.clone())),
        each::<1, 0>,
        |ctx| k::unary(ctx, f64::ceil),
    )
    .flat(),
    entry(
        Op::Round,
        "Rounds to the nearest integer, ties to the even one.",
        Class::Exact,
        |ctx| rules::unary(ctx, Takes::Floats, |d| Some(d.clone())),
        each::<1, 0>,
        |ctx| k::unary(ctx, f64::round_ties_even),
    )
    .flat(),
    entry(
        Op::Reciprocal,
        "The reciprocal, 1 / x.",
        Class::Exact,
        |ctx| rules::plain(ctx, Takes::Floats),
        each::<0, 1>,
        |ctx| k::unary(ctx, f64::recip),
    )
    .gradient(gradient::reciprocal),
    entry(
        Op::Sqrt,
        "The square root of x.",
        Class::Exact,
        |ctx| rules::plain(ctx, Takes::Floats),
        each::<0, 1>,
        |ctx| k::unary(ctx, f64::sqrt),
    )
    .gradient(gradient::sqrt),
    entry(
        Op::Not,
        "Logical negation.",
        Class::Exact,
        |ctx| rules::unary(ctx, Takes::Bools, |d| Some(super::content::truth(d.is(0)))),
        each::<1, 0>,
        k::not,
    )
    .flat(),
    entry(
        Op::BitwiseNot,
        "Inverts every bit of an integer.",
        Class::Exact,
        |ctx| rules::plain(ctx, Takes::Integers),
        each::<1, 0>,
        k::bitwise_not,
    )
    .flat(),
    entry(Op::IsNaN, "True where x is not a number.", Class::Exact, rules::test, each::<1, 0>, |ctx| {
        k::test(ctx, f64::is_nan)
    })
    .flat(),
    OpDef {
        attrs: &[
            opt("detect_positive", AttrKind::Int, "Positive infinity counts; 1."),
            opt("detect_negative", AttrKind::Int, "Negative infinity counts; 1."),
        ],
        ..entry(Op::IsInf, "True where x is infinite.", Class::Exact, rules::test, each::<1, 0>, k::is_inf)
    }
    .flat(),
    OpDef {
        attrs: &[opt("alpha", AttrKind::Float, "Slope below zero; 0.01.")],
        ..entry(
            Op::LeakyRelu,
            "x, below zero times alpha.",
            Class::Exact,
            |ctx| rules::plain(ctx, Takes::Floats),
            each::<2, 0>,
            |ctx| {
                let alpha = k::number(ctx, "alpha", 0.01);
                k::unary(ctx, |x| if x < 0.0 { alpha * x } else { x })
            },
        )
    }
    .gradient(gradient::leaky_relu),
    OpDef {
        attrs: &[opt("alpha", AttrKind::Float, "Threshold; 1.")],
        ..entry(
            Op::ThresholdedRelu,
            "x above alpha, zero elsewhere.",
            Class::Exact,
            |ctx| rules::plain(ctx, Takes::Floats),
            each::<1, 0>,
            |ctx| {
                let alpha = k::number(ctx, "alpha", 1.0);
                k::unary(ctx, |x| if x <= alpha { 0.0 } else { x })
            },
        )
    }
    .gradient(gradient::thresholded_relu),
    OpDef {
        attrs: &[
            opt("lambd", AttrKind::Float, "Half the width of the zero band; 0.5."),
            opt("bias", AttrKind::Float, "What elements outside of the band move towards zero; 0."),
        ],
        ..entry(
            Op::Shrink,
            "Zero within ±lambd, moved towards zero by bias outside.",
            Class::Exact,
            |ctx| rules::plain(ctx, Takes::Numbers),
            each::<3, 0>,
            k::shrink,
        )
    }
    .gradient(gradient::shrink),
    OpDef {
        engine: Engine::View,
        ..entry(
            Op::Identity,
            "The input itself.",
            Class::Exact,
            rules::identity,
            super::context::no_work,
            k::identity,
        )
    }
    .gradient(gradient::identity),
    OpDef {
        inputs: &[Port::One("input"), Port::Optional("min"), Port::Optional("max")],
        space: |ctx| space::free_except(ctx, |_| false),
        ..entry(
            Op::Clip,
            "Holds elements within min and max, both scalars; max wins over min.",
            Class::Exact,
            rules::clip,
            each::<2, 0>,
            k::clip,
        )
    }
    .gradient(gradient::clip),
    OpDef {
        attrs: &[req("to", AttrKind::DType, "Element type of the output."), CAST_ATTRS[0], CAST_ATTRS[1]],
        ..entry(
            Op::Cast,
            "Converts to another element type.",
            Class::Exact,
            rules::cast_to,
            each::<1, 0>,
            k::cast_to,
        )
    }
    .gradient(gradient::cast),
    OpDef {
        inputs: &[Port::One("input"), Port::One("target")],
        attrs: &CAST_ATTRS,
        space: |ctx| space::free_except(ctx, |_| false),
        ..entry(
            Op::CastLike,
            "Converts to the element type of the second input.",
            Class::Exact,
            rules::cast_like,
            each::<1, 0>,
            k::cast_like,
        )
    }
    .gradient(gradient::cast),
    OpDef {
        attrs: &[req("format", AttrKind::Str, "Name of a number format such as tf32.")],
        ..entry(
            Op::RoundTo,
            "Rounds elements to the nearest values of a number format and keeps their type.",
            Class::Exact,
            |ctx| rules::plain(ctx, Takes::Floats),
            each::<1, 0>,
            k::round_to,
        )
    }
    .gradient(gradient::identity),
    // Of one operand, rounding.
    function(Op::Acos, "Arc cosine in radians.", each::<0, 1>, gradient::acos, |ctx| {
        k::unary(ctx, f64::acos)
    }),
    function(Op::Acosh, "Inverse hyperbolic cosine.", each::<0, 1>, gradient::acosh, |ctx| {
        k::unary(ctx, f64::acosh)
    }),
    function(Op::Asin, "Arc sine in radians.", each::<0, 1>, gradient::asin, |ctx| k::unary(ctx, f64::asin)),
    function(Op::Asinh, "Inverse hyperbolic sine.", each::<0, 1>, gradient::asinh, |ctx| {
        k::unary(ctx, f64::asinh)
    }),
    function(Op::Atan, "Arc tangent in radians.", each::<0, 1>, gradient::atan, |ctx| {
        k::unary(ctx, f64::atan)
    }),
    function(Op::Atanh, "Inverse hyperbolic tangent.", each::<0, 1>, gradient::atanh, |ctx| {
        k::unary(ctx, f64::atanh)
    }),
    function(Op::Cos, "Cosine of radians.", each::<0, 1>, gradient::cos, |ctx| k::unary(ctx, f64::cos)),
    function(Op::Cosh, "Hyperbolic cosine.", each::<0, 1>, gradient::cosh, |ctx| k::unary(ctx, f64::cosh)),
    function(Op::Erf, "The error function of x.", each::<0, 1>, gradient::erf, |ctx| {
        k::unary(ctx, libm::erf)
    }),
    function(Op::Exp, "e to the power x.", each::<0, 1>, gradient::exp, |ctx| k::unary(ctx, f64::exp)),
    function(Op::Log, "Natural logarithm.", each::<0, 1>, gradient::log, |ctx| k::unary(ctx, f64::ln)),
    function(Op::Sigmoid, "1 / (1 + exp(-x)).", each::<2, 2>, gradient::sigmoid, |ctx| {
        k::unary(ctx, f::sigmoid)
    }),
    function(Op::Sin, "Sine of radians.", each::<0, 1>, gradient::sin, |ctx| k::unary(ctx, f64::sin)),
    function(Op::Sinh, "Hyperbolic sine.", each::<0, 1>, gradient::sinh, |ctx| k::unary(ctx, f64::sinh)),
    function(Op::Softplus, "Soft plus: ln(1 + exp(x)).", each::<1, 2>, gradient::softplus, |ctx| {
        k::unary(ctx, f::softplus)
    }),
    function(Op::Softsign, "Soft sign: x / (1 + |x|).", each::<2, 1>, gradient::softsign, |ctx| {
        k::unary(ctx, |x| x / (1.0 + x.abs()))
    }),
    function(Op::Tan, "Tangent of radians.", each::<0, 1>, gradient::tan, |ctx| k::unary(ctx, f64::tan)),
    function(Op::Tanh, "Hyperbolic tangent.", each::<0, 1>, gradient::tanh, |ctx| k::unary(ctx, f64::tanh)),
    function(
        Op::HardSwish,
        "x times min(max(x / 6 + 0.5, 0), 1).",
        each::<5, 0>,
        gradient::hard_swish,
        |ctx| k::unary(ctx, |x| x * f::hard_sigmoid(x, 1.0 / 6.0, 0.5)),
    ),
    function(Op::Mish, "x tanh(ln(1 + exp(x))).", each::<2, 3>, gradient::mish, |ctx| {
        k::unary(ctx, |x| x * f::softplus(x).tanh())
    }),
    OpDef {
        attrs: &[opt("alpha", AttrKind::Float, "Factor of x in the sigmoid; 1.")],
        ..function(Op::Swish, "x sigmoid(alpha x).", each::<4, 2>, gradient::swish, |ctx| {
            let alpha = k::number(ctx, "alpha", 1.0);
            k::unary(ctx, |x| x * f::sigmoid(alpha * x))
        })
    },
    OpDef {
        attrs: &[opt("alpha", AttrKind::Float, "Value far below zero, negated; 1.")],
        ..function(Op::Elu, "x, below zero alpha (exp(x) - 1).", each::<3, 1>, gradient::elu, |ctx| {
            let alpha = k::number(ctx, "alpha", 1.0);
            k::unary(ctx, |x| f::elu(x, alpha))
        })
    },
    OpDef {
        attrs: &[opt("alpha", AttrKind::Float, "Value far below zero, negated; 1.")],
        ..function(
            Op::Celu,
            "x, below zero alpha (exp(x / alpha) - 1).",
            each::<4, 1>,
            gradient::celu,
            |ctx| {
                let alpha = k::number(ctx, "alpha", 1.0);
                k::unary(ctx, |x| f::celu(x, alpha))
            },
        )
    },
    OpDef {
        attrs: &[
            opt(
                "alpha",
                AttrKind::Float,
                "Value far below zero before scaling, negated; 1.67326319217681884765625.",
            ),
            opt("gamma", AttrKind::Float, "Scale; 1.05070102214813232421875."),
        ],
        ..function(
            Op::Selu,
            "gamma times x, below zero gamma alpha (exp(x) - 1).",
            each::<4, 1>,
            gradient::selu,
            |ctx| {
                let (alpha, gamma) =
                    (k::number(ctx, "alpha", 1.673_263_2), k::number(ctx, "gamma", 1.050_701));
                k::unary(ctx, |x| gamma * f::elu(x, alpha))
            },
        )
    },
    OpDef {
        attrs: &[opt("approximate", AttrKind::Str, "`none`, or `tanh` for the approximation by it; none.")],
        ..function(
            Op::Gelu,
            "x times the normal distribution function of x.",
            each::<4, 1>,
            gradient::gelu,
            k::gelu,
        )
    },
    OpDef {
        attrs: &[
            opt("alpha", AttrKind::Float, "Slope; 0.2."),
            opt("beta", AttrKind::Float, "Value at zero; 0.5."),
        ],
        ..function(
            Op::HardSigmoid,
            "alpha x + beta within 0 to 1.",
            each::<4, 0>,
            gradient::hard_sigmoid,
            |ctx| {
                let (alpha, beta) = (k::number(ctx, "alpha", 0.2), k::number(ctx, "beta", 0.5));
                k::unary(ctx, |x| f::hard_sigmoid(x, alpha, beta))
            },
        )
    },
    // Of two operands.
    binary(
        Op::Add,
        "Sum; integers wrap.",
        |ctx| rules::joined(ctx, Takes::Numbers, None, |a, b| Some(a.clone() + b.clone())),
        each::<1, 0>,
        k::add,
    )
    .gradient(gradient::add),
    binary(
        Op::Sub,
        "Difference; integers wrap.",
        |ctx| rules::joined(ctx, Takes::Numbers, None, |a, b| Some(a.clone() - b.clone())),
        each::<1, 0>,
        k::sub,
    )
    .gradient(gradient::sub),
    binary(
        Op::Mul,
        "Product; integers wrap.",
        |ctx| rules::joined(ctx, Takes::Numbers, None, |a, b| Some(a.clone() * b.clone())),
        each::<1, 0>,
        k::mul,
    )
    .gradient(gradient::mul),
    binary(Op::Div, "Quotient; of integers, rounded towards zero.", rules::div, rules::quotient, k::div)
        .gradient(gradient::div),
    OpDef {
        attrs: &[opt("fmod", AttrKind::Int, "The sign is that of the first operand, not of the second; 0.")],
        ..binary(
            Op::Mod,
            "What a division leaves.",
            |ctx| rules::joined(ctx, Takes::Numbers, None, super::content::modulo),
            rules::quotient,
            k::modulo,
        )
    }
    .gradient(gradient::modulo),
    OpDef {
        class: Class::Rounding,
        ..binary(
            Op::Pow,
            "The first to the power of the second, in the first's type.",
            rules::pow,
            each::<0, 2>,
            k::pow,
        )
    }
    .gradient(gradient::pow),
    binary(
        Op::And,
        "True where both are.",
        |ctx| rules::joined(ctx, Takes::Bools, None, |a, b| Some(a.smaller(b))),
        each::<1, 0>,
        k::and,
    )
    .flat(),
    binary(
        Op::Or,
        "True where either is.",
        |ctx| rules::joined(ctx, Takes::Bools, None, |a, b| Some(a.larger(b))),
        each::<1, 0>,
        k::or,
    )
    .flat(),
    binary(
        Op::Xor,
        "True where one of the two is.",
        |ctx| rules::joined(ctx, Takes::Bools, None, |a, b| Some(super::content::truth(a != b))),
        each::<1, 0>,
        k::xor,
    )
    .flat(),
    binary(
        Op::BitwiseAnd,
        "Bits that both have.",
        |ctx| rules::joined(ctx, Takes::Integers, None, |_, _| None),
        each::<1, 0>,
        |ctx| k::bitwise(ctx, |a, b| a & b),
    )
    .flat(),
    binary(
        Op::BitwiseOr,
        "Bits that either has.",
        |ctx| rules::joined(ctx, Takes::Integers, None, |_, _| None),
        each::<1, 0>,
        |ctx| k::bitwise(ctx, |a, b| a | b),
    )
    .flat(),
    binary(
        Op::BitwiseXor,
        "Bits that one of the two has.",
        |ctx| rules::joined(ctx, Takes::Integers, None, |_, _| None),
        each::<1, 0>,
        |ctx| k::bitwise(ctx, |a, b| a ^ b),
    )
    .flat(),
    OpDef {
        attrs: &[req("direction", AttrKind::Str, "LEFT or RIGHT.")],
        ..binary(
            Op::BitShift,
            "Unsigned integers shifted by so many bits.",
            |ctx| rules::joined(ctx, Takes::Unsigned, None, |_, _| None),
            each::<1, 0>,
            k::bit_shift,
        )
    }
    .flat(),
    binary(
        Op::Equal,
        "True where both are equal.",
        |ctx| rules::compared(ctx, Takes::Any, std::cmp::Ordering::is_eq),
        each::<1, 0>,
        k::equal,
    )
    .flat(),
    binary(
        Op::Less,
        "True where the first is less than the second.",
        |ctx| rules::compared(ctx, Takes::Numbers, std::cmp::Ordering::is_lt),
        each::<1, 0>,
        k::less,
    )
    .flat(),
    binary(
        Op::Greater,
        "True where the first is greater than the second.",
        |ctx| rules::compared(ctx, Takes::Numbers, std::cmp::Ordering::is_gt),
        each::<1, 0>,
        k::greater,
    )
    .flat(),
    binary(
        Op::LessOrEqual,
        "True where the first is less than the second or equal.",
        |ctx| rules::compared(ctx, Takes::Numbers, std::cmp::Ordering::is_le),
        each::<1, 0>,
        k::less_or_equal,
    )
    .flat(),
    binary(
        Op::GreaterOrEqual,
        "True where the first is greater than the second or equal.",
        |ctx| rules::compared(ctx, Takes::Numbers, std::cmp::Ordering::is_ge),
        each::<1, 0>,
        k::greater_or_equal,
    )
    .flat(),
    OpDef {
        inputs: &[Port::One("input"), Port::One("slope")],
        ..entry(
            Op::PRelu,
            "x, below zero times a slope that broadcasts to x.",
            Class::Exact,
            rules::prelu,
            each::<2, 0>,
            k::prelu,
        )
    }
    .gradient(gradient::prelu),
    // Of any number of operands.
    variadic(
        Op::Max,
        "The largest of all inputs; NaN where one is.",
        Class::Exact,
        |ctx| rules::joined(ctx, Takes::Numbers, None, |a, b| Some(a.larger(b))),
        rules::folded,
        k::max,
    )
    .gradient(gradient::extreme),
    variadic(
        Op::Min,
        "The smallest of all inputs; NaN where one is.",
        Class::Exact,
        |ctx| rules::joined(ctx, Takes::Numbers, None, |a, b| Some(a.smaller(b))),
        rules::folded,
        k::min,
    )
    .gradient(gradient::extreme),
    variadic(
        Op::Sum,
        "The sum of all inputs.",
        Class::Rounding,
        |ctx| rules::joined(ctx, Takes::Numbers, None, |a, b| Some(a.clone() + b.clone())),
        rules::folded,
        k::sum,
    )
    .gradient(gradient::add),
    variadic(
        Op::Mean,
        "The mean of all inputs.",
        Class::Rounding,
        |ctx| rules::joined(ctx, Takes::Floats, None, |_, _| None),
        rules::averaged,
        k::mean,
    )
    .gradient(gradient::mean),
    OpDef {
        inputs: &[Port::One("condition"), Port::One("x"), Port::One("y")],
        ..entry(
            Op::Where,
            "Elements of x where the condition is true, of y elsewhere.",
            Class::Exact,
            rules::select,
            each::<1, 0>,
            k::select,
        )
    }
    .gradient(gradient::select),
];
