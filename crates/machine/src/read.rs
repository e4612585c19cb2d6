//! System file to [`System`]: strict, with a diagnostic for every mistake.

use crate::band::Band;
use crate::calibration::Calibration;
use crate::keys::{Key, ModelKind, Shape, UNITS};
use crate::parameter::{Alternative, Parameter, Status, TileShape, Value};
use crate::section::{Entry, File, Section, advise};
use crate::system::{
    Configuration, Engine, ExecutionModel, Fact, KnownError, Links, Power, Precision, PublishedColumn,
    Software, System,
};
use orrery_base::{Diagnostic, Result};
use orrery_numerics::DType;
use std::collections::BTreeMap;
use toml::de::DeTable;

/// Version of the file format this crate reads and writes.
pub const SCHEMA: u64 = 1;

/// Largest relative difference between a published peak and cores x MACs x 2 x clock.
pub const PEAK_TOLERANCE: f64 = 0.02;

/// Names of `[fact.*]`.
pub const FACTS: [&str; 8] =
    ["process", "die", "system_size", "software", "interconnect", "host_link", "topology", "sparsity"];

/// Rows of the published comparison table.
pub const TABLE_ROWS: [&str; 7] =
    ["compute_units", "on_chip_memory", "process", "system_size", "peak", "software", "interconnect"];

const PARAMETER_KEYS: [&str; 7] = ["value", "unit", "status", "source", "range", "note", "alternatives"];

impl System {
    /// Reads a system file. `file` is its name in messages.
    ///
    /// # Errors
    /// The first mistake found, with file, line, column and what to do; codes begin with `system-`.
    pub fn parse(file: &str, text: &str) -> Result<Self> {
        let file = File { name: file, text };
        let table = DeTable::parse(text).map_err(|error| {
            let cause = error.message().trim().replace('\n', "; ");
            Box::new(
                file.error(&error.span().unwrap_or(0..0), "system-syntax", cause)
                    .help("system files are TOML, see https://toml.io; a key may be given only once"),
            )
        })?;
        read_system(&Section::root(file, &table))
    }
}

fn read_system(root: &Section<'_>) -> Result<System> {
    root.only(&[
        "schema",
        "name",
        "aliases",
        "title",
        "vendor",
        "kind",
        "model",
        "default_precision",
        "parameter",
        "precision",
        "loss",
        "band",
        "calibration",
        "software",
        "configuration",
        "fact",
        "published",
        "sources",
    ])?;
    let schema = root.required("schema")?;
    if schema.integer()? != SCHEMA {
        return schema
            .error("system-schema", format!("only schema {SCHEMA} of system files is known"))
            .help("copy a built-in file of this version and carry your numbers over")
            .err();
    }
    let sources = read_sources(root)?;
    let words = ModelKind::ALL.map(ModelKind::name);
    let kind = root.required("model")?.word("system-value", &words, ModelKind::parse)?;

    let keys: Vec<&Key> = kind.parameter_keys().collect();
    let parameters = read_parameters(root, "parameter", &keys, true, &sources)?;
    let model = ExecutionModel::read(kind, &parameters);
    let loss_keys: Vec<&Key> = kind.loss_keys().iter().collect();
    let losses = read_parameters(root, "loss", &loss_keys, true, &sources)?;

    let precisions = read_precisions(root, &model, &sources)?;
    let default = root.required("default_precision")?;
    let names: Vec<&str> = precisions.iter().map(|p| p.name.as_str()).collect();
    let default_precision =
        default.word("system-precision", &names, |text| names.contains(&text).then(|| text.to_owned()))?;

    Ok(System {
        name: read_name(root)?,
        aliases: read_names(root, "aliases")?,
        title: root.string("title")?,
        vendor: root.string("vendor")?,
        kind: root.string("kind")?,
        links: Links::read(&parameters),
        power: Power::read(&parameters),
        model,
        precisions,
        default_precision,
        software: read_software(root, &loss_keys, &sources)?,
        configurations: read_configurations(root, &keys, &sources)?,
        losses,
        bands: Band::read_all(root)?,
        calibration: Calibration::read(root)?,
        parameters,
        facts: read_facts(root, &sources)?,
        published: read_published(root, &sources)?,
        sources,
    })
}

