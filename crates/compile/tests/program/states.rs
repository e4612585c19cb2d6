//! States: what a run leaves, the next one finds, on every machine as in the interpreter.

use crate::common::{compile_for, difference, inputs, meaning, run, shrunk};
use orrery_base::Result;
use orrery_compile::{Options, compile};
use orrery_cost::Target;
use orrery_ir::{Bindings, Graph, text};
use orrery_machine::{System, registry};
use orrery_numerics::Tensor;
use orrery_program::{BufferClass, Program, StepKind, Unit, WriteMode, verify};

/// A linear regression with its gradients spelled out: gradient descent, and Adam for the bias.
const REGRESSION: &str = r#"graph "regression" {
  input %x: f32[24, 12]
  input %y: f32[24, 6]
  input %rate: f32[]
  input %step: i64[]
  input %w: f32[12, 6]
  input %b: f32[6]
  input %mean: f32[6]
  input %square: f32[6]
  constant %rows: i64[1] = [0]
  constant %all: i64[2] = [0, 1]
  %p: f32[24, 6] = MatMul(%x, %w)
  %q: f32[24, 6] = Add(%p, %b)
  %e: f32[24, 6] = Sub(%q, %y)
  %ee: f32[24, 6] = Mul(%e, %e)
  %loss: f32[] = ReduceMean(%ee, %all) {keepdims = 0}
  %xt: f32[12, 24] = Transpose(%x) {perm = [1, 0]}
  %dw: f32[12, 6] = MatMul(%xt, %e)
  %db: f32[6] = ReduceSum(%e, %rows) {keepdims = 0}
  %dw1: f32[12, 6] = Mul(%dw, %rate)
  %w1: f32[12, 6] = Sub(%w, %dw1)
  %b1: f32[6], %mean1: f32[6], %square1: f32[6] = Adam(%rate, %step, %b, %db, %mean, %square)
  output %loss
  output %w1 becomes %w = seeded(seed=3, mean=0, deviation=0.1)
  output %b1 becomes %b = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
  output %mean1 becomes %mean = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
  output %square1 becomes %square = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
}"#;

/// States that change places, one that stays, one that is read after its new value is made, one that is turned.
const PLACES: &str = r#"graph "places" {
  input %x: f32[8, 8]
  input %a: f32[8, 8]
  input %b: f32[8, 8]
  input %c: f32[8, 8]
  input %d: f32[8, 8]
  input %e: f32[8, 8]
  %d1: f32[8, 8] = Add(%d, %x)
  %y: f32[8, 8] = Mul(%d1, %d)
  %e1: f32[8, 8] = Transpose(%e) {perm = [1, 0]}
  %z: f32[8, 8] = MatMul(%a, %e)
  output %y
  output %z
  output %b becomes %a = absent
  output %a becomes %b = absent
  output %c becomes %c = absent
  output %d1 becomes %d = absent
  output %e1 becomes %e = absent
}"#;

fn graph(source: &str) -> Graph {
    let graph = text::parse(source).unwrap_or_else(|error| panic!("{error}"));
    orrery_ir::verify::verify(&graph).unwrap_or_else(|error| panic!("{error}"));
    graph
}

/// Machines that train, with a precision in which they compute in f32 and, where it decides, a software stack.
fn machines() -> Vec<(System, &'static str, Option<&'static str>)> {
    let known = |name: &str| registry::find(name).unwrap().clone();
    let all_pes = [("grid_columns", 8), ("grid_rows", 8), ("pes", 64)];
    vec![
        (known("a100-40gb"), "fp32", None),
        (known("gaudi2"), "fp32", None),
        (known("gc200"), "fp32", None),
        (shrunk("gc200", &[("tiles", 24)]), "fp32", None),
        (known("sn30"), "fp32", None),
        (known("sn40l"), "fp32", None),
        (shrunk("sn10", &[("pcus", 20), ("pmus", 20), ("pmu_bytes", 4096)]), "fp32", None),
        (known("cs3"), "fp32", None),
        (shrunk("cs2", &all_pes), "fp32", None),
        (known("cs2"), "fp32", Some("cerebras_layer_pipelined")),
        (shrunk("cs2", &all_pes), "fp32", Some("cerebras_layer_pipelined")),
    ]
}

fn compiled(graph: &Graph, system: &System, precision: &str, stack: Option<&str>) -> Result<Program> {
    let target = Target::new(system, Some(precision), stack)?;
    Ok(compile(graph, &target, &Options::default())?.program)
}

