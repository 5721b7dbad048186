//! Rows that cannot be published as a leg: why, in words that hold nothing of the row.

use std::fmt;

/// Why a row is a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The row is no JSON object, or one that cannot be taken apart.
    Unreadable,
    /// No text or whole number under `callId`.
    CallId,
    /// No text or whole number under `legId`.
    LegId,
    /// No instant after the epoch under `disconnectedTimeUTC`, in a row that is not under way.
    DisconnectTime,
    /// The encoded leg exceeds what the topic takes.
    TooLarge,
    /// The topic takes no record with this disconnect time as its timestamp.
    Timestamp,
    /// The brokers found the record invalid.
    Invalid,
}

impl Reason {
    /// The `call-legs-error-code` header; stable, for programs.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable-row",
            Self::CallId => "call-id-unusable",
            Self::LegId => "leg-id-unusable",
            Self::DisconnectTime => "disconnect-time-unusable",
            Self::TooLarge => "record-too-large",
            Self::Timestamp => "timestamp-refused",
            Self::Invalid => "record-refused",
        }
    }
}

/// The `call-legs-error-message` header; for people.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreadable => "the row is not a JSON object that can be read",
            Self::CallId => "callId is missing, empty, or neither a text nor a whole number",
            Self::LegId => "legId is missing, empty, or neither a text nor a whole number",
            Self::DisconnectTime => "disconnectedTimeUTC is missing or no epoch-millisecond instant, and the call is not under way",
            Self::TooLarge => "the encoded leg is larger than the topic's max.message.bytes",
            Self::Timestamp => "the topic refuses the disconnect time as a timestamp (message.timestamp.before.max.ms, message.timestamp.after.max.ms)",
            Self::Invalid => "the brokers refuse the record as invalid",
        })
    }
}
