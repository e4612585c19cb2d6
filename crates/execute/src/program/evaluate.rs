//! One part of a step in the machine's arithmetic.

use super::Array;
use super::array::is_carried;
use super::convolution::Operands;
use orrery_base::{Diagnostic, Result};
use orrery_ir::interpret::{eval_node, eval_node_adding};
use orrery_ir::op::Datum;
use orrery_ir::{Attr, Attrs, Graph, Node, Op, Type, ValueId};
use orrery_numerics::{Accumulation, DType, Format, Rounding, Tensor, round_slice};
use orrery_program::Arithmetic;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Evaluates bodies.
pub(super) struct Evaluator<'a> {
    /// The arithmetic of the step.
    pub(super) arithmetic: &'a Arithmetic,
    /// True where results are rounded at random.
    pub(super) stochastic: bool,
    /// Seed of this step.
    pub(super) seed: u64,
}

/// Elements that one part can make at most, for numbering them across parts.
const PART_ELEMENTS: u64 = 1 << 40;

/// What is evaluated: it numbers the elements that are rounded at random.
#[derive(Clone, Copy)]
pub(super) enum Run<'a> {
    /// One part, or the whole as the first.
    One(u64),
    /// Parts of one shape, one behind the other along a dimension in front of `rank` others; what all share is without it.
    Stacked {
        /// Their numbers.
        parts: &'a [u64],
        /// Dimensions of a part, at most.
        rank: usize,
    },
}

/// A body with its constants as arrays, to be evaluated on any number of parts.
pub(super) struct Body<'a> {
    graph: &'a Graph,
    constants: BTreeMap<ValueId, Array>,
}

impl<'a> Body<'a> {
    pub(super) fn new(graph: &'a Graph) -> Result<Self> {
        let mut constants = BTreeMap::new();
        for (id, value) in graph.values.iter() {
            debug_assert!(
                value.ty != Type::Unknown || graph.inputs.contains(&id) || graph.tensor_of(id).is_some(),
                "bodies are typed: {}",
                value.name
            );
            if let Some(tensor) = graph.tensor_of(id) {
                constants.insert(id, Array::from_tensor(tensor)?);
            }
        }
        Ok(Self { graph, constants })
    }
}

