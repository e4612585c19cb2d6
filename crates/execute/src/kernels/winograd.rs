//! Convolution by 3 x 3 windows with a quarter of the products: Winograd's F(4 x 4, 3 x 3).
//!
//! Tiles of 6 x 6 input pixels are transformed, multiplied by transformed weights place by place (36 products over the
//! channels), and transformed back to 4 x 4 output pixels (Lavin and Gray 2015, points 0, 1, -1, 2, -2). The sums are not
//! those of the plain convolution: the error is bounded by the roundings times what the transforms, all their numbers
//! taken as positive, make of the magnitudes.

use super::conv::{Geometry, Placement};
use super::gemm::{Finish, Packed, Product, Rows};
use super::scratch::with_scratch;
use super::simd::{Kernel, Simd, dispatch};
use super::threads::{Block, Threads};

/// Output pixels of a tile in each dimension.
const OUT: usize = 4;
/// Input pixels of a tile in each dimension.
const IN: usize = 6;
/// Places of a tile.
const PLACES: usize = IN * IN;
/// Tiles whose transforms are held at a time.
const TILES: usize = 256;

/// A convolution with transformed weights.
#[derive(Debug)]
pub struct Winograd {
    geometry: Geometry,
    /// One for each place of a tile.
    packed: Vec<Packed>,
}

