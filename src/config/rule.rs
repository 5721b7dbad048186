//! Rules: what a setting's text must be, and the typed value that it then is.
//!
//! Pure functions of a text. Which key follows which rule is said in `keys`.

use std::fmt::Display;
use std::net::{Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use chrono_tz::Tz;
use figment::value::Value;
use serde_json::{Value as Json, json};
use tracing_subscriber::EnvFilter;
use url::Url;

use super::personal::Personal;
use super::section::PollInterval;
use super::start_from::StartFrom;
use crate::http::is_this_machine;

/// What a value must be, and how its text is read.
pub(super) struct Rule<T> {
    /// Completes "`key` must …"; never holds a value.
    pub(super) must: String,
    /// Whether the effective settings show the text, or only that there is one.
    pub(super) shown: bool,
    /// What the JSON Schema says of a value of the file.
    pub(super) shape: Json,
    bare: Bare,
    parse: Parse<T>,
}

/// Reads the typed value from its text, unless that breaks the rule.
type Parse<T> = Box<dyn Fn(&str) -> Option<T>>;

/// Which TOML value may stand for the text, besides a string. A number does not stand for a name:
/// it would have lost its leading zeros.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bare {
    Nothing,
    Integer,
    Number,
    Boolean,
}

impl<T: 'static> Rule<T> {
    fn new(must: impl Into<String>, parse: impl Fn(&str) -> Option<T> + 'static) -> Self {
        Self {
            must: must.into(),
            shown: true,
            shape: json!({"type": "string"}),
            bare: Bare::Nothing,
            parse: Box::new(parse),
        }
    }

    fn or_bare(self, bare: Bare) -> Self {
        let kind = match bare {
            Bare::Nothing => return self,
            Bare::Integer => "integer",
            Bare::Number => "number",
            Bare::Boolean => "boolean",
        };
        Self { bare, ..self }.of_shape(json!({"type": [kind, "string"]}))
    }

    fn of_shape(mut self, shape: Json) -> Self {
        self.shape = shape;
        self
    }

    /// A default as the file has it, for the JSON Schema.
    pub(super) fn bare_default(&self, text: &str) -> Json {
        let bare = if self.bare == Bare::Nothing { None } else { serde_json::from_str::<Json>(text).ok() };
        bare.filter(|bare| !bare.is_object() && !bare.is_array()).unwrap_or_else(|| text.into())
    }

    /// The value's text, if it is of a type that this rule takes.
    pub(super) fn text(&self, value: &Value) -> Option<String> {
        match (value, self.bare) {
            (Value::String(_, text), _) => Some(text.trim().to_owned()),
            (Value::Num(_, number), Bare::Integer) => number.to_i128().map(|number| number.to_string()),
            (Value::Num(_, number), Bare::Number) => {
                number.to_i128().map(|whole| whole.to_string()).or(number.to_f64().map(|part| part.to_string()))
            }
            (Value::Bool(_, flag), Bare::Boolean) => Some(flag.to_string()),
            _ => None,
        }
    }

    /// The typed value.
    pub(super) fn read(&self, text: &str) -> Option<T> {
        (self.parse)(text)
    }
}

/// Any text but an empty one.
pub(super) fn text() -> Rule<String> {
    Rule::new("be a text (in quotes) that is not empty", |text| (!text.is_empty()).then(|| text.to_owned()))
}

/// A text that tells about a person.
pub(super) fn personal() -> Rule<Personal<String>> {
    let Rule { must, parse, .. } = text();
    Rule { shown: false, ..Rule::new(must, move |text| parse(text).map(Personal::new)) }
}

/// The path of a file or directory; a relative one starts from the working directory.
pub(super) fn path() -> Rule<PathBuf> {
    Rule::new("be a path (in quotes)", |text| (!text.is_empty()).then(|| PathBuf::from(text)))
}

/// `true` or `false`.
pub(super) fn flag() -> Rule<bool> {
    Rule::new("be true or false", |text| text.parse().ok()).or_bare(Bare::Boolean)
}

/// A whole number in `range`.
pub(super) fn whole<T>(range: RangeInclusive<T>) -> Rule<T>
where
    T: FromStr + PartialOrd + Display + 'static,
{
    let (least, most) = (range.start().to_string(), range.end().to_string());
    let must = format!("be a whole number between {least} and {most}");
    let number = |text: &str| serde_json::from_str::<Json>(text).unwrap_or_default();
    let shape = json!({"type": ["integer", "string"], "minimum": number(&least), "maximum": number(&most)});
    Rule::new(must, move |text| text.parse().ok().filter(|number| range.contains(number)))
        .or_bare(Bare::Integer)
        .of_shape(shape)
}

