//! Machines as they are installed: copies side by side, and copies that several devices share.

use orrery_base::Progress;
use orrery_evaluate::compare::compare;
use orrery_evaluate::model::Options;
use orrery_evaluate::{Model, Setup, Work};
use orrery_record::{Record, Scope};

fn on(model: &str, parameters: &[&str], machine: &str, shards: Option<u64>) -> Record {
    let options = Options {
        parameters: parameters.iter().map(|&p| p.to_owned()).collect(),
        dims: if parameters.is_empty() {
            Default::default()
        } else {
            [("seq".to_owned(), 1), ("past".to_owned(), 512)].into()
        },
    };
    let model = Model::open(model, &options).expect("a model of the zoo");
    let setup = Setup::find(machine).expect("a machine of ours").shards(shards);
    compare(&model, &Work::Inference, &[setup], &[8], 1, &Progress::default())
        .expect("nobody stops it")
        .remove(0)
}

fn value(record: &Record, metric: &str) -> f64 {
    record.figure(metric, Scope::Device).expect("it ran").value
}

#[test]
fn copies_multiply_rate_and_batch_and_leave_the_latency() {
    let (one, pod) = (on("braggnn", &[], "bow", None), on("braggnn", &[], "bow-pod64", None));
    assert_eq!(value(&one, "latency_ms"), value(&pod, "latency_ms"));
    assert!((value(&pod, "samples_per_s") / value(&one, "samples_per_s") - 64.0).abs() < 1e-9);
    assert_eq!(pod.identity.devices, Some(64.0));
    let batch = pod.identity.workload.batch;
    assert_eq!((batch.global, batch.micro), (Some(512), Some(8)));
    assert!(pod.remarks[0].starts_with("64 copies side by side"));
}

#[test]
fn what_one_device_does_not_hold_is_shared_by_several() {
    let decode = ["form=decode"];
    let alone = on("llama3_70b", &decode, "a100-40gb", None);
    assert_eq!(alone.refusal().unwrap().code, "does-not-fit");
    // 141 GB of weights over four GPUs of 40 GB.
    let node = on("llama3_70b", &decode, "sophia", None);
    assert_eq!(node.identity.devices, Some(8.0));
    assert_eq!(node.identity.workload.batch.global, Some(16));
    // More devices to a copy make it faster, and fewer copies.
    let all = on("llama3_70b", &decode, "sophia", Some(8));
    assert!(value(&all, "latency_ms") < value(&node, "latency_ms"));
    assert_eq!(all.identity.workload.batch.global, Some(8));
    assert!(all.extra["bound_by"].as_array().unwrap().iter().any(|b| b["resource"] == "chip links"));
}

#[test]
fn only_decoders_are_shared_and_only_by_devices_that_are_there() {
    for (model, parameters, shards) in [("resnet50", &[][..], 2), ("llama3_8b", &["form=decode"][..], 16)] {
        let refused = on(model, parameters, "sophia", Some(shards));
        assert_eq!(refused.refusal().unwrap().code, "no-shards", "{model}");
    }
}
