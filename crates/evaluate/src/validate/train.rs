//! Rows that are training steps.

use crate::setup::Setup;
use crate::training::{MADE_AGAIN, Wanted, time_step};
use crate::workload::{Case, Training};
use orrery_base::Result;
use orrery_record::Scope;
use orrery_transform::training::Recompute;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Seconds of one device for the samples of a row's case: the forward and backward passes of them, and their share of the
/// update, which comes once for all that gradients are accumulated over. With what there is to know.
///
/// Where a device does not hold it all and there are others that hold the same, weights, gradients and optimizer state
/// are taken as shared out among them, each updating its share; gathering them costs nothing on the ideal network.
///
/// # Errors
/// Those of making, compiling and timing the step.
pub(super) fn seconds(
    case: &Case,
    training: &Training,
    setup: &Setup,
    scope: Scope,
) -> Result<(f64, Option<String>)> {
    let setup = &setup.clone().with_wide_activations();
    let recompute = if training.recompute { Recompute::Stretches } else { Recompute::Nothing };
    let chips = if case.dealt { case.cut.stages } else { 1 };
    let wanted = Wanted { recompute, chips: case.dealt.then_some(chips), ..Wanted::default() };
    let alone = if case.dealt { timed_once(case, setup, &wanted) } else { timed(case, setup, &wanted) };
    let (timed, sharing) = match alone {
        Err(error) if error.code == "does-not-fit" && case.devices > 1.0 && !case.dealt => {
            (timed(case, setup, &Wanted { shared_out: true, ..wanted })?, case.devices)
        }
        found => (found?, 1.0),
    };
    let all = if scope == Scope::Device { timed.device } else { timed.end_to_end };
    let update = timed.update;
    let seconds = (all - update + update / (training.accumulations * sharing)) / chips as f64;
    let mut notes = Vec::new();
    if training.accumulations > 1.0 && training.accumulations.is_finite() {
        notes.push(format!("one update for {} micro-batches", training.accumulations));
    }
    if sharing > 1.0 {
        notes.push(format!("weights and optimizer state shared out over {sharing} devices"));
    }
    if training.recompute {
        notes.push("activations made again".to_owned());
    }
    notes.extend(timed.again);
    Ok((seconds, (!notes.is_empty()).then(|| notes.join("; "))))
}

/// A step in seconds.
#[derive(Clone)]
struct Seconds {
    device: f64,
    end_to_end: f64,
    /// Of the update.
    update: f64,
    /// What is made again because there is no room for it.
    again: Option<String>,
}

fn timed(case: &Case, setup: &Setup, wanted: &Wanted) -> Result<Seconds> {
    let timed = time_step(&case.model, setup, wanted)?;
    let again = timed.built.notes.iter().find(|note| note.code == MADE_AGAIN);
    Ok(Seconds {
        device: timed.timeline.device.seconds(),
        end_to_end: timed.timeline.end_to_end.seconds(),
        update: timed.anatomy.update.seconds(),
        again: again.map(|note| note.cause.clone()),
    })
}

/// What steps on tiles take, by all that it depends on. Finding room takes many compilations, and rows that differ in the
/// number of devices have the same step.
static KNOWN: Mutex<BTreeMap<String, Result<Seconds>>> = Mutex::new(BTreeMap::new());

fn timed_once(case: &Case, setup: &Setup, wanted: &Wanted) -> Result<Seconds> {
    let target = setup.target()?;
    let machine = (&target.system.model, &target.losses, target.precision);
    let key = format!("{machine:?} {wanted:?} {}", case.model.digest());
    let lock = || KNOWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(found) = lock().get(&key) {
        return found.clone();
    }
    let found = timed(case, setup, wanted);
    lock().insert(key, found.clone());
    found
}
