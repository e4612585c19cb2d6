//! What the tests compare with: models, number tables and expected outputs, in the cache.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::cache::{self, Cache};
use crate::{fetch, manifest, python};

/// A folder of the cache that a script fills.
struct Table {
    folder: &'static str,
    /// The script in `tests/oracle`, then the modules it is made of.
    sources: &'static [&'static str],
    /// Whether the script is given the cache before the folder to fill.
    reads_cache: bool,
}

/// In the order in which they are made.
const TABLES: [Table; 2] = [
    Table { folder: "ml_dtypes", sources: &["ml_dtypes_tables.py"], reads_cache: false },
    Table {
        folder: "expected",
        sources: &["make_inputs.py", "minilm_model.py", "onnxruntime_run.py"],
        reads_cache: true,
    },
];

/// Fetches every pinned package and lets the oracles write their tables. Does nothing where all is current.
pub(crate) fn prepare() -> Result<()> {
    let workspace = cache::workspace();
    let manifest = manifest::read(&workspace)?;
    let cache = Cache::open()?;
    fetch::unpack_all(&cache, &manifest)?;
    let python = python::environment(&cache, &manifest)?;
    for table in TABLES {
        table.write(&cache, &workspace, &python)?;
    }
    println!("test data is complete in {}", cache.root().display());
    Ok(())
}

impl Table {
    /// Runs the script unless its folder was made by the same sources from the same packages.
    fn write(&self, cache: &Cache, workspace: &Path, python: &Path) -> Result<()> {
        let folder = workspace.join("tests/oracle");
        let mut inputs: Vec<PathBuf> = self.sources.iter().map(|name| folder.join(name)).collect();
        inputs.push(workspace.join("tests/models.toml"));
        let mut hasher = Sha256::new();
        for path in &inputs {
            let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            hasher.update(bytes.len().to_le_bytes());
            hasher.update(bytes);
        }
        let stamp = fetch::hex(&hasher.finalize());
        if cache.is_current(self.folder, &stamp) {
            return Ok(());
        }
        println!("writing {}", self.folder);
        cache.publish(self.folder, &stamp, |partial| {
            let arguments: &[&Path] = if self.reads_cache { &[cache.root(), partial] } else { &[partial] };
            python::script(python, &inputs[0], arguments)
        })?;
        Ok(())
    }
}
