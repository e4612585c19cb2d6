//! Attention from its products, scale, mask and softmax.
//!
//! The last node is the product with the values. Scores may be scaled before or after the product, on either side, or by
//! its root on both; masks may be added or put in by `Where`. Where a mask is a lower triangle the attention is causal
//! and needs none.

use super::mask::{ABSORBS, additive, triangle};
use super::{Pass, ending_in};
use crate::pattern::View;
use crate::report::{Exactness, Kind};
use orrery_ir::infer::node_place;
use orrery_ir::{Attrs, Dim, NodeId, Op, Type, ValueId};
use orrery_numerics::{DType, Format, Tensor};

/// What hides scores.
#[derive(Clone, Copy)]
enum Mask {
    /// Added to them.
    Added(ValueId),
    /// Scores stay where the value is true, and are the number elsewhere.
    Kept(ValueId, f64),
    /// Scores are the number where the value is true.
    Hidden(ValueId, f64),
}

/// An attention as the graph spells it out.
struct Spelled {
    q: ValueId,
    /// Keys, and the order in which their dimensions are to be taken.
    k: (ValueId, Vec<usize>),
    v: ValueId,
    scale: f64,
    masks: Vec<Mask>,
    /// Whether weights that are not a number become zero.
    guarded: bool,
    /// The nodes between the products, both of them included.
    nodes: Vec<NodeId>,
    /// The scores' type.
    scores: Type,
}

pub(super) fn fuse(pass: &mut Pass<'_>, root: NodeId) {
    let view = pass.view();
    let Some(spelled) = spelled(&view, root) else { return };
    if !view.closed(&ending_in(root, spelled.nodes.clone())) || !fits(&view, &spelled) {
        return;
    }
    let living = pass.rewriter.living();
    let place = node_place(pass.rewriter.graph(), root);
    let exactness = write(pass, root, &spelled);
    let now = pass.rewriter.living();
    let inserted = pass.rewriter.inserted(root);
    pass.record(root, Kind::Attention, place, (living + inserted + 1 - now, inserted + 1), exactness);
}

fn spelled(view: &View<'_>, root: NodeId) -> Option<Spelled> {
    if view.rewriter.node(root).op != Op::MatMul {
        return None;
    }
    let mut nodes = vec![root];
    let mut weights = view.input(root, 0)?;
    let v = view.input(root, 1)?;
    weights = uncast(view, weights, &mut nodes);
    let guarded = match unguarded(view, weights) {
        Some((inner, guard)) => {
            nodes.extend(guard);
            weights = uncast(view, inner, &mut nodes);
            true
        }
        None => false,
    };
    let softmax = view.made_by(weights, Op::Softmax)?;
    nodes.push(softmax);
    let rank = view.shape(weights)?.len();
    let axis = view.rewriter.node(softmax).attrs.int_or("axis", -1);
    if !matches!(rank, 3 | 4) || (axis != -1 && axis != rank as i64 - 1) {
        return None;
    }
    let mut masks = Vec::new();
    let scores = uncast(view, view.input(softmax, 0)?, &mut nodes);
    let (product, mut scale) = scored(view, scores, &mut masks, &mut nodes)?;
    let (q, q_scale) = unscaled(view, view.input(product, 0)?);
    let (k, k_scale) = unscaled(view, view.input(product, 1)?);
    let transpose = view.made_by(k, Op::Transpose)?;
    let (k, k_inner_scale) = unscaled(view, view.input(transpose, 0)?);
    scale *= q_scale * k_scale * k_inner_scale;
    let mut order: Vec<usize> = match view.rewriter.node(transpose).attrs.ints("perm") {
        Some(order) => order.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<_>>()?,
        None => (0..rank).rev().collect(),
    };
    if order.len() != rank || !scale.is_finite() || scale <= 0.0 {
        return None;
    }
    order.swap(rank - 2, rank - 1);
    nodes.push(product);
    let scores = view.rewriter.ty(view.rewriter.output(product, 0)?).clone();
    Some(Spelled { q, k: (k, order), v, scale, masks, guarded, nodes, scores })
}

