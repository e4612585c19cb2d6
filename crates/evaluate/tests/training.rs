//! Training steps in time: their parts are all there is, and memory is told apart by what it holds.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking too")]

use orrery_base::Picoseconds;
use orrery_evaluate::model::{Bound, Options};
use orrery_evaluate::training::{
    Holding, MADE_AGAIN, Part, Wanted, build_step, largest_batch, time_step, usual_loss,
};
use orrery_evaluate::{Model, Setup};
use orrery_ir::op::Datum;
use orrery_ir::{Graph, interpret};
use orrery_numerics::{DType, Rounding, Tensor};
use orrery_transform::Weights;
use orrery_transform::training::{Loss, Optimizer, Recompute, Spec, recompute, step};

fn at(name: &str, batch: u64) -> Bound {
    Model::open(name, &Options::default()).unwrap().at_batch(Some(batch)).unwrap()
}

#[test]
fn the_parts_of_a_step_are_its_time_and_its_holdings_its_memory() {
    let model = at("braggnn", 64);
    for machine in ["a100", "gaudi2", "gc200", "sn30", "cs3"] {
        let setup = Setup::find(machine).unwrap();
        let found =
            time_step(&model, &setup, &Wanted::default()).unwrap_or_else(|e| panic!("{machine}: {e}"));
        let parts: Picoseconds = found.anatomy.parts.values().copied().sum();
        let (all, device) = (found.timeline.end_to_end.seconds(), found.timeline.device.seconds());
        assert!(parts.seconds() >= 0.999 * all.min(device), "{machine}: {parts:?} of {all}");
        assert!(parts.seconds() <= 1.001 * all.max(device) + 1e-3, "{machine}: {parts:?} of {all}");
        for part in [Part::Forward, Part::Backward] {
            assert!(found.anatomy.time(part) > Picoseconds::ZERO, "{machine} has no {}", part.name());
        }
        let streams = found.anatomy.time(Part::Streaming) > Picoseconds::ZERO;
        assert!(!streams || machine != "sn30", "streams of a section belong to its phase");
        let updates = found.anatomy.update > Picoseconds::ZERO;
        assert!(updates || machine == "cs3", "{machine} does not update weights");
        for held in &found.holdings {
            let track = found.timeline.memory.iter().find(|t| t.memory == held.memory).unwrap();
            assert_eq!(held.bytes.values().sum::<u64>(), track.peak.bytes, "{machine} {}", held.memory);
        }
        let everywhere =
            |holding: Holding| found.holdings.iter().any(|held| held.bytes.contains_key(&holding));
        assert!(everywhere(Holding::Weights) && everywhere(Holding::OptimizerState), "{machine}");
    }
}

#[test]
fn memory_is_that_of_one_chip_whatever_chips_share_a_step() {
    let (model, setup) = (at("braggnn", 64), Setup::find("gc200").unwrap());
    let tile = |chips| {
        let wanted = Wanted { chips: Some(chips), ..Wanted::default() };
        let found = time_step(&model, &setup, &wanted).unwrap();
        let track = found.timeline.memory.iter().find(|track| track.memory == "tile").unwrap().clone();
        let held = found.holdings.iter().find(|held| held.memory == "tile").unwrap();
        assert_eq!(held.bytes.values().sum::<u64>(), track.peak.bytes);
        (track.capacity, track.peak.bytes)
    };
    let (one, four) = (tile(1), tile(4));
    assert_eq!((one.0, four.0), (624 * 1024, 624 * 1024));
    assert!(four.1 <= four.0, "{} of {}", four.1, four.0);
}

#[test]
fn precisions_of_inference_do_not_train() {
    let setup = Setup::find("a100").unwrap().precision(Some("int8"));
    let error = time_step(&at("braggnn", 8), &setup, &Wanted::default()).unwrap_err();
    assert_eq!(error.code, "unsupported-training");
    assert!(error.help[0].contains("fp16, bf16"), "{error}");
}

#[test]
fn where_states_alone_do_not_fit_no_smaller_batch_is_named() {
    let llama = Model::open("llama2_70b", &Options::default()).unwrap().at_batch(Some(4)).unwrap();
    let error = time_step(&llama, &Setup::find("a100").unwrap(), &Wanted::default()).unwrap_err();
    let help = error.help.join("\n");
    assert!(error.code == "does-not-fit" && help.contains("a smaller batch does not help"), "{error}");
    assert!(!help.contains("--precision") && !help.contains("a smaller batch than"), "{error}");
}

#[test]
fn convolutions_with_strides_train_on_a_wafer() {
    // What follows a cut sum of blocks of the result is cut between blocks as well.
    let setup = Setup::find("cs2").unwrap();
    let step = time_step(&at("resnet50", 8), &setup, &Wanted::default());
    assert!(step.is_ok_and(|step| step.timeline.device > Picoseconds::ZERO));
}

