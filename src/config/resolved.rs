//! The effective configuration as YAML, with every default filled in.
//!
//! Reading it again gives the same world and settings; a test holds that for the examples and for
//! generated files. Texts of the user are always quoted, so that none is taken for YAML.

mod acme;
mod backend;
mod mtls;
mod tls;
mod yaml;

use std::path::Path;

use http::{HeaderName, HeaderValue};
use yaml::{Fields, Yaml, quoted};

use super::Loaded;
use super::settings::{AccessLogFormat, AccessLogTarget, Settings};
use super::units::{show_duration, show_percent, show_size};
use crate::model::{
    BackendTarget, Filter, HeaderEdits, Listener, ListenerKind, Match, Opening, PathMatch, PathRewrite,
    Redirect, RetryPolicy, Route, Rule, StringMatch, Timeouts, WeightedBackend,
};

/// The effective configuration of a file, ending with a newline.
pub fn resolved(loaded: &Loaded) -> String {
    let Loaded { world, settings, .. } = loaded;
    let of_files = world.identity.as_deref().map(mtls::identity);
    let identity = settings.identity.as_ref().map(mtls::agent).or(of_files);
    let mut file = settings_of(settings).maybe("identity", identity);
    let listeners = world
        .listeners
        .values()
        .map(|one| (one.name.as_str(), listener(one)));
    file.push("listeners", named(listeners));
    let mut routes: Vec<&Route> = world.routes.values().map(AsRef::as_ref).collect();
    routes.sort_by_key(|route| route.order);
    let relays = |route: &Route| {
        let mut listeners = route
            .listeners
            .iter()
            .filter_map(|name| world.listeners.get(name));
        listeners.any(|listener| listener.kind != ListenerKind::Http)
    };
    let routes = routes.into_iter().map(|one| route(one, relays(one)));
    file.push("routes", Yaml::List(routes.collect()));
    let backends = world.backends.values().map(|one| {
        let endpoints = world.endpoints.get(&one.name).map_or(&[] as &[_], AsRef::as_ref);
        (one.name.as_str(), backend::backend(one, endpoints))
    });
    file.push("backends", named(backends));
    let mut out = String::new();
    Yaml::Map(file.0).write(&mut out, 0);
    out
}

fn text(text: impl AsRef<str>) -> Yaml {
    Yaml::Scalar(quoted(text.as_ref()))
}

fn word(text: impl ToString) -> Yaml {
    Yaml::Scalar(text.to_string())
}

fn path_text(path: &Path) -> Yaml {
    text(path.to_string_lossy())
}

fn time(duration: std::time::Duration) -> Yaml {
    word(show_duration(duration))
}

fn time_or_none(duration: Option<std::time::Duration>) -> Yaml {
    duration.map_or_else(|| word("none"), time)
}

fn size(bytes: u32) -> Yaml {
    word(show_size(u64::from(bytes)))
}

fn named<'a>(entries: impl Iterator<Item = (&'a str, Yaml)>) -> Yaml {
    Yaml::Map(entries.map(|(name, value)| (name.to_owned(), value)).collect())
}

fn list<T>(items: &[T], show: impl Fn(&T) -> Yaml) -> Yaml {
    Yaml::List(items.iter().map(show).collect())
}

fn settings_of(settings: &Settings) -> Fields {
    let admin = match settings.admin.address {
        Some(address) => Fields::default().with("address", text(address.to_string())),
        None => Fields::default().with("enabled", word(false)),
    };
    let log = settings.access_log.as_ref().map(|log| {
        let format = match log.format {
            AccessLogFormat::Json => "json",
            AccessLogFormat::Text => "text",
        };
        let to = match &log.to {
            AccessLogTarget::Stdout => word("stdout"),
            AccessLogTarget::Stderr => word("stderr"),
            AccessLogTarget::File(path) => path_text(path),
        };
        let access = Fields::default().with("format", word(format)).with("to", to);
        Fields::default().with("access", access.yaml()).yaml()
    });
    let drain = Fields::default()
        .with("lag", time(settings.drain.lag))
        .with("timeout", time(settings.drain.timeout))
        .with("while_busy", word(settings.drain.while_busy));
    Fields::default()
        .maybe("workers", settings.workers.map(word))
        .with("admin", admin.yaml())
        .maybe("log", log)
        .with("drain", drain.yaml())
        .with("proxy_status_header", word(settings.proxy_status_header))
        .maybe("zone", settings.zone.as_ref().map(text))
        .maybe("manifests", settings.manifests.as_deref().map(path_text))
        .with(
            "dns",
            Fields::default()
                .with("refresh", time(settings.dns_refresh))
                .yaml(),
        )
        .maybe("acme", settings.acme.as_deref().map(acme::acme))
}

