//! Invariant 12: where the stages of a pipeline lie.

use super::{broken, ends, step_place};
use crate::memory::unbound;
use crate::{BoundGrid, BufferId, Phase, Program, Region, Step, StepId, StepKind};
use orrery_base::Result;
use orrery_ir::Bindings;

/// Checks the regions, then the steps in them.
pub(super) fn check(program: &Program) -> Result<()> {
    if program.items == 0 {
        return broken(12, "the pipeline", "has no items");
    }
    for (id, buffer) in program.buffers.iter() {
        let Some(dim) = buffer.by_item else { continue };
        let whole = |extent: i64| extent.unsigned_abs().is_multiple_of(program.items);
        if !buffer.shape.get(dim).is_some_and(|extent| extent.known().is_none_or(whole)) {
            return broken(12, &format!("buffer {id}"), "is not so many equal shares as there are items");
        }
    }
    for (number, region) in program.regions.iter().enumerate() {
        let place = format!("region {number}");
        if region.cores() == 0 {
            return broken(12, &place, "has no cores");
        }
        for (other, earlier) in program.regions[..number].iter().enumerate() {
            let numbers = region.base < earlier.end() && earlier.base < region.end();
            if numbers || region.overlaps(earlier) {
                return broken(12, &place, &format!("overlaps region {other}"));
            }
        }
    }
    let mut before = 0;
    for (id, step) in program.steps.iter() {
        let mut touched = step.reads.iter().map(|r| r.buffer).chain(step.writes.iter().map(|w| w.buffer));
        if step.once && touched.any(|buffer| program.buffers[buffer].by_item.is_some()) {
            return broken(
                12,
                &step_place(program, id),
                "runs once, on something that each item has a share of",
            );
        }
        let Some(stage) = step.region else { continue };
        let Some(region) = program.regions.get(stage as usize) else {
            return broken(
                12,
                &step_place(program, id),
                &format!("is in region {stage}, which does not exist"),
            );
        };
        let after_all = step.once && step.phase == Phase::Update;
        if stage < before && !after_all {
            return broken(
                12,
                &step_place(program, id),
                "belongs to an earlier stage than the step before it",
            );
        }
        before = if after_all { before } else { stage };
        within(program, id, step, region)?;
    }
    Ok(())
}

/// What a staged step makes, and what it computes on, lies on the cores of its region.
fn within(program: &Program, id: StepId, step: &Step, region: &Region) -> Result<()> {
    let inside = |base: u64, end: u64| base >= region.base && end <= region.end();
    for bindings in &ends(program) {
        let lies = |buffer: BufferId| lies_within(program, buffer, bindings, &inside);
        let cut = step.kind == StepKind::Compute && !step.approximate;
        if cut {
            let grid = BoundGrid::new(step.base, &step.grid, bindings).map_err(|s| unbound(&s))?;
            if !inside(grid.base, grid.core_end()) {
                return broken(12, &step_place(program, id), "has parts outside of its region");
            }
        }
        let reads = step.reads.iter().map(|r| r.buffer).filter(|_| cut);
        for buffer in reads.chain(step.writes.iter().map(|w| w.buffer)) {
            if !lies(buffer)? {
                let cause = format!("has `{}` outside of its region", program.buffers[buffer].name);
                return broken(12, &step_place(program, id), &cause);
            }
        }
    }
    Ok(())
}

fn lies_within(
    program: &Program,
    buffer: BufferId,
    bindings: &Bindings,
    inside: &impl Fn(u64, u64) -> bool,
) -> Result<bool> {
    let buffer = &program.buffers[buffer];
    if program.memories[buffer.home].cores == 1 {
        return Ok(true);
    }
    let grid = BoundGrid::new(buffer.layout.base, &buffer.layout.cuts, bindings).map_err(|s| unbound(&s))?;
    Ok(inside(grid.base, grid.core_end()))
}
