//! Rows that are training steps.

use crate::setup::Setup;
use crate::training::{Anatomy, MADE_AGAIN, TimedStep, Wanted, anatomy, time_step};
use crate::workload::{Case, Training};
use orrery_base::Result;
use orrery_ir::Bindings;
use orrery_machine::ExecutionModel;
use orrery_program::Program;
use orrery_record::Scope;
use orrery_simulate::{Timeline, simulate};
use orrery_transform::training::Recompute;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

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
    steps: &Steps,
) -> Result<(f64, Option<String>)> {
    let setup = &setup.clone().with_wide_activations();
    let recompute = if training.recompute { Recompute::Stretches } else { Recompute::Nothing };
    let chips = if case.dealt { case.cut.stages } else { 1 };
    let wanted = Wanted { recompute, chips: case.dealt.then_some(chips), ..Wanted::default() };
    let (timed, sharing) = match steps.timed(case, setup, &wanted) {
        Err(error) if error.code == "does-not-fit" && case.devices > 1.0 && !case.dealt => {
            (steps.timed(case, setup, &Wanted { shared_out: true, ..wanted })?, case.devices)
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
struct Seconds {
    device: f64,
    end_to_end: f64,
    /// Of the update.
    update: f64,
    /// What is made again because there is no room for it.
    again: Option<String>,
}

/// Training steps on tiles and wafers, each compiled once: finding room for one takes many compilations, and rows that
/// differ in the number of devices have the same step.
///
/// How a step is cut, and with that the room it takes, depends on the losses. A step is compiled under those under which it
/// is first asked for, and timed under those that are asked about.
#[derive(Default)]
pub(crate) struct Steps(Mutex<BTreeMap<String, Arc<OnceLock<Result<Compiled>>>>>);

/// A compiled step.
struct Compiled {
    program: Program,
    again: Option<String>,
}

impl Steps {
    fn timed(&self, case: &Case, setup: &Setup, wanted: &Wanted) -> Result<Seconds> {
        let target = setup.target()?;
        if !matches!(target.system.model, ExecutionModel::BulkSynchronous(_) | ExecutionModel::Wafer(_)) {
            let TimedStep { timeline, anatomy, .. } = time_step(&case.model, setup, wanted)?;
            return Ok(Seconds::of(&timeline, &anatomy, None));
        }
        let losses_of = target.stack.filter(|stack| !stack.losses.is_empty()).map(|stack| &stack.name);
        let machine = (&target.system.name, &target.system.model, target.precision, losses_of);
        let key = format!("{machine:?} {wanted:?} {}", case.model.digest());
        let place = self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone();
        let compiled = place.get_or_init(|| {
            let TimedStep { built, .. } = time_step(&case.model, setup, wanted)?;
            let again = built.notes.iter().find(|note| note.code == MADE_AGAIN);
            Ok(Compiled { again: again.map(|note| note.cause.clone()), program: built.compiled.program })
        });
        let Compiled { program, again } = compiled.as_ref().map_err(Clone::clone)?;
        let timeline = simulate(program, &Bindings::new(), &target)?;
        Ok(Seconds::of(&timeline, &anatomy(program, &timeline, &target.system.model), again.clone()))
    }
}

impl Seconds {
    fn of(timeline: &Timeline, anatomy: &Anatomy, again: Option<String>) -> Self {
        Self {
            device: timeline.device.seconds(),
            end_to_end: timeline.end_to_end.seconds(),
            update: anatomy.update.seconds(),
            again,
        }
    }
}
