//! Rows that are training steps.

use crate::setup::Setup;
use crate::training::{TimedStep, Wanted, time_step};
use crate::workload::{Case, Training};
use orrery_base::Result;
use orrery_record::Scope;
use orrery_transform::training::Recompute;

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
    let recompute = if training.recompute { Recompute::Stretches } else { Recompute::Nothing };
    let wanted = Wanted { recompute, ..Wanted::default() };
    let alone = time_step(&case.model, setup, &wanted);
    let (timed, sharing) = match alone {
        Err(error) if error.code == "does-not-fit" && case.devices > 1.0 => {
            let wanted = Wanted { shared_out: true, ..wanted };
            (time_step(&case.model, setup, &wanted)?, case.devices)
        }
        found => (found?, 1.0),
    };
    let TimedStep { timeline, anatomy, .. } = &timed;
    let all = if scope == Scope::Device { timeline.device } else { timeline.end_to_end };
    let update = anatomy.update.seconds();
    let seconds = all.seconds() - update + update / (training.accumulations * sharing);
    let mut notes = Vec::new();
    if training.accumulations > 1.0 {
        notes.push(format!("one update for {} micro-batches", training.accumulations));
    }
    if sharing > 1.0 {
        notes.push(format!("weights and optimizer state shared out over {sharing} devices"));
    }
    if training.recompute {
        notes.push("activations made again".to_owned());
    }
    Ok((seconds, (!notes.is_empty()).then(|| notes.join("; "))))
}
