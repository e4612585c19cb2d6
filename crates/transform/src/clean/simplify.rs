//! What does nothing, or less than it seems.

use super::Pass;
use orrery_ir::{Attrs, Dim, NodeId, Op, Type, ValueId};
use orrery_numerics::{DType, Format, Tensor};

/// Rewrites a node that can be simpler. True where it is gone.
pub(super) fn simplify(pass: &mut Pass<'_>, id: NodeId) -> bool {
    let Some(output) = pass.rewriter.output(id, 0) else { return false };
    if let Some(source) = forwarded(pass, id, output) {
        return forward(pass, output, source);
    }
    let op = pass.rewriter.node(id).op;
    match op {
        Op::Transpose => compose_transposes(pass, id),
        Op::Reshape if !swap_by_reshapes(pass, id, output) => reshape_by_constant(pass, id, output),
        Op::Expand => expand_by_constant(pass, id, output),
        Op::MatMul => multiply_by_transpose(pass, id, output),
        _ => {}
    }
    false
}

/// Lets readers of `output` read `source`. An output of the graph stays the output of a node where `source` is none:
/// what is given to the user is made by the model.
fn forward(pass: &mut Pass<'_>, output: ValueId, source: ValueId) -> bool {
    if pass.rewriter.maker(source).is_none() && pass.rewriter.is_output(output) {
        return false;
    }
    pass.rewriter.replace(output, source);
    true
}

/// The value that a node's first output always equals, where there is one.
fn forwarded(pass: &Pass<'_>, id: NodeId, output: ValueId) -> Option<ValueId> {
    let node = pass.rewriter.node(id);
    let input = || pass.rewriter.input(id, 0);
    match node.op {
        Op::Identity => input(),
        Op::Dropout => {
            let training = pass.rewriter.input(id, 2);
            let off = training.is_none_or(|v| {
                pass.rewriter.tensor(v).is_some_and(|t| t.len() == 1 && t.bytes().first() == Some(&0))
            });
            (off && pass.rewriter.output(id, 1).is_none_or(|mask| pass.rewriter.uses(mask) == 0))
                .then(input)?
        }
        Op::Cast | Op::CastLike => uncast(pass, input()?, dtype(pass, output)?),
        Op::Reshape | Op::Flatten | Op::Squeeze | Op::Unsqueeze => {
            view_source(pass, output).and_then(|source| same_shape_above(pass, source, output))
        }
        Op::Expand => input().filter(|v| same_type(pass, *v, output)),
        Op::Slice => {
            let steps = pass.rewriter.input(id, 4);
            let forward = steps.is_none_or(|v| pass.ints(v).is_some_and(|s| s.iter().all(|&n| n == 1)));
            input().filter(|v| forward && same_type(pass, *v, output))
        }
        Op::Tile => {
            let once = pass.ints(pass.rewriter.input(id, 1)?)?.iter().all(|&n| n == 1);
            input().filter(|_| once)
        }
        Op::Pad => {
            let none = pass.ints(pass.rewriter.input(id, 1)?)?.iter().all(|&n| n == 0);
            input().filter(|_| none)
        }
        Op::Split => {
            let wanted = node.outputs.len();
            input().filter(|v| wanted == 1 && same_type(pass, *v, output))
        }
        Op::Concat | Op::Sum | Op::Mean if node.inputs.len() == 1 => input(),
        Op::Max | Op::Min => {
            if node.inputs.len() == 1 {
                return input();
            }
            let neutral = if node.op == Op::Max { f64::NEG_INFINITY } else { f64::INFINITY };
            beside_constant(pass, id, output, &[0, 1], neutral)
        }
        Op::Transpose => {
            let input = input()?;
            let (source, order) = transposed(pass, input, &permutation(pass, id)?);
            (0..order.len()).eq(order).then_some(source)
        }
        Op::Mul => beside_constant(pass, id, output, &[0, 1], 1.0),
        Op::Div => beside_constant(pass, id, output, &[1], 1.0),
        Op::Pow => beside_constant(pass, id, output, &[1], 1.0),
        Op::Sub => beside_constant(pass, id, output, &[1], 0.0),
        _ => None,
    }
}

fn dtype(pass: &Pass<'_>, value: ValueId) -> Option<DType> {
    pass.rewriter.ty(value).as_tensor().map(|t| t.dtype)
}

