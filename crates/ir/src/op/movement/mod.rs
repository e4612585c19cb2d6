//! Ops that move elements or make them from shapes.
//!
//! They compute nothing: their cost is the bytes they touch. Tensor attributes of ONNX are inputs here: the value of
//! ConstantOfShape is its second one.

mod gradient;
mod kernels;
mod rules;

use super::space::{Access, Axis, AxisKind, IterSpace};
use super::{Ctx, Engine, Op, OpDef, Port, content, opt, req};
use crate::{AttrKind, Dim};
use kernels as k;

const fn moving(
    op: Op,
    doc: &'static str,
    infer: fn(&Ctx<'_>) -> Result<Vec<super::Fact>, String>,
    eval: fn(&super::EvalCtx<'_>) -> Result<Vec<super::Datum>, String>,
) -> OpDef {
    OpDef { engine: Engine::Movement, infer, eval, ..OpDef::new(op, doc) }
}
const fn view(
    op: Op,
    doc: &'static str,
    infer: fn(&Ctx<'_>) -> Result<Vec<super::Fact>, String>,
    eval: fn(&super::EvalCtx<'_>) -> Result<Vec<super::Datum>, String>,
) -> OpDef {
    OpDef { engine: Engine::View, ..moving(op, doc, infer, eval) }
}

/// Cuts along the output dimensions that `free` lets be cut, which are dimensions of the first input of the number it
/// gives; all other inputs and outputs of the same rank as the first are cut alike where `alike` is set.
pub(super) fn free_in(
    ctx: &Ctx<'_>,
    alike: bool,
    free: impl Fn(usize) -> Option<usize>,
) -> Option<IterSpace> {
    let out = ctx.output_shape(0)?;
    let mut space = IterSpace::over_output(&out);
    let mut input = vec![Access::Whole; ctx.rank(0)?];
    for d in 0..out.len() {
        match free(d) {
            Some(from) => input[from] = Access::along(d),
            None => {
                space.axes[d] = Axis { name: "whole", extent: Dim::Known(1), kind: AxisKind::Parallel };
                space.outputs[0][d] = Access::Whole;
            }
        }
    }
    for i in 0..ctx.input_count() {
        space.inputs.push(match ctx.rank(i) {
            _ if i == 0 || alike => input.clone(),
            Some(rank) => vec![Access::Whole; rank],
            None if ctx.has(i) => return None,
            None => Vec::new(),
        });
    }
    for _ in 1..ctx.output_count() {
        space.outputs.push(space.outputs[0].clone());
    }
    Some(space)
}
fn axis(ctx: &Ctx<'_>, default: i64) -> Option<usize> {
    super::context::normalize_axis(ctx.attrs().int_or("axis", default), ctx.rank(0)?).ok()
}
fn slice_space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let shape = ctx.shape(0)?;
    let cuts = rules::cuts(ctx, &shape).ok()??;
    // A dimension taken from its start to its end, and given an end at or past it, is not really cut.
    let kept = |d: usize| {
        cuts.iter()
            .filter(|cut| cut.axis == d)
            .all(|cut| cut.step == 1 && cut.first == Some(0) && cut.extent.as_ref() == Some(&shape[d]))
    };
    free_in(ctx, false, |d| kept(d).then_some(d))
}
fn depth_to_space_space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let (block, shape) = rules::blocks(ctx).ok()?;
    let shape = shape?;
    let mut space = free_in(ctx, false, |d| (d == 0).then_some(0))?;
    for d in [2, 3] {
        space.axes[d] = Axis { name: "block", extent: shape[d].clone(), kind: AxisKind::Parallel };
        space.inputs[0][d] = Access::along(d);
        space.outputs[0][d] = Access::Along { axis: d, scale: Dim::Known(block) };
    }
    Some(space)
}
fn space_to_depth_space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let (block, _) = rules::blocks(ctx).ok()?;
    let mut space = free_in(ctx, false, |d| (d != 1).then_some(d))?;
    for d in [2, 3] {
        space.inputs[0][d] = Access::Along { axis: d, scale: Dim::Known(block) };
    }
    Some(space)
}

/// The entries.
pub const TABLE: &[OpDef] = &[
    OpDef {
        attrs: &[
            opt("start", AttrKind::Int, "First dimension, negative from the end; 0."),
            opt("end", AttrKind::Int, "Dimension to stop before, negative from the end; the rank."),
        ],
        ..view(Op::Shape, "The extents of a tensor as i64.", rules::shape, k::shape)
    }.flat(),
    view(Op::Size, "The number of elements as an i64 scalar.", rules::size, k::size).flat(),
    OpDef {
        inputs: &[Port::One("data"), Port::One("shape")],
        attrs: &[opt("allowzero", AttrKind::Int, "An extent 0 means zero instead of a copy; 0.")],
        ..view(
            Op::Reshape,
            "The same elements in another shape; -1 stands for what is left, 0 for the extent at its place.",
            rules::reshape,
            k::reshape,
        )
    }.gradient(gradient::reshape),
    OpDef {
        attrs: &[opt(
            "axis",
            AttrKind::Int,
            "Dimensions before it become the first, the others the second; 1.",
        )],
        space: |ctx| {
            let at = rules::flatten_axis(ctx.attrs().int_or("axis", 1), ctx.rank(0)?).ok()?;
            free_in(ctx, false, |d| (d == 0 && at == 1).then_some(0))
        },
        ..view(Op::Flatten, "The same elements as a matrix.", rules::flatten, k::reshape)
    }.gradient(gradient::reshape),
    OpDef {
        inputs: &[Port::One("data"), Port::Optional("axes")],
        space: |ctx| {
            let rank = ctx.rank(0)?;
            // Without axes, a part of extent 1 would lose its dimension.
            let axes = rules::distinct_axes(&content::numbers(ctx, 1).ok()??, rank).ok()?;
            let kept: Vec<usize> = (0..rank).filter(|d| !axes.contains(d)).collect();
            free_in(ctx, false, |d| Some(kept[d]))
        },
        ..view(
            Op::Squeeze,
            "Takes out dimensions of extent 1: those given, or all.",
            rules::squeeze,
            k::reshape,
        )
    }.gradient(gradient::reshape),
    OpDef {
        inputs: &[Port::One("data"), Port::One("axes")],
        space: |ctx| {
            let rank = ctx.output_shape(0)?.len();
            let axes = rules::distinct_axes(&content::numbers(ctx, 1).ok()??, rank).ok()?;
            free_in(ctx, false, |d| {
                (!axes.contains(&d)).then(|| d - axes.iter().filter(|axis| **axis < d).count())
            })
        },
        ..view(Op::Unsqueeze, "Puts in dimensions of extent 1.", rules::unsqueeze, k::reshape)
    }.gradient(gradient::reshape),
    OpDef {
        attrs: &[opt("perm", AttrKind::Ints, "Which input dimension each output dimension is; reversed.")],
        space: |ctx| {
            let order = rules::order(ctx.attrs().ints("perm"), ctx.rank(0)?).ok()?;
            free_in(ctx, false, |d| Some(order[d]))
        },
        ..moving(Op::Transpose, "Changes the order of dimensions.", rules::transpose, k::permute)
    }.gradient(gradient::transpose),
    OpDef {
        inputs: &[Port::One("first"), Port::Variadic("more")],
        attrs: &[req("axis", AttrKind::Int, "The dimension along which inputs stand behind each other.")],
        space: |ctx| {
            let axis = axis(ctx, 0)?;
            free_in(ctx, true, |d| (d != axis).then_some(d))
        },
        ..moving(Op::Concat, "Puts tensors behind each other.", rules::concat, k::concat)
    }.gradient(gradient::concat),
    OpDef {
        inputs: &[Port::One("input"), Port::Optional("split")],
        outputs: &[Port::Variadic("outputs")],
        attrs: &[
            opt("axis", AttrKind::Int, "The dimension that is split; 0."),
            opt(
                "num_outputs",
                AttrKind::Int,
                "Number of equal parts, the last one smaller; the number of outputs.",
            ),
        ],
        space: |ctx| {
            let axis = axis(ctx, 0)?;
            free_in(ctx, false, |d| (d != axis).then_some(d))
        },
        ..moving(Op::Split, "Splits a tensor along a dimension.", rules::split, k::split)
    }.gradient(gradient::split),
    OpDef {
        inputs: &[
            Port::One("data"),
            Port::One("starts"),
            Port::One("ends"),
            Port::Optional("axes"),
            Port::Optional("steps"),
        ],
        space: slice_space,
        ..moving(
            Op::Slice,
            "Elements from start to before end in steps, in each of some dimensions; negative ones count from the end.",
            rules::slice,
            k::slice,
        )
    }.gradient(gradient::slice),
    OpDef {
        inputs: &[Port::One("input"), Port::One("shape")],
        space: |ctx| {
            // Where the given shape says 1, the input's own extent counts, whatever a part's is.
            let wanted = content::list(ctx, 1).ok()??;
            let (rank, out) = (ctx.rank(0)?, ctx.output_shape(0)?.len());
            let own = |d: usize| match (d + wanted.len()).checked_sub(out) {
                Some(at) => wanted[at].is(1),
                None => true,
            };
            free_in(ctx, false, |d| (d + rank).checked_sub(out).filter(|_| own(d)))
        },
        ..moving(
            Op::Expand,
            "Repeats a tensor to the shape that it and the given one broadcast to.",
            rules::expand,
            k::expand,
        )
    }.gradient(gradient::expand),
    OpDef {
        inputs: &[Port::One("input"), Port::One("repeats")],
        space: |ctx| {
            let repeats = content::numbers(ctx, 1).ok()??;
            free_in(ctx, false, |d| (repeats.get(d) == Some(&1)).then_some(d))
        },
        ..moving(
            Op::Tile,
            "Puts copies of a tensor behind each other in each dimension.",
            rules::tile,
            k::tile,
        )
    }.gradient(gradient::tile),
    OpDef {
        inputs: &[
            Port::One("data"),
            Port::One("pads"),
            Port::Optional("constant_value"),
            Port::Optional("axes"),
        ],
        attrs: &[opt("mode", AttrKind::Str, "constant, reflect, edge or wrap; constant.")],
        space: |ctx| {
            let pads = rules::paddings(ctx, ctx.rank(0)?).ok()??;
            free_in(ctx, false, |d| (pads[d].0.is(0) && pads[d].1.is(0)).then_some(d))
        },
        ..moving(
            Op::Pad,
            "Adds elements in front of and behind each dimension; negative numbers take some away.",
            rules::pad,
            k::pad,
        )
    }.gradient(gradient::pad),
    OpDef {
        attrs: &[
            req("blocksize", AttrKind::Int, "Edge of the squares that channels become."),
            opt(
                "mode",
                AttrKind::Str,
                "DCR: the block is the outer part of the channel, CRD: the inner; DCR.",
            ),
        ],
        space: depth_to_space_space,
        ..moving(
            Op::DepthToSpace,
            "Channels become squares of pixels.",
            rules::depth_to_space,
            k::depth_to_space,
        )
    }.gradient(gradient::depth_to_space),
    OpDef {
        attrs: &[req("blocksize", AttrKind::Int, "Edge of the squares that become channels.")],
        space: space_to_depth_space,
        ..moving(
            Op::SpaceToDepth,
            "Squares of pixels become channels.",
            rules::space_to_depth,
            k::space_to_depth,
        )
    }.gradient(gradient::space_to_depth),
    OpDef {
        inputs: &[Port::One("shape"), Port::Optional("value")],
        ..moving(
            Op::ConstantOfShape,
            "A tensor of the given shape with the value, a single element, everywhere; zero in f32 without one.",
            rules::constant_of_shape,
            k::constant_of_shape,
        )
    }.gradient(gradient::constant_of_shape),
    OpDef {
        inputs: &[Port::One("start"), Port::One("limit"), Port::One("delta")],
        ..moving(Op::Range, "Numbers from start to before limit in steps of delta.", rules::range, k::range)
    },
    OpDef {
        attrs: &[
            opt("dtype", AttrKind::DType, "Element type of the output; the input's."),
            opt("k", AttrKind::Int, "Diagonal, positive above the main one; 0."),
        ],
        ..moving(
            Op::EyeLike,
            "Ones on a diagonal and zeros elsewhere, in the shape of the input.",
            rules::eye_like,
            k::eye_like,
        )
    }.flat(),
    OpDef {
        inputs: &[Port::One("input"), Port::Optional("k")],
        attrs: &[opt("upper", AttrKind::Int, "Keeps the upper triangle, not the lower; 1.")],
        space: |ctx| {
            let rank = ctx.rank(0)?;
            free_in(ctx, false, |d| (d + 2 < rank).then_some(d))
        },
        ..moving(
            Op::Trilu,
            "Keeps the triangle of each matrix on one side of diagonal k and clears the rest.",
            rules::trilu,
            k::trilu,
        )
    }.gradient(gradient::itself),
    OpDef {
        inputs: &[Port::One("input"), Port::One("sequence_lens")],
        attrs: &[
            opt("time_axis", AttrKind::Int, "0 or 1; 0."),
            opt("batch_axis", AttrKind::Int, "The other of the two; 1."),
        ],
        space: |ctx| free_in(ctx, false, |d| (d > 1).then_some(d)),
        ..moving(
            Op::ReverseSequence,
            "Reverses the first elements in time of each member of a batch, as many as its length says.",
            rules::reverse_sequence,
            k::reverse_sequence,
        )
    }.gradient(gradient::itself),
    OpDef {
        inputs: &[Port::One("input"), Port::One("shape")],
        attrs: &[opt("axes", AttrKind::Ints, "The dimensions that the shape is of; all.")],
        ..moving(
            Op::CenterCropPad,
            "Crops or pads with zeros, evenly on both sides, to the given extents.",
            rules::center_crop_pad,
            k::center_crop_pad,
        )
    }.gradient(gradient::center_crop_pad),
];
