//! A TOML table being read: every failure becomes a diagnostic with file, line and column.

use orrery_base::{Diagnostic, Result, nearest};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The text of a system file and the name it goes by in messages.
#[derive(Clone, Copy)]
pub(crate) struct File<'a> {
    pub(crate) name: &'a str,
    pub(crate) text: &'a str,
}

impl File<'_> {
    /// An error at a byte range of the file.
    pub(crate) fn error(
        &self,
        span: &Range<usize>,
        code: &'static str,
        cause: impl Into<String>,
    ) -> Diagnostic {
        let before = &self.text[..span.start.min(self.text.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Diagnostic::error(code, cause).at(format!("{}:{line}:{column}", self.name))
    }
}

/// One table of a system file.
#[derive(Clone)]
pub(crate) struct Section<'a> {
    pub(crate) file: File<'a>,
    /// Name in messages, as in `parameter.clock_hz`; empty for the file itself.
    pub(crate) path: String,
    pub(crate) span: Range<usize>,
    entries: &'a DeTable<'a>,
}

/// A value with the table it is in.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'s, 'a> {
    pub(crate) section: &'s Section<'a>,
    pub(crate) key: &'s str,
    pub(crate) value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Section<'a> {
    pub(crate) fn root(file: File<'a>, table: &'a Spanned<DeTable<'a>>) -> Self {
        Self { file, path: String::new(), span: 0..0, entries: table.get_ref() }
    }
    /// Name of a key of this table in messages.
    pub(crate) fn name_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
    /// An error about the table as a whole.
    pub(crate) fn error(&self, code: &'static str, cause: impl Into<String>) -> Diagnostic {
        self.file.error(&self.span, code, cause)
    }
    /// Refuses keys that are not in the list.
    pub(crate) fn only(&self, allowed: &[&str]) -> Result<()> {
        for (key, _) in self.entries {
            if !allowed.contains(&key.get_ref().as_ref()) {
                let what = format!("`{}` is not a key of a system file", self.name_of(key.get_ref()));
                let error = self.file.error(&key.span(), "system-unknown-key", what);
                return advise(error, key.get_ref(), allowed).err();
            }
        }
        Ok(())
    }
    /// The keys that are there, sorted.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(key, _)| key.get_ref().as_ref())
    }
    pub(crate) fn optional<'s>(&'s self, key: &'s str) -> Option<Entry<'s, 'a>> {
        self.entries.get(key).map(|value| Entry { section: self, key, value })
    }
    pub(crate) fn required<'s>(&'s self, key: &'s str) -> Result<Entry<'s, 'a>> {
        self.optional(key).ok_or_else(|| {
            let cause = format!("`{}` is missing", self.name_of(key));
            Box::new(
                self.error("system-missing-key", cause)
                    .help(format!("add `{key}`; docs/machines.md says what it is")),
            )
        })
    }
    pub(crate) fn string(&self, key: &str) -> Result<String> {
        self.required(key)?.string()
    }
    pub(crate) fn optional_string(&self, key: &str) -> Result<Option<String>> {
        self.optional(key).map(|entry| entry.string()).transpose()
    }
    /// The table of that key; an absent one reads as empty.
    pub(crate) fn table(&self, key: &str) -> Result<Option<Self>> {
        self.optional(key).map(|entry| entry.table()).transpose()
    }
    /// The tables of an array of tables; an absent one has none.
    pub(crate) fn tables(&self, key: &str) -> Result<Vec<Self>> {
        let Some(entry) = self.optional(key) else { return Ok(Vec::new()) };
        entry.array()?.into_iter().map(|item| item.table()).collect()
    }
}

