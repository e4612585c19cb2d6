//! Machines whose compute and memory units become a pipeline for each section of a model: reconfigurable dataflow units.

use crate::parameter::{Parameter, Status, Value};
use crate::system::{ExecutionModel, System};
use crate::view::view;
use orrery_base::{Diagnostic, Result};

view! {
    /// A machine of pattern compute units (PCUs) and pattern memory units (PMUs), configured anew for each section of a
    /// model.
    pub struct SpatialMachine {
        /// Clock of the units.
        clock_hz: f64 = "Hz",
        /// PCUs of one chip.
        pcus: u64 = "count",
        /// PMUs of one chip.
        pmus: u64 = "count",
        /// Tiles of one chip: equal parts that run one model together, or one each.
        tiles: u64 = "count",
        /// Lanes of a PCU.
        pcu_lanes: u64 = "count",
        /// Pipeline stages of a PCU, each with a functional unit for every lane.
        pcu_stages: u64 = "count",
        /// fp16 or bf16 elements that pass through a PCU.
        vector_fp16: f64 = "element/cycle",
        /// fp32 elements that pass through a PCU.
        vector_fp32: f64 = "element/cycle",
        /// Exponentials, reciprocals and other special functions of a PCU.
        special_functions: f64 = "element/cycle",
        /// Memory of a PMU.
        pmu_bytes: u64 = "B",
        /// Banks of a PMU.
        pmu_banks: u64 = "count",
        /// Bytes that a PMU reads and writes.
        pmu_bytes_per_cycle: f64 = "B/cycle",
        /// Cycles from the first element into a unit to the first element out of it and at the next.
        unit_latency_cycles: f64 = "cycle",
        /// DDR memory beside one chip.
        ddr_bytes: u64 = "B",
        /// Bandwidth of the DDR memory of one chip, streaming.
        ddr_bandwidth: f64 = "B/s",
        /// Bandwidth of the DDR memory of one chip where rows are picked here and there.
        ddr_random_bandwidth: f64 = "B/s",
        /// HBM of one chip.
        hbm_bytes: Option<u64> = "B",
        /// Bandwidth of the HBM of one chip.
        hbm_bandwidth: Option<f64> = "B/s",
        /// Time until the first byte from DDR or HBM arrives.
        memory_latency_seconds: f64 = "s",
        /// Bytes of the program of one unit: its instructions, counters and routes.
        unit_program_bytes: u64 = "B",
        /// Time to stop a section, start a program load and begin the next, beside the bytes of the program.
        program_load_seconds: f64 = "s",
        /// Time to hand a section its arguments: addresses, counts, scalars.
        argument_load_seconds: f64 = "s",
        /// Bandwidth between host and chip.
        host_bandwidth: f64 = "B/s",
        /// Shortest time of a transfer between host and chip.
        host_latency_seconds: f64 = "s",
    }
}

view! {
    /// What software loses on a spatial machine that the mechanism cannot know.
    pub struct SpatialLosses {
        /// Part of a PCU's multiply-accumulate rate that inner loops attain.
        matrix_fraction: f64 = "ratio",
        /// Part of the vector rate that element-wise loops attain.
        vector_fraction: f64 = "ratio",
        /// Part of the bandwidth of DDR and HBM that streams attain.
        memory_fraction: f64 = "ratio",
        /// Part of the PCUs and PMUs that placement and routing can give to the stages of one section.
        placement_fraction: f64 = "ratio",
        /// Host time of one run of the whole model that nothing hides.
        host_seconds_per_run: f64 = "s",
    }
}

/// Parameters of which a part of a chip has its share.
const SHARED: [&str; 8] = [
    "pcus",
    "pmus",
    "ddr_bytes",
    "ddr_bandwidth",
    "ddr_random_bandwidth",
    "hbm_bytes",
    "hbm_bandwidth",
    "host_bandwidth",
];

impl System {
    /// Some tiles of a chip of this machine, as they are while the other tiles do the same: with their share of units,
    /// memory and bandwidth.
    ///
    /// # Errors
    /// `system-tiles` where the machine has no such part.
    pub fn part(&self, tiles: u64) -> Result<Self> {
        let ExecutionModel::Spatial(machine) = &self.model else {
            return Diagnostic::error("system-tiles", format!("{} is not used in tiles", self.title))
                .help("leave the number of tiles out for this machine")
                .err();
        };
        let all = machine.tiles;
        if tiles == 0 || tiles > all || !all.is_multiple_of(tiles) {
            let cause = format!("{} cannot be dealt out in parts of {tiles} tiles", self.title);
            return Diagnostic::error("system-tiles", cause)
                .help(format!("it has {all} tiles; a part has a number that divides them"))
                .err();
        }
        if tiles == all {
            return Ok(self.clone());
        }
        let share = tiles as f64 / all as f64;
        let scale = |parameter: &mut Parameter| {
            if let Value::Number(number) = &mut parameter.value {
                *number *= share;
            }
            parameter.status = parameter.status.max(Status::Derived);
            parameter.note = Some(format!("{tiles} of {all} tiles of {}", self.title));
            (parameter.range, parameter.alternatives) = (None, Vec::new());
        };
        let mut part = self.clone();
        part.name = format!("{}.{tiles}-tiles", self.name);
        part.title = format!("{}, {tiles} of {all} tiles", self.title);
        (part.aliases, part.published) = (Vec::new(), None);
        for key in SHARED {
            part.parameters.get_mut(key).into_iter().for_each(scale);
        }
        part.parameters.get_mut("tiles").into_iter().for_each(scale);
        part.precisions.iter_mut().for_each(|precision| scale(&mut precision.peak));
        part.model = ExecutionModel::Spatial(SpatialMachine::read(&part.parameters));
        Ok(part)
    }
}
