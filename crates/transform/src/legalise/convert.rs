//! The walk that rebuilds a graph in other types.

use super::angles::angles;
use super::narrow::{Narrowing, cast_weight, round_weight};
use super::statistics::statistics;
use super::{Formats, Legalised, changes};
use crate::Weights;
use crate::rewrite::name_outputs;
use orrery_base::{IndexVec, Result, index::Id};
use orrery_ir::infer::at_node;
use orrery_ir::op::{Ctx, Fact};
use orrery_ir::{Attr, Attrs, Def, Graph, Node, NodeId, Op, Type, Value, ValueId, Weight};
use orrery_numerics::{DType, Format};
use std::collections::{BTreeMap, HashSet};

/// A value of the old graph in the new one.
#[derive(Clone, Copy, Default)]
struct Forms {
    /// As a node or the user makes it; none for constants.
    made: Option<ValueId>,
    /// In the storage type, or unchanged where its type does not change.
    stored: Option<ValueId>,
    /// In binary32, for readers that need it.
    wide: Option<ValueId>,
    /// Stored, and rounded as an operand of products.
    rounded: Option<ValueId>,
}

struct Walk<'a> {
    old: &'a Graph,
    formats: &'a Formats,
    weights: Weights,
    new: Graph,
    forms: IndexVec<ValueId, Forms>,
    names: HashSet<String>,
    narrowing: Narrowing,
    /// Values made of sums over a batch.
    statistics: IndexVec<ValueId, bool>,
}

pub(super) fn convert(old: &Graph, formats: &Formats, weights: Weights) -> Result<Legalised> {
    let mut new = Graph::new(old.name.clone());
    new.metadata = old.metadata.clone();
    new.states.clone_from(&old.states);
    let (of_statistics, statistics) = statistics(old);
    let mut walk = Walk {
        old,
        formats,
        weights,
        new,
        forms: old.values.ids().map(|_| Forms::default()).collect(),
        names: old.values.values().map(|v| v.name.clone()).collect(),
        narrowing: Narrowing::default(),
        statistics,
    };
    for id in &old.inputs {
        let value = &old.values[*id];
        let input = walk.new.add_input(value.name.clone(), value.ty.clone());
        walk.set(*id, input, &value.ty);
    }
    let wide = angles(old);
    let narrow = formats.storage.bits() < 32;
    for (id, _) in old.nodes.iter() {
        walk.node(id, narrow && (wide[id] || of_statistics[id]))?;
    }
    for id in &old.outputs {
        let wanted = walk.old_dtype(*id);
        let made = walk.forms[*id].made.filter(|v| walk.new_dtype(*v) == wanted);
        let output = made.unwrap_or_else(|| walk.stored(*id));
        let output = match wanted.filter(|d| changes(*d) && walk.new_dtype(output) != Some(*d)) {
            None => output,
            Some(dtype) => {
                let name = walk.name(&format!("{}.{dtype}", old.values[*id].name));
                walk.cast(output, dtype, name)
            }
        };
        walk.new.outputs.push(output);
    }
    let names = (0..old.outputs.len()).map(|i| old.output_name(i).to_owned()).collect();
    name_outputs(&mut walk.new, names);
    walk.narrowing.sort();
    Ok(Legalised { graph: walk.new, narrowing: walk.narrowing, notes: Vec::new() })
}

