//! A leg as the JSON of its row: the 49 fields in the order of the reply.
//!
//! Written by hand and independently of what the connector knows about the fields, so that a
//! mistake there cannot hide behind the same mistake here.

use std::fmt::Write;

use chrono::{DateTime, Datelike, Offset, TimeZone, Timelike};
use chrono_tz::Tz;

use super::call::{Direction, Fate, Role};
use super::generated::Leg;
use super::people::{self, Party, Places};
use crate::sandbox::dice::Dice;

/// What all rows of a page have in common, and the PBX's name.
pub(super) struct Context<'a> {
    pub(super) seed: u64,
    pub(super) zone: Tz,
    pub(super) pbx: &'a str,
}

/// Everybody who takes part in a leg.
struct Cast {
    caller: Party,
    callee: Party,
    /// The extension that the leg is about; empty for a number outside.
    extension: String,
    service: Option<&'static str>,
    /// The name that the directory knows for the caller, where it is another one.
    dialled: String,
}

fn cast(seed: u64, leg: &Leg) -> Cast {
    let mut call = Dice::of(&[leg.call_dice]);
    let outsider = people::outsider(&mut call);
    let colleague = people::colleague(seed, leg.pbx, &mut call);
    let other = people::colleague(seed, leg.pbx, &mut Dice::of(&[leg.dice, 1]));
    let dialled = people::dialled(leg.pbx, &mut call);
    let (queue, queue_extension) = people::service("CallQueue", leg.pbx, &mut call);
    let labelled = |kind: &str, of: &Party| Party { text: format!("{kind} ({})", of.text), name: of.name.clone() };
    let service = |kind: &str| people::service(kind, leg.pbx, &mut Dice::of(&[leg.call_dice, 2]));
    let extension = colleague.text.clone();
    let (caller, callee, extension, service) = match leg.role {
        Role::Outside => (colleague, Party { name: String::new(), ..outsider }, extension, None),
        Role::Extension if leg.direction == Direction::Internal => {
            let extension = other.text.clone();
            (colleague, other, extension, None)
        }
        Role::Extension => (outsider, colleague, extension, None),
        Role::Voicemail => (outsider, labelled("Voicemail", &colleague), extension, Some("VMadvanced")),
        Role::AutoAttendant => {
            let (party, number) = service("AutoAttendant");
            (outsider, party, number.to_string(), Some("AutoAttendant"))
        }
        Role::Queue => (outsider, queue, queue_extension.to_string(), Some("ACDOperatorService")),
        Role::RingGroup => {
            let (party, number) = service("RingGroup");
            (outsider, party, number.to_string(), Some("RingGroup"))
        }
        // An agent is rung by the queue, in the name of the caller.
        Role::Member => {
            let extension = other.text.clone();
            (Party { name: outsider.name, ..queue }, other, extension, None)
        }
        Role::Forking => (outsider, labelled("CallForking", &colleague), extension, None),
        Role::Recording => (outsider, labelled("CallRecording", &colleague), extension, None),
        Role::Transferred => {
            let extension = other.text.clone();
            (outsider, other, extension, None)
        }
    };
    Cast { caller, callee, extension, service, dialled }
}

/// The texts of the fields `caller` and `callee`.
pub(super) fn parties(seed: u64, leg: &Leg) -> (String, String) {
    let cast = cast(seed, leg);
    (cast.caller.text, cast.callee.text)
}

/// The row of a leg that has ended.
pub(super) fn finished(context: &Context<'_>, leg: &Leg, revised: bool, out: &mut String) {
    let end = Some(leg.end);
    let shown = Shown { connect: leg.connect, end, fate: Some(leg.fate), revised };
    write(context, leg, &shown, out);
}

/// The row of a leg that lasts at `now`, or that the API has not yet seen ending.
pub(super) fn in_progress(context: &Context<'_>, leg: &Leg, now: i64, out: &mut String) {
    let connect = leg.connect.filter(|connect| *connect <= now);
    write(context, leg, &Shown { connect, end: None, fate: None, revised: false }, out);
}

/// What of a leg can be seen at an instant.
struct Shown {
    connect: Option<i64>,
    end: Option<i64>,
    fate: Option<Fate>,
    revised: bool,
}

