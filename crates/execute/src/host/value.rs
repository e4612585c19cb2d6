//! Values while a session runs: numbers in one or both of two layouts, or anything else as the interpreter has it.

use crate::kernels::buffer::Buffer;
use crate::kernels::movement::transpose;
use crate::kernels::threads::Threads;
use bytes::Bytes;
use orrery_ir::op::Datum;
use orrery_numerics::{DType, Tensor};
use std::sync::{Arc, Mutex, PoisonError};

/// Order of the dimensions in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// As in the shape.
    Plain,
    /// The second dimension (channels) last: what convolutions work on.
    ChannelsLast,
}

impl Layout {
    /// Dimensions of the shape in order of memory.
    pub(crate) fn order(self, rank: usize) -> Vec<usize> {
        match self {
            Self::ChannelsLast if rank > 2 => [0].into_iter().chain(2..rank).chain([1]).collect(),
            _ => (0..rank).collect(),
        }
    }
    /// Extents in order of memory.
    pub(crate) fn extents(self, shape: &[usize]) -> Vec<usize> {
        self.order(shape.len()).into_iter().map(|d| shape[d]).collect()
    }
    /// Where dimension `d` of the shape is in memory.
    pub(crate) fn place(self, d: usize, rank: usize) -> usize {
        self.order(rank).iter().position(|&o| o == d).expect("every dimension has a place")
    }
}

/// Numbers that may be shared: a buffer of the session, or a tensor of f32 that came from outside.
#[derive(Clone, Debug)]
pub(crate) enum Floats {
    /// The session's own.
    Own(Arc<Buffer>),
    /// Borrowed from a tensor whose bytes are aligned.
    Tensor(Tensor),
}
impl Floats {
    /// A copy of numbers.
    pub(crate) fn of(numbers: &[f32]) -> Self {
        Self::Own(Arc::new(Buffer::copy_of(numbers)))
    }
}
impl std::ops::Deref for Floats {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match self {
            Self::Own(buffer) => buffer,
            Self::Tensor(tensor) => bytemuck::cast_slice(tensor.bytes()),
        }
    }
}

/// A value.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    shape: Vec<usize>,
    data: Data,
}
#[derive(Clone, Debug)]
enum Data {
    /// f32 in at least one layout.
    Floats { plain: Option<Floats>, last: Option<Floats> },
    /// What is no f32 tensor.
    Other(Datum),
}

