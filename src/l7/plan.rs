//! The plan: what is done with a request. Decided from the snapshot and the request's head alone, so that every rule of
//! it can be tested in a table without a socket.

use std::borrow::Cow;
use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Uri, Version};

use super::cors;
use super::downstream::ClientTls;
use super::failure::Failure;
use super::headers::{HeaderRefusal, RequestHost, Survey, host_of};
use super::path::{PathRefusal, normalise};
use super::refusal::Refusal;
use super::reply::{Reply, redirect_to};
use crate::l4::redirected::Redirected;
use crate::model::{BackendProtocol, Cors, Filter, ListenerName, PathMatch, PathRewrite};
use crate::snapshot::{
    self, Backend, Bind, ChallengeTable, CompiledRule, Destination, Found, ListenerEntry, RequestHead, Share,
    Target,
};

/// The head of a request, as received.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The method; a WebSocket's extended CONNECT (RFC 8441) is given as GET.
    pub method: &'a Method,
    /// The target.
    pub uri: &'a Uri,
    /// The version.
    pub version: Version,
    /// The fields.
    pub headers: &'a HeaderMap,
    /// The port that the client connected to.
    pub port: u16,
    /// What was agreed on in the connection's TLS handshake.
    pub tls: Option<&'a ClientTls>,
}

/// What is done with a request.
#[derive(Debug)]
// Nearly every plan is to forward: a box for it would cost more than the room that the others waste.
#[allow(clippy::large_enum_variant)]
pub enum Plan<'s> {
    /// It is sent to a backend.
    Forward(Forward<'s>),
    /// It is answered here.
    Reply(Reply),
    /// It is refused, or cannot be sent.
    Fail(Failure),
}

/// A request that is sent to a backend.
#[derive(Debug)]
pub struct Forward<'s> {
    /// The listener that it came to.
    pub listener: &'s ListenerName,
    /// The rule that won.
    pub rule: &'s Arc<CompiledRule>,
    /// The share of the rule's requests that this one is of.
    pub share: &'s Share,
    /// Where that share goes.
    pub backend: &'s Arc<Backend>,
    /// What is there among the request's fields.
    pub survey: Survey,
    /// The host as the client gave it.
    pub host: RequestHost,
    /// What the endpoint is spoken to in, in clear text, whatever the backend says: where nobody knows that Tidegate stands
    /// between, what the client speaks.
    pub speaks: Option<BackendProtocol>,
    /// The `Host` that the endpoint sees, when it is another one.
    pub new_host: Option<HeaderValue>,
    /// The path and query that the endpoint sees, when they are not as received.
    pub new_path: Option<PathAndQuery>,
    /// What scripts of other origins are told, and whose script it is.
    pub cors: Option<(&'s Cors, Option<HeaderValue>)>,
}

/// Decides. `bind`: the rules that are asked. `redirected`: where a redirected connection's requests go if there are no rules
/// for what it was meant for. `challenges`: what an authority is answered before any route is asked, while there is
/// something. `random` spreads requests over the shares of a rule; it is asked for only where there is a choice.
pub fn decide<'s>(
    bind: Option<&'s Bind>,
    redirected: Option<&'s Redirected>,
    challenges: Option<&ChallengeTable>,
    head: Head<'_>,
    max_fields: u16,
    random: impl FnOnce() -> u64,
) -> Plan<'s> {
    match try_decide(bind, redirected, challenges, head, max_fields, random) {
        Ok(plan) => plan,
        Err(failure) => Plan::Fail(failure),
    }
}

