//! Losses fitted to measurements, and how far predictions are off where the fit has not looked.
//!
//! The fit moves the named losses of a machine, and deviations of its software stacks, each in logarithms. It makes small:
//!
//! - the mean of |ln(predicted / measured)| in each pair of source and workload, summed over pairs, so that a long sweep
//!   does not outvote the rest;
//! - plus what keeps a loss near the value the file assumes, and a stack near the machine's default.
//!
//! Training rows that are taken as a multiple of the forward pass are left out of the fit where there are others.
//! How a loss moves each prediction is tabulated one loss at a time around the current values and added up in logarithms;
//! the tables are made anew around what was found. Within a table, training steps on tiles stay as they were compiled for
//! the losses in its middle; all else is predicted by the real formulas. Bands come from leaving out one pair at a time:
//! the others are fitted, and the rows of the pair are predicted by the real formulas under these losses. All of it
//! follows from the file alone.

mod fit;

use crate::compare::in_parallel;
use crate::validate::{Steps, is_rate, predicted, quantile};
use fit::{Data, Fit, Solution};
use orrery_base::{Progress, Result};
use orrery_machine::{Band, CalibratedLoss, Parameter, Status, System, Value};
use orrery_record::{Measurement, Record, Scored};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Factors by which each loss is moved to see what it does.
const FACTORS: [f64; 9] = [0.25, 0.4, 0.6, 0.8, 1.0, 1.25, 1.7, 2.5, 4.0];
/// Pairs of source and workload below which rows that are a multiple of the forward pass are fitted to as well.
const FEWEST_DIRECT: usize = 2;
/// How often the tables are made anew.
const ROUNDS: usize = 2;

/// How far the rows of one kind of work are off.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Kind {
    /// Mode of the rows.
    pub kind: String,
    /// Rows.
    pub rows: usize,
    /// Pairs of source and workload.
    pub groups: usize,
    /// Median over pairs of the median of |predicted - measured| / measured, with the losses that the fit began with.
    pub before: f64,
    /// The same with the fitted losses, on the rows they were fitted to.
    pub fitted: f64,
    /// The same where each pair was predicted by a fit without it; none where there is no other pair.
    pub cross_validated: Option<f64>,
}

/// What calibration found for a machine.
#[derive(Clone, Debug)]
pub struct Calibrated {
    /// The machine.
    pub system: String,
    /// Names of the rows used.
    pub rows: Vec<String>,
    /// Losses that moved.
    pub losses: Vec<CalibratedLoss>,
    /// Bands by kind of work.
    pub bands: Vec<Band>,
    /// How far rows are off, by kind.
    pub kinds: Vec<Kind>,
}

/// A measurement that a fit can use.
struct Point<'a> {
    record: &'a Record,
    /// Taken as a multiple of the forward pass: too rough to fit losses to where there is better.
    rough: bool,
    figure: &'a Measurement,
    group: usize,
    stack: Option<usize>,
}

