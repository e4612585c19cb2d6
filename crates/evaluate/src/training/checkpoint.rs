//! Checkpoints: all that a run needs to go on to the same bits.
//!
//! A checkpoint is one safetensors file: the states under their names, and what the run is at as JSON in the metadata
//! under `orrery`. It is written beside its place, brought to the disk and then renamed, so that a file of that name is
//! whole however the process ends.

use super::history::Epoch;
use orrery_base::{Diagnostic, Result};
use orrery_data::Position;
use orrery_numerics::{DType, Tensor, check_writable, write_file};
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;

/// What a run is at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct At {
    /// Version of this form.
    pub(super) version: u32,
    /// Model that is trained.
    pub(super) model: String,
    /// What the user set, in the user's own words.
    pub(super) options: BTreeMap<String, Vec<String>>,
    /// Steps that are done.
    pub(super) step: u64,
    /// Epochs that are over.
    pub(super) epoch: u64,
    /// Samples of the present epoch that were seen.
    pub(super) sample: u64,
    /// Seed of the run.
    pub(super) seed: u64,
    /// Factor of the loss.
    pub(super) loss_scale: f64,
    /// Steps since it last changed.
    pub(super) loss_scale_steady: u64,
    /// Sum of the losses of the present epoch's steps.
    pub(super) epoch_loss: f64,
    /// Samples of its steps.
    pub(super) epoch_samples: u64,
    /// Epochs so far.
    pub(super) history: Vec<Epoch>,
}

/// Version of the metadata that is written.
pub(super) const VERSION: u32 = 2;
const KEY: &str = "orrery";

impl At {
    /// Where the data are.
    pub(super) fn position(&self) -> Position {
        Position { epoch: self.epoch, sample: self.sample }
    }
}

/// Makes the folder that checkpoints are to be written in, and finds out whether it takes one.
///
/// # Errors
/// `file-write`.
pub(super) fn prepare(path: &Path) -> Result<()> {
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|error| {
            let cause = format!("the folder cannot be made: {error}");
            Box::new(Diagnostic::error("file-write", cause).at(folder.display().to_string()))
        })?;
    }
    check_writable(path)
}

/// Writes a checkpoint.
///
/// # Errors
/// `file-write` where the disk does not take it; what was there before stays.
pub(super) fn write<'a>(
    path: &Path,
    states: impl Iterator<Item = (&'a str, &'a Tensor)>,
    at: &At,
) -> Result<()> {
    let failed = |error: String| {
        Box::new(
            Diagnostic::error("file-write", format!("the checkpoint cannot be written: {error}"))
                .at(path.display().to_string()),
        )
    };
    let views = states
        .map(|(name, tensor)| {
            let view = TensorView::new(to_kind(tensor.dtype())?, tensor.shape().to_vec(), tensor.bytes());
            Ok((name.to_owned(), view.map_err(|e| failed(e.to_string()))?))
        })
        .collect::<Result<Vec<_>>>()?;
    let text = serde_json::to_string(at).map_err(|e| failed(e.to_string()))?;
    let metadata = HashMap::from([(KEY.to_owned(), text)]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| failed(e.to_string()))?;
    write_file(path, |out| out.write_all(&bytes))
}

fn wrong(path: &Path, cause: String) -> Box<Diagnostic> {
    Box::new(Diagnostic::error("checkpoint-format", cause).at(path.display().to_string()))
}

/// The bytes of a checkpoint, and what its run was at.
fn open(path: &Path) -> Result<(Vec<u8>, At)> {
    let wrong = |cause: String| wrong(path, cause);
    let bytes = std::fs::read(path).map_err(|error| {
        let cause = format!("the file cannot be read: {error}");
        Box::new(Diagnostic::error("file-read", cause).at(path.display().to_string()))
    })?;
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes)
        .map_err(|e| wrong(format!("it is no safetensors file: {e}")))?;
    let text = metadata.metadata().as_ref().and_then(|map| map.get(KEY));
    let text = text.ok_or_else(|| wrong("it holds tensors, but does not say what a run was at".into()))?;
    let version = serde_json::from_str(text).map_or(VERSION, |Versioned { version }| version);
    if version != VERSION {
        return Err(wrong(format!("it is of version {version}, {VERSION} is known here")));
    }
    let at = serde_json::from_str(text)
        .map_err(|e| wrong(format!("what it says of the run cannot be read: {e}")))?;
    Ok((bytes, at))
}

/// The part of the metadata that all versions have.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// What the user of a checkpoint's run had set: [`Request::options`](super::Request::options).
///
/// # Errors
/// `file-read` where it cannot be read; `checkpoint-format` where it is none of ours or of another version.
pub fn options_of(path: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    Ok(open(path)?.1.options)
}

/// Whether a file is a checkpoint of some run, of whatever version.
pub fn is_checkpoint(path: &Path) -> bool {
    let Ok(bytes) = orrery_numerics::map_file(path) else { return false };
    let read = safetensors::SafeTensors::read_metadata(&bytes);
    read.is_ok_and(|(_, about)| about.metadata().as_ref().is_some_and(|map| map.contains_key(KEY)))
}

/// Reads a checkpoint.
///
/// # Errors
/// As [`options_of`].
pub(super) fn read(path: &Path) -> Result<(Vec<(String, Tensor)>, At)> {
    let wrong = |cause: String| wrong(path, cause);
    let (bytes, at) = open(path)?;
    let file = safetensors::SafeTensors::deserialize(&bytes).map_err(|e| wrong(e.to_string()))?;
    let mut states = Vec::new();
    for (name, view) in file.iter() {
        let dtype =
            from_kind(view.dtype()).ok_or_else(|| wrong(format!("`{name}` is of a type not known here")))?;
        let bytes = bytes::Bytes::copy_from_slice(view.data());
        let tensor = Tensor::from_bytes(dtype, view.shape().to_vec(), bytes);
        states.push((
            name.to_owned(),
            tensor.map_err(|_| wrong(format!("`{name}` is not as long as its shape says")))?,
        ));
    }
    states.sort_by(|a, b| a.0.cmp(&b.0));
    Ok((states, at))
}

const KINDS: [(DType, Dtype); 5] = [
    (DType::F64, Dtype::F64),
    (DType::F32, Dtype::F32),
    (DType::F16, Dtype::F16),
    (DType::BF16, Dtype::BF16),
    (DType::I64, Dtype::I64),
];

fn to_kind(dtype: DType) -> Result<Dtype> {
    match KINDS.iter().find(|(d, _)| *d == dtype) {
        Some((_, kind)) => Ok(*kind),
        None => {
            Diagnostic::error("checkpoint-format", format!("a state of type {dtype} cannot be kept")).err()
        }
    }
}

fn from_kind(kind: Dtype) -> Option<DType> {
    KINDS.iter().find(|(_, k)| *k == kind).map(|(dtype, _)| *dtype)
}
