//! Lifetimes and the memory a program takes, worst core first.

use crate::{
    BoundGrid, BufferClass, BufferId, MemoryId, Pieces, PipelineId, Program, Step, StepId, StepKind,
};
use orrery_base::index::Id;
use orrery_base::{Diagnostic, IndexVec, Result};
use orrery_ir::Bindings;
use std::collections::{BTreeMap, BTreeSet};

/// First and last step that need each buffer's memory; none where no step does.
pub type Lifetimes = IndexVec<BufferId, Option<(StepId, StepId)>>;

/// The fullest moment of a memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peak {
    /// The memory.
    pub memory: MemoryId,
    /// Bytes in use on the fullest core at the fullest step, reserved bytes included.
    pub bytes: u64,
    /// That core.
    pub core: u64,
    /// That step.
    pub step: StepId,
    /// Of those bytes: for each class of buffer.
    pub by_class: Vec<(BufferClass, u64)>,
    /// Of those bytes: for each buffer.
    pub by_buffer: Vec<(BufferId, u64)>,
}

impl Pieces {
    /// Bytes kept of so many.
    pub fn kept_of(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.of.max(1)).saturating_mul(self.kept).min(bytes)
    }
}

/// How items of the batch pass through a buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passing {
    /// First and last stage of a pipeline that touch its memory; none where no stage does.
    pub stages: Option<(u32, u32)>,
    /// A stage brings it: the next item comes in while the stage computes on this one.
    pub brought: bool,
}

impl Program {
    /// Cores that a step computes on, or brings data to; none where they are not told apart: in a memory that all share, for
    /// what is only renamed, and where the step is approximate.
    ///
    /// # Errors
    /// `unbound-symbol` where a symbol has no value.
    pub fn cores_of(&self, step: &Step, bindings: &Bindings) -> Result<Option<u64>> {
        if let Some(stage) = step.stage {
            return Ok(Some(stage.cores).filter(|cores| *cores > 0));
        }
        let Some(to) = step.writes.first().map(|write| &self.buffers[write.buffer]) else { return Ok(None) };
        if self.memories[to.home].cores <= 1 || step.approximate {
            return Ok(None);
        }
        let (base, cuts) = match step.kind {
            StepKind::View | StepKind::Load => return Ok(None),
            StepKind::Compute => (step.base, &step.grid),
            StepKind::Exchange | StepKind::Stream | StepKind::Host => (to.layout.base, &to.layout.cuts),
        };
        let parts = BoundGrid::new(base, cuts, bindings).map_err(|s| Box::new(unbound(&s)))?.parts();
        Ok(u64::try_from(parts).ok())
    }
    /// Lifetimes of buffers: views count for what they rename; inputs, parameters, states and outputs live throughout. What
    /// a stage of a pipeline touches lives as long as the pipeline runs.
    pub fn lifetimes(&self) -> Lifetimes {
        let mut lives: Lifetimes = self.buffers.ids().map(|_| None).collect();
        if self.steps.is_empty() {
            return lives;
        }
        let whole = (StepId::new(0), StepId::new(self.steps.len() - 1));
        let spans = self.pipeline_spans();
        for (id, step) in self.steps.iter() {
            let span = step.stage.and_then(|s| spans.get(s.pipeline).copied().flatten()).unwrap_or((id, id));
            for buffer in step.reads.iter().map(|r| r.buffer).chain(step.writes.iter().map(|w| w.buffer)) {
                let storage = self.storage(buffer);
                let life = lives[storage].get_or_insert(span);
                *life = (life.0.min(span.0), life.1.max(span.1));
            }
        }
        for (id, buffer) in self.buffers.iter() {
            if matches!(buffer.class, BufferClass::Parameter | BufferClass::State | BufferClass::Input)
                && buffer.view_of.is_none()
            {
                lives[id] = Some(whole);
            }
        }
        for (_, id) in &self.outputs {
            if let Some(life) = &mut lives[self.storage(*id)] {
                life.1 = whole.1;
            }
        }
        lives
    }

