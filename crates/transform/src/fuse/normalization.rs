//! Layer and RMS normalization from means, squares and roots.

use super::{Found, Input, Pass};
use crate::pattern::{View, close};
use crate::report::{Exactness, Kind};
use orrery_ir::infer::node_place;
use orrery_ir::{Attrs, Dim, NodeId, Op, ValueId};

/// A reduction of a value.
pub(super) struct Reduction {
    pub(super) of: ValueId,
    /// Dimensions reduced, ascending.
    pub(super) axes: Vec<usize>,
    pub(super) nodes: Vec<NodeId>,
}

/// `value` as the reduction `op` of another; a mean may be a sum times one over the number of elements.
pub(super) fn reduction(view: &View<'_>, value: ValueId, op: Op) -> Option<Reduction> {
    if let Some(node) = view.made_by(value, op) {
        let of = view.input(node, 0)?;
        let rank = view.shape(of)?.len();
        let axes = match view.input(node, 1) {
            Some(axes) => view.ints(axes)?,
            None => return None,
        };
        let axes = axes.iter().map(|&a| usize::try_from(if a < 0 { a + rank as i64 } else { a }).ok());
        let mut axes: Vec<usize> = axes.collect::<Option<_>>()?;
        axes.sort_unstable();
        let valid = !axes.is_empty() && axes.iter().all(|a| *a < rank);
        return valid.then(|| Reduction { of, axes, nodes: vec![node] });
    }
    if op != Op::ReduceMean {
        return None;
    }
    let product = view.product(value);
    let [sum] = *product.factors.as_slice() else { return None };
    let mut reduction = reduction(view, sum, Op::ReduceSum)?;
    let count: Dim = reduction
        .axes
        .iter()
        .map(|a| view.shape(reduction.of).map_or(Dim::Known(0), |s| s[*a].clone()))
        .product();
    reduction.nodes.extend(product.nodes);
    close(product.constant * count.known()? as f64, 1.0).then_some(reduction)
}

/// The value below reshapes and an expansion that put reduced dimensions back, so that `value` stands beside `of`.
pub(super) fn restored(view: &View<'_>, value: ValueId, of: ValueId) -> Option<(ValueId, Vec<NodeId>)> {
    let (mut core, mut nodes) = (value, Vec::new());
    let mut kept = value;
    while let Some(node) = view.rewriter.maker(core) {
        match view.rewriter.node(node).op {
            Op::Expand if nodes.is_empty() => kept = view.input(node, 0)?,
            Op::Reshape | Op::Unsqueeze | Op::Squeeze => {}
            _ => break,
        }
        nodes.push(node);
        core = view.input(node, 0)?;
    }
    // Reduced dimensions have extent one, the others are the operand's.
    let (kept, whole) = (view.shape(kept)?, view.shape(of)?);
    let beside = kept.len() == whole.len() && kept.iter().zip(whole).all(|(k, w)| k.is(1) || k == w);
    beside.then_some((core, nodes))
}

/// What a deviation is the root of: the mean square of `of`, or of its distance from its mean.
#[derive(Clone)]
struct Statistics {
    of: ValueId,
    centred: bool,
    axes: Vec<usize>,
    epsilon: f64,
    nodes: Vec<NodeId>,
    exactness: Exactness,
}

/// `value` as variance + epsilon.
fn statistics(view: &View<'_>, value: ValueId) -> Option<Statistics> {
    let (add, variance, epsilon) = view.plus(value)?;
    let mut found = two_passes(view, variance).or_else(|| one_pass(view, variance))?;
    found.epsilon = epsilon;
    found.nodes.push(add);
    (epsilon >= 0.0).then_some(found)
}

