//! Tables: rows that are samples, columns of numbers, lists of numbers, or words. CSV, JSON and Parquet become one, and
//! a table becomes a dataset.

mod csv;
mod json;
mod parquet;

pub(crate) use csv::read as read_csv;
pub(crate) use json::{lines as read_json_lines, read as read_json};
pub(crate) use parquet::read as read_parquet;

use crate::dataset::{Column, Dataset};
use crate::open::{Labels, Options};
use orrery_base::{Diagnostic, Result};
use orrery_numerics::Tensor;

/// All columns of a file.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) columns: Vec<(String, Cells)>,
    /// Where each row is, for messages: its line, or its number among the records.
    pub(crate) places: Places,
}

/// The cells of a column.
#[derive(Debug)]
pub(crate) enum Cells {
    /// `shape` numbers a row, one row after another; a single number has the empty shape.
    Numbers {
        values: Vec<f64>,
        shape: Vec<usize>,
    },
    Words(Vec<String>),
}

/// Where the rows of a table are.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// `line` or `record`.
    pub(crate) what: &'static str,
    /// The number of each row; counted from 1 where this is empty.
    pub(crate) numbers: Vec<u64>,
}

impl Places {
    pub(crate) fn of(&self, row: usize) -> String {
        format!("{} {}", self.what, self.numbers.get(row).copied().unwrap_or(row as u64 + 1))
    }
}

