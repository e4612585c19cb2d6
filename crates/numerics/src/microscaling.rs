//! Microscaling: blocks of narrow floats that share a power-of-two scale (OCP Microscaling Formats 1.0).
//!
//! mxfp4, the weights of gpt-oss, is blocks of 32 e2m1 elements with one e8m0 scale: 4.25 bits an element.

use crate::round::Rounding;
use crate::{Format, format::power_of_two};

/// Elements that share a scale in every format of OCP.
pub const BLOCK: usize = 32;

/// Numbers in blocks along one contiguous dimension. A last block may be short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Format of the elements.
    pub element: Format,
    /// Elements that share a scale.
    pub block: usize,
    /// e8m0 code of each block's scale.
    pub scales: Vec<u8>,
    /// Code of each element in the low bits of its byte.
    pub codes: Vec<u8>,
}

impl Blocks {
    /// Quantises by the rule of OCP: the scale is the power of two of the block's largest magnitude, divided by that
    /// of the largest element (4 for e2m1), and held within e8m0; elements are rounded with `rounding` and saturate.
    /// A block of zeros has the smallest scale. A block with NaN or infinity has the scale NaN, and so is NaN throughout.
    ///
    /// The elements' format has at most eight bits and a sign.
    pub fn quantise(values: &[f32], element: Format, block: usize, rounding: Rounding) -> Self {
        let largest = exponent(element.max_finite());
        let mut scales = Vec::with_capacity(values.len().div_ceil(block));
        let mut codes = Vec::with_capacity(values.len());
        for (number, chunk) in values.chunks(block).enumerate() {
            if chunk.iter().any(|v| !v.is_finite()) {
                scales.push(u8::MAX);
                codes.resize(codes.len() + chunk.len(), 0);
                continue;
            }
            let magnitude = chunk.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            let shared =
                if magnitude == 0.0 { -127 } else { (exponent(magnitude.into()) - largest).clamp(-127, 127) };
            scales.push((shared + 127) as u8);
            let inverse = power_of_two(-shared);
            let first = (number * block) as u64;
            codes.extend(chunk.iter().zip(first..).map(|(&value, index)| {
                element.encode(f64::from(value) * inverse, rounding, true, index) as u8
            }));
        }
        Self { element, block, scales, codes }
    }
    /// The numbers that scales and elements stand for: products are exact, except where they leave the range of
    /// binary32.
    pub fn dequantise(&self) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.codes.len());
        for (chunk, &scale) in self.codes.chunks(self.block).zip(&self.scales) {
            let scale = Format::E8M0.decode(scale.into());
            values.extend(chunk.iter().map(|&code| (self.element.decode(code.into()) * scale) as f32));
        }
        values
    }
}

/// Two four-bit codes to a byte, the first in the low half. An odd last one has zero beside it.
pub fn pack_nibbles(codes: &[u8]) -> Vec<u8> {
    codes.chunks(2).map(|pair| pair[0] & 15 | pair.get(1).map_or(0, |high| high << 4)).collect()
}

/// The four-bit codes of bytes, low half first.
pub fn unpack_nibbles(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| [byte & 15, byte >> 4]).collect()
}

/// Floor of the base-2 logarithm of a positive finite number that is normal as binary64, as every binary32 is.
fn exponent(value: f64) -> i32 {
    (value.to_bits() >> 52) as i32 - 1023
}
