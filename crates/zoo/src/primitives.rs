//! Single ops with the dimensions that microbenchmarks publish.

use crate::layers::{glorot, he, images, window};
use crate::options::{DTYPE, SEED};
use crate::{Parameter, Settings, ZooModel};
use orrery_base::Result;
use orrery_ir::{Attrs, Builder, Dim, Graph, Op};

const SOURCE: &str = "microkernels of AIAccelerators-AE (Emani et al., PMBS 2022)";

const fn of_case(name: &'static str, doc: &'static str) -> Parameter {
    Parameter { name, default: "", doc }
}
const CASE: Parameter = Parameter {
    name: "case",
    default: "1",
    doc: "which of the four published sets of dimensions to start from: 1 to 4",
};

/// The entry of the chosen case.
fn case<T: Copy>(settings: &Settings<'_>, cases: &[T; 4]) -> Result<T> {
    Ok(cases[settings.integer("case", 1, 4, 1)? as usize - 1])
}

pub(crate) const GEMM: ZooModel = ZooModel {
    name: "gemm",
    aliases: &["matmul"],
    summary: "matrix product of [batch, m, k] and [batch, k, n]",
    source: SOURCE,
    bindings: &[("batch", 1)],
    parameters: &[
        CASE,
        of_case("m", "rows of the left operand; the case's where not given"),
        of_case("k", "columns of the left and rows of the right operand; the case's where not given"),
        of_case("n", "columns of the right operand; the case's where not given"),
        Parameter {
            name: "right",
            default: "input",
            doc: "the right operand: input (one for each of the batch) or weight (one for all)",
        },
        DTYPE,
        SEED,
    ],
    make: gemm,
};

fn gemm(settings: &Settings<'_>) -> Result<Graph> {
    let (m, k, n) =
        case(settings, &[(64, 1760, 1760), (2560, 64, 2560), (1760, 128, 1760), (2560, 2560, 2560)])?;
    let (m, k, n) = (settings.extent("m", m)?, settings.extent("k", k)?, settings.extent("n", n)?);
    let dtype = settings.dtype()?;
    let mut b = Builder::new(settings.model(), settings.seed()?);
    let batch = || Dim::symbol("batch");
    let left = b.input("a", dtype, [batch(), m.into(), k.into()]);
    let right = match settings.choice("right", &["input", "weight"])? {
        "input" => b.input("b", dtype, [batch(), k.into(), n.into()]),
        _ => b.weight_of("b", dtype, [k, n], 0.0, glorot(k)),
    };
    let product = b.op(Op::MatMul, "c", &[left, right], Attrs::new());
    b.finish(&[("c", product)])
}

pub(crate) const CONV2D: ZooModel = ZooModel {
    name: "conv2d",
    aliases: &["conv"],
    summary: "square convolution with bias over images [batch, channels, size, size]",
    source: SOURCE,
    bindings: &[("batch", 1)],
    parameters: &[
        CASE,
        of_case("size", "height and width of the images; the case's where not given"),
        of_case("channels", "channels in; the case's where not given"),
        of_case("filters", "channels out; the case's where not given"),
        of_case("kernel", "height and width of the kernel; the case's where not given"),
        of_case("padding", "padding on each side; the case's where not given"),
        Parameter { name: "stride", default: "1", doc: "step of the kernel" },
        DTYPE,
        SEED,
    ],
    make: conv2d,
};

fn conv2d(settings: &Settings<'_>) -> Result<Graph> {
    let (size, channels, filters, kernel, padding) = case(
        settings,
        &[(7, 32, 32, 3, 0), (14, 128, 256, 3, 1), (54, 1024, 1024, 3, 1), (128, 128, 128, 5, 0)],
    )?;
    let padding = settings.integer("padding", 0, 1_000_000, padding)?;
    let kernel = settings.extent("kernel", kernel)?;
    // Below, the kernel does not fit into the image.
    let size = settings.integer("size", (kernel - 2 * padding).max(1), 1_000_000, size)?;
    let (channels, filters) = (settings.extent("channels", channels)?, settings.extent("filters", filters)?);
    let stride = settings.extent("stride", 1)?;
    let dtype = settings.dtype()?;
    let mut b = Builder::new(settings.model(), settings.seed()?);
    let x = b.input("x", dtype, images(channels, size));
    let deviation = he(channels * kernel * kernel);
    let weight = b.weight_of("weight", dtype, [filters, channels, kernel, kernel], 0.0, deviation);
    let bias = b.weight_of("bias", dtype, [filters], 0.0, 0.01);
    let y = b.op(Op::Conv, "y", &[x, weight, bias], window(kernel, stride, padding));
    b.finish(&[("y", y)])
}

pub(crate) const RELU: ZooModel = ZooModel {
    name: "relu",
    aliases: &[],
    summary: "rectifier over images [batch, channels, size, size]",
    source: SOURCE,
    bindings: &[("batch", 1)],
    parameters: &[
        CASE,
        of_case("size", "height and width of the images; the case's where not given"),
        of_case("channels", "channels; the case's where not given"),
        DTYPE,
    ],
    make: relu,
};

fn relu(settings: &Settings<'_>) -> Result<Graph> {
    let (size, channels) = case(settings, &[(7, 32), (14, 128), (54, 1024), (128, 128)])?;
    let (size, channels) = (settings.extent("size", size)?, settings.extent("channels", channels)?);
    let mut b = Builder::new(settings.model(), 0);
    let x = b.input("x", settings.dtype()?, images(channels, size));
    let y = b.op(Op::Relu, "y", &[x], Attrs::new());
    b.finish(&[("y", y)])
}

pub(crate) const LSTM: ZooModel = ZooModel {
    name: "lstm",
    aliases: &["rnn"],
    summary: "one LSTM layer in one direction over [steps, batch, inputs]",
    source: SOURCE,
    bindings: &[("batch", 1)],
    parameters: &[
        CASE,
        of_case("steps", "length of the sequences; the case's where not given"),
        of_case("inputs", "width of the inputs; the case's where not given"),
        of_case("hidden", "width of the state; the case's where not given"),
        DTYPE,
        SEED,
    ],
    make: lstm,
};

fn lstm(settings: &Settings<'_>) -> Result<Graph> {
    let (steps, inputs, hidden) =
        case(settings, &[(50, 256, 256), (25, 512, 512), (25, 512, 512), (50, 512, 512)])?;
    let steps = settings.extent("steps", steps)?;
    let (inputs, hidden) = (settings.extent("inputs", inputs)?, settings.extent("hidden", hidden)?);
    let dtype = settings.dtype()?;
    let mut b = Builder::new(settings.model(), settings.seed()?);
    let x = b.input("x", dtype, [steps.into(), Dim::symbol("batch"), inputs.into()]);
    let weight = b.weight_of("weight", dtype, [1, 4 * hidden, inputs], 0.0, glorot(inputs));
    let recurrence = b.weight_of("recurrence", dtype, [1, 4 * hidden, hidden], 0.0, glorot(hidden));
    let bias = b.weight_of("bias", dtype, [1, 8 * hidden], 0.0, 0.01);
    let operands = [x, weight, recurrence, bias].map(Some);
    let made = b.ops(Op::LSTM, "lstm", &operands, Attrs::new().with("hidden_size", hidden), 3);
    b.finish(&[("y", made[0]), ("y_h", made[1]), ("y_c", made[2])])
}
