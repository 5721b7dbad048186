//! A Kafka broker as platforms run it: TLS, SCRAM or client certificates, and an authorizer that allows nothing by itself.
//!
//! A third listener, without any of that, is the tests' own: whoever comes by it is a superuser. Users and what they may
//! are changed by `Secure.java`, since no Rust client can.

use std::sync::OnceLock;

use super::broker::Extras;
use super::certificates::{Authority, Issued};
use super::issuer::{self, Issuer};
use super::kafka::Kafka;
use super::{PATIENCE, directories, leash, maven};

const HEAP_MB_MAX: u32 = 128;

/// A secured broker.
pub struct Secured {
    /// By its open listener, for the tests' own clients.
    pub kafka: Kafka,
    /// Where SASL over TLS is spoken, `host:port`.
    pub sasl: String,
    /// Where client certificates are asked for, `host:port`.
    pub mutual: String,
    /// Who has signed the broker's certificate, and signs those of clients.
    pub authority: Authority,
}

/// A change that an administrator makes.
#[derive(Clone, Debug)]
pub enum Change {
    /// A user with a SCRAM-SHA-512 password, or a new password for one.
    User {
        /// The user's name.
        name: String,
        /// The new password.
        password: String,
    },
    /// Lets somebody do something.
    Allow(Rule),
    /// Takes that back.
    Withdraw(Rule),
}

/// What somebody may do with the one resource of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Without `User:`.
    pub user: String,
    /// As `DESCRIBE_CONFIGS`.
    pub operation: &'static str,
    /// `TOPIC`, `TRANSACTIONAL_ID`, `GROUP` or `CLUSTER`.
    pub kind: &'static str,
    /// The resource; `kafka-cluster` for the cluster.
    pub name: String,
}

/// The secured broker that the tests of this process share; they keep apart by users and topics.
///
/// # Panics
/// When it does not start, with one sentence that says why; in every test alike, without trying again.
#[track_caller]
pub fn secured() -> &'static Secured {
    static SHARED: OnceLock<Result<Secured, String>> = OnceLock::new();
    match SHARED.get_or_init(Secured::create) {
        Ok(secured) => secured,
        Err(error) => panic!("{error}"),
    }
}

impl Secured {
    /// One of the caller's own.
    ///
    /// # Panics
    /// When it does not start, with one sentence that says why.
    #[track_caller]
    pub fn start() -> Self {
        demand(Self::create())
    }

    fn create() -> Result<Self, String> {
        let authority = Authority::create()?;
        let (kafka, further) = Kafka::private_with(&extras(&authority, &authority.issue("broker")?))?;
        let [sasl, mutual] = further.try_into().map_err(|_| "not as many addresses as listeners".to_owned())?;
        Ok(Self { kafka, sasl, mutual, authority })
    }

    /// Makes changes, in their order, and returns when they hold.
    #[track_caller]
    pub fn change(&self, changes: &[Change]) {
        demand(self.run(changes));
    }

    fn run(&self, changes: &[Change]) -> Result<(), String> {
        let mut java = maven::java_command(HEAP_MB_MAX)?;
        java.arg("-cp").arg(maven::KAFKA.directory()?.join("*")).arg(maven::support_file("Secure.java"));
        java.arg(self.kafka.bootstrap());
        for change in changes {
            match change {
                Change::User { name, password } => java.args(["user", name, password]),
                Change::Allow(rule) => java.arg("allow").args(rule.words()),
                Change::Withdraw(rule) => java.arg("withdraw").args(rule.words()),
            };
        }
        let log = directories::log_file("secure")?;
        let status = leash::run(&java, directories::open_log(&log)?, directories::open_log(&log)?, PATIENCE)?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("Secure.java failed ({status}); {}", directories::last_words(&log)))
        }
    }
}

impl Rule {
    fn words(&self) -> [&str; 4] {
        [&self.user, self.operation, self.kind, &self.name]
    }
}

fn extras(authority: &Authority, broker: &Issued) -> Extras {
    let trusted = authority.certificate();
    let settings = [
        ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL"),
        ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
        // The open listener: the broker itself, and the tests.
        ("super.users", "User:ANONYMOUS"),
        ("sasl.enabled.mechanisms", "SCRAM-SHA-512"),
        (
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config",
            "org.apache.kafka.common.security.scram.ScramLoginModule required;",
        ),
        ("listener.name.ssl.ssl.client.auth", "required"),
        ("ssl.principal.mapping.rules", "RULE:^CN=([^,]*).*$/$1/"),
        ("ssl.keystore.type", "PEM"),
        ("ssl.keystore.location", &broker.both.to_string_lossy()),
        ("ssl.truststore.type", "PEM"),
        ("ssl.truststore.location", &trusted.to_string_lossy()),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Extras { listeners: &["SASL_SSL", "SSL"], settings: settings.to_vec(), java: Vec::new() }
}

/// A broker of the caller's own that takes the tokens of an issuer, and ends the connections of expired ones; and where it
/// listens for them, `host:port`.
///
/// # Panics
/// When it does not start, with one sentence that says why.
#[track_caller]
pub fn by_tokens(issuer: &Issuer) -> (Kafka, String) {
    let settings = [
        ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT"),
        ("sasl.enabled.mechanisms", "OAUTHBEARER"),
        ("sasl.oauthbearer.jwks.endpoint.url", &issuer.jwks_url()),
        ("sasl.oauthbearer.expected.issuer", issuer::NAME),
        ("sasl.oauthbearer.expected.audience", issuer::AUDIENCE),
        ("listener.name.sasl_plaintext.oauthbearer.connections.max.reauth.ms", "3600000"),
        (
            "listener.name.sasl_plaintext.oauthbearer.sasl.jaas.config",
            "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;",
        ),
        (
            "listener.name.sasl_plaintext.oauthbearer.sasl.server.callback.handler.class",
            "org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler",
        ),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let java = vec![("org.apache.kafka.sasl.oauthbearer.allowed.urls", issuer.jwks_url())];
    let (kafka, further) = demand(Kafka::private_with(&Extras { listeners: &["SASL_PLAINTEXT"], settings, java }));
    let [address] = demand(further.try_into().map_err(|_| "not as many addresses as listeners".to_owned()));
    (kafka, address)
}

#[track_caller]
fn demand<T>(outcome: Result<T, String>) -> T {
    outcome.unwrap_or_else(|error| panic!("{error}"))
}
