//! JSON: an array of records, or an object with an array for each column; and JSONL, one record a line. Records are
//! objects with the same names, or arrays.

use super::{Cell, Cells, Places, Table};
use orrery_base::diagnostic::Context;
use orrery_base::{Diagnostic, Result};
use serde_json::Value;

/// Reads a table from a whole JSON document.
///
/// # Errors
/// `data-format` where it is no JSON or of another form; `data-cell`, `data-ragged` and `data-length` with the record.
pub(crate) fn read(text: &str) -> Result<Table> {
    let mut table = Table { places: Places { what: "record", numbers: Vec::new() }, ..Table::default() };
    match serde_json::from_str(text).map_err(malformed)? {
        Value::Array(records) => {
            for (row, record) in records.iter().enumerate() {
                push(&mut table, row, record).at(|| format!("record {}", row + 1))?;
            }
        }
        Value::Object(columns) => {
            for (i, (name, cells)) in columns.iter().enumerate() {
                let Value::Array(cells) = cells else {
                    let cause = format!("`{name}` is no array of cells");
                    return Diagnostic::error("data-format", cause).help(FORMS).err();
                };
                for (row, cell) in cells.iter().enumerate() {
                    push_cell(&mut table, row, i, name, cell).at(|| format!("record {}", row + 1))?;
                }
            }
        }
        _ => return Diagnostic::error("data-format", "the file holds a single value").help(FORMS).err(),
    }
    Ok(table)
}

/// Reads a table from lines.
///
/// # Errors
/// As [`read`], with the line.
pub(crate) fn lines(text: &str) -> Result<Table> {
    let mut table = Table { places: Places { what: "line", numbers: Vec::new() }, ..Table::default() };
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let row = table.places.numbers.len();
        let record = serde_json::from_str(line).map_err(malformed);
        record.and_then(|record| push(&mut table, row, &record)).at(|| format!("line {number}"))?;
        table.places.numbers.push(number);
    }
    Ok(table)
}

const FORMS: &str = "a file is an array of records, or an object with one array for each column";

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn malformed(error: serde_json::Error) -> Box<Diagnostic> {
    Box::new(Diagnostic::error("data-format", format!("no JSON: {error}")))
}

fn push(table: &mut Table, row: usize, record: &Value) -> Result<()> {
    let cells: Vec<(String, &Value)> = match record {
        Value::Object(cells) => cells.iter().map(|(name, cell)| (name.clone(), cell)).collect(),
        Value::Array(cells) => cells.iter().enumerate().map(|(i, cell)| (i.to_string(), cell)).collect(),
        _ => {
            return Diagnostic::error("data-format", "the record is neither object nor array")
                .help(FORMS)
                .err();
        }
    };
    if row > 0 && cells.len() < table.columns.len() {
        let missing = table.columns.iter().find(|(name, _)| cells.iter().all(|(given, _)| given != name));
        let name = missing.map_or("", |(name, _)| name.as_str());
        return Diagnostic::error("data-ragged", format!("the record has no `{name}`, which others have"))
            .err();
    }
    cells.into_iter().enumerate().try_for_each(|(i, (name, cell))| push_cell(table, row, i, &name, cell))
}

/// `likely` is where the column of that name will be found.
fn push_cell(table: &mut Table, row: usize, likely: usize, name: &str, value: &Value) -> Result<()> {
    let cell = match value {
        Value::Number(_) | Value::Bool(_) => Cell::Number(as_number(value).unwrap_or(f64::NAN)),
        Value::String(word) => Cell::Word(word),
        Value::Array(_) => {
            let (mut values, mut shape) = (Vec::new(), Vec::new());
            flatten(value, 0, &mut values, &mut shape).at(|| format!("column `{name}`"))?;
            Cell::List(values, shape)
        }
        Value::Null => Cell::Other("null"),
        Value::Object(_) => Cell::Other("an object"),
    };
    let likely = table.columns.get(likely).is_some_and(|(column, _)| column == name).then_some(likely);
    let position = likely.or_else(|| table.columns.iter().position(|(column, _)| column == name));
    let position = position.unwrap_or_else(|| {
        table.columns.push((name.to_owned(), Cells::begin(&cell)));
        table.columns.len() - 1
    });
    if position == table.columns.len() - 1 && row > 0 && table.columns[position].1.is_empty() {
        return Diagnostic::error("data-ragged", format!("the record has `{name}`, which others have not"))
            .err();
    }
    table.columns[position].1.push(cell).at(|| format!("column `{name}`"))
}

