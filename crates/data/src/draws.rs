//! Random numbers of several distributions, in a row that belongs to a seed and an index.

use orrery_numerics::random_word;

/// The endless row of draws of `index` under `seed`: the same on every machine.
pub(crate) struct Draws {
    seed: u64,
    index: u64,
    word: u64,
}

impl Draws {
    pub(crate) fn new(seed: u64, index: u64) -> Self {
        Self { seed, index, word: 0 }
    }
    /// Uniform in [0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        let word = random_word(self.seed, self.index, self.word);
        self.word += 1;
        (word >> 11) as f64 * (0.5_f64).powi(53)
    }
    /// Uniform in [low, high).
    pub(crate) fn between(&mut self, (low, high): (f64, f64)) -> f64 {
        low + (high - low) * self.unit()
    }
    /// Normal with mean 0 and deviation 1 (Box and Muller 1958).
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * libm::log(1.0 - self.unit())).sqrt();
        radius * libm::cos(std::f64::consts::TAU * self.unit())
    }
    /// Poisson: by products of uniforms (Knuth) up to a mean of 64, above that the nearest whole number of the normal
    /// distribution with the same mean and variance.
    pub(crate) fn poisson(&mut self, mean: f64) -> f64 {
        if mean > 64.0 {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0);
        }
        let (limit, mut product, mut count) = (libm::exp(-mean), self.unit(), 0.0);
        while product > limit {
            product *= self.unit();
            count += 1.0;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bounds are five standard errors of 20,000 draws.
    #[test]
    fn means_and_variances_are_right() {
        let check = |what: &str, mean: f64, variance: f64, mut draw: Box<dyn FnMut(&mut Draws) -> f64>| {
            let mut draws = Draws::new(1, 2);
            let values: Vec<f64> = (0..20_000).map(|_| draw(&mut draws)).collect();
            let n = values.len() as f64;
            let got = values.iter().sum::<f64>() / n;
            let spread = values.iter().map(|v| (v - got) * (v - got)).sum::<f64>() / n;
            assert!((got - mean).abs() < 5.0 * (variance / n).sqrt(), "{what}: mean {got}");
            // The fourth moment of all of these is below 5 times the squared variance.
            assert!(
                (spread - variance).abs() < 5.0 * variance * (4.0 / n).sqrt(),
                "{what}: variance {spread}"
            );
        };
        check("unit", 0.5, 1.0 / 12.0, Box::new(Draws::unit));
        check("normal", 0.0, 1.0, Box::new(Draws::normal));
        check("poisson 3", 3.0, 3.0, Box::new(|d| d.poisson(3.0)));
        check("poisson 200", 200.0, 200.0, Box::new(|d| d.poisson(200.0)));
    }
}
