//! Moving numbers: transposition, regions of one tensor to another, strided views, gathering of rows.

use super::threads::Threads;

/// Numbers in a piece of work.
const PIECE: usize = 32 << 10;

/// Writes the transpose of `data` into `out`: dimension `d` of the result is dimension `order[d]` of `shape`.
pub fn transpose<T: Copy + Send + Sync>(
    threads: &Threads,
    data: &[T],
    shape: &[usize],
    order: &[usize],
    out: &mut [T],
) {
    let mut strides = vec![1; shape.len()];
    for d in (1..shape.len()).rev() {
        strides[d - 1] = strides[d] * shape[d];
    }
    gather_strided(
        threads,
        data,
        0,
        &order.iter().map(|&d| (shape[d], strides[d] as isize)).collect::<Vec<_>>(),
        out,
    );
}

/// Writes a strided view of `data` that starts at number `start`: `dims` are extents and steps, outermost first.
///
/// Panics where the view leaves `data` or is not as large as `out`.
pub fn gather_strided<T: Copy + Send + Sync>(
    threads: &Threads,
    data: &[T],
    start: usize,
    dims: &[(usize, isize)],
    out: &mut [T],
) {
    assert_eq!(dims.iter().map(|d| d.0).product::<usize>(), out.len(), "the view fills the result");
    if out.is_empty() {
        return;
    }
    let mut dims = merged(dims);
    let (inner, inner_step) = dims.pop().unwrap_or((1, 1));
    let offset = |mut row: usize, dims: &[(usize, isize)]| {
        let mut at = start as isize;
        for &(extent, step) in dims.iter().rev() {
            at += (row % extent) as isize * step;
            row /= extent;
        }
        at as usize
    };
    // The dimension that lies densest in the source, where the innermost of the result does not: they are swapped in blocks.
    let dense = dims.iter().rposition(|d| d.1 == 1).filter(|_| inner_step != 1 && inner_step != 0);
    if let Some(dense) = dense.filter(|&d| dims[d].0 > 1 && d + 1 == dims.len()) {
        let (across, _) = dims.remove(dense);
        let plane = across * inner;
        if plane <= PIECE || across < 16 {
            let planes = (PIECE / plane).max(1);
            threads.chunks(out, planes * plane, |i, piece| {
                for (p, plane_out) in piece.chunks_mut(plane).enumerate() {
                    swap(data, offset(i * planes + p, &dims), inner_step, 0, inner, plane_out);
                }
            });
        } else {
            let rows = (PIECE / inner).next_multiple_of(16).min(across);
            let strips = across.div_ceil(rows);
            // Strips of a plane are runs of the result, as long as they are not the last.
            for p in 0..out.len() / plane {
                let base = offset(p, &dims);
                threads.chunks(&mut out[p * plane..][..plane], rows * inner, |i, piece| {
                    debug_assert!(i < strips);
                    swap(data, base, inner_step, i * rows, inner, piece);
                });
            }
        }
        return;
    }
    let rows = (PIECE / inner).max(1);
    threads.chunks(out, rows * inner, |i, piece| {
        for (r, to) in piece.chunks_mut(inner).enumerate() {
            let from = offset(i * rows + r, &dims);
            match inner_step {
                1 => to.copy_from_slice(&data[from..][..inner]),
                0 => to.fill(data[from]),
                _ => {
                    for (k, to) in to.iter_mut().enumerate() {
                        *to = data[(from as isize + k as isize * inner_step) as usize];
                    }
                }
            }
        }
    });
}

/// Rows `first..` of a plane whose rows lie one apart and whose columns lie `step` apart in `data`.
fn swap<T: Copy>(data: &[T], base: usize, step: isize, first: usize, columns: usize, out: &mut [T]) {
    const SIDE: usize = 16;
    let rows = out.len() / columns;
    for r0 in (0..rows).step_by(SIDE) {
        for c0 in (0..columns).step_by(SIDE) {
            let (r1, c1) = ((r0 + SIDE).min(rows), (c0 + SIDE).min(columns));
            for c in c0..c1 {
                let from = (base as isize + (first + r0) as isize + c as isize * step) as usize;
                let from = &data[from..][..r1 - r0];
                for (r, &x) in (r0..r1).zip(from) {
                    out[r * columns + c] = x;
                }
            }
        }
    }
}

/// The same view with fewer dimensions: those of extent one left out, neighbours that step as one joined.
fn merged(dims: &[(usize, isize)]) -> Vec<(usize, isize)> {
    let mut out: Vec<(usize, isize)> = Vec::with_capacity(dims.len());
    for &(extent, step) in dims.iter().filter(|d| d.0 != 1) {
        match out.last_mut() {
            Some((outer, outer_step)) if *outer_step == step * extent as isize => {
                *outer *= extent;
                *outer_step = step;
            }
            _ => out.push((extent, step)),
        }
    }
    out
}

/// Copies a box of `extent` numbers from `from` (of shape `from_shape`, at `from_start`) to `to`.
pub fn copy_region<T: Copy>(
    from: &[T],
    from_shape: &[usize],
    from_start: &[usize],
    to: &mut [T],
    to_shape: &[usize],
    to_start: &[usize],
    extent: &[usize],
) {
    if extent.contains(&0) {
        return;
    }
    // Trailing dimensions that are whole on both sides make one run.
    let mut run = 1;
    let mut outer = extent.len();
    while outer > 0 {
        run *= extent[outer - 1];
        outer -= 1;
        if extent[outer] != from_shape[outer] || extent[outer] != to_shape[outer] {
            break;
        }
    }
    let place = |shape: &[usize], start: &[usize], index: &[usize]| {
        shape.iter().enumerate().fold(0, |at, (d, &n)| at * n + start[d] + index.get(d).copied().unwrap_or(0))
    };
    let mut index = vec![0; outer];
    loop {
        let source = place(from_shape, from_start, &index);
        let target = place(to_shape, to_start, &index);
        to[target..][..run].copy_from_slice(&from[source..][..run]);
        let mut d = outer;
        loop {
            if d == 0 {
                return;
            }
            d -= 1;
            index[d] += 1;
            if index[d] < extent[d] {
                break;
            }
            index[d] = 0;
        }
    }
}
