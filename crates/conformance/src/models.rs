//! Models with real weights and what ONNX Runtime makes of them: `CACHE/expected/NAME/` holds `model.txt` with the
//! model's path in the cache, `input.npz` and `output.npz`. [`by_onnx_runtime`] asks it about any other model.

use crate::{Executor, cache, workspace};
use npyz::{DType, NpyFile, TypeChar};
use orrery_import::onnx;
use orrery_ir::Graph;
use orrery_ir::op::Datum;
use orrery_numerics::Tensor;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Most that an output may differ from ONNX Runtime's, as [`largest_error`] measures it.
pub const MOST_ERROR: f64 = 1e-4;

/// One model with inputs and expected outputs.
#[derive(Clone, Debug)]
pub struct ModelCase {
    /// The folder's name.
    pub name: String,
    /// The folder.
    pub folder: PathBuf,
    /// The model file.
    pub model: PathBuf,
}

/// All cases in the cache whose model is there, in order of name.
pub fn model_cases() -> Vec<ModelCase> {
    let Ok(entries) = std::fs::read_dir(cache().join("expected")) else { return Vec::new() };
    let mut found: Vec<ModelCase> = entries
        .flatten()
        .filter_map(|entry| {
            let folder = entry.path();
            let model = cache().join(std::fs::read_to_string(folder.join("model.txt")).ok()?.trim());
            let name = entry.file_name().to_string_lossy().into_owned();
            model.is_file().then_some(ModelCase { name, folder, model })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

impl ModelCase {
    /// Reads the model.
    ///
    /// # Errors
    /// What the import says.
    pub fn load(&self) -> Result<Graph, String> {
        onnx::load_path(&self.model, &onnx::Options::default())
            .and_then(onnx::Imported::into_graph)
            .map_err(|d| d.to_string())
    }
    /// The inputs in the graph's order.
    ///
    /// # Errors
    /// Where the file lacks one.
    pub fn inputs(&self, graph: &Graph) -> Result<Vec<Datum>, String> {
        let names: Vec<&str> = graph.inputs.iter().map(|id| graph.values[*id].name.as_str()).collect();
        read_npz(&self.folder.join("input.npz"), &names)
    }
    /// Runs the model and compares: the largest error of its outputs.
    ///
    /// # Errors
    /// What failed, or where outputs cannot be compared.
    pub fn run(&self, execute: Executor) -> Result<f64, String> {
        let graph = self.load()?;
        let inputs = self.inputs(&graph)?;
        let names: Vec<&str> = (0..graph.outputs.len()).map(|i| graph.output_name(i)).collect();
        let expected = read_npz(&self.folder.join("output.npz"), &names)?;
        let got = execute(&graph, inputs).map_err(|d| d.to_string())?;
        largest_error(&graph, &expected, &got)
    }
}

/// The largest `max |a - b| / max |b|` of the outputs.
///
/// # Errors
/// Where types or shapes differ, or a number is not finite.
pub fn largest_error(graph: &Graph, expected: &[Datum], got: &[Datum]) -> Result<f64, String> {
    if expected.len() != got.len() {
        return Err(format!("{} outputs are expected, got {}", expected.len(), got.len()));
    }
    let mut largest = 0.0_f64;
    for (i, (expected, got)) in expected.iter().zip(got).enumerate() {
        let name = graph.output_name(i);
        let (Some(expected), Some(got)) = (expected.as_tensor(), got.as_tensor()) else {
            return Err(format!("output `{name}`: no tensor"));
        };
        if (expected.dtype(), expected.shape()) != (got.dtype(), got.shape()) {
            return Err(format!("output `{name}`: {expected:?} is expected, got {got:?}"));
        }
        let failed = |e: orrery_numerics::CastError| format!("output `{name}`: {e}");
        let (expected, got) = (expected.to_f64().map_err(failed)?, got.to_f64().map_err(failed)?);
        let size = expected.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
        for (e, g) in expected.iter().zip(got.iter()) {
            let error = if e == g { 0.0 } else { (e - g).abs() / size };
            if !error.is_finite() {
                return Err(format!("output `{name}`: {e} is expected, got {g}"));
            }
            largest = largest.max(error);
        }
    }
    Ok(largest)
}

/// What ONNX Runtime makes of a model file; none where the cache has no Python with it. Files go to `folder`.
///
/// # Errors
/// Where files cannot be written or read, or ONNX Runtime fails.
pub fn by_onnx_runtime(
    model: &Path,
    graph: &Graph,
    inputs: &[Datum],
    folder: &Path,
) -> Result<Option<Vec<Datum>>, String> {
    let python = cache().join("venv/bin/python");
    if !python.exists() {
        return Ok(None);
    }
    let (from, to) = (folder.join("input.npz"), folder.join("output.npz"));
    write_npz(&from, graph, inputs).map_err(|e| format!("{}: {e}", from.display()))?;
    let script = workspace().join("tests/oracle/onnxruntime_run.py");
    let ran = Command::new(python).arg(script).arg(model).arg(&from).arg(&to).output();
    let ran = ran.map_err(|e| e.to_string())?;
    if !ran.status.success() {
        return Err(String::from_utf8_lossy(&ran.stderr).into_owned());
    }
    let names: Vec<&str> = (0..graph.outputs.len()).map(|i| graph.output_name(i)).collect();
    read_npz(&to, &names).map(Some)
}

fn write_npz(path: &Path, graph: &Graph, inputs: &[Datum]) -> std::io::Result<()> {
    let mut archive = ZipWriter::new(std::fs::File::create(path)?);
    for (id, datum) in graph.inputs.iter().zip(inputs) {
        let Some(tensor) = datum.as_tensor() else { return Err(std::io::Error::other("tensors only")) };
        let word = match tensor.dtype() {
            orrery_numerics::DType::F32 => "<f4",
            orrery_numerics::DType::I64 => "<i8",
            other => return Err(std::io::Error::other(format!("no inputs of {other}"))),
        };
        let extents: String = tensor.shape().iter().map(|n| format!("{n},")).collect();
        let mut header = format!("{{'descr': '{word}', 'fortran_order': False, 'shape': ({extents}), }}");
        // Ends in a new line, so that the numbers start at a multiple of 64.
        header += &" ".repeat(63 - (10 + header.len()) % 64);
        header.push('\n');
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        archive.start_file(format!("{}.npy", graph.values[*id].name), options)?;
        archive.write_all(b"\x93NUMPY\x01\x00")?;
        archive.write_all(&(header.len() as u16).to_le_bytes())?;
        archive.write_all(header.as_bytes())?;
        archive.write_all(tensor.bytes())?;
    }
    archive.finish()?.flush()
}

fn read_npz(path: &Path, names: &[&str]) -> Result<Vec<Datum>, String> {
    let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let file = std::fs::File::open(path).map_err(|e| failed(&e))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|e| failed(&e))?;
    names
        .iter()
        .map(|name| {
            let entry = archive.by_name(&format!("{name}.npy")).map_err(|e| failed(&e))?;
            let array = NpyFile::new(entry).map_err(|e| failed(&e))?;
            let shape: Vec<usize> = array.shape().iter().map(|&extent| extent as usize).collect();
            let DType::Plain(ty) = array.dtype() else { return Err(failed(&"a structured array")) };
            macro_rules! read {
                ($t:ty) => {
                    Tensor::from_vec(shape, array.into_vec::<$t>().map_err(|e| failed(&e))?)
                };
            }
            Ok(Datum::from(match (ty.type_char(), ty.size_field()) {
                (TypeChar::Float, 4) => read!(f32),
                (TypeChar::Float, 8) => read!(f64),
                (TypeChar::Int, 8) => read!(i64),
                (TypeChar::Int, 4) => read!(i32),
                (TypeChar::Uint, 1) => read!(u8),
                other => return Err(failed(&format!("elements of type {other:?}"))),
            }))
        })
        .collect()
}
