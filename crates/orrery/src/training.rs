//! Training models.

use crate::{Graph, Model, Result, SaveOptions, Tensor, save_onnx};
use orrery_base::Diagnostic;
pub use orrery_evaluate::training::{
    Epoch, Evaluated, Event, Forecast, Habits, Length, LossScaling, Metric, Predicted, Request, Schedule,
    Trained, Wanted, default_loss, evaluate, habits, is_checkpoint, options_of, train,
};
use orrery_ir::{Def, Weight};
pub use orrery_transform::training::{Loss, LossSpec, Optimizer, Recompute, Spec};
use std::path::Path;

/// The model with trained weights in the places of its own; what the model does not have, as moments, is left out.
///
/// # Errors
/// As [`Model::with_dims`]; `state-mismatch` where a weight has another shape.
pub fn with_weights(model: &Model, states: &[(String, Tensor)]) -> Result<Graph> {
    let mut graph = model.with_dims()?;
    for (name, tensor) in states {
        let Some((id, value)) = graph.values.iter().find(|(_, value)| &value.name == name) else { continue };
        if !matches!(value.def, Def::Constant(_)) {
            continue;
        }
        let ty = value.ty.as_tensor().and_then(|ty| Some((ty.dtype, ty.extents()?)));
        let Some((dtype, _)) = ty.filter(|(_, shape)| shape == tensor.shape()) else {
            return Diagnostic::error("state-mismatch", format!("`{name}` is of another shape in the model"))
                .err();
        };
        let tensor = orrery_numerics::cast(tensor, dtype, orrery_numerics::Rounding::NearestEven, false)
            .map_err(|error| Box::new(Diagnostic::error("state-mismatch", error.to_string())))?;
        graph.values[id].def = Def::Constant(Weight::Data(tensor));
    }
    Ok(graph)
}

/// Finds out, before a model is trained, whether [`save`] can write it.
///
/// # Errors
/// `onnx-export` where the format does not hold the model; `file-write` where the path takes no file.
pub fn check_save(model: &Model, path: &Path) -> Result<()> {
    orrery_import::onnx::to_model_proto(&model.with_dims()?, SaveOptions::default().opset)?;
    orrery_numerics::check_writable(path)
}

/// Writes the model with trained weights as an ONNX file.
///
/// # Errors
/// As [`with_weights`] and [`save_onnx`].
pub fn save(model: &Model, states: &[(String, Tensor)], path: &Path) -> Result<()> {
    save_onnx(&with_weights(model, states)?, path, &SaveOptions::default()).map(drop)
}
