//! `AttentionGrad`: the gradients of queries, keys and values, with the weights computed anew.

use super::super::elements::by_float;
use super::super::matrix::ACCUMULATE;
use super::super::matrix::kernel::{Left, View};
use super::super::space::parallel;
use super::super::{
    Access, Class, Ctx, Datum, Engine, EvalCtx, Fact, IterSpace, Op, OpDef, Port, Work, rules,
};
use super::scaled::{
    Extents, IS_CAUSAL, KV_NUM_HEADS, Mask, Q_NUM_HEADS, SCALE, SOFTCAP, Sizes, check_masks, extents, joined,
    mask_access, softmax,
};
use super::{HEAD_SIZE, Layout, Real};
use crate::gradient::Backward;
use crate::{Attrs, Dim};
use orrery_numerics::DType;

const GRADIENT: usize = 3;
const MASK: usize = 4;
const NONPAD: usize = 5;

pub(super) const ATTENTION_GRAD: OpDef = OpDef {
    inputs: &[
        Port::One("Q"),
        Port::One("K"),
        Port::One("V"),
        Port::One("dY"),
        Port::Optional("attn_mask"),
        Port::Optional("nonpad_kv_seqlen"),
    ],
    outputs: &[Port::One("dQ"), Port::One("dK"), Port::One("dV"), Port::Optional("dScores")],
    attrs: &[HEAD_SIZE, IS_CAUSAL, KV_NUM_HEADS, Q_NUM_HEADS, SCALE, SOFTCAP, ACCUMULATE],
    class: Class::Rounding,
    engine: Engine::Matrix,
    infer,
    work,
    space,
    eval,
    ..OpDef::new(
        Op::AttentionGrad,
        "Gradients of queries, keys and values of Attention, and of the scores that a mask is added to. The weights are \
         computed anew. Not part of ONNX.",
    )
};

fn infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let dtype = rules::float(ctx, 0)?;
    rules::float(ctx, 2)?;
    rules::of_type(ctx, [1, GRADIENT], dtype)?;
    let own = |i: usize| Ok::<_, String>(Fact::of(ctx.fact(i).ok_or("an input is missing")?.ty.clone()));
    let mut facts = vec![own(0)?, own(1)?, own(2)?];
    facts.push(match extents(ctx, false)? {
        Some(e) => {
            let scores = e.scores();
            check_masks(ctx, MASK, NONPAD, &scores)?;
            let y = if ctx.rank(0) == Some(4) {
                vec![e.q.batch, e.q.heads, e.q.length, e.v.size]
            } else {
                vec![e.q.batch, e.q.length, e.q.heads * e.v.size]
            };
            rules::has_shape(ctx, GRADIENT, &y)?;
            Fact::tensor(dtype, scores)
        }
        None => Fact::unranked(dtype),
    });
    Ok(facts)
}

/// Products of queries with keys and of dY with values; of what comes of them with dY, with keys and with queries. For each
/// score, those of the softmax, and product, sum, difference and product of its gradient; queries, keys and dQ are scaled.
fn work(ctx: &Ctx<'_>) -> Work {
    let Ok(Some(e)) = extents(ctx, false) else { return Work::NONE };
    let scores: Dim = rules::product(&e.scores());
    let masked =
        i64::from(ctx.has(MASK)) + i64::from(ctx.attrs().flag("is_causal")) + i64::from(ctx.has(NONPAD));
    let capped = i64::from(ctx.attrs().float_or("softcap", 0.0) > 0.0);
    let rows = e.q.batch.clone() * e.q.heads.clone() * e.q.length.clone();
    let scaled = rows.clone() * e.q.size.clone() + ctx.input_elements(1);
    Work {
        macs: scores.clone() * (e.q.size * Dim::Known(3) + e.v.size * Dim::Known(2)),
        vector: scores.clone() * Dim::Known(9 + masked + 5 * capped) + scaled,
        special: scores * Dim::Known(1 + capped) + rows,
    }
}

/// Over batches and heads of keys. A head's keys and values get gradients from all queries.
fn space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let e = extents(ctx, false).ok()??;
    let four = ctx.rank(0)? == 4;
    let Extents { q, k, v, .. } = e;
    let shared = q.heads.floor_div(&k.heads);
    let mut part_attrs = Attrs::new();
    if !four {
        part_attrs.set("head_size", q.size.known()?);
    }
    let along = |scale: Dim| Access::Along { axis: 1, scale };
    let operand = |heads: Dim, size: &Dim| {
        if four {
            vec![Access::along(0), along(heads), Access::Whole, Access::Whole]
        } else {
            vec![Access::along(0), Access::Whole, along(heads * size.clone())]
        }
    };
    let one = Dim::Known(1);
    let operands = [operand(shared.clone(), &q.size), operand(one.clone(), &k.size), operand(one, &v.size)];
    let scores = vec![Access::along(0), along(shared.clone()), Access::Whole, Access::Whole];
    let mut inputs = operands.to_vec();
    inputs.push(operand(shared, &v.size));
    for i in MASK..ctx.input_count() {
        inputs.push(match i {
            _ if !ctx.has(i) => Vec::new(),
            MASK => mask_access(&ctx.shape(MASK)?, &scores),
            _ => vec![Access::along(0)],
        });
    }
    let mut outputs = operands.to_vec();
    outputs.push(scores);
    outputs.truncate(ctx.output_count());
    Some(IterSpace {
        axes: vec![parallel("batch", q.batch), parallel("kv_head", k.heads)],
        inputs,
        outputs,
        part_attrs,
        padding: 0.0,
    })
}

