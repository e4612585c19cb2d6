//! What decoders share: forms of generation, the cache of keys and values, positions, options.

use crate::layers::extent_of;
use crate::options::SEED;
use crate::{Parameter, Settings};
use orrery_base::Result;
use orrery_ir::{Attrs, Builder, Dim, Graph, Op, ValueId};
use orrery_numerics::{DType, Tensor};

const fn own(name: &'static str, doc: &'static str) -> Parameter {
    Parameter { name, default: "", doc }
}

/// Options of every decoder.
pub(crate) const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "form",
        default: "forward",
        doc: "forward (tokens to logits), prefill (also returns keys and values) or decode (takes keys and values of \
              `past` tokens, returns them with those of `seq` more)",
    },
    Parameter { name: "logits", default: "all", doc: "positions that have logits: all or last" },
    own("layers", "decoder blocks; the model's own where not given"),
    own("width", "width of a token; the model's own where not given"),
    own("heads", "heads of queries; the model's own where not given"),
    own("kv_heads", "heads of keys and values; the model's own where not given"),
    own("hidden", "width inside the feed-forward part, or of one expert; the model's own where not given"),
    own("vocabulary", "tokens that there are; the model's own where not given"),
    own("positions", "positions that are learned, where they are; the model's own where not given"),
    Parameter {
        name: "shards",
        default: "1",
        doc: "devices that share every block's heads, inner width and vocabulary; the graph is the part of one, whose results \
              are to be added to the others'",
    },
    Parameter {
        name: "stages",
        default: "1",
        doc: "devices that have the blocks in turn; the graph is one of them, with embeddings and logits",
    },
    SEED,
];
/// Symbols of every decoder.
pub(crate) const BINDINGS: &[(&str, i64)] = &[("batch", 1), ("past", 127), ("seq", 128)];
/// With the length of the cache of blocks that look back no further than a window.
pub(crate) const WINDOW_BINDINGS: &[(&str, i64)] =
    &[("batch", 1), ("past", 127), ("recent", 127), ("seq", 128)];

/// Dimensions of a decoder.
#[derive(Clone, Copy)]
pub(crate) struct Dims {
    /// Blocks.
    pub(crate) layers: i64,
    /// Width of a token.
    pub(crate) width: i64,
    /// Heads of queries.
    pub(crate) heads: i64,
    /// Heads of keys and values.
    pub(crate) kv_heads: i64,
    /// Size of a head; 0 where the heads share the width.
    pub(crate) head_size: i64,
    /// Width inside the feed-forward part.
    pub(crate) hidden: i64,
    /// Tokens that there are.
    pub(crate) vocabulary: i64,
    /// Positions that are learned, where they are.
    pub(crate) positions: i64,
}

impl Dims {
    /// With what the user chose.
    ///
    /// # Errors
    /// `zoo-option` where heads do not share the width, or each other, equally.
    pub(crate) fn chosen(self, settings: &Settings<'_>) -> Result<Self> {
        let layers = settings.integer("layers", 1, 1000, self.layers)?;
        let width = settings.extent("width", self.width)?;
        let heads = settings.extent("heads", self.heads)?;
        // One head of keys for each head of queries stays so.
        let kv_heads = if self.kv_heads == self.heads { heads } else { self.kv_heads };
        let kv_heads = settings.extent("kv_heads", kv_heads)?;
        // Another width keeps the ratio.
        let hidden = settings.extent("hidden", (self.hidden * width / self.width).max(1))?;
        let vocabulary = settings.extent("vocabulary", self.vocabulary)?;
        let positions = settings.extent("positions", self.positions)?;
        if heads % kv_heads != 0 {
            return settings
                .refuse("kv_heads", &format!("a number that divides the {heads} heads of queries"));
        }
        if self.head_size == 0 && width % heads != 0 {
            return settings.refuse("heads", &format!("a number that divides the width of {width}"));
        }
        let head_size = if self.head_size == 0 { width / heads } else { self.head_size };
        let shards = settings.extent("shards", 1)?;
        if heads % shards != 0 {
            return settings.refuse("shards", &format!("a number that divides the {heads} heads of queries"));
        }
        let share = |whole: i64| (whole + shards - 1) / shards;
        let (heads, kv_heads) = (heads / shards, (kv_heads / shards).max(1));
        let (hidden, vocabulary) = (share(hidden), share(vocabulary));
        let stages = settings.integer("stages", 1, layers, 1)?;
        let layers = (layers + stages - 1) / stages;
        Ok(Self { layers, width, heads, kv_heads, head_size, hidden, vocabulary, positions })
    }
    /// What a layer that adds to the residual stream is scaled by, as GPT-2 starts out.
    pub(crate) fn residual(&self) -> f64 {
        1.0 / (2.0 * self.layers as f64).sqrt()
    }
}