/// True where both types are known in full and equal.
fn same_type(pass: &Pass<'_>, a: ValueId, b: ValueId) -> bool {
    let known = |v| matches!(pass.rewriter.ty(v), Type::Tensor(t) if t.shape.is_some());
    known(a) && pass.rewriter.ty(a) == pass.rewriter.ty(b)
}

/// The earliest value that a cast to `wanted` gives back unchanged.
fn uncast(pass: &Pass<'_>, mut value: ValueId, wanted: DType) -> Option<ValueId> {
    let mut found = (dtype(pass, value)? == wanted).then_some(value);
    while let Some(maker) = pass.rewriter.maker(value).filter(|n| pass.rewriter.node(*n).op == Op::Cast) {
        let source = pass.rewriter.input(maker, 0)?;
        if !lossless(dtype(pass, source)?, dtype(pass, value)?) {
            break;
        }
        value = source;
        if dtype(pass, value)? == wanted {
            found = Some(value);
        }
    }
    found
}

/// True where every element of type `from` survives a cast to `to` and back.
fn lossless(from: DType, to: DType) -> bool {
    if let (Some(from), Some(to)) = (Format::of(from), Format::of(to)) {
        return to.contains(from);
    }
    let integer = |t: DType| t.is_int() || t == DType::Bool;
    let ((low, high), (lowest, highest)) = (from.int_range(), to.int_range());
    integer(from) && integer(to) && to != DType::Bool && lowest <= low && high <= highest
}

/// The earliest value of the same elements in the same order and shape as `output`, seen through reshapes.
fn same_shape_above(pass: &Pass<'_>, mut value: ValueId, output: ValueId) -> Option<ValueId> {
    let mut found = None;
    loop {
        if same_type(pass, value, output) {
            found = Some(value);
        }
        match view_source(pass, value) {
            Some(source) => value = source,
            None => return found,
        }
    }
}

/// What a value is a reshape of. A `Squeeze` that is not told its axes is one only where no extent is open: which extents
/// are one decides its rank.
fn view_source(pass: &Pass<'_>, value: ValueId) -> Option<ValueId> {
    let maker = pass.rewriter.maker(value)?;
    let source = pass.rewriter.input(maker, 0)?;
    match pass.rewriter.node(maker).op {
        Op::Reshape | Op::Flatten | Op::Unsqueeze => Some(source),
        Op::Squeeze => {
            let told = pass.rewriter.input(maker, 1).is_some();
            (told || pass.shape(source)?.iter().all(|d| d.known().is_some())).then_some(source)
        }
        _ => None,
    }
}

/// The other operand, where the one at a place of `places` is the number `neutral` and widens nothing.
fn beside_constant(
    pass: &Pass<'_>,
    id: NodeId,
    output: ValueId,
    places: &[usize],
    neutral: f64,
) -> Option<ValueId> {
    if pass.rewriter.node(id).inputs.len() != 2 {
        return None;
    }
    places.iter().find_map(|&place| {
        let (constant, other) = (pass.rewriter.input(id, place)?, pass.rewriter.input(id, 1 - place)?);
        let tensor = pass.rewriter.tensor(constant).filter(|t| t.len() == 1)?;
        (tensor.to_f64().ok()?[0] == neutral && same_type(pass, other, output)).then_some(other)
    })
}

/// The order of dimensions of a `Transpose`.
fn permutation(pass: &Pass<'_>, id: NodeId) -> Option<Vec<usize>> {
    match pass.rewriter.node(id).attrs.ints("perm") {
        Some(order) => order.iter().map(|&d| usize::try_from(d).ok()).collect(),
        None => Some((0..pass.shape(pass.rewriter.input(id, 0)?)?.len()).rev().collect()),
    }
}

/// The value above a chain of transpositions, and the one transposition that stands for all.
fn transposed(pass: &Pass<'_>, mut value: ValueId, order: &[usize]) -> (ValueId, Vec<usize>) {
    let mut order = order.to_vec();
    while let Some(maker) = pass.rewriter.maker(value).filter(|n| pass.rewriter.node(*n).op == Op::Transpose)
    {
        let (Some(source), Some(inner)) = (pass.rewriter.input(maker, 0), permutation(pass, maker)) else {
            break;
        };
        let Some(composed) = order.iter().map(|&d| inner.get(d).copied()).collect() else { break };
        (value, order) = (source, composed);
    }
    (value, order)
}

fn order_attrs(order: &[usize]) -> Attrs {
    Attrs::new().with("perm", order.iter().map(|&d| d as i64).collect::<Vec<_>>())
}

