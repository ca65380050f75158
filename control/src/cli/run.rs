//! `clearway run`: reads the configuration, sets up the log, becomes the daemon.

use std::io::Write;
use std::path::{Path, PathBuf};

use clearway_config::Spec;
use sd_notify::NotifyState;
use tracing::level_filters::LevelFilter;

use super::args::{LogFormat, LogLevel, Run};
use super::change;
use super::error::CliError;
use crate::daemon::{self, Options};
use crate::host::restore::STATE_DIR;
use crate::store::STORE;

/// Runs the daemon until it is told to stop.
pub(crate) fn run(args: &Run, socket: Option<PathBuf>) -> Result<(), CliError> {
    log(args.log_level, args.log_format);
    let spec = match &args.config {
        Some(file) => change::load(file)?,
        None => Spec::short_form(&args.port, args.core, args.cross_connect)?,
    };
    let socket = socket.unwrap_or_else(|| spec.api.socket.clone());
    let options = Options {
        spec,
        file: args.config.clone(),
        socket,
        state_dir: args.state_dir.clone(),
        store: args.store.clone().unwrap_or_else(|| store_of(&args.state_dir)),
    };
    Ok(daemon::run(options, ready)?)
}

/// A daemon with a state folder of its own has a store of its own.
fn store_of(state_dir: &Path) -> PathBuf {
    match state_dir == Path::new(STATE_DIR) {
        true => PathBuf::from(STORE),
        false => state_dir.join("store.redb"),
    }
}

/// Every port forwards: says so to whoever waits for the line, and to systemd.
fn ready() {
    let mut out = std::io::stdout().lock();
    // Nobody may be listening; the daemon goes on.
    let _ = writeln!(out, "ready").and_then(|()| out.flush());
    let _ = sd_notify::notify(false, &[NotifyState::Ready]);
}

fn log(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false);
    // Fails only if there is a log already; there is none.
    let _ = match format {
        // The journal has its own clock.
        LogFormat::Text if std::env::var_os("JOURNAL_STREAM").is_some() => log.without_time().try_init(),
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
}
