//! Invariants of single buffers and steps: 1, 3 in part, 4 and 6.

use super::{broken, ends, step_place};
use crate::memory::unbound;
use crate::{
    BoundGrid, Buffer, BufferClass, BufferId, Cut, Growth, Layout, Program, Range, Read, Step, StepId,
    StepKind, Write, WriteMode, access_range,
};
use orrery_base::Result;
use orrery_base::index::Id;
use orrery_ir::op::Access;
use orrery_ir::{Bindings, Dim, Graph, ValueId};

/// More cores than any machine described has: a wafer has about a million.
const MOST_CORES: u64 = 1 << 24;

/// Checks buffers, then steps.
pub(super) fn check(program: &Program) -> Result<()> {
    let ends = ends(program);
    for (name, (lo, hi)) in &program.symbols {
        if *lo < 0 || lo > hi {
            return broken(1, &format!("symbol `{name}`"), &format!("its range {lo} to {hi} is none"));
        }
    }
    for (id, memory) in program.memories.iter() {
        if memory.cores == 0 || memory.cores > MOST_CORES {
            return broken(1, &format!("memory {id} `{}`", memory.name), "has no core, or too many");
        }
    }
    for (id, buffer) in program.buffers.iter() {
        self::buffer(program, id, buffer, &ends)?;
    }
    for id in program.inputs.iter().chain(program.outputs.iter().map(|(_, id)| id)) {
        if program.buffers.get(*id).is_none() {
            return broken(1, "inputs and outputs", &format!("buffer {id} does not exist"));
        }
    }
    for grows in &program.grows {
        growth(program, *grows, &ends)?;
    }
    for (id, step) in program.steps.iter() {
        self::step(program, id, step, &ends)?;
    }
    Ok(())
}

/// Accesses of a tensor of that rank over so many axes.
fn fits(access: &[Access], rank: usize, axes: usize) -> bool {
    access.len() == rank && access.iter().all(|a| a.axis().is_none_or(|axis| axis < axes))
}

fn buffer(program: &Program, id: BufferId, buffer: &Buffer, ends: &[Bindings]) -> Result<()> {
    let place = format!("buffer {id} `{}`", buffer.name);
    let Some(memory) = program.memories.get(buffer.home) else {
        return broken(1, &place, "is in no memory");
    };
    let layout = &buffer.layout;
    if !fits(&layout.access, buffer.shape.len(), layout.cuts.len()) {
        return broken(1, &place, "its layout does not fit its shape");
    }
    if let Some(of) = buffer.view_of {
        if of.index() >= id.index() || program.buffers[of].home != buffer.home {
            return broken(1, &place, &format!("renames {of}, which is not before it in the same memory"));
        }
        for bindings in ends {
            let count = |b: &Buffer| b.elements().eval(bindings).map_err(|s| Box::new(unbound(&s)));
            if count(buffer)? != count(&program.buffers[of])? {
                return broken(1, &place, &format!("renames {of}, which has another number of elements"));
            }
        }
    }
    if memory.cores > 1 {
        cores(layout.base, &layout.cuts, memory.cores, ends, &place)?;
    }
    Ok(())
}

/// A state becomes a longer one in the same place.
fn growth(program: &Program, Growth { from, to }: Growth, ends: &[Bindings]) -> Result<()> {
    let place = format!("state {from}");
    let (Some(old), Some(new)) = (program.buffers.get(from), program.buffers.get(to)) else {
        return broken(1, &place, &format!("buffer {from} or {to} does not exist"));
    };
    let alike = old.class == BufferClass::State
        && new.class == BufferClass::State
        && (old.home, old.dtype, &old.layout, old.shape.len())
            == (new.home, new.dtype, &new.layout, new.shape.len())
        && program.grows.iter().filter(|g| [g.from, g.to].iter().any(|b| [from, to].contains(b))).count()
            == 1;
    if !alike {
        return broken(10, &place, &format!("cannot become `{}` where it lies", new.name));
    }
    for bindings in ends {
        let mut longer = 0;
        for (old, new) in old.shape.iter().zip(&new.shape) {
            let value = |dim: &Dim| dim.eval(bindings).map_err(|s| Box::new(unbound(&s)));
            let (old, new) = (value(old)?, value(new)?);
            if new < old {
                return broken(10, &place, "becomes shorter");
            }
            longer += usize::from(new > old);
        }
        if longer > 1 {
            return broken(10, &place, "becomes longer along more than one dimension");
        }
    }
    Ok(())
}

