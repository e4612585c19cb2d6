//! Files as memory-mapped bytes, and files that appear whole or not at all.

#![allow(unsafe_code, reason = "a file can only be mapped by an unsafe call")]

use bytes::Bytes;
use orrery_base::{Diagnostic, Result};
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

/// The bytes of a file, mapped rather than read: pages come in when they are first touched.
///
/// # Errors
/// `file-read` where it cannot be opened, is no regular file, or cannot be mapped.
pub fn map_file(path: &Path) -> Result<Bytes> {
    let failed = |why: String| {
        Box::new(
            Diagnostic::error("file-read", format!("the file cannot be read: {why}"))
                .at(path.display().to_string()),
        )
    };
    let file = File::open(path).map_err(|e| failed(e.to_string()))?;
    let about = file.metadata().map_err(|e| failed(e.to_string()))?;
    if !about.is_file() {
        return Err(failed("it is no regular file".into()));
    }
    if about.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the map is private and read-only. The file must not be truncated or rewritten in place by another process
    // while it is in use, which is what every program that maps its models relies on; our own writers replace files by
    // renaming and never touch a mapped one.
    let map = unsafe { memmap2::MmapOptions::new().map_copy_read_only(&file) }
        .map_err(|e| failed(e.to_string()))?;
    Ok(Bytes::from_owner(map))
}

/// Writes a file beside `path`, brings it to the disk and renames it over `path`: however the process ends, what stands
/// there is whole, new or old.
///
/// # Errors
/// `file-write` where the disk does not take it.
pub fn write_file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<()> {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let partial = path.with_file_name(format!(".{name}.{}.partial", std::process::id()));
    let written = File::create(&partial).and_then(|file| {
        let mut out = BufWriter::new(file);
        write(&mut out)?;
        out.into_inner()?.sync_all()?;
        std::fs::rename(&partial, path)
    });
    written.map_err(|error| {
        // The partial file may never have come to be; the first failure is what matters.
        let _ = std::fs::remove_file(&partial);
        Box::new(
            Diagnostic::error("file-write", format!("the file cannot be written: {error}"))
                .at(path.display().to_string()),
        )
    })
}
