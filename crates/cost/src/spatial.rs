//! Spatial machines: what a stage, a transfer or a load of a section costs.
//!
//! A section is a pipeline. A stage has PCUs of its own, and its time is what they need for all pieces that pass through
//! it: products in blocks of lanes by stages of a PCU, element-wise work by lanes, special functions in the tails. Streams
//! between DDR or HBM and the section run beside the stages and share the memory's bandwidth. How stages of a section fit
//! together in time follows from their order and the pieces they pass on: see [`crate::pipeline`].

use crate::{Measure, Product, Resource, StepCost, slowest};
use orrery_base::Picoseconds;
use orrery_ir::Op;
use orrery_machine::{Precision, SpatialLosses, SpatialMachine};
use orrery_numerics::DType;
use orrery_program::{BufferClass, BufferId, Cut, Cutting, Program, Step, StepKind};

/// Name of the memory of the PMUs in programs.
pub const PMU: &str = "pmu";
/// Name of the DDR memory in programs.
pub const DDR: &str = "ddr";
/// Name of the HBM in programs.
pub const HBM: &str = "hbm";

/// What a stage has to do, whatever its PCUs.
#[derive(Clone, Debug, PartialEq)]
pub struct StageWork {
    /// One piece as a product of matrices, where it is one.
    pub product: Option<Product>,
    /// Pieces.
    pub pieces: f64,
    /// Multiply-accumulates that are in no product.
    pub macs: f64,
    /// Simple vector operations in all.
    pub vector: f64,
    /// Special functions in all.
    pub special: f64,
    /// Elements that come out.
    pub elements: f64,
    /// Bytes that come in and go out.
    pub bytes: f64,
    /// Widest type.
    pub dtype: DType,
}

/// Cycles that a stage takes on its PCUs, by what they are spent on; they add up, but for those of the PMUs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StageCycles {
    /// Multiply-accumulates.
    pub matrix: f64,
    /// Element-wise work, and elements that are only passed through.
    pub vector: f64,
    /// Special functions.
    pub special: f64,
    /// Reading and writing PMUs, at the same time.
    pub local: f64,
    /// Part of the multiply-accumulate slots that hold no work of the model.
    pub idle: f64,
}

impl StageCycles {
    /// All together.
    pub fn total(&self) -> f64 {
        (self.matrix + self.vector + self.special).max(self.local)
    }
}

/// A machine with what its formulas need.
#[derive(Clone, Copy, Debug)]
pub struct Units<'a> {
    /// The machine.
    pub machine: &'a SpatialMachine,
    /// Its losses.
    pub losses: &'a SpatialLosses,
    /// MACs of a PCU per cycle.
    pub macs: f64,
}

impl Units<'_> {
    /// PCUs that the stages of one section can have.
    pub fn cores(&self) -> u64 {
        ((self.machine.pcus as f64 * self.losses.placement_fraction) as u64).max(1)
    }
    /// Bytes of PMUs that one section can have.
    pub fn pmu_bytes(&self) -> u64 {
        (self.machine.pmus as f64 * self.losses.placement_fraction) as u64 * self.machine.pmu_bytes
    }
    /// Bytes per second that streams attain, of HBM where it is asked for and there.
    pub fn bandwidth(&self, hbm: bool) -> f64 {
        let peak = self.machine.hbm_bandwidth.filter(|_| hbm).unwrap_or(self.machine.ddr_bandwidth);
        peak * self.losses.memory_fraction
    }
    /// Seconds to load a program into so many units of either kind.
    pub fn load_seconds(&self, units: f64) -> f64 {
        let bytes = units * self.machine.unit_program_bytes as f64;
        self.machine.program_load_seconds + bytes / self.bandwidth(true)
    }
}

/// Cycles of a stage on so many PCUs.
pub fn stage_cycles(work: &StageWork, cores: u64, units: &Units<'_>) -> StageCycles {
    let Units { machine, losses, macs } = units;
    let cores = cores.max(1) as f64;
    let lanes = if work.dtype.bits() <= 16 { machine.vector_fp16 } else { machine.vector_fp32 };
    let (mut matrix, mut idle) = (work.macs / (cores * macs), 0.0);
    if let Some(product) = &work.product {
        let cycles = work.pieces * product_cycles(product, cores, *macs, machine.pcu_stages as f64);
        idle = 1.0 - (product.macs() * work.pieces / (cycles * cores * macs).max(1.0)).min(1.0);
        matrix += cycles;
    }
    let vector = if work.vector > 0.0 || (work.product.is_none() && work.macs <= 0.0) {
        // An element takes a lane for a cycle, and the stages of a PCU each do one operation on it.
        (work.vector / machine.pcu_stages as f64).max(work.elements) / (lanes * cores)
    } else {
        0.0
    };
    StageCycles {
        matrix: matrix / losses.matrix_fraction,
        vector: vector / losses.vector_fraction,
        special: work.special / (machine.special_functions * cores) / losses.vector_fraction,
        local: work.bytes / (machine.pmu_bytes_per_cycle * cores),
        idle,
    }
}

