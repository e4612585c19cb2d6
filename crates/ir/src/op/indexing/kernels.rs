//! Meanings of the indexing ops. Shapes are checked by the type rules; indices here.

use super::rules::batch_dims;
use crate::op::context::normalize_axis;
use crate::op::elements::{Loops, Unit, bools, by_unit, element_count, scalar_f64, strides};
use crate::op::number::{Number, by_number};
use crate::op::rules::{check, check_one, facts};
use crate::op::{Datum, EvalCtx};
use orrery_numerics::{DType, Tensor};
use std::cmp::Ordering;

type Outcome = Result<Vec<Datum>, String>;

fn one(tensor: Tensor) -> Outcome {
    Ok(vec![tensor.into()])
}
fn axis_of(ctx: &EvalCtx<'_>, default: i64, rank: usize) -> Result<usize, String> {
    normalize_axis(ctx.attrs().int_or("axis", default), rank)
}
/// An index counted from the end where negative.
pub(super) fn position(index: i64, extent: usize) -> Result<usize, String> {
    let at = if index < 0 { index.saturating_add(extent as i64) } else { index };
    usize::try_from(at)
        .ok()
        .filter(|at| *at < extent)
        .ok_or_else(|| format!("index {index} is out of range for extent {extent}"))
}
fn list(values: Vec<i64>) -> Datum {
    Tensor::from_vec(vec![values.len()], values).into()
}

/// Slices of `x` along `axis`, in this order.
fn take(x: &Tensor, axis: usize, at: &[usize]) -> Result<Tensor, String> {
    let mut shape = x.shape().to_vec();
    let extent = std::mem::replace(&mut shape[axis], at.len());
    let count = element_count(x.dtype(), &shape)?;
    let outer: usize = shape[..axis].iter().product();
    let run: usize = shape[axis + 1..].iter().product();
    Ok(by_unit!(x.dtype(), T => {
        let source = T::of(x);
        let mut out: Vec<T> = Vec::with_capacity(count);
        for row in 0..outer {
            let base = row * extent;
            match run {
                1 => out.extend(at.iter().map(|i| source[base + i].clone())),
                _ => at.iter().for_each(|i| out.extend_from_slice(&source[(base + i) * run..(base + i + 1) * run])),
            }
        }
        T::tensor(x.dtype(), shape, out)
    }))
}
pub(super) fn gather(ctx: &EvalCtx<'_>) -> Outcome {
    let (_, shape) = check_one(ctx)?;
    let x = ctx.tensor(0)?;
    let axis = axis_of(ctx, 0, x.rank())?;
    let at: Vec<usize> =
        ctx.ints(1)?.into_iter().map(|i| position(i, x.shape()[axis])).collect::<Result<_, _>>()?;
    one(take(x, axis, &at)?.reshaped(shape))
}

/// For each index of `indices`: its own number, and the offset in an operand of shape `shape` of the element at the
/// same place but for `axis`, where the place is what the index says.
fn along_axis(
    indices: &Tensor,
    numbers: &[i64],
    shape: &[usize],
    axis: usize,
    mut each: impl FnMut(usize, usize),
) -> Result<(), String> {
    for (d, (&n, &most)) in indices.shape().iter().zip(shape).enumerate() {
        if d != axis && n > most {
            return Err(format!("indices {:?} do not fit into {shape:?}", indices.shape()));
        }
    }
    let mut moved = strides(shape);
    let stride = std::mem::replace(&mut moved[axis], 0);
    let mut broken = Ok(());
    Loops::new(indices.shape(), [&strides(indices.shape()), &moved]).each(|[i, base]| {
        if broken.is_ok() {
            match position(numbers[i as usize], shape[axis]) {
                Ok(at) => each(i as usize, base as usize + at * stride as usize),
                Err(cause) => broken = Err(cause),
            }
        }
    });
    broken
}
pub(super) fn gather_elements(ctx: &EvalCtx<'_>) -> Outcome {
    let (dtype, shape) = check_one(ctx)?;
    let (x, indices) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let axis = axis_of(ctx, 0, x.rank())?;
    by_unit!(dtype, T => {
        let source = T::of(x);
        let mut out: Vec<T> = Vec::with_capacity(indices.len());
        along_axis(indices, &ctx.ints(1)?, x.shape(), axis, |_, at| out.push(source[at].clone()))?;
        one(T::tensor(dtype, shape, out))
    })
}

