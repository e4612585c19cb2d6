//! Machines of two engines side by side: what one node of the graph costs.
//!
//! A node's products are made by the matrix engines, everything else by the vector cores; values go from one to the other
//! in slices through memory on the chip, so that both are at work at once, within a node and in a bundle of nodes. The
//! slower one decides, and the other adds the one slice for which it runs alone. The matrix engines hold a block of outputs
//! while its sums run; blocks that are not full cost as full ones. Bundles follow one another.

mod bundle;

use crate::contraction::Recurrence;
use crate::{Measure, Product, Resource, StepCost, Target, slowest};
use orrery_base::{Picoseconds, Result};
use orrery_ir::Bindings;
use orrery_machine::{Engine, EnginesLosses, EnginesMachine, TileShape};
use orrery_program::{BufferClass, Program, StepId, StepKind};

/// Part of the memory on the chip in which results of the node before are still found.
const SRAM_KEPT: f64 = 0.5;

/// The cost of a step.
///
/// # Errors
/// `unbound-symbol` where a symbol has no value.
pub fn cost(
    program: &Program,
    id: StepId,
    measure: &Measure,
    bindings: &Bindings,
    machine: &EnginesMachine,
    losses: &EnginesLosses,
    target: &Target<'_>,
) -> Result<StepCost> {
    let seconds = Picoseconds::from_seconds;
    let step = &program.steps[id];
    Ok(match step.kind {
        StepKind::View | StepKind::Load => StepCost::default(),
        StepKind::Host => {
            let bytes = measure.total_read().max(measure.written_bytes);
            let time = seconds(machine.host_latency_seconds + bytes / machine.host_bandwidth);
            StepCost {
                time,
                resources: vec![(Resource::HostLink, time)],
                bound: Resource::HostLink,
                ..StepCost::default()
            }
        }
        StepKind::Compute | StepKind::Exchange | StepKind::Stream => {
            let recurrence = Recurrence::of(program, step, bindings);
            // Each turn of a recurrent layer is a product and what is made of it, and needs the turn before.
            let nodes = recurrence.map_or(1.0, |r| 2.0 * r.turns);
            let (mut bundle, mut before) = ([0.0; UNITS.len()], None);
            let members = bundle::up_to(program, id, bindings);
            for &member in &members[..members.len() - 1] {
                let measure = Measure::of(program, &program.steps[member], bindings)?;
                let bytes = device_bytes(program, member, before, &measure, machine);
                add(&mut bundle, &Work::of(&measure, bytes, None, machine, losses, target).seconds);
                before = Some(member);
            }
            let (_, ahead) = slowest(&spent(&bundle));
            let bytes = device_bytes(program, id, before, measure, machine);
            let work = Work::of(measure, bytes, recurrence.as_ref(), machine, losses, target);
            add(&mut bundle, &work.seconds);
            let (bound, all) = slowest(&spent(&bundle));
            let mut resources = spent(&work.seconds);
            // The last slice is made when all that the nodes before make is there.
            let slices = machine.slices.max(1) as f64;
            let last = seconds(slowest(&resources).1.seconds() / slices);
            let time = Picoseconds(all.0.saturating_sub(ahead.0)).max(last);
            let [matrix, vector, access, _] = work.seconds;
            let launch = seconds(nodes * machine.node_seconds + matrix.min(vector.max(access)) / slices);
            resources.push((Resource::Launch, launch));
            let recorded = target.stack.is_none_or(|s| s.graph_launch);
            StepCost {
                time: time + launch,
                issue: if recorded { Picoseconds::ZERO } else { seconds(losses.host_seconds_per_node) },
                bound: if launch > time { Resource::Launch } else { bound },
                resources,
                idle_slots: work.idle_slots,
                ..StepCost::default()
            }
        }
    })
}

/// What is at work side by side: the engines, the vector cores' way to memory, and memory.
const UNITS: [Resource; 4] = [Resource::Matrix, Resource::Vector, Resource::Local, Resource::DeviceMemory];

fn add(bundle: &mut [f64; UNITS.len()], step: &[f64; UNITS.len()]) {
    bundle.iter_mut().zip(step).for_each(|(all, own)| *all += own);
}

fn spent(units: &[f64; UNITS.len()]) -> Vec<(Resource, Picoseconds)> {
    UNITS.into_iter().zip(units.map(Picoseconds::from_seconds)).collect()
}

/// What a step takes of the engines.
struct Work {
    /// Of each of [`UNITS`].
    seconds: [f64; UNITS.len()],
    idle_slots: f64,
}

