//! Elementwise ops as instructions of a pointwise program.

use crate::kernels::pointwise::{Binary, Function, Instruction, Program, Source};
use orrery_ir::{Node, Op};

/// What takes part in no sum: added to a number it gives the number, its sign of zero included.
const NOTHING: f32 = -0.0;
const LEAST: f32 = f32::NEG_INFINITY;
const LARGEST: f32 = f32::INFINITY;

/// Appends what `node` computes of `inputs` and returns where the result is; none where it is no elementwise op on f32,
/// or an operand that must be a number is not.
pub(crate) fn lower(node: &Node, inputs: &[Option<Source>], to: &mut Program) -> Option<Source> {
    if node.op == Op::Where {
        // The session has put the two numbers of a comparison behind the operands.
        let [None, Some(yes), Some(no), Some(a), Some(b)] = *inputs else { return None };
        return Some(to.push(Instruction::SelectLess([a, b, yes, no])));
    }
    let x = inputs.first().copied().flatten()?;
    let attr = |name: &str, default: f64| node.attrs.float_or(name, default) as f32;
    let unary = |to: &mut Program, function: Function| to.push(Instruction::Unary(function, x));
    let scalar = |to: &mut Program, f: fn(f32) -> f32| to.push(Instruction::Unary(Function::Scalar(f), x));
    Some(match node.op {
        Op::Identity => unary(to, Function::Copy),
        Op::Abs => unary(to, Function::Abs),
        Op::Sqrt => unary(to, Function::Sqrt),
        Op::Round => unary(to, Function::Round),
        Op::Exp => unary(to, Function::Exp),
        Op::Sigmoid => unary(to, Function::Sigmoid),
        Op::Tanh => unary(to, Function::Tanh),
        Op::Erf => unary(to, Function::Erf),
        Op::Gelu if node.attrs.str_or("approximate", "none") == "tanh" => unary(to, Function::GeluTanh),
        Op::Gelu => unary(to, Function::Gelu),
        Op::HardSwish => unary(to, Function::HardSwish),
        Op::Swish => unary(to, Function::Swish(attr("alpha", 1.0))),
        Op::Neg => to.line(x, -1.0, NOTHING, LEAST, LARGEST),
        Op::Reciprocal => to.push(Instruction::Binary(Binary::Div, Source::Number(1.0), x)),
        Op::Floor => scalar(to, f32::floor),
        Op::Ceil => scalar(to, f32::ceil),
        Op::Log => scalar(to, f32::ln),
        Op::Sin => scalar(to, f32::sin),
        Op::Cos => scalar(to, f32::cos),
        Op::Tan => scalar(to, f32::tan),
        Op::Asin => scalar(to, f32::asin),
        Op::Acos => scalar(to, f32::acos),
        Op::Atan => scalar(to, f32::atan),
        Op::Sinh => scalar(to, f32::sinh),
        Op::Cosh => scalar(to, f32::cosh),
        Op::Asinh => scalar(to, f32::asinh),
        Op::Acosh => scalar(to, f32::acosh),
        Op::Atanh => scalar(to, f32::atanh),
        Op::Softplus => scalar(to, softplus),
        Op::Mish => scalar(to, |x| x * softplus(x).tanh()),
        Op::Softsign => scalar(to, |x| x / (1.0 + x.abs())),
        Op::Relu => to.line(x, 1.0, NOTHING, 0.0, LARGEST),
        Op::HardSigmoid => to.line(x, attr("alpha", 0.2), attr("beta", 0.5), 0.0, 1.0),
        Op::LeakyRelu => {
            let below = to.line(x, 1.0, NOTHING, LEAST, 0.0);
            let above = to.line(x, 1.0, NOTHING, 0.0, LARGEST);
            to.push(Instruction::MulAdd(below, Source::Number(attr("alpha", 0.01)), above))
        }
        Op::PRelu => {
            let slope = inputs.get(1).copied().flatten()?;
            let below = to.line(x, 1.0, NOTHING, LEAST, 0.0);
            let above = to.line(x, 1.0, NOTHING, 0.0, LARGEST);
            to.push(Instruction::MulAdd(below, slope, above))
        }
        Op::Clip => {
            let bound = |i: usize, default: f32| match inputs.get(i).copied().flatten() {
                None => Some(default),
                Some(Source::Number(x)) => Some(x),
                Some(_) => None,
            };
            let (least, largest) = (bound(1, LEAST)?, bound(2, LARGEST)?);
            to.line(x, 1.0, NOTHING, least, largest)
        }
        Op::Add | Op::Sum => fold(inputs, to, add)?,
        Op::Sub => {
            let y = inputs.get(1).copied().flatten()?;
            match (x, y) {
                (_, Source::Number(y)) => to.line(x, 1.0, -y, LEAST, LARGEST),
                (Source::Number(x), _) => to.line(y, -1.0, x, LEAST, LARGEST),
                _ => to.push(Instruction::Binary(Binary::Sub, x, y)),
            }
        }
        Op::Mul => fold(inputs, to, mul)?,
        Op::Div => {
            let y = inputs.get(1).copied().flatten()?;
            match y {
                // Within one unit more than the division; for powers of two the same.
                Source::Number(y) if y.is_normal() && y.recip().is_normal() => {
                    to.line(x, y.recip(), NOTHING, LEAST, LARGEST)
                }
                _ => to.push(Instruction::Binary(Binary::Div, x, y)),
            }
        }
        Op::Pow => {
            let y = inputs.get(1).copied().flatten()?;
            match y {
                Source::Number(1.0) => unary(to, Function::Copy),
                Source::Number(2.0) => to.push(Instruction::Binary(Binary::Mul, x, x)),
                Source::Number(3.0) => {
                    let square = to.push(Instruction::Binary(Binary::Mul, x, x));
                    to.push(Instruction::Binary(Binary::Mul, square, x))
                }
                Source::Number(-1.0) => to.push(Instruction::Binary(Binary::Div, Source::Number(1.0), x)),
                _ => to.push(Instruction::Binary(Binary::Pow, x, y)),
            }
        }
        Op::Min => fold(inputs, to, |to, a, b| to.push(Instruction::Binary(Binary::Min, a, b)))?,
        Op::Max => fold(inputs, to, |to, a, b| to.push(Instruction::Binary(Binary::Max, a, b)))?,
        Op::Mean => {
            let sum = fold(inputs, to, add)?;
            to.line(sum, 1.0 / inputs.len() as f32, NOTHING, LEAST, LARGEST)
        }
        // The session has put factor and shift of each channel behind the operands.
        Op::BatchNormalization => {
            let [_, _, _, _, _, Some(scale), Some(shift)] = *inputs else { return None };
            to.push(Instruction::MulAdd(x, scale, shift))
        }
        _ => return None,
    })
}

fn softplus(x: f32) -> f32 {
    // ln(1 + e^x) without overflow.
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn add(to: &mut Program, a: Source, b: Source) -> Source {
    match (a, b) {
        (x, Source::Number(n)) | (Source::Number(n), x) => to.line(x, 1.0, n, LEAST, LARGEST),
        _ => to.push(Instruction::Binary(Binary::Add, a, b)),
    }
}

fn mul(to: &mut Program, a: Source, b: Source) -> Source {
    match (a, b) {
        (x, Source::Number(n)) | (Source::Number(n), x) => to.line(x, n, NOTHING, LEAST, LARGEST),
        _ => to.push(Instruction::Binary(Binary::Mul, a, b)),
    }
}

/// All operands brought together from the left.
fn fold(
    inputs: &[Option<Source>],
    to: &mut Program,
    mut f: impl FnMut(&mut Program, Source, Source) -> Source,
) -> Option<Source> {
    let mut all = inputs.iter().copied();
    let mut sum = all.next()??;
    if inputs.len() == 1 {
        return Some(to.push(Instruction::Unary(Function::Copy, sum)));
    }
    for x in all {
        sum = f(to, sum, x?);
    }
    Some(sum)
}
