//! `orrery validate`.

use crate::args::{Common, Validate};
use crate::commands::shared::{load, threads};
use crate::output::{Answer, table};
use crate::progress::progress;
use orrery::{Result, Summary, Validation, ValidationRow, read_measurements, validate};
use std::collections::BTreeMap;

pub(crate) fn answer(args: &Validate, common: &Common) -> Result<Answer> {
    let records = read_measurements(&args.file)?;
    let own = load(&args.files)?;
    let found = validate(&records, &own, threads(common), &progress(common.quiet))?;
    let json = serde_json::to_value(&found).expect("text keys and finite numbers only");
    Ok(Answer::done(text(&found), json))
}

fn text(found: &Validation) -> String {
    let predicted: Vec<&ValidationRow> = found.rows.iter().filter(|r| r.predicted.is_some()).collect();
    let rows: Vec<Vec<String>> = predicted.iter().map(|row| cells(row)).collect();
    let mut text = table(&["row", "status", "scored", "unit", "measured", "predicted", "ratio"], 4, &rows);
    text += &reasons(found);
    text += &unknown(found);
    text += "\nclean figures; speed is predicted over measured, of times the other way round\n";
    text += &summaries(&found.clean);
    if !found.loose.is_empty() {
        text += "\nfigures with host or launch overhead in them: within 2x is right\n";
        text += &summaries(&found.loose);
    }
    if found.order.pairs > 0 {
        let share = 100.0 * found.order.right as f64 / found.order.pairs as f64;
        text += &format!(
            "\nfaster or slower: {} of {} pairs of machines measured on the same work are predicted in the right order, {share:.0} %\n",
            found.order.right, found.order.pairs,
        );
    }
    text
}

fn cells(row: &ValidationRow) -> Vec<String> {
    let status = if row.from_forward { "forward x 3" } else { "predicted" };
    vec![
        row.id.clone(),
        status.to_owned(),
        row.scored.map(orrery::record::Scored::name).unwrap_or_default().to_owned(),
        row.unit.clone(),
        digits(row.measured),
        row.predicted.map(digits).unwrap_or_default(),
        row.ratio.map(factor).unwrap_or_default(),
    ]
}

/// Numbers that are written without an exponent, besides zero.
const PLAIN: std::ops::Range<f64> = 1e-3..1e9;

/// Four digits or more.
fn digits(value: f64) -> String {
    if value != 0.0 && !PLAIN.contains(&value.abs()) {
        format!("{value:.3e}")
    } else if value.abs() >= 1000.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.4}").chars().take(6).collect()
    }
}

/// How often one figure is in another.
fn factor(value: f64) -> String {
    if (5e-3..1e5).contains(&value) { format!("{value:.2}") } else { format!("{value:.1e}") }
}

/// Rows without a prediction, by reason.
fn reasons(found: &Validation) -> String {
    let reasons = found.rows.iter().filter(|row| row.predicted.is_none()).map(|row| row.status.as_str());
    let (rows, count) = counted(reasons);
    if count == 0 {
        return String::new();
    }
    format!("\n{count} of {} rows cannot be modelled; --json names each\n", found.rows.len())
        + &table(&["why", "rows"], 1, &rows)
}

/// What rows say that has no effect.
fn unknown(found: &Validation) -> String {
    let (rows, count) = counted(found.rows.iter().flat_map(|row| &row.unknown).map(String::as_str));
    if count == 0 {
        return String::new();
    }
    "\nin the file and not known here, so without effect\n".to_owned() + &table(&["what", "rows"], 1, &rows)
}

/// Each text once, with how often it is there, the most frequent first; and how many there are in all.
fn counted<'a>(texts: impl Iterator<Item = &'a str>) -> (Vec<Vec<String>>, usize) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    texts.for_each(|text| *counts.entry(text).or_default() += 1);
    let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let rows = counts.iter().map(|(text, count)| vec![(*text).to_owned(), count.to_string()]).collect();
    (rows, counts.iter().map(|(_, count)| count).sum())
}

fn summaries(all: &[Summary]) -> String {
    let percent = |part: f64| match 100.0 * part {
        large if large >= 1e5 => format!("{large:.0e} %"),
        percent => format!("{percent:.0} %"),
    };
    let row = |s: &Summary| {
        vec![
            s.system.clone(),
            s.kind.clone(),
            s.n.to_string(),
            percent(s.median_error),
            percent(s.p90_error),
            percent(s.median_error_by_source),
            factor(s.geometric_mean_ratio),
            percent(s.within_25_percent),
            percent(s.within_2x),
        ]
    };
    let headings = ["system", "kind", "n", "median", "p90", "by source", "speed", "in 25 %", "in 2x"];
    table(&headings, 2, &all.iter().map(row).collect::<Vec<_>>())
}
