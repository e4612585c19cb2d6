//! Windows that slide over spatial dimensions: what convolutions and pooling share.

use super::super::Access;
use super::super::rules;
use crate::{AttrKind, Attrs, Dim};

use super::super::{AttrDef, opt};

pub(in super::super) const AUTO_PAD: AttrDef = opt(
    "auto_pad",
    AttrKind::Str,
    "NOTSET: as `pads` says; SAME_UPPER or SAME_LOWER: ceil(input / stride) outputs; VALID: none. NOTSET.",
);
pub(in super::super) const DILATIONS: AttrDef =
    opt("dilations", AttrKind::Ints, "Distance of the elements of a window; 1 in each dimension.");
pub(in super::super) const KERNEL_SHAPE: AttrDef =
    opt("kernel_shape", AttrKind::Ints, "Extents of the window; as the weights have it.");
pub(in super::super) const PADS: AttrDef =
    opt("pads", AttrKind::Ints, "Padding in front for all dimensions, then padding behind for all; 0.");
pub(in super::super) const STRIDES: AttrDef =
    opt("strides", AttrKind::Ints, "Steps of the window; 1 in each dimension.");

/// How much padding a dimension has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Padding {
    Given { before: i64, after: i64 },
    SameUpper,
    SameLower,
}

/// The window along one dimension.
#[derive(Clone, Debug)]
pub(in super::super) struct Window {
    pub(in super::super) kernel: Dim,
    pub(in super::super) stride: i64,
    pub(in super::super) dilation: i64,
    pub(in super::super) padding: Padding,
    /// The last window may reach beyond the padding.
    pub(in super::super) ceil: bool,
}

/// The window along one dimension of known extents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Span {
    pub(in super::super) input: usize,
    pub(in super::super) output: usize,
    pub(in super::super) kernel: usize,
    pub(in super::super) stride: i64,
    pub(in super::super) dilation: i64,
    /// Padding in front.
    pub(in super::super) before: i64,
    /// Padding behind.
    pub(in super::super) after: i64,
}

/// Integers of an attribute, one for each of `count`, between `least` and 2^31; `default` where absent.
pub(in super::super) fn numbers(
    attrs: &Attrs,
    name: &str,
    count: usize,
    least: i64,
    default: i64,
) -> Result<Vec<i64>, String> {
    let Some(given) = attrs.ints(name) else { return Ok(vec![default; count]) };
    if given.len() != count {
        return Err(format!("attribute `{name}` must have {count} numbers, has {}", given.len()));
    }
    match given.iter().find(|&&v| v < least || v > i64::from(i32::MAX)) {
        Some(wrong) => Err(format!("attribute `{name}` has {wrong}, which is not between {least} and 2^31")),
        None => Ok(given.to_vec()),
    }
}

/// Windows with the extents `kernel`, as attributes say.
///
/// # Errors
/// Where attributes have other numbers of dimensions, are out of range, or contradict `kernel`.
pub(in super::super) fn windows(attrs: &Attrs, kernel: &[Dim]) -> Result<Vec<Window>, String> {
    let count = kernel.len();
    let strides = numbers(attrs, "strides", count, 1, 1)?;
    let dilations = numbers(attrs, "dilations", count, 1, 1)?;
    let pads = numbers(attrs, "pads", 2 * count, 0, 0)?;
    let declared = numbers(attrs, "kernel_shape", count, 1, 0)?;
    let given = |d: usize| Padding::Given { before: pads[d], after: pads[d + count] };
    (0..count)
        .map(|d| {
            let kernel = if declared[d] == 0 {
                kernel[d].clone()
            } else {
                rules::equal(&Dim::Known(declared[d]), &kernel[d], || {
                    "attribute `kernel_shape` and the weights' extents".into()
                })?
            };
            if kernel.known().is_some_and(|n| n < 1) {
                return Err("the window has an extent of 0".into());
            }
            let padding = match attrs.str_or("auto_pad", "NOTSET") {
                "" | "NOTSET" => given(d),
                "VALID" => Padding::Given { before: 0, after: 0 },
                "SAME_UPPER" => Padding::SameUpper,
                "SAME_LOWER" => Padding::SameLower,
                other => {
                    return Err(format!("attribute `auto_pad` is `{other}`, which is none of its values"));
                }
            };
            let ceil = attrs.flag("ceil_mode");
            Ok(Window { kernel, stride: strides[d], dilation: dilations[d], padding, ceil })
        })
        .collect()
}

