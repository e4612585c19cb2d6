//! The verifier of graphs.
//!
//! Invariants:
//! 1. every id is in range;
//! 2. a node uses only graph inputs, constants, and outputs of nodes before it;
//! 3. a value's definition and the node that makes it name each other; a graph input is listed once;
//! 4. names are unique and not empty;
//! 5. a node has as many inputs and outputs as its op's entry allows, and none left out that it needs;
//! 6. attributes are known to the op and of the right kind, and none that must be given is missing;
//! 7. a constant's data are of the constant's type;
//! 8. bodies are graphs of their own that hold all of this;
//! 9. the op's type rule holds and agrees with the types written in the graph;
//! 10. a state leads from an output to an input of the same type, neither of which has another; its first value is of that
//!     type; states stand in the order of their outputs, and bodies have none.

use crate::op::Port;
use crate::{Def, Graph, NodeId, Type, Weight, infer};
use orrery_base::{Diagnostic, Result, index::Id};
use std::collections::BTreeSet;

/// Checks all invariants.
///
/// # Errors
/// `graph-invalid` with the first invariant that is broken, or what inference says.
pub fn verify(graph: &Graph) -> Result<()> {
    structure(graph)?;
    let facts = infer::facts(graph)?;
    for (id, value) in graph.values.iter() {
        if let (Type::Tensor(written), Type::Tensor(found)) = (&value.ty, &facts[id].ty)
            && written.dtype != found.dtype
        {
            return invalid(9, format!("`{}` is written as {written} but is {found}", value.name)).err();
        }
    }
    for state in &graph.states {
        let (input, output) = (graph.inputs[state.input], graph.outputs[state.output]);
        let agree = match (&facts[input].ty, &facts[output].ty) {
            (Type::Tensor(found), Type::Tensor(left)) => {
                found.dtype == left.dtype
                    && (found.shape == left.shape || found.shape.is_none() || left.shape.is_none())
            }
            (found, left) => found == left,
        };
        if !agree {
            let (input, output) = (&graph.values[input], &graph.values[output]);
            let cause = format!("`{}` becomes `{}`, which is of another type", output.name, input.name);
            return invalid(10, cause).err();
        }
    }
    Ok(())
}

fn invalid(invariant: u32, cause: impl AsRef<str>) -> Diagnostic {
    let cause = cause.as_ref();
    Diagnostic::error("graph-invalid", format!("{cause} (invariant {invariant})"))
}

/// Checks invariants 1 to 8, and 10 but for the types of outputs, which need no inference.
///
/// # Errors
/// `graph-invalid`.
pub fn structure(graph: &Graph) -> Result<()> {
    let values = graph.values.len();
    let all_ids = graph
        .nodes
        .values()
        .flat_map(|n| n.inputs.iter().chain(&n.outputs).flatten())
        .chain(&graph.inputs)
        .chain(&graph.outputs);
    for id in all_ids {
        if id.index() >= values {
            return invalid(1, format!("value {id} does not exist")).err();
        }
    }
    let mut names = BTreeSet::new();
    for (id, value) in graph.values.iter() {
        if value.name.is_empty() || !names.insert(value.name.as_str()) {
            return invalid(4, format!("value {id} has the empty or repeated name `{}`", value.name)).err();
        }
        let listed = graph.inputs.iter().filter(|i| **i == id).count();
        match &value.def {
            Def::Input if listed != 1 => {
                return invalid(3, format!("input `{}` is listed {listed} times", value.name)).err();
            }
            Def::Input => {}
            _ if listed != 0 => {
                return invalid(3, format!("`{}` is listed as input but is none", value.name)).err();
            }
            Def::Node(node, number) => {
                let named =
                    graph.nodes.get(*node).and_then(|n| n.outputs.get(*number as usize).copied().flatten());
                if named != Some(id) {
                    return invalid(3, format!("`{}` says {node} makes it, which does not", value.name))
                        .err();
                }
            }
            Def::Constant(Weight::Data(tensor)) => {
                if value.ty != Type::tensor(tensor.dtype(), tensor.shape().iter().copied()) {
                    return invalid(7, format!("`{}` is {} but holds {tensor:?}", value.name, value.ty))
                        .err();
                }
            }
            Def::Constant(_) => {}
        }
    }
    states(graph)?;
    for (id, _) in graph.nodes.iter() {
        node_structure(graph, id)?;
    }
    Ok(())
}

