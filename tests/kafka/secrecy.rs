//! Nothing that is logged, shown or said holds a secret, or anything of a row: looked for in all that a faulty run gives out.

use std::collections::BTreeSet;
use std::process::Output;
use std::time::Duration;

use aho_corasick::AhoCorasick;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use call_legs::core::leg::FIELDS;
use call_legs::sandbox::api::Credentials;
use call_legs::sandbox::dataset::DatasetSettings;
use call_legs::sandbox::{Sandbox, Settings};
use rdkafka::message::Message;
use serde_json::Value;

use super::rig::{Rig, read_committed, sandbox_settings};
use super::support::kafka::kafka;

const HOUR: Duration = Duration::from_secs(3600);

/// A share of all that goes wrong with requests and rows.
const FAULTS: &str = "429=3%,500=3%,reset=3%,cut=3%,html=3%,expired=5%,short=3%,loop=3%,garbage=2%";

/// Beside the personal fields, those whose texts must not be told either: devices, places, what leads to a person's calls, and
/// what nobody knows.
const TELLING_TOO: [&str; 10] = [
    "callerDeviceId",
    "callerDeviceModel",
    "calleeDeviceId",
    "calleeDeviceModel",
    "callId",
    "legId",
    "parentCallId",
    "transferToCallId",
    "branches",
    "extra",
];

/// Shorter ones are in many words.
const TELLING: usize = 7;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_given_out_holds_a_secret_or_anything_of_a_row() {
    let mut settings = Settings { faults: FAULTS.parse().unwrap(), ..sandbox_settings(1_500, HOUR) };
    settings.dataset = DatasetSettings { rate: 5.0, revised_share: 0.2, ..settings.dataset };
    let mut rig = Rig::new(Sandbox::start(settings).await.unwrap(), kafka().bootstrap(), &["source.page_size = 100"]);
    let began = token_prefix(&rig);
    let daemon = rig.start_with_log_level("trace");
    rig.polled_whole(2).await;
    let mut given_out = Vec::new();
    for path in ["/", "/status.json", "/metrics", "/readyz"] {
        given_out.push((path.to_owned(), rig.page(path).await.unwrap().1));
    }
    for command in [
        ["check"].as_slice(),
        &["status"],
        &["status", "--json"],
        &["state", "show"],
        &["state", "verify"],
        &["dead-letters", "list"],
        &["dead-letters", "replay", "--yes"],
        &["backfill", "--from", "now-3h", "--to", "now", "--detach"],
    ] {
        given_out.push((command.join(" "), said(&rig.run(command))));
    }
    rig.polled_whole(1).await;
    assert!(daemon.terminate().0.success());

    // What the API refuses is the likeliest to be told word by word.
    let Credentials { api_key, username, password } = rig.sandbox.api().credentials().clone();
    let wrong = "wrong-and-not-to-be-seen";
    for (key, right) in [("source.password", &password), ("source.api_key", &api_key)] {
        rig.set(key, &format!("{wrong:?}"));
        let daemon = rig.start_with_log_level("trace");
        rig.until("a refusal", async || {
            rig.page("/readyz").await.is_some_and(|(_, page)| page.contains("source_auth"))
        })
        .await;
        given_out.push((format!("/ with a wrong {key}"), rig.page("/").await.unwrap().1));
        drop(daemon);
        given_out.push((format!("check with a wrong {key}"), said(&rig.run(&["check"]))));
        rig.set(key, &format!("{right:?}"));
    }
    given_out.push(("the log".to_owned(), rig.log()));

    let log = &given_out.last().unwrap().1;
    assert!(log.lines().filter(|line| line.contains("TRACE")).count() > 100, "the libraries' lines are looked at, too");
    let personal = personal_texts(&rig);
    assert!(personal.len() > 1_000, "{}", personal.len());
    let mut secrets: Vec<String> = personal.into_iter().collect();
    secrets.extend([api_key, username, password, wrong.to_owned(), began, token_prefix(&rig)]);
    let search = AhoCorasick::new(&secrets).unwrap();
    assert!(search.is_match(&said(&rig.run(&["tail", "--from-beginning", "--limit", "1"]))), "it finds what is there");
    for (from, text) in &given_out {
        if let Some(found) = search.find(text) {
            let secret = &secrets[found.pattern().as_usize()];
            let around = text[..found.start()].rfind('\n').map_or(0, |newline| newline + 1);
            let line = text[around..].lines().next().unwrap_or_default();
            panic!("{secret:?} is in what {from} gives out:\n{line}");
        }
    }
}

/// What the sandbox's tokens of this time begin with: the instant they were issued at, in base64.
fn token_prefix(rig: &Rig) -> String {
    let millis = rig.sandbox.now().as_millis().to_string();
    // Six digits change every three hours, and are eight characters.
    URL_SAFE_NO_PAD.encode(&millis[..6])
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn telling_fields() -> impl Iterator<Item = &'static str> {
    FIELDS.iter().filter(|field| field.personal).map(|field| field.name).chain(TELLING_TOO)
}

/// The telling texts of all legs in the topic, and of all dead letters.
pub(super) fn personal_texts(rig: &Rig) -> BTreeSet<String> {
    let legs = rig.run(&["tail", "--from-beginning", "--until-end"]);
    let mut found = BTreeSet::new();
    for line in String::from_utf8_lossy(&legs.stdout).lines() {
        let leg: Value = serde_json::from_str(line).unwrap();
        telling_fields().for_each(|field| take_texts(&leg[field], &mut found));
    }
    for letter in read_committed(kafka().bootstrap(), &format!("{}.dead-letter", rig.topic)) {
        if let Ok(row) = serde_json::from_slice::<Value>(letter.payload().unwrap_or_default()) {
            telling_fields().for_each(|field| take_texts(&row[field], &mut found));
        }
    }
    // The unit is a part of what is shown, and of nobody.
    found.retain(|text| text.len() >= TELLING && !rig.sandbox.api().pbxes().contains(text));
    found
}

fn take_texts(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => drop(found.insert(text.clone())),
        Value::Number(number) => drop(found.insert(number.to_string())),
        Value::Array(values) => values.iter().for_each(|value| take_texts(value, found)),
        Value::Object(values) => values.values().for_each(|value| take_texts(value, found)),
        _ => {}
    }
}
