//! What the compiler makes, executed part by part in the machine's arithmetic, is what the graph means.

use crate::common::{compile_for, faults, faults_of, shrunk, target};
use orrery_compile::{Options, compile};
use orrery_ir::{Attrs, Bindings, Builder, Dim, Graph, Op, ValueId};
use orrery_machine::{System, registry};
use orrery_numerics::DType;
use orrery_program::Buffer;
use std::collections::BTreeSet;

type Build = fn(&mut Builder, DType) -> Vec<ValueId>;

fn ints(values: &[i64]) -> Vec<i64> {
    values.to_vec()
}

/// A name and what it builds. Extents are odd on purpose, so that parts are uneven.
const GRAPHS: &[(&str, Build)] = &[
    ("product", |b, t| {
        let (x, w) = (b.input("x", t, [37_i64, 65]), b.weight_of("w", t, [65_i64, 21], 0.0, 0.1));
        vec![b.op(Op::MatMul, "y", &[x, w], Attrs::new())]
    }),
    ("deep product", |b, t| {
        let (x, w) = (b.input("x", t, [3_i64, 1021]), b.weight_of("w", t, [1021_i64, 5], 0.0, 0.03));
        vec![b.op(Op::MatMul, "y", &[x, w], Attrs::new())]
    }),
    ("square product", |b, t| {
        let (x, y) = (b.input("x", t, [20_i64, 20]), b.input("y", t, [20_i64, 20]));
        vec![b.op(Op::MatMul, "z", &[x, y], Attrs::new())]
    }),
    ("two large products", |b, t| {
        let (x, w) = (b.input("x", t, [4_i64, 400]), b.weight_of("w", t, [400_i64, 400], 0.0, 0.05));
        let y = b.op(Op::MatMul, "y", &[x, w], Attrs::new());
        let w = b.weight_of("w", t, [400_i64, 400], 0.0, 0.05);
        vec![b.op(Op::MatMul, "z", &[y, w], Attrs::new())]
    }),
    ("very deep product", |b, t| {
        let (x, w) = (b.input("x", t, [2_i64, 40_000]), b.weight_of("w", t, [40_000_i64, 3], 0.0, 0.005));
        let other = b.input("other", t, [2_i64, 1]);
        let y = b.op(Op::MatMul, "y", &[x, w], Attrs::new());
        vec![b.op(Op::Add, "z", &[y, other], Attrs::new())]
    }),
    ("deep product with followers", |b, t| {
        let (x, w) = (b.input("x", t, [3_i64, 1021]), b.weight_of("w", t, [1021_i64, 5], 0.0, 0.03));
        let (bias, other) = (b.weight_of("bias", t, [5_i64], 0.0, 1.0), b.input("other", t, [3_i64, 5]));
        let y = b.op(Op::MatMul, "y", &[x, w], Attrs::new());
        let y = b.op(Op::Add, "biased", &[bias, y], Attrs::new());
        let y = b.op(Op::Relu, "relu", &[y], Attrs::new());
        vec![b.op(Op::Mul, "scaled", &[y, other], Attrs::new())]
    }),
    ("a product with itself", |b, t| {
        let x = b.input("x", t, [19_i64, 19]);
        let y = b.op(Op::MatMul, "y", &[x, x], Attrs::new());
        vec![b.op(Op::Add, "z", &[y, y], Attrs::new())]
    }),
    ("a product that meets its operands again", |b, t| {
        let (x, w) = (b.input("x", t, [33_i64, 33]), b.input("w", t, [33_i64, 33]));
        let y = b.op(Op::MatMul, "y", &[x, w], Attrs::new());
        let y = b.op(Op::Add, "z", &[y, x], Attrs::new());
        let y = b.op(Op::Mul, "square", &[y, y], Attrs::new());
        vec![b.op(Op::Sub, "out", &[w, y], Attrs::new())]
    }),
    ("batched product, broadcast", |b, t| {
        let (x, w) = (b.input("x", t, [3_i64, 1, 7, 33]), b.input("w", t, [5_i64, 33, 9]));
        vec![b.op(Op::MatMul, "y", &[x, w], Attrs::new())]
    }),
    ("products of vectors", |b, t| {
        let (x, m, v) = (b.input("x", t, [33_i64]), b.input("m", t, [33_i64, 9]), b.input("v", t, [9_i64]));
        let y = b.op(Op::MatMul, "y", &[x, m], Attrs::new());
        vec![b.op(Op::MatMul, "dot", &[y, v], Attrs::new()), y]
    }),
    ("gemm", |b, t| {
        let (x, w, c) = (
            b.input("x", t, [65_i64, 13]),
            b.weight_of("w", t, [21_i64, 65], 0.0, 0.1),
            b.input("c", t, [13_i64, 1]),
        );
        let attrs =
            Attrs::new().with("transA", 1_i64).with("transB", 1_i64).with("alpha", 0.5).with("beta", 2.0);
        let y = b.op(Op::Gemm, "y", &[x, w, c], attrs);
        vec![b.op(Op::Tanh, "tanh", &[y], Attrs::new())]
    }),
    ("gemm without addend", |b, t| {
        let (x, w) = (b.input("x", t, [3_i64, 700]), b.weight_of("w", t, [5_i64, 700], 0.0, 0.03));
        vec![b.op(Op::Gemm, "y", &[x, w], Attrs::new().with("transB", 1_i64).with("alpha", 0.25))]
    }),
    ("contraction", |b, t| {
        let (x, w) = (b.input("x", t, [3_i64, 7, 33]), b.input("w", t, [5_i64, 33, 3]));
        vec![b.op(Op::Einsum, "y", &[x, w], Attrs::new().with("equation", "bik,jkb->jib"))]
    }),
    ("convolution", |b, t| {
        let (x, w) = (b.input("x", t, [2_i64, 5, 13, 11]), b.weight_of("w", t, [7_i64, 5, 3, 3], 0.0, 0.2));
        let bias = b.weight_of("bias", t, [7_i64], 0.0, 1.0);
        let attrs = Attrs::new().with("pads", ints(&[1, 1, 1, 1])).with("strides", ints(&[2, 1]));
        let y = b.op(Op::Conv, "y", &[x, w, bias], attrs);
        vec![b.op(Op::Relu, "relu", &[y], Attrs::new())]
    }),
    ("two convolutions and a residual", |b, t| {
        let x = b.input("x", t, [2_i64, 8, 9, 9]);
        let pads = || Attrs::new().with("pads", ints(&[1, 1, 1, 1]));
        let w = b.weight_of("w", t, [8_i64, 8, 3, 3], 0.0, 0.2);
        let y = b.op(Op::Conv, "y", &[x, w], pads());
        let y = b.op(Op::Relu, "relu", &[y], Attrs::new());
        let w = b.weight_of("w", t, [8_i64, 8, 3, 3], 0.0, 0.2);
        let y = b.op(Op::Conv, "z", &[y, w], pads());
        let y = b.op(Op::Add, "add", &[y, x], Attrs::new());
        vec![b.op(Op::Relu, "out", &[y], Attrs::new())]
    }),
    ("dilated, grouped, one-sided convolution", |b, t| {
        let (x, w) = (b.input("x", t, [1_i64, 6, 17, 9]), b.weight_of("w", t, [9_i64, 2, 3, 2], 0.0, 0.4));
        let attrs = Attrs::new()
            .with("group", 3_i64)
            .with("dilations", ints(&[2, 3]))
            .with("pads", ints(&[3, 0, 1, 2]))
            .with("strides", ints(&[3, 2]));
        vec![b.op(Op::Conv, "y", &[x, w], attrs)]
    }),
    ("convolution of each channel", |b, t| {
        let (x, w) = (b.input("x", t, [2_i64, 12, 13, 11]), b.weight_of("w", t, [12_i64, 1, 3, 3], 0.0, 0.4));
        let bias = b.weight_of("bias", t, [12_i64], 0.0, 1.0);
        let attrs = Attrs::new().with("group", 12_i64).with("pads", ints(&[1, 1, 1, 1]));
        vec![b.op(Op::Conv, "y", &[x, w, bias], attrs)]
    }),
    ("transposed convolution without overlap", |b, t| {
        let (x, w) = (b.input("x", t, [1_i64, 6, 9, 7]), b.weight_of("w", t, [6_i64, 5, 2, 2], 0.0, 0.4));
        let bias = b.weight_of("bias", t, [5_i64], 0.0, 1.0);
        let y = b.op(Op::ConvTranspose, "y", &[x, w, bias], Attrs::new().with("strides", ints(&[2, 2])));
        vec![b.op(Op::Relu, "relu", &[y], Attrs::new())]
    }),
    ("convolution of lines", |b, t| {
        let (x, w) = (b.input("x", t, [3_i64, 700, 5]), b.weight_of("w", t, [3_i64, 700, 1], 0.0, 0.04));
        vec![b.op(Op::Conv, "y", &[x, w], Attrs::new())]
    }),
    ("element-wise with broadcasting", |b, t| {
        let (x, y) = (b.input("x", t, [7_i64, 1, 33]), b.input("y", t, [5_i64, 1]));
        let sum = b.op(Op::Add, "sum", &[x, y], Attrs::new());
        let s = b.op(Op::Sigmoid, "sigmoid", &[sum], Attrs::new());
        vec![b.op(Op::Mul, "swish", &[sum, s], Attrs::new())]
    }),
    ("softmax of scores", |b, t| {
        let (q, k) = (b.input("q", t, [2_i64, 3, 17, 8]), b.input("k", t, [2_i64, 3, 17, 8]));
        let k = b.op(Op::Transpose, "kt", &[k], Attrs::new().with("perm", ints(&[0, 1, 3, 2])));
        let scores = b.op(Op::MatMul, "scores", &[q, k], Attrs::new());
        let p = b.op(Op::Softmax, "softmax", &[scores], Attrs::new().with("axis", -1_i64));
        vec![b.op(Op::MatMul, "mixed", &[p, q], Attrs::new())]
    }),
    ("movements between products", |b, t| {
        let x = b.input("x", t, [6_i64, 20]);
        let w = b.weight_of("w", t, [20_i64, 24], 0.0, 0.2);
        let y = b.op(Op::MatMul, "y", &[x, w], Attrs::new());
        let shape = b.ints("shape", &[2, 3, 4, 6]);
        let y = b.op(Op::Reshape, "heads", &[y, shape], Attrs::new());
        let y = b.op(Op::Transpose, "turned", &[y], Attrs::new().with("perm", ints(&[2, 0, 3, 1])));
        let flat = b.op(Op::Flatten, "flat", &[y], Attrs::new().with("axis", 2_i64));
        let w = b.weight_of("w", t, [18_i64, 5], 0.0, 0.2);
        vec![b.op(Op::MatMul, "z", &[flat, w], Attrs::new()), y]
    }),
    ("concat and slices", |b, t| {
        let (x, y) = (b.input("x", t, [5_i64, 8]), b.input("y", t, [5_i64, 3]));
        let both = b.op(Op::Concat, "both", &[x, y], Attrs::new().with("axis", 1_i64));
        let both = b.op(Op::Relu, "relu", &[both], Attrs::new());
        let (from, to, axes) = (b.ints("from", &[2]), b.ints("to", &[9]), b.ints("axes", &[1]));
        let part = b.op(Op::Slice, "part", &[both, from, to, axes], Attrs::new());
        vec![b.op(Op::Neg, "neg", &[part], Attrs::new()), both]
    }),
    ("sums and means", |b, t| {
        let x = b.input("x", t, [9_i64, 130]);
        let axes = b.ints("axes", &[1]);
        let sum = b.op(Op::ReduceSum, "sum", &[x, axes], Attrs::new().with("keepdims", 0_i64));
        let mean = b.op(Op::ReduceMean, "mean", &[x, axes], Attrs::new());
        let centred = b.op(Op::Sub, "centred", &[x, mean], Attrs::new());
        vec![sum, centred, b.op(Op::ReduceMax, "max", &[x], Attrs::new().with("keepdims", 0_i64))]
    }),
    ("rows by number", |b, t| {
        let (table, rows) =
            (b.weight_of("table", t, [17_i64, 12], 0.0, 1.0), b.input("rows", DType::I64, [2_i64, 5]));
        let x = b.op(Op::Gather, "gather", &[table, rows], Attrs::new());
        vec![b.op(Op::Relu, "relu", &[x], Attrs::new())]
    }),
    ("inputs and constants as outputs", |b, t| {
        let (x, w) = (b.input("x", t, [5_i64, 8]), b.weight_of("w", t, [3_i64, 3], 0.0, 1.0));
        let turned = b.op(Op::Transpose, "turned", &[w], Attrs::new());
        let y = b.op(Op::Relu, "y", &[x], Attrs::new());
        vec![x, w, turned, y, y]
    }),
    ("integers", |b, _| {
        let (x, y) = (b.input("x", DType::I32, [70_i64, 9]), b.input("y", DType::I32, [70_i64, 1]));
        let z = b.op(Op::Mul, "z", &[x, y], Attrs::new());
        vec![b.op(Op::Less, "less", &[z, x], Attrs::new()), z]
    }),
    ("integers with a constant vector", |b, _| {
        let x = b.input("x", DType::I64, [70_i64, 9]);
        let y = b.ints("y", &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        vec![b.op(Op::Mul, "z", &[x, y], Attrs::new())]
    }),
    ("scalars and nothing", |b, t| {
        let x = b.input::<i64>("x", t, []);
        let none = b.input("none", t, [0_i64, 4]);
        let y = b.op(Op::Exp, "y", &[x], Attrs::new());
        let w = b.weight_of("w", t, [4_i64, 3], 0.0, 1.0);
        vec![y, b.op(Op::MatMul, "empty", &[none, w], Attrs::new())]
    }),
];

fn graph(name: &str, build: Build, dtype: DType) -> Graph {
    let mut b = Builder::new(name, 3);
    let outputs = build(&mut b, dtype);
    let names: Vec<String> = (0..outputs.len()).map(|i| format!("out{i}")).collect();
    let outputs: Vec<(&str, ValueId)> = names.iter().map(String::as_str).zip(outputs).collect();
    b.finish(&outputs).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The one of that name.
pub(crate) fn example(name: &str) -> Graph {
    let (_, build) = GRAPHS.iter().find(|(n, _)| *n == name).expect("an example of that name");
    graph(name, *build, DType::F32)
}

/// All of them, by name.
pub(crate) fn examples(dtype: DType) -> impl Iterator<Item = (&'static str, Graph)> {
    GRAPHS.iter().map(move |(name, build)| (*name, graph(name, *build, dtype)))
}

fn check_all(system: &System, precision: &str, dtype: DType, tolerance: f64) {
    let mut found = String::new();
    for (name, graph) in examples(dtype) {
        for fault in faults(&graph, system, precision, tolerance) {
            found += &format!("{} {precision}, {name}: {fault}\n", system.name);
        }
    }
    assert!(found.is_empty(), "{found}");
}

#[test]
fn a100_fp32() {
    check_all(registry::find("a100-40gb").unwrap(), "fp32", DType::F32, 1e-5);
}

#[test]
fn a100_tf32() {
    check_all(registry::find("a100-40gb").unwrap(), "tf32", DType::F32, 5e-3);
}

#[test]
fn a100_fp16() {
    check_all(registry::find("a100-40gb").unwrap(), "fp16", DType::F16, 1e-2);
}

#[test]
fn a100_bf16() {
    check_all(registry::find("a100-40gb").unwrap(), "bf16", DType::BF16, 5e-2);
}

#[test]
fn gc200_fp32() {
    check_all(registry::find("gc200").unwrap(), "fp32", DType::F32, 1e-5);
}

#[test]
fn gc200_fp16() {
    check_all(registry::find("gc200").unwrap(), "fp16.16", DType::F16, 1e-1);
}

#[test]
fn bow_fp16_with_wide_sums() {
    check_all(registry::find("bow").unwrap(), "fp16.32", DType::F16, 1e-2);
}

#[test]
fn sn30_bf16() {
    check_all(registry::find("sn30").unwrap(), "bf16", DType::BF16, 5e-2);
}

#[test]
fn few_units() {
    for (units, bytes) in [(4, 512), (9, 4096), (40, 524_288)] {
        let system = shrunk("sn10", &[("pcus", units), ("pmus", units), ("pmu_bytes", bytes)]);
        check_all(&system, "fp32", DType::F32, 1e-5);
    }
}

#[test]
fn few_tiles() {
    for tiles in [6, 13, 64] {
        check_all(&shrunk("gc200", &[("tiles", tiles)]), "fp32", DType::F32, 1e-5);
    }
}

#[test]
fn groqchip_fp16_and_fp32() {
    check_all(registry::find("groqchip").unwrap(), "fp16", DType::F16, 1e-2);
    check_all(registry::find("groqchip").unwrap(), "fp32", DType::F32, 1e-5);
}

#[test]
fn gaudi_bf16_and_fp32() {
    check_all(registry::find("gaudi").unwrap(), "fp32", DType::F32, 1e-5);
    check_all(registry::find("gaudi2").unwrap(), "bf16", DType::BF16, 5e-2);
}

/// Symbols stay open: one program serves every value in their range.
#[test]
fn open_symbols() {
    let mut b = Builder::new("open", 3);
    let shape = |last: i64| [Dim::symbol("batch"), Dim::symbol("seq"), last.into()];
    let x = b.input("x", DType::F32, shape(12));
    let w = b.weight("w", [12_i64, 20], 0.3);
    let y = b.op(Op::MatMul, "y", &[x, w], Attrs::new());
    let y = b.op(Op::Relu, "relu", &[y], Attrs::new());
    let turned = b.op(Op::Transpose, "turned", &[y], Attrs::new().with("perm", ints(&[0, 2, 1])));
    let scores = b.op(Op::MatMul, "scores", &[y, turned], Attrs::new());
    let p = b.op(Op::Softmax, "softmax", &[scores], Attrs::new());
    let out = b.op(Op::MatMul, "out", &[p, y], Attrs::new());
    let graph = b.finish(&[("out", out)]).unwrap();
    let ranges = [("batch".to_owned(), (1, 5)), ("seq".to_owned(), (1, 33))];
    let options = Options { symbols: ranges.into(), ..Options::default() };
    let small = shrunk("gc200", &[("tiles", 24)]);
    for (system, precision) in [
        (registry::find("a100-40gb").unwrap(), "fp32"),
        (registry::find("gc200").unwrap(), "fp32"),
        (&small, "fp32"),
        (registry::find("groqchip").unwrap(), "fp32"),
        (registry::find("gaudi2").unwrap(), "fp32"),
        (registry::find("sn40l").unwrap(), "fp32"),
    ] {
        let program = compile(&graph, &target(system, precision), &options).unwrap().program;
        for (batch, seq) in [(1, 1), (5, 33), (2, 7), (4, 32)] {
            let bindings = [("batch".to_owned(), batch), ("seq".to_owned(), seq)].into();
            assert_eq!(faults_of(&graph, &program, &bindings, 1e-5), Vec::<String>::new(), "{batch} {seq}");
        }
    }
}

#[test]
fn only_the_weights_that_do_not_fit_are_streamed() {
    let graph = graph(
        "large products",
        |b, t| {
            let mut x = b.input("x", t, [4_i64, 400]);
            for number in 0..5 {
                let w = b.weight_of(&format!("w{number}"), t, [400_i64, 400], 0.0, 0.05);
                x = b.op(Op::MatMul, "y", &[x, w], Attrs::new());
            }
            vec![x]
        },
        DType::F32,
    );
    let mut counts = BTreeSet::new();
    for tile_bytes in (60_000..260_000).step_by(10_000) {
        let system = shrunk("gc200", &[("tiles", 24), ("tile_bytes", tile_bytes)]);
        let Ok(compiled) = compile_for(&graph, &system, "fp32") else { continue };
        let program = compiled.program;
        let streaming = |b: &Buffer| program.memories[b.home].name == "streaming";
        let streamed = program.buffers.values().filter(|b| streaming(b)).count();
        let said = compiled.notes.iter().any(|note| note.code == "weights-streamed");
        assert_eq!(said, streamed > 0, "{tile_bytes}");
        if counts.insert(streamed) {
            let faults = faults_of(&graph, &program, &Bindings::new(), 1e-5);
            assert!(faults.is_empty(), "{tile_bytes}: {faults:?}");
        }
    }
    assert!(counts.contains(&0) && counts.range(1..5).next().is_some(), "{counts:?}");
}
