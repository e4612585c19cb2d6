//! What gradient rules are given: a node of the forward pass, and the graph to append the backward pass to.
//!
//! A rule ([`crate::op::Gradient::Rule`]) reads the node's inputs and outputs and the gradients of its outputs, appends
//! what computes the gradients of its inputs, and says which is which with [`Backward::give`]. It may leave out inputs
//! that nobody [wants](Backward::wants). Gradients have the type and shape of what they are the gradient of.

use crate::extend::Extend;
use crate::infer::{node_place, with_ctx};
use crate::op::Ctx;
use crate::{Attrs, Node, NodeId, ValueId};
use orrery_base::{Diagnostic, Result};
use std::ops::{Deref, DerefMut};

/// A node to differentiate. Appends as [`Extend`] does, of which it has all methods.
pub struct Backward<'a> {
    graph: &'a mut Extend,
    id: NodeId,
    node: Node,
    gradients: Vec<Option<ValueId>>,
    wanted: Vec<bool>,
    found: Vec<Option<ValueId>>,
}

impl<'a> Backward<'a> {
    /// A node with the gradients of its outputs, none where zero, and the inputs whose gradients are wanted.
    pub fn new(
        graph: &'a mut Extend,
        id: NodeId,
        gradients: Vec<Option<ValueId>>,
        wanted: Vec<bool>,
    ) -> Self {
        let node = graph.graph().nodes[id].clone();
        let found = vec![None; node.inputs.len()];
        Self { graph, id, node, gradients, wanted, found }
    }
    /// The node.
    pub fn node(&self) -> &Node {
        &self.node
    }
    /// Its attributes.
    pub fn attrs(&self) -> &Attrs {
        &self.node.attrs
    }
    /// Input `i`, where given.
    pub fn given(&self, i: usize) -> Option<ValueId> {
        self.node.inputs.get(i).copied().flatten()
    }
    /// Input `i`, which every such node has.
    ///
    /// # Errors
    /// `gradient` where it is left out.
    pub fn x(&self, i: usize) -> Result<ValueId> {
        self.given(i).ok_or_else(|| self.fails(format!("input {i} is missing")))
    }
    /// Output `i`, which the forward pass wants.
    ///
    /// # Errors
    /// `gradient` where it does not.
    pub fn y(&self, i: usize) -> Result<ValueId> {
        let output = self.node.outputs.get(i).copied().flatten();
        output.ok_or_else(|| self.fails(format!("output {i} is not made")))
    }
    /// Output `i`, which the node makes from here on where the forward pass did not want it.
    ///
    /// # Errors
    /// As [`Extend::made`].
    pub fn also(&mut self, i: usize) -> Result<ValueId> {
        self.graph.made(self.id, i)
    }
    /// Gradient of output `i`; none where it is zero.
    pub fn dy(&self, i: usize) -> Option<ValueId> {
        self.gradients.get(i).copied().flatten()
    }
    /// Gradient of output 0.
    ///
    /// # Errors
    /// `gradient` where it is zero.
    pub fn dy0(&self) -> Result<ValueId> {
        self.dy(0).ok_or_else(|| self.fails("only outputs other than the first lead to the loss".into()))
    }
    /// Whether the gradient of input `i` is wanted.
    pub fn wants(&self, i: usize) -> bool {
        self.wanted.get(i).copied().unwrap_or(false)
    }
    /// Says the gradient of input `i`.
    pub fn give(&mut self, i: usize, gradient: ValueId) {
        self.found[i] = Some(gradient);
    }
    /// Says the gradient of input `i` by one that may have been broadcast: it is summed to the input's shape.
    ///
    /// # Errors
    /// Where shapes are open or do not fit.
    pub fn give_summed(&mut self, i: usize, gradient: ValueId) -> Result<()> {
        let shape = self.graph.shape(self.x(i)?)?;
        let summed = self.graph.sum_to(gradient, &shape)?;
        self.give(i, summed);
        Ok(())
    }
    /// Asks the node's type rule, or a part of it.
    pub fn ask<T>(&self, ask: impl FnOnce(&Ctx<'_>) -> T) -> T {
        with_ctx(self.graph.graph(), self.graph.facts(), self.id, ask)
    }
    /// Result of a part of the type rule.
    ///
    /// # Errors
    /// `gradient` with what it says.
    pub fn known<T>(&self, ask: impl FnOnce(&Ctx<'_>) -> std::result::Result<T, String>) -> Result<T> {
        self.ask(ask).map_err(|cause| self.fails(cause))
    }
    /// A diagnostic at the node.
    pub fn fails(&self, cause: String) -> Box<Diagnostic> {
        Box::new(Diagnostic::error("gradient", cause).at(node_place(self.graph.graph(), self.id)))
    }
    /// The gradients of the inputs.
    pub fn finish(self) -> Vec<Option<ValueId>> {
        self.found
    }
}

impl Deref for Backward<'_> {
    type Target = Extend;
    fn deref(&self) -> &Extend {
        self.graph
    }
}
impl DerefMut for Backward<'_> {
    fn deref_mut(&mut self) -> &mut Extend {
        self.graph
    }
}
