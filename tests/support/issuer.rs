//! An issuer of OAuth tokens on the loopback interface: a token endpoint for one client, and the keys by which brokers verify
//! what it has signed (RS256).

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::sign::Signer;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Whom brokers expect to have issued a token.
pub const NAME: &str = "call-legs-tests";
/// For whom brokers expect it to be.
pub const AUDIENCE: &str = "kafka";

/// The issuer; it lives as long as the runtime.
pub struct Issuer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    key: PKey<Private>,
    client: String,
    secret: String,
    life: Duration,
    audience: Mutex<String>,
    issued: Mutex<Vec<String>>,
}

impl Issuer {
    /// One that gives `client`, by its `secret`, tokens of this life.
    ///
    /// # Panics
    /// When there is no port, or no key.
    pub async fn start(client: &str, secret: &str, life: Duration) -> Self {
        let key = PKey::from_rsa(Rsa::generate(2048).expect("a key")).expect("a key");
        let audience = Mutex::new(AUDIENCE.to_owned());
        let (client, secret) = (client.to_owned(), secret.to_owned());
        let shared = Arc::new(Shared { key, client, secret, life, audience, issued: Mutex::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let app = Router::new().route("/token", post(token)).route("/jwks", get(jwks)).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, shared }
    }

    /// Where tokens are asked for.
    pub fn token_url(&self) -> String {
        format!("http://{}/token", self.address)
    }

    /// Where its keys are.
    pub fn jwks_url(&self) -> String {
        format!("http://{}/jwks", self.address)
    }

    /// Every token that it has given out.
    pub fn issued(&self) -> Vec<String> {
        self.shared.issued.lock().expect("no panic").clone()
    }

    /// From now on its tokens are for somebody else.
    pub fn issue_for(&self, audience: &str) {
        audience.clone_into(&mut self.shared.audience.lock().expect("no panic"));
    }
}

async fn token(State(issuer): State<Arc<Shared>>, headers: HeaderMap, form: String) -> (StatusCode, Json<Value>) {
    let given = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let expected = format!("Basic {}", STANDARD.encode(format!("{}:{}", issuer.client, issuer.secret)));
    if given != expected {
        return (StatusCode::UNAUTHORIZED, Json(json!({"error": "invalid_client", "error_description": given})));
    }
    if form != "grant_type=client_credentials&scope=legs" {
        return (StatusCode::BAD_REQUEST, Json(json!({"error": "invalid_request"})));
    }
    let token = issuer.sign();
    issuer.issued.lock().expect("no panic").push(token.clone());
    let life = issuer.life.as_secs();
    (StatusCode::OK, Json(json!({"access_token": token, "token_type": "Bearer", "expires_in": life})))
}

async fn jwks(State(issuer): State<Arc<Shared>>) -> Json<Value> {
    let rsa = issuer.key.rsa().expect("an RSA key");
    let [n, e] = [rsa.n(), rsa.e()].map(|number| URL_SAFE_NO_PAD.encode(number.to_vec()));
    Json(json!({"keys": [{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "1", "n": n, "e": e}]}))
}

impl Shared {
    fn sign(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
        let audience = self.audience.lock().expect("no panic").clone();
        let claims = json!({
            "iss": NAME, "sub": self.client, "aud": audience, "scope": "legs", "iat": now, "exp": now + self.life.as_secs(),
        });
        let parts = [json!({"alg": "RS256", "kid": "1", "typ": "JWT"}), claims];
        let signed = parts.map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let mut signer = Signer::new(MessageDigest::sha256(), &self.key).expect("a signer");
        let signature = signer.sign_oneshot_to_vec(signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
