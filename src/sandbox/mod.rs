//! The simulated API: what the connector is tried, shown and tested against.
//!
//! ```text
//!   dataset   seed → legs: late, changing, tied; or rows recorded from the real API
//!      │
//!     api     an instant and a request → an answer; no I/O, no clock
//!      │
//!   faults    … → what becomes of it on the way, decided by the seed and the request's number
//!      │
//!   server    … on a socket, with a clock and real resets
//! ```
//!
//! The lower two are what a simulation without sockets uses: [`faults::Faults::exchange`] takes
//! the present as a parameter and returns what would happen. Over HTTP, [`Sandbox::start`] puts
//! them on a port. A test compares what was published to [`api::Api::legs_visible`].
//!
//! It is written from the vendor's documents and not from the connector's code, and shares nothing
//! with it but instants, so that it can disagree. Production code never imports it.

use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub mod api;
mod args;
pub mod dataset;
mod dice;
pub mod faults;
mod lies;
mod mix;
mod rubbish;
mod server;
#[cfg(test)]
mod tests;

pub use args::SandboxArgs;
pub use rubbish::Rubbish;
pub use server::Sandbox;

use crate::core::time::UtcMillis;
use api::{Api, ApiSettings, Credentials, Rules};
use dataset::{Dataset, DatasetSettings, ReplayError};
use faults::{FaultMix, Faults, Kind};

/// The PBXs of a sandbox that is not told others.
pub const PBX_NAMES: [&str; 3] = ["acme-east", "acme-west", "acme-labs"];

/// The port of a sandbox that is not told another.
const PORT: u16 = 8099;

/// Everything that makes a sandbox.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where it listens; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Whom it lets in.
    pub credentials: Credentials,
    /// The legs; the seed also decides tokens, rubbish and faults.
    pub dataset: DatasetSettings,
    /// A file of recorded rows to serve instead.
    pub replay: Option<PathBuf>,
    /// How the API reads requests.
    pub rules: Rules,
    /// What goes wrong.
    pub faults: FaultMix,
    /// What its clock shows at the start, from where it runs on; none: the machine's time. It is
    /// also where the dataset's past ends.
    pub now: Option<UtcMillis>,
    /// How long a token is good for.
    pub token_life: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], PORT)),
            credentials: Credentials::default(),
            dataset: DatasetSettings::default(),
            replay: None,
            rules: Rules::default(),
            faults: FaultMix::default(),
            now: None,
            token_life: ApiSettings::default().token_life,
        }
    }
}

/// Why a sandbox does not start.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The recording cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The recording cannot be understood.
    #[error("cannot replay {}", path.display())]
    Replay {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ReplayError,
    },
    /// The address is not to be had.
    #[error("cannot listen at {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Nobody reads what is printed.
    #[error("cannot print")]
    Print(#[source] io::Error),
}

impl Settings {
    /// The API alone, with a past that ends at `origin`.
    pub fn api(&self, origin: UtcMillis) -> Result<Api, SandboxError> {
        let dataset = match &self.replay {
            None => Dataset::generated(self.dataset.clone(), origin),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| SandboxError::Read { path: path.clone(), source })?;
                Dataset::replay(&text).map_err(|source| SandboxError::Replay { path: path.clone(), source })?
            }
        };
        let settings = ApiSettings {
            credentials: self.credentials.clone(),
            rules: self.rules.clone(),
            token_life: self.token_life,
            garbage_share: self.faults.share(Kind::Garbage),
            seed: self.dataset.seed,
        };
        Ok(Api::new(settings, dataset))
    }

    /// The faults alone.
    pub fn faults(&self) -> Faults {
        Faults::new(self.dataset.seed, self.faults.clone())
    }
}

impl Sandbox {
    /// Starts a sandbox and returns when it listens.
    pub async fn start(settings: Settings) -> Result<Self, SandboxError> {
        let origin = settings.now.unwrap_or_else(server::machine_now);
        let api = Arc::new(settings.api(origin)?);
        let faults = Arc::new(settings.faults());
        let address = settings.listen;
        Self::serve(address, api, faults, settings.now).await.map_err(|source| SandboxError::Listen { address, source })
    }
}

/// The `sandbox` command: starts one, prints how to use it, and serves until `cancelled` resolves.
pub async fn run(args: SandboxArgs, cancelled: impl Future<Output = ()>) -> Result<(), SandboxError> {
    let sandbox = Sandbox::start(args.settings()).await?;
    io::stdout().write_all(greeting(&sandbox).as_bytes()).map_err(SandboxError::Print)?;
    cancelled.await;
    sandbox.stop().await;
    Ok(())
}

/// What a person needs to know to use a sandbox.
pub fn greeting(sandbox: &Sandbox) -> String {
    let api = sandbox.api();
    let Credentials { api_key, username, password } = api.credentials();
    let base_url = sandbox.base_url();
    let pbxes = api.pbxes();
    format!(
        "The simulated 8x8 Work Analytics API listens at {base_url}\n\
         API key {api_key}, user {username}, password {password}\n\
         PBXs {names}; its clock shows {now}\n\
         \n\
         For a configuration file:\n\
         \n\
         [source]\n\
         base_url = {base_url:?}\n\
         api_key = {api_key:?}\n\
         username = {username:?}\n\
         password = {password:?}\n\
         pbx_ids = {pbxes:?}\n\
         # The simulation takes as many as you like; with the default of 60 a first catch-up takes minutes.\n\
         requests_per_minute = 6000\n\
         \n\
         Started again it makes other legs under the same call IDs, which a connector that goes on takes for known\n\
         ones: give it another --seed then.\n\
         \n\
         Press Ctrl-C to stop.\n",
        names = pbxes.join(", "),
        now = sandbox.now(),
    )
}
