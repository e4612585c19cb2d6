//! Wafers: what one step costs.
//!
//! A PE has one data path: multiply-adds, element-wise operations and the addition of partial sums that pass by follow one
//! another on it. Weights that stream in arrive over the ramp meanwhile, one wavelet each, and each sets off one vector
//! operation over the rows that the PE holds; the slower of arrival and arithmetic decides. Sums that are cut over PEs
//! run along a chain of neighbours. What is done item by item costs so many times what one item costs.

use crate::{Measure, Product, Resource, StepCost, slowest};
use orrery_base::Picoseconds;
use orrery_ir::Bindings;
use orrery_machine::{Precision, WaferLosses, WaferMachine};
use orrery_numerics::DType;
use orrery_program::{Buffer, Cutting, Program, Read, Region, Step, StepKind, Unit, Write, WriteMode};

/// What arithmetic on a PE depends on.
#[derive(Clone, Copy, Debug)]
pub struct Core<'a> {
    /// The machine.
    pub machine: &'a WaferMachine,
    /// Its losses.
    pub losses: &'a WaferLosses,
    /// MACs a cycle.
    pub macs: f64,
    /// Bytes of a partial sum.
    pub sum_bytes: f64,
}

impl<'a> Core<'a> {
    /// In a precision.
    pub fn new(machine: &'a WaferMachine, losses: &'a WaferLosses, precision: &Precision) -> Self {
        let sum_bytes = precision.accumulate.bits() as f64 / 8.0;
        Self { machine, losses, macs: precision.macs(), sum_bytes }
    }
}

/// Cycles of a PE for its part of a product.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProductCycles {
    /// Multiply-adds, and starting them.
    pub multiply: f64,
    /// Additions of partial sums that pass by.
    pub add: f64,
    /// Until the first partial sum has gone along the chain.
    pub chain: f64,
}

/// Cycles of a PE for a product whose sums are cut over `depth_parts` PEs. `streamed` says that the second operand streams
/// in: each of its elements sets off an operation over the rows; otherwise operations run along the longer side.
pub fn product_cycles(
    part: &Product,
    depth_parts: f64,
    streamed: bool,
    dtype: DType,
    core: &Core<'_>,
) -> ProductCycles {
    let Core { machine, losses, macs, sum_bytes } = *core;
    let (rows, columns) = (part.rows.max(1.0), part.columns.max(1.0));
    let (long, short) = if streamed || rows >= columns { (rows, columns) } else { (columns, rows) };
    let operand = dtype.bits() as f64 / 8.0;
    let rate = 1.0 / (macs * losses.matrix_fraction);
    let (batch, depth) = (part.batch.max(1.0) * part.positions.max(1.0), part.depth.max(1.0));
    let vectors = |length: f64, element: f64| (length * element).max(1.0) + machine.vector_start_cycles;
    let write = sum_bytes / machine.sram_write_bytes_per_cycle;
    let cached = rate.max(operand / machine.sram_read_bytes_per_cycle);
    let fitting = (machine.cache_bytes as f64 / sum_bytes).floor().max(1.0);
    let column = if long <= fitting {
        depth * vectors(long, cached)
    } else {
        // Sums that do not fit the cache go from memory to memory at every step of the sum; or the steps are held, and made
        // for as many rows at a time as do fit.
        let memory = ((operand + sum_bytes) / machine.sram_read_bytes_per_cycle).max(write);
        let blocks = (long / fitting).ceil();
        let blocked = blocks * depth * vectors(long / blocks, cached) + long * write;
        blocked.min(depth * vectors(long, rate.max(memory)))
    };
    let multiply = batch * short * column;
    if depth_parts <= 1.0 {
        return ProductCycles { multiply, ..ProductCycles::default() };
    }
    let sums = part.batch.max(1.0) * long * short;
    let starts = part.batch.max(1.0) * short * machine.vector_start_cycles;
    let (add, chain) = chain_cycles(sums, depth_parts, core);
    ProductCycles { multiply, add: add + starts, chain }
}

