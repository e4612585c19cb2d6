//! Sessions against the interpreter, on graphs of the zoo and on small ones in which much is joined.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking too")]

use orrery_execute::host::{RunOptions, Session};
use orrery_ir::op::Datum;
use orrery_ir::weights::normal;
use orrery_ir::{Attrs, Bindings, Builder, Dim, Graph, Op, Type, ValueId, infer};
use orrery_numerics::{DType, Tensor};

mod shared;
use shared::{compare, inputs};

/// As [`compare`], and the number of steps: how much was joined.
fn compare_steps(graph: &Graph, inputs: &[Datum], tolerance: f32, steps: usize) {
    compare(graph, inputs, tolerance);
    let profile = Session::new(graph, 1).unwrap().profile();
    let shown: Vec<_> = profile.iter().map(|s| (s.kernel, &s.ops)).collect();
    assert_eq!(profile.len(), steps, "{shown:?}");
}

struct Net {
    b: Builder,
    count: usize,
}
impl Net {
    fn new() -> Self {
        Self { b: Builder::new("net", 5), count: 0 }
    }
    fn op(&mut self, op: Op, inputs: &[ValueId], attrs: Attrs) -> ValueId {
        self.count += 1;
        self.b.op(op, &format!("{op}{}", self.count), inputs, attrs)
    }
    fn number(&mut self, x: f32) -> ValueId {
        self.b.constant("number", Tensor::scalar(x))
    }
    fn weight(&mut self, shape: &[usize]) -> ValueId {
        self.b.weight("weight", shape.iter().copied(), 0.3)
    }
    fn conv(&mut self, x: ValueId, shape: [usize; 4], attrs: Attrs) -> ValueId {
        let (w, b) = (self.weight(&shape), self.weight(&shape[..1]));
        self.op(Op::Conv, &[x, w, b], attrs)
    }
}

fn pads(n: i64) -> Attrs {
    Attrs::new().with("pads", vec![n; 4])
}

#[test]
fn elementwise_ops_join_the_convolution_before() {
    let mut n = Net::new();
    let x =
        n.b.input("x", DType::F32, [Dim::from("batch"), 3_usize.into(), 21_usize.into(), 18_usize.into()]);
    let c = n.conv(x, [20, 3, 3, 3], pads(1).with("strides", vec![2_i64, 2]));
    // Hard swish spelled out, then a line: one step with the convolution.
    let (three, zero, six) = (n.number(3.0), n.number(0.0), n.number(6.0));
    let shifted = n.op(Op::Add, &[c, three], Attrs::new());
    let clipped = n.op(Op::Clip, &[shifted, zero, six], Attrs::new());
    let product = n.op(Op::Mul, &[c, clipped], Attrs::new());
    let swish = n.op(Op::Div, &[product, six], Attrs::new());
    // Depthwise, batch normalization, sigmoid.
    let w = n.weight(&[20, 1, 5, 5]);
    let d = n.op(Op::Conv, &[swish, w], pads(2).with("group", 20_i64));
    let [scale, bias, mean] = [(); 3].map(|()| n.weight(&[20]));
    let variance = n.b.weight_around("variance", [20_usize], 1.0, 0.1);
    let normal = n.op(Op::BatchNormalization, &[d, scale, bias, mean, variance], Attrs::new());
    let gate = n.op(Op::Sigmoid, &[normal], Attrs::new());
    // A branch: its sum joins the later convolution.
    let p = n.conv(gate, [20, 20, 1, 1], Attrs::new());
    let sum = n.op(Op::Add, &[p, swish], Attrs::new());
    let relu = n.op(Op::Relu, &[sum], Attrs::new());
    let graph = n.b.finish(&[("y", relu)]).unwrap();
    for batch in [1, 3] {
        compare_steps(&graph, &inputs(&graph, &Bindings::from([("batch".into(), batch)])), 1e-5, 3);
    }
}

