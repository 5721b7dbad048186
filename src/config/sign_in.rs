//! Keys by which the connector signs in to Kafka and to the schema registry, and what they demand of each other.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::guarantee::{MECHANISM, OAUTHBEARER};
use super::reader::Reader;
use super::rule;
use super::section::{Credentials, OAuth, OAuthKeys, SignIn};

/// The keys of `[kafka.oauth]`.
pub(super) const KAFKA_OAUTH: OAuthKeys = OAuthKeys {
    token_url: "kafka.oauth.token_url",
    client_id: "kafka.oauth.client_id",
    client_secret: "kafka.oauth.client_secret",
    scope: "kafka.oauth.scope",
    ca_file: "kafka.oauth.ca_file",
};

/// The keys of `[avro.oauth]`.
const AVRO_OAUTH: OAuthKeys = OAuthKeys {
    token_url: "avro.oauth.token_url",
    client_id: "avro.oauth.client_id",
    client_secret: "avro.oauth.client_secret",
    scope: "avro.oauth.scope",
    ca_file: "avro.oauth.ca_file",
};

/// How the schema registry is signed in to: by one of three ways, or not.
pub(super) fn registry(r: &mut Reader) -> Option<Option<SignIn>> {
    const USERNAME: &str = "avro.schema_registry_username";
    const PASSWORD: &str = "avro.schema_registry_password";
    const TOKEN: &str = "avro.schema_registry_token";
    let username = r.optional(USERNAME, rule::text());
    let password = r.secret(PASSWORD);
    let token = r.secret(TOKEN);
    let oauth = oauth(r, &AVRO_OAUTH);
    let credentials = match (username?, password?) {
        (Some(username), Some(password)) => Some(Credentials { username, password }),
        (None, None) => None,
        (Some(_), None) => {
            r.problem(USERNAME, &format!("needs {PASSWORD} or _file beside it"));
            return None;
        }
        (None, Some(_)) => {
            r.problem(PASSWORD, &format!("needs {USERNAME} beside it"));
            return None;
        }
    };
    let ways = [
        credentials.map(|credentials| (USERNAME, SignIn::Basic(credentials))),
        token?.map(|token| (TOKEN, SignIn::Token(token))),
        oauth?.map(|oauth| (AVRO_OAUTH.token_url, SignIn::OAuth(oauth))),
    ];
    let mut ways = ways.into_iter().flatten();
    let (first, second) = (ways.next(), ways.next());
    if let (Some((key, _)), Some((other, _))) = (&first, &second) {
        r.problem(key, &format!("and {other} are both given: keep one way to sign in to the schema registry"));
        return None;
    }
    Some(first.map(|(_, way)| way))
}

/// The client certificate for the schema registry, and its key.
pub(super) fn identity(r: &mut Reader) -> Option<Option<(PathBuf, PathBuf)>> {
    const CERTIFICATE: &str = "avro.schema_registry_certificate_file";
    const KEY: &str = "avro.schema_registry_key_file";
    let certificate = r.optional(CERTIFICATE, rule::path());
    let key = r.optional(KEY, rule::path());
    match (certificate?, key?) {
        (Some(certificate), Some(key)) => Some(Some((certificate, key))),
        (None, None) => Some(None),
        (Some(_), None) => {
            r.problem(CERTIFICATE, &format!("needs {KEY} beside it"));
            None
        }
        (None, Some(_)) => {
            r.problem(KEY, &format!("needs {CERTIFICATE} beside it"));
            None
        }
    }
}

/// A client of a token endpoint; `Some(None)` where none of its keys is given.
pub(super) fn oauth(r: &mut Reader, keys: &'static OAuthKeys) -> Option<Option<OAuth>> {
    let token_url = r.optional(keys.token_url, rule::secret_url());
    let client_id = r.optional(keys.client_id, rule::text());
    let client_secret = r.secret(keys.client_secret);
    let scope = r.optional(keys.scope, rule::text());
    let ca_file = r.optional(keys.ca_file, rule::path());
    let (token_url, client_id, client_secret, scope, ca_file) =
        (token_url?, client_id?, client_secret?, scope?, ca_file?);
    match (token_url, client_id, client_secret) {
        (Some(token_url), Some(client_id), Some(client_secret)) => {
            Some(Some(OAuth { keys, token_url, client_id, client_secret, scope, ca_file }))
        }
        (None, None, None) if scope.is_none() && ca_file.is_none() => Some(None),
        (token_url, client_id, client_secret) => {
            let given = [
                (keys.token_url, token_url.is_some()),
                (keys.client_id, client_id.is_some()),
                (keys.client_secret, client_secret.is_some()),
                (keys.scope, scope.is_some()),
                (keys.ca_file, ca_file.is_some()),
            ];
            let missing: Vec<&str> = given[..3].iter().filter(|(_, given)| !given).map(|(key, _)| *key).collect();
            if let Some((key, _)) = given.iter().find(|(_, given)| *given) {
                r.problem(key, &format!("needs {} beside it", missing.join(" and ")));
            }
            None
        }
    }
}

/// Notes what contradicts itself among the keys of Kafka's sign-in.
pub(super) fn check_kafka(r: &mut Reader, has_password: bool, has_oauth: bool, properties: &BTreeMap<String, String>) {
    let given = |name: &str| properties.get(name).map(String::as_str);
    let mechanism = MECHANISM.iter().find_map(|name| Some((format!("kafka.properties.{name}"), given(name)?)));
    let has_sasl =
        given("security.protocol").is_some_and(|protocol| protocol.to_ascii_lowercase().starts_with("sasl_"));
    if has_password && given("sasl.password").is_some() {
        r.problem("kafka.properties.sasl.password", "and kafka.sasl_password are both given: keep one");
    }
    match mechanism {
        Some((key, OAUTHBEARER)) => {
            if !has_oauth {
                r.problem(&key, "is OAUTHBEARER and needs kafka.oauth.token_url, from where tokens are fetched");
            }
            if !has_sasl {
                r.problem(&key, "is OAUTHBEARER, which needs \"sasl_ssl\" for kafka.properties.security.protocol");
            }
            if has_password {
                r.problem("kafka.sasl_password", "is not for OAUTHBEARER, which kafka.properties names: keep one");
            }
            if given("sasl.password").is_some() {
                r.problem("kafka.properties.sasl.password", "is not for OAUTHBEARER: keep one");
            }
        }
        _ if has_oauth => r.problem(
            KAFKA_OAUTH.token_url,
            "needs \"OAUTHBEARER\" for kafka.properties.sasl.mechanism: only this mechanism takes tokens",
        ),
        None if has_sasl => r.problem(
            "kafka.properties.security.protocol",
            "needs kafka.properties.sasl.mechanism beside it: without it Kafka's clients take Kerberos (GSSAPI), which this build does not have",
        ),
        _ => {}
    }
}

/// Why a SASL extension cannot have this name or value (RFC 7628, 3.1); `None` when it can.
pub(super) fn extension_refusal(name: &str, value: &str) -> Option<String> {
    if name == "auth" || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Some("must have a name of the letters a-z and A-Z, and not \"auth\"".to_owned());
    }
    let is_legal = !value.is_empty() && value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    (!is_legal).then(|| "must be a text of printable ASCII characters, not empty".to_owned())
}
