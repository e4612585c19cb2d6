//! Stream machines: chips in sequence, and a wrong hand-over that shows.

use crate::common::{compile_for, faults_of, inputs, meaning, run, shrunk, target};
use crate::graphs::examples;
use crate::random::Maker;
use crate::zoo::legal;
use orrery_base::index::Id;
use orrery_cost::{Resource, step_cost};
use orrery_ir::{Attrs, Bindings, Builder, Graph, Op};
use orrery_machine::System;
use orrery_numerics::DType;
use orrery_program::{BufferClass, Program, Step, StepKind, text};
use std::collections::BTreeSet;

/// A chip of small planes and of so many bytes.
fn small(bytes: u64) -> System {
    shrunk(
        "groqchip",
        &[
            ("sram_bytes", bytes),
            ("program_bytes", 16),
            ("plane_inputs", 5),
            ("plane_outputs", 4),
            ("sequence_chips", 40),
        ],
    )
}

/// Chips that hold something, and links between them.
fn chips_and_links(program: &Program) -> (usize, usize) {
    let home = |buffer| program.buffers[buffer].home;
    let chips: BTreeSet<_> =
        program.buffers.values().map(|b| b.home).filter(|m| program.memories[*m].bytes < u64::MAX).collect();
    let crosses = program.steps.values().filter(|s| {
        s.kind == StepKind::Exchange
            && s.reads.iter().any(|r| s.writes.iter().any(|w| home(r.buffer) != home(w.buffer)))
    });
    (chips.len(), crosses.count())
}

/// A step on a chip takes its operands from that chip alone; what follows from extents is on the host.
fn check_places(program: &Program, place: &str) {
    for step in program.steps.values() {
        if matches!(step.kind, StepKind::Compute) {
            let homes: BTreeSet<_> = step
                .reads
                .iter()
                .map(|r| r.buffer)
                .chain(step.writes.iter().map(|w| w.buffer))
                .map(|b| program.buffers[b].home)
                .filter(|m| program.memories[*m].bytes < u64::MAX)
                .collect();
            assert_eq!(homes.len(), 1, "{place}: `{}` is on {homes:?}", step.name);
        }
    }
}

/// Bytes with which a chip holds the values of a program, but only half of its weights.
fn tight(graph: &Graph, precision: &str) -> u64 {
    let program = compile_for(graph, &small(1 << 24), precision).unwrap().program;
    let uses = program.memory_use(&Bindings::new()).unwrap();
    let (_, peak) = uses.iter().find(|(_, p)| program.memories[p.memory].bytes < u64::MAX).unwrap();
    let of = |parameter: bool| -> u64 {
        let classes = peak.by_class.iter().filter(|(c, _)| (*c == BufferClass::Parameter) == parameter);
        classes.map(|(_, bytes)| bytes).sum()
    };
    16 + of(false) + of(true) / 2
}

fn chain(layers: usize) -> Graph {
    let mut b = Builder::new("chain", 3);
    let x = b.input("x", DType::F32, [6_i64, 12]);
    let mut y = x;
    for layer in 0..layers {
        let w = b.weight(&format!("w{layer}"), [12_i64, 12], 0.3);
        y = b.op(Op::MatMul, &format!("y{layer}"), &[y, w], Attrs::new());
        y = b.op(Op::Tanh, &format!("t{layer}"), &[y], Attrs::new());
    }
    // The input is needed again at the end: it crosses all chips.
    y = b.op(Op::Add, "sum", &[x, y], Attrs::new());
    b.finish(&[("y", y)]).unwrap()
}

#[test]
fn examples_mean_the_same_on_one_chip_and_on_many() {
    let mut split = 0;
    for (dtype, precision, tolerance) in [(DType::F32, "fp32", 1e-4), (DType::F16, "fp16", 0.1)] {
        for (name, graph) in examples(dtype) {
            for bytes in [1 << 20, tight(&graph, precision)] {
                let program = match compile_for(&graph, &small(bytes), precision) {
                    Ok(compiled) => compiled.program,
                    Err(error) => {
                        assert_eq!(error.code, "does-not-fit", "{name}: {error}");
                        assert!(bytes < 1 << 20, "{name}");
                        continue;
                    }
                };
                let place = format!("{name} {precision} in {bytes} B");
                check_places(&program, &place);
                split += usize::from(chips_and_links(&program).0 > 1);
                let faults = faults_of(&graph, &program, &Bindings::new(), tolerance);
                assert!(faults.is_empty(), "{place}: {faults:?}");
            }
        }
    }
    assert!(split >= 4, "only {split} programs went over several chips");
}

