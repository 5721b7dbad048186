//! The metrics page in Prometheus's older text format, version 0.0.4, for tools that do not read OpenMetrics.

use std::fmt::Write;

/// How the older format is called in `Content-Type`.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The media type by which a tool asks for it.
const PLAIN: &str = "text/plain";

/// The media type of OpenMetrics.
const OPENMETRICS: &str = "application/openmetrics-text";

/// Whether an `Accept` header prefers the older format to OpenMetrics (RFC 9110, section 12.5.1).
pub fn is_preferred(accept: &str) -> bool {
    let weight = |wanted: &str| {
        let types = accept.split(',').filter_map(|media| {
            let mut parts = media.split(';').map(str::trim);
            let is_wanted = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(wanted));
            let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |q| q.parse::<f64>().ok());
            weight.filter(|_| is_wanted)
        });
        types.fold(0.0, f64::max)
    };
    weight(PLAIN) > weight(OPENMETRICS)
}

/// A page in OpenMetrics' text format as the older one has it: counters and information are named as their series are, and
/// there are no units and no end mark.
pub fn from_openmetrics(page: &str) -> String {
    let mut plain = String::with_capacity(page.len());
    let mut help = None;
    for line in page.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words.as_slice() {
            ["#", "HELP", ..] => help = Some(line),
            ["#", "TYPE", name, kind] => {
                let (suffix, kind) = match *kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    kind => ("", kind),
                };
                let help = help.take().and_then(|help| help.splitn(4, ' ').nth(3)).unwrap_or_default();
                // Writing to a String cannot fail.
                let _ = writeln!(plain, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}");
            }
            ["#", ..] => {}
            _ => {
                let _ = writeln!(plain, "{line}");
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_the_older_format_gets_it() {
        for (accept, is_plain) in [
            ("", false),
            ("*/*", false),
            ("text/plain", true),
            ("text/plain; version=0.0.4", true),
            ("TEXT/PLAIN;version=0.0.4;q=0.3,*/*;q=0.1", true),
            // Prometheus 2 and 3, and vmagent.
            ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1", false),
            ("application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", false),
            ("text/plain;version=0.0.4;q=1,application/openmetrics-text;q=0.5", true),
            ("text/html,application/xhtml+xml,*/*;q=0.8", false),
            ("text/plain;q=nonsense", false),
        ] {
            assert_eq!(is_preferred(accept), is_plain, "{accept}");
        }
    }

    #[test]
    fn each_kind_is_named_as_its_series_are() {
        let page = "# HELP a_rows rows, of a kind.\n# TYPE a_rows counter\na_rows_total{unit=\"x\"} 3\n\
                    # HELP a_wait_seconds waits.\n# TYPE a_wait_seconds histogram\n# UNIT a_wait_seconds seconds\n\
                    a_wait_seconds_bucket{le=\"+Inf\"} 0\n# HELP a_build version.\n# TYPE a_build info\n\
                    a_build_info{version=\"1\"} 1\n# EOF\n";
        let plain = "# HELP a_rows_total rows, of a kind.\n# TYPE a_rows_total counter\na_rows_total{unit=\"x\"} 3\n\
                     # HELP a_wait_seconds waits.\n# TYPE a_wait_seconds histogram\n\
                     a_wait_seconds_bucket{le=\"+Inf\"} 0\n# HELP a_build_info version.\n# TYPE a_build_info gauge\n\
                     a_build_info{version=\"1\"} 1\n";
        assert_eq!(from_openmetrics(page), plain);
    }
}
