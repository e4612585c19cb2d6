//! Samples in named columns, and what is done to all of them alike.

use crate::images::Images;
use crate::order::Permutation;
use crate::table::Places;
use bytes::Bytes;
use orrery_base::{Diagnostic, Result};
use orrery_numerics::{DType, Tensor};
use std::sync::Arc;

/// Samples in named columns of one length. Cloning shares the elements.
///
/// A dataset may be a part of what its columns hold (see [`Dataset::split`]); samples are counted within it, from 0.
#[derive(Clone, Debug)]
pub struct Dataset {
    name: String,
    about: Vec<String>,
    columns: Vec<Column>,
    /// Samples that the columns hold.
    held: usize,
    /// Those of them that this dataset has, in its order; none for all.
    rows: Option<Arc<[usize]>>,
    /// The column of labels, where it is known.
    label: Option<String>,
    /// Where the held samples are in the file, and what it calls the labels, where they come from a table.
    table: Option<(Arc<Places>, Option<String>)>,
}

/// One named column: a tensor for each sample, all of one type and shape.
#[derive(Clone, Debug)]
pub struct Column {
    name: String,
    samples: usize,
    /// As it is held; a scaled column is f32 in batches.
    stored: DType,
    shape: Vec<usize>,
    source: Source,
    scaling: Option<Statistics>,
    classes: Option<Arc<[String]>>,
    /// The whole numbers that are labels, where the file has such, in their order.
    numbers: Option<Arc<[i64]>>,
}

#[derive(Clone, Debug)]
enum Source {
    /// Sample `i` lies at byte `first + i * step`.
    Bytes { bytes: Bytes, first: usize, step: usize },
    /// Decoded from files when asked for.
    Images(Arc<Images>),
}

/// Mean and standard deviation of a column: one of each, or one for each index of a sample's first axis (the channels
/// of an image, the features of a row).
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// Means.
    pub mean: Vec<f64>,
    /// Standard deviations, as many as means; 1 where all samples are the same.
    pub deviation: Vec<f64>,
}

/// How many samples the first part of a split gets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part {
    /// A share of all, rounded to the nearest whole sample.
    Fraction(f64),
    /// So many.
    Count(usize),
}

