//! Vision transformer: patches of an image as tokens.

use crate::layers::{Conv, extent_of, glorot, images, layer_norm, linear};
use crate::options::SEED;
use crate::{Parameter, Settings, ZooModel};
use orrery_base::Result;
use orrery_ir::{Attrs, Builder, Graph, Op, ValueId};
use orrery_numerics::{DType, Tensor};

pub(crate) const VIT_B16: ZooModel = ZooModel {
    name: "vit_b16",
    aliases: &["vit_b_16", "vit-b/16", "vit_base"],
    summary: "ViT-B/16: image classification, 224x224 in patches of 16, 12 blocks of width 768, 12 heads",
    source: "Dosovitskiy et al. 2021",
    bindings: &[("batch", 1)],
    parameters: &[
        Parameter { name: "image", default: "224", doc: "height and width of the images, a multiple of 16" },
        Parameter { name: "layers", default: "12", doc: "encoder blocks" },
        SEED,
    ],
    make: build,
};

const WIDTH: i64 = 768;
const HEADS: i64 = 12;
const HIDDEN: i64 = 3072;
const PATCH: i64 = 16;
const CLASSES: i64 = 1000;
const EPSILON: f64 = 1e-6;

fn build(settings: &Settings<'_>) -> Result<Graph> {
    let side = settings.multiple("image", PATCH)?;
    let layers = settings.integer("layers", 1, 1000, 12)?;
    let patches = (side / PATCH) * (side / PATCH);
    let mut b = Builder::new(settings.model(), settings.seed()?);
    let image = b.input("image", DType::F32, images(3, side));
    let conv = Conv { stride: PATCH, gain: 0.5, ..Conv::new(3, WIDTH, PATCH) };
    let grid = conv.apply(&mut b, "conv_proj", image);
    let shape = b.ints("tokens/shape", &[0, WIDTH, patches]);
    let flat = b.op(Op::Reshape, "tokens/flat", &[grid, shape], Attrs::new());
    let tokens = b.op(Op::Transpose, "tokens", &[flat], Attrs::new().with("perm", vec![0_i64, 2, 1]));
    let class = b.weight("class_token", [1, 1, WIDTH], 0.5);
    let batch = extent_of(&mut b, "batch", image, 0);
    let one = b.ints("class/extents", &[1, WIDTH]);
    let shape = b.op(Op::Concat, "class/shape", &[batch, one], Attrs::new().with("axis", 0_i64));
    let class = b.op(Op::Expand, "class", &[class, shape], Attrs::new());
    let joined = b.op(Op::Concat, "joined", &[class, tokens], Attrs::new().with("axis", 1_i64));
    let positions = b.weight("encoder/pos_embedding", [1, patches + 1, WIDTH], 0.5);
    let mut x = b.op(Op::Add, "embedded", &[joined, positions], Attrs::new());
    for layer in 0..layers {
        x = b.scope(&format!("encoder/layers/{layer}"), |b| block(b, x, layers));
    }
    x = layer_norm(&mut b, "encoder/ln", x, WIDTH, EPSILON);
    let first = b.constant("first", Tensor::scalar(0_i64));
    let token = b.op(Op::Gather, "class_of_image", &[x, first], Attrs::new().with("axis", 1_i64));
    let logits = linear(&mut b, "heads/head", token, WIDTH, CLASSES, glorot(WIDTH));
    b.finish(&[("logits", logits)])
}

fn block(b: &mut Builder, x: ValueId, layers: i64) -> ValueId {
    let residual = 1.0 / (2.0 * layers as f64).sqrt();
    let normed = layer_norm(b, "ln_1", x, WIDTH, EPSILON);
    let parts = ["query", "key", "value"].map(|name| linear(b, name, normed, WIDTH, WIDTH, glorot(WIDTH)));
    let attrs = Attrs::new().with("q_num_heads", HEADS).with("kv_num_heads", HEADS);
    let mixed = b.op(Op::Attention, "self_attention", &parts, attrs);
    let out = linear(b, "out_proj", mixed, WIDTH, WIDTH, residual * glorot(WIDTH));
    let x = b.op(Op::Add, "residual_1", &[x, out], Attrs::new());
    let normed = layer_norm(b, "ln_2", x, WIDTH, EPSILON);
    let hidden = linear(b, "mlp/0", normed, WIDTH, HIDDEN, glorot(WIDTH));
    let hidden = b.op(Op::Gelu, "mlp/gelu", &[hidden], Attrs::new());
    let out = linear(b, "mlp/3", hidden, HIDDEN, WIDTH, residual * glorot(HIDDEN));
    b.op(Op::Add, "residual_2", &[x, out], Attrs::new())
}
