//! The verifier of programs.
//!
//! Invariants:
//! 1. ids are in range; a body has as many inputs as reads and as many outputs as writes, of their element types; accesses
//!    have the buffer's rank and name axes of the grid; a view renames an earlier buffer of the same memory and size;
//! 2. what a step reads, or combines its results with, was there before: an input, a parameter, a state, or written by an
//!    earlier step;
//! 3. inputs and parameters are never written; a state only in place; a scratch buffer is filled once, and reduced into
//!    only where it is an accumulator;
//! 4. the parts of a step make every element of what they fill, and none of them twice unless they reduce;
//! 5. steps that touch the same buffer, one of them writing, are ordered;
//! 6. on a memory with a space for each core, a part reads and writes exactly what its core holds, no core has two parts or
//!    two blocks, and all those cores are there; only a step marked approximate leaves open where its parts are;
//! 7. the fullest core of each memory holds no more than it has;
//! 8. every output was written;
//! 9. what takes the place of a buffer in a memory starts when all steps that use that buffer have ended;
//! 10. a state that grows becomes a state of the same memory, type and layout along the other dimensions, which no run finds
//!     there and which is as long or longer along one dimension;
//! 11. the stages of a pipeline stand one after the other, views aside, and have between them no more cores than it has; a
//!     buffer of which pieces are kept is touched by the stages of one pipeline only, and comes in no more pieces than the
//!     grids of the steps that compute it, or with it, are cut into;
//! 12. the regions of stages share no place of the mesh and no core number, a staged step lies within its region, stages
//!     follow one another along the list but for steps that run once after all items, and a step that runs once touches
//!     nothing of which items have shares;
//! 13. a compute step that writes a state in place reads of its elements only those that the same part writes.
//!
//! What depends on symbols holds at both ends of their ranges.

mod order;
mod pipeline;
mod shape;
mod stages;

use crate::{Program, StepId};
use orrery_base::units::show_bytes;
use orrery_base::{Diagnostic, Result};
use orrery_ir::Bindings;

/// Checks all invariants.
///
/// # Errors
/// `program-invalid` with the first invariant that is broken; `does-not-fit` for the seventh; `unbound-symbol` where a
/// symbol has no range.
pub fn verify(program: &Program) -> Result<()> {
    all_but_capacity(program)?;
    capacity(program)
}

/// Checks all invariants but the seventh.
///
/// # Errors
/// As [`verify`].
pub fn all_but_capacity(program: &Program) -> Result<()> {
    shape::check(program)?;
    stages::check(program)?;
    order::check(program)?;
    pipeline::check(program)
}

fn broken<T>(invariant: u32, place: &str, cause: &str) -> Result<T> {
    Diagnostic::error("program-invalid", format!("{cause} (invariant {invariant})"))
        .at(place.to_owned())
        .err()
}

fn step_place(program: &Program, id: StepId) -> String {
    format!("step {id} `{}`", program.steps[id].name)
}

/// The symbols at their lowest and at their highest values; once where there are none.
fn ends(program: &Program) -> Vec<Bindings> {
    let at = |pick: fn(&(i64, i64)) -> i64| -> Bindings {
        program.symbols.iter().map(|(name, range)| (name.clone(), pick(range))).collect()
    };
    let (lowest, highest) = (at(|range| range.0), at(|range| range.1));
    if lowest == highest { vec![highest] } else { vec![lowest, highest] }
}

/// Checks that the fullest core of each memory holds what is put there, at both ends of every symbol's range.
///
/// # Errors
/// `does-not-fit` with the amount by which it does not.
pub fn capacity(program: &Program) -> Result<()> {
    for bindings in ends(program) {
        for (_, peak) in program.memory_use(&bindings)? {
            let memory = &program.memories[peak.memory];
            if peak.bytes > memory.bytes {
                let over = peak.bytes - memory.bytes;
                let classes: Vec<String> = peak
                    .by_class
                    .iter()
                    .map(|(class, b)| format!("{} {}", class.name(), show_bytes(*b as f64)))
                    .collect();
                let on = if memory.cores > 1 { format!(" on core {}", peak.core) } else { String::new() };
                return Diagnostic::error(
                    "does-not-fit",
                    format!(
                        "needs {} of `{}`{on}, which has {}: {} too much at `{}` ({}, program {})",
                        show_bytes(peak.bytes as f64),
                        memory.name,
                        show_bytes(memory.bytes as f64),
                        show_bytes(over as f64),
                        program.steps.get(peak.step).map_or("", |step| &step.name),
                        classes.join(", "),
                        show_bytes(memory.reserved as f64),
                    ),
                )
                .err();
            }
        }
    }
    Ok(())
}