impl Window {
    /// Extent of the window with the gaps that dilation makes.
    pub(in super::super) fn reach(&self) -> Dim {
        (self.kernel.clone() - Dim::Known(1)) * Dim::Known(self.dilation) + Dim::Known(1)
    }
    /// Number of windows over an input of that extent.
    ///
    /// # Errors
    /// Where the window is larger than the padded input.
    pub(in super::super) fn output(&self, input: &Dim) -> Result<Dim, String> {
        let stride = Dim::Known(self.stride);
        let Padding::Given { before, after } = self.padding else { return Ok(input.ceil_div(&stride)) };
        let padded = input.clone() + Dim::Known(before) + Dim::Known(after);
        let reach = self.reach();
        let room = padded.clone() - reach.clone();
        if room.known().is_some_and(|n| n < 0) {
            return Err(format!(
                "a window of extent {reach} is larger than the padded input of extent {padded}"
            ));
        }
        if !self.ceil {
            return Ok(room.floor_div(&stride) + Dim::Known(1));
        }
        // A window that would start in the padding behind is left out.
        let most = (input.clone() + Dim::Known(before)).ceil_div(&stride);
        Ok((room.ceil_div(&stride) + Dim::Known(1)).smaller(&most))
    }
    /// The window over an input of a known extent, or none where the kernel's is not known.
    ///
    /// # Errors
    /// As [`Window::output`].
    pub(in super::super) fn span(&self, input: usize) -> Result<Option<Span>, String> {
        let extent = Dim::from(input);
        let (Some(output), Some(kernel), Some(reach)) =
            (self.output(&extent)?.extent(), self.kernel.extent(), self.reach().known())
        else {
            return Ok(None);
        };
        let (before, after) = match self.padding {
            Padding::Given { before, after } => (before, after),
            same => {
                let windows = (output as i64 - 1).max(0);
                let total = windows
                    .saturating_mul(self.stride)
                    .saturating_add(reach)
                    .saturating_sub(input as i64)
                    .max(0);
                let half = if same == Padding::SameUpper { total / 2 } else { total - total / 2 };
                (half, total - half)
            }
        };
        Ok(Some(Span { input, output, kernel, stride: self.stride, dilation: self.dilation, before, after }))
    }
    /// How the input is read for windows along `axis`; none where the padding depends on an unknown extent.
    pub(in super::super) fn access(&self, input: &Dim, axis: usize) -> Option<Access> {
        let before = match self.padding {
            Padding::Given { before, .. } => before,
            _ => self.span(input.extent()?).ok()??.before,
        };
        let reach = self.reach().known()?;
        Some(if (self.stride, before, reach) == (1, 0, 1) {
            Access::along(axis)
        } else {
            Access::Window { axis, stride: self.stride, before, reach }
        })
    }
}

impl Span {
    /// The windows `output` over an operand whose extents are known.
    ///
    /// # Errors
    /// As [`Window::output`], and where an extent is open.
    pub(in super::super) fn all(windows: &[Window], input: &[usize]) -> Result<Vec<Self>, String> {
        windows
            .iter()
            .zip(input)
            .map(|(w, &n)| w.span(n)?.ok_or_else(|| "the window's extents are not known".into()))
            .collect()
    }
    /// Adds attributes that say these windows with all padding given.
    pub(in super::super) fn describe(spans: &[Self], mut attrs: Attrs) -> Attrs {
        let each = |of: fn(&Self) -> i64| spans.iter().map(of).collect::<Vec<_>>();
        let mut pads = each(|s| s.before);
        pads.extend(each(|s| s.after));
        attrs.set("kernel_shape", each(|s| s.kernel as i64));
        attrs.set("strides", each(|s| s.stride));
        attrs.set("dilations", each(|s| s.dilation));
        attrs.set("pads", pads);
        attrs
    }
    /// The place in the input of element `k` of window `o`; outside of `0..input` it is padding.
    pub(in super::super) fn place(&self, o: usize, k: usize) -> i64 {
        o as i64 * self.stride - self.before + k as i64 * self.dilation
    }
    /// The windows among `from..to` whose element `k` lies in the input, as a range.
    pub(in super::super) fn inside(&self, k: usize, from: usize, to: usize) -> (usize, usize) {
        let shift = k as i64 * self.dilation - self.before;
        // 0 <= o * stride + shift < input
        let first = (-shift).max(0).div_euclid(self.stride) + i64::from((-shift).max(0) % self.stride != 0);
        let end = self.input as i64 - shift;
        let end = if end <= 0 { 0 } else { (end - 1) / self.stride + 1 };
        let from = from.max(usize::try_from(first).unwrap_or(usize::MAX));
        (from, to.min(end as usize).max(from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(kernel: i64, stride: i64, dilation: i64, padding: Padding, ceil: bool) -> Window {
        Window { kernel: Dim::Known(kernel), stride, dilation, padding, ceil }
    }

    #[test]
    fn counts_windows() {
        let none = Padding::Given { before: 0, after: 0 };
        let one = Padding::Given { before: 1, after: 1 };
        let count = |w: &Window, n: i64| w.output(&Dim::Known(n)).map(|d| d.known().unwrap());
        assert_eq!(count(&window(3, 2, 1, one, false), 224), Ok(112));
        assert_eq!(count(&window(3, 1, 2, none, false), 7), Ok(3));
        assert_eq!(count(&window(3, 2, 1, none, true), 4), Ok(2));
        // The third window would start in the padding behind.
        assert_eq!(count(&window(1, 2, 1, Padding::Given { before: 0, after: 1 }, true), 2), Ok(1));
        assert_eq!(count(&window(3, 2, 1, Padding::SameUpper, false), 5), Ok(3));
        assert!(count(&window(3, 1, 1, none, false), 2).is_err());
        let symbolic = window(3, 2, 1, one, false).output(&Dim::symbol("w")).unwrap();
        assert_eq!(symbolic.to_string(), "floordiv(w - 1, 2) + 1");
    }

    #[test]
    fn finds_what_lies_inside() {
        for (kernel, stride, dilation, before) in [(3, 1, 1, 1), (3, 2, 2, 2), (2, 3, 1, 0), (5, 2, 1, 4)] {
            let padding = Padding::Given { before, after: 2 };
            let span = window(kernel, stride, dilation, padding, false).span(9).unwrap().unwrap();
            for k in 0..span.kernel {
                let (from, to) = span.inside(k, 0, span.output);
                for o in 0..span.output {
                    assert_eq!(
                        (0..9).contains(&span.place(o, k)),
                        (from..to).contains(&o),
                        "{span:?} {k} {o}"
                    );
                }
            }
        }
    }
}
