//! The operator cases that ONNX Runtime passes, through the command line: inputs and outputs travel as `.npz` files.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking too")]

use crate::support::{orrery, scratch, workspace};
use orrery::{Datum, Tensor, Type, npz};
use orrery_import::{map_file, onnx};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where the unpacked cases lie: `ORRERY_CACHE`, or `.cache` in the workspace.
fn cases() -> PathBuf {
    let cache = std::env::var_os("ORRERY_CACHE").map_or_else(|| workspace().join(".cache"), PathBuf::from);
    cache.join("models/onnx-1.20.1/onnx/backend/test/data/node")
}

/// Names in a list file: one a line, the reason behind a colon.
fn names(file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(workspace().join("tests/conformance").join(file)).unwrap();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split(": ").next().unwrap().to_owned()).collect()
}

/// Cases whose outputs follow from a seed that no two programs share: their types alone are compared.
fn is_random(name: &str) -> bool {
    name.starts_with("test_bernoulli") || name.starts_with("test_training_dropout")
}

/// Runs a case's first set of data through files.
fn run(case: &Path, name: &str, folder: &Path) -> Result<(), String> {
    let model = case.join("model.onnx");
    let graph = onnx::load_path(&model, &onnx::Options::default())
        .and_then(onnx::Imported::into_graph)
        .map_err(|d| d.to_string())?;
    let read = |kind: &str, i: usize, ty: &Type| {
        let path = case.join(format!("test_data_set_0/{kind}_{i}.pb"));
        map_file(&path).and_then(|bytes| onnx::read_datum(&bytes, ty)).map_err(|d| d.to_string())
    };
    let mut inputs: Vec<(String, Datum)> = Vec::new();
    for (i, id) in graph.inputs.iter().enumerate() {
        let value = &graph.values[*id];
        inputs.push((value.name.clone(), read("input", i, &value.ty)?));
    }
    let (x, y) = (folder.join(format!("{name}.x.npz")), folder.join(format!("{name}.y.npz")));
    npz::write(&x, &inputs).map_err(|d| d.to_string())?;
    let text = |path: &Path| path.display().to_string();
    let ran = orrery(&[
        "run",
        &text(&model),
        "--input",
        &text(&x),
        "--output",
        &text(&y),
        "--quiet",
        "--threads",
        "1",
    ]);
    if ran.code != 0 {
        return Err(ran.all());
    }
    let got = npz::read(&y).map_err(|d| d.to_string())?;
    for (i, id) in graph.outputs.iter().enumerate() {
        let output = graph.output_name(i);
        let found = got.iter().find(|(name, _)| name == output).map(|(_, found)| found);
        // Where an optional is declared, the file may hold what is in it as it is.
        let inner = match found {
            Some(Datum::Sequence(_)) => Type::Sequence(Box::new(Type::Unknown)),
            _ => Type::Unknown,
        };
        let expected = read("output", i, &graph.values[*id].ty).or_else(|_| read("output", i, &inner))?;
        match found {
            Some(found) => {
                same(&expected, found, is_random(name)).map_err(|why| format!("`{output}`: {why}"))?;
            }
            // A list or an optional without elements leaves no array behind but its number.
            None if matches!(expected, Datum::Optional(None)) => {}
            None => return Err(format!("there is no output `{output}`")),
        }
    }
    Ok(())
}

fn same(expected: &Datum, got: &Datum, types_only: bool) -> Result<(), String> {
    match (expected, got) {
        (Datum::Optional(Some(inner)), got) => same(inner, got, types_only),
        (Datum::Sequence(expected), Datum::Sequence(got)) if expected.len() == got.len() => {
            expected.iter().zip(got).try_for_each(|(e, g)| same(e, g, types_only))
        }
        (Datum::Tensor(expected), Datum::Tensor(got)) => same_tensor(expected, got, types_only),
        _ => Err(format!("{expected:?} is expected, got {got:?}")),
    }
}

/// Equal bits, or for floats the tolerance by which the reference was made, and at least two units in the last place.
fn same_tensor(expected: &Tensor, got: &Tensor, types_only: bool) -> Result<(), String> {
    if expected.dtype() != got.dtype() || expected.shape() != got.shape() {
        return Err(format!("{expected:?} is expected, got {got:?}"));
    }
    if types_only || expected == got {
        return Ok(());
    }
    let numbers = |tensor: &Tensor| -> Option<Vec<f64>> {
        match tensor.dtype() {
            orrery::DType::C64 => Some(tensor.raw::<f32>().iter().map(|v| f64::from(*v)).collect()),
            orrery::DType::C128 => Some(tensor.raw::<f64>().to_vec()),
            dtype if dtype.is_float() => tensor.to_f64().ok().map(std::borrow::Cow::into_owned),
            _ => None,
        }
    };
    let (Some(expected_numbers), Some(numbers)) = (numbers(expected), numbers(got)) else {
        return Err("elements differ".to_owned());
    };
    let (relative, absolute) = match expected.dtype().bits() {
        0..=8 => (0.25, 1e-2),
        16 => (1.6e-2, 1e-3),
        _ => (1e-3, 1e-5),
    };
    for (e, g) in expected_numbers.iter().zip(&numbers) {
        let equal = e == g || (e.is_nan() && g.is_nan()) || (e - g).abs() <= absolute + relative * e.abs();
        if !equal {
            return Err(format!("{e} is expected, got {g}"));
        }
    }
    Ok(())
}

#[test]
fn operators_run_through_files() {
    let root = cases();
    if !root.is_dir() {
        assert!(
            std::env::var_os("ORRERY_CACHE_REQUIRED").is_none(),
            "no operator cases in {}",
            root.display()
        );
        return;
    }
    let exceptions = names("exceptions.txt");
    let all: Vec<String> =
        names("onnxruntime-1.31.1-pass.txt").into_iter().filter(|name| !exceptions.contains(name)).collect();
    let folder = scratch("operators");
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut failed = Vec::new();
        while let Some(name) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(why) = run(&root.join(name), name, &folder) {
                failed.push(format!("{name}: {why}"));
            }
        }
        failed
    };
    let mut failed: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|w| w.join().unwrap()).collect()
    });
    failed.sort();
    assert!(failed.is_empty(), "{} of {} cases fail:\n{}", failed.len(), all.len(), failed.join("\n"));
    std::fs::remove_dir_all(&folder).unwrap();
}