    /// First and last step of each pipeline; none where it has no step.
    pub fn pipeline_spans(&self) -> IndexVec<PipelineId, Option<(StepId, StepId)>> {
        let mut spans: IndexVec<PipelineId, Option<(StepId, StepId)>> =
            self.pipelines.ids().map(|_| None).collect();
        for (id, step) in self.steps.iter() {
            if let Some(stage) = step.stage
                && spans.get(stage.pipeline).is_some()
            {
                spans[stage.pipeline].get_or_insert((id, id)).1 = id;
            }
        }
        spans
    }

    /// Bytes of the largest block of a buffer on a core; of a buffer in pieces, those that are kept.
    ///
    /// # Errors
    /// `unbound-symbol` where a symbol has no value.
    pub fn block_bytes(&self, id: BufferId, bindings: &Bindings) -> Result<u64> {
        let buffer = &self.buffers[id];
        let extents = buffer.layout.block_extents(&buffer.shape, bindings).map_err(|s| unbound(&s))?;
        let elements = extents.iter().fold(1_u64, |n, &e| n.saturating_mul(e.max(0).unsigned_abs()));
        let bytes = buffer.dtype.machine_bytes(elements);
        Ok(buffer.pieces.map_or(bytes, |pieces| pieces.kept_of(bytes)))
    }

    /// Bytes in use over time: for each memory, for each step, on the fullest core; and where the peak is.
    ///
    /// # Errors
    /// `unbound-symbol` where a symbol has no value.
    pub fn memory_use(&self, bindings: &Bindings) -> Result<Vec<(Vec<u64>, Peak)>> {
        let lives = self.lifetimes();
        let passing = self.passing();
        let steps = self.steps.len();
        let mut all = Vec::new();
        for (memory, description) in self.memories.iter() {
            // Changes in use at each step: (core range, bytes, appears or goes).
            let mut appear: Vec<Vec<Change>> = vec![Vec::new(); steps + 1];
            let mut go: Vec<Vec<Change>> = vec![Vec::new(); steps + 1];
            for (id, buffer) in self.buffers.iter() {
                if buffer.home != memory || buffer.view_of.is_some() || self.lies_within(id) {
                    continue;
                }
                let Some((first, last)) = lives[id] else { continue };
                let grid = BoundGrid::new(buffer.layout.base, &buffer.layout.cuts, bindings)
                    .map_err(|s| unbound(&s))?;
                let staged = passing[id].stages.is_some() && description.cores > 1;
                let bytes = if description.cores > 1 {
                    self.held_bytes(id, &passing[id], bindings)?
                } else {
                    self.block_bytes(id, bindings)?
                };
                // Every stage of a pipeline is at work all the time.
                let whole = (StepId::new(0), StepId::new(steps - 1));
                let (first, last) = if staged { whole } else { (first, last) };
                let change = (buffer.layout.base, grid.core_end(), bytes, id);
                appear[first.index()].push(change);
                go[last.index() + 1].push(change);
            }
            // Cores between two places where some buffer begins or ends hold the same.
            let mut starts: Vec<u64> = appear.iter().flatten().flat_map(|&(lo, hi, ..)| [lo, hi]).collect();
            starts.push(0);
            starts.sort_unstable();
            starts.dedup();
            starts.retain(|start| *start < description.cores);
            let mut used = vec![description.reserved; starts.len()];
            let mut over_time = Vec::with_capacity(steps);
            let mut peak = Peak {
                memory,
                bytes: 0,
                core: 0,
                step: StepId::new(0),
                by_class: Vec::new(),
                by_buffer: Vec::new(),
            };
            for step in 0..steps {
                for &(lo, hi, bytes, _) in &go[step] {
                    spread(&mut used, &starts, lo, hi, |b| b.saturating_sub(bytes));
                }
                for &(lo, hi, bytes, _) in &appear[step] {
                    spread(&mut used, &starts, lo, hi, |b| b.saturating_add(bytes));
                }
                let (segment, bytes) = used
                    .iter()
                    .copied()
                    .enumerate()
                    .fold((0, 0), |best, at| if at.1 > best.1 { at } else { best });
                over_time.push(bytes);
                if bytes > peak.bytes {
                    peak = Peak { bytes, core: starts[segment], step: StepId::new(step), ..peak };
                }
            }
            peak.by_buffer = there_at(&peak, &appear, &go);
            let mut by_class = BTreeMap::new();
            for (id, bytes) in &peak.by_buffer {
                *by_class.entry(self.buffers[*id].class).or_insert(0_u64) += bytes;
            }
            peak.by_class = by_class.into_iter().collect();
            all.push((over_time, peak));
        }
        Ok(all)
    }

