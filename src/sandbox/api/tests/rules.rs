//! What a query finds: bounds, zones, filters, and the rules that can be read either way.

use super::*;

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
    let live = DatasetSettings { rate: 0.5, late: Duration::from_mins(5), ..settings(1_000) };
    let rules = Rules { unfinished: true, ..Rules::default() };
    let api = api_with(live.clone(), rules);
    let is_lasting = |row: &&Value| row["status"] == "In Progress";
    let size = ("pageSize", "7000");
    let rows = read_all(&api, NOW, &[size]);
    let lasting: Vec<&Value> = rows.iter().filter(is_lasting).collect();
    assert!(lasting.len() > 20, "{}", lasting.len());
    assert!(lasting.iter().any(|row| row["disconnectedTimeUTC"].is_null()));
    assert!(lasting.iter().any(|row| row["disconnectedTimeUTC"] == 0));
    let later = NOW.plus(Duration::from_mins(65));
    let found: BTreeSet<[String; 3]> =
        read_all(&api, later, &[size]).iter().filter(|row| !is_lasting(row)).map(identity).collect();
    assert!(lasting.iter().all(|row| found.contains(&identity(row))));
    let without = read_all(&api_with(live, Rules::default()), NOW, &[size]);
    assert_eq!(without.len() + lasting.len(), rows.len());
}
