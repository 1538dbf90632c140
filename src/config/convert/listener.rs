//! Listeners: addresses, hostnames, limits.

use std::sync::Arc;
use std::time::Duration;

use super::names::check_name;
use super::{DAY, Pass, SHORT, mtls, tls};
use crate::config::diagnostic::Diagnostic;
use crate::config::place::{Place, Placed};
use crate::config::raw::acme::RawAcme;
use crate::config::raw::text::ListenAddress;
use crate::config::raw::{
    RawConfig, RawDirection, RawListener, RawListenerKind, RawListenerLimits, RawListenerProtocol,
    RawProxyProtocol,
};
use crate::config::units;
use crate::model::{
    Direction, HostPattern, Listener, ListenerKind, ListenerLimits, ListenerName, Protocols, ProxyProtocol,
};

/// The name of the listener that `listen` makes.
const SHORT_FORM_NAME: &str = "http";

/// The listeners, each with the place of its address.
pub fn listeners(pass: &mut Pass, raw: &RawConfig, identity: &mtls::Known) -> Vec<(Listener, Place)> {
    match (&raw.listen, &raw.listeners) {
        (Some(listen), Some(listeners)) => {
            pass.say(
                Diagnostic::error(listen.place(), "listen and listeners are both there")
                    .hint("give this address a name under listeners")
                    .related(listeners.place, "listeners here"),
            );
            Vec::new()
        }
        (Some(listen), None) => {
            let name = ListenerName::new(SHORT_FORM_NAME);
            let address = address(pass, listen);
            vec![(
                Listener {
                    name,
                    address,
                    public_port: None,
                    hostname: HostPattern::Any,
                    kind: ListenerKind::Http,
                    protocols: Protocols::default(),
                    tls: None,
                    limits: ListenerLimits::default(),
                },
                listen.place(),
            )]
        }
        (None, Some(listeners)) => {
            if listeners.value.0.is_empty() && raw.manifests.is_none() && !raw.has_settings_alone() {
                pass.error(listeners.place, "there is no listener");
            }
            listeners
                .value
                .0
                .iter()
                .map(|(name, one)| listener(pass, name, one, raw.acme.as_ref(), identity))
                .collect()
        }
        (None, None) if raw.manifests.is_some() || raw.has_settings_alone() => Vec::new(),
        (None, None) => {
            pass.say(
                Diagnostic::error(Place::START, "there is no listener").hint("write one: listen: \":8080\""),
            );
            Vec::new()
        }
    }
}

fn address(pass: &mut Pass, text: &ListenAddress) -> std::net::SocketAddr {
    pass.unit(text.place(), units::listen_address(text.text()))
        .unwrap_or_else(|| std::net::SocketAddr::from(([0, 0, 0, 0], 0)))
}

fn listener(
    pass: &mut Pass,
    name: &Placed<String>,
    raw: &RawListener,
    acme: Option<&Placed<RawAcme>>,
    identity: &mtls::Known,
) -> (Listener, Place) {
    check_name(pass, "listener", name);
    let kind = kind(pass, raw);
    let hostname = raw
        .hostname
        .as_ref()
        .map_or(HostPattern::Any, |text| hostname(pass, text));
    let mut limits = limits(pass, raw.limits.as_ref(), kind);
    limits.trusted_proxies = raw
        .trusted_proxies
        .iter()
        .flatten()
        .filter_map(|text| pass.unit(text.place(), units::network(text.text())))
        .collect();
    if let Some(told) = &raw.load_reports {
        limits.load_reports = told.value;
    }
    limits.proxy_protocol = raw
        .proxy_protocol
        .as_ref()
        .map(|raw| proxy_protocol(pass, &raw.value));
    limits.mtls = raw.mtls.as_ref().and_then(|own| {
        let conflict = match (&raw.tls, &raw.transparent, &raw.protocol) {
            (Some(tls), ..) => Some((tls.place, "TLS is ended already; see tls.client_auth")),
            (_, Some(direction), _) if direction.value == RawDirection::Outbound => {
                Some((direction.place, "who connects is the app beside"))
            }
            (.., Some(protocol)) if kind == ListenerKind::Udp => {
                Some((protocol.place, "datagrams have no TLS"))
            }
            (.., Some(protocol)) if kind == ListenerKind::Tls => {
                Some((protocol.place, "TLS is passed on unopened; write protocol: tcp"))
            }
            _ => None,
        };
        mtls::inbound(pass, identity, own, conflict)
    });
    let address = address(pass, &raw.address);
    let protocols = protocols(pass, raw.protocols.as_ref(), raw.tls.is_some());
    let tls = raw.tls.as_ref();
    let tls = tls.and_then(|raw| tls::listener(pass, acme, raw, &hostname));
    let listener = Listener {
        name: ListenerName::new(name.text()),
        address,
        public_port: None,
        hostname,
        kind,
        protocols,
        tls: tls.map(Arc::new),
        limits,
    };
    (listener, raw.address.place())
}

