//! The findings in words, as a table and a verdict, and as JSON. It shows of a row nothing but callId and legId.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json, json};

use super::compare::{Day, Difference, Findings, LISTED_MAX, Tally, UnitIndex};
use crate::core::time::Window;
use crate::core::words::count;

/// The counts that the table shows, by their position in [`Tally::named`], with the columns' headings.
const COLUMNS: [(usize, &str); 12] = [
    (0, "API legs"),
    (1, "topic legs"),
    (2, "not due"),
    (3, "missing"),
    (5, "extra"),
    (6, "differing"),
    (7, "revised"),
    (8, "twice"),
    (9, "disorder"),
    (10, "dead"),
    (11, "unburied"),
    (12, "unfinished"),
];

/// The longest id that is shown; the API's own have some twenty digits.
const ID_CHARS_MAX: usize = 64;

/// A window that could not be read whole.
#[derive(Clone, Debug)]
pub struct Unread {
    /// The unit.
    pub unit: UnitIndex,
    /// The window.
    pub window: Window,
    /// Why.
    pub reason: String,
}

/// What an audit has found.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was compared.
    pub period: Window,
    /// What was asked for and the API no longer shows.
    pub unavailable: Option<Window>,
    /// The units' names.
    pub units: Vec<String>,
    /// The topic of legs.
    pub topic: String,
    /// The findings.
    pub findings: Findings,
    /// What could not be read.
    pub unread: Vec<Unread>,
    /// What a reader has to know to judge the findings.
    pub notes: Vec<String>,
}

impl Report {
    /// Whether topic and API were compared whole, and agree.
    pub fn is_equal(&self) -> bool {
        let total = self.findings.total();
        let is_anything_judged = total.compared() > 0 || total.not_due == 0;
        total.differences() == 0 && self.unread.is_empty() && self.unavailable.is_none() && is_anything_judged
    }

    /// The verdict, in one sentence.
    pub fn verdict(&self) -> String {
        let total = self.findings.total();
        let what = format!("{} of {}", self.period, self.units.join(", "));
        let mut besides = Vec::new();
        let mut beside = |count: u64, one: &str, many: &str| {
            if count > 0 {
                besides.push(format!("{count} {}", if count == 1 { one } else { many }));
            }
        };
        beside(total.dead, "row is a dead letter", "rows are dead letters");
        beside(total.unfinished, "call is still going on", "calls are still going on");
        let besides = if besides.is_empty() { String::new() } else { format!("; {}", besides.join(", ")) };
        let revised = match total.revised {
            0 => String::new(),
            count => format!(" but for {count} that it has revised since"),
        };
        if self.is_equal() {
            return self.verdict_of_equal(&total, &what, &format!("{revised}{besides}"));
        }
        let mut reasons = Vec::new();
        for (count, name) in [
            (total.missing, "missing"),
            (total.unburied, "unburied"),
            (total.extra, "extra"),
            (total.differing, "differing"),
            (total.twice, "twice"),
            (total.disorder, "in disorder"),
        ] {
            if count > 0 {
                reasons.push(format!("{count} {name}"));
            }
        }
        match self.unread.len() {
            0 => {}
            windows => reasons.push(format!("{} could not be read whole", count(windows as u64, "window"))),
        }
        reasons.extend(self.unavailable.map(|window| format!("the API no longer shows {window}")));
        if reasons.is_empty() {
            return format!(
                "NOT COMPARED: {} of {what} lie after the final watermarks, and will be read again: audit an earlier period, or later.",
                count(total.not_due, "leg")
            );
        }
        let agreeing = total.topic.saturating_sub(total.extra + total.differing + total.uncompared);
        format!("NOT EQUAL: {}; {} of {what} agree{revised}{besides}.", reasons.join(", "), count(agreeing, "leg"))
    }

