//! The functions that gates may have.

use super::super::elements::Float;
use super::Kind;
use crate::Attrs;

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Function {
    Relu,
    Tanh,
    Sigmoid,
    Affine { alpha: f64, beta: f64 },
    LeakyRelu { alpha: f64 },
    ThresholdedRelu { alpha: f64 },
    ScaledTanh { alpha: f64, beta: f64 },
    HardSigmoid { alpha: f64, beta: f64 },
    Elu { alpha: f64 },
    Softsign,
    Softplus,
}

impl Function {
    /// The function of that name, with what it takes from the lists of alphas and betas.
    fn new(
        name: &str,
        alphas: &mut impl Iterator<Item = f64>,
        betas: &mut impl Iterator<Item = f64>,
    ) -> Result<Self, String> {
        let mut alpha = |default| alphas.next().unwrap_or(default);
        let mut beta = |default| betas.next().unwrap_or(default);
        Ok(match name.to_ascii_lowercase().as_str() {
            "relu" => Self::Relu,
            "tanh" => Self::Tanh,
            "sigmoid" => Self::Sigmoid,
            "affine" => Self::Affine { alpha: alpha(1.0), beta: beta(0.0) },
            "leakyrelu" => Self::LeakyRelu { alpha: alpha(0.01) },
            "thresholdedrelu" => Self::ThresholdedRelu { alpha: alpha(1.0) },
            "scaledtanh" => Self::ScaledTanh { alpha: alpha(1.0), beta: beta(1.0) },
            "hardsigmoid" => Self::HardSigmoid { alpha: alpha(0.2), beta: beta(0.5) },
            "elu" => Self::Elu { alpha: alpha(1.0) },
            "softsign" => Self::Softsign,
            "softplus" => Self::Softplus,
            _ => return Err(format!("attribute `activations` names an unknown function `{name}`")),
        })
    }
    pub(super) fn of<T: Float>(self, x: T) -> T {
        let number = T::from_f64;
        match self {
            Self::Relu => x.larger(T::ZERO),
            Self::Tanh => x.tanh(),
            Self::Sigmoid => T::ONE / (T::ONE + (-x).exp()),
            Self::Affine { alpha, beta } => number(alpha) * x + number(beta),
            Self::LeakyRelu { alpha } => {
                if x >= T::ZERO {
                    x
                } else {
                    number(alpha) * x
                }
            }
            Self::ThresholdedRelu { alpha } => {
                if x >= number(alpha) {
                    x
                } else {
                    T::ZERO
                }
            }
            Self::ScaledTanh { alpha, beta } => number(alpha) * (number(beta) * x).tanh(),
            Self::HardSigmoid { alpha, beta } => {
                (number(alpha) * x + number(beta)).larger(T::ZERO).smaller(T::ONE)
            }
            Self::Elu { alpha } => {
                if x >= T::ZERO {
                    x
                } else {
                    number(alpha) * (x.exp() - T::ONE)
                }
            }
            Self::Softsign => x / (T::ONE + x.abs()),
            // The larger argument is taken out of the logarithm, against overflow.
            Self::Softplus => x.larger(T::ZERO) + (T::ONE + (-x.abs()).exp()).ln(),
        }
    }
    /// Its derivative; at a kink that of the right, but zero for what is cut off there.
    pub(super) fn slope<T: Float>(self, x: T) -> T {
        let number = T::from_f64;
        let choose = |right: bool, slope: T, otherwise: T| if right { slope } else { otherwise };
        match self {
            Self::Relu => choose(x > T::ZERO, T::ONE, T::ZERO),
            Self::Tanh => T::ONE - x.tanh() * x.tanh(),
            Self::Sigmoid => {
                let y = self.of(x);
                y * (T::ONE - y)
            }
            Self::Affine { alpha, .. } => number(alpha),
            Self::LeakyRelu { alpha } => choose(x >= T::ZERO, T::ONE, number(alpha)),
            Self::ThresholdedRelu { alpha } => choose(x >= number(alpha), T::ONE, T::ZERO),
            Self::ScaledTanh { alpha, beta } => {
                let y = (number(beta) * x).tanh();
                number(alpha * beta) * (T::ONE - y * y)
            }
            Self::HardSigmoid { alpha, beta } => {
                let y = number(alpha) * x + number(beta);
                choose(y > T::ZERO && y < T::ONE, number(alpha), T::ZERO)
            }
            Self::Elu { alpha } => choose(x >= T::ZERO, T::ONE, number(alpha) * x.exp()),
            Self::Softsign => T::ONE / ((T::ONE + x.abs()) * (T::ONE + x.abs())),
            Self::Softplus => Self::Sigmoid.of(x),
        }
    }
}

