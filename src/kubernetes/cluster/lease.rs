//! The lease: which replica writes.
//!
//! One Lease object in our own namespace (`coordination.k8s.io/v1`), with the manners of Kubernetes' own leader election: the
//! holder renews it every 5 s; who wants it takes it when it has not been renewed for 15 s. That is judged by one's own
//! clock, from when a renewal was first *seen*, so clocks need not agree. Every write names the version it changes, so of two that
//! take it at once one fails. A holder that could not renew for 10 s stops writing before another may begin.
//!
//! A process that ends in good order gives it up, so that another need not wait.
//!
//! It gates the writing alone (of status and Events; of an injector's certificate): every replica watches and serves.
//!
//! [`Hold`] wants it for the life of the process. [`Claim`] wants it for a piece of work, and asks when there is some: who orders
//! certificates.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Request;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::kubernetes::objects::format_time;

/// The name of the Lease of those that write status.
pub(super) const NAME: &str = "tidegate";

/// How long it holds without renewal.
const DURATION: Duration = Duration::from_secs(15);

/// How often it is looked at, and renewed by the holder.
const RENEW: Duration = Duration::from_secs(5);

/// When a holder that could not renew stops writing.
const GIVE_UP: Duration = Duration::from_secs(10);

/// A lease as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Held {
    holder: String,
    renewed: String,
    transitions: i64,
}

/// A Lease, and who wants it.
struct Lease {
    client: Client,
    me: String,
    namespace: String,
    name: String,
    /// How long it holds without renewal.
    duration: Duration,
}

impl Lease {
    /// The path of all Leases of its namespace.
    fn all(&self) -> String {
        format!(
            "/apis/coordination.k8s.io/v1/namespaces/{}/leases",
            self.namespace
        )
    }

    /// The path of this one.
    fn own(&self) -> String {
        format!("{}/{}", self.all(), self.name)
    }
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// It is another's.
    Wait,
    /// It is ours already.
    Renew,
    /// It is nobody's, or no longer its holder's.
    Take,
}

/// What to do about a lease that has been seen as it is for this long.
fn decide(me: &str, held: &Held, unchanged: Duration, duration: Duration) -> Act {
    if held.holder == me {
        Act::Renew
    } else if held.holder.is_empty() || unchanged >= duration {
        Act::Take
    } else {
        Act::Wait
    }
}

/// Gives up the lease.
#[derive(Clone, Debug)]
pub struct Resign {
    end: Arc<watch::Sender<bool>>,
    over: watch::Receiver<bool>,
}

impl Resign {
    /// Stops writing and gives up the lease, if it is ours. Waits until that is done, for as long as a turn may take.
    pub async fn resign(mut self) {
        self.end.send_replace(true);
        let _ = timeout(RENEW, self.over.wait_for(|over| *over)).await;
    }
}

/// Holds the lease when it can be had; says whether it does.
pub struct Hold {
    lease: Lease,
    leading: watch::Sender<bool>,
    end: watch::Receiver<bool>,
    over: watch::Sender<bool>,
}

impl Hold {
    /// With a name that no other replica has, the Lease's name, and what is told whether it leads.
    pub fn new(client: Client, me: String, name: &str, leading: watch::Sender<bool>) -> (Self, Resign) {
        let (end, is_end) = watch::channel(false);
        let (over, is_over) = watch::channel(false);
        let resign = Resign {
            end: Arc::new(end),
            over: is_over,
        };
        let hold = Self {
            lease: Lease {
                namespace: client.default_namespace().to_owned(),
                client,
                me,
                name: name.to_owned(),
                duration: DURATION,
            },
            leading,
            end: is_end,
            over,
        };
        (hold, resign)
    }

