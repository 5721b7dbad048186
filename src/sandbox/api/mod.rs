//! The simulated API itself: a pure function from an instant and a request to an answer.
//!
//! ```text
//!   POST /v1/oauth/token   key, user, password ─▶ a token that carries its own expiry
//!   GET  /v2/call-legs     key, token, parameters ─▶ filter ─▶ entries after the cursor ─▶ a page
//! ```
//!
//! No I/O, no clock, no state but a memo of results. What the vendor leaves open is a [`Rules`]
//! value, so that a client can be tried with either reading. Faults are not made here.

use std::time::Duration;

use serde_json::json;
use url::form_urlencoded;

use super::dataset::{Dataset, Entry, Reader};
use super::rubbish::{Rubbish, Spoiler};
use crate::core::time::UtcMillis;

mod cursor;
mod http;
mod memo;
mod query;
mod refusal;
#[cfg(test)]
mod tests;
mod token;
mod truth;

use http::API_KEY_HEADER;
pub use http::{Request, Response};
use memo::Memo;
use query::{Judge, Query};
pub(super) use refusal::wrong_token;
pub use truth::{TrueLeg, Version};

/// Where the real API's paths begin; accepted and not needed.
const BASE_PATH: &str = "/analytics/work";

/// What a client has to know to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The value of the header `8x8-apikey`.
    pub api_key: String,
    /// The user.
    pub username: String,
    /// The user's password.
    pub password: String,
}

impl Default for Credentials {
    fn default() -> Self {
        Self {
            api_key: "sandbox-key".to_owned(),
            username: "sandbox@example.com".to_owned(),
            password: "sandbox-password".to_owned(),
        }
    }
}

/// Whether a leg exactly at `startTime` is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartBound {
    /// It is.
    #[default]
    Inclusive,
    /// Only later ones are.
    Exclusive,
}

/// Whether a leg exactly at `endTime` is found, or in the second that begins there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndBound {
    /// Only earlier ones are.
    Exclusive,
    /// `10:00:00` includes 10:00:00.000 and not 10:00:00.001.
    #[default]
    Inclusive,
    /// `10:00:00` includes everything up to 10:00:00.999.
    WholeSecond,
}

/// Which instant a wall-clock time means that occurs twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RepeatedHour {
    /// The one in daylight saving time.
    #[default]
    Earlier,
    /// The one after the clocks were set back.
    Later,
}

/// How a PBX is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// 403 "Access Denied".
    NoAccess,
    /// 400 with the code 105-400-038: no access to the API's category.
    NoCategory,
}

/// How the API behaves where the vendor's documents are silent, and whom it refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The start of the window.
    pub start: StartBound,
    /// The end of the window.
    pub end: EndBound,
    /// What the bounds mean while clocks are set back.
    pub repeated_hour: RepeatedHour,
    /// Whether legs that last are shown, found by their start time, as `In Progress` and without a
    /// disconnect time. A leg that becomes visible late is shown so until then. Recorded legs are
    /// shown as they are, whatever is said here.
    pub unfinished: bool,
    /// Whether a cursor may be used with another token than the one it was issued to.
    pub cursor_survives_renewal: bool,
    /// Whether nothing older than two years is found.
    pub two_year_limit: bool,
    /// PBXs that exist and that the user may not read. A PBX that does not exist is refused with
    /// [`Denial::NoAccess`].
    pub denied: Vec<(String, Denial)>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            start: StartBound::default(),
            end: EndBound::default(),
            repeated_hour: RepeatedHour::default(),
            unfinished: false,
            cursor_survives_renewal: true,
            two_year_limit: true,
            denied: Vec::new(),
        }
    }
}

/// How the API is set up.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiSettings {
    /// Whom it lets in.
    pub credentials: Credentials,
    /// How it reads requests.
    pub rules: Rules,
    /// How long a token is good for.
    pub token_life: Duration,
    /// The share of rows that are rubbish.
    pub garbage_share: f64,
    /// Seals tokens and chooses the rubbish.
    pub seed: u64,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            credentials: Credentials::default(),
            rules: Rules::default(),
            token_life: Duration::from_mins(30),
            garbage_share: 0.0,
            seed: 1,
        }
    }
}

/// The simulated API over a dataset.
#[derive(Debug)]
pub struct Api {
    settings: ApiSettings,
    dataset: Dataset,
    spoiler: Spoiler,
    memo: Memo,
}

impl Api {
    /// An API that serves `dataset`.
    pub fn new(settings: ApiSettings, dataset: Dataset) -> Self {
        let spoiler = Spoiler { seed: settings.seed, share: settings.garbage_share };
        Self { settings, dataset, spoiler, memo: Memo::default() }
    }

    /// Whom it lets in.
    pub fn credentials(&self) -> &Credentials {
        &self.settings.credentials
    }

    /// The PBXs' names.
    pub fn pbxes(&self) -> &[String] {
        self.dataset.pbxes()
    }

    /// The answer to `request` at `now`: the same for the same arguments.
    pub fn answer(&self, now: UtcMillis, request: &Request) -> Response {
        let path = request.path.strip_prefix(BASE_PATH).unwrap_or(&request.path);
        let answer = match (path, request.method.as_str()) {
            ("/v1/oauth/token", "POST") => self.token(now, request),
            ("/v2/call-legs", "GET") => self.report(now, request),
            ("/v1/oauth/token" | "/v2/call-legs", _) => Err(refusal::no_such_call(405, "Method Not Allowed")),
            _ => Err(refusal::no_such_call(404, "Not Found")),
        };
        answer.unwrap_or_else(|refusal| refusal)
    }

