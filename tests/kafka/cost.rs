//! How many requests and rows it takes: a long and sparse past, an API that refuses long windows, kills, a long overlap.

use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use call_legs::sandbox::dataset::DatasetSettings;
use call_legs::sandbox::{Sandbox, Settings};
use chrono::{NaiveDateTime, TimeDelta};
use hyper::Uri;

use super::front::{Answer, Front, Reports};
use super::rig::{Rig, assert_complete, identities, sandbox_settings};
use super::support::kafka::kafka;

/// How many days two years have, but for the hours in which the API forgets them.
const TWO_YEARS: u64 = 729;

/// How many legs there are.
const LEGS: u64 = 90;

/// The API's own words, and those of a gateway.
const OURS: &str = r#"{"status":400,"message":"The date range is not supported","code":"105-400-004"}"#;
const THEIRS: &str = "<html>Request too large</html>";

/// An API that refuses windows of more than a day, with this answer.
struct Lengths {
    refused: Option<(u16, &'static str)>,
    asked: AtomicUsize,
    refusals: AtomicUsize,
}

impl Reports for Lengths {
    fn answer(&self, query: &Uri) -> Option<Answer> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let (status, body) = self.refused?;
        let [start, end] = bounds(query);
        (end - start > TimeDelta::days(1)).then(|| {
            self.refusals.fetch_add(1, Ordering::Relaxed);
            (status, body.to_owned())
        })
    }
}

/// The window that a query asks for.
fn bounds(query: &Uri) -> [NaiveDateTime; 2] {
    let parameters: Vec<(String, String)> =
        url::form_urlencoded::parse(query.query().unwrap().as_bytes()).into_owned().collect();
    ["startTime", "endTime"].map(|name| {
        let text = &parameters.iter().find(|(known, _)| known == name).unwrap().1;
        NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").unwrap()
    })
}