/// Keys and values of tokens.
#[derive(Clone, Copy)]
struct Cached {
    key: ValueId,
    value: ValueId,
}

/// A decoder as it is built: tokens, and keys and values that come in and go out.
pub(crate) struct Generation {
    /// The graph so far.
    pub(crate) b: Builder,
    /// The tokens, `[batch, seq]`.
    pub(crate) ids: ValueId,
    /// Number of tokens, a vector of one integer.
    pub(crate) length: ValueId,
    /// Position of the first of them, and of the one behind the last; vectors of one integer.
    pub(crate) first: ValueId,
    pub(crate) end: ValueId,
    dims: Dims,
    past: Vec<Cached>,
    present: Vec<Cached>,
    keeps: bool,
    last: bool,
    /// What the blocks with a window let a token see, `[seq, keys]`.
    window: Option<ValueId>,
    /// Blocks that have attended.
    blocks: usize,
}

/// True for the blocks that have a window in models where some have one.
fn is_windowed(block: usize) -> bool {
    block.is_multiple_of(2)
}

impl Generation {
    /// Inputs of the form that the user chose. Every other block, the first to begin with, looks back no further than a
    /// `window` of tokens, its own counted: its cache holds the last ones alone, `recent` of them.
    ///
    /// # Errors
    /// `zoo-option` where the options cannot be used.
    pub(crate) fn new(settings: &Settings<'_>, dims: Dims, window: Option<i64>) -> Result<Self> {
        let form = settings.choice("form", &["forward", "prefill", "decode"])?;
        let last = settings.choice("logits", &["all", "last"])? == "last";
        let mut b = Builder::new(settings.model(), settings.seed()?);
        let ids = b.input("input_ids", DType::I64, [Dim::symbol("batch"), Dim::symbol("seq")]);
        let mut past = Vec::new();
        for layer in (0..dims.layers as usize).filter(|_| form == "decode") {
            let kept = if window.is_some() && is_windowed(layer) { "recent" } else { "past" };
            let [key, value] = ["key", "value"].map(|name| {
                let shape =
                    [Dim::symbol("batch"), dims.kv_heads.into(), Dim::symbol(kept), dims.head_size.into()];
                b.input(&format!("past_key_values.{layer}.{name}"), DType::F32, shape)
            });
            past.push(Cached { key, value });
        }
        let length = extent_of(&mut b, "length", ids, 1);
        let mut span = |name: &str, cached: Option<&Cached>| match cached {
            None => (b.ints(name, &[0]), length),
            Some(cached) => {
                let first = extent_of(&mut b, name, cached.key, 2);
                (first, b.op(Op::Add, &format!("{name}_end"), &[first, length], Attrs::new()))
            }
        };
        // The first block has a window, where any has; the second sees all.
        let (first, end) = span("past", past.get(1).or(past.first()));
        let recent = window.map(|_| span("recent", past.first()));
        let window = window.zip(recent);
        let window =
            window.map(|(size, (first, end))| b.scope("window", |b| mask_of_window(b, first, end, size)));
        let keeps = form != "forward";
        let present = Vec::new();
        Ok(Self { b, ids, length, first, end, dims, past, present, keeps, last, window, blocks: 0 })
    }

