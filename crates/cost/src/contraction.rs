//! Matrix ops as products of matrices.
//!
//! Which axis is a row, a column, a batch or a depth follows from which operands it runs through, whatever the op calls
//! it: an axis of both operands and the result counts independent products, one of the first operand and the result rows,
//! one of the second operand and the result columns, and one that the result does not have is summed over.

use orrery_base::Result;
use orrery_ir::op::{Access, Engine};
use orrery_ir::{Bindings, Dim, Node, Op};
use orrery_program::memory::unbound;
use orrery_program::{Program, Step};

/// A product of matrices: `batch` times `rows x depth` by `depth x columns`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Product {
    /// Independent products.
    pub batch: f64,
    /// Rows.
    pub rows: f64,
    /// Columns: output channels.
    pub columns: f64,
    /// Length of the sums, kernel positions not counted.
    pub depth: f64,
    /// Kernel positions of a convolution; each is a sum over `depth` of its own.
    pub positions: f64,
}

impl Product {
    /// Multiply-accumulates.
    pub fn macs(&self) -> f64 {
        self.batch * self.rows * self.columns * self.depth * self.positions
    }
}

/// What an axis is in a product of matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Independent products.
    Batch,
    /// Rows.
    Row,
    /// Columns.
    Column,
    /// Summed over.
    Depth,
}

/// The name of the axis into which a cut sum is dealt: it runs through the operands and the partial results.
pub const SPLIT: &str = "split";

/// An operand: what a part needs of each dimension, and the dimensions.
#[derive(Clone, Debug)]
pub struct Operand {
    /// For each dimension.
    pub access: Vec<Access>,
    /// Extents.
    pub extents: Vec<i64>,
}

impl Operand {
    fn follows(&self, axis: usize) -> bool {
        self.access.iter().any(|a| a.axis() == Some(axis))
    }
    /// Product of the extents, from dimension `first`, that no axis cuts.
    fn uncut(&self, first: usize) -> f64 {
        let dims = self.access.iter().zip(&self.extents).skip(first);
        dims.filter(|(access, _)| **access == Access::Whole).map(|(_, extent)| *extent as f64).product()
    }
}

/// What the axes leave open.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rest {
    /// Sums, dealt into so many kernel positions.
    Sum { positions: f64 },
    /// Columns, each a sum of that length.
    Columns { depth: f64 },
}

/// How a matrix op is a product of matrices.
#[derive(Clone, Debug, PartialEq)]
pub struct Contraction {
    /// Of each axis.
    pub roles: Vec<Role>,
    /// Rows that no axis counts.
    rows: f64,
    /// Matrices of the second operand of which each row chooses one; 1 where there is no choice.
    matrices: f64,
    rest: Rest,
}

