//! TLS to the source and to the schema registry: whom they trust, and what is said of a certificate that nobody vouches for.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use call_legs::sandbox::Sandbox;
use url::Url;

use super::rig::{Rig, command, sandbox_settings};
use super::secured::text;
use super::support::certificates::Authority;
use super::support::kafka::kafka;
use super::support::registry::registry;
use super::support::tls_front;

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
    assert!(refused.contains("the source's certificate is not trusted: if a proxy opens TLS"), "{refused}");
    assert!(refused.contains("source.ca_file: ") && refused.contains("UnknownIssuer"), "{refused}");

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
    assert!(line_of(&said, "FAIL  token: ").contains("not valid for name"), "{said}");
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
    assert!(refused.contains("avro.schema_registry_ca_file: ") && refused.contains("UnknownIssuer"), "{refused}");
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