impl Winograd {
    /// Whether a window is of the kind that this computes.
    pub fn takes(geometry: &Geometry) -> bool {
        let Geometry { groups, taps, stride, dilation, .. } = *geometry;
        groups == 1 && taps == [3, 3] && stride == [1, 1] && dilation == [1, 1]
    }
    /// Whether it is faster than the plain sums: there must be enough channels for the products to outweigh the
    /// transforms, and enough tiles for each of the larger weights.
    pub fn pays(geometry: &Geometry, images: usize, out: [usize; 2]) -> bool {
        let tiles = images * out[0].div_ceil(OUT) * out[1].div_ceil(OUT);
        let used = (images * out[0] * out[1]) as f64 / (tiles.max(1) * OUT * OUT) as f64;
        geometry.channels >= 16 && geometry.out_channels >= 16 && tiles >= 12 && used > 0.5
    }
    /// Transforms and packs weights `[out channels, channels, 3, 3]`.
    pub fn new(geometry: Geometry, weights: &[f32]) -> Self {
        // G of the transform G g G^T.
        const G: [[f64; 3]; IN] = [
            [1.0 / 4.0, 0.0, 0.0],
            [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
            [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
            [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
            [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
            [0.0, 0.0, 1.0],
        ];
        let Geometry { channels, out_channels, .. } = geometry;
        let count = channels * out_channels;
        let mut transformed = vec![0.0; PLACES * count];
        for (k, n) in (0..channels).flat_map(|k| (0..out_channels).map(move |n| (k, n))) {
            let window = &weights[(n * channels + k) * 9..][..9];
            let dot = |g: &[f64; 3], of: [f64; 3]| g[0] * of[0] + g[1] * of[1] + g[2] * of[2];
            let half =
                [0, 1, 2].map(|x| G.map(|down| dot(&down, [0, 1, 2].map(|y| f64::from(window[y * 3 + x])))));
            for place in 0..PLACES {
                let sum = dot(&G[place % IN], [0, 1, 2].map(|x| half[x][place / IN]));
                transformed[place * count + k * out_channels + n] = sum as f32;
            }
        }
        let of_place = transformed.chunks_exact(count.max(1));
        let packed = of_place.map(|matrix| Packed::from_rows(channels, out_channels, matrix)).collect();
        Self { geometry, packed }
    }
    /// Convolves the images of `data` into those of `out`.
    pub fn run(
        &self,
        threads: &Threads,
        data: &[f32],
        place: &Placement,
        finish: &Finish<'_>,
        out: &mut [f32],
    ) {
        let Geometry { channels, out_channels, .. } = self.geometry;
        let [out_height, out_width] = place.out;
        if out.is_empty() {
            return;
        }
        let across = out_width.div_ceil(OUT);
        let of_image = out_height.div_ceil(OUT) * across;
        let images = out.len() / (out_height * out_width * out_channels);
        // Some rows of tiles of an image, or all of some images.
        let (together, rows) = if of_image < TILES {
            ((TILES / of_image).min(images), out_height)
        } else {
            (1, ((TILES / across).max(1) * OUT).min(out_height))
        };
        let most = together * rows.div_ceil(OUT) * across;
        with_scratch(most * PLACES * channels, |transformed| {
            with_scratch(most * PLACES * out_channels, |products| {
                for image in (0..images).step_by(together) {
                    for first in (0..out_height).step_by(rows) {
                        let images = together.min(images - image);
                        let rows = rows.min(out_height - first);
                        let strip = Strip { data, place, finish, image, images, first, rows };
                        self.strip(threads, &strip, transformed, products, out);
                    }
                }
            });
        });
    }
    fn strip(
        &self,
        threads: &Threads,
        strip: &Strip<'_>,
        transformed: &mut [f32],
        products: &mut [f32],
        out: &mut [f32],
    ) {
        let Geometry { channels, out_channels, .. } = self.geometry;
        let Strip { data, place, finish, image, images, first, rows } = *strip;
        let [out_height, out_width] = place.out;
        let across = out_width.div_ceil(OUT);
        let down = rows.div_ceil(OUT);
        let image_len = place.size[0] * place.size[1] * channels;
        let transformed = &mut transformed[..images * down * across * PLACES * channels];
        threads.chunks(transformed, across * PLACES * channels, |i, to| {
            let data = &data[(image + i / down) * image_len..][..image_len];
            dispatch(IntoPlaces { data, channels, place, top: first + i % down * OUT, to });
        });
        let products = &mut products[..images * down * across * PLACES * out_channels];
        Product {
            rows: Rows::Dense { data: transformed, stride: PLACES * channels },
            segments: 1,
            packed: &self.packed,
            finish: Finish::default(),
        }
        .run(threads, products);
        let at = (image * out_height + first) * out_width;
        let out = &mut out[at * out_channels..][..images * rows * out_width * out_channels];
        // A row of tiles, or an image: its last row of tiles may be cut off.
        let (piece, tiles) = if images > 1 { (rows, down * across) } else { (OUT, across) };
        threads.chunks(out, piece * out_width * out_channels, |i, out| {
            let at = at + i * piece * out_width;
            let from = &products[i * tiles * PLACES * out_channels..];
            dispatch(FromPlaces { from, width: out_width, channels: out_channels, at, finish, out });
            if let Some(then) = finish.then {
                then(at, 0, &mut Block::of(out, out_channels));
            }
        });
    }
}

/// What is computed together: some output rows of an image, or all of some images.
#[derive(Clone, Copy)]
struct Strip<'a> {
    data: &'a [f32],
    place: &'a Placement,
    finish: &'a Finish<'a>,
    image: usize,
    images: usize,
    first: usize,
    rows: usize,
}

/// B^T d B for a row of tiles.
struct IntoPlaces<'a> {
    /// One image.
    data: &'a [f32],
    channels: usize,
    place: &'a Placement,
    /// The tiles' first output row.
    top: usize,
    /// Tile by tile, place by place, the channels.
    to: &'a mut [f32],
}

/// B^T of one column of six.
#[inline(always)]
fn into_places<S: Simd>(s: S, d: [S::V; IN]) -> [S::V; IN] {
    let (two, four, five) = (s.splat(2.0), s.splat(4.0), s.splat(-5.0));
    let minus_four = s.splat(-4.0);
    let even = s.fma(minus_four, d[2], d[4]);
    let odd = s.fma(minus_four, d[1], d[3]);
    let low = s.sub(d[4], d[2]);
    let high = s.mul(two, s.sub(d[3], d[1]));
    [
        s.fma(four, d[0], s.fma(five, d[2], d[4])),
        s.add(even, odd),
        s.sub(even, odd),
        s.add(low, high),
        s.sub(low, high),
        s.fma(four, d[1], s.fma(five, d[3], d[5])),
    ]
}

impl Kernel for IntoPlaces<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { data, channels, place, top, to } = self;
        let Placement { size: [height, width], pad, .. } = *place;
        for (t, to) in to.chunks_exact_mut(PLACES * channels).enumerate() {
            for c in (0..channels).step_by(S::LANES) {
                let lanes = S::LANES.min(channels - c);
                let mut half = [[s.splat(0.0); IN]; IN];
                for (x, half) in half.iter_mut().enumerate() {
                    let column = (t * OUT + x).wrapping_sub(pad[1]);
                    if column >= width {
                        continue;
                    }
                    let mut pixels = [s.splat(0.0); IN];
                    for (y, pixel) in pixels.iter_mut().enumerate() {
                        let row = (top + y).wrapping_sub(pad[0]);
                        if row < height {
                            *pixel = s.load_partial(&data[(row * width + column) * channels + c..][..lanes]);
                        }
                    }
                    *half = into_places(s, pixels);
                }
                for y in 0..IN {
                    let mut row = [s.splat(0.0); IN];
                    for (x, half) in half.iter().enumerate() {
                        row[x] = half[y];
                    }
                    for (x, value) in into_places(s, row).into_iter().enumerate() {
                        s.store_partial(&mut to[(y * IN + x) * channels + c..][..lanes], value);
                    }
                }
            }
        }
    }
}