impl Value {
    /// Numbers in a layout.
    pub(crate) fn floats(shape: Vec<usize>, buffer: Buffer, layout: Layout) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), buffer.len(), "{shape:?}");
        Self::of_floats(shape, Floats::Own(Arc::new(buffer)), layout)
    }
    /// Shared numbers in a layout.
    pub(crate) fn of_floats(shape: Vec<usize>, floats: Floats, layout: Layout) -> Self {
        let both = same_in_both(&shape);
        let (plain, last) = match layout {
            Layout::Plain => (Some(floats.clone()), both.then_some(floats)),
            Layout::ChannelsLast => (both.then(|| floats.clone()), Some(floats)),
        };
        Self { shape, data: Data::Floats { plain, last } }
    }
    /// Its shape; empty where it is no tensor.
    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }
    /// True for f32 tensors.
    pub(crate) fn is_floats(&self) -> bool {
        matches!(self.data, Data::Floats { .. })
    }
    /// True where it is at hand in this layout.
    pub(crate) fn has(&self, layout: Layout) -> bool {
        self.peek(layout).is_some()
    }
    fn peek(&self, layout: Layout) -> Option<&Floats> {
        match (&self.data, layout) {
            (Data::Floats { plain, .. }, Layout::Plain) => plain.as_ref(),
            (Data::Floats { last, .. }, Layout::ChannelsLast) => last.as_ref(),
            (Data::Other(_), _) => None,
        }
    }
    /// The numbers in a layout, converted (once) where they are only in the other. None where it is no f32 tensor.
    pub(crate) fn get(&mut self, layout: Layout, machine: &Machine) -> Option<Floats> {
        if let Some(floats) = self.peek(layout) {
            return Some(floats.clone());
        }
        let Data::Floats { plain, last } = &mut self.data else { return None };
        let (from, to) = match layout {
            Layout::Plain => (&*last, plain),
            Layout::ChannelsLast => (&*plain, last),
        };
        let from = from.as_ref().expect("numbers are in some layout");
        let mut buffer = machine.take(from.len());
        let rank = self.shape.len();
        match layout {
            Layout::ChannelsLast => {
                transpose(
                    &machine.threads,
                    from,
                    &self.shape,
                    &Layout::ChannelsLast.order(rank),
                    &mut buffer,
                );
            }
            Layout::Plain => {
                let held = Layout::ChannelsLast.extents(&self.shape);
                let order: Vec<usize> = (0..rank).map(|d| Layout::ChannelsLast.place(d, rank)).collect();
                transpose(&machine.threads, from, &held, &order, &mut buffer);
            }
        }
        let floats = Floats::Own(Arc::new(buffer));
        *to = Some(floats.clone());
        Some(floats)
    }
    /// The buffer itself, where this value alone holds it in that layout; the value is gone then.
    #[expect(clippy::result_large_err, reason = "the value is handed back, and moves either way")]
    pub(crate) fn into_buffer(self, layout: Layout) -> Result<Buffer, Self> {
        let Self { shape, data } = self;
        let Data::Floats { plain, last } = data else { return Err(Self { shape, data }) };
        let shared_by_both = same_in_both(&shape);
        let (wanted, other) = match layout {
            Layout::Plain => (plain, last),
            Layout::ChannelsLast => (last, plain),
        };
        // The other layout is dropped first where it is the same memory.
        let other = if shared_by_both { None } else { other };
        match wanted {
            Some(Floats::Own(buffer)) => {
                Arc::try_unwrap(buffer).map_err(|buffer| Self::of_floats(shape, Floats::Own(buffer), layout))
            }
            wanted => Err(Self {
                shape,
                data: match layout {
                    Layout::Plain => Data::Floats { plain: wanted, last: other },
                    Layout::ChannelsLast => Data::Floats { plain: other, last: wanted },
                },
            }),
        }
    }
    /// The same numbers under another shape.
    pub(crate) fn reshaped(&mut self, shape: Vec<usize>, machine: &Machine) -> Self {
        if self.shape == shape {
            return self.clone();
        }
        // Pixels under other names: channels stay last.
        let kept = self.shape.len() > 2 && shape.len() > 2 && self.shape[..2] == shape[..2];
        if let (Data::Floats { .. }, true) = (&self.data, kept) {
            return Self { shape, data: self.data.clone() };
        }
        match self.get(Layout::Plain, machine) {
            Some(floats) => Self::of_floats(shape, floats, Layout::Plain),
            None => match &self.data {
                Data::Other(Datum::Tensor(tensor)) => Tensor::reshaped(tensor, shape).into(),
                _ => self.clone(),
            },
        }
    }
    /// As the interpreter has it.
    pub(crate) fn datum(&mut self, machine: &Machine) -> Datum {
        if let Data::Other(datum) = &self.data {
            return datum.clone();
        }
        match self.get(Layout::Plain, machine).expect("an f32 tensor") {
            Floats::Tensor(tensor) => tensor.reshaped(self.shape.clone()).into(),
            Floats::Own(buffer) => {
                struct Shared(Arc<Buffer>);
                impl AsRef<[u8]> for Shared {
                    fn as_ref(&self) -> &[u8] {
                        self.0.as_ref().as_ref()
                    }
                }
                let bytes = if buffer.is_empty() { Bytes::new() } else { Bytes::from_owner(Shared(buffer)) };
                match Tensor::from_bytes(DType::F32, self.shape.clone(), bytes) {
                    Ok(tensor) => tensor.into(),
                    Err(mismatch) => unreachable!("a value holds as many numbers as its shape: {mismatch}"),
                }
            }
        }
    }
    /// The tensor, where it is one that is not f32.
    pub(crate) fn other_tensor(&self) -> Option<&Tensor> {
        match &self.data {
            Data::Other(datum) => datum.as_tensor(),
            Data::Floats { .. } => None,
        }
    }
    /// Elements of a small integer tensor.
    pub(crate) fn integers(&self) -> Option<Vec<i64>> {
        let tensor = self.other_tensor()?;
        match tensor.dtype() {
            DType::I64 => Some(tensor.raw::<i64>().into_owned()),
            DType::I32 => Some(tensor.raw::<i32>().iter().map(|&x| x.into()).collect()),
            _ => None,
        }
    }
    /// Gives its memory back for further use, as far as it is not shared.
    pub(crate) fn recycle(self, machine: &Machine) {
        if let Data::Floats { plain, last } = self.data {
            // Both may be the same memory.
            let (first, second) = (plain, last);
            for floats in [first, second].into_iter().flatten() {
                if let Floats::Own(buffer) = floats
                    && let Ok(buffer) = Arc::try_unwrap(buffer)
                {
                    machine.give(buffer);
                }
            }
        }
    }
}

