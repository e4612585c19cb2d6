//! The Graph: typed ops in SSA.
//!
//! Invariants (held by [`crate::verify`]): nodes stand in an order in which every value is defined before it is used;
//! a value is defined once; names are unique; bodies are closed (what they take from outside comes in by their inputs).

use crate::{Attrs, Op, Type};
use orrery_base::{IndexVec, define_id};
use orrery_numerics::Tensor;
use std::collections::BTreeMap;

define_id!(
    /// A value of a graph.
    ValueId, "v");
define_id!(
    /// A node of a graph.
    NodeId, "n");

/// What a constant holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Weight {
    /// The elements.
    Data(Tensor),
    /// Only the type is known: enough to compile and time, not to run.
    Absent,
    /// Elements drawn from a normal distribution of mean `mean` and deviation `deviation`, made when first needed:
    /// the same seed gives the same elements on every machine.
    Seeded {
        /// Seed of the counter-based generator.
        seed: u64,
        /// Mean.
        mean: f64,
        /// Standard deviation.
        deviation: f64,
    },
    /// The elements are elsewhere; the text form names them by a digest.
    Digest(u64),
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Def {
    /// A graph input.
    Input,
    /// A constant.
    Constant(Weight),
    /// Output number `1` of node `0`.
    Node(NodeId, u32),
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Unique name; the model file's own where it has one.
    pub name: String,
    /// Its type as far as known.
    pub ty: Type,
    /// Where it comes from.
    pub def: Def,
}

/// An op applied to values.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The op.
    pub op: Op,
    /// The user's name for it: the layer in the model file. May be empty.
    pub name: String,
    /// Inputs by position; none where an optional one is left out.
    pub inputs: Vec<Option<ValueId>>,
    /// Outputs by position; none where an optional one is not wanted.
    pub outputs: Vec<Option<ValueId>>,
    /// Attributes.
    pub attrs: Attrs,
    /// Bodies of control flow, closed: see [`crate::op::control`] for what each one's inputs are.
    pub bodies: Vec<Graph>,
}

/// A value that lives from run to run: a weight that is trained, a moment of an optimizer, a running mean.
///
/// The input finds what the run before left in the output; before the first run it finds `initial`. Inputs and outputs
/// are named by their positions in the graph's lists, which passes keep.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Position of the input.
    pub input: usize,
    /// Position of the output.
    pub output: usize,
    /// What the first run finds, of the input's type.
    pub initial: Weight,
}

/// A model or a body.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// Name.
    pub name: String,
    /// All values.
    pub values: IndexVec<ValueId, Value>,
    /// All nodes, in an order in which they can run.
    pub nodes: IndexVec<NodeId, Node>,
    /// Inputs in order.
    pub inputs: Vec<ValueId>,
    /// Outputs in order. A value may appear more than once.
    pub outputs: Vec<ValueId>,
    /// Names of the outputs in the user's file, where they differ from the values' names.
    pub output_names: Vec<String>,
    /// What lives from run to run, in the order of the outputs.
    pub states: Vec<State>,
    /// What the file says of itself: producer, opset.
    pub metadata: BTreeMap<String, String>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
    /// Adds a graph input.
    pub fn add_input(&mut self, name: impl Into<String>, ty: Type) -> ValueId {
        let id = self.values.push(Value { name: name.into(), ty, def: Def::Input });
        self.inputs.push(id);
        id
    }
    /// Adds a constant with data.
    pub fn add_tensor(&mut self, name: impl Into<String>, tensor: Tensor) -> ValueId {
        let ty = Type::tensor(tensor.dtype(), tensor.shape().iter().copied());
        self.add_constant(name, ty, Weight::Data(tensor))
    }
    /// Adds a constant.
    pub fn add_constant(&mut self, name: impl Into<String>, ty: Type, weight: Weight) -> ValueId {
        self.values.push(Value { name: name.into(), ty, def: Def::Constant(weight) })
    }
    /// Adds a node with one value for each name in `outputs`; types are left for inference.
    pub fn add_node(
        &mut self,
        op: Op,
        name: impl Into<String>,
        inputs: Vec<Option<ValueId>>,
        outputs: Vec<Option<String>>,
        attrs: Attrs,
        bodies: Vec<Self>,
    ) -> NodeId {
        use orrery_base::index::Id;
        let node = NodeId::new(self.nodes.len());
        let outputs = outputs
            .into_iter()
            .enumerate()
            .map(|(i, name)| {
                let number = u32::try_from(i).expect("a node has fewer than 2^32 outputs");
                name.map(|name| {
                    self.values.push(Value { name, ty: Type::Unknown, def: Def::Node(node, number) })
                })
            })
            .collect();
        self.nodes.push(Node { op, name: name.into(), inputs, outputs, attrs, bodies })
    }
    /// The tensor of a constant whose elements are at hand.
    pub fn tensor_of(&self, id: ValueId) -> Option<&Tensor> {
        match &self.values[id].def {
            Def::Constant(Weight::Data(tensor)) => Some(tensor),
            _ => None,
        }
    }
    /// The name under which output number `i` is known to the user.
    pub fn output_name(&self, i: usize) -> &str {
        self.output_names.get(i).filter(|n| !n.is_empty()).map_or(&self.values[self.outputs[i]].name, |n| n)
    }
    /// The state whose input a value is.
    pub fn state_of_input(&self, id: ValueId) -> Option<&State> {
        self.states.iter().find(|state| self.inputs.get(state.input) == Some(&id))
    }
    /// The state that an output, by its position, leaves to the next run.
    pub fn state_of_output(&self, output: usize) -> Option<&State> {
        self.states.iter().find(|state| state.output == output)
    }
    /// How often each value is used, graph outputs counted.
    pub fn uses(&self) -> IndexVec<ValueId, u32> {
        let mut uses: IndexVec<ValueId, u32> = self.values.ids().map(|_| 0).collect();
        for id in self.nodes.values().flat_map(|n| n.inputs.iter().flatten()).chain(&self.outputs) {
            uses[*id] += 1;
        }
        uses
    }
}
