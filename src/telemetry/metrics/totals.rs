//! Totals: what was counted, summed over the workers at one moment.

use std::sync::Arc;

use super::super::detection::Detected;
use super::super::histogram::Histogram;
use super::super::mtls::Came;
use super::super::{HandshakeEnd, Outcome};
use super::{CLASSES, CRITICALITIES, EJECTIONS, PICKS};

/// Everything that is counted, at one moment (each number for itself; a record that is being
/// written meanwhile may be in one number and not yet in another).
#[derive(Clone, Debug)]
pub struct Totals {
    /// By name; the first is for exchanges without a backend, its name is empty.
    pub backends: Vec<BackendTotals>,
    /// The sum of backends that are gone.
    pub retired: BackendTotals,
    /// By name.
    pub listeners: Vec<ListenerTotals>,
    /// The number of the live snapshot; 0: none yet.
    pub snapshot_generation: u64,
    /// When it went live, microseconds since 1970; 0: never.
    pub snapshot_published_unix_us: u64,
    /// Objects left out of it.
    pub snapshot_rejects: u64,
    /// Configurations taken.
    pub reloads_ok: u64,
    /// Configurations refused.
    pub reloads_failed: u64,
    /// Whether the last one was taken (also when there was none).
    pub last_reload_ok: bool,
    /// Settings of the file that wait for a restart.
    pub settings_waiting: u64,
    /// How things stand with the API server; none: no cluster is followed.
    pub kubernetes: Option<Kubernetes>,
    /// The end of the identity towards other sidecars, in seconds since 1970; none: there is none.
    pub identity_ends: Option<u64>,
    /// Certificates by ACME, if there are any to be.
    pub acme: Option<Acme>,
    /// Sidecars that were injected, if this process injects any.
    pub injections: Option<Injections>,
    /// Lines of the access log thrown away.
    pub access_log_dropped: u64,
    /// Exchanges that have begun and not ended.
    pub in_flight: u64,
}

/// How things stand with certificates by ACME.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acme {
    /// Each name with the end of its certificate, in seconds since 1970; none: there is none.
    pub certificates: Vec<(String, Option<u64>)>,
    /// Orders that have led to a certificate.
    pub orders_ok: u64,
    /// Orders that came to nothing.
    pub orders_failed: u64,
}

/// What became of a Pod that an injector of sidecars was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injection {
    /// It got a sidecar.
    Injected,
    /// Nobody asked for one, or the Pod said no.
    NotAsked,
    /// It had one.
    Already,
    /// It cannot have one.
    Impossible,
    /// What was asked could not be understood.
    Misunderstood,
    /// The question could not be answered.
    Failed,
}

impl Injection {
    /// All there are.
    pub const ALL: [Self; 6] = [
        Self::Injected,
        Self::NotAsked,
        Self::Already,
        Self::Impossible,
        Self::Misunderstood,
        Self::Failed,
    ];

    /// The word for it in metrics.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::NotAsked => "not_asked",
            Self::Already => "already",
            Self::Impossible => "impossible",
            Self::Misunderstood => "misunderstood",
            Self::Failed => "failed",
        }
    }
}

/// Sidecars that were injected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Injections {
    /// Questions of the API server, in the order of [`Injection::ALL`].
    pub reviews: [u64; Injection::ALL.len()],
    /// The end of the certificate that the API server is shown, in seconds since 1970; none: there is none yet.
    pub certificate_ends: Option<u64>,
}

/// How things stand with the API server of a Kubernetes cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kubernetes {
    /// Whether the cluster was read whole and is live.
    pub synced: bool,
    /// Kinds of objects that cannot be followed at the moment.
    pub away: u64,
    /// Changes of single objects that came.
    pub events: u64,
    /// Lists that were read whole.
    pub lists: u64,
    /// Questions that failed.
    pub failures: u64,
}

/// How a backend's limit on concurrency stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Concurrency {
    /// How many requests may wait for their response's head at once.
    pub limit: u64,
    /// How many do.
    pub in_flight: u64,
    /// How many wait to be sent.
    pub queued: u64,
}

