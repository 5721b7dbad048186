//! The plan of one call: which legs it has, and how they lie in time relative to its start.
//!
//! It knows neither clocks nor people; where a call lies and who speaks is decided elsewhere.

use crate::sandbox::dice::Dice;

/// What a leg is: which party or service it reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A number outside.
    Outside,
    /// An extension, rung directly.
    Extension,
    /// The mailbox of an extension.
    Voicemail,
    /// The menu that answers first.
    AutoAttendant,
    /// A queue in which the caller waits.
    Queue,
    /// A ring group.
    RingGroup,
    /// An agent or member whom a queue or a ring group rings: a call of its own.
    Member,
    /// The fork of a call to an extension's other devices.
    Forking,
    /// The leg to the recorder.
    Recording,
    /// The party to whom a call was transferred: a call of its own.
    Transferred,
}

/// How a leg ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Somebody spoke.
    Answered,
    /// Nobody picked up.
    Missed,
    /// Nobody picked up, the mailbox did.
    ToVoicemail,
    /// The caller gave up.
    Abandoned,
    /// Handed on by a service.
    Redirected,
    /// Answered, then handed on by a person.
    Transferred,
    /// Never got through to an outside number.
    Unreached,
}

/// Which way the call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Incoming,
    Outgoing,
    Internal,
}

/// One leg of the plan; times in milliseconds after the call's start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) role: Role,
    pub(super) fate: Fate,
    /// The hop within its own call; 1 for a child call.
    pub(super) leg: u8,
    pub(super) start: i64,
    pub(super) connect: Option<i64>,
    pub(super) end: i64,
}

impl Part {
    /// Whether the leg is a call of its own, pointing to the first one.
    pub(super) fn is_own_call(self) -> bool {
        matches!(self.role, Role::Member | Role::Transferred)
    }
}

/// The longest a leg can last, in milliseconds: what bounds the search for a leg by its start or
/// connect time when only its end is known.
pub(super) const LEG_MS_MAX: i64 = 60 * 60 * 1000;

/// The most legs that a plan can have.
const PARTS_MAX: usize = 6;

/// Plans a call of at most `room` legs into `parts`, which is emptied first.
pub(super) fn plan(dice: &mut Dice, room: usize, parts: &mut Vec<Part>) -> Direction {
    parts.clear();
    let kind = if room < PARTS_MAX { dice.below(60) } else { dice.below(100) };
    match kind {
        0..30 => outgoing(dice, parts),
        30..50 => direct(dice, parts),
        50..60 => internal(dice, parts),
        60..68 => voicemail(dice, parts),
        68..77 => queue(dice, parts),
        77..87 => ring_group(dice, parts),
        87..92 => forked(dice, parts),
        92..96 => recorded(dice, parts),
        _ => transferred(dice, parts),
    }
}

/// How long people talk: mostly a few minutes, now and then up to 45.
fn talk(dice: &mut Dice) -> i64 {
    if dice.below(10) == 0 { dice.millis(300_000, 2_700_000) } else { dice.millis(2_000, 240_000) }
}

/// How long a telephone rings before somebody or nobody picks up.
fn ringing(dice: &mut Dice) -> i64 {
    dice.millis(40, 20_000)
}

fn part(role: Role, fate: Fate, leg: u8, start: i64, connect: Option<i64>, end: i64) -> Part {
    Part { role, fate, leg, start, connect, end }
}

fn single(dice: &mut Dice, parts: &mut Vec<Part>, role: Role, missed: Fate, missed_share: f64) {
    let rung = ringing(dice);
    parts.push(if dice.chance(missed_share) {
        part(role, missed, 1, 0, None, rung)
    } else {
        part(role, Fate::Answered, 1, 0, Some(rung), rung + talk(dice))
    });
}

fn outgoing(dice: &mut Dice, parts: &mut Vec<Part>) -> Direction {
    single(dice, parts, Role::Outside, Fate::Unreached, 0.2);
    Direction::Outgoing
}

fn direct(dice: &mut Dice, parts: &mut Vec<Part>) -> Direction {
    let missed = if dice.below(2) == 0 { Fate::Missed } else { Fate::Abandoned };
    single(dice, parts, Role::Extension, missed, 0.15);
    Direction::Incoming
}

