//! Appending to a graph whose types are known, op by op.
//!
//! Every node's types are inferred as it is appended, so that the next one can be built on them: what gradients,
//! losses and optimizers are written with. Extents must be numbers wherever a helper has to name them.

use crate::infer::{self, Facts, node_facts};
use crate::op::Fact;
use crate::{Attrs, Def, Dim, Graph, NodeId, Op, Type, Value, ValueId, Weight};
use orrery_base::{Diagnostic, Result};
use orrery_numerics::{DType, Rounding, Tensor, cast};
use std::collections::{BTreeMap, HashMap};

/// A graph being appended to.
pub struct Extend {
    graph: Graph,
    facts: Facts,
    /// How often a name was asked for.
    taken: HashMap<String, u32>,
    scalars: BTreeMap<(DType, u64), ValueId>,
    /// What names of new nodes start with.
    scope: String,
}

impl Extend {
    /// Infers the types of a graph and opens it.
    ///
    /// # Errors
    /// `type-rule` where the graph breaks one.
    pub fn new(mut graph: Graph) -> Result<Self> {
        let facts = infer::infer(&mut graph)?;
        let taken = graph.values.values().map(|value| (value.name.clone(), 1)).collect();
        Ok(Self { graph, facts, taken, scalars: BTreeMap::new(), scope: String::new() })
    }
    /// The graph so far.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }
    /// The graph, all types known.
    pub fn finish(self) -> Graph {
        self.graph
    }
    /// Sets what the names of nodes start with from here on; empty for nothing.
    pub fn set_scope(&mut self, scope: &str) {
        scope.clone_into(&mut self.scope);
    }
    /// A graph input.
    pub fn input(&mut self, name: &str, ty: Type) -> ValueId {
        let name = self.unique(name);
        self.facts.push(Fact::of(ty.clone()));
        self.graph.add_input(name, ty)
    }
    /// Adds a graph output; returns its position.
    pub fn output(&mut self, name: &str, value: ValueId) -> usize {
        let graph = &mut self.graph;
        if graph.output_names.len() < graph.outputs.len() {
            let names = (0..graph.outputs.len()).map(|i| graph.output_name(i).to_owned()).collect();
            graph.output_names = names;
        }
        graph.outputs.push(value);
        graph.output_names.push(name.to_owned());
        graph.outputs.len() - 1
    }
    /// A constant.
    pub fn constant(&mut self, name: &str, ty: Type, weight: Weight) -> ValueId {
        let name = self.unique(name);
        self.facts.push(match &weight {
            Weight::Data(tensor) => Fact::constant(tensor),
            _ => Fact::of(ty.clone()),
        });
        self.graph.add_constant(name, ty, weight)
    }
    /// A constant tensor.
    pub fn tensor(&mut self, name: &str, tensor: Tensor) -> ValueId {
        let ty = Type::tensor(tensor.dtype(), tensor.shape().iter().copied());
        self.constant(name, ty, Weight::Data(tensor))
    }
    /// A constant vector of 64-bit integers.
    pub fn ints(&mut self, values: &[i64]) -> ValueId {
        self.tensor("ints", Tensor::from_vec(vec![values.len()], values.to_vec()))
    }
    /// A constant scalar of a numeric type; one value for all who ask for the same.
    pub fn scalar(&mut self, dtype: DType, number: f64) -> ValueId {
        let key = (dtype, number.to_bits());
        if let Some(value) = self.scalars.get(&key) {
            return *value;
        }
        let wide = Tensor::from_vec(vec![], vec![number]);
        let tensor =
            cast(&wide, dtype, Rounding::NearestEven, false).expect("numbers are cast to numeric types");
        let value = self.tensor(&format!("{number}.{dtype}"), tensor);
        self.scalars.insert(key, value);
        value
    }
    /// A constant scalar of the type of a value.
    pub fn scalar_like(&mut self, value: ValueId, number: f64) -> ValueId {
        self.scalar(self.dtype(value), number)
    }
    /// Applies an op with one output.
    ///
    /// # Errors
    /// What the op's type rule says.
    pub fn op(&mut self, op: Op, inputs: &[ValueId], attrs: Attrs) -> Result<ValueId> {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        Ok(self.ops(op, &inputs, attrs, 1)?[0])
    }
    /// Applies an op with several outputs or left-out inputs.
    ///
    /// # Errors
    /// What the op's type rule says.
    pub fn ops(
        &mut self,
        op: Op,
        inputs: &[Option<ValueId>],
        attrs: Attrs,
        outputs: usize,
    ) -> Result<Vec<ValueId>> {
        let wanted = vec![true; outputs];
        let made = self.node(op, op.name(), inputs, attrs, Vec::new(), &wanted)?;
        Ok(self.graph.nodes[made].outputs.iter().flatten().copied().collect())
    }
    /// Appends a node under a name of its own, with those outputs that are wanted.
    ///
    /// # Errors
    /// What the op's type rule says.
    pub fn node(
        &mut self,
        op: Op,
        name: &str,
        inputs: &[Option<ValueId>],
        attrs: Attrs,
        bodies: Vec<Graph>,
        wanted: &[bool],
    ) -> Result<NodeId> {
        let name = self.unique(name);
        let mut names = Vec::with_capacity(wanted.len());
        for (i, wanted) in wanted.iter().enumerate() {
            let output = if i == 0 { name.clone() } else { self.unique(&format!("{name}:{i}")) };
            names.push(wanted.then_some(output));
        }
        let node = self.graph.add_node(op, name, inputs.to_vec(), names, attrs, bodies);
        for _ in self.graph.nodes[node].outputs.iter().flatten() {
            self.facts.push(Fact::of(Type::Unknown));
        }
        let found = node_facts(&self.graph, &self.facts, node)?;
        let outputs = self.graph.nodes[node].outputs.clone();
        for (output, fact) in outputs.into_iter().zip(found) {
            if let Some(output) = output {
                self.graph.values[output].ty = fact.ty.clone();
                self.facts[output] = fact;
            }
        }
        Ok(node)
    }
    /// Output `i` of a node, which makes it from here on where it was not wanted before.
    ///
    /// # Errors
    /// What the op's type rule says, and where there is no such output.
    pub fn made(&mut self, node: NodeId, i: usize) -> Result<ValueId> {
        let found = &self.graph.nodes[node];
        if let Some(output) = found.outputs.get(i).copied().flatten() {
            return Ok(output);
        }
        let most = found.op.def().output_range().1;
        let number = u32::try_from(i).ok().filter(|_| most.is_none_or(|most| i < most));
        let Some(number) = number else {
            let cause = format!("{} has no output {i}", found.op);
            return infer::at_node(&self.graph, node, "type-rule", cause).err();
        };
        let first = found.outputs.iter().flatten().next().map(|v| self.graph.values[*v].name.clone());
        let name = self.unique(&format!("{}:{i}", first.unwrap_or_default()));
        let def = Def::Node(node, number);
        let output = self.graph.values.push(Value { name, ty: Type::Unknown, def });
        let outputs = &mut self.graph.nodes[node].outputs;
        outputs.resize(outputs.len().max(i + 1), None);
        outputs[i] = Some(output);
        self.facts.push(Fact::of(Type::Unknown));
        let fact = node_facts(&self.graph, &self.facts, node)?.swap_remove(i);
        self.graph.values[output].ty = fact.ty.clone();
        self.facts[output] = fact;
        Ok(output)
    }
    fn unique(&mut self, name: &str) -> String {
        let wanted = if self.scope.is_empty() { name.to_owned() } else { format!("{}/{name}", self.scope) };
        let mut full = wanted.clone();
        loop {
            let count = self.taken.entry(full.clone()).or_insert(0);
            *count += 1;
            if *count == 1 {
                return full;
            }
            let number = *self.taken.get(&wanted).unwrap_or(&2);
            full = format!("{wanted}.{number}");
        }
    }

