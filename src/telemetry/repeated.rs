//! A failure that repeats is told at once, each kind of it then ever less often, and when it is over: a log that says the
//! same every minute hides what else it says.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// After how long the same failure is told for the second time; each time after that takes twice as long.
const TOLD_AGAIN_FIRST: Duration = Duration::from_secs(60);

/// An operator who comes late still finds it.
const TOLD_AGAIN_MAX: Duration = Duration::from_secs(3600);

/// How often something has failed in a row, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streak {
    /// How often, whatever the failures were.
    pub failures: u32,
    /// Since the first of them.
    pub lasted: Duration,
}

/// What keeps failing.
#[derive(Debug, Default)]
pub struct Repeated(Option<Failing>);

#[derive(Debug)]
struct Failing {
    since: Instant,
    failures: u32,
    /// By kind: when it was told last, and after how long it is told again.
    told: BTreeMap<String, (Instant, Duration)>,
}

impl Repeated {
    /// Takes note of a failure of some kind; gives the streak if it is to be told now.
    pub fn failed(&mut self, kind: &str) -> Option<Streak> {
        let now = Instant::now();
        let failing = self.0.get_or_insert_with(|| Failing { since: now, failures: 0, told: BTreeMap::new() });
        failing.failures += 1;
        match failing.told.get_mut(kind) {
            Some((told, again_after)) if now.duration_since(*told) >= *again_after => {
                (*told, *again_after) = (now, (*again_after * 2).min(TOLD_AGAIN_MAX));
            }
            Some(_) => return None,
            None => drop(failing.told.insert(kind.to_owned(), (now, TOLD_AGAIN_FIRST))),
        }
        Some(Streak { failures: failing.failures, lasted: now.duration_since(failing.since) })
    }

    /// Takes note that it works; gives the streak that is over.
    pub fn works(&mut self) -> Option<Streak> {
        let failing = self.0.take()?;
        Some(Streak { failures: failing.failures, lasted: failing.since.elapsed() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_day_of_failures_is_told_some_thirty_times() {
        let mut repeated = Repeated::default();
        let mut told = Vec::new();
        for second in (0..86_400).step_by(10) {
            if let Some(streak) = repeated.failed("unreachable") {
                assert_eq!(streak.lasted, Duration::from_secs(second));
                told.push(second);
            }
            tokio::time::advance(Duration::from_secs(10)).await;
        }
        assert_eq!(told[..7], [0, 60, 180, 420, 900, 1_860, 3_780]);
        assert!(told.windows(2).all(|pair| pair[1] - pair[0] <= 3_600), "never an hour of silence: {told:?}");
        assert!(told.len() < 35, "{}", told.len());
        let streak = repeated.works().unwrap();
        assert_eq!((streak.failures, streak.lasted), (8_640, Duration::from_secs(86_400)));
        assert_eq!(repeated.works(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn another_failure_is_told_at_once() {
        let mut repeated = Repeated::default();
        assert!(repeated.failed("unreachable").is_some());
        assert!(repeated.failed("unreachable").is_none());
        assert_eq!(repeated.failed("refused").unwrap().failures, 3);
        assert!(repeated.failed("refused").is_none());
        assert!(repeated.failed("unreachable").is_none(), "two that alternate are told once each");
        assert!(repeated.works().is_some());
        assert_eq!(repeated.failed("refused").unwrap().failures, 1);
    }
}
