//! Keeps Kafka clients signed in by SASL's OAUTHBEARER: one thread asks for tokens, and hands each to all clients.
//!
//! librdkafka would ask each client for a token by a callback. That comes only to a client that is polled: rdkafka's admin
//! client never is, a reader is not while nobody takes its records, and a question that is asked first has no token. Nor
//! does rdkafka's callback take extensions. So tokens are handed over from here, which librdkafka allows at any time and
//! from any thread, and the callback stays unused.

use std::ffi::{CString, NulError, c_char};
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use rdkafka::admin::AdminClient;
use rdkafka::bindings::rd_kafka_oauthbearer_set_token;
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, StreamConsumer};
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::util::current_time_millis;
use secrecy::ExposeSecret;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::SinkError;
use super::trouble::Trouble;
use crate::config;
use crate::core::retry::Backoff;
use crate::oauth::{self, TokenClient, TokenError};

/// Between attempts to get a token.
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(10) };

/// The share of its life after which a token is replaced: early enough that brokers, which are shown a token anew after nine
/// tenths of its life, see the next one.
const RENEWED_AFTER: f64 = 0.8;

/// Where clients get their tokens. The thread behind it ends with the last copy.
#[derive(Clone, Debug)]
pub(super) struct Tokens(mpsc::UnboundedSender<Member>);

impl Tokens {
    /// Begins to ask for tokens, where they are what Kafka takes.
    ///
    /// # Errors
    /// When the endpoint's settings cannot be used, or there is no thread.
    pub(super) fn of(kafka: &config::Kafka) -> Result<Option<Self>, SinkError> {
        let Some(oauth) = &kafka.oauth else { return Ok(None) };
        let client = TokenClient::new(oauth.clone(), "Kafka").map_err(|error| SinkError::Refused(error.to_string()))?;
        let no_thread = |error| SinkError::Unavailable(format!("tokens for Kafka need a thread: {error}"));
        // Of its own: clients are made, and wait, on threads of all kinds.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no_thread)?;
        let (members, newcomers) = mpsc::unbounded_channel();
        let extensions = kafka.oauth_extensions.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let keeper =
            Keeper { principal: oauth.client_id.clone(), extensions, members: Vec::new(), token: None, failure: None };
        thread::Builder::new()
            .name("kafka-tokens".to_owned())
            .spawn(move || runtime.block_on(keeper.keep(&client, newcomers)))
            .map_err(no_thread)?;
        Ok(Some(Self(members)))
    }

    /// Hands each token to a client from now on, for as long as it lives; and tells these when there is none.
    pub(super) fn keep<T: SignsIn + 'static>(&self, client: &Arc<T>, troubles: [Trouble; 2]) {
        let client: Weak<T> = Arc::downgrade(client);
        // A thread that is gone has ended by a panic, which is told of elsewhere.
        let _ = self.0.send(Member { client, troubles });
    }
}

/// A client that is kept signed in.
#[derive(Debug)]
struct Member {
    client: Weak<dyn SignsIn>,
    troubles: [Trouble; 2],
}

/// A token as librdkafka takes it.
pub(super) struct Handed {
    bearer: CString,
    principal: CString,
    /// Since the epoch.
    expires_at_ms: i64,
    /// Names and values in turn.
    extensions: Vec<CString>,
    expires_at: Instant,
}

/// What takes tokens.
pub(super) trait SignsIn: Send + Sync {
    /// Whether the token was taken.
    fn take(&self, token: &Handed) -> bool;
}

impl<C: ConsumerContext + 'static> SignsIn for BaseConsumer<C> {
    fn take(&self, token: &Handed) -> bool {
        set(self.client(), token)
    }
}

impl<C: ConsumerContext + 'static> SignsIn for StreamConsumer<C> {
    fn take(&self, token: &Handed) -> bool {
        set(self.client(), token)
    }
}

impl<C: ProducerContext + 'static> SignsIn for BaseProducer<C> {
    fn take(&self, token: &Handed) -> bool {
        set(self.client(), token)
    }
}

impl<C: ClientContext + 'static> SignsIn for AdminClient<C> {
    fn take(&self, token: &Handed) -> bool {
        set(self.inner(), token)
    }
}