/// Where each index tuple of `count` points in an operand whose dimensions from `batch` on are `shape`.
fn tuple_offsets(tuples: &[i64], shape: &[usize], count: usize, run: usize) -> Result<Vec<usize>, String> {
    tuples
        .chunks_exact(count)
        .map(|tuple| {
            let flat = tuple
                .iter()
                .zip(shape)
                .try_fold(0, |at, (&i, &extent)| Ok::<_, String>(at * extent + position(i, extent)?))?;
            Ok(flat * run)
        })
        .collect()
}
pub(super) fn gather_nd(ctx: &EvalCtx<'_>) -> Outcome {
    let (dtype, shape) = check_one(ctx)?;
    let (x, indices) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let batch = batch_dims(ctx.attrs())?;
    let n = *indices.shape().last().ok_or("indices must have a dimension")?;
    let run: usize = x.shape()[batch + n..].iter().product();
    let batches: usize = x.shape()[..batch].iter().product();
    let per_batch = indices.shape()[batch..indices.rank() - 1].iter().product::<usize>();
    let offsets = if n == 0 {
        vec![0; batches * per_batch]
    } else {
        tuple_offsets(&ctx.ints(1)?, &x.shape()[batch..], n, run)?
    };
    let stride: usize = x.shape()[batch..].iter().product();
    by_unit!(dtype, T => {
        let source = T::of(x);
        let mut out: Vec<T> = Vec::with_capacity(offsets.len() * run);
        for (i, offset) in offsets.iter().enumerate() {
            let at = i / per_batch * stride + offset;
            out.extend_from_slice(&source[at..at + run]);
        }
        one(T::tensor(dtype, shape, out))
    })
}

