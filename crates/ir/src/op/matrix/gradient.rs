//! Gradient rules of products.

use crate::gradient::Backward;
use orrery_base::Result;

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
