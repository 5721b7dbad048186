//! The figures as a table, beside the bars that they are held against, and growth as a drawing.

use std::fmt::Write as _;
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

/// One figure over the sizes.
struct Curve {
    name: &'static str,
    unit: &'static str,
    values: Vec<f64>,
    bar: f64,
}

/// Growth as an SVG: one small chart a figure, each from zero.
pub(crate) fn drawing(sizes: &[growth::Measured]) -> String {
    const WIDTH: f64 = 250.0;
    const HEIGHT: f64 = 150.0;
    let over = |of: &dyn Fn(&growth::Measured) -> f64| sizes.iter().map(of).collect::<Vec<f64>>();
    let first_leg = sizes.first().map_or(0.0, |size| size.leg.as_secs_f64() * 1e6);
    let curves = [
        Curve {
            name: "CPU a new leg",
            unit: "µs",
            values: over(&|size| size.leg.as_secs_f64() * 1e6),
            bar: first_leg * 1.5,
        },
        Curve {
            name: "memory, at most",
            unit: "MiB",
            values: over(&|size| size.rss_peak_bytes as f64 / MIB),
            bar: 150.0,
        },
        Curve { name: "disk an identity", unit: "B", values: over(&|size| size.disk), bar: 60.0 },
        Curve { name: "warm start", unit: "s", values: over(&|size| size.warm_start.as_secs_f64()), bar: 2.0 },
    ];
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        WIDTH * 2.0,
        HEIGHT * 2.0
    );
    for (index, Curve { name, unit, values, bar }) in curves.iter().enumerate() {
        let (left, top) = ((index % 2) as f64 * WIDTH + 20.0, (index / 2) as f64 * HEIGHT + 40.0);
        let (width, height) = (WIDTH - 50.0, HEIGHT - 75.0);
        let highest = values.iter().copied().fold(*bar, f64::max) * 1.1;
        let x = |at: usize| left + width * at as f64 / (values.len().max(2) - 1) as f64;
        let y = |value: f64| top + height * (1.0 - value / highest);
        let points: Vec<String> =
            values.iter().enumerate().map(|(at, value)| format!("{:.1},{:.1}", x(at), y(*value))).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            svg,
            "<text x=\"{left}\" y=\"{}\"><tspan font-weight=\"bold\">{name}</tspan>, dashed: the bar</text>",
            top - 20.0
        );
        let _ = writeln!(
            svg,
            "<path d=\"M{left} {top}v{height}h{width}\" fill=\"none\" stroke=\"#888\"/><path d=\"M{left} {:.1}h{width}\" stroke=\"#c33\" stroke-dasharray=\"4 3\"/>",
            y(*bar)
        );
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"#26c\" stroke-width=\"2\"/>",
            points.join(" ")
        );
        for (at, (value, size)) in values.iter().zip(sizes).enumerate() {
            let digits = if *value < 10.0 { 2 } else { 0 };
            let millions = size.identities / 1_000_000;
            let (x, y) = (x(at), y(*value));
            let anchor = match at {
                0 => "start",
                _ if at + 1 == sizes.len() => "end",
                _ => "middle",
            };
            let _ = writeln!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"#26c\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{value:.digits$} {unit}</text><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" fill=\"#555\">{millions} M</text>",
                y - 7.0,
                top + height + 16.0
            );
        }
    }
    svg + "</svg>\n"
}
