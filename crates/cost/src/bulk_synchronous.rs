//! Bulk-synchronous machines: what one step costs.
//!
//! Compute, synchronisation and exchange follow one another, and the slowest tile decides each. So the resources of a
//! step add up, and a step is described by its largest part. A synchronisation stands before each exchange; steps that
//! compute on what their tiles hold follow one another without.

use crate::{Measure, Product, Resource, StepCost, slowest};
use orrery_base::Picoseconds;
use orrery_machine::{BspLosses, BspMachine, Precision};
use orrery_numerics::DType;
use orrery_program::{Step, StepKind, WriteMode};

/// The cost of a step.
pub fn cost(
    step: &Step,
    measure: &Measure,
    machine: &BspMachine,
    losses: &BspLosses,
    precision: &Precision,
) -> StepCost {
    let cycles = |c: f64| Picoseconds::from_cycles(c, machine.clock_hz);
    let seconds = Picoseconds::from_seconds;
    let bytes = measure.total_read().max(measure.written_bytes);
    let resources = match step.kind {
        StepKind::View | StepKind::Load => Vec::new(),
        StepKind::Host => {
            vec![(Resource::HostLink, seconds(machine.host_latency_seconds + bytes / machine.host_bandwidth))]
        }
        StepKind::Stream => vec![(Resource::Streaming, seconds(bytes / machine.streaming_bandwidth))],
        StepKind::Exchange => {
            let shared = measure.shared_in_bytes * (1.0 - 1.0 / machine.exchange_tiles_per_bus.max(1) as f64);
            let busiest = (measure.block_in_bytes - shared).max(measure.block_out_bytes);
            vec![
                (Resource::Sync, cycles(machine.sync_cycles)),
                (Resource::Exchange, cycles(exchange_cycles(busiest, machine, losses))),
            ]
        }
        StepKind::Compute => {
            let mut parts = vec![(Resource::Launch, cycles(machine.vertex_launch_cycles))];
            if let Some(part) = &measure.part {
                parts.push((
                    Resource::Matrix,
                    cycles(product_cycles(part, measure.dtype, machine, losses, precision.macs())),
                ));
            }
            if measure.part.is_none() && measure.macs > 0.0 {
                let rate = precision.macs() * losses.matrix_fraction * machine.tiles as f64;
                parts.push((Resource::Matrix, cycles(measure.macs / rate)));
            }
            // How an approximate step is cut is not known: its work is spread evenly over the tiles.
            let share = if step.approximate { 1.0 / machine.tiles as f64 } else { measure.largest_share };
            let (vector, special) = vector_cycles(
                measure.vector * share,
                measure.special * share,
                measure.dtype,
                machine,
                losses,
            );
            parts.push((Resource::Vector, cycles(vector)));
            parts.push((Resource::Special, cycles(special)));
            if step.writes.iter().any(|write| matches!(write.mode, WriteMode::Combined(_))) {
                // Each tile gets its share of the sums from all parts, which together is as much as one part made.
                let made = measure.part_written_bytes;
                let elements = made * 8.0 / measure.dtype.bits().max(1) as f64;
                let (adding, _) = vector_cycles(elements, 0.0, measure.dtype, machine, losses);
                parts.push((Resource::Sync, cycles(machine.sync_cycles)));
                parts.push((Resource::Exchange, cycles(exchange_cycles(made, machine, losses))));
                parts.push((Resource::Vector, cycles(adding)));
            }
            parts
        }
    };
    let time = resources.iter().map(|(_, t)| *t).sum();
    let idle_slots = match (&measure.product, &measure.part) {
        (Some(whole), Some(part)) => 1.0 - whole.macs() / (part.macs() * machine.tiles as f64).max(1.0),
        _ => 0.0,
    };
    StepCost { time, bound: slowest(&resources).0, resources, idle_slots, ..StepCost::default() }
}

/// Cycles of a tile for a product of matrices on its matrix unit.
///
/// For each block of inputs and each block of output channels the weights are loaded once, then every row takes as many
/// cycles as the unit needs for a block of MACs. Rows are dealt out to the workers.
pub fn product_cycles(
    part: &Product,
    dtype: DType,
    machine: &BspMachine,
    losses: &BspLosses,
    macs: f64,
) -> f64 {
    let half = dtype.bits() <= 16;
    let (inputs, block_cycles) = if half {
        (machine.matrix_block_inputs_fp16 as f64, machine.matrix_block_cycles_fp16)
    } else {
        (machine.matrix_block_inputs_fp32 as f64, machine.matrix_block_cycles_fp32)
    };
    let outputs = machine.matrix_block_outputs as f64;
    let workers = machine.workers as f64;
    let blocks = part.positions.max(1.0) * (part.depth / inputs).ceil() * (part.columns / outputs).ceil();
    let rows = (part.rows / workers).ceil() * workers;
    let per_row = inputs * outputs / (macs * losses.matrix_fraction);
    machine.matrix_call_cycles + part.batch.max(1.0) * blocks * (block_cycles + rows * per_row)
}

/// Cycles of a tile for simple and special operations on so many elements.
pub fn vector_cycles(
    vector: f64,
    special: f64,
    dtype: DType,
    machine: &BspMachine,
    losses: &BspLosses,
) -> (f64, f64) {
    if vector + special <= 0.0 {
        return (0.0, 0.0);
    }
    let lanes = if dtype.bits() <= 16 { machine.vector_fp16 } else { machine.vector_fp32 };
    let start = machine.worker_launch_cycles * machine.workers as f64;
    let loops = (vector / lanes).ceil() * machine.vector_loop_cycles / losses.vector_fraction;
    (start + loops, special / machine.special_functions)
}

/// Cycles of an exchange phase in which the busiest tile sends or receives so many bytes.
pub fn exchange_cycles(bytes: f64, machine: &BspMachine, losses: &BspLosses) -> f64 {
    bytes / (machine.exchange_bytes_per_cycle * losses.exchange_fraction)
        + machine.exchange_latency_cycles
        + machine.exchange_tail_cycles
}
