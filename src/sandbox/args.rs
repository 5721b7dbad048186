//! The sandbox's command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use chrono::DateTime;

use super::api::Rules;
use super::dataset::DatasetSettings;
use super::faults::{FaultMix, parse_share};
use super::{PBX_NAMES, Settings};
use crate::core::time::UtcMillis;

/// Serves a simulated 8x8 Work Analytics API, for trying the connector without an account
///
/// It answers the token call and the call-legs report as the vendor documents them, checks
/// credentials and parameters, and invents call legs: the same ones for the same --seed and --now.
/// Unlike the real one it can be told to be late, to change its mind and to fail.
#[derive(Clone, Debug, clap::Args)]
pub struct SandboxArgs {
    /// Where to listen; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8099")]
    pub listen: SocketAddr,

    /// How many legs ended before the start
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    pub legs: u64,

    /// Over how long before the start those legs are spread
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_duration)]
    pub span: Duration,

    /// How many legs end per second from the start on; 0 for none, 0.5 for one every two seconds
    #[arg(long, value_name = "LEGS", default_value_t = 2.0, value_parser = parse_rate)]
    pub rate: f64,

    /// For how long legs go on ending at --rate, to a few seconds; for ever without it
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub live_for: Option<Duration>,

    /// Let some legs appear up to this long after they ended, as the real API may
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
    pub late: Duration,

    /// The share of legs that are late; the others appear within two seconds, or --late if that is less
    #[arg(long, value_name = "SHARE", default_value = "10%", value_parser = parse_share)]
    pub late_share: f64,

    /// The share of legs whose content changes after they appeared
    #[arg(long, value_name = "SHARE", default_value = "0%", value_parser = parse_share)]
    pub revised: f64,

    /// Within how long after they appeared it changes
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    pub revised_within: Duration,

    /// Show calls that last, with the status "In Progress" and no disconnect time
    #[arg(long)]
    pub unfinished: bool,

    /// Decides every leg and every fault; another number, another world
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,

    /// What goes wrong, and how often
    ///
    /// A share of all requests, such as 30%, spread evenly over 429, 500, 503, reset, cut, html,
    /// empty and slow. Or single kinds, such as 429=5%,cut=2%,garbage=1%. Besides the above there
    /// are: expired (the token is refused), short (a page lacks rows), loop (a page repeats its
    /// cursor), drift (a page shows the next one's first row in place of its own last, so that one
    /// comes twice and one not at all), blank (an answer without any row), zone (a page's time texts are in a zone that was not asked
    /// for), outage (eight requests in a row are reset) and garbage (a share of the rows, not of the requests, is
    /// rubbish; half of it is mended within ten minutes).
    #[arg(long, value_name = "MIX", default_value = "0%")]
    pub faults: FaultMix,

    /// What its clock shows at the start, such as 2026-03-29T00:55:00Z; it runs on from there
    ///
    /// The legs are those before and after this instant. Without it the clock is the machine's,
    /// and every start makes other legs.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub now: Option<UtcMillis>,

    /// Serve the rows in this file, recorded from the real API, instead of inventing any
    ///
    /// The file holds replies as they came ({"meta":…,"data":[…]}), one or several, or one row a
    /// line. Rows are served as they are, their time texts too: source.time_zone should be the zone
    /// that they were recorded in. --legs, --span, --rate, --live-for, --late,
    /// --revised and what belongs to them, --unfinished and --pbx do not apply.
    #[arg(long, value_name = "FILE")]
    pub replay: Option<PathBuf>,

    /// Hide what is older than two years also when serving recorded rows
    ///
    /// Invented legs are always hidden then, as in the real API.
    #[arg(long)]
    pub two_year_limit: bool,

    /// How long an access token is good for
    #[arg(long, value_name = "DURATION", default_value = "1800s", value_parser = parse_duration)]
    pub token_life: Duration,

    /// The name of a PBX; may be given several times
    #[arg(long, value_name = "NAME", default_values = PBX_NAMES)]
    pub pbx: Vec<String>,
}

fn parse_duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.0..=10_000.0).contains(rate));
    rate.ok_or_else(|| "a number of legs per second between 0 and 10000 is needed".to_owned())
}

fn parse_time(text: &str) -> Result<UtcMillis, chrono::ParseError> {
    DateTime::parse_from_rfc3339(text).map(|time| time.to_utc().into())
}

impl SandboxArgs {
    /// What the arguments ask for.
    pub fn settings(&self) -> Settings {
        Settings {
            listen: self.listen,
            dataset: DatasetSettings {
                seed: self.seed,
                legs: self.legs,
                span: self.span,
                rate: self.rate,
                live_for: self.live_for,
                late: self.late,
                late_share: self.late_share,
                revised_share: self.revised,
                revised_within: self.revised_within,
                pbxes: self.pbx.clone(),
            },
            replay: self.replay.clone(),
            rules: Rules {
                unfinished: self.unfinished,
                two_year_limit: self.two_year_limit || self.replay.is_none(),
                ..Rules::default()
            },
            faults: self.faults.clone(),
            now: self.now,
            token_life: self.token_life,
            ..Settings::default()
        }
    }
}
