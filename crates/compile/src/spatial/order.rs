//! The graph as a pipeline takes it: products read matrices as they lie, and gradients of weights are
//! made where what they are made of is.

use crate::Options;
use crate::groups::Group;
use orrery_ir::op::Engine;
use orrery_ir::{Def, Graph, Node, NodeId, Op, ValueId};
use orrery_program::Phase;
use std::collections::BTreeMap;

/// Products of matrices that were turned become products that read them as they lie: memory units give a matrix by rows or
/// by columns. The nodes stay where they are; a turning that nobody needs any more is not emitted.
pub fn read_as_they_lie(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    for id in graph.nodes.ids().collect::<Vec<_>>() {
        if let Some(product) = product(&graph, &graph.nodes[id]) {
            graph.nodes[id] = product;
        }
    }
    graph
}

/// A product of two matrices of which one at least was turned, as one of the matrices before that.
fn product(graph: &Graph, node: &Node) -> Option<Node> {
    let [Some(a), Some(b)] = *node.inputs.as_slice() else { return None };
    let is_matrix = |value: ValueId| {
        let shape = graph.values[value].ty.as_tensor().and_then(|ty| ty.shape.as_ref());
        shape.is_some_and(|shape| shape.len() == 2)
    };
    if node.op != Op::MatMul || !is_matrix(a) || !is_matrix(b) {
        return None;
    }
    let before = |value: ValueId| {
        let Def::Node(maker, _) = graph.values[value].def else { return None };
        let maker = &graph.nodes[maker];
        let swaps = maker.op == Op::Transpose && maker.attrs.ints("perm").is_none_or(|order| order == [1, 0]);
        maker.inputs.first().copied().flatten().filter(|_| swaps)
    };
    let (left, right) = (before(a), before(b));
    if left.is_none() && right.is_none() {
        return None;
    }
    let attrs = node.attrs.clone().with("transA", left.is_some()).with("transB", right.is_some());
    let inputs = vec![Some(left.unwrap_or(a)), Some(right.unwrap_or(b))];
    Some(Node { op: Op::Gemm, inputs, attrs, ..node.clone() })
}

/// What only later parts of a training step read, or nobody, as the gradient of a weight, is made at once after the last of
/// what it is made of in its own part: that need not be kept for it then. All else stays in order.
pub(super) fn near_their_makers(graph: &Graph, groups: &[Group], options: &Options) -> Vec<Group> {
    let mut maker: BTreeMap<NodeId, usize> = BTreeMap::new();
    for (number, group) in groups.iter().enumerate() {
        maker.extend(group.nodes.iter().map(|node| (*node, number)));
    }
    let phases: Vec<Phase> = groups.iter().map(|group| options.phase(group.nodes[0])).collect();
    // The groups of the same part that each is made of.
    let makers: Vec<Vec<usize>> = groups
        .iter()
        .enumerate()
        .map(|(number, group)| {
            let read = group.nodes.iter().flat_map(|n| graph.nodes[*n].inputs.iter().flatten());
            let made = read.filter_map(|value| match graph.values[*value].def {
                Def::Node(node, _) => maker.get(&node).copied(),
                _ => None,
            });
            made.filter(|from| *from != number && phases[*from] == phases[number]).collect()
        })
        .collect();
    // What ends its part: a value that it does not read itself, and what is made of it without a product on the way there.
    let mut ends = vec![true; groups.len()];
    for number in (0..groups.len()).rev() {
        let engine = graph.nodes[groups[number].nodes[0]].op.def().engine;
        for &from in &makers[number] {
            let engine_before = graph.nodes[groups[from].nodes[0]].op.def().engine;
            ends[from] &= ends[number] && engine != Engine::Matrix && engine_before != Engine::Matrix;
        }
    }
    // Places as paths: a group that follows another at once has that one's path and its own number.
    let mut paths: Vec<Vec<usize>> = Vec::with_capacity(groups.len());
    for (number, makers) in makers.iter().enumerate() {
        let last = makers.iter().map(|from| &paths[*from]).max().filter(|_| ends[number]);
        let mut path = last.cloned().unwrap_or_default();
        path.push(number);
        paths.push(path);
    }
    let mut order: Vec<usize> = (0..groups.len()).collect();
    order.sort_by(|a, b| paths[*a].cmp(&paths[*b]));
    order.into_iter().map(|number| groups[number].clone()).collect()
}
