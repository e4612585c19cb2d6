//! GPT-2: decoder blocks with normalisation in front of each half, learned positions, tied embeddings.

use crate::layers::{extent_of, glorot, layer_norm, linear};
use crate::options::SEED;
use crate::{Parameter, Settings, ZooModel};
use orrery_base::Result;
use orrery_ir::{Attrs, Builder, Dim, Graph, Op, ValueId};
use orrery_numerics::DType;

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "form",
        default: "forward",
        doc: "forward (tokens to logits), prefill (also returns keys and values) or decode (takes keys and values of \
              `past` tokens, returns them with those of `seq` more)",
    },
    Parameter { name: "logits", default: "all", doc: "positions that have logits: all or last" },
    Parameter { name: "layers", default: "", doc: "decoder blocks; the model's own where not given" },
    SEED,
];
const BINDINGS: &[(&str, i64)] = &[("batch", 1), ("past", 127), ("seq", 128)];
const SOURCE: &str = "Radford et al. 2019; names of inputs and outputs as Hugging Face exports have them";

pub(crate) const GPT2_SMALL: ZooModel = ZooModel {
    name: "gpt2_small",
    aliases: &["gpt2", "gpt2-small"],
    summary: "GPT-2 small: 12 blocks of width 768, 12 heads; as forward pass, prefill or decode with a KV cache",
    source: SOURCE,
    bindings: BINDINGS,
    parameters: PARAMETERS,
    make: |settings| build(settings, &Config { layers: 12, width: 768, heads: 12 }),
};
pub(crate) const GPT2_XL: ZooModel = ZooModel {
    name: "gpt2_xl",
    aliases: &["gpt2-xl", "gpt_1.5b"],
    summary: "GPT-2 XL: 48 blocks of width 1600, 25 heads; as forward pass, prefill or decode with a KV cache",
    source: SOURCE,
    bindings: BINDINGS,
    parameters: PARAMETERS,
    make: |settings| build(settings, &Config { layers: 48, width: 1600, heads: 25 }),
};

const VOCABULARY: i64 = 50257;
/// Longest context that has position embeddings.
const POSITIONS: i64 = 1024;
const EPSILON: f64 = 1e-5;

struct Config {
    layers: i64,
    width: i64,
    heads: i64,
}

/// Keys and values of the tokens before, and what stands for them in the graph.
#[derive(Clone, Copy)]
struct Past {
    key: ValueId,
    value: ValueId,
}

fn build(settings: &Settings<'_>, config: &Config) -> Result<Graph> {
    let form = settings.choice("form", &["forward", "prefill", "decode"])?;
    let logits = settings.choice("logits", &["all", "last"])?;
    let layers = settings.integer("layers", 1, 1000, config.layers)?;
    let &Config { width, heads, .. } = config;
    let mut b = Builder::new(settings.model(), settings.seed()?);
    let ids = b.input("input_ids", DType::I64, [Dim::symbol("batch"), Dim::symbol("seq")]);
    let mut past = Vec::new();
    for layer in (0..layers).filter(|_| form == "decode") {
        let [key, value] = ["key", "value"].map(|name| {
            let shape = [Dim::symbol("batch"), heads.into(), Dim::symbol("past"), (width / heads).into()];
            b.input(&format!("past_key_values.{layer}.{name}"), DType::F32, shape)
        });
        past.push(Past { key, value });
    }
    let (words, mut x) = embeddings(&mut b, width, ids, past.first().copied());
    let mut present = Vec::new();
    for layer in 0..layers as usize {
        let before = past.get(layer).copied();
        let (out, made) = b.scope("h", |b| {
            b.scope(&layer.to_string(), |b| block(b, config, layers, x, before, form != "forward"))
        });
        x = out;
        present.extend(made.map(|made| (layer, made)));
    }
    x = layer_norm(&mut b, "ln_f", x, width, EPSILON);
    if logits == "last" {
        let last = b.ints("last", &[-1]);
        x = b.op(Op::Gather, "last_token", &[x, last], Attrs::new().with("axis", 1_i64));
    }
    let head = b.op(Op::Transpose, "lm_head", &[words], Attrs::new().with("perm", vec![1_i64, 0]));
    let logits = b.op(Op::MatMul, "logits", &[x, head], Attrs::new());
    let mut outputs = vec![("logits".to_owned(), logits)];
    for (layer, made) in present {
        outputs.push((format!("present.{layer}.key"), made.key));
        outputs.push((format!("present.{layer}.value"), made.value));
    }
    let outputs: Vec<(&str, ValueId)> = outputs.iter().map(|(name, id)| (name.as_str(), *id)).collect();
    b.finish(&outputs)
}