impl Column {
    /// A column whose sample `i` is `tensor[i]`. Panics for a scalar and for strings: the caller's fault.
    pub fn new(name: impl Into<String>, tensor: &Tensor) -> Self {
        let [samples, shape @ ..] = tensor.shape() else { panic!("a column has a sample axis") };
        let step = shape.iter().product::<usize>() * tensor.dtype().host_bytes();
        Self::from_source(name, *samples, tensor.dtype(), shape.to_vec(), bytes_of(tensor, 0, step))
    }
    /// A column over tokens `[n]` whose sample `i` is the `length` of them that begin at `first + i * step`.
    pub(crate) fn windows(
        name: &str,
        tokens: &Tensor,
        first: usize,
        length: usize,
        step: usize,
        samples: usize,
    ) -> Self {
        let each = tokens.dtype().host_bytes();
        let source = bytes_of(tokens, first * each, step * each);
        Self::from_source(name, samples, tokens.dtype(), vec![length], source)
    }
    /// Images of 8 bits a value, as f32 from 0 to 1.
    pub(crate) fn images(name: &str, images: Images) -> Self {
        let (samples, shape) = (images.len(), images.shape().to_vec());
        Self::from_source(name, samples, DType::U8, shape, Source::Images(Arc::new(images))).over(255.0)
    }
    /// Class numbers that are their own names: 0 to below `classes`.
    pub(crate) fn labels(name: &str, numbers: Vec<i64>, classes: usize) -> Self {
        let column = Self::new(name, &Tensor::from_vec(vec![numbers.len()], numbers));
        column.with_classes((0..classes).map(|class| class.to_string()).collect())
    }
    fn from_source(
        name: impl Into<String>,
        samples: usize,
        stored: DType,
        shape: Vec<usize>,
        source: Source,
    ) -> Self {
        Self {
            name: name.into(),
            samples,
            stored,
            shape,
            source,
            scaling: None,
            classes: None,
            numbers: None,
        }
    }
    /// The column divided by a number, as f32.
    #[must_use]
    pub(crate) fn over(self, largest: f64) -> Self {
        Self { scaling: Some(Statistics { mean: vec![0.0], deviation: vec![largest] }), ..self }
    }
    /// The column as class numbers with these names.
    #[must_use]
    pub fn with_classes(self, classes: Vec<String>) -> Self {
        Self { classes: Some(classes.into()), ..self }
    }
    /// The column as labels that are whole numbers, these in their order.
    #[must_use]
    pub(crate) fn with_numbers(self, numbers: Vec<i64>) -> Self {
        Self { numbers: Some(numbers.into()), ..self }
    }
    /// The column with samples of another shape. Panics where the number of elements differs.
    #[must_use]
    pub(crate) fn reshaped(self, shape: Vec<usize>) -> Self {
        assert_eq!(self.shape.iter().product::<usize>(), shape.iter().product::<usize>(), "as many elements");
        Self { shape, ..self }
    }
    /// Name.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Element type in batches.
    pub fn dtype(&self) -> DType {
        if self.scaling.is_some() { DType::F32 } else { self.stored }
    }
    /// Shape of one sample.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
    /// What class number `i` is called, for columns of classes.
    pub fn classes(&self) -> Option<&[String]> {
        self.classes.as_deref()
    }
    /// The whole numbers that are labels, in their order, where a table has them: they stand in the column as they are.
    pub fn numbers(&self) -> Option<&[i64]> {
        self.numbers.as_deref()
    }
    /// Whether its file has floats, of which some may be no numbers.
    pub(crate) fn holds_floats(&self) -> bool {
        self.stored.is_float()
    }
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }
    /// The tensors of some held samples, one after another.
    fn read(&self, rows: impl ExactSizeIterator<Item = usize>) -> Result<Tensor> {
        let each = self.elements() * self.stored.host_bytes();
        let mut shape = vec![rows.len()];
        shape.extend(&self.shape);
        let mut raw = Vec::with_capacity(rows.len() * each);
        for row in rows {
            match &self.source {
                Source::Bytes { bytes, first, step } => {
                    let start = first + row * step;
                    raw.extend_from_slice(&bytes[start..start + each]);
                }
                Source::Images(images) => images.decode(row, &mut raw)?,
            }
        }
        let tensor =
            Tensor::from_bytes(self.stored, shape, raw.into()).expect("as many bytes as samples need");
        match &self.scaling {
            Some(scaling) => scaling.apply(&tensor, &self.shape),
            None => Ok(tensor),
        }
    }
}

fn bytes_of(tensor: &Tensor, first: usize, step: usize) -> Source {
    let orrery_numerics::Data::Bytes(bytes) = tensor.data() else { panic!("strings are no column") };
    Source::Bytes { bytes: bytes.clone(), first, step }
}

fn numbers(tensor: &Tensor) -> Result<std::borrow::Cow<'_, [f64]>> {
    tensor.to_f64().map_err(|error| Box::new(Diagnostic::error("data-column", error.to_string())))
}

impl Statistics {
    fn apply(&self, tensor: &Tensor, sample: &[usize]) -> Result<Tensor> {
        let values = numbers(tensor)?;
        let inner = group_size(self.mean.len(), sample);
        let scaled = |(i, value): (usize, &f64)| {
            let group = i / inner % self.mean.len();
            ((value - self.mean[group]) / self.deviation[group]) as f32
        };
        let scaled: Vec<f32> = values.iter().enumerate().map(scaled).collect();
        Ok(Tensor::from_vec(tensor.shape().to_vec(), scaled))
    }
    /// `self` after `first`: one scaling that does both.
    fn after(&self, first: &Self) -> Self {
        let groups = self.mean.len().max(first.mean.len());
        let at = |values: &[f64], group: usize| values[group % values.len()];
        let deviation = |g| at(&first.deviation, g) * at(&self.deviation, g);
        let mean = |g| at(&first.mean, g) + at(&self.mean, g) * at(&first.deviation, g);
        Self { mean: (0..groups).map(mean).collect(), deviation: (0..groups).map(deviation).collect() }
    }
}

