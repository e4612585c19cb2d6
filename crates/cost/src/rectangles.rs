//! What a pipeline of stages takes.
//!
//! Stages run at the same time, each on another item; within a stage an item arrives while the one before it is computed on,
//! as routers and PEs work side by side. The first item goes through all steps; after it one item comes out every interval,
//! which the slowest stage sets: its arrivals or its computing, whichever takes longer.

use crate::StepCost;
use orrery_base::Picoseconds;
use orrery_program::{Program, StepId, StepKind};
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
    let mut filled = Picoseconds::ZERO;
    // By stage: arriving, and computing.
    let mut busy: BTreeMap<u32, [Picoseconds; 2]> = BTreeMap::new();
    let part = |id: StepId| usize::from(program.steps[id].kind != StepKind::Exchange);
    for ((id, step), cost) in program.steps.iter().zip(costs) {
        let Some(stage) = step.region else { continue };
        let one = Picoseconds(cost.time.0 / items);
        found.spans.insert(id, Span { start: filled, end: filled + one, share: one, decides: false });
        filled += one;
        busy.entry(stage).or_default()[part(id)] += one;
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
    found.time = filled + rest;
    for (id, span) in &mut found.spans {
        let slowest = found.slowest.is_some() && program.steps[*id].region == found.slowest;
        span.decides = slowest && part(*id) == longer;
        span.end += rest;
        if span.decides {
            span.share = span.share * items;
        }
    }
    if found.spans.is_empty() {
        found.time = Picoseconds::ZERO;
    }
    found
}
