//! All layers on the wafer at once: which groups share a rectangle, how large it is, and how many samples flow together.

use super::beside::beside;
use super::floor_plan::floor_plan;
use super::lowering::Way;
use super::room::{FRUGAL, Sparing};
use super::stages::{LIGHT, Stages};
use super::{Wafer, states};
use crate::Compiled;
use crate::needed::needed;
use orrery_base::units::show_bytes;
use orrery_base::{Diagnostic, Picoseconds, Result};
use orrery_cost::rectangles::pipeline;
use orrery_ir::Op;
use orrery_program::{BufferId, Phase, Program, StepKind, verify};
use std::collections::BTreeSet;

/// How often areas are dealt anew by what the layers took in them.
const PLANS: usize = 6;
/// A plan that takes more than this part of the time of the best is the last.
const SETTLED: f64 = 0.98;
/// How many times its area a layer gets that found no way to be cut in it.
const GUESSED: f64 = 2.0;
/// The least work of a rectangle, as a multiple of what groups have to do on average, tried in turn: in fewer rectangles fewer
/// samples wait for their way back.
const LEAST: [f64; 3] = [LIGHT, 1.0, 4.0];

/// Intervals from item to item that a floor plan is sought for, each about 1.4 times the one before.
const INTERVALS: u32 = 12;

/// The least number between two positive ones from which on something holds, nearly; the higher one where it never does.
fn between(mut low: f64, mut high: f64, holds: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..60 {
        let middle = (low * high).sqrt();
        if holds(middle) { high = middle } else { low = middle }
    }
    high
}

