//! Journals and state directories that earlier builds have written, in `tests/data/journals`: this build reads them all.
//!
//! What is in such a directory, its README says; `write_journals` makes a new one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use call_legs::codec::JournalCodec;
use call_legs::codec::journal::to_json;
use call_legs::core::dedupe::Seen;
use call_legs::core::identity::{Fingerprint, KeyHash};
use call_legs::core::journal::{Record, Seq};
use call_legs::core::ledger::Ledger;
use call_legs::core::time::UtcMillis;
use call_legs::sandbox::api::Rules;
use call_legs::sandbox::{Sandbox, Settings};
use call_legs::store::{SledView, View};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::dead_letters::{count, said};
use super::rig::{Rig, read_committed, sandbox_settings};
use super::support::kafka::Kafka;

/// Where they are.
pub(super) const JOURNALS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/journals");
const SCHEMAS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas");

/// What follows a topic's name, and the file that holds its records.
pub(super) const TOPICS: [(&str, &str); 3] =
    [("", "legs.txt"), (".dead-letter", "dead-letters.txt"), (".journal", "journal.txt")];

/// What both builds are told, so that they see the same source and the same topics.
pub(super) const SETTINGS: [&str; 4] =
    ["kafka.partitions = 2", "poll.overlap = \"1h\"", "policy.revisions = \"publish\"", "dead_letter.max_ratio = 1"];
pub(super) const SWEPT: &str = "lookback_s=604800";

/// A record of a topic.
#[derive(Debug, PartialEq)]
pub(super) struct Stored {
    partition: i32,
    offset: i64,
    timestamp: i64,
    key: Option<String>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
}

impl Stored {
    /// With its value or without.
    pub(super) fn of(message: &OwnedMessage, keeps_value: bool) -> Self {
        let headers = message.headers().into_iter().flat_map(Headers::iter);
        Self {
            partition: message.partition(),
            offset: message.offset(),
            timestamp: message.timestamp().to_millis().unwrap(),
            key: message.key().map(|key| String::from_utf8(key.to_vec()).unwrap()),
            value: message.payload().filter(|_| keeps_value).map(<[u8]>::to_vec),
            headers: headers.map(|header| (header.key.to_owned(), header.value.unwrap().to_vec())).collect(),
        }
    }

    pub(super) fn line(&self) -> String {
        let Self { partition, offset, timestamp, key, value, headers } = self;
        let value = value.as_ref().map_or("-".to_owned(), |value| BASE64.encode(value));
        let headers: String =
            headers.iter().map(|(name, value)| format!("\t{name}={}", BASE64.encode(value))).collect();
        format!("{partition}\t{offset}\t{timestamp}\t{}\t{value}{headers}\n", key.as_deref().unwrap_or("-"))
    }

    fn parse(line: &str) -> Self {
        let fields: Vec<&str> = line.split('\t').collect();
        let given = |field: &str| (field != "-").then(|| field.to_owned());
        let header = |field: &&str| {
            let (name, value) = field.split_once('=').unwrap();
            (name.to_owned(), BASE64.decode(value).unwrap())
        };
        Self {
            partition: fields[0].parse().unwrap(),
            offset: fields[1].parse().unwrap(),
            timestamp: fields[2].parse().unwrap(),
            key: given(fields[3]),
            value: given(fields[4]).map(|value| BASE64.decode(value).unwrap()),
            headers: fields[5..].iter().map(header).collect(),
        }
    }

    fn read(path: &Path) -> Vec<Self> {
        fs::read_to_string(path).unwrap().lines().map(Self::parse).collect()
    }

    fn identity(&self) -> Option<&[u8]> {
        self.headers.iter().find(|(name, _)| name == KeyHash::HEADER).map(|(_, value)| value.as_slice())
    }
}

/// A journal with its records decoded, in their order.
fn decoded(unpacked: &Path) -> Vec<(i64, String, Record)> {
    let codec = JournalCodec::new();
    let decode = |stored: Stored| {
        let key = stored.key.unwrap();
        let record = codec.decode(key.as_bytes(), stored.value.as_deref());
        (stored.offset, key, record.unwrap_or_else(|error| panic!("offset {}: {error}", stored.offset)))
    };
    Stored::read(&unpacked.join("journal.txt")).into_iter().map(decode).collect()
}

fn fold(records: &[(i64, String, Record)]) -> Ledger {
    let mut ledger = Ledger::default();
    for (offset, _, record) in records {
        ledger.take(*offset, record).unwrap_or_else(|error| panic!("offset {offset}: {error}"));
    }
    ledger.check().unwrap();
    ledger
}

