//! Training steps: forward, backward and update, each step of their Programs held against the interpreter.

use crate::common::{inputs, run, shrunk};
use orrery_base::index::Id;
use orrery_compile::{Options, Streamed, compile};
use orrery_cost::Target;
use orrery_ir::{Bindings, Graph, NodeId, Op, infer};
use orrery_machine::{System, registry};
use orrery_numerics::{Rounding, Tensor};
use orrery_program::{
    BufferClass, BufferId, Cutting, Phase, PipelineId, Program, Step as ProgramStep, StepId, StepKind,
};
use orrery_transform::training::{Loss, Optimizer, Spec, StateKind, Step, step};
use orrery_transform::{PrecisionSpec, Weights, store_border};
use orrery_zoo::find;
use std::collections::{BTreeMap, BTreeSet};

/// Convolutions, pooling, dense layers.
const CNN: (&str, &str, &[(&str, i64)]) = ("mnist_cnn", "filters=4 hidden=8", &[("batch", 3)]);
/// Embedding, attention, layer normalization.
const BLOCK: (&str, &str, &[(&str, i64)]) = (
    "gpt_tiny",
    "layers=1 width=16 heads=2 hidden=32 vocabulary=24 positions=8",
    &[("batch", 2), ("seq", 6)],
);

/// The step by Adam of the cross-entropy of a model, in the number formats of a machine.
fn made((name, options, bound): (&str, &str, &[(&str, i64)]), target: &Target<'_>) -> (Step, Graph) {
    let model = find(name).unwrap();
    let options = orrery_zoo::Options::parse(options.split_whitespace()).unwrap();
    let mut graph = model.build(&options).unwrap();
    let mut bindings: Bindings = model.default_bindings(&graph);
    bindings.extend(bound.iter().map(|(symbol, value)| ((*symbol).to_owned(), *value)));
    infer::bind(&mut graph, &bindings).unwrap();
    let formats = PrecisionSpec {
        storage: target.precision.storage,
        multiply: target.precision.multiply.clone(),
        accumulate: target.precision.accumulate.name().to_owned(),
        stochastic: false,
    };
    let spec = Spec::new(Loss::CrossEntropy, Optimizer::parse("adam").unwrap());
    let step =
        step(&graph, &spec, Some(&formats), Weights::Compute).unwrap_or_else(|e| panic!("{name}: {e}"));
    let graph = store_border(&step.graph).unwrap();
    (step, graph)
}

/// Data, labels and parameters at random, moments as before the first step.
fn given(step: &Step, graph: &Graph) -> Vec<Tensor> {
    let mut given = inputs(graph, &Bindings::new(), 5);
    let scaled = |tensor: &Tensor, factor: f64, more: f64| {
        let values = tensor.to_f64().unwrap().iter().map(|x| x * factor + more).collect::<Vec<_>>();
        Tensor::from_f64(tensor.dtype(), tensor.shape().to_vec(), values, Rounding::NearestEven, false)
    };
    for (scalar, value) in [(step.learning_rate, 0.01), (step.step, 1.0)] {
        given[scalar] = scaled(&given[scalar], 0.0, value);
    }
    for slot in &step.states {
        let factor = if slot.kind == StateKind::Parameter { 0.1 } else { 0.0 };
        given[slot.input] = scaled(&given[slot.input], factor, 0.0);
    }
    given
}

fn compiled(model: (&str, &str, &[(&str, i64)]), system: &System) -> (Program, Vec<Tensor>) {
    let target = Target::new(system, None, None).unwrap_or_else(|error| panic!("{error}"));
    let (step, graph) = made(model, &target);
    let compiled = compile(&graph, &target, &Options::default());
    let program =
        compiled.unwrap_or_else(|error| panic!("{} on {}: {error}", graph.name, system.name)).program;
    (program, given(&step, &graph))
}

