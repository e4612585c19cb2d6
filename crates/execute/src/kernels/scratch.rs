//! Memory that a thread keeps from one call to the next.

use super::buffer::Buffer;
use std::cell::RefCell;

thread_local!(static KEPT: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) });

/// Calls `f` with room for `len` numbers, which are left open.
pub(super) fn with_scratch<T>(len: usize, f: impl FnOnce(&mut [f32]) -> T) -> T {
    let mut buffer = KEPT.with_borrow_mut(|kept| {
        // The smallest that is large enough, else the largest, which grows.
        let fits = kept.iter().enumerate().filter(|(_, b)| b.capacity() >= len);
        let best = fits.min_by_key(|(_, b)| b.capacity()).map(|(i, _)| i);
        let best = best.or_else(|| kept.iter().enumerate().max_by_key(|(_, b)| b.capacity()).map(|(i, _)| i));
        best.map_or_else(Buffer::default, |i| kept.swap_remove(i))
    });
    buffer.set_len(len);
    let result = f(&mut buffer);
    KEPT.with_borrow_mut(|kept| kept.push(buffer));
    result
}
