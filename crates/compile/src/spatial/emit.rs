//! From the plain program and its sections to the program of the machine.

use super::plan::Plan;
use super::sections::cores;
use crate::Options;
use crate::lower::{fill, reads};
use crate::needed::needed;
use crate::states::{in_place, pass_through};
use orrery_base::index::Id;
use orrery_base::{IndexVec, Result};
use orrery_cost::spatial::{DDR, HBM, PMU, Units};
use orrery_ir::op::{Access, Work};
use orrery_ir::{Attrs, Bindings, Graph};
use orrery_program::{
    Buffer, BufferClass, BufferId, MemoryId, Phase, Pipeline, PipelineId, Program, Stage, Step, StepId,
    StepKind, Unit,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Makes a pipeline of each section.
///
/// # Errors
/// `unbound-symbol` where a symbol has no value.
pub(super) fn emit(
    plain: &Program,
    plan: &Plan,
    cut: &[Range<usize>],
    units: &Units<'_>,
    options: &Options,
) -> Result<Program> {
    let memory = |name: &str| plain.memories.iter().find(|(_, m)| m.name == name).map(|(id, _)| id);
    let pmu = memory(PMU).expect("the plain program has it");
    let mut emission = Emission {
        program: Program {
            buffers: IndexVec::new(),
            steps: IndexVec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            ..plain.clone()
        },
        plain,
        plan,
        units,
        pmu,
        // The backward pass takes the units for itself.
        resident: cut.len() == 1 && !options.keep_results,
        outside: BTreeMap::new(),
        here: BTreeMap::new(),
        fresh: BTreeSet::new(),
        writer: BTreeMap::new(),
        running: None,
        loaded: None,
        phase: Phase::Forward,
    };
    for &input in &plain.inputs {
        let made = emission.make_outside(input);
        emission.program.inputs.push(made);
    }
    let mut number = 0;
    let mut sections = cut.iter().enumerate();
    for (id, step) in plain.steps.iter() {
        match step.kind {
            StepKind::Compute | StepKind::Exchange => {
                if emission.running.as_ref().is_none_or(|s| !s.stages.contains(&number)) {
                    emission.end(id);
                    emission.phase = step.phase;
                    let (k, range) = sections.next().expect("the sections have every stage");
                    emission.begin(k, range);
                }
                emission.phase = step.phase;
                emission.stage(step, number);
                number += 1;
            }
            StepKind::View => emission.view(step),
            _ => {
                emission.end(id);
                emission.host(step);
            }
        }
    }
    for (name, id) in &plain.outputs {
        let made = emission.outside_of(*id);
        emission.program.outputs.push((name.clone(), made));
    }
    let mut program = emission.program;
    if in_place(&mut program) {
        program = needed(program);
    }
    settle(&mut program, memory(DDR), memory(HBM), &options.nominal())?;
    Ok(program)
}

/// The section that is being emitted.
struct Running {
    pipeline: PipelineId,
    stages: Range<usize>,
    cores: Vec<u64>,
}

struct Emission<'a> {
    program: Program,
    plain: &'a Program,
    plan: &'a Plan,
    units: &'a Units<'a>,
    pmu: MemoryId,
    /// One section is all there is, so that it stays loaded with its weights.
    resident: bool,
    /// Buffers of the plain program that are in a memory behind the chip or at the host.
    outside: BTreeMap<BufferId, BufferId>,
    /// Those that are in PMUs while the section runs.
    here: BTreeMap<BufferId, BufferId>,
    /// Those of them that the section has made.
    fresh: BTreeSet<BufferId>,
    writer: BTreeMap<BufferId, StepId>,
    running: Option<Running>,
    /// What the units were last programmed for: the form of each stage and its cores.
    loaded: Option<Vec<(usize, u64)>>,
    /// The part of a training step that is being emitted.
    phase: Phase,
}

