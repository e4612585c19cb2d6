//! Convolution in which every channel has a window of its own, over channels-last images.
//!
//! The window's weights of one vector of channels stay in registers while it moves along a row. Each element is summed in
//! order of the taps, starting from the bias, by one fused multiply-add each; taps outside the image add zero.

use super::gemm::Finish;
use super::simd::{Kernel, Simd, dispatch};
use super::threads::{Block, Threads};

/// What is convolved with what. `weights` lie tap by tap: `[taps down][taps across][channels]`.
#[derive(Clone, Copy, Debug)]
pub struct Depthwise<'a> {
    /// Images, each `height` x `width` x `channels`.
    pub data: &'a [f32],
    /// Weights.
    pub weights: &'a [f32],
    /// Channels.
    pub channels: usize,
    /// Input height.
    pub height: usize,
    /// Input width.
    pub width: usize,
    /// Output height.
    pub out_height: usize,
    /// Output width.
    pub out_width: usize,
    /// Taps down and across.
    pub taps: [usize; 2],
    /// Step down and across.
    pub stride: [usize; 2],
    /// Zeros above and left.
    pub pad: [usize; 2],
    /// Distance of taps down and across.
    pub dilation: [usize; 2],
}

/// Numbers of the result in a piece of work.
const PIECE: usize = 16 << 10;

impl Depthwise<'_> {
    /// Computes the images of `out` on all threads.
    pub fn run(&self, threads: &Threads, finish: &Finish<'_>, out: &mut [f32]) {
        let row_len = self.out_width * self.channels;
        if out.is_empty() {
            return;
        }
        let rows = (PIECE / row_len).clamp(1, self.out_height);
        let zeros = vec![0.0; self.width * self.channels];
        threads.chunks(out, rows * row_len, |i, piece| {
            for (r, row) in piece.chunks_mut(row_len).enumerate() {
                dispatch(Row { of: self, finish, zeros: &zeros, row: i * rows + r, out: row });
            }
            if let Some(then) = finish.then {
                then(i * rows * self.out_width, 0, &mut Block::of(piece, self.channels));
            }
        });
    }
}

struct Row<'a> {
    of: &'a Depthwise<'a>,
    finish: &'a Finish<'a>,
    zeros: &'a [f32],
    row: usize,
    out: &'a mut [f32],
}

impl Kernel for Row<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let of = self.of;
        match (of.taps, of.stride[1], of.dilation) {
            ([3, 3], 1, [1, 1]) => self.all::<S, 3, 3, 1, 4>(s),
            ([3, 3], 2, [1, 1]) => self.all::<S, 3, 3, 2, 4>(s),
            ([5, 5], 1, [1, 1]) if const { S::LANES == 16 } => self.all::<S, 5, 5, 1, 4>(s),
            ([5, 5], 2, [1, 1]) if const { S::LANES == 16 } => self.all::<S, 5, 5, 2, 3>(s),
            _ => {
                for c in (0..of.channels).step_by(S::LANES) {
                    for x in 0..of.out_width {
                        self.one(s, c, x);
                    }
                }
            }
        }
    }
}