fn eval(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    by_float!(ctx.tensor(0)?.dtype(), T => evaluate::<T>(ctx))
}

pub(super) fn evaluate<T: Real>(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let types = rules::check(ctx)?;
    let scores = &types[3].1;
    let heads = |i: usize, of: usize| {
        let shape = ctx.tensor(i)?.shape();
        Ok::<_, String>(if shape.len() == 4 { shape[3] } else { shape[2] / of.max(1) })
    };
    let size = heads(0, scores[1])?;
    // Heads without elements are told by the attribute alone; there are not more of them than of queries.
    let told = ctx.attrs().int_or("kv_num_heads", 1).clamp(1, scores[1].max(1) as i64) as usize;
    let kv_heads = match ctx.tensor(1)?.shape() {
        [_, heads, _, _] => *heads,
        shape => shape[2].checked_div(size).unwrap_or(told),
    };
    let sizes = Sizes {
        batch: scores[0],
        q_heads: scores[1],
        kv_heads,
        queries: scores[2],
        keys: scores[3],
        past: 0,
        size,
        v_size: heads(2, kv_heads)?,
    };
    attend_back::<T>(ctx, &types, &sizes)
}

/// The gradient of scores that became these weights, given that of the weights, which it replaces.
fn softmax_back<T: Real>(weights: &[T], gradient: &mut [T]) {
    let sum: T = weights.iter().zip(gradient.iter()).map(|(&w, &g)| w * g).sum();
    gradient.iter_mut().zip(weights).for_each(|(g, &w)| *g = w * (*g - sum));
}

