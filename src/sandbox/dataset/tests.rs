//! What every dataset promises, whatever its seed.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::Value;

use super::*;

const ORIGIN: UtcMillis = UtcMillis::new(1_760_000_000_123);

const SAMPLE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/seed-sample.json"));

fn lively(seed: u64) -> DatasetSettings {
    DatasetSettings {
        seed,
        legs: 3_000,
        span: Duration::from_hours(6),
        rate: 2.0,
        late: Duration::from_mins(10),
        revised_share: 0.05,
        ..DatasetSettings::default()
    }
}

fn window(start: i64, end: i64) -> Filter {
    Filter {
        basis: Basis::Disconnect,
        start,
        end,
        pbxes: vec![0, 1, 2],
        simplified: false,
        unfinished: false,
        caller: Vec::new(),
        callee: Vec::new(),
        either: Vec::new(),
    }
}

fn after(origin_minutes: i64) -> i64 {
    ORIGIN.as_millis() + origin_minutes * 60_000
}

/// The rows of everything that ended before `end`, as they are at the end of time.
fn rows(dataset: &Dataset, end: i64) -> Vec<Value> {
    let mut reader = dataset.reader(Tz::UTC);
    let entries: Vec<Entry> = dataset.entries_until(end).collect();
    let read = |entry: &Entry| {
        let mut row = String::new();
        reader.write(entry, i64::MAX, &mut row);
        serde_json::from_str(&row).expect("a row is JSON")
    };
    entries.iter().map(read).collect()
}

fn ms(row: &Value, name: &str) -> i64 {
    row[name].as_i64().expect("a number")
}

#[test]
fn the_past_has_as_many_legs_as_were_ordered() {
    for legs in [0, 1, 63, 64, 65, 3_000] {
        let dataset = Dataset::generated(DatasetSettings { legs, rate: 0.0, ..lively(1) }, ORIGIN);
        let found = dataset.select(&window(after(-360), after(0)), i64::MAX);
        assert_eq!(found.len() as u64, legs);
        let (all, end) = (window(i64::MIN, i64::MAX), i64::MAX);
        assert_eq!(dataset.select(&all, end).len() as u64, legs);
    }
}

#[test]
fn the_future_comes_at_the_rate() {
    let dataset = Dataset::generated(lively(1), ORIGIN);
    let hour = dataset.select(&window(after(0), after(60)), after(60)).len();
    assert!((7_200..=7_500).contains(&hour), "{hour}");
    let far = dataset.select(&window(after(500_000), after(500_060)), i64::MAX).len();
    assert!((7_000..=7_400).contains(&far), "{far}");
}

#[test]
fn the_future_ends_when_it_is_told_to() {
    for (live_for, legs) in [(0, 0), (1, 2), (32, 64), (33, 66), (3_600, 7_200)] {
        let settings = DatasetSettings { live_for: Some(Duration::from_secs(live_for)), ..lively(1) };
        let dataset = Dataset::generated(settings, ORIGIN);
        assert_eq!(dataset.select(&window(after(0), i64::MAX), i64::MAX).len() as u64, legs);
        assert_eq!(dataset.entries_until(i64::MAX).count() as u64, 3_000 + legs);
        let end = after(0) + (live_for.cast_signed() + 64) * 1_000;
        assert!(dataset.select(&window(end, i64::MAX), i64::MAX).is_empty());
    }
}

