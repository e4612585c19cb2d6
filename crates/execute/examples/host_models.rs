//! Writes models of the zoo as ONNX files for other runtimes to run: `host_models FOLDER`.

use orrery_base::Diagnostic;
use orrery_import::onnx::{SaveOptions, save};
use orrery_zoo::Options;
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: host_models FOLDER")?;
    std::fs::create_dir_all(&folder)?;
    let text = |d: Box<Diagnostic>| d.to_string();
    // The oldest that has `Attention`.
    let options = SaveOptions { opset: 23, ..SaveOptions::default() };
    for name in ["resnet50", "minilm", "bert-base"] {
        let graph =
            orrery_zoo::find(name).and_then(|model| model.build(&Options::default())).map_err(text)?;
        save(&graph, &Path::new(&folder).join(format!("{name}.onnx")), &options).map_err(text)?;
    }
    Ok(())
}
