//! Program to Timeline.
//!
//! Steps run in order on their units, across units as their `after` says, each for as long as [`orrery_cost`] has it. The
//! host issues steps of the device one after the other; where it is slower than the device, the device waits. Knows
//! neither the compiler nor numbers.

use orrery_base::index::Id;
use orrery_base::{IndexVec, Picoseconds, Result};
use orrery_cost::pipeline::{self, Run};
use orrery_cost::rectangles;
use orrery_cost::{Resource, StepCost, Target, step_cost};
use orrery_ir::Bindings;
use orrery_machine::Losses;
use orrery_program::{Peak, PipelineId, Program, Step, StepId, Unit};
use std::collections::BTreeMap;

/// When a step ran, and what it cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The unit it occupied.
    pub unit: Unit,
    /// Start.
    pub start: Picoseconds,
    /// End.
    pub end: Picoseconds,
    /// How long its unit stood idle because the host had not issued it.
    pub waited: Picoseconds,
    /// Its cost. Of a stage of a pipeline the time is its part of the pipeline's time, which on a floor plan filling and
    /// draining bound where another stage is the slowest.
    pub cost: StepCost,
}

/// Memory in use over the steps, on the fullest core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryTrack {
    /// Name of the memory.
    pub memory: String,
    /// Cores that have one of their own.
    pub cores: u64,
    /// Bytes of each.
    pub capacity: u64,
    /// Bytes in use at each step.
    pub bytes: Vec<u64>,
    /// The fullest moment.
    pub peak: Peak,
}

/// One run of a program, in time.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    /// What ran when.
    pub events: IndexVec<StepId, Event>,
    /// From the inputs on the device to the outputs on the device, run after run: what a benchmark of the device measures.
    pub device: Picoseconds,
    /// From the inputs on the host to the outputs on the host, one run alone.
    pub end_to_end: Picoseconds,
    /// Where the device time goes: for each resource the time of the steps, or parts of steps, that it decides.
    pub by_resource: BTreeMap<Resource, Picoseconds>,
    /// Memory in use.
    pub memory: Vec<MemoryTrack>,
}

/// Times a program.
///
/// # Errors
/// `unbound-symbol` where a symbol has no value.
pub fn simulate(program: &Program, bindings: &Bindings, target: &Target<'_>) -> Result<Timeline> {
    let costs: Vec<StepCost> =
        program.steps.ids().map(|step| step_cost(program, step, bindings, target)).collect::<Result<_>>()?;
    let runs = pipelines(program, &costs);
    let alone = schedule(program, &costs, &runs, true);
    let per_run = match &target.losses {
        Losses::Kernel(losses) => losses.host_seconds_per_run,
        Losses::BulkSynchronous(losses) => losses.host_seconds_per_run,
        Losses::Spatial(losses) => losses.host_seconds_per_run,
        Losses::Stream(losses) => losses.host_seconds_per_run,
        Losses::Engines(losses) => losses.host_seconds_per_run,
        Losses::Wafer(losses) => losses.host_seconds_per_run,
    };
    let memory = program
        .memory_use(bindings)?
        .into_iter()
        .map(|(bytes, peak)| {
            let memory = &program.memories[peak.memory];
            MemoryTrack {
                memory: memory.name.clone(),
                cores: memory.cores,
                capacity: memory.bytes,
                bytes,
                peak,
            }
        })
        .collect();
    Ok(Timeline {
        device: run_after_run(program, &costs),
        end_to_end: last_end(&alone) + Picoseconds::from_seconds(per_run),
        by_resource: by_resource(program, &alone, &runs, target),
        events: alone,
        memory,
    })
}

/// Only the device time: what a sweep over many lengths asks for.
///
/// # Errors
/// `unbound-symbol` where a symbol has no value.
pub fn device_time(program: &Program, bindings: &Bindings, target: &Target<'_>) -> Result<Picoseconds> {
    let costs: Vec<StepCost> =
        program.steps.ids().map(|step| step_cost(program, step, bindings, target)).collect::<Result<_>>()?;
    Ok(run_after_run(program, &costs))
}

fn last_end(events: &IndexVec<StepId, Event>) -> Picoseconds {
    events.values().map(|e| e.end).max().unwrap_or(Picoseconds::ZERO)
}

/// The stages of each pipeline in time.
fn pipelines(program: &Program, costs: &[StepCost]) -> BTreeMap<PipelineId, Run> {
    let mut members: BTreeMap<PipelineId, Vec<(StepId, &StepCost)>> = BTreeMap::new();
    for (id, step) in program.steps.iter() {
        if let Some(stage) = step.stage {
            members.entry(stage.pipeline).or_default().push((id, &costs[id.index()]));
        }
    }
    members.into_iter().map(|(id, steps)| (id, pipeline::run(program, &steps))).collect()
}