impl Walk<'_> {
    fn name(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let mut number = 2;
        while !self.names.insert(name.clone()) {
            name = format!("{wanted}.{number}");
            number += 1;
        }
        name
    }
    fn old_dtype(&self, id: ValueId) -> Option<DType> {
        self.old.values[id].ty.as_tensor().map(|t| t.dtype)
    }
    fn new_dtype(&self, id: ValueId) -> Option<DType> {
        self.new.values[id].ty.as_tensor().map(|t| t.dtype)
    }
    /// Notes that `new`, of type `ty`, is the old value `id`.
    fn set(&mut self, id: ValueId, new: ValueId, ty: &Type) {
        let dtype = ty.as_tensor().map(|t| t.dtype);
        let forms = &mut self.forms[id];
        forms.made = Some(new);
        if dtype.is_none_or(|d| !changes(d) || d == self.formats.storage) {
            forms.stored = Some(new);
        }
        if dtype == Some(DType::F32) {
            forms.wide = Some(new);
        }
    }
    fn cast(&mut self, value: ValueId, dtype: DType, name: String) -> ValueId {
        let ty = with_dtype(&self.new.values[value].ty, dtype);
        self.single(Op::Cast, value, Attrs::new().with("to", dtype), name, ty)
    }
    fn single(&mut self, op: Op, value: ValueId, attrs: Attrs, name: String, ty: Type) -> ValueId {
        let node =
            self.new.add_node(op, name.clone(), vec![Some(value)], vec![Some(name)], attrs, Vec::new());
        let output = self.new.nodes[node].outputs[0].expect("the node was given one");
        self.new.values[output].ty = ty;
        output
    }
    fn constant(&mut self, id: ValueId, dtype: DType, name: String) -> ValueId {
        let value = &self.old.values[id];
        let Def::Constant(weight) = &value.def else { unreachable!("the caller looked") };
        let weight = cast_weight(&value.name, weight, dtype, self.weights, &mut self.narrowing);
        self.new.add_constant(name, with_dtype(&value.ty, dtype), weight)
    }
    /// A value in the storage type.
    fn stored(&mut self, id: ValueId) -> ValueId {
        if let Some(stored) = self.forms[id].stored {
            return stored;
        }
        let value = &self.old.values[id];
        let stored = match &value.def {
            Def::Constant(weight) => match self.old_dtype(id).filter(|d| changes(*d)) {
                Some(_) => self.constant(id, self.formats.storage, value.name.clone()),
                None => self.new.add_constant(value.name.clone(), value.ty.clone(), weight.clone()),
            },
            _ => {
                let from = self.made(id);
                let name = self.name(&format!("{}.{}", value.name, self.formats.storage));
                self.cast(from, self.formats.storage, name)
            }
        };
        self.forms[id].stored = Some(stored);
        stored
    }
    /// A value in binary32.
    fn wide(&mut self, id: ValueId) -> ValueId {
        if self.formats.storage == DType::F32 || !self.old_dtype(id).is_some_and(changes) {
            return self.stored(id);
        }
        if let Some(wide) = self.forms[id].wide {
            return wide;
        }
        let value = &self.old.values[id];
        let name = self.name(&format!("{}.f32", value.name));
        let wide = match &value.def {
            Def::Constant(_) => self.constant(id, DType::F32, name),
            _ => {
                let from = self.made(id);
                self.cast(from, DType::F32, name)
            }
        };
        self.forms[id].wide = Some(wide);
        wide
    }
    /// A value in the storage type, rounded to the format of products.
    fn rounded(&mut self, id: ValueId, format: Format) -> ValueId {
        if !self.old_dtype(id).is_some_and(changes) {
            return self.stored(id);
        }
        if let Some(rounded) = self.forms[id].rounded {
            return rounded;
        }
        let value = &self.old.values[id];
        let name = self.name(&format!("{}.{}", value.name, format.name));
        let ty = map_dtype(&value.ty, self.formats.storage);
        let weight = match &value.def {
            Def::Constant(weight) => round_weight(weight, self.formats.storage, format, self.weights),
            _ => None,
        };
        let rounded = match weight {
            Some(weight) => self.new.add_constant(name, ty, weight),
            None => {
                let stored = self.stored(id);
                self.single(Op::RoundTo, stored, Attrs::new().with("format", format.name), name, ty)
            }
        };
        self.forms[id].rounded = Some(rounded);
        rounded
    }
    /// A value as a node or the user makes it.
    fn made(&self, id: ValueId) -> ValueId {
        self.forms[id].made.expect("nodes stand in an order in which values are defined before they are used")
    }

    fn node(&mut self, id: NodeId, wide: bool) -> Result<()> {
        let old = self.old;
        let node = &old.nodes[id];
        let facts = |walk: &Self, inputs: &[Option<ValueId>]| -> Vec<Option<Fact>> {
            inputs.iter().map(|v| v.map(|v| fact(&walk.new.values[v]))).collect()
        };
        let target = if wide { DType::F32 } else { self.formats.storage };
        let mut changed = self.changed(node, target);
        changed.inputs = self.inputs(node, wide);
        let mut found = outputs(&changed, &facts(self, &changed.inputs));
        if let Err(cause) = &found {
            let cause = cause.clone();
            changed = self.changed(node, DType::F32);
            changed.inputs = self.inputs(node, true);
            found = outputs(&changed, &facts(self, &changed.inputs));
            if found.is_err() {
                return at_node(old, id, "type-rule", cause).err();
            }
        }
        let found = found.unwrap_or_default();
        match self.unchanged(&changed) {
            Some(input) => {
                let ty = self.new.values[input].ty.clone();
                node.outputs.iter().flatten().for_each(|output| self.set(*output, input, &ty));
            }
            None => self.push(id, changed, &found),
        }
        Ok(())
    }
    /// The input of a cast that has become one to the type its input has.
    fn unchanged(&self, node: &Node) -> Option<ValueId> {
        let input = node.inputs.first().copied().flatten().filter(|_| node.op == Op::Cast)?;
        (self.new_dtype(input) == node.attrs.dtype("to")).then_some(input)
    }
    /// A copy of a node whose attributes name the target type where they named a float.
    fn changed(&self, node: &Node, target: DType) -> Node {
        let mut copy = Node { inputs: Vec::new(), outputs: vec![None; node.outputs.len()], ..node.clone() };
        for (name, attr) in node.attrs.iter() {
            match attr {
                Attr::DType(dtype) if changes(*dtype) && is_result_type(name) => copy.attrs.set(name, target),
                Attr::Type(ty) => copy.attrs.set(name, map_dtype(ty, self.formats.storage)),
                _ => {}
            }
        }
        let makes_floats = node.outputs.iter().flatten().any(|v| self.old_dtype(*v).is_some_and(changes));
        if node.op == Op::DequantizeLinear && makes_floats && node.op.def().attr("output_dtype").is_some() {
            copy.attrs.set("output_dtype", target);
        }
        if let Some(format) = self.formats.accumulate
            && node.op.def().attr("accumulate").is_some()
            && makes_floats
        {
            copy.attrs.set("accumulate", format.name);
        }
        copy.bodies = node.bodies.iter().map(|body| body_in(body, self.formats.storage)).collect();
        copy
    }
    fn inputs(&mut self, node: &Node, wide: bool) -> Vec<Option<ValueId>> {
        let multiply = self.formats.multiply;
        node.inputs
            .iter()
            .enumerate()
            .map(|(i, input)| {
                input.map(|input| match multiply {
                    _ if wide || stays_wide(node.op, i) || self.is_statistic(node.op, input) => {
                        self.wide(input)
                    }
                    Some(format) if is_multiplied(node.op, i) => self.rounded(input, format),
                    _ => self.stored(input),
                })
            })
            .collect()
    }
    /// Whether a normalization reads mean or variance of a batch.
    fn is_statistic(&self, op: Op, input: ValueId) -> bool {
        op == Op::BatchNormalization && self.statistics[input]
    }
    /// Adds a node, and notes what its outputs are: the found type where it is one of a value's forms, else a cast.
    fn push(&mut self, id: NodeId, node: Node, found: &[Fact]) {
        let old = self.old;
        let made = NodeId::new(self.new.nodes.len());
        self.new.nodes.push(node);
        for (number, output) in old.nodes[id].outputs.iter().enumerate() {
            let Some(output) = *output else { continue };
            let value = &old.values[output];
            let dtype = found.get(number).and_then(|f| f.ty.as_tensor()).map(|t| t.dtype);
            let ty = match dtype {
                Some(dtype) => with_dtype(&value.ty, dtype),
                None => map_dtype(&value.ty, self.formats.storage),
            };
            let def = Def::Node(made, u32::try_from(number).expect("a node has fewer than 2^32 outputs"));
            let new = self.new.values.push(Value { name: value.name.clone(), ty: ty.clone(), def });
            self.new.nodes[made].outputs[number] = Some(new);
            self.set(output, new, &ty);
        }
    }
}

