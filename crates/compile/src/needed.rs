//! What of a program its outputs need.

use orrery_base::IndexVec;
use orrery_base::index::Id;
use orrery_program::{Buffer, BufferClass, BufferId, Growth, PipelineId, Program, Step, StepId, StepKind};
use std::collections::BTreeSet;

/// The program without the steps whose results nothing uses and without the buffers that nothing touches; its inputs stay.
/// What is left keeps its order.
pub(crate) fn needed(program: Program) -> Program {
    let mut wanted: BTreeSet<BufferId> = program.outputs.iter().map(|(_, b)| program.storage(*b)).collect();
    // A state lives on after the run.
    wanted.extend(program.buffers.iter().filter(|(_, b)| b.class == BufferClass::State).map(|(id, _)| id));
    let mut stays = vec![false; program.steps.len()];
    for (id, step) in program.steps.iter().rev() {
        if step.writes.iter().any(|w| wanted.contains(&program.storage(w.buffer))) {
            stays[id.index()] = true;
            wanted.extend(step.reads.iter().map(|r| program.storage(r.buffer)));
        }
    }
    // A load stays as long as there is something to load for.
    let running: BTreeSet<PipelineId> = program
        .steps
        .iter()
        .filter(|(id, _)| stays[id.index()])
        .filter_map(|(_, step)| step.stage.map(|stage| stage.pipeline))
        .collect();
    for (id, step) in program.steps.iter().filter(|(_, step)| step.kind == StepKind::Load) {
        stays[id.index()] = step.stage.is_some_and(|stage| running.contains(&stage.pipeline));
    }
    let mut touched: BTreeSet<BufferId> = program.inputs.iter().copied().collect();
    touched.extend(program.outputs.iter().map(|(_, b)| *b));
    touched.extend(program.grows.iter().flat_map(|g| [g.from, g.to]));
    for (_, step) in program.steps.iter().filter(|(id, _)| stays[id.index()]) {
        touched.extend(step.reads.iter().map(|r| r.buffer));
        touched.extend(step.writes.iter().map(|w| w.buffer));
    }
    let views: Vec<BufferId> = touched.iter().map(|b| program.storage(*b)).collect();
    touched.extend(views);
    let mut new_buffer = vec![BufferId::new(0); program.buffers.len()];
    for (new, old) in touched.iter().enumerate() {
        new_buffer[old.index()] = BufferId::new(new);
    }
    let place = |old: BufferId| new_buffer[old.index()];
    let new_step: Vec<usize> = stays
        .iter()
        .scan(0, |next, stays| Some(std::mem::replace(next, *next + usize::from(*stays))))
        .collect();
    let storage: Vec<BufferId> = program.buffers.ids().map(|id| program.storage(id)).collect();
    let buffers = program.buffers.into_values().enumerate().map(|(at, buffer)| (BufferId::new(at), buffer));
    let buffers: IndexVec<BufferId, Buffer> = buffers
        .filter(|(id, _)| touched.contains(id))
        .map(|(id, buffer)| {
            let view_of = buffer.view_of.map(|_| place(storage[id.index()]));
            Buffer { view_of, ..buffer }
        })
        .collect();
    let steps: IndexVec<StepId, Step> = program
        .steps
        .into_values()
        .zip(&stays)
        .filter(|(_, stays)| **stays)
        .map(|(mut step, _)| {
            step.reads.iter_mut().for_each(|r| r.buffer = place(r.buffer));
            step.writes.iter_mut().for_each(|w| w.buffer = place(w.buffer));
            step.after.retain(|s| stays[s.index()]);
            step.after.iter_mut().for_each(|s| *s = StepId::new(new_step[s.index()]));
            step
        })
        .collect();
    let inputs = program.inputs.iter().map(|b| place(*b)).collect();
    let outputs = program.outputs.into_iter().map(|(name, b)| (name, place(b))).collect();
    let grows = program.grows.iter().map(|g| Growth { from: place(g.from), to: place(g.to) }).collect();
    Program { buffers, steps, inputs, outputs, grows, ..program }
}
