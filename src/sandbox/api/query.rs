//! The report's parameters, checked and turned into a filter with half-open bounds.

use std::borrow::Cow;
use std::collections::HashMap;

use chrono::{LocalResult, Months, NaiveDateTime, Offset, TimeDelta, TimeZone};
use chrono_tz::Tz;
use url::form_urlencoded;

use super::http::Response;
use super::{Denial, EndBound, RepeatedHour, Rules, StartBound, refusal};
use crate::core::time::UtcMillis;
use crate::sandbox::dataset::{Basis, Filter};

/// The most rows on a page.
const PAGE_SIZE_MAX: usize = 7_000;

/// Rows on a page when the request does not say.
const PAGE_SIZE_DEFAULT: usize = 100;

/// The most values of `caller`, `callee` and `callerOrCallee`.
const PARTIES_MAX: usize = 125;

/// The form of `startTime` and `endTime`.
const TIME_FORMAT: &str = "%Y-%m-%d %H:%M:%S";

/// A report request that is in order.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) filter: Filter,
    pub(super) zone: Tz,
    pub(super) page_size: usize,
    pub(super) cursor: Option<String>,
}

/// What the parameters are judged by.
pub(super) struct Judge<'a> {
    pub(super) rules: &'a Rules,
    pub(super) pbxes: &'a [String],
    pub(super) user: &'a str,
    pub(super) now: UtcMillis,
}

struct Parameters<'a>(HashMap<Cow<'a, str>, Cow<'a, str>>);

impl<'a> Parameters<'a> {
    /// The parameters of a query string; the first of several with the same name counts.
    fn parse(query: &'a str) -> Self {
        let mut parameters = HashMap::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            parameters.entry(name).or_insert(value);
        }
        Self(parameters)
    }

    /// The value, if it is there and not empty.
    fn optional(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(Cow::as_ref).filter(|value| !value.is_empty())
    }

    fn required(&self, name: &str) -> Result<&str, Response> {
        self.optional(name).ok_or_else(|| wrong(&format!("{name} is required")))
    }

    fn flag(&self, name: &str) -> Result<bool, Response> {
        match self.optional(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(wrong(&format!("{name} must be true or false"))),
        }
    }

    fn list(&self, name: &str) -> Result<Vec<String>, Response> {
        let Some(values) = self.optional(name) else { return Ok(Vec::new()) };
        let values: Vec<String> = values.split(',').map(str::to_owned).collect();
        if values.len() > PARTIES_MAX {
            return Err(wrong(&format!("{name} takes at most {PARTIES_MAX} values")));
        }
        Ok(values)
    }

    fn page_size(&self) -> Result<usize, Response> {
        let Some(text) = self.optional("pageSize") else { return Ok(PAGE_SIZE_DEFAULT) };
        let size = text.parse().ok().filter(|size| (1..=PAGE_SIZE_MAX).contains(size));
        size.ok_or_else(|| wrong(&format!("pageSize must be between 1 and {PAGE_SIZE_MAX}")))
    }
}

fn wrong(message: &str) -> Response {
    refusal::wrong_parameter(message)
}

