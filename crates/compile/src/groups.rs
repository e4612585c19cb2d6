//! Which nodes become one step.
//!
//! A group is an *anchor* and the element-wise nodes that follow it one after the other on its output: convolution, bias,
//! activation, residual. Fusing changes no number: a value within a group is still rounded to its declared type.

use crate::Options;
use orrery_base::index::Id;
use orrery_base::{Diagnostic, IndexVec, Result};
use orrery_cost::Target;
use orrery_ir::infer::{Facts, at_node, node_place, with_ctx};
use orrery_ir::op::{Access, AxisKind, Combine, Engine, IterSpace};
use orrery_ir::{Def, Dim, Graph, NodeId, Op, Type, ValueId};
use orrery_machine::ExecutionModel;
use orrery_program::Phase;
use std::collections::BTreeSet;

/// How a group is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupKind {
    /// Computes on cores.
    Compute,
    /// Moves data.
    Movement,
    /// Renames data.
    View,
    /// Integers that follow from extents: the host knows them before the run.
    Extents,
}

/// Nodes that become one step.
#[derive(Clone, Debug)]
pub struct Group {
    /// What they do.
    pub kind: GroupKind,
    /// The anchor, then its followers.
    pub nodes: Vec<NodeId>,
    /// How the anchor can be cut; none where only as a whole.
    pub space: Option<IterSpace>,
}

impl Group {
    /// The values that the group's last node makes: what others can use.
    pub fn outputs(&self, graph: &Graph) -> Vec<ValueId> {
        let last = self.nodes[self.nodes.len() - 1];
        graph.nodes[last].outputs.iter().flatten().copied().collect()
    }
    /// Its name: the user's names of its nodes.
    pub fn name(&self, graph: &Graph) -> String {
        let names: Vec<String> = self.nodes.iter().map(|n| short_name(graph, *n)).collect();
        names.join(" + ")
    }
}

fn short_name(graph: &Graph, id: NodeId) -> String {
    let node = &graph.nodes[id];
    if node.name.is_empty() { node_place(graph, id) } else { node.name.clone() }
}

/// Most nodes in one group: what a code generator can keep in registers.
const LONGEST_GROUP: usize = 12;

/// Forms the groups, in an order in which they can run. Software that joins no ops has a kernel for the gradient of an
/// element-wise op or a normalization all the same, in the backward pass of a training step: there it is several
/// nodes.
///
/// # Errors
/// `unsupported-op` for strings, sequences and the like; `unknown-type` where inference does not know an operand.
pub fn form(graph: &Graph, facts: &Facts, target: &Target<'_>, options: &Options) -> Result<Vec<Group>> {
    let fuses = target.stack.is_none_or(|s| s.fuses);
    let backward = options.training.map(|(backward, _)| backward);
    let whole_values = matches!(
        target.system.model,
        ExecutionModel::Kernel(_) | ExecutionModel::Engines(_) | ExecutionModel::Stream(_)
    );
    let on_tiles = matches!(target.system.model, ExecutionModel::BulkSynchronous(_));
    let uses = graph.uses();
    check_sizes(graph, facts, &uses)?;
    let mut taken = vec![false; graph.nodes.len()];
    // The node that alone uses each value.
    let mut sole_user: Vec<Option<NodeId>> = vec![None; graph.values.len()];
    for (id, node) in graph.nodes.iter() {
        for input in node.inputs.iter().flatten() {
            if uses[*input] == 1 {
                sole_user[input.index()] = Some(id);
            }
        }
    }
    let mut groups: Vec<(NodeId, Group)> = Vec::new();
    for (id, node) in graph.nodes.iter() {
        if taken[id.index()] || node.outputs.iter().flatten().all(|v| uses[*v] == 0) {
            continue;
        }
        check(graph, facts, id)?;
        let kind = kind_of(graph, facts, id);
        let space = with_ctx(graph, facts, id, |ctx| (node.op.def().space)(ctx));
        let mut group = Group { kind, nodes: vec![id], space };
        taken[id.index()] = true;
        let mut last = id;
        let sums = !whole_values && is_vector_sum(graph, id, group.space.as_ref());
        let of_gradient = whole_values
            && node.op.def().engine == Engine::Vector
            && backward.is_some_and(|first| id >= first);
        let fuses = fuses || of_gradient;
        while kind == GroupKind::Compute
            && fuses
            && !sums
            && group.space.is_some()
            && group.nodes.len() < LONGEST_GROUP
        {
            let [Some(output)] = graph.nodes[last].outputs[..] else { break };
            let Some(next) = sole_user[output.index()] else { break };
            if taken[next.index()]
                || !follows(graph, facts, output, next)
                || changes_state(graph, &group, next)
                || part(graph, options, &sole_user, id) != part(graph, options, &sole_user, next)
            {
                break;
            }
            check(graph, facts, next)?;
            taken[next.index()] = true;
            let shape = &facts[output].ty;
            let room = LONGEST_GROUP - group.nodes.len() - 1;
            let producers = producers(graph, facts, (next, shape), (&uses, &mut taken), room);
            group.nodes.extend(producers);
            group.nodes.push(next);
            last = next;
        }
        groups.push((last, group));
    }
    if whole_values && fuses {
        groups = clustered(graph, facts, groups, &|_| Phase::Forward);
    }
    if on_tiles && fuses && options.training.is_some() {
        groups = clustered(graph, facts, groups, &|group| {
            group.nodes.last().map_or(Phase::Forward, |last| options.phase(*last))
        });
    }
    groups.sort_by_key(|(last, _)| *last);
    Ok(groups.into_iter().map(|(_, group)| group).collect())
}