fn listener(listener: &Listener) -> Yaml {
    let limits = &listener.limits;
    let protocols = [
        ("h1", listener.protocols.http1),
        (
            if listener.tls.is_some() { "h2" } else { "h2c" },
            listener.protocols.http2,
        ),
    ];
    let protocols = protocols
        .into_iter()
        .filter(|(_, on)| *on)
        .map(|(name, _)| word(name));
    let direction = match listener.kind {
        ListenerKind::Redirected(direction) => Some(direction),
        ListenerKind::Http
        | ListenerKind::Tcp
        | ListenerKind::Tls
        | ListenerKind::Udp
        | ListenerKind::Destination => None,
    };
    let shown = Fields::default()
        .with("max_connections", word(limits.max_connections))
        .with("max_head", size(limits.max_head_bytes))
        .with("max_headers", word(limits.max_headers))
        .with("head_deadline", time(limits.head_deadline))
        .with("body_idle", time(limits.body_idle))
        .with("keep_alive_idle", time(limits.keep_alive_idle))
        .with("max_concurrent_streams", word(limits.max_concurrent_streams))
        .with("stream_window", size(limits.stream_window))
        .with("connection_window", size(limits.connection_window))
        .maybe("responses", limits.responses.map(word))
        .with("relay_idle", time_or_none(limits.relay_idle))
        .with("detect", time(limits.detect))
        .with("opaque_ports", list(&limits.opaque_ports, |port| word(*port)))
        .with("handshake_deadline", time(limits.handshake_deadline))
        .with("max_handshakes", word(limits.max_handshakes));
    Fields::default()
        .with("address", text(listener.address.to_string()))
        .maybe(
            "protocol",
            direction.is_none().then(|| word(listener.kind.word())),
        )
        .maybe("transparent", direction.map(|direction| word(direction.word())))
        .maybe(
            "hostname",
            matches!(listener.opening(), Opening::Http | Opening::Tls)
                .then(|| text(listener.hostname.to_string())),
        )
        .maybe(
            "protocols",
            (listener.kind == ListenerKind::Http).then(|| Yaml::List(protocols.collect())),
        )
        .maybe("tls", listener.tls.as_deref().map(tls::listener))
        .maybe("mtls", limits.mtls.as_ref().map(mtls::inbound))
        .with("limits", shown.yaml())
        .maybe(
            "proxy_protocol",
            limits.proxy_protocol.as_ref().map(|policy| {
                Fields::default()
                    .with("from", list(&policy.from, |network| text(network.to_string())))
                    .with("deadline", time(policy.deadline))
                    .yaml()
            }),
        )
        .with(
            "trusted_proxies",
            list(&limits.trusted_proxies, |network| text(network.to_string())),
        )
        .with("load_reports", word(limits.load_reports))
        .yaml()
}

fn route(route: &Route, relays: bool) -> Yaml {
    let head = Fields::default()
        .with("name", text(route.name.as_str()))
        .maybe(
            "listeners",
            // None at all is what a file without listeners says by saying nothing.
            (!route.listeners.is_empty()).then(|| list(&route.listeners, |name| text(name.as_str()))),
        )
        .with("hostnames", list(&route.hostnames, |host| text(host.to_string())));
    match route.rules.as_slice() {
        [only] if relays => targets(head, only).with("retry", retry(&only.retry)),
        [only] if only.name.is_none() => rule(head, only),
        rules => head.with("rules", list(rules, |one| rule(Fields::default(), one).yaml())),
    }
    .yaml()
}

fn rule(head: Fields, rule: &Rule) -> Fields {
    let mut out = head.maybe("name", rule.name.as_ref().map(text));
    match rule.matches.as_slice() {
        [only] => out.push("match", one_match(only)),
        several => out.push("matches", list(several, one_match)),
    }
    out.push("filters", list(&rule.filters, filter));
    targets(out, rule)
        .with("timeouts", timeouts(&rule.timeouts))
        .with("retry", retry(&rule.retry))
        .maybe("criticality", rule.criticality.map(|class| word(class.word())))
}

fn targets(mut out: Fields, rule: &Rule) -> Fields {
    match rule.backends.as_slice() {
        [] => {}
        [only] if only.weight == 1 && only.filters.is_empty() => out.push("to", target(&only.target)),
        shares => out.push("split", list(shares, share)),
    }
    out
}

fn one_match(one: &Match) -> Yaml {
    let (kind, path) = match &one.path {
        PathMatch::Exact(path) => ("exact", path.to_string()),
        PathMatch::Prefix(path) if path.is_empty() => ("prefix", "/".to_owned()),
        PathMatch::Prefix(path) => ("prefix", path.to_string()),
        PathMatch::Regex(regex) => {
            // As `PathMatch::regex` wraps it.
            let pattern = regex.as_str();
            let inner = pattern
                .strip_prefix("^(?:")
                .and_then(|rest| rest.strip_suffix(")$"));
            ("regex", inner.unwrap_or(pattern).to_owned())
        }
    };
    let headers = one
        .headers
        .iter()
        .map(|header| (header.name.as_str(), value_match(&header.value)));
    let queries = one
        .queries
        .iter()
        .map(|query| (&*query.name, value_match(&query.value)));
    Fields::default()
        .with(kind, text(path))
        .maybe("method", one.method.as_ref().map(|method| text(method.as_str())))
        .maybe("headers", (!one.headers.is_empty()).then(|| named(headers)))
        .maybe("query", (!one.queries.is_empty()).then(|| named(queries)))
        .yaml()
}

