//! Progress of long work on the terminal.

use crate::output::progress_is_visible;
use indicatif::{ProgressBar, ProgressStyle};
use orrery::Progress;

/// A progress that draws a bar on standard error where that is a terminal.
pub(crate) fn progress(quiet: bool) -> Progress {
    if !progress_is_visible(quiet) {
        return Progress::default();
    }
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style);
    Progress::new(move |what, done, total| {
        bar.set_message(what.to_owned());
        bar.set_length(total);
        bar.set_position(done);
        if done >= total {
            bar.finish_and_clear();
        }
    })
}

/// One line on the terminal that changes.
pub(crate) struct Line {
    bar: Option<ProgressBar>,
}

impl Line {
    pub(crate) fn new(quiet: bool) -> Self {
        let bar = progress_is_visible(quiet).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(
                ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar
        });
        Self { bar }
    }
    /// Shows a text in place of the last one.
    pub(crate) fn show(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
            bar.tick();
        }
    }
    /// Takes the line away, for others to be printed.
    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.set_message("");
            bar.tick();
        }
    }
}
