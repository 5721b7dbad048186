//! `tail`: what is in a topic, decoded, a JSON line a record.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use rdkafka::message::{Message as _, OwnedMessage};
use tokio_util::sync::CancellationToken;

use super::{look, print_line};
use crate::codec::{Decoder, JournalCodec, journal, schema};
use crate::daemon;
use crate::error::{Ended, Exit, OrExit};
use crate::sink::reader::{From, TopicReader, key_text};
use crate::sink::topics;

#[derive(Debug, Args)]
pub(super) struct TailArgs {
    /// The TOML file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Start with the oldest record that Kafka keeps, not with the next one to come
    #[arg(long)]
    from_beginning: bool,
    /// End at the end of the topic instead of waiting for more
    #[arg(long, requires = "from_beginning")]
    until_end: bool,
    /// End after this many records
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Print the legs of one call only; with --status those of one unit
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Print the status topic: how each unit is
    #[arg(long, conflicts_with = "journal")]
    status: bool,
    /// Print the journal: what the connector remembers in Kafka
    #[arg(long)]
    journal: bool,
}

/// How a topic's records become JSON.
enum Printer {
    Framed(Decoder),
    Journal(Box<JournalCodec>),
}

impl Printer {
    async fn line(&self, message: &OwnedMessage) -> anyhow::Result<String> {
        match self {
            Self::Framed(decoder) => Ok(decoder.decode(message.payload().unwrap_or_default()).await?.to_string()),
            Self::Journal(codec) => {
                let key = key_text(message);
                let record = codec.decode(key.as_bytes(), message.payload())?;
                let record = journal::to_json(&record);
                Ok(serde_json::json!({ "offset": message.offset(), "key": key, "record": record }).to_string())
            }
        }
    }
}

pub(super) async fn run(arguments: TailArgs, stop: CancellationToken) -> Result<(), Ended> {
    let config = look(&arguments.config)?;
    let registry = config.avro.framing.registry().map(daemon::registry).transpose().or_exit(Exit::Usage)?;
    let registry = registry.map(Arc::new);
    let (topic, printer) = match (arguments.status, arguments.journal) {
        (true, _) => (topics::status(&config.kafka.topic), Printer::Framed(Decoder::new(schema::status(), registry))),
        (_, true) => (config.kafka.journal.clone(), Printer::Journal(Box::default())),
        _ => (config.kafka.topic.clone(), Printer::Framed(Decoder::new(schema::call_leg(), registry))),
    };
    let from = if arguments.from_beginning { From::Beginning } else { From::End };
    let kafka = config.kafka.clone();
    let mut reader = tokio::task::spawn_blocking(move || TopicReader::open(&kafka, &topic, from))
        .await
        .unwrap_or_else(|ended| Err(ended.into()))
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
        match printer.line(&message).await {
            Ok(line) => print_line(&line)?,
            Err(error) => return Err(error.context(place)).or_exit(Exit::Sink),
        }
        printed += 1;
    }
    Ok(())
}
