//! Type rules and work counts of the elementwise ops.

use crate::op::content;
use crate::op::context::broadcast;
use crate::op::{Ctx, Fact, Work};
use crate::{Dim, TensorType, Type};
use orrery_numerics::DType;
use std::cmp::Ordering;

type Facts = Result<Vec<Fact>, String>;
type Content = Option<Vec<Dim>>;

/// Which element types an op takes.
#[derive(Clone, Copy)]
pub(super) enum Takes {
    Floats,
    Integers,
    Unsigned,
    Numbers,
    Bools,
    Any,
}

impl Takes {
    fn check(self, dtype: DType) -> Result<(), String> {
        let (fits, what) = match self {
            Self::Floats => (dtype.is_float(), "floating-point"),
            Self::Integers => (dtype.is_int(), "integer"),
            Self::Unsigned => (dtype.is_unsigned_int(), "unsigned integer"),
            Self::Numbers => (dtype.is_float() || dtype.is_int(), "numeric"),
            Self::Bools => (dtype == DType::Bool, "bool"),
            Self::Any => (true, ""),
        };
        if fits { Ok(()) } else { Err(format!("takes {what} elements, got {dtype}")) }
    }
}

fn typed(dtype: DType, shape: Option<Vec<Dim>>, content: Content) -> Facts {
    let content = content::fitting(dtype, content);
    Ok(vec![Fact::of(Type::Tensor(TensorType { dtype, shape })).with_content(content)])
}

/// The element type of all inputs from `first` on, which must be one, and the shape of all inputs together.
fn joint(ctx: &Ctx<'_>, takes: Takes, first: usize) -> Result<(DType, Option<Vec<Dim>>), String> {
    let dtype = ctx.dtype(first)?;
    takes.check(dtype)?;
    for i in first + 1..ctx.input_count() {
        if ctx.dtype(i)? != dtype {
            return Err(format!("operands must be of one type, got {dtype} and {}", ctx.dtype(i)?));
        }
    }
    let shapes: Option<Vec<Vec<Dim>>> = (0..ctx.input_count()).map(|i| ctx.shape(i)).collect();
    let shape = match shapes {
        Some(shapes) => Some(broadcast(&shapes.iter().map(Vec::as_slice).collect::<Vec<_>>())?),
        None => None,
    };
    Ok((dtype, shape))
}