/// What is remembered of each identity that counts: its newest page, and what that says.
fn remembered(ledger: &Ledger, records: &[(i64, String, Record)]) -> BTreeMap<KeyHash, (Seq, Seen)> {
    let mut known = BTreeMap::new();
    for (_, _, record) in records {
        if let Record::Page(page) = record
            && ledger.is_live(page.seq, &page.unit, page.generation)
        {
            known.extend(page.entries().map(|entry| (entry.key, (page.seq, entry.seen))));
        }
    }
    known
}

/// What a journal adds up to, as `golden.json` has it.
pub(super) fn summary(unpacked: &Path) -> Value {
    let records = decoded(unpacked);
    let ledger = fold(&records);
    let head = &ledger.head;
    let units = head.units.iter().map(|(name, unit)| (name.clone(), to_json(&Record::Progress(unit.clone()))));
    let hours = head.hours.iter().map(|(name, known)| {
        let sum = |of: fn(&call_legs::core::hours::HourCounts) -> u64| known.hours.values().map(of).sum::<u64>();
        let compared = sum(|hour| hour.compared.map_or(0, |compared| compared.seen));
        let counts = (sum(|hour| hour.rows.published), sum(|hour| hour.rows.dead), compared);
        (name.clone(), json!({"generation": known.generation, "hours": known.hours.len(), "publishedDeadSeen": counts}))
    });
    let days = head.days.iter().map(|(name, days)| (name, days.iter().map(ToString::to_string).collect::<Vec<_>>()));
    let of_pages = |of: fn(&call_legs::core::ledger::PageMeta) -> u32| ledger.pages.values().map(of).sum::<u32>();
    json!({
        "genesis": head.genesis.clone().map(|genesis| to_json(&Record::Genesis(genesis))),
        "claim": head.claim.clone().map(|claim| to_json(&Record::Claim(claim))),
        "units": units.collect::<BTreeMap<_, _>>(),
        "backfills": head.backfills.values().map(|known| to_json(&Record::Backfill(known.clone()))).collect::<Vec<_>>(),
        "hours": hours.collect::<BTreeMap<_, _>>(),
        "days": days.collect::<BTreeMap<_, _>>(),
        "pages": ledger.pages.len(),
        "pageEntries": of_pages(|page| page.entries),
        "pagePublished": of_pages(|page| page.published),
        "identities": remembered(&ledger, &records).len(),
        "lastSeq": head.last_seq,
        "oldestNeededSeq": head.oldest_needed_seq(),
        "missingBelow": head.missing_below,
        "nextOffset": head.next_offset,
    })
}

fn written() -> Vec<PathBuf> {
    let entries = fs::read_dir(JOURNALS).unwrap().map(|entry| entry.unwrap().path());
    let mut dirs: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    dirs.sort();
    assert!(dirs.len() >= 2, "one for each mode at least");
    dirs
}

fn golden(dir: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(dir.join("golden.json")).unwrap()).unwrap()
}

fn unpack(dir: &Path) -> TempDir {
    let unpacked = TempDir::new().unwrap();
    let status = Command::new("tar").arg("-xzf").arg(dir.join("files.tar.gz")).arg("-C").arg(unpacked.path()).status();
    assert!(status.unwrap().success());
    unpacked
}

#[test]
fn each_adds_up_to_what_it_did() {
    for dir in written() {
        assert_eq!(summary(unpack(&dir).path()), golden(&dir)["ledger"], "{}", dir.display());
    }
}

/// The kind of a record. Whoever adds one adds it to what `write_journals` brings about, too.
fn kind(key: &str, record: &Record) -> &'static str {
    match record {
        Record::Genesis(_) => "genesis",
        Record::Claim(_) => "claim",
        Record::Page(_) => "page",
        Record::Progress(_) => "progress",
        Record::Backfill(_) => "backfill",
        Record::BackfillForgotten(_) => "backfill-forgotten",
        Record::Day(_) => "hours",
        Record::DayForgotten(..) => "hours-forgotten",
        Record::Replayed(_) => "replayed",
        Record::Nothing if key.starts_with("p/") => "page-forgotten",
        Record::Nothing => "marker",
    }
}

