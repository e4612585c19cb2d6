//! A decoder block with a cache whose length is a symbol: compiled once, timed at every length, executed at several.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking too")]

use orrery_base::Progress;
use orrery_evaluate::model::{Model, Options};
use orrery_evaluate::sweep::sweep;
use orrery_evaluate::way::build;
use orrery_evaluate::{Setup, inputs};
use orrery_execute::program;
use orrery_ir::op::Datum;
use orrery_ir::{Bindings, interpret};
use orrery_numerics::{Rounding, cast};
use orrery_program::{Growth, Program, StepKind, verify};
use orrery_simulate::device_time;
use orrery_transform::Weights;

const LONGEST: i64 = 1000;

/// One block of GPT-2 that takes one token more; `past` stays open.
fn block() -> Model {
    let parameters = ["form=decode", "logits=last", "layers=1"].map(str::to_owned).to_vec();
    Model::open("gpt2_small", &Options { parameters, dims: [("seq".to_owned(), 1)].into() }).unwrap()
}

#[test]
fn a_thousand_lengths_are_timed_by_one_program() {
    for machine in ["a100", "gc200", "bow"] {
        let setup = Setup::find(machine).unwrap();
        let found = sweep(&block(), &setup, Some(64), "past", (1, LONGEST), 1, &Progress::default()).unwrap();
        assert_eq!(found.points.len(), LONGEST as usize);
        let times: Vec<f64> = found.points.iter().map(|p| p.time_s).collect();
        assert!(
            times.windows(2).all(|pair| pair[0] <= pair[1]),
            "{machine}: a longer cache takes as long or longer"
        );
        assert!(
            times[LONGEST as usize - 1] > 1.05 * times[0],
            "{machine}: {} to {}",
            times[0],
            times[LONGEST as usize - 1]
        );
    }
}

#[test]
fn three_lengths_are_executed_by_one_program() {
    let model = block();
    let options = orrery_compile::Options {
        symbols: [("past".to_owned(), (1, LONGEST))].into(),
        ..orrery_compile::Options::default()
    };
    for machine in ["a100", "gc200"] {
        let setup = Setup::find(machine).unwrap();
        let open = model.with_open(Some(1), "past").unwrap();
        let program = build(&open, &setup, Weights::Compute, &options).unwrap().compiled.program;
        for length in [1, 100, LONGEST] {
            let bound = model.at_sizes(Some(1), &[("past".to_owned(), length)].into()).unwrap();
            let graph = &bound.graph;
            let given: Vec<_> =
                (0..graph.inputs.len()).map(|i| inputs::random(graph, i, 5).unwrap().datum).collect();
            let stored = |(i, datum): (usize, &Datum)| {
                let dtype = program.buffers[program.inputs[i]].dtype;
                cast(datum.as_tensor().unwrap(), dtype, Rounding::NearestEven, false).unwrap()
            };
            let tensors: Vec<_> = given.iter().enumerate().map(stored).collect();
            let run = program::Options { check: true, ..program::Options::default() };
            let got = program::run(&program, &tensors, &run).unwrap();
            assert!(got.disagreements.is_empty(), "{machine} {length}: {:?}", got.disagreements);
            let want = interpret::run(graph, given, 0).unwrap();
            for ((name, tensor), want) in got.outputs.iter().zip(&want) {
                let error = orrery_evaluate::run::relative_error(tensor, want.as_tensor().unwrap()).unwrap();
                assert!(error < 0.02, "{machine} {length} {name}: {error}");
            }
        }
    }
}

/// Shared heads, turned queries, experts and windows, small, as each machine's program has them.
#[test]
fn relatives_of_llama_are_executed_as_they_are_defined() {
    let small = "layers=2 width=64 heads=4 kv_heads=2 hidden=96 vocabulary=500 logits=last";
    for name in ["llama3_8b", "mixtral_8x7b", "gpt_oss_120b", "gptj_6b", "bloomz_7b1"] {
        for form in ["prefill", "decode"] {
            let parameters = small.split(' ').map(str::to_owned).chain([format!("form={form}")]).collect();
            let dims = [("seq".to_owned(), if form == "decode" { 1 } else { 9 })].into();
            let model = Model::open(name, &Options { parameters, dims }).unwrap();
            let bound = model.at_batch(Some(2)).unwrap();
            let graph = &bound.graph;
            let given: Vec<_> =
                (0..graph.inputs.len()).map(|i| inputs::random(graph, i, 5).unwrap().datum).collect();
            let want = interpret::run(graph, given.clone(), 0).unwrap();
            for machine in ["a100", "gc200"] {
                let setup = Setup::find(machine).unwrap();
                let options = orrery_compile::Options::default();
                let built = build(&bound, &setup, Weights::Compute, &options);
                let program =
                    built.unwrap_or_else(|error| panic!("{name} {machine}: {error}")).compiled.program;
                let stored = |(i, datum): (usize, &Datum)| {
                    let dtype = program.buffers[program.inputs[i]].dtype;
                    cast(datum.as_tensor().unwrap(), dtype, Rounding::NearestEven, false).unwrap()
                };
                let tensors: Vec<_> = given.iter().enumerate().map(stored).collect();
                let run = program::Options { check: true, ..program::Options::default() };
                let got = program::run(&program, &tensors, &run).unwrap();
                assert!(got.disagreements.is_empty(), "{machine} {name}: {:?}", got.disagreements);
                // Rounding may choose another of 128 experts: then each step is right, and the sum of them is not close.
                if name == "gpt_oss_120b" {
                    continue;
                }
                for ((output, tensor), want) in got.outputs.iter().zip(&want) {
                    let error =
                        orrery_evaluate::run::relative_error(tensor, want.as_tensor().unwrap()).unwrap();
                    assert!(error < 0.02, "{machine} {name} {form} {output}: {error}");
                }
            }
        }
    }
}

#[test]
fn a_cache_grows_where_it_lies() {
    let model = block();
    let setup = Setup::find("a100").unwrap();
    let at = |past: i64| model.at_sizes(Some(64), &[("past".to_owned(), past)].into()).unwrap();
    let compile = |past| {
        let options = orrery_compile::Options::default();
        build(&at(past), &setup, Weights::ShapeOnly, &options).unwrap().compiled.program
    };
    let program = compile(999);
    assert_eq!(program.grows.len(), 2, "keys and values");
    let moved = program.steps.values().filter(|s| s.kind == StepKind::Host).count();
    assert_eq!(moved, 2, "the token goes in and the logits come out, the cache does neither");
    let cache = |past: u64| 2 * 64 * 12 * 64 * 2 * past;
    let peak = |program: &Program| program.memory_use(&Bindings::new()).unwrap()[1].1.bytes;
    let (small, large) = (peak(&compile(499)), peak(&program));
    let added = large - small;
    assert!((cache(450)..cache(550)).contains(&added), "counted once: {added} of {}", cache(500));
    let target = setup.target().unwrap();
    let time = |past| device_time(&compile(past), &Bindings::new(), &target).unwrap().seconds();
    let per_token = (time(999) - time(499)) / 500.0;
    let once = cache(1) as f64 / 1.555e12;
    assert!((once..1.5 * once).contains(&per_token), "read once, not copied: {per_token:e} of {once:e}");
    let mut broken = program;
    broken.grows[0] = Growth { from: broken.grows[0].to, to: broken.grows[0].from };
    assert!(verify::verify(&broken).unwrap_err().cause.contains("invariant 10"));
}
