//! Ops on strings, and the operators of classical models that stand beside them. Those on strings run on the host.

use super::context::broadcast;
use super::elements::{Loops, broadcast_shapes, broadcast_strides, element_count, integers};
use super::number::{Number, by_number};
use super::rules::{facts, integer, of_type, real};
use super::space::elementwise;
use super::{AttrDef, Ctx, Datum, Engine, EvalCtx, Fact, Op, OpDef, Port, Work, opt, req};
use crate::{AttrKind, Attrs, Dim, TensorType, Type};
use orrery_numerics::{DType, Tensor};
use std::collections::{BTreeMap, BTreeSet};

type Outcome = Result<Vec<Datum>, String>;
type Facts = Result<Vec<Fact>, String>;

fn one(tensor: Tensor) -> Outcome {
    Ok(vec![tensor.into()])
}
/// Input `i`, which must hold strings.
fn strings<'a>(ctx: &'a EvalCtx<'_>, i: usize) -> Result<(&'a Tensor, &'a [String]), String> {
    let tensor = ctx.tensor(i)?;
    match tensor.dtype() {
        DType::Str => Ok((tensor, tensor.strings())),
        other => Err(format!("input {i} must hold strings, is {other}")),
    }
}
fn typed(dtype: DType, shape: Option<Vec<Dim>>) -> Facts {
    Ok(vec![Fact::of(Type::Tensor(TensorType { dtype, shape }))])
}

/// Drops stop words, then changes case. What remains of nothing is one empty string.
fn normalize(ctx: &EvalCtx<'_>) -> Outcome {
    let (x, words) = strings(ctx, 0)?;
    if !matches!(x.shape(), [_] | [1, _]) {
        return Err(format!("takes a list of strings, got {x:?}"));
    }
    let exact = ctx.attrs().flag("is_case_sensitive");
    let key = |word: &str| if exact { word.to_owned() } else { word.to_lowercase() };
    let stops: BTreeSet<String> =
        ctx.attrs().strs("stopwords").unwrap_or_default().iter().map(|w| key(w)).collect();
    let change: fn(&str) -> String = match ctx.attrs().str_or("case_change_action", "NONE") {
        "NONE" => str::to_owned,
        "LOWER" => str::to_lowercase,
        "UPPER" => str::to_uppercase,
        other => return Err(format!("unknown case_change_action `{other}`")),
    };
    let mut kept: Vec<String> =
        words.iter().filter(|w| !stops.contains(&key(w))).map(|w| change(w)).collect();
    if kept.is_empty() {
        kept.push(String::new());
    }
    let mut shape = x.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = kept.len();
    }
    one(Tensor::from_strings(shape, kept))
}
fn infer_normalize(ctx: &Ctx<'_>) -> Facts {
    of_type(ctx, [0], DType::Str)?;
    typed(
        DType::Str,
        ctx.rank(0).map(|rank| {
            (0..rank).map(|d| if d + 1 == rank { ctx.unknown_dim(0, d) } else { Dim::Known(1) }).collect()
        }),
    )
}
fn join(ctx: &EvalCtx<'_>) -> Outcome {
    let ((a, left), (b, right)) = (strings(ctx, 0)?, strings(ctx, 1)?);
    let shape = broadcast_shapes(&[a.shape(), b.shape()])?;
    let mut out = Vec::with_capacity(element_count(DType::Str, &shape)?);
    Loops::new(&shape, [&broadcast_strides(a.shape(), &shape), &broadcast_strides(b.shape(), &shape)])
        .each(|[i, j]| out.push(left[i as usize].clone() + &right[j as usize]));
    one(Tensor::from_strings(shape, out))
}
fn infer_join(ctx: &Ctx<'_>) -> Facts {
    of_type(ctx, [0, 1], DType::Str)?;
    let shape = match (ctx.shape(0), ctx.shape(1)) {
        (Some(a), Some(b)) => Some(broadcast(&[&a, &b])?),
        _ => None,
    };
    typed(DType::Str, shape)
}
/// Pieces between runs of white space; after `most` splits the rest as it is.
fn words(text: &str, most: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = if pieces.len() < most { rest.find(char::is_whitespace) } else { None };
        let (piece, behind) = rest.split_at(end.unwrap_or(rest.len()));
        pieces.push(piece);
        rest = behind.trim_start();
    }
    pieces
}
fn split(ctx: &EvalCtx<'_>) -> Outcome {
    let (x, texts) = strings(ctx, 0)?;
    let most = ctx.attrs().int("maxsplit").and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let pieces: Vec<Vec<&str>> = texts
        .iter()
        .map(|text| match ctx.attrs().str_or("delimiter", "") {
            "" => words(text, most),
            delimiter => text.splitn(most.saturating_add(1), delimiter).collect(),
        })
        .collect();
    let width = pieces.iter().map(Vec::len).max().unwrap_or(0);
    let counts = pieces.iter().map(|p| p.len() as i64).collect();
    let mut shape = x.shape().to_vec();
    shape.push(width);
    let mut out = Vec::with_capacity(element_count(DType::Str, &shape)?);
    for row in &pieces {
        out.extend(row.iter().map(|&piece| piece.to_owned()));
        out.resize(out.len() + width - row.len(), String::new());
    }
    Ok(vec![Tensor::from_strings(shape, out).into(), Tensor::from_vec(x.shape().to_vec(), counts).into()])
}
fn infer_split(ctx: &Ctx<'_>) -> Facts {
    of_type(ctx, [0], DType::Str)?;
    let counts = TensorType { dtype: DType::I64, shape: ctx.shape(0) };
    let pieces = ctx.shape(0).map(|mut shape| {
        shape.push(ctx.unknown_dim(0, shape.len()));
        shape
    });
    Ok([typed(DType::Str, pieces)?, vec![Fact::of(Type::Tensor(counts))]].concat())
}
fn full_match(ctx: &EvalCtx<'_>) -> Outcome {
    let (x, texts) = strings(ctx, 0)?;
    let pattern = ctx.attrs().str_or("pattern", "");
    let whole = regex::Regex::new(&format!(r"\A(?:{pattern})\z"))
        .map_err(|e| format!("`{pattern}` is no regular expression: {e}"))?;
    one(Tensor::from_bools(x.shape().to_vec(), texts.iter().map(|text| whole.is_match(text))))
}

