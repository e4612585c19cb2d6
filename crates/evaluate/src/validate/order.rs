//! Which machine is faster: whether predictions put machines in the order in which they were measured.

use super::ValidationRow;
use crate::validate::is_rate;
use orrery_record::Scored;
use serde::Serialize;
use std::collections::BTreeMap;

/// Machines measured on the same work, and how they are predicted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WorkOrder {
    /// Workload, mode, metric, batch, length, devices and class of precision.
    pub work: String,
    /// Figures.
    pub n: usize,
    /// Pairs of figures of different machines that differ.
    pub pairs: usize,
    /// Those that are predicted in the order in which they were measured.
    pub right: usize,
    /// Kendall's rank correlation over these pairs: 1 in the same order, -1 in the reverse one.
    pub rank_correlation: f64,
}

/// The order of machines over all work that several were measured on.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Order {
    /// Pairs of figures of different machines for the same work.
    pub pairs: usize,
    /// Those in the right order.
    pub right: usize,
    /// By work.
    pub works: Vec<WorkOrder>,
}

/// Of the clean rows that are predicted.
pub(super) fn of(rows: &[ValidationRow]) -> Order {
    let mut works: BTreeMap<String, Vec<&ValidationRow>> = BTreeMap::new();
    let clean =
        |row: &&ValidationRow| matches!(row.scored, None | Some(Scored::Yes)) && row.predicted.is_some();
    for row in rows.iter().filter(clean) {
        works.entry(work(row)).or_default().push(row);
    }
    let mut order = Order::default();
    for (work, rows) in works {
        let (mut pairs, mut right) = (0, 0);
        for (i, one) in rows.iter().enumerate() {
            for other in rows[i + 1..].iter().filter(|other| other.system != one.system) {
                if one.measured == other.measured {
                    continue;
                }
                pairs += 1;
                let faster = (one.measured > other.measured) == is_rate(&one.metric);
                let predicted = (one.predicted > other.predicted) == is_rate(&one.metric);
                right += usize::from(faster == predicted && one.predicted != other.predicted);
            }
        }
        if pairs > 0 {
            let rank_correlation = 2.0 * right as f64 / pairs as f64 - 1.0;
            order.works.push(WorkOrder { work, n: rows.len(), pairs, right, rank_correlation });
            order.pairs += pairs;
            order.right += right;
        }
    }
    order
}

fn work(row: &ValidationRow) -> String {
    let number = |name: &str, value: Option<u64>| value.map(|v| format!(" {name} {v}")).unwrap_or_default();
    let devices = row.devices.map(|d| format!(" on {d}")).unwrap_or_default();
    format!(
        "{} {} {}{}{}{devices}{}",
        row.workload,
        row.mode,
        row.metric,
        number("batch", row.batch_size),
        number("length", row.seq_len),
        class(row.precision.as_deref()),
    )
}

/// Formats of products by their width; a figure without one is of its own class.
fn class(precision: Option<&str>) -> &'static str {
    match precision {
        Some("fp16" | "bf16" | "amp" | "cb16" | "fp16.16" | "fp16.32") => " in 16 bits",
        Some("fp32" | "tf32") => " in 32 bits",
        Some("int8" | "fp8") => " in 8 bits",
        _ => "",
    }
}