#[test]
fn a_window_finds_what_a_look_at_everything_finds() {
    let sparse = DatasetSettings { rate: 0.3, ..lively(2) };
    // Dense enough for calls to outlast all the blocks that a narrow window looks at anyway.
    let dense = DatasetSettings { span: Duration::from_mins(30), rate: 0.0, ..lively(2) };
    let windows = [(-360, 120), (-10, 10), (0, 1), (-361, -359), (-100, -99), (30, 31), (-30, -29)];
    for settings in [sparse, dense] {
        let dataset = Dataset::generated(settings, ORIGIN);
        let mut reader = dataset.reader(Tz::UTC);
        let times: Vec<(u64, i64, i64)> = dataset
            .entries_until(after(200))
            .map(|entry| {
                let mut row = String::new();
                reader.write(&entry, i64::MAX, &mut row);
                let row: Value = serde_json::from_str(&row).expect("JSON");
                (entry.place, ms(&row, "connectTimeUTC"), ms(&row, "disconnectedTimeUTC"))
            })
            .collect();
        for ((from, to), basis) in
            windows.into_iter().flat_map(|window| [(window, Basis::Disconnect), (window, Basis::Connect)])
        {
            let filter = Filter { basis, ..window(after(from), after(to)) };
            let found = dataset.select(&filter, i64::MAX);
            let found: BTreeSet<u64> = found.iter().map(|entry| entry.place).collect();
            let expected = times
                .iter()
                .filter(|(_, connect, end)| filter.contains(if basis == Basis::Disconnect { *end } else { *connect }));
            let expected: BTreeSet<u64> = expected.map(|(place, ..)| *place).collect();
            assert_eq!(found, expected, "{from} {to} {basis:?}");
        }
    }
}

#[test]
fn the_same_seed_yields_the_same_rows_and_another_one_others() {
    let made = |seed| rows(&Dataset::generated(lively(seed), ORIGIN), after(5));
    assert_eq!(made(1), made(1));
    assert_ne!(made(1), made(2));
}

#[test]
fn a_row_never_changes_with_the_size_of_the_question() {
    let dataset = Dataset::generated(lively(4), ORIGIN);
    let wide = dataset.select(&window(after(-300), after(60)), i64::MAX);
    let narrow = dataset.select(&window(after(-5), after(5)), i64::MAX);
    let places: HashSet<u64> = wide.iter().map(|entry| entry.place).collect();
    assert!(!narrow.is_empty() && narrow.iter().all(|entry| places.contains(&entry.place)));
}

#[test]
fn identities_are_unique_within_a_pbx_and_not_beyond() {
    let dataset = Dataset::generated(lively(5), ORIGIN);
    let rows = rows(&dataset, after(60));
    let (mut identities, mut keys) = (HashSet::new(), HashSet::new());
    let mut pbxes_of: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for row in &rows {
        let [call, leg, pbx] = ["callId", "legId", "pbxId"].map(|name| row[name].as_str().expect("a text"));
        assert!(identities.insert((pbx, call, leg)), "{row}");
        assert!(keys.insert((call, leg, ms(row, "startTimeUTC"))), "a cursor is ambiguous: {row}");
        pbxes_of.entry(call).or_default().insert(pbx);
    }
    let shared = pbxes_of.values().filter(|pbxes| pbxes.len() > 1).count();
    assert!(shared > 20, "{shared}");
}

#[test]
fn the_awkward_cases_are_all_there() {
    let dataset = Dataset::generated(lively(6), ORIGIN);
    let rows = rows(&dataset, after(60));
    let ties = |name: &str| {
        let times: HashSet<i64> = rows.iter().map(|row| ms(row, name)).collect();
        rows.len() - times.len()
    };
    assert!(ties("startTimeUTC") > 100 && ties("disconnectedTimeUTC") > 100);
    let count = |is: &dyn Fn(&Value) -> bool| rows.iter().filter(|row| is(row)).count();
    let rounded = |rest| count(&|row: &Value| ms(row, "disconnectedTimeUTC") % 1_000 == rest);
    assert!(rounded(0) > 20 && rounded(999) > 20);
    assert!(count(&|row: &Value| row["parentCallId"].is_string()) > 100);
    assert!(count(&|row: &Value| row["transferToCallId"].is_string()) > 20);
    assert!(count(&|row: &Value| ms(row, "connectTimeUTC") == 0 && row["connectTime"] == "0") > 100);
    assert!(count(&|row: &Value| row["departments"].is_null()) > 20);
    assert!(count(&|row: &Value| row.get("departments").is_none()) > 5);
    assert!(count(&|row: &Value| row["legId"] == "2") > 100);
    for (name, value) in [
        ("missed", "Missed"),
        ("abandoned", "Abandoned"),
        ("answered", "Answered"),
        ("direction", "Outgoing"),
        ("direction", "Internal"),
        ("caller", "Anonymous"),
        ("callerName", "."),
        ("calleeSvcName", "VMadvanced"),
    ] {
        assert!(count(&|row: &Value| row[name] == value) > 10, "{name}={value}");
    }
}