/// A name without spaces, so that it can be typed and put into lists.
fn read_name(section: &Section<'_>) -> Result<String> {
    check_name(&section.required("name")?)
}

fn read_names(section: &Section<'_>, key: &str) -> Result<Vec<String>> {
    match section.optional(key) {
        Some(entry) => entry.array()?.iter().map(check_name).collect(),
        None => Ok(Vec::new()),
    }
}

fn check_name(entry: &Entry<'_, '_>) -> Result<String> {
    let name = entry.string()?;
    if name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c)) {
        Ok(name)
    } else {
        entry
            .error("system-name", format!("`{name}` cannot be a name"))
            .help("use lower-case letters, digits, `-`, `_` and `.`")
            .err()
    }
}

fn read_sources(root: &Section<'_>) -> Result<BTreeMap<String, String>> {
    let Some(section) = root.table("sources")? else {
        return root
            .error("system-missing-key", "`sources` is missing")
            .help("add a table [sources] that gives each source a short key")
            .err();
    };
    section.keys().map(|key| Ok((key.to_owned(), section.string(key)?))).collect()
}

/// The keys of sources, each of which must be declared.
fn read_source(section: &Section<'_>, sources: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let entry = section.required("source")?;
    let keys = entry.strings()?;
    if keys.is_empty() {
        return entry
            .error("system-source", format!("`{}` names no source", entry.name()))
            .help("every number says where it is from; for your own guess use status \"assumed\" and a source that says so")
            .err();
    }
    for key in &keys {
        if !sources.contains_key(key) {
            let known: Vec<&str> = sources.keys().map(String::as_str).collect();
            let error = entry.error("system-source", format!("`{key}` is not declared in [sources]"));
            return advise(error.help("add it to [sources] at the end of the file"), key, &known).err();
        }
    }
    Ok(keys)
}

fn read_status(section: &Section<'_>) -> Result<Status> {
    section.required("status")?.word("system-status", &Status::ALL.map(Status::name), Status::parse)
}

fn read_parameters(
    outer: &Section<'_>,
    table: &str,
    keys: &[&Key],
    complete: bool,
    sources: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, Parameter>> {
    let Some(section) = outer.table(table)? else {
        return if complete { missing(outer, table, keys) } else { Ok(BTreeMap::new()) };
    };
    let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
    section.only(&names).map_err(|error| foreign_key(&section, &names, *error))?;
    let mut parameters = BTreeMap::new();
    for key in keys {
        match section.table(key.name)? {
            Some(entry) => {
                parameters.insert(key.name.to_owned(), read_parameter(&entry, key, sources)?);
            }
            None if complete && key.required => return missing(outer, table, &[key]),
            None => {}
        }
    }
    Ok(parameters)
}

/// A key of another execution model gets told so instead of a list of all keys.
fn foreign_key(section: &Section<'_>, names: &[&str], mut error: Diagnostic) -> Box<Diagnostic> {
    let unknown = section.keys().find(|key| !names.contains(key)).unwrap_or_default();
    let owner = ModelKind::ALL
        .into_iter()
        .find(|kind| kind.parameter_keys().chain(kind.loss_keys()).any(|key| key.name == unknown));
    if let Some(owner) = owner {
        error.help =
            vec![format!("`{unknown}` belongs to machines of the model \"{}\"; remove it", owner.name())];
    }
    Box::new(error)
}

fn missing<T>(outer: &Section<'_>, table: &str, keys: &[&Key]) -> Result<T> {
    let key = keys.iter().find(|key| key.required).unwrap_or(&keys[0]);
    let name = format!("{}.{}", outer.name_of(table), key.name);
    outer
        .error("system-missing-key", format!("`{name}` is missing: {}", meaning(key)))
        .help(format!("add [{name}] with value, unit = \"{}\", status and source", key.unit))
        .help("where nobody publishes it, use status \"assumed\" and say in the note what it rests on")
        .err()
}

/// The meaning of a key within a sentence.
fn meaning(key: &Key) -> &'static str {
    key.meaning.trim().trim_end_matches('.')
}

