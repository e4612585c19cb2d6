//! Emitting steps and buffers, alike for all execution models.

use crate::groups::{Group, is_inline};
use crate::{Fidelity, Options};
use orrery_base::{IndexVec, Result};
use orrery_cost::Target;
use orrery_cost::contraction::{Contraction, Operand};
use orrery_ir::infer::{Facts, node_place, with_ctx};
use orrery_ir::op::space::broadcast_access;
use orrery_ir::op::{Access, AxisKind, Engine, IterSpace, Work};
use orrery_ir::{Attrs, Bindings, Def, Dim, Graph, Node, NodeId, Op, Type, ValueId};
use orrery_numerics::{DType, Tensor};
use orrery_program::memory::unbound;
use orrery_program::{
    Arithmetic, Buffer, BufferClass, BufferId, Cut, Layout, Memory, MemoryId, Phase, Program, Read,
    RoundingMode, Step, StepId, StepKind, Unit, Write, WriteMode,
};
use std::collections::{BTreeMap, BTreeSet};

/// Products that the matrix unit adds exactly before it rounds to its partial format: one block of inputs.
const HALF_GROUP: u32 = 16;

/// A program being emitted.
pub struct Emitter<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// What is known of its values.
    pub facts: &'a Facts,
    /// How often each value is read.
    pub uses: IndexVec<ValueId, u32>,
    /// The target.
    pub target: &'a Target<'a>,
    /// The program so far.
    pub program: Program,
    /// The buffer of each value that has one.
    pub buffer_of: BTreeMap<ValueId, BufferId>,
    /// The buffers of the graph's inputs: where the host gives them, or where a state lives.
    pub given: BTreeMap<ValueId, BufferId>,
    /// Nodes mapped so far.
    pub nodes: Vec<(String, Fidelity)>,
    /// The step that wrote each buffer.
    pub writer: BTreeMap<BufferId, StepId>,
    /// How results are rounded.
    pub rounding: RoundingMode,
    /// What is compiled for.
    pub options: &'a Options,
    /// The part of a training step that is being emitted.
    pub phase: Phase,
    /// The inputs that are states.
    pub states: BTreeSet<ValueId>,
    /// The dimension of each value that counts the items of the batch, where they follow one another in time.
    pub by_item: BTreeMap<ValueId, usize>,
}

/// The body of a step, which values its inputs and outputs are, and what a part needs and makes of them.
pub struct Body {
    /// The nodes as a graph of their own.
    pub graph: Graph,
    /// Values of the model's graph that come in, in order. A value that is read in two ways comes in twice.
    pub operands: Vec<ValueId>,
    /// For each operand, for each of its dimensions.
    pub reads: Vec<Vec<Access>>,
    /// Values that go out, in order.
    pub results: Vec<ValueId>,
    /// For each result, for each of its dimensions.
    pub writes: Vec<Vec<Access>>,
}

