//! Where the rows of a product's left operand are: in a matrix, or under a window that moves over images.

/// Where the rows of the left operand are.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// Row `m` starts at `m * stride`; one segment.
    Dense {
        /// Numbers.
        data: &'a [f32],
        /// From row to row.
        stride: usize,
    },
    /// Row `m` is an output pixel, segment `s` a tap of the window.
    Window(Window<'a>),
}

/// A window that moves over channels-last images.
#[derive(Clone, Copy, Debug)]
pub struct Window<'a> {
    /// Images, each `height` x `width` x `pixel`.
    pub data: &'a [f32],
    /// Zeros, at least as many as a segment is long: what lies outside the image.
    pub zeros: &'a [f32],
    /// Input height.
    pub height: usize,
    /// Input width.
    pub width: usize,
    /// Numbers from a pixel to the next.
    pub pixel: usize,
    /// Output height.
    pub out_height: usize,
    /// Output width.
    pub out_width: usize,
    /// Step down and across.
    pub stride: [usize; 2],
    /// Zeros above and left.
    pub pad: [usize; 2],
    /// Distance of taps down and across.
    pub dilation: [usize; 2],
    /// Taps across; segment `s` is tap `(s / taps, s % taps)`.
    pub taps: usize,
}

/// Where the window of each of some rows starts.
pub(super) struct Corners<const MR: usize> {
    /// Rows of all images before.
    before: [usize; MR],
    /// Row and column; above or left of the image they wrap to huge numbers.
    row: [usize; MR],
    column: [usize; MR],
}

impl<'a> Rows<'a> {
    /// Distance of segment `s` from the first, down and across.
    pub(super) fn tap(&self, s: usize) -> [usize; 2] {
        match self {
            Rows::Dense { .. } => [0, 0],
            Rows::Window(w) => [s / w.taps * w.dilation[0], s % w.taps * w.dilation[1]],
        }
    }
    /// Where the windows of rows `m..m + MR` start.
    #[inline(always)]
    pub(super) fn corners<const MR: usize>(&self, m: usize) -> Corners<MR> {
        let mut corners = Corners { before: [0; MR], row: [0; MR], column: [0; MR] };
        if let Rows::Window(w) = self {
            let plane = w.out_height * w.out_width;
            let (mut image, rest) = (m / plane, m % plane);
            let (mut y, mut x) = (rest / w.out_width, rest % w.out_width);
            for i in 0..MR {
                corners.before[i] = image * w.height;
                corners.row[i] = (y * w.stride[0]).wrapping_sub(w.pad[0]);
                corners.column[i] = (x * w.stride[1]).wrapping_sub(w.pad[1]);
                x += 1;
                if x == w.out_width {
                    (x, y) = (0, y + 1);
                    if y == w.out_height {
                        (y, image) = (0, image + 1);
                    }
                }
            }
        }
        corners
    }
    /// Numbers `from..from + len` of a segment of rows `m..m + MR`, whose corners are given.
    #[inline(always)]
    pub(super) fn rows<const MR: usize>(
        &self,
        m: usize,
        corners: &Corners<MR>,
        [down, across]: [usize; 2],
        from: usize,
        len: usize,
    ) -> [&'a [f32]; MR] {
        let mut rows: [&[f32]; MR] = [&[]; MR];
        for (i, found) in rows.iter_mut().enumerate() {
            *found = match self {
                Rows::Dense { data, stride } => &data[(m + i) * stride + from..][..len],
                Rows::Window(w) => {
                    let row = corners.row[i].wrapping_add(down);
                    let column = corners.column[i].wrapping_add(across);
                    if row < w.height && column < w.width {
                        let at = ((corners.before[i] + row) * w.width + column) * w.pixel + from;
                        &w.data[at..][..len]
                    } else {
                        &w.zeros[..len]
                    }
                }
            };
        }
        rows
    }
}