/// Elements that share a mean, one after another.
fn group_size(groups: usize, sample: &[usize]) -> usize {
    (sample.iter().product::<usize>() / groups).max(1)
}

impl Dataset {
    /// A dataset of columns; `about` says where they come from, one line each.
    ///
    /// # Errors
    /// `data-length` where columns hold different numbers of samples; `data-empty` where there are none.
    pub fn new(name: impl Into<String>, about: Vec<String>, columns: Vec<Column>) -> Result<Self> {
        let Some(first) = columns.first() else {
            return Diagnostic::error("data-empty", "there is no column").err();
        };
        let held = first.samples;
        if let Some(other) = columns.iter().find(|column| column.samples != held) {
            let cause =
                format!("`{}` has {held} samples and `{}` has {}", first.name, other.name, other.samples);
            return Diagnostic::error("data-length", cause)
                .help("every column must have one entry for each sample")
                .err();
        }
        if held == 0 {
            return Diagnostic::error("data-empty", "there are no samples").err();
        }
        Ok(Self { name: name.into(), about, columns, held, rows: None, label: None, table: None })
    }
    /// A dataset of tensors, each with the samples along its first axis.
    ///
    /// # Errors
    /// As [`Dataset::new`]; `data-column` for scalars and strings.
    pub fn from_tensors(
        name: impl Into<String>,
        about: Vec<String>,
        tensors: impl IntoIterator<Item = (String, Tensor)>,
    ) -> Result<Self> {
        let mut columns = Vec::new();
        for (name, tensor) in tensors {
            let problem = match (tensor.shape().first(), tensor.dtype()) {
                (None, _) => "a single number, without an axis for the samples",
                (_, DType::Str) => "strings, which no model takes",
                (Some(_), _) => {
                    columns.push(Column::new(name, &tensor));
                    continue;
                }
            };
            return Diagnostic::error("data-column", format!("`{name}` holds {problem}")).err();
        }
        Self::new(name, about, columns)
    }
    /// With what its file says of the rows and the labels.
    pub(crate) fn of_table(mut self, places: Places, label: Option<String>) -> Self {
        if label.is_some() {
            self.label = self.columns.last().map(|column| column.name.clone());
        }
        self.table = Some((Arc::new(places), label));
        self
    }
    /// Whether its file is a table, of whose columns it made its own.
    pub(crate) fn is_table(&self) -> bool {
        self.table.is_some()
    }
    /// With the path that it was read from for its name.
    pub(crate) fn named(self, name: String) -> Self {
        Self { name, ..self }
    }
    /// With a column that holds the labels.
    ///
    /// # Errors
    /// `data-column` where there is none of that name.
    pub fn labelled(mut self, name: &str) -> Result<Self> {
        self.label = Some(self.column(name)?.name.clone());
        Ok(self)
    }
    /// The column that holds the labels, where it was named or the format says so.
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }
    /// Where a sample of a column is, outermost first: file, line or number, column; that of labels as the file calls it.
    pub fn place_of(&self, sample: usize, column: &str) -> Vec<String> {
        let row = self.rows.as_ref().map_or(sample, |rows| rows[sample]);
        let (row, column) = match &self.table {
            Some((places, label)) => {
                let own = label.as_deref().filter(|_| self.label.as_deref() == Some(column));
                (places.of(row), own.unwrap_or(column))
            }
            None => (format!("sample {row}, counted from 0"), column),
        };
        vec![self.name.clone(), row, format!("column `{column}`")]
    }
    /// What it is called: the file or the generator.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Where the samples come from and what was done to them, one line each.
    pub fn about(&self) -> &[String] {
        &self.about
    }
    /// The columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }
    /// The column of that name.
    ///
    /// # Errors
    /// `data-column` where there is none.
    pub fn column(&self, name: &str) -> Result<&Column> {
        self.columns.iter().find(|column| column.name == name).ok_or_else(|| self.no_column(name))
    }
    fn no_column(&self, name: &str) -> Box<Diagnostic> {
        let names: Vec<String> = self.columns.iter().map(|c| format!("`{}`", c.name)).collect();
        Box::new(
            Diagnostic::error("data-column", format!("there is no column `{name}`"))
                .at(self.name.clone())
                .help(format!("the columns are {}", names.join(", "))),
        )
    }
    fn column_mut(&mut self, name: &str) -> Result<&mut Column> {
        match self.columns.iter().position(|column| column.name == name) {
            Some(position) => Ok(&mut self.columns[position]),
            None => Err(self.no_column(name)),
        }
    }
    /// Number of samples; at least one.
    #[expect(clippy::len_without_is_empty, reason = "there is no empty dataset")]
    pub fn len(&self) -> usize {
        self.rows.as_ref().map_or(self.held, |rows| rows.len())
    }
    /// One column of some samples that follow one another: a contiguous tensor `[samples.len(), ...]`. Panics for an index
    /// that is no sample.
    ///
    /// # Errors
    /// `data-column` where there is none of that name; as [`Dataset::batch`].
    pub fn read(&self, column: &str, samples: std::ops::Range<usize>) -> Result<Tensor> {
        let row = |i: usize| self.rows.as_ref().map_or(i, |rows| rows[i]);
        self.column(column)?.read(samples.map(row))
    }
    /// All columns of some samples: contiguous tensors `[indices.len(), ...]`. Panics for an index that is no sample.
    ///
    /// # Errors
    /// `data-image` and `file-read` where a file that is decoded only now turns out bad.
    pub fn batch(&self, indices: &[usize]) -> Result<Vec<(String, Tensor)>> {
        let row = |&i: &usize| match &self.rows {
            Some(rows) => rows[i],
            None => {
                assert!(i < self.held, "sample {i} of {}", self.held);
                i
            }
        };
        let read = |column: &Column| Ok((column.name.clone(), column.read(indices.iter().map(row))?));
        self.columns.iter().map(read).collect()
    }
    /// The samples at these indices, in this order. Panics for an index that is no sample.
    #[must_use]
    pub fn select(&self, indices: &[usize]) -> Self {
        let row = |&i: &usize| self.rows.as_ref().map_or(i, |rows| rows[i]);
        let rows: Arc<[usize]> = indices.iter().map(row).collect();
        assert!(!rows.is_empty() && rows.iter().all(|row| *row < self.held), "samples of {}", self.held);
        Self { rows: Some(rows), ..self.clone() }
    }
    /// Two parts that have no sample in common, drawn by `seed`, each in the order of this dataset.
    ///
    /// # Errors
    /// `data-option` where one of them would be empty.
    pub fn split(&self, first: Part, seed: u64) -> Result<(Self, Self)> {
        let count = match first {
            Part::Count(count) => count,
            Part::Fraction(share) => (share * self.len() as f64).round() as usize,
        };
        if count == 0 || count >= self.len() {
            let cause = format!("{} samples cannot be split into {count} and the others", self.len());
            return Diagnostic::error("data-option", cause)
                .at(self.name.clone())
                .help("each part needs at least one sample")
                .err();
        }
        let order = Permutation::new(self.len(), seed, SPLIT);
        let part = |from: usize, to: usize| {
            let mut indices: Vec<usize> = (from..to).map(|i| order.at(i)).collect();
            indices.sort_unstable();
            let mut part = self.select(&indices);
            part.about.push(format!("{} of {} samples, drawn by seed {seed}", to - from, self.len()));
            part
        };
        Ok((part(0, count), part(count, self.len())))
    }
    /// Gives a column another name, such as that of a model's input.
    ///
    /// # Errors
    /// `data-column` where there is none of the old name or already one of the new.
    pub fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        if from != to && self.columns.iter().any(|column| column.name == to) {
            let cause = format!("there is already a column `{to}`");
            return Diagnostic::error("data-column", cause).at(self.name.clone()).err();
        }
        to.clone_into(&mut self.column_mut(from)?.name);
        if self.label.as_deref() == Some(from) {
            self.label = Some(to.to_owned());
        }
        Ok(())
    }
    /// Leaves out a column.
    ///
    /// # Errors
    /// `data-column` where there is none of that name or no other.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        self.column(name)?;
        if self.columns.len() == 1 {
            let cause = format!("`{name}` is the only column");
            return Diagnostic::error("data-column", cause).at(self.name.clone()).err();
        }
        self.columns.retain(|column| column.name != name);
        self.label.take_if(|label| label == name);
        Ok(())
    }
    /// Mean and standard deviation of a column over this dataset's samples (its training part, say): one for each
    /// index of a sample's first axis where that has more than one axis or is a row of features, else one of each.
    ///
    /// # Errors
    /// `data-column` where there is no such column or it holds no numbers; as [`Dataset::check_finite`].
    pub fn statistics(&self, name: &str) -> Result<Statistics> {
        self.check_finite(name)?;
        let column = self.column(name)?;
        let groups = column.shape.first().copied().unwrap_or(1).max(1);
        let inner = group_size(groups, &column.shape);
        let mut moments = vec![(0.0_f64, 0.0_f64, 0.0_f64); groups];
        for i in 0..self.len() {
            let row = self.rows.as_ref().map_or(i, |rows| rows[i]);
            let sample = column.read(std::iter::once(row))?;
            for (i, value) in numbers(&sample)?.iter().enumerate() {
                // Welford's recurrence: no difference of large sums.
                let (count, mean, squares) = &mut moments[i / inner % groups];
                *count += 1.0;
                let off = value - *mean;
                *mean += off / *count;
                *squares += off * (value - *mean);
            }
        }
        let deviation = |&(count, _, squares): &(f64, f64, f64)| {
            let deviation = (squares / count).sqrt();
            if deviation > 0.0 { deviation } else { 1.0 }
        };
        Ok(Statistics {
            mean: moments.iter().map(|(_, mean, _)| *mean).collect(),
            deviation: moments.iter().map(deviation).collect(),
        })
    }
    /// Reads a column less its mean, over its standard deviation, from now on; it becomes f32.
    ///
    /// # Errors
    /// `data-column` where there is no such column or it holds classes; `data-option` where the statistics are not of
    /// its shape, or a deviation is not a positive number.
    pub fn normalise(&mut self, name: &str, by: &Statistics) -> Result<()> {
        let place = self.name.clone();
        let column = self.column_mut(name)?;
        if column.classes.is_some() || column.numbers.is_some() {
            let cause = format!("`{name}` holds class numbers, which are not to be scaled");
            return Diagnostic::error("data-column", cause).at(place).err();
        }
        let groups = by.mean.len();
        let fits = groups == by.deviation.len() && (groups == 1 || column.shape.first() == Some(&groups));
        let sound =
            by.mean.iter().all(|m| m.is_finite()) && by.deviation.iter().all(|d| *d > 0.0 && d.is_finite());
        if !fits || !sound {
            let cause = format!("{groups} means cannot normalise samples of shape {:?}", column.shape);
            return Diagnostic::error("data-option", cause)
                .at(place)
                .help("give one mean and one positive deviation, or one for each index of the first axis")
                .err();
        }
        column.scaling = Some(match &column.scaling {
            Some(before) => by.after(before),
            None => by.clone(),
        });
        self.about.push(match by.mean.as_slice() {
            [mean] => format!("`{name}` less {mean:.6}, over {:.6}", by.deviation[0]),
            _ => format!("`{name}` less its mean, over its standard deviation, for each of {groups} indices"),
        });
        Ok(())
    }
}