fn write(context: &Context<'_>, leg: &Leg, shown: &Shown, out: &mut String) {
    let cast = cast(context.seed, leg);
    let mut dice = Dice::of(&[leg.dice, 3]);
    let mut row = Row { out, zone: context.zone };
    row.begin();
    row.digits("callId", leg.call);
    row.digits("legId", leg.leg.into());
    row.instant("startTimeUTC", "startTime", Some(leg.start));
    row.instant("connectTimeUTC", "connectTime", shown.connect);
    // How the API shows an end that has not come is not known: zero, as for the connect time, and
    // null are both served.
    if shown.end.is_none() && leg.dice.is_multiple_of(2) {
        row.null("disconnectedTimeUTC");
        row.null("disconnectedTime");
    } else {
        row.instant("disconnectedTimeUTC", "disconnectedTime", shown.end);
    }
    let talk = talk_ms(leg.role, shown);
    row.duration("talkTimeMS", "talkTime", talk);
    row.text("caller", &cast.caller.text);
    row.text("callerName", &cast.caller.name);
    row.text("callee", &cast.callee.text);
    row.text("calleeName", &cast.callee.name);
    row.text("lra", &cast.extension);
    row.text("direction", direction(leg.direction));
    row.optional_digits("parentCallId", leg.parent);
    row.optional_digits("transferToCallId", leg.parent.filter(|_| leg.role == Role::Transferred));
    row.text("dnis", &cast.dialled);
    row.text("status", if shown.end.is_some() { "Completed" } else { "In Progress" });
    row.null("callerDeviceId");
    row.null("calleeDeviceId");
    row.text("callerDeviceModel", people::device(&mut dice));
    row.text("calleeDeviceModel", people::device(&mut dice));
    row.text_joined("callerId", &cast.caller.name, &cast.caller.text);
    let words = Words::of(shown);
    row.text("missed", words.missed);
    row.text("abandoned", words.abandoned);
    row.text("answered", words.answered);
    row.text("cause", words.cause);
    row.null("callerSvcName");
    row.null("callerSvcType");
    row.optional("calleeSvcName", cast.service);
    row.optional("calleeSvcType", cast.service.map(|_| "Custom"));
    row.number("lraType", if leg.role == Role::Queue { 4 } else { 1 });
    let hold = if talk > 60_000 && dice.below(5) == 0 { dice.millis(1_000, talk) } else { 0 };
    row.duration("calleeHoldDurationMS", "calleeHoldDuration", hold);
    row.text("calleeDisconnectOnHold", if hold > 50_000 { "TRUE" } else { "" });
    row.text("callerDisconnectOnHold", "");
    row.text("pbxId", context.pbx);
    row.text("sipCallId", &people::sip_call_id(&mut dice));
    let (departments, branches) = people::departments_and_branches(context.seed, &cast.extension);
    row.list("departments", &departments);
    row.list("branches", &branches);
    row.text("recordServiceOn", "");
    row.text("bargeServiceOn", "");
    row.text("masterSlaveExts", "");
    row.text("propsLastPartyDisp", if shown.revised { "Corrected" } else { words.disposition });
    row.text("accountCode", if shown.revised { "AC-4711" } else { "" });
    row.text("aaPath", if leg.role == Role::AutoAttendant { "1,3" } else { "" });
    row.number("callTime", shown.end.map_or(0, |end| end - leg.start));
    row.end();
}

/// Services and recorders do not talk.
fn talk_ms(role: Role, shown: &Shown) -> i64 {
    let (Some(connect), Some(end), Some(Fate::Answered | Fate::Transferred)) = (shown.connect, shown.end, shown.fate)
    else {
        return 0;
    };
    if role == Role::RingGroup { 0 } else { end - connect }
}

fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Incoming => "Incoming",
        Direction::Outgoing => "Outgoing",
        Direction::Internal => "Internal",
    }
}

struct Words {
    missed: &'static str,
    abandoned: &'static str,
    answered: &'static str,
    cause: &'static str,
    disposition: &'static str,
}