/// A share, between 0 and 1.
pub(super) fn ratio() -> Rule<f64> {
    Rule::new("be a number between 0 and 1", |text| text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)))
        .or_bare(Bare::Number)
        .of_shape(json!({"type": ["number", "string"], "minimum": 0, "maximum": 1}))
}

/// One of a few words.
pub(super) fn one_of<T: Copy + 'static, const N: usize>(words: [(&'static str, T); N]) -> Rule<T> {
    let named = words.map(|(word, _)| format!("\"{word}\"")).join(" or ");
    let shape = json!({"enum": words.map(|(word, _)| word).as_slice()});
    Rule::new(format!("be {named}"), move |text| words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value))
        .of_shape(shape)
}

/// A duration between `least` and `most`.
pub(super) fn duration(least: &'static str, most: &'static str) -> Rule<Duration> {
    let must = format!("be a duration from {least} to {most}, written like 90s, 2m, 36h or 8d");
    Rule::new(must, move |text| {
        let read = |text| humantime::parse_duration(text).ok();
        let given = read(text)?;
        (read(least)?..=read(most)?).contains(&given).then_some(given)
    })
}

/// How often something is polled: so often, or as the budget allows.
pub(super) fn poll_interval(least: &'static str, most: &'static str) -> Rule<PollInterval> {
    let Rule { must, parse, .. } = duration(least, most);
    Rule::new(format!("{must}, or \"auto\""), move |text| match text {
        "auto" => Some(PollInterval::Auto),
        text => parse(text).map(PollInterval::Every),
    })
}

/// A duration between `least` and `most` without a part of a second: the API's bounds have none.
pub(super) fn whole_seconds(least: &'static str, most: &'static str) -> Rule<Duration> {
    let Rule { must, parse, .. } = duration(least, most);
    Rule::new(format!("{must}, in whole seconds"), move |text| parse(text).filter(|given| given.subsec_nanos() == 0))
}

/// A size in bytes between `least` and `most`.
pub(super) fn size(least: &'static str, most: &'static str) -> Rule<u64> {
    let must = format!("be a size from {least} to {most}, written like 64MiB, 10MB or a whole number of bytes");
    Rule::new(must, move |text| {
        let given = bytes(text)?;
        (bytes(least)?..=bytes(most)?).contains(&given).then_some(given)
    })
    .or_bare(Bare::Integer)
}

fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// The source's base URL, with a slash at its end so that `join` appends.
///
/// Key and password travel in every login, so anything but HTTPS is for a simulation on this machine.
pub(super) fn source_url() -> Rule<Url> {
    let Rule { must, parse, .. } = secret_url();
    Rule::new(must, move |text| parse(text).map(ending_in_slash))
}

/// The URL of a server to which secrets are sent, as given.
pub(super) fn secret_url() -> Rule<Url> {
    let must = "be an https:// URL (http:// to this machine only) without user, query or fragment";
    Rule::new(must, |text| plain_url(text).filter(|url| url.scheme() == "https" || is_this_machine(url)))
}

/// A URL to which paths are appended, with a slash at its end so that `join` does so.
pub(super) fn base_url() -> Rule<Url> {
    Rule::new(PLAIN_URL, |text| plain_url(text).map(ending_in_slash))
}

fn ending_in_slash(mut url: Url) -> Url {
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    url
}

/// What [`plain_url`] takes. Whatever else a URL may hold could be a secret, and is shown.
const PLAIN_URL: &str = "be an http:// or https:// URL without user, query or fragment";

/// The schema registry's URL. Credentials have keys of their own, where they are treated as secrets.
pub(super) fn registry_url() -> Rule<Url> {
    Rule::new(PLAIN_URL, plain_url)
}

fn plain_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    plain.then_some(url)
}

/// An IANA time zone.
pub(super) fn time_zone() -> Rule<Tz> {
    Rule::new("be an IANA time zone such as \"UTC\" or \"Europe/London\"", |text| text.parse().ok())
}

/// `now`, `now-24h` or an instant.
pub(super) fn start_from() -> Rule<StartFrom> {
    Rule::new(
        "be \"now\", a time ago such as \"now-24h\", or an instant in RFC 3339 such as \"2026-01-31T00:00:00Z\"",
        StartFrom::parse,
    )
}

/// The longest name of a topic beside the configured one ends so; Kafka allows [`TOPIC_CHARS_MAX`].
const TOPIC_SUFFIX_LONGEST: &str = ".dead-letter";