    fn verdict_of_equal(&self, total: &Tally, what: &str, besides: &str) -> String {
        let (topic, judged) = (&self.topic, total.topic);
        let (so_far, not_compared) = match total.not_due {
            0 => ("", String::new()),
            not_due => {
                let (were, lie) = if not_due == 1 { ("was", "it lies") } else { ("were", "they lie") };
                let legs = count(not_due, "leg");
                let why = format!("{lie} after the final watermarks, and will be read again");
                (" so far", format!("; {legs} of the API {were} not compared, since {why}"))
            }
        };
        match (judged, so_far) {
            (0, _) => {
                format!("Equal{so_far}: {topic} holds no leg of {what}, and the API shows none{besides}{not_compared}.")
            }
            (1, _) => {
                format!(
                    "Equal{so_far}: the 1 leg of {what} is in {topic} once, as the API shows it{besides}{not_compared}."
                )
            }
            (_, "") => {
                format!("Equal: all {judged} legs of {what} are in {topic} once each, as the API shows them{besides}.")
            }
            _ => format!(
                "Equal{so_far}: {judged} legs of {what} are in {topic} once each, as the API shows them{besides}{not_compared}."
            ),
        }
    }

    /// The report in lines; the verdict is the last.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = self.table();
        let total = self.findings.total();
        self.list(&mut lines, "Differences", total.differences(), &self.findings.differences);
        self.list(
            &mut lines,
            "Revised since they were published, no difference",
            total.revised,
            &self.findings.revised,
        );
        if !self.unread.is_empty() {
            lines.extend([String::new(), "Could not be read whole:".to_owned()]);
            lines.extend(self.unread.iter().map(|unread| {
                format!("  {} {}: {}", unit_name(&self.units, unread.unit), unread.window, unread.reason)
            }));
        }
        if let Some(window) = self.unavailable {
            lines.push(String::new());
            lines.push(format!("Unavailable: the API keeps two years, and no longer shows {window}"));
        }
        if !self.notes.is_empty() {
            lines.push(String::new());
            lines.extend(self.notes.iter().map(|note| format!("Note: {note}")));
        }
        lines.extend([String::new(), self.verdict()]);
        lines
    }

    fn table(&self) -> Vec<String> {
        let mut rows =
            vec![["day", "unit"].into_iter().chain(COLUMNS.map(|(_, heading)| heading)).map(str::to_owned).collect()];
        let row = |day: String, unit: &str, tally: &Tally| -> Vec<String> {
            let named = tally.named();
            let counts = COLUMNS.iter().map(|(position, _)| named[*position].1.to_string());
            [day, unit.to_owned()].into_iter().chain(counts).collect()
        };
        for (&(day, unit), tally) in &self.findings.days {
            rows.push(row(day.to_string(), unit_name(&self.units, unit), tally));
        }
        rows.push(row("total".to_owned(), "", &self.findings.total()));
        let columns = COLUMNS.len() + 2;
        let widths: Vec<usize> = (0..columns)
            .map(|column| rows.iter().map(|row: &Vec<String>| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        rows.iter()
            .map(|row| {
                let mut line = String::new();
                for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                    let separator = if column == 0 { "" } else { "  " };
                    // Writing to a String cannot fail.
                    let _ = if column < 2 {
                        write!(line, "{separator}{cell:<width$}")
                    } else {
                        write!(line, "{separator}{cell:>width$}")
                    };
                }
                line
            })
            .collect()
    }

    fn list(&self, lines: &mut Vec<String>, heading: &str, count: u64, listed: &[Difference]) {
        if listed.is_empty() {
            return;
        }
        lines.push(String::new());
        lines.push(match listed.len() as u64 {
            shown if shown < count => format!("{heading} (the first {shown} of {count}):"),
            _ => format!("{heading}:"),
        });
        lines.extend(listed.iter().map(|difference| format!("  {}", self.describe(difference))));
    }

    fn describe(&self, difference: &Difference) -> String {
        let Difference { kind, unit, day, leg, row, place, fields, detail, .. } = difference;
        let mut text = format!("{:<9}  {day} {}", kind.as_str(), unit_name(&self.units, *unit));
        // Writing to a String cannot fail.
        if let Some((call_id, leg_id)) = leg {
            let _ = write!(text, " callId {} legId {}", printable(call_id), printable(leg_id));
        }
        if let Some(row) = row {
            let _ = write!(text, " row {}", hex(&row.0));
        }
        if let Some((partition, offset)) = place {
            let _ = write!(text, " at partition {partition} offset {offset}");
        }
        if !fields.is_empty() {
            let _ = write!(text, ", fields {}", fields.join(" "));
        }
        if !detail.is_empty() {
            let _ = write!(text, ": {detail}");
        }
        text
    }

    /// The report as one JSON object.
    pub fn json(&self) -> Json {
        let total = self.findings.total();
        let days: Vec<Json> = self
            .findings
            .days
            .iter()
            .map(|(&(day, unit), tally)| {
                let mut object = self.place(day, unit);
                object.extend(counts(tally));
                Json::Object(object)
            })
            .collect();
        let list =
            |listed: &[Difference]| listed.iter().map(|difference| self.difference(difference)).collect::<Json>();
        let unread = self.unread.iter().map(|unread| {
            json!({
                "unit": unit_name(&self.units, unread.unit),
                "from": unread.window.start.to_string(),
                "to": unread.window.end.to_string(),
                "reason": unread.reason,
            })
        });
        json!({
            "from": self.period.start.to_string(),
            "to": self.period.end.to_string(),
            "unavailableFrom": self.unavailable.map(|window| window.start.to_string()),
            "topic": self.topic,
            "units": self.units,
            "days": days,
            "total": Json::Object(counts(&total)),
            "differences": list(&self.findings.differences),
            "revised": list(&self.findings.revised),
            "listedMax": LISTED_MAX,
            "unread": unread.collect::<Json>(),
            "notes": self.notes,
            "equal": self.is_equal(),
            "verdict": self.verdict(),
        })
    }

    fn place(&self, day: Day, unit: UnitIndex) -> Map<String, Json> {
        let mut object = Map::new();
        object.insert("day".to_owned(), day.to_string().into());
        object.insert("unit".to_owned(), unit_name(&self.units, unit).into());
        object
    }

    fn difference(&self, difference: &Difference) -> Json {
        let Difference { kind, unit, day, leg, row, place, fields, detail, .. } = difference;
        let mut object = Map::new();
        object.insert("kind".to_owned(), kind.as_str().into());
        object.extend(self.place(*day, *unit));
        if let Some((call_id, leg_id)) = leg {
            object.insert("callId".to_owned(), printable(call_id).into());
            object.insert("legId".to_owned(), printable(leg_id).into());
        }
        if let Some(row) = row {
            object.insert("row".to_owned(), hex(&row.0).into());
        }
        if let Some((partition, offset)) = place {
            object.insert("partition".to_owned(), (*partition).into());
            object.insert("offset".to_owned(), (*offset).into());
        }
        if !fields.is_empty() {
            object.insert("fields".to_owned(), fields.iter().copied().collect());
        }
        if !detail.is_empty() {
            object.insert("detail".to_owned(), (*detail).into());
        }
        Json::Object(object)
    }
}

