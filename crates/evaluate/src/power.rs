//! Electrical power of a chip while a program runs.

use orrery_cost::Resource;
use orrery_machine::Power;
use orrery_program::{Program, Unit};
use orrery_simulate::Timeline;

/// What a memory that is busy all the time adds to the power of an idle chip, over what busy matrix units add, which bring it
/// to its full power. Assumed: memory and its way to the chip take about half of what the cores do.
const MEMORY: f64 = 0.5;

/// Watts of one chip in the mean over runs one after the other; none where its power is not known.
pub(crate) fn watts(program: &Program, timeline: &Timeline, power: &Power) -> Option<f64> {
    let (idle, full) = (power.idle_watts?, power.chip_watts?);
    let run = timeline.device.seconds();
    if run <= 0.0 {
        return None;
    }
    let (mut matrix, mut memory) = (0.0, 0.0);
    for (id, _) in program.steps.iter().filter(|(_, step)| step.unit != Unit::HostLink) {
        for (resource, time) in &timeline.events[id].cost.resources {
            match resource {
                Resource::Matrix => matrix += time.seconds(),
                Resource::DeviceMemory | Resource::Hbm | Resource::Ddr => memory += time.seconds(),
                _ => {}
            }
        }
    }
    let busy = (matrix + MEMORY * memory) / run;
    Some(idle + (full - idle) * busy.clamp(0.0, 1.0))
}