/// The sums of one backend.
#[derive(Clone, Debug, Default)]
pub struct BackendTotals {
    /// The name.
    pub name: Arc<str>,
    /// Ended exchanges by [`Outcome::index`] and place in [`CLASSES`].
    pub exchanges: Exchanges,
    /// From the request's head to the response's end.
    pub duration: Histogram,
    /// From the request's head to the head of an endpoint's response.
    pub head: Histogram,
    /// Bytes of requests' bodies.
    pub request_bytes: u64,
    /// Bytes of responses' bodies.
    pub response_bytes: u64,
    /// Attempts after the first.
    pub retries: u64,
    /// Retries that the budget did not allow.
    pub retries_denied: u64,
    /// Second attempts beside slow ones.
    pub hedges: u64,
    /// Those of them that counted.
    pub hedges_won: u64,
    /// Second attempts that the budget did not allow.
    pub hedges_denied: u64,
    /// Connections made to endpoints.
    pub connections_made: u64,
    /// Connections that could not be made.
    pub connections_failed: u64,
    /// Attempts over connections which were there already.
    pub connections_reused: u64,
    /// Picks, by place in [`PICKS`].
    pub picks: [u64; PICKS.len()],
    /// Load reports of endpoints that were read.
    pub load_reports: u64,
    /// Load reports of endpoints that could not be read.
    pub load_reports_refused: u64,
    /// Requests refused because of what they are, by place in [`CRITICALITIES`].
    pub sheds: [u64; CRITICALITIES.len()],
    /// How the limit on concurrency stands; none where there is none.
    pub concurrency: Option<Concurrency>,
    /// Endpoints set aside, by place in [`EJECTIONS`].
    pub ejections_by: [u64; EJECTIONS.len()],
    /// Times that availability began to be ignored.
    pub panics: u64,
}

impl BackendTotals {
    /// Ended exchanges.
    pub fn requests(&self) -> u64 {
        self.exchanges.iter().map(|(_, _, count)| count).sum()
    }

    /// Those that failed through no fault of the client: see [`Outcome::is_failure`]; also what was
    /// answered with a 5xx.
    pub fn failures(&self) -> u64 {
        self.exchanges
            .iter()
            .filter(|(outcome, class, _)| outcome.is_failure() || *class == "5xx")
            .map(|(_, _, count)| count)
            .sum()
    }

    /// Endpoints set aside.
    pub fn ejections(&self) -> u64 {
        self.ejections_by.iter().sum()
    }

    /// Adds another's sums; the name stays.
    pub fn merge(&mut self, other: &Self) {
        self.exchanges.merge(&other.exchanges);
        self.duration.merge(&other.duration);
        self.head.merge(&other.head);
        self.request_bytes += other.request_bytes;
        self.response_bytes += other.response_bytes;
        self.retries += other.retries;
        self.retries_denied += other.retries_denied;
        self.hedges += other.hedges;
        self.hedges_won += other.hedges_won;
        self.hedges_denied += other.hedges_denied;
        self.connections_made += other.connections_made;
        self.connections_failed += other.connections_failed;
        self.connections_reused += other.connections_reused;
        self.load_reports += other.load_reports;
        self.load_reports_refused += other.load_reports_refused;
        self.panics += other.panics;
        for (count, more) in self.ejections_by.iter_mut().zip(other.ejections_by) {
            *count += more;
        }
        for (count, more) in self.sheds.iter_mut().zip(other.sheds) {
            *count += more;
        }
        for (count, more) in self.picks.iter_mut().zip(other.picks) {
            *count += more;
        }
    }
}

/// Ended exchanges by outcome and class of status.
#[derive(Clone, Debug)]
pub struct Exchanges(pub(super) [[u64; CLASSES.len()]; Outcome::ALL.len()]);

impl Exchanges {
    /// Every outcome and class, with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Outcome, &'static str, u64)> {
        Outcome::ALL.iter().zip(&self.0).flat_map(|(outcome, row)| {
            CLASSES
                .iter()
                .zip(row)
                .map(|(class, count)| (*outcome, *class, *count))
        })
    }

    fn merge(&mut self, other: &Self) {
        let others = other.0.iter().flatten();
        for (count, more) in self.0.iter_mut().flatten().zip(others) {
            *count += more;
        }
    }
}

impl Default for Exchanges {
    fn default() -> Self {
        Self([[0; CLASSES.len()]; Outcome::ALL.len()])
    }
}

/// The sums of one listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerTotals {
    /// The name.
    pub name: Arc<str>,
    /// Connections taken since the start.
    pub opened: u64,
    /// Connections ended.
    pub closed: u64,
    /// Connections closed at once, because a bound was reached.
    pub refused: u64,
    /// Connections given to another worker.
    pub handed_off: u64,
    /// Ended TLS handshakes by [`HandshakeEnd::index`].
    pub handshakes: [u64; HandshakeEnd::ALL.len()],
    /// What was found on redirected connections, by [`Detected::index`].
    pub detected: [u64; Detected::ALL.len()],
    /// How connections came where mTLS is asked for, by [`Came::index`].
    pub came: [u64; Came::ALL.len()],
}

impl ListenerTotals {
    /// Connections open now.
    pub fn open(&self) -> u64 {
        self.opened.saturating_sub(self.closed)
    }
}
