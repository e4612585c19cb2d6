//! Nodes that run side by side: what one engine makes, the other takes slice by slice.
//!
//! The graph compiler cuts a product and the vector work around it into slices that pass between the engines in memory on
//! the chip. A *bundle* is such a row of nodes, of one product at most: engines take turns along it, each node reads what
//! the one before has made, and all are at work at once.

use orrery_base::index::Id;
use orrery_ir::Bindings;
use orrery_program::{BufferId, Program, Step, StepId, StepKind};

/// The steps of a step's bundle up to the step itself, which is last.
pub(super) fn up_to(program: &Program, id: StepId, bindings: &Bindings) -> Vec<StepId> {
    let mut row = vec![id];
    while let Some(before) = hands_to(program, row[row.len() - 1], bindings) {
        row.push(before);
    }
    // Bundles are formed from the front: a second product begins another one.
    let mut bundle = Vec::new();
    let mut products = 0;
    for id in row.into_iter().rev() {
        let product = is_product(&program.steps[id], bindings);
        if product && products > 0 {
            bundle.clear();
            products = 0;
        }
        products += usize::from(product);
        bundle.push(id);
    }
    bundle
}

/// Whether `before` has made what lies in that buffer.
pub(super) fn made(program: &Program, before: StepId, buffer: BufferId) -> bool {
    let stored = program.storage(buffer);
    program.steps[before].writes.iter().any(|w| program.storage(w.buffer) == stored)
}

/// The step whose slices this one takes: the one right before it, where the other engine makes what it reads.
fn hands_to(program: &Program, id: StepId, bindings: &Bindings) -> Option<StepId> {
    let step = &program.steps[id];
    let earlier = (0..id.index()).rev().map(StepId::new);
    let before = earlier.into_iter().find(|id| program.steps[*id].kind != StepKind::View)?;
    let computes = |step: &Step| step.kind == StepKind::Compute;
    let made = step.reads.iter().any(|read| made(program, before, read.buffer));
    let other = is_product(step, bindings) != is_product(&program.steps[before], bindings);
    (computes(step) && computes(&program.steps[before]) && made && other).then_some(before)
}

fn is_product(step: &Step, bindings: &Bindings) -> bool {
    step.work.macs.eval(bindings).is_ok_and(|macs| macs > 0)
}
