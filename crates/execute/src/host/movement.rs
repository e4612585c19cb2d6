//! Moving numbers of f32 tensors; views cost nothing.

use super::prepare::{Choice, layout_at_hand};
use super::step::{Call, HostKernel, Outcome};
use super::value::{Floats, Layout, Value};
use crate::kernels::movement::{copy_region, gather_strided};
use orrery_ir::Op;
use orrery_ir::op::context::normalize_axis;
use orrery_numerics::Tensor;

pub(crate) fn choose(choice: &Choice<'_>) -> Option<Box<dyn HostKernel>> {
    let node = choice.node;
    let attrs = &node.attrs;
    if node.op == Op::Shape {
        return Some(Box::new(ShapeOf { start: attrs.int_or("start", 0), end: attrs.int("end") }));
    }
    if !choice.is_f32(0) {
        return None;
    }
    Some(match node.op {
        Op::Reshape => Box::new(View::Reshape { zero_is_zero: attrs.flag("allowzero") }),
        Op::Flatten => Box::new(View::Flatten { axis: attrs.int_or("axis", 1) }),
        Op::Squeeze => Box::new(View::Squeeze),
        Op::Unsqueeze => Box::new(View::Unsqueeze),
        Op::Identity => Box::new(View::Same),
        Op::Transpose => Box::new(Transpose { order: attrs.ints("perm").map(<[i64]>::to_vec) }),
        Op::Concat => Box::new(Concat { axis: attrs.int("axis")? }),
        Op::Split => Box::new(Split { axis: attrs.int_or("axis", 0) }),
        Op::Slice => Box::new(Slice),
        Op::Pad if attrs.str_or("mode", "constant") == "constant" => Box::new(Pad),
        Op::Expand => Box::new(Expand),
        Op::Gather => Box::new(Gather { axis: attrs.int_or("axis", 0) }),
        _ => return None,
    })
}

struct ShapeOf {
    start: i64,
    end: Option<i64>,
}
impl HostKernel for ShapeOf {
    fn name(&self) -> &'static str {
        "shape"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let Some(value) = call.input(0).filter(|v| v.is_floats()) else { return Ok(Outcome::Declined) };
        let shape = value.shape().to_vec();
        let rank = shape.len() as i64;
        let bound = |x: i64| (if x < 0 { x + rank } else { x }).clamp(0, rank) as usize;
        let (start, end) = (bound(self.start), bound(self.end.unwrap_or(rank)));
        let part: Vec<i64> = shape[start..end.max(start)].iter().map(|&n| n as i64).collect();
        call.set(0, Tensor::from_vec(vec![part.len()], part).into());
        Ok(Outcome::Made)
    }
}

/// The same numbers under another shape.
enum View {
    Reshape { zero_is_zero: bool },
    Flatten { axis: i64 },
    Squeeze,
    Unsqueeze,
    Same,
}
impl View {
    fn target(&self, call: &mut Call<'_>, shape: &[usize]) -> Result<Option<Vec<usize>>, String> {
        let rank = shape.len();
        Ok(match self {
            Self::Same => Some(shape.to_vec()),
            Self::Flatten { axis } => {
                let axis = if *axis == rank as i64 { rank } else { normalize_axis(*axis, rank)? };
                Some(vec![shape[..axis].iter().product(), shape[axis..].iter().product()])
            }
            Self::Squeeze => {
                let axes = if call.has(1) { call.integers(1) } else { Some(Vec::new()) };
                let Some(axes) = axes else { return Ok(None) };
                let mut drop: Vec<bool> = shape.iter().map(|&n| axes.is_empty() && n == 1).collect();
                for axis in axes {
                    let axis = normalize_axis(axis, rank)?;
                    if shape[axis] != 1 {
                        return Ok(None);
                    }
                    drop[axis] = true;
                }
                Some((0..rank).filter(|&d| !drop[d]).map(|d| shape[d]).collect())
            }
            Self::Unsqueeze => {
                let Some(axes) = call.integers(1) else { return Ok(None) };
                let total = rank + axes.len();
                let mut new = vec![false; total];
                for axis in axes {
                    new[normalize_axis(axis, total)?] = true;
                }
                let mut own = shape.iter().copied();
                Some(
                    new.into_iter()
                        .map(|n| if n { Some(1) } else { own.next() })
                        .map(|n| n.unwrap_or(1))
                        .collect(),
                )
            }
            Self::Reshape { zero_is_zero } => {
                let Some(wanted) = call.integers(1) else { return Ok(None) };
                let total: usize = shape.iter().product();
                let mut open = None;
                let mut out = Vec::with_capacity(wanted.len());
                for (i, n) in wanted.into_iter().enumerate() {
                    out.push(match n {
                        -1 => {
                            open = Some(i);
                            1
                        }
                        0 if !zero_is_zero && i < rank => shape[i],
                        n => usize::try_from(n).map_err(|_| format!("extent {n} is negative"))?,
                    });
                }
                let Some(known) = out.iter().try_fold(1_usize, |n, &m| n.checked_mul(m)) else {
                    return Ok(None);
                };
                if let Some(i) = open {
                    if known == 0 || !total.is_multiple_of(known) {
                        return Ok(None);
                    }
                    out[i] = total / known;
                }
                Some(out)
            }
        }
        // A contradiction is for the op table to word.
        .filter(|out| out.iter().product::<usize>() == shape.iter().product()))
    }
}
impl HostKernel for View {
    fn name(&self) -> &'static str {
        "view"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let shape = call.shape(0);
        let Some(target) = self.target(call, &shape)? else { return Ok(Outcome::Declined) };
        let machine = call.machine;
        let Some(value) = call.input(0).filter(|v| v.is_floats()) else { return Ok(Outcome::Declined) };
        let view = value.reshaped(target, machine);
        call.set(0, view);
        Ok(Outcome::Made)
    }
}