/// Copies data and writes updates into it: `visit` calls with the offsets of update and data for each run of `run`.
fn scatter(
    ctx: &EvalCtx<'_>,
    run: usize,
    visit: impl Fn(&mut dyn FnMut(usize, usize)) -> Result<(), String>,
) -> Outcome {
    let (data, updates) = (ctx.tensor(0)?, ctx.tensor(2)?);
    let (dtype, shape) = (data.dtype(), data.shape().to_vec());
    let reduction = ctx.attrs().str_or("reduction", "none");
    if reduction == "none" {
        return by_unit!(dtype, T => {
            let (mut out, new) = (T::of(data).into_owned(), T::of(updates));
            visit(&mut |from, to| out[to..to + run].clone_from_slice(&new[from..from + run]))?;
            one(T::tensor(dtype, shape, out))
        });
    }
    by_number!(dtype, T => {
        let combine = match reduction {
            "add" => T::plus,
            "mul" => T::times,
            "max" => T::larger,
            "min" => T::smaller,
            other => return Err(format!("unknown reduction `{other}`")),
        };
        let (mut out, new) = (T::read(data)?.into_owned(), T::read(updates)?);
        visit(&mut |from, to| {
            for k in 0..run {
                out[to + k] = combine(out[to + k], new[from + k]);
            }
        })?;
        one(T::write(dtype, shape, out))
    })
}
pub(super) fn scatter_elements(ctx: &EvalCtx<'_>) -> Outcome {
    check_one(ctx)?;
    let (data, indices) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let axis = axis_of(ctx, 0, data.rank())?;
    let numbers = ctx.ints(1)?;
    scatter(ctx, 1, |write| along_axis(indices, &numbers, data.shape(), axis, write))
}
pub(super) fn scatter_nd(ctx: &EvalCtx<'_>) -> Outcome {
    check_one(ctx)?;
    let (data, indices) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let n = *indices.shape().last().ok_or("indices must have a dimension")?;
    let run: usize = data.shape()[n..].iter().product();
    let offsets = if n == 0 {
        vec![0; indices.shape()[..indices.rank() - 1].iter().product()]
    } else {
        tuple_offsets(&ctx.ints(1)?, data.shape(), n, run)?
    };
    scatter(ctx, run, |write| {
        offsets.iter().enumerate().for_each(|(i, &to)| write(i * run, to));
        Ok(())
    })
}
pub(super) fn one_hot(ctx: &EvalCtx<'_>) -> Outcome {
    let (indices, values) = (ctx.tensor(0)?, ctx.tensor(2)?);
    if values.len() != 2 {
        return Err(format!("values must be the off and the on value, are {values:?}"));
    }
    let depth = scalar_f64(ctx.tensor(1)?)?;
    let axis = axis_of(ctx, -1, indices.rank() + 1)?;
    let numbers = indices.to_i64().map_err(|e| e.to_string())?;
    if depth < 0.0 || depth.is_nan() {
        return Err(format!("depth {depth} is no extent"));
    }
    let depth = depth as usize;
    let mut shape = indices.shape().to_vec();
    shape.insert(axis, depth);
    let count = element_count(values.dtype(), &shape)?;
    let run: usize = indices.shape()[axis..].iter().product();
    by_unit!(values.dtype(), T => {
        let values = T::of(values);
        let mut out = vec![values[0].clone(); count];
        for (i, &number) in numbers.iter().enumerate() {
            if let Ok(at) = position(number, depth) {
                out[(i / run * depth + at) * run + i % run] = values[1].clone();
            }
        }
        one(T::tensor(ctx.tensor(2)?.dtype(), shape, out))
    })
}
pub(super) fn non_zero(ctx: &EvalCtx<'_>) -> Outcome {
    let x = ctx.tensor(0)?;
    let found: Vec<usize> = if x.dtype() == DType::Str {
        (0..x.len()).filter(|&i| !x.strings()[i].is_empty()).collect()
    } else {
        let values = x.to_f64().map_err(|e| e.to_string())?;
        (0..x.len()).filter(|&i| values[i] != 0.0).collect()
    };
    let own = strides(x.shape());
    let mut out = Vec::with_capacity(x.rank() * found.len());
    for (&extent, stride) in x.shape().iter().zip(own) {
        out.extend(found.iter().map(|i| (i / stride as usize % extent) as i64));
    }
    one(Tensor::from_vec(vec![x.rank(), found.len()], out))
}

/// NaN is above all numbers and equal to itself.
fn order<T: PartialOrd>(a: &T, b: &T) -> Ordering {
    a.partial_cmp(b).unwrap_or_else(|| {
        let nan = |v: &T| v.partial_cmp(v).is_none();
        nan(a).cmp(&nan(b))
    })
}
pub(super) fn top_k(ctx: &EvalCtx<'_>) -> Outcome {
    let shape = check(ctx)?.swap_remove(0).1;
    let x = ctx.tensor(0)?;
    let axis = axis_of(ctx, -1, x.rank())?;
    let (extent, k) = (x.shape()[axis], shape[axis]);
    let largest = ctx.attrs().int_or("largest", 1) != 0;
    let run: usize = shape[axis + 1..].iter().product();
    let outer: usize = shape[..axis].iter().product();
    let mut chosen = vec![0_usize; outer * k * run];
    by_number!(x.dtype(), T => {
        let values = T::read(x)?;
        let mut lane: Vec<usize> = Vec::with_capacity(extent);
        for row in 0..outer {
            for column in 0..run {
                if k == 0 {
                    continue;
                }
                let at = |i: usize| &values[(row * extent + i) * run + column];
                // The lower index first among equals.
                let before = |&a: &usize, &b: &usize| {
                    let by_value = order(at(a), at(b));
                    (if largest { by_value.reverse() } else { by_value }).then(a.cmp(&b))
                };
                lane.clear();
                lane.extend(0..extent);
                if k < extent {
                    lane.select_nth_unstable_by(k - 1, before);
                }
                lane[..k].sort_unstable_by(before);
                for (i, &index) in lane[..k].iter().enumerate() {
                    chosen[(row * k + i) * run + column] = index;
                }
            }
        }
        Ok::<_, String>(())
    })?;
    let values = by_unit!(x.dtype(), T => {
        let source = T::of(x);
        let at = |(i, index): (usize, &usize)| source[(i / run / k * extent + index) * run + i % run].clone();
        T::tensor(x.dtype(), shape.clone(), chosen.iter().enumerate().map(at).collect())
    });
    let indices = Tensor::from_vec(shape, chosen.into_iter().map(|i| i as i64).collect());
    Ok(vec![values.into(), indices.into()])
}

