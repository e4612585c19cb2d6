//! Gradients of softmax, of normalized rows, of attention and of windows of one channel each.

use super::attention::Mask;
use super::conv::Placement;
use super::gemm::{Finish, Product, Rows};
use super::matmul::with_room;
use super::outer::{Left, outer_sum_here};
use super::reduce::PIECE;
use super::scratch::with_scratch;
use super::simd::{Kernel, MAX_LANES, Simd, dispatch};
use super::softmax::softmax_here;
use super::threads::Threads;
use super::window::Windows;

/// Rows in one partial sum over rows; fixed, so that the result depends on no number of threads.
const PART: usize = 64;

/// Replaces what comes back for each row of `len` numbers of a softmax by what that is for its operand,
/// `y * (dy - sum of y * dy)`.
pub fn softmax_back(threads: &Threads, y: &[f32], dy: &mut [f32], len: usize) {
    let rows = (PIECE / len.max(1)).max(1);
    threads.chunks(dy, rows * len, |i, dy| {
        softmax_back_here(&y[i * rows * len..][..dy.len()], dy, len, 1.0);
    });
}

fn softmax_back_here(y: &[f32], dy: &mut [f32], len: usize, factor: f32) {
    dispatch(SoftmaxBack { y, dy, len, factor });
}

struct SoftmaxBack<'a> {
    y: &'a [f32],
    dy: &'a mut [f32],
    len: usize,
    factor: f32,
}
impl Kernel for SoftmaxBack<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let factor = s.splat(self.factor);
        for (y, dy) in self.y.chunks_exact(self.len).zip(self.dy.chunks_exact_mut(self.len)) {
            let mut sum = s.splat(0.0);
            for (y, dy) in y.chunks(S::LANES).zip(dy.chunks(S::LANES)) {
                sum = s.fma(s.load_partial(y), s.load_partial(dy), sum);
            }
            let sum = s.splat(s.sum(sum));
            for (y, dy) in y.chunks(S::LANES).zip(dy.chunks_mut(S::LANES)) {
                let back = s.mul(s.load_partial(y), s.sub(s.load_partial(dy), sum));
                s.store_partial(dy, s.mul(back, factor));
            }
        }
    }
}

/// Rows that were normalized: less their mean where `center`, over their deviation. The length is a multiple of
/// [`MAX_LANES`].
#[derive(Clone, Copy, Debug)]
pub struct NormalizedRows<'a> {
    /// Rows before.
    pub x: &'a [f32],
    /// What comes back for each number.
    pub dy: &'a [f32],
    /// Numbers in a row.
    pub len: usize,
    /// Whether the mean was taken off.
    pub center: bool,
    /// Added to the variance.
    pub epsilon: f32,
}

impl NormalizedRows<'_> {
    /// The gradient of the rows, `scale` being the factor of each place.
    pub fn rows(&self, threads: &Threads, scale: &[f32], out: &mut [f32]) {
        let rows = (PIECE / self.len).max(1);
        threads.chunks(out, rows * self.len, |i, out| {
            dispatch(RowsKernel { of: *self, first: i * rows, scale, out });
        });
    }
    /// The gradient of the factors of each place, and behind it that of what was added where `center`.
    pub fn scale(&self, threads: &Threads, out: &mut [f32]) {
        let parts = (self.x.len() / self.len).div_ceil(PART);
        let width = out.len();
        let mut partial = vec![0.0; parts * width];
        threads.chunks(&mut partial, width, |i, out| {
            dispatch(ScaleKernel { of: *self, first: i * PART, out });
        });
        out.fill(0.0);
        for part in partial.chunks_exact(width) {
            out.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
        }
    }
    /// Mean and inverse deviation of a row.
    #[inline(always)]
    fn moments<S: Simd>(&self, s: S, row: &[f32]) -> (S::V, S::V) {
        let share = 1.0 / self.len as f32;
        let mut mean = s.splat(0.0);
        if self.center {
            for x in row.chunks_exact(S::LANES) {
                mean = s.add(mean, s.load(x));
            }
            mean = s.splat(s.sum(mean) * share);
        }
        let mut square = s.splat(0.0);
        for x in row.chunks_exact(S::LANES) {
            let distance = s.sub(s.load(x), mean);
            square = s.fma(distance, distance, square);
        }
        (mean, s.splat(1.0 / (s.sum(square) * share + self.epsilon).sqrt()))
    }
}

