//! Activations that cost no product and no further memory to make again.

use super::{Again, bytes};
use orrery_base::index::Id;
use orrery_ir::op::{Class, Engine};
use orrery_ir::{Def, Graph, NodeId, Op, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// What is made again, value by value: each just before the backward pass needs it.
pub(super) fn again(graph: &Graph, forward: usize) -> Vec<Again> {
    let maker = |value: ValueId| match graph.values[value].def {
        Def::Node(maker, _) if maker.index() < forward => Some(maker),
        _ => None,
    };
    // The first node of the backward pass that reads each value of the forward pass.
    let mut needed: BTreeMap<ValueId, NodeId> = BTreeMap::new();
    for (id, node) in graph.nodes.iter().skip(forward) {
        for input in node.inputs.iter().flatten().filter(|value| maker(**value).is_some()) {
            needed.entry(*input).or_insert(id);
        }
    }
    let mut again: BTreeMap<ValueId, BTreeSet<NodeId>> = BTreeMap::new();
    for (id, node) in graph.nodes.iter().take(forward) {
        let [Some(output)] = node.outputs[..] else { continue };
        let def = node.op.def();
        let facts = def.engine == Engine::Vector && def.class != Class::Random;
        let normalizes = matches!(
            node.op,
            Op::LayerNormalization
                | Op::RMSNormalization
                | Op::GroupNormalization
                | Op::InstanceNormalization
        );
        let made: Vec<ValueId> =
            node.inputs.iter().flatten().copied().filter(|value| maker(*value).is_some()).collect();
        let alike = made.iter().all(|value| bytes(graph, *value) <= bytes(graph, output));
        let there = |value: &ValueId| needed.contains_key(value);
        let simple = normalizes || is_elementwise(graph, id);
        if facts && simple && alike && there(&output) && !made.is_empty() && made.iter().all(there) {
            let mut nodes = BTreeSet::from([id]);
            nodes.extend(made.iter().filter_map(|value| again.get(value)).flatten());
            again.insert(output, nodes);
        }
    }
    let of = |(value, nodes): (ValueId, BTreeSet<NodeId>)| Again {
        nodes: nodes.into_iter().collect(),
        wanted: BTreeSet::from([value]),
        before: needed[&value],
    };
    again.into_iter().filter(|(value, _)| !graph.outputs.contains(value)).map(of).collect()
}

/// True for a node that makes each element of those at the same place.
fn is_elementwise(graph: &Graph, id: NodeId) -> bool {
    let shape = |value: ValueId| graph.values[value].ty.as_tensor().and_then(orrery_ir::TensorType::extents);
    let node = &graph.nodes[id];
    let Some(made) = node.outputs.first().copied().flatten().and_then(shape) else { return false };
    node.op.is_elementwise()
        && node.inputs.iter().flatten().any(|value| shape(*value).as_ref() == Some(&made))
}