/// Fits the losses of a machine to the clean rows of a file that are of it and that can be predicted. None where those
/// are of fewer than two sets of source and workload.
///
/// # Errors
/// `cancelled`.
pub fn calibrate(
    system: &System,
    records: &[Record],
    threads: usize,
    progress: &Progress,
) -> Result<Option<Calibrated>> {
    let start = system.before_calibration();
    let mut groups: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut points = Vec::new();
    let from_start = Steps::default();
    for record in records.iter().filter(|r| start.answers_to(&r.identity.machine)) {
        for figure in record.measurements() {
            let clean = matches!(figure.scored, None | Some(Scored::Yes));
            let found = clean.then(|| predicted(record, figure, &start, &from_start));
            let Some(Ok((_, rough))) = found else { continue };
            let key = (record.source(), record.identity.workload.model.clone());
            let next = groups.len();
            let group = *groups.entry(key).or_insert(next);
            let name = record.identity.stack.as_deref();
            let stack = start.software.iter().position(|s| Some(s.name.as_str()) == name);
            points.push(Point { record, rough, figure, group, stack });
        }
    }
    // With a single set nothing is left to hold a fit against, and what an earlier file taught would be lost.
    if groups.len() < 2 {
        return Ok(None);
    }
    let direct: BTreeSet<usize> = points.iter().filter(|p| !p.rough).map(|p| p.group).collect();
    let rough_ones_too = direct.len() < FEWEST_DIRECT;
    let losses: Vec<String> = movable(&start);
    let evaluate = |system: &System, points: &[&Point<'_>], steps: &Steps| {
        in_parallel(points, threads, progress, &|point| error_of(system, point, steps))
    };
    let all: Vec<&Point<'_>> = points.iter().collect();
    let before = evaluate(&start, &all, &from_start)?;
    let mut solution = Solution::none(losses.len(), start.software.len());
    let mut data = None;
    for _ in 0..ROUNDS {
        let current = with_losses(&start, &start, &losses, &solution);
        let steps = Steps::default();
        let base = evaluate(&current, &all, &steps)?;
        let mut effects = Vec::new();
        for (number, key) in losses.iter().enumerate() {
            let mut moved = Vec::new();
            for factor in FACTORS {
                let mut one = Solution::none(losses.len(), start.software.len());
                one.losses[number] = factor.ln();
                let system = with_losses(&current, &start, std::slice::from_ref(key), &one.only(number));
                let errors = if factor == 1.0 { base.clone() } else { evaluate(&system, &all, &steps)? };
                moved.push(errors.iter().zip(&base).map(|(moved, base)| moved - base).collect());
            }
            effects.push(moved);
        }
        let found = Data {
            base,
            effects,
            group: points.iter().map(|p| p.group).collect(),
            stack: points.iter().map(|p| p.stack).collect(),
            center: solution.clone(),
            highest: losses.iter().map(|key| highest(&start, key)).collect(),
            fitted_to: points.iter().map(|p| !p.rough || rough_ones_too).collect(),
        };
        solution = Fit::new(&found, FACTORS.map(f64::ln).to_vec()).solve(None);
        data = Some(found);
    }
    let data = data.expect("there is at least one round");
    let after = evaluate(&with_losses(&start, &start, &losses, &solution), &all, &Steps::default())?;
    let mut cross: Vec<Option<f64>> = vec![None; points.len()];
    if groups.len() > 1 {
        for group in 0..groups.len() {
            let left_out: Vec<usize> = (0..points.len()).filter(|&i| points[i].group == group).collect();
            let without = Fit::new(&data, FACTORS.map(f64::ln).to_vec()).solve(Some(group));
            let system = with_losses(&start, &start, &losses, &without);
            let rows: Vec<&Point<'_>> = left_out.iter().map(|&i| &points[i]).collect();
            for (i, error) in left_out.iter().zip(evaluate(&system, &rows, &Steps::default())?) {
                cross[*i] = Some(error);
            }
        }
    }
    // A fit that predicts what it has not seen no better than the assumed losses do is none.
    let none = Solution::none(losses.len(), start.software.len());
    let unfitted: Vec<Option<f64>> = before.iter().zip(&cross).map(|(b, c)| c.map(|_| *b)).collect();
    let helps = mean_error(&points, &cross) < mean_error(&points, &unfitted);
    let (solution, after) = if helps { (solution, after) } else { (none, before.clone()) };
    let cross = if helps { cross } else { before.iter().map(|error| Some(*error)).collect() };
    let fitted = calibrated_losses(&start, &losses, &solution);
    let (kinds, bands) = by_kind(&points, &before, &after, &cross);
    let mut rows: Vec<String> = points.iter().filter_map(|p| p.record.id.clone()).collect();
    rows.dedup();
    Ok(Some(Calibrated { system: system.name.clone(), rows, losses: fitted, bands, kinds }))
}

/// Losses that nobody published.
fn movable(system: &System) -> Vec<String> {
    let open = |parameter: &Parameter| parameter.status == Status::Assumed;
    system.losses.iter().filter(|(_, p)| open(p)).map(|(key, _)| key.clone()).collect()
}

/// Largest logarithm by which a loss may move up from where it is: a ratio is at most 1.
fn highest(system: &System, key: &str) -> f64 {
    let parameter = &system.losses[key];
    match parameter.number() {
        Some(number) if parameter.unit == "ratio" => -number.ln(),
        _ => f64::INFINITY,
    }
}

/// A machine with its losses moved; what the file says of a stack itself stays as it is in `start`.
fn with_losses(system: &System, start: &System, losses: &[String], solution: &Solution) -> System {
    let mut moved = system.clone();
    for (number, key) in losses.iter().enumerate() {
        let factor = solution.losses[number];
        for (stack, deviations) in solution.stacks.iter().enumerate() {
            let own = system.software[stack].losses.get(key);
            if start.software[stack].losses.contains_key(key) || (own.is_none() && deviations[number] == 0.0)
            {
                continue;
            }
            let current = own.or_else(|| system.losses.get(key)).cloned();
            if let Some(current) = current {
                moved.software[stack]
                    .losses
                    .insert(key.clone(), times(&current, (factor + deviations[number]).exp()));
            }
        }
        if let Some(parameter) = moved.losses.get_mut(key) {
            *parameter = times(parameter, factor.exp());
        }
    }
    moved
}

fn times(parameter: &Parameter, factor: f64) -> Parameter {
    let most = if parameter.unit == "ratio" { 1.0 } else { f64::INFINITY };
    let value = Value::Number((parameter.number().unwrap_or_default() * factor).min(most));
    Parameter { value, ..parameter.clone() }
}

