//! Pooling and resizing of channels-last images.

use super::conv::Placement;
use super::simd::{Kernel, Simd, dispatch};
use super::threads::Threads;

/// Windows on channels-last images, each over one channel.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// Channels.
    pub channels: usize,
    /// Where they are put.
    pub place: Placement,
    /// Taps down and across.
    pub taps: [usize; 2],
    /// Step down and across.
    pub stride: [usize; 2],
    /// Distance of taps down and across.
    pub dilation: [usize; 2],
}

/// What a pooling window gives.
#[derive(Clone, Debug)]
pub enum Pooling {
    /// The largest.
    Max,
    /// The sum over the product of what row `y` and column `x` count.
    Average(Vec<f32>, Vec<f32>),
}

/// Pooling of images.
#[derive(Clone, Debug)]
pub struct Pool {
    /// What a window gives.
    pub kind: Pooling,
    /// The windows.
    pub windows: Windows,
}

impl Pool {
    /// Pools the images of `data` into `out`.
    pub fn run(&self, threads: &Threads, data: &[f32], out: &mut [f32]) {
        let row_len = self.windows.place.out[1] * self.windows.channels;
        if out.is_empty() {
            return;
        }
        let rows = (8192 / row_len).max(1);
        threads.chunks(out, rows * row_len, |i, piece| {
            for (r, out) in piece.chunks_mut(row_len).enumerate() {
                dispatch(PoolRow { pool: self, data, row: i * rows + r, out });
            }
        });
    }
}

struct PoolRow<'a> {
    pool: &'a Pool,
    data: &'a [f32],
    row: usize,
    out: &'a mut [f32],
}
impl Kernel for PoolRow<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { pool, data, row, out } = self;
        let Windows { channels, place, taps, stride, dilation } = pool.windows;
        let Placement { size: [height, width], out: [out_height, _], pad } = place;
        let (image, y) = (row / out_height, row % out_height);
        let top = y * stride[0];
        for (x, pixel) in out.chunks_exact_mut(channels).enumerate() {
            let left = x * stride[1];
            for (v, to) in pixel.chunks_mut(S::LANES).enumerate() {
                let c = v * S::LANES;
                let mut sum = match pool.kind {
                    Pooling::Max => s.splat(f32::NEG_INFINITY),
                    Pooling::Average(..) => s.splat(0.0),
                };
                for ky in 0..taps[0] {
                    let from_y = (top + ky * dilation[0]).wrapping_sub(pad[0]);
                    if from_y >= height {
                        continue;
                    }
                    for kx in 0..taps[1] {
                        let from_x = (left + kx * dilation[1]).wrapping_sub(pad[1]);
                        if from_x >= width {
                            continue;
                        }
                        let at = ((image * height + from_y) * width + from_x) * channels + c;
                        let value = s.load_partial(&data[at..at + to.len()]);
                        sum = match pool.kind {
                            Pooling::Max => s.max(sum, value),
                            Pooling::Average(..) => s.add(sum, value),
                        };
                    }
                }
                if let Pooling::Average(rows, columns) = &pool.kind {
                    sum = s.div(sum, s.splat(rows[y] * columns[x]));
                }
                s.store_partial(to, sum);
            }
        }
    }
}

/// The gradient of a maximum over windows, channels last.
#[derive(Clone, Copy, Debug)]
pub struct MaxGradient<'a> {
    /// Images that were pooled.
    pub data: &'a [f32],
    /// What comes back for each window.
    pub given: &'a [f32],
    /// The windows.
    pub windows: Windows,
}

impl MaxGradient<'_> {
    /// Computes the gradient of all images: what comes back goes to the first of the largest of its window.
    pub fn run(&self, threads: &Threads, out: &mut [f32]) {
        let [height, width] = self.windows.place.size;
        let image = height * width * self.windows.channels;
        threads.chunks(out, image, |i, out| dispatch(MaxGradientKernel { of: self, image: i, out }));
    }
}