fn try_decide<'s>(
    bind: Option<&'s Bind>,
    redirected: Option<&'s Redirected>,
    challenges: Option<&ChallengeTable>,
    head: Head<'_>,
    max_fields: u16,
    random: impl FnOnce() -> u64,
) -> Result<Plan<'s>, Failure> {
    if let Some(refusal) = Refusal::of(head.method, head.uri.path()) {
        return Err(Failure::Framing(refusal));
    }
    if head.method == Method::CONNECT || head.method == Method::TRACE {
        return Err(Failure::Method);
    }
    if head.headers.len() > usize::from(max_fields) {
        return Err(Failure::TooManyFields);
    }
    let survey = Survey::of(head.headers);
    let host = host_of(head.uri, head.version, head.headers).map_err(Failure::Headers)?;
    if let (Some(redirected), None) = (redirected, bind) {
        return redirect_on(redirected, head.version, survey, host, random);
    }
    let path = normalise(head.uri.path()).map_err(Failure::Path)?;
    // In clear text only, and to ourselves: that the name is ours is proven on the port that anybody reaches without a certificate.
    let asked = challenges.filter(|_| head.tls.is_none() && redirected.is_none());
    if let Some(answer) = asked.and_then(|challenges| challenges.http(head.method, &path)) {
        return Ok(Plan::Reply(Reply::direct(answer)));
    }
    let request = RequestHead {
        method: head.method,
        host: host.name(),
        path: &path,
        query: head.uri.query(),
        headers: head.headers,
    };
    let found = bind.and_then(|bind| bind.find(&request));
    if let Some(bind) = bind {
        let listener = match &found {
            Some(found) => Some(found.listener),
            None => bind.listener_of(request.host).map(AsRef::as_ref),
        };
        if is_misdirected(head.tls, listener, request.host) {
            return Err(Failure::Misdirected);
        }
    }
    let found = found.ok_or(Failure::NoRoute)?;
    let share = found.rule.split.choose(random);
    let cors = found.rule.cors(share);
    if let Some(cors) = cors.filter(|_| cors::is_preflight(head.method, head.headers)) {
        return Ok(Plan::Reply(Reply::fields(cors::preflight(cors, head.headers))));
    }
    if let Some(reply) = found.rule.reply() {
        return Ok(Plan::Reply(answer(reply, &found, &head, &host, &path)));
    }
    if let Some(reply) = share.reply() {
        return Ok(Plan::Reply(answer(reply, &found, &head, &host, &path)));
    }
    let backend = match &share.target {
        Target::Backend(backend) => backend,
        Target::Invalid(_) | Target::None => return Err(Failure::BadReference),
    };
    let (new_host, new_path) = rewritten(&found, share, &head, &path)?;
    Ok(Plan::Forward(Forward {
        listener: redirected.map_or(&found.listener.name, |redirected| &redirected.listener),
        rule: found.rule,
        share,
        backend,
        survey,
        host,
        speaks: redirected.and_then(|_| spoken(head.version)),
        new_host,
        new_path,
        cors: cors.map(|cors| (cors, head.headers.get(http::header::ORIGIN).cloned())),
    }))
}

/// A redirected connection's request: it goes where the connection was meant to go, with its path as it is. No condition
/// is asked, so nothing depends on how the path is read.
fn redirect_on<'s>(
    redirected: &'s Redirected,
    version: Version,
    survey: Survey,
    host: RequestHost,
    random: impl FnOnce() -> u64,
) -> Result<Plan<'s>, Failure> {
    let Destination { rule, backend, .. } = &*redirected.destination;
    Ok(Plan::Forward(Forward {
        listener: &redirected.listener,
        rule,
        share: rule.split.choose(random),
        backend,
        survey,
        host,
        speaks: spoken(version).or(Some(BackendProtocol::Http1)),
        new_host: None,
        new_path: None,
        cors: None,
    }))
}

/// What the endpoint of a redirected connection's request is spoken to in, if only the client can say it: HTTP/2, because
/// what comes with it (gRPC) may need it. HTTP/1 goes as the backend that a route leads to says.
fn spoken(version: Version) -> Option<BackendProtocol> {
    (version == Version::HTTP_2).then_some(BackendProtocol::H2c)
}

/// Whether a request came over a connection that is not for its host (RFC 9110 §15.5.20): clients use one connection
/// for all names that its certificate has, and some name in a request another host than the one that they connected to.
///
/// What a connection is for was settled in its handshake: the listener, and whether the client showed a certificate. So
/// a host of another listener is refused, and on a listener that asks for client certificates any other name. Within
/// one listener, a host is refused that another of its certificates is for and the one shown is not.
fn is_misdirected(tls: Option<&ClientTls>, listener: Option<&ListenerEntry>, host: &str) -> bool {
    let Some(tls) = tls else {
        // The listener began to speak TLS after the connection was made.
        return listener.is_some_and(|listener| listener.listener.tls.is_some());
    };
    let Some(listener) = listener.filter(|listener| listener.name == tls.listener) else {
        return true;
    };
    if tls.name.as_deref() == Some(host) {
        return false;
    }
    let others = || {
        listener
            .tls
            .as_ref()
            .is_some_and(|service| service.certificates.cover(host))
    };
    (tls.asked && tls.name.is_some()) || (!tls.certificate.covers(host) && others())
}

