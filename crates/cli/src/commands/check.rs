//! `orrery check`.

use crate::args::{Check, Common};
use crate::commands::shared::{notes, open, setups};
use crate::output::{Answer, Exit, diagnostic_json, wrapped};
use orrery::{CheckReport, Result, Verdict, check};
use serde_json::Value;

pub(crate) fn answer(args: &Check, common: &Common) -> Result<Answer> {
    let model = open(&args.model)?;
    let reports: Vec<CheckReport> = setups(&args.on, &args.machine)?
        .iter()
        .map(|setup| check(&model, args.batch, setup))
        .collect::<Result<_>>()?;
    let mut text = String::new();
    for report in &reports {
        text += &show(report, args.all);
    }
    if let Some(first) = reports.first() {
        notes(common, &first.notes);
    }
    let json = reports.iter().map(json).collect();
    let runs = reports.iter().any(|r| r.refusal.is_none());
    Ok(Answer { text, json, exit: if runs { Exit::Done } else { Exit::Input } })
}

fn json(report: &CheckReport) -> Value {
    let mut json = serde_json::to_value(report).expect("text keys only");
    let [exact, approximated, unknown] = report.counts();
    json["exact"] = exact.into();
    json["approximated"] = approximated.into();
    json["unknown"] = unknown.into();
    json["notes"] = report.notes.iter().map(diagnostic_json).collect();
    json
}

fn show(report: &CheckReport, all: bool) -> String {
    let [exact, approximated, unknown] = report.counts();
    let verdict = if report.refusal.is_none() { "runs" } else { "cannot run" };
    let mut text = format!(
        "{} in {}: {verdict}; {exact} nodes exact, {approximated} approximated, {unknown} unknown\n",
        report.machine, report.precision
    );
    let recognised = report.nodes.iter().filter(|n| n.stage == "transform").count();
    if recognised > 0 && !all {
        text += &format!("  {recognised} groups of nodes recognised as one op; --all lists them\n");
    }
    for node in &report.nodes {
        if !all && node.verdict == Verdict::Exact {
            continue;
        }
        let reason = node.reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default();
        text += &wrapped(&format!("  {:<12}  {}{reason}", node.verdict.name(), node.node), &" ".repeat(16));
    }
    if let Some(refusal) = &report.refusal {
        let place = if refusal.place.is_empty() {
            String::new()
        } else {
            format!(" (at {})", refusal.place.join(" > "))
        };
        text += &wrapped(&format!("  why: {} [{}]{place}", refusal.reason, refusal.code), "    ");
        for remedy in &refusal.remedies {
            text += &wrapped(&format!("  would help: {remedy}"), "    ");
        }
    }
    text
}
