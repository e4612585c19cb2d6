//! What calibration found, written into the text of a system file; everything else in it stays, comments too.

use crate::band::Band;
use crate::parameter::Parameter;
use crate::section::Section;
use crate::system::System;
use orrery_base::{Diagnostic, Result};
use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, Value, value};

/// The key of the source that calibrated losses name.
pub const SOURCE: &str = "calibration";

/// Where the calibrated losses and the bands of a machine come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calibration {
    /// The file of measurements.
    pub file: String,
    /// Names of the rows that were used.
    pub rows: Vec<String>,
}

impl Calibration {
    pub(crate) fn read(root: &Section<'_>) -> Result<Option<Self>> {
        let Some(section) = root.table("calibration")? else { return Ok(None) };
        section.only(&["file", "rows"])?;
        Ok(Some(Self { file: section.string("file")?, rows: section.required("rows")?.strings()? }))
    }
}

/// A loss as calibration found it.
#[derive(Clone, Debug, PartialEq)]
pub struct CalibratedLoss {
    /// The stack whose deviation it is; none for the machine's default.
    pub stack: Option<String>,
    /// Key of `[loss.*]`.
    pub key: String,
    /// Unit of that key.
    pub unit: String,
    /// What it was before any measurement was looked at.
    pub prior: f64,
    /// What fits the measurements.
    pub value: f64,
}

impl System {
    /// The machine as it was before any measurement was looked at: calibrated losses have their assumed values, and
    /// calibrated deviations of stacks are gone.
    #[must_use]
    pub fn before_calibration(&self) -> Self {
        let ours = |parameter: &Parameter| parameter.sources.iter().any(|source| source == SOURCE);
        let mut before = self.clone();
        for parameter in before.losses.values_mut().filter(|p| ours(p)) {
            if let Some(prior) = parameter.alternatives.first().cloned() {
                parameter.value = crate::parameter::Value::Number(prior.value);
                (parameter.status, parameter.sources, parameter.note) =
                    (prior.status, prior.sources, prior.note);
                parameter.alternatives.clear();
            }
        }
        for stack in &mut before.software {
            stack.losses.retain(|_, parameter| !ours(parameter));
        }
        before
    }
}

/// The text of a system file with calibrated losses, bands and the rows that they come from in place of earlier ones.
///
/// # Errors
/// `system-syntax` where the text is no system file with these losses and stacks.
pub fn write(
    text: &str,
    losses: &[CalibratedLoss],
    bands: &[Band],
    calibration: &Calibration,
) -> Result<String> {
    let wrong = |cause: String| Box::new(Diagnostic::error("system-syntax", cause));
    let mut document: DocumentMut =
        text.parse().map_err(|e: toml_edit::TomlError| wrong(e.message().to_owned()))?;
    if let Some(stacks) = document.get_mut("software").and_then(Item::as_array_of_tables_mut) {
        for stack in stacks.iter_mut() {
            drop_calibrated(stack);
        }
    }
    if let Some(defaults) = document.get_mut("loss").and_then(Item::as_table_mut) {
        for (_, entry) in defaults.iter_mut() {
            entry.as_table_mut().map(restore_prior);
        }
    }
    for loss in losses {
        let table = match &loss.stack {
            None => document.get_mut("loss").and_then(Item::as_table_mut),
            Some(name) => document
                .get_mut("software")
                .and_then(Item::as_array_of_tables_mut)
                .and_then(|stacks| {
                    stacks.iter_mut().find(|s| s.get("name").and_then(Item::as_str) == Some(name))
                })
                .map(|stack| stack.entry("loss").or_insert(Item::Table(implicit())))
                .and_then(Item::as_table_mut),
        };
        let Some(table) = table else {
            return Err(wrong(format!("there is no table for the loss `{}`", loss.key)));
        };
        let entry = table.entry(&loss.key).or_insert(Item::Table(Table::new()));
        let Some(entry) = entry.as_table_mut() else {
            return Err(wrong(format!("the loss `{}` is no table", loss.key)));
        };
        if loss.stack.is_none() {
            keep_prior(entry, loss.prior);
        } else {
            entry.insert(
                "note",
                value("deviation from the machine's default; the rows are under [calibration]"),
            );
        }
        entry.remove("range");
        entry.insert("value", value(rounded(loss.value)));
        entry.insert("unit", value(loss.unit.as_str()));
        entry.insert("status", value("calibrated"));
        entry.insert("source", value(Array::from_iter([SOURCE])));
    }
    write_bands(&mut document, bands);
    let mut table = Table::new();
    table.insert("file", value(calibration.file.as_str()));
    let mut rows = Array::new();
    for row in &calibration.rows {
        rows.push_formatted(Value::from(row.as_str()).decorated("\n  ", ""));
    }
    rows.set_trailing("\n");
    rows.set_trailing_comma(true);
    table.insert("rows", value(rows));
    document.insert("calibration", Item::Table(table));
    if let Some(sources) = document.get_mut("sources").and_then(Item::as_table_mut) {
        sources.remove(SOURCE);
        if !losses.is_empty() {
            let source =
                format!("`orrery calibrate {}`: fitted to the rows under [calibration]", calibration.file);
            sources.insert(SOURCE, value(source));
        }
    }
    Ok(document.to_string())
}

