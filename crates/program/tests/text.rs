//! Print, parse, print gives the same program and the same text; no text makes the parser or the verifier panic.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking too")]

use orrery_base::index::Id;
use orrery_ir::op::{Access, Combine, Work};
use orrery_ir::{Attrs, Dim, Graph, Op, Type, Weight};
use orrery_numerics::{DType, Tensor};
use orrery_program::{
    Arithmetic, Buffer, BufferClass, BufferId, Cut, Cutting, Growth, Layout, Memory, MemoryId, Phase, Pieces,
    Pipeline, PipelineId, Program, Read, Region, RoundingMode, Stage, Step, StepId, StepKind, Tile, Unit,
    Write, WriteMode, text, verify,
};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::{collection, option};

fn name() -> impl Strategy<Value = String> {
    prop_oneof![3 => "[a-z_/.][a-z0-9_./]{0,6}", 1 => any::<String>()]
}

fn dim() -> impl Strategy<Value = Dim> {
    prop_oneof![
        4 => (-3_i64..70).prop_map(Dim::Known),
        1 => any::<i64>().prop_map(Dim::Known),
        2 => select(&["batch", "seq", "stride", "a b"][..]).prop_map(Dim::symbol),
        1 => (0_i64..9).prop_map(|n| Dim::symbol("seq") * Dim::Known(n) + Dim::Known(1)),
    ]
}

fn count() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0_u64..65, 1 => any::<u64>()]
}

fn cut() -> impl Strategy<Value = Cut> {
    let cutting = prop_oneof![count().prop_map(Cutting::Parts), count().prop_map(Cutting::Blocks)];
    (name(), dim(), cutting, count()).prop_map(|(name, extent, cutting, stride)| Cut {
        name,
        extent,
        cutting,
        stride,
    })
}

fn access() -> impl Strategy<Value = Access> {
    let number = || prop_oneof![8 => -3_i64..9, 1 => any::<i64>()];
    prop_oneof![
        Just(Access::Whole),
        (0_usize..3).prop_map(Access::along),
        (0_usize..3, dim()).prop_map(|(axis, scale)| Access::Along { axis, scale }),
        (0_usize..3, number(), number(), number()).prop_map(|(axis, stride, before, reach)| Access::Window {
            axis,
            stride,
            before,
            reach
        }),
    ]
}

fn layout() -> impl Strategy<Value = Layout> {
    (count(), collection::vec(cut(), 0..3), collection::vec(access(), 0..3))
        .prop_map(|(base, cuts, access)| Layout { base, cuts, access })
}

fn weight() -> impl Strategy<Value = Weight> {
    prop_oneof![
        Just(Weight::Absent),
        any::<u64>().prop_map(Weight::Digest),
        (any::<u64>(), -9_i32..9).prop_map(|(seed, mean)| Weight::Seeded {
            seed,
            mean: f64::from(mean) / 8.0,
            deviation: 0.1
        }),
        collection::vec(any::<i8>(), 0..4).prop_map(|v| Weight::Data(Tensor::from_vec(
            vec![v.len()],
            v.iter().map(|x| f32::from(*x)).collect()
        ))),
    ]
}

fn buffer() -> impl Strategy<Value = Buffer> {
    use BufferClass::{Accumulator, Input, Parameter, Scratch, State};
    (
        any::<String>(),
        select(&[Input, Parameter, State, Accumulator, Scratch][..]),
        select(&DType::ALL[..]),
        collection::vec(dim(), 0..3),
        0_usize..3,
        layout(),
        option::of(weight()),
        option::weighted(0.2, 0_usize..4),
        option::weighted(0.2, (count(), count()).prop_map(|(kept, of)| Pieces { kept, of })),
    )
        .prop_map(|(name, class, dtype, shape, home, layout, weight, view_of, pieces)| Buffer {
            by_item: pieces.map(|pieces| pieces.of as usize),
            name,
            class,
            dtype,
            shape,
            home: MemoryId::new(home),
            layout,
            weight,
            view_of: view_of.map(BufferId::new),
            pieces,
        })
}

