//! A Kafka that takes OAuth tokens: what keeps the connector out, and that it stays in while tokens expire.

use std::time::{Duration, Instant};

use super::rig::{assert_complete, identities};
use super::secured::{file, rig, text};
use super::support::issuer::Issuer;
use super::support::secured::by_tokens;

const SECRET: &str = "correct-horse";
const WRONG: &str = "battery-staple";

/// How long a token lives, in seconds: the shortest that leaves a broker time to see the next one.
const LIFE_S: u64 = 6;

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_renewed_before_they_expire_and_a_wrong_secret_is_waited_for() {
    let issuer = Issuer::start("legs-client", SECRET, Duration::from_secs(LIFE_S)).await;
    let (kafka, address) = by_tokens(&issuer);
    let secret = file(&format!("{WRONG}\n"));
    let settings = [
        "kafka.properties.\"security.protocol\" = \"sasl_plaintext\"".to_owned(),
        "kafka.properties.\"sasl.mechanism\" = \"OAUTHBEARER\"".to_owned(),
        format!("kafka.oauth.token_url = {:?}", issuer.token_url()),
        "kafka.oauth.client_id = \"legs-client\"".to_owned(),
        format!("kafka.oauth.client_secret_file = {:?}", secret.path()),
        "kafka.oauth.scope = \"legs\"".to_owned(),
        "kafka.oauth.extensions.logicalCluster = \"lkc-1\"".to_owned(),
    ];
    let rig = rig(&address, &settings).await;

    let refused = "the token endpoint refuses the client (HTTP 401, invalid_client), so the connector cannot sign in to Kafka: \
                   check kafka.oauth.client_id and kafka.oauth.client_secret";
    let daemon = rig.start();
    let checked = rig.run(&["check"]);
    assert_eq!(checked.status.code(), Some(4), "{}", text(&checked));
    assert!(text(&checked).contains(&format!("FAIL  kafka: {refused}\n")), "{}", text(&checked));
    rig.until("refusal", async || {
        rig.page("/readyz").await.is_some_and(|(status, page)| status == 503 && page.contains(refused))
    })
    .await;

    std::fs::write(secret.path(), format!("{SECRET}\n")).unwrap();
    rig.polled_whole(1).await;
    rig.until("readiness", async || rig.page("/readyz").await.is_some_and(|(status, _)| status == 200)).await;
    let log_before = rig.log().len();
    let lives_before = Instant::now();
    for arguments in [
        &["check"][..],
        &["tail", "--from-beginning", "--until-end"],
        &["dead-letters", "list"],
        &["state", "show"],
        &["status"],
    ] {
        let output = rig.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    }
    let issued_before = issuer.issued().len();
    rig.until("two more tokens, and two of their lives", async || {
        issuer.issued().len() >= issued_before + 2 && lives_before.elapsed() > Duration::from_secs(2 * LIFE_S)
    })
    .await;
    rig.polled_whole(2).await;
    let since = rig.log()[log_before..].to_owned();
    assert!(!since.contains(" WARN ") && !since.contains(" ERROR "), "no expiry disturbs it:\n{since}");
    assert!(!since.contains("a new producer is needed"), "{since}");
    assert!(daemon.terminate().0.success());
    assert_complete(&identities(kafka.bootstrap(), &rig.topic).await, &rig.true_identities(), false);

    // Signed by the same issuer for another audience, which only the brokers see.
    issuer.issue_for("somebody-else");
    let checked = text(&rig.run(&["check"]));
    assert!(checked.contains(" refuses the token "), "{checked}");
    let given_out = format!("{}{checked}", rig.log());
    for secret in [SECRET, WRONG].into_iter().map(str::to_owned).chain(issuer.issued()) {
        assert!(!given_out.contains(&secret), "{secret}");
    }
}
