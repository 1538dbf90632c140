//! What clashes: listeners for the same traffic, matches that can never be reached, routes that no
//! listener leads to.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::SocketAddr;

use super::Pass;
use super::route::MatchPlaces;
use crate::config::diagnostic::Diagnostic;
use crate::config::place::Place;
use crate::config::raw::RawConfig;
use crate::model::{HostPattern, Listener, ListenerName, Match, Route, StringMatch, Transport};

/// Where a socket is, and what it is for.
type Socket = (SocketAddr, Transport);

/// Listeners may share an address only with different hostnames, and none with the admin listener.
pub fn listeners(
    pass: &mut Pass,
    listeners: &[(Listener, Place)],
    raw: &RawConfig,
    admin: Option<SocketAddr>,
) {
    let mut seen: HashMap<(Socket, &HostPattern), Place> = HashMap::new();
    let mut first_at: HashMap<Socket, &Listener> = HashMap::new();
    // Port 0 is another port each time.
    for (listener, place) in listeners
        .iter()
        .filter(|(listener, _)| listener.address.port() != 0)
    {
        let address = listener.address;
        let socket = listener.socket();
        if let Some(first) = seen.insert((socket, &listener.hostname), *place) {
            pass.say(
                Diagnostic::error(
                    *place,
                    format!(
                        "two listeners have {address} with the hostname {}",
                        listener.hostname
                    ),
                )
                .hint("give them different hostnames, or make it one listener")
                .related(first, "first here"),
            );
        }
        let first = *first_at.entry(socket).or_insert(listener);
        let (its, own) = (first.opening(), listener.opening());
        if its != own {
            pass.say(
                Diagnostic::error(
                    *place,
                    format!(
                        "{address} cannot begin with {} for {} and with {} for {}",
                        its.words(),
                        first.name,
                        own.words(),
                        listener.name
                    ),
                )
                .hint("choose another port"),
            );
        }
        if first.limits.mtls != listener.limits.mtls {
            let message = format!(
                "{address} cannot ask some for mTLS and others not, as {} and {} have it",
                first.name, listener.name
            );
            let hint = "write the same mtls for both, or choose another port";
            pass.say(Diagnostic::error(*place, message).hint(hint));
        } else if first.limits != listener.limits {
            let name = first.name.clone().min(listener.name.clone());
            pass.say(Diagnostic::warning(
                *place,
                format!("listeners on {address} have different limits; those of {name} are used for all"),
            ));
        }
        if admin == Some(address) && listener.transport() == Transport::Tcp {
            let written = raw.admin.as_ref().and_then(|admin| admin.address.as_ref());
            let clash = Diagnostic::error(*place, format!("the admin listener has {address} too"));
            pass.say(match written {
                Some(admin) => clash.related(admin.place(), "admin here"),
                None => clash.hint("move it: admin: {address: \"127.0.0.1:9902\"}"),
            });
        }
    }
}

/// No two matches are the same for the same listener and hostname, and every route can be reached.
pub fn routes(pass: &mut Pass, listeners: &[(Listener, Place)], routes: &[(Route, MatchPlaces)]) {
    let mut ids: HashMap<String, u32> = HashMap::new();
    // A match is told by its number, because an alias gives two of them one place.
    let mut seen: HashMap<(&ListenerName, &HostPattern, u32), (usize, Place)> = HashMap::new();
    let mut number = 0;
    for (route, places) in routes {
        let listens = |name: &ListenerName| {
            let hostname = listeners
                .iter()
                .find(|(listener, _)| listener.name == *name)
                .map(|(listener, _)| &listener.hostname);
            hostname.is_some_and(|hostname| {
                route
                    .hostnames
                    .iter()
                    .any(|own| own.intersect(hostname).is_some())
            })
        };
        let first_place = places.iter().flatten().next().copied().unwrap_or(Place::START);
        // With an error elsewhere, that is likely why.
        if !pass.found.has_errors() && !route.listeners.iter().any(listens) {
            let why = if route.listeners.is_empty() {
                "there is no listener in this file"
            } else {
                "no listener of it has its hostnames"
            };
            pass.say(Diagnostic::warning(
                first_place,
                format!("the route {} is never used: {why}", route.name),
            ));
        }
        for (rule, places) in route.rules.iter().zip(places) {
            for (one, place) in rule.matches.iter().zip(places) {
                let next = u32::try_from(ids.len()).unwrap_or(u32::MAX);
                let id = *ids.entry(key(one)).or_insert(next);
                number += 1;
                // One complaint per match is enough, whatever number of listeners and hostnames it has.
                let first = route
                    .listeners
                    .iter()
                    .flat_map(|listener| route.hostnames.iter().map(move |host| (listener, host)))
                    .fold(None, |found, (listener, host)| {
                        let (first, place) = *seen.entry((listener, host, id)).or_insert((number, *place));
                        found.or((first != number).then_some(place))
                    });
                if let Some(first) = first {
                    pass.say(
                        Diagnostic::error(
                            *place,
                            "this can never be reached: the same match for the same hostname",
                        )
                        .related(first, "is already here"),
                    );
                }
            }
        }
    }
}

/// A text that is equal for equal matches, whatever the order of their conditions.
fn key(one: &Match) -> String {
    let value = |value: &StringMatch| match value {
        StringMatch::Exact(text) => format!("={text:?}"),
        StringMatch::Regex(regex) => format!("~{:?}", regex.as_str()),
        StringMatch::Present => "?".to_owned(),
    };
    let mut conditions: Vec<String> = one
        .headers
        .iter()
        .map(|header| format!("h{:?}{}", header.name.as_str(), value(&header.value)))
        .chain(
            one.queries
                .iter()
                .map(|query| format!("q{:?}{}", query.name, value(&query.value))),
        )
        .collect();
    conditions.sort_unstable();
    let mut out = format!("{:?} {:?}", one.path, one.method);
    for condition in conditions {
        // Writing to a String cannot fail.
        let _ = write!(out, " {condition}");
    }
    out
}
