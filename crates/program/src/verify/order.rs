//! Invariants of the order of steps: 2, 3 in part, 5, 8 and 9.

use super::{broken, step_place};
use crate::{BufferClass, BufferId, MemoryId, Program, StepId, StepKind, WriteMode};
use orrery_base::Result;
use orrery_base::index::Id;
use std::collections::{BTreeMap, BTreeSet};

/// Which steps have ended before each step starts: those it waits for, those before it on its unit, and what those wait
/// for. A bit for each pair.
struct Ended {
    words: usize,
    bits: Vec<u64>,
}

impl Ended {
    fn of(program: &Program) -> Self {
        let words = program.steps.len().div_ceil(64);
        let mut bits = vec![0_u64; program.steps.len() * words];
        let mut last_on_unit = BTreeMap::new();
        for (id, step) in program.steps.iter() {
            let i = id.index();
            for before in step.after.iter().copied().chain(last_on_unit.insert(step.unit, id)) {
                let j = before.index();
                let (head, row) = bits.split_at_mut(i * words);
                for (to, from) in row[..words].iter_mut().zip(&head[j * words..(j + 1) * words]) {
                    *to |= from;
                }
                row[j / 64] |= 1 << (j % 64);
            }
        }
        Self { words, bits }
    }
    fn before(&self, step: StepId) -> &[u64] {
        &self.bits[step.index() * self.words..][..self.words]
    }
    fn has(&self, step: StepId, other: StepId) -> bool {
        self.before(step)[other.index() / 64] >> (other.index() % 64) & 1 == 1
    }
}

/// Checks the steps in order, then the outputs.
pub(super) fn check(program: &Program) -> Result<()> {
    let ended = Ended::of(program);
    let mut touched: BTreeMap<BufferId, Vec<(StepId, bool)>> = BTreeMap::new();
    let mut filled: BTreeSet<BufferId> = BTreeSet::new();
    for (id, step) in program.steps.iter() {
        let place = step_place(program, id);
        let missing = |buffer: BufferId, filled: &BTreeSet<BufferId>| {
            let storage = program.storage(buffer);
            !is_given(program, storage) && !filled.contains(&storage)
        };
        let fills = |mode: WriteMode| matches!(mode, WriteMode::Fill | WriteMode::Combined(_));
        let combined = step.writes.iter().filter(|w| !fills(w.mode)).map(|w| w.buffer);
        for buffer in step.reads.iter().map(|r| r.buffer).chain(combined) {
            if missing(buffer, &filled) {
                let cause = format!("reads `{}` before it is written", program.buffers[buffer].name);
                return broken(2, &place, &cause);
            }
        }
        let reads = step.reads.iter().map(|r| (r.buffer, false));
        for (buffer, writes) in reads.chain(step.writes.iter().map(|w| (w.buffer, true))) {
            let uses = touched.entry(program.storage(buffer)).or_default();
            for &(other, wrote) in &*uses {
                if (wrote || writes) && other != id && !ended.has(id, other) {
                    let name = &program.buffers[buffer].name;
                    let cause = format!("touches `{name}` while step {other} may still use it");
                    return broken(5, &place, &cause);
                }
            }
            uses.push((id, writes));
        }
        for write in &step.writes {
            let fresh = filled.insert(program.storage(write.buffer));
            let renames = step.kind == StepKind::View && program.buffers[write.buffer].view_of.is_some();
            if !fresh && fills(write.mode) && !renames {
                let cause = format!("fills `{}` a second time", program.buffers[write.buffer].name);
                return broken(3, &place, &cause);
            }
        }
    }
    for (name, buffer) in &program.outputs {
        let storage = program.storage(*buffer);
        if !is_given(program, storage) && !filled.contains(&storage) {
            return broken(8, &format!("output `{name}`"), "is never written");
        }
    }
    places(program, &ended, &touched)
}

/// True for what is there before the first step.
fn is_given(program: &Program, buffer: BufferId) -> bool {
    match program.buffers[buffer].class {
        BufferClass::Input | BufferClass::Parameter => true,
        BufferClass::State => program.lengthens(buffer).is_none(),
        BufferClass::Scratch | BufferClass::Accumulator => false,
    }
}

/// Memory is counted in the order of the list; so what comes into a place must not run before what was there is used up.
fn places(program: &Program, ended: &Ended, touched: &BTreeMap<BufferId, Vec<(StepId, bool)>>) -> Result<()> {
    let lives = program.lifetimes();
    let words = program.steps.len().div_ceil(64);
    // For each step, the memories in which a buffer's life begins with it, and the buffers whose life ends with it.
    let mut begins: BTreeMap<StepId, BTreeSet<MemoryId>> = BTreeMap::new();
    let mut ends: BTreeMap<StepId, Vec<BufferId>> = BTreeMap::new();
    for (id, buffer) in program.buffers.iter() {
        let limited = program.memories[buffer.home].bytes < u64::MAX;
        if let (Some((first, last)), None, true) = (lives[id], buffer.view_of, limited) {
            begins.entry(first).or_default().insert(buffer.home);
            ends.entry(last).or_default().push(id);
        }
    }
    let mut used_up: BTreeMap<MemoryId, Vec<u64>> = BTreeMap::new();
    for id in program.steps.ids() {
        for memory in begins.get(&id).into_iter().flatten() {
            let Some(used_up) = used_up.get(memory) else { continue };
            let running = used_up.iter().zip(ended.before(id)).position(|(used, ended)| used & !ended != 0);
            if let Some(word) = running {
                let open = used_up[word] & !ended.before(id)[word];
                let other = StepId::new(word * 64 + open.trailing_zeros() as usize);
                let cause = format!(
                    "takes a place in `{}` that step {other} may still use",
                    program.memories[*memory].name
                );
                return broken(9, &step_place(program, id), &cause);
            }
        }
        for buffer in ends.get(&id).into_iter().flatten() {
            let used_up = used_up.entry(program.buffers[*buffer].home).or_insert_with(|| vec![0; words]);
            for (step, _) in touched.get(buffer).into_iter().flatten() {
                used_up[step.index() / 64] |= 1 << (step.index() % 64);
            }
        }
    }
    Ok(())
}
