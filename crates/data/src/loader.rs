//! Batches of a dataset, epoch after epoch.

use crate::augment::Augment;
use crate::dataset::Dataset;
use crate::order::Permutation;
use orrery_base::{Diagnostic, Result};
use orrery_numerics::Tensor;

/// How samples become batches. All batches are of one size: machines compile for a shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Samples in a batch.
    pub batch: usize,
    /// Another order in each epoch, by this seed; none for the order of the dataset.
    pub shuffle: Option<u64>,
    /// What becomes of samples that do not fill a batch.
    pub last: Last,
    /// A column of images that are moved a little, how far, and by which seed.
    pub augment: Option<(String, Augment, u64)>,
}

/// What becomes of the samples at the end of an epoch that do not fill a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// They are left out of this epoch; another order leaves out others.
    Drop,
    /// The batch is filled up by repeating its own samples, which [`Batch::valid`] does not count.
    Pad,
}

/// Where training is: what a checkpoint keeps, with the plan's seeds, to go on with the same samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Epochs that are over.
    pub epoch: u64,
    /// Samples of the present epoch that were seen.
    pub sample: u64,
}

/// One batch.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Every column, `[batch, ...]`.
    pub columns: Vec<(String, Tensor)>,
    /// How many samples count, from the first on; the others fill up.
    pub valid: usize,
    /// Where it begins.
    pub at: Position,
    /// Where the next one begins: in another epoch after the last batch of one.
    pub next: Position,
}

impl Batch {
    /// 1 for samples that count, 0 for those that fill up: f32 `[batch]`.
    pub fn weights(&self, batch: usize) -> Tensor {
        let weight = |i| if i < self.valid { 1.0_f32 } else { 0.0 };
        Tensor::from_vec(vec![batch], (0..batch).map(weight).collect())
    }
    /// Whether it is the last one of its epoch.
    pub fn ends_epoch(&self) -> bool {
        self.next.epoch > self.at.epoch
    }
}

/// The batches of a dataset by a plan.
#[derive(Clone, Debug)]
pub struct Loader {
    data: Dataset,
    plan: Plan,
    position: Position,
}