fn internal(dice: &mut Dice, parts: &mut Vec<Part>) -> Direction {
    single(dice, parts, Role::Extension, Fate::Missed, 0.1);
    Direction::Internal
}

fn voicemail(dice: &mut Dice, parts: &mut Vec<Part>) -> Direction {
    let rung = ringing(dice);
    let end = rung + 40 + dice.millis(3_000, 60_000);
    parts.push(part(Role::Extension, Fate::Missed, 1, 0, None, rung));
    parts.push(part(Role::Voicemail, Fate::ToVoicemail, 2, rung, Some(rung + 40), end));
    Direction::Incoming
}

fn queue(dice: &mut Dice, parts: &mut Vec<Part>) -> Direction {
    let menu = dice.millis(3_000, 15_000);
    parts.push(part(Role::AutoAttendant, Fate::Redirected, 1, 0, Some(35), menu));
    let mut now = menu + dice.millis(0, 90_000);
    let waiting = parts.len();
    parts.push(part(Role::Queue, Fate::Redirected, 2, menu, Some(menu + 20), now));
    // The agents ring one after the other; the caller may have gone before any picks up.
    for _ in 0..1 + dice.below(3) {
        let rung = ringing(dice);
        parts.push(part(Role::Member, Fate::Missed, 1, now, None, now + rung));
        now += rung;
    }
    if dice.below(3) == 0 {
        parts[waiting].fate = Fate::Abandoned;
    } else if let Some(agent) = parts.last_mut() {
        agent.fate = Fate::Answered;
        agent.connect = Some(agent.end);
        now += talk(dice);
        agent.end = now;
    }
    parts[waiting].end = now;
    Direction::Incoming
}

fn ring_group(dice: &mut Dice, parts: &mut Vec<Part>) -> Direction {
    let rung = ringing(dice);
    let end = if dice.below(4) == 0 { rung } else { rung + talk(dice) };
    let answered = end > rung;
    let fate = if answered { Fate::Redirected } else { Fate::Missed };
    parts.push(part(Role::RingGroup, fate, 1, 0, answered.then_some(rung), end));
    // All members ring in the same millisecond, and the losers stop in the same one.
    for member in 0..2 + dice.below(4) {
        parts.push(if answered && member == 0 {
            part(Role::Member, Fate::Answered, 1, 30, Some(rung), end)
        } else {
            part(Role::Member, Fate::Missed, 1, 30, None, rung)
        });
    }
    Direction::Incoming
}

fn forked(dice: &mut Dice, parts: &mut Vec<Part>) -> Direction {
    let rung = ringing(dice);
    let end = rung + talk(dice);
    parts.push(part(Role::Extension, Fate::Answered, 1, 0, Some(rung), end));
    for leg in 2..=2 + u8::from(dice.below(2) == 0) {
        parts.push(part(Role::Forking, Fate::Redirected, leg, 10, None, rung));
    }
    Direction::Incoming
}

fn recorded(dice: &mut Dice, parts: &mut Vec<Part>) -> Direction {
    let rung = ringing(dice);
    let end = rung + talk(dice);
    parts.push(part(Role::Extension, Fate::Answered, 1, 0, Some(rung), end));
    parts.push(part(Role::Recording, Fate::Redirected, 2, rung, Some(rung), end));
    Direction::Incoming
}

fn transferred(dice: &mut Dice, parts: &mut Vec<Part>) -> Direction {
    let rung = ringing(dice);
    let handed = rung + dice.millis(2_000, 120_000);
    let second = handed + ringing(dice);
    let end = second + talk(dice);
    parts.push(part(Role::Extension, Fate::Transferred, 1, 0, Some(rung), handed));
    parts.push(part(Role::Transferred, Fate::Answered, 1, handed, Some(second), end));
    Direction::Incoming
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plan_fits_and_runs_forward() {
        let mut parts = Vec::new();
        let mut dice = Dice::of(&[3]);
        for turn in 0..20_000 {
            let room = 1 + turn % 9;
            plan(&mut dice, room, &mut parts);
            assert!((1..=room.min(PARTS_MAX)).contains(&parts.len()), "{parts:?}");
            for part in &parts {
                let connect = part.connect.unwrap_or(part.start);
                assert!(part.start <= connect && connect <= part.end, "{part:?}");
                assert!(part.end < LEG_MS_MAX, "{part:?}");
            }
        }
    }
}