impl Judge<'_> {
    /// Reads a query string, or says what is wrong with it.
    pub(super) fn read(&self, query: &str) -> Result<Query, Response> {
        let parameters = Parameters::parse(query);
        let pbx_id = parameters.required("pbxId")?;
        let zone = parameters.required("timeZone")?;
        let zone: Tz = zone.parse().map_err(|_| wrong("timeZone is no IANA time zone"))?;
        let bound = |name: &str| {
            let local = parse_local(parameters.required(name)?)
                .ok_or_else(|| wrong(&format!("{name} must look like YYYY-MM-DD HH:MM:SS")))?;
            self.resolve(zone, local).ok_or_else(|| wrong(&format!("{name} is out of range")))
        };
        let (start, end) = (bound("startTime")?, bound("endTime")?);
        if end < start {
            return Err(wrong("endTime is before startTime"));
        }
        let by_connect = parameters.flag("isConnectTime")?;
        let either = parameters.list("callerOrCallee")?;
        let (caller, callee) = (parameters.list("caller")?, parameters.list("callee")?);
        let has_sides = !caller.is_empty() || !callee.is_empty();
        if has_sides && !either.is_empty() {
            return Err(wrong("callerOrCallee is not allowed with caller or callee"));
        }
        let page_size = parameters.page_size()?;
        let simplified = parameters.flag("isSimplified")?;
        let filter = Filter {
            basis: if by_connect { Basis::Connect } else { Basis::Disconnect },
            start: self.first_inside(start),
            end: match self.rules.end {
                EndBound::Exclusive => end,
                EndBound::Inclusive => end + 1,
                EndBound::WholeSecond => end + 1_000,
            },
            pbxes: self.pbxes(pbx_id)?,
            simplified,
            unfinished: self.rules.unfinished,
            caller,
            callee,
            either,
        };
        let cursor = parameters.optional("scrollId").map(str::to_owned);
        Ok(Query { filter, zone, page_size, cursor })
    }

    /// The first instant that a query from `start` on may find.
    fn first_inside(&self, start: i64) -> i64 {
        let start = match self.rules.start {
            StartBound::Inclusive => start,
            StartBound::Exclusive => start + 1,
        };
        if !self.rules.two_year_limit {
            return start;
        }
        // Cut by the minute, so that pages of one query do not each count as another one.
        let minute = self.now.as_millis().div_euclid(60_000) * 60_000;
        let limit = UtcMillis::new(minute)
            .to_datetime()
            .and_then(|now| now.checked_sub_months(Months::new(24)))
            .map_or(i64::MIN, |limit| limit.timestamp_millis());
        start.max(limit)
    }

    /// The instant that a wall clock in `zone` shows `local` at.
    fn resolve(&self, zone: Tz, local: NaiveDateTime) -> Option<i64> {
        let found = match zone.from_local_datetime(&local) {
            LocalResult::Single(instant) => instant,
            LocalResult::Ambiguous(earlier, later) => match self.rules.repeated_hour {
                RepeatedHour::Earlier => earlier,
                RepeatedHour::Later => later,
            },
            // The hour that is skipped in spring: as if the clocks had not been moved yet.
            LocalResult::None => {
                let before = local.checked_sub_signed(TimeDelta::days(1))?;
                let offset = zone.from_local_datetime(&before).latest()?.offset().fix();
                let seconds = i64::from(offset.local_minus_utc());
                let utc = local.checked_sub_signed(TimeDelta::seconds(seconds))?;
                zone.from_utc_datetime(&utc)
            }
        };
        Some(found.timestamp_millis())
    }

    /// The positions of the PBXs that `pbxId` names. `allpbxes` leaves out what the user may not
    /// read; a list that names such a PBX is refused as a whole.
    fn pbxes(&self, pbx_id: &str) -> Result<Vec<u16>, Response> {
        let denial = |name: &str| {
            let denied = self.rules.denied.iter().find(|(pbx, _)| pbx == name);
            denied.map(|(_, how)| *how)
        };
        let position = |name: &str| {
            let position = self.pbxes.iter().position(|known| known == name);
            position.and_then(|position| u16::try_from(position).ok())
        };
        if pbx_id == "allpbxes" {
            let allowed = self.pbxes.iter().filter(|name| denial(name).is_none());
            return Ok(allowed.filter_map(|name| position(name)).collect());
        }
        let places = pbx_id.split(',').map(|name| {
            let refuse = |how| refusal::denied(how, self.user, name, self.now);
            match (denial(name), position(name)) {
                (Some(how), _) => Err(refuse(how)),
                (None, Some(position)) => Ok(position),
                (None, None) => Err(refuse(Denial::NoAccess)),
            }
        });
        places.collect()
    }
}

/// Reads `YYYY-MM-DD HH:MM:SS`, and nothing that only resembles it.
fn parse_local(text: &str) -> Option<NaiveDateTime> {
    let local = NaiveDateTime::parse_from_str(text, TIME_FORMAT).ok()?;
    (local.format(TIME_FORMAT).to_string() == text).then_some(local)
}
