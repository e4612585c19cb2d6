//! The same model on several machines and at several batches.

use crate::model::{Bound, Model};
use crate::outcome::{blank, predicted, refusal, simulated};
use crate::setup::Setup;
use crate::work::Work;
use orrery_base::{Diagnostic, Progress, Result};
use orrery_ir::{Bindings, Graph};
use orrery_record::{Outcome, Record};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Simulates a run, or a training step, on every machine at every batch (the model's own where the list is empty), in the order batch by batch,
/// machine by machine. Each cell is a Record with figures or with the reason why it cannot run.
///
/// # Errors
/// Where the model cannot be used at any of the batches, whatever the machine; `cancelled`.
pub fn compare(
    model: &Model,
    work: &Work,
    setups: &[Setup],
    batches: &[u64],
    threads: usize,
    progress: &Progress,
) -> Result<Vec<Record>> {
    let batches: Vec<Option<u64>> =
        if batches.is_empty() { vec![None] } else { batches.iter().copied().map(Some).collect() };
    let bound: Vec<Result<Bound>> = batches.iter().map(|batch| model.at_batch(*batch)).collect();
    if let (Some(Err(first)), true) = (bound.first(), bound.iter().all(Result::is_err)) {
        return Err(first.clone());
    }
    let cells: Vec<(usize, &Setup)> =
        (0..bound.len()).flat_map(|at| setups.iter().map(move |setup| (at, setup))).collect();
    let run = |(at, setup): (usize, &Setup)| match &bound[at] {
        Ok(bound) => simulated(bound, setup, work),
        Err(diagnostic) => refused(model, batches[at], setup, work, diagnostic),
    };
    in_parallel(&cells, threads, progress, &|cell| run(*cell))
}

fn refused(model: &Model, batch: Option<u64>, setup: &Setup, work: &Work, diagnostic: &Diagnostic) -> Record {
    let empty = Bound {
        name: model.name.clone(),
        batch,
        graph: Graph::default(),
        dims: Bindings::new(),
        parameters: Vec::new(),
    };
    let mut record = blank(&empty, setup, predicted(setup, work), work);
    record.identity.model_digest = None;
    record.identity.parameters = model.parameters();
    record.outcome = Outcome::Refused(refusal(diagnostic));
    record
}

/// Does the work of each item on some threads; the results are in the order of the items.
///
/// # Errors
/// `cancelled` where the progress says so.
pub(crate) fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    progress: &Progress,
    work: &(dyn Fn(&T) -> R + Sync),
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return done };
            if !progress.step("simulate", at as u64, items.len() as u64) {
                return done;
            }
            done.push((at, work(item)));
        }
    };
    let mut results: Vec<(usize, R)> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.clamp(1, items.len().max(1))).map(|_| scope.spawn(worker)).collect();
        let mut results = worker();
        for other in others {
            match other.join() {
                Ok(done) => results.extend(done),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        results
    });
    if results.len() < items.len() {
        return Diagnostic::error("cancelled", "stopped before all was simulated").err();
    }
    results.sort_by_key(|(at, _)| *at);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}