#[test]
fn each_mode_has_every_kind_of_record() {
    let mut of_mode: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for dir in written() {
        let mode = golden(&dir)["written"]["delivery"].as_str().unwrap().to_owned();
        for (_, key, record) in decoded(unpack(&dir).path()) {
            let json = to_json(&record);
            let found = of_mode.entry(mode.clone()).or_default();
            found.insert(kind(&key, &record).to_owned());
            let details = [&json["state"], &json["outcome"], &json["change"]["what"], &json["released"]];
            found.extend(details.into_iter().filter(|value| !value.is_null()).map(ToString::to_string));
            found.extend((json["generation"] == 1).then(|| "generation 1".to_owned()));
            found.extend((json["writer"].is_string()).then(|| "a page's writer".to_owned()));
            found.extend((json["dead"].as_u64() > Some(0)).then(|| "a page's dead rows".to_owned()));
        }
    }
    let schemas = fs::read_dir(SCHEMAS).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let with_value = schemas.filter_map(|name| Some(name.strip_prefix("journal-")?.strip_suffix(".avsc")?.to_owned()));
    let more = [
        "backfill-forgotten hours-forgotten page-forgotten",
        "\"running\" \"done\" \"cancelled\" \"published\" \"known\" \"started\" \"rewound\" \"accepted\" true false",
    ];
    let more = more.iter().flat_map(|names| names.split(' ')).chain(["generation 1", "a page's dead rows"]);
    let every: BTreeSet<String> = with_value.chain(more.map(str::to_owned)).collect();
    for (mode, only) in [("exactly-once", "marker"), ("at-least-once", "a page's writer")] {
        let missing: Vec<_> =
            every.iter().map(String::as_str).chain([only]).filter(|kind| !of_mode[mode].contains(*kind)).collect();
        assert!(missing.is_empty(), "{mode}: no {missing:?}");
    }
}

/// Whether this build can use the view: not one of another version of the fingerprint, which it builds anew. Nor one of
/// another layout: a build that has another one says so here.
fn can_use_view(golden: &Value) -> bool {
    golden["ledger"]["genesis"]["fingerprintVersion"] == Fingerprint::VERSION
}

#[tokio::test(flavor = "multi_thread")]
async fn each_state_directory_equals_its_journal() {
    for dir in written() {
        let unpacked = unpack(&dir);
        let view = SledView::open(&unpacked.path().join("state")).unwrap();
        let loaded = view.load().await.unwrap();
        assert_eq!(loaded.is_some(), can_use_view(&golden(&dir)), "{}", dir.display());
        let Some(loaded) = loaded else { continue };
        let mut records = decoded(unpacked.path());
        let known = remembered(&fold(&records), &records);
        records.retain(|(offset, ..)| *offset < loaded.head.next_offset);
        let mut expected = fold(&records);
        expected.head.next_offset = loaded.head.next_offset;
        assert_eq!(loaded, expected, "{}", dir.display());

        let found = view.find(known.keys().copied().collect()).await.unwrap();
        for ((key, (seq, seen)), found) in known.iter().zip(found) {
            let found = found.unwrap_or_else(|| panic!("{}: the view lacks {key:?}", dir.display()));
            assert_eq!((found.seq, found.seen), (*seq, *seen), "{}", dir.display());
        }
        let all = view.entries_after(None).await.unwrap();
        let live = all.iter().filter(|(_, known)| loaded.is_live(known.seq, &known.unit, known.generation));
        assert_eq!(
            live.map(|(key, _)| *key).collect::<BTreeSet<_>>(),
            known.into_keys().collect(),
            "{}",
            dir.display()
        );
    }
}

/// The topics as they were, each record at its offset. What was between the records, ends of transactions and what was
/// aborted, is filled with what means nothing.
async fn put_into_kafka(kafka: &Kafka, unpacked: &Path, about: &Value) {
    let mut settings = ClientConfig::new();
    settings.set("bootstrap.servers", kafka.bootstrap());
    let admin: AdminClient<DefaultClientContext> = settings.create().unwrap();
    let producer: FutureProducer = settings.clone().set("enable.idempotence", "true").create().unwrap();
    for (suffix, file) in TOPICS {
        let topic = format!("{}{suffix}", about["topic"].as_str().unwrap());
        let is_journal = suffix == ".journal";
        let ends: Vec<i64> = serde_json::from_value(about["ends"][file].clone()).unwrap();
        let new = NewTopic::new(&topic, i32::try_from(ends.len()).unwrap(), TopicReplication::Fixed(1));
        let new = new.set("cleanup.policy", if is_journal { "compact" } else { "delete" });
        admin.create_topics([&new], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
        let records = Stored::read(&unpacked.join(file));
        let records: BTreeMap<(i32, i64), &Stored> =
            records.iter().map(|stored| ((stored.partition, stored.offset), stored)).collect();
        let mut sent = Vec::new();
        for (partition, end) in (0..).zip(ends) {
            for offset in 0..end {
                let record = FutureRecord::<str, [u8]>::to(&topic).partition(partition);
                let record = match records.get(&(partition, offset)) {
                    Some(stored) => {
                        let headers = stored.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                            headers.insert(Header { key, value: Some(value) })
                        });
                        let record = record.timestamp(stored.timestamp).headers(headers);
                        FutureRecord { key: stored.key.as_deref(), payload: stored.value.as_deref(), ..record }
                    }
                    None if is_journal => record.key("x/"),
                    None => record.payload(&[]),
                };
                sent.push((offset, producer.send_result(record).map_err(|(error, _)| error).unwrap()));
            }
        }
        producer.flush(Duration::from_secs(60)).unwrap();
        for (offset, sent) in sent {
            assert_eq!(sent.await.unwrap().unwrap().offset, offset, "{topic}");
        }
    }
}