/// What invariant 10 says but for the types of outputs.
fn states(graph: &Graph) -> Result<()> {
    let mut inputs = BTreeSet::new();
    for (number, state) in graph.states.iter().enumerate() {
        let Some(input) = graph.inputs.get(state.input) else {
            return invalid(10, format!("state {number} has input {}, which does not exist", state.input))
                .err();
        };
        let name = &graph.values[*input].name;
        if state.output >= graph.outputs.len() {
            return invalid(10, format!("output {} becomes `{name}`, but does not exist", state.output))
                .err();
        }
        if !inputs.insert(state.input) {
            return invalid(10, format!("two outputs become `{name}`")).err();
        }
        if graph.states[..number].last().is_some_and(|before| before.output >= state.output) {
            return invalid(10, format!("the state of `{name}` is out of the order of the outputs")).err();
        }
        if let Weight::Data(tensor) = &state.initial
            && graph.values[*input].ty != Type::tensor(tensor.dtype(), tensor.shape().iter().copied())
        {
            let cause = format!("`{name}` is {} but begins as {tensor:?}", graph.values[*input].ty);
            return invalid(10, cause).err();
        }
    }
    Ok(())
}

/// Checks what invariants 2, 3, 5, 6 and 8 say of one node.
///
/// # Errors
/// `graph-invalid`.
pub fn node_structure(graph: &Graph, id: NodeId) -> Result<()> {
    let node = &graph.nodes[id];
    let broken = |invariant, cause: String| invalid(invariant, cause).at(infer::node_place(graph, id)).err();
    for input in node.inputs.iter().flatten() {
        if let Def::Node(maker, _) = graph.values[*input].def
            && maker >= id
        {
            return broken(2, format!("uses `{}` before it is made", graph.values[*input].name));
        }
    }
    for (number, output) in node.outputs.iter().enumerate() {
        if let Some(output) = output
            && graph.values[*output].def != Def::Node(id, u32::try_from(number).unwrap_or(u32::MAX))
        {
            return broken(3, format!("makes `{}`, which says otherwise", graph.values[*output].name));
        }
    }
    let def = node.op.def();
    for (what, ports, given, range) in [
        ("inputs", def.inputs, &node.inputs, def.input_range()),
        ("outputs", def.outputs, &node.outputs, def.output_range()),
    ] {
        if given.len() < range.0 || range.1.is_some_and(|most| given.len() > most) {
            let most = range.1.map_or("any number".to_owned(), |n| n.to_string());
            return broken(5, format!("has {} {what}, needs {} to {most}", given.len(), range.0));
        }
        for (port, value) in ports.iter().zip(given) {
            if let (Port::One(name), None, "inputs") = (port, value, what) {
                return broken(5, format!("lacks input `{name}`"));
            }
        }
    }
    for (name, value) in node.attrs.iter() {
        match def.attr(name) {
            None => return broken(6, format!("has unknown attribute `{name}`")),
            Some(attr) if attr.kind != value.kind() => {
                return broken(
                    6,
                    format!("attribute `{name}` must be {:?}, is {:?}", attr.kind, value.kind()),
                );
            }
            Some(_) => {}
        }
    }
    if let Some(missing) = def.attrs.iter().find(|a| a.required && node.attrs.get(a.name).is_none()) {
        return broken(6, format!("lacks attribute `{}`", missing.name));
    }
    for body in &node.bodies {
        if !body.states.is_empty() {
            return broken(10, format!("has the body `{}` with states", body.name));
        }
        structure(body).map_err(|d| Box::new(d.at(infer::node_place(graph, id))))?;
    }
    Ok(())
}
