//! Running the real command.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A model of two numbers and two classes.
pub(crate) const NET: &str = r#"graph "net" {
  input %x: f32[batch, 2]
  constant %w: f32[2, 2] = [0.5, -0.5, 0.25, 1]
  constant %b: f32[2] = [0, 0.125]
  %h: f32[batch, 2] = MatMul(%x, %w)
  %y: f32[batch, 2] = Add(%h, %b)
  output %y
}
"#;

/// What a run printed and how it ended.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// The standard output as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }
    /// All of it, for snapshots.
    pub(crate) fn all(&self) -> String {
        format!("exit {}\n--- out\n{}--- err\n{}", self.code, self.out, self.err)
    }
}

/// Runs `orrery` in a folder.
pub(crate) fn orrery_in(folder: &Path, arguments: &[&str]) -> Ran {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_orrery"))
        .args(arguments)
        .current_dir(folder)
        .env("NO_COLOR", "1")
        .output()
        .expect("the command starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the command prints UTF-8");
    Ran { code: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) }
}

/// Runs `orrery` in the workspace.
pub(crate) fn orrery(arguments: &[&str]) -> Ran {
    orrery_in(&workspace(), arguments)
}

/// The root of the workspace.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace is there")
}

/// An empty folder of its own for a test.
pub(crate) fn scratch(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    folder
}

/// A folder for a test with a model of two classes, `net.graph`, and a table of eight rows, `t.csv`.
pub(crate) fn net_and_table(name: &str) -> PathBuf {
    let folder = scratch(name);
    std::fs::write(folder.join("net.graph"), NET).expect("the model can be written");
    let rows: String = (0..8).map(|i| format!("{i},{},{}\n", i % 3, i % 2)).collect();
    std::fs::write(folder.join("t.csv"), format!("a,b,kind\n{rows}")).expect("the table can be written");
    folder
}
