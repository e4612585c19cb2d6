//! Stream machines: what one step of a static schedule costs.
//!
//! A step is one stream of vectors through the chip: out of memory, through the matrix unit or not, through the shape and
//! the vector unit, and back. All units on the way work at once, so the slowest of them decides how long the vectors take;
//! the first vector is on its way for as many cycles as there are hops, which comes on top. A step needs what the step
//! before has made, so steps follow one another. Weights that are known beforehand are brought to the planes while the
//! step before drains; those made in the run are not. No cost depends on data, and none varies.
//!
//! Left out: that a step may start on the first vectors of the step before where it needs no others; that movements other
//! than transpositions take more than reading and writing at other addresses; and how full the vectors of a value are that
//! does not come out of the planes.

use crate::contraction::Recurrence;
use crate::{Contraction, Measure, Product, Resource, StepCost, Target, slowest};
use orrery_base::Picoseconds;
use orrery_ir::{Bindings, Node, Op};
use orrery_machine::{Engine, Links, Precision, StreamLosses, StreamMachine};
use orrery_program::{BufferClass, BufferId, Program, Read, Step, StepKind};
use std::collections::BTreeMap;

/// The cost of a step.
pub fn cost(
    program: &Program,
    step: &Step,
    measure: &Measure,
    bindings: &Bindings,
    machine: &StreamMachine,
    losses: &StreamLosses,
    target: &Target<'_>,
) -> StepCost {
    let seconds = Picoseconds::from_seconds;
    let bytes = measure.total_read().max(measure.written_bytes);
    match step.kind {
        StepKind::View | StepKind::Load => after(0.0, Vec::new(), machine),
        StepKind::Host => {
            let time = machine.host_latency_seconds + bytes / machine.host_bandwidth;
            alone(Resource::HostLink, seconds(time))
        }
        StepKind::Stream | StepKind::Exchange if changes_chip(program, step) => {
            let time = target.system.links.link_latency_seconds
                + bytes / (machine.chip_bandwidth * target.system.links.link_fraction);
            alone(Resource::ChipLink, seconds(time))
        }
        StepKind::Stream | StepKind::Exchange => {
            let transposed = if first(step).is_some_and(|n| n.op == Op::Transpose) { bytes } else { 0.0 };
            let cycles = vec![
                (Resource::Shape, transposed / machine.transpose_bytes_per_cycle),
                (Resource::Stream, streams(measure, machine, losses)),
            ];
            let one = after(Way::new(machine).shape() / losses.transit_fraction, cycles, machine);
            side_by_side(one, chips(program, step, machine), measure, machine, &target.system.links)
        }
        StepKind::Compute => {
            let one = compute(program, step, measure, bindings, machine, losses, target);
            side_by_side(one, chips(program, step, machine), measure, machine, &target.system.links)
        }
    }
}

fn first(step: &Step) -> Option<&Node> {
    step.body.nodes.values().next()
}

/// True where a step brings data from one chip to another. What follows from extents is on the host and in the schedule.
fn changes_chip(program: &Program, step: &Step) -> bool {
    let home = |buffer: BufferId| program.buffers[buffer].home;
    let on_chip = |r: &&Read| program.memories[home(r.buffer)].bytes < u64::MAX;
    step.reads.iter().filter(on_chip).any(|r| step.writes.iter().any(|w| home(r.buffer) != home(w.buffer)))
}

/// Chips side by side that a step runs on: as many as make up the memory it writes to.
fn chips(program: &Program, step: &Step, machine: &StreamMachine) -> f64 {
    let bytes = step.writes.first().map(|w| program.memories[program.buffers[w.buffer].home].bytes);
    bytes.filter(|b| *b < u64::MAX).map_or(1.0, |b| (b / machine.sram_bytes.max(1)).max(1) as f64)
}

/// Chips that a program's values lie on.
pub fn chips_used(program: &Program, machine: &StreamMachine) -> u64 {
    let on_chip = program.memories.values().filter(|m| m.bytes < u64::MAX);
    on_chip.map(|m| (m.bytes / machine.sram_bytes.max(1)).max(1)).sum()
}

