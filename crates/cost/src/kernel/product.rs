//! Products of matrices, tile by tile.
//!
//! A kernel makes its output in tiles. Tiles are dealt out to the SMs; those that get one more than the others decide
//! (wave quantisation), and a tile that is not full costs as a full one (tile quantisation). A step along the sum cannot be
//! shorter than the latency of device memory over the steps that are under way, which is what small products are bound
//! by; where tiles are too few, the sum is cut in parts.

use super::{overlapped, saturated};
use crate::Product;
use orrery_machine::{KernelLosses, KernelMachine, Precision, TileShape};
use orrery_numerics::DType;
use orrery_program::Tile;

/// Steps along the sum that a block keeps under way in shared memory.
const PIPELINE_STAGES: f64 = 3.0;
/// A block's accumulators may take this part of the registers; the rest holds operands and addresses.
const ACCUMULATOR_SHARE: f64 = 0.5;
/// Sides of the part of a tile that one instruction stream multiplies, where the machine's file has none.
const WARP_TILE: f64 = 64.0;
/// Parts into which a sum may be cut.
const SPLITS: [u64; 6] = [1, 2, 4, 8, 16, 32];

/// How fast an SM's matrix unit multiplies.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// MACs of a cycle at the peak.
    pub macs: f64,
    /// Part of the peak that the chip's power sustains.
    pub sustained: f64,
}

impl Rate {
    /// Of a precision.
    pub fn of(precision: &Precision) -> Self {
        Self { macs: precision.macs(), sustained: precision.sustained() }
    }
}

/// What a tiling makes of a product.
pub(super) struct Tiling {
    /// MACs of the product.
    product_macs: f64,
    /// MACs of full tiles on the SM that has most.
    pub(super) sm_macs: f64,
    /// Cycles of shared memory on that SM.
    shared_cycles: f64,
    /// Cycles that its steps along the sum take for their latency.
    latency_cycles: f64,
    /// Bytes that tiles read through L2.
    l2_bytes: f64,
    /// Bytes that come from device memory when tiles are dealt out in square groups.
    reread_bytes: f64,
    /// How often an SM fills and drains its pipeline.
    rounds: f64,
}

/// Seconds of a product on each resource.
pub(super) struct ProductTime {
    pub(super) matrix: f64,
    pub(super) shared: f64,
    pub(super) latency: f64,
    pub(super) l2: f64,
    pub(super) load: f64,
    pub(super) fill: f64,
}

impl ProductTime {
    /// All of it, stores and launch not counted.
    pub(super) fn together(&self, beside: &[f64]) -> f64 {
        let busy = self.matrix.max(self.shared).max(self.latency) + self.fill;
        overlapped([busy, self.l2, self.load].iter().chain(beside).copied())
    }
}

impl Tiling {
    pub(super) fn new(
        product: &Product,
        tile: Tile,
        splits: f64,
        machine: &KernelMachine,
        dtype: DType,
    ) -> Self {
        let bytes = dtype.bits() as f64 / 8.0;
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
        let rounds = (per_sm / resident).ceil();
        let warp_rows = machine.instruction_rows.unwrap_or(WARP_TILE).min(m);
        let warp_columns = machine.instruction_columns.unwrap_or(WARP_TILE).min(n);
        let shared_bytes = block_macs * (1.0 / warp_rows + 1.0 / warp_columns) * bytes;
        let l2_bytes = blocks * (m + n) * depth_steps * k * bytes / machine.tile_multicast.unwrap_or(1.0);
        // The blocks that run at once cover a square of an output as far as its shape allows. Of a convolution's input,
        // all positions of the kernel read the same. What lies beyond the edges is not read.
        let at_once = (machine.sms as f64 * resident).min(rows * columns);
        let high = at_once.sqrt().ceil().min(rows);
        let wide = (at_once / high).ceil().min(columns);
        let from_left = product.rows / product.positions.max(1.0) * (columns / wide);
        let from_right = product.columns * (rows / high);
        let reread_bytes = product.batch * (from_left + from_right) * depth * bytes;
        Self {
            product_macs: product.macs(),
            sm_macs: per_sm * block_macs,
            shared_cycles: per_sm * shared_bytes / machine.shared_bytes_per_cycle,
            latency_cycles: rounds * depth_steps * machine.hbm_latency_cycles / PIPELINE_STAGES,
            l2_bytes,
            reread_bytes: reread_bytes.min(l2_bytes),
            rounds,
        }
    }

    /// The time, where `unique` bytes of operands are read, of them `device` from device memory. The matrix unit is as fast
    /// as its fullest SM, and in all no faster than the power of the chip sustains: slots that hold nothing take little.
    pub(super) fn time(
        &self,
        (unique, device): (f64, f64),
        machine: &KernelMachine,
        losses: &KernelLosses,
        Rate { macs, sustained }: Rate,
    ) -> ProductTime {
        let cycles = (self.sm_macs / losses.matrix_fraction)
            .max(self.product_macs / (machine.sms as f64 * sustained))
            / macs;
        let kept = machine.l2_bytes as f64 * super::L2_KEPT;
        let load = if unique <= kept { device } else { self.reread_bytes.max(device) };
        let stream = machine.operand_fraction.unwrap_or(losses.memory_fraction);
        ProductTime {
            matrix: cycles / machine.clock_hz,
            shared: self.shared_cycles / machine.clock_hz,
            latency: self.latency_cycles / machine.clock_hz,
            l2: self.l2_bytes / (machine.l2_bandwidth * machine.l2_fraction.unwrap_or(1.0)),
            load: load / saturated(machine, stream),
            fill: self.rounds * machine.block_overhead_cycles / machine.clock_hz,
        }
    }
}

/// Seconds from the start of a product's kernel to its end, by the tile and the parts with which it takes least.
pub(super) fn best_time(
    product: &Product,
    dtype: DType,
    machine: &KernelMachine,
    losses: &KernelLosses,
    rate: Rate,
) -> (f64, Tile, u64) {
    let bytes = dtype.bits() as f64 / 8.0;
    let depth = product.depth * product.positions;
    let unique = product.batch * (product.rows * product.depth + product.columns * depth) * bytes;
    let stored = product.batch * product.rows * product.columns;
    let l2 = machine.l2_bandwidth * machine.l2_fraction.unwrap_or(1.0);
    let mut best = (f64::INFINITY, Tile { m: 128, n: 128, k: 32 }, 1);
    for &TileShape { m, n, k } in &machine.matrix_tiles {
        let tile = Tile { m, n, k };
        for splits in SPLITS {
            // The parts of a convolution's sum are parts of its channels.
            if splits > 1 && (depth < (2 * splits * k) as f64 || product.depth < splits as f64) {
                continue;
            }
            let tiling = Tiling::new(product, tile, splits as f64, machine, dtype);
            let mut time = tiling.time((unique, unique), machine, losses, rate).together(&[])
                + stored * bytes / saturated(machine, losses.memory_fraction);
            if splits > 1 {
                // The partial results are written and read once through L2, the latter in a kernel of its own.
                time += machine.launch_seconds + 2.0 * stored * 4.0 * splits as f64 / l2;
            }
            if time < best.0 {
                best = (time, tile, splits);
            }
        }
    }
    best
}

/// The tile and the number of parts along the sum with which a product takes least time.
pub fn best_tile(
    product: &Product,
    dtype: DType,
    machine: &KernelMachine,
    losses: &KernelLosses,
    rate: Rate,
) -> (Tile, u64) {
    let (_, tile, splits) = best_time(product, dtype, machine, losses, rate);
    (tile, splits)
}
