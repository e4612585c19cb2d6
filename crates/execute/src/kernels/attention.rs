//! Attention of many heads: scaled products of queries with keys, softmax, sums of values.
//!
//! Heads are parts of the operands: the numbers of one position of one head follow each other, and [`Heads`] says where
//! they start. Scores are held for some queries of a head at a time.

use super::gemm::{Finish, Packed, Product, Rows};
use super::matmul::with_room;
use super::reduce::{Reduction, row_total};
use super::scratch::with_scratch;
use super::simd::{Kernel, Simd, dispatch};
use super::softmax::softmax_here;
use super::threads::{Block, Threads};

/// Numbers laid out by batch, head and position.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// Numbers.
    pub data: &'a [f32],
    /// From a batch, a head and a position to the next.
    pub steps: [usize; 3],
}

impl<'a> Heads<'a> {
    /// From the first position of a head on.
    fn of(&self, batch: usize, head: usize) -> &'a [f32] {
        &self.data[batch * self.steps[0] + head * self.steps[1]..]
    }
}

/// What is added to the scores, broadcast over batches, heads and queries; the keys follow each other.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    /// Numbers.
    pub data: &'a [f32],
    /// From a batch, a head and a query to the next; 0 repeats.
    pub steps: [usize; 3],
    /// Keys from here on are not seen.
    pub keys: usize,
}

/// `softmax(cap(scale * q k^T + mask)) v`.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Queries.
    pub q: Heads<'a>,
    /// Keys.
    pub k: Heads<'a>,
    /// Values.
    pub v: Heads<'a>,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of queries that share a head of keys and values.
    pub share: usize,
    /// Queries of a head.
    pub queries: usize,
    /// Keys of a head.
    pub keys: usize,
    /// Numbers in a query or key.
    pub width: usize,
    /// Numbers in a value.
    pub value_width: usize,
    /// Factor of the products.
    pub scale: f32,
    /// Added to the scores.
    pub mask: Option<Mask<'a>>,
    /// Keys before the first query, where queries see only keys up to their own.
    pub causal: Option<usize>,
    /// Keys that count, for each batch.
    pub counted: Option<&'a [usize]>,
    /// Scores `s` become `cap * tanh(s / cap)`.
    pub cap: Option<f32>,
    /// Whether the result lies by batch, head and position, rather than by batch, position and head.
    pub by_head: bool,
}

/// Queries whose scores are held at a time.
const QUERIES: usize = 48;
/// Numbers of queries below which the products are taken one by one: packing would cost more than it saves.
const FEW: usize = 5;

impl Attention<'_> {
    /// Computes all heads into `out`.
    pub fn run(&self, threads: &Threads, out: &mut [f32]) {
        if out.is_empty() {
            return;
        }
        let across = if self.by_head { 1 } else { self.heads };
        let cuts: Vec<usize> = (0..=across).map(|h| h * self.value_width).collect();
        threads.blocks(out, across * self.value_width, self.queries, &cuts, |row, column, block| {
            let at = row / self.queries;
            let (batch, head) = if self.by_head {
                (at / self.heads, at % self.heads)
            } else {
                (at, column / self.value_width)
            };
            self.head(batch, head, block);
        });
    }
    fn head(&self, batch: usize, head: usize, out: &mut Block<'_>) {
        let (k, v) = (self.k.of(batch, head / self.share), self.v.of(batch, head / self.share));
        let (k_step, v_step) = (self.k.steps[2], self.v.steps[2]);
        if self.queries < FEW {
            return dispatch(FewQueries { of: self, batch, head, k, v, out });
        }
        with_room(self.width, self.keys, |keys| {
            keys.repack_transposed(k, k_step);
            with_room(self.keys, self.value_width, |values| {
                values.repack_rows(v, v_step);
                self.by_products(batch, head, keys, values, out);
            });
        });
    }
    fn by_products(&self, batch: usize, head: usize, keys: &Packed, values: &Packed, out: &mut Block<'_>) {
        let q = self.q.of(batch, head);
        with_scratch(QUERIES.min(self.queries) * self.keys, |scores| {
            for first in (0..self.queries).step_by(QUERIES) {
                let rows = QUERIES.min(self.queries - first);
                let scores = &mut scores[..rows * self.keys];
                if self.keys > 0 {
                    Self::product(&q[first * self.q.steps[2]..], self.q.steps[2], keys).run_here(scores);
                    self.weigh(batch, head, first, scores);
                }
                Self::product(scores, self.keys, values).run_into(&mut out.rows_of(first, rows));
            }
        });
    }
    /// By columns of dense rows.
    fn product<'b>(data: &'b [f32], stride: usize, packed: &'b Packed) -> Product<'b> {
        let rows = Rows::Dense { data, stride };
        Product { rows, segments: 1, packed: std::slice::from_ref(packed), finish: Finish::default() }
    }
    /// From products to weights.
    fn weigh(&self, batch: usize, head: usize, first: usize, scores: &mut [f32]) {
        dispatch(Score { of: self, batch, head, first, scores });
        softmax_here(scores, self.keys, false);
    }
}

