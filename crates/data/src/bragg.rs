//! Bragg peaks on a detector, made up: what BraggNN learns the centre of.

use crate::dataset::Dataset;
use crate::draws::Draws;
use orrery_base::{Diagnostic, Result};
use orrery_numerics::Tensor;
use std::fmt;

/// How peaks are drawn. Each is a pseudo-Voigt function of two dimensions, with axes of its own widths and direction:
/// `amplitude * (mixing * Lorentz + (1 - mixing) * Gauss) + background`, seen by a detector that counts quanta and adds
/// noise. Pairs are the ends of uniform distributions.
///
/// The dataset has two columns: `patch`, f32 `[1, size, size]`, brought to 0..1 each by its own smallest and largest
/// value; and `centre`, f32 `[2]`: the column, then the row of the peak, counted in pixels from the middle of the first
/// one, over `size`. Form and scaling are those of BraggNN (Liu et al., IUCrJ 2022); the ranges of the parameters are
/// assumptions, not fitted to any detector.
#[derive(Clone, Debug, PartialEq)]
pub struct BraggPeaks {
    /// Number of patches.
    pub samples: usize,
    /// Pixels along each side.
    pub size: usize,
    /// Seed of all draws.
    pub seed: u64,
    /// How far a centre lies from the middle at most, in each direction, in pixels.
    pub offset: f64,
    /// Full width at half maximum along each axis of the peak, in pixels.
    pub width: (f64, f64),
    /// Share of the Lorentzian.
    pub mixing: (f64, f64),
    /// Quanta at the top above background.
    pub amplitude: (f64, f64),
    /// Quanta of background in each pixel.
    pub background: (f64, f64),
    /// Whether quanta are counted (Poisson) or their mean is taken.
    pub counts: bool,
    /// Standard deviation of the noise of the readout, in quanta.
    pub noise: f64,
    /// Probability of a second, weaker peak (0.1 to 0.5 of the first) 3 to 6 pixels away.
    pub overlap: f64,
}

impl Default for BraggPeaks {
    fn default() -> Self {
        Self {
            samples: 10_000,
            size: 11,
            seed: 0,
            offset: 2.0,
            width: (1.5, 4.0),
            mixing: (0.0, 1.0),
            amplitude: (100.0, 2000.0),
            background: (0.0, 20.0),
            counts: true,
            noise: 2.0,
            overlap: 0.0,
        }
    }
}

impl fmt::Display for BraggPeaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, size, seed, offset, noise, overlap, .. } = self;
        let range = |(low, high): (f64, f64)| format!("{low} to {high}");
        write!(
            f,
            "{samples} made-up Bragg peaks of {size} by {size} pixels, seed {seed}: centre within {offset} pixels of \
             the middle, width {} pixels, Lorentzian share {}, amplitude {} and background {} quanta, {}, \
             readout noise {noise}, a second peak in {overlap} of them",
            range(self.width),
            range(self.mixing),
            range(self.amplitude),
            range(self.background),
            if self.counts { "counted" } else { "not counted" },
        )
    }
}

/// Bytes of patches beyond which a dataset is refused.
const LARGEST: usize = 1 << 36;

