//! What went wrong, where in the user's terms, why, and what to do.

use std::fmt;

/// The result of anything that can be wrong because of what the user gave.
pub type Result<T, E = Box<Diagnostic>> = std::result::Result<T, E>;

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// For information; nothing is wrong.
    Note,
    /// The result stands, but the user should know.
    Warning,
    /// There is no result.
    Error,
}

/// One message to the user. Codes are stable and documented in `docs/diagnostics.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stable code such as `onnx-truncated`: lower case, words joined by `-`, area first.
    pub code: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// The user's own place: file, node or layer name, line; outermost first.
    pub place: Vec<String>,
    /// What is wrong and why, in one or two sentences without a full stop at the end.
    pub cause: String,
    /// What the user can do, one line each.
    pub help: Vec<String>,
}

impl Diagnostic {
    /// An error with a code and a cause.
    pub fn error(code: &'static str, cause: impl Into<String>) -> Self {
        Self { code, severity: Severity::Error, place: Vec::new(), cause: cause.into(), help: Vec::new() }
    }
    /// A warning with a code and a cause.
    pub fn warning(code: &'static str, cause: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, cause) }
    }
    /// A note with a code and a cause.
    pub fn note(code: &'static str, cause: impl Into<String>) -> Self {
        Self { severity: Severity::Note, ..Self::error(code, cause) }
    }
    /// Adds an outer place: the caller knows more of where this is.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.place.insert(0, place.into());
        self
    }
    /// Adds a line of advice.
    #[must_use]
    pub fn help(mut self, line: impl Into<String>) -> Self {
        self.help.push(line.into());
        self
    }
    /// Boxes as an error result.
    ///
    /// # Errors
    /// Always: this is the short way to return the diagnostic.
    pub fn err<T>(self) -> Result<T> {
        Err(Box::new(self))
    }
}

/// Adds an outer place to a failed result.
pub trait Context<T> {
    /// Adds `place()` in front of the diagnostic's place.
    ///
    /// # Errors
    /// The same error, with the place added.
    fn at(self, place: impl FnOnce() -> String) -> Result<T>;
}
impl<T> Context<T> for Result<T> {
    fn at(self, place: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|d| Box::new(d.at(place())))
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{severity}[{}]: {}", self.code, self.cause)?;
        if !self.place.is_empty() {
            write!(f, "\n  at {}", self.place.join(" > "))?;
        }
        for line in &self.help {
            write!(f, "\n  help: {line}")?;
        }
        Ok(())
    }
}
impl std::error::Error for Diagnostic {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_code_place_cause_and_help() {
        let failed: Result<()> =
            Diagnostic::error("onnx-truncated", "the file ends in node 3").help("export it again").err();
        let message = failed.at(|| "model.onnx".into()).unwrap_err().to_string();
        assert_eq!(
            message,
            "error[onnx-truncated]: the file ends in node 3\n  at model.onnx\n  help: export it again"
        );
    }
}
