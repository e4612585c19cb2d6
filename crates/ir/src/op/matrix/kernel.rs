//! The product of two matrices, from which most of what rounds is made.
//!
//! Every element is the sum of its products in the order of the inner dimension, whatever the blocking: so results do
//! not depend on the sizes of blocks, and a part of a product equals the same part of the whole.

use orrery_numerics::{Accumulation, DType, Format};

use crate::Attrs;

/// Rows and columns that are worked on at a time: as many sums as a core has vector registers for.
const ROWS: usize = 4;
const COLUMNS: usize = 8;

/// What products are summed in: floats as they are, integers modulo their width.
pub trait Scalar: Copy + Default {
    /// `self + a * b`.
    #[must_use]
    fn add_product(self, a: Self, b: Self) -> Self;
    /// The sum of products in the accumulator that a machine has; integers have no other than their own.
    fn dot(how: &Accumulation, pairs: impl Iterator<Item = (Self, Self)>) -> Self;
}
macro_rules! scalar {
    (float: $($float:ident),*; integer: $($int:ident),*) => {
        $(impl Scalar for $float {
            #[inline(always)]
            fn add_product(self, a: Self, b: Self) -> Self {
                self + a * b
            }
            fn dot(how: &Accumulation, pairs: impl Iterator<Item = (Self, Self)>) -> Self {
                how.dot(pairs.map(|(a, b)| (a.into(), b.into())), 0) as Self
            }
        })*
        $(impl Scalar for $int {
            #[inline(always)]
            fn add_product(self, a: Self, b: Self) -> Self {
                self.wrapping_add(a.wrapping_mul(b))
            }
            fn dot(_: &Accumulation, pairs: impl Iterator<Item = (Self, Self)>) -> Self {
                pairs.fold(0, |sum: Self, (a, b)| sum.add_product(a, b))
            }
        })*
    };
}
scalar!(float: f32, f64; integer: i32, i64);

/// A matrix in memory: element (row, column) is `data[row * row_step + column * column_step]`.
#[derive(Clone, Copy)]
pub struct View<'a, T> {
    /// Elements, the first one first.
    pub data: &'a [T],
    /// Elements from one row to the next.
    pub row_step: usize,
    /// Elements from one column to the next.
    pub column_step: usize,
}

impl<'a, T> View<'a, T> {
    /// Rows of `columns` elements, one behind the other.
    pub fn rows(data: &'a [T], columns: usize) -> Self {
        Self { data, row_step: columns, column_step: 1 }
    }
    /// The same elements with rows for columns.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self { row_step: self.column_step, column_step: self.row_step, ..self }
    }
}

/// A left operand made ready to be multiplied, many times if need be.
pub struct Left<T> {
    rows: usize,
    inner: usize,
    /// Groups of [`ROWS`] rows, within a group one inner step after the other; then the rows left over, each by itself.
    packed: Vec<T>,
    accumulation: Option<Accumulation>,
}

impl<T: Scalar> Left<T> {
    /// `rows` x `inner` elements of `view`. With an accumulation, sums are formed as it says (slowly).
    pub fn new(view: View<'_, T>, rows: usize, inner: usize, accumulation: Option<Accumulation>) -> Self {
        let mut packed = Vec::with_capacity(rows * inner);
        let grouped = rows - rows % ROWS;
        for first in (0..grouped).step_by(ROWS) {
            for k in 0..inner {
                packed.extend(
                    (first..first + ROWS).map(|r| view.data[r * view.row_step + k * view.column_step]),
                );
            }
        }
        for r in grouped..rows {
            packed.extend((0..inner).map(|k| view.data[r * view.row_step + k * view.column_step]));
        }
        Self { rows, inner, packed, accumulation }
    }
    /// Writes the product with `inner` x `columns` elements of `right` into rows of `out`, `out_step` elements apart.
    pub fn multiply(&self, right: View<'_, T>, columns: usize, out: &mut [T], out_step: usize) {
        if self.rows == 0 || columns == 0 {
            return;
        }
        let mut panel = vec![T::default(); self.inner * COLUMNS];
        for first in (0..columns).step_by(COLUMNS) {
            let width = COLUMNS.min(columns - first);
            for (k, row) in panel.chunks_exact_mut(COLUMNS).enumerate() {
                let start = k * right.row_step + first * right.column_step;
                if right.column_step == 1 {
                    row[..width].copy_from_slice(&right.data[start..start + width]);
                } else {
                    for (c, slot) in row[..width].iter_mut().enumerate() {
                        *slot = right.data[start + c * right.column_step];
                    }
                }
            }
            let grouped = self.rows - self.rows % ROWS;
            for group in (0..grouped).step_by(ROWS) {
                let left = &self.packed[group * self.inner..(group + ROWS) * self.inner];
                self.store(
                    &self.tile::<ROWS>(left, &panel),
                    &mut out[group * out_step + first..],
                    width,
                    out_step,
                );
            }
            for row in grouped..self.rows {
                let left = &self.packed[row * self.inner..(row + 1) * self.inner];
                self.store(
                    &self.tile::<1>(left, &panel),
                    &mut out[row * out_step + first..],
                    width,
                    out_step,
                );
            }
        }
    }
    /// The sums of `R` rows with one panel.
    #[inline(always)]
    fn tile<const R: usize>(&self, left: &[T], panel: &[T]) -> [[T; COLUMNS]; R] {
        let mut sums = [[T::default(); COLUMNS]; R];
        if let Some(how) = &self.accumulation {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (c, sum) in sums.iter_mut().enumerate() {
                    *sum = T::dot(how, (0..self.inner).map(|k| (left[k * R + r], panel[k * COLUMNS + c])));
                }
            }
            return sums;
        }
        for (left, right) in left.as_chunks::<R>().0.iter().zip(panel.as_chunks::<COLUMNS>().0) {
            add_products(&mut sums, left, right);
        }
        sums
    }
    fn store<const R: usize>(&self, sums: &[[T; COLUMNS]; R], out: &mut [T], width: usize, out_step: usize) {
        for (r, sums) in sums.iter().enumerate() {
            out[r * out_step..r * out_step + width].copy_from_slice(&sums[..width]);
        }
    }
}