/// Through a cast between floats.
fn uncast(view: &View<'_>, value: ValueId, nodes: &mut Vec<NodeId>) -> ValueId {
    let source = view.made_by(value, Op::Cast).and_then(|node| {
        let source = view.input(node, 0)?;
        let wide = |v: ValueId| {
            view.rewriter.ty(v).as_tensor().is_some_and(|t| t.dtype.is_float() && t.dtype.bits() >= 16)
        };
        (wide(source) && wide(value)).then_some((node, source))
    });
    match source {
        Some((node, source)) => {
            nodes.push(node);
            source
        }
        None => value,
    }
}

/// The weights inside of `Where(IsNaN(weights), 0, weights)`.
fn unguarded(view: &View<'_>, value: ValueId) -> Option<(ValueId, [NodeId; 2])> {
    let select = view.made_by(value, Op::Where)?;
    let weights = view.input(select, 2)?;
    let test = view.made_by(view.input(select, 0)?, Op::IsNaN)?;
    let zero = view.scalar(view.input(select, 1)?)? == 0.0;
    (zero && view.input(test, 0)? == weights).then_some((weights, [select, test]))
}

/// Follows scores down to their product: masks first, then the scale. Gives the product and the scale.
fn scored(
    view: &View<'_>,
    value: ValueId,
    masks: &mut Vec<Mask>,
    nodes: &mut Vec<NodeId>,
) -> Option<(NodeId, f64)> {
    let node = view.rewriter.maker(value)?;
    let (masks_before, nodes_before) = (masks.len(), nodes.len());
    let mut inside = |value: ValueId, mask: Option<Mask>| {
        masks.truncate(masks_before);
        nodes.truncate(nodes_before);
        masks.extend(mask);
        nodes.push(node);
        scored(view, value, masks, nodes)
    };
    let (a, b) = (view.input(node, 0)?, view.input(node, 1)?);
    match view.rewriter.node(node).op {
        Op::MatMul => Some((node, 1.0)),
        // A number added to all scores changes no weight, but is no mask either.
        Op::Add if masks_before < 2 && view.beside_scalar(node).is_none() => {
            inside(a, Some(Mask::Added(b))).or_else(|| inside(b, Some(Mask::Added(a))))
        }
        Op::Where if masks_before < 2 => {
            let c = view.input(node, 2)?;
            match (view.scalar(b), view.scalar(c)) {
                (None, Some(fill)) if fill <= -1e3 => inside(b, Some(Mask::Kept(a, fill))),
                (Some(fill), None) if fill <= -1e3 => inside(c, Some(Mask::Hidden(a, fill))),
                _ => None,
            }
        }
        Op::Mul | Op::Div => {
            let (inner, factor) = scaled_by(view, node)?;
            let (product, scale) = inside(inner, None)?;
            (masks.len() == masks_before).then_some((product, scale * factor))
        }
        _ => None,
    }
}

/// A product with, or quotient by, a number.
fn scaled_by(view: &View<'_>, node: NodeId) -> Option<(ValueId, f64)> {
    match view.rewriter.node(node).op {
        Op::Mul => view.beside_scalar(node),
        Op::Div => Some((view.input(node, 0)?, 1.0 / view.scalar(view.input(node, 1)?)?)),
        _ => None,
    }
}

fn unscaled(view: &View<'_>, value: ValueId) -> (ValueId, f64) {
    view.rewriter.maker(value).and_then(|node| scaled_by(view, node)).unwrap_or((value, 1.0))
}