/// A^T m A for rows of tiles, and what is done to the sums.
struct FromPlaces<'a> {
    /// Tile by tile, place by place, the channels.
    from: &'a [f32],
    /// Of the result.
    width: usize,
    channels: usize,
    /// The first pixel of the result.
    at: usize,
    finish: &'a Finish<'a>,
    /// Rows of one image of the result.
    out: &'a mut [f32],
}

/// A^T of one column of six.
#[inline(always)]
fn from_places<S: Simd>(s: S, m: [S::V; IN]) -> [S::V; OUT] {
    let (sum1, difference1) = (s.add(m[1], m[2]), s.sub(m[1], m[2]));
    let (sum2, difference2) = (s.add(m[3], m[4]), s.sub(m[3], m[4]));
    [
        s.add(m[0], s.add(sum1, sum2)),
        s.fma(s.splat(2.0), difference2, difference1),
        s.fma(s.splat(4.0), sum2, sum1),
        s.add(s.fma(s.splat(8.0), difference2, difference1), m[5]),
    ]
}

impl Kernel for FromPlaces<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { from, width, channels, at, finish, out } = self;
        let across = width.div_ceil(OUT);
        for (r, out) in out.chunks_mut(OUT * width * channels).enumerate() {
            let at = at + r * OUT * width;
            let rows = out.len() / (width * channels);
            for t in 0..across {
                let tile = &from[(r * across + t) * PLACES * channels..][..PLACES * channels];
                let columns = OUT.min(width - t * OUT);
                for c in (0..channels).step_by(S::LANES) {
                    let lanes = S::LANES.min(channels - c);
                    let mut half = [[s.splat(0.0); OUT]; IN];
                    for (x, half) in half.iter_mut().enumerate() {
                        let mut column = [s.splat(0.0); IN];
                        for (y, value) in column.iter_mut().enumerate() {
                            *value = s.load_partial(&tile[(y * IN + x) * channels + c..][..lanes]);
                        }
                        *half = from_places(s, column);
                    }
                    let bias = finish.bias.map_or(
                        s.splat(0.0),
                        #[inline(always)]
                        |b| s.load_partial(&b[c..c + lanes]),
                    );
                    for y in 0..OUT {
                        if y == rows {
                            break;
                        }
                        let mut row = [s.splat(0.0); IN];
                        for (x, half) in half.iter().enumerate() {
                            row[x] = half[y];
                        }
                        let values = from_places(s, row);
                        for (x, value) in values.into_iter().enumerate().take(columns) {
                            let place = (y * width + t * OUT + x) * channels + c;
                            let mut value = s.add(value, bias);
                            if let Some(added) = finish.added {
                                value =
                                    s.add(value, s.load_partial(&added[at * channels + place..][..lanes]));
                            }
                            if let Some((least, largest)) = finish.clamp {
                                value = s.min(s.splat(largest), s.max(s.splat(least), value));
                            }
                            s.store_partial(&mut out[place..][..lanes], value);
                        }
                    }
                }
            }
        }
    }
}