/// Scale, mask and cap of the scores of some queries.
struct Score<'a> {
    of: &'a Attention<'a>,
    batch: usize,
    head: usize,
    /// The first of the queries.
    first: usize,
    scores: &'a mut [f32],
}
impl Kernel for Score<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { of, batch, head, first, scores } = self;
        let scale = s.splat(of.scale);
        for (r, row) in scores.chunks_exact_mut(of.keys).enumerate() {
            let mut seen = of.causal.map_or(row.len(), |before| before + first + r + 1);
            seen = seen.min(of.counted.map_or(row.len(), |counted| counted[batch])).min(row.len());
            match &of.mask {
                None => {
                    for to in row.chunks_mut(S::LANES) {
                        s.store_partial(to, s.mul(s.load_partial(to), scale));
                    }
                }
                Some(mask) => {
                    seen = seen.min(mask.keys);
                    let start = batch * mask.steps[0] + head * mask.steps[1] + (first + r) * mask.steps[2];
                    let added = &mask.data[start..][..mask.keys];
                    for (to, added) in row[..mask.keys].chunks_mut(S::LANES).zip(added.chunks(S::LANES)) {
                        s.store_partial(to, s.fma(s.load_partial(to), scale, s.load_partial(added)));
                    }
                }
            }
            row[seen..].fill(f32::NEG_INFINITY);
            if let Some(cap) = of.cap {
                for to in row.chunks_mut(S::LANES) {
                    let x = s.div(s.load_partial(to), s.splat(cap));
                    s.store_partial(to, s.mul(super::math::tanh(s, x), s.splat(cap)));
                }
            }
        }
    }
}

/// A head with few queries: dot products with keys as they lie, then sums of values as they lie.
struct FewQueries<'a, 'b, 'c> {
    of: &'a Attention<'a>,
    batch: usize,
    head: usize,
    k: &'a [f32],
    v: &'a [f32],
    out: &'b mut Block<'c>,
}
impl Kernel for FewQueries<'_, '_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { of, batch, head, k, v, out } = self;
        let q = of.q.of(batch, head);
        let mut scores = vec![0.0; of.keys];
        for query in 0..of.queries {
            let q = &q[query * of.q.steps[2]..][..of.width];
            for (j, score) in scores.iter_mut().enumerate() {
                let key = &k[j * of.k.steps[2]..][..of.width];
                let mut sums = s.splat(0.0);
                for (q, key) in q.chunks(S::LANES).zip(key.chunks(S::LANES)) {
                    sums = s.fma(s.load_partial(q), s.load_partial(key), sums);
                }
                *score = s.sum(sums);
            }
            if of.keys > 0 {
                Score { of, batch, head, first: query, scores: &mut scores }.run(s);
            }
            if of.keys > 0 {
                let largest = s.splat(row_total(s, &scores, Reduction::Max));
                for to in scores.chunks_mut(S::LANES) {
                    s.store_partial(to, super::math::exp(s, s.sub(s.load_partial(to), largest)));
                }
            }
            let factor = s.splat(1.0 / row_total(s, &scores, Reduction::Sum));
            let out = out.row(query);
            for (c, to) in out.chunks_mut(S::LANES).enumerate() {
                let mut sum = s.splat(0.0);
                for (j, &weight) in scores.iter().enumerate() {
                    let value = &v[j * of.v.steps[2] + c * S::LANES..][..to.len()];
                    sum = s.fma(s.splat(weight), s.load_partial(value), sum);
                }
                s.store_partial(to, s.mul(sum, factor));
            }
        }
    }
}
