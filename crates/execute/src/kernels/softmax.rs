//! Softmax of rows.

use super::math;
use super::reduce::{PIECE, Reduction, row_total};
use super::simd::{Kernel, MAX_LANES, Simd, dispatch};
use super::threads::Threads;

/// Softmax of every row of `len` numbers in place, or its logarithm.
pub fn softmax(threads: &Threads, data: &mut [f32], len: usize, logarithm: bool) {
    let rows = (PIECE / len.max(1)).max(1);
    threads.chunks(data, rows * len, |_, rows| softmax_here(rows, len, logarithm));
}

/// As [`softmax`], on this thread.
pub fn softmax_here(rows: &mut [f32], len: usize, logarithm: bool) {
    dispatch(SoftmaxKernel { rows, len, logarithm });
}

struct SoftmaxKernel<'a> {
    rows: &'a mut [f32],
    len: usize,
    logarithm: bool,
}
impl Kernel for SoftmaxKernel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for row in self.rows.chunks_exact_mut(self.len) {
            let largest = s.splat(row_total(s, row, Reduction::Max));
            let mut sums = s.splat(0.0);
            if self.logarithm {
                let mut chunks = row.chunks_exact(S::LANES);
                for chunk in &mut chunks {
                    sums = s.add(sums, math::exp(s, s.sub(s.load(chunk), largest)));
                }
                let rest = chunks.remainder();
                let mut tail = [0.0; MAX_LANES];
                s.store(&mut tail, math::exp(s, s.sub(s.load_partial(rest), largest)));
                tail[rest.len()..].fill(0.0);
                let total = s.sum(sums) + tail.iter().sum::<f32>();
                let shift = s.add(largest, s.splat(total.ln()));
                for chunk in row.chunks_mut(S::LANES) {
                    s.store_partial(chunk, s.sub(s.load_partial(chunk), shift));
                }
                continue;
            }
            let mut rest_total = 0.0;
            for chunk in row.chunks_mut(S::LANES) {
                let e = math::exp(s, s.sub(s.load_partial(chunk), largest));
                s.store_partial(chunk, e);
                if chunk.len() == S::LANES {
                    sums = s.add(sums, e);
                } else {
                    rest_total = chunk.iter().sum();
                }
            }
            let factor = s.splat(1.0 / (s.sum(sums) + rest_total));
            for chunk in row.chunks_mut(S::LANES) {
                s.store_partial(chunk, s.mul(s.load_partial(chunk), factor));
            }
        }
    }
}
