//! Recomputation: activations that the backward pass makes again instead of finding them.
//!
//! The forward pass is cut into stretches where least passes from one to the next. What passes is kept; everything else
//! of a stretch is made again from it, just before the first gradient of the stretch needs it. Of the last stretch nothing
//! is made again, as its gradients come at once. What is drawn at random is kept, since it would be drawn anew.

use super::Step;
use crate::rewrite::Rewriter;
use orrery_base::Result;
use orrery_base::index::Id;
use orrery_ir::op::{Class, Engine};
use orrery_ir::{Def, Graph, Node, NodeId, Op, ValueId};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Which activations are made again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recompute {
    /// None: all that the backward pass needs is kept.
    #[default]
    Nothing,
    /// Those within as many stretches of the forward pass as its nodes have a square root: with that many, what is kept
    /// between and what is made again within are about as much (Chen and others 2016).
    Stretches,
    /// Those that cost no product and no further memory: what element-wise ops and normalizations make of values that the
    /// backward pass needs anyway.
    Cheap,
}

/// Changes a step so that its backward pass makes activations again.
///
/// # Errors
/// What the verifier says of the result, in tests and debug builds.
pub fn recompute(step: &mut Step, which: Recompute) -> Result<()> {
    if which == Recompute::Nothing {
        return Ok(());
    }
    let graph = std::mem::take(&mut step.graph);
    let mut again = Vec::new();
    if which == Recompute::Cheap {
        again = cheap(&graph, step.backward);
    } else {
        let stretches = stretches(&graph, step.backward);
        for stretch in &stretches[..stretches.len().saturating_sub(1)] {
            again.extend(Again::of(&graph, stretch, step.backward));
        }
    }
    let (backward, all) = (step.backward, graph.nodes.len());
    let update = step.update;
    let mut rewriter = Rewriter::new(graph);
    for again in &again {
        again.insert(&mut rewriter, backward);
    }
    let living = |range: Range<usize>| range.filter(|i| !rewriter.is_dead(NodeId::new(*i))).count();
    let (forward, updates) = (living(0..backward), living(update..all));
    step.graph = rewriter.finish();
    step.backward = forward;
    step.update = step.graph.nodes.len() - updates;
    crate::check(&step.graph)
}

/// Bytes of a value; of what is not known none.
fn bytes(graph: &Graph, value: ValueId) -> u64 {
    let ty = graph.values[value].ty.as_tensor();
    let elements =
        ty.and_then(orrery_ir::TensorType::extents).map_or(0, |extents| extents.iter().product::<usize>());
    ty.map_or(0, |ty| ty.dtype.machine_bytes(elements as u64))
}

/// What is made again of [`Recompute::Cheap`], value by value: each just before the backward pass needs it.
fn cheap(graph: &Graph, forward: usize) -> Vec<Again> {
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
    matches!(
        node.op,
        Op::Add
            | Op::Sub
            | Op::Mul
            | Op::Div
            | Op::Neg
            | Op::Sqrt
            | Op::Pow
            | Op::Cast
            | Op::Relu
            | Op::LeakyRelu
            | Op::Elu
            | Op::Selu
            | Op::Sigmoid
            | Op::Tanh
            | Op::Erf
            | Op::Exp
            | Op::Gelu
            | Op::Swish
            | Op::Softplus
            | Op::HardSigmoid
            | Op::HardSwish
            | Op::Mish
            | Op::Clip
    ) && node.inputs.iter().flatten().any(|value| shape(*value).as_ref() == Some(&made))
}

/// The last forward node that reads each value that a forward node makes, where a later one does.
fn last_readers(graph: &Graph, forward: usize) -> BTreeMap<ValueId, usize> {
    let mut last = BTreeMap::new();
    for (id, node) in graph.nodes.iter().take(forward) {
        for input in node.inputs.iter().flatten() {
            if matches!(graph.values[*input].def, Def::Node(..)) {
                last.insert(*input, id.index());
            }
        }
    }
    last
}

