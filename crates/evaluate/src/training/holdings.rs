//! What the memories of a machine hold in training.

use orrery_base::index::Id;
use orrery_program::{BufferClass, BufferId, Phase, Program, StepKind};
use orrery_simulate::Timeline;
use orrery_transform::training::{Slot, StateKind};
use std::collections::{BTreeMap, BTreeSet};

/// What a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Holding {
    /// Weights and running statistics, also in the types in which they are multiplied.
    Weights,
    /// Gradients of weights.
    Gradients,
    /// What an optimizer keeps.
    OptimizerState,
    /// What the forward pass makes and the backward pass needs.
    Activations,
    /// What is made and used up within one pass.
    Temporary,
    /// What the host brings.
    Inputs,
    /// The program, and what the system keeps for itself.
    Code,
}

impl Holding {
    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::Gradients => "gradients",
            Self::OptimizerState => "optimizer state",
            Self::Activations => "activations",
            Self::Temporary => "temporary",
            Self::Inputs => "inputs",
            Self::Code => "code and reserved",
        }
    }
}

/// A memory at its fullest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// Its name.
    pub memory: String,
    /// Cores that have one of their own.
    pub cores: u64,
    /// Bytes of each.
    pub capacity: u64,
    /// Bytes of the fullest core at the peak, by what they hold.
    pub bytes: BTreeMap<Holding, u64>,
}

/// What the memories hold at their peaks.
pub(super) fn holdings(program: &Program, timeline: &Timeline, states: &[Slot]) -> Vec<Holdings> {
    let holding = kinds(program, states);
    let mut all = Vec::new();
    for track in timeline.memory.iter().filter(|track| crate::outcome::counts(track)) {
        let mut bytes = BTreeMap::new();
        let mut data = 0;
        for (id, taken) in &track.peak.by_buffer {
            *bytes.entry(holding[id.index()]).or_insert(0) += taken;
            data += taken;
        }
        if track.peak.bytes > data {
            bytes.insert(Holding::Code, track.peak.bytes - data);
        }
        let (memory, cores, capacity) = (track.memory.clone(), track.cores, track.capacity);
        all.push(Holdings { memory, cores, capacity, bytes });
    }
    all
}

/// What each buffer holds, by who writes and who reads it.
fn kinds(program: &Program, states: &[Slot]) -> Vec<Holding> {
    let moments: BTreeSet<&str> =
        states.iter().filter(|slot| slot.kind == StateKind::Moment).map(|slot| &slot.name[..]).collect();
    let mut of_class: Vec<Option<Holding>> = program
        .buffers
        .values()
        .map(|buffer| match buffer.class {
            BufferClass::State if moments.contains(&buffer.name[..]) => Some(Holding::OptimizerState),
            BufferClass::State | BufferClass::Parameter => Some(Holding::Weights),
            BufferClass::Input => Some(Holding::Inputs),
            BufferClass::Accumulator | BufferClass::Scratch => None,
        })
        .collect();
    let (mut written, mut read) = (BTreeMap::new(), BTreeMap::new());
    for (_, step) in program.steps.iter() {
        let sources: Vec<BufferId> = step.reads.iter().map(|r| program.storage(r.buffer)).collect();
        for write in &step.writes {
            let to = program.storage(write.buffer);
            if of_class[to.index()].is_none() {
                // What is only made of weights is weights still, what is only brought from the host is inputs still.
                let all = |holding| {
                    !sources.is_empty() && sources.iter().all(|from| of_class[from.index()] == Some(holding))
                };
                let carried = [Holding::Weights, Holding::OptimizerState, Holding::Inputs]
                    .into_iter()
                    .find(|h| all(*h));
                let moves = step.kind != StepKind::Compute || step.phase == Phase::Forward;
                of_class[to.index()] =
                    carried.filter(|h| moves && (*h != Holding::Inputs || step.kind == StepKind::Host));
            }
            let phase = written.entry(to).or_insert(step.phase);
            *phase = (*phase).min(step.phase);
        }
        for from in sources {
            let phase = read.entry(from).or_insert(step.phase);
            *phase = (*phase).max(step.phase);
        }
    }
    program
        .buffers
        .ids()
        .map(|id| {
            let by_use = match (written.get(&id), read.get(&id)) {
                (Some(Phase::Forward), Some(Phase::Backward | Phase::Update)) => Holding::Activations,
                (Some(Phase::Backward), Some(Phase::Update)) | (Some(Phase::Update), _) => Holding::Gradients,
                _ => Holding::Temporary,
            };
            of_class[id.index()].unwrap_or(by_use)
        })
        .collect()
}
