//! What a whole attention says in its masks and keys: causality, and keys and values of earlier tokens.
//!
//! Keys appended to earlier ones by `Concat`, values alike, become the inputs for past keys and values; where the graph
//! gives the whole back, the attention makes it. The mask that lets each query see the past and itself becomes causality.

use super::Pass;
use super::mask::{ABSORBS, additive, triangle};
use crate::pattern::View;
use crate::report::{Exactness, Kind};
use orrery_base::index::Id;
use orrery_ir::infer::node_place;
use orrery_ir::{Dim, NodeId, Op, ValueId};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn simplify(pass: &mut Pass<'_>, id: NodeId) {
    let node = pass.rewriter.node(id);
    if node.op != Op::Attention || pass.view().input(id, 4).is_some() || pass.view().input(id, 6).is_some() {
        return;
    }
    if take_cache(pass, id) {
        return;
    }
    let view = pass.view();
    let Some(mask) = view.input(id, 3) else { return };
    if diagonal(&view, id, mask).is_some_and(|d| d.is(0)) {
        let place = node_place(pass.rewriter.graph(), id);
        let living = pass.rewriter.living();
        without_mask(pass, id);
        let died = living - pass.rewriter.living();
        pass.record(id, Kind::CausalMask, place, (died + 1, 1), Exactness::Exact);
    }
}

/// The diagonal of an attention's mask, where it is a lower triangle over all scores.
fn diagonal(view: &View<'_>, id: NodeId, mask: ValueId) -> Option<Dim> {
    let (q, k) = (view.shape(view.input(id, 0)?)?, view.shape(view.input(id, 1)?)?);
    let own = view.shape(mask)?;
    let over_scores = q.len() == 4 && own.len() >= 2 && own[own.len() - 2..] == [q[2].clone(), k[2].clone()];
    if !over_scores {
        return None;
    }
    match additive(view, mask) {
        Some((diagonal, fill)) => (fill <= ABSORBS).then_some(diagonal),
        None => {
            let bool = view.rewriter.ty(mask).as_tensor()?.dtype == orrery_numerics::DType::Bool;
            bool.then(|| triangle(view, mask, true))?
        }
    }
}

fn without_mask(pass: &mut Pass<'_>, id: NodeId) {
    let inputs = (0..3).map(|i| pass.rewriter.input(id, i)).collect();
    pass.rewriter.set_inputs(id, inputs);
    pass.rewriter.set_attr(id, "is_causal", true);
}

/// Past and new part of keys or values.
struct Appended {
    past: ValueId,
    new: ValueId,
    whole: ValueId,
    concat: NodeId,
}

fn appended(view: &View<'_>, whole: ValueId) -> Option<Appended> {
    let concat = view.made_by(whole, Op::Concat).filter(|n| view.rewriter.node(*n).inputs.len() == 2)?;
    let axis = view.rewriter.node(concat).attrs.int("axis")?;
    let (past, new) = (view.input(concat, 0)?, view.input(concat, 1)?);
    let ranked = view.shape(past)?.len() == 4 && view.shape(new)?.len() == 4;
    (ranked && matches!(axis, 2 | -2)).then_some(Appended { past, new, whole, concat })
}

fn take_cache(pass: &mut Pass<'_>, id: NodeId) -> bool {
    let view = pass.view();
    let parts = || {
        let keys = appended(&view, view.input(id, 1)?)?;
        let values = appended(&view, view.input(id, 2)?)?;
        let past = view.shape(keys.past)?[2].clone();
        (view.shape(values.past)?[2] == past && keys.whole != values.whole).then_some((keys, values, past))
    };
    let Some((keys, values, past)) = parts() else { return false };
    if view.rewriter.node(id).attrs.flag("is_causal") || view.rewriter.node(id).outputs.len() > 1 {
        return false;
    }
    let mask = view.input(id, 3);
    let causal = mask.is_some_and(|m| diagonal(&view, id, m) == Some(past));
    let dying = match mask {
        Some(mask) if causal => dying_without(&view, id, mask),
        _ => BTreeSet::new(),
    };
    // Whatever else reads the whole must come later, or go with the mask.
    let concats = [&keys, &values];
    let read_before = concats.iter().any(|part| {
        (part.concat.index() + 1..id.index())
            .map(NodeId::new)
            .filter(|n| !view.rewriter.is_dead(*n) && !dying.contains(n))
            .any(|n| (0..view.rewriter.node(n).inputs.len()).any(|i| view.input(n, i) == Some(part.whole)))
    });
    if read_before || view.rewriter.reads_inserted(&[keys.whole, values.whole]) {
        return false;
    }
    let place = node_place(pass.rewriter.graph(), id);
    let living = pass.rewriter.living();
    let q = pass.rewriter.input(id, 0);
    let kept_mask = if causal { None } else { mask };
    if causal {
        pass.rewriter.set_attr(id, "is_causal", true);
    }
    let inputs = vec![q, Some(keys.new), Some(values.new), kept_mask, Some(keys.past), Some(values.past)];
    pass.rewriter.set_inputs(id, inputs);
    for (number, whole) in [(1, keys.whole), (2, values.whole)] {
        if pass.rewriter.uses(whole) > 0 {
            pass.rewriter.move_output(whole, id, number);
        }
    }
    let died = living - pass.rewriter.living();
    pass.record(id, Kind::KeyValueCache, place, (died + 1, 1), Exactness::Exact);
    true
}

/// The nodes that nobody would read if `reader` did not read `value`.
fn dying_without(view: &View<'_>, reader: NodeId, value: ValueId) -> BTreeSet<NodeId> {
    let mut left: BTreeMap<ValueId, u32> = BTreeMap::new();
    let mut dying = BTreeSet::from([reader]);
    let mut released = vec![value];
    while let Some(value) = released.pop() {
        let uses = left.entry(value).or_insert_with(|| view.rewriter.uses(value));
        *uses -= 1;
        let Some(maker) = view.rewriter.maker(value) else { continue };
        let outputs = || view.rewriter.node(maker).outputs.iter().flatten();
        let read = outputs().any(|v| left.get(v).copied().unwrap_or_else(|| view.rewriter.uses(*v)) > 0);
        if !read && dying.insert(maker) {
            released.extend((0..view.rewriter.node(maker).inputs.len()).filter_map(|i| view.input(maker, i)));
        }
    }
    dying
}