fn attend_back<T: Real>(
    ctx: &EvalCtx<'_>,
    types: &[(DType, Vec<usize>)],
    sizes: &Sizes,
) -> Result<Vec<Datum>, String> {
    let attrs = ctx.attrs();
    let how = ctx.accumulation(types[0].0)?;
    let rank = ctx.tensor(0)?.rank();
    let (queries, dy) = (T::read(ctx.tensor(0)?)?, T::read(ctx.tensor(GRADIENT)?)?);
    let keys: Vec<T> = joined(None, ctx.tensor(1)?, sizes, sizes.size)?;
    let values: Vec<T> = joined(None, ctx.tensor(2)?, sizes, sizes.v_size)?;
    // As in the forward pass, the root of the scale goes to each side.
    let scale = attrs.float_or("scale", 1.0 / (sizes.size as f64).sqrt());
    let root = T::from_f64(scale.abs().sqrt());
    let scaled: Vec<T> = queries.iter().map(|&v| v * if scale < 0.0 { -root } else { root }).collect();
    let scaled_keys: Vec<T> = keys.iter().map(|&v| v * root).collect();
    let mask = Mask::<T>::new(ctx, sizes, [MASK, NONPAD])?;
    let cap = T::from_f64(attrs.float_or("softcap", 0.0));
    let shared = sizes.q_heads / sizes.kv_heads.max(1);
    let q_layout = Layout::new(rank, sizes.q_heads, sizes.queries, sizes.size);
    let y_layout = Layout::new(rank, sizes.q_heads, sizes.queries, sizes.v_size);
    let (rows, total) = (sizes.queries, sizes.keys);
    let mut dq = vec![T::ZERO; queries.len()];
    let (mut dk, mut dv) = (vec![T::ZERO; keys.len()], vec![T::ZERO; values.len()]);
    let mut shown = Vec::new();
    let (mut weights, mut ds) = (vec![T::ZERO; rows * total], vec![T::ZERO; rows * total]);
    // Without queries or keys there is nothing to lay out.
    let heads = if rows * total == 0 { 0 } else { sizes.q_heads };
    for b in 0..sizes.batch {
        for h in 0..heads {
            let kv = (b * sizes.kv_heads + h / shared) * total;
            let rows_of = |data, layout: Layout| View { data, row_step: layout.steps[2], column_step: 1 };
            let q_at = q_layout.at(b, h, 0);
            let scaled = rows_of(&scaled[q_at..], q_layout);
            let k = View::rows(&scaled_keys[kv * sizes.size..], sizes.size).transposed();
            Left::new(scaled, rows, sizes.size, how).multiply(k, total, &mut weights, total);
            for (i, row) in weights.chunks_exact_mut(total).enumerate() {
                mask.add(row, [b, h, i]);
            }
            let mut slopes = Vec::new();
            if cap > T::ZERO {
                for s in &mut weights {
                    let bent = (*s / cap).tanh();
                    slopes.push(T::ONE - bent * bent);
                    *s = bent * cap;
                }
            }
            weights.chunks_exact_mut(total).for_each(softmax);
            let y = || rows_of(&dy[y_layout.at(b, h, 0)..], y_layout);
            let v = View::rows(&values[kv * sizes.v_size..], sizes.v_size).transposed();
            Left::new(y(), rows, sizes.v_size, how).multiply(v, total, &mut ds, total);
            for (weights, ds) in weights.chunks_exact(total).zip(ds.chunks_exact_mut(total)) {
                softmax_back(weights, ds);
            }
            ds.iter_mut().zip(&slopes).for_each(|(d, &slope)| *d = *d * slope);
            if ctx.wants(3) {
                shown.extend_from_slice(&ds);
            }
            ds.iter_mut().for_each(|d| *d = *d * T::from_f64(scale));
            let k = View::rows(&keys[kv * sizes.size..], sizes.size);
            Left::new(View::rows(&ds, total), rows, total, how).multiply(
                k,
                sizes.size,
                &mut dq[q_at..],
                q_layout.steps[2],
            );
            let add = |left: &[T], right: View<'_, T>, size: usize, sums: &mut [T]| {
                let mut part = vec![T::ZERO; total * size];
                Left::new(View::rows(left, total).transposed(), total, rows, how)
                    .multiply(right, size, &mut part, size);
                sums[kv * size..].iter_mut().zip(part).for_each(|(sum, p)| *sum += p);
            };
            add(&ds, rows_of(&queries[q_at..], q_layout), sizes.size, &mut dk);
            add(&weights, y(), sizes.v_size, &mut dv);
        }
    }
    shown.resize(if ctx.wants(3) { types[3].1.iter().product() } else { 0 }, T::ZERO);
    let made = |i: usize, values: Vec<T>| Datum::from(T::tensor(types[i].0, types[i].1.clone(), values));
    let mut outputs = vec![made(0, dq)];
    outputs.push(made(1, laid_out(&dk, rank, sizes, sizes.size)));
    outputs.push(made(2, laid_out(&dv, rank, sizes, sizes.v_size)));
    if ctx.wants(3) {
        outputs.push(made(3, shown));
    }
    Ok(outputs)
}

/// Keys or values, `[batch, head, length, size]`, in the form of the operands.
fn laid_out<T: Real>(from: &[T], rank: usize, sizes: &Sizes, size: usize) -> Vec<T> {
    let layout = Layout::new(rank, sizes.kv_heads, sizes.keys, size);
    let mut out = vec![T::ZERO; from.len()];
    for (i, row) in from.chunks_exact(size.max(1)).enumerate() {
        let (head, position) = (i / sizes.keys, i % sizes.keys);
        let at = layout.at(head / sizes.kv_heads, head % sizes.kv_heads, position);
        out[at..at + size].copy_from_slice(row);
    }
    out
}

/// Earlier keys and values belong to inference.
pub(super) fn attention(b: &mut Backward<'_>) -> orrery_base::Result<()> {
    if b.given(4).is_some() || (1..4).any(|i| b.dy(i).is_some()) {
        return Err(
            b.fails("there is no gradient rule for earlier keys and values or for scores as outputs".into())
        );
    }
    let dy = b.dy0()?;
    let mut attrs = b.attrs().clone();
    attrs.remove("qk_matmul_output_mode");
    attrs.remove("softmax_precision");
    let mut inputs = vec![b.given(0), b.given(1), b.given(2), Some(dy), b.given(3), b.given(6)];
    while inputs.last() == Some(&None) {
        inputs.pop();
    }
    let outputs = if b.wants(3) { 4 } else { 3 };
    let made = b.ops(Op::AttentionGrad, &inputs, attrs, outputs)?;
    for (i, gradient) in made[..3].iter().enumerate() {
        b.give(i, *gradient);
    }
    if b.wants(3) {
        let mask = b.x(3)?;
        if b.shape(mask)?.last() != b.shape(made[3])?.last() {
            return Err(b.fails("there is no gradient rule for a mask that ends before the keys do".into()));
        }
        let dtype = b.dtype(mask);
        let dmask = b.cast(made[3], dtype)?;
        b.give_summed(3, dmask)?;
    }
    Ok(())
}
