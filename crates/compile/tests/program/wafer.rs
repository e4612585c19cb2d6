//! Wafers shrunk to a few cores: what the compiler says against lists of every element, and executed core by core.

use crate::common::{compile_for, faults, run, shrunk, target};
use crate::graphs::examples;
use crate::oracle::{check_step, extents, held, holders};
use orrery_base::index::Id;
use orrery_compile::{Options, compile};
use orrery_cost::Target;
use orrery_ir::{Attrs, Bindings, Builder, Graph, Op};
use orrery_machine::System;
use orrery_numerics::DType;
use orrery_program::{Program, StepKind, WriteMode, text, verify};
use std::collections::BTreeMap;

/// A wafer of so many columns and rows with memory for the examples.
fn small(columns: u64, rows: u64) -> System {
    shrunk(
        "cs2",
        &[("pes", columns * rows), ("grid_columns", columns), ("grid_rows", rows), ("sram_bytes", 4_000_000)],
    )
}

fn stacked<'a>(system: &'a System, stack: &str) -> Target<'a> {
    Target::new(system, Some("fp32"), Some(stack)).unwrap()
}

const STACKS: [&str; 2] = ["cerebras_weight_streaming", "cerebras_layer_pipelined"];

/// A product whose sum is worth cutting, and something that follows on it.
fn deep_product() -> Graph {
    let mut b = Builder::new("deep", 1);
    let (x, w) = (b.input("x", DType::F32, [4_i64, 6, 96]), b.weight("w", [96_i64, 40], 0.1));
    let y = b.op(Op::MatMul, "y", &[x, w], Attrs::new());
    let y = b.op(Op::Relu, "relu", &[y], Attrs::new());
    b.finish(&[("out", y)]).unwrap()
}

/// Four products one after the other.
fn layers() -> Graph {
    let mut b = Builder::new("layers", 1);
    let mut y = b.input("x", DType::F32, [4_i64, 64]);
    for layer in 0..4 {
        let w = b.weight(&format!("w{layer}"), [64_i64, 64], 0.1);
        y = b.op(Op::MatMul, &format!("y{layer}"), &[y, w], Attrs::new());
    }
    b.finish(&[("y", y)]).unwrap()
}

#[test]
fn layouts_hold_every_element_where_they_say() {
    let (mut steps, mut combined, mut staged) = (0, 0, 0);
    for (columns, rows) in [(3, 2), (5, 5), (8, 8)] {
        let system = small(columns, rows);
        let graphs = examples(DType::F32).filter(|(name, _)| *name != "scalars and nothing");
        for (name, graph) in graphs.chain([("deep", deep_product())]) {
            for stack in STACKS {
                let target = stacked(&system, stack);
                let program = match compile(&graph, &target, &Options::default()) {
                    Ok(compiled) => compiled.program,
                    // More layers than cores.
                    Err(error) if error.code == "does-not-fit" => continue,
                    Err(error) => panic!("{name} {stack}: {error}"),
                };
                for (id, step) in program.steps.iter() {
                    let place = format!("{name} {stack}, {columns} x {rows}, {id} `{}`", step.name);
                    check_step(&program, step, columns * rows, &place);
                    steps += 1;
                    combined +=
                        usize::from(step.writes.iter().any(|w| matches!(w.mode, WriteMode::Combined(_))));
                    staged += usize::from(step.region.is_some());
                }
                for (id, buffer) in program.buffers.iter() {
                    let extents = extents(&program, id);
                    let count = holders(held(&buffer.layout, &extents).values().flatten(), &extents);
                    assert!(count.iter().all(|&n| n >= 1), "{name} {stack} {id}: {count:?}");
                }
                let text = program.to_string();
                let again = text::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!(again.to_string(), text);
            }
        }
    }
    assert!(
        steps > 300 && combined > 5 && staged > 50,
        "{steps} steps, {combined} combined, {staged} staged"
    );
}

