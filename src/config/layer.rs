//! A source of settings as figment takes it: values under their full keys, each with its place.
//!
//! Keys are kept flat (`kafka.properties.sasl.username`), so that a quoted and a nested spelling, and
//! the file and the environment, meet under one key. Which keys there are is not known here.

use std::collections::BTreeMap;

use figment::value::{Dict, Map, Value};
use figment::{Error, Figment, Metadata, Profile, Provider};

/// The settings of one source.
#[derive(Clone, Default)]
pub(super) struct Layer {
    values: Dict,
    places: BTreeMap<String, String>,
    problems: Vec<String>,
}

impl Layer {
    /// Takes a setting; a key that is there already is a problem.
    pub(super) fn insert(&mut self, key: String, value: Value, place: String) {
        match self.places.get(&key) {
            Some(first) => self.problem(format!("{key} is given twice: by {first} and by {place}")),
            None => {
                self.places.insert(key.clone(), place);
                self.values.insert(key, value);
            }
        }
    }

    /// Notes what keeps this source from being read as a whole.
    pub(super) fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        let places = self.places.clone();
        Metadata::named("settings")
            .interpolater(move |_: &Profile, key: &[&str]| places.get(&key.join(".")).cloned().unwrap_or_default())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

/// All sources merged: of a key given more than once, the last layer's value.
pub(super) struct Merged {
    figment: Figment,
    values: Dict,
}

impl Merged {
    /// Merges `layers`, the weakest first; the second part is what was wrong with each by itself.
    pub(super) fn new(layers: impl IntoIterator<Item = Layer>) -> (Self, Vec<String>) {
        let mut figment = Figment::new();
        let mut problems = Vec::new();
        for mut layer in layers {
            problems.append(&mut layer.problems);
            figment = figment.merge(layer);
        }
        // Neither provider above fails, so there is no error to carry.
        let values = figment.data().ok().and_then(|mut data| data.remove(&Profile::Default)).unwrap_or_default();
        (Self { figment, values }, problems)
    }

    /// The value of `key`.
    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// The place that `key` was given at: a line of the file, or a variable.
    pub(super) fn place(&self, key: &str) -> Option<String> {
        let metadata = self.figment.get_metadata(self.values.get(key)?.tag())?;
        Some(metadata.interpolate(&Profile::Default, &[key]))
    }

    /// Every key that was given, sorted.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }
}
