//! From text to numbers.

use orrery_base::{Diagnostic, Result};
use std::path::Path;

/// What cuts text into tokens.
pub enum Tokenizer {
    /// Every byte is a token: vocabulary 256. Documents end with byte 0.
    Bytes,
    /// Nucleotides, so many at a time without overlap: vocabulary 5 + 4^k. Documents end with `[SEP]`.
    Kmers(Kmers),
    /// A `tokenizer.json` of Hugging Face. Documents end with its end-of-text token where it has one.
    HuggingFace(Box<tokenizers::Tokenizer>),
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.describe())
    }
}

/// Tokens of `length` nucleotides: 1 for nucleotides, 3 for codons. The first five numbers are [`Kmers::SPECIAL`],
/// then come the words over A, C, G, T in the order of the alphabet: for codons 69 tokens, as many as GenSLM has
/// (the numbers are not those of its own vocabulary file).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kmers {
    length: u32,
}

impl Kmers {
    /// One nucleotide a token.
    pub const NUCLEOTIDES: Self = Self { length: 1 };
    /// Three nucleotides a token.
    pub const CODONS: Self = Self { length: 3 };
    /// The tokens that are no nucleotides. `[UNK]` stands for words with a letter that leaves the nucleotide open.
    pub const SPECIAL: [&'static str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    const UNKNOWN: i64 = 1;
    const END: i64 = 3;

    /// The number of a word of nucleotides, each given as its place in `ACGT`.
    pub(crate) fn number(nucleotides: &[u8]) -> i64 {
        let word = nucleotides.iter().fold(0, |number, letter| number * 4 + i64::from(*letter));
        Self::SPECIAL.len() as i64 + word
    }
    fn vocabulary(self) -> usize {
        Self::SPECIAL.len() + 4_usize.pow(self.length)
    }
    /// FASTA, or nucleotides alone: lines that begin with `>` or `;` name a sequence and end the one before. What is
    /// left of a sequence after its last whole word is dropped.
    fn encode(self, text: &str, tokens: &mut Vec<i64>) -> Result<()> {
        let (mut word, mut open) = (Vec::new(), false);
        for (number, line) in (1..).zip(text.lines()) {
            if line.starts_with(['>', ';']) {
                if std::mem::take(&mut open) {
                    tokens.push(Self::END);
                }
                word.clear();
                continue;
            }
            for (column, letter) in line.chars().enumerate().filter(|(_, letter)| !letter.is_whitespace()) {
                word.push(match letter.to_ascii_uppercase() {
                    'A' => 0,
                    'C' => 1,
                    'G' => 2,
                    'T' | 'U' => 3,
                    'R' | 'Y' | 'S' | 'W' | 'K' | 'M' | 'B' | 'D' | 'H' | 'V' | 'N' | '-' | '.' => OPEN,
                    _ => {
                        return Diagnostic::error("data-sequence", format!("{letter:?} is no nucleotide"))
                            .at(format!("line {number}, column {}", column + 1))
                            .help("sequences are of A, C, G, T (or U) and the letters that leave one open, as N")
                            .err();
                    }
                });
                if word.len() == self.length as usize {
                    let unknown = word.contains(&OPEN);
                    tokens.push(if unknown { Self::UNKNOWN } else { Self::number(&word) });
                    word.clear();
                    open = true;
                }
            }
        }
        if open {
            tokens.push(Self::END);
        }
        Ok(())
    }
}

/// A nucleotide that is not known.
const OPEN: u8 = 4;

/// Names that a token for the end of a text has in well-known vocabularies.
const ENDS: [&str; 6] = ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]"];

