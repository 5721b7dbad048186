//! The environment as a layer: `CALL_LEGS_SOURCE__PAGE_SIZE` is `source.page_size`.
//!
//! Only names with `__` after the prefix count. Others that begin with the prefix belong to somebody
//! else: Kubernetes gives every pod `CALL_LEGS_SERVICE_HOST` and the like for a Service of that name.
//! Values stay texts, whatever they look like; the key's rule decides what they mean, so that the
//! password `0123` keeps its zero.

use std::ffi::OsString;

use figment::value::Value;

use super::layer::Layer;

/// What the names of our variables begin with.
pub const ENV_PREFIX: &str = "CALL_LEGS_";

/// What stands between the parts of a key in a variable's name.
const SEPARATOR: &str = "__";

/// The settings among `variables`.
pub(super) fn layer<N, V>(variables: impl IntoIterator<Item = (N, V)>) -> Layer
where
    N: Into<OsString>,
    V: Into<OsString>,
{
    let mut layer = Layer::default();
    for (name, value) in variables {
        let name = name.into();
        let shown = name.to_string_lossy().into_owned();
        let Some(rest) = shown.strip_prefix(ENV_PREFIX).filter(|rest| rest.contains(SEPARATOR)) else {
            continue;
        };
        if name.to_str().is_none() {
            layer.problem(format!("the name of the variable {shown} is not UTF-8 text"));
            continue;
        }
        let key = rest.split(SEPARATOR).map(str::to_ascii_lowercase).collect::<Vec<_>>().join(".");
        match value.into().into_string() {
            Ok(value) => layer.insert(key, Value::from(value), shown),
            Err(_) => layer.problem(format!("{key} (from {shown}) is not UTF-8 text")),
        }
    }
    layer
}

/// The variable that sets `key`.
pub(super) fn variable(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.replace('.', SEPARATOR).to_ascii_uppercase())
}
