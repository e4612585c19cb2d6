//! Values that stay binary32: what is made of the sums over a batch, as long as it is as small as they are.

use orrery_base::IndexVec;
use orrery_ir::{Graph, NodeId, Op, TensorType, ValueId};

/// Which values are sums over a batch or made of them, and which nodes make the latter. Means and variances are small
/// differences of them, and lie on no tensor that is large.
pub(super) fn statistics(graph: &Graph) -> (IndexVec<NodeId, bool>, IndexVec<ValueId, bool>) {
    let mut nodes: IndexVec<NodeId, bool> = graph.nodes.ids().map(|_| false).collect();
    let mut values: IndexVec<ValueId, bool> = graph.values.ids().map(|_| false).collect();
    let elements = |value: ValueId| {
        let extents = graph.values[value].ty.as_tensor().and_then(TensorType::extents);
        extents.map(|shape| shape.iter().product::<usize>())
    };
    for (id, node) in graph.nodes.iter() {
        let sums = node.op == Op::ChannelMoments;
        let most = node.inputs.iter().flatten().filter(|v| values[**v]).filter_map(|v| elements(*v)).max();
        let outputs = || node.outputs.iter().flatten();
        let small = |most| outputs().all(|v| elements(*v).is_some_and(|n| n <= most));
        if sums || most.is_some_and(small) {
            nodes[id] = !sums;
            outputs().for_each(|v| values[*v] = true);
        }
    }
    (nodes, values)
}