/// Steps of a shape's dimensions in memory.
fn steps(shape: &[usize], layout: Layout) -> Vec<isize> {
    let mut steps = vec![0; shape.len()];
    let mut step = 1;
    for d in layout.order(shape.len()).into_iter().rev() {
        steps[d] = step as isize;
        step *= shape[d];
    }
    steps
}

struct Transpose {
    order: Option<Vec<i64>>,
}
impl HostKernel for Transpose {
    fn name(&self) -> &'static str {
        "transpose"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let shape = call.shape(0);
        let rank = shape.len();
        let order: Vec<usize> = match &self.order {
            None => (0..rank).rev().collect(),
            Some(order) => order.iter().map(|&d| normalize_axis(d, rank)).collect::<Result<_, _>>()?,
        };
        let layout = call.input(0).map_or(Layout::Plain, |v| layout_at_hand(v));
        let Some(data) = call.floats(0, layout).filter(|_| order.len() == rank) else {
            return Ok(Outcome::Declined);
        };
        let own = steps(&shape, layout);
        let dims: Vec<(usize, isize)> = order.iter().map(|&d| (shape[d], own[d])).collect();
        let out_shape: Vec<usize> = order.iter().map(|&d| shape[d]).collect();
        // Where the numbers lie in the new order already, in either layout, they are shared.
        for layout in [Layout::Plain, Layout::ChannelsLast] {
            let moved = layout.order(rank).into_iter().map(|d| dims[d]).filter(|d| d.0 != 1);
            if moved.is_sorted_by(|a, b| a.1 > b.1) {
                call.set(0, Value::of_floats(out_shape, data, layout));
                return Ok(Outcome::Made);
            }
        }
        let mut out = call.room(data.len());
        gather_strided(&call.machine.threads, &data, 0, &dims, &mut out);
        call.make(out_shape, out, Layout::Plain)
    }
}

struct Concat {
    axis: i64,
}
impl HostKernel for Concat {
    fn name(&self) -> &'static str {
        "concatenation"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let count = call.step.inputs.len();
        let mut shape = call.shape(0);
        let rank = shape.len();
        let axis = normalize_axis(self.axis, rank)?;
        let mut layout = Layout::ChannelsLast;
        shape[axis] = 0;
        for i in 0..count {
            let own = call.shape(i);
            let agrees = own.len() == rank && (0..rank).all(|d| d == axis || own[d] == shape[d]);
            let Some(value) = call.input(i).filter(|v| agrees && v.is_floats()) else {
                return Ok(Outcome::Declined);
            };
            if !value.has(Layout::ChannelsLast) {
                layout = Layout::Plain;
            }
            shape[axis] += own[axis];
        }
        let place = layout.place(axis, rank);
        let extents = layout.extents(&shape);
        let inner: usize = extents[place + 1..].iter().product();
        let mut parts: Vec<(Floats, usize)> = Vec::with_capacity(count);
        for i in 0..count {
            let len = call.shape(i)[axis] * inner;
            let Some(data) = call.floats(i, layout) else { return Ok(Outcome::Declined) };
            parts.push((data, len));
        }
        let row_len = shape[axis] * inner;
        let mut out = call.room_for(&shape)?;
        let rows = (32768 / row_len.max(1)).max(1);
        call.machine.threads.chunks(&mut out, rows * row_len, |i, piece| {
            for (r, row) in piece.chunks_mut(row_len).enumerate() {
                let mut rest = row;
                for (data, len) in &parts {
                    let (to, after) = rest.split_at_mut(*len);
                    to.copy_from_slice(&data[(i * rows + r) * len..][..*len]);
                    rest = after;
                }
            }
        });
        call.make(shape, out, layout)
    }
}

