//! Annotations of a Service: what they say of its backends.
//!
//! A bad one is left out, with the default in its place, and the complaint says which that is.

use std::num::NonZeroU32;
use std::time::Duration;

use super::Policy;
use crate::kubernetes::index::Complaint;
use crate::kubernetes::objects::{Id, Service, parse_duration};
use crate::model::{
    AdaptiveConcurrency, Affinity, AffinityBy, AffinityCookie, AffinityMode, BackendProtocol, Balance,
    Concurrency, Ejection, HashKey, HedgePolicy, LoadReports, Locality, PeerName, Peers,
};

/// Prefix of all annotations that are ours.
pub(super) const PREFIX: &str = "tidegate.dev/";

/// The annotations of a Service, without the prefix.
pub(super) const KNOWN: &[&str] = &[
    "affinity",
    "balance",
    "concurrency",
    "connect-timeout",
    "ejection",
    "hash",
    "hedge",
    "load-reports",
    "locality",
    "max-in-flight",
    "mtls",
    "mtls-peers",
    "opaque",
    "protocol",
    "slow-start",
];

/// Most requests that a limit on concurrency may allow, as in the configuration file.
const MOST_CONCURRENT: u32 = 1_000_000;

/// The longest connect timeout or slow start that is taken.
const MAX_DURATION: Duration = Duration::from_secs(3600);

/// Whether a Service's endpoints are reached by mTLS, and who has to be there. What is asked for badly is asked for all the
/// same: in doubt nothing goes out in clear text.
pub(super) fn mtls(id: &Id, service: &Service, complaints: &mut Vec<Complaint>) -> Option<Peers> {
    let of_service = |word: &str| service.metadata.annotation(&format!("{PREFIX}{word}"));
    let mut complain = |word: &str, reason: String| {
        let field = format!("metadata.annotations[{PREFIX}{word}]");
        complaints.push(Complaint::new(field, reason));
    };
    let peers = of_service("mtls-peers");
    match of_service("mtls") {
        Some("false") => return None,
        Some("true") => {}
        Some(other) => complain(
            "mtls",
            format!("{other:?} is neither true nor false; it is taken for true"),
        ),
        None => {
            peers?;
        }
    }
    let Some(peers) = peers else {
        return Some(Peers(PeerName::of_namespace(&id.namespace).into_iter().collect()));
    };
    let names: Result<Vec<_>, _> = peers
        .split(',')
        .map(|name| PeerName::parse(name.trim()))
        .collect();
    let names = names.map_err(|error| {
        complain(
            "mtls-peers",
            format!("{error}; until it can be read nothing is sent there"),
        );
    });
    Some(Peers(names.unwrap_or_default()))
}

impl Policy {
    /// Leaves out hedging where requests are tied to an endpoint: a hedge goes to another one.
    pub(super) fn unhedge_ties(&mut self) {
        if self.backend.affinity.is_some() && self.backend.hedge.take().is_some() {
            let field = format!("metadata.annotations[{PREFIX}hedge]");
            let reason = "hedging sends requests to a second endpoint, and affinity keeps them at one; there is no hedging";
            self.complaints.push(Complaint::new(field, reason));
        }
    }

    pub(super) fn annotate(&mut self, word: &str, value: &str) -> Result<(), String> {
        let backend = &mut self.backend;
        match word {
            "affinity" => backend.affinity = Some(affinity(value)?),
            "balance" => {
                backend.balance = Balance::of_word(value).ok_or_else(|| {
                    let words = Balance::ALL.map(Balance::word).join(", ");
                    format!("{value:?} is none of {words}; least-latency is used")
                })?;
            }
            "concurrency" => backend.concurrency = concurrency(value)?,
            "connect-timeout" => {
                let timeout = duration(value, "2s")?;
                if timeout.is_zero() {
                    return Err("a connection takes longer than no time; 2s is used".to_owned());
                }
                backend.connect_timeout = timeout;
            }
            "ejection" => {
                backend.ejection = match value {
                    "on" | "true" => Some(Ejection::default()),
                    "off" | "false" => None,
                    _ => return Err(format!("{value:?} is neither on nor off; on is used")),
                };
            }
            "hash" => {
                backend.hash = HashKey::parse(value).ok_or_else(|| {
                    format!("{value:?} is none of source, path, header:NAME, cookie:NAME; source is used")
                })?;
            }
            "hedge" => backend.hedge = hedge(value)?,
            "load-reports" => backend.load_reports = load_reports(value)?,
            "locality" => {
                backend.locality = match value {
                    "hints" => Locality::Hints,
                    "off" => Locality::Off,
                    "zone" => Locality::Zone,
                    _ => return Err(format!("{value:?} is none of hints, off, zone; hints is used")),
                };
            }
            "max-in-flight" => {
                let bound: NonZeroU32 = value.parse().map_err(|_| {
                    format!(
                        "{value:?} is no number from 1 to {}; {} is used",
                        u32::MAX,
                        backend.limits.max_in_flight
                    )
                })?;
                backend.limits.max_in_flight = bound.get();
            }
            "mtls" | "mtls-peers" => {} // together, in `mtls`
            "opaque" => {
                backend.opaque = match value {
                    "true" => true,
                    "false" => false,
                    _ => {
                        return Err(format!(
                            "{value:?} is neither true nor false; appProtocol is used"
                        ));
                    }
                };
            }
            "protocol" => {
                backend.protocol = match value {
                    "http1" => BackendProtocol::Http1,
                    "h2c" => BackendProtocol::H2c,
                    _ => return Err(format!("{value:?} is neither http1 nor h2c; appProtocol is used")),
                };
                self.protocol_is_forced = true;
            }
            "slow-start" => backend.slow_start = duration(value, "none")?,
            _ => {
                let near = KNOWN
                    .iter()
                    .min_by_key(|known| strsim::damerau_levenshtein(known, word))
                    .filter(|known| strsim::damerau_levenshtein(known, word) <= 3);
                return Err(match near {
                    Some(near) => {
                        format!("there is no such annotation of a Service; did you mean {PREFIX}{near}?")
                    }
                    None => format!(
                        "there is no such annotation of a Service; there are {PREFIX}{{{}}}",
                        KNOWN.join(",")
                    ),
                });
            }
        }
        Ok(())
    }
}