impl Work {
    fn of(
        measure: &Measure,
        device_bytes: f64,
        recurrence: Option<&Recurrence>,
        machine: &EnginesMachine,
        losses: &EnginesLosses,
        target: &Target<'_>,
    ) -> Self {
        let macs = target.precision.macs();
        let lanes = if measure.dtype.bits() <= 16 { machine.vector_16_bit } else { machine.vector_fp32 };
        let cores = machine.vector_cores as f64 * machine.clock_hz;
        // Sums within a lane (depthwise convolutions) would leave the arrays all but empty.
        let better_on_vector = measure.product.is_some_and(|product| {
            let cycles = matrix_cycles(&product, machine, macs * machine.matrix_engines as f64);
            let on_vector = measure.macs / (lanes * cores * losses.vector_fraction);
            product.depth <= 1.0 && on_vector < cycles / (machine.matrix_clock_hz * losses.matrix_fraction)
        });
        let on_matrix = measure.macs > 0.0 && target.precision.engine == Engine::Matrix && !better_on_vector;
        let (mut matrix, mut idle_slots) = (0.0, 0.0);
        let mut operations = measure.vector;
        let mut touched = measure.total_read() + measure.written_bytes;
        if on_matrix {
            let per_cycle = macs * machine.matrix_engines as f64;
            let cycles = match (&measure.product, recurrence) {
                (_, Some(layer)) => layer.turns * matrix_cycles(&layer.product, machine, per_cycle),
                (Some(product), None) => {
                    let cycles = matrix_cycles(product, machine, per_cycle);
                    idle_slots = (1.0 - product.macs() / (cycles * per_cycle).max(1.0)).max(0.0);
                    cycles
                }
                (None, None) => measure.macs / per_cycle,
            };
            matrix = cycles / (machine.matrix_clock_hz * losses.matrix_fraction);
            // The vector cores see of a product what they make of its result: it comes in and goes out.
            touched = if measure.vector + measure.special > 0.0 { 2.0 * written_bytes(measure) } else { 0.0 };
        } else if measure.macs > 0.0 {
            operations += measure.macs;
        }
        let cycles = operations / lanes + measure.special / machine.special_functions;
        let vector = cycles / (cores * losses.vector_fraction);
        let access = touched / (cores * machine.core_bytes_per_cycle);
        let memory = device_bytes / (machine.hbm_bandwidth * machine.hbm_fraction * losses.memory_fraction);
        Self { seconds: [matrix, vector, access, memory], idle_slots }
    }
}

/// Bytes that a node makes. Keys and values of earlier tokens stay where they are: new ones are put beside them.
fn written_bytes(measure: &Measure) -> f64 {
    let bits = measure.dtype.bits() as f64;
    let stay = measure.attention.map_or(0.0, |shape| shape.past_elements() * bits / 8.0);
    (measure.written_bytes - stay).max(0.0)
}

/// Bytes from and to device memory: what the step before has made is on the chip, where it fits or passes in slices.
fn device_bytes(
    program: &Program,
    id: StepId,
    before: Option<StepId>,
    measure: &Measure,
    machine: &EnginesMachine,
) -> f64 {
    let written = written_bytes(measure);
    let kept = machine.sram_bytes as f64 * SRAM_KEPT;
    let mut bytes = 0.0;
    for (read, (class, size)) in program.steps[id].reads.iter().zip(&measure.read_bytes) {
        let made_here = matches!(class, BufferClass::Scratch | BufferClass::Accumulator);
        let fits = made_here && *size + written <= kept;
        let passed = before.is_some_and(|before| bundle::made(program, before, read.buffer));
        if !fits && !passed {
            bytes += size;
        }
    }
    if written > kept { bytes + written } else { bytes }
}

/// Cycles of all matrix engines, together `macs` a cycle, for a product, in the arrays that take least.
pub fn matrix_cycles(product: &Product, machine: &EnginesMachine, macs: f64) -> f64 {
    let depth = product.depth * product.positions.max(1.0);
    let in_array = |&TileShape { m, n, .. }: &TileShape| {
        let (rows, columns) = (m as f64, n as f64);
        let blocks =
            product.batch.max(1.0) * (product.rows / rows).ceil() * (product.columns / columns).ceil();
        // Geometry and rate of a machine are published apart, or not at all: blocks in all take their share of the rate.
        let at_once = arrays_at_once(machine, m, n);
        let per_block = rows * columns * at_once / macs;
        // Operands run in from two sides before the first block's last output has all of them.
        (blocks / at_once).ceil() * depth * per_block + rows + columns
    };
    machine.matrix_arrays.iter().map(in_array).fold(f64::INFINITY, f64::min)
}

/// Arrays of that shape that all engines together make up.
fn arrays_at_once(machine: &EnginesMachine, m: u64, n: u64) -> f64 {
    let largest = machine.matrix_arrays.iter().map(|a| a.m * a.n).max().unwrap_or(1);
    (largest / (m * n).max(1)).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_machine::{ExecutionModel, Losses, registry};

    fn gaudi2() -> (EnginesMachine, EnginesLosses, f64) {
        let system = registry::find("gaudi2").expect("a built-in machine");
        let precision = system.precision(Some("bf16")).expect("it multiplies in bf16");
        match (&system.model, system.before_calibration().losses_under(None)) {
            (ExecutionModel::Engines(machine), Losses::Engines(losses)) => {
                (machine.clone(), losses, precision.macs() * machine.matrix_engines as f64)
            }
            _ => panic!("a machine of two engines"),
        }
    }

    fn product(batch: f64, rows: f64, depth: f64, columns: f64) -> Product {
        Product { batch, rows, columns, depth, positions: 1.0 }
    }

    #[test]
    fn a_large_product_runs_at_the_peak() {
        let (machine, _, macs) = gaudi2();
        let large = product(1.0, 8192.0, 8192.0, 8192.0);
        let attained = large.macs() / matrix_cycles(&large, &machine, macs) / macs;
        // Measured: 99.3 %.
        assert!((0.99..1.0).contains(&attained), "{attained}");
    }

    #[test]
    fn arrays_take_the_shape_that_suits() {
        let (machine, _, macs) = gaudi2();
        let cycles = |rows, columns| matrix_cycles(&product(1.0, rows, 4096.0, columns), &machine, macs);
        // A block of 1,024 by 128 is one pass in one shape and two in the square one.
        assert_eq!(cycles(1024.0, 128.0), 4096.0 + 1024.0 + 128.0);
        assert_eq!(cycles(512.0, 256.0), 4096.0 + 256.0 + 256.0);
        // Two independent squares run at once.
        let two = matrix_cycles(&product(2.0, 256.0, 4096.0, 256.0), &machine, macs);
        assert_eq!(two, 4096.0 + 512.0);
        // A row costs as much as a full block.
        assert!(cycles(1.0, 256.0) >= 4096.0);
    }
}