#[test]
fn rows_have_the_fields_and_types_of_the_vendor_s_sample() {
    let sample: Value = serde_json::from_str(SAMPLE).expect("JSON");
    let model = sample["data"][0].as_object().expect("an object");
    let names: Vec<&String> = model.keys().collect();
    assert_eq!(names.len(), 49);
    let optional = ["departments", "branches"];
    let texts_or_null = ["parentCallId", "transferToCallId", "calleeSvcName", "calleeSvcType"];
    for row in rows(&Dataset::generated(lively(7), ORIGIN), after(5)) {
        let row = row.as_object().expect("an object");
        let absent = optional.iter().filter(|name| !row.contains_key(**name)).count();
        let expected = names.iter().filter(|name| row.contains_key(name.as_str()));
        assert!(row.keys().eq(expected.copied()) && row.len() + absent == 49, "{row:?}");
        for (name, value) in row {
            let same = match &model[name] {
                Value::String(_) => value.is_string(),
                Value::Number(_) => value.is_i64(),
                Value::Array(_) => value.is_array(),
                _ => value.is_null(),
            };
            let nullable = texts_or_null.contains(&name.as_str()) && (value.is_string() || value.is_null());
            assert!(same || nullable || (optional.contains(&name.as_str()) && value.is_null()), "{name}: {value}");
        }
        let [start, end] = ["startTimeUTC", "disconnectedTimeUTC"].map(|name| row[name].as_i64());
        assert_eq!(row["callTime"].as_i64(), end.zip(start).map(|(end, start)| end - start));
    }
}

#[test]
fn texts_of_instants_are_in_the_zone_of_the_query() {
    let dataset = Dataset::generated(lively(8), ORIGIN);
    let entry = dataset.entries_until(after(0)).next().expect("a leg");
    for (zone, offset) in [(Tz::UTC, "+0000"), (Tz::America__New_York, "-0400"), (Tz::Asia__Kolkata, "+0530")] {
        let mut row = String::new();
        dataset.reader(zone).write(&entry, i64::MAX, &mut row);
        let row: Value = serde_json::from_str(&row).expect("JSON");
        let text = row["disconnectedTime"].as_str().expect("a text");
        assert!(text.ends_with(offset), "{text}");
        let instant = chrono::DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.3f%z").expect("a time");
        assert_eq!(instant.timestamp_millis(), ms(&row, "disconnectedTimeUTC"));
    }
}

#[test]
fn a_tenth_is_late_and_never_too_late() {
    let dataset = Dataset::generated(lively(9), ORIGIN);
    let mut reader = dataset.reader(Tz::UTC);
    let (mut all, mut late) = (0, 0);
    for entry in dataset.entries_until(after(60)) {
        let lateness = entry.visible_at - reader.facts(&entry).end.expect("an end");
        assert!((0..=600_000).contains(&lateness), "{lateness}");
        all += 1;
        late += usize::from(lateness > 2_000);
    }
    assert!((all / 12..all / 8).contains(&late), "{late} of {all}");
    let punctual = DatasetSettings { late: Duration::ZERO, ..lively(9) };
    let punctual = Dataset::generated(punctual, ORIGIN);
    let mut reader = punctual.reader(Tz::UTC);
    for entry in punctual.entries_until(after(0)) {
        assert_eq!(Some(entry.visible_at), reader.facts(&entry).end);
    }
}

