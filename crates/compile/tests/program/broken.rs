//! Programs broken on purpose: the verifier says which invariant, and a run that is not verified shows wrong numbers or
//! data that are not where a part looks for them.

use crate::common::{compile_for, difference, inputs, meaning, run, shrunk};
use crate::graphs::example;
use orrery_base::IndexVec;
use orrery_base::index::Id;
use orrery_ir::op::{Access, Combine};
use orrery_ir::{Bindings, Graph, Op};
use orrery_numerics::DType;
use orrery_program::{
    BufferClass, BufferId, Cutting, Layout, MemoryId, Program, Step, StepId, StepKind, Unit, WriteMode,
    verify,
};

const TILES: u64 = 24;

fn compiled(graph: &Graph, tile_bytes: u64) -> Program {
    let system = shrunk("gc200", &[("tiles", TILES), ("tile_bytes", tile_bytes)]);
    compile_for(graph, &system, "fp32").unwrap_or_else(|error| panic!("{error}")).program
}

fn find(program: &Program, wanted: impl Fn(&Program, &Step) -> bool) -> StepId {
    let found = program.steps.iter().find(|(_, step)| wanted(program, step));
    found.expect("the example has such a step").0
}

/// A step that computes from operands on tiles.
fn computes(_: &Program, step: &Step) -> bool {
    step.kind == StepKind::Compute && !step.grid.is_empty()
}

/// A step whose grid has two cut axes.
fn is_cut_twice(_: &Program, step: &Step) -> bool {
    step.kind == StepKind::Compute && step.grid.iter().filter(|cut| cut.is_cut()).count() > 1
}

fn is_split(_: &Program, step: &Step) -> bool {
    step.grid.iter().any(|cut| cut.name == "split" && matches!(cut.cutting, Cutting::Parts(3..)))
}

/// The steps in another order, each `after` led to where its step went; those that went behind are forgotten.
fn reorder(program: &mut Program, order: &[usize]) {
    let steps: IndexVec<StepId, Step> = order
        .iter()
        .enumerate()
        .map(|(to, &from)| {
            let mut step = program.steps[StepId::new(from)].clone();
            let moved = |old: &StepId| order.iter().position(|&o| o == old.index()).filter(|&new| new < to);
            step.after = step.after.iter().filter_map(moved).map(StepId::new).collect();
            step
        })
        .collect();
    program.steps = steps;
}

fn tile(program: &Program) -> MemoryId {
    program.memories.iter().find(|(_, memory)| memory.cores > 1).expect("tiles have memories").0
}

/// Writes all of a dimension in every part.
fn write_all(program: &mut Program) {
    let id = find(program, is_cut_twice);
    let step = &mut program.steps[id];
    let cut = |axis: usize| step.grid[axis].is_cut();
    let dim = step.writes[0].access.iter().position(|a| a.axis().is_some_and(cut)).unwrap();
    step.writes[0].access[dim] = Access::Whole;
}

fn drop_partial_sum(program: &mut Program) {
    let id = find(program, is_split);
    let cut = program.steps[id].grid.iter_mut().find(|cut| cut.name == "split").unwrap();
    let Cutting::Parts(parts) = cut.cutting else { panic!("a sum is cut in parts") };
    cut.cutting = Cutting::Parts(parts - 1);
    cut.extent = (parts as i64 - 1).into();
}

/// Exchanges the strides of two cuts of a step's grid: its parts run on other tiles.
fn swap_tiles(program: &mut Program) {
    let id = find(program, is_cut_twice);
    let cuts = &mut program.steps[id].grid;
    let cut: Vec<usize> = (0..cuts.len()).filter(|&i| cuts[i].is_cut()).collect();
    let stride = cuts[cut[0]].stride;
    cuts[cut[0]].stride = cuts[cut[1]].stride;
    cuts[cut[1]].stride = stride;
}

fn shift(program: &mut Program) {
    let id = find(program, computes);
    program.steps[id].base += 1;
}

fn leave_out_a_step(program: &mut Program) {
    let gone = find(program, |_, step| step.kind == StepKind::Exchange).index();
    let order: Vec<usize> = (0..program.steps.len()).filter(|&i| i != gone).collect();
    reorder(program, &order);
}

fn narrow_window(program: &mut Program) {
    let windows =
        |step: &Step| step.reads.iter().flat_map(|r| &r.access).any(|a| matches!(a, Access::Window { .. }));
    let id = find(program, |_, step| windows(step));
    for access in program.steps[id].reads.iter_mut().flat_map(|r| &mut r.access) {
        if let Access::Window { reach, .. } = access {
            *reach -= 1;
        }
    }
}

