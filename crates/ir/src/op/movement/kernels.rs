//! Meanings of the movement ops. Shapes come from the type rules; see [`check`].

use super::rules;
use crate::op::elements::{
    Unit, by_unit, concat as join, crop, expand as repeat, scalar_i64, strides, transpose, view,
};
use crate::op::number::{Number, by_number};
use crate::op::rules::{check, check_one};
use crate::op::{Datum, EvalCtx};
use orrery_numerics::Tensor;

type Outcome = Result<Vec<Datum>, String>;

fn one(tensor: Tensor) -> Outcome {
    Ok(vec![tensor.into()])
}

pub(super) fn shape(ctx: &EvalCtx<'_>) -> Outcome {
    let x = ctx.tensor(0)?;
    let rank = x.rank() as i64;
    let at = |i: i64| (if i < 0 { i.saturating_add(rank) } else { i }).clamp(0, rank) as usize;
    let (start, end) = (at(ctx.attrs().int_or("start", 0)), at(ctx.attrs().int_or("end", rank)));
    let part: Vec<i64> = x.shape().get(start..end).unwrap_or_default().iter().map(|&n| n as i64).collect();
    one(Tensor::from_vec(vec![part.len()], part))
}
pub(super) fn size(ctx: &EvalCtx<'_>) -> Outcome {
    one(Tensor::scalar(ctx.tensor(0)?.len() as i64))
}
/// The same elements in the shape that the type rule finds.
pub(super) fn reshape(ctx: &EvalCtx<'_>) -> Outcome {
    one(ctx.tensor(0)?.reshaped(check_one(ctx)?.1))
}
pub(super) fn permute(ctx: &EvalCtx<'_>) -> Outcome {
    let x = ctx.tensor(0)?;
    one(transpose(x, &rules::order(ctx.attrs().ints("perm"), x.rank())?))
}
pub(super) fn concat(ctx: &EvalCtx<'_>) -> Outcome {
    check_one(ctx)?;
    let parts: Vec<&Tensor> = (0..ctx.inputs.len()).map(|i| ctx.tensor(i)).collect::<Result<_, _>>()?;
    let axis = ctx.attrs().int("axis").ok_or("attribute `axis` is missing")?;
    one(join(&parts, crate::op::context::normalize_axis(axis, parts[0].rank())?)?)
}
pub(super) fn split(ctx: &EvalCtx<'_>) -> Outcome {
    let x = ctx.tensor(0)?;
    let axis = crate::op::context::normalize_axis(ctx.attrs().int_or("axis", 0), x.rank())?;
    let mut start = vec![0; x.rank()];
    check(ctx)?
        .into_iter()
        .map(|(_, shape)| {
            let part = crop(x, &start, &shape);
            start[axis] += shape[axis];
            Ok(part.into())
        })
        .collect()
}
pub(super) fn slice(ctx: &EvalCtx<'_>) -> Outcome {
    let (_, shape) = check_one(ctx)?;
    let x = ctx.tensor(0)?;
    let (starts, axes, steps) = (ctx.ints(1)?, ctx.optional(3)?, ctx.optional(4)?);
    let axes = if axes.is_some() { ctx.ints(3)? } else { (0..starts.len() as i64).collect() };
    let steps = if steps.is_some() { ctx.ints(4)? } else { vec![1; starts.len()] };
    let mut moved = strides(x.shape());
    let mut base = 0;
    for ((start, axis), step) in starts.into_iter().zip(rules::distinct_axes(&axes, x.rank())?).zip(steps) {
        let extent = x.shape()[axis] as i64;
        let at = if start < 0 { start.saturating_add(extent) } else { start };
        base += at.clamp(0, if step < 0 { (extent - 1).max(0) } else { extent }) as isize * moved[axis];
        moved[axis] = moved[axis].saturating_mul(step as isize);
    }
    let base = if shape.contains(&0) { 0 } else { base };
    one(view(x, shape, &moved, base)?)
}
pub(super) fn expand(ctx: &EvalCtx<'_>) -> Outcome {
    one(repeat(ctx.tensor(0)?, &check_one(ctx)?.1)?)
}
pub(super) fn tile(ctx: &EvalCtx<'_>) -> Outcome {
    let (_, shape) = check_one(ctx)?;
    let x = ctx.tensor(0)?;
    let (mut pairs, mut moved) = (Vec::new(), Vec::new());
    for ((&extent, repeats), stride) in x.shape().iter().zip(ctx.ints(1)?).zip(strides(x.shape())) {
        pairs.extend([repeats as usize, extent]);
        moved.extend([0, stride]);
    }
    one(view(x, pairs, &moved, 0)?.reshaped(shape))
}

