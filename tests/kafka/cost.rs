//! How many requests a long and sparse past takes, also where the API refuses long windows.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use call_legs::sandbox::Sandbox;
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
        let parameters: Vec<(String, String)> =
            url::form_urlencoded::parse(query.query().unwrap().as_bytes()).into_owned().collect();
        let at = |name: &str| {
            let text = &parameters.iter().find(|(known, _)| known == name).unwrap().1;
            NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").unwrap()
        };
        (at("endTime") - at("startTime") > TimeDelta::days(1)).then(|| {
            self.refusals.fetch_add(1, Ordering::Relaxed);
            (status, body.to_owned())
        })
    }
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