impl Loader {
    /// Starts at the first batch of the first epoch.
    ///
    /// # Errors
    /// `data-batch` where no batch can be filled; `data-column` and `data-option` where the column to augment is not
    /// there or holds no images.
    pub fn new(data: Dataset, plan: Plan) -> Result<Self> {
        let too_few = plan.last == Last::Drop && plan.batch > data.len();
        if plan.batch == 0 || too_few {
            let cause = format!("{} samples do not fill a batch of {}", data.len(), plan.batch);
            let error = Diagnostic::error("data-batch", cause).at(data.name().to_owned());
            let error = error.help(format!("use a batch of 1 to {}", data.len()));
            return if too_few {
                error.help("samples that do not fill a batch are left out of an epoch: training pads nothing")
            } else {
                error
            }
            .err();
        }
        if let Some((name, augment, _)) = &plan.augment {
            let column = data.column(name)?;
            augment.check(column.dtype(), column.shape())?;
        }
        Ok(Self { data, plan, position: Position::default() })
    }
    /// The dataset.
    pub fn data(&self) -> &Dataset {
        &self.data
    }
    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }
    /// The dataset's lines about itself, and what this loader does to it.
    pub fn about(&self) -> Vec<String> {
        let mut lines = self.data.about().to_vec();
        let last = match self.plan.last {
            Last::Drop => "a partial one is dropped",
            Last::Pad => "a partial one is filled up with samples that do not count",
        };
        lines.push(format!("{} batches of {} an epoch; {last}", self.batches_per_epoch(), self.plan.batch));
        if let Some(seed) = self.plan.shuffle {
            lines.push(format!("shuffled in each epoch, seed {seed}"));
        }
        if let Some((name, augment, seed)) = &self.plan.augment {
            lines.push(format!("`{name}` {augment}, seed {seed}"));
        }
        lines
    }
    /// Batches in one epoch; at least one.
    pub fn batches_per_epoch(&self) -> usize {
        match self.plan.last {
            Last::Drop => self.data.len() / self.plan.batch,
            Last::Pad => self.data.len().div_ceil(self.plan.batch),
        }
    }
    /// Where the next batch begins.
    pub fn position(&self) -> Position {
        self.position
    }
    /// Goes on from where a checkpoint was made. Another batch size than then is no hindrance.
    ///
    /// # Errors
    /// `data-position` where the dataset has fewer samples than were seen: it is another one.
    pub fn resume(&mut self, position: Position) -> Result<()> {
        if position.sample > self.data.len() as u64 {
            let cause = format!(
                "{} samples of the epoch were seen, and there are only {}",
                position.sample,
                self.data.len()
            );
            return Diagnostic::error("data-position", cause)
                .at(self.data.name().to_owned())
                .help("the checkpoint was made with other data, or with another split of them")
                .err();
        }
        self.position = position;
        Ok(())
    }
    /// The next batch; there always is one.
    ///
    /// # Errors
    /// As [`Dataset::batch`].
    pub fn next_batch(&mut self) -> Result<Batch> {
        let batch = self.batch_at(self.position)?;
        self.position = batch.next;
        Ok(batch)
    }
    /// The batch that begins at a position, or the first one of the next epoch where nothing begins there.
    ///
    /// # Errors
    /// As [`Dataset::batch`].
    pub fn batch_at(&self, position: Position) -> Result<Batch> {
        let (len, size) = (self.data.len(), self.plan.batch);
        // How many samples are left, or none where they make no batch.
        let left = |at: Position| {
            let left = len.saturating_sub(usize::try_from(at.sample).unwrap_or(len));
            if self.plan.last == Last::Drop && left < size { 0 } else { left }
        };
        let next_epoch = |at: Position| Position { epoch: at.epoch + 1, sample: 0 };
        let at = if left(position) == 0 { next_epoch(position) } else { position };
        let valid = left(at).min(size);
        let first = at.sample as usize;
        let order = self.plan.shuffle.map(|seed| Permutation::new(len, seed, at.epoch));
        let sample = |i: usize| {
            let place = first + i % valid;
            order.map_or(place, |order| order.at(place))
        };
        let samples: Vec<usize> = (0..size).map(sample).collect();
        let mut columns = self.data.batch(&samples)?;
        if let Some((name, augment, seed)) = &self.plan.augment {
            for (_, tensor) in columns.iter_mut().filter(|(column, _)| column == name) {
                *tensor = augment.apply(tensor, &samples, *seed, at.epoch);
            }
        }
        let after = Position { sample: at.sample + valid as u64, ..at };
        let next = if left(after) == 0 { next_epoch(at) } else { after };
        Ok(Batch { columns, valid, at, next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize) -> Dataset {
        let y = Tensor::from_vec(vec![count], (0..count as i64).collect::<Vec<_>>());
        Dataset::from_tensors("numbers", Vec::new(), [("y".to_owned(), y)]).unwrap()
    }
    fn plan(batch: usize, shuffle: Option<u64>, last: Last) -> Plan {
        Plan { batch, shuffle, last, augment: None }
    }
    fn values(batch: &Batch) -> Vec<i64> {
        batch.columns[0].1.values::<i64>().unwrap().into_owned()
    }

    #[test]
    fn a_partial_batch_is_dropped() {
        let mut loader = Loader::new(numbers(7), plan(3, None, Last::Drop)).unwrap();
        assert_eq!(loader.batches_per_epoch(), 2);
        let all: Vec<Batch> = (0..3).map(|_| loader.next_batch().unwrap()).collect();
        assert_eq!(all.iter().map(values).collect::<Vec<_>>(), [[0, 1, 2], [3, 4, 5], [0, 1, 2]]);
        assert_eq!(all.iter().map(Batch::ends_epoch).collect::<Vec<_>>(), [false, true, false]);
        assert_eq!(all[2].at, Position { epoch: 1, sample: 0 });
    }

    #[test]
    fn a_partial_batch_is_filled_up_with_samples_that_do_not_count() {
        let mut loader = Loader::new(numbers(7), plan(3, None, Last::Pad)).unwrap();
        assert_eq!(loader.batches_per_epoch(), 3);
        let last = (0..3).map(|_| loader.next_batch().unwrap()).last().unwrap();
        assert_eq!((values(&last), last.valid), (vec![6, 6, 6], 1));
        assert_eq!(last.weights(3).values::<f32>().unwrap().as_ref(), [1.0, 0.0, 0.0]);
        assert!(last.ends_epoch());
        // Fewer samples than a batch still make one.
        let small = Loader::new(numbers(2), plan(3, None, Last::Pad)).unwrap();
        assert_eq!(values(&small.batch_at(Position::default()).unwrap()), [0, 1, 0]);
    }

    #[test]
    fn an_epoch_sees_each_sample_once_in_an_order_of_its_own() {
        let mut loader = Loader::new(numbers(12), plan(4, Some(5), Last::Drop)).unwrap();
        let mut epoch =
            || -> Vec<i64> { (0..3).flat_map(|_| values(&loader.next_batch().unwrap())).collect() };
        let (first, second) = (epoch(), epoch());
        assert_ne!(first, second);
        for mut order in [first, second] {
            order.sort_unstable();
            assert_eq!(order, (0..12).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_checkpoint_goes_on_with_the_same_samples() {
        let new = |batch| Loader::new(numbers(10), plan(batch, Some(1), Last::Drop)).unwrap();
        let mut straight = new(4);
        straight.next_batch().unwrap();
        let kept = straight.position();
        assert_eq!(kept, Position { epoch: 0, sample: 4 });
        let mut resumed = new(4);
        resumed.resume(kept).unwrap();
        for _ in 0..5 {
            assert_eq!(values(&straight.next_batch().unwrap()), values(&resumed.next_batch().unwrap()));
        }
        // With a smaller batch the same samples come in smaller pieces.
        let mut pieces = new(2);
        pieces.resume(kept).unwrap();
        let two = [values(&pieces.next_batch().unwrap()), values(&pieces.next_batch().unwrap())].concat();
        assert_eq!(two, values(&new(4).batch_at(kept).unwrap()));
        let beyond = Position { epoch: 0, sample: 11 };
        assert_eq!(new(4).resume(beyond).unwrap_err().code, "data-position");
    }

    #[test]
    fn a_batch_that_cannot_be_filled_is_refused() {
        for (batch, last) in [(8, Last::Drop), (0, Last::Pad)] {
            assert_eq!(Loader::new(numbers(7), plan(batch, None, last)).unwrap_err().code, "data-batch");
        }
    }
}
