//! How an op is cut over the tiles of a bulk-synchronous machine: by cost.
//!
//! Every way to cut the axes into a few sizes of part is tried; a part costs what its tile receives, computes and, where
//! a sum is cut, passes on. The same functions cost the finished step.

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
    fn bytes(&self, part: &[i64]) -> f64 {
        let elements: f64 = self
            .dims
            .iter()
            .map(|(access, extent)| match access {
                Access::Whole => *extent as f64,
                Access::Along { axis, scale } => part[*axis] as f64 * scale.known().unwrap_or(1) as f64,
                Access::Window { axis, stride, reach, .. } => ((part[*axis] - 1) * stride + reach) as f64,
            })
            .product();
        elements * self.bits / 8.0
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
    /// Multiply-accumulates.
    pub macs: f64,
    /// Simple vector operations.
    pub vector: f64,
    /// Special functions.
    pub special: f64,
    /// Widest type.
    pub dtype: DType,
}

/// A way to cut.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Parts of each axis.
    pub parts: Vec<u64>,
    /// Cycles of exchange, computing and summing.
    pub cycles: f64,
    /// Bytes on the fullest tile for operands and results.
    pub bytes: f64,
}

/// Most sizes of part that are tried for one axis.
const SIZES: usize = 14;

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
        let sizes: Vec<Vec<u64>> = problem
            .axes
            .iter()
            .map(|axis| candidates(axis, self.machine.tiles, problem.matrix.is_some()))
            .collect();
        let mut parts = vec![1_u64; problem.axes.len()];
        let mut best: Option<Choice> = None;
        self.search(problem, &sizes, 0, self.machine.tiles, &mut parts, &mut best);
        best.unwrap_or(Choice { parts, cycles: f64::INFINITY, bytes: f64::INFINITY })
    }

    fn search(
        &self,
        problem: &Problem,
        sizes: &[Vec<u64>],
        axis: usize,
        left: u64,
        parts: &mut Vec<u64>,
        best: &mut Option<Choice>,
    ) {
        if axis == sizes.len() {
            let choice = self.price(problem, parts);
            let better = match best {
                None => true,
                Some(best) => match (choice.bytes <= self.budget, best.bytes <= self.budget) {
                    (true, false) => true,
                    (false, true) => false,
                    (true, true) => choice.cycles < best.cycles,
                    (false, false) => choice.bytes < best.bytes,
                },
            };
            if better {
                *best = Some(choice);
            }
            return;
        }
        for &size in &sizes[axis] {
            if size > left {
                break;
            }
            parts[axis] = size;
            self.search(problem, sizes, axis + 1, left / size, parts, best);
        }
        parts[axis] = 1;
    }

    /// What a way to cut costs.
    pub fn price(&self, problem: &Problem, parts: &[u64]) -> Choice {
        let part: Vec<i64> =
            problem.axes.iter().zip(parts).map(|(a, &p)| ceil_div(a.extent, p as i64)).collect();
        let splits: f64 =
            problem.axes.iter().zip(parts).filter(|(a, _)| a.reduce).map(|(_, &p)| p as f64).product();
        let received: f64 = problem.operands.iter().map(|o| o.bytes(&part)).sum();
        let made: f64 = problem.results.iter().map(|o| o.bytes(&part)).sum();
        let share: f64 =
            problem.axes.iter().zip(&part).map(|(a, &p)| p as f64 / (a.extent.max(1)) as f64).product();
        let phase = |bytes: f64| exchange_cycles(bytes, self.machine, self.losses) + self.machine.sync_cycles;
        let mut cycles = phase(received) + self.machine.sync_cycles;
        if let Some(contraction) = &problem.matrix {
            let extents: Vec<f64> = problem.axes.iter().map(|a| a.extent as f64).collect();
            let part: Vec<f64> = part.iter().map(|&p| p as f64).collect();
            let product = contraction.product(problem.macs, &extents, &part);
            cycles += product_cycles(&product, problem.dtype, self.machine, self.losses, self.macs);
        }
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
            let (adding, _) = vector_cycles(
                made * 8.0 / problem.dtype.bits() as f64,
                0.0,
                problem.dtype,
                self.machine,
                self.losses,
            );
            cycles += phase(made) + self.machine.sync_cycles + adding;
        }
        Choice { parts: parts.to_vec(), cycles, bytes: received + made }
    }
}

fn ceil_div(a: i64, b: i64) -> i64 {
    (a + b - 1) / b.max(1)
}

/// Numbers of parts worth trying, ascending: each gives another largest part, spread evenly on a logarithmic scale.
fn candidates(axis: &Axis, tiles: u64, matrix: bool) -> Vec<u64> {
    let extent = u64::try_from(axis.extent).unwrap_or(0).max(1);
    if axis.reduce && !matrix {
        return vec![1];
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
    if all.len() <= SIZES {
        return all;
    }
    let last = all.len() - 1;
    let mut picked: Vec<u64> = (0..SIZES)
        .map(|i| {
            let wanted = (most as f64).powf(i as f64 / (SIZES - 1) as f64);
            all[all.partition_point(|&p| (p as f64) < wanted).min(last)]
        })
        .collect();
    picked.dedup();
    picked
}
