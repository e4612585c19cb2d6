//! Ops that combine elements along dimensions: sums, extremes, running sums, softmax.

mod gradient;
mod kernels;
mod rules;

use super::movement::free_in;
use super::space::{Access, Axis, AxisKind, Combine, IterSpace};
use super::{AttrDef, Class, Ctx, Datum, EvalCtx, Fact, Op, OpDef, Port, Work, content, opt, space};
use crate::{AttrKind, Attrs, Dim};
use kernels as k;

type Infer = fn(&Ctx<'_>) -> Result<Vec<Fact>, String>;
type Count = fn(&Ctx<'_>) -> Work;
type Cut = fn(&Ctx<'_>) -> Option<IterSpace>;
type Eval = fn(&EvalCtx<'_>) -> Result<Vec<Datum>, String>;

const REDUCE_ATTRS: &[AttrDef] = &[
    opt("keepdims", AttrKind::Int, "Reduced dimensions stay with extent 1; 1."),
    opt("noop_with_empty_axes", AttrKind::Int, "No axes mean that none is reduced, instead of all; 0."),
];
const fn reduce(
    op: Op,
    doc: &'static str,
    class: Class,
    infer: Infer,
    work: Count,
    space: Cut,
    eval: Eval,
) -> OpDef {
    OpDef {
        inputs: &[Port::One("data"), Port::Optional("axes")],
        outputs: &[Port::One("reduced")],
        attrs: REDUCE_ATTRS,
        class,
        infer,
        work,
        space,
        eval,
        ..OpDef::new(op, doc)
    }
}

/// So many simple and special operations for each input element, and so many special ones for each output element.
fn each<const VECTOR: i64, const SPECIAL: i64, const LAST: i64>(ctx: &Ctx<'_>) -> Work {
    let n = ctx.input_elements(0);
    let last = ctx.output_elements(0) * Dim::Known(LAST);
    Work::vector(n.clone() * Dim::Known(VECTOR), n * Dim::Known(SPECIAL) + last)
}

/// Parallel over kept dimensions; reduced ones can be cut too where parts combine.
fn reduce_space(ctx: &Ctx<'_>, combine: Option<Combine>) -> Option<IterSpace> {
    let reduced = rules::known_axes(ctx).ok()??;
    let shape = ctx.shape(0)?;
    let keep = rules::keeps_dims(ctx.attrs());
    let mut space = IterSpace {
        axes: Vec::new(),
        inputs: vec![vec![Access::Whole; shape.len()]],
        outputs: vec![Vec::new()],
        part_attrs: Attrs::new(),
        padding: 0.0,
    };
    for d in (0..shape.len()).filter(|d| !reduced[*d]) {
        space.inputs[0][d] = Access::along(space.axes.len());
        space.axes.push(Axis { name: "kept", extent: shape[d].clone(), kind: AxisKind::Parallel });
    }
    let mut kept = 0..space.axes.len();
    for gone in &reduced {
        match (gone, keep) {
            (false, _) => space.outputs[0].extend(kept.next().map(Access::along)),
            (true, true) => space.outputs[0].push(Access::Whole),
            (true, false) => {}
        }
    }
    if let Some(combine) = combine {
        for d in (0..shape.len()).filter(|d| reduced[*d]) {
            space.inputs[0][d] = Access::along(space.axes.len());
            let kind = AxisKind::Reduce(combine);
            space.axes.push(Axis { name: "reduced", extent: shape[d].clone(), kind });
        }
    }
    for i in 1..ctx.input_count() {
        space.inputs.push(ctx.rank(i).map_or(Vec::new(), |rank| vec![Access::Whole; rank]));
    }
    Some(space)
}
fn arg_space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let axis = rules::axis_of(ctx.attrs(), 0, ctx.rank(0)?).ok()?;
    let keep = rules::keeps_dims(ctx.attrs());
    free_in(ctx, false, |d| match (keep, d < axis) {
        (true, _) => (d != axis).then_some(d),
        (false, true) => Some(d),
        (false, false) => Some(d + 1),
    })
}
fn scan_space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let axis = content::of(ctx, 1)?.first()?.known()?;
    let axis = rules::scan_axis(axis, ctx.rank(0)?).ok()?;
    space::free_except(ctx, |d| d == axis)
}
fn lane_space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let axis = rules::axis_of(ctx.attrs(), -1, ctx.rank(0)?).ok()?;
    space::free_except(ctx, |d| d == axis)
}

const ARG_ATTRS: &[AttrDef] = &[
    opt("axis", AttrKind::Int, "The dimension that is searched; 0."),
    opt("keepdims", AttrKind::Int, "It stays with extent 1; 1."),
    opt("select_last_index", AttrKind::Int, "The last among equals, not the first; 0."),
];
const fn arg(op: Op, doc: &'static str, eval: Eval) -> OpDef {
    OpDef {
        attrs: ARG_ATTRS,
        infer: rules::arg,
        work: each::<1, 0, 0>,
        space: arg_space,
        eval,
        ..OpDef::new(op, doc)
    }
}
const SCAN_ATTRS: &[AttrDef] = &[
    opt("exclusive", AttrKind::Int, "An element is not part of its own result; 0."),
    opt("reverse", AttrKind::Int, "From the end to the start; 0."),
];
const fn scan(op: Op, doc: &'static str, eval: Eval) -> OpDef {
    OpDef {
        inputs: &[Port::One("input"), Port::One("axis")],
        attrs: SCAN_ATTRS,
        class: Class::Rounding,
        infer: rules::scan,
        work: each::<1, 0, 0>,
        space: scan_space,
        eval,
        ..OpDef::new(op, doc)
    }
}
const LANE_ATTRS: &[AttrDef] = &[opt("axis", AttrKind::Int, "The dimension along which it works; -1.")];
const fn lanes(op: Op, doc: &'static str, class: Class, work: Count, eval: Eval) -> OpDef {
    OpDef {
        attrs: LANE_ATTRS,
        class,
        infer: rules::lanes,
        work,
        space: lane_space,
        eval,
        ..OpDef::new(op, doc)
    }
}

/// The entries.
pub const TABLE: &[OpDef] = &[
    reduce(
        Op::ReduceSum,
        "Sum over dimensions.",
        Class::Rounding,
        |ctx| rules::reduce(ctx, false, Some(|a, b| a.clone() + b.clone())),
        each::<1, 0, 0>,
        |ctx| reduce_space(ctx, Some(Combine::Sum)),
        k::sum,
    )
    .gradient(gradient::sum),
    reduce(
        Op::ReduceMean,
        "Mean over dimensions.",
        Class::Rounding,
        |ctx| rules::reduce(ctx, false, None),
        each::<1, 0, 1>,
        |ctx| reduce_space(ctx, None),
        |ctx| k::floats(ctx, 0.0, |a, v| a + v, |a, n| a / n),
    )
    .gradient(gradient::mean),
    reduce(
        Op::ReduceMax,
        "Largest element over dimensions; the least number there is where there are no elements.",
        Class::Exact,
        |ctx| rules::reduce(ctx, true, Some(Dim::larger)),
        each::<1, 0, 0>,
        |ctx| reduce_space(ctx, Some(Combine::Max)),
        k::max,
    )
    .gradient(gradient::extreme),
    reduce(
        Op::ReduceMin,
        "Smallest element over dimensions; the greatest number there is where there are no elements.",
        Class::Exact,
        |ctx| rules::reduce(ctx, true, Some(Dim::smaller)),
        each::<1, 0, 0>,
        |ctx| reduce_space(ctx, Some(Combine::Min)),
        k::min,
    )
    .gradient(gradient::extreme),
    reduce(
        Op::ReduceProd,
        "Product over dimensions.",
        Class::Rounding,
        |ctx| rules::reduce(ctx, false, Some(|a, b| a.clone() * b.clone())),
        each::<1, 0, 0>,
        |ctx| reduce_space(ctx, None),
        k::product,
    )
    .gradient(gradient::product),
    reduce(
        Op::ReduceL1,
        "Sum of magnitudes over dimensions.",
        Class::Rounding,
        |ctx| rules::reduce(ctx, false, None),
        each::<2, 0, 0>,
        |ctx| reduce_space(ctx, Some(Combine::Sum)),
        k::l1,
    )
    .gradient(gradient::l1),
    reduce(
        Op::ReduceL2,
        "Root of the sum of squares over dimensions.",
        Class::Rounding,
        |ctx| rules::reduce(ctx, false, None),
        each::<2, 0, 1>,
        |ctx| reduce_space(ctx, None),
        |ctx| k::floats(ctx, 0.0, |a, v| a + v * v, |a, _| a.sqrt()),
    )
    .gradient(gradient::l2),
    reduce(
        Op::ReduceLogSum,
        "Logarithm of the sum over dimensions.",
        Class::Rounding,
        |ctx| rules::reduce(ctx, false, None),
        each::<1, 0, 1>,
        |ctx| reduce_space(ctx, None),
        |ctx| k::floats(ctx, 0.0, |a, v| a + v, |a, _| a.ln()),
    )
    .gradient(gradient::log_sum),
    reduce(
        Op::ReduceLogSumExp,
        "Logarithm of the sum of exponentials over dimensions.",
        Class::Rounding,
        |ctx| rules::reduce(ctx, false, None),
        each::<3, 1, 1>,
        |ctx| reduce_space(ctx, None),
        k::log_sum_exp,
    )
    .gradient(gradient::log_sum_exp),
    reduce(
        Op::ReduceSumSquare,
        "Sum of squares over dimensions.",
        Class::Rounding,
        |ctx| rules::reduce(ctx, false, None),
        each::<2, 0, 0>,
        |ctx| reduce_space(ctx, Some(Combine::Sum)),
        k::sum_square,
    )
    .gradient(gradient::sum_square),
    arg(Op::ArgMax, "Index of the largest element along an axis.", |ctx| k::arg(ctx, true)).flat(),
    arg(Op::ArgMin, "Index of the smallest element along an axis.", |ctx| k::arg(ctx, false)).flat(),
    scan(Op::CumSum, "Running sum along an axis.", k::cumulative_sum).gradient(gradient::cumulative_sum),
    scan(Op::CumProd, "Running product along an axis.", k::cumulative_product)
        .gradient(gradient::cumulative_product),
    lanes(
        Op::Softmax,
        "exp(x) over the sum of it along an axis.",
        Class::Rounding,
        each::<4, 1, 0>,
        k::softmax,
    )
    .gradient(gradient::softmax),
    lanes(Op::LogSoftmax, "Logarithm of the softmax.", Class::Rounding, each::<4, 1, 0>, k::log_softmax)
        .gradient(gradient::log_softmax),
    lanes(
        Op::Hardmax,
        "1 at the first largest element along an axis, 0 elsewhere.",
        Class::Exact,
        each::<2, 0, 0>,
        k::hardmax,
    )
    .flat(),
    gradient::SOFTMAX_GRAD,
];
