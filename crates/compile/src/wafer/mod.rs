//! Wafers: every group is cut over a mesh of small cores.
//!
//! Two ways. *Weight streaming*: activations lie on the wafer, cut over all of it; the weights of a layer stream in from
//! MemoryX while the layer before computes. *All layers resident*: each layer has a rectangle of the mesh with its weights
//! in it, and the samples of a batch flow through all of them as a pipeline at the rate of the slowest. The software stack
//! says which; without one the faster way that the machine's stacks offer is taken.

mod beside;
mod bring;
pub mod cut;
pub mod floor_plan;
mod grid;
mod items;
mod lowering;
mod room;
mod streamed;

use crate::groups::{Group, GroupKind};
use crate::lower::Emitter;
use crate::needed::needed;
use crate::{Compiled, Options, states};
use beside::{in_order, needed_later};

use floor_plan::floor_plan;
use items::by_sample;
use lowering::{Lowering, Way};
use orrery_base::index::Id;
use orrery_base::units::show_bytes;
use orrery_base::{Diagnostic, Picoseconds, Result};
use orrery_cost::rectangles::pipeline;
use orrery_cost::wafer::Core;
use orrery_cost::{StepCost, Target, step_cost};
use orrery_ir::infer::Facts;
use orrery_ir::op::Engine;
use orrery_ir::{Def, Graph, ValueId};
use orrery_machine::{Losses, WaferLosses, WaferMachine};
use orrery_program::{Phase, Program, Region, StepKind, Unit, verify};
use room::{FRUGAL, Sparing, THRIFTS, rooms};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// How often areas are dealt anew by what the layers took in them.
const PLANS: usize = 3;
struct Wafer<'a> {
    graph: &'a Graph,
    facts: &'a Facts,
    groups: &'a [Group],
    target: &'a Target<'a>,
    machine: &'a WaferMachine,
    losses: &'a WaferLosses,
    options: &'a Options,
}

/// Compiles groups for a wafer.
///
/// # Errors
/// As [`crate::compile`].
pub fn compile(
    graph: &Graph,
    facts: &Facts,
    groups: &[Group],
    target: &Target<'_>,
    machine: &WaferMachine,
    options: &Options,
) -> Result<Compiled> {
    let Losses::Wafer(losses) = &target.losses else {
        return Diagnostic::error("cost-model", "the machine's losses are of another execution model").err();
    };
    let wafer = Wafer { graph, facts, groups, target, machine, losses, options };
    let resident = target.stack.and_then(|stack| stack.resident);
    if !graph.states.is_empty() {
        if resident == Some(true) {
            return Diagnostic::error(
                "unsupported-training",
                "states lie in MemoryX and stream in; with all layers on the wafer they are not described",
            )
            .help("a software stack that streams weights")
            .err();
        }
        return wafer.streamed();
    }
    match resident {
        Some(true) => wafer.resident(),
        Some(false) => wafer.streamed(),
        None => wafer.faster(),
    }
}

