//! `orrery compare`.

use crate::args::{Common, Compare};
use crate::commands::shared::{open, setups, step_text, threads, work};
use crate::output::{Answer, Exit, expected, table, together, wrapped};
use crate::progress::progress;
use orrery::record::{Record, Refusal, Scope, Unfairness, compare as side_by_side};
use orrery::{Result, Setup, compare, show_bytes, show_joules, show_seconds, show_si};
use serde_json::{Value, json};

pub(crate) fn answer(args: &Compare, common: &Common) -> Result<Answer> {
    let setups = setups(&args.on, &args.machine)?;
    let common_precision = in_common(&setups);
    let work = work(&args.training);
    let lengths: Vec<Option<u64>> =
        if args.seq.is_empty() { vec![None] } else { args.seq.iter().copied().map(Some).collect() };
    let mut records = Vec::new();
    for length in &lengths {
        let mut of = args.model.clone();
        of.dims.extend(length.map(|length| (SEQUENCE.to_owned(), length.cast_signed())));
        let model = open(&of, &args.batch)?;
        let progress = progress(common.quiet);
        records.extend(compare(&model, &work, &setups, &args.batch, threads(common), &progress)?);
    }
    let comparison = side_by_side(&records);
    let ran = records.iter().any(|r| r.refusal().is_none());
    let rows: Vec<Vec<String>> = records.iter().filter(|r| r.refusal().is_none()).map(row).collect();
    let mut text = title(&records, lengths.len() > 1);
    if ran {
        let several = records.iter().any(|r| r.identity.devices.is_some_and(|n| n > 1.0));
        let shown = |cells: &[String]| -> Vec<String> {
            let cells = cells.iter().zip(HEADINGS).filter(|(_, heading)| match *heading {
                "devices" => several,
                SEQUENCE => lengths.len() > 1,
                _ => true,
            });
            cells.map(|(cell, _)| cell.clone()).collect()
        };
        let headings = shown(&HEADINGS.map(str::to_owned));
        let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
        let rows: Vec<Vec<String>> = rows.iter().map(|row| shown(row)).collect();
        text += &table(&headings, 1, &rows);
        text.push('\n');
        text += &wrapped(EXPECTED, "  ");
        text += &wrapped(ENERGY, "  ");
    }
    let remarks = records.iter().flat_map(|record| {
        record.remarks.iter().map(|remark| (record.identity.machine.clone(), remark.as_str()))
    });
    for (mut machines, remark) in together(remarks) {
        machines.dedup();
        text += &wrapped(&format!("{}: {remark}", machines.join(", ")), "  ");
    }
    let steps =
        records.iter().filter_map(|record| Some((record.identity.machine.clone(), step_text(record)?)));
    for (_, step) in together(steps) {
        text += &wrapped(&step, "  ");
    }
    let mut unfair: Vec<&Unfairness> = Vec::new();
    for found in comparison.groups.iter().flat_map(|group| &group.unfair) {
        if !unfair.contains(&found) {
            unfair.push(found);
        }
    }
    if !unfair.is_empty() {
        let why: Vec<String> = unfair.iter().map(|unfair| unfair.sentence()).collect();
        text += &wrapped(&format!("no winner is named: {}", why.join("; ")), "  ");
        let precision = unfair.iter().any(|unfair| matches!(unfair, Unfairness::Precision { .. }));
        if let Some(name) = common_precision.filter(|_| precision) {
            text += &wrapped(&format!("would help: --precision {name}, which all of them have"), "    ");
        }
    }
    for group in &comparison.groups {
        if let Some(best) = group.best {
            let identity = &records[best].identity;
            let batch = identity.workload.batch.global.map(|n| format!(" at batch {n}")).unwrap_or_default();
            text += &format!("fastest{batch}: {}\n", identity.machine);
        }
    }
    let refusals = records.iter().filter_map(|record| Some((who(record), record.refusal()?)));
    for (machines, refusal) in together(refusals) {
        text += &refused(&machines, refusal);
    }
    let json = json!({
        "records": records.iter().map(Record::to_value).collect::<Vec<Value>>(),
        "comparison": comparison,
    });
    Ok(Answer { text, json, exit: if ran { Exit::Done } else { Exit::Input } })
}

/// The dimension of a sequence's length, as built-in models call it.
const SEQUENCE: &str = "seq";

const HEADINGS: [&str; 12] = [
    "machine",
    "devices",
    "batch",
    SEQUENCE,
    "precision",
    "latency",
    "expected",
    "end to end",
    "samples/s",
    "energy/sample",
    "memory",
    "bound by",
];