/// As the first input, with each element of its content changed.
pub(super) fn unary(ctx: &Ctx<'_>, takes: Takes, change: impl Fn(&Dim) -> Option<Dim>) -> Facts {
    let dtype = ctx.dtype(0)?;
    takes.check(dtype)?;
    typed(dtype, ctx.shape(0), content::map(content::of(ctx, 0), change))
}
/// As the first input.
pub(super) fn plain(ctx: &Ctx<'_>, takes: Takes) -> Facts {
    unary(ctx, takes, |_| None)
}
/// Bools in the shape of the first input.
pub(super) fn test(ctx: &Ctx<'_>) -> Facts {
    Takes::Floats.check(ctx.dtype(0)?)?;
    typed(DType::Bool, ctx.shape(0), None)
}
/// All inputs broadcast, of one type; the result is of that type, or bool for a comparison.
pub(super) fn joined(
    ctx: &Ctx<'_>,
    takes: Takes,
    result: Option<DType>,
    combine: impl Fn(&Dim, &Dim) -> Option<Dim>,
) -> Facts {
    let (dtype, shape) = joint(ctx, takes, 0)?;
    let mut content = content::of(ctx, 0);
    for i in 1..ctx.input_count() {
        content = content::zip(content, content::of(ctx, i), &combine);
    }
    typed(result.unwrap_or(dtype), shape, content)
}
/// A comparison; `holds` says for which orders it is true.
pub(super) fn compared(ctx: &Ctx<'_>, takes: Takes, holds: fn(Ordering) -> bool) -> Facts {
    joined(ctx, takes, Some(DType::Bool), |a, b| content::compare(a, b).map(|o| content::truth(holds(o))))
}
pub(super) fn div(ctx: &Ctx<'_>) -> Facts {
    let divide = if ctx.dtype(0)?.is_int() { content::truncated_div } else { content::exact_div };
    joined(ctx, Takes::Numbers, None, divide)
}
/// The base's type; operands may be of two.
pub(super) fn pow(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    Takes::Numbers.check(dtype)?;
    Takes::Numbers.check(ctx.dtype(1)?)?;
    let (_, shape) = joint(ctx, Takes::Numbers, 0).or_else(|_| {
        let (Some(a), Some(b)) = (ctx.shape(0), ctx.shape(1)) else { return Ok((dtype, None)) };
        broadcast(&[&a, &b]).map(|shape| (dtype, Some(shape)))
    })?;
    let power = |a: &Dim, b: &Dim| {
        let n = b.known().filter(|n| (0..=8).contains(n))?;
        (0..n).try_fold(Dim::Known(1), |power, _| content::exact(power * a.clone()))
    };
    typed(dtype, shape, content::zip(content::of(ctx, 0), content::of(ctx, 1), power))
}
pub(super) fn prelu(ctx: &Ctx<'_>) -> Facts {
    let (dtype, shape) = joint(ctx, Takes::Numbers, 0)?;
    if let (Some(x), Some(joint)) = (ctx.shape(0), shape) {
        let wider = x.len() < joint.len() || x.iter().zip(&joint).any(|(x, all)| x.is(1) && !all.is(1));
        if wider && joint.iter().all(|d| d.known().is_some()) {
            return Err(format!("the slope does not broadcast to {x:?}"));
        }
    }
    typed(dtype, ctx.shape(0), None)
}
pub(super) fn select(ctx: &Ctx<'_>) -> Facts {
    Takes::Bools.check(ctx.dtype(0)?)?;
    let (dtype, shape) = joint(ctx, Takes::Any, 1)?;
    let (condition, x, y) = (content::of(ctx, 0), content::of(ctx, 1), content::of(ctx, 2));
    let content = (|| {
        let (condition, x, y) = (condition?, x?, y?);
        let n = condition.len().max(x.len()).max(y.len());
        let at = |list: &[Dim], i: usize| list.get(if list.len() == 1 { 0 } else { i }).cloned();
        (0..n)
            .map(|i| {
                let (x, y) = (at(&x, i)?, at(&y, i)?);
                match at(&condition, i)?.known()? {
                    _ if x == y => Some(x),
                    0 => Some(y),
                    _ => Some(x),
                }
            })
            .collect()
    })();
    typed(dtype, shape, content)
}
pub(super) fn clip(ctx: &Ctx<'_>) -> Facts {
    let dtype = ctx.dtype(0)?;
    Takes::Numbers.check(dtype)?;
    let mut found = content::of(ctx, 0);
    for (i, combine) in [(1, Dim::larger as fn(&Dim, &Dim) -> Dim), (2, Dim::smaller)] {
        if ctx.has(i) {
            if ctx.dtype(i)? != dtype {
                return Err(format!("limits must be of type {dtype}, got {}", ctx.dtype(i)?));
            }
            found = content::zip(found, content::of(ctx, i), |a, b| Some(combine(a, b)));
        }
    }
    typed(dtype, ctx.shape(0), found)
}
pub(super) fn identity(ctx: &Ctx<'_>) -> Facts {
    Ok(vec![ctx.fact(0).ok_or("input 0 is missing")?.clone()])
}
pub(super) fn cast_to(ctx: &Ctx<'_>) -> Facts {
    converted(ctx, ctx.attrs().dtype("to").ok_or("attribute `to` is missing")?)
}
pub(super) fn cast_like(ctx: &Ctx<'_>) -> Facts {
    converted(ctx, ctx.dtype(1)?)
}
fn converted(ctx: &Ctx<'_>, to: DType) -> Facts {
    let known = content::of(ctx, 0);
    let content = if to == DType::Bool {
        let truth = |d: &Dim| content::compare(d, &Dim::Known(0)).map(|o| content::truth(o.is_ne()));
        content::map(known, truth)
    } else {
        known
    };
    ctx.tensor_type(0)?;
    typed(to, ctx.shape(0), content)
}

/// So many simple and special operations for each output element.
pub(super) fn each<const VECTOR: i64, const SPECIAL: i64>(ctx: &Ctx<'_>) -> Work {
    let n = ctx.output_elements(0);
    Work::vector(n.clone() * Dim::Known(VECTOR), n * Dim::Known(SPECIAL))
}
/// A division is a special operation for floats and a vector operation for integers.
pub(super) fn quotient(ctx: &Ctx<'_>) -> Work {
    if ctx.dtype(0).is_ok_and(DType::is_int) { each::<1, 0>(ctx) } else { each::<0, 1>(ctx) }
}
/// One operation for each pair of inputs.
pub(super) fn folded(ctx: &Ctx<'_>) -> Work {
    let pairs = Dim::from(ctx.input_count().saturating_sub(1));
    Work::vector(ctx.output_elements(0) * pairs, Dim::Known(0))
}
/// As [`folded`], and a multiplication by the inverse of the number.
pub(super) fn averaged(ctx: &Ctx<'_>) -> Work {
    Work::vector(ctx.output_elements(0) * Dim::from(ctx.input_count()), Dim::Known(0))
}
