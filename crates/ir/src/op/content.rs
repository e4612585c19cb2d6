//! Following small integer tensors as formulas, so that shapes computed in a graph come out in the model's symbols.
//!
//! The content of a tensor of rank 0 or 1 is the list of its elements. Bools count as 0 and 1, and floats where all are
//! whole numbers. Symbols are extents: integers from zero up.

use super::Ctx;
use crate::{Bindings, Dim};
use orrery_numerics::{DType, Tensor};
use std::cmp::Ordering;

/// Most elements that are followed.
pub const MOST: usize = 64;

/// Content of input `i`, from its fact or from the constant that it is.
pub fn of(ctx: &Ctx<'_>, i: usize) -> Option<Vec<Dim>> {
    ctx.content(i).map(<[Dim]>::to_vec).or_else(|| of_tensor(ctx.constant(i)?))
}

/// Content of a constant.
pub fn of_tensor(tensor: &Tensor) -> Option<Vec<Dim>> {
    if tensor.rank() > 1 || tensor.len() > MOST || largest(tensor.dtype()) == 0 {
        return None;
    }
    let values = tensor.to_f64().ok()?;
    let whole = values.iter().all(|v| v.fract() == 0.0);
    whole.then(|| tensor.to_i64().ok().map(|all| all.iter().map(|&v| Dim::Known(v)).collect()))?
}

/// Elements of integer input `i` of rank 0 or 1, of any length where it is a constant: shapes, axes and the like.
///
/// # Errors
/// Where it is a constant of another type or rank.
pub fn list(ctx: &Ctx<'_>, i: usize) -> Result<Option<Vec<Dim>>, String> {
    let Some(tensor) = ctx.constant(i) else { return Ok(ctx.content(i).map(<[Dim]>::to_vec)) };
    if tensor.rank() > 1 || !tensor.dtype().is_int() {
        return Err(format!("input {i} must be a list of integers, is {tensor:?}"));
    }
    Ok(Some(tensor.to_i64().map_err(|e| e.to_string())?.iter().map(|&v| Dim::Known(v)).collect()))
}

/// As [`list`], where all are numbers.
///
/// # Errors
/// As [`list`].
pub fn numbers(ctx: &Ctx<'_>, i: usize) -> Result<Option<Vec<i64>>, String> {
    Ok(list(ctx, i)?.and_then(|list| list.iter().map(Dim::known).collect()))
}

/// How many elements input `i`, a list, has, where known.
pub fn list_len(ctx: &Ctx<'_>, i: usize) -> Option<usize> {
    match ctx.shape(i)?.as_slice() {
        [n] => n.extent(),
        _ => None,
    }
}

/// Largest number that is followed in a type: as far as its arithmetic is that of formulas. None in other types.
fn largest(dtype: DType) -> i64 {
    match dtype {
        DType::I64 => 1 << 62,
        DType::I32 => i64::from(i32::MAX),
        DType::F64 => 1 << 53,
        DType::F32 => 1 << 24,
        DType::Bool => 1,
        _ => 0,
    }
}

/// What an op of this result type made, unless a number in it is beyond what is followed.
pub fn fitting(dtype: DType, content: Option<Vec<Dim>>) -> Option<Vec<Dim>> {
    let most = largest(dtype);
    content.filter(|all| {
        most > 0
            && all.len() <= MOST
            && all.iter().all(|d| d.known().is_none_or(|n| (-most..=most).contains(&n)))
    })
}

/// The result of one step, unless it may have come to the limits of formulas.
pub fn exact(formula: Dim) -> Option<Dim> {
    const MOST: i64 = 1 << 62;
    formula.known().is_none_or(|n| (-MOST..=MOST).contains(&n)).then_some(formula)
}

/// Applies `f` to every element.
pub fn map(content: Option<Vec<Dim>>, f: impl Fn(&Dim) -> Option<Dim>) -> Option<Vec<Dim>> {
    content?.iter().map(|d| f(d).and_then(exact)).collect()
}

