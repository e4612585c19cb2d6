//! Meanings of the reductions.
//!
//! Floats are accumulated in binary64 in row-major order and rounded once, so that a result is as near to the exact one
//! as its type allows; integers wrap.

use super::rules::{axes, axis_of, scan_axis};
use crate::op::elements::{Loops, strides};
use crate::op::number::{Number, by_number};
use crate::op::rules::check_one;
use crate::op::{Datum, EvalCtx};
use orrery_numerics::{DType, Tensor};

type Outcome = Result<Vec<Datum>, String>;

fn one(tensor: Tensor) -> Outcome {
    Ok(vec![tensor.into()])
}

/// Folds the reduced dimensions: each result starts as `start` and takes in its elements in row-major order.
fn fold<T: Copy, A: Copy>(
    values: &[T],
    shape: &[usize],
    reduced: &[bool],
    start: &[A],
    step: impl Fn(A, T) -> A,
) -> Vec<A> {
    let kept: Vec<usize> = shape.iter().zip(reduced).map(|(&n, &gone)| if gone { 1 } else { n }).collect();
    let to: Vec<isize> =
        strides(&kept).iter().zip(reduced).map(|(&s, &gone)| if gone { 0 } else { s }).collect();
    let mut results = start.to_vec();
    let loops = Loops::new(shape, [&strides(shape), &to]);
    let (n, [along, across]) = (loops.inner(), loops.steps());
    loops.rows(|[from, to]| {
        let (from, to) = (from as usize, to as usize);
        match (along, across) {
            (1, 0) => results[to] = values[from..from + n].iter().fold(results[to], |a, &v| step(a, v)),
            (1, 1) => {
                for (a, &v) in results[to..to + n].iter_mut().zip(&values[from..from + n]) {
                    *a = step(*a, v);
                }
            }
            _ => (0..n).for_each(|i| {
                let a = &mut results[to + i * across as usize];
                *a = step(*a, values[from + i * along as usize]);
            }),
        }
    });
    results
}

/// Which dimensions are reduced, and the shape of the result.
fn plan(ctx: &EvalCtx<'_>) -> Result<(Vec<bool>, Vec<usize>), String> {
    let (_, shape) = check_one(ctx)?;
    let rank = ctx.tensor(0)?.rank();
    let given = if ctx.has(1) { ctx.ints(1)? } else { Vec::new() };
    Ok((axes(&given, ctx.attrs().flag("noop_with_empty_axes"), rank)?, shape))
}

/// A reduction in binary64: where it starts, how it takes in an element, how it ends given the number of elements.
pub(super) fn floats(
    ctx: &EvalCtx<'_>,
    start: f64,
    step: impl Fn(f64, f64) -> f64,
    finish: impl Fn(f64, f64) -> f64,
) -> Outcome {
    let (reduced, shape) = plan(ctx)?;
    let x = ctx.tensor(0)?;
    let count: usize = shape.iter().product();
    let begin = vec![start; count];
    let sums = by_number!(x.dtype(), T => {
        Ok::<_, String>(fold(&T::read(x)?, x.shape(), &reduced, &begin, |a, v: T| step(a, v.to_f64())))
    })?;
    let n = x.shape().iter().zip(&reduced).map(|(&n, &gone)| if gone { n as f64 } else { 1.0 }).product();
    one(f64::write(x.dtype(), shape, sums.into_iter().map(|v| finish(v, n)).collect()))
}

