//! Looking at a graph from a value backwards.

use crate::rewrite::Rewriter;
use orrery_ir::infer::Facts;
use orrery_ir::{Dim, NodeId, Op, Type, ValueId};

/// A graph with what inference knows of it.
pub(crate) struct View<'a> {
    pub(crate) rewriter: &'a Rewriter,
    pub(crate) facts: &'a Facts,
}

/// A product written out: `constant` times all factors.
pub(crate) struct Product {
    pub(crate) constant: f64,
    pub(crate) factors: Vec<ValueId>,
    /// The nodes that multiply.
    pub(crate) nodes: Vec<NodeId>,
}

/// Products are written out to so many factors.
const MOST_FACTORS: usize = 6;

impl View<'_> {
    /// The node that makes a value, where it is of that op and the value its first output.
    pub(crate) fn made_by(&self, value: ValueId, op: Op) -> Option<NodeId> {
        let maker = self.rewriter.maker(value)?;
        (self.rewriter.node(maker).op == op && self.rewriter.output(maker, 0) == Some(value)).then_some(maker)
    }
    /// Input `i` of a node.
    pub(crate) fn input(&self, node: NodeId, i: usize) -> Option<ValueId> {
        self.rewriter.input(node, i)
    }
    /// Extents of a value, where its rank is known.
    pub(crate) fn shape(&self, value: ValueId) -> Option<&[Dim]> {
        self.rewriter.ty(value).as_tensor()?.shape.as_deref()
    }
    /// True where both types are known in full and equal.
    pub(crate) fn same_type(&self, a: ValueId, b: ValueId) -> bool {
        let known = |v| matches!(self.rewriter.ty(v), Type::Tensor(t) if t.shape.is_some());
        known(a) && self.rewriter.ty(a) == self.rewriter.ty(b)
    }
    /// The number, where a value is a constant of one element.
    pub(crate) fn scalar(&self, value: ValueId) -> Option<f64> {
        let tensor = self.rewriter.tensor(value).filter(|t| t.len() == 1)?;
        tensor.to_f64().ok().map(|v| v[0])
    }
    /// Elements of a small integer value as formulas.
    pub(crate) fn content(&self, value: ValueId) -> Option<Vec<Dim>> {
        if let Some(tensor) = self.rewriter.tensor(value) {
            let small = tensor.rank() <= 1 && tensor.dtype().is_int() && tensor.len() <= 64;
            return small
                .then(|| tensor.to_i64().ok().map(|v| v.iter().map(|&n| Dim::Known(n)).collect()))?;
        }
        self.facts.get(value)?.content.clone()
    }
    /// Elements of a small integer value as numbers.
    pub(crate) fn ints(&self, value: ValueId) -> Option<Vec<i64>> {
        self.content(value)?.iter().map(Dim::known).collect()
    }
    /// The other operand of a node of two and the number that one of them is.
    pub(crate) fn beside_scalar(&self, node: NodeId) -> Option<(ValueId, f64)> {
        let (a, b) = (self.input(node, 0)?, self.input(node, 1)?);
        match (self.scalar(a), self.scalar(b)) {
            (None, Some(number)) => Some((a, number)),
            (Some(number), None) => Some((b, number)),
            _ => None,
        }
    }
    /// `value` as other + number.
    pub(crate) fn plus(&self, value: ValueId) -> Option<(NodeId, ValueId, f64)> {
        if let Some(node) = self.made_by(value, Op::Add) {
            let (other, number) = self.beside_scalar(node)?;
            return Some((node, other, number));
        }
        let node = self.made_by(value, Op::Sub)?;
        let number = self.scalar(self.input(node, 1)?)?;
        Some((node, self.input(node, 0)?, -number))
    }
    /// A value as a product. Values that others read too are factors; the value itself is taken apart in any case.
    pub(crate) fn product(&self, value: ValueId) -> Product {
        let mut product = Product { constant: 1.0, factors: Vec::new(), nodes: Vec::new() };
        self.multiply_out(value, true, &mut product);
        product
    }
    fn multiply_out(&self, value: ValueId, root: bool, product: &mut Product) {
        if let Some(number) = self.scalar(value) {
            product.constant *= number;
            return;
        }
        let open = (root || self.rewriter.uses(value) == 1) && product.factors.len() < MOST_FACTORS;
        let parts = if open { self.factors(value) } else { None };
        let Some((node, parts, divisor)) = parts else {
            product.factors.push(value);
            return;
        };
        product.constant /= divisor;
        product.nodes.push(node);
        for part in parts {
            self.multiply_out(part, false, product);
        }
    }
    /// What a product, quotient by a number, or small whole power multiplies, and the number it divides by.
    fn factors(&self, value: ValueId) -> Option<(NodeId, Vec<ValueId>, f64)> {
        let node = self.rewriter.maker(value)?;
        let (a, b) = (self.input(node, 0)?, self.input(node, 1)?);
        match self.rewriter.node(node).op {
            Op::Mul => Some((node, vec![a, b], 1.0)),
            Op::Div => Some((node, vec![a], self.scalar(b).filter(|d| *d != 0.0)?)),
            Op::Pow => match self.scalar(b)? {
                2.0 => Some((node, vec![a; 2], 1.0)),
                3.0 => Some((node, vec![a; 3], 1.0)),
                _ => None,
            },
            _ => None,
        }
    }
    /// True where nobody but `nodes` reads what they make, the last one excepted.
    pub(crate) fn closed(&self, nodes: &[NodeId]) -> bool {
        let Some((_, inner)) = nodes.split_last() else { return true };
        inner.iter().all(|node| {
            self.rewriter.node(*node).outputs.iter().flatten().all(|output| {
                let read_inside = |reader: &NodeId| {
                    let inputs = 0..self.rewriter.node(*reader).inputs.len();
                    inputs.filter(|i| self.input(*reader, *i) == Some(*output)).count()
                };
                nodes.iter().map(read_inside).sum::<usize>() as u32 == self.rewriter.uses(*output)
            })
        })
    }
}

/// True where two numbers agree as far as binary32, or the type of a small constant, can say.
pub(crate) fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 2e-3 * b.abs().min(a.abs())
}
