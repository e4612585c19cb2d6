//! Ops of the family `matrix`: products and contractions of matrices, and the determinant.

mod einsum;
mod gathered;
mod gradient;
mod integer;
pub mod kernel;

use super::elements::{Float, by_float, integers};
use super::space::{broadcast_access, parallel, reduced};
use super::{
    Access, AttrDef, Class, Combine, Ctx, Datum, Engine, EvalCtx, Fact, Gradient, IterSpace, Op, OpDef, Port,
    Work,
};
use super::{context, elements, opt, rules};
use crate::{AttrKind, Attrs, Dim};
pub(super) use integer::requantise;
use kernel::{Left, Scalar, View};
use orrery_numerics::{Accumulation, DType, Tensor};

/// The entries.
pub const TABLE: &[OpDef] = &[
    OpDef {
        inputs: &[Port::One("A"), Port::One("B")],
        outputs: &[Port::One("Y")],
        attrs: &[ACCUMULATE],
        class: Class::Rounding,
        engine: Engine::Matrix,
        infer: |ctx| {
            let dtype = rules::real(ctx, 0)?;
            rules::of_type(ctx, [1], dtype)?;
            product_fact(ctx, [0, 1], dtype)
        },
        work: |ctx| product_work(ctx, [0, 1]),
        space: |ctx| product_space(ctx, [0, 1], true),
        eval: matmul,
        gradient: Gradient::Rule(gradient::matmul),
        ..OpDef::new(
            Op::MatMul,
            "Matrix product over the last two dimensions, those before broadcast; a vector is a row on the left and a \
             column on the right.",
        )
    },
    OpDef {
        inputs: &[Port::One("A"), Port::One("B"), Port::Optional("C")],
        outputs: &[Port::One("Y")],
        attrs: &[
            opt("alpha", AttrKind::Float, "Factor of the product; 1."),
            opt("beta", AttrKind::Float, "Factor of C; 1."),
            opt("transA", AttrKind::Int, "1 where A is given as k x m; 0."),
            opt("transB", AttrKind::Int, "1 where B is given as n x k; 0."),
            ACCUMULATE,
        ],
        class: Class::Rounding,
        engine: Engine::Matrix,
        infer: gemm_infer,
        work: gemm_work,
        space: gemm_space,
        eval: gemm,
        gradient: Gradient::Rule(gradient::gemm),
        ..OpDef::new(Op::Gemm, "alpha A B + beta C with A of m x k, B of k x n, and C broadcast to m x n.")
    },
    integer::MATMUL_INTEGER.flat(),
    integer::QLINEAR_MATMUL.flat(),
    einsum::EINSUM,
    gathered::GATHER_MATMUL,
    gathered::GATHER_MATMUL_GRAD,
    OpDef {
        inputs: &[Port::One("X")],
        outputs: &[Port::One("Y")],
        class: Class::Rounding,
        infer: det_infer,
        work: det_work,
        space: det_space,
        eval: det,
        ..OpDef::new(
            Op::Det,
            "Determinant of the square matrices in the last two dimensions, by elimination.",
        )
    }
    .gradient(gradient::det),
];

/// The attribute of all ops on the matrix unit that sets the accumulator.
pub(super) const ACCUMULATE: AttrDef = opt(
    "accumulate",
    AttrKind::Str,
    "Number format that sums are rounded to after each product; fp32, and fp64 for f64. Not part of ONNX.",
);

/// The extents of a matrix product.
struct Product {
    batch: Vec<Dim>,
    /// None where A is a vector.
    m: Option<Dim>,
    /// None where B is a vector.
    n: Option<Dim>,
    k: Dim,
}

