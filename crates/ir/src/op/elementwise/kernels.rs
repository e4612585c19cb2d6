//! Meanings of the elementwise ops. What types and shapes go together is left to the type rules, which each asks first.

use super::functions;
use crate::op::elements::{
    Loops, Unit, bools, broadcast_shapes, broadcast_strides, by_unit, element_count, integers,
};
use crate::op::number::{Number, by_number};
use crate::op::rules::facts;
use crate::op::{Datum, EvalCtx};
use orrery_numerics::{DType, Format, Rounding, Tensor, cast, round_slice};

type Outcome = Result<Vec<Datum>, String>;

fn one(tensor: Tensor) -> Outcome {
    Ok(vec![tensor.into()])
}

/// A function of one float, computed in binary64 and rounded to the type; types below 32 bits by way of binary32.
pub(super) fn unary(ctx: &EvalCtx<'_>, f: impl Fn(f64) -> f64) -> Outcome {
    let x = ctx.tensor(0)?;
    let shape = x.shape().to_vec();
    match x.dtype() {
        DType::F64 => one(Tensor::from_vec(shape, x.raw::<f64>().iter().map(|&v| f(v)).collect())),
        dtype if dtype.is_float() => {
            let values = f32::read(x)?.iter().map(|&v| f(f64::from(v)) as f32).collect();
            one(Number::write(dtype, shape, values))
        }
        dtype => Err(format!("takes floating-point elements, got {dtype}")),
    }
}

/// A function of one number of any type.
macro_rules! unary_number {
    ($ctx:expr, $T:ident => $f:expr) => {{
        facts($ctx)?;
        let x = $ctx.tensor(0)?;
        by_number!(x.dtype(), $T => {
            let values = <$T>::read(x)?.iter().map($f).collect();
            one(Number::write(x.dtype(), x.shape().to_vec(), values))
        })
    }};
}

pub(super) fn abs(ctx: &EvalCtx<'_>) -> Outcome {
    unary_number!(ctx, T => |&v| T::magnitude(v))
}
pub(super) fn neg(ctx: &EvalCtx<'_>) -> Outcome {
    unary_number!(ctx, T => |&v: &T| v.times(T::ZERO.minus(T::ONE)))
}
pub(super) fn sign(ctx: &EvalCtx<'_>) -> Outcome {
    unary_number!(ctx, T => |&v| T::sign(v))
}
pub(super) fn relu(ctx: &EvalCtx<'_>) -> Outcome {
    unary_number!(ctx, T => |&v| if v < T::ZERO { T::ZERO } else { v })
}
pub(super) fn shrink(ctx: &EvalCtx<'_>) -> Outcome {
    let (lambda, bias) = (ctx.attrs().float_or("lambd", 0.5), ctx.attrs().float_or("bias", 0.0));
    unary_number!(ctx, T => |&v| T::from_f64(functions::shrink(v.to_f64(), lambda, bias)))
}

/// A test of one float.
pub(super) fn test(ctx: &EvalCtx<'_>, f: impl Fn(f64) -> bool) -> Outcome {
    let x = ctx.tensor(0)?;
    facts(ctx)?;
    let values = x.to_f64().map_err(|e| e.to_string())?;
    one(Tensor::from_bools(x.shape().to_vec(), values.iter().map(|&v| f(v))))
}

pub(super) fn not(ctx: &EvalCtx<'_>) -> Outcome {
    let x = ctx.tensor(0)?;
    one(Tensor::from_bools(x.shape().to_vec(), bools(x)?.iter().map(|&v| v == 0)))
}
pub(super) fn bitwise_not(ctx: &EvalCtx<'_>) -> Outcome {
    facts(ctx)?;
    let x = ctx.tensor(0)?;
    let values: Vec<i64> = integers(x)?.iter().map(|&v| !v).collect();
    one(Tensor::from_i64(x.dtype(), x.shape().to_vec(), values))
}

/// Pairs of elements of two operands that broadcast to `out`.
fn zip<A: Copy, B: Copy, R>(
    a: (&[A], &[usize]),
    b: (&[B], &[usize]),
    out: &[usize],
    f: impl Fn(A, B) -> R,
) -> Vec<R> {
    let loops = Loops::new(out, [&broadcast_strides(a.1, out), &broadcast_strides(b.1, out)]);
    let (n, steps) = (loops.inner(), loops.steps());
    let mut values = Vec::with_capacity(out.iter().product());
    loops.rows(|[i, j]| {
        let (a, b) = (&a.0[i as usize..], &b.0[j as usize..]);
        match steps {
            [1, 1] => values.extend(a[..n].iter().zip(&b[..n]).map(|(&a, &b)| f(a, b))),
            [1, 0] => values.extend(a[..n].iter().map(|&a| f(a, b[0]))),
            [0, 1] => values.extend(b[..n].iter().map(|&b| f(a[0], b))),
            [p, q] => values.extend((0..n).map(|k| f(a[k * p as usize], b[k * q as usize]))),
        }
    });
    values
}