fn read_parameter(section: &Section<'_>, key: &Key, sources: &BTreeMap<String, String>) -> Result<Parameter> {
    section.only(&PARAMETER_KEYS)?;
    let value = section.required("value")?;
    let unit = read_unit(section, key)?;
    let value = match key.shape {
        Shape::Number => Value::Number(bounded(&value, key)?),
        Shape::Integer => Value::Number(value.integer()? as f64),
        Shape::TileShapes => Value::Shapes(read_shapes(&value)?),
    };
    let status = read_status(section)?;
    let note = section.optional_string("note")?;
    if note.is_none()
        && matches!(status, Status::Derived | Status::Fitted | Status::Assumed | Status::Calibrated)
    {
        return section
            .error("system-note", format!("`{}` has status \"{status}\" and no note", section.path))
            .help(status.meaning())
            .err();
    }
    let alternatives = match section.optional("alternatives") {
        Some(entry) => entry
            .array()?
            .iter()
            .map(|item| read_alternative(&item.table()?, key, sources))
            .collect::<Result<Vec<Alternative>>>()?,
        None => Vec::new(),
    };
    let range = section.optional("range").map(|entry| read_range(&entry, key, &value)).transpose()?;
    Ok(Parameter { value, unit, status, sources: read_source(section, sources)?, range, note, alternatives })
}

fn read_unit(section: &Section<'_>, key: &Key) -> Result<String> {
    let entry = section.required("unit")?;
    let unit = entry.string()?;
    if unit == key.unit {
        return Ok(unit);
    }
    let error = entry
        .error("system-unit", format!("the unit of `{}` is {}, not {unit}", section.path, key.unit))
        .help(format!("convert the value and write unit = \"{}\"", key.unit));
    if UNITS.contains(&unit.as_str()) {
        error.err()
    } else {
        error.help("system files have base units only, without k, M or G").err()
    }
}

fn bounded(entry: &Entry<'_, '_>, key: &Key) -> Result<f64> {
    let number = entry.positive()?;
    if key.unit == "ratio" && number > 1.0 {
        return entry
            .error("system-value", format!("`{}` is a ratio and cannot exceed 1", entry.section.path))
            .help("write 87 % as 0.87")
            .err();
    }
    Ok(number)
}

fn read_range(entry: &Entry<'_, '_>, key: &Key, value: &Value) -> Result<(f64, f64)> {
    let items = entry.array()?;
    let [low, high] = items.as_slice() else {
        return entry
            .error("system-value", format!("`{}` must have two numbers, lowest and highest", entry.name()))
            .help("leave the range out where the source gives one value")
            .err();
    };
    let (low, high) = (bounded(low, key)?, bounded(high, key)?);
    let inside = matches!(value, Value::Number(number) if (low..=high).contains(number));
    if inside {
        Ok((low, high))
    } else {
        entry
            .error("system-value", format!("the value is not within `{}`", entry.name()))
            .help("the range holds the lowest and the highest value that the source gives")
            .err()
    }
}

fn read_shapes(entry: &Entry<'_, '_>) -> Result<Vec<TileShape>> {
    let items = entry.array()?;
    if items.is_empty() {
        return entry
            .error("system-value", format!("`{}` needs at least one shape", entry.name()))
            .help("write [[128, 128, 32]] for one tile of 128 by 128 outputs in steps of 32")
            .err();
    }
    items
        .iter()
        .map(|item| match item.array()?.as_slice() {
            [m, n, k] => Ok(TileShape { m: m.integer()?, n: n.integer()?, k: k.integer()? }),
            _ => item
                .error("system-value", "a tile shape is three whole numbers: m, n, k")
                .help("write [128, 128, 32] for a tile of 128 by 128 outputs in steps of 32")
                .err(),
        })
        .collect()
}

fn read_alternative(
    section: &Section<'_>,
    key: &Key,
    sources: &BTreeMap<String, String>,
) -> Result<Alternative> {
    section.only(&["value", "status", "source", "note"])?;
    Ok(Alternative {
        value: bounded(&section.required("value")?, key)?,
        status: read_status(section)?,
        sources: read_source(section, sources)?,
        note: section.optional_string("note")?,
    })
}