impl Product {
    fn new(a: &[Dim], b: &[Dim]) -> Result<Self, String> {
        let (a_batch, m, a_k) = match a {
            [] => return Err("a scalar cannot be multiplied as a matrix".into()),
            [k] => (&[][..], None, k),
            [batch @ .., m, k] => (batch, Some(m.clone()), k),
        };
        let (b_batch, b_k, n) = match b {
            [] => return Err("a scalar cannot be multiplied as a matrix".into()),
            [k] => (&[][..], k, None),
            [batch @ .., k, n] => (batch, k, Some(n.clone())),
        };
        let k = rules::equal(a_k, b_k, || {
            format!(
                "the columns of A, of shape {}, and the rows of B, of shape {},",
                rules::shape_text(a),
                rules::shape_text(b)
            )
        })?;
        Ok(Self { batch: context::broadcast(&[a_batch, b_batch])?, m, n, k })
    }
    fn shape(&self) -> Vec<Dim> {
        self.batch.iter().chain(&self.m).chain(&self.n).cloned().collect()
    }
}

/// Type rule of a matrix product of the inputs `at`.
fn product_fact(ctx: &Ctx<'_>, at: [usize; 2], dtype: DType) -> Result<Vec<Fact>, String> {
    Ok(vec![match (ctx.shape(at[0]), ctx.shape(at[1])) {
        (Some(a), Some(b)) => Fact::tensor(dtype, Product::new(&a, &b)?.shape()),
        _ => Fact::unranked(dtype),
    }])
}

fn product_of(ctx: &Ctx<'_>, at: [usize; 2]) -> Option<(Vec<Dim>, Vec<Dim>, Product)> {
    let (a, b) = (ctx.shape(at[0])?, ctx.shape(at[1])?);
    let product = Product::new(&a, &b).ok()?;
    Some((a, b, product))
}

fn product_work(ctx: &Ctx<'_>, at: [usize; 2]) -> Work {
    product_of(ctx, at).map_or(Work::NONE, |(_, _, p)| Work::macs(rules::product(&p.shape()) * p.k))
}

/// How a matrix product of the inputs `at` is cut; along k only where partial results can be `added`.
fn product_space(ctx: &Ctx<'_>, at: [usize; 2], added: bool) -> Option<IterSpace> {
    let (a, b, product) = product_of(ctx, at)?;
    let mut space = IterSpace::over_output(&product.shape());
    let batch = product.batch.len();
    let m = product.m.is_some().then_some(batch);
    let n = product.n.is_some().then_some(batch + usize::from(m.is_some()));
    for (i, axis) in space.axes.iter_mut().enumerate() {
        axis.name = if Some(i) == m {
            "m"
        } else if Some(i) == n {
            "n"
        } else {
            "batch"
        };
    }
    let k = if added {
        space.axes.push(reduced("k", product.k, Combine::Sum));
        Access::along(space.axes.len() - 1)
    } else {
        Access::Whole
    };
    let mut left = broadcast_access(&a[..a.len().saturating_sub(2)], &product.batch);
    left.extend(m.map(Access::along));
    left.push(k.clone());
    let mut right = broadcast_access(&b[..b.len().saturating_sub(2)], &product.batch);
    right.push(k);
    right.extend(n.map(Access::along));
    space.inputs = (0..ctx.input_count())
        .map(|i| {
            if i == at[0] {
                left.clone()
            } else if i == at[1] {
                right.clone()
            } else {
                vec![Access::Whole; ctx.rank(i).unwrap_or(0)]
            }
        })
        .collect();
    Some(space)
}