struct RowsKernel<'a> {
    of: NormalizedRows<'a>,
    first: usize,
    scale: &'a [f32],
    out: &'a mut [f32],
}
impl Kernel for RowsKernel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { of, first, scale, out } = self;
        let len = of.len;
        let share = 1.0 / len as f32;
        for (r, out) in out.chunks_exact_mut(len).enumerate() {
            let (x, dy) = (&of.x[(first + r) * len..][..len], &of.dy[(first + r) * len..][..len]);
            let (mean, factor) = of.moments(s, x);
            let (mut sum, mut product) = (s.splat(0.0), s.splat(0.0));
            for i in (0..len).step_by(S::LANES) {
                let scaled = s.mul(s.load(&dy[i..]), s.load(&scale[i..]));
                let normal = s.mul(s.sub(s.load(&x[i..]), mean), factor);
                sum = s.add(sum, scaled);
                product = s.fma(scaled, normal, product);
            }
            let sum = s.splat(if of.center { s.sum(sum) * share } else { 0.0 });
            let product = s.splat(s.sum(product) * share);
            for i in (0..len).step_by(S::LANES) {
                let scaled = s.mul(s.load(&dy[i..]), s.load(&scale[i..]));
                let normal = s.mul(s.sub(s.load(&x[i..]), mean), factor);
                let lost = s.fma(normal, product, sum);
                s.store(&mut out[i..], s.mul(s.sub(scaled, lost), factor));
            }
        }
    }
}

struct ScaleKernel<'a> {
    of: NormalizedRows<'a>,
    first: usize,
    out: &'a mut [f32],
}
impl Kernel for ScaleKernel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { of, first, out } = self;
        let len = of.len;
        let (products, sums) = out.split_at_mut(len);
        let part = |of: &'_ [f32]| first * len..((first + PART) * len).min(of.len());
        let (x, dy) = (&of.x[part(of.x)], &of.dy[part(of.dy)]);
        for (x, dy) in x.chunks_exact(len).zip(dy.chunks_exact(len)) {
            let (mean, factor) = of.moments(s, x);
            for i in (0..len).step_by(S::LANES) {
                let g = s.load(&dy[i..]);
                let normal = s.mul(s.sub(s.load(&x[i..]), mean), factor);
                let product = s.fma(g, normal, s.load(&products[i..]));
                s.store(&mut products[i..], product);
                if of.center {
                    let sum = s.add(s.load(&sums[i..]), g);
                    s.store(&mut sums[i..], sum);
                }
            }
        }
    }
}

/// Attention, for its gradient; the weights are computed anew. Operand `o` of its head `h` of batch `b` starts at
/// `b * steps[o][0] + h * steps[o][1]`, its rows are `steps[o][2]` apart.
#[derive(Clone, Copy, Debug)]
pub struct AttentionBack<'a> {
    /// Queries, keys, values, what comes back.
    pub operands: [&'a [f32]; 4],
    /// Steps of each.
    pub steps: [[usize; 3]; 4],
    /// Heads of queries of a batch.
    pub heads: usize,
    /// Heads of queries that share a head of keys and values.
    pub share: usize,
    /// Queries of a head.
    pub queries: usize,
    /// Keys of a head.
    pub keys: usize,
    /// Numbers in a query and a key.
    pub size: usize,
    /// Numbers in a value.
    pub v_size: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Added to the scores.
    pub mask: Option<Mask<'a>>,
    /// Whether a query sees no key behind it.
    pub causal: bool,
    /// Keys that count, for each batch.
    pub counted: Option<&'a [usize]>,
}