/// The numbers of a precision, read like parameters.
pub(crate) const PRECISION_KEYS: [Key; 3] = [
    Key {
        name: "mac_per_cycle",
        unit: "MAC/cycle",
        shape: Shape::Number,
        required: true,
        meaning: " Multiply-accumulates of one core (SM, tile or PCU).",
    },
    Key {
        name: "peak",
        unit: "FLOP/s",
        shape: Shape::Number,
        required: true,
        meaning: " Dense peak of one chip, a MAC counted as two; integer operations alike.",
    },
    Key {
        name: "sustained_fraction",
        unit: "ratio",
        shape: Shape::Number,
        required: false,
        meaning: " Part of the peak that long runs of large products attain, where the limit of power lowers the clock (kernel by kernel machines).",
    },
];

fn read_precisions(
    root: &Section<'_>,
    model: &ExecutionModel,
    sources: &BTreeMap<String, String>,
) -> Result<Vec<Precision>> {
    let tables = root.tables("precision")?;
    if tables.is_empty() {
        return root
            .error(
                "system-missing-key",
                "`precision` is missing: the number formats the machine multiplies in",
            )
            .help("add at least one [[precision]]")
            .err();
    }
    let mut precisions: Vec<Precision> = Vec::new();
    for section in &tables {
        let precision = read_precision(section, sources)?;
        let names = std::iter::once(&precision.name).chain(&precision.aliases);
        for name in names {
            if precisions.iter().any(|other| &other.name == name || other.aliases.contains(name)) {
                let cause = format!("two precisions are called `{name}`");
                return section
                    .error("system-precision", cause)
                    .help("give each its own name and aliases")
                    .err();
            }
        }
        check_peak(section, &precision, model)?;
        precisions.push(precision);
    }
    Ok(precisions)
}

fn read_precision(section: &Section<'_>, sources: &BTreeMap<String, String>) -> Result<Precision> {
    section.only(&[
        "name",
        "aliases",
        "storage",
        "multiply",
        "accumulate",
        "engine",
        "stochastic_rounding",
        "note",
        "peak_differs",
        "mac_per_cycle",
        "peak",
        "sustained_fraction",
    ])?;
    let types = DType::ALL.map(DType::name);
    let formats: Vec<&str> = types.iter().copied().chain(["tf32"]).collect();
    let dtype = |key| section.required(key)?.word("system-precision", &types, DType::parse);
    let number = |key: &Key| {
        let entry = section.required(key.name)?.table()?;
        read_parameter(&entry, key, sources)
    };
    Ok(Precision {
        name: read_name(section)?,
        aliases: read_names(section, "aliases")?,
        storage: dtype("storage")?,
        multiply: section
            .required("multiply")?
            .word("system-precision", &formats, |text| formats.contains(&text).then(|| text.to_owned()))?,
        accumulate: dtype("accumulate")?,
        engine: section.required("engine")?.word("system-value", &Engine::ALL.map(Engine::name), |text| {
            Engine::ALL.into_iter().find(|engine| engine.name() == text)
        })?,
        mac_per_cycle: number(&PRECISION_KEYS[0])?,
        peak: number(&PRECISION_KEYS[1])?,
        sustained: match section.optional(PRECISION_KEYS[2].name) {
            Some(_) => Some(number(&PRECISION_KEYS[2])?),
            None => None,
        },
        stochastic_rounding: section.required("stochastic_rounding")?.boolean()?,
        peak_differs: section.optional_string("peak_differs")?,
        note: section.optional_string("note")?,
    })
}

fn check_peak(section: &Section<'_>, precision: &Precision, model: &ExecutionModel) -> Result<()> {
    let computed = precision.computed_peak(model);
    let difference = (precision.peak_flops() / computed - 1.0).abs();
    if difference <= PEAK_TOLERANCE || precision.peak_differs.is_some() {
        return Ok(());
    }
    let cause = format!(
        "the peak of {} is {:.4e} FLOP/s, but {} cores x {} MACs x 2 x {:.4e} Hz are {computed:.4e}",
        precision.name,
        precision.peak_flops(),
        model.cores(),
        precision.macs(),
        model.clock_hz(),
    );
    section
        .error("system-peak", cause)
        .help("check mac_per_cycle, the clock and the peak; sparse peaks do not count")
        .help("if both are right, say why in peak_differs = \"...\"")
        .err()
}

