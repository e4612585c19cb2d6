//! What a mask says: whether it is a lower triangle, and along which diagonal.
//!
//! A mask is followed back to positions (`Range`, and slices and sums of it), to comparisons of them, to triangles that
//! are constants or cut by `Trilu`, and through slices, casts and added dimensions.

use crate::pattern::View;
use orrery_ir::{Dim, NodeId, Op, ValueId};
use orrery_numerics::{DType, Tensor};

/// Scores less than this far below zero are no mask.
const LEAST: f64 = -1e3;
/// What is added to hide a score absorbs every score from here on.
pub(super) const ABSORBS: f64 = -1e30;
/// Constants of so many elements are looked at element by element.
const MOST: usize = 1 << 22;

/// Diagonal `o` such that element (i, j) of the last two dimensions is true, or false where `visible` is not set, exactly
/// for j <= i + o, whatever the dimensions before.
pub(super) fn triangle(view: &View<'_>, value: ValueId, visible: bool) -> Option<Dim> {
    if let Some(tensor) = view.rewriter.tensor(value) {
        let elements = small(tensor)?;
        return constant_triangle(tensor, |i| (elements[i] != 0.0) == visible);
    }
    let node = view.rewriter.maker(value)?;
    let input = |i| view.input(node, i);
    match view.rewriter.node(node).op {
        Op::Not => triangle(view, input(0)?, !visible),
        Op::Cast => triangle(view, input(0)?, visible),
        Op::LessOrEqual => compared(view, input(0)?, input(1)?, false, visible),
        Op::Less => compared(view, input(0)?, input(1)?, true, visible),
        Op::GreaterOrEqual => compared(view, input(1)?, input(0)?, false, visible),
        Op::Greater => compared(view, input(1)?, input(0)?, true, visible),
        Op::Trilu => {
            let one = filled(view, input(0)?)? != 0.0;
            let (upper, diagonal) = trilu(view, node)?;
            match (one && visible != upper, upper) {
                (false, _) => None,
                (true, false) => Some(diagonal),
                (true, true) => Some(diagonal - Dim::Known(1)),
            }
        }
        _ => through(view, node, value)
            .and_then(|(inner, moved)| Some(triangle(view, inner, visible)? + moved)),
    }
}

/// Diagonal `o` such that element (i, j) is zero for j <= i + o and at most the given number elsewhere.
pub(super) fn additive(view: &View<'_>, value: ValueId) -> Option<(Dim, f64)> {
    if let Some(tensor) = view.rewriter.tensor(value) {
        let elements = small(tensor)?;
        let hidden = elements.iter().copied().filter(|e| *e != 0.0).fold(f64::NEG_INFINITY, f64::max);
        let diagonal = constant_triangle(tensor, |i| elements[i] == 0.0)?;
        return (hidden < LEAST).then_some((diagonal, hidden));
    }
    let node = view.rewriter.maker(value)?;
    let input = |i| view.input(node, i);
    match view.rewriter.node(node).op {
        Op::Where => {
            let (shown, hidden) = (view.scalar(input(1)?)?, view.scalar(input(2)?)?);
            if shown == 0.0 && hidden < LEAST {
                return Some((triangle(view, input(0)?, true)?, hidden));
            }
            (hidden == 0.0 && shown < LEAST).then(|| Some((triangle(view, input(0)?, false)?, shown)))?
        }
        Op::Mul => {
            let (factor, lowest) = view.beside_scalar(node).filter(|(_, n)| *n < LEAST && n.is_finite())?;
            let diagonal = match view.made_by(factor, Op::Sub) {
                Some(sub) if view.scalar(view.input(sub, 0)?) == Some(1.0) => {
                    ones_and_zeros(view, view.input(sub, 1)?, true)
                }
                _ => ones_and_zeros(view, factor, false),
            };
            Some((diagonal?, lowest))
        }
        Op::Trilu => {
            let hidden = filled(view, input(0)?)?;
            let (upper, diagonal) = trilu(view, node)?;
            (upper && hidden < LEAST).then(|| (diagonal - Dim::Known(1), hidden))
        }
        _ => {
            let (inner, moved) = through(view, node, value)?;
            let (diagonal, hidden) = additive(view, inner)?;
            Some((diagonal + moved, hidden))
        }
    }
}

