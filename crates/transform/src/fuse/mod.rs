//! Recognising what frameworks spell out in small ops.
//!
//! One walk over the nodes in order; each is tried as the last one of a pattern. A pattern is replaced only where nobody
//! else reads what is inside it, and the new op stands in the last node's place and makes its output under its name.
//! Normalizations grow: the bare one is recognised first, then a scale and a bias behind it are taken in.

mod activation;
mod attention;
mod cache;
mod mask;
mod normalization;
mod softmax;

use crate::check;
use crate::pattern::View;
use crate::report::{Exactness, Kind, Replacement, Report};
use crate::rewrite::Rewriter;
use orrery_base::Result;
use orrery_ir::infer::{Facts, infer, node_place};
use orrery_ir::{Attrs, Graph, NodeId, Op, ValueId};
use std::collections::BTreeMap;

/// Replaces what is spelled out in small ops by whole ops.
///
/// # Errors
/// `type-rule` where the graph breaks one.
pub fn fuse(graph: &Graph) -> Result<(Graph, Report)> {
    let mut report = Report { nodes_before: graph.nodes.len(), ..Report::default() };
    let fused = fuse_graph(graph.clone(), &mut report)?;
    report.nodes_after = fused.nodes.len();
    check(&fused)?;
    Ok((fused, report))
}

pub(crate) fn fuse_graph(mut graph: Graph, report: &mut Report) -> Result<Graph> {
    let facts = infer(&mut graph)?;
    let mut pass = Pass { rewriter: Rewriter::new(graph), facts: &facts, report, entries: BTreeMap::new() };
    for id in pass.rewriter.node_ids() {
        if pass.rewriter.is_dead(id) {
            continue;
        }
        let view = pass.view();
        let found = activation::find(&view, id)
            .or_else(|| normalization::find(&view, id))
            .or_else(|| softmax::find(&view, id));
        match found {
            Some(found) => pass.replace(id, found),
            None if normalization::grow(&mut pass, id) => {}
            None => attention::fuse(&mut pass, id),
        }
    }
    for id in pass.rewriter.node_ids() {
        if !pass.rewriter.is_dead(id) {
            cache::simplify(&mut pass, id);
        }
    }
    Ok(pass.rewriter.finish())
}

/// A pattern that ends in a node.
struct Found {
    kind: Kind,
    op: Op,
    inputs: Vec<Input>,
    attrs: Attrs,
    /// Every node of it; the last one may be among them.
    nodes: Vec<NodeId>,
    exactness: Exactness,
}

/// An input of the new op.
enum Input {
    Value(ValueId),
    /// The number one, of the type of a value.
    OneLike(ValueId),
}

struct Pass<'a> {
    rewriter: Rewriter,
    facts: &'a Facts,
    report: &'a mut Report,
    /// Where in the report a new node is.
    entries: BTreeMap<NodeId, usize>,
}

impl Pass<'_> {
    fn view(&self) -> View<'_> {
        View { rewriter: &self.rewriter, facts: self.facts }
    }
    fn replace(&mut self, root: NodeId, found: Found) {
        let nodes = ending_in(root, found.nodes);
        if !self.view().closed(&nodes) {
            return;
        }
        let place = node_place(self.rewriter.graph(), root);
        let inputs = found
            .inputs
            .into_iter()
            .map(|input| {
                Some(match input {
                    Input::Value(value) => value,
                    Input::OneLike(value) => self.one_like(value),
                })
            })
            .collect();
        self.rewriter.change(root, found.op, inputs, found.attrs);
        self.record(root, found.kind, place, (nodes.len(), 1), found.exactness);
    }
    fn record(
        &mut self,
        root: NodeId,
        kind: Kind,
        place: String,
        nodes: (usize, usize),
        exactness: Exactness,
    ) {
        self.entries.insert(root, self.report.replacements.len());
        self.report.replacements.push(Replacement { kind, place, nodes, exactness });
    }
    /// What new values beside a node are named after.
    fn base_name(&self, id: NodeId) -> String {
        let node = self.rewriter.node(id);
        match self.rewriter.output(id, 0) {
            Some(output) if node.name.is_empty() => self.rewriter.value(output).name.clone(),
            _ => node.name.clone(),
        }
    }
    fn one_like(&mut self, value: ValueId) -> ValueId {
        let dtype = self.rewriter.ty(value).as_tensor().map_or(orrery_numerics::DType::F32, |t| t.dtype);
        let one = orrery_numerics::Tensor::from_i64(dtype, vec![1], vec![1]);
        self.rewriter.add_tensor("one", one)
    }
}

/// The nodes once each, `root` last.
fn ending_in(root: NodeId, mut nodes: Vec<NodeId>) -> Vec<NodeId> {
    nodes.sort();
    nodes.dedup();
    nodes.retain(|n| *n != root);
    nodes.push(root);
    nodes
}
