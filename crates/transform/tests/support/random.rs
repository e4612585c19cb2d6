//! Random inputs.

use orrery_ir::op::Datum;
use orrery_ir::weights::{hash64, normal};
use orrery_ir::{Bindings, Graph};
use orrery_numerics::{DType, Rounding, Tensor, cast};

/// Random inputs for a graph: floats around zero, integers from 0 to 7, bools.
pub(crate) fn inputs(graph: &Graph, bindings: &Bindings, seed: u64) -> Vec<Datum> {
    let make = |(i, id): (usize, &orrery_ir::ValueId)| {
        let ty = graph.values[*id].ty.bind(bindings);
        let ty = ty.as_tensor().expect("inputs are tensors");
        let shape = ty.extents().unwrap_or_else(|| panic!("`{}` is open: {ty}", graph.values[*id].name));
        let count = shape.iter().product();
        let seed = hash64(seed, i as u64);
        let tensor = if ty.dtype.is_float() {
            Tensor::from_vec(shape, normal(seed, count, 0.0, 1.0))
        } else {
            let most = if ty.dtype == DType::Bool { 2 } else { 8 };
            Tensor::from_vec(
                shape,
                (0..count as u64).map(|k| (hash64(seed, k) % most) as i64).collect::<Vec<_>>(),
            )
        };
        cast(&tensor, ty.dtype, Rounding::NearestEven, false).expect("numbers").into()
    };
    graph.inputs.iter().enumerate().map(make).collect()
}
