//! The HTTP client of the source, the schema registry and the commands: whom it trusts, when it takes a proxy, how much of
//! a body it reads, and why a request failed, in words.
//!
//! It sends each request once and follows no redirect. What an answer means is its caller's matter. No error of it holds a
//! URL, a header or a body.

use std::error::Error as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Certificate, Client, ClientBuilder, RequestBuilder, StatusCode, redirect, tls};
use tokio::time::Instant;
use url::{Host, Url};

/// What editors and other systems put before a text, and what is no part of it.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// How a server is reached.
pub struct Settings<'a> {
    /// Any URL of the server.
    pub url: &'a Url,
    /// A PEM file of authorities to trust beside the system's, and the key that names it.
    pub ca_file: Option<(&'static str, &'a Path)>,
    /// Whom the client is by TLS, where servers ask.
    pub identity: Option<Identity<'a>>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long a request may take from connecting to the answer's last byte.
    pub timeout: Duration,
}

/// A client's certificate and its key, PEM files, each with the key that names it.
pub struct Identity<'a> {
    /// The certificate, and those between it and the root.
    pub certificate: (&'static str, &'a Path),
    /// Its key, PKCS #8 and not encrypted.
    pub key: (&'static str, &'a Path),
}

/// Why no client can be built.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ClientError(String);

/// A client for one server. It holds a pool of connections; build it once. Nothing is sent yet.
///
/// # Errors
/// When a file of certificates or the key cannot be used.
pub fn client(settings: &Settings<'_>) -> Result<Client, ClientError> {
    let mut builder = builder(settings.url).connect_timeout(settings.connect_timeout).timeout(settings.timeout);
    if let Some((key, path)) = settings.ca_file {
        let certificates = certificates(path).map_err(|why| ClientError(format!("{key}: {why}")))?;
        builder = builder.tls_certs_merge(certificates);
    }
    if let Some(Identity { certificate, key }) = &settings.identity {
        let read = |(name, path): &(&str, &Path)| {
            fs::read(path).map_err(|error| ClientError(format!("{name}: cannot read {}: {error}", path.display())))
        };
        let identity = reqwest::Identity::from_pkcs8_pem(&read(certificate)?, &read(key)?);
        let identity = identity.map_err(|error| cannot_set_up(settings, &error))?;
        builder = builder.identity(identity);
    }
    builder.build().map_err(|error| cannot_set_up(settings, &error))
}

/// Nearly always it is the key, where there is one.
fn cannot_set_up(settings: &Settings<'_>, error: &reqwest::Error) -> ClientError {
    let why = causes(error);
    ClientError(match &settings.identity {
        Some(Identity { certificate: (certificate, _), key: (key, path) }) => format!(
            "{key}: {} is no key of {certificate} ({why}): it must be PEM, PKCS #8 and not encrypted",
            path.display()
        ),
        None => format!("cannot set up the HTTP client: {why}"),
    })
}

/// What all clients of a server have in common. A proxy is taken as the environment says (`HTTPS_PROXY` and so on), but
/// never to this machine.
pub fn builder(server: &Url) -> ClientBuilder {
    let builder = Client::builder()
        .user_agent(concat!("call-legs/", env!("CARGO_PKG_VERSION")))
        // A redirect could carry a secret elsewhere, or turn a POST into a GET.
        .redirect(redirect::Policy::none())
        .tls_version_min(tls::Version::TLS_1_2);
    if is_this_machine(server) { builder.no_proxy() } else { builder }
}

/// Whether the URL's host is this machine by its very name: no resolver is asked.
pub fn is_this_machine(url: &Url) -> bool {
    let is_here = |address: std::net::IpAddr| address.is_loopback() || address.is_unspecified();
    match url.host() {
        Some(Host::Ipv4(address)) => is_here(address.into()),
        Some(Host::Ipv6(address)) => is_here(address.to_canonical()),
        Some(Host::Domain(name)) => matches!(name, "localhost" | "localhost."),
        None => false,
    }
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, String> {
    let pem = fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    // One stands before each part of a file that was put together from several.
    let pem = String::from_utf8_lossy(&pem).replace(BYTE_ORDER_MARK, "");
    match Certificate::from_pem_bundle(pem.as_bytes()) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(format!("{} holds no PEM certificates", path.display())),
    }
}

/// A secret as a header's value, which no log shows; `None` where no header can carry it.
pub fn secret_header(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// An answer, whatever its status.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, without a byte order mark.
    pub body: Vec<u8>,
    /// How long after sending the headers came.
    pub headers_after: Duration,
}

