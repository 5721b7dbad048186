//! TLS before a server that speaks none: what a load balancer does.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_native_tls::TlsAcceptor;
use tokio_native_tls::native_tls::{self, Identity, Protocol};

use super::certificates::Issued;

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
