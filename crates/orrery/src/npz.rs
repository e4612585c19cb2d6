//! Tensors in `.npz` files, NumPy's archive of arrays.
//!
//! Arrays travel as [`orrery_data::npy`] says. A list `x` travels as its elements `x[0]`, `x[1]`, … and their number
//! `x[]`.

use crate::{Datum, Tensor};
use orrery_base::Result;
use orrery_data::npy;
use std::collections::BTreeMap;
use std::path::Path;

/// Reads all arrays of a file, in the order of their names, lists put together.
///
/// # Errors
/// `npz-read` where it is no archive of arrays; `npz-type` for arrays of a type that no tensor has.
pub fn read(path: &Path) -> Result<Vec<(String, Datum)>> {
    npy::read_npz(path).map(put_lists_together)
}

fn put_lists_together(mut arrays: BTreeMap<String, Tensor>) -> Vec<(String, Datum)> {
    let lists: Vec<(String, usize)> = arrays
        .iter()
        .filter_map(|(name, tensor)| {
            let stem = name.strip_suffix("[]")?;
            let count = *tensor.values::<i64>()?.first()?;
            Some((stem.to_owned(), usize::try_from(count).ok().filter(|n| *n <= arrays.len())?))
        })
        .collect();
    let mut all: Vec<(String, Datum)> = Vec::new();
    for (stem, count) in lists {
        let elements: Option<Vec<Datum>> =
            (0..count).map(|i| arrays.get(&format!("{stem}[{i}]")).cloned().map(Datum::from)).collect();
        if let Some(elements) = elements {
            arrays.remove(&format!("{stem}[]"));
            (0..count).for_each(|i| {
                arrays.remove(&format!("{stem}[{i}]"));
            });
            all.push((stem, Datum::Sequence(elements)));
        }
    }
    all.extend(arrays.into_iter().map(|(name, tensor)| (name, tensor.into())));
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// Writes arrays under their names. The file appears whole or not at all.
///
/// # Errors
/// `file-write` where it cannot be written.
pub fn write(path: &Path, arrays: &[(String, Datum)]) -> Result<()> {
    let mut flat = Vec::new();
    for (name, datum) in arrays {
        flatten(name, datum, &mut flat);
    }
    npy::write_npz(path, &flat)
}

fn flatten(name: &str, datum: &Datum, into: &mut Vec<(String, Tensor)>) {
    match datum {
        Datum::Tensor(tensor) => into.push((name.to_owned(), tensor.clone())),
        Datum::Optional(Some(inner)) => flatten(name, inner, into),
        Datum::Optional(None) => {}
        Datum::Sequence(elements) => {
            into.push((format!("{name}[]"), Tensor::scalar(elements.len() as i64)));
            for (i, element) in elements.iter().enumerate() {
                flatten(&format!("{name}[{i}]"), element, into);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    #[test]
    fn every_type_goes_there_and_back() {
        let folder = std::env::temp_dir().join(format!("orrery-npz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("all.npz");
        let mut arrays: Vec<(String, Datum)> = Vec::new();
        for dtype in DType::ALL.into_iter().filter(|t| *t != DType::Str) {
            let bytes: Vec<u8> = (0..6 * dtype.host_bytes()).map(|i| (i % 2) as u8).collect();
            let tensor = Tensor::from_bytes(dtype, vec![2, 3], bytes.into()).unwrap();
            arrays.push((format!("a/{dtype}"), tensor.into()));
        }
        let words = ["", "ä", "three"].map(str::to_owned).to_vec();
        arrays.push(("strings".into(), Tensor::from_strings(vec![3], words).into()));
        arrays.push(("empty".into(), Tensor::from_vec::<f32>(vec![0, 2], Vec::new()).into()));
        arrays.push(("scalar".into(), Tensor::scalar(1.5_f64).into()));
        let list = [1_i32, 2].map(|v| Datum::from(Tensor::from_vec(vec![1], vec![v]))).to_vec();
        arrays.push(("list".into(), Datum::Sequence(list)));
        arrays.push(("nothing".into(), Datum::Sequence(Vec::new())));
        arrays.push(("tensor:0".into(), Tensor::scalar(7_u8).into()));
        arrays.sort_by(|a, b| a.0.cmp(&b.0));
        write(&path, &arrays).unwrap();
        assert_eq!(format!("{:?}", read(&path).unwrap()), format!("{arrays:?}"));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn other_files_are_refused() {
        let path = std::env::temp_dir().join(format!("orrery-no-npz-{}.npz", std::process::id()));
        std::fs::write(&path, b"no archive").unwrap();
        assert_eq!(read(&path).unwrap_err().code, "npz-read");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read(&path).unwrap_err().code, "npz-read");
    }
}
