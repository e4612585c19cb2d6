//! `Einsum`: sums of products over named dimensions.
//!
//! Operands are contracted one after the other, each time by one batched matrix product: the dimensions that both share
//! and that are still needed are its batch, those that are needed no more its inner dimension.

use super::super::elements::{by_float, element_count, integers, strided, strides};
use super::super::space::{parallel, reduced};
use super::super::{
    Access, Class, Combine, Ctx, Datum, Engine, EvalCtx, Fact, Gradient, IterSpace, Op, OpDef, Port, Work,
    req, rules,
};
use super::kernel::{Left, Scalar, View};
use crate::{AttrKind, Dim};
use orrery_numerics::{Accumulation, DType, Tensor};
use std::collections::BTreeMap;

pub(super) const EINSUM: OpDef = OpDef {
    inputs: &[Port::Variadic("Inputs")],
    outputs: &[Port::One("Output")],
    attrs: &[
        req(
            "equation",
            AttrKind::Str,
            "A letter for each dimension, as in `bij,bjk->bik`; `...` for any others.",
        ),
        super::ACCUMULATE,
    ],
    class: Class::Rounding,
    engine: Engine::Matrix,
    infer,
    work,
    space,
    eval,
    gradient: Gradient::Rule(super::gradient::einsum),
    ..OpDef::new(
        Op::Einsum,
        "Sum of products of its operands over all dimensions that the equation's right side does not name.",
    )
};

/// A dimension: a letter, or one of those that `...` stands for, counted from the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Dots(usize),
    Letter(char),
}

/// The equation applied to operands of certain shapes.
#[derive(Debug)]
struct Equation {
    operands: Vec<Vec<Label>>,
    output: Vec<Label>,
    extents: BTreeMap<Label, Dim>,
}

impl Equation {
    fn new(text: &str, shapes: &[Vec<Dim>]) -> Result<Self, String> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = match text.split_once("->") {
            Some((left, right)) => (left.to_owned(), Some(right.to_owned())),
            None => (text, None),
        };
        let terms: Vec<&str> = left.split(',').collect();
        if terms.len() != shapes.len() {
            return Err(format!("the equation names {} operands, there are {}", terms.len(), shapes.len()));
        }
        let mut operands = Vec::new();
        let mut extents: BTreeMap<Label, Dim> = BTreeMap::new();
        for (term, shape) in terms.iter().zip(shapes) {
            let labels = labels(term, shape.len())?;
            for (label, extent) in labels.iter().zip(shape) {
                let have = extents.entry(*label).or_insert(Dim::Known(1));
                // An extent of one is repeated, as in broadcasting.
                if have.is(1) {
                    *have = extent.clone();
                } else if !extent.is(1) {
                    *have = rules::equal(have, extent, || format!("the extents of {label:?} in `{left}`"))?;
                }
            }
            operands.push(labels);
        }
        let output = match right {
            Some(right) => {
                let dots = extents.keys().filter(|l| matches!(l, Label::Dots(_))).count();
                let letters = right.chars().filter(char::is_ascii_alphabetic).count();
                let rank = if right.contains("...") { dots + letters } else { letters };
                let output = labels(&right, rank)?;
                for (i, label) in output.iter().enumerate() {
                    if output[..i].contains(label) {
                        return Err(format!("`{right}` names an output dimension twice"));
                    }
                    if !extents.contains_key(label) {
                        return Err(format!("`{right}` names a dimension that no operand has"));
                    }
                }
                output
            }
            None => {
                let count = |label: &Label| operands.iter().flatten().filter(|l| *l == label).count();
                let mut output: Vec<Label> = extents
                    .keys()
                    .copied()
                    .filter(|l| matches!(l, Label::Dots(_)) || count(l) == 1)
                    .collect();
                let dots = output.iter().filter(|l| matches!(l, Label::Dots(_))).count();
                output[..dots].reverse();
                output
            }
        };
        Ok(Self { operands, output, extents })
    }
    fn of(ctx: &Ctx<'_>) -> Option<Result<Self, String>> {
        let shapes: Option<Vec<_>> = (0..ctx.input_count()).map(|i| ctx.shape(i)).collect();
        Some(Self::new(ctx.attrs().str_or("equation", ""), &shapes?))
    }
    /// Labels that are needed after operand `i` has been taken in.
    fn needed_after(&self, i: usize, label: Label) -> bool {
        self.output.contains(&label) || self.operands[i + 1..].iter().any(|o| o.contains(&label))
    }
    /// For each contraction, the labels of batch, left rows, inner and right columns.
    fn steps(&self) -> Vec<[Vec<Label>; 4]> {
        let mut have = unique(&self.operands[0]);
        let mut steps = Vec::new();
        // A lone operand is contracted with the scalar 1.
        for i in 1..self.operands.len().max(2) {
            let next = self.operands.get(i).map_or(Vec::new(), |labels| unique(labels));
            let last = self.operands.len().max(2) - 1;
            let needed = |l: Label| {
                if i == last { self.output.contains(&l) } else { self.needed_after(i, l) }
            };
            let mut step: [Vec<Label>; 4] = Default::default();
            for &label in &have {
                let place = match (needed(label), next.contains(&label)) {
                    (true, true) => 0,
                    (true, false) => 1,
                    (false, _) => 2,
                };
                step[place].push(label);
            }
            for &label in next.iter().filter(|l| !have.contains(l)) {
                step[if needed(label) { 3 } else { 2 }].push(label);
            }
            have = [0, 1, 3].iter().flat_map(|&p| step[p].iter().copied()).collect();
            steps.push(step);
        }
        steps
    }
    fn extent(&self, label: Label) -> Dim {
        self.extents[&label].clone()
    }
}

