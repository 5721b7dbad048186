//! `config`: the documented configuration file, and its JSON Schema.

use clap::{Args, Subcommand};

use super::print_line;
use crate::config::{EXAMPLE, json_schema};
use crate::error::Ended;

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    #[command(subcommand)]
    command: ShowCommand,
}

#[derive(Debug, Subcommand)]
enum ShowCommand {
    /// Print the configuration file with every key, its default, unit and reason
    Example,
    /// Print the JSON Schema of the configuration file, by which editors complete and check it
    Schema,
}

pub(super) fn run(arguments: &ShowArgs) -> Result<(), Ended> {
    match arguments.command {
        ShowCommand::Example => print_line(EXAMPLE.trim_end()),
        ShowCommand::Schema => print_line(&format!("{:#}", json_schema())),
    }
}
