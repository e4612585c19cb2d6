//! Kernel-by-kernel machines: what one kernel costs.
//!
//! A kernel of matrix work makes its output tile by tile. Tiles are dealt out to the SMs; those that get one more than the
//! others decide (wave quantisation), and a tile that is not full costs as a full one (tile quantisation). Beside that the
//! same bytes must come through shared memory, L2 and device memory; the slowest of them bounds the kernel. Every kernel
//! fills and drains its pipeline once for each round of resident blocks, and none is shorter than a launch.

use crate::{Measure, Product, Resource, StepCost, Target, slowest};
use orrery_base::Picoseconds;
use orrery_machine::{KernelLosses, KernelMachine, TileShape};
use orrery_numerics::DType;
use orrery_program::{BufferClass, Step, StepKind, Tile};

/// Buffers of main-loop steps that a block keeps in flight in shared memory.
const PIPELINE_STAGES: f64 = 3.0;
/// Largest tile that one warp multiplies from registers.
const WARP_TILE: f64 = 64.0;
/// A block's accumulators may take this part of the registers; the rest holds operands and addresses.
const ACCUMULATOR_SHARE: f64 = 0.5;
/// Part of L2 that data of the kernel before are still found in.
const L2_KEPT: f64 = 0.5;

/// The cost of a step.
pub fn cost(
    step: &Step,
    measure: &Measure,
    machine: &KernelMachine,
    losses: &KernelLosses,
    target: &Target<'_>,
) -> StepCost {
    let graph = target.stack.is_some_and(|s| s.graph_launch);
    match step.kind {
        StepKind::View | StepKind::Load => free(),
        StepKind::Host => {
            let bytes = measure.total_read().max(measure.written_bytes);
            let time =
                Picoseconds::from_seconds(machine.host_latency_seconds + bytes / machine.host_bandwidth);
            StepCost {
                time,
                resources: vec![(Resource::HostLink, time)],
                bound: Resource::HostLink,
                ..free()
            }
        }
        StepKind::Compute | StepKind::Exchange | StepKind::Stream => {
            let launch = if graph { machine.graph_launch_seconds } else { machine.launch_seconds };
            let mut resources = memory(measure, machine, losses);
            let mut idle_slots = 0.0;
            let mut fill = machine.block_overhead_cycles / machine.clock_hz;
            if let Some(product) = &measure.product {
                let tile = step.tile.unwrap_or(Tile { m: 128, n: 128, k: 32 });
                let work = tiles(product, tile, measure.depth_parts, machine, element_bytes(measure.dtype));
                let rate = target.precision.macs() * losses.matrix_fraction * machine.clock_hz;
                resources.push((Resource::Matrix, Picoseconds::from_seconds(work.sm_macs / rate)));
                resources
                    .push((Resource::Local, Picoseconds::from_cycles(work.shared_cycles, machine.clock_hz)));
                resources
                    .push((Resource::L2, Picoseconds::from_seconds(work.l2_bytes / machine.l2_bandwidth)));
                let bandwidth = machine.hbm_bandwidth * machine.hbm_fraction * losses.memory_fraction;
                resources
                    .push((Resource::DeviceMemory, Picoseconds::from_seconds(work.reread_bytes / bandwidth)));
                idle_slots = 1.0 - product.macs() / (work.sm_macs * machine.sms as f64).max(1.0);
                fill *= work.rounds;
            } else if measure.macs > 0.0 {
                // How the step is cut is not known: its products are spread evenly.
                let rate =
                    target.precision.macs() * losses.matrix_fraction * machine.clock_hz * machine.sms as f64;
                resources.push((Resource::Matrix, Picoseconds::from_seconds(measure.macs / rate)));
            }
            let lanes = machine.sms as f64 * machine.clock_hz * losses.vector_fraction;
            // A vector operation is one lane of a fused multiply-add unit.
            let per_cycle = match measure.dtype {
                DType::F16 => machine.vector_fp16,
                DType::BF16 => machine.vector_bf16,
                _ => machine.vector_fp32,
            };
            resources
                .push((Resource::Vector, Picoseconds::from_seconds(measure.vector / (per_cycle * lanes))));
            let special = measure.special / (machine.special_functions * lanes);
            resources.push((Resource::Special, Picoseconds::from_seconds(special)));
            let (bound, longest) = slowest(&resources);
            let exec = longest + Picoseconds::from_seconds(fill);
            let floor = Picoseconds::from_seconds(launch);
            resources.push((Resource::Launch, floor.max(Picoseconds::from_seconds(fill))));
            let bound = if exec <= floor || Picoseconds::from_seconds(fill) > longest {
                Resource::Launch
            } else {
                bound
            };
            let issue = if graph {
                Picoseconds::ZERO
            } else {
                Picoseconds::from_seconds(losses.host_seconds_per_kernel)
            };
            StepCost { time: exec.max(floor), issue, resources, bound, idle_slots }
        }
    }
}

fn free() -> StepCost {
    StepCost {
        time: Picoseconds::ZERO,
        issue: Picoseconds::ZERO,
        resources: Vec::new(),
        bound: Resource::Launch,
        idle_slots: 0.0,
    }
}

fn element_bytes(dtype: DType) -> f64 {
    dtype.bits() as f64 / 8.0
}

