//! What would help: the run again with one thing changed, and what that would gain.

use crate::model::{BatchAxis, Model};
use crate::outcome::simulated;
use crate::setup::Setup;
use crate::work::Work;
use orrery_machine::ExecutionModel;
use orrery_record::{Record, Scope, precision_class};
use serde::Serialize;

/// One change and what it is predicted to gain.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Suggestion {
    /// What to change, for people.
    pub change: String,
    /// The option that does it, where there is one: `--batch 32`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub option: Option<String>,
    /// The figure that gets better: `samples_per_s`, `latency_ms`; `runs` where it does not run as it is.
    pub metric: &'static str,
    /// How many times better; none where it does not run as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gain: Option<f64>,
    /// What it costs, or what else to know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub but: Option<String>,
}

/// Gains below this are not worth a line.
const LEAST_GAIN: f64 = 1.05;
/// Most suggestions.
const MOST: usize = 3;
/// Batches that are tried, as multiples.
const MULTIPLES: [u64; 4] = [2, 4, 16, 64];

/// What would help a run that came out as `record`, most first.
pub(crate) fn suggestions(
    model: &Model,
    batch: Option<u64>,
    setup: &Setup,
    work: &Work,
    record: &Record,
) -> Vec<Suggestion> {
    if record.refusal().is_some() {
        return remedies(model, batch, setup, work);
    }
    let mut found = Vec::new();
    found.extend(larger_batch(model, batch, setup, work, record));
    found.extend(other_precisions(model, batch, setup, work, record));
    found.extend(other_stacks(model, batch, setup, work, record));
    found.extend(smaller_parts(model, batch, setup, work, record));
    found.extend(less_transfer(record));
    found.retain(|s| s.gain.is_some_and(|gain| gain >= LEAST_GAIN));
    found.sort_by(|a, b| b.gain.unwrap_or(0.0).total_cmp(&a.gain.unwrap_or(0.0)));
    found.truncate(MOST);
    found
}

fn rate(record: &Record) -> Option<f64> {
    record.figure("samples_per_s", Scope::Device).map(|m| m.value)
}

fn latency(record: &Record, scope: Scope) -> Option<f64> {
    record.figure("latency_ms", scope).map(|m| m.value)
}

fn attempt(model: &Model, batch: Option<u64>, setup: &Setup, work: &Work) -> Option<Record> {
    let record = simulated(&model.at_batch(batch).ok()?, setup, work);
    record.refusal().is_none().then_some(record)
}

fn larger_batch(
    model: &Model,
    batch: Option<u64>,
    setup: &Setup,
    work: &Work,
    record: &Record,
) -> Option<Suggestion> {
    if model.batch_axis == BatchAxis::None {
        return None;
    }
    let (batch, before) = (batch?, rate(record)?);
    // The smallest batch that comes within a tenth of the best that fits.
    let mut tried: Vec<(u64, f64, f64)> = Vec::new();
    for multiple in MULTIPLES {
        let larger = batch.saturating_mul(multiple);
        let Some(found) = attempt(model, Some(larger), setup, work) else { break };
        tried.push((larger, rate(&found)?, latency(&found, Scope::Device)?));
    }
    let best = tried.iter().map(|t| t.1).fold(0.0, f64::max);
    let (larger, after, slower) = tried.into_iter().find(|t| t.1 >= 0.9 * best)?;
    Some(Suggestion {
        change: format!("a batch of {larger}"),
        option: Some(format!("--batch {larger}")),
        metric: "samples_per_s",
        gain: Some(after / before),
        but: Some(format!("each run takes {:.1} times as long", slower / latency(record, Scope::Device)?)),
    })
}

fn other_precisions(
    model: &Model,
    batch: Option<u64>,
    setup: &Setup,
    work: &Work,
    record: &Record,
) -> Vec<Suggestion> {
    let Some(before) = latency(record, Scope::Device) else { return Vec::new() };
    let now = record.identity.precision.clone().unwrap_or_default();
    let others = setup.system.precisions.iter().filter(|p| p.name != now);
    let try_one = |name: &str| {
        let found = attempt(model, batch, &setup.clone().precision(Some(name)), work)?;
        Some(Suggestion {
            change: format!("{name} instead of {now}"),
            option: Some(format!("--precision {name}")),
            metric: "latency_ms",
            gain: Some(before / latency(&found, Scope::Device)?),
            but: Some(format!("accuracy: {} instead of {}", precision_class(name), precision_class(&now))),
        })
    };
    others.filter_map(|p| try_one(&p.name)).collect()
}