/// The triangle of a value that holds nothing but ones and zeros.
fn ones_and_zeros(view: &View<'_>, value: ValueId, visible: bool) -> Option<Dim> {
    let from_bool = |v: ValueId| view.rewriter.ty(v).as_tensor().is_some_and(|t| t.dtype == DType::Bool);
    match view.rewriter.tensor(value) {
        Some(tensor) => {
            let plain = small(tensor)?.iter().all(|e| *e == 0.0 || *e == 1.0);
            plain.then(|| triangle(view, value, visible))?
        }
        None => {
            let cast = view.input(view.made_by(value, Op::Cast)?, 0)?;
            from_bool(cast).then(|| triangle(view, cast, visible))?
        }
    }
}

fn small(tensor: &Tensor) -> Option<std::borrow::Cow<'_, [f64]>> {
    if tensor.len() <= MOST { tensor.to_f64().ok() } else { None }
}

fn constant_triangle(tensor: &Tensor, shown: impl Fn(usize) -> bool) -> Option<Dim> {
    let [lead @ .., rows, columns] = tensor.shape() else { return None };
    let (rows, columns) = (*rows, *columns);
    if lead.iter().any(|n| *n != 1) || rows == 0 || columns == 0 {
        return None;
    }
    // The last row tells the diagonal where it is not shown in full; the first one does where the last is.
    let count = |row: usize| (0..columns).take_while(|j| shown(row * columns + j)).count() as i64;
    let first = count(0);
    let diagonal = if first < columns as i64 { first - 1 } else { columns as i64 - 1 };
    let holds =
        (0..rows).all(|i| (0..columns).all(|j| shown(i * columns + j) == (j as i64 <= i as i64 + diagonal)));
    holds.then_some(Dim::Known(diagonal))
}

/// For `low <= high`, or `low < high` where `strict`.
fn compared(view: &View<'_>, low: ValueId, high: ValueId, strict: bool, visible: bool) -> Option<Dim> {
    // A key no later than a query is shown.
    if let (Some(keys), Some(queries)) = (positions(view, low, false), positions(view, high, true)) {
        let diagonal = queries - keys - Dim::Known(i64::from(strict));
        return visible.then_some(diagonal);
    }
    // A query earlier than a key does not see it.
    let (queries, keys) = (positions(view, low, true)?, positions(view, high, false)?);
    let diagonal = queries - keys - Dim::Known(i64::from(!strict));
    (!visible).then_some(diagonal)
}

/// The first of consecutive positions that a value holds along rows, or columns.
fn positions(view: &View<'_>, value: ValueId, rows: bool) -> Option<Dim> {
    let shape = view.shape(value)?;
    let ones = |dims: &[Dim]| dims.iter().all(|d| d.is(1));
    let along = match shape {
        [lead @ .., one] if rows => one.is(1) && ones(&lead[..lead.len().saturating_sub(1)]),
        [lead @ .., _] => !rows && ones(lead),
        [] => false,
    };
    if along { first_position(view, value) } else { None }
}

