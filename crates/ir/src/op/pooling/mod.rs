//! Ops of the family `pooling`: one element from each window, each image or each region of interest.

mod gradient;
mod region;
mod region_grad;
mod unpool;
mod window;
mod window_grad;

use super::elements::{Float, by_float};
use super::space::{parallel, reduced};
use super::{
    Access, Class, Combine, Ctx, Datum, EvalCtx, Fact, IterSpace, Op, OpDef, Port, Work, opt, rules,
};
use crate::{AttrKind, Attrs, Dim};

/// The entries.
pub const TABLE: &[OpDef] = &[
    window::MAX_POOL.gradient(gradient::max_pool),
    window::AVERAGE_POOL.gradient(gradient::average_pool),
    window::LP_POOL.gradient(gradient::lp_pool),
    window_grad::MAX_POOL_GRAD,
    window_grad::AVERAGE_POOL_GRAD,
    OpDef {
        inputs: &[Port::One("X")],
        outputs: &[Port::One("Y")],
        class: Class::Rounding,
        infer: |ctx| {
            rules::float(ctx, 0)?;
            global_infer(ctx)
        },
        work: |ctx| Work::vector(ctx.input_elements(0), ctx.output_elements(0)),
        space: |ctx| global_space(ctx, None),
        eval: |ctx| global(ctx, Pool::Average),
        ..OpDef::new(
            Op::GlobalAveragePool,
            "The mean of each channel over its spatial dimensions, which become 1.",
        )
    }
    .gradient(gradient::global_average_pool),
    OpDef {
        inputs: &[Port::One("X")],
        outputs: &[Port::One("Y")],
        infer: |ctx| {
            rules::float(ctx, 0)?;
            global_infer(ctx)
        },
        work: |ctx| Work::vector(ctx.input_elements(0), Dim::Known(0)),
        space: |ctx| global_space(ctx, Some(Combine::Max)),
        eval: |ctx| global(ctx, Pool::Max),
        ..OpDef::new(
            Op::GlobalMaxPool,
            "The largest element of each channel over its spatial dimensions, which become 1.",
        )
    }
    .gradient(gradient::global_max_pool),
    OpDef {
        inputs: &[Port::One("X")],
        outputs: &[Port::One("Y")],
        attrs: &[opt("p", AttrKind::Int, "Order of the norm; 2.")],
        class: Class::Rounding,
        infer: |ctx| {
            rules::float(ctx, 0)?;
            order(ctx.attrs())?;
            global_infer(ctx)
        },
        work: |ctx| lp_work(ctx.attrs(), ctx.input_elements(0), ctx.output_elements(0)),
        space: |ctx| global_space(ctx, None),
        eval: |ctx| global(ctx, Pool::Lp(order(ctx.attrs())?)),
        ..OpDef::new(
            Op::GlobalLpPool,
            "The Lp norm of each channel over its spatial dimensions, which become 1.",
        )
    }
    .gradient(gradient::global_lp_pool),
    unpool::MAX_UNPOOL.gradient(gradient::max_unpool),
    region::MAX_ROI_POOL.gradient(region_grad::max_roi_pool_gradient),
    region::ROI_ALIGN.gradient(region_grad::roi_align_gradient),
    region_grad::MAX_ROI_POOL_GRAD,
    region_grad::ROI_ALIGN_GRAD,
];

/// What becomes of the elements of a window.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pool {
    /// The largest.
    Max,
    /// The mean.
    Average,
    /// The norm of that order.
    Lp(i64),
}

impl Pool {
    /// One element from many; `count` is what a mean is divided by.
    fn gather<T: Float>(self, elements: impl Iterator<Item = T>, count: usize) -> T {
        match self {
            Self::Max => elements.fold(-T::INFINITY, |most, v| v.larger(most)),
            Self::Average => elements.sum::<T>() / T::from_f64(count as f64),
            Self::Lp(1) => elements.map(T::abs).sum(),
            Self::Lp(2) => elements.map(|v| v * v).sum::<T>().sqrt(),
            Self::Lp(p) => {
                let p = T::from_f64(p as f64);
                elements.map(|v| v.abs().powf(p)).sum::<T>().powf(T::ONE / p)
            }
        }
    }
}

/// The attribute `p`.
fn order(attrs: &Attrs) -> Result<i64, String> {
    match attrs.int_or("p", 2) {
        p if p >= 1 => Ok(p),
        p => Err(format!("attribute `p` is {p}, must be at least 1")),
    }
}

/// A power and a sum for each element read, a root for each made; powers up to 2 are no special functions.
fn lp_work(attrs: &Attrs, read: Dim, made: Dim) -> Work {
    let powers = if attrs.int_or("p", 2) > 2 { read.clone() } else { Dim::Known(0) };
    Work::vector(read * Dim::Known(2), made + powers)
}

/// Checks that the first input is images with spatial dimensions.
fn images(ctx: &Ctx<'_>) -> Result<Option<Vec<Dim>>, String> {
    match ctx.shape(0) {
        Some(shape) if shape.len() < 3 => Err(format!(
            "input `X` must have a batch, a channel and at least one spatial dimension, has {}",
            rules::shape_text(&shape)
        )),
        shape => Ok(shape),
    }
}

fn global_infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let dtype = ctx.dtype(0)?;
    Ok(vec![match images(ctx)? {
        Some(mut shape) => {
            shape[2..].fill(Dim::Known(1));
            Fact::tensor(dtype, shape)
        }
        None => Fact::unranked(dtype),
    }])
}

fn global_space(ctx: &Ctx<'_>, combine: Option<Combine>) -> Option<IterSpace> {
    let shape = ctx.shape(0)?;
    let mut axes = vec![parallel("n", shape[0].clone()), parallel("channel", shape[1].clone())];
    let mut input = vec![Access::along(0), Access::along(1)];
    let mut output = input.clone();
    for extent in &shape[2..] {
        output.push(Access::Whole);
        input.push(match combine {
            Some(combine) => {
                axes.push(reduced("spatial", extent.clone(), combine));
                Access::along(axes.len() - 1)
            }
            None => Access::Whole,
        });
    }
    Some(IterSpace {
        axes,
        inputs: vec![input],
        outputs: vec![output],
        part_attrs: Attrs::new(),
        padding: 0.0,
    })
}

fn global(ctx: &EvalCtx<'_>, pool: Pool) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let x = ctx.tensor(0)?;
    let plane: usize = x.shape()[2..].iter().product();
    let count = shape[0] * shape[1];
    Ok(vec![
        by_float!(dtype, T => {
            let x = T::read(x)?;
            let made = (0..count)
                .map(|i| pool.gather(x[i * plane..(i + 1) * plane].iter().copied(), plane))
                .collect::<Vec<T>>();
            T::tensor(dtype, shape, made)
        })
        .into(),
    ])
}
