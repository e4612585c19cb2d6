//! Cutting an op into parts, evaluating them and putting the results together.

use crate::cases::Case;
use orrery_ir::interpret;
use orrery_ir::op::{Access, AxisKind, Combine, Datum, IterSpace};
use orrery_ir::weights::hash64;
use orrery_numerics::{DType, Rounding, Tensor, cast};

/// For each axis, the ranges that it is cut into.
pub(crate) type Parts = Vec<Vec<(usize, usize)>>;

/// Each axis in one to three ranges.
pub(crate) fn partition(space: &IterSpace, seed: u64) -> Parts {
    let mut count = 0;
    let mut below = |n: usize| {
        count += 1;
        (hash64(seed, count) % n as u64) as usize
    };
    let mut parts = Vec::new();
    for axis in &space.axes {
        let extent = axis.extent.extent().expect("cases have known extents");
        let mut borders: Vec<usize> = (0..below(3)).map(|_| below(extent.max(1)) + 1).collect();
        borders.extend([0, extent]);
        borders.retain(|b| *b <= extent);
        borders.sort_unstable();
        borders.dedup();
        parts.push(borders.windows(2).map(|w| (w[0], w[1])).collect());
    }
    parts
}

/// The range that a box needs of an operand's dimension of extent `extent`.
fn range(access: &Access, ranges: &[(usize, usize)], extent: usize) -> (i64, i64) {
    match access {
        Access::Whole => (0, extent as i64),
        Access::Along { axis, scale } => {
            let scale = scale.known().expect("cases have known extents");
            (ranges[*axis].0 as i64 * scale, ranges[*axis].1 as i64 * scale)
        }
        Access::Window { axis, stride, before, reach } => {
            let (lo, hi) = (ranges[*axis].0 as i64, ranges[*axis].1 as i64);
            (lo * stride - before, (hi - 1) * stride - before + reach)
        }
    }
}

/// Row-major places of all indices of a shape.
fn indices(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> + '_ {
    (0..shape.iter().product::<usize>()).map(|mut at| {
        let mut index = vec![0; shape.len()];
        for d in (0..shape.len()).rev() {
            index[d] = at % shape[d];
            at /= shape[d];
        }
        index
    })
}

fn place(index: &[usize], shape: &[usize]) -> usize {
    index.iter().zip(shape).fold(0, |at, (i, n)| at * n + i)
}

/// The elements of `tensor` in `ranges`, padding outside.
fn slice(tensor: &Tensor, ranges: &[(i64, i64)], padding: f64) -> Tensor {
    let shape: Vec<usize> = ranges.iter().map(|(lo, hi)| (hi - lo) as usize).collect();
    let size = tensor.dtype().host_bytes();
    let pad = cast(&Tensor::scalar(padding), tensor.dtype(), Rounding::NearestEven, false)
        .expect("a number becomes any number");
    let mut bytes = Vec::new();
    for index in indices(&shape) {
        let from: Option<Vec<usize>> = index
            .iter()
            .zip(ranges)
            .zip(tensor.shape())
            .map(|((i, (lo, _)), n)| usize::try_from(lo + *i as i64).ok().filter(|at| at < n))
            .collect();
        match from {
            Some(from) => {
                let at = place(&from, tensor.shape()) * size;
                bytes.extend_from_slice(&tensor.bytes()[at..at + size]);
            }
            None => bytes.extend_from_slice(pad.bytes()),
        }
    }
    Tensor::from_raw(tensor.dtype(), shape, bytes)
}

/// An output while parts are written into it.
struct Assembled {
    dtype: DType,
    shape: Vec<usize>,
    values: Vec<Option<f64>>,
    /// Which part of the reduced axes has written last.
    writer: Vec<usize>,
}

impl Assembled {
    fn write(
        &mut self,
        part: &Tensor,
        ranges: &[(i64, i64)],
        combine: Option<Combine>,
        writer: usize,
        close: impl Fn(f64, f64) -> bool,
    ) -> Result<(), String> {
        let expected: Vec<usize> = ranges.iter().map(|(lo, hi)| (hi - lo) as usize).collect();
        if part.shape() != expected || part.dtype() != self.dtype {
            return Err(format!("a part makes {part:?} instead of {}{expected:?}", self.dtype));
        }
        let values = part.to_f64().map_err(|e| e.to_string())?;
        for (index, &value) in indices(&expected).zip(values.iter()) {
            let at: Vec<usize> = index.iter().zip(ranges).map(|(i, (lo, _))| i + *lo as usize).collect();
            if at.iter().zip(&self.shape).any(|(i, n)| i >= n) {
                return Err(format!("a part writes at {at:?}, outside of {:?}", self.shape));
            }
            let at = place(&at, &self.shape);
            let slot = &mut self.values[at];
            *slot = Some(match (*slot, combine) {
                (None, _) => value,
                // The same element once more: partial results where another range of reduced axes made it.
                (Some(have), Some(combine)) if self.writer[at] != writer => match combine {
                    Combine::Sum => have + value,
                    Combine::Max => have.max(value),
                    Combine::Min => have.min(value),
                },
                (Some(have), _) if close(have, value) => have,
                (Some(have), _) => return Err(format!("two parts make {have} and {value} of one element")),
            });
            self.writer[at] = writer;
        }
        Ok(())
    }
}

