//! Ops with operands to cut.

use orrery_ir::op::{IterSpace, Port};
use orrery_ir::weights::hash64;
use orrery_ir::{Attrs, Graph, Node, Op, Type, infer};
use orrery_numerics::{DType, Tensor};

/// An op applied to operands.
pub(crate) struct Case {
    /// The op.
    pub(crate) op: Op,
    /// Operands by position.
    pub(crate) inputs: Vec<Option<Tensor>>,
    attrs: Attrs,
    outputs: usize,
}

impl Case {
    fn graph(&self) -> Graph {
        let mut graph = Graph::new("case");
        let inputs = self.inputs.iter().enumerate().map(|(i, tensor)| {
            let tensor = tensor.as_ref()?;
            // Operands that say what to do stand in the graph, as in a model.
            Some(if tensor.dtype() != DType::F32 && tensor.rank() <= 1 {
                graph.add_tensor(format!("in{i}"), tensor.clone())
            } else {
                graph
                    .add_input(format!("in{i}"), Type::tensor(tensor.dtype(), tensor.shape().iter().copied()))
            })
        });
        let inputs = inputs.collect();
        let outputs = (0..self.outputs).map(|i| Some(format!("out{i}"))).collect();
        graph.add_node(self.op, "op", inputs, outputs, self.attrs.clone(), Vec::new());
        graph
    }
    /// The node.
    pub(crate) fn node(&self) -> Node {
        self.graph().nodes.values().next().expect("it has one").clone()
    }
    /// Its iteration space.
    pub(crate) fn space(&self) -> Result<IterSpace, String> {
        let mut graph = self.graph();
        let facts = infer::infer(&mut graph).map_err(|e| e.to_string())?;
        let id = graph.nodes.ids().next().expect("it has one node");
        infer::with_ctx(&graph, &facts, id, |ctx| (self.op.def().space)(ctx))
            .ok_or_else(|| "it has no space".into())
    }
    fn attr(mut self, name: &str, value: impl Into<orrery_ir::Attr>) -> Self {
        self.attrs.set(name, value);
        self
    }
    fn with(mut self, tensor: Tensor) -> Self {
        self.inputs.push(Some(tensor));
        self
    }
    fn without(mut self) -> Self {
        self.inputs.push(None);
        self
    }
    fn outputs(mut self, outputs: usize) -> Self {
        self.outputs = outputs;
        self
    }
}

/// Multiples of 1/4 between -2 and 2.
pub(crate) fn floats(shape: &[usize]) -> Tensor {
    let seed = shape.iter().fold(shape.len() as u64, |seed, &n| hash64(seed, n as u64));
    let count: usize = shape.iter().product();
    Tensor::from_vec(
        shape.to_vec(),
        (0..count).map(|i| (hash64(seed, i as u64) % 17) as f32 / 4.0 - 2.0).collect(),
    )
}
fn positive(shape: &[usize]) -> Tensor {
    Tensor::from_vec(shape.to_vec(), floats(shape).raw::<f32>().iter().map(|v| v.abs() + 0.25).collect())
}
fn bytes(shape: &[usize]) -> Tensor {
    Tensor::from_vec(
        shape.to_vec(),
        floats(shape).raw::<f32>().iter().map(|v| (v * 4.0 + 9.0) as u8).collect(),
    )
}
fn ints(shape: &[usize], below: i64) -> Tensor {
    let values: Vec<i64> =
        floats(shape).raw::<f32>().iter().map(|v| (v * 4.0 + 8.0) as i64 % below).collect();
    Tensor::from_vec(shape.to_vec(), values)
}
fn i64s(values: &[i64]) -> Tensor {
    Tensor::from_vec(vec![values.len()], values.to_vec())
}
fn bools(shape: &[usize]) -> Tensor {
    Tensor::from_bools(
        shape.to_vec(),
        floats(shape).raw::<f32>().iter().map(|v| *v > 0.0).collect::<Vec<_>>(),
    )
}
fn scalar(value: f32) -> Tensor {
    Tensor::scalar(value)
}

