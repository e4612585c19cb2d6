//! Llama and its relatives: RMS normalisation, turned queries and keys, shared key and value heads, gated feed-forward.
//!
//! Where there are experts, the feed-forward part is one of several for each token: a router chooses, and only what is
//! chosen is computed and counted.

use crate::decoder::{BINDINGS, Dims, Generation, PARAMETERS, Rotary, WINDOW_BINDINGS};
use crate::layers::{glorot, project, rms_norm};
use crate::{Settings, ZooModel};
use orrery_base::Result;
use orrery_ir::{Attrs, Builder, Graph, Op, ValueId};

const EPSILON: f64 = 1e-5;

struct Config {
    dims: Dims,
    /// Base of the angles by which queries and keys are turned.
    base: f64,
    /// True where the words' embeddings make the logits too.
    tied: bool,
    /// Experts, where there are.
    experts: Option<Experts>,
    /// Tokens that every other block looks back to at most, where there is a limit.
    window: Option<i64>,
}

#[derive(Clone, Copy)]
struct Experts {
    all: i64,
    /// How many of them each token takes.
    active: i64,
}

/// Blocks, width, heads of queries, heads of keys, width inside, vocabulary.
const fn config([layers, width, heads, kv_heads, hidden, vocabulary]: [i64; 6], base: f64) -> Config {
    let dims = Dims { layers, width, heads, kv_heads, head_size: 0, hidden, vocabulary, positions: 1 };
    Config { dims, base, tied: false, experts: None, window: None }
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

const LLAMA2: &str = "Touvron et al. 2023; configurations as published with the weights";
const LLAMA3: &str =
    "Llama team 2024; configurations as published with the weights, angles without the scaling of 3.1";
const MIXTRAL: &str = "Jiang et al. 2024";
const GPT_OSS: &str =
    "OpenAI 2025, without biases, attention sinks and the bounds of activations; weights are not quantised";
const MISTRAL: &str =
    "Jiang et al. 2023; its window of 4096 tokens is not applied: shorter contexts are the same";

pub(crate) const MODELS: &[ZooModel] = &[
    model(
        "llama2_7b",
        &["llama_7b", "llama2-7b", "llama-2-7b"],
        "Llama 2 7B: 32 blocks of width 4096, 32 heads; as forward pass, prefill or decode with a KV cache",
        LLAMA2,
        |s| build(s, &config([32, 4096, 32, 32, 11008, 32000], 1e4)),
    ),
    model(
        "llama2_13b",
        &["llama2-13b", "llama-2-13b"],
        "Llama 2 13B: 40 blocks of width 5120, 40 heads",
        LLAMA2,
        |s| build(s, &config([40, 5120, 40, 40, 13824, 32000], 1e4)),
    ),
    model(
        "llama2_70b",
        &["llama2-70b", "llama-2-70b"],
        "Llama 2 70B: 80 blocks of width 8192, 64 heads sharing 8 of keys and values",
        LLAMA2,
        |s| build(s, &config([80, 8192, 64, 8, 28672, 32000], 1e4)),
    ),
    model(
        "llama3_8b",
        &["llama3.1_8b", "llama3-8b", "llama-3.1-8b"],
        "Llama 3 8B: 32 blocks of width 4096, 32 heads sharing 8 of keys and values",
        LLAMA3,
        |s| build(s, &config([32, 4096, 32, 8, 14336, 128_256], 5e5)),
    ),
    model(
        "llama3_70b",
        &["llama3.1_70b", "llama3-70b", "llama-3.1-70b"],
        "Llama 3 70B: 80 blocks of width 8192, 64 heads sharing 8 of keys and values",
        LLAMA3,
        |s| build(s, &config([80, 8192, 64, 8, 28672, 128_256], 5e5)),
    ),
    model(
        "llama3_405b",
        &["llama3.1_405b", "llama3-405b", "llama-3.1-405b"],
        "Llama 3.1 405B: 126 blocks of width 16384, 128 heads sharing 8 of keys and values",
        LLAMA3,
        |s| build(s, &config([126, 16384, 128, 8, 53248, 128_256], 5e5)),
    ),
    model(
        "llama3.2_1b",
        &["llama3.2-1b", "llama-3.2-1b"],
        "Llama 3.2 1B: 16 blocks of width 2048, 32 heads sharing 8 of keys and values, tied embeddings",
        LLAMA3,
        |s| build(s, &Config { tied: true, ..config([16, 2048, 32, 8, 8192, 128_256], 5e5) }),
    ),
    model(
        "mistral_7b",
        &["mistral-7b"],
        "Mistral 7B: 32 blocks of width 4096, 32 heads sharing 8 of keys and values",
        MISTRAL,
        |s| build(s, &config([32, 4096, 32, 8, 14336, 32000], 1e4)),
    ),
    model(
        "mixtral_8x7b",
        &["mixtral", "mixtral-8x7b"],
        "Mixtral 8x7B: 32 blocks of width 4096, 2 of 8 experts for each token",
        MIXTRAL,
        |s| {
            let experts = Some(Experts { all: 8, active: 2 });
            build(s, &Config { experts, ..config([32, 4096, 32, 8, 14336, 32000], 1e6) })
        },
    ),
    ZooModel {
        bindings: WINDOW_BINDINGS,
        ..model(
            "gpt_oss_120b",
            &["gpt-oss-120b"],
            "gpt-oss 120B: 36 blocks of width 2880, 4 of 128 experts for each token, every other block with a window",
            GPT_OSS,
            |s| {
                let base = config([36, 2880, 64, 8, 2880, 201_088], 1.5e5);
                let dims = Dims { head_size: 64, ..base.dims };
                let experts = Some(Experts { all: 128, active: 4 });
                build(s, &Config { dims, experts, window: Some(128), ..base })
            },
        )
    },
];

fn build(settings: &Settings<'_>, config: &Config) -> Result<Graph> {
    let dims = config.dims.chosen(settings)?;
    let mut g = Generation::new(settings, dims, config.window)?;
    let table = g.b.scope("model/embed_tokens", |b| {
        b.weight("weight", [dims.vocabulary, dims.width], glorot(dims.width))
    });
    let ids = g.ids;
    let mut x = g.b.op(Op::Gather, "model/embed_tokens", &[table, ids], Attrs::new().with("axis", 0_i64));
    let rotary = g.rotary(dims.head_size, config.base, false);
    for layer in 0..dims.layers {
        x = block(&mut g, config, &dims, &format!("model/layers/{layer}"), x, &rotary);
    }
    x = rms_norm(&mut g.b, "model/norm", x, dims.width, EPSILON);
    x = g.wanted(x);
    let logits = if config.tied {
        let head = g.b.op(Op::Transpose, "lm_head", &[table], Attrs::new().with("perm", vec![1_i64, 0]));
        g.b.op(Op::MatMul, "logits", &[x, head], Attrs::new())
    } else {
        project(&mut g.b, "lm_head", x, dims.width, dims.vocabulary, glorot(dims.width))
    };
    g.finish(logits)
}

fn block(
    g: &mut Generation,
    config: &Config,
    dims: &Dims,
    name: &str,
    x: ValueId,
    rotary: &Rotary,
) -> ValueId {
    let width = dims.width;
    let (queries, keys) = (dims.heads * dims.head_size, dims.kv_heads * dims.head_size);
    let within = |part: &str| format!("{name}/{part}");
    let normed = rms_norm(&mut g.b, &within("input_layernorm"), x, width, EPSILON);
    let [query, key, value] = [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)].map(|(part, out)| {
        project(&mut g.b, &within(&format!("self_attn/{part}")), normed, width, out, glorot(width))
    });
    let (query, key) = g.b.scope(&within("self_attn"), |b| rotary.turn(b, query, key));
    let mixed = g.attention(&within("self_attn"), [query, key, value], None);
    let deviation = dims.residual() * glorot(queries);
    let attended = project(&mut g.b, &within("self_attn/o_proj"), mixed, queries, width, deviation);
    let x = g.b.op(Op::Add, &within("residual_1"), &[x, attended], Attrs::new());
    let normed = rms_norm(&mut g.b, &within("post_attention_layernorm"), x, width, EPSILON);
    let hidden = g.b.scope(&within("mlp"), |b| match config.experts {
        None => gated(b, dims, normed),
        Some(experts) => mixture(b, experts, dims, normed),
    });
    g.b.op(Op::Add, &within("residual_2"), &[x, hidden], Attrs::new())
}

