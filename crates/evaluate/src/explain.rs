//! Where the time and the memory of a run go, op by op, and what would help.

use crate::model::{Bound, Model};
use crate::outcome::{blank, counts, enter, predicted, refusal};
use crate::setup::Setup;
use crate::suggest::{Suggestion, suggestions};
use crate::training::{Holdings, Part, Wanted, largest_batch};
use crate::way::Built;
use crate::work::{Timed, Work};
use orrery_base::index::Id;
use orrery_base::{Diagnostic, Picoseconds, Result};
use orrery_cost::Measure;
use orrery_cost::words::movement;
use orrery_ir::Bindings;
use orrery_machine::ExecutionModel;
use orrery_program::{Program, Step, StepKind, Unit};
use orrery_record::{Outcome, Record};
use orrery_simulate::{MemoryTrack, Timeline};
use orrery_transform::training::Recompute;
use serde::Serialize;
use std::collections::BTreeMap;

/// One step.
#[derive(Clone, Debug, Serialize)]
pub struct StepPart {
    /// The user's layers that it is made of.
    pub name: String,
    /// Its first op; what it moves where it is a transfer.
    pub op: String,
    /// Start in seconds of a run alone.
    pub start_s: f64,
    /// Seconds on its unit, waiting for the host included.
    pub time_s: f64,
    /// Part of the time of all steps on the device; none for transfers from and to the host.
    pub share: Option<f64>,
    /// What decides its time, in the machine's words; `nothing` where it takes none.
    pub bound_by: &'static str,
    /// Seconds that each resource alone would take.
    pub resources: BTreeMap<&'static str, f64>,
    /// Seconds that the device waited for the host to issue it.
    pub waited_s: f64,
    /// Cores that it computes on, or brings data to; none where they are not told apart, and where how they are used is a
    /// guess.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<u64>,
    /// Part of the matrix unit's slots that hold no work of the model.
    pub idle_slots: f64,
    /// Multiply-accumulates.
    pub macs: f64,
    /// Bytes read and written.
    pub bytes: f64,
    /// Bytes in use on the fullest core of the machine's fullest memory.
    pub memory_bytes: u64,
    /// How the machine would cut it is a guess.
    pub approximate: bool,
}

/// A part of the device time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Share {
    /// What it is the part of: an op, or a resource.
    pub name: String,
    /// Steps counted; none for resources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Seconds.
    pub time_s: f64,
    /// Part of all.
    pub share: f64,
}

/// One memory.
#[derive(Clone, Debug, Serialize)]
pub struct MemoryPart {
    /// Its name.
    pub name: String,
    /// Cores that have one of their own.
    pub cores: u64,
    /// Bytes of each.
    pub capacity: u64,
    /// Bytes in use on the fullest core at the fullest step.
    pub peak: u64,
    /// The step of the peak.
    pub peak_step: String,
    /// Bytes at the peak: the program's own, then each class of buffer; of a training step by what they hold.
    pub peak_by_class: BTreeMap<String, u64>,
    /// Bytes in use at each step, in the order of the steps.
    pub over_time: Vec<u64>,
}

/// What a run is made of.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The outcome, or the reason why there is none.
    #[serde(serialize_with = "versioned")]
    pub record: Record,
    /// Every step in order.
    pub steps: Vec<StepPart>,
    /// Device time by op, longest first.
    pub by_op: Vec<Share>,
    /// Device time by what bounds it, longest first.
    pub by_resource: Vec<Share>,
    /// The machine's memories that hold something.
    pub memory: Vec<MemoryPart>,
    /// Of a training step: its parts, and what else there is to say of training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training: Option<TrainingParts>,
    /// What would help, most first.
    pub suggestions: Vec<Suggestion>,
    /// What the user should know.
    #[serde(skip)]
    pub notes: Vec<Diagnostic>,
}

/// What a training step is made of.
#[derive(Clone, Debug, Serialize)]
pub struct TrainingParts {
    /// Time by part, in the order of a step; together they are its time from end to end.
    pub parts: Vec<Share>,
    /// Seconds of transfers beside the cores, hidden or not.
    pub on_links_s: f64,
    /// The largest batch that fits, to an eighth; none where it was not looked for or nothing fits.
    pub largest_batch: Option<u64>,
    /// What making activations again would change; none where the step does not run so.
    pub recomputation: Option<Recomputed>,
}

