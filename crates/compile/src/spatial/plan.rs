//! What cutting into sections starts from: the steps that become stages, and the values between them.

use orrery_base::{IndexVec, Result};
use orrery_cost::Measure;
use orrery_cost::spatial::{StageWork, Units, read_again, stage_cycles, stage_work};
use orrery_ir::op::Access;
use orrery_ir::{Bindings, Op};
use orrery_program::memory::unbound;
use orrery_program::{BoundGrid, BufferClass, BufferId, Phase, Pieces, Program, Step, StepId, StepKind};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// What takes more than this part of a section's PMUs by itself stays outside and is streamed as it is used.
pub(super) const MOST_OF_PMUS: f64 = 0.5;

/// A step that becomes a stage.
pub(super) struct Stage {
    /// The step.
    pub step: StepId,
    /// The part of a training step that it belongs to.
    pub phase: Phase,
    /// Equal for steps that are alike but for their names and weights.
    pub form: usize,
    /// How many stages follow one another up to this one, where it runs as late as those of its part that read it allow.
    level: usize,
    /// What it has to do.
    pub work: StageWork,
    /// Seconds of one PCU.
    pub alone: f64,
    /// Seconds on all PCUs.
    pub least: f64,
    /// Buffers it reads, each once.
    pub reads: Vec<BufferId>,
    /// Buffers it writes.
    pub writes: Vec<BufferId>,
    /// Those of them that the PMUs cannot hold beside the others even where the stage is a section of its own.
    outside: BTreeSet<BufferId>,
}

/// A stage that touches a value, and the pieces that it could take it in.
struct Use {
    stage: usize,
    shape: Vec<i64>,
    parts: Vec<u64>,
    /// Pieces beyond its own that a part sees of its neighbours.
    halo: u64,
    /// Bytes that the stage takes of it where it lies behind the chip: a table of which rows are picked is not read whole,
    /// and what does not follow the pieces is read for each of them.
    taken: f64,
}

/// A value of the plain program.
struct Value {
    bytes: u64,
    given: bool,
    /// What it is a view of; itself where it is none.
    source: BufferId,
    /// The stage that makes it; none for what comes from outside.
    maker: Option<usize>,
    /// The last step that reads it itself.
    last_read: Option<StepId>,
    /// Whether it, or a view of it, goes to the host.
    leaves: bool,
    /// Whether a backward pass would need it.
    gradient: bool,
    /// Stages that touch it or a view of it, in order.
    uses: Vec<Use>,
}

/// Stages in order, and values by buffer.
pub(super) struct Plan {
    /// Stages.
    pub stages: Vec<Stage>,
    values: IndexVec<BufferId, Value>,
    forms: BTreeMap<String, usize>,
    pmu_bytes: u64,
    most: u64,
}

