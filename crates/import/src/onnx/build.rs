//! The graph under construction: levels of bodies, values by name, types as they become known.
//!
//! Invariants: nodes are added to the innermost level only; every name in an [`Env`] is a value of that env's level, so
//! a body that uses an outer value holds a captured input for it; names of values are unique within a level.

use super::call::Call;
use super::proto::{AttributeProto, TypeProto};
use super::types::read_type;
use orrery_base::{Diagnostic, Result};
use orrery_ir::infer::{Facts, node_facts};
use orrery_ir::op::Fact;
use orrery_ir::verify::node_structure;
use orrery_ir::{Attrs, Graph, Op, Type, ValueId, Weight};
use orrery_numerics::{DType, Tensor};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;

/// Bodies and functions may stand this deep in one another.
pub(super) const MOST_NESTING: usize = 64;

/// A graph or body that is being built.
#[derive(Default)]
pub(super) struct Level {
    pub(super) graph: Graph,
    facts: Facts,
    /// Names in use, with how many values wanted each.
    taken: FxHashMap<String, u32>,
    /// Values of the level outside with the inputs that stand for them here.
    pub(super) captures: Vec<(ValueId, ValueId)>,
}

/// What names mean: in a graph, a body, or a function that is expanded.
#[derive(Default)]
pub(super) struct Env<'m> {
    /// Values by name; none for a function's input that the call leaves out.
    values: FxHashMap<&'m str, Option<ValueId>>,
    level: usize,
    /// The env around a body; none for the model and for functions, which see nothing outside of them.
    parent: Option<usize>,
    /// Types that the file declares for values.
    pub(super) declared: FxHashMap<&'m str, &'m TypeProto>,
    /// Names that something uses.
    pub(super) used: FxHashSet<&'m str>,
    /// What `ref_attr_name` refers to: the attributes of the call, completed by the function's defaults.
    pub(super) attributes: BTreeMap<&'m str, &'m AttributeProto>,
    /// Versions of operator sets by domain.
    pub(super) versions: BTreeMap<&'m str, i64>,
    /// What the caller calls the function's results.
    pub(super) renamed: FxHashMap<&'m str, String>,
    /// The way here, in front of names.
    pub(super) prefix: String,
}

impl Env<'_> {
    /// A name of this env as the user can find it: with the way here in front, or as the caller calls it.
    pub(super) fn full_name(&self, name: &str) -> String {
        self.renamed.get(name).cloned().unwrap_or_else(|| format!("{}{name}", self.prefix))
    }
}

/// Levels and envs, innermost last.
#[derive(Default)]
pub(super) struct Build<'m> {
    pub(super) levels: Vec<Level>,
    pub(super) envs: Vec<Env<'m>>,
    /// False from the first unknown node on: what follows cannot be typed.
    pub(super) typed: bool,
}

