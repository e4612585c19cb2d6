//! Whether a graph survives being written and read again.

use orrery_import::onnx;
use orrery_ir::{Def, Graph, Type, ValueId, Weight};
use std::collections::BTreeMap;

/// Writes the graph, reads it again, and compares: same nodes in the same order, same names, types, attributes, weights.
/// Numbers of values may differ, and metadata, which state the writer. None where ONNX cannot express the graph.
///
/// # Errors
/// The first difference.
pub fn round_trip(graph: &Graph) -> Result<Option<()>, String> {
    let written = match onnx::to_bytes(graph, onnx::DEFAULT_OPSET) {
        Ok((bytes, _)) => bytes,
        Err(d) if d.code == "onnx-export" => return Ok(None),
        Err(d) => return Err(d.to_string()),
    };
    let again = onnx::load_bytes(&written, &onnx::Options::default())
        .and_then(onnx::Imported::into_graph)
        .map_err(|d| format!("what was written cannot be read: {d}"))?;
    same_graph(graph, &again).map(Some)
}

/// Compares two graphs by names.
///
/// # Errors
/// The first difference.
pub fn same_graph(a: &Graph, b: &Graph) -> Result<(), String> {
    let name = |graph: &Graph, id: &ValueId| graph.values[*id].name.clone();
    let differ = |what: &str, a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| {
        let (a, b) = (format!("{a:?}"), format!("{b:?}"));
        if a == b { Ok(()) } else { Err(format!("{what} was {a}, is {b}")) }
    };
    let inputs = |g: &Graph| -> Vec<(String, Type)> {
        g.inputs.iter().map(|id| (name(g, id), g.values[*id].ty.clone())).collect()
    };
    differ("inputs", &inputs(a), &inputs(b))?;
    let outputs =
        |g: &Graph| -> Vec<String> { (0..g.outputs.len()).map(|i| g.output_name(i).to_owned()).collect() };
    differ("outputs", &outputs(a), &outputs(b))?;
    let types = |g: &Graph| -> BTreeMap<String, Type> {
        g.values.values().map(|v| (v.name.clone(), v.ty.clone())).collect()
    };
    let (types_a, types_b) = (types(a), types(b));
    for (value, ty) in &types_a {
        differ(&format!("type of `{value}`"), &Some(ty), &types_b.get(value))?;
    }
    differ("values", &types_a.len(), &types_b.len())?;
    differ("nodes", &a.nodes.len(), &b.nodes.len())?;
    for (left, right) in a.nodes.values().zip(b.nodes.values()) {
        let operands = |g: &Graph, ids: &[Option<ValueId>]| -> Vec<Option<String>> {
            ids.iter().map(|id| id.as_ref().map(|id| name(g, id))).collect()
        };
        differ("op", &(left.op, &left.name), &(right.op, &right.name))?;
        let at = format!("{} `{}`", left.op, left.name);
        differ(&format!("inputs of {at}"), &operands(a, &left.inputs), &operands(b, &right.inputs))?;
        differ(&format!("outputs of {at}"), &operands(a, &left.outputs), &operands(b, &right.outputs))?;
        differ(&format!("attributes of {at}"), &left.attrs, &right.attrs)?;
        differ(&format!("bodies of {at}"), &left.bodies.len(), &right.bodies.len())?;
        for (left, right) in left.bodies.iter().zip(&right.bodies) {
            same_graph(left, right).map_err(|why| format!("in a body of {at}: {why}"))?;
        }
    }
    let weights = |g: &Graph| -> BTreeMap<String, Weight> {
        let constant = |def: &Def| if let Def::Constant(weight) = def { Some(weight.clone()) } else { None };
        g.values.values().filter_map(|v| constant(&v.def).map(|w| (v.name.clone(), w))).collect()
    };
    let (weights_a, weights_b) = (weights(a), weights(b));
    for (value, weight) in &weights_a {
        if weights_b.get(value) != Some(weight) {
            return Err(format!("weight `{value}` changed"));
        }
    }
    Ok(())
}
