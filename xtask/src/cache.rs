//! The cache folder: where things live in it, and how a folder gets into it whole or not at all.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The workspace's root folder.
pub(crate) fn workspace() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let manifest = manifest.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    manifest.parent().map(Path::to_path_buf).unwrap_or(manifest)
}

/// The cache folder, and the lock that keeps two runs out of each other's way while it is held.
pub(crate) struct Cache {
    root: PathBuf,
    _lock: File,
}

impl Cache {
    /// Opens the cache: `ORRERY_CACHE`, else `.cache` in the workspace. Waits for another run that is filling it.
    pub(crate) fn open() -> Result<Self> {
        let root = match std::env::var_os("ORRERY_CACHE") {
            Some(path) => std::path::absolute(path)?,
            None => workspace().join(".cache"),
        };
        fs::create_dir_all(&root)
            .with_context(|| format!("cannot create the cache folder {}", root.display()))?;
        let path = root.join("lock");
        let lock = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        if lock.try_lock().is_err() {
            println!("waiting for another `cargo xtask` that is filling {}", root.display());
            lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(Self { root, _lock: lock })
    }

    /// The folder itself, as an absolute path.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path inside the cache.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Whether `folder` was published under exactly this stamp.
    pub(crate) fn is_current(&self, folder: &str, stamp: &str) -> bool {
        fs::read_to_string(self.root.join(folder).join(STAMP)).is_ok_and(|found| found == stamp)
    }

    /// Fills a fresh temporary folder by `fill`, stamps it, and renames it to `folder`; an older one is replaced.
    /// A run that fails or is killed half-way leaves `folder` as it was.
    pub(crate) fn publish(
        &self,
        folder: &str,
        stamp: &str,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let target = self.root.join(folder);
        let partial = self.root.join("partial").join(folder);
        remove_folder(&partial)?;
        fs::create_dir_all(&partial).map_err(|error| explain_io(error, &partial))?;
        fill(&partial)?;
        let stamp_path = partial.join(STAMP);
        fs::write(&stamp_path, stamp).map_err(|error| explain_io(error, &stamp_path))?;
        remove_folder(&target)?;
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(|error| explain_io(error, parent))?;
        }
        fs::rename(&partial, &target).map_err(|error| explain_io(error, &target))?;
        Ok(target)
    }
}

/// The file in a published folder that says what it was made from.
const STAMP: &str = ".stamp";

fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// An input or output error with the path it happened at, and what to do where that is known.
pub(crate) fn explain_io(error: io::Error, path: &Path) -> anyhow::Error {
    let help = match error.kind() {
        io::ErrorKind::StorageFull => {
            ": the disk is full; the complete cache takes about 1 GB (ORRERY_CACHE may point elsewhere)"
        }
        io::ErrorKind::PermissionDenied => ": not writable; point ORRERY_CACHE to a folder of yours",
        _ => "",
    };
    anyhow::Error::new(error).context(format!("cannot write {}{help}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(name: &str) -> Cache {
        let root = std::env::temp_dir().join(format!("orrery-xtask-{name}-{}", std::process::id()));
        remove_folder(&root).unwrap();
        fs::create_dir_all(&root).unwrap();
        let lock = File::create(root.join("lock")).unwrap();
        Cache { root, _lock: lock }
    }

    #[test]
    fn a_failed_fill_leaves_the_old_folder() {
        let cache = cache("failed-fill");
        let write = |text: &'static str| {
            move |folder: &Path| -> Result<()> { Ok(fs::write(folder.join("data"), text)?) }
        };
        cache.publish("models/a", "one", write("first")).unwrap();
        assert!(cache.is_current("models/a", "one"));

        let failed = cache.publish("models/a", "two", |folder| {
            fs::write(folder.join("data"), "half")?;
            anyhow::bail!("network gone")
        });
        assert!(failed.is_err());
        assert!(cache.is_current("models/a", "one"));
        assert_eq!(fs::read_to_string(cache.path("models/a/data")).unwrap(), "first");

        cache.publish("models/a", "two", write("second")).unwrap();
        assert!(cache.is_current("models/a", "two"));
        assert_eq!(fs::read_to_string(cache.path("models/a/data")).unwrap(), "second");
        remove_folder(cache.root()).unwrap();
    }
}
