//! The verifier of programs.
//!
//! Invariants:
//! 1. ids are in range; a body has as many inputs as reads and as many outputs as writes; accesses have the buffer's rank
//!    and name axes of the grid;
//! 2. what a step reads was there before: an input, a parameter, a state, or written by a step that has ended;
//! 3. inputs and parameters are never written; a state only in place; a scratch buffer is filled once, and reduced into
//!    only where it is an accumulator;
//! 4. two parts of a step never write the same element, unless they reduce;
//! 5. steps that touch the same buffer, one of them writing, are ordered;
//! 6. a part reads and writes, on a memory with a space for each core, exactly what its core holds; only a step marked
//!    approximate leaves open where its parts are;
//! 7. the fullest core of each memory holds no more than it has, at the ends of every symbol's range;
//! 8. every output was written.

use crate::memory::unbound;
use crate::{BufferClass, BufferId, Layout, Program, Step, StepId, StepKind, Write, WriteMode};
use orrery_base::index::Id;
use orrery_base::units::show_bytes;
use orrery_base::{Diagnostic, Result};
use orrery_ir::Bindings;
use orrery_ir::op::Access;

/// Checks all invariants.
///
/// # Errors
/// `program-invalid` with the first invariant that is broken; `does-not-fit` for the seventh.
pub fn verify(program: &Program) -> Result<()> {
    for (id, step) in program.steps.iter() {
        shape(program, id, step)?;
    }
    order(program)?;
    capacity(program)
}

fn broken(invariant: u32, place: &str, cause: &str) -> Diagnostic {
    Diagnostic::error("program-invalid", format!("{cause} (invariant {invariant})")).at(place.to_owned())
}

fn shape(program: &Program, id: StepId, step: &Step) -> Result<()> {
    let place = format!("step {id} `{}`", step.name);
    let bad = |invariant, cause: String| broken(invariant, &place, &cause).err();
    if step.body.inputs.len() != step.reads.len() || step.body.outputs.len() != step.writes.len() {
        return bad(1, "body and operands differ in number".into());
    }
    let operands = step
        .reads
        .iter()
        .map(|r| (r.buffer, &r.access))
        .chain(step.writes.iter().map(|w| (w.buffer, &w.access)));
    for (buffer, access) in operands {
        let Some(buffer) = program.buffers.get(buffer) else {
            return bad(1, format!("buffer {buffer} does not exist"));
        };
        if program.memories.get(buffer.home).is_none() {
            return bad(1, format!("buffer `{}` is in no memory", buffer.name));
        }
        if buffer.layout.access.len() != buffer.shape.len()
            || buffer.layout.access.iter().any(|a| a.axis().is_some_and(|x| x >= buffer.layout.cuts.len()))
        {
            return bad(1, format!("the layout of `{}` does not fit its shape", buffer.name));
        }
        if access.len() != buffer.shape.len()
            || access.iter().any(|a| a.axis().is_some_and(|x| x >= step.grid.len()))
        {
            return bad(1, format!("the access to `{}` does not fit its shape or the grid", buffer.name));
        }
    }
    if step.after.iter().any(|s| s.index() >= id.index()) {
        return bad(1, "waits for a step that is not before it".into());
    }
    for write in &step.writes {
        let buffer = &program.buffers[write.buffer];
        let allowed = match (buffer.class, write.mode) {
            (BufferClass::Input | BufferClass::Parameter, _) => false,
            (BufferClass::State, mode) => mode == WriteMode::InPlace,
            (BufferClass::Accumulator, mode) => mode != WriteMode::InPlace,
            (BufferClass::Scratch, mode) => mode == WriteMode::Fill,
        };
        if !allowed {
            return bad(
                3,
                format!(
                    "writes `{}`, a buffer of class {:?}, by {:?}",
                    buffer.name, buffer.class, write.mode
                ),
            );
        }
        if step.kind == StepKind::Compute {
            race(step, write).map_err(|axis| {
                Box::new(broken(
                    4,
                    &place,
                    &format!("parts along `{axis}` write the same elements of `{}`", buffer.name),
                ))
            })?;
        }
    }
    if step.kind == StepKind::Compute {
        for (operand, access) in step
            .reads
            .iter()
            .map(|r| (r.buffer, &r.access))
            .chain(step.writes.iter().map(|w| (w.buffer, &w.access)))
        {
            local(program, step, operand, access).map_err(|cause| Box::new(broken(6, &place, &cause)))?;
        }
    }
    Ok(())
}

fn race(step: &Step, write: &Write) -> std::result::Result<(), String> {
    for (axis, cut) in step.grid.iter().enumerate() {
        let follows = write.access.iter().any(|a| matches!(a, Access::Along { axis: x, .. } if *x == axis));
        if cut.is_cut() && !follows && !matches!(write.mode, WriteMode::Reduce(_)) {
            return Err(cut.name.clone());
        }
    }
    Ok(())
}