/// A reduction that integers do in their own arithmetic and floats in binary64.
macro_rules! numbers {
    ($ctx:expr, $start:expr, $T:ident => $step:expr) => {{
        let x = $ctx.tensor(0)?;
        if x.dtype().is_float() {
            type $T = f64;
            return floats($ctx, $start, $step, |v, _| v);
        }
        let (reduced, shape) = plan($ctx)?;
        by_number!(x.dtype(), $T => {
            // An infinite start is the end of the type's range.
            let (low, high) = x.dtype().int_range();
            let start = if $start.is_infinite() { if $start < 0.0 { low as $T } else { high as $T } } else { $start as $T };
            let begin = vec![start; shape.iter().product()];
            one($T::write(x.dtype(), shape, fold(&$T::read(x)?, x.shape(), &reduced, &begin, $step)))
        })
    }};
}
pub(super) fn sum(ctx: &EvalCtx<'_>) -> Outcome {
    numbers!(ctx, 0.0_f64, T => |a: T, v: T| a.plus(v))
}
pub(super) fn product(ctx: &EvalCtx<'_>) -> Outcome {
    numbers!(ctx, 1.0_f64, T => |a: T, v: T| a.times(v))
}
pub(super) fn max(ctx: &EvalCtx<'_>) -> Outcome {
    numbers!(ctx, f64::NEG_INFINITY, T => |a: T, v: T| a.larger(v))
}
pub(super) fn min(ctx: &EvalCtx<'_>) -> Outcome {
    numbers!(ctx, f64::INFINITY, T => |a: T, v: T| a.smaller(v))
}
pub(super) fn l1(ctx: &EvalCtx<'_>) -> Outcome {
    numbers!(ctx, 0.0_f64, T => |a: T, v: T| a.plus(v.magnitude()))
}
pub(super) fn sum_square(ctx: &EvalCtx<'_>) -> Outcome {
    numbers!(ctx, 0.0_f64, T => |a: T, v: T| a.plus(v.times(v)))
}
/// ln of the sum of exponentials, relative to the largest so that none overflows.
pub(super) fn log_sum_exp(ctx: &EvalCtx<'_>) -> Outcome {
    let (reduced, shape) = plan(ctx)?;
    let x = ctx.tensor(0)?;
    let count: usize = shape.iter().product();
    let values = x.to_f64().map_err(|e| e.to_string())?;
    let most = fold(&values, x.shape(), &reduced, &vec![f64::NEG_INFINITY; count], |a, v: f64| a.larger(v));
    // An infinite largest one would make the differences NaN.
    let begin: Vec<(f64, f64)> =
        most.into_iter().map(|m| (if m.is_finite() { m } else { 0.0 }, 0.0)).collect();
    let sums = fold(&values, x.shape(), &reduced, &begin, |(m, a), v: f64| (m, a + (v - m).exp()));
    one(f64::write(x.dtype(), shape, sums.into_iter().map(|(m, a)| m + a.ln()).collect()))
}

/// Elements along one axis: outer and inner repetition, and the axis' extent.
struct Lanes {
    outer: usize,
    extent: usize,
    run: usize,
}
impl Lanes {
    fn new(shape: &[usize], axis: usize) -> Self {
        let run = shape.get(axis + 1..).unwrap_or_default().iter().product();
        Self { outer: shape[..axis].iter().product(), extent: shape.get(axis).copied().unwrap_or(1), run }
    }
    /// Calls `each` with the offset of every lane's first element; the next one is `run` further.
    fn each(&self, mut each: impl FnMut(usize)) {
        for row in 0..self.outer {
            for column in 0..self.run {
                each(row * self.extent * self.run + column);
            }
        }
    }
}

/// Index of the best element; `better` says whether an element beats the best one before it.
pub(super) fn arg(ctx: &EvalCtx<'_>, largest: bool) -> Outcome {
    let (_, shape) = check_one(ctx)?;
    let x = ctx.tensor(0)?;
    let lanes = Lanes::new(x.shape(), axis_of(ctx.attrs(), 0, x.rank())?);
    let last = ctx.attrs().flag("select_last_index");
    if lanes.extent == 0 && lanes.outer * lanes.run > 0 {
        return Err("there is no best element among none".into());
    }
    let mut out = Vec::with_capacity(lanes.outer * lanes.run);
    by_number!(x.dtype(), T => {
        let values = T::read(x)?;
        lanes.each(|start| {
            let at = |i: usize| values[start + i * lanes.run];
            let nan = |v: T| v.partial_cmp(&v).is_none();
            let best = (1..lanes.extent).fold(0, |best, i| {
                let (old, new) = (at(best), at(i));
                let better = if nan(old) || nan(new) {
                    nan(new) && (last || !nan(old))
                } else {
                    (if largest { new > old } else { new < old }) || (last && new == old)
                };
                if better { i } else { best }
            });
            out.push(best as i64);
        });
        Ok::<_, String>(())
    })?;
    one(Tensor::from_vec(shape, out))
}