/// The terms of the equation with a letter for each dimension, that of the output, and the extent of each letter.
pub(super) fn letters(ctx: &Ctx<'_>) -> Result<(Vec<String>, String, BTreeMap<char, i64>), String> {
    let equation = Equation::of(ctx).ok_or("the shapes are not known")??;
    let taken: Vec<char> = equation
        .extents
        .keys()
        .filter_map(|l| if let Label::Letter(c) = l { Some(*c) } else { None })
        .collect();
    let mut free = ('a'..='z').chain('A'..='Z').filter(|c| !taken.contains(c));
    let mut names = BTreeMap::new();
    let mut extents = BTreeMap::new();
    for (label, extent) in &equation.extents {
        let name = match label {
            Label::Letter(c) => *c,
            Label::Dots(_) => free.next().ok_or("there are more dimensions than letters")?,
        };
        names.insert(*label, name);
        extents.insert(name, extent.known().ok_or("the extents are not known")?);
    }
    let term = |labels: &Vec<Label>| labels.iter().map(|l| names[l]).collect::<String>();
    Ok((equation.operands.iter().map(term).collect(), term(&equation.output), extents))
}

fn unique(labels: &[Label]) -> Vec<Label> {
    let mut seen = Vec::new();
    for label in labels {
        if !seen.contains(label) {
            seen.push(*label);
        }
    }
    seen
}

/// The labels of one term of an equation, for an operand of that rank.
fn labels(term: &str, rank: usize) -> Result<Vec<Label>, String> {
    let (before, after) = match term.split_once("...") {
        Some((before, after)) => (before, Some(after)),
        None => (term, None),
    };
    let letters = |part: &str| -> Result<Vec<Label>, String> {
        part.chars()
            .map(|c| {
                if c.is_ascii_alphabetic() {
                    Ok(Label::Letter(c))
                } else {
                    Err(format!("the equation has `{c}` where a letter should be"))
                }
            })
            .collect()
    };
    let mut found = letters(before)?;
    if let Some(after) = after {
        let after = letters(after)?;
        let dots = rank.checked_sub(found.len() + after.len());
        let dots = dots.ok_or_else(|| format!("`{term}` names more dimensions than the operand's {rank}"))?;
        found.extend((0..dots).rev().map(Label::Dots));
        found.extend(after);
    }
    if found.len() == rank {
        Ok(found)
    } else {
        Err(format!("`{term}` names {} dimensions, the operand has {rank}", found.len()))
    }
}

