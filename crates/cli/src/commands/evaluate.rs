//! `orrery evaluate`.

use crate::args::{Common, Evaluate};
use crate::commands::shared::{note, open, place, threads};
use crate::commands::train::{data_options, executed, loss_of, no_labels};
use crate::output::{Answer, table};
use orrery::data::open as open_data;
use orrery::training::{
    Evaluated, Length, LossScaling, Metric, Optimizer, Request, Schedule, Spec, evaluate,
};
use orrery::{Model, Place, Result, show_seconds};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(crate) fn answer(args: &Evaluate, common: &Common) -> Result<Answer> {
    let model = open(&args.model, args.batch.as_slice())?;
    let place = place(&args.on, &args.machine)?;
    no_labels(&args.read, args.loss.as_deref())?;
    let data = open_data(&args.data, &data_options(&args.read)?)?;
    let samples = data.len() as u64;
    let batch = args.batch.or(model.given_batch()).unwrap_or(samples.clamp(1, 64));
    // Nothing is learned: any optimizer does, and this one keeps nothing.
    let optimizer = Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    let mut spec = Spec::new(loss_of(args.loss.as_deref(), &data, common)?, optimizer);
    spec.loss.output.clone_from(&args.loss_of);
    let request = Request {
        spec,
        place: place.clone(),
        threads: threads(common),
        stochastic: false,
        scaling: LossScaling::None,
        batch: usize::try_from(batch).unwrap_or(usize::MAX),
        length: Length::Epochs(1),
        rate: 0.0,
        schedule: Schedule::constant(),
        seed: 1,
        augment: None,
        columns: args.read.columns.clone(),
        normalise: Vec::new(),
        checkpoint: None,
        resume: None,
        options: BTreeMap::new(),
    };
    let evaluated = evaluate(&model, &data, &request)?;
    evaluated.about.iter().for_each(|line| note(common, line));
    Ok(Answer::done(text(&evaluated, &place), json(&evaluated, &model, args)))
}

fn text(evaluated: &Evaluated, place: &Place) -> String {
    let headings: Vec<&str> =
        std::iter::once("samples").chain(evaluated.metrics.iter().map(|metric| metric.name)).collect();
    let figures = evaluated.metrics.iter().map(|metric| format!("{:.4}", metric.value));
    let row = std::iter::once(evaluated.samples.to_string()).chain(figures).collect();
    let seconds = show_seconds(evaluated.seconds);
    table(&headings, 0, &[row]) + &executed(place) + &format!("it took {seconds} here\n")
}

fn json(evaluated: &Evaluated, model: &Model, args: &Evaluate) -> Value {
    let metrics: BTreeMap<&str, f64> =
        evaluated.metrics.iter().map(|Metric { name, value }| (*name, *value)).collect();
    json!({
        "model": model.name,
        "on": args.on,
        "data": args.data,
        "provenance": "executed",
        "samples": evaluated.samples,
        "metrics": metrics,
        "host_seconds": evaluated.seconds,
    })
}