fn compose_transposes(pass: &mut Pass<'_>, id: NodeId) {
    let (Some(input), Some(order)) = (pass.rewriter.input(id, 0), permutation(pass, id)) else { return };
    let (source, order) = transposed(pass, input, &order);
    if source != input {
        pass.rewriter.change(id, Op::Transpose, vec![Some(source)], order_attrs(&order));
    }
}

/// Reshape to three dimensions, swap the last two, reshape back: one transposition of the last two dimensions.
fn swap_by_reshapes(pass: &mut Pass<'_>, id: NodeId, output: ValueId) -> bool {
    let Some(source) = swapped_by_reshapes(pass, id, output) else { return false };
    let rank = pass.shape(output).map_or(0, <[Dim]>::len);
    let mut order: Vec<usize> = (0..rank).collect();
    order.swap(rank - 2, rank - 1);
    pass.rewriter.change(id, Op::Transpose, vec![Some(source)], order_attrs(&order));
    compose_transposes(pass, id);
    true
}

fn swapped_by_reshapes(pass: &Pass<'_>, id: NodeId, output: ValueId) -> Option<ValueId> {
    let maker_of = |value, op| pass.rewriter.maker(value).filter(|n| pass.rewriter.node(*n).op == op);
    let transpose = maker_of(pass.rewriter.input(id, 0)?, Op::Transpose)?;
    if permutation(pass, transpose)? != [0, 2, 1] {
        return None;
    }
    let middle = pass.rewriter.input(transpose, 0)?;
    let source = pass.rewriter.input(maker_of(middle, Op::Reshape)?, 0)?;
    let (from, middle, to) = (pass.shape(source)?, pass.shape(middle)?, pass.shape(output)?);
    let ([lead @ .., rows, columns], [lead_after @ .., new_rows, new_columns]) = (from, to) else {
        return None;
    };
    let swaps = lead == lead_after && rows == new_columns && columns == new_rows;
    (swaps && middle[1..] == [rows.clone(), columns.clone()]).then_some(source)
}

/// Gives a `Reshape` a constant for the shape it computes, and the value above other reshapes for its input.
fn reshape_by_constant(pass: &mut Pass<'_>, id: NodeId, output: ValueId) {
    let (Some(input), Some(shape)) = (pass.rewriter.input(id, 0), pass.rewriter.input(id, 1)) else { return };
    let keeps_zeros = pass.rewriter.node(id).attrs.flag("allowzero");
    let mut source = input;
    while let Some(above) = view_source(pass, source) {
        source = above;
    }
    let constant = pass.rewriter.tensor(shape).is_some();
    let target = if source != input { target_by_type(pass, source, output) } else { None };
    let (source, target) = match target {
        Some(target) => (source, target),
        None if constant => return,
        None => {
            let Some(target) = target_by_content(pass, input, shape, keeps_zeros)
                .or_else(|| target_by_type(pass, input, output))
            else {
                return;
            };
            (input, target)
        }
    };
    let name = format!("{}.shape", pass.rewriter.value(output).name);
    let target = pass.rewriter.add_tensor(&name, Tensor::from_vec(vec![target.len()], target));
    pass.rewriter.change(id, Op::Reshape, vec![Some(source), Some(target)], Attrs::new());
}

/// The shape a graph computes, with 0 where it is the extent of the same input dimension.
fn target_by_content(pass: &Pass<'_>, input: ValueId, shape: ValueId, keeps_zeros: bool) -> Option<Vec<i64>> {
    let content = pass.fact(shape)?.content.as_ref()?;
    let from = pass.shape(input)?;
    content
        .iter()
        .enumerate()
        .map(|(d, extent)| match extent.known() {
            Some(0) if keeps_zeros => None,
            Some(n) => Some(n),
            None => (from.get(d) == Some(extent)).then_some(0),
        })
        .collect()
}

/// A target that gives `output`'s shape from `source`'s: numbers, 0 for an extent of the same dimension, and at most one
/// -1, beside which there are only numbers, so that it is defined for empty tensors too.
fn target_by_type(pass: &Pass<'_>, source: ValueId, output: ValueId) -> Option<Vec<i64>> {
    let (from, to) = (pass.shape(source)?, pass.shape(output)?);
    let mut target = Vec::with_capacity(to.len());
    let (mut open, mut copied) = (0, false);
    for (d, extent) in to.iter().enumerate() {
        target.push(match extent.known() {
            Some(0) => return None,
            Some(n) => n,
            None if from.get(d) == Some(extent) => {
                copied = true;
                0
            }
            None => {
                open += 1;
                -1
            }
        });
    }
    (open == 0 || (open == 1 && !copied)).then_some(target)
}

