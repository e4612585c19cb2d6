//! Unrolling: a loop of a known number of turns becomes one copy of its body for each.
//!
//! What is not known stays as it is: loops that a condition ends, and scans over open extents.

use crate::rewrite::Rewriter;
use orrery_base::Result;
use orrery_ir::op::control::known_turns;
use orrery_ir::{Attrs, Graph, NodeId, Op, Type, ValueId, infer};
use orrery_numerics::Tensor;

/// Nodes that one loop may become at most: beyond it a loop is better run than spelled out.
const MOST_NODES: usize = 1 << 18;

/// Walks over a graph are repeated for loops in loops, at most so often.
const MOST_ROUNDS: usize = 8;

/// Puts copies of the bodies in the place of loops and scans of a known number of turns.
///
/// # Errors
/// `type-rule` where the graph breaks one.
pub fn unroll(graph: &Graph) -> Result<Graph> {
    let mut graph = graph.clone();
    for _ in 0..MOST_ROUNDS {
        if !graph.nodes.values().any(|n| matches!(n.op, Op::Loop | Op::Scan)) {
            break;
        }
        let facts = infer::infer(&mut graph)?;
        let turns: Vec<Option<usize>> =
            graph.nodes.ids().map(|id| infer::with_ctx(&graph, &facts, id, known_turns)).collect();
        let mut rewriter = Rewriter::new(graph);
        let mut unrolled = false;
        for (id, turns) in rewriter.node_ids().zip(turns) {
            if let Some(turns) = turns.filter(|_| !rewriter.is_dead(id)) {
                unrolled |=
                    Turning::new(&mut rewriter, id, turns).is_some_and(|mut turning| turning.unroll());
            }
        }
        graph = rewriter.finish();
        if !unrolled {
            break;
        }
    }
    infer::infer(&mut graph)?;
    crate::check(&graph)?;
    Ok(graph)
}

/// A loop or scan that becomes copies of its body.
struct Turning<'a> {
    rewriter: &'a mut Rewriter,
    id: NodeId,
    turns: usize,
    /// Values handed from one turn to the next, at first those before the first.
    carried: Vec<ValueId>,
    /// What is gone through slice by slice.
    scanned: Vec<ValueId>,
    captures: Vec<ValueId>,
}

