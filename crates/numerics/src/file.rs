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
    let partial = partial(path);
    let written = File::create(&partial).and_then(|file| {
        let mut out = BufWriter::new(file);
        write(&mut out)?;
        out.into_inner()?.sync_all()?;
        std::fs::rename(&partial, path)
    });
    written.map_err(|error| {
        // The partial file may never have come to be; the first failure is what matters.
        let _ = std::fs::remove_file(&partial);
        unwritable(path, &error)
    })
}

/// Finds out whether [`write_file`] can put a file there, before the work whose result it is to hold. What is there stays.
///
/// # Errors
/// `file-write` where the folder is not there or takes no file, or the path is that of a folder.
pub fn check_writable(path: &Path) -> Result<()> {
    if path.is_dir() || path.file_name().is_none() {
        return Err(unwritable(path, &std::io::Error::from(std::io::ErrorKind::IsADirectory)));
    }
    let partial = partial(path);
    File::create(&partial)
        .and_then(|_| std::fs::remove_file(&partial))
        .map_err(|error| unwritable(path, &error))
}

/// Where a file is written before it is whole.
fn partial(path: &Path) -> std::path::PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{}.partial", std::process::id()))
}

fn unwritable(path: &Path, error: &std::io::Error) -> Box<Diagnostic> {
    let full = error.kind() == std::io::ErrorKind::StorageFull;
    let why = if full { "the disk is full".to_owned() } else { error.to_string() };
    let error = Diagnostic::error("file-write", format!("the file cannot be written: {why}"))
        .at(path.display().to_string());
    if full {
        return Box::new(
            error.help("make room, or name a path on another disk; what was there before is as it was"),
        );
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir());
    Box::new(match folder {
        Some(folder) => error.help(format!("there is no folder {}", folder.display())),
        None => error,
    })
}
