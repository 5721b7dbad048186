//! The program: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;

/// Bodies and record batches of megabytes come and go all day: glibc's allocator keeps half as much again beside them.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    call_legs::cli::run(call_legs::cli::Arguments::parse())
}
