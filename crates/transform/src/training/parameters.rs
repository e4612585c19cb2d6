//! Which weights are trained, and the modes of ops that behave otherwise in training.

use super::{Slot, StateKind};
use orrery_base::{Diagnostic, Result, nearest};
use orrery_ir::graph::Value;
use orrery_ir::{Attrs, Def, Graph, NodeId, Op, Type, ValueId, Weight};
use orrery_numerics::{DType, Rounding, Tensor, cast};
use std::collections::BTreeSet;

/// Puts batch normalizations and dropouts in training mode. Returns the running statistics in the order of the outputs
/// that are added for what a step makes of them.
pub(super) fn training_mode(model: &Graph) -> (Graph, Vec<ValueId>) {
    let mut graph = model.clone();
    let mut statistics = Vec::new();
    let mut taken: BTreeSet<String> = graph.values.values().map(|v| v.name.clone()).collect();
    let mut unique = |wanted: String| {
        let mut name = wanted.clone();
        let mut number = 2;
        while !taken.insert(name.clone()) {
            name = format!("{wanted}.{number}");
            number += 1;
        }
        name
    };
    if graph.output_names.is_empty() {
        graph.output_names = (0..graph.outputs.len()).map(|i| graph.output_name(i).to_owned()).collect();
    }
    let ids: Vec<NodeId> = graph.nodes.ids().collect();
    for id in ids {
        match graph.nodes[id].op {
            Op::BatchNormalization => {
                let running: Vec<ValueId> =
                    graph.nodes[id].inputs.iter().skip(3).flatten().copied().collect();
                let own =
                    |v: &ValueId| matches!(graph.values[*v].def, Def::Constant(_)) && !statistics.contains(v);
                if running.len() != 2 || !running.iter().all(own) {
                    continue;
                }
                graph.nodes[id].attrs.set("training_mode", 1);
                graph.nodes[id].outputs.truncate(1);
                for (number, old) in (1..).zip(running) {
                    let name = unique(format!("{}.moved", graph.values[old].name));
                    let ty = graph.values[old].ty.clone();
                    let value =
                        graph.values.push(Value { name: name.clone(), ty, def: Def::Node(id, number) });
                    graph.nodes[id].outputs.push(Some(value));
                    graph.outputs.push(value);
                    graph.output_names.push(name);
                    statistics.push(old);
                }
            }
            Op::Dropout if graph.nodes[id].inputs.get(1).copied().flatten().is_some() => {
                let name = unique(format!("{}.training", graph.nodes[id].name));
                let yes = graph.add_tensor(name, Tensor::from_bools(vec![], [true]));
                graph.nodes[id].inputs.resize(3, None);
                graph.nodes[id].inputs[2] = Some(yes);
            }
            _ => {}
        }
    }
    (graph, statistics)
}

/// Makes inputs of the running statistics, in their order, and of the weights that are trained, in the order in which
/// they are first read.
pub(super) fn to_inputs(
    mut graph: Graph,
    statistics: &[ValueId],
    frozen: &[String],
    parameters_in: DType,
) -> Result<(Graph, Vec<Slot>)> {
    let mut slots: Vec<Slot> = Vec::new();
    for value in statistics {
        let Def::Constant(initial) = graph.values[*value].def.clone() else { continue };
        slots.push(slot(&mut graph, *value, StateKind::Statistic, initial));
    }
    let reads: Vec<(Op, usize, ValueId)> = graph
        .nodes
        .values()
        .flat_map(|n| n.inputs.iter().enumerate().filter_map(|(i, v)| Some((n.op, i, (*v)?))))
        .collect();
    let mut names: Vec<String> = Vec::new();
    for (op, port, value) in reads {
        // What has become an input is no constant any more.
        let Def::Constant(mut initial) = graph.values[value].def.clone() else { continue };
        if !is_parameter(&graph, op, port, value) {
            continue;
        }
        names.push(graph.values[value].name.clone());
        if frozen.iter().any(|prefix| graph.values[value].name.starts_with(prefix)) {
            continue;
        }
        if let Weight::Data(data) = &initial
            && data.dtype() != parameters_in
        {
            let stored = cast(data, parameters_in, Rounding::NearestEven, false);
            initial = Weight::Data(
                stored.map_err(|e| Box::new(Diagnostic::error("state-mismatch", e.to_string())))?,
            );
        }
        if let Type::Tensor(ty) = &mut graph.values[value].ty {
            ty.dtype = parameters_in;
        }
        slots.push(slot(&mut graph, value, StateKind::Parameter, initial));
    }
    for prefix in frozen {
        if !names.iter().any(|name| name.starts_with(prefix)) {
            let cause = format!("`{prefix}` freezes nothing: no parameter's name begins so");
            return Err(Box::new(no_parameter(cause, prefix, &names)));
        }
    }
    Ok((widened(graph, &slots)?, slots))
}

