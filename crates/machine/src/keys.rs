//! The parameters a machine has: name, unit, meaning. One table serves reader, views and documentation.

use crate::bulk_synchronous::{BspLosses, BspMachine};
use crate::engines::{EnginesLosses, EnginesMachine};
use crate::kernel::{KernelLosses, KernelMachine};
use crate::spatial::{SpatialLosses, SpatialMachine};
use crate::stream::{StreamLosses, StreamMachine};
use crate::system::{Links, Power};
use crate::wafer::{WaferLosses, WaferMachine};

/// Every unit a parameter may have. Base SI units without prefixes; a MAC counts as one, an addition or a
/// multiplication as one FLOP.
pub const UNITS: [&str; 12] = [
    "Hz",
    "s",
    "W",
    "B",
    "B/s",
    "B/cycle",
    "FLOP/s",
    "MAC/cycle",
    "element/cycle",
    "cycle",
    "count",
    "ratio",
];

/// What kind of value a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A finite, positive number.
    Number,
    /// A positive integer.
    Integer,
    /// Tile shapes `[m, n, k]` in elements.
    TileShapes,
}

/// One parameter that a system file has or may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Name in the file, and of the field of the view.
    pub name: &'static str,
    /// The only unit it may be given in.
    pub unit: &'static str,
    /// What kind of value it takes.
    pub shape: Shape,
    /// Whether a file without it is refused.
    pub required: bool,
    /// What it means.
    pub meaning: &'static str,
}

/// Which execution model a file describes, by the word in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ModelKind {
    /// A queue of kernels on one large processor.
    Kernel,
    /// Compute, synchronise and exchange in turn on many small ones.
    BulkSynchronous,
    /// Sections of a model, each a pipeline of units.
    Spatial,
    /// One static schedule of streams through functional units.
    Stream,
    /// A graph of kernels on two engines side by side.
    Engines,
    /// Weights stream over a mesh of small cores on one wafer, or all layers lie on it.
    Wafer,
}

impl ModelKind {
    /// Every execution model.
    pub const ALL: [Self; 6] =
        [Self::Kernel, Self::BulkSynchronous, Self::Spatial, Self::Stream, Self::Engines, Self::Wafer];
    /// The word in system files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::BulkSynchronous => "bulk-synchronous",
            Self::Spatial => "spatial-dataflow",
            Self::Stream => "deterministic-stream",
            Self::Engines => "kernel-engines",
            Self::Wafer => "wafer",
        }
    }
    /// The model of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == word)
    }
    /// Keys of `[parameter.*]` that only this model has.
    pub const fn machine_keys(self) -> &'static [Key] {
        match self {
            Self::Kernel => KernelMachine::KEYS,
            Self::BulkSynchronous => BspMachine::KEYS,
            Self::Spatial => SpatialMachine::KEYS,
            Self::Stream => StreamMachine::KEYS,
            Self::Engines => EnginesMachine::KEYS,
            Self::Wafer => WaferMachine::KEYS,
        }
    }
    /// Keys of `[parameter.*]`: the model's own, then links and power, which every machine has.
    pub fn parameter_keys(self) -> impl Iterator<Item = &'static Key> {
        self.machine_keys().iter().chain(Links::KEYS).chain(Power::KEYS)
    }
    /// Keys of `[loss.*]`.
    pub const fn loss_keys(self) -> &'static [Key] {
        match self {
            Self::Kernel => KernelLosses::KEYS,
            Self::BulkSynchronous => BspLosses::KEYS,
            Self::Spatial => SpatialLosses::KEYS,
            Self::Stream => StreamLosses::KEYS,
            Self::Engines => EnginesLosses::KEYS,
            Self::Wafer => WaferLosses::KEYS,
        }
    }
}
