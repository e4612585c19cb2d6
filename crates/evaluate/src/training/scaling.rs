//! Loss scaling: keeping small gradients in the range of narrow types.

use orrery_base::{Diagnostic, Result};

/// How the gradient of the loss starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LossScaling {
    /// At one.
    None,
    /// At a factor that stays.
    Static(f64),
    /// At a factor that is halved when gradients overflow, in which case the step is left out, and doubled after so many
    /// steps without.
    Dynamic,
}

/// As `torch.amp.GradScaler` starts and goes on.
const FIRST: f64 = 65_536.0;
const STEPS_TO_GROW: u64 = 2_000;
const SMALLEST: f64 = 1.0;

/// The factor during a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    pub(super) factor: f64,
    /// Steps since it last changed.
    pub(super) steady: u64,
    pub(super) scaling: LossScaling,
}

impl LossScaling {
    /// Reads `none`, `dynamic` or a number.
    ///
    /// # Errors
    /// `train-loss-scale` for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "none" => Ok(Self::None),
            "dynamic" => Ok(Self::Dynamic),
            _ => match text.parse::<f64>() {
                Ok(factor) if factor.is_finite() && factor > 0.0 => Ok(Self::Static(factor)),
                _ => Diagnostic::error("train-loss-scale", format!("`{text}` is no loss scale"))
                    .help("write none, dynamic, or a number above zero")
                    .err(),
            },
        }
    }
    /// Whether the step has an input for it.
    pub fn is_on(self) -> bool {
        self != Self::None
    }
    pub(super) fn start(self) -> Scale {
        let factor = match self {
            Self::None => 1.0,
            Self::Static(factor) => factor,
            Self::Dynamic => FIRST,
        };
        Scale { factor, steady: 0, scaling: self }
    }
}

impl Scale {
    /// After a step. False where gradients overflow however small the factor is.
    pub(super) fn after(&mut self, applied: bool) -> bool {
        if self.scaling != LossScaling::Dynamic {
            return applied;
        }
        if applied {
            self.steady += 1;
            if self.steady >= STEPS_TO_GROW {
                *self = Self { factor: self.factor * 2.0, steady: 0, ..*self };
            }
            return true;
        }
        let can = self.factor > SMALLEST;
        *self = Self { factor: (self.factor / 2.0).max(SMALLEST), steady: 0, ..*self };
        can
    }
}