/// ln(predicted / measured) of the time behind a figure.
fn error_of(system: &System, point: &Point<'_>, steps: &Steps) -> f64 {
    let error = predicted(point.record, point.figure, system, steps)
        .map_or(0.0, |(p, _)| (p / point.figure.value).ln());
    if is_rate(&point.figure.metric) { -error } else { error }
}

/// Losses that differ from what they were, after three digits.
fn calibrated_losses(start: &System, losses: &[String], solution: &Solution) -> Vec<CalibratedLoss> {
    const LEAST: f64 = 0.01;
    let moved = with_losses(start, start, losses, solution);
    let mut found = Vec::new();
    for (number, key) in losses.iter().enumerate() {
        let of = |system: &System, stack: Option<usize>| {
            system
                .loss(key, stack.map(|s| &system.software[s]))
                .and_then(Parameter::number)
                .unwrap_or_default()
        };
        let mut add = |stack: Option<usize>| {
            found.push(CalibratedLoss {
                stack: stack.map(|s| start.software[s].name.clone()),
                key: key.clone(),
                unit: start.losses[key].unit.clone(),
                prior: of(start, None),
                value: of(&moved, stack),
            });
        };
        if solution.losses[number].abs() > LEAST {
            add(None);
        }
        let open = |s: &usize| !start.software[*s].losses.contains_key(key);
        for stack in
            (0..start.software.len()).filter(open).filter(|&s| solution.stacks[s][number].abs() > LEAST)
        {
            add(Some(stack));
        }
    }
    found
}

/// Mean over pairs of source and workload of the median of |predicted - measured| / measured.
fn mean_error(points: &[Point<'_>], errors: &[Option<f64>]) -> f64 {
    let medians = medians(points, 0..points.len(), &|i| errors[i]);
    medians.iter().sum::<f64>() / medians.len().max(1) as f64
}

/// The median of |predicted - measured| / measured of each pair that has errors, as logarithms of times.
fn medians(
    points: &[Point<'_>],
    of: impl IntoIterator<Item = usize>,
    error: &dyn Fn(usize) -> Option<f64>,
) -> Vec<f64> {
    let mut groups: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for i in of {
        let Some(error) = error(i) else { continue };
        let error = if is_rate(&points[i].figure.metric) { -error } else { error };
        groups.entry(points[i].group).or_default().push((error.exp() - 1.0).abs());
    }
    groups.into_values().map(|errors| quantile(errors, 0.5)).collect()
}

fn by_kind(
    points: &[Point<'_>],
    before: &[f64],
    after: &[f64],
    cross: &[Option<f64>],
) -> (Vec<Kind>, Vec<Band>) {
    let mut members: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, point) in points.iter().enumerate() {
        members
            .entry(point.record.identity.workload.mode.as_deref().unwrap_or_default())
            .or_default()
            .push(i);
    }
    let (mut kinds, mut bands) = (Vec::new(), Vec::new());
    for (kind, members) in members {
        let median = |error: &dyn Fn(usize) -> Option<f64>| {
            let medians = medians(points, members.iter().copied(), error);
            (!medians.is_empty()).then(|| (medians.len(), quantile(medians, 0.5)))
        };
        let cross_validated = median(&|i| cross[i]);
        let groups = median(&|i| Some(after[i])).map_or(0, |m| m.0);
        kinds.push(Kind {
            kind: kind.to_owned(),
            rows: members.len(),
            groups,
            before: median(&|i| Some(before[i])).map_or(0.0, |m| m.1),
            fitted: median(&|i| Some(after[i])).map_or(0.0, |m| m.1),
            cross_validated: cross_validated.map(|m| m.1),
        });
        // Two software stacks on the same work were measured apart from each other as well.
        let sets: BTreeSet<(usize, Option<&str>)> = members
            .iter()
            .filter(|&&i| cross[i].is_some())
            .map(|&i| (points[i].group, points[i].record.identity.stack.as_deref()))
            .collect();
        let Some((_, median_error)) = cross_validated
            .filter(|_| sets.len() as u64 >= Band::FEWEST_GROUPS && members.len() >= Band::FEWEST_ROWS)
        else {
            continue;
        };
        let factors: Vec<f64> =
            members.iter().filter_map(|&i| cross[i]).map(|error| (-error).exp()).collect();
        bands.push(Band {
            kind: kind.to_owned(),
            low: quantile(factors.clone(), 0.1),
            high: quantile(factors.clone(), 0.9),
            median_error,
            rows: factors.len() as u64,
            groups: sets.len() as u64,
        });
    }
    (kinds, bands)
}
