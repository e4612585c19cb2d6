//! Networks exported by PyTorch in several ways: what is recognised, and that the numbers stay those of PyTorch.

#[path = "support/npz.rs"]
mod npz;
mod support;

use orrery_import::onnx;
use orrery_ir::op::Datum;
use orrery_ir::{Graph, Op};
use orrery_transform::{Exactness, Kind, Options, PrecisionSpec, Prepared, Weights, legalise, prepare};
use std::path::{Path, PathBuf};

/// Largest difference from PyTorch's outputs, relative to the largest magnitude of an output.
const TOLERANCE: f64 = 1e-4;

fn exports() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/exports")
}

fn load(path: &Path) -> Graph {
    let imported = onnx::load_path(path, &onnx::Options::default()).unwrap_or_else(|d| panic!("{d}"));
    imported.graph.expect("nothing in it is unknown")
}

/// A network in every export, each prepared and run on all its inputs.
fn each(network: &str, mut check: impl FnMut(&str, &Graph, &Prepared)) {
    let folder = exports().join(network);
    let entries = std::fs::read_dir(&folder).expect("the exports are checked in");
    let mut files: Vec<PathBuf> = entries.map(|e| e.expect("the folder can be read").path()).collect();
    files.sort();
    files.retain(|f| f.extension().is_some_and(|e| e == "onnx"));
    assert!(!files.is_empty(), "no exports of {network}");
    for file in files {
        let name = file.file_stem().and_then(|s| s.to_str()).expect("a plain name");
        let graph = load(&file);
        let prepared =
            prepare(&graph, &Options::default()).unwrap_or_else(|d| panic!("{network}/{name}: {d}"));
        let mut sets = 0;
        while folder.join(format!("{sets}.input.npz")).exists() {
            let read = |what| npz::read(&folder.join(format!("{sets}.{what}.npz")));
            let (inputs, expected) = (read("input"), read("output"));
            let inputs = npz::arrange(&graph, &inputs);
            let expected = npz::expected(&graph, &expected);
            let got =
                support::run(&prepared.graph, &inputs).unwrap_or_else(|e| panic!("{network}/{name}: {e}"));
            support::compare(&graph, &expected, &got, TOLERANCE)
                .unwrap_or_else(|e| panic!("{network}/{name}, input {sets}: {e}"));
            sets += 1;
        }
        assert!(sets > 0, "{network} has no inputs");
        check(name, &graph, &prepared);
    }
}

fn count(graph: &Graph, op: Op) -> usize {
    graph.nodes.values().filter(|n| n.op == op).count()
}

/// Ops that compute shapes, or that patterns are made of.
fn leftovers(graph: &Graph) -> Vec<Op> {
    let spelled = [
        Op::Shape,
        Op::Gather,
        Op::Erf,
        Op::Tanh,
        Op::ReduceMean,
        Op::Sqrt,
        Op::Pow,
        Op::Softmax,
        Op::Where,
        Op::IsNaN,
        Op::Div,
        Op::BatchNormalization,
        Op::Identity,
    ];
    let mut found: Vec<Op> = graph.nodes.values().map(|n| n.op).filter(|op| spelled.contains(op)).collect();
    found.dedup();
    found
}

#[test]
fn bert_becomes_two_layers_of_attention_norms_and_gelus() {
    for network in ["bert_manual", "bert_sdpa"] {
        each(network, |name, before, prepared| {
            let after = &prepared.graph;
            let counts = [Op::Attention, Op::LayerNormalization, Op::Gelu, Op::MatMul, Op::Softmax]
                .map(|op| count(after, op));
            assert_eq!(counts, [2, 5, 2, 12, 0], "{network}/{name}: {:?}", leftovers(after));
            assert!(
                after.nodes.len() < 72,
                "{network}/{name}: {} of {} nodes",
                after.nodes.len(),
                before.nodes.len()
            );
        });
    }
}

#[test]
fn gpt_becomes_causal_without_a_mask() {
    for network in ["gpt_manual", "gpt_sdpa"] {
        each(network, |name, _, prepared| {
            let after = &prepared.graph;
            let counts = [Op::Attention, Op::LayerNormalization, Op::Gelu, Op::Softmax, Op::Where]
                .map(|op| count(after, op));
            assert_eq!(counts, [2, 5, 2, 0, 0], "{network}/{name}: {:?}", leftovers(after));
            for node in after.nodes.values().filter(|n| n.op == Op::Attention) {
                assert!(node.attrs.flag("is_causal") && node.inputs.len() == 3, "{network}/{name}");
            }
            let inexact: Vec<_> =
                prepared.report.replacements.iter().filter(|r| r.exactness != Exactness::Exact).collect();
            assert!(inexact.is_empty(), "{network}/{name}: {inexact:?}");
        });
    }
}

#[test]
fn gpt_with_a_cache_appends_inside_of_attention() {
    for network in ["gpt_cache", "gpt_cache_sdpa"] {
        each(network, |name, _, prepared| {
            let after = &prepared.graph;
            let counts =
                [Op::Attention, Op::LayerNormalization, Op::Gelu, Op::Softmax].map(|op| count(after, op));
            assert_eq!(counts, [2, 5, 2, 0], "{network}/{name}: {:?}", leftovers(after));
            assert_eq!(prepared.report.count(Kind::KeyValueCache), 2, "{network}/{name}");
            for node in after.nodes.values().filter(|n| n.op == Op::Attention) {
                assert!(node.attrs.flag("is_causal"), "{network}/{name}");
                assert!(
                    node.inputs[3].is_none() && node.inputs[4].is_some() && node.outputs.len() == 3,
                    "{network}/{name}"
                );
            }
        });
    }
}

#[test]
fn resnet_has_no_batch_normalization_left() {
    each("resnet", |name, _, prepared| {
        assert_eq!(count(&prepared.graph, Op::BatchNormalization), 0, "{name}");
        assert_eq!(count(&prepared.graph, Op::Conv), 15, "{name}");
    });
}

#[test]
fn numbers_stay_near_in_sixteen_bits() {
    for (network, storage, tolerance) in [
        ("bert_manual", "f16", 2e-2),
        ("gpt_sdpa", "bf16", 1e-1),
        ("gpt_cache", "cb16", 5e-2),
        ("resnet", "f16", 2e-2),
    ] {
        each(network, |name, before, prepared| {
            let spec = PrecisionSpec::plain(orrery_numerics::DType::parse(storage).unwrap());
            let legal = legalise(&prepared.graph, &spec, Weights::Compute)
                .unwrap_or_else(|d| panic!("{network}/{name}: {d}"));
            let read = |what| npz::read(&exports().join(network).join(format!("0.{what}.npz")));
            let inputs: Vec<Datum> = npz::arrange(before, &read("input"));
            let got = support::run(&legal.graph, &inputs).unwrap_or_else(|e| panic!("{network}/{name}: {e}"));
            let expected = npz::expected(before, &read("output"));
            support::compare(before, &expected, &got, tolerance)
                .unwrap_or_else(|e| panic!("{network}/{name}: {e}"));
        });
    }
}

#[test]
fn shapes_alone_give_the_same_graph() {
    for network in ["bert_sdpa", "resnet", "gpt_cache_sdpa"] {
        each(network, |name, before, prepared| {
            let options = Options { weights: Weights::ShapeOnly, ..Options::default() };
            let timed = prepare(before, &options).unwrap();
            let ops = |g: &Graph| g.nodes.values().map(|n| n.op).collect::<Vec<_>>();
            assert_eq!(ops(&timed.graph), ops(&prepared.graph), "{network}/{name}");
        });
    }
}