    /// All that is known of the graph's values.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }
    /// What is known of a value.
    pub fn fact(&self, value: ValueId) -> &Fact {
        &self.facts[value]
    }
    /// Element type of a tensor; binary32 where the value is none.
    pub fn dtype(&self, value: ValueId) -> DType {
        self.graph.values[value].ty.as_tensor().map_or(DType::F32, |ty| ty.dtype)
    }
    /// Shape of a tensor, as numbers.
    ///
    /// # Errors
    /// `open-shape` where an extent is not known.
    pub fn shape(&self, value: ValueId) -> Result<Vec<i64>> {
        let found = &self.graph.values[value];
        let shape = found.ty.as_tensor().and_then(|ty| ty.shape.as_ref());
        let known = shape.and_then(|shape| shape.iter().map(Dim::known).collect());
        known.ok_or_else(|| {
            let cause = format!("`{}` of type {} must have a shape of numbers here", found.name, found.ty);
            Box::new(
                Diagnostic::error("open-shape", cause).help("bind the model's symbols, as in --dim seq=128"),
            )
        })
    }
    /// Number of dimensions.
    ///
    /// # Errors
    /// As [`Extend::shape`].
    pub fn rank(&self, value: ValueId) -> Result<usize> {
        Ok(self.shape(value)?.len())
    }

