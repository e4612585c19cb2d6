//! Gradients of whole networks are those of PyTorch: see `tests/oracle/torch_gradients.py`.

#[expect(dead_code, reason = "the gradients are held against PyTorch's, the outputs by other tests")]
#[path = "support/npz.rs"]
mod npz;

use orrery_import::onnx;
use orrery_ir::op::Datum;
use orrery_ir::{Bindings, Def, Extend, Graph, ValueId, Weight, infer, interpret, verify};
use orrery_numerics::{DType, Tensor};
use orrery_transform::{Options, differentiate, prepare};
use std::collections::BTreeMap;
use std::path::Path;

/// Largest difference from PyTorch, relative to the largest element of a gradient.
const TOLERANCE: f64 = 1e-4;
/// Gradients smaller than this are zero but for roundings, as those of the biases of keys are.
const SMALLEST: f64 = 1e-2;

/// A weight of the file, and whether the parameter stands transposed in it.
fn parts(key: &str) -> impl Iterator<Item = (&str, bool)> {
    key.split('+').map(|part| part.strip_suffix("^T").map_or((part, false), |name| (name, true)))
}

/// Sizes of symbols, from the inputs' shapes.
fn sizes(graph: &Graph, inputs: &[Datum]) -> Bindings {
    let mut sizes = Bindings::default();
    for (id, datum) in graph.inputs.iter().zip(inputs) {
        let shape = graph.values[*id].ty.as_tensor().and_then(|ty| ty.shape.clone()).unwrap_or_default();
        let extents = datum.as_tensor().expect("inputs are tensors").shape().to_vec();
        for (dim, extent) in shape.iter().zip(extents).filter(|(dim, _)| dim.known().is_none()) {
            sizes.insert(dim.to_string(), extent as i64);
        }
    }
    sizes
}

/// The sum of all outputs' elements, each times the cosine of its index.
fn loss(extend: &mut Extend) -> ValueId {
    let mut total: Option<ValueId> = None;
    for output in extend.graph().outputs.clone() {
        let shape = extend.shape(output).expect("symbols are bound");
        let count = shape.iter().product::<i64>();
        let factors: Vec<f32> = (0..count).map(|i| (i as f64).cos() as f32).collect();
        let extents = shape.iter().map(|n| *n as usize).collect();
        let factors = extend.tensor("factors", Tensor::from_vec(extents, factors));
        let part = extend.mul(output, factors).expect("they are of one shape");
        let axes: Vec<i64> = (0..shape.len() as i64).collect();
        let part = extend.sum(part, &axes, false).expect("axes are in range");
        total = Some(total.map_or(part, |total| extend.add(total, part).expect("both are scalars")));
    }
    total.expect("there are outputs")
}

/// A tensor's elements, of the transposed matrix where asked for.
fn elements(tensor: &Tensor, turned: bool) -> Vec<f64> {
    let values = tensor.to_f64().expect("floats").into_owned();
    match tensor.shape() {
        [rows, columns] if turned => {
            (0..values.len()).map(|i| values[i % rows * columns + i / rows]).collect()
        }
        _ => values,
    }
}

fn check(network: &str, file: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/exports").join(network);
    let imported = onnx::load_path(&folder.join(format!("{file}.onnx")), &onnx::Options::default())
        .unwrap_or_else(|d| panic!("{d}"));
    let mut graph = imported.graph.expect("nothing in it is unknown");
    let mut inputs = npz::arrange(&graph, &npz::read(&folder.join("0.input.npz")));
    let bindings = sizes(&graph, &inputs);
    infer::bind(&mut graph, &bindings).unwrap_or_else(|d| panic!("{d}"));
    let expected = npz::read(&folder.join(format!("{file}.gradients.npz")));
    let keys: Vec<&String> = expected.keys().filter(|k| *k != "loss" && !k.ends_with("#norm")).collect();
    // Weights become inputs, so that nothing is folded into them.
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in keys.iter().flat_map(|key| parts(key)) {
        let id = graph.values.ids().find(|id| graph.values[*id].name == name);
        let id = id.unwrap_or_else(|| panic!("{network}/{file} has no `{name}`"));
        let Def::Constant(Weight::Data(data)) = graph.values[id].def.clone() else {
            panic!("`{name}` is no weight")
        };
        graph.values[id].def = Def::Input;
        graph.inputs.push(id);
        inputs.push(data.into());
        names.push(name);
    }
    let options = Options { fold_batch_norm: false, ..Options::default() };
    let prepared = prepare(&graph, &options).unwrap_or_else(|d| panic!("{network}/{file}: {d}")).graph;
    let first = prepared.inputs.len() - names.len();
    let wrt = prepared.inputs[first..].to_vec();
    let mut extend = Extend::new(prepared).unwrap_or_else(|d| panic!("{d}"));
    let total = loss(&mut extend);
    let one = extend.scalar(DType::F32, 1.0);
    let gradients =
        differentiate(&mut extend, total, one, &wrt).unwrap_or_else(|d| panic!("{network}/{file}: {d}"));
    let at_loss = extend.output("total", total);
    let at: BTreeMap<&str, usize> = names
        .iter()
        .zip(gradients)
        .map(|(name, gradient)| {
            let gradient = gradient.unwrap_or_else(|| panic!("`{name}` has no gradient"));
            (*name, extend.output("gradient", gradient))
        })
        .collect();
    let whole = extend.finish();
    verify::verify(&whole).unwrap_or_else(|d| panic!("{d}"));
    let made = interpret::run(&whole, inputs, 0).unwrap_or_else(|d| panic!("{d}"));
    let tensor = |output: usize| made[output].as_tensor().expect("it is a tensor");
    let close = |what: &str, found: f64, wanted: f64, largest: f64| {
        let error = (found - wanted).abs() / largest.max(SMALLEST);
        assert!(error <= TOLERANCE, "{network}/{file}, {what}: {found} instead of {wanted}");
    };
    let wanted = expected["loss"].to_f64().expect("a float")[0];
    close("loss", tensor(at_loss).to_f64().expect("a float")[0], wanted, wanted.abs());
    for key in keys {
        let mut found: Vec<f64> = Vec::new();
        for (name, turned) in parts(key) {
            let part = elements(tensor(at[name]), turned);
            found.resize(part.len(), 0.0);
            found.iter_mut().zip(part).for_each(|(sum, v)| *sum += v);
        }
        let samples = expected[key].to_f64().expect("floats");
        let largest = samples.iter().fold(0.0_f64, |most, v| most.max(v.abs()));
        let step = found.len().div_ceil(samples.len());
        for (i, (found, wanted)) in found.iter().step_by(step).zip(samples.iter()).enumerate() {
            close(&format!("`{key}`[{}]", i * step), *found, *wanted, largest);
        }
        let norm = found.iter().map(|v| v * v).sum::<f64>().sqrt();
        let wanted = expected[&format!("{key}#norm")].to_f64().expect("a float")[0];
        close(&format!("norm of `{key}`"), norm, wanted, wanted);
    }
}

#[test]
fn convolutions_and_batch_normalizations() {
    check("resnet", "torchscript-17-batchnorm");
}

#[test]
fn encoders_with_whole_attention() {
    check("bert_sdpa", "dynamo-25");
}

#[test]
fn encoders_spelled_out() {
    check("bert_manual", "torchscript-13");
}

#[test]
fn decoders() {
    check("gpt_sdpa", "torchscript-17");
}

#[test]
fn recurrent_cells() {
    check("lstm", "torchscript-17");
}