impl Tokenizer {
    /// `bytes`, `nucleotides`, `codons`, or the path of a `tokenizer.json`.
    ///
    /// # Errors
    /// `data-tokenizer` where it is none of these.
    pub fn open(name: &str) -> Result<Self> {
        match name {
            "bytes" => Ok(Self::Bytes),
            "nucleotides" => Ok(Self::Kmers(Kmers::NUCLEOTIDES)),
            "codons" => Ok(Self::Kmers(Kmers::CODONS)),
            path => Self::from_file(Path::new(path)),
        }
    }
    fn from_file(path: &Path) -> Result<Self> {
        let failed = |cause: String| {
            Box::new(
                Diagnostic::error("data-tokenizer", cause)
                    .at(path.display().to_string())
                    .help("a tokenizer is bytes, nucleotides, codons, or the path of a tokenizer.json"),
            )
        };
        let bytes =
            std::fs::read(path).map_err(|error| failed(format!("there is no such tokenizer: {error}")))?;
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|error| failed(format!("it is no tokenizer.json: {error}")))?;
        // Texts are packed without padding and cut by us.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| failed(error.to_string()))?;
        Ok(Self::HuggingFace(Box::new(tokenizer)))
    }
    /// Number of different tokens.
    pub fn vocabulary(&self) -> usize {
        match self {
            Self::Bytes => 256,
            Self::Kmers(kmers) => kmers.vocabulary(),
            Self::HuggingFace(tokenizer) => tokenizer.get_vocab_size(true),
        }
    }
    /// What it is, in a few words.
    pub fn describe(&self) -> String {
        let what = match self {
            Self::Bytes => "bytes",
            Self::Kmers(Kmers { length: 1 }) => "nucleotides",
            Self::Kmers(_) => "codons",
            Self::HuggingFace(_) => "tokenizer.json",
        };
        format!("{what}, vocabulary {}", self.vocabulary())
    }
    /// Appends the tokens of one document and what ends it.
    ///
    /// # Errors
    /// `data-sequence` for letters that are no nucleotides; `data-tokenizer` where a tokenizer.json fails.
    pub fn encode(&self, document: &str, tokens: &mut Vec<i64>) -> Result<()> {
        match self {
            Self::Bytes => {
                tokens.extend(document.bytes().map(i64::from));
                tokens.push(0);
            }
            Self::Kmers(kmers) => kmers.encode(document, tokens)?,
            Self::HuggingFace(tokenizer) => {
                let encoded = tokenizer.encode_fast(document, false).map_err(|error| {
                    Box::new(Diagnostic::error(
                        "data-tokenizer",
                        format!("the text cannot be encoded: {error}"),
                    ))
                })?;
                tokens.extend(encoded.get_ids().iter().map(|id| i64::from(*id)));
                tokens.extend(ENDS.iter().find_map(|end| tokenizer.token_to_id(end)).map(i64::from));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Scratch;

    fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<i64> {
        let mut tokens = Vec::new();
        tokenizer.encode(text, &mut tokens).unwrap();
        tokens
    }

    #[test]
    fn codons_are_sixty_nine() {
        let codons = Tokenizer::open("codons").unwrap();
        assert_eq!(codons.vocabulary(), 69);
        // AAA is the first, TTT the last; a rest of two letters is dropped; N leaves a codon open.
        assert_eq!(encode(&codons, ">one\nAAATT\nUGG\n>two\nANAaac"), [5, 68, 3, 1, 6, 3]);
        let nucleotides = Tokenizer::open("nucleotides").unwrap();
        assert_eq!((nucleotides.vocabulary(), encode(&nucleotides, "ACGT")), (9, vec![5, 6, 7, 8, 3]));
        let failed = codons.encode(">x\nAC1", &mut Vec::new()).unwrap_err();
        assert_eq!((failed.code, failed.place[0].as_str()), ("data-sequence", "line 2, column 3"));
    }

    #[test]
    fn a_tokenizer_json_is_read() {
        let scratch = Scratch::new("tokenizer");
        let json = r#"{"version": "1.0", "added_tokens": [{"id": 0, "content": "</s>", "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
            "pre_tokenizer": {"type": "Whitespace"}, "padding": null, "truncation": null, "normalizer": null,
            "post_processor": null, "decoder": null,
            "model": {"type": "BPE", "vocab": {"</s>": 0, "a": 1, "b": 2, "ab": 3}, "merges": ["a b"]}}"#;
        let path = scratch.file("tokenizer.json", json.as_bytes());
        let tokenizer = Tokenizer::open(path.to_str().unwrap()).unwrap();
        assert_eq!(tokenizer.vocabulary(), 4);
        assert_eq!(encode(&tokenizer, "ab ba"), [3, 2, 1, 0]);
        let bad = scratch.file("bad.json", b"{}");
        assert_eq!(Tokenizer::open(bad.to_str().unwrap()).unwrap_err().code, "data-tokenizer");
        assert_eq!(Tokenizer::open("words").unwrap_err().code, "data-tokenizer");
    }
}