/// The stretches of the forward pass.
fn stretches(graph: &Graph, forward: usize) -> Vec<Range<usize>> {
    let last = last_readers(graph, forward);
    // Bytes that pass from the nodes before number i to those from it on.
    let mut passing = vec![0_i128; forward + 2];
    for (value, reader) in &last {
        let Def::Node(maker, _) = graph.values[*value].def else { continue };
        let size = i128::from(bytes(graph, *value));
        passing[maker.index() + 1] += size;
        passing[reader + 1] -= size;
    }
    for i in 1..passing.len() {
        passing[i] += passing[i - 1];
    }
    let count = (forward as f64).sqrt().round().max(1.0) as usize;
    let length = forward / count.max(1);
    let mut cuts = vec![0];
    for number in 1..count {
        let (middle, reach) = (number * length, length / 2);
        let around = middle.saturating_sub(reach)..(middle + reach).min(forward);
        let best = around.filter(|i| *i > *cuts.last().unwrap_or(&0)).min_by_key(|i| (passing[*i], *i));
        cuts.extend(best);
    }
    cuts.push(forward);
    cuts.windows(2).map(|pair| pair[0]..pair[1]).collect()
}

/// What is made again of a stretch.
struct Again {
    /// Its nodes, in order.
    nodes: Vec<NodeId>,
    /// Values that gradients read of them.
    wanted: BTreeSet<ValueId>,
    /// The first node that does.
    before: NodeId,
}

impl Again {
    fn of(graph: &Graph, stretch: &Range<usize>, forward: usize) -> Option<Self> {
        let last = last_readers(graph, forward);
        let inside = |value: ValueId| match graph.values[value].def {
            Def::Node(maker, _) => stretch.contains(&maker.index()).then_some(maker),
            _ => None,
        };
        let kept = |value: ValueId, maker: NodeId| {
            let random = graph.nodes[maker].op.def().class == Class::Random;
            random
                || graph.outputs.contains(&value)
                || last.get(&value).is_some_and(|reader| *reader >= stretch.end)
        };
        let mut wanted = BTreeSet::new();
        let mut before = None;
        for (id, node) in graph.nodes.iter().skip(forward) {
            for input in node.inputs.iter().flatten() {
                if inside(*input).is_some_and(|maker| !kept(*input, maker)) {
                    wanted.insert(*input);
                    before.get_or_insert(id);
                }
            }
        }
        let mut nodes = BTreeSet::new();
        let mut open: Vec<ValueId> = wanted.iter().copied().collect();
        while let Some(value) = open.pop() {
            let Some(maker) = inside(value).filter(|maker| !kept(value, *maker)) else { continue };
            if nodes.insert(maker) {
                open.extend(graph.nodes[maker].inputs.iter().flatten());
            }
        }
        Some(Self { nodes: nodes.into_iter().collect(), wanted, before: before? })
    }
    fn insert(&self, rewriter: &mut Rewriter, forward: usize) {
        let mut made: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        let read: BTreeSet<ValueId> = self
            .nodes
            .iter()
            .flat_map(|id| rewriter.node(*id).inputs.iter().flatten())
            .chain(&self.wanted)
            .copied()
            .collect();
        for id in &self.nodes {
            let node = rewriter.node(*id).clone();
            let inputs = node.inputs.iter().map(|v| v.map(|v| made.get(&v).copied().unwrap_or(v))).collect();
            let name = format!("{}.again", node.name);
            let outputs = vec![None; node.outputs.len()];
            let copy = rewriter.insert_node(self.before, Node { name, inputs, outputs, ..node.clone() });
            for (number, output) in node.outputs.iter().enumerate() {
                let Some(output) = output.filter(|output| read.contains(output)) else { continue };
                let (name, ty) =
                    (format!("{}.again", rewriter.value(output).name), rewriter.ty(output).clone());
                made.insert(output, rewriter.add_output(copy, number, &name, ty));
            }
        }
        for (old, new) in self.wanted.iter().filter_map(|old| Some((*old, *made.get(old)?))) {
            for (node, port) in rewriter.readers(old) {
                let copied =
                    rewriter.node(node).outputs.iter().flatten().any(|v| made.values().any(|m| m == v));
                if node.index() < forward || copied {
                    continue;
                }
                let mut inputs = rewriter.node(node).inputs.clone();
                inputs[port] = Some(new);
                rewriter.set_inputs(node, inputs);
            }
        }
    }
}