impl AttentionBack<'_> {
    /// Numbers that come out for a head of queries.
    pub fn width(&self) -> usize {
        (self.queries + self.keys) * self.size + self.keys * self.v_size
    }
    /// Computes, for each head of queries of each batch, the gradients of queries, keys and values behind each other, the
    /// latter without those of heads that share them.
    pub fn run(&self, threads: &Threads, out: &mut [f32]) {
        threads.chunks(out, self.width(), |i, out| self.head(i, out));
    }
    fn head(&self, i: usize, out: &mut [f32]) {
        let Self { queries, keys, size, v_size, .. } = *self;
        let (batch, head) = (i / self.heads, i % self.heads);
        let part = |o: usize| {
            let head = if matches!(o, 1 | 2) { head / self.share } else { head };
            &self.operands[o][batch * self.steps[o][0] + head * self.steps[o][1]..]
        };
        let [q, k, v, dy] = [0, 1, 2, 3].map(part);
        let [q_step, k_step, v_step, y_step] = self.steps.map(|s| s[2]);
        let (dq, rest) = out.split_at_mut(queries * size);
        let (dk, dv) = rest.split_at_mut(keys * size);
        let times = |a: &[f32], stride: usize, packed: &super::gemm::Packed, out: &mut [f32]| {
            let packed = std::slice::from_ref(packed);
            let rows = Rows::Dense { data: a, stride };
            Product { rows, segments: 1, packed, finish: Finish::default() }.run_here(out);
        };
        with_scratch(2 * queries * keys, |scores| {
            let (weights, ds) = scores.split_at_mut(queries * keys);
            with_room(size, keys, |packed| {
                packed.repack_transposed(k, k_step);
                times(q, q_step, packed, weights);
            });
            for (row, weights) in weights.chunks_exact_mut(keys).enumerate() {
                weights.iter_mut().for_each(|x| *x *= self.scale);
                let mut seen = if self.causal { row + 1 } else { keys };
                seen = seen.min(self.counted.map_or(keys, |counted| counted[batch]));
                if let Some(mask) = &self.mask {
                    let [of_batch, of_head, of_query] = mask.steps;
                    let added = &mask.data[batch * of_batch + head * of_head + row * of_query..];
                    weights.iter_mut().zip(&added[..mask.keys]).for_each(|(x, added)| *x += added);
                    seen = seen.min(mask.keys);
                }
                weights[seen.min(keys)..].fill(f32::NEG_INFINITY);
            }
            softmax_here(weights, keys, false);
            with_room(v_size, keys, |packed| {
                packed.repack_transposed(v, v_step);
                times(dy, y_step, packed, ds);
            });
            softmax_back_here(weights, ds, keys, self.scale);
            with_room(keys, size, |packed| {
                packed.repack_rows(k, k_step);
                times(ds, keys, packed, dq);
            });
            // What comes of all queries, rows one after the other.
            with_scratch(queries * size.max(v_size), |rows| {
                for (from, step, width, left, to) in
                    [(q, q_step, size, &*ds, dk), (dy, y_step, v_size, &*weights, dv)]
                {
                    let rows = &mut rows[..queries * width];
                    for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                        row.copy_from_slice(&from[i * step..][..width]);
                    }
                    outer_sum_here(&Left::Rows { data: left, columns: keys }, rows, width, to);
                }
            });
        });
    }
}

/// The gradient of the weights of a convolution with a window of its own for each channel, over channels-last images.
#[derive(Clone, Copy, Debug)]
pub struct DepthwiseBack<'a> {
    /// Images.
    pub data: &'a [f32],
    /// What comes back for each place of the window.
    pub given: &'a [f32],
    /// The windows.
    pub windows: Windows,
}

impl DepthwiseBack<'_> {
    /// Computes, for each tap, that of all channels.
    pub fn run(&self, threads: &Threads, out: &mut [f32]) {
        threads.chunks(out, self.windows.channels, |tap, out| dispatch(DepthwiseTap { of: *self, tap, out }));
    }
}

struct DepthwiseTap<'a> {
    of: DepthwiseBack<'a>,
    tap: usize,
    out: &'a mut [f32],
}
impl Kernel for DepthwiseTap<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { of: DepthwiseBack { data, given, windows }, tap, out } = self;
        let Windows { channels, place, taps, stride, dilation } = windows;
        let Placement { size: [height, width], out: [out_height, out_width], pad } = place;
        let (down, across) = (tap / taps[1] * dilation[0], tap % taps[1] * dilation[1]);
        out.fill(0.0);
        for (at, given) in given.chunks_exact(channels).enumerate() {
            let (image, y, x) = (at / out_width / out_height, at / out_width % out_height, at % out_width);
            let row = (y * stride[0] + down).wrapping_sub(pad[0]);
            let column = (x * stride[1] + across).wrapping_sub(pad[1]);
            if row >= height || column >= width {
                continue;
            }
            let pixel = &data[((image * height + row) * width + column) * channels..][..channels];
            let vectors = pixel.chunks(S::LANES).zip(given.chunks(S::LANES));
            for ((pixel, given), sum) in vectors.zip(out.chunks_mut(S::LANES)) {
                let more = s.fma(s.load_partial(pixel), s.load_partial(given), s.load_partial(sum));
                s.store_partial(sum, more);
            }
        }
    }
}

/// Numbers that [`NormalizedRows::len`] is a multiple of.
pub const ROW_MULTIPLE: usize = MAX_LANES;