/// The inputs of the next run: states as they were left, the others as they were.
fn next(graph: &Graph, inputs: &[Tensor], outputs: &[Tensor]) -> Vec<Tensor> {
    let mut next = inputs.to_vec();
    for state in &graph.states {
        next[state.input] = outputs[state.output].clone();
    }
    next
}

/// Runs several times, each from what the run before left, and compares with the interpreter.
fn faults(graph: &Graph, program: &Program, runs: usize, tolerance: f64) -> Vec<String> {
    let mut faults = Vec::new();
    let mut given = inputs(graph, &Bindings::new(), 11);
    for number in 0..runs {
        let outcome = match run(program, &given) {
            Ok(outcome) => outcome,
            Err(error) => return vec![format!("run {number}: {error}")],
        };
        faults.extend(outcome.disagreements.iter().map(|d| format!("run {number}: {d:?}")));
        let want = meaning(graph, &given);
        for ((name, got), want) in outcome.outputs.iter().zip(&want) {
            let (off, magnitude) = difference(got, want);
            if off.is_nan() || off > tolerance * magnitude.max(1.0) {
                faults.push(format!("run {number}: `{name}` is off by {off:e} of {magnitude:e}"));
            }
        }
        let outputs: Vec<Tensor> = outcome.outputs.into_iter().map(|(_, tensor)| tensor).collect();
        given = next(graph, &given, &outputs);
    }
    faults
}

#[test]
fn what_a_run_leaves_the_next_finds() {
    let mut found = String::new();
    for source in [REGRESSION, PLACES] {
        let graph = graph(source);
        for (system, precision, stack) in machines() {
            let cores = system.model.cores();
            let faults = match compiled(&graph, &system, precision, stack) {
                Ok(program) => faults(&graph, &program, 3, 1e-4),
                Err(error) => vec![format!("compile: {error}")],
            };
            for fault in faults {
                found += &format!("{} on {} of {cores}: {fault}\n", graph.name, system.name);
            }
        }
    }
    assert!(found.is_empty(), "{found}");
}

/// Names of states that a step of this kind writes where they lie.
fn written(program: &Program, kind: StepKind) -> Vec<String> {
    let writes = program.steps.values().filter(|step| step.kind == kind).flat_map(|step| &step.writes);
    let in_place = writes.filter(|write| write.mode == WriteMode::InPlace);
    in_place.map(|write| program.buffers[write.buffer].name.clone()).collect()
}

#[test]
fn new_values_are_written_where_states_lie() {
    let (regression, places) = (graph(REGRESSION), graph(PLACES));
    for (system, precision, stack) in machines() {
        let name = format!("{} {stack:?}", system.name);
        let program = compiled(&regression, &system, precision, stack).unwrap();
        let states = program.buffers.values().filter(|b| b.class == BufferClass::State).count();
        assert_eq!(states, 4, "{name}");
        for (state, (input, output)) in
            ["w", "b", "mean", "square"].iter().zip([(4, 1), (5, 2), (6, 3), (7, 4)])
        {
            assert_eq!(program.inputs[input], program.outputs[output].1, "{name}");
            assert_eq!(&program.buffers[program.inputs[input]].name, state, "{name}");
        }
        let of_host = program.steps.values().filter(|s| s.kind == StepKind::Host);
        let touched =
            of_host.flat_map(|s| s.reads.iter().map(|r| r.buffer).chain(s.writes.iter().map(|w| w.buffer)));
        let stays = |b| program.buffers[b].class == BufferClass::State;
        assert!(!touched.into_iter().any(stays), "{name} sends a state to the host");
        let kind = if program.pipelines.is_empty() { StepKind::Compute } else { StepKind::Stream };
        assert_eq!(written(&program, kind).len(), 4, "{name}\n{program}");
        // Two that change places, and one that is read as it was after it is made, need copies.
        let program = compiled(&places, &system, precision, stack).unwrap();
        let all: usize = [StepKind::Compute, StepKind::Stream, StepKind::Exchange]
            .iter()
            .map(|k| written(&program, *k).len())
            .sum();
        assert_eq!(all, 4, "{name}\n{program}");
    }
}