#[test]
fn random_graphs_on_small_chips() {
    let (mut ran, mut split) = (0, 0);
    for seed in 0..120 {
        let graph = Maker::graph(seed, DType::F32);
        let bytes = if seed % 3 == 0 { 1 << 22 } else { tight(&graph, "fp32") };
        let program = match compile_for(&graph, &small(bytes), "fp32") {
            Ok(compiled) => compiled.program,
            Err(error) => {
                assert_eq!(error.code, "does-not-fit", "{seed}: {error}");
                continue;
            }
        };
        check_places(&program, &seed.to_string());
        assert_eq!(text::parse(&text::print(&program)).unwrap(), program, "{seed}");
        let faults = faults_of(&graph, &program, &Bindings::new(), 1e-4);
        assert!(faults.is_empty(), "{seed}: {faults:?}");
        ran += 1;
        split += usize::from(chips_and_links(&program).0 > 1);
    }
    assert!(ran > 60 && split > 5, "{ran} ran, {split} of them over several chips");
}

#[test]
fn a_chain_is_dealt_over_chips_and_each_value_crosses_once() {
    // Each layer has 576 B of weights; a chip has room for two beside its values.
    let graph = chain(8);
    let program = compile_for(&graph, &small(2_400), "fp32").unwrap().program;
    let (chips, links) = chips_and_links(&program);
    assert!((3..=6).contains(&chips), "{chips} chips");
    // From chip to chip the value of the layer before; and the input to the last.
    assert_eq!(links, chips, "{links} links");
    assert!(faults_of(&graph, &program, &Bindings::new(), 1e-4).is_empty());
}

#[test]
fn a_value_handed_over_wrongly_shows() {
    let graph = chain(4);
    let mut program = compile_for(&graph, &small(2_400), "fp32").unwrap().program;
    let home = |p: &Program, buffer| p.buffers[buffer].home;
    let (id, _) = program
        .steps
        .iter()
        .find(|(_, s)| {
            s.kind == StepKind::Exchange
                && home(&program, s.reads[0].buffer) != home(&program, s.writes[0].buffer)
        })
        .unwrap();
    // The input goes over the link instead of what the chip before has made.
    let crossed = program.steps[id].reads[0].buffer;
    let input = program.steps.values().next().unwrap().writes[0].buffer;
    assert_ne!(crossed, input);
    program.steps[id].reads[0].buffer = input;
    let data = inputs(&graph, &Bindings::new(), 7);
    let got = run(&program, &data).unwrap().outputs.remove(0).1;
    let want = meaning(&graph, &data).remove(0);
    assert_ne!(got.bytes(), want.bytes());
    assert!(!faults_of(&graph, &program, &Bindings::new(), 1e-4).is_empty());
}

#[test]
fn what_prepares_an_input_is_on_the_chip_that_needs_it() {
    // Casts of late inputs come first in the graph, casts to outputs last.
    let mut b = Builder::new("late", 3);
    let mut y = b.input("x", DType::F32, [6_i64, 12]);
    let late: Vec<_> = (0..6).map(|i| b.input(&format!("late{i}"), DType::F16, [6_i64, 12])).collect();
    let cast = |to: DType| Attrs::new().with("to", to);
    let late: Vec<_> = late.iter().map(|v| b.op(Op::Cast, "wide", &[*v], cast(DType::F32))).collect();
    let mut made = Vec::new();
    for (layer, late) in late.into_iter().enumerate() {
        let w = b.weight(&format!("w{layer}"), [12_i64, 12], 0.3);
        y = b.op(Op::MatMul, &format!("y{layer}"), &[y, w], Attrs::new());
        y = b.op(Op::Mul, &format!("m{layer}"), &[y, late], Attrs::new());
        made.push(y);
    }
    let outputs: Vec<_> = made.iter().map(|v| b.op(Op::Cast, "narrow", &[*v], cast(DType::F16))).collect();
    let names: Vec<String> = (0..outputs.len()).map(|i| format!("out{i}")).collect();
    let named: Vec<_> = names.iter().map(String::as_str).zip(outputs).collect();
    let graph = b.finish(&named).unwrap();
    let program = compile_for(&graph, &small(2_600), "fp32").unwrap().program;
    let (chips, links) = chips_and_links(&program);
    assert!(chips > 2, "{chips} chips");
    assert_eq!(links, chips - 1, "only the value of the layer before crosses");
    assert!(faults_of(&graph, &program, &Bindings::new(), 1e-2).is_empty());
}

