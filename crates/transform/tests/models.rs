//! Models with real weights, where the cache has them: what is recognised, and that the numbers stay those of ONNX Runtime.

#[path = "support/npz.rs"]
mod npz;
mod support;

use orrery_import::onnx;
use orrery_ir::{Graph, Op};
use orrery_numerics::DType;
use orrery_transform::{Kind, Options, PrecisionSpec, Prepared, Weights, legalise, prepare};
use std::path::PathBuf;

fn cache() -> PathBuf {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache");
    std::env::var_os("ORRERY_CACHE").map_or_else(|| default.into(), PathBuf::from)
}

/// Prepares a model and compares its outputs with ONNX Runtime's; none where the cache lacks it.
#[expect(clippy::print_stderr, reason = "a test says what it skips")]
fn check(case: &str, tolerance: f64) -> Option<(Graph, Prepared)> {
    let folder = cache().join("expected").join(case);
    let Ok(model) = std::fs::read_to_string(folder.join("model.txt")) else {
        assert!(std::env::var_os("ORRERY_CACHE_REQUIRED").is_none(), "{case} is not in the cache");
        eprintln!("skipped: {case} is not in {}", folder.display());
        return None;
    };
    let graph = load(&cache().join(model.trim()));
    let prepared = prepare(&graph, &Options::default()).unwrap_or_else(|d| panic!("{case}: {d}"));
    let inputs = npz::arrange(&graph, &npz::read(&folder.join("input.npz")));
    let expected = npz::expected(&graph, &npz::read(&folder.join("output.npz")));
    let got = support::run(&prepared.graph, &inputs).unwrap_or_else(|e| panic!("{case}: {e}"));
    support::compare(&graph, &expected, &got, tolerance).unwrap_or_else(|e| panic!("{case}: {e}"));
    Some((graph, prepared))
}

fn load(path: &std::path::Path) -> Graph {
    let imported = onnx::load_path(path, &onnx::Options::default()).unwrap_or_else(|d| panic!("{d}"));
    imported.graph.expect("nothing in it is unknown")
}

fn count(graph: &Graph, op: Op) -> usize {
    graph.nodes.values().filter(|n| n.op == op).count()
}

#[test]
fn minilm_is_six_layers_of_attention() {
    if let Some((_, prepared)) = check("minilm", 1e-4) {
        let counts = [Op::Attention, Op::Gelu, Op::LayerNormalization, Op::Softmax]
            .map(|op| count(&prepared.graph, op));
        assert_eq!(counts, [6, 6, 13, 0]);
    }
}

#[test]
fn magika_has_its_gelus_softmax_and_last_norm() {
    if let Some((_, prepared)) = check("magika", 1e-4) {
        let counts =
            [Kind::Gelu, Kind::LayerNormalization, Kind::Softmax].map(|kind| prepared.report.count(kind));
        assert_eq!(counts, [2, 1, 1]);
    }
}

#[test]
fn paddle_recognition_has_its_attention_and_activations() {
    if let Some((_, prepared)) = check("rapidocr-rec", 1e-3) {
        let kinds = [Kind::Attention, Kind::LayerNormalization, Kind::Swish, Kind::HardSwish];
        assert_eq!(kinds.map(|kind| prepared.report.count(kind)), [2, 5, 7, 28]);
        assert_eq!(count(&prepared.graph, Op::BatchNormalization), 0);
    }
}

#[test]
fn paddle_classification_keeps_its_numbers() {
    if let Some((before, prepared)) = check("rapidocr-cls", 1e-3) {
        assert_eq!(count(&before, Op::BatchNormalization), 35);
        assert_eq!(count(&prepared.graph, Op::BatchNormalization), 0);
    }
}

#[test]
fn recurrent_models_keep_their_numbers() {
    for case in [
        "silero-vad",
        "silero-vad-8k",
        "silero-vad-16k-sequence",
        "silero-vad-op18-ifless",
        "silero-vad-half",
    ] {
        check(case, 1e-3);
    }
}

#[test]
fn branches_and_recurrences_are_legal_in_sixteen_bits() {
    for case in ["silero-vad", "silero-vad-16k-sequence"] {
        let Some((graph, prepared)) = check(case, 1e-3) else { continue };
        let legal = legalise(&prepared.graph, &PrecisionSpec::plain(DType::F16), Weights::Compute)
            .unwrap_or_else(|d| panic!("{case}: {d}"));
        let folder = cache().join("expected").join(case);
        let inputs = npz::arrange(&graph, &npz::read(&folder.join("input.npz")));
        let expected = npz::expected(&graph, &npz::read(&folder.join("output.npz")));
        let got = support::run(&legal.graph, &inputs).unwrap_or_else(|e| panic!("{case}: {e}"));
        support::compare(&graph, &expected, &got, 2e-2).unwrap_or_else(|e| panic!("{case}: {e}"));
    }
}

#[test]
fn weights_given_by_their_shape_are_not_made() {
    let folder = cache().join("models/onnx-1.20.1/onnx/backend/test/data/light");
    for name in ["resnet50", "densenet121", "inception_v2", "vgg19"] {
        let path = folder.join(format!("light_{name}.onnx"));
        if !path.exists() {
            assert!(std::env::var_os("ORRERY_CACHE_REQUIRED").is_none(), "{name} is not in the cache");
            continue;
        }
        let graph = load(&path);
        let options = Options { weights: Weights::ShapeOnly, ..Options::default() };
        let prepared = prepare(&graph, &options).unwrap_or_else(|d| panic!("{name}: {d}"));
        assert_eq!(count(&prepared.graph, Op::ConstantOfShape), 0, "{name}");
        assert_eq!(count(&prepared.graph, Op::Conv), count(&graph, Op::Conv), "{name}");
        if name == "resnet50" {
            assert_eq!(count(&prepared.graph, Op::BatchNormalization), 0, "{name}");
        }
    }
}