fn other_stacks(
    model: &Model,
    batch: Option<u64>,
    setup: &Setup,
    work: &Work,
    record: &Record,
) -> Vec<Suggestion> {
    let Some(before) = latency(record, Scope::Device) else { return Vec::new() };
    let others = setup.system.software.iter().filter(|s| Some(&s.name) != setup.stack.as_ref());
    let try_one = |name: &str, title: &str| {
        let found = attempt(model, batch, &setup.clone().stack(Some(name)), work)?;
        Some(Suggestion {
            change: format!("{title}: another software stack"),
            option: Some(format!("--stack {name}")),
            metric: "latency_ms",
            gain: Some(before / latency(&found, Scope::Device)?),
            but: None,
        })
    };
    others.filter_map(|s| try_one(&s.name, &s.title)).collect()
}

/// Several copies of the model on parts of a chip, where the machine is used in tiles.
fn smaller_parts(
    model: &Model,
    batch: Option<u64>,
    setup: &Setup,
    work: &Work,
    record: &Record,
) -> Option<Suggestion> {
    let ExecutionModel::Spatial(chip) = &setup.system.model else { return None };
    let (before, slow) = (rate(record)?, latency(record, Scope::Device)?);
    let try_one = |copies: u64| {
        let tiles = chip.tiles / copies;
        let part = setup.clone().tiles(Some(tiles)).ok()?;
        let found = attempt(model, batch, &part, work)?;
        Some((copies, tiles, rate(&found)? * copies as f64 / before, latency(&found, Scope::Device)? / slow))
    };
    let copies = std::iter::successors(Some(2), |copies| Some(copies * 2)).take_while(|c| *c <= chip.tiles);
    let found = copies.filter_map(try_one).max_by(|a, b| a.2.total_cmp(&b.2))?;
    let (copies, tiles, gain, slower) = found;
    Some(Suggestion {
        change: format!("{copies} copies of the model, each on {tiles} tiles"),
        option: Some(format!("--tiles {tiles}")),
        metric: "samples_per_s",
        gain: Some(gain),
        but: Some(format!("each run takes {slower:.1} times as long; the figures of --tiles are one copy's")),
    })
}

fn less_transfer(record: &Record) -> Option<Suggestion> {
    let (device, whole) = (latency(record, Scope::Device)?, latency(record, Scope::EndToEnd)?);
    Some(Suggestion {
        change: "inputs and outputs that stay on the device, or are moved while it computes".to_owned(),
        option: None,
        metric: "latency_ms end to end",
        gain: Some(whole / device),
        but: None,
    })
}

/// Changes under which it runs at all.
fn remedies(model: &Model, batch: Option<u64>, setup: &Setup, work: &Work) -> Vec<Suggestion> {
    let mut found = Vec::new();
    let runs = |change: String, option: String| Suggestion {
        change,
        option: Some(option),
        metric: "runs",
        gain: None,
        but: None,
    };
    if let (Some(batch), false) = (batch, model.batch_axis == BatchAxis::None) {
        let halves = std::iter::successors(Some(batch / 2), |b| Some(b / 2)).take_while(|b| *b > 0);
        let fits = halves.into_iter().find(|b| attempt(model, Some(*b), setup, work).is_some());
        found.extend(fits.map(|b| runs(format!("a batch of {b}"), format!("--batch {b}"))));
    }
    let now = setup.target().ok().map(|t| t.precision.name.clone());
    for precision in setup.system.precisions.iter().filter(|p| Some(&p.name) != now.as_ref()) {
        if attempt(model, batch, &setup.clone().precision(Some(&precision.name)), work).is_some() {
            found.push(runs(precision.name.clone(), format!("--precision {}", precision.name)));
        }
    }
    for system in orrery_machine::registry().iter().filter(|s| s.name != setup.system.name) {
        if found.len() < MOST && attempt(model, batch, &Setup::of(system.clone()), work).is_some() {
            found.push(runs(format!("on {}", system.title), format!("--on {}", system.name)));
        }
    }
    found.truncate(MOST);
    found
}