impl Evaluator<'_> {
    /// Evaluates a body on operands in order. `part_attrs` are set on its first node where it runs on a part of the whole.
    pub(super) fn body(
        &self,
        body: &Body<'_>,
        operands: Vec<Array>,
        part_attrs: Option<&Attrs>,
        run: Run<'_>,
    ) -> Result<Vec<Array>> {
        let Body { graph: body, constants } = body;
        let mut values = constants.clone();
        values.extend(body.inputs.iter().copied().zip(operands));
        for (number, (_, node)) in body.nodes.iter().enumerate() {
            let mut inputs = Vec::with_capacity(node.inputs.len());
            for input in &node.inputs {
                inputs.push(match input {
                    None => None,
                    Some(id) => Some(values.get(id).cloned().ok_or_else(|| {
                        Diagnostic::error("mapping", format!("`{}` is not there", body.values[*id].name))
                    })?),
                });
            }
            let changed = match part_attrs {
                Some(attrs) if number == 0 && !attrs.is_empty() => {
                    let mut node = node.clone();
                    attrs.iter().for_each(|(name, value)| node.attrs.set(name, value.clone()));
                    Some(node)
                }
                _ => None,
            };
            let results = self.node(changed.as_ref().unwrap_or(node), &inputs)?;
            for (output, result) in node.outputs.iter().zip(results) {
                let Some(output) = *output else { continue };
                let declared = body.values[output].ty.as_tensor().map_or(result.dtype(), |t| t.dtype);
                let result = if is_carried(declared) { self.rounded(result, declared, run) } else { result };
                values.insert(output, result);
            }
        }
        body.outputs
            .iter()
            .map(|id| {
                let missing = || {
                    Box::new(Diagnostic::error(
                        "mapping",
                        format!("`{}` was not made", body.values[*id].name),
                    ))
                };
                values.get(id).cloned().ok_or_else(missing)
            })
            .collect()
    }

    /// What a node made in the type that it is declared to have.
    fn rounded(&self, result: Array, dtype: DType, run: Run<'_>) -> Array {
        if !self.stochastic {
            return result.round_to(dtype, Rounding::NearestEven, &[0]);
        }
        let rounding = Rounding::Stochastic { seed: self.seed };
        let first = |part: &u64| part.wrapping_mul(PART_ELEMENTS);
        match run {
            Run::One(part) => result.round_to(dtype, rounding, &[first(&part)]),
            Run::Stacked { parts, rank } => {
                let firsts: Vec<u64> = parts.iter().map(first).collect();
                // What is the same of all parts is no longer so when each has rounded it at random.
                let shared = result.shape().len() <= rank && result.dtype() != dtype;
                let result = if shared { result.repeated(parts.len(), rank) } else { result };
                result.round_to(dtype, rounding, &firsts)
            }
        }
    }

    /// One node, its results not yet rounded to their types.
    fn node(&self, node: &Node, inputs: &[Option<Array>]) -> Result<Vec<Array>> {
        if let Some(result) = self.matrix(node, inputs) {
            return Ok(vec![result]);
        }
        if let (Op::Cast, Some(Attr::DType(to)), Some(input)) =
            (node.op, node.attrs.get("to"), inputs.first().and_then(Option::as_ref))
            && is_carried(*to)
            && let Some(values) = input.as_f32()
        {
            return Ok(vec![Array::floats(DType::F32, input.shape().to_vec(), values.to_vec())]);
        }
        // What a body makes is rounded to the types that its operands have.
        let operand = |array: &Array| match node.bodies.is_empty() {
            true => array.to_operand(),
            false => array.to_tensor(),
        };
        let operands: Vec<Option<Datum>> =
            inputs.iter().map(|a| a.as_ref().map(|a| Datum::Tensor(operand(a)))).collect();
        // What has no products of its own here adds them up in the machine's way all the same.
        let carried = inputs.first().and_then(Option::as_ref).is_some_and(|a| a.as_f32().is_some());
        let results = if multiplies(node.op) && carried {
            eval_node_adding(&summed_wide(node), &operands, self.seed, self.sums())
        } else {
            eval_node(node, &operands, self.seed)
        };
        let results = results.map_err(|cause| Diagnostic::error("evaluation", cause))?;
        results
            .iter()
            .map(|datum| match datum {
                Datum::Tensor(tensor) => Array::from_tensor(tensor),
                _ => Diagnostic::error("evaluation", format!("{} makes no tensor", node.op)).err(),
            })
            .collect()
    }

    /// Products of matrices and convolutions in the machine's way of adding, whole or a part of it; none for other nodes, for
    /// types that are not carried as f32, and for shapes that do not fit.
    fn matrix(&self, node: &Node, inputs: &[Option<Array>]) -> Option<Array> {
        let operand = |i: usize| inputs.get(i).and_then(Option::as_ref);
        let (a, b) = (operand(0)?, operand(1)?);
        let (left, right) = (a.as_f32()?, b.as_f32()?);
        match node.op {
            Op::MatMul => {
                let (left, right) = (self.narrowed(left), self.narrowed(right));
                self.batched(&left, a.shape(), &right, b.shape())
            }
            Op::Conv => {
                let (left, right) = (self.narrowed(left), self.narrowed(right));
                let bias = operand(2).and_then(Array::as_f32);
                self.convolution(node, Operands { x: (&left, a.shape()), w: (&right, b.shape()), bias })
            }
            Op::ConvTranspose => {
                let (left, right) = (self.narrowed(left), self.narrowed(right));
                let bias = operand(2).and_then(Array::as_f32);
                self.transposed(node, Operands { x: (&left, a.shape()), w: (&right, b.shape()), bias })
            }
            Op::ConvWeightGrad => {
                let (left, right) = (self.narrowed(left), self.narrowed(right));
                self.weight_gradient(node, &left, a.shape(), &right, b.shape())
            }
            Op::Gemm => {
                let (left, right) = (self.narrowed(left), self.narrowed(right));
                if a.shape().len() != 2 || b.shape().len() != 2 {
                    return None;
                }
                let (left, left_shape) = turned(&left, a.shape(), node.attrs.flag("transA"));
                let (right, right_shape) = turned(&right, b.shape(), node.attrs.flag("transB"));
                let product = self.batched(&left, &left_shape, &right, &right_shape)?;
                let alpha = node.attrs.float_or("alpha", 1.0) as f32;
                let beta = node.attrs.float_or("beta", 1.0) as f32;
                let mut out = product.as_f32()?.to_vec();
                out.iter_mut().for_each(|v| *v *= alpha);
                if let Some(c) = operand(2) {
                    let (values, columns) = (c.as_f32()?, right_shape[1]);
                    let (rows_of, columns_of) = match c.shape() {
                        [] => (1, 1),
                        [n] => (1, *n),
                        [m, n] => (*m, *n),
                        _ => return None,
                    };
                    for (i, v) in out.iter_mut().enumerate() {
                        let (row, column) = (i / columns, i % columns);
                        let r = if rows_of == 1 { 0 } else { row };
                        let c = if columns_of == 1 { 0 } else { column };
                        *v += beta * values[r * columns_of + c];
                    }
                }
                Some(Array::floats(DType::F32, product.shape().to_vec(), out))
            }
            _ => None,
        }
    }

    /// Inputs of the matrix unit, rounded where it takes less than their type.
    fn narrowed<'v>(&self, values: &'v [f32]) -> Cow<'v, [f32]> {
        let Some(format) = self.arithmetic.inputs.as_deref().and_then(Format::parse) else {
            return values.into();
        };
        let mut values = values.to_vec();
        round_slice(&mut values, format, Rounding::NearestEven, false, 0);
        values.into()
    }

    /// `[…, m, k]` times `[…, k, n]` with equal or broadcast leading extents. A vector on the left is a row, one on the
    /// right a column; the result is without it.
    fn batched(&self, left: &[f32], a: &[usize], right: &[f32], b: &[usize]) -> Option<Array> {
        let (is_row, is_column) = (a.len() == 1, b.len() == 1);
        let (row, column) = ([1, *a.first()?], [*b.first()?, 1]);
        let (a, b) = (if is_row { &row[..] } else { a }, if is_column { &column[..] } else { b });
        let (m, k, n) = (a[a.len() - 2], a[a.len() - 1], b[b.len() - 1]);
        if b[b.len() - 2] != k {
            return None;
        }
        let (lead_a, lead_b) = (&a[..a.len() - 2], &b[..b.len() - 2]);
        let rank = lead_a.len().max(lead_b.len());
        let at =
            |lead: &[usize], d: usize| if d + lead.len() < rank { 1 } else { lead[d + lead.len() - rank] };
        let mut shape: Vec<usize> = (0..rank).map(|d| at(lead_a, d).max(at(lead_b, d))).collect();
        let batches: usize = shape.iter().product();
        let mut out = vec![0.0; batches * m * n];
        for batch in 0..batches {
            let offset = |lead: &[usize]| {
                let (mut rest, mut index, mut stride) = (batch, 0, 1);
                for d in (0..rank).rev() {
                    let i = rest % shape[d];
                    rest /= shape[d];
                    if at(lead, d) > 1 {
                        index += i * stride;
                    }
                    stride *= at(lead, d);
                }
                index
            };
            let (x, y) = (offset(lead_a) * m * k, offset(lead_b) * k * n);
            self.product(
                &left[x..x + m * k],
                &right[y..y + k * n],
                [m, k, n],
                &mut out[batch * m * n..(batch + 1) * m * n],
            );
        }
        shape.extend((!is_row).then_some(m));
        shape.extend((!is_column).then_some(n));
        Some(Array::floats(DType::F32, shape, out))
    }

    /// Products that are added to a sum before it is rounded to the accumulator's format; none where it is binary32, in
    /// which all is added anyway.
    pub(super) fn group(&self) -> Option<(Format, usize)> {
        let format = Format::parse(&self.arithmetic.accumulate)?;
        let rounds = format != Format::FP32 && format != Format::FP64;
        rounds.then(|| (format, self.arithmetic.group.max(1) as usize))
    }

    /// The same for what the interpreter adds up; products are added in binary32 within a group.
    pub(super) fn sums(&self) -> Option<Accumulation> {
        let (format, group) = self.group()?;
        Some(Accumulation { within: Some(Format::FP32), ..Accumulation::new(format).grouped(group as u64) })
    }

    /// Adds `left x right` to `out`, each sum from left to right, kept in the accumulator's format and rounded to it after
    /// each group of products.
    pub(super) fn product(&self, left: &[f32], right: &[f32], [m, k, n]: [usize; 3], out: &mut [f32]) {
        let (format, group) = self.group().map_or((None, DEEP), |(format, group)| (Some(format), group));
        if m * k * n == 0 {
            return;
        }
        for first in (0..k).step_by(group) {
            let depth = group.min(k - first);
            let right = &right[first * n..(first + depth) * n];
            let mut rows = out.chunks_mut(ROWS * n);
            for (left, sums) in left.chunks(ROWS * k).zip(&mut rows) {
                for column in (0..n).step_by(COLUMNS) {
                    let tile = Tile { k, n, depth, width: COLUMNS.min(n - column) };
                    if left.len() == ROWS * k {
                        tile.add::<ROWS>(&left[first..], &right[column..], &mut sums[column..]);
                    } else {
                        for (left, sums) in left.chunks_exact(k).zip(sums.chunks_exact_mut(n)) {
                            tile.add::<1>(&left[first..], &right[column..], &mut sums[column..]);
                        }
                    }
                }
                if let Some(format) = format {
                    round_slice(sums, format, Rounding::NearestEven, false, 0);
                }
            }
        }
    }
}

