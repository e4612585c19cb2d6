//! `Attention`: scaled dot products of queries with keys, softmax, sums of values.

use super::super::elements::{bools, broadcast_strides, by_float, integers};
use super::super::matrix::ACCUMULATE;
use super::super::matrix::kernel::{Left, View};
use super::super::space::parallel;
use super::super::{
    Access, AttrDef, Axis, Class, Ctx, Datum, Engine, EvalCtx, Fact, Gradient, IterSpace, Op, OpDef, Port,
    Work, opt, rules,
};
use super::{HEAD_SIZE, Heads, Layout, Real, count};
use crate::{AttrKind, Attrs, Dim};
use orrery_numerics::{DType, Tensor};

const MASK: usize = 3;
const PAST_KEY: usize = 4;
const PAST_VALUE: usize = 5;
const NONPAD: usize = 6;

pub(super) const IS_CAUSAL: AttrDef =
    opt("is_causal", AttrKind::Int, "1: a query sees only keys up to its own position; 0.");
pub(super) const KV_NUM_HEADS: AttrDef =
    opt("kv_num_heads", AttrKind::Int, "Heads of keys and values, for inputs of three dimensions.");
pub(super) const Q_NUM_HEADS: AttrDef =
    opt("q_num_heads", AttrKind::Int, "Heads of queries, for inputs of three dimensions.");
pub(super) const SCALE: AttrDef =
    opt("scale", AttrKind::Float, "Factor of the products; 1 / sqrt(size of a head).");
pub(super) const SOFTCAP: AttrDef =
    opt("softcap", AttrKind::Float, "Scores s become softcap * tanh(s / softcap); 0: they do not.");

pub(super) const ATTENTION: OpDef = OpDef {
    inputs: &[
        Port::One("Q"),
        Port::One("K"),
        Port::One("V"),
        Port::Optional("attn_mask"),
        Port::Optional("past_key"),
        Port::Optional("past_value"),
        Port::Optional("nonpad_kv_seqlen"),
    ],
    outputs: &[
        Port::One("Y"),
        Port::Optional("present_key"),
        Port::Optional("present_value"),
        Port::Optional("qk_matmul_output"),
    ],
    attrs: &[
        HEAD_SIZE,
        IS_CAUSAL,
        KV_NUM_HEADS,
        Q_NUM_HEADS,
        opt(
            "qk_matmul_output_mode",
            AttrKind::Int,
            "What the fourth output is: 0 the scaled products, 1 with the mask, 2 after the cap, 3 after softmax; 0.",
        ),
        SCALE,
        SOFTCAP,
        opt("softmax_precision", AttrKind::DType, "Type of the softmax; at least f32 whatever it says."),
        ACCUMULATE,
    ],
    class: Class::Rounding,
    engine: Engine::Matrix,
    infer,
    work,
    space,
    eval,
    gradient: Gradient::Rule(super::gradient::attention),
    ..OpDef::new(
        Op::Attention,
        "Softmax of scaled, masked products of queries with keys, times values; several query heads may share a key and \
         value head; earlier keys and values may come first.",
    )
};

/// The extents, as far as known.
pub(super) struct Extents {
    pub(super) q: Heads,
    pub(super) k: Heads,
    pub(super) v: Heads,
    /// Keys altogether, past ones counted.
    total: Dim,
}

impl Extents {
    /// Of the scores.
    pub(super) fn scores(&self) -> Vec<Dim> {
        vec![self.q.batch.clone(), self.q.heads.clone(), self.q.length.clone(), self.total.clone()]
    }
}

