//! Sums of outer products: the transpose of a matrix times another, as in gradients of weights.
//!
//! `out[r, c] = sum over p of left(p)[r] * right[p, c]`. Neither operand lies along the sum, so both are copied a block of
//! positions at a time. What is summed where depends on the extents alone, not on the number of threads.

use super::conv::{Geometry, Placement};
use super::scratch::with_scratch;
use super::simd::{Kernel, Level, MAX_LANES, Simd, dispatch};
use super::threads::Threads;

/// Positions that are summed in registers.
const BLOCK: usize = 128;
/// Rows of the result in registers.
const TILE: usize = 6;
/// Rows of the result in a piece of work, at most: each piece reads both operands once.
const ROWS: usize = 192;

/// The operand whose rows become rows of the result.
#[derive(Clone, Copy, Debug)]
pub enum Left<'a> {
    /// A matrix, row by row.
    Rows {
        /// Numbers.
        data: &'a [f32],
        /// In a row.
        columns: usize,
    },
    /// What lies under a window of channels-last images: a position for each place of the window, a number for each tap
    /// and channel.
    Window {
        /// Images.
        data: &'a [f32],
        /// The window; of one group.
        geometry: &'a Geometry,
        /// Where it is put.
        place: &'a Placement,
    },
}

impl Left<'_> {
    fn columns(&self) -> usize {
        match self {
            Left::Rows { columns, .. } => *columns,
            Left::Window { geometry, .. } => geometry.taps[0] * geometry.taps[1] * geometry.channels,
        }
    }
    /// Numbers `first..first + count` of positions from `from` on, each position `step` after the one before.
    fn copy(&self, from: usize, first: usize, count: usize, step: usize, to: &mut [f32]) {
        match *self {
            Left::Rows { data, columns } => {
                for (to, row) in to.chunks_exact_mut(step).zip(data[from * columns..].chunks_exact(columns)) {
                    to[..count].copy_from_slice(&row[first..first + count]);
                }
            }
            Left::Window { data, geometry, place } => {
                let Geometry { channels, taps, stride, dilation, .. } = *geometry;
                let [height, width] = place.size;
                let mut at = first;
                while at < first + count {
                    let (tap, channel) = (at / channels, at % channels);
                    let len = (channels - channel).min(first + count - at);
                    let (ky, kx) = (tap / taps[1] * dilation[0], tap % taps[1] * dilation[1]);
                    let (mut image, rest) =
                        (from / (place.out[0] * place.out[1]), from % (place.out[0] * place.out[1]));
                    let (mut y, mut x) = (rest / place.out[1], rest % place.out[1]);
                    for to in to.chunks_exact_mut(step) {
                        let to = &mut to[at - first..][..len];
                        let row = (y * stride[0] + ky).wrapping_sub(place.pad[0]);
                        let column = (x * stride[1] + kx).wrapping_sub(place.pad[1]);
                        if row < height && column < width {
                            let pixel = ((image * height + row) * width + column) * channels + channel;
                            if len == 1 {
                                to[0] = data[pixel];
                            } else {
                                to.copy_from_slice(&data[pixel..][..len]);
                            }
                        } else {
                            to.fill(0.0);
                        }
                        x += 1;
                        if x == place.out[1] {
                            (x, y) = (0, y + 1);
                            if y == place.out[0] {
                                (y, image) = (0, image + 1);
                            }
                        }
                    }
                    at += len;
                }
            }
        }
    }
}

/// Numbers of a result of that size that are computed, those in the margins counted.
pub fn outer_work(rows: usize, columns: usize) -> usize {
    rows.next_multiple_of(TILE) * columns.next_multiple_of(2 * Level::best().lanes())
}

