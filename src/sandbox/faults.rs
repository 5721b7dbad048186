//! Faults on the way between the API and its client, decided by a seed and the request's number.
//!
//! ```text
//!   request n ─▶ outage? ─▶ a fault? ─▶ Api::answer ─▶ spoilt? ─▶ Exchange
//!                  │           └─ refused unasked: 429, 500, 503, reset, html, empty, expired
//!                  └─ reset                     cut, slow, short, loop, drift, zone ─┘
//! ```
//!
//! What happens is returned as a value; the server, or a simulation without one, carries it out.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::api::{Api, Request, Response, wrong_token};
use super::dice::Dice;
use super::lies::{blanked, drifted, looped, moved, shortened};
pub use super::mix::{FaultMix, FaultMixError, Kind, ShareError, parse_share};
use crate::core::time::UtcMillis;

/// How many requests in a row an outage of the mix refuses.
const OUTAGE_REQUESTS: u64 = 8;

/// The longest that [`Kind::Slow`] delays.
const SLOW_MS_MAX: u64 = 2_000;

/// The longest that [`Kind::TooMany`] asks to wait.
const RETRY_AFTER_S_MAX: u64 = 3;

/// What a gateway says when it has nothing better to say.
const GATEWAY_PAGE: &str = "<!DOCTYPE html>\n<html><head><title>Please wait</title></head>\
    <body><h1>We'll be right back.</h1></body></html>\n";

/// Keeps the streams of dice apart.
mod purpose {
    pub(super) const FAULT: u64 = 0xFA;
    pub(super) const OUTAGE: u64 = 0x0F;
}

/// What becomes of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// How long it takes before anything is sent.
    pub delay: Duration,
    /// What is sent.
    pub outcome: Outcome,
}

/// What the client gets to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer.
    Answer(Response),
    /// Nothing: the connection is reset.
    Reset,
    /// The answer's head, which promises the whole body, and `sent` bytes of it; then the
    /// connection is closed.
    Cut {
        /// The whole answer.
        response: Response,
        /// How much of its body is sent.
        sent: usize,
    },
}

/// The faults of a sandbox: shared between the server and the test that controls it.
#[derive(Debug)]
pub struct Faults {
    seed: u64,
    mix: Mutex<FaultMix>,
    outage: AtomicBool,
    requests: AtomicU64,
    counts: [AtomicU64; Kind::ALL.len()],
}

impl Faults {
    /// Faults as in `mix`, decided by `seed`.
    pub fn new(seed: u64, mix: FaultMix) -> Self {
        Self {
            seed,
            mix: Mutex::new(mix),
            outage: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            counts: [const { AtomicU64::new(0) }; Kind::ALL.len()],
        }
    }

    /// Changes the mix from the next request on. The share of [`Kind::Garbage`] is the API's and
    /// cannot be changed.
    pub fn set_mix(&self, mix: FaultMix) {
        *self.mix.lock().unwrap_or_else(PoisonError::into_inner) = mix;
    }

    /// Lets every connection be reset from now on, or no longer.
    pub fn set_outage(&self, is_out: bool) {
        self.outage.store(is_out, Ordering::SeqCst);
    }

    /// How many requests there were.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    /// How many requests met a fault of this kind. Rows that are rubbish are not counted.
    pub fn count(&self, kind: Kind) -> u64 {
        self.counts[kind as usize].load(Ordering::SeqCst)
    }

    /// What becomes of the next request, which arrives at `now`.
    pub fn exchange(&self, api: &Api, now: UtcMillis, request: &Request) -> Exchange {
        let number = self.requests.fetch_add(1, Ordering::SeqCst);
        let (fault, dice) = self.decide(number, request.is_report());
        let Some(kind) = fault else {
            return promptly(Outcome::Answer(api.answer(now, request)));
        };
        let found = exchange(kind, dice, api, now, request);
        if found.is_some() {
            self.counts[kind as usize].fetch_add(1, Ordering::SeqCst);
        }
        found.unwrap_or_else(|| promptly(Outcome::Answer(api.answer(now, request))))
    }

