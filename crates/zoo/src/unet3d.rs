//! U-Net over volumes.

use crate::layers::he;
use crate::options::SEED;
use crate::{Parameter, Settings, ZooModel};
use orrery_base::Result;
use orrery_ir::{Attrs, Builder, Dim, Graph, Op, ValueId};
use orrery_numerics::DType;

pub(crate) const UNET3D: ZooModel = ZooModel {
    name: "unet3d",
    aliases: &["unet_3d", "unet-3d"],
    summary: "U-Net 3D of MLPerf: a crop of 128x128x128 of a scan of kidneys to three classes, instance normalisation",
    source: "Isensee et al. 2019, as in MLPerf training (KiTS19)",
    bindings: &[("batch", 1)],
    parameters: &[
        Parameter { name: "image", default: "128", doc: "extent of the crop, a multiple of 32" },
        SEED,
    ],
    make: build,
};

const FILTERS: [i64; 5] = [32, 64, 128, 256, 320];
const CLASSES: i64 = 3;

fn build(settings: &Settings<'_>) -> Result<Graph> {
    // Five halvings.
    let side = settings.multiple("image", 32)?;
    let mut b = Builder::new(settings.model(), settings.seed()?);
    let mut x = b.input(
        "volume",
        DType::F32,
        [Dim::symbol("batch"), 1_i64.into(), side.into(), side.into(), side.into()],
    );
    let mut channels = 1;
    let mut skipped = Vec::new();
    for (level, filters) in FILTERS.into_iter().enumerate() {
        let stride = if level == 0 { 1 } else { 2 };
        x = twice(&mut b, &format!("down{level}"), x, channels, filters, stride);
        skipped.push((level, filters, x));
        channels = filters;
    }
    x = twice(&mut b, "bottleneck", x, channels, channels, 2);
    for (level, filters, skip) in skipped.into_iter().rev() {
        let name = format!("up{level}");
        let upper = b.scope(&name, |b| {
            let weight = b.weight("upsample/weight", [channels, filters, 2, 2, 2], he(channels));
            let bias = b.weight("upsample/bias", [filters], 0.01);
            b.op(Op::ConvTranspose, "upsample", &[x, weight, bias], window(2, 2, 0))
        });
        x = b.op(Op::Concat, &format!("{name}/concat"), &[upper, skip], Attrs::new().with("axis", 1_i64));
        x = twice(&mut b, &name, x, 2 * filters, filters, 1);
        channels = filters;
    }
    let weight = b.weight("output/weight", [CLASSES, channels, 1, 1, 1], he(channels));
    let bias = b.weight("output/bias", [CLASSES], 0.01);
    let logits = b.op(Op::Conv, "output", &[x, weight, bias], window(1, 1, 0));
    b.finish(&[("logits", logits)])
}

fn window(kernel: i64, stride: i64, pad: i64) -> Attrs {
    Attrs::new()
        .with("kernel_shape", vec![kernel; 3])
        .with("strides", vec![stride; 3])
        .with("pads", vec![pad; 6])
}

/// Two convolutions, each normalised and rectified; the first one has the stride.
fn twice(b: &mut Builder, name: &str, x: ValueId, channels: i64, filters: i64, stride: i64) -> ValueId {
    b.scope(name, |b| {
        [(1, channels, stride), (2, filters, 1)].into_iter().fold(x, |x, (i, channels, stride)| {
            let weight =
                b.weight(&format!("conv{i}/weight"), [filters, channels, 3, 3, 3], he(27 * channels));
            let x = b.op(Op::Conv, &format!("conv{i}"), &[x, weight], window(3, stride, 1));
            let scale = b.weight_around(&format!("norm{i}/weight"), [filters], 1.0, 0.05);
            let shift = b.weight(&format!("norm{i}/bias"), [filters], 0.05);
            let attrs = Attrs::new().with("epsilon", 1e-5);
            let x = b.op(Op::InstanceNormalization, &format!("norm{i}"), &[x, scale, shift], attrs);
            b.op(Op::Relu, &format!("relu{i}"), &[x], Attrs::new())
        })
    })
}