impl<'s, 'a> Entry<'s, 'a> {
    /// An error about this value.
    pub(crate) fn error(&self, code: &'static str, cause: impl Into<String>) -> Diagnostic {
        self.section.file.error(&self.value.span(), code, cause)
    }
    /// Its name in messages.
    pub(crate) fn name(&self) -> String {
        self.section.name_of(self.key)
    }
    fn wrong_type<T>(&self, wanted: &str) -> Result<T> {
        let found = self.value.get_ref().type_str();
        self.error("system-type", format!("`{}` must be {wanted}, not {found}", self.name()))
            .help("docs/machines.md says what each key holds, and systems/ has examples")
            .err()
    }
    pub(crate) fn string(&self) -> Result<String> {
        match self.value.get_ref() {
            DeValue::String(text) if !text.trim().is_empty() => Ok(text.to_string()),
            DeValue::String(_) => self
                .error("system-value", format!("`{}` is empty", self.name()))
                .help("write it, or leave an optional key out")
                .err(),
            _ => self.wrong_type("a string"),
        }
    }
    pub(crate) fn boolean(&self) -> Result<bool> {
        match self.value.get_ref() {
            DeValue::Boolean(value) => Ok(*value),
            _ => self.wrong_type("true or false"),
        }
    }
    /// A finite, positive number.
    pub(crate) fn positive(&self) -> Result<f64> {
        let number = match self.value.get_ref() {
            DeValue::Float(float) => float.as_str().parse::<f64>().ok(),
            DeValue::Integer(integer) => {
                i64::from_str_radix(integer.as_str(), integer.radix()).ok().map(|n| n as f64)
            }
            _ => return self.wrong_type("a number"),
        };
        match number {
            Some(number) if number.is_finite() && number > 0.0 => Ok(number),
            _ => self
                .error("system-value", format!("`{}` must be finite and greater than zero", self.name()))
                .help("leave an optional parameter out where it does not apply; there is no zero or infinity")
                .err(),
        }
    }
    pub(crate) fn integer(&self) -> Result<u64> {
        let number = self.positive()?;
        if number.fract() == 0.0 && number <= MAX_INTEGER {
            Ok(number as u64)
        } else {
            self.error("system-value", format!("`{}` must be a whole number up to 2^53", self.name()))
                .help("counts and bytes are whole; leave out an optional one that is not known")
                .err()
        }
    }
    pub(crate) fn array(&self) -> Result<Vec<Entry<'s, 'a>>> {
        match self.value.get_ref() {
            DeValue::Array(items) => {
                Ok(items.iter().map(|value| Entry { section: self.section, key: self.key, value }).collect())
            }
            _ => self.wrong_type("an array"),
        }
    }
    pub(crate) fn table(&self) -> Result<Section<'a>> {
        match self.value.get_ref() {
            DeValue::Table(entries) => {
                Ok(Section { file: self.section.file, path: self.name(), span: self.value.span(), entries })
            }
            _ => self.wrong_type("a table"),
        }
    }
    /// One string, or an array of at least one.
    pub(crate) fn strings(&self) -> Result<Vec<String>> {
        match self.value.get_ref() {
            DeValue::String(_) => Ok(vec![self.string()?]),
            DeValue::Array(_) => self.array()?.iter().map(Entry::string).collect(),
            _ => self.wrong_type("a string or an array of strings"),
        }
    }
    /// A word of a fixed list.
    pub(crate) fn word<T>(
        &self,
        code: &'static str,
        words: &[&str],
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T> {
        let text = self.string()?;
        parse(&text).ok_or_else(|| {
            let error = self.error(code, format!("`{}` cannot be `{text}`", self.name()));
            Box::new(advise(error, &text, words))
        })
    }
}

/// Whole numbers above this are not exact in a file's floating-point reading.
pub(crate) const MAX_INTEGER: f64 = 9_007_199_254_740_992.0;

/// Adds the nearest candidate, or the list of them, as advice.
pub(crate) fn advise(error: Diagnostic, word: &str, candidates: &[&str]) -> Diagnostic {
    match nearest(word, candidates.iter().copied()) {
        Some(candidate) => error.help(format!("did you mean `{candidate}`?")),
        None if candidates.len() <= 12 => error.help(format!("use one of: {}", candidates.join(", "))),
        None => error.help("docs/machines.md lists what can stand here"),
    }
}
