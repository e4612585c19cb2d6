//! One node of the file on its way into the graph: operands resolved, attributes not yet converted.

use super::dtype::{dtype_named, dtype_of};
use super::proto::attribute_proto::AttributeType;
use super::proto::{AttributeProto, GraphProto, NodeProto};
use super::tensor::text;
use super::types::read_type;
use orrery_base::{Diagnostic, Result};
use orrery_ir::{Attr, AttrKind, Attrs, Op, ValueId};
use std::collections::BTreeMap;

/// A node with its operands as values of the graph.
///
/// An upgrade takes the attributes that it handles; what is left is converted as the op's entry says.
pub(super) struct Call<'m> {
    /// Operator type in the file.
    pub(super) operator: &'m str,
    /// Version of the operator set it is of.
    pub(super) version: i64,
    /// The user's name, with the way there in front where it stands in a function.
    pub(super) name: String,
    /// Operands by position; none where left out. No trailing none.
    pub(super) inputs: Vec<Option<ValueId>>,
    /// Names of results by position; empty where not wanted. No trailing empty.
    pub(super) outputs: Vec<&'m str>,
    /// Attributes not yet taken.
    pub(super) attributes: BTreeMap<&'m str, &'m AttributeProto>,
    /// Attributes in the form of the graph, set by an upgrade.
    pub(super) set: Attrs,
    /// What the graph does otherwise than the file says.
    pub(super) approximation: Option<String>,
}

/// What an attribute holds, from its declared type or, in files of the first version, from what is there.
fn type_of(attribute: &AttributeProto) -> AttributeType {
    match attribute.r#type() {
        AttributeType::Undefined => {}
        declared => return declared,
    }
    if attribute.f.is_some() {
        AttributeType::Float
    } else if attribute.i.is_some() {
        AttributeType::Int
    } else if attribute.s.is_some() {
        AttributeType::String
    } else if attribute.t.is_some() {
        AttributeType::Tensor
    } else if attribute.g.is_some() {
        AttributeType::Graph
    } else if !attribute.floats.is_empty() {
        AttributeType::Floats
    } else if !attribute.ints.is_empty() {
        AttributeType::Ints
    } else if !attribute.strings.is_empty() {
        AttributeType::Strings
    } else {
        AttributeType::Undefined
    }
}

fn wrong_kind(attribute: &AttributeProto, wanted: &str) -> Box<Diagnostic> {
    let is = type_of(attribute).as_str_name().to_lowercase();
    Box::new(Diagnostic::error(
        "onnx-attribute",
        format!("attribute `{}` must be {wanted}, is {is}", attribute.name()),
    ))
}

/// Converts an attribute to the kind that the op's entry asks for; none where it says nothing.
///
/// # Errors
/// `onnx-attribute` where it holds something else.
pub(super) fn convert(attribute: &AttributeProto, kind: AttrKind) -> Result<Option<Attr>> {
    let name = attribute.name();
    Ok(Some(match (kind, type_of(attribute)) {
        (AttrKind::Int, AttributeType::Int) => Attr::Int(attribute.i()),
        (AttrKind::Float, AttributeType::Float) => Attr::Float(f64::from(attribute.f())),
        (AttrKind::Str, AttributeType::String) => Attr::Str(text(attribute.s(), name)?),
        (AttrKind::DType, AttributeType::Int) => match dtype_of(attribute.i())? {
            Some(dtype) => Attr::DType(dtype),
            None => return Ok(None),
        },
        (AttrKind::DType, AttributeType::String) => Attr::DType(dtype_named(&text(attribute.s(), name)?)?),
        (AttrKind::Type, AttributeType::TypeProto) => match &attribute.tp {
            Some(ty) => Attr::Type(read_type(ty, name)?),
            None => return Ok(None),
        },
        (AttrKind::Ints, AttributeType::Ints | AttributeType::Undefined) => {
            Attr::Ints(attribute.ints.clone())
        }
        (AttrKind::Floats, AttributeType::Floats | AttributeType::Undefined) => {
            Attr::Floats(attribute.floats.iter().copied().map(f64::from).collect())
        }
        (AttrKind::Strs, AttributeType::Strings | AttributeType::Undefined) => {
            Attr::Strs(attribute.strings.iter().map(|s| text(s, name)).collect::<Result<_>>()?)
        }
        _ => {
            let wanted = match kind {
                AttrKind::Int => "an integer",
                AttrKind::Float => "a float",
                AttrKind::Str => "a string",
                AttrKind::DType => "an element type",
                AttrKind::Type => "a type",
                AttrKind::Ints => "integers",
                AttrKind::Floats => "floats",
                AttrKind::Strs => "strings",
            };
            return Err(wrong_kind(attribute, wanted));
        }
    }))
}

