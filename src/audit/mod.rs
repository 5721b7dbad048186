//! The audit: what the API shows of a period beside what the topic holds of it.
//!
//! ```text
//!   journal ─▶ how far each unit was read ─┐
//!   topic   ─▶ topic ─▶ records ───────────┼─▶ compare ─▶ findings ─▶ report
//!   API     ─▶ api ──▶ rows ───────────────┘
//! ```
//!
//! It only reads, claims nothing, and works beside a live owner. It trusts neither the connector's
//! memory nor its counts: of the journal it takes what was promised, of the topic what a consumer
//! sees, of the API what it shows now.
//!
//! | file | holds |
//! |---|---|
//! | `compare` | what a difference is. Pure |
//! | `content` | what a leg says, as hashes of an API row and of a record alike |
//! | `topic`, `api` | the two sides, read |
//! | `report` | the findings in words and as JSON |

mod api;
pub mod compare;
pub mod content;
mod progress;
pub mod report;
mod topic;

use std::collections::BTreeSet;
use std::time::Duration;

use chrono_tz::Tz;

use self::api::{QUERY_MARGIN, UnitReading};
use self::compare::{Comparison, Difference, Findings, Kind, Terms, UnitIndex, UnitTerms};
pub use self::progress::{AuditError, Progress};
pub use self::report::Report;
use self::report::Unread;
use self::topic::{Found, Scope};
use crate::clock::Clock;
use crate::codec::Decoder;
use crate::config::{self, Start, StartFrom};
use crate::connector::read_journal;
use crate::core::dedupe::Revisions;
use crate::core::hours::Hour;
use crate::core::journal::{Delivery, Trace, UnitProgress};
use crate::core::ledger::Ledger;
use crate::core::leg::TimeBasis;
use crate::core::privacy::Privacy;
use crate::core::time::{UtcMillis, Window};
use crate::sink::{Cluster, Destination, topics};
use crate::source::{Recovery, Source, SourceError};

/// What is to be compared, and how the connector reads.
#[derive(Clone, Debug)]
pub struct Question {
    /// From where; what the API no longer keeps is left out.
    pub from: StartFrom,
    /// To where; the first instant that is not compared. `None` for as late as can be: `settle` ago.
    pub to: Option<StartFrom>,
    /// The units.
    pub units: Vec<String>,
    /// The journal's topic.
    pub journal: String,
    /// The topic of legs.
    pub topic: String,
    /// How long after a leg's disconnect the source may still be filling in.
    pub settle: Duration,
    /// The zone of the query's bounds.
    pub time_zone: Tz,
    /// On which of a leg's times the windows are cut.
    pub time_basis: TimeBasis,
    /// A hash of the settings that decide which legs the source shows.
    pub source: u64,
    /// What becomes of a leg that changes after it was published.
    pub revisions: Revisions,
    /// How personal values are treated.
    pub privacy: Privacy,
}

/// A period that can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Period {
    window: Window,
    /// What was asked for and the API no longer shows.
    unavailable: Option<Window>,
}

impl Question {
    /// What is to be compared of `units`, by `config`.
    ///
    /// # Errors
    /// When the key of the privacy policy cannot be read, or is too short.
    pub fn new(
        config: &config::Config,
        source: u64,
        units: Vec<String>,
        from: StartFrom,
        to: Option<StartFrom>,
    ) -> Result<Self, config::ConfigError> {
        Ok(Self {
            from,
            to,
            units,
            journal: config.kafka.journal.clone(),
            topic: config.kafka.topic.clone(),
            settle: config.poll.settle,
            time_zone: config.source.time_zone,
            time_basis: config.source.time_basis,
            source,
            revisions: config.policy.revisions,
            privacy: config.privacy.policy()?,
        })
    }

