//! Llama and its relatives: RMS normalisation, turned queries and keys, shared key and value heads, gated feed-forward.

use crate::decoder::{BINDINGS, Dims, Generation, PARAMETERS, Rotary};
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
}

/// Blocks, width, heads of queries, heads of keys, width inside, vocabulary.
const fn config([layers, width, heads, kv_heads, hidden, vocabulary]: [i64; 6], base: f64) -> Config {
    let dims = Dims { layers, width, heads, kv_heads, head_size: 0, hidden, vocabulary, positions: 1 };
    Config { dims, base, tied: false }
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
];

fn build(settings: &Settings<'_>, config: &Config) -> Result<Graph> {
    let dims = config.dims.chosen(settings)?;
    let mut g = Generation::new(settings, dims)?;
    let table = g.b.scope("model/embed_tokens", |b| {
        b.weight("weight", [dims.vocabulary, dims.width], glorot(dims.width))
    });
    let ids = g.ids;
    let mut x = g.b.op(Op::Gather, "model/embed_tokens", &[table, ids], Attrs::new().with("axis", 0_i64));
    let rotary = g.rotary(dims.head_size, config.base, false);
    for layer in 0..dims.layers {
        x = block(&mut g, &dims, &format!("model/layers/{layer}"), x, &rotary);
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

fn block(g: &mut Generation, dims: &Dims, name: &str, x: ValueId, rotary: &Rotary) -> ValueId {
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
    let hidden = g.b.scope(&within("mlp"), |b| gated(b, dims, normed));
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
