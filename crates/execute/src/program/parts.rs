//! A compute step, part by part.

use super::evaluate::{Body, Evaluator, Run};
use super::store::Holder;
use super::{Array, Machine};
use orrery_base::{Diagnostic, Result};
use orrery_ir::op::{Access, elementwise, optimizer};
use orrery_ir::{Bindings, Op};
use orrery_numerics::{DType, Format};
use orrery_program::memory::unbound;
use orrery_program::{BoundGrid, BufferId, Range, Step, WriteMode, access_range};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Elements of the largest operand that are evaluated together, where parts are.
const STACKED: usize = 1 << 15;

/// What a part made.
pub(super) struct Made {
    /// The core it ran on.
    pub(super) core: u64,
    /// The box it made.
    pub(super) ranges: Vec<Range>,
    /// Its elements.
    pub(super) array: Array,
}

/// Where a part runs, and what of each axis is its.
struct Place {
    part: u64,
    core: u64,
    bounds: Vec<Range>,
}

/// An operand or a result of all parts.
struct Side<'a> {
    name: &'a str,
    access: &'a [Access],
    extents: Vec<i64>,
}

/// Where a part finds an operand.
enum Source<'a> {
    /// In a shared memory.
    Shared(Array),
    /// On its core.
    Local(Holder<'a>),
}

/// The parts of a step.
pub(super) struct Parts<'a> {
    step: &'a Step,
    bindings: &'a Bindings,
    evaluator: &'a Evaluator<'a>,
    body: Body<'a>,
    grid: BoundGrid,
    reads: Vec<(Side<'a>, Source<'a>)>,
    /// With the type that the buffer keeps.
    writes: Vec<(Side<'a>, WriteMode, DType)>,
}

impl<'a> Parts<'a> {
    /// `shared` has the elements of each operand that is in a shared memory.
    pub(super) fn new(
        machine: &'a Machine<'_>,
        step: &'a Step,
        evaluator: &'a Evaluator<'a>,
        grid: BoundGrid,
        shared: Vec<Option<Array>>,
    ) -> Result<Self> {
        let side = |buffer: BufferId, access: &'a [Access]| -> Result<Side<'a>> {
            let extents = machine.extents(buffer)?.into_iter().map(|n| n as i64).collect();
            Ok(Side { name: &machine.program.buffers[buffer].name, access, extents })
        };
        let mut reads = Vec::with_capacity(step.reads.len());
        for (read, shared) in step.reads.iter().zip(shared) {
            let source = match shared {
                Some(whole) => Source::Shared(whole),
                None => {
                    let stored = &machine.stored[&machine.program.storage(read.buffer)];
                    let buffer = &machine.program.buffers[read.buffer];
                    Source::Local(Holder::new(stored, buffer, &machine.bindings)?)
                }
            };
            reads.push((side(read.buffer, &read.access)?, source));
        }
        let mut writes = Vec::with_capacity(step.writes.len());
        for write in &step.writes {
            let dtype = machine.program.buffers[write.buffer].dtype;
            writes.push((side(write.buffer, &write.access)?, write.mode, dtype));
        }
        let body = Body::new(&step.body)?;
        Ok(Self { step, bindings: &machine.bindings, evaluator, body, grid, reads, writes })
    }

    /// Runs all parts: for each result, what they made of it.
    pub(super) fn all(&self) -> Result<Vec<Vec<Made>>> {
        let parts: Vec<Vec<Made>> = if self.grid.parts() > 1 && self.is_elementwise() {
            self.stacked()?
        } else {
            (0..self.grid.parts()).into_par_iter().map(|part| self.part(part)).collect::<Result<_>>()?
        };
        let mut made: Vec<Vec<Made>> = self.writes.iter().map(|_| Vec::with_capacity(parts.len())).collect();
        for part in parts {
            made.iter_mut().zip(part).for_each(|(all, one)| all.push(one));
        }
        Ok(made)
    }

