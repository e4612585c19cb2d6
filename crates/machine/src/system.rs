//! The description of one machine.

use crate::band::Band;
use crate::bulk_synchronous::{BspLosses, BspMachine};
use crate::calibration::Calibration;
use crate::engines::{EnginesLosses, EnginesMachine};
use crate::kernel::{KernelLosses, KernelMachine};
use crate::keys::ModelKind;
use crate::parameter::{Parameter, Status};
use crate::read::not_found;
use crate::spatial::{SpatialLosses, SpatialMachine};
use crate::stream::{StreamLosses, StreamMachine};
use crate::view::view;
use crate::wafer::{WaferLosses, WaferMachine};
use orrery_base::{Diagnostic, Result};
use orrery_numerics::DType;
use std::collections::BTreeMap;

view! {
    /// Links between the chips of one machine, and of machines built alike.
    pub struct Links {
        /// Links of one chip.
        link_count: u64 = "count",
        /// Peak bandwidth of one link, each direction.
        link_bandwidth: f64 = "B/s",
        /// Part of the peak bandwidth that transfers attain.
        link_fraction: f64 = "ratio",
        /// Time until the first byte from chip to chip arrives.
        link_latency_seconds: f64 = "s",
        /// Time that one step of a collective takes beyond its bytes; `link_latency_seconds` where there is none.
        link_step_seconds: Option<f64> = "s",
        /// Chips of one machine (node, chassis).
        chips_per_machine: u64 = "count",
        /// Chips of an installation, all of which a job has: copies of the model run on them side by side.
        installation_chips: Option<u64> = "count",
    }
}

view! {
    /// Electrical power.
    pub struct Power {
        /// Power of one chip at full load.
        chip_watts: Option<f64> = "W",
        /// Power of one chip that does nothing.
        idle_watts: Option<f64> = "W",
        /// Power of a machine with its chips at full load.
        machine_watts: Option<f64> = "W",
    }
}

/// How a machine runs a program, with the numbers its cost formulas take.
#[derive(Clone, Debug, PartialEq)]
pub enum ExecutionModel {
    /// A queue of kernels.
    Kernel(KernelMachine),
    /// Supersteps of compute, synchronisation and exchange.
    BulkSynchronous(BspMachine),
    /// Sections, each a pipeline of compute and memory units.
    Spatial(SpatialMachine),
    /// One static schedule of streams.
    Stream(StreamMachine),
    /// A graph of kernels on two engines.
    Engines(EnginesMachine),
    /// Weights that stream over a mesh of cores, or layers that all lie on it.
    Wafer(WaferMachine),
}

impl ExecutionModel {
    /// From checked parameters.
    pub(crate) fn read(kind: ModelKind, parameters: &BTreeMap<String, Parameter>) -> Self {
        match kind {
            ModelKind::Kernel => Self::Kernel(KernelMachine::read(parameters)),
            ModelKind::BulkSynchronous => Self::BulkSynchronous(BspMachine::read(parameters)),
            ModelKind::Wafer => Self::Wafer(WaferMachine::read(parameters)),
            ModelKind::Spatial => Self::Spatial(SpatialMachine::read(parameters)),
            ModelKind::Stream => Self::Stream(StreamMachine::read(parameters)),
            ModelKind::Engines => Self::Engines(EnginesMachine::read(parameters)),
        }
    }
    /// Which model it is.
    pub const fn kind(&self) -> ModelKind {
        match self {
            Self::Kernel(_) => ModelKind::Kernel,
            Self::BulkSynchronous(_) => ModelKind::BulkSynchronous,
            Self::Spatial(_) => ModelKind::Spatial,
            Self::Stream(_) => ModelKind::Stream,
            Self::Engines(_) => ModelKind::Engines,
            Self::Wafer(_) => ModelKind::Wafer,
        }
    }
    /// Processors that a precision's MACs per cycle are counted for: SMs, tiles, PCUs, matrix planes,
    /// engines or the cores of a wafer.
    pub const fn cores(&self) -> u64 {
        match self {
            Self::Kernel(machine) => machine.sms,
            Self::BulkSynchronous(machine) => machine.tiles,
            Self::Spatial(machine) => machine.pcus,
            Self::Stream(machine) => machine.matrix_planes,
            Self::Engines(machine) => machine.matrix_engines,
            Self::Wafer(machine) => machine.pes,
        }
    }
    /// Clock of those processors.
    pub const fn clock_hz(&self) -> f64 {
        match self {
            Self::Kernel(machine) => machine.clock_hz,
            Self::BulkSynchronous(machine) => machine.clock_hz,
            Self::Spatial(machine) => machine.clock_hz,
            Self::Stream(machine) => machine.clock_hz,
            Self::Engines(machine) => machine.matrix_clock_hz,
            Self::Wafer(machine) => machine.clock_hz,
        }
    }
}