/// An op on float operands of these shapes.
fn on(op: Op, shapes: &[&[usize]]) -> Case {
    on_tensors(op, shapes.iter().map(|shape| floats(shape)).collect())
}
fn on_tensors(op: Op, inputs: Vec<Tensor>) -> Case {
    Case { op, inputs: inputs.into_iter().map(Some).collect(), attrs: Attrs::new(), outputs: 1 }
}

/// All cases.
pub(crate) fn all() -> Vec<Case> {
    [
        elementwise(),
        reductions(),
        matrices(),
        convolutions(),
        normalizations(),
        pooling(),
        attention(),
        movement(),
        losses(),
        optimizers(),
        rest(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn elementwise() -> Vec<Case> {
    let mut cases = Vec::new();
    let logical = [Op::Not, Op::And, Op::Or, Op::Xor];
    let bitwise = [Op::BitwiseNot, Op::BitwiseAnd, Op::BitwiseOr, Op::BitwiseXor, Op::BitShift];
    let first = Op::ALL.iter().position(|&op| op == Op::Abs).expect("it is an op");
    let last = Op::ALL.iter().position(|&op| op == Op::Min).expect("it is an op");
    for &op in &Op::ALL[first..=last] {
        let operand = |shape: &[usize]| match op {
            _ if logical.contains(&op) => bools(shape),
            _ if bitwise.contains(&op) => bytes(shape),
            Op::Log | Op::Sqrt | Op::Pow | Op::Acosh | Op::Div | Op::Mod => positive(shape),
            _ => floats(shape),
        };
        let shapes: &[&[usize]] = match op.def().inputs {
            [Port::One(_), Port::One(_)] => &[&[2, 3, 4], &[3, 1]],
            [Port::Variadic(_)] => &[&[2, 3, 4], &[4], &[3, 1]],
            _ => &[&[3, 4]],
        };
        let case = on_tensors(op, shapes.iter().map(|s| operand(s)).collect());
        cases.push(match op {
            Op::Cast => case.attr("to", DType::F16),
            Op::RoundTo => case.attr("format", "bf16"),
            Op::BitShift => case.attr("direction", "LEFT"),
            Op::Mod => case.attr("fmod", 1),
            Op::Clip => case.with(scalar(-1.0)).with(scalar(1.0)),
            _ => case,
        });
    }
    cases.push(on(Op::Mean, &[&[2, 3], &[3]]));
    cases.push(on(Op::Sum, &[&[2, 3], &[2, 1]]));
    cases.push(on_tensors(Op::Where, vec![bools(&[2, 1]), floats(&[2, 3]), floats(&[3])]));
    cases
}

fn reductions() -> Vec<Case> {
    let mut cases = Vec::new();
    let first = Op::ALL.iter().position(|&op| op == Op::ReduceSum).expect("it is an op");
    for &op in &Op::ALL[first..first + 10] {
        let operand = || on_tensors(op, vec![positive(&[3, 4, 5])]);
        cases.push(operand().with(i64s(&[1])));
        cases.push(operand().with(i64s(&[0, 2])).attr("keepdims", 0));
    }
    for op in [Op::ArgMax, Op::ArgMin] {
        cases.push(on(op, &[&[3, 4, 5]]).attr("axis", 1).attr("keepdims", 0));
    }
    for op in [Op::CumSum, Op::CumProd] {
        cases.push(on(op, &[&[3, 4]]).with(Tensor::scalar(1_i64)));
    }
    for op in [Op::Softmax, Op::LogSoftmax, Op::Hardmax] {
        cases.push(on(op, &[&[3, 4, 5]]).attr("axis", 1));
    }
    cases.push(on(Op::SoftmaxGrad, &[&[3, 4, 5], &[3, 4, 5]]).attr("axis", 1));
    cases
}

fn matrices() -> Vec<Case> {
    vec![
        on(Op::MatMul, &[&[5, 6], &[6, 7]]),
        on(Op::MatMul, &[&[2, 1, 5, 6], &[3, 6, 4]]),
        on(Op::MatMul, &[&[6], &[2, 6, 4]]),
        on(Op::MatMul, &[&[2, 5, 6], &[6]]),
        on(Op::MatMul, &[&[6], &[6]]),
        on(Op::Gemm, &[&[5, 6], &[6, 7]]).attr("alpha", 0.5),
        on(Op::Gemm, &[&[6, 5], &[7, 6], &[7]]).attr("transA", 1).attr("transB", 1),
        on(Op::Gemm, &[&[5, 6], &[6, 7], &[5, 1]]).attr("beta", 2.0),
        on_tensors(Op::MatMulInteger, vec![bytes(&[5, 6]), bytes(&[6, 4])])
            .with(Tensor::scalar(3_u8))
            .with(Tensor::scalar(9_u8)),
        on_tensors(
            Op::QLinearMatMul,
            vec![
                bytes(&[2, 5, 6]),
                scalar(0.1),
                Tensor::scalar(3_u8),
                bytes(&[2, 6, 4]),
                scalar(0.2),
                Tensor::scalar(4_u8),
                scalar(0.3),
                Tensor::scalar(100_u8),
            ],
        ),
        on(Op::Einsum, &[&[2, 5, 6], &[2, 6, 4]]).attr("equation", "bij,bjk->bik"),
        on(Op::Einsum, &[&[5, 6], &[6, 4], &[4, 3]]).attr("equation", "ij,jk,kl->li"),
        on(Op::Einsum, &[&[4, 4, 3]]).attr("equation", "iij->j"),
        on(Op::Einsum, &[&[3, 1, 2], &[5, 2]]).attr("equation", "...a,...a->a..."),
        on(Op::Det, &[&[4, 3, 3]]),
        on(Op::GatherMatMul, &[&[5, 1, 6], &[4, 6, 3]])
            .with(Tensor::from_vec(vec![5, 2], vec![0_i64, 3, 1, 2, 3, 0, 2, 1, 1, 0])),
        on(Op::GatherMatMul, &[&[2, 3, 6], &[4, 6, 5]])
            .with(Tensor::from_vec(vec![2, 3], vec![0_i64, 3, 1, 2, 2, 0])),
        on(Op::GatherMatMulGrad, &[&[5, 1, 6], &[5, 2, 3]])
            .with(Tensor::from_vec(vec![5, 2], vec![0_i64, 3, 1, 2, 3, 0, 2, 1, 1, 0]))
            .attr("matrices", 4),
    ]
}

fn convolutions() -> Vec<Case> {
    let pads = || vec![1, 2, 0, 1];
    vec![
        on(Op::Conv, &[&[2, 3, 7, 8], &[4, 3, 3, 2]])
            .attr("pads", pads())
            .attr("strides", vec![2, 1])
            .attr("dilations", vec![1, 2]),
        on(Op::Conv, &[&[1, 4, 9], &[6, 4, 3], &[6]]).attr("auto_pad", "SAME_UPPER").attr("strides", vec![2]),
        on(Op::Conv, &[&[2, 6, 5, 5], &[9, 2, 3, 3], &[9]]).attr("group", 3).attr("pads", vec![1; 4]),
        on(Op::Conv, &[&[1, 4, 4, 4, 4], &[4, 1, 2, 2, 2]]).attr("group", 4),
        on(Op::Conv, &[&[2, 3, 4, 4], &[5, 3, 1, 1]]),
        on(Op::ConvTranspose, &[&[2, 3, 4, 4], &[3, 5, 3, 3], &[5]])
            .attr("strides", vec![2, 2])
            .attr("pads", vec![1; 4])
            .attr("output_padding", vec![1, 1]),
        on(Op::ConvTranspose, &[&[2, 4, 5], &[4, 3, 2]]).attr("group", 2),
        on(Op::ConvTranspose, &[&[2, 3, 6, 5], &[3, 4, 3, 3]]).attr("pads", vec![1; 4]),
        on(Op::ConvTranspose, &[&[2, 3, 4, 4], &[3, 5, 1, 1]])
            .attr("strides", vec![2, 2])
            .attr("output_padding", vec![1, 1]),
        on(Op::ConvTranspose, &[&[1, 2, 7], &[2, 3, 7]])
            .attr("strides", vec![2])
            .attr("pads", vec![3, 3])
            .attr("output_padding", vec![1]),
        on(Op::ConvTranspose, &[&[1, 2, 4], &[2, 3, 3]]).attr("strides", vec![2]),
        on(Op::ConvTranspose, &[&[1, 2, 8], &[2, 3, 3]]).attr("dilations", vec![2]).attr("pads", vec![2, 2]),
        on(Op::ConvTranspose, &[&[2, 3, 4, 5], &[3, 5, 2, 3], &[5]]).attr("strides", vec![2, 3]),
        on(Op::ConvWeightGrad, &[&[2, 3, 7, 8], &[2, 4, 3, 8]])
            .attr("kernel_shape", vec![3, 2])
            .attr("pads", pads())
            .attr("strides", vec![2, 1])
            .attr("dilations", vec![1, 2]),
        on(Op::ConvWeightGrad, &[&[3, 4, 9], &[3, 6, 4]])
            .attr("kernel_shape", vec![3])
            .attr("strides", vec![2]),
        on(Op::ConvWeightGrad, &[&[2, 6, 5, 5], &[2, 9, 5, 4]])
            .attr("kernel_shape", vec![3, 3])
            .attr("group_channels", 2)
            .attr("pads", vec![1; 4]),
        on_tensors(Op::ConvInteger, vec![bytes(&[1, 3, 6, 6]), bytes(&[4, 3, 3, 3])])
            .with(Tensor::scalar(5_u8))
            .with(Tensor::from_vec(vec![4], vec![1_u8, 2, 3, 4]))
            .attr("pads", vec![1; 4]),
        on_tensors(
            Op::QLinearConv,
            vec![
                bytes(&[2, 3, 6, 6]),
                scalar(0.1),
                Tensor::scalar(5_u8),
                bytes(&[4, 3, 3, 3]),
                positive(&[4]),
                Tensor::from_vec(vec![4], vec![1_u8, 2, 3, 4]),
                scalar(0.3),
                Tensor::scalar(100_u8),
            ],
        )
        .with(Tensor::from_vec(vec![4], vec![10_i32, -20, 30, 40]))
        .attr("pads", vec![1; 4]),
        on(Op::DeformConv, &[&[2, 4, 5, 5], &[6, 4, 2, 2], &[2, 16, 4, 4], &[6], &[2, 8, 4, 4]])
            .attr("offset_group", 2),
        on(Op::DeformConvGrad, &[&[2, 4, 5, 5], &[2, 16, 4, 4], &[2, 16, 4, 4], &[2, 8, 4, 4]])
            .attr("kernel_shape", vec![2, 2])
            .attr("offset_group", 2)
            .outputs(3),
    ]
}

fn normalizations() -> Vec<Case> {
    let batch = || {
        on_tensors(
            Op::BatchNormalization,
            vec![floats(&[2, 3, 4, 5]), floats(&[3]), floats(&[3]), floats(&[3]), positive(&[3])],
        )
    };
    vec![
        batch(),
        batch().attr("training_mode", 1).outputs(3),
        on(Op::InstanceNormalization, &[&[2, 3, 4, 5], &[3], &[3]]),
        on(Op::LayerNormalization, &[&[2, 3, 4, 5], &[4, 5], &[5]]).attr("axis", 2).outputs(3),
        on(Op::LayerNormalization, &[&[2, 3, 4], &[3, 4]]),
        on(Op::GroupNormalization, &[&[2, 6, 4], &[6], &[6]]).attr("num_groups", 3),
        on(Op::RMSNormalization, &[&[2, 3, 4], &[4]]),
        on(Op::LpNormalization, &[&[2, 3, 4]]).attr("axis", 1),
        on(Op::LRN, &[&[2, 6, 4]]).attr("size", 3),
        on(Op::MeanVarianceNormalization, &[&[2, 3, 4, 5]]),
        on(Op::LayerNormalizationGrad, &[&[2, 3, 4, 5], &[4, 5], &[2, 3, 4, 5]]).attr("axis", 2),
        on(Op::LayerNormalizationScaleGrad, &[&[4, 3, 5], &[4, 3, 5]]),
        on(Op::RMSNormalizationGrad, &[&[4, 3, 5], &[5], &[4, 3, 5]]),
        on(Op::RMSNormalizationScaleGrad, &[&[4, 3, 5], &[4, 3, 5]]).attr("axis", 1),
        on(Op::ChannelMoments, &[&[4, 3, 5, 2], &[3]]).attr("count", 40),
        on(Op::ChannelMoments, &[&[4, 3, 5], &[3], &[4, 3, 5]]),
    ]
}

fn pooling() -> Vec<Case> {
    let rois = || Tensor::from_vec(vec![2, 4], vec![0.0_f32, 0.0, 3.0, 3.0, 1.0, 1.0, 5.0, 4.0]);
    let boxes = Tensor::from_vec(vec![2, 5], vec![0.0_f32, 0.0, 0.0, 3.0, 3.0, 1.0, 1.0, 1.0, 5.0, 4.0]);
    let pooled =
        |op: Op| on(op, &[&[2, 3, 7, 8]]).attr("kernel_shape", vec![3, 2]).attr("strides", vec![2, 1]);
    vec![
        pooled(Op::MaxPool).attr("pads", vec![1, 0, 2, 1]).attr("dilations", vec![2, 1]),
        pooled(Op::MaxPool).attr("ceil_mode", 1),
        on_tensors(Op::MaxPool, vec![bytes(&[1, 2, 6])])
            .attr("kernel_shape", vec![3])
            .attr("pads", vec![1, 1]),
        pooled(Op::AveragePool),
        pooled(Op::AveragePool).attr("pads", vec![1, 0, 2, 1]),
        pooled(Op::AveragePool).attr("pads", vec![1, 0, 2, 1]).attr("count_include_pad", 1),
        pooled(Op::AveragePool).attr("ceil_mode", 1),
        pooled(Op::LpPool).attr("pads", vec![1, 0, 2, 1]).attr("p", 3),
        pooled(Op::MaxPoolGrad).with(floats(&[2, 3, 4, 8])).attr("pads", vec![1, 0, 2, 1]),
        on(Op::AveragePoolGrad, &[&[2, 3, 4, 9]])
            .attr("kernel_shape", vec![3, 2])
            .attr("strides", vec![2, 1])
            .attr("pads", vec![1, 0, 2, 1])
            .attr("extents", vec![7, 9]),
        on(Op::GlobalAveragePool, &[&[2, 3, 4, 5]]),
        on(Op::GlobalMaxPool, &[&[2, 3, 4, 5]]),
        on(Op::GlobalLpPool, &[&[2, 3, 4]]),
        on_tensors(Op::MaxRoiPool, vec![floats(&[2, 3, 6, 6]), boxes.clone()])
            .attr("pooled_shape", vec![2, 2]),
        on_tensors(Op::RoiAlign, vec![floats(&[2, 3, 6, 6]), rois(), i64s(&[0, 1])])
            .attr("output_height", 2)
            .attr("output_width", 3),
        on_tensors(Op::MaxRoiPoolGrad, vec![floats(&[2, 3, 6, 6]), boxes, floats(&[2, 3, 2, 2])])
            .attr("pooled_shape", vec![2, 2]),
        on_tensors(
            Op::RoiAlignGrad,
            vec![floats(&[2, 3, 6, 6]), rois(), i64s(&[0, 1]), floats(&[2, 3, 2, 3])],
        )
        .attr("output_height", 2)
        .attr("output_width", 3),
    ]
}

fn attention() -> Vec<Case> {
    let four =
        |heads: usize, kv: usize| on(Op::Attention, &[&[2, heads, 5, 4], &[2, kv, 6, 4], &[2, kv, 6, 3]]);
    let recurrent = |op: Op, gates: usize| {
        on(op, &[&[4, 3, 5], &[2, gates * 6, 5], &[2, gates * 6, 6], &[2, 2 * gates * 6]])
            .attr("direction", "bidirectional")
            .attr("hidden_size", 6)
    };
    let lengths = || Tensor::from_vec(vec![3], vec![4_i32, 1, 3]);
    vec![
        four(4, 4),
        four(6, 2).with(bools(&[5, 6])),
        four(4, 2).with(floats(&[2, 4, 1, 6])).attr("softcap", 3.0).outputs(4),
        four(4, 2).attr("is_causal", 1),
        four(4, 2).without().with(floats(&[2, 2, 3, 4])).with(floats(&[2, 2, 3, 3])).outputs(3),
        four(4, 2).without().without().without().with(i64s(&[3, 6])),
        on(Op::Attention, &[&[2, 5, 24], &[2, 6, 8], &[2, 6, 6]])
            .attr("q_num_heads", 6)
            .attr("kv_num_heads", 2),
        on(Op::AttentionGrad, &[&[2, 4, 5, 4], &[2, 2, 6, 4], &[2, 2, 6, 3], &[2, 4, 5, 3], &[4, 1, 6]])
            .attr("is_causal", 1)
            .outputs(4),
        on(Op::AttentionGrad, &[&[2, 5, 24], &[2, 6, 8], &[2, 6, 6], &[2, 5, 18]])
            .attr("q_num_heads", 6)
            .attr("kv_num_heads", 2)
            .outputs(3),
        on(Op::RotaryEmbedding, &[&[2, 3, 4, 8], &[9, 4], &[9, 4]]).with(ints(&[2, 4], 9)),
        on(Op::RotaryEmbedding, &[&[2, 4, 24], &[2, 4, 2], &[2, 4, 2]])
            .attr("num_heads", 3)
            .attr("rotary_embedding_dim", 4)
            .attr("interleaved", 1),
        recurrent(Op::RNN, 1).attr("clip", 1.0).outputs(2),
        recurrent(Op::GRU, 3).with(lengths()).outputs(2),
        recurrent(Op::LSTM, 4).with(lengths()).with(floats(&[2, 3, 6])).with(floats(&[2, 3, 6])).outputs(3),
        on(Op::LSTM, &[&[3, 4, 5], &[1, 24, 5], &[1, 24, 6]]).attr("layout", 1).outputs(3),
    ]
}

fn movement() -> Vec<Case> {
    vec![
        on(Op::Flatten, &[&[4, 3, 2]]),
        on(Op::Squeeze, &[&[3, 1, 4]]).with(i64s(&[1])),
        on(Op::Unsqueeze, &[&[3, 4]]).with(i64s(&[1])),
        on(Op::Transpose, &[&[3, 4, 5]]).attr("perm", vec![2, 0, 1]),
        on(Op::Concat, &[&[3, 4], &[3, 2]]).attr("axis", 1),
        on(Op::Split, &[&[3, 4]]).attr("axis", 1).attr("num_outputs", 2).outputs(2),
        on(Op::Slice, &[&[3, 6, 4]]).with(i64s(&[1])).with(i64s(&[4])).with(i64s(&[1])),
        on(Op::Tile, &[&[3, 4]]).with(i64s(&[1, 2])),
        on(Op::Pad, &[&[3, 4]]).with(i64s(&[0, 1, 0, 2])),
        on(Op::DepthToSpace, &[&[2, 8, 3, 4]]).attr("blocksize", 2),
        on(Op::SpaceToDepth, &[&[2, 3, 4, 6]]).attr("blocksize", 2),
        on(Op::Trilu, &[&[2, 3, 4]]),
        on(Op::ReverseSequence, &[&[4, 3, 2]]).with(i64s(&[2, 4, 1])),
        on(Op::Gather, &[&[5, 4]]).with(ints(&[2, 3], 5)),
        on(Op::Gather, &[&[3, 5, 4]]).with(ints(&[2], 5)).attr("axis", 1),
        on_tensors(Op::GatherGrad, vec![ints(&[2, 3], 5), floats(&[4, 2, 3, 2])])
            .attr("axis", 1)
            .attr("extent", 5),
        on_tensors(Op::GatherGrad, vec![ints(&[4], 3), floats(&[4, 5])]).attr("extent", 3),
        on(Op::GatherElements, &[&[3, 5]]).with(ints(&[3, 4], 5)).attr("axis", 1),
        on(Op::TopK, &[&[3, 5]]).with(i64s(&[2])).outputs(2),
    ]
}

fn losses() -> Vec<Case> {
    let labels = || ints(&[4, 3], 5);
    let loss = |op: Op| on(op, &[&[4, 5, 3]]).with(labels());
    vec![
        loss(Op::SoftmaxCrossEntropyLoss).with(positive(&[5])).attr("reduction", "none").outputs(2),
        loss(Op::SoftmaxCrossEntropyLoss).attr("reduction", "sum").attr("ignore_index", 2),
        loss(Op::SoftmaxCrossEntropyLoss),
        loss(Op::NegativeLogLikelihoodLoss).with(positive(&[5])).attr("reduction", "sum"),
        loss(Op::NegativeLogLikelihoodLoss),
        loss(Op::SoftmaxCrossEntropyGrad).with(scalar(0.25)).with(positive(&[5])),
        loss(Op::SoftmaxCrossEntropyGrad).with(floats(&[4, 3])).attr("ignore_index", 2),
    ]
}

fn optimizers() -> Vec<Case> {
    let step = |op: Op, states: Vec<Tensor>| {
        let parameter = [scalar(0.125), Tensor::scalar(3_i64), floats(&[3, 4]), floats(&[3, 4])];
        let made = states.len() + 1;
        on_tensors(op, parameter.into_iter().chain(states).collect()).attr("weight_decay", 0.25).outputs(made)
    };
    let two = || vec![floats(&[3, 4]), positive(&[3, 4])];
    vec![
        step(Op::SgdStep, Vec::new()),
        step(Op::SgdStep, vec![floats(&[3, 4])]).attr("momentum", 0.5).attr("nesterov", 1),
        step(Op::AdamStep, two()),
        step(Op::AdamStep, two()).attr("decoupled", 1),
        step(Op::AdamaxStep, two()),
        step(Op::RmsPropStep, two()).attr("momentum", 0.5),
        step(Op::LambDirection, two()),
    ]
}

/// Images resized by such scales of width and height.
fn resized(mode: &str, transformation: &str, scales: [f64; 2]) -> Case {
    let scales = Tensor::from_vec(vec![4], vec![1.0, 1.0, scales[0], scales[1]]);
    let case = on(Op::Resize, &[&[2, 3, 4, 5]]).without().with(scales);
    case.attr("mode", mode).attr("coordinate_transformation_mode", transformation)
}

fn rest() -> Vec<Case> {
    vec![
        resized("nearest", "asymmetric", [2.0, 1.0]).attr("nearest_mode", "floor"),
        resized("nearest", "half_pixel", [2.0, 3.0]),
        resized("nearest", "half_pixel", [0.5, 2.0]),
        resized("nearest", "asymmetric", [2.0, 2.0]).attr("nearest_mode", "ceil"),
        resized("nearest", "align_corners", [2.0, 2.0]),
        resized("linear", "half_pixel", [2.0, 2.0]),
        on(Op::GridSample, &[&[2, 3, 4, 5], &[2, 6, 3, 2]]).attr("padding_mode", "reflection"),
        on(Op::GridSampleGrad, &[&[3, 2, 4, 5], &[3, 6, 3, 2], &[3, 2, 6, 3]])
            .attr("padding_mode", "border")
            .outputs(2),
        on(Op::QuantizeLinear, &[&[3, 4]]).with(scalar(0.1)).with(Tensor::scalar(9_u8)),
        on_tensors(Op::QuantizeLinear, vec![floats(&[3, 8]), positive(&[3, 2])]).attr("block_size", 4),
        on_tensors(Op::DequantizeLinear, vec![bytes(&[3, 4]), positive(&[4])]),
    ]
}
