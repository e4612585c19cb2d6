//! Matrix products.

use super::prepare::{Choice, layout_at_hand};
use super::step::{Call, HostKernel, Outcome};
use super::value::Layout;
use crate::kernels::gemm::{Packed, Product, Rows};
use crate::kernels::matmul::{Batch, Turned, product};
use crate::kernels::movement::transpose;
use crate::kernels::outer::{Left, outer_sum, outer_work};
use orrery_ir::{Node, Op};

pub(crate) fn choose(choice: &Choice<'_>) -> Option<Box<dyn HostKernel>> {
    let node = choice.node;
    if !choice.is_f32(0) || !choice.is_f32(1) {
        return None;
    }
    match node.op {
        Op::MatMul => match choice.constant(1) {
            Some(b) if b.rank() == 2 && !b.is_empty() => {
                let packed = Packed::from_rows(b.shape()[0], b.shape()[1], &b.values::<f32>()?);
                Some(Box::new(PackedMatMul { packed: [packed] }))
            }
            _ => Some(Box::new(MatMul)),
        },
        Op::Gemm => {
            let Some(b) = choice.constant(1).filter(|b| b.rank() == 2 && !b.is_empty()) else {
                return FreshGemm::of(node).map(|kernel| Box::new(kernel) as Box<dyn HostKernel>);
            };
            let alpha = node.attrs.float_or("alpha", 1.0) as f32;
            let beta = node.attrs.float_or("beta", 1.0) as f32;
            let values = b.values::<f32>()?;
            let transposed = node.attrs.flag("transB");
            let (k, n) = if transposed { (b.shape()[1], b.shape()[0]) } else { (b.shape()[0], b.shape()[1]) };
            let packed = Packed::new(k, n, |i, j| {
                alpha * if transposed { values[j * k + i] } else { values[i * n + j] }
            });
            Some(Box::new(Gemm { packed: [packed], transposed: node.attrs.flag("transA"), beta }))
        }
        _ => None,
    }
}

/// By a constant matrix.
struct PackedMatMul {
    packed: [Packed; 1],
}
impl HostKernel for PackedMatMul {
    fn name(&self) -> &'static str {
        "product, packed"
    }
    fn takes_tail(&self) -> bool {
        true
    }
    fn takes_bias(&self) -> bool {
        true
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let mut shape = call.shape(0);
        let [packed] = &self.packed;
        if shape.len() < 2 || shape.last() != Some(&packed.depth()) {
            return Ok(Outcome::Declined);
        }
        let Some(data) = call.floats(0, Layout::Plain) else { return Ok(Outcome::Declined) };
        let last = shape.len() - 1;
        shape[last] = packed.columns();
        call.make_with_tail(shape, Layout::Plain, None, true, |call, finish, out| {
            let rows = Rows::Dense { data: &data, stride: packed.depth() };
            Product { rows, segments: 1, packed: &self.packed, finish }.run(&call.machine.threads, out);
        })
    }
}

struct Gemm {
    packed: [Packed; 1],
    transposed: bool,
    beta: f32,
}
impl HostKernel for Gemm {
    fn name(&self) -> &'static str {
        "product, packed"
    }
    fn takes_tail(&self) -> bool {
        true
    }
    fn takes_bias(&self) -> bool {
        true
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let shape = call.shape(0);
        let [packed] = &self.packed;
        let [first, second] = *shape.as_slice() else { return Ok(Outcome::Declined) };
        let (m, k) = if self.transposed { (second, first) } else { (first, second) };
        let n = packed.columns();
        let Some(data) = call.floats(0, Layout::Plain).filter(|_| k == packed.depth()) else {
            return Ok(Outcome::Declined);
        };
        let bias = if call.has(2) {
            let shape = call.shape(2);
            let (Some(c), true) = (call.floats(2, Layout::Plain), shape.len() <= 2) else {
                return Ok(Outcome::Declined);
            };
            match c.len() {
                1 => Some(vec![c[0] * self.beta; n]),
                len if len == n && shape.last() == Some(&n) => {
                    Some(c.iter().map(|x| x * self.beta).collect())
                }
                _ => return Ok(Outcome::Declined),
            }
        } else {
            None
        };
        let turned = self.transposed.then(|| {
            let mut turned = call.room(m * k);
            transpose(&call.machine.threads, &data, &[k, m], &[1, 0], &mut turned);
            turned
        });
        call.make_with_tail(vec![m, n], Layout::Plain, bias.as_deref(), true, |call, finish, out| {
            let rows = Rows::Dense { data: turned.as_deref().unwrap_or(&data), stride: k };
            Product { rows, segments: 1, packed: &self.packed, finish }.run(&call.machine.threads, out);
        })
    }
}

