//! Recomputation: activations that the backward pass makes again instead of finding them.
//!
//! The forward pass is cut into stretches where least passes from one to the next. What passes is kept; everything else
//! of a stretch is made again from it, just before the first gradient of the stretch needs it. Of the last stretch nothing
//! is made again, as its gradients come at once. What is drawn at random is kept, since it would be drawn anew.

mod elementwise;

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
    /// What normalizations, activations and sums make, and what products make that sum up no more than so many of them for
    /// an element. What others and reductions make is kept.
    Cheap {
        /// Most products of a sum; with none, no product is made again.
        products: i64,
    },
    /// Those that cost no product and no further memory: what element-wise ops and normalizations make of values that the
    /// backward pass needs anyway.
    Elementwise,
    /// All within stretches of the forward pass, of which there are about as many as its nodes have a square root.
    Stretches,
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
    let again = match which {
        Recompute::Elementwise => elementwise::again(&graph, step.backward),
        _ => least(&graph, step.backward, which),
    };
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

/// What is made again over these stretches of the forward pass.
fn over(graph: &Graph, stretches: &[Range<usize>], forward: usize, which: Recompute) -> Vec<Again> {
    let all_but_last = &stretches[..stretches.len().saturating_sub(1)];
    all_but_last.iter().filter_map(|stretch| Again::of(graph, stretch, forward, which)).collect()
}

/// What is made again, over as many stretches as leave least to lie at a time: the fewer there are, the less is kept
/// between them, and the more is there at once of the largest. Where all of a stretch is made again, about as much is kept
/// as is made again with as many as the nodes have a square root (Chen and others 2016).
fn least(graph: &Graph, forward: usize, which: Recompute) -> Vec<Again> {
    let root = root_of(forward);
    let cheap = matches!(which, Recompute::Cheap { .. });
    let passing = &passing(graph, forward);
    let ways: Vec<Vec<Range<usize>>> = if cheap {
        let counts = (0..).map(|power| 1_usize << power).take_while(|count| *count <= 2 * root);
        let mut ways: Vec<_> = counts.map(|count| stretches(passing, forward, count)).collect();
        ways[0].push(forward..forward);
        ways
    } else {
        let like = stretches(passing, forward, root);
        let mut ways: Vec<_> =
            (1..=BLOCKS).map(|blocks| of_blocks(passing, forward, &like, blocks)).collect();
        ways.push(like);
        ways.iter_mut().for_each(|stretches| shorten_the_last(stretches, passing));
        ways
    };
    let tried = ways.iter().map(|stretches| {
        let again = over(graph, stretches, forward, which);
        (most_at_once(graph, forward, &again), again)
    });
    tried.min_by_key(|(bytes, _)| *bytes).map(|(_, again)| again).unwrap_or_default()
}

/// The most blocks that a stretch is tried with.
const BLOCKS: usize = 4;

/// Stretches of so many blocks each: a model of equal blocks has as much pass from one to the next wherever `like` cuts
/// between two, and cuts elsewhere leave a block to two stretches.
fn of_blocks(passing: &[i128], forward: usize, like: &[Range<usize>], blocks: usize) -> Vec<Range<usize>> {
    let mut narrow: Vec<i128> = like.iter().skip(1).map(|stretch| passing[stretch.start]).collect();
    narrow.sort_unstable();
    let Some(&usual) = narrow.get(narrow.len() / 2) else { return like.to_vec() };
    // Where as much passes for some nodes, the last of them: views and casts are then made again, not kept.
    let between: Vec<usize> =
        (1..forward).filter(|i| passing[*i] == usual && passing[i + 1] != usual).collect();
    let inner = between.chunks(blocks).filter(|chunk| chunk.len() == blocks).map(|chunk| chunk[blocks - 1]);
    let cuts: Vec<usize> = [0].into_iter().chain(inner).chain([forward]).collect();
    cuts.windows(2).map(|pair| pair[0]..pair[1]).collect()
}

