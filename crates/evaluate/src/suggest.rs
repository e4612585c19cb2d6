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
    let run = Run { model, batch, setup, work };
    if record.refusal().is_some() {
        return run.remedies();
    }
    let mut found = run.gains(record).unwrap_or_default();
    found.retain(|s| s.gain.is_some_and(|gain| gain >= LEAST_GAIN));
    found.sort_by(|a, b| b.gain.unwrap_or(0.0).total_cmp(&a.gain.unwrap_or(0.0)));
    found.truncate(MOST);
    found
}

/// The run that is to get better.
struct Run<'a> {
    model: &'a Model,
    batch: Option<u64>,
    setup: &'a Setup,
    work: &'a Work,
}

/// What a run makes of its time.
#[derive(Clone, Copy)]
struct Speed {
    samples_per_s: f64,
    latency: f64,
    end_to_end: f64,
}

impl Speed {
    /// None where the run has no figures.
    fn of(record: &Record) -> Option<Self> {
        let figure = |metric, scope| record.figure(metric, scope).map(|m| m.value);
        Some(Self {
            samples_per_s: figure("samples_per_s", Scope::Device)?,
            latency: figure("latency_ms", Scope::Device)?,
            end_to_end: figure("latency_ms", Scope::EndToEnd)?,
        })
    }
}