#[test]
fn what_no_installation_holds_says_how_much_is_missing() {
    let system = shrunk("groqchip", &[("sram_bytes", 2_400), ("program_bytes", 16), ("sequence_chips", 2)]);
    let error = compile_for(&chain(12), &system, "fp32").unwrap_err();
    assert_eq!(error.code, "does-not-fit");
    assert!(error.cause.contains("more than the 2 of the installation"), "{error}");
    // Values alone that are too large are no matter of chips.
    let system = shrunk("groqchip", &[("sram_bytes", 500), ("program_bytes", 16)]);
    let error = compile_for(&chain(1), &system, "fp32").unwrap_err();
    assert_eq!(error.code, "does-not-fit");
    assert!(error.help.iter().any(|h| h.contains("values alone")), "{error}");
}

#[test]
fn outputs_of_matrix_steps_come_a_plane_at_a_time() {
    let graph = chain(1);
    let program = compile_for(&graph, &small(1 << 20), "fp32").unwrap().program;
    let (id, step) = program.steps.iter().find(|(_, s)| s.kind == StepKind::Compute).unwrap();
    assert!(id.index() > 0);
    assert_eq!(step.grid.iter().filter(|c| c.cutting == orrery_program::Cutting::Blocks(4)).count(), 1);
}

#[test]
fn bytes_are_summed_exactly_and_four_times_as_fast_as_halves() {
    let product = |op: Op, dtype: DType| {
        let mut b = Builder::new("product", 5);
        let x = b.input("x", dtype, [640_i64, 640]);
        let w = b.input("w", dtype, [640_i64, 640]);
        let y = b.op(op, "y", &[x, w], Attrs::new());
        b.finish(&[("y", y)]).unwrap()
    };
    let groq = &orrery_machine::registry::find("groqchip").unwrap().before_calibration();
    let matrix_time = |graph: &Graph, precision: &str| {
        let target = target(groq, precision);
        let program = compile_for(graph, groq, precision).unwrap().program;
        let (step, _) = program.steps.iter().find(|(_, s)| s.kind == StepKind::Compute).unwrap();
        let cost = step_cost(&program, step, &Bindings::new(), &target).unwrap();
        cost.resources.iter().find(|(r, _)| *r == Resource::Matrix).unwrap().1.seconds()
    };
    let (bytes, halves) = (product(Op::MatMulInteger, DType::I8), product(Op::MatMul, DType::F16));
    // Four blocks of 640 rows: in bytes all at once, in halves two at once at half the rate.
    assert_eq!((matrix_time(&bytes, "int8") * 0.9e9).round(), 640.0);
    assert_eq!((matrix_time(&halves, "fp16") * 0.9e9).round(), 2560.0);
    // A quantised model keeps products in bytes, whatever the rest is compiled for.
    assert_eq!(matrix_time(&bytes, "fp16"), matrix_time(&bytes, "int8"));
    let program = compile_for(&bytes, groq, "int8").unwrap().program;
    assert!(faults_of(&bytes, &program, &Bindings::new(), 0.0).is_empty());
}

/// Turns of a recurrent layer wait for each other, on one machine in hops and on the other in nodes of the graph.
#[test]
fn a_recurrent_layer_takes_as_long_as_it_has_turns() {
    for (name, precision) in [("groqchip", "fp16"), ("gaudi2", "bf16")] {
        let system = &orrery_machine::registry::find(name).unwrap().before_calibration();
        let target = target(system, precision);
        let seconds = |turns: u64| {
            let options = format!("steps={turns} inputs=64 hidden=64");
            let graph = legal("lstm", &options, &[("batch", 1)], system, precision);
            let program = compile_for(&graph, system, precision).unwrap().program;
            let layer = |s: &Step| s.body.nodes.values().any(|n| n.op == Op::LSTM);
            let (step, _) = program.steps.iter().find(|(_, s)| layer(s)).unwrap();
            step_cost(&program, step, &Bindings::new(), &target).unwrap().time.seconds()
        };
        let (few, many) = (seconds(10), seconds(100));
        assert!((9.0..10.5).contains(&(many / few)), "{name}: {few:e} s and {many:e} s");
        // A turn is some 150 cycles through the chip, or two nodes.
        let turn = if name == "groqchip" { 162.0 / 0.9e9 } else { 4e-6 };
        assert!((0.9..1.3).contains(&(many / 100.0 / turn)), "{name}: {:e} s a turn", many / 100.0);
    }
}
