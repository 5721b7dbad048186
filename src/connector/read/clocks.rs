//! The local clock, and the source's as its answers tell it. The earlier of the two counts.

use std::sync::Arc;

use super::unit::UnitContext;
use crate::core::time::UtcMillis;
use crate::source::Source;

/// Both clocks.
pub(super) struct Clocks<S> {
    pub(super) unit: Arc<UnitContext>,
    pub(super) source: Arc<S>,
}

/// When a read began, by the local clock and by the earlier of the two.
#[derive(Clone, Copy)]
pub(super) struct ReadStart {
    local: UtcMillis,
    pub(super) earlier: UtcMillis,
}

impl<S: Source> Clocks<S> {
    /// The present, as the start of a read.
    pub(super) fn read_start(&self) -> ReadStart {
        let local = self.unit.clock.now();
        ReadStart { local, earlier: self.earlier(local) }
    }

    /// When a read began that has ended. Its answers have told the source's clock anew: the smaller reading counts.
    pub(super) fn begun(&self, start: ReadStart) -> UtcMillis {
        start.earlier.min(self.earlier(start.local)).floor_second()
    }

    /// The present.
    pub(super) fn now(&self) -> UtcMillis {
        self.earlier(self.unit.clock.now())
    }

    fn earlier(&self, local: UtcMillis) -> UtcMillis {
        self.source.skew().map_or(local, |skew| skew.earlier_now(local))
    }

    /// Whether the clocks are further apart than is tolerated. The metric shows how far they are apart.
    pub(super) fn differ(&self) -> bool {
        let skew = self.source.skew();
        self.unit.metrics.clock_skew.set(skew.map_or(0.0, |skew| skew.seconds()));
        skew.is_some_and(|skew| skew.exceeds(self.unit.pace.clock_tolerance))
    }

    /// That the clocks are too far apart, and what to do.
    pub(super) fn describe_skew(&self) -> String {
        let seconds = self.source.skew().map_or(0.0, |skew| skew.seconds());
        format!(
            "the source's clock is {:.0} s {} ours, beyond poll.clock_tolerance: legs are published, the watermarks wait; check this machine's time synchronisation",
            seconds.abs(),
            if seconds > 0.0 { "ahead of" } else { "behind" }
        )
    }
}
