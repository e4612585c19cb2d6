//! Decoders in the line of GPT-2: layer normalisation in front of each half of a block, feed-forward with GELU.
//!
//! One builder for all of them. What tells them apart, apart from dimensions, is the [`Style`]: how positions come in, how
//! the halves of a block are joined, and which layers have biases.

use crate::decoder::{BINDINGS, Dims, Generation, PARAMETERS, Rotary};
use crate::layers::{glorot, layer_norm, layer_norm_unbiased, linear, project};
use crate::{Settings, ZooModel};
use orrery_base::Result;
use orrery_ir::{Attrs, Builder, Graph, Op, ValueId};

const EPSILON: f64 = 1e-5;

/// How positions come in.
#[derive(Clone, Copy, PartialEq)]
enum Position {
    /// A learned vector for each, added to the words.
    Learned,
    /// Queries and keys are turned: one in so many elements of a head, neighbours or halves paired.
    Turned { one_in: i64, interleaved: bool },
    /// What is added to the scores grows with the distance.
    Distance,
}

/// How the halves of a block are joined.
#[derive(Clone, Copy, PartialEq)]
enum Halves {
    /// The second takes what the first has made.
    InTurn,
    /// Both take the input, normalised once.
    OneNorm,
    /// Both take the input, each normalised by its own.
    TwoNorms,
}

#[derive(Clone, Copy)]
struct Style {
    position: Position,
    halves: Halves,
    /// Biases of the projections of attention.
    attention_bias: bool,
    /// All other biases.
    bias: bool,
    /// True where queries, keys and values come from one product.
    joined: bool,
    /// True where the words' embeddings make the logits too.
    tied: bool,
    /// True where the logits have a bias.
    head_bias: bool,
    /// True where the embeddings are normalised.
    embeddings_normalised: bool,
    /// True where GELU is approximated by a tangent.
    tangent: bool,
}

const GPT2: Style = Style {
    position: Position::Learned,
    halves: Halves::InTurn,
    attention_bias: true,
    bias: true,
    joined: true,
    tied: true,
    head_bias: false,
    embeddings_normalised: false,
    tangent: true,
};
const TURNED: Style = Style { position: Position::Turned { one_in: 1, interleaved: false }, ..GPT2 };
const GPT_J: Style = Style {
    position: Position::Turned { one_in: 4, interleaved: true },
    halves: Halves::OneNorm,
    attention_bias: false,
    joined: false,
    tied: false,
    head_bias: true,
    ..GPT2
};
const NEOX: Style = Style {
    position: Position::Turned { one_in: 4, interleaved: false },
    halves: Halves::TwoNorms,
    tied: false,
    tangent: false,
    ..GPT2
};
const MPT: Style =
    Style { position: Position::Distance, attention_bias: false, bias: false, tangent: false, ..GPT2 };
const BLOOM: Style = Style { position: Position::Distance, embeddings_normalised: true, ..GPT2 };

/// Blocks, width, heads, width inside, vocabulary, learned positions.
const fn dims([layers, width, heads, hidden, vocabulary, positions]: [i64; 6]) -> Dims {
    Dims { layers, width, heads, kv_heads: heads, head_size: 0, hidden, vocabulary, positions }
}

const fn model(
    name: &'static str,
    aliases: &'static [&'static str],
    summary: &'static str,
    source: &'static str,
    make: fn(&Settings<'_>) -> Result<Graph>,
) -> ZooModel {
    ZooModel { name, aliases, summary, source, bindings: BINDINGS, parameters: PARAMETERS, make }
}

const RADFORD: &str = "Radford et al. 2019; names of inputs and outputs as Hugging Face exports have them";
const BROWN: &str = "Brown et al. 2020";
const CS2: &str =
    "configurations of GPT-3 that were measured on CS-2 (University of Southern California, Cerebras)";
const NEMO: &str = "NVIDIA NeMo framework";
const CALCULON: &str = "configurations of Megatron in calculon (Isaev et al. 2023)";
const CARAML: &str = "CARAML benchmark (Jülich Supercomputing Centre)";
const MOSAIC: &str = "MosaicML llm-foundry";
const BIGSCIENCE: &str = "BigScience 2022; configurations as published with the weights";
const GENSLM: &str = "genslm/architectures/neox (Zvyagin et al. 2022)";
const GENSLM_CS2: &str =
    "Zvyagin et al. 2022; dimensions assumed to be those of GPT-3 of that size, codons as words";