/// mean((x - mean x)^2), or mean(x^2).
fn two_passes(view: &View<'_>, variance: ValueId) -> Option<Statistics> {
    let mean = reduction(view, core_of(view, variance), Op::ReduceMean)?;
    let (_, between) = restored(view, variance, mean.of)?;
    let square = view.product(mean.of);
    let [a, b] = *square.factors.as_slice() else { return None };
    if a != b || square.constant != 1.0 {
        return None;
    }
    let mut nodes = mean.nodes;
    nodes.extend(between);
    nodes.extend(square.nodes);
    let exactness = Exactness::Exact;
    let (of, centred) = match distance(view, a, &mean.axes) {
        Some((x, inside)) => {
            nodes.extend(inside);
            (x, true)
        }
        None => (a, false),
    };
    Some(Statistics { of, centred, axes: mean.axes, epsilon: 0.0, nodes, exactness })
}

/// mean(x^2) - mean(x)^2, held at zero or not.
fn one_pass(view: &View<'_>, variance: ValueId) -> Option<Statistics> {
    let core = core_of(view, variance);
    let mut nodes = Vec::new();
    let difference = match view.made_by(core, Op::Max) {
        Some(node) => {
            let (other, zero) = view.beside_scalar(node)?;
            nodes.push(node);
            (zero == 0.0).then_some(other)?
        }
        None => core,
    };
    let subtract = view.made_by(difference, Op::Sub)?;
    let squares = reduction(view, view.input(subtract, 0)?, Op::ReduceMean)?;
    let square = view.product(squares.of);
    let [a, b] = *square.factors.as_slice() else { return None };
    let mean_square = view.product(view.input(subtract, 1)?);
    let [m, n] = *mean_square.factors.as_slice() else { return None };
    let mean = reduction(view, m, Op::ReduceMean)?;
    let fits = a == b
        && m == n
        && square.constant * mean_square.constant == 1.0
        && mean.of == a
        && mean.axes == squares.axes;
    let (_, between) = restored(view, variance, a).filter(|_| fits)?;
    nodes.push(subtract);
    nodes.extend(
        squares
            .nodes
            .into_iter()
            .chain(square.nodes)
            .chain(mean_square.nodes)
            .chain(mean.nodes)
            .chain(between),
    );
    let why = "the graph takes the variance as the mean of squares less the square of the mean";
    Some(Statistics {
        of: a,
        centred: true,
        axes: squares.axes,
        epsilon: 0.0,
        nodes,
        exactness: Exactness::Approximated(why),
    })
}

fn core_of(view: &View<'_>, mut value: ValueId) -> ValueId {
    while let Some(node) = view.rewriter.maker(value)
        && matches!(view.rewriter.node(node).op, Op::Expand | Op::Reshape | Op::Unsqueeze | Op::Squeeze)
        && let Some(input) = view.input(node, 0)
    {
        value = input;
    }
    value
}

/// `value` as x - mean x over `axes`.
fn distance(view: &View<'_>, value: ValueId, axes: &[usize]) -> Option<(ValueId, Vec<NodeId>)> {
    let subtract = view.made_by(value, Op::Sub)?;
    let x = view.input(subtract, 0)?;
    let (mean, mut nodes) = restored(view, view.input(subtract, 1)?, x)?;
    let mean = reduction(view, mean, Op::ReduceMean)?;
    nodes.push(subtract);
    nodes.extend(mean.nodes);
    (mean.of == x && mean.axes == axes).then_some((x, nodes))
}

/// `value` as one over a root: what it is the root of.
fn inverse_root(view: &View<'_>, value: ValueId) -> Option<(ValueId, Vec<NodeId>)> {
    if let Some(node) = view.made_by(value, Op::Reciprocal) {
        let (of, mut nodes) = root(view, view.input(node, 0)?)?;
        nodes.push(node);
        return Some((of, nodes));
    }
    if let Some(node) = view.made_by(value, Op::Div) {
        let (of, mut nodes) = root(view, view.input(node, 1)?)?;
        nodes.push(node);
        return (view.scalar(view.input(node, 0)?) == Some(1.0)).then_some((of, nodes));
    }
    let node = view.made_by(value, Op::Pow)?;
    (view.scalar(view.input(node, 1)?) == Some(-0.5)).then_some((view.input(node, 0)?, vec![node]))
}

