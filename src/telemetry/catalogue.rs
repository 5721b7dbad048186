//! The list of the metrics: what each is called, what it is, and what it says, as Prometheus and docs/metrics.md have it.

use prometheus_client::encoding::EncodeMetric;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Metric, Registry, Unit};

/// What every name of ours begins with.
const PREFIX: &str = "call_legs";

/// One label of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// All values it can have; empty for the configured units and the version.
    pub values: &'static [&'static str],
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, from 0 at the start of the process.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Observations by size.
    Histogram,
    /// A 1 whose labels are what it says.
    Info,
}

impl Kind {
    /// The name in Prometheus.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }

    fn of(metric: &impl Metric) -> Self {
        match EncodeMetric::metric_type(metric) {
            MetricType::Counter => Self::Counter,
            MetricType::Histogram => Self::Histogram,
            MetricType::Info => Self::Info,
            _ => Self::Gauge,
        }
    }
}

/// A metric in words.
#[derive(Clone, Debug)]
pub struct Description {
    /// The name as Prometheus stores it; a histogram's series have `_bucket`, `_sum` and `_count` behind it.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its labels.
    pub labels: Vec<Label>,
    /// What it says.
    pub help: &'static str,
}

impl Description {
    /// The row in the table of docs/metrics.md.
    pub fn row(&self) -> String {
        let labels = self.labels.iter().map(|label| label.name).collect::<Vec<_>>().join(",");
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let closed = self.labels.iter().filter(|label| !label.values.is_empty());
        let values: String =
            closed.map(|label| format!("; `{}`: `{}`", label.name, label.values.join("`, `"))).collect();
        format!("| `{}{labels}` | {} | {}{values} |", self.name, self.kind.as_str(), self.help)
    }
}

/// The registry, and the description of everything that is in it.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    registry: Registry,
    descriptions: Vec<Description>,
}

impl Catalogue {
    /// A metric without a unit.
    pub(super) fn plain(&mut self, name: &str, labels: &[Label], help: &'static str, metric: &(impl Metric + Clone)) {
        let name = format!("{PREFIX}_{name}");
        self.describe(name.clone(), labels, help, metric);
        self.registry.register(name, help, metric.clone());
    }

    /// A metric in seconds, which its name ends with.
    pub(super) fn seconds(&mut self, name: &str, labels: &[Label], help: &'static str, metric: &(impl Metric + Clone)) {
        let name = format!("{PREFIX}_{name}");
        self.describe(format!("{name}_seconds"), labels, help, metric);
        self.registry.register_with_unit(name, help, Unit::Seconds, metric.clone());
    }

    /// One of the metrics that every process has, under their common prefix.
    pub(super) fn process(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &'static str,
        metric: &(impl Metric + Clone),
    ) {
        let name = format!("process_{name}");
        match unit {
            Some(unit) => {
                self.describe(format!("{name}_{}", unit.as_str()), &[], help, metric);
                self.registry.register_with_unit(name, help, unit, metric.clone());
            }
            None => {
                self.describe(name.clone(), &[], help, metric);
                self.registry.register(name, help, metric.clone());
            }
        }
    }

    /// Information that does not change.
    pub(super) fn info(&mut self, name: &str, labels: &[Label], help: &'static str, metric: impl Metric) {
        let name = format!("{PREFIX}_{name}");
        self.describe(name.clone(), labels, help, &metric);
        self.registry.register(name, help, metric);
    }

    fn describe(&mut self, name: String, labels: &[Label], help: &'static str, metric: &impl Metric) {
        let kind = Kind::of(metric);
        let suffix = match kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        self.descriptions.push(Description { name: format!("{name}{suffix}"), kind, labels: labels.to_vec(), help });
    }

    /// What there is, in the order of docs/metrics.md.
    pub(super) fn descriptions(&self) -> &[Description] {
        &self.descriptions
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }
}
