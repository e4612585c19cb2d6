//! From a `ModelProto` to a Graph.

use super::build::{Build, Level};
use super::call::{Call, place_of};
use super::external::External;
use super::functions::Functions;
use super::operators::{Done, Form, lookup, newest};
use super::order::{order, used_names};
use super::proto::{GraphProto, ModelProto, NodeProto, TypeProto};
use super::report::{Fidelity, Imported, NodeReport, Report};
use super::tensor::{read_sparse, read_tensor};
use super::types::read_type;
use orrery_base::diagnostic::Context;
use orrery_base::{Diagnostic, Result};
use orrery_ir::op::Fact;
use orrery_ir::{Op, Type, ValueId, Weight, verify};
use std::collections::BTreeMap;

/// The state of an import.
pub(super) struct Import<'m> {
    pub(super) build: Build<'m>,
    pub(super) external: External,
    pub(super) report: Report,
    pub(super) functions: Functions<'m>,
}

/// The domain of the standard operators has two names.
pub(super) fn domain_of(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// Builds the graph of a model.
///
/// # Errors
/// Diagnostics with codes `onnx-*`; `type-rule` and `graph-invalid` with the node.
pub(super) fn import(model: &ModelProto, external: External) -> Result<Imported> {
    let Some(graph) = &model.graph else {
        return Diagnostic::error("onnx-no-graph", "the file has no graph").err();
    };
    let mut import = Import {
        build: Build { typed: true, ..Build::default() },
        external,
        report: Report::default(),
        functions: Functions::new(&model.functions)?,
    };
    let build = &mut import.build;
    build.enter_graph(graph.name());
    build.env_mut().versions = versions(&model.opset_import)?;
    if build.env().versions.is_empty() {
        // Before version 3 of the format there was one operator set.
        build.env_mut().versions.insert("", 1);
    }
    metadata(model, &mut build.level().graph.metadata);
    let initialized: std::collections::BTreeSet<&str> = graph
        .initializer
        .iter()
        .map(super::proto::TensorProto::name)
        .chain(
            graph
                .sparse_initializer
                .iter()
                .filter_map(|s| s.values.as_ref().map(super::proto::TensorProto::name)),
        )
        .collect();
    for input in &graph.input {
        let name = input.name();
        if name.is_empty() {
            return Diagnostic::error("onnx-undefined", "an input of the model has no name").err();
        }
        if initialized.contains(name) {
            if model.ir_version() >= 4 {
                import.report.notes.push(Diagnostic::note(
                    "onnx-input-default",
                    format!("input `{name}` has a default in the file and is taken as constant"),
                ));
            }
            continue;
        }
        let ty = declared(input.r#type.as_ref(), name)?;
        if ty == Type::Unknown {
            return Diagnostic::error("onnx-type", format!("input `{name}` has no type")).err();
        }
        import.build.input(name, ty.clone(), Fact::of(ty))?;
    }
    import.contents(graph)?;
    let mut level = import.build.leave_graph();
    if let Some(unknown) = import.report.unknown_error() {
        import.report.notes.push(Diagnostic { severity: orrery_base::Severity::Warning, ..unknown });
        return Ok(Imported { graph: None, report: import.report });
    }
    level.write_types();
    verify::structure(&level.graph)?;
    Ok(Imported { graph: Some(level.graph), report: import.report })
}

fn declared(ty: Option<&TypeProto>, owner: &str) -> Result<Type> {
    ty.map_or(Ok(Type::Unknown), |ty| read_type(ty, owner))
}

pub(super) fn versions(imports: &[super::proto::OperatorSetIdProto]) -> Result<BTreeMap<&str, i64>> {
    let mut versions = BTreeMap::new();
    for import in imports {
        let domain = domain_of(import.domain());
        let version = import.version();
        if let Some(newest) = newest(domain).filter(|newest| version > *newest) {
            let shown = if domain.is_empty() { "ai.onnx" } else { domain };
            return Diagnostic::error(
                "onnx-opset",
                format!(
                    "the model is of operator set {version} of {shown}; the newest that is known is {newest}"
                ),
            )
            .help(format!("export it at operator set {newest} or older"))
            .err();
        }
        versions.insert(domain, version.max(1));
    }
    Ok(versions)
}

fn metadata(model: &ModelProto, metadata: &mut BTreeMap<String, String>) {
    for entry in &model.metadata_props {
        metadata.insert(entry.key().to_owned(), entry.value().to_owned());
    }
    let mut say = |key: &str, value: String| {
        if !value.is_empty() {
            metadata.entry(key.to_owned()).or_insert(value);
        }
    };
    say("producer", format!("{} {}", model.producer_name(), model.producer_version()).trim().to_owned());
    say("domain", model.domain().to_owned());
    say("ir_version", model.ir_version().to_string());
    for import in &model.opset_import {
        let key = match domain_of(import.domain()) {
            "" => "opset".to_owned(),
            domain => format!("opset.{domain}"),
        };
        say(&key, import.version().to_string());
    }
}

impl<'m> Import<'m> {
    /// Constants, nodes and outputs of the innermost graph, whose inputs are there.
    ///
    /// # Errors
    /// As [`import`].
    fn contents(&mut self, graph: &'m GraphProto) -> Result<()> {
        for info in graph.value_info.iter().chain(&graph.output) {
            if let Some(ty) = &info.r#type {
                self.build.env_mut().declared.insert(info.name(), ty);
            }
        }
        for initializer in &graph.initializer {
            let name = initializer.name();
            if name.is_empty() {
                return Diagnostic::error("onnx-undefined", "an initializer has no name").err();
            }
            let loaded = read_tensor(initializer, name, &mut self.external)?;
            let ty = Type::tensor(loaded.dtype, loaded.shape);
            let weight = loaded.tensor.map_or_else(
                || {
                    self.report.absent_weights.push(name.to_owned());
                    Weight::Absent
                },
                Weight::Data,
            );
            self.build.weight(name, ty, weight)?;
        }
        for initializer in &graph.sparse_initializer {
            let name = initializer.values.as_ref().map_or("", |v| v.name());
            let dense = read_sparse(initializer, name, &mut self.external)?;
            let ty = Type::tensor(dense.dtype(), dense.shape().iter().copied());
            self.build.weight(name, ty, Weight::Data(dense))?;
        }
        let mut used = used_names(&graph.node);
        used.extend(graph.output.iter().map(super::proto::ValueInfoProto::name));
        self.build.env_mut().used = used;
        for number in order(&graph.node)? {
            let node = &graph.node[number];
            self.node(node).at(|| place_of(node))?;
        }
        for output in &graph.output {
            let name = output.name();
            let Some(Some(id)) = self.build.find(name) else {
                return Diagnostic::error(
                    "onnx-undefined",
                    format!("output `{name}` is not made by anything"),
                )
                .err();
            };
            let graph = &mut self.build.level().graph;
            graph.outputs.push(id);
            if graph.values[id].name != name {
                graph.output_names.resize(graph.outputs.len() - 1, String::new());
                graph.output_names.push(name.to_owned());
            }
        }
        let graph = &mut self.build.level().graph;
        if !graph.output_names.is_empty() {
            graph.output_names.resize(graph.outputs.len(), String::new());
        }
        Ok(())
    }

    /// A body as a closed graph. `formal` is what is known of its own inputs.
    ///
    /// # Errors
    /// As [`import`]; `onnx-body` where the number of inputs is another.
    pub(super) fn body(&mut self, graph: &'m GraphProto, formal: &[Fact]) -> Result<Level> {
        if graph.input.len() != formal.len() {
            return Diagnostic::error(
                "onnx-body",
                format!(
                    "body `{}` takes {} inputs but is given {}",
                    graph.name(),
                    graph.input.len(),
                    formal.len()
                ),
            )
            .err();
        }
        self.build.check_nesting()?;
        self.build.enter_graph(graph.name());
        for (input, fact) in graph.input.iter().zip(formal) {
            let ty = declared(input.r#type.as_ref(), input.name())?;
            let known = if fact.ty == Type::Unknown { Fact::of(ty.clone()) } else { fact.clone() };
            self.build.input(input.name(), ty, known)?;
        }
        self.contents(graph).at(|| format!("body `{}`", graph.name()))?;
        Ok(self.build.leave_graph())
    }

    pub(super) fn node(&mut self, node: &'m NodeProto) -> Result<()> {
        let domain = domain_of(node.domain());
        let mut call = self.call(node, domain)?;
        if let Some(function) = self.functions.called_by(node) {
            return self.expand(call, function);
        }
        let shown = match domain {
            "" => format!("{} (opset {})", node.op_type(), call.version),
            domain => format!("{domain}.{} (opset {})", node.op_type(), call.version),
        };
        let at = self.report.nodes.len();
        let name = if call.name.is_empty() {
            call.outputs.first().copied().unwrap_or("").to_owned()
        } else {
            call.name.clone()
        };
        self.report.nodes.push(NodeReport { node: name, operator: shown, fidelity: Fidelity::Exact });
        let done = match lookup(domain, node.op_type(), call.version) {
            Ok(Form::Same) => match Op::parse(node.op_type()) {
                Some(op) => Done::Becomes(op),
                None => Done::Cannot("the op table has no such op".into()),
            },
            Ok(Form::Upgrade(upgrade)) => upgrade(self, &mut call)?,
            Ok(Form::Unknown(reason)) => Done::Cannot((*reason).to_owned()),
            Err(reason) => Done::Cannot(reason),
        };
        let unknown = match done {
            Done::Made => None,
            Done::Becomes(op) => self.build.finish(&mut call, op, Vec::new()).map(|()| None)?,
            Done::Cannot(reason) => Some(reason),
        };
        if let Some(reason) = unknown {
            self.report.nodes[at].fidelity = Fidelity::Unknown(reason);
            self.build.typed = false;
            for output in call.outputs.iter().filter(|o| !o.is_empty()) {
                self.build.weight(output, Type::Unknown, Weight::Absent)?;
            }
        } else if let Some(difference) = call.approximation {
            self.report.nodes[at].fidelity = Fidelity::Approximated(difference);
        }
        Ok(())
    }

    /// Resolves a node's operands and attributes.
    fn call(&mut self, node: &'m NodeProto, domain: &str) -> Result<Call<'m>> {
        let mut inputs: Vec<Option<ValueId>> = Vec::with_capacity(node.input.len());
        for name in &node.input {
            inputs.push(match name.as_str() {
                "" => None,
                name => self.build.find(name).ok_or_else(|| {
                    Diagnostic::error(
                        "onnx-undefined",
                        format!("input `{name}` is not made by any node and is no input or weight"),
                    )
                })?,
            });
        }
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        let mut outputs: Vec<&'m str> = node.output.iter().map(String::as_str).collect();
        while outputs.last() == Some(&"") {
            outputs.pop();
        }
        let env = self.build.env();
        let mut attributes = BTreeMap::new();
        for attribute in &node.attribute {
            let name = attribute.name();
            let value = match attribute.ref_attr_name() {
                "" => Some(attribute),
                reference => env.attributes.get(reference).copied(),
            };
            if let Some(value) = value
                && attributes.insert(name, value).is_some()
            {
                return Diagnostic::error("onnx-attribute", format!("attribute `{name}` is given twice"))
                    .err();
            }
        }
        let name = match node.name() {
            "" => String::new(),
            name => format!("{}{name}", env.prefix),
        };
        Ok(Call {
            operator: node.op_type(),
            version: env.versions.get(domain).copied().unwrap_or(1),
            name,
            inputs,
            outputs,
            attributes,
            set: Default::default(),
            approximation: None,
        })
    }
}