/// Sends a request once, and reads the answer with a body of `body_bytes_max` at most.
///
/// # Errors
/// When no answer comes, or not whole, or a larger one; one that announces so is not read to its end.
pub async fn send(request: RequestBuilder, body_bytes_max: usize) -> Result<Answer, Error> {
    let sent = Instant::now();
    let mut response = request.send().await?;
    let headers_after = sent.elapsed();
    let body = collect(&mut response, body_bytes_max).await?;
    Ok(Answer { status: response.status(), headers: std::mem::take(response.headers_mut()), body, headers_after })
}

/// The body from the pieces that it comes in. One whose length is announced is copied once.
async fn collect(response: &mut reqwest::Response, bytes_max: usize) -> Result<Vec<u8>, Error> {
    let announced = response.content_length().map_or(Ok(0), usize::try_from).unwrap_or(usize::MAX);
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await? {
        if announced.max(body.len() + piece.len()) > bytes_max {
            return Err(Error { fault: Fault::TooLarge, causes: format!("it is larger than {bytes_max} bytes") });
        }
        if body.is_empty() {
            body.reserve_exact(announced.max(piece.len()));
        }
        body.extend_from_slice(&piece);
    }
    if body.starts_with(BYTE_ORDER_MARK.as_bytes()) {
        body.drain(..BYTE_ORDER_MARK.len());
    }
    Ok(body)
}

/// What kind of failure a request met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No answer in time.
    Silent,
    /// No TLS with a certificate that is trusted.
    Tls,
    /// No connection otherwise.
    NoConnection,
    /// The answer broke off.
    CutShort,
    /// The answer's body is larger than allowed.
    TooLarge,
    /// Anything else between sending and answer.
    Broken,
}

/// A request without a whole answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{causes}")]
pub struct Error {
    /// What kind of failure it is.
    pub fault: Fault,
    causes: String,
}

impl Error {
    /// What is wrong with the server's TLS and what to do, where that is the fault; the keys name its URL and its file of
    /// authorities.
    pub fn tls_advice(&self, server: &str, [url, ca_file]: [&str; 2]) -> Option<String> {
        let says = |words: &str| self.causes.contains(words);
        if self.fault != Fault::Tls {
            None
        } else if says("hostname mismatch") || says("address mismatch") {
            Some(format!("the certificate of {server} is another host's: check the name in {url}"))
        } else if says("has expired") || says("not yet valid") {
            Some(format!(
                "the certificate of {server} is out of date: it is to be renewed, or this machine's clock is wrong"
            ))
        } else if says(UNTRUSTED) {
            Some(format!(
                "the certificate of {server} is not trusted: if a proxy opens TLS, or the authority is your own, name its root certificate (a PEM file) in {ca_file}"
            ))
        } else {
            Some(format!("{server} does not speak TLS 1.2 or later: check scheme and port in {url}"))
        }
    }
}

/// How OpenSSL begins whatever it says of a certificate that it refuses.
const UNTRUSTED: &str = "certificate verify failed";

/// How it says that what comes is no TLS, or of a version that is not taken.
const NO_TLS: [&str; 4] =
    ["wrong version number", "packet length too long", "unsupported protocol", "protocol version"];

impl From<reqwest::Error> for Error {
    fn from(error: reqwest::Error) -> Self {
        let error = error.without_url();
        let causes = causes(&error);
        let fault = if error.is_timeout() {
            Fault::Silent
        } else if NO_TLS.iter().chain([&UNTRUSTED]).any(|words| causes.contains(words)) {
            Fault::Tls
        } else if error.is_connect() {
            Fault::NoConnection
        } else if error.is_body() || error.is_decode() {
            Fault::CutShort
        } else {
            Fault::Broken
        };
        Self { fault, causes }
    }
}

/// The innermost causes, which name the fault; the outer ones only repeat that a request failed.
fn causes(error: &reqwest::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = without_codes(&error.to_string());
        if !text.starts_with("client error (") && !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
        cause = error.source();
    }
    if texts.is_empty() { error.to_string() } else { texts.join(": ") }
}

