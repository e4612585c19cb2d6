//! Memory for f32 that starts on a cache line.

use bytemuck::{Pod, Zeroable};

/// One cache line.
#[derive(Clone, Copy, Zeroable, Pod)]
#[repr(C, align(64))]
struct Line([f32; LINE]);
/// Numbers in a cache line.
pub const LINE: usize = 16;

/// A run of f32 aligned to a cache line.
#[derive(Clone, Default)]
pub struct Buffer {
    lines: Vec<Line>,
    len: usize,
}

impl Buffer {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        Self { lines: bytemuck::allocation::zeroed_vec(len.div_ceil(LINE)), len }
    }
    /// A copy of `from`.
    pub fn copy_of(from: &[f32]) -> Self {
        let mut buffer = Self::zeros(from.len());
        buffer.copy_from_slice(from);
        buffer
    }
    /// How many numbers it could hold.
    pub fn capacity(&self) -> usize {
        self.lines.len() * LINE
    }
    /// Changes the number of numbers, within the capacity or by new memory. What they are is left open.
    pub fn set_len(&mut self, len: usize) {
        if len > self.capacity() {
            self.lines = bytemuck::allocation::zeroed_vec(len.div_ceil(LINE));
        }
        self.len = len;
    }
}
impl std::ops::Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}
impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}
impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }
}
impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({})", self.len)
    }
}