/// The product of two tensors as `MatMul` has it; `out` is the shape that the type rule gives.
fn multiply<T: Scalar>(
    (a, a_shape): (&[T], &[usize]),
    (b, b_shape): (&[T], &[usize]),
    out: &[usize],
    accumulation: Option<Accumulation>,
) -> Vec<T> {
    let (a_shape, b_shape) = (with_rows(a_shape), with_columns(b_shape));
    let (a_batch, b_batch) = (&a_shape[..a_shape.len() - 2], &b_shape[..b_shape.len() - 2]);
    let (m, k) = (a_shape[a_shape.len() - 2], a_shape[a_shape.len() - 1]);
    let n = b_shape[b_shape.len() - 1];
    let mut result = vec![T::default(); out.iter().product()];
    if b_batch.iter().all(|&extent| extent == 1) {
        // All rows meet the same right operand.
        let rows = a_batch.iter().product::<usize>() * m;
        Left::new(View::rows(a, k), rows, k, accumulation).multiply(View::rows(b, n), n, &mut result, n);
        return result;
    }
    let batch = elements::broadcast_shapes(&[a_batch, b_batch]).expect("the type rule has checked it");
    let steps = |shape: &[usize], size: usize| {
        elements::broadcast_strides(shape, &batch).into_iter().map(|s| s * size as isize).collect::<Vec<_>>()
    };
    let (a_steps, b_steps) = (steps(a_batch, m * k), steps(b_batch, k * n));
    let mut at = 0;
    elements::Loops::new(&batch, [&a_steps, &b_steps]).each(|[a_at, b_at]| {
        let (left, right) = (&a[a_at as usize..], &b[b_at as usize..]);
        let out = &mut result[at..at + m * n];
        Left::new(View::rows(left, k), m, k, accumulation).multiply(View::rows(right, n), n, out, n);
        at += m * n;
    });
    result
}

fn with_rows(shape: &[usize]) -> Vec<usize> {
    if let [k] = shape { vec![1, *k] } else { shape.to_vec() }
}
fn with_columns(shape: &[usize]) -> Vec<usize> {
    if let [k] = shape { vec![*k, 1] } else { shape.to_vec() }
}

fn matmul(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let (a, b) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let how = ctx.accumulation(dtype)?;
    let result = if dtype.is_float() {
        by_float!(dtype, T => {
            let (x, y) = (T::read(a)?, T::read(b)?);
            let values = multiply::<T>((&x, a.shape()), (&y, b.shape()), &shape, how);
            T::tensor(dtype, shape, values)
        })
    } else {
        let (x, y) = (integers(a)?, integers(b)?);
        Tensor::from_i64(dtype, shape.clone(), multiply((&x, a.shape()), (&y, b.shape()), &shape, None))
    };
    Ok(vec![result.into()])
}

/// m, k, n of a Gemm whose operands have these shapes.
fn gemm_sizes(attrs: &Attrs, a: &[Dim], b: &[Dim]) -> Result<[Dim; 3], String> {
    let turn = |shape: &[Dim], turned: bool| {
        if turned { [shape[1].clone(), shape[0].clone()] } else { [shape[0].clone(), shape[1].clone()] }
    };
    let ([m, a_k], [b_k, n]) = (turn(a, attrs.flag("transA")), turn(b, attrs.flag("transB")));
    let k = rules::equal(&a_k, &b_k, || "the inner extents of A and B".into())?;
    Ok([m, k, n])
}

fn gemm_infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let dtype = rules::real(ctx, 0)?;
    rules::of_type(ctx, [1, 2], dtype)?;
    let (Some(a), Some(b)) = (rules::ranked(ctx, 0, 2)?, rules::ranked(ctx, 1, 2)?) else {
        return Ok(vec![Fact::unranked(dtype)]);
    };
    let [m, _, n] = gemm_sizes(ctx.attrs(), &a, &b)?;
    let out = vec![m, n];
    if let Some(c) = ctx.shape(2) {
        let fits = c.len() <= 2
            && c.iter()
                .zip(&out[2 - c.len()..])
                .all(|(c, o)| c.is(1) || rules::equal(c, o, String::new).is_ok());
        if !fits {
            let (c, out) = (rules::shape_text(&c), rules::shape_text(&out));
            return Err(format!("input `C` of shape {c} does not broadcast to the product's shape {out}"));
        }
    }
    Ok(vec![Fact::tensor(dtype, out)])
}

