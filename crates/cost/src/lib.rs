//! What a step costs, per execution model.
//!
//! Pure functions of (step, bound dimensions, machine, stack). The compiler calls them to choose, the simulator to time,
//! so there is one truth about what a step costs. Nothing here knows the order of steps or what ran before.

pub mod bulk_synchronous;
pub mod collective;
pub mod contraction;
pub mod kernel;
pub mod kernel_engines;
pub mod measure;
pub mod pipeline;
pub mod rectangles;
pub mod spatial;
pub mod stream;
pub mod wafer;
pub mod words;

pub use contraction::{Contraction, Product, Role};
pub use measure::Measure;

use orrery_base::{Diagnostic, Picoseconds, Result};
use orrery_ir::Bindings;
use orrery_machine::{ExecutionModel, Losses, Precision, Software, System};
use orrery_program::{Program, StepId};

/// What can bound a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Matrix unit.
    Matrix,
    /// Vector unit.
    Vector,
    /// Special functions.
    Special,
    /// Memory within a core: shared memory, tile memory.
    Local,
    /// L2 cache.
    L2,
    /// Device memory.
    DeviceMemory,
    /// Launching: queue, pipeline fill, vertex start.
    Launch,
    /// Exchange between cores.
    Exchange,
    /// Synchronisation of cores.
    Sync,
    /// Memory behind the chip.
    Streaming,
    /// Link to the host.
    HostLink,
    /// The slowest stage of a section.
    Interval,
    /// Filling and draining the stages.
    Fill,
    /// Loading the program of a section.
    ProgramLoad,
    /// Loading the arguments of a section: addresses, and weights that stay while it runs.
    ArgumentLoad,
    /// DDR memory beside the chip.
    Ddr,
    /// High-bandwidth memory of a machine that has DDR too.
    Hbm,
    /// Installing weights in a matrix unit.
    Install,
    /// Shape unit: transposing, shifting over lanes.
    Shape,
    /// Streams between the units of a chip.
    Stream,
    /// The way of the first vector through the chip.
    Transit,
    /// Links between chips.
    ChipLink,
    /// Way of weights into a wafer.
    Ingress,
    /// Way of gradients out of a wafer.
    Egress,
    /// Between a router of a mesh and its core.
    Ramp,
    /// Links of a mesh, and sums that run along it.
    Mesh,
}

impl Resource {
    /// True where stages that run at the same time share it.
    pub const fn is_shared(self) -> bool {
        matches!(self, Self::Ddr | Self::Hbm)
    }
}

/// The cost of one step; by default one that costs nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct StepCost {
    /// Time on its unit.
    pub time: Picoseconds,
    /// From there until what it makes is where it goes: its unit is free meanwhile.
    pub latency: Picoseconds,
    /// Host time to issue it; runs beside the device.
    pub issue: Picoseconds,
    /// What each resource alone would take; on machines whose phases follow one another their sum is the time.
    pub resources: Vec<(Resource, Picoseconds)>,
    /// What decides the time.
    pub bound: Resource,
    /// Part of the step's matrix slots that hold no work of the model: tiles and waves that are not full.
    pub idle_slots: f64,
}

impl Default for StepCost {
    fn default() -> Self {
        Self {
            time: Picoseconds::ZERO,
            latency: Picoseconds::ZERO,
            issue: Picoseconds::ZERO,
            resources: Vec::new(),
            bound: Resource::Launch,
            idle_slots: 0.0,
        }
    }
}

/// A machine with a precision and a stack: what a cost depends on besides the step.
pub struct Target<'a> {
    /// The machine.
    pub system: &'a System,
    /// The precision compiled for.
    pub precision: &'a Precision,
    /// The software stack, where one is named.
    pub stack: Option<&'a Software>,
    /// Its losses.
    pub losses: Losses,
}

impl<'a> Target<'a> {
    /// A target by names; the machine's defaults where none is given.
    ///
    /// # Errors
    /// Where the machine knows no such precision or stack.
    pub fn new(system: &'a System, precision: Option<&str>, stack: Option<&str>) -> Result<Self> {
        let precision = system.precision(precision)?;
        let stack = stack.map(|name| system.stack(name)).transpose()?;
        Ok(Self { system, precision, stack, losses: system.losses_under(stack) })
    }
}

/// The cost of a step of a program.
///
/// # Errors
/// `unbound-symbol` where a symbol has no value; `cost-model` where machine and losses are of different kinds.
pub fn step_cost(
    program: &Program,
    id: StepId,
    bindings: &Bindings,
    target: &Target<'_>,
) -> Result<StepCost> {
    let step = &program.steps[id];
    let measure = match &target.system.model {
        ExecutionModel::Wafer(_) => Measure::of_one_item(program, step, bindings)?,
        _ => Measure::of(program, step, bindings)?,
    };
    match (&target.system.model, &target.losses) {
        (ExecutionModel::Kernel(machine), Losses::Kernel(losses)) => {
            Ok(kernel::cost(step, &measure, machine, losses, target))
        }
        (ExecutionModel::BulkSynchronous(machine), Losses::BulkSynchronous(losses)) => {
            Ok(bulk_synchronous::cost(step, &measure, machine, losses, target.precision))
        }
        (ExecutionModel::Spatial(machine), Losses::Spatial(losses)) => {
            Ok(spatial::cost(program, step, &measure, machine, losses, target.precision))
        }
        (ExecutionModel::Stream(machine), Losses::Stream(losses)) => {
            Ok(stream::cost(program, step, &measure, bindings, machine, losses, target))
        }
        (ExecutionModel::Engines(machine), Losses::Engines(losses)) => {
            kernel_engines::cost(program, id, &measure, bindings, machine, losses, target)
        }
        (ExecutionModel::Wafer(machine), Losses::Wafer(losses)) => {
            Ok(wafer::cost(program, step, &measure, bindings, (machine, losses), target.precision))
        }
        _ => Diagnostic::error("cost-model", "the machine's losses are of another execution model").err(),
    }
}

/// The largest of several resources, and which it is.
pub(crate) fn slowest(resources: &[(Resource, Picoseconds)]) -> (Resource, Picoseconds) {
    resources
        .iter()
        .copied()
        .fold((Resource::Launch, Picoseconds::ZERO), |best, at| if at.1 > best.1 { at } else { best })
}
