//! Gradient rules of elementwise ops.
//!
//! Where a function has a kink, its gradient there is that of one side; of operands that compete, the first among equals
//! takes all. Steps have none: rounding to a format and casts between floats pass the gradient on as if they were exact
//! (straight through).

use crate::gradient::Backward;
use crate::{Attrs, Op, ValueId};
use orrery_base::Result;
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};

/// A rule of an op of one operand: `gradient` appends dX, given X, Y and dY.
fn of_one(
    b: &mut Backward<'_>,
    gradient: impl FnOnce(&mut Backward<'_>, ValueId, ValueId, ValueId) -> Result<ValueId>,
) -> Result<()> {
    let (x, y, dy) = (b.x(0)?, b.y(0)?, b.dy0()?);
    if b.wants(0) {
        let dx = gradient(b, x, y, dy)?;
        b.give(0, dx);
    }
    Ok(())
}
/// `yes` where the comparison of `x` with a number holds, `no` elsewhere.
fn choose(
    b: &mut Backward<'_>,
    (x, test, number): (ValueId, Op, f64),
    yes: ValueId,
    no: ValueId,
) -> Result<ValueId> {
    let number = b.scalar_like(x, number);
    let holds = b.op(test, &[x, number], Attrs::new())?;
    b.op(Op::Where, &[holds, yes, no], Attrs::new())
}
/// An attribute with the default that the meaning has.
fn number(b: &Backward<'_>, name: &str, default: f32) -> f64 {
    b.attrs().float_or(name, default.into())
}
/// 1 + sign x².
fn one_and_square(b: &mut Backward<'_>, x: ValueId, sign: f64) -> Result<ValueId> {
    let square = b.mul(x, x)?;
    let square = b.scale(square, sign)?;
    b.plus(square, 1.0)
}
/// 1 - x.
fn rest(b: &mut Backward<'_>, x: ValueId) -> Result<ValueId> {
    let one = b.scalar_like(x, 1.0);
    b.sub(one, x)
}

pub(super) fn identity(b: &mut Backward<'_>) -> Result<()> {
    of_one(b, |_, _, _, dy| Ok(dy))
}
/// Back to the type it came from.
pub(super) fn cast(b: &mut Backward<'_>) -> Result<()> {
    of_one(b, |b, x, _, dy| {
        let dtype = b.dtype(x);
        b.cast(dy, dtype)
    })
}
pub(super) fn neg(b: &mut Backward<'_>) -> Result<()> {
    of_one(b, |b, _, _, dy| b.unary(Op::Neg, dy))
}
pub(super) fn abs(b: &mut Backward<'_>) -> Result<()> {
    of_one(b, |b, x, _, dy| {
        let sign = b.unary(Op::Sign, x)?;
        b.mul(dy, sign)
    })
}
pub(super) fn reciprocal(b: &mut Backward<'_>) -> Result<()> {
    of_one(b, |b, _, y, dy| {
        let square = b.mul(y, y)?;
        let product = b.mul(dy, square)?;
        b.unary(Op::Neg, product)
    })
}
pub(super) fn sqrt(b: &mut Backward<'_>) -> Result<()> {
    of_one(b, |b, _, y, dy| {
        let half = b.scale(dy, 0.5)?;
        b.div(half, y)
    })
}
pub(super) fn exp(b: &mut Backward<'_>) -> Result<()> {
    of_one(b, |b, _, y, dy| b.mul(dy, y))
}
pub(super) fn log(b: &mut Backward<'_>) -> Result<()> {
    of_one(b, |b, x, _, dy| b.div(dy, x))
}
/// exp(-x²) times 2 over the root of π.
pub(super) fn erf(b: &mut Backward<'_>) -> Result<()> {
    of_one(b, |b, x, _, dy| {
        let square = b.mul(x, x)?;
        let minus = b.unary(Op::Neg, square)?;
        let bell = b.unary(Op::Exp, minus)?;
        let product = b.mul(dy, bell)?;
        b.scale(product, FRAC_2_SQRT_PI)
    })
}
pub(super) fn sin(b: &mut Backward<'_>) -> Result<()> {
    of_one(b, |b, x, _, dy| {
        let cos = b.unary(Op::Cos, x)?;
        b.mul(dy, cos)
    })
}
pub(super) fn cos(b: &mut Backward<'_>) -> Result<()> {
    of_one(b, |b, x, _, dy| {
        let sin = b.unary(Op::Sin, x)?;
        let product = b.mul(dy, sin)?;
        b.unary(Op::Neg, product)
    })
}
pub(super) fn sinh(b: &mut Backward<'_>) -> Result<()> {
    of_one(b, |b, x, _, dy| {
        let cosh = b.unary(Op::Cosh, x)?;
        b.mul(dy, cosh)
    })
}
pub(super) fn cosh(b: &mut Backward<'_>) -> Result<()> {
    of_one(b, |b, x, _, dy| {
        let sinh = b.unary(Op::Sinh, x)?;
        b.mul(dy, sinh)
    })
}
pub(super) fn tan(b: &mut Backward<'_>) -> Result<()> {
    of_one(b, |b, _, y, dy| {
        let slope = one_and_square(b, y, 1.0)?;
        b.mul(dy, slope)
    })
}
pub(super) fn tanh(b: &mut Backward<'_>) -> Result<()> {
    of_one(b, |b, _, y, dy| {
        let slope = one_and_square(b, y, -1.0)?;
        b.mul(dy, slope)
    })
}
pub(super) fn atan(b: &mut Backward<'_>) -> Result<()> {
    over(b, 1.0, |b, x| one_and_square(b, x, 1.0))
}
pub(super) fn atanh(b: &mut Backward<'_>) -> Result<()> {
    over(b, 1.0, |b, x| one_and_square(b, x, -1.0))
}
pub(super) fn asin(b: &mut Backward<'_>) -> Result<()> {
    over_root(b, 1.0, |b, x| one_and_square(b, x, -1.0))
}
pub(super) fn acos(b: &mut Backward<'_>) -> Result<()> {
    over_root(b, -1.0, |b, x| one_and_square(b, x, -1.0))
}
pub(super) fn asinh(b: &mut Backward<'_>) -> Result<()> {
    over_root(b, 1.0, |b, x| one_and_square(b, x, 1.0))
}
pub(super) fn acosh(b: &mut Backward<'_>) -> Result<()> {
    over_root(b, 1.0, |b, x| {
        let square = b.mul(x, x)?;
        b.plus(square, -1.0)
    })
}
/// A factor times dY over what `below` makes of X.
fn over(
    b: &mut Backward<'_>,
    factor: f64,
    below: impl FnOnce(&mut Backward<'_>, ValueId) -> Result<ValueId>,
) -> Result<()> {
    of_one(b, |b, x, _, dy| {
        let below = below(b, x)?;
        let dx = b.div(dy, below)?;
        b.scale(dx, factor)
    })
}
/// A factor times dY over the root of what `square` makes of X.
fn over_root(
    b: &mut Backward<'_>,
    factor: f64,
    square: impl FnOnce(&mut Backward<'_>, ValueId) -> Result<ValueId>,
) -> Result<()> {
    over(b, factor, |b, x| {
        let square = square(b, x)?;
        b.unary(Op::Sqrt, square)
    })
}

/// Y (1 - Y).
pub(super) fn sigmoid(b: &mut Backward<'_>) -> Result<()> {
    of_one(b, |b, _, y, dy| {
        let rest = rest(b, y)?;
        let slope = b.mul(y, rest)?;
        b.mul(dy, slope)
    })
}
pub(super) fn softplus(b: &mut Backward<'_>) -> Result<()> {
    of_one(b, |b, x, _, dy| {
        let slope = b.unary(Op::Sigmoid, x)?;
        b.mul(dy, slope)
    })
}
/// 1 / (1 + |X|)².
pub(super) fn softsign(b: &mut Backward<'_>) -> Result<()> {
    over(b, 1.0, |b, x| {
        let magnitude = b.unary(Op::Abs, x)?;
        let below = b.plus(magnitude, 1.0)?;
        b.mul(below, below)
    })
}
/// The gradient where the result is above zero. At zero it is zero, as frameworks have it.
pub(super) fn relu(b: &mut Backward<'_>) -> Result<()> {
    of_one(b, |b, _, y, dy| {
        let zero = b.scalar_like(y, 0.0);
        choose(b, (y, Op::Greater, 0.0), dy, zero)
    })
}
pub(super) fn leaky_relu(b: &mut Backward<'_>) -> Result<()> {
    let alpha = number(b, "alpha", 0.01);
    of_one(b, |b, x, _, dy| {
        let low = b.scale(dy, alpha)?;
        choose(b, (x, Op::Less, 0.0), low, dy)
    })
}
pub(super) fn thresholded_relu(b: &mut Backward<'_>) -> Result<()> {
    let alpha = number(b, "alpha", 1.0);
    of_one(b, |b, x, _, dy| {
        let zero = b.scalar_like(dy, 0.0);
        choose(b, (x, Op::Greater, alpha), dy, zero)
    })
}
pub(super) fn shrink(b: &mut Backward<'_>) -> Result<()> {
    let lambda = number(b, "lambd", 0.5);
    of_one(b, |b, x, _, dy| {
        let magnitude = b.unary(Op::Abs, x)?;
        let zero = b.scalar_like(dy, 0.0);
        choose(b, (magnitude, Op::Greater, lambda), dy, zero)
    })
}
/// Below zero, `scale` (Y + `shift`); above, `above`.
fn exponential(b: &mut Backward<'_>, scale: f64, shift: f64, above: f64) -> Result<()> {
    of_one(b, |b, x, y, dy| {
        let power = b.plus(y, shift)?;
        let slope = b.scale(power, scale)?;
        let low = b.mul(dy, slope)?;
        let high = b.scale(dy, above)?;
        choose(b, (x, Op::Less, 0.0), low, high)
    })
}
pub(super) fn elu(b: &mut Backward<'_>) -> Result<()> {
    let alpha = number(b, "alpha", 1.0);
    exponential(b, 1.0, alpha, 1.0)
}
pub(super) fn celu(b: &mut Backward<'_>) -> Result<()> {
    let alpha = number(b, "alpha", 1.0);
    exponential(b, 1.0 / alpha, alpha, 1.0)
}
pub(super) fn selu(b: &mut Backward<'_>) -> Result<()> {
    let (alpha, gamma) = (number(b, "alpha", 1.673_263_2), number(b, "gamma", 1.050_701));
    exponential(b, 1.0, alpha * gamma, gamma)
}
pub(super) fn hard_sigmoid(b: &mut Backward<'_>) -> Result<()> {
    let alpha = number(b, "alpha", 0.2);
    of_one(b, |b, _, y, dy| {
        let zero = b.scalar_like(dy, 0.0);
        let within = b.scale(dy, alpha)?;
        let held = choose(b, (y, Op::Less, 1.0), within, zero)?;
        choose(b, (y, Op::Greater, 0.0), held, zero)
    })
}
/// X / 3 + 1/2 within ±3, 0 below, 1 above.
pub(super) fn hard_swish(b: &mut Backward<'_>) -> Result<()> {
    of_one(b, |b, x, _, dy| {
        let zero = b.scalar_like(dy, 0.0);
        let third = b.scale(x, 1.0 / 3.0)?;
        let slope = b.plus(third, 0.5)?;
        let within = b.mul(dy, slope)?;
        let held = choose(b, (x, Op::Less, 3.0), within, dy)?;
        choose(b, (x, Op::Greater, -3.0), held, zero)
    })
}
/// With T = tanh(softplus(X)): T + X (1 - T²) sigmoid(X).
pub(super) fn mish(b: &mut Backward<'_>) -> Result<()> {
    of_one(b, |b, x, _, dy| {
        let soft = b.unary(Op::Softplus, x)?;
        let t = b.unary(Op::Tanh, soft)?;
        let rest = one_and_square(b, t, -1.0)?;
        let sigmoid = b.unary(Op::Sigmoid, x)?;
        let product = b.mul(rest, sigmoid)?;
        let product = b.mul(x, product)?;
        let slope = b.add(t, product)?;
        b.mul(dy, slope)
    })
}
/// With S = sigmoid(alpha X): S + alpha Y (1 - S).
pub(super) fn swish(b: &mut Backward<'_>) -> Result<()> {
    let alpha = number(b, "alpha", 1.0);
    of_one(b, |b, x, y, dy| {
        let scaled = b.scale(x, alpha)?;
        let sigmoid = b.unary(Op::Sigmoid, scaled)?;
        let rest = rest(b, sigmoid)?;
        let product = b.mul(y, rest)?;
        let product = b.scale(product, alpha)?;
        let slope = b.add(sigmoid, product)?;
        b.mul(dy, slope)
    })
}
/// Distribution function and X times density of the normal distribution, or those of the approximation.
pub(super) fn gelu(b: &mut Backward<'_>) -> Result<()> {
    let by_tanh = b.attrs().str_or("approximate", "none") == "tanh";
    of_one(b, |b, x, _, dy| {
        let square = b.mul(x, x)?;
        let slope = if by_tanh {
            // Y = X (1 + tanh U) / 2 with U = r (X + c X³).
            let (r, c) = ((2.0 / PI).sqrt(), 0.044_715);
            let inner = b.scale(square, r * c)?;
            let inner = b.plus(inner, r)?;
            let u = b.mul(x, inner)?;
            let t = b.unary(Op::Tanh, u)?;
            let du = b.scale(square, 1.5 * r * c)?;
            let du = b.plus(du, 0.5 * r)?;
            let du = b.mul(x, du)?;
            let rest = one_and_square(b, t, -1.0)?;
            let second = b.mul(rest, du)?;
            let first = b.scale(t, 0.5)?;
            let first = b.plus(first, 0.5)?;
            b.add(first, second)?
        } else {
            let scaled = b.scale(x, FRAC_1_SQRT_2)?;
            let erf = b.unary(Op::Erf, scaled)?;
            let first = b.scale(erf, 0.5)?;
            let first = b.plus(first, 0.5)?;
            let minus = b.scale(square, -0.5)?;
            let bell = b.unary(Op::Exp, minus)?;
            let density = b.scale(bell, 1.0 / (2.0 * PI).sqrt())?;
            let second = b.mul(x, density)?;
            b.add(first, second)?
        };
        b.mul(dy, slope)
    })
}
/// The gradient where X was kept; what is held goes to the limit that holds it.
pub(super) fn clip(b: &mut Backward<'_>) -> Result<()> {
    let (x, y, dy) = (b.x(0)?, b.y(0)?, b.dy0()?);
    let zero = b.scalar_like(dy, 0.0);
    if b.wants(0) {
        let kept = b.op(Op::Equal, &[x, y], Attrs::new())?;
        let dx = b.op(Op::Where, &[kept, dy, zero], Attrs::new())?;
        b.give(0, dx);
    }
    for (i, test) in [(1, Op::Less), (2, Op::Greater)] {
        if b.wants(i) {
            let limit = b.x(i)?;
            let held = b.op(test, &[x, limit], Attrs::new())?;
            let part = b.op(Op::Where, &[held, dy, zero], Attrs::new())?;
            b.give_summed(i, part)?;
        }
    }
    Ok(())
}

fn wanted(b: &Backward<'_>) -> Vec<usize> {
    (0..b.node().inputs.len()).filter(|i| b.wants(*i)).collect()
}
/// Of a sum of any number of inputs.
pub(super) fn add(b: &mut Backward<'_>) -> Result<()> {
    let dy = b.dy0()?;
    for i in wanted(b) {
        b.give_summed(i, dy)?;
    }
    Ok(())
}
pub(super) fn mean(b: &mut Backward<'_>) -> Result<()> {
    let (dy, count) = (b.dy0()?, b.node().inputs.len());
    let share = b.scale(dy, 1.0 / count as f64)?;
    for i in wanted(b) {
        b.give_summed(i, share)?;
    }
    Ok(())
}
pub(super) fn sub(b: &mut Backward<'_>) -> Result<()> {
    let dy = b.dy0()?;
    if b.wants(0) {
        b.give_summed(0, dy)?;
    }
    if b.wants(1) {
        let minus = b.unary(Op::Neg, dy)?;
        b.give_summed(1, minus)?;
    }
    Ok(())
}
pub(super) fn mul(b: &mut Backward<'_>) -> Result<()> {
    let dy = b.dy0()?;
    for i in wanted(b) {
        let other = b.x(1 - i)?;
        let product = b.mul(dy, other)?;
        b.give_summed(i, product)?;
    }
    Ok(())
}
/// dA = dY / B and dB = -Y dA.
pub(super) fn div(b: &mut Backward<'_>) -> Result<()> {
    let (y, dy, below) = (b.y(0)?, b.dy0()?, b.x(1)?);
    let quotient = b.div(dy, below)?;
    if b.wants(0) {
        b.give_summed(0, quotient)?;
    }
    if b.wants(1) {
        let product = b.mul(quotient, y)?;
        let minus = b.unary(Op::Neg, product)?;
        b.give_summed(1, minus)?;
    }
    Ok(())
}
/// Y is A less a whole multiple of B.
pub(super) fn modulo(b: &mut Backward<'_>) -> Result<()> {
    let (x, below, y, dy) = (b.x(0)?, b.x(1)?, b.y(0)?, b.dy0()?);
    if b.wants(0) {
        b.give_summed(0, dy)?;
    }
    if b.wants(1) {
        let difference = b.sub(y, x)?;
        let quotient = b.div(difference, below)?;
        let whole = b.unary(Op::Round, quotient)?;
        let product = b.mul(dy, whole)?;
        b.give_summed(1, product)?;
    }
    Ok(())
}
/// dA = dY B A^(B - 1), zero where B is; dB = dY Y ln A, zero where A is not positive.
pub(super) fn pow(b: &mut Backward<'_>) -> Result<()> {
    let (x, exponent, y, dy) = (b.x(0)?, b.x(1)?, b.y(0)?, b.dy0()?);
    let dtype = b.dtype(x);
    let zero = b.scalar_like(dy, 0.0);
    if b.wants(0) {
        let constant = b.fact(exponent).tensor.as_ref().filter(|t| t.len() == 1);
        let constant = constant.and_then(|t| Some(t.to_f64().ok()?[0]));
        let product = if let Some(power) = constant {
            let slope = if power == 2.0 {
                x
            } else {
                let less = b.scalar_like(x, power - 1.0);
                b.op(Op::Pow, &[x, less], Attrs::new())?
            };
            let slope = b.scale(slope, power)?;
            b.mul(dy, slope)?
        } else {
            let factor = b.cast(exponent, dtype)?;
            let less = b.plus(factor, -1.0)?;
            let power = b.op(Op::Pow, &[x, less], Attrs::new())?;
            let slope = b.mul(factor, power)?;
            let product = b.mul(dy, slope)?;
            choose(b, (factor, Op::Equal, 0.0), zero, product)?
        };
        b.give_summed(0, product)?;
    }
    if b.wants(1) {
        let log = b.unary(Op::Log, x)?;
        let slope = b.mul(y, log)?;
        let product = b.mul(dy, slope)?;
        let product = choose(b, (x, Op::Greater, 0.0), product, zero)?;
        let back = b.dtype(exponent);
        let product = b.cast(product, back)?;
        b.give_summed(1, product)?;
    }
    Ok(())
}
pub(super) fn prelu(b: &mut Backward<'_>) -> Result<()> {
    let (x, slope, dy) = (b.x(0)?, b.x(1)?, b.dy0()?);
    if b.wants(0) {
        let low = b.mul(dy, slope)?;
        let dx = choose(b, (x, Op::Less, 0.0), low, dy)?;
        b.give(0, dx);
    }
    if b.wants(1) {
        let product = b.mul(dy, x)?;
        let zero = b.scalar_like(dy, 0.0);
        let low = choose(b, (x, Op::Less, 0.0), product, zero)?;
        b.give_summed(1, low)?;
    }
    Ok(())
}
/// Of the largest or the smallest: to the first that equals the result.
pub(super) fn extreme(b: &mut Backward<'_>) -> Result<()> {
    let (y, mut left) = (b.y(0)?, b.dy0()?);
    let zero = b.scalar_like(left, 0.0);
    let count = b.node().inputs.len();
    for i in 0..count {
        let x = b.x(i)?;
        let mut part = left;
        if i + 1 < count {
            let here = b.op(Op::Equal, &[x, y], Attrs::new())?;
            part = b.op(Op::Where, &[here, left, zero], Attrs::new())?;
            left = b.op(Op::Where, &[here, zero, left], Attrs::new())?;
        }
        if b.wants(i) {
            b.give_summed(i, part)?;
        }
    }
    Ok(())
}
pub(super) fn select(b: &mut Backward<'_>) -> Result<()> {
    let (condition, dy) = (b.x(0)?, b.dy0()?);
    let zero = b.scalar_like(dy, 0.0);
    if b.wants(1) {
        let part = b.op(Op::Where, &[condition, dy, zero], Attrs::new())?;
        b.give_summed(1, part)?;
    }
    if b.wants(2) {
        let part = b.op(Op::Where, &[condition, zero, dy], Attrs::new())?;
        b.give_summed(2, part)?;
    }
    Ok(())
}