impl Wafer<'_> {
    /// The faster of the ways that the machine's stacks offer, with a note that says why.
    fn faster(&self) -> Result<Compiled> {
        let stacks = &self.target.system.software;
        let offered = |resident: bool| stacks.iter().find(|stack| stack.resident == Some(resident));
        let Some(stack) = offered(true) else { return self.streamed() };
        if offered(false).is_none() {
            return self.resident();
        }
        let streamed = self.streamed();
        let Ok(mut resident) = self.resident() else { return streamed };
        let Ok(mut streamed) = streamed else {
            resident.notes.push(Diagnostic::note(
                "wafer-mode",
                format!("all layers on the wafer at once ({}): streamed it does not fit", stack.title),
            ));
            return Ok(resident);
        };
        let (whole, layers) = (self.time(&resident.program)?, self.time(&streamed.program)?);
        if whole < layers {
            resident.notes.push(Diagnostic::note(
                "wafer-mode",
                format!(
                    "all layers on the wafer at once ({}), as that is faster here: {} instead of {} with weights streamed in",
                    stack.title,
                    whole, layers
                ),
            ));
            return Ok(resident);
        }
        streamed.notes.push(Diagnostic::note(
            "wafer-mode",
            format!(
                "weights stream in layer by layer, as that is faster here: {layers} instead of {whole} with all layers on the wafer at once"
            ),
        ));
        Ok(streamed)
    }

    /// About the time of a run on the wafer: of its steps in the order of their units, and of the pipeline of its stages.
    fn time(&self, program: &Program) -> Result<Picoseconds> {
        let costs = self.costs(program)?;
        let mut free: BTreeMap<Unit, Picoseconds> = BTreeMap::new();
        let mut ends: Vec<Picoseconds> = Vec::with_capacity(costs.len());
        for (step, cost) in program.steps.values().zip(&costs) {
            let free = free.entry(step.unit).or_default();
            let ready = step.after.iter().map(|before| ends[before.index()]).fold(*free, Picoseconds::max);
            let outside = step.unit == Unit::HostLink || step.region.is_some();
            *free = if outside { ready } else { ready + cost.time };
            ends.push(*free + cost.latency);
        }
        Ok(ends.into_iter().fold(Picoseconds::ZERO, Picoseconds::max) + pipeline(program, &costs).time)
    }
    /// Bytes of each weight.
    fn weights(&self) -> Vec<f64> {
        let states: BTreeSet<ValueId> =
            self.graph.states.iter().map(|s| self.graph.inputs[s.input]).collect();
        let types = self
            .graph
            .values
            .iter()
            .filter(|(id, value)| matches!(value.def, Def::Constant(_)) || states.contains(id));
        let bytes = types.filter_map(|(id, _)| {
            let ty = self.facts[id].ty.as_tensor()?;
            let elements: usize = ty.extents()?.iter().product();
            let bits = ty.dtype.bits().min(self.target.precision.storage.bits());
            Some(elements as f64 * bits as f64 / 8.0)
        });
        bytes.collect()
    }

    /// Bytes of weights that wait on the wafer at a time: two of the largest.
    fn room(&self) -> f64 {
        2.0 * self.weights().into_iter().fold(0.0, f64::max)
    }

    fn costs(&self, program: &Program) -> Result<Vec<StepCost>> {
        let nominal = self.options.nominal();
        program.steps.ids().map(|step| step_cost(program, step, &nominal, self.target)).collect()
    }

    /// Bytes of a PE beside the program.
    fn capacity(&self) -> f64 {
        self.machine.sram_bytes.saturating_sub(self.machine.pe_reserved_bytes).max(1) as f64
    }

    fn lowering(&self, way: Way, regions: Vec<Region>, items: u64) -> Lowering<'_> {
        let mut emitter = Emitter::new(self.graph, self.facts, self.target, self.options);
        let pes = self.machine.grid_columns * self.machine.grid_rows;
        let host = emitter.memory("host", 1, u64::MAX, 0);
        let pe = emitter.memory("pe", pes, self.machine.sram_bytes, self.machine.pe_reserved_bytes);
        // What is on its way takes no memory of a PE.
        let mesh = emitter.memory("mesh", pes, u64::MAX, 0);
        let memoryx = emitter.memory("memoryx", 1, self.machine.memoryx_bytes, 0);
        emitter.program.items = items;
        if items > 1 {
            emitter.by_item = by_sample(self.graph, self.facts, &self.options.nominal(), self.samples());
        }
        if way == Way::Resident {
            emitter.program.regions = regions.clone();
        }
        Lowering {
            emitter,
            host,
            pe,
            mesh,
            memoryx,
            way,
            core: Core::new(self.machine, self.losses, self.target.precision),
            thrift: Sparing::Alike(FRUGAL).of(0, false, self.capacity()),
            nominal: self.options.nominal(),
            moved: BTreeMap::new(),
            regions,
            stage: 0,
            items,
            layers: Vec::new(),
            waiting: Vec::new(),
            room: self.room(),
            sent: BTreeMap::new(),
            leaving: Vec::new(),
            looked_up: None,
            brought: BTreeMap::new(),
            put_away: BTreeMap::new(),
            chosen: BTreeMap::new(),
        }
    }

    /// Emits all groups; with the room of each, where they are alike sparing.
    fn emit(&self, mut lowering: Lowering<'_>, sparing: &Sparing) -> Result<(Compiled, Vec<f64>)> {
        let order = in_order(self.graph, self.groups);
        let later = needed_later(self.graph, self.groups, self.options);
        let mut forward = true;
        let stages = self.first_stages();
        for &value in &self.graph.inputs {
            lowering.stage = stages.get(&value).copied().unwrap_or(0);
            let state = lowering.emitter.is_state(value);
            lowering.host_input(value, !state && lowering.is_for_memoryx(value, &order))?;
        }
        lowering.stage = 0;
        let mut steps: Vec<Range<usize>> = Vec::with_capacity(order.len());
        for (number, (group, beside)) in order.into_iter().enumerate() {
            let product = self.graph.nodes[group.nodes[0]].op.def().engine == Engine::Matrix;
            lowering.thrift = sparing.of(number, product, self.capacity());
            let first = lowering.emitter.program.steps.len();
            lowering.emitter.enter(group);
            if forward && lowering.emitter.phase != Phase::Forward {
                lowering.turn();
                forward = false;
            }
            match group.kind {
                _ if beside => lowering.update(group)?,
                GroupKind::Extents => lowering.extents(group)?,
                GroupKind::View | GroupKind::Movement => lowering.movement(group)?,
                GroupKind::Compute if lowering.casts_a_state(group) => lowering.movement(group)?,
                GroupKind::Compute => lowering.compute(group)?,
            }
            let made = group.nodes.iter().flat_map(|n| self.graph.nodes[*n].outputs.iter().flatten());
            for value in made.filter(|value| forward && later.contains(value)) {
                lowering.put_away(*value)?;
            }
            steps.push(first..lowering.emitter.program.steps.len());
        }
        let way: states::Way<'_> =
            &|from, to| (if from == to { StepKind::Exchange } else { StepKind::Stream }, Unit::Outward);
        let mut kept = Vec::new();
        for state in &self.graph.states {
            kept.push(lowering.kept(state)?);
        }
        lowering.emitter.set_aside(&mut kept, way);
        for (i, &value) in self.graph.outputs.iter().enumerate() {
            if !lowering.emitter.stays(i) {
                lowering.host_output(value, self.graph.output_name(i))?;
            }
        }
        lowering.emitter.keep(kept, way);
        lowering.emitter.list_inputs();
        let reserved = lowering.staging_bytes();
        let pe = lowering.pe;
        let Emitter { mut program, nodes, .. } = lowering.emitter;
        program.memories[pe].reserved += reserved;
        let rooms = match sparing {
            Sparing::Alike(_) => rooms(&program, pe, &steps, &self.options.nominal())?,
            Sparing::Rooms(..) => Vec::new(),
        };
        Ok((Compiled { program: needed(program), nodes, notes: Vec::new() }, rooms))
    }

    /// For each input the first stage that takes it, moved or not: there it lies, as a cache of keys does with its layer.
    fn first_stages(&self) -> BTreeMap<ValueId, usize> {
        let mut origins: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        let mut stages = BTreeMap::new();
        let mut stage = 0;
        for group in self.groups {
            for node in group.nodes.iter().map(|id| &self.graph.nodes[*id]) {
                for input in node.inputs.iter().flatten() {
                    let origin = origins.get(input).copied().unwrap_or(*input);
                    if group.kind == GroupKind::Compute {
                        stages.entry(origin).or_insert(stage);
                    } else {
                        origins.extend(node.outputs.iter().flatten().map(|output| (*output, origin)));
                    }
                }
            }
            stage += usize::from(group.kind == GroupKind::Compute);
        }
        stages
    }

    /// Every layer in a rectangle of its own. Samples go through one by one, or several at once where a layer has too
    /// little work in one to keep its rectangle busy.
    fn resident(&self) -> Result<Compiled> {
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
        let samples = self.samples();
        let mut best: Option<(Picoseconds, Compiled)> = None;
        let mut error = None;
        for at_once in (0..).map(|power| 4_u64.pow(power)).take_while(|n| *n <= samples) {
            if !samples.is_multiple_of(at_once) {
                break;
            }
            match self.planned(samples / at_once) {
                Ok((time, compiled)) if best.as_ref().is_none_or(|(least, _)| time < *least) => {
                    best = Some((time, compiled));
                }
                Ok(_) => break,
                Err(found) if best.is_none() && error.is_none() => error = Some(found),
                Err(_) => break,
            }
        }
        let Some((_, mut compiled)) = best else {
            let error = error.unwrap_or_else(|| Box::new(Diagnostic::error("does-not-fit", "no plan fits")));
            return Err(Box::new(error.help(
                "all layers lie on the wafer at once in this mode; streamed weights need no memory of it",
            )));
        };
        compiled.notes.push(self.interval_note(&compiled.program, samples)?);
        Ok(compiled)
    }

    /// The best of some floor plans for so many items. Areas follow the work first, then what the layers took in them.
    fn planned(&self, items: u64) -> Result<(Picoseconds, Compiled)> {
        let mut shares = self.work()?;
        let mut best: Option<(Picoseconds, Compiled)> = None;
        let mut error = None;
        let mut others = THRIFTS.into_iter().skip(1);
        let mut sparing = Sparing::Alike(THRIFTS[0]);
        for _ in 0..PLANS + THRIFTS.len() - 1 {
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
            let (compiled, _) = self.emit(self.lowering(Way::Resident, regions, items), &sparing)?;
            let pipeline = pipeline(&compiled.program, &self.costs(&compiled.program)?);
            let times: Vec<f64> = (0..areas.len())
                .map(|stage| pipeline.stages.get(&(stage as u32)).map_or(0.0, |time| time.seconds()))
                .collect();
            shares = self.shares(&areas, &times, &self.filled(&compiled.program)?);
            match verify::capacity(&compiled.program) {
                Err(found) => {
                    error = Some(found);
                    sparing = others.next().map_or(sparing, Sparing::Alike);
                }
                Ok(()) if best.as_ref().is_none_or(|(time, _)| pipeline.time < *time) => {
                    best = Some((pipeline.time, compiled));
                }
                Ok(()) => {}
            }
        }
        match (best, error) {
            (Some(best), _) => Ok(best),
            (None, Some(error)) => Err(error),
            (None, None) => Diagnostic::error("does-not-fit", "no plan fits").err(),
        }
    }

    /// Areas for the next plan: in proportion to what each stage took on its area, so that what does not get faster by
    /// more cores leaves them to those that do; but no less than what it holds needs.
    fn shares(&self, areas: &[f64], times: &[f64], filled: &[f64]) -> Vec<f64> {
        let total: f64 = areas.iter().sum();
        let least: Vec<f64> = areas.iter().zip(filled).map(|(area, filled)| area * filled).collect();
        let at = |interval: f64| -> Vec<f64> {
            let wanted = areas.iter().zip(times).map(|(area, time)| area * time / interval);
            wanted.zip(&least).map(|(wanted, least)| wanted.max(*least)).collect()
        };
        let slowest = times.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let (mut low, mut high) = (slowest * 1e-3, slowest * 1e3);
        for _ in 0..60 {
            let middle = (low * high).sqrt();
            if at(middle).iter().sum::<f64>() > total { low = middle } else { high = middle }
        }
        at(high)
    }

    /// Part of the memory of a PE that each stage takes, with some room for the cutting of other areas.
    fn filled(&self, program: &Program) -> Result<Vec<f64>> {
        const ROOM: f64 = 1.15;
        let nominal = self.options.nominal();
        let capacity = self.capacity();
        let mut bytes = vec![0_u64; program.regions.len()];
        let passing = program.passing();
        for (id, buffer) in program.buffers.iter() {
            let memory = &program.memories[buffer.home];
            let region = program.regions.iter().position(|r| r.base == buffer.layout.base);
            if let (Some(region), true, false) = (region, memory.cores > 1, memory.is_mesh()) {
                bytes[region] += program.held_bytes(id, &passing[id], &nominal)?;
            }
        }
        Ok(bytes.into_iter().map(|bytes| bytes as f64 / capacity * ROOM).collect())
    }

    fn interval_note(&self, program: &Program, samples: u64) -> Result<Diagnostic> {
        let at_once = samples / program.items.max(1);
        let pipeline = pipeline(program, &self.costs(program)?);
        let slowest = pipeline.slowest.map_or_else(String::new, |stage| {
            let region = &program.regions[stage as usize];
            let longest = program.steps.values().find(|s| s.region == Some(stage));
            let name = longest.map_or("", |step| &step.name);
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

    /// Samples that can flow through a pipeline: the first dimension of the inputs, where all have the same.
    fn samples(&self) -> u64 {
        let nominal = self.options.nominal();
        let data = self.graph.inputs.iter().filter(|value| self.graph.state_of_input(**value).is_none());
        let mut firsts = data.filter_map(|value| {
            let shape = self.facts[*value].ty.as_tensor()?.shape.as_ref()?;
            shape.first()?.eval(&nominal).ok()
        });
        let Some(first) = firsts.next() else { return 1 };
        if firsts.all(|other| other == first) { u64::try_from(first).unwrap_or(1).max(1) } else { 1 }
    }

    /// Work of each stage in cycles of one PE: of each group that computes.
    fn work(&self) -> Result<Vec<f64>> {
        let emitter = Emitter::new(self.graph, self.facts, self.target, self.options);
        let nominal = self.options.nominal();
        let macs = self.target.precision.macs();
        let compute = self.groups.iter().filter(|group| group.kind == GroupKind::Compute);
        compute
            .map(|group| {
                let work = emitter.work(&group.nodes);
                let number = |dim: &orrery_ir::Dim| {
                    dim.eval(&nominal)
                        .map(|n| n as f64)
                        .map_err(|s| Box::new(orrery_program::memory::unbound(&s)))
                };
                let vector = number(&work.vector)? / self.machine.vector_fp16;
                let special = number(&work.special)? / self.machine.special_functions;
                Ok(number(&work.macs)? / macs + vector + special)
            })
            .collect()
    }
}
