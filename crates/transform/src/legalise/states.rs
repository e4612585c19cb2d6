//! States keep the type a machine stores them in.
//!
//! A run of a decoder takes the keys and values of earlier tokens and gives them back with its own. They never leave the
//! machine, so nobody casts them: only who feeds a single run does.

use crate::check;
use crate::rewrite::Rewriter;
use orrery_base::Result;
use orrery_ir::{Graph, NodeId, Op, ValueId};

/// Gives inputs that are nothing but earlier keys and values, and outputs that are these with new ones appended, the
/// type that a legalised graph casts them to and from. Such inputs must then be fed in that type.
///
/// # Errors
/// What the verifier says of the result, in tests and debug builds.
pub fn store_states(graph: &Graph) -> Result<Graph> {
    let mut rewriter = Rewriter::new(graph.clone());
    let inputs = graph.inputs.clone();
    for id in rewriter.node_ids() {
        if rewriter.node(id).op != Op::Cast || rewriter.is_dead(id) {
            continue;
        }
        let (Some(input), Some(output)) = (rewriter.input(id, 0), rewriter.output(id, 0)) else { continue };
        if inputs.contains(&input) && rewriter.uses(input) == 1 && is_past(&rewriter, output) {
            let ty = rewriter.ty(output).clone();
            rewriter.set_type(input, ty);
            rewriter.replace(output, input);
        } else if rewriter.is_output(output) && rewriter.uses(output) == 1 && is_whole(&rewriter, input) {
            rewriter.replace(output, input);
        }
    }
    let stored = rewriter.finish();
    check(&stored)?;
    Ok(stored)
}

/// Whether a value is read as past keys or values, and nowhere else but for its shape.
fn is_past(rewriter: &Rewriter, value: ValueId) -> bool {
    let mut appended = false;
    rewriter.readers(value).into_iter().all(|(node, input)| {
        let op = rewriter.node(node).op;
        appended |= op != Op::Shape;
        match op {
            Op::Attention => matches!(input, 4 | 5),
            Op::Concat => rewriter.output(node, 0).is_some_and(|whole| appends(rewriter, node, whole)),
            Op::Shape => true,
            _ => false,
        }
    }) && appended
}

/// Whether a value is past keys or values with new ones appended.
fn is_whole(rewriter: &Rewriter, value: ValueId) -> bool {
    let Some(maker) = rewriter.maker(value) else { return false };
    match rewriter.node(maker).op {
        Op::Attention => rewriter.output(maker, 0) != Some(value),
        Op::Concat => appends(rewriter, maker, value),
        _ => false,
    }
}

/// Whether a `Concat` appends to a state: its first part is an input, its result goes out.
fn appends(rewriter: &Rewriter, concat: NodeId, whole: ValueId) -> bool {
    let first = rewriter.input(concat, 0).map(|first| match rewriter.maker(first) {
        Some(cast) if rewriter.node(cast).op == Op::Cast => rewriter.input(cast, 0),
        _ => Some(first),
    });
    let from_outside =
        first.flatten().is_some_and(|v| rewriter.maker(v).is_none() && rewriter.weight(v).is_none());
    let goes_out = rewriter.readers(whole).into_iter().any(|(node, _)| {
        rewriter.node(node).op == Op::Cast && rewriter.output(node, 0).is_some_and(|v| rewriter.is_output(v))
    });
    from_outside && (goes_out || rewriter.is_output(whole))
}
