//! Matrix product with a right operand packed once, rows of the left operand taken from anywhere.
//!
//! `out[m, n] = sum over segments s and k in s of row(m, s)[k] * packed[s, k, n]`, bias as starting value, clamped at the end.
//! A dense product has one segment; a convolution over channels-last images has one for each tap of its window, whose rows
//! are pixels of the image, so that nothing is copied. Every element is summed in order of (s, k) by one fused
//! multiply-add each, whatever the tiling and the number of threads: the result depends on neither.

use super::buffer::Buffer;
pub use super::left::{Rows, Window};
use super::simd::{Kernel, Level, Simd};
use super::threads::{Block, Threads};

/// Rows of a panel that are kept close while a block of left rows passes: 256 of 16 columns fill half of a first cache of
/// 32 KiB, and the left rows of a tile stay beside them.
const DEPTH: usize = 256;
/// Bytes of the packed operand up to which one piece of work takes all of its columns.
const NARROW_BYTES: usize = 512 << 10;
/// Pieces of work across that are wanted of a wide operand.
const PIECES: usize = 8;
/// Bytes of the right operand that stay close while rows pass.
const CLOSE_BYTES: usize = 256 << 10;
/// Bytes of finished rows at a time.
const ROWS_BYTES: usize = 64 << 10;
/// Bytes of left rows that one piece of work passes over again and again.
const BLOCK_BYTES: usize = 192 << 10;

/// The right operand, `depth` x `columns`, cut into panels of up to four vectors' width that lie row by row.
#[derive(Clone, Debug)]
pub struct Packed {
    data: Buffer,
    depth: usize,
    columns: usize,
    level: Level,
}

impl Packed {
    /// Packs `element(k, n)`.
    pub fn new(depth: usize, columns: usize, element: impl Fn(usize, usize) -> f32) -> Self {
        let mut packed = Self::room(depth, columns);
        packed.fill(|k, from, to| {
            for (j, x) in to.iter_mut().enumerate() {
                *x = element(k, from + j);
            }
        });
        packed
    }
    /// Packs a row-major matrix.
    pub fn from_rows(depth: usize, columns: usize, matrix: &[f32]) -> Self {
        let mut packed = Self::room(depth, columns);
        packed.repack_rows(matrix, columns);
        packed
    }
    /// Room for an operand, to be filled by `repack_rows` or `repack_transposed`.
    pub fn room(depth: usize, columns: usize) -> Self {
        Self::room_at(Level::best(), depth, columns)
    }
    /// Makes this room for an operand of another size.
    pub fn reshape(&mut self, depth: usize, columns: usize) {
        (self.depth, self.columns) = (depth, columns);
        // What is left in the padding of the last panel stays in lanes that are not stored.
        self.data.set_len(depth * columns.next_multiple_of(self.level.lanes()));
    }
    fn room_at(level: Level, depth: usize, columns: usize) -> Self {
        let data = Buffer::zeros(depth * columns.next_multiple_of(level.lanes()));
        Self { data, depth, columns, level }
    }
    /// Packs a matrix whose rows start `stride` apart into this room.
    pub fn repack_rows(&mut self, matrix: &[f32], stride: usize) {
        self.fill(|k, from, to| to.copy_from_slice(&matrix[k * stride + from..][..to.len()]));
    }
    /// Packs the transpose of a matrix of `columns` rows, which start `stride` apart, into this room.
    pub fn repack_transposed(&mut self, matrix: &[f32], stride: usize) {
        let depth = self.depth;
        let width = self.full_width();
        for first in (0..self.columns).step_by(width) {
            let (used, panel_width) = self.panel_extent(first);
            let panel = &mut self.data[first * depth..][..panel_width * depth];
            // Blocks of 16 x 16, so that both sides stay in the first cache.
            for k0 in (0..depth).step_by(16) {
                for j0 in (0..used).step_by(16) {
                    for j in j0..(j0 + 16).min(used) {
                        let row = &matrix[(first + j) * stride..][..depth];
                        for k in k0..(k0 + 16).min(depth) {
                            panel[k * panel_width + j] = row[k];
                        }
                    }
                }
            }
        }
    }
    fn fill(&mut self, row: impl Fn(usize, usize, &mut [f32])) {
        let (depth, width) = (self.depth, self.full_width());
        for first in (0..self.columns).step_by(width) {
            let (used, panel_width) = self.panel_extent(first);
            let panel = &mut self.data[first * depth..][..panel_width * depth];
            for (k, to) in panel.chunks_exact_mut(panel_width).enumerate() {
                row(k, first, &mut to[..used]);
            }
        }
    }
    /// Rows.
    pub fn depth(&self) -> usize {
        self.depth
    }
    /// Columns.
    pub fn columns(&self) -> usize {
        self.columns
    }
    /// Columns of every panel but the last.
    fn full_width(&self) -> usize {
        self.level.lanes() * widest(self.level)
    }
    /// Columns in use, and width with padding, of the panel that starts at column `first`.
    fn panel_extent(&self, first: usize) -> (usize, usize) {
        let used = (self.columns - first).min(self.full_width());
        (used, used.next_multiple_of(self.level.lanes()))
    }
}

