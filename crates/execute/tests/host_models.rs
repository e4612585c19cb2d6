//! Models with real weights, and of the zoo as ONNX files, on the host: the numbers are those of ONNX Runtime.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking too")]

use orrery_base::Result;
use orrery_conformance::cache;
use orrery_conformance::models::{MOST_ERROR, by_onnx_runtime, largest_error, model_cases};
use orrery_execute::host::Session;
use orrery_import::onnx::{self, SaveOptions, save};
use orrery_ir::op::Datum;
use orrery_ir::weights::normal;
use orrery_ir::{Bindings, Graph, infer, interpret};
use orrery_numerics::{DType, Tensor};
use orrery_transform::{Options, prepare};
use std::path::{Path, PathBuf};

/// As `orrery run` does it: the general rewrites, then a session.
fn prepared(graph: &Graph, inputs: Vec<Datum>) -> Result<Vec<Datum>> {
    Session::new(&prepare(graph, &Options::default())?.graph, 2)?.run(inputs)
}

/// The graph as the file has it.
fn as_it_is(graph: &Graph, inputs: Vec<Datum>) -> Result<Vec<Datum>> {
    Session::new(graph, 2)?.run(inputs)
}

/// True where there are no data; fails where there must be.
#[expect(clippy::print_stderr, reason = "a test says what it skips")]
fn skipped(missing: bool) -> bool {
    if missing {
        assert!(std::env::var_os("ORRERY_CACHE_REQUIRED").is_none(), "no models in {}", cache().display());
        eprintln!("skipped: no models in {}", cache().display());
    }
    missing
}

#[test]
fn models_with_real_weights_give_what_onnx_runtime_gives() {
    let cases = model_cases();
    if skipped(cases.is_empty()) {
        return;
    }
    assert!(cases.len() >= 23, "{} models", cases.len());
    for case in &cases {
        let errors = [prepared, as_it_is]
            .map(|run| case.run(run).unwrap_or_else(|why| panic!("{}: {why}", case.name)));
        println!("{}: error {:.1e}, as the file has it {:.1e}", case.name, errors[0], errors[1]);
        assert!(errors.iter().all(|e| *e <= MOST_ERROR), "{}: {errors:?}", case.name);
    }
}

/// A folder of its own for a test, removed at its end.
struct Folder(PathBuf);
impl Folder {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}
impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Exports a model of the zoo and compares both executions of the file with ONNX Runtime's.
#[expect(clippy::print_stdout, reason = "the errors are of interest")]
fn exported(name: &str, bindings: &[(&str, i64)]) {
    if skipped(!cache().join("venv/bin/python").exists()) {
        return;
    }
    let folder = Folder::new(name);
    let path = folder.0.join("model.onnx");
    let built = orrery_zoo::find(name).unwrap().build(&orrery_zoo::Options::default()).unwrap();
    save(&built, &path, &SaveOptions { opset: 23, ..SaveOptions::default() }).unwrap();
    let mut graph = onnx::load_path(&path, &onnx::Options::default()).unwrap().into_graph().unwrap();
    let bindings: Bindings = bindings.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
    infer::bind(&mut graph, &bindings).unwrap();
    let inputs: Vec<Datum> = graph
        .inputs
        .iter()
        .enumerate()
        .map(|(i, id)| {
            let value = &graph.values[*id];
            let ty = value.ty.as_tensor().unwrap();
            let shape = ty.extents().unwrap();
            let count: usize = shape.iter().product();
            match (ty.dtype, value.name.as_str()) {
                (DType::F32, _) => Tensor::from_vec(shape, normal(i as u64 + 1, count, 0.0, 1.0)),
                (_, "input_ids") => {
                    Tensor::from_vec(shape, (0..count as i64).map(|x| x * 7919 % 30000).collect())
                }
                // The last token is none.
                (_, "attention_mask") => {
                    Tensor::from_vec(shape, (1..=count).map(|x| i64::from(x < count)).collect())
                }
                _ => Tensor::from_vec(shape, (0..count as i64).map(|x| x * 2 / count as i64).collect()),
            }
            .into()
        })
        .collect();
    let expected = by_onnx_runtime(&path, &graph, &inputs, &folder.0).unwrap().unwrap();
    let error = |got: Result<Vec<Datum>>| largest_error(&graph, &expected, &got.unwrap()).unwrap();
    let errors = [
        error(prepared(&graph, inputs.clone())),
        error(as_it_is(&graph, inputs.clone())),
        error(interpret::run(&graph, inputs.clone(), 0)),
    ];
    println!(
        "{name}: error {:.1e}, as the file has it {:.1e}, in the interpreter {:.1e}",
        errors[0], errors[1], errors[2]
    );
    assert!(errors.iter().all(|e| *e <= MOST_ERROR), "{errors:?}");
}

#[test]
fn resnet50_as_exported() {
    exported("resnet50", &[("batch", 1)]);
}

#[test]
fn bert_base_as_exported() {
    exported("bert-base", &[("batch", 1), ("seq", 24)]);
}