impl Emission<'_> {
    fn make(&mut self, like: BufferId, change: impl FnOnce(&mut Buffer)) -> BufferId {
        let mut buffer = Buffer { view_of: None, ..self.plain.buffers[like].clone() };
        change(&mut buffer);
        self.program.buffers.push(buffer)
    }
    fn make_outside(&mut self, id: BufferId) -> BufferId {
        let made = self.make(id, |_| {});
        self.outside.insert(id, made);
        made
    }
    /// The buffer behind the chip; made where there is none, as for weights.
    fn outside_of(&mut self, id: BufferId) -> BufferId {
        self.outside.get(&id).copied().unwrap_or_else(|| self.make_outside(id))
    }
    fn push(&mut self, mut step: Step) {
        step.after.clear();
        step.unit = if step.kind == StepKind::Host { Unit::HostLink } else { Unit::Device };
        for read in &step.reads {
            if let Some(&writer) = self.writer.get(&self.program.storage(read.buffer))
                && self.program.steps[writer].unit != step.unit
                && !step.after.contains(&writer)
            {
                step.after.push(writer);
            }
        }
        let writes: Vec<BufferId> = step.writes.iter().map(|w| self.program.storage(w.buffer)).collect();
        let id = self.program.steps.push(step);
        for buffer in writes {
            self.writer.insert(buffer, id);
        }
    }
    /// A step that computes nothing, in the section that runs.
    fn service(&self, name: String, kind: StepKind, body: Graph, cores: u64) -> Step {
        Step {
            name,
            kind,
            body,
            base: 0,
            grid: Vec::new(),
            part_attrs: Attrs::new(),
            padding: 0.0,
            reads: Vec::new(),
            writes: Vec::new(),
            work: Work::NONE,
            tile: None,
            approximate: false,
            stage: self.stage_of(cores),
            phase: self.phase,
            ..self.plain.steps[StepId::new(0)].clone()
        }
    }
    fn stage_of(&self, cores: u64) -> Option<Stage> {
        self.running.as_ref().map(|running| Stage { pipeline: running.pipeline, cores })
    }
    fn stream(&mut self, from: BufferId, to: BufferId, name: String) {
        let whole = vec![Access::Whole; self.program.buffers[from].shape.len()];
        let body = pass_through(&self.program.buffers[from]);
        let mut step = self.service(name, StepKind::Stream, body, 0);
        step.reads = reads(&[from], vec![whole.clone()]);
        step.writes = vec![fill(to, whole)];
        self.push(step);
    }
    /// Loads a section: its program where the units have another, its arguments, its weights.
    fn begin(&mut self, number: usize, stages: &Range<usize>) {
        let shares = cores(&self.plan.stages[stages.clone()], self.units);
        let used = shares.iter().sum();
        let name = format!("section {}", number + 1);
        let pipeline =
            self.program.pipelines.push(Pipeline { name: name.clone(), cores: self.units.machine.pcus });
        let forms = self.plan.stages[stages.clone()].iter().map(|stage| stage.form);
        let program: Vec<(usize, u64)> = forms.zip(shares.iter().copied()).collect();
        let again = self.resident || self.loaded.as_ref() == Some(&program);
        self.loaded = Some(program);
        self.running = Some(Running { pipeline, stages: stages.clone(), cores: shares });
        let load = self.service(name, StepKind::Load, Graph::new(""), if again { 0 } else { used });
        self.push(load);
        let read: Vec<BufferId> =
            self.plan.stages[stages.clone()].iter().flat_map(|s| s.reads.iter().copied()).collect();
        for id in read.into_iter().filter(|id| self.plan.is_given(*id)) {
            if self.here.contains_key(&id) || self.plan.kept(id, stages).is_none() {
                continue;
            }
            let pmu = self.pmu;
            let here = if self.resident {
                self.make(id, |b| b.home = pmu)
            } else {
                let from = self.outside_of(id);
                let to = self.make(id, |b| {
                    b.home = pmu;
                    b.class = BufferClass::Scratch;
                    b.weight = None;
                    b.name.push_str("@pmu");
                });
                self.stream(from, to, format!("{} to the section", self.plain.buffers[id].name));
                to
            };
            self.here.insert(id, here);
        }
    }
    /// What a step of the section that runs reads, on the chip where the chip can have it.
    fn operand(&mut self, id: BufferId) -> BufferId {
        if let Some(&here) = self.here.get(&id) {
            return here;
        }
        let from = self.outside_of(id);
        let Some(running) = &self.running else { return from };
        let (pmu, kept) = (self.pmu, self.plan.kept(id, &running.stages));
        let Some(kept) = kept.filter(|_| !self.plan.is_given(id)) else { return from };
        let to = self.make(id, |b| {
            b.home = pmu;
            b.class = BufferClass::Scratch;
            b.pieces = kept.pieces;
            b.name.push_str("@pmu");
        });
        self.stream(from, to, format!("{} to the section", self.plain.buffers[id].name));
        self.here.insert(id, to);
        to
    }
    fn stage(&mut self, step: &Step, number: usize) {
        let mut stage = step.clone();
        for read in &mut stage.reads {
            read.buffer = self.operand(read.buffer);
        }
        let Some(running) = &self.running else { return };
        let (range, share) = (running.stages.clone(), running.cores[number - running.stages.start]);
        for write in &mut stage.writes {
            let (id, pmu) = (write.buffer, self.pmu);
            write.buffer = match self.plan.kept(id, &range) {
                Some(kept) => {
                    let made = self.make(id, |b| {
                        b.home = pmu;
                        b.pieces = kept.pieces;
                    });
                    self.here.insert(id, made);
                    self.fresh.insert(id);
                    made
                }
                None => self.make_outside(id),
            };
        }
        stage.stage = self.stage_of(share);
        self.push(stage);
    }
    fn view(&mut self, step: &Step) {
        let mut view = step.clone();
        let mut touches = false;
        for read in &mut view.reads {
            let here = self.here.get(&read.buffer).copied();
            touches |= here.is_some();
            read.buffer = here.unwrap_or_else(|| self.outside_of(read.buffer));
        }
        for write in &mut view.writes {
            let id = write.buffer;
            let source = self.plain.buffers[id].view_of;
            let from = source.and_then(|_| view.reads.first()).map(|r| r.buffer);
            let home = from.map(|from| self.program.buffers[from].home);
            let made = self.make(id, |b| {
                b.view_of = from;
                b.home = home.unwrap_or(b.home);
            });
            if home == Some(self.pmu) {
                self.here.insert(id, made);
                self.fresh.insert(id);
            } else {
                self.outside.insert(id, made);
            }
            write.buffer = made;
        }
        view.stage = if touches { self.stage_of(0) } else { None };
        self.push(view);
    }
    fn host(&mut self, step: &Step) {
        let mut host = step.clone();
        host.reads.iter_mut().for_each(|r| r.buffer = self.outside_of(r.buffer));
        for write in &mut host.writes {
            let there = self.outside.get(&write.buffer).copied();
            write.buffer = there.unwrap_or_else(|| self.make_outside(write.buffer));
        }
        self.push(host);
    }
    /// Ends the section that runs: what the steps from `next` on read leaves it.
    fn end(&mut self, next: StepId) {
        if self.running.is_none() {
            return;
        }
        for id in std::mem::take(&mut self.fresh) {
            if self.plan.is_needed(id, next) {
                let (from, to) = (self.here[&id], self.make_outside(id));
                self.stream(from, to, format!("{} from the section", self.plain.buffers[id].name));
            }
        }
        self.here.clear();
        self.running = None;
    }
}