/// Evaluates the parts and holds what they make against the whole.
pub(crate) fn check(case: &Case, space: &IterSpace, parts: &Parts, exact: bool) -> Result<(), String> {
    let close = |a: f64, b: f64| {
        a == b || a.is_nan() && b.is_nan() || !exact && (a - b).abs() <= 1e-4 * (1.0 + b.abs())
    };
    let datums: Vec<Option<Datum>> = case.inputs.iter().map(|t| t.clone().map(Datum::from)).collect();
    let node = case.node();
    let whole = interpret::eval_node(&node, &datums, 0)?;
    let mut part_node = node.clone();
    for (name, value) in space.part_attrs.iter() {
        part_node.attrs.set(name, value.clone());
    }
    let mut made: Vec<Assembled> = space
        .outputs
        .iter()
        .zip(&whole)
        .map(|(_, datum)| {
            let tensor = datum.as_tensor().expect("ops with a space make tensors");
            Assembled {
                dtype: tensor.dtype(),
                shape: tensor.shape().to_vec(),
                values: vec![None; tensor.len()],
                writer: vec![usize::MAX; tensor.len()],
            }
        })
        .collect();
    let counts: Vec<usize> = parts.iter().map(Vec::len).collect();
    let combine = space.axes.iter().find_map(|axis| match axis.kind {
        AxisKind::Reduce(combine) => Some(combine),
        AxisKind::Parallel => None,
    });
    for which in indices(&counts) {
        let ranges: Vec<(usize, usize)> = which.iter().zip(parts).map(|(&i, parts)| parts[i]).collect();
        // Boxes that differ only in parallel axes are the same writer.
        let writer = which.iter().zip(&space.axes).zip(&counts).fold(0, |sum, ((&i, axis), &count)| {
            if matches!(axis.kind, AxisKind::Reduce(_)) { sum * count + i } else { sum }
        });
        let mut inputs = Vec::new();
        for (i, tensor) in case.inputs.iter().enumerate() {
            inputs.push(match tensor {
                None => None,
                Some(tensor) => {
                    let access = &space.inputs[i];
                    if access.len() != tensor.rank() {
                        return Err(format!("input {i}, {tensor:?}, is read by {access:?}"));
                    }
                    let ranges: Vec<(i64, i64)> =
                        access.iter().zip(tensor.shape()).map(|(a, &n)| range(a, &ranges, n)).collect();
                    Some(Datum::from(slice(tensor, &ranges, space.padding)))
                }
            });
        }
        let outputs = interpret::eval_node(&part_node, &inputs, 0)?;
        for (i, (made, datum)) in made.iter_mut().zip(&outputs).enumerate() {
            let part = datum.as_tensor().ok_or("a part makes no tensor")?;
            if space.outputs[i].len() != made.shape.len() {
                return Err(format!(
                    "output {i} of shape {:?} is made by {:?}",
                    made.shape, space.outputs[i]
                ));
            }
            let written: Vec<(i64, i64)> =
                space.outputs[i].iter().zip(&made.shape).map(|(a, &n)| range(a, &ranges, n)).collect();
            made.write(part, &written, combine, writer, close)?;
        }
    }
    for (i, (made, whole)) in made.iter().zip(&whole).enumerate() {
        let whole =
            whole.as_tensor().expect("ops with a space make tensors").to_f64().map_err(|e| e.to_string())?;
        for (at, (made, whole)) in made.values.iter().zip(whole.iter()).enumerate() {
            match made {
                None => return Err(format!("no part makes element {at} of output {i}")),
                Some(made) if !close(*made, *whole) => {
                    return Err(format!(
                        "element {at} of output {i} is {made} from parts, {whole} from the whole"
                    ));
                }
                Some(_) => {}
            }
        }
    }
    Ok(())
}