/// Legs and dead letters in Kafka, each as often as it is there.
fn published(kafka: &Kafka, topic: &str) -> [BTreeMap<Vec<u8>, u32>; 2] {
    ["", ".dead-letter"].map(|suffix| {
        let mut found: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
        for message in read_committed(kafka.bootstrap(), &format!("{topic}{suffix}")) {
            if let Some(identity) = Stored::of(&message, false).identity() {
                *found.entry(identity.to_vec()).or_default() += 1;
            }
        }
        found
    })
}

/// Waits until each unit was swept once from the beginning to the end, seven days back.
pub(super) async fn swept_whole(rig: &Rig) {
    let swept = |unit: &String| {
        let is_of = |line: &&str| line.contains(SWEPT) && line.contains(&format!("unit=\"{unit}\""));
        rig.log().lines().filter(is_of).count()
    };
    let before: Vec<(&String, usize)> = rig.sandbox.api().pbxes().iter().map(|unit| (unit, swept(unit))).collect();
    rig.until("two more sweeps of each unit", async || before.iter().all(|(unit, known)| swept(unit) >= known + 2))
        .await;
}

/// Goes on where the earlier build has ended, first at the time at which it did, then now, then without its view.
async fn goes_on(kafka: &Kafka, dir: &Path) {
    let (about, unpacked) = (golden(dir)["written"].clone(), unpack(dir));
    put_into_kafka(kafka, unpacked.path(), &about).await;
    let topic = about["topic"].as_str().unwrap();
    let before = published(kafka, topic);
    assert!(before.iter().all(|found| !found.is_empty()));

    let now = UtcMillis::new(about["sandboxNow"].as_i64().unwrap());
    let rules = Rules { two_year_limit: false, ..Rules::default() };
    let replay = Some(unpacked.path().join("rows.json"));
    let settings = Settings { replay, rules, now: Some(now), ..sandbox_settings(0, Duration::ZERO) };
    let state = unpacked.path().join("state");
    let keys = [
        format!("kafka.topic = {topic:?}"),
        format!("state.dir = {state:?}"),
        "sweeps = [{every = \"3s\", lookback = \"7d\"}]".to_owned(),
        // For as many years as it may take until it is read again.
        "poll.max_window = \"31d\"".to_owned(),
        "source.pbx_ids = [\"acme-east\", \"acme-west\", \"acme-labs\"]".to_owned(),
    ];
    let keys: Vec<&str> = SETTINGS.into_iter().chain(keys.iter().map(String::as_str)).collect();
    let rig = Rig::new(Sandbox::start(settings).await.unwrap(), kafka.bootstrap(), &keys);
    let equal = "the view equals the journal";
    let has_view = can_use_view(&golden(dir));
    assert_eq!(said(&rig, &["state", "verify"]).contains(equal), has_view, "{}", dir.display());
    assert!(said(&rig, &["state", "show"]).contains("generation 1"), "{}", dir.display());

    let published_nothing = async || {
        for result in ["published", "revised"] {
            assert_eq!(rig.metric("call_legs_rows_total", &format!("result=\"{result}\"")).await, 0.0, "{result}");
        }
        assert_eq!(published(kafka, topic), before, "{}", dir.display());
        assert!(said(&rig, &["state", "verify"]).contains(equal), "{}", dir.display());
    };
    let daemon = rig.start();
    swept_whole(&rig).await;
    let is_emptied = rig.log().contains("is emptied") || rig.log().contains("built anew");
    assert!(!has_view || !is_emptied, "{}", rig.last_words());
    let read_again = rig.metric("call_legs_rows_total", "result=\"duplicate\"").await;
    assert!(read_again >= 100.0, "{read_again}");
    published_nothing().await;
    let letters = said(&rig, &["dead-letters", "replay", "--yes"]);
    assert_eq!(count(&letters, "replayed before") as u64, about["replayed"].as_u64().unwrap(), "{letters}");
    assert_eq!(count(&letters, "published"), 0, "{letters}");
    rig.sandbox.set_now(chrono::Utc::now().into());
    rig.polled_whole(2).await;
    published_nothing().await;
    assert!(daemon.terminate().0.success());

    fs::remove_dir_all(state.join("store")).unwrap();
    rig.sandbox.set_now(now);
    let daemon = rig.start();
    swept_whole(&rig).await;
    published_nothing().await;
    assert!(daemon.terminate().0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn this_build_goes_on_where_each_ended_and_publishes_nothing_twice() {
    let kafka = Kafka::start_private();
    for dir in written() {
        goes_on(&kafka, &dir).await;
    }
}
