//! What a trained model is worth on data it has not seen.
//!
//! Computed in binary64 from the model's scores over all samples, each counted once.

use orrery_base::{Diagnostic, Result};
use orrery_numerics::Tensor;
use orrery_transform::training::{IGNORED_LABEL, Loss};
use serde::Serialize;

/// A figure over all samples.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metric {
    /// Name: `loss`, `accuracy`, `rmse`.
    pub name: &'static str,
    /// Value.
    pub value: f64,
}

/// Sums over samples.
#[derive(Clone, Debug)]
pub(super) struct Totals {
    loss: Loss,
    samples: u64,
    /// What means are taken over: labels that count, or elements.
    counted: f64,
    sums: [f64; 2],
}

impl Totals {
    pub(super) const fn new(loss: Loss) -> Self {
        Self { loss, samples: 0, counted: 0.0, sums: [0.0; 2] }
    }
    /// Adds the first `valid` samples of a batch.
    pub(super) fn add(&mut self, scores: &Tensor, labels: Option<&Tensor>, valid: usize) -> Result<()> {
        let wrong = |error: String| Box::new(Diagnostic::error("evaluation", error));
        let values = scores.to_f64().map_err(|e| wrong(e.to_string()))?;
        let batch = scores.shape().first().copied().unwrap_or(1).max(1);
        let each = values.len() / batch;
        let values = &values[..each * valid.min(batch)];
        self.samples += valid as u64;
        let Some(labels) = labels else {
            self.sums[0] += values.iter().sum::<f64>();
            self.counted += values.len() as f64;
            return Ok(());
        };
        if self.loss == Loss::CrossEntropy {
            let labels = labels.to_i64().map_err(|e| wrong(e.to_string()))?;
            self.classes(values, scores.shape(), &labels, valid);
            return Ok(());
        }
        let labels = labels.to_f64().map_err(|e| wrong(e.to_string()))?;
        let pairs = values.iter().zip(labels.iter());
        match self.loss {
            Loss::Dice => {
                for (sample, truth) in values.chunks(each.max(1)).zip(labels.chunks(each.max(1))) {
                    let p = sample.iter().map(|x| 1.0 / (1.0 + libm::exp(-x)));
                    let (both, sum) = p.zip(truth).fold((0.0, 0.0), |(b, s), (p, t)| (b + p * t, s + p + t));
                    self.sums[0] += 1.0 - (2.0 * both + 1.0) / (sum + 1.0);
                    self.counted += 1.0;
                }
            }
            Loss::Bce => {
                for (x, t) in pairs {
                    self.sums[0] += x.max(0.0) + libm::log1p(libm::exp(-x.abs())) - t * x;
                    self.sums[1] += f64::from(u8::from((*x > 0.0) == (*t > 0.5)));
                    self.counted += 1.0;
                }
            }
            _ => {
                for (x, t) in pairs {
                    self.sums[0] += (x - t).abs();
                    self.sums[1] += (x - t) * (x - t);
                    self.counted += 1.0;
                }
            }
        }
        Ok(())
    }
    fn classes(&mut self, values: &[f64], shape: &[usize], labels: &[i64], valid: usize) {
        let last = shape.len() <= 3;
        let classes = if last { shape[shape.len() - 1] } else { shape[1] };
        let places = labels.len() / shape[0].max(1);
        for sample in 0..valid {
            for place in 0..places {
                let label = labels[sample * places + place];
                let Some(label) =
                    usize::try_from(label).ok().filter(|l| *l < classes && label != IGNORED_LABEL)
                else {
                    continue;
                };
                let score = |c: usize| {
                    if last {
                        values[(sample * places + place) * classes + c]
                    } else {
                        values[(sample * classes + c) * places + place]
                    }
                };
                let top = (0..classes).map(score).fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = (0..classes).map(|c| libm::exp(score(c) - top)).sum();
                self.sums[0] += top + libm::log(sum) - score(label);
                let best = (0..classes).find(|c| score(*c) == top);
                self.sums[1] += f64::from(u8::from(best == Some(label)));
                self.counted += 1.0;
            }
        }
    }
    /// The figures; the first is the loss.
    pub(super) fn metrics(&self) -> Vec<Metric> {
        let mean = |i: usize| self.sums[i] / self.counted.max(1.0);
        let metric = |name, value| Metric { name, value };
        match self.loss {
            Loss::CrossEntropy | Loss::Bce => vec![metric("loss", mean(0)), metric("accuracy", mean(1))],
            Loss::Mse => {
                vec![metric("loss", mean(1)), metric("mae", mean(0)), metric("rmse", libm::sqrt(mean(1)))]
            }
            Loss::Mae => {
                vec![metric("loss", mean(0)), metric("mae", mean(0)), metric("rmse", libm::sqrt(mean(1)))]
            }
            Loss::Dice => vec![metric("loss", mean(0)), metric("dice", 1.0 - mean(0))],
            Loss::Output => vec![metric("loss", mean(0))],
        }
    }
}