#[test]
fn programs_are_what_their_graphs_mean() {
    let mut found = String::new();
    for (columns, rows) in [(4, 3), (9, 7)] {
        let system = small(columns, rows);
        for (name, graph) in examples(DType::F32).chain([("deep", deep_product())]) {
            for fault in faults(&graph, &system, "fp32", 1e-4) {
                found += &format!("{name}, {columns} x {rows}: {fault}\n");
            }
        }
    }
    assert!(found.is_empty(), "{found}");
}

fn deep_program(stack: &str) -> (Graph, Program) {
    let graph = deep_product();
    // Rows enough for no more than a few cores, so that the sum is cut.
    let system = small(16, 12);
    let program = compile(&graph, &stacked(&system, stack), &Options::default()).unwrap().program;
    (graph, program)
}

#[test]
fn a_lost_part_of_a_combined_sum_is_seen() {
    let (graph, mut program) = deep_program(STACKS[0]);
    let inputs = crate::common::inputs(&graph, &Bindings::new(), 3);
    assert!(run(&program, &inputs).unwrap().disagreements.is_empty());
    let is_combined = |mode| matches!(mode, WriteMode::Combined(_));
    let (id, step) =
        program.steps.iter().find(|(_, s)| s.writes.iter().any(|w| is_combined(w.mode))).expect("a cut sum");
    let write = &step.writes[0];
    let sum = (0..step.grid.len()).find(|i| !write.access.iter().any(|a| a.axis() == Some(*i))).unwrap();
    assert!(step.grid[sum].is_cut(), "{:?}", step.grid);
    // The last part of the sum is left out.
    let length = step.grid[sum].extent.known().unwrap();
    program.steps[id].grid[sum].extent = (length / 2).into();
    let broken = run(&program, &inputs);
    assert!(broken.is_err() || !broken.unwrap().disagreements.is_empty(), "half of a sum was not missed");
}

#[test]
fn stages_must_lie_in_their_rectangles() {
    let program = compile(&layers(), &stacked(&small(8, 8), STACKS[1]), &Options::default()).unwrap().program;
    verify::verify(&program).unwrap();
    assert!(program.regions.len() > 1 && program.items > 1, "{:?}", program.regions);
    let broken = |change: &dyn Fn(&mut Program)| {
        let mut program = program.clone();
        change(&mut program);
        verify::verify(&program).unwrap_err().cause
    };
    let overlap = broken(&|p| (p.regions[1].x, p.regions[1].y) = (p.regions[0].x, p.regions[0].y));
    assert!(overlap.contains("overlaps region 0 (invariant 12)"), "{overlap}");
    let staged: Vec<_> = program.steps.iter().filter(|(_, s)| s.region.is_some()).map(|(id, _)| id).collect();
    let (first, last) = (staged[0], staged[staged.len() - 1]);
    let swapped = broken(&|p| p.steps[last].region = Some(0));
    assert!(swapped.contains("invariant 12"), "{swapped}");
    let missing = broken(&|p| p.steps[first].region = Some(99));
    assert!(missing.contains("region 99, which does not exist"), "{missing}");
    assert!(broken(&|p| p.items = 0).contains("has no items"));
}

#[test]
fn the_slowest_stage_sets_the_interval() {
    let system = small(8, 8);
    let target = stacked(&system, STACKS[1]);
    let mut program = compile(&layers(), &target, &Options::default()).unwrap().program;
    let time = |program: &Program| {
        let cost = |s| orrery_cost::step_cost(program, s, &Bindings::new(), &target).unwrap();
        let costs: Vec<_> = program.steps.ids().map(cost).collect();
        let mut steps: BTreeMap<(u32, bool), u64> = BTreeMap::new();
        for (step, cost) in program.steps.values().zip(&costs).filter(|(step, _)| step.region.is_some()) {
            let arrives = step.kind == StepKind::Exchange;
            *steps.entry((step.region.unwrap(), arrives)).or_default() += cost.time.0 / program.items;
        }
        (orrery_cost::rectangles::pipeline(program, &costs), steps)
    };
    let (found, steps) = time(&program);
    assert_eq!(program.items, 4, "one sample at a time");
    // The next item arrives while a stage computes on the one before.
    let slowest = steps.values().copied().max().unwrap();
    assert_eq!(found.interval.0, slowest);
    assert_eq!(found.stages.values().copied().max().unwrap().0, slowest);
    assert_eq!(found.time.0, steps.values().sum::<u64>() + 3 * slowest);
    let shares: u64 = found.spans.values().map(|span| span.share.0).sum();
    assert_eq!(shares, found.time.0);
    // Of one item there is nothing to overlap.
    program.items = 1;
    let (alone, steps) = time(&program);
    assert_eq!(alone.time.0, steps.values().sum::<u64>());
}