/// What is done with what clients send; says which other keys make no sense with it.
fn kind(pass: &mut Pass, raw: &RawListener) -> ListenerKind {
    if let Some(direction) = &raw.transparent {
        return redirected(pass, raw, direction);
    }
    let Some(protocol) = &raw.protocol else {
        if let Some(to) = &raw.to {
            pass.say(
                Diagnostic::error(to.place, "requests go where routes say")
                    .hint("write routes: [{to: ..}], or give the listener protocol: tcp"),
            );
        }
        return ListenerKind::Http;
    };
    let kind = match protocol.value {
        RawListenerKind::Http => ListenerKind::Http,
        RawListenerKind::Tcp => ListenerKind::Tcp,
        RawListenerKind::Tls => ListenerKind::Tls,
        RawListenerKind::Udp => ListenerKind::Udp,
    };
    let mut refuse = |place: Option<Place>, message: &str, hint: &str| {
        if let Some(place) = place {
            let why = Diagnostic::error(place, message).hint(hint);
            pass.say(why.related(protocol.place, "because of this protocol"));
        }
    };
    if kind == ListenerKind::Http {
        let hint = "write routes: [{to: ..}]";
        refuse(
            raw.to.as_ref().map(|to| to.place),
            "requests go where routes say",
            hint,
        );
        return kind;
    }
    let spoken = raw.protocols.as_ref().map(|protocols| protocols.place);
    let message = "nobody looks at what is spoken where bytes are relayed";
    refuse(spoken, message, "leave protocols out");
    if kind == ListenerKind::Udp {
        let header = raw.proxy_protocol.as_ref().map(|header| header.place);
        let message = "datagrams have no beginning for a PROXY header";
        refuse(header, message, "leave proxy_protocol out");
    }
    if kind != ListenerKind::Tls {
        let hint = "write protocol: tls to end TLS and relay what is in it";
        let tls = raw.tls.as_ref().map(|tls| tls.place);
        refuse(tls, "bytes are relayed as they come, TLS too", hint);
        let hostname = raw.hostname.as_ref().map(|hostname| hostname.place);
        let message = "bytes that nobody looks at have no hostname";
        refuse(
            hostname,
            message,
            "leave it out, or write protocol: tls to go by the name in TLS",
        );
    }
    kind
}

/// The PROXY protocol of clients.
fn proxy_protocol(pass: &mut Pass, raw: &RawProxyProtocol) -> ProxyProtocol {
    if raw.from.value.is_empty() {
        pass.say(
            Diagnostic::error(raw.from.place, "nobody may connect, because nobody is believed")
                .hint("name the networks of the proxies in front: [10.0.0.0/8]"),
        );
    }
    ProxyProtocol {
        from: (raw.from.value.iter())
            .filter_map(|text| pass.unit(text.place(), units::network(text.text())))
            .collect(),
        deadline: pass.duration(
            "deadline",
            raw.deadline.as_ref(),
            Duration::from_secs(3),
            Duration::from_millis(10)..=DAY,
        ),
    }
}