/// Catches up over so many days; gives how many reports were asked for until the unit is live, and how many were refused.
async fn requests_until_live(days: u64, refused: Option<(u16, &'static str)>) -> (usize, usize) {
    let mut settings = sandbox_settings(LEGS, Duration::from_hours(24 * days));
    settings.dataset.pbxes = vec!["acme".to_owned()];
    let sandbox = Sandbox::start(settings).await.unwrap();
    let lengths = Arc::new(Lengths { refused, asked: AtomicUsize::new(0), refusals: AtomicUsize::new(0) });
    let front = Front::start(&sandbox, Arc::clone(&lengths) as Arc<dyn Reports>).await;
    let past = format!("poll.start_from = \"now-{}d\"", days + 1);
    // Polls after the first one do not count.
    let keys = [front.setting(), past.as_str(), "poll.interval = \"1h\"", "poll.overlap = \"2h\"", "sweeps = []"];
    let rig = Rig::new(sandbox, kafka().bootstrap(), &keys);
    let _daemon = rig.start();
    rig.until("the end of the catch-up", async || rig.whole_polls_of_all().await >= 1.0).await;
    assert_complete(&identities(kafka().bootstrap(), &rig.topic).await, &rig.true_identities(), false);
    (lengths.asked.load(Ordering::Relaxed), lengths.refusals.load(Ordering::Relaxed))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_years_with_few_legs_take_few_requests() {
    let (asked, _) = requests_until_live(TWO_YEARS, None).await;
    eprintln!("two years with {LEGS} legs: {asked} requests for reports");
    assert!(asked <= 60, "{asked} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_refuses_windows_of_more_than_a_day_is_read_in_shorter_ones() {
    // What may pass by itself is asked for again some times before it is taken for the window's length.
    for (days, status, body) in [(TWO_YEARS, 400, OURS), (20, 413, THEIRS), (20, 500, "")] {
        let (asked, refused) = requests_until_live(days, Some((status, body))).await;
        eprintln!(
            "{days} days with {LEGS} legs, windows above a day answered by {status}: {asked} requests, {refused} refused"
        );
        let windows = 4 * usize::try_from(days).unwrap();
        assert!(refused > 0 && asked - refused < windows, "{asked} requests, {refused} refused, {days} days");
    }
}

/// Counts the rows that the API sends, and remembers which windows were asked for.
#[derive(Default)]
struct Seen {
    rows: AtomicUsize,
    windows: Mutex<Vec<[NaiveDateTime; 2]>>,
}

impl Reports for Seen {
    fn answer(&self, query: &Uri) -> Option<Answer> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner).push(bounds(query));
        None
    }

    fn note(&self, page: &str) {
        self.rows.fetch_add(page.matches("\"callId\"").count(), Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_a_catch_up_reads_two_windows_again_at_the_most() {
    const KILLS: usize = 4;
    const LEGS: usize = 60_000;
    let mut settings = sandbox_settings(LEGS as u64, Duration::from_hours(3));
    settings.dataset.pbxes = vec!["acme".to_owned()];
    let sandbox = Sandbox::start(settings).await.unwrap();
    let seen = Arc::new(Seen::default());
    let front = Front::start(&sandbox, Arc::clone(&seen) as Arc<dyn Reports>).await;
    let keys = [
        front.setting(),
        "poll.start_from = \"now-4h\"",
        "poll.interval = \"1h\"",
        "poll.overlap = \"10s\"",
        "sweeps = []",
    ];
    let rig = Rig::new(sandbox, kafka().bootstrap(), &keys);
    for _ in 0..KILLS {
        // In the third transaction with legs of each run.
        let died = rig.start_to_die_at("committing:3").ended();
        assert_eq!(died.signal(), Some(9), "{died}");
    }
    let _daemon = rig.start();
    rig.until("the end of the catch-up", async || rig.whole_polls_of_all().await >= 1.0).await;
    assert_complete(&identities(kafka().bootstrap(), &rig.topic).await, &rig.true_identities(), false);
    let again = seen.rows.load(Ordering::Relaxed) - LEGS;
    eprintln!("{LEGS} legs, {KILLS} kills: {again} rows were read again");
    // One that is being published, one that is read meanwhile, and each process's first pages, which tell how many rows
    // there are.
    let (window, page) = (6_000, 1_000);
    assert!(again <= KILLS * 2 * window + (KILLS + 1) * 3 * page, "{again} rows");
}

#[tokio::test(flavor = "multi_thread")]
async fn live_legs_do_not_wait_for_a_long_overlap() {
    const PAGES: u64 = 20;
    let span = Duration::from_secs(400);
    let dataset = DatasetSettings { rate: 5.0, pbxes: vec!["acme".to_owned()], ..DatasetSettings::default() };
    let dataset = DatasetSettings { legs: PAGES * 100, span, ..dataset };
    let sandbox = Sandbox::start(Settings { dataset, ..sandbox_settings(1, span) }).await.unwrap();
    let seen = Arc::new(Seen::default());
    let front = Front::start(&sandbox, Arc::clone(&seen) as Arc<dyn Reports>).await;
    let keys = [
        front.setting(),
        "poll.start_from = \"now-10m\"",
        "poll.interval = \"10s\"",
        "poll.overlap = \"400s\"",
        "source.page_size = 100",
        "source.requests_per_minute = 150",
        "sweeps = []",
    ];
    let rig = Rig::new(sandbox, kafka().bootstrap(), &keys);
    let _daemon = rig.start();
    rig.polled_whole(2).await;
    let began = seen.windows.lock().unwrap_or_else(PoisonError::into_inner).len();
    rig.polled_whole(3).await;
    let windows = seen.windows.lock().unwrap_or_else(PoisonError::into_inner).split_off(began);
    // A poll asks for what is new, and then, page by page, for the overlap.
    let is_new = |[start, end]: &[NaiveDateTime; 2]| *end - *start < TimeDelta::seconds(60);
    let polls: Vec<&[[NaiveDateTime; 2]]> = windows.chunk_by(|before, next| is_new(before) || !is_new(next)).collect();
    assert!(polls.len() >= 3, "{windows:?}");
    for poll in &polls[1..polls.len() - 1] {
        let [new, overlap] = [true, false].map(|wanted| poll.iter().filter(|window| is_new(window) == wanted).count());
        assert!(
            is_new(&poll[0]) && new <= 3 && overlap >= 15,
            "{new} requests for what is new, {overlap} for the overlap"
        );
    }
    let [sum, count] = ["sum", "count"].map(|part| format!("call_legs_freshness_seconds_{part}"));
    let fresh = rig.metric(&sum, "").await / rig.metric(&count, "").await;
    eprintln!(
        "polls every 10 s over an overlap of {PAGES} pages: legs were {fresh:.1} s old on average when they were published"
    );
}

/// Three PBXs, one of them with an overlap of many pages, and the default budget of 60 requests a minute.
#[tokio::test(flavor = "multi_thread")]
async fn polls_come_as_often_as_half_of_the_budget_allows() {
    const BUDGET: usize = 60;
    let span = Duration::from_secs(400);
    let dataset = DatasetSettings { legs: 1_000, span, rate: 2.0, ..DatasetSettings::default() };
    let sandbox = Sandbox::start(Settings { dataset, ..sandbox_settings(1, span) }).await.unwrap();
    let seen = Arc::new(Seen::default());
    let front = Front::start(&sandbox, Arc::clone(&seen) as Arc<dyn Reports>).await;
    let keys = [
        front.setting(),
        "poll.start_from = \"now-10m\"",
        "poll.interval = \"auto\"",
        "poll.overlap = \"400s\"",
        "source.page_size = 100",
        "source.requests_per_minute = 60",
        "sweeps = []",
    ];
    let rig = Rig::new(sandbox, kafka().bootstrap(), &keys);
    let _daemon = rig.start();
    rig.polled_whole(2).await;
    let (began, before) = (Instant::now(), seen.windows.lock().unwrap_or_else(PoisonError::into_inner).len());
    rig.polled_whole(4).await;
    let took = began.elapsed();
    let windows = seen.windows.lock().unwrap_or_else(PoisonError::into_inner).split_off(before);
    let new = windows.iter().filter(|[start, end]| *end - *start < TimeDelta::seconds(60)).count();
    eprintln!(
        "{} requests in {took:?}, {new} of them for what is new, with a budget of {BUDGET} a minute",
        windows.len()
    );
    assert!(new >= 12, "four polls of three units read what is new: {windows:?}");
    // Half of the budget, and the bucket of a quarter that may be spent at once.
    let allowed = took.as_secs_f64() / 60.0 * BUDGET as f64 / 2.0 + BUDGET as f64 / 4.0;
    assert!((windows.len() as f64) < allowed + 6.0, "{} requests in {took:?}: {windows:?}", windows.len());
    let interval = rig.metric("call_legs_poll_interval_seconds", "").await;
    assert!((5.0..=60.0).contains(&interval), "{interval}");
    assert!(rig.metric("call_legs_kafka_round_trip_seconds", "").await > 0.0, "the producer's client tells it");
    let said = String::from_utf8_lossy(&rig.run(&["status"]).stdout).into_owned();
    assert!(said.contains("units are polled every ") && said.contains("source.requests_per_minute = 60"), "{said}");
    rig.polled_whole(1).await;
    let found = identities(kafka().bootstrap(), &rig.topic).await;
    assert!(found.values().all(|times| *times == 1), "each once");
}
