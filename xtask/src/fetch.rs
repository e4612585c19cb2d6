//! Packages: fetched with `pip download` or `npm pack`, checked against their SHA-256, unpacked into the cache.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::cache::{Cache, explain_io};
use crate::manifest::{Manifest, Package, Registry, Tags};
use crate::python;

/// Makes sure that every package marked `unpack` lies unpacked in the cache.
pub(crate) fn unpack_all(cache: &Cache, manifest: &Manifest) -> Result<()> {
    for package in manifest.packages.iter().filter(|package| package.unpack) {
        let folder = package.folder();
        if cache.is_current(&folder, &package.sha256) {
            continue;
        }
        let file = file(cache, &manifest.tags, package)?;
        println!("unpacking {}", package.file);
        cache.publish(&folder, &package.sha256, |partial| match package.from {
            Registry::Python => unzip(&file, partial),
            Registry::Npm => python::untar(&file, partial),
        })?;
    }
    Ok(())
}

/// The package's file in the cache, fetched if it is not there; its hash is right.
pub(crate) fn file(cache: &Cache, tags: &Tags, package: &Package) -> Result<PathBuf> {
    let target = cache.path("wheels").join(&package.file);
    if target.is_file() && sha256(&target)? == package.sha256 {
        return Ok(target);
    }
    println!("fetching {} {} ({:.1} MB)", package.name, package.version, package.bytes as f64 / 1e6);
    let folder = cache.path("partial/wheel");
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(|error| explain_io(error, &folder))?;
    }
    fs::create_dir_all(&folder).map_err(|error| explain_io(error, &folder))?;
    match package.from {
        Registry::Python => download(tags, package, &folder)?,
        Registry::Npm => pack(package, &folder)?,
    }
    let fetched = folder.join(&package.file);
    if !fetched.is_file() {
        let found: Vec<_> = fs::read_dir(&folder)?.flatten().map(|entry| entry.file_name()).collect();
        bail!("{}: expected the file {}, the registry gave {found:?}", package.requirement(), package.file);
    }
    let found = sha256(&fetched)?;
    ensure!(
        found == package.sha256,
        "{}: the fetched file does not have the pinned hash and was not used\n  expected {}\n  found    {found}",
        package.file,
        package.sha256
    );
    fs::create_dir_all(cache.path("wheels")).map_err(|error| explain_io(error, &target))?;
    fs::rename(&fetched, &target).map_err(|error| explain_io(error, &target))?;
    Ok(target)
}

fn download(tags: &Tags, package: &Package, folder: &Path) -> Result<()> {
    let mut command = Command::new(python::interpreter()?.program);
    command.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]);
    command.args(["--implementation", &tags.implementation, "--python-version", &tags.python_version]);
    for platform in &tags.platforms {
        command.args(["--platform", platform]);
    }
    command.arg("--dest").arg(folder).arg(package.requirement());
    let output = command.output().context("cannot start pip")?;
    if output.status.success() {
        return Ok(());
    }
    let log = String::from_utf8_lossy(&output.stderr);
    let last: Vec<_> = log.trim_end().lines().rev().take(3).collect();
    let last: Vec<_> = last.into_iter().rev().collect();
    bail!("cannot fetch {}: {}\n{}", package.requirement(), pip_cause(&log), last.join("\n"));
}

fn pack(package: &Package, folder: &Path) -> Result<()> {
    let wanted = format!("{}@{}", package.name, package.version);
    let mut command = Command::new("npm");
    command.args(["pack", "--silent", &wanted, "--pack-destination"]).arg(folder);
    let output = command.output().context("cannot start npm (Debian and Ubuntu: apt-get install npm)")?;
    let log = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cannot fetch {wanted}: npm failed\n{}", log.trim_end());
    Ok(())
}

/// What a failed pip run most likely failed of.
fn pip_cause(log: &str) -> &'static str {
    let has = |needle: &str| log.contains(needle);
    if has("No module named pip") {
        "this Python has no pip (Debian and Ubuntu: apt-get install python3-pip)"
    } else if has("No space left on device") {
        "the disk is full; ORRERY_CACHE may point to another one"
    } else if has("NewConnectionError") || has("Max retries") || has("name resolution") || has("timed out") {
        "the package registry cannot be reached; this step needs the network once"
    } else if has("No matching distribution") {
        "the registry does not have this version for the pinned tags"
    } else {
        "pip failed"
    }
}

fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))?;
        if count == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..count]);
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unzip(wheel: &Path, folder: &Path) -> Result<()> {
    let file = File::open(wheel).with_context(|| format!("cannot read {}", wheel.display()))?;
    let mut archive = zip::ZipArchive::new(io::BufReader::new(file))
        .with_context(|| format!("{} is not a zip archive", wheel.display()))?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).with_context(|| format!("{} is damaged", wheel.display()))?;
        let Some(relative) = entry.enclosed_name() else {
            bail!("{}: an entry points outside of the archive", wheel.display());
        };
        let path = folder.join(relative);
        if entry.is_dir() {
            fs::create_dir_all(&path).map_err(|error| explain_io(error, &path))?;
            continue;
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| explain_io(error, parent))?;
        }
        let mut out = File::create(&path).map_err(|error| explain_io(error, &path))?;
        io::copy(&mut entry, &mut out).map_err(|error| explain_io(error, &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_of_a_known_file() {
        let path = std::env::temp_dir().join(format!("orrery-xtask-hash-{}", std::process::id()));
        fs::write(&path, "abc").unwrap();
        // The example of FIPS 180-4.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(&path).unwrap(), expected);
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn causes_are_told_apart() {
        assert!(pip_cause("OSError: [Errno 28] No space left on device").contains("disk"));
        assert!(pip_cause("Failed to establish: NewConnectionError(...)").contains("network"));
        assert!(pip_cause("ERROR: No matching distribution found for x").contains("version"));
    }
}