/// Element-wise nodes of that shape that make what only `node` reads, and what only those read, in an order in which they can
/// run. They are taken.
fn producers(
    graph: &Graph,
    facts: &Facts,
    (node, shape): (NodeId, &Type),
    (uses, taken): (&IndexVec<ValueId, u32>, &mut [bool]),
    room: usize,
) -> Vec<NodeId> {
    let mut found = Vec::new();
    let mut open = vec![node];
    while let Some(reader) = open.pop() {
        for value in graph.nodes[reader].inputs.iter().flatten() {
            let Def::Node(maker, _) = graph.values[*value].def else { continue };
            let alone = uses[*value] == 1 && !taken[maker.index()] && found.len() < room;
            if alone && is_like(graph, facts, maker, shape) && check(graph, facts, maker).is_ok() {
                taken[maker.index()] = true;
                found.push(maker);
                open.push(maker);
            }
        }
    }
    found.sort_unstable();
    found
}

/// True for an element-wise node with one output, of a shape like this one.
fn is_like(graph: &Graph, facts: &Facts, id: NodeId, shape: &Type) -> bool {
    let node = &graph.nodes[id];
    let [Some(output)] = node.outputs[..] else { return false };
    let (Type::Tensor(own), Type::Tensor(like)) = (&facts[output].ty, shape) else { return false };
    facts[output].content.is_none()
        && own.shape.is_some()
        && own.shape == like.shape
        && node.op.def().engine == Engine::Vector
        && with_ctx(graph, facts, id, |ctx| (node.op.def().space)(ctx)).is_some_and(|s| is_elementwise(&s))
}

/// Most dimensions of values whose groups are brought together: numbers for channels, and single ones.
const MOST_CLUSTERED: usize = 1;

/// Element-wise groups of one small shape that follow one another become one, until something else reads what they make: a
/// code generator makes one kernel of them, which writes all that others read.
/// `part` says what is never brought together.
fn clustered(
    graph: &Graph,
    facts: &Facts,
    groups: Vec<(NodeId, Group)>,
    part: &dyn Fn(&Group) -> Phase,
) -> Vec<(NodeId, Group)> {
    let mut groups = groups;
    groups.sort_by_key(|(last, _)| *last);
    let mut made: Vec<(NodeId, Group)> = Vec::new();
    // The open cluster and its shape: the place in `made`.
    let mut open: Option<(usize, Type)> = None;
    for (last, group) in groups {
        let shape = small(graph, facts, &group);
        if let (Some((at, of)), Some(shape)) = (&open, &shape)
            && of == shape
            && part(&made[*at].1) == part(&group)
        {
            let (end, cluster) = &mut made[*at];
            *end = last;
            cluster.nodes.extend(group.nodes);
            continue;
        }
        let reads = |cluster: &Group| {
            let makes = |v: &ValueId| matches!(graph.values[*v].def, Def::Node(maker, _) if cluster.nodes.contains(&maker));
            group.nodes.iter().flat_map(|n| graph.nodes[*n].inputs.iter().flatten()).any(makes)
        };
        if shape.is_some() || open.as_ref().is_some_and(|(at, _)| reads(&made[*at].1)) {
            open = shape.map(|shape| (made.len(), shape));
        }
        made.push((last, group));
    }
    made
}

/// The shape of an element-wise group that is small, as a type of one element type.
fn small(graph: &Graph, facts: &Facts, group: &Group) -> Option<Type> {
    let [Some(first)] = graph.nodes[group.nodes[0]].outputs[..] else { return None };
    let Type::Tensor(ty) = &facts[first].ty else { return None };
    let of_one_type = Type::tensor(orrery_numerics::DType::F32, ty.shape.clone()?);
    let elementwise = group.kind == GroupKind::Compute
        && ty.shape.as_ref().is_some_and(|shape| shape.len() <= MOST_CLUSTERED)
        && group.nodes.iter().all(|id| is_like(graph, facts, *id, &of_one_type));
    elementwise.then_some(of_one_type)
}

/// True for sums of a vector unit: where they are cut over cores, nothing can follow before they are added up.
fn is_vector_sum(graph: &Graph, id: NodeId, space: Option<&IterSpace>) -> bool {
    graph.nodes[id].op.def().engine == Engine::Vector
        && space.is_some_and(|s| s.axes.iter().any(|a| a.kind == AxisKind::Reduce(Combine::Sum)))
}

