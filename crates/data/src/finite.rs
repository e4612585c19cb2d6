//! Values that are no numbers, found before anything is learned from them.

use crate::dataset::Dataset;
use orrery_base::{Diagnostic, Result};

impl Dataset {
    /// Refuses a column that holds what is no finite number.
    ///
    /// # Errors
    /// `data-value` with the sample and the place in it; `data-column` where there is no such column; as
    /// [`Dataset::batch`].
    pub fn check_finite(&self, name: &str) -> Result<()> {
        let column = self.column(name)?;
        if !column.holds_floats() {
            return Ok(());
        }
        for first in (0..self.len()).step_by(AT_ONCE) {
            let read = self.read(name, first..self.len().min(first + AT_ONCE))?;
            let Ok(values) = read.to_f64() else { return Ok(()) };
            let Some(at) = values.iter().position(|value| !value.is_finite()) else { continue };
            let each = column.shape().iter().product::<usize>().max(1);
            let what = if values[at].is_nan() { "NaN" } else { "infinite" };
            let index = match column.shape() {
                [] => "the value".to_owned(),
                shape => format!("index {}", index_of(at % each, shape)),
            };
            let mut error = Diagnostic::error("data-value", format!("{index} is {what}"));
            error.place = self.place_of(first + at / each, name);
            return error.help("no model learns from it: fill it in, or leave the sample out").err();
        }
        Ok(())
    }
}

/// Samples that are looked through at once.
const AT_ONCE: usize = 1024;

/// The place of an element in a sample of this shape, as NumPy counts it.
fn index_of(mut at: usize, shape: &[usize]) -> String {
    let mut index = Vec::new();
    for extent in shape.iter().rev() {
        index.push((at % extent.max(&1)).to_string());
        at /= extent.max(&1);
    }
    index.reverse();
    if let [only] = &index[..] { only.clone() } else { format!("[{}]", index.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_numerics::Tensor;

    #[test]
    fn what_is_no_finite_number_has_a_place() {
        let mut values = vec![0.5_f32; 12];
        values[10] = f32::NAN;
        let x = Tensor::from_vec(vec![3, 2, 2], values);
        let data = Dataset::from_tensors("d", Vec::new(), [("x".to_owned(), x)]).unwrap();
        let failed = data.check_finite("x").unwrap_err();
        assert_eq!((failed.code, failed.cause.as_str()), ("data-value", "index [1, 0] is NaN"));
        assert_eq!(failed.place, ["d", "sample 2, counted from 0", "column `x`"]);
        assert_eq!(data.select(&[2]).check_finite("x").unwrap_err().place, failed.place);
        assert_eq!(data.statistics("x").unwrap_err().code, "data-value");
        data.select(&[0, 1]).check_finite("x").unwrap();
    }
}