/// The shape that the first two inputs broadcast to, of a size that can be made as `dtype`.
fn joint_shape(a: &Tensor, b: &Tensor, dtype: DType) -> Result<Vec<usize>, String> {
    let shape = broadcast_shapes(&[a.shape(), b.shape()])?;
    element_count(dtype, &shape)?;
    Ok(shape)
}

/// A function of two numbers of one type.
macro_rules! binary_number {
    ($ctx:expr, $T:ident => $f:expr) => {{
        facts($ctx)?;
        let (a, b) = ($ctx.tensor(0)?, $ctx.tensor(1)?);
        let dtype = a.dtype();
        let shape = joint_shape(a, b, dtype)?;
        by_number!(dtype, $T => {
            let (left, right) = (<$T>::read(a)?, <$T>::read(b)?);
            let values = zip((&left, a.shape()), (&right, b.shape()), &shape, $f);
            one(Number::write(dtype, shape, values))
        })
    }};
}

pub(super) fn add(ctx: &EvalCtx<'_>) -> Outcome {
    binary_number!(ctx, T => T::plus)
}
pub(super) fn sub(ctx: &EvalCtx<'_>) -> Outcome {
    binary_number!(ctx, T => T::minus)
}
pub(super) fn mul(ctx: &EvalCtx<'_>) -> Outcome {
    binary_number!(ctx, T => T::times)
}
pub(super) fn div(ctx: &EvalCtx<'_>) -> Outcome {
    check_divisor(ctx)?;
    binary_number!(ctx, T => T::over)
}
pub(super) fn modulo(ctx: &EvalCtx<'_>) -> Outcome {
    check_divisor(ctx)?;
    if ctx.attrs().flag("fmod") {
        binary_number!(ctx, T => T::remainder)
    } else {
        binary_number!(ctx, T => T::modulo)
    }
}
fn check_divisor(ctx: &EvalCtx<'_>) -> Result<(), String> {
    let by = ctx.tensor(1)?;
    if by.dtype().is_int() && !ctx.tensor(0)?.is_empty() && integers(by)?.contains(&0) {
        return Err("an integer is divided by zero".into());
    }
    Ok(())
}

/// x if it is not negative, else x times the slope at its place.
pub(super) fn prelu(ctx: &EvalCtx<'_>) -> Outcome {
    binary_number!(ctx, T => |x: T, slope: T| if x < T::ZERO { x.times(slope) } else { x })
}

/// Powers have the type of the base. Floats are computed in binary64 and rounded.
pub(super) fn pow(ctx: &EvalCtx<'_>) -> Outcome {
    facts(ctx)?;
    let (base, exponent) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let dtype = base.dtype();
    let shape = joint_shape(base, exponent, dtype)?;
    if dtype.is_int() && exponent.dtype().is_int() {
        let (a, b) = (integers(base)?, integers(exponent)?);
        if b.iter().any(|&e| e < 0) && a.contains(&0) {
            return Err("the integer zero is taken to a negative power".into());
        }
        let values = zip((&a, base.shape()), (&b, exponent.shape()), &shape, functions::integer_power);
        return one(Tensor::from_i64(dtype, shape, values));
    }
    let (a, b) = (f64::read(base)?, f64::read(exponent)?);
    let values: Vec<f64> = zip((&a, base.shape()), (&b, exponent.shape()), &shape, f64::powf);
    one(Number::write(dtype, shape, values))
}

fn logical(ctx: &EvalCtx<'_>, f: impl Fn(bool, bool) -> bool) -> Outcome {
    let (a, b) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let shape = joint_shape(a, b, DType::Bool)?;
    let values =
        zip((bools(a)?, a.shape()), (bools(b)?, b.shape()), &shape, |a, b| u8::from(f(a != 0, b != 0)));
    one(Tensor::from_raw(DType::Bool, shape, values))
}
pub(super) fn and(ctx: &EvalCtx<'_>) -> Outcome {
    logical(ctx, |a, b| a && b)
}
pub(super) fn or(ctx: &EvalCtx<'_>) -> Outcome {
    logical(ctx, |a, b| a || b)
}
pub(super) fn xor(ctx: &EvalCtx<'_>) -> Outcome {
    logical(ctx, |a, b| a != b)
}

pub(super) fn bitwise(ctx: &EvalCtx<'_>, f: impl Fn(i64, i64) -> i64) -> Outcome {
    facts(ctx)?;
    let (a, b) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let dtype = a.dtype();
    let shape = joint_shape(a, b, dtype)?;
    let values = zip((&integers(a)?, a.shape()), (&integers(b)?, b.shape()), &shape, f);
    one(Tensor::from_i64(dtype, shape, values))
}

