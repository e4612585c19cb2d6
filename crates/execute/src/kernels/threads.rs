//! Threads that work on one call at a time.
//!
//! The pieces of a call are numbered; whoever is free takes the next. What a piece computes depends on its number alone,
//! so the result is the same whatever the number of threads. Between calls that follow each other closely the threads stay awake.
#![expect(
    unsafe_code,
    reason = "lends a borrowed closure to threads that outlive it, and splits a slice among them"
)]

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// A fixed number of threads, the caller's own counted.
pub struct Threads {
    shared: Arc<Shared>,
    handles: Vec<std::thread::JoinHandle<()>>,
    call: Mutex<()>,
}

type Work = dyn Fn(usize) + Sync;

struct Shared {
    /// Bits 0..16: helpers at work; bit 16: open; the rest: number of the call.
    state: AtomicU64,
    job: UnsafeCell<Option<Job>>,
    next: AtomicUsize,
    panic: Mutex<Option<Box<dyn std::any::Any + Send>>>,
    stop: AtomicBool,
    asleep: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}
#[derive(Clone, Copy)]
struct Job {
    work: *const Work,
    count: usize,
}
// SAFETY: `job` is written only while the state is closed and no helper is at work, and read only by helpers that have
// entered while it was open; the closure it points to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is only followed while the caller keeps the closure alive.
unsafe impl Send for Shared {}

const OPEN: u64 = 1 << 16;
const AT_WORK: u64 = OPEN - 1;
const CALL: u64 = OPEN << 1;
/// Looks at the state before a waiting helper gives its time away, and before it goes to sleep.
const SPINS: u32 = 4_000;
const YIELDS: u32 = 200;

impl Threads {
    /// Starts `count - 1` helpers; none for 0 or 1.
    pub fn new(count: usize) -> Self {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            asleep: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        });
        let handles = (1..count.min(usize::from(u16::MAX)))
            .filter_map(|i| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new().name(format!("host-{i}")).spawn(move || shared.help()).ok()
            })
            .collect();
        Self { shared, handles, call: Mutex::new(()) }
    }
    /// Number of threads, the caller's own counted.
    pub fn count(&self) -> usize {
        self.handles.len() + 1
    }
    /// Calls `work(0..count)`, each once, in any order, on all threads; returns when all is done.
    ///
    /// Must not be called from inside `work`. Panics where `work` does.
    pub fn run(&self, count: usize, work: &(dyn Fn(usize) + Sync)) {
        if self.handles.is_empty() || count <= 1 {
            (0..count).for_each(work);
            return;
        }
        let _one_call_at_a_time = self.call.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        // SAFETY: only the lifetime is changed; the pointer is not followed after this function returns (see below).
        let lent = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static Work>(work) };
        shared.next.store(0, Ordering::Relaxed);
        // SAFETY: the state is closed and no helper is at work: this is how every call ends, and how it all starts.
        unsafe { *shared.job.get() = Some(Job { work: lent, count }) };
        shared.state.fetch_add(CALL | OPEN, Ordering::SeqCst);
        if shared.asleep.load(Ordering::SeqCst) > 0 {
            let _guard = shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
            shared.wake.notify_all();
        }
        let mine = catch_unwind(AssertUnwindSafe(|| shared.take_pieces(work, count)));
        // No helper enters from here on; those inside finish their piece, and only then may `work` go away.
        shared.state.fetch_and(!OPEN, Ordering::SeqCst);
        let mut looks = 0_u32;
        while shared.state.load(Ordering::Acquire) & AT_WORK != 0 {
            looks += 1;
            if looks < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        let theirs = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = mine.err().or(theirs) {
            resume_unwind(panic);
        }
    }
    /// Cuts `out` into chunks of `chunk` numbers (the last may be shorter) and calls `work(i, chunk)` for each.
    pub fn chunks<T: Send>(&self, out: &mut [T], chunk: usize, work: impl Fn(usize, &mut [T]) + Sync) {
        if out.is_empty() {
            return;
        }
        let (len, chunk) = (out.len(), chunk.max(1));
        let base = Pieces { base: out.as_mut_ptr(), life: PhantomData };
        self.run(len.div_ceil(chunk), &|i| {
            let from = i * chunk;
            // SAFETY: piece `i` is taken once, and pieces of different numbers do not overlap.
            let piece = unsafe { std::slice::from_raw_parts_mut(base.at(from), chunk.min(len - from)) };
            work(i, piece);
        });
    }
    /// Cuts a row-major matrix of `columns` columns into blocks of at most `block_rows` rows and of the columns between
    /// neighbouring `cuts`, the first of which is 0 and the last `columns`, and calls `work(first row, first column, block)`
    /// for each; blocks of one set of columns follow each other.
    ///
    /// Panics where `out` is no whole number of rows or the cuts do not rise from 0 to `columns`.
    pub fn blocks(
        &self,
        out: &mut [f32],
        columns: usize,
        block_rows: usize,
        cuts: &[usize],
        work: impl Fn(usize, usize, &mut Block<'_>) + Sync,
    ) {
        if out.is_empty() {
            return;
        }
        assert_eq!(out.len() % columns, 0, "whole rows");
        assert!(cuts.first() == Some(&0) && cuts.last() == Some(&columns) && cuts.is_sorted(), "{cuts:?}");
        let rows = out.len() / columns;
        let block_rows = block_rows.clamp(1, rows);
        let down = rows.div_ceil(block_rows);
        let base = Pieces { base: out.as_mut_ptr(), life: PhantomData };
        self.run(down * (cuts.len() - 1), &|i| {
            let (row, cut) = (i % down * block_rows, i / down);
            let column = cuts[cut];
            let mut block = Block {
                // In bounds: `row` and `column` are those of an element, or the block has no columns.
                base: base.at(row * columns + column),
                stride: columns,
                rows: block_rows.min(rows - row),
                columns: cuts[cut + 1] - column,
                life: PhantomData,
            };
            work(row, column, &mut block);
        });
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        {
            let _guard = self.shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.wake.notify_all();
        }
        for handle in self.handles.drain(..) {
            // A helper never panics: it catches what the work throws.
            let _ = handle.join();
        }
    }
}

