//! What the simulated API has shown beside what the topic holds, and the sentence about it.
//!
//! Nothing is taken from the connector's memory but when its newest whole poll of each PBX began: what the API had shown
//! by then has to be in the topic. What it shows since is the next poll's, and may be there or not.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::core::planner::bound;
use crate::core::time::UtcMillis;
use crate::core::words::count;
use crate::sandbox::Rubbish;
use crate::sandbox::api::TrueLeg;

/// A leg: pbxId, callId, legId.
pub(super) type Identity = (String, String, String);

/// The `Date` header, by which a poll is bounded, has whole seconds.
const DATE_STEP: Duration = Duration::from_secs(1);

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Legs that the API has shown and that are in the topic, or have to be.
    shown: u64,
    /// Of these, those that are not in the topic.
    missing: u64,
    /// Of these, those that are in the topic twice or more often.
    repeated: u64,
    /// Legs in the topic that the API has never shown.
    unknown: u64,
}

/// What else happened in a demo.
#[derive(Clone, Debug, Default)]
pub(super) struct Happened {
    /// Records of the dead-letter topic.
    pub(super) dead_letters: u64,
    /// Rows that came again and were dropped.
    pub(super) repeats: u64,
    /// Legs that the API has changed since they were published.
    pub(super) revised: u64,
    /// Faults of the API.
    pub(super) faults: u64,
    /// Kills of the connector.
    pub(super) kills: u64,
}

impl Verdict {
    /// Compares `truth`, what the API shows by now, with how often each leg is in the topic. `polled`: when the newest whole
    /// poll of each unit began.
    pub(super) fn of(
        truth: impl Iterator<Item = TrueLeg>,
        polled: &BTreeMap<String, UtcMillis>,
        mut topic: HashMap<Identity, u64>,
    ) -> Self {
        let mut verdict = Self::default();
        for leg in truth {
            let (pbx, call, number) = leg.identity();
            let times = topic.remove(&(pbx.to_owned(), call.to_owned(), number.to_owned())).unwrap_or(0);
            if times == 0 && !(is_due(&leg, polled) && is_leg(&leg)) {
                continue;
            }
            verdict.shown += 1;
            verdict.missing += u64::from(times == 0);
            verdict.repeated += u64::from(times > 1);
        }
        verdict.unknown = topic.len() as u64;
        verdict
    }

    /// Whether it is as the guarantee promises.
    pub(super) const fn is_kept(&self, is_exactly_once: bool) -> bool {
        self.missing == 0 && self.unknown == 0 && (self.repeated == 0 || !is_exactly_once)
    }

    /// What came of the demo, in a sentence.
    pub(super) fn sentence(&self, is_exactly_once: bool, topic: &str) -> String {
        let Self { shown, missing, repeated, unknown } = *self;
        if shown + unknown == 0 {
            return "The demo ended before the first poll did: nothing was read. Give it longer, such as --for 30s."
                .to_owned();
        }
        let shown = format!("The simulated API showed {}", count(shown, "leg"));
        if !self.is_kept(is_exactly_once) {
            let wrong = [(missing, "missing"), (repeated, "there more than once"), (unknown, "never shown by the API")];
            let wrong: Vec<String> = wrong
                .iter()
                .filter(|(number, _)| *number > 0)
                .map(|(number, what)| format!("{number} {what}"))
                .collect();
            return format!("{shown}. Topic {topic} is NOT as promised: {}. Please report it.", wrong.join(", "));
        }
        if is_exactly_once {
            return format!("{shown}: each of them is exactly once in topic {topic}.");
        }
        let repeated = match repeated {
            0 => "none of them twice".to_owned(),
            some => format!("{some} of them twice"),
        };
        format!("{shown}: each of them is at least once in topic {topic}, {repeated}.")
    }
}

/// Whether the newest whole poll of the leg's PBX had to find it.
fn is_due(leg: &TrueLeg, polled: &BTreeMap<String, UtcMillis>) -> bool {
    polled
        .get(&leg.pbx_id)
        .is_some_and(|begun| leg.visible_at <= *begun && leg.disconnect < bound(*begun).minus(DATE_STEP))
}

/// Whether every row of it can be a leg. One that is mended is published by a later poll.
fn is_leg(leg: &TrueLeg) -> bool {
    let is_usable = |rubbish| matches!(rubbish, Rubbish::NumericLegId | Rubbish::UnknownFields);
    leg.versions.iter().filter_map(|version| version.rubbish).all(is_usable)
}

