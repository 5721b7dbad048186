//! The running owner of this configuration, asked over its admin port with the token in the state directory.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::anyhow;
use reqwest::{Client, RequestBuilder};
use url::Url;

use crate::admin::{BACKFILLS, ORDERS, PostedOrder};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::connector::Order;
use crate::core::journal::Nonce;
use crate::error::{Ended, Exit, OrExit};
use crate::http::{self, Fault};
use crate::store::Token;
use crate::telemetry::status::BackfillStatus;

/// Building a large view anew takes minutes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// More than any admin port says, with a thousand units.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Gives an order; its answer, or `None` when no owner runs here.
pub(super) async fn give(config: &Config, order: &Order) -> Result<Option<String>, Ended> {
    let id = Nonce(SystemClock.nonce()).to_string();
    let posted = PostedOrder { order: order.clone(), id: Some(id), within_s: Some(ANSWER_TIMEOUT.as_secs()) };
    let body = serde_json::to_string(&posted).or_exit(Exit::Internal)?;
    ask(config, ORDERS, |client, at| client.post(at).body(body)).await
}

/// How its backfills are; `None` when no owner runs here.
pub(super) async fn backfills(config: &Config) -> Result<Option<Vec<BackfillStatus>>, Ended> {
    let Some(said) = ask(config, BACKFILLS, Client::get).await? else { return Ok(None) };
    serde_json::from_str(&said).or_exit(Exit::State).map(Some)
}

/// Where whoever listens on an address is found from here.
pub(super) fn url_of(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    format!("http://{address}")
}

/// A client for an admin port, which is nothing that a proxy reaches.
pub(super) fn client(at: &Url, timeout: Duration) -> Result<Client, Ended> {
    http::builder(at).no_proxy().timeout(timeout).build().or_exit(Exit::Internal)
}

async fn ask(
    config: &Config,
    path: &str,
    request: impl FnOnce(&Client, Url) -> RequestBuilder,
) -> Result<Option<String>, Ended> {
    // Without one that can be read, no owner runs on this directory, or none that would take orders from us.
    let dir = config.state_dir().or_exit(Exit::Usage)?;
    let Ok(token) = Token::read(dir) else { return Ok(None) };
    let address = config.admin.listen;
    let at: Url = format!("{}{path}", url_of(address)).parse().or_exit(Exit::Internal)?;
    let request = request(&client(&at, ANSWER_TIMEOUT)?, at).bearer_auth(token.expose());
    let once_more = request.try_clone();
    let mut answer = http::send(request, ANSWER_BYTES_MAX).await;
    if let (Err(http::Error { fault: Fault::Broken | Fault::CutShort, .. }), Some(request)) = (&answer, once_more) {
        // An order has a name: asked again it is answered, and not carried out again.
        answer = http::send(request, ANSWER_BYTES_MAX).await;
    } else if answer.as_ref().is_err_and(|error| error.fault == Fault::NoConnection) {
        return Ok(None);
    }
    let http::Answer { status, body, .. } = answer
        .map_err(|error| {
            anyhow!(
                "admin.listen: {address} does not answer: {error}. call-legs state show tells whether it was done: look before you repeat it"
            )
        })
        .or_exit(Exit::State)?;
    let said = String::from_utf8_lossy(&body).into_owned();
    match status.as_u16() {
        200 => Ok(Some(said)),
        401 => Err(anyhow!(
            "admin.listen: whoever listens on {address} does not take the token in {}: it is another connector's",
            dir.display()
        ))
        .or_exit(Exit::State),
        409 => Err(anyhow!("{}", said.trim_end())).or_exit(Exit::Usage),
        _ => Err(anyhow!("the owner could not do it: {}", said.trim_end())).or_exit(Exit::State),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_for_all_is_found_here() {
        assert_eq!(url_of("0.0.0.0:9464".parse().unwrap()), "http://127.0.0.1:9464");
        assert_eq!(url_of("10.1.2.3:1".parse().unwrap()), "http://10.1.2.3:1");
    }
}
