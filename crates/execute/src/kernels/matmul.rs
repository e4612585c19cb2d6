//! Products of batches of matrices, and attention, where both operands are made at run time.

use super::buffer::Buffer;
use super::gemm::{Finish, Packed, Product, Rows};
use super::reduce::softmax_here;
use super::threads::Threads;
use std::cell::RefCell;

/// A batch of products `[m, k] x [k, n]`; batch `i` reads from `left[i]` and `right[i]` on.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Left matrices.
    pub a: &'a [f32],
    /// Right matrices.
    pub b: &'a [f32],
    /// Where each left matrix starts.
    pub left: &'a [usize],
    /// Where each right matrix starts.
    pub right: &'a [usize],
    /// Rows of the left.
    pub m: usize,
    /// Columns of the left.
    pub k: usize,
    /// Columns of the right.
    pub n: usize,
    /// Whether the right ones lie `[n, k]`.
    pub transposed: bool,
}

thread_local!(static ROOM: RefCell<Vec<Packed>> = const { RefCell::new(Vec::new()) });

/// Calls `f` with room for an operand of that size, kept from one call to the next.
fn with_room<T>(depth: usize, columns: usize, f: impl FnOnce(&mut Packed) -> T) -> T {
    let mut room = ROOM.with_borrow_mut(Vec::pop).unwrap_or_else(|| Packed::room(0, 0));
    room.reshape(depth, columns);
    let result = f(&mut room);
    ROOM.with_borrow_mut(|rooms| rooms.push(room));
    result
}

impl Batch<'_> {
    fn pack(&self, packed: &mut Packed, at: usize) {
        let b = &self.b[at..][..self.k * self.n];
        if self.transposed { packed.repack_transposed(b) } else { packed.repack_rows(b) }
    }
    fn product<'b>(&'b self, packed: &'b [Packed], at: usize) -> Product<'b> {
        let rows = Rows::Dense { data: &self.a[at..], stride: self.k };
        Product { rows, segments: 1, packed, finish: Finish::default() }
    }
    /// Computes all of the batch into `out`.
    pub fn run(&self, threads: &Threads, out: &mut [f32]) {
        let (m, k, n) = (self.m, self.k, self.n);
        if out.is_empty() {
            return;
        }
        if k == 0 {
            return out.fill(0.0);
        }
        let follows = |starts: &[usize], step: usize| starts.windows(2).all(|w| w[1] == w[0] + step);
        if follows(self.right, 0) && follows(self.left, m * k) {
            // One right matrix for all: one tall product.
            return with_room(k, n, |packed| {
                self.pack(packed, self.right[0]);
                self.product(std::slice::from_ref(packed), self.left[0]).run(threads, out);
            });
        }
        if self.left.len() >= 2 * threads.count() || m * k * n < 1 << 16 {
            threads.chunks(out, m * n, |i, out| {
                with_room(k, n, |packed| {
                    self.pack(packed, self.right[i]);
                    self.product(std::slice::from_ref(packed), self.left[i]).run_here(out);
                });
            });
            return;
        }
        for (i, out) in out.chunks_exact_mut(m * n).enumerate() {
            with_room(k, n, |packed| {
                self.pack(packed, self.right[i]);
                self.product(std::slice::from_ref(packed), self.left[i]).run(threads, out);
            });
        }
    }
}

/// `softmax(scale * q k^T + mask) v` for each head. `q` is `[heads, queries, width]`, `k` `[heads / share, keys, width]`,
/// `v` `[heads / share, keys, value_width]`, `out` `[heads, queries, value_width]`.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// Queries.
    pub q: &'a [f32],
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
    /// Number of queries of a head.
    pub queries: usize,
    /// Number of keys of a head.
    pub keys: usize,
    /// Numbers in a query or key.
    pub width: usize,
    /// Numbers in a value.
    pub value_width: usize,
    /// Heads that share keys and values.
    pub share: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Changes the scores of some queries of a head: `mask(head, first query, scores)`.
    pub mask: Option<&'a (dyn Fn(usize, usize, &mut [f32]) + Sync)>,
}

/// Queries whose scores are held at a time.
const QUERIES: usize = 48;

impl Attention<'_> {
    /// Computes all heads into `out`.
    pub fn run(&self, threads: &Threads, out: &mut [f32]) {
        let head_len = self.queries * self.value_width;
        if head_len == 0 {
            return;
        }
        threads.chunks(out, head_len, |head, out| {
            let shared = head / self.share;
            let q = &self.q[head * self.queries * self.width..][..self.queries * self.width];
            let k = &self.k[shared * self.keys * self.width..][..self.keys * self.width];
            let v = &self.v[shared * self.keys * self.value_width..][..self.keys * self.value_width];
            with_room(self.width, self.keys, |keys| {
                keys.repack_transposed(k);
                with_room(self.keys, self.value_width, |values| {
                    values.repack_rows(v);
                    self.head(head, q, keys, values, out);
                });
            });
        });
    }
    fn head(&self, head: usize, q: &[f32], keys: &Packed, values: &Packed, out: &mut [f32]) {
        let mut scores = Buffer::zeros(QUERIES.min(self.queries) * self.keys);
        for (i, out) in out.chunks_mut(QUERIES * self.value_width).enumerate() {
            let rows = out.len() / self.value_width;
            let scores = &mut scores[..rows * self.keys];
            let q = &q[i * QUERIES * self.width..];
            let product = |data, stride, packed| Product {
                rows: Rows::Dense { data, stride },
                segments: 1,
                packed,
                finish: Finish::default(),
            };
            product(q, self.width, std::slice::from_ref(keys)).run_here(scores);
            scores.iter_mut().for_each(|x| *x *= self.scale);
            if let Some(mask) = self.mask {
                mask(head, i * QUERIES, scores);
            }
            softmax_here(scores, self.keys, false);
            product(scores, self.keys, std::slice::from_ref(values)).run_here(out);
        }
    }
}