/// A precision that all machines have: the first of the first machine's.
fn in_common(setups: &[Setup]) -> Option<String> {
    let (first, others) = setups.split_first()?;
    let mut names = first.system.precisions.iter().map(|precision| precision.name.as_str());
    let has = |setup: &Setup, name: &str| setup.system.precision(Some(name)).is_ok_and(|p| p.name == name);
    names.find(|name| others.iter().all(|setup| has(setup, name))).map(str::to_owned)
}

/// What the band of a latency means.
const EXPECTED: &str = "expected: where 8 of 10 measured times of such work should lie, judging by cross-validation; not \
                        around the latency where predictions lean one way; `uncalibrated`: too few measurements of \
                        the machine to say";

/// What the energy is of.
const ENERGY: &str = "energy: of the chips alone, between their idle and full power by how busy they are, uncalibrated; \
                      `-`: their power is not published";

/// The model, and what all figures are; without the length of the sequence where there are `several`.
fn title(records: &[Record], several: bool) -> String {
    let Some(first) = records.first() else { return String::new() };
    let identity = &first.identity;
    let mut text = identity.workload.model.clone();
    if identity.workload.mode.as_deref() == Some("train") {
        text += ", training steps";
    }
    for (name, value) in identity.workload.dims.iter().filter(|(name, _)| !(several && *name == SEQUENCE)) {
        text += &format!(" {name}={value}");
    }
    if let Some(parameters) = identity.parameters {
        text += &format!(", {} parameters", show_si(parameters as f64, "").trim_end());
    }
    format!("{text}; all figures {}\n\n", first.provenance.name())
}

fn row(record: &Record) -> Vec<String> {
    let identity = &record.identity;
    let value = |metric: &str, scope| record.figure(metric, scope).map(|m| m.value);
    let latency =
        |scope| value("latency_ms", scope).map_or_else(|| "-".to_owned(), |ms| show_seconds(ms / 1e3));
    vec![
        identity.machine.clone(),
        identity.devices.map_or_else(|| "-".to_owned(), |n| n.to_string()),
        identity.workload.batch.global.map_or_else(|| "-".to_owned(), |n| n.to_string()),
        identity.workload.dims.get(SEQUENCE).map_or_else(|| "-".to_owned(), ToString::to_string),
        identity.precision.clone().unwrap_or_default(),
        latency(Scope::Device),
        expected(record.figure("latency_ms", Scope::Device).and_then(|m| m.interval), &|ms| {
            show_seconds(ms / 1e3)
        }),
        latency(Scope::EndToEnd),
        value("samples_per_s", Scope::Device)
            .map_or_else(|| "-".to_owned(), |v| show_si(v, "").trim_end().to_owned()),
        energy(record),
        memory(record),
        bound(record),
    ]
}

/// Energy for a sample.
fn energy(record: &Record) -> String {
    let energy = record.figure("energy_j", Scope::Device).zip(record.counted.samples);
    energy.map_or_else(|| "-".to_owned(), |(energy, samples)| show_joules(energy.value / samples as f64))
}

/// The memory of the machine that is fullest, in bytes of its fullest core and as part of it.
fn memory(record: &Record) -> String {
    let all = record.extra.get("memory").and_then(Value::as_array);
    let number = |memory: &Value, key: &str| memory.get(key).and_then(Value::as_f64).unwrap_or_default();
    let share = |memory: &Value| number(memory, "peak_bytes") / number(memory, "capacity_bytes").max(1.0);
    let fullest = all.into_iter().flatten().max_by(|a, b| share(a).total_cmp(&share(b)));
    fullest.map_or_else(
        || "-".to_owned(),
        |m| format!("{} {:.0}%", show_bytes(number(m, "peak_bytes")), 100.0 * share(m)),
    )
}

fn bound(record: &Record) -> String {
    let Some(first) = record.extra.get("bound_by").and_then(|b| b.get(0)) else { return "-".to_owned() };
    let share = first.get("share").and_then(Value::as_f64).unwrap_or_default();
    format!("{} {:.0}%", first.get("resource").and_then(Value::as_str).unwrap_or_default(), 100.0 * share)
}

/// A machine, and the batch that it is asked to run.
fn who(record: &Record) -> String {
    let identity = &record.identity;
    let batch = identity.workload.batch.global.map(|n| format!(" at batch {n}")).unwrap_or_default();
    format!("{}{batch}", identity.machine)
}

fn refused(machines: &[String], refusal: &Refusal) -> String {
    let place =
        if refusal.place.is_empty() { String::new() } else { format!(" (at {})", refusal.place.join(" > ")) };
    let line = format!("{} cannot run it: {} [{}]{place}", machines.join(", "), refusal.reason, refusal.code);
    let mut text = wrapped(&line, "  ");
    for remedy in &refusal.remedies {
        text += &wrapped(&format!("  would help: {remedy}"), "    ");
    }
    text
}