#[test]
fn a_value_with_other_readers_is_not_joined_away() {
    let mut n = Net::new();
    let x = n.b.input("x", DType::F32, [1_usize, 24, 9, 9]);
    let c = n.conv(x, [24, 24, 3, 3], pads(1));
    let pooled = n.op(Op::GlobalAveragePool, &[c], Attrs::new());
    let squeezed = n.conv(pooled, [24, 24, 1, 1], Attrs::new());
    let gate = n.op(Op::HardSigmoid, &[squeezed], Attrs::new());
    let scaled = n.op(Op::Mul, &[c, gate], Attrs::new());
    let both = n.op(Op::Add, &[c, scaled], Attrs::new());
    let graph = n.b.finish(&[("y", both), ("c", c), ("y2", both)]).unwrap();
    compare_steps(&graph, &inputs(&graph, &Bindings::new()), 1e-5, 4);
}

#[test]
fn products_of_two_inputs_and_views_keep_what_comes_after() {
    let mut n = Net::new();
    let a = n.b.input("a", DType::F32, [2_usize, 5, 7]);
    let b = n.b.input("b", DType::F32, [2_usize, 7, 9]);
    let bias = n.weight(&[9]);
    let product = n.op(Op::MatMul, &[a, b], Attrs::new());
    let sum = n.op(Op::Add, &[product, bias], Attrs::new());
    let y = n.op(Op::Relu, &[sum], Attrs::new());
    let same = n.op(Op::Identity, &[a], Attrs::new());
    let column = n.weight(&[5, 1]);
    let shifted = n.op(Op::Add, &[same, column], Attrs::new());
    let graph = n.b.finish(&[("y", y), ("shifted", shifted)]).unwrap();
    compare_steps(&graph, &inputs(&graph, &Bindings::new()), 1e-5, 2);
}

#[test]
fn sizes_that_no_memory_has_are_diagnosed() {
    let mut n = Net::new();
    let x = n.b.input("x", DType::F32, [1_usize, 1]);
    let shape = n.b.input("shape", DType::I64, [2_usize]);
    let y = n.op(Op::Expand, &[x, shape], Attrs::new());
    let graph = n.b.finish(&[("y", y)]).unwrap();
    let session = Session::new(&graph, 1).unwrap();
    for extents in [[1 << 31, 1 << 31], [i64::MAX, i64::MAX], [1 << 40, 1]] {
        let shape = Tensor::from_vec(vec![2], extents.to_vec());
        let x = Tensor::from_vec(vec![1, 1], vec![1.0_f32]);
        let failed = session.run(vec![x.into(), shape.into()]).unwrap_err();
        assert_eq!(failed.code, "evaluation");
        assert!(failed.cause.contains("too large"), "{}", failed.cause);
    }
}

