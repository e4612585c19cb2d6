//! `GatherMatMul`: each row is multiplied by a matrix that it chooses.

use super::super::elements::{Float, by_float, integers};
use super::super::space::{broadcast_access, reduced};
use super::super::{
    Access, Class, Combine, Ctx, Datum, Engine, EvalCtx, Fact, IterSpace, Op, OpDef, Port, Work, context,
    elements, rules,
};
use super::ACCUMULATE;
use super::kernel::{self, Left, Scalar, View};
use crate::Dim;
use orrery_numerics::{Accumulation, DType};

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
    let how = kernel::accumulation(ctx.attrs(), dtype)?;
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
    Ok(vec![by_float!(dtype, T => {
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
    .into()])
}

fn one_row<T: Scalar>(row: &[T], matrix: &[T], (k, n): (usize, usize), how: Option<Accumulation>, out: &mut [T]) {
    Left::new(View::rows(row, k), 1, k, how).multiply(View::rows(matrix, n), n, out, n);
}