/// What the attributes of TfIdfVectorizer say.
struct Vectorizer<'a, T> {
    /// The column of each n-gram.
    columns: BTreeMap<&'a [T], usize>,
    width: usize,
    lengths: std::ops::RangeInclusive<usize>,
    skips: usize,
}
impl<'a, T: Ord> Vectorizer<'a, T> {
    fn new(attrs: &Attrs, pool: &'a [T]) -> Result<Self, String> {
        let size = |name: &str| {
            let n = attrs.int(name).ok_or_else(|| format!("attribute `{name}` is missing"))?;
            usize::try_from(n).map_err(|_| format!("attribute `{name}` is negative"))
        };
        let lengths = size("min_gram_length")?.max(1)..=size("max_gram_length")?;
        let starts = super::elements::extents(attrs.ints("ngram_counts").unwrap_or_default())?;
        let indexes = super::elements::extents(attrs.ints("ngram_indexes").unwrap_or_default())?;
        let mut columns = BTreeMap::new();
        let mut number = 0;
        for (i, &start) in starts.iter().enumerate() {
            let end = starts.get(i + 1).copied().unwrap_or(pool.len());
            let grams =
                pool.get(start..end).ok_or_else(|| format!("ngram_counts {starts:?} do not fit the pool"))?;
            for gram in grams.chunks_exact(i + 1) {
                let column = *indexes.get(number).ok_or("ngram_indexes are fewer than the n-grams")?;
                number += 1;
                if lengths.contains(&gram.len()) {
                    columns.insert(gram, column);
                }
            }
        }
        Ok(Self { columns, width: width(attrs)?, lengths, skips: size("max_skip_count")? })
    }
    /// How often each n-gram is in a row; its items may stand up to `skips` apart, all at one distance.
    fn count(&self, row: &[T], counts: &mut [f32])
    where
        T: Clone,
    {
        for distance in 1..=self.skips.saturating_add(1).min(row.len().max(1)) {
            for length in self.lengths.clone() {
                // Single items have no distance: they count once. Beyond the row's end there are no n-grams.
                let Some(reach) = (length - 1).checked_mul(distance).filter(|reach| *reach < row.len())
                else {
                    break;
                };
                if length == 1 && distance > 1 {
                    continue;
                }
                for start in 0..row.len() - reach {
                    let gram: Vec<T> = row[start..=start + reach].iter().step_by(distance).cloned().collect();
                    if let Some(&column) = self.columns.get(gram.as_slice()) {
                        counts[column] += 1.0;
                    }
                }
            }
        }
    }
}
/// Columns of the output.
fn width(attrs: &Attrs) -> Result<usize, String> {
    let most = attrs.ints("ngram_indexes").unwrap_or_default().iter().max().copied();
    most.and_then(|most| usize::try_from(most).ok()?.checked_add(1))
        .ok_or_else(|| "ngram_indexes must hold columns".into())
}
fn vectorize(ctx: &EvalCtx<'_>) -> Outcome {
    let x = ctx.tensor(0)?;
    let attrs = ctx.attrs();
    let width = width(attrs)?;
    let (rows, mut shape) = match *x.shape() {
        [] | [_] => (1, Vec::new()),
        [rows, _] => (rows, vec![rows]),
        _ => return Err(format!("takes a row or rows of items, got {x:?}")),
    };
    shape.push(width);
    let mut counts = vec![0_f32; element_count(DType::F32, &[rows, width])?];
    fn each<T: Ord + Clone>(
        attrs: &Attrs,
        pool: &[T],
        items: &[T],
        counts: &mut [f32],
    ) -> Result<(), String> {
        let grams = Vectorizer::new(attrs, pool)?;
        let rows = counts.len() / grams.width;
        for (i, counts) in counts.chunks_exact_mut(grams.width).enumerate() {
            let length = items.len() / rows;
            grams.count(&items[i * length..(i + 1) * length], counts);
        }
        Ok(())
    }
    match (attrs.strs("pool_strings"), attrs.ints("pool_int64s")) {
        (Some(pool), None) => each(attrs, pool, strings(ctx, 0)?.1, &mut counts)?,
        (None, Some(pool)) => each(attrs, pool, &integers(x)?, &mut counts)?,
        _ => return Err("one of pool_strings and pool_int64s must be given".into()),
    }
    let weights = attrs.floats("weights");
    if weights.is_some_and(|w| w.len() < width) {
        return Err(format!("{width} columns need as many weights"));
    }
    let weight = |i: usize| weights.map_or(1.0, |w| w[i % width] as f32);
    match attrs.str_or("mode", "TF") {
        "TF" => {}
        "IDF" => counts.iter_mut().enumerate().for_each(|(i, n)| *n = n.min(1.0) * weight(i)),
        "TFIDF" => counts.iter_mut().enumerate().for_each(|(i, n)| *n *= weight(i)),
        other => return Err(format!("mode must be TF, IDF or TFIDF, is {other}")),
    }
    one(Tensor::from_vec(shape, counts))
}
fn infer_vectorize(ctx: &Ctx<'_>) -> Facts {
    let columns = Dim::from(width(ctx.attrs())?);
    let shape = match ctx.shape(0).as_deref() {
        None => None,
        Some([] | [_]) => Some(vec![columns]),
        Some([rows, _]) => Some(vec![rows.clone(), columns]),
        Some(other) => return Err(format!("takes a row or rows of items, got {other:?}")),
    };
    typed(DType::F32, shape)
}

