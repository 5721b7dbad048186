//! What operators ask of the journal, what is refused until they decide, and what the feed tells.

use std::process::Output;
use std::time::Duration;

use call_legs::admin::ORDERS;
use call_legs::sandbox::Sandbox;
use call_legs::store::Token;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use super::rig::{Rig, SMALL_WINDOWS, assert_complete, identities, sandbox_settings};
use super::support::kafka::{Kafka, kafka};

const LEGS: u64 = 120;

async fn rig(settings: &[&str]) -> Rig {
    let sandbox = Sandbox::start(sandbox_settings(LEGS, Duration::from_secs(3600))).await.unwrap();
    Rig::new(sandbox, kafka().bootstrap(), settings)
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What a command said that must have succeeded.
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    text(output)
}

async fn copies(rig: &Rig) -> (usize, usize) {
    let found = identities(kafka().bootstrap(), &rig.topic).await;
    (found.len(), found.values().map(|count| *count as usize).sum())
}

/// The newest status of a unit.
fn feed(rig: &Rig, unit: &str) -> Value {
    let printed = rig.run(&["tail", "--status", "--from-beginning", "--until-end", "--key", unit]);
    serde_json::from_str(done(&printed).lines().last().unwrap()).unwrap()
}

fn admin() -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", kafka().bootstrap()).create().unwrap()
}

