//! Spatial machines: sections and what they keep, on whole and on shrunk machines.

use crate::common::{compile_for, faults_of, shrunk, target};
use crate::graphs::examples;
use orrery_compile::{Options, compile};
use orrery_cost::Target;
use orrery_ir::{Attrs, Bindings, Builder, Graph, Op};
use orrery_machine::{System, registry};
use orrery_numerics::DType;
use orrery_program::{
    BufferClass, BufferId, MemoryId, Pieces, PipelineId, Program, Range, Stage, Step, StepId, StepKind,
    access_range, verify,
};
use std::collections::{BTreeMap, BTreeSet};

/// A chain of products by weights of 256 x 256, with rectifiers, over `rows` rows.
fn chain(rows: i64, layers: usize) -> Graph {
    let mut b = Builder::new("chain", 5);
    let mut x = b.input("x", DType::F32, [rows, 256]);
    for i in 0..layers {
        let w = b.weight(&format!("w{i}"), [256_i64, 256], 0.06);
        x = b.op(Op::MatMul, &format!("y{i}"), &[x, w], Attrs::new());
        x = b.op(Op::Relu, &format!("r{i}"), &[x], Attrs::new());
    }
    b.finish(&[("x", x)]).unwrap()
}

/// A model of the zoo with its dimensions bound.
fn zoo(name: &str, bound: &[(&str, i64)]) -> Graph {
    let model = orrery_zoo::find(name).unwrap();
    let mut graph = model.build(&orrery_zoo::Options::default()).unwrap();
    let mut bindings = model.default_bindings(&graph);
    bindings.extend(bound.iter().map(|(symbol, value)| ((*symbol).to_owned(), *value)));
    orrery_ir::infer::bind(&mut graph, &bindings).unwrap();
    graph
}

/// A chip with so many PCUs and as many PMUs.
fn chip(units: u64) -> System {
    shrunk("sn10", &[("pcus", units), ("pmus", units)])
}

fn pmu(program: &Program) -> MemoryId {
    program.memories.iter().find(|(_, memory)| memory.name == "pmu").unwrap().0
}

fn loads(program: &Program) -> Vec<&Step> {
    program.steps.values().filter(|step| step.kind == StepKind::Load).collect()
}

#[test]
fn a_model_that_fits_is_one_section_and_stays() {
    let program = compile_for(&chain(64, 6), &chip(640), "fp32").unwrap().program;
    assert_eq!(loads(&program).len(), 1);
    assert_eq!(loads(&program)[0].stage.unwrap().cores, 0, "its program stays loaded");
    let weights = program.buffers.values().filter(|b| b.class == BufferClass::Parameter);
    assert!(weights.clone().count() == 6 && weights.clone().all(|b| b.home == pmu(&program)), "weights stay");
}

#[test]
fn what_does_not_fit_is_cut_into_sections() {
    // Six weights of 256 KiB; eight PMUs of 512 KiB of which placement leaves six, some of them for what passes.
    let graph = chain(64, 6);
    let program = compile_for(&graph, &chip(8), "fp32").unwrap().program;
    let sections = loads(&program);
    assert!((2..6).contains(&sections.len()), "{} sections", sections.len());
    let weights = program.buffers.values().filter(|b| b.class == BufferClass::Parameter);
    assert!(weights.clone().all(|b| b.home != pmu(&program)), "weights are brought for each section");
    assert_eq!(faults_of(&graph, &program, &Bindings::new(), 1e-5), Vec::<String>::new());
    // Equal sections have one program.
    let reused = sections.iter().filter(|step| step.stage.unwrap().cores == 0).count();
    assert!(reused > 0, "a section like the one before needs no program");
}

#[test]
fn weights_that_no_section_holds_are_streamed() {
    let graph = chain(64, 2);
    let system = shrunk("sn10", &[("pcus", 8), ("pmus", 8), ("pmu_bytes", 32_768)]);
    let program = compile_for(&graph, &system, "fp32").unwrap().program;
    let ddr = program.memories.iter().find(|(_, m)| m.name == "ddr").unwrap().0;
    let direct = |step: &&Step| {
        step.kind == StepKind::Compute && step.reads.iter().any(|r| program.buffers[r.buffer].home == ddr)
    };
    assert_eq!(program.steps.values().filter(direct).count(), 2);
    assert_eq!(faults_of(&graph, &program, &Bindings::new(), 1e-5), Vec::<String>::new());
}

#[test]
fn memory_behind_the_chip_has_an_end() {
    let system = shrunk("sn10", &[("pcus", 8), ("pmus", 8), ("ddr_bytes", 1_000_000)]);
    let refused = compile_for(&chain(64, 8), &system, "fp32").unwrap_err();
    assert_eq!(refused.code, "does-not-fit");
    assert!(refused.cause.contains("of `ddr`") && refused.cause.contains("too much"), "{}", refused.cause);
}

