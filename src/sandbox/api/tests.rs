//! The API seen by a client: pages, bounds, refusals, and the truth.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono_tz::Tz;
use serde_json::Value;

use super::*;
use crate::sandbox::dataset::DatasetSettings;

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
fn the_bounds_are_as_the_rules_say() {
    let ends: Vec<i64> = api(2_000).legs_visible(NOW, Tz::UTC).map(|leg| leg.disconnect.as_millis()).collect();
    let full = *ends.iter().find(|end| *end % 1_000 == 0).expect("an end on a full second");
    let last = *ends.iter().find(|end| *end % 1_000 == 999).expect("an end at .999");
    let found = |start, end, from: i64, to: i64| {
        let rules = Rules { start, end, ..Rules::default() };
        let (from, to) = (local(from, Tz::UTC), local(to, Tz::UTC));
        let changes = [("startTime", from.as_str()), ("endTime", to.as_str())];
        let rows = read_all(&api_with(settings(2_000), rules), NOW, &changes);
        rows.iter().map(self::end).collect::<BTreeSet<i64>>()
    };
    let (inside, outside) = (StartBound::Inclusive, StartBound::Exclusive);
    let hour = 3_600_000;
    assert!(found(inside, EndBound::Inclusive, full, full + hour).contains(&full));
    assert!(!found(outside, EndBound::Inclusive, full, full + hour).contains(&full));
    assert!(found(inside, EndBound::Inclusive, full - hour, full).contains(&full));
    assert!(!found(inside, EndBound::Exclusive, full - hour, full).contains(&full));
    assert!(!found(inside, EndBound::Inclusive, last - hour, last).contains(&last));
    assert!(found(inside, EndBound::WholeSecond, last - hour, last).contains(&last));
    assert!(!found(inside, EndBound::WholeSecond, last - hour, last - 999 - 1).contains(&last));
}

#[test]
fn a_repeated_hour_is_read_as_the_rules_say() {
    // Clocks in New York go from 02:00 EDT back to 01:00 EST at 06:00Z.
    let set_back = UtcMillis::new(1_762_063_200_000);
    let [early, late] = [RepeatedHour::Earlier, RepeatedHour::Later].map(|repeated_hour| {
        let rules = Rules { repeated_hour, ..Rules::default() };
        let dataset = Dataset::generated(settings(1_000), set_back.plus(Duration::from_hours(2)));
        let api = Api::new(ApiSettings { rules, ..ApiSettings::default() }, dataset);
        let now = set_back.plus(Duration::from_hours(3));
        let changes = [
            ("timeZone", "America/New_York"),
            ("startTime", "2025-11-02 01:30:00"),
            ("endTime", "2025-11-02 04:00:00"),
        ];
        let rows = read_all(&api, now, &changes);
        let first = rows.iter().map(end).min().expect("a row");
        assert!(rows.iter().any(|row| row["disconnectedTime"].to_string().contains("-0500")));
        first - set_back.as_millis()
    });
    let half_hour = 30 * 60_000;
    assert!((-half_hour..-half_hour + 180_000).contains(&early), "{early}");
    assert!((half_hour..half_hour + 180_000).contains(&late), "{late}");
}

#[test]
fn a_skipped_hour_is_read_and_zones_agree() {
    let spring = ask(&api(10), NOW, &[("timeZone", "Europe/Berlin"), ("startTime", "2025-03-30 02:30:00")]);
    assert_eq!(page(&spring).total, 10);
    let api = api(500);
    let utc = read_all(&api, NOW, &[("startTime", "2025-10-09 06:00:00")]);
    let kolkata =
        [("timeZone", "Asia/Kolkata"), ("startTime", "2025-10-09 11:30:00"), ("endTime", "2025-10-10 05:30:00")];
    let there = read_all(&api, NOW, &kolkata);
    assert!(!utc.is_empty());
    assert!(utc.iter().map(identity).eq(there.iter().map(identity)));
}

