//! Models with real weights: they import whole, shapes come out, and the interpreter gives what ONNX Runtime gives.

use orrery_conformance::cache;
use orrery_conformance::models::{MOST_ERROR, model_cases};
use orrery_conformance::round_trip::round_trip;
use orrery_import::onnx::{Options, load_path};
use orrery_ir::op::Datum;
use orrery_ir::{Graph, Type, interpret};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Inputs larger than this are left to the fast path.
const MOST_VALUES: usize = 1 << 20;

#[expect(clippy::print_stdout, reason = "what was left out is said")]
/// True where the test must be left out because there are no data; fails in CI.
fn skipped(found: usize) -> bool {
    if found == 0 {
        assert!(std::env::var_os("CI").is_none(), "no models in {}", cache().display());
        println!("skipped: no models in {}", cache().display());
    }
    found == 0
}

fn models_under(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            models_under(&path, found);
        } else if path.extension().is_some_and(|e| e == "onnx") {
            found.push(path);
        }
    }
}

fn real_models() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for package in ["rapidocr-onnxruntime-1.4.4", "magika-1.0.3", "silero-vad-6.2.3"] {
        models_under(&cache().join("models").join(package), &mut found);
    }
    models_under(&cache().join("models/onnx-1.20.1/onnx/backend/test/data/light"), &mut found);
    found.sort();
    found
}

/// How many values of a graph are of unknown rank.
fn open_shapes(graph: &Graph) -> usize {
    graph.values.values().filter(|v| !matches!(&v.ty, Type::Tensor(t) if t.shape.is_some())).count()
}

#[test]
fn real_models_import_whole_and_with_shapes() {
    let models = real_models();
    if skipped(models.len()) {
        return;
    }
    assert_eq!(models.len(), 3 + 1 + 6 + 9);
    for path in models {
        let start = Instant::now();
        let imported = load_path(&path, &Options::default()).unwrap_or_else(|d| panic!("{d}"));
        let took = start.elapsed();
        let (exact, approximated, unknown) = imported.report.counts();
        assert_eq!((approximated, unknown), (0, 0), "{}", path.display());
        let graph = imported.into_graph().unwrap();
        let open = open_shapes(&graph);
        let name = path.file_name().unwrap().to_string_lossy();
        // These two have an If whose branches differ in rank; behind it no shape is known.
        let most = if name.ends_with("op15.onnx") || name.ends_with("half.onnx") { 13 } else { 0 };
        assert!(open <= most, "{name}: {open} values without shape");
        println!(
            "{}: {exact} nodes, {} after upgrades, {open} of {} values without shape, {took:.1?}",
            name,
            graph.nodes.len(),
            graph.values.len(),
        );
        if let Err(why) = round_trip(&graph) {
            panic!("{}: {why}", path.display());
        }
    }
}

#[test]
fn the_interpreter_gives_what_onnx_runtime_gives() {
    let cases = model_cases();
    if skipped(cases.len()) {
        return;
    }
    let mut ran = 0;
    for case in cases {
        let inputs = case.load().and_then(|graph| case.inputs(&graph)).unwrap_or_else(|why| panic!("{why}"));
        if inputs.iter().filter_map(Datum::as_tensor).any(|t| t.len() > MOST_VALUES) {
            println!("{}: left out, too large for the interpreter in a test", case.name);
            continue;
        }
        let start = Instant::now();
        let error = case
            .run(|graph, inputs| interpret::run(graph, inputs, 0))
            .unwrap_or_else(|why| panic!("{}: {why}", case.name));
        println!("{}: error {error:.1e}, {:.1?}", case.name, start.elapsed());
        assert!(error <= MOST_ERROR, "{}: {error:e}", case.name);
        ran += 1;
    }
    assert!(ran >= 20, "only {ran} models ran");
}
