//! What is told of where the time of a run goes.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking too")]

use orrery_evaluate::explain::{Explanation, explain};
use orrery_evaluate::model::Options;
use orrery_evaluate::{Model, Setup, Work};
use orrery_record::Scope;
use std::collections::BTreeMap;

fn explained(model: &str, batch: u64, setup: Setup, work: &Work) -> Explanation {
    let model = Model::open(model, &Options::default()).unwrap();
    let explanation = explain(&model, work, Some(batch), &setup).unwrap();
    assert!(explanation.record.refusal().is_none(), "{:?}", explanation.record.refusal());
    explanation
}

fn seconds(explanation: &Explanation) -> f64 {
    explanation.record.figure("latency_ms", Scope::Device).unwrap().value / 1e3
}

#[test]
fn on_a_floor_plan_ops_steps_and_resources_divide_the_same_time() {
    let setup = Setup::find("cs2").unwrap().stack(Some("cerebras_layer_pipelined"));
    let explanation = explained("resnet50", 32, setup, &Work::Inference);
    let whole = seconds(&explanation);
    let close = |sum: f64| assert!((sum / whole - 1.0).abs() < 1e-3, "{sum} of {whole}");
    close(explanation.by_op.iter().map(|share| share.time_s).sum());
    close(explanation.by_resource.iter().map(|share| share.time_s).sum());
    // What is said to bound the steps is what is said to bound the run.
    let mut bound: BTreeMap<&str, f64> = BTreeMap::new();
    for step in explanation.steps.iter().filter(|step| step.share.is_some()) {
        *bound.entry(step.bound_by).or_default() += step.time_s;
    }
    for resource in &explanation.by_resource {
        assert!((bound[&resource.name[..]] - resource.time_s).abs() < 1e-3 * whole, "{}", resource.name);
    }
}