/// Cuts the last stretch once more, as late as least passes: it lies there while the gradients of the loss do, which may be
/// large.
fn shorten_the_last(stretches: &mut Vec<Range<usize>>, passing: &[i128]) {
    if let Some(last) = stretches.pop() {
        let late = (last.start + 1..last.end).rev().min_by_key(|i| passing[*i]);
        let cut = late.unwrap_or(last.start);
        stretches.extend([last.start..cut, cut..last.end].into_iter().filter(|part| !part.is_empty()));
    }
}

/// The most bytes of forward values that lie at a time while the backward pass goes back over them: what is kept of the
/// stretches that it has not reached, and what it has made again of the one where it is.
fn most_at_once(graph: &Graph, forward: usize, again: &[Again]) -> u64 {
    let made = |value: ValueId| match graph.values[value].def {
        Def::Node(maker, _) if maker.index() < forward => Some(maker.index()),
        _ => None,
    };
    let spared: BTreeSet<ValueId> = again.iter().flat_map(|again| &again.wanted).copied().collect();
    let by_gradients = graph.nodes.values().skip(forward).flat_map(|n| n.inputs.iter().flatten());
    let by_copies =
        again.iter().flat_map(|a| &a.nodes).flat_map(|id| graph.nodes[*id].inputs.iter().flatten());
    let inside: BTreeSet<NodeId> = again.iter().flat_map(|again| again.nodes.iter().copied()).collect();
    let kept: BTreeSet<(usize, ValueId)> = by_gradients
        .filter(|value| !spared.contains(value))
        .chain(by_copies)
        .filter_map(|value| Some((made(*value)?, *value)))
        .filter(|(maker, _)| !inside.contains(&NodeId::new(*maker)))
        .collect();
    let until = |end: usize| -> u64 {
        kept.range(..(end, ValueId::new(0))).map(|(_, value)| bytes(graph, *value)).sum()
    };
    let ends = again.iter().filter_map(|again| Some((again.nodes.last()?.index() + 1, again.bytes(graph))));
    let at_work = ends.map(|(end, made_again)| until(end) + made_again);
    at_work.chain([until(forward)]).max().unwrap_or(0)
}

/// The root of a number of nodes, at least one.
fn root_of(nodes: usize) -> usize {
    (nodes as f64).sqrt().round().max(1.0) as usize
}

/// Bytes that pass from the nodes before number i to those from it on.
fn passing(graph: &Graph, forward: usize) -> Vec<i128> {
    let last = last_readers(graph, forward);
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
    passing
}

/// As many stretches of the forward pass.
fn stretches(passing: &[i128], forward: usize, count: usize) -> Vec<Range<usize>> {
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

/// True for what goes element by element over more than a number for each channel, moves elements, or sums up so few
/// products for each.
fn is_cheap(graph: &Graph, node: &Node, value: ValueId, products: i64) -> bool {
    let shape = |value: ValueId| graph.values[value].ty.as_tensor()?.extents();
    if shape(value).is_none_or(|shape| shape.len() < 2) {
        return false;
    }
    if node.op == Op::Conv {
        let weights = node.inputs.get(1).copied().flatten().and_then(shape);
        let summed = weights.map(|weights| weights.iter().skip(1).product::<usize>());
        return summed.is_some_and(|summed| summed as i64 <= products);
    }
    // Means and deviations of channels are kept, so that only their use is made again.
    let normalizes = node.op == Op::BatchNormalization;
    normalizes || node.op.is_elementwise() || matches!(node.op.def().engine, Engine::View)
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
    fn of(graph: &Graph, stretch: &Range<usize>, forward: usize, which: Recompute) -> Option<Self> {
        let last = last_readers(graph, forward);
        let inside = |value: ValueId| match graph.values[value].def {
            Def::Node(maker, _) => stretch.contains(&maker.index()).then_some(maker),
            _ => None,
        };
        let kept = |value: ValueId, maker: NodeId| {
            let node = &graph.nodes[maker];
            let dear = match which {
                Recompute::Cheap { products } => !is_cheap(graph, node, value, products),
                _ => false,
            };
            node.op.def().class == Class::Random
                || dear
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
    /// Bytes of what it makes again for gradients.
    fn bytes(&self, graph: &Graph) -> u64 {
        self.wanted.iter().map(|value| bytes(graph, *value)).sum()
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
