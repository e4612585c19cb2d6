//! How machines are usually trained with.

use super::scaling::LossScaling;
use crate::run::Place;
use orrery_base::Result;
use orrery_cost::Target;
use orrery_data::Dataset;
use orrery_machine::ExecutionModel;
use orrery_numerics::DType;
use orrery_transform::training::Loss;

/// What a machine's users do where they say nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Habits {
    /// Loss scaling.
    pub scaling: LossScaling,
    /// Stochastic rounding.
    pub stochastic: bool,
}

/// Sixteen bits with the range of fp16 or cb16 take dynamic loss scaling, as amp and the Cerebras model zoo's
/// `loss_scaling_factor: dynamic` do; bf16 and fp32 take none. IPUs round stochastically when they narrow to fp16
/// (`Precision.enableStochasticRounding`). Assumed from the vendors' examples; parameters are kept in fp32.
///
/// # Errors
/// Those of the setup.
pub fn habits(place: &Place) -> Result<Habits> {
    let Place::Machine(setup) = place else {
        return Ok(Habits { scaling: LossScaling::None, stochastic: false });
    };
    let target = setup.target()?;
    let precision = target.precision;
    let short = precision.storage == DType::F16 || precision.multiply == "cb16";
    let scaling = if short { LossScaling::Dynamic } else { LossScaling::None };
    let rounds = matches!(target.system.model, ExecutionModel::BulkSynchronous(_));
    Ok(Habits { scaling, stochastic: rounds && precision.stochastic_rounding })
}

/// The type in which published training on a machine keeps parameters and running means of gradients: IPUs keep them in
/// fp16, which they round stochastically (`16.16` of Graphcore's examples; `first_order_momentum_accum_type` of `PopTorch`);
/// binary32 elsewhere.
pub(super) fn kept_in(target: &Target<'_>) -> DType {
    let rounds = target.precision.stochastic_rounding && target.precision.storage == DType::F16;
    let on_tiles = matches!(target.system.model, ExecutionModel::BulkSynchronous(_));
    if on_tiles && rounds { DType::F16 } else { DType::F32 }
}

/// The loss that labels of this type usually have: cross-entropy of whole numbers, else the squared error.
///
/// # Errors
/// `data-label` where the labels are not to be found.
pub fn default_loss(data: &Dataset) -> Result<Loss> {
    let column = super::batches::label_column(data)?;
    let whole = data.column(&column)?.dtype().is_int();
    Ok(if whole { Loss::CrossEntropy } else { Loss::Mse })
}
