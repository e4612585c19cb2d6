//! The fit itself, on tables: no machine, no model.

/// Weight of a loss's distance from the value that the file assumes, in logarithms and squared.
const KEEP: f64 = 0.1;
/// Weight of a stack's distance from the machine's default.
const KEEP_STACK: f64 = 0.4;
/// Steps in which a loss is moved, in logarithms.
const STEP: f64 = 0.02;
/// Most sweeps over all losses.
const SWEEPS: usize = 30;

/// Logarithms of factors on the losses of a machine, and of further ones for its stacks.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Solution {
    pub(super) losses: Vec<f64>,
    pub(super) stacks: Vec<Vec<f64>>,
}

impl Solution {
    /// Nothing moved.
    pub(super) fn none(losses: usize, stacks: usize) -> Self {
        Self { losses: vec![0.0; losses], stacks: vec![vec![0.0; losses]; stacks] }
    }
    /// What it says of one loss alone.
    pub(super) fn only(&self, number: usize) -> Self {
        Self {
            losses: vec![self.losses[number]],
            stacks: self.stacks.iter().map(|s| vec![s[number]]).collect(),
        }
    }
}

/// What is known of the rows.
pub(super) struct Data {
    /// ln(predicted / measured) of each row's time, with the losses of `center`.
    pub(super) base: Vec<f64>,
    /// For each loss, factor and row, what the factor adds to it.
    pub(super) effects: Vec<Vec<Vec<f64>>>,
    /// Pair of source and workload of each row.
    pub(super) group: Vec<usize>,
    /// Stack of each row, where the machine's file has it.
    pub(super) stack: Vec<Option<usize>>,
    /// Where the tables were made.
    pub(super) center: Solution,
    /// Largest logarithm of each loss.
    pub(super) highest: Vec<f64>,
    /// Whether the fit looks at the row.
    pub(super) fitted_to: Vec<bool>,
}

/// A fit to some rows.
pub(super) struct Fit<'a> {
    data: &'a Data,
    /// Logarithms of the factors of the tables, rising.
    factors: Vec<f64>,
}

