//! Which nodes are computed together.
//!
//! A group is a node whose kernel can do more to its result while it is in the cache (a product or convolution), or an
//! elementwise node, and elementwise nodes of the same shape after it. Only the last node's value is used outside the
//! group, so the group can run where its last node stands.

use super::lower::lower;
use crate::kernels::pointwise::{Program, Source};
use orrery_base::IndexVec;
use orrery_ir::{Graph, NodeId, Op, Type, ValueId};
use orrery_numerics::DType;
use std::collections::{BTreeMap, BTreeSet};

/// Nodes of a group beside the first, at most.
const LONGEST: usize = 32;
/// Operands that a group reads from outside, at most.
const WIDEST: usize = 16;

/// Nodes that are computed together, in order.
#[derive(Debug)]
pub(crate) struct Group {
    /// The node that comes first.
    pub(crate) head: NodeId,
    /// Elementwise nodes joined to it.
    pub(crate) tail: Vec<NodeId>,
}

/// What a value is to a program: a number where it is a constant scalar.
pub(crate) type Numbers = BTreeMap<ValueId, f32>;

/// Groups of all nodes not in `done`, in an order in which they can run.
pub(crate) fn groups(graph: &Graph, numbers: &Numbers, done: &BTreeSet<NodeId>) -> Vec<Group> {
    let mut users: IndexVec<ValueId, Vec<NodeId>> = graph.values.ids().map(|_| Vec::new()).collect();
    for (id, node) in graph.nodes.iter() {
        for value in node.inputs.iter().flatten() {
            users[*value].push(id);
        }
    }
    let outputs: BTreeSet<ValueId> = graph.outputs.iter().copied().collect();
    let plan = Plan { graph, numbers, users, outputs };
    let mut claimed = done.clone();
    let mut groups = Vec::new();
    for products in [true, false] {
        for id in graph.nodes.ids() {
            if claimed.contains(&id) {
                continue;
            }
            let takes_tail =
                matches!(graph.nodes[id].op, Op::Conv | Op::ConvTranspose | Op::MatMul | Op::Gemm);
            if takes_tail != products {
                continue;
            }
            let tail =
                if takes_tail || plan.is_elementwise(id) { plan.tail(id, &claimed) } else { Vec::new() };
            claimed.insert(id);
            claimed.extend(&tail);
            groups.push(Group { head: id, tail });
        }
    }
    groups.sort_by_key(|g| g.tail.last().copied().unwrap_or(g.head));
    groups
}

struct Plan<'a> {
    graph: &'a Graph,
    numbers: &'a Numbers,
    users: IndexVec<ValueId, Vec<NodeId>>,
    outputs: BTreeSet<ValueId>,
}

impl Plan<'_> {
    /// The type of the node's only output, where it is f32 of known rank.
    fn made(&self, id: NodeId) -> Option<(ValueId, &Type)> {
        let [Some(value)] = *self.graph.nodes[id].outputs.as_slice() else { return None };
        let ty = &self.graph.values[value].ty;
        let tensor = ty.as_tensor()?;
        (tensor.dtype == DType::F32 && tensor.shape.is_some()).then_some((value, ty))
    }
    fn is_elementwise(&self, id: NodeId) -> bool {
        self.made(id).is_some() && are_elementwise(self.graph, &[id], self.numbers)
    }
    /// The longest run of elementwise nodes after `head` of which only the last one's value is used elsewhere.
    fn tail(&self, head: NodeId, claimed: &BTreeSet<NodeId>) -> Vec<NodeId> {
        let Some((first, ty)) = self.made(head) else { return Vec::new() };
        let mut members = BTreeSet::from([head]);
        let mut values = BTreeSet::from([first]);
        let mut tail = Vec::new();
        let mut best = 0;
        let mut waiting: BTreeSet<NodeId> = self.users[first].iter().copied().collect();
        while let Some(next) = waiting.pop_first() {
            if tail.len() == LONGEST {
                break;
            }
            if claimed.contains(&next) || members.contains(&next) || !self.is_elementwise(next) {
                continue;
            }
            let Some((value, next_ty)) = self.made(next) else { continue };
            if next_ty != ty {
                continue;
            }
            members.insert(next);
            values.insert(value);
            tail.push(next);
            waiting.extend(&self.users[value]);
            if self.external(&members, &values) > WIDEST {
                break;
            }
            let leaves =
                |v: &ValueId| self.outputs.contains(v) || self.users[*v].iter().any(|u| !members.contains(u));
            if values.iter().all(|v| *v == value || !leaves(v)) {
                best = tail.len();
            }
        }
        tail.truncate(best);
        tail
    }
    /// How many operands that are no plain numbers the members read from outside.
    fn external(&self, members: &BTreeSet<NodeId>, values: &BTreeSet<ValueId>) -> usize {
        let mut read: BTreeSet<ValueId> =
            members.iter().flat_map(|m| self.graph.nodes[*m].inputs.iter().flatten().copied()).collect();
        read.retain(|v| !values.contains(v) && !self.numbers.contains_key(v));
        read.len()
    }
}

/// True where all nodes are elementwise ops on f32.
pub(crate) fn are_elementwise(graph: &Graph, nodes: &[NodeId], numbers: &Numbers) -> bool {
    nodes.iter().all(|id| {
        let node = &graph.nodes[*id];
        let f32s = |v: &ValueId| graph.values[*v].ty.as_tensor().is_some_and(|t| t.dtype == DType::F32);
        let sources: Vec<Option<Source>> = node
            .inputs
            .iter()
            .map(|v| v.map(|v| numbers.get(&v).map_or(Source::Input(0), |&x| Source::Number(x))))
            .collect();
        node.inputs.iter().flatten().all(f32s) && lower(node, &sources, &mut Program::default()).is_some()
    })
}