/// Gives an `Expand` a constant for the shape it computes: 1 where the input has the extent already.
fn expand_by_constant(pass: &mut Pass<'_>, id: NodeId, output: ValueId) {
    let (Some(input), Some(shape)) = (pass.rewriter.input(id, 0), pass.rewriter.input(id, 1)) else { return };
    if pass.rewriter.tensor(shape).is_some() {
        return;
    }
    let (Some(from), Some(to)) = (pass.shape(input), pass.shape(output)) else { return };
    let lead = to.len() - from.len().min(to.len());
    let target: Option<Vec<i64>> = to
        .iter()
        .enumerate()
        .map(|(d, extent)| {
            let kept = d >= lead && &from[d - lead] == extent;
            if kept { Some(1) } else { extent.known() }
        })
        .collect();
    let Some(target) = target else { return };
    let name = format!("{}.shape", pass.rewriter.value(output).name);
    let target = pass.rewriter.add_tensor(&name, Tensor::from_vec(vec![target.len()], target));
    pass.rewriter.set_inputs(id, vec![Some(input), Some(target)]);
}

/// Gives a product with the transpose of a weight to `Gemm`, which reads the weight as it is.
fn multiply_by_transpose(pass: &mut Pass<'_>, id: NodeId, output: ValueId) {
    let Some((x, weight, lead)) = transposed_weight(pass, id, output) else { return };
    let attrs = Attrs::new().with("transB", 1_i64);
    if lead.len() == 1 {
        pass.rewriter.change(id, Op::Gemm, vec![Some(x), Some(weight)], attrs);
        return;
    }
    let name = pass.rewriter.value(output).name.clone();
    let extents = |v: ValueId| pass.shape(v).map(<[Dim]>::to_vec).unwrap_or_default();
    let (inner, outer) = (extents(weight), extents(output));
    let rows: Dim = outer[..outer.len() - 1].iter().cloned().product();
    let dtype = dtype(pass, output).unwrap_or(DType::F32);
    let flat = |columns: &Dim| Type::tensor(dtype, [rows.clone(), columns.clone()]);
    let (narrow, wide) = (flat(&inner[1]), flat(&inner[0]));
    let columns = inner[1].known().expect("weights have numbers for extents");
    let target = Tensor::from_vec(vec![2], vec![-1, columns]);
    let target = pass.rewriter.add_tensor(&format!("{name}.rows.shape"), target);
    let x = pass.rewriter.insert_before(
        id,
        Op::Reshape,
        &format!("{name}.rows"),
        &[x, target],
        Attrs::new(),
        narrow,
    );
    let product =
        pass.rewriter.insert_before(id, Op::Gemm, &format!("{name}.product"), &[x, weight], attrs, wide);
    let target = Tensor::from_vec(vec![lead.len() + 1], lead.into_iter().chain(inner[0].known()).collect());
    let target = pass.rewriter.add_tensor(&format!("{name}.shape"), target);
    pass.rewriter.change(id, Op::Reshape, vec![Some(product), Some(target)], Attrs::new());
}

/// The left operand, the weight whose transpose is the right one, and the target of a reshape to the dimensions before the
/// last, -1 for one that is open.
fn transposed_weight(pass: &Pass<'_>, id: NodeId, output: ValueId) -> Option<(ValueId, ValueId, Vec<i64>)> {
    let (x, right) = (pass.rewriter.input(id, 0)?, pass.rewriter.input(id, 1)?);
    let transpose = pass.rewriter.maker(right).filter(|n| pass.rewriter.node(*n).op == Op::Transpose)?;
    let weight = pass.rewriter.input(transpose, 0)?;
    pass.rewriter.weight(weight)?;
    let known = pass.shape(weight)?.iter().all(|d| d.known().is_some());
    if permutation(pass, transpose)? != [1, 0] || !known || !dtype(pass, weight)?.is_float() {
        return None;
    }
    let (lead, from) = (pass.shape(output)?.split_last()?.1, pass.shape(x)?);
    let open = lead.iter().filter(|d| d.known().is_none_or(|n| n == 0)).count();
    (from.len() >= 2 && lead.len() + 1 == from.len() && (lead.len() == 1 || open <= 1))
        .then(|| (x, weight, lead.iter().map(|d| d.known().filter(|n| *n != 0).unwrap_or(-1)).collect()))
}