/// Whether products of an op are added up in the machine's way, and not as the node says.
pub(super) fn multiplies(op: Op) -> bool {
    matches!(
        op,
        Op::MatMul
            | Op::Conv
            | Op::ConvTranspose
            | Op::ConvWeightGrad
            | Op::Gemm
            | Op::GatherMatMul
            | Op::GatherMatMulGrad
            | Op::Attention
            | Op::AttentionGrad
    )
}

/// The node with its sums in fp32: nearer to the exact ones than where it asks for another format.
pub(super) fn summed_wide(node: &Node) -> Node {
    let mut node = node.clone();
    node.attrs.remove("accumulate");
    node
}

/// A matrix, transposed where asked for, and its shape.
fn turned<'v>(values: &'v [f32], shape: &[usize], flip: bool) -> (Cow<'v, [f32]>, Vec<usize>) {
    if !flip {
        return (values.into(), shape.to_vec());
    }
    let (r, c) = (shape[0], shape[1]);
    ((0..r * c).map(|i| values[(i % r) * c + i / r]).collect(), vec![c, r])
}

/// Rows and columns of a product that are worked on at a time, as many sums as fit into registers, and how many products
/// are added to them before the next ones have their turn.
const ROWS: usize = 4;
const COLUMNS: usize = 8;
const DEEP: usize = 512;