/// Vectors in a full panel: what the registers hold beside enough rows.
fn widest(level: Level) -> usize {
    match level {
        Level::Portable(_) => 1,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(_) => 2,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(_) => 4,
    }
}

/// What is done to the sums.
#[derive(Clone, Copy, Default)]
pub struct Finish<'a> {
    /// One starting value for each column.
    pub bias: Option<&'a [f32]>,
    /// Added to the sums, number for number.
    pub added: Option<&'a [f32]>,
    /// Least and largest value; none leaves all as they are.
    pub clamp: Option<(f32, f32)>,
    /// Called with first row, first column and the finished block while it is in the cache.
    pub then: Option<&'a (dyn Fn(usize, usize, &mut Block<'_>) + Sync)>,
}

/// A product to be computed.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// Left operand.
    pub rows: Rows<'a>,
    /// Number of its segments, all of one length.
    pub segments: usize,
    /// Right operands, each as deep as all segments together: one, or one for each group of channels. All groups are of one
    /// size; the columns of each follow those of the one before, and its segments start where those of the one before end.
    pub packed: &'a [Packed],
    /// What is done to the sums.
    pub finish: Finish<'a>,
}

/// A run of one segment.
#[derive(Clone, Copy)]
struct Run {
    tap: [usize; 2],
    from: usize,
    len: usize,
    depth: usize,
}