/// Keys in one order: NaN is equal to NaN, and zeros are equal.
fn float_key(value: f32) -> u32 {
    if value.is_nan() {
        f32::NAN.to_bits()
    } else if value == 0.0 {
        0
    } else {
        value.to_bits()
    }
}
/// For each element the position of its key, the last one among equals.
fn positions(ctx: &EvalCtx<'_>) -> Result<Vec<Option<usize>>, String> {
    fn find<K: Ord>(keys: impl Iterator<Item = K>, items: impl Iterator<Item = K>) -> Vec<Option<usize>> {
        let map: BTreeMap<K, usize> = keys.zip(0..).collect();
        items.map(|item| map.get(&item).copied()).collect()
    }
    let (x, attrs) = (ctx.tensor(0)?, ctx.attrs());
    Ok(match (attrs.strs("keys_strings"), attrs.ints("keys_int64s"), attrs.floats("keys_floats")) {
        (Some(keys), None, None) => find(keys.iter(), strings(ctx, 0)?.1.iter()),
        (None, Some(keys), None) => find(keys.iter(), integers(x)?.iter()),
        (None, None, Some(keys)) => {
            let items = f32::read(x)?;
            find(keys.iter().map(|&k| float_key(k as f32)), items.iter().map(|&v| float_key(v)))
        }
        _ => return Err("one of keys_strings, keys_int64s and keys_floats must be given".into()),
    })
}
fn encode(ctx: &EvalCtx<'_>) -> Outcome {
    fn pick<V: Clone>(at: &[Option<usize>], values: &[V], default: &V) -> Vec<V> {
        at.iter().map(|at| at.and_then(|at| values.get(at)).unwrap_or(default).clone()).collect()
    }
    let (at, attrs, shape) = (positions(ctx)?, ctx.attrs(), ctx.tensor(0)?.shape().to_vec());
    one(match (attrs.strs("values_strings"), attrs.ints("values_int64s"), attrs.floats("values_floats")) {
        (Some(values), None, None) => {
            let default = attrs.str_or("default_string", "_Unused").to_owned();
            Tensor::from_strings(shape, pick(&at, values, &default))
        }
        (None, Some(values), None) => {
            Tensor::from_vec(shape, pick(&at, values, &attrs.int_or("default_int64", -1)))
        }
        (None, None, Some(values)) => {
            let found = pick(&at, values, &attrs.float_or("default_float", -0.0));
            Tensor::from_vec(shape, found.into_iter().map(|v| v as f32).collect::<Vec<_>>())
        }
        _ => return Err("one of values_strings, values_int64s and values_floats must be given".into()),
    })
}
fn infer_encode(ctx: &Ctx<'_>) -> Facts {
    ctx.tensor_type(0)?;
    let attrs = ctx.attrs();
    let dtype = match (attrs.get("values_strings"), attrs.get("values_int64s")) {
        (Some(_), _) => DType::Str,
        (_, Some(_)) => DType::I64,
        _ => DType::F32,
    };
    typed(dtype, ctx.shape(0))
}
fn extract(ctx: &EvalCtx<'_>) -> Outcome {
    facts(ctx)?;
    let (x, indices) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let last = *x.shape().last().ok_or("a scalar has no features")?;
    let at: Vec<usize> = integers(indices)?
        .iter()
        .map(|&i| {
            usize::try_from(i)
                .ok()
                .filter(|i| *i < last)
                .ok_or_else(|| format!("index {i} is out of range for {last} features"))
        })
        .collect::<Result<_, _>>()?;
    let mut shape = if x.rank() == 1 { vec![1] } else { x.shape()[..x.rank() - 1].to_vec() };
    shape.push(at.len());
    let count = element_count(x.dtype(), &shape)?;
    one(super::elements::by_unit!(x.dtype(), T => {
        use super::elements::Unit;
        let source = T::of(x);
        let mut out: Vec<T> = Vec::with_capacity(count);
        for row in source.chunks_exact(last.max(1)) {
            out.extend(at.iter().map(|&i| row[i].clone()));
        }
        T::tensor(x.dtype(), shape, out)
    }))
}
fn infer_extract(ctx: &Ctx<'_>) -> Facts {
    integer(ctx, 1)?;
    let count = ctx.shape(1).map_or_else(|| ctx.unknown_dim(0, 0), |s| s.into_iter().product());
    let shape = match ctx.shape(0) {
        None => None,
        Some(shape) if shape.is_empty() => return Err("a scalar has no features".into()),
        Some(shape) if shape.len() == 1 => Some(vec![Dim::Known(1), count]),
        Some(mut shape) => {
            shape.pop();
            shape.push(count);
            Some(shape)
        }
    };
    typed(ctx.dtype(0)?, shape)
}
fn binarize(ctx: &EvalCtx<'_>) -> Outcome {
    facts(ctx)?;
    let x = ctx.tensor(0)?;
    let threshold = ctx.attrs().float_or("threshold", 0.0);
    by_number!(x.dtype(), T => {
        let above = |&v: &T| if v.to_f64() > threshold { T::ONE } else { T::ZERO };
        one(T::write(x.dtype(), x.shape().to_vec(), T::read(x)?.iter().map(above).collect()))
    })
}