fn implicit() -> Table {
    let mut table = Table::new();
    table.set_implicit(true);
    table
}

/// Deviations that an earlier calibration found go.
fn drop_calibrated(stack: &mut Table) {
    let Some(losses) = stack.get_mut("loss").and_then(Item::as_table_mut) else { return };
    let found = |item: &Item| is_ours(item.get("source"));
    let keys: Vec<String> =
        losses.iter().filter(|(_, item)| found(item)).map(|(key, _)| key.to_owned()).collect();
    for key in keys {
        losses.remove(&key);
    }
    if losses.is_empty() {
        stack.remove("loss");
    }
}

/// True where a source is an earlier calibration.
fn is_ours(source: Option<&Item>) -> bool {
    let names = source.and_then(Item::as_array);
    names.is_some_and(|names| names.iter().any(|name| name.as_str() == Some(SOURCE)))
}

/// The value that the fit began with stays beside what it found, with its own note.
fn keep_prior(entry: &mut Table, prior: f64) {
    let mut before = InlineTable::new();
    before.insert("value", rounded(prior).into());
    for key in ["status", "source", "note"] {
        if let Some(item) = entry.get(key).and_then(Item::as_value) {
            before.insert(key, item.clone().decorated(" ", ""));
        }
    }
    let mut others = Array::new();
    others.push(before);
    entry.insert("alternatives", value(others));
    entry.insert(
        "note",
        value("the rows are under [calibration]; the alternative is what the fit began with"),
    );
}

/// What an earlier calibration found goes, and what it began with is back.
fn restore_prior(entry: &mut Table) {
    if !is_ours(entry.get("source")) {
        return;
    }
    let before = entry
        .get("alternatives")
        .and_then(Item::as_array)
        .and_then(|all| all.get(0)?.as_inline_table().cloned());
    for key in ["value", "status", "source", "note"] {
        match before.as_ref().and_then(|before| before.get(key)) {
            Some(item) => entry.insert(key, Item::Value(item.clone().decorated(" ", ""))),
            None => entry.remove(key),
        };
    }
    entry.remove("alternatives");
}

fn write_bands(document: &mut DocumentMut, bands: &[Band]) {
    document.remove("band");
    if bands.is_empty() {
        return;
    }
    let mut tables = ArrayOfTables::new();
    for band in bands {
        let mut table = Table::new();
        table.insert("kind", value(band.kind.as_str()));
        for (key, number) in [("low", band.low), ("high", band.high), ("median_error", band.median_error)] {
            table.insert(key, value(rounded(number)));
        }
        table.insert("rows", value(band.rows.cast_signed()));
        table.insert("groups", value(band.groups.cast_signed()));
        tables.push(table);
    }
    document.insert("band", Item::ArrayOfTables(tables));
}

/// Three digits: no fit to published figures knows more.
fn rounded(number: f64) -> f64 {
    format!("{number:.2e}").parse().unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Status, registry};

    fn found(losses: &[(Option<&str>, f64)]) -> Vec<CalibratedLoss> {
        let one = |(stack, value): &(Option<&str>, f64)| CalibratedLoss {
            stack: stack.map(str::to_owned),
            key: "exchange_fraction".into(),
            unit: "ratio".into(),
            prior: 1.0,
            value: *value,
        };
        losses.iter().map(one).collect()
    }

    #[test]
    fn what_is_written_reads_back_and_can_be_written_anew() {
        let (file, text) = registry::BUILT_IN[3];
        let unused = Calibration { file: "none.csv".into(), rows: Vec::new() };
        let bare = write(text, &[], &[], &unused).unwrap();
        let calibration = Calibration { file: "m.csv".into(), rows: vec!["a".into(), "b".into()] };
        let band = Band { kind: "train".into(), low: 0.8, high: 1.5, median_error: 0.2, rows: 9, groups: 3 };
        let losses = found(&[(None, 0.5), (Some("poptorch"), 0.4)]);
        let written = write(&bare, &losses, std::slice::from_ref(&band), &calibration).unwrap();
        let system = System::parse(file, &written).unwrap();
        let loss = &system.losses["exchange_fraction"];
        assert_eq!((loss.number(), loss.status), (Some(0.5), Status::Calibrated));
        assert_eq!((loss.alternatives[0].value, loss.alternatives[0].status), (1.0, Status::Assumed));
        let stack = system.stack("poptorch").unwrap();
        assert_eq!(system.loss("exchange_fraction", Some(stack)).unwrap().number(), Some(0.4));
        assert_eq!((system.band("train"), &system.calibration), (Some(&band), &Some(calibration)));
        let comment = |text: &str| text.matches("\n# ").count();
        assert_eq!(comment(&written), comment(text), "comments stay");
        // Nothing found now: all is as it was.
        let again = System::parse(file, &write(&written, &[], &[], &unused).unwrap()).unwrap();
        assert_eq!(again, System::parse(file, &bare).unwrap());
    }
}