fn read_software(
    root: &Section<'_>,
    keys: &[&Key],
    sources: &BTreeMap<String, String>,
) -> Result<Vec<Software>> {
    let mut stacks: Vec<Software> = Vec::new();
    for section in root.tables("software")? {
        section.only(&["name", "title", "fuses", "graph_launch", "trains", "resident", "note", "loss"])?;
        let stack = Software {
            name: read_name(&section)?,
            title: section.string("title")?,
            fuses: section.required("fuses")?.boolean()?,
            graph_launch: section.required("graph_launch")?.boolean()?,
            trains: section.optional("trains").map(|entry| entry.boolean()).transpose()?.unwrap_or(true),
            resident: section.optional("resident").map(|entry| entry.boolean()).transpose()?,
            note: section.optional_string("note")?,
            losses: read_parameters(&section, "loss", keys, false, sources)?,
        };
        if stacks.iter().any(|other| other.name == stack.name) {
            let cause = format!("two software stacks are called `{}`", stack.name);
            return section.error("system-name", cause).help("give each its own name").err();
        }
        stacks.push(stack);
    }
    Ok(stacks)
}

fn read_configurations(
    root: &Section<'_>,
    keys: &[&Key],
    sources: &BTreeMap<String, String>,
) -> Result<Vec<Configuration>> {
    let mut configurations: Vec<Configuration> = Vec::new();
    for section in root.tables("configuration")? {
        section.only(&["name", "aliases", "title", "parameter"])?;
        let configuration = Configuration {
            name: read_name(&section)?,
            aliases: read_names(&section, "aliases")?,
            title: section.string("title")?,
            parameters: read_parameters(&section, "parameter", keys, false, sources)?,
        };
        if configurations.iter().any(|other| other.name == configuration.name) {
            let cause = format!("two configurations are called `{}`", configuration.name);
            return section.error("system-name", cause).help("give each its own name").err();
        }
        configurations.push(configuration);
    }
    Ok(configurations)
}

fn read_facts(root: &Section<'_>, sources: &BTreeMap<String, String>) -> Result<BTreeMap<String, Fact>> {
    let Some(section) = root.table("fact")? else { return Ok(BTreeMap::new()) };
    section.only(&FACTS)?;
    let mut facts = BTreeMap::new();
    for name in FACTS {
        if let Some(fact) = section.table(name)? {
            fact.only(&["value", "status", "source", "note"])?;
            let read = Fact {
                value: fact.string("value")?,
                status: read_status(&fact)?,
                sources: read_source(&fact, sources)?,
                note: fact.optional_string("note")?,
            };
            facts.insert(name.to_owned(), read);
        }
    }
    Ok(facts)
}

fn read_published(root: &Section<'_>, sources: &BTreeMap<String, String>) -> Result<Option<PublishedColumn>> {
    let Some(section) = root.table("published")? else { return Ok(None) };
    section.only(&["heading", "source", "cells", "known_error"])?;
    let mut cells = BTreeMap::new();
    if let Some(table) = section.table("cells")? {
        table.only(&TABLE_ROWS)?;
        for row in TABLE_ROWS {
            if let Some(cell) = table.optional_string(row)? {
                cells.insert(row.to_owned(), cell);
            }
        }
    }
    let mut known_errors = Vec::new();
    for error in section.tables("known_error")? {
        error.only(&["row", "printed", "right"])?;
        let row = error.required("row")?;
        let name = row
            .word("system-value", &TABLE_ROWS, |text| TABLE_ROWS.contains(&text).then(|| text.to_owned()))?;
        let printed = error.string("printed")?;
        if !cells.get(&name).is_some_and(|cell: &String| cell.contains(&printed)) {
            return row
                .error("system-value", format!("the cell `{name}` does not say `{printed}`"))
                .help("quote the part of published.cells that is wrong")
                .err();
        }
        known_errors.push(KnownError { row: name, printed, right: error.string("right")? });
    }
    Ok(Some(PublishedColumn {
        heading: section.string("heading")?,
        sources: read_source(&section, sources)?,
        cells,
        known_errors,
    }))
}

/// The diagnostic for a name that no entry of a list has.
pub(crate) fn not_found(code: &'static str, what: &str, name: &str, known: &[&str]) -> Diagnostic {
    advise(Diagnostic::error(code, format!("there is no {what} called `{name}`")), name, known)
}
