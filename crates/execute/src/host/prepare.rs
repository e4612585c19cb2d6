//! From a graph to steps: constants at hand, kernels chosen, elementwise ops joined.

use super::fuse::{self, Group, Numbers};
use super::lower::lower;
use super::step::{HostKernel, Step, Tail};
use super::value::{Layout, Machine, Value};
use super::{attention, backward, matrix, movement, nested, recurrent, rewrite, rows, spatial};
use crate::kernels::pointwise::{Program, Source};
use orrery_base::Result;
use orrery_ir::infer::Facts;
use orrery_ir::interpret::eval_node;
use orrery_ir::op::{Class, Datum, Fact};
use orrery_ir::weights::materialize;
use orrery_ir::{Attr, Def, Graph, Node, NodeId, Op, ValueId, Weight, infer};
use orrery_numerics::{DType, Tensor};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Elements up to which a result of constants alone is kept instead of being computed in each run.
const FOLDED: usize = 64 << 20;

/// A graph ready to run.
pub(crate) struct Prepared {
    pub(crate) graph: Graph,
    pub(crate) steps: Vec<Step>,
    pub(crate) constants: Vec<(ValueId, Value)>,
}

/// Constants at hand.
pub(crate) type Constants = BTreeMap<ValueId, Tensor>;

/// What a kernel is chosen by.
pub(crate) struct Choice<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) facts: &'a Facts,
    pub(crate) node: &'a Node,
    pub(crate) constants: &'a Constants,
    pub(crate) machine: &'a Arc<Machine>,
}

impl Choice<'_> {
    /// The constant at input `i`.
    pub(crate) fn constant(&self, i: usize) -> Option<&Tensor> {
        self.constants.get(&self.node.inputs.get(i).copied().flatten()?)
    }
    /// Element type of input `i`.
    pub(crate) fn dtype(&self, i: usize) -> Option<DType> {
        let id = self.node.inputs.get(i).copied().flatten()?;
        Some(self.graph.values[id].ty.as_tensor()?.dtype)
    }
    /// True where input `i` is f32.
    pub(crate) fn is_f32(&self, i: usize) -> bool {
        self.dtype(i) == Some(DType::F32)
    }
}

/// `inputs` is what is known of the inputs where the graph is a body.
pub(crate) fn prepare(graph: &Graph, inputs: Option<&[Fact]>, machine: &Arc<Machine>) -> Result<Prepared> {
    let mut graph = graph.clone();
    let mut facts = match inputs {
        None => infer::facts(&graph)?,
        Some(inputs) => infer::body_facts(&graph, inputs)?,
    };
    for (id, value) in graph.values.iter_mut() {
        value.ty = facts[id].ty.clone();
    }
    let (mut constants, mut done) = fold(&graph)?;
    batch_norm_factors(&mut graph, &mut constants, &mut facts);
    rewrite::rewrite(&mut graph, &mut done);
    let numbers: Numbers = constants
        .iter()
        .filter(|(_, t)| t.len() == 1 && t.dtype() == DType::F32)
        .map(|(id, t)| (*id, t.raw::<f32>()[0]))
        .collect();
    let groups = fuse::groups(&graph, &numbers, &done);
    let mut steps: Vec<Step> = groups
        .iter()
        .map(|group| step(&graph, &facts, group, &numbers, &constants, machine))
        .collect::<Result<_>>()?;
    last_uses(&graph, &mut steps);
    let used: BTreeSet<ValueId> = steps
        .iter()
        .flat_map(|s| s.nodes.iter().flat_map(|n| graph.nodes[*n].inputs.iter().flatten()))
        .chain(&graph.outputs)
        .copied()
        .collect();
    constants.retain(|id, _| used.contains(id));
    let constants = constants.into_iter().map(|(id, tensor)| (id, tensor.into())).collect();
    Ok(Prepared { graph, steps, constants })
}

/// Constants of the graph and what follows from them alone, with the nodes that are thereby done.
fn fold(graph: &Graph) -> Result<(Constants, BTreeSet<NodeId>)> {
    let uses = graph.uses();
    let mut constants = Constants::new();
    for (id, value) in graph.values.iter() {
        if let Def::Constant(weight) = &value.def
            && uses[id] > 0
        {
            let tensor = match weight {
                Weight::Data(tensor) => tensor.clone(),
                _ => materialize(graph, id)?,
            };
            constants.insert(id, tensor);
        }
    }
    let mut done = BTreeSet::new();
    for (id, node) in graph.nodes.iter() {
        let small = node.outputs.iter().flatten().all(|v| {
            let elements = graph.values[*v].ty.as_tensor().and_then(orrery_ir::TensorType::elements);
            elements.and_then(|n| n.extent()).is_some_and(|n| n <= FOLDED)
        });
        if !small || node.op.def().class == Class::Random || !node.bodies.is_empty() {
            continue;
        }
        let arguments: Option<Vec<Option<Datum>>> = node
            .inputs
            .iter()
            .map(|v| match v {
                None => Some(None),
                Some(v) => constants.get(v).map(|t| Some(t.clone().into())),
            })
            .collect();
        let Some(arguments) = arguments else { continue };
        // What fails here fails again, and is reported, when it runs.
        let Ok(outputs) = eval_node(node, &arguments, 0) else { continue };
        let tensors: Option<Vec<Tensor>> = outputs
            .into_iter()
            .map(|datum| match datum {
                Datum::Tensor(tensor) => Some(tensor),
                _ => None,
            })
            .collect();
        let Some(tensors) = tensors else { continue };
        for (value, tensor) in node.outputs.iter().zip(tensors) {
            if let Some(value) = *value {
                constants.insert(value, tensor);
            }
        }
        done.insert(id);
    }
    Ok((constants, done))
}

