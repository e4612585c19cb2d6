//! What lies on the cores.

use super::Array;
use orrery_base::{Diagnostic, Result};
use orrery_ir::Bindings;
use orrery_program::memory::unbound;
use orrery_program::{BoundGrid, Buffer, Range, access_range};

/// The elements of a buffer.
pub(super) enum Stored {
    /// In a shared memory.
    Whole(Array),
    /// On cores: each distinct block once, by the row-major position along the cuts that some dimension follows. None
    /// where nothing was written there.
    Blocks(Vec<Option<Array>>),
}

/// A layout under bindings.
struct Bound {
    grid: BoundGrid,
    /// Which cuts some dimension follows; the others make copies.
    followed: Vec<bool>,
}

impl Bound {
    fn of(buffer: &Buffer, bindings: &Bindings) -> Result<Self> {
        let grid =
            BoundGrid::new(buffer.layout.base, &buffer.layout.cuts, bindings).map_err(|s| unbound(&s))?;
        let followed =
            (0..grid.cuts.len()).map(|i| buffer.layout.access.iter().any(|a| a.axis() == Some(i))).collect();
        Ok(Self { grid, followed })
    }
    fn count(&self) -> usize {
        let parts = self.grid.cuts.iter().zip(&self.followed).filter(|(_, f)| **f).map(|(c, _)| c.parts);
        usize::try_from(parts.product::<i64>()).unwrap_or(0)
    }
    /// Position along all cuts of the block number `index`, first copy.
    fn position(&self, index: usize) -> Vec<i64> {
        let mut rest = index as i64;
        let mut position = vec![0; self.grid.cuts.len()];
        for (i, cut) in self.grid.cuts.iter().enumerate().rev() {
            if self.followed[i] {
                position[i] = rest % cut.parts;
                rest /= cut.parts;
            }
        }
        position
    }
    /// The block on a core, or none where the layout puts nothing there.
    fn block_on(&self, core: u64) -> Option<usize> {
        let mut rest = core.checked_sub(self.grid.base)?;
        let mut position = vec![0_i64; self.grid.cuts.len()];
        let mut order: Vec<usize> =
            (0..self.grid.cuts.len()).filter(|i| self.grid.cuts[*i].parts > 1).collect();
        order.sort_by_key(|i| std::cmp::Reverse(self.grid.cuts[*i].stride));
        for i in order {
            let cut = self.grid.cuts[i];
            let at = i64::try_from(rest.checked_div(cut.stride)?).ok()?;
            if at >= cut.parts {
                return None;
            }
            position[i] = at;
            rest -= at as u64 * cut.stride;
        }
        if rest != 0 {
            return None;
        }
        let mut index = 0;
        for (i, cut) in self.grid.cuts.iter().enumerate() {
            if self.followed[i] {
                index = index * cut.parts + position[i];
            }
        }
        usize::try_from(index).ok()
    }
    fn ranges(&self, buffer: &Buffer, index: usize, bindings: &Bindings) -> Result<Vec<Range>> {
        let bounds = self.grid.box_at(&self.position(index));
        buffer
            .layout
            .access
            .iter()
            .zip(&buffer.shape)
            .map(|(access, dim)| {
                let extent = dim.eval(bindings).map_err(|s| unbound(&s))?;
                access_range(access, &bounds, extent, bindings).map_err(|s| Box::new(unbound(&s)))
            })
            .collect()
    }
}

impl Stored {
    /// Lays an array out over the cores.
    pub(super) fn scatter(buffer: &Buffer, whole: &Array, bindings: &Bindings, padding: f64) -> Result<Self> {
        let bound = Bound::of(buffer, bindings)?;
        let blocks = (0..bound.count())
            .map(|i| {
                let ranges = bound.ranges(buffer, i, bindings)?;
                Ok((!ranges.iter().any(|r| r.is_empty())).then(|| whole.slice(&ranges, padding)))
            })
            .collect::<Result<_>>()?;
        Ok(Self::Blocks(blocks))
    }
    /// Puts what cores made where they are.
    pub(super) fn from_cores(
        buffer: &Buffer,
        made: impl Iterator<Item = (u64, Array)>,
        bindings: &Bindings,
    ) -> Result<Self> {
        let bound = Bound::of(buffer, bindings)?;
        let mut blocks = vec![None; bound.count()];
        for (core, array) in made {
            let Some(index) = bound.block_on(core) else {
                return Diagnostic::error(
                    "mapping",
                    format!("the layout of `{}` has nothing on core {core}", buffer.name),
                )
                .err();
            };
            blocks[index] = Some(array);
        }
        Ok(Self::Blocks(blocks))
    }
    /// What a core holds.
    pub(super) fn on_core(&self, buffer: &Buffer, core: u64, bindings: &Bindings) -> Result<Option<&Array>> {
        match self {
            Self::Whole(array) => Ok(Some(array)),
            Self::Blocks(blocks) => Ok(Bound::of(buffer, bindings)?
                .block_on(core)
                .and_then(|i| blocks.get(i))
                .and_then(Option::as_ref)),
        }
    }
    /// All elements as one array. Blocks must not contradict each other in size.
    pub(super) fn gather(&self, buffer: &Buffer, extents: &[usize], bindings: &Bindings) -> Result<Array> {
        let blocks = match self {
            Self::Whole(array) => return Ok(array.clone()),
            Self::Blocks(blocks) => blocks,
        };
        let bound = Bound::of(buffer, bindings)?;
        let mut whole = Array::zeros(buffer.dtype, extents.to_vec());
        for (i, block) in blocks.iter().enumerate() {
            let Some(block) = block else { continue };
            let ranges = bound.ranges(buffer, i, bindings)?;
            let fits = ranges.iter().zip(block.shape()).all(|(r, &e)| r.len() == e as i64);
            if !fits {
                return Diagnostic::error(
                    "mapping",
                    format!("a block of `{}` has another size than its layout says", buffer.name),
                )
                .err();
            }
            whole.put(&ranges, block);
        }
        Ok(whole)
    }
}