struct Split {
    axis: i64,
}
impl HostKernel for Split {
    fn name(&self) -> &'static str {
        "split"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let shape = call.shape(0);
        let rank = shape.len();
        let axis = normalize_axis(self.axis, rank)?;
        let count = call.step.outputs.len();
        let sizes: Vec<usize> = if call.has(1) {
            match call.integers(1) {
                Some(sizes) if sizes.len() == count && sizes.iter().all(|&n| n >= 0) => {
                    sizes.into_iter().map(|n| n as usize).collect()
                }
                _ => return Ok(Outcome::Declined),
            }
        } else {
            let size = shape[axis].div_ceil(count);
            (0..count).map(|i| size.min(shape[axis].saturating_sub(i * size))).collect()
        };
        if sizes.iter().sum::<usize>() != shape[axis] {
            return Ok(Outcome::Declined);
        }
        let layout = call.input(0).map_or(Layout::Plain, |v| layout_at_hand(v));
        let Some(data) = call.floats(0, layout) else { return Ok(Outcome::Declined) };
        let own = steps(&shape, layout);
        let mut start = 0;
        for (i, size) in sizes.into_iter().enumerate() {
            let mut part = shape.clone();
            part[axis] = size;
            let mut out = call.room(part.iter().product());
            let dims: Vec<(usize, isize)> =
                layout.order(rank).into_iter().map(|d| (part[d], own[d])).collect();
            gather_strided(&call.machine.threads, &data, start * own[axis] as usize, &dims, &mut out);
            call.set(i, Value::floats(part, out, layout));
            start += size;
        }
        Ok(Outcome::Made)
    }
}

struct Slice;
impl HostKernel for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let shape = call.shape(0);
        let rank = shape.len();
        let (Some(starts), Some(ends)) = (call.integers(1), call.integers(2)) else {
            return Ok(Outcome::Declined);
        };
        let count = starts.len();
        let axes = if call.has(3) { call.integers(3) } else { Some((0..count as i64).collect()) };
        let strides = if call.has(4) { call.integers(4) } else { Some(vec![1; count]) };
        let (Some(axes), Some(strides)) = (axes, strides) else { return Ok(Outcome::Declined) };
        if ends.len() != count || axes.len() != count || strides.len() != count || strides.contains(&0) {
            return Ok(Outcome::Declined);
        }
        let layout = call.input(0).map_or(Layout::Plain, |v| layout_at_hand(v));
        let mut own = steps(&shape, layout);
        let mut out_shape = shape.clone();
        let mut first = 0;
        for i in 0..count {
            let axis = normalize_axis(axes[i], rank)?;
            let (extent, stride) = (shape[axis] as i64, strides[i]);
            let from_end = |x: i64| if x < 0 { x.saturating_add(extent) } else { x };
            let (start, len) = if stride > 0 {
                let (start, end) = (from_end(starts[i]).clamp(0, extent), from_end(ends[i]).clamp(0, extent));
                (start, (end - start).max(0) as u64)
            } else {
                let start = from_end(starts[i]).clamp(-1, extent - 1);
                let end = from_end(ends[i]).clamp(-1, extent - 1);
                (start, (start - end).max(0) as u64)
            };
            out_shape[axis] = len.div_ceil(stride.unsigned_abs()) as usize;
            first += start.max(0) as usize * own[axis] as usize;
            own[axis] = own[axis].saturating_mul(stride as isize);
        }
        let Some(data) = call.floats(0, layout) else { return Ok(Outcome::Declined) };
        let mut out = call.room_for(&out_shape)?;
        let dims: Vec<(usize, isize)> =
            layout.order(rank).into_iter().map(|d| (out_shape[d], own[d])).collect();
        gather_strided(&call.machine.threads, &data, first, &dims, &mut out);
        call.make(out_shape, out, layout)
    }
}