/// The table of word embeddings, and the sum of those of words and positions.
fn embeddings(b: &mut Builder, width: i64, ids: ValueId, past: Option<Past>) -> (ValueId, ValueId) {
    let table = b.scope("wte", |b| b.weight("weight", [VOCABULARY, width], glorot(width)));
    let words = b.op(Op::Gather, "wte", &[table, ids], Attrs::new().with("axis", 0_i64));
    let positions = b.scope("wpe", |b| {
        let table = b.weight("weight", [POSITIONS, width], glorot(width));
        let length = extent_of(b, "length", ids, 1);
        let (first, end) = match past {
            None => (b.ints("first", &[0]), length),
            Some(past) => {
                let first = extent_of(b, "past", past.key, 2);
                (first, b.op(Op::Add, "end", &[first, length], Attrs::new()))
            }
        };
        b.op(Op::Slice, "positions", &[table, first, end], Attrs::new())
    });
    (table, b.op(Op::Add, "embeddings", &[words, positions], Attrs::new()))
}

/// One block; the keys and values of all tokens so far where `keep` asks for them.
fn block(
    b: &mut Builder,
    config: &Config,
    layers: i64,
    x: ValueId,
    past: Option<Past>,
    keep: bool,
) -> (ValueId, Option<Past>) {
    let &Config { width, heads, .. } = config;
    // What is added to the residual stream is scaled down by the number of additions, as GPT-2 starts out.
    let residual = 1.0 / (2.0 * layers as f64).sqrt();
    let normed = layer_norm(b, "ln_1", x, width, EPSILON);
    let (attended, present) = b.scope("attn", |b| {
        let joined = linear(b, "c_attn", normed, width, 3 * width, glorot(width));
        let sizes = b.ints("sizes", &[width; 3]);
        let split = Attrs::new().with("axis", -1_i64);
        let parts = b.ops(Op::Split, "split", &[Some(joined), Some(sizes)], split, 3);
        let mut operands: Vec<_> = parts.into_iter().map(Some).collect();
        if let Some(past) = past {
            operands.extend([None, Some(past.key), Some(past.value)]);
        }
        let attrs =
            Attrs::new().with("is_causal", 1_i64).with("q_num_heads", heads).with("kv_num_heads", heads);
        let made = b.ops(Op::Attention, "attention", &operands, attrs, if keep { 3 } else { 1 });
        let present = keep.then(|| Past { key: made[1], value: made[2] });
        (linear(b, "c_proj", made[0], width, width, residual * glorot(width)), present)
    });
    let x = b.op(Op::Add, "residual_1", &[x, attended], Attrs::new());
    let normed = layer_norm(b, "ln_2", x, width, EPSILON);
    let hidden = b.scope("mlp", |b| {
        let hidden = linear(b, "c_fc", normed, width, 4 * width, glorot(width));
        let hidden = b.op(Op::Gelu, "gelu", &[hidden], Attrs::new().with("approximate", "tanh"));
        linear(b, "c_proj", hidden, 4 * width, width, residual * glorot(4 * width))
    });
    (b.op(Op::Add, "residual_2", &[x, hidden], Attrs::new()), present)
}