/// Puts, behind the operands of each batch normalization with constant statistics, the factor and the shift of each channel.
fn batch_norm_factors(graph: &mut Graph, constants: &mut Constants, facts: &mut Facts) {
    for id in graph.nodes.ids().collect::<Vec<_>>() {
        let node = &graph.nodes[id];
        if node.op != Op::BatchNormalization || node.attrs.flag("training_mode") || node.inputs.len() != 5 {
            continue;
        }
        let [Some(x), rest @ ..] = node.inputs.as_slice() else { continue };
        let rank = graph.values[*x].ty.as_tensor().and_then(|t| t.shape.as_ref()).map_or(0, Vec::len);
        let parameters: Option<Vec<&Tensor>> = rest
            .iter()
            .map(|v| v.and_then(|v| constants.get(&v)).filter(|t| t.dtype() == DType::F32))
            .collect();
        let (Some(parameters), 2..) = (parameters, rank) else { continue };
        let [scale, bias, mean, variance] = parameters.as_slice() else { continue };
        let epsilon = node.attrs.float_or("epsilon", 1e-5);
        let count = scale.len();
        let values: Vec<_> = [scale, bias, mean, variance].into_iter().map(|t| t.raw::<f32>()).collect();
        if values.iter().any(|v| v.len() != count) {
            continue;
        }
        let factor: Vec<f64> = (0..count)
            .map(|c| f64::from(values[0][c]) / (f64::from(values[3][c]) + epsilon).sqrt())
            .collect();
        let shift: Vec<f32> = (0..count)
            .map(|c| (f64::from(values[1][c]) - f64::from(values[2][c]) * factor[c]) as f32)
            .collect();
        let factor: Vec<f32> = factor.into_iter().map(|x| x as f32).collect();
        let shape: Vec<usize> = [count].into_iter().chain(std::iter::repeat_n(1, rank - 2)).collect();
        for (what, numbers) in [("factor", factor), ("shift", shift)] {
            let tensor = Tensor::from_vec(shape.clone(), numbers);
            let name = format!("{}/{what}", graph.nodes[id].name);
            facts.push(Fact::constant(&tensor));
            let value = graph.add_tensor(name, tensor.clone());
            constants.insert(value, tensor);
            graph.nodes[id].inputs.push(Some(value));
        }
    }
}

fn step(
    graph: &Graph,
    facts: &Facts,
    group: &Group,
    numbers: &Numbers,
    constants: &Constants,
    machine: &Arc<Machine>,
) -> Result<Step> {
    let head = &graph.nodes[group.head];
    let nodes: Vec<NodeId> = [group.head].into_iter().chain(group.tail.iter().copied()).collect();
    let last = &graph.nodes[*nodes.last().expect("a group has a head")];
    let choice = Choice { graph, facts, node: head, constants, machine };
    let mut step = Step {
        nodes,
        inputs: head.inputs.clone(),
        outputs: last.outputs.clone(),
        kernel: None,
        tail: Tail::default(),
        last_uses: Vec::new(),
    };
    let kernel = choose(&choice)?.filter(|kernel| group.tail.is_empty() || kernel.takes_tail());
    if let Some(kernel) = kernel {
        // The tail reads what the head makes as input 0.
        let made = head.outputs.first().copied().flatten();
        let (program, operands) = program(graph, &group.tail, made, numbers);
        step.tail = Tail { bias: None, program, operands };
        if kernel.takes_bias() {
            split_bias(graph, head, constants, &mut step.tail);
        }
        step.kernel = Some(kernel);
    } else if let Some(kernel) = rows::Pointwise::new(graph, &step.nodes, numbers) {
        step.inputs = kernel.inputs.iter().copied().map(Some).collect();
        step.kernel = Some(Box::new(kernel));
    }
    Ok(step)
}

