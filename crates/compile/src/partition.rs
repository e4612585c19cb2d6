//! How an op is cut over the tiles of a bulk-synchronous machine: by cost.
//!
//! Every way to cut the axes into a few sizes of part is tried; a part costs what its tile receives, computes and, where
//! a sum is cut, passes on. The same functions cost the finished step. Ways that a lower bound rules out are not priced,
//! which changes no choice.

use orrery_cost::Contraction;
use orrery_cost::bulk_synchronous::{exchange_cycles, product_cycles, vector_cycles};
use orrery_ir::op::Access;
use orrery_machine::{BspLosses, BspMachine};
use orrery_numerics::DType;

/// One axis that can be cut.
#[derive(Clone, Debug)]
pub struct Axis {
    /// Length.
    pub extent: i64,
    /// True where parts make partial results.
    pub reduce: bool,
}

/// One operand: the access and length of each dimension, and bits an element.
#[derive(Clone, Debug)]
pub struct Operand {
    /// Dimensions.
    pub dims: Vec<(Access, i64)>,
    /// Bits an element.
    pub bits: f64,
}

impl Operand {
    /// Bytes that a part needs when the parts of the axes have these lengths.
    pub(crate) fn bytes(&self, part: &[i64]) -> f64 {
        let extent = |(access, extent): &(Access, i64)| match access {
            Access::Whole => *extent as f64,
            Access::Along { axis, scale } => part[*axis] as f64 * scale.known().unwrap_or(1) as f64,
            Access::Window { axis, stride, reach, .. } => ((part[*axis] - 1) * stride + reach) as f64,
        };
        self.dims.iter().map(extent).product::<f64>() * self.bits / 8.0
    }
    fn follows(&self, axis: usize) -> bool {
        self.dims.iter().any(|(access, _)| access.axis() == Some(axis))
    }
}

/// What is to be cut.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Axes.
    pub axes: Vec<Axis>,
    /// Operands that must be brought to the parts.
    pub operands: Vec<Operand>,
    /// Results.
    pub results: Vec<Operand>,
    /// How a matrix unit does the work, where one does.
    pub matrix: Option<Contraction>,
    /// Whether what parts make along the axes that are summed over can be added up.
    pub sums: bool,
    /// The axis that can be summed in turns, one stretch after the other, where there is one.
    pub turned: Option<usize>,
    /// Multiply-accumulates.
    pub macs: f64,
    /// Simple vector operations.
    pub vector: f64,
    /// Special functions.
    pub special: f64,
    /// Type of the operands.
    pub dtype: DType,
}

impl Problem {
    /// True for operands that are summed over; others are taken by what follows on the sum.
    pub(crate) fn is_summed(&self, operand: &Operand) -> bool {
        (0..self.axes.len()).any(|axis| self.axes[axis].reduce && operand.follows(axis))
    }
}

/// A way to cut.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Parts of each axis.
    pub parts: Vec<u64>,
    /// What it costs, and how it is laid out.
    pub price: Price,
}

impl Choice {
    /// Lengths of the largest part.
    pub(crate) fn blocks(&self, problem: &Problem) -> Vec<i64> {
        problem.axes.iter().zip(&self.parts).map(|(a, &p)| ceil_div(a.extent, p as i64)).collect()
    }
}

/// What a way to cut costs, at its best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Price {
    /// Cycles of exchange, computing and summing.
    pub cycles: f64,
    /// Bytes on the fullest tile for operands and results.
    pub bytes: f64,
    /// Turns in which the sum is taken: the operands of one stretch are on the tiles at a time.
    pub turns: u64,
    /// Length of a turn in a part.
    pub turn: i64,
    /// The axis whose parts lie on neighbouring tiles, where it matters: neighbours that receive the same data receive
    /// them at double rate.
    pub inner: Option<usize>,
}

/// Most sizes of part that are tried for one axis.
const SIZES: usize = 14;
/// Numbers of turns that are tried.
const TURNS: [u64; 11] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64];

/// Which axis lies on neighbouring tiles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Inner {
    /// The one with which least is received.
    Best,
    /// This one, or none.
    Fixed(Option<usize>),
}

/// The machine as the search needs it.
pub struct Tiles<'a> {
    /// The machine.
    pub machine: &'a BspMachine,
    /// Its losses.
    pub losses: &'a BspLosses,
    /// MACs a cycle of a tile.
    pub macs: f64,
    /// Bytes of a tile that one step may take.
    pub budget: f64,
}