/// Running results along an axis.
macro_rules! scan {
    ($ctx:expr, $T:ident => $start:expr, $step:expr) => {{
        let x = $ctx.tensor(0)?;
        check_one($ctx)?;
        let lanes = Lanes::new(x.shape(), scan_axis(crate::op::elements::scalar_i64($ctx.tensor(1)?)?, x.rank())?);
        let (exclusive, reverse) = ($ctx.attrs().flag("exclusive"), $ctx.attrs().flag("reverse"));
        let place = |start: usize, i: usize| start + if reverse { lanes.extent - 1 - i } else { i } * lanes.run;
        let wide = if x.dtype().is_float() { DType::F64 } else { x.dtype() };
        by_number!(wide, $T => {
            let mut values = $T::read(x)?.into_owned();
            lanes.each(|start| {
                let mut sum = $start;
                for i in 0..lanes.extent {
                    let value = &mut values[place(start, i)];
                    let next = $step(sum, *value);
                    *value = if exclusive { sum } else { next };
                    sum = next;
                }
            });
            one($T::write(x.dtype(), x.shape().to_vec(), values))
        })
    }};
}
pub(super) fn cumulative_sum(ctx: &EvalCtx<'_>) -> Outcome {
    scan!(ctx, T => T::ZERO, T::plus)
}
pub(super) fn cumulative_product(ctx: &EvalCtx<'_>) -> Outcome {
    scan!(ctx, T => T::ONE, T::times)
}

/// Replaces each lane of a float tensor, given in binary64.
fn by_lane(ctx: &EvalCtx<'_>, replace: impl Fn(&mut [f64])) -> Outcome {
    let (dtype, shape) = check_one(ctx)?;
    let x = ctx.tensor(0)?;
    let lanes = Lanes::new(x.shape(), axis_of(ctx.attrs(), -1, x.rank())?);
    let mut lane = vec![0.0; lanes.extent];
    by_number!(dtype, T => {
        let mut values = T::read(x)?.into_owned();
        lanes.each(|start| {
            for (i, v) in lane.iter_mut().enumerate() {
                *v = values[start + i * lanes.run].to_f64();
            }
            replace(&mut lane);
            for (i, &v) in lane.iter().enumerate() {
                values[start + i * lanes.run] = T::from_f64(v);
            }
        });
        one(T::write(dtype, shape, values))
    })
}
fn largest(lane: &[f64]) -> f64 {
    lane.iter().fold(f64::NEG_INFINITY, |a, &v| a.larger(v))
}
pub(super) fn softmax(ctx: &EvalCtx<'_>) -> Outcome {
    by_lane(ctx, |lane| {
        let most = largest(lane);
        lane.iter_mut().for_each(|v| *v = (*v - most).exp());
        let sum: f64 = lane.iter().sum();
        lane.iter_mut().for_each(|v| *v /= sum);
    })
}
pub(super) fn log_softmax(ctx: &EvalCtx<'_>) -> Outcome {
    by_lane(ctx, |lane| {
        let most = largest(lane);
        let sum: f64 = lane.iter().map(|v| (v - most).exp()).sum();
        let log = sum.ln();
        lane.iter_mut().for_each(|v| *v = *v - most - log);
    })
}
pub(super) fn hardmax(ctx: &EvalCtx<'_>) -> Outcome {
    by_lane(ctx, |lane| {
        let most = largest(lane);
        let mut found = false;
        for v in lane {
            let first = !found && (*v == most || v.is_nan());
            found |= first;
            *v = if first { 1.0 } else { 0.0 };
        }
    })
}