/// The first of consecutive positions in a value with one long dimension.
fn first_position(view: &View<'_>, value: ValueId) -> Option<Dim> {
    if let Some(tensor) = view.rewriter.tensor(value).filter(|t| t.dtype().is_int()) {
        let elements = tensor.to_i64().ok()?;
        let first = *elements.first()?;
        return elements.iter().zip(first..).all(|(e, n)| *e == n).then_some(Dim::Known(first));
    }
    let node = view.rewriter.maker(value)?;
    let input = |i| view.input(node, i);
    let number = |i| view.content(input(i)?)?.into_iter().next();
    match view.rewriter.node(node).op {
        Op::Range => number(2)?.is(1).then(|| number(0))?,
        Op::Unsqueeze | Op::Squeeze | Op::Reshape | Op::Flatten => first_position(view, input(0)?),
        Op::Cast => {
            let integer = view.rewriter.ty(input(0)?).as_tensor()?.dtype.is_int();
            integer.then(|| first_position(view, input(0)?))?
        }
        Op::Slice => {
            let inner = input(0)?;
            let long = view.shape(inner)?.iter().position(|d| !d.is(1)).unwrap_or(0);
            let start = slice_start(view, node, long)?;
            Some(first_position(view, inner)? + start)
        }
        Op::Add => {
            let (a, b) = (input(0)?, input(1)?);
            let scalar = |v: ValueId| {
                let one = view.shape(v).is_some_and(|s| s.iter().all(|d| d.is(1)));
                if one { view.content(v)?.into_iter().next() } else { None }
            };
            match (scalar(a), scalar(b)) {
                (None, Some(shift)) => Some(first_position(view, a)? + shift),
                (Some(shift), None) => Some(first_position(view, b)? + shift),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Where a slice starts along a dimension; none where it steps, or starts are not known.
fn slice_start(view: &View<'_>, node: NodeId, dim: usize) -> Option<Dim> {
    let input = |i| view.input(node, i);
    let inner = view.shape(input(0)?)?;
    let starts = view.content(input(1)?)?;
    let axes = match input(3) {
        Some(axes) => view.ints(axes)?,
        None => (0..starts.len() as i64).collect(),
    };
    if let Some(steps) = input(4)
        && view.ints(steps)?.iter().any(|s| *s != 1)
    {
        return None;
    }
    let at = axes.iter().position(|a| if *a < 0 { a + inner.len() as i64 } else { *a } == dim as i64);
    let Some(at) = at else { return Some(Dim::Known(0)) };
    let start = starts.get(at)?.clone();
    match start.known() {
        Some(n) if n < 0 => Some(inner.get(dim)?.clone() + start),
        _ => Some(start),
    }
}

/// The value that `node` makes `value` of by cutting or by adding dimensions in front, and how far that moves the diagonal.
fn through(view: &View<'_>, node: NodeId, value: ValueId) -> Option<(ValueId, Dim)> {
    let inner = view.input(node, 0)?;
    let (from, to) = (view.shape(inner)?, view.shape(value)?);
    if from.len() < 2 || to.len() < 2 {
        return None;
    }
    match view.rewriter.node(node).op {
        Op::Slice => {
            let (rows, columns) = (from.len() - 2, from.len() - 1);
            Some((inner, slice_start(view, node, rows)? - slice_start(view, node, columns)?))
        }
        Op::Unsqueeze | Op::Squeeze | Op::Reshape | Op::Expand | Op::Identity => {
            let same = from[from.len() - 2..] == to[to.len() - 2..];
            let one = from[..from.len() - 2].iter().all(|d| d.is(1));
            (same && one).then_some((inner, Dim::Known(0)))
        }
        _ => None,
    }
}

/// Whether a `Trilu` keeps the upper triangle, and from which diagonal.
fn trilu(view: &View<'_>, node: NodeId) -> Option<(bool, Dim)> {
    let upper = view.rewriter.node(node).attrs.int_or("upper", 1) != 0;
    let diagonal = match view.input(node, 1) {
        Some(k) => view.content(k)?.into_iter().next()?,
        None => Dim::Known(0),
    };
    Some((upper, diagonal))
}

/// The number that all elements of a value are.
fn filled(view: &View<'_>, value: ValueId) -> Option<f64> {
    if let Some(tensor) = view.rewriter.tensor(value) {
        let elements = small(tensor)?;
        let first = *elements.first()?;
        return elements.iter().all(|e| *e == first).then_some(first);
    }
    let node = view.rewriter.maker(value)?;
    match view.rewriter.node(node).op {
        Op::Expand | Op::Unsqueeze | Op::Reshape | Op::Squeeze | Op::Cast => {
            filled(view, view.input(node, 0)?)
        }
        Op::ConstantOfShape => view.input(node, 1).map_or(Some(0.0), |v| view.scalar(v)),
        _ => None,
    }
}