    /// The period, when the present is `now`.
    ///
    /// # Errors
    /// In words, when it is empty, or reaches into what the source may still be filling in.
    fn period(&self, now: UtcMillis) -> Result<Period, AuditError> {
        let settled = now.minus(self.settle).floor_second();
        let from = self.from.resolve(now);
        let to = self.to.map_or(Start { at: settled, clamped: false }, |to| to.resolve(now));
        let window = Window::new(from.at, to.at);
        if to.clamped {
            return Err(AuditError::Period(format!("--to: the API shows nothing before {}, two years ago", to.at)));
        }
        if window.is_empty() {
            return Err(AuditError::Period(format!("--from and --to: the period {window} is empty")));
        }
        if window.end > settled {
            return Err(AuditError::Period(format!(
                "--to: {} lies after {settled}, up to where the source has settled (now less poll.settle): give an earlier one, such as now-5m, or leave it out",
                window.end
            )));
        }
        let asked = match self.from {
            StartFrom::At(instant) => instant,
            StartFrom::Ago(span) => now.minus(span),
        };
        let unavailable = from.clamped.then(|| Window::new(asked, from.at));
        Ok(Period { window, unavailable })
    }

    /// Refuses what can be refused without asking anyone.
    ///
    /// # Errors
    /// When the period cannot be compared.
    pub fn check(&self, now: UtcMillis) -> Result<(), AuditError> {
        self.period(now).map(|_| ())
    }
}

/// Compares, and says what was found.
///
/// # Errors
/// When the period cannot be compared, or API, Kafka or registry refuse or do not answer.
pub async fn run<S: Source, C: Cluster>(
    question: &Question,
    source: &S,
    cluster: &C,
    decoder: &Decoder,
    clock: &dyn Clock,
    progress: &Progress,
) -> Result<Report, AuditError> {
    // The login's answer tells the server's clock; the smaller reading counts, as it does in a poll.
    api::log_in(source, clock, progress).await?;
    let now = source.skew().map_or(clock.now(), |skew| skew.earlier_now(clock.now()));
    let Period { window: period, unavailable } = question.period(now)?;
    // Asked first, so that a Kafka that is away or a topic that is not there is not taken for a fault of the journal.
    cluster.ends(Destination::Journal).await?;
    let ledger = read_journal(cluster).await?;
    if ledger.head.genesis.is_none() {
        return Err(AuditError::NoJournal(question.journal.clone()));
    }
    let scope = Scope {
        journal: Trace::journal_tag(&question.journal),
        units: &question.units,
        // A row outside its window counts as the window's edge, which may be another one here than when it was published.
        kept: Window::new(period.start.minus(WINDOW_MAX), period.end.plus(WINDOW_MAX)),
    };
    let Found { records, cut, dead_cut, foreign } = topic::read(cluster, decoder, &scope, progress).await?;
    let terms = Terms {
        period,
        units: question.units.iter().map(|name| unit_terms(name, &ledger)).collect(),
        revisions: question.revisions,
        privacy: question.privacy.clone(),
        cut: cut.clone(),
    };
    let mut comparison = Comparison::new(terms.clone(), records);
    let mut unread = Vec::new();
    progress.expect_windows(terms.units.iter().map(|unit| pieces(period, unit.due_to).len()).sum());
    for (index, unit) in (0..).zip(&terms.units) {
        let reading = UnitReading {
            source,
            clock,
            index,
            name: &unit.name,
            time_zone: question.time_zone,
            time_basis: question.time_basis,
            privacy: &question.privacy,
            progress,
        };
        read_unit(&reading, &pieces(period, unit.due_to), &mut comparison, &mut unread).await?;
    }
    let mut findings = comparison.finish();
    for difference in findings.differences.iter_mut().chain(&mut findings.revised) {
        describe(cluster, decoder, difference).await?;
    }
    let notes = notes(
        question,
        &terms,
        &ledger,
        &findings,
        &[(&question.topic, &cut), (&topics::dead_letters(&question.topic), &dead_cut)],
        foreign,
    );
    Ok(Report {
        period,
        unavailable,
        units: question.units.clone(),
        topic: question.topic.clone(),
        findings,
        unread,
        notes,
    })
}

/// Reads a unit's windows. One that fails is noted; when the next one fails too, it is not the window.
async fn read_unit<S: Source>(
    reading: &UnitReading<'_, S>,
    windows: &[Window],
    comparison: &mut Comparison,
    unread: &mut Vec<Unread>,
) -> Result<(), SourceError> {
    let mut has_failed = false;
    for &window in windows {
        let read = reading.read(window, comparison).await;
        reading.progress.end_window();
        let (reason, failed) = match read {
            Ok(None) => {
                has_failed = false;
                continue;
            }
            Ok(Some(reason)) => (reason, false),
            Err(error) if error.recovery != Recovery::Refused && !has_failed => (error.to_string(), true),
            Err(error) => return Err(error),
        };
        has_failed = failed;
        comparison.see_unread(reading.index, window);
        unread.push(Unread { unit: reading.index, window, reason });
    }
    Ok(())
}

