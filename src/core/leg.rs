//! The call leg: the domain record, as a table of the API's 49 fields and a value for each.
//!
//! The table is the one place that knows the fields' names, order and types, and which of them are personal; parsing,
//! encoding, fingerprinting and the schema's test all walk it. Values borrow from the page they came in.
//! It knows neither JSON nor Avro.

use std::borrow::Cow;

use super::time::{UtcMillis, Window};

/// What a field of the API holds, and so its type in the Avro schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// A whole number: a duration in milliseconds or a code.
    Integer,
    /// An instant in epoch milliseconds.
    Instant,
    /// An array of strings.
    TextList,
}

/// The end of the year 9999: an instant beyond is microseconds or rubbish, and some Avro libraries cannot decode it.
const LAST_INSTANT_MS: i64 = 253_402_300_799_999;

/// The largest whole number that every Avro library can decode: those of JavaScript have doubles.
const LAST_INTEGER: i64 = (1 << 53) - 1;

impl Kind {
    /// Whether a field of this kind can hold the number, so that every Avro library decodes it.
    #[inline]
    pub const fn holds(self, number: i64) -> bool {
        match self {
            Self::Instant => 1 <= number && number <= LAST_INSTANT_MS,
            Self::Integer => -LAST_INTEGER <= number && number <= LAST_INTEGER,
            Self::Text | Self::TextList => false,
        }
    }
}

/// Which time of a leg the query's bounds refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeBasis {
    /// When the leg was disconnected.
    Disconnect,
    /// When the leg was connected, which may be hours before it can be reported.
    Connect,
}

/// One field of the API's reply.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The name in the API's reply, which is also the name in the Avro schema.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Whether the leg's content fingerprint covers it. The three texts that repeat an instant in
    /// the query's time zone are left out, since they change with the configuration.
    pub fingerprinted: bool,
    /// Whether a row without it is no leg; all others may be null.
    pub required: bool,
    /// Whether its value says who somebody is, or how to reach them. The schema, `docs/consume.md` and
    /// `docs/configure.md` say the same.
    pub personal: bool,
}

const fn field(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, fingerprinted: true, required: false, personal: false }
}

const fn personal(name: &'static str, kind: Kind) -> Field {
    Field { personal: true, ..field(name, kind) }
}

const fn zoned(name: &'static str) -> Field {
    Field { fingerprinted: false, ..field(name, Kind::Text) }
}

const fn required(name: &'static str, kind: Kind) -> Field {
    Field { required: true, ..field(name, kind) }
}

/// How many fields the API documents.
pub const FIELD_COUNT: usize = 49;

/// The API's fields in the order of its reply.
pub const FIELDS: [Field; FIELD_COUNT] = [
    required("callId", Kind::Text),
    required("legId", Kind::Text),
    field("startTimeUTC", Kind::Instant),
    zoned("startTime"),
    field("connectTimeUTC", Kind::Instant),
    zoned("connectTime"),
    required("disconnectedTimeUTC", Kind::Instant),
    zoned("disconnectedTime"),
    field("talkTimeMS", Kind::Integer),
    field("talkTime", Kind::Text),
    personal("caller", Kind::Text),
    personal("callerName", Kind::Text),
    personal("callee", Kind::Text),
    personal("calleeName", Kind::Text),
    field("lra", Kind::Text),
    field("direction", Kind::Text),
    field("parentCallId", Kind::Text),
    field("transferToCallId", Kind::Text),
    personal("dnis", Kind::Text),
    field("status", Kind::Text),
    field("callerDeviceId", Kind::Text),
    field("calleeDeviceId", Kind::Text),
    field("callerDeviceModel", Kind::Text),
    field("calleeDeviceModel", Kind::Text),
    personal("callerId", Kind::Text),
    field("missed", Kind::Text),
    field("abandoned", Kind::Text),
    field("answered", Kind::Text),
    field("cause", Kind::Text),
    field("callerSvcName", Kind::Text),
    field("callerSvcType", Kind::Text),
    field("calleeSvcName", Kind::Text),
    field("calleeSvcType", Kind::Text),
    field("lraType", Kind::Integer),
    field("calleeHoldDurationMS", Kind::Integer),
    field("calleeHoldDuration", Kind::Text),
    field("calleeDisconnectOnHold", Kind::Text),
    field("callerDisconnectOnHold", Kind::Text),
    field("pbxId", Kind::Text),
    personal("sipCallId", Kind::Text),
    personal("departments", Kind::TextList),
    field("branches", Kind::TextList),
    field("recordServiceOn", Kind::Text),
    field("bargeServiceOn", Kind::Text),
    field("masterSlaveExts", Kind::Text),
    field("propsLastPartyDisp", Kind::Text),
    field("accountCode", Kind::Text),
    field("aaPath", Kind::Text),
    field("callTime", Kind::Integer),
];