/// A listener of redirected connections; says which other keys make no sense with it.
fn redirected(pass: &mut Pass, raw: &RawListener, direction: &Placed<RawDirection>) -> ListenerKind {
    let mut refuse = |place: Option<Place>, message: &str, hint: &str| {
        if let Some(place) = place {
            let why = Diagnostic::error(place, message).hint(hint);
            pass.say(why.related(direction.place, "redirected here"));
        }
    };
    let protocol = raw.protocol.as_ref().map(|protocol| protocol.place);
    let message = "what is spoken on redirected connections is seen from their first bytes";
    refuse(protocol, message, "leave protocol out; see limits.opaque_ports");
    let to = raw.to.as_ref().map(|to| to.place);
    let message = "redirected connections go where their clients wanted to go";
    refuse(to, message, "leave it out; see virtual_addresses of backends");
    let hostname = raw.hostname.as_ref().map(|hostname| hostname.place);
    refuse(hostname, message, "leave it out");
    let tls = raw.tls.as_ref().map(|tls| tls.place);
    let message = "TLS of redirected connections is between client and server";
    refuse(tls, message, "leave it out");
    ListenerKind::Redirected(match direction.value {
        RawDirection::Inbound => Direction::Inbound,
        RawDirection::Outbound => Direction::Outbound,
    })
}

/// A port; none when it is none, which is said.
pub fn port(pass: &mut Pass, number: &Placed<u32>) -> Option<u16> {
    match u16::try_from(number.value) {
        Ok(port) if port > 0 => Some(port),
        _ => {
            pass.error(
                number.place,
                format!("{} is no port from 1 to 65535", number.value),
            );
            None
        }
    }
}

/// A hostname pattern; [`HostPattern::Any`] when it is wrong.
pub fn hostname(pass: &mut Pass, text: &Placed<String>) -> HostPattern {
    HostPattern::parse(text.text()).unwrap_or_else(|error| {
        let bare = text
            .text()
            .split_once("://")
            .map_or(text.text(), |(_, rest)| rest);
        let bare = bare.split(['/', ':']).next().unwrap_or(bare);
        let meant = HostPattern::parse(bare).ok().filter(|_| bare != text.text());
        pass.say(
            Diagnostic::error(text.place, error.to_string())
                .maybe_hint(meant.map(|meant| format!("did you mean {:?}?", meant.to_string()))),
        );
        HostPattern::Any
    })
}

fn protocols(pass: &mut Pass, raw: Option<&Placed<Vec<RawListenerProtocol>>>, is_tls: bool) -> Protocols {
    let Some(raw) = raw else {
        return Protocols::default();
    };
    if raw.value.is_empty() {
        pass.say(
            Diagnostic::error(raw.place, "a listener speaks at least one protocol").hint(match is_tls {
                true => "write [h1, h2]",
                false => "write [h1, h2c]",
            }),
        );
    }
    let has = |protocol| raw.value.contains(&protocol);
    if is_tls && has(RawListenerProtocol::H2c) {
        pass.say(
            Diagnostic::error(raw.place, "h2c is clear text, and this listener has TLS").hint("write h2"),
        );
    }
    if !is_tls && has(RawListenerProtocol::H2) {
        pass.say(
            Diagnostic::error(raw.place, "h2 needs TLS, and this listener has none")
                .hint("write h2c for HTTP/2 in clear text, or give it tls: {certificates: [..]}"),
        );
    }
    Protocols {
        http1: has(RawListenerProtocol::H1),
        http2: has(RawListenerProtocol::H2c) || has(RawListenerProtocol::H2),
    }
}

