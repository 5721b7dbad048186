//! A leg's message, written: its parts one behind the other in one piece of memory, which many legs may share.
//!
//! ```text
//!   call ID │ framing's header, datum │ identity │ trace
//!   key       payload                   headers
//! ```

use bytes::Bytes;

use crate::codec::{EncodeError, Framing, LegEncoder};
use crate::core::identity::KeyHash;
use crate::core::journal::{Entry, Trace};
use crate::core::leg::{Ingest, Leg};
use crate::core::planner::Piece;
use crate::core::time::UtcMillis;

/// Writes the messages of legs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LegWriter {
    encoder: LegEncoder,
    framing: Framing,
    /// What stands for the journal in traces.
    journal: [u8; 4],
}

/// What the messages of a read's legs say beside the legs' own fields.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) unit: String,
    pub(crate) piece: Piece,
    /// The unit's when the read was planned.
    pub(crate) generation: u32,
    /// A leg from before it is marked late.
    pub(crate) late_before: UtcMillis,
}

/// The two times of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowTimes {
    /// On the axis of the windows.
    pub(crate) at: UtcMillis,
    /// When it was received.
    pub(crate) seen_at: UtcMillis,
}

/// Where the parts of a leg's message are.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    start: usize,
    /// The ends of the key, the payload, and the two headers.
    ends: [usize; 4],
}

/// A leg's message, in parts.
pub(crate) struct Parts {
    pub(crate) key: Bytes,
    pub(crate) payload: Bytes,
    pub(crate) headers: Vec<(&'static str, Bytes)>,
}

impl LegWriter {
    /// For the legs of the journal in this topic.
    pub(crate) fn new(framing: Framing, journal: &str) -> Self {
        Self { encoder: LegEncoder::new(), framing, journal: Trace::journal_tag(journal) }
    }

    /// Appends the message of a leg.
    ///
    /// # Errors
    /// As of [`LegEncoder::encode`]; on an error `out` is as before.
    pub(crate) fn write(
        &self,
        leg: &Leg<'_>,
        entry: Entry,
        times: RowTimes,
        origin: &Origin,
        out: &mut Vec<u8>,
    ) -> Result<Written, EncodeError> {
        let Origin { unit, piece: Piece { window, how }, generation, late_before } = origin;
        let RowTimes { at, seen_at } = times;
        let start = out.len();
        out.extend_from_slice(leg.call_id().as_bytes());
        let key_end = out.len();
        self.framing.write_header(out);
        let (late, revision) = (at < *late_before, entry.seen.revision);
        let ingest = Ingest { first_seen: seen_at, how: *how, late, revision, window: *window };
        if let Err(error) = self.encoder.encode(leg, &ingest, out) {
            out.truncate(start);
            return Err(error);
        }
        let payload_end = out.len();
        out.extend_from_slice(&entry.key.0);
        let identity_end = out.len();
        Trace::append(self.journal, entry.seen, *generation, window.not_after(at), unit, out);
        Ok(Written { start, ends: [key_end, payload_end, identity_end, out.len()] })
    }
}

impl Written {
    /// The key alone.
    pub(crate) fn key<'a>(&self, memory: &'a [u8]) -> &'a [u8] {
        memory.get(self.start..self.ends[0]).unwrap_or_default()
    }

    /// The parts, as slices of the memory that they were written to.
    pub(crate) fn parts(&self, memory: &Bytes) -> Parts {
        let [key_end, payload_end, identity_end, end] = self.ends;
        Parts {
            key: memory.slice(self.start..key_end),
            payload: memory.slice(key_end..payload_end),
            headers: vec![
                (KeyHash::HEADER, memory.slice(payload_end..identity_end)),
                (Trace::HEADER, memory.slice(identity_end..end)),
            ],
        }
    }
}