fn body(reads: usize, writes: usize) -> Graph {
    let mut graph = Graph::new("");
    let ty = || Type::tensor(DType::F32, [4_i64]);
    for i in 0..reads {
        graph.add_input(format!("in{i}"), ty());
    }
    for i in 0..writes {
        let from = graph.inputs.get(i).or(graph.inputs.first()).copied();
        let node = graph.add_node(
            Op::Relu,
            "layer",
            vec![from],
            vec![Some(format!("out{i}"))],
            Attrs::new(),
            vec![],
        );
        let made = graph.nodes[node].outputs[0].unwrap();
        graph.values[made].ty = ty();
        graph.outputs.push(made);
    }
    graph
}

fn step() -> impl Strategy<Value = Step> {
    use StepKind::{Compute, Exchange, Host, Load, Stream, View};
    let modes = [
        WriteMode::Fill,
        WriteMode::Combined(Combine::Sum),
        WriteMode::InPlace,
        WriteMode::Reduce(Combine::Sum),
    ];
    let accesses = || collection::vec(access(), 0..3);
    let arithmetic =
        (select(&["fp32", "fp16"][..]), 0_u32..20, option::of(select(&["tf32", "bf16"][..])), any::<bool>())
            .prop_map(|(accumulate, group, inputs, nearest)| Arithmetic {
                accumulate: accumulate.into(),
                group,
                inputs: inputs.map(Into::into),
                rounding: if nearest { RoundingMode::Nearest } else { RoundingMode::Stochastic },
            });
    (
        (any::<String>(), select(&[Compute, Exchange, View, Stream, Host, Load][..])),
        (count(), collection::vec(cut(), 0..3)),
        (any::<bool>(), select(&[0.0, -0.0, 1.5, f64::NEG_INFINITY, 1e300][..])),
        collection::vec((0_usize..5, accesses()), 0..3),
        collection::vec((0_usize..5, accesses(), select(modes.to_vec())), 0..3),
        arithmetic,
        (dim(), dim(), dim(), option::of((count(), count(), count()))),
        (
            any::<bool>(),
            collection::vec(0_usize..4, 0..3),
            select(&[Unit::Device, Unit::Streaming, Unit::HostLink, Unit::Outward][..]),
            (
                option::weighted(0.4, (0_usize..3, count())),
                option::of(0_u32..3),
                select(&[Phase::Forward, Phase::Backward, Phase::Update][..]),
                any::<bool>(),
            ),
        ),
    )
        .prop_map(
            |((name, kind), (base, grid), (attrs, padding), reads, writes, arithmetic, counts, rest)| {
                let (macs, vector, special, tile) = counts;
                let attrs = if attrs { Attrs::new().with("pads", vec![0_i64, 0]) } else { Attrs::new() };
                Step {
                    name,
                    kind,
                    unit: rest.2,
                    body: body(reads.len(), writes.len()),
                    base,
                    grid,
                    part_attrs: attrs,
                    padding,
                    reads: reads
                        .into_iter()
                        .map(|(b, access)| Read { buffer: BufferId::new(b), access })
                        .collect(),
                    writes: writes
                        .into_iter()
                        .map(|(b, access, mode)| Write { buffer: BufferId::new(b), access, mode })
                        .collect(),
                    arithmetic,
                    work: Work { macs, vector, special },
                    tile: tile.map(|(m, n, k)| Tile { m, n, k }),
                    approximate: rest.0,
                    stage: rest.3.0.map(|(p, cores)| Stage { pipeline: PipelineId::new(p), cores }),
                    after: rest.1.into_iter().map(StepId::new).collect(),
                    region: rest.3.1,
                    once: rest.3.3,
                    phase: rest.3.2,
                }
            },
        )
}