fn kind_of(graph: &Graph, facts: &Facts, id: NodeId) -> GroupKind {
    let node = &graph.nodes[id];
    if node.outputs.iter().flatten().all(|v| facts[*v].content.is_some()) {
        return GroupKind::Extents;
    }
    match node.op.def().engine {
        Engine::View => GroupKind::View,
        Engine::Movement => GroupKind::Movement,
        _ => GroupKind::Compute,
    }
}

/// True where `next` maps `input` element by element to an output of the same shape.
fn follows(graph: &Graph, facts: &Facts, input: ValueId, next: NodeId) -> bool {
    let node = &graph.nodes[next];
    let [Some(output)] = node.outputs[..] else { return false };
    if facts[output].content.is_some() || node.op.def().engine != Engine::Vector {
        return false;
    }
    let (Type::Tensor(from), Type::Tensor(to)) = (&facts[input].ty, &facts[output].ty) else { return false };
    if from.shape.is_none() || from.shape != to.shape {
        return false;
    }
    with_ctx(graph, facts, next, |ctx| (node.op.def().space)(ctx)).is_some_and(|space| is_elementwise(&space))
}

/// True where `next` would make a state's new value in a step that is no element-wise one: changing states is a step of its
/// own, which need not be where the gradients are made.
fn changes_state(graph: &Graph, group: &Group, next: NodeId) -> bool {
    let left = graph.states.iter().map(|state| graph.outputs[state.output]);
    let elementwise = group.space.as_ref().is_some_and(is_elementwise);
    !elementwise && left.into_iter().any(|value| graph.nodes[next].outputs.contains(&Some(value)))
}

/// The part of a training step that a node is done in. What only the update reads in a wider type is cast there: gradients are
/// kept as they are made until all are there.
fn part(graph: &Graph, options: &Options, sole_user: &[Option<NodeId>], id: NodeId) -> Phase {
    let node = &graph.nodes[id];
    match node.outputs[..] {
        [Some(output)] if node.op == Op::Cast => {
            sole_user[output.index()].map_or_else(|| options.phase(id), |user| options.phase(user))
        }
        _ => options.phase(id),
    }
}

/// True where every axis is parallel and every operand follows the dimensions of the outputs one to one.
pub fn is_elementwise(space: &IterSpace) -> bool {
    let Some(output) = space.outputs.first() else { return false };
    space.axes.iter().all(|a| a.kind == AxisKind::Parallel)
        && output.len() == space.axes.len()
        && output.iter().enumerate().all(|(d, a)| *a == Access::along(d))
        && space.outputs.iter().all(|other| other == output)
        && space.inputs.iter().all(|dims| {
            let lead = output.len() - dims.len().min(output.len());
            dims.iter().enumerate().all(|(d, a)| *a == Access::Whole || *a == Access::along(lead + d))
        })
}

/// Refuses sizes that no input tells, as the number of what a `NonZero` finds.
fn check_sizes(graph: &Graph, facts: &Facts, uses: &IndexVec<ValueId, u32>) -> Result<()> {
    let symbols = |value: ValueId| {
        let shape = facts[value].ty.as_tensor().and_then(|ty| ty.shape.as_ref());
        shape.into_iter().flatten().flat_map(Dim::symbols).collect::<BTreeSet<String>>()
    };
    let given: BTreeSet<String> = graph.inputs.iter().flat_map(|id| symbols(*id)).collect();
    for (id, node) in graph.nodes.iter() {
        let made = node.outputs.iter().flatten().filter(|value| uses[**value] > 0);
        if let Some(value) = made.copied().find(|value| !symbols(*value).is_subset(&given)) {
            return by_running(graph, facts, id, value).err();
        }
    }
    Ok(())
}

fn by_running(graph: &Graph, facts: &Facts, id: NodeId, value: ValueId) -> Diagnostic {
    let (name, ty) = (&graph.values[value].name, &facts[value].ty);
    at_node(graph, id, "unknown-type", format!("`{name}` has type {ty}: its size is known only by running"))
        .help("machines compile for sizes that are known: fix those of the model's inputs, or run it with --on host")
}

fn check(graph: &Graph, facts: &Facts, id: NodeId) -> Result<()> {
    let node = &graph.nodes[id];
    if node.op.def().engine == Engine::Host {
        return at_node(
            graph,
            id,
            "unsupported-op",
            format!("{} works on strings or lists, which no accelerator holds", node.op),
        )
        .help("run that part of the model on the host")
        .err();
    }
    for value in node.inputs.iter().chain(&node.outputs).flatten() {
        match &facts[*value].ty {
            Type::Tensor(ty) if ty.shape.is_some() => {}
            _ => return by_running(graph, facts, id, *value).err(),
        }
    }
    Ok(())
}

/// True for constants that belong into a step's body: integers and single elements that say how, not what.
pub fn is_inline(graph: &Graph, value: ValueId) -> bool {
    match (&graph.values[value].def, graph.tensor_of(value)) {
        (Def::Constant(_), Some(tensor)) => {
            tensor.len() <= 1 || (tensor.rank() <= 1 && tensor.len() <= 64 && tensor.dtype().is_int())
        }
        _ => false,
    }
}
