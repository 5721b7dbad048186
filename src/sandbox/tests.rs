//! The server seen by a plain HTTP client, and how fast pages are made.

use reqwest::{Client, StatusCode};
use serde_json::Value;

use super::*;
use crate::sandbox::api::Request;

async fn start(faults: FaultMix) -> Sandbox {
    let settings = Settings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        dataset: DatasetSettings { legs: 300, rate: 0.0, ..DatasetSettings::default() },
        faults,
        now: Some(UtcMillis::new(1_760_000_000_000)),
        ..Settings::default()
    };
    Sandbox::start(settings).await.expect("a sandbox")
}

async fn log_in(sandbox: &Sandbox, base: &str) -> reqwest::Result<reqwest::Response> {
    let Credentials { api_key, username, password } = sandbox.api().credentials();
    let url = format!("{}{base}/v1/oauth/token", sandbox.base_url());
    let form = [("username", username), ("password", password)];
    client().post(url).header("8x8-apikey", api_key).form(&form).send().await
}

fn client() -> Client {
    Client::builder().no_proxy().build().expect("a client")
}

async fn report(sandbox: &Sandbox) -> reqwest::Result<reqwest::Response> {
    // In process, so that the faults of the mix do not hit it.
    let credentials = sandbox.api().credentials();
    let token = sandbox.api().answer(sandbox.now(), &Request::token(credentials));
    let token: Value = serde_json::from_str(token.text()).expect("JSON");
    let url = format!("{}/analytics/work/v2/call-legs", sandbox.base_url());
    let query = [
        ("pbxId", "allpbxes"),
        ("startTime", "2025-10-01 00:00:00"),
        ("endTime", "2025-10-10 00:00:00"),
        ("timeZone", "UTC"),
        ("pageSize", "7000"),
    ];
    let request = client().get(url).query(&query).header("8x8-apikey", &credentials.api_key);
    request.bearer_auth(token["access_token"].as_str().unwrap_or_default()).send().await
}

#[tokio::test]
async fn a_client_logs_in_and_reads() {
    let sandbox = start(FaultMix::default()).await;
    for base in ["", "/analytics/work"] {
        let answer = log_in(&sandbox, base).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        let date = answer.headers()["date"].to_str().expect("a text");
        assert!(date.starts_with("Thu, 09 Oct 2025 08:53:2"), "{date}");
        let body: Value = serde_json::from_str(&answer.text().await.expect("a body")).expect("JSON");
        assert_eq!((&body["token_type"], &body["expires_in"]), (&"bearer".into(), &1_800.into()));
    }
    let body: Value =
        serde_json::from_str(&report(&sandbox).await.expect("an answer").text().await.expect("a body")).expect("JSON");
    assert_eq!(body["data"].as_array().map(Vec::len), Some(300));
    assert_eq!(sandbox.faults().requests(), 3);
    sandbox.stop().await;
}

#[tokio::test]
async fn a_reset_and_an_outage_give_no_answer_at_all() {
    let sandbox = start(FaultMix::default().with(Kind::Reset, 1.0)).await;
    let error = report(&sandbox).await.expect_err("no answer");
    let mut causes = Vec::new();
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    assert!(causes.iter().any(|cause| cause.contains("reset")), "{causes:?}");
    sandbox.faults().set_mix(FaultMix::default());
    sandbox.faults().set_outage(true);
    assert!(report(&sandbox).await.is_err());
    assert!(log_in(&sandbox, "").await.is_err());
    sandbox.faults().set_outage(false);
    assert!(report(&sandbox).await.is_ok());
    let counts = [Kind::Reset, Kind::Outage].map(|kind| sandbox.faults().count(kind));
    assert_eq!(counts, [1, 2]);
}

