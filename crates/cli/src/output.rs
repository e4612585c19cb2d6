//! What is printed, and where: data to standard output at the end, everything else to standard error.

use anstream::eprintln;
use orrery::{Diagnostic, Severity};
use serde_json::{Value, json};
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

/// Widest line.
const WIDTH: usize = 100;
/// Narrowest column that a wide table is cut down to.
const NARROWEST: usize = 12;

const RED: &str = "\u{1b}[1;31m";
const YELLOW: &str = "\u{1b}[1;33m";
const CYAN: &str = "\u{1b}[36m";
const RESET: &str = "\u{1b}[0m";

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// The input cannot be used, or cannot run.
    Input = 1,
    /// Our fault.
    Fault = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What a command answers.
pub(crate) struct Answer {
    /// For people.
    pub(crate) text: String,
    /// For programs.
    pub(crate) json: Value,
    /// Done, or an answer that is a no.
    pub(crate) exit: Exit,
}

impl Answer {
    pub(crate) fn done(text: String, json: Value) -> Self {
        Self { text, json, exit: Exit::Done }
    }
}

/// Writes to standard output; a reader who has seen enough is no error.
pub(crate) fn print(text: &str) -> Exit {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Exit::Done,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
        Err(error) => {
            eprintln!("{RED}error{RESET}: standard output cannot be written: {error}");
            Exit::Input
        }
    }
}

/// Shows a diagnostic on standard error.
pub(crate) fn report(diagnostic: &Diagnostic) {
    let (color, word) = match diagnostic.severity {
        Severity::Error => (RED, "error"),
        Severity::Warning => (YELLOW, "warning"),
        Severity::Note => (CYAN, "note"),
    };
    eprintln!("{color}{word}[{}]{RESET}: {}", diagnostic.code, diagnostic.cause);
    if !diagnostic.place.is_empty() {
        eprintln!("  at {}", diagnostic.place.join(" > "));
    }
    for line in &diagnostic.help {
        eprintln!("  {CYAN}help{RESET}: {line}");
    }
}

/// Says something on standard error.
pub(crate) fn note(text: &str) {
    eprintln!("{CYAN}note{RESET}: {text}");
}

/// A diagnostic as JSON.
pub(crate) fn diagnostic_json(diagnostic: &Diagnostic) -> Value {
    let severity = match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    };
    json!({
        "code": diagnostic.code,
        "severity": severity,
        "place": diagnostic.place,
        "cause": diagnostic.cause,
        "help": diagnostic.help,
    })
}

/// Prints what cannot be parsed as JSON.
pub(crate) fn print_usage_error(error: &clap::Error) {
    let text = error.render().to_string();
    let cause = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
    let error =
        json!({ "error": { "code": "usage", "severity": "error", "place": [], "cause": cause, "help": [] } });
    print(&format!("{error:#}\n"));
}

/// A table of columns two spaces apart: the first `left` of them are left-aligned, the others right-aligned. Where a line
/// would be too wide, the widest left-aligned column is cut short.
pub(crate) fn table(headings: &[&str], left: usize, rows: &[Vec<String>]) -> String {
    let length = |text: &str| text.chars().count();
    let mut widths: Vec<usize> = headings.iter().map(|h| length(h)).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(length(cell));
        }
    }
    let total: usize = widths.iter().map(|w| w + 2).sum::<usize>().saturating_sub(2);
    if total > WIDTH
        && let Some(widest) = (0..left.min(widths.len())).max_by_key(|i| (widths[*i], *i))
    {
        widths[widest] = widths[widest].saturating_sub(total - WIDTH).max(NARROWEST);
    }
    let mut text = String::new();
    let head: Vec<String> = headings.iter().map(|h| (*h).to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (i, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let cell = shortened(cell, *width);
            line += &if i < left { format!("{cell:<width$}  ") } else { format!("{cell:>width$}  ") };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// The text, with an ellipsis in its middle where it is longer than that.
fn shortened(text: &str, width: usize) -> String {
    let letters: Vec<char> = text.chars().collect();
    if letters.len() <= width {
        return text.to_owned();
    }
    let (head, tail) = (width / 2, width - width / 2 - 1);
    letters[..head].iter().chain(&['…']).chain(&letters[letters.len() - tail..]).collect()
}

/// Breaks a text into lines of the width of the screen, each but the first behind `indent`. The first begins as far in as
/// the text does.
pub(crate) fn wrapped(text: &str, indent: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let words = text.trim_start_matches(' ');
    let mut line = " ".repeat(text.len() - words.len());
    let first = line.clone();
    for word in words.split(' ') {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(std::mem::replace(&mut line, indent.to_owned()));
        } else if !line.is_empty() && line != indent && line != first {
            line.push(' ');
        }
        line += word;
    }
    lines.push(line);
    lines.join("\n") + "\n"
}

/// Where a measured value is to be expected, given the band of a predicted one.
pub(crate) fn expected(band: Option<(f64, f64)>, show: &dyn Fn(f64) -> String) -> String {
    band.map_or_else(|| "uncalibrated".to_owned(), |(low, high)| format!("{} to {}", show(low), show(high)))
}

/// What is said of several, once: each text with all of whom it is said, in the order in which it first is.
pub(crate) fn together<T: PartialEq>(said: impl IntoIterator<Item = (String, T)>) -> Vec<(Vec<String>, T)> {
    let mut found: Vec<(Vec<String>, T)> = Vec::new();
    for (of, text) in said {
        match found.iter_mut().find(|(_, known)| *known == text) {
            Some((all, _)) => all.push(of),
            None => found.push((vec![of], text)),
        }
    }
    found
}

/// Whether progress can be shown.
pub(crate) fn progress_is_visible(quiet: bool) -> bool {
    !quiet && io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_cut_to_the_width_of_the_screen() {
        let rows = vec![vec!["a".repeat(150), "1".to_owned()], vec!["b".to_owned(), "22".to_owned()]];
        let text = table(&["name", "n"], 1, &rows);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH));
        assert!(text.contains('…'));
        assert_eq!(table(&["a", "b"], 1, &[vec!["xy".to_owned(), "1".to_owned()]]), "a   b\nxy  1\n");
    }

    #[test]
    fn what_is_said_of_several_is_said_once() {
        let said = [("a", 1), ("b", 2), ("c", 1)].map(|(of, text)| (of.to_owned(), text));
        assert_eq!(together(said), [(vec!["a".to_owned(), "c".to_owned()], 1), (vec!["b".to_owned()], 2)]);
    }

    #[test]
    fn long_texts_are_wrapped() {
        let text = wrapped(&"word ".repeat(50), "  ");
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH));
        assert!(text.lines().skip(1).all(|line| line.starts_with("  word")));
        assert_eq!(wrapped("  one  two", "    "), "  one  two\n");
    }
}
