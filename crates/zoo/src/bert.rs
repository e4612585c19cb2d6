//! BERT and its relatives: embeddings, encoder blocks with normalisation behind each half, and a head.

use crate::layers::{extent_of, glorot, layer_norm, linear};
use crate::options::SEED;
use crate::{Parameter, Settings, ZooModel};
use orrery_base::Result;
use orrery_ir::{Attrs, Builder, Dim, Graph, Op, ValueId};
use orrery_numerics::DType;

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "head",
        default: "pooler",
        doc: "what follows the encoder: none, pooler, pretraining (masked words on `predictions` positions and next \
              sentence), questions (start and end of an answer) or classes (two)",
    },
    Parameter { name: "layers", default: "", doc: "encoder blocks; the model's own where not given" },
    SEED,
];
const BINDINGS: &[(&str, i64)] = &[("batch", 1), ("predictions", 20), ("seq", 128)];
const SOURCE: &str = "Devlin et al. 2018; names of inputs and outputs as Hugging Face exports have them";

pub(crate) const BERT_LARGE: ZooModel = ZooModel {
    name: "bert_large",
    aliases: &["bert-large", "bert_large_uncased"],
    summary: "BERT-Large: 24 blocks of width 1024, 16 heads",
    source: SOURCE,
    bindings: BINDINGS,
    parameters: PARAMETERS,
    make: |settings| build(settings, &Config { layers: 24, width: 1024, heads: 16, inner: 4096, ..BERT }),
};
pub(crate) const BERT_BASE: ZooModel = ZooModel {
    name: "bert_base",
    aliases: &["bert", "bert-base", "bert_base_uncased"],
    summary: "BERT-Base: 12 blocks of width 768, 12 heads",
    source: SOURCE,
    bindings: BINDINGS,
    parameters: PARAMETERS,
    make: |settings| build(settings, &Config { layers: 12, width: 768, heads: 12, inner: 3072, ..BERT }),
};
pub(crate) const BERT_TINY: ZooModel = ZooModel {
    name: "bert_tiny",
    aliases: &["bert-tiny"],
    summary: "BERT-Tiny: 2 blocks of width 128, 2 heads",
    source: "Turc et al. 2019; names of inputs and outputs as Hugging Face exports have them",
    bindings: BINDINGS,
    parameters: PARAMETERS,
    make: |settings| build(settings, &Config { layers: 2, width: 128, heads: 2, inner: 512, ..BERT }),
};
pub(crate) const MINILM: ZooModel = ZooModel {
    name: "minilm",
    aliases: &["minilm_l6", "minilm-l6", "all-minilm-l6-v2"],
    summary: "MiniLM L6 H384: sentence encoder of 6 blocks of width 384, 12 heads",
    source: "Wang et al. 2020 (MiniLMv2-L6-H384); names of inputs and outputs as Hugging Face exports have them",
    bindings: BINDINGS,
    parameters: PARAMETERS,
    make: |settings| build(settings, &Config { layers: 6, width: 384, heads: 12, inner: 1536, ..BERT }),
};

pub(crate) const ROBERTA_LARGE: ZooModel = ZooModel {
    name: "roberta_large",
    aliases: &["roberta-large"],
    summary: "RoBERTa-Large: 24 blocks of width 1024, 16 heads",
    source: "Liu et al. 2019; one kind of segment, and two positions that stand for padding",
    bindings: BINDINGS,
    parameters: PARAMETERS,
    make: |settings| {
        let base = Config { layers: 24, width: 1024, heads: 16, inner: 4096, ..BERT };
        build(settings, &Config { vocabulary: 50265, positions: 514, segments: 1, ..base })
    },
};

const EPSILON: f64 = 1e-12;

struct Config {
    layers: i64,
    width: i64,
    heads: i64,
    inner: i64,
    vocabulary: i64,
    /// Longest sequence that has position embeddings.
    positions: i64,
    /// Kinds of segments.
    segments: i64,
}

const BERT: Config =
    Config { layers: 0, width: 0, heads: 0, inner: 0, vocabulary: 30522, positions: 512, segments: 2 };

fn build(settings: &Settings<'_>, config: &Config) -> Result<Graph> {
    let head = settings.choice("head", &["none", "pooler", "pretraining", "questions", "classes"])?;
    let layers = settings.integer("layers", 1, 1000, config.layers)?;
    let mut b = Builder::new(settings.model(), settings.seed()?);
    let tokens = || [Dim::symbol("batch"), Dim::symbol("seq")];
    let ids = b.input("input_ids", DType::I64, tokens());
    let mask = b.input("attention_mask", DType::I64, tokens());
    let segments = b.input("token_type_ids", DType::I64, tokens());
    let (words, mut x) = b.scope("embeddings", |b| embeddings(b, config, ids, segments));
    let mask = b.scope("attention_mask", |b| {
        let flags = b.op(Op::Cast, "flags", &[mask], Attrs::new().with("to", DType::Bool));
        let axes = b.ints("axes", &[1, 2]);
        b.op(Op::Unsqueeze, "rows", &[flags, axes], Attrs::new())
    });
    for layer in 0..layers {
        x = b.scope("encoder", |b| b.scope(&layer.to_string(), |b| block(b, config, x, mask)));
    }
    let mut outputs = vec![("last_hidden_state", x)];
    match head {
        "pooler" => outputs.push(("pooler_output", pooler(&mut b, config.width, x))),
        "classes" => {
            let pooled = pooler(&mut b, config.width, x);
            outputs =
                vec![("logits", linear(&mut b, "classifier", pooled, config.width, 2, glorot(config.width)))];
        }
        "questions" => outputs = questions(&mut b, config.width, x),
        "pretraining" => {
            let positions =
                b.input("masked_positions", DType::I64, [Dim::symbol("batch"), Dim::symbol("predictions")]);
            let masked = b.scope("predictions", |b| masked_words(b, config, x, positions, words));
            let pooled = pooler(&mut b, config.width, x);
            let next = linear(&mut b, "seq_relationship", pooled, config.width, 2, glorot(config.width));
            outputs = vec![("prediction_logits", masked), ("seq_relationship_logits", next)];
        }
        _ => {}
    }
    b.finish(&outputs)
}

