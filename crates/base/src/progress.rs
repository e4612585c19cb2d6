//! Progress and cancellation of long calls.

use std::sync::atomic::{AtomicBool, Ordering};

/// What a long call reports to, and asks whether to go on. The default reports to nobody.
#[derive(Default)]
pub struct Progress {
    report: Option<Box<dyn Fn(&str, u64, u64) + Send + Sync>>,
    cancelled: AtomicBool,
}

impl Progress {
    /// Calls `report(what, done, total)` as the work goes on; `total` is 0 where it is not known.
    pub fn new(report: impl Fn(&str, u64, u64) + Send + Sync + 'static) -> Self {
        Self { report: Some(Box::new(report)), cancelled: AtomicBool::new(false) }
    }
    /// Reports, and returns whether to go on.
    pub fn step(&self, what: &str, done: u64, total: u64) -> bool {
        if let Some(report) = &self.report {
            report(what, done, total);
        }
        !self.cancelled.load(Ordering::Relaxed)
    }
    /// Asks the call to stop at its next step.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}