/// Computes the sum over all rows of `right`, which are `columns` long, into `out`.
pub fn outer_sum(threads: &Threads, left: &Left<'_>, right: &[f32], columns: usize, out: &mut [f32]) {
    let rows = left.columns().div_ceil(threads.count()).next_multiple_of(TILE).min(ROWS);
    threads.chunks(out, rows * columns, |i, out| piece(left, right, columns, i * rows, out));
}

/// As [`outer_sum`], on this thread.
pub fn outer_sum_here(left: &Left<'_>, right: &[f32], columns: usize, out: &mut [f32]) {
    for (i, out) in out.chunks_mut((ROWS * columns).max(1)).enumerate() {
        piece(left, right, columns, i * ROWS, out);
    }
}

/// Rows of the result from `row` on.
fn piece(left: &Left<'_>, right: &[f32], columns: usize, row: usize, out: &mut [f32]) {
    let (positions, count) = (right.len() / columns, out.len() / columns);
    if positions == 0 {
        return out.fill(0.0);
    }
    let step = count.next_multiple_of(TILE);
    with_scratch(BLOCK * step, |own| {
        with_scratch(BLOCK * 2 * MAX_LANES, |panel| {
            for from in (0..positions).step_by(BLOCK) {
                let some = BLOCK.min(positions - from);
                let own = &mut own[..some * step];
                if step != count {
                    own.fill(0.0);
                }
                left.copy(from, row, count, step, own);
                let right = &right[from * columns..][..some * columns];
                let first = from == 0;
                dispatch(BlockKernel {
                    own,
                    step,
                    panel: &mut *panel,
                    right,
                    columns,
                    first,
                    out: &mut *out,
                });
            }
        });
    });
}

struct BlockKernel<'a> {
    own: &'a [f32],
    step: usize,
    panel: &'a mut [f32],
    right: &'a [f32],
    columns: usize,
    /// True where nothing is summed yet.
    first: bool,
    out: &'a mut [f32],
}

impl Kernel for BlockKernel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { own, step, panel, right, columns, first, out } = self;
        let width = 2 * S::LANES;
        let (positions, rows) = (right.len() / columns, out.len() / columns);
        let panel = &mut panel[..positions * width];
        for from in (0..columns).step_by(width) {
            let used = width.min(columns - from);
            for (to, row) in panel.chunks_exact_mut(width).zip(right.chunks_exact(columns)) {
                let row = &row[from..from + used];
                if used == width {
                    s.store(to, s.load(row));
                    s.store(&mut to[S::LANES..], s.load(&row[S::LANES..]));
                } else {
                    to[..used].copy_from_slice(row);
                    to[used..].fill(0.0);
                }
            }
            for top in (0..rows).step_by(TILE) {
                let sums = sums(s, &own[top..], step, panel);
                for (i, row) in sums.into_iter().enumerate().take(rows - top) {
                    let out = &mut out[(top + i) * columns + from..][..used];
                    for (v, mut sum) in row.into_iter().enumerate() {
                        let to = &mut out[(v * S::LANES).min(used)..];
                        if !first {
                            sum = s.add(s.load_partial(to), sum);
                        }
                        s.store_partial(to, sum);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn sums<S: Simd>(s: S, own: &[f32], step: usize, panel: &[f32]) -> [[S::V; 2]; TILE] {
    let width = 2 * S::LANES;
    let mut sums = [[s.splat(0.0); 2]; TILE];
    let (mut own, mut panel) = (own, panel);
    // Plain indices, as in the product: all sums stay in registers.
    while panel.len() >= width && own.len() >= TILE {
        let columns = [s.load(&panel[..width]), s.load(&panel[S::LANES..width])];
        let left = &own[..TILE];
        let mut i = 0;
        while i < TILE {
            let x = s.splat(left[i]);
            sums[i][0] = s.fma(x, columns[0], sums[i][0]);
            sums[i][1] = s.fma(x, columns[1], sums[i][1]);
            i += 1;
        }
        panel = &panel[width..];
        own = &own[step.min(own.len())..];
    }
    sums
}