fn limits(pass: &mut Pass, raw: Option<&RawListenerLimits>, kind: ListenerKind) -> ListenerLimits {
    let default = ListenerLimits {
        relay_idle: ListenerLimits::relay_idle_of(kind),
        ..ListenerLimits::default()
    };
    let Some(raw) = raw else { return default };
    /// Largest HTTP/2 window (RFC 9113 §6.9.1).
    const MAX_WINDOW: u32 = (1 << 31) - 1;
    let wait = Duration::from_millis(10)..=DAY;
    if let Some(responses) = &raw.responses
        && kind != ListenerKind::Udp
    {
        pass.say(
            Diagnostic::error(responses.place, "only datagrams can be counted as responses")
                .hint("leave it out, or write protocol: udp"),
        );
    }
    let limits = ListenerLimits {
        max_connections: pass.count(
            "max_connections",
            raw.max_connections.as_ref(),
            default.max_connections,
            1..=10_000_000,
        ),
        // hyper's HTTP/1 buffer cannot be smaller than 8 KiB.
        max_head_bytes: pass.size(
            "max_head",
            raw.max_head.as_ref(),
            default.max_head_bytes,
            8 << 10..=1 << 20,
        ),
        max_headers: u16::try_from(pass.count(
            "max_headers",
            raw.max_headers.as_ref(),
            u32::from(default.max_headers),
            1..=4096,
        ))
        .unwrap_or(default.max_headers),
        head_deadline: pass.duration(
            "head_deadline",
            raw.head_deadline.as_ref(),
            default.head_deadline,
            wait.clone(),
        ),
        body_idle: pass.duration(
            "body_idle",
            raw.body_idle.as_ref(),
            default.body_idle,
            wait.clone(),
        ),
        keep_alive_idle: pass.duration(
            "keep_alive_idle",
            raw.keep_alive_idle.as_ref(),
            default.keep_alive_idle,
            SHORT..=DAY,
        ),
        max_concurrent_streams: pass.count(
            "max_concurrent_streams",
            raw.max_concurrent_streams.as_ref(),
            default.max_concurrent_streams,
            1..=10_000,
        ),
        stream_window: pass.size(
            "stream_window",
            raw.stream_window.as_ref(),
            default.stream_window,
            16 << 10..=MAX_WINDOW,
        ),
        // A connection's window begins at 65535 and can only grow (RFC 9113 §6.9.2).
        connection_window: pass.size(
            "connection_window",
            raw.connection_window.as_ref(),
            default.connection_window,
            65_535..=MAX_WINDOW,
        ),
        handshake_deadline: pass.duration(
            "handshake_deadline",
            raw.handshake_deadline.as_ref(),
            default.handshake_deadline,
            Duration::from_millis(10)..=DAY,
        ),
        max_handshakes: pass.count(
            "max_handshakes",
            raw.max_handshakes.as_ref(),
            default.max_handshakes,
            1..=1_000_000,
        ),
        detect: pass.duration(
            "detect",
            raw.detect.as_ref(),
            default.detect,
            SHORT..=Duration::from_secs(60),
        ),
        opaque_ports: match &raw.opaque_ports {
            None => default.opaque_ports,
            Some(ports) => ports.iter().filter_map(|number| port(pass, number)).collect(),
        },
        relay_idle: pass.duration_or_none(
            "relay_idle",
            raw.relay_idle.as_ref(),
            default.relay_idle,
            Duration::from_millis(10)..=DAY,
        ),
        responses: raw
            .responses
            .as_ref()
            .map(|most| pass.count("responses", Some(most), 1, 1..=1_000_000)),
        proxy_protocol: default.proxy_protocol,
        mtls: default.mtls,
        trusted_proxies: default.trusted_proxies,
        load_reports: default.load_reports,
    };
    if let Some(text) = &raw.stream_window
        && limits.stream_window > limits.connection_window
    {
        pass.say(Diagnostic::warning(
            text.place(),
            "stream_window is larger than connection_window, so no stream can use all of it",
        ));
    }
    limits
}
