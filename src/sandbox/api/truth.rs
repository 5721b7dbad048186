//! What is true about the legs, for tests that compare what was published with what happened.

use chrono_tz::Tz;

use super::Api;
use crate::core::time::UtcMillis;
use crate::sandbox::rubbish::Rubbish;

/// A leg that the API shows, with everything that it has shown of it since the leg ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrueLeg {
    /// The PBX's name; callIds are unique only within a PBX.
    pub pbx_id: String,
    /// The call's id.
    pub call_id: String,
    /// The leg's number in its call.
    pub leg_id: String,
    /// When the leg started, which orders the pages.
    pub start: UtcMillis,
    /// When the leg ended.
    pub disconnect: UtcMillis,
    /// From when on the API shows it.
    pub visible_at: UtcMillis,
    /// What it showed, in the order of time; never empty, and no two neighbours are equal.
    pub versions: Vec<Version>,
}

/// A leg's row for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// From when on the row was this one.
    pub since: UtcMillis,
    /// The row as it is served.
    pub json: String,
    /// What is wrong with the row, if it is spoilt.
    pub rubbish: Option<Rubbish>,
}

impl TrueLeg {
    /// What identifies the leg: pbxId, callId, legId.
    pub fn identity(&self) -> (&str, &str, &str) {
        (&self.pbx_id, &self.call_id, &self.leg_id)
    }

    /// The row as it is now.
    pub fn current(&self) -> &Version {
        // The list is never empty: it begins when the leg becomes visible.
        &self.versions[self.versions.len() - 1]
    }
}

impl Api {
    /// Every leg that has ended and is visible at `now`, in no particular order, with its texts in
    /// `zone`. Access rules and the limit of two years do not apply.
    pub fn legs_visible(&self, now: UtcMillis, zone: Tz) -> impl Iterator<Item = TrueLeg> + '_ {
        let until = now.as_millis();
        let mut reader = self.dataset.reader(zone);
        let entries = self.dataset.entries_until(until.saturating_add(1));
        entries.filter(move |entry| entry.visible_at <= until).filter_map(move |entry| {
            let facts = reader.facts(&entry);
            let mended = self.spoiler.verdict(&facts, entry.visible_at).and_then(|(_, at)| at);
            let mut instants = vec![entry.visible_at];
            instants.extend(facts.revised_at.into_iter().chain([mended]).flatten());
            instants.sort_unstable();
            let mut versions: Vec<Version> = Vec::with_capacity(1);
            for at in instants.into_iter().filter(|at| *at <= until) {
                let (json, rubbish) = self.row(&mut reader, &entry, at);
                if versions.last().is_none_or(|last| last.json != json) {
                    versions.push(Version { since: UtcMillis::new(at), json, rubbish });
                }
            }
            Some(TrueLeg {
                disconnect: UtcMillis::new(facts.end?),
                pbx_id: facts.pbx,
                call_id: facts.call,
                leg_id: facts.leg,
                start: UtcMillis::new(facts.start),
                visible_at: UtcMillis::new(entry.visible_at),
                versions,
            })
        })
    }
}