fn gemm_work(ctx: &Ctx<'_>) -> Work {
    let (Some(a), Some(b)) = (ctx.shape(0), ctx.shape(1)) else { return Work::NONE };
    let Ok([m, k, n]) = gemm_sizes(ctx.attrs(), &a, &b) else { return Work::NONE };
    let out = m * n;
    let scaled = |name: &str| Dim::Known(i64::from(ctx.attrs().float_or(name, 1.0) != 1.0));
    let c = if ctx.has(2) { out.clone() * (Dim::Known(1) + scaled("beta")) } else { Dim::Known(0) };
    Work { macs: out.clone() * k, vector: out * scaled("alpha") + c, ..Work::NONE }
}

fn gemm_space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let (a, b) = (ctx.shape(0)?, ctx.shape(1)?);
    let [m, k, n] = gemm_sizes(ctx.attrs(), &a, &b).ok()?;
    let out = [m, n];
    let mut space = IterSpace::over_output(&out);
    space.axes = vec![parallel("m", out[0].clone()), parallel("n", out[1].clone())];
    // C is added once: with it, partial products cannot be summed.
    let k = if ctx.has(2) {
        Access::Whole
    } else {
        space.axes.push(reduced("k", k, Combine::Sum));
        Access::along(2)
    };
    let turn = |dims: [Access; 2], turned: bool| {
        let [first, second] = dims;
        if turned { vec![second, first] } else { vec![first, second] }
    };
    space.inputs = vec![
        turn([Access::along(0), k.clone()], ctx.attrs().flag("transA")),
        turn([k, Access::along(1)], ctx.attrs().flag("transB")),
    ];
    if ctx.input_count() > 2 {
        space.inputs.push(match ctx.shape(2) {
            Some(c) => broadcast_access(&c, &out),
            None if ctx.has(2) => return None,
            None => Vec::new(),
        });
    }
    Some(space)
}

fn gemm(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let (a, b, c) = (ctx.tensor(0)?, ctx.tensor(1)?, ctx.optional(2)?);
    let (alpha, beta) = (ctx.attrs().float_or("alpha", 1.0), ctx.attrs().float_or("beta", 1.0));
    let how = ctx.accumulation(dtype)?;
    let sizes = GemmSizes::new(ctx.attrs(), a, &shape);
    let c_steps = c.map(|c| elements::broadcast_strides(c.shape(), &shape));
    let places = |c_steps: &[isize]| {
        let mut places = Vec::with_capacity(shape[0] * shape[1]);
        elements::Loops::new(&shape, [c_steps]).each(|[at]| places.push(at as usize));
        places
    };
    let result = if dtype.is_float() {
        by_float!(dtype, T => {
            let mut sums = sizes.multiply::<T>(&T::read(a)?, &T::read(b)?, how);
            if alpha != 1.0 {
                sums.iter_mut().for_each(|s| *s *= T::from_f64(alpha));
            }
            if let (Some(c), Some(steps)) = (c, &c_steps) {
                let (c, beta) = (T::read(c)?, T::from_f64(beta));
                sums.iter_mut().zip(places(steps)).for_each(|(s, at)| *s += beta * c[at]);
            }
            T::tensor(dtype, shape, sums)
        })
    } else {
        let mut sums = sizes.multiply(&integers(a)?, &integers(b)?, None);
        let scale = |value: i64, by: f64| if by == 1.0 { value } else { (value as f64 * by) as i64 };
        sums.iter_mut().for_each(|s| *s = scale(*s, alpha));
        if let (Some(c), Some(steps)) = (c, &c_steps) {
            let c = integers(c)?;
            sums.iter_mut().zip(places(steps)).for_each(|(s, at)| *s = s.wrapping_add(scale(c[at], beta)));
        }
        Tensor::from_i64(dtype, shape, sums)
    };
    Ok(vec![result.into()])
}

struct GemmSizes {
    m: usize,
    k: usize,
    n: usize,
    turned: [bool; 2],
}

