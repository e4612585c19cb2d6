//! What a run has been through.

use super::metrics::Metric;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Its number, from 1.
    pub epoch: u64,
    /// Steps done at its end.
    pub step: u64,
    /// Samples that were learned from in it.
    pub samples: u64,
    /// Mean loss of its steps.
    pub loss: f64,
    /// Figures over the held-out data at its end, by name.
    pub held_out: BTreeMap<String, f64>,
}

impl Epoch {
    pub(super) fn set_held_out(&mut self, metrics: &[Metric]) {
        self.held_out = metrics.iter().map(|m| (m.name.to_owned(), m.value)).collect();
    }
}
