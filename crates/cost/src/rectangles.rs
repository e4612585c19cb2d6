//! What a pipeline of stages takes.
//!
//! Stages run at the same time, each on another item; within a stage an item arrives while the one before it is computed on,
//! as routers and PEs work side by side. The first item goes through all steps; after it one item comes out every interval,
//! which the slowest stage sets: its arrivals or its computing, whichever takes longer. What runs once, before the first
//! item or after the last, runs in all stages side by side.

use crate::StepCost;
use orrery_base::Picoseconds;
use orrery_base::index::Id;
use orrery_program::{BufferId, Phase, Program, StepId, StepKind};
use std::collections::BTreeMap;

/// The time of a pipeline.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pipeline {
    /// From the first item in to the last item out; nothing where no step is staged.
    pub time: Picoseconds,
    /// From item to item.
    pub interval: Picoseconds,
    /// Time that each stage is busy with one item.
    pub stages: BTreeMap<u32, Picoseconds>,
    /// The stage that takes longest; the first of equals.
    pub slowest: Option<u32>,
    /// Every staged step in time.
    pub spans: BTreeMap<StepId, Span>,
}

/// A staged step in time, from the start of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// When it starts on the first item.
    pub start: Picoseconds,
    /// When it ends on the last.
    pub end: Picoseconds,
    /// Its part of the pipeline's time: all items in the slowest stage, the first one, on its way through, elsewhere. The
    /// parts make up the whole, though the stages run at the same time.
    pub share: Picoseconds,
    /// Belongs to what takes longer in the slowest stage: arriving or computing.
    pub decides: bool,
}

/// The pipeline of a program whose steps cost `costs`, for all items together.
pub fn pipeline(program: &Program, costs: &[StepCost]) -> Pipeline {
    let items = program.items.max(1);
    let mut found = Pipeline::default();
    let once = |before: bool| -> Vec<StepId> {
        let staged = program.steps.iter().filter(|(_, step)| step.once && step.region.is_some());
        staged.filter(|(_, step)| (step.phase != Phase::Update) == before).map(|(id, _)| id).collect()
    };
    let mut now = found.beside_one_another(program, costs, Picoseconds::ZERO, &once(true));
    // By stage: arriving, and computing.
    let mut busy: BTreeMap<u32, [Picoseconds; 2]> = BTreeMap::new();
    let part = |id: StepId| usize::from(program.steps[id].kind != StepKind::Exchange);
    let mut flowing: Vec<StepId> = Vec::new();
    for ((id, step), cost) in program.steps.iter().zip(costs).filter(|((_, step), _)| !step.once) {
        let Some(stage) = step.region else { continue };
        let one = Picoseconds(cost.time.0 / items);
        found.spans.insert(id, Span { start: now, end: now + one, share: one, decides: false });
        now += one;
        busy.entry(stage).or_default()[part(id)] += one;
        flowing.push(id);
    }
    let mut longer = 0;
    for (stage, [arriving, computing]) in busy {
        let time = arriving.max(computing);
        if time > found.interval {
            (found.interval, found.slowest) = (time, Some(stage));
            longer = usize::from(computing >= arriving);
        }
        found.stages.insert(stage, time);
    }
    let rest = Picoseconds(found.interval.0 * (items - 1));
    for id in flowing {
        let slowest = found.slowest.is_some() && program.steps[id].region == found.slowest;
        if let Some(span) = found.spans.get_mut(&id) {
            span.decides = slowest && part(id) == longer;
            span.end += rest;
            if span.decides {
                span.share = span.share * items;
            }
        }
    }
    found.time = found.beside_one_another(program, costs, now + rest, &once(false));
    found
}

impl Pipeline {
    /// Places steps that run once, from `begin` on: those of a stage one after the other, stages side by side. The end of the
    /// last; the stage that ends last decides.
    fn beside_one_another(
        &mut self,
        program: &Program,
        costs: &[StepCost],
        begin: Picoseconds,
        steps: &[StepId],
    ) -> Picoseconds {
        let mut ends: BTreeMap<u32, Picoseconds> = BTreeMap::new();
        let mut made: BTreeMap<BufferId, Picoseconds> = BTreeMap::new();
        for &id in steps {
            let (step, time) = (&program.steps[id], costs[id.index()].time);
            let Some(stage) = step.region else { continue };
            let free = ends.get(&stage).copied().unwrap_or(begin);
            let reads = step.reads.iter().filter_map(|read| made.get(&program.storage(read.buffer)).copied());
            let start = reads.fold(free, Picoseconds::max);
            let end = start + time;
            ends.insert(stage, end);
            made.extend(step.writes.iter().map(|write| (program.storage(write.buffer), end)));
            self.spans.insert(id, Span { start, end, share: Picoseconds::ZERO, decides: false });
        }
        let Some((&last, &end)) = ends.iter().max_by_key(|(stage, end)| (**end, std::cmp::Reverse(**stage)))
        else {
            return begin;
        };
        let mut before = begin;
        for id in steps.iter().filter(|id| program.steps[**id].region == Some(last)) {
            if let Some(span) = self.spans.get_mut(id) {
                // What it waits for in another stage is its own share.
                (span.share, span.decides) = (span.end - before, true);
                before = span.end;
            }
        }
        end
    }
}