/// None where a rank is unknown. The inputs after the first three are those of `Attention` where it `is_forward`.
pub(super) fn extents(ctx: &Ctx<'_>, is_forward: bool) -> Result<Option<Extents>, String> {
    let attrs = ctx.attrs();
    let ranks: Vec<usize> = (0..3).filter_map(|i| ctx.rank(i)).collect();
    if ranks.iter().any(|r| *r != ranks[0]) {
        return Err("Q, K and V must have the same number of dimensions".into());
    }
    // Four dimensions say it themselves; attributes beside them say nothing new.
    let given = |name| if ranks.first() == Some(&4) { Ok(None) } else { count(attrs, name) };
    let size = given("head_size")?;
    let one_of = |name| if size.is_some() { Ok(None) } else { given(name) };
    let (q_heads, kv_heads) = (one_of("q_num_heads")?, one_of("kv_num_heads")?);
    let Some(q) = Heads::new(ctx, 0, q_heads.as_ref(), size.as_ref())? else { return Ok(None) };
    let Some(k) = Heads::new(ctx, 1, kv_heads.as_ref(), size.as_ref())? else { return Ok(None) };
    let v_heads = if size.is_some() { Some(k.heads.clone()) } else { kv_heads };
    let Some(v) = Heads::new(ctx, 2, v_heads.as_ref(), None)? else { return Ok(None) };
    rules::equal(&q.batch, &k.batch, || "the batches of Q and K".into())?;
    rules::equal(&q.batch, &v.batch, || "the batches of Q and V".into())?;
    rules::equal(&q.size, &k.size, || "the sizes of a head of Q and of K".into())?;
    rules::equal(&k.heads, &v.heads, || "the heads of K and of V".into())?;
    rules::equal(&k.length, &v.length, || "the lengths of K and V".into())?;
    if let (Some(q), Some(kv)) = (q.heads.known(), k.heads.known())
        && (if kv == 0 { q != 0 } else { q % kv != 0 })
    {
        return Err(format!("{q} heads of queries cannot share {kv} heads of keys equally"));
    }
    if !is_forward {
        let total = k.length.clone();
        return Ok(Some(Extents { q, k, v, total }));
    }
    if ctx.has(PAST_KEY) != ctx.has(PAST_VALUE) {
        return Err("past keys and past values are given together or not at all".into());
    }
    let past = match rules::ranked(ctx, PAST_KEY, 4)? {
        Some(past) => {
            let [batch, heads, size] = [&k.batch, &k.heads, &k.size].map(Clone::clone);
            rules::has_shape(ctx, PAST_KEY, &[batch, heads, past[2].clone(), size])?;
            let [batch, heads, size] = [&v.batch, &v.heads, &v.size].map(Clone::clone);
            rules::has_shape(ctx, PAST_VALUE, &[batch, heads, past[2].clone(), size])?;
            past[2].clone()
        }
        None if ctx.has(PAST_KEY) => ctx.unknown_dim(1, 2),
        None => Dim::Known(0),
    };
    let total = past + k.length.clone();
    Ok(Some(Extents { q, k, v, total }))
}

/// Checks that the mask broadcasts to the scores, and the number of keys that count.
pub(super) fn check_masks(ctx: &Ctx<'_>, mask: usize, nonpad: usize, scores: &[Dim]) -> Result<(), String> {
    rules::of_type(ctx, [nonpad], DType::I64)?;
    if ctx.has(mask) && ctx.dtype(mask)? != DType::Bool && !ctx.dtype(mask)?.is_float() {
        return Err(format!("input `attn_mask` must be bool or a float, is {}", ctx.dtype(mask)?));
    }
    rules::has_shape(ctx, nonpad, &scores[..1])?;
    let Some(mask) = ctx.shape(mask) else { return Ok(()) };
    let wrong = || {
        let (mask, scores) = (rules::shape_text(&mask), rules::shape_text(scores));
        format!("input `attn_mask` of shape {mask} does not broadcast to the scores' shape {scores}")
    };
    let [lead @ .., last] = mask.as_slice() else { return Err(wrong()) };
    if lead.len() > 3 {
        return Err(wrong());
    }
    for (m, s) in lead.iter().zip(&scores[3 - lead.len()..]) {
        if !m.is(1) {
            rules::equal(m, s, String::new).map_err(|_| wrong())?;
        }
    }
    match (last.known(), scores[3].known()) {
        (Some(last), Some(total)) if last > total => Err(wrong()),
        _ => Ok(()),
    }
}