impl Plan {
    /// Of a plain program; with `keep_results` what a backward pass would need leaves its section.
    ///
    /// # Errors
    /// `unbound-symbol` where a symbol has no value.
    pub(super) fn of(
        program: &Program,
        units: &Units<'_>,
        nominal: &Bindings,
        keep_results: bool,
    ) -> Result<Self> {
        let mut plan = Self {
            stages: Vec::new(),
            values: IndexVec::new(),
            forms: BTreeMap::new(),
            pmu_bytes: units.machine.pmu_bytes,
            most: (units.pmu_bytes() as f64 * MOST_OF_PMUS) as u64,
        };
        for (id, buffer) in program.buffers.iter() {
            let value = Value {
                bytes: program.block_bytes(id, nominal)?,
                source: program.storage(id),
                given: is_given(program, id),
                maker: None,
                last_read: None,
                leaves: false,
                gradient: false,
                uses: Vec::new(),
            };
            debug_assert!(buffer.pieces.is_none(), "a plain program has no pipelines");
            plan.values.push(value);
        }
        for (id, step) in program.steps.iter() {
            for read in &step.reads {
                plan.value_mut(read.buffer).last_read = Some(id);
                if matches!(step.kind, StepKind::Host | StepKind::Stream) {
                    plan.with_sources(program, read.buffer, |value| value.leaves = true);
                }
            }
            if matches!(step.kind, StepKind::Compute | StepKind::Exchange) {
                plan.stage(program, id, step, units, nominal)?;
            }
        }
        plan.delay();
        for number in 0..plan.stages.len() {
            plan.stages[number].outside = plan.too_much(number, units);
        }
        if keep_results {
            plan.keep_results(program);
        }
        Ok(plan)
    }
    fn value_mut(&mut self, id: BufferId) -> &mut Value {
        &mut self.values[id]
    }
    /// Moves stages to just before what reads them: what is made of values that are there from the start, as of activations
    /// in a backward pass, is not wanted before the gradients arrive.
    fn delay(&mut self) {
        let mut latest: Vec<Option<usize>> = vec![None; self.stages.len()];
        for number in (0..self.stages.len()).rev() {
            let stage = &mut self.stages[number];
            stage.level = latest[number].unwrap_or(stage.level);
            let (level, phase) = (stage.level, stage.phase);
            for maker in self.stages[number].reads.iter().filter_map(|id| self.maker(*id)) {
                if self.stages[maker].phase == phase {
                    let before = latest[maker].map_or(level - 1, |latest| latest.min(level - 1));
                    latest[maker] = Some(before);
                }
            }
        }
    }
    /// Marks what a backward pass would need. What is only moved follows from its source, and the gradient of a softmax from
    /// its result.
    fn keep_results(&mut self, program: &Program) {
        let into_softmax: BTreeSet<BufferId> = program
            .steps
            .values()
            .filter(|step| step.body.nodes.values().next().is_some_and(|node| node.op == Op::Softmax))
            .flat_map(|step| step.reads.iter().map(|r| r.buffer))
            .collect();
        let computed = self.stages.iter().filter(|s| program.steps[s.step].kind == StepKind::Compute);
        let made: Vec<BufferId> = computed.flat_map(|s| s.writes.iter().copied()).collect();
        for id in made.into_iter().filter(|id| !into_softmax.contains(id)) {
            self.value_mut(id).gradient = true;
        }
    }
    /// The value of a buffer and of all that it is a view of.
    fn with_sources(&mut self, program: &Program, buffer: BufferId, mut change: impl FnMut(&mut Value)) {
        let mut at = Some(buffer);
        while let Some(id) = at {
            change(self.value_mut(id));
            at = program.buffers[id].view_of;
        }
    }
    fn stage(
        &mut self,
        program: &Program,
        id: StepId,
        step: &Step,
        units: &Units<'_>,
        nominal: &Bindings,
    ) -> Result<()> {
        let work = stage_work(step, &Measure::of(program, step, nominal)?);
        let seconds = |cores| stage_cycles(&work, cores, units).total() / units.machine.clock_hz;
        let (alone, least) = (seconds(1), seconds(units.cores()));
        let mut reads: Vec<BufferId> = step.reads.iter().map(|r| r.buffer).collect();
        reads.sort_unstable();
        reads.dedup();
        let writes: Vec<BufferId> = step.writes.iter().map(|w| w.buffer).collect();
        let before = reads.iter().filter_map(|id| self.maker(*id)).map(|maker| self.stages[maker].level);
        let level = before.max().unwrap_or(0) + 1;
        let (number, text) = (self.stages.len(), form(program, step));
        let next = self.forms.len();
        let form = *self.forms.entry(text).or_insert(next);
        let picks = match step.body.nodes.values().next() {
            Some(node) if node.op == Op::Gather => step.reads.first().map(|r| r.buffer),
            _ => None,
        };
        let made: u64 = writes.iter().map(|id| self.bytes(*id)).sum();
        let operands = step.reads.iter().map(|r| (r.buffer, &r.access));
        for (buffer, access) in operands.chain(step.writes.iter().map(|w| (w.buffer, &w.access))) {
            let shape = program.buffers[buffer].shape.iter();
            let shape: Vec<i64> =
                shape.map(|d| d.eval(nominal).map_err(|s| Box::new(unbound(&s)))).collect::<Result<_>>()?;
            let parts = if step.kind == StepKind::Compute {
                let grid = BoundGrid::new(step.base, &step.grid, nominal).map_err(|s| unbound(&s))?;
                let along = |axis: Option<usize>| axis.map_or(1, |axis| grid.cuts[axis].parts.unsigned_abs());
                access.iter().map(|a| along(a.axis())).collect()
            } else {
                moved_parts(program, step, buffer, &shape)
            };
            let halo =
                access.iter().zip(&shape).zip(&parts).map(|((a, extent), parts)| halo(a, *extent, *parts));
            let halo = halo.max().unwrap_or(0);
            let whole = self.bytes(buffer) as f64;
            let taken = if picks == Some(buffer) {
                whole.min(made as f64)
            } else {
                whole * read_again(&step.grid, access)
            };
            self.with_sources(program, buffer, |value| {
                value.uses.push(Use {
                    stage: number,
                    shape: shape.clone(),
                    parts: parts.clone(),
                    halo,
                    taken,
                });
            });
        }
        for buffer in &writes {
            self.value_mut(*buffer).maker = Some(number);
        }
        self.stages.push(Stage {
            step: id,
            phase: step.phase,
            form,
            level,
            work,
            alone,
            least,
            reads,
            writes,
            outside: BTreeSet::new(),
        });
        Ok(())
    }
    /// The largest buffers of a stage, as long as the others do not fit beside them.
    fn too_much(&self, number: usize, units: &Units<'_>) -> BTreeSet<BufferId> {
        let stage = &self.stages[number];
        let section = number..number + 1;
        let mut sizes: Vec<(u64, BufferId)> = stage
            .reads
            .iter()
            .chain(&stage.writes)
            .filter_map(|id| Some((self.pmus(self.kept(*id, &section)?.bytes), *id)))
            .collect();
        sizes.sort_unstable();
        sizes.dedup();
        let all = units.pmu_bytes() / self.pmu_bytes;
        let mut taken = 0;
        sizes.retain(|(pmus, _)| {
            taken += pmus;
            taken > all
        });
        sizes.into_iter().map(|(_, id)| id).collect()
    }
    /// Bytes of a value.
    pub(super) fn bytes(&self, id: BufferId) -> u64 {
        self.values[id].bytes
    }
    /// True for weights.
    pub(super) fn is_given(&self, id: BufferId) -> bool {
        self.values[id].given
    }
    /// What a buffer is a view of; itself where it is none.
    pub(super) fn source(&self, id: BufferId) -> BufferId {
        self.values[id].source
    }
    /// The stage that makes it, or what it is a view of; none for what comes from outside.
    pub(super) fn maker(&self, id: BufferId) -> Option<usize> {
        self.values[self.values[id].source].maker
    }
    /// Whether a buffer that a section made is needed from that step on.
    pub(super) fn is_needed(&self, id: BufferId, from: StepId) -> bool {
        let value = &self.values[id];
        value.gradient || value.last_read.is_some_and(|last| last >= from)
    }
    /// Whether it, or a view of it, goes to the host or stays behind the chip.
    pub(super) fn leaves(&self, id: BufferId) -> bool {
        self.values[id].leaves || self.values[id].gradient
    }
    /// The last stage that touches the value or a view of it.
    pub(super) fn last_use(&self, id: BufferId) -> Option<usize> {
        self.values[id].uses.last().map(|u| u.stage)
    }
    /// How much of a value the PMUs keep in a section of these stages; none where it stays outside. Weights are kept whole.
    pub(super) fn kept(&self, id: BufferId, section: &Range<usize>) -> Option<Kept> {
        if section.len() == 1 && self.stages[section.start].outside.contains(&id) {
            return None;
        }
        let value = &self.values[id];
        let mut here = value.uses.iter().filter(|u| section.contains(&u.stage));
        if value.given && here.all(|u| u.taken < value.bytes as f64) {
            return None;
        }
        let mut kept = Kept { bytes: value.bytes, pieces: None };
        if !value.given {
            let uses: Vec<&Use> = value.uses.iter().filter(|u| section.contains(&u.stage)).collect();
            let of = common_pieces(&uses);
            let levels = || uses.iter().map(|u| self.stages[u.stage].level);
            let (first, last) = (levels().min().unwrap_or(0), levels().max().unwrap_or(0));
            // One piece comes while another goes; what takes a longer way waits for the stages between.
            let halo = uses.iter().map(|u| u.halo).max().unwrap_or(0);
            let wait = 2 + halo + (last - first).saturating_sub(1) as u64;
            if of > wait {
                let pieces = Pieces { kept: wait, of };
                kept = Kept { bytes: pieces.kept_of(value.bytes), pieces: Some(pieces) };
            } else if of > 1 {
                kept.pieces = Some(Pieces { kept: of, of });
            }
        }
        (kept.bytes <= self.most).then_some(kept)
    }
    /// Bytes that a stage takes of a value that lies behind the chip.
    pub(super) fn taken(&self, id: BufferId, stage: usize) -> u64 {
        let uses = self.values[id].uses.iter().filter(|u| u.stage == stage);
        uses.map(|u| u.taken).fold(0.0, f64::max) as u64
    }
    /// PMUs for so many bytes; no two buffers share one.
    pub(super) fn pmus(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.pmu_bytes)
    }
}