impl<'m> Call<'m> {
    /// Takes an attribute as it is in the file.
    pub(super) fn take(&mut self, name: &str) -> Option<&'m AttributeProto> {
        self.attributes.remove(name)
    }
    fn take_as(&mut self, name: &str, kind: AttrKind) -> Result<Option<Attr>> {
        self.take(name).map_or(Ok(None), |attribute| convert(attribute, kind))
    }
    /// Takes an integer.
    ///
    /// # Errors
    /// `onnx-attribute` where it is something else; the others alike.
    pub(super) fn take_int(&mut self, name: &str) -> Result<Option<i64>> {
        Ok(match self.take_as(name, AttrKind::Int)? {
            Some(Attr::Int(value)) => Some(value),
            _ => None,
        })
    }
    /// Takes a float.
    pub(super) fn take_float(&mut self, name: &str) -> Result<Option<f64>> {
        Ok(match self.take_as(name, AttrKind::Float)? {
            Some(Attr::Float(value)) => Some(value),
            _ => None,
        })
    }
    /// Takes a string.
    pub(super) fn take_str(&mut self, name: &str) -> Result<Option<String>> {
        Ok(match self.take_as(name, AttrKind::Str)? {
            Some(Attr::Str(value)) => Some(value),
            _ => None,
        })
    }
    /// Takes integers.
    pub(super) fn take_ints(&mut self, name: &str) -> Result<Option<Vec<i64>>> {
        Ok(match self.take_as(name, AttrKind::Ints)? {
            Some(Attr::Ints(values)) => Some(values),
            _ => None,
        })
    }
    /// Takes floats.
    pub(super) fn take_floats(&mut self, name: &str) -> Result<Option<Vec<f64>>> {
        Ok(match self.take_as(name, AttrKind::Floats)? {
            Some(Attr::Floats(values)) => Some(values),
            _ => None,
        })
    }
    /// Takes strings.
    pub(super) fn take_strs(&mut self, name: &str) -> Result<Option<Vec<String>>> {
        Ok(match self.take_as(name, AttrKind::Strs)? {
            Some(Attr::Strs(values)) => Some(values),
            _ => None,
        })
    }
    /// Takes a body.
    pub(super) fn take_graph(&mut self, name: &str) -> Result<&'m GraphProto> {
        let attribute = self.take(name).ok_or_else(|| self.lacks(name))?;
        attribute.g.as_ref().ok_or_else(|| wrong_kind(attribute, "a graph"))
    }
    /// The error of an attribute that must be there.
    pub(super) fn lacks(&self, name: &str) -> Box<Diagnostic> {
        Box::new(Diagnostic::error("onnx-attribute", format!("attribute `{name}` is missing")))
    }
    /// Input `i`, none where left out.
    pub(super) fn input(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }
    /// Input `i`.
    ///
    /// # Errors
    /// `onnx-inputs` where it is left out.
    pub(super) fn needed(&self, i: usize) -> Result<ValueId> {
        self.input(i)
            .map_or_else(|| Diagnostic::error("onnx-inputs", format!("input {i} is missing")).err(), Ok)
    }
    /// Puts a value at input `i`, leaving out those before it that are not there.
    pub(super) fn set_input(&mut self, i: usize, value: ValueId) {
        if self.inputs.len() <= i {
            self.inputs.resize(i + 1, None);
        }
        self.inputs[i] = Some(value);
    }
    /// The attributes for `op`: those that an upgrade set, and all that are left, converted.
    ///
    /// # Errors
    /// `onnx-attribute` for one that the op does not know or that holds something else.
    pub(super) fn finish_attributes(&mut self, op: Op) -> Result<Attrs> {
        let mut attrs = std::mem::take(&mut self.set);
        for (name, attribute) in std::mem::take(&mut self.attributes) {
            match op.def().attr(name) {
                Some(def) => {
                    if let Some(value) = convert(attribute, def.kind)? {
                        attrs.set(name, value);
                    }
                }
                None => {
                    return Diagnostic::error(
                        "onnx-attribute",
                        format!(
                            "{} of operator set {} has no attribute `{name}`",
                            self.operator, self.version
                        ),
                    )
                    .err();
                }
            }
        }
        Ok(attrs)
    }
}

/// A node in the user's terms: by name, or by the first value it makes.
pub(super) fn place_of(node: &NodeProto) -> String {
    match (node.name(), node.output.iter().find(|o| !o.is_empty())) {
        ("", Some(made)) => format!("{} node that makes `{made}`", node.op_type()),
        ("", None) => format!("{} node", node.op_type()),
        (name, _) => format!("{} node `{name}`", node.op_type()),
    }
}
