//! The façade: the one interface of Orrery that is meant to stay.
//!
//! ```
//! use orrery::{Model, ModelOptions, Progress, Setup, Work, compare};
//!
//! let model = Model::open("braggnn", &ModelOptions::default())?;
//! let records =
//!     compare(&model, &Work::Inference, &[Setup::find("a100")?], &[1, 32], 1, &Progress::default())?;
//! for record in &records {
//!     println!("{}", record.to_json());
//! }
//! # Ok::<(), Box<orrery::Diagnostic>>(())
//! ```
//!
//! Tensors are shared, not copied: a [`Tensor`] clones by counting. Nothing here prints; long calls take a [`Progress`].

pub mod npz;

pub mod training;

pub use orrery_base::units::{show_bytes, show_joules, show_seconds, show_si};
pub use orrery_base::{Diagnostic, Picoseconds, Progress, Result, Severity};
pub use orrery_data as data;
pub use orrery_evaluate::calibrate::{Calibrated, Kind, calibrate};
pub use orrery_evaluate::check::{CheckReport, NodeCheck, Verdict, check};
pub use orrery_evaluate::compare::compare;
pub use orrery_evaluate::explain::{
    Explanation, MOST_SAMPLES, MemoryPart, Recomputed, Share, StepPart, TrainingParts, explain,
};
pub use orrery_evaluate::model::{BatchAxis, Bound, Options as ModelOptions, Origin};
pub use orrery_evaluate::run::{Checked, OutputCheck, Place, RunRequest, RunResult, run};
pub use orrery_evaluate::sweep::{Sweep, SweepPoint, sweep};
pub use orrery_evaluate::validate::{
    METRICS, OK, Order, Summary, Validation, ValidationRow, WorkOrder, validate,
};
pub use orrery_evaluate::way::Built;
pub use orrery_evaluate::{Model, Setup, Suggestion, Work};
pub use orrery_import::onnx::{SaveOptions, save as save_onnx};
pub use orrery_ir::infer::facts;
pub use orrery_ir::op::Datum;
pub use orrery_ir::{Graph, Type, count};
pub use orrery_machine::{
    ExecutionModel, Parameter, SummaryRow, System, find_among as find_system, load_path as load_system,
    registry as systems,
};
pub use orrery_numerics::{DType, Tensor, check_writable, write_file};
pub use orrery_program::Program;
pub use orrery_program::text::print as program_text;
pub use orrery_record as record;
pub use orrery_transform::Weights;
pub use orrery_zoo::{ZooModel, registry as zoo};

use orrery_base::diagnostic::Context;
use std::path::Path;

/// Compiles a bound model for a machine.
///
/// # Errors
/// `does-not-fit`, `unsupported-op` and others are answers, not faults.
pub fn build(model: &Bound, setup: &Setup, weights: Weights) -> Result<Built> {
    orrery_evaluate::way::build(model, setup, weights, &orrery_compile::Options::default())
}

/// The graph as it goes into the compiler: folded, fused, in the machine's number formats; weights by their types alone.
///
/// # Errors
/// Those of the passes.
pub fn compiled_graph(model: &Bound, setup: &Setup) -> Result<Graph> {
    let target = setup.target()?;
    Ok(orrery_evaluate::way::make_ready(&model.graph, &target, Weights::ShapeOnly)?.graph)
}

/// The text of a machine's file with what calibration found in it: of the built-in file, or of the user's `own`.
///
/// # Errors
/// `file-read` where it cannot be read; `system-syntax` where it is no system file.
pub fn calibrated_file(found: &Calibrated, measurements: &Path, own: Option<&Path>) -> Result<String> {
    let built_in = || {
        let name = format!("systems/{}.toml", found.system);
        orrery_machine::registry::BUILT_IN
            .iter()
            .find(|(file, _)| *file == name)
            .map(|(_, text)| (*text).to_owned())
    };
    let text = match own {
        Some(path) => read_text(path)?,
        None => built_in().unwrap_or_default(),
    };
    let calibration =
        orrery_machine::Calibration { file: measurements.display().to_string(), rows: found.rows.clone() };
    orrery_machine::calibration::write(&text, &found.losses, &found.bands, &calibration)
}

fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| {
        let cause = format!("the file cannot be read: {error}");
        Box::new(Diagnostic::error("file-read", cause).at(path.display().to_string()))
    })
}

/// Reads a file of measured figures, in the form that `measurements/README.md` describes.
///
/// # Errors
/// `file-read` where it cannot be read as text; `measurements-*` with the line.
pub fn read_measurements(path: &Path) -> Result<Vec<record::Record>> {
    record::rows::read(&read_text(path)?).at(|| path.display().to_string())
}
