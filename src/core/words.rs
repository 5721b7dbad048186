//! Numbers and lengths of time in messages: with one of these functions, so that all messages write them alike.

use std::time::Duration;

const MINUTE_S: u64 = 60;
const HOUR_S: u64 = 60 * MINUTE_S;
const DAY_S: u64 = 24 * HOUR_S;

/// A count and what is counted: `1 leg`, `2 legs`. `one` is a word that takes an s.
pub fn count(number: u64, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// A length of time that was measured, to two figures or so: `40 s`, `31 min`, `47 h`, `9 d`.
pub fn length(length: Duration) -> String {
    let seconds = length.as_secs();
    if seconds < 2 * MINUTE_S {
        format!("{seconds} s")
    } else if seconds < 2 * HOUR_S {
        format!("{} min", seconds / MINUTE_S)
    } else if seconds < 2 * DAY_S {
        format!("{} h", seconds / HOUR_S)
    } else {
        format!("{} d", seconds / DAY_S)
    }
}

/// A length of time that somebody has set, exactly, in the largest unit that has no remainder: `90 s`, `24 h`, `7 d`.
pub fn exact(length: Duration) -> String {
    let (number, unit) = exact_parts(length);
    format!("{number} {unit}")
}

/// The same as the configuration file has it: `90s`, `24h`, `7d`.
pub fn setting(length: Duration) -> String {
    let (number, unit) = exact_parts(length);
    format!("{number}{}", if unit == "min" { "m" } else { unit })
}

fn exact_parts(length: Duration) -> (u128, &'static str) {
    let seconds = length.as_secs();
    if length.subsec_nanos() != 0 {
        return (length.as_millis(), "ms");
    }
    let (unit_s, unit) = match seconds {
        // A day is mostly spoken of as 24 hours.
        _ if seconds >= 2 * DAY_S && seconds.is_multiple_of(DAY_S) => (DAY_S, "d"),
        _ if seconds >= HOUR_S && seconds.is_multiple_of(HOUR_S) => (HOUR_S, "h"),
        _ if seconds >= MINUTE_S && seconds.is_multiple_of(MINUTE_S) => (MINUTE_S, "min"),
        _ => (1, "s"),
    };
    (u128::from(seconds / unit_s), unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_is_no_plural() {
        assert_eq!([0, 1, 2].map(|number| count(number, "poll")), ["0 polls", "1 poll", "2 polls"]);
    }

    #[test]
    fn measured_lengths_are_short() {
        let lengths = [0, 119, 120, 7_199, 7_200, 200_000].map(|seconds| length(Duration::from_secs(seconds)));
        assert_eq!(lengths, ["0 s", "119 s", "2 min", "119 min", "2 h", "2 d"]);
    }

    #[test]
    fn lengths_that_were_set_are_exact() {
        for (millis, words, in_file) in [
            (0, "0 s", "0s"),
            (1_500, "1500 ms", "1500ms"),
            (60_000, "1 min", "1m"),
            (90_000, "90 s", "90s"),
            (5_400_000, "90 min", "90m"),
            (86_400_000, "24 h", "24h"),
            (7 * 86_400_000, "7 d", "7d"),
        ] {
            let length = Duration::from_millis(millis);
            assert_eq!((exact(length), setting(length)), (words.to_owned(), in_file.to_owned()));
        }
    }

    proptest! {
        #[test]
        fn what_is_said_of_a_setting_can_be_set(millis in 0_u64..100_000_000_000) {
            let length = Duration::from_millis(millis);
            prop_assert_eq!(humantime::parse_duration(&setting(length)), Ok(length));
        }
    }
}
