//! `[privacy]`: what becomes of personal values, with whose key.

use std::collections::BTreeMap;

use secrecy::ExposeSecret;

use super::ConfigError;
use super::reader::Reader;
use super::secret::Secret;
use crate::core::leg::FIELDS;
use crate::core::privacy::{KEY_BYTES_MIN, Privacy, Target, Treatment};

const DROP: &str = "privacy.drop";
const HASH: &str = "privacy.hash";
const MASK: &str = "privacy.mask";
const KEY: &str = "privacy.key";

/// As long as any number or name that is worth masking.
const SHOWN_MAX: usize = 64;

/// `[privacy]`: what becomes of personal values before anything of a row is written.
#[derive(Clone, Debug)]
pub struct PrivacyRules {
    /// What is treated how, each once; where there is nothing, there is no policy.
    pub rules: Vec<(Target, Treatment)>,
    /// The key of all hashes; there is one where there are rules.
    pub key: Option<Secret>,
}

impl PrivacyRules {
    /// The policy, with its key as it is now.
    ///
    /// Reads the file, where the key is in one; the call blocks as long as that takes.
    ///
    /// # Errors
    /// When the key cannot be read, or is shorter than [`KEY_BYTES_MIN`].
    pub fn policy(&self) -> Result<Privacy, ConfigError> {
        let Some(key) = self.key.as_ref().filter(|_| !self.rules.is_empty()) else { return Ok(Privacy::default()) };
        let secret = key.read()?;
        let bytes = secret.expose_secret().as_bytes();
        if bytes.len() < KEY_BYTES_MIN {
            return Err(key.refused(&format!(
                "is shorter than {KEY_BYTES_MIN} bytes, so that others could try all keys: make one with openssl rand -hex 32"
            )));
        }
        Ok(Privacy::new(&self.rules, bytes))
    }
}

/// Reads the section.
pub(super) fn privacy(r: &mut Reader) -> Option<PrivacyRules> {
    let drop = names(r, DROP);
    let hash = names(r, HASH);
    let mask = mask(r);
    let key = r.secret(KEY);
    let (drop, hash, mask, key) = (drop?, hash?, mask?, key?);
    let named = [(DROP, drop, Treatment::Drop), (HASH, hash, Treatment::Hash)];
    let given =
        named.into_iter().flat_map(|(key, names, treatment)| names.into_iter().map(move |at| (key, at, treatment)));
    let mut rules: BTreeMap<Target, (&str, Treatment)> = BTreeMap::new();
    let mut is_right = true;
    for (key, target, treatment) in
        given.chain(mask.into_iter().map(|(target, shown)| (MASK, target, Treatment::Mask(shown))))
    {
        let name = target.name();
        let at = if key == MASK { format!("{MASK}.{name}") } else { key.to_owned() };
        if let Some(reason) = target.refusal(treatment) {
            r.problem(&at, &format!("names {name}, which {reason}"));
            is_right = false;
        } else if let Some((other, _)) = rules.insert(target, (key, treatment)) {
            let also = if other == key { "twice".to_owned() } else { format!("as {other} does: a field has one rule") };
            r.problem(&at, &format!("names {name} {also}"));
            is_right = false;
        }
    }
    if key.is_none()
        && let Some((first, _)) = rules.values().next()
    {
        r.problem(
            KEY,
            &format!("or {KEY}_file is required with {first}: values, contents and dead rows are hashed with it, so that nobody finds them by trying"),
        );
        is_right = false;
    }
    if key.is_some() && rules.is_empty() && is_right {
        r.warning(KEY, "is not used: privacy.drop, privacy.hash and privacy.mask name no field");
    }
    let rules = rules.into_iter().map(|(target, (_, treatment))| (target, treatment)).collect();
    is_right.then_some(PrivacyRules { rules, key })
}

/// The fields that a list names.
fn names(r: &mut Reader, key: &'static str) -> Option<Vec<Target>> {
    let names = r.texts(key, &[], "be a list of field names such as [\"caller\", \"callee\"]", |_| true)?;
    if names.is_empty() {
        r.show(key, "none".to_owned());
    }
    let mut targets = Vec::with_capacity(names.len());
    for (at, name) in names.iter().enumerate() {
        match Target::named(name) {
            Some(target) => targets.push(target),
            // The name itself is not shown: it may be anything that was put here by mistake.
            None => r.problem(key, &format!("has as item {} {}", at + 1, unknown(name))),
        }
    }
    (targets.len() == names.len()).then_some(targets)
}

/// How many characters are shown of which fields.
fn mask(r: &mut Reader) -> Option<Vec<(Target, usize)>> {
    let shown = |text: &str| text.parse().ok().filter(|shown| (1..=SHOWN_MAX).contains(shown));
    let refusal = |name: &str, text: &str| match (Target::named(name), shown(text)) {
        (None, _) => Some(format!("is {}", unknown(name))),
        (_, None) => {
            Some(format!("must be a whole number between 1 and {SHOWN_MAX}: how many characters at the end are shown"))
        }
        _ => None,
    };
    let given = r.map(MASK, refusal, |_| false)?;
    Some(given.iter().filter_map(|(name, text)| Target::named(name).zip(shown(text))).collect())
}

/// That there is no such field, and which one is probably meant.
fn unknown(name: &str) -> String {
    const ALIKE_ENOUGH: f64 = 0.6;
    let name = name.to_lowercase();
    let known = FIELDS.iter().map(|field| field.name).chain(["extra"]);
    let likeness = |known: &str| strsim::normalized_damerau_levenshtein(&name, &known.to_lowercase());
    let alike = known.map(|known| (likeness(known), known)).filter(|(likeness, _)| *likeness >= ALIKE_ENOUGH);
    let nearest = alike.max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, known)| known);
    let question = nearest.map(|nearest| format!("; did you mean {nearest}?")).unwrap_or_default();
    format!("no field of a leg, nor extra{question}")
}
