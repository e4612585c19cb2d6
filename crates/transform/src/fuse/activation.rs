//! Activations spelled out: GELU, swish, mish, hard swish and hard sigmoid.

use super::{Found, Input};
use crate::pattern::View;
use crate::report::{Exactness, Kind};
use orrery_ir::{Attrs, NodeId, Op, ValueId};
use std::f64::consts::{FRAC_1_PI, FRAC_1_SQRT_2};

/// Numbers that a pattern fixes, and whether the graph's are just those.
#[derive(Default)]
struct Numbers {
    rounded: bool,
}

impl Numbers {
    /// True where `given` is `wanted` but for its rounding to a few digits.
    fn are(&mut self, given: f64, wanted: f64) -> bool {
        let error = ((given - wanted) / wanted).abs();
        self.rounded |= error > 1e-6;
        error < 2e-3
    }
    fn exactness(&self) -> Exactness {
        if self.rounded {
            Exactness::Approximated("a constant of the formula is rounded in the graph")
        } else {
            Exactness::Exact
        }
    }
}

pub(super) fn find(view: &View<'_>, root: NodeId) -> Option<Found> {
    if !matches!(view.rewriter.node(root).op, Op::Mul | Op::Div) {
        return None;
    }
    let output = view.rewriter.output(root, 0)?;
    let product = view.product(output);
    let mut nodes = product.nodes;
    let mut numbers = Numbers::default();
    let (x, kind, op, attrs) = match *product.factors.as_slice() {
        [clip] => {
            let (x, inside) = clipped(view, clip)?;
            nodes.extend(inside);
            let hard = numbers.are(product.constant, 1.0 / 6.0);
            hard.then(|| {
                (
                    x,
                    Kind::HardSigmoid,
                    Op::HardSigmoid,
                    Attrs::new().with("alpha", 1.0 / 6.0).with("beta", 0.5),
                )
            })?
        }
        [a, b] => {
            let (x, found, used) = [(a, b), (b, a)].into_iter().find_map(|(x, gate)| {
                let mut used = Numbers::default();
                Some((x, gated(view, x, gate, product.constant, &mut used)?, used))
            })?;
            numbers = used;
            nodes.extend(found.nodes);
            (x, found.kind, found.op, found.attrs)
        }
        _ => return None,
    };
    view.same_type(x, output).then(|| Found {
        kind,
        op,
        inputs: vec![Input::Value(x)],
        attrs,
        nodes,
        exactness: numbers.exactness(),
    })
}

struct Gate {
    kind: Kind,
    op: Op,
    attrs: Attrs,
    nodes: Vec<NodeId>,
}

/// What `constant` x `gate` is, where `gate` is a function of `x`.
fn gated(view: &View<'_>, x: ValueId, gate: ValueId, constant: f64, numbers: &mut Numbers) -> Option<Gate> {
    gelu(view, x, gate, constant, numbers)
        .or_else(|| swish(view, x, gate, constant))
        .or_else(|| mish(view, x, gate, constant))
        .or_else(|| hard_swish(view, x, gate, constant, numbers))
}

/// `value` as a number times `x`, and the nodes between.
fn multiple_of(view: &View<'_>, value: ValueId, x: ValueId) -> Option<(f64, Vec<NodeId>)> {
    if value == x {
        return Some((1.0, Vec::new()));
    }
    let product = view.product(value);
    (product.factors == [x]).then_some((product.constant, product.nodes))
}

/// x (1 + erf(x / root of 2)) / 2, and the same with tanh(root of 2 / pi (x + 0.044715 x^3)).
fn gelu(view: &View<'_>, x: ValueId, gate: ValueId, constant: f64, numbers: &mut Numbers) -> Option<Gate> {
    let (add, scaled, one) = view.plus(gate)?;
    let inner = view.product(scaled);
    let [function] = *inner.factors.as_slice() else { return None };
    if !numbers.are(constant * one, 0.5) || !numbers.are(constant * inner.constant, 0.5) {
        return None;
    }
    let mut nodes = inner.nodes;
    nodes.push(add);
    if let Some(erf) = view.made_by(function, Op::Erf) {
        let (ratio, between) = multiple_of(view, view.input(erf, 0)?, x)?;
        nodes.push(erf);
        nodes.extend(between);
        return numbers.are(ratio, FRAC_1_SQRT_2).then(|| Gate {
            kind: Kind::Gelu,
            op: Op::Gelu,
            attrs: Attrs::new(),
            nodes,
        });
    }
    let tanh = view.made_by(function, Op::Tanh)?;
    nodes.push(tanh);
    nodes.extend(tanh_argument(view, view.input(tanh, 0)?, x, numbers)?);
    let attrs = Attrs::new().with("approximate", "tanh");
    Some(Gate { kind: Kind::Gelu, op: Op::Gelu, attrs, nodes })
}

