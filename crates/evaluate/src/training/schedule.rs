//! Learning rates over the steps of a run.

use orrery_base::{Diagnostic, Result};

/// The factor of the learning rate at each step: pieces one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    pieces: Vec<Piece>,
}

/// A way from one factor to another.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Piece {
    form: Form,
    from: f64,
    to: f64,
    /// Steps that it takes; none for all that are left.
    steps: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Linear,
    Cosine,
}

impl Schedule {
    /// How schedules are written.
    pub const FORMS: &'static str = "constant, linear or cosine; with from, to and steps, as in linear:0:1:500; several \
                                     with commas between them, as in linear:0:1:500,cosine:1:0.1";

    /// The learning rate as it is.
    pub fn constant() -> Self {
        Self { pieces: vec![Piece { form: Form::Linear, from: 1.0, to: 1.0, steps: None }] }
    }
    /// Reads a schedule: pieces `form[:from:to[:steps]]` with commas between them. `linear` and `cosine` alone go from 1
    /// to 0 over all steps that are left; `constant[:factor[:steps]]` stays.
    ///
    /// # Errors
    /// `train-schedule` where a piece cannot be read.
    pub fn parse(text: &str) -> Result<Self> {
        let pieces = text.split(',').map(|piece| parse_piece(piece.trim())).collect::<Result<Vec<_>>>()?;
        if let Some(early) = pieces.iter().rev().skip(1).find(|piece| piece.steps.is_none()) {
            let cause =
                format!("a piece from {} to {} before the last one must say its steps", early.from, early.to);
            return Diagnostic::error("train-schedule", cause).help(format!("write {}", Self::FORMS)).err();
        }
        Ok(Self { pieces })
    }
    /// Begins with so many steps from zero.
    #[must_use]
    pub fn with_warmup(mut self, steps: u64) -> Self {
        if steps > 0 {
            let first = self.pieces.first().map_or(1.0, |piece| piece.from);
            self.pieces.insert(0, Piece { form: Form::Linear, from: 0.0, to: first, steps: Some(steps) });
        }
        self
    }
    /// What there is to say where a run of `total` ends before the pieces do whose steps are said.
    pub(super) fn beyond(&self, total: u64) -> Option<Diagnostic> {
        let steps = self.pieces.iter().filter_map(|piece| piece.steps).fold(0_u64, u64::saturating_add);
        let cause =
            format!("warm-up and pieces of the schedule take {steps} steps, and the run ends after {total}");
        (steps > total).then(|| {
            Diagnostic::warning("train-schedule", cause).help(
                "the learning rate does not get to where it is to go: a longer run, or a shorter warm-up",
            )
        })
    }
    /// The factor at a step, 1 for the first, of a run of `total`. After the last piece its end holds.
    pub fn factor(&self, step: u64, total: u64) -> f64 {
        let mut begin = 0;
        let mut last = 1.0;
        for piece in &self.pieces {
            let steps = piece.steps.unwrap_or_else(|| total.saturating_sub(begin).max(1));
            if step <= begin + steps {
                // The first step has moved one step's way already, so that a warm-up does not begin with nothing; a way
                // down starts where it is.
                let gone = step.saturating_sub(begin + u64::from(piece.to < piece.from));
                return piece.at(gone as f64 / steps as f64);
            }
            begin += steps;
            last = piece.to;
        }
        last
    }
}

impl Piece {
    fn at(&self, share: f64) -> f64 {
        let share = match self.form {
            Form::Linear => share,
            Form::Cosine => 0.5 - 0.5 * libm::cos(std::f64::consts::PI * share),
        };
        self.from + (self.to - self.from) * share
    }
}

fn parse_piece(text: &str) -> Result<Piece> {
    let wrong = || {
        Box::new(
            Diagnostic::error("train-schedule", format!("`{text}` is no schedule"))
                .help(format!("write {}", Schedule::FORMS)),
        )
    };
    let mut words = text.split(':');
    let form = words.next().unwrap_or_default();
    let numbers = words.map(|word| word.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0));
    let numbers: Vec<f64> = numbers.collect::<Option<_>>().ok_or_else(wrong)?;
    let steps = |n: f64| if n >= 1.0 && n.fract() == 0.0 { Ok(Some(n as u64)) } else { Err(wrong()) };
    let (form, from, to, steps) = match (form, &numbers[..]) {
        ("constant", []) => (Form::Linear, 1.0, 1.0, None),
        ("constant", [factor]) => (Form::Linear, *factor, *factor, None),
        ("constant", [factor, n]) => (Form::Linear, *factor, *factor, steps(*n)?),
        ("linear", []) => (Form::Linear, 1.0, 0.0, None),
        ("cosine", []) => (Form::Cosine, 1.0, 0.0, None),
        ("linear", [from, to]) => (Form::Linear, *from, *to, None),
        ("cosine", [from, to]) => (Form::Cosine, *from, *to, None),
        ("linear", [from, to, n]) => (Form::Linear, *from, *to, steps(*n)?),
        ("cosine", [from, to, n]) => (Form::Cosine, *from, *to, steps(*n)?),
        _ => return Err(wrong()),
    };
    Ok(Piece { form, from, to, steps })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(text: &str, total: u64) -> Vec<f64> {
        let schedule = Schedule::parse(text).expect("a schedule");
        (1..=total).map(|step| (schedule.factor(step, total) * 1e4).round() / 1e4).collect()
    }

    #[test]
    fn pieces_follow_one_another() {
        assert_eq!(factors("constant", 3), [1.0, 1.0, 1.0]);
        assert_eq!(factors("linear", 4), [1.0, 0.75, 0.5, 0.25]);
        assert_eq!(factors("linear:0:1:2,constant", 4), [0.5, 1.0, 1.0, 1.0]);
        assert_eq!(factors("linear:0:1:2,cosine:1:0.2:2,constant:0.2", 5), [0.5, 1.0, 1.0, 0.6, 0.2]);
        let warmed = Schedule::constant().with_warmup(2);
        assert_eq!(warmed.factor(1, 9), 0.5);
        assert!(
            warmed.beyond(2).is_none() && warmed.beyond(1).is_some_and(|note| note.code == "train-schedule")
        );
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for text in ["", "step", "linear:1", "linear:a:b", "linear:0:1:0.5", "linear:0:1,constant"] {
            assert_eq!(Schedule::parse(text).expect_err(text).code, "train-schedule");
        }
    }
}