const fn host(
    op: Op,
    doc: &'static str,
    attrs: &'static [AttrDef],
    infer: fn(&Ctx<'_>) -> Facts,
    eval: fn(&EvalCtx<'_>) -> Outcome,
) -> OpDef {
    OpDef { attrs, engine: Engine::Host, infer, eval, ..OpDef::new(op, doc) }
}

/// The entries.
pub const TABLE: &[OpDef] = &[
    host(
        Op::StringNormalizer,
        "Drops stop words from a list of strings and changes their case.",
        &[
            opt("stopwords", AttrKind::Strs, "Strings to drop; none."),
            opt("is_case_sensitive", AttrKind::Int, "They are dropped only in the same case; 0."),
            opt("case_change_action", AttrKind::Str, "LOWER, UPPER or NONE; NONE."),
            opt("locale", AttrKind::Str, "Not looked at: case is changed by the rules of Unicode."),
        ],
        infer_normalize,
        normalize,
    ),
    OpDef {
        inputs: &[Port::One("a"), Port::One("b")],
        ..host(Op::StringConcat, "Joins strings at equal places.", &[], infer_join, join)
    },
    OpDef {
        outputs: &[Port::One("pieces"), Port::One("counts")],
        ..host(
            Op::StringSplit,
            "Pieces of each string, filled up with empty ones, and how many there are.",
            &[
                opt("delimiter", AttrKind::Str, "What stands between pieces; runs of white space."),
                opt("maxsplit", AttrKind::Int, "Most splits of one string; no limit."),
            ],
            infer_split,
            split,
        )
    },
    host(
        Op::RegexFullMatch,
        "True where a regular expression matches the whole string.",
        &[req("pattern", AttrKind::Str, "The regular expression.")],
        |ctx| {
            of_type(ctx, [0], DType::Str)?;
            typed(DType::Bool, ctx.shape(0))
        },
        full_match,
    ),
    host(
        Op::TfIdfVectorizer,
        "How often each n-gram of a pool is in a row of items, weighted.",
        &[
            req(
                "mode",
                AttrKind::Str,
                "TF counts, IDF is the weight where there are any, TFIDF both multiplied.",
            ),
            req("min_gram_length", AttrKind::Int, "Items in the shortest n-grams."),
            req("max_gram_length", AttrKind::Int, "Items in the longest n-grams."),
            req("max_skip_count", AttrKind::Int, "Most items between two of an n-gram."),
            req("ngram_counts", AttrKind::Ints, "Where in the pool n-grams of 1, 2, ... items start."),
            req("ngram_indexes", AttrKind::Ints, "The output column of each n-gram."),
            opt("pool_strings", AttrKind::Strs, "N-grams of strings, one behind the other."),
            opt("pool_int64s", AttrKind::Ints, "N-grams of integers, one behind the other."),
            opt("weights", AttrKind::Floats, "Weight of each column; 1."),
        ],
        infer_vectorize,
        vectorize,
    ),
    host(
        Op::LabelEncoder,
        "The value of each element's key, or the default without one.",
        &[
            opt("keys_strings", AttrKind::Strs, "Keys, where they are strings."),
            opt("keys_int64s", AttrKind::Ints, "Keys, where they are integers."),
            opt("keys_floats", AttrKind::Floats, "Keys, where they are floats."),
            opt("values_strings", AttrKind::Strs, "Values, where they are strings."),
            opt("values_int64s", AttrKind::Ints, "Values, where they are integers."),
            opt("values_floats", AttrKind::Floats, "Values, where they are floats."),
            opt("default_string", AttrKind::Str, "Default among strings; _Unused."),
            opt("default_int64", AttrKind::Int, "Default among integers; -1."),
            opt("default_float", AttrKind::Float, "Default among floats; -0."),
        ],
        infer_encode,
        encode,
    ),
    OpDef {
        inputs: &[Port::One("input"), Port::One("indices")],
        engine: Engine::Movement,
        ..host(
            Op::ArrayFeatureExtractor,
            "Elements along the last dimension at given indices.",
            &[],
            infer_extract,
            extract,
        )
    },
    OpDef {
        engine: Engine::Vector,
        work: |ctx| Work::vector(ctx.output_elements(0), Dim::Known(0)),
        space: elementwise,
        ..host(
            Op::Binarizer,
            "1 above the threshold, 0 elsewhere.",
            &[opt("threshold", AttrKind::Float, "The threshold; 0.")],
            |ctx| {
                real(ctx, 0)?;
                typed(ctx.dtype(0)?, ctx.shape(0))
            },
            binarize,
        )
    },
];
