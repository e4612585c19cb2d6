//! Invariant 10: pipelines.

use super::{broken, ends, step_place};
use crate::memory::unbound;
use crate::{BoundGrid, BufferId, Pieces, PipelineId, Program, Step, StepId, StepKind};
use orrery_base::Result;
use std::collections::{BTreeMap, BTreeSet};

/// Checks the stages in order, then their cores.
pub(super) fn check(program: &Program) -> Result<()> {
    let mut cores: BTreeMap<PipelineId, u64> = BTreeMap::new();
    let mut ended: BTreeSet<PipelineId> = BTreeSet::new();
    let mut current = None;
    let mut touched: BTreeMap<BufferId, Option<PipelineId>> = BTreeMap::new();
    for (id, step) in program.steps.iter() {
        let place = step_place(program, id);
        let pipeline = step.stage.map(|stage| stage.pipeline);
        if step.kind != StepKind::View || pipeline.is_some() {
            if pipeline != current {
                ended.extend(current);
                current = pipeline;
            }
            if pipeline.is_some_and(|p| ended.contains(&p)) {
                return broken(11, &place, "goes on with a pipeline that has ended");
            }
        }
        if let Some(stage) = step.stage {
            let Some(all) = program.pipelines.get(stage.pipeline) else {
                return broken(11, &place, &format!("pipeline {} does not exist", stage.pipeline));
            };
            let taken = cores.entry(stage.pipeline).or_default();
            // What is loaded is loaded into the cores that the stages have.
            let loads = step.kind == StepKind::Load;
            let now = if loads { stage.cores } else { taken.saturating_add(stage.cores) };
            if now > all.cores {
                return broken(11, &place, &format!("the stages need {now} cores of {}", all.cores));
            }
            *taken = if loads { *taken } else { now };
        }
        let reads = step.reads.iter().map(|r| r.buffer);
        for buffer in reads.chain(step.writes.iter().map(|w| w.buffer)) {
            let storage = program.storage(buffer);
            let Some(pieces) = program.buffers[storage].pieces else { continue };
            let first = touched.entry(storage).or_insert(pipeline);
            if pipeline.is_none() || *first != pipeline {
                let name = &program.buffers[buffer].name;
                let cause = format!("touches `{name}`, of which only a pipeline keeps pieces");
                return broken(11, &place, &cause);
            }
            fine_enough(program, id, step, storage, pieces)?;
        }
    }
    Ok(())
}

/// A step takes and makes no smaller pieces than its parts are.
fn fine_enough(program: &Program, id: StepId, step: &Step, buffer: BufferId, pieces: Pieces) -> Result<()> {
    let name = &program.buffers[buffer].name;
    if pieces.kept == 0 || pieces.kept > pieces.of {
        let cause = format!("`{name}` keeps {} of {} pieces", pieces.kept, pieces.of);
        return broken(11, &step_place(program, id), &cause);
    }
    if step.kind != StepKind::Compute {
        return Ok(());
    }
    for bindings in ends(program) {
        let grid = BoundGrid::new(step.base, &step.grid, &bindings).map_err(|s| unbound(&s))?;
        let parts = grid.parts().unsigned_abs();
        if parts < pieces.of {
            let cause = format!("takes `{name}` in {} pieces but has {parts} parts", pieces.of);
            return broken(11, &step_place(program, id), &cause);
        }
    }
    Ok(())
}
