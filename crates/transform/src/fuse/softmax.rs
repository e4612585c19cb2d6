//! Softmax from exponentials and sums.

use super::normalization::{reduction, restored};
use super::{Found, Input};
use crate::pattern::View;
use crate::report::{Exactness, Kind};
use orrery_ir::{Attrs, NodeId, Op};

/// exp(x - max x) / sum exp(x - max x) along one dimension.
pub(super) fn find(view: &View<'_>, root: NodeId) -> Option<Found> {
    let node = view.rewriter.node(root);
    let (exponentials, sum, mut nodes) = match node.op {
        Op::Div => (view.input(root, 0)?, view.input(root, 1)?, Vec::new()),
        Op::Mul => {
            let (a, b) = (view.input(root, 0)?, view.input(root, 1)?);
            let (other, inverse) = [(a, b), (b, a)]
                .into_iter()
                .find_map(|(other, inverse)| Some((other, view.made_by(inverse, Op::Reciprocal)?)))?;
            (other, view.input(inverse, 0)?, vec![inverse])
        }
        _ => return None,
    };
    let exp = view.made_by(exponentials, Op::Exp)?;
    let (total, between) = restored(view, sum, exponentials)?;
    let total = reduction(view, total, Op::ReduceSum).filter(|t| t.of == exponentials)?;
    nodes.extend(between);
    nodes.extend(&total.nodes);
    nodes.push(exp);
    let [axis] = *total.axes.as_slice() else { return None };
    let shifted = view.input(exp, 0)?;
    let from_most = || {
        let subtract = view.made_by(shifted, Op::Sub)?;
        let x = view.input(subtract, 0)?;
        let (most, mut between) = restored(view, view.input(subtract, 1)?, x)?;
        let most = reduction(view, most, Op::ReduceMax).filter(|m| m.of == x && m.axes == [axis])?;
        between.extend(most.nodes);
        between.push(subtract);
        Some((x, between))
    };
    let (x, exactness) = match from_most() {
        Some((x, between)) => {
            nodes.extend(between);
            (x, Exactness::Exact)
        }
        None => {
            (shifted, Exactness::Approximated("exponentials that overflow in the graph do not in a softmax"))
        }
    };
    view.same_type(x, view.rewriter.output(root, 0)?).then(|| Found {
        kind: Kind::Softmax,
        op: Op::Softmax,
        inputs: vec![Input::Value(x)],
        attrs: Attrs::new().with("axis", axis as i64),
        nodes,
        exactness,
    })
}
