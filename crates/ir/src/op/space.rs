//! How an op can be cut into parts.
//!
//! An op's *iteration space* has axes; each part of a partition is a box in it. An access says, for each dimension of an
//! operand, which range of it a box needs (inputs) or makes (outputs). Everything about a mapping follows from this one
//! description: layouts, what must be exchanged, halos, partial sums.

use super::Ctx;
use crate::{Attrs, Dim};

/// How the results of parts along a reduced axis become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Combine {
    /// Added.
    Sum,
    /// The larger.
    Max,
    /// The smaller.
    Min,
}

/// What cutting an axis does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AxisKind {
    /// Parts make different output elements.
    Parallel,
    /// Parts make partial results of the same output elements.
    Reduce(Combine),
}

/// One axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    /// What the op calls it: `m`, `out_channel`.
    pub name: &'static str,
    /// Its length.
    pub extent: Dim,
    /// What cutting it does.
    pub kind: AxisKind,
}

/// The range of one operand dimension that a box `lo..hi` of an axis needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// All of it.
    Whole,
    /// `lo*scale .. hi*scale`.
    Along {
        /// The axis.
        axis: usize,
        /// Elements for each step of the axis.
        scale: Dim,
    },
    /// `lo*stride - before .. (hi-1)*stride - before + reach`: a sliding window with its halo. What lies outside of the
    /// operand is padding.
    Window {
        /// The axis.
        axis: usize,
        /// Step of the window.
        stride: i64,
        /// Padding in front.
        before: i64,
        /// Extent of the dilated kernel.
        reach: i64,
    },
}

impl Access {
    /// One element for each step of the axis.
    pub const fn along(axis: usize) -> Self {
        Self::Along { axis, scale: Dim::Known(1) }
    }
    /// The axis it follows.
    pub fn axis(&self) -> Option<usize> {
        match self {
            Self::Whole => None,
            Self::Along { axis, .. } | Self::Window { axis, .. } => Some(*axis),
        }
    }
}

/// The iteration space of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct IterSpace {
    /// Axes, in the order of the output's dimensions first, reduced ones last.
    pub axes: Vec<Axis>,
    /// For each input by position, for each of its dimensions; empty where the input is left out.
    pub inputs: Vec<Vec<Access>>,
    /// For each output by position, for each of its dimensions.
    pub outputs: Vec<Vec<Access>>,
    /// Attributes to set when a part is evaluated alone: padding is put into the input's slice, so the part has none.
    pub part_attrs: Attrs,
    /// What padding holds.
    pub padding: f64,
}

/// An axis whose parts make different output elements.
pub fn parallel(name: &'static str, extent: Dim) -> Axis {
    Axis { name, extent, kind: AxisKind::Parallel }
}

/// An axis whose parts make partial results of the same output elements.
pub fn reduced(name: &'static str, extent: Dim, combine: Combine) -> Axis {
    Axis { name, extent, kind: AxisKind::Reduce(combine) }
}

impl IterSpace {
    /// One part only.
    pub fn none(_: &Ctx<'_>) -> Option<Self> {
        None
    }
    /// A space whose only outputs follow parallel axes one to one, for an op of output shape `shape`.
    pub fn over_output(shape: &[Dim]) -> Self {
        Self {
            axes: shape
                .iter()
                .map(|extent| Axis { name: "out", extent: extent.clone(), kind: AxisKind::Parallel })
                .collect(),
            inputs: Vec::new(),
            outputs: vec![(0..shape.len()).map(Access::along).collect()],
            part_attrs: Attrs::new(),
            padding: 0.0,
        }
    }
}

/// For ops that run only as a whole.
pub fn indivisible(ctx: &Ctx<'_>) -> Option<IterSpace> {
    IterSpace::none(ctx)
}

/// For elementwise ops with broadcasting: each output element needs the input elements at its place.
pub fn elementwise(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let out = ctx.output_shape(0)?;
    let mut space = IterSpace::over_output(&out);
    for i in 0..ctx.input_count() {
        space.inputs.push(match ctx.shape(i) {
            Some(shape) => broadcast_access(&shape, &out),
            None if ctx.has(i) => return None,
            None => Vec::new(),
        });
    }
    for output in 1..ctx.output_count() {
        if ctx.output_shape(output)? != out {
            return None;
        }
        space.outputs.push(space.outputs[0].clone());
    }
    Some(space)
}

/// How an operand of shape `shape` is read when it is broadcast to `out`, one axis for each output dimension.
pub fn broadcast_access(shape: &[Dim], out: &[Dim]) -> Vec<Access> {
    let lead = out.len() - shape.len().min(out.len());
    shape
        .iter()
        .enumerate()
        .map(
            |(d, extent)| {
                if extent.is(1) && !out[lead + d].is(1) { Access::Whole } else { Access::along(lead + d) }
            },
        )
        .collect()
}

/// For ops that work along some dimensions of their first input and are free in the others (softmax, layer norm):
/// parallel over all output dimensions but those for which `along` says true.
pub fn free_except(ctx: &Ctx<'_>, along: impl Fn(usize) -> bool) -> Option<IterSpace> {
    let out = ctx.output_shape(0)?;
    let access: Vec<Access> =
        (0..out.len()).map(|d| if along(d) { Access::Whole } else { Access::along(d) }).collect();
    let mut space = IterSpace::over_output(&out);
    space.outputs = vec![access.clone()];
    space.axes = space
        .axes
        .into_iter()
        .enumerate()
        .map(|(d, axis)| if along(d) { Axis { extent: Dim::Known(1), ..axis } } else { axis })
        .collect();
    space.inputs.push(access);
    for i in 1..ctx.input_count() {
        space.inputs.push(vec![Access::Whole; ctx.shape(i).map_or(0, |s| s.len())]);
    }
    Some(space)
}
