//! A unit's status as the public status topic holds it: `schemas/status.avsc`, framed like the legs.
//!
//! It is read back by [`Decoder`](super::Decoder). When a status is written is not decided here.

use apache_avro::writer::datum::GenericDatumWriter;
use serde::ser::{Serialize, SerializeTuple, Serializer};

use super::framing::Framing;
use super::schema;
use super::values::{CountsRecord, OffsetsArray, long, millis, record};
use crate::core::feed::UnitFeed;
use crate::core::time::UtcMillis;

/// Encodes statuses with the schema of [`schema::status`]. Build it once: it resolves the schema.
pub struct FeedEncoder {
    writer: GenericDatumWriter<'static>,
}

impl FeedEncoder {
    /// An encoder, to be kept and shared.
    pub fn new() -> Self {
        Self { writer: schema::status().writer() }
    }

    /// Appends the status's message value, header and datum, to `out`.
    pub fn encode(&self, feed: &UnitFeed, framing: &Framing, out: &mut Vec<u8>) {
        framing.write_header(out);
        // Every value of the type fits the schema, which a property test holds.
        self.writer.write_ser(out, &Status(feed)).expect("a status fits its schema");
    }
}

impl Default for FeedEncoder {
    fn default() -> Self {
        Self::new()
    }
}

struct Status<'a>(&'a UnitFeed);

impl Serialize for Status<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let feed = self.0;
        record!(
            serializer,
            &feed.unit,
            &feed.generation,
            &feed.complete_to.as_millis(),
            &feed.final_to.as_millis(),
            &feed.state,
            &feed.since.as_millis(),
            &feed.last_poll_ok.map(UtcMillis::as_millis),
            &feed.at.as_millis(),
            &feed.next_beat_ms,
            &CountsRecord(&feed.counts),
            &OffsetsArray(&feed.out_offsets),
            &feed.owner.to_string(),
            &feed.host,
            feed.delivery.as_str(),
            &feed.version,
            &Some(Lateness(feed)),
            &feed.behind_max.map(millis),
        )
    }
}

struct Lateness<'a>(&'a UnitFeed);