#[test]
fn layouts_meet() {
    let mut n = Net::new();
    let x = n.b.input("x", DType::F32, [2_usize, 8, 6, 10]);
    let c = n.conv(x, [12, 8, 3, 3], pads(1));
    let plain = n.op(Op::Add, &[x, x], Attrs::new());
    let order = Attrs::new().with("perm", vec![0_i64, 2, 3, 1]);
    let last = n.op(Op::Transpose, &[c], order);
    let two = n.b.constant("scales", Tensor::from_vec(vec![4], vec![1.0_f32, 1.0, 2.0, 2.0]));
    let roi = n.b.constant("roi", Tensor::from_vec(vec![0], Vec::<f32>::new()));
    let mode =
        Attrs::new().with("coordinate_transformation_mode", "asymmetric").with("nearest_mode", "floor");
    let larger = n.op(Op::Resize, &[c, roi, two], mode);
    let window = Attrs::new().with("kernel_shape", vec![2_i64, 2]).with("strides", vec![2_i64, 2]);
    let smaller = n.op(Op::MaxPool, &[larger], window);
    let joined = n.op(Op::Concat, &[smaller, plain], Attrs::new().with("axis", 1_i64));
    let soft = n.op(Op::Softmax, &[joined], Attrs::new().with("axis", 1_i64));
    let axes = n.b.ints("axes", &[1, 3]);
    let sums = n.op(Op::ReduceMean, &[soft, axes], Attrs::new().with("keepdims", 0_i64));
    let flat = n.op(Op::Flatten, &[smaller], Attrs::new());
    let w = n.weight(&[7, 12 * 6 * 10]);
    let b = n.weight(&[7]);
    let y = n.op(Op::Gemm, &[flat, w, b], Attrs::new().with("transB", 1_i64).with("alpha", 0.5));
    let [starts, ends, axes, steps] = [[-1_i64, 2], [-20, 9], [3, 1], [-2, 3]].map(|v| n.b.ints("slice", &v));
    let slice = n.op(Op::Slice, &[smaller, starts, ends, axes, steps], Attrs::new());
    let amounts = n.b.ints("pads", &[0, 1, 0, 2, 0, 0, 3, 1]);
    let padded = n.op(Op::Pad, &[slice, amounts], Attrs::new());
    let shape = n.op(Op::Shape, &[padded], Attrs::new());
    let outputs = [("last", last), ("sums", sums), ("y", y), ("padded", padded), ("shape", shape)];
    let graph = n.b.finish(&outputs).unwrap();
    compare(&graph, &inputs(&graph, &Bindings::new()), 1e-5);
}

#[test]
fn one_session_runs_many_shapes() {
    let mut n = Net::new();
    let dims = [Dim::from("batch"), 16_usize.into(), "height".into(), "width".into()];
    let x = n.b.input("x", DType::F32, dims);
    let c = n.conv(x, [32, 16, 3, 3], pads(1));
    let t = n.weight(&[32, 5, 2, 2]);
    let up = n.op(Op::ConvTranspose, &[c, t], Attrs::new().with("strides", vec![2_i64, 2]));
    // The sums are some six in size, and so is their rounding; the tolerance is of numbers about one.
    let sixth = n.number(1.0 / 6.0);
    let scaled = n.op(Op::Mul, &[up, sixth], Attrs::new());
    let y = n.op(Op::Tanh, &[scaled], Attrs::new());
    let graph = n.b.finish(&[("y", y)]).unwrap();
    let session = Session::new(&graph, 2).unwrap();
    for (batch, height, width) in [(1, 5, 7), (2, 20, 18), (1, 1, 1), (3, 16, 16), (1, 5, 7)] {
        let bindings =
            Bindings::from([("batch".into(), batch), ("height".into(), height), ("width".into(), width)]);
        let inputs = inputs(&graph, &bindings);
        let expected = compare(&graph, &inputs, 2e-5);
        assert_eq!(session.run(inputs).unwrap(), expected);
    }
}

#[test]
fn recurrent_ops_of_all_directions() {
    for (op, gates) in [(Op::LSTM, 4), (Op::GRU, 3), (Op::RNN, 1)] {
        for direction in ["forward", "reverse", "bidirectional"] {
            for linear in [0_i64, 1] {
                let mut n = Net::new();
                let count = if direction == "bidirectional" { 2 } else { 1 };
                let x = n.b.input("x", DType::F32, [5_usize, 3, 9]);
                let h = n.b.input("h", DType::F32, [count, 3, 21]);
                let w = n.weight(&[count, gates * 21, 9]);
                let r = n.weight(&[count, gates * 21, 21]);
                let b = n.weight(&[count, 2 * gates * 21]);
                let mut attrs = Attrs::new().with("direction", direction).with("hidden_size", 21_i64);
                if op == Op::GRU {
                    attrs.set("linear_before_reset", linear);
                }
                let made =
                    n.b.ops(op, "cell", &[Some(x), Some(w), Some(r), Some(b), None, Some(h)], attrs, 2);
                let graph = n.b.finish(&[("y", made[0]), ("h", made[1])]).unwrap();
                compare(&graph, &inputs(&graph, &Bindings::new()), 1e-5);
            }
        }
    }
}