fn infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let dtype = rules::real(ctx, 0)?;
    rules::of_type(ctx, 1..ctx.input_count(), dtype)?;
    Ok(vec![match Equation::of(ctx) {
        Some(equation) => {
            let equation = equation?;
            Fact::tensor(dtype, equation.output.iter().map(|&l| equation.extent(l)).collect())
        }
        None => Fact::unranked(dtype),
    }])
}

fn work(ctx: &Ctx<'_>) -> Work {
    let Some(Ok(equation)) = Equation::of(ctx) else { return Work::NONE };
    let steps = equation.steps();
    let counts = steps.iter().map(|step| step.iter().flatten().map(|&l| equation.extent(l)).product::<Dim>());
    if equation.operands.len() == 1 {
        // Only sums, or only moves.
        let summed = !steps[0][2].is_empty();
        let count: Dim = counts.sum();
        return Work::vector(if summed { count } else { Dim::Known(0) }, Dim::Known(0));
    }
    Work::macs(counts.sum())
}

fn space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let equation = Equation::of(ctx)?.ok()?;
    let output: Vec<Dim> = equation.output.iter().map(|&l| equation.extent(l)).collect();
    let mut space = IterSpace::over_output(&output);
    let mut order = equation.output.clone();
    order.extend(equation.extents.keys().filter(|l| !equation.output.contains(l)));
    space.axes = order
        .iter()
        .enumerate()
        .map(|(i, &label)| {
            let (name, extent) = (letter_name(label), equation.extent(label));
            if i < output.len() { parallel(name, extent) } else { reduced(name, extent, Combine::Sum) }
        })
        .collect();
    for (i, labels) in equation.operands.iter().enumerate() {
        let shape = ctx.shape(i)?;
        let access = labels.iter().zip(&shape).map(|(label, extent)| {
            let axis = order.iter().position(|l| l == label).expect("every label is an axis");
            let repeated = extent.is(1) && !equation.extents[label].is(1);
            if repeated { Access::Whole } else { Access::along(axis) }
        });
        space.inputs.push(access.collect());
    }
    Some(space)
}

/// The name of an axis: the equation's letter.
fn letter_name(label: Label) -> &'static str {
    const LETTERS: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    match label {
        Label::Letter(c) => LETTERS.find(c).map_or("letter", |at| &LETTERS[at..=at]),
        Label::Dots(_) => "...",
    }
}

/// An operand while it is contracted: elements, and for each dimension its label and extent, row-major.
struct Operand<T> {
    elements: Vec<T>,
    labels: Vec<Label>,
    shape: Vec<usize>,
}

impl<T: Clone> Operand<T> {
    /// The elements in the order of `labels`, of extents `shape`: diagonals taken, missing dimensions repeated.
    fn arranged(&self, labels: &[Label], shape: &[usize]) -> Vec<T> {
        let own = strides(&self.shape);
        let steps: Vec<isize> = labels
            .iter()
            .map(|label| {
                (0..own.len())
                    .filter(|&d| self.labels[d] == *label && self.shape[d] != 1)
                    .map(|d| own[d])
                    .sum()
            })
            .collect();
        strided(&self.elements, shape, &steps, 0)
    }
}

