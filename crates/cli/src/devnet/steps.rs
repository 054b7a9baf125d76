//! The table of steps: a line for each, with its time and what was measured. On a terminal a spinner shows what is going on.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use nicompute_daemon::SharedClock;

/// How often the spinner turns.
const TICK: Duration = Duration::from_millis(80);

/// Prints one line for each finished step.
#[derive(Debug)]
pub(crate) struct Steps {
    clock: SharedClock,
    start: Duration,
    last: Duration,
    current: &'static str,
    bar: Option<ProgressBar>,
}

impl Steps {
    /// A table that begins now.
    pub(crate) fn new(clock: SharedClock) -> Self {
        let now = clock.monotonic();
        let bar = std::io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { clock, start: now, last: now, current: "start", bar }
    }

    /// Says what is going on now.
    pub(crate) fn begin(&mut self, what: &'static str) {
        self.current = what;
        if let Some(bar) = &self.bar {
            bar.set_message(what);
        }
    }

    /// Ends a step: its name, the seconds since the step before, and what came of it.
    pub(crate) fn done(&mut self, name: &str, result: &str) {
        let now = self.clock.monotonic();
        let spent = now.saturating_sub(self.last);
        self.last = now;
        self.print(&format!("ok  {name:<14} {:>7.2} s  {result}", spent.as_secs_f64()));
    }

    /// Ends the running step as failed.
    pub(crate) fn failed(&self) {
        let spent = self.clock.monotonic().saturating_sub(self.last);
        self.print(&format!("--  {:<14} {:>7.2} s  failed", self.current, spent.as_secs_f64()));
    }

    /// Time since the table began.
    pub(crate) fn total(&self) -> Duration {
        self.clock.monotonic().saturating_sub(self.start)
    }

    /// A line of text between or after the steps.
    pub(crate) fn print(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| write_line(line)),
            None => write_line(line),
        }
    }

    /// Removes the spinner.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn write_line(line: &str) {
    let mut out = std::io::stdout().lock();
    // A reader that went away does not stop the market.
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        tracing::debug!("standard output is closed");
    }
}
