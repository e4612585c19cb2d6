//! ONNX: reading and writing.
//!
//! Reading ([`load_path`], [`load_bytes`]) takes every operator set from the first to the newest and upgrades each operator
//! to its newest form, which is the op table's. Functions of the model are expanded; bodies of control flow are closed.
//! Nothing is dropped in silence: every node has a line in the [`Report`], and a graph is given only where none is unknown.

mod build;
mod call;
mod control;
mod data;
mod dtype;
mod export;
mod external;
mod functions;
mod import;
mod operators;
mod order;
mod parse;
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated from the schema, see proto/README.md")]
#[rustfmt::skip]
pub mod proto;
mod report;
mod save;
mod tensor;
mod types;
mod upgrade;

pub use data::read_datum;
pub use export::{NEWEST_OPSET, OLDEST_OPSET, to_model_proto};
pub use report::{Fidelity, Imported, NodeReport, Report};
pub use save::{DEFAULT_OPSET, SaveOptions, save, to_bytes};

use crate::map_file;
use bytes::Bytes;
use external::External;
use orrery_base::Result;
use orrery_base::diagnostic::Context;
use std::path::{Path, PathBuf};

/// How a model is read.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where external data lie; [`load_path`] sets it to the model's own folder.
    pub folder: Option<PathBuf>,
    /// Files with weights may be missing: the weights are then absent, which is enough to compile and time.
    pub allow_absent_weights: bool,
    /// Unknown nodes are no error: the report tells, and there is no graph.
    pub inspect: bool,
}

/// Reads a model file. It is mapped, and weights are slices of the map.
///
/// # Errors
/// Diagnostics with codes `onnx-*`, `file-read`, `type-rule` or `graph-invalid`, with the file in front of the place.
pub fn load_path(path: &Path, options: &Options) -> Result<Imported> {
    let bytes = map_file(path)?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let options = Options { folder: Some(folder), ..options.clone() };
    load_bytes(&bytes, &options).at(|| path.display().to_string())
}

/// Reads a model from bytes.
///
/// # Errors
/// As [`load_path`].
pub fn load_bytes(bytes: &Bytes, options: &Options) -> Result<Imported> {
    let model = parse::parse_model(bytes)?;
    let external = External::new(options.folder.as_deref(), options.allow_absent_weights);
    let imported = import::import(&model, external)?;
    if let (false, Some(unknown)) = (options.inspect, imported.report.unknown_error()) {
        return unknown.help("inspect the file to see what became of each node").err();
    }
    Ok(imported)
}
