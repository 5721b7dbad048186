//! The figures as a table, beside the bars that they are held against.

use std::time::Duration;

use super::growth;
use super::latency;
use super::pipeline::{Limit, Run};

const MIB: f64 = 1024.0 * 1024.0;

pub(crate) fn median<T: Copy>(runs: &[T], of: impl Fn(&T) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn line(what: &str, measured: String, bar: &str) {
    println!("| {what} | {measured} | {bar} |");
}

/// 123456.7 as "123,000": three digits are all that a shared machine can tell.
fn count(value: f64) -> String {
    let step = 10f64.powf((value.max(1.0).log10().floor() - 2.0).max(0.0));
    let digits = format!("{:.0}", (value / step).round() * step);
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn micros(value: Duration) -> String {
    format!("{:.2} µs", value.as_secs_f64() * 1e6)
}

fn mib(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / MIB)
}

pub(crate) fn heading() {
    println!("\n| | measured | bar |\n|---|---|---|");
}

pub(crate) fn pipeline(exactly: &[Run], at_least: &[Run], limits: &[Limit]) {
    let produced = median(limits, |limit| limit.produced_s);
    let downloaded = median(limits, |limit| limit.downloaded_s);
    // Pair by pair, so that a machine that slows down slows both.
    let share = |pairs: Vec<(f64, f64)>| median(&pairs, |(part, whole)| part / whole);
    let of_limit = share(
        exactly.iter().zip(limits).map(|(run, limit)| (run.legs_s, limit.produced_s.min(limit.downloaded_s))).collect(),
    );
    let kept = share(exactly.iter().zip(at_least).map(|(run, other)| (run.legs_s, other.legs_s)).collect());
    let peak = exactly.iter().chain(at_least).map(|run| run.rss_peak_bytes).max().unwrap_or(0);
    let (rate, cost) = (median(exactly, |run| run.legs_s), median(exactly, |run| run.legs_cpu_s));
    line("API to Kafka, exactly once", format!("{} legs/s", count(rate)), "");
    line("of the limit: the slower of the two below", format!("{:.0} %", of_limit * 100.0), "≥ 40 %");
    line("a bare producer, same bytes and settings", format!("{} legs/s", count(produced)), "");
    line("a bare download of the same pages", format!("{} legs/s", count(downloaded)), "");
    line("new legs per CPU-second", count(cost), "≥ 150,000");
    line("CPU time of a million legs", format!("{:.1} s", 1e6 / cost), "");
    line("at least once", format!("{} legs/s", count(median(at_least, |run| run.legs_s))), "");
    line("price of exactly once", format!("{:.0} %", (1.0 - kept) * 100.0), "≤ 10 %");
    let rows = median(exactly, |run| run.duplicates_cpu_s);
    line("a poll of as many duplicates, rows per CPU-second", count(rows), "");
    line("the same, rows a second", count(median(exactly, |run| run.duplicates_s)), "");
    line("memory, at most", mib(peak), "≤ 128 MiB");
}

pub(crate) fn duplicates(rows: usize, rates: &[f64]) {
    let what = format!("polls of {} duplicates, rows per CPU-second", count(rows as f64));
    line(&what, count(median(rates, |rate| *rate)), "≥ 400,000");
}

pub(crate) fn latency(measured: &latency::Measured) {
    let millis = |value: Duration| format!("{:.1} ms", value.as_secs_f64() * 1e3);
    let latency::Measured { p50, p99, legs, start, idle } = measured;
    line(&format!("shown by the API to read by a consumer, p50 of {legs} legs"), millis(*p50), "");
    line("the same, p99", millis(*p99), "≤ 50 ms");
    line("start to first leg at a consumer, warm", millis(*start), "≤ 1 s");
    line("CPU without calls, of a core", format!("{:.2} %", idle * 100.0), "< 0.5 %");
}

pub(crate) fn freshness(fresh: &latency::Fresh) {
    let latency::Fresh { interval, p50, p99, legs } = fresh;
    let seconds = |value: Duration| format!("{:.1} s", value.as_secs_f64());
    let what = format!("disconnected to read by a consumer, poll.interval = {interval:?}, p50 of {legs} legs");
    line(&what, seconds(*p50), "");
    line("the same, p99", seconds(*p99), "");
}

pub(crate) fn growth(sizes: &[growth::Measured]) {
    println!(
        "\n| identities | CPU a new leg | CPU a duplicate | memory, at most | disk an identity | after expiry | warm start | rebuilt from the journal |\n|---|---|---|---|---|---|---|---|"
    );
    for size in sizes {
        println!(
            "| {} | {} | {} | {} | {:.0} B | {:.0} B | {:.2} s | {} /s |",
            count(size.identities as f64),
            micros(size.leg),
            micros(size.duplicate),
            mib(size.rss_peak_bytes),
            size.disk,
            size.disk_after_expiry,
            size.warm_start.as_secs_f64(),
            count(size.rebuilt),
        );
    }
}