/// Cycles of a PE to add so many sums to what passes by, and of the way along the chain: from neighbour to neighbour, or in
/// two turns over groups, whichever is faster.
///
/// The model of Luczynski et al.: the contention at the busiest PE, the longest path in hops, and 2 ramps and a cycle for
/// each PE that a value stops at.
pub fn chain_cycles(sums: f64, parts: f64, core: &Core<'_>) -> (f64, f64) {
    let Core { machine, losses, sum_bytes, .. } = *core;
    let lanes = if sum_bytes <= 2.0 { machine.vector_fp16 } else { machine.vector_fp32 };
    let each = (1.0 / lanes).max(sum_bytes / machine.link_bytes_per_cycle) / losses.mesh_fraction;
    let stop = 2.0 * machine.ramp_cycles + 1.0;
    let hops = parts * machine.hop_cycles;
    let neighbours = (sums * each, hops + parts * stop);
    let groups = (2.0 * sums * each, hops + 2.0 * parts.sqrt() * stop);
    if neighbours.0 + neighbours.1 <= groups.0 + groups.1 { neighbours } else { groups }
}

/// Cycles of a PE for simple and for special operations.
pub fn vector_cycles(vector: f64, special: f64, dtype: DType, core: &Core<'_>) -> (f64, f64) {
    let Core { machine, losses, .. } = *core;
    let lanes = if dtype.bits() <= 16 { machine.vector_fp16 } else { machine.vector_fp32 };
    let start = if vector + special > 0.0 { machine.vector_start_cycles } else { 0.0 };
    ((vector / (lanes * losses.vector_fraction)).ceil() + start, special / machine.special_functions)
}

/// What an exchange moves.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Bytes into the PE that gets most.
    pub inward: f64,
    /// Bytes out of the PE that sends most.
    pub outward: f64,
    /// Bytes in all, copies not counted: the mesh makes them on the way.
    pub total: f64,
    /// All movement stays within groups of so many PEs whose numbers follow one another.
    pub reach: f64,
    /// PEs taken from or brought to.
    pub span: f64,
    /// Columns and rows of the rectangle in which such a group lies.
    pub sides: (f64, f64),
}

/// Columns and rows of the rectangle in which `reach` PEs lie whose numbers follow one another: within the one rectangle of a
/// floor plan that begins at `bases`, or from one to another; of the whole mesh where there is no floor plan.
pub fn sides(regions: &[Region], bases: &[u64], reach: f64, machine: &WaferMachine) -> (f64, f64) {
    let among = |columns: f64| (reach.min(columns), (reach / columns).ceil().max(1.0));
    let mut touched = regions.iter().filter(|region| bases.contains(&region.base));
    let Some(first) = touched.next() else { return among(machine.grid_columns as f64) };
    let Some(second) = touched.next() else { return among(first.columns as f64) };
    let (mut left, mut top, mut right, mut bottom) = (u64::MAX, u64::MAX, 0, 0);
    for region in [first, second].into_iter().chain(touched) {
        (left, top) = (left.min(region.x), top.min(region.y));
        (right, bottom) = (right.max(region.x + region.columns), bottom.max(region.y + region.rows));
    }
    ((right - left) as f64, (bottom - top) as f64)
}

/// Cycles of an exchange.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExchangeCycles {
    /// Bytes in or out over the ramp of the busiest PE.
    pub ramp: f64,
    /// Bytes over the busiest link.
    pub links: f64,
    /// Tasks and routes.
    pub tasks: f64,
    /// The longest way.
    pub way: f64,
}

impl ExchangeCycles {
    /// How long PEs and links are busy with it.
    pub fn busy(&self) -> f64 {
        self.ramp.max(self.links) + self.tasks
    }
}

