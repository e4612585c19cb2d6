//! ResNet-50 v1.5: the stride of a stage is in its first 3x3 convolution.

use crate::layers::{Conv, batch_norm, fully_connected, glorot, images, window};
use crate::options::SEED;
use crate::{Parameter, Settings, ZooModel};
use orrery_base::Result;
use orrery_ir::{Attrs, Builder, Graph, Op, ValueId};
use orrery_numerics::DType;

pub(crate) const RESNET50: ZooModel = ZooModel {
    name: "resnet50",
    aliases: &["resnet50_v1.5", "resnet-50"],
    summary: "ResNet-50 v1.5: image classification, 224x224 to 1000 classes, batch normalisation kept apart",
    source: "He et al. 2015, with the stride of v1.5 (MLPerf, NVIDIA DeepLearningExamples)",
    bindings: &[("batch", 1)],
    parameters: &[
        Parameter { name: "image", default: "224", doc: "height and width of the images, a multiple of 32" },
        SEED,
    ],
    make: build,
};

/// Scale of the last normalisation of a block: small, so that the sum over all blocks stays in range, as trained
/// networks have it (Goyal et al. 2017 start it at zero).
const RESIDUAL_SCALE: f64 = 0.25;

fn build(settings: &Settings<'_>) -> Result<Graph> {
    let mut b = Builder::new(settings.model(), settings.seed()?);
    let image = b.input("image", DType::F32, images(3, settings.multiple("image", 32)?));
    let stem = Conv { stride: 2, pad: 3, bias: false, ..Conv::new(3, 64, 7) }.apply(&mut b, "conv1", image);
    let stem = batch_norm(&mut b, "bn1", stem, 64, 1.0);
    let stem = relu(&mut b, "relu", stem);
    let mut x = b.op(Op::MaxPool, "maxpool", &[stem], window(3, 2, 1));
    let mut channels = 64;
    for (stage, (blocks, width)) in [(3, 64), (4, 128), (6, 256), (3, 512)].into_iter().enumerate() {
        for block in 0..blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            x = b.scope(&format!("layer{}", stage + 1), |b| {
                b.scope(&block.to_string(), |b| bottleneck(b, x, channels, width, stride))
            });
            channels = 4 * width;
        }
    }
    let pooled = b.op(Op::GlobalAveragePool, "avgpool", &[x], Attrs::new());
    let flat = b.op(Op::Flatten, "flatten", &[pooled], Attrs::new().with("axis", 1_i64));
    let logits = fully_connected(&mut b, "fc", flat, channels, 1000, glorot(channels));
    b.finish(&[("logits", logits)])
}

fn relu(b: &mut Builder, name: &str, x: ValueId) -> ValueId {
    b.op(Op::Relu, name, &[x], Attrs::new())
}

/// 1x1 to `width`, 3x3, 1x1 to four times `width`, added to the input or, where extents change, to a projection of it.
fn bottleneck(b: &mut Builder, x: ValueId, channels: i64, width: i64, stride: i64) -> ValueId {
    let out = 4 * width;
    let plain = |channels, filters, kernel| Conv { bias: false, ..Conv::new(channels, filters, kernel) };
    let mut y = plain(channels, width, 1).apply(b, "conv1", x);
    y = batch_norm(b, "bn1", y, width, 1.0);
    y = relu(b, "relu1", y);
    y = Conv { stride, pad: 1, ..plain(width, width, 3) }.apply(b, "conv2", y);
    y = batch_norm(b, "bn2", y, width, 1.0);
    y = relu(b, "relu2", y);
    y = plain(width, out, 1).apply(b, "conv3", y);
    y = batch_norm(b, "bn3", y, out, RESIDUAL_SCALE);
    let shortcut = if channels == out {
        x
    } else {
        let projected = Conv { stride, ..plain(channels, out, 1) }.apply(b, "downsample/0", x);
        batch_norm(b, "downsample/1", projected, out, 1.0)
    };
    let sum = b.op(Op::Add, "add", &[y, shortcut], Attrs::new());
    relu(b, "relu", sum)
}