impl Words {
    fn of(shown: &Shown) -> Self {
        let (missed, abandoned, answered, cause, disposition) = match shown.fate {
            None => ("-", "-", "-", "", ""),
            Some(Fate::Answered) => ("-", "-", "Answered", "Normal", "Answered"),
            Some(Fate::Missed) => ("Missed", "-", "-", "Ring No Answer", "Missed"),
            Some(Fate::ToVoicemail) => ("Missed", "-", "-", "Ring No Answer", "Voicemail"),
            Some(Fate::Abandoned) => ("Missed", "Abandoned", "-", "Normal", "Missed"),
            Some(Fate::Redirected) => ("-", "-", "-", "Redirected", ""),
            Some(Fate::Transferred) => ("-", "-", "Answered", "Transfer", "Answered"),
            Some(Fate::Unreached) => ("-", "-", "-", "Normal", ""),
        };
        Self { missed, abandoned, answered, cause, disposition }
    }
}

/// Writes one JSON object, field by field.
struct Row<'a> {
    out: &'a mut String,
    zone: Tz,
}

impl Row<'_> {
    fn begin(&mut self) {
        self.out.push('{');
    }

    fn end(&mut self) {
        // The comma after the last field.
        self.out.pop();
        self.out.push('}');
    }

    fn name(&mut self, name: &str) {
        self.out.push('"');
        self.out.push_str(name);
        self.out.push_str("\":");
    }

    /// Formats into the text; a `String` takes everything.
    fn put(&mut self, arguments: std::fmt::Arguments<'_>) {
        let _ = self.out.write_fmt(arguments);
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        self.out.push('"');
        escape(value, self.out);
        self.out.push_str("\",");
    }

    fn text_joined(&mut self, name: &str, first: &str, second: &str) {
        self.name(name);
        self.out.push('"');
        escape(first, self.out);
        self.out.push(',');
        escape(second, self.out);
        self.out.push_str("\",");
    }

    fn null(&mut self, name: &str) {
        self.name(name);
        self.out.push_str("null,");
    }

    fn optional(&mut self, name: &str, value: Option<&str>) {
        match value {
            Some(value) => self.text(name, value),
            None => self.null(name),
        }
    }

    fn digits(&mut self, name: &str, value: u64) {
        self.name(name);
        self.put(format_args!("\"{value}\","));
    }

    fn optional_digits(&mut self, name: &str, value: Option<u64>) {
        match value {
            Some(value) => self.digits(name, value),
            None => self.null(name),
        }
    }

    fn number(&mut self, name: &str, value: i64) {
        self.name(name);
        self.put(format_args!("{value},"));
    }

    fn instant(&mut self, name_utc: &str, name_local: &str, instant: Option<i64>) {
        self.number(name_utc, instant.unwrap_or(0));
        self.name(name_local);
        match instant.and_then(DateTime::from_timestamp_millis) {
            Some(instant) => {
                let local = self.zone.from_utc_datetime(&instant.naive_utc());
                let offset = local.offset().fix().local_minus_utc() / 60;
                let sign = if offset < 0 { '-' } else { '+' };
                let minutes = offset.abs();
                self.put(format_args!(
                    "\"{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}{sign}{:02}{:02}\",",
                    local.year(),
                    local.month(),
                    local.day(),
                    local.hour(),
                    local.minute(),
                    local.second(),
                    instant.timestamp_subsec_millis(),
                    minutes / 60,
                    minutes % 60,
                ));
            }
            None => self.out.push_str("\"0\","),
        }
    }

    fn duration(&mut self, name_ms: &str, name_text: &str, millis: i64) {
        self.number(name_ms, millis);
        self.name(name_text);
        let seconds = millis / 1_000;
        let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
        self.put(format_args!("\"{hours:02}:{minutes:02}:{:02}\",", seconds % 60));
    }

    fn list(&mut self, name: &str, places: &Places) {
        match places {
            Places::Absent => {}
            Places::Null => self.null(name),
            Places::Listed(values) => {
                self.name(name);
                self.out.push('[');
                for (index, value) in values.iter().enumerate() {
                    self.out.push_str(if index == 0 { "\"" } else { ",\"" });
                    escape(value, self.out);
                    self.out.push('"');
                }
                self.out.push_str("],");
            }
        }
    }
}

/// Appends `text` as the inside of a JSON string.
fn escape(text: &str, out: &mut String) {
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{0}'..='\u{1f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(character));
            }
            _ => out.push(character),
        }
    }
}