impl<'a> Turning<'a> {
    /// None where an operand is missing or the result would be too large.
    fn new(rewriter: &'a mut Rewriter, id: NodeId, turns: usize) -> Option<Self> {
        let node = rewriter.node(id);
        let body = node.bodies.first()?;
        if body.nodes.len().max(1).saturating_mul(turns) > MOST_NODES {
            return None;
        }
        let count = |name: &str| usize::try_from(node.attrs.int_or(name, 0)).ok();
        let (first, carried, scans) = match node.op {
            Op::Loop => (2, count("carried")?, 0),
            _ => (0, count("states")?, count("scans")?),
        };
        let most = node.inputs.len();
        let inputs: Option<Vec<ValueId>> = (first..most).map(|i| rewriter.input(id, i)).collect();
        let mut carried_first = inputs?;
        let captures = carried_first.split_off((carried + scans).min(carried_first.len()));
        let scanned = carried_first.split_off(carried.min(carried_first.len()));
        Some(Self { rewriter, id, turns, carried: carried_first, scanned, captures })
    }
    /// False where nothing was done.
    fn unroll(&mut self) -> bool {
        let node = self.rewriter.node(self.id);
        let made = node.bodies[0].outputs.len();
        let is_loop = node.op == Op::Loop;
        let lead = usize::from(is_loop);
        let stacked = made.saturating_sub(lead + self.carried.len());
        if self.turns == 0 && stacked + self.scanned.len() > 0 {
            // The type of what would be stacked is only known inside.
            return false;
        }
        let attrs = node.attrs.clone();
        let slices: Vec<_> = (0..self.scanned.len()).map(|i| self.slices(&attrs, i)).collect();
        let body = self.rewriter.take_bodies(self.id).swap_remove(0);
        let goes_on =
            is_loop.then(|| self.rewriter.add_tensor("goes_on", Tensor::from_bools(Vec::new(), [true])));
        let mut made: Vec<Vec<ValueId>> = vec![Vec::new(); stacked];
        for turn in 0..self.turns {
            let mut inputs = Vec::new();
            if let Some(goes_on) = goes_on {
                inputs.push(self.rewriter.add_tensor("turn", Tensor::scalar(turn as i64)));
                inputs.push(goes_on);
            }
            inputs.extend_from_slice(&self.carried);
            inputs.extend(slices.iter().map(|slices| slices[turn]));
            inputs.extend_from_slice(&self.captures);
            let mut outputs = self.rewriter.inline(self.id, &body, &inputs).split_off(lead);
            for (all, one) in made.iter_mut().zip(outputs.split_off(self.carried.len())) {
                all.push(one);
            }
            self.carried = outputs;
        }
        let mut results = std::mem::take(&mut self.carried);
        for (i, all) in made.into_iter().enumerate() {
            results.push(self.stack(&attrs, i, all));
        }
        for (number, result) in results.into_iter().enumerate() {
            if let Some(output) = self.rewriter.output(self.id, number) {
                self.rewriter.replace(output, result);
            }
        }
        true
    }
    /// The slices of scanned input `i` in the order of the turns.
    fn slices(&mut self, attrs: &Attrs, i: usize) -> Vec<ValueId> {
        let (axis, backwards) = way(attrs, "scan_input_axes", "scan_input_directions", i);
        let mut graph = Graph::new("slices");
        let x = graph.add_input("x", self.rewriter.ty(self.scanned[i]).clone());
        let split = Attrs::new().with("axis", axis).with("num_outputs", self.turns as i64);
        let names = (0..self.turns).map(|turn| Some(format!("slice{turn}"))).collect();
        let node = graph.add_node(Op::Split, "split", vec![Some(x)], names, split, Vec::new());
        let axes = graph.add_tensor("axes", Tensor::from_vec(vec![1], vec![axis]));
        for (turn, slice) in graph.nodes[node].outputs.clone().into_iter().enumerate() {
            let names = vec![Some(format!("item{turn}"))];
            let inputs = vec![slice, Some(axes)];
            let made = graph.add_node(Op::Squeeze, "item", inputs, names, Attrs::new(), Vec::new());
            graph.outputs.extend(graph.nodes[made].outputs[0]);
        }
        let mut slices = self.rewriter.inline(self.id, &graph, &[self.scanned[i]]);
        if backwards {
            slices.reverse();
        }
        slices
    }
    /// What all turns made, along a new dimension.
    fn stack(&mut self, attrs: &Attrs, i: usize, mut all: Vec<ValueId>) -> ValueId {
        let (axis, backwards) = way(attrs, "scan_output_axes", "scan_output_directions", i);
        if backwards {
            all.reverse();
        }
        let mut graph = Graph::new("stack");
        let axes = graph.add_tensor("axes", Tensor::from_vec(vec![1], vec![axis]));
        let mut widened = Vec::with_capacity(all.len());
        for turn in 0..all.len() {
            let x = graph.add_input(format!("x{turn}"), Type::Unknown);
            let names = vec![Some(format!("item{turn}"))];
            let made = graph.add_node(
                Op::Unsqueeze,
                "item",
                vec![Some(x), Some(axes)],
                names,
                Attrs::new(),
                Vec::new(),
            );
            widened.push(graph.nodes[made].outputs[0]);
        }
        let names = vec![Some("stacked".to_owned())];
        let made =
            graph.add_node(Op::Concat, "stack", widened, names, Attrs::new().with("axis", axis), Vec::new());
        graph.outputs.extend(graph.nodes[made].outputs[0]);
        self.rewriter.inline(self.id, &graph, &all)[0]
    }
}

/// The axis and direction of scan input or output number `i`.
fn way(attrs: &Attrs, axes: &str, directions: &str, i: usize) -> (i64, bool) {
    let at = |name: &str| attrs.ints(name).and_then(|list| list.get(i).copied()).unwrap_or(0);
    (at(axes), at(directions) != 0)
}
