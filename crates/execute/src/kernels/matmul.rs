//! Products of batches of matrices, where both operands are made at run time.

use super::gemm::{Finish, Packed, Product, Rows};
use super::outer::{Left, outer_sum, outer_sum_here};
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
    /// How they lie.
    pub turned: Turned,
}

/// Which operands of a product lie the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// Neither.
    None,
    /// The left, `[k, m]`.
    Left,
    /// The right, `[n, k]`.
    Right,
}

/// Computes the product of `[m, k]` and a matrix `[k, n]`, or `[n, k]` where it is `transposed`, into `out` of `[m, n]`.
pub fn product(
    threads: &Threads,
    a: &[f32],
    b: &[f32],
    [k, n]: [usize; 2],
    transposed: bool,
    finish: Finish<'_>,
    out: &mut [f32],
) {
    with_room(k, n, |packed| {
        if transposed {
            packed.repack_transposed(b, k);
        } else {
            packed.repack_rows(b, n);
        }
        let packed = std::slice::from_ref(packed);
        Product { rows: Rows::Dense { data: a, stride: k }, segments: 1, packed, finish }.run(threads, out);
    });
}

thread_local!(static ROOM: RefCell<Vec<Packed>> = const { RefCell::new(Vec::new()) });

/// Calls `f` with room for an operand of that size, kept from one call to the next.
pub(super) fn with_room<T>(depth: usize, columns: usize, f: impl FnOnce(&mut Packed) -> T) -> T {
    let mut room = ROOM.with_borrow_mut(Vec::pop).unwrap_or_else(|| Packed::room(0, 0));
    room.reshape(depth, columns);
    let result = f(&mut room);
    ROOM.with_borrow_mut(|rooms| rooms.push(room));
    result
}

impl Batch<'_> {
    fn pack(&self, packed: &mut Packed, at: usize) {
        let b = &self.b[at..][..self.k * self.n];
        match self.turned {
            Turned::Right => packed.repack_transposed(b, self.k),
            _ => packed.repack_rows(b, self.n),
        }
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
        let apart = self.left.len() >= 2 * threads.count() || m * k * n < 1 << 16;
        if self.turned == Turned::Left {
            let operands = |i: usize| {
                let left = Left::Rows { data: &self.a[self.left[i]..][..k * m], columns: m };
                (left, &self.b[self.right[i]..][..k * n])
            };
            if apart {
                return threads.chunks(out, m * n, |i, out| {
                    let (left, right) = operands(i);
                    outer_sum_here(&left, right, n, out);
                });
            }
            for (i, out) in out.chunks_exact_mut(m * n).enumerate() {
                let (left, right) = operands(i);
                outer_sum(threads, &left, right, n, out);
            }
            return;
        }
        let follows = |starts: &[usize], step: usize| starts.windows(2).all(|w| w[1] == w[0] + step);
        if follows(self.right, 0) && follows(self.left, m * k) {
            // One right matrix for all: one tall product.
            return with_room(k, n, |packed| {
                self.pack(packed, self.right[0]);
                self.product(std::slice::from_ref(packed), self.left[0]).run(threads, out);
            });
        }
        if apart {
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