/// For each dimension, which source index stands at each index of the result; `None` for the filling.
fn gather_maps<T: Unit>(source: &[T], shape: &[usize], maps: &[Vec<Option<usize>>], filling: &T) -> Vec<T> {
    let mut out = Vec::with_capacity(maps.iter().map(Vec::len).product());
    fn level<T: Unit>(
        source: &[T],
        strides: &[isize],
        maps: &[Vec<Option<usize>>],
        base: Option<usize>,
        filling: &T,
        out: &mut Vec<T>,
    ) {
        match (maps, base) {
            ([], base) => out.push(base.map_or(filling, |at| &source[at]).clone()),
            (_, None) => {
                let rest = maps.iter().map(Vec::len).product();
                out.extend(std::iter::repeat_n(filling, rest).cloned());
            }
            ([map], Some(base)) => {
                out.extend(map.iter().map(|at| at.map_or(filling, |at| &source[base + at]).clone()));
            }
            ([map, inner @ ..], Some(base)) => {
                for at in map {
                    let at = at.map(|at| base + at * strides[0] as usize);
                    level(source, &strides[1..], inner, at, filling, out);
                }
            }
        }
    }
    level(source, &strides(shape), maps, Some(0), filling, &mut out);
    out
}
fn mapped(x: &Tensor, maps: &[Vec<Option<usize>>], filling: Option<&Tensor>) -> Tensor {
    let shape = maps.iter().map(Vec::len).collect();
    by_unit!(x.dtype(), T => {
        let filling = filling.and_then(|t| T::of(t).first().cloned()).unwrap_or_default();
        T::tensor(x.dtype(), shape, gather_maps(&T::of(x), x.shape(), maps, &filling))
    })
}
/// Which element of a dimension stands at a place counted from its first one, outside of it too; none where the value does.
pub(super) fn pad_source(mode: &str, at: i64, extent: i64) -> Result<Option<i64>, String> {
    match mode {
        "constant" => Ok((0..extent).contains(&at).then_some(at)),
        "edge" => Ok(Some(at.clamp(0, extent - 1))),
        "reflect" => {
            let period = (2 * (extent - 1)).max(1);
            let folded = at.rem_euclid(period);
            Ok(Some(if folded < extent { folded } else { period - folded }))
        }
        "wrap" => Ok(Some(at.rem_euclid(extent))),
        other => Err(format!("unknown mode `{other}`")),
    }
}
pub(super) fn pad(ctx: &EvalCtx<'_>) -> Outcome {
    let (dtype, shape) = check_one(ctx)?;
    let x = ctx.tensor(0)?;
    let axes = if ctx.has(3) { ctx.ints(3)? } else { (0..x.rank() as i64).collect() };
    let (axes, pads) = (rules::distinct_axes(&axes, x.rank())?, ctx.ints(1)?);
    let mode = ctx.attrs().str_or("mode", "constant");
    let filling = ctx.optional(2)?;
    if filling.is_some_and(|f| f.len() != 1 || f.dtype() != dtype) {
        return Err(format!("the value must be a single element of type {dtype}"));
    }
    let mut front = vec![0_i64; x.rank()];
    axes.iter().zip(pads).for_each(|(&d, n)| front[d] = n);
    let maps: Vec<Vec<Option<usize>>> = (0..x.rank())
        .map(|d| {
            let extent = x.shape()[d] as i64;
            if extent == 0 && shape[d] > 0 && mode != "constant" {
                return Err(format!("dimension {d} has no elements to pad it with"));
            }
            (0..shape[d] as i64)
                .map(|o| Ok(pad_source(mode, o - front[d], extent)?.map(|i| i as usize)))
                .collect()
        })
        .collect::<Result<_, String>>()?;
    one(mapped(x, &maps, filling))
}
pub(super) fn center_crop_pad(ctx: &EvalCtx<'_>) -> Outcome {
    let (_, shape) = check_one(ctx)?;
    let x = ctx.tensor(0)?;
    let maps: Vec<Vec<Option<usize>>> = x
        .shape()
        .iter()
        .zip(&shape)
        .map(|(&from, &to)| {
            let (cut, added) = (from.saturating_sub(to) / 2, to.saturating_sub(from) / 2);
            (0..to).map(|o| (o + cut).checked_sub(added).filter(|i| *i < from)).collect()
        })
        .collect();
    one(mapped(x, &maps, None))
}

