//! The real app in the test's process, with a world that the test gives.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tidegate::app::{self, Options, Running, Source};
use tidegate::config::{AccessLogFormat, AccessLogSettings, AccessLogTarget, AdminSettings, Settings};
use tidegate::model::{
    Backend, BackendName, BackendTarget, Delta, Endpoint, HostPattern, Identity, Listener, ListenerLimits,
    ListenerName, Match, PathMatch, Protocols, Route, RouteName, Rule, SourceName, WeightedBackend, World,
};

use super::client::{Client, Down};
use super::soon;
use super::wire::Wire;

/// Where listeners are configured; the kernel chooses the port.
pub fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A world in the making: one listener, a rule for everything to the backend `web`, and what a test changes of it.
pub struct Setup {
    pub listener: Listener,
    pub rules: Vec<Rule>,
    pub backends: Vec<(Backend, Vec<Endpoint>)>,
    pub settings: Settings,
    pub identity: Option<Arc<Identity>>,
    pub directory: TempDir,
}

impl Setup {
    /// All requests go to these endpoints. Nothing is ejected unless a test wants it.
    pub fn to(endpoints: &[SocketAddr]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("access.log");
        let settings = Settings {
            workers: Some(2),
            admin: AdminSettings { address: None },
            access_log: Some(AccessLogSettings {
                format: AccessLogFormat::Json,
                to: AccessLogTarget::File(log),
            }),
            ..Settings::default()
        };
        let setup = Self {
            listener: Listener {
                name: ListenerName::new("http"),
                address: any_port(),
                public_port: None,
                hostname: HostPattern::Any,
                kind: tidegate::model::ListenerKind::Http,
                protocols: Protocols::default(),
                tls: None,
                limits: ListenerLimits::default(),
            },
            rules: vec![rule_to("web")],
            backends: Vec::new(),
            settings,
            identity: None,
            directory,
        };
        setup.backend("web", endpoints, |_| {})
    }

    /// Another backend.
    pub fn backend(mut self, name: &str, endpoints: &[SocketAddr], edit: impl FnOnce(&mut Backend)) -> Self {
        let mut backend = Backend::new(BackendName::new(name));
        backend.ejection = None;
        edit(&mut backend);
        let endpoints = endpoints.iter().copied().map(Endpoint::at).collect();
        self.backends.push((backend, endpoints));
        self
    }

    /// Changes the policy of `web`.
    pub fn policy(mut self, edit: impl FnOnce(&mut Backend)) -> Self {
        edit(&mut self.backends[0].0);
        self
    }

    /// What is spoken with the endpoints of `web`.
    pub fn speaking(self, protocol: tidegate::model::BackendProtocol) -> Self {
        self.policy(|backend| backend.protocol = protocol)
    }

    /// Changes the last rule.
    pub fn rule(mut self, edit: impl FnOnce(&mut Rule)) -> Self {
        edit(self.rules.last_mut().unwrap());
        self
    }

    /// Another rule, for a path and what is below it, to `web` unless changed.
    pub fn path(mut self, prefix: &str, edit: impl FnOnce(&mut Rule)) -> Self {
        let mut rule = rule_to("web");
        rule.matches[0].path = PathMatch::prefix(prefix);
        edit(&mut rule);
        self.rules.push(rule);
        self
    }

    pub fn limits(mut self, edit: impl FnOnce(&mut ListenerLimits)) -> Self {
        edit(&mut self.listener.limits);
        self
    }

    /// With an admin listener, for metrics.
    pub fn with_admin(self) -> Self {
        self.settings(|settings| settings.admin.address = Some(any_port()))
    }

    pub fn settings(mut self, edit: impl FnOnce(&mut Settings)) -> Self {
        edit(&mut self.settings);
        self
    }

    pub fn world(&self) -> World {
        let mut world = World {
            identity: self.identity.clone(),
            ..World::default()
        };
        let name = self.listener.name.clone();
        let route = route(name.clone(), self.rules.clone());
        world.listeners.insert(name, Arc::new(self.listener.clone()));
        world.routes.insert(route.name.clone(), Arc::new(route));
        for (backend, endpoints) in &self.backends {
            world
                .backends
                .insert(backend.name.clone(), Arc::new(backend.clone()));
            world
                .endpoints
                .insert(backend.name.clone(), endpoints.as_slice().into());
        }
        world
    }

    pub async fn start(self) -> Proxy {
        let world = self.world();
        let options = Options {
            settings: self.settings.clone(),
            sources: vec![Source::Given(source(), Box::new(world))],
        };
        let running = soon("the app to start", app::start(options)).await.unwrap();
        assert!(running.rejects.is_empty(), "left out: {:?}", running.rejects);
        let address = running.address(self.listener.address).unwrap();
        Proxy {
            address,
            running,
            directory: self.directory,
        }
    }
}