/// A step over several chips: each does an even share, gets all of what is read, and passes its share of what is made on.
fn side_by_side(
    cost: StepCost,
    chips: f64,
    measure: &Measure,
    machine: &StreamMachine,
    links: &Links,
) -> StepCost {
    if chips <= 1.0 {
        return cost;
    }
    let share = |(resource, time): (Resource, Picoseconds)| match resource {
        Resource::Transit => (resource, time),
        _ => (resource, Picoseconds::from_seconds(time.seconds() / chips)),
    };
    let read = measure.read_bytes.iter().filter(|(class, _)| *class != BufferClass::Parameter);
    let bytes = read.map(|(_, bytes)| bytes).sum::<f64>() + measure.written_bytes * (chips - 1.0) / chips;
    let passed = 2.0 * links.link_latency_seconds + bytes / (machine.chip_bandwidth * links.link_fraction);
    let mut resources: Vec<(Resource, Picoseconds)> = cost.resources.into_iter().map(share).collect();
    let transit = resources.iter().filter(|(r, _)| *r == Resource::Transit).map(|(_, t)| *t).sum();
    let units: Vec<_> = resources.iter().copied().filter(|(r, _)| *r != Resource::Transit).collect();
    let passed = Picoseconds::from_seconds(passed);
    let time = slowest(&units).1 + passed + transit;
    resources.push((Resource::ChipLink, passed));
    StepCost { time, bound: slowest(&resources).0, resources, ..cost }
}

fn alone(resource: Resource, time: Picoseconds) -> StepCost {
    StepCost { time, resources: vec![(resource, time)], bound: resource, ..StepCost::default() }
}

/// The cost of units that work at once after `transit` cycles.
fn after(transit: f64, cycles: Vec<(Resource, f64)>, machine: &StreamMachine) -> StepCost {
    let time = |cycles: f64| Picoseconds::from_cycles(cycles, machine.clock_hz);
    // What a step asks of a unit for several reasons, the unit does one after the other.
    let mut of_unit: BTreeMap<Resource, f64> = BTreeMap::new();
    for (resource, cycles) in cycles.into_iter().filter(|(_, c)| *c > 0.0) {
        *of_unit.entry(resource).or_default() += cycles;
    }
    let mut resources: Vec<(Resource, Picoseconds)> =
        of_unit.into_iter().map(|(r, c)| (r, time(c))).collect();
    let (_, longest) = slowest(&resources);
    let transit = time(transit);
    resources.push((Resource::Transit, transit));
    StepCost { time: longest + transit, bound: slowest(&resources).0, resources, ..StepCost::default() }
}

/// Cycles of the streams for what a step reads and writes; weights come to the planes by streams of their own.
fn streams(measure: &Measure, machine: &StreamMachine, losses: &StreamLosses) -> f64 {
    let read = measure.read_bytes.iter().filter(|(class, _)| *class != BufferClass::Parameter);
    let bytes = read.map(|(_, bytes)| bytes).sum::<f64>() + measure.written_bytes;
    let rate = machine.stream_bytes_per_cycle.min(machine.memory_bytes_per_cycle);
    bytes / (rate * losses.stream_fraction)
}

