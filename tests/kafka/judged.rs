//! An API that shows rubbish for a while, or the same old page: it is not believed, and nothing is lost.

use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use call_legs::sandbox::dataset::DatasetSettings;
use call_legs::sandbox::{Sandbox, Settings};
use hyper::Uri;

use super::front::{Answer, Front, Reports};
use super::rig::{Rig, identities, identity, sandbox_settings};
use super::support::kafka::kafka;

/// Longer than overlap and settle: what is passed over then is lost.
const LASTS: Duration = Duration::from_secs(9);

/// Seven rows, as an API that has lost its mind may send them.
const RUBBISH: [(&str, &str); 5] = [
    ("nulls", "null"),
    ("objects without any known field", r#"{"id":1,"type":"call"}"#),
    ("texts", r#""call leg""#),
    ("nested", "[[[[[[[[[[{}]]]]]]]]]]"),
    ("odd", r#"{"callId":{},"legId":[],"disconnectedTimeUTC":true}"#),
];

/// What is answered instead of the sandbox, at times.
#[derive(Default)]
struct Rubbish {
    answer: Mutex<Option<String>>,
    /// The first page of legs that the sandbox has sent.
    first: Mutex<Option<String>>,
}

impl Rubbish {
    fn set(&self, answer: Option<String>) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    fn first(&self) -> String {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap()
    }
}

impl Reports for Rubbish {
    fn answer(&self, _query: &Uri) -> Option<Answer> {
        Some((200, self.answer.lock().unwrap_or_else(PoisonError::into_inner).clone()?))
    }

    fn note(&self, page: &str) {
        if page.matches("\"callId\"").count() >= 20 {
            self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| page.to_owned());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_the_legs_of_that_time_is_not_believed_and_nothing_is_lost_meanwhile() {
    let dataset =
        DatasetSettings { legs: 300, span: Duration::from_secs(300), rate: 5.0, ..DatasetSettings::default() };
    let sandbox = Sandbox::start(Settings { dataset, ..sandbox_settings(1, Duration::from_secs(300)) }).await.unwrap();
    let rubbish = Arc::new(Rubbish::default());
    let front = Front::start(&sandbox, Arc::clone(&rubbish) as Arc<dyn Reports>).await;
    let pbx = sandbox.api().pbxes()[0].clone();
    let only_it = format!("source.pbx_ids = [{pbx:?}]");
    let settings = [front.setting(), &only_it, "poll.overlap = \"5s\"", "sweeps = []", "poll.start_from = \"now-10m\""];
    let rig = Rig::new(sandbox, kafka().bootstrap(), &settings);
    let _daemon = rig.start();
    rig.until("ten whole polls", async || rig.whole_polls_of_all().await >= 10.0).await;
    let repeat = |row: &str| {
        let rows = [row; 7].join(",");
        format!(r#"{{"meta":{{"totalRecordCount":7,"scrollId":"s1"}},"data":[{rows}]}}"#)
    };
    let answers =
        RUBBISH.map(|(what, row)| (what, repeat(row))).into_iter().chain([("the same old page", rubbish.first())]);
    let polls = async || rig.metric("call_legs_polls_total", "").await;
    for (what, answer) in answers {
        rubbish.set(Some(answer));
        // One may be under way.
        let before = polls().await;
        rig.until(&format!("three polls of {what}"), async || polls().await >= before + 3.0).await;
        let (status, page) = rig.page("/readyz").await.unwrap();
        let is_told =
            page.contains("source_invalid") || page.contains("source_empty") || page.contains("source_incomplete");
        assert!(status == 503 && is_told, "{what}: {status} {page}");
        tokio::time::sleep(LASTS).await;
        rubbish.set(None);
        rig.until(&format!("the end of what {what} holds"), async || {
            rig.page("/readyz").await.is_some_and(|(status, _)| status == 200)
        })
        .await;
    }
    let shown = rig.true_identities_of(&pbx);
    let before = rig.whole_polls_of_all().await;
    rig.until("more whole polls", async || rig.whole_polls_of_all().await >= before + 6.0).await;
    let found = identities(kafka().bootstrap(), &rig.topic).await;
    let legs = rig.sandbox.api().legs_visible(rig.sandbox.now(), chrono_tz::UTC).filter(|leg| leg.pbx_id == pbx);
    let missing = legs.filter(|leg| {
        let identity = identity(&leg.pbx_id, &leg.call_id, &leg.leg_id);
        shown.contains(&identity) && !found.contains_key(&identity)
    });
    let missing: Vec<String> = missing.map(|leg| format!("{} of {}", leg.disconnect, leg.visible_at)).collect();
    assert!(missing.is_empty(), "{missing:?} of {} legs\n{}", shown.len(), rig.log());
    assert!(found.values().all(|times| *times == 1));
    let letters = rig.metric("call_legs_dead_letters_total", "").await;
    assert_eq!(letters, 0.0, "rubbish is held, not buried");
}
