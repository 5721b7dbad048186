//! What an operator sees at three in the morning: each state is named by the page, by `status` and by the log.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use call_legs::sandbox::dataset::DatasetSettings;
use call_legs::sandbox::{Sandbox, Settings};

use super::browser::{Screen, document, look};
use super::rig::{Rig, sandbox_settings};
use super::support::kafka::Kafka;

const HOUR: Duration = Duration::from_secs(3600);

/// A state as it is to be seen.
struct Expected {
    /// Names the screenshots.
    name: &'static str,
    /// Begins the page's sentence.
    sentence: &'static str,
    /// Of the command `status`.
    exit: i32,
    /// Is in the log.
    logged: &'static str,
}

impl Rig {
    async fn sentence(&self) -> String {
        let page = self.page("/status.json").await.map(|(_, page)| page).unwrap_or_default();
        let snapshot: serde_json::Value = serde_json::from_str(&page).unwrap_or_default();
        snapshot["headline"]["sentence"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until a state is there, and looks at it in every way.
    async fn shows(&self, expected: &Expected) {
        let Expected { name, sentence, exit, logged } = *expected;
        self.until(sentence, async || self.sentence().await.starts_with(sentence)).await;
        self.until(logged, async || self.log().contains(logged)).await;
        let output = self.run(&["status"]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.starts_with(sentence), "{name}: {said}");
        assert_eq!(output.status.code(), Some(exit), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let alive = self.run(&["status", "--alive"]);
        assert_eq!(String::from_utf8_lossy(&alive.stdout), "healthy\n", "{name}: no reason to restart it");
        assert_eq!(alive.status.code(), Some(0), "{name}");
        let url = format!("http://{}/", self.admin);
        for (screen, suffix) in [(Screen::Desk, "desk"), (Screen::Phone, "phone")] {
            let seen = look(&url, &format!("{name}-{suffix}"), screen);
            assert!(seen.document.contains(sentence), "{name}: {sentence} in {}", seen.document);
            assert_eq!(seen.console, [""; 0], "{name}: nothing to complain of");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_state_is_named_by_the_page_by_status_and_by_the_log() {
    let broker = Kafka::start_private();
    let mut settings = sandbox_settings(3_000, HOUR * 24);
    settings.dataset = DatasetSettings { rate: 5.0, late: Duration::from_secs(10), ..settings.dataset };
    let keys = ["source.page_size = 200", "poll.max_window = \"10m\""];
    let rig = Rig::new(Sandbox::start(settings).await.unwrap(), broker.bootstrap(), &keys);
    rig.sandbox.faults().set_mix("slow=100%".parse().unwrap());
    let daemon = rig.start();
    rig.shows(&Expected { name: "catching-up", sentence: "Catching up, ", exit: 0, logged: "catching up" }).await;

    rig.sandbox.faults().set_mix("0%".parse().unwrap());
    rig.polled_whole(2).await;
    rig.shows(&Expected { name: "ok", sentence: "All legs up to ", exit: 0, logged: "result=\"ok\"" }).await;

    let second = rig.sibling();
    let standby = second.start();
    second
        .shows(&Expected { name: "standing-by", sentence: "Standing by: ", exit: 7, logged: "standing by: another" })
        .await;
    drop(standby);

    let settings = Settings { faults: "garbage=60%".parse().unwrap(), ..sandbox_settings(3_000, HOUR) };
    let flooded = Rig::new(Sandbox::start(settings).await.unwrap(), broker.bootstrap(), &[]);
    let flood = flooded.start();
    let sentence = "What the 8x8 API shows is not believed";
    flooded.shows(&Expected { name: "dead-letters", sentence, exit: 7, logged: "rows cannot be legs" }).await;
    drop(flood);

    rig.sandbox.faults().set_outage(true);
    let sentence = "The 8x8 API does not answer";
    rig.shows(&Expected { name: "api-down", sentence, exit: 7, logged: "the poll failed: " }).await;

    rig.sandbox.faults().set_outage(false);
    rig.until("well again", async || rig.sentence().await.starts_with("All legs up to ")).await;
    // The page tells of a state at once, the status topic with the next transaction.
    rig.polled_whole(2).await;
    broker.stop();
    let sentence = "Kafka has not acknowledged for ";
    rig.until("Kafka missed for half a minute", async || {
        rig.page("/readyz").await.is_some_and(|(_, page)| page.contains("kafka"))
    })
    .await;
    rig.shows(&Expected { name: "kafka-down", sentence, exit: 7, logged: "polls wait" }).await;

    let page = rig.page("/").await.unwrap().1;
    drop(daemon);
    let old = document(&served_once(page));
    assert!(old.contains("the connector is down, or cannot be reached from here"), "{old}");

    let output = rig.run(&["status"]);
    assert_eq!(output.status.code(), Some(7));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("nobody listens there: the connector is down"), "{said}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("The status topic cannot be read, either"), "{said}");

    assert_eq!(rig.run(&["status", "--alive"]).status.code(), Some(7));

    broker.start();
    let output = rig.run(&["status"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        said.lines().filter(|line| line.contains(" is down: it was ok when it told last, by ")).count(),
        3,
        "{said}"
    );
}

/// Where a page is served once, and nobody listens afterwards.
fn served_once(page: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        drop(listener);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n", page.len());
        // Chromium sends its request in one piece.
        let _ = stream.read(&mut [0; 4096]);
        stream.write_all(format!("{head}Connection: close\r\n\r\n{page}").as_bytes()).unwrap();
    });
    url
}
