//! The stages of a pipeline in time.
//!
//! A stage starts when each stage before it has passed on a first piece, and ends no earlier than they have passed on the
//! last. Where a buffer is kept whole, a stage waits for the end of the one that fills it. Streams of one memory share its
//! bandwidth, so the pipeline takes no less than all of them together.

use crate::{Resource, StepCost};
use orrery_base::Picoseconds;
use orrery_program::{BufferId, Program, StepId, StepKind};
use std::collections::BTreeMap;

/// A step of a pipeline in time, from the start of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The step.
    pub step: StepId,
    /// Start.
    pub start: Picoseconds,
    /// End.
    pub end: Picoseconds,
    /// Its part of the pipeline's time: the parts make up the whole, though the steps run at the same time.
    pub share: Picoseconds,
}

/// A pipeline that has run.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Every step in order.
    pub steps: Vec<Placed>,
    /// All of it.
    pub time: Picoseconds,
    /// Where the time goes; the parts make up the whole.
    pub parts: Vec<(Resource, Picoseconds)>,
}

/// Places the steps of one pipeline in time. `costs` are those of the steps, each by itself.
pub fn run(program: &Program, steps: &[(StepId, &StepCost)]) -> Run {
    let mut placed = Vec::with_capacity(steps.len());
    let mut parts: BTreeMap<Resource, Picoseconds> = BTreeMap::new();
    let mut shared: BTreeMap<Resource, Picoseconds> = BTreeMap::new();
    let mut before = Picoseconds::ZERO;
    let mut slowest = Picoseconds::ZERO;
    let mut end = Picoseconds::ZERO;
    // For each buffer made here: when its first piece is there, when its last, and the pieces.
    let mut made: BTreeMap<BufferId, (Picoseconds, Picoseconds)> = BTreeMap::new();
    for &(id, cost) in steps {
        let step = &program.steps[id];
        if step.kind == StepKind::Load || brings_arguments(program, id) {
            for (resource, time) in &cost.resources {
                let resource = if step.kind == StepKind::Load { *resource } else { Resource::ArgumentLoad };
                *parts.entry(resource).or_insert(Picoseconds::ZERO) += *time;
            }
            placed.push(Placed { step: id, start: before, end: before + cost.time, share: cost.time });
            before += cost.time;
            continue;
        }
        let (mut start, mut finish) = (before, before);
        for read in &step.reads {
            let storage = program.storage(read.buffer);
            let Some((first, last)) = made.get(&storage).copied() else { continue };
            start = start.max(first);
            finish = finish.max(last + piece(program, storage, cost.time));
        }
        finish = finish.max(start + cost.time);
        for write in &step.writes {
            let storage = program.storage(write.buffer);
            let first = start + piece(program, storage, cost.time);
            made.insert(storage, (first.min(finish), finish));
        }
        for (resource, time) in cost.resources.iter().filter(|(r, _)| r.is_shared()) {
            *shared.entry(*resource).or_insert(Picoseconds::ZERO) += *time;
        }
        if step.kind != StepKind::Stream {
            slowest = slowest.max(cost.time);
        }
        end = end.max(finish - before);
        placed.push(Placed { step: id, start, end: finish, share: Picoseconds::ZERO });
    }
    let streams = shared.into_iter().max_by_key(|(_, time)| *time);
    let (bound, least) = match streams {
        Some((resource, time)) if time > slowest => (resource, time),
        _ => (Resource::Interval, slowest),
    };
    let running = end.max(least);
    // Streams of one memory share its bandwidth: the last of them ends when all are through.
    let last = placed.iter_mut().rev().find(|placed| program.steps[placed.step].kind != StepKind::View);
    if let Some(last) = last {
        last.end = last.end.max(before + running);
    }
    share_out(program, &mut placed, steps, before, running, bound);
    *parts.entry(bound).or_insert(Picoseconds::ZERO) += least;
    *parts.entry(Resource::Fill).or_insert(Picoseconds::ZERO) += running - least;
    Run {
        steps: placed,
        time: before + running,
        parts: parts.into_iter().filter(|(_, time)| *time > Picoseconds::ZERO).collect(),
    }
}

/// Deals the time in which the stages run out to them: by the cores they hold for how long, or by what they take of the
/// memory where that is what bounds.
fn share_out(
    program: &Program,
    placed: &mut [Placed],
    steps: &[(StepId, &StepCost)],
    before: Picoseconds,
    running: Picoseconds,
    bound: Resource,
) {
    let weight = |id: StepId, cost: &StepCost| -> u128 {
        let of =
            |wanted| cost.resources.iter().find(|(r, _)| *r == wanted).map_or(0, |(_, t)| u128::from(t.0));
        match bound {
            Resource::Interval => {
                let cores = program.steps[id].stage.map_or(0, |stage| stage.cores);
                u128::from(cost.time.0) * u128::from(cores)
            }
            memory => of(memory),
        }
    };
    let started = |placed: &Placed| placed.share == Picoseconds::ZERO && placed.start >= before;
    let all: u128 =
        steps.iter().zip(&*placed).filter(|(_, p)| started(p)).map(|((id, c), _)| weight(*id, c)).sum();
    for (placed, (id, cost)) in placed.iter_mut().zip(steps) {
        if started(placed) && all > 0 {
            let share = u128::from(running.0) * weight(*id, cost) / all;
            placed.share = Picoseconds(u64::try_from(share).unwrap_or(u64::MAX));
        }
    }
}

/// True for a stream that fills a buffer whole from parameters before the pipeline runs.
fn brings_arguments(program: &Program, id: StepId) -> bool {
    let step = &program.steps[id];
    step.kind == StepKind::Stream
        && step.reads.iter().all(|r| {
            program.buffers[program.storage(r.buffer)].class == orrery_program::BufferClass::Parameter
        })
}

/// The part of a stage's time that one piece of a buffer takes.
fn piece(program: &Program, buffer: BufferId, time: Picoseconds) -> Picoseconds {
    let of = program.buffers[buffer].pieces.map_or(1, |pieces| pieces.of.max(1));
    Picoseconds(time.0.div_ceil(of))
}
