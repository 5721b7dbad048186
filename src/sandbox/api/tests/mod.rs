//! The API seen by a client: pages, bounds, refusals, and the truth.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono_tz::Tz;
use serde_json::Value;

use super::*;
use crate::sandbox::dataset::DatasetSettings;

mod refusals;
mod rules;

/// 2025-10-09T08:53:20Z.
const NOW: UtcMillis = UtcMillis::new(1_760_000_000_000);

fn settings(legs: u64) -> DatasetSettings {
    DatasetSettings { legs, span: Duration::from_hours(4), ..DatasetSettings::default() }
}

fn api_with(dataset: DatasetSettings, rules: Rules) -> Api {
    let settings = ApiSettings { rules, ..ApiSettings::default() };
    Api::new(settings, Dataset::generated(dataset, NOW))
}

fn api(legs: u64) -> Api {
    api_with(settings(legs), Rules::default())
}

fn token(api: &Api, now: UtcMillis) -> String {
    let answer = api.answer(now, &Request::token(api.credentials()));
    let body: Value = serde_json::from_str(answer.text()).expect("JSON");
    body["access_token"].as_str().expect("a token").to_owned()
}

/// A query for the whole of the days around [`NOW`], and what `changes` makes of it.
fn ask(api: &Api, now: UtcMillis, changes: &[(&str, &str)]) -> Response {
    ask_with(api, now, &token(api, now), changes)
}

fn ask_with(api: &Api, now: UtcMillis, token: &str, changes: &[(&str, &str)]) -> Response {
    let mut parameters = BTreeMap::from([
        ("pbxId", "allpbxes"),
        ("startTime", "2025-10-09 00:00:00"),
        ("endTime", "2025-10-10 00:00:00"),
        ("timeZone", "UTC"),
        ("pageSize", "100"),
    ]);
    parameters.extend(changes.iter().copied());
    let parameters: Vec<(&str, &str)> = parameters.into_iter().collect();
    api.answer(now, &Request::report(api.credentials(), token, &parameters))
}

struct Page {
    total: usize,
    cursor: String,
    rows: Vec<Value>,
}

fn page(response: &Response) -> Page {
    assert_eq!(response.status, 200, "{}", response.text());
    let mut body: Value = serde_json::from_str(response.text()).expect("JSON");
    let Value::Array(rows) = body["data"].take() else { panic!("no data") };
    let total = body["meta"]["totalRecordCount"].as_u64().expect("a total");
    let cursor = body["meta"]["scrollId"].as_str().expect("a cursor").to_owned();
    Page { total: usize::try_from(total).expect("a small total"), cursor, rows }
}

/// All rows of a query, page by page; each page must tell the same total.
fn read_all(api: &Api, now: UtcMillis, changes: &[(&str, &str)]) -> Vec<Value> {
    let (mut rows, mut totals, mut cursor) = (Vec::new(), BTreeSet::new(), String::new());
    loop {
        let mut changes = changes.to_vec();
        if !cursor.is_empty() {
            changes.push(("scrollId", &cursor));
        }
        let page = page(&ask(api, now, &changes));
        if page.rows.is_empty() {
            assert_eq!((page.total, page.cursor.as_str()), (0, "No Data"));
            assert!(totals.is_empty() || totals == BTreeSet::from([rows.len()]), "{totals:?}");
            return rows;
        }
        totals.insert(page.total);
        rows.extend(page.rows);
        assert!(rows.len() <= page.total, "the pages never end");
        cursor = page.cursor;
    }
}

fn identity(row: &Value) -> [String; 3] {
    ["pbxId", "callId", "legId"].map(|name| row[name].as_str().expect("a text").to_owned())
}

fn end(row: &Value) -> i64 {
    row["disconnectedTimeUTC"].as_i64().expect("a number")
}

fn local(instant: i64, zone: Tz) -> String {
    let instant = UtcMillis::new(instant).to_datetime().expect("an instant");
    instant.with_timezone(&zone).format("%Y-%m-%d %H:%M:%S").to_string()
}

#[test]
fn every_leg_is_on_exactly_one_page() {
    let api = api(700);
    let truth: BTreeSet<[String; 3]> =
        api.legs_visible(NOW, Tz::UTC).map(|leg| [leg.pbx_id, leg.call_id, leg.leg_id]).collect();
    assert_eq!(truth.len(), 700);
    for size in ["1", "2", "7", "100", "699", "700", "701", "7000"] {
        let rows = read_all(&api, NOW, &[("pageSize", size)]);
        assert_eq!(rows.len(), 700, "{size}");
        let found: BTreeSet<[String; 3]> = rows.iter().map(identity).collect();
        assert_eq!(found, truth, "{size}");
        let order = |row: &Value| {
            let start = row["startTimeUTC"].as_i64().expect("a number");
            (-start, row["callId"].to_string(), row["legId"].to_string())
        };
        assert!(rows.is_sorted_by_key(order), "{size}");
    }
    let ties: HashSet<i64> =
        read_all(&api, NOW, &[]).iter().map(|row| row["startTimeUTC"].as_i64().expect("a number")).collect();
    assert!(ties.len() < 690, "the test needs ties");
}

