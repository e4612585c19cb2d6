//! Whole files: mapped, unpacked, as text.

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use orrery_base::{Diagnostic, Result};
use orrery_numerics::map_file;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Files that unpack to more bytes are refused: they cannot be meant.
const LARGEST: u64 = 1 << 36;

/// The bytes of a file: mapped, or unpacked where it is packed by gzip.
///
/// # Errors
/// `file-read` where it cannot be opened; `data-truncated` and `data-too-large` where it cannot be unpacked.
pub(crate) fn read(path: &Path) -> Result<Bytes> {
    let bytes = map_file(path)?;
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let mut unpacked = Vec::new();
    let place = || path.display().to_string();
    if let Err(error) = MultiGzDecoder::new(&bytes[..]).take(LARGEST + 1).read_to_end(&mut unpacked) {
        let cause = format!("the file cannot be unpacked beyond {} bytes: {error}", unpacked.len());
        return Diagnostic::error("data-truncated", cause)
            .at(place())
            .help("the file was cut short or damaged: copy it again")
            .err();
    }
    if unpacked.len() as u64 > LARGEST {
        let cause = format!("the file unpacks to more than {LARGEST} bytes");
        return Diagnostic::error("data-too-large", cause).at(place()).err();
    }
    Ok(unpacked.into())
}

/// The bytes as text, without a byte order mark.
///
/// # Errors
/// `data-text` with the line where they are not UTF-8.
pub(crate) fn text(bytes: &[u8]) -> Result<&str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').unwrap_or(text)),
        Err(error) => {
            let line = 1 + bytes[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count();
            Diagnostic::error("data-text", format!("byte {} is not UTF-8", error.valid_up_to()))
                .at(format!("line {line}"))
                .help("save the file as UTF-8")
                .err()
        }
    }
}

/// The last part of a path without what follows its first dot, for naming a dataset.
pub(crate) fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    name.split('.').next().unwrap_or_default().to_owned()
}

/// The extension in lower case, that of `x.csv.gz` being `csv`.
pub(crate) fn extension(path: &Path) -> String {
    let of = |path: &Path| path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    match of(path).as_str() {
        "gz" => of(&path.with_extension("")),
        other => other.to_owned(),
    }
}

/// Entries of a folder in the order of their names, without hidden ones.
///
/// # Errors
/// `file-read` where it cannot be listed.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let listed = std::fs::read_dir(folder).and_then(|all| {
        all.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<PathBuf>>>()
    });
    let mut paths = listed.map_err(|error| {
        let cause = format!("the folder cannot be read: {error}");
        Box::new(Diagnostic::error("file-read", cause).at(folder.display().to_string()))
    })?;
    let hidden = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
    paths.retain(|path| !hidden(path));
    paths.sort();
    Ok(paths)
}

/// A folder for the files of one test.
#[cfg(test)]
pub(crate) struct Scratch(PathBuf);

#[cfg(test)]
impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("orrery-data-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
    /// A file of that name with these bytes.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }
    /// The same, packed by gzip.
    pub(crate) fn packed(&self, name: &str, bytes: &[u8]) -> PathBuf {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        self.file(name, &encoder.finish().unwrap())
    }
}
#[cfg(test)]
impl Drop for Scratch {
    fn drop(&mut self) {
        // Left over files do not make a test fail.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_files_are_unpacked_and_cut_ones_refused() {
        let scratch = Scratch::new("files");
        let path = scratch.packed("a.csv.gz", b"hello hello hello");
        assert_eq!(read(&path).unwrap().as_ref(), b"hello hello hello");
        assert_eq!((extension(&path).as_str(), stem(&path).as_str()), ("csv", "a"));
        let whole = std::fs::read(&path).unwrap();
        let cut = scratch.file("cut.gz", &whole[..whole.len() - 6]);
        assert_eq!(read(&cut).unwrap_err().code, "data-truncated");
    }

    #[test]
    fn text_that_is_not_utf8_is_refused_with_its_line() {
        let failed = text(b"a\nb\xff").unwrap_err();
        assert_eq!((failed.code, failed.place[0].as_str()), ("data-text", "line 2"));
        assert_eq!(text("\u{feff}x".as_bytes()).unwrap(), "x");
    }
}
