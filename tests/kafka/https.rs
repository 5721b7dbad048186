//! TLS to the source and to the schema registry: whom they trust, and what is said of a certificate that nobody vouches for.
//! And the way there: what goes by a proxy, and what never does.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use call_legs::sandbox::Sandbox;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_native_tls::native_tls::Protocol;
use url::Url;

use super::rig::{Rig, command, free_address, sandbox_settings};
use super::secured::text;
use super::support::certificates::Authority;
use super::support::kafka::kafka;
use super::support::registry::registry;
use super::support::tls_front;

/// How OpenSSL says that no authority is known.
const UNKNOWN_ISSUER: &str = "unable to get local issuer certificate";

/// Where a plain server listens.
fn address_of(url: &str) -> SocketAddr {
    Url::parse(url).unwrap().socket_addrs(|| None).unwrap()[0]
}

/// The same place behind TLS.
async fn behind_tls(authority: &Authority, url: &str) -> String {
    let address = tls_front::start(&authority.issue("front").unwrap(), address_of(url)).await;
    format!("https://{address}{}", Url::parse(url).unwrap().path())
}

/// `check` where the system trusts what is in the file `usual`.
fn check_trusting(rig: &Rig, usual: &Path) -> Output {
    command().env("SSL_CERT_FILE", usual).args(["check", "--config"]).arg(rig.config()).output().unwrap()
}

