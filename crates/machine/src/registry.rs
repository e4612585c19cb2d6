//! The built-in machines, and finding a machine by name or file.

use crate::read::not_found;
use crate::system::System;
use orrery_base::{Diagnostic, Result};
use std::path::Path;
use std::sync::LazyLock;

/// File name and text of every built-in machine, in the order they are listed to users.
pub const BUILT_IN: [(&str, &str); 13] = [
    ("systems/a100-40gb.toml", include_str!("../../../systems/a100-40gb.toml")),
    ("systems/a100-80gb.toml", include_str!("../../../systems/a100-80gb.toml")),
    ("systems/h100.toml", include_str!("../../../systems/h100.toml")),
    ("systems/gc200.toml", include_str!("../../../systems/gc200.toml")),
    ("systems/bow.toml", include_str!("../../../systems/bow.toml")),
    ("systems/sn10.toml", include_str!("../../../systems/sn10.toml")),
    ("systems/sn30.toml", include_str!("../../../systems/sn30.toml")),
    ("systems/sn40l.toml", include_str!("../../../systems/sn40l.toml")),
    ("systems/groqchip.toml", include_str!("../../../systems/groqchip.toml")),
    ("systems/gaudi.toml", include_str!("../../../systems/gaudi.toml")),
    ("systems/gaudi2.toml", include_str!("../../../systems/gaudi2.toml")),
    ("systems/cs2.toml", include_str!("../../../systems/cs2.toml")),
    ("systems/cs3.toml", include_str!("../../../systems/cs3.toml")),
];

static REGISTRY: LazyLock<Vec<System>> = LazyLock::new(|| {
    BUILT_IN
        .iter()
        .map(|(file, text)| System::parse(file, text).expect("a test reads every built-in file"))
        .collect()
});

static CONFIGURED: LazyLock<Vec<System>> =
    LazyLock::new(|| REGISTRY.iter().flat_map(System::configured).collect());

/// The built-in machines in a fixed order. Read once, on first use.
pub fn registry() -> &'static [System] {
    &REGISTRY
}

/// Every built-in machine, then each in its configurations.
fn all() -> impl Iterator<Item = &'static System> {
    registry().iter().chain(CONFIGURED.iter())
}

/// The built-in machine, or configuration of one, of that name or alias. Case does not matter and a space counts as `-`, so that the names of
/// measurement files are found too.
///
/// # Errors
/// `system-unknown` with the nearest name.
pub fn find(name: &str) -> Result<&'static System> {
    if let Some(system) = all().find(|s| s.answers_to(name)) {
        return Ok(system);
    }
    unknown(name, all()).err()
}

/// As [`find_or_load`], the user's own machines and their configurations before all.
///
/// # Errors
/// As [`find_or_load`], the nearest name being one of all these.
pub fn find_among(name: &str, own: &[System]) -> Result<System> {
    let configured: Vec<System> = own.iter().flat_map(System::configured).collect();
    let known: Vec<&System> = own.iter().chain(&configured).chain(registry()).chain(&*CONFIGURED).collect();
    match known.iter().find(|system| system.answers_to(name)) {
        Some(system) => Ok((*system).clone()),
        None if name.ends_with(".toml") => load_path(Path::new(name)),
        None => unknown(name, known.into_iter()).err(),
    }
}

fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a System>) -> Diagnostic {
    let names: Vec<&str> =
        known.flat_map(|system| system.aliases.iter().chain([&system.name])).map(String::as_str).collect();
    not_found("system-unknown", "machine", name, &names)
        .help("`orrery systems` lists them; a file of your own is given as --system my-chip.toml")
}

/// Reads a system file.
///
/// # Errors
/// `system-unreadable` where the file cannot be read as UTF-8 text, else what [`System::parse`] finds.
pub fn load_path(path: &Path) -> Result<System> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Box::new(
            Diagnostic::error("system-unreadable", format!("the system file cannot be read: {error}"))
                .at(path.display().to_string())
                .help("check the path and that it is a text file in UTF-8"),
        )
    })?;
    System::parse(&path.display().to_string(), &text)
}

/// A machine by name, by alias, or by the path of a system file (anything that ends in `.toml`).
///
/// # Errors
/// Those of [`find`] and [`load_path`].
pub fn find_or_load(name: &str) -> Result<System> {
    find_among(name, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_file_reads() {
        for (file, text) in BUILT_IN {
            let system = System::parse(file, text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(file, format!("systems/{}.toml", system.name));
        }
    }
}