/// A feed-forward part whose inner values are multiplied by a gate (Shazeer 2020).
fn gated(b: &mut Builder, dims: &Dims, x: ValueId) -> ValueId {
    let &Dims { width, hidden, .. } = dims;
    let gate = project(b, "gate_proj", x, width, hidden, glorot(width));
    let gate = b.op(Op::Swish, "act_fn", &[gate], Attrs::new());
    let up = project(b, "up_proj", x, width, hidden, glorot(width));
    let inner = b.op(Op::Mul, "gated", &[gate, up], Attrs::new());
    project(b, "down_proj", inner, hidden, width, dims.residual() * glorot(hidden))
}

/// Several of them, of which each token takes those that the router rates highest, weighted by the ratings.
fn mixture(b: &mut Builder, experts: Experts, dims: &Dims, x: ValueId) -> ValueId {
    let &Dims { width, hidden, .. } = dims;
    let ratings = project(b, "router", x, width, experts.all, glorot(width));
    let active = b.ints("active", &[experts.active]);
    let operands = [Some(ratings), Some(active)];
    let best = b.ops(Op::TopK, "best", &operands, Attrs::new().with("axis", -1_i64), 2);
    let weights = b.op(Op::Softmax, "weights", &[best[0]], Attrs::new().with("axis", -1_i64));
    let through = |b: &mut Builder, name: &str, x: ValueId, from: i64, to: i64, deviation: f64| {
        let matrices = b.scope(name, |b| b.weight("weight", [experts.all, from, to], deviation));
        b.op(Op::GatherMatMul, name, &[x, matrices, best[1]], Attrs::new())
    };
    let axis = b.ints("axis", &[2]);
    let row = b.op(Op::Unsqueeze, "row", &[x, axis], Attrs::new());
    let gate = through(b, "experts/gate_proj", row, width, hidden, glorot(width));
    let gate = b.op(Op::Swish, "act_fn", &[gate], Attrs::new());
    let up = through(b, "experts/up_proj", row, width, hidden, glorot(width));
    let inner = b.op(Op::Mul, "gated", &[gate, up], Attrs::new());
    let deviation = dims.residual() * glorot(hidden);
    let made = through(b, "experts/down_proj", inner, hidden, width, deviation);
    let last = b.ints("last", &[-1]);
    let weights = b.op(Op::Unsqueeze, "weight_of_row", &[weights, last], Attrs::new());
    let weighted = b.op(Op::Mul, "weighted", &[made, weights], Attrs::new());
    b.op(Op::ReduceSum, "sum", &[weighted, axis], Attrs::new().with("keepdims", 0_i64))
}
