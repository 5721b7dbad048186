//! The bodies of refusals, in the three shapes that the vendor documents.
//!
//! The codes and messages for wrong parameters are invented, since none are documented; their
//! shape is that of the documented ones.

use serde_json::json;

use super::Denial;
use super::http::Response;
use crate::core::time::UtcMillis;

/// The API key is missing or wrong.
pub(super) fn wrong_api_key() -> Response {
    let hint = "Please provide valid apikey. If you don't have one, please sign up and create a \
                developer account";
    let detail = json!({"type": "invalidValue", "location": "header", "path": ["8x8-apikey"], "hint": hint});
    let body = json!({
        "status": 400,
        "message": "Invalid 8x8-apikey",
        "code": "SHA001",
        "details": [detail],
    });
    Response::value(400, &body)
}

/// The user or the password is wrong.
pub(super) fn wrong_user() -> Response {
    let body = json!({"error_description": "USER_NOTFOUND_ERROR", "error": "invalid_grant"});
    Response::value(400, &body)
}

/// The access token is missing, not one of ours, or expired.
pub(crate) fn wrong_token(description: &str) -> Response {
    let body = json!({"error": "invalid_token", "error_description": description});
    Response::value(401, &body)
}

/// A parameter is missing or wrong.
pub(super) fn wrong_parameter(message: &str) -> Response {
    Response::value(400, &json!({"status": 400, "message": message, "code": "105-400-001"}))
}

/// The user may not read this PBX.
pub(super) fn denied(how: Denial, user: &str, pbx: &str, now: UtcMillis) -> Response {
    match how {
        Denial::NoCategory => {
            let message = format!("user({user}) does not have access to api category(CDR) for pbxId({pbx})");
            let body = json!({"status": 400, "message": message, "code": "105-400-038"});
            Response::value(400, &body)
        }
        Denial::NoAccess => {
            let message = format!("user({user}) does not have access to pbxId({pbx}) to make this request.");
            let time = now.to_datetime().unwrap_or_default();
            let body = json!({
                "timeStamp": time.format("%Y-%m-%dT%H:%M:%S%.3f+0000").to_string(),
                "status": 403,
                "error": "Access Denied",
                "exception": message,
                "message": message,
                "path": "/api/analytics/report/external/v2/call-legs",
            });
            Response::value(403, &body)
        }
    }
}

/// There is no such call, or not by this method.
pub(super) fn no_such_call(status: u16, message: &str) -> Response {
    Response::value(status, &json!({"status": status, "message": message}))
}