    fn check_key(&self, request: &Request) -> Result<(), Response> {
        let key = request.header(API_KEY_HEADER);
        if key == Some(self.settings.credentials.api_key.as_str()) { Ok(()) } else { Err(refusal::wrong_api_key()) }
    }

    fn token(&self, now: UtcMillis, request: &Request) -> Result<Response, Response> {
        self.check_key(request)?;
        let field = |wanted: &str| {
            let mut fields = form_urlencoded::parse(&request.body);
            fields.find(|(name, _)| name == wanted).map(|(_, value)| value)
        };
        let Credentials { username, password, .. } = &self.settings.credentials;
        let is_known = field("username").is_some_and(|given| given == username.as_str())
            && field("password").is_some_and(|given| given == password.as_str());
        if !is_known {
            return Err(refusal::wrong_user());
        }
        let life = self.settings.token_life;
        let token = token::issue(self.settings.seed, now, now.plus(life));
        let body = json!({"access_token": token, "token_type": "bearer", "expires_in": life.as_secs()});
        Ok(Response::value(200, &body))
    }

    /// When the request's token was issued.
    fn check_token(&self, now: UtcMillis, request: &Request) -> Result<i64, Response> {
        let header = request.header("Authorization").unwrap_or_default();
        let Some((scheme, token)) = header.split_once(' ') else {
            let missing = "Full authentication is required to access this resource";
            return Err(wrong_token(missing));
        };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(wrong_token("Cannot convert access token to JSON"));
        }
        token::check(self.settings.seed, token, now).map_err(|bad| match bad {
            token::BadToken::Unreadable => wrong_token("Cannot convert access token to JSON"),
            // With the token in it, as some frameworks have it: it must not reach a log.
            token::BadToken::Expired => wrong_token(&format!("Access token expired: {token}")),
        })
    }

    fn report(&self, now: UtcMillis, request: &Request) -> Result<Response, Response> {
        self.check_key(request)?;
        let issued = self.check_token(now, request)?;
        let judge = Judge {
            rules: &self.settings.rules,
            pbxes: self.dataset.pbxes(),
            user: &self.settings.credentials.username,
            now,
        };
        let query = judge.read(&request.query)?;
        let bound_to = (!self.settings.rules.cursor_survives_renewal).then_some(issued);
        self.page(now.as_millis(), &query, bound_to)
    }

    fn page(&self, now: i64, query: &Query, bound_to: Option<i64>) -> Result<Response, Response> {
        let entries = self.memo.select(&self.dataset, &query.filter, now);
        let mut reader = self.dataset.reader(query.zone);
        let mut first = 0;
        if let Some(text) = &query.cursor {
            let after = cursor::decode(text, bound_to).ok_or_else(|| refusal::wrong_parameter("Invalid scrollId"))?;
            first = entries.partition_point(|entry| !after.is_before(&reader.key(entry)));
        }
        let shown = |entry: &&Entry| entry.is_shown(now);
        let page: Vec<&Entry> = entries[first..].iter().filter(shown).take(query.page_size).collect();
        let (total, scroll_id) = match page.last() {
            Some(last) => {
                let total = entries.iter().filter(shown).count();
                (total, cursor::encode(&reader.key(last), bound_to))
            }
            None => (0, cursor::NO_DATA.to_owned()),
        };
        let mut body = String::with_capacity(128 + page.len() * ROW_BYTES_USUAL);
        body.push_str(&format!("{{\"meta\":{{\"totalRecordCount\":{total},\"scrollId\":\"{scroll_id}\"}},\"data\":["));
        for (index, entry) in page.into_iter().enumerate() {
            if index > 0 {
                body.push(',');
            }
            self.write_row(&mut reader, entry, now, &mut body);
        }
        body.push_str("]}");
        Ok(Response::json(200, body))
    }

    fn write_row(&self, reader: &mut Reader<'_>, entry: &Entry, now: i64, out: &mut String) -> Option<Rubbish> {
        // Most sandboxes have no rubbish, and finding out costs as much as a row.
        let rubbish = if self.spoiler.share > 0.0 {
            let verdict = self.spoiler.verdict(&reader.facts(entry), entry.visible_at);
            verdict.filter(|(_, mended)| mended.is_none_or(|at| now < at)).map(|(kind, _)| kind)
        } else {
            None
        };
        match rubbish {
            Some(kind) => {
                let mut row = String::with_capacity(ROW_BYTES_USUAL);
                reader.write(entry, now, &mut row);
                kind.spoil(&row, out);
            }
            None => reader.write(entry, now, out),
        }
        rubbish
    }

    fn row(&self, reader: &mut Reader<'_>, entry: &Entry, now: i64) -> (String, Option<Rubbish>) {
        let mut row = String::with_capacity(ROW_BYTES_USUAL);
        let rubbish = self.write_row(reader, entry, now, &mut row);
        (row, rubbish)
    }

    /// The legs behind it.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }
}

/// About as long as a row is.
const ROW_BYTES_USUAL: usize = 1_400;