fn contract<T: Scalar>(
    equation: &Equation,
    mut operands: Vec<Operand<T>>,
    one: T,
    how: Option<Accumulation>,
) -> Result<Vec<T>, String> {
    if operands.len() == 1 {
        operands.push(Operand { elements: vec![one], labels: Vec::new(), shape: Vec::new() });
    }
    let extents = |labels: &[Label]| -> Vec<usize> {
        labels.iter().map(|l| equation.extents[l].extent().unwrap_or(0)).collect()
    };
    let mut rest = operands.into_iter();
    let mut have = rest.next().ok_or("it needs at least one operand")?;
    for ([batch, rows, inner, columns], next) in equation.steps().into_iter().zip(rest) {
        let [b, m, k, n] = [&batch, &rows, &inner, &columns].map(|l| extents(l).iter().product::<usize>());
        let left_labels = [batch.clone(), rows.clone(), inner.clone()].concat();
        let right_labels = [batch.clone(), inner, columns.clone()].concat();
        let (left_shape, right_shape) = (extents(&left_labels), extents(&right_labels));
        let labels = [batch, rows, columns].concat();
        let shape = extents(&labels);
        for shape in [&left_shape, &right_shape, &shape] {
            element_count(DType::F32, shape)?;
        }
        let left = have.arranged(&left_labels, &left_shape);
        let right = next.arranged(&right_labels, &right_shape);
        let mut elements = vec![T::default(); b * m * n];
        for i in 0..b {
            Left::new(View::rows(&left[i * m * k..], k), m, k, how).multiply(
                View::rows(&right[i * k * n..], n),
                n,
                &mut elements[i * m * n..(i + 1) * m * n],
                n,
            );
        }
        have = Operand { elements, labels, shape };
    }
    Ok(have.arranged(&equation.output, &extents(&equation.output)))
}

fn eval(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let tensors = (0..ctx.inputs.len()).map(|i| ctx.tensor(i)).collect::<Result<Vec<_>, _>>()?;
    let shapes: Vec<Vec<Dim>> =
        tensors.iter().map(|t| t.shape().iter().map(|&n| Dim::from(n)).collect()).collect();
    let equation = Equation::new(ctx.attrs().str_or("equation", ""), &shapes)?;
    let how = ctx.accumulation(dtype)?;
    let operand = |i: usize, t: &Tensor| (equation.operands[i].clone(), t.shape().to_vec());
    Ok(vec![if dtype.is_float() {
        by_float!(dtype, T => {
            let mut operands = Vec::new();
            for (i, tensor) in tensors.iter().enumerate() {
                let (labels, shape) = operand(i, tensor);
                let elements = <T as super::super::elements::Float>::read(tensor)?.into_owned();
                operands.push(Operand { elements, labels, shape });
            }
            let values = contract::<T>(&equation, operands, 1.0, how)?;
            <T as super::super::elements::Float>::tensor(dtype, shape, values)
        })
        .into()
    } else {
        let mut operands = Vec::new();
        for (i, tensor) in tensors.iter().enumerate() {
            let (labels, shape) = operand(i, tensor);
            operands.push(Operand { elements: integers(tensor)?.into_owned(), labels, shape });
        }
        Tensor::from_i64(dtype, shape, contract(&equation, operands, 1, None)?).into()
    }])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes(list: &[&[i64]]) -> Vec<Vec<Dim>> {
        list.iter().map(|s| s.iter().map(|&n| Dim::Known(n)).collect()).collect()
    }

    #[test]
    fn reads_equations() {
        let e = Equation::new("...ij, ...jk", &shapes(&[&[5, 1, 2, 3], &[4, 3, 6]])).unwrap();
        let out: Vec<Dim> = e.output.iter().map(|&l| e.extent(l)).collect();
        assert_eq!(out, shapes(&[&[5, 4, 2, 6]])[0]);
        for (text, operands) in [
            ("ij,jk->ii", &[&[2_i64, 3][..], &[3, 4][..]][..]),
            ("ij->z", &[&[2, 3]]),
            ("ij,jk", &[&[2, 3]]),
            ("ij,jk", &[&[2, 3], &[4, 5]]),
            ("i", &[&[2, 3]]),
            ("i...j", &[&[2]]),
            ("i?", &[&[2, 2]]),
        ] {
            assert!(Equation::new(text, &shapes(operands)).is_err(), "{text}");
        }
    }

    #[test]
    fn contracts_one_after_the_other() {
        // (2x3)(3x4) then (2x4)(4x5): 24 + 40 products, not 2*3*4*5.
        let e = Equation::new("ab,bc,cd->ad", &shapes(&[&[2, 3], &[3, 4], &[4, 5]])).unwrap();
        let counts: Dim =
            e.steps().iter().map(|s| s.iter().flatten().map(|&l| e.extent(l)).product::<Dim>()).sum();
        assert_eq!(counts, Dim::Known(64));
    }
}
