//! Predictions beside measured figures, row by row, and how far they are apart.

mod calls;
mod order;
mod stages;
mod terms;
mod train;

pub use order::{Order, WorkOrder};
pub use terms::METRICS;
pub(crate) use terms::{is_rate, no_metric};
pub(crate) use train::Steps;

use crate::compare::in_parallel;
use crate::generation::{self, generator, reason};
use crate::outcome::confidence;
use crate::setup::Setup;
use crate::way::time_with;
use crate::workload::{Assumed, Case, NO_BATCH, case, shared_batch, with_statistics};
use orrery_base::{Progress, Result, nearest};
use orrery_compile::Options;
use orrery_machine::{ExecutionModel, System};
use orrery_numerics::DType;
use orrery_program::Unit;
use orrery_record::{Measurement, Record, Scope, Scored};
use orrery_simulate::Timeline;
use serde::Serialize;
use std::collections::BTreeMap;
use terms::{conversion, metric};

/// The status of a row that is predicted.
pub const OK: &str = "ok";

/// One row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ValidationRow {
    /// The row's name; its number and workload where it has none.
    pub id: String,
    /// Machine as the file names it.
    pub system: String,
    /// Workload.
    pub workload: String,
    /// Mode.
    pub mode: String,
    /// Metric.
    pub metric: String,
    /// Unit.
    pub unit: String,
    /// Precision as the file names it.
    pub precision: Option<String>,
    /// Devices.
    pub devices: Option<f64>,
    /// Global batch.
    pub batch_size: Option<u64>,
    /// Sequence length.
    pub seq_len: Option<u64>,
    /// Software stack as the file names it.
    pub stack: Option<String>,
    /// Source.
    pub source: String,
    /// What was measured.
    pub measured: f64,
    /// What is predicted.
    pub predicted: Option<f64>,
    /// Predicted over measured.
    pub ratio: Option<f64>,
    /// How the figure may be used.
    pub scored: Option<Scored>,
    /// [`OK`], or why it could not be modelled.
    pub status: String,
    /// Only the forward pass was timed; the rest is a multiple of it, for the reason that `note` gives.
    pub from_forward: bool,
    /// What predictions of its kind are worth on its machine.
    pub confidence: String,
    /// What else to know.
    pub note: Option<String>,
    /// What the row says that is not known here and has no effect: keys of `spec`, a stack.
    pub unknown: Vec<String>,
}

/// How far predictions are from figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Machine as the file names it; `all` for all of them.
    pub system: String,
    /// Mode and status of the rows.
    pub kind: String,
    /// Rows.
    pub n: usize,
    /// Sources and workloads; each counts once in `median_error_by_source`.
    pub groups: usize,
    /// Median of |predicted - measured| / measured.
    pub median_error: f64,
    /// 90th percentile of it.
    pub p90_error: f64,
    /// Median over sources and workloads of the median within each.
    pub median_error_by_source: f64,
    /// Geometric mean of predicted over measured rates, and of measured over predicted times: above 1 is a machine
    /// predicted too fast.
    pub geometric_mean_ratio: f64,
    /// Part of the rows that are within 25 %.
    pub within_25_percent: f64,
    /// Part of the rows that are within a factor of two.
    pub within_2x: f64,
}

/// What validation found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Validation {
    /// Every row of the file, in its order.
    pub rows: Vec<ValidationRow>,
    /// Clean figures (`scored` is yes, or nobody judged), by system and kind.
    pub clean: Vec<Summary>,
    /// Figures with overhead in them (`scored` is loose), by system and kind: within 2x is right.
    pub loose: Vec<Summary>,
    /// Whether clean figures of several machines for the same work are predicted in the right order.
    pub order: Order,
}

