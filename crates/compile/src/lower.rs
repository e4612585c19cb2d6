//! Emitting steps and buffers, alike for all execution models.

use crate::groups::{Group, is_inline};
use crate::{Fidelity, Options};
use orrery_base::{IndexVec, Result};
use orrery_cost::Target;
use orrery_ir::infer::{Facts, node_place, with_ctx};
use orrery_ir::op::{Access, Work};
use orrery_ir::{Attrs, Def, Dim, Graph, Node, NodeId, Op, Type, ValueId};
use orrery_numerics::DType;
use orrery_program::{
    Arithmetic, Buffer, BufferClass, BufferId, Cut, Layout, Memory, MemoryId, Program, Read, RoundingMode,
    Step, StepId, StepKind, Unit, Write, WriteMode,
};
use std::collections::BTreeMap;

/// Products that the matrix unit adds exactly before it rounds to its partial format: one block of inputs.
const HALF_GROUP: u32 = 16;

/// A program being emitted.
pub struct Emitter<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// What is known of its values.
    pub facts: &'a Facts,
    /// The target.
    pub target: &'a Target<'a>,
    /// The program so far.
    pub program: Program,
    /// The buffer of each value that has one.
    pub buffer_of: BTreeMap<ValueId, BufferId>,
    /// Nodes mapped so far.
    pub nodes: Vec<(String, Fidelity)>,
    /// The step that wrote each buffer.
    pub writer: BTreeMap<BufferId, StepId>,
    /// How results are rounded.
    pub rounding: RoundingMode,
}

/// The body of a step and which values its inputs and outputs are.
pub struct Body {
    /// The nodes as a graph of their own.
    pub graph: Graph,
    /// Values of the model's graph that come in, in order.
    pub operands: Vec<ValueId>,
    /// For each operand: the node of the group and the position at which it is first used.
    pub first_use: Vec<(usize, usize)>,
    /// Values that go out, in order.
    pub results: Vec<ValueId>,
}

