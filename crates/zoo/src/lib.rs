//! Benchmark models as graph builders.
//!
//! The networks that AI testbeds are measured with, built to the dimensions that their sources publish, with seeded
//! weights: no file and no download. Each model has an entry in [`registry`]; to add one, write its builder in the module
//! of its family and put an entry there.
//!
//! Batch and sequence lengths are symbols, so that one graph serves all of them; an entry says which values its symbols
//! have where the user binds none. Everything else that can be chosen is an option `key=value`. Weights are drawn so that
//! activations stay within the range of 16-bit floats.

mod bert;
mod braggnn;
mod decoder;
mod gpt;
mod layers;
mod llama;
mod mnist;
mod options;
mod primitives;
mod resnet;
mod unet;
mod unet3d;
mod uno;
mod vit;

pub use options::{Options, Parameter, Settings};

use orrery_base::{Diagnostic, Result};
use orrery_ir::{Bindings, Graph};
use std::sync::LazyLock;

/// A model of the zoo.
#[derive(Clone, Copy)]
pub struct ZooModel {
    /// Name.
    pub name: &'static str,
    /// Other names it is known by.
    pub aliases: &'static [&'static str],
    /// What it is, in a line.
    pub summary: &'static str,
    /// Where its dimensions are from.
    pub source: &'static str,
    /// Its symbols, with the values they have where the user binds none.
    pub bindings: &'static [(&'static str, i64)],
    /// What can be chosen.
    pub parameters: &'static [Parameter],
    make: fn(&Settings<'_>) -> Result<Graph>,
}

impl ZooModel {
    /// Builds the graph.
    ///
    /// # Errors
    /// `zoo-option` where an option is unknown or its value cannot be used.
    pub fn build(&self, options: &Options) -> Result<Graph> {
        (self.make)(&Settings::new(self, options)?)
    }
    /// The default values of those symbols that `graph`, built by this model, has.
    pub fn default_bindings(&self, graph: &Graph) -> Bindings {
        let shapes = graph.inputs.iter().filter_map(|id| graph.values[*id].ty.as_tensor()?.shape.as_ref());
        let symbols: std::collections::BTreeSet<String> =
            shapes.flatten().flat_map(orrery_ir::Dim::symbols).collect();
        let all = self.bindings.iter().filter(|(name, _)| symbols.contains(*name));
        all.map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }
}

/// All models, in the order in which they are shown.
pub fn registry() -> &'static [ZooModel] {
    static ALL: LazyLock<Vec<ZooModel>> = LazyLock::new(|| {
        let families: &[&[ZooModel]] = &[
            &[braggnn::BRAGGNN, resnet::RESNET50, unet::UNET2D, unet::UNET2D_MEDICAL],
            &[mnist::MNIST_CNN, unet3d::UNET3D, uno::UNO, uno::UNO_ALL, vit::VIT_B16],
            &[bert::BERT_LARGE, bert::BERT_BASE, bert::BERT_TINY, bert::MINILM],
            &[bert::ROBERTA_LARGE],
            gpt::MODELS,
            llama::MODELS,
            &[primitives::GEMM, primitives::CONV2D, primitives::RELU, primitives::LSTM],
        ];
        families.concat()
    });
    &ALL
}

/// The model of that name or alias.
///
/// # Errors
/// `zoo-unknown-model`, with the names there are.
pub fn find(name: &str) -> Result<&'static ZooModel> {
    let found = registry().iter().find(|model| model.name == name || model.aliases.contains(&name));
    found.ok_or_else(|| {
        let names: Vec<&str> = registry().iter().map(|model| model.name).collect();
        Diagnostic::error("zoo-unknown-model", format!("there is no model named `{name}`"))
            .help(format!("models: {}", names.join(", ")))
            .into()
    })
}