/// Where the tail of a product without bias adds a constant to each channel first, that becomes its bias.
fn split_bias(graph: &Graph, head: &Node, constants: &Constants, tail: &mut Tail) {
    let bias_input = match head.op {
        Op::MatMul => None,
        Op::Conv | Op::ConvTranspose | Op::Gemm => Some(2),
        _ => return,
    };
    let shape = |v: ValueId| graph.values[v].ty.as_tensor().and_then(|t| t.shape.clone());
    let has_bias = bias_input.is_some_and(|i| head.inputs.get(i).copied().flatten().is_some());
    let made = head.outputs.first().copied().flatten().and_then(shape);
    let (Some(made), false) = (made, has_bias) else { return };
    let Some((i, rest)) = tail.program.split_first_sum() else { return };
    let value = tail.operands[i - 1];
    let channel = if matches!(head.op, Op::MatMul | Op::Gemm) { made.len() - 1 } else { 1 };
    let Some(tensor) = constants.get(&value).filter(|t| t.rank() <= made.len()) else { return };
    // As many elements as channels, all of them along the channels.
    let lead = made.len() - tensor.rank();
    let along = channel >= lead && tensor.shape()[channel - lead] == tensor.len();
    let still_read = {
        let mut read = false;
        for instruction in rest.instructions() {
            instruction.for_each_source(|source| read |= source == Source::Input(i));
        }
        read
    };
    if along && made[channel].extent() == Some(tensor.len()) && !still_read {
        tail.bias = Some(value);
        tail.program = rest;
    }
}

/// The nodes as one program; `first` is its input 0, and the rest are returned in order.
pub(crate) fn program(
    graph: &Graph,
    nodes: &[NodeId],
    first: Option<ValueId>,
    numbers: &Numbers,
) -> (Program, Vec<ValueId>) {
    let mut program = Program::default();
    let mut operands: Vec<ValueId> = first.into_iter().collect();
    let mut made: BTreeMap<ValueId, Source> = BTreeMap::new();
    for id in nodes {
        let node = &graph.nodes[*id];
        let used = if node.op == Op::BatchNormalization { [0, 5, 6].as_slice() } else { &[] };
        let sources: Vec<Option<Source>> = node
            .inputs
            .iter()
            .enumerate()
            .map(|(i, v)| {
                let v = (*v)?;
                if !used.is_empty() && !used.contains(&i) {
                    return None;
                }
                if let Some(source) = made.get(&v) {
                    return Some(*source);
                }
                if let Some(&number) = numbers.get(&v) {
                    return Some(Source::Number(number));
                }
                let at = operands.iter().position(|o| *o == v).unwrap_or_else(|| {
                    operands.push(v);
                    operands.len() - 1
                });
                Some(Source::Input(at))
            })
            .collect();
        let result = lower(node, &sources, &mut program).expect("only nodes that can be lowered are grouped");
        made.insert(node.outputs[0].expect("an elementwise node makes a value"), result);
    }
    if first.is_some() {
        operands.remove(0);
    }
    (program.simplified(), operands)
}

/// The kernel of a node; none where there is none.
fn choose(choice: &Choice<'_>) -> Result<Option<Box<dyn HostKernel>>> {
    if !choice.node.bodies.is_empty() {
        return Ok(nested::choose(choice));
    }
    Ok(spatial::choose(choice)
        .or_else(|| matrix::choose(choice))
        .or_else(|| attention::choose(choice))
        .or_else(|| recurrent::choose(choice))
        .or_else(|| rows::choose(choice))
        .or_else(|| backward::choose(choice))
        .or_else(|| movement::choose(choice)))
}

/// Finds, for each step, the values that nobody needs after it.
fn last_uses(graph: &Graph, steps: &mut [Step]) {
    let mut needed: BTreeSet<ValueId> = graph.outputs.iter().copied().collect();
    for step in steps.iter_mut().rev() {
        let touched: BTreeSet<ValueId> = step
            .nodes
            .iter()
            .flat_map(|n| graph.nodes[*n].inputs.iter().chain(&graph.nodes[*n].outputs))
            .flatten()
            .copied()
            .collect();
        step.last_uses = touched.iter().copied().filter(|v| !needed.contains(v)).collect();
        needed.extend(touched);
    }
}

/// The integers of an attribute, or so many of a default; none where one is negative or no size that memory has.
pub(crate) fn integers(node: &Node, name: &str, count: usize, default: usize) -> Option<Vec<usize>> {
    match node.attrs.get(name) {
        None => Some(vec![default; count]),
        Some(Attr::Ints(values)) if values.len() == count => {
            values.iter().map(|&v| u32::try_from(v).ok().map(|v| v as usize)).collect()
        }
        Some(_) => None,
    }
}

/// Layout in which a kernel over whole tensors finds an input without converting it.
pub(crate) fn layout_at_hand(value: &Value) -> Layout {
    if value.has(Layout::Plain) { Layout::Plain } else { Layout::ChannelsLast }
}
