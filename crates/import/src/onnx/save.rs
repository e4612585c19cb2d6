//! Writing a model file, and beside it the weights where they are too large for one message.

use super::export::to_model_proto;
use super::proto::tensor_proto::DataLocation;
use super::proto::{GraphProto, StringStringEntryProto};
use bytes::Bytes;
use orrery_base::{Diagnostic, Result};
use orrery_ir::Graph;
use orrery_numerics::write_file;
use prost::Message;
use std::io::Write;
use std::path::Path;

/// Operator set that is written unless another is asked for: most readers take it, and only CumProd needs a newer one.
pub const DEFAULT_OPSET: i64 = 25;

/// How a model is written.
#[derive(Clone, Debug)]
pub struct SaveOptions {
    /// Operator set.
    pub opset: i64,
    /// Weights of more bytes than this in all go to a file beside the model. A message cannot exceed 2 GiB.
    pub external_above: u64,
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self { opset: DEFAULT_OPSET, external_above: 1 << 30 }
    }
}

/// Tensors below this size stay in the model file.
const SMALL: usize = 1024;
/// External tensors start at multiples of this, so that they can be mapped and are aligned for any element type.
const ALIGNMENT: u64 = 4096;

/// Writes a model. The file appears whole or not at all: it is written under another name and renamed.
/// Returns notes on what the file cannot hold.
///
/// # Errors
/// `onnx-export`; `file-write`.
pub fn save(graph: &Graph, path: &Path, options: &SaveOptions) -> Result<Vec<Diagnostic>> {
    let (mut model, notes) = to_model_proto(graph, options.opset)?;
    let mut parts = Vec::new();
    if let Some(graph) = &mut model.graph {
        let weights: u64 = graph.initializer.iter().map(|i| i.raw_data().len() as u64).sum();
        if weights > options.external_above {
            let file = path.file_name().map(|name| format!("{}.data", name.to_string_lossy()));
            let Some(file) = file else { return failed(path, "it names no file") };
            move_out(graph, &file, &mut parts);
            write_file(&path.with_file_name(&file), |out| {
                let mut at = 0;
                for (offset, bytes) in &parts {
                    out.write_all(&vec![0; (offset - at) as usize])?;
                    out.write_all(bytes)?;
                    at = offset + bytes.len() as u64;
                }
                Ok(())
            })?;
        }
    }
    if model.encoded_len() > i32::MAX as usize {
        return failed(path, "it would be larger than 2 GiB, which no reader takes");
    }
    write_file(path, |out| out.write_all(&model.encode_to_vec()))?;
    Ok(notes)
}

/// Converts a graph to the bytes of a model file, weights inside. Returns notes on what the file cannot hold.
///
/// # Errors
/// `onnx-export`; `file-write` above 2 GiB.
pub fn to_bytes(graph: &Graph, opset: i64) -> Result<(Bytes, Vec<Diagnostic>)> {
    let (model, notes) = to_model_proto(graph, opset)?;
    if model.encoded_len() > i32::MAX as usize {
        return failed(Path::new("model"), "it would be larger than 2 GiB, which no reader takes");
    }
    Ok((model.encode_to_vec().into(), notes))
}

/// Makes large initializers external and lists their bytes with offsets.
fn move_out(graph: &mut GraphProto, file: &str, parts: &mut Vec<(u64, Bytes)>) {
    let mut end = 0_u64;
    for tensor in graph.initializer.iter_mut().filter(|i| i.raw_data().len() >= SMALL) {
        let Some(bytes) = tensor.raw_data.take() else { continue };
        let offset = end.next_multiple_of(ALIGNMENT);
        end = offset + bytes.len() as u64;
        let entries = [
            ("location", file.to_owned()),
            ("offset", offset.to_string()),
            ("length", bytes.len().to_string()),
        ];
        tensor.external_data = entries
            .into_iter()
            .map(|(key, value)| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) })
            .collect();
        tensor.data_location = Some(DataLocation::External as i32);
        parts.push((offset, bytes));
    }
}

fn failed<T>(path: &Path, why: &str) -> Result<T> {
    Diagnostic::error("file-write", format!("the file cannot be written: {why}"))
        .at(path.display().to_string())
        .err()
}
