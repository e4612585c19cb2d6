//! The stages of a pipeline in time.
//!
//! A stage starts when each stage before it has passed on a first piece, and ends no earlier than they have passed on the
//! last. Where a buffer is kept whole, a stage waits for the end of the one that fills it. Weights come in the order of the
//! steps that bring them, while the first stages run already. Streams of one memory share its bandwidth, so the pipeline
//! takes no less than all of them together.

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
    // When the program is loaded, and how much of each memory's time the weights take.
    let mut before = Picoseconds::ZERO;
    let mut arguments: BTreeMap<Resource, Picoseconds> = BTreeMap::new();
    let mut slowest = Picoseconds::ZERO;
    let mut end = Picoseconds::ZERO;
    // For each buffer made here: when its first piece is there, when its last, and the pieces.
    let mut made: BTreeMap<BufferId, (Picoseconds, Picoseconds)> = BTreeMap::new();
    for &(id, cost) in steps {
        let step = &program.steps[id];
        if step.kind == StepKind::Load {
            for (resource, time) in &cost.resources {
                *parts.entry(*resource).or_insert(Picoseconds::ZERO) += *time;
            }
            placed.push(Placed { step: id, start: before, end: before + cost.time, share: cost.time });
            before += cost.time;
            continue;
        }
        let (mut start, mut finish) = (before, before);
        if brings_arguments(program, id) {
            for (resource, time) in cost.resources.iter().filter(|(r, _)| r.is_shared()) {
                let sum = arguments.entry(*resource).or_insert(Picoseconds::ZERO);
                start = start.max(before + *sum);
                *sum += *time;
            }
        }
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
    // Of the time that a memory decides, weights are arguments.
    let weights = arguments.get(&bound).copied().unwrap_or(Picoseconds::ZERO);
    *parts.entry(Resource::ArgumentLoad).or_insert(Picoseconds::ZERO) += weights;
    *parts.entry(bound).or_insert(Picoseconds::ZERO) += least - weights;
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
    // What is dealt out up to a step is a whole number, so that the shares make up the whole.
    let (mut weights, mut dealt) = (0, 0);
    for (placed, (id, cost)) in placed.iter_mut().zip(steps) {
        if started(placed) && all > 0 {
            weights += weight(*id, cost);
            let by_now = u128::from(running.0) * weights / all;
            placed.share = Picoseconds(u64::try_from(by_now - dealt).unwrap_or(u64::MAX));
            dealt = by_now;
        }
    }
}

/// True for a stream that brings weights.
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

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_base::index::Id;
    use orrery_program::text::parse;

    /// Stages in a row, each reading what the one before makes, in so many pieces.
    fn chain(pieces: &[u64]) -> Program {
        let mut text = String::from(
            "program \"chain\" {\n  memory m0 \"pmu\" cores 1 bytes 1000000\n  pipeline p0 \"section\" cores 99\n",
        );
        for (i, of) in pieces.iter().enumerate() {
            text += &format!("  buffer b{i} \"v{i}\": f32[64] scratch in m0 keeps 1 of {of}\n");
        }
        text += &format!("  buffer b{} \"out\": f32[64] scratch in m0\n", pieces.len());
        for i in 0..=pieces.len() {
            let read = if i > 0 { format!("    read b{} [whole]\n", i - 1) } else { String::new() };
            let arithmetic = if i == 0 { "    arithmetic \"fp32\" group 1 nearest\n" } else { "" };
            text += &format!(
                "  step s{i} \"stage {i}\" compute on device {{\n{read}    write b{i} [whole] fill\n{arithmetic}    \
                 stage p0 cores 1\n    graph \"\" {{\n    }}\n  }}\n"
            );
        }
        parse(&(text + "}\n")).unwrap_or_else(|error| panic!("{error}"))
    }

    fn costs(times: &[u64]) -> Vec<StepCost> {
        let cost = |time: &u64| StepCost { time: Picoseconds(*time), ..StepCost::default() };
        times.iter().map(cost).collect()
    }

    fn run_chain(program: &Program, costs: &[StepCost]) -> Run {
        let steps: Vec<(StepId, &StepCost)> =
            costs.iter().enumerate().map(|(i, cost)| (StepId::new(i), cost)).collect();
        run(program, &steps)
    }

    /// Every piece of every stage in turn: it starts when the stage is through with the piece before, and the stage before
    /// with the same piece.
    fn piece_by_piece(times: &[u64], pieces: u64) -> u64 {
        let mut ready = vec![0_u64; pieces as usize];
        for time in times {
            let mut free = 0;
            for ready in &mut ready {
                free = free.max(*ready) + time / pieces;
                *ready = free;
            }
        }
        ready[ready.len() - 1]
    }

    #[test]
    fn equal_pieces_take_what_they_take_one_by_one() {
        for times in
            [[640, 640, 640, 640], [64, 6400, 640, 1280], [12_800, 64, 64, 6400], [64, 128, 256, 512]]
        {
            for pieces in [1, 2, 8, 64] {
                let run = run_chain(&chain(&[pieces; 3]), &costs(&times));
                assert_eq!(run.time.0, piece_by_piece(&times, pieces), "{times:?} in {pieces}");
                assert_eq!(run.parts.iter().map(|(_, time)| *time).sum::<Picoseconds>(), run.time);
                let shares: u64 = run.steps.iter().map(|placed| placed.share.0).sum();
                assert_eq!(shares, run.time.0);
            }
        }
    }

    #[test]
    fn a_value_that_is_kept_whole_ends_what_makes_it_first() {
        let run = run_chain(&chain(&[8, 1]), &costs(&[800, 800, 800]));
        assert_eq!(run.time.0, 100 + 800 + 800);
        assert_eq!(run.parts[0], (Resource::Interval, Picoseconds(800)));
        assert_eq!(run.parts[1], (Resource::Fill, Picoseconds(900)));
    }

    #[test]
    fn streams_share_the_memory() {
        let mut costs = costs(&[800, 800, 800]);
        for cost in &mut costs {
            cost.resources = vec![(Resource::Ddr, Picoseconds(700))];
        }
        let run = run_chain(&chain(&[8, 8]), &costs);
        assert_eq!(run.time.0, 2100);
        assert_eq!(run.parts, [(Resource::Ddr, Picoseconds(2100))]);
        assert_eq!(run.steps[2].end, run.time);
    }
}
