//! A server before the sandbox, which hands requests on or answers them itself.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use call_legs::sandbox::Sandbox;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// What is answered instead of the sandbox: a status and a body.
pub(super) type Answer = (u16, String);

/// What is done with requests for reports.
pub(super) trait Reports: Send + Sync + 'static {
    /// The answer that is given instead of the sandbox's.
    fn answer(&self, query: &Uri) -> Option<Answer>;

    /// Takes note of a page that the sandbox has sent.
    fn note(&self, _page: &str) {}
}

/// The server, until it is dropped.
pub(super) struct Front {
    setting: String,
    _serving: AbortOnDropHandle<()>,
}

impl Front {
    /// Begins to serve on a port of its own.
    pub(super) async fn start(sandbox: &Sandbox, reports: Arc<dyn Reports>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let setting = format!("source.base_url = \"http://{}\"", listener.local_addr().unwrap());
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let onward = Arc::new(Onward { sandbox: sandbox.base_url(), client, reports });
        Self { setting, _serving: AbortOnDropHandle::new(tokio::spawn(serve(listener, onward))) }
    }

    /// The connector's setting that has it ask this server.
    pub(super) fn setting(&self) -> &str {
        &self.setting
    }
}

struct Onward {
    sandbox: String,
    client: reqwest::Client,
    reports: Arc<dyn Reports>,
}

impl Onward {
    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let is_report = request.uri().path().ends_with("call-legs");
        if let Some((status, body)) = Some(request.uri()).filter(|_| is_report).and_then(|uri| self.reports.answer(uri))
        {
            return Response::builder().status(status).body(Full::new(body.into())).unwrap();
        }
        let url = format!("{}{}", self.sandbox, request.uri());
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let mut headers = parts.headers;
        headers.remove("host");
        let answered = self.client.request(parts.method, url).headers(headers).body(body).send().await.unwrap();
        let (status, page) = (answered.status(), answered.text().await.unwrap());
        if is_report {
            self.reports.note(&page);
        }
        Response::builder().status(status).body(Full::new(page.into())).unwrap()
    }
}

async fn serve(listener: TcpListener, onward: Arc<Onward>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let onward = Arc::clone(&onward);
        let service = service_fn(move |request| {
            let onward = Arc::clone(&onward);
            async move { Ok::<_, Infallible>(onward.respond(request).await) }
        });
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}
