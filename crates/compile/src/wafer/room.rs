//! How much of a PE's memory a step may take.
//!
//! It shares the memory with all that waits there for later steps, and how much that is is known only once all are compiled.
//! So a program is compiled twice: sparingly, which tells what waits at each step, then with the room that this leaves.

use orrery_base::Result;
use orrery_base::index::Id;
use orrery_ir::Bindings;
use orrery_program::{BufferId, MemoryId, Program, StepId, StepKind};
use std::collections::BTreeSet;
use std::ops::Range;

/// How sparing a step is with the memory of a PE.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thrift {
    /// The logarithm of how many times more cycles the memory up to the limit is worth than none.
    pub pressure: f64,
    /// Bytes that the step takes at most.
    pub limit: f64,
}

/// The most sparing: the pressure, and the part of the memory of a PE that a step takes at most.
pub(super) const FRUGAL: (f64, f64) = (3.2, 0.2);
/// Of the room that is left, the part that steps are given, tried in turn: their operands may not lie as they did before.
pub(super) const PARTS: [f64; 3] = [1.0, 0.75, 0.5];
/// Rooms differ by so many parts of the memory of a PE at least, so that equal layers are cut alike.
const GRAINS: f64 = 16.0;

/// What each group of a program leaves free beside what waits, in bytes of the PE that has least; `steps` has the steps of
/// each group.
///
/// # Errors
/// `unbound-symbol` where a symbol has no value.
pub(super) fn rooms(
    program: &Program,
    pe: MemoryId,
    steps: &[Range<usize>],
    bindings: &Bindings,
) -> Result<Vec<f64>> {
    let mut tracks = program.memory_use(bindings)?;
    let live = std::mem::take(&mut tracks[pe.index()].0);
    let (lives, passing) = (program.lifetimes(), program.passing());
    let capacity = program.memories[pe].bytes as f64;
    let room = |range: &Range<usize>| -> Result<f64> {
        let computing =
            range.clone().map(StepId::new).filter(|id| program.steps[*id].kind == StepKind::Compute);
        let own: BTreeSet<BufferId> = computing
            .flat_map(|id| {
                let step = &program.steps[id];
                step.reads.iter().map(|r| r.buffer).chain(step.writes.iter().map(|w| w.buffer))
            })
            .map(|buffer| program.storage(buffer))
            .filter(|buffer| program.buffers[*buffer].home == pe)
            .collect();
        let mut least = capacity;
        for at in range.clone() {
            let mut waiting = live[at] as f64;
            for &buffer in &own {
                let there =
                    lives[buffer].is_some_and(|(first, last)| first.index() <= at && at <= last.index());
                if there {
                    waiting -= program.held_bytes(buffer, &passing[buffer], bindings)? as f64;
                }
            }
            least = least.min(capacity - waiting);
        }
        Ok(least)
    };
    steps.iter().map(room).collect()
}

/// How sparing the steps of a program are.
#[derive(Clone, Debug)]
pub(super) enum Sparing {
    /// All alike: the pressure, and the part of the memory of a PE that a step takes at most.
    Alike((f64, f64)),
    /// Each stage of a floor plan takes such a part of the memory of a PE.
    Stages(Vec<f64>),
    /// Each product takes such a part of the room of its group; all else, of which none is much work, little.
    Rooms(Vec<f64>, f64),
}

impl Sparing {
    /// Of the steps of a group, by its place in the order and its stage, on PEs with so many bytes: never more sparing than
    /// the most sparing program.
    pub(super) fn of(&self, group: usize, stage: usize, product: bool, capacity: f64) -> Thrift {
        let thrift = |(pressure, part): (f64, f64)| Thrift { pressure, limit: capacity * part };
        match self {
            Self::Alike(alike) => thrift(*alike),
            Self::Stages(parts) => thrift((1.0, parts.get(stage).copied().unwrap_or(FRUGAL.1))),
            Self::Rooms(..) if !product => thrift(FRUGAL),
            Self::Rooms(rooms, part) => {
                let (grain, room) = (capacity / GRAINS, rooms.get(group).copied().unwrap_or(0.0));
                let limit = ((room * part / grain).floor() * grain).clamp(capacity * FRUGAL.1, capacity);
                Thrift { pressure: 1.0, limit }
            }
        }
    }
}
