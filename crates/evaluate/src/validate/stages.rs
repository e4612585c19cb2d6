//! Training on chips that hold one copy of a model together, as stages of a pipeline.

use super::{LARGER, Prediction, no_room};
use crate::workload::{Assumed, Case, NO_BATCH, shared_batch};
use orrery_cost::collective::all_reduce;
use orrery_ir::count;
use orrery_machine::Links;
use orrery_numerics::DType;
use orrery_record::Record;
use serde_json::Value;

/// A row on the devices of one copy that it says, else on the fewest that hold one: halves of pods, quarters and so on.
/// `at` predicts it as assumed.
///
/// # Errors
/// Why it cannot be modelled; the code of what does not fit where even all devices together do not hold a copy.
pub(super) fn on_fewest(
    record: &Record,
    at: &dyn Fn(Assumed) -> Result<Prediction, String>,
) -> Result<Prediction, String> {
    let spec = &record.identity.workload.spec;
    let said = ["ipus_per_replica", "pp"].iter().find_map(|key| spec.get(*key).and_then(Value::as_u64));
    let mut stages = said.unwrap_or(1).max(1);
    loop {
        let found = at_best(record, stages, at);
        let more = stages.saturating_mul(2);
        if !no_room(&found) || said.is_some() || more as f64 > record.identity.devices.unwrap_or(1.0) {
            return found;
        }
        stages = more;
    }
}

/// With the micro-batch that the row says, else the best of those that fit.
fn at_best(
    record: &Record,
    stages: u64,
    at: &dyn Fn(Assumed) -> Result<Prediction, String>,
) -> Result<Prediction, String> {
    let assumed = |batch| Assumed { batch, stages: Some(stages), ..Assumed::default() };
    let most = match shared_batch(record) {
        Some(most) if most > 1 => most,
        _ => {
            let found = at(assumed(None));
            if found.as_ref().err().map(String::as_str) != Some(NO_BATCH) {
                return found;
            }
            MOST
        }
    };
    let (mut best, mut micro) = (at(assumed(Some(1))), LARGER);
    while !no_room(&best) && micro <= most.min(MOST) {
        let found = at(assumed(Some(micro)));
        let rate = |found: &Result<Prediction, String>| found.as_ref().map_or(0.0, |p| p.value);
        if rate(&found) <= rate(&best) {
            break;
        }
        best = found;
        micro *= LARGER;
    }
    best
}

/// Seconds of a micro-batch's share of the sums of gradients over copies. Between machines a chip has one link: the
/// 512 Gbit/s of a machine of four are as much as four of them.
pub(super) fn sums_over_copies(case: &Case, storage: DType, links: &Links) -> f64 {
    let Some(training) = case.training.filter(|training| training.sums_counted) else { return 0.0 };
    let elements = count::parameters(&case.model.graph) as f64;
    let bytes = elements * storage.bits() as f64 / 8.0 / case.cut.devices();
    let within = case.devices * case.cut.devices() <= links.chips_per_machine as f64;
    let links = if within { links.clone() } else { Links { link_count: 1, ..links.clone() } };
    all_reduce(bytes, case.devices, &links) / training.accumulations.max(1.0)
}

/// The largest micro-batch that is tried: more samples at a time fill tiles no better.
const MOST: u64 = 16;
