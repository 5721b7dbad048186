//! The real connector as a program of a process, and the real codec for the checks.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use call_legs::clock::Clock;
use call_legs::codec::{Decoder, Framing, JournalCodec, schema};
use call_legs::config::{self, MessageTimestamp, StartFrom};
use call_legs::connector::{Connector, Identity, Pace, RecordTerms, Terms};
use call_legs::core::journal::{Delivery, OutTopic, Record};
use call_legs::core::leg::TimeBasis;
use call_legs::core::privacy::Privacy;
use call_legs::core::shape::Belief;
use call_legs::core::time::UtcMillis;
use call_legs::telemetry::{Metrics, StatusBoard};
use serde_json::Value as Json;

use crate::invariants::{Codec, Status};
use crate::world::{Parts, Program};

/// The connector, as a process runs it.
pub(crate) fn program() -> Program {
    Arc::new(|parts| Box::pin(run(parts)))
}

async fn run(parts: Parts) -> Result<(), String> {
    let Parts { source, cluster, view, clock, instance, process, number, plan, stop, orders } = parts;
    let framing =
        |schema: &call_legs::codec::PublishedSchema| Framing::SingleObject { fingerprint: schema.crc64_avro() };
    let connector = Connector {
        source,
        cluster,
        view,
        clock: clock as Arc<dyn Clock>,
        terms: Terms {
            identity: Identity {
                instance,
                process,
                host: format!("host{number}"),
                admin: format!("host{number}:9464"),
                version: "0.0.0".to_owned(),
            },
            units: plan.units.clone(),
            delivery: match plan.delivery {
                Delivery::ExactlyOnce => config::Delivery::ExactlyOnce,
                Delivery::AtLeastOnce => config::Delivery::Auto,
            },
            beat: plan.beat,
            journal: "legs.journal".to_owned(),
            topic: "legs".to_owned(),
            source: 1,
            status_framing: framing(schema::status()),
        },
        records: RecordTerms {
            framing: framing(schema::call_leg()),
            timestamp: MessageTimestamp::Disconnect,
            time_basis: TimeBasis::Disconnect,
            delays: plan.delays,
            apart_max: plan.interval * 3,
            behind_max: Some(plan.delays.behind_max(plan.interval)),
            revisions: plan.revisions,
            // A third of the rows may be rubbish where there are few.
            dead_ratio_max: 1.0,
            privacy: Privacy::default(),
            are_unreadable_rows_shown: false,
        },
        pace: Pace {
            interval: plan.interval,
            poll_budget: plan.poll_budget,
            window_max: plan.window_max,
            page_rows: 1_000,
            request_every: std::time::Duration::from_secs(1),
            behind_max: Some(plan.delays.behind_max(plan.interval)),
            window_rows: plan.window_rows,
            clock_tolerance: plan.clock_tolerance,
            time_zone: plan.zone,
            delays: plan.delays,
            sweeps: plan.sweeps.clone(),
            belief: Belief { ratio_max: 1.0, time_basis: TimeBasis::Disconnect },
        },
        start_from: Some(StartFrom::Ago(plan.start_ago)),
        status: StatusBoard::default(),
        metrics: Arc::new(Metrics::default()),
        orders,
    };
    connector.run(stop).await.map_err(|error| error.to_string())
}

/// Reads what the connector writes.
pub(crate) struct AvroCodec {
    journal: JournalCodec,
    status: Decoder,
    legs: Decoder,
}

impl AvroCodec {
    /// A codec without a registry.
    pub(crate) fn new() -> Self {
        Self {
            journal: JournalCodec::new(),
            status: Decoder::new(schema::status(), None),
            legs: Decoder::new(schema::call_leg(), None),
        }
    }
}

/// The value of a future that never waits.
fn at_once<T>(future: impl Future<Output = T>) -> Result<T, String> {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Ok(value),
        Poll::Pending => Err("the decoder waits".to_owned()),
    }
}

fn decoded(decoder: &Decoder, payload: &[u8]) -> Result<Json, String> {
    at_once(decoder.decode(payload))?.map_err(|error| error.to_string())
}

impl Codec for AvroCodec {
    fn journal(&self, key: &[u8], payload: Option<&[u8]>) -> Result<Record, String> {
        self.journal.decode(key, payload).map_err(|error| error.to_string())
    }

    fn status(&self, payload: &[u8]) -> Result<Status, String> {
        let json = decoded(&self.status, payload)?;
        let number = |name: &str| json[name].as_i64().ok_or_else(|| format!("no number {name} in {json}"));
        let text =
            |name: &str| json[name].as_str().map(str::to_owned).ok_or_else(|| format!("no text {name} in {json}"));
        let mut out_offsets = BTreeMap::new();
        for end in json["outOffsets"].as_array().into_iter().flatten() {
            let topic = if end["topic"] == "legs" { OutTopic::Legs } else { OutTopic::DeadLetters };
            let partition = end["partition"].as_i64().and_then(|number| i32::try_from(number).ok());
            let (Some(partition), Some(offset)) = (partition, end["offset"].as_i64()) else {
                return Err(format!("an end without a place in {json}"));
            };
            out_offsets.insert((topic, partition), offset);
        }
        Ok(Status {
            unit: text("unit")?,
            generation: u32::try_from(number("generation")?).map_err(|error| error.to_string())?,
            complete_to: UtcMillis::new(number("completeTo")?),
            final_to: UtcMillis::new(number("finalTo")?),
            state: text("state")?,
            next_beat_ms: number("nextBeatMs")?.unsigned_abs(),
            out_offsets,
        })
    }

    fn is_late(&self, payload: &[u8]) -> Result<Option<bool>, String> {
        Ok(decoded(&self.legs, payload)?["ingest"]["late"].as_bool())
    }
}
