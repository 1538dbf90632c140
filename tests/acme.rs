//! Certificates that Tidegate gets by itself (ACME).

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "acme/answers.rs"]
mod answers;
#[path = "acme/authority.rs"]
mod authority;
#[path = "acme/orders.rs"]
mod orders;
#[path = "acme/secrets.rs"]
mod secrets;
#[allow(dead_code)]
#[path = "kubernetes_api/server.rs"]
mod server;
mod support;