/// What decides the program of a stage, whatever its weights and names.
fn form(program: &Program, step: &Step) -> String {
    let operands = step.reads.iter().map(|r| r.buffer).chain(step.writes.iter().map(|w| w.buffer));
    let types: Vec<_> = operands
        .map(|b| (program.buffers[b].dtype, &program.buffers[b].shape, is_given(program, b)))
        .collect();
    let nodes: Vec<_> = step.body.nodes.values().map(|n| (n.op, &n.attrs)).collect();
    format!("{:?} {:?} {nodes:?} {types:?}", step.kind, step.grid)
}

fn is_given(program: &Program, id: BufferId) -> bool {
    program.buffers[program.storage(id)].class == BufferClass::Parameter
}

/// Pieces of a dimension in so many parts that a window reaches beyond its own.
fn halo(access: &Access, extent: i64, parts: u64) -> u64 {
    match access {
        Access::Window { stride, reach, .. } if parts > 1 => {
            let piece = extent.max(1).unsigned_abs().div_ceil(parts);
            (reach - stride).max(0).unsigned_abs().div_ceil(piece)
        }
        _ => 0,
    }
}

/// What the PMUs keep of a value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    /// Bytes.
    pub bytes: u64,
    /// In pieces, where not the whole.
    pub pieces: Option<Pieces>,
}

