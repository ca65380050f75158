//! The command line: what a person or a script says to Clearway, and what it says back.
//!
//! ```text
//!   args (one definition) ─► run ──────────────────────► daemon
//!                         ├► get · apply · fdb ─► client ─► socket ─► daemon's API
//!                         ├► validate · schema · doctor · sriov · completions · man   (no daemon)
//!                         └► demo ─► namespaces, a daemon of its own
//! ```
//!
//! Guarantees: results go to standard output, all else to standard error; 0 means done, 1 failed, 2 a wrong command
//! line; a failure says what was tried, on what, why it failed and what to do.

mod args;
mod attachments;
mod change;
mod client;
mod demo;
mod doctor;
mod error;
mod get;
mod output;
mod pages;
mod run;
mod sriov;
mod tables;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use clearway_config::Api;

use args::{Cli, Command};
use client::Client;
use error::CliError;

use crate::api::types::HealthView;

/// Does what the command line says.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| args::with_nearest(error).exit());
    match execute(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            match error {
                // Lines of `file:line:column: …`, which editors can follow.
                CliError::Config(errors) => eprintln!("{errors}"),
                error => eprintln!("clearway: {error}"),
            }
            ExitCode::FAILURE
        }
    }
}

fn execute(cli: Cli) -> Result<(), CliError> {
    let client = || Client::new(cli.socket.as_deref().unwrap_or(Path::new(Api::DEFAULT_SOCKET)));
    match &cli.command {
        Command::Run(args) => run::run(args, cli.socket.clone()),
        Command::Apply(args) => change::apply(&client(), args),
        Command::Validate(args) => change::validate(args),
        Command::Schema => schema(),
        Command::Get(args) => get::get(&client(), args),
        Command::Why(args) => attachments::why(&client(), args),
        Command::Fdb(command) => change::fdb(&client(), command),
        Command::Sriov(command) => sriov::sriov(command),
        Command::Doctor(args) => doctor::doctor(args),
        Command::Demo(args) => Ok(demo::demo(args)?),
        Command::Completions(args) => pages::completions(args),
        Command::Man(args) => pages::man(args),
        Command::Version => version(&client(), cli.socket.as_ref()),
    }
}

fn schema() -> Result<(), CliError> {
    output::print(&format!("{:#}\n", clearway_config::json_schema()))
}

/// A daemon that was not named and does not answer is no failure.
fn version(client: &Client, named: Option<&PathBuf>) -> Result<(), CliError> {
    output::print(&format!("clearway {}\n", env!("CARGO_PKG_VERSION")))?;
    match client.get::<HealthView>("/healthz") {
        Ok(daemon) => output::print(&format!(
            "daemon   {} (pid {}, up {} s)\n",
            daemon.version, daemon.pid, daemon.uptime_s
        )),
        Err(error) if named.is_some() => Err(error),
        Err(_) => Ok(()),
    }
}
