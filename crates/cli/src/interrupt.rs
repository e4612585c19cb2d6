//! What Ctrl-C does to work that can be stopped between its steps.

use orrery::{Diagnostic, Progress, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit status of a process that Ctrl-C ended, as shells have it.
const INTERRUPTED: i32 = 130;

/// A progress that the first Ctrl-C asks to stop at its next step; the second one ends the process.
pub(crate) fn stoppable() -> Result<Arc<Progress>> {
    let progress = Arc::new(Progress::default());
    let (asked, stopped) = (AtomicBool::new(false), Arc::clone(&progress));
    let handler = move || {
        if asked.swap(true, Ordering::Relaxed) {
            #[expect(clippy::exit, reason = "the user does not want to wait for the step")]
            std::process::exit(INTERRUPTED);
        }
        anstream::eprintln!("stopping after this step; Ctrl-C again stops at once");
        stopped.cancel();
    };
    ctrlc::set_handler(handler).map_err(|error| {
        Box::new(Diagnostic::error("cancelled", format!("Ctrl-C cannot be waited for: {error}")))
    })?;
    Ok(progress)
}