/// Pieces in which all these stages can take a value: they go through its dimensions in the same order as long as they cut
/// them alike.
fn common_pieces(uses: &[&Use]) -> u64 {
    let Some(first) = uses.first() else { return 1 };
    if uses.iter().any(|u| u.shape != first.shape) {
        return uses.iter().map(|u| contiguous(&u.shape, &u.parts)).min().unwrap_or(1);
    }
    let mut pieces = 1;
    for (d, extent) in first.shape.iter().enumerate() {
        let fewest = uses.iter().map(|u| u.parts[d]).min().unwrap_or(1);
        pieces *= equal_pieces(*extent, fewest);
        if uses.iter().any(|u| u.parts[d] != fewest) {
            break;
        }
    }
    pieces
}

/// Pieces that are contiguous in memory, and so the same whatever the shape.
fn contiguous(shape: &[i64], parts: &[u64]) -> u64 {
    let mut pieces = 1;
    for (extent, parts) in shape.iter().zip(parts) {
        pieces *= equal_pieces(*extent, *parts);
        if *parts < extent.unsigned_abs() {
            break;
        }
    }
    pieces
}

/// Equal pieces of an extent, none smaller than the largest of so many parts.
fn equal_pieces(extent: i64, parts: u64) -> u64 {
    let extent = extent.max(1).unsigned_abs();
    extent / extent.div_ceil(parts.max(1))
}

/// Pieces in which a movement takes or makes a buffer: along the first dimension, where it leaves that as it is. A matrix
/// that is turned comes row by row, and is there once all rows are.
fn moved_parts(program: &Program, step: &Step, buffer: BufferId, shape: &[i64]) -> Vec<u64> {
    let mut parts = vec![1; shape.len()];
    let Some(node) = step.body.nodes.values().next() else { return parts };
    let comes_by_rows = node.op == Op::Transpose && step.reads.iter().any(|r| r.buffer == buffer);
    let keeps_order = match node.op {
        Op::Transpose => node.attrs.ints("perm").is_some_and(|perm| perm.first() == Some(&0)),
        op => matches!(
            op,
            Op::Concat
                | Op::Slice
                | Op::Split
                | Op::Gather
                | Op::Pad
                | Op::Expand
                | Op::DepthToSpace
                | Op::SpaceToDepth
        ),
    };
    let lead = |id: BufferId| program.buffers[id].shape.first().cloned();
    let same = step.writes.iter().all(|w| lead(w.buffer) == lead(buffer))
        && step.reads.iter().any(|r| lead(r.buffer) == lead(buffer));
    let by_pieces = comes_by_rows || (keeps_order && same);
    if let (true, Some(first), Some(extent)) = (by_pieces, parts.first_mut(), shape.first()) {
        *first = extent.max(&1).unsigned_abs();
    }
    parts
}
