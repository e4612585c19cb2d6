//! `orrery sweep`.

use crate::args::{Common, Sweep};
use crate::commands::shared::{notes, open, setup};
use crate::output::{Answer, table};
use crate::progress::progress;
use orrery::{Result, show_seconds, show_si, sweep};
use serde_json::json;

/// Lines of the table; `--json` has every point.
const LINES: usize = 20;

pub(crate) fn answer(args: &Sweep, common: &Common) -> Result<Answer> {
    let model = open(&args.model, args.batch.as_slice())?;
    let setup = setup(&args.on, &args.machine)?;
    let (dimension, first, last) = &args.over;
    let found =
        sweep(&model, &setup, args.batch, dimension, (*first, *last), args.step, &progress(common.quiet))?;
    notes(common, &found.built.notes);
    let batch = found.batch.map(|n| format!(", batch {n}")).unwrap_or_default();
    let mut text = format!(
        "{} on {} in {}{batch}; all figures predicted, {}\n{} steps compiled once for {dimension} from {first} to {last}\n\n",
        found.model,
        found.machine,
        found.precision,
        found.confidence,
        found.built.compiled.program.steps.len(),
    );
    let count = found.points.len();
    let shown = |i: usize| count <= LINES || i.is_multiple_of(count.div_ceil(LINES - 1)) || i + 1 == count;
    let rows: Vec<Vec<String>> = found
        .points
        .iter()
        .enumerate()
        .filter(|(i, _)| shown(*i))
        .map(|(_, point)| {
            let rate = show_si(1.0 / point.time_s, "").trim_end().to_owned();
            vec![point.value.to_string(), show_seconds(point.time_s), rate]
        })
        .collect();
    text += &table(&[dimension, "device time", "runs/s"], 0, &rows);
    if rows.len() < count {
        text += &format!("\n{} of {count} points; --json has them all\n", rows.len());
    }
    Ok(Answer::done(text, json!({ "sweep": found })))
}