fn infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let dtype = rules::float(ctx, 0)?;
    let value = rules::float(ctx, 2)?;
    rules::of_type(ctx, [1, PAST_KEY], dtype)?;
    rules::of_type(ctx, [PAST_VALUE], value)?;
    if !(0..=3).contains(&ctx.attrs().int_or("qk_matmul_output_mode", 0)) {
        return Err("attribute `qk_matmul_output_mode` must be between 0 and 3".into());
    }
    let Some(e) = extents(ctx, true)? else {
        return Ok(vec![
            Fact::unranked(dtype),
            Fact::unranked(dtype),
            Fact::unranked(value),
            Fact::unranked(dtype),
        ]);
    };
    let scores = e.scores();
    check_masks(ctx, MASK, NONPAD, &scores)?;
    let y = if ctx.rank(0) == Some(4) {
        vec![e.q.batch.clone(), e.q.heads.clone(), e.q.length.clone(), e.v.size.clone()]
    } else {
        vec![e.q.batch.clone(), e.q.length.clone(), e.q.heads.clone() * e.v.size.clone()]
    };
    let present = |heads: Heads| vec![heads.batch, heads.heads, e.total.clone(), heads.size];
    Ok(vec![
        Fact::tensor(dtype, y),
        Fact::tensor(dtype, present(e.k)),
        Fact::tensor(value, present(e.v)),
        Fact::tensor(dtype, scores),
    ])
}

/// Products of queries with all keys and of weights with all values, masked ones as well. For each score: softmax's
/// maximum, difference, sum and quotient, and mask and cap where there are; queries and keys are scaled before.
fn work(ctx: &Ctx<'_>) -> Work {
    let Ok(Some(e)) = extents(ctx, true) else { return Work::NONE };
    let rows = e.q.batch.clone() * e.q.heads.clone() * e.q.length.clone();
    let scores = rows.clone() * e.total.clone();
    let masked =
        i64::from(ctx.has(MASK)) + i64::from(ctx.attrs().flag("is_causal")) + i64::from(ctx.has(NONPAD));
    let capped = i64::from(ctx.attrs().float_or("softcap", 0.0) > 0.0);
    let keys = e.k.batch * e.k.heads * e.total * e.k.size.clone();
    Work {
        macs: scores.clone() * (e.k.size.clone() + e.v.size),
        vector: scores.clone() * Dim::Known(4 + masked + 2 * capped) + rows.clone() * e.k.size + keys,
        special: scores * Dim::Known(1 + capped) + rows,
    }
}

fn space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let e = extents(ctx, true).ok()??;
    let four = ctx.rank(0)? == 4;
    let shared = e.q.heads.floor_div(&e.k.heads);
    let wanted = |i: usize| ctx.node.outputs.get(i).is_some_and(Option::is_some);
    let mut axes: Vec<Axis> =
        vec![parallel("batch", e.q.batch.clone()), parallel("kv_head", e.k.heads.clone())];
    // A query's place decides what a causal mask hides from it, and each part would make the present keys again.
    let query = if ctx.attrs().flag("is_causal") || wanted(1) || wanted(2) {
        Access::Whole
    } else {
        axes.push(parallel("query", e.q.length.clone()));
        Access::along(2)
    };
    let mut part_attrs = Attrs::new();
    let batch = Access::along(0);
    let heads = |scale: &Dim| Access::Along { axis: 1, scale: scale.clone() };
    let operand = |of: &Heads, per_axis: &Dim, length: Access| {
        if four {
            vec![batch.clone(), heads(per_axis), length, Access::Whole]
        } else {
            vec![batch.clone(), length, heads(&(per_axis.clone() * of.size.clone()))]
        }
    };
    if !four {
        part_attrs.set("head_size", e.q.size.known()?);
    }
    let one = Dim::Known(1);
    let cache = vec![batch.clone(), Access::along(1), Access::Whole, Access::Whole];
    let scores = vec![batch.clone(), heads(&shared), query.clone(), Access::Whole];
    let inputs = (0..ctx.input_count()).map(|i| {
        Some(match i {
            _ if !ctx.has(i) => Vec::new(),
            0 => operand(&e.q, &shared, query.clone()),
            1 => operand(&e.k, &one, Access::Whole),
            2 => operand(&e.v, &one, Access::Whole),
            MASK => mask_access(&ctx.shape(MASK)?, &scores),
            NONPAD => vec![batch.clone()],
            _ => cache.clone(),
        })
    });
    let inputs = inputs.collect::<Option<Vec<_>>>()?;
    let y_size = Heads { size: e.v.size.clone(), ..e.q.clone() };
    let outputs = [operand(&y_size, &shared, query.clone()), cache.clone(), cache.clone(), scores.clone()];
    Some(IterSpace {
        axes,
        inputs,
        outputs: outputs[..ctx.output_count()].to_vec(),
        part_attrs,
        padding: 0.0,
    })
}