/// What software loses, by execution model.
#[derive(Clone, Debug, PartialEq)]
pub enum Losses {
    /// On a kernel machine.
    Kernel(KernelLosses),
    /// On a bulk-synchronous machine.
    BulkSynchronous(BspLosses),
    /// On a spatial machine.
    Spatial(SpatialLosses),
    /// On a stream machine.
    Stream(StreamLosses),
    /// On a machine of two engines.
    Engines(EnginesLosses),
    /// On a wafer.
    Wafer(WaferLosses),
}

impl Losses {
    /// Whether a cache of keys and values has its final length from the first token on.
    pub fn has_whole_cache(&self) -> bool {
        matches!(self, Self::Engines(losses) if losses.whole_cache.is_some_and(|whole| whole > 0.0))
    }
}

/// The unit that does a precision's multiplications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// A matrix unit: tensor cores, AMP.
    Matrix,
    /// The ordinary arithmetic units.
    Vector,
}

impl Engine {
    /// Every engine.
    pub const ALL: [Self; 2] = [Self::Matrix, Self::Vector];
    /// The word in system files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Matrix => "matrix",
            Self::Vector => "vector",
        }
    }
}

/// A number format a machine multiplies matrices in.
#[derive(Clone, Debug, PartialEq)]
pub struct Precision {
    /// The name to ask for it, as in `fp16`.
    pub name: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// How tensors lie in memory.
    pub storage: DType,
    /// Format the inputs of a product are rounded to: the name of a [`DType`], or `tf32`.
    pub multiply: String,
    /// Format products are summed in (the partials): the name of a [`DType`].
    pub accumulate: DType,
    /// The unit that multiplies.
    pub engine: Engine,
    /// MACs of one core (SM or tile) per cycle; a number in MAC/cycle.
    pub mac_per_cycle: Parameter,
    /// Dense peak of one chip; a number in FLOP/s, integer operations counted alike.
    pub peak: Parameter,
    /// Part of the peak that long runs of large products attain: a ratio.
    pub sustained: Option<Parameter>,
    /// Whether results can be rounded stochastically in hardware.
    pub stochastic_rounding: bool,
    /// Why the peak is not cores x MACs x 2 x clock, where it is not.
    pub peak_differs: Option<String>,
    /// What else to know: partials, training habits.
    pub note: Option<String>,
}

impl Precision {
    /// MACs of one core per cycle.
    pub fn macs(&self) -> f64 {
        self.mac_per_cycle.number().unwrap_or_default()
    }
    /// Part of the peak that the chip's power sustains; 1 where it is not known.
    pub fn sustained(&self) -> f64 {
        self.sustained.as_ref().and_then(Parameter::number).unwrap_or(1.0)
    }
    /// Dense peak in FLOP/s.
    pub fn peak_flops(&self) -> f64 {
        self.peak.number().unwrap_or_default()
    }
    /// Cores x MACs x 2 x clock in FLOP/s.
    pub fn computed_peak(&self, model: &ExecutionModel) -> f64 {
        model.cores() as f64 * self.macs() * 2.0 * model.clock_hz()
    }
}

