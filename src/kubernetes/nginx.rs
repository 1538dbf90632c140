//! Annotations of ingress-nginx (`nginx.ingress.kubernetes.io/…`), as far as Tidegate has what they ask for.
//!
//! Its users have thousands of them, and it is retired. What carries over is read here into [`Wishes`], which the Ingress is translated with.
//! What does not is never passed over in silence: it becomes a complaint that names the annotation and what to do, and where it guards
//! something (authentication, allowed addresses, snippets that may), the Ingress is not served at all, because serving it without its
//! guard would be worse. `tidegate.dev/nginx-ignore: NAME, NAME` says that one can do without these.
//!
//! What each annotation becomes is one table, [`ANNOTATIONS`], which is also `docs/ingress-nginx.md`. Settings of connections to endpoints
//! belong to a Service's port and not to a route, as in ingress-nginx: of several Ingresses that wish differently the first by name
//! has its wish ([`Upstream`]).

mod canary;
mod cors;
mod survey;
mod table;
mod values;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};

pub use canary::{Canary, is_canary};
pub use survey::{Survey, survey};
pub use table::{ANNOTATIONS, Annotation, Treatment, annotation};
pub use values::path_regex;

use crate::kubernetes::index::Findings;
use crate::kubernetes::objects::Meta;
use crate::model::affinity::is_cookie_path;
use crate::model::{
    Affinity, AffinityBy, AffinityCookie, AffinityMode, Backend, BackendProtocol, Balance, Cors, Filter,
    HashKey, HeaderEdits, PathRewrite, Redirect, RetryPolicy, Rewrite, Rule, SameSite, Timeouts,
};

/// What all names begin with.
pub const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// The annotation that says without which of them one can do.
const IGNORE: &str = "tidegate.dev/nginx-ignore";

/// What an Ingress's annotations ask for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wishes {
    /// Whether hosts with TLS are served in clear text too (`ssl-redirect: "false"`).
    pub clear_text: bool,
    /// Hosts must have TLS (`force-ssl-redirect`).
    pub force_tls: bool,
    /// Paths are regular expressions.
    pub regex: bool,
    /// What the path becomes, with `${1}` for what was captured.
    pub rewrite: Option<Arc<str>>,
    /// Where `/` is redirected to.
    pub app_root: Option<Arc<str>>,
    /// Everything is redirected.
    pub redirect: Option<Redirect>,
    /// The host that endpoints see.
    pub host: Option<HeaderValue>,
    /// Fields that endpoints see.
    pub request_headers: Vec<(HeaderName, HeaderValue)>,
    /// The silence that is borne of an endpoint.
    pub read_timeout: Option<Duration>,
    /// The silence that is borne when sending.
    pub send_timeout: Option<Duration>,
    /// When another endpoint is tried.
    pub retry: Option<RetryPolicy>,
    /// What scripts of other origins may do.
    pub cors: Option<Cors>,
    /// It is a part of another Ingress.
    pub canary: Option<Canary>,
    /// What belongs to connections.
    pub upstream: Upstream,
    /// Annotations that guard it and cannot be had: it must not be served.
    pub unguarded: Vec<String>,
}

/// What annotations ask for that belongs to a Service's port.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Upstream {
    protocol: Option<BackendProtocol>,
    balance: Option<Balance>,
    hash: Option<HashKey>,
    affinity: Option<Affinity>,
    connect_timeout: Option<Duration>,
}

impl Upstream {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether what is spoken is asked for.
    pub fn has_protocol(&self) -> bool {
        self.protocol.is_some()
    }

    /// Sets what is asked for.
    pub fn apply(&self, backend: &mut Backend) {
        backend.protocol = self.protocol.unwrap_or(backend.protocol);
        backend.balance = self.balance.unwrap_or(backend.balance);
        backend.connect_timeout = self.connect_timeout.unwrap_or(backend.connect_timeout);
        if let Some(hash) = &self.hash {
            backend.hash = hash.clone();
        }
        if self.affinity.is_some() {
            backend.affinity.clone_from(&self.affinity);
        }
    }
}