/// Bits beyond the width are lost; a shift by the width or more leaves none.
pub(super) fn bit_shift(ctx: &EvalCtx<'_>) -> Outcome {
    let dtype = ctx.tensor(0)?.dtype();
    let amount = |by: i64| u32::try_from(by).ok().filter(|by| u64::from(*by) < dtype.bits());
    match ctx.attrs().str("direction") {
        Some("LEFT") => bitwise(ctx, |a, by| amount(by).map_or(0, |by| a << by)),
        Some("RIGHT") => bitwise(ctx, |a, by| amount(by).map_or(0, |by| (a as u64 >> by) as i64)),
        other => Err(format!("direction must be LEFT or RIGHT, is {}", other.unwrap_or("missing"))),
    }
}

/// A comparison of two numbers of one type.
macro_rules! compare {
    ($ctx:expr, $op:tt) => {{
        facts($ctx)?;
        let (a, b) = ($ctx.tensor(0)?, $ctx.tensor(1)?);
        let dtype = a.dtype();
        let shape = joint_shape(a, b, DType::Bool)?;
        by_number!(dtype, T => {
            let (left, right) = (T::read(a)?, T::read(b)?);
            let values = zip((&left, a.shape()), (&right, b.shape()), &shape, |a, b| u8::from(a $op b));
            one(Tensor::from_raw(DType::Bool, shape, values))
        })
    }};
}
pub(super) fn less(ctx: &EvalCtx<'_>) -> Outcome {
    compare!(ctx, <)
}
pub(super) fn greater(ctx: &EvalCtx<'_>) -> Outcome {
    compare!(ctx, >)
}
pub(super) fn less_or_equal(ctx: &EvalCtx<'_>) -> Outcome {
    compare!(ctx, <=)
}
pub(super) fn greater_or_equal(ctx: &EvalCtx<'_>) -> Outcome {
    compare!(ctx, >=)
}
pub(super) fn equal(ctx: &EvalCtx<'_>) -> Outcome {
    facts(ctx)?;
    let (a, b) = (ctx.tensor(0)?, ctx.tensor(1)?);
    if a.dtype() == DType::Str {
        let shape = joint_shape(a, b, DType::Bool)?;
        let (left, right): (Vec<&String>, Vec<&String>) =
            (a.strings().iter().collect(), b.strings().iter().collect());
        let values = zip((&left, a.shape()), (&right, b.shape()), &shape, |a, b| u8::from(a == b));
        return one(Tensor::from_raw(DType::Bool, shape, values));
    }
    compare!(ctx, ==)
}

/// Folds all inputs, broadcast to one shape, and finishes with their number.
macro_rules! fold {
    ($ctx:expr, $T:ident => $f:expr, $finish:expr) => {{
        facts($ctx)?;
        let first = $ctx.tensor(0)?;
        let dtype = first.dtype();
        by_number!(dtype, $T => {
            let mut shape = first.shape().to_vec();
            let mut sum = <$T>::read(first)?.into_owned();
            for i in 1..$ctx.inputs.len() {
                let next = $ctx.tensor(i)?;
                let out = broadcast_shapes(&[&shape, next.shape()])?;
                element_count(dtype, &out)?;
                sum = zip((&sum, &shape), (&<$T>::read(next)?, next.shape()), &out, $f);
                shape = out;
            }
            let count = $T::from_f64($ctx.inputs.len() as f64);
            one(Number::write(dtype, shape, sum.into_iter().map(|v| $finish(v, count)).collect()))
        })
    }};
}
pub(super) fn max(ctx: &EvalCtx<'_>) -> Outcome {
    fold!(ctx, T => T::larger, |v, _| v)
}
pub(super) fn min(ctx: &EvalCtx<'_>) -> Outcome {
    fold!(ctx, T => T::smaller, |v, _| v)
}
pub(super) fn sum(ctx: &EvalCtx<'_>) -> Outcome {
    fold!(ctx, T => T::plus, |v, _| v)
}
pub(super) fn mean(ctx: &EvalCtx<'_>) -> Outcome {
    fold!(ctx, T => T::plus, T::over)
}

pub(super) fn select(ctx: &EvalCtx<'_>) -> Outcome {
    facts(ctx)?;
    let (condition, x, y) = (ctx.tensor(0)?, ctx.tensor(1)?, ctx.tensor(2)?);
    let dtype = x.dtype();
    let shape = broadcast_shapes(&[condition.shape(), x.shape(), y.shape()])?;
    let count = element_count(dtype, &shape)?;
    let condition = (bools(condition)?, condition.shape());
    let strides = [condition.1, x.shape(), y.shape()].map(|s| broadcast_strides(s, &shape));
    let loops = Loops::new(&shape, [&strides[0], &strides[1], &strides[2]]);
    by_unit!(dtype, T => {
        let (from_x, from_y) = (T::of(x), T::of(y));
        let mut out: Vec<T> = Vec::with_capacity(count);
        loops.each(|[c, i, j]| {
            let chosen = if condition.0[c as usize] != 0 { &from_x[i as usize] } else { &from_y[j as usize] };
            out.push(chosen.clone());
        });
        one(T::tensor(dtype, shape, out))
    })
}