struct Pad;
impl HostKernel for Pad {
    fn name(&self) -> &'static str {
        "padding"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let shape = call.shape(0);
        let rank = shape.len();
        let fill = if call.has(2) {
            let Some(fill) = call.floats(2, Layout::Plain).filter(|f| f.len() == 1) else {
                return Ok(Outcome::Declined);
            };
            fill[0]
        } else {
            0.0
        };
        let axes = if call.has(3) { call.integers(3) } else { Some((0..rank as i64).collect()) };
        let (Some(pads), Some(axes)) = (call.integers(1), axes) else { return Ok(Outcome::Declined) };
        if pads.len() != 2 * axes.len() || pads.iter().any(|&p| p < 0) {
            return Ok(Outcome::Declined);
        }
        let (mut out_shape, mut before) = (shape.clone(), vec![0; rank]);
        for (i, &axis) in axes.iter().enumerate() {
            let axis = normalize_axis(axis, rank)?;
            before[axis] = pads[i] as usize;
            let added = pads[i].saturating_add(pads[axes.len() + i]) as usize;
            out_shape[axis] = out_shape[axis].saturating_add(added);
        }
        let layout = call.input(0).map_or(Layout::Plain, |v| layout_at_hand(v));
        let Some(data) = call.floats(0, layout) else { return Ok(Outcome::Declined) };
        let mut out = call.room_for(&out_shape)?;
        out.fill(fill);
        let own = layout.extents(&shape);
        copy_region(
            &data,
            &own,
            &vec![0; rank],
            &mut out,
            &layout.extents(&out_shape),
            &layout.extents(&before),
            &own,
        );
        call.make(out_shape, out, layout)
    }
}

struct Expand;
impl HostKernel for Expand {
    fn name(&self) -> &'static str {
        "expansion"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let shape = call.shape(0);
        let Some(wanted) = call.integers(1) else { return Ok(Outcome::Declined) };
        let rank = shape.len().max(wanted.len());
        let own = |d: usize| if d + shape.len() < rank { 1 } else { shape[d + shape.len() - rank] };
        let mut out_shape = Vec::with_capacity(rank);
        for d in 0..rank {
            let wanted = if d + wanted.len() < rank { 1 } else { wanted[d + wanted.len() - rank] };
            out_shape.push(match (own(d), usize::try_from(wanted)) {
                (1, Ok(n)) => n,
                (n, Ok(w)) if w == 1 || w == n => n,
                _ => return Ok(Outcome::Declined),
            });
        }
        let Some(data) = call.floats(0, Layout::Plain) else { return Ok(Outcome::Declined) };
        let plain = steps(&shape, Layout::Plain);
        let dims: Vec<(usize, isize)> = (0..rank)
            .map(|d| (out_shape[d], if own(d) == 1 { 0 } else { plain[d + shape.len() - rank] }))
            .collect();
        let mut out = call.room_for(&out_shape)?;
        gather_strided(&call.machine.threads, &data, 0, &dims, &mut out);
        call.make(out_shape, out, Layout::Plain)
    }
}

struct Gather {
    axis: i64,
}
impl HostKernel for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        let shape = call.shape(0);
        let index_shape = call.shape(1);
        let axis = normalize_axis(self.axis, shape.len())?;
        let (Some(data), Some(indices)) = (call.floats(0, Layout::Plain), call.integers(1)) else {
            return Ok(Outcome::Declined);
        };
        let extent = shape[axis] as i64;
        let places: Option<Vec<usize>> = indices
            .iter()
            .map(|&i| if i < 0 { i + extent } else { i })
            .map(|i| usize::try_from(i).ok().filter(|_| i < extent))
            .collect();
        // An index out of range is for the op table to word.
        let Some(places) = places else { return Ok(Outcome::Declined) };
        let inner: usize = shape[axis + 1..].iter().product();
        let out_shape: Vec<usize> =
            shape[..axis].iter().chain(&index_shape).chain(&shape[axis + 1..]).copied().collect();
        let mut out = call.room_for(&out_shape)?;
        if let Some(rows) = 16384_usize.checked_div(inner) {
            let rows = rows.max(1);
            call.machine.threads.chunks(&mut out, rows * inner, |i, piece| {
                for (r, row) in piece.chunks_mut(inner).enumerate() {
                    let (outer, place) =
                        ((i * rows + r) / places.len(), places[(i * rows + r) % places.len()]);
                    row.copy_from_slice(&data[(outer * shape[axis] + place) * inner..][..inner]);
                }
            });
        }
        call.make(out_shape, out, Layout::Plain)
    }
}