    /// Causal attention of the next block, which is called `scope`; `bias` is added to the scores.
    pub(crate) fn attention(
        &mut self,
        scope: &str,
        operands: [ValueId; 3],
        bias: Option<ValueId>,
    ) -> ValueId {
        let mut operands: Vec<Option<ValueId>> = operands.into_iter().map(Some).collect();
        let bias = bias.or(self.window.filter(|_| is_windowed(self.blocks)));
        let past = self.past.get(self.blocks);
        self.blocks += 1;
        match past {
            Some(past) => operands.extend([bias, Some(past.key), Some(past.value)]),
            None => operands.extend(bias.map(Some)),
        }
        let attrs = Attrs::new()
            .with("is_causal", 1_i64)
            .with("q_num_heads", self.dims.heads)
            .with("kv_num_heads", self.dims.kv_heads);
        let outputs = if self.keeps { 3 } else { 1 };
        let made = self.b.ops(Op::Attention, &format!("{scope}/attention"), &operands, attrs, outputs);
        if let [_, key, value] = made[..] {
            self.present.push(Cached { key, value });
        }
        made[0]
    }

    /// The tokens that get logits, of all of them.
    pub(crate) fn wanted(&mut self, x: ValueId) -> ValueId {
        if !self.last {
            return x;
        }
        let last = self.b.ints("last", &[-1]);
        self.b.op(Op::Gather, "last_token", &[x, last], Attrs::new().with("axis", 1_i64))
    }

    /// Names the outputs.
    ///
    /// # Errors
    /// As [`Builder::finish`].
    pub(crate) fn finish(self, logits: ValueId) -> Result<Graph> {
        let mut outputs = vec![("logits".to_owned(), logits)];
        for (layer, made) in self.present.iter().enumerate() {
            outputs.push((format!("present.{layer}.key"), made.key));
            outputs.push((format!("present.{layer}.value"), made.value));
        }
        let outputs: Vec<(&str, ValueId)> = outputs.iter().map(|(name, id)| (name.as_str(), *id)).collect();
        self.b.finish(&outputs)
    }

    /// Cosines and sines for turning `size` elements of each head, `[batch, seq, size / 2]` (Su et al. 2021).
    pub(crate) fn rotary(&mut self, size: i64, base: f64, interleaved: bool) -> Rotary {
        let (ids, first, end, length) = (self.ids, self.first, self.end, self.length);
        let dims = self.dims;
        self.b.scope("rotary", |b| {
            let zero = integer(b, "zero", 0);
            let half = integer(b, "half", size / 2);
            let pairs = range(b, "pairs", zero, half);
            let step = number(b, "step", -2.0 * base.ln() / size as f64);
            let exponents = b.op(Op::Mul, "exponents", &[pairs, step], Attrs::new());
            let frequencies = b.op(Op::Exp, "frequencies", &[exponents], Attrs::new());
            let (first, end) = (scalar(b, "first", first), scalar(b, "end", end));
            let positions = range(b, "positions", first, end);
            let axis = b.ints("axis", &[1]);
            let rows = b.op(Op::Unsqueeze, "rows", &[positions, axis], Attrs::new());
            let angles = b.op(Op::Mul, "angles", &[rows, frequencies], Attrs::new());
            let batch = extent_of(b, "batch", ids, 0);
            let half = b.ints("half_size", &[size / 2]);
            let shape = b.op(Op::Concat, "shape", &[batch, length, half], Attrs::new().with("axis", 0_i64));
            let [cos, sin] = [(Op::Cos, "cos"), (Op::Sin, "sin")].map(|(op, name)| {
                let of_angles = b.op(op, name, &[angles], Attrs::new());
                b.op(Op::Expand, &format!("{name}_of_batch"), &[of_angles, shape], Attrs::new())
            });
            Rotary { cos, sin, dims, size, interleaved }
        })
    }