/// A step that makes activations again instead of keeping them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Recomputed {
    /// Its device time over that of the step that keeps them; none where that one does not fit.
    pub slower: Option<f64>,
    /// Bytes at the peak of the memory that is fullest.
    pub peak: u64,
    /// Those of the step that keeps them; none where it does not fit.
    pub kept: Option<u64>,
    /// The largest batch that fits, to an eighth.
    pub largest_batch: Option<u64>,
}

fn versioned<S: serde::Serializer>(record: &Record, serializer: S) -> Result<S::Ok, S::Error> {
    record.to_value().serialize(serializer)
}

/// Explains a run of a model, or a training step, on a machine at a batch; none means the model's own. Where it cannot run, the explanation
/// has the reason and what would make it run.
///
/// # Errors
/// Where the model cannot be used at all, whatever the machine.
pub fn explain(model: &Model, work: &Work, batch: Option<u64>, setup: &Setup) -> Result<Explanation> {
    let bound = model.at_batch(batch)?;
    setup.target()?;
    let mut explanation = Explanation {
        record: blank(&bound, setup, predicted(setup, work), work),
        steps: Vec::new(),
        by_op: Vec::new(),
        by_resource: Vec::new(),
        memory: Vec::new(),
        training: None,
        suggestions: Vec::new(),
        notes: Vec::new(),
    };
    let timed = work.time(&bound, setup);
    match &timed {
        Ok(timed) => {
            enter(&mut explanation.record, setup, work, timed)?;
            account(&mut explanation, &timed.built, &timed.timeline, &setup.system.model)?;
            let held = timed.training.as_ref().map(|(_, holdings)| &holdings[..]).unwrap_or_default();
            for (memory, held) in explanation.memory.iter_mut().zip(held) {
                memory.peak_by_class = bytes_by_name(held);
            }
        }
        Err(diagnostic) => explanation.record.outcome = Outcome::Refused(refusal(diagnostic)),
    }
    if let Work::Training(wanted) = work {
        explanation.training = Some(training(model, wanted, &bound, setup, timed.as_ref().ok())?);
    }
    explanation.suggestions = suggestions(model, bound.batch, setup, work, &explanation.record);
    Ok(explanation)
}

/// Batches up to this one are looked at for the largest that fits.
pub const MOST_SAMPLES: u64 = 1 << 20;

fn training(
    model: &Model,
    wanted: &Wanted,
    bound: &Bound,
    setup: &Setup,
    timed: Option<&Timed>,
) -> Result<TrainingParts> {
    let seconds = timed.map_or(0.0, |t| t.timeline.end_to_end.seconds());
    let found = timed.and_then(|t| t.training.as_ref());
    let part = |(part, time): (&Part, &Picoseconds)| Share {
        name: part.name().to_owned(),
        steps: None,
        time_s: time.seconds(),
        share: if seconds > 0.0 { time.seconds() / seconds } else { 0.0 },
    };
    // Wafers deal any batch to micro-batches that fit.
    let deals = matches!(setup.system.model, ExecutionModel::Wafer(_));
    let largest = |wanted: &Wanted| match bound.batch {
        Some(_) if !deals => {
            largest_batch(&|batch| model.at_batch(Some(batch)), setup, wanted, MOST_SAMPLES).ok().flatten()
        }
        _ => None,
    };
    let peak = |timeline: &Timeline| {
        let tracks = timeline.memory.iter().filter(|track| counts(track));
        tracks.max_by(|a, b| filled(a).total_cmp(&filled(b))).map_or(0, |track| track.peak.bytes)
    };
    let again = Wanted { recompute: Recompute::Stretches, ..wanted.clone() };
    let recomputed = (wanted.recompute == Recompute::Nothing)
        .then(|| Work::Training(again.clone()).time(bound, setup).ok())
        .flatten()
        .map(|again_timed| Recomputed {
            slower: timed.map(|t| again_timed.timeline.device.seconds() / t.timeline.device.seconds()),
            peak: peak(&again_timed.timeline),
            kept: timed.map(|t| peak(&t.timeline)),
            largest_batch: largest(&again),
        });
    Ok(TrainingParts {
        parts: found.map(|(anatomy, _)| anatomy.parts.iter().map(part).collect()).unwrap_or_default(),
        on_links_s: found.map_or(0.0, |(anatomy, _)| anatomy.on_links.seconds()),
        largest_batch: largest(wanted),
        recomputation: recomputed,
    })
}

fn bytes_by_name(held: &Holdings) -> BTreeMap<String, u64> {
    held.bytes.iter().map(|(holding, bytes)| (holding.name().to_owned(), *bytes)).collect()
}