    /// a + b.
    ///
    /// # Errors
    /// Where types or shapes do not fit; so for all that follow.
    pub fn add(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.op(Op::Add, &[a, b], Attrs::new())
    }
    /// a - b.
    pub fn sub(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.op(Op::Sub, &[a, b], Attrs::new())
    }
    /// a b, element by element.
    pub fn mul(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.op(Op::Mul, &[a, b], Attrs::new())
    }
    /// a / b.
    pub fn div(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.op(Op::Div, &[a, b], Attrs::new())
    }
    /// An op of one operand without attributes.
    pub fn unary(&mut self, op: Op, a: ValueId) -> Result<ValueId> {
        self.op(op, &[a], Attrs::new())
    }
    /// A number times a value.
    pub fn scale(&mut self, a: ValueId, by: f64) -> Result<ValueId> {
        if by == 1.0 {
            return Ok(a);
        }
        let by = self.scalar_like(a, by);
        self.mul(a, by)
    }
    /// A value plus a number.
    pub fn plus(&mut self, a: ValueId, number: f64) -> Result<ValueId> {
        let number = self.scalar_like(a, number);
        self.add(a, number)
    }
    /// The value in another type; itself where it has it.
    pub fn cast(&mut self, a: ValueId, dtype: DType) -> Result<ValueId> {
        if self.dtype(a) == dtype {
            return Ok(a);
        }
        self.op(Op::Cast, &[a], Attrs::new().with("to", dtype))
    }
    /// Matrix product over the last two dimensions.
    pub fn matmul(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.op(Op::MatMul, &[a, b], Attrs::new())
    }
    /// The dimensions in another order.
    pub fn transpose(&mut self, a: ValueId, order: &[i64]) -> Result<ValueId> {
        if order.iter().copied().eq(0..order.len() as i64) {
            return Ok(a);
        }
        self.op(Op::Transpose, &[a], Attrs::new().with("perm", order.to_vec()))
    }
    /// The last two dimensions exchanged.
    pub fn transpose_last(&mut self, a: ValueId) -> Result<ValueId> {
        let rank = self.rank(a)?;
        let mut order: Vec<i64> = (0..rank as i64).collect();
        if rank >= 2 {
            order.swap(rank - 1, rank - 2);
        }
        self.transpose(a, &order)
    }
    /// Another shape of as many elements.
    pub fn reshape(&mut self, a: ValueId, shape: &[i64]) -> Result<ValueId> {
        if self.shape(a)? == shape {
            return Ok(a);
        }
        let shape = self.ints(shape);
        // Zeros are extents here, not copies of the input's.
        self.op(Op::Reshape, &[a, shape], Attrs::new().with("allowzero", 1))
    }
    /// The shape of another value, which has as many elements.
    pub fn reshape_like(&mut self, a: ValueId, like: ValueId) -> Result<ValueId> {
        let shape = self.shape(like)?;
        self.reshape(a, &shape)
    }
    /// Broadcast to a shape.
    pub fn expand(&mut self, a: ValueId, shape: &[i64]) -> Result<ValueId> {
        if self.shape(a)? == shape {
            return Ok(a);
        }
        let shape = self.ints(shape);
        self.op(Op::Expand, &[a, shape], Attrs::new())
    }
    /// Zeros of a type and shape.
    pub fn zeros(&mut self, dtype: DType, shape: &[i64]) -> Result<ValueId> {
        let zero = self.scalar(dtype, 0.0);
        self.expand(zero, shape)
    }
    /// The sum over dimensions, which stay with extent 1 where `keep`.
    pub fn sum(&mut self, a: ValueId, axes: &[i64], keep: bool) -> Result<ValueId> {
        if axes.is_empty() {
            return Ok(a);
        }
        let axes = self.ints(axes);
        self.op(Op::ReduceSum, &[a, axes], Attrs::new().with("keepdims", i64::from(keep)))
    }
    /// The sum over whatever broadcasting from `shape` had repeated: the gradient of broadcasting.
    pub fn sum_to(&mut self, a: ValueId, shape: &[i64]) -> Result<ValueId> {
        let from = self.shape(a)?;
        if from == shape {
            return Ok(a);
        }
        let lead = from.len().saturating_sub(shape.len());
        let repeated = |d: usize| d < lead || (shape[d - lead] == 1 && from[d] != 1);
        let axes: Vec<i64> = (0..from.len()).filter(|d| repeated(*d)).map(|d| d as i64).collect();
        let summed = self.sum(a, &axes, true)?;
        self.reshape(summed, shape)
    }
}