impl Shared {
    fn take_pieces(&self, work: &(dyn Fn(usize) + Sync), count: usize) {
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return;
            }
            work(i);
        }
    }
    fn help(&self) {
        let mut done = 0;
        let mut looks = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let state = self.state.load(Ordering::Acquire);
            if state & OPEN != 0 && state / CALL != done {
                if self.state.compare_exchange(state, state + 1, Ordering::SeqCst, Ordering::Relaxed).is_err()
                {
                    continue;
                }
                // SAFETY: this helper entered while the call was open and is counted as at work, so the caller still
                // waits in `run`: the job is not written, and the closure lives.
                let (work, count) = unsafe {
                    let job = (*self.job.get()).expect("an open call has a job");
                    (&*job.work, job.count)
                };
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.take_pieces(work, count))) {
                    self.next.store(count, Ordering::Relaxed);
                    *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
                }
                self.state.fetch_sub(1, Ordering::SeqCst);
                done = state / CALL;
                looks = 0;
                continue;
            }
            looks += 1;
            if looks < SPINS {
                std::hint::spin_loop();
            } else if looks < SPINS + YIELDS {
                std::thread::yield_now();
            } else {
                self.sleep(done);
                looks = 0;
            }
        }
    }
    fn sleep(&self, done: u64) {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.fetch_add(1, Ordering::SeqCst);
        loop {
            let state = self.state.load(Ordering::SeqCst);
            if self.stop.load(Ordering::SeqCst) || (state & OPEN != 0 && state / CALL != done) {
                break;
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.asleep.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The start of a slice that is being cut into pieces.
struct Pieces<'a, T> {
    base: *mut T,
    life: PhantomData<&'a mut [T]>,
}
impl<T> Pieces<'_, T> {
    fn at(&self, offset: usize) -> *mut T {
        // Only for offsets inside the slice; the callers say why.
        self.base.wrapping_add(offset)
    }
}
// SAFETY: stands for an exclusive borrow of the slice; the pieces made from it do not overlap.
unsafe impl<T: Send> Sync for Pieces<'_, T> {}

/// A rectangle of a row-major matrix that one piece of work may write.
pub struct Block<'a> {
    base: *mut f32,
    stride: usize,
    rows: usize,
    columns: usize,
    life: PhantomData<&'a mut [f32]>,
}
impl<'a> Block<'a> {
    /// All of a row-major matrix of `columns` columns. Panics where `out` is no whole number of rows.
    pub fn of(out: &'a mut [f32], columns: usize) -> Self {
        assert_eq!(out.len() % columns, 0, "whole rows");
        let rows = out.len() / columns;
        Self { base: out.as_mut_ptr(), stride: columns, rows, columns, life: PhantomData }
    }
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }
    /// Row `i`. Panics where there is none.
    #[inline(always)]
    pub fn row(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        // SAFETY: the rectangle lies in the matrix, no other piece overlaps it, and `self` is borrowed for as long.
        unsafe { std::slice::from_raw_parts_mut(self.base.wrapping_add(i * self.stride), self.columns) }
    }
    /// `count` of its columns from `first` on. Panics where there are fewer.
    pub fn columns_of(&mut self, first: usize, count: usize) -> Block<'_> {
        assert!(first + count <= self.columns, "columns {first}..+{count} of {}", self.columns);
        Block {
            base: self.base.wrapping_add(first),
            stride: self.stride,
            rows: self.rows,
            columns: count,
            life: PhantomData,
        }
    }
    /// `count` of its rows from `first` on. Panics where there are fewer.
    pub fn rows_of(&mut self, first: usize, count: usize) -> Block<'_> {
        assert!(first + count <= self.rows, "rows {first}..+{count} of {}", self.rows);
        let base = self.base.wrapping_add(first * self.stride);
        Block { base, stride: self.stride, rows: count, columns: self.columns, life: PhantomData }
    }
    /// All of it as one run, where its rows follow each other without gap.
    pub fn contiguous(&mut self) -> Option<&mut [f32]> {
        (self.stride == self.columns || self.rows == 1)
            // SAFETY: as for a row; without a gap the rows are one run.
            .then(|| unsafe { std::slice::from_raw_parts_mut(self.base, self.rows * self.columns) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_done_once_whatever_the_number_of_threads() {
        for count in [0, 1, 2, 3] {
            let threads = Threads::new(count);
            for pieces in [0, 1, 2, 7, 1000] {
                let done: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
                threads.run(pieces, &|i| {
                    done[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(done.iter().all(|n| n.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn many_short_calls_after_sleep() {
        let threads = Threads::new(3);
        let mut out = vec![0_u32; 64];
        for round in 0..2000 {
            if round % 500 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            threads.chunks(&mut out, 5, |i, chunk| chunk.iter_mut().for_each(|x| *x += 1 + i as u32));
        }
        assert!(out.iter().enumerate().all(|(at, &x)| x == 2000 * (1 + at as u32 / 5)));
    }

    #[test]
    fn blocks_cover_a_matrix_once() {
        let threads = Threads::new(2);
        for (rows, columns, down, cuts) in [
            (1, 1, 1, vec![0, 1]),
            (7, 10, 3, vec![0, 4, 8, 10]),
            (8, 8, 8, vec![0, 8]),
            (5, 3, 100, vec![0, 1, 3]),
        ] {
            let mut out = vec![0.0; rows * columns];
            threads.blocks(&mut out, columns, down, &cuts, |row, column, block| {
                for i in 0..block.rows() {
                    for (j, x) in block.row(i).iter_mut().enumerate() {
                        *x += ((row + i) * columns + column + j) as f32;
                    }
                }
            });
            assert!(out.iter().enumerate().all(|(i, &x)| x == i as f32));
        }
    }

    #[test]
    fn parts_of_a_block_are_what_indices_say() {
        let (rows, columns) = (6, 9);
        let mut out: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
        let mut expected = out.clone();
        for (top, height, left, width) in
            [(0, 6, 0, 9), (1, 3, 2, 5), (5, 1, 8, 1), (2, 2, 0, 9), (3, 0, 4, 0)]
        {
            let mut all = Block::of(&mut out, columns);
            let mut some_rows = all.rows_of(top, height);
            let mut part = some_rows.columns_of(left, width);
            assert_eq!((part.rows(), part.columns()), (height, width));
            // Without a gap between its rows it is one run.
            let has_run = width == columns || height == 1;
            let seen = part.contiguous().map(|run| run.to_vec());
            assert_eq!(seen.is_some(), has_run, "{top} {height} {left} {width}");
            let mut by_rows = Vec::new();
            for i in 0..height {
                by_rows.extend_from_slice(part.row(i));
                part.row(i).iter_mut().for_each(|x| *x += 100.0);
            }
            assert!(seen.is_none_or(|seen| seen == by_rows));
            let by_indices: Vec<f32> = (0..height * width)
                .map(|i| expected[(top + i / width) * columns + left + i % width])
                .collect();
            assert_eq!(by_rows, by_indices);
            for i in 0..height * width {
                expected[(top + i / width) * columns + left + i % width] += 100.0;
            }
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_threads_live_on() {
        let threads = Threads::new(2);
        let failed = catch_unwind(AssertUnwindSafe(|| threads.run(100, &|i| assert_ne!(i, 50))));
        assert!(failed.is_err());
        let sum = AtomicUsize::new(0);
        threads.run(10, &|i| {
            sum.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 45);
    }
}