/// Cycles of an exchange.
///
/// Of what moves within a group, half crosses its middle, half of that in either direction, over as many links as the
/// shorter side of the group has rows or columns. A router keeps as many routes apart as it has colours free; more
/// partners take more turns.
pub fn exchange_cycles(traffic: &Traffic, core: &Core<'_>) -> ExchangeCycles {
    let Core { machine, losses, .. } = *core;
    let (wide, high) = traffic.sides;
    let wavelets = |bytes: f64| (bytes / machine.link_bytes_per_cycle).ceil() / losses.mesh_fraction;
    let groups = (traffic.span / traffic.reach.max(1.0)).max(1.0);
    let free = (machine.colours - machine.host_colours.min(machine.colours - 1)) as f64;
    let turns = (traffic.reach.min(wavelets(traffic.inward)) / free).ceil();
    ExchangeCycles {
        ramp: wavelets(traffic.inward.max(traffic.outward)),
        links: wavelets(traffic.total / groups / 4.0 / wide.min(high)),
        tasks: machine.exchange_start_cycles + turns * machine.task_dispatch_cycles,
        way: (wide + high) * machine.hop_cycles,
    }
}

/// Bytes that one item of the batch has streamed in by a step.
pub fn streamed_bytes(program: &Program, step: &Step, bindings: &Bindings) -> f64 {
    let moved = step.reads.iter().zip(&step.writes);
    let bytes = |(read, write): (&Read, &Write)| {
        // Of a table of which a part is wanted that part; weights in the type in which they are wanted.
        let whole = |buffer: &Buffer| {
            let elements = buffer.elements().eval(bindings).unwrap_or(0) as f64;
            elements * buffer.dtype.bits() as f64 / 8.0
        };
        let to = &program.buffers[write.buffer];
        let bytes = whole(&program.buffers[read.buffer]).min(whole(to));
        if to.by_item.is_some() { bytes / program.items.max(1) as f64 } else { bytes }
    };
    moved.map(bytes).sum()
}

/// The cost of a step, by the measure of one item.
pub fn cost(
    program: &Program,
    step: &Step,
    measure: &Measure,
    bindings: &Bindings,
    (machine, losses): (&WaferMachine, &WaferLosses),
    precision: &Precision,
) -> StepCost {
    let core = Core::new(machine, losses, precision);
    let items = if step.once { 1 } else { program.items.max(1) };
    let cycles = |c: f64| Picoseconds::from_cycles(c * items as f64, machine.clock_hz);
    // Items follow each other on the way; the way itself counts once.
    let once = |c: f64| Picoseconds::from_cycles(c, machine.clock_hz);
    let seconds = Picoseconds::from_seconds;
    let bytes = measure.total_read().max(measure.written_bytes);
    let region = step.region.and_then(|stage| program.regions.get(stage as usize));
    let pes = region.map_or(machine.grid_columns * machine.grid_rows, Region::cores) as f64;
    let mut latency = Picoseconds::ZERO;
    let (time, resources, idle_slots) = match step.kind {
        StepKind::View | StepKind::Load => (Picoseconds::ZERO, Vec::new(), 0.0),
        StepKind::Stream if step.unit == Unit::Outward => {
            // They leave after every item.
            let time = seconds(bytes / (machine.ingress_bandwidth * losses.ingress_fraction)) * items;
            (time, vec![(Resource::Egress, time)], 0.0)
        }
        // MemoryX changes what it holds as gradients arrive, and keeps up with them: assumed, nobody publishes its rate.
        _ if step.unit == Unit::Outward => (Picoseconds::ZERO, Vec::new(), 0.0),
        StepKind::Host => {
            let bytes = if measure.shared { bytes * items as f64 } else { bytes };
            let time = seconds(machine.host_latency_seconds + bytes / machine.ingress_bandwidth);
            (time, vec![(Resource::HostLink, time)], 0.0)
        }
        StepKind::Stream => {
            let rate = machine.ingress_bandwidth * losses.ingress_fraction;
            // Weights stream in again for every item.
            let bytes = streamed_bytes(program, step, bindings);
            let time = seconds(bytes / rate) * items;
            latency = seconds(losses.layer_seconds) * items;
            (time, vec![(Resource::Ingress, time)], 0.0)
        }
        StepKind::Exchange => {
            let of_step = step.reads.iter().map(|r| r.buffer).chain(step.writes.iter().map(|w| w.buffer));
            let bases: Vec<u64> = of_step.map(|buffer| program.buffers[buffer].layout.base).collect();
            let traffic = Traffic {
                sides: sides(&program.regions, &bases, measure.reach, machine),
                inward: measure.block_in_bytes,
                outward: measure.block_out_bytes,
                total: measure.total_read(),
                reach: measure.reach,
                span: measure.span,
            };
            let phase = exchange_cycles(&traffic, &core);
            let parts = vec![
                (Resource::Launch, cycles(phase.tasks)),
                (Resource::Ramp, cycles(phase.ramp)),
                (Resource::Mesh, cycles(phase.links) + once(phase.way)),
            ];
            (cycles(phase.busy()) + once(phase.way), parts, 0.0)
        }
        StepKind::Compute => compute(step, measure, &core, pes, &cycles, &once),
    };
    let bound = slowest(&resources).0;
    StepCost { time, latency, bound, resources, idle_slots, ..StepCost::default() }
}

