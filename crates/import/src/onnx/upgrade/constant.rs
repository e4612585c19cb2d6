//! Constants, and operators whose attributes hold tensors.

use super::super::call::Call;
use super::super::import::Import;
use super::super::operators::Done;
use super::super::tensor::{read_sparse, read_tensor};
use super::shape::tensor_attribute;
use orrery_base::{Diagnostic, Result};
use orrery_ir::{Attrs, Op, Type, Weight};
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

/// LabelEncoder: keys and values as lists; since version 4 also as tensors, of more types than the lists have.
pub(in super::super) fn label_encoder<'m>(import: &mut Import<'m>, call: &mut Call<'m>) -> Result<Done> {
    if let Some(keys) = tensor_attribute(import, call, "keys_tensor")? {
        let Some(held) = set_list(call, "keys", &keys) else {
            return Ok(Done::Cannot(format!("keys of type {} are not handled", keys.dtype())));
        };
        if held != keys.dtype() {
            let data = [Some(call.needed(0)?)];
            let keyed = import.build.step(call, Op::Cast, "keys", &data, Attrs::new().with("to", held))?;
            call.inputs[0] = Some(keyed);
        }
    }
    let mut made = None;
    if let Some(values) = tensor_attribute(import, call, "values_tensor")? {
        let Some(held) = set_list(call, "values", &values) else {
            return Ok(Done::Cannot(format!("values of type {} are not handled", values.dtype())));
        };
        made = (held != values.dtype()).then_some(values.dtype());
    }
    if let Some(default) = tensor_attribute(import, call, "default_tensor")? {
        match (listed_as(default.dtype()), default.len()) {
            (Some(DType::Str), 1) => call.set.set("default_string", default.strings()[0].clone()),
            (Some(DType::I64), 1) => call.set.set("default_int64", ints(&default)[0]),
            (Some(DType::F32), 1) => call.set.set("default_float", floats(&default)[0]),
            (_, count) => {
                return Ok(Done::Cannot(format!("a default of {count} {} is not handled", default.dtype())));
            }
        }
    }
    let Some(wanted) = made else { return Ok(Done::Becomes(Op::LabelEncoder)) };
    let attrs = call.finish_attributes(Op::LabelEncoder)?;
    let data = [Some(call.needed(0)?)];
    let encoded = import.build.step(call, Op::LabelEncoder, "values", &data, attrs)?;
    call.inputs = vec![Some(encoded)];
    call.set.set("to", wanted);
    Ok(Done::Becomes(Op::Cast))
}

/// The list that holds elements of a type.
fn listed_as(dtype: DType) -> Option<DType> {
    match dtype {
        DType::Str => Some(DType::Str),
        DType::I64 | DType::I32 | DType::I16 => Some(DType::I64),
        DType::F32 => Some(DType::F32),
        _ => None,
    }
}

/// Sets `what_strings`, `what_int64s` or `what_floats` and says which type that is; none where there is no such list.
fn set_list(call: &mut Call<'_>, what: &str, tensor: &Tensor) -> Option<DType> {
    let held = listed_as(tensor.dtype())?;
    match held {
        DType::Str => call.set.set(&format!("{what}_strings"), tensor.strings().to_vec()),
        DType::I64 => call.set.set(&format!("{what}_int64s"), ints(tensor)),
        _ => call.set.set(&format!("{what}_floats"), floats(tensor)),
    }
    Some(held)
}

fn ints(tensor: &Tensor) -> Vec<i64> {
    tensor.to_i64().map(std::borrow::Cow::into_owned).unwrap_or_default()
}

fn floats(tensor: &Tensor) -> Vec<f64> {
    tensor.to_f64().map(std::borrow::Cow::into_owned).unwrap_or_default()
}
