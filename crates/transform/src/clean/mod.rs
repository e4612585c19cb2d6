//! Cleaning: what needs not be computed at run time is gone.
//!
//! One walk over the nodes in order, in which later nodes see what became of earlier ones:
//! 1. what does nothing is taken out ([`simplify`]): identities, casts to the same type, views and transpositions that
//!    cancel, dropout in inference, products with one;
//! 2. shapes computed in the graph become constants where they are known, also in part: a `Reshape` to
//!    `[batch, sequence, 4, 8]` from `[batch, sequence, 32]` needs no shape at run time but `[0, 0, 4, 8]`;
//! 3. nodes on constants alone are computed ([`fold`]);
//! 4. equal constants become one.
//!
//! Bodies of control flow are cleaned alike; a branch whose condition is constant takes the place of its `If`.

mod fold;
mod share;
mod simplify;

pub(crate) use share::share_nodes;

use crate::Weights;
use crate::rewrite::Rewriter;
use fold::Folded;
use orrery_base::Result;
use orrery_ir::infer::{self, Facts};
use orrery_ir::op::Fact;
use orrery_ir::{Graph, NodeId, Op, Type, ValueId};

/// Takes out of a graph what needs not be computed at run time, computing constants.
///
/// # Errors
/// `type-rule` where the graph breaks one.
pub fn clean(graph: &Graph) -> Result<Graph> {
    let cleaned = clean_graph(graph.clone(), Weights::Compute)?;
    crate::check(&cleaned)?;
    Ok(cleaned)
}

/// Walks over a graph are repeated while branches are inlined, at most so often: one for each level of nesting.
const MOST_ROUNDS: usize = 8;

pub(crate) fn clean_graph(graph: Graph, weights: Weights) -> Result<Graph> {
    if graph.nodes.values().all(|n| n.op != Op::If) {
        return rounds(graph, weights, false);
    }
    // What inference had to leave open in a branch may turn out to be a contradiction outside of it.
    rounds(graph.clone(), weights, true).or_else(|_| rounds(graph, weights, false))
}

fn rounds(mut graph: Graph, weights: Weights, inline: bool) -> Result<Graph> {
    for _ in 0..MOST_ROUNDS {
        let facts = infer::infer(&mut graph)?;
        let (cleaned, inlined) = walk(graph, &facts, weights, inline);
        graph = cleaned;
        if !inlined {
            return Ok(graph);
        }
    }
    infer::infer(&mut graph)?;
    Ok(graph)
}

/// A body is cleaned as far as what is known without its inputs allows.
fn clean_body(mut body: Graph, weights: Weights) -> Graph {
    let unclean = body.clone();
    match infer::infer(&mut body) {
        Ok(facts) => walk(body, &facts, weights, false).0,
        Err(_) => unclean,
    }
}

fn walk(graph: Graph, facts: &Facts, weights: Weights, inline: bool) -> (Graph, bool) {
    let mut pass = Pass { rewriter: Rewriter::new(graph), facts, weights };
    let mut inlined = false;
    for id in pass.rewriter.node_ids() {
        if pass.rewriter.is_dead(id) {
            continue;
        }
        if !pass.rewriter.node(id).bodies.is_empty() {
            let bodies = pass.rewriter.take_bodies(id);
            let bodies = bodies.into_iter().map(|b| clean_body(b, weights)).collect();
            pass.rewriter.set_bodies(id, bodies);
            inlined |= inline && pass.inline_branch(id);
            continue;
        }
        pass.known_content(id);
        if pass.rewriter.is_dead(id) || simplify::simplify(&mut pass, id) {
            continue;
        }
        match fold::fold(&pass, id) {
            Folded::No => {}
            Folded::To(constants) => {
                for (value, ty, weight) in constants {
                    pass.rewriter.make_constant(value, ty, weight);
                }
            }
        }
    }
    share::share_constants(&mut pass.rewriter);
    (pass.rewriter.finish(), inlined)
}

/// A walk.
struct Pass<'a> {
    rewriter: Rewriter,
    facts: &'a Facts,
    weights: Weights,
}

impl Pass<'_> {
    /// What inference knows of a value. New values are known by their type alone, which callers look up.
    fn fact(&self, id: ValueId) -> Option<&Fact> {
        self.facts.get(id)
    }
    fn shape(&self, id: ValueId) -> Option<&[orrery_ir::Dim]> {
        self.rewriter.ty(id).as_tensor()?.shape.as_deref()
    }
    /// Elements of a small integer value, where they are known.
    fn ints(&self, id: ValueId) -> Option<Vec<i64>> {
        if let Some(tensor) = self.rewriter.tensor(id) {
            let small = tensor.rank() <= 1 && (tensor.dtype().is_int());
            return if small { tensor.to_i64().ok().map(|v| v.to_vec()) } else { None };
        }
        self.fact(id)?.content.as_ref()?.iter().map(orrery_ir::Dim::known).collect()
    }
    /// Makes constants of outputs whose elements inference knows.
    fn known_content(&mut self, id: NodeId) {
        for number in 0..self.rewriter.node(id).outputs.len() {
            let Some(value) = self.rewriter.output(id, number) else { continue };
            let Some(tensor) = self.fact(value).and_then(known_tensor) else { continue };
            let ty = Type::tensor(tensor.dtype(), tensor.shape().iter().copied());
            self.rewriter.make_constant(value, ty, orrery_ir::Weight::Data(tensor));
        }
    }
    /// Puts the branch that is always taken in the place of an `If`.
    fn inline_branch(&mut self, id: NodeId) -> bool {
        let node = self.rewriter.node(id);
        if node.op != Op::If || node.bodies.len() != 2 {
            return false;
        }
        let Some(taken) = self
            .rewriter
            .input(id, 0)
            .and_then(|v| self.rewriter.tensor(v))
            .filter(|t| t.dtype() == orrery_numerics::DType::Bool && t.len() == 1)
            .map(|t| t.bytes()[0] != 0)
        else {
            return false;
        };
        // What a body takes from outside comes after the condition, in the order of its inputs.
        let inputs: Option<Vec<ValueId>> =
            (1..self.rewriter.node(id).inputs.len()).map(|i| self.rewriter.input(id, i)).collect();
        let Some(inputs) = inputs else { return false };
        let branch = usize::from(!taken);
        let body = &self.rewriter.node(id).bodies[branch];
        if body.inputs.len() != inputs.len() {
            return false;
        }
        let body = self.rewriter.take_bodies(id).swap_remove(branch);
        let results = self.rewriter.inline(id, &body, &inputs);
        self.rewriter.replace_outputs(id, &results);
        true
    }
}

/// The tensor that a fact describes in full: integers of rank 0 or 1.
fn known_tensor(fact: &Fact) -> Option<orrery_numerics::Tensor> {
    let ty = fact.ty.as_tensor()?;
    let exact = ty.dtype.is_int() || ty.dtype == orrery_numerics::DType::Bool;
    let elements: Vec<i64> =
        fact.content.as_ref()?.iter().map(orrery_ir::Dim::known).collect::<Option<_>>()?;
    let shape = ty.extents()?;
    (exact && shape.len() <= 1 && shape.iter().product::<usize>() == elements.len())
        .then(|| orrery_numerics::Tensor::from_i64(ty.dtype, shape, elements))
}
