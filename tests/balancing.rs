//! Balancing over real sockets: which endpoint requests go to, and what makes them go elsewhere.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

#[path = "balancing/health.rs"]
mod health;
#[path = "balancing/parts.rs"]
mod parts;
#[path = "balancing/ties.rs"]
mod ties;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use http::Request;
use support::endpoint::saying;
use support::{Boxed, Down, Endpoint, H1, Proxy, empty};

/// Endpoints that answer at once.
async fn several(count: usize) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for _ in 0..count {
        endpoints.push(Endpoint::serve(H1, saying("")).await);
    }
    endpoints
}

fn addresses(endpoints: &[Endpoint]) -> Vec<SocketAddr> {
    endpoints.iter().map(|endpoint| endpoint.address).collect()
}

/// How many requests each has had.
fn counts(endpoints: &[Endpoint]) -> Vec<usize> {
    endpoints.iter().map(Endpoint::requests).collect()
}

/// Those that got requests by what is done.
async fn who<F: Future>(endpoints: &[Endpoint], done: F) -> (BTreeSet<usize>, F::Output) {
    let before = counts(endpoints);
    let output = done.await;
    let after = counts(endpoints);
    let got = before
        .iter()
        .zip(after)
        .enumerate()
        .filter(|(_, (before, after))| **before != *after);
    (got.map(|(nth, _)| nth).collect(), output)
}

/// A GET with fields.
fn asking(path: &str, fields: &[(&str, &str)]) -> Request<Boxed> {
    let mut request = Request::builder().uri(path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(empty()).unwrap()
}

/// Sends it over a connection of its own.
async fn send(proxy: &Proxy, path: &str, fields: &[(&str, &str)]) -> support::client::Answer {
    proxy.client(Down::H1).await.send(asking(path, fields)).await
}
