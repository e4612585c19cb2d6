//! Rewriting a graph in place: replace nodes, forward values, insert nodes, then put the result in order.
//!
//! A pass opens a [`Rewriter`] on a graph of its own, changes it, and closes it with [`Rewriter::finish`]. Invariants while
//! it is open:
//! 1. ids stay what they are; new values and nodes get ids at the end;
//! 2. a value that was forwarded is read through [`Rewriter::resolve`]; nodes may still name it;
//! 3. [`Rewriter::uses`] counts reads by living nodes and graph outputs, resolved;
//! 4. a node whose outputs nobody reads is dead, and no longer counts as a reader.
//!
//! `finish` drops dead nodes, constants nobody reads and optional outputs nobody reads, and numbers the rest anew. Values keep their names; a graph output
//! that became another value keeps the name the user knows it by.

use orrery_base::{IndexVec, index::Id};
use orrery_ir::op::Port;
use orrery_ir::{Attrs, Def, Graph, Node, NodeId, Op, Type, Value, ValueId, Weight};
use orrery_numerics::Tensor;
use std::collections::{BTreeMap, HashSet};

/// A graph that is being rewritten.
pub(crate) struct Rewriter {
    graph: Graph,
    forward: Vec<ValueId>,
    uses: Vec<u32>,
    dead: Vec<bool>,
    before: BTreeMap<NodeId, Vec<NodeId>>,
    original: usize,
    output_names: Vec<String>,
    taken: HashSet<String>,
}