fn compute(
    step: &Step,
    measure: &Measure,
    core: &Core<'_>,
    pes: f64,
    cycles: &impl Fn(f64) -> Picoseconds,
    once: &impl Fn(f64) -> Picoseconds,
) -> (Picoseconds, Vec<(Resource, Picoseconds)>, f64) {
    let machine = core.machine;
    let streamed = measure.part_arriving > 0.0;
    let mut product = ProductCycles::default();
    let mut idle = 0.0;
    if let Some(part) = &measure.part {
        product = product_cycles(part, measure.depth_parts, streamed, measure.dtype, core);
        if let Some(whole) = &measure.product {
            idle = 1.0 - whole.macs() / (part.macs() * pes).max(1.0);
        }
    } else if measure.macs > 0.0 {
        // How it would be cut is not known: spread evenly.
        product.multiply = measure.macs / (core.macs * core.losses.matrix_fraction * pes);
    }
    let share = if step.approximate { 1.0 / pes } else { measure.largest_share };
    if measure.part.is_none() && step.writes.iter().any(|w| matches!(w.mode, WriteMode::Combined(_))) {
        let sums = measure.part_written_bytes * 8.0 / measure.dtype.bits().max(1) as f64;
        (product.add, product.chain) = chain_cycles(sums, summed_parts(step), core);
    }
    let (vector, special) =
        vector_cycles(measure.vector * share, measure.special * share, measure.dtype, core);
    let local = if step.approximate || measure.part.is_some() {
        0.0
    } else {
        (measure.part_read_bytes / machine.sram_read_bytes_per_cycle)
            .max(measure.part_written_bytes / machine.sram_write_bytes_per_cycle)
    };
    let arriving = if step.approximate { measure.part_arriving / pes } else { measure.part_arriving };
    let arrive = arriving / core.losses.mesh_fraction;
    // The first weight crosses the wafer once.
    let across = (machine.grid_columns + machine.grid_rows) as f64 * machine.hop_cycles;
    let chain = product.chain + if streamed { across } else { 0.0 };
    let path = product.multiply + product.add + vector + special;
    let busy = machine.task_dispatch_cycles + path.max(arrive).max(local);
    let resources = vec![
        (Resource::Launch, cycles(machine.task_dispatch_cycles)),
        (Resource::Matrix, cycles(product.multiply)),
        (Resource::Vector, cycles(vector)),
        (Resource::Special, cycles(special)),
        (Resource::Local, cycles(local)),
        (Resource::Ramp, cycles(arrive)),
        (Resource::Mesh, cycles(product.add) + once(chain)),
    ];
    (cycles(busy) + once(chain), resources, idle.max(0.0))
}

