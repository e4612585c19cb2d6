//! `orrery check`.

use crate::args::{Check, Common};
use crate::commands::shared::{no_effect, notes, open, setups};
use crate::output::{Answer, Exit, diagnostic_json, together, wrapped};
use orrery::{CheckReport, Result, Verdict, check};
use serde_json::Value;

pub(crate) fn answer(args: &Check, common: &Common) -> Result<Answer> {
    if args.train {
        return no_effect(
            "--train",
            "`check` is about runs of a model; `orrery compare --train` and `orrery explain --train` say whether and how a \
             training step runs",
        );
    }
    let model = open(&args.model, args.batch.as_slice())?;
    let reports: Vec<CheckReport> = setups(&args.on, &args.machine)?
        .iter()
        .map(|setup| check(&model, args.batch, setup))
        .collect::<Result<_>>()?;
    let mut text = String::new();
    for (headings, body) in together(reports.iter().map(|report| (heading(report), body(report, args.all)))) {
        text += &headings.concat();
        text += &body;
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

/// The machine, and how many nodes it takes.
fn heading(report: &CheckReport) -> String {
    let [exact, approximated, unknown] = report.counts();
    let verdict = if report.refusal.is_none() { "runs" } else { "cannot run" };
    let s = if exact == 1 { "" } else { "s" };
    format!(
        "{} in {}: {verdict}; {exact} node{s} exact, {approximated} approximated, {unknown} unknown\n",
        report.machine, report.precision
    )
}

/// Nodes that are named of those with the same reason.
const NAMED: usize = 3;

/// What is said of the nodes and the whole, the same of some machines.
fn body(report: &CheckReport, all: bool) -> String {
    let mut text = String::new();
    let recognised = report.nodes.iter().filter(|n| n.stage == "transform").count();
    if recognised > 0 && !all {
        let what = if recognised == 1 { "group of nodes" } else { "groups of nodes" };
        text += &format!("  {recognised} {what} recognised as one op; --all lists them\n");
    }
    let shown = report.nodes.iter().filter(|node| all || node.verdict != Verdict::Exact);
    let shown = shown.map(|node| (node.node.clone(), (node.verdict, node.reason.as_deref())));
    let shown = match all {
        true => shown.map(|(node, said)| (vec![node], said)).collect(),
        false => together(shown),
    };
    for (nodes, (verdict, reason)) in shown {
        let reason = reason.map(|r| format!(": {r}")).unwrap_or_default();
        let named = match nodes.len() {
            n if n > NAMED => format!("{n} nodes, as {}; --all lists them", nodes[..NAMED].join(", ")),
            _ => nodes.join(", "),
        };
        text += &wrapped(&format!("  {:<12}  {named}{reason}", verdict.name()), &" ".repeat(16));
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
