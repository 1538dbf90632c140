//! TLS in the file: certificates that cannot be used are refused with their place, and keys are never shown.

use std::fmt::Write;
use std::path::Path;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tidegate::config;

fn pair(edit: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    edit(&mut params);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// What is said about a file with this TLS, each as `line:column: message (hint)`.
fn said(directory: &Path, tls: &str) -> Vec<String> {
    let text = format!(
        "listeners:\n  https:\n    address: \":8443\"\n    tls: {tls}\nroutes: [{{to: web}}]\nbackends: {{web: \
         {{endpoints: [\"10.0.0.1:1\"]}}}}\n"
    );
    said_of(directory, &text)
}

pub fn said_of(directory: &Path, text: &str) -> Vec<String> {
    let file = directory.join("tidegate.yaml");
    std::fs::write(&file, text).unwrap();
    let found = match config::load(&file) {
        Ok(loaded) => loaded.warnings,
        Err(refused) => refused,
    };
    let one = |item: &config::Diagnostic| {
        let place = item.place.unwrap();
        let mut out = format!("{}:{}: {}", place.line, place.column, item.message);
        if let Some(hint) = &item.hint {
            write!(out, " ({hint})").unwrap();
        }
        out.replace(&format!("{}/", directory.display()), "")
    };
    found.items().iter().map(one).collect()
}

#[test]
fn what_cannot_be_used_is_refused_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
    let (chain, key) = pair(|_| {});
    let (other, other_key) = pair(|_| {});
    let (old, old_key) = pair(|params| params.not_after = date_time_ymd(2001, 1, 1));
    for (name, text) in [
        ("a.crt", &chain),
        ("a.key", &key),
        ("b.crt", &other),
        ("b.key", &other_key),
        ("old.crt", &old),
        ("old.key", &old_key),
    ] {
        write(name, text);
    }
    write("text", "hello");
    let good = "{cert: a.crt, key: a.key}";
    let mut wrong = Vec::new();
    for (tls, expected) in [
        (format!("{{certificates: [{good}]}}"), &[][..]),
        (
            "{certificates: []}".to_owned(),
            &[
                "4:25: TLS needs a certificate (write one: certificates: [{cert: tls.crt, key: tls.key}], or names that are left to ACME: acme: {names: [..]})",
            ],
        ),
        (
            "{certificates: [{cert: a.crt, key: b.key}]}".to_owned(),
            &["4:45: b.key: the private key does not belong to the certificate"],
        ),
        (
            "{certificates: [{cert: a.key, key: a.crt}]}".to_owned(),
            &["4:33: a.key: there is a private key in it and no certificate"],
        ),
        (
            "{certificates: [{cert: text, key: a.key}]}".to_owned(),
            &["4:33: text: there is no certificate in it (a section BEGIN CERTIFICATE in PEM)"],
        ),
        (
            "{certificates: [{cert: gone.crt, key: gone.key}]}".to_owned(),
            &[
                "4:33: gone.crt cannot be read: No such file or directory (os error 2) (is the path right?)",
                "4:48: gone.key cannot be read: No such file or directory (os error 2) (is the path right?)",
            ],
        ),
        (
            format!("{{certificates: [{good}], min_version: \"1.1\"}}"),
            &[
                "4:67: \"1.1\" is no version of TLS that is spoken (write \"1.2\" or \"1.3\"; older ones are broken (RFC 8996))",
            ],
        ),
        (
            format!("{{certificates: [{good}], min_version: \"1.3\", max_version: \"1.2\"}}"),
            &["4:87: max_version is lower than min_version"],
        ),
        (
            format!("{{certificates: [{good}], min_version: 1.3}}"),
            &[
                "4:67: min_version must be a text, not the number 1.3 (write `\"1.2\"` or `\"1.3\"`, in quotes)",
            ],
        ),
        (
            format!("{{certificates: [{good}], client_auth: {{ca: []}}}}"),
            &["4:72: a list of CA files without a file trusts nobody"],
        ),
        (
            format!("{{certificates: [{good}], client_auth: {{ca: [text], crl: [a.crt], allow: [web]}}}}"),
            &[
                "4:73: text: there is no certificate in it",
                "4:86: a.crt: there is no revocation list (a section BEGIN X509 CRL in PEM) in it",
                "4:102: \"web\" is neither dns:NAME nor a URI like spiffe://DOMAIN/PATH (write \
                 spiffe://example.org/ns/shop/sa/web, spiffe://example.org/*, or dns:web.example.com)",
            ],
        ),
    ] {
        let said = said(directory, &tls);
        if said != expected {
            wrong.push(format!("{tls}\n{said:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let expired = said(directory, "{certificates: [{cert: old.crt, key: old.key}]}");
    assert!(
        expired[0].starts_with("4:33: old.crt: the certificate expired 9"),
        "{expired:?}"
    );
}

#[test]
fn protocols_go_with_tls_or_without() {
    let directory = tempfile::tempdir().unwrap();
    let (chain, key) = pair(|_| {});
    std::fs::write(directory.path().join("a.pem"), format!("{chain}{key}")).unwrap();
    let tls = "{certificates: [{cert: a.pem, key: a.pem}]}";
    for (protocols, expected) in [
        ("[h1, h2]", &[][..]),
        ("[h2]", &[]),
        (
            "[h2c]",
            &["5:16: h2c is clear text, and this listener has TLS (write h2)"],
        ),
        (
            "[]",
            &["5:16: a listener speaks at least one protocol (write [h1, h2])"],
        ),
    ] {
        let said = said(directory.path(), &format!("{tls}\n    protocols: {protocols}"));
        assert_eq!(said, expected, "{protocols}");
    }
}

#[test]
fn what_is_resolved_and_logged_has_paths_and_no_keys() {
    let directory = tempfile::tempdir().unwrap();
    let (chain, key) = pair(|_| {});
    std::fs::write(directory.path().join("a.pem"), format!("{chain}{key}")).unwrap();
    assert_eq!(
        said(
            directory.path(),
            "{certificates: [{cert: a.pem, key: a.pem}], client_auth: {ca: [a.pem], allow: [spiffe://a/*]}}"
        ),
        [""; 0]
    );
    let loaded = config::load(directory.path().join("tidegate.yaml")).unwrap();
    let shown = format!("{}{loaded:?}", config::resolved(&loaded));
    assert!(shown.contains("a.pem") && shown.contains("uri:spiffe://a/*"));
    let secret = key.lines().nth(1).unwrap();
    assert!(
        !shown.contains(secret) && !shown.contains("PRIVATE KEY"),
        "{shown}"
    );
    let again = config::parse("resolved", &config::resolved(&loaded)).unwrap();
    assert_eq!(again.world, loaded.world);
}

#[test]
fn the_tls_of_a_backend_is_refused_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (chain, key) = pair(|_| {});
    std::fs::write(directory.join("a.pem"), format!("{chain}{key}")).unwrap();
    let mut wrong = Vec::new();
    for (rest, expected) in [
        ("tls: {hostname: web.internal, ca: [a.pem]}", &[][..]),
        (
            "protocol: h2c, tls: {hostname: web.internal, ca: [a.pem]}",
            &["4:46: h2c is clear text, and this backend has TLS (write h2)"],
        ),
        (
            "tls: {hostname: \"a b\", ca: [a.pem]}",
            &["4:52: \"a b\" is neither a hostname nor an address"],
        ),
        (
            "tls: {hostname: a, ca: [gone.pem], certificate: {cert: gone.pem, key: a.pem}}",
            &[
                "4:60: gone.pem cannot be read: No such file or directory (os error 2) (is the path right?)",
                "4:91: gone.pem cannot be read: No such file or directory (os error 2) (is the path right?)",
            ],
        ),
    ] {
        let text = format!(
            "listeners: {{http: {{address: \":80\"}}}}\nroutes: [{{to: web}}]\nbackends:\n  web: {{endpoints: \
             [\"10.0.0.1:1\"], {rest}}}\n"
        );
        let said = said_of(directory, &text);
        if said != expected {
            wrong.push(format!("{rest}\n{said:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
