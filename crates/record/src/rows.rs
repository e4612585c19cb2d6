//! Rows of a measurements file: CSV with a header line, one figure a row, columns as `measurements/README.md` says.
//!
//! A row and a Record with one measurement convert there and back without loss. What a Record holds beyond the columns
//! goes into `params_json` under the key [`BEYOND`].

use crate::{
    Batch, Counted, Identity, Lengths, Measurement, Outcome, Phase, Provenance, Record, Refusal, Scope,
    Scored, Statistic, Workload,
};
use orrery_base::{Diagnostic, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Every column, in the order in which files are written.
pub const COLUMNS: [&str; 21] = [
    "id",
    "system",
    "devices",
    "workload",
    "mode",
    "precision",
    "batch_size",
    "seq_len",
    "stack",
    "stack_version",
    "scope",
    "spec",
    "metric",
    "value",
    "unit",
    "scored",
    "source",
    "location",
    "exact",
    "read",
    "params_json",
];

/// Columns without which a row says nothing.
const REQUIRED: [&str; 4] = ["system", "workload", "metric", "value"];

/// The key of `params_json` for what no column holds.
pub const BEYOND: &str = "orrery";

/// The metric of a row that is a refusal.
const REFUSED: &str = "refused";

/// What no column holds.
#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Beyond {
    #[serde(skip_serializing_if = "Option::is_none")]
    model_digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    micro_batch: Option<u64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    dims: BTreeMap<String, i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provenance: Option<Provenance>,
    #[serde(skip_serializing_if = "is_default")]
    counted: Counted,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<Phase>,
    #[serde(skip_serializing_if = "is_default")]
    statistic: Statistic,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<(f64, f64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<Refusal>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remarks: Vec<String>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Reads a file. Columns it does not know are kept in [`Record::extra`].
///
/// # Errors
/// `measurements-csv` where it is no CSV, `measurements-column` where a required column is missing or one is there twice,
/// `measurements-value` with the line where a cell cannot be read.
pub fn read(text: &str) -> Result<Vec<Record>> {
    let mut reader = csv::ReaderBuilder::new().flexible(false).from_reader(text.as_bytes());
    let wrong = |error: &csv::Error| Box::new(Diagnostic::error("measurements-csv", error.to_string()));
    let header: Vec<String> =
        reader.headers().map_err(|e| wrong(&e))?.iter().map(|c| c.trim().to_owned()).collect();
    for required in REQUIRED {
        if !header.iter().any(|c| c == required) {
            return Diagnostic::error("measurements-column", format!("there is no column `{required}`"))
                .help(format!("the columns are: {}", COLUMNS.join(", ")))
                .help(format!("required are: {}", REQUIRED.join(", ")))
                .err();
        }
    }
    if let Some(twice) = header.iter().enumerate().find(|(i, c)| header[..*i].contains(c)) {
        return Diagnostic::error("measurements-column", format!("the column `{}` is there twice", twice.1))
            .err();
    }
    let mut records = Vec::new();
    for row in reader.records() {
        let row = row.map_err(|e| wrong(&e))?;
        let line = row.position().map_or(0, csv::Position::line);
        let cells: BTreeMap<&str, &str> = header.iter().map(String::as_str).zip(&row).collect();
        records.push(record(&cells).map_err(|d| Box::new(d.at(format!("line {line}"))))?);
    }
    Ok(records)
}

fn value_error(column: &str, cell: &str, takes: &str) -> Diagnostic {
    Diagnostic::error("measurements-value", format!("`{cell}` in column `{column}` is not {takes}"))
}

fn record(cells: &BTreeMap<&str, &str>) -> Result<Record, Diagnostic> {
    let text = |column: &str| cells.get(column).copied().unwrap_or("");
    let optional = |column: &str| Some(text(column)).filter(|cell| !cell.is_empty()).map(str::to_owned);
    let number = |column: &str, cell: &str| {
        cell.parse::<f64>()
            .ok()
            .filter(|v| v.is_finite())
            .ok_or_else(|| value_error(column, cell, "a finite number"))
    };
    let positive = |column: &str, cell: &str| {
        let found = number(column, cell)?;
        if found > 0.0 { Ok(found) } else { Err(value_error(column, cell, "more than 0")) }
    };
    let whole = |column: &str| {
        let cell = optional(column);
        cell.map(|cell| cell.parse::<u64>().map_err(|_| value_error(column, &cell, "a whole number")))
            .transpose()
    };
    let object = |column: &str| match text(column) {
        "" => Ok(Map::new()),
        cell => serde_json::from_str::<Map<String, Value>>(cell)
            .map_err(|error| value_error(column, cell, &format!("a JSON object ({error})"))),
    };
    let word = |column: &str, names: &[&str]| match text(column) {
        "" => Ok(None),
        cell => names
            .iter()
            .position(|name| *name == cell)
            .map(Some)
            .ok_or_else(|| value_error(column, cell, &format!("one of {}", names.join(", ")))),
    };
    let mut extra = object("params_json")?;
    for (column, cell) in cells.iter().filter(|(c, cell)| !COLUMNS.contains(c) && !cell.is_empty()) {
        extra.entry((*column).to_owned()).or_insert_with(|| Value::String((*cell).to_owned()));
    }
    let beyond = match extra.shift_remove(BEYOND) {
        None => Beyond::default(),
        Some(value) => serde_json::from_value(value)
            .map_err(|error| value_error("params_json", BEYOND, &format!("what a Record adds ({error})")))?,
    };
    let metric = text("metric").to_owned();
    let exact = word("exact", &["yes", "no"])?;
    let published = Provenance::Published {
        source: text("source").to_owned(),
        location: text("location").to_owned(),
        exact: exact != Some(1),
        read: text("read").to_owned(),
    };
    let provenance = beyond.provenance.unwrap_or_else(|| match text("read") {
        "" => Provenance::Measured { source: text("source").to_owned() },
        _ => published,
    });
    let outcome = match beyond.refusal {
        Some(refusal) => Outcome::Refused(refusal),
        None => Outcome::Measurements(vec![Measurement {
            unit: text("unit").to_owned(),
            phase: beyond.phase.unwrap_or(usual_phase(&metric)),
            scope: word("scope", &Scope::ALL.map(Scope::name))?.map_or(Scope::Device, |i| Scope::ALL[i]),
            statistic: beyond.statistic,
            value: positive("value", text("value"))?,
            interval: beyond.interval,
            scored: word("scored", &Scored::ALL.map(Scored::name))?.map(|i| Scored::ALL[i]),
            metric,
        }]),
    };
    Ok(Record {
        id: optional("id"),
        identity: Identity {
            workload: Workload {
                model: text("workload").to_owned(),
                mode: optional("mode"),
                batch: Batch { global: whole("batch_size")?, micro: beyond.micro_batch },
                lengths: Lengths { sequence: whole("seq_len")? },
                dims: beyond.dims,
                spec: object("spec")?,
            },
            model_digest: beyond.model_digest,
            parameters: beyond.parameters,
            machine: text("system").to_owned(),
            // A file without the column is of one device; where the column is left empty, nobody said.
            devices: match cells.get("devices") {
                None => Some(1.0),
                Some(&"") => None,
                Some(cell) => Some(positive("devices", cell)?),
            },
            stack: optional("stack"),
            stack_version: optional("stack_version"),
            precision: optional("precision"),
        },
        provenance,
        counted: beyond.counted,
        outcome,
        remarks: beyond.remarks,
        extra,
    })
}

/// The phase of a figure whose file does not say: all of it for times to solution, else steady state.
fn usual_phase(metric: &str) -> Phase {
    if metric.starts_with("time_to_train") { Phase::Whole } else { Phase::Steady }
}

/// Writes records as a file: a row for each measurement, one for a refusal. A Record with several measurements becomes
/// as many rows, which read back as as many Records.
pub fn write(records: &[Record]) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(COLUMNS).expect("writing to memory");
    for record in records {
        match &record.outcome {
            Outcome::Measurements(all) => {
                for measurement in all {
                    writer.write_record(cells(record, Ok(measurement))).expect("writing to memory");
                }
            }
            Outcome::Refused(refusal) => {
                writer.write_record(cells(record, Err(refusal))).expect("writing to memory");
            }
        }
    }
    let bytes = writer.into_inner().expect("writing to memory");
    String::from_utf8(bytes).expect("all cells are text")
}

fn cells(record: &Record, outcome: Result<&Measurement, &Refusal>) -> [String; 21] {
    let identity = &record.identity;
    let workload = &identity.workload;
    let measurement = outcome.ok();
    let mut beyond = Beyond {
        model_digest: identity.model_digest.clone(),
        parameters: identity.parameters,
        micro_batch: workload.batch.micro,
        dims: workload.dims.clone(),
        provenance: None,
        counted: record.counted,
        phase: measurement
            .map(|m| m.phase)
            .filter(|p| Some(*p) != measurement.map(|m| usual_phase(&m.metric))),
        statistic: measurement.map(|m| m.statistic).unwrap_or_default(),
        interval: measurement.and_then(|m| m.interval),
        refusal: outcome.err().cloned(),
        remarks: record.remarks.clone(),
    };
    let (mut source, mut location, mut exact, mut read) = ("", "", "", "");
    match &record.provenance {
        Provenance::Published { source: s, location: l, exact: e, read: r } if !r.is_empty() => {
            (source, location, exact, read) = (s, l, if *e { "yes" } else { "no" }, r);
        }
        Provenance::Measured { source: s } => source = s,
        other => beyond.provenance = Some(other.clone()),
    }
    let mut extra = record.extra.clone();
    if beyond != Beyond::default() {
        let value = serde_json::to_value(&beyond).expect("text keys and finite numbers only");
        extra.insert(BEYOND.to_owned(), value);
    }
    let show = |number: Option<u64>| number.map(|n| n.to_string()).unwrap_or_default();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    [
        text(&record.id),
        identity.machine.clone(),
        identity.devices.map(|n| n.to_string()).unwrap_or_default(),
        workload.model.clone(),
        text(&workload.mode),
        text(&identity.precision),
        show(workload.batch.global),
        show(workload.lengths.sequence),
        text(&identity.stack),
        text(&identity.stack_version),
        measurement.map(|m| m.scope.name()).unwrap_or_default().to_owned(),
        json(&workload.spec),
        measurement.map_or(REFUSED, |m| &m.metric).to_owned(),
        measurement.map(|m| m.value.to_string()).unwrap_or_default(),
        measurement.map(|m| m.unit.clone()).unwrap_or_default(),
        measurement.and_then(|m| m.scored).map(Scored::name).unwrap_or_default().to_owned(),
        source.to_owned(),
        location.to_owned(),
        exact.to_owned(),
        read.to_owned(),
        if extra.is_empty() { String::new() } else { json(&extra) },
    ]
}

fn json(map: &Map<String, Value>) -> String {
    Value::Object(map.clone()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published measurements that come with the project.
    const PUBLISHED: &str = include_str!("../../../measurements/calibration.csv");

    #[test]
    fn published_measurements_go_there_and_back() {
        let records = read(PUBLISHED).unwrap();
        assert!(records.len() >= 470);
        assert_eq!(read(&write(&records)).unwrap(), records);
    }

    /// Every cell comes out as it went in, numbers and JSON compared as such.
    #[test]
    fn no_cell_is_lost() {
        let written = write(&read(PUBLISHED).unwrap());
        let mut before = csv::Reader::from_reader(PUBLISHED.as_bytes());
        let mut after = csv::Reader::from_reader(written.as_bytes());
        assert_eq!(before.headers().unwrap(), after.headers().unwrap());
        let rows = |reader: &mut csv::Reader<&[u8]>| {
            reader.records().collect::<Result<Vec<csv::StringRecord>, csv::Error>>().unwrap()
        };
        let (before, after) = (rows(&mut before), rows(&mut after));
        assert_eq!(before.len(), after.len());
        for (old, new) in before.iter().zip(&after) {
            for (column, (a, b)) in COLUMNS.iter().zip(old.iter().zip(new)) {
                let same = match *column {
                    "devices" | "value" if !a.is_empty() => {
                        a.parse::<f64>().unwrap().to_bits() == b.parse::<f64>().unwrap().to_bits()
                    }
                    "spec" | "params_json" if !a.is_empty() => {
                        serde_json::from_str::<Value>(a).unwrap() == serde_json::from_str::<Value>(b).unwrap()
                    }
                    _ => a == b,
                };
                assert!(same, "{}: column {column}: {a:?} became {b:?}", &old[0]);
            }
        }
    }

    #[test]
    fn what_no_column_holds_is_kept() {
        let mut record =
            read("system,workload,metric,value\na100,resnet50,latency_ms,1.5\n").unwrap().remove(0);
        record.provenance = Provenance::Simulated { by: "orrery".into(), confidence: "uncalibrated".into() };
        record.identity.workload.dims.insert("seq".into(), 128);
        record.counted.samples = Some(7);
        record.remarks.push("a remark".into());
        assert_eq!(read(&write(std::slice::from_ref(&record))).unwrap(), [record.clone()]);
        record.outcome = Outcome::Refused(Refusal {
            code: "does-not-fit".into(),
            reason: "too large".into(),
            place: Vec::new(),
            remedies: vec!["shrink it".into()],
        });
        assert_eq!(read(&write(std::slice::from_ref(&record))).unwrap(), [record]);
    }

    #[test]
    fn mistakes_have_line_and_column() {
        let code = |text: &str| read(text).unwrap_err().code;
        assert_eq!(code("system,workload,metric\n"), "measurements-column");
        assert_eq!(code("system,workload,metric,value,value\n"), "measurements-column");
        assert_eq!(code("system,workload,metric,value\na,b,c\n"), "measurements-csv");
        let error = read("system,workload,metric,value\na,b,c,many\n").unwrap_err();
        assert_eq!((error.code, error.place.join("")), ("measurements-value", "line 2".into()));
        assert_eq!(code("system,workload,metric,value,spec\na,b,c,1,[1]\n"), "measurements-value");
        assert_eq!(code("system,workload,metric,value,scored\na,b,c,1,perhaps\n"), "measurements-value");
    }
}
