//! Building a graph op by op.

use crate::{Attrs, Dim, Graph, Op, Type, ValueId, Weight, infer};
use orrery_base::Result;
use orrery_numerics::{DType, Tensor};

/// Builds a graph. Names are made unique; every weight gets a seed of its own.
pub struct Builder {
    graph: Graph,
    scope: Vec<String>,
    taken: std::collections::BTreeMap<String, u32>,
    seed: u64,
}

impl Builder {
    /// A builder whose seeded weights follow from `seed`.
    pub fn new(name: &str, seed: u64) -> Self {
        Self { graph: Graph::new(name), scope: Vec::new(), taken: Default::default(), seed }
    }
    /// Enters a named part of the model: names inside get the prefix `name/`.
    pub fn scope<T>(&mut self, name: &str, build: impl FnOnce(&mut Self) -> T) -> T {
        self.scope.push(name.to_owned());
        let made = build(self);
        self.scope.pop();
        made
    }
    fn unique(&mut self, name: &str) -> String {
        let full =
            if self.scope.is_empty() { name.to_owned() } else { format!("{}/{name}", self.scope.join("/")) };
        let count = self.taken.entry(full.clone()).or_insert(0);
        *count += 1;
        if *count == 1 { full } else { format!("{full}.{count}") }
    }
    /// A graph input.
    pub fn input<D: Into<Dim>>(
        &mut self,
        name: &str,
        dtype: DType,
        shape: impl IntoIterator<Item = D>,
    ) -> ValueId {
        let name = self.unique(name);
        self.graph.add_input(name, Type::tensor(dtype, shape))
    }
    /// A weight drawn from a normal distribution of that deviation around zero.
    pub fn weight<D: Into<Dim>>(
        &mut self,
        name: &str,
        shape: impl IntoIterator<Item = D>,
        deviation: f64,
    ) -> ValueId {
        self.weight_around(name, shape, 0.0, deviation)
    }
    /// A weight drawn from a normal distribution.
    pub fn weight_around<D: Into<Dim>>(
        &mut self,
        name: &str,
        shape: impl IntoIterator<Item = D>,
        mean: f64,
        deviation: f64,
    ) -> ValueId {
        self.weight_of(name, DType::F32, shape, mean, deviation)
    }
    /// A weight of a float type drawn from a normal distribution and rounded to that type.
    pub fn weight_of<D: Into<Dim>>(
        &mut self,
        name: &str,
        dtype: DType,
        shape: impl IntoIterator<Item = D>,
        mean: f64,
        deviation: f64,
    ) -> ValueId {
        let name = self.unique(name);
        self.seed = crate::weights::hash64(self.seed, 1);
        let weight = Weight::Seeded { seed: self.seed, mean, deviation };
        self.graph.add_constant(name, Type::tensor(dtype, shape), weight)
    }
    /// A constant tensor.
    pub fn constant(&mut self, name: &str, tensor: Tensor) -> ValueId {
        let name = self.unique(name);
        self.graph.add_tensor(name, tensor)
    }
    /// A constant vector of integers.
    pub fn ints(&mut self, name: &str, values: &[i64]) -> ValueId {
        self.constant(name, Tensor::from_vec(vec![values.len()], values.to_vec()))
    }
    /// Applies an op with one output.
    pub fn op(&mut self, op: Op, name: &str, inputs: &[ValueId], attrs: Attrs) -> ValueId {
        self.ops(op, name, &inputs.iter().copied().map(Some).collect::<Vec<_>>(), attrs, 1)[0]
    }
    /// Applies an op with several outputs or left-out inputs.
    pub fn ops(
        &mut self,
        op: Op,
        name: &str,
        inputs: &[Option<ValueId>],
        attrs: Attrs,
        outputs: usize,
    ) -> Vec<ValueId> {
        let name = self.unique(name);
        let names = (0..outputs)
            .map(|i| Some(if i == 0 { name.clone() } else { self.unique(&format!("{name}:{i}")) }));
        let names: Vec<_> = names.collect();
        let node = self.graph.add_node(op, name, inputs.to_vec(), names, attrs, Vec::new());
        self.graph.nodes[node].outputs.iter().copied().flatten().collect()
    }
    /// The graph so far.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }
    /// Names the outputs and infers all types.
    ///
    /// # Errors
    /// Where an op's type rule is broken.
    pub fn finish(mut self, outputs: &[(&str, ValueId)]) -> Result<Graph> {
        for (name, id) in outputs {
            self.graph.outputs.push(*id);
            self.graph.output_names.push((*name).to_owned());
        }
        infer::infer(&mut self.graph)?;
        Ok(self.graph)
    }
}