impl<'m> Build<'m> {
    pub(super) fn level(&mut self) -> &mut Level {
        self.levels.last_mut().expect("the model's own level is never popped")
    }
    pub(super) fn env(&self) -> &Env<'m> {
        self.envs.last().expect("the model's own env is never popped")
    }
    pub(super) fn env_mut(&mut self) -> &mut Env<'m> {
        self.envs.last_mut().expect("the model's own env is never popped")
    }
    /// Checks that another body or function may be opened.
    ///
    /// # Errors
    /// `onnx-nesting`.
    pub(super) fn check_nesting(&self) -> Result<()> {
        if self.envs.len() < MOST_NESTING {
            return Ok(());
        }
        Diagnostic::error(
            "onnx-nesting",
            format!("bodies and functions are nested more than {MOST_NESTING} deep"),
        )
        .err()
    }
    /// Opens the env of a model or body, on a new level.
    pub(super) fn enter_graph(&mut self, name: &str) {
        let parent = self.envs.len().checked_sub(1);
        let (prefix, versions, attributes) = match self.envs.last() {
            Some(outer) => (outer.prefix.clone(), outer.versions.clone(), outer.attributes.clone()),
            None => Default::default(),
        };
        self.levels.push(Level { graph: Graph::new(name), ..Level::default() });
        self.envs.push(Env {
            level: self.levels.len() - 1,
            parent,
            prefix,
            versions,
            attributes,
            ..Env::default()
        });
    }
    /// Closes the innermost graph.
    pub(super) fn leave_graph(&mut self) -> Level {
        self.envs.pop();
        self.levels.pop().expect("enter_graph came before")
    }
    /// Opens the env of a function, on the same level.
    pub(super) fn enter_function(&mut self, prefix: String) {
        self.envs.push(Env { level: self.levels.len() - 1, prefix, ..Env::default() });
    }

    /// The value of that name as the innermost env sees it; outer ones are captured on the way.
    pub(super) fn find(&mut self, name: &'m str) -> Option<Option<ValueId>> {
        self.find_in(self.envs.len() - 1, name)
    }
    fn find_in(&mut self, env: usize, name: &'m str) -> Option<Option<ValueId>> {
        if let Some(value) = self.envs[env].values.get(name) {
            return Some(*value);
        }
        let outer = self.find_in(self.envs[env].parent?, name)?;
        let here = outer.map(|outer| self.capture(self.envs[env].level, outer));
        self.envs[env].values.insert(name, here);
        Some(here)
    }
    /// The input of `level` that stands for a value of the level outside.
    fn capture(&mut self, level: usize, outer: ValueId) -> ValueId {
        if let Some((_, inner)) = self.levels[level].captures.iter().find(|(o, _)| *o == outer) {
            return *inner;
        }
        let outside = &self.levels[level - 1];
        let (name, fact) = (outside.graph.values[outer].name.clone(), outside.facts[outer].clone());
        let here = &mut self.levels[level];
        let name = here.unique(&name);
        let inner = here.graph.add_input(name, fact.ty.clone());
        here.facts.push(fact);
        here.captures.push((outer, inner));
        inner
    }
    /// Gives a name a value in the innermost env.
    ///
    /// # Errors
    /// `onnx-duplicate-name` where it has one.
    pub(super) fn bind(&mut self, name: &'m str, value: Option<ValueId>) -> Result<()> {
        match self.env_mut().values.insert(name, value) {
            None => Ok(()),
            Some(_) => Diagnostic::error("onnx-duplicate-name", format!("`{name}` is defined twice")).err(),
        }
    }
    /// A unique name for a value that the file calls `name`.
    pub(super) fn value_name(&mut self, name: &str) -> String {
        let full = self.env().full_name(name);
        self.level().unique(&full)
    }

    /// Adds an input to the innermost graph.
    pub(super) fn input(&mut self, name: &'m str, ty: Type, fact: Fact) -> Result<ValueId> {
        let unique = self.value_name(name);
        let level = self.level();
        let id = level.graph.add_input(unique, ty);
        level.facts.push(fact);
        self.bind(name, Some(id))?;
        Ok(id)
    }
    /// Adds an input to the innermost graph that the file has no name for.
    pub(super) fn unnamed_input(&mut self, hint: &str, fact: Fact) -> ValueId {
        let unique = self.value_name(hint);
        let level = self.level();
        level.facts.push(fact);
        level.graph.add_input(unique, Type::Unknown)
    }
    /// Adds a constant of the file.
    pub(super) fn weight(&mut self, name: &'m str, ty: Type, weight: Weight) -> Result<ValueId> {
        let unique = self.value_name(name);
        let level = self.level();
        level.facts.push(match &weight {
            Weight::Data(tensor) => Fact::constant(tensor),
            _ => Fact::of(ty.clone()),
        });
        let id = level.graph.add_constant(unique, ty, weight);
        self.bind(name, Some(id))?;
        Ok(id)
    }
    /// Adds a constant that an upgrade needs.
    pub(super) fn constant(&mut self, name: &str, tensor: Tensor) -> ValueId {
        let level = self.level();
        let unique = level.unique(name);
        level.facts.push(Fact::constant(&tensor));
        level.graph.add_tensor(unique, tensor)
    }
    /// What is known of a value of the innermost graph.
    pub(super) fn fact(&self, id: ValueId) -> &Fact {
        &self.levels.last().expect("the model's own level is never popped").facts[id]
    }
    /// Element type of a value, where known.
    pub(super) fn dtype(&self, id: ValueId) -> Option<DType> {
        self.fact(id).ty.as_tensor().map(|t| t.dtype)
    }
    /// Rank of a value, where known.
    pub(super) fn rank(&self, id: ValueId) -> Option<usize> {
        self.fact(id).ty.as_tensor()?.shape.as_ref().map(Vec::len)
    }
    /// Adds a node to the innermost graph and finds the types of its outputs, which are given by name and declared type.
    ///
    /// # Errors
    /// `graph-invalid` where operands or attributes are not such as the op takes; `type-rule`.
    pub(super) fn node(
        &mut self,
        op: Op,
        name: &str,
        inputs: Vec<Option<ValueId>>,
        outputs: Vec<Option<(String, Type)>>,
        attrs: Attrs,
        bodies: Vec<Graph>,
    ) -> Result<Vec<Option<ValueId>>> {
        let (typed, inner) = (self.typed, self.levels.len() > 1);
        let level = self.level();
        let (names, types): (Vec<_>, Vec<_>) = outputs.into_iter().map(Option::unzip).unzip();
        let id = level.graph.add_node(op, name, inputs, names, attrs, bodies);
        let outputs = level.graph.nodes[id].outputs.clone();
        for (output, ty) in outputs.iter().zip(types) {
            if let (Some(output), Some(ty)) = (output, ty) {
                level.facts.push(Fact::of(ty.clone()));
                level.graph.values[*output].ty = ty;
            }
        }
        node_structure(&level.graph, id)?;
        if typed {
            match node_facts(&level.graph, &level.facts, id) {
                Ok(facts) => level.learn(&outputs, facts),
                // Inside of a body not all types are known yet: the rule is asked again with the op that runs the body.
                Err(_) if inner => {}
                Err(broken) => return Err(broken),
            }
        }
        Ok(outputs)
    }
    /// Adds a node that an upgrade needs, with one output called after the call's first.
    ///
    /// # Errors
    /// As [`Build::node`].
    pub(super) fn step(
        &mut self,
        call: &Call<'m>,
        op: Op,
        what: &str,
        inputs: &[Option<ValueId>],
        attrs: Attrs,
    ) -> Result<ValueId> {
        let name = self.step_name(call, what);
        let made =
            self.node(op, &call.name, inputs.to_vec(), vec![Some((name, Type::Unknown))], attrs, Vec::new())?;
        Ok(made[0].expect("one output was asked for"))
    }
    /// A name for something that an upgrade makes: the call's first output, a point, `what`.
    pub(super) fn step_name(&mut self, call: &Call<'m>, what: &str) -> String {
        let first = call.outputs.iter().find(|o| !o.is_empty()).copied().unwrap_or("node");
        let full = format!("{}.{what}", self.env().full_name(first));
        self.level().unique(&full)
    }
    /// A constant vector of integers for a call.
    pub(super) fn ints(&mut self, call: &Call<'m>, what: &str, values: &[i64]) -> ValueId {
        let name = self.step_name(call, what);
        self.constant(&name, Tensor::from_vec(vec![values.len()], values.to_vec()))
    }
    /// A constant scalar for a call, in the element type of `like`; binary32 where that is not known.
    pub(super) fn scalar_like(&mut self, call: &Call<'m>, what: &str, value: f64, like: ValueId) -> ValueId {
        let dtype = self.dtype(like).filter(|d| d.is_float() || d.is_int()).unwrap_or(DType::F32);
        let tensor =
            Tensor::from_f64(dtype, Vec::new(), vec![value], orrery_numerics::Rounding::NearestEven, false);
        let name = self.step_name(call, what);
        self.constant(&name, tensor)
    }
    /// Adds the node that a call becomes and binds its results.
    ///
    /// # Errors
    /// As [`Build::node`] and [`Build::bind`].
    pub(super) fn finish(&mut self, call: &mut Call<'m>, op: Op, bodies: Vec<Graph>) -> Result<()> {
        let attrs = call.finish_attributes(op)?;
        let mut outputs = Vec::with_capacity(call.outputs.len());
        for output in &call.outputs {
            let declared = match self.env().declared.get(output) {
                Some(ty) => read_type(ty, output)?,
                None => Type::Unknown,
            };
            outputs.push((!output.is_empty()).then(|| (self.value_name(output), declared)));
        }
        while call.inputs.last() == Some(&None) {
            call.inputs.pop();
        }
        let made = self.node(op, &call.name, std::mem::take(&mut call.inputs), outputs, attrs, bodies)?;
        for (name, value) in call.outputs.iter().zip(made) {
            if value.is_some() {
                self.bind(name, value)?;
            }
        }
        Ok(())
    }
}