/// Splits dimensions, moves them and joins them again.
fn regroup(x: &Tensor, apart: [usize; 6], order: [usize; 6], shape: Vec<usize>) -> Outcome {
    one(transpose(&x.reshaped(apart.to_vec()), &order).reshaped(shape))
}
pub(super) fn depth_to_space(ctx: &EvalCtx<'_>) -> Outcome {
    let (_, shape) = check_one(ctx)?;
    let x = ctx.tensor(0)?;
    let block = ctx.attrs().int_or("blocksize", 1) as usize;
    let (n, c, h, w) = (x.shape()[0], shape[1], x.shape()[2], x.shape()[3]);
    match ctx.attrs().str_or("mode", "DCR") {
        "DCR" => regroup(x, [n, block, block, c, h, w], [0, 3, 4, 1, 5, 2], shape),
        "CRD" => regroup(x, [n, c, block, block, h, w], [0, 1, 4, 2, 5, 3], shape),
        other => Err(format!("mode must be DCR or CRD, is {other}")),
    }
}
pub(super) fn space_to_depth(ctx: &EvalCtx<'_>) -> Outcome {
    let (_, shape) = check_one(ctx)?;
    let x = ctx.tensor(0)?;
    let block = ctx.attrs().int_or("blocksize", 1) as usize;
    let (n, c, h, w) = (x.shape()[0], x.shape()[1], shape[2], shape[3]);
    regroup(x, [n, c, h, block, w, block], [0, 3, 5, 1, 2, 4], shape)
}
pub(super) fn constant_of_shape(ctx: &EvalCtx<'_>) -> Outcome {
    let (dtype, shape) = check_one(ctx)?;
    let zero = Tensor::scalar(0_f32);
    let value = ctx.optional(1)?.unwrap_or(&zero);
    if value.len() != 1 {
        return Err(format!("the value must be a single element, is {value:?}"));
    }
    one(repeat(&value.reshaped(Vec::new()), &shape)?).inspect(|_| debug_assert_eq!(value.dtype(), dtype))
}
pub(super) fn range(ctx: &EvalCtx<'_>) -> Outcome {
    let (dtype, shape) = check_one(ctx)?;
    let (start, delta) = (ctx.tensor(0)?, ctx.tensor(2)?);
    by_number!(dtype, T => {
        let (start, delta) = (T::read(start)?[0], T::read(delta)?[0]);
        let values = (0..shape[0]).map(|i| start.plus(T::from_f64(i as f64).times(delta))).collect();
        one(T::write(dtype, shape, values))
    })
}
pub(super) fn eye_like(ctx: &EvalCtx<'_>) -> Outcome {
    let (dtype, shape) = check_one(ctx)?;
    let k = ctx.attrs().int_or("k", 0);
    let (rows, columns) = (shape[0], shape[1]);
    let mut values = vec![0_i64; rows * columns];
    for row in 0..rows {
        let column = (row as i64).saturating_add(k);
        if (0..columns as i64).contains(&column) {
            values[row * columns + column as usize] = 1;
        }
    }
    one(Tensor::from_i64(dtype, shape, values))
}
pub(super) fn trilu(ctx: &EvalCtx<'_>) -> Outcome {
    let (dtype, shape) = check_one(ctx)?;
    let x = ctx.tensor(0)?;
    let k = ctx.optional(1)?.map_or(Ok(0), scalar_i64)?;
    let upper = ctx.attrs().int_or("upper", 1) != 0;
    let (rows, columns) = (shape[shape.len() - 2], shape[shape.len() - 1]);
    by_unit!(dtype, T => {
        let mut values = T::of(x).into_owned();
        for (i, row) in values.chunks_exact_mut(columns.max(1)).enumerate() {
            // The first element on the upper side of the diagonal.
            let diagonal = ((i % rows.max(1)) as i64).saturating_add(k);
            let at = diagonal.saturating_add(i64::from(!upper)).clamp(0, columns as i64) as usize;
            let cleared = if upper { &mut row[..at] } else { &mut row[at..] };
            cleared.fill(T::default());
        }
        one(T::tensor(dtype, shape, values))
    })
}
pub(super) fn reverse_sequence(ctx: &EvalCtx<'_>) -> Outcome {
    let (dtype, shape) = check_one(ctx)?;
    let x = ctx.tensor(0)?;
    let (time, batch) = rules::sequence_axes(ctx.attrs())?;
    let lengths = ctx.ints(1)?;
    let steps = shape[time];
    if lengths.len() != shape[batch] || lengths.iter().any(|n| !(0..=steps as i64).contains(n)) {
        return Err(format!(
            "sequence_lens {lengths:?} must hold {} lengths of at most {steps}",
            shape[batch]
        ));
    }
    let run: usize = shape[2..].iter().product();
    by_unit!(dtype, T => {
        let source = T::of(x);
        let mut values = Vec::with_capacity(source.len());
        for i in 0..shape[0] {
            for j in 0..shape[1] {
                let (t, b) = if time == 0 { (i, j) } else { (j, i) };
                let length = lengths[b] as usize;
                let t = if t < length { length - 1 - t } else { t };
                let (i, j) = if time == 0 { (t, b) } else { (b, t) };
                let at = (i * shape[1] + j) * run;
                values.extend_from_slice(&source[at..at + run]);
            }
        }
        one(T::tensor(dtype, shape.clone(), values))
    })
}
