//! The program: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    call_legs::cli::run(call_legs::cli::Arguments::parse())
}
