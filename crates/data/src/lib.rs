//! Data that models are trained on.
//!
//! [`open`] makes a [`Dataset`] of a file, a folder, a generator or a packaged set; a [`Loader`] makes batches of it.
//!
//! ```
//! use orrery_data::{Last, Loader, Options, Part, Plan, open};
//!
//! let (mut train, mut test) = open("bragg-peaks:n=100", &Options::default())?.split(Part::Fraction(0.8), 1)?;
//! let by = train.statistics("patch")?;
//! train.normalise("patch", &by)?;
//! test.normalise("patch", &by)?;
//! let mut loader = Loader::new(train, Plan { batch: 32, shuffle: Some(1), last: Last::Drop, augment: None })?;
//! let batch = loader.next_batch()?;
//! assert_eq!(batch.columns[0].1.shape(), [32, 1, 11, 11]);
//! # Ok::<(), Box<orrery_base::Diagnostic>>(())
//! ```
//!
//! Everything drawn is a function of a seed and a position, the same on every machine; a [`Position`] and the seeds are
//! all that a checkpoint needs. Bad files are diagnostics with the place; sizes are held against the file before memory
//! is taken for them.

mod augment;
mod bragg;
mod codons;
mod dataset;
mod draws;
mod files;
mod finite;
mod idx;
mod images;
mod loader;
pub mod npy;
mod open;
mod order;
mod packaged;
mod table;
mod text;

pub use augment::Augment;
pub use bragg::BraggPeaks;
pub use codons::Codons;
pub use dataset::{Column, Dataset, Part, Statistics};
pub use images::ImageOptions;
pub use loader::{Batch, Last, Loader, Plan, Position};
pub use open::{Labels, NAMES, Options, open};
pub use order::Permutation;
pub use text::{Kmers, Tokenizer, pack};