/// Applies `f` to pairs of elements, a lone element to all of the other's.
pub fn zip(
    a: Option<Vec<Dim>>,
    b: Option<Vec<Dim>>,
    f: impl Fn(&Dim, &Dim) -> Option<Dim>,
) -> Option<Vec<Dim>> {
    let (a, b) = (a?, b?);
    let f = |a: &Dim, b: &Dim| f(a, b).and_then(exact);
    match (a.len(), b.len()) {
        (n, m) if n == m => a.iter().zip(&b).map(|(a, b)| f(a, b)).collect(),
        (1, _) => b.iter().map(|b| f(&a[0], b)).collect(),
        (_, 1) => a.iter().map(|a| f(a, &b[0])).collect(),
        _ => None,
    }
}

/// The sign of a formula where it is the same for all symbols from `least` up.
///
/// A formula linear in each symbol has its extremes at the corners of the range; those with quotients in them are
/// judged by the corners too.
fn sign(formula: &Dim, least: i64) -> Option<Ordering> {
    const LARGE: i64 = 1 << 20;
    let symbols = formula.symbols();
    if symbols.len() > 6 {
        return None;
    }
    let mut common = None;
    for corner in 0..1_u32 << symbols.len() {
        let bindings: Bindings = symbols
            .iter()
            .enumerate()
            .map(|(i, name)| (name.clone(), if corner >> i & 1 == 1 { LARGE } else { least }))
            .collect();
        let sign = formula.bind(&bindings).known()?.cmp(&0);
        if *common.get_or_insert(sign) != sign {
            return None;
        }
    }
    // Zero at all corners is not yet zero everywhere.
    common.filter(|sign| *sign != Ordering::Equal || formula.known().is_some())
}

/// How two formulas compare, where it is so whatever the symbols are.
pub fn compare(a: &Dim, b: &Dim) -> Option<Ordering> {
    if let (Some(a), Some(b)) = (a.known(), b.known()) {
        return Some(a.cmp(&b));
    }
    sign(&(a.clone() - b.clone()), 0)
}

/// True where a formula is never negative as long as no extent is zero.
pub fn never_negative(formula: &Dim) -> bool {
    sign(&(formula.clone() + Dim::Known(1)), 1) == Some(Ordering::Greater)
}

/// Integer division of ONNX, which truncates; by zero it is not known.
pub fn truncated_div(a: &Dim, b: &Dim) -> Option<Dim> {
    if let (Some(a), Some(b)) = (a.known(), b.known()) {
        return a.checked_div(b).map(Dim::Known);
    }
    let negative = |d: &Dim| Dim::Known(0) - d.clone();
    if b.is(0) || !never_negative(b) {
        None
    } else if never_negative(a) {
        Some(a.floor_div(b))
    } else if never_negative(&negative(a)) {
        Some(negative(&negative(a).floor_div(b)))
    } else {
        None
    }
}

/// The quotient where it is a whole number.
pub fn exact_div(a: &Dim, b: &Dim) -> Option<Dim> {
    if b.is(0) {
        return None;
    }
    let quotient = a.floor_div(b);
    (quotient.clone() * b.clone() == *a).then_some(quotient)
}

/// What is left of a division of numbers that are not negative.
pub fn modulo(a: &Dim, b: &Dim) -> Option<Dim> {
    if b.is(0) || !never_negative(a) || !never_negative(b) {
        return None;
    }
    Some(a.clone() - a.floor_div(b) * b.clone())
}

/// A truth value.
pub fn truth(value: bool) -> Dim {
    Dim::Known(i64::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decides_what_holds_for_all_symbols() {
        let (s, n) = (Dim::symbol("s"), Dim::Known);
        assert_eq!(compare(&s, &n(-1)), Some(Ordering::Greater));
        assert_eq!(compare(&s, &n(0)), None, "an extent can be zero");
        assert_eq!(compare(&(s.clone() + n(1)), &s), Some(Ordering::Greater));
        assert_eq!(compare(&s, &Dim::symbol("t")), None);
        assert_eq!(truncated_div(&n(-7), &n(2)), Some(n(-3)));
        assert_eq!(truncated_div(&s, &n(2)), Some(s.floor_div(&n(2))));
        assert_eq!(truncated_div(&s, &n(0)), None);
        assert_eq!(truncated_div(&(s.clone() - Dim::symbol("t")), &n(2)), None);
        assert_eq!(exact_div(&(s.clone() * n(4)), &n(2)), Some(s.clone() * n(2)));
        assert_eq!(exact_div(&s, &n(2)), None);
    }
}
