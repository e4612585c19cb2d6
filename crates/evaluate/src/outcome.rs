//! What came of a simulation, as a Record.

use crate::model::{Bound, Model};
use crate::placement::Placement;
use crate::power::watts;
use crate::setup::Setup;
use crate::way::Built;
use crate::work::{Timed, Work, note_training};
use orrery_base::units::show_si;
use orrery_base::{Diagnostic, Picoseconds, Result};
use orrery_ir::count;
use orrery_machine::{Band, ExecutionModel, System};
use orrery_program::{MemoryId, Unit};
use orrery_record::{
    Batch, Counted, Identity, Lengths, Measurement, Outcome, Phase, Provenance, Record, Refusal, Scope,
    Statistic, Workload,
};
use orrery_simulate::{MemoryTrack, Timeline};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What predictions of a kind of work are worth on a machine: the band that validation supports, or that there is none.
pub fn confidence(system: &System, kind: &str) -> String {
    system.band(kind).map_or_else(|| UNCALIBRATED.to_owned(), ToString::to_string)
}

/// What predictions are worth where nothing was measured to hold them against.
const UNCALIBRATED: &str = "uncalibrated";

/// Program and version, as Records name it.
pub fn program_name() -> String {
    format!("orrery {}", env!("CARGO_PKG_VERSION"))
}

/// The work of a bound model in a mode.
pub fn workload(model: &Bound, mode: &str) -> Workload {
    Workload {
        model: model.name.clone(),
        mode: Some(mode.to_owned()),
        batch: Batch { global: model.batch, micro: model.batch },
        lengths: Lengths { sequence: model.sequence() },
        dims: model.dims.clone(),
        spec: Map::new(),
    }
}

/// A Record without figures yet.
pub fn blank(model: &Bound, setup: &Setup, provenance: Provenance, work: &Work) -> Record {
    // A model that could not be bound has no outputs to take a loss of.
    let step = (!model.graph.outputs.is_empty()).then(|| work.step(&model.graph)).flatten();
    let precision = setup.target().ok().map(|target| target.precision.name.clone());
    Record {
        id: None,
        identity: Identity {
            workload: workload(model, work.mode()),
            model_digest: Some(model.digest()),
            parameters: Some(count::parameters(&model.graph)),
            machine: setup.system.name.clone(),
            devices: Some(1.0),
            stack: setup.stack.clone(),
            stack_version: None,
            precision: precision.or_else(|| setup.precision.clone()),
        },
        provenance,
        counted: counted(model),
        outcome: Outcome::Measurements(Vec::new()),
        remarks: Vec::new(),
        extra: step.map(|step| ("step".to_owned(), step)).into_iter().collect(),
    }
}

fn counted(model: &Bound) -> Counted {
    let samples = model.batch.unwrap_or(1);
    Counted {
        samples: Some(samples),
        tokens: model.sequence().map(|length| length.saturating_mul(samples)),
        steps: Some(1),
    }
}

/// Simulates a run of a model, or a training step, on a machine. What cannot run there is a Record with the reason.
pub fn simulated(model: &Bound, setup: &Setup, work: &Work) -> Record {
    let mut record = blank(model, setup, predicted(setup, work), work);
    match work.time(model, setup).and_then(|timed| enter(&mut record, setup, work, &timed)) {
        Ok(()) => {}
        Err(diagnostic) => record.outcome = Outcome::Refused(refusal(&diagnostic)),
    }
    record
}

/// The provenance of what is simulated on a machine.
pub(crate) fn predicted(setup: &Setup, work: &Work) -> Provenance {
    Provenance::Simulated { by: program_name(), confidence: confidence(&setup.system, work.mode()) }
}

/// Puts timed work into its Record.
pub(crate) fn enter(record: &mut Record, setup: &Setup, work: &Work, timed: &Timed) -> Result<()> {
    fill(record, &setup.system, work.mode(), timed)?;
    if let Some((anatomy, holdings)) = &timed.training {
        note_training(record, anatomy, holdings);
    }
    record.remarks.extend(timed.placement.remark(work.mode()));
    Ok(())
}

/// Simulates one run of a model at a batch; none means the model's own. A batch that the model does not take is a Record
/// with the reason.
pub fn simulated_at(model: &Model, batch: Option<u64>, setup: &Setup, work: &Work) -> Result<Record> {
    Ok(simulated(&model.at_batch(batch)?, setup, work))
}

/// The reason why a model cannot run, from what stopped it.
pub fn refusal(diagnostic: &Diagnostic) -> Refusal {
    Refusal {
        code: diagnostic.code.to_owned(),
        reason: diagnostic.cause.clone(),
        place: diagnostic.place.clone(),
        remedies: diagnostic.help.clone(),
    }
}

/// The interval in which a time or a rate lies by the band of its kind; bytes have none.
fn within(figure: &Measurement, band: &Band) -> Option<(f64, f64)> {
    match figure.metric.as_str() {
        metric if metric.starts_with("latency") => Some((figure.value * band.low, figure.value * band.high)),
        metric if metric.starts_with("peak") => None,
        // Nobody measured the power of enough machines at such work to say.
        "power_w" | "energy_j" => None,
        _ => Some((figure.value / band.high, figure.value / band.low)),
    }
}

/// A steady figure of a single run.
pub(crate) fn figure(metric: &str, unit: &str, scope: Scope, value: f64) -> Measurement {
    Measurement {
        metric: metric.to_owned(),
        unit: unit.to_owned(),
        phase: Phase::Steady,
        scope,
        statistic: Statistic::Single,
        value,
        interval: None,
        scored: None,
    }
}