/// Hands a token to librdkafka, which copies it; `false` for one that has expired. What librdkafka says of it may repeat it.
#[expect(unsafe_code, reason = "rdkafka calls it only from its callback, which an admin client never gets")]
fn set<C: ClientContext>(client: &Client<C>, token: &Handed) -> bool {
    let mut words: [c_char; 256] = [0; 256];
    let mut extensions: Vec<*const c_char> = token.extensions.iter().map(|text| text.as_ptr()).collect();
    // SAFETY: the client's pointer is good for as long as the client is borrowed, and the call is made for any thread. All
    // texts end in NUL and outlive the call, the list has a value behind each name, and the buffer is as long as is said.
    let code = unsafe {
        rd_kafka_oauthbearer_set_token(
            client.native_ptr(),
            token.bearer.as_ptr(),
            token.expires_at_ms,
            token.principal.as_ptr(),
            extensions.as_mut_ptr(),
            extensions.len(),
            words.as_mut_ptr(),
            words.len(),
        )
    };
    code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
}

/// The clients, and what they have.
struct Keeper {
    /// Who librdkafka's own log says has signed in.
    principal: String,
    extensions: Vec<(String, String)>,
    members: Vec<Member>,
    token: Option<Handed>,
    /// Why there is no newer one.
    failure: Option<TokenError>,
}

impl Keeper {
    /// Asks and hands over until nobody can join any more.
    async fn keep(mut self, client: &TokenClient, mut newcomers: mpsc::UnboundedReceiver<Member>) {
        let mut failures = 0;
        loop {
            let (asked, asked_ms) = (Instant::now(), current_time_millis());
            let Some(answer) = self.meanwhile(&mut newcomers, client.request()).await else { return };
            let pause = match answer.map(|token| (token.life, self.handed(&token, asked, asked_ms))) {
                Ok((life, Ok(token))) => {
                    failures = 0;
                    self.hand_over(token);
                    life.mul_f64(RENEWED_AFTER).saturating_sub(asked.elapsed())
                }
                // No token with a NUL in it comes here.
                Ok((_, Err(_))) => return,
                Err(error) => {
                    failures += 1;
                    self.tell(error);
                    BACKOFF.pause(failures, rand::random())
                }
            };
            if self.meanwhile(&mut newcomers, tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Waits, and takes newcomers in; `None` when none can come any more.
    async fn meanwhile<F: Future>(
        &mut self,
        newcomers: &mut mpsc::UnboundedReceiver<Member>,
        waited_for: F,
    ) -> Option<F::Output> {
        let mut waited_for = pin!(waited_for);
        loop {
            tokio::select! {
                output = &mut waited_for => return Some(output),
                newcomer = newcomers.recv() => {
                    let newcomer = newcomer?;
                    self.serve(&newcomer);
                    self.members.push(newcomer);
                }
            }
        }
    }

    fn handed(&self, token: &oauth::Token, asked: Instant, asked_ms: i64) -> Result<Handed, NulError> {
        let extensions = self.extensions.iter().flat_map(|(name, value)| [name, value]);
        Ok(Handed {
            bearer: CString::new(token.bearer.expose_secret())?,
            principal: CString::new(self.principal.as_str())?,
            expires_at_ms: asked_ms.saturating_add(i64::try_from(token.life.as_millis()).unwrap_or(i64::MAX)),
            extensions: extensions.map(|text| CString::new(text.as_str())).collect::<Result<_, _>>()?,
            expires_at: asked + token.life,
        })
    }

    fn hand_over(&mut self, token: Handed) {
        self.token = Some(token);
        if self.failure.take().is_some() {
            tracing::info!("there is a token for Kafka again");
        }
        self.serve_all();
    }

    /// Says so at once where the present token still lives, and nothing else would; otherwise what needs the token says it.
    fn tell(&mut self, error: TokenError) {
        let left = self.token.as_ref().map(|token| token.expires_at.saturating_duration_since(Instant::now()));
        let left_s = left.unwrap_or_default().as_secs();
        if left_s > 0 && self.failure.as_ref() != Some(&error) {
            tracing::warn!(present_token_lives_s = left_s, "no new token for Kafka: {error}");
        }
        self.failure = Some(error);
        self.serve_all();
    }

    fn serve_all(&mut self) {
        self.members.retain(|member| member.client.strong_count() > 0);
        self.members.iter().for_each(|member| self.serve(member));
    }

    /// Gives a client the token, or tells why there is none.
    fn serve(&self, member: &Member) {
        let Some(client) = member.client.upgrade() else { return };
        let has_token = self.token.as_ref().is_some_and(|token| client.take(token));
        let failure = self.failure.as_ref().filter(|_| !has_token).map(TokenError::to_string);
        member.troubles.iter().for_each(|trouble| trouble.set_sign_in(failure.clone()));
    }
}