impl Contraction {
    /// Positions of the two operands that a matrix op multiplies; none for other ops.
    pub fn operands(node: &Node) -> Option<[usize; 2]> {
        match node.op {
            Op::QLinearMatMul | Op::QLinearConv => Some([0, 3]),
            _ if node.op.def().engine == Engine::Matrix => Some([0, 1]),
            _ => None,
        }
    }
    /// From the operands that the op multiplies and the result. `summed` says for each axis that its parts make partial
    /// results.
    pub fn new(
        node: &Node,
        summed: &[bool],
        left: &Operand,
        right: Option<&Operand>,
        result: &Operand,
    ) -> Self {
        let role = |(axis, summed): (usize, &bool)| {
            let through_right = right.is_some_and(|right| right.follows(axis));
            match (left.follows(axis), through_right, result.follows(axis) && !summed) {
                (_, _, false) => Role::Depth,
                (true, true, _) => Role::Batch,
                (_, false, _) => Role::Row,
                (false, true, _) => Role::Column,
            }
        };
        let roles = summed.iter().enumerate().map(role).collect();
        let (rows, rest) = match node.op {
            Op::Conv | Op::ConvInteger | Op::QLinearConv | Op::ConvTranspose | Op::DeformConv => {
                // Places of the image that are not cut are rows; those of the kernel are positions.
                let kernel = right.map_or(1, |right| right.extents.iter().skip(2).product());
                (result.uncut(2), Rest::Sum { positions: kernel as f64 })
            }
            // A row for each channel and place of the kernel; images and places of the result are summed over.
            Op::ConvWeightGrad => (result.uncut(2), Rest::Sum { positions: 1.0 }),
            Op::Attention | Op::AttentionGrad => {
                // Scores and mixing are one product: a column for each key, with a sum over the head for either.
                let heads = node.attrs.int("q_num_heads").unwrap_or(1).max(1);
                let (length, size) = match left.extents[..] {
                    [_, _, _, size] => (2, size),
                    _ => (1, left.extents.last().map_or(1, |width| width / heads)),
                };
                let uncut = left.access.get(length) == Some(&Access::Whole);
                let rows = if uncut { left.extents[length] } else { 1 };
                (rows as f64, Rest::Columns { depth: 2.0 * size.max(1) as f64 })
            }
            _ => (1.0, Rest::Sum { positions: 1.0 }),
        };
        let matrices = match (node.op, right) {
            (Op::GatherMatMul, Some(right)) => right.extents[0].max(1) as f64,
            _ => 1.0,
        };
        Self { roles, rows, matrices, rest }
    }
    /// How many matrices at least one of so many rows chooses, where all are equally likely.
    pub fn chosen(&self, rows: f64) -> f64 {
        if self.matrices > 1.0 {
            (self.matrices * (1.0 - (1.0 - 1.0 / self.matrices).powf(rows))).max(1.0)
        } else {
            1.0
        }
    }
    /// The part of the second operand that is read at all by a step over axes of these extents.
    pub fn read_share(&self, extents: &[f64]) -> f64 {
        let rows =
            self.roles.iter().zip(extents).filter(|(role, _)| **role == Role::Row).map(|(_, size)| size);
        self.chosen(rows.product()) / self.matrices
    }
    /// Of a step, where its first node is a matrix op.
    ///
    /// # Errors
    /// `unbound-symbol` where a symbol has no value.
    pub fn of_step(program: &Program, step: &Step, bindings: &Bindings) -> Result<Option<Self>> {
        let Some(node) = step.body.nodes.values().next() else { return Ok(None) };
        let Some([left, right]) = Self::operands(node) else { return Ok(None) };
        let operand = |shape: &[Dim], access: &[Access]| -> Result<Operand> {
            let extents = shape.iter().map(|d| d.eval(bindings).map_err(|s| Box::new(unbound(&s))));
            Ok(Operand { access: access.to_vec(), extents: extents.collect::<Result<_>>()? })
        };
        let read = |position: usize| -> Result<Option<Operand>> {
            let value = node.inputs.get(position).copied().flatten();
            let number = value.and_then(|value| step.body.inputs.iter().position(|v| *v == value));
            let read = number.and_then(|number| step.reads.get(number));
            read.map(|r| operand(&program.buffers[r.buffer].shape, &r.access)).transpose()
        };
        let (Some(left), Some(write)) = (read(left)?, step.writes.first()) else { return Ok(None) };
        let result = operand(&program.buffers[write.buffer].shape, &write.access)?;
        let summed: Vec<bool> = step.grid.iter().map(|cut| cut.name == SPLIT).collect();
        Ok(Some(Self::new(node, &summed, &left, read(right)?.as_ref(), &result)))
    }
    /// Numbers that are equal for equal contractions.
    pub fn key(&self) -> Vec<u64> {
        let rest = match self.rest {
            Rest::Sum { positions } => [0, positions.to_bits()],
            Rest::Columns { depth } => [1, depth.to_bits()],
        };
        let roles = self.roles.iter().map(|role| *role as u64);
        roles.chain([self.rows.to_bits(), self.matrices.to_bits()]).chain(rest).collect()
    }
    /// The product that a box of these extents makes, of an op of so many MACs over axes of extents `whole`.
    pub fn product(&self, macs: f64, whole: &[f64], part: &[f64]) -> Product {
        let along = |wanted: Role| -> f64 {
            self.roles.iter().zip(part).filter(|(role, _)| **role == wanted).map(|(_, size)| size).product()
        };
        let counted = whole.iter().product::<f64>() * self.rows;
        let rest = if counted > 0.0 { macs / counted } else { 0.0 };
        let rows = along(Role::Row) * self.rows;
        // Each matrix that is chosen makes a product of its own, of the rows that chose it.
        let chosen = self.chosen(rows);
        let mut product = Product {
            batch: along(Role::Batch) * chosen,
            rows: rows / chosen,
            columns: along(Role::Column),
            depth: along(Role::Depth),
            positions: 1.0,
        };
        match self.rest {
            Rest::Sum { positions } => {
                product.positions = positions.min(rest).max(1.0);
                product.depth *= rest / product.positions;
            }
            Rest::Columns { depth } => {
                product.depth *= depth;
                product.columns *= rest / depth;
            }
        }
        product
    }
}

/// A recurrent layer: the same product turn after turn, each of which needs the one before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recurrence {
    /// Turns: the length of the sequence.
    pub turns: f64,
    /// Of one turn, over inputs and state together; a batch for each direction.
    pub product: Product,
}