/// The longest window that is read at once.
const WINDOW_MAX: Duration = Duration::from_secs(3600);

/// The period, cut at whole hours, and where rows without a time cease to be due.
fn pieces(period: Window, due_to: UtcMillis) -> Vec<Window> {
    let cut = due_to.minus(QUERY_MARGIN);
    let mut pieces = Vec::new();
    let mut start = period.start;
    while start < period.end {
        let mut end = Hour::of(start).window().end.min(period.end);
        if start < cut {
            end = end.min(cut);
        }
        pieces.push(Window::new(start, end));
        start = end;
    }
    pieces
}

fn not_due(findings: &Findings, unit: UnitIndex) -> u64 {
    findings.days.iter().filter(|((_, of), _)| *of == unit).map(|(_, tally)| tally.not_due).sum()
}

fn started<'a>(name: &str, ledger: &'a Ledger) -> Option<&'a UnitProgress> {
    ledger.head.units.get(name).filter(|unit| unit.is_started())
}

fn unit_terms(name: &str, ledger: &Ledger) -> UnitTerms {
    let progress = started(name, ledger).map(|unit| &unit.progress);
    UnitTerms {
        name: name.to_owned(),
        due_to: progress.map_or(UtcMillis::new(i64::MIN), |progress| progress.final_to),
        coverage: progress.map(|progress| progress.coverage.clone()).unwrap_or_default(),
        floor: progress.map_or(UtcMillis::new(i64::MIN), |progress| progress.floor),
    }
}

/// Completes a difference by a second look at its record.
async fn describe<C: Cluster>(cluster: &C, decoder: &Decoder, difference: &mut Difference) -> Result<(), AuditError> {
    let Some(place) = difference.place else { return Ok(()) };
    // Deleted since, or what cannot be decoded: then its place has to do.
    let Some((parts, call_id, leg_id)) = topic::look_again(cluster, decoder, place).await? else { return Ok(()) };
    difference.leg.get_or_insert((call_id, leg_id));
    if let Some(expected) = &difference.expected {
        difference.fields = expected.differing(&parts);
    }
    Ok(())
}