/// Models by the table: name, aliases, summary, source, style, dimensions.
macro_rules! table {
    ($(($name:literal, $aliases:expr, $summary:literal, $source:expr, $style:expr, $dims:expr)),* $(,)?) => {
        &[$(model($name, &$aliases, $summary, $source, |settings| build(settings, &$style, dims($dims)))),*]
    };
}

/// What a paper calls the GPT-3 or MPT of a size differs; the widths and heads here are those of the sources.
pub(crate) const MODELS: &[ZooModel] = table![
    (
        "gpt2_small",
        ["gpt2", "gpt2-small"],
        "GPT-2 small: 12 blocks of width 768, 12 heads; as forward pass, prefill or decode with a KV cache",
        RADFORD,
        GPT2,
        [12, 768, 12, 3072, 50257, 1024]
    ),
    (
        "gpt2_xl",
        ["gpt2-xl", "gpt_1.5b"],
        "GPT-2 XL: 48 blocks of width 1600, 25 heads; as forward pass, prefill or decode with a KV cache",
        RADFORD,
        GPT2,
        [48, 1600, 25, 6400, 50257, 1024]
    ),
    (
        "gpt_tiny",
        [],
        "a GPT to train at home: 4 blocks of width 256, 8 heads, bytes as words; 3.2 million parameters",
        "GPT-2's form (Radford et al. 2019) at a size of ours",
        GPT2,
        [4, 256, 8, 1024, 256, 256]
    ),
    ("gpt3_256m", [], "GPT-3 256M: 14 blocks of width 1088", CS2, GPT2, [14, 1088, 17, 4352, 50257, 2048]),
    ("gpt3_590m", [], "GPT-3 590M: 18 blocks of width 1536", CS2, GPT2, [18, 1536, 12, 6144, 50257, 2048]),
    ("gpt3_2.7b", [], "GPT-3 2.7B: 32 blocks of width 2560", CS2, GPT2, [32, 2560, 32, 10240, 50257, 2048]),
    ("gpt3_5b", [], "GPT-3 5B: 24 blocks of width 4096", NEMO, GPT2, [24, 4096, 32, 16384, 51200, 2048]),
    ("gpt3_6.7b", [], "GPT-3 6.7B: 32 blocks of width 4096", CS2, GPT2, [32, 4096, 32, 16384, 50257, 2048]),
    ("gpt3_13b", [], "GPT-3 13B: 40 blocks of width 5120", BROWN, GPT2, [40, 5120, 40, 20480, 50257, 2048]),
    (
        "gpt3_20b",
        [],
        "GPT-3 20B: 44 blocks of width 6144, 64 heads",
        CS2,
        GPT2,
        [44, 6144, 64, 24576, 50257, 2048]
    ),
    (
        "gpt3_20b_nemo",
        [],
        "GPT-3 20B of NeMo: 44 blocks of width 6144, 48 heads",
        NEMO,
        GPT2,
        [44, 6144, 48, 24576, 51200, 2048]
    ),
    (
        "gpt3_175b",
        ["gpt3"],
        "GPT-3 175B: 96 blocks of width 12288, 96 heads",
        BROWN,
        GPT2,
        [96, 12288, 96, 49152, 50257, 2048]
    ),
    (
        "megatron_22b",
        [],
        "Megatron 22B: 48 blocks of width 6144, 64 heads",
        CALCULON,
        GPT2,
        [48, 6144, 64, 24576, 51200, 2048]
    ),
    (
        "mtnlg_530b",
        [],
        "Megatron-Turing NLG 530B: 105 blocks of width 20480, 128 heads",
        CALCULON,
        GPT2,
        [105, 20480, 128, 81920, 51200, 2048]
    ),
    (
        "megatron_1t",
        [],
        "Megatron 1T: 128 blocks of width 25600, 160 heads",
        CALCULON,
        GPT2,
        [128, 25600, 160, 102_400, 51200, 2048]
    ),
    (
        "gpt_800m",
        [],
        "GPT of 800M: 16 blocks of width 2048, 8 heads, queries and keys turned",
        CARAML,
        TURNED,
        [16, 2048, 8, 8192, 50257, 1]
    ),
    (
        "gptj_6b",
        ["gptj", "gpt-j-6b"],
        "GPT-J 6B: 28 blocks of width 4096, 16 heads, attention and feed-forward side by side",
        "Wang and Komatsuzaki 2021",
        GPT_J,
        [28, 4096, 16, 16384, 50400, 1]
    ),
    ("mpt_125m", [], "MPT 125M: 12 blocks of width 768", MOSAIC, MPT, [12, 768, 12, 3072, 50368, 1]),
    ("mpt_350m", [], "MPT 350M: 24 blocks of width 1024", MOSAIC, MPT, [24, 1024, 16, 4096, 50368, 1]),
    ("mpt_760m", [], "MPT 760M: 24 blocks of width 1536", MOSAIC, MPT, [24, 1536, 12, 6144, 50368, 1]),
    ("mpt_1b", [], "MPT 1B: 24 blocks of width 2048", MOSAIC, MPT, [24, 2048, 16, 8192, 50368, 1]),
    ("mpt_3b", [], "MPT 3B: 32 blocks of width 2560", MOSAIC, MPT, [32, 2560, 20, 10240, 50368, 1]),
    ("mpt_7b", [], "MPT 7B: 32 blocks of width 4096", MOSAIC, MPT, [32, 4096, 32, 16384, 50368, 1]),
    ("mpt_13b", [], "MPT 13B: 40 blocks of width 5120", MOSAIC, MPT, [40, 5120, 40, 20480, 50368, 1]),
    ("mpt_30b", [], "MPT 30B: 48 blocks of width 7168", MOSAIC, MPT, [48, 7168, 56, 28672, 50368, 1]),
    ("mpt_70b", [], "MPT 70B: 80 blocks of width 8192", MOSAIC, MPT, [80, 8192, 64, 32768, 50368, 1]),
    (
        "bloomz_7b1",
        ["bloom_7b1", "bloomz-7b1"],
        "BLOOMZ 7.1B: 30 blocks of width 4096, 32 heads",
        BIGSCIENCE,
        BLOOM,
        [30, 4096, 32, 16384, 250_880, 1]
    ),
    (
        "bloomz_176b",
        ["bloom_176b", "bloomz"],
        "BLOOMZ 176B: 70 blocks of width 14336, 112 heads",
        BIGSCIENCE,
        BLOOM,
        [70, 14336, 112, 57344, 250_880, 1]
    ),
    ("genslm_25m", [], "GenSLM 25M: 8 blocks of width 512", GENSLM, NEOX, [8, 512, 8, 2048, 69, 1]),
    ("genslm_250m", [], "GenSLM 250M: 12 blocks of width 1840", GENSLM, NEOX, [12, 1840, 16, 2048, 69, 1]),
    ("genslm_2.5b", [], "GenSLM 2.5B: 28 blocks of width 3840", GENSLM, NEOX, [28, 3840, 32, 4096, 69, 1]),
    (
        "genslm_25b",
        [],
        "GenSLM 25B: 64 blocks of width 8192 (its file says 8196, which 64 heads cannot share)",
        GENSLM,
        NEOX,
        [64, 8192, 64, 8000, 69, 1]
    ),
    (
        "genslm_123m",
        [],
        "GenSLM 123M of CS-2: 12 blocks of width 768, 10240 positions",
        GENSLM_CS2,
        GPT2,
        [12, 768, 12, 3072, 69, 10240]
    ),
    (
        "genslm_1.3b",
        [],
        "GenSLM 1.3B of CS-2: 24 blocks of width 2048, 10240 positions",
        GENSLM_CS2,
        GPT2,
        [24, 2048, 16, 8192, 69, 10240]
    ),
];

