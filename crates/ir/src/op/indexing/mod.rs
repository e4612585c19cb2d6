//! Ops that pick elements by index, write them by index, or find indices.
//!
//! Negative indices count from the end; an index out of range is an error.

mod gradient;
mod kernels;
mod rules;

use super::movement::free_in;
use super::space::{Access, IterSpace};
use super::{Ctx, Datum, Engine, EvalCtx, Fact, Op, OpDef, Port, Work, content, opt};
use crate::{AttrKind, Dim};
use kernels as k;

const fn entry(
    op: Op,
    doc: &'static str,
    inputs: &'static [Port],
    infer: fn(&Ctx<'_>) -> Result<Vec<Fact>, String>,
    eval: fn(&EvalCtx<'_>) -> Result<Vec<Datum>, String>,
) -> OpDef {
    OpDef { inputs, engine: Engine::Movement, infer, eval, ..OpDef::new(op, doc) }
}

/// One comparison for each element of the first input.
fn scan(ctx: &Ctx<'_>) -> Work {
    Work::vector(ctx.input_elements(0), Dim::Known(0))
}
/// One operation for each update, where updates are combined with what is there.
fn combined(ctx: &Ctx<'_>) -> Work {
    match ctx.attrs().str_or("reduction", "none") {
        "none" => Work::NONE,
        _ => Work::vector(ctx.input_elements(2), Dim::Known(0)),
    }
}
/// A comparison of each element with what is kept so far, and a heap of k behind it.
fn selection(ctx: &Ctx<'_>) -> Work {
    let k = content::of(ctx, 1).and_then(|c| c.first()?.known()).unwrap_or(1).max(1);
    let depth = i64::from(k.unsigned_abs().ilog2()) + 1;
    Work::vector(ctx.input_elements(0) * Dim::Known(depth), Dim::Known(0))
}
/// Comparisons of sorting n elements: n log n, the logarithm where n is known.
fn sorting(ctx: &Ctx<'_>) -> Work {
    let n = ctx.input_elements(0);
    let depth = n.known().map_or(1, |n| i64::from(n.max(2).unsigned_abs().ilog2()) + 1);
    Work::vector(n * Dim::Known(depth), Dim::Known(0))
}

fn gather_space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let (data, indices) = (ctx.rank(0)?, ctx.rank(1)?);
    let axis = rules::axis_of(ctx, 0, data).ok()?;
    let mut space = IterSpace::over_output(&ctx.output_shape(0)?);
    let from = |d: usize| match d {
        _ if d < axis => Access::along(d),
        _ if d == axis => Access::Whole,
        _ => Access::along(d - 1 + indices),
    };
    space.inputs = vec![(0..data).map(from).collect(), (axis..axis + indices).map(Access::along).collect()];
    Some(space)
}
fn gather_elements_space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let rank = ctx.rank(0)?;
    let axis = rules::axis_of(ctx, 0, rank).ok()?;
    let mut space = IterSpace::over_output(&ctx.output_shape(0)?);
    let all: Vec<Access> = (0..rank).map(Access::along).collect();
    let mut data = all.clone();
    data[axis] = Access::Whole;
    space.inputs = vec![data, all];
    Some(space)
}
fn gather_nd_space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let batch = rules::batch_dims(ctx.attrs()).ok()?;
    let n = rules::tuples(ctx, batch).ok()??;
    let (data, indices) = (ctx.rank(0)?, ctx.rank(1)?);
    let mut space = IterSpace::over_output(&ctx.output_shape(0)?);
    let from = |d: usize| match d {
        _ if d < batch => Access::along(d),
        _ if d < batch + n => Access::Whole,
        _ => Access::along(d - batch - n + indices - 1),
    };
    let tuple = |d: usize| if d + 1 < indices { Access::along(d) } else { Access::Whole };
    space.inputs = vec![(0..data).map(from).collect(), (0..indices).map(tuple).collect()];
    Some(space)
}
fn scatter_elements_space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let (data, indices) = (ctx.shape(0)?, ctx.shape(1)?);
    let axis = rules::axis_of(ctx, 0, data.len()).ok()?;
    free_in(ctx, true, |d| (d != axis && data[d] == indices[d]).then_some(d))
}
fn scatter_nd_space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let n = rules::tuples(ctx, 0).ok()??;
    let tuples = ctx.rank(1)? - 1;
    let mut space = free_in(ctx, false, |d| (d >= n).then_some(d))?;
    for d in n..ctx.rank(0)? {
        space.inputs[2][tuples + d - n] = Access::along(d);
    }
    Some(space)
}
fn one_hot_space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let rank = ctx.rank(0)?;
    let axis = rules::axis_of(ctx, -1, rank + 1).ok()?;
    free_in(ctx, false, |d| (d != axis).then(|| d - usize::from(d > axis)))
}
fn top_k_space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let axis = rules::axis_of(ctx, -1, ctx.rank(0)?).ok()?;
    free_in(ctx, false, |d| (d != axis).then_some(d))
}
fn tensor_scatter_space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let axis = rules::axis_of(ctx, -2, ctx.rank(0)?).ok()?;
    let mut space = free_in(ctx, true, |d| (d != axis).then_some(d))?;
    if ctx.has(2) {
        space.inputs[2] = vec![Access::along(0)];
    }
    Some(space)
}
fn compress_space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    ctx.attrs().int("axis")?;
    let axis = rules::axis_of(ctx, 0, ctx.rank(0)?).ok()?;
    free_in(ctx, false, |d| (d != axis).then_some(d))
}

