//! Sessions against the interpreter.

use orrery_execute::host::Session;
use orrery_ir::op::Datum;
use orrery_ir::weights::normal;
use orrery_ir::{Bindings, Graph, Type, interpret};
use orrery_numerics::{DType, Tensor};

/// Inputs of the graph's types under the bindings.
pub(crate) fn inputs(graph: &Graph, bindings: &Bindings) -> Vec<Datum> {
    let mut made = Vec::new();
    for (i, id) in graph.inputs.iter().enumerate() {
        let Type::Tensor(ty) = graph.values[*id].ty.bind(bindings) else { panic!("tensors only") };
        let shape = ty.extents().expect("all symbols are bound");
        let count = shape.iter().product();
        let tensor = match ty.dtype {
            DType::F32 => Tensor::from_vec(shape, normal(i as u64 + 1, count, 0.0, 1.0)),
            DType::I64 => {
                // There are two kinds of segments.
                let kinds = if graph.values[*id].name == "token_type_ids" { 2 } else { 5 };
                Tensor::from_vec(shape, (0..count as i64).map(|x| x * 7 % kinds).collect())
            }
            DType::I32 => Tensor::from_vec(shape, (0..count as i32).map(|x| x * 7 % 5).collect()),
            other => panic!("no inputs of {other}"),
        };
        made.push(tensor.into());
    }
    made
}

/// Runs on one to three threads, twice each, sees that all agree to the bit, and compares with the interpreter.
pub(crate) fn compare(graph: &Graph, inputs: &[Datum], tolerance: f32) -> Vec<Datum> {
    let expected = interpret::run(graph, inputs.to_vec(), 0).unwrap();
    let mut first: Option<Vec<Datum>> = None;
    for threads in 1..=3 {
        let session = Session::new(graph, threads).unwrap();
        for _ in 0..2 {
            let got = session.run(inputs.to_vec()).unwrap();
            match &first {
                None => first = Some(got),
                Some(first) => assert_eq!(first, &got, "{threads} threads"),
            }
        }
    }
    let got = first.unwrap();
    assert_eq!(expected.len(), got.len());
    for (place, (expected, got)) in expected.iter().zip(&got).enumerate() {
        let (expected, got) = (expected.as_tensor().unwrap(), got.as_tensor().unwrap());
        assert_eq!((expected.dtype(), expected.shape()), (got.dtype(), got.shape()));
        if expected.dtype() != DType::F32 {
            assert_eq!(expected, got);
            continue;
        }
        let (expected, got) = (expected.raw::<f32>(), got.raw::<f32>());
        let scale = expected.iter().fold(1.0_f32, |most, x| most.max(x.abs()));
        for (e, g) in expected.iter().zip(got.iter()) {
            assert!(
                (e - g).abs() <= tolerance * scale || e.is_nan() && g.is_nan(),
                "{g} for {e} in output {place}"
            );
        }
    }
    got
}