/// Kafka's limit on a topic's name.
const TOPIC_CHARS_MAX: usize = 249;

/// A topic's name that leaves room for the suffixes of the topics beside it.
pub(super) fn topic() -> Rule<String> {
    let longest = TOPIC_CHARS_MAX - TOPIC_SUFFIX_LONGEST.len();
    let must =
        format!("be 1 to {longest} of the characters a-z, A-Z, 0-9, dot, underscore and dash (in quotes), not . or ..");
    Rule::new(must, move |text| {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let fits = (1..=longest).contains(&text.len()) && text.chars().all(legal) && text != "." && text != "..";
        fits.then(|| text.to_owned())
    })
}

/// An address and a port to listen on.
pub(super) fn listen() -> Rule<SocketAddr> {
    let must = "be an IP address and a port such as \"127.0.0.1:9464\" or \"[::]:9464\"";
    Rule::new(must, |text| text.parse().ok())
}

/// A filter of tracing-subscriber's.
pub(super) fn log_level() -> Rule<String> {
    let must = "be off, error, warn, info, debug, trace, or tracing filter directives such as \"info,rdkafka=debug\"";
    Rule::new(must, |text| {
        // The parser slices the text at bytes, and panics where a character has several.
        let valid = !text.is_empty() && text.is_ascii() && EnvFilter::builder().parse(text).is_ok();
        valid.then(|| text.to_owned())
    })
}

/// A broker's `host:port`, or `host` for port 9092. An IPv6 address stands in brackets, since its last part could be a port.
pub(super) fn is_broker(text: &str) -> bool {
    let host_ok = |host: &str| {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        !host.is_empty() && host.chars().all(legal)
    };
    let port_ok = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    if let Some((address, rest)) = bracketed(text) {
        let port = rest.strip_prefix(':');
        return is_ipv6(address) && (rest.is_empty() || port.is_some_and(port_ok));
    }
    match text.split_once(':') {
        Some((host, port)) => host_ok(host) && port_ok(port),
        None => host_ok(text),
    }
}

/// Whether the text begins with an IPv6 address in brackets, and so is no array.
pub(super) fn begins_with_ipv6(text: &str) -> bool {
    bracketed(text).is_some_and(|(address, _)| is_ipv6(address))
}

fn bracketed(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix('[')?.split_once(']')
}