impl<'a> Emitter<'a> {
    /// An empty program.
    pub fn new(graph: &'a Graph, facts: &'a Facts, target: &'a Target<'a>, options: &Options) -> Self {
        Self {
            graph,
            facts,
            target,
            program: Program {
                name: graph.name.clone(),
                machine: target.system.name.clone(),
                precision: target.precision.name.clone(),
                symbols: options.symbols.clone(),
                memories: IndexVec::new(),
                buffers: IndexVec::new(),
                steps: IndexVec::new(),
                inputs: Vec::new(),
                outputs: Vec::new(),
            },
            buffer_of: BTreeMap::new(),
            nodes: Vec::new(),
            writer: BTreeMap::new(),
            rounding: if options.stochastic_rounding {
                RoundingMode::Stochastic
            } else {
                RoundingMode::Nearest
            },
        }
    }
    /// Adds a memory.
    pub fn memory(&mut self, name: &str, cores: u64, bytes: u64, reserved: u64) -> MemoryId {
        self.program.memories.push(Memory { name: name.to_owned(), cores, bytes, reserved })
    }
    /// Type of a value; groups are only formed where it is a tensor of known rank.
    pub fn type_of(&self, value: ValueId) -> (DType, Vec<Dim>) {
        match &self.facts[value].ty {
            Type::Tensor(ty) => (ty.dtype, ty.shape.clone().unwrap_or_default()),
            _ => (DType::F32, Vec::new()),
        }
    }
    /// Name of a value.
    pub fn name_of(&self, value: ValueId) -> String {
        self.graph.values[value].name.clone()
    }
    /// Adds a buffer for a value, without making it the value's own.
    pub fn buffer(
        &mut self,
        value: ValueId,
        suffix: &str,
        class: BufferClass,
        home: MemoryId,
        layout: Layout,
    ) -> BufferId {
        let (dtype, shape) = self.type_of(value);
        let weight = match (&self.graph.values[value].def, class) {
            (Def::Constant(weight), BufferClass::Parameter) => Some(weight.clone()),
            _ => None,
        };
        let name = format!("{}{suffix}", self.name_of(value));
        self.program.buffers.push(Buffer { name, class, dtype, shape, home, layout, weight, view_of: None })
    }
    /// The nodes of a group, or of any list of nodes, as a graph of their own.
    pub fn body(&self, nodes: &[NodeId]) -> Body {
        self.body_with(nodes, &BTreeMap::new())
    }
    /// As [`Emitter::body`]; values in `renamed` are taken from outside under the other value.
    pub fn body_with(&self, nodes: &[NodeId], renamed: &BTreeMap<ValueId, ValueId>) -> Body {
        let mut body =
            Body { graph: Graph::new(""), operands: Vec::new(), first_use: Vec::new(), results: Vec::new() };
        let mut inside: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        for (number, &id) in nodes.iter().enumerate() {
            let node = &self.graph.nodes[id];
            let mut inputs = Vec::with_capacity(node.inputs.len());
            for (position, input) in node.inputs.iter().enumerate() {
                let Some(value) = *input else {
                    inputs.push(None);
                    continue;
                };
                let outer = renamed.get(&value).copied().unwrap_or(value);
                let inner = *inside.entry(value).or_insert_with(|| {
                    let name = self.name_of(outer);
                    if let (true, Some(tensor)) = (is_inline(self.graph, value), self.graph.tensor_of(value))
                    {
                        return body.graph.add_tensor(name, tensor.clone());
                    }
                    body.operands.push(outer);
                    body.first_use.push((number, position));
                    body.graph.add_input(name, self.facts[outer].ty.clone())
                });
                inputs.push(Some(inner));
            }
            let names = node.outputs.iter().map(|v| v.map(|v| self.name_of(v))).collect();
            let made = body.graph.add_node(
                node.op,
                node.name.clone(),
                inputs,
                names,
                node.attrs.clone(),
                node.bodies.clone(),
            );
            let made = body.graph.nodes[made].outputs.clone();
            for (outer, inner) in node.outputs.iter().zip(made) {
                if let (Some(outer), Some(inner)) = (*outer, inner) {
                    body.graph.values[inner].ty = self.facts[outer].ty.clone();
                    inside.insert(outer, inner);
                }
            }
        }
        if let Some(last) = nodes.last() {
            for value in self.graph.nodes[*last].outputs.iter().flatten() {
                body.results.push(*value);
                body.graph.outputs.push(inside[value]);
            }
        }
        body
    }
    /// A body that passes its one operand through.
    pub fn identity(&self, value: ValueId) -> Graph {
        let mut graph = Graph::new("");
        let ty = self.facts[value].ty.clone();
        let input = graph.add_input(self.name_of(value), ty.clone());
        let node = graph.add_node(
            Op::Identity,
            "",
            vec![Some(input)],
            vec![Some("moved".into())],
            Attrs::new(),
            Vec::new(),
        );
        if let [Some(output)] = graph.nodes[node].outputs[..] {
            graph.values[output].ty = ty;
            graph.outputs.push(output);
        }
        graph
    }
    /// Work of a list of nodes.
    pub fn work(&self, nodes: &[NodeId]) -> Work {
        nodes.iter().fold(Work::NONE, |sum, &id| {
            let work = with_ctx(self.graph, self.facts, id, |ctx| (self.graph.nodes[id].op.def().work)(ctx));
            Work {
                macs: sum.macs + work.macs,
                vector: sum.vector + work.vector,
                special: sum.special + work.special,
            }
        })
    }
    /// The arithmetic of the precision compiled for.
    pub fn arithmetic(&self) -> Arithmetic {
        let precision = self.target.precision;
        let accumulate = orrery_numerics::Format::of(precision.accumulate).map_or("fp32", |f| f.name);
        let narrow = orrery_numerics::Format::parse(&precision.multiply)
            .filter(|f| orrery_numerics::Format::of(precision.storage).is_some_and(|s| f.bits() < s.bits()));
        Arithmetic {
            accumulate: accumulate.to_owned(),
            group: if accumulate == "fp32" { 1 } else { HALF_GROUP },
            inputs: narrow.map(|f| f.name.to_owned()),
            rounding: self.rounding,
        }
    }
    /// A step with no grid, to be completed and pushed.
    pub fn step(&self, name: String, kind: StepKind, body: Graph) -> Step {
        Step {
            name,
            kind,
            unit: match kind {
                StepKind::Host => Unit::HostLink,
                StepKind::Stream => Unit::Streaming,
                _ => Unit::Device,
            },
            body,
            base: 0,
            grid: Vec::new(),
            part_attrs: Attrs::new(),
            padding: 0.0,
            reads: Vec::new(),
            writes: Vec::new(),
            arithmetic: self.arithmetic(),
            work: Work::NONE,
            tile: None,
            approximate: false,
            after: Vec::new(),
        }
    }
    /// Appends a step; it waits for the writers of what it reads on other units.
    pub fn push(&mut self, mut step: Step) -> StepId {
        for read in &step.reads {
            if let Some(&writer) = self.writer.get(&self.program.storage(read.buffer))
                && self.program.steps[writer].unit != step.unit
                && !step.after.contains(&writer)
            {
                step.after.push(writer);
            }
        }
        let writes: Vec<BufferId> = step.writes.iter().map(|w| self.program.storage(w.buffer)).collect();
        let id = self.program.steps.push(step);
        for buffer in writes {
            self.writer.insert(buffer, id);
        }
        id
    }
    /// Notes how the nodes of a group were mapped.
    pub fn mapped(&mut self, group: &Group, fidelity: Fidelity) {
        for &id in &group.nodes {
            self.nodes.push((node_place(self.graph, id), fidelity));
        }
    }
    /// Accesses of a group's operands and results in terms of the anchor's axes.
    ///
    /// An operand of the anchor is read as the anchor's space says; an operand of a follower has the anchor's output
    /// dimensions where it is not broadcast.
    pub fn accesses(&self, group: &Group, body: &Body) -> (Vec<Vec<Access>>, Vec<Vec<Access>>) {
        let whole = |value: ValueId| vec![Access::Whole; self.type_of(value).1.len()];
        let Some(space) = &group.space else {
            return (
                body.operands.iter().map(|v| whole(*v)).collect(),
                body.results.iter().map(|v| whole(*v)).collect(),
            );
        };
        let out = &space.outputs[0];
        let anchor_output = self.graph.nodes[group.nodes[0]].outputs.iter().flatten().next().copied();
        let out_shape = anchor_output.map(|v| self.type_of(v).1).unwrap_or_default();
        let reads = body
            .operands
            .iter()
            .zip(&body.first_use)
            .map(|(value, (node, position))| {
                let shape = self.type_of(*value).1;
                if *node == 0 {
                    let access = space.inputs.get(*position).cloned().unwrap_or_default();
                    return if access.len() == shape.len() { access } else { whole(*value) };
                }
                let lead = out.len() - shape.len().min(out.len());
                let follow = |(d, extent): (usize, &Dim)| {
                    if extent.is(1) && !out_shape[lead + d].is(1) {
                        Access::Whole
                    } else {
                        out[lead + d].clone()
                    }
                };
                shape.iter().enumerate().map(follow).collect()
            })
            .collect();
        let writes = if group.nodes.len() > 1 {
            vec![out.clone()]
        } else {
            let node: &Node = &self.graph.nodes[group.nodes[0]];
            node.outputs
                .iter()
                .enumerate()
                .filter_map(|(i, v)| v.map(|v| space.outputs.get(i).cloned().unwrap_or_else(|| whole(v))))
                .collect()
        };
        (reads, writes)
    }
    /// Parameters get their buffers from `place`; everything else must have one already.
    ///
    /// # Errors
    /// As `place`.
    pub fn source(
        &mut self,
        value: ValueId,
        place: impl FnOnce(&mut Self) -> Result<BufferId>,
    ) -> Result<BufferId> {
        if let Some(&buffer) = self.buffer_of.get(&value) {
            return Ok(buffer);
        }
        let buffer = place(self)?;
        self.buffer_of.insert(value, buffer);
        Ok(buffer)
    }
}

