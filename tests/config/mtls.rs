//! mTLS in the file: identities that cannot be used and wishes that make no sense are refused with their place.

use std::path::Path;

use tidegate::config;

use super::tls::said_of;

/// What is said about a file with this identity, this listener and this backend.
fn said(directory: &Path, identity: &str, listener: &str, backend: &str) -> Vec<String> {
    let text = format!(
        "identity: {identity}\nlisteners: {{in: {{address: \":80\", {listener}}}}}\nroutes: [{{to: web}}]\nbackends: \
         {{web: {{endpoints: [\"10.0.0.1:1\"], {backend}}}}}\n"
    );
    said_of(directory, &text)
}

#[test]
fn what_makes_no_sense_is_refused_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/tls");
    for (from, to) in [
        ("identity/tls.crt", "tls.crt"),
        ("identity/tls.key", "tls.key"),
        ("identity/ca.crt", "ca.crt"),
        ("shop.crt", "shop.crt"),
        ("shop.key", "shop.key"),
    ] {
        std::fs::copy(example.join(from), directory.join(to)).unwrap();
    }
    // Sorted by place, as they are said.
    let good = "{directory: .}";
    let mut wrong = Vec::new();
    for (identity, listener, backend, expected) in [
        (good, "mtls: {mode: strict}", "mtls: {}", &[][..]),
        (
            "{cert: tls.crt, key: tls.key, ca: ca.crt}",
            "",
            "mtls: {peers: [/a/b]}",
            &[],
        ),
        (
            "{cert: tls.crt, ca: ca.crt}",
            "",
            "",
            &[
                "1:11: identity has no key (write directory: PATH, with tls.crt, tls.key and ca.crt in it, or cert, key and ca, or workload_api)",
            ],
        ),
        (
            "{directory: ., key: shop.key, ca: gone.crt}",
            "",
            "",
            &[
                "1:31: shop.key: the private key does not belong to the certificate",
                "1:45: gone.crt cannot be read: No such file or directory (os error 2) (is the path right?)",
            ],
        ),
        (
            "{directory: ., cert: shop.crt, key: shop.key}",
            "",
            "",
            &[
                "1:32: shop.crt: the certificate has no URI among its names (it names one workload: a URI spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT)",
            ],
        ),
        (
            "{workload_api: \"unix:///run/a.sock\"}",
            "mtls: {mode: strict, allow: [\"spiffe://any.org/*\"]}",
            "mtls: {}",
            &[],
        ),
        (
            "{directory: ., workload_api: /run/a.sock}",
            "",
            "",
            &[
                "1:23: an identity comes from files or from an agent, not from both (leave one of them out)",
                "1:40: \"/run/a.sock\" is no address of an agent: it begins with unix:/ or tcp:// (write it like unix:///run/spire/agent.sock)",
            ],
        ),
        (
            good,
            "mtls: {mode: strict, allow: []}",
            "mtls: {peers: [web, \"spiffe://other.org/*\"]}",
            &[
                "2:62: a list of nobody lets nobody through (name them: spiffe://example.org/ns/shop/sa/web, /ns/shop/*, or /* for all of our own trust domain)",
                "4:60: \"web\" is no SPIFFE id: it begins with spiffe://, or with a / for our own trust domain (write spiffe://example.org/ns/shop/sa/web, or /ns/shop/* for our own trust domain)",
                "4:65: nobody of the trust domain other.org is believed; our own is example.com",
            ],
        ),
        (
            good,
            "mtls: {mode: permissive, plain_ports: [0, 70000]}, tls: {certificates: [{cert: shop.crt, key: shop.key}]}",
            "mtls: {}, tls: {hostname: a, ca: [ca.crt]}",
            &[
                "2:40: mtls makes no sense here: TLS is ended already; see tls.client_auth (leave it out)",
                "2:73: 0 is no port from 1 to 65535",
                "2:76: 70000 is no port from 1 to 65535",
                "4:51: endpoints are spoken to by mTLS or by tls, not by both (write tls for endpoints that end TLS themselves, mtls for those with a sidecar)",
            ],
        ),
        (
            good,
            "mtls: {mode: strict}, transparent: outbound",
            "",
            &["2:40: mtls makes no sense here: who connects is the app beside (leave it out)"],
        ),
        (
            good,
            "mtls: {mode: strict}, protocol: udp, to: web",
            "",
            &["2:40: mtls makes no sense here: datagrams have no TLS (leave it out)"],
        ),
        (
            good,
            "mtls: {mode: off}, tls: {certificates: [{cert: shop.crt, key: shop.key}]}",
            "",
            &[],
        ),
        (
            "~",
            "mtls: {mode: strict}",
            "mtls: {}",
            &[
                "2:40: mTLS needs an identity, and there is none (write identity: {directory: PATH}, with tls.crt, tls.key and ca.crt in it)",
                "4:51: mTLS needs an identity, and there is none (write identity: {directory: PATH}, with tls.crt, tls.key and ca.crt in it)",
            ],
        ),
    ] {
        let said = said(directory, identity, listener, backend);
        if said != expected {
            wrong.push(format!("{identity} {listener} {backend}\n{said:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_agent_is_a_setting_that_waits_for_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tidegate.yaml");
    let load = |agent: &str| {
        let text =
            format!("identity: {{workload_api: \"{agent}\"}}\nlisteners: {{}}\nroutes: []\nbackends: {{}}\n");
        std::fs::write(&file, text).unwrap();
        config::load(&file).unwrap()
    };
    let (one, two) = (load("unix:/run/a.sock"), load("tcp://127.0.0.1:1"));
    assert!(one.world.identity.is_none());
    assert_eq!(
        one.settings.needs_restart(&two.settings),
        ["identity.workload_api"]
    );
    let shown = config::resolved(&one);
    assert!(shown.contains("workload_api: \"unix:///run/a.sock\""), "{shown}");
}

#[test]
fn what_is_resolved_reads_the_same_and_has_no_key() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let loaded = config::load(directory.join("mtls.yaml")).unwrap();
    let shown = format!("{}{loaded:?}", config::resolved(&loaded));
    let key = std::fs::read_to_string(directory.join("tls/identity/tls.key")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    assert!(
        !shown.contains(secret) && !shown.contains("PRIVATE KEY"),
        "{shown}"
    );
    assert!(shown.contains("/ns/shop/*") && shown.contains("tls/identity/tls.key"));
}
