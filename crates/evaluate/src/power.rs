//! Electrical power of a chip while a program runs.

use orrery_base::Result;
use orrery_cost::{Resource, Target, step_cost};
use orrery_ir::Bindings;
use orrery_program::{Program, Unit};
use orrery_simulate::device_time;

/// What a memory that is busy all the time adds to the power of an idle chip, over what busy matrix units add, which bring it
/// to its full power. Assumed: memory and its way to the chip take about half of what the cores do.
const MEMORY: f64 = 0.5;

/// Watts of one chip in the mean over a run; none where its power is not known.
///
/// # Errors
/// As [`step_cost`].
pub(crate) fn watts(program: &Program, bindings: &Bindings, target: &Target<'_>) -> Result<Option<f64>> {
    let power = &target.system.power;
    let (Some(idle), Some(full)) = (power.idle_watts, power.chip_watts) else { return Ok(None) };
    let (mut matrix, mut memory) = (0.0, 0.0);
    for step in program.steps.values().filter(|step| step.unit != Unit::HostLink) {
        for (resource, time) in step_cost(program, step, bindings, target)?.resources {
            match resource {
                Resource::Matrix => matrix += time.seconds(),
                Resource::DeviceMemory | Resource::Hbm | Resource::Ddr => memory += time.seconds(),
                _ => {}
            }
        }
    }
    let run = device_time(program, bindings, target)?.seconds();
    let busy = (matrix + MEMORY * memory) / run;
    Ok(Some(idle + (full - idle) * busy.clamp(0.0, 1.0)))
}
