//! Ops of the family `recurrent`: layers that carry a state along a sequence.
//!
//! With `layout` 0 the sequence has shape `[length, batch, input]` and outputs `[length, directions, batch, hidden]`; with
//! `layout` 1 the batch comes first everywhere. Weights are `[directions, gates * hidden, …]`.

use super::elements::{Float, by_float, integers, transpose};
use super::{AttrDef, Class, Ctx, Datum, Engine, EvalCtx, Fact, Op, OpDef, Port, Work, opt, rules};
use crate::{AttrKind, Attrs, Dim};
use orrery_numerics::Tensor;

const INPUTS: &[Port] = &[
    Port::One("X"),
    Port::One("W"),
    Port::One("R"),
    Port::Optional("B"),
    Port::Optional("sequence_lens"),
    Port::Optional("initial_h"),
];
const LSTM_INPUTS: &[Port] = &[
    Port::One("X"),
    Port::One("W"),
    Port::One("R"),
    Port::Optional("B"),
    Port::Optional("sequence_lens"),
    Port::Optional("initial_h"),
    Port::Optional("initial_c"),
    Port::Optional("P"),
];
const ALPHA: AttrDef =
    opt("activation_alpha", AttrKind::Floats, "First parameter of each activation; the activation's own.");
const BETA: AttrDef =
    opt("activation_beta", AttrKind::Floats, "Second parameter of each activation; the activation's own.");
const ACTIVATIONS: AttrDef =
    opt("activations", AttrKind::Strs, "Activations of each direction; sigmoid for gates, tanh elsewhere.");
const CLIP: AttrDef =
    opt("clip", AttrKind::Float, "Largest magnitude of what goes into an activation; none.");
const DIRECTION: AttrDef =
    opt("direction", AttrKind::Str, "`forward`, `reverse` or `bidirectional`; `forward`.");
const HIDDEN: AttrDef = opt("hidden_size", AttrKind::Int, "Number of hidden elements; that of R.");
const LAYOUT: AttrDef = opt("layout", AttrKind::Int, "1 where the batch comes before the sequence; 0.");

/// The entries.
pub const TABLE: &[OpDef] = &[
    OpDef {
        inputs: INPUTS,
        outputs: &[Port::Optional("Y"), Port::Optional("Y_h")],
        attrs: &[ALPHA, BETA, ACTIVATIONS, CLIP, DIRECTION, HIDDEN, LAYOUT],
        class: Class::Rounding,
        engine: Engine::Matrix,
        infer: |ctx| infer(ctx, 1),
        work: |ctx| work(ctx, 1),
        eval: evaluate,
        ..OpDef::new(Op::RNN, "Simple recurrence: H = f(X W' + H R' + biases).")
    },
    OpDef {
        inputs: INPUTS,
        outputs: &[Port::Optional("Y"), Port::Optional("Y_h")],
        attrs: &[
            ALPHA,
            BETA,
            ACTIVATIONS,
            CLIP,
            DIRECTION,
            HIDDEN,
            LAYOUT,
            opt("linear_before_reset", AttrKind::Int, "1 to apply the reset gate after R and its bias; 0."),
        ],
        class: Class::Rounding,
        engine: Engine::Matrix,
        infer: |ctx| infer(ctx, 3),
        work: |ctx| work(ctx, 3),
        eval: evaluate,
        ..OpDef::new(Op::GRU, "Gated recurrent unit; gates in the order update, reset, hidden.")
    },
    OpDef {
        inputs: LSTM_INPUTS,
        outputs: &[Port::Optional("Y"), Port::Optional("Y_h"), Port::Optional("Y_c")],
        attrs: &[
            ALPHA,
            BETA,
            ACTIVATIONS,
            CLIP,
            DIRECTION,
            HIDDEN,
            LAYOUT,
            opt("input_forget", AttrKind::Int, "1 to take one minus the input gate as the forget gate; 0."),
        ],
        class: Class::Rounding,
        engine: Engine::Matrix,
        infer: |ctx| infer(ctx, 4),
        work: |ctx| work(ctx, 4),
        eval: evaluate,
        ..OpDef::new(
            Op::LSTM,
            "Long short-term memory; gates in the order input, output, forget, cell, with peepholes P.",
        )
    },
];