#[test]
fn a_revised_leg_changes_and_some_change_back() {
    let dataset = Dataset::generated(lively(10), ORIGIN);
    let mut reader = dataset.reader(Tz::UTC);
    let mut counts = [0, 0, 0];
    for entry in dataset.entries_until(after(60)) {
        let at: Vec<i64> = reader.facts(&entry).revised_at.into_iter().flatten().collect();
        counts[at.len()] += 1;
        let mut read = |now| {
            let mut row = String::new();
            reader.write(&entry, now, &mut row);
            row
        };
        let first = read(entry.visible_at);
        for (index, at) in at.iter().enumerate() {
            assert!(entry.visible_at < *at && *at <= entry.visible_at + 600_000);
            assert_eq!(read(at - 1) == first, index == 0);
            assert_eq!(read(*at) == first, index == 1);
        }
    }
    let [all, once, twice] = counts;
    assert!(once > all / 50 && twice > 50, "{counts:?}");
}

#[test]
fn a_single_pbx_and_high_rates_are_fine() {
    let settings = DatasetSettings {
        legs: 5_000,
        span: Duration::from_millis(1),
        rate: 1e9,
        pbxes: vec!["only".to_owned()],
        ..lively(11)
    };
    let dataset = Dataset::generated(settings, ORIGIN);
    let end = ORIGIN.as_millis() + 1_000;
    let filter = Filter { pbxes: vec![0], ..window(0, end) };
    let found = dataset.select(&filter, end).len();
    assert!((15_000..15_000 + 1_100).contains(&found), "{found}");
    assert_eq!(dataset.pbxes(), ["only"]);
}

#[test]
fn recordings_are_read_in_every_form_and_served_as_they_are() {
    let sample: Value = serde_json::from_str(SAMPLE).expect("JSON");
    let lines: String = sample["data"].as_array().expect("rows").iter().map(|row| format!("{row}\n")).collect();
    let strange = r#"{"callId":"1","legId":"1","startTimeUTC":5,"new": {"a" : [1.50, 1e400]}, "pbxId":"x"}"#;
    for (text, count) in [
        (SAMPLE.to_owned(), 2),
        (format!("{SAMPLE}\n{SAMPLE}"), 2),
        (format!("[{SAMPLE}]"), 2),
        (lines.clone(), 2),
        (format!("{lines}{strange}\n"), 3),
    ] {
        let dataset = Dataset::replay(&text).expect("a recording");
        let mut filter = window(0, i64::MAX);
        filter.pbxes = (0..dataset.pbxes().len()).filter_map(|n| u16::try_from(n).ok()).collect();
        let entries = dataset.select(&filter, i64::MAX);
        assert_eq!(entries.len(), count, "{text}");
        let mut row = String::new();
        dataset.reader(Tz::Asia__Tokyo).write(&entries[0], i64::MAX, &mut row);
        let served: Value = serde_json::from_str(&row).expect("JSON");
        assert_eq!(served, sample["data"][0]);
        if count == 3 {
            row.clear();
            dataset.reader(Tz::UTC).write(&entries[2], i64::MAX, &mut row);
            assert_eq!(row, strange);
        }
    }
}

#[test]
fn what_is_no_recording_is_refused_with_a_reason() {
    for (text, reason) in [
        ("", "no rows"),
        (r#"{"meta":{},"data":[]}"#, "no rows"),
        ("{\"a\":", "not JSON"),
        ("3", "neither a reply nor a row"),
        (r#"{"callId":"1"}"#, "neither startTimeUTC"),
    ] {
        let error = Dataset::replay(text).expect_err(text).to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn a_recorded_time_is_one_however_it_is_written() {
    for ended in ["1700000000000", "1700000000000.0", "1.7e12", r#""1700000000000""#, r#"" 1700000000000 ""#] {
        let row = format!(r#"{{"callId":"1","legId":"1","startTimeUTC":5,"disconnectedTimeUTC":{ended},"pbxId":"x"}}"#);
        let dataset = Dataset::replay(&row).expect("a recording");
        let found = |end: i64| dataset.select(&Filter { pbxes: vec![0], ..window(6, end) }, i64::MAX).len();
        assert_eq!((found(1_700_000_000_000), found(1_700_000_000_001)), (0, 1), "{ended}");
    }
}
