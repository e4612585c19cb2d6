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
        self.hi.saturating_sub(self.lo).max(0)
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
                (parts, ceil_div(extent, parts))
            }
            Cutting::Blocks(block) => {
                let block = i64::try_from(block.max(1)).unwrap_or(i64::MAX);
                (ceil_div(extent, block).max(1), block.min(extent.max(1)))
            }
        };
        Ok(BoundCut { extent, parts, block, stride: self.stride })
    }
}

impl BoundCut {
    /// The range of part `i`; empty past the end.
    pub fn range(self, i: i64) -> Range {
        let lo = i.saturating_mul(self.block).min(self.extent);
        Range { lo, hi: lo.saturating_add(self.block).min(self.extent) }
    }
    /// How far the last part lies from the first on the core index.
    fn span(self) -> u64 {
        (self.parts - 1).unsigned_abs().saturating_mul(self.stride)
    }
}

/// Of numbers that are not negative, `b` at least one.
fn ceil_div(a: i64, b: i64) -> i64 {
    a / b + i64::from(a % b != 0)
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
        self.cuts.iter().fold(1, |parts, c| parts.saturating_mul(c.parts))
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
        let offsets =
            position.iter().zip(&self.cuts).map(|(&at, cut)| at.unsigned_abs().saturating_mul(cut.stride));
        offsets.fold(self.base, u64::saturating_add)
    }
    /// Box of a position: one range for each cut.
    pub fn box_at(&self, position: &[i64]) -> Vec<Range> {
        position.iter().zip(&self.cuts).map(|(&at, cut)| cut.range(at)).collect()
    }
    /// One past the highest core.
    pub fn core_end(&self) -> u64 {
        self.cuts.iter().map(|c| c.span()).fold(self.base, u64::saturating_add).saturating_add(1)
    }
    /// True where no two parts are on one core: where each cut steps over all that the cuts of smaller stride reach.
    pub fn one_part_a_core(&self) -> bool {
        let mut cuts: Vec<&BoundCut> = self.cuts.iter().filter(|c| c.parts > 1).collect();
        cuts.sort_by_key(|c| c.stride);
        let mut reach = 0_u64;
        cuts.iter().all(|cut| {
            let free = cut.stride > reach;
            reach = reach.saturating_add(cut.span());
            free
        })
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
    /// True where both put the same elements on the same cores. What the axes are called does not matter. Layouts that
    /// agree only by the numbers that symbols take, or by axes cut in other steps, count as different.
    pub fn same_place(&self, other: &Self) -> bool {
        let rank = self.access.len();
        // Dimensions that follow one axis in one layout do so in the other.
        let together = |layout: &Self, a: usize, b: usize| {
            layout.along(a).is_some()
                && layout.along(b).is_some()
                && layout.access[a].axis() == layout.access[b].axis()
        };
        self.base == other.base
            && rank == other.access.len()
            && (0..rank).all(|d| self.along(d) == other.along(d))
            && (0..rank).all(|a| (0..a).all(|b| together(self, a, b) == together(other, a, b)))
            && self.copies() == other.copies()
    }
    /// How a dimension is laid out: extent, cutting and stride of its axis, and how it follows it; none where every block
    /// holds all of it.
    fn along(&self, dim: usize) -> Option<(&Dim, Cutting, u64, Access)> {
        let access = &self.access[dim];
        let cut = &self.cuts[access.axis()?];
        let of = |access| Some((&cut.extent, cut.cutting, cut.stride, access));
        match access {
            Access::Window { stride, before, reach, .. } => {
                of(Access::Window { axis: 0, stride: *stride, before: *before, reach: *reach })
            }
            Access::Along { scale, .. } if cut.is_cut() => {
                of(Access::Along { axis: 0, scale: scale.clone() })
            }
            _ => None,
        }
    }
    /// The cuts that make copies: stride, cutting, and the extent where the number of parts follows from it.
    pub fn copies(&self) -> Vec<(u64, Cutting, Option<&Dim>)> {
        let followed = |i| self.access.iter().any(|a| a.axis() == Some(i));
        let mut copies: Vec<_> = self
            .cuts
            .iter()
            .enumerate()
            .filter(|(i, c)| c.is_cut() && !followed(*i))
            .map(|(_, c)| {
                let extent = matches!(c.cutting, Cutting::Blocks(_)).then_some(&c.extent);
                (c.stride, c.cutting, extent)
            })
            .collect();
        copies.sort_by_key(|c| (c.0, c.1));
        copies
    }
    /// Cores among which elements move when a buffer goes from this layout to another: all movement stays within groups
    /// of so many cores whose numbers follow one another. None where the layouts start on different cores.
    ///
    /// # Errors
    /// The name of a symbol without a binding.
    pub fn moved_among(&self, other: &Self, bindings: &Bindings) -> Result<Option<u64>, String> {
        if self.base != other.base || self.access.len() != other.access.len() {
            return Ok(None);
        }
        let bind =
            |layout: &Self| layout.cuts.iter().map(|c| c.bind(bindings)).collect::<Result<Vec<_>, _>>();
        let (one, another) = (bind(self)?, bind(other)?);
        let ends = one.iter().chain(&another).map(|c| c.span().saturating_add(c.stride.max(1)));
        let mut groups: Vec<u64> = std::iter::once(1).chain(ends).collect();
        groups.sort_unstable();
        groups.dedup();
        let last = groups.last().copied().unwrap_or(1);
        let found = groups.into_iter().find(|&group| {
            let dims = 0..self.access.len();
            dims.clone().all(|d| self.group_of(&one, d, group) == other.group_of(&another, d, group))
                && self.copied_over(&one, group) == other.copied_over(&another, group)
        });
        Ok(Some(found.unwrap_or(last)))
    }
    /// Which group of cores an index of a dimension falls into: so many indices to a group, groups so far apart, along
    /// the axis as the access follows it. None where all fall into one.
    fn group_of(&self, cuts: &[BoundCut], dim: usize, group: u64) -> Option<(i64, u64, Access)> {
        let (_, _, _, access) = self.along(dim)?;
        let cut = self.access[dim].axis().map(|axis| cuts[axis])?;
        if cut.parts <= 1 || cut.span().saturating_add(cut.stride.max(1)) <= group {
            return None;
        }
        if group.is_multiple_of(cut.stride.max(1)) {
            let blocks = i64::try_from(group / cut.stride.max(1)).unwrap_or(i64::MAX);
            return Some((cut.block.saturating_mul(blocks), 1, access));
        }
        // A stride that groups do not divide keeps its own measure.
        let apart = if cut.stride.is_multiple_of(group) { cut.stride / group } else { u64::MAX - cut.stride };
        Some((cut.block, apart, access))
    }
    /// Cuts that make copies in several groups.
    fn copied_over(&self, cuts: &[BoundCut], group: u64) -> Vec<(i64, u64)> {
        let followed = |i: usize| self.access.iter().any(|a| a.axis() == Some(i));
        let mut copies: Vec<(i64, u64)> = cuts
            .iter()
            .enumerate()
            .filter(|(i, c)| c.parts > 1 && !followed(*i) && c.span().saturating_add(c.stride.max(1)) > group)
            .map(|(_, c)| (c.parts, c.stride))
            .collect();
        copies.sort_unstable();
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
            Range { lo: bounds[*axis].lo.saturating_mul(scale), hi: bounds[*axis].hi.saturating_mul(scale) }
        }
        Access::Window { axis, stride, before, reach } => {
            let along = bounds[*axis];
            if along.is_empty() {
                Range { lo: 0, hi: 0 }
            } else {
                let start = |at: i64| at.saturating_mul(*stride).saturating_sub(*before);
                Range { lo: start(along.lo), hi: start(along.hi - 1).saturating_add(*reach) }
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
    fn cores_hold_one_part() {
        let one = |cuts: &[Cut]| BoundGrid::new(0, cuts, &Bindings::new()).unwrap().one_part_a_core();
        let parts = |n, stride| cut(8, Cutting::Parts(n), stride);
        assert!(one(&[parts(2, 4), parts(4, 1)]));
        assert!(one(&[parts(2, 1), parts(4, 2), parts(1, 0)]));
        assert!(one(&[parts(2, 5), parts(4, 1)]));
        assert!(!one(&[parts(2, 3), parts(4, 1)]));
        assert!(!one(&[parts(2, 0)]));
        assert!(!one(&[parts(2, 1), parts(2, 1)]));
    }

    #[test]
    fn places_are_compared() {
        let layout = |base, cuts: &[Cut], access: &[Access]| Layout {
            base,
            cuts: cuts.to_vec(),
            access: access.to_vec(),
        };
        let (rows, columns) = (cut(8, Cutting::Parts(2), 4), cut(9, Cutting::Parts(3), 1));
        let along = Access::along;
        let first = layout(0, &[rows.clone(), columns.clone()], &[along(0), along(1)]);
        let named = Cut { name: "other".into(), ..columns.clone() };
        let turned = layout(0, &[named, rows.clone()], &[along(1), along(0)]);
        assert!(first.same_place(&turned));
        assert!(!first.same_place(&layout(1, &first.cuts, &first.access)));
        assert!(!first.same_place(&layout(0, &first.cuts, &[along(0), Access::Whole])));
        assert!(!first.same_place(&layout(0, std::slice::from_ref(&rows), &[along(0), Access::Whole])));
        let other_stride = Cut { stride: 2, ..rows.clone() };
        assert!(!first.same_place(&layout(0, &[other_stride, columns], &first.access)));
        // Square blocks and a diagonal have the same cuts along each dimension.
        let diagonal = layout(0, std::slice::from_ref(&rows), &[along(0), along(0)]);
        assert!(!diagonal.same_place(&layout(0, &[rows.clone(), rows], &[along(0), along(1)])));
    }

    #[test]
    fn movement_stays_within_groups() {
        let layout = |rows: u64, columns: u64| Layout {
            base: 0,
            cuts: vec![cut(64, Cutting::Parts(rows), columns), cut(64, Cutting::Parts(columns), 1)],
            access: vec![Access::along(0), Access::along(1)],
        };
        let among = |a: &Layout, b: &Layout| a.moved_among(b, &Bindings::new()).unwrap();
        assert_eq!(among(&layout(16, 4), &layout(16, 4)), Some(1));
        // Four rows of four cores become one row of sixteen: nothing leaves its group of sixteen.
        assert_eq!(among(&layout(16, 4), &layout(4, 16)), Some(16));
        assert_eq!(among(&layout(16, 4), &layout(64, 1)), Some(4));
        assert_eq!(among(&layout(16, 4), &layout(1, 64)), Some(64));
        let elsewhere = Layout { base: 64, ..layout(16, 4) };
        assert_eq!(among(&layout(16, 4), &elsewhere), None);
        // Copies of rows on all columns.
        let copied = Layout { access: vec![Access::along(0), Access::Whole], ..layout(16, 4) };
        assert_eq!(among(&layout(16, 4), &copied), Some(4));
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