fn root(view: &View<'_>, value: ValueId) -> Option<(ValueId, Vec<NodeId>)> {
    if let Some(node) = view.made_by(value, Op::Sqrt) {
        return Some((view.input(node, 0)?, vec![node]));
    }
    let node = view.made_by(value, Op::Pow)?;
    (view.scalar(view.input(node, 1)?) == Some(0.5)).then_some((view.input(node, 0)?, vec![node]))
}

pub(super) fn find(view: &View<'_>, id: NodeId) -> Option<Found> {
    match view.rewriter.node(id).op {
        Op::Div => {
            let (of, mut nodes) = root(view, view.input(id, 1)?)?;
            let statistics = statistics(view, of)?;
            nodes.push(id);
            normalized(view, id, view.input(id, 0)?, None, statistics, nodes)
        }
        Op::Mul => {
            let product = view.product(view.rewriter.output(id, 0)?);
            if product.constant != 1.0 || product.factors.len() > 3 {
                return None;
            }
            let (at, (of, nodes)) =
                product.factors.iter().enumerate().find_map(|(at, f)| Some((at, inverse_root(view, *f)?)))?;
            let statistics = statistics(view, of)?;
            let nodes: Vec<NodeId> = nodes.into_iter().chain(product.nodes).collect();
            let others: Vec<ValueId> =
                product.factors.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, f)| *f).collect();
            let tries: &[(usize, Option<usize>)] = match others.len() {
                1 => &[(0, None)],
                2 => &[(0, Some(1)), (1, Some(0))],
                _ => return None,
            };
            let of = |(x, scale): &(usize, Option<usize>)| {
                let scale = scale.map(|s| others[s]);
                normalized(view, id, others[*x], scale, statistics.clone(), nodes.clone())
            };
            tries.iter().find_map(of)
        }
        Op::Add => shifted_form(view, id),
        _ => None,
    }
}

/// The normalization that divides `dividend` by the root of `statistics`.
fn normalized(
    view: &View<'_>,
    root: NodeId,
    dividend: ValueId,
    scale: Option<ValueId>,
    statistics: Statistics,
    mut nodes: Vec<NodeId>,
) -> Option<Found> {
    if statistics.centred {
        let (x, inside) = distance(view, dividend, &statistics.axes)?;
        nodes.extend(inside);
        (x == statistics.of).then_some(())?;
    } else if dividend != statistics.of {
        return None;
    }
    build(view, root, scale, None, statistics, nodes)
}

fn build(
    view: &View<'_>,
    root: NodeId,
    scale: Option<ValueId>,
    bias: Option<ValueId>,
    statistics: Statistics,
    mut nodes: Vec<NodeId>,
) -> Option<Found> {
    let x = statistics.of;
    let rank = view.shape(x)?.len();
    let first = *statistics.axes.first()?;
    let trailing = statistics.axes.iter().copied().eq(first..rank);
    let fit = [scale, bias].into_iter().flatten().all(|p| is_parameter(view, p, x, first));
    if !trailing || !fit || !view.same_type(x, view.rewriter.output(root, 0)?) {
        return None;
    }
    nodes.extend(statistics.nodes);
    let (kind, op) = if statistics.centred {
        (Kind::LayerNormalization, Op::LayerNormalization)
    } else {
        (Kind::RmsNormalization, Op::RMSNormalization)
    };
    let mut inputs = vec![Input::Value(x), scale.map_or(Input::OneLike(x), Input::Value)];
    inputs.extend(bias.map(Input::Value));
    let attrs = Attrs::new().with("axis", first as i64 - rank as i64).with("epsilon", statistics.epsilon);
    Some(Found { kind, op, inputs, attrs, nodes, exactness: statistics.exactness })
}

