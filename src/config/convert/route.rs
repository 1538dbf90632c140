//! Routes: hostnames, rules, matches, shares, deadlines, retries.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::filter::{self, Answer};
use super::listener::hostname;
use super::matching::one_match;
use super::names::{Names, check_name};
use super::{DAY, Pass, SHORT};
use crate::config::diagnostic::Diagnostic;
use crate::config::place::{Place, Placed};
use crate::config::raw::RawConfig;
use crate::config::raw::filter::RawFilter;
use crate::config::raw::route::{
    RawCriticality, RawMatch, RawRetry, RawRoute, RawRule, RawShare, RawTimeouts,
};
use crate::config::raw::text::RetryCondition;
use crate::config::units;
use crate::model::{
    BackendTarget, Criticality, GrpcStatus, HostPattern, ListenerName, Match, RetryOn, RetryPolicy, Route,
    RouteName, Rule, Timeouts, WeightedBackend, World,
};

/// Where the matches of a route stand: by rule, then by match.
pub type MatchPlaces = Vec<Vec<Place>>;

/// The routes, each with the places of its matches. Backends without a name go into the world.
pub fn routes(
    pass: &mut Pass,
    raw: &RawConfig,
    names: &mut Names,
    world: &mut World,
) -> Vec<(Route, MatchPlaces)> {
    let short = raw.listeners.iter().flat_map(|listeners| &listeners.value.0);
    let short: Vec<_> = short
        .filter_map(|(name, listener)| Some((name, listener.to.as_ref()?)))
        .collect();
    let Some(raw_routes) = raw.routes.as_ref().filter(|routes| !routes.is_empty()) else {
        if raw.manifests.is_none() && short.is_empty() && !names.redirects() {
            pass.say(
                Diagnostic::warning(
                    Place::START,
                    "there is no route, so every request is answered with 404",
                )
                .hint("write one: routes: [{to: \"127.0.0.1:3000\"}]"),
            );
        }
        return relays(pass, &short, 0, &HashMap::new(), names, world);
    };
    let mut seen: HashMap<&str, Place> = HashMap::new();
    let mut out = Vec::with_capacity(raw_routes.len() + short.len());
    for (index, raw) in raw_routes.iter().enumerate() {
        if let Some(name) = &raw.value.name {
            check_name(pass, "route", name);
            if let Some(first) = seen.insert(name.text(), name.place) {
                pass.say(
                    Diagnostic::error(name.place, format!("two routes are called {:?}", name.text()))
                        .related(first, "first here"),
                );
            }
        }
        out.push(route(pass, index, raw, names, world));
    }
    for (index, raw) in raw_routes
        .iter()
        .enumerate()
        .filter(|(_, raw)| raw.value.name.is_none())
    {
        if let Some(taken) = seen.get(numbered(index).as_str()) {
            pass.say(
                Diagnostic::error(
                    raw.place,
                    format!("this route is called {:?} by its place", numbered(index)),
                )
                .hint("give it a name")
                .related(*taken, "and this one by its name"),
            );
        }
    }
    out.extend(relays(pass, &short, raw_routes.len(), &seen, names, world));
    out
}

/// The routes of listeners that say themselves where to: each with its listener's name.
fn relays(
    pass: &mut Pass,
    short: &[(&Placed<String>, &Placed<String>)],
    first: usize,
    taken: &HashMap<&str, Place>,
    names: &mut Names,
    world: &mut World,
) -> Vec<(Route, MatchPlaces)> {
    let mut out = Vec::with_capacity(short.len());
    for (index, (listener, to)) in short.iter().enumerate() {
        if let Some(taken) = taken.get(listener.text()) {
            pass.say(
                Diagnostic::error(*taken, format!("two routes are called {:?}", listener.text()))
                    .related(to.place, "this one by its listener"),
            );
        }
        let rule = Rule {
            matches: vec![Match::default()],
            backends: vec![WeightedBackend {
                target: BackendTarget::Backend(names.backend(pass, to, world)),
                weight: 1,
                filters: Vec::new(),
            }],
            ..Rule::default()
        };
        let route = Route {
            name: RouteName::new(listener.text()),
            listeners: vec![ListenerName::new(listener.text())],
            hostnames: vec![HostPattern::Any],
            rules: vec![Arc::new(rule)],
            created: 0,
            order: u32::try_from(first + index).unwrap_or(u32::MAX),
        };
        out.push((route, vec![vec![to.place]]));
    }
    out
}

