//! Models with real weights and what ONNX Runtime makes of them: `CACHE/expected/NAME/` holds `model.txt` with the
//! model's path in the cache, `input.npz` and `output.npz`.

use crate::compare::{Tolerance, same};
use crate::{Executor, cache};
use npyz::{DType, NpyFile, TypeChar};
use orrery_import::onnx;
use orrery_ir::Graph;
use orrery_ir::op::Datum;
use orrery_numerics::Tensor;
use std::path::{Path, PathBuf};

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
    /// Runs the model and compares.
    ///
    /// # Errors
    /// What failed, or the first difference.
    pub fn run(&self, execute: Executor) -> Result<(), String> {
        let graph = self.load()?;
        let inputs = self.inputs(&graph)?;
        let names: Vec<&str> = (0..graph.outputs.len()).map(|i| graph.output_name(i)).collect();
        let expected = read_npz(&self.folder.join("output.npz"), &names)?;
        let got = execute(&graph, inputs).map_err(|d| d.to_string())?;
        for ((name, expected), got) in names.iter().zip(&expected).zip(&got) {
            same(expected, got, Tolerance::default()).map_err(|why| format!("output `{name}`: {why}"))?;
        }
        Ok(())
    }
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
