//! Pages that lie: what a fault makes of a good answer's rows and of what it says of them.

use chrono::{DateTime, FixedOffset};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use url::form_urlencoded;

use super::api::{Api, Request, Response};
use super::dice::Dice;
use crate::core::time::UtcMillis;

/// An answer with rows.
#[derive(Deserialize)]
pub(super) struct Page<'a> {
    #[serde(borrow)]
    pub(super) meta: Meta<'a>,
    #[serde(borrow)]
    pub(super) data: Vec<&'a RawValue>,
}

/// What it says of them.
#[derive(Deserialize)]
pub(super) struct Meta<'a> {
    #[serde(rename = "totalRecordCount")]
    pub(super) total: u64,
    #[serde(borrow, rename = "scrollId")]
    pub(super) scroll_id: &'a str,
}

impl Page<'_> {
    fn response(&self) -> Response {
        let rows: Vec<&str> = self.data.iter().map(|row| row.get()).collect();
        let meta = json!({"totalRecordCount": self.meta.total, "scrollId": self.meta.scroll_id});
        Response::json(200, format!("{{\"meta\":{meta},\"data\":[{}]}}", rows.join(",")))
    }
}

/// The page without some of its rows, and with the total and the cursor of the whole one.
pub(super) fn shortened(dice: &mut Dice, response: &Response) -> Option<Response> {
    let mut page: Page<'_> = serde_json::from_str(response.text()).ok()?;
    let count = page.data.len() as u64;
    if count == 0 {
        return None;
    }
    let first = dice.below(count);
    let last = first + 1 + dice.below((count - first).min(10));
    let bounds = usize::try_from(first).ok()?..usize::try_from(last.min(count)).ok()?;
    page.data.drain(bounds);
    Some(page.response())
}

/// The page of a period without any row.
pub(super) fn blanked(response: &Response) -> Option<Response> {
    let mut page: Page<'_> = serde_json::from_str(response.text()).ok()?;
    (page.meta.total, page.meta.scroll_id) = (0, "No Data");
    page.data.clear();
    Some(page.response())
}

/// The page with the cursor that it was asked with; on the first page there is none to repeat.
pub(super) fn looped(request: &Request, response: &Response) -> Option<Response> {
    let mut page: Page<'_> = serde_json::from_str(response.text()).ok()?;
    let mut parameters = form_urlencoded::parse(request.query.as_bytes());
    let (_, asked) = parameters.find(|(name, _)| name == "scrollId")?;
    page.meta.scroll_id = &asked;
    Some(page.response())
}

/// The page with the next page's first row in place of its own last; none where there is no next page.
pub(super) fn drifted(api: &Api, now: UtcMillis, request: &Request) -> Option<Response> {
    let response = api.answer(now, request);
    let mut page: Page<'_> = serde_json::from_str(response.text()).ok()?;
    let asked = form_urlencoded::parse(request.query.as_bytes()).filter(|(name, _)| name != "scrollId");
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(asked)
        .append_pair("scrollId", page.meta.scroll_id)
        .finish();
    let next = api.answer(now, &Request { query, ..request.clone() });
    let next: Page<'_> = serde_json::from_str(next.text()).ok()?;
    *page.data.last_mut()? = next.data.first()?;
    Some(page.response())
}

/// The fields that repeat an instant in the zone that was asked for.
pub(super) const ZONED_TEXTS: [&str; 3] = ["startTime", "connectTime", "disconnectedTime"];

/// How these texts are written.
pub(super) const ZONED_FORMAT: &str = "%Y-%m-%dT%H:%M:%S%.3f%z";

/// The page with its texts an hour further east; one without a row has none.
pub(super) fn moved(response: &Response) -> Option<Response> {
    let mut page: Page<'_> = serde_json::from_str(response.text()).ok()?;
    let rows: Option<Vec<Box<RawValue>>> = page.data.iter().map(|row| moved_row(row.get())).collect();
    let rows = rows.filter(|rows| !rows.is_empty())?;
    page.data = rows.iter().map(AsRef::as_ref).collect();
    Some(page.response())
}

fn moved_row(row: &str) -> Option<Box<RawValue>> {
    let mut row: serde_json::Value = serde_json::from_str(row).ok()?;
    for name in ZONED_TEXTS {
        let text = row.get(name).and_then(|text| DateTime::parse_from_str(text.as_str()?, ZONED_FORMAT).ok());
        let Some(text) = text else { continue };
        let east = FixedOffset::east_opt(text.offset().local_minus_utc() + 3_600)?;
        row[name] = text.with_timezone(&east).format(ZONED_FORMAT).to_string().into();
    }
    serde_json::value::to_raw_value(&row).ok()
}