impl Wafer<'_> {
    /// Every layer in a rectangle of its own, or together with others where they do not fit so.
    pub(super) fn resident(&self) -> Result<Compiled> {
        let weights: f64 = self.weights().into_iter().sum();
        let pes = self.machine.grid_columns * self.machine.grid_rows;
        let memory = self.capacity() * pes as f64;
        if weights > memory {
            let (weights, memory) = (show_bytes(weights), show_bytes(memory));
            let cause =
                format!("weights of {weights} do not lie on a wafer, whose PEs have {memory} for them");
            return Diagnostic::error("does-not-fit", cause)
                .help("stream the weights: a software stack of that kind, where the machine has one")
                .err();
        }
        let after: Vec<bool> = self
            .groups
            .iter()
            .zip(beside(self.graph, self.groups))
            .map(|(group, of_states)| {
                let node = group.nodes[0];
                let moves_rows = self.graph.nodes[node].op == Op::GatherGrad;
                self.options.phase(node) == Phase::Update || of_states && !moves_rows
            })
            .collect();
        let mut found = self.staged(&self.stages(&after, LEAST[0])?);
        for least in &LEAST[1..] {
            if found.is_ok() {
                break;
            }
            found = self.staged(&self.stages(&after, *least)?);
        }
        let mut compiled = found.map_err(|error| {
            error.help(
                "all layers lie on the wafer at once in this mode; streamed weights need no memory of it",
            )
        })?;
        compiled.notes.push(self.interval_note(&compiled.program)?);
        Ok(compiled)
    }

    /// The best plan of some stages. Samples go through one by one, or several at once where a layer has too little work in
    /// one to keep its rectangle busy.
    fn staged(&self, stages: &Stages) -> Result<Compiled> {
        let samples = self.samples();
        let mut best: Option<(Picoseconds, Compiled)> = None;
        let mut error = None;
        for at_once in (0..).map(|power| 4_u64.pow(power)).take_while(|n| *n <= samples) {
            if !samples.is_multiple_of(at_once) {
                break;
            }
            match self.planned(stages, samples / at_once) {
                Ok((time, compiled)) if best.as_ref().is_none_or(|(least, _)| time < *least) => {
                    best = Some((time, compiled));
                }
                Err(found) if best.is_none() && error.is_none() => error = Some(found),
                Ok(_) | Err(_) => break,
            }
        }
        match (best, error) {
            (Some((_, compiled)), _) => Ok(compiled),
            (None, Some(error)) => Err(error),
            (None, None) => Diagnostic::error("does-not-fit", "no plan fits").err(),
        }
    }

    /// The best of some floor plans for so many items, that is the fastest of those with the fewest steps that find no way to
    /// be cut. Areas follow the work first, then what the layers took in them; a layer that did not fit is more sparing the
    /// next time.
    fn planned(&self, stages: &Stages, items: u64) -> Result<(Picoseconds, Compiled)> {
        let mut shares = stages.work.clone();
        let mut parts = vec![1.0; shares.len()];
        let mut best: Option<((usize, Picoseconds), Compiled)> = None;
        let mut error = None;
        let mut before = f64::INFINITY;
        for _ in 0..PLANS {
            let plan = floor_plan(&shares, self.machine.grid_columns, self.machine.grid_rows);
            let Some(regions) = plan else {
                return Diagnostic::error(
                    "does-not-fit",
                    format!("{} layers have no room beside each other on the mesh", shares.len()),
                )
                .help("stream the weights: a software stack of that kind, where the machine has one")
                .err();
            };
            let areas: Vec<f64> = regions.iter().map(|region| region.cores() as f64).collect();
            let sparing = Sparing::Stages(parts.clone());
            let lowering = self.lowering(Way::Resident, regions, items);
            let (mut compiled, _) = self.emit(lowering, Some(stages), &sparing)?;
            if states::in_place(&mut compiled.program) {
                compiled.program = needed(compiled.program);
            }
            let pipeline = pipeline(&compiled.program, &self.costs(&compiled.program)?);
            let times: Vec<f64> = (0..areas.len())
                .map(|stage| pipeline.stages.get(&(stage as u32)).map_or(0.0, |time| time.seconds()))
                .collect();
            let filled = self.filled(&compiled.program)?;
            let mut all: Vec<f64> = filled.iter().map(|(own, other)| own + other).collect();
            let mut guessed = 0;
            for step in compiled.program.steps.values().filter(|step| step.approximate) {
                guessed += 1;
                if let Some(all) = step.region.and_then(|stage| all.get_mut(stage as usize)) {
                    *all = all.max(GUESSED);
                }
            }
            shares = self.shares(&areas, &times, &all, items);
            for (part, (own, other)) in
                parts.iter_mut().zip(filled).filter(|(_, (own, other))| own + other > 1.0)
            {
                *part = own.min(1.0 - other).min(*part).max(FRUGAL.1);
            }
            let need: f64 = all.iter().zip(&areas).map(|(part, area)| part * area).sum();
            let there: f64 = areas.iter().sum();
            let hopeless = need > there && need > before;
            before = need;
            match verify::capacity(&compiled.program) {
                Err(found) => {
                    error = Some(if need > there { self.too_much(need) } else { found });
                    if hopeless {
                        break;
                    }
                }
                Ok(()) => {
                    let found = (guessed, pipeline.time);
                    let settled = best.as_ref().is_some_and(|((as_good, least), _)| {
                        guessed == *as_good && pipeline.time.seconds() > SETTLED * least.seconds()
                    });
                    if best.as_ref().is_none_or(|(least, _)| found < *least) {
                        best = Some((found, compiled));
                    }
                    if settled {
                        break;
                    }
                }
            }
        }
        match (best, error) {
            (Some(((_, time), best)), _) => Ok((time, best)),
            (None, Some(error)) => Err(error),
            (None, None) => Diagnostic::error("does-not-fit", "no plan fits").err(),
        }
    }

    /// Says that layers would take the memory of so many PEs.
    fn too_much(&self, pes: f64) -> Box<Diagnostic> {
        let there = (self.machine.grid_columns * self.machine.grid_rows) as f64;
        let [need, there] = [pes, there].map(|pes| show_bytes(pes * self.capacity()));
        let cause = format!(
            "layers and what waits between them would take about {need} of PEs that have {there} for them"
        );
        Box::new(Diagnostic::error("does-not-fit", cause))
    }

    /// Areas for the next plan, by what each stage took on its area: of all the intervals that are possible the one at which
    /// so many items are done first. A stage gets no less than the interval asks for, nor than what it holds needs; the rest
    /// shortens the way of the first item most where it goes by the roots of what the stages have to do.
    fn shares(&self, areas: &[f64], times: &[f64], filled: &[f64], items: u64) -> Vec<f64> {
        let total: f64 = areas.iter().sum();
        let work: Vec<f64> = areas.iter().zip(times).map(|(area, time)| area * time).collect();
        let least: Vec<f64> = areas.iter().zip(filled).map(|(area, filled)| area * filled).collect();
        let at = |interval: f64, slack: f64| -> Vec<f64> {
            let wanted = work.iter().map(|work| (work / interval).max(slack * work.sqrt()));
            wanted.zip(&least).map(|(wanted, least)| wanted.max(*least)).collect()
        };
        let slowest = times.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let shortest =
            between(slowest * 1e-3, slowest * 1e3, |interval| at(interval, 0.0).iter().sum::<f64>() <= total);
        let plans = (0..INTERVALS).map(|power| {
            let interval = shortest * 2_f64.powf(f64::from(power) / 2.0);
            let most = work.iter().fold(0.0_f64, |most, work| most.max(work.sqrt()));
            // More of it until the whole mesh is taken.
            let tightest = between(most / total * 1e-3, most * 1e3, |tight| {
                at(interval, 1.0 / tight).iter().sum::<f64>() <= total
            });
            let plan = at(interval, 1.0 / tightest);
            let way: f64 = work.iter().zip(&plan).map(|(work, area)| work / area).sum();
            let longest = work.iter().zip(&plan).map(|(work, area)| work / area).fold(0.0, f64::max);
            (way + (items - 1) as f64 * longest, plan)
        });
        plans.min_by(|a, b| a.0.total_cmp(&b.0)).map_or_else(|| areas.to_vec(), |(_, plan)| plan)
    }

    /// Parts of the memory of a PE that each stage takes: for what it computes on and makes, and for all else that lies on its
    /// cores, with some room for the cutting of other areas.
    fn filled(&self, program: &Program) -> Result<Vec<(f64, f64)>> {
        const ROOM: f64 = 1.15;
        let nominal = self.options.nominal();
        let capacity = self.capacity();
        let mut own: BTreeSet<(u32, BufferId)> = BTreeSet::new();
        for step in program.steps.values().filter(|step| step.kind == StepKind::Compute) {
            let touched = step.reads.iter().map(|r| r.buffer).chain(step.writes.iter().map(|w| w.buffer));
            own.extend(touched.filter_map(|buffer| Some((step.region?, buffer))));
        }
        let mut parts = vec![(0.0, 0.0); program.regions.len()];
        let passing = program.passing();
        for (id, buffer) in program.buffers.iter() {
            let memory = &program.memories[buffer.home];
            let region = program.regions.iter().position(|r| r.base == buffer.layout.base);
            if let (Some(region), true, false) = (region, memory.cores > 1, memory.is_mesh()) {
                let part = program.held_bytes(id, &passing[id], &nominal)? as f64 / capacity * ROOM;
                let (own_part, other) = &mut parts[region];
                *if own.contains(&(region as u32, id)) { own_part } else { other } += part;
            }
        }
        Ok(parts)
    }

    fn interval_note(&self, program: &Program) -> Result<Diagnostic> {
        let at_once = self.samples() / program.items.max(1);
        let pipeline = pipeline(program, &self.costs(program)?);
        let slowest = pipeline.slowest.map_or_else(String::new, |stage| {
            let region = &program.regions[stage as usize];
            let deciding =
                program.steps.iter().filter(|(id, _)| pipeline.spans.get(id).is_some_and(|s| s.decides));
            let staged = deciding.filter(|(_, step)| step.region == Some(stage) && !step.once);
            let longest = staged.max_by_key(|(id, _)| pipeline.spans[id].share);
            let name = longest.map_or("", |(_, step)| &step.name);
            format!(
                "; stage {stage} on {} x {} cores sets the interval: {} for {at_once} at once at `{name}`",
                region.columns, region.rows, pipeline.interval
            )
        });
        Ok(Diagnostic::note(
            "wafer-interval",
            format!("{} layers lie on the wafer as a pipeline{slowest}", program.regions.len()),
        ))
    }
}
