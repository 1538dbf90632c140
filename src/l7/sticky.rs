//! Ties of a request to an endpoint: read from its head once, if the backend's policy asks for it, and for affinity by
//! cookie told to the client.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Request};

use super::downstream::Downstream;
use super::plan::Forward;
use crate::balance::{EndpointCell, Tie, hash_of, hash_of_ip, tag_of};
use crate::model::{self, AffinityBy, AffinityCookie, HashKey};

/// What ties one exchange to an endpoint.
pub struct Sticky {
    /// For the pick.
    pub tie: Tie,
    policy: Arc<model::Backend>,
}

impl Sticky {
    /// The tie of a request; none when its backend's policy knows none.
    pub fn of<B>(forward: &Forward<'_>, request: &Request<B>, from: &Downstream) -> Option<Self> {
        if !forward.backend.ties() {
            return None;
        }
        let policy = forward.backend.with_fleet(|fleet| Arc::clone(fleet.policy()));
        let source = || source(from.peer.ip(), from.trusted, request.headers());
        let tie = tie(&policy, request.headers(), request.uri().path(), source);
        Some(Self { tie, policy })
    }

    /// Tells the client where it was, if it does not know it yet.
    pub fn mark(&self, headers: &mut HeaderMap, cell: &EndpointCell) {
        let Some(AffinityBy::Cookie(cookie)) = self.policy.affinity.as_ref().map(|affinity| &affinity.by)
        else {
            return;
        };
        let tag = tag_of(self.policy.name.as_str(), cell.address());
        if self.tie.endpoint != Some(tag)
            && let Ok(value) = HeaderValue::from_str(&set_cookie(cookie, tag))
        {
            headers.append(SET_COOKIE, value);
        }
    }
}

fn tie(policy: &model::Backend, headers: &HeaderMap, path: &str, source: impl Fn() -> IpAddr) -> Tie {
    let mut tie = Tie::default();
    let field = |name: &HeaderName| headers.get(name).map(|value| hash_of(value.as_bytes()));
    match policy.affinity.as_ref().map(|affinity| &affinity.by) {
        Some(AffinityBy::Cookie(cookie)) => {
            let value = cookie_of(headers, &cookie.name);
            tie.endpoint = value.and_then(|value| u64::from_str_radix(value, 16).ok());
        }
        Some(AffinityBy::Header(name)) => tie.key = field(name),
        Some(AffinityBy::Source) => tie.key = Some(hash_of_ip(source())),
        None => {}
    }
    if tie.key.is_none() && policy.balance.hashes() {
        tie.key = match &policy.hash {
            HashKey::Source => Some(hash_of_ip(source())),
            HashKey::Path => Some(hash_of(path.as_bytes())),
            HashKey::Header(name) => field(name),
            HashKey::Cookie(name) => cookie_of(headers, name).map(|value| hash_of(value.as_bytes())),
        };
    }
    tie
}

/// The client's address: the peer's, or that which a trusted peer saw, as the last word of its `X-Forwarded-For` says.
fn source(peer: IpAddr, trusted: bool, headers: &HeaderMap) -> IpAddr {
    const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
    if !trusted {
        return peer;
    }
    let last = headers.get_all(FORWARDED_FOR).iter().next_back();
    last.and_then(|value| value.to_str().ok())
        .and_then(|text| text.rsplit(',').next()?.trim().parse().ok())
        .unwrap_or(peer)
}

/// The value of the first cookie of a name (RFC 6265 §4.2; a client may send several `Cookie` fields on HTTP/2).
fn cookie_of<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(';'))
        .find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            (key.trim() == name).then_some(value.trim())
        })
}