/// A product with a bias of two operands made at run time.
struct FreshGemm {
    turned: [bool; 2],
    beta: f32,
}
impl FreshGemm {
    /// None where both operands are turned or the product is scaled.
    fn of(node: &Node) -> Option<Self> {
        let turned = ["transA", "transB"].map(|name| node.attrs.flag(name));
        let plain = node.attrs.float_or("alpha", 1.0) == 1.0 && turned != [true, true];
        plain.then_some(Self { turned, beta: node.attrs.float_or("beta", 1.0) as f32 })
    }
}
impl HostKernel for FreshGemm {
    fn name(&self) -> &'static str {
        "product"
    }
    fn takes_tail(&self) -> bool {
        true
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let (a_shape, b_shape) = (call.shape(0), call.shape(1));
        let ([a0, a1], [b0, b1]) = (a_shape.as_slice(), b_shape.as_slice()) else {
            return Ok(Outcome::Declined);
        };
        let (m, k) = if self.turned[0] { (*a1, *a0) } else { (*a0, *a1) };
        let (k2, n) = if self.turned[1] { (*b1, *b0) } else { (*b0, *b1) };
        let (Some(a), Some(b)) = (call.floats(0, Layout::Plain), call.floats(1, Layout::Plain)) else {
            return Ok(Outcome::Declined);
        };
        let bias = match call.floats(2, Layout::Plain) {
            Some(c) if c.len() == n && call.shape(2).last() == Some(&n) => {
                Some(c.iter().map(|x| x * self.beta).collect::<Vec<f32>>())
            }
            None if !call.has(2) => None,
            _ => return Ok(Outcome::Declined),
        };
        if k != k2 || [m, k, n].contains(&0) || self.turned[0] && bias.is_some() {
            return Ok(Outcome::Declined);
        }
        if self.turned[0] {
            return call.make_then_tail(vec![m, n], Layout::Plain, |call, out| {
                outer_sum(&call.machine.threads, &Left::Rows { data: &a, columns: m }, &b, n, out);
            });
        }
        call.make_with_tail(vec![m, n], Layout::Plain, bias.as_deref(), true, |call, finish, out| {
            product(&call.machine.threads, &a, &b, [k, n], self.turned[1], finish, out);
        })
    }
}

/// Of two operands made at run time.
struct MatMul;
impl HostKernel for MatMul {
    fn name(&self) -> &'static str {
        "product"
    }
    fn takes_tail(&self) -> bool {
        true
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        // Matrices one behind the other whose channels lie last are matrices that lie turned.
        let layouts = [0, 1].map(|i| match call.input(i) {
            Some(value) if value.shape().len() == 3 => layout_at_hand(value),
            _ => Layout::Plain,
        });
        let (a_shape, b_shape) = (call.shape(0), call.shape(1));
        let (Some(a), Some(b)) = (call.floats(0, layouts[0]), call.floats(1, layouts[1])) else {
            return Ok(Outcome::Declined);
        };
        let ([a_batch @ .., m, k], [b_batch @ .., k2, n]) = (a_shape.as_slice(), b_shape.as_slice()) else {
            return Ok(Outcome::Declined);
        };
        let (m, k, n) = (*m, *k, *n);
        if k != *k2 {
            return Ok(Outcome::Declined);
        }
        let Some(plan) = batches(a_batch, b_batch) else { return Ok(Outcome::Declined) };
        let (turned, layout) = match layouts {
            [Layout::Plain, Layout::Plain] => (Turned::None, Layout::Plain),
            [Layout::Plain, Layout::ChannelsLast] => (Turned::Right, Layout::Plain),
            [Layout::ChannelsLast, Layout::ChannelsLast] => (Turned::None, Layout::ChannelsLast),
            [Layout::ChannelsLast, Layout::Plain] => {
                // Either operand may give the rows of the result.
                let turned = outer_work(n, m) < outer_work(m, n);
                (Turned::Left, if turned { Layout::ChannelsLast } else { Layout::Plain })
            }
        };
        let left: Vec<usize> = plan.places.iter().map(|p| p.0 * m * k).collect();
        let right: Vec<usize> = plan.places.iter().map(|p| p.1 * k * n).collect();
        let shape = plan.shape.into_iter().chain([m, n]).collect();
        call.make_then_tail(shape, layout, |call, out| {
            let batch = match layout {
                Layout::Plain => Batch { a: &a, b: &b, left: &left, right: &right, m, k, n, turned },
                // The turned result is the product of the turned operands.
                Layout::ChannelsLast => {
                    Batch { a: &b, b: &a, left: &right, right: &left, m: n, k, n: m, turned }
                }
            };
            batch.run(&call.machine.threads, out);
        })
    }
}

/// Which matrix of each operand belongs to each of the result.
struct Batches {
    shape: Vec<usize>,
    places: Vec<(usize, usize)>,
}

/// Broadcasts the leading dimensions; none where they do not fit.
fn batches(a: &[usize], b: &[usize]) -> Option<Batches> {
    let rank = a.len().max(b.len());
    let extent =
        |shape: &[usize], d: usize| if d + shape.len() < rank { 1 } else { shape[d + shape.len() - rank] };
    let mut shape = Vec::with_capacity(rank);
    for d in 0..rank {
        shape.push(match (extent(a, d), extent(b, d)) {
            (1, n) | (n, 1) => n,
            (x, y) if x == y => x,
            _ => return None,
        });
    }
    let count: usize = shape.iter().product();
    let places = (0..count)
        .map(|mut i| {
            let (mut at, mut steps) = ((0, 0), (1, 1));
            for d in (0..rank).rev() {
                let index = i % shape[d];
                i /= shape[d];
                let (x, y) = (extent(a, d), extent(b, d));
                at.0 += if x == 1 { 0 } else { index * steps.0 };
                at.1 += if y == 1 { 0 } else { index * steps.1 };
                steps = (steps.0 * x, steps.1 * y);
            }
            at
        })
        .collect();
    Some(Batches { shape, places })
}