#[tokio::test]
async fn a_cut_body_begins_well_and_ends_too_soon() {
    let sandbox = start(FaultMix::default().with(Kind::Cut, 1.0)).await;
    let mut answer = report(&sandbox).await.expect("a head");
    assert_eq!(answer.status(), StatusCode::OK);
    let promised = answer.content_length().expect("a length");
    let mut received = 0;
    let error = loop {
        match answer.chunk().await {
            Ok(Some(chunk)) => received += chunk.len() as u64,
            Ok(None) => panic!("the body is whole"),
            Err(error) => break error,
        }
    };
    assert!(0 < received && received < promised, "{received} of {promised}: {error}");
}

#[tokio::test]
async fn a_stopped_sandbox_answers_nobody_and_frees_its_port() {
    let sandbox = start(FaultMix::default()).await;
    let address = sandbox.address();
    assert!(log_in(&sandbox, "").await.is_ok());
    sandbox.stop().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    let settings = Settings { listen: address, ..Settings::default() };
    let again = Sandbox::start(settings).await.expect("the port is free");
    let taken = Settings { listen: again.address(), ..Settings::default() };
    let error = Sandbox::start(taken).await.expect_err("the port is taken");
    assert_eq!(error.to_string(), format!("cannot listen at {address}"));
}

#[tokio::test]
async fn the_clock_can_be_set() {
    let sandbox = start(FaultMix::default()).await;
    sandbox.set_now(UtcMillis::new(1_000_000_000_000));
    let answer = log_in(&sandbox, "").await.expect("an answer");
    let date = answer.headers()["date"].to_str().expect("a text").to_owned();
    assert!(date.starts_with("Sun, 09 Sep 2001 01:46:4"), "{date}");
}

#[tokio::test]
async fn the_greeting_can_be_pasted() {
    let sandbox = start(FaultMix::default()).await;
    let greeting = greeting(&sandbox);
    let snippet = &greeting[greeting.find("[source]").expect("a snippet")..];
    let end = snippet.find("\n\n").expect("an end");
    let table: toml::Table = snippet[..end].parse().expect("TOML");
    assert_eq!(table["source"]["pbx_ids"].as_array().map(Vec::len), Some(3));
    assert_eq!(table["source"]["base_url"].as_str(), Some(sandbox.base_url().as_str()));
}

#[test]
fn the_arguments_have_help_and_defaults() {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: SandboxArgs,
    }
    let parse = |args: &[&str]| {
        let args = std::iter::once("sandbox").chain(args.iter().copied());
        <Cli as clap::Parser>::try_parse_from(args).map(|cli| cli.args)
    };
    let defaults = parse(&[]).expect("no arguments are needed").settings();
    let dataset = DatasetSettings { rate: 2.0, ..DatasetSettings::default() };
    assert_eq!(defaults, Settings { dataset, ..Settings::default() });
    let line = "--legs 5 --span 2h --rate 0.5 --live-for 3h --late 10m --late-share 30% --revised 2% \
                --revised-within 1h --unfinished --seed 7 \
                --faults 429=5%,cut=2% --now 2026-03-29T00:55:00Z --replay rows.json --pbx a \
                --pbx b --token-life 60s --two-year-limit --listen 127.0.0.1:0";
    let line: Vec<&str> = line.split_whitespace().collect();
    let settings = parse(&line).expect("good arguments").settings();
    assert_eq!(settings.dataset.pbxes, ["a", "b"]);
    assert_eq!(settings.now, Some(UtcMillis::new(1_774_745_700_000)));
    assert!(settings.rules.unfinished && settings.rules.two_year_limit);
    assert!((settings.dataset.revised_share - 0.02).abs() < 1e-12 && (settings.dataset.late_share - 0.3).abs() < 1e-12);
    assert_eq!(settings.dataset.live_for, Some(Duration::from_hours(3)));
    assert_eq!(settings.dataset.revised_within, Duration::from_hours(1));
    for bad in [["--faults", "fire=1%"], ["--rate", "-1"], ["--now", "noon"], ["--late", "5"]] {
        assert!(parse(&bad).is_err(), "{bad:?}");
    }
    let help = <Cli as clap::CommandFactory>::command().render_long_help().to_string();
    let words: Vec<&str> = help.split_whitespace().collect();
    assert!(words.join(" ").contains("requests in a row are reset"), "{help}");
}