fn value_match(value: &StringMatch) -> Yaml {
    match value {
        StringMatch::Exact(exact) => text(exact),
        StringMatch::Regex(regex) => Fields::default().with("regex", text(regex.as_str())).yaml(),
        StringMatch::Present => Fields::default().with("present", word(true)).yaml(),
    }
}

fn target(target: &BackendTarget) -> Yaml {
    match target {
        BackendTarget::Backend(name) => text(name.as_str()),
        // Not from a file, which refuses what this stands for.
        BackendTarget::Invalid(reason) => text(reason),
    }
}

fn share(share: &WeightedBackend) -> Yaml {
    Fields::default()
        .with("to", target(&share.target))
        .with("weight", word(share.weight))
        .maybe(
            "filters",
            (!share.filters.is_empty()).then(|| list(&share.filters, filter)),
        )
        .yaml()
}

fn timeouts(timeouts: &Timeouts) -> Yaml {
    Fields::default()
        .with("request", time_or_none(timeouts.request))
        .with("per_try", time_or_none(timeouts.per_try))
        .with("idle", time_or_none(timeouts.idle))
        .with("upgrade_idle", time_or_none(timeouts.upgrade_idle))
        .yaml()
}

fn retry(retry: &RetryPolicy) -> Yaml {
    let words = [
        ("connect-failure", retry.on.connect_failure),
        ("reset", retry.on.reset),
        ("timeout", retry.on.timeout),
    ];
    let mut on: Vec<Yaml> = words
        .into_iter()
        .filter(|(_, on)| *on)
        .map(|(name, _)| word(name))
        .collect();
    on.extend(retry.on.statuses.iter().map(|status| word(status.as_u16())));
    let calls = retry.on.grpc_statuses.iter();
    on.extend(calls.map(|status| word(format!("grpc-{}", status.word()))));
    Fields::default()
        .with("attempts", word(retry.attempts))
        .with("on", Yaml::List(on))
        .with("max_replay", size(retry.max_replay_bytes))
        .with("backoff", time_or_none(retry.backoff))
        .with("max_wait", time(retry.max_wait))
        .with("hedge", word(retry.hedge))
        .yaml()
}

fn filter(filter: &Filter) -> Yaml {
    let (key, value) = match filter {
        Filter::RequestHeaders(edits) => ("request_headers", header_edits(edits)),
        Filter::ResponseHeaders(edits) => ("response_headers", header_edits(edits)),
        Filter::Rewrite(rewrite) => (
            "rewrite",
            Fields::default()
                .maybe("hostname", rewrite.hostname.as_ref().map(header_value))
                .maybe("path", rewrite.path.as_ref().map(path_rewrite))
                .yaml(),
        ),
        Filter::Cors(cors) => (
            "cors",
            Fields::default()
                .with("credentials", word(cors.credentials))
                .with("max_age", word(cors.max_age.as_secs()))
                .yaml(),
        ),
        Filter::Redirect(one) => ("redirect", redirect(one)),
        Filter::Mirror(mirror) => (
            "mirror",
            Fields::default()
                .with("to", text(mirror.backend.as_str()))
                .with("percent", word(show_percent(mirror.fraction)))
                .yaml(),
        ),
        Filter::Direct(direct) => (
            "direct",
            Fields::default()
                .with("status", word(direct.status.as_u16()))
                .with("headers", fields(&direct.headers))
                .with("body", text(String::from_utf8_lossy(&direct.body)))
                .yaml(),
        ),
    };
    Fields::default().with(key, value).yaml()
}

fn header_edits(edits: &HeaderEdits) -> Yaml {
    Fields::default()
        .with("remove", list(&edits.remove, |name| text(name.as_str())))
        .with("set", fields(&edits.set))
        .with("add", fields(&edits.add))
        .yaml()
}

fn fields(fields: &[(HeaderName, HeaderValue)]) -> Yaml {
    named(
        fields
            .iter()
            .map(|(name, value)| (name.as_str(), header_value(value))),
    )
}

fn header_value(value: &HeaderValue) -> Yaml {
    text(String::from_utf8_lossy(value.as_bytes()))
}

fn path_rewrite(path: &PathRewrite) -> Yaml {
    let (key, path) = match path {
        PathRewrite::Full(path) => ("full", path),
        PathRewrite::Prefix(path) => ("prefix", path),
        PathRewrite::Captures(path) => ("captures", path),
    };
    Fields::default().with(key, text(path)).yaml()
}

fn redirect(redirect: &Redirect) -> Yaml {
    Fields::default()
        .maybe(
            "scheme",
            redirect.scheme.as_ref().map(|scheme| word(scheme.as_str())),
        )
        .maybe("hostname", redirect.hostname.as_ref().map(text))
        .maybe("port", redirect.port.map(word))
        .maybe("path", redirect.path.as_ref().map(path_rewrite))
        .with("status", word(redirect.status.as_u16()))
        .yaml()
}
