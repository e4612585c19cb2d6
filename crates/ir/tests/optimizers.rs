//! Optimizers against the parameters that `torch.optim` makes; tests/oracle/torch_optimizers.py writes the table and says
//! how the lines are to be read.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking too")]

use orrery_ir::op::Datum;
use orrery_ir::{Attrs, Graph, Op, Type, interpret};
use orrery_numerics::{DType, Tensor};

const TABLE: &str = include_str!("optimizers.txt");
const START: [f64; 3] = [1.0, -0.5, 0.25];
const GRADIENTS: [[f64; 3]; 2] = [[0.5, -0.25, 0.125], [-0.375, 0.5, 0.0625]];
const RATE: f64 = 0.125;

/// One step as a graph of binary64, the parameter and `states` states with it.
fn graph(op: Op, attrs: Attrs, states: usize) -> Graph {
    let mut graph = Graph::new("step");
    let scalar = |dtype: DType| Type::tensor(dtype, Vec::<usize>::new());
    let mut inputs =
        vec![Some(graph.add_input("r", scalar(DType::F64))), Some(graph.add_input("t", scalar(DType::I64)))];
    let numbers = Type::tensor(DType::F64, [3_usize]);
    inputs.extend((0..states + 2).map(|i| Some(graph.add_input(format!("in{i}"), numbers.clone()))));
    let names = (0..=states).map(|i| Some(format!("out{i}"))).collect();
    let node = graph.add_node(op, "step", inputs, names, attrs, Vec::new());
    graph.outputs = graph.nodes[node].outputs.iter().flatten().copied().collect();
    orrery_ir::infer::infer(&mut graph).unwrap();
    graph
}

/// The parameters after each of two steps.
fn steps(op: Op, attrs: &Attrs) -> Vec<f64> {
    let states = match op {
        Op::SgdStep => usize::from(attrs.get("momentum").is_some()),
        _ => 2,
    };
    let graph = graph(op, attrs.clone(), states);
    let tensor = |values: &[f64]| Tensor::from_vec(vec![3], values.to_vec());
    let mut parameter = START.to_vec();
    let mut kept = vec![tensor(&[0.0; 3]); states];
    let mut made = Vec::new();
    for (gradient, number) in GRADIENTS.iter().zip(1_i64..) {
        let scalars = [Tensor::scalar(RATE), Tensor::scalar(number)];
        let inputs = scalars.into_iter().chain([tensor(&parameter), tensor(gradient)]).chain(kept.clone());
        let outputs = interpret::run(&graph, inputs.map(Datum::Tensor).collect(), 0).unwrap();
        let tensors: Vec<Tensor> = outputs.iter().map(|datum| datum.as_tensor().unwrap().clone()).collect();
        let result = tensors[0].to_f64().unwrap();
        if op == Op::LambDirection {
            let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
            let trust = RATE * norm(&parameter) / norm(&result);
            parameter.iter_mut().zip(result.iter()).for_each(|(p, u)| *p -= trust * u);
        } else {
            parameter = result.to_vec();
        }
        made.extend(&parameter);
        kept = tensors[1..].to_vec();
    }
    made
}

#[test]
fn two_steps_are_those_of_pytorch() {
    let mut lines = 0;
    for line in TABLE.lines() {
        let (words, numbers) = line.split_once(": ").unwrap();
        let mut words = words.split(' ');
        let name = words.next().unwrap();
        let op = *Op::ALL.iter().find(|op| op.to_string() == name).unwrap();
        let mut attrs = Attrs::new();
        for word in words {
            let (key, value) = word.split_once('=').unwrap();
            match value.parse::<i64>() {
                Ok(flag) => attrs.set(key, flag),
                Err(_) => attrs.set(key, value.parse::<f64>().unwrap()),
            }
        }
        let want: Vec<f64> = numbers.split(' ').map(|n| n.parse().unwrap()).collect();
        let got = steps(op, &attrs);
        assert_eq!(got.len(), want.len(), "{line}");
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() <= 1e-8 * (1.0 + want.abs()), "{line}: got {got}, want {want}");
        }
        lines += 1;
    }
    assert_eq!(lines, 14);
}