/// root of 2 / pi (x + 0.044715 x^3), or x taken out of the bracket.
fn tanh_argument(view: &View<'_>, value: ValueId, x: ValueId, numbers: &mut Numbers) -> Option<Vec<NodeId>> {
    const CUBIC: f64 = 0.044715;
    let outer = view.product(value);
    if !numbers.are(outer.constant, (2.0 * FRAC_1_PI).sqrt()) {
        return None;
    }
    let mut nodes = outer.nodes;
    let (add, power, degree) = match *outer.factors.as_slice() {
        [sum] => {
            let add = view.made_by(sum, Op::Add)?;
            let (a, b) = (view.input(add, 0)?, view.input(add, 1)?);
            (
                add,
                if a == x {
                    b
                } else if b == x {
                    a
                } else {
                    return None;
                },
                3,
            )
        }
        [a, b] => {
            let sum = if a == x {
                b
            } else if b == x {
                a
            } else {
                return None;
            };
            let (add, power, one) = view.plus(sum)?;
            if one != 1.0 {
                return None;
            }
            (add, power, 2)
        }
        _ => return None,
    };
    let inner = view.product(power);
    let powers = inner.factors.len() == degree && inner.factors.iter().all(|f| *f == x);
    nodes.push(add);
    nodes.extend(inner.nodes);
    (powers && numbers.are(inner.constant, CUBIC)).then_some(nodes)
}

/// x sigmoid(alpha x).
fn swish(view: &View<'_>, x: ValueId, gate: ValueId, constant: f64) -> Option<Gate> {
    let sigmoid = view.made_by(gate, Op::Sigmoid).filter(|_| constant == 1.0)?;
    let (alpha, mut nodes) = multiple_of(view, view.input(sigmoid, 0)?, x)?;
    nodes.push(sigmoid);
    let attrs = if alpha == 1.0 { Attrs::new() } else { Attrs::new().with("alpha", alpha) };
    Some(Gate { kind: Kind::Swish, op: Op::Swish, attrs, nodes })
}

/// x tanh(softplus(x)).
fn mish(view: &View<'_>, x: ValueId, gate: ValueId, constant: f64) -> Option<Gate> {
    let tanh = view.made_by(gate, Op::Tanh).filter(|_| constant == 1.0)?;
    let softplus = view.made_by(view.input(tanh, 0)?, Op::Softplus)?;
    (view.input(softplus, 0)? == x).then(|| Gate {
        kind: Kind::Mish,
        op: Op::Mish,
        attrs: Attrs::new(),
        nodes: vec![tanh, softplus],
    })
}

/// x clip(x + 3, 0, 6) / 6, the quotient spelled out or a hard sigmoid already.
fn hard_swish(
    view: &View<'_>,
    x: ValueId,
    gate: ValueId,
    constant: f64,
    numbers: &mut Numbers,
) -> Option<Gate> {
    let nodes = match view.made_by(gate, Op::HardSigmoid) {
        Some(node) => {
            let attrs = &view.rewriter.node(node).attrs;
            let (alpha, beta) = (attrs.float_or("alpha", 0.2), attrs.float_or("beta", 0.5));
            let same =
                view.input(node, 0)? == x && beta == 0.5 && constant == 1.0 && numbers.are(alpha, 1.0 / 6.0);
            same.then(|| vec![node])?
        }
        None => {
            let (inner, nodes) = clipped(view, gate)?;
            (inner == x && numbers.are(constant, 1.0 / 6.0)).then_some(nodes)?
        }
    };
    Some(Gate { kind: Kind::HardSwish, op: Op::HardSwish, attrs: Attrs::new(), nodes })
}

/// The x of clip(x + 3, 0, 6).
fn clipped(view: &View<'_>, value: ValueId) -> Option<(ValueId, Vec<NodeId>)> {
    let clip = view.made_by(value, Op::Clip)?;
    let bounds = [view.scalar(view.input(clip, 1)?)?, view.scalar(view.input(clip, 2)?)?];
    let (add, x, shift) = view.plus(view.input(clip, 0)?)?;
    (bounds == [0.0, 6.0] && shift == 3.0).then(|| (x, vec![clip, add]))
}
