//! The host casts what goes in and out.
//!
//! Benchmarks and engines hand a machine its inputs in the type it stores, and keys and values of a decoder's earlier
//! tokens never leave it. So the casts at the border of a legalised graph are no work of the machine. States are none of
//! the host's: they stay on the machine in their own types, and casting them is its work.

use crate::check;
use crate::rewrite::Rewriter;
use orrery_base::Result;
use orrery_ir::{Graph, Op, State, Type, ValueId};

/// Gives inputs and outputs the type that a legalised graph casts them to and from, where they are floats and nothing but
/// the cast reads or makes them. Whoever feeds the graph then casts, which gives the same numbers.
///
/// # Errors
/// What the verifier says of the result, in tests and debug builds.
pub fn store_border(graph: &Graph) -> Result<Graph> {
    let mut rewriter = Rewriter::new(graph.clone());
    let is_state = |i: usize, of: fn(&State) -> usize| graph.states.iter().any(|state| of(state) == i);
    let inputs: Vec<ValueId> = (0..graph.inputs.len())
        .filter(|i| !is_state(*i, |state| state.input))
        .map(|i| graph.inputs[i])
        .collect();
    let left: Vec<ValueId> = graph.states.iter().map(|state| graph.outputs[state.output]).collect();
    let is_float = |rewriter: &Rewriter, value: ValueId| matches!(rewriter.ty(value), Type::Tensor(t) if t.dtype.is_float());
    for id in rewriter.node_ids() {
        if rewriter.node(id).op != Op::Cast || rewriter.is_dead(id) {
            continue;
        }
        let (Some(from), Some(to)) = (rewriter.input(id, 0), rewriter.output(id, 0)) else { continue };
        if !is_float(&rewriter, from) || !is_float(&rewriter, to) {
            continue;
        }
        if inputs.contains(&from) && rewriter.uses(from) == 1 && !rewriter.is_output(to) {
            let ty = rewriter.ty(to).clone();
            rewriter.set_type(from, ty);
            rewriter.replace(to, from);
        } else if rewriter.is_output(to)
            && rewriter.uses(to) == 1
            && !graph.inputs.contains(&from)
            && !left.contains(&to)
        {
            rewriter.replace(to, from);
        }
    }
    let stored = rewriter.finish();
    check(&stored)?;
    Ok(stored)
}