    /// Until nobody listens, or it is given up.
    pub async fn run(mut self) {
        let lease = &self.lease;
        let (namespace, name) = (&lease.namespace, &lease.name);
        let mut seen = (Held::default(), Instant::now());
        let mut renewed = Instant::now();
        while !*self.end.borrow() {
            let leads = *self.leading.borrow();
            let held = match timeout(RENEW, turn(lease, &mut seen)).await {
                Ok(Ok(held)) => held,
                Ok(Err(error)) => {
                    tracing::debug!("the lease {namespace}/{name} cannot be had: {error}");
                    leads && renewed.elapsed() < GIVE_UP
                }
                Err(_) => leads && renewed.elapsed() < GIVE_UP,
            };
            if held && !leads {
                tracing::info!(
                    "this replica holds the lease {namespace}/{name} now and writes, as {}",
                    lease.me
                );
            }
            self.leading
                .send_if_modified(|now| std::mem::replace(now, held) != held);
            if held {
                renewed = seen.1.max(renewed);
            }
            if self.leading.is_closed() {
                return;
            }
            let _ = timeout(RENEW, self.end.wait_for(|end| *end)).await;
        }
        // First nothing more is written here, then another may.
        if self.leading.send_replace(false) {
            match timeout(RENEW, give_up(lease)).await {
                Ok(Ok(())) => tracing::info!("this replica has given up the lease {namespace}/{name}"),
                Ok(Err(error)) => {
                    tracing::debug!("the lease {namespace}/{name} cannot be given up: {error}");
                }
                Err(_) => tracing::debug!("the lease {namespace}/{name} cannot be given up in time"),
            }
        }
        self.over.send_replace(true);
    }
}

/// Asks for a lease when there is something to do.
pub struct Claim {
    lease: Arc<Lease>,
    seen: (Held, Instant),
    /// What holds it for us, or is about to give it up.
    holding: Option<JoinHandle<()>>,
}

/// A lease that is held for a piece of work.
pub struct Grip {
    /// Until when it surely is, if it is not renewed; none: it is lost.
    pub held: watch::Receiver<Option<Instant>>,
    /// Dropped, the lease is given up.
    pub keeps: watch::Sender<bool>,
    /// When that is done.
    pub over: oneshot::Receiver<()>,
}

impl Claim {
    /// With a name that no other replica has, the place of the Lease, and how long it holds without renewal.
    pub fn new(client: Client, me: String, namespace: &str, name: &str, duration: Duration) -> Self {
        let lease = Lease {
            client,
            me,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            duration,
        };
        Self {
            lease: Arc::new(lease),
            seen: (Held::default(), Instant::now()),
            holding: None,
        }
    }

    /// Looks at the lease, and takes it if that may be; none: another has it, or what we had is not given up yet. From then on it is renewed. That its holder has died is
    /// seen by asking again.
    ///
    /// # Errors
    /// Why it cannot be asked for, in words.
    pub async fn take(&mut self) -> Result<Option<Grip>, String> {
        // It would give up what was taken anew.
        if self.holding.as_ref().is_some_and(|task| !task.is_finished()) {
            return Ok(None);
        }
        let begun = Instant::now();
        let asked = timeout(self.lease.duration / 3, turn(&self.lease, &mut self.seen)).await;
        match asked {
            Err(_) => return Err("the API server does not answer".to_owned()),
            // Another was quicker.
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => return Ok(None),
            Ok(Err(error)) => return Err(error.to_string()),
            Ok(Ok(false)) => return Ok(None),
            Ok(Ok(true)) => {}
        }
        let until = begun + 2 * (self.lease.duration / 3);
        let (says, held) = watch::channel(Some(until));
        let (keeps, kept) = watch::channel(true);
        let (done, over) = oneshot::channel();
        let holding = keep(Arc::clone(&self.lease), until, says, kept, done);
        self.holding = Some(tokio::spawn(holding));
        Ok(Some(Grip { held, keeps, over }))
    }
}

