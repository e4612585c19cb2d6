//! `MaxUnpool`: puts the largest elements back where they were.

use super::super::convolution::window::{PADS, STRIDES, numbers};
use super::super::elements::{Float, by_float, integers};
use super::super::{Ctx, Datum, EvalCtx, Fact, Op, OpDef, Port, req, rules};
use super::images;
use crate::{AttrKind, Attrs, Dim};
use orrery_numerics::DType;

pub(super) const MAX_UNPOOL: OpDef = OpDef {
    inputs: &[Port::One("X"), Port::One("I"), Port::Optional("output_shape")],
    attrs: &[req("kernel_shape", AttrKind::Ints, "Extents of the window of the pooling."), PADS, STRIDES],
    infer,
    eval,
    ..OpDef::new(
        Op::MaxUnpool,
        "Puts elements at the indices that MaxPool gave for them and zero elsewhere; a larger output shape adds zeros at \
         the end of each dimension.",
    )
};

/// The shape that was pooled, by the attributes.
pub(super) fn pooled_from(attrs: &Attrs, shape: &[Dim]) -> Result<Vec<Dim>, String> {
    let count = shape.len() - 2;
    let kernel = numbers(attrs, "kernel_shape", count, 1, 1)?;
    let strides = numbers(attrs, "strides", count, 1, 1)?;
    let pads = numbers(attrs, "pads", 2 * count, 0, 0)?;
    let mut out = shape[..2].to_vec();
    for d in 0..count {
        let extent = (shape[d + 2].clone() - Dim::Known(1)) * Dim::Known(strides[d]) + Dim::Known(kernel[d])
            - Dim::Known(pads[d])
            - Dim::Known(pads[d + count]);
        if extent.known().is_some_and(|n| n < 0) {
            return Err(format!("padding leaves {extent} elements in spatial dimension {d}"));
        }
        out.push(extent);
    }
    Ok(out)
}

fn infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let dtype = rules::float(ctx, 0)?;
    rules::of_type(ctx, [1, 2], DType::I64)?;
    let Some(shape) = images(ctx)? else { return Ok(vec![Fact::unranked(dtype)]) };
    rules::has_shape(ctx, 1, &shape)?;
    let pooled = pooled_from(ctx.attrs(), &shape)?;
    if !ctx.has(2) {
        return Ok(vec![Fact::tensor(dtype, pooled)]);
    }
    rules::has_shape(ctx, 2, &[Dim::from(shape.len())])?;
    let Some(asked) = ctx.content(2) else {
        return Ok(vec![Fact::tensor(dtype, (0..shape.len()).map(|d| ctx.unknown_dim(0, d)).collect())]);
    };
    for (asked, pooled) in asked.iter().zip(&pooled) {
        if let (Some(asked), Some(pooled)) = (asked.known(), pooled.known())
            && asked < pooled
        {
            return Err(format!("`output_shape` has {asked} where at least {pooled} are needed"));
        }
    }
    Ok(vec![Fact::tensor(dtype, asked.to_vec())])
}

fn eval(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let x = ctx.tensor(0)?;
    let dims: Vec<Dim> = x.shape().iter().map(|&n| Dim::from(n)).collect();
    let pooled: Option<Vec<usize>> = pooled_from(ctx.attrs(), &dims)?.iter().map(Dim::extent).collect();
    let pooled = pooled.ok_or("the shape that was pooled is not known")?;
    let total: usize = pooled.iter().product();
    let indices = integers(ctx.tensor(1)?)?;
    Ok(vec![by_float!(dtype, T => {
        let x = T::read(x)?;
        let mut out = vec![T::ZERO; shape.iter().product()];
        for (&value, &index) in x.iter().zip(indices.iter()) {
            let inside = usize::try_from(index).ok().filter(|&i| i < total);
            let mut rest = inside.ok_or_else(|| format!("index {index} lies outside of the {total} elements"))?;
            // The same place in the output's shape.
            let (mut at, mut step) = (0, 1);
            for (&from, &to) in pooled.iter().zip(&shape).rev() {
                at += rest % from * step;
                rest /= from;
                step *= to;
            }
            out[at] = value;
        }
        T::tensor(dtype, shape, out)
    })
    .into()])
}
