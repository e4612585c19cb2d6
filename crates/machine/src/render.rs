//! What is shown of a machine: the row of the comparison table, and the reference of all keys.

use crate::keys::{Key, ModelKind, Shape, UNITS};
use crate::parameter::Status;
use crate::read::{FACTS, PRECISION_KEYS, TABLE_ROWS};
use crate::registry::registry;
use crate::system::{ExecutionModel, Links, Power, Precision, System};
use orrery_base::units::{show_bytes, show_si};
use orrery_numerics::DType;
use std::fmt::Write;

/// One machine in the comparison table that users of the testbed know; every cell follows from the machine's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SummaryRow {
    /// Name for the command line.
    pub name: String,
    /// Name for people.
    pub title: String,
    /// Processors of one chip.
    pub compute_units: String,
    /// Memory of one chip, and beside it.
    pub memory: String,
    /// Manufacturing process.
    pub process: String,
    /// Installation.
    pub system_size: String,
    /// Dense peak of one card by precision.
    pub peak: String,
    /// Software stacks.
    pub software: String,
    /// Links between chips.
    pub interconnect: String,
}

impl SummaryRow {
    /// Headings of the cells, `name` and `title` among them.
    pub const HEADINGS: [&str; 9] = [
        "Name",
        "Machine",
        "Compute units",
        "On-chip memory",
        "Process",
        "System size",
        "Estimated performance of a card",
        "Software stack",
        "Interconnect",
    ];
    /// The cells in the order of [`Self::HEADINGS`].
    pub fn cells(&self) -> [&str; 9] {
        [
            &self.name,
            &self.title,
            &self.compute_units,
            &self.memory,
            &self.process,
            &self.system_size,
            &self.peak,
            &self.software,
            &self.interconnect,
        ]
    }
}

impl System {
    /// The machine's row of the comparison table. A fact that the file does not have shows as `-`.
    pub fn summary_row(&self) -> SummaryRow {
        let fact =
            |name: &str| self.facts.get(name).map_or_else(|| "-".to_owned(), |fact| fact.value.clone());
        let (compute_units, memory) = match &self.model {
            ExecutionModel::Kernel(m) => (
                format!("{} SMs, {} fp32 units", grouped(m.sms), grouped(m.sms * m.vector_fp32 as u64)),
                format!(
                    "{} L1 per SM, {} L2; {} HBM at {}",
                    show_bytes(m.l1_bytes as f64),
                    show_bytes(m.l2_bytes as f64),
                    show_si(m.hbm_bytes as f64, "B"),
                    show_si(m.hbm_bandwidth, "B/s"),
                ),
            ),
            ExecutionModel::BulkSynchronous(m) => (
                format!("{} tiles of {} threads", grouped(m.tiles), m.workers),
                format!(
                    "{} in {} tiles of {}; {} streaming at {} per {} chips",
                    show_bytes((m.tiles * m.tile_bytes) as f64),
                    grouped(m.tiles),
                    show_bytes(m.tile_bytes as f64),
                    show_si(m.streaming_bytes as f64, "B"),
                    show_si(m.streaming_bandwidth, "B/s"),
                    self.links.chips_per_machine,
                ),
            ),
            ExecutionModel::Spatial(m) => (
                format!("{} PCUs, {} PMUs in {} tiles", grouped(m.pcus), grouped(m.pmus), m.tiles),
                format!(
                    "{} in {} PMUs of {}; {}{} DDR at {}",
                    show_bytes((m.pmus * m.pmu_bytes) as f64),
                    grouped(m.pmus),
                    show_bytes(m.pmu_bytes as f64),
                    m.hbm_bytes.zip(m.hbm_bandwidth).map_or_else(String::new, |(bytes, bandwidth)| format!(
                        "{} HBM at {}; ",
                        show_bytes(bytes as f64),
                        show_si(bandwidth, "B/s")
                    )),
                    show_bytes(m.ddr_bytes as f64),
                    show_si(m.ddr_bandwidth, "B/s"),
                ),
            ),
            ExecutionModel::Engines(m) => (
                format!("{} vector cores, {} matrix engines", m.vector_cores, m.matrix_engines),
                format!(
                    "{} SRAM; {} HBM at {}",
                    show_si(m.sram_bytes as f64, "B"),
                    show_si(m.hbm_bytes as f64, "B"),
                    show_si(m.hbm_bandwidth, "B/s"),
                ),
            ),
            ExecutionModel::Stream(m) => (
                format!(
                    "{} matrix planes of {} x {}, {} vector ALUs",
                    m.matrix_planes,
                    m.plane_inputs,
                    m.plane_outputs,
                    grouped(m.vector_alus as u64),
                ),
                format!("{} in {} slices, no other memory", show_bytes(m.sram_bytes as f64), m.memory_slices),
            ),
            ExecutionModel::Wafer(m) => (
                format!("{} cores", grouped(m.pes)),
                format!(
                    "{} in {} cores of {}; {} MemoryX at {}",
                    show_bytes((m.pes * m.sram_bytes) as f64),
                    grouped(m.pes),
                    show_bytes(m.sram_bytes as f64),
                    show_si(m.memoryx_bytes as f64, "B"),
                    show_si(m.ingress_bandwidth, "B/s"),
                ),
            ),
        };
        let peak = |p: &Precision| format!("{} ({})", show_si(p.peak_flops(), operations(p)), p.name);
        SummaryRow {
            name: self.name.clone(),
            title: self.title.clone(),
            compute_units,
            memory,
            process: fact("process"),
            system_size: fact("system_size"),
            peak: self.precisions.iter().map(peak).collect::<Vec<String>>().join(", "),
            software: fact("software"),
            interconnect: fact("interconnect"),
        }
    }
}