impl Rewriter {
    /// Opens a graph. Nodes whose outputs nobody reads are dead from the start.
    pub(crate) fn new(graph: Graph) -> Self {
        let uses = graph.uses().values().copied().collect();
        let mut rewriter = Self {
            forward: graph.values.ids().collect(),
            uses,
            dead: vec![false; graph.nodes.len()],
            before: BTreeMap::new(),
            original: graph.nodes.len(),
            output_names: (0..graph.outputs.len()).map(|i| graph.output_name(i).to_owned()).collect(),
            taken: HashSet::new(),
            graph,
        };
        for id in rewriter.graph.nodes.ids().rev() {
            rewriter.bury_if_unread(id);
        }
        rewriter
    }
    /// The nodes that were there when it was opened, in order.
    pub(crate) fn node_ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.original).map(NodeId::new)
    }
    /// A node. Its inputs may be forwarded: see [`Rewriter::input`].
    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.graph.nodes[id]
    }
    /// True where nobody reads what the node makes.
    pub(crate) fn is_dead(&self, id: NodeId) -> bool {
        self.dead[id.index()]
    }
    /// A value.
    pub(crate) fn value(&self, id: ValueId) -> &Value {
        &self.graph.values[id]
    }
    /// Type of a value.
    pub(crate) fn ty(&self, id: ValueId) -> &Type {
        &self.graph.values[id].ty
    }
    /// The graph as it stands, for diagnostics.
    pub(crate) fn graph(&self) -> &Graph {
        &self.graph
    }
    /// What a value became.
    pub(crate) fn resolve(&self, mut id: ValueId) -> ValueId {
        while self.forward[id.index()] != id {
            id = self.forward[id.index()];
        }
        id
    }
    /// Input `i` of a node, where given.
    pub(crate) fn input(&self, node: NodeId, i: usize) -> Option<ValueId> {
        self.graph.nodes[node].inputs.get(i).copied().flatten().map(|v| self.resolve(v))
    }
    /// Output `i` of a node, where wanted.
    pub(crate) fn output(&self, node: NodeId, i: usize) -> Option<ValueId> {
        self.graph.nodes[node].outputs.get(i).copied().flatten()
    }
    /// How many living readers a value has, graph outputs counted.
    pub(crate) fn uses(&self, id: ValueId) -> u32 {
        self.uses[id.index()]
    }
    /// Living nodes that read a value, each with the number of the input that does.
    pub(crate) fn readers(&self, id: ValueId) -> Vec<(NodeId, usize)> {
        let living = self.graph.nodes.iter().filter(|(node, _)| !self.is_dead(*node));
        let reads = |node: NodeId, inputs: &[Option<ValueId>]| -> Vec<(NodeId, usize)> {
            let same = inputs.iter().enumerate().filter(|(_, v)| v.is_some_and(|v| self.resolve(v) == id));
            same.map(|(i, _)| (node, i)).collect()
        };
        living.flat_map(|(node, n)| reads(node, &n.inputs)).collect()
    }
    /// Sets the type of a value.
    pub(crate) fn set_type(&mut self, id: ValueId, ty: Type) {
        self.graph.values[id].ty = ty;
    }
    /// The node that makes a value, where one does.
    pub(crate) fn maker(&self, id: ValueId) -> Option<NodeId> {
        match self.graph.values[id].def {
            Def::Node(node, _) => Some(node),
            _ => None,
        }
    }
    /// True where a value is an output of the graph.
    pub(crate) fn is_output(&self, id: ValueId) -> bool {
        self.graph.outputs.iter().any(|o| self.resolve(*o) == id)
    }
    /// The tensor of a constant whose elements are at hand.
    pub(crate) fn tensor(&self, id: ValueId) -> Option<&Tensor> {
        self.graph.tensor_of(id)
    }
    /// The constant behind a value.
    pub(crate) fn weight(&self, id: ValueId) -> Option<&Weight> {
        match &self.graph.values[id].def {
            Def::Constant(weight) => Some(weight),
            _ => None,
        }
    }

    /// Number of nodes somebody reads.
    pub(crate) fn living(&self) -> usize {
        self.dead.iter().filter(|dead| !**dead).count()
    }
    /// Number of living nodes inserted before a node.
    pub(crate) fn inserted(&self, at: NodeId) -> usize {
        self.before.get(&at).map_or(0, |list| list.iter().filter(|n| !self.dead[n.index()]).count())
    }
    /// True where a living node that was inserted reads one of these values.
    pub(crate) fn reads_inserted(&self, values: &[ValueId]) -> bool {
        (self.original..self.graph.nodes.len()).map(NodeId::new).filter(|n| !self.is_dead(*n)).any(|n| {
            (0..self.graph.nodes[n].inputs.len())
                .any(|i| self.input(n, i).is_some_and(|v| values.contains(&v)))
        })
    }

    /// From here on `made` are read where the outputs of a node were, those that are wanted.
    pub(crate) fn replace_outputs(&mut self, node: NodeId, made: &[ValueId]) {
        for (i, made) in made.iter().enumerate() {
            if let Some(output) = self.output(node, i) {
                self.replace(output, *made);
            }
        }
    }
    /// From here on `new` is read where `old` was.
    pub(crate) fn replace(&mut self, old: ValueId, new: ValueId) {
        let new = self.resolve(new);
        debug_assert_ne!(old, new, "a value cannot stand for itself");
        self.uses[new.index()] += self.uses[old.index()];
        self.uses[old.index()] = 0;
        self.forward[old.index()] = new;
        if let Some(maker) = self.maker(old) {
            self.bury_if_unread(maker);
        }
    }
    /// Puts another op in a node's place. Its outputs stay, with their names.
    pub(crate) fn change(&mut self, id: NodeId, op: Op, inputs: Vec<Option<ValueId>>, attrs: Attrs) {
        self.graph.nodes[id].op = op;
        self.graph.nodes[id].attrs = attrs;
        self.set_inputs(id, inputs);
    }
    /// Gives a node another name.
    pub(crate) fn set_name(&mut self, id: NodeId, name: String) {
        self.graph.nodes[id].name = name;
    }
    /// Gives a node other inputs.
    pub(crate) fn set_inputs(&mut self, id: NodeId, inputs: Vec<Option<ValueId>>) {
        // The new reads count first, so that nothing they share with the old ones dies in between.
        for input in inputs.iter().flatten() {
            let input = self.resolve(*input);
            self.uses[input.index()] += 1;
        }
        let old = std::mem::replace(&mut self.graph.nodes[id].inputs, inputs);
        for input in old.into_iter().flatten() {
            self.release(input);
        }
    }
    /// Sets an attribute of a node.
    pub(crate) fn set_attr(&mut self, id: NodeId, name: &str, value: impl Into<orrery_ir::Attr>) {
        self.graph.nodes[id].attrs.set(name, value);
    }
    /// Takes an attribute from a node.
    pub(crate) fn remove_attr(&mut self, id: NodeId, name: &str) {
        self.graph.nodes[id].attrs.remove(name);
    }
    /// Replaces a body of a node.
    pub(crate) fn set_bodies(&mut self, id: NodeId, bodies: Vec<Graph>) {
        self.graph.nodes[id].bodies = bodies;
    }
    /// Takes the bodies out of a node, to be put back with [`Rewriter::set_bodies`].
    pub(crate) fn take_bodies(&mut self, id: NodeId) -> Vec<Graph> {
        std::mem::take(&mut self.graph.nodes[id].bodies)
    }
    /// Inserts a node with one output of type `ty` before another node.
    pub(crate) fn insert_before(
        &mut self,
        at: NodeId,
        op: Op,
        name: &str,
        inputs: &[ValueId],
        attrs: Attrs,
        ty: Type,
    ) -> ValueId {
        let inputs = inputs.iter().map(|v| Some(*v)).collect();
        let node = self.insert_node(
            at,
            Node { op, name: name.to_owned(), inputs, outputs: vec![None], attrs, bodies: Vec::new() },
        );
        self.add_output(node, 0, name, ty)
    }
    /// Inserts a node whose outputs are still to be added before another node.
    pub(crate) fn insert_node(&mut self, at: NodeId, node: Node) -> NodeId {
        for input in node.inputs.iter().flatten() {
            let input = self.resolve(*input);
            self.uses[input.index()] += 1;
        }
        let id = self.graph.nodes.push(node);
        self.dead.push(false);
        self.before.entry(at).or_default().push(id);
        id
    }
    /// Makes a value of output `number` of a node that does not give it a name yet.
    pub(crate) fn add_output(&mut self, node: NodeId, number: usize, name: &str, ty: Type) -> ValueId {
        let value = self.add_value(name, ty, Def::Input);
        self.put_output(value, node, number);
        value
    }
    /// Lets output `number` of `node` make `value`, which another node made so far. What was there is made no more.
    pub(crate) fn move_output(&mut self, value: ValueId, node: NodeId, number: usize) {
        let before = self.graph.values[value].def.clone();
        self.put_output(value, node, number);
        if let Def::Node(from, at) = before {
            self.graph.nodes[from].outputs[at as usize] = None;
            self.bury_if_unread(from);
        }
    }
    fn put_output(&mut self, value: ValueId, node: NodeId, number: usize) {
        let outputs = &mut self.graph.nodes[node].outputs;
        if outputs.len() <= number {
            outputs.resize(number + 1, None);
        }
        outputs[number] = Some(value);
        let number = u32::try_from(number).expect("a node has fewer than 2^32 outputs");
        self.graph.values[value].def = Def::Node(node, number);
    }
    /// Adds a constant.
    pub(crate) fn add_constant(&mut self, name: &str, ty: Type, weight: Weight) -> ValueId {
        self.add_value(name, ty, Def::Constant(weight))
    }
    /// Adds a constant with data.
    pub(crate) fn add_tensor(&mut self, name: &str, tensor: Tensor) -> ValueId {
        let ty = Type::tensor(tensor.dtype(), tensor.shape().iter().copied());
        self.add_constant(name, ty, Weight::Data(tensor))
    }
    /// Makes a constant of a value that a node made so far.
    pub(crate) fn make_constant(&mut self, value: ValueId, ty: Type, weight: Weight) {
        let maker = self.maker(value);
        if let Def::Node(node, at) = self.graph.values[value].def {
            self.graph.nodes[node].outputs[at as usize] = None;
        }
        self.graph.values[value].ty = ty;
        self.graph.values[value].def = Def::Constant(weight);
        if let Some(maker) = maker {
            self.bury_if_unread(maker);
        }
    }
    /// Inlines a closed graph before a node: its inputs read `inputs`, and the values of its outputs are returned.
    pub(crate) fn inline(&mut self, at: NodeId, body: &Graph, inputs: &[ValueId]) -> Vec<ValueId> {
        let prefix = self.graph.nodes[at].name.clone();
        let mut map: Vec<Option<ValueId>> = vec![None; body.values.len()];
        for (inner, outer) in body.inputs.iter().zip(inputs) {
            map[inner.index()] = Some(*outer);
        }
        let name = |name: &str| if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
        for (id, value) in body.values.iter() {
            if let Def::Constant(weight) = &value.def {
                map[id.index()] =
                    Some(self.add_constant(&name(&value.name), value.ty.clone(), weight.clone()));
            }
        }
        for node in body.nodes.values() {
            let inputs = node.inputs.iter().map(|v| v.and_then(|v| map[v.index()])).collect();
            let outputs = vec![None; node.outputs.len()];
            let copy = Node { inputs, outputs, name: name(&node.name), ..node.clone() };
            let made = self.insert_node(at, copy);
            for (number, output) in node.outputs.iter().enumerate() {
                if let Some(output) = output {
                    let value = &body.values[*output];
                    map[output.index()] =
                        Some(self.add_output(made, number, &name(&value.name), value.ty.clone()));
                }
            }
        }
        body.outputs.iter().map(|v| map[v.index()].expect("a body's outputs are defined in it")).collect()
    }

    fn add_value(&mut self, name: &str, ty: Type, def: Def) -> ValueId {
        if self.taken.is_empty() {
            self.taken = self.graph.values.values().map(|v| v.name.clone()).collect();
        }
        let mut unique = name.to_owned();
        let mut number = 2;
        while unique.is_empty() || !self.taken.insert(unique.clone()) {
            unique = format!("{name}.{number}");
            number += 1;
        }
        let id = self.graph.values.push(Value { name: unique, ty, def });
        self.forward.push(id);
        self.uses.push(0);
        id
    }
    fn release(&mut self, value: ValueId) {
        let value = self.resolve(value);
        self.uses[value.index()] -= 1;
        if let Some(maker) = self.maker(value) {
            self.bury_if_unread(maker);
        }
    }
    fn bury_if_unread(&mut self, id: NodeId) {
        // Depth is bounded by a work list, not by the stack: chains can be long.
        let mut list = vec![id];
        while let Some(id) = list.pop() {
            let read = self.graph.nodes[id].outputs.iter().flatten().any(|v| self.uses[v.index()] > 0);
            if read || self.dead[id.index()] {
                continue;
            }
            self.dead[id.index()] = true;
            for input in self.graph.nodes[id].inputs.clone().into_iter().flatten() {
                let input = self.resolve(input);
                self.uses[input.index()] -= 1;
                list.extend(self.maker(input));
            }
        }
    }

    /// The rewritten graph.
    pub(crate) fn finish(mut self) -> Graph {
        let mut order = Vec::with_capacity(self.graph.nodes.len());
        for id in 0..self.original {
            self.emit(NodeId::new(id), &mut order);
        }
        for i in 0..self.graph.outputs.len() {
            self.graph.outputs[i] = self.resolve(self.graph.outputs[i]);
        }
        let mut node_at = vec![None; self.graph.nodes.len()];
        for (at, id) in order.iter().enumerate() {
            node_at[id.index()] = Some(NodeId::new(at));
        }
        let mut value_at: Vec<Option<ValueId>> = vec![None; self.graph.values.len()];
        let mut values = IndexVec::new();
        for id in self.graph.values.ids() {
            let kept = match self.graph.values[id].def {
                Def::Input => true,
                Def::Constant(_) => self.uses[id.index()] > 0,
                Def::Node(node, number) => {
                    self.output(node, number as usize) == Some(id)
                        && node_at[node.index()].is_some()
                        && self.forward[id.index()] == id
                        && (self.uses[id.index()] > 0 || !self.is_optional(node, number as usize))
                }
            };
            if !kept {
                continue;
            }
            let value = &mut self.graph.values[id];
            let def = match std::mem::replace(&mut value.def, Def::Input) {
                Def::Node(node, number) => {
                    Def::Node(node_at[node.index()].expect("the node is kept"), number)
                }
                other => other,
            };
            let (name, ty) =
                (std::mem::take(&mut value.name), std::mem::replace(&mut value.ty, Type::Unknown));
            value_at[id.index()] = Some(values.push(Value { name, ty, def }));
        }
        let mut nodes = IndexVec::new();
        for id in order {
            let inputs = self.graph.nodes[id]
                .inputs
                .iter()
                .map(|v| {
                    v.map(|v| value_at[self.resolve(v).index()].expect("what a living node reads is kept"))
                })
                .collect();
            let mut outputs: Vec<Option<ValueId>> =
                self.graph.nodes[id].outputs.iter().map(|v| v.and_then(|v| value_at[v.index()])).collect();
            while outputs.last() == Some(&None) && self.is_optional(id, outputs.len() - 1) {
                outputs.pop();
            }
            let node = &mut self.graph.nodes[id];
            nodes.push(Node {
                op: node.op,
                name: std::mem::take(&mut node.name),
                inputs,
                outputs,
                attrs: std::mem::take(&mut node.attrs),
                bodies: std::mem::take(&mut node.bodies),
            });
        }
        let moved = |id: &ValueId| value_at[id.index()].expect("inputs and outputs are kept");
        let (inputs, outputs) =
            (self.graph.inputs.iter().map(moved).collect(), self.graph.outputs.iter().map(moved).collect());
        let mut graph = Graph {
            name: self.graph.name,
            values,
            nodes,
            inputs,
            outputs,
            output_names: Vec::new(),
            states: self.graph.states,
            metadata: self.graph.metadata,
        };
        name_outputs(&mut graph, self.output_names);
        graph
    }
    fn is_optional(&self, node: NodeId, output: usize) -> bool {
        matches!(self.graph.nodes[node].op.def().outputs.get(output), Some(Port::Optional(_)))
    }
    fn emit(&mut self, id: NodeId, order: &mut Vec<NodeId>) {
        for inserted in self.before.remove(&id).unwrap_or_default() {
            self.emit(inserted, order);
        }
        if !self.dead[id.index()] {
            order.push(id);
        }
    }
}

/// Says under which names the user knows the outputs, where these are not the names of the values.
pub(crate) fn name_outputs(graph: &mut Graph, names: Vec<String>) {
    let differ = graph.outputs.iter().zip(&names).any(|(id, name)| &graph.values[*id].name != name);
    graph.output_names = if differ { names } else { Vec::new() };
}