/// A software stack and where it deviates from the machine's default losses.
#[derive(Clone, Debug, PartialEq)]
pub struct Software {
    /// The name to ask for it, as in measurement files.
    pub name: String,
    /// The name for people.
    pub title: String,
    /// Whether it joins element-wise operations with their neighbours into one kernel.
    pub fuses: bool,
    /// Whether it launches the whole model as one captured graph, or compiles it into one program.
    pub graph_launch: bool,
    /// Whether models are trained with it.
    pub trains: bool,
    /// Where it keeps weights, on machines that can stream them in or hold all layers at once: true for all layers on
    /// the machine, false for streaming, none where it does both or there is no choice.
    pub resident: Option<bool>,
    /// What it does, and what that rests on.
    pub note: Option<String>,
    /// Deviations from [`System::losses`] by key.
    pub losses: BTreeMap<String, Parameter>,
}

/// A machine as it is installed somewhere: the same chip, and other numbers around it.
#[derive(Clone, Debug, PartialEq)]
pub struct Configuration {
    /// The name on the command line and in Records.
    pub name: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// The name for people.
    pub title: String,
    /// Numbers in place of [`System::parameters`], by key.
    pub parameters: BTreeMap<String, Parameter>,
}

/// Something about a machine that is no number.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// What it is.
    pub value: String,
    /// How far to trust it.
    pub status: Status,
    /// Keys of the sources, declared in [`System::sources`].
    pub sources: Vec<String>,
    /// Anything else.
    pub note: Option<String>,
}

/// One cell of the published comparison table that is wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownError {
    /// The row of the table, by the name of the fact or `compute_units`, `on_chip_memory`, `peak`.
    pub row: String,
    /// What the table says.
    pub printed: String,
    /// What is right, and why.
    pub right: String,
}

/// The column of the published comparison table that shows this machine.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishedColumn {
    /// The heading.
    pub heading: String,
    /// Keys of the sources, declared in [`System::sources`].
    pub sources: Vec<String>,
    /// Row name to printed cell.
    pub cells: BTreeMap<String, String>,
    /// What is wrong in it.
    pub known_errors: Vec<KnownError>,
}

/// A machine as its file describes it. The crate's documentation lists what always holds.
#[derive(Clone, Debug, PartialEq)]
pub struct System {
    /// The name on the command line and in Records.
    pub name: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// The name for people.
    pub title: String,
    /// Who makes it.
    pub vendor: String,
    /// What it is, in a few words.
    pub kind: String,
    /// How it runs a program.
    pub model: ExecutionModel,
    /// Number formats it multiplies in, in the file's order.
    pub precisions: Vec<Precision>,
    /// Name of the precision that is used where none is asked for.
    pub default_precision: String,
    /// Software stacks, in the file's order.
    pub software: Vec<Software>,
    /// How it is installed, in the file's order.
    pub configurations: Vec<Configuration>,
    /// The machine's default losses, by key.
    pub losses: BTreeMap<String, Parameter>,
    /// How far predictions are from what was measured, by kind of work.
    pub bands: Vec<Band>,
    /// The measurements that calibrated losses and bands come from.
    pub calibration: Option<Calibration>,
    /// Links between chips.
    pub links: Links,
    /// Electrical power.
    pub power: Power,
    /// Every number behind `model`, `links` and `power`, by the name of the field.
    pub parameters: BTreeMap<String, Parameter>,
    /// What is no number: process, interconnect, installation.
    pub facts: BTreeMap<String, Fact>,
    /// The column of the published table, where it has one.
    pub published: Option<PublishedColumn>,
    /// Sources by key.
    pub sources: BTreeMap<String, String>,
}