impl BraggPeaks {
    /// Draws all patches.
    ///
    /// # Errors
    /// `data-option` where a parameter is out of its range; `data-too-large` where no memory holds so many.
    pub fn dataset(&self) -> Result<Dataset> {
        self.check()?;
        let pixels = self.size * self.size;
        let mut patches = Vec::with_capacity(self.samples * pixels);
        let mut centres = Vec::with_capacity(self.samples * 2);
        for sample in 0..self.samples {
            let (patch, centre) = self.draw(&mut Draws::new(self.seed, sample as u64));
            let low = patch.iter().copied().fold(f64::INFINITY, f64::min);
            let high = patch.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let span = if high > low { high - low } else { 1.0 };
            patches.extend(patch.iter().map(|value| ((value - low) / span) as f32));
            centres.extend(centre.map(|place| (place / self.size as f64) as f32));
        }
        let tensors = [
            ("patch".to_owned(), Tensor::from_vec(vec![self.samples, 1, self.size, self.size], patches)),
            ("centre".to_owned(), Tensor::from_vec(vec![self.samples, 2], centres)),
        ];
        Dataset::from_tensors("bragg-peaks", vec![self.to_string()], tensors)
    }
    fn check(&self) -> Result<()> {
        let ordered = |(low, high): (f64, f64), least: f64| least <= low && low <= high && high.is_finite();
        let rules = [
            (self.size >= 3, "a patch has at least 3 pixels along each side"),
            ((0.0..=self.size as f64 / 2.0).contains(&self.offset), "the centre lies on the patch"),
            (ordered(self.width, 0.1), "widths are at least 0.1 pixels, the smaller one first"),
            (ordered(self.mixing, 0.0) && self.mixing.1 <= 1.0, "the Lorentzian share is within 0 and 1"),
            (ordered(self.amplitude, 0.0), "amplitudes are not negative, the smaller one first"),
            (ordered(self.background, 0.0), "the background is not negative, the smaller one first"),
            (self.noise >= 0.0 && self.noise.is_finite(), "the noise is not negative"),
            ((0.0..=1.0).contains(&self.overlap), "a share of overlapping peaks is within 0 and 1"),
        ];
        if let Some((_, rule)) = rules.iter().find(|(holds, _)| !holds) {
            return Diagnostic::error("data-option", *rule).at("bragg-peaks").err();
        }
        let bytes =
            self.size.checked_mul(self.size).and_then(|n| n.checked_mul(4)?.checked_mul(self.samples));
        if bytes.is_none_or(|bytes| bytes > LARGEST) {
            let cause = format!("{} patches of {} pixels a side cannot be held", self.samples, self.size);
            return Diagnostic::error("data-too-large", cause).at("bragg-peaks").err();
        }
        Ok(())
    }
    /// The quanta of one patch, row by row, and column and row of its centre.
    fn draw(&self, draws: &mut Draws) -> (Vec<f64>, [f64; 2]) {
        let middle = (self.size - 1) as f64 / 2.0;
        let mut place = || middle + draws.between((-self.offset, self.offset));
        let centre = [place(), place()];
        let first = Peak::draw(self, draws, centre);
        let second = (draws.unit() < self.overlap).then(|| {
            let (distance, angle) = (draws.between((3.0, 6.0)), draws.unit() * std::f64::consts::TAU);
            let (sin, cos) = libm::sincos(angle);
            let amplitude = first.amplitude * draws.between((0.1, 0.5));
            let place = [centre[0] + distance * cos, centre[1] + distance * sin];
            Peak { amplitude, ..Peak::draw(self, draws, place) }
        });
        let background = draws.between(self.background);
        let mut patch = Vec::with_capacity(self.size * self.size);
        for i in 0..self.size * self.size {
            let (column, row) = ((i % self.size) as f64, (i / self.size) as f64);
            let peaks = first.at(column, row) + second.as_ref().map_or(0.0, |peak| peak.at(column, row));
            let mean = background + peaks;
            let seen = if self.counts { draws.poisson(mean) } else { mean };
            patch.push(seen + if self.noise > 0.0 { self.noise * draws.normal() } else { 0.0 });
        }
        (patch, centre)
    }
}

/// One peak.
struct Peak {
    centre: [f64; 2],
    /// Cosine and sine of the direction of its first axis.
    direction: [f64; 2],
    width: [f64; 2],
    mixing: f64,
    amplitude: f64,
}

