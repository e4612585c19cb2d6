//! Pairs of nodes that one kernel computes without what is between them.

use orrery_base::IndexVec;
use orrery_ir::{Attrs, Graph, Node, NodeId, Op, ValueId};
use orrery_numerics::DType;
use std::collections::BTreeSet;

/// Rewrites what can be, and adds nodes that nobody needs any more to `done`.
pub(crate) fn rewrite(graph: &mut Graph, done: &mut BTreeSet<NodeId>) {
    let mut makers: IndexVec<ValueId, Option<NodeId>> = graph.values.ids().map(|_| None).collect();
    for (id, node) in graph.nodes.iter().filter(|(id, _)| !done.contains(id)) {
        if let [Some(value)] = *node.outputs.as_slice() {
            makers[value] = Some(id);
        }
    }
    let mut passed = BTreeSet::new();
    for id in graph.nodes.ids().filter(|id| !done.contains(id)).collect::<Vec<_>>() {
        let node = &graph.nodes[id];
        let Some(maker) = node.inputs.first().copied().flatten().and_then(|v| makers[v]) else { continue };
        let rewritten = match node.op {
            Op::Where => selection(graph, node, &graph.nodes[maker]),
            Op::MatMul => product(graph, node, &graph.nodes[maker]),
            _ => None,
        };
        if let Some(node) = rewritten {
            graph.nodes[id] = node;
            passed.insert(maker);
        }
    }
    let uses = graph.uses();
    done.extend(
        passed.into_iter().filter(|id| graph.nodes[*id].outputs.iter().flatten().all(|v| uses[*v] == 0)),
    );
}

fn is_f32(graph: &Graph, value: Option<ValueId>) -> bool {
    let ty = value.and_then(|v| graph.values[v].ty.as_tensor());
    ty.is_some_and(|ty| ty.dtype == DType::F32 && ty.shape.is_some())
}

/// A choice by a comparison: the smaller and the larger number go behind the operands, and the condition is left out.
fn selection(graph: &Graph, node: &Node, comparison: &Node) -> Option<Node> {
    let [a, b] = *comparison.inputs.as_slice() else { return None };
    let less = match comparison.op {
        Op::Less => [a, b],
        Op::Greater => [b, a],
        _ => return None,
    };
    let [_, yes, no] = *node.inputs.as_slice() else { return None };
    let inputs = [None, yes, no, less[0], less[1]];
    let floats = inputs[1..].iter().all(|v| is_f32(graph, *v));
    floats.then(|| Node { inputs: inputs.to_vec(), ..node.clone() })
}

/// The product of a matrix that was turned, as one that reads it as it lies.
fn product(graph: &Graph, node: &Node, turned: &Node) -> Option<Node> {
    let rank = |v: Option<ValueId>| Some(graph.values[v?].ty.as_tensor()?.shape.as_ref()?.len());
    let [_, b] = *node.inputs.as_slice() else { return None };
    let a = turned.inputs.first().copied().flatten();
    let matrices = rank(a) == Some(2) && rank(b) == Some(2) && is_f32(graph, a) && is_f32(graph, b);
    let swaps = turned.op == Op::Transpose && turned.attrs.ints("perm").is_none_or(|order| order == [1, 0]);
    let attrs = Attrs::new().with("transA", 1_i64);
    let plain = node.attrs.get("accumulate").is_none();
    (matrices && swaps && plain).then(|| Node { op: Op::Gemm, inputs: vec![a, b], attrs, ..node.clone() })
}
