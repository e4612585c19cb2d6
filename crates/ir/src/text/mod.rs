//! The text form of graphs: printer and parser.
//!
//! A printed graph parses back to the same graph, and a parsed one prints as the same text. `docs/text-forms.md` shows
//! the form by examples; this is its grammar. Words are separated by white space or not at all where nothing is
//! ambiguous, `#` starts a comment that ends with the line.
//!
//! ```text
//! graph      = "graph" string "{" statement* "}"
//! statement  = "meta" string "=" string
//!            | "input" value ":" type
//!            | "constant" value ":" type "=" weight
//!            | results "=" op "(" [operand {"," operand}] ")" [attributes] ["@" string] graph*
//!            | "output" value ["as" string] ["becomes" value "=" weight]
//! results    = "(" ")" | result {"," result}          result  = "_" | value ":" type
//! operand    = "_" | value                            value   = "%" name
//! attributes = "{" [name "=" attribute {"," name "=" attribute}] "}"
//! attribute  = integer | float | string | type | list of integers, of floats or of strings
//!            | "floats" "[" "]" | "strings" "[" "]"   (an empty "[ ]" is a list of integers)
//! weight     = "absent" | "digest" "(" integer ")" | [type] element | [type] "[" [element {"," element}] "]"
//!            | "seeded" "(" "seed" "=" integer "," "mean" "=" float "," "deviation" "=" float ")"
//! element    = integer | float | "true" | "false" | string | "(" float "," float ")" | bits
//! float      = ["-"] number | ["-"] "inf" | "nan" | bits     bits = "bits" "(" integer ")"
//! type       = element type | element type "[" [dim {"," dim}] "]" | element type "[" ".." "]"
//!            | "sequence" "<" type ">" | "optional" "<" type ">" | "unknown"
//! dim        = ["-"] term {("+" | "-") term}          term    = factor {"*" factor}
//! factor     = integer | name | ("floordiv" | "max" | "min") "(" dim "," dim ")"
//! name       = letters, digits, "_", "." and "/", not starting with a digit, without ".."; or a string
//! ```
//!
//! - Values may be named before they stand: that a graph is in order is for [`crate::verify`] to say.
//! - An element type alone, as attribute, is an element type; every other type has brackets.
//! - The elements of a constant stand in row-major order. Floats print as the shortest decimal that reads back to the
//!   same bits; what no decimal reads back to (the payload of a NaN) prints as `bits(…)`, the element as stored.
//! - A constant of more than [`INLINE_ELEMENTS`] elements prints as a digest of its elements and parses back as
//!   [`crate::Weight::Digest`], without them.
//! - A constant's elements are preceded by their own type where that is not the constant's, which no valid graph has.
//! - What an output `becomes` is an input that stands before it: the input of the next run, with the value of the first.
//! - Inputs, outputs and nodes keep their order. Values are numbered in the order in which they stand in the text,
//!   which keeps the numbers of every graph that was built from front to back.

mod elements;
pub mod lex;
mod parse;
pub mod parts;
mod print;

pub use elements::digest;
pub use parse::{attributes, graph, parse, weight};
pub use print::{attributes_text, print, weight_text};

/// Constants of up to so many elements print element by element.
pub const INLINE_ELEMENTS: usize = 64;
/// Bodies, types and formulas may nest so deep, no more: text must not overflow the stack of whoever parses it.
pub const NESTING: usize = 100;