/// min(max(x, low), high); where low is above high, all become high.
pub(super) fn clip(ctx: &EvalCtx<'_>) -> Outcome {
    facts(ctx)?;
    let x = ctx.tensor(0)?;
    for limit in [ctx.optional(1)?, ctx.optional(2)?].into_iter().flatten() {
        if limit.len() != 1 {
            return Err(format!("limits must be scalars, got {limit:?}"));
        }
    }
    by_number!(x.dtype(), T => {
        let limit = |i| -> Result<Option<T>, String> {
            Ok(match ctx.optional(i)? {
                Some(limit) => Some(T::read(limit)?[0]),
                None => None,
            })
        };
        let (low, high) = (limit(1)?, limit(2)?);
        let values = T::read(x)?
            .iter()
            .map(|&v| {
                let v = low.map_or(v, |low| v.larger(low));
                high.map_or(v, |high| v.smaller(high))
            })
            .collect();
        one(Number::write(x.dtype(), x.shape().to_vec(), values))
    })
}

pub(super) fn identity(ctx: &EvalCtx<'_>) -> Outcome {
    Ok(vec![ctx.inputs.first().cloned().flatten().ok_or("input 0 is missing")?])
}

pub(super) fn cast_to(ctx: &EvalCtx<'_>) -> Outcome {
    let to = ctx.attrs().dtype("to").ok_or("attribute `to` is missing")?;
    one(convert(ctx, to)?)
}
pub(super) fn cast_like(ctx: &EvalCtx<'_>) -> Outcome {
    one(convert(ctx, ctx.tensor(1)?.dtype())?)
}
fn convert(ctx: &EvalCtx<'_>, to: DType) -> Result<Tensor, String> {
    let rounding = match (to, ctx.attrs().str_or("round_mode", "up")) {
        (DType::F8E8M0, "up") => Rounding::AwayFromZero,
        (DType::F8E8M0, "down") => Rounding::TowardZero,
        (DType::F8E8M0, "nearest") => Rounding::NearestAway,
        (DType::F8E8M0, other) => return Err(format!("unknown round_mode `{other}`")),
        _ => Rounding::NearestEven,
    };
    let saturate = ctx.attrs().int_or("saturate", 1) != 0;
    let to_type = |x: &Tensor, to| cast(x, to, rounding, saturate).map_err(|e| e.to_string());
    let x = ctx.tensor(0)?;
    if to.is_int() && to.bits() < 8 && x.dtype().is_float() {
        // Of what is out of range the low bits stay, as the operator cases of ONNX have it.
        return to_type(&to_type(x, DType::I64)?, to);
    }
    to_type(x, to)
}

pub(super) fn round_to(ctx: &EvalCtx<'_>) -> Outcome {
    let x = ctx.tensor(0)?;
    let name = ctx.attrs().str("format").ok_or("attribute `format` is missing")?;
    let format = Format::parse(name).ok_or_else(|| format!("unknown number format `{name}`"))?;
    match x.dtype() {
        DType::F64 => unary(ctx, |v| format.nearest(v)),
        dtype if dtype.is_float() => {
            let mut values = f32::read(x)?.into_owned();
            round_slice(&mut values, format, Rounding::NearestEven, false, 0);
            one(Number::write(dtype, x.shape().to_vec(), values))
        }
        dtype => Err(format!("takes floating-point elements, got {dtype}")),
    }
}

/// An attribute that holds a number of binary32, or its default.
pub(super) fn number(ctx: &EvalCtx<'_>, name: &str, default: f32) -> f64 {
    ctx.attrs().float_or(name, default.into())
}

/// Which infinities count.
pub(super) fn is_inf(ctx: &EvalCtx<'_>) -> Outcome {
    let wanted = |name| ctx.attrs().int_or(name, 1) != 0;
    let (negative, positive) = (wanted("detect_negative"), wanted("detect_positive"));
    test(ctx, |v| v.is_infinite() && if v > 0.0 { positive } else { negative })
}

pub(super) fn gelu(ctx: &EvalCtx<'_>) -> Outcome {
    match ctx.attrs().str_or("approximate", "none") {
        "none" => unary(ctx, functions::gelu),
        "tanh" => unary(ctx, functions::gelu_tanh),
        other => Err(format!("unknown approximation `{other}`")),
    }
}
