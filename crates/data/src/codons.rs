//! Made-up genes for models of the kind of GenSLM: codons that follow one another by a Markov chain, so that there is
//! something to learn, and it is known how much.

use crate::dataset::Dataset;
use crate::draws::Draws;
use crate::text::{self, Kmers};
use orrery_base::{Diagnostic, Result};
use orrery_numerics::random_word;
use std::fmt;

/// How genes are drawn: each sample is a start codon and the codons after it, none of them a stop codon. After each
/// codon the others are ranked by an order of its own, and the next one has rank `r` with a probability in proportion to
/// `decay^r`.
///
/// Columns are those of [`text::pack`], the tokens those of [`Kmers::CODONS`]. A model that has learned the chain has a
/// loss of [`Codons::entropy`] on average, and none has less.
#[derive(Clone, Debug, PartialEq)]
pub struct Codons {
    /// Number of genes.
    pub samples: usize,
    /// Codons a model sees of each.
    pub sequence: usize,
    /// Seed of the chain and of all draws.
    pub seed: u64,
    /// How much less likely each rank is than the one before: above 0, at most 1 (where nothing can be learned).
    pub decay: f64,
}

impl Default for Codons {
    fn default() -> Self {
        Self { samples: 1000, sequence: 256, seed: 0, decay: 0.5 }
    }
}

impl fmt::Display for Codons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, sequence, seed, decay } = self;
        write!(
            f,
            "{samples} made-up genes of {sequence} codons, seed {seed}: a Markov chain with decay {decay}, whose \
             entropy, the least loss, is {:.4} nats a codon",
            self.entropy()
        )
    }
}

/// Codons that stop a gene, as places in `ACGT`: TAA, TAG, TGA.
const STOPS: [[u8; 3]; 3] = [[3, 0, 0], [3, 0, 2], [3, 2, 0]];
/// Codon that begins one: ATG.
const START: [u8; 3] = [0, 3, 2];
const LARGEST: usize = 1 << 33;

impl Codons {
    /// Draws all genes.
    ///
    /// # Errors
    /// `data-option` where a parameter is out of its range; `data-too-large` where no memory holds so many.
    pub fn dataset(&self) -> Result<Dataset> {
        if !(self.decay > 0.0 && self.decay <= 1.0) {
            let cause = "the decay is above 0 and at most 1";
            return Diagnostic::error("data-option", cause).at("codons").err();
        }
        // Each gene has one codon more, the label of its last one.
        let length = self.sequence.checked_add(1).and_then(|length| length.checked_mul(self.samples));
        let Some(length) = length.filter(|length| *length <= LARGEST) else {
            let cause = format!("{} genes of {} codons cannot be held", self.samples, self.sequence);
            return Diagnostic::error("data-too-large", cause).at("codons").err();
        };
        let words = sense_codons();
        let orders: Vec<Vec<usize>> = (0..words.len()).map(|after| self.order(after, words.len())).collect();
        let mut below = 0.0;
        let ends: Vec<f64> = self
            .probabilities()
            .map(|probability| {
                below += probability;
                below
            })
            .collect();
        let start = words.iter().position(|word| *word == START).expect("a sense codon");
        let mut tokens = Vec::with_capacity(length);
        for sample in 0..self.samples {
            let mut draws = Draws::new(random_word(self.seed, 1, 0), sample as u64);
            let mut codon = start;
            for _ in 0..=self.sequence {
                tokens.push(Kmers::number(&words[codon]));
                let unit = draws.unit();
                let rank = ends.partition_point(|end| *end <= unit).min(words.len() - 1);
                codon = orders[codon][rank];
            }
        }
        text::sequences("codons".into(), vec![self.to_string()], tokens, self.sequence, self.sequence + 1)
    }
    /// The codons by their rank after one of them.
    fn order(&self, after: usize, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        let seed = random_word(self.seed, 0, 0);
        order.sort_by_key(|next| random_word(seed, (after * count + next) as u64, 0));
        order
    }
    /// Probabilities of the ranks.
    fn probabilities(&self) -> impl Iterator<Item = f64> {
        let weights = || std::iter::successors(Some(1.0), |weight| Some(weight * self.decay)).take(61);
        let total: f64 = weights().sum();
        weights().map(move |weight| weight / total)
    }
    /// Entropy of a codon after the one before it, in nats.
    pub fn entropy(&self) -> f64 {
        self.probabilities().map(|p| -p * libm::log(p.max(f64::MIN_POSITIVE))).sum()
    }
}

/// The 61 codons that do not stop a gene.
fn sense_codons() -> Vec<[u8; 3]> {
    let all = (0..64_u8).map(|number| [number / 16, number / 4 % 4, number % 4]);
    all.filter(|word| !STOPS.contains(word)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// What was drawn has the entropy that is told, within what 200,000 codons can show (their plug-in entropy is too
    /// low by about states / (2 n), here 0.01).
    #[test]
    fn the_chain_has_the_entropy_that_is_told() {
        let genes = Codons { samples: 2000, sequence: 100, seed: 3, decay: 0.5 };
        let data = genes.dataset().unwrap();
        assert_eq!(data.len(), 2000);
        let batch = data.batch(&(0..2000).collect::<Vec<_>>()).unwrap();
        let values = |i: usize| batch[i].1.values::<i64>().unwrap().into_owned();
        let (inputs, labels) = (values(0), values(1));
        let start = Kmers::number(&START);
        assert!(inputs.chunks(100).all(|gene| gene[0] == start));
        assert!(inputs.chunks(100).zip(labels.chunks(100)).all(|(gene, next)| gene[1..] == next[..99]));
        let (mut pairs, mut states) = (BTreeMap::new(), BTreeMap::new());
        for (input, label) in inputs.iter().zip(&labels) {
            *pairs.entry((input, label)).or_insert(0.0_f64) += 1.0;
            *states.entry(input).or_insert(0.0_f64) += 1.0;
        }
        let n = inputs.len() as f64;
        let entropy: f64 =
            pairs.iter().map(|((input, _), count)| -count / n * (count / states[input]).ln()).sum();
        assert!((entropy - genes.entropy()).abs() < 0.02, "{entropy} and {}", genes.entropy());
        assert!(STOPS.iter().all(|stop| !inputs.contains(&Kmers::number(stop))));
    }

    #[test]
    fn genes_are_of_their_seed_and_bad_parameters_refused() {
        let first = |seed| {
            let genes = Codons { samples: 2, sequence: 20, seed, ..Codons::default() };
            genes.dataset().unwrap().batch(&[1]).unwrap()[0].1.clone()
        };
        assert_eq!(first(1).bytes(), first(1).bytes());
        assert_ne!(first(1).bytes(), first(2).bytes());
        let code = |genes: Codons| genes.dataset().unwrap_err().code;
        assert_eq!(code(Codons { decay: 0.0, ..Codons::default() }), "data-option");
        assert_eq!(code(Codons { sequence: usize::MAX, ..Codons::default() }), "data-too-large");
        assert_eq!(code(Codons { samples: 0, ..Codons::default() }), "data-empty");
        let uniform = Codons { decay: 1.0, ..Codons::default() };
        assert!((uniform.entropy() - 61_f64.ln()).abs() < 1e-9);
    }
}
