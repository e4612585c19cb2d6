//! Places in a mesh of cores.

/// A rectangle of a mesh. Its cores are numbered row by row from `base`, every second row backwards, so that cores whose
/// numbers follow one another are neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Region {
    /// Number of its first core.
    pub base: u64,
    /// Column of its corner.
    pub x: u64,
    /// Row of its corner.
    pub y: u64,
    /// Cores along a row.
    pub columns: u64,
    /// Cores along a column.
    pub rows: u64,
}

impl Region {
    /// Number of cores.
    pub const fn cores(&self) -> u64 {
        self.columns.saturating_mul(self.rows)
    }
    /// One past its highest core number.
    pub const fn end(&self) -> u64 {
        self.base.saturating_add(self.cores())
    }
    /// True where both have a place of the mesh in common.
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.x < other.x.saturating_add(other.columns)
            && other.x < self.x.saturating_add(self.columns)
            && self.y < other.y.saturating_add(other.rows)
            && other.y < self.y.saturating_add(self.rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rectangles_that_touch_do_not_overlap() {
        let region = |x, y, columns, rows| Region { base: 0, x, y, columns, rows };
        let first = region(2, 3, 4, 5);
        assert!(!first.overlaps(&region(6, 3, 4, 5)) && !first.overlaps(&region(2, 8, 4, 5)));
        assert!(first.overlaps(&region(5, 7, 1, 1)) && first.overlaps(&region(0, 0, 10, 10)));
        assert_eq!((first.cores(), first.end()), (20, 20));
    }
}
