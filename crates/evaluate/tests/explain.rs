//! What is told of where the time of a run goes.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking too")]

use orrery_evaluate::explain::{Explanation, explain};
use orrery_evaluate::model::Options;
use orrery_evaluate::{Model, Setup, Work};
use orrery_record::Scope;
use std::collections::{BTreeMap, BTreeSet};

fn explained(model: &str, batch: u64, setup: &Setup, work: &Work) -> Explanation {
    let model = Model::open(model, &Options::default()).unwrap();
    let explanation = explain(&model, work, Some(batch), setup).unwrap();
    assert!(explanation.record.refusal().is_none(), "{:?}", explanation.record.refusal());
    explanation
}

fn seconds(explanation: &Explanation) -> f64 {
    explanation.record.figure("latency_ms", Scope::Device).unwrap().value / 1e3
}

#[test]
fn on_a_floor_plan_ops_steps_and_resources_divide_the_same_time() {
    let setup = Setup::find("cs2").unwrap().stack(Some("cerebras_layer_pipelined"));
    let explanation = explained("resnet50", 32, &setup, &Work::Inference);
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

#[test]
fn each_machine_is_told_of_in_its_own_words() {
    let told = |model: &str, machine: &str| {
        let explanation = explained(model, 1, &Setup::find(machine).unwrap(), &Work::Inference);
        let steps = explanation.steps.into_iter();
        let mut words: BTreeSet<String> = steps.flat_map(|s| [s.op, s.bound_by.to_owned()]).collect();
        words.extend(explanation.by_resource.into_iter().map(|share| share.name));
        words
    };
    // Rows of embeddings are picked by a kernel, or by an exchange.
    for (machine, picks) in [("a100", "Gather"), ("gaudi2", "Gather"), ("gc200", "exchange (Gather)")] {
        let words = told("bert_base", machine);
        assert!(words.contains(picks), "{machine}: {words:?}");
    }
    for (machine, model, own) in
        [("cs2", "bert_base", "PEs: "), ("sn30", "braggnn", "PCUs: "), ("sn40l", "braggnn", "PCUs: ")]
    {
        let words = told(model, machine);
        assert!(words.iter().any(|word| word.starts_with(own)), "{machine}: {words:?}");
        let foreign = ["launch", "matrix unit", "vector unit"];
        assert!(!words.iter().any(|word| foreign.contains(&&word[..])), "{machine}: {words:?}");
    }
}

#[test]
fn the_cores_of_a_step_are_told_where_cores_differ() {
    let cores = |machine: &str| -> Vec<u64> {
        let explanation = explained("braggnn", 1, &Setup::find(machine).unwrap(), &Work::Inference);
        explanation.steps.iter().filter_map(|step| step.cores).collect()
    };
    assert!(cores("a100").is_empty());
    for (machine, all) in [("gc200", 1472), ("sn30", 1280), ("cs3", 883_350)] {
        let cores = cores(machine);
        assert!(!cores.is_empty() && cores.iter().all(|n| (1..=all).contains(n)), "{machine}: {cores:?}");
    }
}

#[test]
fn attention_is_spelled_out_where_that_is_better() {
    let told = |model: &str, dims: &[(&str, i64)], machine: &str| {
        let parameters = if dims.is_empty() { Vec::new() } else { vec!["form=decode".to_owned()] };
        let dims = dims.iter().map(|(name, extent)| ((*name).to_owned(), *extent)).collect();
        let model = Model::open(model, &Options { parameters, dims }).unwrap();
        explain(&model, &Work::Inference, None, &Setup::find(machine).unwrap()).unwrap()
    };
    let pieces = |explanation: &Explanation| explanation.steps.iter().any(|step| step.op == "Attention");
    // Keys and values of a head come to each PE that has a query of it, or only a part of them.
    assert!(!pieces(&told("bert_tiny", &[], "cs3")));
    // One query of a head sees keys that one tile does not hold.
    let decoding = told("gpt2_small", &[("seq", 1), ("past", 512)], "gc200");
    assert!(decoding.record.refusal().is_none() && !pieces(&decoding), "{:?}", decoding.record.refusal());
}