fn compute(
    program: &Program,
    step: &Step,
    measure: &Measure,
    bindings: &Bindings,
    machine: &StreamMachine,
    losses: &StreamLosses,
    target: &Target<'_>,
) -> StepCost {
    let way = Way::new(machine);
    let followers = step.body.nodes.len().saturating_sub(1) as f64;
    let reductions: f64 = step.body.nodes.values().map(lane_reductions).sum();
    let mut transit = way.vector(1.0 + followers) + reductions * way.reduction();
    let mut cycles = vec![(Resource::Stream, streams(measure, machine, losses))];
    let mut vector = measure.vector;
    let mut idle_slots = 0.0;
    if measure.macs > 0.0 {
        let products = products(step, measure);
        let bytes = operand_bytes(program, step, measure);
        let (macs, has_planes) = plane_rate(bytes, target);
        let mut passes = Passes::default();
        for product in &products {
            passes.add(&matrix_passes(product, bytes, machine, losses, macs));
        }
        // The planes multiply what they have a format for. Other formats, and sums that stay within a lane (depthwise
        // convolutions), for which a plane would be all but empty, go through the vector unit: two operations a MAC.
        let on_vector = 2.0 * measure.macs / (machine.vector_alus * losses.vector_fraction);
        let within_lanes = products.iter().all(|p| p.depth <= 1.0);

        let on_planes = has_planes && !(within_lanes && on_vector < passes.longest());
        if let Some(recurrence) = Recurrence::of(program, step, bindings) {
            let one = recurrent_passes(&recurrence, bytes, machine, losses, macs);
            cycles.push((Resource::Matrix, one.matrix * recurrence.turns));
            cycles.push((Resource::Install, one.install));
            // Each turn needs what the turn before has made.
            transit = way.matrix(RECURRENT_OPERATIONS) * recurrence.turns;
        } else if products.is_empty() {
            let rate = macs * machine.matrix_planes as f64 * losses.matrix_fraction;
            cycles.push((Resource::Matrix, measure.macs / rate));
            transit = way.matrix(followers);
        } else if on_planes {
            cycles.push((Resource::Matrix, passes.matrix));
            cycles.push((Resource::Install, passes.install));
            cycles.push((Resource::Shape, passes.shift));
            let slots = passes.matrix * macs * machine.matrix_planes as f64;
            idle_slots = (1.0 - measure.macs / slots.max(1.0)).max(0.0);
            transit = way.matrix(followers) * products.len() as f64 + reductions * way.reduction();
            if let [scores, _] = &products[..] {
                // Keys lie as they were made, a key to a vector, and go into the planes the other way round.
                let keys = scores.batch * scores.columns * scores.depth * bytes;
                cycles.push((Resource::Shape, keys / machine.transpose_bytes_per_cycle));
                transit += way.shape();
            }
            if made_in_the_run(program, step) {
                transit += passes.first_install * products.len() as f64;
            }
            // Results leave the planes in whole vectors, full or not.
            let columns = products[products.len() - 1].columns;
            let outputs = machine.plane_outputs as f64;
            vector *= (columns / outputs).ceil().max(1.0) * outputs / columns.max(1.0);
        } else {
            vector += 2.0 * measure.macs;
        }
    }
    let alus = machine.vector_alus * losses.vector_fraction;
    cycles.push((Resource::Vector, vector / alus));
    cycles.push((Resource::Special, measure.special / (machine.special_functions * losses.vector_fraction)));
    if reductions > 0.0 {
        // In fp32, as the vector unit sums.
        let elements = reduced_elements(step, measure);
        let bytes = reductions * elements * 4.0;
        cycles.push((Resource::Shape, bytes / machine.transpose_bytes_per_cycle));
    }
    StepCost { idle_slots, ..after(transit / losses.transit_fraction, cycles, machine) }
}

/// Vector operations from the sums of a recurrent cell to its new state, one after the other.
const RECURRENT_OPERATIONS: f64 = 6.0;

/// Of one turn of a recurrent layer; but the weights of all turns, which stay in the planes where they fit.
fn recurrent_passes(
    layer: &Recurrence,
    bytes: f64,
    machine: &StreamMachine,
    losses: &StreamLosses,
    macs: f64,
) -> Passes {
    let one = matrix_passes(&layer.product, bytes, machine, losses, macs);
    let held = machine.matrix_planes as f64 * machine.plane_inputs as f64 * machine.plane_outputs as f64;
    let stays = layer.product.depth * layer.product.columns * layer.product.batch * bytes <= held;
    Passes { install: one.install * if stays { 1.0 } else { layer.turns }, ..one }
}

/// Bytes of an element of what a step multiplies.
fn operand_bytes(program: &Program, step: &Step, measure: &Measure) -> f64 {
    let numbers = first(step).and_then(Contraction::operands).unwrap_or([0, 1]);
    let read = numbers.iter().filter_map(|number| step.reads.get(*number));
    let bits = read.map(|r| program.buffers[r.buffer].dtype.bits()).max();
    bits.unwrap_or(measure.dtype.bits()) as f64 / 8.0
}

/// MACs of a plane in elements of that size, and whether planes have a format for them: the one compiled for, or another
/// of that size where a quantised model has some of its products in it.
fn plane_rate(bytes: f64, target: &Target<'_>) -> (f64, bool) {
    let fits = |p: &&Precision| p.engine == Engine::Matrix && p.storage.bits() as f64 == bytes * 8.0;
    let found = Some(target.precision).filter(fits).or_else(|| target.system.precisions.iter().find(fits));
    (found.unwrap_or(target.precision).macs(), found.is_some())
}

/// Elements that a reduction over lanes goes through: scores of an attention, or what the step reads.
fn reduced_elements(step: &Step, measure: &Measure) -> f64 {
    if let (Some(Op::Attention), [scores, _]) = (first(step).map(|n| n.op), &products(step, measure)[..]) {
        return scores.batch * scores.rows * scores.columns;
    }
    let read = measure.read_bytes.iter().filter(|(class, _)| *class != BufferClass::Parameter);
    read.map(|(_, bytes)| bytes * 8.0 / measure.dtype.bits() as f64).sum()
}