/// What a reader has to know to judge the findings.
fn notes(
    question: &Question,
    terms: &Terms,
    ledger: &Ledger,
    findings: &Findings,
    cut: &[(&str, &BTreeSet<i32>)],
    foreign: u64,
) -> Vec<String> {
    let total = findings.total();
    let mut notes = Vec::new();
    for (index, unit) in (0..).zip(&terms.units) {
        let name = &unit.name;
        match started(name, ledger) {
            None => notes.push(format!("unit {name} was never read: none of its legs is due")),
            Some(known) => {
                if not_due(findings, index) > 0 {
                    notes.push(format!(
                        "unit {name} is final up to {}: what lies after it is still read again, and not due",
                        unit.due_to
                    ));
                }
                if known.source != question.source {
                    notes.push(format!(
                        "unit {name} was read with other filters, simplified or time_basis than those of this configuration: what is missing or extra may come from that"
                    ));
                }
            }
        }
    }
    for (topic, partitions) in cut.iter().filter(|(_, partitions)| !partitions.is_empty()) {
        let partitions: Vec<String> = partitions.iter().map(ToString::to_string).collect();
        notes.push(format!(
            "{topic}: the oldest records of partitions {} are no longer kept, by retention or on request: what is missing may have been published and deleted since",
            partitions.join(", ")
        ));
    }
    if total.never_read > 0 {
        notes.push(format!(
            "{} of the missing legs are of a time that the journal does not claim to have read, such as that before the unit's start: call-legs state show tells its coverage",
            total.never_read
        ));
    }
    if total.beyond_horizon > 0 {
        notes.push(format!(
            "{} of the missing legs lie beyond the horizon: if the API has shown them later than state.horizon, they were counted as beyond_horizon when they were read again, and not published",
            total.beyond_horizon
        ));
    }
    let unexplained = total.missing - total.never_read - total.beyond_horizon;
    if unexplained > 0 {
        notes.push(format!(
            "{} of the missing legs are of a time that was read: the API has shown them later than poll.overlap allows for, or they are no longer in the topic",
            unexplained
        ));
    }
    if total.unburied > 0 {
        notes.push(
            "rows that can be no leg count by their bytes: one that the API has changed since, or writes in another source.time_zone, or that was buried under another privacy.key, is another row"
                .to_owned(),
        );
    }
    let is_at_least_once = ledger.head.claim.as_ref().is_some_and(|claim| claim.delivery == Delivery::AtLeastOnce);
    if total.twice > 0 && is_at_least_once {
        notes.push(
            "the journal says at least once: a leg is there twice where the process died while its write was in flight"
                .to_owned(),
        );
    }
    if findings.differences.iter().any(|difference| difference.kind == Kind::Scattered) {
        notes.push("a call's legs are in several partitions also where partitions were added to the topic".to_owned());
    }
    if foreign > 0 {
        notes.push(format!("{foreign} records are not those of this journal's connector, and were not compared"));
    }
    notes
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use super::compare::{Records, Tally};
    use super::*;
    use crate::clock::SystemClock;
    use crate::core::query::QueryBounds;
    use crate::core::skew::Skew;
    use crate::source::wire::{self, Page};

    fn at(seconds: i64) -> UtcMillis {
        UtcMillis::new(seconds * 1_000)
    }

    fn question(from: StartFrom, to: impl Into<Option<StartFrom>>) -> Question {
        Question {
            from,
            to: to.into(),
            units: vec!["a".to_owned()],
            journal: "journal".to_owned(),
            topic: "legs".to_owned(),
            settle: Duration::from_secs(60),
            time_zone: Tz::UTC,
            time_basis: TimeBasis::Disconnect,
            source: 0,
            revisions: Revisions::Ignore,
            privacy: Privacy::default(),
        }
    }

    #[test]
    fn periods_that_cannot_be_compared_are_refused_in_words() {
        let now = at(2_000_000_000);
        let period = |from, to| question(from, to).period(now);
        let refusal = |from, to| period(from, to).unwrap_err().to_string();
        let ago = |seconds| StartFrom::Ago(Duration::from_secs(seconds));
        let days = |days: u64| ago(days * 86_400);
        assert_eq!(
            period(ago(600), ago(60)).unwrap(),
            Period { window: Window::new(at(1_999_999_400), at(1_999_999_940)), unavailable: None }
        );
        assert!(refusal(ago(600), ago(59)).contains("less poll.settle"));
        assert!(refusal(ago(600), StartFrom::At(at(2_100_000_000))).contains("less poll.settle"));
        assert!(refusal(ago(600), ago(600)).contains("is empty"));
        assert!(refusal(ago(600), ago(700)).contains("is empty"));
        assert!(refusal(days(800), days(740)).contains("two years ago"));
        let cut = period(days(731), days(700)).unwrap();
        assert_eq!(cut.unavailable, Some(Window::new(now.minus(Duration::from_secs(731 * 86_400)), cut.window.start)));
        assert_eq!(cut.window.length(), Duration::from_secs(30 * 86_400));
    }

    #[test]
    fn pieces_cover_the_period_and_one_ends_where_rows_cease_to_be_due() {
        let of = |from, to, due_to| {
            let pieces = pieces(Window::new(at(from), at(to)), at(due_to));
            let seconds = |window: &Window| (window.start.as_millis() / 1_000, window.end.as_millis() / 1_000);
            pieces.iter().map(seconds).collect::<Vec<(i64, i64)>>()
        };
        assert_eq!(of(-100, 8_000, 9_000), [(-100, 0), (0, 3_600), (3_600, 7_200), (7_200, 8_000)]);
        assert_eq!(of(0, 7_200, 5_002), [(0, 3_600), (3_600, 5_000), (5_000, 7_200)]);
        assert_eq!(of(0, 100, -50), [(0, 100)]);
        let never_read = pieces(Window::new(at(0), at(10)), UtcMillis::new(i64::MIN));
        assert_eq!(never_read, [Window::new(at(0), at(10))]);
    }

    /// Answers as it was told to, one answer a request.
    struct Scripted(Mutex<VecDeque<Result<&'static str, SourceError>>>);

    impl Source for Scripted {
        async fn log_in(&self) -> Result<(), SourceError> {
            Ok(())
        }

        async fn fetch(
            &self,
            _: &str,
            _: &QueryBounds,
            _: Option<&str>,
            _: Option<usize>,
        ) -> Result<Page, SourceError> {
            let answer = self.0.lock().unwrap().pop_front().expect("no more requests than answers");
            answer.map(|body| wire::page(body.into()).unwrap())
        }

        fn skew(&self) -> Option<Skew> {
            None
        }
    }

    /// Two rows: one in the window, one in the margin after it.
    const WHOLE: &str = r#"{"meta":{"totalRecordCount":2,"scrollId":"No Data"},"data":[
        {"callId":"1","legId":"1","disconnectedTimeUTC":5000},{"callId":"2","legId":"1","disconnectedTimeUTC":10000}]}"#;
    const SHORT: &str = r#"{"meta":{"totalRecordCount":9,"scrollId":"No Data"},"data":[
        {"callId":"1","legId":"1","disconnectedTimeUTC":5000}]}"#;

    /// Reads two windows of ten seconds; gives what was found, the windows that were not whole and how many answers were left.
    async fn read(script: Vec<Result<&'static str, SourceError>>) -> Result<(Tally, usize, usize), SourceError> {
        let source = Scripted(Mutex::new(script.into()));
        let terms = Terms {
            period: Window::new(at(0), at(20)),
            units: vec![UnitTerms {
                name: "a".to_owned(),
                due_to: at(100),
                coverage: Default::default(),
                floor: at(0),
            }],
            revisions: Revisions::Ignore,
            privacy: Privacy::default(),
            cut: BTreeSet::new(),
        };
        let mut comparison = Comparison::new(terms, Records::default());
        let progress = Progress::default();
        let reading = UnitReading {
            source: &source,
            clock: &SystemClock,
            index: 0,
            name: "a",
            time_zone: Tz::UTC,
            time_basis: TimeBasis::Disconnect,
            privacy: &Privacy::default(),
            progress: &progress,
        };
        let mut unread = Vec::new();
        let windows = [Window::new(at(0), at(10)), Window::new(at(10), at(20))];
        read_unit(&reading, &windows, &mut comparison, &mut unread).await?;
        let left = source.0.lock().unwrap().len();
        Ok((comparison.finish().total(), unread.len(), left))
    }

    #[tokio::test(start_paused = true)]
    async fn rows_in_the_margin_are_the_neighbours() {
        let (total, ..) = read(vec![Ok(WHOLE), Ok(r#"{"data":[]}"#)]).await.unwrap();
        assert_eq!(total.api, 1);
        let (total, unread, left) = read(vec![Ok(WHOLE), Ok(WHOLE)]).await.unwrap();
        assert_eq!(
            (total.api, unread, left),
            (2, 0, 0),
            "the second window holds the other, and shows the first once more"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_that_does_not_add_up_is_read_once_more_and_then_reported() {
        assert_eq!(read(vec![Ok(SHORT), Ok(WHOLE), Ok(WHOLE)]).await.unwrap().1, 0);
        let (total, unread, left) = read(vec![Ok(SHORT), Ok(SHORT), Ok(WHOLE)]).await.unwrap();
        assert_eq!((total.api, unread, left), (2, 1, 0), "what was shown counts all the same");
        let refused_cursor = || Err(SourceError::cursor_refused("the cursor"));
        assert_eq!(read(vec![refused_cursor(), Ok(WHOLE), Ok(WHOLE)]).await.unwrap().1, 0);
        assert_eq!(read(vec![refused_cursor(), refused_cursor(), Ok(WHOLE)]).await.unwrap().1, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_repeated_and_one_window_may_fail_but_not_two() {
        let away = || Err(SourceError::unreachable("away"));
        let some = |count: usize| std::iter::repeat_with(away).take(count);
        assert_eq!(read(some(8).chain([Ok(WHOLE), Ok(WHOLE)]).collect()).await.unwrap().1, 0);
        let (_, unread, left) = read(some(9).chain([Ok(WHOLE)]).collect()).await.unwrap();
        assert_eq!((unread, left), (1, 0));
        assert_eq!(read(some(18).collect()).await.unwrap_err().to_string(), "away");
        let refused = || Err(SourceError::refused("no"));
        assert_eq!(read(vec![refused()]).await.unwrap_err().to_string(), "no", "at once");
    }
}
