//! Attention in both forms of its operands, with masks and earlier keys and values.

use super::prepare::Choice;
use super::step::{Call, HostKernel, Outcome};
use super::value::{Floats, Layout, Value};
use crate::kernels::attention::{Attention, Heads, Mask};
use orrery_ir::Op;
use orrery_numerics::DType;

const MASK: usize = 3;
const PAST: usize = 4;
const COUNTED: usize = 6;

pub(crate) fn choose(choice: &Choice<'_>) -> Option<Box<dyn HostKernel>> {
    let node = choice.node;
    if node.op != Op::Attention || !(0..3).all(|i| choice.is_f32(i)) {
        return None;
    }
    // Scores that are asked for are for the op table.
    if node.outputs.len() > 3 && node.outputs[3].is_some() {
        return None;
    }
    let count = |name: &str| usize::try_from(node.attrs.int_or(name, 0)).ok();
    Some(Box::new(AttentionKernel {
        q_heads: count("q_num_heads")?,
        kv_heads: count("kv_num_heads")?,
        head_size: count("head_size")?,
        scale: node.attrs.float("scale"),
        causal: node.attrs.flag("is_causal"),
        cap: node.attrs.float("softcap").filter(|c| *c > 0.0).map(|c| c as f32),
    }))
}

struct AttentionKernel {
    q_heads: usize,
    kv_heads: usize,
    head_size: usize,
    scale: Option<f64>,
    causal: bool,
    cap: Option<f32>,
}

/// Extents of an operand.
#[derive(Clone, Copy)]
struct Extents {
    batch: usize,
    heads: usize,
    length: usize,
    size: usize,
    steps: [usize; 3],
}

impl Extents {
    fn of(shape: &[usize], heads: usize, size: usize) -> Option<Self> {
        match *shape {
            [batch, heads, length, size] => {
                Some(Self { batch, heads, length, size, steps: [heads * length * size, length * size, size] })
            }
            [batch, length, all] => {
                let heads = if heads > 0 { heads } else { all.checked_div(size)? };
                let size = all.checked_div(heads).filter(|size| size * heads == all)?;
                Some(Self { batch, heads, length, size, steps: [length * all, size, all] })
            }
            _ => None,
        }
    }
}

impl AttentionKernel {
    /// Keys or values with the earlier ones in front, by batch, head and position.
    fn joined(call: &mut Call<'_>, i: usize, past: usize, new: Extents) -> Option<(Value, Extents)> {
        let past_shape = call.shape(past);
        let [batch, heads, before, size] = *past_shape.as_slice() else { return None };
        if (batch, heads, size) != (new.batch, new.heads, new.size) {
            return None;
        }
        let (earlier, later) = (call.floats(past, Layout::Plain)?, call.floats(i, Layout::Plain)?);
        let length = before + new.length;
        let mut out = call.room_for(&[batch, heads, length, size]).ok()?;
        call.machine.threads.chunks(&mut out, (length * size).max(1), |at, out| {
            let (first, rest) = out.split_at_mut(before * size);
            first.copy_from_slice(&earlier[at * before * size..][..before * size]);
            let from = at / heads * new.steps[0] + at % heads * new.steps[1];
            for (p, to) in rest.chunks_exact_mut(size.max(1)).enumerate() {
                to.copy_from_slice(&later[from + p * new.steps[2]..][..size]);
            }
        });
        let shape = vec![batch, heads, length, size];
        let extents = Extents::of(&shape, heads, size)?;
        Some((Value::floats(shape, out, Layout::Plain), extents))
    }
}

impl HostKernel for AttentionKernel {
    fn name(&self) -> &'static str {
        "attention"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        Ok(self.attend(call).unwrap_or(Outcome::Declined))
    }
}

