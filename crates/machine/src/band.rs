//! How far predictions for a machine were from what was measured on it.

use crate::section::Section;
use orrery_base::Result;
use std::fmt::{Display, Formatter};

/// The spread of measured over predicted times for one kind of work, from cross-validation: each source and workload was
/// predicted by losses fitted without it.
#[derive(Clone, Debug, PartialEq)]
pub struct Band {
    /// Kind of work: the mode of measurement files, such as `inference` or `train`.
    pub kind: String,
    /// 10th percentile of measured over predicted time.
    pub low: f64,
    /// 90th percentile of it.
    pub high: f64,
    /// Median of |predicted - measured| / measured, one median per source and workload.
    pub median_error: f64,
    /// Measurements.
    pub rows: u64,
    /// Sets of measurements that were taken apart from each other: of one source, workload and software stack.
    pub groups: u64,
}

impl Band {
    /// Fewest such sets on which a band may rest: one set alone does not show how figures differ from place to place.
    pub const FEWEST_GROUPS: u64 = 2;
    /// Fewest measurements on which a band may rest.
    pub const FEWEST_ROWS: usize = 8;

    pub(crate) fn read_all(root: &Section<'_>) -> Result<Vec<Self>> {
        let mut bands: Vec<Self> = Vec::new();
        for section in root.tables("band")? {
            section.only(&["kind", "low", "high", "median_error", "rows", "groups"])?;
            let band = Self {
                kind: section.string("kind")?,
                low: section.required("low")?.positive()?,
                high: section.required("high")?.positive()?,
                median_error: section.required("median_error")?.positive()?,
                rows: section.required("rows")?.integer()?,
                groups: section.required("groups")?.integer()?,
            };
            if band.low > band.high || bands.iter().any(|other| other.kind == band.kind) {
                let cause = format!("the band of `{}` is upside down or there twice", band.kind);
                return section.error("system-band", cause).help("`orrery calibrate` writes bands").err();
            }
            bands.push(band);
        }
        Ok(bands)
    }
}

impl Display for Band {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { low, high, rows, groups, .. } = self;
        write!(f, "measured {low:.2} to {high:.2} of the predicted time, {rows} figures in {groups} sets")
    }
}