    /// True where each element comes out of those at its place alone, by operations that take any number of leading
    /// dimensions: parts can then be evaluated together, and make the same.
    fn is_elementwise(&self) -> bool {
        let takes_more =
            |op: Op| elementwise::TABLE.iter().chain(optimizer::TABLE).any(|entry| entry.op == op);
        let axes = self.grid.cuts.len();
        let follows = |(side, ..): &(Side<'_>, WriteMode, DType)| {
            side.access.len() == axes && side.access.iter().enumerate().all(|(d, a)| *a == Access::along(d))
        };
        let at_its_place = |side: &Side<'_>| {
            let lead = axes.checked_sub(side.access.len());
            let mut dims = side.access.iter().zip(&side.extents).enumerate();
            lead.is_some_and(|lead| {
                dims.all(|(d, (a, n))| *a == Access::along(lead + d) || *a == Access::Whole && *n == 1)
            })
        };
        self.step.part_attrs.is_empty()
            && self.step.body.nodes.values().all(|node| takes_more(node.op))
            && self.writes.iter().all(follows)
            && self.reads.iter().all(|(side, _)| at_its_place(side))
    }

    /// Runs the parts of an element-wise step, those of equal shapes together.
    fn stacked(&self) -> Result<Vec<Vec<Made>>> {
        let mut equal: BTreeMap<Vec<Vec<usize>>, Vec<(Place, Vec<Array>)>> = BTreeMap::new();
        for part in 0..self.grid.parts() {
            let Some(place) = self.place(part) else { continue };
            let operands = self.operands(&place)?;
            let shapes = operands.iter().map(|array| array.shape().to_vec()).collect();
            equal.entry(shapes).or_default().push((place, operands));
        }
        let mut runs = Vec::new();
        for (shapes, parts) in &equal {
            let elements = shapes.iter().map(|shape| shape.iter().product::<usize>()).max().unwrap_or(1);
            runs.extend(parts.chunks((STACKED / elements.max(1)).max(1)));
        }
        let made: Vec<Vec<Vec<Made>>> =
            runs.into_par_iter().map(|parts| self.together(parts)).collect::<Result<_>>()?;
        Ok(made.into_iter().flatten().collect())
    }

    /// Runs parts of equal shapes as one.
    fn together(&self, parts: &[(Place, Vec<Array>)]) -> Result<Vec<Vec<Made>>> {
        let rank = self.grid.cuts.len();
        let stack = |number: usize| {
            let blocks: Vec<&Array> = parts.iter().map(|(_, operands)| &operands[number]).collect();
            // What all parts share is broadcast, as scalars that an optimizer takes must be.
            if blocks.iter().all(|block| block.is_same(blocks[0])) {
                return Ok(blocks[0].clone());
            }
            let lead = vec![1; rank - blocks[0].shape().len()];
            let shape = [&[parts.len()][..], &lead, blocks[0].shape()].concat();
            Array::joined(&blocks, shape).ok_or_else(|| {
                Box::new(Diagnostic::error("mapping", "blocks of one buffer are of different types"))
            })
        };
        let operands = (0..self.reads.len()).map(stack).collect::<Result<Vec<_>>>()?;
        let numbers: Vec<u64> = parts.iter().map(|(place, _)| place.part).collect();
        let run = Run::Stacked { parts: &numbers, rank };
        let results = self.evaluator.body(&self.body, operands, None, run)?;
        let mut made: Vec<Vec<Made>> = parts.iter().map(|_| Vec::with_capacity(results.len())).collect();
        for ((side, _, dtype), result) in self.writes.iter().zip(results) {
            let result = result.stored_as(*dtype);
            let count: usize = result.shape().iter().product();
            for (at, ((place, _), made)) in parts.iter().zip(&mut made).enumerate() {
                let ranges = side.ranges(&place.bounds, self.bindings)?;
                let shape = shape(&ranges);
                let size = shape.iter().product::<usize>();
                let array = if result.shape().len() > rank && count == parts.len() * size {
                    result.run(at * size, shape)
                } else {
                    // Nothing that was read differs from part to part.
                    result.clone().reshaped(shape)
                };
                let array = array.ok_or_else(|| {
                    let cause =
                        format!("a part makes {:?} where `{}` takes another size", result.shape(), side.name);
                    Diagnostic::error("mapping", cause)
                })?;
                made.push(Made { core: place.core, ranges, array });
            }
        }
        Ok(made)
    }

    /// Runs all parts of a step whose results are combined on their way: each part's are added to those before it, in the
    /// order of the parts and in the format of sums, or a wider one that the buffer keeps; the whole is rounded once.
    pub(super) fn combined(&self) -> Result<Vec<Array>> {
        let sums =
            Format::parse(&self.step.arithmetic.accumulate).and_then(Format::dtype).unwrap_or(DType::F32);
        let mut wholes = Vec::new();
        for (side, mode, dtype) in &self.writes {
            let WriteMode::Combined(how) = mode else {
                return Diagnostic::error("mapping", "a step combines some of its results and not others")
                    .err();
            };
            let kept = if dtype.bits() > sums.bits() { *dtype } else { sums };
            let extents = side.extents.iter().map(|&n| n as usize).collect();
            let begun: BTreeSet<Vec<Range>> = BTreeSet::new();
            wholes.push((*how, kept, Array::zeros(kept, extents), begun));
        }
        let parts = self.grid.parts();
        let at_once = rayon::current_num_threads() as i64 * 2;
        for first in (0..parts).step_by(usize::try_from(at_once).unwrap_or(1)) {
            let made: Vec<Vec<Made>> = (first..parts.min(first + at_once))
                .into_par_iter()
                .map(|part| self.part(part))
                .collect::<Result<_>>()?;
            for results in made {
                for (Made { ranges, array, .. }, (how, kept, whole, begun)) in
                    results.into_iter().zip(&mut wholes)
                {
                    let array = array.stored_as(*kept);
                    let sum = if begun.contains(&ranges) {
                        whole.slice(&ranges, 0.0).combined(&array, *how).ok_or_else(|| {
                            Diagnostic::error("mapping", "parts of a sum are of different sizes")
                        })?
                    } else {
                        array
                    };
                    whole.put(&ranges, &sum.stored_as(*kept));
                    begun.insert(ranges);
                }
            }
        }
        let pairs = wholes.into_iter().zip(&self.writes);
        Ok(pairs.map(|((_, _, whole, _), (_, _, dtype))| whole.stored_as(*dtype)).collect())
    }

    /// Where a part is; none for an empty one.
    fn place(&self, part: i64) -> Option<Place> {
        let position = self.grid.position(part);
        let bounds = self.grid.box_at(&position);
        let is_empty = bounds.iter().any(|r| r.is_empty());
        (!is_empty).then(|| Place { part: part as u64, core: self.grid.core(&position), bounds })
    }

    /// What a part finds.
    fn operands(&self, place: &Place) -> Result<Vec<Array>> {
        let mut operands = Vec::with_capacity(self.reads.len());
        for (side, source) in &self.reads {
            let needed = side.ranges(&place.bounds, self.bindings)?;
            operands.push(match source {
                Source::Shared(whole) => whole.slice(&needed, self.step.padding),
                Source::Local(holder) => match holder.on_core(place.core).filter(|b| has_shape(b, &needed)) {
                    Some(block) => block.clone(),
                    None => {
                        let (core, shape, name) = (place.core, shape(&needed), side.name);
                        let cause = format!(
                            "core {core} does not hold the {shape:?} of `{name}` that its part needs"
                        );
                        return Diagnostic::error("mapping", cause).err();
                    }
                },
            });
        }
        Ok(operands)
    }

    /// Runs one part. An empty part makes nothing.
    fn part(&self, part: i64) -> Result<Vec<Made>> {
        let Some(place) = self.place(part) else { return Ok(Vec::new()) };
        let operands = self.operands(&place)?;
        let results =
            self.evaluator.body(&self.body, operands, Some(&self.step.part_attrs), Run::One(place.part))?;
        let mut made = Vec::with_capacity(results.len());
        for ((side, mode, dtype), result) in self.writes.iter().zip(results) {
            let ranges = side.ranges(&place.bounds, self.bindings)?;
            // What is combined on its way is rounded when it arrives.
            let result = match mode {
                WriteMode::Combined(_) => result,
                _ => result.stored_as(*dtype),
            };
            let array = if has_shape(&result, &ranges) {
                result
            } else {
                let (got, shape) = (result.shape().to_vec(), shape(&ranges));
                result.reshaped(shape.clone()).ok_or_else(|| {
                    let cause = format!("a part makes {got:?} where `{}` takes {shape:?}", side.name);
                    Diagnostic::error("mapping", cause)
                })?
            };
            made.push(Made { core: place.core, ranges, array });
        }
        Ok(made)
    }
}

impl Side<'_> {
    /// The box that a part's bounds mean.
    fn ranges(&self, bounds: &[Range], bindings: &Bindings) -> Result<Vec<Range>> {
        let each = self.access.iter().zip(&self.extents);
        each.map(|(access, &extent)| {
            access_range(access, bounds, extent, bindings).map_err(|s| Box::new(unbound(&s)))
        })
        .collect()
    }
}

fn shape(ranges: &[Range]) -> Vec<usize> {
    ranges.iter().map(|r| usize::try_from(r.len()).unwrap_or(0)).collect()
}

fn has_shape(array: &Array, ranges: &[Range]) -> bool {
    array.shape().len() == ranges.len()
        && array.shape().iter().zip(ranges).all(|(&n, r)| n == usize::try_from(r.len()).unwrap_or(0))
}