impl Product<'_> {
    /// Computes all rows into `out`, as many as it has room for, on all threads.
    pub fn run(&self, threads: &Threads, out: &mut [f32]) {
        let Some(packed) = self.packed.first().filter(|_| !out.is_empty()) else { return };
        let (depth, columns, groups) = (packed.depth, packed.columns, self.packed.len());
        let m = out.len() / (columns * groups);
        let narrow = depth * columns * 4 <= NARROW_BYTES;
        // Several panels together where enough pieces are left: longer rows for what is done to the sums.
        let panels = (columns / packed.full_width() / PIECES).clamp(1, 4);
        let step = if narrow { columns } else { panels * packed.full_width() };
        let cuts: Vec<usize> = (0..groups)
            .flat_map(|g| (0..columns).step_by(step).map(move |c| g * columns + c))
            .chain([groups * columns])
            .collect();
        // A multiple of all tile heights, so that no piece but the last has leftover rows.
        let block_rows = (BLOCK_BYTES / 4 / depth.clamp(1, 4 * DEPTH)).max(24).next_multiple_of(24);
        let block_rows = if narrow { block_rows.min(m.div_ceil(8).next_multiple_of(24)) } else { block_rows };
        let runs = self.runs();
        threads.blocks(out, columns * groups, block_rows, &cuts, |row, column, block| {
            self.block(&runs, row, column, block);
        });
    }
    /// Computes all rows into `out` on this thread.
    pub fn run_here(&self, out: &mut [f32]) {
        let columns = self.packed.iter().map(Packed::columns).sum();
        if !out.is_empty() {
            self.run_into(&mut Block::of(out, columns));
        }
    }
    /// Computes the rows of a block as wide as the result on this thread; what is done to the sums sees it as the whole.
    pub fn run_into(&self, all: &mut Block<'_>) {
        let Some(packed) = self.packed.first() else { return };
        let runs = self.runs();
        for group in 0..self.packed.len() {
            self.block(
                &runs,
                0,
                group * packed.columns,
                &mut all.columns_of(group * packed.columns, packed.columns),
            );
        }
    }
    fn block(&self, runs: &[Vec<Run>], row: usize, column: usize, block: &mut Block<'_>) {
        let packed = &self.packed[0];
        // Where the right operand stays close anyway, a few rows are finished at a time: they are written as they lie, and
        // what is done to the sums finds them in the first cache.
        let few = if packed.depth * block.columns() * 4 <= CLOSE_BYTES {
            (ROWS_BYTES / 4 / block.columns().max(1)).max(24).next_multiple_of(24)
        } else {
            block.rows()
        };
        for first in (0..block.rows()).step_by(few.max(1)) {
            let rows = few.min(block.rows() - first);
            let mut part = block.rows_of(first, rows);
            packed.level.run(BlockKernel { product: self, runs, row: row + first, column, block: &mut part });
            if let Some(then) = self.finish.then {
                then(row + first, column, &mut part);
            }
        }
    }
    fn segment_len(&self) -> usize {
        self.packed[0].depth / self.segments.max(1)
    }
    /// The depth cut into parts of at most [`DEPTH`], each a list of runs.
    fn runs(&self) -> Vec<Vec<Run>> {
        let depth = self.packed[0].depth;
        let segment_len = self.segment_len();
        let parts = depth.div_ceil(DEPTH).max(1);
        let part_len = depth.div_ceil(parts).next_multiple_of(8).max(1);
        let mut out = vec![Vec::new()];
        let mut room = part_len;
        for segment in 0..self.segments {
            let mut from = 0;
            while from < segment_len {
                if room == 0 {
                    out.push(Vec::new());
                    room = part_len;
                }
                let len = (segment_len - from).min(room);
                let depth = segment * segment_len + from;
                let run = Run { tap: self.rows.tap(segment), from, len, depth };
                out.last_mut().expect("starts with one").push(run);
                from += len;
                room -= len;
            }
        }
        out
    }
}

struct BlockKernel<'a, 'b, 'c> {
    product: &'a Product<'a>,
    runs: &'a [Vec<Run>],
    row: usize,
    column: usize,
    block: &'b mut Block<'c>,
}

impl Kernel for BlockKernel<'_, '_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { product, runs, row, column, block } = self;
        let group = column / product.packed[0].columns;
        let packed = &product.packed[group];
        let width = packed.full_width();
        let first_column = group * packed.columns;
        for (part, runs_of_part) in runs.iter().enumerate() {
            for first in (column - first_column..column - first_column + block.columns()).step_by(width) {
                let (used, panel_width) = packed.panel_extent(first);
                let panel = &packed.data[first * packed.depth..][..panel_width * packed.depth];
                let mut tile = Tile {
                    product,
                    runs: runs_of_part,
                    panel,
                    first_part: part == 0,
                    last_part: part + 1 == runs.len(),
                    group_offset: group * product.segment_len(),
                    row,
                    column: first_column + first,
                    at: first_column + first - column,
                    used,
                    block,
                };
                match panel_width / S::LANES {
                    1 => tile.all_rows::<S, 8, 4, 2, 1>(s),
                    2 if const { S::LANES < 16 } => tile.all_rows::<S, 6, 3, 2, 2>(s),
                    2 if const { S::LANES == 16 } => tile.all_rows::<S, 8, 4, 2, 2>(s),
                    3 if const { S::LANES == 16 } => tile.all_rows::<S, 8, 4, 2, 3>(s),
                    4 if const { S::LANES == 16 } => tile.all_rows::<S, 6, 3, 2, 4>(s),
                    other => unreachable!("a panel has up to four vectors, not {other}"),
                }
            }
        }
    }
}

struct Tile<'a, 'b, 'c> {
    product: &'a Product<'a>,
    runs: &'a [Run],
    panel: &'a [f32],
    first_part: bool,
    last_part: bool,
    group_offset: usize,
    row: usize,
    column: usize,
    at: usize,
    used: usize,
    block: &'b mut Block<'c>,
}

