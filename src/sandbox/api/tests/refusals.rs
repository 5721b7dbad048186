//! What is refused, and with which words.

use super::*;

#[test]
fn parameters_are_checked() {
    let api = api(10);
    let many = vec!["100"; 126].join(",");
    for (name, value) in [
        ("pbxId", ""),
        ("startTime", ""),
        ("endTime", ""),
        ("timeZone", ""),
        ("timeZone", "Mars/Olympus"),
        ("startTime", "2025-10-09T00:00:00"),
        ("startTime", "2025-10-09 0:00:00"),
        ("startTime", "2025-02-30 00:00:00"),
        ("startTime", "2025-10-09 00:00:00.000"),
        ("endTime", "2025-10-08 23:59:59"),
        ("pageSize", "0"),
        ("pageSize", "7001"),
        ("pageSize", "many"),
        ("isConnectTime", "yes"),
        ("isSimplified", "1"),
        ("callee", many.as_str()),
    ] {
        let answer = ask(&api, NOW, &[(name, value)]);
        assert_eq!(answer.status, 400, "{name}={value}");
        let body: Value = serde_json::from_str(answer.text()).expect("JSON");
        assert!(body["message"].as_str().expect("a text").contains(name), "{body}");
    }
    let both = [("caller", "1"), ("callerOrCallee", "2")];
    assert_eq!(ask(&api, NOW, &both).status, 400);
    assert_eq!(page(&ask(&api, NOW, &[("pageSize", "7000")])).rows.len(), 10);
}

#[test]
fn refusals_have_the_documented_shapes() {
    let denied = vec![("acme-west".to_owned(), Denial::NoAccess), ("acme-labs".to_owned(), Denial::NoCategory)];
    let api = api_with(settings(100), Rules { denied, ..Rules::default() });
    let stranger = |change: &dyn Fn(&mut Credentials)| {
        let mut credentials = Credentials::default();
        change(&mut credentials);
        api.answer(NOW, &Request::token(&credentials))
    };
    let body = |answer: &Response| -> Value { serde_json::from_str(answer.text()).expect("JSON") };

    let key = stranger(&|credentials| credentials.api_key = "wrong".to_owned());
    assert_eq!((key.status, body(&key)["code"].as_str()), (400, Some("SHA001")));
    assert_eq!(body(&key)["details"][0]["path"][0], "8x8-apikey");
    for user in [
        stranger(&|credentials| credentials.password = "wrong".to_owned()),
        stranger(&|credentials| credentials.username = "wrong".to_owned()),
    ] {
        let expected = r#"{"error_description":"USER_NOTFOUND_ERROR","error":"invalid_grant"}"#;
        assert_eq!((user.status, user.text()), (400, expected));
    }

    let west = ask(&api, NOW, &[("pbxId", "acme-east,acme-west")]);
    assert_eq!((west.status, body(&west)["error"].as_str()), (403, Some("Access Denied")));
    assert_eq!(body(&west)["timeStamp"], "2025-10-09T08:53:20.000+0000");
    let expected = "user(sandbox@example.com) does not have access to pbxId(acme-west) to make this \
                    request.";
    assert_eq!(body(&west)["exception"], expected);
    assert_eq!(ask(&api, NOW, &[("pbxId", "nowhere")]).status, 403);
    let labs = ask(&api, NOW, &[("pbxId", "acme-labs")]);
    assert_eq!((labs.status, body(&labs)["code"].as_str()), (400, Some("105-400-038")));
    let all = read_all(&api, NOW, &[]);
    assert!(!all.is_empty() && all.iter().all(|row| row["pbxId"] == "acme-east"));

    for wrong in ["", "nonsense"] {
        let answer = ask_with(&api, NOW, wrong, &[]);
        assert_eq!((answer.status, body(&answer)["error"].as_str()), (401, Some("invalid_token")));
    }
    let mut request = Request::report(api.credentials(), "", &[]);
    request.headers.retain(|(name, _)| name != "Authorization");
    assert_eq!(api.answer(NOW, &request).status, 401);
    request.headers.clear();
    assert_eq!(api.answer(NOW, &request).status, 400);
    assert_eq!(api.answer(NOW, &Request::default()).status, 404);
}

#[test]
fn both_base_paths_are_served() {
    let api = api(1);
    let mut request = Request::token(api.credentials());
    request.path.insert_str(0, "/analytics/work");
    assert_eq!(api.answer(NOW, &request).status, 200);
    request.method = "GET".to_owned();
    assert_eq!(api.answer(NOW, &request).status, 405);
}

#[test]
fn tokens_expire_and_cursors_survive_renewal_unless_told_otherwise() {
    let later = NOW.plus(Duration::from_mins(29));
    let gone = NOW.plus(Duration::from_mins(30));
    for survives in [true, false] {
        let rules = Rules { cursor_survives_renewal: survives, ..Rules::default() };
        let api = api_with(settings(10), rules);
        let (old, new) = (token(&api, NOW), token(&api, later));
        let cursor = page(&ask_with(&api, NOW, &old, &[("pageSize", "3")])).cursor;
        let next = |token: &str, now| ask_with(&api, now, token, &[("pageSize", "3"), ("scrollId", &cursor)]).status;
        assert_eq!(next(&old, later), 200);
        assert_eq!(next(&old, gone), 401);
        assert_eq!(next(&new, gone), if survives { 200 } else { 400 });
    }
}
