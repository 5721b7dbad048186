//! The admin port's connections: no more than there is room for, and none for long without a request.
//!
//! Each costs a descriptor, of which Kafka and the API need theirs. Where there is no room, the oldest connection that waits
//! for its next request, or for the rest of one, makes way: whoever holds many open keeps nobody out.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// What connections may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How many there may be: probes, a Prometheus, some browsers.
    pub(super) connections: usize,
    /// How long one may wait for a whole request head, the first or the next.
    pub(super) head_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 64, head_wait: Duration::from_secs(15) }
    }
}

/// The longest request head: a browser's has a few kB.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The pause after the listener could not accept, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A connection that may be open.
struct Connection {
    task: AbortHandle,
    /// Whether a request of it is being answered.
    is_answering: Arc<AtomicBool>,
}

impl Connection {
    fn is_waiting(&self) -> bool {
        !self.is_answering.load(Ordering::Acquire)
    }
}

/// Serves until `stopped`; what is being answered then is answered to its end.
pub(super) async fn serve(listener: TcpListener, routes: Router, limits: Limits, stopped: impl Future<Output = ()>) {
    // Its connections end with it.
    let mut tasks = JoinSet::new();
    let mut open: VecDeque<Connection> = VecDeque::new();
    tokio::pin!(stopped);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stopped => break,
            accepted = listener.accept() => accepted,
        };
        while tasks.try_join_next().is_some() {}
        open.retain(|connection| !connection.task.is_finished());
        match accepted {
            Ok((stream, _)) if open.len() < limits.connections || make_room(&mut open) => {
                let is_answering = Arc::new(AtomicBool::new(false));
                let connection = answer(stream, routes.clone(), Arc::clone(&is_answering), limits.head_wait);
                open.push_back(Connection { task: tasks.spawn(connection), is_answering });
            }
            // All of them are being answered: whoever comes now may come again.
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "the admin port could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    open.iter().filter(|connection| connection.is_waiting()).for_each(|connection| connection.task.abort());
    while tasks.join_next().await.is_some() {}
}

/// Ends the oldest connection that waits for a request, if there is one.
fn make_room(open: &mut VecDeque<Connection>) -> bool {
    let oldest = open.iter().position(Connection::is_waiting).and_then(|oldest| open.remove(oldest));
    oldest.inspect(|connection| connection.task.abort()).is_some()
}

async fn answer(stream: TcpStream, routes: Router, is_answering: Arc<AtomicBool>, head_wait: Duration) {
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let (routes, is_answering) = (routes.clone(), Arc::clone(&is_answering));
        async move {
            is_answering.store(true, Ordering::Release);
            let answered: Result<Response, Infallible> = routes.call(request).await;
            is_answering.store(false, Ordering::Release);
            answered
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_wait)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to the admin port broke, or was silent for too long");
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Instant;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn served(limits: Limits) -> SocketAddr {
        let slow = async || {
            tokio::time::sleep(Duration::from_secs(1)).await;
            "slow"
        };
        let routes = Router::new().route("/", get(async || "here")).route("/slow", get(slow));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, routes, limits, std::future::pending()));
        address
    }

    async fn sent(address: SocketAddr, what: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(what.as_bytes()).await.unwrap();
        stream
    }

    /// What comes until the other side closes the connection.
    async fn rest(mut stream: TcpStream) -> String {
        let mut bytes = Vec::new();
        // A reset is a close.
        let _ = stream.read_to_end(&mut bytes).await;
        String::from_utf8_lossy(&bytes).into_owned()
    }

    const HALVES: [&str; 4] =
        ["", "G", "GET / HTTP/1.1\r\nHost: localhost", "GET / HTTP/1.1\r\nHost: localhost\r\nA: b\r\n"];

    #[tokio::test]
    async fn many_that_say_half_of_it_keep_nobody_out_and_no_descriptors() {
        let limits = Limits { connections: 16, head_wait: Duration::from_secs(60) };
        let address = served(limits).await;
        let mut halves = Vec::new();
        for number in 0..240 {
            halves.push(sent(address, HALVES[number % HALVES.len()]).await);
        }
        let asked = Instant::now();
        let answer = rest(sent(address, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("here"), "{answer}");
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        // The oldest made way; what is left is within the limit.
        let left = halves.split_off(240 - limits.connections);
        for half in halves {
            assert_eq!(tokio::time::timeout(Duration::from_secs(10), rest(half)).await.unwrap(), "");
        }
        drop(left);
    }

    #[tokio::test]
    async fn a_connection_that_says_nothing_more_is_closed_before_its_first_request_and_after_it() {
        let address = served(Limits { connections: 16, head_wait: Duration::from_millis(300) }).await;
        for said in HALVES.into_iter().chain(["GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"]) {
            let stream = sent(address, said).await;
            let rest = tokio::time::timeout(Duration::from_secs(10), rest(stream)).await;
            assert!(rest.is_ok(), "{said:?} is still open");
        }
    }

    #[tokio::test]
    async fn what_is_being_answered_does_not_make_way() {
        let limits = Limits { connections: 2, head_wait: Duration::from_millis(300) };
        let address = served(limits).await;
        let slow = "GET /slow HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let answered = tokio::spawn(rest(sent(address, slow).await));
        tokio::time::sleep(Duration::from_millis(100)).await;
        for _ in 0..20 {
            drop(sent(address, HALVES[2]).await);
        }
        assert!(answered.await.unwrap().ends_with("slow"));
    }
}
