//! `GatherMatMul`: each row is multiplied by a matrix that it chooses; and the gradient of the matrices.

use super::super::elements::{Float, by_float, integers};
use super::super::space::{broadcast_access, parallel, reduced};
use super::super::{
    Access, Class, Combine, Ctx, Datum, Engine, EvalCtx, Fact, Gradient, IterSpace, Op, OpDef, Port, Work,
    context, elements, req, rules,
};
use super::ACCUMULATE;
use super::kernel::{Left, Scalar, View};
use crate::{AttrKind, Dim};
use orrery_numerics::{Accumulation, DType};
use std::collections::BTreeMap;

pub(super) const GATHER_MATMUL: OpDef = OpDef {
    inputs: &[Port::One("A"), Port::One("B"), Port::One("indices")],
    outputs: &[Port::One("Y")],
    attrs: &[ACCUMULATE],
    class: Class::Rounding,
    engine: Engine::Matrix,
    infer,
    work,
    space,
    eval,
    gradient: Gradient::Rule(super::gradient::gather_matmul),
    ..OpDef::new(
        Op::GatherMatMul,
        "Product of each row of A, of k elements, with the one of the matrices B, of e x k x n, that its index names: a \
         layer of experts. The dimensions of A before the last and those of the indices are broadcast. Not part of ONNX.",
    )
};

/// Extents of the rows, broadcast; of a row; of a result.
struct Extents {
    rows: Vec<Dim>,
    k: Dim,
    n: Dim,
}

/// None where a rank is unknown.
fn extents(ctx: &Ctx<'_>) -> Result<Option<Extents>, String> {
    let b = rules::ranked(ctx, 1, 3)?;
    let (Some(a), Some(b), Some(indices)) = (ctx.shape(0), b, ctx.shape(2)) else { return Ok(None) };
    let [rows @ .., k] = a.as_slice() else {
        return Err("a scalar cannot be multiplied as a matrix".into());
    };
    let k = rules::equal(k, &b[1], || "the last extent of A and the rows of the matrices B".into())?;
    Ok(Some(Extents { rows: context::broadcast(&[rows, &indices])?, k, n: b[2].clone() }))
}

fn infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let dtype = rules::float(ctx, 0)?;
    rules::of_type(ctx, [1], dtype)?;
    rules::of_type(ctx, [2], DType::I64)?;
    Ok(vec![match extents(ctx)? {
        Some(Extents { mut rows, n, .. }) => {
            rows.push(n);
            Fact::tensor(dtype, rows)
        }
        None => Fact::unranked(dtype),
    }])
}

/// The products with the matrices that are chosen, and no others.
fn work(ctx: &Ctx<'_>) -> Work {
    let Ok(Some(Extents { rows, k, n })) = extents(ctx) else { return Work::NONE };
    Work::macs(rules::product(&rows) * k * n)
}

fn space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let Extents { rows, k, n } = extents(ctx).ok()??;
    let (a, indices) = (ctx.shape(0)?, ctx.shape(2)?);
    let out: Vec<Dim> = rows.iter().cloned().chain([n]).collect();
    let mut space = IterSpace::over_output(&out);
    space.axes.push(reduced("k", k, Combine::Sum));
    let k = Access::along(out.len());
    let mut left = broadcast_access(&a[..a.len() - 1], &rows);
    left.push(k.clone());
    let right = vec![Access::Whole, k, Access::along(rows.len())];
    space.inputs = vec![left, right, broadcast_access(&indices, &rows)];
    Some(space)
}

fn eval(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let (a, b) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let indices = ctx.tensor(2)?;
    let how = ctx.accumulation(dtype)?;
    let (rows, chosen) = (&shape[..shape.len() - 1], integers(indices)?);
    let count = b.shape()[0];
    if let Some(wrong) = chosen.iter().find(|&&index| index < 0 || index as usize >= count) {
        return Err(format!("index {wrong} names none of {count} matrices"));
    }
    let (k, n) = (b.shape()[1], b.shape()[2]);
    let a_rows = &a.shape()[..a.rank() - 1];
    let a_steps: Vec<isize> =
        elements::broadcast_strides(a_rows, rows).into_iter().map(|step| step * k as isize).collect();
    let index_steps = elements::broadcast_strides(indices.shape(), rows);
    Ok(vec![
        by_float!(dtype, T => {
            let (x, y) = (T::read(a)?, T::read(b)?);
            let mut out = vec![T::ZERO; shape.iter().product()];
            let mut at = 0;
            elements::Loops::new(rows, [&a_steps, &index_steps]).each(|[row, index]| {
                let matrix = &y[chosen[index as usize] as usize * k * n..][..k * n];
                one_row::<T>(&x[row as usize..], matrix, (k, n), how, &mut out[at..at + n]);
                at += n;
            });
            T::tensor(dtype, shape, out)
        })
        .into(),
    ])
}

fn one_row<T: Scalar>(
    row: &[T],
    matrix: &[T],
    (k, n): (usize, usize),
    how: Option<Accumulation>,
    out: &mut [T],
) {
    Left::new(View::rows(row, k), 1, k, how).multiply(View::rows(matrix, n), n, out, n);
}