/// What positions need in every block.
enum Places {
    None,
    Rotary(Rotary),
    Biases(ValueId),
}

fn build(settings: &Settings<'_>, style: &Style, dims: Dims) -> Result<Graph> {
    let dims = dims.chosen(settings)?;
    let width = dims.width;
    let mut g = Generation::new(settings, dims, None)?;
    let table = g.b.scope("wte", |b| b.weight("weight", [dims.vocabulary, width], glorot(width)));
    let ids = g.ids;
    let mut x = g.b.op(Op::Gather, "wte", &[table, ids], Attrs::new().with("axis", 0_i64));
    let places = match style.position {
        Position::Learned => {
            let (first, end) = (g.first, g.end);
            let positions = g.b.scope("wpe", |b| {
                let table = b.weight("weight", [dims.positions, width], glorot(width));
                b.op(Op::Slice, "positions", &[table, first, end], Attrs::new())
            });
            x = g.b.op(Op::Add, "embeddings", &[x, positions], Attrs::new());
            Places::None
        }
        Position::Turned { one_in, interleaved } => {
            // Elements are turned in pairs.
            let turned = dims.head_size / one_in / 2 * 2;
            if turned == 0 {
                return settings.refuse("heads", "fewer: heads have too few elements to turn them in pairs");
            }
            Places::Rotary(g.rotary(turned, 1e4, interleaved))
        }
        Position::Distance => Places::Biases(g.linear_biases()),
    };
    if style.embeddings_normalised {
        x = norm(&mut g.b, style, "ln_emb", x, width);
    }
    for layer in 0..dims.layers {
        x = block(&mut g, style, &dims, &format!("h/{layer}"), x, &places);
    }
    x = norm(&mut g.b, style, "ln_f", x, width);
    x = g.wanted(x);
    let logits = if style.tied {
        let head = g.b.op(Op::Transpose, "lm_head", &[table], Attrs::new().with("perm", vec![1_i64, 0]));
        g.b.op(Op::MatMul, "logits", &[x, head], Attrs::new())
    } else {
        layer(&mut g.b, style.head_bias, "lm_head", x, width, dims.vocabulary, glorot(width))
    };
    g.finish(logits)
}

