//! Training on tiles, where everything has to find room.
//!
//! What does not fit as it is wanted is tried with more and more made again, then with moments in the memory behind the
//! chips, then over twice as many chips in sequence: the first way by which it fits is taken, but that moments behind the
//! chips must be worth the chips that they save. More that is made again never takes more room, so that not every step on
//! the way is tried.

use super::timed::{TimedStep, Wanted, prepare_step, time_one};
use crate::model::Bound;
use crate::setup::Setup;
use orrery_base::{Diagnostic, Result};
use orrery_compile::Streamed;
use orrery_transform::training::Recompute;

/// Numbers of chips in sequence that are tried: pods are divided by halves.
const CHIPS: [u64; 5] = [1, 2, 4, 8, 16];

/// What one chip makes again, from least to most. Products are chosen by how many are summed up for an element that need not
/// be kept; PopART's `NormOnly` makes none again.
const MORE: [Recompute; 6] = [
    Recompute::Nothing,
    Recompute::Cheap { products: 0 },
    Recompute::Cheap { products: 64 },
    Recompute::Cheap { products: 128 },
    Recompute::Cheap { products: 256 },
    Recompute::Stretches,
];

/// Stages of a pipeline keep of the micro-batches under way what comes in and make the rest again, as PopART's `Pipeline`
/// recomputation does.
const STAGES: [Recompute; 1] = [Recompute::Stretches];

/// The code of the note that tiles do not keep all activations.
pub const MADE_AGAIN: &str = "made-again";

/// Makes, compiles and times the training step of a bound model on tiles.
///
/// # Errors
/// Those of making and compiling it; `does-not-fit` of the last way.
pub(super) fn time_step(model: &Bound, setup: &Setup, wanted: &Wanted) -> Result<TimedStep> {
    let all = wanted.chips.map_or(CHIPS.to_vec(), |chips| vec![chips]);
    let step = prepare_step(model, setup, wanted)?;
    let mut refused = None;
    // With moments behind half as many chips.
    let mut behind: Option<TimedStep> = None;
    for chips in all {
        let as_wanted = [wanted.recompute];
        let ways: &[Recompute] = match (wanted.recompute, chips) {
            (Recompute::Nothing, 0..=1) => &MORE,
            (Recompute::Nothing, _) => &STAGES,
            _ => &as_wanted,
        };
        let dearest = &ways[ways.len() - 1..];
        for (streamed, ways) in [(Streamed::Nothing, ways), (Streamed::Moments, dearest)] {
            let at = |recompute| Wanted { recompute, streamed, chips: Some(chips), ..wanted.clone() };
            match (least(ways, &|recompute| time_one(&step, model, setup, &at(recompute))), behind.take()) {
                (Err(error), None) if error.code == "does-not-fit" => refused = Some(error),
                (Err(error), None) => return Err(error),
                (Err(_), Some(found)) => return Ok(found),
                (Ok((recompute, mut timed)), found) => {
                    if recompute != wanted.recompute {
                        timed.built.notes.push(note(recompute));
                    }
                    match found {
                        Some(found) if chip_time(&found) <= chip_time(&timed) => return Ok(found),
                        None if streamed == Streamed::Moments => {
                            behind = Some(timed);
                            break;
                        }
                        _ => return Ok(timed),
                    }
                }
            }
        }
    }
    let refused =
        || refused.map_or_else(|| Diagnostic::error("does-not-fit", "there is no way to try").err(), Err);
    behind.map_or_else(refused, Ok)
}

/// Time of a step on all its chips together.
fn chip_time(timed: &TimedStep) -> u128 {
    u128::from(timed.timeline.device.0) * u128::from(timed.built.devices)
}

/// The first way that fits, of ways in the order of the room they take.
fn least(
    ways: &[Recompute],
    time: &dyn Fn(Recompute) -> Result<TimedStep>,
) -> Result<(Recompute, TimedStep)> {
    let try_one = |at: usize| match time(ways[at]) {
        Ok(timed) => Ok(Some((ways[at], timed))),
        Err(error) if error.code == "does-not-fit" && at + 1 < ways.len() => Ok(None),
        Err(error) => Err(error),
    };
    if let Some(found) = try_one(0)? {
        return Ok(found);
    }
    // Number `from` does not fit, number `to` is the best that does.
    let (mut from, mut to) = (0, ways.len());
    let mut best = None;
    while to - from > 1 {
        let middle = (from + to) / 2;
        match try_one(middle)? {
            Some(found) => (to, best) = (middle, Some(found)),
            None => from = middle,
        }
    }
    best.map_or_else(|| Diagnostic::error("does-not-fit", "there is no way to try").err(), Ok)
}

fn note(recompute: Recompute) -> Diagnostic {
    let what = match recompute {
        Recompute::Cheap { products: 0 } => "what follows element by element on products is",
        Recompute::Cheap { .. } => "cheap products and what follows element by element are",
        _ => "activations within stretches are",
    };
    let cause = format!("the tiles cannot keep all activations: {what} made again for the backward pass");
    Diagnostic::note(MADE_AGAIN, cause)
}
