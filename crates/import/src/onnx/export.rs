//! From a Graph to a `ModelProto`.
//!
//! One node for each node, by name. Bodies see the values around them again; constants are initializers with raw data.

use super::dtype::number_of;
use super::operators::home;
use super::proto::attribute_proto::AttributeType;
use super::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, ValueInfoProto,
};
use super::tensor::write_tensor;
use super::types::write_type;
use bytes::Bytes;
use orrery_base::diagnostic::Context;
use orrery_base::{Diagnostic, IndexVec, Result};
use orrery_ir::infer::node_place;
use orrery_ir::weights::materialize;
use orrery_ir::{Attr, Def, Graph, Node, Op, Type, ValueId, Weight};
use std::collections::BTreeSet;

/// Oldest operator set that can be written: the op table's forms are of this age, but for newer attributes and operators.
pub const OLDEST_OPSET: i64 = 21;
/// Newest operator set that can be written.
pub const NEWEST_OPSET: i64 = 27;

/// Version of the file format that came with an operator set.
fn format_version(opset: i64) -> i64 {
    match opset {
        ..=22 => 10,
        23 => 11,
        24 => 12,
        _ => 13,
    }
}

/// Attributes that came after [`OLDEST_OPSET`].
const NEWER_ATTRIBUTES: &[(Op, &str, i64)] = &[
    (Op::QuantizeLinear, "precision", 23),
    (Op::DequantizeLinear, "output_dtype", 23),
    (Op::Cast, "round_mode", 24),
    (Op::CastLike, "round_mode", 24),
];

/// Attributes that only the graph has, and what is lost without them.
const OWN_ATTRIBUTES: &[(&str, &str)] = &[("accumulate", "the type that sums are held in")];

/// Metadata that the writer states itself.
const OWN_METADATA: &[&str] = &["producer", "domain", "ir_version", "opset"];

/// Converts a graph at an operator set from [`OLDEST_OPSET`] to [`NEWEST_OPSET`]. Notes say what a file cannot hold.
///
/// # Errors
/// `onnx-export` with the node for what ONNX cannot express; `weights-symbolic` for seeded weights of open size.
pub fn to_model_proto(graph: &Graph, opset: i64) -> Result<(ModelProto, Vec<Diagnostic>)> {
    if !(OLDEST_OPSET..=NEWEST_OPSET).contains(&opset) {
        return Diagnostic::error("onnx-export", format!("operator set {opset} cannot be written"))
            .help(format!("choose one from {OLDEST_OPSET} to {NEWEST_OPSET}"))
            .err();
    }
    let mut export = Export { opset, domains: BTreeSet::from([("", opset)]), notes: Vec::new() };
    let proto = export.graph(graph, None)?;
    let metadata = graph
        .metadata
        .iter()
        .filter(|(key, _)| !OWN_METADATA.contains(&key.as_str()) && !key.starts_with("opset."))
        .map(|(key, value)| StringStringEntryProto { key: Some(key.clone()), value: Some(value.clone()) });
    let model = ModelProto {
        ir_version: Some(format_version(opset)),
        producer_name: Some("orrery".into()),
        producer_version: Some(env!("CARGO_PKG_VERSION").into()),
        opset_import: export
            .domains
            .iter()
            .map(|(domain, version)| OperatorSetIdProto {
                domain: Some((*domain).into()),
                version: Some(*version),
            })
            .collect(),
        metadata_props: metadata.collect(),
        graph: Some(proto),
        ..ModelProto::default()
    };
    Ok((model, export.notes))
}

struct Export {
    opset: i64,
    domains: BTreeSet<(&'static str, i64)>,
    notes: Vec<Diagnostic>,
}

/// Where a body stands: the names of its captured inputs, and all names that are visible around it.
struct Around<'a> {
    captured: Vec<String>,
    visible: &'a BTreeSet<String>,
}