/// Inputs that stay binary32: scales of quantisation, regions and factors of resampling, which are no activations, and the
/// statistics of batches.
fn stays_wide(op: Op, input: usize) -> bool {
    match op {
        Op::QuantizeLinear | Op::DequantizeLinear => input == 1,
        Op::QLinearMatMul | Op::QLinearConv => matches!(input, 1 | 4 | 6),
        Op::Resize => matches!(input, 1 | 2),
        // Distances are taken from the number that is added to their mean again.
        Op::ChannelMoments => input == 1,
        _ => false,
    }
}

/// Inputs that the matrix unit multiplies.
fn is_multiplied(op: Op, input: usize) -> bool {
    match op {
        Op::MatMul | Op::Gemm | Op::GatherMatMul | Op::GatherMatMulGrad => input < 2,
        Op::Conv | Op::ConvTranspose | Op::ConvWeightGrad | Op::DeformConv => input < 2,
        Op::AttentionGrad => input < 4,
        Op::Attention | Op::RNN | Op::GRU | Op::LSTM => input < 3,
        Op::RNNGrad | Op::GRUGrad | Op::LSTMGrad => input < 3,
        Op::Einsum => true,
        _ => false,
    }
}

/// Attributes that name the type of a result, other than those that name what an op computes in.
fn is_result_type(name: &str) -> bool {
    matches!(name, "to" | "dtype" | "output_dtype" | "output_datatype")
}

