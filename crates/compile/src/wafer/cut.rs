//! How an op is cut over the PEs of a mesh: by cost.
//!
//! For each number of PEs over which a sum may be cut, the other axes are cut further as long as that makes the step
//! cheaper. What is left to the caller is what it costs to bring the operands there. The same functions cost the finished
//! step.

use super::room::Thrift;
use crate::partition::{Operand, Problem};
use orrery_cost::wafer::{Core, chain_cycles, product_cycles, vector_cycles};

/// A way to cut, without bringing the operands.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Parts of each axis.
    pub parts: Vec<u64>,
    /// Cycles of the fullest PE for all items.
    pub cycles: f64,
    /// Bytes of its memory: operands that do not stream in, and results.
    pub bytes: f64,
}

/// Where a PE has an operand from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It is there, or is brought: an activation.
    Activation,
    /// It lies there: a weight.
    Weight,
    /// It arrives over the mesh when it is needed, and takes no memory.
    Stream,
}

/// What a problem has to keep to.
#[derive(Clone, Debug)]
pub struct Frame<'a> {
    /// Arithmetic of a PE.
    pub core: Core<'a>,
    /// PEs there are.
    pub cores: u64,
    /// How sparing it is with the memory of a PE.
    pub thrift: Thrift,
    /// Of each operand.
    pub sources: Vec<Source>,
    /// The axis along which items of the batch follow one another in time, and how many.
    pub items: Option<(usize, u64)>,
    /// The axis along which the results of a cut sum are spread over the PEs that made them.
    pub spread: Option<usize>,
    /// Items of which a PE has what passes through: of a pipeline the one that is computed on and the one that comes or goes.
    pub at_once: f64,
}

/// Sizes of parts that are tried for one axis.
const SIZES: usize = 12;
/// Of them, so many next to the present one are tried at a time, and the most.
const NEAR: usize = 4;

