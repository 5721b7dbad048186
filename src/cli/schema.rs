//! `schema`: the Avro schema for those who read the topic, and its registration.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;

use super::{look, print_line};
use crate::codec::registry::subject_of_values;
use crate::codec::schema;
use crate::daemon;
use crate::error::{Ended, Exit, OrExit};

#[derive(Debug, Args)]
pub(super) struct SchemaArgs {
    /// Register the schema with the registry that the configuration names
    #[arg(long, requires = "config")]
    register: bool,
    /// The TOML file; needed to register only
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) async fn run(arguments: SchemaArgs) -> Result<(), Ended> {
    let published = schema::call_leg();
    if !arguments.register {
        print_line(published.text().trim_end())?;
        // On standard error, so that standard output is the schema and nothing else.
        eprintln!("CRC-64-AVRO {:016x}", published.crc64_avro());
        eprintln!("SHA-256     {}", published.sha256());
        return Ok(());
    }
    let Some(path) = arguments.config else {
        return Err(anyhow!("--register needs --config")).or_exit(Exit::Usage);
    };
    let config = look(&path)?;
    let Some(settings) = config.avro.framing.registry() else {
        return Err(anyhow!("avro.schema_registry_url: needed to register the schema")).or_exit(Exit::Usage);
    };
    let registry = daemon::registry(settings).or_exit(Exit::Usage)?;
    let subject = subject_of_values(&config.kafka.topic);
    let id = registry.register(&subject, published.compact()).await.or_exit(Exit::Sink)?;
    print_line(&format!("{subject}: schema id {id}"))
}
