//! The `clearway` program: the daemon, and the command line that asks it.
//!
//! ```text
//!   cli ──► socket ──► api ──► handle ──► daemon (the control thread) ──► engine: workers
//!                                            └──► host: what the kernel knows, and what we change there
//! ```
//!
//! Reading order: `cli/args.rs` (what can be said), `handle.rs` (what can be asked of the control thread), `daemon`.
#![forbid(unsafe_code)]

mod api;
mod cli;
// Until the control thread is here: nothing answers requests yet.
#[allow(dead_code)]
mod daemon {
    #[derive(Debug)]
    pub(crate) struct Options {
        pub(crate) spec: clearway_config::Spec,
        pub(crate) socket: std::path::PathBuf,
        pub(crate) state_dir: std::path::PathBuf,
    }
    #[derive(Debug, thiserror::Error)]
    #[error("the control thread is not part of this build")]
    pub(crate) struct DaemonError;
    pub(crate) fn run(_: Options, _on_ready: impl FnOnce()) -> Result<(), DaemonError> {
        Err(DaemonError)
    }
}
#[allow(dead_code)]
mod handle;
#[allow(dead_code)]
mod host;

fn main() -> std::process::ExitCode {
    cli::main()
}
