//! The plan of a relayed connection: where it goes, and what its end means. Pure, so that tables can test it.

use std::sync::Arc;

use super::copy::{CopyEnd, Side};
use super::redirected::Redirected;
use crate::balance::{Observed, Tie, hash_of_ip};
use crate::model::{AffinityBy, HashKey, ListenerName, RetryPolicy};
use crate::snapshot::{Backend, Bind, CompiledRule, Target};
use crate::telemetry::Outcome;
use crate::upstream::ConnectError;

/// A connection that is relayed.
#[derive(Clone, Debug)]
pub struct Forward {
    /// The listener that it came to.
    pub listener: ListenerName,
    /// The rule that leads on.
    pub rule: Arc<CompiledRule>,
    /// Where to.
    pub backend: Arc<Backend>,
}

/// Decides where a connection goes. `name`: the one that the client asked for in its TLS handshake, else empty. `random`
/// spreads connections over the shares of a rule; it is asked for only where there is a choice.
///
/// # Errors
/// The outcome of a connection that goes nowhere.
pub fn decide(bind: Option<&Bind>, name: &str, random: impl FnOnce() -> u64) -> Result<Forward, Outcome> {
    let found = bind
        .and_then(|bind| bind.find_opaque(name))
        .ok_or(Outcome::NoRoute)?;
    match &found.rule.split.choose(random).target {
        Target::Backend(backend) => Ok(Forward {
            listener: found.listener.name.clone(),
            rule: Arc::clone(found.rule),
            backend: Arc::clone(backend),
        }),
        Target::Invalid(_) | Target::None => Err(Outcome::BadReference),
    }
}

/// Where a redirected connection goes.
pub fn redirected(redirected: &Redirected) -> Forward {
    Forward {
        listener: redirected.listener.clone(),
        rule: Arc::clone(&redirected.destination.rule),
        backend: Arc::clone(&redirected.destination.backend),
    }
}

/// What ties a connection to an endpoint: nothing is known of it but where it comes from.
pub fn tie(policy: &crate::model::Backend, client: std::net::IpAddr) -> Tie {
    let by_source = match policy.affinity.as_ref().map(|affinity| &affinity.by) {
        Some(AffinityBy::Source) => true,
        Some(AffinityBy::Cookie(_) | AffinityBy::Header(_)) | None => {
            policy.balance.hashes() && policy.hash == HashKey::Source
        }
    };
    Tie {
        key: by_source.then(|| hash_of_ip(client)),
        endpoint: None,
    }
}

/// Whether another endpoint is asked after one gave no connection. Nothing of the client's was sent to anybody, so it is
/// always safe.
pub fn wants_another(policy: &RetryPolicy, tries: u8) -> bool {
    policy.on.connect_failure && tries < policy.attempts
}

/// Why there is no connection to an endpoint, and whether it is the endpoint's fault.
pub fn refused(error: &ConnectError) -> (Outcome, bool) {
    match error {
        ConnectError::Refused => (Outcome::ConnectRefused, true),
        ConnectError::TimedOut => (Outcome::ConnectTimeout, true),
        ConnectError::AtLimit => (Outcome::Overloaded, false),
        ConnectError::NoIdentity => (Outcome::NoIdentity, false),
        ConnectError::Handshake(_) => (Outcome::UpstreamReset, true),
        ConnectError::Untrusted(_) => (Outcome::ConnectUntrusted, true),
        ConnectError::Tls(_) => (Outcome::ConnectTls, true),
        ConnectError::Failed(_) => (Outcome::ConnectFailed, true),
    }
}

/// What the end of a relayed connection means: its outcome, and what it says of the endpoint if that never answered.
///
/// An endpoint that ends a connection on which it was asked something and has said nothing has failed: one that only
/// accepts and closes would otherwise look like the fastest of all.
pub fn verdict(end: CopyEnd, forth: u64, back: u64) -> (Outcome, Observed) {
    match end {
        CopyEnd::Finished(Side::Second) if back == 0 && forth > 0 => {
            (Outcome::UpstreamReset, Observed::Failed)
        }
        CopyEnd::Finished(_) => (Outcome::Relayed, Observed::Answered),
        CopyEnd::Broken(Side::First) => (Outcome::ClientGone, Observed::Answered),
        CopyEnd::Broken(Side::Second) if back == 0 => (Outcome::UpstreamReset, Observed::Failed),
        CopyEnd::Broken(Side::Second) => (Outcome::UpstreamTruncated, Observed::Failed),
        CopyEnd::Idle => (Outcome::RelayIdle, Observed::Answered),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_says_who_ended_it() {
        use CopyEnd::{Broken, Finished, Idle};
        use Side::{First, Second};
        for (end, forth, back, code, seen) in [
            (Finished(First), 0, 0, "relayed", Observed::Answered),
            (Finished(First), 9, 0, "relayed", Observed::Answered),
            (Finished(Second), 9, 9, "relayed", Observed::Answered),
            (Finished(Second), 0, 0, "relayed", Observed::Answered),
            (Finished(Second), 0, 9, "relayed", Observed::Answered),
            (Finished(Second), 9, 0, "upstream_reset", Observed::Failed),
            (Broken(First), 9, 9, "client_gone", Observed::Answered),
            (Broken(Second), 9, 0, "upstream_reset", Observed::Failed),
            (Broken(Second), 0, 0, "upstream_reset", Observed::Failed),
            (Broken(Second), 9, 9, "upstream_truncated", Observed::Failed),
            (Idle, 9, 9, "relay_idle", Observed::Answered),
        ] {
            let (outcome, observed) = verdict(end, forth, back);
            assert_eq!((outcome.code(), observed), (code, seen), "{end:?} {forth} {back}");
        }
    }

    #[test]
    fn only_the_source_ties_a_connection() {
        use crate::model::{Affinity, AffinityMode, Backend, Balance};
        let client = "10.0.0.7".parse().unwrap();
        let mut policy = Backend::new("b".into());
        assert_eq!(tie(&policy, client), Tie::default());
        policy.balance = Balance::Maglev;
        let key = Some(hash_of_ip(client));
        assert_eq!(tie(&policy, client).key, key);
        policy.hash = HashKey::Path;
        assert_eq!(tie(&policy, client).key, None);
        policy.affinity = Some(Affinity {
            by: AffinityBy::Source,
            mode: AffinityMode::Strong,
        });
        assert_eq!(tie(&policy, client).key, key);
    }

    #[test]
    fn no_connection_is_tried_elsewhere_while_the_rule_says_so() {
        let mut policy = RetryPolicy::default();
        assert!(wants_another(&policy, 2) && !wants_another(&policy, 3));
        policy.on.connect_failure = false;
        assert!(!wants_another(&policy, 1));
        assert_eq!(refused(&ConnectError::AtLimit), (Outcome::Overloaded, false));
    }
}