impl Serialize for Lateness<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let UnitFeed { lateness, recommended, .. } = self.0;
        record!(
            serializer,
            &long(lateness.samples()),
            &long(lateness.by_overlap),
            &long(lateness.by_sweep),
            &lateness.closest.map(millis),
            &recommended.map(|recommended| millis(recommended.overlap)),
            &recommended.map(|recommended| recommended.confidence),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::collection::btree_map;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::codec::Decoder;
    use crate::core::dedupe::Counts;
    use crate::core::journal::{Delivery, Nonce, OutOffsets, OutTopic};
    use crate::core::lateness::{self, Recommendation};

    fn own() -> Framing {
        Framing::SingleObject { fingerprint: schema::status().crc64_avro() }
    }

    fn encoded(feed: &UnitFeed) -> Vec<u8> {
        let mut message = Vec::new();
        FeedEncoder::new().encode(feed, &own(), &mut message);
        message
    }

    fn decoded(message: &[u8]) -> serde_json::Value {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(Decoder::new(schema::status(), None).decode(message)).unwrap()
    }

    fn sample() -> UnitFeed {
        UnitFeed {
            unit: "zürich".to_owned(),
            generation: 2,
            complete_to: UtcMillis::new(1_643_898_420_000),
            final_to: UtcMillis::new(1_643_896_620_000),
            state: "catching_up".to_owned(),
            since: UtcMillis::new(1_643_890_000_001),
            last_poll_ok: Some(UtcMillis::new(1_643_898_479_999)),
            at: UtcMillis::new(1_643_898_480_000),
            behind_max: Some(Duration::from_secs(2_100)),
            next_beat_ms: 10_000,
            counts: Counts {
                published: 70,
                duplicate: 600,
                revised: 5,
                dead: 4,
                unfinished: 3,
                beyond_horizon: 2,
                outside: 1,
                held: 8,
                late: 6,
            },
            out_offsets: OutOffsets([((OutTopic::Legs, 5), 1_000_000), ((OutTopic::DeadLetters, 0), 3)].into()),
            owner: Nonce(std::array::from_fn(|index| u8::try_from(index).unwrap() * 17)),
            host: "host-1.example".to_owned(),
            delivery: Delivery::AtLeastOnce,
            version: "0.1.0".to_owned(),
            lateness: lateness::Lateness {
                buckets: vec![60, 0, 9, 1],
                by_overlap: 7,
                by_sweep: 1,
                unmeasured: 12,
                closest: Some(Duration::from_millis(90_500)),
            },
            recommended: Some(Recommendation { overlap: Duration::from_secs(2700), confidence: 0.0625 }),
        }
    }

    /// What a reader gets for a status.
    fn as_json(feed: &UnitFeed) -> serde_json::Value {
        let counts = feed.counts;
        let offsets = feed.out_offsets.0.iter().map(|(&(topic, partition), end)| {
            let topic = if topic == OutTopic::Legs { "legs" } else { "dead-letters" };
            json!({"topic": topic, "partition": partition, "offset": end})
        });
        json!({
            "unit": feed.unit,
            "generation": feed.generation,
            "completeTo": feed.complete_to.as_millis(),
            "finalTo": feed.final_to.as_millis(),
            "state": feed.state,
            "since": feed.since.as_millis(),
            "lastPollOk": feed.last_poll_ok.map(UtcMillis::as_millis),
            "at": feed.at.as_millis(),
            "nextBeatMs": feed.next_beat_ms,
            "counts": {
                "fetched": counts.fetched(),
                "published": counts.published,
                "duplicate": counts.duplicate,
                "revised": counts.revised,
                "late": counts.late,
                "dead": counts.dead,
                "unfinished": counts.unfinished,
                "beyondHorizon": counts.beyond_horizon,
                "outside": counts.outside,
                "held": counts.held,
            },
            "outOffsets": offsets.collect::<Vec<_>>(),
            "owner": feed.owner.to_string(),
            "host": feed.host,
            "delivery": feed.delivery.as_str(),
            "version": feed.version,
            "lateness": {
                "samples": feed.lateness.samples(),
                "byOverlap": feed.lateness.by_overlap,
                "bySweep": feed.lateness.by_sweep,
                "closestToEdgeMs": feed.lateness.closest.map(millis),
                "recommendedOverlapMs": feed.recommended.map(|recommended| millis(recommended.overlap)),
                "confidence": feed.recommended.map(|recommended| recommended.confidence),
            },
            "orderWithinMs": feed.behind_max.map(millis),
        })
    }

    fn feeds() -> impl Strategy<Value = UnitFeed> {
        let topic = prop_oneof![Just(OutTopic::Legs), Just(OutTopic::DeadLetters)];
        let offsets = btree_map((topic, any::<i32>()), any::<i64>(), 0..6).prop_map(OutOffsets);
        let delivery = prop_oneof![Just(Delivery::ExactlyOnce), Just(Delivery::AtLeastOnce)];
        let counts = proptest::collection::vec(0..1_u64 << 60, 9);
        let numbers = (any::<[i64; 4]>(), any::<Option<i64>>(), any::<[u32; 2]>());
        let lateness =
            (proptest::collection::vec(1..1_u64 << 40, 0..9), any::<Option<u32>>(), any::<Option<(u32, u16)>>());
        let delivery = (delivery, lateness);
        (any::<[String; 4]>(), numbers, counts, offsets, any::<[u8; 16]>(), delivery).prop_map(
            |(
                [unit, state, host, version],
                (instants, last_poll_ok, numbers),
                counts,
                out_offsets,
                owner,
                (delivery, (buckets, closest, recommended)),
            )| {
                let [complete_to, final_to, since, at] = instants.map(UtcMillis::new);
                UnitFeed {
                    behind_max: None,
                    unit,
                    generation: numbers[0],
                    complete_to,
                    final_to,
                    state,
                    since,
                    last_poll_ok: last_poll_ok.map(UtcMillis::new),
                    at,
                    next_beat_ms: numbers[1],
                    counts: Counts {
                        published: counts[0],
                        duplicate: counts[1],
                        revised: counts[2],
                        dead: counts[3],
                        unfinished: counts[4],
                        beyond_horizon: counts[5],
                        outside: counts[6],
                        held: counts[8],
                        late: counts[7],
                    },
                    out_offsets,
                    owner: Nonce(owner),
                    host,
                    delivery,
                    version,
                    lateness: lateness::Lateness {
                        by_overlap: buckets.iter().sum(),
                        by_sweep: buckets.len() as u64,
                        buckets,
                        unmeasured: 0,
                        closest: closest.map(|millis| Duration::from_millis(millis.into())),
                    },
                    recommended: recommended.map(|(millis, confidence)| Recommendation {
                        overlap: Duration::from_millis(millis.into()),
                        confidence: f64::from(confidence) / 65_536.0,
                    }),
                }
            },
        )
    }

    /// The golden bytes, header included, belong to the schema's first version. They may change only
    /// together with the schema. fastavro 1.13.1 reads them as the sample and writes the same bytes.
    #[test]
    fn a_sample_status_has_the_golden_bytes() {
        let golden: String = include_str!("golden/status.v1.hex").split_whitespace().collect();
        let hex: String = encoded(&sample()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, golden);
        assert_eq!(decoded(&encoded(&sample())), as_json(&sample()));
    }

    #[test]
    fn the_value_is_appended_in_the_framing_that_was_asked_for() {
        let mut message = b"before".to_vec();
        FeedEncoder::new().encode(&sample(), &Framing::Confluent { schema_id: 7 }, &mut message);
        assert_eq!(message[..11], *b"before\x00\x00\x00\x00\x07");
        assert_eq!(message[11..], encoded(&sample())[10..]);
    }

    proptest! {
        #[test]
        fn every_status_comes_back(feed in feeds()) {
            // Compared as text, since objects are equal whatever their order.
            prop_assert_eq!(decoded(&encoded(&feed)).to_string(), as_json(&feed).to_string());
        }
    }
}