/// x k + (bias - mean k) with k = scale / root.
fn shifted_form(view: &View<'_>, id: NodeId) -> Option<Found> {
    let (a, b) = (view.input(id, 0)?, view.input(id, 1)?);
    let (product, subtract) = [(a, b), (b, a)]
        .into_iter()
        .find_map(|(p, s)| Some((view.made_by(p, Op::Mul)?, view.made_by(s, Op::Sub)?)))?;
    let bias = view.input(subtract, 0)?;
    let shift = view.made_by(view.input(subtract, 1)?, Op::Mul)?;
    let pair = |node| Some((view.input(node, 0)?, view.input(node, 1)?));
    let ((p, q), (r, s)) = (pair(product)?, pair(shift)?);
    let (x, k, mean) = [(p, q, r, s), (p, q, s, r), (q, p, r, s), (q, p, s, r)]
        .into_iter()
        .find_map(|(x, k, k_again, mean)| (k == k_again).then_some((x, k, mean)))?;
    let mut nodes = vec![product, subtract, shift];
    let factors = view.product(k);
    nodes.extend(&factors.nodes);
    let (at, (of, inside)) =
        factors.factors.iter().enumerate().find_map(|(at, f)| Some((at, inverse_root(view, *f)?)))?;
    nodes.extend(inside);
    let scale = match factors.factors.len() {
        1 => None,
        2 => Some(factors.factors[1 - at]),
        _ => return None,
    };
    let statistics = statistics(view, of).filter(|s| s.centred && s.of == x && factors.constant == 1.0)?;
    let (mean, between) = restored(view, mean, x)?;
    let mean = reduction(view, mean, Op::ReduceMean).filter(|m| m.of == x && m.axes == statistics.axes)?;
    nodes.extend(between);
    nodes.extend(mean.nodes);
    build(view, id, scale, Some(bias), statistics, nodes)
}

/// True where a value can be scale or bias of a normalization over the dimensions of `x` from `first` on.
fn is_parameter(view: &View<'_>, value: ValueId, x: ValueId, first: usize) -> bool {
    let (Some(own), Some(shape)) = (view.shape(value), view.shape(x)) else { return false };
    let Some(lead) = shape.len().checked_sub(own.len()) else { return false };
    own.iter().enumerate().all(|(d, n)| n.is(1) || (lead + d >= first && *n == shape[lead + d]))
}

/// Takes a scale or bias behind a normalization into it.
pub(super) fn grow(pass: &mut Pass<'_>, id: NodeId) -> bool {
    let Some((norm, inputs)) = grown(&pass.view(), id) else { return false };
    let op = pass.rewriter.node(norm).op;
    let attrs = pass.rewriter.node(norm).attrs.clone();
    let place = node_place(pass.rewriter.graph(), id);
    pass.rewriter.change(id, op, inputs, attrs);
    if let Some(entry) = pass.entries.remove(&norm) {
        let replacement = &mut pass.report.replacements[entry];
        replacement.place = place;
        replacement.nodes.0 += 1;
        pass.entries.insert(id, entry);
    }
    true
}

fn grown(view: &View<'_>, id: NodeId) -> Option<(NodeId, Vec<Option<ValueId>>)> {
    let op = view.rewriter.node(id).op;
    if !matches!(op, Op::Mul | Op::Add) {
        return None;
    }
    let (a, b) = (view.input(id, 0)?, view.input(id, 1)?);
    [(a, b), (b, a)].into_iter().find_map(|(normalized, parameter)| {
        let norm = view
            .made_by(normalized, Op::LayerNormalization)
            .or_else(|| view.made_by(normalized, Op::RMSNormalization).filter(|_| op == Op::Mul))?;
        // Others may read mean and deviation, or what is normalized.
        if view.rewriter.uses(normalized) != 1 || view.rewriter.node(norm).outputs.len() != 1 {
            return None;
        }
        let (x, scale) = (view.input(norm, 0)?, view.input(norm, 1)?);
        let has_bias = view.input(norm, 2).is_some();
        let rank = view.shape(x)?.len() as i64;
        let axis = view.rewriter.node(norm).attrs.int_or("axis", -1);
        let first = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok()?;
        let constant = view.rewriter.weight(parameter).is_some();
        if !constant || has_bias || !is_parameter(view, parameter, x, first) {
            return None;
        }
        match op {
            Op::Mul => (view.scalar(scale)? == 1.0).then(|| (norm, vec![Some(x), Some(parameter)])),
            _ => Some((norm, vec![Some(x), Some(scale), Some(parameter)])),
        }
    })
}
