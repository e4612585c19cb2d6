//! Convolution over channels-last images.
//!
//! [`Convolution`] holds the packed weights; `run` is given images. Windows of all channels are products
//! whose left rows are pixels of the image ([`super::gemm`]); windows of one channel each go to [`super::depthwise`].

use super::depthwise::Depthwise;
use super::few::FewChannels;
use super::gemm::{Finish, Packed, Product, Rows, Window};
use super::threads::Threads;
use super::winograd::Winograd;

/// The window of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Input channels.
    pub channels: usize,
    /// Output channels.
    pub out_channels: usize,
    /// Groups.
    pub groups: usize,
    /// Taps down and across.
    pub taps: [usize; 2],
    /// Step down and across.
    pub stride: [usize; 2],
    /// Distance of taps down and across.
    pub dilation: [usize; 2],
}

/// Where a window is put on images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Input height and width.
    pub size: [usize; 2],
    /// Output height and width.
    pub out: [usize; 2],
    /// Zeros above and left.
    pub pad: [usize; 2],
}

/// A convolution with packed weights.
#[derive(Debug)]
pub struct Convolution {
    geometry: Geometry,
    method: Method,
}
#[derive(Debug)]
enum Method {
    /// A window of its own for each channel: weights by tap.
    Depthwise(Vec<f32>),
    /// One product for each group; each tap is a segment.
    Taps(Vec<Packed>),
    /// A quarter of the products, for images large enough; else the taps.
    Winograd(Winograd, Vec<Packed>),
    /// One product over copies of what lies under the window.
    FewChannels(FewChannels),
}

impl Convolution {
    /// Packs weights `[out channels, channels / groups, taps down, taps across]`; `out` is the least number of images and
    /// the size of an output image, where it is always the same.
    pub fn new(geometry: Geometry, weights: &[f32], out: Option<(usize, [usize; 2])>) -> Self {
        let Geometry { channels, out_channels, groups, taps: [down, across], .. } = geometry;
        let area = down * across;
        if groups == channels && out_channels == channels && groups > 1 {
            let by_tap = (0..area).flat_map(|t| (0..channels).map(move |c| weights[c * area + t])).collect();
            return Self { geometry, method: Method::Depthwise(by_tap) };
        }
        let (inner, outer) = (channels / groups, out_channels / groups);
        let group = |g: usize| {
            Packed::new(area * inner, outer, |k, n| {
                let (tap, channel) = (k / inner, k % inner);
                weights[((g * outer + n) * inner + channel) * area + tap]
            })
        };
        let packed = || -> Vec<Packed> { (0..groups).map(group).collect() };
        let (images, size) = out.unwrap_or((1, [usize::from(u16::MAX); 2]));
        if Winograd::takes(&geometry) && Winograd::pays(&geometry, images, size) {
            // Where the size is known, the taps are not needed as well.
            let taps = if out.is_some() { Vec::new() } else { packed() };
            return Self { geometry, method: Method::Winograd(Winograd::new(geometry, weights), taps) };
        }
        if FewChannels::takes(&geometry) {
            return Self { geometry, method: Method::FewChannels(FewChannels::new(geometry, group(0))) };
        }
        Self { geometry, method: Method::Taps(packed()) }
    }
    /// Its window.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }
    /// Whether [`Finish::added`] is taken.
    pub fn adds(&self) -> bool {
        !matches!(self.method, Method::Depthwise(_))
    }
    /// Convolves `images` images of `data`.
    pub fn run(
        &self,
        threads: &Threads,
        data: &[f32],
        images: usize,
        place: &Placement,
        finish: Finish<'_>,
        out: &mut [f32],
    ) {
        let Geometry { channels, taps, stride, dilation, .. } = self.geometry;
        let Placement { size: [height, width], out: [out_height, out_width], pad } = *place;
        match &self.method {
            Method::Depthwise(weights) => Depthwise {
                data,
                weights,
                channels,
                height,
                width,
                out_height,
                out_width,
                taps,
                stride,
                pad,
                dilation,
            }
            .run(threads, &finish, out),
            Method::Winograd(winograd, taps)
                if taps.is_empty() || Winograd::pays(&self.geometry, images, place.out) =>
            {
                winograd.run(threads, data, place, &finish, out);
            }
            Method::Taps(packed) | Method::Winograd(_, packed) => {
                let plain = taps == [1, 1] && stride == [1, 1] && pad == [0, 0] && place.size == place.out;
                let zeros = vec![0.0; if plain { 0 } else { channels }];
                let rows = if plain {
                    Rows::Dense { data, stride: channels }
                } else {
                    Rows::Window(Window {
                        data,
                        zeros: &zeros,
                        height,
                        width,
                        pixel: channels,
                        out_height,
                        out_width,
                        stride,
                        pad,
                        dilation,
                        taps: taps[1],
                    })
                };
                Product { rows, segments: taps[0] * taps[1], packed, finish }.run(threads, out);
            }
            Method::FewChannels(few) => few.run(threads, data, false, place, &finish, out),
        }
    }
    /// As [`Convolution::run`], of images whose channels lie one after the other; for windows that
    /// [`Convolution::takes_planes`] says so of.
    pub fn run_planes(
        &self,
        threads: &Threads,
        data: &[f32],
        place: &Placement,
        finish: Finish<'_>,
        out: &mut [f32],
    ) {
        match &self.method {
            Method::FewChannels(few) => few.run(threads, data, true, place, &finish, out),
            _ => unreachable!("asked of takes_planes before"),
        }
    }
    /// Whether images whose channels lie one after the other need not be turned first.
    pub fn takes_planes(&self) -> bool {
        matches!(self.method, Method::FewChannels(_))
    }
}
