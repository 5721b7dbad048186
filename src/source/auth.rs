//! The bearer token: fetched once for all who need it, renewed before it expires.
//!
//! It knows when to log in and who waits for whom; the call itself is the caller's.

use std::future::Future;
use std::time::Duration;

use secrecy::SecretString;
#[expect(clippy::disallowed_types, reason = "see Tokens")]
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::SourceError;

/// After a refused login the same answer serves everybody for this long: with several units asking,
/// a wrong password must not become a burst of failed logins that locks the account.
const REFUSAL_KEPT: Duration = Duration::from_secs(5);

/// The API documents half an hour; a reply that names no life gets a careful one.
const LIFE_UNNAMED: Duration = Duration::from_secs(300);

/// A reply that names more is not believed.
const LIFE_MAX: Duration = Duration::from_secs(86_400);

/// A token and how long it may be used.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) bearer: SecretString,
    pub(super) renew_at: Instant,
    number: u64,
}

/// What a login brought.
pub(super) struct Login {
    pub(super) bearer: SecretString,
    pub(super) life: Option<Duration>,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    refusal: Option<(Instant, SourceError)>,
    logins: u64,
}

/// The current token, behind a lock that is held during a login so that only one is under way.
#[derive(Default)]
#[expect(clippy::disallowed_types, reason = "the units' readers wait for the one login, which is short")]
pub(super) struct Tokens(Mutex<State>);

impl Tokens {
    /// The current token, or a new one from `log_in` when there is none, it is about to expire, or
    /// it is the one that was `rejected`.
    pub(super) async fn fresh<F>(
        &self,
        rejected: Option<&Token>,
        log_in: impl FnOnce() -> F,
    ) -> Result<Token, SourceError>
    where
        F: Future<Output = Result<Login, SourceError>>,
    {
        let mut state = self.0.lock().await;
        let asked_at = Instant::now();
        if let Some(token) = &state.token
            && asked_at < token.renew_at
            && rejected.is_none_or(|rejected| rejected.number != token.number)
        {
            return Ok(token.clone());
        }
        if let Some((at, refusal)) = &state.refusal
            && asked_at.duration_since(*at) < REFUSAL_KEPT
        {
            return Err(refusal.clone());
        }
        state.token = None;
        state.refusal = None;
        match log_in().await {
            Ok(login) => {
                state.logins += 1;
                let life = login.life.unwrap_or(LIFE_UNNAMED).clamp(Duration::from_secs(1), LIFE_MAX);
                // A minute early, or for a short life a fifth of it; counted from before the request.
                let margin = (life / 5).min(Duration::from_secs(60));
                let token = Token { bearer: login.bearer, renew_at: asked_at + life - margin, number: state.logins };
                state.token = Some(token.clone());
                Ok(token)
            }
            Err(error) => {
                if error.recovery == super::Recovery::Refused {
                    state.refusal = Some((Instant::now(), error.clone()));
                }
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Logins {
        tokens: Tokens,
        count: AtomicU32,
        life: Option<Duration>,
    }

    impl Logins {
        fn new(life_s: u64) -> Self {
            Self { tokens: Tokens::default(), count: AtomicU32::new(0), life: Some(Duration::from_secs(life_s)) }
        }

        async fn fresh(&self, rejected: Option<&Token>) -> Token {
            self.tokens
                .fresh(rejected, || async {
                    self.count.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    Ok(Login { bearer: "token".to_owned().into(), life: self.life })
                })
                .await
                .unwrap()
        }

        fn count(&self) -> u32 {
            self.count.load(Ordering::Relaxed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_login_serves_all_who_ask_at_once() {
        let logins = Logins::new(1800);
        tokio::join!(logins.fresh(None), logins.fresh(None), logins.fresh(None));
        assert_eq!(logins.count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_renewed_before_it_expires_also_when_it_lives_for_seconds() {
        for (life_s, kept_s, renewed_s) in [(1800, 1700, 1741), (5, 3, 5), (1, 0, 1), (u64::MAX, 86_000, 86_400)] {
            let logins = Logins::new(life_s);
            logins.fresh(None).await;
            tokio::time::sleep(Duration::from_secs(kept_s)).await;
            logins.fresh(None).await;
            assert_eq!(logins.count(), 1, "kept for {kept_s} s of {life_s}");
            tokio::time::sleep(Duration::from_secs(renewed_s - kept_s)).await;
            logins.fresh(None).await;
            assert_eq!(logins.count(), 2, "renewed by {renewed_s} s of {life_s}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn several_rejections_of_one_token_renew_it_once() {
        let logins = Logins::new(1800);
        let token = logins.fresh(None).await;
        tokio::join!(logins.fresh(Some(&token)), logins.fresh(Some(&token)), logins.fresh(Some(&token)));
        assert_eq!(logins.count(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_shared_for_a_while_and_then_tried_again() {
        let tokens = Tokens::default();
        let count = AtomicU32::new(0);
        let refused = || async {
            count.fetch_add(1, Ordering::Relaxed);
            Err(SourceError::refused("no"))
        };
        for _ in 0..3 {
            assert!(tokens.fresh(None, refused).await.is_err());
        }
        assert_eq!(count.load(Ordering::Relaxed), 1);
        tokio::time::sleep(REFUSAL_KEPT).await;
        assert!(tokens.fresh(None, refused).await.is_err());
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }
}