impl System {
    /// The precision of that name or alias; none given means the default.
    ///
    /// # Errors
    /// `system-precision-unknown` with what the machine offers.
    pub fn precision(&self, name: Option<&str>) -> Result<&Precision> {
        let name = name.unwrap_or(&self.default_precision);
        let wanted = name.to_lowercase();
        if let Some(found) = self.precisions.iter().find(|p| p.name == wanted || p.aliases.contains(&wanted))
        {
            return Ok(found);
        }
        let names: Vec<&str> = self.precisions.iter().map(|precision| precision.name.as_str()).collect();
        Diagnostic::error("system-precision-unknown", format!("{} does not multiply in `{name}`", self.title))
            .help(format!("it offers: {}", names.join(", ")))
            .err()
    }
    /// The software stack of that name.
    ///
    /// # Errors
    /// `system-software-unknown` with the nearest name.
    pub fn stack(&self, name: &str) -> Result<&Software> {
        let wanted = name.to_lowercase();
        if let Some(stack) = self.software.iter().find(|stack| stack.name == wanted) {
            return Ok(stack);
        }
        let names: Vec<&str> = self.software.iter().map(|stack| stack.name.as_str()).collect();
        not_found("system-software-unknown", &format!("software stack of {}", self.title), name, &names).err()
    }
    /// The machine in each of its configurations, as a machine of its own name.
    pub fn configured(&self) -> impl Iterator<Item = Self> {
        self.configurations.iter().map(|configuration| {
            let mut parameters = self.parameters.clone();
            parameters.extend(configuration.parameters.clone());
            Self {
                name: configuration.name.clone(),
                aliases: configuration.aliases.clone(),
                title: configuration.title.clone(),
                model: ExecutionModel::read(self.model.kind(), &parameters),
                links: Links::read(&parameters),
                power: Power::read(&parameters),
                parameters,
                configurations: Vec::new(),
                published: None,
                ..self.clone()
            }
        })
    }
    /// The parameter behind a loss under a stack, or under the machine's default where the stack has none of its own.
    pub fn loss<'a>(&'a self, key: &str, stack: Option<&'a Software>) -> Option<&'a Parameter> {
        stack.and_then(|stack| stack.losses.get(key)).or_else(|| self.losses.get(key))
    }
    /// True for its name and aliases. Case does not matter and a space counts as `-`, as measurement files write names.
    pub fn answers_to(&self, name: &str) -> bool {
        let wanted = name.to_lowercase().replace(' ', "-");
        self.name == wanted || self.aliases.contains(&wanted)
    }
    /// The band that validation supports for a kind of work, where there is one.
    pub fn band(&self, kind: &str) -> Option<&Band> {
        self.bands.iter().find(|band| band.kind == kind)
    }
    /// The losses under a stack: the machine's defaults with the stack's deviations.
    pub fn losses_under(&self, stack: Option<&Software>) -> Losses {
        let mut losses = self.losses.clone();
        if let Some(stack) = stack {
            losses.extend(stack.losses.clone());
        }
        match self.model {
            ExecutionModel::Kernel(_) => Losses::Kernel(KernelLosses::read(&losses)),
            ExecutionModel::BulkSynchronous(_) => Losses::BulkSynchronous(BspLosses::read(&losses)),
            ExecutionModel::Spatial(_) => Losses::Spatial(SpatialLosses::read(&losses)),
            ExecutionModel::Stream(_) => Losses::Stream(StreamLosses::read(&losses)),
            ExecutionModel::Engines(_) => Losses::Engines(EnginesLosses::read(&losses)),
            ExecutionModel::Wafer(_) => Losses::Wafer(WaferLosses::read(&losses)),
        }
    }
    /// The texts behind source keys, joined by `; `.
    pub fn source_text(&self, keys: &[String]) -> String {
        let texts: Vec<&str> =
            keys.iter().map(|key| self.sources.get(key).map_or(key.as_str(), String::as_str)).collect();
        texts.join("; ")
    }
}
