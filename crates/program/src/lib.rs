//! Program: what one rank does; text form and verifier.
//!
//! A Program is both executed and timed; it holds counts and places, never times. It knows the op table, but no machine:
//! the machine is a name, and a memory is a number of cores and bytes.

pub mod layout;
pub mod memory;
pub mod region;
pub mod text;
pub mod verify;

pub use layout::{BoundCut, BoundGrid, Cut, Cutting, Layout, Range, access_range};
pub use memory::{Lifetimes, Passing, Peak};
pub use region::Region;

use orrery_base::{IndexVec, define_id};
use orrery_ir::op::{Access, Combine, Work};
use orrery_ir::{Attrs, Dim, Graph, Weight};
use orrery_numerics::DType;
use std::collections::BTreeMap;

define_id!(
    /// A memory of a program.
    MemoryId, "m");
define_id!(
    /// A buffer of a program.
    BufferId, "b");
define_id!(
    /// A step of a program.
    StepId, "s");
define_id!(
    /// A pipeline of a program.
    PipelineId, "p");

/// A memory: one shared space, or one for each core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Name: `hbm`, `tile`, `streaming`.
    pub name: String,
    /// Number of cores that have one of their own; 1 for a shared memory.
    pub cores: u64,
    /// Bytes of each.
    pub bytes: u64,
    /// Bytes of each that the program itself takes: code, tables.
    pub reserved: u64,
}

/// Steps that run at the same time: each is a stage on cores of its own, and passes on what it makes in pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pipeline {
    /// Name for people.
    pub name: String,
    /// Cores that its stages share.
    pub cores: u64,
}

/// A step's place in a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stage {
    /// The pipeline.
    pub pipeline: PipelineId,
    /// Cores of its own while the pipeline runs; for a step that loads, the cores that get a program.
    pub cores: u64,
}

/// How much of a buffer lies in its memory at a time, where stages of a pipeline pass it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pieces {
    /// Pieces that are kept.
    pub kept: u64,
    /// Equal pieces in which the buffer comes and goes.
    pub of: u64,
}

impl Memory {
    /// True for a mesh between cores: it has no bound, since what is in it is on its way.
    pub const fn is_mesh(&self) -> bool {
        self.cores > 1 && self.bytes == u64::MAX
    }
}

/// What a buffer is for, which decides who may write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BufferClass {
    /// Given from outside before the first step; never written.
    Input,
    /// Weights: there before the first step; never written.
    Parameter,
    /// Lives from run to run (KV cache, optimizer moments): there before the first step, may be written in place.
    State,
    /// Partial results that several steps or parts add to.
    Accumulator,
    /// Made and used up within a run.
    Scratch,
}

impl BufferClass {
    /// The word for it in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Input => "inputs",
            Self::Parameter => "parameters",
            Self::State => "state",
            Self::Accumulator => "accumulators",
            Self::Scratch => "activations",
        }
    }
}

/// A tensor in a memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// Name: the graph's value where it is one.
    pub name: String,
    /// What it is for.
    pub class: BufferClass,
    /// Element type.
    pub dtype: DType,
    /// Shape.
    pub shape: Vec<Dim>,
    /// The memory it is in.
    pub home: MemoryId,
    /// How it lies over the cores of that memory.
    pub layout: Layout,
    /// Elements of a parameter.
    pub weight: Option<Weight>,
    /// The buffer whose bytes it renames: a view takes no memory of its own.
    pub view_of: Option<BufferId>,
    /// How much of it is kept where the stages of a pipeline pass it on; none where all of it is.
    pub pieces: Option<Pieces>,
    /// The dimension that counts the items of the batch, of which each has a share. What has none is the same for all items,
    /// or made whole for each.
    pub by_item: Option<usize>,
}

impl Buffer {
    /// Elements in all, copies not counted.
    pub fn elements(&self) -> Dim {
        self.shape.iter().cloned().product()
    }
}

/// What kind of thing a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StepKind {
    /// Each part of the grid computes the body on what its core holds.
    Compute,
    /// Data go from one layout to another, through movement ops.
    Exchange,
    /// The same bytes under another shape: free.
    View,
    /// Between a memory behind the chip and the cores.
    Stream,
    /// From the host to the device, or back.
    Host,
    /// The cores of a pipeline get their program and arguments. Costs time only.
    Load,
}

/// The unit a step occupies. Steps on one unit run in the order of the list; across units only `after` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// The cores.
    Device,
    /// The link to the memory behind the chip.
    Streaming,
    /// The link to the host.
    HostLink,
    /// The link out to the memory behind the chip, where it is one of its own, and what that memory itself computes.
    Outward,
}

/// How a step writes a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WriteMode {
    /// All elements anew.
    Fill,
    /// Over what was there.
    InPlace,
    /// Combined with what was there.
    Reduce(Combine),
    /// All elements anew: what parts along axes that the access does not follow make of the same elements is combined
    /// on its way, and arrives where the layout says.
    Combined(Combine),
}

/// A buffer that a step reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The buffer.
    pub buffer: BufferId,
    /// For each dimension the range a part needs.
    pub access: Vec<Access>,
}