impl<'a> Emitter<'a> {
    /// An empty program.
    pub fn new(graph: &'a Graph, facts: &'a Facts, target: &'a Target<'a>, options: &'a Options) -> Self {
        Self {
            graph,
            facts,
            uses: graph.uses(),
            target,
            program: Program {
                name: graph.name.clone(),
                machine: target.system.name.clone(),
                precision: target.precision.name.clone(),
                symbols: options.symbols.clone(),
                memories: IndexVec::new(),
                pipelines: IndexVec::new(),
                buffers: IndexVec::new(),
                steps: IndexVec::new(),
                regions: Vec::new(),
                items: 1,
                inputs: Vec::new(),
                outputs: Vec::new(),
                grows: Vec::new(),
            },
            buffer_of: BTreeMap::new(),
            given: BTreeMap::new(),
            nodes: Vec::new(),
            writer: BTreeMap::new(),
            rounding: if options.stochastic_rounding {
                RoundingMode::Stochastic
            } else {
                RoundingMode::Nearest
            },
            options,
            phase: Phase::Forward,
            states: graph.states.iter().map(|state| graph.inputs[state.input]).collect(),
            by_item: BTreeMap::new(),
        }
    }
    /// The steps to come are those of a group.
    pub fn enter(&mut self, group: &Group) {
        self.phase = self.options.phase(group.nodes[0]);
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
        self.program.buffers.push(Buffer {
            name,
            class,
            dtype,
            shape,
            home,
            layout,
            weight,
            view_of: None,
            pieces: None,
            by_item: self.by_item.get(&value).copied().filter(|_| class == BufferClass::Scratch),
        })
    }
    /// Nodes as a graph of their own: an anchor cut by `space`, where there is one, and the element-wise nodes that follow
    /// it. An operand of the anchor is read as the space says; an operand of a follower has the dimensions of the
    /// anchor's output where it is not broadcast.
    pub fn body(&self, nodes: &[NodeId], space: Option<&IterSpace>) -> Body {
        let anchor = nodes.first().and_then(|n| self.graph.nodes[*n].outputs.iter().flatten().next());
        let shape = anchor.map(|v| self.type_of(*v).1).unwrap_or_default();
        self.body_of(nodes, space, &shape, 0)
    }
    /// As [`Emitter::body`] where the first node is number `first` of its group, whose anchor makes `anchor_shape`.
    fn body_of(
        &self,
        nodes: &[NodeId],
        space: Option<&IterSpace>,
        anchor_shape: &[Dim],
        first: usize,
    ) -> Body {
        let mut graph = Graph::new("");
        let mut names = Names::default();
        let (mut operands, mut reads) = (Vec::new(), Vec::new());
        let mut inside: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        let mut outside: Vec<(ValueId, Vec<Access>, ValueId)> = Vec::new();
        for (number, &id) in (first..).zip(nodes) {
            let node = &self.graph.nodes[id];
            let mut inputs = Vec::with_capacity(node.inputs.len());
            for (position, input) in node.inputs.iter().enumerate() {
                let Some(value) = *input else {
                    inputs.push(None);
                    continue;
                };
                if let Some(inner) = inside.get(&value) {
                    inputs.push(Some(*inner));
                    continue;
                }
                let access = self.access(value, space, number, position, anchor_shape);
                let known = outside.iter().find(|(v, a, _)| *v == value && *a == access);
                if let Some((_, _, inner)) = known {
                    inputs.push(Some(*inner));
                    continue;
                }
                let name = names.unique(&self.graph.values[value].name);
                let inner = match self.graph.tensor_of(value) {
                    Some(tensor) if is_inline(self.graph, value) && is_uncut(tensor, &access) => {
                        graph.add_tensor(name, tensor.clone())
                    }
                    _ => {
                        operands.push(value);
                        reads.push(access.clone());
                        graph.add_input(name, self.facts[value].ty.clone())
                    }
                };
                outside.push((value, access, inner));
                inputs.push(Some(inner));
            }
            let ty = |value: ValueId| self.facts[value].ty.clone();
            copy_node(&mut graph, &mut names, (self.graph, node), inputs, ty, &mut inside);
        }
        let (mut results, mut writes) = (Vec::new(), Vec::new());
        for (number, value) in self.leaving(nodes) {
            let access = space.and_then(|s| s.outputs.get(if first + nodes.len() > 1 { 0 } else { number }));
            writes.push(access.cloned().unwrap_or_else(|| vec![Access::Whole; self.type_of(value).1.len()]));
            results.push(value);
            graph.outputs.push(inside[&value]);
        }
        Body { graph, operands, reads, results, writes }
    }
    /// What a list of nodes makes for others, each with the number of the output that it is of its node: all of the last
    /// node, and of those before it what is read elsewhere. Movements that were put off are made again for each reader.
    fn leaving(&self, nodes: &[NodeId]) -> Vec<(usize, ValueId)> {
        let Some((last, before)) = nodes.split_last() else { return Vec::new() };
        let within = |value: ValueId| {
            let read = nodes.iter().flat_map(|n| self.graph.nodes[*n].inputs.iter().flatten());
            read.filter(|v| **v == value).count()
        };
        let made = |id: &NodeId| {
            let outputs = self.graph.nodes[*id].outputs.iter().enumerate();
            outputs.filter_map(|(i, v)| Some((i, (*v)?))).collect::<Vec<_>>()
        };
        let elsewhere = |(_, value): &(usize, ValueId)| self.uses[*value] as usize > within(*value);
        let computes =
            |id: &&NodeId| !matches!(self.graph.nodes[**id].op.def().engine, Engine::Movement | Engine::View);
        before.iter().filter(computes).flat_map(made).filter(elsewhere).chain(made(last)).collect()
    }
    /// What a part needs of an operand: of the anchor, number 0, or of a follower.
    fn access(
        &self,
        value: ValueId,
        space: Option<&IterSpace>,
        number: usize,
        position: usize,
        anchor_shape: &[Dim],
    ) -> Vec<Access> {
        let shape = self.type_of(value).1;
        let whole = vec![Access::Whole; shape.len()];
        let Some(space) = space else { return whole };
        if number == 0 {
            let access = space.inputs.get(position).filter(|a| a.len() == shape.len());
            return access.cloned().unwrap_or(whole);
        }
        let follow = |access: Access| match access {
            Access::Along { axis, .. } => space.outputs[0][axis].clone(),
            other => other,
        };
        broadcast_access(&shape, anchor_shape).into_iter().map(follow).collect()
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
    /// How a group's anchor is a product of matrices, where it is one, with symbols at these values.
    ///
    /// # Errors
    /// `unbound-symbol` where a symbol has no value.
    pub fn contraction(&self, group: &Group, nominal: &Bindings) -> Result<Option<Contraction>> {
        let node = &self.graph.nodes[group.nodes[0]];
        let (Some(space), Some([left, right])) = (&group.space, Contraction::operands(node)) else {
            return Ok(None);
        };
        let operand = |value: Option<ValueId>, access: Option<&Vec<Access>>| -> Result<Option<Operand>> {
            let (Some(value), Some(access)) = (value, access) else { return Ok(None) };
            let shape = self.type_of(value).1;
            let extents = shape.iter().map(|dim| dim.eval(nominal).map_err(|s| Box::new(unbound(&s))));
            Ok(Some(Operand { access: access.clone(), extents: extents.collect::<Result<_>>()? }))
        };
        let input = |i: usize| operand(node.inputs.get(i).copied().flatten(), space.inputs.get(i));
        let result = operand(node.outputs.iter().flatten().next().copied(), space.outputs.first())?;
        let (Some(left), right, Some(result)) = (input(left)?, input(right)?, result) else {
            return Ok(None);
        };
        let summed: Vec<bool> = space.axes.iter().map(|a| a.kind != AxisKind::Parallel).collect();
        Ok(Some(Contraction::new(node, &summed, &left, right.as_ref(), &result)))
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
            stage: None,
            after: Vec::new(),
            region: None,
            once: false,
            phase: self.phase,
        }
    }
    /// Appends a step; it waits for the writers of what it reads on other units. A step of the streaming memory takes its
    /// turn with those of the device: what it brings comes into places that the steps before it have left.
    pub fn push(&mut self, mut step: Step) -> StepId {
        if step.unit == Unit::Streaming
            && let Some((last, _)) = self.program.steps.iter().rfind(|(_, s)| s.unit == Unit::Device)
            && !step.after.contains(&last)
        {
            step.after.push(last);
        }
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

/// Bodies side by side as one: inputs and outputs one after the other.
pub fn join(bodies: impl Iterator<Item = Graph>) -> Graph {
    let mut graph = Graph::new("");
    let mut names = Names::default();
    for body in bodies {
        let mut inside: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        for (id, value) in body.values.iter() {
            let made = match &value.def {
                Def::Input => graph.add_input(names.unique(&value.name), value.ty.clone()),
                Def::Constant(weight) => {
                    graph.add_constant(names.unique(&value.name), value.ty.clone(), weight.clone())
                }
                Def::Node(..) => continue,
            };
            inside.insert(id, made);
        }
        append(&mut graph, &mut names, &body, &mut inside);
        graph.outputs.extend(body.outputs.iter().map(|v| inside[v]));
    }
    graph
}

/// Appends the nodes of another graph whose inputs and constants are in already, as `inside` says.
fn append(graph: &mut Graph, names: &mut Names, from: &Graph, inside: &mut BTreeMap<ValueId, ValueId>) {
    for node in from.nodes.values() {
        let inputs = node.inputs.iter().map(|v| v.map(|v| inside[&v])).collect();
        copy_node(graph, names, (from, node), inputs, |value| from.values[value].ty.clone(), inside);
    }
}

/// Appends one node of another graph with these inputs; its outputs have names of their own and the types that `ty` says.
fn copy_node(
    graph: &mut Graph,
    names: &mut Names,
    (from, node): (&Graph, &Node),
    inputs: Vec<Option<ValueId>>,
    ty: impl Fn(ValueId) -> Type,
    inside: &mut BTreeMap<ValueId, ValueId>,
) {
    let made = node.outputs.iter().map(|v| v.map(|v| names.unique(&from.values[v].name)));
    let made = graph.add_node(
        node.op,
        node.name.clone(),
        inputs,
        made.collect(),
        node.attrs.clone(),
        node.bodies.clone(),
    );
    let made = graph.nodes[made].outputs.clone();
    for (old, new) in node.outputs.iter().zip(made) {
        if let (Some(old), Some(new)) = (*old, new) {
            graph.values[new].ty = ty(old);
            inside.insert(old, new);
        }
    }
}

/// Gives the first output of a body another element type: partial results are kept as they are summed, and rounded to
/// the declared type once they are whole.
pub fn retype_output(body: &mut Graph, dtype: DType) {
    if let Some(output) = body.outputs.first()
        && let Type::Tensor(ty) = &mut body.values[*output].ty
    {
        ty.dtype = dtype;
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

/// True where an element of a part's body is the same for all parts.
fn is_uncut(tensor: &Tensor, access: &[Access]) -> bool {
    tensor.len() <= 1 || access.iter().all(|a| *a == Access::Whole)
}

/// Names that are given once.
#[derive(Default)]
struct Names(BTreeSet<String>);

impl Names {
    fn unique(&mut self, name: &str) -> String {
        let mut made = name.to_owned();
        let mut number = 2;
        while !self.0.insert(made.clone()) {
            made = format!("{name}.{number}");
            number += 1;
        }
        made
    }
}

/// What becomes of partial results of type `dtype`: their sum over the first dimension where there are several `parts`,
/// rounded to the anchor's type, and a group's followers.
///
/// Returns the body whose first input is the partial results; its accesses are in terms of the axes of `space`, over which
/// the anchor's output lies. None where the anchor makes nothing.
pub fn reduction_body(
    emitter: &Emitter<'_>,
    group: &Group,
    space: &IterSpace,
    parts: Option<u64>,
    dtype: DType,
) -> Option<Body> {
    let anchor = &emitter.graph.nodes[group.nodes[0]];
    let output = anchor.outputs.iter().flatten().next().copied()?;
    let (out_dtype, shape) = emitter.type_of(output);
    // The followers with the anchor's output as an operand; it becomes the sum.
    let followers = emitter.body_of(&group.nodes[1..], Some(space), &shape, 1);
    let mut graph = Graph::new("");
    let mut names = Names::default();
    let lead = parts.map(|parts| Dim::from(parts as i64));
    let partial = lead.into_iter().chain(shape.iter().cloned()).collect::<Vec<_>>();
    let input = graph.add_input(names.unique("partials"), Type::tensor(dtype, partial));
    let axes = parts.map(|_| graph.add_tensor(names.unique("axes"), Tensor::from_vec(vec![1], vec![0_i64])));
    let mut apply = |op: Op, inputs: Vec<ValueId>, attrs: Attrs, dtype: DType, name: &str| {
        let inputs = inputs.into_iter().map(Some).collect();
        let made = Some(names.unique(name));
        let node = graph.add_node(op, anchor.name.clone(), inputs, vec![made], attrs, Vec::new());
        let made = graph.nodes[node].outputs[0].expect("asked for");
        graph.values[made].ty = Type::tensor(dtype, shape.iter().cloned());
        made
    };
    let keep = Attrs::new().with("keepdims", 0_i64);
    let mut sum = match axes {
        Some(axes) => apply(Op::ReduceSum, vec![input, axes], keep, dtype, "sum"),
        None => input,
    };
    if dtype != out_dtype {
        sum = apply(Op::Cast, vec![sum], Attrs::new().with("to", out_dtype), out_dtype, "rounded");
    }
    let mut operands = vec![output];
    let lead = parts.map(|_| Access::Whole);
    let mut reads = vec![lead.into_iter().chain(space.outputs[0].iter().cloned()).collect()];
    let mut inside: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    let uses = followers.operands.iter().zip(followers.reads).zip(&followers.graph.inputs);
    for ((outer, access), inner) in uses {
        if *outer == output {
            inside.insert(*inner, sum);
            continue;
        }
        let value = &followers.graph.values[*inner];
        operands.push(*outer);
        reads.push(access);
        inside.insert(*inner, graph.add_input(names.unique(&value.name), value.ty.clone()));
    }
    for (id, value) in followers.graph.values.iter() {
        if let Def::Constant(weight) = &value.def {
            let made = graph.add_constant(names.unique(&value.name), value.ty.clone(), weight.clone());
            inside.insert(id, made);
        }
    }
    append(&mut graph, &mut names, &followers.graph, &mut inside);
    let mut results = followers.results;
    graph.outputs = followers.graph.outputs.iter().map(|v| inside[v]).collect();
    if group.nodes.len() == 1 {
        results = vec![output];
        graph.outputs = vec![sum];
    }
    let writes = vec![space.outputs[0].clone(); results.len()];
    Some(Body { graph, operands, reads, results, writes })
}

/// The grid of an anchor's space: one cut for each axis.
pub fn grid(space: &IterSpace, cut: impl Fn(usize) -> orrery_program::Cutting) -> Vec<Cut> {
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