#[test]
fn parameters_are_checked() {
    let api = api(10);
    let many = vec!["100"; 126].join(",");
    for (name, value) in [
        ("pbxId", ""),
        ("startTime", ""),
        ("endTime", ""),
        ("timeZone", ""),
        ("timeZone", "Mars/Olympus"),
        ("startTime", "2025-10-09T00:00:00"),
        ("startTime", "2025-10-09 0:00:00"),
        ("startTime", "2025-02-30 00:00:00"),
        ("startTime", "2025-10-09 00:00:00.000"),
        ("endTime", "2025-10-08 23:59:59"),
        ("pageSize", "0"),
        ("pageSize", "7001"),
        ("pageSize", "many"),
        ("isConnectTime", "yes"),
        ("isSimplified", "1"),
        ("callee", many.as_str()),
    ] {
        let answer = ask(&api, NOW, &[(name, value)]);
        assert_eq!(answer.status, 400, "{name}={value}");
        let body: Value = serde_json::from_str(answer.text()).expect("JSON");
        assert!(body["message"].as_str().expect("a text").contains(name), "{body}");
    }
    let both = [("caller", "1"), ("callerOrCallee", "2")];
    assert_eq!(ask(&api, NOW, &both).status, 400);
    assert_eq!(page(&ask(&api, NOW, &[("pageSize", "7000")])).rows.len(), 10);
}

#[test]
fn filters_let_through_what_they_name() {
    let api = api(2_000);
    let all = read_all(&api, NOW, &[]);
    let east = read_all(&api, NOW, &[("pbxId", "acme-east")]);
    let two = read_all(&api, NOW, &[("pbxId", "acme-west,acme-labs")]);
    assert!(east.iter().all(|row| row["pbxId"] == "acme-east"));
    assert_eq!(east.len() + two.len(), all.len());

    let simple = read_all(&api, NOW, &[("isSimplified", "true")]);
    let is_detail = |row: &&Value| {
        let callee = row["callee"].as_str().expect("a text");
        let is_child = row["parentCallId"].is_string() && row["transferToCallId"].is_null();
        is_child || callee.starts_with("CallForking") || callee.starts_with("CallRecording")
    };
    assert_eq!(simple.len(), all.len() - all.iter().filter(is_detail).count());
    assert!(simple.len() < all.len());

    let connected = read_all(&api, NOW, &[("isConnectTime", "true")]);
    let ever = all.iter().filter(|row| row["connectTimeUTC"] != 0);
    assert_eq!(connected.len(), ever.count());

    let number = |row: &Value, name: &str| row[name].as_str().expect("a text").to_owned();
    let callee = number(&east[0], "callee");
    let extension = callee.trim_end_matches(')').rsplit('(').next().unwrap_or_default();
    let names = |row: &Value, field| number(row, field).contains(extension);
    let by_callee = read_all(&api, NOW, &[("callee", extension)]);
    assert!(!by_callee.is_empty() && by_callee.iter().all(|row| names(row, "callee")));
    let list = format!("999999,{extension}");
    let either = read_all(&api, NOW, &[("callerOrCallee", &list)]);
    assert!(either.len() >= by_callee.len());
    assert!(either.iter().all(|row| names(row, "callee") || names(row, "caller")));
}

#[test]
fn refusals_have_the_documented_shapes() {
    let denied = vec![("acme-west".to_owned(), Denial::NoAccess), ("acme-labs".to_owned(), Denial::NoCategory)];
    let api = api_with(settings(100), Rules { denied, ..Rules::default() });
    let stranger = |change: &dyn Fn(&mut Credentials)| {
        let mut credentials = Credentials::default();
        change(&mut credentials);
        api.answer(NOW, &Request::token(&credentials))
    };
    let body = |answer: &Response| -> Value { serde_json::from_str(answer.text()).expect("JSON") };

    let key = stranger(&|credentials| credentials.api_key = "wrong".to_owned());
    assert_eq!((key.status, body(&key)["code"].as_str()), (400, Some("SHA001")));
    assert_eq!(body(&key)["details"][0]["path"][0], "8x8-apikey");
    for user in [
        stranger(&|credentials| credentials.password = "wrong".to_owned()),
        stranger(&|credentials| credentials.username = "wrong".to_owned()),
    ] {
        let expected = r#"{"error_description":"USER_NOTFOUND_ERROR","error":"invalid_grant"}"#;
        assert_eq!((user.status, user.text()), (400, expected));
    }

    let west = ask(&api, NOW, &[("pbxId", "acme-east,acme-west")]);
    assert_eq!((west.status, body(&west)["error"].as_str()), (403, Some("Access Denied")));
    assert_eq!(body(&west)["timeStamp"], "2025-10-09T08:53:20.000+0000");
    let expected = "user(sandbox@example.com) does not have access to pbxId(acme-west) to make this \
                    request.";
    assert_eq!(body(&west)["exception"], expected);
    assert_eq!(ask(&api, NOW, &[("pbxId", "nowhere")]).status, 403);
    let labs = ask(&api, NOW, &[("pbxId", "acme-labs")]);
    assert_eq!((labs.status, body(&labs)["code"].as_str()), (400, Some("105-400-038")));
    let all = read_all(&api, NOW, &[]);
    assert!(!all.is_empty() && all.iter().all(|row| row["pbxId"] == "acme-east"));

    for wrong in ["", "nonsense"] {
        let answer = ask_with(&api, NOW, wrong, &[]);
        assert_eq!((answer.status, body(&answer)["error"].as_str()), (401, Some("invalid_token")));
    }
    let mut request = Request::report(api.credentials(), "", &[]);
    request.headers.retain(|(name, _)| name != "Authorization");
    assert_eq!(api.answer(NOW, &request).status, 401);
    request.headers.clear();
    assert_eq!(api.answer(NOW, &request).status, 400);
    assert_eq!(api.answer(NOW, &Request::default()).status, 404);
}

