//! The operator cases of the `onnx` Python package, for whatever executes graphs.
//!
//! A case is a folder with a model and sets of inputs and expected outputs. [`main_with`] runs all of them over an
//! executor as one test binary, one named result a case. A case either passes or stands in a file of exceptions with the
//! reason; an exception that passes is a failure too, so the list stays true.

pub mod compare;
pub mod models;
pub mod round_trip;

use compare::{Tolerance, same, same_type};
use libtest_mimic::{Arguments, Failed, Trial};
use orrery_import::{map_file, onnx};
use orrery_ir::op::{Class, Datum};
use orrery_ir::{Graph, Op, Type};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs a graph on inputs in order.
pub type Executor = fn(&Graph, Vec<Datum>) -> orrery_base::Result<Vec<Datum>>;

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// The folder's name; with the suite in front where it is not the operator suite.
    pub name: String,
    /// Where it lies.
    pub folder: PathBuf,
}

/// The folder of unpacked test data: `ORRERY_CACHE`, or `.cache` in the workspace.
pub fn cache() -> PathBuf {
    std::env::var_os("ORRERY_CACHE").map_or_else(|| workspace().join(".cache"), PathBuf::from)
}

/// The folder of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All cases in the cache, in order of name; none where it is empty.
pub fn cases() -> Vec<Case> {
    let data = cache().join("models/onnx-1.20.1/onnx/backend/test/data");
    let mut found = Vec::new();
    for suite in ["node", "simple", "pytorch-converted", "pytorch-operator"] {
        let Ok(entries) = std::fs::read_dir(data.join(suite)) else { continue };
        for entry in entries.flatten().filter(|e| e.path().join("model.onnx").is_file()) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let name = if suite == "node" { name } else { format!("{suite}/{name}") };
            found.push(Case { name, folder: entry.path() });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Names in a list file: one a line, `#` starts a comment, what follows `: ` is the reason.
///
/// # Errors
/// Where the file cannot be read.
pub fn read_list(path: &Path) -> Result<BTreeMap<String, String>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines
        .map(|line| line.split_once(": ").unwrap_or((line, "")))
        .map(|(name, reason)| (name.to_owned(), reason.to_owned()))
        .collect())
}

impl Case {
    /// Reads the model.
    ///
    /// # Errors
    /// What the import says.
    pub fn load(&self) -> Result<Graph, String> {
        onnx::load_path(&self.folder.join("model.onnx"), &onnx::Options::default())
            .and_then(onnx::Imported::into_graph)
            .map_err(|d| d.to_string())
    }
    /// Reads the model, runs it on every data set, and compares.
    ///
    /// # Errors
    /// What failed, or the first difference.
    pub fn run(&self, execute: Executor) -> Result<(), String> {
        let graph = self.load()?;
        let random = graph.nodes.values().any(|n| match n.op {
            Op::Dropout => n.inputs.len() > 2,
            op => op.def().class == Class::Random,
        });
        let mut sets = 0;
        while let set = self.folder.join(format!("test_data_set_{sets}"))
            && set.is_dir()
        {
            let read = |file: String, ty: &Type| -> Result<Datum, String> {
                map_file(&set.join(file))
                    .and_then(|bytes| onnx::read_datum(&bytes, ty))
                    .map_err(|d| d.to_string())
            };
            let inputs = graph.inputs.iter().enumerate();
            let inputs: Result<Vec<Datum>, String> =
                inputs.map(|(i, id)| read(format!("input_{i}.pb"), &graph.values[*id].ty)).collect();
            let got = execute(&graph, inputs?).map_err(|d| d.to_string())?;
            if got.len() != graph.outputs.len() || set.join(format!("output_{}.pb", got.len())).exists() {
                return Err(format!("got {} outputs, another number is expected", got.len()));
            }
            for (i, got) in got.iter().enumerate() {
                let expected = read(format!("output_{i}.pb"), &kind_of(got))?;
                let compared = if random {
                    same_type(&expected, got)
                } else {
                    same(&expected, got, Tolerance::default())
                };
                compared.map_err(|why| format!("output `{}`: {why}", graph.output_name(i)))?;
            }
            sets += 1;
        }
        if sets == 0 { Err("the case has no data".into()) } else { Ok(()) }
    }
}