fn check(model: (&str, &str, &[(&str, i64)]), machines: &[&str]) {
    let mut found = String::new();
    for name in machines {
        let (program, given) = compiled(model, registry::find(name).unwrap());
        match run(&program, &given) {
            Ok(outcome) => {
                assert!(outcome.checked > 10, "{name}: {} steps are checked", outcome.checked);
                outcome.disagreements.iter().for_each(|d| found += &format!("{name}: {d:?}\n"));
                let loss = outcome.outputs[0].1.to_f64().unwrap()[0];
                if !(0.1..10.0).contains(&loss) {
                    found += &format!("{name}: the loss is {loss}\n");
                }
            }
            Err(error) => found += &format!("{name}: {error}\n"),
        }
    }
    assert!(found.is_empty(), "{found}");
}

#[test]
fn steps_of_a_convolutional_network_are_what_they_mean() {
    check(CNN, &["a100-40gb", "gc200", "bow", "sn30", "cs2", "gaudi"]);
}

#[test]
fn steps_of_a_transformer_block_are_what_they_mean() {
    // On an SN30 the sums of an embedding's gradient are cut, for which there is no bound yet.
    check(BLOCK, &["a100-40gb", "gc200", "bow", "cs2", "gaudi"]);
}

/// The step of a weight gradient whose sum is cut into several.
fn cut_gradient(program: &Program) -> StepId {
    let is_cut = |step: &ProgramStep| {
        step.body.nodes.values().next().is_some_and(|node| node.op == Op::ConvWeightGrad)
            && step.grid.iter().any(|cut| cut.name == "split" && matches!(cut.cutting, Cutting::Parts(2..)))
    };
    program.steps.iter().find(|(_, step)| is_cut(step)).expect("a weight gradient is a long sum").0
}

#[test]
fn partial_sums_of_a_weight_gradient_that_are_dropped_are_seen() {
    let few = shrunk("gc200", &[("tiles", 24), ("tile_bytes", 4_000_000)]);
    let (mut program, given) = compiled(CNN, &few);
    assert!(run(&program, &given).unwrap().disagreements.is_empty());
    let id = cut_gradient(&program);
    let cut = program.steps[id].grid.iter_mut().find(|cut| cut.name == "split").unwrap();
    let Cutting::Parts(parts) = cut.cutting else { panic!("a sum is cut in parts") };
    // The last positions alone may have no gradient, where pooling has left them over.
    cut.cutting = Cutting::Parts(parts / 2);
    cut.extent = (parts as i64 / 2).into();
    let seen = match run(&program, &given) {
        Ok(outcome) => outcome.disagreements.iter().any(|d| d.step == id),
        Err(error) => error.code == "mapping",
    };
    assert!(seen, "the sum lacks half its parts, and nothing is said");
}

/// The node of `stored` from which on it has those of a step's graph from number `at` on.
fn first_of(graph: &Graph, at: usize, stored: &Graph) -> NodeId {
    let made: BTreeSet<&str> = (at..graph.nodes.len())
        .flat_map(|at| graph.nodes[NodeId::new(at)].outputs.iter().flatten())
        .map(|value| graph.values[*value].name.as_str())
        .collect();
    let outputs = |id: NodeId| stored.nodes[id].outputs.iter().flatten();
    let mut found = stored.nodes.ids();
    found.find(|id| outputs(*id).any(|v| made.contains(stored.values[*v].name.as_str()))).unwrap()
}

