//! A small convolutional network for handwritten digits.

use crate::layers::{Conv, fully_connected, glorot, he, images, window};
use crate::options::SEED;
use crate::{Parameter, Settings, ZooModel};
use orrery_base::Result;
use orrery_ir::{Attrs, Builder, Graph, Op};
use orrery_numerics::DType;

pub(crate) const MNIST_CNN: ZooModel = ZooModel {
    name: "mnist_cnn",
    aliases: &["mnist"],
    summary: "Convolutional network for 28x28 digits: two convolutions with pooling, two dense layers",
    source: "the shape of the MNIST example of Graphcore's PopTorch user guide: 32 and 64 filters, 128 hidden units",
    bindings: &[("batch", 1)],
    parameters: &[
        Parameter {
            name: "filters",
            default: "32",
            doc: "filters of the first convolution; the second has twice as many",
        },
        Parameter { name: "hidden", default: "128", doc: "units of the hidden layer" },
        SEED,
    ],
    make: build,
};

/// Extent after each convolution of 3x3 and pooling of 2x2: 28 to 13 to 5.
const LAST_SIDE: i64 = 5;

fn build(settings: &Settings<'_>) -> Result<Graph> {
    let filters = settings.integer("filters", 1, 4096, 32)?;
    let hidden = settings.integer("hidden", 1, 1 << 20, 128)?;
    let mut b = Builder::new(settings.model(), settings.seed()?);
    let mut x = b.input("x", DType::F32, images(1, 28));
    for (i, channels, filters) in [(1, 1, filters), (2, filters, 2 * filters)] {
        x = Conv::new(channels, filters, 3).apply(&mut b, &format!("conv{i}"), x);
        x = b.op(Op::MaxPool, &format!("pool{i}"), &[x], window(2, 2, 0));
        x = b.op(Op::Relu, &format!("relu{i}"), &[x], Attrs::new());
    }
    x = b.op(Op::Flatten, "flatten", &[x], Attrs::new().with("axis", 1_i64));
    let features = 2 * filters * LAST_SIDE * LAST_SIDE;
    x = fully_connected(&mut b, "dense1", x, features, hidden, he(features));
    x = b.op(Op::Relu, "relu3", &[x], Attrs::new());
    let scores = fully_connected(&mut b, "dense2", x, hidden, 10, glorot(hidden));
    b.finish(&[("scores", scores)])
}