/// Positions in [`FIELDS`] of the fields that the connector itself reads.
pub mod position {
    /// `callId`
    pub const CALL_ID: usize = 0;
    /// `legId`
    pub const LEG_ID: usize = 1;
    /// `connectTimeUTC`
    pub const CONNECT_TIME: usize = 4;
    /// `disconnectedTimeUTC`
    pub const DISCONNECTED_TIME: usize = 6;
    /// `status`
    pub const STATUS: usize = 19;
    /// `pbxId`
    pub const PBX_ID: usize = 38;
}

/// The position of the field called `name`; `expected` is tried first, since replies keep the order.
pub fn position_of(name: &str, expected: usize) -> Option<usize> {
    match FIELDS.get(expected) {
        Some(field) if field.name == name => Some(expected),
        _ => FIELDS.iter().position(|field| field.name == name),
    }
}

/// One field's value, of the field's [`Kind`] or null.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Value<'a> {
    /// Absent, null, an instant of 0, or something that the field cannot hold (then its JSON text is in [`Leg::extra`]).
    #[default]
    Null,
    /// For [`Kind::Text`].
    Text(Cow<'a, str>),
    /// For [`Kind::Integer`] and [`Kind::Instant`].
    Integer(i64),
    /// For [`Kind::TextList`].
    TextList(Vec<Cow<'a, str>>),
}

/// A call leg as the API reported it, with the three values that make it publishable checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg<'a> {
    /// The values in the order of [`FIELDS`].
    pub values: [Value<'a>; FIELD_COUNT],
    /// Unknown fields, and known ones with a value that they cannot hold: name to JSON text, sorted by name.
    pub extra: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// When the leg was disconnected; the same instant as the field.
    pub disconnected: UtcMillis,
}

impl Leg<'_> {
    /// The call's id: the message key.
    pub fn call_id(&self) -> &str {
        self.text(position::CALL_ID)
    }

    /// The leg's id within its call.
    pub fn leg_id(&self) -> &str {
        self.text(position::LEG_ID)
    }

    /// The PBX's name, empty when the API gave none.
    pub fn pbx_id(&self) -> &str {
        self.text(position::PBX_ID)
    }

    /// Whether its status says that the call is still going on.
    pub fn is_in_progress(&self) -> bool {
        let status = self.text(position::STATUS).bytes();
        let letters = status.filter(|byte| !matches!(byte, b' ' | b'-' | b'_')).map(|byte| byte.to_ascii_lowercase());
        letters.eq(*b"inprogress")
    }

    fn text(&self, position: usize) -> &str {
        match &self.values[position] {
            Value::Text(text) => text,
            _ => "",
        }
    }
}

/// By which kind of read a leg was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The newest window, read every interval.
    Poll,
    /// An older piece of a gap longer than one window, read as fast as the budget allows.
    CatchUp,
    /// A slower re-read of an older period.
    Sweep,
    /// A read of a past period that an operator asked for.
    Backfill,
    /// A dead letter that was parsed again.
    Replay,
}

impl How {
    /// Whether it is the polls' own; others stand behind these.
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Poll | Self::CatchUp)
    }

    /// The name in records, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::CatchUp => "catch-up",
            Self::Sweep => "sweep",
            Self::Backfill => "backfill",
            Self::Replay => "replay",
        }
    }
}

/// Where a published record comes from: what the connector adds to the API's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ingest {
    /// When the connector first read the leg (this revision of it).
    pub first_seen: UtcMillis,
    /// By which kind of read.
    pub how: How,
    /// Whether the leg was disconnected before the unit's final watermark of that time.
    pub late: bool,
    /// 0 for a leg's first publication, then one more for each change of its content.
    pub revision: u8,
    /// The window of disconnect time that was read, before it was widened for the query.
    pub window: Window,
}

/// A leg's time on the axis that the windows are cut on.
pub fn time_of(leg: &Leg<'_>, basis: TimeBasis) -> UtcMillis {
    match (basis, &leg.values[position::CONNECT_TIME]) {
        (TimeBasis::Connect, Value::Integer(connected)) => UtcMillis::new(*connected),
        _ => leg.disconnected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_name_the_fields_they_claim() {
        let named = [
            (position::CALL_ID, "callId"),
            (position::LEG_ID, "legId"),
            (position::CONNECT_TIME, "connectTimeUTC"),
            (position::DISCONNECTED_TIME, "disconnectedTimeUTC"),
            (position::STATUS, "status"),
            (position::PBX_ID, "pbxId"),
        ];
        for (position, name) in named {
            assert_eq!(FIELDS[position].name, name);
        }
    }

    #[test]
    fn an_instants_text_comes_next() {
        for (position, field) in FIELDS.iter().enumerate().filter(|(_, field)| field.kind == Kind::Instant) {
            let text = FIELDS[position + 1];
            assert_eq!((field.name, text.fingerprinted), (format!("{}UTC", text.name).as_str(), false));
        }
    }

    #[test]
    fn a_name_is_found_at_the_expected_place_and_elsewhere() {
        assert_eq!(position_of("legId", 1), Some(1));
        assert_eq!(position_of("legId", 48), Some(1));
        assert_eq!(position_of("legId", FIELD_COUNT), Some(1));
        assert_eq!(position_of("nonesuch", 0), None);
    }
}
