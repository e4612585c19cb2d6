//! Weights in files beside the model.

use super::proto::StringStringEntryProto;
use crate::map_file;
use bytes::Bytes;
use orrery_base::{Diagnostic, Result};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// The folder a model's external data live in, and its files as far as they were mapped.
///
/// Invariant: nothing outside of the folder is ever opened.
#[derive(Default)]
pub(super) struct External {
    folder: Option<PathBuf>,
    files: BTreeMap<String, Bytes>,
    allow_missing: bool,
}

impl External {
    /// Data beside a model in `folder`; where there is none, or with `allow_missing`, a file may be missing.
    pub(super) fn new(folder: Option<&Path>, allow_missing: bool) -> Self {
        Self { folder: folder.map(Path::to_owned), files: BTreeMap::new(), allow_missing }
    }
    /// The bytes that an `external_data` entry speaks of; none where the file is missing and may be.
    ///
    /// # Errors
    /// `onnx-external-path` for a place outside of the model's folder, `onnx-external-missing`, and
    /// `onnx-external-range` where offset and length do not lie in the file.
    pub(super) fn bytes(&mut self, entries: &[StringStringEntryProto]) -> Result<Option<Bytes>> {
        let entry = |key: &str| {
            entries.iter().find(|e| e.key.as_deref() == Some(key)).and_then(|e| e.value.as_deref())
        };
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(text) => text.parse::<usize>().map(Some).or_else(|_| {
                Diagnostic::error("onnx-external-range", format!("the {key} `{text}` is no number of bytes"))
                    .err()
            }),
        };
        let Some(location) = entry("location").filter(|l| !l.is_empty()) else {
            return Diagnostic::error("onnx-external-path", "the external data name no file").err();
        };
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        let Some(file) = self.file(location)? else { return Ok(None) };
        let end = match length {
            Some(length) => offset.checked_add(length),
            None => Some(file.len()),
        };
        match end.filter(|end| *end <= file.len() && offset <= *end) {
            Some(end) => Ok(Some(file.slice(offset..end))),
            None => Diagnostic::error(
                "onnx-external-range",
                format!(
                    "bytes {offset}..{} do not lie in `{location}`, which has {}",
                    end.map_or("(overflow)".to_owned(), |end| end.to_string()),
                    file.len()
                ),
            )
            .help("the file is not the one that was exported with this model, or was cut off")
            .err(),
        }
    }

    fn file(&mut self, location: &str) -> Result<Option<Bytes>> {
        if let Some(known) = self.files.get(location) {
            return Ok(Some(known.clone()));
        }
        let outside = || {
            Diagnostic::error(
                "onnx-external-path",
                format!("external data at `{location}` lie outside of the model's folder"),
            )
            .help("put the file beside the model and name it by a relative path")
            .err()
        };
        let relative = Path::new(location);
        if !relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            return outside();
        }
        let missing = || {
            if self.allow_missing {
                return Ok(None);
            }
            Diagnostic::error("onnx-external-missing", format!("the file `{location}` with weights is missing"))
                .help("put it beside the model, or allow absent weights: the model can then be compiled and timed, not run")
                .err()
        };
        let Some(folder) = &self.folder else { return missing() };
        let Ok(real) = folder.join(relative).canonicalize() else { return missing() };
        match folder.canonicalize() {
            Ok(root) if real.starts_with(&root) => {}
            _ => return outside(),
        }
        let bytes = map_file(&real)?;
        self.files.insert(location.to_owned(), bytes.clone());
        Ok(Some(bytes))
    }
}
