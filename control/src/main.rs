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
mod attach;
mod cli;
mod compile;
mod daemon;
mod handle;
mod host;
mod objects;
mod reconcile;
mod store;

fn main() -> std::process::ExitCode {
    cli::main()
}
