//! `orrery systems`.

use crate::args::{Systems, SystemsShow};
use crate::commands::shared::load;
use crate::output::{Answer, table, wrapped};
use orrery::{Parameter, Result, System, find_system, show_bytes, show_seconds, show_si, systems};
use serde_json::{Map, Value, json};

pub(crate) fn answer(args: &Systems) -> Result<Answer> {
    match &args.show {
        Some(SystemsShow::Show { name, files }) => {
            let own: Vec<System> = load(&args.files)?.into_iter().chain(load(files)?).collect();
            let system = find_system(name, &own)?;
            Ok(Answer::done(show(&system), show_json(&system)))
        }
        None => {
            let own = load(&args.files)?;
            let all: Vec<&System> = systems().iter().chain(&own).collect();
            Ok(Answer::done(list(&all), all.iter().map(|s| summary_json(s)).collect()))
        }
    }
}

fn precisions(system: &System) -> String {
    let (default, others): (Vec<_>, Vec<_>) =
        system.precisions.iter().partition(|p| p.name == system.default_precision);
    default.into_iter().chain(others).map(|p| p.name.as_str()).collect::<Vec<&str>>().join(", ")
}

fn list(all: &[&System]) -> String {
    let row = |s: &&System| {
        let shortest = s.aliases.iter().min_by_key(|a| a.len()).cloned().unwrap_or_default();
        vec![s.name.clone(), shortest, s.title.clone(), precisions(s)]
    };
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    let mut text = table(&["name", "also", "machine", "precisions, the default first"], 4, &rows);
    for system in all {
        let summary = system.summary_row();
        let labels = orrery::SummaryRow::HEADINGS;
        text += &format!("\n{} ({})\n", summary.title, summary.name);
        for (label, cell) in labels.iter().zip(summary.cells()).skip(2) {
            text += &wrapped(&format!("  {label:<32}  {cell}"), &" ".repeat(36));
        }
        for configuration in &system.configurations {
            let line = format!("  {:<32}  {}", format!("as `{}`", configuration.name), configuration.title);
            text += &wrapped(&line, &" ".repeat(36));
        }
        for error in system.published.iter().flat_map(|p| &p.known_errors) {
            let line = format!(
                "  ! the testbed's table prints {:?} for {}: {}",
                error.printed, error.row, error.right
            );
            text += &wrapped(&line, "    ");
        }
    }
    text + "\n`orrery systems show NAME` prints every number with its status and source\n"
}

fn summary_json(system: &System) -> Value {
    let summary = system.summary_row();
    let cells: Map<String, Value> = orrery::SummaryRow::HEADINGS
        .iter()
        .zip(summary.cells())
        .map(|(heading, cell)| (heading.to_lowercase().replace([' ', '-'], "_"), cell.into()))
        .collect();
    let errors: Vec<Value> = system
        .published
        .iter()
        .flat_map(|p| &p.known_errors)
        .map(|e| json!({ "row": e.row, "printed": e.printed, "right": e.right }))
        .collect();
    json!({
        "name": system.name,
        "aliases": system.aliases,
        "title": system.title,
        "vendor": system.vendor,
        "kind": system.kind,
        "execution_model": system.model.kind().name(),
        "default_precision": system.default_precision,
        "precisions": system.precisions.iter().map(|p| &p.name).collect::<Vec<_>>(),
        "software": system.software.iter().map(|s| &s.name).collect::<Vec<_>>(),
        "configurations": system.configurations.iter().map(|c| &c.name).collect::<Vec<_>>(),
        "summary": cells,
        "known_errors_of_the_published_table": errors,
    })
}

/// A number with its unit, for people.
fn shown(parameter: &Parameter) -> String {
    let Some(number) = parameter.number() else { return "a list of tile shapes".to_owned() };
    match parameter.unit.as_str() {
        "B" => show_bytes(number),
        "s" => show_seconds(number),
        "count" | "ratio" => format!("{number}"),
        unit @ ("Hz" | "B/s" | "FLOP/s" | "W") => show_si(number, unit),
        unit => format!("{number} {unit}"),
    }
}

fn row(name: &str, parameter: &Parameter) -> Vec<String> {
    vec![name.to_owned(), shown(parameter), parameter.status.name().to_owned(), parameter.sources.join(", ")]
}