/// The products that a step is made of: for attention, scores and mixing.
fn products(step: &Step, measure: &Measure) -> Vec<Product> {
    let Some(product) = measure.product else { return Vec::new() };
    if first(step).is_some_and(|n| n.op == Op::Attention) {
        let (keys, size) = (product.columns, product.depth / 2.0);
        return vec![
            Product { columns: keys, depth: size, ..product },
            Product { columns: size, depth: keys, ..product },
        ];
    }
    vec![product]
}

/// True where the operand that is installed in the planes is no parameter.
fn made_in_the_run(program: &Program, step: &Step) -> bool {
    let installed = step.reads.get(1);
    installed.is_some_and(|r| program.buffers[program.storage(r.buffer)].class != BufferClass::Parameter)
}

/// How often an op combines the lanes of a vector: each time the vectors are transposed within their superlanes, added
/// up, and passed between superlanes in halves.
fn lane_reductions(node: &Node) -> f64 {
    match node.op {
        Op::Softmax
        | Op::LogSoftmax
        | Op::Attention
        | Op::LayerNormalization
        | Op::InstanceNormalization
        | Op::GroupNormalization
        | Op::MeanVarianceNormalization
        | Op::SoftmaxCrossEntropyLoss => 2.0,
        Op::RMSNormalization
        | Op::LpNormalization
        | Op::LRN
        | Op::Hardmax
        | Op::ReduceSum
        | Op::ReduceMean
        | Op::ReduceMax
        | Op::ReduceMin
        | Op::ReduceProd
        | Op::ReduceL1
        | Op::ReduceL2
        | Op::ReduceLogSum
        | Op::ReduceLogSumExp
        | Op::ReduceSumSquare
        | Op::ArgMax
        | Op::ArgMin
        | Op::TopK => 1.0,
        _ => 0.0,
    }
}

/// Cycles of a vector from unit to unit. From the middle: vector unit, memory slices, shape unit, matrix unit at the edge;
/// the same to either side. Data lie anywhere in the slices, so a way from or to memory is half a hemisphere on average.
struct Way<'a> {
    machine: &'a StreamMachine,
    /// Hops through all slices of a hemisphere.
    hemisphere: f64,
}

impl<'a> Way<'a> {
    fn new(machine: &'a StreamMachine) -> Self {
        Self { machine, hemisphere: machine.memory_slices as f64 / 2.0 }
    }
    /// Out of memory and into it, to the last superlane.
    fn ends(&self) -> f64 {
        2.0 * self.machine.memory_latency_cycles + self.machine.superlane_stagger_cycles
    }
    /// Memory, so many vector operations, memory.
    fn vector(&self, operations: f64) -> f64 {
        self.ends() + self.hemisphere + operations * self.machine.vector_latency_cycles
    }
    /// Memory, shape unit, memory.
    fn shape(&self) -> f64 {
        self.ends() + self.hemisphere + self.machine.shape_latency_cycles
    }
    /// Memory, matrix unit, so many vector operations, memory.
    fn matrix(&self, operations: f64) -> f64 {
        self.ends()
            + 2.0 * self.hemisphere
            + self.machine.matrix_latency_cycles
            + operations * self.machine.vector_latency_cycles
    }
    /// From the vector unit to the shape unit and back: once transposed, then once for each halving of the superlanes.
    /// What waits for the result goes to memory and comes back.
    fn reduction(&self) -> f64 {
        let turns = 1.0 + (self.machine.superlanes as f64).log2().ceil();
        let turn =
            2.0 * self.hemisphere + self.machine.shape_latency_cycles + self.machine.vector_latency_cycles;
        turns * turn + self.vector(1.0)
    }
}

/// Cycles of the units that a product goes through at once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Passes {
    /// Vectors through the planes.
    pub matrix: f64,
    /// Weights into the planes.
    pub install: f64,
    /// Vectors put together by the shape units.
    pub shift: f64,
    /// Of the first weights.
    pub first_install: f64,
}

impl Passes {
    fn longest(&self) -> f64 {
        self.matrix.max(self.install).max(self.shift)
    }
    fn add(&mut self, other: &Self) {
        self.matrix += other.matrix;
        self.install += other.install;
        self.shift += other.shift;
        self.first_install = self.first_install.max(other.first_install);
    }
}