impl Tile<'_, '_, '_> {
    /// Takes the block's rows in tiles of `A`, then of `B`, `C` and one.
    #[inline(always)]
    fn all_rows<S: Simd, const A: usize, const B: usize, const C: usize, const NV: usize>(&mut self, s: S) {
        let rows = self.block.rows();
        let mut i = 0;
        while i + A <= rows {
            self.tile::<S, A, NV>(s, i);
            i += A;
        }
        while i + B <= rows {
            self.tile::<S, B, NV>(s, i);
            i += B;
        }
        while i + C <= rows {
            self.tile::<S, C, NV>(s, i);
            i += C;
        }
        while i < rows {
            self.tile::<S, 1, NV>(s, i);
            i += 1;
        }
    }
    #[inline(always)]
    fn tile<S: Simd, const MR: usize, const NV: usize>(&mut self, s: S, i: usize) {
        let width = NV * S::LANES;
        let mut sums = [[s.splat(0.0); NV]; MR];
        let left = &self.product.rows;
        let corners = left.corners::<MR>(self.row + i);
        for run in self.runs {
            let from = self.group_offset + run.from;
            let rows = left.rows(self.row + i, &corners, run.tap, from, run.len);
            let panel = &self.panel[run.depth * width..][..run.len * width];
            accumulate::<S, MR, NV>(s, &rows, panel, run.len, &mut sums);
        }
        let finish = &self.product.finish;
        let mut bias = [s.splat(0.0); NV];
        let biased = self.first_part && finish.bias.is_some();
        if let (true, Some(of_columns)) = (biased, finish.bias) {
            let of_columns = &of_columns[self.column..][..self.used];
            for (v, bias) in bias.iter_mut().enumerate() {
                *bias = s.load_partial(&of_columns[(v * S::LANES).min(self.used)..]);
            }
        }
        let added = if self.last_part { finish.added } else { None };
        let clamp = if self.last_part { finish.clamp } else { None };
        let all_columns = self.product.packed.len() * self.product.packed[0].columns;
        for r in 0..MR {
            let out = &mut self.block.row(i + r)[self.at..][..self.used];
            let added: &[f32] = match added {
                Some(added) => &added[(self.row + i + r) * all_columns + self.column..][..self.used],
                None => &[],
            };
            for v in 0..NV {
                let from = (v * S::LANES).min(out.len());
                let to = &mut out[from..];
                let mut sum = sums[r][v];
                if !self.first_part {
                    sum = s.add(sum, s.load_partial(to));
                } else if biased {
                    sum = s.add(sum, bias[v]);
                }
                if !added.is_empty() {
                    sum = s.add(sum, s.load_partial(&added[from..]));
                }
                if let Some((least, largest)) = clamp {
                    // The bound comes first: a NaN passes through.
                    sum = s.min(s.splat(largest), s.max(s.splat(least), sum));
                }
                s.store_partial(to, sum);
            }
        }
    }
}

#[inline(always)]
fn accumulate<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    rows: &[&[f32]; MR],
    panel: &[f32],
    len: usize,
    sums: &mut [[S::V; NV]; MR],
) {
    let mut left_rows: [&[f32]; MR] = [&[]; MR];
    for (to, row) in left_rows.iter_mut().zip(rows) {
        *to = &row[..len];
    }
    let mut local = *sums;
    // Plain indices: an iterator that is not compiled into this loop would cost a call for each `k`, and all registers.
    let width = NV * S::LANES;
    let (mut k, mut rest) = (0, panel);
    while k < len && rest.len() >= width {
        let mut columns = [s.splat(0.0); NV];
        let mut v = 0;
        while v < NV {
            columns[v] = s.load(&rest[v * S::LANES..width]);
            v += 1;
        }
        let mut i = 0;
        while i < MR {
            let left = s.splat(left_rows[i][k]);
            let mut v = 0;
            while v < NV {
                local[i][v] = s.fma(left, columns[v], local[i][v]);
                v += 1;
            }
            i += 1;
        }
        k += 1;
        rest = &rest[width..];
    }
    *sums = local;
}