#[test]
fn the_last_page_still_has_a_cursor_and_an_empty_query_has_none() {
    let api = api(10);
    let first = page(&ask(&api, NOW, &[]));
    assert_eq!((first.total, first.rows.len()), (10, 10));
    let closing = ask(&api, NOW, &[("scrollId", &first.cursor)]);
    let expected = r#"{"meta":{"totalRecordCount":0,"scrollId":"No Data"},"data":[]}"#;
    assert_eq!(closing.text(), expected);
    let nothing = ask(&api, NOW, &[("endTime", "2025-10-09 00:00:01")]);
    assert_eq!(nothing.text(), expected);
    for cursor in ["No Data", "nonsense", "c2FuZGJveA"] {
        assert_eq!(ask(&api, NOW, &[("scrollId", cursor)]).status, 400, "{cursor}");
    }
}

#[test]
fn a_cursor_holds_while_legs_are_added() {
    let growing = DatasetSettings { rate: 5.0, ..settings(500) };
    let api = api_with(growing, Rules::default());
    let first = page(&ask(&api, NOW, &[]));
    let later = NOW.plus(Duration::from_mins(5));
    let mut rows = first.rows;
    let mut cursor = first.cursor;
    loop {
        let next = page(&ask(&api, later, &[("scrollId", &cursor)]));
        if next.rows.is_empty() {
            break;
        }
        assert!(next.total > first.total + 1_000);
        rows.extend(next.rows);
        cursor = next.cursor;
    }
    let found: BTreeSet<[String; 3]> = rows.iter().map(identity).collect();
    assert_eq!(found.len(), rows.len(), "a leg came twice");
    let old = api.legs_visible(NOW, Tz::UTC);
    let missed = old.filter(|leg| !found.contains(&[leg.pbx_id.clone(), leg.call_id.clone(), leg.leg_id.clone()]));
    assert_eq!(missed.count(), 0);
}

#[test]
fn the_truth_is_what_the_pages_show() {
    let dataset = DatasetSettings { rate: 1.0, late: Duration::from_mins(20), revised_share: 0.2, ..settings(1_500) };
    let settings = ApiSettings { garbage_share: 0.05, ..ApiSettings::default() };
    let api = Api::new(settings, Dataset::generated(dataset, NOW));
    let now = NOW.plus(Duration::from_mins(7));
    let rows = read_all(&api, now, &[("pageSize", "500")]);
    let mut shown: Vec<String> = rows.iter().map(Value::to_string).collect();
    let truth: Vec<TrueLeg> = api.legs_visible(now, Tz::UTC).collect();
    let mut expected: Vec<String> = truth.iter().map(|leg| leg.current().json.clone()).collect();
    shown.sort_unstable();
    expected.sort_unstable();
    assert!(shown == expected);
    assert!(truth.iter().all(|leg| leg.versions[0].since == leg.visible_at));
    assert!(truth.iter().any(|leg| leg.versions.len() == 3));
    let kinds: HashSet<Rubbish> =
        truth.iter().flat_map(|leg| &leg.versions).filter_map(|version| version.rubbish).collect();
    assert_eq!(kinds.len(), Rubbish::ALL.len());
    let mended = |leg: &&TrueLeg| leg.versions[0].rubbish.is_some() && leg.current().rubbish.is_none();
    assert!(truth.iter().any(|leg| mended(&leg)));
}

#[test]
fn recorded_rows_are_found_like_any_others() {
    let sample = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/seed-sample.json"));
    let dataset = Dataset::replay(sample).expect("a recording");
    let rules = Rules { two_year_limit: false, ..Rules::default() };
    let api = Api::new(ApiSettings { rules, ..ApiSettings::default() }, dataset);
    let sample: Value = serde_json::from_str(sample).expect("JSON");
    let query = [
        ("pbxId", "acmecorppbx"),
        ("startTime", "2022-02-03 00:00:00"),
        ("endTime", "2022-02-03 10:00:00"),
        ("timeZone", "America/New_York"),
        ("pageSize", "1"),
    ];
    let rows = read_all(&api, NOW, &query);
    assert_eq!(Value::Array(rows), sample["data"]);
    let truth: Vec<TrueLeg> = api.legs_visible(NOW, Tz::UTC).collect();
    assert_eq!(truth.len(), 2);
    assert_eq!(truth[0].identity(), ("acmecorppbx", "1635571048351", "1"));
    let limited = Api::new(ApiSettings::default(), Dataset::replay(&sample.to_string()).expect("…"));
    assert!(read_all(&limited, NOW, &query).is_empty());
}