/// Predicts what it can of a file's figures. `own` are machines of the user, which come before the built-in ones.
///
/// # Errors
/// `cancelled`.
pub fn validate(
    records: &[Record],
    own: &[System],
    threads: usize,
    progress: &Progress,
) -> Result<Validation> {
    let figures: Vec<(usize, &Record, &Measurement)> = records
        .iter()
        .enumerate()
        .flat_map(|(at, record)| record.measurements().iter().map(move |figure| (at, record, figure)))
        .collect();
    let steps = Steps::default();
    let row = |(at, record, figure): &(usize, &Record, &Measurement)| row(*at, record, figure, own, &steps);
    let rows = in_parallel(&figures, threads, progress, &row)?;
    let summarise = |wanted: &dyn Fn(Option<Scored>) -> bool| {
        let rows: Vec<&ValidationRow> =
            rows.iter().filter(|r| r.ratio.is_some() && wanted(r.scored)).collect();
        summaries(&rows)
    };
    let clean = summarise(&|scored| matches!(scored, None | Some(Scored::Yes)));
    let loose = summarise(&|scored| scored == Some(Scored::Loose));
    let order = order::of(&rows);
    Ok(Validation { rows, clean, loose, order })
}

fn row(at: usize, record: &Record, figure: &Measurement, own: &[System], steps: &Steps) -> ValidationRow {
    let identity = &record.identity;
    let workload = &identity.workload;
    let system = machine_of(record, own);
    let found = system.clone().and_then(|system| prediction(record, figure, system, steps));
    let (predicted, status, from_forward, note) = match found {
        Ok(Prediction { value, instead: None, note }) => (Some(value), OK.to_owned(), false, note),
        Ok(Prediction { value, instead: Some(why), note }) => {
            let all: Vec<String> = note.into_iter().chain([why]).collect();
            (Some(value), OK.to_owned(), true, Some(all.join("; ")))
        }
        Err(reason) => (None, reason, false, None),
    };
    let kind = workload.mode.as_deref().unwrap_or_default();
    ValidationRow {
        id: record.id.clone().unwrap_or_else(|| format!("row {}: {}", at + 1, workload.model)),
        system: identity.machine.clone(),
        workload: workload.model.clone(),
        mode: workload.mode.clone().unwrap_or_default(),
        metric: figure.metric.clone(),
        unit: figure.unit.clone(),
        precision: identity.precision.clone(),
        devices: identity.devices,
        batch_size: workload.batch.global,
        seq_len: workload.lengths.sequence,
        stack: identity.stack.clone(),
        source: record.source(),
        measured: figure.value,
        predicted,
        ratio: predicted.filter(|_| figure.value > 0.0).map(|p| p / figure.value),
        scored: figure.scored,
        status,
        from_forward,
        unknown: terms::unknown(record, system.as_ref().ok().copied()),
        confidence: system.map_or_else(|_| "uncalibrated".to_owned(), |system| confidence(system, kind)),
        note,
    }
}

struct Prediction {
    value: f64,
    /// Where it is a multiple of the forward pass: why.
    instead: Option<String>,
    note: Option<String>,
}

impl Prediction {
    fn plain(value: f64, notes: &[String]) -> Self {
        Self { value, instead: None, note: (!notes.is_empty()).then(|| notes.join("; ")) }
    }
}

/// The machine that a row names: the user's own first.
fn machine_of<'a>(record: &Record, own: &'a [System]) -> Result<&'a System, String> {
    let machine = &record.identity.machine;
    match own.iter().find(|system| system.answers_to(machine)) {
        Some(system) => Ok(system),
        None => {
            orrery_machine::find(machine).map_err(|_| format!("there is no description of `{machine}` yet"))
        }
    }
}

/// What a figure would be by a machine's description, whatever machine the row names; and whether that is a multiple of the
/// forward pass.
///
/// # Errors
/// Why it cannot be modelled.
pub(crate) fn predicted(
    record: &Record,
    figure: &Measurement,
    system: &System,
    steps: &Steps,
) -> Result<(f64, bool), String> {
    prediction(record, figure, system, steps).map(|found| (found.value, found.instead.is_some()))
}