/// Sums of a product that are worked on at a time.
#[derive(Clone, Copy)]
struct Tile {
    /// Elements from one row to the next on the left.
    k: usize,
    /// On the right and among the sums.
    n: usize,
    /// Products added to each sum.
    depth: usize,
    /// Columns, at most [`COLUMNS`].
    width: usize,
}

impl Tile {
    /// Adds products to each of `R` rows of sums.
    fn add<const R: usize>(self, left: &[f32], right: &[f32], out: &mut [f32]) {
        if self.width == COLUMNS {
            self.add_columns::<R, true>(left, right, out);
        } else {
            self.add_columns::<R, false>(left, right, out);
        }
    }
    #[inline(always)]
    #[allow(
        clippy::needless_range_loop,
        reason = "loops of fixed length are unrolled at every level of optimisation"
    )]
    fn add_columns<const R: usize, const WHOLE: bool>(self, left: &[f32], right: &[f32], out: &mut [f32]) {
        let Self { k, n, depth, width } = self;
        let width = if WHOLE { COLUMNS } else { width };
        let mut sums = [[0.0_f32; COLUMNS]; R];
        for r in 0..R {
            sums[r][..width].copy_from_slice(&out[r * n..r * n + width]);
        }
        for i in 0..depth {
            let mut row = [0.0_f32; COLUMNS];
            let from = &right[i * n..i * n + width];
            row[..width].copy_from_slice(from);
            for r in 0..R {
                let a = left[r * k + i];
                for c in 0..COLUMNS {
                    sums[r][c] += a * row[c];
                }
            }
        }
        for r in 0..R {
            out[r * n..r * n + width].copy_from_slice(&sums[r][..width]);
        }
    }
}

