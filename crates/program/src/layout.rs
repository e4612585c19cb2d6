//! How a box of work or a buffer lies over cores.
//!
//! A grid cuts axes into parts and puts each part on a core; a layout says which range of each dimension of a buffer a
//! core then holds. Both are described by a few numbers for each axis and never listed part by part.

use orrery_ir::op::Access;
use orrery_ir::{Bindings, Dim};

/// How an axis is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cutting {
    /// Into so many parts of equal size, the last ones shorter or empty.
    Parts(u64),
    /// Into parts of that size, as many as it takes.
    Blocks(u64),
}

/// One axis of a grid.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cut {
    /// What the op calls the axis.
    pub name: String,
    /// Its length.
    pub extent: Dim,
    /// How it is cut.
    pub cutting: Cutting,
    /// How far on the core index one part lies from the next.
    pub stride: u64,
}

/// A cut with its length known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundCut {
    /// Length.
    pub extent: i64,
    /// Number of parts, empty ones counted; at least one.
    pub parts: i64,
    /// Length of a full part.
    pub block: i64,
    /// See [`Cut::stride`].
    pub stride: u64,
}

/// A half-open range of one dimension. May reach outside of the dimension: that is padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    /// First.
    pub lo: i64,
    /// One after the last.
    pub hi: i64,
}

impl Range {
    /// Number of elements; none where it is reversed.
    pub fn len(self) -> i64 {
        (self.hi - self.lo).max(0)
    }
    /// True where nothing is in it.
    pub fn is_empty(self) -> bool {
        self.hi <= self.lo
    }
}

impl Cut {
    /// True where there can be more than one part.
    pub fn is_cut(&self) -> bool {
        self.cutting != Cutting::Parts(1)
    }
    /// The cut under bindings.
    ///
    /// # Errors
    /// The name of a symbol without a binding.
    pub fn bind(&self, bindings: &Bindings) -> Result<BoundCut, String> {
        let extent = self.extent.eval(bindings)?.max(0);
        let (parts, block) = match self.cutting {
            Cutting::Parts(parts) => {
                let parts = i64::try_from(parts.max(1)).unwrap_or(i64::MAX);
                (parts, (extent + parts - 1) / parts)
            }
            Cutting::Blocks(block) => {
                let block = i64::try_from(block.max(1)).unwrap_or(i64::MAX);
                (((extent + block - 1) / block).max(1), block.min(extent.max(1)))
            }
        };
        Ok(BoundCut { extent, parts, block, stride: self.stride })
    }
}

impl BoundCut {
    /// The range of part `i`; empty past the end.
    pub fn range(self, i: i64) -> Range {
        let lo = (i * self.block).min(self.extent);
        Range { lo, hi: (lo + self.block).min(self.extent) }
    }
}

/// A grid under bindings: parts in row-major order of its cuts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundGrid {
    /// Cuts, outermost first.
    pub cuts: Vec<BoundCut>,
    /// Core of the first part.
    pub base: u64,
}

impl BoundGrid {
    /// Binds all cuts.
    ///
    /// # Errors
    /// The name of a symbol without a binding.
    pub fn new(base: u64, cuts: &[Cut], bindings: &Bindings) -> Result<Self, String> {
        Ok(Self { cuts: cuts.iter().map(|c| c.bind(bindings)).collect::<Result<_, _>>()?, base })
    }
    /// Number of parts.
    pub fn parts(&self) -> i64 {
        self.cuts.iter().map(|c| c.parts).product()
    }
    /// Place of part number `part` along each cut.
    pub fn position(&self, part: i64) -> Vec<i64> {
        let mut rest = part;
        let mut position = vec![0; self.cuts.len()];
        for (at, cut) in position.iter_mut().zip(&self.cuts).rev() {
            *at = rest % cut.parts;
            rest /= cut.parts;
        }
        position
    }
    /// Core of a position.
    pub fn core(&self, position: &[i64]) -> u64 {
        self.base + position.iter().zip(&self.cuts).map(|(&at, cut)| at as u64 * cut.stride).sum::<u64>()
    }
    /// Box of a position: one range for each cut.
    pub fn box_at(&self, position: &[i64]) -> Vec<Range> {
        position.iter().zip(&self.cuts).map(|(&at, cut)| cut.range(at)).collect()
    }
    /// One past the highest core.
    pub fn core_end(&self) -> u64 {
        let last: Vec<i64> = self.cuts.iter().map(|c| c.parts - 1).collect();
        self.core(&last) + 1
    }
}