/// The keys or values before each head was repeated for several heads of queries.
fn unrepeated(view: &View<'_>, value: ValueId) -> Option<ValueId> {
    let merge = view.made_by(value, Op::Reshape)?;
    let repeated = view.input(merge, 0)?;
    let expand = view.made_by(repeated, Op::Expand)?;
    let separate = view.rewriter.maker(view.input(expand, 0)?)?;
    if !matches!(view.rewriter.node(separate).op, Op::Unsqueeze | Op::Reshape) {
        return None;
    }
    let source = view.input(separate, 0)?;
    let ([batch, heads, length, size], [b, h, times, l, s], [b2, all, l2, s2]) =
        (view.shape(source)?, view.shape(repeated)?, view.shape(value)?)
    else {
        return None;
    };
    let inner = view.shape(view.input(expand, 0)?)?;
    let fits = [b, b2].iter().all(|d| *d == batch)
        && h == heads
        && [l, l2].iter().all(|d| *d == length)
        && [s, s2].iter().all(|d| *d == size)
        && *all == heads.clone() * times.clone()
        && inner.len() == 5
        && inner[2].is(1);
    fits.then_some(source)
}

/// Whether batches and heads go together as the op wants it.
fn fits(view: &View<'_>, spelled: &Spelled) -> bool {
    let (Some(q), Some(k), Some(v)) = (view.shape(spelled.q), view.shape(spelled.k.0), view.shape(spelled.v))
    else {
        return false;
    };
    let rank = q.len();
    if k.len() != rank || v.len() != rank {
        return false;
    }
    let k: Vec<&Dim> = spelled.k.1.iter().map(|d| &k[*d]).collect();
    let heads = rank == 3 || (*k[1] == v[1] && (*k[1] == q[1] || k[1].is(1)));
    // Masks must not widen the scores.
    let masks = spelled.masks.iter().all(|mask| {
        let (Mask::Added(m) | Mask::Kept(m, _) | Mask::Hidden(m, _)) = mask;
        let scores = spelled.scores.as_tensor().and_then(|t| t.shape.as_ref());
        let (Some(own), Some(scores)) = (view.shape(*m), scores) else { return false };
        own.len() <= scores.len()
            && !own.is_empty()
            && own.iter().zip(&scores[scores.len() - own.len()..]).all(|(m, s)| m.is(1) || m == s)
    });
    *k[0] == q[0]
        && v[0] == q[0]
        && heads
        && masks
        && k[rank - 2] == &v[rank - 2]
        && k[rank - 1] == &q[rank - 1]
}

fn write(pass: &mut Pass<'_>, root: NodeId, spelled: &Spelled) -> Exactness {
    let name = pass.base_name(root);
    let ty = |pass: &Pass<'_>, v: ValueId| pass.rewriter.ty(v).clone();
    let (mask, causal, exactness) = masked(pass, root, spelled);
    let mut k = spelled.k.0;
    if !spelled.k.1.iter().copied().eq(0..spelled.k.1.len()) {
        let key = ty(pass, k);
        let shape = key.as_tensor().and_then(|t| t.shape.clone()).unwrap_or_default();
        let moved = spelled.k.1.iter().map(|d| shape[*d].clone());
        let key = Type::tensor(key.as_tensor().map_or(DType::F32, |t| t.dtype), moved);
        let perm: Vec<i64> = spelled.k.1.iter().map(|d| *d as i64).collect();
        k = pass.rewriter.insert_before(
            root,
            Op::Transpose,
            &format!("{name}/key"),
            &[k],
            Attrs::new().with("perm", perm),
            key,
        );
    }
    let (mut q, mut v) = (spelled.q, spelled.v);
    let view = pass.view();
    if let (Some(keys), Some(values)) = (unrepeated(&view, k), unrepeated(&view, v))
        && view.shape(keys).map(|s| &s[1]) == view.shape(values).map(|s| &s[1])
    {
        (k, v) = (keys, values);
    }
    let mut attrs = Attrs::new().with("scale", spelled.scale);
    if causal {
        attrs.set("is_causal", 1_i64);
    }
    if pass.view().shape(q).map(<[Dim]>::len) == Some(4) {
        let inputs = [Some(q), Some(k), Some(v), mask].into_iter();
        let inputs = if mask.is_some() { inputs.collect() } else { inputs.take(3).collect() };
        pass.rewriter.change(root, Op::Attention, inputs, attrs);
        return exactness;
    }
    // One head: it gets a dimension of its own.
    let axis = pass.rewriter.add_tensor(&format!("{name}/head"), Tensor::from_vec(vec![1], vec![1_i64]));
    let with_head = |pass: &mut Pass<'_>, value: ValueId, what: &str| {
        let own = ty(pass, value);
        let headed = match own.as_tensor().and_then(|t| Some((t.dtype, t.shape.clone()?))) {
            Some((dtype, mut shape)) => {
                shape.insert(1, Dim::Known(1));
                Type::tensor(dtype, shape)
            }
            None => Type::Unknown,
        };
        pass.rewriter.insert_before(
            root,
            Op::Unsqueeze,
            &format!("{name}/{what}"),
            &[value, axis],
            Attrs::new(),
            headed,
        )
    };
    q = with_head(pass, q, "query.head");
    k = with_head(pass, k, "key.head");
    v = with_head(pass, v, "value.head");
    let mut inputs = vec![q, k, v];
    if let Some(mask) = mask {
        let three = pass.view().shape(mask).map(<[Dim]>::len) == Some(3);
        inputs.push(if three { with_head(pass, mask, "mask.head") } else { mask });
    }
    let out = pass.rewriter.output(root, 0).map_or(Type::Unknown, |v| ty(pass, v));
    let headed = match out.as_tensor().and_then(|t| Some((t.dtype, t.shape.clone()?))) {
        Some((dtype, mut shape)) => {
            shape.insert(1, Dim::Known(1));
            Type::tensor(dtype, shape)
        }
        None => Type::Unknown,
    };
    let mixed = pass.rewriter.insert_before(
        root,
        Op::Attention,
        &format!("{name}/attention"),
        &inputs,
        attrs,
        headed,
    );
    pass.rewriter.change(root, Op::Squeeze, vec![Some(mixed), Some(axis)], Attrs::new());
    exactness
}

