//! Constants, and operators whose attributes hold tensors.

use super::super::call::Call;
use super::super::import::Import;
use super::super::operators::Done;
use super::super::tensor::{read_sparse, read_tensor};
use super::shape::tensor_attribute;
use orrery_base::{Diagnostic, Result};
use orrery_ir::{Op, Type, Weight};
use orrery_numerics::{DType, Tensor};

/// Constant in all its forms becomes a constant of the graph.
pub(in super::super) fn constant<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    let wrong = |cause: &str| Diagnostic::error("onnx-attribute", format!("the constant {cause}"));
    let (Some(&output), 1) = (call.outputs.first(), call.outputs.len()) else {
        return wrong("must have one output").err();
    };
    if call.attributes.len() != 1 {
        return wrong(&format!("has {} values, must have one", call.attributes.len())).err();
    }
    let Some((name, attribute)) = call.attributes.pop_first() else { return wrong("has no value").err() };
    call.attributes.insert(name, attribute);
    let tensor = match name {
        "value" => {
            let Some(proto) = &attribute.t else {
                return wrong("has an attribute `value` that is no tensor").err();
            };
            let loaded = read_tensor(proto, output, &mut import.external)?;
            let ty = Type::tensor(loaded.dtype, loaded.shape);
            let weight = loaded.tensor.map_or_else(
                || {
                    import.report.absent_weights.push(output.to_owned());
                    Weight::Absent
                },
                Weight::Data,
            );
            import.build.weight(output, ty, weight)?;
            return Ok(Done::Made);
        }
        "sparse_value" => match &attribute.sparse_tensor {
            Some(proto) => read_sparse(proto, output, &mut import.external)?,
            None => return wrong("has an attribute `sparse_value` that is no sparse tensor").err(),
        },
        "value_float" => Tensor::scalar(call.take_float(name)?.unwrap_or(0.0) as f32),
        "value_int" => Tensor::scalar(call.take_int(name)?.unwrap_or(0)),
        "value_string" => Tensor::from_strings(Vec::new(), vec![call.take_str(name)?.unwrap_or_default()]),
        "value_floats" => {
            let values: Vec<f32> =
                call.take_floats(name)?.unwrap_or_default().into_iter().map(|v| v as f32).collect();
            Tensor::from_vec(vec![values.len()], values)
        }
        "value_ints" => {
            let values = call.take_ints(name)?.unwrap_or_default();
            Tensor::from_vec(vec![values.len()], values)
        }
        "value_strings" => {
            let values = call.take_strs(name)?.unwrap_or_default();
            Tensor::from_strings(vec![values.len()], values)
        }
        other => return wrong(&format!("has an unknown attribute `{other}`")).err(),
    };
    let ty = Type::tensor(tensor.dtype(), tensor.shape().iter().copied());
    import.build.weight(output, ty, Weight::Data(tensor))?;
    Ok(Done::Made)
}

/// ConstantOfShape: the value is an input of the op, an attribute in the file.
pub(in super::super) fn constant_of_shape<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    if let Some(value) = tensor_attribute(import, call, "value")? {
        let name = import.build.step_name(call, "value");
        let value = import.build.constant(&name, value);
        call.set_input(1, value);
    }
    Ok(Done::Becomes(Op::ConstantOfShape))
}

/// LabelEncoder: keys and values as lists; tensors since version 4.
pub(in super::super) fn label_encoder<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    for what in ["keys", "values"] {
        let Some(tensor) = tensor_attribute(import, call, &format!("{what}_tensor"))? else { continue };
        match tensor.dtype() {
            DType::Str => call.set.set(&format!("{what}_strings"), tensor.strings().to_vec()),
            DType::I64 => call.set.set(&format!("{what}_int64s"), tensor.raw::<i64>().into_owned()),
            DType::F32 => call.set.set(&format!("{what}_floats"), floats(&tensor)),
            other => return Ok(Done::Cannot(format!("{what} of type {other} are not handled"))),
        }
    }
    if let Some(default) = tensor_attribute(import, call, "default_tensor")? {
        match (default.dtype(), default.len()) {
            (DType::Str, 1) => call.set.set("default_string", default.strings()[0].clone()),
            (DType::I64, 1) => call.set.set("default_int64", default.raw::<i64>()[0]),
            (DType::F32, 1) => call.set.set("default_float", floats(&default)[0]),
            (other, count) => {
                return Ok(Done::Cannot(format!("a default of {count} {other} is not handled")));
            }
        }
    }
    Ok(Done::Becomes(Op::LabelEncoder))
}

fn floats(tensor: &Tensor) -> Vec<f64> {
    tensor.raw::<f32>().iter().copied().map(f64::from).collect()
}