/// Number of directions.
fn directions(attrs: &Attrs) -> Result<usize, String> {
    match attrs.str_or("direction", "forward") {
        "forward" | "reverse" => Ok(1),
        "bidirectional" => Ok(2),
        other => Err(format!("direction `{other}` is unknown")),
    }
}

fn batch_first(attrs: &Attrs) -> bool {
    attrs.flag("layout")
}

fn infer(ctx: &Ctx<'_>, gates: i64) -> Result<Vec<Fact>, String> {
    let dtype = rules::float(ctx, 0)?;
    rules::of_type(ctx, [1, 2, 3, 5, 6, 7], dtype)?;
    let count = Dim::from(directions(ctx.attrs())?);
    let (x, w, r) = (rules::ranked(ctx, 0, 3)?, rules::ranked(ctx, 1, 3)?, rules::ranked(ctx, 2, 3)?);
    let hidden = match (r, ctx.attrs().int("hidden_size")) {
        (Some(r), Some(hidden)) => {
            rules::equal(&r[2], &Dim::Known(hidden), || "the columns of R and hidden_size".into())?
        }
        (Some(r), None) => r[2].clone(),
        (None, Some(hidden)) => Dim::Known(hidden),
        (None, None) => ctx.unknown_dim(0, 3),
    };
    let Some(x) = x else {
        return Ok((0..ctx.output_count()).map(|_| Fact::unranked(dtype)).collect());
    };
    let (length, batch) = if batch_first(ctx.attrs()) { (&x[1], &x[0]) } else { (&x[0], &x[1]) };
    let rows = hidden.clone() * Dim::Known(gates);
    if let Some(w) = w {
        rules::has_shape(ctx, 1, &[count.clone(), rows.clone(), w[2].clone()])?;
        rules::equal(&x[2], &w[2], || "the elements of the sequence and the columns of W".into())?;
    }
    rules::has_shape(ctx, 2, &[count.clone(), rows.clone(), hidden.clone()])?;
    rules::has_shape(ctx, 3, &[count.clone(), rows * Dim::Known(2)])?;
    rules::has_shape(ctx, 4, std::slice::from_ref(batch))?;
    let state = if batch_first(ctx.attrs()) {
        vec![batch.clone(), count.clone(), hidden.clone()]
    } else {
        vec![count.clone(), batch.clone(), hidden.clone()]
    };
    rules::has_shape(ctx, 5, &state)?;
    rules::has_shape(ctx, 6, &state)?;
    rules::has_shape(ctx, 7, &[count.clone(), hidden.clone() * Dim::Known(3)])?;
    let all = if batch_first(ctx.attrs()) {
        vec![batch.clone(), length.clone(), count, hidden]
    } else {
        vec![length.clone(), count, batch.clone(), hidden]
    };
    let mut facts = vec![Fact::tensor(dtype, all)];
    facts.extend((1..ctx.output_count()).map(|_| Fact::tensor(dtype, state.clone())));
    Ok(facts)
}

fn work(ctx: &Ctx<'_>, gates: i64) -> Work {
    let (Some(x), Some(w), Some(r)) = (ctx.shape(0), ctx.shape(1), ctx.shape(2)) else { return Work::NONE };
    let steps = x[0].clone() * x[1].clone() * w[0].clone();
    let hidden = r[2].clone();
    let elements = steps.clone() * hidden.clone() * Dim::Known(gates);
    Work {
        macs: elements.clone() * (w[2].clone() + hidden),
        vector: elements.clone() * Dim::Known(3),
        special: elements,
    }
}