fn route(listener: ListenerName, rules: Vec<Rule>) -> Route {
    Route {
        name: RouteName::new("all"),
        listeners: vec![listener],
        hostnames: vec![HostPattern::Any],
        rules: rules.into_iter().map(Arc::new).collect(),
        created: 0,
        order: 0,
    }
}

/// A rule for everything, to a backend.
pub fn rule_to(backend: &str) -> Rule {
    Rule {
        matches: vec![Match::default()],
        backends: vec![share(backend, 1)],
        ..Rule::default()
    }
}

/// A backend's share of a rule.
pub fn share(backend: &str, weight: u32) -> WeightedBackend {
    WeightedBackend {
        target: BackendTarget::Backend(BackendName::new(backend)),
        weight,
        filters: Vec::new(),
    }
}

/// The source of worlds that tests give.
pub fn source() -> SourceName {
    SourceName::new("test")
}

/// A running app.
pub struct Proxy {
    pub address: SocketAddr,
    pub running: Running,
    pub directory: TempDir,
}

/// A line of the access log.
#[derive(Clone, Debug)]
pub struct Line(pub serde_json::Value);

impl Line {
    pub fn outcome(&self) -> &str {
        self.0["outcome"].as_str().unwrap()
    }

    pub fn status(&self) -> u64 {
        self.0["status"].as_u64().unwrap()
    }

    pub fn attempts(&self) -> u64 {
        self.0["attempts"].as_u64().unwrap()
    }

    pub fn path(&self) -> &str {
        self.0["path"].as_str().unwrap()
    }
}

impl Proxy {
    pub async fn wire(&self) -> Wire {
        Wire::connect(self.address).await
    }

    pub async fn client(&self, down: Down) -> Client {
        Client::connect(down, self.address).await
    }

    /// A GET over a connection of its own.
    pub async fn get(&self, path: &str) -> super::client::Answer {
        self.client(Down::H1).await.get(path).await
    }

    /// Other endpoints for a backend; they are live when this returns.
    pub async fn set_endpoints(&self, backend: &str, endpoints: &[SocketAddr]) {
        let endpoints: Vec<_> = endpoints.iter().copied().map(Endpoint::at).collect();
        let mut delta = Delta::default();
        delta
            .endpoints
            .insert(BackendName::new(backend), Some(endpoints.into()));
        soon("a change", self.running.change(&source(), delta)).await;
    }

    /// Other rules for everything; they are live when this returns.
    pub async fn set_rules(&self, rules: Vec<Rule>) {
        let mut delta = Delta::default();
        let route = route(ListenerName::new("http"), rules);
        delta.routes.insert(route.name.clone(), Some(Arc::new(route)));
        soon("a change", self.running.change(&source(), delta)).await;
    }

    /// A metric's value, by its name and labels as they stand in the exposition; the test has given an admin listener.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.admin("/metrics").await.text();
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value
            .unwrap_or_else(|| panic!("{name} is not in {text}"))
            .parse()
            .unwrap()
    }

    /// Waits until a metric has a value.
    pub async fn until_metric(&self, name: &str, wanted: f64) {
        soon(name, async {
            while self.metric(name).await != wanted {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    /// A page of the admin listener.
    pub async fn admin(&self, path: &str) -> super::client::Answer {
        let mut request = super::client::request(http::Method::GET, path);
        let host = http::HeaderValue::from_static("localhost");
        request.headers_mut().insert("host", host);
        let address = self.running.admin.expect("an admin listener");
        Client::connect(Down::H1, address).await.send(request).await
    }

    /// Where the access log is.
    pub fn log(&self) -> PathBuf {
        self.directory.path().join("access.log")
    }

    /// Whether a text stands in the access log.
    pub fn log_has(&self, text: &str) -> bool {
        std::fs::read_to_string(self.log()).is_ok_and(|log| log.contains(text))
    }

    /// Ends it, and gives the lines of its access log.
    pub async fn stop(self) -> Vec<Line> {
        let log = self.log();
        soon("the end", self.running.stop()).await;
        lines(&log)
    }

    /// Drains it: whether everything ended by itself, and the lines of its access log.
    pub async fn drain(self) -> (bool, Vec<Line>) {
        let log = self.log();
        let ended = soon("the drain", self.running.drain()).await;
        (ended, lines(&log))
    }
}

/// The lines of the access log of a proxy that is left alone until all of its connections have ended.
pub async fn lines_of(proxy: Proxy, count: usize) -> Vec<Line> {
    super::until("all connections to end", || proxy.running.connections() == 0).await;
    let lines = proxy.stop().await;
    assert_eq!(lines.len(), count, "{lines:?}");
    lines
}

/// The lines of an access log.
pub fn lines(log: &std::path::Path) -> Vec<Line> {
    let text = std::fs::read_to_string(log).unwrap();
    text.lines()
        .map(|line| Line(serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))))
        .collect()
}