fn prediction(
    record: &Record,
    figure: &Measurement,
    system: &System,
    steps: &Steps,
) -> Result<Prediction, String> {
    let identity = &record.identity;
    if identity.workload.mode.as_deref() == Some("collective") {
        let stack = identity.stack.as_deref().and_then(|name| system.stack(name).ok());
        return calls::collective(&identity.workload, figure, system, stack);
    }
    let (precision, mut notes) = precision(system, identity.precision.as_deref())?;
    let stack = identity.stack.as_deref().filter(|name| system.stack(name).is_ok());
    let storage = system.precision(precision.as_deref()).map_err(|d| d.cause.clone())?.storage;
    if figure.scope == Scope::Service {
        notes.push("the devices' time; what the service adds is not modelled".to_owned());
    }
    let setup = Setup::of(system.clone()).precision(precision.as_deref()).stack(stack);
    if let Some(known) = generator(record) {
        let (value, more) = generation::predict(known, record, metric(figure), &setup)?;
        notes.extend(more);
        return Ok(Prediction::plain(value, &notes));
    }
    let assumed = |assumed| one_device(record, figure, &setup, storage, assumed, steps);
    let trains = identity.workload.mode.as_deref() == Some("train");
    let on_tiles = trains && matches!(system.model, ExecutionModel::BulkSynchronous(_));
    let mut found = if on_tiles { stages::on_fewest(record, &assumed) } else { assumed(Assumed::default()) };
    let no_room = |found: &Result<Prediction, String>| found.as_ref().is_err_and(|why| why.contains(NO_ROOM));
    if found.as_ref().is_err_and(|why| why == NO_BATCH) && is_rate(&figure.metric) {
        // Of training on machines whose memory holds few samples, as many as are usual, or fit. Else the best rate.
        let at = |batch| assumed(Assumed { batch: Some(batch), ..Assumed::default() });
        found = if trains && matches!(system.model, ExecutionModel::Kernel(_) | ExecutionModel::Engines(_)) {
            let mut batch = BATCHES[0];
            let mut at_once = at(batch);
            while no_room(&at_once) && batch > 1 {
                batch /= 2;
                at_once = at(batch);
            }
            at_once
        } else {
            BATCHES.into_iter().map(at).reduce(better).unwrap_or(found)
        };
    }
    // Wafers deal out micro-batches themselves.
    let deals = on_tiles || matches!(system.model, ExecutionModel::Wafer(_));
    if let Some(most) = shared_batch(record).filter(|batch| trains && !deals && *batch > 1 && no_room(&found))
    {
        // Gradients add up over as many micro-batches as it takes: the largest that fits, if a single sample does.
        let at = |batch| assumed(Assumed { batch: Some(batch), ..Assumed::default() });
        let mut micro = 1;
        let mut fits = at(micro);
        while !no_room(&fits) {
            micro *= LARGER;
            found = fits;
            if micro >= most {
                break;
            }
            fits = at(micro);
        }
    }
    // A copy that no device can hold alone is cut over some.
    let mut shards = 1;
    let said = on_tiles || identity.workload.spec.contains_key("tp");
    while no_room(&found) && !said {
        shards *= 2;
        if shards as f64 > identity.devices.unwrap_or(1.0) || shards > system.links.chips_per_machine {
            break;
        }
        found = assumed(Assumed { shards: Some(shards), ..Assumed::default() }).or(found);
    }
    if let (true, true, Err(why)) = (trains, no_room(&found), &found) {
        // It was run, so that it fits in some way that is not found here.
        let forward = assumed(Assumed { from_forward: true, ..Assumed::default() });
        found = forward.map(|found| Prediction {
            instead: Some(format!("a multiple of the forward pass, as the step {why}")),
            ..found
        });
    }
    let mut found = found?;
    notes.extend(found.note.take());
    Ok(Prediction { note: (!notes.is_empty()).then(|| notes.join("; ")), ..found })
}

/// True where what is asked of a device does not fit it.
fn no_room(found: &Result<Prediction, String>) -> bool {
    found.as_ref().is_err_and(|why| why.contains(NO_ROOM))
}