/// A cell on its way into a table.
enum Cell<'a> {
    Number(f64),
    List(Vec<f64>, Vec<usize>),
    Word(&'a str),
    /// Neither of these: what it is.
    Other(&'static str),
}

impl Cells {
    fn begin(cell: &Cell) -> Self {
        match cell {
            Cell::Word(_) => Self::Words(Vec::new()),
            Cell::List(_, shape) => Self::Numbers { values: Vec::new(), shape: shape.clone() },
            Cell::Number(_) | Cell::Other(_) => Self::Numbers { values: Vec::new(), shape: Vec::new() },
        }
    }
    /// Rows; none of empty lists.
    fn rows(&self) -> usize {
        match self {
            Self::Numbers { values, shape } => values.len().checked_div(shape.iter().product()).unwrap_or(0),
            Self::Words(words) => words.len(),
        }
    }
    /// Appends a cell, or says what is wrong with it.
    fn push(&mut self, cell: Cell) -> Result<()> {
        let wrong = |what: String| Diagnostic::error("data-cell", what).err();
        match (self, cell) {
            (Self::Words(words), Cell::Word(word)) => words.push(word.to_owned()),
            (Self::Numbers { values, shape }, Cell::Number(value)) if shape.is_empty() => {
                if !value.is_finite() {
                    return wrong(format!("the cell is {value}, which is no finite number"));
                }
                values.push(value);
            }
            (Self::Numbers { values, shape }, Cell::List(list, given)) if *shape == given => {
                values.extend(list);
            }
            (Self::Numbers { shape, .. }, Cell::List(_, given)) => {
                let cause = format!("the cell is a list of shape {given:?}, those before are of {shape:?}");
                return Diagnostic::error("data-ragged", cause).err();
            }
            (_, Cell::Word(word)) => return wrong(format!("the cell is {word:?}, those before are numbers")),
            (Self::Words(_), _) => return wrong("the cell is no text, those before are".into()),
            (_, Cell::Number(_)) => {
                return wrong("the cell is a single number, those before are lists".into());
            }
            (_, Cell::Other(what)) => return wrong(format!("the cell is {what}")),
        }
        Ok(())
    }
}

/// A finite number as people write it.
fn number(cell: &str) -> Option<f64> {
    cell.trim().parse().ok().filter(|value: &f64| value.is_finite())
}

impl Table {
    /// The column of that name.
    ///
    /// # Errors
    /// `data-column` where there is none.
    pub(crate) fn position(&self, name: &str) -> Result<usize> {
        self.columns.iter().position(|(column, _)| column == name).ok_or_else(|| {
            let names: Vec<String> =
                self.columns.iter().take(20).map(|(name, _)| format!("`{name}`")).collect();
            let more = if self.columns.len() > 20 { ", …" } else { "" };
            Box::new(
                Diagnostic::error("data-column", format!("there is no column `{name}`"))
                    .help(format!("the columns are {}{more}", names.join(", "))),
            )
        })
    }
    /// The texts of a column, and where they are.
    ///
    /// # Errors
    /// `data-column` where there is no such column or it holds numbers.
    pub(crate) fn texts(self, name: &str) -> Result<(Vec<String>, Places)> {
        let position = self.position(name)?;
        match self.columns.into_iter().nth(position) {
            Some((_, Cells::Words(words))) => Ok((words, self.places)),
            _ => Diagnostic::error("data-column", format!("`{name}` holds numbers, no text")).err(),
        }
    }
    /// Single numbers become one column `x`, lists a column each (`x` where there is but one); the target becomes `y`.
    ///
    /// # Errors
    /// `data-column`, `data-cell`, `data-empty` and `data-option`, with the row and column.
    pub(crate) fn dataset(self, name: String, mut about: Vec<String>, options: &Options) -> Result<Dataset> {
        if self.columns.is_empty() {
            return Diagnostic::error("data-empty", "there are no columns").err();
        }
        let rows = self.columns[0].1.rows();
        if let Some((other, cells)) = self.columns.iter().find(|(_, cells)| cells.rows() != rows) {
            let cause = format!("`{}` has {rows} rows and `{other}` has {}", self.columns[0].0, cells.rows());
            return Diagnostic::error("data-length", cause).err();
        }
        let target = match &options.target {
            Some(name) if options.labels == Labels::None => {
                let cause = format!("`{name}` is to be the target, and `labels` says that there is none");
                return Diagnostic::error("data-option", cause).err();
            }
            Some(name) => Some(self.position(name)?),
            None => {
                (self.columns.len() > 1 && options.labels != Labels::None).then(|| self.columns.len() - 1)
            }
        };
        let features: Vec<usize> = match options.features.as_slice() {
            [] => (0..self.columns.len()).filter(|i| Some(*i) != target).collect(),
            names => names.iter().map(|name| self.position(name)).collect::<Result<_>>()?,
        };
        let mut columns = self.features(&features)?;
        if let Some(shape) = &options.shape {
            columns = columns.into_iter().map(|column| reshape(column, shape)).collect::<Result<_>>()?;
        }
        let mut labels = None;
        if let Some(target) = target {
            let (column, line) = self.target(target, options.labels)?;
            about.push(line);
            columns.push(column);
            labels = Some(self.columns[target].0.clone());
        }
        Ok(Dataset::new(name, about, columns)?.of_table(self.places, labels))
    }
    fn features(&self, features: &[usize]) -> Result<Vec<Column>> {
        let mut single: Vec<&[f64]> = Vec::new();
        let mut columns = Vec::new();
        for &position in features {
            let (name, cells) = &self.columns[position];
            match cells {
                Cells::Numbers { values, shape } if shape.is_empty() => single.push(values),
                Cells::Numbers { values, shape } => {
                    let name = if features.len() == 1 { "x" } else { name.as_str() };
                    let shape = [&[cells.rows()][..], shape].concat();
                    let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
                    columns.push(Column::new(name, &Tensor::from_vec(shape, values)));
                }
                Cells::Words(words) => return Err(self.no_number(name, words)),
            }
        }
        if let Some(first) = single.first() {
            let rows = first.len();
            let mut values = Vec::with_capacity(rows * single.len());
            (0..rows).for_each(|row| values.extend(single.iter().map(|column| column[row] as f32)));
            columns.insert(0, Column::new("x", &Tensor::from_vec(vec![rows, single.len()], values)));
        }
        Ok(columns)
    }
    /// The first word of a column that is no number.
    fn no_number(&self, name: &str, words: &[String]) -> Box<Diagnostic> {
        let row = words.iter().position(|word| number(word).is_none()).unwrap_or(0);
        let cell = words.get(row).map_or("", String::as_str);
        let cause = if cell.is_empty() {
            "the cell is empty".into()
        } else {
            format!("{cell:?} is no finite number")
        };
        Box::new(
            Diagnostic::error("data-cell", cause)
                .at(format!("column `{name}`"))
                .at(self.places.of(row))
                .help("fill in or remove the row, or name the feature columns and leave this one out"),
        )
    }
    /// The target column, and a line about it.
    fn target(&self, position: usize, labels: Labels) -> Result<(Column, String)> {
        let (name, cells) = &self.columns[position];
        match cells {
            Cells::Words(words) if labels == Labels::Values => Err(self.no_number(name, words)),
            Cells::Words(words) => {
                let distinct: std::collections::BTreeSet<&str> = words.iter().map(String::as_str).collect();
                let classes: Vec<String> = distinct.into_iter().map(str::to_owned).collect();
                let number = |word: &String| classes.binary_search(word).expect("collected above") as i64;
                Ok(classed(name, words.iter().map(number).collect(), classes))
            }
            Cells::Numbers { values, shape } => {
                let whole = shape.is_empty() && values.iter().all(|value| value.fract() == 0.0);
                if whole && labels != Labels::Values {
                    let numbers: Vec<i64> = values.iter().map(|value| *value as i64).collect();
                    // What is not to be learned is no class.
                    let learned = numbers.iter().copied().filter(|number| *number != IGNORED_LABEL);
                    let distinct: std::collections::BTreeSet<i64> = learned.collect();
                    let distinct: Vec<i64> = distinct.into_iter().collect();
                    let named: Vec<String> = distinct.iter().take(NAMED).map(i64::to_string).collect();
                    let more = if distinct.len() > NAMED { ", …" } else { "" };
                    let named = named.join(", ");
                    let line =
                        format!("`y`: the whole numbers of column `{name}` as they are: {named}{more}");
                    let column = Column::new("y", &Tensor::from_vec(vec![numbers.len()], numbers));
                    return Ok((column.with_numbers(distinct), line));
                }
                if labels == Labels::Classes {
                    let row = values.iter().position(|value| value.fract() != 0.0).unwrap_or(0);
                    let cause = "the target has numbers that are not whole, or lists: no classes";
                    return Diagnostic::error("data-cell", cause)
                        .at(format!("column `{name}`"))
                        .at(self.places.of(row))
                        .err();
                }
                let shape = if shape.is_empty() { vec![1] } else { shape.clone() };
                let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
                let tensor = Tensor::from_vec([&[cells.rows()][..], &shape].concat(), values);
                Ok((Column::new("y", &tensor), format!("`y`: the numbers of column `{name}`")))
            }
        }
    }
}

/// The whole number that marks what is not to be learned, as in PyTorch; it stays as it is.
const IGNORED_LABEL: i64 = -100;

/// Classes named in a line about them.
const NAMED: usize = 12;

fn classed(name: &str, numbers: Vec<i64>, classes: Vec<String>) -> (Column, String) {
    let named: Vec<String> =
        classes.iter().take(NAMED).enumerate().map(|(i, c)| format!("{i} {c}")).collect();
    let more = if classes.len() > NAMED { ", …" } else { "" };
    let line = format!("`y`: {} classes of column `{name}`: {}{more}", classes.len(), named.join(", "));
    let column = Column::new("y", &Tensor::from_vec(vec![numbers.len()], numbers));
    (column.with_classes(classes), line)
}

fn reshape(column: Column, shape: &[usize]) -> Result<Column> {
    let (given, wanted) = (orrery_numerics::tensor::checked_count(column.shape()), shape);
    if given != orrery_numerics::tensor::checked_count(wanted) {
        let cause = format!("`{}` has {:?} numbers a sample, not {shape:?}", column.name(), column.shape());
        return Diagnostic::error("data-option", cause).err();
    }
    Ok(column.reshaped(shape.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(columns: Vec<(&str, Cells)>) -> Table {
        let columns = columns.into_iter().map(|(name, cells)| (name.to_owned(), cells)).collect();
        Table { columns, places: Places { what: "line", numbers: vec![2, 3, 5] } }
    }
    fn numbers(values: &[f64]) -> Cells {
        Cells::Numbers { values: values.to_vec(), shape: Vec::new() }
    }
    fn words(words: &[&str]) -> Cells {
        Cells::Words(words.iter().map(|word| (*word).to_owned()).collect())
    }
    fn dataset(columns: Vec<(&str, Cells)>, options: &Options) -> Result<Dataset> {
        table(columns).dataset("t".into(), Vec::new(), options)
    }

    #[test]
    fn words_become_classes_in_sorted_order() {
        let columns = vec![("a", numbers(&[1.0, 2.0, 3.0])), ("kind", words(&["dog", "cat", "dog"]))];
        let data = dataset(columns, &Options::default()).unwrap();
        assert_eq!(data.about(), ["`y`: 2 classes of column `kind`: 0 cat, 1 dog"]);
        let batch = data.batch(&[0, 1, 2]).unwrap();
        assert_eq!(batch[0].1.shape(), [3, 1]);
        assert_eq!(batch[1].1.values::<i64>().unwrap().as_ref(), [1, 0, 1]);
    }

    #[test]
    fn what_is_not_to_be_learned_is_no_class() {
        let numbers = |values: &[f64]| Cells::Numbers { values: values.to_vec(), shape: vec![] };
        let columns = vec![("x", numbers(&[1.0, 2.0, 3.0])), ("kind", numbers(&[3.0, -100.0, 5.0]))];
        let data = dataset(columns, &Options::default()).unwrap();
        assert_eq!(data.columns()[1].numbers().unwrap(), [3, 5]);
        assert_eq!(data.batch(&[0, 1, 2]).unwrap()[1].1.values::<i64>().unwrap().as_ref(), [3, -100, 5]);
    }

    #[test]
    fn whole_numbers_are_classes_unless_values_are_asked_for() {
        let columns = || vec![("y", numbers(&[5.0, -1.0, 7.0])), ("a", numbers(&[0.5, 1.5, 2.5]))];
        let target = |labels| Options { target: Some("y".into()), labels, ..Options::default() };
        let data = dataset(columns(), &target(Labels::Auto)).unwrap();
        assert_eq!(data.columns()[1].numbers().unwrap(), [-1, 5, 7]);
        let data = dataset(columns(), &target(Labels::Values)).unwrap();
        assert_eq!(data.batch(&[2]).unwrap()[1].1.values::<f32>().unwrap().as_ref(), [7.0]);
        let by_default = dataset(columns(), &Options::default()).unwrap();
        assert_eq!(by_default.column("y").unwrap().shape(), [1]);
        assert_eq!(
            dataset(columns(), &Options { labels: Labels::Classes, ..Options::default() }).unwrap_err().code,
            "data-cell"
        );
    }

    #[test]
    fn a_feature_that_is_no_number_is_named_with_row_and_column() {
        let columns = || {
            vec![("a", words(&["1", "2", "x"])), ("b", numbers(&[0.0, 1.0, 2.0])), ("y", numbers(&[0.0; 3]))]
        };
        let failed = dataset(columns(), &Options::default()).unwrap_err();
        assert_eq!(failed.place, ["line 5", "column `a`"]);
        assert_eq!(failed.cause, "\"x\" is no finite number");
        let only = Options { features: vec!["b".into()], ..Options::default() };
        assert_eq!(dataset(columns(), &only).unwrap().column("x").unwrap().shape(), [1]);
        let unknown = Options { features: vec!["c".into()], ..Options::default() };
        assert_eq!(dataset(columns(), &unknown).unwrap_err().code, "data-column");
    }

    #[test]
    fn features_get_a_shape() {
        let columns =
            || vec![("a", numbers(&[1.0, 2.0])), ("b", numbers(&[3.0, 4.0])), ("y", numbers(&[0.0; 2]))];
        let shaped = Options { shape: Some(vec![1, 2, 1]), ..Options::default() };
        assert_eq!(dataset(columns(), &shaped).unwrap().column("x").unwrap().shape(), [1, 2, 1]);
        let wrong = Options { shape: Some(vec![3]), ..Options::default() };
        assert_eq!(dataset(columns(), &wrong).unwrap_err().code, "data-option");
    }
}
