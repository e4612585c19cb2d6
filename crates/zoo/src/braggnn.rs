//! BraggNN: finds the centre of a Bragg peak in a patch of 11 by 11 pixels.

use crate::layers::{Conv, fully_connected, glorot, he, images};
use crate::options::SEED;
use crate::{Settings, ZooModel};
use orrery_base::Result;
use orrery_ir::{Attrs, Builder, Graph, Op, ValueId};
use orrery_numerics::DType;

pub(crate) const BRAGGNN: ZooModel = ZooModel {
    name: "braggnn",
    aliases: &["bragg_nn"],
    summary: "BraggNN: Bragg peak centre from an 11x11 patch, two convolutions and a non-local block",
    source: "sciML/BragNN of AIAccelerators-AE (Emani et al., PMBS 2022), fcsz 16_8_4_2; Liu et al., IUCrJ 2022",
    bindings: &[("batch", 1)],
    parameters: &[SEED],
    make: build,
};

/// Extent of the images after the first convolution, and their pixels.
const SIDE: i64 = 9;
const PIXELS: i64 = SIDE * SIDE;

fn build(settings: &Settings<'_>) -> Result<Graph> {
    let mut b = Builder::new(settings.model(), settings.seed()?);
    let patch = b.input("patch", DType::F32, images(1, 11));
    let features = Conv::new(1, 64, 3).apply(&mut b, "conv1", patch);
    let mut x = b.scope("nlb", |b| non_local_block(b, features));
    x = leaky_relu(&mut b, "relu1", x);
    for (i, channels, filters) in [(2, 64, 32), (3, 32, 8)] {
        x = Conv::new(channels, filters, 3).apply(&mut b, &format!("conv{i}"), x);
        x = leaky_relu(&mut b, &format!("relu{i}"), x);
    }
    x = b.op(Op::Flatten, "flatten", &[x], Attrs::new().with("axis", 1_i64));
    let widths = [200, 16, 8, 4, 2];
    for (i, pair) in widths.windows(2).enumerate() {
        x = fully_connected(&mut b, &format!("dense{}", i + 1), x, pair[0], pair[1], he(pair[0]));
        x = leaky_relu(&mut b, &format!("dense{}/relu", i + 1), x);
    }
    let centre = fully_connected(&mut b, "output", x, 2, 2, glorot(2));
    b.finish(&[("centre", centre)])
}

fn leaky_relu(b: &mut Builder, name: &str, x: ValueId) -> ValueId {
    b.op(Op::LeakyRelu, name, &[x], Attrs::new().with("alpha", 0.01))
}

/// Every pixel attends to every other, and the result is added to the features.
fn non_local_block(b: &mut Builder, features: ValueId) -> ValueId {
    let rows = b.ints("rows", &[0, 32, PIXELS]);
    let pixels = |b: &mut Builder, name: &str, transposed: bool| {
        let images = Conv::new(64, 32, 1).apply(b, name, features);
        let rows = b.op(Op::Reshape, &format!("{name}/rows"), &[images, rows], Attrs::new());
        if transposed { swap(b, &format!("{name}/transposed"), rows) } else { rows }
    };
    let theta = pixels(b, "theta", true);
    let phi = pixels(b, "phi", false);
    let g = pixels(b, "g", true);
    let scores = b.op(Op::MatMul, "scores", &[theta, phi], Attrs::new());
    let attention = b.op(Op::Softmax, "softmax", &[scores], Attrs::new().with("axis", -1_i64));
    let mixed = b.op(Op::MatMul, "mixed", &[attention, g], Attrs::new());
    let mixed = swap(b, "mixed/transposed", mixed);
    let images = b.ints("images", &[0, 32, SIDE, SIDE]);
    let mixed = b.op(Op::Reshape, "mixed/images", &[mixed, images], Attrs::new());
    let mixed = Conv::new(32, 64, 1).apply(b, "out", mixed);
    b.op(Op::Add, "residual", &[mixed, features], Attrs::new())
}

fn swap(b: &mut Builder, name: &str, x: ValueId) -> ValueId {
    b.op(Op::Transpose, name, &[x], Attrs::new().with("perm", vec![0_i64, 2, 1]))
}