/// By what a micro-batch that fits is made larger.
const LARGER: u64 = 4;
/// Batches that are tried where none is published.
const BATCHES: [u64; 4] = [8, 32, 128, 512];
/// The code of what does not fit, as it stands in a reason.
const NO_ROOM: &str = "[does-not-fit]";

/// The higher of two rates, if any.
fn better(one: Result<Prediction, String>, other: Result<Prediction, String>) -> Result<Prediction, String> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok(if other.value > one.value { other } else { one }),
        (one, other) => one.or(other),
    }
}

/// A figure from the work of one device.
fn one_device(
    record: &Record,
    figure: &Measurement,
    setup: &Setup,
    storage: DType,
    assumed: Assumed,
    steps: &Steps,
) -> Result<Prediction, String> {
    let convert = conversion(metric(figure))?;
    if figure.metric == "latency_ms" && !(figure.unit.is_empty() || figure.unit.starts_with("ms")) {
        return Err(format!("the unit of `latency_ms` is ms, not `{}`", figure.unit));
    }
    let mut case = case(record, storage, assumed)?;
    let mut notes: Vec<String> = case.note.take().into_iter().collect();
    let trained = case.passes > 1.0;
    let setup = setup.clone().tiles(case.tiles).map_err(|d| reason(&d))?;
    let (mut step, mut instead) = (None, None);
    if case.training.is_some() && matches!(setup.system.model, ExecutionModel::Stream(_)) {
        return Err("it is an inference machine: nothing on it stays from run to run".to_owned());
    }
    if let Some(training) = case.training.as_ref().filter(|_| !assumed.from_forward) {
        match train::seconds(&case, training, &setup, figure.scope, steps) {
            Ok((seconds, note)) => {
                notes.extend(note);
                step = Some(seconds);
            }
            Err(error) if error.code == "does-not-fit" => return Err(reason(&error)),
            Err(error) => {
                instead = Some(format!("{} x the forward pass, as {}", case.passes, reason(&error)));
            }
        }
    }
    let work = match step {
        Some(seconds) => seconds,
        None => forward(&mut case, &setup, figure.scope, trained)?,
    };
    // In training, each sum of the forward pass has one in the backward pass.
    let precision = setup.target().map_err(|d| d.cause.clone())?.precision;
    let sums =
        case.cut.sums(&case.model.graph, precision, &setup.system.links) * if trained { 2.0 } else { 1.0 };
    let over_copies = stages::sums_over_copies(&case, storage, &setup.system.links);
    let value = convert(&case, (work + sums) * (1.0 + case.cut.bubble(case.micro_batches)) + over_copies);
    if !value.is_finite() || value <= 0.0 {
        return Err(format!("the source's count of `{}` is not known for this workload", figure.metric));
    }
    Ok(Prediction { instead, ..Prediction::plain(value, &notes) })
}

/// Seconds of the forward pass, so often as the measured work takes it.
fn forward(case: &mut Case, setup: &Setup, scope: Scope, trained: bool) -> Result<f64, String> {
    // On the other machines a channel's statistics would be taken on one core, which no compiler of theirs does.
    let counted = matches!(setup.system.model, ExecutionModel::Kernel(_) | ExecutionModel::Engines(_));
    if trained && counted {
        with_statistics(&mut case.model.graph);
    }
    let setup = if trained { setup.clone().with_wide_activations() } else { setup.clone() };
    let chips = if case.dealt { case.cut.stages } else { 1 };
    let options = Options { keep_results: trained, more_chips: chips - 1, ..Options::default() };
    let (_, timeline) = time_with(&case.model, &setup, &options).map_err(|d| reason(&d))?;
    if let Some(call) = calls::single(&case.model.graph, &setup) {
        let kernels = timeline.events.values().filter(|event| event.unit == Unit::Device);
        return Ok(call + kernels.map(|event| event.cost.time.seconds()).sum::<f64>());
    }
    Ok(seconds(&timeline, scope) * case.passes / chips as f64)
}

