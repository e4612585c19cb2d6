//! A machine as the user asks for it: with a precision and a software stack.

use orrery_base::Result;
use orrery_cost::Target;
use orrery_machine::{ExecutionModel, System, find_or_load};
use orrery_numerics::DType;
use std::sync::Arc;

/// A machine with a precision and a stack, by the names the user gave; the machine's defaults where none.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The machine.
    pub system: Arc<System>,
    /// Precision.
    pub precision: Option<String>,
    /// Software stack.
    pub stack: Option<String>,
    /// Devices that share every block of a built-in decoder; as many as are fastest where none.
    pub shards: Option<u64>,
}

impl Setup {
    /// A machine by name, alias or path of its file, in its default precision and without a stack of its own.
    ///
    /// # Errors
    /// `system-unknown`, and those of reading a file.
    pub fn find(name_or_path: &str) -> Result<Self> {
        Ok(Self::of(find_or_load(name_or_path)?))
    }
    /// A machine that was read.
    pub fn of(system: System) -> Self {
        Self { system: Arc::new(system), precision: None, stack: None, shards: None }
    }
    /// In a precision.
    #[must_use]
    pub fn precision(mut self, name: Option<&str>) -> Self {
        self.precision = name.map(str::to_owned);
        self
    }
    /// Under a software stack.
    #[must_use]
    pub fn stack(mut self, name: Option<&str>) -> Self {
        self.stack = name.map(str::to_owned);
        self
    }
    /// With so many devices to a copy of a built-in decoder, which share every block of it.
    #[must_use]
    pub const fn shards(mut self, shards: Option<u64>) -> Self {
        self.shards = shards;
        self
    }
    /// Devices that a copy of a model can be shared by.
    pub fn most_devices(&self) -> u64 {
        let links = &self.system.links;
        links.installation_chips.unwrap_or(links.chips_per_machine)
    }
    /// On some tiles of a chip, where not on all: `None` leaves the machine as it is.
    ///
    /// # Errors
    /// `system-tiles` where the machine has no such part.
    pub fn tiles(self, tiles: Option<u64>) -> Result<Self> {
        let Some(tiles) = tiles else { return Ok(self) };
        Ok(Self { system: Arc::new(self.system.part(tiles)?), ..self })
    }
    /// As frameworks train in formats of 8 bits: products take operands that are rounded to them, all else has 16 bits.
    #[must_use]
    pub fn with_wide_activations(mut self) -> Self {
        let system = Arc::make_mut(&mut self.system);
        for precision in
            system.precisions.iter_mut().filter(|p| p.storage.bits() == 8 && p.storage.is_float())
        {
            precision.storage = DType::BF16;
        }
        self
    }
    /// A machine of sections whose memory gives and takes at once; none of another execution model. What a program takes on
    /// it is what its stages wait for one another.
    pub(crate) fn with_instant_memory(&self) -> Option<Self> {
        const INSTANT: f64 = 1e6;
        let mut setup = self.clone();
        let ExecutionModel::Spatial(machine) = &mut Arc::make_mut(&mut setup.system).model else {
            return None;
        };
        machine.ddr_bandwidth *= INSTANT;
        machine.ddr_random_bandwidth *= INSTANT;
        machine.hbm_bandwidth = machine.hbm_bandwidth.map(|bandwidth| bandwidth * INSTANT);
        Some(setup)
    }
    /// What costs depend on.
    ///
    /// # Errors
    /// `system-precision-unknown`, `system-software-unknown`.
    pub fn target(&self) -> Result<Target<'_>> {
        Target::new(&self.system, self.precision.as_deref(), self.stack.as_deref())
    }
}
