//! Convolution of images with few channels: what lies under the window is copied together, pixel by pixel, and
//! multiplied as rows of a dense matrix.
//!
//! With three channels the runs of numbers that lie together are too short for the taps to be taken one by one.

use super::conv::{Geometry, Placement};
use super::gemm::{Finish, Packed, Product, Rows};
use super::scratch::with_scratch;
use super::simd::{Kernel, MAX_LANES, Simd, dispatch};
use super::threads::{Block, Threads};

/// Channels up to which this is used.
const FEW: usize = 11;
/// Pixels of the result in a piece of work.
const PIXELS: usize = 96;

/// A convolution of few channels with packed weights.
#[derive(Debug)]
pub(super) struct FewChannels {
    geometry: Geometry,
    /// As deep as the window is large, tap by tap.
    packed: [Packed; 1],
}

impl FewChannels {
    /// Whether a window is of the kind that this computes.
    pub(super) fn takes(geometry: &Geometry) -> bool {
        geometry.groups == 1 && geometry.channels <= FEW && geometry.taps[1] > 1 && geometry.dilation[1] == 1
    }
    pub(super) fn new(geometry: Geometry, packed: Packed) -> Self {
        Self { geometry, packed: [packed] }
    }
    /// Convolves images; `planes` tells whether their channels lie one after the other rather than last.
    pub(super) fn run(
        &self,
        threads: &Threads,
        data: &[f32],
        planes: bool,
        place: &Placement,
        finish: &Finish<'_>,
        out: &mut [f32],
    ) {
        let Geometry { out_channels, taps, stride, dilation, .. } = self.geometry;
        let [out_height, out_width] = place.out;
        if out.is_empty() {
            return;
        }
        // As high and wide as the windows reach; what they do not reach is left out.
        let reach = [0, 1].map(|d| (place.out[d] - 1) * stride[d] + (taps[d] - 1) * dilation[d] + 1);
        let images = out.len() / (out_channels * out_height * out_width);
        let depth = self.packed[0].depth();
        let image_len = reach[0] * reach[1] * self.geometry.channels;
        // Some numbers after the end: whole vectors are read.
        with_scratch(images * image_len + MAX_LANES, |padded| {
            let (padded_images, after) = padded.split_at_mut(images * image_len);
            after.fill(0.0);
            self.pad(threads, data, planes, place, reach, padded_images);
            let padded = &*padded;
            threads.blocks(out, out_channels, PIXELS, &[0, out_channels], |row, _, block| {
                with_scratch(PIXELS * depth + MAX_LANES, |patches| {
                    let count = block.rows();
                    dispatch(Patches { of: self, padded, place, reach, first: row, count, patches });
                    let then = |first: usize, column: usize, block: &mut Block<'_>| {
                        if let Some(then) = finish.then {
                            then(row + first, column, block);
                        }
                    };
                    let finish = Finish {
                        bias: finish.bias,
                        added: finish.added.map(|added| &added[row * out_channels..]),
                        clamp: finish.clamp,
                        then: finish.then.is_some().then_some(&then),
                    };
                    let rows = Rows::Dense { data: patches, stride: depth };
                    Product { rows, segments: 1, packed: &self.packed, finish }.run_into(block);
                });
            });
        });
    }
    /// Fills `out` with the images, channels last and zeros around, cut off at `reach`.
    fn pad(
        &self,
        threads: &Threads,
        data: &[f32],
        planes: bool,
        place: &Placement,
        reach: [usize; 2],
        out: &mut [f32],
    ) {
        let channels = self.geometry.channels;
        let [height, width] = place.size;
        let row_len = reach[1] * channels;
        let count = width.min(reach[1].saturating_sub(place.pad[1]));
        threads.chunks(out, 16 * row_len, |i, rows| {
            for (r, row) in rows.chunks_mut(row_len).enumerate() {
                let (image, y) = ((i * 16 + r) / reach[0], (i * 16 + r) % reach[0]);
                let y = y.wrapping_sub(place.pad[0]);
                if y >= height || count == 0 {
                    row.fill(0.0);
                    continue;
                }
                let (before, row) = row.split_at_mut(place.pad[1] * channels);
                let (to, after) = row.split_at_mut(count * channels);
                before.fill(0.0);
                after.fill(0.0);
                if planes {
                    let plane = height * width;
                    let from = &data[image * channels * plane + y * width..];
                    interleave(from, plane, channels, to);
                } else {
                    to.copy_from_slice(&data[(image * height + y) * width * channels..][..count * channels]);
                }
            }
        });
    }
}

/// Numbers of each plane in turn.
fn interleave(from: &[f32], plane: usize, channels: usize, to: &mut [f32]) {
    if channels == 3 {
        let count = to.len() / 3;
        let (a, b, c) = (&from[..count], &from[plane..][..count], &from[2 * plane..][..count]);
        for (((to, a), b), c) in to.chunks_exact_mut(3).zip(a).zip(b).zip(c) {
            (to[0], to[1], to[2]) = (*a, *b, *c);
        }
        return;
    }
    for (x, to) in to.chunks_exact_mut(channels).enumerate() {
        for (c, to) in to.iter_mut().enumerate() {
            *to = from[c * plane + x];
        }
    }
}

/// Copies what lies under the window of some pixels of the result.
struct Patches<'a> {
    of: &'a FewChannels,
    padded: &'a [f32],
    place: &'a Placement,
    reach: [usize; 2],
    first: usize,
    count: usize,
    patches: &'a mut [f32],
}
impl Kernel for Patches<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { of, padded, place, reach, first, count, patches } = self;
        let Geometry { channels, taps, stride, dilation, .. } = of.geometry;
        let [out_height, out_width] = place.out;
        let run = taps[1] * channels;
        let depth = taps[0] * run;
        for p in 0..count {
            let (image, y, x) = (
                (first + p) / out_width / out_height,
                (first + p) / out_width % out_height,
                (first + p) % out_width,
            );
            for ky in 0..taps[0] {
                let row = image * reach[0] + y * stride[0] + ky * dilation[0];
                let from = (row * reach[1] + x * stride[1]) * channels;
                let to = p * depth + ky * run;
                // Whole vectors: what is too much is written over by the next run.
                for at in (0..run).step_by(S::LANES) {
                    s.store(&mut patches[to + at..], s.load(&padded[from + at..]));
                }
            }
        }
    }
}