/// No core has two blocks or parts, and all of them are there.
fn cores(base: u64, cuts: &[Cut], count: u64, ends: &[Bindings], place: &str) -> Result<()> {
    for bindings in ends {
        let grid = BoundGrid::new(base, cuts, bindings).map_err(|s| unbound(&s))?;
        if !grid.one_part_a_core() {
            return broken(6, place, "puts two parts on one core");
        }
        if grid.core_end() > count {
            return broken(6, place, &format!("needs {} cores of {count}", grid.core_end()));
        }
    }
    Ok(())
}

fn step(program: &Program, id: StepId, step: &Step, ends: &[Bindings]) -> Result<()> {
    let place = step_place(program, id);
    if step.body.inputs.len() != step.reads.len() || step.body.outputs.len() != step.writes.len() {
        return broken(1, &place, "body and operands differ in number");
    }
    let reads = step.reads.iter().map(|r| (r.buffer, &r.access[..]));
    let writes = step.writes.iter().map(|w| (w.buffer, &w.access[..]));
    let operands: Vec<(BufferId, &[Access])> = reads.chain(writes).collect();
    for &(id, access) in &operands {
        let Some(buffer) = program.buffers.get(id) else {
            return broken(1, &place, &format!("buffer {id} does not exist"));
        };
        if !fits(access, buffer.shape.len(), step.grid.len()) {
            let cause = format!("the access to `{}` does not fit its shape or the grid", buffer.name);
            return broken(1, &place, &cause);
        }
    }
    // What is combined travels in the format of sums.
    let combined = |number: usize| {
        let write = number.checked_sub(step.reads.len()).and_then(|n| step.writes.get(n));
        write.is_some_and(|w| matches!(w.mode, WriteMode::Combined(_)))
    };
    for (number, (value, (id, _))) in
        step.body.inputs.iter().chain(&step.body.outputs).zip(&operands).enumerate()
    {
        let buffer = &program.buffers[*id];
        if !has_type(&step.body, *value, buffer) && !combined(number) {
            return broken(1, &place, &format!("`{}` is not of the body's element type", buffer.name));
        }
    }
    if step.after.iter().any(|s| s.index() >= id.index()) {
        return broken(1, &place, "waits for a step that is not before it");
    }
    for write in &step.writes {
        let buffer = &program.buffers[write.buffer];
        // A view step names its storage anew and leaves the elements as they are.
        let renames = step.kind == StepKind::View && buffer.view_of.is_some();
        let class = program.buffers[program.storage(write.buffer)].class;
        let allowed = match (class, write.mode) {
            _ if renames => write.mode == WriteMode::Fill,
            (BufferClass::Input | BufferClass::Parameter, _) => false,
            (BufferClass::State, mode) if program.lengthens(write.buffer).is_some() => {
                mode == WriteMode::Fill
            }
            (BufferClass::State, mode) => mode == WriteMode::InPlace,
            (BufferClass::Accumulator, mode) => mode != WriteMode::InPlace,
            (BufferClass::Scratch, mode) => matches!(mode, WriteMode::Fill | WriteMode::Combined(_)),
        };
        if !allowed {
            let cause = format!("writes `{}`, a buffer of class {class:?}, by {:?}", buffer.name, write.mode);
            return broken(3, &place, &cause);
        }
        let own = |read: &Read| read.buffer == write.buffer && read.access == write.access;
        let of_it = |read: &&Read| program.storage(read.buffer) == program.storage(write.buffer);
        if write.mode == WriteMode::InPlace
            && step.kind == StepKind::Compute
            && !step.reads.iter().filter(of_it).all(own)
        {
            let cause = format!("reads of `{}` what another part may have written", buffer.name);
            return broken(13, &place, &cause);
        }
    }
    if step.kind == StepKind::Compute && !step.approximate {
        parts(program, step, ends, &place)?;
        for (number, &(operand, access)) in operands.iter().enumerate() {
            if combined(number) {
                // The mesh delivers it wherever its layout says; only the parts must be on cores that are there. In a
                // shared memory they follow one another.
                let count = program.memories[program.buffers[operand].home].cores;
                if count > 1 {
                    cores(step.base, &step.grid, count, ends, &place)?;
                }
            } else {
                local(program, step, operand, access, ends, &place)?;
            }
        }
    }
    Ok(())
}

