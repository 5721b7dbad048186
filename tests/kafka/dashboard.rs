//! The dashboard and the alert rules against a connector at work: every panel has data, every metric is as it is listed, and
//! no alert fires.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use call_legs::sandbox::Sandbox;
use call_legs::sandbox::dataset::DatasetSettings;
use call_legs::telemetry::{Kind, Metrics};
use serde_json::Value;
use tempfile::TempDir;

use super::rig::{Rig, free_address, sandbox_settings};
use super::support::kafka::kafka;

const DASHBOARD: &str = include_str!("../../config/grafana/call-legs.json");
const SCRAPES: &str = include_str!("../../config/prometheus/prometheus.yml");

/// A Prometheus that scrapes an instance every second, and ends when dropped.
struct Prometheus {
    address: String,
    _data: TempDir,
    child: Child,
}

impl Prometheus {
    /// With the repository's own configuration, but for the address and the pace.
    fn scraping(admin: &str) -> Self {
        let data = TempDir::new().unwrap();
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/prometheus/alerts.yml");
        let mut configuration = SCRAPES.to_owned();
        for (given, here) in [
            ("sandbox:9464", admin.to_owned()),
            ("_interval: 15s", "_interval: 1s".to_owned()),
            ("- alerts.yml", format!("- {}", rules.display())),
        ] {
            assert!(configuration.contains(given), "prometheus.yml has {given}");
            configuration = configuration.replace(given, &here);
        }
        let file = data.path().join("prometheus.yml");
        std::fs::write(&file, configuration).unwrap();
        let address = free_address();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", data.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("`prometheus` is not on the PATH, which this test needs: install it (Debian: apt-get install prometheus)");
        Self { address, _data: data, child }
    }

    /// What the API answers; nothing while it does not listen yet.
    async fn ask(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let client = reqwest::Client::new();
        let request = client.get(format!("http://{}/api/v1/{path}", self.address)).query(query);
        let answer = request.send().await.ok()?.text().await.ok()?;
        let answer: Value = serde_json::from_str(&answer).ok()?;
        assert_eq!(answer["status"], "success", "{query:?}: {answer}");
        Some(answer["data"].clone())
    }

    /// How many series of an expression have a number now.
    async fn series(&self, expression: &str) -> usize {
        let Some(data) = self.ask("query", &[("query", expression)]).await else { return 0 };
        let values = data["result"].as_array().unwrap().iter().map(|series| series["value"][1].as_str().unwrap());
        values.filter(|value| value.parse::<f64>().unwrap().is_finite()).count()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The expressions of all panels, with their titles, as Grafana would send them.
fn panels() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row") {
        let title = panel["title"].as_str().unwrap();
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title}");
        for target in targets {
            let expression = target["expr"].as_str().unwrap();
            // $__rate_interval is at least four scrapes.
            let expression = expression.replace("$__rate_interval", "10s").replace("$job", ".*").replace("$unit", ".*");
            assert!(!expression.contains('$'), "{title}: {expression}");
            found.push((title.to_owned(), expression));
        }
    }
    found
}

/// A line of the metrics' page: the name and the labels of a sample.
fn sample(line: &str) -> (&str, BTreeMap<&str, &str>) {
    let (series, _) = line.rsplit_once(' ').unwrap();
    let Some((name, labels)) = series.split_once('{') else { return (series, BTreeMap::new()) };
    let labels = labels.trim_end_matches('}').split(',').map(|label| {
        let (name, value) = label.split_once('=').unwrap();
        (name, value.trim_matches('"'))
    });
    (name, labels.collect())
}

/// Every sample is of a listed metric, and its labels have values of their closed sets.
fn assert_as_listed(page: &str) {
    let metrics = Metrics::default();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (name, mut labels) = sample(line);
        let described = metrics.descriptions().iter().find(|described| match described.kind {
            Kind::Histogram => name.strip_prefix(&described.name).is_some_and(|rest| rest.starts_with('_')),
            _ => name == described.name,
        });
        let described = described.unwrap_or_else(|| panic!("{line} is of no metric that is listed"));
        if name.ends_with("_bucket") {
            labels.remove("le");
        }
        let names: Vec<&str> = described.labels.iter().map(|label| label.name).collect();
        assert!(labels.keys().all(|name| names.contains(name)) && labels.len() == names.len(), "{line}: {names:?}");
        for label in described.labels.iter().filter(|label| !label.values.is_empty()) {
            assert!(label.values.contains(&labels[label.name]), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_of_the_dashboard_has_data_and_no_alert_fires() {
    let mut settings = sandbox_settings(300, Duration::from_secs(3600));
    // Late enough to be found by the overlap, and by no sweep.
    let late = Duration::from_secs(15);
    settings.dataset = DatasetSettings { rate: 6.0, late, late_share: 0.3, ..settings.dataset };
    let keys = ["poll.start_from = \"now-2h\"", "sweeps = [{every = \"3s\", lookback = \"1h\"}]"];
    let rig = Rig::new(Sandbox::start(settings).await.unwrap(), kafka().bootstrap(), &keys);
    let _daemon = rig.start();
    let prometheus = Prometheus::scraping(&rig.admin);

    for (title, expression) in panels() {
        rig.until(&format!("data of the panel {title:?}: {expression}"), async || {
            prometheus.series(&expression).await > 0
        })
        .await;
    }

    let page = rig.page("/metrics").await.unwrap().1;
    assert_as_listed(&page);
    let fresh = rig.metric("call_legs_freshness_seconds_count", "").await;
    let published = rig.metric("call_legs_rows_total", "result=\"published\"").await;
    assert!(fresh > 0.0 && published - fresh >= 100.0, "what was there before the start was never to be fresh");

    let answer = prometheus.ask("rules", &[]).await.unwrap();
    let rules = answer["groups"][0]["rules"].as_array().unwrap();
    assert!(rules.len() >= 15);
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        assert_ne!(rule["state"], "firing", "{rule}");
    }
}