#[test]
fn a_batch_that_does_not_fit_runs_in_micro_batches() {
    let mut b = Builder::new("wide", 1);
    let (x, w) = (b.input("x", DType::F32, [64_i64, 256]), b.weight("w", [256_i64, 8], 0.1));
    let y = b.op(Op::MatMul, "y", &[x, w], Attrs::new());
    let graph = b.finish(&[("y", y)]).unwrap();
    let bytes = |sram: u64| {
        let changes = [("pes", 12), ("grid_columns", 4), ("grid_rows", 3), ("sram_bytes", sram)];
        let system = shrunk("cs2", &[&changes[..], &[("pe_reserved_bytes", 1024)]].concat());
        let target = stacked(&system, STACKS[0]);
        let compiled = compile(&graph, &target, &Options::default());
        compiled.map(|compiled| {
            let costs: Vec<_> = compiled
                .program
                .steps
                .ids()
                .map(|s| orrery_cost::step_cost(&compiled.program, s, &Bindings::new(), &target).unwrap())
                .collect();
            let streams =
                compiled.program.steps.values().zip(costs).filter(|(s, _)| s.kind == StepKind::Stream);
            let time: u64 = streams.map(|(_, cost)| cost.time.0).sum();
            (compiled.program.items, time, compiled.notes.iter().map(|n| n.code).collect::<Vec<_>>())
        })
    };
    let (whole, once, notes) = bytes(400_000).unwrap();
    assert_eq!((whole, notes.len()), (1, 0));
    let (passes, again, notes) = bytes(6_000).unwrap();
    assert!(passes > 1, "{passes}");
    assert_eq!(notes, ["wafer-micro-batch"]);
    assert_eq!(again, once * passes, "all weights stream in for each micro-batch");
    assert_eq!(bytes(2_048).unwrap_err().code, "does-not-fit");
}

#[test]
fn the_stack_says_where_weights_are() {
    let graph = deep_product();
    let system = small(8, 8);
    let kinds = |stack: &str| {
        let program = compile(&graph, &stacked(&system, stack), &Options::default()).unwrap().program;
        let streams = program.steps.values().filter(|s| s.kind == StepKind::Stream).count();
        (streams > 0, program.regions.is_empty())
    };
    assert_eq!(kinds(STACKS[0]), (true, true));
    assert_eq!(kinds(STACKS[1]), (false, false));
    // Without a stack the compiler says which way it took.
    let compiled = compile_for(&graph, &system, "fp32").unwrap();
    assert!(compiled.notes.iter().any(|note| note.code == "wafer-mode"), "{:?}", compiled.notes);
    assert!(target(&system, "fp32").stack.is_none());
}

#[test]
fn weights_of_the_next_layer_stream_in_while_one_computes() {
    let system = small(8, 8);
    let program = compile(&layers(), &stacked(&system, STACKS[0]), &Options::default()).unwrap().program;
    let streams: Vec<_> = program.steps.iter().filter(|(_, s)| s.kind == StepKind::Stream).collect();
    assert_eq!(streams.len(), 4);
    assert!(streams[0].1.after.is_empty() && streams[1].1.after.is_empty(), "two layers at the start");
    for (number, (_, stream)) in streams.iter().enumerate().skip(2) {
        let [before] = stream.after[..] else { panic!("{:?}", stream.after) };
        let (earlier, previous) = (streams[number - 2].0, streams[number - 1].0);
        assert!(
            before.index() > earlier.index() && before.index() < previous.index(),
            "the layer before the last"
        );
    }
}