/// An activation with its parameters.
#[derive(Clone, Copy)]
struct Activation<T> {
    kind: fn(T, T, T) -> T,
    alpha: T,
    beta: T,
}

impl<T: Float> Activation<T> {
    fn new(name: &str, alpha: Option<f64>, beta: Option<f64>) -> Result<Self, String> {
        let (kind, default_alpha, default_beta): (fn(T, T, T) -> T, f64, f64) =
            match name.to_ascii_lowercase().as_str() {
                "relu" => (|x, _, _| x.larger(T::ZERO), 0.0, 0.0),
                "tanh" => (|x, _, _| x.tanh(), 0.0, 0.0),
                "sigmoid" => (|x, _, _| T::ONE / (T::ONE + (-x).exp()), 0.0, 0.0),
                "affine" => (|x, a, b| a * x + b, 1.0, 0.0),
                "leakyrelu" => (|x, a, _| if x < T::ZERO { a * x } else { x }, 0.01, 0.0),
                "thresholdedrelu" => (|x, a, _| if x > a { x } else { T::ZERO }, 1.0, 0.0),
                "scaledtanh" => (|x, a, b| a * (b * x).tanh(), 1.0, 1.0),
                "hardsigmoid" => (|x, a, b| (a * x + b).larger(T::ZERO).smaller(T::ONE), 0.2, 0.5),
                "elu" => (|x, a, _| if x < T::ZERO { a * (x.exp() - T::ONE) } else { x }, 1.0, 0.0),
                "softsign" => (|x, _, _| x / (T::ONE + x.abs()), 0.0, 0.0),
                "softplus" => (|x, _, _| (T::ONE + x.exp()).ln(), 0.0, 0.0),
                other => return Err(format!("activation `{other}` is unknown")),
            };
        Ok(Self {
            kind,
            alpha: T::from_f64(alpha.unwrap_or(default_alpha)),
            beta: T::from_f64(beta.unwrap_or(default_beta)),
        })
    }
    fn of(self, x: T) -> T {
        (self.kind)(x, self.alpha, self.beta)
    }
}

/// The activations of all directions, in order.
fn activations<T: Float>(
    attrs: &Attrs,
    each: &[&str],
    directions: usize,
) -> Result<Vec<Activation<T>>, String> {
    let names: Vec<String> = match attrs.strs("activations") {
        Some(names) => names.to_vec(),
        None => each.iter().cycle().take(each.len() * directions).map(ToString::to_string).collect(),
    };
    if names.len() != each.len() * directions {
        return Err(format!("{} activations are needed, {} are given", each.len() * directions, names.len()));
    }
    let parameter = |list: &str, i: usize| attrs.floats(list).and_then(|l| l.get(i).copied());
    names
        .iter()
        .enumerate()
        .map(|(i, name)| {
            Activation::new(name, parameter("activation_alpha", i), parameter("activation_beta", i))
        })
        .collect()
}

fn evaluate(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    rules::check(ctx)?;
    by_float!(ctx.tensor(0)?.dtype(), T => run::<T>(ctx))
}

/// Weights of one direction.
struct Layer<'a, T> {
    op: Op,
    hidden: usize,
    w: &'a [T],
    r: &'a [T],
    bias_w: Option<&'a [T]>,
    bias_r: Option<&'a [T]>,
    peepholes: Option<&'a [T]>,
    activations: &'a [Activation<T>],
    clip: Option<T>,
    linear_before_reset: bool,
    input_forget: bool,
}