impl Export {
    fn graph(&mut self, graph: &Graph, around: Option<&Around<'_>>) -> Result<GraphProto> {
        let (names, copies) = name_values(graph, around);
        let formal = graph.inputs.len() - around.map_or(0, |a| a.captured.len());
        let mut visible: BTreeSet<String> = names.values().cloned().collect();
        if let Some(around) = around {
            visible.extend(around.visible.iter().cloned());
        }
        let mut proto = GraphProto { name: Some(graph.name.clone()), ..GraphProto::default() };
        for id in &graph.inputs[..formal] {
            proto.input.push(self.value_info(&names[*id], &graph.values[*id].ty)?);
        }
        for (id, value) in graph.values.iter() {
            match &value.def {
                Def::Constant(weight) => proto.initializer.push(initializer(graph, id, weight, &names[id])?),
                Def::Node(..) if !graph.outputs.contains(&id) && value.ty != Type::Unknown => {
                    proto.value_info.push(self.value_info(&names[id], &value.ty)?);
                }
                Def::Input | Def::Node(..) => {}
            }
        }
        for (id, node) in graph.nodes.iter() {
            let mut made = self.node(graph, node, &names, &visible).at(|| node_place(graph, id))?;
            if node.op == Op::Attention && has_mask_for_all_queries(graph, node) {
                proto.node.extend(over_queries(&mut made, &mut visible)?);
            }
            proto.node.push(made);
        }
        for (id, copy) in graph.outputs.iter().zip(&copies) {
            let name = copy.as_ref().unwrap_or(&names[*id]);
            if copy.is_some() {
                proto.node.push(NodeProto {
                    op_type: Some("Identity".into()),
                    input: vec![names[*id].clone()],
                    output: vec![name.clone()],
                    ..NodeProto::default()
                });
            }
            proto.output.push(self.value_info(name, &graph.values[*id].ty)?);
        }
        // A constant that only becomes an attribute is no initializer.
        let folded = folded_constants(graph);
        proto.initializer.retain(|i| !folded.iter().any(|id| names[*id] == i.name()));
        Ok(proto)
    }

    fn value_info(&self, name: &str, ty: &Type) -> Result<ValueInfoProto> {
        Ok(ValueInfoProto {
            name: Some(name.to_owned()),
            r#type: write_type(ty).at(|| format!("value `{name}`"))?,
            ..ValueInfoProto::default()
        })
    }

    fn node(
        &mut self,
        graph: &Graph,
        node: &Node,
        names: &IndexVec<ValueId, String>,
        visible: &BTreeSet<String>,
    ) -> Result<NodeProto> {
        let refused = |why: String| Diagnostic::error("onnx-export", why);
        let Some((domain, since)) = home(node.op) else {
            return refused(format!("ONNX has no {}", node.op)).err();
        };
        if domain.is_empty() && since > self.opset {
            return refused(format!("{} appears in operator set {since}, not in {}", node.op, self.opset))
                .help(format!("write operator set {since}"))
                .err();
        }
        if !domain.is_empty() {
            self.domains.insert((domain, super::operators::newest(domain).unwrap_or(1)));
        }
        let name_of = |id: &Option<ValueId>| id.map_or(String::new(), |id| names[id].clone());
        let mut proto = NodeProto {
            op_type: Some(node.op.name().into()),
            domain: (!domain.is_empty()).then(|| domain.to_owned()),
            name: (!node.name.is_empty()).then(|| node.name.clone()),
            input: node.inputs.iter().map(name_of).collect(),
            output: node.outputs.iter().map(name_of).collect(),
            ..NodeProto::default()
        };
        for (name, value) in node.attrs.iter() {
            if let Some((_, what)) = OWN_ATTRIBUTES.iter().find(|(own, _)| *own == name) {
                self.notes.push(
                    Diagnostic::note(
                        "onnx-export-dropped",
                        format!("`{name}` is not written: ONNX cannot say {what}"),
                    )
                    .at(format!("{} node `{}`", node.op, node.name)),
                );
                continue;
            }
            if let Some((.., since)) = NEWER_ATTRIBUTES
                .iter()
                .find(|(op, newer, since)| *op == node.op && *newer == name && *since > self.opset)
            {
                return refused(format!(
                    "attribute `{name}` appears in operator set {since}, not in {}",
                    self.opset
                ))
                .err();
            }
            proto.attribute.push(attribute(name, value)?);
        }
        match node.op {
            Op::ConstantOfShape => {
                if let Some(value) = node.inputs.get(1).copied().flatten() {
                    let Some(tensor) = graph.tensor_of(value) else {
                        return refused("the value must be a constant".into()).err();
                    };
                    let tensor = tensor.reshaped(vec![1]);
                    proto.attribute.push(AttributeProto {
                        name: Some("value".into()),
                        r#type: Some(AttributeType::Tensor as i32),
                        t: Some(write_tensor("", &tensor)?),
                        ..AttributeProto::default()
                    });
                    proto.input.truncate(1);
                }
            }
            Op::If => self.bodies(node, &mut proto, visible, 1, &["then_branch", "else_branch"])?,
            Op::Loop => {
                let ports = 2 + extent(node, "carried");
                proto.attribute.retain(|a| a.name() != "carried");
                self.bodies(node, &mut proto, visible, ports, &["body"])?;
            }
            Op::Scan => {
                let (states, scans) = (extent(node, "states"), extent(node, "scans"));
                proto.attribute.retain(|a| !["states", "scans"].contains(&a.name()));
                proto.attribute.push(attribute("num_scan_inputs", &Attr::Int(scans as i64))?);
                self.bodies(node, &mut proto, visible, states + scans, &["body"])?;
            }
            Op::SequenceMap => {
                let ports = proto.input.len();
                self.bodies(node, &mut proto, visible, ports, &["body"])?;
            }
            _ => {}
        }
        while proto.input.last().is_some_and(String::is_empty) {
            proto.input.pop();
        }
        Ok(proto)
    }