/// Integer operations are not floating-point operations.
fn operations(precision: &Precision) -> &'static str {
    if precision.storage.is_int() { "OP/s" } else { "FLOP/s" }
}

/// A count with commas between thousands.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The part of `docs/machines.md` that follows from the crate: machines, installations, status words, units and every key.
pub fn key_reference() -> String {
    let mut out = String::new();
    out.push_str("### Built-in machines\n\n| name | aliases | machine | execution model | precisions, the default first |\n|---|---|---|---|---|\n");
    for system in registry() {
        let (default, others): (Vec<&Precision>, Vec<&Precision>) =
            system.precisions.iter().partition(|p| p.name == system.default_precision);
        let names: Vec<&str> = default.iter().chain(&others).map(|p| p.name.as_str()).collect();
        line(
            &mut out,
            &[
                &code(&system.name),
                &system.aliases.iter().map(|a| code(a)).collect::<Vec<String>>().join(", "),
                &system.title,
                system.model.kind().name(),
                &names.join(", "),
            ],
        );
    }
    out.push_str(
        "\n### Installations\n\n| name | aliases | what it is | machine | chips |\n|---|---|---|---|---|\n",
    );
    for system in registry() {
        for installed in system.configured() {
            let aliases = installed.aliases.iter().map(|a| code(a)).collect::<Vec<String>>().join(", ");
            let chips = installed.links.installation_chips.map_or_else(String::new, |n| n.to_string());
            line(
                &mut out,
                &[&code(&installed.name), &aliases, &installed.title, &code(&system.name), &chips],
            );
        }
    }
    out.push_str("\n### Status\n\n| word | meaning |\n|---|---|\n");
    for status in Status::ALL {
        line(&mut out, &[&code(status.name()), status.meaning()]);
    }
    let units: Vec<String> = UNITS.iter().map(|unit| code(unit)).collect();
    let types: Vec<String> = DType::ALL.iter().map(|t| code(t.name())).collect();
    let facts: Vec<String> = FACTS.iter().map(|fact| code(fact)).collect();
    let rows: Vec<String> = TABLE_ROWS.iter().map(|row| code(row)).collect();
    write!(
        out,
        "\n### Units\n\n{}.\n\n### Data types\n\n{}; `multiply` may also be `tf32`.\n\n### Facts\n\n{}.\n\n\
         ### Rows of `[published.cells]`\n\n{}.\n",
        units.join(", "),
        types.join(", "),
        facts.join(", "),
        rows.join(", "),
    )
    .expect("writing to a string");
    for kind in ModelKind::ALL {
        keys(&mut out, &format!("`[parameter.*]` where `model = \"{}\"`", kind.name()), kind.machine_keys());
        keys(&mut out, &format!("`[loss.*]` where `model = \"{}\"`", kind.name()), kind.loss_keys());
    }
    keys(&mut out, "`[parameter.*]` of every machine: links", Links::KEYS);
    keys(&mut out, "`[parameter.*]` of every machine: power", Power::KEYS);
    keys(&mut out, "Numbers of a `[[precision]]`", &PRECISION_KEYS);
    out
}

fn keys(out: &mut String, heading: &str, keys: &[Key]) {
    write!(out, "\n### {heading}\n\n| key | unit | value | meaning |\n|---|---|---|---|\n")
        .expect("writing to a string");
    for key in keys {
        let shape = match key.shape {
            Shape::Number => "number",
            Shape::Integer => "whole number",
            Shape::TileShapes => "list of `[m, n, k]`",
        };
        let shape = if key.required { shape.to_owned() } else { format!("{shape}, optional") };
        line(out, &[&code(key.name), &code(key.unit), &shape, key.meaning.trim()]);
    }
}

fn line(out: &mut String, cells: &[&str]) {
    writeln!(out, "| {} |", cells.join(" | ")).expect("writing to a string");
}

fn code(text: &str) -> String {
    format!("`{text}`")
}