fn line_of<'t>(said: &'t str, start: &str) -> &'t str {
    said.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start} in\n{said}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_source_is_reached_by_an_authority_of_ones_own() {
    let (ours, stranger) = (Authority::create().unwrap(), Authority::create().unwrap());
    let sandbox = Sandbox::start(sandbox_settings(50, Duration::from_secs(3600))).await.unwrap();
    let base_url = behind_tls(&ours, &sandbox.base_url()).await;
    let mut rig = Rig::new(sandbox, kafka().bootstrap(), &[&format!("source.base_url = {base_url:?}")]);

    let checked = check_trusting(&rig, &stranger.certificate());
    assert_eq!(checked.status.code(), Some(3));
    let said = text(&checked);
    let refused = line_of(&said, "FAIL  token: ");
    assert!(refused.contains("the certificate of the source is not trusted: if a proxy opens TLS"), "{refused}");
    assert!(refused.contains("source.ca_file: ") && refused.contains(UNKNOWN_ISSUER), "{refused}");

    // What the system trusts, and what the file adds to it.
    let checked = check_trusting(&rig, &ours.certificate());
    assert!(checked.status.success(), "{}", text(&checked));
    rig.set("source.ca_file", &format!("{:?}", stranger.certificate()));
    let checked = check_trusting(&rig, &ours.certificate());
    assert!(checked.status.success(), "{}", text(&checked));
    rig.set("source.ca_file", &format!("{:?}", ours.certificate()));
    let daemon = rig.start();
    rig.polled_whole(1).await;
    assert!(daemon.terminate().0.success());

    rig.set("source.base_url", &format!("{:?}", base_url.replace("127.0.0.1", "localhost")));
    let said = text(&rig.run(&["check"]));
    assert!(line_of(&said, "FAIL  token: ").contains("the certificate of the source is another host's"), "{said}");
    rig.set("source.ca_file", "\"Cargo.toml\"");
    let checked = rig.run(&["check"]);
    assert_eq!(checked.status.code(), Some(2), "{}", text(&checked));
    assert!(text(&checked).contains("source.ca_file: Cargo.toml holds no PEM certificates"), "{}", text(&checked));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_is_reached_by_an_authority_of_ones_own() {
    let (ours, stranger) = (Authority::create().unwrap(), Authority::create().unwrap());
    let sandbox = Sandbox::start(sandbox_settings(50, Duration::from_secs(3600))).await.unwrap();
    let url = behind_tls(&ours, registry().url()).await;
    let settings = ["avro.framing = \"confluent\"", &format!("avro.schema_registry_url = {url:?}")];
    let mut rig = Rig::new(sandbox, kafka().bootstrap(), &settings);

    let checked = check_trusting(&rig, &stranger.certificate());
    assert_eq!(checked.status.code(), Some(4));
    let said = text(&checked);
    let refused = line_of(&said, "FAIL  schema registry: ");
    assert!(refused.contains("the certificate of the schema registry at 127.0.0.1:"), "{refused}");
    assert!(refused.contains("avro.schema_registry_ca_file: ") && refused.contains(UNKNOWN_ISSUER), "{refused}");
    // The daemon waits for it.
    let daemon = rig.start();
    rig.until("refusal", async || {
        rig.page("/readyz").await.is_some_and(|(_, page)| page.contains("avro.schema_registry_ca_file"))
    })
    .await;
    drop(daemon);

    let checked = check_trusting(&rig, &ours.certificate());
    assert!(checked.status.success(), "{}", text(&checked));
    rig.set("avro.schema_registry_ca_file", &format!("{:?}", stranger.certificate()));
    let checked = check_trusting(&rig, &ours.certificate());
    assert!(checked.status.success(), "{}", text(&checked));
    rig.set("avro.schema_registry_ca_file", &format!("{:?}", ours.certificate()));
    let daemon = rig.start();
    rig.polled_whole(1).await;
    assert!(daemon.terminate().0.success());

    rig.set("avro.schema_registry_ca_file", "\"Cargo.toml\"");
    let checked = rig.run(&["check"]);
    assert_eq!(checked.status.code(), Some(2), "{}", text(&checked));
    let expected = "avro.schema_registry_ca_file: Cargo.toml holds no PEM certificates";
    assert!(text(&checked).contains(expected), "{}", text(&checked));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_asks_for_a_client_certificate_gets_it() {
    let (ours, stranger) = (Authority::create().unwrap(), Authority::create().unwrap());
    let address = tls_front::start_mutual(&ours.issue("registry").unwrap(), &ours, "{\"id\":7}");
    let sandbox = Sandbox::start(sandbox_settings(5, Duration::from_secs(3600))).await.unwrap();
    let settings = [
        "avro.framing = \"confluent\"".to_owned(),
        format!("avro.schema_registry_url = \"https://{address}\""),
        format!("avro.schema_registry_ca_file = {:?}", ours.certificate()),
    ];
    let mut rig = Rig::new(sandbox, kafka().bootstrap(), &settings.each_ref().map(String::as_str));
    let said = text(&rig.run(&["check"]));
    assert!(line_of(&said, "FAIL  schema registry: ").contains("cannot be reached"), "{said}");

    let (issued, foreign) = (ours.issue("connector").unwrap(), stranger.issue("connector").unwrap());
    rig.set("avro.schema_registry_certificate_file", &format!("{:?}", issued.certificate));
    rig.set("avro.schema_registry_key_file", &format!("{:?}", foreign.key));
    let checked = rig.run(&["check"]);
    assert_eq!(checked.status.code(), Some(2), "{}", text(&checked));
    assert!(text(&checked).contains("is no key of avro.schema_registry_certificate_file ("), "{}", text(&checked));

    rig.set("avro.schema_registry_key_file", &format!("{:?}", issued.key));
    let checked = rig.run(&["check"]);
    assert!(checked.status.success() && text(&checked).contains("has our schema under id 7"), "{}", text(&checked));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_tls_cannot_be_used_is_told_in_words() {
    let ours = Authority::create().unwrap();
    let sandbox = Sandbox::start(sandbox_settings(5, Duration::from_secs(3600))).await.unwrap();
    let plain = address_of(&sandbox.base_url());
    let issued = [ours.issue_until("old", -1), ours.issue("front")].map(Result::unwrap);
    let old = tls_front::start(&issued[0], plain).await;
    let aged = tls_front::start_with(&issued[1], Protocol::Tlsv11, plain).await;
    let mut rig = Rig::new(sandbox, kafka().bootstrap(), &[&format!("source.ca_file = {:?}", ours.certificate())]);
    for (address, expected) in [
        (old, "the certificate of the source is out of date"),
        (aged, "the source does not speak TLS 1.2 or later: check scheme and port in source.base_url"),
        (plain, "the source does not speak TLS 1.2 or later: check scheme and port in source.base_url"),
    ] {
        rig.set("source.base_url", &format!("\"https://{address}/analytics/work\""));
        let said = text(&rig.run(&["check"]));
        assert!(line_of(&said, "FAIL  token: ").contains(expected), "{said}");
        assert!(!said.contains("SSL routines"), "{said}");
    }
}

/// Everything that goes by a proxy, or needs certificates, fails.
fn cut_off(command: &mut Command) -> &mut Command {
    for scheme in ["HTTP", "HTTPS", "ALL"] {
        let name = format!("{scheme}_PROXY");
        let nobody = format!("http://someone:hunter2@{}", free_address());
        command.env(name.to_lowercase(), &nobody).env(name, nobody);
    }
    for name in ["NO_PROXY", "no_proxy"] {
        command.env_remove(name);
    }
    command.env("SSL_CERT_FILE", "/nonexistent").env("SSL_CERT_DIR", "/nonexistent")
}

#[tokio::test(flavor = "multi_thread")]
async fn this_machine_is_reached_without_proxy_and_without_certificates() {
    let sandbox = Sandbox::start(sandbox_settings(50, Duration::from_secs(3600))).await.unwrap();
    let collector = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = [
        "avro.framing = \"confluent\"".to_owned(),
        format!("avro.schema_registry_url = {:?}", registry().url().replace("127.0.0.1", "localhost")),
        format!("telemetry.otlp_endpoint = \"http://{}\"", collector.local_addr().unwrap()),
    ];
    tokio::spawn(async move { axum::serve(collector, axum::Router::new().fallback(async || "")).await });
    let mut rig = Rig::new(sandbox, kafka().bootstrap(), &settings.each_ref().map(String::as_str));
    let run = |rig: &Rig, arguments: &[&str]| {
        let output = cut_off(command().args(arguments).arg("--config").arg(rig.config())).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        text(&output)
    };
    let said = run(&rig, &["check"]);
    assert!(said.contains("ok    collector"), "{said}");
    rig.set("source.base_url", &format!("{:?}", rig.sandbox.base_url().replace("127.0.0.1", "[::ffff:127.0.0.1]")));
    run(&rig, &["check"]);
    let daemon = rig.start();
    rig.polled_whole(1).await;
    run(&rig, &["status"]);
    run(&rig, &["state", "accept"]);
    run(&rig, &["backfill", "--from", "now-27h", "--to", "now-26h"]);
    assert!(daemon.terminate().0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn other_machines_are_reached_by_the_proxy_whose_password_is_never_told() {
    let sandbox = Sandbox::start(sandbox_settings(5, Duration::from_secs(3600))).await.unwrap();
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = proxy.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(String::new()));
    let heard = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = proxy.accept().await {
            let mut head = [0; 4096];
            let length = client.read(&mut head).await.unwrap_or(0);
            heard.lock().unwrap().push_str(&String::from_utf8_lossy(&head[..length]));
            let _ = client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n").await;
        }
    });
    let settings = [
        "source.base_url = \"https://api.example.com/analytics/work\"",
        "avro.framing = \"confluent\"",
        "avro.schema_registry_url = \"http://registry.example.com\"",
    ];
    let rig = Rig::new(sandbox, kafka().bootstrap(), &settings);
    let mut check = command();
    for name in ["HTTP_PROXY", "HTTPS_PROXY"] {
        check.env(name, format!("http://someone:hunter2@{address}"));
    }
    let checked = check.args(["check", "--config"]).arg(rig.config()).output().unwrap();
    let said = text(&checked);
    assert_eq!(checked.status.code(), Some(3), "{said}");
    let asked = asked.lock().unwrap().clone();
    assert!(asked.contains("CONNECT api.example.com:443 HTTP/1.1"), "{asked}");
    assert!(asked.contains(" http://registry.example.com/subjects/"), "{asked}");
    assert!(line_of(&said, "FAIL  token: ").contains("proxy"), "{said}");
    assert!(!said.contains("hunter2") && !said.contains("c29tZW9uZTpodW50ZXIy"), "{said}");
}