/// Reads of buffers in order.
pub fn reads(buffers: &[BufferId], accesses: Vec<Vec<Access>>) -> Vec<Read> {
    buffers.iter().zip(accesses).map(|(&buffer, access)| Read { buffer, access }).collect()
}

/// A write that fills a buffer.
pub fn fill(buffer: BufferId, access: Vec<Access>) -> Write {
    Write { buffer, access, mode: WriteMode::Fill }
}

/// The sum over the first dimension, in front of a group's followers: how partial results become one.
///
/// Returns the body whose first input is the partial results, of shape `[parts, …]`.
pub fn reduction_body(emitter: &Emitter<'_>, group: &Group, parts: u64, dtype: DType) -> Body {
    let anchor = &emitter.graph.nodes[group.nodes[0]];
    let output = anchor.outputs.iter().flatten().next().copied();
    let rest = emitter.body(&group.nodes[1..]);
    let mut graph = Graph::new("");
    let mut body =
        Body { graph: Graph::new(""), operands: Vec::new(), first_use: Vec::new(), results: Vec::new() };
    let Some(output) = output else { return body };
    let (out_dtype, shape) = emitter.type_of(output);
    let partial = std::iter::once(Dim::from(parts as i64)).chain(shape.iter().cloned()).collect::<Vec<_>>();
    let input = graph.add_input("partials", Type::tensor(dtype, partial));
    let axes = graph.add_tensor("axes", orrery_numerics::Tensor::from_vec(vec![1], vec![0_i64]));
    let attrs = Attrs::new().with("keepdims", 0_i64);
    let node = graph.add_node(
        Op::ReduceSum,
        anchor.name.clone(),
        vec![Some(input), Some(axes)],
        vec![Some("sum".into())],
        attrs,
        Vec::new(),
    );
    let sum = graph.nodes[node].outputs[0];
    body.operands.push(output);
    body.first_use.push((0, 0));
    let mut inside: BTreeMap<ValueId, Option<ValueId>> = BTreeMap::new();
    if let Some(sum) = sum {
        graph.values[sum].ty = Type::tensor(out_dtype, shape);
        if group.nodes.len() == 1 {
            graph.outputs.push(sum);
            body.results.push(output);
        }
    }
    // The followers, with their uses of the anchor's output led to the sum.
    for (id, value) in rest.graph.values.iter() {
        let name = &value.name;
        let is_anchor = rest
            .operands
            .iter()
            .zip(&rest.graph.inputs)
            .any(|(outer, inner)| *outer == output && *inner == id);
        let copied = match &value.def {
            _ if is_anchor => sum,
            Def::Input => Some(graph.add_input(name.clone(), value.ty.clone())),
            Def::Constant(weight) => {
                Some(graph.add_constant(format!("{name}."), value.ty.clone(), weight.clone()))
            }
            Def::Node(..) => None,
        };
        inside.insert(id, copied);
    }
    for ((outer, inner), use_at) in rest.operands.iter().zip(&rest.graph.inputs).zip(&rest.first_use) {
        if *outer != output {
            body.operands.push(*outer);
            body.first_use.push((use_at.0 + 1, use_at.1));
            debug_assert!(inside.contains_key(inner));
        }
    }
    for node in rest.graph.nodes.values() {
        let inputs = node.inputs.iter().map(|v| v.and_then(|v| inside[&v])).collect();
        let names = node.outputs.iter().map(|v| v.map(|v| rest.graph.values[v].name.clone())).collect();
        let made = graph.add_node(
            node.op,
            node.name.clone(),
            inputs,
            names,
            node.attrs.clone(),
            node.bodies.clone(),
        );
        let made = graph.nodes[made].outputs.clone();
        for (old, new) in node.outputs.iter().zip(made) {
            if let (Some(old), Some(new)) = (*old, new) {
                graph.values[new].ty = rest.graph.values[old].ty.clone();
                inside.insert(old, Some(new));
            }
        }
    }
    for (value, inner) in rest.results.iter().zip(&rest.graph.outputs) {
        if let Some(inner) = inside[inner] {
            graph.outputs.push(inner);
            body.results.push(*value);
        }
    }
    body.graph = graph;
    body
}

/// The grid of an anchor's space: one cut for each axis.
pub fn grid(space: &orrery_ir::op::IterSpace, cut: impl Fn(usize) -> orrery_program::Cutting) -> Vec<Cut> {
    space
        .axes
        .iter()
        .enumerate()
        .map(|(i, axis)| Cut {
            name: axis.name.to_owned(),
            extent: axis.extent.clone(),
            cutting: cut(i),
            stride: 0,
        })
        .collect()
}