/// Bytes once through device memory, or through L2 where the kernel before has left them there.
fn memory(measure: &Measure, machine: &KernelMachine, losses: &KernelLosses) -> Vec<(Resource, Picoseconds)> {
    let total = measure.total_read() + measure.written_bytes;
    let kept = machine.l2_bytes as f64 * L2_KEPT;
    let made_here = |class| matches!(class, BufferClass::Scratch | BufferClass::Accumulator);
    let (mut device, mut cached) = (0.0, 0.0);
    for (class, bytes) in &measure.read_bytes {
        if made_here(*class) && total <= kept {
            cached += bytes;
        } else {
            device += bytes;
        }
    }
    if measure.written_bytes <= kept && total <= kept {
        cached += measure.written_bytes;
    } else {
        device += measure.written_bytes;
    }
    let bandwidth = machine.hbm_bandwidth * machine.hbm_fraction * losses.memory_fraction;
    vec![
        (Resource::DeviceMemory, Picoseconds::from_seconds(device / bandwidth)),
        (Resource::L2, Picoseconds::from_seconds((device + cached) / machine.l2_bandwidth)),
    ]
}

/// What a tiling makes of a product.
struct Tiling {
    /// MACs of full tiles on the SM that has most.
    sm_macs: f64,
    /// Cycles of shared memory on that SM.
    shared_cycles: f64,
    /// Bytes that tiles read through L2.
    l2_bytes: f64,
    /// Bytes that come from device memory when tiles are dealt out in square groups.
    reread_bytes: f64,
    /// How often an SM fills and drains its pipeline.
    rounds: f64,
}

fn tiles(product: &Product, tile: Tile, splits: f64, machine: &KernelMachine, bytes: f64) -> Tiling {
    let (m, n, k) = (tile.m as f64, tile.n as f64, tile.k as f64);
    let depth = product.depth * product.positions;
    let depth_steps = (depth / splits.max(1.0) / k).ceil().max(1.0);
    let columns = (product.columns / n).ceil();
    let rows = (product.rows / m).ceil();
    let blocks = product.batch * rows * columns * splits.max(1.0);
    let per_sm = (blocks / machine.sms as f64).ceil();
    let block_macs = m * n * depth_steps * k;
    let by_shared = machine.shared_bytes as f64 / (PIPELINE_STAGES * (m + n) * k * bytes);
    let by_registers = machine.register_bytes as f64 * ACCUMULATOR_SHARE / (m * n * 4.0);
    let resident = by_shared.min(by_registers).floor().clamp(1.0, machine.blocks_per_sm as f64);
    let warp = |side: f64| (side / 2.0).min(WARP_TILE);
    let shared_bytes = block_macs * (1.0 / warp(m) + 1.0 / warp(n)) * bytes;
    let l2_bytes = blocks * (m + n) * depth_steps * k * bytes;
    let at_once = (machine.sms as f64 * resident).min(blocks);
    // The blocks that run at once cover a square of the output as far as its shape allows.
    let wide = at_once.sqrt().ceil().min(columns).max(1.0);
    let high = (at_once / wide).ceil();
    let reread = blocks / at_once * (high * m + wide * n) * depth_steps * k * bytes;
    let once = product.batch * (product.rows + product.columns) * depth * bytes;
    let kept = once <= machine.l2_bytes as f64 * L2_KEPT;
    Tiling {
        sm_macs: per_sm * block_macs,
        shared_cycles: per_sm * shared_bytes / machine.shared_bytes_per_cycle,
        l2_bytes,
        reread_bytes: if kept { 0.0 } else { reread.min(l2_bytes).max(once) },
        rounds: (per_sm / resident).ceil(),
    }
}

/// The tile and the number of parts along the sum with which a product takes least time.
pub fn best_tile(
    product: &Product,
    dtype: DType,
    machine: &KernelMachine,
    losses: &KernelLosses,
    macs: f64,
) -> (Tile, u64) {
    let bytes = element_bytes(dtype);
    let mut best = (f64::INFINITY, Tile { m: 128, n: 128, k: 32 }, 1);
    for &TileShape { m, n, k } in &machine.matrix_tiles {
        let tile = Tile { m, n, k };
        for splits in [1_u64, 2, 4, 8, 16] {
            let depth_steps = (product.depth * product.positions / k as f64).ceil();
            if splits > 1 && (product.positions > 1.0 || depth_steps < 2.0 * splits as f64) {
                continue;
            }
            let work = tiles(product, tile, splits as f64, machine, bytes);
            let seconds = [
                work.sm_macs / (macs * losses.matrix_fraction * machine.clock_hz),
                work.shared_cycles / machine.clock_hz,
                work.l2_bytes / machine.l2_bandwidth,
                work.reread_bytes / (machine.hbm_bandwidth * machine.hbm_fraction),
            ];
            let mut time = seconds.into_iter().fold(0.0, f64::max)
                + work.rounds * machine.block_overhead_cycles / machine.clock_hz;
            if splits > 1 {
                // The sum of the partial results: written and read once through L2, in a kernel of its own.
                let partial = product.batch * product.rows * product.columns * 4.0 * splits as f64;
                time += 2.0 * partial / machine.l2_bandwidth + machine.launch_seconds;
            }
            if time < best.0 {
                best = (time, tile, splits);
            }
        }
    }
    (best.1, best.2)
}