fn fact(value: &Value) -> Fact {
    match &value.def {
        Def::Constant(Weight::Data(tensor)) => Fact::constant(tensor),
        _ => Fact::of(value.ty.clone()),
    }
}

/// What a node makes of operands of these types, by its type rule. Nodes with bodies are judged with the whole graph.
fn outputs(node: &Node, inputs: &[Option<Fact>]) -> Result<Vec<Fact>, String> {
    if !node.bodies.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<String> = vec![String::new(); node.outputs.len()];
    let ctx = Ctx {
        node,
        inputs,
        outputs: &[],
        output_names: &names,
        infer_body: &|_, _| Err("the node has no body".into()),
    };
    (node.op.def().infer)(&ctx)
}

fn with_dtype(ty: &Type, dtype: DType) -> Type {
    match ty {
        Type::Tensor(t) => Type::Tensor(orrery_ir::TensorType { dtype, shape: t.shape.clone() }),
        other => other.clone(),
    }
}

fn map_dtype(ty: &Type, storage: DType) -> Type {
    match ty {
        Type::Tensor(t) if changes(t.dtype) => with_dtype(ty, storage),
        Type::Sequence(of) => Type::Sequence(Box::new(map_dtype(of, storage))),
        Type::Optional(of) => Type::Optional(Box::new(map_dtype(of, storage))),
        other => other.clone(),
    }
}

/// A body with its floats in the storage type throughout.
fn body_in(body: &Graph, storage: DType) -> Graph {
    let mut body = body.clone();
    // Bodies are small: their constants are computed whatever is asked of weights, and not reported.
    let mut unreported = Narrowing::default();
    for (_, value) in body.values.iter_mut() {
        let changed = map_dtype(&value.ty, storage);
        if let Def::Constant(weight) = &value.def
            && changed != value.ty
        {
            value.def =
                Def::Constant(cast_weight(&value.name, weight, storage, Weights::Compute, &mut unreported));
        }
        value.ty = changed;
    }
    for (_, node) in body.nodes.iter_mut() {
        let attrs: BTreeMap<String, Attr> =
            node.attrs.iter().map(|(n, a)| (n.to_owned(), a.clone())).collect();
        for (name, attr) in attrs {
            if let Attr::DType(dtype) = attr
                && changes(dtype)
                && is_result_type(&name)
            {
                node.attrs.set(&name, storage);
            }
        }
        node.bodies = node.bodies.iter().map(|inner| body_in(inner, storage)).collect();
    }
    body
}