impl Level {
    /// Makes a name of its own of `name`.
    fn unique(&mut self, name: &str) -> String {
        let name = if name.is_empty() { "value" } else { name };
        let Some(count) = self.taken.get_mut(name) else {
            self.taken.insert(name.to_owned(), 1);
            return name.to_owned();
        };
        *count += 1;
        let next = format!("{name}.{count}");
        self.unique(&next)
    }
    fn learn(&mut self, outputs: &[Option<ValueId>], facts: Vec<Fact>) {
        for (output, fact) in outputs.iter().zip(facts) {
            if let Some(output) = *output {
                self.facts[output] = fact;
            }
        }
    }
    /// Writes the types that were found into the graph.
    pub(super) fn write_types(&mut self) {
        for (id, value) in self.graph.values.iter_mut() {
            value.ty = self.facts[id].ty.clone();
        }
    }
    /// Makes the captured inputs stand in the order of `outer`, adding those that this body does not use itself.
    pub(super) fn arrange_captures(&mut self, outer: &[ValueId], outside: &Self) {
        let formal = self.graph.inputs.len() - self.captures.len();
        for id in outer {
            if !self.captures.iter().any(|(o, _)| o == id) {
                let (name, fact) = (&outside.graph.values[*id].name, &outside.facts[*id]);
                let name = self.unique(name);
                let inner = self.graph.add_input(name, fact.ty.clone());
                self.facts.push(fact.clone());
                self.captures.push((*id, inner));
            }
        }
        self.graph.inputs.truncate(formal);
        for id in outer {
            let inner = self.captures.iter().find(|(o, _)| o == id).map(|(_, inner)| *inner);
            self.graph.inputs.push(inner.expect("captured just now"));
        }
    }
}
