//! Sums and extremes over one run of dimensions, and normalization of rows, which is built on them.

use super::simd::{Kernel, Simd, dispatch};
use super::threads::Threads;

/// What is brought together, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// `x + ...`
    Sum,
    /// `x * x + ...`
    SumOfSquares,
    /// `|x| + ...`
    SumOfMagnitudes,
    /// The largest.
    Max,
    /// The smallest.
    Min,
}

/// Rows of a reduced dimension in one partial result; fixed, so that the result depends on no number of threads.
const PART: usize = 256;
/// Numbers in a piece of work.
pub(super) const PIECE: usize = 16 << 10;

impl Reduction {
    #[inline(always)]
    fn start(self) -> f32 {
        match self {
            Self::Sum | Self::SumOfSquares | Self::SumOfMagnitudes => 0.0,
            Self::Max => f32::NEG_INFINITY,
            Self::Min => f32::INFINITY,
        }
    }
    #[inline(always)]
    fn take<S: Simd>(self, s: S, sum: S::V, x: S::V) -> S::V {
        match self {
            Self::Sum => s.add(sum, x),
            Self::SumOfSquares => s.fma(x, x, sum),
            Self::SumOfMagnitudes => s.add(sum, s.abs(x)),
            Self::Max => s.select_nan(sum, sum, s.max(sum, x)),
            Self::Min => s.select_nan(sum, sum, s.min(sum, x)),
        }
    }
    /// Two partial results.
    #[inline(always)]
    fn join(self, a: f32, b: f32) -> f32 {
        match self {
            Self::Sum | Self::SumOfSquares | Self::SumOfMagnitudes => a + b,
            Self::Max if a.is_nan() || b.is_nan() => f32::NAN,
            Self::Min if a.is_nan() || b.is_nan() => f32::NAN,
            Self::Max => a.max(b),
            Self::Min => a.min(b),
        }
    }
}

/// Reduces the middle of `[outer, reduced, inner]`; `out` is `[outer, inner]`.
pub fn reduce(
    threads: &Threads,
    data: &[f32],
    reduced: usize,
    inner: usize,
    how: Reduction,
    out: &mut [f32],
) {
    if out.is_empty() {
        return;
    }
    if reduced == 0 {
        return out.fill(how.start());
    }
    if inner == 1 {
        let rows = (PIECE / reduced).max(1);
        threads.chunks(out, rows, |i, out| {
            dispatch(RowsKernel { data: &data[i * rows * reduced..], len: reduced, how, out });
        });
        return;
    }
    let parts = reduced.div_ceil(PART);
    let outer = out.len() / inner;
    if parts == 1 {
        threads.chunks(out, inner, |o, out| {
            let data = &data[o * reduced * inner..][..reduced * inner];
            dispatch(ColumnsKernel { data, how, out });
        });
        return;
    }
    let mut partial = vec![0.0; outer * parts * inner];
    threads.chunks(&mut partial, inner, |i, out| {
        let (o, part) = (i / parts, i % parts);
        let rows = PART.min(reduced - part * PART);
        let data = &data[(o * reduced + part * PART) * inner..][..rows * inner];
        dispatch(ColumnsKernel { data, how, out });
    });
    for (out, partial) in out.chunks_exact_mut(inner).zip(partial.chunks_exact(parts * inner)) {
        out.copy_from_slice(&partial[..inner]);
        for row in partial.chunks_exact(inner).skip(1) {
            out.iter_mut().zip(row).for_each(|(a, &b)| *a = how.join(*a, b));
        }
    }
}

struct ColumnsKernel<'a> {
    data: &'a [f32],
    how: Reduction,
    out: &'a mut [f32],
}
impl Kernel for ColumnsKernel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { data, how, out } = self;
        let inner = out.len();
        // Four vectors side by side.
        let wide = 4 * S::LANES;
        let mut c = 0;
        while c + wide <= inner {
            let mut sums = [s.splat(how.start()); 4];
            for row in data.chunks_exact(inner) {
                let row = &row[c..c + wide];
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = how.take(s, *sum, s.load(&row[v * S::LANES..]));
                }
            }
            for (v, sum) in sums.into_iter().enumerate() {
                s.store(&mut out[c + v * S::LANES..], sum);
            }
            c += wide;
        }
        while c < inner {
            let lanes = S::LANES.min(inner - c);
            let mut sum = s.splat(how.start());
            for row in data.chunks_exact(inner) {
                sum = how.take(s, sum, s.load_partial(&row[c..c + lanes]));
            }
            s.store_partial(&mut out[c..c + lanes], sum);
            c += lanes;
        }
    }
}

struct RowsKernel<'a> {
    data: &'a [f32],
    len: usize,
    how: Reduction,
    out: &'a mut [f32],
}
impl Kernel for RowsKernel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (out, row) in self.out.iter_mut().zip(self.data.chunks_exact(self.len)) {
            *out = row_total(s, row, self.how);
        }
    }
}

