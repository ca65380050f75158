//! What the demonstration tells: a line for each step, with a spinner while it runs, and Ctrl-C.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::DemoError;

/// Tells steps as they happen.
pub(super) struct Story {
    interrupted: Arc<AtomicBool>,
    live: bool,
}

impl Story {
    /// Watches for Ctrl-C from now on.
    pub(super) fn new() -> Result<Self, DemoError> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, interrupted.clone()).map_err(DemoError::Signals)?;
        }
        Ok(Self {
            interrupted,
            live: std::io::stderr().is_terminal(),
        })
    }

    /// Whether to stop.
    pub(super) fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// An error if to stop.
    pub(super) fn go_on(&self) -> Result<(), DemoError> {
        match self.interrupted() {
            true => Err(DemoError::Interrupted),
            false => Ok(()),
        }
    }

    /// A paragraph.
    pub(super) fn say(&self, text: &str) {
        // Whoever closed standard output does not want to know; the cleaning up matters more.
        let _ = crate::cli::output::print(&format!("{text}\n"));
    }

    /// A step: its line, and how long it took.
    pub(super) fn step<T>(
        &self,
        text: &str,
        work: impl FnOnce() -> Result<T, DemoError>,
    ) -> Result<T, DemoError> {
        let begun = Instant::now();
        let result = self.spin(text, work)?;
        self.say(&format!("✓ {text} ({} ms)", begun.elapsed().as_millis()));
        Ok(result)
    }

    /// A step with a result: its line, and the result.
    pub(super) fn report(
        &self,
        text: &str,
        work: impl FnOnce() -> Result<String, DemoError>,
    ) -> Result<(), DemoError> {
        self.go_on()?;
        let result = self.spin(text, work)?;
        self.say(&format!("✓ {text}: {result}"));
        Ok(())
    }

    fn spin<T>(&self, text: &str, work: impl FnOnce() -> Result<T, DemoError>) -> Result<T, DemoError> {
        let spinner = if self.live {
            let spinner = ProgressBar::new_spinner().with_message(text.to_owned());
            spinner.enable_steady_tick(Duration::from_millis(80));
            spinner
        } else {
            ProgressBar::hidden()
        };
        let result = work();
        spinner.finish_and_clear();
        if result.is_err() {
            self.say(&format!("✗ {text}"));
        }
        result
    }

    /// A bar for something that takes a known time.
    pub(super) fn bar(&self, text: &str, time: Duration) -> ProgressBar {
        if !self.live {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(time.as_millis().try_into().unwrap_or(u64::MAX));
        if let Ok(style) = ProgressStyle::with_template("  {prefix} {bar:30} {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(text.to_owned());
        bar
    }
}
