//! `orrery data`.

use crate::args::{Common, Data};
use crate::commands::outputs::{self, Kind};
use crate::commands::shared::note;
use crate::output::{Answer, table};
use orrery::data::{Column, Dataset, Options, Part, npy, open};
use orrery::{Diagnostic, Result, check_writable};
use serde_json::{Value, json};
use std::path::Path;

pub(crate) fn answer(args: &Data, common: &Common) -> Result<Answer> {
    if let Some(path) = &args.output {
        outputs::check(&[("--output", path, Kind::Arrays)], &[("the data", Path::new(&args.data))])?;
        check_writable(path)?;
    }
    let mut options = Options::default();
    for (key, value) in &args.data_options {
        options.set(key, value)?;
    }
    let all = open(&args.data, &options)?;
    let data = match args.held_out {
        None => all,
        Some(share) => all.split(part(share), args.seed)?.0,
    };
    if let Some(path) = &args.output {
        let every: Vec<usize> = (0..data.len()).collect();
        npy::write_npz(path, &data.batch(&every)?)?;
        note(common, &format!("{} samples written to {}", data.len(), path.display()));
    }
    Ok(Answer::done(text(&data)?, json(&data)?))
}

/// A share below 1, or a number of samples.
pub(crate) fn part(share: f64) -> Part {
    if share < 1.0 { Part::Fraction(share) } else { Part::Count(share as usize) }
}

/// Labels that are classes, as the file has them.
fn classes(column: &Column) -> Option<Vec<String>> {
    let numbers = column.numbers().map(|numbers| numbers.iter().map(i64::to_string).collect());
    column.classes().map(<[String]>::to_vec).or(numbers)
}

/// Mean and deviation over all elements, of columns that are not classes.
fn spread(data: &Dataset, column: &Column) -> Result<Option<(f64, f64)>> {
    if !column.dtype().is_float() {
        return Ok(None);
    }
    let by = data.statistics(column.name())?;
    let count = by.mean.len() as f64;
    let mean = by.mean.iter().sum::<f64>() / count;
    let square = by.mean.iter().zip(&by.deviation).map(|(m, d)| d * d + (m - mean) * (m - mean)).sum::<f64>();
    Ok(Some((mean, (square / count).sqrt())))
}

fn text(data: &Dataset) -> Result<String> {
    let mut text = data.about().join("\n");
    text += &format!("\n{} samples\n\n", data.len());
    let mut rows = Vec::new();
    for column in data.columns() {
        let shape: Vec<String> = column.shape().iter().map(usize::to_string).collect();
        let numbers = spread(data, column)?;
        let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.4}"));
        let classes = classes(column).unwrap_or_default().join(" ");
        rows.push(vec![
            column.name().to_owned(),
            format!("{}[{}]", column.dtype(), shape.join(", ")),
            classes,
            cell(numbers.map(|n| n.0)),
            cell(numbers.map(|n| n.1)),
        ]);
    }
    Ok(text + &table(&["column", "a sample", "classes", "mean", "deviation"], 3, &rows))
}

fn json(data: &Dataset) -> Result<Value> {
    let mut columns = Vec::new();
    for column in data.columns() {
        let numbers = spread(data, column)?;
        columns.push(json!({
            "name": column.name(),
            "dtype": column.dtype().name(),
            "shape": column.shape(),
            "classes": classes(column),
            "mean": numbers.map(|n| n.0),
            "deviation": numbers.map(|n| n.1),
        }));
    }
    if columns.is_empty() {
        return Diagnostic::error("data-column", "there are no columns").err();
    }
    Ok(json!({ "name": data.name(), "about": data.about(), "samples": data.len(), "columns": columns }))
}
