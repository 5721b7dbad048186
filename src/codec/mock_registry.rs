//! A schema registry for the codec's tests: it answers as it is told and remembers what it was asked.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Method, Response};
use tokio::net::TcpListener;
use url::Url;

use super::registry::{Registry, Settings};

/// One request as it came in.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) method: Method,
    /// The path and the query, still encoded.
    pub(super) target: String,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

/// One answer to give.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    pub(super) delay: Duration,
}

impl Reply {
    pub(super) fn json(status: u16, body: serde_json::Value) -> Self {
        Self::text(status, &body.to_string())
    }

    pub(super) fn text(status: u16, body: &str) -> Self {
        Self { status, body: body.into(), delay: Duration::ZERO }
    }
}

/// A registry on a free port of the loopback interface.
pub(super) struct MockRegistry {
    pub(super) settings: Settings,
    asked: Arc<Mutex<Vec<Asked>>>,
    server: tokio::task::JoinHandle<()>,
}

impl MockRegistry {
    pub(super) async fn start(answer: impl Fn(&Asked) -> Reply + Clone + Send + Sync + 'static) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let app = Router::new().fallback(async move |request: Request| {
            let (parts, body) = request.into_parts();
            let asked = Asked {
                method: parts.method,
                target: parts.uri.path_and_query().unwrap().to_string(),
                headers: parts.headers,
                body: String::from_utf8(to_bytes(body, usize::MAX).await.unwrap().to_vec()).unwrap(),
            };
            let Reply { status, body, delay } = answer(&asked);
            seen.lock().unwrap().push(asked);
            tokio::time::sleep(delay).await;
            Response::builder()
                .status(status)
                .header("content-type", "application/vnd.schemaregistry.v1+json")
                // Means something with a redirect only.
                .header("location", "/elsewhere")
                .body(Body::from(body))
                .unwrap()
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = settings(listener.local_addr().unwrap().port());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { settings, asked, server }
    }

    /// A client of this registry.
    pub(super) fn client(&self) -> Registry {
        Registry::new(self.settings.clone()).unwrap()
    }

    /// All requests so far.
    pub(super) fn requests(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Makes the registry unreachable.
    pub(super) async fn stop(&mut self) {
        self.server.abort();
        let _ = (&mut self.server).await;
    }
}

/// Settings for a registry on this machine.
pub(super) fn settings(port: u16) -> Settings {
    Settings {
        url: Url::parse(&format!("http://127.0.0.1:{port}")).unwrap(),
        authorization: None,
        identity: None,
        ca_file: None,
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(5),
    }
}