/// OpenSSL names library, function, file and line beside the reason: `error:0A000086:SSL routines:function:certificate verify
/// failed:statem.c:1889: (certificate has expired)`.
fn without_codes(text: &str) -> String {
    let mut parts = text.split(':');
    match (parts.next(), parts.nth(2), parts.next(), parts.next_back()) {
        (Some("error"), Some(_), Some(reason), Some(verdict)) => {
            format!("{reason} {}", verdict.trim()).trim().to_owned()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use bytes::Bytes;
    use hyper::body::{Body, Frame, SizeHint};

    use super::*;

    #[test]
    fn this_machine_is_known_by_its_name_however_it_is_written() {
        for (host, is_here) in [
            ("127.0.0.1", true),
            ("127.255.3.4:8081", true),
            ("2130706433", true),
            ("0x7f.1", true),
            ("0.0.0.0", true),
            ("[::1]:80", true),
            ("[::]", true),
            ("[::ffff:127.0.0.1]", true),
            ("[::ffff:7f00:9]", true),
            ("LocalHost", true),
            ("localhost.", true),
            ("128.0.0.1", false),
            ("126.255.255.255", false),
            ("[::2]", false),
            ("[::ffff:10.0.0.1]", false),
            ("localhost.example.com", false),
            ("mylocalhost", false),
            ("127.0.0.1.example.com", false),
        ] {
            for scheme in ["http", "https"] {
                assert_eq!(is_this_machine(&Url::parse(&format!("{scheme}://{host}/x")).unwrap()), is_here, "{host}");
            }
        }
    }

    #[test]
    fn certificates_are_found_behind_byte_order_marks_and_not_in_other_files() {
        let pem = include_str!("../tests/data/authority.pem");
        let dir = tempfile::tempdir().unwrap();
        let found = |name: &str, content: &str| {
            let path = dir.path().join(name);
            fs::write(&path, content).unwrap();
            certificates(&path).map(|certificates| certificates.len())
        };
        assert_eq!(found("one", pem), Ok(1));
        assert_eq!(found("marked", &format!("\u{feff}{pem}\u{feff}{pem}")), Ok(2));
        assert_eq!(found("windows", &format!("\u{feff}# ours\r\n{}", pem.replace('\n', "\r\n"))), Ok(1));
        let none = |name: &str| Err(format!("{} holds no PEM certificates", dir.path().join(name).display()));
        assert_eq!(found("empty", ""), none("empty"));
        assert_eq!(found("damaged", &pem.replace("MIIB", "MIIC")), none("damaged"));
        assert!(certificates(&dir.path().join("nonesuch")).unwrap_err().starts_with("cannot read "));
    }

    #[test]
    fn of_what_openssl_says_the_reason_is_left() {
        for (said, left) in [
            (
                "error:0A000086:SSL routines:tls_post_process_server_certificate:certificate verify failed:../ssl/statem/statem_clnt.c:1889: (unable to get local issuer certificate)",
                "certificate verify failed (unable to get local issuer certificate)",
            ),
            (
                "error:0A00010B:SSL routines:ssl3_get_record:wrong version number:../ssl/record/ssl3_record.c:354:",
                "wrong version number",
            ),
            (
                "tcp connect error: Connection refused (os error 111)",
                "tcp connect error: Connection refused (os error 111)",
            ),
            ("error: too short", "error: too short"),
        ] {
            assert_eq!(without_codes(said), left);
        }
    }

    /// A body that comes in pieces, and whether its length is announced.
    struct Pieces {
        left: VecDeque<Bytes>,
        length: SizeHint,
    }

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.left.pop_front().map(|piece| Ok(Frame::data(piece))))
        }

        fn size_hint(&self) -> SizeHint {
            self.length
        }
    }

    /// What five bytes at most are collected to, with the length announced and without.
    async fn collected(pieces: &[Bytes]) -> [Result<Vec<u8>, Error>; 2] {
        let whole = pieces.iter().map(|piece| piece.len() as u64).sum();
        let of = async |length| {
            let body = Pieces { left: pieces.iter().cloned().collect(), length };
            let mut response = reqwest::Response::from(axum::http::Response::new(reqwest::Body::wrap(body)));
            collect(&mut response, 5).await
        };
        [of(SizeHint::with_exact(whole)).await, of(SizeHint::new()).await]
    }

    #[tokio::test]
    async fn a_body_is_whole_however_it_comes_and_never_larger_than_allowed() {
        for (pieces, expected) in [
            (&[][..], Some("")),
            (&["abcde"][..], Some("abcde")),
            (&["", "ab", "", "c", "de"][..], Some("abcde")),
            (&["\u{feff}ab"][..], Some("ab")),
            (&["\u{feff}", "a\u{feff}"][..], None),
            (&["\u{feff}"][..], Some("")),
            (&["abcdef"][..], None),
            (&["abc", "def"][..], None),
            (&["a", "b", "c", "d", "e", "f"][..], None),
        ] {
            let pieces: Vec<Bytes> = pieces.iter().map(|piece| Bytes::from_static(piece.as_bytes())).collect();
            for body in collected(&pieces).await {
                match expected {
                    Some(expected) => assert_eq!(body.unwrap(), expected.as_bytes()),
                    None => assert_eq!(body.unwrap_err().fault, Fault::TooLarge),
                }
            }
        }
    }
}