/// The groups of equal items, each by its members in ascending order, in ascending order of the items.
fn groups(count: usize, order: impl Fn(usize, usize) -> Ordering) -> Vec<Vec<usize>> {
    let mut all: Vec<usize> = (0..count).collect();
    all.sort_by(|&a, &b| order(a, b));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for i in all {
        match groups.last_mut() {
            Some(group) if order(group[0], i).is_eq() => group.push(i),
            _ => groups.push(vec![i]),
        }
    }
    groups
}
pub(super) fn unique(ctx: &EvalCtx<'_>) -> Outcome {
    let x = ctx.tensor(0)?;
    let (x, axis) = match ctx.attrs().int("axis") {
        None => (x.reshaped(vec![x.len()]), 0),
        Some(_) if x.rank() == 0 => return Err("a scalar has no axis".into()),
        Some(axis) => (x.clone(), normalize_axis(axis, x.rank())?),
    };
    let count = x.shape()[axis];
    let outer: usize = x.shape()[..axis].iter().product();
    let run: usize = x.shape()[axis + 1..].iter().product();
    /// Compares two slices along an axis element by element.
    fn lanes<T: PartialOrd>(
        values: &[T],
        outer: usize,
        count: usize,
        run: usize,
        a: usize,
        b: usize,
    ) -> Ordering {
        (0..outer)
            .flat_map(|row| (0..run).map(move |column| (row, column)))
            .map(|(row, column)| {
                let at = |i: usize| &values[(row * count + i) * run + column];
                order(at(a), at(b))
            })
            .find(|o| o.is_ne())
            .unwrap_or(Ordering::Equal)
    }
    let mut groups = if x.dtype() == DType::Str {
        groups(count, |a, b| lanes(x.strings(), outer, count, run, a, b))
    } else {
        by_number!(x.dtype(), T => {
            let values = T::read(&x)?;
            Ok::<_, String>(groups(count, |a, b| lanes(&values, outer, count, run, a, b)))
        })?
    };
    if ctx.attrs().int_or("sorted", 1) == 0 {
        groups.sort_by_key(|group| group[0]);
    }
    let first: Vec<usize> = groups.iter().map(|group| group[0]).collect();
    let mut inverse = vec![0_i64; count];
    for (number, group) in groups.iter().enumerate() {
        group.iter().for_each(|&i| inverse[i] = number as i64);
    }
    let counts = groups.iter().map(|group| group.len() as i64).collect();
    let values = take(&x, axis, &first)?;
    Ok(vec![values.into(), list(first.into_iter().map(|i| i as i64).collect()), list(inverse), list(counts)])
}
pub(super) fn compress(ctx: &EvalCtx<'_>) -> Outcome {
    facts(ctx)?;
    let (x, condition) = (ctx.tensor(0)?, bools(ctx.tensor(1)?)?);
    let (x, axis) = match ctx.attrs().int("axis") {
        None => (x.reshaped(vec![x.len()]), 0),
        Some(_) if x.rank() == 0 => return Err("a scalar has no axis".into()),
        Some(axis) => (x.clone(), normalize_axis(axis, x.rank())?),
    };
    let at: Vec<usize> = (0..condition.len()).filter(|&i| condition[i] != 0).collect();
    if at.last().is_some_and(|&last| last >= x.shape()[axis]) {
        return Err(format!("the condition has more elements than dimension {axis} of {x:?}"));
    }
    one(take(&x, axis, &at)?)
}

