//! What the passes did.

use orrery_base::Diagnostic;
use std::fmt;

/// What was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Layer normalization from its small ops.
    LayerNormalization,
    /// RMS normalization from its small ops.
    RmsNormalization,
    /// GELU, by the error function or by the hyperbolic tangent.
    Gelu,
    /// x sigmoid(x), also known as SiLU.
    Swish,
    /// x tanh(softplus(x)).
    Mish,
    /// x clip(x + 3, 0, 6) / 6.
    HardSwish,
    /// clip(x + 3, 0, 6) / 6.
    HardSigmoid,
    /// Softmax from exponentials and sums.
    Softmax,
    /// Attention from products and a softmax.
    Attention,
    /// A mask of an attention that says no more than causality.
    CausalMask,
    /// Keys and values appended to those of earlier tokens, taken into the attention.
    KeyValueCache,
    /// A batch normalization, or a factor or summand per channel, taken into the weights before it.
    ChannelAffine,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LayerNormalization => "layer normalization",
            Self::RmsNormalization => "RMS normalization",
            Self::Gelu => "GELU",
            Self::Swish => "swish",
            Self::Mish => "mish",
            Self::HardSwish => "hard swish",
            Self::HardSigmoid => "hard sigmoid",
            Self::Softmax => "softmax",
            Self::Attention => "attention",
            Self::CausalMask => "causal mask",
            Self::KeyValueCache => "key-value cache",
            Self::ChannelAffine => "affine per channel",
        })
    }
}

/// Whether a replacement means the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exactness {
    /// The same in real arithmetic for every input; only roundings differ.
    Exact,
    /// Differs for some inputs, or rounds much differently; with the reason.
    Approximated(&'static str),
}

/// One replacement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// What was recognised.
    pub kind: Kind,
    /// The node it stands in the place of, in the user's terms.
    pub place: String,
    /// How many nodes became how many.
    pub nodes: (usize, usize),
    /// Whether it means the same.
    pub exactness: Exactness,
}

/// What [`crate::prepare`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Nodes before.
    pub nodes_before: usize,
    /// Nodes after.
    pub nodes_after: usize,
    /// Every replacement, in the order in which they were made.
    pub replacements: Vec<Replacement>,
    /// What the user should know.
    pub notes: Vec<Diagnostic>,
}

impl Report {
    /// One note for each reason why replacements do not mean the same.
    pub(crate) fn note_approximations(&mut self) {
        let mut reasons: Vec<(&'static str, &Replacement, usize)> = Vec::new();
        for replacement in &self.replacements {
            let Exactness::Approximated(why) = replacement.exactness else { continue };
            match reasons.iter_mut().find(|(reason, ..)| *reason == why) {
                Some((_, _, count)) => *count += 1,
                None => reasons.push((why, replacement, 1)),
            }
        }
        let notes = reasons.into_iter().map(|(why, first, count)| {
            let more = if count > 1 { format!(", and {} more", count - 1) } else { String::new() };
            Diagnostic::note("transform-approximated", format!("{} recognised{more}: {why}", first.kind))
                .at(first.place.clone())
        });
        self.notes.extend(notes.collect::<Vec<_>>());
    }
    /// How often something was recognised.
    pub fn count(&self, kind: Kind) -> usize {
        self.replacements.iter().filter(|r| r.kind == kind).count()
    }
}