impl Wishes {
    /// What the annotations of an Ingress ask for; what cannot be had is found.
    pub fn of(metadata: &Meta, findings: &mut Findings) -> Self {
        let mut wishes = Self::default();
        let ignored: BTreeSet<&str> = metadata
            .annotation(IGNORE)
            .into_iter()
            .flat_map(|names| names.split(',').map(str::trim))
            .map(|name| name.strip_prefix(PREFIX).unwrap_or(name))
            .collect();
        let all = metadata
            .annotations
            .iter()
            .filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, &**value)));
        let all: Vec<(&str, &str)> = all.filter(|(name, _)| !ignored.contains(name)).collect();
        let value_of = |name: &str| {
            all.iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| *value)
        };
        let mut complain = |name: &str, reason: String| {
            findings.complain(format!("metadata.annotations[{PREFIX}{name}]"), reason);
        };
        for (name, value) in &all {
            let Some(known) = annotation(name) else {
                complain(name, table::unknown(name));
                continue;
            };
            match known.treatment {
                Treatment::Needless => {}
                Treatment::Missing if known.is_off(value) => {}
                Treatment::Missing => complain(name, format!("AnnotationNotSupported: {}", known.text)),
                Treatment::Guard if known.is_off(value) => {}
                Treatment::Guard => {
                    complain(
                        name,
                        format!(
                            "AnnotationNotSupported: {}; the Ingress is not served without it, unless the annotation {IGNORE} \
                             names it",
                            known.text
                        ),
                    );
                    wishes.unguarded.push((*name).to_owned());
                }
                Treatment::Done | Treatment::Partly => {
                    if let Err(reason) = wishes.take(name, value) {
                        complain(name, reason);
                    }
                }
            }
        }
        wishes.combine(&value_of, &mut complain);
        wishes
    }

    /// An annotation that stands for itself. An error is one of its value.
    fn take(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "ssl-redirect" => self.clear_text = !values::boolean(value)?,
            "force-ssl-redirect" => self.force_tls = values::boolean(value)?,
            "enable-cors" => drop(values::boolean(value)?), // what is asked for is read together
            "use-regex" => self.regex |= values::boolean(value)?,
            "rewrite-target" => {
                self.rewrite = Some(values::template(value)?);
                self.regex = true;
            }
            "app-root" => self.app_root = Some(values::path(value)?),
            "upstream-vhost" => self.host = Some(values::field(value)?),
            "x-forwarded-prefix" => {
                let name = HeaderName::from_static("x-forwarded-prefix");
                self.request_headers.push((name, values::field(value)?));
            }
            "proxy-read-timeout" => self.read_timeout = Some(values::time(value)?),
            "proxy-send-timeout" => self.send_timeout = Some(values::time(value)?),
            "proxy-connect-timeout" => self.upstream.connect_timeout = Some(values::time(value)?),
            "backend-protocol" => {
                self.upstream.protocol = Some(match value.to_ascii_uppercase().as_str() {
                    "HTTP" | "" => BackendProtocol::Http1,
                    "GRPC" => BackendProtocol::H2c,
                    other => {
                        self.unguarded.push(name.to_owned());
                        return Err(format!(
                            "AnnotationNotSupported: {other} is not spoken with endpoints by this annotation (HTTP and GRPC are), and \
                             clear text is not sent in its place; the Ingress is not served"
                        ));
                    }
                });
            }
            "load-balance" => {
                self.upstream.balance = Some(match value {
                    "round_robin" => Balance::RoundRobin,
                    "ewma" => Balance::LeastLatency,
                    _ => return Err(format!("{value:?} is neither round_robin nor ewma")),
                });
            }
            "upstream-hash-by" => {
                self.upstream.hash = Some(values::hash(value)?);
                self.upstream.balance = Some(Balance::RingHash);
            }
            _ => {} // one that is read together with another
        }
        Ok(())
    }

    /// Annotations that only together mean something.
    fn combine<'v>(
        &mut self,
        value_of: &dyn Fn(&str) -> Option<&'v str>,
        complain: &mut dyn FnMut(&str, String),
    ) {
        for (name, code, default, allowed) in [
            (
                "temporal-redirect",
                "temporal-redirect-code",
                StatusCode::FOUND,
                &[302, 303, 307][..],
            ),
            (
                "permanent-redirect",
                "permanent-redirect-code",
                StatusCode::MOVED_PERMANENTLY,
                &[301, 308],
            ),
        ] {
            let Some(to) = value_of(name) else { continue };
            let status = match value_of(code).map(|text| text.parse::<u16>()) {
                None => default,
                Some(Ok(number)) if allowed.contains(&number) => {
                    StatusCode::from_u16(number).unwrap_or(default)
                }
                Some(_) => {
                    complain(code, format!("it is none of {allowed:?}; {default} is used"));
                    default
                }
            };
            match values::redirect(to, status) {
                Ok(redirect) => {
                    self.redirect.get_or_insert(redirect);
                }
                Err(reason) => {
                    complain(name, reason);
                    self.unguarded.push(name.to_owned()); // what was to be redirected must not be served
                }
            }
        }
        if let Some(affinity) = value_of("affinity") {
            match affinity {
                "cookie" => self.upstream.affinity = Some(self.cookie(value_of, complain)),
                other => complain(
                    "affinity",
                    format!("{other:?} is not \"cookie\"; there is no affinity"),
                ),
            }
        }
        self.retry(value_of, complain);
        self.cors = cors::read(value_of, complain);
        if let Some("true") = value_of("canary") {
            self.canary = Some(Canary::of(value_of, complain));
        }
    }

    fn cookie<'v>(
        &self,
        value_of: &dyn Fn(&str) -> Option<&'v str>,
        complain: &mut dyn FnMut(&str, String),
    ) -> Affinity {
        let mut cookie = AffinityCookie {
            name: "INGRESSCOOKIE".into(),
            ..AffinityCookie::default()
        };
        if let Some(name) = value_of("session-cookie-name") {
            match HashKey::parse(&format!("cookie:{name}")) {
                Some(HashKey::Cookie(name)) => cookie.name = name,
                _ => complain(
                    "session-cookie-name",
                    format!("{name:?} is no name of a cookie; INGRESSCOOKIE is used"),
                ),
            }
        }
        for name in ["session-cookie-max-age", "session-cookie-expires"] {
            match value_of(name).map(str::parse::<u64>) {
                None => {}
                Some(Ok(seconds)) => {
                    cookie.ttl = Some(Duration::from_secs(seconds)).filter(|ttl| !ttl.is_zero());
                }
                Some(Err(_)) => complain(name, "it is no number of seconds".to_owned()),
            }
        }
        if let Some(path) = value_of("session-cookie-path") {
            match is_cookie_path(path) {
                true => cookie.path = path.into(),
                false => complain("session-cookie-path", format!("{path:?} is no path")),
            }
        }
        cookie.secure = value_of("session-cookie-secure") == Some("true");
        cookie.same_site = match value_of("session-cookie-samesite") {
            Some("None") => SameSite::None,
            Some("Strict") => SameSite::Strict,
            _ => SameSite::Lax,
        };
        Affinity {
            by: AffinityBy::Cookie(cookie),
            mode: AffinityMode::Strong,
        }
    }

    fn retry<'v>(
        &mut self,
        value_of: &dyn Fn(&str) -> Option<&'v str>,
        complain: &mut dyn FnMut(&str, String),
    ) {
        let (on, tries) = (
            value_of("proxy-next-upstream"),
            value_of("proxy-next-upstream-tries"),
        );
        if on.is_none() && tries.is_none() {
            return;
        }
        let mut policy = RetryPolicy::default();
        if let Some(on) = on {
            match values::retry_on(on) {
                Ok(Some(on)) => policy.on = on,
                Ok(None) => policy.attempts = 1,
                Err(reason) => complain("proxy-next-upstream", reason),
            }
        }
        match tries.map(str::parse::<u8>) {
            None => {}
            Some(Ok(0)) => policy.attempts = values::MOST_TRIES,
            Some(Ok(tries)) if policy.attempts > 1 => policy.attempts = tries.min(values::MOST_TRIES),
            Some(Ok(_)) => {}
            Some(Err(_)) => complain(
                "proxy-next-upstream-tries",
                "it is no number up to 255".to_owned(),
            ),
        }
        self.retry = Some(policy);
    }

    /// Puts into a rule what is asked for. One that redirects has no endpoints.
    pub fn dress(&self, rule: &mut Rule) {
        if let Some(redirect) = &self.redirect {
            rule.backends.clear();
            rule.filters.push(Filter::Redirect(redirect.clone()));
            return;
        }
        if let Some(cors) = &self.cors {
            rule.filters.push(Filter::Cors(cors.clone()));
        }
        if !self.request_headers.is_empty() {
            rule.filters.push(Filter::RequestHeaders(HeaderEdits {
                set: self.request_headers.clone(),
                ..HeaderEdits::default()
            }));
        }
        if self.host.is_some() || self.rewrite.is_some() {
            rule.filters.push(Filter::Rewrite(Rewrite {
                hostname: self.host.clone(),
                path: self.rewrite.clone().map(PathRewrite::Captures),
            }));
        }
        if let Some(silence) = self.read_timeout {
            // nginx bounds each silence, and nothing as a whole.
            rule.timeouts = Timeouts {
                request: None,
                per_try: Some(silence),
                idle: Some(silence),
                upgrade_idle: Some(silence.max(self.send_timeout.unwrap_or_default())),
            };
        }
        if let Some(retry) = &self.retry {
            rule.retry = retry.clone();
        }
    }
}

#[cfg(test)]
mod tests;