pub(super) const GATHER_MATMUL_GRAD: OpDef = OpDef {
    inputs: &[Port::One("A"), Port::One("dY"), Port::One("indices")],
    outputs: &[Port::One("dB")],
    attrs: &[req("matrices", AttrKind::Int, "Number of the matrices B."), ACCUMULATE],
    class: Class::Rounding,
    engine: Engine::Matrix,
    infer: grad_infer,
    work: |ctx| match grad_extents(ctx) {
        Ok(Some(Extents { rows, k, n })) => Work::macs(rules::product(&rows) * k * n),
        _ => Work::NONE,
    },
    space: grad_space,
    eval: grad_eval,
    ..OpDef::new(
        Op::GatherMatMulGrad,
        "Gradient of the matrices of GatherMatMul: to each, the products of rows of A with rows of dY that chose it are \
         added. Not part of ONNX.",
    )
};

/// None where a rank is unknown.
fn grad_extents(ctx: &Ctx<'_>) -> Result<Option<Extents>, String> {
    let (Some(a), Some(dy), Some(indices)) = (ctx.shape(0), ctx.shape(1), ctx.shape(2)) else {
        return Ok(None);
    };
    let ([rows @ .., k], [all @ .., n]) = (a.as_slice(), dy.as_slice()) else {
        return Err("a scalar cannot be multiplied as a matrix".into());
    };
    let rows = context::broadcast(&[rows, &indices])?;
    if rows.len() != all.len() {
        return Err(format!("dY must have {} dimensions, has {}", rows.len() + 1, dy.len()));
    }
    for (a, b) in rows.iter().zip(all) {
        rules::equal(a, b, || "the rows of A and of dY".into())?;
    }
    Ok(Some(Extents { rows, k: k.clone(), n: n.clone() }))
}

fn grad_infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let dtype = rules::float(ctx, 0)?;
    rules::of_type(ctx, [1], dtype)?;
    rules::of_type(ctx, [2], DType::I64)?;
    let count = ctx.attrs().int("matrices").filter(|n| *n >= 0).ok_or("attribute `matrices` is no count")?;
    Ok(vec![match grad_extents(ctx)? {
        Some(Extents { k, n, .. }) => Fact::tensor(dtype, vec![Dim::Known(count), k, n]),
        None => Fact::unranked(dtype),
    }])
}

/// Rows and columns of the matrices are parallel; parts of the rows of A make partial sums.
fn grad_space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let Extents { rows, k, n } = grad_extents(ctx).ok()??;
    let (a, indices) = (ctx.shape(0)?, ctx.shape(2)?);
    let mut axes = vec![parallel("k", k), parallel("n", n)];
    axes.extend(rows.iter().map(|extent| reduced("row", extent.clone(), Combine::Sum)));
    let along_rows = |shape: &[Dim]| -> Vec<Access> {
        let lead = broadcast_access(shape, &rows);
        lead.into_iter()
            .map(|access| access.axis().map_or(Access::Whole, |at| Access::along(at + 2)))
            .collect()
    };
    let mut left = along_rows(&a[..a.len() - 1]);
    left.push(Access::along(0));
    let mut right = along_rows(&rows);
    right.push(Access::along(1));
    Some(IterSpace {
        axes,
        inputs: vec![left, right, along_rows(&indices)],
        outputs: vec![vec![Access::Whole, Access::along(0), Access::along(1)]],
        part_attrs: crate::Attrs::new(),
        padding: 0.0,
    })
}

/// For each matrix, one product of all rows that chose it.
fn grad_eval(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let (a, dy, indices) = (ctx.tensor(0)?, ctx.tensor(1)?, ctx.tensor(2)?);
    let how = ctx.accumulation(dtype)?;
    let (count, k, n) = (shape[0], shape[1], shape[2]);
    let (rows, chosen) = (&dy.shape()[..dy.rank() - 1], integers(indices)?);
    if let Some(wrong) = chosen.iter().find(|&&index| index < 0 || index as usize >= count) {
        return Err(format!("index {wrong} names none of {count} matrices"));
    }
    let a_steps: Vec<isize> = elements::broadcast_strides(&a.shape()[..a.rank() - 1], rows)
        .into_iter()
        .map(|step| step * k as isize)
        .collect();
    let index_steps = elements::broadcast_strides(indices.shape(), rows);
    Ok(vec![
        by_float!(dtype, T => {
            let (x, dy) = (T::read(a)?, T::read(dy)?);
            let mut of: BTreeMap<usize, (Vec<T>, Vec<T>)> = BTreeMap::new();
            let mut at = 0;
            elements::Loops::new(rows, [&a_steps, &index_steps]).each(|[row, index]| {
                let (left, right) = of.entry(chosen[index as usize] as usize).or_default();
                left.extend_from_slice(&x[row as usize..][..k]);
                right.extend_from_slice(&dy[at..at + n]);
                at += n;
            });
            let mut out = vec![T::ZERO; count * k * n];
            for (i, (left, right)) in of.iter().filter(|_| k * n > 0) {
                products::<T>((left, right), (k, n), how, &mut out[i * k * n..][..k * n]);
            }
            T::tensor(dtype, shape, out)
        })
        .into(),
    ])
}

fn products<T: Scalar>(
    (left, right): (&[T], &[T]),
    (k, n): (usize, usize),
    how: Option<Accumulation>,
    out: &mut [T],
) {
    let rows = left.len() / k;
    Left::new(View::rows(left, k).transposed(), k, rows, how).multiply(View::rows(right, n), n, out, n);
}