/// The same node on f32 tensors, as the interpreter defines it.
pub(super) fn interpret(node: &Node, operands: &[Option<Tensor>], seed: u64) -> Result<Vec<Tensor>> {
    let operands: Vec<Option<Datum>> = operands.iter().map(|t| t.clone().map(Datum::Tensor)).collect();
    let results = eval_node(node, &operands, seed).map_err(|cause| Diagnostic::error("evaluation", cause))?;
    Ok(results.into_iter().filter_map(|d| d.as_tensor().cloned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_ir::Builder;
    use orrery_program::RoundingMode;

    /// One node on operands of fp16, whose sums are rounded to fp16 after each 16 products.
    fn made(op: Op, attrs: Attrs, operands: &[(&[usize], &[f32])]) -> (Vec<usize>, Vec<f32>) {
        made_with(op, attrs, operands, None)
    }

    /// The same with one more operand; the last result.
    fn made_with(
        op: Op,
        attrs: Attrs,
        operands: &[(&[usize], &[f32])],
        last: Option<Array>,
    ) -> (Vec<usize>, Vec<f32>) {
        let arithmetic = Arithmetic {
            accumulate: "fp16".into(),
            group: 16,
            inputs: None,
            rounding: RoundingMode::Nearest,
        };
        let evaluator = Evaluator { arithmetic: &arithmetic, stochastic: false, seed: 0 };
        let node = Node {
            op,
            name: String::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            attrs: attrs.with("accumulate", "fp16"),
            bodies: Vec::new(),
        };
        let floats = operands
            .iter()
            .map(|(shape, values)| Some(Array::floats(DType::F16, shape.to_vec(), values.to_vec())));
        let operands: Vec<Option<Array>> = floats.chain(last.map(Some)).collect();
        let array = evaluator.node(&node, &operands).unwrap().pop().unwrap();
        (array.shape().to_vec(), array.as_f32().unwrap().to_vec())
    }

    /// 2048 + 1 is 2048 in fp16: a sum that is rounded after each product stays there.
    const STEEP: &[f32] = &[2048.0, 1.0, 1.0];

    #[test]
    fn parts_of_grouped_convolutions_add_in_the_machines_groups() {
        let two = [STEEP, STEEP].concat();
        for group in [2_i64, 0] {
            let attrs = Attrs::new().with("group", group);
            let got = made(Op::Conv, attrs, &[(&[1, 2, 3], &two), (&[2, 1, 3], &[1.0; 6])]);
            assert_eq!(got, (vec![1, 2, 1], vec![2050.0; 2]), "group {group}");
        }
    }

    #[test]
    fn transposed_convolutions_add_in_the_machines_groups() {
        let run = |attrs: Attrs, x: (&[usize], &[f32]), w: (&[usize], &[f32])| {
            made(Op::ConvTranspose, attrs, &[x, w])
        };
        // Windows that overlap in all three elements; what a window leaves out is nothing.
        let got = run(Attrs::new(), (&[1, 1, 3], STEEP), (&[1, 1, 3], &[1.0; 3]));
        assert_eq!(got, (vec![1, 1, 5], vec![2048.0, 2048.0, 2050.0, 2.0, 1.0]));
        let strided =
            Attrs::new().with("strides", vec![2]).with("pads", vec![1, 0]).with("output_padding", vec![1]);
        let got = run(strided, (&[1, 1, 2], &[3.0, 5.0]), (&[1, 1, 3], &[1.0, 10.0, 100.0]));
        assert_eq!(got, (vec![1, 1, 5], vec![30.0, 305.0, 50.0, 500.0, 0.0]));
        // Groups of channels have their own sums.
        let grouped = Attrs::new().with("group", 2_i64);
        let got = run(grouped, (&[1, 2, 1], &[2.0, 3.0]), (&[2, 2, 1], &[1.0, 10.0, 100.0, 1000.0]));
        assert_eq!(got, (vec![1, 4, 1], vec![2.0, 20.0, 300.0, 3000.0]));
    }

    #[test]
    fn gradients_of_weights_add_in_groups_that_go_on_from_image_to_image() {
        let attrs = || Attrs::new().with("kernel_shape", vec![1]);
        let got = made(Op::ConvWeightGrad, attrs(), &[(&[1, 1, 3], STEEP), (&[1, 1, 3], &[1.0; 3])]);
        assert_eq!(got, (vec![1, 1, 1], vec![2050.0]));
        // The first sixteen are 2060.5, in fp16 2060; rounded behind the twelve of one image they would become 2062.
        let x = [&[2048.0][..], &[1.0; 11], &[0.375; 4], &[0.0; 8]].concat();
        let got = made(Op::ConvWeightGrad, attrs(), &[(&[2, 1, 12], &x), (&[2, 1, 12], &[1.0; 24])]);
        assert_eq!(got.1, [2060.0]);
        // What the windows saw beside the image is nothing; groups of channels have their own sums.
        let attrs =
            Attrs::new().with("kernel_shape", vec![3]).with("pads", vec![1, 1]).with("group_channels", 1);
        let two = [&[1.0, 2.0, 3.0][..], &[4.0, 5.0, 6.0]].concat();
        let got = made(Op::ConvWeightGrad, attrs, &[(&[1, 2, 3], &two), (&[1, 2, 3], &[1.0; 6])]);
        assert_eq!(got, (vec![2, 1, 3], vec![3.0, 6.0, 5.0, 9.0, 15.0, 11.0]));
    }

    #[test]
    fn convolutions_with_padding_that_follows_add_in_the_machines_groups() {
        let run = |padding: &str, taps: usize, strides: Vec<i64>| {
            let attrs = Attrs::new().with("auto_pad", padding).with("strides", strides);
            made(Op::Conv, attrs, &[(&[1, 1, 3], STEEP), (&[1, 1, taps], &vec![1.0; taps])]).1
        };
        assert_eq!(run("VALID", 3, vec![1]), [2050.0]);
        assert_eq!(run("SAME_UPPER", 3, vec![1]), [2048.0, 2050.0, 2.0]);
        assert_eq!(run("SAME_UPPER", 2, vec![1]), [2048.0, 2.0, 1.0]);
        assert_eq!(run("SAME_LOWER", 2, vec![1]), [2048.0, 2048.0, 2.0]);
        assert_eq!(run("SAME_LOWER", 3, vec![2]), [2048.0, 2.0]);
    }

    #[test]
    fn products_of_vectors_add_in_the_machines_groups() {
        let ones: &[f32] = &[1.0; 6];
        let product = |a, b| made(Op::MatMul, Attrs::new(), &[a, b]);
        assert_eq!(product((&[3], STEEP), (&[3], &ones[..3])), (vec![], vec![2050.0]));
        assert_eq!(product((&[3], STEEP), (&[3, 2], ones)), (vec![2], vec![2050.0; 2]));
        assert_eq!(product((&[1, 2, 3], ones), (&[3], STEEP)), (vec![1, 2], vec![2050.0; 2]));
    }

    /// 32 numbers whose sum is 1035.625 in binary32; 1024 in fp16 that rounds after each, 1036 after groups of 16.
    fn uneven() -> Vec<f32> {
        [&[1024.0][..], &[0.375; 31]].concat()
    }

    #[test]
    fn chosen_matrices_and_their_gradients_add_in_the_machines_groups() {
        let run = |op: Op, attrs: Attrs, a: (&[usize], &[f32]), b: (&[usize], &[f32]), rows: usize| {
            let chosen = Array::from_tensor(&Tensor::from_vec(vec![rows], vec![0_i64; rows])).unwrap();
            made_with(op, attrs, &[a, b], Some(chosen)).1
        };
        let ones = [1.0; 32];
        let got = run(Op::GatherMatMul, Attrs::new(), (&[1, 32], &uneven()), (&[1, 32, 1], &ones), 1);
        assert_eq!(got, [1036.0]);
        let attrs = Attrs::new().with("matrices", 1_i64);
        let got = run(Op::GatherMatMulGrad, attrs, (&[32, 1], &uneven()), (&[32, 1], &ones), 32);
        assert_eq!(got, [1036.0]);
    }

    #[test]
    fn attention_and_its_gradients_add_in_the_machines_groups() {
        // Weights of 1/32 for all keys alike.
        let values: Vec<f32> = uneven().iter().map(|v| v * 32.0).collect();
        let (q, k) = ((&[1, 1, 1, 1][..], &[0.0][..]), (&[1, 1, 32, 1][..], &[0.0; 32][..]));
        let got = made(Op::Attention, Attrs::new(), &[q, k, (&[1, 1, 32, 1], &values)]);
        assert_eq!(got, (vec![1, 1, 1, 1], vec![1036.0]));
        // One key for 32 queries: its value gets the sum of what comes back.
        let (q, k) = ((&[1, 1, 32, 1][..], &[0.0; 32][..]), (&[1, 1, 1, 1][..], &[0.0][..]));
        let got = made(Op::AttentionGrad, Attrs::new(), &[q, k, k, (&[1, 1, 32, 1], &uneven())]);
        assert_eq!(got, (vec![1, 1, 1, 1], vec![1036.0]));
    }

    #[test]
    fn parts_together_are_rounded_at_random_as_each_alone() {
        let mut b = Builder::new("body", 1);
        let [x, shared] = ["x", "shared"].map(|name| b.input(name, DType::F16, [50_usize]));
        let square = b.op(Op::Mul, "square", &[shared, shared], Attrs::new());
        let product = b.op(Op::Mul, "product", &[x, shared], Attrs::new());
        let sum = b.op(Op::Add, "sum", &[product, square], Attrs::new());
        let graph = b.finish(&[("sum", sum), ("square", square)]).unwrap();
        let body = Body::new(&graph).unwrap();
        let arithmetic = Arithmetic {
            accumulate: "fp16".into(),
            group: 16,
            inputs: None,
            rounding: RoundingMode::Stochastic,
        };
        let evaluator = Evaluator { arithmetic: &arithmetic, stochastic: true, seed: 9 };
        let of = |first: usize| {
            let values = (first..first + 50).map(|i| 1.0 + i as f32 / 137.0).collect();
            Array::rounded(DType::F16, vec![50], values)
        };
        let (xs, shared, parts) = ([of(0), of(1)], of(9), [3, 8]);
        let run = Run::Stacked { parts: &parts, rank: 1 };
        let stacked = Array::joined(&[&xs[0], &xs[1]], vec![2, 50]).unwrap();
        let together = evaluator.body(&body, vec![stacked, shared.clone()], None, run).unwrap();
        for (i, x) in xs.into_iter().enumerate() {
            let alone = evaluator.body(&body, vec![x, shared.clone()], None, Run::One(parts[i])).unwrap();
            for (together, alone) in together.iter().zip(alone) {
                let part = together.run(50 * i, vec![50]).unwrap();
                assert_eq!(part.as_f32(), alone.as_f32());
            }
        }
        let square = together[1].as_f32().unwrap();
        assert_ne!(square[..50], square[50..], "each part rounds in its own way");
    }
}