/// A route of listeners that relay bytes says where to and nothing else: nobody looks into what is relayed.
fn check_relay(pass: &mut Pass, raw: &RawRoute, listeners: &[ListenerName], names: &Names) {
    let relaying = listeners.iter().filter(|name| names.relays(name)).count();
    if relaying == 0 {
        return;
    }
    let place = raw.listeners.as_ref().map_or(Place::START, |named| named.place);
    if relaying < listeners.len() {
        pass.say(
            Diagnostic::error(
                place,
                "one route cannot be for requests and for bytes that are relayed",
            )
            .hint("write one route for each"),
        );
    }
    for (key, part) in [
        ("match", raw.only.as_ref().map(|part| part.place)),
        ("matches", raw.matches.as_ref().map(|part| part.place)),
        ("filters", raw.filters.as_ref().map(|part| part.place)),
        ("timeouts", raw.timeouts.as_ref().map(|part| part.place)),
        ("rules", raw.rules.as_ref().map(|part| part.place)),
    ] {
        if let Some(part) = part {
            let message = format!("nobody looks into bytes that are relayed, so {key} has no meaning");
            let hint = match key {
                "timeouts" => "see connect_timeout of the backend, and limits.relay_idle of the listener",
                _ => "say only where to: to: NAME, or split: [...]",
            };
            pass.say(
                Diagnostic::error(part, message)
                    .hint(hint)
                    .related(place, "for these listeners"),
            );
        }
    }
}

/// The name of a route without one: its place in the list, from 1.
fn numbered(index: usize) -> String {
    format!("route-{}", index + 1)
}

fn route(
    pass: &mut Pass,
    index: usize,
    raw: &Placed<RawRoute>,
    names: &mut Names,
    world: &mut World,
) -> (Route, MatchPlaces) {
    let place = raw.place;
    let raw = &raw.value;
    let name = raw
        .name
        .as_ref()
        .map_or_else(|| numbered(index), |name| name.value.clone());
    let parts = match &raw.rules {
        None => vec![Parts::of_route(raw, place)],
        Some(rules) => {
            refuse_both(pass, raw);
            if rules.value.is_empty() {
                pass.error(rules.place, "the list of rules is empty");
            }
            rules.value.iter().map(Parts::of_rule).collect()
        }
    };
    let (rules, places) = parts
        .into_iter()
        .map(|parts| rule(pass, &parts, names, world))
        .unzip();
    let listeners = names.listeners(pass, raw.listeners.as_ref());
    check_relay(pass, raw, &listeners, names);
    let route = Route {
        name: RouteName::new(name),
        listeners,
        hostnames: hostnames(pass, raw.hostnames.as_ref()),
        rules,
        created: 0,
        order: u32::try_from(index).unwrap_or(u32::MAX),
    };
    (route, places)
}

fn hostnames(pass: &mut Pass, raw: Option<&Placed<Vec<Placed<String>>>>) -> Vec<HostPattern> {
    let Some(raw) = raw else {
        return vec![HostPattern::Any];
    };
    if raw.value.is_empty() {
        pass.say(
            Diagnostic::error(raw.place, "the list of hostnames is empty").hint("leave it out to mean all"),
        );
        return vec![HostPattern::Any];
    }
    let mut out: Vec<HostPattern> = Vec::with_capacity(raw.value.len());
    for text in &raw.value {
        let errors = pass.found.len();
        let pattern = hostname(pass, text);
        if out.contains(&pattern) && errors == pass.found.len() {
            pass.error(
                text.place,
                format!("the hostname {:?} is there twice", text.text()),
            );
        } else {
            out.push(pattern);
        }
    }
    out
}

/// What a rule is made of, whether it stands in a route itself or among its rules.
struct Parts<'a> {
    place: Place,
    name: Option<&'a Placed<String>>,
    only: Option<&'a Placed<RawMatch>>,
    matches: Option<&'a Placed<Vec<Placed<RawMatch>>>>,
    filters: Option<&'a Placed<Vec<Placed<RawFilter>>>>,
    to: Option<&'a Placed<String>>,
    split: Option<&'a Placed<Vec<Placed<RawShare>>>>,
    timeouts: Option<&'a Placed<RawTimeouts>>,
    retry: Option<&'a Placed<RawRetry>>,
    criticality: Option<&'a Placed<RawCriticality>>,
}

impl<'a> Parts<'a> {
    fn of_route(raw: &'a RawRoute, place: Place) -> Self {
        Self {
            place,
            name: None,
            only: raw.only.as_ref(),
            matches: raw.matches.as_ref(),
            filters: raw.filters.as_ref(),
            to: raw.to.as_ref(),
            split: raw.split.as_ref(),
            timeouts: raw.timeouts.as_ref(),
            retry: raw.retry.as_ref(),
            criticality: raw.criticality.as_ref(),
        }
    }

    fn of_rule(raw: &'a Placed<RawRule>) -> Self {
        let (place, raw) = (raw.place, &raw.value);
        Self {
            place,
            name: raw.name.as_ref(),
            only: raw.only.as_ref(),
            matches: raw.matches.as_ref(),
            filters: raw.filters.as_ref(),
            to: raw.to.as_ref(),
            split: raw.split.as_ref(),
            timeouts: raw.timeouts.as_ref(),
            retry: raw.retry.as_ref(),
            criticality: raw.criticality.as_ref(),
        }
    }
}