    /// Writes a node's bodies; inputs from `ports` on are what they capture.
    fn bodies(
        &mut self,
        node: &Node,
        proto: &mut NodeProto,
        visible: &BTreeSet<String>,
        ports: usize,
        attributes: &[&str],
    ) -> Result<()> {
        let captured = if proto.input.len() > ports { proto.input.split_off(ports) } else { Vec::new() };
        for (name, body) in attributes.iter().zip(&node.bodies) {
            let around = Around { captured: captured.clone(), visible };
            proto.attribute.push(AttributeProto {
                name: Some((*name).to_owned()),
                r#type: Some(AttributeType::Graph as i32),
                g: Some(self.graph(body, Some(&around))?),
                ..AttributeProto::default()
            });
        }
        Ok(())
    }
}

/// The place of the mask among the inputs of an attention.
const MASK: usize = 3;

/// Whether one row of a mask serves all queries.
fn has_mask_for_all_queries(graph: &Graph, node: &Node) -> bool {
    let mask = node.inputs.get(MASK).copied().flatten();
    let shape = mask.and_then(|mask| graph.values[mask].ty.as_tensor()?.shape.as_ref());
    shape.is_some_and(|shape| shape.iter().rev().nth(1).is_some_and(|rows| rows.is(1)))
}

/// Nodes that repeat the one row of an attention's mask for every query, which the attention then takes. The standard lets
/// the row broadcast; ONNX Runtime 1.31.1 refuses it.
fn over_queries(attention: &mut NodeProto, visible: &mut BTreeSet<String>) -> Result<Vec<NodeProto>> {
    let (query, mask) = (attention.input[0].clone(), attention.input[MASK].clone());
    let mut name = |what: &str| {
        let mut name = format!("{mask}.{what}");
        while !visible.insert(name.clone()) {
            name.push('_');
        }
        name
    };
    let [queries, one, shape, rows] = ["queries", "one", "shape", "rows"].map(&mut name);
    let node = |op: &str, input: &[&String], output: &String, attributes: Vec<AttributeProto>| NodeProto {
        op_type: Some(op.into()),
        input: input.iter().map(|i| (*i).clone()).collect(),
        output: vec![output.clone()],
        attribute: attributes,
        ..NodeProto::default()
    };
    // Queries are the last dimension but one, whether heads have a dimension of their own or not.
    let range = [attribute("start", &Attr::Int(-2))?, attribute("end", &Attr::Int(-1))?];
    attention.input[MASK].clone_from(&rows);
    Ok(vec![
        node("Shape", &[&query], &queries, range.to_vec()),
        node("Constant", &[], &one, vec![attribute("value_ints", &Attr::Ints(vec![1]))?]),
        node("Concat", &[&queries, &one], &shape, vec![attribute("axis", &Attr::Int(0))?]),
        node("Expand", &[&mask, &shape], &rows, Vec::new()),
    ])
}

fn extent(node: &Node, name: &str) -> usize {
    usize::try_from(node.attrs.int_or(name, 0)).unwrap_or(0)
}