impl<'a> Fit<'a> {
    pub(super) fn new(data: &'a Data, factors: Vec<f64>) -> Self {
        Self { data, factors }
    }
    /// The best solution found by moving one loss after the other, `without` one pair of source and workload.
    pub(super) fn solve(&self, without: Option<usize>) -> Solution {
        let rows: Vec<usize> = (0..self.data.base.len())
            .filter(|&i| self.data.fitted_to[i] && Some(self.data.group[i]) != without)
            .collect();
        let mut solution = self.data.center.clone();
        let mut best = self.cost(&solution, &rows);
        let used: Vec<bool> = (0..solution.stacks.len())
            .map(|stack| rows.iter().any(|&i| self.data.stack[i] == Some(stack)))
            .collect();
        for _ in 0..SWEEPS {
            let before = best;
            for loss in 0..solution.losses.len() {
                self.improve(&mut solution, &mut best, &rows, |s| &mut s.losses[loss]);
                for stack in (0..used.len()).filter(|&stack| used[stack]) {
                    self.improve(&mut solution, &mut best, &rows, |s| &mut s.stacks[stack][loss]);
                }
            }
            if before - best < 1e-6 {
                break;
            }
        }
        // A deviation of a stack without rows is none.
        for (deviations, used) in solution.stacks.iter_mut().zip(used) {
            if !used {
                deviations.fill(0.0);
            }
        }
        solution
    }
    /// Moves one number to where the cost is least, of steps over the whole range of the tables.
    fn improve(
        &self,
        solution: &mut Solution,
        best: &mut f64,
        rows: &[usize],
        number: impl Fn(&mut Solution) -> &mut f64,
    ) {
        let mut found = *number(solution);
        let (low, high) = (self.factors[0], self.factors[self.factors.len() - 1]);
        let center = found;
        let steps = ((high - low) / STEP) as i64;
        for step in -steps..=steps {
            *number(solution) = center + step as f64 * STEP;
            let cost = self.cost(solution, rows);
            if cost < *best - 1e-9 {
                (*best, found) = (cost, *number(solution));
            }
        }
        *number(solution) = found;
    }
    fn cost(&self, solution: &Solution, rows: &[usize]) -> f64 {
        let mut sums: std::collections::BTreeMap<usize, (f64, f64)> = std::collections::BTreeMap::new();
        for &row in rows {
            let Some(error) = self.error(solution, row) else { return f64::INFINITY };
            let sum = sums.entry(self.data.group[row]).or_default();
            *sum = (sum.0 + error.abs(), sum.1 + 1.0);
        }
        let square = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>();
        let kept = KEEP * square(&solution.losses)
            + KEEP_STACK * solution.stacks.iter().map(|s| square(s)).sum::<f64>();
        sums.values().map(|(sum, count)| sum / count).sum::<f64>() + kept
    }
    /// ln(predicted / measured) of a row; none where a loss is out of its range.
    fn error(&self, solution: &Solution, row: usize) -> Option<f64> {
        let mut error = self.data.base[row];
        let stack = self.data.stack[row];
        for loss in 0..solution.losses.len() {
            let of = |s: &Solution| s.losses[loss] + stack.map_or(0.0, |stack| s.stacks[stack][loss]);
            let total = of(solution);
            if total > self.data.highest[loss] + 1e-9 {
                return None;
            }
            error += self.effect(loss, total - of(&self.data.center), row);
        }
        Some(error)
    }
    /// What moving a loss adds to a row's error: between the points of the table, and level beyond its ends.
    fn effect(&self, loss: usize, moved: f64, row: usize) -> f64 {
        let table = |at: usize| self.data.effects[loss][at][row];
        let last = self.factors.len() - 1;
        let above = self.factors.partition_point(|f| *f < moved);
        if above == 0 {
            return table(0);
        }
        if above > last {
            return table(last);
        }
        let (low, high) = (self.factors[above - 1], self.factors[above]);
        let share = (moved - low) / (high - low);
        table(above - 1) + share * (table(above) - table(above - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times are `a * x + b * y` of two losses; the file assumes 1 for both, 2 and 0.5 are true.
    #[test]
    fn a_fit_finds_losses_that_made_the_rows() {
        let factors: Vec<f64> = [0.25, 0.5, 1.0, 2.0, 4.0].map(f64::ln).to_vec();
        let work = [(10.0, 0.1), (8.0, 0.2), (0.1, 9.0), (0.2, 7.0), (6.0, 0.0), (0.0, 5.0)];
        let time = |(x, y): (f64, f64), a: f64, b: f64| a * x + b * y;
        let base: Vec<f64> = work.iter().map(|w| (time(*w, 1.0, 1.0) / time(*w, 2.0, 0.5)).ln()).collect();
        let effect = |first: bool| {
            let moved = |f: &f64, w: &(f64, f64)| {
                let (a, b) = if first { (f.exp(), 1.0) } else { (1.0, f.exp()) };
                (time(*w, a, b) / time(*w, 1.0, 1.0)).ln()
            };
            factors.iter().map(|f| work.iter().map(|w| moved(f, w)).collect()).collect()
        };
        let data = Data {
            base,
            effects: vec![effect(true), effect(false)],
            group: (0..work.len()).collect(),
            stack: vec![None; work.len()],
            center: Solution::none(2, 1),
            highest: vec![f64::INFINITY; 2],
            fitted_to: vec![true; work.len()],
        };
        let found = Fit::new(&data, factors).solve(None);
        assert!((found.losses[0].exp() - 2.0).abs() < 0.15, "{found:?}");
        assert!((found.losses[1].exp() - 0.5).abs() < 0.05, "{found:?}");
        assert_eq!(found.stacks, vec![vec![0.0; 2]]);
    }

    /// A stack with few rows of its own stays near the others.
    #[test]
    fn a_stack_is_shrunk_to_the_default() {
        let factors: Vec<f64> = [0.25, 1.0, 4.0].map(f64::ln).to_vec();
        let data = Data {
            base: vec![-0.7, -0.7, -0.7, 0.7],
            effects: vec![factors.iter().map(|f| vec![*f; 4]).collect()],
            group: vec![0, 1, 2, 3],
            stack: vec![None, None, None, Some(0)],
            center: Solution::none(1, 1),
            highest: vec![f64::INFINITY],
            fitted_to: vec![true; 4],
        };
        let found = Fit::new(&data, factors).solve(None);
        assert!((found.losses[0] - 0.7).abs() < 0.03, "{found:?}");
        assert!(found.stacks[0][0] > -1.4 && found.stacks[0][0] < -0.7, "{found:?}");
    }
}