/// A buffer that a step writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The buffer.
    pub buffer: BufferId,
    /// For each dimension the range a part makes.
    pub access: Vec<Access>,
    /// How.
    pub mode: WriteMode,
}

/// How results are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RoundingMode {
    /// To the nearest, ties to even.
    Nearest,
    /// Up or down at random in proportion, from a seed and the element's place.
    Stochastic,
}

/// The arithmetic of a compute step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arithmetic {
    /// Format in which sums of products are kept, by name.
    pub accumulate: String,
    /// Products that the matrix unit adds before it rounds to that format; 1 rounds after each.
    pub group: u32,
    /// Format to which the matrix unit rounds its inputs, where that is less than their type (tf32).
    pub inputs: Option<String>,
    /// How a result is rounded to its type.
    pub rounding: RoundingMode,
}

/// The tile of output that a kernel of a kernel-by-kernel machine makes at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Rows.
    pub m: u64,
    /// Columns.
    pub n: u64,
    /// Depth of one main loop step.
    pub k: u64,
}

/// The part of a training step that a step of the program belongs to; of a program that does not train, the forward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// From the inputs to the loss.
    #[default]
    Forward,
    /// From the loss to the gradients.
    Backward,
    /// From the gradients to new weights.
    Update,
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Name: the user's layers that it is made of.
    pub name: String,
    /// What kind of thing it is.
    pub kind: StepKind,
    /// The unit it occupies.
    pub unit: Unit,
    /// What it computes or how it moves: inputs are `reads`, outputs `writes`, in order. The first node is the one that
    /// the grid cuts; the others follow it element by element.
    pub body: Graph,
    /// Core of the first part.
    pub base: u64,
    /// The grid; empty for one part.
    pub grid: Vec<Cut>,
    /// Attributes of the first node when it is run on a part.
    pub part_attrs: Attrs,
    /// What lies outside of an operand.
    pub padding: f64,
    /// Buffers read.
    pub reads: Vec<Read>,
    /// Buffers written.
    pub writes: Vec<Write>,
    /// Arithmetic.
    pub arithmetic: Arithmetic,
    /// Work of the whole step.
    pub work: Work,
    /// Tile shape, on machines that have it.
    pub tile: Option<Tile>,
    /// True where the grid or the counts only approximate what the machine would do.
    pub approximate: bool,
    /// Its place in a pipeline, where it runs as a stage of one.
    pub stage: Option<Stage>,
    /// Steps that must have ended, besides those before it on its unit.
    pub after: Vec<StepId>,
    /// The stage of a pipeline that it belongs to, by the number of its region: steps of several stages run at the same
    /// time, each on another item of the batch.
    pub region: Option<u32>,
    /// True where it runs once a run, not for each item of the batch: before the first item or, where it belongs to the update
    /// of a training step, after the last.
    pub once: bool,
    /// The part of a training step that it belongs to.
    pub phase: Phase,
}

/// A state that a run lengthens where it lies, as a KV cache is: the elements of `from` are those of `to` that come first
/// along one dimension, so only the others are written, and both take the memory of `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// The state as the run finds it.
    pub from: BufferId,
    /// The state as the run leaves it.
    pub to: BufferId,
}

/// What one rank does.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// The model.
    pub name: String,
    /// The machine, by name.
    pub machine: String,
    /// The precision, by the machine's name for it.
    pub precision: String,
    /// The symbols left open, with the lowest and highest value it is compiled for.
    pub symbols: BTreeMap<String, (i64, i64)>,
    /// Memories.
    pub memories: IndexVec<MemoryId, Memory>,
    /// Pipelines.
    pub pipelines: IndexVec<PipelineId, Pipeline>,
    /// Buffers.
    pub buffers: IndexVec<BufferId, Buffer>,
    /// Steps.
    pub steps: IndexVec<StepId, Step>,
    /// The rectangles of the mesh that the stages of a pipeline lie in, in the order of the stages.
    pub regions: Vec<Region>,
    /// Equal items of the batch that follow one another: through the stages, each of which takes the next item while the
    /// others are at work on earlier ones; without stages, through the whole program. Steps and buffers are described for
    /// all items together.
    pub items: u64,
    /// The buffers of the model's inputs, in order.
    pub inputs: Vec<BufferId>,
    /// The buffers of the model's outputs, in order, under the user's names.
    pub outputs: Vec<(String, BufferId)>,
    /// States that grow where they lie.
    pub grows: Vec<Growth>,
}

impl Program {
    /// The buffer whose memory `id` occupies: itself, or what it is a view of.
    pub fn storage(&self, id: BufferId) -> BufferId {
        let mut at = id;
        while let Some(of) = self.buffers[at].view_of {
            at = of;
        }
        at
    }
    /// The state that a buffer lengthens, where it does.
    pub fn lengthens(&self, id: BufferId) -> Option<BufferId> {
        self.grows.iter().find(|g| g.to == id).map(|g| g.from)
    }
    /// True where a buffer lies within the longer state that it becomes.
    pub fn lies_within(&self, id: BufferId) -> bool {
        self.grows.iter().any(|g| g.from == id)
    }
}