/// Renews a lease until nobody needs it, or another has it, or that cannot be ruled out; then gives it up.
async fn keep(
    lease: Arc<Lease>,
    mut until: Instant,
    says: watch::Sender<Option<Instant>>,
    mut kept: watch::Receiver<bool>,
    done: oneshot::Sender<()>,
) {
    let renew = lease.duration / 3;
    let mut seen = (Held::default(), Instant::now());
    loop {
        tokio::select! {
            // Only an end is ever told.
            _ = kept.changed() => break,
            () = tokio::time::sleep(renew) => {}
        }
        // A renewal counts from before it was asked for.
        let asked = Instant::now();
        let is_ours = tokio::select! {
            _ = kept.changed() => break,
            is_ours = timeout_at(until, turn(&lease, &mut seen)) => is_ours,
        };
        match is_ours {
            Ok(Ok(true)) => {
                until = asked + 2 * renew;
                says.send_replace(Some(until));
            }
            Ok(Err(error)) if Instant::now() < until => {
                tracing::debug!("the lease {} cannot be renewed: {error}", lease.name);
            }
            Ok(Ok(false) | Err(_)) | Err(_) => break,
        }
    }
    // First nothing more is written here, then another may.
    says.send_replace(None);
    let _ = timeout(renew, give_up(&lease)).await;
    let _ = done.send(());
}

/// Makes it nobody's, if it is ours. Who wants it need not wait until it would have ended.
async fn give_up(of: &Lease) -> Result<(), kube::Error> {
    let path = of.own();
    let mut lease: Value = of.client.request(ask("GET", &path, None)?).await?;
    if lease["spec"]["holderIdentity"] == of.me {
        lease["spec"]["holderIdentity"] = json!("");
        let _: Value = of.client.request(ask("PUT", &path, Some(&lease))?).await?;
    }
    Ok(())
}

/// Looks at the lease, and renews or takes it; whether it is ours then.
async fn turn(of: &Lease, seen: &mut (Held, Instant)) -> Result<bool, kube::Error> {
    let Lease {
        client, me, duration, ..
    } = of;
    let now = format_time(unix_now()).replace('Z', ".000000Z");
    let mine = |acquired: &Value, transitions: i64| {
        json!({
            "holderIdentity": me,
            "leaseDurationSeconds": duration.as_secs().max(1),
            "acquireTime": acquired,
            "renewTime": now,
            "leaseTransitions": transitions,
        })
    };
    let found: Result<Value, kube::Error> = client.request(ask("GET", &of.own(), None)?).await;
    let mut lease = match found {
        Ok(lease) => lease,
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": of.name},
                "spec": mine(&json!(now), 0),
            });
            let _: Value = client.request(ask("POST", &of.all(), Some(&lease))?).await?;
            seen.1 = Instant::now();
            return Ok(true);
        }
        Err(error) => return Err(error),
    };
    let text = |name: &str| lease["spec"][name].as_str().unwrap_or_default().to_owned();
    let held = Held {
        holder: text("holderIdentity"),
        renewed: text("renewTime"),
        transitions: lease["spec"]["leaseTransitions"].as_i64().unwrap_or(0),
    };
    if seen.0 != held {
        *seen = (held.clone(), Instant::now());
    }
    let spec = match decide(me, &held, seen.1.elapsed(), *duration) {
        Act::Wait => return Ok(false),
        Act::Renew => mine(&lease["spec"]["acquireTime"], held.transitions),
        Act::Take => mine(&json!(now), held.transitions.saturating_add(1)),
    };
    lease["spec"] = spec;
    let _: Value = client.request(ask("PUT", &of.own(), Some(&lease))?).await?;
    seen.1 = Instant::now();
    Ok(true)
}

/// A request with a body of JSON.
///
/// # Errors
/// The path is none.
pub fn ask(method: &str, path: &str, body: Option<&Value>) -> Result<Request<Vec<u8>>, kube::Error> {
    let kind = match method {
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, kind)
        .body(body.map(|body| body.to_string().into_bytes()).unwrap_or_default())
        .map_err(kube::Error::HttpError)
}

/// Seconds since 1970.
pub(super) fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_renewed_taken_or_waited_for() {
        let held = |holder: &str| Held {
            holder: holder.to_owned(),
            ..Held::default()
        };
        for (holder, unchanged, act) in [
            ("me", 0, Act::Renew),
            ("me", 100, Act::Renew),
            ("other", 0, Act::Wait),
            ("other", 14, Act::Wait),
            ("other", 15, Act::Take),
            ("", 0, Act::Take),
        ] {
            assert_eq!(
                decide("me", &held(holder), Duration::from_secs(unchanged), DURATION),
                act,
                "{holder} {unchanged}"
            );
        }
    }
}