impl Tiles<'_> {
    /// The cheapest way to cut that fits the budget; where none fits, the one that takes least memory.
    pub fn choose(&self, problem: &Problem) -> Choice {
        let matrix = problem.matrix.is_some();
        let sizes: Vec<Vec<Size>> =
            problem.axes.iter().map(|axis| candidates(axis, self.machine, matrix, problem.sums)).collect();
        let axes = problem.axes.len();
        let mut search = Search {
            tiles: self,
            problem,
            sizes,
            parts: vec![1; axes],
            blocks: problem.axes.iter().map(|axis| axis.extent).collect(),
            best: None,
        };
        search.go(0, self.machine.tiles, 1.0, false);
        search.best.expect("one part of everything is always tried")
    }

    /// What a way to cut costs.
    pub fn price(&self, problem: &Problem, parts: &[u64], inner: Inner) -> Price {
        let blocks: Vec<i64> =
            problem.axes.iter().zip(parts).map(|(a, &p)| ceil_div(a.extent, p as i64)).collect();
        self.price_blocks(problem, parts, &blocks, inner)
    }

    fn phase(&self, bytes: f64) -> f64 {
        exchange_cycles(bytes, self.machine, self.losses) + self.machine.sync_cycles
    }

    fn price_blocks(&self, problem: &Problem, parts: &[u64], blocks: &[i64], inner: Inner) -> Price {
        let splits: f64 =
            problem.axes.iter().zip(parts).filter(|(a, _)| a.reduce).map(|(_, &p)| p as f64).product();
        let made: f64 = problem.results.iter().map(|o| o.bytes(blocks)).sum();
        let (mut once, mut in_turns) = (0.0, 0.0);
        for operand in &problem.operands {
            let bytes = operand.bytes(blocks);
            match problem.turned {
                Some(axis) if operand.follows(axis) => in_turns += bytes,
                _ => once += bytes,
            }
        }
        let received = once + in_turns;
        let unit = self.unit(problem, blocks);
        let most = problem.turned.map_or(1, |axis| ceil_div(blocks[axis].max(1), unit) as u64);
        // The share of the operands of all turns that is on the tiles at a time.
        let at_a_time = |turns: u64| {
            problem
                .turned
                .map_or(1.0, |axis| stretch(blocks[axis], turns, unit) as f64 / blocks[axis].max(1) as f64)
        };
        let fits = |turns: u64| once + in_turns * at_a_time(turns) + made <= self.budget;
        let possible = || TURNS.iter().copied().filter(|turns| *turns <= most);
        let turns = possible().find(|turns| fits(*turns)).or(possible().next_back()).unwrap_or(1);
        // Neighbours share what does not follow the axis along which they lie.
        let shared = |axis: usize| -> f64 {
            if !parts[axis].is_multiple_of(self.machine.exchange_tiles_per_bus.max(1))
                || problem.axes[axis].reduce
            {
                return 0.0;
            }
            let twice = problem.operands.iter().filter(|o| !o.follows(axis)).map(|o| o.bytes(blocks));
            twice.sum::<f64>() * (1.0 - 1.0 / self.machine.exchange_tiles_per_bus.max(1) as f64)
        };
        let (inner, saved) = match inner {
            Inner::Fixed(axis) => (axis, axis.map_or(0.0, shared)),
            Inner::Best => {
                (0..blocks.len()).filter(|&axis| parts[axis] > 1).fold((None, 0.0), |best, axis| {
                    let saved = shared(axis);
                    if saved > best.1 { (Some(axis), saved) } else { best }
                })
            }
        };
        let each = (received - saved) / turns as f64;
        let mut cycles = self.phase(each) * turns as f64;
        if let Some(contraction) = &problem.matrix {
            let extents: Vec<f64> = problem.axes.iter().map(|a| a.extent as f64).collect();
            let mut part: Vec<f64> = blocks.iter().map(|&p| p as f64).collect();
            if let Some(axis) = problem.turned {
                part[axis] = stretch(blocks[axis], turns, unit) as f64;
            }
            let product = contraction.product(problem.macs, &extents, &part);
            cycles +=
                turns as f64 * product_cycles(&product, problem.dtype, self.machine, self.losses, self.macs);
        }
        let share: f64 =
            problem.axes.iter().zip(blocks).map(|(a, &p)| p as f64 / (a.extent.max(1)) as f64).product();
        let (vector, special) = vector_cycles(
            problem.vector * share,
            problem.special * share,
            problem.dtype,
            self.machine,
            self.losses,
        );
        cycles += vector + special;
        if splits > 1.0 {
            // Every tile sums its share of the output over all parts.
            let elements = made * 8.0 / problem.dtype.bits() as f64;
            let (adding, _) = vector_cycles(elements, 0.0, problem.dtype, self.machine, self.losses);
            cycles += self.phase(made) + adding;
        }
        let turn = problem.turned.map_or(0, |axis| stretch(blocks[axis], turns, unit));
        // Partial results lie beside those that came from the others, which are as many.
        let bytes = once + in_turns * at_a_time(turns) + made;
        let bytes = if splits > 1.0 { bytes.max(2.0 * made) } else { bytes };
        Price { cycles, bytes, turns, turn, inner }
    }

    /// Elements along the axis of turns with which those of the other axes of a part fill what the matrix unit takes of a sum
    /// at a time; one where it does not do the work.
    fn unit(&self, problem: &Problem, blocks: &[i64]) -> i64 {
        let machine = self.machine;
        let inputs = match (&problem.matrix, problem.dtype.bits() <= 16) {
            (None, _) => 1,
            (Some(_), true) => machine.matrix_block_inputs_fp16,
            (Some(_), false) => machine.matrix_block_inputs_fp32,
        };
        let others = (0..blocks.len()).filter(|&i| problem.axes[i].reduce && Some(i) != problem.turned);
        let others: i64 = others.map(|i| blocks[i].max(1)).fold(1, i64::saturating_mul);
        ceil_div(i64::try_from(inputs).unwrap_or(1).max(1), others)
    }
}