impl Happened {
    /// What happened, without what did not; empty where nothing did.
    pub(super) fn sentence(&self) -> String {
        let Self { dead_letters, repeats, revised, faults, kills } = *self;
        let told = [
            (
                kills,
                format!(
                    "the connector was killed {}",
                    if kills == 1 { "once".to_owned() } else { format!("{kills} times") }
                ),
            ),
            (
                faults,
                format!("the API failed {}", if faults == 1 { "once".to_owned() } else { format!("{faults} times") }),
            ),
            (
                repeats,
                format!(
                    "{} came again and {} dropped",
                    count(repeats, "row"),
                    if repeats == 1 { "was" } else { "were" }
                ),
            ),
            (revised, format!("{} changed afterwards", count(revised, "leg"))),
            (
                dead_letters,
                format!(
                    "{} cannot be legs and {} in the dead-letter topic",
                    count(dead_letters, "row"),
                    if dead_letters == 1 { "is" } else { "are" }
                ),
            ),
        ];
        let told: Vec<String> = told.into_iter().filter(|(number, _)| *number > 0).map(|(_, told)| told).collect();
        if told.is_empty() { String::new() } else { format!("Meanwhile {}.", told.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::api::Version;

    const POLLED: UtcMillis = UtcMillis::new(100_000);

    fn leg(number: u64, disconnect: i64, visible_at: i64, rubbish: Option<Rubbish>) -> TrueLeg {
        let at = UtcMillis::new(visible_at);
        TrueLeg {
            pbx_id: "acme-east".to_owned(),
            call_id: number.to_string(),
            leg_id: "1".to_owned(),
            start: UtcMillis::new(disconnect - 1),
            disconnect: UtcMillis::new(disconnect),
            visible_at: at,
            versions: vec![Version { since: at, json: String::new(), rubbish }],
        }
    }

    fn verdict(truth: Vec<TrueLeg>, topic: &[(u64, u64)]) -> Verdict {
        let polled = BTreeMap::from([("acme-east".to_owned(), POLLED)]);
        let identity = |call: u64| ("acme-east".to_owned(), call.to_string(), "1".to_owned());
        Verdict::of(truth.into_iter(), &polled, topic.iter().map(|&(call, times)| (identity(call), times)).collect())
    }

    #[test]
    fn what_the_api_had_shown_when_the_last_poll_began_has_to_be_there() {
        let found = |disconnect, visible_at, rubbish| verdict(vec![leg(1, disconnect, visible_at, rubbish)], &[]);
        let missing = Verdict { shown: 1, missing: 1, ..Verdict::default() };
        assert_eq!(found(90_000, 91_000, None), missing);
        assert_eq!(found(90_000, 91_000, Some(Rubbish::NumericLegId)), missing);
        assert_eq!(found(90_000, 91_000, Some(Rubbish::Null)), Verdict::default(), "it cannot be a leg");
        assert_eq!(found(90_000, 100_001, None), Verdict::default(), "shown since");
        assert_eq!(found(98_000, 98_000, None), Verdict::default(), "the poll did not reach so far");
    }

    #[test]
    fn the_sentence_is_about_what_is_in_the_topic() {
        let truth = || vec![leg(1, 90_000, 91_000, None), leg(2, 90_000, 91_000, None), leg(3, 99_000, 99_000, None)];
        let kept = verdict(truth(), &[(1, 1), (2, 1), (3, 1)]);
        let said = "The simulated API showed 3 legs: each of them is exactly once in topic t.";
        assert_eq!((kept.is_kept(true), kept.sentence(true, "t")), (true, said.to_owned()));

        let twice = verdict(truth(), &[(1, 2), (2, 1)]);
        let said = "The simulated API showed 2 legs: each of them is at least once in topic t, 1 of them twice.";
        assert_eq!((twice.is_kept(false), twice.sentence(false, "t")), (true, said.to_owned()));
        let said =
            "The simulated API showed 2 legs. Topic t is NOT as promised: 1 there more than once. Please report it.";
        assert_eq!((twice.is_kept(true), twice.sentence(true, "t")), (false, said.to_owned()));

        for is_exactly_once in [true, false] {
            let wrong = verdict(truth(), &[(2, 1), (4, 1)]);
            assert!(!wrong.is_kept(is_exactly_once));
            let said = wrong.sentence(is_exactly_once, "t");
            assert!(said.contains("NOT as promised: 1 missing, 1 never shown by the API."), "{said}");
        }
        assert!(verdict(vec![], &[]).sentence(true, "t").starts_with("The demo ended before the first poll did"));
    }

    #[test]
    fn what_did_not_happen_is_not_told() {
        assert_eq!(Happened::default().sentence(), "");
        let some = Happened { kills: 1, repeats: 2, ..Happened::default() };
        assert_eq!(some.sentence(), "Meanwhile the connector was killed once, 2 rows came again and were dropped.");
    }
}
