//! Units: integer time, energy, and how figures are shown to people.

use serde::{Deserialize, Serialize};
use std::ops::{Add, AddAssign, Mul, Sub};

/// Simulated time in integer picoseconds; saturates at 213 days.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Picoseconds(pub u64);

impl Picoseconds {
    /// No time.
    pub const ZERO: Self = Self(0);
    /// From seconds, rounded to the nearest picosecond; negative and NaN give zero, too large saturates.
    pub fn from_seconds(seconds: f64) -> Self {
        Self((seconds * 1e12).round() as u64)
    }
    /// From cycles of a clock in Hz.
    pub fn from_cycles(cycles: f64, clock_hz: f64) -> Self {
        Self::from_seconds(cycles / clock_hz)
    }
    /// As seconds.
    pub fn seconds(self) -> f64 {
        self.0 as f64 * 1e-12
    }
}
impl Add for Picoseconds {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}
impl AddAssign for Picoseconds {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}
impl Sub for Picoseconds {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}
impl Mul<u64> for Picoseconds {
    type Output = Self;
    fn mul(self, times: u64) -> Self {
        Self(self.0.saturating_mul(times))
    }
}
impl std::iter::Sum for Picoseconds {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}
impl std::fmt::Display for Picoseconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&show_seconds(self.seconds()))
    }
}

/// Seconds with three digits and a fitting prefix: `1.23 ms`.
pub fn show_seconds(seconds: f64) -> String {
    show_scaled(seconds, "s", &[(1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"), (1e-12, "p")])
}
/// Joules with three digits and a fitting prefix: `22.6 mJ`.
pub fn show_joules(joules: f64) -> String {
    show_scaled(joules, "J", &[(1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n")])
}
/// A rate or count with three digits and a decimal prefix: `312 TFLOP/s`.
pub fn show_si(value: f64, unit: &str) -> String {
    show_scaled(
        value,
        unit,
        &[(1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")],
    )
}
/// Bytes with binary prefixes: `624 KiB`.
pub fn show_bytes(bytes: f64) -> String {
    let k = 1024.0_f64;
    show_scaled(
        bytes,
        "B",
        &[(k.powi(5), "Pi"), (k.powi(4), "Ti"), (k.powi(3), "Gi"), (k.powi(2), "Mi"), (k, "Ki"), (1.0, "")],
    )
}

fn show_scaled(value: f64, unit: &str, scales: &[(f64, &str)]) -> String {
    let (scale, prefix) = scales
        .iter()
        .find(|(scale, _)| value.abs() >= *scale * 0.9995)
        .or(scales.last())
        .copied()
        .unwrap_or((1.0, ""));
    let scaled = value / scale;
    let whole = scaled == scaled.trunc() && scaled.abs() < 1000.0;
    let digits = match scaled.abs() {
        _ if whole => 0,
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    format!("{scaled:.digits$} {prefix}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_three_digits() {
        assert_eq!(show_seconds(0.00123), "1.23 ms");
        assert_eq!(show_seconds(0.0), "0 ps");
        assert_eq!(show_si(312e12, "FLOP/s"), "312 TFLOP/s");
        assert_eq!(show_bytes(624.0 * 1024.0), "624 KiB");
        assert_eq!(show_seconds(1.9996), "2.00 s");
    }

    #[test]
    fn time_saturates() {
        assert_eq!(Picoseconds::from_seconds(-1.0), Picoseconds::ZERO);
        assert_eq!(Picoseconds::from_seconds(f64::NAN), Picoseconds::ZERO);
        assert_eq!(Picoseconds(u64::MAX) + Picoseconds(1), Picoseconds(u64::MAX));
    }
}
