//! The other commands, exit codes and the admin port.

use std::process::{Command, Output};
use std::time::Duration;

use call_legs::sandbox::Sandbox;
use call_legs::sandbox::api::Denial;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;

use super::rig::{Rig, sandbox_settings};
use super::support::broker::Extras;
use super::support::kafka::{Kafka, kafka};
use super::support::registry::registry;

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn small_sandbox() -> Sandbox {
    Sandbox::start(sandbox_settings(50, Duration::from_secs(3600))).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_everything_in_order_and_writes_nothing() {
    let rig = Rig::new(small_sandbox().await, kafka().bootstrap(), &[]);
    let checked = rig.run(&["check"]);
    let said = text(&checked);
    assert!(checked.status.success(), "{said}");
    for line in [
        "ok    configuration: ",
        "/state will be created",
        &format!("ok    admin port: {} is free", rig.admin),
        "ok    token: ",
        "ok    report of unit acme-east: ",
        "ok    kafka: every broker answers at its advertised listener",
        &format!(
            "ok    topic {}: does not exist; run creates it with 3 partitions, the broker's number of replicas, retention.ms=-1",
            rig.topic
        ),
        &format!(
            "ok    topic {}.journal: does not exist; run creates it with 1 partition, the broker's number of replicas, cleanup.policy=compact, ",
            rig.topic
        ),
        "ok    requests: polls of 3 units take at least ",
        "ok    first read: of a unit that was never read: from ",
        "ok    schema registry: not needed",
    ] {
        assert!(said.contains(line), "{line} in\n{said}");
    }
    assert!(!rig.state_dir().exists());

    let daemon = rig.start();
    rig.polled_whole(1).await;
    let checked = rig.run(&["check"]);
    let said = text(&checked);
    assert!(checked.status.success(), "{said}");
    for line in [
        "/state can be written",
        &format!("ok    admin port: {} is a call-legs' that runs: All legs up to ", rig.admin),
        "ok    clock: agrees with the source's",
        "3 partitions, kept for ever",
        &format!("ok    topic {}.journal: 1 partition, compacted, records up to ", rig.topic),
    ] {
        assert!(said.contains(line), "{line} in\n{said}");
    }
    let (status, _) = daemon.terminate();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_what_fails_with_its_exit_code_and_advice() {
    for (setting, exit, advice) in [
        ("source.api_key = \"wrong\"", 3, "the Secret is not needed"),
        ("source.password = \"wrong\"", 3, "source.password"),
        ("kafka.bootstrap_servers = \"127.0.0.1:1\"", 4, "Kafka does not answer"),
        ("state.dir = \"/dev/null/state\"", 5, "cannot be written"),
        ("poll.interval = \"fast\"", 2, "poll.interval"),
        ("admin.listen = \"192.0.2.1:9464\"", 2, "cannot listen on 192.0.2.1:9464 (Cannot assign requested address"),
        ("kafka.properties.\"socket.timeout.ms\" = \"long\"", 4, "refuses the value of socket.timeout.ms"),
    ] {
        let rig = Rig::new(small_sandbox().await, kafka().bootstrap(), &[setting]);
        let checked = rig.run(&["check"]);
        let said = text(&checked);
        assert_eq!(checked.status.code(), Some(exit), "{setting}: {said}");
        assert!(said.contains(advice), "{setting}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_kafka_does_not_answer_says_so() {
    let rig = Rig::new(small_sandbox().await, "127.0.0.1:1", &[]);
    let backfill = ["backfill", "--from", "now-3d", "--to", "now-2d", "--dry-run"];
    let commands = [
        &["state", "show"][..],
        &["state", "verify"],
        &["dead-letters", "list"],
        &["dead-letters", "replay"],
        &backfill,
    ];
    for command in commands {
        let ran = rig.run(command);
        let said = text(&ran);
        assert_eq!(ran.status.code(), Some(4), "{command:?}: {said}");
        assert!(said.starts_with("call-legs: Kafka does not answer: 127.0.0.1:1: "), "{command:?}: {said}");
    }
}

/// The configuration file without the lines of some keys, beside the file itself.
fn without(rig: &Rig, keys: &[&str]) -> String {
    let text = std::fs::read_to_string(rig.config()).unwrap();
    let is_left = |line: &&str| !keys.iter().any(|key| line.starts_with(&format!("{key} = ")));
    text.lines().filter(is_left).map(|line| format!("{line}\n")).collect()
}

/// It was found out only after four topics were created.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_start_nothing_is_created_and_check_says_so() {
    let rig = Rig::new(small_sandbox().await, kafka().bootstrap(), &[]);
    std::fs::write(rig.config(), without(&rig, &["poll.start_from"])).unwrap();
    let says = "poll.start_from: unit acme-east has never been read: say where to start";

    let checked = rig.run(&["check"]);
    assert_eq!(checked.status.code(), Some(2), "{}", text(&checked));
    assert!(text(&checked).contains(&format!("FAIL  first read: {says}")), "{}", text(&checked));

    assert_eq!(rig.start().ended().code(), Some(2), "{}", rig.last_words());
    assert!(rig.log().contains(says), "{}", rig.last_words());
    let shown = rig.run(&["state", "show"]);
    let not_there =
        format!("topic {}.journal does not exist: call-legs run has not created it yet, or it was deleted", rig.topic);
    assert!(text(&shown).contains(&not_there), "{}", text(&shown));

    // Nobody is sent to the command that was just typed.
    let status = rig.run(&["status"]);
    let said = text(&status);
    assert_eq!(status.status.code(), Some(7), "{said}");
    assert!(
        said.contains("The status topic cannot be read, either: topic ") && !said.contains("--config FILE"),
        "{said}"
    );
}

/// Where those stand who only look at a topic, or check what is to be rolled out.
#[tokio::test(flavor = "multi_thread")]
async fn who_only_looks_needs_no_state_directory_and_a_pipeline_no_secret() {
    let rig = Rig::new(small_sandbox().await, "127.0.0.1:1", &["source.password_file = \"/nonesuch/password\""]);
    let file = without(&rig, &["state.dir", "source.password"]);
    std::fs::write(rig.config(), &file).unwrap();
    let checked = rig.run(&["check", "--offline", "--json"]);
    assert!(checked.status.success(), "{}", text(&checked));
    let said: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    let results: Vec<[&str; 2]> = said["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| [one["check"].as_str().unwrap(), one["result"].as_str().unwrap()])
        .collect();
    assert_eq!(
        results,
        [
            ["configuration", "ok"],
            ["configuration", "warn"],
            ["state directory", "warn"],
            ["kafka", "ok"],
            ["requests", "ok"],
            ["everything else", "ok"]
        ],
        "{said}"
    );
    assert!(said["checks"][1]["text"].as_str().unwrap().starts_with("source.password_file (from "), "{said}");
    assert_eq!((&said["ok"], &said["exitCode"]), (&true.into(), &0.into()));

    let status = rig.run(&["status"]);
    assert_eq!(status.status.code(), Some(7), "{}", text(&status));
    let tail = rig.run(&["tail", "--from-beginning", "--until-end"]);
    assert_eq!(tail.status.code(), Some(4), "{}", text(&tail));
    let rewind = rig.run(&["state", "verify"]);
    assert_eq!(rewind.status.code(), Some(2), "{}", text(&rewind));
    assert!(text(&rewind).contains("state.dir is required"), "{}", text(&rewind));

    std::fs::write(
        rig.config(),
        format!("{file}poll.overlap = 1\nkafka.beat = \"1h\"\n").replacen("poll.overlap = \"10m\"\n", "", 1).replacen(
            "kafka.beat = \"1s\"\n",
            "",
            1,
        ),
    )
    .unwrap();
    let checked = rig.run(&["check", "--offline", "--json"]);
    let said: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!((checked.status.code(), &said["exitCode"]), (Some(2), &2.into()), "{said}");
    assert_eq!(said["checks"].as_array().unwrap().len(), 2, "{said}");
}

/// In the middle of it the connector is killed.
#[test]
fn the_demo_on_a_real_kafka_has_each_leg_exactly_once() {
    let demo = ["demo", "--for", "12s", "--bootstrap-servers", kafka().bootstrap()];
    let shown = Command::new(env!("CARGO_BIN_EXE_call-legs")).args(demo).output().unwrap();
    let said = text(&Output { stdout: vec![], ..shown.clone() });
    assert!(shown.status.success(), "{said}");
    let legs = text(&Output { stderr: vec![], ..shown }).lines().count();
    for words in [&format!("showed {legs} legs: each of them is exactly once"), "was killed once", "check --config"] {
        assert!(legs > 0 && said.contains(words), "{words} in\n{said}");
    }
}

/// A broker answers where a user names it, and then says that it listens elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_cannot_be_reached_is_named_by_check_and_run() {
    for (advertised, why) in
        [("nonesuch.invalid:9092", "Failed to resolve"), ("127.0.0.1:1", "Connect to ipv4#127.0.0.1:1 failed")]
    {
        let setting = ("advertised.listeners".to_owned(), format!("PLAINTEXT://{advertised}"));
        let (broker, _) = Kafka::private_with(&Extras { settings: vec![setting], ..Extras::default() }).unwrap();
        let rig = Rig::new(small_sandbox().await, broker.bootstrap(), &[]);
        let names = [&format!("Kafka's broker {advertised} cannot be reached"), "advertised.listeners", why];

        let checked = rig.run(&["check"]);
        let said = text(&checked);
        assert_eq!(checked.status.code(), Some(4), "{said}");
        let failures: Vec<&str> = said.lines().filter(|line| line.starts_with("FAIL")).collect();
        assert!(matches!(failures[..], [line] if names.iter().all(|name| line.contains(name))), "{said}");

        let daemon = rig.start();
        rig.until("the listener's name", async || {
            let page = rig.page("/readyz").await;
            page.is_some_and(|(status, page)| status == 503 && names.iter().all(|name| page.contains(name)))
        })
        .await;
        rig.until("a line of it", async || names.iter().all(|name| rig.log().contains(name))).await;
        daemon.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_warns_of_what_is_probably_not_meant_and_of_a_port_that_another_program_has() {
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let listen = format!("admin.listen = \"{}\"", taken.local_addr().unwrap());
    let rig = Rig::new(
        small_sandbox().await,
        kafka().bootstrap(),
        &[&listen, "poll.interval = \"2s\"", "freshness.objective = \"1s\""],
    );
    // Whoever has the port answers nothing.
    let answering = std::thread::spawn(move || drop(taken.accept()));
    let checked = rig.run(&["check"]);
    let said = text(&checked);
    assert_eq!(checked.status.code(), Some(2), "{said}");
    for line in [
        "warn  configuration: freshness.objective",
        "is open to the network without admin.token",
        "(Address already in use (os error 98)): name another address",
        "1 of the checks failed",
    ] {
        assert!(said.contains(line), "{line} in\n{said}");
    }
    answering.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_whether_the_registry_takes_the_schema() {
    let url = registry().url();
    let mut rig = Rig::new(
        small_sandbox().await,
        kafka().bootstrap(),
        &["avro.framing = \"confluent\"", &format!("avro.schema_registry_url = {url:?}")],
    );
    let subject = format!("{}-value", rig.topic);
    let checked = rig.run(&["check"]);
    assert!(checked.status.success(), "{}", text(&checked));
    assert!(text(&checked).contains(&format!("subject {subject} will take our schema")), "{}", text(&checked));

    rig.set("avro.register", "false");
    let checked = rig.run(&["check"]);
    assert_eq!(checked.status.code(), Some(4), "{}", text(&checked));
    assert!(text(&checked).contains("register it with call-legs schema --register"), "{}", text(&checked));
    rig.set("avro.register", "true");

    // Another leg, which no reader of ours could read.
    let client = reqwest::Client::new();
    let other =
        r#"{"type":"record","name":"CallLeg","namespace":"call_legs","fields":[{"name":"callId","type":"int"}]}"#;
    for (method, path, body) in [
        ("POST", format!("subjects/{subject}/versions"), serde_json::json!({ "schema": other })),
        ("PUT", format!("config/{subject}"), serde_json::json!({ "compatibility": "FULL" })),
    ] {
        let request = client.request(method.parse().unwrap(), format!("{url}/{path}")).body(body.to_string());
        let answer = request.header("Content-Type", "application/json").send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.text().await.unwrap());
    }
    let checked = rig.run(&["check"]);
    assert_eq!(checked.status.code(), Some(4), "{}", text(&checked));
    assert!(text(&checked).contains(&format!("subject {subject} refuses our schema: ")), "{}", text(&checked));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_a_clock_that_is_wrong() {
    let sandbox = small_sandbox().await;
    sandbox.set_now(sandbox.now().plus(Duration::from_secs(600)));
    let rig = Rig::new(sandbox, kafka().bootstrap(), &[]);
    let checked = rig.run(&["check"]);
    assert_eq!(checked.status.code(), Some(3), "{}", text(&checked));
    assert!(text(&checked).contains("FAIL  clock: the source's clock is 600 s from ours"), "{}", text(&checked));
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_prints_legs_as_json_lines() {
    let rig = Rig::new(small_sandbox().await, kafka().bootstrap(), &[]);
    let _daemon = rig.start();
    rig.polled_whole(1).await;

    let all = rig.run(&["tail", "--from-beginning", "--until-end"]);
    let legs: Vec<serde_json::Value> =
        String::from_utf8_lossy(&all.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(legs.len(), 50, "{}", text(&all));

    let some = rig.run(&["tail", "--from-beginning", "--limit", "7"]);
    assert_eq!(String::from_utf8_lossy(&some.stdout).lines().count(), 7, "{}", text(&some));

    let key = legs[0]["callId"].as_str().unwrap();
    let one = rig.run(&["tail", "--from-beginning", "--until-end", "--key", key]);
    let expected = legs.iter().filter(|leg| leg["callId"] == key).count();
    assert_eq!(String::from_utf8_lossy(&one.stdout).lines().count(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_the_same_state_is_refused() {
    let rig = Rig::new(small_sandbox().await, kafka().bootstrap(), &[]);
    let _daemon = rig.start();
    rig.polled_whole(1).await;
    let second = rig.run(&["run"]);
    assert_eq!(second.status.code(), Some(5), "{}", text(&second));
    assert!(text(&second).contains("is in use by another call-legs (process "), "{}", text(&second));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_the_source_never_ends_the_daemon_and_is_mended_without_a_restart() {
    let sandbox = small_sandbox().await;
    let password = sandbox.api().credentials().password.clone();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "not yet the password").unwrap();
    let rig = Rig::new(sandbox, kafka().bootstrap(), &[&format!("source.password_file = {:?}", file.path())]);
    let config = std::fs::read_to_string(rig.config()).unwrap();
    let without: String =
        config.lines().filter(|line| !line.starts_with("source.password =")).map(|line| format!("{line}\n")).collect();
    std::fs::write(rig.config(), without).unwrap();

    let _daemon = rig.start();
    rig.until("refusal", async || rig.page("/readyz").await.is_some_and(|(_, page)| page.contains("source_auth")))
        .await;
    let (_, reasons) = rig.page("/readyz").await.unwrap();
    assert!(reasons.contains("in a browser once"), "{reasons}");
    std::fs::write(file.path(), format!("{password}\n")).unwrap();
    rig.polled_whole(1).await;
    assert_eq!(rig.page("/readyz").await.unwrap().0, 200);
    assert!(!rig.log().contains("not yet the password"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_topic_is_refused() {
    let rig = Rig::new(small_sandbox().await, kafka().bootstrap(), &[]);
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka().bootstrap()).create().unwrap();
    let topic = NewTopic::new(&rig.topic, 1, TopicReplication::Fixed(1)).set("cleanup.policy", "compact");
    admin.create_topics([&topic], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    let status = rig.start().ended();
    assert_eq!(status.code(), Some(4), "{}", rig.last_words());
    assert!(rig.log().contains("is compacted"), "{}", rig.last_words());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_refused_pbx_stops_no_other() {
    let mut settings = sandbox_settings(100, Duration::from_secs(3600));
    settings.rules.denied = vec![("acme-west".to_owned(), Denial::NoAccess)];
    let rig = Rig::new(Sandbox::start(settings).await.unwrap(), kafka().bootstrap(), &[]);
    let _daemon = rig.start();
    rig.until("refusal", async || {
        rig.page("/readyz").await.is_some_and(|(_, page)| page.contains("unit acme-west: source_auth"))
    })
    .await;
    rig.until("legs of the others", async || {
        rig.metric("call_legs_polls_total", "unit=\"acme-east\",result=\"ok\"").await >= 2.0
            && rig.metric("call_legs_polls_total", "unit=\"acme-labs\",result=\"ok\"").await >= 2.0
    })
    .await;
    assert_eq!(rig.page("/readyz").await.unwrap().1.lines().count(), 2, "not ready, for the one reason");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_deletes_what_will_be_published_is_warned_of() {
    let rig = Rig::new(small_sandbox().await, kafka().bootstrap(), &["kafka.topic_config.\"retention.ms\" = 3600000"]);
    let _daemon = rig.start();
    rig.polled_whole(1).await;
    assert!(rig.log().contains("retention.ms of 1 h is shorter"), "{}", rig.log());
    assert!(text(&rig.run(&["check"])).contains("warn  kafka: topic "));
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_changes_the_log_level_and_nothing_else() {
    let rig = Rig::new(small_sandbox().await, kafka().bootstrap(), &["log.level = \"info\""]);
    let daemon = rig.start_with_its_own_log_level();
    rig.polled_whole(1).await;
    assert!(!rig.log().contains(" DEBUG "), "{}", rig.log());
    let hang_up_with = |level: &str| {
        let config = std::fs::read_to_string(rig.config()).unwrap();
        let others: String =
            config.lines().filter(|line| !line.starts_with("log.level")).map(|line| format!("{line}\n")).collect();
        std::fs::write(rig.config(), format!("{others}log.level = \"{level}\"\n")).unwrap();
        daemon.signal("HUP");
    };

    hang_up_with("debug");
    rig.until("debug lines", async || rig.log().contains(" DEBUG ")).await;

    hang_up_with("a=b=c");
    rig.until("refusal", async || rig.log().contains("the log level stays as it was: log.level")).await;
    rig.polled_whole(1).await;
    assert_eq!(rig.log().matches("call-legs starts").count(), 1, "it is the same process");
}
