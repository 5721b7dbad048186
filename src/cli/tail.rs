//! `tail`: what is in the topic, decoded, a JSON line a leg.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::anyhow;
use clap::Args;
use rdkafka::message::Message as _;
use tokio_util::sync::CancellationToken;

use super::{load, print_line};
use crate::codec::{Decoder, schema};
use crate::daemon;
use crate::error::{Ended, Exit, OrExit};
use crate::sink::SinkError;
use crate::sink::reader::{From, TopicReader, key_text};

#[derive(Debug, Args)]
pub(super) struct TailArgs {
    /// The TOML file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Start with the oldest leg that Kafka keeps, not with the next one to come
    #[arg(long)]
    from_beginning: bool,
    /// End at the end of the topic instead of waiting for more
    #[arg(long, requires = "from_beginning")]
    until_end: bool,
    /// End after this many legs
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Print the legs of one call only
    #[arg(long, value_name = "CALLID")]
    key: Option<String>,
}

pub(super) async fn run(arguments: TailArgs, stop: CancellationToken) -> Result<(), Ended> {
    let config = load(&arguments.config)?;
    let registry = config.avro.framing.registry().map(daemon::registry).transpose().or_exit(Exit::Usage)?;
    let decoder = Decoder::new(schema::call_leg(), registry.map(Arc::new));
    let from = if arguments.from_beginning { From::Beginning } else { From::End };
    let kafka = config.kafka.clone();
    let mut reader = tokio::task::spawn_blocking(move || TopicReader::open(&kafka, &kafka.topic, from))
        .await
        .unwrap_or_else(|error| Err(SinkError::Unavailable(error.to_string())))
        .or_exit(Exit::Sink)?;
    let mut printed = 0;
    while arguments.limit.is_none_or(|limit| printed < limit) {
        let message = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            message = reader.next() => message.or_exit(Exit::Sink)?,
        };
        let Some(message) = message else {
            if arguments.until_end {
                return Ok(());
            }
            continue;
        };
        let key = key_text(&message);
        if arguments.key.as_ref().is_some_and(|wanted| *wanted != key) {
            continue;
        }
        let place = format!("partition {} offset {}", message.partition(), message.offset());
        match decoder.decode(message.payload().unwrap_or_default()).await {
            Ok(leg) => print_line(&leg.to_string())?,
            Err(error) => return Err(anyhow!(error).context(place)).or_exit(Exit::Sink),
        }
        printed += 1;
    }
    Ok(())
}
