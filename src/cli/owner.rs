//! The running owner of this configuration, asked over its admin port with the token in the state directory.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::anyhow;
use reqwest::{Client, RequestBuilder};

use crate::admin::{BACKFILLS, ORDERS};
use crate::config::Config;
use crate::connector::Order;
use crate::error::{Ended, Exit, OrExit};
use crate::store::Token;
use crate::telemetry::status::BackfillStatus;

/// Building a large view anew takes minutes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Gives an order; its answer, or `None` when no owner runs here.
pub(super) async fn give(config: &Config, order: &Order) -> Result<Option<String>, Ended> {
    let body = serde_json::to_string(order).or_exit(Exit::Internal)?;
    ask(config, |client, at| client.post(format!("{at}{ORDERS}")).body(body)).await
}

/// How its backfills are; `None` when no owner runs here.
pub(super) async fn backfills(config: &Config) -> Result<Option<Vec<BackfillStatus>>, Ended> {
    let Some(said) = ask(config, |client, at| client.get(format!("{at}{BACKFILLS}"))).await? else { return Ok(None) };
    serde_json::from_str(&said).or_exit(Exit::State).map(Some)
}

/// Where whoever listens on an address is found from here.
pub(super) fn url_of(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    format!("http://{address}")
}

async fn ask(config: &Config, request: impl FnOnce(&Client, &str) -> RequestBuilder) -> Result<Option<String>, Ended> {
    // Without one that can be read, no owner runs on this directory, or none that would take orders from us.
    let Ok(token) = Token::read(&config.state.dir) else { return Ok(None) };
    let address = config.admin.listen;
    let client = Client::builder().no_proxy().timeout(ANSWER_TIMEOUT).build().or_exit(Exit::Internal)?;
    let answer = match request(&client, &url_of(address)).bearer_auth(token.expose()).send().await {
        Err(error) if error.is_connect() => return Ok(None),
        answer => {
            answer.map_err(|error| anyhow!("admin.listen: {address} does not answer: {error}")).or_exit(Exit::State)?
        }
    };
    let status = answer.status();
    let said = answer.text().await.or_exit(Exit::State)?;
    match status.as_u16() {
        200 => Ok(Some(said)),
        401 => Err(anyhow!(
            "admin.listen: whoever listens on {address} does not take the token in {}: it is another connector's",
            config.state.dir.display()
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