/// What breaks it, the invariant that says so, and how.
type Case = (&'static str, u32, fn(&mut Program));

const PRODUCT: &[Case] = &[
    ("an operand left out", 1, |p| {
        let id = find(p, computes);
        p.steps[id].reads.pop();
    }),
    ("a buffer that does not exist", 1, |p| {
        let id = find(p, computes);
        p.steps[id].reads[0].buffer = BufferId::new(p.buffers.len());
    }),
    ("an axis that does not exist", 1, |p| {
        let id = find(p, computes);
        p.steps[id].reads[0].access[0] = Access::along(9);
    }),
    ("another element type", 1, |p| {
        let buffer = p.steps[find(p, computes)].writes[0].buffer;
        p.buffers[buffer].dtype = DType::F16;
    }),
    ("a view of what comes later", 1, |p| {
        let (first, last) = (BufferId::new(0), BufferId::new(p.buffers.len() - 1));
        p.buffers[first].view_of = Some(last);
    }),
    ("a step that waits for itself", 1, |p| {
        let id = find(p, computes);
        p.steps[id].after.push(id);
    }),
    ("a step left out", 2, leave_out_a_step),
    ("a step before what it reads", 2, |p| {
        let mut order: Vec<usize> = (0..p.steps.len()).collect();
        let id = find(p, computes).index();
        let step = order.remove(id);
        order.insert(0, step);
        reorder(p, &order);
    }),
    ("a sum into what was never filled", 2, |p| {
        let id = find(p, computes);
        let write = &mut p.steps[id].writes[0];
        write.mode = WriteMode::Reduce(Combine::Sum);
        p.buffers[write.buffer].class = BufferClass::Accumulator;
    }),
    ("a parameter that is written", 3, |p| {
        let buffer = p.steps[find(p, computes)].writes[0].buffer;
        p.buffers[buffer].class = BufferClass::Parameter;
    }),
    ("a state that is filled", 3, |p| {
        let buffer = p.steps[find(p, computes)].writes[0].buffer;
        p.buffers[buffer].class = BufferClass::State;
    }),
    ("a buffer filled twice", 3, |p| {
        let mut order: Vec<usize> = (0..p.steps.len()).collect();
        let id = find(p, computes).index();
        order.insert(id, id);
        reorder(p, &order);
    }),
    ("an axis left out of a write", 4, write_all),
    ("one partial sum fewer", 4, drop_partial_sum),
    ("overlapping windows that are written", 4, |p| {
        let id = find(p, is_cut_twice);
        let step = &mut p.steps[id];
        let dim = step.writes[0]
            .access
            .iter()
            .position(|a| a.axis().is_some_and(|x| step.grid[x].is_cut()))
            .unwrap();
        let axis = step.writes[0].access[dim].axis().unwrap();
        step.writes[0].access[dim] = Access::Window { axis, stride: 1, before: 1, reach: 3 };
    }),
    ("an output that does not wait", 5, |p| {
        let id = find(p, |p, step| {
            step.kind == StepKind::Host && p.outputs.iter().any(|o| o.1 == step.writes[0].buffer)
        });
        p.steps[id].after.clear();
    }),
    ("two tiles swapped", 6, swap_tiles),
    ("all tiles one further", 6, shift),
    ("two blocks on one tile", 6, |p| {
        let (id, _) = p.buffers.iter().find(|(_, b)| b.layout.cuts.iter().any(|c| c.stride > 0)).unwrap();
        p.buffers[id].layout.cuts.iter_mut().for_each(|cut| cut.stride = 0);
    }),
    ("tiles that are not there", 6, |p| {
        let buffer = p.steps[find(p, computes)].writes[0].buffer;
        p.buffers[buffer].layout.base = TILES;
    }),
    ("an output that nothing writes", 8, |p| {
        let (_, buffer) = p.outputs[0].clone();
        let unwritten = p.buffers.push(p.buffers[buffer].clone());
        p.outputs.push(("other".into(), unwritten));
    }),
];

#[test]
fn the_verifier_names_the_invariant() {
    let sound = compiled(&example("deep product with followers"), 60_000);
    verify::verify(&sound).unwrap();
    for (name, invariant, damage) in PRODUCT {
        let mut program = sound.clone();
        damage(&mut program);
        let error = verify::verify(&program).expect_err(name);
        let said = format!("(invariant {invariant})");
        assert!(error.code == "program-invalid" && error.cause.ends_with(&said), "{name}: {error}");
    }
}

#[test]
fn the_verifier_says_by_how_much_it_does_not_fit() {
    let mut program = compiled(&example("deep product with followers"), 60_000);
    let id = tile(&program);
    let peak = program.memory_use(&Bindings::new()).unwrap()[id.index()].1.bytes;
    program.memories[id].bytes = peak;
    verify::verify(&program).unwrap();
    program.memories[id].bytes = peak - 7;
    let error = verify::verify(&program).unwrap_err();
    assert!(error.code == "does-not-fit" && error.cause.contains(": 7 B too much"), "{error}");
}

#[test]
fn streamed_weights_wait_for_their_places() {
    let sound = compiled(&example("two large products"), 64_000);
    let streams =
        |p: &Program| p.steps.iter().filter(|(_, s)| s.unit == Unit::Streaming).map(|s| s.0).next_back();
    let last = streams(&sound).expect("the weights do not fit on the tiles");
    let mut program = sound;
    program.steps[last].after.clear();
    let error = verify::verify(&program).unwrap_err();
    assert!(error.cause.ends_with("(invariant 9)"), "{error}");
}

/// How a run shows that a program is broken.
#[derive(Debug, PartialEq)]
enum Shown {
    /// A part does not find what it needs.
    Mapping,
    /// A step's results are not what its body means on its operands.
    Disagreement,
    /// Only the outputs are wrong.
    Output,
    Nothing,
}

fn shown(graph: &Graph, program: &Program) -> Shown {
    let inputs = inputs(graph, &Bindings::new(), 5);
    let outcome = match run(program, &inputs) {
        Ok(outcome) => outcome,
        Err(error) if error.code == "mapping" => return Shown::Mapping,
        Err(error) => panic!("{error}"),
    };
    if !outcome.disagreements.is_empty() {
        return Shown::Disagreement;
    }
    let wrong = outcome.outputs.iter().zip(meaning(graph, &inputs)).any(|((_, got), want)| {
        let (off, magnitude) = difference(got, &want);
        off > 1e-4 * magnitude.max(1.0)
    });
    if wrong { Shown::Output } else { Shown::Nothing }
}

#[test]
fn a_run_shows_what_is_broken() {
    use Shown::{Disagreement, Mapping, Nothing, Output};
    let cases: &[(&str, &str, fn(&mut Program), &[Shown])] = &[
        ("deep product with followers", "nothing", |_| {}, &[Nothing]),
        ("deep product with followers", "a dropped partial sum", drop_partial_sum, &[Disagreement]),
        ("square product", "two tiles swapped", swap_tiles, &[Disagreement, Mapping]),
        ("square product", "all tiles one further", shift, &[Disagreement, Mapping]),
        ("square product", "an axis left out of a write", write_all, &[Mapping]),
        ("convolution", "windows without their last row", narrow_window, &[Mapping]),
        ("square product", "an exchange left out", leave_out_a_step, &[Mapping]),
        (
            "movements between products",
            "a movement left out of an exchange",
            |p| {
                let turns = |step: &Step| step.body.nodes.values().any(|n| n.op == Op::Transpose);
                let id = find(p, |_, s| s.kind == StepKind::Exchange && turns(s));
                for (_, node) in p.steps[id].body.nodes.iter_mut().filter(|(_, n)| n.op == Op::Transpose) {
                    (node.op, node.attrs) = (Op::Identity, Default::default());
                }
            },
            &[Output, Mapping],
        ),
    ];
    for (name, how, damage, expected) in cases {
        let graph = example(name);
        let mut program = compiled(&graph, 638_976);
        damage(&mut program);
        let shown = shown(&graph, &program);
        assert!(expected.contains(&shown), "{name}, {how}: {shown:?}");
    }
}

/// A layout that puts the blocks of one buffer on other tiles, in the steps too, is as good as before.
#[test]
fn what_is_moved_as_a_whole_is_sound() {
    let graph = example("square product");
    let mut program = compiled(&graph, 638_976);
    // The program is compiled for all tiles; on a machine that has more of them it can move.
    let more = 3;
    let tile = tile(&program);
    program.memories[tile].cores += more;
    let id = find(&program, computes);
    let touched: Vec<BufferId> = {
        let step = &program.steps[id];
        step.reads.iter().map(|r| r.buffer).chain(step.writes.iter().map(|w| w.buffer)).collect()
    };
    let uses = |b: BufferId| {
        let mut all = program.steps.values().filter(|s| s.kind == StepKind::Compute);
        all.any(|s| s.name != program.steps[id].name && s.reads.iter().any(|r| r.buffer == b))
    };
    assert!(!touched.iter().any(|b| uses(*b)), "only this step computes from them");
    program.steps[id].base += more;
    for buffer in touched {
        let layout = &mut program.buffers[buffer].layout;
        *layout = Layout { base: layout.base + more, ..layout.clone() };
    }
    verify::verify(&program).unwrap();
    assert_eq!(shown(&graph, &program), Shown::Nothing);
}