const REDUCTION: super::AttrDef = opt(
    "reduction",
    AttrKind::Str,
    "What an update does to the element there: none, add, mul, max, min; none.",
);

/// The entries.
pub const TABLE: &[OpDef] = &[
    OpDef {
        attrs: &[opt("axis", AttrKind::Int, "The dimension that indices select from; 0.")],
        space: gather_space,
        ..entry(
            Op::Gather,
            "Slices along an axis at given indices; the indices' dimensions take the axis' place.",
            &[Port::One("data"), Port::One("indices")],
            rules::gather,
            k::gather,
        )
    }.gradient(gradient::gather),
    OpDef {
        attrs: &[opt("axis", AttrKind::Int, "The dimension in which elements are picked; 0.")],
        space: gather_elements_space,
        ..entry(
            Op::GatherElements,
            "Elements at the place of each index, but for one dimension, in which the index says the place.",
            &[Port::One("data"), Port::One("indices")],
            rules::gather_elements,
            k::gather_elements,
        )
    }.gradient(gradient::gather_elements),
    OpDef {
        attrs: &[opt("batch_dims", AttrKind::Int, "Leading dimensions that data and indices share; 0.")],
        space: gather_nd_space,
        ..entry(
            Op::GatherND,
            "Slices at index tuples, which lie along the last dimension of the indices.",
            &[Port::One("data"), Port::One("indices")],
            rules::gather_nd,
            k::gather_nd,
        )
    }.gradient(gradient::gather_nd),
    OpDef {
        attrs: &[
            opt("axis", AttrKind::Int, "The dimension in which the index says the place; 0."),
            REDUCTION,
        ],
        work: combined,
        space: scatter_elements_space,
        ..entry(
            Op::ScatterElements,
            "The data with updates written where the indices say in one dimension, and in place in the others.",
            &[Port::One("data"), Port::One("indices"), Port::One("updates")],
            rules::scatter_elements,
            k::scatter_elements,
        )
    }.gradient(gradient::scatter_elements),
    OpDef {
        attrs: &[REDUCTION],
        work: combined,
        space: scatter_nd_space,
        ..entry(
            Op::ScatterND,
            "The data with slices written at index tuples, which lie along the last dimension of the indices.",
            &[Port::One("data"), Port::One("indices"), Port::One("updates")],
            rules::scatter_nd,
            k::scatter_nd,
        )
    }.gradient(gradient::scatter_nd),
    OpDef {
        attrs: &[opt("axis", AttrKind::Int, "Where the new dimension stands; -1.")],
        space: one_hot_space,
        ..entry(
            Op::OneHot,
            "The on value at each index along a new dimension, the off value elsewhere.",
            &[Port::One("indices"), Port::One("depth"), Port::One("values")],
            rules::one_hot,
            k::one_hot,
        )
    }.gradient(gradient::one_hot),
    OpDef {
        engine: Engine::Vector,
        work: scan,
        ..entry(
            Op::NonZero,
            "Indices of elements that are not zero, one column for each in row-major order.",
            &[Port::One("input")],
            rules::non_zero,
            k::non_zero,
        )
    }.flat(),
    OpDef {
        outputs: &[Port::One("values"), Port::One("indices")],
        attrs: &[
            opt("axis", AttrKind::Int, "The dimension along which elements compete; -1."),
            opt("largest", AttrKind::Int, "The largest are wanted, not the smallest; 1."),
            opt("sorted", AttrKind::Int, "They come in order; they do in any case; 1."),
        ],
        engine: Engine::Vector,
        work: selection,
        space: top_k_space,
        ..entry(
            Op::TopK,
            "The k largest or smallest elements along an axis and their indices; among equals the lower index first.",
            &[Port::One("input"), Port::One("k")],
            rules::top_k,
            k::top_k,
        )
    }.gradient(gradient::top_k),
    OpDef {
        outputs: &[
            Port::One("values"),
            Port::Optional("indices"),
            Port::Optional("inverse_indices"),
            Port::Optional("counts"),
        ],
        attrs: &[
            opt("axis", AttrKind::Int, "Slices along it are compared; elements of the flat tensor without."),
            opt("sorted", AttrKind::Int, "In ascending order, else in order of first occurrence; 1."),
        ],
        engine: Engine::Vector,
        work: sorting,
        ..entry(
            Op::Unique,
            "Each distinct element or slice once, with its first index, the number of each input in it, and how often.",
            &[Port::One("input")],
            rules::unique,
            k::unique,
        )
    },
    OpDef {
        attrs: &[opt(
            "axis",
            AttrKind::Int,
            "Slices along it are picked; elements of the flat tensor without.",
        )],
        space: compress_space,
        ..entry(
            Op::Compress,
            "Slices or elements for which the condition is true.",
            &[Port::One("input"), Port::One("condition")],
            rules::compress,
            k::compress,
        )
    },
    OpDef {
        attrs: &[opt(
            "center_point_box",
            AttrKind::Int,
            "Boxes are x, y, width, height, not two corners y, x; 0.",
        )],
        engine: Engine::Vector,
        work: sorting,
        ..entry(
            Op::NonMaxSuppression,
            "The best boxes of each class that do not overlap a better one too much, as batch, class and box index.",
            &[
                Port::One("boxes"),
                Port::One("scores"),
                Port::Optional("max_output_boxes_per_class"),
                Port::Optional("iou_threshold"),
                Port::Optional("score_threshold"),
            ],
            rules::non_max_suppression,
            k::non_max_suppression,
        )
    }.flat(),
    OpDef {
        attrs: &[
            opt("axis", AttrKind::Int, "The sequence dimension; -2."),
            opt("mode", AttrKind::Str, "linear, or circular to wrap around at the end; linear."),
        ],
        space: tensor_scatter_space,
        ..entry(
            Op::TensorScatter,
            "A cache with updates written along its sequence, from an index given for each sample on.",
            &[Port::One("past_cache"), Port::One("update"), Port::Optional("write_indices")],
            rules::tensor_scatter,
            k::tensor_scatter,
        )
    }.gradient(gradient::tensor_scatter),
    gradient::GATHER_GRAD,
];