/// The answer that a filter gives in the place of an endpoint.
fn answer(
    reply: snapshot::Reply<'_>,
    found: &Found<'_>,
    head: &Head<'_>,
    host: &RequestHost,
    path: &str,
) -> Reply {
    match reply {
        snapshot::Reply::Direct(direct) => Reply::direct(direct),
        snapshot::Reply::Redirect(redirect) => {
            let new_path = match &redirect.path {
                Some(rewrite) => rewrite_path(rewrite, found.path, path),
                None => Cow::Borrowed(path),
            };
            let location = redirect_to(
                redirect,
                head.tls.is_some(),
                host,
                head.port,
                &new_path,
                head.uri.query(),
            );
            Reply::redirect(redirect.status, &location)
        }
    }
}

/// The host and path for the endpoint, where they differ from what was received.
fn rewritten(
    found: &Found<'_>,
    share: &Share,
    head: &Head<'_>,
    path: &str,
) -> Result<(Option<HeaderValue>, Option<PathAndQuery>), Failure> {
    let mut new_host = None;
    let mut new_path = Cow::Borrowed(path);
    for filter in found.rule.rule.filters.iter().chain(&share.filters) {
        if let Filter::Rewrite(rewrite) = filter {
            new_host = rewrite.hostname.clone().or(new_host);
            if let Some(change) = &rewrite.path {
                new_path = Cow::Owned(rewrite_path(change, found.path, path).into_owned());
            }
        }
    }
    if *new_path == *head.uri.path() {
        return Ok((new_host, None));
    }
    let text = match head.uri.query() {
        Some(query) => format!("{new_path}?{query}"),
        None => new_path.into_owned(),
    };
    let new_path = PathAndQuery::from_maybe_shared(bytes::Bytes::from(text))
        .map_err(|_| Failure::Path(PathRefusal::Ambiguous))?;
    Ok((new_host, Some(new_path)))
}

/// A path changed as a rule says. `matched` is the condition by which the rule was found.
pub fn rewrite_path<'p>(change: &'p PathRewrite, matched: &PathMatch, path: &'p str) -> Cow<'p, str> {
    match (change, matched) {
        (PathRewrite::Full(full), _) => Cow::Borrowed(full),
        (PathRewrite::Prefix(new), PathMatch::Prefix(old)) => {
            let rest = path.strip_prefix(&**old).unwrap_or_default();
            let new = new.trim_end_matches('/');
            let joined = format!("{new}{rest}");
            Cow::Owned(if joined.is_empty() { "/".to_owned() } else { joined })
        }
        // Another prefix for a path that was matched whole is another path.
        (PathRewrite::Prefix(new), PathMatch::Exact(_) | PathMatch::Regex(_)) => Cow::Borrowed(new),
        (PathRewrite::Captures(template), PathMatch::Regex(regex)) => match regex.captures(path) {
            Some(captures) => {
                let mut expanded = String::new();
                captures.expand(template, &mut expanded);
                if !expanded.starts_with('/') {
                    expanded.insert(0, '/');
                }
                Cow::Owned(expanded)
            }
            None => Cow::Borrowed(path),
        },
        (PathRewrite::Captures(template), PathMatch::Exact(_) | PathMatch::Prefix(_)) => {
            Cow::Borrowed(template)
        }
    }
}