fn program() -> impl Strategy<Value = Program> {
    let memory = (any::<String>(), count(), count(), count())
        .prop_map(|(name, cores, bytes, reserved)| Memory { name, cores, bytes, reserved });
    (
        (any::<String>(), any::<String>(), any::<String>()),
        collection::btree_map(name(), (-3_i64..9, any::<i64>()), 0..3),
        (
            collection::vec(memory, 0..4),
            collection::vec(
                (any::<String>(), count()).prop_map(|(name, cores)| Pipeline { name, cores }),
                0..3,
            ),
        ),
        collection::vec(buffer(), 0..5),
        collection::vec(step(), 0..4),
        collection::vec(0_usize..5, 0..3),
        collection::vec((any::<String>(), 0_usize..5), 0..3),
        collection::vec((0_usize..5, 0_usize..5), 0..2),
        (count(), collection::vec((count(), count(), count(), count(), count()), 0..3)),
    )
        .prop_map(
            |(
                (name, machine, precision),
                symbols,
                (memories, pipelines),
                buffers,
                steps,
                inputs,
                outputs,
                grows,
                (items, regions),
            )| {
                Program {
                    name,
                    machine,
                    precision,
                    symbols,
                    memories: memories.into_iter().collect(),
                    pipelines: pipelines.into_iter().collect(),
                    buffers: buffers.into_iter().collect(),
                    steps: steps.into_iter().collect(),
                    regions: regions
                        .into_iter()
                        .map(|(base, x, y, columns, rows)| Region { base, x, y, columns, rows })
                        .collect(),
                    items,
                    inputs: inputs.into_iter().map(BufferId::new).collect(),
                    outputs: outputs.into_iter().map(|(name, b)| (name, BufferId::new(b))).collect(),
                    grows: grows
                        .into_iter()
                        .map(|(from, to)| Growth { from: BufferId::new(from), to: BufferId::new(to) })
                        .collect(),
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_printed_program_parses_back(program in program()) {
        let printed = text::print(&program);
        let parsed = text::parse(&printed).map_err(|e| TestCaseError::fail(format!("{e}\n{printed}")))?;
        prop_assert_eq!(&parsed, &program, "{}", printed);
        prop_assert_eq!(text::print(&parsed), printed);
    }

    /// However wrong a program is: the verifier says so.
    #[test]
    fn a_wrong_program_is_judged(program in program()) {
        if let Err(refused) = verify::verify(&program) {
            prop_assert!(["program-invalid", "does-not-fit", "unbound-symbol"].contains(&refused.code), "{}", refused);
        }
    }

    /// Whatever bytes are changed: a diagnostic with a place, or a program that prints, parses and is judged.
    #[test]
    fn broken_text_is_refused_or_read(
        program in program(),
        changes in collection::vec((any::<Index>(), select(&b"%\"[](){}<>,:=@*+-_.#0123456789abefgilmnorstuxz \n\\\xff"[..])), 1..4),
        cut in option::weighted(0.1, any::<Index>()),
    ) {
        let mut bytes = text::print(&program).into_bytes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let broken = String::from_utf8_lossy(&bytes);
        match text::parse(&broken) {
            Ok(read) => {
                let printed = text::print(&read);
                let again = text::parse(&printed).map_err(|e| TestCaseError::fail(format!("{e}\n{printed}")))?;
                prop_assert_eq!(text::print(&again), printed);
                let _judged = verify::verify(&read);
            }
            Err(refused) => {
                prop_assert!(refused.code.starts_with("text-"), "{}", refused);
                prop_assert!(refused.place[0].starts_with("line "), "{}", refused);
            }
        }
    }
}

#[test]
fn refusals_say_where_and_what() {
    for (text, message) in [
        (
            "program \"p\" {\n  memory m1 \"hbm\" cores 1 bytes 2\n}",
            "error[text-syntax]: this is number 0 in order, so its id must be `m0`\n  at line 2, column 10",
        ),
        (
            "program \"p\" {\n  buffer b0 \"x\": f32[..] input in m0\n}",
            "error[text-syntax]: a buffer holds a tensor of known rank, not f32[..]\n  at line 2, column 18",
        ),
        (
            "program \"p\" {\n  buffer b0 \"x\": f32[] weight in m0\n}",
            "error[text-syntax]: expected `input` or `parameter` or `state` or `accumulator` or `scratch`, found \
             `weight`\n  at line 2, column 24",
        ),
        (
            "program \"p\" {\n  step s0 \"x\" view on device {\n    after s1\n  }\n}",
            "error[text-syntax]: expected `arithmetic`, found `after`\n  at line 3, column 5",
        ),
        (
            "program \"p\" {\n  symbol a 1 .. 2\n  symbol a 1 .. 2\n}",
            "error[text-repeated-name]: a symbol named `a` is there already\n  at line 3, column 10",
        ),
        (
            "program \"p\" {\n  output b00 as \"y\"\n}",
            "error[text-syntax]: expected a buffer such as `b0`, found `b00`\n  at line 2, column 10",
        ),
    ] {
        assert_eq!(text::parse(text).unwrap_err().to_string(), message);
    }
}