/// The length of a turn of a sum of `length` elements, of which `unit` are taken at a time.
fn stretch(length: i64, turns: u64, unit: i64) -> i64 {
    let even = ceil_div(length, i64::try_from(turns).unwrap_or(i64::MAX).max(1));
    (ceil_div(even, unit) * unit).min(length)
}

/// A number of parts and the length of the largest.
#[derive(Clone, Copy, Debug)]
struct Size {
    parts: u64,
    block: i64,
}

struct Search<'a> {
    tiles: &'a Tiles<'a>,
    problem: &'a Problem,
    /// For each axis, most parts first.
    sizes: Vec<Vec<Size>>,
    parts: Vec<u64>,
    blocks: Vec<i64>,
    best: Option<Choice>,
}

impl Search<'_> {
    /// Tries all sizes of `axis` and those after it on `left` tiles. `share` is the part of the work that the sizes chosen
    /// so far leave to a tile; `summed` says that a sum is cut already, which is done along one axis only.
    fn go(&mut self, axis: usize, left: u64, share: f64, summed: bool) {
        let problem = self.problem;
        if axis == problem.axes.len() {
            let price = self.tiles.price_blocks(problem, &self.parts, &self.blocks, Inner::Best);
            let budget = self.tiles.budget;
            let better = self.best.as_ref().is_none_or(|best| {
                match (price.bytes <= budget, best.price.bytes <= budget) {
                    (true, false) => true,
                    (false, true) => false,
                    (true, true) => price.cycles < best.price.cycles,
                    (false, false) => price.bytes < best.price.bytes,
                }
            });
            if better {
                self.best = Some(Choice { parts: self.parts.clone(), price });
            }
            return;
        }
        let Axis { extent, reduce } = problem.axes[axis];
        let bound_to = reduce && summed;
        for i in 0..self.sizes[axis].len() {
            let Size { parts, block } = self.sizes[axis][i];
            if parts > left || bound_to && parts > 1 {
                continue;
            }
            (self.parts[axis], self.blocks[axis]) = (parts, block);
            let share = share * block as f64 / extent.max(1) as f64;
            if !self.ruled_out(axis + 1, left / parts, share) {
                self.go(axis + 1, left / parts, share, summed || reduce && parts > 1);
            }
        }
        (self.parts[axis], self.blocks[axis]) = (1, extent);
    }

    /// True where nothing that the axes from `axis` on could be cut into can beat the best so far: not even with each of
    /// them as fine as all tiles that are left allow, perfect sharing and full rates.
    fn ruled_out(&mut self, axis: usize, left: u64, share: f64) -> bool {
        let budget = self.tiles.budget;
        let Some(best) = self.best.as_ref().map(|best| best.price) else { return false };
        if best.bytes > budget {
            return false;
        }
        for later in axis..self.blocks.len() {
            let finest = self.sizes[later].iter().find(|size| size.parts <= left);
            self.blocks[later] = finest.map_or(self.problem.axes[later].extent, |size| size.block);
        }
        let Self { tiles, problem, blocks, .. } = self;
        let bytes: f64 = problem.operands.iter().map(|o| o.bytes(blocks)).sum();
        let received = bytes / tiles.machine.exchange_tiles_per_bus.max(1) as f64;
        let least = share / left as f64;
        let mut cycles = tiles.phase(received);
        if problem.matrix.is_some() {
            cycles += problem.macs * least / (tiles.macs * tiles.losses.matrix_fraction);
        }
        let work = (problem.vector * least, problem.special * least);
        let (vector, special) = vector_cycles(work.0, work.1, problem.dtype, tiles.machine, tiles.losses);
        cycles + vector + special >= best.cycles
    }
}

