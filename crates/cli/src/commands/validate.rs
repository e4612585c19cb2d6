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
        row.ratio.map(|r| format!("{r:.2}")).unwrap_or_default(),
    ]
}

/// Four digits or more.
fn digits(value: f64) -> String {
    if value.abs() >= 1000.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.4}").chars().take(6).collect()
    }
}

/// Rows without a prediction, by reason.
fn reasons(found: &Validation) -> String {
    let mut reasons: BTreeMap<&str, Vec<&ValidationRow>> = BTreeMap::new();
    for row in found.rows.iter().filter(|r| r.predicted.is_none()) {
        reasons.entry(&row.status).or_default().push(row);
    }
    let count: usize = reasons.values().map(Vec::len).sum();
    if count == 0 {
        return String::new();
    }
    let mut rows: Vec<Vec<String>> =
        reasons.iter().map(|(reason, rows)| vec![(*reason).to_owned(), rows.len().to_string()]).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row[1].parse::<usize>().unwrap_or(0)));
    format!("\n{count} of {} rows cannot be modelled; --json names each\n", found.rows.len())
        + &table(&["why", "rows"], 1, &rows)
}

fn summaries(all: &[Summary]) -> String {
    let percent = |part: f64| format!("{:.0} %", 100.0 * part);
    let row = |s: &Summary| {
        vec![
            s.system.clone(),
            s.kind.clone(),
            s.n.to_string(),
            percent(s.median_error),
            percent(s.p90_error),
            percent(s.median_error_by_source),
            format!("{:.2}", s.geometric_mean_ratio),
            percent(s.within_25_percent),
            percent(s.within_2x),
        ]
    };
    let headings = ["system", "kind", "n", "median", "p90", "by source", "speed", "in 25 %", "in 2x"];
    table(&headings, 2, &all.iter().map(row).collect::<Vec<_>>())
}
