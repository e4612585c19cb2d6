//! U-Nets over images: a contracting path, an expanding path, and connections across.

use crate::layers::{Conv, batch_norm, images, window};
use crate::options::SEED;
use crate::{Parameter, Settings, ZooModel};
use orrery_base::Result;
use orrery_ir::{Attrs, Builder, Graph, Op, ValueId};
use orrery_numerics::DType;

pub(crate) const UNET2D: ZooModel = ZooModel {
    name: "unet2d",
    aliases: &["unet"],
    summary: "U-Net 2D for brain MRI: 3x256x256 to a 256x256 mask, 32 initial features, batch normalisation",
    source: "benchmarks/UNet of AIAccelerators-AE (Emani et al., PMBS 2022), after mateuszbuda/brain-segmentation-pytorch",
    bindings: &[("batch", 1)],
    parameters: &[
        Parameter { name: "image", default: "256", doc: "height and width of the images, a multiple of 16" },
        Parameter { name: "features", default: "32", doc: "channels of the first level" },
        SEED,
    ],
    make: brain,
};

pub(crate) const UNET2D_MEDICAL: ZooModel = ZooModel {
    name: "unet2d_medical",
    aliases: &["unet_medical"],
    summary: "U-Net 2D of the original paper: 1x572x572 to two classes on 388x388, 64 initial features, no padding",
    source: "Ronneberger et al. 2015; UNet_Medical of NVIDIA DeepLearningExamples",
    bindings: &[("batch", 1)],
    parameters: &[
        Parameter {
            name: "image",
            default: "572",
            doc: "height and width of the images: 188 and multiples of 16 more",
        },
        Parameter { name: "features", default: "64", doc: "channels of the first level" },
        SEED,
    ],
    make: medical,
};

/// Levels of the contracting path above the bottleneck.
const LEVELS: u32 = 4;

fn brain(settings: &Settings<'_>) -> Result<Graph> {
    let first = settings.integer("features", 1, 4096, 32)?;
    let mut b = Builder::new(settings.model(), settings.seed()?);
    let image = b.input("image", DType::F32, images(3, settings.multiple("image", 1 << LEVELS)?));
    let block = |b: &mut Builder, name: &str, x: ValueId, channels: i64, features: i64| {
        b.scope(name, |b| {
            let mut y = x;
            for (i, channels) in [(1, channels), (2, features)] {
                let conv = Conv { pad: 1, bias: false, ..Conv::new(channels, features, 3) };
                y = conv.apply(b, &format!("conv{i}"), y);
                y = batch_norm(b, &format!("norm{i}"), y, features, 1.0);
                y = b.op(Op::Relu, &format!("relu{i}"), &[y], Attrs::new());
            }
            y
        })
    };
    let (mut x, mut channels) = (image, 3);
    let mut skipped = Vec::new();
    for level in 0..LEVELS {
        let features = first << level;
        x = block(&mut b, &format!("encoder{}", level + 1), x, channels, features);
        skipped.push((level, features, x));
        x = b.op(Op::MaxPool, &format!("pool{}", level + 1), &[x], window(2, 2, 0));
        channels = features;
    }
    x = block(&mut b, "bottleneck", x, channels, first << LEVELS);
    for (level, features, skip) in skipped.into_iter().rev() {
        let name = level + 1;
        let up = Conv { stride: 2, ..Conv::new(2 * features, features, 2) };
        x = up.apply_transposed(&mut b, &format!("upconv{name}"), x);
        x = b.op(Op::Concat, &format!("concat{name}"), &[x, skip], Attrs::new().with("axis", 1_i64));
        x = block(&mut b, &format!("decoder{name}"), x, 2 * features, features);
    }
    // Small, so that the sigmoid does not saturate.
    x = Conv { gain: 0.1, ..Conv::new(first, 1, 1) }.apply(&mut b, "conv", x);
    let mask = b.op(Op::Sigmoid, "sigmoid", &[x], Attrs::new());
    b.finish(&[("mask", mask)])
}

fn medical(settings: &Settings<'_>) -> Result<Graph> {
    let first = settings.integer("features", 1, 4096, 64)?;
    let mut b = Builder::new(settings.model(), settings.seed()?);
    let mut side = settings.integer("image", 188, 100_000, 572)?;
    // Every level must be even where it is halved.
    if (side - 188) % 16 != 0 {
        return settings.refuse("image", "188 and multiples of 16 more");
    }
    let image = b.input("image", DType::F32, images(1, side));
    let block = |b: &mut Builder, name: &str, x: ValueId, channels: i64, features: i64| {
        b.scope(name, |b| {
            let mut y = x;
            for (i, channels) in [(1, channels), (2, features)] {
                y = Conv::new(channels, features, 3).apply(b, &format!("conv{i}"), y);
                y = b.op(Op::Relu, &format!("relu{i}"), &[y], Attrs::new());
            }
            y
        })
    };
    let (mut x, mut channels) = (image, 1);
    let mut skipped = Vec::new();
    for level in 0..LEVELS {
        let features = first << level;
        x = block(&mut b, &format!("down{}", level + 1), x, channels, features);
        side -= 4;
        skipped.push((level, features, side, x));
        x = b.op(Op::MaxPool, &format!("pool{}", level + 1), &[x], window(2, 2, 0));
        side /= 2;
        channels = features;
    }
    x = block(&mut b, "bottleneck", x, channels, first << LEVELS);
    side -= 4;
    for (level, features, skip_side, skip) in skipped.into_iter().rev() {
        let name = level + 1;
        let up = Conv { stride: 2, ..Conv::new(2 * features, features, 2) };
        x = up.apply_transposed(&mut b, &format!("upconv{name}"), x);
        side *= 2;
        let skip = crop(&mut b, &format!("crop{name}"), skip, (skip_side - side) / 2, side);
        x = b.op(Op::Concat, &format!("concat{name}"), &[skip, x], Attrs::new().with("axis", 1_i64));
        x = block(&mut b, &format!("up{name}"), x, 2 * features, features);
        side -= 4;
    }
    let logits = Conv::new(first, 2, 1).apply(&mut b, "output", x);
    b.finish(&[("logits", logits)])
}

/// The square of `side` pixels that starts `margin` pixels from the edge.
fn crop(b: &mut Builder, name: &str, x: ValueId, margin: i64, side: i64) -> ValueId {
    let operands = b.scope(name, |b| {
        [x, b.ints("starts", &[margin; 2]), b.ints("ends", &[margin + side; 2]), b.ints("axes", &[2, 3])]
    });
    b.op(Op::Slice, name, &operands, Attrs::new())
}