/// Puts what is behind the chip into HBM, where there is one, and weights and states that it cannot hold into DDR, the
/// largest first.
fn settle(
    program: &mut Program,
    ddr: Option<MemoryId>,
    hbm: Option<MemoryId>,
    nominal: &Bindings,
) -> Result<()> {
    let (Some(ddr), Some(hbm)) = (ddr, hbm) else { return Ok(()) };
    for (_, buffer) in program.buffers.iter_mut() {
        if buffer.home == ddr {
            buffer.home = hbm;
        }
    }
    let used = program.memory_use(nominal)?;
    let peak = used.into_iter().find(|(_, peak)| peak.memory == hbm).map_or(0, |(_, peak)| peak.bytes);
    let mut over = peak.saturating_sub(program.memories[hbm].bytes);
    let mut weights = Vec::new();
    for (id, buffer) in program.buffers.iter() {
        if buffer.home == hbm
            && matches!(buffer.class, BufferClass::Parameter | BufferClass::State)
            && buffer.view_of.is_none()
        {
            weights.push((program.block_bytes(id, nominal)?, id));
        }
    }
    weights.sort_unstable_by_key(|(bytes, id)| (std::cmp::Reverse(*bytes), *id));
    for (bytes, id) in weights {
        if over == 0 {
            break;
        }
        over = over.saturating_sub(bytes);
        program.buffers[id].home = ddr;
    }
    // A view is where its source is.
    for id in program.buffers.ids() {
        let storage = program.storage(id);
        program.buffers[id].home = program.buffers[storage].home;
    }
    Ok(())
}