    /// How items of the batch pass through each buffer.
    pub fn passing(&self) -> IndexVec<BufferId, Passing> {
        let mut passing: IndexVec<BufferId, Passing> =
            self.buffers.ids().map(|_| Passing::default()).collect();
        for step in self.steps.values() {
            let Some(stage) = step.region else { continue };
            for buffer in step.reads.iter().map(|r| r.buffer).chain(step.writes.iter().map(|w| w.buffer)) {
                let (from, to) = passing[self.storage(buffer)].stages.get_or_insert((stage, stage));
                (*from, *to) = ((*from).min(stage), (*to).max(stage));
            }
            if step.kind == StepKind::Exchange {
                step.writes.iter().for_each(|write| passing[self.storage(write.buffer)].brought = true);
            }
        }
        passing
    }

    /// Bytes of a buffer on a core that takes the items of a batch one after the other: those of the items that are at
    /// once between the first and the last stage that touch it, where one of its dimensions counts items; all of it else.
    ///
    /// # Errors
    /// `unbound-symbol` where a symbol has no value.
    pub fn held_bytes(&self, id: BufferId, passing: &Passing, bindings: &Bindings) -> Result<u64> {
        let (buffer, bytes) = (&self.buffers[id], self.block_bytes(id, bindings)?);
        if buffer.by_item.is_none() {
            return Ok(bytes);
        }
        let staged = passing.stages.map_or(1, |(from, to)| u64::from(to - from) + 1);
        let at_once = (staged + u64::from(passing.brought)).min(self.items);
        Ok(bytes.div_ceil(self.items).saturating_mul(at_once))
    }
}

/// A buffer that comes to some cores, or goes: the first core, one after the last, its bytes on each.
type Change = (u64, u64, u64, BufferId);

/// The buffers on the fullest core at the peak, with their bytes.
fn there_at(peak: &Peak, appear: &[Vec<Change>], go: &[Vec<Change>]) -> Vec<(BufferId, u64)> {
    let until = |changes: &[Vec<Change>]| {
        let changes = changes.iter().take(peak.step.index() + 1).flatten();
        changes.filter(|(lo, hi, ..)| (*lo..*hi).contains(&peak.core)).copied().collect::<Vec<_>>()
    };
    let gone: BTreeSet<BufferId> = until(go).into_iter().map(|(.., id)| id).collect();
    let mut there: Vec<(BufferId, u64)> = until(appear)
        .into_iter()
        .map(|(.., bytes, id)| (id, bytes))
        .filter(|(id, _)| !gone.contains(id))
        .collect();
    there.sort_unstable();
    there
}

/// Changes the bytes of the cores `lo` to `hi`, which both are among `starts` or past the last core.
fn spread(used: &mut [u64], starts: &[u64], lo: u64, hi: u64, change: impl Fn(u64) -> u64) {
    let at = |core: u64| starts.partition_point(|start| *start < core);
    for bytes in &mut used[at(lo)..at(hi).max(at(lo))] {
        *bytes = change(*bytes);
    }
}

/// The diagnostic for a symbol without a value.
pub fn unbound(symbol: &str) -> Diagnostic {
    Diagnostic::error("unbound-symbol", format!("dimension `{symbol}` has no value"))
        .help(format!("give it one: --dim {symbol}=N"))
}
