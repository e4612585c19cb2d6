//! Random inputs that a model can take.

use orrery_base::{Diagnostic, Result};
use orrery_ir::op::Datum;
use orrery_ir::{Graph, Op, Type, ValueId, weights};
use orrery_numerics::random::random_word;
use orrery_numerics::{DType, Rounding, Tensor};

/// An input that was made.
#[derive(Clone, Debug)]
pub struct Made {
    /// Its name.
    pub name: String,
    /// Its elements.
    pub datum: Datum,
    /// How they were drawn, in a few words.
    pub drawn: String,
}

/// Makes input number `number` of a graph whose dimensions are all bound; one that may be absent is. The same seed gives
/// the same elements.
///
/// # Errors
/// `input-random` for strings, lists and sizes that are not known.
pub fn random(graph: &Graph, number: usize, seed: u64) -> Result<Made> {
    let id = graph.inputs[number];
    let value = &graph.values[id];
    let seed = weights::hash64(seed, number as u64);
    let refuse = |why: &str| {
        Diagnostic::error("input-random", format!("input `{}` of type {} {why}", value.name, value.ty))
            .help("give it with --input")
            .err()
    };
    if let Type::Optional(_) = value.ty {
        let name = value.name.clone();
        return Ok(Made { name, datum: Datum::Optional(None), drawn: "absent".to_owned() });
    }
    let Type::Tensor(ty) = &value.ty else { return refuse("is no tensor and cannot be drawn at random") };
    let Some(extents) = ty.extents() else { return refuse("has a size that is not known") };
    let count = extents.iter().try_fold(1_usize, |n, e| n.checked_mul(*e));
    let Some(count) = count.filter(|n| *n <= 1 << 34) else { return refuse("is too large to draw") };
    let (tensor, drawn) = match ty.dtype {
        DType::Str => return refuse("cannot be drawn at random"),
        DType::Bool => (Tensor::from_bools(extents, (0..count).map(|_| true)), "all true".to_owned()),
        dtype if dtype.is_float() => {
            let elements = weights::normal(seed, count, 0.0, 1.0);
            let tensor = Tensor::from_f32(dtype, extents, elements, Rounding::NearestEven, true);
            (tensor, "normal, mean 0, deviation 1".to_owned())
        }
        DType::C64 => {
            let parts = weights::normal(seed, 2 * count, 0.0, 1.0);
            (Tensor::from_raw(DType::C64, extents, parts), "normal, mean 0, deviation 1".to_owned())
        }
        dtype if dtype.is_int() => {
            let (least, end) = range(graph, id, dtype);
            let span = (end - least).max(1) as u64;
            let elements: Vec<i64> =
                (0..count as u64).map(|i| least + (random_word(seed, i, 0) % span) as i64).collect();
            let drawn = if span == 1 {
                format!("all {least}")
            } else {
                format!("whole numbers from {least} below {end}")
            };
            (integers(dtype, extents, &elements), drawn)
        }
        _ => return refuse("cannot be drawn at random"),
    };
    Ok(Made { name: value.name.clone(), datum: tensor.into(), drawn })
}

fn integers(dtype: DType, extents: Vec<usize>, elements: &[i64]) -> Tensor {
    let bytes: Vec<u8> =
        elements.iter().flat_map(|e| e.to_le_bytes()[..dtype.host_bytes()].to_vec()).collect();
    Tensor::from_bytes(dtype, extents, bytes.into()).expect("as many bytes as elements")
}

/// Whole numbers that an integer input may hold, from the first to below the second: indices within the table they look
/// up, ones for a mask, else 0 and 1.
fn range(graph: &Graph, input: ValueId, dtype: DType) -> (i64, i64) {
    let mut pending = vec![input];
    let mut seen = vec![input];
    let mut end: Option<i64> = None;
    let mut mask = graph.values[input].name.to_lowercase().contains("mask");
    while let Some(value) = pending.pop() {
        for node in graph.nodes.values() {
            for place in node.inputs.iter().enumerate().filter(|(_, v)| **v == Some(value)).map(|(i, _)| i) {
                let data = |axis: i64| {
                    let shape = graph.values[node.inputs[0]?].ty.as_tensor()?.shape.clone()?;
                    let axis = if axis < 0 { axis + shape.len() as i64 } else { axis };
                    shape.get(usize::try_from(axis).ok()?)?.known()
                };
                let limit = match (node.op, place) {
                    (Op::Gather | Op::GatherElements, 1) => data(node.attrs.int_or("axis", 0)),
                    (Op::GatherND, 1) => data(node.attrs.int_or("batch_dims", 0)),
                    (Op::Cast, 0) if node.attrs.dtype("to") == Some(DType::Bool) => {
                        mask = true;
                        None
                    }
                    (Op::OneHot, 0) => node.inputs[1]
                        .and_then(|depth| graph.tensor_of(depth)?.values::<i64>()?.first().copied()),
                    (
                        Op::Cast
                        | Op::Unsqueeze
                        | Op::Squeeze
                        | Op::Reshape
                        | Op::Flatten
                        | Op::Identity
                        | Op::Transpose
                        | Op::Expand
                        | Op::Slice
                        | Op::Concat
                        | Op::Split,
                        _,
                    ) => {
                        for output in
                            node.outputs.iter().flatten().filter(|o| !seen.contains(o)).collect::<Vec<_>>()
                        {
                            seen.push(*output);
                            pending.push(*output);
                        }
                        None
                    }
                    _ => None,
                };
                if let Some(limit) = limit {
                    end = Some(end.map_or(limit, |end| end.min(limit)));
                }
            }
        }
    }
    let most = i64::try_from(dtype.int_range().1).unwrap_or(i64::MAX);
    match end {
        Some(end) => (0, end.min(most.saturating_add(1)).max(1)),
        None if mask => (1, 2),
        None => (0, 2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_ir::text;

    #[test]
    fn integers_stay_within_the_table_they_look_up() {
        let graph = text::parse(
            r#"graph "lookup" {
              input %ids: i64[2, 50]
              input %flags: i32[4]
              input %x: f32[3]
              constant %table: f32[7, 5] = absent
              constant %axes: i64[1] = [0]
              %more: i64[1, 2, 50] = Unsqueeze(%ids, %axes)
              %rows: f32[1, 2, 50, 5] = Gather(%table, %more)
              %mask: bool[4] = Cast(%flags) {to = bool}
              output %rows
              output %mask
              output %x
            }"#,
        )
        .unwrap();
        let ids = random(&graph, 0, 1).unwrap();
        let Datum::Tensor(tensor) = &ids.datum else { panic!("a tensor") };
        let elements = tensor.values::<i64>().unwrap().into_owned();
        assert!(elements.iter().all(|e| (0..7).contains(e)));
        assert_eq!((elements.iter().min(), elements.iter().max()), (Some(&0), Some(&6)));
        assert_eq!(ids.drawn, "whole numbers from 0 below 7");
        assert_eq!(random(&graph, 1, 1).unwrap().drawn, "all 1");
        let again = (random(&graph, 2, 9).unwrap(), random(&graph, 2, 9).unwrap());
        assert_eq!(format!("{:?}", again.0.datum), format!("{:?}", again.1.datum));
    }
}
