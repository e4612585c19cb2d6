//! States that a run lengthens: keys and values of the tokens before.

use orrery_ir::{Def, Graph, NodeId, Op, ValueId};
use std::collections::BTreeMap;

/// For each output of the graph that is an input with more elements behind its own, that input: keys and values that
/// attention, or a concatenation, appends to. What a run leaves so, the next one finds.
pub(crate) fn growing(graph: &Graph) -> BTreeMap<ValueId, ValueId> {
    let mut found = BTreeMap::new();
    for &output in &graph.outputs {
        let Def::Node(maker, place) = graph.values[output].def else { continue };
        let node = &graph.nodes[maker];
        let past = match (node.op, place) {
            (Op::Attention, 1 | 2) => node.inputs.get(place as usize + 3),
            (Op::Concat, _) => node.inputs.first(),
            _ => None,
        };
        if let Some(&Some(past)) = past
            && graph.inputs.contains(&past)
            && !graph.outputs.contains(&past)
            && only_lengthened(graph, past, maker)
            && graph.nodes.values().any(|n| node.op == Op::Attention || n.inputs.contains(&Some(output)))
            && !found.values().any(|other| *other == past)
        {
            found.insert(output, past);
        }
    }
    found
}

/// Whether a value is read by one node, and elsewhere only for its shape.
fn only_lengthened(graph: &Graph, value: ValueId, by: NodeId) -> bool {
    let mut readers = graph.nodes.iter().filter(|(_, node)| node.inputs.contains(&Some(value)));
    readers.all(|(id, node)| id == by || node.op == Op::Shape)
}
