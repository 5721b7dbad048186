//! How often which fault happens: the value of `--faults`.

use std::fmt;
use std::str::FromStr;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// 429, with a `Retry-After` in seconds or as a date.
    TooMany,
    /// 500.
    ServerError,
    /// 503.
    Unavailable,
    /// The connection is reset without an answer.
    Reset,
    /// The body ends before its `Content-Length`.
    Cut,
    /// 200 with a gateway's page instead of JSON.
    Html,
    /// 200 with nothing in it.
    Empty,
    /// The answer takes a while.
    Slow,
    /// The token is declared expired: 401.
    Expired,
    /// A page lacks rows that its cursor has passed.
    Short,
    /// A page repeats the cursor it was asked with.
    Loop,
    /// A page shows the next one's first row in place of its own last: the order of the rows is not
    /// the same in every answer, so that one row comes twice and one not at all.
    Drift,
    /// The texts of a page's times are written an hour ahead of the zone that was asked for, with the
    /// offset that goes with it: the same instants, by other rules for the zone.
    Zone,
    /// An answer without any row, as if there had never been one.
    Blank,
    /// A row is rubbish. A share of the rows, not of the requests.
    Garbage,
    /// Connections are reset for eight requests in a row.
    Outage,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 16] = [
        Self::TooMany,
        Self::ServerError,
        Self::Unavailable,
        Self::Reset,
        Self::Cut,
        Self::Html,
        Self::Empty,
        Self::Slow,
        Self::Expired,
        Self::Short,
        Self::Loop,
        Self::Drift,
        Self::Zone,
        Self::Blank,
        Self::Garbage,
        Self::Outage,
    ];

    /// What goes wrong between any two programs: what a bare percentage is spread over.
    pub const TRANSPORT: [Self; 8] = [
        Self::TooMany,
        Self::ServerError,
        Self::Unavailable,
        Self::Reset,
        Self::Cut,
        Self::Html,
        Self::Empty,
        Self::Slow,
    ];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TooMany => "429",
            Self::ServerError => "500",
            Self::Unavailable => "503",
            Self::Reset => "reset",
            Self::Cut => "cut",
            Self::Html => "html",
            Self::Empty => "empty",
            Self::Slow => "slow",
            Self::Expired => "expired",
            Self::Short => "short",
            Self::Loop => "loop",
            Self::Drift => "drift",
            Self::Zone => "zone",
            Self::Blank => "blank",
            Self::Garbage => "garbage",
            Self::Outage => "outage",
        }
    }

    /// Whether it only makes sense for an answer with rows.
    pub(super) const fn needs_report(self) -> bool {
        matches!(self, Self::Expired | Self::Short | Self::Loop | Self::Drift | Self::Zone | Self::Blank)
    }
}

/// A share for each kind of fault; the default has none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FaultMix {
    shares: [f64; Kind::ALL.len()],
}

/// Why a mix of faults cannot be read.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum FaultMixError {
    /// A name is not one of the kinds.
    #[error("there is no fault {0:?}; there are {names}", names = names())]
    UnknownKind(String),
    /// A share is no percentage.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// More than every request would fail.
    #[error("the faults of single requests make up {0:.1}%, more than all")]
    TooMuch(f64),
}

/// A text that is no share.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{0:?} is no percentage between 0% and 100%")]
pub struct ShareError(String);

fn names() -> String {
    Kind::ALL.map(Kind::name).join(", ")
}

/// Reads `5%` or `0.5%` as a share of one.
pub fn parse_share(text: &str) -> Result<f64, ShareError> {
    let number = text.trim().strip_suffix('%').and_then(|number| number.trim().parse().ok());
    let share = number.filter(|percent| (0.0..=100.0).contains(percent));
    share.map(|percent: f64| percent / 100.0).ok_or_else(|| ShareError(text.to_owned()))
}

impl FaultMix {
    /// `share` of all requests, spread evenly over [`Kind::TRANSPORT`].
    pub fn transport(share: f64) -> Self {
        let each = share / Kind::TRANSPORT.len() as f64;
        Kind::TRANSPORT.into_iter().fold(Self::default(), |mix, kind| mix.with(kind, each))
    }

