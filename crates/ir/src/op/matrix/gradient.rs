//! Gradient rules of products.

use super::einsum;
use crate::gradient::Backward;
use crate::{Attrs, Op, ValueId};
use orrery_base::Result;
use orrery_numerics::Tensor;

/// dA = dY B^T and dB = A^T dY, summed over whatever was broadcast; a vector is a matrix of one row or column meanwhile.
pub(super) fn matmul(b: &mut Backward<'_>) -> Result<()> {
    let (x, w, dy) = (b.x(0)?, b.x(1)?, b.dy0()?);
    let (x_shape, w_shape, mut y_shape) = (b.shape(x)?, b.shape(w)?, b.shape(dy)?);
    let (mut x_matrix, mut w_matrix) = (x_shape.clone(), w_shape.clone());
    if w_shape.len() == 1 {
        w_matrix.push(1);
        y_shape.push(1);
    }
    if x_shape.len() == 1 {
        x_matrix.insert(0, 1);
        y_shape.insert(y_shape.len() - 1, 1);
    }
    let dy = b.reshape(dy, &y_shape)?;
    if b.wants(0) {
        let w = b.reshape(w, &w_matrix)?;
        let turned = b.transpose_last(w)?;
        let dx = b.matmul(dy, turned)?;
        let dx = b.sum_to(dx, &x_matrix)?;
        let dx = b.reshape(dx, &x_shape)?;
        b.give(0, dx);
    }
    if b.wants(1) {
        let dw = if w_shape.len() <= 2 {
            // A weight: one product over all rows of all batches.
            let (k, n) = (w_matrix[0], w_matrix[1]);
            let rows = x_matrix.iter().rev().skip(1).product();
            let x = b.reshape(x, &[rows, k])?;
            let dy = b.reshape(dy, &[rows, n])?;
            let turned = b.transpose_last(x)?;
            b.matmul(turned, dy)?
        } else {
            let x = b.reshape(x, &x_matrix)?;
            let turned = b.transpose_last(x)?;
            let dw = b.matmul(turned, dy)?;
            b.sum_to(dw, &w_matrix)?
        };
        let dw = b.reshape(dw, &w_shape)?;
        b.give(1, dw);
    }
    Ok(())
}

/// Products of dY with the other operand, turned so that the result lies as the operand does.
pub(super) fn gemm(b: &mut Backward<'_>) -> Result<()> {
    let (x, w, dy) = (b.x(0)?, b.x(1)?, b.dy0()?);
    let (x_turned, w_turned) = (b.attrs().flag("transA"), b.attrs().flag("transB"));
    let (alpha, beta) = (b.attrs().float_or("alpha", 1.0), b.attrs().float_or("beta", 1.0));
    let attrs = |left: bool, right: bool| {
        Attrs::new().with("alpha", alpha).with("transA", left).with("transB", right)
    };
    if b.wants(0) {
        let dx = if x_turned {
            b.op(Op::Gemm, &[w, dy], attrs(w_turned, true))?
        } else {
            b.op(Op::Gemm, &[dy, w], attrs(false, !w_turned))?
        };
        b.give(0, dx);
    }
    if b.wants(1) {
        let dw = if w_turned {
            b.op(Op::Gemm, &[dy, x], attrs(true, x_turned))?
        } else {
            b.op(Op::Gemm, &[x, dy], attrs(!x_turned, false))?
        };
        b.give(1, dw);
    }
    if b.wants(2) {
        let shape = b.shape(b.x(2)?)?;
        let dc = b.sum_to(dy, &shape)?;
        let dc = b.scale(dc, beta)?;
        b.give(2, dc);
    }
    Ok(())
}

