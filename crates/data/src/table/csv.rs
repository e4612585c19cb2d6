//! Values with commas, semicolons or tabs between them, one line a row.

use super::{Cells, Places, Table, number};
use csv::{ReaderBuilder, StringRecord, Trim};
use orrery_base::{Diagnostic, Result};

/// Reads a table. The first line names the columns, unless it holds nothing but numbers: then they are called by their
/// numbers, from 0.
///
/// # Errors
/// `data-empty` where there are no rows; `data-ragged` with the line that has another number of cells than the first.
pub(crate) fn read(text: &str) -> Result<Table> {
    let first = text.lines().next().unwrap_or_default();
    let count = |delimiter: u8| first.bytes().filter(|byte| *byte == delimiter).count();
    let delimiter = [b',', b';', b'\t'].into_iter().rev().max_by_key(|d| count(*d)).unwrap_or(b',');
    let records = || {
        let mut builder = ReaderBuilder::new();
        builder.has_headers(false).flexible(true).delimiter(delimiter).trim(Trim::All);
        builder.from_reader(text.as_bytes())
    };
    let malformed =
        |error: csv::Error| Box::new(Diagnostic::error("data-format", format!("no CSV: {error}")));

    // Which columns hold numbers only is known after all rows; their cells are read in a second pass.
    let mut names: Vec<String> = Vec::new();
    let mut numeric: Vec<bool> = Vec::new();
    let (mut header, mut numbers) = (false, Vec::new());
    let mut record = StringRecord::new();
    let mut reader = records();
    while reader.read_record(&mut record).map_err(malformed)? {
        let line = record.position().map_or(0, |begin| line_of(text, begin));
        if names.is_empty() {
            header = record.iter().any(|cell| number(cell).is_none());
            let name = |(i, cell): (usize, &str)| if header { cell.to_owned() } else { i.to_string() };
            names = record.iter().enumerate().map(name).collect();
            numeric = vec![true; names.len()];
            if header {
                continue;
            }
        }
        if record.len() != names.len() {
            let cause = format!("the line has {} cells, the first line has {}", record.len(), names.len());
            return Diagnostic::error("data-ragged", cause).at(format!("line {line}")).err();
        }
        numbers.push(line);
        numeric.iter_mut().zip(&record).for_each(|(numeric, cell)| *numeric &= number(cell).is_some());
    }
    if numbers.is_empty() {
        return Diagnostic::error("data-empty", "there are no rows").err();
    }
    let empty = |numeric: &bool| match numeric {
        true => Cells::Numbers { values: Vec::with_capacity(numbers.len()), shape: Vec::new() },
        false => Cells::Words(Vec::with_capacity(numbers.len())),
    };
    let mut columns: Vec<Cells> = numeric.iter().map(empty).collect();
    let mut reader = records();
    let mut skip = header;
    while reader.read_record(&mut record).map_err(malformed)? {
        if std::mem::take(&mut skip) {
            continue;
        }
        for (cells, cell) in columns.iter_mut().zip(&record) {
            match cells {
                Cells::Numbers { values, .. } => values.extend(number(cell)),
                Cells::Words(words) => words.push(cell.to_owned()),
            }
        }
    }
    Ok(Table { columns: names.into_iter().zip(columns).collect(), places: Places { what: "line", numbers } })
}

/// The line of a record's first cell: a record begins with the empty lines before it.
fn line_of(text: &str, begin: &csv::Position) -> u64 {
    let rest = text.as_bytes().get(begin.byte() as usize..).unwrap_or_default();
    let empty = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
    begin.line() + empty.filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::open::Options;

    #[test]
    fn a_header_names_the_columns_and_a_row_of_numbers_is_none() {
        let with = read("a, b\n1,2\n\n3,x y\n").unwrap();
        assert_eq!(
            format!("{:?}", with.columns),
            r#"[("a", Numbers { values: [1.0, 3.0], shape: [] }), ("b", Words(["2", "x y"]))]"#
        );
        assert_eq!(with.places.numbers, [2, 4]);
        let without = read("1\t2e-3\n3\t4\n").unwrap();
        assert_eq!(
            format!("{:?}", without.columns[1]),
            r#"("1", Numbers { values: [0.002, 4.0], shape: [] })"#
        );
    }

    #[test]
    fn bad_tables_are_told_apart() {
        let failed = read("a,b\n1,2\n3\n").unwrap_err();
        assert_eq!((failed.code, failed.place[0].as_str()), ("data-ragged", "line 3"));
        assert_eq!(read("").unwrap_err().code, "data-empty");
        assert_eq!(read("a,b\n").unwrap_err().code, "data-empty");
        let dataset = |text| read(text).and_then(|t| t.dataset("t".into(), Vec::new(), &Options::default()));
        for (text, cause) in [
            ("a,y\n1,0\nNaN,1\n", "\"NaN\" is no finite number"),
            ("a,y\n1,0\n,1\n", "the cell is empty"),
            ("a,y\n1,0\n1.2.3,1\n", "\"1.2.3\" is no finite number"),
        ] {
            let failed = dataset(text).unwrap_err();
            assert_eq!((failed.code, failed.cause.as_str()), ("data-cell", cause));
            assert_eq!(failed.place, ["line 3", "column `a`"]);
        }
    }
}
