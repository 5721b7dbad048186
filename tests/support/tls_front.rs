//! TLS before a server that speaks none: what a load balancer does.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::certificates::Issued;

/// Listens on the loopback interface with this certificate, for as long as the runtime lives, and passes on to `server`
/// what comes. Gives the address.
///
/// # Panics
/// When there is no port, or the certificate cannot be used.
pub async fn start(issued: &Issued, server: SocketAddr) -> SocketAddr {
    let certificate = CertificateDer::from_pem_file(&issued.certificate).expect("a PEM certificate");
    let key = PrivateKeyDer::from_pem_file(&issued.key).expect("a PEM key");
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
    let acceptor = TlsAcceptor::from(Arc::new(config.expect("a certificate and its key")));
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
