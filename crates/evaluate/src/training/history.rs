//! What a run has been through.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Its number, from 1.
    pub epoch: u64,
    /// Whether it was gone through to its end.
    #[serde(default = "yes")]
    pub whole: bool,
    /// Steps done at its end.
    pub step: u64,
    /// Samples that were learned from in it.
    pub samples: u64,
    /// Mean loss of its steps.
    pub loss: f64,
    /// Figures over the held-out data at its end, by name.
    #[serde(deserialize_with = "figures")]
    pub held_out: BTreeMap<String, f64>,
}

const fn yes() -> bool {
    true
}

/// JSON has no word for what is no number, and writes nothing in its place.
fn figures<'de, D: serde::Deserializer<'de>>(from: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let read = BTreeMap::<String, Option<f64>>::deserialize(from)?;
    Ok(read.into_iter().map(|(name, value)| (name, value.unwrap_or(f64::NAN))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_that_are_no_numbers_are_read_back() {
        let held_out = [("loss", f64::NAN), ("rmse", 0.5)].map(|(name, value)| (name.to_owned(), value));
        let epoch =
            Epoch { epoch: 1, whole: true, step: 2, samples: 3, loss: 0.25, held_out: held_out.into() };
        let read: Epoch = serde_json::from_str(&serde_json::to_string(&epoch).unwrap()).unwrap();
        assert!(read.held_out["loss"].is_nan() && read.held_out["rmse"] == 0.5, "{read:?}");
    }
}
