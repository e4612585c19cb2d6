//! `orrery run`.

use crate::args::{Common, Run};
use crate::commands::outputs::{self, Kind};
use crate::commands::shared::{note, notes, open, place, threads};
use crate::output::{Answer, Exit, table};
use crate::progress::progress;
use orrery::{Checked, Datum, Result, RunRequest, RunResult, check_writable, npz, run, show_seconds};
use serde_json::{Value, json};
use std::path::Path;

/// Outputs up to so many elements are printed.
const SHOWN: usize = 8;

pub(crate) fn answer(args: &Run, common: &Common) -> Result<Answer> {
    let model = open(&args.model, args.batch.as_slice())?;
    let place = place(&args.on, &args.machine)?;
    if let Some(path) = &args.output {
        let mut read = vec![("the model", Path::new(&args.model.model))];
        read.extend(args.input.iter().map(|input| ("the input", input.as_path())));
        outputs::check(&[("--output", path, Kind::Arrays)], &read)?;
        check_writable(path)?;
    }
    let inputs = args.input.as_ref().map(|path| npz::read(path)).transpose()?.unwrap_or_default();
    let request = RunRequest {
        place: &place,
        batch: args.batch,
        inputs,
        seed: args.seed,
        threads: threads(common),
        check: args.check,
        progress: progress(common.quiet),
    };
    let result = run(&model, &request)?;
    for made in &result.drawn {
        note(common, &format!("input `{}` is random: {} (seed {})", made.name, made.drawn, args.seed));
    }
    notes(common, &result.notes);
    if let Some(path) = &args.output {
        npz::write(path, &result.outputs)?;
        note(common, &format!("outputs written to {}", path.display()));
    }
    let agrees = result.checked.as_ref().is_none_or(|checked| checked.disagreements.is_empty());
    let exit = if agrees { Exit::Done } else { Exit::Fault };
    Ok(Answer { text: text(&result), json: json(&result, args.seed), exit })
}

fn text(result: &RunResult) -> String {
    let rows: Vec<Vec<String>> = result
        .outputs
        .iter()
        .map(|(name, datum)| vec![name.clone(), described(datum), beginning(datum)])
        .collect();
    let mut text = table(&["output", "type", "elements"], 3, &rows);
    for figure in result.record.measurements() {
        let what = match figure.metric.as_str() {
            "time_ms" => "to prepare",
            _ => "to run once, the first time",
        };
        text += &format!("{} {what}, executed on this host\n", show_seconds(figure.value / 1e3));
    }
    if let Some(checked) = &result.checked {
        text += &check_text(checked);
    }
    text
}

fn check_text(checked: &Checked) -> String {
    let mut text = String::new();
    for output in &checked.outputs {
        let error = match output.relative_error {
            Some(0.0) => "every bit equal".to_owned(),
            Some(error) => format!("largest error {error:.3e} of the largest value"),
            None => "cannot be compared as numbers, and differs".to_owned(),
        };
        text += &format!("against the interpreter: `{}` {error}\n", output.name);
    }
    if checked.steps > 0 {
        text += &format!(
            "{} steps held against the interpreter in the machine's formats, {} out of bounds\n",
            checked.steps,
            checked.disagreements.len()
        );
    }
    for wrong in &checked.disagreements {
        text += &format!(
            "  step {} `{}`: {} elements of `{}` off by up to {:.3e}, allowed {:.3e}\n",
            wrong.step, wrong.name, wrong.elements, wrong.output, wrong.difference, wrong.bound
        );
    }
    text
}

fn described(datum: &Datum) -> String {
    match datum {
        Datum::Tensor(tensor) => {
            let extents: Vec<String> = tensor.shape().iter().map(usize::to_string).collect();
            format!("{}[{}]", tensor.dtype(), extents.join(", "))
        }
        Datum::Sequence(elements) => format!("list of {}", elements.len()),
        Datum::Optional(Some(inner)) => described(inner),
        Datum::Optional(None) => "nothing".to_owned(),
    }
}

fn beginning(datum: &Datum) -> String {
    let Some(tensor) = datum.as_tensor() else { return String::new() };
    let mut words: Vec<String> = match tensor.to_f64() {
        Ok(values) if tensor.dtype().is_float() => {
            values.iter().take(SHOWN).map(|v| format!("{v:.4}")).collect()
        }
        Ok(values) => values.iter().take(SHOWN).map(f64::to_string).collect(),
        Err(_) => tensor.strings().iter().take(SHOWN).map(|s| format!("{s:?}")).collect(),
    };
    if tensor.len() > SHOWN {
        words.push("…".to_owned());
    }
    words.join(" ")
}

fn json(result: &RunResult, seed: u64) -> Value {
    let outputs: Vec<Value> = result
        .outputs
        .iter()
        .map(|(name, datum)| json!({ "name": name, "type": described(datum) }))
        .collect();
    let drawn: Vec<Value> =
        result.drawn.iter().map(|m| json!({ "name": m.name, "drawn": m.drawn, "seed": seed })).collect();
    let checked = result.checked.as_ref().map(|checked| {
        let wrong: Vec<Value> = checked
            .disagreements
            .iter()
            .map(|d| {
                json!({
                    "step": d.step.to_string(),
                    "name": d.name,
                    "output": d.output,
                    "elements": d.elements,
                    "difference": d.difference,
                    "bound": d.bound,
                })
            })
            .collect();
        json!({ "outputs": checked.outputs, "steps": checked.steps, "disagreements": wrong })
    });
    json!({
        "outputs": outputs,
        "random_inputs": drawn,
        "check": checked,
        "record": result.record.to_value(),
    })
}