/// The functions of each direction: f of RNN; f and g of GRU; f, g and h of LSTM.
///
/// # Errors
/// Where their number is wrong or one is unknown.
pub(super) fn functions(attrs: &Attrs, kind: Kind, directions: usize) -> Result<Vec<Vec<Function>>, String> {
    let default: &[&str] = match kind {
        Kind::Rnn => &["Tanh"],
        Kind::Gru => &["Sigmoid", "Tanh"],
        Kind::Lstm => &["Sigmoid", "Tanh", "Tanh"],
    };
    let names: Vec<&str> = match attrs.strs("activations") {
        Some(names) => names.iter().map(String::as_str).collect(),
        None => default.iter().copied().cycle().take(default.len() * directions).collect(),
    };
    // ONNX's default for RNN names two functions whatever the direction.
    if names.len() < default.len() * directions {
        let (needed, given) = (default.len() * directions, names.len());
        return Err(format!("attribute `activations` names {given} functions, {needed} are needed"));
    }
    let mut alphas = attrs.floats("activation_alpha").unwrap_or(&[]).iter().copied();
    let mut betas = attrs.floats("activation_beta").unwrap_or(&[]).iter().copied();
    let all = names
        .iter()
        .take(default.len() * directions)
        .map(|name| Function::new(name, &mut alphas, &mut betas))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(all.chunks(default.len()).map(<[Function]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_limits_of_differences() {
        let (alpha, beta) = (0.7, 0.3);
        let all = [
            Function::Relu,
            Function::Tanh,
            Function::Sigmoid,
            Function::Affine { alpha, beta },
            Function::LeakyRelu { alpha },
            Function::ThresholdedRelu { alpha },
            Function::ScaledTanh { alpha, beta },
            Function::HardSigmoid { alpha, beta },
            Function::Elu { alpha },
            Function::Softsign,
            Function::Softplus,
        ];
        for function in all {
            for x in [-2.1_f64, -0.3, 0.2, 1.9] {
                let difference = (function.of(x + 1e-5) - function.of(x - 1e-5)) / 2e-5;
                assert!((function.slope(x) - difference).abs() < 1e-8, "{function:?} at {x}");
            }
        }
    }

    #[test]
    fn functions_take_their_own_parameters_in_order() {
        let attrs = Attrs::new()
            .with("activations", vec!["HardSigmoid".to_owned(), "Tanh".into(), "LeakyRelu".into()])
            .with("activation_alpha", vec![0.3, 0.4])
            .with("activation_beta", vec![0.6]);
        let found = functions(&attrs, Kind::Lstm, 1).unwrap();
        assert_eq!(
            found,
            [[
                Function::HardSigmoid { alpha: 0.3, beta: 0.6 },
                Function::Tanh,
                Function::LeakyRelu { alpha: 0.4 }
            ]]
        );
        assert_eq!(found[0][0].of(1.0_f32), 0.3 + 0.6);
        assert_eq!(found[0][0].of(9.0_f32), 1.0);
        assert_eq!(found[0][2].of(-2.0_f64), -0.8);
        assert!(functions(&attrs, Kind::Lstm, 2).is_err());
    }
}