impl Run<'_> {
    /// Every change that was tried, whatever it gains; none where the run has no figures.
    fn gains(&self, record: &Record) -> Option<Vec<Suggestion>> {
        let now = Speed::of(record)?;
        let mut found = Vec::new();
        found.extend(self.larger_batch(now));
        found.extend(self.other_precisions(record, now));
        found.extend(self.other_stacks(now));
        found.extend(self.smaller_parts(now));
        found.push(Suggestion {
            change: "inputs and outputs that stay on the device, or are moved while it computes".to_owned(),
            option: None,
            metric: "latency_ms end to end",
            gain: Some(now.end_to_end / now.latency),
            but: None,
        });
        Some(found)
    }
    /// The run with another batch and setup; none where it does not run so.
    fn attempt(&self, batch: Option<u64>, setup: &Setup) -> Option<Record> {
        let record = simulated(&self.model.at_batch(batch).ok()?, setup, self.work);
        record.refusal().is_none().then_some(record)
    }
    fn larger_batch(&self, now: Speed) -> Option<Suggestion> {
        if self.model.batch_axis == BatchAxis::None {
            return None;
        }
        // The smallest batch that comes within a tenth of the best that fits.
        let mut tried: Vec<(u64, Speed)> = Vec::new();
        for multiple in MULTIPLES {
            let larger = self.batch?.saturating_mul(multiple);
            let Some(found) = self.attempt(Some(larger), self.setup) else { break };
            tried.push((larger, Speed::of(&found)?));
        }
        let best = tried.iter().map(|(_, speed)| speed.samples_per_s).fold(0.0, f64::max);
        let (larger, speed) = tried.into_iter().find(|(_, speed)| speed.samples_per_s >= 0.9 * best)?;
        Some(Suggestion {
            change: format!("a batch of {larger}"),
            option: Some(format!("--batch {larger}")),
            metric: "samples_per_s",
            gain: Some(speed.samples_per_s / now.samples_per_s),
            but: Some(format!("each run takes {:.1} times as long", speed.latency / now.latency)),
        })
    }
    fn other_precisions(&self, record: &Record, now: Speed) -> Vec<Suggestion> {
        let used = record.identity.precision.clone().unwrap_or_default();
        let others = self.setup.system.precisions.iter().filter(|p| p.name != used && self.work.takes(p));
        let try_one = |name: &str| {
            let found = self.attempt(self.batch, &self.setup.clone().precision(Some(name)))?;
            Some(Suggestion {
                change: format!("{name} instead of {used}"),
                option: Some(format!("--precision {name}")),
                metric: "latency_ms",
                gain: Some(now.latency / Speed::of(&found)?.latency),
                but: Some(format!(
                    "accuracy: {} instead of {}",
                    precision_class(name),
                    precision_class(&used)
                )),
            })
        };
        others.filter_map(|p| try_one(&p.name)).collect()
    }
    fn other_stacks(&self, now: Speed) -> Vec<Suggestion> {
        let others = self.setup.system.software.iter().filter(|s| Some(&s.name) != self.setup.stack.as_ref());
        let try_one = |name: &str, title: &str| {
            let found = self.attempt(self.batch, &self.setup.clone().stack(Some(name)))?;
            Some(Suggestion {
                change: format!("{title}: another software stack"),
                option: Some(format!("--stack {name}")),
                metric: "latency_ms",
                gain: Some(now.latency / Speed::of(&found)?.latency),
                but: None,
            })
        };
        others.filter_map(|s| try_one(&s.name, &s.title)).collect()
    }
    /// Several copies of the model on parts of a chip, where the machine is used in tiles.
    fn smaller_parts(&self, now: Speed) -> Option<Suggestion> {
        let ExecutionModel::Spatial(chip) = &self.setup.system.model else { return None };
        let try_one = |copies: u64| {
            let tiles = chip.tiles / copies;
            let part = self.setup.clone().tiles(Some(tiles)).ok()?;
            let speed = Speed::of(&self.attempt(self.batch, &part)?)?;
            Some((copies, tiles, speed.samples_per_s * copies as f64, speed.latency))
        };
        let copies =
            std::iter::successors(Some(2), |copies| Some(copies * 2)).take_while(|c| *c <= chip.tiles);
        let (copies, tiles, rate, latency) = copies.filter_map(try_one).max_by(|a, b| a.2.total_cmp(&b.2))?;
        let each = if tiles == 1 { "one tile".to_owned() } else { format!("{tiles} tiles") };
        let slower = latency / now.latency;
        Some(Suggestion {
            change: format!("{copies} copies of the model, each on {each}"),
            option: Some(format!("--tiles {tiles}")),
            metric: "samples_per_s",
            gain: Some(rate / now.samples_per_s),
            but: Some(format!(
                "each run takes {slower:.1} times as long; the figures of --tiles are one copy's"
            )),
        })
    }
    /// Changes under which it runs at all.
    fn remedies(&self) -> Vec<Suggestion> {
        let mut found = Vec::new();
        let runs = |change: String, option: String| Suggestion {
            change,
            option: Some(option),
            metric: "runs",
            gain: None,
            but: None,
        };
        if let (Some(batch), false) = (self.batch, self.model.batch_axis == BatchAxis::None) {
            let mut halves = std::iter::successors(Some(batch / 2), |b| Some(b / 2)).take_while(|b| *b > 0);
            let fits = halves.find(|b| self.attempt(Some(*b), self.setup).is_some());
            found.extend(fits.map(|b| runs(format!("a batch of {b}"), format!("--batch {b}"))));
        }
        let now = self.setup.target().ok().map(|t| t.precision.name.clone());
        for precision in self
            .setup
            .system
            .precisions
            .iter()
            .filter(|p| Some(&p.name) != now.as_ref() && self.work.takes(p))
        {
            let setup = self.setup.clone().precision(Some(&precision.name));
            if self.attempt(self.batch, &setup).is_some() {
                found.push(runs(precision.name.clone(), format!("--precision {}", precision.name)));
            }
        }
        if self.setup.shards.is_none() {
            let powers = std::iter::successors(Some(2), |n| Some(n * 2));
            let mut counts = powers.take_while(|n| *n <= self.setup.most_devices());
            let fits =
                counts.find(|n| self.attempt(self.batch, &self.setup.clone().shards(Some(*n))).is_some());
            found.extend(
                fits.map(|n| runs(format!("{n} devices that share a copy"), format!("--shards {n}"))),
            );
        }
        // Installations of the machine come before other machines.
        let configured = orrery_machine::registry()
            .iter()
            .find(|s| s.name == self.setup.system.name)
            .into_iter()
            .flat_map(orrery_machine::System::configured);
        let others = orrery_machine::registry().iter().filter(|s| s.name != self.setup.system.name).cloned();
        for system in configured.chain(others) {
            let (title, name) = (system.title.clone(), system.name.clone());
            if found.len() < MOST && self.attempt(self.batch, &Setup::of(system)).is_some() {
                found.push(runs(format!("on {title}"), format!("--on {name}")));
            }
        }
        found.truncate(MOST);
        found
    }
}
