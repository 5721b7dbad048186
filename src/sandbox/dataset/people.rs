//! Who calls and who is called: invented names, numbers and places, the same for the same dice.
//!
//! Everything is visibly fictional: numbers begin with +1555, addresses are from the range kept
//! for documentation, and the texts that break careless software (accents, quotes, backslashes)
//! are in on purpose.

use crate::sandbox::dice::{Dice, mix};

const FIRST_NAMES: [&str; 20] = [
    "Alma", "Bruno", "Carla", "Dmitri", "Elif", "Farid", "Greta", "Hana", "Ivo", "Jean-Luc", "Kofi", "Lina", "Marek",
    "Nadia", "Oskar", "Priya", "Quinn", "Rosa", "Sören", "Tove",
];

const LAST_NAMES: [&str; 16] = [
    "Sample",
    "Example",
    "Mockford",
    "Testerly",
    "Placeholder",
    "Fictionson",
    "O'Example",
    "Dummont",
    "Müstermann",
    "Fauxworth",
    "Demosthene",
    "Specimen",
    "Żmyślona",
    "Invention",
    "架空",
    "N. \"Bo\" Body",
];

const DEPARTMENTS: [&str; 8] =
    ["Sales", "Sales Engineering", "Support", "Billing", "Operations", "East Office", "Field\\Service", "R&D"];

const BRANCHES: [&str; 4] = ["Central", "East Coast", "West Coast", "Zürich"];

const DEVICES: [&str; 3] = ["Poly VVX 450", "Yealink T54W", "8x8 Work Desktop"];

/// Extensions of a PBX; each belongs to one person.
const EXTENSIONS: u64 = 200;

/// A party of a leg.
#[derive(Clone, Debug)]
pub(super) struct Party {
    /// The number, extension or label.
    pub(super) text: String,
    pub(super) name: String,
}

fn full_name(dice: &mut Dice) -> String {
    format!("{} {}", dice.pick(&FIRST_NAMES), dice.pick(&LAST_NAMES))
}

/// Somebody outside.
pub(super) fn outsider(dice: &mut Dice) -> Party {
    let number = format!("+1555{:07}", dice.below(10_000_000));
    match dice.below(20) {
        0 => Party { text: "Anonymous".to_owned(), name: "Anonymous".to_owned() },
        1 => Party { text: String::new(), name: ".".to_owned() },
        2..6 => Party { name: number.trim_start_matches('+').to_owned(), text: number },
        6..8 => Party { text: number, name: String::new() },
        _ => Party { text: number, name: full_name(dice) },
    }
}

/// One of the PBX's own people.
pub(super) fn colleague(seed: u64, pbx: u16, dice: &mut Dice) -> Party {
    let extension = 120_000 + u64::from(pbx) * 1_000 + dice.below(EXTENSIONS);
    Party { text: extension.to_string(), name: full_name(&mut Dice::of(&[seed, extension])) }
}

/// The name and extension of a service such as a queue.
pub(super) fn service(kind: &str, pbx: u16, dice: &mut Dice) -> (Party, u64) {
    let extension = 100 + u64::from(pbx) * 20 + dice.below(6);
    let label = format!("{kind} ({extension})");
    (Party { name: format!("{} {kind}", dice.pick(&DEPARTMENTS)), text: label }, extension)
}

/// A number by which the PBX is called, without a plus.
pub(super) fn dialled(pbx: u16, dice: &mut Dice) -> String {
    format!("1555{:03}{:04}", pbx % 1_000, 100 + dice.below(20))
}

/// A SIP Call-ID.
pub(super) fn sip_call_id(dice: &mut Dice) -> String {
    let address = 1 + dice.below(254);
    format!("{}_{}@192.0.2.{address}", dice.below(1_000_000_000), dice.below(1_000_000_000))
}

pub(super) fn device(dice: &mut Dice) -> &'static str {
    if dice.below(3) == 0 { dice.pick(&DEVICES) } else { "" }
}

/// Where a party belongs, or nothing at all, which is not the same as an empty list.
pub(super) enum Places {
    Absent,
    Null,
    Listed(Vec<&'static str>),
}

fn places(dice: &mut Dice, names: &[&'static str]) -> Places {
    match dice.below(50) {
        0 => Places::Absent,
        1..4 => Places::Null,
        4..7 => Places::Listed(Vec::new()),
        7..12 => Places::Listed(vec![dice.pick(names), dice.pick(names)]),
        _ => Places::Listed(vec![dice.pick(names)]),
    }
}

/// The departments and branches of the party with the extension `of`.
pub(super) fn departments_and_branches(seed: u64, of: &str) -> (Places, Places) {
    let number = of.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
    let mut dice = Dice::of(&[mix(&[seed, 0xDE9A]), number]);
    (places(&mut dice, &DEPARTMENTS), places(&mut dice, &BRANCHES))
}