/// On a memory with a space for each core, the layout of the operand must be the grid seen through the access.
fn local(
    program: &Program,
    step: &Step,
    operand: BufferId,
    access: &[Access],
) -> std::result::Result<(), String> {
    let buffer = &program.buffers[operand];
    if program.memories[buffer.home].cores == 1 {
        return Ok(());
    }
    let parts = Layout { base: step.base, cuts: step.grid.clone(), access: access.to_vec() };
    let agree = step.approximate || parts.same_place(&buffer.layout);
    if agree { Ok(()) } else { Err(format!("parts and layout of `{}` lie on different cores", buffer.name)) }
}

fn order(program: &Program) -> Result<()> {
    let steps = program.steps.len();
    let words = steps.div_ceil(64);
    // Bit j of row i: step j has ended before step i starts.
    let mut ended = vec![0_u64; steps * words];
    let mut last_on_unit = std::collections::BTreeMap::new();
    let mut touched: std::collections::BTreeMap<BufferId, Vec<(StepId, bool)>> = Default::default();
    let mut filled: std::collections::BTreeSet<BufferId> = Default::default();
    for (id, step) in program.steps.iter() {
        let i = id.index();
        for before in step.after.iter().copied().chain(last_on_unit.insert(step.unit, id)) {
            let j = before.index();
            let (head, row) = ended.split_at_mut(i * words);
            for (to, from) in row[..words].iter_mut().zip(&head[j * words..(j + 1) * words]) {
                *to |= from;
            }
            row[j / 64] |= 1 << (j % 64);
        }
        let has_ended = |j: StepId| ended[i * words + j.index() / 64] >> (j.index() % 64) & 1 == 1;
        let place = format!("step {id} `{}`", step.name);
        for read in &step.reads {
            let storage = program.storage(read.buffer);
            let class = program.buffers[storage].class;
            let given = matches!(class, BufferClass::Input | BufferClass::Parameter | BufferClass::State);
            if !given && !filled.contains(&storage) {
                return broken(
                    2,
                    &place,
                    &format!("reads `{}` before it is written", program.buffers[read.buffer].name),
                )
                .err();
            }
        }
        let accesses = step
            .reads
            .iter()
            .map(|r| (r.buffer, None))
            .chain(step.writes.iter().map(|w| (w.buffer, Some(w.mode))));
        for (buffer, mode) in accesses {
            let storage = program.storage(buffer);
            for &(other, wrote) in touched.get(&storage).into_iter().flatten() {
                if (wrote || mode.is_some()) && other != id && !has_ended(other) {
                    let name = &program.buffers[buffer].name;
                    return broken(
                        5,
                        &place,
                        &format!("touches `{name}` while step {other} may still use it"),
                    )
                    .err();
                }
            }
            touched.entry(storage).or_default().push((id, mode.is_some()));
        }
        for write in &step.writes {
            let fresh = filled.insert(program.storage(write.buffer));
            let view = step.kind == StepKind::View;
            if !fresh && write.mode == WriteMode::Fill && !view {
                return broken(
                    3,
                    &place,
                    &format!("fills `{}` a second time", program.buffers[write.buffer].name),
                )
                .err();
            }
        }
    }
    for (name, buffer) in &program.outputs {
        let storage = program.storage(*buffer);
        let given =
            !matches!(program.buffers[storage].class, BufferClass::Scratch | BufferClass::Accumulator);
        if !given && !filled.contains(&storage) {
            return broken(8, &format!("output `{name}`"), "is never written").err();
        }
    }
    Ok(())
}

/// Checks that the fullest core of each memory holds what is put there.
///
/// # Errors
/// `does-not-fit` with the amount by which it does not.
pub fn capacity(program: &Program) -> Result<()> {
    for pick in [|range: &(i64, i64)| range.0, |range: &(i64, i64)| range.1] {
        let bindings: Bindings =
            program.symbols.iter().map(|(name, range)| (name.clone(), pick(range))).collect();
        for (_, peak) in program.memory_use(&bindings)? {
            let memory = &program.memories[peak.memory];
            if peak.bytes > memory.bytes {
                let over = peak.bytes - memory.bytes;
                let step = program.steps.get(peak.step).ok_or_else(|| unbound("step"))?;
                let classes: Vec<String> = peak
                    .by_class
                    .iter()
                    .map(|(class, b)| format!("{class:?} {}", show_bytes(*b as f64)).to_lowercase())
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
                        step.name,
                        classes.join(", "),
                        show_bytes(memory.reserved as f64),
                    ),
                )
                .help("a smaller batch or sequence, a narrower precision, or more devices")
                .err();
            }
        }
    }
    Ok(())
}