#[test]
fn sections_have_steps_of_one_part_and_make_gradients_where_they_are_read() {
    let system = registry::find("sn30").unwrap();
    let target = Target::new(system, None, None).unwrap();
    let (step, graph) = made(CNN, &target);
    let parts = [step.backward, step.update].map(|at| first_of(&step.graph, at, &graph));
    let options = Options { training: Some((parts[0], parts[1])), ..Options::default() };
    let program = compile(&graph, &target, &options).unwrap().program;
    let mut phases: BTreeMap<PipelineId, BTreeSet<Phase>> = BTreeMap::new();
    for step in program.steps.values() {
        let Some(stage) = step.stage.filter(|_| step.kind != StepKind::Stream) else { continue };
        phases.entry(stage.pipeline).or_default().insert(step.phase);
    }
    assert_eq!(phases.len(), 3, "a section each for the forward pass, the backward pass and the update");
    assert!(phases.values().all(|phases| phases.len() == 1), "{phases:?}");
    // Nothing is turned for a product of two matrices.
    let turned: BTreeSet<BufferId> = program
        .steps
        .values()
        .filter(|step| step.body.nodes.values().any(|node| node.op == Op::Transpose))
        .flat_map(|step| step.writes.iter().map(|w| w.buffer))
        .collect();
    let multiplies = |step: &&ProgramStep| step.body.nodes.values().any(|n| n.op == Op::Gemm);
    let products: Vec<&ProgramStep> = program.steps.values().filter(multiplies).collect();
    assert!(products.iter().flat_map(|step| &step.reads).all(|read| !turned.contains(&read.buffer)));
    let outcome = run(&program, &given(&step, &graph)).unwrap();
    assert!(outcome.disagreements.is_empty(), "{:?}", outcome.disagreements);
}

/// A step of a network of wide layers on tiles of so many bytes, as [`Options`] have it.
fn on_tiles(bytes: u64, options: Options) -> orrery_base::Result<(Program, Vec<Tensor>)> {
    let system = shrunk("gc200", &[("tiles", 24), ("tile_bytes", bytes)]);
    let target = Target::new(&system, None, None)?;
    let (step, graph) = made(("mnist_cnn", "filters=4 hidden=64", &[("batch", 3)]), &target);
    let parts = [step.backward, step.update].map(|at| first_of(&step.graph, at, &graph));
    let options = Options { training: Some((parts[0], parts[1])), ..options };
    Ok((compile(&graph, &target, &options)?.program, given(&step, &graph)))
}

#[test]
fn moments_behind_the_tiles_go_back_before_the_next_update() {
    let at = |bytes| on_tiles(bytes, Options { streamed: Streamed::Moments, ..Options::default() });
    // The smallest tiles that hold the rest.
    let (mut no, mut yes) = (16_384, 4_000_000);
    while yes - no > 64 {
        let middle = (no + yes) / 2;
        if at(middle).is_ok() { yes = middle } else { no = middle }
    }
    let (program, given) = at(yes).unwrap();
    orrery_program::verify::verify(&program).unwrap();
    let behind = |buffer: BufferId| {
        let buffer = &program.buffers[buffer];
        buffer.class == BufferClass::State && program.memories[buffer.home].name == "streaming"
    };
    let updates = |step: &ProgramStep| step.body.nodes.values().any(|node| node.op == Op::AdamStep);
    let mut gone = 0;
    for (id, step) in program.steps.iter() {
        let Some(write) = step.writes.iter().find(|write| behind(write.buffer)) else { continue };
        gone += 1;
        let makes =
            |(_, s): &(StepId, &ProgramStep)| s.writes.iter().any(|w| w.buffer == step.reads[0].buffer);
        let (maker, _) = program.steps.iter().find(makes).expect("a step makes the new value");
        let between = program.steps.iter().filter(|(other, s)| *other > maker && *other < id && updates(s));
        assert_eq!(between.count(), 0, "{} waits for other updates", program.buffers[write.buffer].name);
    }
    assert!(gone > 0, "all moments are on the tiles");
    let outcome = run(&program, &given).unwrap();
    assert!(outcome.disagreements.is_empty(), "{:?}", outcome.disagreements);
}

#[test]
fn a_step_over_several_chips_is_what_it_means() {
    let (program, given) = on_tiles(1_000_000, Options { more_chips: 3, ..Options::default() }).unwrap();
    let outcome = run(&program, &given).unwrap();
    assert!(outcome.disagreements.is_empty(), "{:?}", outcome.disagreements);
    assert!(outcome.checked > 10);
}