impl Cells {
    fn is_empty(&self) -> bool {
        match self {
            Self::Numbers { values, shape } => values.is_empty() && !shape.contains(&0),
            Self::Words(words) => words.is_empty(),
        }
    }
}

fn as_number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_bool().map(f64::from))
}

/// Appends the numbers of nested lists; `shape` is found by the first ones and held against the others.
fn flatten(value: &Value, depth: usize, values: &mut Vec<f64>, shape: &mut Vec<usize>) -> Result<()> {
    let Value::Array(list) = value else {
        return match as_number(value) {
            Some(number) if depth == shape.len() => {
                values.push(number);
                Ok(())
            }
            Some(_) => Diagnostic::error("data-ragged", "the list is not equally deep everywhere").err(),
            None => {
                Diagnostic::error("data-cell", format!("the list holds {value}, which is no number")).err()
            }
        };
    };
    if depth == shape.len() && values.is_empty() {
        shape.push(list.len());
    }
    if shape.get(depth) != Some(&list.len()) {
        let cause = format!("the list has parts of {} elements beside others", list.len());
        return Diagnostic::error("data-ragged", cause).err();
    }
    list.iter().try_for_each(|element| flatten(element, depth + 1, values, shape))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_columns_and_lines_are_the_same_table() {
        let shown = |table: Table| format!("{:?}", table.columns);
        let records = shown(read(r#"[{"a": [[1, 2]], "b": "x"}, {"b": "y", "a": [[3, 4.5]]}]"#).unwrap());
        assert_eq!(
            records,
            r#"[("a", Numbers { values: [1.0, 2.0, 3.0, 4.5], shape: [1, 2] }), ("b", Words(["x", "y"]))]"#
        );
        assert_eq!(shown(read(r#"{"a": [[[1, 2]], [[3, 4.5]]], "b": ["x", "y"]}"#).unwrap()), records);
        let text = "{\"a\": [[1, 2]], \"b\": \"x\"}\n\n{\"a\": [[3, 4.5]], \"b\": \"y\"}\n";
        assert_eq!(shown(lines(text).unwrap()), records);
        assert_eq!(shown(read("[[1, true], [2, false]]").unwrap()), shown(lines("[1, 1]\n[2, 0]").unwrap()));
    }

    #[test]
    fn bad_documents_are_told_apart() {
        for (text, code, place) in [
            ("{", "data-format", ""),
            ("3", "data-format", ""),
            ("[1, 2]", "data-format", "record 1"),
            (r#"{"a": 1}"#, "data-format", ""),
            (r#"[{"a": 1}, {"a": null}]"#, "data-cell", "record 2 > column `a`"),
            (r#"[{"a": 1}, {"a": "x"}]"#, "data-cell", "record 2 > column `a`"),
            (r#"[{"a": 1}, {}]"#, "data-ragged", "record 2"),
            (r#"[{"a": 1}, {"a": 1, "b": 2}]"#, "data-ragged", "record 2"),
            (r#"[{"a": [1, 2]}, {"a": [1]}]"#, "data-ragged", "record 2 > column `a`"),
            (r#"[{"a": [[1], [2, 3]]}]"#, "data-ragged", "record 1 > column `a`"),
            (r#"[{"a": [1, [2]]}]"#, "data-ragged", "record 1 > column `a`"),
            (r#"[{"a": [1, "x"]}]"#, "data-cell", "record 1 > column `a`"),
            (r#"[{"a": {}}]"#, "data-cell", "record 1 > column `a`"),
        ] {
            let failed = read(text).unwrap_err();
            assert_eq!((failed.code, failed.place.join(" > ").as_str()), (code, place), "{text}: {failed}");
        }
        assert_eq!(lines("{\"a\": 1}\n\n{\"a\": }").unwrap_err().place, ["line 3"]);
        assert!(read(&"[".repeat(100_000)).is_err());
    }
}
