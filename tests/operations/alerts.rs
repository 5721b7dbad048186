//! The alert rules: promtool's tests of them, and that none is without words or without a test.

use std::collections::BTreeSet;
use std::time::Instant;

use call_legs::telemetry::{Kind, Metrics, Status, plain_text};
use serde_json::{Value, json};

use super::tools::{run, text_of};

const DASHBOARD: &str = "config/grafana/call-legs.json";
const RULES: &str = "config/prometheus/alerts.yml";
const TESTS: &str = "tests/operations/alerts.yml";

fn promtool(arguments: &[&str]) -> String {
    run("promtool", "prometheus", arguments)
}

/// Each alert's name, with its block of the file.
fn alerts(rules: &str) -> Vec<(&str, &str)> {
    rules.split("- alert: ").skip(1).map(|block| block.split_once('\n').unwrap()).collect()
}

#[test]
fn the_scrape_configuration_and_the_rules_are_valid() {
    promtool(&["check", "config", "config/prometheus/prometheus.yml"]);
}

/// By promtool's own rules for names, help and types, in the format that it reads.
#[test]
fn the_metrics_are_as_prometheus_wants_them() {
    let metrics = Metrics::default();
    metrics.add_unit("acme");
    let page = plain_text::from_openmetrics(&metrics.render(&Status::default(), Instant::now().into()));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), page).unwrap();
    let said = run("sh", "prometheus", &["-c", &format!("promtool check metrics < {}", file.path().display())]);
    assert_eq!(said, "", "promtool has nothing to say");
}

#[test]
fn nothing_fires_in_ordinary_life_and_each_alert_when_it_should() {
    promtool(&["test", "rules", TESTS]);
    let tests = text_of(TESTS);
    let rules = text_of(RULES);
    for (name, _) in alerts(&rules) {
        let firing = format!("- labels: 'ALERTS{{alertname=\"{name}\", alertstate=\"firing\"");
        assert!(tests.contains(&firing), "{TESTS} should show a case in which {name} fires");
    }
}

#[test]
fn each_alert_says_what_it_means_and_what_to_do() {
    let rules = text_of(RULES);
    let alerts = alerts(&rules);
    assert!(alerts.len() >= 15);
    for (name, block) in alerts {
        for part in ["summary: \"", "description: \"", "what_to_do: \""] {
            assert_eq!(block.matches(part).count(), 1, "{name} needs a {part}");
        }
        assert!(block.contains("severity: page") || block.contains("severity: ticket"), "{name}");
    }
}

#[test]
fn rules_and_dashboard_name_no_metric_that_is_not_there() {
    let metrics = Metrics::default();
    let known: BTreeSet<String> = metrics
        .descriptions()
        .iter()
        .flat_map(|described| match described.kind {
            Kind::Histogram => {
                ["_bucket", "_count", "_sum"].map(|suffix| format!("{}{suffix}", described.name)).to_vec()
            }
            _ => vec![described.name.clone()],
        })
        .collect();
    for file in [RULES, TESTS, DASHBOARD] {
        let text = text_of(file);
        // Texts may speak of a histogram as a whole.
        let lines = text.lines().filter(|line| !["description", "what_to_do"].iter().any(|key| line.contains(key)));
        let is_of_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let words = lines.flat_map(|line| line.split(|c| !is_of_name(c))).filter(|word| word.starts_with("call_legs_"));
        let mut found = 0;
        for word in words {
            assert!(known.contains(word), "{file} names {word}, which is no metric");
            found += 1;
        }
        assert!(found > 10, "{file} names metrics");
    }
}

/// All values of a key, wherever it stands.
fn values<'a>(of: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match of {
        Value::Object(members) => {
            found.extend(members.get(key));
            members.values().for_each(|value| values(value, key, found));
        }
        Value::Array(items) => items.iter().for_each(|value| values(value, key, found)),
        _ => {}
    }
}

/// Grafana resolves `__inputs` only when a person imports a file, and a variable of the type `datasource` in any case.
#[test]
fn the_dashboard_is_imported_and_provisioned_with_any_data_source_and_its_queries_are_valid() {
    let dashboard: Value = serde_json::from_str(&text_of(DASHBOARD)).unwrap();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert!(variables.iter().any(|variable| variable["name"] == "datasource" && variable["type"] == "datasource"));
    assert!(dashboard.get("__inputs").is_none() && dashboard.get("id").is_none(), "nothing of one Grafana");
    let mut sources = Vec::new();
    values(&dashboard, "datasource", &mut sources);
    assert!(sources.len() > 10);
    assert!(
        sources.iter().all(|source| **source == json!({ "type": "prometheus", "uid": "${datasource}" })),
        "{sources:?}"
    );

    let mut expressions = Vec::new();
    values(&dashboard["panels"], "expr", &mut expressions);
    assert!(expressions.len() > 10);
    let rules = expressions.iter().enumerate().map(|(number, expression)| {
        let expression = expression.as_str().unwrap().replace("$__rate_interval", "1m");
        json!({ "record": format!("panel_{number}"), "expr": expression })
    });
    // JSON is YAML.
    let file = tempfile::NamedTempFile::new().unwrap();
    let group = json!({ "groups": [{ "name": "dashboard", "rules": rules.collect::<Vec<_>>() }] });
    std::fs::write(file.path(), group.to_string()).unwrap();
    promtool(&["check", "rules", &file.path().to_string_lossy()]);
}