#[test]
fn bodies_of_control_flow_run_on_the_host_too() {
    let body = |op: Op| {
        let mut n = Net::new();
        let x = n.b.input("x", DType::F32, [4_usize, 6]);
        let w = n.weight(&[6, 6]);
        let y = n.op(Op::MatMul, &[x, w], Attrs::new());
        let y = n.op(op, &[y], Attrs::new());
        n.b.finish(&[("y", y)]).unwrap()
    };
    let mut graph = Graph::new("choice");
    let condition = graph.add_input("condition", Type::tensor(DType::Bool, Vec::<Dim>::new()));
    let x = graph.add_input("x", Type::tensor(DType::F32, [4_usize, 6]));
    let bodies = vec![body(Op::Relu), body(Op::Tanh)];
    let inputs = vec![Some(condition), Some(x)];
    let node = graph.add_node(Op::If, "if", inputs, vec![Some("y".into())], Attrs::new(), bodies);
    graph.outputs = graph.nodes[node].outputs.iter().copied().flatten().collect();
    infer::infer(&mut graph).unwrap();
    for condition in [true, false] {
        let x = Tensor::from_vec(vec![4, 6], normal(3, 24, 0.0, 1.0));
        compare(&graph, &[Tensor::from_bools(vec![], [condition]).into(), x.into()], 1e-5);
    }
}

#[test]
fn models_of_the_zoo() {
    for (name, bindings) in [("braggnn", [("batch", 2)]), ("bert-tiny", [("batch", 2)])] {
        let model = orrery_zoo::find(name).unwrap();
        let graph = model.build(&orrery_zoo::Options::default()).unwrap();
        let mut all = model.default_bindings(&graph);
        all.extend(bindings.map(|(k, v)| (k.to_owned(), v)));
        all.retain(|name, _| graph_symbols(&graph).contains(name));
        if let Some(sequence) = all.get_mut("seq") {
            *sequence = 12;
        }
        compare(&graph, &inputs(&graph, &all), 2e-5);
    }
}

fn graph_symbols(graph: &Graph) -> Vec<String> {
    let shapes = graph.inputs.iter().filter_map(|id| graph.values[*id].ty.as_tensor()?.shape.as_ref());
    shapes.flatten().flat_map(Dim::symbols).collect()
}

#[test]
fn progress_is_shown_and_a_run_can_be_cancelled() {
    let mut n = Net::new();
    let x = n.b.input("x", DType::F32, [2_usize, 3]);
    let y = n.op(Op::Softmax, &[x], Attrs::new());
    let graph = n.b.finish(&[("y", y)]).unwrap();
    let session = Session::new(&graph, 1).unwrap();
    let progress = orrery_base::Progress::default();
    let options = RunOptions { seed: 0, progress: Some(&progress) };
    assert!(session.run_with(inputs(&graph, &Bindings::new()), &options).is_ok());
    progress.cancel();
    let stopped = session.run_with(inputs(&graph, &Bindings::new()), &options).unwrap_err();
    assert_eq!(stopped.code, "cancelled");
    let profile = session.profile();
    assert_eq!((profile[0].kernel, profile[0].calls), ("softmax", 1));
}

#[test]
fn wrong_inputs_are_diagnosed() {
    let mut n = Net::new();
    let x = n.b.input("x", DType::F32, [2_usize, 3]);
    let y = n.op(Op::Relu, &[x], Attrs::new());
    let graph = n.b.finish(&[("y", y)]).unwrap();
    let session = Session::new(&graph, 1).unwrap();
    for wrong in [vec![], vec![Tensor::from_vec(vec![3, 2], vec![0.0_f32; 6]).into()]] {
        assert_eq!(session.run(wrong).unwrap_err().code, "input-mismatch");
    }
}