/// How a mask is read that broadcasts to scores which are read like that.
pub(super) fn mask_access(mask: &[Dim], scores: &[Access]) -> Vec<Access> {
    let own = &scores[4 - mask.len()..];
    mask.iter().zip(own).map(|(m, s)| if m.is(1) { Access::Whole } else { s.clone() }).collect()
}

/// The extents in numbers.
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) q_heads: usize,
    pub(super) kv_heads: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) past: usize,
    pub(super) size: usize,
    pub(super) v_size: usize,
}

fn eval(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    by_float!(ctx.tensor(0)?.dtype(), T => evaluate::<T>(ctx))
}

pub(super) fn evaluate<T: Real>(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let types = rules::check(ctx)?;
    let scores = &types[3].1;
    let (present_key, present_value) = (&types[1].1, &types[2].1);
    let keys = if ctx.tensor(1)?.rank() == 4 { ctx.tensor(1)?.shape()[2] } else { ctx.tensor(1)?.shape()[1] };
    let sizes = Sizes {
        batch: scores[0],
        q_heads: scores[1],
        kv_heads: present_key[1],
        queries: scores[2],
        keys,
        past: present_key[2] - keys,
        size: present_key[3],
        v_size: present_value[3],
    };
    attend::<T>(ctx, &types, &sizes)
}

/// Past keys or values followed by the new ones, `[batch, head, length, size]`.
pub(super) fn joined<T: Real>(
    past: Option<&Tensor>,
    new: &Tensor,
    sizes: &Sizes,
    size: usize,
) -> Result<Vec<T>, String> {
    let layout = Layout::new(new.rank(), sizes.kv_heads, sizes.keys, size);
    let past = past.map(T::read).transpose()?;
    let new = T::read(new)?;
    let before = sizes.past * size;
    let mut out = Vec::with_capacity(sizes.batch * sizes.kv_heads * (sizes.past + sizes.keys) * size);
    for b in 0..sizes.batch {
        for h in 0..sizes.kv_heads {
            if let Some(past) = &past {
                let at = (b * sizes.kv_heads + h) * before;
                out.extend_from_slice(&past[at..at + before]);
            }
            for p in 0..sizes.keys {
                let at = layout.at(b, h, p);
                out.extend_from_slice(&new[at..at + size]);
            }
        }
    }
    Ok(out)
}

/// What is added to the scores: numbers, and minus infinity where nothing is to be seen.
pub(super) struct Mask<T> {
    values: Vec<T>,
    steps: Vec<isize>,
    /// Keys from here on have no element in the mask.
    length: usize,
    /// Position of the first query among the keys, where queries see only keys up to their own.
    causal: Option<usize>,
    /// Keys that count, for each batch.
    nonpad: Option<Vec<i64>>,
}

impl<T: Real> Mask<T> {
    /// From the mask and the number of keys that count at these inputs.
    pub(super) fn new(ctx: &EvalCtx<'_>, sizes: &Sizes, [mask, nonpad]: [usize; 2]) -> Result<Self, String> {
        let causal = ctx.attrs().flag("is_causal").then_some(sizes.past);
        let nonpad =
            ctx.optional(nonpad)?.map(|t| integers(t).map(std::borrow::Cow::into_owned)).transpose()?;
        let Some(mask) = ctx.optional(mask)? else {
            let length = sizes.past + sizes.keys;
            return Ok(Self { values: vec![T::ZERO], steps: vec![0; 4], length, causal, nonpad });
        };
        let values = if mask.dtype() == DType::Bool {
            bools(mask)?.iter().map(|&seen| if seen != 0 { T::ZERO } else { -T::INFINITY }).collect()
        } else {
            T::read(mask)?.into_owned()
        };
        let length = mask.shape()[mask.rank() - 1];
        let own = [sizes.batch, sizes.q_heads, sizes.queries, length];
        Ok(Self { values, steps: broadcast_strides(mask.shape(), &own), length, causal, nonpad })
    }
    /// Adds it to the scores of one query.
    pub(super) fn add(&self, scores: &mut [T], [batch, head, query]: [usize; 3]) {
        let start: isize = [batch, head, query].iter().zip(&self.steps).map(|(&i, s)| i as isize * s).sum();
        let seen = self.causal.map_or(usize::MAX, |first| first + query + 1);
        let counted = self.nonpad.as_ref().map_or(usize::MAX, |n| n[batch].max(0) as usize);
        for (j, score) in scores.iter_mut().enumerate() {
            *score += if j >= self.length || j >= seen || j >= counted {
                -T::INFINITY
            } else {
                self.values[(start + j as isize * self.steps[3]) as usize]
            };
        }
    }
}