fn seconds(timeline: &Timeline, scope: Scope) -> f64 {
    if scope == Scope::Device { timeline.device.seconds() } else { timeline.end_to_end.seconds() }
}

/// The machine's precision that the row means, with what to know about it.
fn precision(system: &System, name: Option<&str>) -> Result<(Option<String>, Vec<String>), String> {
    let Some(name) = name else {
        return Ok((None, vec!["precision not published: the machine's default".to_owned()]));
    };
    let wanted = if name == "amp" { "fp16" } else { name };
    match system.precision(Some(wanted)) {
        Ok(found) => Ok((Some(found.name.clone()), Vec::new())),
        Err(_) => {
            let close = nearest(wanted, system.precisions.iter().map(|p| p.name.as_str()));
            let hint = close.map(|c| format!(", `{c}` is close")).unwrap_or_default();
            Err(format!("{} does not multiply in `{name}`{hint}", system.title))
        }
    }
}

fn summaries(rows: &[&ValidationRow]) -> Vec<Summary> {
    let mut parts: BTreeMap<(String, String), Vec<&ValidationRow>> = BTreeMap::new();
    for row in rows {
        let kind =
            if row.from_forward { format!("{}, from the forward pass", row.mode) } else { row.mode.clone() };
        parts.entry((row.system.clone(), kind.clone())).or_default().push(row);
        parts.entry(("all".to_owned(), kind)).or_default().push(row);
    }
    parts.into_iter().map(|((system, kind), rows)| summary(system, kind, &rows)).collect()
}

fn summary(system: String, kind: String, rows: &[&ValidationRow]) -> Summary {
    let error = |row: &ValidationRow| (row.ratio.unwrap_or(1.0) - 1.0).abs();
    let errors: Vec<f64> = rows.iter().map(|r| error(r)).collect();
    let mut groups: BTreeMap<(&str, &str, &str), Vec<f64>> = BTreeMap::new();
    for row in rows {
        groups.entry((&row.system, &row.source, &row.workload)).or_default().push(error(row));
    }
    let medians: Vec<f64> = groups.into_values().map(|errors| quantile(errors, 0.5)).collect();
    let n = rows.len();
    let part = |within: &dyn Fn(f64) -> bool| {
        rows.iter().filter(|r| r.ratio.is_some_and(within)).count() as f64 / n as f64
    };
    let faster = |row: &&ValidationRow| {
        let logarithm = row.ratio?.ln();
        Some(if is_rate(&row.metric) { logarithm } else { -logarithm })
    };
    let logarithms: f64 = rows.iter().filter_map(faster).sum();
    Summary {
        system,
        kind,
        n,
        groups: medians.len(),
        median_error: quantile(errors.clone(), 0.5),
        p90_error: quantile(errors, 0.9),
        median_error_by_source: quantile(medians, 0.5),
        geometric_mean_ratio: (logarithms / n as f64).exp(),
        within_25_percent: part(&|ratio| (ratio - 1.0).abs() <= 0.25),
        within_2x: part(&|ratio| (0.5..=2.0).contains(&ratio)),
    }
}