/// A type of the kind of a value: what a file is read as. Of a value of another kind nothing sensible is read, so the
/// comparison fails.
fn kind_of(datum: &Datum) -> Type {
    match datum {
        Datum::Tensor(_) => Type::Unknown,
        Datum::Sequence(_) => Type::Sequence(Box::new(Type::Unknown)),
        Datum::Optional(_) => Type::Optional(Box::new(Type::Unknown)),
    }
}

/// The main function of a test binary: every case over an executor. Exceptions are `exceptions`, a file as
/// [`read_list`] reads it; of the cases in `reference`, what another runtime passes, at least `floor` must pass.
///
/// Without data in the cache it says so and passes, but fails where the environment says `CI`.
pub fn main_with(execute: Executor, exceptions: &Path, reference: &Path, floor: usize) -> ExitCode {
    let arguments = Arguments::from_args();
    let cases = cases();
    if cases.is_empty() {
        eprint(&format!(
            "skipped: no operator cases in {}; fetch them with `cargo xtask models`",
            cache().display()
        ));
        return if std::env::var_os("CI").is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let (exceptions, reference) = match (read_list(exceptions), read_list(reference)) {
        (Ok(exceptions), Ok(reference)) => (exceptions, reference),
        (Err(why), _) | (_, Err(why)) => {
            eprint(&why);
            return ExitCode::FAILURE;
        }
    };
    let names: std::collections::BTreeSet<String> = cases.iter().map(|case| case.name.clone()).collect();
    let stray: Vec<&String> =
        exceptions.keys().chain(reference.keys()).filter(|n| !names.contains(*n)).collect();
    let (passed, of_reference) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let whole = arguments.filter.is_none() && arguments.skip.is_empty() && !arguments.list;
    let mut trials: Vec<Trial> = cases
        .into_iter()
        .map(|case| {
            let excused = exceptions.get(&case.name).cloned();
            let counted = reference.contains_key(&case.name);
            let (passed, of_reference) = (passed.clone(), of_reference.clone());
            Trial::test(case.name.clone(), move || {
                let ran = std::panic::catch_unwind(|| case.run(execute))
                    .unwrap_or_else(|panic| Err(format!("panicked: {}", panic_text(panic.as_ref()))));
                if ran.is_ok() {
                    passed.fetch_add(1, Ordering::Relaxed);
                    of_reference.fetch_add(usize::from(counted), Ordering::Relaxed);
                }
                match (ran, excused) {
                    (Ok(()), None) | (Err(_), Some(_)) => Ok(()),
                    (Err(why), None) => Err(Failed::from(why)),
                    (Ok(()), Some(reason)) => {
                        Err(Failed::from(format!("passes, but stands among the exceptions: {reason}")))
                    }
                }
            })
        })
        .collect();
    for name in stray {
        let name = name.clone();
        trials.push(Trial::test(format!("missing/{name}"), move || {
            Err(Failed::from(format!("{name} is listed but not among the cases")))
        }));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if whole {
        let (passed, of_reference) = (passed.load(Ordering::Relaxed), of_reference.load(Ordering::Relaxed));
        eprint(&format!(
            "{passed} of {} cases pass, {of_reference} of the reference's {}",
            names.len(),
            reference.len()
        ));
        if of_reference < floor {
            eprint(&format!("fewer than {floor} of the reference's"));
            return ExitCode::FAILURE;
        }
    }
    if conclusion.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "without a message",
    }
}

#[allow(clippy::print_stderr, reason = "a test binary's own report")]
fn eprint(line: &str) {
    eprintln!("{line}");
}