/// All of a row brought together: four vectors in turn, then their lanes, then what is left.
#[inline(always)]
pub(super) fn row_total<S: Simd>(s: S, row: &[f32], how: Reduction) -> f32 {
    let mut sums = [s.splat(how.start()); 4];
    let mut wide = row.chunks_exact(4 * S::LANES);
    for chunk in &mut wide {
        for (v, sum) in sums.iter_mut().enumerate() {
            *sum = how.take(s, *sum, s.load(&chunk[v * S::LANES..]));
        }
    }
    let mut narrow = wide.remainder().chunks_exact(S::LANES);
    for chunk in &mut narrow {
        sums[0] = how.take(s, sums[0], s.load(chunk));
    }
    let mut total = how.start();
    for sum in sums {
        total = how.join(
            total,
            s.fold(
                sum,
                #[inline(always)]
                |a, b| how.join(a, b),
            ),
        );
    }
    let rest = narrow.remainder();
    if !rest.is_empty() {
        let mut lanes = [how.start(); super::simd::MAX_LANES];
        for (lane, &x) in lanes.iter_mut().zip(rest) {
            let x = match how {
                Reduction::SumOfSquares => x * x,
                Reduction::SumOfMagnitudes => x.abs(),
                _ => x,
            };
            *lane = x;
        }
        for lane in lanes {
            total = how.join(total, lane);
        }
    }
    total
}

/// How rows are normalized.
#[derive(Clone, Copy, Debug)]
pub struct Normalize<'a> {
    /// Length of a row.
    pub len: usize,
    /// Whether the mean is taken away first.
    pub center: bool,
    /// Added to the mean of squares.
    pub epsilon: f32,
    /// Factors: for each number of a row, or for each row in turn.
    pub scale: Option<&'a [f32]>,
    /// Added at the end, as many as there are factors.
    pub shift: Option<&'a [f32]>,
    /// Whether factors go by row (and start again after the last) rather than by place in the row.
    pub by_row: bool,
}

impl Normalize<'_> {
    /// Normalizes the rows of `data` into `out`.
    pub fn run(&self, threads: &Threads, data: &[f32], out: &mut [f32]) {
        let rows = (PIECE / self.len.max(1)).max(1);
        threads.chunks(out, rows * self.len, |i, out| {
            let data = &data[i * rows * self.len..][..out.len()];
            dispatch(NormalizeKernel { how: self, first: i * rows, data, out });
        });
    }
}

impl Normalize<'_> {
    /// The number for row `row`, where they go by row.
    #[inline(always)]
    fn by_row(&self, values: Option<&[f32]>, row: usize, default: f32) -> f32 {
        match values {
            Some(values) if self.by_row => values[row % values.len()],
            _ => default,
        }
    }
    /// The numbers from place `at` of a row, where they go by place.
    #[inline(always)]
    fn by_place<S: Simd>(
        &self,
        s: S,
        values: Option<&[f32]>,
        at: usize,
        lanes: usize,
        default: S::V,
    ) -> S::V {
        match values {
            Some(values) if !self.by_row => s.load_partial(&values[at..at + lanes]),
            _ => default,
        }
    }
}

struct NormalizeKernel<'a> {
    how: &'a Normalize<'a>,
    first: usize,
    data: &'a [f32],
    out: &'a mut [f32],
}
impl Kernel for NormalizeKernel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { how, first, data, out } = self;
        let count = how.len as f32;
        for (r, (row, out)) in data.chunks_exact(how.len).zip(out.chunks_exact_mut(how.len)).enumerate() {
            let mean = if how.center { row_total(s, row, Reduction::Sum) / count } else { 0.0 };
            let center = s.splat(mean);
            // Of the differences, not of the squares: no cancellation.
            let mut squares = s.splat(0.0);
            let mut chunks = row.chunks_exact(S::LANES);
            for chunk in &mut chunks {
                let d = s.sub(s.load(chunk), center);
                squares = s.fma(d, d, squares);
            }
            let rest: f32 = chunks.remainder().iter().map(|x| (x - mean) * (x - mean)).sum();
            let variance = (s.sum(squares) + rest) / count;
            let factor = 1.0 / (variance + how.epsilon).sqrt();
            let factor = s.splat(factor * how.by_row(how.scale, first + r, 1.0));
            let added = s.splat(how.by_row(how.shift, first + r, 0.0));
            for (c, (from, to)) in row.chunks(S::LANES).zip(out.chunks_mut(S::LANES)).enumerate() {
                let at = c * S::LANES;
                let x = s.mul(s.sub(s.load_partial(from), center), factor);
                let scale = how.by_place(s, how.scale, at, from.len(), s.splat(1.0));
                let shift = how.by_place(s, how.shift, at, from.len(), added);
                s.store_partial(to, s.fma(x, scale, shift));
            }
        }
    }
}
