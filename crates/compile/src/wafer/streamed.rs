//! Weights that stream in: into how many micro-batches a batch is dealt, and how sparing with memory their steps are.

use super::lowering::Way;
use super::room::{FRUGAL, PARTS, Sparing};
use super::{Wafer, states};
use crate::Compiled;
use crate::needed::needed;
use orrery_base::{Diagnostic, Picoseconds, Result};
use orrery_program::{Region, verify};

/// A program that fits, about its time, and the room that it leaves its groups.
struct Tried {
    time: Picoseconds,
    compiled: Compiled,
    rooms: Vec<f64>,
}

/// Numbers of equal items that so many samples can be dealt to, from one to one sample each: at least twice as many each time.
fn numbers_of_items(samples: u64) -> Vec<u64> {
    let small = (1..=samples.isqrt().max(1)).filter(|divisor| samples.is_multiple_of(*divisor));
    let mut divisors: Vec<u64> = small.flat_map(|divisor| [divisor, samples / divisor]).collect();
    divisors.sort_unstable();
    let mut counts: Vec<u64> = Vec::new();
    for divisor in divisors {
        let last = counts.last().copied();
        if last.is_none_or(|last| divisor >= 2 * last || divisor == samples && divisor > last) {
            counts.push(divisor);
        }
    }
    counts
}

impl Wafer<'_> {
    /// Activations on the wafer, weights from MemoryX.
    pub(super) fn streamed(&self) -> Result<Compiled> {
        let samples = self.samples();
        let counts = numbers_of_items(samples);
        let frugal = |at: usize| self.tried(counts[at], &Sparing::Alike(FRUGAL));
        // The fewest micro-batches whose activations fit: ever more of them, then the least between the last two.
        let (mut low, mut at, mut ahead) = (0, 0, 1);
        let mut best = frugal(at)?;
        while best.is_err() && at + 1 < counts.len() {
            low = at + 1;
            at = (at + ahead).min(counts.len() - 1);
            ahead *= 2;
            best = frugal(at)?;
        }
        while best.is_ok() && low < at {
            let middle = low + (at - low) / 2;
            match frugal(middle)? {
                Ok(found) => (best, at) = (Ok(found), middle),
                Err(_) => low = middle + 1,
            }
        }
        let mut best = match best {
            Ok(tried) => self.roomy(counts[at], tried)?,
            Err(error) => {
                return Err(Box::new(error.help(
                    "weights are in MemoryX already; the activations of one sample lie on the wafer",
                )));
            }
        };
        // Or more as long as that is faster: with fewer rows on a PE sums may stay in its cache, while weights stream in
        // more often.
        while at + 1 < counts.len() {
            let Ok(tried) = frugal(at + 1)? else { break };
            let tried = self.roomy(counts[at + 1], tried)?;
            if tried.time >= best.time {
                break;
            }
            (best, at) = (tried, at + 1);
        }
        let mut compiled = best.compiled;
        let passes = counts[at];
        if states::in_place(&mut compiled.program) {
            compiled.program = needed(compiled.program);
        }
        if passes > 1 {
            compiled.notes.push(Diagnostic::note(
                "wafer-micro-batch",
                format!(
                    "activations of {} samples are on the wafer at a time: {passes} micro-batches, for each of which all weights stream in",
                    samples / passes
                ),
            ));
        }
        Ok(compiled)
    }

    /// A program of so many micro-batches, or what does not fit of it.
    fn tried(&self, passes: u64, sparing: &Sparing) -> Result<Result<Tried>> {
        let machine = self.machine;
        let whole = Region { base: 0, x: 0, y: 0, columns: machine.grid_columns, rows: machine.grid_rows };
        let (compiled, rooms) =
            self.emit(self.lowering(Way::Streamed, vec![whole], passes), None, sparing)?;
        if let Err(too_much) = verify::capacity(&compiled.program) {
            return Ok(Err(too_much));
        }
        Ok(Ok(Tried { time: self.time(&compiled.program)?, compiled, rooms }))
    }

    /// The same program with the room that it leaves, where that fits and is faster.
    fn roomy(&self, passes: u64, tried: Tried) -> Result<Tried> {
        for part in PARTS {
            let found = self.tried(passes, &Sparing::Rooms(tried.rooms.clone(), part))?;
            if let Ok(found) = found {
                // With less room it would be slower still.
                return Ok(if found.time < tried.time { found } else { tried });
            }
        }
        Ok(tried)
    }
}

#[cfg(test)]
mod tests {
    use super::numbers_of_items;

    #[test]
    fn items_are_equal_and_twice_as_many_each_time() {
        assert_eq!(numbers_of_items(1), [1]);
        assert_eq!(numbers_of_items(12), [1, 2, 4, 12]);
        assert_eq!(numbers_of_items(7), [1, 7]);
        assert_eq!(numbers_of_items(1_000_000_000_000).last(), Some(&1_000_000_000_000));
    }
}