/// The quantile between the two nearest values; zero of none.
pub(crate) fn quantile(mut values: Vec<f64>, at: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = at * values.len().saturating_sub(1) as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    match (values.get(below), values.get(above)) {
        (Some(low), Some(high)) => low + (high - low) * place.fract(),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_record::rows::read;

    /// The figure predicted for a row: system, devices, workload, mode, precision, batch, stack, metric, unit, spec.
    fn figure(row: &str, spec: &str) -> f64 {
        let spec = spec.replace('"', "\"\"");
        let text = format!(
            "system,devices,workload,mode,precision,batch_size,stack,metric,unit,value,spec\n{row},1,\"{spec}\"\n"
        );
        let record = &read(&text).unwrap()[0];
        let system = machine_of(record, &[]).unwrap();
        predicted(record, &record.measurements()[0], system, &Steps::default())
            .unwrap_or_else(|why| panic!("{row}: {why}"))
            .0
    }

    #[test]
    fn long_rows_of_a_softmax_are_read_again() {
        let rate = |columns: u64| {
            let spec = format!(r#"{{"rows": 65536, "cols": {columns}}}"#);
            figure("a100-80gb,1,softmax,primitive,fp16,,pytorch,gelements_per_s,", &spec)
        };
        let (short, long) = (rate(1024), rate(4096));
        assert!(short > 1.8 * long && short < 2.2 * long, "{short} {long}");
    }

    #[test]
    fn eight_bits_are_timed_without_scales() {
        let small = r#"{"n_layers": 2, "in_len": 512, "out_len": 1}"#;
        let ms = |precision: &str| {
            figure(&format!("h100,1,llama2_7b,prefill,{precision},8,tensorrt_llm,latency_ms,"), small)
        };
        let (wide, narrow) = (ms("fp16"), ms("fp8"));
        assert!(narrow > 0.4 * wide && narrow < 0.7 * wide, "{wide} {narrow}");
    }

    #[test]
    fn a_rate_of_one_device_and_one_without_a_batch() {
        let spec = r#"{"n_layers": 2, "vocab": 1000, "in_len": 64, "out_len": 8, "tp": 2}"#;
        let rate =
            |unit: &str| figure(&format!("a100,2,llama2_7b,inference,fp16,4,vllm,tokens_per_s,{unit}"), spec);
        assert!((rate("tok/s") / rate("tok/s/GPU") - 2.0).abs() < 1e-9);
        let resnet = |batch: &str| {
            figure(&format!("a100,1,resnet50,inference,fp16,{batch},tensorrt,samples_per_s,"), "{}")
        };
        assert!(resnet("") >= resnet("32") && resnet("") >= resnet("128"));
    }

    #[test]
    fn calls_measured_one_at_a_time_hold_the_host() {
        let microseconds = |work: &str, elements: f64, spec: &str| {
            let row = format!("a100-80gb,1,{work},primitive,fp16,,pytorch,gelements_per_s,");
            elements * 1e-3 / figure(&row, spec)
        };
        let gelu = |elements: f64| microseconds("gelu", elements, &format!(r#"{{"elements": {elements}}}"#));
        // 45 us, and from where the kernel is bound by memory, what it takes.
        assert!((45.0..55.0).contains(&gelu(65_536.0)));
        assert!((190.0..230.0).contains(&gelu(67_108_864.0)));
        let softmax = microseconds("softmax", 524_288.0, r#"{"rows": 4096, "cols": 128}"#);
        assert!((12.0..18.0).contains(&softmax), "{softmax}");
    }

    #[test]
    fn an_all_reduce_waits_for_its_host() {
        let microseconds = |stack: &str, bytes: u64| {
            let row = format!("h100,4,allreduce,collective,fp16,,{stack},latency_ms,");
            1e3 * figure(&row, &format!(r#"{{"bytes": {bytes}, "ranks": 4}}"#))
        };
        assert!(microseconds("pytorch", 2048) > 2.0 * microseconds("tensorrt_llm", 2048));
        assert_eq!(microseconds("pytorch", 1 << 26), microseconds("tensorrt_llm", 1 << 26));
    }

    #[test]
    fn large_products_run_at_what_power_sustains() {
        let part = |size: u64| {
            let spec = format!(r#"{{"batch": 1, "m": {size}, "k": {size}, "n": {size}}}"#);
            figure("h100,1,gemm,primitive,bf16,,,tflops,", &spec) / 989.4
        };
        assert!((0.6..0.72).contains(&part(8192)), "{}", part(8192));
    }

    #[test]
    fn quantiles_lie_between_values() {
        assert_eq!(quantile(vec![3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(quantile(vec![1.0, 2.0], 0.5), 1.5);
        assert_eq!(quantile(vec![0.0, 10.0], 0.9), 9.0);
        assert_eq!(quantile(Vec::new(), 0.5), 0.0);
    }
}