/// Cycles of one piece of a product. A PCU makes a block of as many outputs as it has MACs, its stages one way and its
/// lanes the other, a step of the sum in each cycle. Where there are fewer blocks than PCUs, several share a sum.
fn product_cycles(product: &Product, cores: f64, macs: f64, stages: f64) -> f64 {
    let lanes = (macs / stages).max(1.0);
    let blocks = |rows: f64, columns: f64| (rows / stages).ceil() * (columns / lanes).ceil();
    let blocks = product.batch.max(1.0)
        * blocks(product.rows, product.columns).min(blocks(product.columns, product.rows)).max(1.0);
    let depth = (product.depth * product.positions).max(1.0);
    let shares = (cores / blocks).floor().clamp(1.0, depth);
    (blocks * shares / cores).ceil() * (depth / shares).ceil()
}

/// What a step that computes or moves has to do.
pub fn stage_work(step: &Step, measure: &Measure) -> StageWork {
    let pieces = measure.parts.max(1.0);
    let elements = measure.written_bytes * 8.0 / measure.dtype.bits().max(1) as f64;
    StageWork {
        product: measure.part,
        pieces,
        macs: if measure.part.is_none() { measure.macs } else { 0.0 },
        vector: measure.vector,
        special: measure.special,
        elements: if step.kind == StepKind::Compute && measure.vector <= 0.0 && measure.macs > 0.0 {
            0.0
        } else {
            elements
        },
        bytes: measure.total_read() + measure.written_bytes,
        dtype: measure.dtype,
    }
}

/// The cost of a step by itself.
///
/// # Errors
/// `unbound-symbol` where a symbol has no value.
pub fn cost(
    program: &Program,
    step: &Step,
    measure: &Measure,
    machine: &SpatialMachine,
    losses: &SpatialLosses,
    precision: &Precision,
) -> StepCost {
    let units = Units { machine, losses, macs: precision.macs() };
    let cycles = |c: f64| Picoseconds::from_cycles(c, machine.clock_hz);
    let seconds = Picoseconds::from_seconds;
    let mut idle_slots = 0.0;
    let (time, resources) = match step.kind {
        StepKind::View => (Picoseconds::ZERO, Vec::new()),
        StepKind::Host => {
            let bytes = measure.total_read().max(measure.written_bytes);
            let time = seconds(machine.host_latency_seconds + bytes / machine.host_bandwidth);
            (time, vec![(Resource::HostLink, time)])
        }
        StepKind::Load => {
            let loaded = step.stage.map_or(0, |stage| stage.cores);
            // A PMU is programmed with each PCU.
            let program = if loaded > 0 { units.load_seconds(2.0 * loaded as f64) } else { 0.0 };
            let parts = vec![
                (Resource::ProgramLoad, seconds(program)),
                (Resource::ArgumentLoad, seconds(machine.argument_load_seconds)),
            ];
            (parts.iter().map(|(_, t)| *t).sum(), parts)
        }
        StepKind::Stream => {
            let parts = outside(program, step, measure, &units);
            (slowest(&parts).1, parts)
        }
        StepKind::Compute | StepKind::Exchange => {
            let cores = step.stage.map_or_else(|| units.cores(), |stage| stage.cores);
            let spent = stage_cycles(&stage_work(step, measure), cores, &units);
            idle_slots = spent.idle;
            let mut parts = vec![
                (Resource::Matrix, cycles(spent.matrix)),
                (Resource::Vector, cycles(spent.vector)),
                (Resource::Special, cycles(spent.special)),
                (Resource::Local, cycles(spent.local)),
            ];
            let inside = cycles(spent.total() + machine.unit_latency_cycles);
            let streams = outside(program, step, measure, &units);
            let time = streams.iter().fold(inside, |longest, (_, t)| longest.max(*t));
            parts.extend(streams);
            (time, parts)
        }
    };
    StepCost { time, bound: slowest(&resources).0, resources, idle_slots, ..StepCost::default() }
}

/// What a step takes of DDR and HBM.
fn outside(
    program: &Program,
    step: &Step,
    measure: &Measure,
    units: &Units<'_>,
) -> Vec<(Resource, Picoseconds)> {
    let mut ddr = 0.0;
    let mut hbm = 0.0;
    let mut count = |buffer: BufferId, bytes: f64, random: bool| {
        let slower = if random {
            units.machine.ddr_random_bandwidth / (units.machine.ddr_bandwidth * units.losses.memory_fraction)
        } else {
            1.0
        };
        match program.memories[program.buffers[buffer].home].name.as_str() {
            DDR => ddr += bytes / (units.bandwidth(false) * slower.min(1.0)),
            HBM => hbm += bytes / (units.bandwidth(true) * slower.min(1.0)),
            _ => {}
        }
    };
    let random = step.kind == StepKind::Exchange && picks_rows(step);
    for (read, (class, bytes)) in step.reads.iter().zip(&measure.read_bytes) {
        let again = read_again(&step.grid, &read.access);
        count(read.buffer, bytes * again, random && *class == BufferClass::Parameter);
    }
    let written = measure.written_bytes / step.writes.len().max(1) as f64;
    for write in &step.writes {
        count(write.buffer, written, false);
    }
    let streams = [(Resource::Ddr, ddr), (Resource::Hbm, hbm)];
    streams.into_iter().filter(|(_, t)| *t > 0.0).map(|(r, t)| (r, Picoseconds::from_seconds(t))).collect()
}

