//! [`System`] back to the text of a system file.

use crate::parameter::{Alternative, Parameter, Value};
use crate::read::SCHEMA;
use crate::system::System;
use std::fmt::{Display, Formatter, Result, Write};

/// Prints the system file: the same keys that are read, parameters in the order of `docs/machines.md`.
impl Display for System {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        writeln!(f, "schema = {SCHEMA}")?;
        for (key, value) in
            [("name", &self.name), ("title", &self.title), ("vendor", &self.vendor), ("kind", &self.kind)]
        {
            writeln!(f, "{key} = {}", text(value))?;
        }
        writeln!(f, "aliases = {}", texts(&self.aliases))?;
        writeln!(f, "model = {}", text(self.model.kind().name()))?;
        writeln!(f, "default_precision = {}", text(&self.default_precision))?;
        for key in self.model.kind().parameter_keys() {
            if let Some(parameter) = self.parameters.get(key.name) {
                section(f, &format!("parameter.{}", key.name), parameter)?;
            }
        }
        for precision in &self.precisions {
            writeln!(f, "\n[[precision]]")?;
            writeln!(f, "name = {}", text(&precision.name))?;
            writeln!(f, "aliases = {}", texts(&precision.aliases))?;
            writeln!(f, "storage = {}", text(precision.storage.name()))?;
            writeln!(f, "multiply = {}", text(&precision.multiply))?;
            writeln!(f, "accumulate = {}", text(precision.accumulate.name()))?;
            writeln!(f, "engine = {}", text(precision.engine.name()))?;
            writeln!(f, "stochastic_rounding = {}", precision.stochastic_rounding)?;
            optional(f, "note", precision.note.as_deref())?;
            optional(f, "peak_differs", precision.peak_differs.as_deref())?;
            section(f, "precision.mac_per_cycle", &precision.mac_per_cycle)?;
            section(f, "precision.peak", &precision.peak)?;
            if let Some(sustained) = &precision.sustained {
                section(f, "precision.sustained_fraction", sustained)?;
            }
        }
        for key in self.model.kind().loss_keys() {
            if let Some(parameter) = self.losses.get(key.name) {
                section(f, &format!("loss.{}", key.name), parameter)?;
            }
        }
        for band in &self.bands {
            writeln!(f, "\n[[band]]")?;
            writeln!(f, "kind = {}", text(&band.kind))?;
            for (key, value) in [("low", band.low), ("high", band.high), ("median_error", band.median_error)]
            {
                writeln!(f, "{key} = {}", number(value))?;
            }
            writeln!(f, "rows = {}\ngroups = {}", band.rows, band.groups)?;
        }
        if let Some(calibration) = &self.calibration {
            writeln!(
                f,
                "\n[calibration]\nfile = {}\nrows = {}",
                text(&calibration.file),
                texts(&calibration.rows)
            )?;
        }
        for stack in &self.software {
            writeln!(f, "\n[[software]]")?;
            writeln!(f, "name = {}", text(&stack.name))?;
            writeln!(f, "title = {}", text(&stack.title))?;
            writeln!(f, "fuses = {}", stack.fuses)?;
            writeln!(f, "graph_launch = {}", stack.graph_launch)?;
            if !stack.trains {
                writeln!(f, "trains = false")?;
            }
            if let Some(resident) = stack.resident {
                writeln!(f, "resident = {resident}")?;
            }
            optional(f, "note", stack.note.as_deref())?;
            for (key, parameter) in &stack.losses {
                section(f, &format!("software.loss.{key}"), parameter)?;
            }
        }
        for configuration in &self.configurations {
            writeln!(f, "\n[[configuration]]")?;
            writeln!(f, "name = {}", text(&configuration.name))?;
            writeln!(f, "aliases = {}", texts(&configuration.aliases))?;
            writeln!(f, "title = {}", text(&configuration.title))?;
            for (key, parameter) in &configuration.parameters {
                section(f, &format!("configuration.parameter.{key}"), parameter)?;
            }
        }
        for (name, fact) in &self.facts {
            writeln!(f, "\n[fact.{name}]")?;
            writeln!(f, "value = {}", text(&fact.value))?;
            writeln!(f, "status = {}", text(fact.status.name()))?;
            writeln!(f, "source = {}", texts(&fact.sources))?;
            optional(f, "note", fact.note.as_deref())?;
        }
        if let Some(published) = &self.published {
            writeln!(f, "\n[published]")?;
            writeln!(f, "heading = {}", text(&published.heading))?;
            writeln!(f, "source = {}", texts(&published.sources))?;
            writeln!(f, "\n[published.cells]")?;
            for (row, cell) in &published.cells {
                writeln!(f, "{row} = {}", text(cell))?;
            }
            for error in &published.known_errors {
                writeln!(f, "\n[[published.known_error]]")?;
                writeln!(f, "row = {}", text(&error.row))?;
                writeln!(f, "printed = {}", text(&error.printed))?;
                writeln!(f, "right = {}", text(&error.right))?;
            }
        }
        writeln!(f, "\n[sources]")?;
        for (key, source) in &self.sources {
            writeln!(f, "{} = {}", text(key), text(source))?;
        }
        Ok(())
    }
}

fn section(f: &mut Formatter<'_>, name: &str, parameter: &Parameter) -> Result {
    writeln!(f, "\n[{name}]")?;
    writeln!(f, "value = {}", value(&parameter.value))?;
    writeln!(f, "unit = {}", text(&parameter.unit))?;
    writeln!(f, "status = {}", text(parameter.status.name()))?;
    writeln!(f, "source = {}", texts(&parameter.sources))?;
    if let Some((low, high)) = parameter.range {
        writeln!(f, "range = [{}, {}]", number(low), number(high))?;
    }
    optional(f, "note", parameter.note.as_deref())?;
    if !parameter.alternatives.is_empty() {
        writeln!(f, "alternatives = [")?;
        for other in &parameter.alternatives {
            writeln!(f, "  {},", alternative(other))?;
        }
        writeln!(f, "]")?;
    }
    Ok(())
}

fn alternative(other: &Alternative) -> String {
    let note = other.note.as_ref().map(|note| format!(", note = {}", text(note))).unwrap_or_default();
    format!(
        "{{ value = {}, status = {}, source = {}{note} }}",
        number(other.value),
        text(other.status.name()),
        texts(&other.sources)
    )
}

fn optional(f: &mut Formatter<'_>, key: &str, value: Option<&str>) -> Result {
    value.map_or(Ok(()), |value| writeln!(f, "{key} = {}", text(value)))
}

fn value(value: &Value) -> String {
    match value {
        Value::Number(value) => number(*value),
        Value::Shapes(shapes) => {
            let shapes: Vec<String> = shapes.iter().map(|s| format!("[{}, {}, {}]", s.m, s.n, s.k)).collect();
            format!("[{}]", shapes.join(", "))
        }
    }
}

/// The shortest text that reads back as the same number.
fn number(number: f64) -> String {
    if number.fract() == 0.0 && number < 1e6 {
        format!("{number:.0}")
    } else if (1e-3..1e6).contains(&number) {
        format!("{number}")
    } else {
        format!("{number:e}")
    }
}

fn text(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => write!(quoted, "\\u{:04x}", u32::from(c)).expect("writing to a string"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn texts(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| text(item)).collect();
    format!("[{}]", items.join(", "))
}