fn ceil_div(a: i64, b: i64) -> i64 {
    (a + b - 1) / b.max(1)
}

/// Numbers of parts worth trying, most first: each gives another largest part, spread evenly on a logarithmic scale. For a
/// matrix unit, parts longer than the block that it takes are whole blocks.
fn candidates(axis: &Axis, machine: &BspMachine, matrix: bool, sums: bool) -> Vec<Size> {
    let tiles = machine.tiles;
    let extent = u64::try_from(axis.extent).unwrap_or(0).max(1);
    let size = |parts: u64| Size { parts, block: ceil_div(axis.extent, parts as i64) };
    if axis.reduce && !sums {
        return vec![size(1)];
    }
    let most = extent.min(tiles);
    let mut all = Vec::new();
    let mut parts = 1;
    while parts <= most {
        all.push(parts);
        // The next number of parts that makes the largest part smaller.
        let block = extent.div_ceil(parts);
        if block == 1 {
            break;
        }
        parts = extent.div_ceil(block - 1);
    }
    if all.len() > SIZES {
        let last = all.len() - 1;
        let mut picked: Vec<u64> = (0..SIZES)
            .map(|i| {
                let wanted = (most as f64).powf(i as f64 / (SIZES - 1) as f64);
                all[all.partition_point(|&p| (p as f64) < wanted).min(last)]
            })
            .collect();
        if matrix {
            let unit = machine.matrix_block_outputs.max(1);
            for parts in &mut picked {
                let block = extent.div_ceil(*parts);
                if block > unit {
                    *parts = extent.div_ceil(block.next_multiple_of(unit));
                }
            }
        }
        picked.dedup();
        all = picked;
    }
    all.into_iter().rev().map(size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_machine::{ExecutionModel, Losses, registry};

    /// Prices every way to cut, with nothing ruled out.
    fn by_trying_all(tiles: &Tiles<'_>, problem: &Problem) -> (f64, f64) {
        let sizes: Vec<Vec<Size>> = problem
            .axes
            .iter()
            .map(|a| candidates(a, tiles.machine, problem.matrix.is_some(), true))
            .collect();
        let mut best = (f64::INFINITY, f64::INFINITY);
        let count: usize = sizes.iter().map(Vec::len).product();
        for mut number in 0..count {
            let parts: Vec<u64> = sizes
                .iter()
                .map(|sizes| {
                    let at = number % sizes.len();
                    number /= sizes.len();
                    sizes[at].parts
                })
                .collect();
            let cut_sums = problem.axes.iter().zip(&parts).filter(|(a, p)| a.reduce && **p > 1).count();
            if parts.iter().product::<u64>() <= tiles.machine.tiles && cut_sums <= 1 {
                let price = tiles.price(problem, &parts, Inner::Best);
                if price.bytes <= tiles.budget {
                    best.0 = best.0.min(price.cycles);
                }
                best.1 = best.1.min(price.bytes);
            }
        }
        best
    }

    fn product(batch: i64, m: i64, n: i64, k: i64, dtype: DType) -> Problem {
        use orrery_cost::contraction;
        let axis = |extent, reduce| Axis { extent, reduce };
        let axes = vec![axis(batch, false), axis(m, false), axis(n, false), axis(k, true)];
        let dims = |axes: [usize; 3]| -> Vec<Access> { axes.map(Access::along).to_vec() };
        let shapes = [[batch, m, k], [batch, k, n], [batch, m, n]];
        let accesses = [dims([0, 1, 3]), dims([0, 3, 2]), dims([0, 1, 2])];
        let operand = |i: usize| Operand {
            dims: accesses[i].iter().cloned().zip(shapes[i]).collect(),
            bits: dtype.bits() as f64,
        };
        let of = |i: usize| contraction::Operand { access: accesses[i].clone(), extents: shapes[i].to_vec() };
        let mut graph = orrery_ir::Graph::new("");
        let node = graph.add_node(orrery_ir::Op::MatMul, "", vec![], vec![], Default::default(), vec![]);
        let summed = [false, false, false, true];
        Problem {
            axes,
            operands: vec![operand(0), operand(1)],
            results: vec![operand(2)],
            matrix: Some(Contraction::new(&graph.nodes[node], &summed, &of(0), Some(&of(1)), &of(2))),
            sums: true,
            turned: Some(3),
            macs: (batch * m * n * k) as f64,
            vector: 0.0,
            special: 0.0,
            dtype,
        }
    }

    #[test]
    fn ruling_out_changes_no_choice() {
        let system = registry::find("gc200").unwrap();
        let (ExecutionModel::BulkSynchronous(machine), Losses::BulkSynchronous(losses)) =
            (&system.model, &system.losses_under(None))
        else {
            panic!("the machine is bulk-synchronous")
        };
        for (batch, m, n, k) in [
            (1, 512, 512, 512),
            (1, 3584, 3584, 3584),
            (12, 128, 64, 128),
            (1, 1, 1000, 2048),
            (3, 17, 5, 3001),
        ] {
            for (macs, dtype) in [(16.0, DType::F32), (64.0, DType::F16)] {
                for budget in [20_000.0, 383_000.0] {
                    let tiles = Tiles { machine, losses, macs, budget };
                    let problem = product(batch, m, n, k, dtype);
                    let chosen = tiles.choose(&problem).price;
                    let (fewest_cycles, fewest_bytes) = by_trying_all(&tiles, &problem);
                    if fewest_cycles.is_finite() {
                        assert!(chosen.bytes <= budget);
                        assert_eq!(chosen.cycles, fewest_cycles, "{batch} {m} {n} {k} {dtype} {budget}");
                    } else {
                        assert_eq!(chosen.bytes, fewest_bytes, "{batch} {m} {n} {k} {dtype} {budget}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_needs_little_room_is_chosen_again_with_less() {
        let system = registry::find("gc200").unwrap();
        let (ExecutionModel::BulkSynchronous(machine), Losses::BulkSynchronous(losses)) =
            (&system.model, &system.losses_under(None))
        else {
            panic!("the machine is bulk-synchronous")
        };
        for (batch, m, n, k) in
            [(1, 512, 512, 512), (1, 3584, 3584, 3584), (12, 128, 64, 128), (3, 17, 5, 3001)]
        {
            let problem = product(batch, m, n, k, DType::F16);
            let at = |budget: f64| Tiles { machine, losses, macs: 64.0, budget }.choose(&problem);
            for (wide, narrow) in [(383_000.0, 134_000.0), (383_000.0, 20_000.0), (48_000.0, 2_000.0)] {
                let chosen = at(wide);
                if chosen.price.bytes <= narrow || chosen.price.bytes > wide {
                    assert_eq!(at(narrow), chosen, "{batch} {m} {n} {k} in {narrow}");
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_at_once_is_summed_in_turns() {
        let system = registry::find("gc200").unwrap();
        let (ExecutionModel::BulkSynchronous(machine), Losses::BulkSynchronous(losses)) =
            (&system.model, &system.losses_under(None))
        else {
            panic!("the machine is bulk-synchronous")
        };
        let budget = machine.tile_bytes as f64 * machine.matrix_temporary_fraction;
        let tiles = Tiles { machine, losses, macs: 16.0, budget };
        let large = tiles.choose(&product(1, 3584, 3584, 3584, DType::F32));
        assert!(large.price.turns > 1 && large.price.bytes <= budget, "{large:?}");
        assert_eq!(tiles.choose(&product(1, 256, 256, 256, DType::F32)).price.turns, 1);
    }
}
