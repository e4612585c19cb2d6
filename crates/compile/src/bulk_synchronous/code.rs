//! Bytes that a program itself takes on every tile.
//!
//! Steps that do alike with values that lie alike run the same code, which stands on a tile once: repeated layers share it,
//! as the outlining of PopART and the function caches of the TensorFlow backend make them, and so do the turns of a sum,
//! which are a loop. A repeated layer is called as a whole, so that its steps take no control code of their own. What brings
//! the operands of a step brings them to where its code has its arguments.

use orrery_machine::BspMachine;
use orrery_program::{BufferId, Program, Step, StepKind};
use std::collections::BTreeSet;
use std::fmt::Write;

/// Bytes of a program's code, exchanges, vertices and control on a tile; on those of several chips that share the steps, in
/// all.
pub(super) fn code_bytes(program: &Program, machine: &BspMachine, chips: u64) -> u64 {
    let mut kinds = BTreeSet::new();
    let mut known = BTreeSet::new();
    let mut total = machine.tile_reserved_bytes.saturating_mul(chips);
    for step in program.steps.values() {
        if !known.insert(signature(program, step)) {
            continue;
        }
        total += machine.control_step_bytes;
        match step.kind {
            StepKind::Compute => {
                total += machine.vertex_state_bytes;
                let dtype = step.writes.first().map(|w| program.buffers[w.buffer].dtype);
                kinds.extend(step.body.nodes.values().map(|n| (n.op, dtype)));
            }
            StepKind::Exchange | StepKind::Stream | StepKind::Host => {
                total +=
                    machine.exchange_phase_bytes + machine.exchange_piece_bytes * step.reads.len() as u64;
            }
            StepKind::View | StepKind::Load => {}
        }
    }
    total + (kinds.len() as u64 * machine.vertex_code_bytes).saturating_mul(chips)
}

/// Equal for steps that run the same code. The elements of constants are arguments, and on which tile the first part of a few
/// lies makes no tile's code longer.
fn signature(program: &Program, step: &Step) -> String {
    let mut text = format!("{:?}", step.kind);
    for node in step.body.nodes.values() {
        let _ = write!(text, " {:?} {:?}", node.op, node.attrs);
    }
    let mut place = |buffer: BufferId| {
        let buffer = &program.buffers[buffer];
        let layout = &buffer.layout;
        let _ = write!(text, "; {:?} {:?} {:?}", buffer.home, buffer.dtype, layout.access);
        for cut in &layout.cuts {
            let _ = write!(text, " {:?}/{:?}*{}", cut.extent, cut.cutting, cut.stride);
        }
        let _ = write!(text, " {:?}", buffer.shape);
    };
    step.reads.iter().for_each(|read| place(read.buffer));
    step.writes.iter().for_each(|write| place(write.buffer));
    text
}
