//! Options of models: `key=value`.

use crate::ZooModel;
use orrery_base::{Diagnostic, Result};
use orrery_numerics::DType;
use std::collections::BTreeMap;

/// Something about a model that can be chosen.
pub struct Parameter {
    /// Name.
    pub name: &'static str,
    /// Value where the user gives none; empty where it follows from another parameter.
    pub default: &'static str,
    /// What it says and which values it takes.
    pub doc: &'static str,
}

/// Seed of the weights, a parameter of every model that has weights.
pub(crate) const SEED: Parameter = Parameter { name: "seed", default: "1", doc: "seed of the weights" };
/// Element type, a parameter of the primitives.
pub(crate) const DTYPE: Parameter =
    Parameter { name: "dtype", default: "f32", doc: "element type of operands and result: a float type" };

/// What the user chose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(BTreeMap<String, String>);

impl Options {
    /// From `key=value` texts.
    ///
    /// # Errors
    /// `zoo-option` where one has no `=` or its key is there already.
    pub fn parse<'a>(pairs: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut options = Self::default();
        for pair in pairs {
            let Some((key, value)) = pair.split_once('=') else {
                return Diagnostic::error("zoo-option", format!("`{pair}` is no option"))
                    .help("options are written key=value")
                    .err();
            };
            if options.0.insert(key.trim().to_owned(), value.trim().to_owned()).is_some() {
                return Diagnostic::error("zoo-option", format!("the option `{key}` is given twice")).err();
            }
        }
        Ok(options)
    }
    /// With one more.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.0.insert(key.to_owned(), value.to_owned());
        self
    }
}

/// The options of one model, defaults filled in.
pub struct Settings<'a> {
    model: &'a ZooModel,
    options: &'a Options,
}

impl<'a> Settings<'a> {
    pub(crate) fn new(model: &'a ZooModel, options: &'a Options) -> Result<Self> {
        match options.0.keys().find(|key| !model.parameters.iter().any(|p| p.name == *key)) {
            None => Ok(Self { model, options }),
            Some(stray) => {
                let names: Vec<&str> = model.parameters.iter().map(|p| p.name).collect();
                Diagnostic::error("zoo-option", format!("`{}` has no option `{stray}`", model.name))
                    .help(format!("its options: {}", names.join(", ")))
                    .err()
            }
        }
    }
    /// Name of the model.
    pub(crate) fn model(&self) -> &'static str {
        self.model.name
    }
    /// The value of a parameter as text; empty where it follows from another one.
    fn text(&self, name: &str) -> &str {
        let default = || self.model.parameters.iter().find(|p| p.name == name).map_or("", |p| p.default);
        self.options.0.get(name).map_or_else(default, String::as_str)
    }
    /// That the value of a parameter cannot be used.
    pub(crate) fn refuse<T>(&self, name: &str, takes: &str) -> Result<T> {
        let cause = format!("the option `{name}` of `{}` cannot be `{}`", self.model.name, self.text(name));
        Diagnostic::error("zoo-option", cause).help(format!("it takes {takes}")).err()
    }
    /// One of several words.
    pub(crate) fn choice(&self, name: &str, choices: &[&'static str]) -> Result<&'static str> {
        match choices.iter().find(|choice| **choice == self.text(name)) {
            Some(choice) => Ok(choice),
            None => self.refuse(name, &choices.join(", ")),
        }
    }
    /// An integer within `least` and `most`, or `otherwise` where neither user nor entry give one.
    pub(crate) fn integer(&self, name: &str, least: i64, most: i64, otherwise: i64) -> Result<i64> {
        match self.text(name) {
            "" => Ok(otherwise),
            text => match text.parse() {
                Ok(value) if (least..=most).contains(&value) => Ok(value),
                _ => self.refuse(name, &format!("an integer from {least} to {most}")),
            },
        }
    }
    /// An extent that is a multiple of `of`, up to a million.
    pub(crate) fn multiple(&self, name: &str, of: i64) -> Result<i64> {
        match self.integer(name, of, 1_000_000, of)? {
            value if value % of == 0 => Ok(value),
            _ => self.refuse(name, &format!("a multiple of {of}")),
        }
    }
    /// An extent: from 1 to a million.
    pub(crate) fn extent(&self, name: &str, otherwise: i64) -> Result<i64> {
        self.integer(name, 1, 1_000_000, otherwise)
    }
    /// The seed of the weights.
    pub(crate) fn seed(&self) -> Result<u64> {
        self.integer("seed", 0, i64::MAX, 1).map(i64::unsigned_abs)
    }
    /// The element type.
    pub(crate) fn dtype(&self) -> Result<DType> {
        match DType::parse(self.text("dtype")) {
            Some(dtype) if dtype.is_float() => Ok(dtype),
            _ => {
                let floats: Vec<&str> =
                    DType::ALL.into_iter().filter(|t| t.is_float()).map(DType::name).collect();
                self.refuse("dtype", &floats.join(", "))
            }
        }
    }
}
