//! Nodes that stay binary32: those between positions and the sines and cosines of angles made of them.

use orrery_base::{IndexVec, index::Id};
use orrery_ir::{Def, Graph, NodeId, Op, Value, ValueId};

/// Which nodes lead from positions, integers or constants alone, to a sine or cosine, that one included.
pub(super) fn angles(graph: &Graph) -> IndexVec<NodeId, bool> {
    let mut wide: IndexVec<NodeId, bool> = graph.nodes.ids().map(|_| false).collect();
    let mut positional: IndexVec<ValueId, bool> =
        graph.values.values().map(|v| matches!(v.def, Def::Constant(_)) || !is_float(v)).collect();
    for node in graph.nodes.values() {
        let from_positions =
            passes_positions(node.op) && node.inputs.iter().flatten().all(|v| positional[*v]);
        for output in node.outputs.iter().flatten() {
            positional[*output] |= from_positions;
        }
    }
    let mut list: Vec<NodeId> = graph
        .nodes
        .iter()
        .filter(|(_, n)| {
            matches!(n.op, Op::Sin | Op::Cos) && n.inputs.iter().flatten().all(|v| positional[*v])
        })
        .map(|(id, _)| id)
        .collect();
    while let Some(id) = list.pop() {
        if std::mem::replace(&mut wide[id], true) {
            continue;
        }
        for input in graph.nodes[id].inputs.iter().flatten() {
            if let Def::Node(maker, _) = graph.values[*input].def
                && is_float(&graph.values[*input])
                && maker.index() < id.index()
            {
                list.push(maker);
            }
        }
    }
    wide
}

fn is_float(value: &Value) -> bool {
    value.ty.as_tensor().is_none_or(|t| t.dtype.is_float())
}

fn passes_positions(op: Op) -> bool {
    matches!(
        op,
        Op::Cast
            | Op::Range
            | Op::Mul
            | Op::Div
            | Op::Add
            | Op::Sub
            | Op::Neg
            | Op::Reciprocal
            | Op::Pow
            | Op::Exp
            | Op::MatMul
            | Op::Einsum
            | Op::Concat
            | Op::Transpose
            | Op::Reshape
            | Op::Flatten
            | Op::Squeeze
            | Op::Unsqueeze
            | Op::Expand
            | Op::Tile
            | Op::Slice
            | Op::Split
            | Op::Gather
            | Op::CumSum
            | Op::Identity
    )
}
