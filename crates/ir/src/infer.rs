//! Type and shape inference.
//!
//! Goes through the nodes once, in order, and asks each op's type rule. What cannot be known before running stays
//! unknown; only contradictions are errors. Small integer tensors are followed as formulas, so that shapes computed in the
//! graph (`Shape`, `Gather`, `Concat`, `Reshape`) come out in terms of the model's own symbols.

use crate::op::{Ctx, Fact};
use crate::{Bindings, Def, Graph, NodeId, TensorType, Type, ValueId, Weight};
use orrery_base::{Diagnostic, IndexVec, Result};

/// Facts of all values.
pub type Facts = IndexVec<ValueId, Fact>;

/// Infers the types of all values and writes them into the graph. Returns all that is known.
///
/// # Errors
/// `type-rule` with the node, where an op's type rule is broken.
pub fn infer(graph: &mut Graph) -> Result<Facts> {
    let facts = facts(graph)?;
    for (id, value) in graph.values.iter_mut() {
        value.ty = facts[id].ty.clone();
    }
    Ok(facts)
}

/// Puts numbers in for symbols in the graph's input types and weights and infers everything anew.
///
/// # Errors
/// As [`infer`]; `unknown-symbol` where a binding names no symbol of the graph.
pub fn bind(graph: &mut Graph, bindings: &Bindings) -> Result<Facts> {
    let known: std::collections::BTreeSet<String> = graph
        .values
        .values()
        .filter_map(|v| v.ty.as_tensor()?.shape.as_ref())
        .flatten()
        .flat_map(crate::Dim::symbols)
        .collect();
    if let Some(stray) = bindings.keys().find(|name| !known.contains(*name)) {
        let list = if known.is_empty() {
            "none".to_owned()
        } else {
            known.into_iter().collect::<Vec<_>>().join(", ")
        };
        return Diagnostic::error("unknown-symbol", format!("the model has no dimension named `{stray}`"))
            .help(format!("its symbolic dimensions: {list}"))
            .err();
    }
    for (_, value) in graph.values.iter_mut() {
        value.ty = if matches!(value.def, Def::Node(..)) { Type::Unknown } else { value.ty.bind(bindings) };
    }
    infer(graph)
}

/// All that can be known of the graph's values, without changing it.
///
/// # Errors
/// As [`infer`].
pub fn facts(graph: &Graph) -> Result<Facts> {
    facts_with(graph, None)
}

fn facts_with(graph: &Graph, inputs: Option<&[Fact]>) -> Result<Facts> {
    let mut facts: Facts = graph
        .values
        .values()
        .map(|value| match &value.def {
            Def::Constant(Weight::Data(tensor)) => Fact::constant(tensor),
            _ => Fact::of(value.ty.clone()),
        })
        .collect();
    if let Some(inputs) = inputs {
        for (id, fact) in graph.inputs.iter().zip(inputs) {
            facts[*id] = merge(fact.clone(), &graph.values[*id].ty);
        }
    }
    for (id, node) in graph.nodes.iter() {
        let found = node_facts(graph, &facts, id)?;
        for (output, fact) in node.outputs.iter().zip(found) {
            if let Some(output) = *output {
                facts[output] = fact;
            }
        }
    }
    Ok(facts)
}

/// What is known of the outputs of one node, given the facts of all values before it.
///
/// # Errors
/// As [`infer`].
pub fn node_facts(graph: &Graph, facts: &Facts, id: NodeId) -> Result<Vec<Fact>> {
    let node = &graph.nodes[id];
    let inputs: Vec<Option<Fact>> = node.inputs.iter().map(|v| v.map(|v| facts[v].clone())).collect();
    let output_names: Vec<String> =
        node.outputs.iter().map(|v| v.map_or(String::new(), |v| graph.values[v].name.clone())).collect();
    let ctx =
        Ctx { node, inputs: &inputs, outputs: &[], output_names: &output_names, infer_body: &infer_body };
    let found =
        (node.op.def().infer)(&ctx).map_err(|cause| Box::new(at_node(graph, id, "type-rule", cause)))?;
    let declared = node.outputs.iter().map(|v| v.map_or(&Type::Unknown, |v| &graph.values[v].ty));
    Ok(found.into_iter().zip(declared).map(|(fact, declared)| merge(fact, declared)).collect())
}

/// All that can be known of a body that is given these inputs.
///
/// # Errors
/// As [`infer`].
pub fn body_facts(body: &Graph, inputs: &[Fact]) -> Result<Facts> {
    facts_with(body, Some(inputs))
}

fn infer_body(body: &Graph, inputs: &[Fact]) -> Result<Vec<Fact>, String> {
    let facts = facts_with(body, Some(inputs)).map_err(|d| {
        let place = if d.place.is_empty() { String::new() } else { format!(" (at {})", d.place.join(" > ")) };
        format!("in body `{}`: {}{place}", body.name, d.cause)
    })?;
    Ok(body.outputs.iter().map(|id| facts[*id].clone()).collect())
}

/// What the type rule found, completed by what the file declares where the rule does not know.
fn merge(mut found: Fact, declared: &Type) -> Fact {
    found.ty = match (found.ty, declared) {
        (Type::Unknown, declared) => declared.clone(),
        (Type::Tensor(found), Type::Tensor(declared)) => Type::Tensor(TensorType {
            dtype: found.dtype,
            shape: match (found.shape, &declared.shape) {
                (None, declared) => declared.clone(),
                (Some(found), Some(declared)) if found.len() == declared.len() => Some(
                    found
                        .into_iter()
                        .zip(declared)
                        .map(|(f, d)| if f.known().is_none() && d.known().is_some() { d.clone() } else { f })
                        .collect(),
                ),
                (found, _) => found,
            },
        }),
        (found, _) => found,
    };
    found
}

/// A diagnostic at a node: its name in the model file, or what it makes.
pub fn at_node(graph: &Graph, id: NodeId, code: &'static str, cause: impl Into<String>) -> Diagnostic {
    Diagnostic::error(code, cause).at(node_place(graph, id))
}

/// A node in the user's terms.
pub fn node_place(graph: &Graph, id: NodeId) -> String {
    let node = &graph.nodes[id];
    let made = node.outputs.iter().flatten().next().map_or("", |v| &graph.values[*v].name);
    match (node.name.as_str(), made) {
        ("", "") => format!("{} node {}", node.op, id.0),
        ("", made) => format!("{} node that makes `{made}`", node.op),
        (name, _) => format!("{} node `{name}`", node.op),
    }
}

/// A context for asking a node's work and space, once the graph's types are inferred.
pub fn with_ctx<T>(graph: &Graph, facts: &Facts, id: NodeId, ask: impl FnOnce(&Ctx<'_>) -> T) -> T {
    let node = &graph.nodes[id];
    let inputs: Vec<Option<Fact>> = node.inputs.iter().map(|v| v.map(|v| facts[v].clone())).collect();
    let outputs: Vec<Option<Type>> = node.outputs.iter().map(|v| v.map(|v| facts[v].ty.clone())).collect();
    ask(&Ctx { node, inputs: &inputs, outputs: &outputs, output_names: &[], infer_body: &infer_body })
}
