//! Transposed convolution over channels-last images.

use super::conv::{Geometry, Placement};
use super::gemm::{Finish, Packed, Product, Rows};
use super::scratch::with_scratch;
use super::simd::{Kernel, Simd, dispatch};
use super::threads::{Block, Threads};

/// A transposed convolution with packed weights: each input pixel times the window is added to the output.
#[derive(Debug)]
pub struct Transposed {
    geometry: Geometry,
    packed: Vec<Packed>,
}

impl Transposed {
    /// Packs weights `[channels, out channels / groups, taps down, taps across]`.
    pub fn new(geometry: Geometry, weights: &[f32]) -> Self {
        let Geometry { channels, out_channels, groups, taps: [down, across], .. } = geometry;
        let (area, inner, outer) = (down * across, channels / groups, out_channels / groups);
        let packed = (0..groups)
            .map(|g| {
                Packed::new(inner, area * outer, |k, n| {
                    let (tap, channel) = (n / outer, n % outer);
                    weights[((g * inner + k) * outer + channel) * area + tap]
                })
            })
            .collect();
        Self { geometry, packed }
    }
    /// Its window.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }
    /// Computes the images of `out`; `place.pad` is what is cut off above and left. [`Finish::added`] is not taken.
    pub fn run(
        &self,
        threads: &Threads,
        data: &[f32],
        place: &Placement,
        finish: Finish<'_>,
        out: &mut [f32],
    ) {
        let Geometry { out_channels, taps, stride, dilation, .. } = self.geometry;
        let [out_height, out_width] = place.out;
        let row_len = out_width * out_channels;
        if out.is_empty() {
            return;
        }
        // Rows in a piece: many times those that need input rows of the next piece too, few enough to stay in the cache.
        let shared = (taps[0] - 1) * dilation[0];
        let rows = (16384 / row_len).max(4 * shared).max(1).next_multiple_of(stride[0]).min(out_height);
        let pieces = out_height.div_ceil(rows);
        for (image, out) in out.chunks_exact_mut(out_height * row_len).enumerate() {
            threads.chunks(out, rows * row_len, |i, piece| {
                debug_assert!(i < pieces);
                self.piece(data, place, &finish, image, i * rows, piece);
                if let Some(then) = finish.then {
                    then((image * out_height + i * rows) * out_width, 0, &mut Block::of(piece, out_channels));
                }
            });
        }
    }
    /// Output rows of one image from `first` on.
    fn piece(
        &self,
        data: &[f32],
        place: &Placement,
        finish: &Finish<'_>,
        image: usize,
        first: usize,
        out: &mut [f32],
    ) {
        let Geometry { channels, out_channels, taps, stride, dilation, .. } = self.geometry;
        let [height, width] = place.size;
        let rows = out.len() / (place.out[1] * out_channels);
        // Input rows that reach these output rows.
        let low = (first + place.pad[0]).saturating_sub((taps[0] - 1) * dilation[0]).div_ceil(stride[0]);
        let end = ((first + rows - 1 + place.pad[0]) / stride[0] + 1).min(height);
        let given_columns: usize = self.packed.iter().map(Packed::columns).sum();
        with_scratch(end.saturating_sub(low) * width * given_columns, |given| {
            if !given.is_empty() {
                Product {
                    rows: Rows::Dense {
                        data: &data[(image * height + low) * width * channels..],
                        stride: channels,
                    },
                    segments: 1,
                    packed: &self.packed,
                    finish: Finish::default(),
                }
                .run_here(given);
            }
            dispatch(Gather { of: self, place, finish, given, low, end, first, out });
        });
    }
}

/// Brings together what input pixels give to the pixels of some output rows.
struct Gather<'a> {
    of: &'a Transposed,
    place: &'a Placement,
    finish: &'a Finish<'a>,
    /// Of input rows `low..end`: for each pixel, each tap's channels.
    given: &'a [f32],
    low: usize,
    end: usize,
    /// The first output row.
    first: usize,
    out: &'a mut [f32],
}

impl Kernel for Gather<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { of, place, finish, given, low, end, first, out } = self;
        let Geometry { out_channels, groups, taps, stride, dilation, .. } = of.geometry;
        let (outer, area, width) = (out_channels / groups, taps[0] * taps[1], place.size[1]);
        for (r, row) in out.chunks_exact_mut(place.out[1] * out_channels).enumerate() {
            match finish.bias {
                Some(bias) => {
                    row.chunks_exact_mut(out_channels).for_each(|pixel| pixel.copy_from_slice(bias));
                }
                None => row.fill(0.0),
            }
            for ky in 0..taps[0] {
                let reached = (first + r + place.pad[0]).wrapping_sub(ky * dilation[0]);
                let from_y = reached / stride[0];
                if reached % stride[0] != 0 || from_y < low || from_y >= end {
                    continue;
                }
                for kx in 0..taps[1] {
                    for g in 0..groups {
                        let tap = (g * area + ky * taps[1] + kx) * outer;
                        for from_x in 0..width {
                            let x = (from_x * stride[1] + kx * dilation[1]).wrapping_sub(place.pad[1]);
                            if x >= place.out[1] {
                                continue;
                            }
                            let at = ((from_y - low) * width + from_x) * groups * area * outer + tap;
                            let to = &mut row[x * out_channels + g * outer..][..outer];
                            if outer == 1 {
                                to[0] += given[at];
                                continue;
                            }
                            for (to, given) in
                                to.chunks_mut(S::LANES).zip(given[at..at + outer].chunks(S::LANES))
                            {
                                s.store_partial(to, s.add(s.load_partial(to), s.load_partial(given)));
                            }
                        }
                    }
                }
            }
            if let Some((least, largest)) = finish.clamp {
                for to in row.chunks_mut(S::LANES) {
                    let x = s.load_partial(to);
                    s.store_partial(to, s.min(s.splat(largest), s.max(s.splat(least), x)));
                }
            }
        }
    }
}