impl Frame<'_> {
    /// What a way to cut costs.
    pub fn price(&self, problem: &Problem, parts: &[u64]) -> Choice {
        let blocks: Vec<i64> =
            problem.axes.iter().zip(parts).map(|(a, &p)| (a.extent + p as i64 - 1) / p as i64).collect();
        let items = self.items.map_or(1.0, |(_, items)| items as f64);
        let in_time = self.items.map(|(axis, _)| axis);
        // An item has its share of what follows the axis that counts them.
        let of_item = |operand: &Operand| {
            let shared = operand.dims.iter().any(|(access, _)| in_time.is_some() && access.axis() == in_time);
            if shared { self.at_once / items } else { 1.0 }
        };
        let depth_parts: f64 =
            problem.axes.iter().zip(parts).filter(|(a, _)| a.reduce).map(|(_, &p)| p as f64).product();
        let share: f64 =
            problem.axes.iter().zip(&blocks).map(|(a, &b)| b as f64 / a.extent.max(1) as f64).product();
        let (mut passing, mut lying, mut arriving) = (0.0, 0.0, 0.0);
        for (operand, source) in problem.operands.iter().zip(&self.sources) {
            let bytes = operand.bytes(&blocks);
            let (bytes, whole) = (bytes * of_item(operand), bytes);
            match source {
                // What follows on a cut sum is done where the sums arrive: spread over the PEs that made them.
                Source::Activation if !problem.is_summed(operand) => passing += bytes / depth_parts,
                Source::Activation => passing += bytes,
                Source::Weight => lying += whole,
                Source::Stream => arriving += bytes * 8.0 / operand.bits,
            }
        }
        // A sum that was cut is left spread over the PEs that made it, as far as that axis reaches.
        let held = |blocks: &[i64]| problem.results.iter().map(|o| o.bytes(blocks) * of_item(o)).sum::<f64>();
        let made = held(&blocks);
        let kept = match self.spread.filter(|_| depth_parts > 1.0) {
            Some(axis) => {
                let mut left = blocks.clone();
                left[axis] = (left[axis] as f64 / depth_parts).ceil() as i64;
                held(&left)
            }
            None => made,
        };
        let mut path = 0.0;
        if let Some(contraction) = &problem.matrix {
            let mut extents: Vec<f64> = problem.axes.iter().map(|a| a.extent as f64).collect();
            let mut part: Vec<f64> = blocks.iter().map(|&b| b as f64).collect();
            if let Some(axis) = in_time {
                extents[axis] /= items;
                part[axis] = (part[axis] / items).ceil();
            }
            let product = contraction.product(problem.macs / items, &extents, &part);
            let streamed = self.sources.contains(&Source::Stream);
            let cycles = product_cycles(&product, depth_parts, streamed, problem.dtype, &self.core);
            path += cycles.multiply + cycles.add + cycles.chain;
        }
        let (vector, special) = vector_cycles(
            problem.vector * share / items,
            problem.special * share / items,
            problem.dtype,
            &self.core,
        );
        path += vector + special;
        if problem.matrix.is_none() && depth_parts > 1.0 {
            let (add, chain) =
                chain_cycles(made * 8.0 / problem.dtype.bits() as f64, depth_parts, &self.core);
            path += add + chain;
        }
        let arrive = arriving / self.core.losses.mesh_fraction;
        let cycles = items * path.max(arrive);
        Choice { parts: parts.to_vec(), cycles, bytes: passing + kept + lying }
    }

    /// The best ways to cut, one for each number of parts of a sum.
    pub fn choices(&self, problem: &Problem) -> Vec<Choice> {
        let sizes: Vec<Vec<u64>> = problem
            .axes
            .iter()
            .enumerate()
            .map(|(number, axis)| {
                match self.items {
                    // Every part has its share of every item.
                    Some((in_time, items)) if in_time == number && (!axis.reduce || problem.sums) => {
                        divisors(axis.extent as u64 / items, self.cores)
                    }
                    _ if axis.reduce && !problem.sums => vec![1],
                    _ => sizes(axis.extent, self.cores),
                }
            })
            .collect();
        let sums: Vec<usize> = (0..sizes.len()).filter(|&i| problem.axes[i].reduce).collect();
        let Some(&sum) = sums.first().filter(|_| problem.matrix.is_some()) else {
            return vec![self.grow(problem, &sizes, None)];
        };
        sizes[sum].iter().map(|&parts| self.grow(problem, &sizes, Some((sum, parts)))).collect()
    }

    /// From one part of everything but a given sum, cuts one axis further at a time, whichever gains most for the parts it
    /// takes, as parts that one axis has are gone for the others; then moves parts from axis to axis as long as that gains.
    fn grow(&self, problem: &Problem, sizes: &[Vec<u64>], sum: Option<(usize, u64)>) -> Choice {
        let mut parts = vec![1; sizes.len()];
        if let Some((axis, cut)) = sum {
            parts[axis] = cut;
        }
        // Products are cut along one sum, which is tried in all sizes; other sums along any.
        let vector = problem.matrix.is_none();
        let free: Vec<usize> =
            (0..sizes.len()).filter(|&axis| vector || !problem.axes[axis].reduce).collect();
        let mut best = self.price(problem, &parts);
        loop {
            let mut better: Option<(f64, Choice)> = None;
            for &axis in &free {
                let left = self.left(&best.parts, axis);
                let most = self.most(problem, (axis, &sizes[axis]), left);
                let (now, listed) = (best.parts[axis], sizes[axis].iter().copied());
                let next = listed.filter(|&size| size > now && size < most).take(NEAR);
                for size in next.chain([most].into_iter().filter(|&most| most > now)) {
                    let tried = self.with(problem, &best, &[(axis, size)]);
                    let gain = self.gain(&tried, &best) / (size as f64 / now as f64).ln();
                    if gain > better.as_ref().map_or(0.0, |(gain, _)| *gain) {
                        better = Some((gain, tried));
                    }
                }
            }
            let Some((_, better)) = better else { break };
            best = better;
        }
        loop {
            let mut better: Option<Choice> = None;
            for (&from, &to) in free.iter().flat_map(|from| free.iter().map(move |to| (from, to))) {
                let lower = sizes[from].iter().rev().filter(|&&size| from != to && size < best.parts[from]);
                for &fewer in lower.take(NEAR) {
                    let left = self.left(&best.parts, to) * best.parts[from] / fewer;
                    let more = self.most(problem, (to, &sizes[to]), left);
                    let tried = self.with(problem, &best, &[(from, fewer), (to, more)]);
                    if self.gain(&tried, better.as_ref().unwrap_or(&best)) > 0.0 {
                        better = Some(tried);
                    }
                }
            }
            let Some(found) = better else { return best };
            best = found;
        }
    }

    /// Parts that an axis can have beside those that the others have.
    fn left(&self, parts: &[u64], axis: usize) -> u64 {
        let others = parts.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, p)| *p);
        self.cores / others.product::<u64>().max(1)
    }

    /// The most parts that an axis of such sizes can be cut into with so many at hand.
    fn most(&self, problem: &Problem, (axis, sizes): (usize, &[u64]), left: u64) -> u64 {
        let listed = sizes.iter().rfind(|size| **size <= left).copied().unwrap_or(1);
        // What follows one another in time is cut as listed only.
        if self.items.is_some_and(|(in_time, _)| in_time == axis) || sizes.last() == Some(&listed) {
            return listed;
        }
        let extent = u64::try_from(problem.axes[axis].extent).unwrap_or(0).max(1);
        extent.div_ceil(extent.div_ceil(left.max(1)))
    }

    /// A choice with other numbers of parts of some axes.
    fn with(&self, problem: &Problem, choice: &Choice, changed: &[(usize, u64)]) -> Choice {
        let mut parts = choice.parts.clone();
        changed.iter().for_each(|(axis, size)| parts[*axis] = *size);
        self.price(problem, &parts)
    }

    /// How much is gained by `a` in place of `b`, logarithmically.
    fn gain(&self, a: &Choice, b: &Choice) -> f64 {
        self.dearness(b) - self.dearness(a)
    }

    /// The logarithm of what a way to cut costs, in cycles and memory.
    fn dearness(&self, choice: &Choice) -> f64 {
        choice.cycles.max(1.0).ln() + self.thrift.pressure * choice.bytes / self.thrift.limit
    }

    /// True where it keeps to the limit.
    pub fn fits(&self, choice: &Choice) -> bool {
        choice.bytes <= self.thrift.limit
    }

    /// True where `a` is to be preferred: it fits and the other does not, or it is less dear.
    pub fn is_better(&self, a: &Choice, b: &Choice) -> bool {
        match (self.fits(a), self.fits(b)) {
            (true, false) => true,
            (false, true) => false,
            (true, true) => self.dearness(a) < self.dearness(b),
            (false, false) => a.bytes < b.bytes,
        }
    }
}