async fn delete_topic(name: &str) {
    admin().delete_topics(&[name], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    // The controller answers before every broker has forgotten it.
    tokio::time::sleep(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewind_says_what_it_would_do_and_then_publishes_again() {
    let rig = rig(&[]).await;
    let _daemon = rig.start();
    rig.polled_whole(1).await;
    assert_eq!(copies(&rig).await, (LEGS as usize, LEGS as usize));

    let asked = done(&rig.run(&["state", "rewind", "--unit", "acme-east", "--to", "now-2h"]));
    assert!(
        asked.contains("is published a second time, under generation 1: up to ") && asked.contains("add --yes"),
        "{asked}"
    );
    rig.polled_whole(1).await;
    assert_eq!(copies(&rig).await.1, LEGS as usize, "nothing happens without --yes");

    done(&rig.run(&["state", "rewind", "--unit", "acme-east", "--to", "now-2h", "--yes"]));
    rig.polled_whole(2).await;
    let east = rig.true_identities_of("acme-east").len();
    assert_eq!(copies(&rig).await, (LEGS as usize, LEGS as usize + east), "the unit's legs, once more each");
    assert_eq!(feed(&rig, "acme-east")["generation"], 1);
    assert_eq!(feed(&rig, "acme-west")["generation"], 0);
    assert!(done(&rig.run(&["state", "verify"])).contains("the view equals the journal"));

    let refused = rig.run(&["state", "rewind", "--unit", "nonesuch", "--to", "now-2h"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused).contains("the journal knows acme-east"), "{}", text(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_become_the_owner_where_none_runs_and_are_refused_beside_one_elsewhere() {
    let rig = rig(&[]).await;
    let daemon = rig.start();
    rig.polled_whole(1).await;
    let elsewhere = rig.sibling();
    let refused = elsewhere.run(&["state", "rebuild"]);
    assert_eq!(refused.status.code(), Some(5), "{}", text(&refused));
    assert!(text(&refused).contains(&format!("whose admin port is {}", rig.admin)), "{}", text(&refused));

    let (status, _) = daemon.terminate();
    assert!(status.success());
    assert!(done(&rig.run(&["state", "rebuild"])).contains("the view was built anew from the journal"));
    assert!(done(&rig.run(&["state", "verify"])).contains("the view equals the journal"));
    let shown = done(&rig.run(&["state", "show"]));
    for line in ["on cluster ", "given up on purpose", "unit acme-west: complete to ", "  covered: [", "published "] {
        assert!(shown.contains(line), "{line} in\n{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_filters_are_refused_until_accepted() {
    let mut rig = rig(&[]).await;
    let daemon = rig.start();
    rig.polled_whole(1).await;
    daemon.terminate();
    rig.set("source.simplified", "true");
    assert_eq!(rig.start().ended().code(), Some(5));
    assert!(rig.log().contains("have changed since unit acme-east was last read"), "{}", rig.last_words());
    done(&rig.run(&["state", "accept"]));
    let _daemon = rig.start();
    rig.polled_whole(1).await;
    assert!(done(&rig.run(&["state", "show"])).contains("  accepted "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_unit_starts_one_overlap_ago_and_says_so() {
    let mut rig = rig(&["source.pbx_ids = [\"acme-east\"]"]).await;
    let daemon = rig.start();
    rig.until("poll", async || rig.metric("call_legs_polls_total", "result=\"ok\"").await >= 1.0).await;
    daemon.terminate();
    rig.set("source.pbx_ids", "[\"acme-east\", \"acme-west\"]");
    let _daemon = rig.start();
    rig.until("both", async || rig.metric("call_legs_polls_total", "unit=\"acme-west\",result=\"ok\"").await >= 1.0)
        .await;
    assert!(rig.log().contains("a new unit beside others starts one overlap ago"), "{}", rig.last_words());
    let west = rig.true_identities_of("acme-west").len();
    let (found, _) = copies(&rig).await;
    assert!(found < rig.true_identities_of("acme-east").len() + west, "its past is not read by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_take_over_from_allpbxes_without_a_gap_and_without_repeating() {
    let mut rig = rig(&["source.pbx_ids = [\"allpbxes\"]"]).await;
    let daemon = rig.start();
    rig.until("poll", async || rig.metric("call_legs_polls_total", "result=\"ok\"").await >= 1.0).await;
    daemon.terminate();
    let names = format!("{:?}", rig.sandbox.api().pbxes());
    rig.set("source.pbx_ids", &names);
    rig.set("poll.overlap", "\"2h\"");
    let _daemon = rig.start();
    rig.polled_whole(2).await;
    assert!(rig.log().contains("continues what was read of allpbxes"), "{}", rig.last_words());
    assert_complete(&identities(kafka().bootstrap(), &rig.topic).await, &rig.true_identities(), false);
    assert_eq!(feed(&rig, "allpbxes")["state"], "stopped", "nobody waits for its beats");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_journal_is_refused_and_rebuilt_from_the_legs() {
    let rig = rig(&[]).await;
    let daemon = rig.start();
    rig.polled_whole(1).await;
    daemon.terminate();
    delete_topic(&format!("{}.journal", rig.topic)).await;
    std::fs::remove_dir_all(rig.state_dir()).unwrap();
    assert_eq!(rig.start().ended().code(), Some(5));
    assert!(rig.log().contains("the journal is empty, but topic"), "{}", rig.last_words());
    let adopted = done(&rig.run(&["state", "adopt"]));
    assert!(adopted.contains(&format!("{LEGS} records of this connector")), "{adopted}");
    let _daemon = rig.start();
    rig.polled_whole(2).await;
    assert_complete(&identities(kafka().bootstrap(), &rig.topic).await, &rig.true_identities(), false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_topic_is_refused_until_an_operator_decides() {
    let rig = rig(&[]).await;
    let daemon = rig.start();
    rig.polled_whole(1).await;
    daemon.terminate();
    delete_topic(&rig.topic).await;
    let topic = NewTopic::new(&rig.topic, 3, TopicReplication::Fixed(1));
    admin().create_topics([&topic], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    assert_eq!(rig.start().ended().code(), Some(5));
    assert!(rig.log().contains("the topic was deleted and created again, or truncated"), "{}", rig.last_words());
    let refused = rig.run(&["state", "rewind", "--unit", "acme-east", "--to", "now-2h", "--yes"]);
    assert!(
        text(&refused).contains("created again, or truncated"),
        "a rewind of one unit decides nothing: {refused:?}"
    );
    assert_eq!(rig.run(&["state", "accept", "--unit", "nonesuch"]).status.code(), Some(2));
    assert_eq!(rig.start().ended().code(), Some(5), "a refused order has decided nothing");
    done(&rig.run(&["state", "accept"]));
    for unit in rig.sandbox.api().pbxes() {
        done(&rig.run(&["state", "rewind", "--unit", unit, "--to", "now-2h", "--yes"]));
    }
    let _daemon = rig.start();
    rig.polled_whole(1).await;
    assert_complete(&identities(kafka().bootstrap(), &rig.topic).await, &rig.true_identities(), false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_beyond_the_journal_is_refused() {
    let rig = rig(&[]).await;
    let daemon = rig.start();
    rig.polled_whole(1).await;
    daemon.kill();
    // The journal and everything beside it begin anew, as after a restore from nothing; the view remembers more.
    for suffix in ["", ".journal", ".status", ".dead-letter"] {
        delete_topic(&format!("{}{suffix}", rig.topic)).await;
    }
    let sibling = rig.sibling();
    let other = sibling.start();
    sibling.polled_whole(1).await;
    other.terminate();
    let _daemon = rig.start();
    rig.polled_whole(1).await;
    assert!(rig.log().contains("the view is that of another journal"), "{}", rig.last_words());
    assert_complete(&identities(kafka().bootstrap(), &rig.topic).await, &rig.true_identities(), false);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_feed_tells_quiet_blind_and_stopped_apart() {
    let rig = rig(&[]).await;
    let daemon = rig.start();
    rig.polled_whole(1).await;
    rig.until("ok", async || feed(&rig, "acme-east")["state"] == "ok").await;
    let quiet = feed(&rig, "acme-east");
    rig.until("advance", async || feed(&rig, "acme-east")["completeTo"].as_i64() > quiet["completeTo"].as_i64()).await;
    assert_eq!(feed(&rig, "acme-east")["counts"]["published"], quiet["counts"]["published"], "no calls");
    assert_eq!(quiet["delivery"], "exactly-once");

    rig.sandbox.faults().set_outage(true);
    rig.until("blind", async || feed(&rig, "acme-east")["state"] == "source_unreachable").await;
    let blind = feed(&rig, "acme-east");
    rig.until("beat", async || feed(&rig, "acme-east")["at"].as_i64() > blind["at"].as_i64()).await;
    rig.sandbox.faults().set_outage(false);

    let (status, _) = daemon.terminate();
    assert!(status.success());
    assert_eq!(feed(&rig, "acme-east")["state"], "stopped");
    let journal = done(&rig.run(&["tail", "--journal", "--from-beginning", "--until-end"]));
    assert!(journal.lines().count() > 5 && journal.lines().all(|line| line.starts_with('{')), "{journal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_least_once_loses_nothing_and_repeats_only_what_was_in_flight() {
    let rig = rig(&[&["kafka.delivery = \"at-least-once\""], SMALL_WINDOWS.as_slice()].concat()).await;
    for point in ["claimed", "leg-acknowledged:17", "legs-acknowledged:2", "progress-sent:2", "committed:2"] {
        let status = rig.start_to_die_at(point).ended();
        assert!(!status.success(), "{point}");
    }
    let _daemon = rig.start();
    rig.polled_whole(2).await;
    assert_complete(&identities(kafka().bootstrap(), &rig.topic).await, &rig.true_identities(), true);
    let (found, copies) = copies(&rig).await;
    // What was acknowledged is found by the read-back: a kill repeats nothing unless the brokers had not answered yet.
    assert!(copies - found <= 10, "{} repeated", copies - found);
    assert!(rig.page("/metrics").await.unwrap().1.contains("call_legs_delivery{delivery=\"at-least-once\"} 1"));
    assert_eq!(feed(&rig, "acme-east")["delivery"], "at-least-once");
}

/// A confirmed rewind of acme-east, under a name, as it is posted to the running owner.
///
/// A rewind goes back, not forward: one that is repeated asks for the same instant.
fn posted_rewind(rig: &Rig, to: i64, id: &str, within_s: u64) -> RequestBuilder {
    let order = json!({
        "order": "rewind", "unit": "acme-east", "to": to, "confirmed": true, "id": id, "within_s": within_s,
    });
    let token = Token::read(&rig.state_dir()).unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    client.post(format!("http://{}{ORDERS}", rig.admin)).bearer_auth(token.expose()).body(order.to_string())
}

fn two_hours_ago(rig: &Rig) -> i64 {
    rig.sandbox.now().as_millis() - 7_200_000
}

/// How often acme-east was rewound.
async fn generation(rig: &Rig) -> u64 {
    let (_, page) = rig.page("/status.json").await.unwrap();
    let page: Value = serde_json::from_str(&page).unwrap();
    let units = page["units"].as_array().unwrap();
    units.iter().find(|unit| unit["unit"] == "acme-east").unwrap()["generation"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_posted_twice_under_one_name_is_carried_out_once() {
    let rig = rig(&[]).await;
    let _daemon = rig.start();
    rig.polled_whole(1).await;
    let to = two_hours_ago(&rig);
    let mut said = Vec::new();
    for id in ["first", "first", "second"] {
        let answer = posted_rewind(&rig, to, id, 600).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        said.push(answer.text().await.unwrap());
    }
    assert_eq!(said[0], said[1]);
    rig.until("two rewinds", async || generation(&rig).await == 2).await;
    let late = posted_rewind(&rig, to, "third", 0).send().await.unwrap();
    assert_eq!(late.status(), 503);
    assert!(late.text().await.unwrap().contains("nothing was done"));
    rig.polled_whole(1).await;
    assert_eq!(generation(&rig).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_caller_has_gone_is_not_carried_out() {
    let broker = Kafka::start_private();
    let sandbox = Sandbox::start(sandbox_settings(LEGS, Duration::from_secs(3600))).await.unwrap();
    let rig = Rig::new(sandbox, broker.bootstrap(), &["kafka.beat = \"2s\""]);
    let _daemon = rig.start();
    rig.polled_whole(1).await;
    broker.pause();
    // Until the next beat, which then waits for Kafka, an order would be the first to wait.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let given_up =
        posted_rewind(&rig, two_hours_ago(&rig), "given up", 600).timeout(Duration::from_secs(3)).send().await;
    assert!(given_up.is_err_and(|error| error.is_timeout()));
    broker.resume();
    rig.polled_whole(2).await;
    let answer = posted_rewind(&rig, two_hours_ago(&rig), "waited for", 600).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    rig.until("one rewind", async || generation(&rig).await == 1).await;
    rig.polled_whole(1).await;
    assert_eq!(generation(&rig).await, 1);
}
