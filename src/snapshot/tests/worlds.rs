//! Small worlds for tests, written down in few words.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::super::{Compiler, Snapshot};
use crate::balance::Micros;
use crate::model::{
    BackendTarget, Delta, HostPattern, Listener, ListenerLimits, Match, Protocols, Route, Rule,
    WeightedBackend,
};
use crate::telemetry::Metrics;

/// A listener with nothing special.
pub(super) fn listener(name: &str, address: &str, hostname: &str) -> Listener {
    Listener {
        name: name.into(),
        address: address.parse::<SocketAddr>().unwrap(),
        public_port: None,
        hostname: HostPattern::parse(hostname).unwrap(),
        kind: crate::model::ListenerKind::Http,
        protocols: Protocols::default(),
        tls: None,
        limits: ListenerLimits::default(),
    }
}

/// A route without rules.
pub(super) fn route(name: &str, listeners: &[&str], hostnames: &[&str]) -> RouteBuilder {
    RouteBuilder(Route {
        name: name.into(),
        listeners: listeners.iter().map(|name| (*name).into()).collect(),
        hostnames: hostnames
            .iter()
            .map(|text| HostPattern::parse(text).unwrap())
            .collect(),
        rules: Vec::new(),
        created: 0,
        order: 0,
    })
}

pub(super) struct RouteBuilder(Route);

impl RouteBuilder {
    pub(super) fn rule(self, matches: impl IntoIterator<Item = Match>) -> Self {
        self.rule_to(matches, &[])
    }

    pub(super) fn rule_to(mut self, matches: impl IntoIterator<Item = Match>, backends: &[&str]) -> Self {
        self.0.rules.push(Arc::new(Rule {
            matches: matches.into_iter().collect(),
            backends: backends
                .iter()
                .map(|name| WeightedBackend {
                    target: BackendTarget::Backend((*name).into()),
                    weight: 1,
                    filters: Vec::new(),
                })
                .collect(),
            ..Rule::default()
        }));
        self
    }

    pub(super) fn build(self) -> Arc<Route> {
        Arc::new(self.0)
    }
}

impl Deref for RouteBuilder {
    type Target = Route;

    fn deref(&self) -> &Route {
        &self.0
    }
}

impl DerefMut for RouteBuilder {
    fn deref_mut(&mut self) -> &mut Route {
        &mut self.0
    }
}

/// A world of one source, compiled at once.
pub(super) struct Builder(pub(super) Delta);

impl Builder {
    pub(super) fn new() -> Self {
        Self(Delta::default())
    }

    pub(super) fn listener(mut self, listener: Listener) -> Self {
        self.0
            .listeners
            .insert(listener.name.clone(), Some(Arc::new(listener)));
        self
    }

    pub(super) fn route(mut self, route: RouteBuilder) -> Self {
        self.0.routes.insert(route.name.clone(), Some(route.build()));
        self
    }

    pub(super) fn snapshot(self) -> Arc<Snapshot> {
        let mut compiler = compiler();
        let applied = compiler.apply(&"test".into(), self.0, Micros(0));
        assert_eq!(applied.rejects, []);
        compiler.readers().load()
    }
}

pub(super) fn compiler() -> Compiler {
    Compiler::new(Metrics::new(1))
}