#[test]
fn stacks_fuse_op_by_op_by_rules_or_the_whole_graph() {
    let (graph, system) = (chain(64, 6), chip(640));
    let sections = |stack: &str| {
        let target = Target::new(&system, Some("fp32"), Some(stack)).unwrap();
        let program = compile(&graph, &target, &Options::default()).unwrap().program;
        assert_eq!(faults_of(&graph, &program, &Bindings::new(), 1e-5), Vec::<String>::new());
        loads(&program).len()
    };
    assert_eq!([sections("sambaflow-o0"), sections("sambaflow-o1"), sections("sambaflow")], [12, 6, 1]);
}

#[test]
fn what_a_backward_pass_needs_is_kept() {
    let (graph, system) = (chain(64, 3), chip(640));
    let kept = |keep_results: bool| {
        let options = Options { keep_results, ..Options::default() };
        let program = compile(&graph, &target(&system, "fp32"), &options).unwrap().program;
        assert_eq!(faults_of(&graph, &program, &Bindings::new(), 1e-5), Vec::<String>::new());
        let home = pmu(&program);
        let leaves = |step: &&Step| {
            step.kind == StepKind::Stream && program.buffers[step.reads[0].buffer].home == home
        };
        program.steps.values().filter(leaves).count()
    };
    assert_eq!((kept(false), kept(true)), (1, 3));
}

/// A table of which rows are picked stays where it is, whatever fits.
#[test]
fn tables_are_picked_from_where_they_lie() {
    let mut b = Builder::new("table", 5);
    let rows = b.input("rows", DType::I64, [7_i64]);
    let table = b.weight("table", [100_i64, 32], 1.0);
    let x = b.op(Op::Gather, "picked", &[table, rows], Attrs::new());
    let w = b.weight("w", [32_i64, 32], 0.1);
    let y = b.op(Op::MatMul, "y", &[x, w], Attrs::new());
    let graph = b.finish(&[("y", y)]).unwrap();
    let program = compile_for(&graph, &chip(640), "fp32").unwrap().program;
    let home = |name: &str| {
        let buffer = program.buffers.values().find(|b| b.name == name && b.class == BufferClass::Parameter);
        program.memories[buffer.unwrap().home].name.clone()
    };
    assert_eq!((home("table"), home("w")), ("ddr".to_owned(), "pmu".to_owned()));
    assert_eq!(faults_of(&graph, &program, &Bindings::new(), 1e-5), Vec::<String>::new());
}

/// Blocks that repeat themselves become equal sections, and the program is loaded for the first of them only.
#[test]
fn equal_sections_load_their_program_once() {
    let bound = zoo("bert_tiny", &[("batch", 2), ("seq", 24)]);
    let system = shrunk("sn10", &[("pcus", 40), ("pmus", 40), ("pmu_bytes", 16_384)]);
    let program = compile_for(&bound, &system, "fp32").unwrap().program;
    let sections = loads(&program);
    let again = sections.iter().filter(|step| step.stage.unwrap().cores == 0).count();
    assert!(sections.len() > 2, "{} sections", sections.len());
    assert_eq!(faults_of(&bound, &program, &Bindings::new(), 1e-4), Vec::<String>::new());
    let chain = compile_for(&chain(64, 40), &chip(8), "fp32").unwrap().program;
    let programs = loads(&chain).iter().filter(|step| step.stage.unwrap().cores > 0).count();
    assert!(programs <= 3 && loads(&chain).len() > 9, "{programs} of {}, {again}", loads(&chain).len());
}

/// Weights go to the high-bandwidth memory until it is full.
#[test]
fn tiers_hold_what_they_can() {
    let system = shrunk("sn40l", &[("pcus", 8), ("pmus", 8), ("hbm_bytes", 1_000_000)]);
    let program = compile_for(&chain(64, 8), &system, "fp32").unwrap().program;
    let weights = |name: &str| {
        let home = program.memories.iter().find(|(_, m)| m.name == name).unwrap().0;
        let there = |b: &&orrery_program::Buffer| b.class == BufferClass::Parameter && b.home == home;
        program.buffers.values().filter(there).count()
    };
    assert_eq!(weights("hbm") + weights("ddr"), 8);
    assert!(weights("hbm") > 0 && weights("ddr") > 0, "{} in HBM", weights("hbm"));
}

/// Elements of a buffer that a part of a step touches, one by one.
fn elements(
    program: &Program,
    id: BufferId,
    access: &[orrery_ir::op::Access],
    bounds: &[Range],
) -> BTreeSet<i64> {
    let extents: Vec<i64> = program.buffers[id].shape.iter().map(|d| d.known().unwrap()).collect();
    let mut all = BTreeSet::from([0]);
    for (access, &extent) in access.iter().zip(&extents) {
        let range = access_range(access, bounds, extent, &Bindings::new()).unwrap();
        let inside = range.lo.max(0)..range.hi.min(extent);
        all = all.iter().flat_map(|at| inside.clone().map(move |i| at * extent + i)).collect();
    }
    all
}