impl<T: Float> Layer<'_, T> {
    /// `matrix` times `vector`, for the rows of gate `gate`.
    fn times(&self, matrix: &[T], vector: &[T], gate: usize) -> Vec<T> {
        let rows = &matrix[gate * self.hidden * vector.len()..][..self.hidden * vector.len()];
        if vector.is_empty() {
            return vec![T::ZERO; self.hidden];
        }
        rows.chunks_exact(vector.len())
            .map(|row| row.iter().zip(vector).map(|(a, b)| *a * *b).sum())
            .collect()
    }
    fn clipped(&self, x: T) -> T {
        self.clip.map_or(x, |limit| x.larger(-limit).smaller(limit))
    }
    /// What goes into the activation of a gate: both products with their biases.
    fn gate(&self, x: &[T], h: &[T], gate: usize) -> Vec<T> {
        let (from_x, from_h) = (self.times(self.w, x, gate), self.times(self.r, h, gate));
        (0..self.hidden)
            .map(|i| {
                let at = gate * self.hidden + i;
                from_x[i]
                    + from_h[i]
                    + self.bias_w.map_or(T::ZERO, |b| b[at])
                    + self.bias_r.map_or(T::ZERO, |b| b[at])
            })
            .collect()
    }
    fn peep(&self, which: usize, i: usize, cell: T) -> T {
        self.peepholes.map_or(T::ZERO, |p| p[which * self.hidden + i] * cell)
    }
    /// One step of one sequence: the new hidden state, and the new cell.
    fn step(&self, x: &[T], h: &[T], c: &[T]) -> (Vec<T>, Vec<T>) {
        let f = |k: usize, v: T| self.activations[k].of(self.clipped(v));
        match self.op {
            Op::LSTM => {
                let gates: Vec<Vec<T>> = (0..4).map(|g| self.gate(x, h, g)).collect();
                let mut cell = Vec::with_capacity(self.hidden);
                let mut hidden = Vec::with_capacity(self.hidden);
                for i in 0..self.hidden {
                    let input = f(0, gates[0][i] + self.peep(0, i, c[i]));
                    let forget = if self.input_forget {
                        T::ONE - input
                    } else {
                        f(0, gates[2][i] + self.peep(2, i, c[i]))
                    };
                    let new = forget * c[i] + input * f(1, gates[3][i]);
                    let output = f(0, gates[1][i] + self.peep(1, i, new));
                    cell.push(new);
                    hidden.push(output * self.activations[2].of(new));
                }
                (hidden, cell)
            }
            Op::GRU => {
                let update: Vec<T> = self.gate(x, h, 0).into_iter().map(|v| f(0, v)).collect();
                let reset: Vec<T> = self.gate(x, h, 1).into_iter().map(|v| f(0, v)).collect();
                let at = |i: usize| 2 * self.hidden + i;
                let from_x = self.times(self.w, x, 2);
                let from_h = if self.linear_before_reset {
                    let plain = self.times(self.r, h, 2);
                    (0..self.hidden)
                        .map(|i| reset[i] * (plain[i] + self.bias_r.map_or(T::ZERO, |b| b[at(i)])))
                        .collect()
                } else {
                    let kept: Vec<T> = h.iter().zip(&reset).map(|(h, r)| *h * *r).collect();
                    let product = self.times(self.r, &kept, 2);
                    (0..self.hidden)
                        .map(|i| product[i] + self.bias_r.map_or(T::ZERO, |b| b[at(i)]))
                        .collect::<Vec<T>>()
                };
                let hidden = (0..self.hidden)
                    .map(|i| {
                        let new = f(1, from_x[i] + from_h[i] + self.bias_w.map_or(T::ZERO, |b| b[at(i)]));
                        (T::ONE - update[i]) * new + update[i] * h[i]
                    })
                    .collect();
                (hidden, Vec::new())
            }
            _ => (self.gate(x, h, 0).into_iter().map(|v| f(0, v)).collect(), Vec::new()),
        }
    }
}