/// A route has its rule right here or under `rules`, not both.
fn refuse_both(pass: &mut Pass, raw: &RawRoute) {
    let here = [
        ("match", raw.only.as_ref().map(|part| part.place)),
        ("matches", raw.matches.as_ref().map(|part| part.place)),
        ("filters", raw.filters.as_ref().map(|part| part.place)),
        ("to", raw.to.as_ref().map(|part| part.place)),
        ("split", raw.split.as_ref().map(|part| part.place)),
        ("timeouts", raw.timeouts.as_ref().map(|part| part.place)),
        ("retry", raw.retry.as_ref().map(|part| part.place)),
        ("criticality", raw.criticality.as_ref().map(|part| part.place)),
    ];
    for (key, place) in here.into_iter().filter_map(|(key, place)| Some((key, place?))) {
        pass.say(
            Diagnostic::error(place, format!("a route with rules has no {key} of its own"))
                .hint("move it into the rules"),
        );
    }
}

fn rule(pass: &mut Pass, parts: &Parts<'_>, names: &mut Names, world: &mut World) -> (Arc<Rule>, Vec<Place>) {
    let (matches, places) = matches(pass, parts);
    let raw_filters = parts.filters.map_or(&[] as &[_], |filters| &filters.value);
    let filters = filter::filters(pass, raw_filters, &matches, names, world);
    let answer = filter::answer(raw_filters);
    let backends = backends(pass, parts, &matches, answer, names, world);
    let rule = Rule {
        name: parts.name.map(|name| Arc::from(name.text())),
        matches,
        filters,
        backends,
        timeouts: timeouts(pass, parts.timeouts),
        retry: retry(pass, parts.retry),
        criticality: parts.criticality.map(|raw| criticality(raw.value)),
    };
    (Arc::new(rule), places)
}

fn criticality(raw: RawCriticality) -> Criticality {
    match raw {
        RawCriticality::CriticalPlus => Criticality::CriticalPlus,
        RawCriticality::Critical => Criticality::Critical,
        RawCriticality::SheddablePlus => Criticality::SheddablePlus,
        RawCriticality::Sheddable => Criticality::Sheddable,
    }
}

fn matches(pass: &mut Pass, parts: &Parts<'_>) -> (Vec<Match>, Vec<Place>) {
    match (parts.only, parts.matches) {
        (Some(only), Some(several)) => {
            pass.say(
                Diagnostic::error(several.place, "match and matches are both there")
                    .hint("put all of them under matches")
                    .related(only.place, "match here"),
            );
            (vec![Match::default()], vec![only.place])
        }
        (Some(only), None) => (vec![one_match(pass, &only.value)], vec![only.place]),
        (None, Some(several)) => {
            if several.value.is_empty() {
                pass.say(
                    Diagnostic::error(several.place, "the list of matches is empty")
                        .hint("leave it out to mean all"),
                );
            }
            several
                .value
                .iter()
                .map(|raw| (one_match(pass, &raw.value), raw.place))
                .unzip()
        }
        (None, None) => (vec![Match::default()], vec![parts.place]),
    }
}

fn backends(
    pass: &mut Pass,
    parts: &Parts<'_>,
    matches: &[Match],
    answer: Option<Answer>,
    names: &mut Names,
    world: &mut World,
) -> Vec<WeightedBackend> {
    let target = parts
        .to
        .map(|to| to.place)
        .or(parts.split.map(|split| split.place));
    match (target, answer) {
        (Some(place), Some(answer)) => pass.say(
            Diagnostic::error(
                place,
                format!("no request gets here, because {} answers", answer.name),
            )
            .related(answer.place, "this filter"),
        ),
        (None, None) => pass.say(
            Diagnostic::error(parts.place, "nothing answers here")
                .hint("say where to: to: NAME, split: [...], or a filter that answers (redirect, direct)"),
        ),
        _ => {}
    }
    match (parts.to, parts.split) {
        (Some(to), Some(split)) => {
            pass.say(
                Diagnostic::error(split.place, "to and split are both there").related(to.place, "to here"),
            );
            Vec::new()
        }
        (Some(to), None) => vec![WeightedBackend {
            target: BackendTarget::Backend(names.backend(pass, to, world)),
            weight: 1,
            filters: Vec::new(),
        }],
        (None, Some(split)) => shares(pass, split, matches, names, world),
        (None, None) => Vec::new(),
    }
}