impl Peak {
    fn draw(of: &BraggPeaks, draws: &mut Draws, centre: [f64; 2]) -> Self {
        let (sin, cos) = libm::sincos(draws.unit() * std::f64::consts::PI);
        Self {
            centre,
            direction: [cos, sin],
            width: [draws.between(of.width), draws.between(of.width)],
            mixing: draws.between(of.mixing),
            amplitude: draws.between(of.amplitude),
        }
    }
    fn at(&self, column: f64, row: f64) -> f64 {
        let (x, y) = (column - self.centre[0], row - self.centre[1]);
        let [cos, sin] = self.direction;
        let along = (x * cos + y * sin) / self.width[0];
        let across = (y * cos - x * sin) / self.width[1];
        // Four times the squared distance in widths: 1 at half maximum of both functions.
        let distance = 4.0 * (along * along + across * across);
        let lorentz = 1.0 / (1.0 + distance);
        let gauss = libm::exp(-std::f64::consts::LN_2 * distance);
        self.amplitude * (self.mixing * lorentz + (1.0 - self.mixing) * gauss)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(peaks: &BraggPeaks) -> (Vec<f32>, Vec<f32>) {
        let data = peaks.dataset().unwrap();
        let batch = data.batch(&(0..data.len()).collect::<Vec<_>>()).unwrap();
        assert_eq!(batch[0].1.shape(), [peaks.samples, 1, peaks.size, peaks.size]);
        let values = |i: usize| batch[i].1.values::<f32>().unwrap().into_owned();
        (values(0), values(1))
    }

    #[test]
    fn patches_are_scaled_and_brightest_near_the_centre() {
        let (patches, centres) = all(&BraggPeaks { samples: 500, seed: 1, ..BraggPeaks::default() });
        let mut near = 0;
        for (patch, centre) in patches.chunks(121).zip(centres.chunks(2)) {
            assert_eq!(patch.iter().copied().fold(f32::MAX, f32::min), 0.0);
            assert_eq!(patch.iter().copied().fold(0.0, f32::max), 1.0);
            assert!(centre.iter().all(|c| (3.0 / 11.0..=7.0 / 11.0).contains(c)));
            let brightest = patch.iter().position(|value| *value == 1.0).unwrap();
            let off = |place: usize, centre: f32| (place as f32 - centre * 11.0).abs() <= 1.5;
            near += i32::from(off(brightest % 11, centre[0]) && off(brightest / 11, centre[1]));
        }
        assert!(near > 475, "{near} of 500 have their brightest pixel within 1.5 of the centre");
    }

    #[test]
    fn without_noise_and_background_the_centre_of_mass_is_the_centre() {
        let clean = BraggPeaks {
            samples: 50,
            size: 31,
            background: (0.0, 0.0),
            mixing: (0.0, 0.0),
            counts: false,
            noise: 0.0,
            ..BraggPeaks::default()
        };
        let (patches, centres) = all(&clean);
        for (patch, centre) in patches.chunks(31 * 31).zip(centres.chunks(2)) {
            let total: f32 = patch.iter().sum();
            let mean = |place: fn(usize) -> usize| {
                patch.iter().enumerate().map(|(i, v)| place(i) as f32 * v).sum::<f32>() / total
            };
            assert!((mean(|i| i % 31) - centre[0] * 31.0).abs() < 0.02);
            assert!((mean(|i| i / 31) - centre[1] * 31.0).abs() < 0.02);
        }
    }

    #[test]
    fn peaks_are_of_their_seed_and_bad_parameters_refused() {
        let of = |seed, overlap| all(&BraggPeaks { samples: 3, seed, overlap, ..BraggPeaks::default() }).0;
        assert_eq!(of(1, 0.0), of(1, 0.0));
        assert_ne!(of(1, 0.0), of(2, 0.0));
        assert_ne!(of(1, 0.0), of(1, 1.0));
        let code = |peaks: BraggPeaks| peaks.dataset().unwrap_err().code;
        assert_eq!(code(BraggPeaks { noise: f64::NAN, ..BraggPeaks::default() }), "data-option");
        assert_eq!(code(BraggPeaks { width: (3.0, 1.0), ..BraggPeaks::default() }), "data-option");
        assert_eq!(code(BraggPeaks { samples: 1 << 60, ..BraggPeaks::default() }), "data-too-large");
        assert_eq!(code(BraggPeaks { samples: 0, ..BraggPeaks::default() }), "data-empty");
    }
}
