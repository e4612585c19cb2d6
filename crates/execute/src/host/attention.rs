//! Attention in both forms of its operands, with masks and earlier keys and values, and its gradient.

use super::prepare::Choice;
use super::step::{Call, HostKernel, Outcome};
use super::value::{Floats, Layout, Value};
use crate::kernels::attention::{Attention, Heads, Mask};
use crate::kernels::backward::AttentionBack;
use orrery_ir::{Node, Op};
use orrery_numerics::DType;

const MASK: usize = 3;
const PAST: usize = 4;
const COUNTED: usize = 6;

pub(crate) fn choose(choice: &Choice<'_>) -> Option<Box<dyn HostKernel>> {
    let node = choice.node;
    if node.op == Op::AttentionGrad && choice.is_f32(0) {
        return Some(Box::new(AttentionGrad::of(node)?));
    }
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
        let mask = mask(call, MASK, &q, k.length).ok()?;
        let counted = counted(call, COUNTED).ok()?;
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
            mask: mask.as_ref().map(Added::mask),
            causal: self.causal.then_some(before),
            counted: counted.as_deref(),
            cap: self.cap,
            by_head,
        }
        .run(&call.machine.threads, &mut out);
        call.set(0, Value::floats(shape, out, Layout::Plain));
        Some(Outcome::Made)
    }
}

/// Keys that count, for each batch, where not all do.
fn counted(call: &mut Call<'_>, input: usize) -> Result<Option<Vec<usize>>, NotForThis> {
    if !call.has(input) {
        return Ok(None);
    }
    let counted = call.integers(input).ok_or(NotForThis)?;
    Ok(Some(counted.into_iter().map(|n| usize::try_from(n).unwrap_or(0)).collect()))
}

/// The mask as numbers, where there is one.
fn mask(call: &mut Call<'_>, input: usize, q: &Extents, keys: usize) -> Result<Option<Added>, NotForThis> {
    if !call.has(input) {
        return Ok(None);
    }
    let shape = call.shape(input);
    let (Some(&last), 1..=4) = (shape.last(), shape.len()) else { return Err(NotForThis) };
    // One element for all keys is for the op table.
    if last > keys || last == 1 && keys != 1 {
        return Err(NotForThis);
    }
    let floats = match call.floats(input, Layout::Plain) {
        Some(floats) => floats,
        None => {
            let tensor = call.other(input).filter(|t| t.dtype() == DType::Bool).ok_or(NotForThis)?;
            let added = tensor.bytes().iter().map(|&seen| if seen != 0 { 0.0 } else { f32::NEG_INFINITY });
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

/// The operands are to be taken by the op table.
struct NotForThis;

/// A mask as numbers.
struct Added {
    floats: Floats,
    steps: [usize; 3],
    keys: usize,
}

impl Added {
    fn mask(&self) -> Mask<'_> {
        Mask { data: &self.floats, steps: self.steps, keys: self.keys }
    }
}

struct AttentionGrad {
    q_heads: usize,
    kv_heads: usize,
    head_size: usize,
    scale: Option<f64>,
    causal: bool,
}
impl AttentionGrad {
    const MASK: usize = 4;
    const COUNTED: usize = 5;
    /// None where the op table is needed: for capped scores, scores that are asked for, and other formats of sums.
    fn of(node: &Node) -> Option<Self> {
        let shown = node.outputs.get(3).copied().flatten().is_some();
        let capped = node.attrs.float("softcap").is_some_and(|cap| cap > 0.0);
        let told = node.attrs.get("accumulate").is_some();
        let count = |name: &str| usize::try_from(node.attrs.int_or(name, 0)).ok();
        (!shown && !capped && !told).then_some(Self {
            q_heads: count("q_num_heads")?,
            kv_heads: count("kv_num_heads")?,
            head_size: count("head_size")?,
            scale: node.attrs.float("scale"),
            causal: node.attrs.flag("is_causal"),
        })
    }
    fn back(&self, call: &mut Call<'_>) -> Option<Outcome> {
        let shapes = [0, 1, 2].map(|i| call.shape(i));
        let size = self.head_size;
        let (q_heads, kv_heads) = if size > 0 { (0, 0) } else { (self.q_heads, self.kv_heads) };
        let q = Extents::of(&shapes[0], q_heads, size)?;
        let k = Extents::of(&shapes[1], kv_heads, size)?;
        let v = Extents::of(&shapes[2], if size > 0 { k.heads } else { kv_heads }, 0)?;
        let whole = shapes.iter().all(|s| s.len() == shapes[0].len() && !s.contains(&0));
        let agree = [k, v].iter().all(|x| (x.batch, x.heads, x.length) == (q.batch, k.heads, k.length));
        if !whole || !agree || k.size != q.size || q.heads % k.heads != 0 {
            return None;
        }
        let y_steps = if shapes[0].len() == 4 {
            [q.heads * q.length * v.size, q.length * v.size, v.size]
        } else {
            [q.length * q.heads * v.size, v.size, q.heads * v.size]
        };
        let mask = mask(call, Self::MASK, &q, k.length).ok()?;
        let counted = counted(call, Self::COUNTED).ok()?;
        let [q_data, k_data, v_data, dy] = [0, 1, 2, 3].map(|i| call.floats(i, Layout::Plain));
        let (q_data, k_data, v_data, dy) = (q_data?, k_data?, v_data?, dy?);
        let attention = AttentionBack {
            operands: [&q_data, &k_data, &v_data, &dy],
            steps: [q.steps, k.steps, v.steps, y_steps],
            heads: q.heads,
            share: q.heads / k.heads,
            queries: q.length,
            keys: k.length,
            size: q.size,
            v_size: v.size,
            scale: self.scale.unwrap_or(1.0 / (q.size as f64).sqrt()) as f32,
            mask: mask.as_ref().map(Added::mask),
            causal: self.causal,
            counted: counted.as_deref(),
        };
        let width = attention.width();
        let mut made = call.room(q.batch * q.heads * width);
        attention.run(&call.machine.threads, &mut made);
        let mut from = 0;
        for (i, of) in [q, k, v].into_iter().enumerate() {
            let mut out = call.room(of.batch * of.heads * of.length * of.size);
            let share = q.heads / of.heads;
            for (head, made) in made.chunks_exact(width).enumerate() {
                let at = head / q.heads * of.steps[0] + head % q.heads / share * of.steps[1];
                let rows = made[from..][..of.length * of.size].chunks_exact(of.size);
                for (row, made) in rows.enumerate() {
                    let out = &mut out[at + row * of.steps[2]..][..of.size];
                    match head % share {
                        0 => out.copy_from_slice(made),
                        _ => out.iter_mut().zip(made).for_each(|(sum, x)| *sum += x),
                    }
                }
            }
            from += of.length * of.size;
            call.set(i, Value::floats(shapes[i].clone(), out, Layout::Plain));
        }
        call.machine.give(made);
        Some(Outcome::Made)
    }
}
impl HostKernel for AttentionGrad {
    fn name(&self) -> &'static str {
        "attention, backward"
    }
    fn run(&self, call: &mut Call<'_>) -> Result<Outcome, String> {
        Ok(self.back(call).unwrap_or(Outcome::Declined))
    }
}