/// For each part of a step in order, the elements of a buffer that it touches.
fn by_part(program: &Program, step: &Step, id: BufferId) -> Vec<BTreeSet<i64>> {
    let grid = orrery_program::BoundGrid::new(step.base, &step.grid, &Bindings::new()).unwrap();
    let reads = step.reads.iter().map(|r| (r.buffer, &r.access));
    let operand =
        reads.chain(step.writes.iter().map(|w| (w.buffer, &w.access))).find(|(b, _)| *b == id).unwrap();
    let parts = (0..grid.parts()).map(|part| grid.box_at(&grid.position(part)));
    parts.map(|bounds| elements(program, id, operand.1, &bounds)).collect()
}

/// What a buffer in pieces keeps is enough for a maker and its next user: goes through the parts of both one by one, the
/// user as soon as it can, and counts the elements that must be there at once.
#[test]
fn pieces_that_are_kept_are_enough() {
    let mut followed = 0;
    let models = [zoo("braggnn", &[("batch", 8)]), zoo("bert_tiny", &[("batch", 3), ("seq", 13)])];
    let examples = || examples(DType::F32).filter(|(name, _)| *name != "scalars and nothing");
    for (units, bytes) in [(9, 4096), (40, 65_536)] {
        let system = shrunk("sn10", &[("pcus", units), ("pmus", units), ("pmu_bytes", bytes)]);
        for (name, graph) in examples().chain(models.iter().map(|graph| ("zoo", graph.clone()))) {
            let program =
                compile_for(&graph, &system, "fp32").unwrap_or_else(|e| panic!("{name}: {e}")).program;
            for (id, buffer) in program.buffers.iter() {
                let Some(pieces) = buffer.pieces else { continue };
                let touches = |step: &&Step| {
                    step.kind == StepKind::Compute
                        && step
                            .reads
                            .iter()
                            .map(|r| r.buffer)
                            .chain(step.writes.iter().map(|w| w.buffer))
                            .any(|b| b == id)
                };
                let touching: Vec<&Step> = program.steps.values().filter(touches).collect();
                let [maker, user] = touching[..] else { continue };
                if maker.writes.iter().all(|w| w.buffer != id) {
                    continue;
                }
                let (made, used) = (by_part(&program, maker, id), by_part(&program, user, id));
                let all: usize = made.iter().map(BTreeSet::len).sum();
                let most = most_at_once(&made, &used);
                let kept = all.div_ceil(pieces.of as usize) * pieces.kept as usize;
                assert!(most <= kept, "{name}: `{}` needs {most} of {all} elements, {pieces:?}", buffer.name);
                followed += 1;
            }
        }
    }
    assert!(followed > 20, "{followed} buffers");
}

/// Elements that are there at once at most, where the maker makes a part when the user lacks something for its next.
fn most_at_once(made: &[BTreeSet<i64>], used: &[BTreeSet<i64>]) -> usize {
    let mut last_use: BTreeMap<i64, usize> = BTreeMap::new();
    for (part, elements) in used.iter().enumerate() {
        last_use.extend(elements.iter().map(|element| (*element, part)));
    }
    let (mut there, mut most, mut next) = (BTreeSet::new(), 0, 0);
    for (part, needed) in used.iter().enumerate() {
        while !needed.is_subset(&there) {
            there.extend(made[next].iter().copied());
            next += 1;
            most = most.max(there.len());
        }
        there.retain(|e| last_use.get(e).is_some_and(|last| *last > part));
    }
    most
}

/// Units and bytes that every section takes, counted one by one.
#[test]
fn every_section_fits() {
    let mut sections = 0;
    for (units, bytes) in [(9, 4096), (40, 65_536), (640, 524_288)] {
        let system = shrunk("sn10", &[("pcus", units), ("pmus", units), ("pmu_bytes", bytes)]);
        for (name, graph) in examples(DType::F32) {
            let program =
                compile_for(&graph, &system, "fp32").unwrap_or_else(|e| panic!("{name}: {e}")).program;
            for pipeline in program.pipelines.ids() {
                let steps =
                    program.steps.values().filter(|s| s.stage.is_some_and(|s| s.pipeline == pipeline));
                let working = steps.clone().filter(|s| s.kind != StepKind::Load);
                let cores: u64 = working.clone().map(|s| s.stage.unwrap().cores).sum();
                assert!(cores <= units, "{name} {pipeline}: {cores} PCUs of {units}");
                let touched = working
                    .flat_map(|s| s.reads.iter().map(|r| r.buffer).chain(s.writes.iter().map(|w| w.buffer)));
                let here: BTreeSet<BufferId> = touched.map(|b| program.storage(b)).collect();
                let here = here.into_iter().filter(|b| program.buffers[*b].home == pmu(&program));
                let taken: u64 =
                    here.map(|b| program.block_bytes(b, &Bindings::new()).unwrap().div_ceil(bytes)).sum();
                assert!(taken <= units, "{name} {pipeline}: {taken} PMUs of {units}");
                sections += 1;
            }
        }
    }
    assert!(sections > 60, "{sections} sections");
}