fn shares(
    pass: &mut Pass,
    split: &Placed<Vec<Placed<RawShare>>>,
    matches: &[Match],
    names: &mut Names,
    world: &mut World,
) -> Vec<WeightedBackend> {
    let mut out = Vec::with_capacity(split.value.len());
    for share in &split.value {
        let raw = share
            .value
            .filters
            .as_ref()
            .map_or(&[] as &[_], |filters| &filters.value);
        if let Some(answer) = filter::answer(raw) {
            pass.error(
                answer.place,
                format!("{} is for a whole rule, not for a share", answer.name),
            );
        }
        out.push(WeightedBackend {
            target: BackendTarget::Backend(names.backend(pass, &share.value.to, world)),
            weight: pass.count("weight", share.value.weight.as_ref(), 1, 0..=1_000_000),
            filters: filter::filters(pass, raw, matches, names, world),
        });
    }
    if out.iter().all(|share| share.weight == 0) {
        let what = if out.is_empty() {
            "the list of shares is empty"
        } else {
            "all weights are 0"
        };
        pass.error(split.place, format!("{what}, so no request goes anywhere"));
    }
    out
}

fn timeouts(pass: &mut Pass, raw: Option<&Placed<RawTimeouts>>) -> Timeouts {
    let default = Timeouts::default();
    let Some(Placed { value: raw, .. }) = raw else {
        return default;
    };
    let mut read = |name, text, default| pass.duration_or_none(name, text, default, SHORT..=DAY);
    let timeouts = Timeouts {
        request: read("request", raw.request.as_ref(), default.request),
        per_try: read("per_try", raw.per_try.as_ref(), default.per_try),
        idle: read("idle", raw.idle.as_ref(), default.idle),
        upgrade_idle: read("upgrade_idle", raw.upgrade_idle.as_ref(), default.upgrade_idle),
    };
    if let (Some(text), Some(per_try), Some(request)) = (&raw.per_try, timeouts.per_try, timeouts.request)
        && per_try >= request
    {
        let request = units::show_duration(request);
        pass.say(Diagnostic::warning(
            text.place(),
            format!("per_try is never reached, because request ({request}) ends first"),
        ));
    }
    timeouts
}

fn retry(pass: &mut Pass, raw: Option<&Placed<RawRetry>>) -> RetryPolicy {
    let default = RetryPolicy::default();
    let Some(Placed { value: raw, .. }) = raw else {
        return default;
    };
    let attempts = pass.count(
        "attempts",
        raw.attempts.as_ref(),
        u32::from(default.attempts),
        1..=10,
    );
    RetryPolicy {
        attempts: u8::try_from(attempts).unwrap_or(default.attempts),
        on: raw.on.as_deref().map_or(default.on, |on| retry_on(pass, on)),
        max_replay_bytes: pass.size(
            "max_replay",
            raw.max_replay.as_ref(),
            default.max_replay_bytes,
            0..=16 << 20,
        ),
        backoff: pass.duration_or_none(
            "backoff",
            raw.backoff.as_ref(),
            default.backoff,
            SHORT..=Duration::from_secs(60),
        ),
        max_wait: pass.duration(
            "max_wait",
            raw.max_wait.as_ref(),
            default.max_wait,
            Duration::ZERO..=Duration::from_secs(300),
        ),
        hedge: raw.hedge.as_ref().map_or(default.hedge, |hedge| hedge.value),
    }
}

/// What the words of gRPC's statuses begin with.
const GRPC: &str = "grpc-";

fn retry_on(pass: &mut Pass, raw: &[RetryCondition]) -> RetryOn {
    let mut on = RetryOn::nothing();
    let words = ["connect-failure", "reset", "timeout"];
    for condition in raw {
        let text = condition.text();
        let grpc = text.strip_prefix(GRPC).and_then(GrpcStatus::of_word);
        match (text, units::status(text), grpc) {
            ("connect-failure", ..) => on.connect_failure = true,
            ("reset", ..) => on.reset = true,
            ("timeout", ..) => on.timeout = true,
            (_, _, Some(grpc)) => {
                if !on.grpc_statuses.contains(&grpc) {
                    on.grpc_statuses.push(grpc);
                }
            }
            (_, Some(status), _) if status.as_u16() >= 400 => {
                if !on.statuses.contains(&status) {
                    on.statuses.push(status);
                }
            }
            _ => {
                let calls = GrpcStatus::WORDS.map(|word| format!("{GRPC}{word}"));
                let known = words.into_iter().chain(calls.iter().map(String::as_str));
                let hint = crate::config::diagnostic::nearest(text, known).map_or_else(
                    || {
                        "known here: connect-failure, reset, timeout, a status from 400 to 599, or grpc- and a status of gRPC"
                            .to_owned()
                    },
                    |nearest| format!("did you mean {nearest:?}?"),
                );
                pass.say(
                    Diagnostic::error(condition.place(), format!("{text:?} is no reason to try again"))
                        .hint(hint),
                );
            }
        }
    }
    on
}
