//! Functions that the model defines: their calls are expanded.

use super::build::MOST_NESTING;
use super::call::{Call, place_of};
use super::import::{Import, domain_of, versions};
use super::order::{order, used_names};
use super::proto::{FunctionProto, NodeProto};
use orrery_base::diagnostic::Context;
use orrery_base::{Diagnostic, Result};
use std::collections::BTreeMap;

/// A function that expands to more nodes than this is refused.
const MOST_NODES: u64 = 1 << 22;

/// Domain, name and overload.
type Key<'m> = (&'m str, &'m str, &'m str);

/// The functions of a model.
pub(super) struct Functions<'m> {
    all: BTreeMap<Key<'m>, &'m FunctionProto>,
    /// How many nodes each expands to, as far as asked.
    sizes: BTreeMap<Key<'m>, u64>,
    /// Those that are being expanded, outermost first.
    inside: Vec<Key<'m>>,
}

fn key_of(function: &FunctionProto) -> Key<'_> {
    (domain_of(function.domain()), function.name(), function.overload())
}

fn wrong(function: &FunctionProto, cause: &str) -> Diagnostic {
    Diagnostic::error("onnx-function", format!("function `{}` {cause}", function.name()))
}

impl<'m> Functions<'m> {
    /// The functions in the list.
    ///
    /// # Errors
    /// `onnx-duplicate-name`.
    pub(super) fn new(list: &'m [FunctionProto]) -> Result<Self> {
        let mut all = BTreeMap::new();
        for function in list {
            if all.insert(key_of(function), function).is_some() {
                let cause = format!("function `{}` is defined twice", function.name());
                return Diagnostic::error("onnx-duplicate-name", cause).err();
            }
        }
        Ok(Self { all, sizes: BTreeMap::new(), inside: Vec::new() })
    }
    /// The function that a node calls.
    pub(super) fn called_by(&self, node: &NodeProto) -> Option<&'m FunctionProto> {
        self.all.get(&(domain_of(node.domain()), node.op_type(), node.overload())).copied()
    }
    /// Begins an expansion.
    ///
    /// # Errors
    /// `onnx-function` where one is going on already, here or further out; `onnx-too-large`.
    fn enter(&mut self, function: &'m FunctionProto) -> Result<()> {
        let key = key_of(function);
        if self.inside.contains(&key) {
            return wrong(function, "calls itself, directly or by way of others").err();
        }
        if self.size(function, 0) > MOST_NODES {
            return Diagnostic::error(
                "onnx-too-large",
                format!("function `{}` expands to more than {MOST_NODES} nodes", function.name()),
            )
            .err();
        }
        self.inside.push(key);
        Ok(())
    }
    /// Nodes that a function expands to. One that calls itself, or is nested too deep, counts once: it is refused later.
    fn size(&mut self, function: &'m FunctionProto, depth: usize) -> u64 {
        let key = key_of(function);
        if let Some(size) = self.sizes.get(&key) {
            return *size;
        }
        self.sizes.insert(key, 1);
        if depth > MOST_NESTING {
            return 1;
        }
        let size =
            function.node.iter().map(|node| self.node_size(node, depth + 1)).fold(0, u64::saturating_add);
        self.sizes.insert(key, size);
        size
    }
    fn node_size(&mut self, node: &'m NodeProto, depth: usize) -> u64 {
        let bodies = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)).flat_map(|g| &g.node);
        let inside = bodies.map(|node| self.node_size(node, depth)).fold(1, u64::saturating_add);
        match self.called_by(node) {
            Some(function) => inside.saturating_add(self.size(function, depth)),
            None => inside,
        }
    }
}

impl<'m> Import<'m> {
    /// Expands a call of a function of the model.
    pub(super) fn expand(&mut self, call: Call<'m>, function: &'m FunctionProto) -> Result<()> {
        if call.inputs.len() > function.input.len() || call.outputs.len() > function.output.len() {
            return wrong(
                function,
                &format!(
                    "has {} inputs and {} outputs, the call {} and {}",
                    function.input.len(),
                    function.output.len(),
                    call.inputs.len(),
                    call.outputs.len()
                ),
            )
            .err();
        }
        let mut attributes: BTreeMap<&str, _> =
            function.attribute_proto.iter().map(|default| (default.name(), default)).collect();
        for (name, value) in call.attributes {
            if !attributes.contains_key(name) && !function.attribute.iter().any(|a| a == name) {
                return wrong(function, &format!("has no attribute `{name}`")).err();
            }
            attributes.insert(name, value);
        }
        let first = call.outputs.iter().find(|o| !o.is_empty()).copied().unwrap_or(function.name());
        let prefix = match call.name.as_str() {
            "" => format!("{}{first}/", self.build.env().prefix),
            name => format!("{name}/"),
        };
        let results: Vec<(&str, &str)> = function
            .output
            .iter()
            .zip(&call.outputs)
            .filter(|(_, outer)| !outer.is_empty())
            .map(|(inner, outer)| (inner.as_str(), *outer))
            .collect();
        let renamed =
            results.iter().map(|(inner, outer)| (*inner, self.build.env().full_name(outer))).collect();
        self.functions.enter(function)?;
        self.build.check_nesting()?;
        self.build.enter_function(prefix);
        let mut used = used_names(&function.node);
        used.extend(function.output.iter().map(String::as_str));
        let env = self.build.env_mut();
        env.used = used;
        env.attributes = attributes;
        env.versions = versions(&function.opset_import)?;
        env.renamed = renamed;
        for (number, input) in function.input.iter().enumerate() {
            self.build.bind(input, call.inputs.get(number).copied().flatten())?;
        }
        for number in order(&function.node)? {
            let node = &function.node[number];
            self.node(node).at(|| place_of(node))?;
        }
        let mut made = Vec::with_capacity(results.len());
        for (inner, outer) in results {
            match self.build.find(inner) {
                Some(Some(value)) => made.push((outer, value)),
                _ => return wrong(function, &format!("does not make its output `{inner}`")).err(),
            }
        }
        self.build.envs.pop();
        self.functions.inside.pop();
        for (outer, value) in made {
            self.build.bind(outer, Some(value))?;
        }
        Ok(())
    }
}
