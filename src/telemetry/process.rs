//! What every process tells of itself, under the names that Prometheus's client libraries have agreed on.

use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Unit;

use super::catalogue::Catalogue;

/// Read anew for each page; on systems without /proc all but the start stay 0.
#[derive(Debug, Default)]
pub(super) struct ProcessMetrics {
    cpu_seconds: Counter<f64, AtomicU64>,
    resident_memory_bytes: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    start_time_seconds: Gauge<f64, AtomicU64>,
}

impl ProcessMetrics {
    /// Of a process that starts now.
    pub(super) fn new() -> Self {
        let metrics = Self::default();
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        metrics.start_time_seconds.set(started.as_secs_f64());
        metrics
    }

    pub(super) fn list(&self, catalogue: &mut Catalogue) {
        let (seconds, bytes) = (Some(Unit::Seconds), Some(Unit::Bytes));
        catalogue.process(
            "cpu",
            seconds.clone(),
            "CPU time that the process has taken, user and system",
            &self.cpu_seconds,
        );
        catalogue.process(
            "resident_memory",
            bytes,
            "memory of the process that is in RAM",
            &self.resident_memory_bytes,
        );
        catalogue.process("open_fds", None, "file descriptors that are open", &self.open_fds);
        catalogue.process("max_fds", None, "file descriptors that may be open", &self.max_fds);
        catalogue.process("start_time", seconds, "when the process started, since 1970", &self.start_time_seconds);
    }

    /// Reads them from /proc.
    #[cfg(target_os = "linux")]
    pub(super) fn refresh(&self) {
        let Ok(process) = procfs::process::Process::myself() else { return };
        if let Ok(stat) = process.stat() {
            let seconds = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
            self.cpu_seconds.inc_by((seconds - self.cpu_seconds.get()).max(0.0));
            let resident = stat.rss.saturating_mul(procfs::page_size());
            self.resident_memory_bytes.set(i64::try_from(resident).unwrap_or(i64::MAX));
        }
        if let Ok(open) = process.fd_count() {
            self.open_fds.set(i64::try_from(open).unwrap_or(i64::MAX));
        }
        if let Ok(limits) = process.limits()
            && let procfs::process::LimitValue::Value(most) = limits.max_open_files.soft_limit
        {
            self.max_fds.set(i64::try_from(most).unwrap_or(i64::MAX));
        }
    }

    /// There is no /proc to read.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn refresh(&self) {}
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_tells_its_cpu_time_memory_descriptors_and_start() {
        let metrics = ProcessMetrics::new();
        metrics.refresh();
        let first = metrics.cpu_seconds.get();
        metrics.refresh();
        assert!(metrics.cpu_seconds.get() >= first, "it only grows");
        assert!(metrics.resident_memory_bytes.get() > 1_000_000);
        assert!(metrics.open_fds.get() > 2 && metrics.max_fds.get() >= metrics.open_fds.get());
        assert!(metrics.start_time_seconds.get() > 1.7e9);
    }
}