/// Adds the product of each element of a column with each of a row to its sum.
#[inline(always)]
fn add_products<T: Scalar, const R: usize>(
    sums: &mut [[T; COLUMNS]; R],
    left: &[T; R],
    right: &[T; COLUMNS],
) {
    for r in 0..R {
        for c in 0..COLUMNS {
            sums[r][c] = sums[r][c].add_product(left[r], right[c]);
        }
    }
}

/// The accumulation that the attribute `accumulate` asks for, or none where it is the one that elements of type
/// `dtype` have anyway: fp64 for f64, fp32 for all others.
///
/// # Errors
/// Where it names no number format.
pub fn accumulation(attrs: &Attrs, dtype: DType) -> Result<Option<Accumulation>, String> {
    let Some(name) = attrs.str("accumulate") else { return Ok(None) };
    let format = Format::parse(name)
        .ok_or_else(|| format!("attribute `accumulate` names no number format: `{name}`"))?;
    let own = if dtype == DType::F64 { Format::FP64 } else { Format::FP32 };
    Ok((format != own).then(|| Accumulation::new(format)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiplies_every_size() {
        for (m, k, n) in [(1, 1, 1), (4, 3, 8), (5, 7, 9), (3, 0, 2), (9, 2, 17), (0, 2, 3)] {
            let a: Vec<i64> = (0..m * k).map(|i| (i * 7 % 13) as i64 - 5).collect();
            let b: Vec<i64> = (0..k * n).map(|i| (i * 5 % 11) as i64 - 4).collect();
            let mut out = vec![99; m * n];
            Left::new(View::rows(&a, k), m, k, None).multiply(View::rows(&b, n), n, &mut out, n);
            let mut turned = vec![99; m * n];
            let at: Vec<i64> = (0..k * m).map(|i| a[i % m * k + i / m]).collect();
            let bt: Vec<i64> = (0..n * k).map(|i| b[i % k * n + i / k]).collect();
            Left::new(View::rows(&at, m).transposed(), m, k, None).multiply(
                View::rows(&bt, k).transposed(),
                n,
                &mut turned,
                n,
            );
            for i in 0..m * n {
                let expected: i64 = (0..k).map(|p| a[i / n * k + p] * b[p * n + i % n]).sum();
                assert_eq!((out[i], turned[i]), (expected, expected), "{m}x{k}x{n} at {i}");
            }
        }
    }

    #[test]
    fn accumulates_in_the_format_asked_for() {
        // 2048 + 1 is 2048 in fp16, which has 11 significant bits.
        let attrs = Attrs::new().with("accumulate", "fp16");
        let how = accumulation(&attrs, DType::F16).unwrap();
        let mut out = [0.0_f32];
        let (a, b) = ([2048.0, 1.0, 1.0], [1.0; 3]);
        Left::new(View::rows(&a, 3), 1, 3, how).multiply(View::rows(&b, 1), 1, &mut out, 1);
        assert_eq!(out, [2048.0]);
        Left::new(View::rows(&a, 3), 1, 3, None).multiply(View::rows(&b, 1), 1, &mut out, 1);
        assert_eq!(out, [2050.0]);
        assert!(accumulation(&Attrs::new().with("accumulate", "fp17"), DType::F16).is_err());
    }
}