    /// The mix with `share` of `kind`.
    #[must_use]
    pub fn with(mut self, kind: Kind, share: f64) -> Self {
        self.shares[kind as usize] = share;
        self
    }

    /// How often `kind` happens, between 0 and 1.
    pub fn share(&self, kind: Kind) -> f64 {
        self.shares[kind as usize]
    }

    /// The kind that the number `unit` in `[0, 1)` falls upon, of those decided per request.
    pub(super) fn pick(&self, mut unit: f64) -> Option<Kind> {
        Kind::ALL.into_iter().filter(|kind| kind.is_per_request()).find(|kind| {
            unit -= self.share(*kind);
            unit < 0.0
        })
    }
}

impl Kind {
    const fn is_per_request(self) -> bool {
        !matches!(self, Self::Garbage | Self::Outage)
    }
}

impl FromStr for FaultMix {
    type Err = FaultMixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !text.contains('=') {
            return Ok(Self::transport(parse_share(text)?));
        }
        let mut mix = Self::default();
        for part in text.split(',') {
            let (name, share) = part.split_once('=').unwrap_or((part, ""));
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name.trim());
            let kind = kind.ok_or_else(|| FaultMixError::UnknownKind(name.trim().to_owned()))?;
            mix = mix.with(kind, parse_share(share)?);
        }
        let single = Kind::ALL.into_iter().filter(|kind| kind.is_per_request());
        let sum: f64 = single.map(|kind| mix.share(kind)).sum();
        // A little over one is what adding decimal fractions gives.
        if sum > 1.0 + 1e-9 {
            return Err(FaultMixError::TooMuch(sum * 100.0));
        }
        Ok(mix)
    }
}

impl fmt::Display for FaultMix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = Kind::ALL.into_iter().filter(|kind| self.share(*kind) > 0.0).map(|kind| {
            let percent = self.share(kind) * 100.0;
            format!("{}={percent:.4}", kind.name()).trim_end_matches('0').trim_end_matches('.').to_owned()
        });
        let parts: Vec<String> = parts.map(|part| part + "%").collect();
        f.write_str(if parts.is_empty() { "none" } else { "" })?;
        f.write_str(&parts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_percentage_is_spread_over_the_transport() {
        let mix: FaultMix = "40%".parse().expect("a mix");
        assert_eq!(mix, FaultMix::transport(0.4));
        assert!((mix.share(Kind::Cut) - 0.05).abs() < 1e-12);
        assert_eq!(mix.share(Kind::Garbage), 0.0);
    }

    #[test]
    fn kinds_are_named() {
        let mix: FaultMix = "429=5%, cut=2.5%,garbage=1%".parse().expect("a mix");
        assert_eq!(mix.to_string(), "429=5%,cut=2.5%,garbage=1%");
        assert_eq!(mix.to_string().parse(), Ok(mix));
        assert_eq!(FaultMix::default().to_string(), "none");
        assert_eq!("outage=10%".parse::<FaultMix>().expect("a mix").to_string(), "outage=10%");
    }

    #[test]
    fn what_is_no_mix_is_refused_with_a_reason() {
        let refusals = ["", "30", "101%", "-1%", "NaN%", "429", "fire=5%", "429=60%,500=60%", "cut="];
        for text in refusals {
            assert!(text.parse::<FaultMix>().is_err(), "{text}");
        }
        let error = "fire=5%".parse::<FaultMix>().expect_err("no such kind").to_string();
        assert!(error.contains("garbage, outage"), "{error}");
    }

    #[test]
    fn kinds_are_picked_by_their_shares() {
        let mix = FaultMix::default().with(Kind::TooMany, 0.25).with(Kind::Loop, 0.25);
        let picks = [0.0, 0.249, 0.25, 0.499, 0.5, 0.999].map(|unit| mix.pick(unit));
        let (many, same) = (Some(Kind::TooMany), Some(Kind::Loop));
        assert_eq!(picks, [many, many, same, same, None, None]);
    }
}
