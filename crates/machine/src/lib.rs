//! System files to checked machine descriptions.
//!
//! A machine is a TOML file in which every number carries unit, status and source; this crate reads it, checks it and
//! offers two views of it: the parameters themselves ([`System::parameters`], for people) and plain numbers
//! ([`KernelMachine`], [`BspMachine`] and others, [`Power`], [`Links`], for cost formulas).
//!
//! Invariants of every [`System`]:
//! 1. Every parameter its execution model requires is there, finite, positive and in the unit of its key; a ratio is at most 1.
//! 2. Every number names a source that the file declares, and a status that says how far to trust it.
//! 3. The peak of each precision follows from cores x MACs x 2 x clock within 2 %, or the file says why not.
//! 4. A plain field of a view has the same name as its parameter, so that any number can be traced back.
//! 5. Printing and reading again gives an equal system.

mod band;
mod bulk_synchronous;
pub mod calibration;
mod engines;
mod kernel;
pub mod keys;
mod parameter;
mod print;
mod read;
pub mod registry;
mod render;
mod section;
mod spatial;
mod stream;
mod system;
mod view;
mod wafer;

pub use band::Band;
pub use bulk_synchronous::{BspLosses, BspMachine};
pub use calibration::{CalibratedLoss, Calibration};
pub use engines::{EnginesLosses, EnginesMachine};
pub use kernel::{KernelLosses, KernelMachine};
pub use parameter::{Alternative, Parameter, Status, TileShape, Value};
pub use read::{FACTS, PEAK_TOLERANCE, SCHEMA, TABLE_ROWS};
pub use registry::{find, find_among, find_or_load, load_path, registry};
pub use render::{SummaryRow, key_reference};
pub use spatial::{SpatialLosses, SpatialMachine};
pub use stream::{StreamLosses, StreamMachine};
pub use system::{
    Configuration, Engine, ExecutionModel, Fact, KnownError, Links, Losses, Power, Precision,
    PublishedColumn, Software, System,
};
pub use wafer::{WaferLosses, WaferMachine};