#[test]
fn a_step_with_all_layers_on_the_wafer_is_bound_by_its_slowest_layer() {
    let setup = Setup::find("cs2").unwrap().stack(Some("cerebras_layer_pipelined"));
    let rate = |batch: u64| {
        let step = time_step(&at("braggnn", batch), &setup, &Wanted::default()).unwrap();
        assert!(step.anatomy.update > Picoseconds::ZERO && step.anatomy.update * 2 < step.timeline.device);
        batch as f64 / step.timeline.device.seconds()
    };
    // Filling and draining the pipeline weighs less the more samples go through it, and is not all of a large batch.
    let rates = [128, 512, 2048].map(rate);
    assert!(rates[0] < rates[1] && rates[1] < rates[2] && rates[2] < 16.0 * rates[0], "{rates:?}");
}

#[test]
fn a_machine_for_inference_says_so() {
    let error =
        time_step(&at("braggnn", 8), &Setup::find("groqchip").unwrap(), &Wanted::default()).unwrap_err();
    assert_eq!(error.code, "unsupported-training");
}

#[test]
fn what_is_made_again_is_not_kept() {
    let (model, setup) = (at("resnet50", 64), Setup::find("a100").unwrap());
    let kept = time_step(&model, &setup, &Wanted::default()).unwrap();
    let again = Wanted { recompute: Recompute::Stretches, ..Wanted::default() };
    let again = time_step(&model, &setup, &again).unwrap();
    let activations = |found: &orrery_evaluate::training::TimedStep| {
        found.holdings.iter().filter_map(|held| held.bytes.get(&Holding::Activations)).sum::<u64>()
    };
    assert!(activations(&again) * 2 < activations(&kept), "{} {}", activations(&again), activations(&kept));
    let slower = again.timeline.device.seconds() / kept.timeline.device.seconds();
    assert!((1.05..1.5).contains(&slower), "{slower}");
}

#[test]
fn what_tiles_cannot_keep_is_made_again() {
    let setup = Setup::find("gc200").unwrap();
    let timed = time_step(&at("resnet50", 16), &setup, &Wanted::default()).unwrap();
    assert!(timed.built.notes.iter().any(|note| note.code == MADE_AGAIN));
    // Measured at 2,030 images/s on one IPU.
    assert_eq!(timed.built.devices, 1);
    let rate = 16.0 / timed.timeline.device.seconds();
    assert!((1500.0..2600.0).contains(&rate), "{rate}");
}

#[test]
fn the_largest_batch_fits_and_more_does_not() {
    let (model, setup) =
        (Model::open("braggnn", &Options::default()).unwrap(), Setup::find("gc200").unwrap());
    let bound = |batch: u64| model.at_batch(Some(batch));
    let wanted = Wanted::default();
    let largest = largest_batch(&bound, &setup, &wanted, 1 << 16).unwrap().unwrap();
    assert!(time_step(&bound(largest).unwrap(), &setup, &wanted).is_ok());
    let more = largest + largest / 4 + 1;
    let error = build_step(&bound(more).unwrap(), &setup, &wanted).map(drop).unwrap_err();
    assert_eq!(error.code, "does-not-fit", "{largest}, {more}");
}

/// Inputs of a step, drawn by position.
fn inputs(graph: &Graph) -> Vec<Datum> {
    let tensors = graph.inputs.iter().enumerate().map(|(number, id)| {
        let ty = graph.values[*id].ty.as_tensor().unwrap();
        let shape = ty.extents().unwrap();
        let count = shape.iter().product();
        if ty.dtype == DType::I64 {
            return Tensor::from_vec(shape, vec![1_i64; count]);
        }
        // Variances and second moments are no negative numbers.
        let values = orrery_ir::weights::normal(number as u64, count, 0.0, 0.3);
        let values: Vec<f32> = values.into_iter().map(|v| v.abs() + 0.01).collect();
        Tensor::from_f32(ty.dtype, shape, values, Rounding::NearestEven, false)
    });
    tensors.map(Datum::from).collect()
}

#[test]
fn a_step_that_makes_activations_again_is_the_same_step() {
    let model = at("braggnn", 3).graph;
    let spec = Spec::new(usual_loss(&model), Optimizer::parse("adam").unwrap());
    assert_eq!(spec.loss.kind, Loss::Mse);
    let kept = step(&model, &spec, None, Weights::ShapeOnly).unwrap();
    let mut again = kept.clone();
    recompute(&mut again, Recompute::Stretches).unwrap();
    assert!(again.graph.nodes.len() > kept.graph.nodes.len());
    let run = |graph: &Graph| interpret::run(graph, inputs(graph), 0).unwrap();
    for (a, b) in run(&kept.graph).iter().zip(run(&again.graph)) {
        assert_eq!(a.as_tensor().unwrap().bytes(), b.as_tensor().unwrap().bytes());
    }
}