/// Names for all values of a graph, and for each output the name of a copy where one is needed: a value has one name
/// only, so a second output of it, or an input or captured value under another name, is copied.
fn name_values(
    graph: &Graph,
    around: Option<&Around<'_>>,
) -> (IndexVec<ValueId, String>, Vec<Option<String>>) {
    let none = BTreeSet::new();
    let visible = around.map_or(&none, |a| a.visible);
    let captured: &[String] = around.map_or(&[], |a| &a.captured);
    let formal = graph.inputs.len() - captured.len();
    let mut names: IndexVec<ValueId, String> = graph.values.values().map(|v| v.name.clone()).collect();
    let mut fixed: BTreeSet<ValueId> = graph.inputs.iter().copied().collect();
    let mut wanted: Vec<Option<String>> = Vec::with_capacity(graph.outputs.len());
    for (number, id) in graph.outputs.iter().enumerate() {
        let output = graph.output_name(number).to_owned();
        if fixed.insert(*id) {
            names[*id] = output;
            wanted.push(None);
        } else if graph.outputs[..number].contains(id)
            || names[*id] != output
            || graph.inputs[formal..].contains(id)
        {
            wanted.push(Some(output));
        } else {
            wanted.push(None);
        }
    }
    let mut taken: BTreeSet<String> = visible.clone();
    let mut unique = |name: &str| {
        let mut made = name.to_owned();
        let mut count = 1;
        while !taken.insert(made.clone()) {
            count += 1;
            made = format!("{name}.{count}");
        }
        made
    };
    let outputs: BTreeSet<ValueId> = graph.outputs.iter().copied().collect();
    // Inputs and outputs keep their names; what stands between gives way.
    let (first, rest): (Vec<ValueId>, Vec<ValueId>) =
        graph.values.ids().partition(|id| fixed.contains(id) || outputs.contains(id));
    for id in first.into_iter().chain(rest) {
        match graph.inputs[formal..].iter().position(|captured| *captured == id) {
            Some(at) => names[id].clone_from(&captured[at]),
            None => names[id] = unique(&names[id]),
        }
    }
    let copies = wanted.into_iter().map(|copy| copy.map(|name| unique(&name))).collect();
    (names, copies)
}

/// Constants whose only uses become attributes.
fn folded_constants(graph: &Graph) -> Vec<ValueId> {
    let values: Vec<ValueId> = graph
        .nodes
        .values()
        .filter(|node| node.op == Op::ConstantOfShape)
        .filter_map(|node| node.inputs.get(1).copied().flatten())
        .collect();
    if values.is_empty() {
        return values;
    }
    let uses = graph.uses();
    values
        .iter()
        .copied()
        .filter(|id| uses[*id] as usize == values.iter().filter(|v| *v == id).count())
        .collect()
}

fn initializer(graph: &Graph, id: ValueId, weight: &Weight, name: &str) -> Result<TensorProto> {
    match weight {
        Weight::Data(tensor) => write_tensor(name, tensor),
        Weight::Seeded { .. } => write_tensor(name, &materialize(graph, id)?),
        Weight::Absent | Weight::Digest(_) => {
            let refused = || {
                Diagnostic::error(
                    "onnx-export",
                    format!("weight `{name}` has type {}, which leaves its size open", graph.values[id].ty),
                )
            };
            let ty = graph.values[id].ty.as_tensor().ok_or_else(refused)?;
            let extents = ty.extents().ok_or_else(refused)?;
            Ok(TensorProto {
                name: Some(name.to_owned()),
                data_type: Some(number_of(ty.dtype)?),
                dims: extents.into_iter().map(|extent| extent as i64).collect(),
                ..TensorProto::default()
            })
        }
    }
}

fn attribute(name: &str, value: &Attr) -> Result<AttributeProto> {
    let mut proto = AttributeProto { name: Some(name.to_owned()), ..AttributeProto::default() };
    let text = |s: &String| Bytes::copy_from_slice(s.as_bytes());
    let kind = match value {
        Attr::Int(v) => {
            proto.i = Some(*v);
            AttributeType::Int
        }
        Attr::DType(v) => {
            proto.i = Some(number_of(*v)?.into());
            AttributeType::Int
        }
        Attr::Float(v) => {
            proto.f = Some(*v as f32);
            AttributeType::Float
        }
        Attr::Str(v) => {
            proto.s = Some(text(v));
            AttributeType::String
        }
        Attr::Type(v) => {
            proto.tp = write_type(v)?;
            AttributeType::TypeProto
        }
        Attr::Ints(v) => {
            proto.ints.clone_from(v);
            AttributeType::Ints
        }
        Attr::Floats(v) => {
            proto.floats = v.iter().map(|v| *v as f32).collect();
            AttributeType::Floats
        }
        Attr::Strs(v) => {
            proto.strings = v.iter().map(text).collect();
            AttributeType::Strings
        }
    };
    proto.r#type = Some(kind as i32);
    Ok(proto)
}