/// A tile with a little less memory than the program takes: what does not fit lies in streaming memory, also changed.
#[test]
fn states_that_do_not_fit_the_tiles_lie_behind_them() {
    let graph = graph(
        &REGRESSION
            .replace("12", "360")
            .replace("6]", "40]")
            .replace("[0.0, 0.0, 0.0, 0.0, 0.0, 0.0]", "absent"),
    );
    let system = |bytes| shrunk("gc200", &[("tiles", 12), ("tile_bytes", bytes)]);
    let roomy = compile_for(&graph, &system(638_976), "fp32").unwrap().program;
    let peaks = roomy.memory_use(&Bindings::new()).unwrap();
    let peak = peaks.iter().find(|(_, peak)| roomy.memories[peak.memory].cores > 1).unwrap().1.bytes;
    let program = compile_for(&graph, &system(peak - 64), "fp32").unwrap_or_else(|e| panic!("{e}")).program;
    assert_eq!(written(&program, StepKind::Stream), ["w", "mean", "square"], "{program}");
    assert_eq!(faults(&graph, &program, 2, 1e-4), Vec::<String>::new());
}

#[test]
fn memoryx_updates_what_it_holds() {
    let system = registry::find("cs3").unwrap();
    let program = compile_for(&graph(REGRESSION), system, "fp32").unwrap().program;
    let of = |kind: StepKind, unit: Unit| {
        program
            .steps
            .values()
            .filter(|s| s.kind == kind && s.unit == unit)
            .map(|s| &s.name[..])
            .collect::<Vec<_>>()
    };
    assert_eq!(of(StepKind::Compute, Unit::Outward).len(), 2, "{program}");
    assert_eq!(
        of(StepKind::Stream, Unit::Outward),
        ["rate from the wafer", "db from the wafer", "dw1 from the wafer"],
        "{program}"
    );
}

#[test]
fn states_on_the_wafer_change_once_all_items_have_passed() {
    let system = registry::find("cs2").unwrap();
    let graph = graph(REGRESSION);
    let program = compiled(&graph, system, "fp32", Some("cerebras_layer_pipelined")).unwrap();
    assert!(program.items > 1, "{program}");
    let pe = |b| program.memories[program.buffers[b].home].cores > 1;
    assert!(
        program.buffers.iter().all(|(b, buffer)| buffer.class != BufferClass::State || pe(b)),
        "{program}"
    );
    for step in program.steps.values().filter(|step| step.region.is_some()) {
        let changes = step.writes.iter().any(|w| program.buffers[w.buffer].class == BufferClass::State);
        let of_weights = step.reads.iter().all(|r| program.buffers[r.buffer].class == BufferClass::State);
        assert!(step.once || !changes && !of_weights, "`{}`\n{program}", step.name);
        let of_items = step.reads.iter().any(|r| program.buffers[r.buffer].by_item.is_some());
        assert!(!(step.once && of_items), "`{}`\n{program}", step.name);
    }
}

#[test]
fn groqchip_does_not_train() {
    let system = registry::find("groqchip").unwrap();
    let error = compile_for(&graph(REGRESSION), system, "fp16").unwrap_err();
    assert!(error.code == "unsupported-training" && error.cause.contains("inference machine"), "{error}");
}

/// A program of an A100 with the last step that writes a state changed by `damage`.
fn damaged(source: &str, damage: impl Fn(&mut Program, orrery_program::StepId)) -> String {
    let system = registry::find("a100-40gb").unwrap();
    let mut program = compile_for(&graph(source), system, "fp32").unwrap().program;
    let writes = |s: &orrery_program::Step| s.writes.iter().any(|w| w.mode == WriteMode::InPlace);
    let last = program.steps.iter().filter(|(_, s)| writes(s)).map(|(id, _)| id).next_back().unwrap();
    damage(&mut program, last);
    verify::verify(&program).expect_err("the program is broken").cause
}

#[test]
fn broken_states_are_found() {
    let filled = damaged(REGRESSION, |program, id| {
        program.steps[id].writes[0].mode = WriteMode::Fill;
    });
    assert!(filled.ends_with("(invariant 3)"), "{filled}");
    let elsewhere = damaged(REGRESSION, |program, id| {
        let step = &mut program.steps[id];
        let state = step.writes[0].buffer;
        let read = step.reads.iter_mut().find(|r| r.buffer == state).unwrap();
        read.access = vec![orrery_ir::op::Access::Whole];
    });
    assert!(elsewhere.ends_with("(invariant 13)"), "{elsewhere}");
}
