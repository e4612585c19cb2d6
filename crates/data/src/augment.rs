//! Small random changes of images, another one for each sample and epoch.

use crate::draws::Draws;
use orrery_base::{Diagnostic, Result};
use orrery_numerics::{DType, Tensor, random_word};
use std::fmt;

/// How far images are moved at most. What comes in at an edge repeats the edge's pixels; between pixels values are
/// interpolated linearly.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Augment {
    /// Whole pixels in each direction.
    pub shift: usize,
    /// Degrees in each direction, about the middle.
    pub rotate: f64,
    /// Share by which an image grows or shrinks, about the middle; 0.1 is 0.9 to 1.1 times.
    pub scale: f64,
}

impl Augment {
    /// Whether images of this type and shape can be moved: `[rows, columns]` or `[channels, rows, columns]` of f32.
    ///
    /// # Errors
    /// `data-option` where they cannot, or where the bounds are no sensible numbers.
    pub(crate) fn check(&self, dtype: DType, shape: &[usize]) -> Result<()> {
        let sensible = (0.0..=180.0).contains(&self.rotate) && (0.0..=0.9).contains(&self.scale);
        if !sensible {
            return Diagnostic::error("data-option", format!("images cannot be {self}"))
                .help("rotate by 0 to 180 degrees, scale by 0 to 0.9")
                .err();
        }
        if dtype != DType::F32 || !(2..=3).contains(&shape.len()) {
            let cause = format!("samples of {dtype}{shape:?} are no images to be {self}");
            return Diagnostic::error("data-option", cause)
                .help("images are f32 of shape [rows, columns] or [channels, rows, columns]")
                .err();
        }
        Ok(())
    }
    /// A batch of images, each moved by the draws of its sample.
    pub(crate) fn apply(&self, batch: &Tensor, samples: &[usize], seed: u64, epoch: u64) -> Tensor {
        let shape = batch.shape();
        let (rows, columns) = (shape[shape.len() - 2], shape[shape.len() - 1]);
        let (plane, each) = (rows * columns, shape[1..].iter().product::<usize>());
        let mut values = batch.to_f32().expect("checked to be f32").into_owned();
        let seed = random_word(seed, epoch, AUGMENT);
        for (image, &sample) in values.chunks_exact_mut(each.max(1)).zip(samples) {
            let moved = Moved::draw(self, &mut Draws::new(seed, sample as u64));
            for channel in image.chunks_exact_mut(plane.max(1)) {
                let before = channel.to_vec();
                for (i, value) in channel.iter_mut().enumerate() {
                    *value = moved.look_up(&before, rows, columns, i / columns, i % columns);
                }
            }
        }
        Tensor::from_vec(shape.to_vec(), values)
    }
}

const AUGMENT: u64 = 0x6175_676d;

impl fmt::Display for Augment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shift, rotate, scale } = self;
        write!(f, "shifted by up to {shift} pixels, rotated by up to {rotate}°, scaled by up to {scale}")
    }
}

/// Where a pixel of the moved image comes from: `matrix` times its place relative to the middle, plus `offset`.
struct Moved {
    matrix: [f64; 4],
    offset: [f64; 2],
}

impl Moved {
    fn draw(by: &Augment, draws: &mut Draws) -> Self {
        let mut whole = || (draws.unit() * (2 * by.shift + 1) as f64).floor() - by.shift as f64;
        let offset = [whole(), whole()];
        let angle = draws.between((-by.rotate, by.rotate)).to_radians();
        let size = 1.0 / (1.0 + draws.between((-by.scale, by.scale)));
        let (sin, cos) = libm::sincos(angle);
        Self { matrix: [cos * size, -sin * size, sin * size, cos * size], offset }
    }
    fn look_up(&self, image: &[f32], rows: usize, columns: usize, row: usize, column: usize) -> f32 {
        let middle = [(rows - 1) as f64 / 2.0, (columns - 1) as f64 / 2.0];
        let from = [row as f64 - middle[0], column as f64 - middle[1]];
        let [a, b, c, d] = self.matrix;
        let y = a * from[0] + b * from[1] + middle[0] + self.offset[0];
        let x = c * from[0] + d * from[1] + middle[1] + self.offset[1];
        let (y, x) = (y.clamp(0.0, (rows - 1) as f64), x.clamp(0.0, (columns - 1) as f64));
        let (top, left) = (y as usize, x as usize);
        let (bottom, right) = ((top + 1).min(rows - 1), (left + 1).min(columns - 1));
        let (down, across) = (y - top as f64, x - left as f64);
        let at = |row: usize, column: usize| f64::from(image[row * columns + column]);
        let upper = at(top, left) * (1.0 - across) + at(top, right) * across;
        let lower = at(bottom, left) * (1.0 - across) + at(bottom, right) * across;
        (upper * (1.0 - down) + lower * down) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Tensor {
        let pixels: Vec<f32> = (0..25).map(|i| i as f32).collect();
        Tensor::from_vec(vec![1, 1, 5, 5], pixels)
    }

    #[test]
    fn nothing_is_moved_by_nothing() {
        assert_eq!(Augment::default().apply(&image(), &[3], 1, 1).bytes(), image().bytes());
    }

    #[test]
    fn a_shift_moves_all_pixels_alike_and_depends_on_sample_and_epoch() {
        let by = Augment { shift: 1, ..Augment::default() };
        let middle = |sample, epoch| {
            let moved = by.apply(&image(), &[sample], 9, epoch);
            let values = moved.values::<f32>().unwrap().into_owned();
            // Rows and columns away from the edges keep their distances.
            assert_eq!((values[12] - values[11], values[12] - values[7]), (1.0, 5.0));
            values[12] as i32
        };
        let seen: std::collections::BTreeSet<i32> = (0..200).map(|sample| middle(sample, 0)).collect();
        assert_eq!(seen, [6, 7, 8, 11, 12, 13, 16, 17, 18].into());
        assert!((0..20).any(|epoch| middle(0, epoch) != middle(0, 0)));
        assert_eq!(middle(5, 2), middle(5, 2));
    }

    #[test]
    fn a_half_turn_keeps_the_middle_and_a_scaled_image_its_mean() {
        let by = Augment { rotate: 180.0, scale: 0.3, shift: 0 };
        for sample in 0..50 {
            let moved = by.apply(&image(), &[sample], 1, 0);
            assert!((moved.values::<f32>().unwrap()[12] - 12.0).abs() < 1e-4);
        }
    }

    #[test]
    fn rows_of_features_are_no_images() {
        assert_eq!(Augment::default().check(DType::F32, &[64]).unwrap_err().code, "data-option");
        let wild = Augment { scale: 1.0, ..Augment::default() };
        assert_eq!(wild.check(DType::F32, &[8, 8]).unwrap_err().code, "data-option");
    }
}