/// Parts that make results of the same elements.
fn summed_parts(step: &Step) -> f64 {
    let followed = |axis: usize| {
        step.writes.first().is_some_and(|write| write.access.iter().any(|a| a.axis() == Some(axis)))
    };
    let parts = step.grid.iter().enumerate().filter(|(axis, _)| !followed(*axis)).map(|(_, cut)| cut.cutting);
    parts.map(|cutting| if let Cutting::Parts(parts) = cutting { parts as f64 } else { 1.0 }).product()
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_machine::{ExecutionModel, Losses, find};

    fn with_core(name: &str, precision: &str, test: impl Fn(&Core<'_>)) {
        let system = find(name).unwrap_or_else(|error| panic!("{error}"));
        let precision = system.precision(Some(precision)).unwrap_or_else(|error| panic!("{error}"));
        let (ExecutionModel::Wafer(machine), Losses::Wafer(losses)) =
            (&system.model, &system.before_calibration().losses_under(None))
        else {
            panic!("{name} is a wafer")
        };
        test(&Core::new(machine, losses, precision));
    }

    fn product(rows: f64, columns: f64, depth: f64) -> Product {
        Product { batch: 1.0, rows, columns, depth, positions: 1.0 }
    }

    #[test]
    fn long_rows_come_near_the_rate_and_short_ones_do_not() {
        with_core("cs2", "fp16.32", |core| {
            let rate = |rows: f64| {
                let part = product(rows, 100.0, 8.0);
                let cycles = product_cycles(&part, 1.0, true, DType::F16, core);
                part.macs() / cycles.multiply / (core.macs * core.losses.matrix_fraction)
            };
            assert!(rate(64.0) > 0.9, "{}", rate(64.0));
            assert!(rate(4.0) < 0.7, "{}", rate(4.0));
            // One row: each weight that arrives makes one multiplication, and pays for its start.
            assert!(rate(1.0) < 0.25, "{}", rate(1.0));
        });
    }

    #[test]
    fn sums_beyond_the_cache_are_made_in_blocks_that_fit() {
        with_core("cs3", "fp16.32", |core| {
            let cycles = |rows: f64, depth: f64| {
                product_cycles(&product(rows, 1.0, depth), 1.0, true, DType::F16, core).multiply
                    / rows
                    / depth
            };
            // 512 bytes hold 128 sums in fp32. Blocks of so many cost little where the sum is long, and their way to
            // memory where it is short.
            assert!(cycles(256.0, 1000.0) < 1.05 * cycles(128.0, 1000.0));
            assert!(cycles(256.0, 2.0) > 1.5 * cycles(128.0, 2.0));
        });
    }

    #[test]
    fn a_chain_costs_its_sums_once_and_its_length() {
        with_core("cs2", "fp16.32", |core| {
            assert_eq!(chain_cycles(1000.0, 10.0, core), (1000.0, 10.0 + 10.0 * 5.0));
            // Few sums over many PEs go in two turns: twice the sums, a square root of the stops.
            assert_eq!(chain_cycles(1.0, 400.0, core), (2.0, 400.0 + 2.0 * 20.0 * 5.0));
        });
    }

    #[test]
    fn exchanges_far_away_are_bound_by_the_mesh() {
        with_core("cs2", "fp16.32", |core| {
            let all = 745_500.0;
            let sides = |reach| sides(&[], &[], reach, core.machine);
            let traffic = Traffic {
                inward: 400.0,
                outward: 400.0,
                total: 400.0 * all,
                reach: 4.0,
                span: all,
                sides: sides(4.0),
            };
            let near = exchange_cycles(&traffic, core);
            assert_eq!((near.ramp, near.links), (100.0, 100.0));
            let far = exchange_cycles(&Traffic { reach: all, sides: sides(all), ..traffic }, core);
            assert_eq!((far.ramp, far.links), (100.0, 100.0 * 994.0 / 4.0));
            // Few PEs that send far do not fill the links.
            let few = exchange_cycles(
                &Traffic { reach: all, sides: sides(all), total: 400.0 * 750.0, ..traffic },
                core,
            );
            assert_eq!((few.ramp, few.links), (100.0, 25.0));
            assert_eq!(far.way, 750.0 + 994.0);
        });
    }

    #[test]
    fn special_functions_take_their_cycles() {
        with_core("cs2", "fp16.32", |core| {
            assert_eq!(vector_cycles(0.0, 3.0, DType::F16, core).1, 30.0);
            assert_eq!(vector_cycles(32.0, 0.0, DType::F16, core).0, 10.0 + 1.42);
            assert_eq!(vector_cycles(32.0, 0.0, DType::F32, core).0, 40.0 + 1.42);
        });
    }
}