pub(super) fn softmax<T: Real>(row: &mut [T]) {
    let most = row.iter().fold(-T::INFINITY, |most, &v| v.larger(most));
    let mut sum = T::ZERO;
    for v in row.iter_mut() {
        *v = (*v - most).exp();
        sum += *v;
    }
    row.iter_mut().for_each(|v| *v = *v / sum);
}

fn attend<T: Real>(
    ctx: &EvalCtx<'_>,
    types: &[(DType, Vec<usize>)],
    sizes: &Sizes,
) -> Result<Vec<Datum>, String> {
    let attrs = ctx.attrs();
    let how = ctx.accumulation(types[0].0)?;
    let q_tensor = ctx.tensor(0)?;
    let keys: Vec<T> = joined(ctx.optional(PAST_KEY)?, ctx.tensor(1)?, sizes, sizes.size)?;
    let values: Vec<T> = joined(ctx.optional(PAST_VALUE)?, ctx.tensor(2)?, sizes, sizes.v_size)?;
    // The root of the scale goes to each side, against overflow.
    let scale = attrs.float_or("scale", 1.0 / (sizes.size as f64).sqrt());
    let root = T::from_f64(scale.abs().sqrt());
    let queries: Vec<T> =
        T::read(q_tensor)?.iter().map(|&v| v * if scale < 0.0 { -root } else { root }).collect();
    let scaled_keys: Vec<T> = keys.iter().map(|&v| v * root).collect();
    let mask = Mask::<T>::new(ctx, sizes, [MASK, NONPAD])?;
    let cap = T::from_f64(attrs.float_or("softcap", 0.0));
    let mode = attrs.int_or("qk_matmul_output_mode", 0);
    let total = sizes.past + sizes.keys;
    let shared = sizes.q_heads / sizes.kv_heads.max(1);
    let q_layout = Layout::new(q_tensor.rank(), sizes.q_heads, sizes.queries, sizes.size);
    let y_layout = Layout::new(q_tensor.rank(), sizes.q_heads, sizes.queries, sizes.v_size);
    let mut y = vec![T::ZERO; types[0].1.iter().product()];
    let mut shown = Vec::new();
    let mut scores = vec![T::ZERO; sizes.queries * total];
    // Without queries there is nothing to lay out.
    let heads = if sizes.queries == 0 { 0 } else { sizes.q_heads };
    for b in 0..sizes.batch {
        for h in 0..heads {
            let kv = b * sizes.kv_heads + h / shared;
            let q =
                View { data: &queries[q_layout.at(b, h, 0)..], row_step: q_layout.steps[2], column_step: 1 };
            let k = View::rows(&scaled_keys[kv * total * sizes.size..], sizes.size).transposed();
            Left::new(q, sizes.queries, sizes.size, how).multiply(k, total, &mut scores, total);
            let mut show = |stage: i64, scores: &[T]| {
                if ctx.wants(3) && stage == mode {
                    shown.extend_from_slice(scores);
                }
            };
            show(0, &scores);
            for (i, row) in scores.chunks_exact_mut(total.max(1)).enumerate() {
                mask.add(row, [b, h, i]);
            }
            show(1, &scores);
            if cap > T::ZERO {
                scores.iter_mut().for_each(|s| *s = (*s / cap).tanh() * cap);
            }
            show(2, &scores);
            scores.chunks_exact_mut(total.max(1)).for_each(softmax);
            show(3, &scores);
            let v = View::rows(&values[kv * total * sizes.v_size..], sizes.v_size);
            Left::new(View::rows(&scores, total), sizes.queries, total, how).multiply(
                v,
                sizes.v_size,
                &mut y[y_layout.at(b, h, 0)..],
                y_layout.steps[2],
            );
        }
    }
    let made = |i: usize, values: Vec<T>| Datum::from(T::tensor(types[i].0, types[i].1.clone(), values));
    let mut outputs = vec![made(0, y)];
    if ctx.output_count() > 1 {
        outputs.extend([made(1, keys), made(2, values)]);
    }
    if ctx.wants(3) {
        outputs.push(made(3, shown));
    }
    Ok(outputs)
}
