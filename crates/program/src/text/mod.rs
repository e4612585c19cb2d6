//! The text form of programs: printer and parser.
//!
//! A printed program parses back to the same program, but for the elements of large constants, of which the digest
//! stays; a parsed one prints as the same text. Words, types, formulas, weights and the graphs of step bodies are those of
//! [`orrery_ir::text`]. `docs/text-forms.md` shows the form by an example; this is its grammar.
//!
//! ```text
//! program    = "program" string "{" statement* "}"
//! statement  = "machine" string | "precision" string
//!            | "symbol" name integer ".." integer
//!            | "memory" id string "cores" integer "bytes" integer ["reserved" integer]
//!            | "pipeline" id string "cores" integer
//!            | "items" integer
//!            | "region" integer "at" integer "from" integer "," integer "size" integer "," integer
//!            | "buffer" id string ":" type class "in" id ["keeps" integer "of" integer] ["by_item" integer]
//!              [layout] ["=" weight] ["view" "of" id]
//!            | step
//!            | "input" id | "output" id "as" string
//! class      = "input" | "parameter" | "state" | "accumulator" | "scratch"
//! layout     = "at" integer ["over" "(" [cut {"," cut}] ")"] accesses
//! cut        = name ":" dim ("parts" | "blocks") integer "stride" integer
//! accesses   = "[" [access {"," access}] "]"
//! access     = "whole" | integer ["times" dim] | integer "window" "(" integer "," integer "," integer ")"
//! step       = "step" id string kind "on" unit "{" clause* graph "}"
//! kind       = "compute" | "exchange" | "view" | "stream" | "host" | "load"
//! unit       = "device" | "streaming" | "host_link"
//! clause     = "grid" ["at" integer] "(" [cut {"," cut}] ")"
//!            | "part" [attributes] ["padding" number]
//!            | "read" id accesses
//!            | "write" id accesses mode
//!            | "arithmetic" string "group" integer ["inputs" string] ("nearest" | "stochastic")
//!            | "work" dim "," dim "," dim               MACs, simple and special vector operations
//!            | "tile" integer "," integer "," integer   rows, columns, depth
//!            | "approximate" | "stage" id "cores" integer | "after" id {"," id} | "region" integer | "once"
//! mode       = "fill" | "in_place" | "sum" | "max" | "min" | "combined_sum" | "combined_max" | "combined_min"
//! id         = "m", "p", "b" or "s" with the number: memories, pipelines, buffers and steps are numbered in their order
//! ```
//!
//! - A buffer that `keeps 2 of 64` is passed on by the stages of a pipeline in 64 pieces, of which its memory holds two.
//! - A region is a rectangle of a mesh: the number of its first core, its corner (column, row) and its size (columns,
//!   rows). `region 2` puts a step into region 2; `items` is how many pieces of the batch flow through the regions, or the
//!   whole program, and a buffer that is `by_item 0` is dealt to them along dimension 0.
//! - A buffer without a layout is one block with everything on core 0.
//! - An access `2` follows axis 2 of the grid one to one; `2 times 64` by 64 elements a step; `2 window (2, 3, 7)` is a
//!   window of stride 2, with 3 in front, of 7 elements.
//! - The clauses of a step stand in the order above, each at most once but for `read` and `write`. A step without
//!   `arithmetic` has that of the step before it.
//! - Ids may name what does not exist: that they do not is for [`crate::verify`] to say.

mod parse;
mod print;

pub use parse::parse;
pub use print::print;

use crate::{BufferClass, Phase, StepKind, Unit, WriteMode};
use orrery_ir::op::Combine;

/// Words for the classes of buffers.
const CLASSES: &[(&str, BufferClass)] = &[
    ("input", BufferClass::Input),
    ("parameter", BufferClass::Parameter),
    ("state", BufferClass::State),
    ("accumulator", BufferClass::Accumulator),
    ("scratch", BufferClass::Scratch),
];
/// Words for the kinds of steps.
const KINDS: &[(&str, StepKind)] = &[
    ("compute", StepKind::Compute),
    ("exchange", StepKind::Exchange),
    ("view", StepKind::View),
    ("stream", StepKind::Stream),
    ("host", StepKind::Host),
    ("load", StepKind::Load),
];
/// Words for the units.
const UNITS: &[(&str, Unit)] = &[
    ("device", Unit::Device),
    ("streaming", Unit::Streaming),
    ("host_link", Unit::HostLink),
    ("outward", Unit::Outward),
];
/// Words for the parts of a training step.
const PHASES: &[(&str, Phase)] =
    &[("forward", Phase::Forward), ("backward", Phase::Backward), ("update", Phase::Update)];
/// Words for how a buffer is written.
const MODES: &[(&str, WriteMode)] = &[
    ("fill", WriteMode::Fill),
    ("in_place", WriteMode::InPlace),
    ("sum", WriteMode::Reduce(Combine::Sum)),
    ("max", WriteMode::Reduce(Combine::Max)),
    ("min", WriteMode::Reduce(Combine::Min)),
    ("combined_sum", WriteMode::Combined(Combine::Sum)),
    ("combined_max", WriteMode::Combined(Combine::Max)),
    ("combined_min", WriteMode::Combined(Combine::Min)),
];

/// The word for a value of one of the tables above.
fn word<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> &'static str {
    words.iter().find(|(_, v)| v == value).expect("the table has every value").0
}