/// The table of word embeddings, and the normalised sum of those of words, positions and segments.
fn embeddings(b: &mut Builder, config: &Config, ids: ValueId, segments: ValueId) -> (ValueId, ValueId) {
    let &Config { width, vocabulary, positions, segments: kinds, .. } = config;
    let gather = |b: &mut Builder, name: &str, rows: i64, ids: ValueId| {
        let table = b.scope(name, |b| b.weight("weight", [rows, width], 0.5));
        (table, b.op(Op::Gather, name, &[table, ids], Attrs::new().with("axis", 0_i64)))
    };
    let (table, words) = gather(b, "word_embeddings", vocabulary, ids);
    let (_, segments) = gather(b, "token_type_embeddings", kinds, segments);
    let positions = b.scope("position_embeddings", |b| b.weight("weight", [positions, width], 0.5));
    let start = b.ints("first", &[0]);
    let length = extent_of(b, "length", ids, 1);
    let positions = b.op(Op::Slice, "position_embeddings", &[positions, start, length], Attrs::new());
    let sum = b.op(Op::Add, "words_and_segments", &[words, segments], Attrs::new());
    let sum = b.op(Op::Add, "sum", &[sum, positions], Attrs::new());
    (table, layer_norm(b, "LayerNorm", sum, width, EPSILON))
}

fn block(b: &mut Builder, config: &Config, x: ValueId, mask: ValueId) -> ValueId {
    let &Config { width, heads, inner, .. } = config;
    let attended = b.scope("attention", |b| {
        let [query, key, value] =
            ["query", "key", "value"].map(|name| linear(b, name, x, width, width, glorot(width)));
        let attrs = Attrs::new().with("q_num_heads", heads).with("kv_num_heads", heads);
        let mixed = b.op(Op::Attention, "self", &[query, key, value, mask], attrs);
        let out = linear(b, "output", mixed, width, width, glorot(width));
        let sum = b.op(Op::Add, "residual", &[out, x], Attrs::new());
        layer_norm(b, "LayerNorm", sum, width, EPSILON)
    });
    let hidden = linear(b, "intermediate", attended, width, inner, glorot(width));
    let hidden = b.op(Op::Gelu, "gelu", &[hidden], Attrs::new());
    let out = linear(b, "output", hidden, inner, width, glorot(inner));
    let sum = b.op(Op::Add, "residual", &[out, attended], Attrs::new());
    layer_norm(b, "LayerNorm", sum, width, EPSILON)
}

/// A dense layer over the first token.
fn pooler(b: &mut Builder, width: i64, x: ValueId) -> ValueId {
    b.scope("pooler", |b| {
        let first = b.constant("first", orrery_numerics::Tensor::scalar(0_i64));
        let token = b.op(Op::Gather, "token", &[x, first], Attrs::new().with("axis", 1_i64));
        let dense = linear(b, "dense", token, width, width, glorot(width));
        b.op(Op::Tanh, "tanh", &[dense], Attrs::new())
    })
}

/// Scores of every token as start and as end of an answer.
fn questions(b: &mut Builder, width: i64, x: ValueId) -> Vec<(&'static str, ValueId)> {
    let scores = linear(b, "qa_outputs", x, width, 2, glorot(width));
    ["start_logits", "end_logits"]
        .into_iter()
        .zip(0_i64..)
        .map(|(name, i)| {
            let index = b.constant(&format!("{name}/index"), orrery_numerics::Tensor::scalar(i));
            (name, b.op(Op::Gather, name, &[scores, index], Attrs::new().with("axis", 2_i64)))
        })
        .collect()
}

/// Scores of all words at the masked positions; the table of word embeddings serves as weights.
fn masked_words(b: &mut Builder, config: &Config, x: ValueId, positions: ValueId, words: ValueId) -> ValueId {
    let &Config { width, vocabulary, .. } = config;
    let last = b.ints("last", &[-1]);
    let indices = b.op(Op::Unsqueeze, "indices", &[positions, last], Attrs::new());
    let masked = b.op(Op::GatherND, "masked", &[x, indices], Attrs::new().with("batch_dims", 1_i64));
    let dense = linear(b, "dense", masked, width, width, glorot(width));
    let dense = b.op(Op::Gelu, "gelu", &[dense], Attrs::new());
    let dense = layer_norm(b, "LayerNorm", dense, width, EPSILON);
    let decoder = b.op(Op::Transpose, "decoder", &[words], Attrs::new().with("perm", vec![1_i64, 0]));
    let bias = b.weight("bias", [vocabulary], 0.01);
    let scores = b.op(Op::MatMul, "scores", &[dense, decoder], Attrs::new());
    b.op(Op::Add, "logits", &[scores, bias], Attrs::new())
}