/// Whether a body's announced length contradicts its end. The length would be sent to the endpoint, which would then
/// wait for bytes of the next request.
pub fn check_length(headers: &HeaderMap, ends_now: bool) -> Result<(), Failure> {
    let announced = headers.get(http::header::CONTENT_LENGTH);
    if ends_now && announced.is_some_and(|length| length.as_bytes() != b"0") {
        return Err(Failure::Headers(HeaderRefusal::Length));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_rewritten_as_the_gateway_api_says() {
        let prefix = |text: &str| PathRewrite::Prefix(text.into());
        // The table of `HTTPPathModifier.replacePrefixMatch`.
        for (path, matched, new, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
        ] {
            let change = prefix(new);
            assert_eq!(
                rewrite_path(&change, &PathMatch::prefix(matched), path),
                expected,
                "{path} {matched} {new}"
            );
        }
        let full = PathRewrite::Full("/one".into());
        assert_eq!(rewrite_path(&full, &PathMatch::default(), "/foo"), "/one");
        let captures = PathRewrite::Captures("/$2/${1}".into());
        let regex = PathMatch::regex("/([a-z]+)/([0-9]+)").unwrap();
        assert_eq!(rewrite_path(&captures, &regex, "/ab/12"), "/12/ab");
    }

    /// A Service `web` at 10.96.0.1:80 with a route for `/v2` to `other`, and another, `plain`, at 10.96.0.2:80 without.
    fn mesh() -> crate::snapshot::Snapshot {
        use crate::model::*;
        let mut world = World::default();
        for (name, address) in [
            ("web", "10.96.0.1:80"),
            ("plain", "10.96.0.2:80"),
            ("other", "10.96.0.3:80"),
        ] {
            let mut backend = Backend::new(name.into());
            backend.virtual_addresses = vec![address.parse().unwrap()];
            world.backends.insert(name.into(), Arc::new(backend));
        }
        let listener = Listener {
            name: "Service/web".into(),
            address: "10.96.0.1:80".parse().unwrap(),
            public_port: None,
            hostname: HostPattern::Any,
            kind: ListenerKind::Destination,
            protocols: Protocols::default(),
            tls: None,
            limits: ListenerLimits::default(),
        };
        world.listeners.insert(listener.name.clone(), Arc::new(listener));
        let rule = Rule {
            matches: vec![Match {
                path: PathMatch::prefix("/v2"),
                ..Match::default()
            }],
            backends: vec![WeightedBackend {
                target: BackendTarget::Backend("other".into()),
                weight: 1,
                filters: Vec::new(),
            }],
            ..Rule::default()
        };
        let route = Route {
            name: "r".into(),
            listeners: vec!["Service/web".into()],
            hostnames: vec![HostPattern::Any],
            rules: vec![Arc::new(rule)],
            created: 0,
            order: 0,
        };
        world.routes.insert("r".into(), Arc::new(route));
        let mut compiler = snapshot::Compiler::new(crate::telemetry::Metrics::new(1));
        compiler.apply(
            &"s".into(),
            World::default().delta_to(&world),
            crate::balance::Micros(0),
        );
        (*compiler.readers().load()).clone()
    }

    #[test]
    fn routes_of_what_a_connection_was_meant_for_go_before_it() {
        let world = mesh();
        let (h1, h2) = (Version::HTTP_11, Version::HTTP_2);
        // Where to, with what path and in which version the client asks; where that goes, and in what.
        for (address, path, version, expected) in [
            ("10.96.0.1:80", "/v2/a", h1, Ok(("other", None))),
            (
                "10.96.0.1:80",
                "/v2/a",
                h2,
                Ok(("other", Some(BackendProtocol::H2c))),
            ),
            ("10.96.0.1:80", "/", h1, Err(Failure::NoRoute)),
            (
                "10.96.0.2:80",
                "/v2/a",
                h1,
                Ok(("plain", Some(BackendProtocol::Http1))),
            ),
            ("10.96.0.2:80", "/", h2, Ok(("plain", Some(BackendProtocol::H2c)))),
        ] {
            let address = address.parse().unwrap();
            let redirected = Redirected {
                listener: "outbound".into(),
                destination: Arc::clone(world.destination(&address).unwrap()),
                address: Some(address),
                may_be_tls: false,
            };
            assert!(world.bind(&address).is_none(), "nothing is bound for it");
            let headers = HeaderMap::from_iter([(http::header::HOST, HeaderValue::from_static("web"))]);
            let uri = path.parse().unwrap();
            let head = Head {
                method: &Method::GET,
                uri: &uri,
                version,
                headers: &headers,
                port: 80,
                tls: None,
            };
            let bind = world.bind_meant(&address).map(|bind| &**bind);
            let found = match decide(bind, Some(&redirected), None, head, 100, || 0) {
                Plan::Forward(forward) => {
                    assert_eq!(forward.listener.as_str(), "outbound");
                    Ok((forward.backend.name.as_str(), forward.speaks))
                }
                Plan::Fail(failure) => Err(failure),
                Plan::Reply(reply) => panic!("{reply:?}"),
            };
            assert_eq!(found, expected, "{address} {path} {version:?}");
        }
    }
}
