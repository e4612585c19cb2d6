//! Wafers: every group is cut over a mesh of small cores.
//!
//! Two ways. *Weight streaming*: activations lie on the wafer, cut over all of it; the weights of a layer stream in from
//! MemoryX while the layer before computes. *All layers resident*: each layer has a rectangle of the mesh with its weights
//! in it, and the samples of a batch flow through all of them as a pipeline at the rate of the slowest. The software stack
//! says which; without one the faster way that the machine's stacks offer is taken.

mod beside;
mod bring;
mod choose;
pub mod cut;
pub mod floor_plan;
mod grid;
mod items;
mod lowering;
mod resident;
mod room;
mod stages;
mod streamed;

use crate::groups::{Group, GroupKind};
use crate::lower::Emitter;
use crate::needed::needed;
use crate::{Compiled, Options, states};
use beside::{in_order, needed_later};

use items::by_sample;
use lowering::{Lowering, Way};
use orrery_base::index::Id;
use orrery_base::{Diagnostic, Picoseconds, Result};
use orrery_cost::rectangles::pipeline;
use orrery_cost::wafer::Core;
use orrery_cost::{StepCost, Target, step_cost};
use orrery_ir::infer::Facts;
use orrery_ir::op::Engine;
use orrery_ir::{Def, Graph, ValueId};
use orrery_machine::{Losses, WaferLosses, WaferMachine};
use orrery_program::{Phase, Program, Region, StepKind, Unit};
use room::{FRUGAL, Sparing, rooms};
use stages::Stages;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

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
    match resident {
        Some(true) => wafer.resident(),
        // What changes from run to run is streamed where no stack says otherwise, as that is how such machines train today.
        None if graph.states.is_empty() => wafer.faster(),
        _ => wafer.streamed(),
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
            thrift: Sparing::Alike(FRUGAL).of(0, 0, false, self.capacity()),
            nominal: self.options.nominal(),
            moved: BTreeMap::new(),
            regions,
            stage: 0,
            items,
            after_all: false,
            steady: BTreeSet::new(),
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

    /// Emits all groups, on a floor plan those of each stage in its place; with the room of each, where they are alike sparing.
    fn emit(
        &self,
        mut lowering: Lowering<'_>,
        plan: Option<&Stages>,
        sparing: &Sparing,
    ) -> Result<(Compiled, Vec<f64>)> {
        let order: Vec<(&Group, bool)> = match plan {
            Some(stages) => self.groups.iter().zip(stages.after.iter().copied()).collect(),
            None => in_order(self.graph, self.groups),
        };
        let later = needed_later(self.graph, self.groups, self.options);
        let mut forward = true;
        for &value in &self.graph.inputs {
            lowering.stage = plan.and_then(|stages| stages.inputs.get(&value).copied()).unwrap_or(0);
            let state = lowering.emitter.is_state(value);
            lowering.host_input(value, !state && lowering.is_for_memoryx(value, &order))?;
        }
        let mut steps: Vec<Range<usize>> = Vec::with_capacity(order.len());
        for (number, (group, beside)) in order.into_iter().enumerate() {
            lowering.stage = plan.map_or(0, |stages| stages.of[number]);
            lowering.after_all = plan.is_some() && beside;
            let product = self.graph.nodes[group.nodes[0]].op.def().engine == Engine::Matrix;
            lowering.thrift = sparing.of(number, lowering.stage, product, self.capacity());
            let first = lowering.emitter.program.steps.len();
            lowering.emitter.enter(group);
            if lowering.after_all {
                lowering.emitter.phase = Phase::Update;
            }
            if forward && lowering.emitter.phase != Phase::Forward {
                lowering.turn();
                forward = false;
            }
            match group.kind {
                _ if beside && plan.is_none() => lowering.update(group)?,
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
        let unit = if plan.is_some() { Unit::Device } else { Unit::Outward };
        let way: states::Way<'_> =
            &|from, to| (if from == to { StepKind::Exchange } else { StepKind::Stream }, unit);
        let copies = lowering.emitter.program.steps.len();
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
        lowering.place_copies(copies);
        lowering.emitter.list_inputs();
        let reserved = lowering.staging_bytes();
        let pe = lowering.pe;
        let Emitter { mut program, nodes, .. } = lowering.emitter;
        program.memories[pe].reserved += reserved;
        let rooms = match sparing {
            Sparing::Alike(_) => rooms(&program, pe, &steps, &self.options.nominal())?,
            Sparing::Rooms(..) | Sparing::Stages(_) => Vec::new(),
        };
        Ok((Compiled { program: needed(program), nodes, notes: Vec::new() }, rooms))
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
}