const SEES_NOTHING: &str = "a query that sees no key takes the mean of all values";
const FINITE: &str = "hidden scores are far below zero in the graph, here they are left out";
const NOT_A_NUMBER: &str = "a query whose mask is minus infinity throughout gives no number instead of zero";

/// The mask of the op, whether it is causal, and what differs.
fn masked(pass: &mut Pass<'_>, root: NodeId, spelled: &Spelled) -> (Option<ValueId>, bool, Exactness) {
    let mut causal = false;
    let mut exactness = Exactness::Exact;
    let mut masks = Vec::new();
    for mask in &spelled.masks {
        let view = pass.view();
        let square = spans_scores(&view, *mask, &spelled.scores);
        let found = match *mask {
            Mask::Added(m) => additive(&view, m),
            Mask::Kept(m, fill) => triangle(&view, m, true).map(|o| (o, fill)),
            Mask::Hidden(m, fill) => triangle(&view, m, false).map(|o| (o, fill)),
        };
        if let Some((diagonal, fill)) = found
            && diagonal.is(0)
            && square
        {
            causal = true;
            if fill > ABSORBS {
                exactness = Exactness::Approximated(FINITE);
            }
            continue;
        }
        let (made, differs) = written(pass, root, *mask, spelled);
        if let Some(why) = differs {
            exactness = Exactness::Approximated(why);
        }
        masks.push(made);
    }
    let mask = match *masks.as_slice() {
        [] => None,
        [mask] => Some(mask),
        [a, b, ..] => Some(both(pass, root, a, b)),
    };
    (mask, causal, exactness)
}

/// Whether the last two dimensions of a mask are those of the scores.
fn spans_scores(view: &View<'_>, mask: Mask, scores: &Type) -> bool {
    let (Mask::Added(m) | Mask::Kept(m, _) | Mask::Hidden(m, _)) = mask;
    let (Some(own), Some(scores)) = (view.shape(m), scores.as_tensor().and_then(|t| t.shape.as_ref())) else {
        return false;
    };
    own.len() >= 2 && own[own.len() - 2..] == scores[scores.len() - 2..]
}