/// Names of parameters that are listed.
const LISTED: usize = 12;

/// The diagnostic for a part of a name that no parameter has.
pub(super) fn no_parameter(cause: String, part: &str, names: &[String]) -> Diagnostic {
    let listed: Vec<&str> = names.iter().take(LISTED).map(String::as_str).collect();
    let more =
        if names.len() > LISTED { format!(" and {} more", names.len() - LISTED) } else { String::new() };
    let error = Diagnostic::error("parameter-unknown", cause);
    let error = match nearest(part, names.iter().map(String::as_str)) {
        Some(close) => error.help(format!("did you mean `{close}`?")),
        None => error,
    };
    error.help(format!("parameters: {}{more}", listed.join(", ")))
}

fn slot(graph: &mut Graph, value: ValueId, kind: StateKind, initial: Weight) -> Slot {
    graph.values[value].def = Def::Input;
    graph.inputs.push(value);
    let Value { name, ty, .. } = graph.values[value].clone();
    Slot { name, kind, input: graph.inputs.len() - 1, output: 0, initial, ty }
}

/// Parameters kept in a narrower type than the model's are cast up where they are read.
fn widened(graph: Graph, slots: &[Slot]) -> Result<Graph> {
    let wide = DType::F32;
    let narrow: Vec<ValueId> = slots
        .iter()
        .map(|slot| graph.inputs[slot.input])
        .filter(|v| graph.values[*v].ty.as_tensor().is_some_and(|ty| ty.dtype.bits() < 32))
        .collect();
    if narrow.is_empty() {
        return Ok(graph);
    }
    let mut rewriter = crate::rewrite::Rewriter::new(graph);
    for value in narrow {
        let readers = rewriter.readers(value);
        let Some(first) = readers.iter().map(|(node, _)| *node).min() else { continue };
        let ty = match rewriter.ty(value) {
            Type::Tensor(ty) => Type::Tensor(orrery_ir::TensorType { dtype: wide, shape: ty.shape.clone() }),
            other => other.clone(),
        };
        let name = format!("{}.wide", rewriter.value(value).name);
        let attrs = Attrs::new().with("to", wide);
        let cast = rewriter.insert_before(first, Op::Cast, &name, &[value], attrs, ty);
        for (node, port) in readers {
            let mut inputs = rewriter.node(node).inputs.clone();
            inputs[port] = Some(cast);
            rewriter.set_inputs(node, inputs);
        }
    }
    Ok(rewriter.finish())
}

/// Magnitude from which on a constant is a mask, not a weight.
const MASK: f64 = 1e4;

/// Whether a constant is a weight where an op reads it as input `port`: floats of products, normalizations, embeddings
/// and recurrences are; of elementwise ops, those of more than one element that are no masks. Running statistics, scales
/// of quantisation, tables of angles, initial states and bounds are not.
fn is_parameter(graph: &Graph, op: Op, port: usize, value: ValueId) -> bool {
    let Some(ty) = graph.values[value].ty.as_tensor() else { return false };
    if !ty.dtype.is_float() {
        return false;
    }
    match op {
        Op::Conv | Op::ConvTranspose | Op::Gemm | Op::MatMul | Op::GatherMatMul | Op::DeformConv => port > 0,
        Op::BatchNormalization => port == 1 || port == 2,
        Op::LayerNormalization
        | Op::RMSNormalization
        | Op::GroupNormalization
        | Op::InstanceNormalization
        | Op::PRelu => port > 0,
        Op::RNN | Op::GRU | Op::LSTM => matches!(port, 1..=3 | 7),
        Op::Gather | Op::GatherND | Op::GatherElements => port == 0,
        Op::Einsum | Op::Transpose | Op::Reshape | Op::Concat | Op::Expand => !is_fixed(graph, value),
        Op::Add | Op::Sub | Op::Mul | Op::Div => !is_fixed(graph, value),
        _ => false,
    }
}

/// Constants of one element, and those that look like masks.
fn is_fixed(graph: &Graph, value: ValueId) -> bool {
    let ty = graph.values[value].ty.as_tensor();
    let extents = ty.and_then(orrery_ir::TensorType::extents).unwrap_or_default();
    if extents.iter().product::<usize>() <= 1 {
        return true;
    }
    let Some(tensor) = graph.tensor_of(value) else { return false };
    tensor.to_f64().is_ok_and(|values| values.iter().any(|v| !v.is_finite() || v.abs() >= MASK))
}
