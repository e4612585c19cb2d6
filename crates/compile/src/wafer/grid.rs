//! Where the parts of a step, and of the sums that are cut over them, lie on the mesh.

use orrery_ir::op::{Access, AxisKind, IterSpace};
use orrery_program::{Cut, Cutting, Layout};

/// The axis along which the results of a cut sum are spread over the PEs that made it: the last dimension of the result
/// that follows an axis one to one, columns of a product before rows; channels of a convolution.
pub(super) fn result_axis(space: &IterSpace) -> Option<usize> {
    let follows = |access: &Access| match access {
        Access::Along { axis, scale } if scale.is(1) => Some(*axis),
        _ => None,
    };
    let output = space.outputs.first()?;
    let channels = space.axes.iter().position(|axis| axis.name == "out_channel");
    channels.or_else(|| output.iter().rev().find_map(follows))
}

/// The layout of a cut sum: as its parts have it, and along [`result_axis`] over the PEs of the sum too.
pub(super) fn spread_along_sum(base: u64, grid: &[Cut], space: &IterSpace, access: &[Access]) -> Layout {
    let sums: u64 = (0..space.axes.len())
        .filter(|&i| space.axes[i].kind != AxisKind::Parallel)
        .map(|i| parts_of(&grid[i]))
        .product();
    let mut layout = Layout { base, cuts: grid.to_vec(), access: access.to_vec() };
    let innermost = |i: usize| space.axes[i].kind != AxisKind::Parallel && grid[i].is_cut();
    let stride = (0..space.axes.len()).filter(|&i| innermost(i)).map(|i| grid[i].stride).min().unwrap_or(1);
    for (i, cut) in layout.cuts.iter_mut().enumerate() {
        if space.axes[i].kind != AxisKind::Parallel {
            // The sum itself makes no copies of its result.
            (cut.cutting, cut.stride) = (Cutting::Parts(1), 0);
        }
    }
    let reach: u64 = (0..space.axes.len())
        .filter(|&i| innermost(i))
        .map(|i| (parts_of(&grid[i]) - 1) * grid[i].stride)
        .sum();
    if let Some(axis) = result_axis(space) {
        let cut = &mut layout.cuts[axis];
        let parts = parts_of(cut);
        // Only where the sum's parts lie side by side, and just inside of the axis' own where that is cut.
        if reach == (sums - 1) * stride && (parts == 1 || cut.stride == sums * stride) {
            (cut.cutting, cut.stride) = (Cutting::Parts(parts * sums), stride);
        }
    }
    layout
}

/// Number of parts of a cut; the compiler for wafers makes no others.
pub(super) fn parts_of(cut: &Cut) -> u64 {
    match cut.cutting {
        Cutting::Parts(parts) => parts,
        Cutting::Blocks(_) => 1,
    }
}

/// Strides over the PEs, row-major but for `inner`, whose parts are neighbours.
pub(super) fn set_strides(cuts: &mut [Cut], inner: &[usize]) {
    let mut stride = 1;
    let order = inner.iter().copied().chain((0..cuts.len()).rev().filter(|i| !inner.contains(i)));
    for i in order {
        let parts = parts_of(&cuts[i]);
        cuts[i].stride = if parts > 1 { stride } else { 0 };
        stride *= parts;
    }
}