/// When a pipeline can start: when all have ended that its stages wait for.
fn awaited(program: &Program, run: &Run, events: &IndexVec<StepId, Event>) -> Picoseconds {
    let before = run.steps.iter().flat_map(|placed| &program.steps[placed.step].after);
    before.filter_map(|id| events.get(*id)).map(|e| e.end).max().unwrap_or(Picoseconds::ZERO)
}

/// The time of a run among many: the host is ahead of the device by whole runs, or the device waits for it all the time.
fn run_after_run(program: &Program, costs: &[StepCost]) -> Picoseconds {
    let issue = costs.iter().fold(Picoseconds::ZERO, |sum, cost| sum + cost.issue);
    let ahead: Vec<StepCost> =
        costs.iter().map(|cost| StepCost { issue: Picoseconds::ZERO, ..cost.clone() }).collect();
    last_end(&schedule(program, &ahead, &pipelines(program, &ahead), false)).max(issue)
}

/// Places the steps in time; `with_host` counts the transfers from and to the host.
fn schedule(
    program: &Program,
    costs: &[StepCost],
    runs: &BTreeMap<PipelineId, Run>,
    with_host: bool,
) -> IndexVec<StepId, Event> {
    let mut free: BTreeMap<Unit, Picoseconds> = BTreeMap::new();
    let mut issued = Picoseconds::ZERO;
    let mut events: IndexVec<StepId, Event> = IndexVec::new();
    let mut started: BTreeMap<PipelineId, Picoseconds> = BTreeMap::new();
    let mesh = rectangles::pipeline(program, costs);
    let mut filled: Option<Picoseconds> = None;
    for (id, step) in program.steps.iter() {
        if let Some((pipeline, run)) = step.stage.and_then(|s| Some((s.pipeline, runs.get(&s.pipeline)?))) {
            let base = *started.entry(pipeline).or_insert_with(|| {
                let unit = free.get(&step.unit).copied().unwrap_or(Picoseconds::ZERO);
                unit.max(awaited(program, run, &events))
            });
            free.insert(step.unit, base + run.time);
            if let Ok(number) = run.steps.binary_search_by_key(&id, |placed| placed.step) {
                let placed = &run.steps[number];
                let mut cost = costs[id.index()].clone();
                cost.time = placed.share;
                let (start, end) = (base + placed.start, base + placed.end);
                events.push(Event { unit: step.unit, start, end, waited: Picoseconds::ZERO, cost });
                continue;
            }
        }
        let mut cost = costs[id.index()].clone();
        if !with_host && step.unit == Unit::HostLink {
            cost.time = Picoseconds::ZERO;
        }
        issued += cost.issue;
        let ready = step.after.iter().map(|s| events[*s].end).max().unwrap_or(Picoseconds::ZERO);
        let ready = ready.max(free.get(&step.unit).copied().unwrap_or(Picoseconds::ZERO));
        if let Some(span) = mesh.spans.get(&id) {
            // Stages overlap; the pipeline as a whole starts when its first step can.
            let begin = *filled.get_or_insert(ready);
            let (start, end) = (begin + span.start, begin + span.end);
            let busy = free.entry(step.unit).or_default();
            *busy = (*busy).max(end);
            cost.time = span.share;
            if !span.decides {
                cost.bound = Resource::Fill;
            }
            events.push(Event { unit: step.unit, start, end, waited: Picoseconds::ZERO, cost });
            continue;
        }
        let start = if is_issued(step) { ready.max(issued) } else { ready };
        free.insert(step.unit, start + cost.time);
        let end = start + cost.time + cost.latency;
        events.push(Event { unit: step.unit, start, end, waited: start - ready, cost });
    }
    events
}

fn is_issued(step: &Step) -> bool {
    step.unit == Unit::Device
}

fn by_resource(
    program: &Program,
    events: &IndexVec<StepId, Event>,
    runs: &BTreeMap<PipelineId, Run>,
    target: &Target<'_>,
) -> BTreeMap<Resource, Picoseconds> {
    let in_turn = matches!(target.losses, Losses::BulkSynchronous(_));
    let mut times = BTreeMap::new();
    for (resource, time) in runs.values().flat_map(|run| &run.parts) {
        *times.entry(*resource).or_insert(Picoseconds::ZERO) += *time;
    }
    for (id, event) in events.iter() {
        let step = &program.steps[id];
        if step.unit == Unit::HostLink || step.stage.is_some() {
            continue;
        }
        let mut count = |resource, time| *times.entry(resource).or_insert(Picoseconds::ZERO) += time;
        if in_turn {
            event.cost.resources.iter().for_each(|(resource, time)| count(*resource, *time));
        } else {
            count(event.cost.bound, event.cost.time);
        }
        count(Resource::Launch, event.waited);
    }
    times.retain(|_, time| *time > Picoseconds::ZERO);
    times
}