/// Corners of a box: lower and upper y, lower and upper x.
fn corners(numbers: &[f32], centered: bool) -> [f32; 4] {
    let &[a, b, c, d] = numbers else { return [0.0; 4] };
    if centered {
        // x, y, width, height.
        [b - d / 2.0, b + d / 2.0, a - c / 2.0, a + c / 2.0]
    } else {
        [a.min(c), a.max(c), b.min(d), b.max(d)]
    }
}
/// Area that two boxes share over the area that they cover together.
fn overlap(a: [f32; 4], b: [f32; 4]) -> f32 {
    let side = |k: usize| (a[k + 1].min(b[k + 1]) - a[k].max(b[k])).max(0.0);
    let area = |c: [f32; 4]| (c[1] - c[0]) * (c[3] - c[2]);
    let (shared, a, b) = (side(0) * side(2), area(a), area(b));
    let covered = a + b - shared;
    if shared <= 0.0 || a <= 0.0 || b <= 0.0 || covered <= 0.0 { 0.0 } else { shared / covered }
}
pub(super) fn non_max_suppression(ctx: &EvalCtx<'_>) -> Outcome {
    facts(ctx)?;
    let (boxes, scores) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let limit = |i: usize| ctx.optional(i)?.filter(|t| !t.is_empty()).map(scalar_f64).transpose();
    let most = limit(2)?.unwrap_or(0.0).max(0.0) as usize;
    let (iou, least) = (limit(3)?.unwrap_or(0.0), limit(4)?);
    let centered = ctx.attrs().flag("center_point_box");
    let (numbers, scores_of) = (f32::read(boxes)?, f32::read(scores)?);
    let (batches, classes, count) = (scores.shape()[0], scores.shape()[1], scores.shape()[2]);
    let mut out = Vec::new();
    for batch in 0..batches {
        let all: Vec<[f32; 4]> = (0..count)
            .map(|i| corners(&numbers[(batch * count + i) * 4..(batch * count + i + 1) * 4], centered))
            .collect();
        for class in 0..classes {
            let score = &scores_of[(batch * classes + class) * count..(batch * classes + class + 1) * count];
            let mut left: Vec<usize> =
                (0..count).filter(|&i| least.is_none_or(|least| f64::from(score[i]) > least)).collect();
            left.sort_by(|&a, &b| order(&score[b], &score[a]).then(a.cmp(&b)));
            let mut kept: Vec<usize> = Vec::new();
            for i in left {
                if kept.len() == most {
                    break;
                }
                if kept.iter().all(|&k| f64::from(overlap(all[i], all[k])) <= iou) {
                    kept.push(i);
                    out.extend([batch as i64, class as i64, i as i64]);
                }
            }
        }
    }
    one(Tensor::from_vec(vec![out.len() / 3, 3], out))
}
pub(super) fn tensor_scatter(ctx: &EvalCtx<'_>) -> Outcome {
    let (dtype, shape) = check_one(ctx)?;
    let (cache, update) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let axis = axis_of(ctx, -2, cache.rank())?;
    let circular = match ctx.attrs().str_or("mode", "linear") {
        "linear" => false,
        "circular" => true,
        other => return Err(format!("unknown mode `{other}`")),
    };
    let starts = if ctx.has(2) { ctx.ints(2)? } else { vec![0; shape[0]] };
    let (extent, steps) = (shape[axis], update.shape()[axis]);
    if steps > extent {
        return Err(format!("{steps} steps do not fit into a cache of {extent}"));
    }
    let run: usize = shape[axis + 1..].iter().product();
    let lanes: usize = shape[1..axis].iter().product();
    by_unit!(dtype, T => {
        let (mut out, new) = (T::of(cache).into_owned(), T::of(update));
        for (batch, &start) in starts.iter().enumerate() {
            for step in 0..steps {
                let to = start.saturating_add(step as i64);
                let to = if circular { to.rem_euclid(extent as i64) } else { to };
                let to = position(to, extent)?;
                for lane in batch * lanes..(batch + 1) * lanes {
                    let (from, to) = ((lane * steps + step) * run, (lane * extent + to) * run);
                    out[to..to + run].clone_from_slice(&new[from..from + run]);
                }
            }
        }
        one(T::tensor(dtype, shape.clone(), out))
    })
}