/// A linear layer, with a bias or without.
fn layer(
    b: &mut Builder,
    bias: bool,
    name: &str,
    x: ValueId,
    inputs: i64,
    outputs: i64,
    deviation: f64,
) -> ValueId {
    let apply = if bias { linear } else { project };
    apply(b, name, x, inputs, outputs, deviation)
}

fn norm(b: &mut Builder, style: &Style, name: &str, x: ValueId, width: i64) -> ValueId {
    let apply = if style.bias { layer_norm } else { layer_norm_unbiased };
    apply(b, name, x, width, EPSILON)
}

fn block(g: &mut Generation, style: &Style, dims: &Dims, name: &str, x: ValueId, places: &Places) -> ValueId {
    let width = dims.width;
    let first = norm(&mut g.b, style, &format!("{name}/ln_1"), x, width);
    let attended = attention(g, style, dims, &format!("{name}/attn"), first, places);
    let feed = |g: &mut Generation, x: ValueId| g.b.scope(&format!("{name}/mlp"), |b| mlp(b, style, dims, x));
    let add = |g: &mut Generation, part: &str, of: [ValueId; 2]| {
        g.b.op(Op::Add, &format!("{name}/{part}"), &of, Attrs::new())
    };
    if style.halves == Halves::InTurn {
        let x = add(g, "residual_1", [x, attended]);
        let second = norm(&mut g.b, style, &format!("{name}/ln_2"), x, width);
        let hidden = feed(g, second);
        return add(g, "residual_2", [x, hidden]);
    }
    let second = match style.halves {
        Halves::TwoNorms => norm(&mut g.b, style, &format!("{name}/ln_2"), x, width),
        _ => first,
    };
    let hidden = feed(g, second);
    let both = add(g, "halves", [hidden, attended]);
    add(g, "residual", [both, x])
}

fn attention(
    g: &mut Generation,
    style: &Style,
    dims: &Dims,
    scope: &str,
    x: ValueId,
    places: &Places,
) -> ValueId {
    let width = dims.width;
    let (queries, keys) = (dims.heads * dims.head_size, dims.kv_heads * dims.head_size);
    let [mut query, mut key, value] = g.b.scope(scope, |b| {
        let parts = [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)];
        if style.joined {
            let joined =
                layer(b, style.attention_bias, "c_attn", x, width, queries + 2 * keys, glorot(width));
            let sizes = b.ints("sizes", &parts.map(|(_, size)| size));
            let split = Attrs::new().with("axis", -1_i64);
            let made = b.ops(Op::Split, "split", &[Some(joined), Some(sizes)], split, 3);
            [made[0], made[1], made[2]]
        } else {
            parts.map(|(part, out)| layer(b, style.attention_bias, part, x, width, out, glorot(width)))
        }
    });
    let mut biases = None;
    match places {
        Places::None => {}
        Places::Rotary(rotary) => (query, key) = g.b.scope(scope, |b| rotary.turn(b, query, key)),
        Places::Biases(given) => biases = Some(*given),
    }
    let mixed = g.attention(scope, [query, key, value], biases);
    let deviation = dims.residual() * glorot(queries);
    layer(&mut g.b, style.attention_bias, &format!("{scope}/c_proj"), mixed, queries, width, deviation)
}

fn mlp(b: &mut Builder, style: &Style, dims: &Dims, x: ValueId) -> ValueId {
    let &Dims { width, hidden, .. } = dims;
    let inner = layer(b, style.bias, "c_fc", x, width, hidden, glorot(width));
    let approximate = if style.tangent { "tanh" } else { "none" };
    let inner = b.op(Op::Gelu, "gelu", &[inner], Attrs::new().with("approximate", approximate));
    layer(b, style.bias, "c_proj", inner, hidden, width, dims.residual() * glorot(hidden))
}