/// Numbers of parts worth trying: each gives another largest part, spread evenly on a logarithmic scale.
fn sizes(extent: i64, cores: u64) -> Vec<u64> {
    let extent = u64::try_from(extent).unwrap_or(0).max(1);
    let most = extent.min(cores);
    let mut all = Vec::with_capacity(SIZES);
    for i in 0..SIZES {
        let wanted = (most as f64).powf(i as f64 / (SIZES - 1) as f64).round().max(1.0);
        // No more parts than the largest part asks for.
        let block = extent.div_ceil(wanted as u64);
        let parts = extent.div_ceil(block);
        if parts <= most && all.last().is_none_or(|last| *last < parts) {
            all.push(parts);
        }
    }
    all
}

/// The divisors of a number up to `most`, rising.
fn divisors(number: u64, most: u64) -> Vec<u64> {
    (1..=number.min(most)).filter(|d| number.is_multiple_of(*d)).collect()
}

#[cfg(test)]
mod tests {
    use super::sizes;

    #[test]
    fn sizes_rise_and_make_other_parts() {
        for extent in [1_i64, 2, 7, 128, 1000, 1_000_000] {
            let sizes = sizes(extent, 745_500);
            assert_eq!(sizes[0], 1);
            assert_eq!(
                sizes.last().copied(),
                Some((extent as u64).min(745_500))
                    .map(|most| { (extent as u64).div_ceil((extent as u64).div_ceil(most)) })
            );
            assert!(sizes.windows(2).all(|pair| pair[0] < pair[1]), "{sizes:?}");
        }
    }
}