struct MaxGradientKernel<'a, 'b> {
    of: &'a MaxGradient<'b>,
    image: usize,
    out: &'a mut [f32],
}
impl Kernel for MaxGradientKernel<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { of, image, out } = self;
        let Windows { channels, place, taps, stride, dilation } = of.windows;
        let Placement { size: [height, width], out: [out_height, out_width], pad } = place;
        let area = taps[0] * taps[1];
        let data = &of.data[image * height * width * channels..][..height * width * channels];
        let given = &of.given[image * out_height * out_width * channels..];
        out.fill(0.0);
        // Taps inside of the image, and where their channels start.
        let mut places: Vec<(f32, usize)> = Vec::with_capacity(area);
        for (window, given) in given.chunks_exact(channels).take(out_height * out_width).enumerate() {
            let (top, left) = (window / out_width * stride[0], window % out_width * stride[1]);
            places.clear();
            for tap in 0..area {
                let y = (top + tap / taps[1] * dilation[0]).wrapping_sub(pad[0]);
                let x = (left + tap % taps[1] * dilation[1]).wrapping_sub(pad[1]);
                if y < height && x < width {
                    places.push((tap as f32, (y * width + x) * channels));
                }
            }
            for from in (0..channels).step_by(S::LANES) {
                let lanes = S::LANES.min(channels - from);
                let Some((&(tap, at), others)) = places.split_first() else { continue };
                let (mut most, mut chosen) = (s.load_partial(&data[at + from..][..lanes]), s.splat(tap));
                for &(tap, at) in others {
                    let (x, number) = (s.load_partial(&data[at + from..][..lanes]), s.splat(tap));
                    // The first that is no number wins over all.
                    let larger = s.select_less(most, x, number, chosen);
                    let fresh = s.select_nan(most, chosen, number);
                    chosen = s.select_nan(most, chosen, s.select_nan(x, fresh, larger));
                    most = s.select_nan(most, most, s.select_nan(x, x, s.max(most, x)));
                }
                let g = s.load_partial(&given[from..][..lanes]);
                for &(tap, at) in &places {
                    let distance = s.abs(s.sub(chosen, s.splat(tap)));
                    let share = s.select_less(distance, s.splat(0.5), g, s.splat(0.0));
                    let to = &mut out[at + from..][..lanes];
                    s.store_partial(to, s.add(s.load_partial(to), share));
                }
            }
        }
    }
}

/// Where the numbers of one dimension of a resized image come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Samples {
    /// From one place each.
    Nearest(Vec<usize>),
    /// From two places each, the second with that weight.
    Linear(Vec<(usize, usize, f32)>),
}

impl Samples {
    /// Number of results.
    pub fn len(&self) -> usize {
        match self {
            Self::Nearest(places) => places.len(),
            Self::Linear(places) => places.len(),
        }
    }
    /// True where there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    fn pair(&self, i: usize) -> (usize, usize, f32) {
        match self {
            Self::Nearest(places) => (places[i], places[i], 0.0),
            Self::Linear(places) => places[i],
        }
    }
}

/// Resizes images of `size` and `pixel` numbers a pixel to `rows` x `columns`.
pub fn resize(
    threads: &Threads,
    data: &[f32],
    size: [usize; 2],
    pixel: usize,
    rows: &Samples,
    columns: &Samples,
    out: &mut [f32],
) {
    let row_len = columns.len() * pixel;
    if out.is_empty() {
        return;
    }
    let in_row = size[1] * pixel;
    let piece = (16384 / row_len).max(1);
    threads.chunks(out, piece * row_len, |i, out| {
        let mut mixed = Vec::new();
        let mut before: Option<usize> = None;
        for r in 0..out.len() / row_len {
            let (image, y) = ((i * piece + r) / rows.len(), (i * piece + r) % rows.len());
            let (a, b, weight) = rows.pair(y);
            let row = |y: usize| &data[(image * size[0] + y) * in_row..][..in_row];
            if weight == 0.0 && before == Some(image * size[0] + a) {
                // The same row again.
                out.copy_within((r - 1) * row_len..r * row_len, r * row_len);
                continue;
            }
            before = (weight == 0.0).then_some(image * size[0] + a);
            let source = if weight == 0.0 {
                row(a)
            } else {
                mixed.clear();
                mixed.extend(row(a).iter().zip(row(b)).map(|(x, y)| x * (1.0 - weight) + y * weight));
                &mixed
            };
            let to = &mut out[r * row_len..][..row_len];
            match columns {
                Samples::Nearest(places) => {
                    for (to, &x) in to.chunks_exact_mut(pixel).zip(places) {
                        to.copy_from_slice(&source[x * pixel..][..pixel]);
                    }
                }
                Samples::Linear(places) => {
                    for (to, &(a, b, weight)) in to.chunks_exact_mut(pixel).zip(places) {
                        let (a, b) = (&source[a * pixel..][..pixel], &source[b * pixel..][..pixel]);
                        for ((to, x), y) in to.iter_mut().zip(a).zip(b) {
                            *to = x * (1.0 - weight) + y * weight;
                        }
                    }
                }
            }
        }
    });
}