impl GemmSizes {
    fn new(attrs: &Attrs, a: &Tensor, out: &[usize]) -> Self {
        let turned = [attrs.flag("transA"), attrs.flag("transB")];
        Self { m: out[0], k: a.shape()[usize::from(!turned[0])], n: out[1], turned }
    }
    fn multiply<T: Scalar>(&self, a: &[T], b: &[T], how: Option<Accumulation>) -> Vec<T> {
        let Self { m, k, n, turned } = *self;
        let a = if turned[0] { View::rows(a, m).transposed() } else { View::rows(a, k) };
        let b = if turned[1] { View::rows(b, k).transposed() } else { View::rows(b, n) };
        let mut out = vec![T::default(); m * n];
        Left::new(a, m, k, how).multiply(b, n, &mut out, n);
        out
    }
}

fn det_infer(ctx: &Ctx<'_>) -> Result<Vec<Fact>, String> {
    let dtype = rules::float(ctx, 0)?;
    let Some(shape) = ctx.shape(0) else { return Ok(vec![Fact::unranked(dtype)]) };
    let [batch @ .., rows, columns] = shape.as_slice() else {
        return Err(format!("input `X` must have at least 2 dimensions, has {}", rules::shape_text(&shape)));
    };
    rules::equal(rows, columns, || "rows and columns".into())?;
    Ok(vec![Fact::tensor(dtype, batch.to_vec())])
}

/// Elimination of an n x n matrix: n (n-1) (2n-1) / 6 times a product is subtracted, for n (n-1) / 2 quotients.
fn det_work(ctx: &Ctx<'_>) -> Work {
    let Some(shape) = ctx.shape(0).filter(|s| s.len() >= 2) else { return Work::NONE };
    let n = shape[shape.len() - 1].clone();
    let count = rules::product(&shape[..shape.len() - 2]);
    let pairs = n.clone() * (n.clone() - Dim::Known(1));
    let products = (pairs.clone() * (n * Dim::Known(2) - Dim::Known(1))).floor_div(&Dim::Known(6));
    Work::vector(count.clone() * products * Dim::Known(2), count * pairs.floor_div(&Dim::Known(2)))
}

fn det_space(ctx: &Ctx<'_>) -> Option<IterSpace> {
    let out = ctx.output_shape(0)?;
    let mut space = IterSpace::over_output(&out);
    space.axes.iter_mut().for_each(|axis| axis.name = "batch");
    let mut input: Vec<Access> = (0..out.len()).map(Access::along).collect();
    input.extend([Access::Whole, Access::Whole]);
    space.inputs.push(input);
    Some(space)
}

fn det(ctx: &EvalCtx<'_>) -> Result<Vec<Datum>, String> {
    let (dtype, shape) = rules::check_one(ctx)?;
    let x = ctx.tensor(0)?;
    let n = x.shape()[x.rank() - 1];
    Ok(vec![by_float!(dtype, T => {
        let values = T::read(x)?;
        let count: usize = shape.iter().product();
        let found = (0..count).map(|i| determinant(values[i * n * n..(i + 1) * n * n].to_vec(), n)).collect();
        T::tensor(dtype, shape, found)
    })
    .into()])
}

fn determinant<T: Float>(mut a: Vec<T>, n: usize) -> T {
    let mut product = T::ONE;
    for step in 0..n {
        let pivot =
            (step..n).fold(
                step,
                |best, row| {
                    if a[row * n + step].abs() > a[best * n + step].abs() { row } else { best }
                },
            );
        if pivot != step {
            (0..n).for_each(|c| a.swap(pivot * n + c, step * n + c));
            product = -product;
        }
        let head = a[step * n + step];
        product = product * head;
        if head == T::ZERO {
            return product;
        }
        for row in step + 1..n {
            let factor = a[row * n + step] / head;
            for column in step + 1..n {
                a[row * n + column] = a[row * n + column] - factor * a[step * n + column];
            }
        }
    }
    product
}
