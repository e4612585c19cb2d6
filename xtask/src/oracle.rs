//! What the tests compare with: models, number tables and expected outputs, in the cache.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::cache::{self, Cache};
use crate::{fetch, manifest, python};

/// A script that fills one folder of the cache; its arguments are the cache and that folder.
struct Table {
    folder: &'static str,
    script: &'static str,
}

/// Scripts in `tests/oracle`, in the order in which they run.
const TABLES: [Table; 2] = [
    Table { folder: "ml_dtypes", script: "ml_dtypes_tables.py" },
    Table { folder: "expected", script: "make_inputs.py" },
];

/// Fetches every pinned package and lets the oracles write their tables. Does nothing where all is current.
pub(crate) fn prepare() -> Result<()> {
    let workspace = cache::workspace();
    let manifest = manifest::read(&workspace)?;
    let cache = Cache::open()?;
    fetch::unpack_all(&cache, &manifest)?;
    let python = python::environment(&cache, &manifest)?;
    let scripts = workspace.join("tests/oracle");
    for table in TABLES {
        let script = scripts.join(table.script);
        if script.exists() {
            write_table(&cache, &workspace, &python, &script, table.folder)?;
        }
    }
    println!("test data is complete in {}", cache.root().display());
    Ok(())
}

/// Runs the script unless its folder was made by the same script from the same packages.
fn write_table(cache: &Cache, workspace: &Path, python: &Path, script: &Path, folder: &str) -> Result<()> {
    let mut hasher = Sha256::new();
    for path in [script, &script.with_file_name("onnxruntime_run.py"), &workspace.join("tests/models.toml")] {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        hasher.update(bytes.len().to_le_bytes());
        hasher.update(bytes);
    }
    let stamp = fetch::hex(&hasher.finalize());
    if cache.is_current(folder, &stamp) {
        return Ok(());
    }
    println!("writing {folder}");
    cache.publish(folder, &stamp, |partial| match folder {
        "ml_dtypes" => python::script(python, script, &[partial]),
        _ => python::script(python, script, &[cache.root(), partial]),
    })?;
    Ok(())
}