/// What a product takes on the planes, `macs` being what one plane does a cycle in elements of `bytes`.
///
/// Planes side by side make a group, one for each byte of an element. A block of weights, as large as a plane, is
/// installed in a group and every row streams through it. Sums over several blocks stay in the accumulators. A
/// convolution is a sum over the positions of its kernel, which are taken one by one, a kernel row at a time, or all at
/// once, where the shape units put the shorter pieces together; whatever is fastest. Where there are fewer blocks than
/// groups, groups hold the same block and share the rows.
pub fn matrix_passes(
    product: &Product,
    bytes: f64,
    machine: &StreamMachine,
    losses: &StreamLosses,
    macs: f64,
) -> Passes {
    let (inputs, outputs) = (machine.plane_inputs as f64, machine.plane_outputs as f64);
    let groups = (machine.matrix_planes as f64 / bytes.max(1.0)).floor().max(1.0);
    let vectors_per_cycle =
        macs * losses.matrix_fraction * machine.matrix_planes as f64 / (groups * inputs * outputs);
    let positions = product.positions.max(1.0);
    let kernel_rows = positions.sqrt().ceil();
    let run = (positions / kernel_rows) * product.depth;
    // Blocks along the sum, and pieces that a row of the product is shifted together from.
    let mut ways = vec![(positions * (product.depth / inputs).ceil(), 0.0)];
    if positions > 1.0 {
        ways.push((kernel_rows * (run / inputs).ceil(), kernel_rows * (run / inputs).ceil()));
        let depth = positions * product.depth;
        ways.push(((depth / inputs).ceil(), kernel_rows * (run / inputs).ceil()));
    }
    let mut best = None::<Passes>;
    for (along, pieces) in ways {
        let blocks = product.batch.max(1.0) * along * (product.columns / outputs).ceil();
        let rows_installed = positions * product.depth / along;
        let install = rows_installed * outputs * bytes / machine.install_bytes_per_cycle;
        let shift =
            product.batch.max(1.0) * product.rows * pieces * inputs * bytes / machine.shift_bytes_per_cycle;
        let in_turn = Passes {
            matrix: (blocks / groups).ceil() * product.rows / vectors_per_cycle,
            install: blocks * install,
            shift,
            first_install: install * groups,
        };
        let shared = Passes {
            matrix: blocks * (product.rows / groups).ceil() / vectors_per_cycle,
            install: blocks * groups * install,
            ..in_turn
        };
        for passes in [in_turn, shared] {
            if best.is_none_or(|best| passes.longest() < best.longest()) {
                best = Some(passes);
            }
        }
    }
    best.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_machine::{ExecutionModel, Losses, registry};

    fn chip() -> (StreamMachine, StreamLosses) {
        let groq = registry::find("groqchip").expect("a built-in machine");
        match (&groq.model, groq.before_calibration().losses_under(None)) {
            (ExecutionModel::Stream(machine), Losses::Stream(losses)) => (machine.clone(), losses),
            _ => panic!("a machine of streams"),
        }
    }

    fn product(batch: f64, rows: f64, depth: f64, columns: f64, positions: f64) -> Product {
        Product { batch, rows, columns, depth, positions }
    }

    fn passes(product: &Product, bytes: f64) -> Passes {
        let (machine, losses) = chip();
        let macs = if bytes > 1.0 { 25_600.0 } else { 102_400.0 };
        matrix_passes(product, bytes, &machine, &losses, macs)
    }

    #[test]
    fn full_planes_take_the_peak_and_a_quarter_of_it_in_fp16() {
        // Four full blocks, a row a cycle in each; 40 cycles to install all.
        let full = product(1.0, 1000.0, 640.0, 640.0, 1.0);
        let int8 = passes(&full, 1.0);
        assert_eq!((int8.matrix, int8.install, int8.shift), (1000.0, 40.0, 0.0));
        // Two planes side by side hold a block, of which there are two, at half a row a cycle.
        let fp16 = passes(&full, 2.0);
        assert_eq!((fp16.matrix, fp16.install), (4000.0, 80.0));
        assert_eq!(full.macs() / int8.matrix, 409_600.0);
        assert_eq!(full.macs() / fp16.matrix, 102_400.0);
    }

    #[test]
    fn what_does_not_fill_a_plane_takes_as_long_as_what_does() {
        let small = passes(&product(1.0, 800.0, 64.0, 64.0, 1.0), 1.0);
        let full = passes(&product(1.0, 800.0, 320.0, 320.0, 1.0), 1.0);
        assert_eq!(small.matrix, full.matrix);
        // One block in all four planes, a quarter of the rows through each.
        assert_eq!(full.matrix, 200.0);
        assert_eq!(passes(&product(1.0, 800.0, 321.0, 320.0, 1.0), 1.0).matrix, 400.0);
    }

    #[test]
    fn one_row_is_bound_by_installing_weights() {
        let one = passes(&product(1.0, 1.0, 3200.0, 3200.0, 1.0), 2.0);
        assert_eq!(one.install, 3200.0 * 3200.0 * 2.0 / 10_240.0);
        assert!(one.install > 10.0 * one.matrix, "{one:?}");
    }

    #[test]
    fn kernel_positions_are_taken_singly_or_shifted_together() {
        // 320 channels fill a plane at each of nine positions: nothing to gain from shifting.
        let wide = passes(&product(1.0, 3136.0, 320.0, 320.0, 9.0), 2.0);
        assert_eq!((wide.matrix, wide.shift), (9.0 * 3136.0, 0.0));
        // Of 64 channels a row of three positions goes in together, as fast as it is shifted together.
        let narrow = passes(&product(1.0, 3136.0, 64.0, 64.0, 9.0), 2.0);
        assert_eq!((narrow.matrix, narrow.shift), (3.0 * 3136.0, 3.0 * 3136.0));
    }

    #[test]
    fn ways_through_the_chip() {
        let (machine, _) = chip();
        let way = Way::new(&machine);
        // Read, write and 20 superlanes; 22 hops to the vector unit and 22 back; one operation.
        assert_eq!(way.vector(1.0), 2.0 * 5.0 + 20.0 + 44.0 + 4.0);
        // To the edge on average 22, the planes, 44 back to the middle, 22 into memory.
        assert_eq!(way.matrix(0.0), 2.0 * 5.0 + 20.0 + 22.0 + 20.0 + 44.0 + 22.0);
        // 20 superlanes halve five times, after one transposition within them; 88 hops there and back each.
        assert_eq!(way.reduction(), 6.0 * (88.0 + 16.0 + 4.0) + way.vector(1.0));
    }

    #[test]
    fn units_at_work_at_once_take_as_long_as_the_slowest() {
        let (machine, _) = chip();
        let cycles = vec![(Resource::Matrix, 900.0), (Resource::Vector, 400.0), (Resource::Shape, 0.0)];
        let cost = after(90.0, cycles, &machine);
        assert_eq!(cost.time, Picoseconds::from_seconds(1.1e-6));
        assert_eq!(cost.bound, Resource::Matrix);
        assert_eq!(cost.resources.len(), 3, "a unit without work is not listed: {cost:?}");
        assert_eq!(after(1000.0, vec![(Resource::Vector, 400.0)], &machine).bound, Resource::Transit);
    }

    #[test]
    fn chips_side_by_side_share_the_work_and_pass_what_they_make() {
        let (machine, _) = chip();
        let links = &registry::find("groqchip").expect("a built-in machine").links;
        let one = after(90.0, vec![(Resource::Matrix, 90_000.0)], &machine);
        let measure = Measure {
            product: None,
            attention: None,
            recurrence: None,
            part: None,
            parts: 1.0,
            depth_parts: 1.0,
            macs: 0.0,
            vector: 0.0,
            special: 0.0,
            read_bytes: vec![(BufferClass::Scratch, 1e6), (BufferClass::Parameter, 1e9)],
            written_bytes: 2e6,
            part_read_bytes: 0.0,
            part_written_bytes: 0.0,
            block_out_bytes: 0.0,
            block_in_bytes: 0.0,
            shared_in_bytes: 0.0,
            largest_share: 1.0,
            part_arriving: 0.0,
            reach: 0.0,
            span: 0.0,
            shared: false,
            dtype: orrery_numerics::DType::F16,
        };
        assert_eq!(side_by_side(one.clone(), 1.0, &measure, &machine, links), one);
        let two = side_by_side(one, 2.0, &measure, &machine, links);
        let wanted = 50e-6 + 0.1e-6 + 2.0 * links.link_latency_seconds + 2e6 / 5e10;
        assert!((two.time.seconds() / wanted - 1.0).abs() < 1e-6, "{two:?}");
    }
}
