//! The plain interpreter: what a graph means.
//!
//! Runs nodes in order, each as its op's entry defines, in the declared types. Slow and simple on purpose; everything
//! faster is held against it.

use crate::infer::at_node;
use crate::op::{Datum, EvalCtx};
use crate::weights::materialize;
use crate::{Bindings, Def, Dim, Graph, Node, Type, ValueId};
use orrery_base::{Diagnostic, IndexVec, Result};
use orrery_numerics::Accumulation;

/// Runs the graph on inputs in order and returns its outputs in order.
///
/// # Errors
/// `input-mismatch` where inputs do not fit; `weights-absent`; `evaluation` with the node where an op fails.
pub fn run(graph: &Graph, inputs: Vec<Datum>, seed: u64) -> Result<Vec<Datum>> {
    bind_inputs(graph, &inputs)?;
    run_values(graph, inputs, seed, &mut |_, _| {})
}

/// As [`run`], showing every value as it is made.
///
/// # Errors
/// As [`run`].
pub fn run_observed(
    graph: &Graph,
    inputs: Vec<Datum>,
    seed: u64,
    observe: &mut dyn FnMut(ValueId, &Datum),
) -> Result<Vec<Datum>> {
    bind_inputs(graph, &inputs)?;
    run_values(graph, inputs, seed, observe)
}

fn run_values(
    graph: &Graph,
    inputs: Vec<Datum>,
    seed: u64,
    observe: &mut dyn FnMut(ValueId, &Datum),
) -> Result<Vec<Datum>> {
    let mut left = graph.uses();
    let mut values: IndexVec<ValueId, Option<Datum>> = graph.values.ids().map(|_| None).collect();
    for (id, datum) in graph.inputs.iter().zip(inputs) {
        values[*id] = Some(datum);
    }
    for (id, value) in graph.values.iter() {
        if matches!(value.def, Def::Constant(_)) && left[id] > 0 {
            values[id] = Some(materialize(graph, id)?.into());
        }
    }
    for (id, node) in graph.nodes.iter() {
        let mut arguments = Vec::with_capacity(node.inputs.len());
        for input in &node.inputs {
            arguments.push(match input {
                None => None,
                Some(v) => {
                    left[*v] -= 1;
                    if left[*v] == 0 { values[*v].take() } else { values[*v].clone() }
                }
            });
        }
        // The seed of a random node follows from its place, so that equal nodes draw different numbers.
        let outputs = eval_node(node, &arguments, crate::weights::hash64(seed, u64::from(id.0)))
            .map_err(|cause| Box::new(at_node(graph, id, "evaluation", cause)))?;
        for (value, datum) in node.outputs.iter().zip(outputs) {
            if let Some(value) = *value {
                observe(value, &datum);
                if left[value] > 0 {
                    values[value] = Some(datum);
                }
            }
        }
    }
    graph
        .outputs
        .iter()
        .map(|id| {
            values[*id].clone().ok_or_else(|| {
                let name = &graph.values[*id].name;
                Box::new(Diagnostic::error("evaluation", format!("output `{name}` was not made")))
            })
        })
        .collect()
}

/// Evaluates one node by its op's definition.
///
/// # Errors
/// What the op says, in the user's terms.
pub fn eval_node(node: &Node, inputs: &[Option<Datum>], seed: u64) -> Result<Vec<Datum>, String> {
    eval_node_adding(node, inputs, seed, None)
}

/// As [`eval_node`], with products added up as given, where not as the node says.
///
/// # Errors
/// As [`eval_node`].
pub fn eval_node_adding(
    node: &Node,
    inputs: &[Option<Datum>],
    seed: u64,
    accumulation: Option<Accumulation>,
) -> Result<Vec<Datum>, String> {
    let run_body = |body: &Graph, inputs: Vec<Datum>| {
        run_values(body, inputs, seed, &mut |_, _| {}).map_err(|d| {
            let place =
                if d.place.is_empty() { String::new() } else { format!(" (at {})", d.place.join(" > ")) };
            format!("in body `{}`: {}{place}", body.name, d.cause)
        })
    };
    (node.op.def().eval)(&EvalCtx { node, inputs, seed, accumulation, run_body: &run_body })
}

/// Checks inputs against the graph's input types and finds what its symbols are.
///
/// # Errors
/// `input-mismatch` where number, element type, rank or an extent does not fit.
pub fn bind_inputs(graph: &Graph, inputs: &[Datum]) -> Result<Bindings> {
    let mismatch = |cause: String| Diagnostic::error("input-mismatch", cause);
    if inputs.len() != graph.inputs.len() {
        let names: Vec<&str> = graph.inputs.iter().map(|id| graph.values[*id].name.as_str()).collect();
        return mismatch(format!(
            "the model takes {} inputs ({}), got {}",
            graph.inputs.len(),
            names.join(", "),
            inputs.len()
        ))
        .err();
    }
    let mut bindings = Bindings::new();
    for (id, datum) in graph.inputs.iter().zip(inputs) {
        let value = &graph.values[*id];
        let (Type::Tensor(ty), Datum::Tensor(tensor)) = (&value.ty, datum) else { continue };
        let wrong = || mismatch(format!("input `{}` must be {ty}, got {tensor:?}", value.name));
        if tensor.dtype() != ty.dtype {
            return wrong().err();
        }
        let Some(shape) = &ty.shape else { continue };
        if shape.len() != tensor.rank() {
            return wrong().err();
        }
        for (dim, &extent) in shape.iter().zip(tensor.shape()) {
            match dim.as_symbol() {
                Some(symbol) => {
                    let first = *bindings.entry(symbol.to_owned()).or_insert(extent as i64);
                    if first != extent as i64 {
                        return wrong().help(format!("`{symbol}` is {first} in an earlier input")).err();
                    }
                }
                None => {
                    if dim.bind(&bindings).known().is_some_and(|n| Dim::from(extent) != Dim::Known(n)) {
                        return wrong().err();
                    }
                }
            }
        }
    }
    Ok(bindings)
}