    fn decide(&self, number: u64, is_report: bool) -> (Option<Kind>, Dice) {
        let mix = self.mix.lock().unwrap_or_else(PoisonError::into_inner);
        let mut dice = Dice::of(&[self.seed, purpose::FAULT, number]);
        let mut run = Dice::of(&[self.seed, purpose::OUTAGE, number / OUTAGE_REQUESTS]);
        if self.outage.load(Ordering::SeqCst) || run.chance(mix.share(Kind::Outage)) {
            return (Some(Kind::Outage), dice);
        }
        let kind = mix.pick(dice.unit()).filter(|kind| is_report || !kind.needs_report());
        (kind, dice)
    }
}

/// An exchange with a fault; `None` where the answer does not lend itself to it.
fn exchange(kind: Kind, mut dice: Dice, api: &Api, now: UtcMillis, request: &Request) -> Option<Exchange> {
    let outcome = match kind {
        Kind::Garbage => return None,
        Kind::Outage | Kind::Reset => Outcome::Reset,
        Kind::TooMany => Outcome::Answer(too_many(&mut dice, now)),
        Kind::ServerError => Outcome::Answer(broken(500, "Internal Server Error")),
        Kind::Unavailable => Outcome::Answer(broken(503, "Service Unavailable")),
        Kind::Html => {
            let headers = vec![("Content-Type", "text/html".to_owned())];
            Outcome::Answer(Response { status: 200, headers, body: GATEWAY_PAGE.into() })
        }
        Kind::Empty => Outcome::Answer(Response::json(200, "")),
        Kind::Expired => Outcome::Answer(wrong_token("Access token expired")),
        Kind::Slow => {
            let delay = Duration::from_millis(1 + dice.below(SLOW_MS_MAX));
            return Some(Exchange { delay, outcome: Outcome::Answer(api.answer(now, request)) });
        }
        Kind::Cut => {
            let response = api.answer(now, request);
            let length = response.body.len() as u64;
            let sent = usize::try_from(length / 4 + dice.below(length / 2)).unwrap_or(0);
            Outcome::Cut { response, sent }
        }
        Kind::Short => Outcome::Answer(shortened(&mut dice, &api.answer(now, request))?),
        Kind::Loop => Outcome::Answer(looped(request, &api.answer(now, request))?),
        Kind::Drift => Outcome::Answer(drifted(api, now, request)?),
        Kind::Blank => Outcome::Answer(blanked(&api.answer(now, request))?),
        Kind::Zone => Outcome::Answer(moved(&api.answer(now, request))?),
    };
    Some(promptly(outcome))
}

fn promptly(outcome: Outcome) -> Exchange {
    Exchange { delay: Duration::ZERO, outcome }
}

fn broken(status: u16, message: &str) -> Response {
    Response::value(status, &json!({"status": status, "error": message}))
}

fn too_many(dice: &mut Dice, now: UtcMillis) -> Response {
    let mut response = broken(429, "Too Many Requests");
    let seconds = 1 + dice.below(RETRY_AFTER_S_MAX);
    let after =
        if dice.below(2) == 0 { seconds.to_string() } else { http_date(now.plus(Duration::from_secs(seconds))) };
    response.headers.push(("Retry-After", after));
    response
}