impl Recurrence {
    /// Of a step whose first node is a recurrent layer.
    pub fn of(program: &Program, step: &Step, bindings: &Bindings) -> Option<Self> {
        let node = step.body.nodes.values().next()?;
        if !matches!(node.op, Op::LSTM | Op::GRU | Op::RNN) {
            return None;
        }
        let extents = |number: usize| -> Option<Vec<f64>> {
            let shape = &program.buffers[step.reads.get(number)?.buffer].shape;
            shape.iter().map(|d| d.eval(bindings).ok().map(|n| n as f64)).collect()
        };
        let (input, weights, recurrent) = (extents(0)?, extents(1)?, extents(2)?);
        let ([first, second, _], [directions, outputs, inputs], [_, _, hidden]) =
            (&input[..], &weights[..], &recurrent[..])
        else {
            return None;
        };
        let (turns, rows) = match node.attrs.int("layout") {
            Some(1) => (*second, *first),
            _ => (*first, *second),
        };
        let depth = inputs + hidden;
        let product = Product { batch: *directions, rows, columns: *outputs, depth, positions: 1.0 };
        Some(Self { turns, product })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_ir::Attrs;

    fn node(op: Op) -> Node {
        Node {
            op,
            name: String::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            attrs: Attrs::new(),
            bodies: Vec::new(),
        }
    }

    fn operand(access: &[Option<usize>], extents: &[i64]) -> Operand {
        let access = access.iter().map(|a| a.map_or(Access::Whole, Access::along)).collect();
        Operand { access, extents: extents.to_vec() }
    }

    #[test]
    fn axes_of_a_batched_product() {
        // b, m, n, k
        let left = operand(&[Some(0), Some(1), Some(3)], &[2, 5, 7]);
        let right = operand(&[Some(0), Some(3), Some(2)], &[2, 7, 3]);
        let result = operand(&[Some(0), Some(1), Some(2)], &[2, 5, 3]);
        let summed = [false, false, false, true];
        let contraction = Contraction::new(&node(Op::MatMul), &summed, &left, Some(&right), &result);
        assert_eq!(contraction.roles, [Role::Batch, Role::Row, Role::Column, Role::Depth]);
        let extents = [2.0, 5.0, 3.0, 7.0];
        let product = contraction.product(210.0, &extents, &extents);
        assert_eq!(product, Product { batch: 2.0, rows: 5.0, columns: 3.0, depth: 7.0, positions: 1.0 });
        assert_eq!(contraction.product(210.0, &extents, &[1.0, 5.0, 2.0, 4.0]).macs(), 40.0);
    }

    #[test]
    fn a_convolution_with_and_without_cut_channels() {
        // n, out_channel, h, w, in_channel of a 3 x 3 kernel
        let image = operand(&[Some(0), Some(4), Some(2), Some(3)], &[2, 16, 10, 10]);
        let kernel = operand(&[Some(1), Some(4), None, None], &[8, 16, 3, 3]);
        let result = operand(&[Some(0), Some(1), Some(2), Some(3)], &[2, 8, 8, 8]);
        let macs = 2.0 * 8.0 * 64.0 * 16.0 * 9.0;
        let expected = Product { batch: 1.0, rows: 128.0, columns: 8.0, depth: 16.0, positions: 9.0 };
        let summed = [false, false, false, false, true];
        let of = Contraction::new(&node(Op::Conv), &summed, &image, Some(&kernel), &result);
        let extents = [2.0, 8.0, 8.0, 8.0, 16.0];
        assert_eq!(of.product(macs, &extents, &extents), expected);
        let image = operand(&[Some(0), None, Some(2), Some(3)], &[2, 16, 10, 10]);
        let kernel = operand(&[Some(1), None, None, None], &[8, 16, 3, 3]);
        let of = Contraction::new(&node(Op::Conv), &summed[..4], &image, Some(&kernel), &result);
        assert_eq!(of.product(macs, &extents[..4], &extents[..4]), expected);
    }

    #[test]
    fn attention_is_a_column_for_each_key() {
        // batch, kv_head, query
        let (q, k) = ([2, 4, 5, 8], [2, 4, 9, 8]);
        let left = operand(&[Some(0), Some(1), Some(2), None], &q);
        let right = operand(&[Some(0), Some(1), None, None], &k);
        let of = Contraction::new(&node(Op::Attention), &[false; 3], &left, Some(&right), &left);
        let macs = (2 * 4 * 5 * 9 * 8 * 2) as f64;
        let product = of.product(macs, &[2.0, 4.0, 5.0], &[1.0, 1.0, 5.0]);
        assert_eq!(product, Product { batch: 1.0, rows: 5.0, columns: 9.0, depth: 16.0, positions: 1.0 });
    }
}
