//! Models made in code.

#![allow(dead_code, reason = "each test binary uses some of these")]

use bytes::Bytes;
use orrery_base::Result;
use orrery_import::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use orrery_import::onnx::proto::*;
use orrery_import::onnx::{Imported, Options, load_bytes};
use orrery_ir::Graph;
use prost::Message;

/// A node.
pub(crate) fn node(
    op: &str,
    inputs: &[&str],
    outputs: &[&str],
    attributes: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto {
        op_type: Some(op.into()),
        name: Some(format!("the_{op}")),
        input: inputs.iter().map(|&s| s.into()).collect(),
        output: outputs.iter().map(|&s| s.into()).collect(),
        attribute: attributes,
        ..NodeProto::default()
    }
}
/// An attribute without a value.
fn attribute(name: &str, kind: attribute_proto::AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(kind as i32), ..AttributeProto::default() }
}
pub(crate) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, attribute_proto::AttributeType::Int) }
}
pub(crate) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, attribute_proto::AttributeType::Float) }
}
pub(crate) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, attribute_proto::AttributeType::Ints) }
}
pub(crate) fn string(name: &str, value: &[u8]) -> AttributeProto {
    AttributeProto {
        s: Some(Bytes::copy_from_slice(value)),
        ..attribute(name, attribute_proto::AttributeType::String)
    }
}
pub(crate) fn tensor(name: &str, value: TensorProto) -> AttributeProto {
    AttributeProto { t: Some(value), ..attribute(name, attribute_proto::AttributeType::Tensor) }
}
pub(crate) fn body(name: &str, value: GraphProto) -> AttributeProto {
    AttributeProto { g: Some(value), ..attribute(name, attribute_proto::AttributeType::Graph) }
}
/// A reference to an attribute of the function that the node stands in.
pub(crate) fn reference(name: &str, to: &str, kind: attribute_proto::AttributeType) -> AttributeProto {
    AttributeProto { ref_attr_name: Some(to.into()), ..attribute(name, kind) }
}

/// An f32 value of extents given as numbers, symbols, or nothing.
pub(crate) fn value(name: &str, dims: &[&str]) -> ValueInfoProto {
    typed(name, 1, dims)
}
/// A value of an element type by its ONNX number.
pub(crate) fn typed(name: &str, dtype: i32, dims: &[&str]) -> ValueInfoProto {
    let dim = dims
        .iter()
        .map(|dim| Dimension {
            denotation: None,
            value: match dim.parse() {
                Ok(extent) => Some(dimension::Value::DimValue(extent)),
                Err(_) if dim.is_empty() => None,
                Err(_) => Some(dimension::Value::DimParam((*dim).into())),
            },
        })
        .collect();
    let tensor = type_proto::Tensor { elem_type: Some(dtype), shape: Some(TensorShapeProto { dim }) };
    let ty = TypeProto { denotation: None, value: Some(type_proto::Value::TensorType(tensor)) };
    ValueInfoProto { name: Some(name.into()), r#type: Some(ty), ..ValueInfoProto::default() }
}
/// A value of which nothing is said.
pub(crate) fn untyped(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: Some(name.into()), ..ValueInfoProto::default() }
}
/// An f32 tensor with raw data.
pub(crate) fn weight(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(1),
        dims: dims.to_vec(),
        raw_data: Some(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        ..TensorProto::default()
    }
}
/// A graph.
pub(crate) fn graph(
    inputs: &[ValueInfoProto],
    outputs: &[ValueInfoProto],
    nodes: Vec<NodeProto>,
) -> GraphProto {
    GraphProto {
        name: Some("main".into()),
        input: inputs.to_vec(),
        output: outputs.to_vec(),
        node: nodes,
        ..GraphProto::default()
    }
}
/// A model at an operator set.
pub(crate) fn model(opset: i64, graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(opset) }],
        graph: Some(graph),
        ..ModelProto::default()
    }
}
/// `y = op(x)` over `x: f32[N, 4]`.
pub(crate) fn single(opset: i64, op: &str, attributes: Vec<AttributeProto>) -> ModelProto {
    let nodes = vec![node(op, &["x"], &["y"], attributes)];
    model(opset, graph(&[value("x", &["N", "4"])], &[value("y", &["N", "4"])], nodes))
}
pub(crate) fn bytes(model: &ModelProto) -> Bytes {
    model.encode_to_vec().into()
}
pub(crate) fn load(model: &ModelProto) -> Result<Imported> {
    load_bytes(&bytes(model), &Options::default())
}
pub(crate) fn load_graph(model: &ModelProto) -> Graph {
    match load(model).and_then(Imported::into_graph) {
        Ok(graph) => graph,
        Err(d) => panic!("{d}"),
    }
}