/// Where a buffer's elements are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Core of the first block.
    pub base: u64,
    /// The grid of blocks. An axis that no dimension follows makes copies.
    pub cuts: Vec<Cut>,
    /// For each dimension the range that a block holds.
    pub access: Vec<Access>,
}

impl Layout {
    /// One block with everything, on core `base`.
    pub fn whole(rank: usize, base: u64) -> Self {
        Self { base, cuts: Vec::new(), access: vec![Access::Whole; rank] }
    }
    /// True where one block holds everything.
    pub fn is_whole(&self) -> bool {
        self.access.iter().all(|a| *a == Access::Whole)
    }
    /// True where both put the same elements on the same cores.
    pub fn same_place(&self, other: &Self) -> bool {
        self.base == other.base
            && self.access.len() == other.access.len()
            && (0..self.access.len()).all(|d| self.along(d) == other.along(d))
            && self.copies() == other.copies()
    }
    /// How a dimension is laid out; none where every block holds all of it.
    fn along(&self, dim: usize) -> Option<(&Cut, Access)> {
        let access = &self.access[dim];
        let cut = &self.cuts[access.axis()?];
        match access {
            Access::Window { stride, before, reach, .. } => {
                Some((cut, Access::Window { axis: 0, stride: *stride, before: *before, reach: *reach }))
            }
            Access::Along { scale, .. } if cut.is_cut() => {
                Some((cut, Access::Along { axis: 0, scale: scale.clone() }))
            }
            _ => None,
        }
    }
    /// The cuts that make copies.
    pub fn copies(&self) -> Vec<&Cut> {
        let followed = |i| self.access.iter().any(|a| a.axis() == Some(i));
        let mut copies: Vec<&Cut> = self
            .cuts
            .iter()
            .enumerate()
            .filter(|(i, c)| c.is_cut() && !followed(*i))
            .map(|(_, c)| c)
            .collect();
        copies.sort_by_key(|c| (c.stride, c.cutting));
        copies
    }
    /// Extents of the largest block of a buffer of shape `shape`.
    ///
    /// # Errors
    /// The name of a symbol without a binding.
    pub fn block_extents(&self, shape: &[Dim], bindings: &Bindings) -> Result<Vec<i64>, String> {
        let grid = BoundGrid::new(self.base, &self.cuts, bindings)?;
        let largest: Vec<Range> = grid.cuts.iter().map(|c| c.range(0)).collect();
        shape
            .iter()
            .zip(&self.access)
            .map(|(dim, access)| Ok(access_range(access, &largest, dim.eval(bindings)?, bindings)?.len()))
            .collect()
    }
}

/// The range of a dimension of length `extent` that a box needs.
///
/// # Errors
/// The name of a symbol without a binding.
pub fn access_range(
    access: &Access,
    bounds: &[Range],
    extent: i64,
    bindings: &Bindings,
) -> Result<Range, String> {
    Ok(match access {
        Access::Whole => Range { lo: 0, hi: extent },
        Access::Along { axis, scale } => {
            let scale = scale.eval(bindings)?;
            Range { lo: bounds[*axis].lo * scale, hi: bounds[*axis].hi * scale }
        }
        Access::Window { axis, stride, before, reach } => {
            let along = bounds[*axis];
            if along.is_empty() {
                Range { lo: 0, hi: 0 }
            } else {
                Range { lo: along.lo * stride - before, hi: (along.hi - 1) * stride - before + reach }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(extent: i64, cutting: Cutting, stride: u64) -> Cut {
        Cut { name: "axis".into(), extent: extent.into(), cutting, stride }
    }

    #[test]
    fn parts_cover_the_axis_once() {
        for extent in [0, 1, 7, 64, 65] {
            for cutting in [Cutting::Parts(1), Cutting::Parts(4), Cutting::Parts(9), Cutting::Blocks(8)] {
                let bound = cut(extent, cutting, 1).bind(&Bindings::new()).unwrap();
                let covered: Vec<i64> =
                    (0..bound.parts).flat_map(|i| bound.range(i).lo..bound.range(i).hi).collect();
                assert_eq!(covered, (0..extent).collect::<Vec<_>>(), "{extent} {cutting:?}");
            }
        }
    }

    #[test]
    fn positions_and_cores() {
        let cuts = [cut(8, Cutting::Parts(2), 3), cut(9, Cutting::Parts(3), 1)];
        let grid = BoundGrid::new(10, &cuts, &Bindings::new()).unwrap();
        assert_eq!(grid.parts(), 6);
        assert_eq!(grid.position(5), [1, 2]);
        assert_eq!(grid.core(&[1, 2]), 15);
        assert_eq!(grid.core_end(), 16);
    }
}