impl Row<'_> {
    /// The input row under tap row `ky` of output row `row`; zeros outside the image.
    #[inline(always)]
    fn input<'a>(of: &'a Depthwise<'_>, zeros: &'a [f32], row: usize, ky: usize) -> &'a [f32] {
        let (image, y) = (row / of.out_height, row % of.out_height);
        let from = (y * of.stride[0] + ky * of.dilation[0]).wrapping_sub(of.pad[0]);
        let len = of.width * of.channels;
        if from < of.height { &of.data[(image * of.height + from) * len..][..len] } else { zeros }
    }
    /// Starting value of channels from `c`.
    #[inline(always)]
    fn start<S: Simd>(&self, s: S, c: usize, lanes: usize) -> S::V {
        self.finish.bias.map_or(s.splat(0.0), |bias| s.load_partial(&bias[c..c + lanes]))
    }
    #[inline(always)]
    fn clamped<S: Simd>(&self, s: S, v: S::V) -> S::V {
        match self.finish.clamp {
            Some((least, largest)) => s.min(s.splat(largest), s.max(s.splat(least), v)),
            None => v,
        }
    }
    /// One vector of channels of one pixel, for any window.
    #[inline(always)]
    fn one<S: Simd>(&mut self, s: S, c: usize, x: usize) {
        let of = self.of;
        let lanes = S::LANES.min(of.channels - c);
        let mut sum = self.start(s, c, lanes);
        for ky in 0..of.taps[0] {
            let row = Self::input(of, self.zeros, self.row, ky);
            for kx in 0..of.taps[1] {
                let column = (x * of.stride[1] + kx * of.dilation[1]).wrapping_sub(of.pad[1]);
                if column < of.width {
                    let weight =
                        s.load_partial(&of.weights[(ky * of.taps[1] + kx) * of.channels + c..][..lanes]);
                    sum = s.fma(s.load_partial(&row[column * of.channels + c..][..lanes]), weight, sum);
                }
            }
        }
        let sum = self.clamped(s, sum);
        s.store_partial(&mut self.out[x * of.channels + c..][..lanes], sum);
    }
    /// The row, `T` pixels at a time where the window lies inside.
    #[inline(always)]
    fn all<S: Simd, const KH: usize, const KW: usize, const STEP: usize, const T: usize>(&mut self, s: S) {
        let of = self.of;
        // Pixels whose window lies inside: x * STEP >= pad and x * STEP + KW <= width + pad.
        let first = of.pad[1].div_ceil(STEP).min(of.out_width);
        let end = ((of.width + of.pad[1] + STEP).saturating_sub(KW) / STEP).clamp(first, of.out_width);
        for c in (0..of.channels).step_by(S::LANES) {
            for x in (0..first).chain(end..of.out_width) {
                self.one(s, c, x);
            }
            if of.channels - c >= S::LANES {
                self.inside::<S, KH, KW, STEP, T>(s, c, first, end);
            } else {
                for x in first..end {
                    self.one(s, c, x);
                }
            }
        }
    }
    #[inline(always)]
    fn inside<S: Simd, const KH: usize, const KW: usize, const STEP: usize, const T: usize>(
        &mut self,
        s: S,
        c: usize,
        first: usize,
        end: usize,
    ) {
        let of = self.of;
        let channels = of.channels;
        let mut weights = [[s.splat(0.0); KW]; KH];
        for (ky, row) in weights.iter_mut().enumerate() {
            for (kx, weight) in row.iter_mut().enumerate() {
                *weight = s.load(&of.weights[(ky * KW + kx) * channels + c..]);
            }
        }
        let start = self.start(s, c, S::LANES);
        let mut rows: [&[f32]; KH] = [&[]; KH];
        for (ky, row) in rows.iter_mut().enumerate() {
            *row = Self::input(of, self.zeros, self.row, ky);
        }
        let mut x = first;
        while x < end {
            // The last tile goes back over pixels already done: they come out the same.
            if x + T > end {
                if end - first < T {
                    for x in x..end {
                        self.one(s, c, x);
                    }
                    return;
                }
                x = end - T;
            }
            let mut sums = [start; T];
            let left = (x * STEP - of.pad[1]) * channels + c;
            for ky in 0..KH {
                let row = &rows[ky][left..];
                for column in 0..(T - 1) * STEP + KW {
                    let value = s.load(&row[column * channels..]);
                    for (t, sum) in sums.iter_mut().enumerate() {
                        if column >= t * STEP && column < t * STEP + KW {
                            *sum = s.fma(value, weights[ky][column - t * STEP], *sum);
                        }
                    }
                }
            }
            for (t, sum) in sums.into_iter().enumerate() {
                let sum = self.clamped(s, sum);
                s.store(&mut self.out[(x + t) * channels + c..], sum);
            }
            x += T;
        }
    }
}