impl From<Tensor> for Value {
    fn from(tensor: Tensor) -> Self {
        if tensor.dtype() != DType::F32 {
            return Self { shape: tensor.shape().to_vec(), data: Data::Other(tensor.into()) };
        }
        let shape = tensor.shape().to_vec();
        let aligned = bytemuck::try_cast_slice::<u8, f32>(tensor.bytes()).is_ok();
        let floats = if aligned {
            Floats::Tensor(tensor)
        } else {
            Floats::Own(Arc::new(Buffer::copy_of(&tensor.raw())))
        };
        Self::of_floats(shape, floats, Layout::Plain)
    }
}
impl From<Datum> for Value {
    fn from(datum: Datum) -> Self {
        match datum {
            Datum::Tensor(tensor) => tensor.into(),
            other => Self { shape: Vec::new(), data: Data::Other(other) },
        }
    }
}

/// True where both layouts are the same order of numbers.
fn same_in_both(shape: &[usize]) -> bool {
    shape.len() < 3 || shape[1] == 1 || shape[2..].iter().all(|&n| n == 1)
}

/// The threads and memory of a session.
pub(crate) struct Machine {
    /// Threads.
    pub(crate) threads: Threads,
    free: Mutex<Vec<Buffer>>,
}

/// Buffers kept for further use.
const KEPT: usize = 64;

impl Machine {
    /// So many threads, no memory yet.
    pub(crate) fn new(threads: usize) -> Self {
        Self { threads: Threads::new(threads), free: Mutex::new(Vec::new()) }
    }
    /// Memory for `len` numbers, which are left open: the free buffer that fits best, or a new one.
    pub(crate) fn take(&self, len: usize) -> Buffer {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let best = free
            .iter()
            .enumerate()
            .filter(|(_, b)| b.capacity() >= len && b.capacity() <= 2 * len + 1024)
            .min_by_key(|(_, b)| b.capacity())
            .map(|(i, _)| i);
        let Some(best) = best else {
            drop(free);
            return Buffer::zeros(len);
        };
        let mut buffer = free.swap_remove(best);
        buffer.set_len(len);
        buffer
    }
    /// Takes memory back.
    pub(crate) fn give(&self, buffer: Buffer) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(buffer);
        if free.len() > KEPT {
            let smallest = free.iter().enumerate().min_by_key(|(_, b)| b.capacity()).map_or(0, |(i, _)| i);
            free.swap_remove(smallest);
        }
    }
}
