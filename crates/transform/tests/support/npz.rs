//! Inputs and outputs in npz files.

use orrery_ir::Graph;
use orrery_ir::op::Datum;
use orrery_numerics::Tensor;
use std::collections::BTreeMap;
use std::path::Path;

/// The tensors of an npz file by name.
pub(crate) fn read(path: &Path) -> BTreeMap<String, Tensor> {
    let mut archive = npyz::npz::NpzArchive::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let names: Vec<String> = archive.array_names().map(str::to_owned).collect();
    names
        .into_iter()
        .map(|name| {
            let array = archive.by_name(&name).expect("a valid file").expect("it was listed");
            let shape: Vec<usize> = array.shape().iter().map(|&n| n as usize).collect();
            let npyz::DType::Plain(ty) = array.dtype() else { panic!("`{name}` is a record") };
            let tensor = match ty.to_string().trim_start_matches(['<', '|', '=']) {
                "f4" => Tensor::from_vec(shape, array.into_vec::<f32>().expect("all elements")),
                "i8" => Tensor::from_vec(shape, array.into_vec::<i64>().expect("all elements")),
                "i4" => Tensor::from_vec(shape, array.into_vec::<i32>().expect("all elements")),
                other => panic!("`{name}` has elements {other}"),
            };
            (name, tensor)
        })
        .collect()
}

/// Inputs in the graph's order.
pub(crate) fn arrange(graph: &Graph, named: &BTreeMap<String, Tensor>) -> Vec<Datum> {
    graph.inputs.iter().map(|id| named[&graph.values[*id].name].clone().into()).collect()
}

/// Outputs in the graph's order.
pub(crate) fn expected(graph: &Graph, named: &BTreeMap<String, Tensor>) -> Vec<Tensor> {
    (0..graph.outputs.len()).map(|i| named[graph.output_name(i)].clone()).collect()
}