/// An instant as HTTP headers have it.
pub(super) fn http_date(instant: UtcMillis) -> String {
    let since_epoch = instant.since(UtcMillis::new(0));
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + since_epoch)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use chrono::DateTime;

    use super::super::api::ApiSettings;
    use super::super::dataset::{Dataset, DatasetSettings};
    use super::super::lies::{Page, ZONED_FORMAT, ZONED_TEXTS};
    use super::*;

    const NOW: UtcMillis = UtcMillis::new(1_760_000_000_000);

    fn api() -> Api {
        let settings = DatasetSettings { legs: 200, ..DatasetSettings::default() };
        Api::new(ApiSettings::default(), Dataset::generated(settings, NOW))
    }

    fn report(api: &Api, extra: &[(&str, &str)]) -> Request {
        let token = api.answer(NOW, &Request::token(api.credentials()));
        let token: serde_json::Value = serde_json::from_str(token.text()).expect("JSON");
        let token = token["access_token"].as_str().expect("a token").to_owned();
        let mut parameters = vec![
            ("pbxId", "allpbxes"),
            ("startTime", "2025-10-01 00:00:00"),
            ("endTime", "2025-10-10 00:00:00"),
            ("timeZone", "UTC"),
            ("pageSize", "50"),
        ];
        parameters.extend_from_slice(extra);
        Request::report(api.credentials(), &token, &parameters)
    }

    fn only(kind: Kind) -> Faults {
        Faults::new(9, FaultMix::default().with(kind, 1.0))
    }

    fn answer(kind: Kind, request: &Request) -> Response {
        let faults = only(kind);
        match faults.exchange(&api(), NOW, request).outcome {
            Outcome::Answer(response) => response,
            other => panic!("{other:?}"),
        }
    }

    fn rows(response: &Response) -> (u64, usize, String) {
        let page: Page<'_> = serde_json::from_str(response.text()).expect("a page");
        (page.meta.total, page.data.len(), page.meta.scroll_id.to_owned())
    }

    #[test]
    fn the_same_seed_decides_the_same() {
        let api = api();
        let request = report(&api, &[]);
        let mix = FaultMix::transport(0.4).with(Kind::Outage, 0.05).with(Kind::Short, 0.1);
        let run = |seed| {
            let faults = Faults::new(seed, mix.clone());
            let turns: Vec<Exchange> = (0..200).map(|_| faults.exchange(&api, NOW, &request)).collect();
            let counts = Kind::ALL.map(|kind| faults.count(kind));
            (turns, counts)
        };
        let (turns, counts) = run(1);
        assert_eq!((turns.clone(), counts), run(1));
        assert_ne!(turns, run(2).0);
        assert!(counts[Kind::Cut as usize] > 5 && counts[Kind::Outage as usize] >= 8, "{counts:?}");
    }

    #[test]
    fn an_outage_is_switched_and_counted() {
        let api = api();
        let faults = Faults::new(1, FaultMix::default());
        let request = Request::token(api.credentials());
        faults.set_outage(true);
        assert_eq!(faults.exchange(&api, NOW, &request).outcome, Outcome::Reset);
        faults.set_outage(false);
        let outcome = faults.exchange(&api, NOW, &request).outcome;
        assert!(matches!(outcome, Outcome::Answer(Response { status: 200, .. })), "{outcome:?}");
        assert_eq!((faults.requests(), faults.count(Kind::Outage)), (2, 1));
    }

    #[test]
    fn a_throttle_says_how_long_in_both_ways() {
        let api = api();
        let faults = only(Kind::TooMany);
        let request = report(&api, &[]);
        let mut forms = HashMap::new();
        for _ in 0..20 {
            let Outcome::Answer(answer) = faults.exchange(&api, NOW, &request).outcome else {
                panic!("not an answer");
            };
            assert_eq!(answer.status, 429);
            let after = answer.header("retry-after").expect("a header").to_owned();
            let is_date = httpdate::parse_http_date(&after).is_ok();
            assert!(is_date || after.parse::<u64>().is_ok(), "{after}");
            *forms.entry(is_date).or_insert(0) += 1;
        }
        assert_eq!(forms.len(), 2);
    }

    #[test]
    fn a_short_page_keeps_total_and_cursor() {
        let request = report(&api(), &[]);
        let (total, count, cursor) = rows(&answer(Kind::Short, &request));
        let whole = rows(&api().answer(NOW, &request));
        assert_eq!((total, cursor), (200, whole.2));
        assert!(count < whole.1, "{count}");
    }

    #[test]
    fn a_loop_repeats_the_cursor_also_of_the_closing_page() {
        let first = rows(&api().answer(NOW, &report(&api(), &[])));
        let second = answer(Kind::Loop, &report(&api(), &[("scrollId", &first.2)]));
        assert_eq!(rows(&second), (200, 50, first.2));
        let whole = rows(&api().answer(NOW, &report(&api(), &[("pageSize", "7000")])));
        let closing = answer(Kind::Loop, &report(&api(), &[("scrollId", &whole.2)]));
        assert_eq!(rows(&closing).1, 50);
    }

    #[test]
    fn a_drifting_row_comes_twice_and_another_one_not_at_all() {
        let ids = |response: &Response| -> Vec<String> {
            let page: Page<'_> = serde_json::from_str(response.text()).expect("a page");
            page.data.iter().map(|row| row.get().to_owned()).collect()
        };
        let first = answer(Kind::Drift, &report(&api(), &[]));
        let whole = api().answer(NOW, &report(&api(), &[]));
        let next = api().answer(NOW, &report(&api(), &[("scrollId", &rows(&first).2)]));
        assert_eq!(rows(&first), rows(&whole));
        let (first, whole, next) = (ids(&first), ids(&whole), ids(&next));
        assert_eq!((&first[..49], &first[49]), (&whole[..49], &next[0]));
        assert!(!first.contains(&whole[49]) && !next.contains(&whole[49]));
        let cursor = (0..3).fold(None, |cursor: Option<String>, _| {
            let parameters: Vec<(&str, &str)> = cursor.iter().map(|cursor| ("scrollId", cursor.as_str())).collect();
            Some(rows(&api().answer(NOW, &report(&api(), &parameters))).2)
        });
        let last = report(&api(), &[("scrollId", &cursor.expect("a cursor"))]);
        let same = ids(&answer(Kind::Drift, &last)) == ids(&api().answer(NOW, &last));
        assert!(same, "the last page has no other to drift to");
    }

    #[test]
    fn a_page_of_another_zone_has_the_same_instants_with_other_offsets() {
        let request = report(&api(), &[]);
        let first = |response: &Response| -> serde_json::Value {
            let page: serde_json::Value = serde_json::from_str(response.text()).expect("JSON");
            page["data"][0].clone()
        };
        let (mut moved, mut right) = (first(&answer(Kind::Zone, &request)), first(&api().answer(NOW, &request)));
        let instant = |row: &serde_json::Value| {
            let text = row["disconnectedTime"].as_str().expect("a text");
            DateTime::parse_from_str(text, ZONED_FORMAT).expect("in the usual form")
        };
        assert_eq!(instant(&moved), instant(&right));
        let offsets = [&moved, &right].map(|row| instant(row).offset().local_minus_utc());
        assert_eq!(offsets, [3_600, 0]);
        for name in ZONED_TEXTS {
            (moved[name], right[name]) = (serde_json::Value::Null, serde_json::Value::Null);
        }
        assert_eq!(moved, right);
    }

    #[test]
    fn a_fault_that_does_not_fit_does_not_happen() {
        let api = api();
        let faults = only(Kind::Loop);
        let Outcome::Answer(first) = faults.exchange(&api, NOW, &report(&api, &[])).outcome else {
            panic!("not an answer");
        };
        assert_eq!((rows(&first).1, faults.count(Kind::Loop)), (50, 0));
        let token = Request::token(api.credentials());
        let exchange = only(Kind::Expired).exchange(&api, NOW, &token);
        assert!(matches!(exchange.outcome, Outcome::Answer(Response { status: 200, .. })));
    }

    #[test]
    fn the_other_answers_look_like_a_gateway_s() {
        let request = report(&api(), &[]);
        assert!(answer(Kind::Html, &request).text().starts_with("<!DOCTYPE"));
        assert!(answer(Kind::Empty, &request).body.is_empty());
        assert_eq!(answer(Kind::Expired, &request).status, 401);
        let Outcome::Cut { response, sent } = only(Kind::Cut).exchange(&api(), NOW, &request).outcome else {
            panic!("not cut");
        };
        assert!(0 < sent && sent < response.body.len());
    }
}
