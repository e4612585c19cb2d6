//! What lies on the cores.

use super::Array;
use orrery_base::{Diagnostic, Result};
use orrery_ir::Bindings;
use orrery_program::memory::unbound;
use orrery_program::{BoundCut, BoundGrid, Buffer, Range, access_range};

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
    /// For each cut that some dimension follows, how many blocks a step along it passes; none for those that make copies.
    weights: Vec<Option<usize>>,
    /// Cuts that there are, largest stride first.
    order: Vec<usize>,
    /// Extents of the buffer.
    extents: Vec<i64>,
}

impl Bound {
    fn of(buffer: &Buffer, bindings: &Bindings) -> Result<Self> {
        let grid =
            BoundGrid::new(buffer.layout.base, &buffer.layout.cuts, bindings).map_err(|s| unbound(&s))?;
        let mut weights = vec![None; grid.cuts.len()];
        let mut blocks = 1;
        for (i, cut) in grid.cuts.iter().enumerate().rev() {
            if buffer.layout.access.iter().any(|a| a.axis() == Some(i)) {
                weights[i] = Some(blocks);
                blocks *= usize::try_from(cut.parts).unwrap_or(0);
            }
        }
        let mut order: Vec<usize> = (0..grid.cuts.len()).filter(|i| grid.cuts[*i].parts > 1).collect();
        order.sort_by_key(|i| std::cmp::Reverse(grid.cuts[*i].stride));
        let extents = buffer.shape.iter().map(|dim| dim.eval(bindings).map_err(|s| Box::new(unbound(&s))));
        let extents = extents.collect::<Result<_>>()?;
        Ok(Self { grid, weights, order, extents })
    }
    fn count(&self) -> usize {
        let parts =
            self.grid.cuts.iter().zip(&self.weights).filter(|(_, w)| w.is_some()).map(|(c, _)| c.parts);
        usize::try_from(parts.product::<i64>()).unwrap_or(0)
    }
    /// Position along all cuts of the block number `index`, first copy.
    fn position(&self, index: usize) -> Vec<i64> {
        let at = |(cut, weight): (&BoundCut, &Option<usize>)| {
            weight.map_or(0, |weight| (index / weight) as i64 % cut.parts)
        };
        self.grid.cuts.iter().zip(&self.weights).map(at).collect()
    }
    /// The block on a core, or none where the layout puts nothing there.
    fn block_on(&self, core: u64) -> Option<usize> {
        let mut rest = core.checked_sub(self.grid.base)?;
        let mut index = 0;
        for &i in &self.order {
            let cut = self.grid.cuts[i];
            let at = rest.checked_div(cut.stride)?;
            if i64::try_from(at).ok()? >= cut.parts {
                return None;
            }
            index += self.weights[i].map_or(0, |weight| weight * at as usize);
            rest -= at * cut.stride;
        }
        (rest == 0).then_some(index)
    }
    fn ranges(&self, buffer: &Buffer, index: usize, bindings: &Bindings) -> Result<Vec<Range>> {
        let bounds = self.grid.box_at(&self.position(index));
        let each = buffer.layout.access.iter().zip(&self.extents);
        each.map(|(access, &extent)| {
            access_range(access, &bounds, extent, bindings).map_err(|s| Box::new(unbound(&s)))
        })
        .collect()
    }
}

/// Looks up what cores hold of a buffer.
pub(super) struct Holder<'a> {
    stored: &'a Stored,
    bound: Bound,
}

impl<'a> Holder<'a> {
    pub(super) fn new(stored: &'a Stored, buffer: &Buffer, bindings: &Bindings) -> Result<Self> {
        Ok(Self { stored, bound: Bound::of(buffer, bindings)? })
    }
    /// What a core holds.
    pub(super) fn on_core(&self, core: u64) -> Option<&'a Array> {
        match self.stored {
            Stored::Whole(array) => Some(array),
            Stored::Blocks(blocks) => blocks.get(self.bound.block_on(core)?)?.as_ref(),
        }
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