/// An IPv6 address; that of a link names the interface, as in `fe80::1%eth0`.
fn is_ipv6(text: &str) -> bool {
    let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let zone_ok = zone.is_none_or(|zone| !zone.is_empty() && zone.chars().all(legal));
    address.parse::<Ipv6Addr>().is_ok() && zone_ok
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all<T: 'static>(rule: &Rule<T>, texts: &[&str]) -> Vec<bool> {
        texts.iter().map(|text| rule.read(text).is_some()).collect()
    }

    #[track_caller]
    fn accepts<T: 'static>(rule: Rule<T>, right: &[&str], wrong: &[&str]) {
        assert_eq!(all(&rule, right), vec![true; right.len()], "{right:?}");
        assert_eq!(all(&rule, wrong), vec![false; wrong.len()], "{wrong:?}");
    }

    #[test]
    fn durations() {
        accepts(
            duration("1s", "24h"),
            &["1s", "1500ms", "24h", "1d", "2m 30s"],
            &["0s", "999ms", "25h", "", "90", "-1s", "2 moons"],
        );
        accepts(whole_seconds("0s", "1h"), &["0s", "0", "90s", "2000ms"], &["1500ms", "1ns", "2h"]);
        assert_eq!(duration("1s", "24h").read("36m"), Some(Duration::from_secs(36 * 60)));
    }

    #[test]
    fn sizes() {
        let rule = || size("1MiB", "1GiB");
        accepts(
            rule(),
            &["1MiB", "1048576", "10MB", "64 MiB", "1gib", "1024KiB"],
            &["", "MiB", "1MB", "2GiB", "1.5MiB", "-1", "64M", "99999999999999999999"],
        );
        assert_eq!(rule().read("64MiB"), Some(64 * 1024 * 1024));
        assert_eq!(rule().read("10MB"), Some(10_000_000));
    }

    #[test]
    fn source_urls() {
        accepts(
            source_url(),
            &[
                "https://api.8x8.com/analytics/work",
                "https://api.8x8.com/analytics/work/",
                "https://proxy.example:8443",
                "http://127.0.0.1:8080",
                "http://127.8.9.1/a",
                "http://[::1]:8080/",
                "http://localhost",
            ],
            &[
                "",
                "api.8x8.com",
                "http://api.8x8.com/analytics/work",
                "http://localhost.example",
                "http://10.0.0.1",
                "ftp://localhost/",
                "https://user@api.8x8.com",
                "https://:pw@api.8x8.com",
                "https://api.8x8.com/?q",
                "https://api.8x8.com/#f",
                "file:///etc/passwd",
                "https://",
            ],
        );
        let joined = |base: &str| source_url().read(base).unwrap().join("v2/call-legs").unwrap().to_string();
        assert_eq!(joined("https://api.8x8.com/analytics/work"), "https://api.8x8.com/analytics/work/v2/call-legs");
        assert_eq!(joined("https://api.8x8.com/analytics/work/"), "https://api.8x8.com/analytics/work/v2/call-legs");
        assert_eq!(joined("http://[::1]:8080"), "http://[::1]:8080/v2/call-legs");
    }

    #[test]
    fn registry_urls() {
        accepts(
            registry_url(),
            &["http://registry:8081", "https://registry.example/a/"],
            &["registry:8081", "http://a:b@registry", "http://registry:8081,http://other:8081", "https://r/?x=1"],
        );
    }

    #[test]
    fn base_urls() {
        accepts(
            base_url(),
            &["http://collector:4318", "https://otlp.example/a/"],
            &["collector:4318", "grpc://collector:4317", "http://a:b@collector", "http://a@collector", "http://c/?k=v"],
        );
        let joined = |base: &str| base_url().read(base).unwrap().join("v1/traces").unwrap().to_string();
        assert_eq!(joined("http://collector:4318"), "http://collector:4318/v1/traces");
        assert_eq!(joined("https://otlp.example/a"), "https://otlp.example/a/v1/traces");
    }

    #[test]
    fn topics() {
        let longest = "x".repeat(237);
        let too_long = "x".repeat(238);
        accepts(topic(), &["call-legs", "a.b_C-9", "2024", &longest], &["", ".", "..", "a b", "ä", "a/b", &too_long]);
    }

    #[test]
    fn brokers() {
        for right in [
            "kafka",
            "kafka-1.example:9092",
            "10.0.0.1:9092",
            "[::1]:9092",
            "[::1]",
            "a_b:1",
            "[2001:db8::a:1]:19092",
            "[::ffff:10.0.0.1]:9092",
            "[fe80::1%eth0]:9092",
        ] {
            assert!(is_broker(right), "{right}");
        }
        for wrong in [
            "",
            ":9092",
            "kafka:",
            "kafka:0",
            "kafka:65536",
            "PLAINTEXT://kafka:9092",
            "a b",
            "[::1]9092",
            "[x]:1",
            "::1",
            "[fe80::1%]:9092",
            "[10.0.0.1]:9092",
        ] {
            assert!(!is_broker(wrong), "{wrong}");
        }
    }

    #[test]
    fn the_rest() {
        accepts(whole(1u32..=7000), &["1", "7000", "0100"], &["0", "7001", "-1", "1.0", "", "ten", "99999999999999"]);
        accepts(time_zone(), &["UTC", "Europe/London"], &["", "Mars/Olympus", "GMT+25"]);
        accepts(listen(), &["127.0.0.1:9464", "[::]:0"], &["9464", ":9464", "localhost:9464", "127.0.0.1"]);
        accepts(flag(), &["true", "false"], &["yes", "1", "", "True"]);
        accepts(
            log_level(),
            &["info", "INFO", "off", "info,call_legs=debug", "call_legs[span{a=1}]=trace"],
            &["", "a=b=c", "\t¹=", "call_legs=loud"],
        );
        accepts(text(), &["x", "0"], &[""]);
    }

    proptest! {
        #[test]
        fn no_text_upsets_a_rule(text in ".{0,40}") {
            let _ = (source_url().read(&text), base_url().read(&text), registry_url().read(&text), topic().read(&text), listen().read(&text));
            let _ = (duration("1s", "1d").read(&text), size("1B", "1GB").read(&text), start_from().read(&text));
            let _ = (log_level().read(&text), time_zone().read(&text), is_broker(&text), flag().read(&text));
        }

        #[test]
        fn no_directive_upsets_the_log_filter(text in "[a-z0-9=,\\[\\]{}\"/:_ .*+()-]{0,30}") {
            let _ = log_level().read(&text);
        }

        #[test]
        fn a_whole_number_is_taken_inside_its_range_only(number in -20_000i64..20_000) {
            let taken = whole(1u32..=7000).read(&number.to_string());
            prop_assert_eq!(taken.map(i64::from), (1..=7000).contains(&number).then_some(number));
        }
    }
}
