//! Completion scripts and manual pages, made from the command line's definition.

use clap::CommandFactory;

use super::args::{Cli, Completions, Man};
use super::error::CliError;
use super::output;

/// Prints a completion script.
pub(crate) fn completions(args: &Completions) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "clearway", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}

/// Prints clearway(1), or writes the pages of all commands into a folder.
pub(crate) fn man(args: &Man) -> Result<(), CliError> {
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command())
            .render(&mut page)
            .map_err(CliError::Output)?;
        return output::print(&String::from_utf8_lossy(&page));
    };
    let failed = |attempt| {
        move |source| CliError::File {
            attempt,
            path: dir.clone(),
            source,
        }
    };
    std::fs::create_dir_all(dir).map_err(failed("making the folder"))?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(failed("writing manual pages into"))
}