/// The counts, with names such as `notDue`.
fn counts(tally: &Tally) -> Map<String, Json> {
    let camel = |name: &str| {
        let mut words = name.split(' ');
        let first = words.next().unwrap_or_default().to_owned();
        words.fold(first, |text, word| {
            let (head, tail) = word.split_at(word.len().min(1));
            text + &head.to_uppercase() + tail
        })
    };
    tally.named().into_iter().map(|(name, count)| (camel(name), count.into())).collect()
}

/// An id, which comes from outside, so that it does nothing to a terminal.
fn printable(id: &str) -> String {
    id.chars().take(ID_CHARS_MAX).map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A unit's name in the report.
pub(super) fn unit_name(units: &[String], index: UnitIndex) -> &str {
    units.get(usize::from(index)).map_or("?", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::super::compare::Kind;
    use super::*;
    use crate::core::identity::KeyHash;
    use crate::core::time::UtcMillis;

    fn report(tally: Tally) -> Report {
        let start = UtcMillis::new(1_643_846_400_000);
        let period = Window::new(start, UtcMillis::new(1_643_932_800_000));
        let findings = Findings { days: [((Day::of(start), 0), tally)].into(), ..Findings::default() };
        Report {
            period,
            unavailable: None,
            units: vec!["acme-east".to_owned()],
            topic: "legs".to_owned(),
            findings,
            unread: Vec::new(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn an_equal_report_is_a_table_and_a_sentence() {
        let tally = Tally { api: 1_000, topic: 998, not_due: 2, revised: 1, dead: 3, ..Tally::default() };
        let report = report(tally);
        assert!(report.is_equal());
        assert_eq!(
            report.lines(),
            [
                "day         unit       API legs  topic legs  not due  missing  extra  differing  revised  twice  disorder  dead  unburied  unfinished",
                "2022-02-03  acme-east      1000         998        2        0      0          0        1      0         0     3         0           0",
                "total                      1000         998        2        0      0          0        1      0         0     3         0           0",
                "",
                "Equal so far: 998 legs of [2022-02-03T00:00:00Z, 2022-02-04T00:00:00Z) of acme-east are in legs once each, as the API shows them but for 1 that it has revised since; \
                 3 rows are dead letters; 2 legs of the API were not compared, since they lie after the final watermarks, and will be read again.",
            ]
        );
        assert_eq!(report.json()["total"]["notDue"], 2);
        assert_eq!(report.json()["equal"], true);
    }

    #[test]
    fn anything_that_is_wrong_or_was_not_compared_is_not_equal() {
        let good = Tally { api: 5, topic: 5, ..Tally::default() };
        for (tally, said) in [
            (Tally { missing: 1, topic: 4, ..good }, "NOT EQUAL: 1 missing; 4 legs"),
            (Tally { extra: 2, api: 3, ..good }, "NOT EQUAL: 2 extra; 3 legs"),
            (Tally { differing: 1, ..good }, "1 differing; 4 legs"),
            (Tally { twice: 1, ..good }, "1 twice; 5 legs"),
            (Tally { disorder: 1, ..good }, "1 in disorder"),
            (Tally { unburied: 1, ..good }, "1 unburied"),
            (Tally { api: 5, not_due: 5, ..Tally::default() }, "NOT COMPARED: 5 legs of ["),
        ] {
            let report = report(tally);
            assert!(!report.is_equal(), "{said}");
            assert!(report.verdict().contains(said), "{}", report.verdict());
        }
        let mut unread = report(good);
        unread.unread.push(Unread { unit: 0, window: unread.period, reason: "why".to_owned() });
        assert!(!unread.is_equal() && unread.verdict().contains("1 window could not be read whole"));
        let mut cut = report(good);
        cut.unavailable = Some(cut.period);
        assert!(!cut.is_equal() && cut.verdict().contains("the API no longer shows ["));
        assert!(report(Tally::default()).verdict().starts_with("Equal: legs holds no leg of"));
        let whole = report(good).verdict();
        assert!(whole.starts_with("Equal: all 5 legs of [") && whole.ends_with("as the API shows them."), "{whole}");
    }

    #[test]
    fn differences_are_described_by_ids_places_and_names() {
        let mut report = report(Tally { api: 30, topic: 30, differing: 21, revised: 1, ..Tally::default() });
        let difference = Difference {
            kind: Kind::Differing,
            unit: 0,
            day: Day::of(report.period.start),
            leg: Some(("16\u{1b}[2J".to_owned(), "2".to_owned())),
            row: None,
            place: Some((1, 42)),
            expected: None,
            fields: vec!["cause", "extra"],
            detail: "why",
        };
        let buried = Difference {
            kind: Kind::Unburied,
            leg: None,
            place: None,
            fields: vec![],
            row: Some(KeyHash([0xab; 16])),
            ..difference.clone()
        };
        report.findings.differences = vec![difference, buried];
        let lines = report.lines();
        assert_eq!(lines[4], "Differences (the first 2 of 21):");
        assert_eq!(
            lines[5],
            "  differing  2022-02-03 acme-east callId 16\u{fffd}[2J legId 2 at partition 1 offset 42, fields cause extra: why"
        );
        assert_eq!(lines[6], format!("  unburied   2022-02-03 acme-east row {}: why", "ab".repeat(16)));
        let json = &report.json()["differences"][0];
        assert_eq!(
            (&json["kind"], &json["offset"], &json["fields"][1]),
            (&"differing".into(), &42.into(), &"extra".into())
        );
    }
}