/// Puts a timeline's figures into a Record.
fn fill(record: &mut Record, system: &System, mode: &str, timed: &Timed) -> Result<()> {
    let Timed { graph: model, built, timeline, placement, .. } = timed;
    let (device, whole) = (timeline.device.seconds(), timeline.end_to_end.seconds());
    let Placement { shards, copies } = *placement;
    let batch = &mut record.identity.workload.batch;
    batch.global = batch.micro.map(|batch| batch.saturating_mul(copies));
    let counted = &mut record.counted;
    counted.samples = counted.samples.map(|samples| samples.saturating_mul(copies));
    counted.tokens = counted.tokens.map(|tokens| tokens.saturating_mul(copies));
    let counted = *counted;
    let mut figures = vec![
        figure("latency_ms", "ms", Scope::Device, device * 1e3),
        figure("latency_ms", "ms", Scope::EndToEnd, whole * 1e3),
    ];
    if device > 0.0 {
        let mut rate = |metric: &str, unit: &str, count: Option<u64>| {
            if let Some(count) = count {
                figures.push(figure(metric, unit, Scope::Device, count as f64 / device));
            }
        };
        rate("samples_per_s", "samples/s", counted.samples);
        rate("tokens_per_s", "tok/s", counted.tokens);
        let macs = model.macs()?;
        if macs > 0 {
            figures.push(figure(
                "tflops",
                "TFLOP/s",
                Scope::Device,
                2e-12 * macs as f64 * (shards * copies) as f64 / device,
            ));
        }
    }
    for track in timeline.memory.iter().filter(|track| counts(track)) {
        let metric = format!("peak_bytes_{}", track.memory);
        figures.push(figure(&metric, "B", Scope::Device, track.peak.bytes as f64));
    }
    let devices = (built.devices * shards * copies) as f64;
    record.identity.devices = Some(devices);
    if let Some(watts) = watts(&built.compiled.program, timeline, &system.power) {
        figures.push(figure("power_w", "W", Scope::Device, watts * devices));
        figures.push(figure("energy_j", "J", Scope::Device, watts * devices * device));
    }
    if let Some(band) = system.band(mode) {
        for figure in &mut figures {
            figure.interval = within(figure, band);
        }
    }
    record.outcome = Outcome::Measurements(figures);
    record
        .extra
        .insert("memory".into(), timeline.memory.iter().filter(|track| counts(track)).map(memory).collect());
    record.extra.insert("bound_by".into(), bound_by(timeline, &system.model));
    if built.devices > 1 {
        let interval = busiest_chip(built, timeline).seconds();
        let samples = counted.samples.unwrap_or(1) as f64;
        record.remarks.push(format!(
            "{} chips in sequence hold it. The rate is that of one run after the other; runs that follow at the pace of \
             the busiest chip would make {} samples/s",
            built.devices,
            show_si(samples / interval, "").trim_end(),
        ));
        record.extra.insert(
            "in_sequence".into(),
            json!({ "interval_ms": interval * 1e3, "samples_per_s": samples / interval }),
        );
    }
    let approximate = built.compiled.program.steps.values().filter(|s| s.approximate).count();
    if approximate > 0 {
        record.remarks.push(format!(
            "{approximate} of {} steps are approximated: their work is counted, how the machine would cut it is a guess",
            built.compiled.program.steps.len()
        ));
    }
    Ok(())
}

/// The time of the chip whose steps take longest, of chips in sequence: it decides how soon runs follow. Chips that are
/// compiled as one memory share its steps evenly.
fn busiest_chip(built: &Built, timeline: &Timeline) -> Picoseconds {
    let program = &built.compiled.program;
    let mut busy: BTreeMap<MemoryId, Picoseconds> = BTreeMap::new();
    for (id, step) in program.steps.iter().filter(|(_, step)| step.unit == Unit::Device) {
        if let Some(write) = step.writes.first() {
            *busy.entry(program.buffers[write.buffer].home).or_insert(Picoseconds::ZERO) +=
                timeline.events[id].cost.time;
        }
    }
    let chips = built.devices / (busy.len() as u64).max(1);
    let longest = busy.into_values().max().unwrap_or(Picoseconds::ZERO);
    Picoseconds::from_seconds(longest.seconds() / chips.max(1) as f64)
}

/// True for memories of the machine that hold something. The host's is not described, and has no bound here.
pub(crate) fn counts(track: &MemoryTrack) -> bool {
    track.capacity < u64::MAX && track.peak.bytes > 0
}

fn memory(track: &MemoryTrack) -> Value {
    let classes: Map<String, Value> =
        track.peak.by_class.iter().map(|(class, bytes)| (class.name().to_owned(), (*bytes).into())).collect();
    json!({
        "name": track.memory,
        "cores": track.cores,
        "capacity_bytes": track.capacity,
        "peak_bytes": track.peak.bytes,
        "peak_by_class": classes,
    })
}

/// Shares of the device time, largest first.
fn bound_by(timeline: &Timeline, on: &ExecutionModel) -> Value {
    let total: f64 = timeline.by_resource.values().map(|t| t.seconds()).sum();
    let mut shares: Vec<(&str, f64)> =
        timeline.by_resource.iter().map(|(r, t)| (r.name(on), t.seconds() / total)).collect();
    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
    shares.into_iter().map(|(resource, share)| json!({ "resource": resource, "share": share })).collect()
}
