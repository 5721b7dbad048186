//! A Kafka broker for tests: one that all tests of a process share, and private ones for tests that break theirs.
//!
//! Not a Kafka client: tests create their topics and read them with what they test, or with `read_topic.rs`. Tests that share
//! a broker keep apart by the names of their topics and transactions.

use std::env;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::broker::{self, Broker, Extras};
use super::container::Container;
use super::{maven, no_test_can_run};

const SERVERS_VARIABLE: &str = "CALL_LEGS_TEST_KAFKA";

/// A broker that serves clients.
pub struct Kafka {
    bootstrap: String,
    provider: Provider,
}

enum Provider {
    /// Runs elsewhere; not ours to start or stop.
    Elsewhere,
    /// Kept for its end.
    Container {
        _container: Container,
    },
    /// Kept for its end.
    Shared {
        _broker: Broker,
    },
    Private(Mutex<Broker>),
}

/// The broker that all tests of this process share. Only the first caller starts it; the others wait for it.
///
/// # Panics
///
/// When there is no broker to be had, with one sentence that says what was tried and what to install; in every test alike,
/// without trying again.
#[track_caller]
pub fn kafka() -> &'static Kafka {
    static SHARED: OnceLock<Result<Kafka, String>> = OnceLock::new();
    match SHARED.get_or_init(Kafka::provide) {
        Ok(kafka) => kafka,
        Err(error) => no_test_can_run(error),
    }
}

impl Kafka {
    fn provide() -> Result<Self, String> {
        if let Some(servers) = env::var(SERVERS_VARIABLE).ok().filter(|servers| !servers.is_empty()) {
            return match broker::answers(&servers) {
                Ok(()) => Ok(Self { bootstrap: servers, provider: Provider::Elsewhere }),
                Err(refusal) => Err(format!(
                    "no Kafka for the tests: {SERVERS_VARIABLE} is set, but no broker answers there ({refusal}); start that \
                     broker, or unset the variable to have one started"
                )),
            };
        }
        let no_container = match Container::start() {
            Ok(container) => {
                let bootstrap = container.bootstrap.clone();
                return Ok(Self { bootstrap, provider: Provider::Container { _container: container } });
            }
            Err(reason) => reason,
        };
        match Broker::create(&Extras::default()) {
            Ok(broker) => {
                Ok(Self { bootstrap: broker.bootstrap.clone(), provider: Provider::Shared { _broker: broker } })
            }
            Err(no_jars) => Err(format!(
                "no Kafka for the tests: {SERVERS_VARIABLE} is not set; from Docker: {no_container}; from Maven Central: \
                 {no_jars}; install a JDK (17 or later) and Maven (Debian: default-jdk-headless maven), or start Docker, or set \
                 {SERVERS_VARIABLE} to the bootstrap servers of a broker"
            )),
        }
    }

    /// A broker of the caller's own, from Kafka's jars whatever `kafka()` uses, with fresh data. It ends, and its data goes,
    /// when it is dropped.
    #[track_caller]
    pub fn start_private() -> Self {
        match Self::private_with(&Extras::default()) {
            Ok((kafka, _)) => kafka,
            Err(error) => panic!("{error}"),
        }
    }

    /// The same with more listeners and settings, and where those listeners are.
    ///
    /// # Errors
    /// In one sentence, what is missing.
    pub fn private_with(extras: &Extras) -> Result<(Self, Vec<String>), String> {
        if let Err(error) = maven::programs() {
            no_test_can_run(&format!(
                "no private Kafka broker: {error}; install a JDK (17 or later) and Maven (Debian: default-jdk-headless maven)"
            ));
        }
        let broker =
            Broker::create(extras).map_err(|error| format!("no private Kafka broker for this test: {error}"))?;
        let (bootstrap, further) = (broker.bootstrap.clone(), broker.further.clone());
        Ok((Self { bootstrap, provider: Provider::Private(Mutex::new(broker)) }, further))
    }

    /// The bootstrap servers, the same before and after a restart.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Ends a private broker as a power failure of its process would, and returns when it is gone (SIGKILL).
    #[track_caller]
    pub fn kill(&self) {
        self.demand(self.private().signal("KILL"));
    }

    /// Ends a private broker in good order, and returns when it is gone (SIGTERM).
    #[track_caller]
    pub fn stop(&self) {
        self.demand(self.private().signal("TERM"));
    }

    /// Starts a private broker again, with the ports and the data it had, and returns when it serves clients. After `kill`
    /// that takes some seconds more, until the controller has given up the broker's old session.
    #[track_caller]
    pub fn start(&self) {
        self.demand(self.private().start());
    }

    /// Makes a private broker hang: connections stay open, and nothing is answered (SIGSTOP).
    #[track_caller]
    pub fn pause(&self) {
        self.demand(self.private().signal("STOP"));
    }

    /// Ends the hang of `pause`.
    #[track_caller]
    pub fn resume(&self) {
        self.demand(self.private().signal("CONT"));
    }

    #[track_caller]
    fn private(&self) -> MutexGuard<'_, Broker> {
        match &self.provider {
            // A panic of another thread leaves the broker as it was: its state is its process.
            Provider::Private(broker) => broker.lock().unwrap_or_else(PoisonError::into_inner),
            _ => panic!("the shared broker serves all tests of this process; break one of Kafka::start_private()"),
        }
    }

    #[track_caller]
    fn demand(&self, outcome: Result<(), String>) {
        if let Err(error) = outcome {
            panic!("{error}");
        }
    }
}
