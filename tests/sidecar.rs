//! The sidecar: its rules, and what becomes of connections that they redirect; in network namespaces of the tests' own.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

#[path = "sidecar/init.rs"]
mod init;
#[path = "sidecar/local.rs"]
mod local;
#[path = "sidecar/mesh.rs"]
mod mesh;
#[path = "sidecar/mtls.rs"]
mod mtls;
#[path = "sidecar/namespace.rs"]
mod namespace;
#[path = "sidecar/routes.rs"]
mod routes;
#[path = "sidecar/scene.rs"]
mod scene;
#[path = "sidecar/transparent.rs"]
mod transparent;