impl AttentionKernel {
    /// None where the operands are not for this kernel.
    fn attend(&self, call: &mut Call<'_>) -> Option<Outcome> {
        let shapes = [0, 1, 2].map(|i| call.shape(i));
        let size = self.head_size;
        let (q_heads, kv_heads) = if size > 0 { (0, 0) } else { (self.q_heads, self.kv_heads) };
        let q = Extents::of(&shapes[0], q_heads, size)?;
        let mut k = Extents::of(&shapes[1], kv_heads, size)?;
        let mut v = Extents::of(&shapes[2], if size > 0 { k.heads } else { kv_heads }, 0)?;
        let whole = shapes.iter().all(|s| s.len() == shapes[0].len() && !s.contains(&0));
        let agree =
            whole && q.batch == k.batch && k.batch == v.batch && q.size == k.size && k.length == v.length;
        if !agree || k.heads != v.heads || q.heads % k.heads != 0 {
            return None;
        }
        let q_data = call.floats(0, Layout::Plain)?;
        let (mut k_data, mut v_data) = (call.floats(1, Layout::Plain)?, call.floats(2, Layout::Plain)?);
        let mut before = 0;
        let wanted = |call: &Call<'_>, i: usize| call.step.outputs.get(i).is_some_and(Option::is_some);
        if call.has(PAST) {
            before = *call.shape(PAST).get(2)?;
            let (mut keys, k_extents) = Self::joined(call, 1, PAST, k)?;
            let (mut values, v_extents) = Self::joined(call, 2, PAST + 1, v)?;
            (k, v) = (k_extents, v_extents);
            k_data = keys.get(Layout::Plain, call.machine)?;
            v_data = values.get(Layout::Plain, call.machine)?;
            call.set(1, keys);
            call.set(2, values);
        } else if wanted(call, 1) || wanted(call, 2) {
            return None;
        }
        let mask = match self.mask(call, &q, k.length) {
            Ok(mask) => mask,
            Err(NotForThis) => return None,
        };
        let counted = if call.has(COUNTED) {
            let counted = call.integers(COUNTED)?;
            Some(counted.into_iter().map(|n| usize::try_from(n).unwrap_or(0)).collect::<Vec<_>>())
        } else {
            None
        };
        let by_head = shapes[0].len() == 4;
        let shape = if by_head {
            vec![q.batch, q.heads, q.length, v.size]
        } else {
            vec![q.batch, q.length, q.heads * v.size]
        };
        let mut out = call.room_for(&shape).ok()?;
        Attention {
            q: Heads { data: &q_data, steps: q.steps },
            k: Heads { data: &k_data, steps: k.steps },
            v: Heads { data: &v_data, steps: v.steps },
            heads: q.heads,
            share: q.heads / k.heads,
            queries: q.length,
            keys: k.length,
            width: q.size,
            value_width: v.size,
            scale: self.scale.unwrap_or(1.0 / (q.size as f64).sqrt()) as f32,
            mask: mask.as_ref().map(|m| Mask { data: &m.floats, steps: m.steps, keys: m.keys }),
            causal: self.causal.then_some(before),
            counted: counted.as_deref(),
            cap: self.cap,
            by_head,
        }
        .run(&call.machine.threads, &mut out);
        call.set(0, Value::floats(shape, out, Layout::Plain));
        Some(Outcome::Made)
    }
    /// The mask as numbers, where there is one.
    fn mask(&self, call: &mut Call<'_>, q: &Extents, keys: usize) -> Result<Option<Added>, NotForThis> {
        if !call.has(MASK) {
            return Ok(None);
        }
        let shape = call.shape(MASK);
        let (Some(&last), 1..=4) = (shape.last(), shape.len()) else { return Err(NotForThis) };
        // One element for all keys is for the op table.
        if last > keys || last == 1 && keys != 1 {
            return Err(NotForThis);
        }
        let floats = match call.floats(MASK, Layout::Plain) {
            Some(floats) => floats,
            None => {
                let tensor = call.other(MASK).filter(|t| t.dtype() == DType::Bool).ok_or(NotForThis)?;
                let added =
                    tensor.bytes().iter().map(|&seen| if seen != 0 { 0.0 } else { f32::NEG_INFINITY });
                Floats::of(&added.collect::<Vec<_>>())
            }
        };
        let extents = [q.batch, q.heads, q.length];
        let mut steps = [0; 3];
        let mut step = last;
        for d in (0..shape.len() - 1).rev() {
            let place = 4 - shape.len() + d;
            if shape[d] != 1 {
                if shape[d] != extents[place] {
                    return Err(NotForThis);
                }
                steps[place] = step;
            }
            step *= shape[d];
        }
        Ok(Some(Added { floats, steps, keys: last }))
    }
}

/// The operands are to be taken by the op table.
struct NotForThis;

/// A mask as numbers.
struct Added {
    floats: Floats,
    steps: [usize; 3],
    keys: usize,
}