/// Stream of the permutation that splits; shuffles use the number of the epoch.
const SPLIT: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(count: usize) -> Dataset {
        let x: Vec<f32> = (0..count * 2).map(|i| i as f32).collect();
        let y: Vec<i64> = (0..count as i64).collect();
        let tensors = [
            ("x".to_owned(), Tensor::from_vec(vec![count, 2], x)),
            ("y".to_owned(), Tensor::from_vec(vec![count], y)),
        ];
        Dataset::from_tensors("numbered", Vec::new(), tensors).unwrap()
    }

    #[test]
    fn a_batch_has_a_leading_axis_and_the_samples_in_the_order_asked_for() {
        let batch = numbered(5).batch(&[4, 0]).unwrap();
        assert_eq!((batch[0].0.as_str(), batch[0].1.shape()), ("x", &[2, 2][..]));
        assert_eq!(batch[0].1.values::<f32>().unwrap().as_ref(), [8.0, 9.0, 0.0, 1.0]);
        assert_eq!(batch[1].1.shape(), [2]);
        assert_eq!(batch[1].1.values::<i64>().unwrap().as_ref(), [4, 0]);
    }

    #[test]
    fn columns_of_different_lengths_are_told_apart() {
        let one = |n: usize| Tensor::from_vec(vec![n], vec![0_f32; n]);
        let columns = [("x".to_owned(), one(3)), ("y".to_owned(), one(2))];
        let failed = Dataset::from_tensors("d", Vec::new(), columns).unwrap_err();
        assert_eq!((failed.code, failed.cause.as_str()), ("data-length", "`x` has 3 samples and `y` has 2"));
        let none = Dataset::from_tensors("d", Vec::new(), [("x".to_owned(), one(0))]).unwrap_err();
        assert_eq!(none.code, "data-empty");
    }

    #[test]
    fn parts_of_a_split_are_disjoint_complete_and_of_their_seed() {
        let labels = |data: &Dataset| -> Vec<i64> {
            let all: Vec<usize> = (0..data.len()).collect();
            data.batch(&all).unwrap()[1].1.values::<i64>().unwrap().into_owned()
        };
        let data = numbered(100);
        let (train, test) = data.split(Part::Fraction(0.8), 1).unwrap();
        assert_eq!((train.len(), test.len()), (80, 20));
        let mut all = [labels(&train), labels(&test)].concat();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<i64>>());
        let again = data.split(Part::Count(80), 1).unwrap().1;
        assert_eq!(labels(&again), labels(&test));
        assert_ne!(labels(&data.split(Part::Count(80), 2).unwrap().1), labels(&test));
        assert_eq!(data.split(Part::Fraction(1.0), 1).unwrap_err().code, "data-option");
        // A part of a part.
        let (some, _) = test.split(Part::Count(5), 3).unwrap();
        assert!(labels(&some).iter().all(|label| labels(&test).contains(label)));
    }

    #[test]
    fn a_column_is_normalised_by_the_statistics_of_another_part() {
        let mut data = numbered(3);
        let by = data.statistics("x").unwrap();
        assert_eq!(by.mean, [2.0, 3.0]);
        data.normalise("x", &by).unwrap();
        let after = data.statistics("x").unwrap();
        assert!(
            after.mean.iter().all(|m| m.abs() < 1e-6)
                && after.deviation.iter().all(|d| (d - 1.0).abs() < 1e-6)
        );
        // Twice is one scaling after the other.
        data.normalise("x", &Statistics { mean: vec![1.0], deviation: vec![2.0] }).unwrap();
        let x = data.batch(&[1]).unwrap()[0].1.values::<f32>().unwrap().into_owned();
        assert_eq!(x, [-0.5, -0.5]);
        let wrong = Statistics { mean: vec![0.0; 3], deviation: vec![1.0; 3] };
        assert_eq!(data.normalise("x", &wrong).unwrap_err().code, "data-option");
        assert_eq!(data.normalise("z", &by).unwrap_err().code, "data-column");
    }
}