/// Divides a run on a machine that executes so.
fn account(
    explanation: &mut Explanation,
    built: &Built,
    timeline: &Timeline,
    on: &ExecutionModel,
) -> Result<()> {
    let program = &built.compiled.program;
    let seconds = |id| {
        let event = &timeline.events[id];
        (event.cost.time + event.waited).seconds()
    };
    let on_device = |step: &Step| step.unit != Unit::HostLink;
    let total: f64 =
        program.steps.iter().filter(|(_, step)| on_device(step)).map(|(id, _)| seconds(id)).sum();
    let share = |time: f64| if total > 0.0 { time / total } else { 0.0 };
    let mut by_op: BTreeMap<String, (usize, f64)> = BTreeMap::new();
    let tracks: Vec<&MemoryTrack> = timeline.memory.iter().filter(|track| counts(track)).collect();
    let fullest = tracks.iter().max_by(|a, b| filled(a).total_cmp(&filled(b)));
    for (id, step) in program.steps.iter() {
        let event = &timeline.events[id];
        let time_s = seconds(id);
        let op = operation(step, on);
        if on_device(step) && time_s > 0.0 {
            let sum = by_op.entry(op.clone()).or_default();
            *sum = (sum.0 + 1, sum.1 + time_s);
        }
        let measure = Measure::of(program, step, &Bindings::new())?;
        explanation.steps.push(StepPart {
            name: step.name.clone(),
            op,
            start_s: event.start.seconds(),
            time_s,
            share: on_device(step).then(|| share(time_s)),
            bound_by: if time_s > 0.0 { event.cost.bound.name(on) } else { "nothing" },
            resources: event.cost.resources.iter().map(|(r, t)| (r.name(on), t.seconds())).collect(),
            waited_s: event.waited.seconds(),
            cores: program.cores_of(step, &Bindings::new())?,
            idle_slots: event.cost.idle_slots,
            macs: measure.macs,
            bytes: measure.total_read() + measure.written_bytes,
            memory_bytes: fullest.and_then(|m| m.bytes.get(id.index())).copied().unwrap_or(0),
            approximate: step.approximate,
        });
    }
    let longest_first = |mut shares: Vec<Share>| {
        shares.sort_by(|a, b| b.time_s.total_cmp(&a.time_s).then_with(|| a.name.cmp(&b.name)));
        shares
    };
    explanation.by_op = longest_first(
        by_op
            .into_iter()
            .map(|(name, (steps, time_s))| Share { name, steps: Some(steps), time_s, share: share(time_s) })
            .collect(),
    );
    let decided: f64 = timeline.by_resource.values().map(|time| time.seconds()).sum();
    explanation.by_resource = longest_first(
        timeline
            .by_resource
            .iter()
            .map(|(resource, time)| Share {
                name: resource.name(on).to_owned(),
                steps: None,
                time_s: time.seconds(),
                share: if decided > 0.0 { time.seconds() / decided } else { 0.0 },
            })
            .collect(),
    );
    explanation.memory = tracks.into_iter().map(|track| memory(program, track)).collect();
    explanation.notes.clone_from(&built.notes);
    Ok(())
}

/// Part of a memory that is in use at its peak.
fn filled(track: &MemoryTrack) -> f64 {
    track.peak.bytes as f64 / track.capacity.max(1) as f64
}

fn operation(step: &Step, on: &ExecutionModel) -> String {
    let op = step.body.nodes.values().next().map_or("copy", |node| node.op.name());
    match step.kind {
        StepKind::Host => "host transfer".to_owned(),
        StepKind::Stream => "streaming".to_owned(),
        StepKind::Load => "program and arguments".to_owned(),
        StepKind::Exchange => movement(on).map_or_else(|| op.to_owned(), |moved| format!("{moved} ({op})")),
        StepKind::Compute | StepKind::View => op.to_owned(),
    }
}

fn memory(program: &Program, track: &MemoryTrack) -> MemoryPart {
    let mut peak_by_class: BTreeMap<String, u64> =
        track.peak.by_class.iter().map(|(class, bytes)| (class.name().to_owned(), *bytes)).collect();
    let data: u64 = peak_by_class.values().sum();
    if track.peak.bytes > data {
        peak_by_class.insert("program and reserved".to_owned(), track.peak.bytes - data);
    }
    MemoryPart {
        name: track.memory.clone(),
        cores: track.cores,
        capacity: track.capacity,
        peak: track.peak.bytes,
        peak_step: program.steps.get(track.peak.step).map(|s| s.name.clone()).unwrap_or_default(),
        peak_by_class,
        over_time: track.bytes.clone(),
    }
}