fn run<T: Float>(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let op = ctx.node.op;
    let attrs = ctx.attrs();
    let (gates, each): (usize, &[&str]) = match op {
        Op::LSTM => (4, &["Sigmoid", "Tanh", "Tanh"]),
        Op::GRU => (3, &["Sigmoid", "Tanh"]),
        _ => (1, &["Tanh"]),
    };
    let first = batch_first(attrs);
    let swapped = |t: &Tensor| if first { transpose(t, &[1, 0, 2]) } else { t.clone() };
    let x = swapped(ctx.tensor(0)?);
    let dtype = x.dtype();
    let [length, batch, input] = x.shape()[..] else { return Err("X must have three dimensions".into()) };
    let count = directions(attrs)?;
    let hidden = ctx.tensor(2)?.shape()[2];
    let read = |i: usize| -> Result<Option<Vec<T>>, String> {
        ctx.optional(i)?.map(|t| Ok(T::read(t)?.into_owned())).transpose()
    };
    let state = |i: usize| -> Result<Vec<T>, String> {
        match ctx.optional(i)? {
            Some(t) => Ok(T::read(&swapped(t))?.into_owned()),
            None => Ok(vec![T::ZERO; count * batch * hidden]),
        }
    };
    let (w, r) = (read(1)?.unwrap_or_default(), read(2)?.unwrap_or_default());
    let (b, p) = (read(3)?, if op == Op::LSTM { read(7)? } else { None });
    let mut h = state(5)?;
    let mut c = if op == Op::LSTM { state(6)? } else { Vec::new() };
    let lengths: Vec<usize> = match ctx.optional(4)? {
        Some(t) => integers(t)?
            .iter()
            .map(|&n| {
                usize::try_from(n)
                    .ok()
                    .filter(|n| *n <= length)
                    .ok_or_else(|| format!("a sequence cannot be {n} long"))
            })
            .collect::<Result<_, _>>()?,
        None => vec![length; batch],
    };
    let functions = activations::<T>(attrs, each, count)?;
    let xs = T::read(&x)?;
    let mut y = vec![T::ZERO; length * count * batch * hidden];
    for d in 0..count {
        let reverse = d == 1 || attrs.str("direction") == Some("reverse");
        let bias = b.as_ref().map(|b| &b[d * 2 * gates * hidden..][..2 * gates * hidden]);
        let layer = Layer {
            op,
            hidden,
            w: &w[d * gates * hidden * input..][..gates * hidden * input],
            r: &r[d * gates * hidden * hidden..][..gates * hidden * hidden],
            bias_w: bias.map(|b| &b[..gates * hidden]),
            bias_r: bias.map(|b| &b[gates * hidden..]),
            peepholes: p.as_ref().map(|p| &p[d * 3 * hidden..][..3 * hidden]),
            activations: &functions[d * each.len()..][..each.len()],
            clip: attrs.float("clip").map(T::from_f64),
            linear_before_reset: attrs.flag("linear_before_reset"),
            input_forget: attrs.flag("input_forget"),
        };
        for (n, &steps) in lengths.iter().enumerate() {
            let at = (d * batch + n) * hidden;
            for step in 0..steps {
                let t = if reverse { steps - 1 - step } else { step };
                let element = &xs[(t * batch + n) * input..][..input];
                let cell = c.get(at..at + hidden).unwrap_or(&[]);
                let (new_h, new_c) = layer.step(element, &h[at..at + hidden], cell);
                y[((t * count + d) * batch + n) * hidden..][..hidden].copy_from_slice(&new_h);
                h[at..at + hidden].copy_from_slice(&new_h);
                if let Some(cell) = c.get_mut(at..at + hidden) {
                    cell.copy_from_slice(&new_c);
                }
            }
        }
    }
    let all = T::tensor(dtype, vec![length, count, batch, hidden], y);
    let mut outputs: Vec<Datum> = vec![if first { transpose(&all, &[2, 0, 1, 3]) } else { all }.into()];
    let states = if op == Op::LSTM { vec![h, c] } else { vec![h] };
    for values in states.into_iter().take(ctx.output_count().saturating_sub(1)) {
        let state = T::tensor(dtype, vec![count, batch, hidden], values);
        outputs.push(if first { transpose(&state, &[1, 0, 2]) } else { state }.into());
    }
    Ok(outputs)
}
