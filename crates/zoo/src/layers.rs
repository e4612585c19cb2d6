//! Layers that several models share.

use orrery_ir::{Attrs, Builder, Dim, Op, ValueId};

/// Shape of a batch of square images: `[batch, channels, side, side]`.
pub(crate) fn images(channels: i64, side: i64) -> [Dim; 4] {
    [Dim::symbol("batch"), channels.into(), side.into(), side.into()]
}

/// Deviation of weights that keeps the size of activations through a layer with `inputs` inputs to each output and
/// nothing that cuts its outputs off (Glorot and Bengio 2010, with the inputs alone).
pub(crate) fn glorot(inputs: i64) -> f64 {
    1.0 / (inputs as f64).sqrt()
}

/// The same before a rectifier, which cuts half of the outputs off (He et al. 2015).
pub(crate) fn he(inputs: i64) -> f64 {
    (2.0 / inputs as f64).sqrt()
}

/// Deviation of biases.
const BIAS: f64 = 0.01;

/// A layer `x·W + b` over the last dimension of `x`, `W` of shape `[inputs, outputs]`.
pub(crate) fn linear(
    b: &mut Builder,
    name: &str,
    x: ValueId,
    inputs: i64,
    outputs: i64,
    deviation: f64,
) -> ValueId {
    let (weight, bias) = b.scope(name, |b| {
        (b.weight("weight", [inputs, outputs], deviation), b.weight("bias", [outputs], BIAS))
    });
    let product = b.op(Op::MatMul, &format!("{name}/matmul"), &[x, weight], Attrs::new());
    b.op(Op::Add, name, &[product, bias], Attrs::new())
}

/// The same without a bias.
pub(crate) fn project(
    b: &mut Builder,
    name: &str,
    x: ValueId,
    inputs: i64,
    outputs: i64,
    deviation: f64,
) -> ValueId {
    let weight = b.scope(name, |b| b.weight("weight", [inputs, outputs], deviation));
    b.op(Op::MatMul, name, &[x, weight], Attrs::new())
}

/// A layer `x·Wᵀ + b` over a matrix `x`, `W` of shape `[outputs, inputs]`.
pub(crate) fn fully_connected(
    b: &mut Builder,
    name: &str,
    x: ValueId,
    inputs: i64,
    outputs: i64,
    deviation: f64,
) -> ValueId {
    let (weight, bias) = b.scope(name, |b| {
        (b.weight("weight", [outputs, inputs], deviation), b.weight("bias", [outputs], BIAS))
    });
    b.op(Op::Gemm, name, &[x, weight, bias], Attrs::new().with("transB", 1_i64))
}

/// A square convolution over images `[batch, channels, height, width]`.
#[derive(Clone, Copy)]
pub(crate) struct Conv {
    /// Channels in.
    pub(crate) channels: i64,
    /// Channels out.
    pub(crate) filters: i64,
    /// Extent of the kernel.
    pub(crate) kernel: i64,
    /// Step of the kernel.
    pub(crate) stride: i64,
    /// Padding on each side.
    pub(crate) pad: i64,
    /// True where a bias is added.
    pub(crate) bias: bool,
    /// Size of the weights, as a multiple of what suits a rectifier behind it.
    pub(crate) gain: f64,
}

impl Conv {
    /// With stride 1, no padding, a bias and gain 1.
    pub(crate) const fn new(channels: i64, filters: i64, kernel: i64) -> Self {
        Self { channels, filters, kernel, stride: 1, pad: 0, bias: true, gain: 1.0 }
    }
    /// Applies it.
    pub(crate) fn apply(self, b: &mut Builder, name: &str, x: ValueId) -> ValueId {
        let Self { channels, filters, kernel, stride, pad, bias, gain } = self;
        let operands = b.scope(name, |b| {
            let deviation = gain * he(channels * kernel * kernel);
            let mut operands = vec![x, b.weight("weight", [filters, channels, kernel, kernel], deviation)];
            if bias {
                operands.push(b.weight("bias", [filters], BIAS));
            }
            operands
        });
        let attrs = window(kernel, stride, pad);
        b.op(Op::Conv, name, &operands, attrs)
    }
    /// Applies its counterpart that makes images larger by the stride.
    pub(crate) fn apply_transposed(self, b: &mut Builder, name: &str, x: ValueId) -> ValueId {
        let Self { channels, filters, kernel, stride, pad, gain, .. } = self;
        let operands = b.scope(name, |b| {
            // Each output sees one step of the kernel for each stride.
            let deviation = gain * he(channels * kernel * kernel / (stride * stride));
            [
                x,
                b.weight("weight", [channels, filters, kernel, kernel], deviation),
                b.weight("bias", [filters], BIAS),
            ]
        });
        b.op(Op::ConvTranspose, name, &operands, window(kernel, stride, pad))
    }
}

/// Attributes of a square window.
pub(crate) fn window(kernel: i64, stride: i64, pad: i64) -> Attrs {
    Attrs::new()
        .with("kernel_shape", vec![kernel; 2])
        .with("strides", vec![stride; 2])
        .with("pads", vec![pad; 4])
}

/// Batch normalisation with running statistics near those of a standard normal distribution.
pub(crate) fn batch_norm(b: &mut Builder, name: &str, x: ValueId, channels: i64, scale: f64) -> ValueId {
    let operands = b.scope(name, |b| {
        [
            x,
            b.weight_around("weight", [channels], scale, 0.05 * scale),
            b.weight("bias", [channels], 0.05),
            b.weight("running_mean", [channels], 0.05),
            b.weight_around("running_var", [channels], 1.0, 0.05),
        ]
    });
    b.op(Op::BatchNormalization, name, &operands, Attrs::new().with("epsilon", 1e-5))
}

/// Layer normalisation over the last dimension.
pub(crate) fn layer_norm(b: &mut Builder, name: &str, x: ValueId, width: i64, epsilon: f64) -> ValueId {
    let operands = b
        .scope(name, |b| [x, b.weight_around("weight", [width], 1.0, 0.05), b.weight("bias", [width], 0.05)]);
    b.op(Op::LayerNormalization, name, &operands, Attrs::new().with("axis", -1_i64).with("epsilon", epsilon))
}

/// Layer normalisation over the last dimension, without a bias.
pub(crate) fn layer_norm_unbiased(
    b: &mut Builder,
    name: &str,
    x: ValueId,
    width: i64,
    epsilon: f64,
) -> ValueId {
    let scale = b.scope(name, |b| b.weight_around("weight", [width], 1.0, 0.05));
    let attrs = Attrs::new().with("axis", -1_i64).with("epsilon", epsilon);
    b.op(Op::LayerNormalization, name, &[x, scale], attrs)
}

/// Normalisation by the root of the mean square over the last dimension.
pub(crate) fn rms_norm(b: &mut Builder, name: &str, x: ValueId, width: i64, epsilon: f64) -> ValueId {
    let scale = b.scope(name, |b| b.weight_around("weight", [width], 1.0, 0.05));
    b.op(Op::RMSNormalization, name, &[x, scale], Attrs::new().with("axis", -1_i64).with("epsilon", epsilon))
}

/// Extent number `axis` of `x`, as a vector of one integer.
pub(crate) fn extent_of(b: &mut Builder, name: &str, x: ValueId, axis: i64) -> ValueId {
    b.op(Op::Shape, name, &[x], Attrs::new().with("start", axis).with("end", axis + 1))
}
