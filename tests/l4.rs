//! The fourth layer over real sockets: relayed connections, TLS in front of them or passed on unopened, and every way in
//! which they end.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "l4/passthrough.rs"]
mod passthrough;
#[path = "l4/proxy_protocol.rs"]
mod proxy_protocol;
mod support;
#[path = "l4/tcp.rs"]
mod tcp;
#[path = "l4/tls.rs"]
mod tls;
#[path = "l4/udp.rs"]
mod udp;

use std::net::SocketAddr;
use std::sync::Arc;

use support::{Endpoint, Proxy, Setup, soon};
use tidegate::app::{self, Options, Source};
use tidegate::model::{Listener, ListenerKind, Route, RouteName, World};

/// A world whose one listener relays everything to `web`.
fn relay(endpoints: &[SocketAddr]) -> Setup {
    let mut setup = Setup::to(endpoints);
    setup.listener.kind = ListenerKind::Tcp;
    setup
}

/// Sends everything back, and ends when the client has.
async fn echo() -> Endpoint {
    Endpoint::script(|_, mut wire| async move {
        while wire.fill().await.is_ok() {
            let bytes = wire.take_all();
            wire.send(bytes).await;
        }
        wire.finish().await;
    })
    .await
}

/// Says its name to everybody who comes, and ends.
async fn named(name: &'static str) -> Endpoint {
    Endpoint::script(move |_, mut wire| async move {
        wire.send(name).await;
        wire.finish().await;
    })
    .await
}

/// Starts a setup with more in its world.
async fn start(setup: Setup, edit: impl FnOnce(&mut World)) -> Proxy {
    let mut world = setup.world();
    edit(&mut world);
    let options = Options {
        settings: setup.settings.clone(),
        sources: vec![Source::Given(support::proxy::source(), Box::new(world))],
    };
    let running = soon("the app to start", app::start(options)).await.unwrap();
    assert!(running.rejects.is_empty(), "left out: {:?}", running.rejects);
    Proxy {
        address: running.address(setup.listener.address).unwrap(),
        running,
        directory: setup.directory,
    }
}

/// Another listener, and a route from it to a backend.
fn add(world: &mut World, listener: Listener, hostnames: &[&str], backend: &str) {
    let hostnames = hostnames
        .iter()
        .map(|name| tidegate::model::HostPattern::parse(name).unwrap());
    let route = Route {
        name: RouteName::new(format!("{} to {backend}", listener.name)),
        listeners: vec![listener.name.clone()],
        hostnames: hostnames.collect(),
        rules: vec![Arc::new(support::proxy::rule_to(backend))],
        created: 0,
        order: 1,
    };
    world.listeners.insert(listener.name.clone(), Arc::new(listener));
    world.routes.insert(route.name.clone(), Arc::new(route));
}
