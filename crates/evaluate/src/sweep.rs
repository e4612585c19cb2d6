//! One program, compiled once, timed at many values of a dimension that it leaves open.

use crate::model::Model;
use crate::outcome::confidence;
use crate::setup::Setup;
use crate::way::{Built, build};
use orrery_base::{Diagnostic, Progress, Result};
use orrery_compile::Options;
use orrery_ir::Bindings;
use orrery_simulate::device_time;
use orrery_transform::Weights;
use serde::Serialize;

/// A program's time at one value of the open dimension.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SweepPoint {
    /// Value of the dimension.
    pub value: i64,
    /// Device time of one run in seconds; predicted.
    pub time_s: f64,
}

/// What a sweep found.
#[derive(Clone, Debug, Serialize)]
pub struct Sweep {
    /// Model.
    pub model: String,
    /// Machine.
    pub machine: String,
    /// Precision.
    pub precision: String,
    /// Samples at a time.
    pub batch: Option<u64>,
    /// The dimension.
    pub dimension: String,
    /// What the predictions are worth.
    pub confidence: String,
    /// Points, by rising value.
    pub points: Vec<SweepPoint>,
    /// The program.
    #[serde(skip)]
    pub built: Built,
}

/// Most points of one sweep.
const MOST_POINTS: usize = 100_000;

/// Compiles a model with one dimension open from `range.0` to `range.1`, and times it at each `step`-th value and at the
/// last. The mapping is chosen for the largest value.
///
/// # Errors
/// `range` where it is empty or has too many points; `unknown-symbol` where the model has no such dimension; those of
/// compiling; `cancelled`.
pub fn sweep(
    model: &Model,
    setup: &Setup,
    batch: Option<u64>,
    dimension: &str,
    (from, to): (i64, i64),
    step: u64,
    progress: &Progress,
) -> Result<Sweep> {
    let step = i64::try_from(step).ok().filter(|step| *step > 0);
    let points = step.and_then(|step| usize::try_from(to.checked_sub(from)? / step).ok());
    let (Some(step), true, Some(true)) = (step, from > 0, points.map(|points| points < MOST_POINTS)) else {
        return Diagnostic::error("range", format!("{from} to {to} is no range of values of `{dimension}`"))
            .help(format!(
                "give a first and a last value from 1 up, and a step that makes {MOST_POINTS} points or fewer"
            ))
            .err();
    };
    if let Some(given) = model.given_size(dimension) {
        let cause = format!("`{dimension}` cannot be {given} and go from {from} to {to}");
        return Diagnostic::error("dimension-conflict", cause).at(model.name.clone()).err();
    }
    let bound = model.with_open(batch, dimension)?;
    // Sizes that the model does not have show at the last value.
    model.at_sizes(batch, &[(dimension.to_owned(), to)].into())?;
    let options = Options { symbols: [(dimension.to_owned(), (from, to))].into(), ..Options::default() };
    let built = build(&bound, setup, Weights::ShapeOnly, &options)?;
    let target = setup.target()?;
    let mut values: Vec<i64> = (from..=to).step_by(usize::try_from(step).unwrap_or(usize::MAX)).collect();
    if values.last() != Some(&to) {
        values.push(to);
    }
    let mut points = Vec::with_capacity(values.len());
    for (done, &value) in values.iter().enumerate() {
        if !progress.step("time", done as u64, values.len() as u64) {
            return Diagnostic::error("cancelled", format!("stopped at {dimension} = {value}")).err();
        }
        let at: Bindings = [(dimension.to_owned(), value)].into();
        let time = device_time(&built.compiled.program, &at, &target)?;
        points.push(SweepPoint { value, time_s: time.seconds() });
    }
    Ok(Sweep {
        model: bound.name,
        machine: setup.system.name.clone(),
        precision: target.precision.name.clone(),
        batch: bound.batch,
        dimension: dimension.to_owned(),
        confidence: confidence(&setup.system, "decode"),
        points,
        built,
    })
}
