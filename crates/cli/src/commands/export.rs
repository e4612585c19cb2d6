//! `orrery export`.

use crate::args::{Common, Export};
use crate::commands::outputs::{self, Kind};
use crate::commands::shared::{note, notes, open};
use crate::output::Answer;
use orrery::{Result, SaveOptions, save_onnx};
use serde_json::json;
use std::path::Path;

pub(crate) fn answer(args: &Export, common: &Common) -> Result<Answer> {
    let model = open(&args.model, &[])?;
    let read = [("the model", Path::new(&args.model.model))];
    outputs::check(&[("FILE", &args.file, Kind::Model)], &read)?;
    let said = if args.model.dims.is_empty() {
        save_onnx(model.graph()?, &args.file, &SaveOptions::default())?
    } else {
        save_onnx(&model.with_dims()?, &args.file, &SaveOptions::default())?
    };
    notes(common, &said);
    let path = args.file.display().to_string();
    note(common, &format!("{} written to {path}", model.name));
    Ok(Answer::done(String::new(), json!({ "model": model.name, "file": path })))
}