fn set_cookie(cookie: &AffinityCookie, tag: u64) -> String {
    let AffinityCookie {
        name,
        path,
        same_site,
        ..
    } = cookie;
    let mut text = format!(
        "{name}={tag:016x}; Path={path}; HttpOnly; SameSite={}",
        same_site.word()
    );
    if let Some(ttl) = cookie.ttl {
        text.push_str(&format!("; Max-Age={}", ttl.as_secs()));
    }
    if cookie.secure {
        text.push_str("; Secure");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Affinity, AffinityMode, Backend, BackendName, Balance, SameSite};

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn ways_to_pick_and_reasons_to_eject_are_counted_under_their_names() {
        use crate::balance::{How, Reason};
        assert_eq!(How::ALL.map(How::word), crate::telemetry::metrics::PICKS);
        let classes = crate::model::Criticality::ALL.map(crate::model::Criticality::word);
        assert_eq!(classes, crate::telemetry::metrics::CRITICALITIES);
        for (place, how) in How::ALL.into_iter().enumerate() {
            assert_eq!(how as usize, place);
        }
        assert_eq!(
            Reason::ALL.map(Reason::word),
            crate::telemetry::metrics::EJECTIONS
        );
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
        }
    }

    #[test]
    fn cookies_are_found() {
        let headers = headers(&[
            ("cookie", "a=1; tidegate=00ff ;tidegate=2"),
            ("cookie", "b=3;c; d = 4"),
        ]);
        for (name, value) in [
            ("a", Some("1")),
            ("tidegate", Some("00ff")),
            ("b", Some("3")),
            ("d", Some("4")),
            ("c", None),
            ("e", None),
        ] {
            assert_eq!(cookie_of(&headers, name), value, "{name}");
        }
    }

    #[test]
    fn only_a_trusted_peer_may_name_the_client() {
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        for (fields, trusted, expected) in [
            (&[][..], true, "10.0.0.1"),
            (&[("x-forwarded-for", "1.1.1.1")], false, "10.0.0.1"),
            (&[("x-forwarded-for", "9.9.9.9, 1.1.1.1")], true, "1.1.1.1"),
            (
                &[("x-forwarded-for", "9.9.9.9"), ("x-forwarded-for", "2.2.2.2")],
                true,
                "2.2.2.2",
            ),
            (&[("x-forwarded-for", "unknown")], true, "10.0.0.1"),
        ] {
            let source = source(peer, trusted, &headers(fields));
            assert_eq!(source.to_string(), expected, "{fields:?}");
        }
    }

    #[test]
    fn ties_are_what_the_policy_asks_for() {
        let headers = headers(&[("x-user", "ann"), ("cookie", "tidegate=ff; s=7")]);
        let ann = Some(hash_of(b"ann"));
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        let by = |by| {
            Some(Affinity {
                by,
                mode: AffinityMode::Strong,
            })
        };
        let user = HeaderName::from_static("x-user");
        let cookie = || by(AffinityBy::Cookie(AffinityCookie::default()));
        for (balance, hash, affinity, key, endpoint) in [
            (Balance::LeastLatency, "header:x-user", None, None, None),
            (Balance::Maglev, "header:x-user", None, ann, None),
            (Balance::RingHash, "header:x-none", None, None, None),
            (Balance::RingHash, "path", None, Some(hash_of(b"/a")), None),
            (Balance::RingHash, "cookie:s", None, Some(hash_of(b"7")), None),
            (Balance::RingHash, "source", None, Some(hash_of_ip(peer)), None),
            (Balance::LeastLatency, "path", cookie(), None, Some(255)),
            (Balance::Maglev, "header:x-user", cookie(), ann, Some(255)),
            (Balance::Random, "path", by(AffinityBy::Header(user)), ann, None),
            (
                Balance::Random,
                "path",
                by(AffinityBy::Source),
                Some(hash_of_ip(peer)),
                None,
            ),
        ] {
            let mut policy = Backend::new(BackendName::new("web"));
            policy.balance = balance;
            policy.hash = HashKey::parse(hash).unwrap();
            policy.affinity = affinity;
            let expected = Tie { key, endpoint };
            assert_eq!(tie(&policy, &headers, "/a", || peer), expected, "{policy:?}");
        }
    }

    #[test]
    fn the_cookie_is_told_with_its_attributes() {
        assert_eq!(
            set_cookie(&AffinityCookie::default(), 0xab),
            "tidegate=00000000000000ab; Path=/; HttpOnly; SameSite=Lax"
        );
        let cookie = AffinityCookie {
            name: "route".into(),
            ttl: Some(Duration::from_secs(3600)),
            path: "/shop".into(),
            secure: true,
            same_site: SameSite::None,
        };
        assert_eq!(
            set_cookie(&cookie, u64::MAX),
            "route=ffffffffffffffff; Path=/shop; HttpOnly; SameSite=None; Max-Age=3600; Secure"
        );
    }
}