/// The product of dY and all other operands over what the operand does not have; along dimensions that only it has, the
/// gradient is the same everywhere.
pub(super) fn einsum(b: &mut Backward<'_>) -> Result<()> {
    let dy = b.dy0()?;
    let (terms, output, extents) = b.known(einsum::letters)?;
    for i in (0..terms.len()).filter(|i| b.wants(*i)).collect::<Vec<_>>() {
        let own = &terms[i];
        // A letter that comes again says that its dimensions are read along their diagonal.
        let again = |at: usize, c: char| own.chars().take(at).any(|before| before == c);
        let mut operands = vec![dy];
        let mut left = vec![output.clone()];
        for (j, term) in terms.iter().enumerate().filter(|(j, _)| *j != i) {
            operands.push(b.x(j)?);
            left.push(term.clone());
        }
        let once = own.chars().enumerate().filter(|(at, c)| !again(*at, *c)).map(|(_, c)| c);
        let shared: String = once.filter(|c| left.iter().any(|term| term.contains(*c))).collect();
        let equation = format!("{}->{shared}", left.join(","));
        let dx = b.op(Op::Einsum, &operands, Attrs::new().with("equation", equation))?;
        // What was repeated in all others is still of extent one.
        let mut found = b.shape(dx)?.into_iter();
        let kept = own.chars().enumerate().map(|(at, c)| {
            if shared.contains(c) && !again(at, c) { found.next().unwrap_or(1) } else { 1 }
        });
        let kept: Vec<i64> = kept.collect();
        let whole: Vec<i64> = own.chars().map(|c| extents[&c]).collect();
        let dx = b.reshape(dx, &kept)?;
        let mut dx = b.expand(dx, &whole)?;
        for (at, c) in own.chars().enumerate().filter(|(at, c)| again(*at, *c)) {
            let mut shape = vec![1; whole.len()];
            let first = own.chars().position(|other| other == c).unwrap_or(at);
            (shape[first], shape[at]) = (whole[at], whole[at]);
            let diagonal = identity(b, whole[at] as usize, dx)?;
            let diagonal = b.reshape(diagonal, &shape)?;
            dx = b.mul(dx, diagonal)?;
        }
        b.give_summed(i, dx)?;
    }
    Ok(())
}

/// dA is dY times the matrix chosen, turned; dB gathers the products of all rows that chose it.
pub(super) fn gather_matmul(b: &mut Backward<'_>) -> Result<()> {
    let (x, w, indices, dy) = (b.x(0)?, b.x(1)?, b.x(2)?, b.dy0()?);
    if b.wants(0) {
        let turned = b.transpose_last(w)?;
        let dx = b.op(Op::GatherMatMul, &[dy, turned, indices], Attrs::new())?;
        b.give_summed(0, dx)?;
    }
    if b.wants(1) {
        let matrices = b.shape(w)?[0];
        let dw = b.op(Op::GatherMatMulGrad, &[x, dy, indices], Attrs::new().with("matrices", matrices))?;
        b.give(1, dw);
    }
    Ok(())
}

/// The unit matrix in the type of `like`.
fn identity(b: &mut Backward<'_>, n: usize, like: ValueId) -> Result<ValueId> {
    let unit = (0..n * n).map(|i| if i % (n + 1) == 0 { 1.0 } else { 0.0 });
    let unit = Tensor::from_vec(vec![n, n], unit.collect::<Vec<f64>>());
    let unit = b.tensor("identity", unit);
    let dtype = b.dtype(like);
    b.cast(unit, dtype)
}

/// Each element times its cofactor: the determinant, with a sign, of what is left without its row and column. There are no
/// quotients in it, so that it holds for singular matrices too.
pub(super) fn det(b: &mut Backward<'_>) -> Result<()> {
    let (x, dy) = (b.x(0)?, b.dy0()?);
    let shape = b.shape(x)?;
    let (lead, n) = (&shape[..shape.len() - 2], shape[shape.len() - 1]);
    let axis = lead.len() as i64;
    let others: Vec<i64> = (0..n).flat_map(|i| (0..n).filter(move |j| *j != i)).collect();
    let others = b.tensor("others", Tensor::from_vec(vec![n as usize, (n - 1).max(0) as usize], others));
    let rows = b.op(Op::Gather, &[x, others], Attrs::new().with("axis", axis))?;
    let minors = b.op(Op::Gather, &[rows, others], Attrs::new().with("axis", axis + 2))?;
    // [.., row, rows, column, columns] with the matrices last.
    let order: Vec<i64> = (0..axis).chain([0, 2, 1, 3].map(|d| axis + d)).collect();
    let minors = b.transpose(minors, &order)?;
    let minors = b.unary(Op::Det, minors)?;
    let signs = (0..n * n).map(|i| if (i / n + i % n) % 2 == 0 { 1.0 } else { -1.0 });
    let signs = b.tensor("signs", Tensor::from_vec(vec![n as usize; 2], signs.collect::<Vec<f64>>()));
    let dtype = b.dtype(dy);
    let signs = b.cast(signs, dtype)?;
    let cofactors = b.mul(minors, signs)?;
    let sent = b.reshape(dy, &[lead, &[1, 1]].concat())?;
    let dx = b.mul(cofactors, sent)?;
    b.give(0, dx);
    Ok(())
}