fn has_type(body: &Graph, value: ValueId, buffer: &Buffer) -> bool {
    let value = body.values.get(value).and_then(|value| value.ty.as_tensor());
    value.is_some_and(|ty| ty.dtype == buffer.dtype)
}

/// Parts make every element of what they write, once.
fn parts(program: &Program, step: &Step, ends: &[Bindings], place: &str) -> Result<()> {
    for write in &step.writes {
        let buffer = &program.buffers[write.buffer];
        if let Some(axis) = race(step, write) {
            let cause = format!("parts along `{axis}` write the same elements of `{}`", buffer.name);
            return broken(4, place, &cause);
        }
        for bindings in ends.iter().filter(|_| matches!(write.mode, WriteMode::Fill | WriteMode::Combined(_)))
        {
            let all = step.grid.iter().map(|cut| {
                let extent = cut.extent.eval(bindings).map_err(|s| Box::new(unbound(&s)))?;
                Ok(Range { lo: 0, hi: extent.max(0) })
            });
            let all: Vec<Range> = all.collect::<Result<_>>()?;
            for (access, dim) in write.access.iter().zip(&buffer.shape) {
                let extent = dim.eval(bindings).map_err(|s| unbound(&s))?;
                let made = access_range(access, &all, extent, bindings).map_err(|s| unbound(&s))?;
                if made != (Range { lo: 0, hi: extent }) && extent > 0 {
                    let cause = format!(
                        "parts make {} to {} of an extent {extent} of `{}`",
                        made.lo, made.hi, buffer.name
                    );
                    return broken(4, place, &cause);
                }
            }
        }
    }
    Ok(())
}

/// An axis along which parts write the same elements without reducing.
fn race<'a>(step: &'a Step, write: &Write) -> Option<&'a str> {
    if matches!(write.mode, WriteMode::Reduce(_) | WriteMode::Combined(_)) {
        return None;
    }
    let follows = |axis| {
        write
            .access
            .iter()
            .any(|a| matches!(a, Access::Along { axis: x, scale } if *x == axis && !scale.is(0)))
    };
    let cut = step.grid.iter().enumerate().find(|(axis, cut)| cut.is_cut() && !follows(*axis));
    cut.map(|(_, cut)| &cut.name[..])
}

/// On a memory with a space for each core, the layout of the operand must be the grid seen through the access.
fn local(
    program: &Program,
    step: &Step,
    operand: BufferId,
    access: &[Access],
    ends: &[Bindings],
    place: &str,
) -> Result<()> {
    let buffer = &program.buffers[operand];
    let count = program.memories[buffer.home].cores;
    if count == 1 {
        return Ok(());
    }
    cores(step.base, &step.grid, count, ends, place)?;
    let parts = Layout { base: step.base, cuts: step.grid.clone(), access: access.to_vec() };
    if parts.same_place(&buffer.layout) {
        return Ok(());
    }
    broken(6, place, &format!("parts and layout of `{}` lie on different cores", buffer.name))
}