    /// What attention with linear biases adds to the scores, `[heads, 1, keys]` (Press et al. 2022): softmax does not
    /// tell it from one that counts from each query.
    pub(crate) fn linear_biases(&mut self) -> ValueId {
        let (end, heads) = (self.end, self.dims.heads);
        self.b.scope("alibi", |b| {
            let (one, after) = (integer(b, "one", 1), integer(b, "after", heads + 1));
            let numbers = range(b, "heads", one, after);
            let step = number(b, "step", -8.0 * std::f64::consts::LN_2 / heads as f64);
            let exponents = b.op(Op::Mul, "exponents", &[numbers, step], Attrs::new());
            let slopes = b.op(Op::Exp, "slopes", &[exponents], Attrs::new());
            let axes = b.ints("axes", &[1, 2]);
            let slopes = b.op(Op::Unsqueeze, "columns", &[slopes, axes], Attrs::new());
            let end = scalar(b, "end", end);
            let first = b.op(Op::Sub, "first", &[one, end], Attrs::new());
            let distances = range(b, "distances", first, one);
            b.op(Op::Mul, "biases", &[slopes, distances], Attrs::new())
        })
    }
}

/// The turning of queries and keys by their positions.
pub(crate) struct Rotary {
    cos: ValueId,
    sin: ValueId,
    dims: Dims,
    size: i64,
    interleaved: bool,
}

impl Rotary {
    /// Turns queries and keys.
    pub(crate) fn turn(&self, b: &mut Builder, query: ValueId, key: ValueId) -> (ValueId, ValueId) {
        let mut turn = |name: &str, x: ValueId, heads: i64| {
            let mut attrs = Attrs::new().with("num_heads", heads);
            if self.size < self.dims.head_size {
                attrs.set("rotary_embedding_dim", self.size);
            }
            if self.interleaved {
                attrs.set("interleaved", 1_i64);
            }
            b.op(Op::RotaryEmbedding, name, &[x, self.cos, self.sin], attrs)
        };
        (turn("turned_query", query, self.dims.heads), turn("turned_key", key, self.dims.kv_heads))
    }
}

/// Which of the keys from 0 to `end` the queries from `first` to `end` have within their window.
fn mask_of_window(b: &mut Builder, first: ValueId, end: ValueId, size: i64) -> ValueId {
    let (zero, one) = (integer(b, "zero", 0), integer(b, "one", 1));
    let (first, end) = (scalar(b, "first", first), scalar(b, "end", end));
    let queries = b.op(Op::Range, "queries", &[first, end, one], Attrs::new());
    let axis = b.ints("axis", &[1]);
    let queries = b.op(Op::Unsqueeze, "rows", &[queries, axis], Attrs::new());
    let keys = b.op(Op::Range, "keys", &[zero, end, one], Attrs::new());
    let back = b.op(Op::Sub, "back", &[queries, keys], Attrs::new());
    let size = integer(b, "size", size);
    b.op(Op::Less, "seen", &[back, size], Attrs::new())
}

/// The integers from one scalar to another, as floats.
fn range(b: &mut Builder, name: &str, first: ValueId, end: ValueId) -> ValueId {
    let one = integer(b, &format!("{name}/step"), 1);
    let integers = b.op(Op::Range, &format!("{name}/integers"), &[first, end, one], Attrs::new());
    b.op(Op::Cast, name, &[integers], Attrs::new().with("to", DType::F32))
}

fn integer(b: &mut Builder, name: &str, value: i64) -> ValueId {
    b.constant(name, Tensor::from_vec(vec![], vec![value]))
}

fn number(b: &mut Builder, name: &str, value: f64) -> ValueId {
    b.constant(name, Tensor::from_vec(vec![], vec![value as f32]))
}

fn scalar(b: &mut Builder, name: &str, vector: ValueId) -> ValueId {
    b.op(Op::Squeeze, name, &[vector], Attrs::new())
}