/// A mask as the op takes it, and what differs.
fn written(
    pass: &mut Pass<'_>,
    root: NodeId,
    mask: Mask,
    spelled: &Spelled,
) -> (ValueId, Option<&'static str>) {
    let dtype = spelled.scores.as_tensor().map_or(DType::F32, |t| t.dtype);
    let lowest = Format::of(dtype).map_or(f64::from(f32::MIN), |f| -f.max_finite());
    match mask {
        Mask::Added(value) if spelled.guarded => {
            // Minus infinity throughout would be no number: the lowest number hides as well.
            let view = pass.view();
            let select = view.made_by(value, Op::Where).and_then(|node| {
                let (a, b) = (view.scalar(view.input(node, 1)?)?, view.scalar(view.input(node, 2)?)?);
                Some((view.input(node, 0)?, a, b))
            });
            match select {
                Some((condition, 0.0, f64::NEG_INFINITY)) => {
                    (added(pass, root, condition, 0.0, lowest, dtype), Some(SEES_NOTHING))
                }
                Some((condition, f64::NEG_INFINITY, 0.0)) => {
                    (added(pass, root, condition, lowest, 0.0, dtype), Some(SEES_NOTHING))
                }
                Some((_, a, b)) if a.is_finite() && b.is_finite() => (value, None),
                _ => (value, Some(NOT_A_NUMBER)),
            }
        }
        Mask::Added(value) => (value, None),
        Mask::Kept(condition, fill) if fill == f64::NEG_INFINITY && !spelled.guarded => (condition, None),
        Mask::Kept(condition, fill) => {
            (added(pass, root, condition, 0.0, fill.max(lowest), dtype), differs(fill, spelled.guarded))
        }
        Mask::Hidden(condition, fill) => {
            (added(pass, root, condition, fill.max(lowest), 0.0, dtype), differs(fill, spelled.guarded))
        }
    }
}

fn differs(fill: f64, guarded: bool) -> Option<&'static str> {
    if fill == f64::NEG_INFINITY {
        Some(SEES_NOTHING)
    } else if fill > ABSORBS && !guarded {
        Some("a query that sees no key weights values by its scores instead of all alike")
    } else {
        None
    }
}

/// A mask to be added: a number where the condition holds, another elsewhere.
fn added(pass: &mut Pass<'_>, root: NodeId, condition: ValueId, yes: f64, no: f64, dtype: DType) -> ValueId {
    let name = format!("{}/mask", pass.base_name(root));
    let mut number = |value: f64| {
        let tensor =
            Tensor::from_f64(dtype, Vec::new(), vec![value], orrery_numerics::Rounding::NearestEven, false);
        pass.rewriter.add_tensor(&format!("{name}.number"), tensor)
    };
    let (yes, no) = (number(yes), number(no));
    let ty = match pass.rewriter.ty(condition).as_tensor().and_then(|t| t.shape.clone()) {
        Some(shape) => Type::tensor(dtype, shape),
        None => Type::Unknown,
    };
    pass.rewriter.insert_before(root, Op::Where, &name, &[condition, yes, no], Attrs::new(), ty)
}

/// Two masks as one.
fn both(pass: &mut Pass<'_>, root: NodeId, a: ValueId, b: ValueId) -> ValueId {
    let name = format!("{}/masks", pass.base_name(root));
    let dtype = |pass: &Pass<'_>, v: ValueId| pass.rewriter.ty(v).as_tensor().map(|t| t.dtype);
    let float = [a, b].into_iter().find_map(|v| dtype(pass, v).filter(|d| d.is_float()));
    let Some(float) = float else {
        return pass.rewriter.insert_before(root, Op::And, &name, &[a, b], Attrs::new(), Type::Unknown);
    };
    let mut as_float = |v: ValueId| {
        if dtype(pass, v) == Some(DType::Bool) {
            added(pass, root, v, 0.0, f64::NEG_INFINITY, float)
        } else {
            v
        }
    };
    let (a, b) = (as_float(a), as_float(b));
    pass.rewriter.insert_before(root, Op::Add, &name, &[a, b], Attrs::new(), Type::Unknown)
}