/// True where a step picks rows of a table by index.
fn picks_rows(step: &Step) -> bool {
    let first = step.body.nodes.values().next();
    first.is_some_and(|node| matches!(node.op, Op::Gather | Op::GatherElements | Op::GatherND))
}

/// How often an operand is read where parts follow one another: once for each part along the axes that it does not follow.
pub fn read_again(grid: &[Cut], access: &[orrery_ir::op::Access]) -> f64 {
    let others = grid.iter().enumerate().filter(|(i, _)| !access.iter().any(|a| a.axis() == Some(*i)));
    others
        .map(|(_, cut)| match cut.cutting {
            Cutting::Parts(parts) => parts as f64,
            Cutting::Blocks(_) => 1.0,
        })
        .product()
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_machine::{ExecutionModel, Losses, System, find};

    /// Units of a machine whose software loses nothing.
    fn ideal(name: &str) -> (SpatialMachine, SpatialLosses) {
        let system: &System = find(name).expect("a built-in machine");
        let (ExecutionModel::Spatial(machine), Losses::Spatial(losses)) =
            (&system.model, system.before_calibration().losses_under(None))
        else {
            panic!("{name} is a spatial machine");
        };
        let losses = SpatialLosses {
            matrix_fraction: 1.0,
            vector_fraction: 1.0,
            memory_fraction: 1.0,
            placement_fraction: 1.0,
            ..losses
        };
        (machine.clone(), losses)
    }

    fn product(rows: f64, columns: f64, depth: f64) -> Product {
        Product { batch: 1.0, rows, columns, depth, positions: 1.0 }
    }

    fn work(product: Product, pieces: f64) -> StageWork {
        StageWork {
            product: Some(product),
            pieces,
            macs: 0.0,
            vector: 0.0,
            special: 0.0,
            elements: 0.0,
            bytes: 0.0,
            dtype: DType::BF16,
        }
    }

    #[test]
    fn a_product_takes_full_blocks() {
        let (machine, losses) = ideal("sn10");
        let units = Units { machine: &machine, losses: &losses, macs: 192.0 };
        let cycles = |p: Product, cores| stage_cycles(&work(p, 1.0), cores, &units).matrix;
        // 6 stages by 32 lanes of two elements, either way round.
        assert_eq!(cycles(product(6.0, 32.0, 10.0), 1), 10.0);
        assert_eq!(cycles(product(32.0, 6.0, 10.0), 1), 10.0);
        assert_eq!(cycles(product(7.0, 32.0, 10.0), 1), 20.0);
        assert_eq!(cycles(product(60.0, 320.0, 10.0), 1), 1000.0);
        assert_eq!(cycles(product(60.0, 320.0, 10.0), 64), 20.0, "100 blocks on 64 PCUs");
        assert_eq!(cycles(product(6.0, 32.0, 100.0), 4), 25.0, "four PCUs share a sum");
        let spent = stage_cycles(&work(product(7.0, 32.0, 10.0), 1.0), 1, &units);
        assert_eq!(spent.idle, 1.0 - 7.0 / 12.0);
    }

    #[test]
    fn all_pcus_on_large_blocks_reach_the_peak() {
        for name in ["sn10", "sn30", "sn40l"] {
            let (machine, losses) = ideal(name);
            let units = Units { machine: &machine, losses: &losses, macs: 192.0 };
            let large = product(6.0 * 1024.0, 32.0 * machine.pcus as f64, 512.0);
            let cycles = stage_cycles(&work(large, 1.0), machine.pcus, &units).total();
            let flops = 2.0 * large.macs() / cycles * machine.clock_hz;
            let peak = find(name).expect("built in").precisions[0].peak_flops();
            assert!((flops / peak - 1.0).abs() < 0.02, "{name}: {flops:e} of {peak:e}");
        }
    }

    #[test]
    fn more_units_are_never_slower_by_more_than_a_block() {
        let (machine, losses) = ideal("sn30");
        let units = Units { machine: &machine, losses: &losses, macs: 192.0 };
        let work = work(product(100.0, 1000.0, 768.0), 16.0);
        let mut before = f64::INFINITY;
        for cores in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] {
            let now = stage_cycles(&work, cores, &units).total();
            assert!(now <= before, "{cores} PCUs: {now} after {before}");
            before = now;
        }
    }

    #[test]
    fn operations_on_an_element_share_a_pass() {
        let (machine, losses) = ideal("sn10");
        let units = Units { machine: &machine, losses: &losses, macs: 192.0 };
        let vector = |operations: f64| {
            let work = StageWork {
                product: None,
                vector: operations * 3200.0,
                elements: 3200.0,
                ..work(product(1.0, 1.0, 1.0), 1.0)
            };
            stage_cycles(&work, 1, &units).vector
        };
        assert_eq!((vector(1.0), vector(6.0), vector(12.0)), (100.0, 100.0, 200.0));
    }
}
