//! The command line: what the program can be asked to do.

mod audit;
mod backfill;
mod check;
mod config;
mod dead_letters;
mod demo;
mod kafka;
mod owner;
mod pages;
mod progress;
mod run;
mod schema;
mod state;
mod status;
mod tail;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::anyhow;
use clap::{Args, Parser, Subcommand};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::error::{Ended, Exit, OrExit};
use crate::panics;
use crate::sandbox::SandboxArgs;

/// Polls the 8x8 Work Analytics call-legs API and publishes every call leg to Kafka.
///
/// Try it with nothing installed and no account: call-legs demo --for 30s
#[derive(Debug, Parser)]
#[command(version, long_version = pages::LONG_VERSION.as_str(), max_term_width = 100, after_long_help = EXIT_CODES)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  stopped as asked
  1  internal: please report it
  2  command line or configuration
  3  refused by the source (check, audit)
  4  refused by Kafka or the schema registry
  5  the state directory or the journal cannot be used, or another instance owns it
  6  the audit found differences, or could not compare the whole period
  7  the connector is not ready, or does not answer (status)";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon: poll, publish, remember, until SIGTERM or SIGINT
    ///
    /// It waits for Kafka, the schema registry and the API as long as they are away, and ends by
    /// itself only for what no waiting mends. How it is: /readyz, /healthz and /metrics at
    /// admin.listen, and its log on standard error, whose level is read again at SIGHUP.
    Run(ConfigArgs),
    /// Show the whole way with nothing installed: simulated API, embedded Kafka, connector, consumer
    Demo(demo::DemoArgs),
    /// Show how the running connector is: its status page, in the terminal
    ///
    /// One sentence, then each unit: its state, watermarks, newest polls and late legs. Ends with exit code 7
    /// unless the connector is ready.
    Status(status::StatusArgs),
    /// Validate a configuration and ask API, Kafka and registry once; writes nothing, works beside a live daemon
    ///
    /// One line each for the configuration, the state directory, the token, a report of each PBX, the requests that
    /// polls take, the clocks, the topics with what run would create, where the first read begins, and the schema
    /// registry, with what to do about a failure. The exit code is that of the first failure.
    Check(check::CheckArgs),
    /// Compare the topic with the API leg by leg, for a period of disconnect time; changes nothing
    ///
    /// It reads the period from the API and both topics of legs from their beginnings, and works beside
    /// a live daemon, with a request budget of its own. It prints a table per UTC day and unit, the first
    /// differences and a verdict, and ends with exit code 6 unless all is equal. Of a row nothing is
    /// printed but callId and legId.
    Audit(audit::AuditArgs),
    /// Print the topic's legs, the status or the journal as JSON lines
    Tail(tail::TailArgs),
    /// Show the journal, compare the view with it, and change deliberately how far was read
    ///
    /// Changes are asked of the running owner. Without one the command becomes the owner until it is
    /// through; beside an owner elsewhere that is at work it is refused, with the owner's address.
    State(state::StateArgs),
    /// Read a past period, as far as it was never read
    ///
    /// The owner reads it behind its polls, within the same request budget, and goes on after a crash.
    /// Ending this command ends what it shows. Without a running daemon the command becomes the owner.
    Backfill(backfill::BackfillArgs),
    /// Tell of rows that could not be legs, and replay those that this version takes for legs
    ///
    /// The running owner replays them, each leg once, beside its polls. Without one the command becomes the owner
    /// until it is through. Of a row nothing is printed.
    DeadLetters(dead_letters::DeadLettersArgs),
    /// Serve a simulated 8x8 API, with faults and late rows on request
    Sandbox(SandboxArgs),
    /// Print the Avro schema and its fingerprints, or register it
    Schema(schema::SchemaArgs),
    /// Print the configuration file with every key, or its JSON Schema for editors
    Config(config::ShowArgs),
    /// Print what has to be allowed in Kafka
    Kafka(kafka::KafkaArgs),
    /// Print what completes the commands in a shell
    Completions(pages::CompletionsArgs),
    /// Print the manual page
    Man(pages::ManArgs),
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// The TOML file; CALL_LEGS_SECTION__KEY variables override its keys
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Does what the arguments ask for; errors go to standard error.
pub fn run(arguments: Arguments) -> ExitCode {
    panics::tell();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Ended { exit: Exit::Internal, error: error.into() }),
    };
    let ended = runtime.block_on(dispatch(arguments.command));
    // Kafka's threads and blocking store calls may still hold on to work that was given up.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(ended) => fail(&ended),
    }
}

async fn dispatch(command: Command) -> Result<(), Ended> {
    let stop = stop_on_signals().or_exit(Exit::Internal)?;
    match command {
        Command::Run(arguments) => run::run(&arguments.config, stop).await,
        Command::Demo(arguments) => demo::run(arguments, stop).await,
        Command::Status(arguments) => unless_stopped(status::run(arguments), &stop).await,
        Command::Check(arguments) => unless_stopped(check::run(arguments), &stop).await,
        Command::Audit(arguments) => unless_stopped(audit::run(arguments), &stop).await,
        Command::Tail(arguments) => tail::run(arguments, stop).await,
        Command::State(arguments) => unless_stopped(state::run(arguments), &stop).await,
        Command::Backfill(arguments) => backfill::run(arguments, stop).await,
        Command::DeadLetters(arguments) => dead_letters::run(arguments, stop).await,
        Command::Sandbox(arguments) => {
            crate::sandbox::run(arguments, stop.cancelled_owned()).await.or_exit(Exit::Usage)
        }
        Command::Schema(arguments) => unless_stopped(schema::run(arguments), &stop).await,
        Command::Config(arguments) => config::run(&arguments),
        Command::Kafka(arguments) => kafka::run(arguments),
        Command::Completions(arguments) => pages::completions(&arguments),
        Command::Man(arguments) => pages::man(&arguments),
    }
}

async fn unless_stopped(
    command: impl Future<Output = Result<(), Ended>>,
    stop: &CancellationToken,
) -> Result<(), Ended> {
    tokio::select! {
        ended = command => ended,
        () = stop.cancelled() => Err(anyhow!("interrupted")).or_exit(Exit::Internal),
    }
}

fn fail(ended: &Ended) -> ExitCode {
    // Whoever read the output has seen enough.
    let pipe = ended.error.downcast_ref::<io::Error>();
    if pipe.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    // The one place where a chain of causes is printed; where not even that works, the code remains.
    let _ = writeln!(io::stderr(), "call-legs: {:#}", ended.error);
    ended.exit.into()
}

fn load(path: &Path) -> Result<Config, Ended> {
    Config::load(Some(path), std::env::vars_os()).or_exit(Exit::Usage)
}

/// The same for those who only look: without `state.dir`, and each secret is read only where it is needed.
fn look(path: &Path) -> Result<Config, Ended> {
    Config::read(Some(path), std::env::vars_os()).or_exit(Exit::Usage)
}

/// A token that SIGTERM or SIGINT cancels.
fn stop_on_signals() -> io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stopped = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopped.cancel();
    });
    Ok(stop)
}

/// Writes a line to standard output; whoever reads it may have left, which ends the command.
fn print_line(line: &str) -> Result<(), Ended> {
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush())
        .or_exit(Exit::Internal)
}
