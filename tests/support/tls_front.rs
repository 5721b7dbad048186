//! TLS before a server that speaks none: what a load balancer does.

use std::io::{Read, Write};
use std::net::SocketAddr;

use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod, SslVerifyMode};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_native_tls::TlsAcceptor;
use tokio_native_tls::native_tls::{self, Identity, Protocol};

use super::certificates::{Authority, Issued};

/// Listens on the loopback interface with this certificate, for as long as the runtime lives, and passes on to `server`
/// what comes. Gives the address.
///
/// # Panics
/// When there is no port, or the certificate cannot be used.
pub async fn start(issued: &Issued, server: SocketAddr) -> SocketAddr {
    start_with(issued, Protocol::Tlsv13, server).await
}

/// The same with no newer TLS than this.
///
/// # Panics
/// When there is no port, or the certificate cannot be used.
pub async fn start_with(issued: &Issued, newest: Protocol, server: SocketAddr) -> SocketAddr {
    let read = |path| std::fs::read(path).expect("a PEM file");
    let identity =
        Identity::from_pkcs8(&read(&issued.certificate), &read(&issued.key)).expect("a certificate and its key");
    let acceptor = native_tls::TlsAcceptor::builder(identity)
        .min_protocol_version(None)
        .max_protocol_version(Some(newest))
        .build();
    let acceptor = TlsAcceptor::from(acceptor.expect("an identity that can be used"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a listener has an address");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not like the certificate is gone here, and a server that is gone is no failure of ours.
                let (Ok(mut client), Ok(mut server)) =
                    (acceptor.accept(client).await, TcpStream::connect(server).await)
                else {
                    return;
                };
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    address
}

/// A server that lets in only clients whose certificate `authority` has signed, and answers each of their requests with this
/// JSON; it lives as long as the process. Gives the address.
///
/// # Panics
/// When there is no port, or the certificate cannot be used.
pub fn start_mutual(issued: &Issued, authority: &Authority, json: &'static str) -> SocketAddr {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).expect("an acceptor");
    acceptor.set_certificate_chain_file(&issued.certificate).expect("a certificate");
    acceptor.set_private_key_file(&issued.key, SslFiletype::PEM).expect("its key");
    acceptor.set_ca_file(authority.certificate()).expect("an authority");
    acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    let acceptor = acceptor.build();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a listener has an address");
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(mut client) = acceptor.accept(client) else { continue };
            // The requests of the tests come in one piece.
            let _ = client.read(&mut [0; 65_536]);
            let length = json.len();
            let _ = write!(client, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{json}");
            let _ = client.shutdown();
        }
    });
    address
}
