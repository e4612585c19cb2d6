//! Files that a command is to write: never over what it reads, and over no file that something else has made.

use orrery::training::is_checkpoint;
use orrery::{Diagnostic, Model, ModelOptions, Result};
use std::io::Read;
use std::path::{Path, PathBuf};

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Checkpoint,
    Model,
    Arrays,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Model => "ONNX model",
            Self::Arrays => ".npz file",
        }
    }
    /// Whether a file is of this kind, so that it may be replaced by another one.
    fn is(self, path: &Path) -> bool {
        match self {
            Self::Checkpoint => is_checkpoint(path),
            Self::Model => {
                let named = path.extension().is_some_and(|extension| extension == "onnx");
                named && Model::open(&path.display().to_string(), &ModelOptions::default()).is_ok()
            }
            Self::Arrays => {
                let mut begins = [0; 4];
                let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut begins));
                read.is_ok() && begins == *b"PK\x03\x04"
            }
        }
    }
}

/// A file that an option names: the option, the path, what is written.
pub(crate) type Output<'a> = (&'a str, &'a Path, Kind);

/// Refuses files that are read, files that are named twice, and files of another kind.
///
/// # Errors
/// `output-is-input`, `output-twice`, `output-exists`.
pub(crate) fn check(outputs: &[Output<'_>], inputs: &[(&str, &Path)]) -> Result<()> {
    for (number, (option, path, kind)) in outputs.iter().enumerate() {
        let place = || path.display().to_string();
        let whole = canonical(path);
        if let Some((what, _)) = inputs.iter().find(|(_, input)| canonical(input) == whole && input.exists())
        {
            return Diagnostic::error("output-is-input", format!("{option} would overwrite {what}"))
                .at(place())
                .help("name another file")
                .err();
        }
        if let Some((other, ..)) = outputs[..number].iter().find(|(_, other, _)| canonical(other) == whole) {
            return Diagnostic::error("output-twice", format!("{other} and {option} are one file"))
                .at(place())
                .help("name a file for each")
                .err();
        }
        let held = std::fs::metadata(path).is_ok_and(|about| about.is_file() && about.len() > 0);
        if held && !kind.is(path) {
            let cause = format!("{option} would overwrite a file that is no {}", kind.name());
            return Diagnostic::error("output-exists", cause)
                .at(place())
                .help("name another file, or remove this one first")
                .err();
        }
    }
    Ok(())
}

/// The path without links and detours; of a file that is not there yet, in its folder.
fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().unwrap_or_default();
        folder.canonicalize().unwrap_or_else(|_| folder.to_owned()).join(name)
    })
}