/// `cookie`, `cookie:NAME`, `source` or `header:NAME`, and perhaps ` balanced` behind it.
fn affinity(value: &str) -> Result<Affinity, String> {
    let (by, mode) = match value.strip_suffix(" balanced") {
        Some(by) => (by, AffinityMode::Balanced),
        None => (value, AffinityMode::Strong),
    };
    let by = match HashKey::parse(by) {
        _ if by == "cookie" => AffinityBy::Cookie(AffinityCookie::default()),
        Some(HashKey::Cookie(name)) => AffinityBy::Cookie(AffinityCookie {
            name,
            ..AffinityCookie::default()
        }),
        Some(HashKey::Source) => AffinityBy::Source,
        Some(HashKey::Header(name)) => AffinityBy::Header(name),
        Some(HashKey::Path) | None => {
            return Err(format!(
                "{value:?} is none of cookie, cookie:NAME, source, header:NAME; there is no affinity"
            ));
        }
    };
    Ok(Affinity { by, mode })
}

/// `on`, `off`, or the share of requests that may be sent a second time.
fn hedge(value: &str) -> Result<Option<HedgePolicy>, String> {
    let default = HedgePolicy::default();
    let percent = || value.strip_suffix('%')?.parse::<u32>().ok();
    match (value, percent()) {
        ("on" | "true", _) => Ok(Some(default)),
        ("off" | "false", _) => Ok(None),
        (_, Some(percent @ 0..=100)) => Ok(Some(HedgePolicy { percent, ..default })),
        _ => Err(format!(
            "{value:?} is none of on, off and a whole percentage like 5%; off is used"
        )),
    }
}

/// `200`, `adaptive`, `none`.
fn concurrency(value: &str) -> Result<Option<Concurrency>, String> {
    match (value, value.parse::<u32>()) {
        ("adaptive", _) => Ok(Some(Concurrency::Adaptive(AdaptiveConcurrency::default()))),
        ("none", _) => Ok(None),
        (_, Ok(limit @ 1..=MOST_CONCURRENT)) => Ok(Some(Concurrency::Fixed(limit))),
        _ => Err(format!(
            "{value:?} is none of adaptive, none and a number from 1 to {MOST_CONCURRENT}; none is used"
        )),
    }
}

/// `off`, `ask` and `pass-on`, or several of them with commas between.
fn load_reports(value: &str) -> Result<LoadReports, String> {
    let mut reports = LoadReports::default();
    for word in value.split(',').map(str::trim) {
        match word {
            "ask" => reports.ask = true,
            "off" => reports.read = false,
            "pass-on" => reports.pass_on = true,
            _ => {
                return Err(format!(
                    "{word:?} is none of ask, off, pass-on; reports are read and not asked for"
                ));
            }
        }
    }
    if reports.ask && !reports.read && !reports.pass_on {
        return Err(
            "off and ask: nobody would get what is asked for; reports are read and not asked for".to_owned(),
        );
    }
    Ok(reports)
}

fn duration(value: &str, default: &str) -> Result<Duration, String> {
    let duration = parse_duration(value).map_err(|reason| format!("{reason}; {default} is used"))?;
    if duration > MAX_DURATION {
        return Err(format!("{value} is longer than an hour; {default} is used"));
    }
    Ok(duration)
}
