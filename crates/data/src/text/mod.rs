//! Text as sequences of one length, to learn what comes next.

mod tokenizer;

pub use tokenizer::{Kmers, Tokenizer};

use crate::dataset::{Column, Dataset};
use orrery_base::diagnostic::Context;
use orrery_base::{Diagnostic, Result};
use orrery_numerics::Tensor;

/// Documents one after another, cut into sequences of `length` tokens without overlap: column `input_ids` and, one
/// token further on, `labels` (i64). What is left after the last whole sequence is dropped.
///
/// `place` says where document `i` is.
///
/// # Errors
/// `data-option` where the length is 0; `data-empty` where there is not one sequence; as [`Tokenizer::encode`].
pub fn pack<'a>(
    name: String,
    documents: impl IntoIterator<Item = &'a str>,
    place: impl Fn(usize) -> Option<String>,
    tokenizer: &Tokenizer,
    length: usize,
) -> Result<Dataset> {
    let (mut tokens, mut count) = (Vec::new(), 0);
    for (i, document) in documents.into_iter().enumerate() {
        let encoded = tokenizer.encode(document, &mut tokens);
        match place(i) {
            Some(place) => encoded.at(|| place)?,
            None => encoded?,
        }
        count += 1;
    }
    let what = if count == 1 { "1 document".into() } else { format!("{count} documents") };
    let mut about = vec![format!("{what}: {} tokens ({})", tokens.len(), tokenizer.describe())];
    let left = tokens.len().saturating_sub(1).checked_rem(length).unwrap_or(0);
    about.push(format!("in sequences of {length} tokens, {left} left over"));
    sequences(name, about, tokens, length, length)
}

/// Sequences of `length` tokens and their labels, each beginning `step` tokens after the one before.
///
/// # Errors
/// `data-option` where the length is 0; `data-empty` where there is not one.
pub(crate) fn sequences(
    name: String,
    about: Vec<String>,
    tokens: Vec<i64>,
    length: usize,
    step: usize,
) -> Result<Dataset> {
    if length == 0 {
        return Diagnostic::error("data-option", "sequences of no tokens teach nothing").err();
    }
    let Some(beyond_first) = tokens.len().checked_sub(length + 1) else {
        let cause =
            format!("{} tokens are not one sequence of {length} and the token after it", tokens.len());
        return Diagnostic::error("data-empty", cause).help("use shorter sequences or more text").err();
    };
    let samples = beyond_first / step + 1;
    let tokens = Tensor::from_vec(vec![tokens.len()], tokens);
    let columns = vec![
        Column::windows("input_ids", &tokens, 0, length, step, samples),
        Column::windows("labels", &tokens, 1, length, step, samples),
    ];
    Dataset::new(name, about, columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_the_next_tokens() {
        let data = pack("t".into(), ["abcd", "ef"], |_| None, &Tokenizer::Bytes, 3).unwrap();
        assert_eq!(
            data.about(),
            ["2 documents: 8 tokens (bytes, vocabulary 256)", "in sequences of 3 tokens, 1 left over"]
        );
        let batch = data.batch(&[0, 1]).unwrap();
        let values =
            |i: usize| batch[i].1.values::<i64>().unwrap().iter().map(|v| *v as u8).collect::<Vec<_>>();
        assert_eq!((batch[0].0.as_str(), values(0)), ("input_ids", b"abcd\0e".to_vec()));
        assert_eq!((batch[1].0.as_str(), values(1)), ("labels", b"bcd\0ef".to_vec()));
    }

    #[test]
    fn too_little_text_is_refused() {
        let pack = |length| pack("t".into(), ["ab"], |_| None, &Tokenizer::Bytes, length).unwrap_err().code;
        assert_eq!((pack(3), pack(0)), ("data-empty", "data-option"));
    }
}