#[test]
fn both_base_paths_are_served() {
    let api = api(1);
    let mut request = Request::token(api.credentials());
    request.path.insert_str(0, "/analytics/work");
    assert_eq!(api.answer(NOW, &request).status, 200);
    request.method = "GET".to_owned();
    assert_eq!(api.answer(NOW, &request).status, 405);
}

#[test]
fn tokens_expire_and_cursors_survive_renewal_unless_told_otherwise() {
    let later = NOW.plus(Duration::from_mins(29));
    let gone = NOW.plus(Duration::from_mins(30));
    for survives in [true, false] {
        let rules = Rules { cursor_survives_renewal: survives, ..Rules::default() };
        let api = api_with(settings(10), rules);
        let (old, new) = (token(&api, NOW), token(&api, later));
        let cursor = page(&ask_with(&api, NOW, &old, &[("pageSize", "3")])).cursor;
        let next = |token: &str, now| ask_with(&api, now, token, &[("pageSize", "3"), ("scrollId", &cursor)]).status;
        assert_eq!(next(&old, later), 200);
        assert_eq!(next(&old, gone), 401);
        assert_eq!(next(&new, gone), if survives { 200 } else { 400 });
    }
}

#[test]
fn what_is_older_than_two_years_is_cut() {
    let old = DatasetSettings { span: Duration::from_hours(24 * 1_000), ..settings(1_000) };
    let count = |two_year_limit| {
        let rules = Rules { two_year_limit, ..Rules::default() };
        let api = api_with(old.clone(), rules);
        read_all(&api, NOW, &[("startTime", "2001-01-01 00:00:00"), ("pageSize", "1000")]).len()
    };
    assert_eq!(count(false), 1_000);
    assert!((729..=733).contains(&count(true)), "{}", count(true));
}

#[test]
fn legs_that_last_are_shown_when_asked_for() {
    let live = DatasetSettings { rate: 3.0, late: Duration::from_mins(5), ..settings(1_000) };
    let rules = Rules { unfinished: true, ..Rules::default() };
    let api = api_with(live.clone(), rules);
    let is_lasting = |row: &&Value| row["status"] == "In Progress";
    let size = ("pageSize", "7000");
    let rows = read_all(&api, NOW, &[size]);
    let lasting: Vec<&Value> = rows.iter().filter(is_lasting).collect();
    assert!(lasting.len() > 50, "{}", lasting.len());
    assert!(lasting.iter().any(|row| row["disconnectedTimeUTC"].is_null()));
    assert!(lasting.iter().any(|row| row["disconnectedTimeUTC"] == 0));
    let later = NOW.plus(Duration::from_hours(2));
    let found: BTreeSet<[String; 3]> =
        read_all(&api, later, &[size]).iter().filter(|row| !is_lasting(row)).map(identity).collect();
    assert!(lasting.iter().all(|row| found.contains(&identity(row))));
    let without = read_all(&api_with(live, Rules::default()), NOW, &[size]);
    assert_eq!(without.len() + lasting.len(), rows.len());
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