type Break = fn(&mut Program);

/// What breaks a pipeline, and how.
const PIPELINES: &[(&str, Break)] = &[
    ("more cores than there are", |p| {
        let id = first(p, |_, step| step.kind == StepKind::Compute);
        p.steps[id].stage.as_mut().unwrap().cores = p.pipelines[PipelineId(0)].cores + 1;
    }),
    ("a load of more cores than there are", |p| {
        let id = first(p, |_, step| step.kind == StepKind::Load);
        p.steps[id].stage.as_mut().unwrap().cores = p.pipelines[PipelineId(0)].cores + 1;
    }),
    ("a pipeline that does not exist", |p| {
        let id = first(p, |_, step| step.kind == StepKind::Compute);
        p.steps[id].stage = Some(Stage { pipeline: PipelineId(99), cores: 1 });
    }),
    ("a stage outside of its pipeline", |p| {
        let id = first(p, |_, step| step.kind == StepKind::Compute);
        p.steps[id].stage = None;
    }),
    ("a piece that is used by no stage", |p| {
        let id = first(p, |p, step| {
            step.kind == StepKind::Stream && step.reads.iter().any(|r| p.buffers[r.buffer].pieces.is_some())
        });
        let buffer = p.steps[id].reads[0].buffer;
        let last = p.steps.len() - 1;
        let last = StepId(last as u32);
        p.steps[last].reads[0].buffer = buffer;
    }),
    ("more pieces kept than there are", |p| keep(p, |pieces| pieces.kept = pieces.of + 1)),
    ("no piece kept", |p| keep(p, |pieces| pieces.kept = 0)),
    ("finer pieces than parts", |p| keep(p, |pieces| pieces.of *= 1000)),
];

fn first(program: &Program, wanted: impl Fn(&Program, &Step) -> bool) -> StepId {
    program.steps.iter().find(|(_, step)| wanted(program, step)).expect("the example has such a step").0
}

/// Changes the pieces of a buffer that two stages pass on.
fn keep(program: &mut Program, change: impl Fn(&mut Pieces)) {
    let made = |step: &Step| {
        step.kind == StepKind::Compute && program.buffers[step.writes[0].buffer].pieces.is_some()
    };
    let id = first(program, |_, step| made(step));
    let buffer = program.steps[id].writes[0].buffer;
    change(program.buffers[buffer].pieces.as_mut().unwrap());
}

#[test]
fn broken_pipelines_are_refused() {
    let good = compile_for(&chain(64, 6), &chip(8), "fp32").unwrap().program;
    verify::verify(&good).unwrap();
    for (name, break_it) in PIPELINES {
        let mut program = good.clone();
        break_it(&mut program);
        let refused = verify::verify(&program).expect_err(name);
        assert_eq!(refused.code, "program-invalid", "{name}: {refused}");
        assert!(refused.cause.contains("(invariant 11)"), "{name}: {refused}");
    }
}

/// Pieces that are too few for what passes show in the memory that is counted, not in the numbers: so the count must follow.
#[test]
fn memory_counts_what_is_kept() {
    let mut program = compile_for(&chain(64, 6), &chip(640), "fp32").unwrap().program;
    let (home, before) = (pmu(&program), used(&program));
    let buffer =
        program.buffers.iter().find(|(_, b)| b.home == home && b.pieces.is_some_and(|p| p.of > p.kept));
    let id = buffer.expect("a buffer of which a part is kept").0;
    let whole = 64 * 256 * 4;
    let kept = program.block_bytes(id, &Bindings::new()).unwrap();
    assert!(kept < whole, "{kept}");
    program.buffers[id].pieces = None;
    assert_eq!(used(&program), before + whole - kept);
}

fn used(program: &Program) -> u64 {
    let uses = program.memory_use(&Bindings::new()).unwrap();
    uses.iter().find(|(_, peak)| peak.memory == pmu(program)).unwrap().1.bytes
}

#[test]
fn compiling_twice_gives_the_same_program() {
    let bound = zoo("bert_tiny", &[]);
    let system = registry::find("sn10").unwrap();
    let text = || compile_for(&bound, system, "fp32").unwrap().program.to_string();
    let printed = text();
    assert_eq!(printed, text());
    let parsed = orrery_program::text::parse(&printed).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(parsed.to_string(), printed);
}