fn show(system: &System) -> String {
    const HEADINGS: [&str; 4] = ["number", "value", "status", "source"];
    let mut text = format!("{} ({}): {}\n", system.title, system.name, system.kind);
    text += &format!("execution model: {}\n\n", system.model.kind().name());
    let rows: Vec<Vec<String>> = system.parameters.iter().map(|(name, p)| row(name, p)).collect();
    text += &table(&HEADINGS, 4, &rows);
    for precision in &system.precisions {
        let default = if precision.name == system.default_precision { ", the default" } else { "" };
        text += &wrapped(
            &format!(
                "\nprecision {}{default}: stored as {}, multiplied as {}, summed in {}, on the {} unit",
                precision.name,
                precision.storage,
                precision.multiply,
                precision.accumulate,
                precision.engine.name()
            ),
            "  ",
        );
        let mut rows = vec![row("mac_per_cycle", &precision.mac_per_cycle), row("peak", &precision.peak)];
        rows.extend(precision.sustained.as_ref().map(|p| row("sustained_fraction", p)));
        text += &table(&HEADINGS, 4, &rows);
    }
    for configuration in &system.configurations {
        text += &wrapped(&format!("\nconfiguration {}: {}\n", configuration.name, configuration.title), "  ");
        let rows: Vec<Vec<String>> = configuration.parameters.iter().map(|(name, p)| row(name, p)).collect();
        text += &table(&HEADINGS, 4, &rows);
    }
    text += "\nwhat software loses where no stack is named\n";
    let rows: Vec<Vec<String>> = system.losses.iter().map(|(name, p)| row(name, p)).collect();
    text += &table(&HEADINGS, 4, &rows);
    for stack in &system.software {
        let how = match (stack.fuses, stack.graph_launch) {
            (true, true) => "fuses, launches whole models",
            (true, false) => "fuses, launches op by op",
            (false, true) => "does not fuse, launches whole models",
            (false, false) => "does not fuse, launches op by op",
        };
        text += &format!("\n--stack {}: {} ({how})\n", stack.name, stack.title);
        if !stack.losses.is_empty() {
            let rows: Vec<Vec<String>> = stack.losses.iter().map(|(name, p)| row(name, p)).collect();
            text += &table(&HEADINGS, 4, &rows);
        }
    }
    text += "\nnotes\n";
    for (name, parameter) in &system.parameters {
        if let Some(note) = &parameter.note {
            text += &wrapped(&format!("  {name}: {note}"), "    ");
        }
    }
    text += "\nsources\n";
    for (key, source) in &system.sources {
        text += &wrapped(&format!("  {key}: {source}"), "    ");
    }
    text
}

fn parameter_json(parameter: &Parameter) -> Value {
    json!({
        "value": parameter.number(),
        "unit": parameter.unit,
        "status": parameter.status.name(),
        "sources": parameter.sources,
        "note": parameter.note,
    })
}

fn show_json(system: &System) -> Value {
    let all = |parameters: &std::collections::BTreeMap<String, Parameter>| -> Map<String, Value> {
        parameters.iter().map(|(name, p)| (name.clone(), parameter_json(p))).collect()
    };
    let mut json = summary_json(system);
    json["parameters"] = Value::Object(all(&system.parameters));
    json["losses"] = Value::Object(all(&system.losses));
    json["precisions"] = system
        .precisions
        .iter()
        .map(|p| {
            json!({
                "name": p.name,
                "aliases": p.aliases,
                "storage": p.storage.name(),
                "multiply": p.multiply,
                "accumulate": p.accumulate.name(),
                "engine": p.engine.name(),
                "mac_per_cycle": parameter_json(&p.mac_per_cycle),
                "peak": parameter_json(&p.peak),
                "sustained_fraction": p.sustained.as_ref().map(parameter_json),
                "stochastic_rounding": p.stochastic_rounding,
            })
        })
        .collect();
    json["software"] = system
        .software
        .iter()
        .map(|s| {
            json!({
                "name": s.name,
                "title": s.title,
                "fuses": s.fuses,
                "graph_launch": s.graph_launch,
                "losses": all(&s.losses),
            })
        })
        .collect();
    json["sources"] = json!(system.sources);
    json
}
