//! The HTTP shell: puts what [`Faults::exchange`] decides onto a socket.
//!
//! It runs on the machine's clock, which can be shifted. All that it decides itself is how a
//! connection breaks: by a reset, or in the middle of a body.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_LENGTH, DATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Sleep;

use super::api::{Api, Request, Response};
use super::faults::{Exchange, Faults, Outcome, http_date};
use crate::core::time::UtcMillis;

/// The longest request body that is read; a token request has a hundred bytes.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// How long a cut body stands still before the connection closes, so that what was sent arrives.
const CUT_PAUSE: Duration = Duration::from_millis(20);

/// The pause after the listener could not accept, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A simulated API on a socket. Dropping it stops it.
#[derive(Debug)]
pub struct Sandbox {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    api: Arc<Api>,
    faults: Arc<Faults>,
    /// How far this sandbox's clock is ahead of the machine's.
    ahead_ms: AtomicI64,
}

impl Shared {
    fn now(&self) -> UtcMillis {
        UtcMillis::new(machine_now().as_millis() + self.ahead_ms.load(Ordering::SeqCst))
    }
}

/// What the machine's clock shows.
pub(super) fn machine_now() -> UtcMillis {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    UtcMillis::new(0).plus(since_epoch.unwrap_or_default())
}

impl Sandbox {
    /// Serves `api` with `faults` at `listen` (port 0: any free one). The clock starts at `now`,
    /// or is the machine's.
    pub async fn serve(
        listen: SocketAddr,
        api: Arc<Api>,
        faults: Arc<Faults>,
        now: Option<UtcMillis>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { api, faults, ahead_ms: AtomicI64::new(0) });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        let sandbox = Self { shared, address, accepting };
        if let Some(now) = now {
            sandbox.set_now(now);
        }
        Ok(sandbox)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL for a client, without a slash at the end.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The API, for its truth.
    pub fn api(&self) -> &Arc<Api> {
        &self.shared.api
    }

    /// The faults, to control and count them.
    pub fn faults(&self) -> &Arc<Faults> {
        &self.shared.faults
    }

    /// What its clock shows.
    pub fn now(&self) -> UtcMillis {
        self.shared.now()
    }

    /// Sets its clock, which runs on from there.
    pub fn set_now(&self, now: UtcMillis) {
        self.shared.ahead_ms.store(now.millis_since(machine_now()), Ordering::SeqCst);
    }

    /// Closes the listener and every connection, and waits until that is done.
    pub async fn stop(mut self) {
        self.accepting.abort();
        // Ends with the cancellation that was just asked for.
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Its connections end with it.
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(serve_connection(stream, Arc::clone(&shared)));
            }
            Err(error) => {
                tracing::debug!(%error, "the sandbox could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_connection(stream: TcpStream, shared: Arc<Shared>) {
    let reset = Arc::new(AtomicBool::new(false));
    let service = service_fn(|request| Box::pin(respond(Arc::clone(&shared), Arc::clone(&reset), request)));
    // Small answers should not wait for the client's acknowledgement of the head.
    let _ = stream.set_nodelay(true);
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let ended = poll_fn(|context| connection.poll_without_shutdown(context)).await;
    if let Err(error) = ended {
        tracing::trace!(%error, "a sandbox connection broke");
    }
    let stream = connection.into_parts().io.into_inner();
    if reset.load(Ordering::SeqCst) {
        // Closing a socket that lingers for no time sends a reset.
        let _ = stream.set_zero_linger();
    }
}

/// An error makes hyper drop the connection without an answer.
async fn respond(
    shared: Arc<Shared>,
    reset: Arc<AtomicBool>,
    request: hyper::Request<Incoming>,
) -> io::Result<hyper::Response<Sending>> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, REQUEST_BYTES_MAX).collect().await else {
        return head_and_body(&shared, Response::json(413, ""), None);
    };
    let headers = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    let request = Request {
        method: head.method.as_str().to_owned(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: headers.collect(),
        body: body.to_bytes(),
    };
    let Exchange { delay, outcome } = shared.faults.exchange(&shared.api, shared.now(), &request);
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    match outcome {
        Outcome::Answer(response) => head_and_body(&shared, response, None),
        Outcome::Cut { response, sent } => head_and_body(&shared, response, Some(sent)),
        Outcome::Reset => {
            reset.store(true, Ordering::SeqCst);
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
}

fn head_and_body(shared: &Shared, response: Response, cut: Option<usize>) -> io::Result<hyper::Response<Sending>> {
    let length = response.body.len();
    let mut head = hyper::Response::builder()
        .status(response.status)
        .header(DATE, http_date(shared.now()))
        .header(CONTENT_LENGTH, length);
    for (name, value) in response.headers {
        head = head.header(name, value);
    }
    let body = match cut {
        None => Sending::Whole(response.body),
        Some(sent) => Sending::Part(response.body.slice(..sent.min(length))),
    };
    head.body(body).map_err(io::Error::other)
}

/// A body on its way, whole or cut.
enum Sending {
    Whole(Bytes),
    Part(Bytes),
    /// Nothing more comes, and then the connection breaks.
    Stalled(Pin<Box<Sleep>>),
}

impl Body for Sending {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        match this {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Part(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Self::Stalled(Box::pin(tokio::time::sleep(CUT_PAUSE)));
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Stalled(pause) => match pause.as_mut().poll(context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(()) => Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into()))),
            },
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Part(_) | Self::Stalled(_) => SizeHint::default(),
        }
    }
}
