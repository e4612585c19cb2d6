//! `RotaryEmbedding`: pairs of elements turned by angles that follow from the position.

use super::super::elements::{Float, by_float, integers};
use super::super::space::parallel;
use super::super::{
    Access, Class, Ctx, Datum, EvalCtx, Fact, Gradient, IterSpace, Op, OpDef, Port, Work, context, opt, rules,
};
use super::{HEAD_SIZE, Heads, Layout, count};
use crate::gradient::Backward;
use crate::{AttrKind, Attrs, Dim};
use orrery_numerics::DType;

pub(super) const ROTARY_EMBEDDING: OpDef = OpDef {
    inputs: &[Port::One("X"), Port::One("cos_cache"), Port::One("sin_cache"), Port::Optional("position_ids")],
    outputs: &[Port::One("Y")],
    attrs: &[
        HEAD_SIZE,
        opt(
            "interleaved",
            AttrKind::Int,
            "1: neighbours make a pair; 0: one of each half of the rotated elements.",
        ),
        opt("num_heads", AttrKind::Int, "Number of heads, for an input of three dimensions."),
        opt("rotary_embedding_dim", AttrKind::Int, "How many elements of a head are turned; 0: all."),
    ],
    class: Class::Rounding,
    infer,
    work,
    space,
    eval,
    gradient: Gradient::Rule(gradient),
    ..OpDef::new(
        Op::RotaryEmbedding,
        "Turns pairs of elements of each head by the angle whose cosine and sine stand at its position in the caches.",
    )
};

fn heads(ctx: &Ctx<'_>) -> Result<Option<Heads>, String> {
    let attrs = ctx.attrs();
    let size = count(attrs, "head_size")?;
    let heads = if size.is_some() { None } else { count(attrs, "num_heads")? };
    let four = ctx.rank(0) == Some(4);
    Heads::new(ctx, 0, if four { None } else { heads.as_ref() }, size.as_ref())
}

/// Number of elements of a head that are turned.
fn turned(attrs: &Attrs, size: &Dim) -> Result<Dim, String> {
    let turned = count(attrs, "rotary_embedding_dim")?.unwrap_or_else(|| size.clone());
    if let (Some(turned), Some(size)) = (turned.known(), size.known())
        && (turned % 2 != 0 || turned > size)
    {
        return Err(format!("{turned} elements of a head of {size} cannot be turned in pairs"));
    }
    Ok(turned)
}

fn infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let dtype = rules::float(ctx, 0)?;
    rules::of_type(ctx, [1, 2], dtype)?;
    rules::of_type(ctx, [3], DType::I64)?;
    let cache = rules::ranked(ctx, 1, if ctx.has(3) { 2 } else { 3 })?;
    if let Some(cache) = &cache {
        rules::has_shape(ctx, 2, cache)?;
    }
    if let Some(heads) = heads(ctx)? {
        let half = turned(ctx.attrs(), &heads.size)?.floor_div(&Dim::Known(2));
        let positions = [heads.batch.clone(), heads.length.clone()];
        if ctx.has(3) {
            rules::has_shape(ctx, 3, &positions)?;
            if let Some(cache) = &cache {
                rules::equal(&cache[1], &half, || {
                    "the caches' last extent and half of the turned elements".into()
                })?;
            }
        } else {
            let [batch, length] = positions;
            rules::has_shape(ctx, 1, &[batch, length, half])?;
        }
    }
    context::same_as_first(ctx)
}

/// Two products and a sum for each turned element.
fn work(ctx: &Ctx<'_>) -> Work {
    let Ok(Some(heads)) = heads(ctx) else { return Work::NONE };
    let Ok(turned) = turned(ctx.attrs(), &heads.size) else { return Work::NONE };
    Work::vector(heads.batch * heads.heads * heads.length * turned * Dim::Known(3), Dim::Known(0))
}

fn space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let heads = heads(ctx).ok()??;
    let four = ctx.rank(0)? == 4;
    let mut part_attrs = Attrs::new();
    let image = if four {
        vec![Access::along(0), Access::along(1), Access::along(2), Access::Whole]
    } else {
        part_attrs.set("head_size", heads.size.known()?);
        vec![Access::along(0), Access::along(2), Access::Along { axis: 1, scale: heads.size.clone() }]
    };
    let positions = vec![Access::along(0), Access::along(2)];
    let cache =
        if ctx.has(3) { vec![Access::Whole; 2] } else { [positions.clone(), vec![Access::Whole]].concat() };
    let mut inputs = vec![image.clone(), cache.clone(), cache];
    if ctx.input_count() > 3 {
        inputs.push(if ctx.has(3) { positions } else { Vec::new() });
    }
    Some(IterSpace {
        axes: vec![
            parallel("batch", heads.batch),
            parallel("head", heads.heads),
            parallel("position", heads.length),
        ],
        inputs,
        outputs: vec![image],
        part_attrs,
        padding: 0.0,
    })
}

fn eval(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let attrs = ctx.attrs();
    let rank = shape.len();
    let (batch, heads, length, size) = match shape[..] {
        [batch, heads, length, size] => (batch, heads, length, size),
        [batch, length, hidden] => {
            let known = |name| attrs.int(name).filter(|&n| n > 0).map(|n| n as usize);
            let heads =
                known("head_size").map_or_else(|| known("num_heads").unwrap_or(1), |size| hidden / size);
            (batch, heads, length, hidden / heads.max(1))
        }
        _ => return Err("the input must have three or four dimensions".into()),
    };
    let turned = turned(attrs, &Dim::from(size))?.extent().unwrap_or(size);
    let half = turned / 2;
    let layout = Layout::new(rank, heads, length, size);
    let interleaved = attrs.flag("interleaved");
    let positions = ctx.optional(3)?.map(integers).transpose()?;
    let rows = ctx.tensor(1)?.shape()[0];
    Ok(vec![by_float!(dtype, T => {
        let (x, cos, sin) = (T::read(ctx.tensor(0)?)?, T::read(ctx.tensor(1)?)?, T::read(ctx.tensor(2)?)?);
        let mut out = x.to_vec();
        for b in 0..batch {
            for p in 0..length {
                let row = match &positions {
                    None => b * length + p,
                    Some(positions) => {
                        let position = positions[b * length + p];
                        usize::try_from(position).ok().filter(|&r| r < rows).ok_or_else(|| {
                            format!("position {position} lies outside of the caches' {rows} rows")
                        })?
                    }
                };
                for h in 0..heads {
                    let at = layout.at(b, h, p);
                    for i in 0..half {
                        let (first, second) =
                            if interleaved { (at + 2 * i, at + 2 * i + 1) } else { (at + i, at + half + i) };
                        let (c, s) = (cos[row * half + i], sin[row * half + i]);
                        out[first] = c * x[first] - s * x[second];
                        out[second] = s * x[first] + c * x[second];
                    }
                }
            }
        }
        T::tensor(dtype, shape, out)
    })
    .into()])
}

/// Turned back: by the same angles, the sine negated. The caches are taken as fixed.
fn gradient(b: &mut Backward<'_>) -> orrery_base::Result<()> {
    let (cos, sin, dy) = (b.x(1)?, b.x(2)?, b.dy0()?);
    if b.wants(1) || b.wants(2) {
        return Err(b.fails("there is no gradient rule for the cosines and sines".into()));
    }
    let sin = b.unary(Op::Neg, sin)?;
    let (positions, attrs) = (b.given(3), b.attrs().clone());
    let dx = b.ops(Op::RotaryEmbedding, &[Some(dy), Some(cos), Some(sin), positions], attrs, 1)?[0];
    b.give(0, dx);
    Ok(())
}
