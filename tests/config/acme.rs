//! Certificates by ACME in the file: what cannot be is refused with its place, and the external account's key is not shown.

use std::fmt::Write;
use std::path::Path;

use tidegate::config;

/// What is said about a file, each as `line:column: message (hint)`.
fn said(directory: &Path, text: &str) -> Vec<String> {
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

fn file(acme: &str, tls: &str) -> String {
    format!(
        "acme: {acme}\nlisteners:\n  https: {{address: \":8443\", hostname: \"*.example.com\", tls: {tls}}}\n  http: {{address: \
         \":8080\"}}\nroutes: [{{to: \"10.0.0.1:1\"}}]\n"
    )
}

const GOOD: &str = "{terms_agreed: true, store: ./acme}";
const NAMES: &str = "{acme: {names: [a.example.com]}}";

#[test]
fn accounts_that_cannot_be_are_refused_with_their_place() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    std::fs::write(directory.join("eab.key"), "c2VjcmV0LWtleQ==\n").unwrap();
    std::fs::write(directory.join("text"), "not base64!").unwrap();
    let mut wrong = Vec::new();
    for (acme, expected) in [
        (GOOD, &[][..]),
        (
            "{terms_agreed: true, store: ./acme, contact: [ops@example.com, \"mailto:a@b.c\"], external_account: {key_id: k, key_file: eab.key}}",
            &[],
        ),
        (
            "{terms_agreed: false, store: ./acme}",
            &[
                "1:22: an authority gives certificates only to who agrees to its terms of service (read them (the directory names them) and write terms_agreed: true, or remove acme)",
            ],
        ),
        (
            "{terms_agreed: true, store: \"\", directory: \"http://ca.example/dir\"}",
            &[
                "1:35: store is an empty path",
                "1:50: \"http://ca.example/dir\" is not https, which ACME needs (RFC 8555 §6.1) (write https://acme-v02.api.letsencrypt.org/directory)",
            ],
        ),
        ("{terms_agreed: true, secrets: {}}", &[]),
        ("{terms_agreed: true, secrets: {namespace: edge-1}}", &[]),
        (
            "{terms_agreed: true}",
            &[
                "1:7: where are account and certificates kept? (write store: /var/lib/tidegate/acme, or secrets: {} with tidegate run --kubernetes)",
            ],
        ),
        (
            "{terms_agreed: true, store: ./acme, secrets: {}}",
            &["1:52: certificates are kept in one place, and store is one already (remove store or secrets)"],
        ),
        (
            "{terms_agreed: true, secrets: {namespace: Edge}}",
            &[
                "1:49: \"Edge\" is not a namespace (a name has at most 63 lower-case letters, digits and hyphens between them)",
            ],
        ),
        (
            "{terms_agreed: true, secrets: {names: edge}}",
            &["1:38: unknown key \"names\" (known here: namespace)"],
        ),
        (
            "{terms_agreed: true, store: ./acme, contact: [ops, \"a@b.c?x\"]}",
            &[
                "1:53: \"ops\" is not a mail address (write ops@example.com)",
                "1:58: \"a@b.c?x\" is not a mail address (write ops@example.com)",
            ],
        ),
        (
            "{terms_agreed: true, store: ./acme, ca: [text]}",
            &["1:48: text: there is no certificate in it"],
        ),
        (
            "{terms_agreed: true, store: ./acme, challenge: dns-01}",
            &[
                "1:54: dns-01 needs a command that sets records (write dns_hook: {command: [/usr/local/bin/set-record]})",
            ],
        ),
        (
            "{terms_agreed: true, store: ./acme, dns_hook: {command: [/bin/true]}}",
            &[
                "1:53: dns_hook is for dns-01, and the challenge is another one (write challenge: dns-01, or remove dns_hook)",
            ],
        ),
        (
            "{terms_agreed: true, store: ./acme, challenge: dns-01, dns_hook: {command: [set-record], timeout: 1h}}",
            &[
                "1:83: \"set-record\" is not an absolute path (no shell looks for it: write /usr/local/bin/set-record)",
                "1:105: timeout must be from 100ms to 10m, not 1h",
            ],
        ),
        (
            "{terms_agreed: true, store: ./acme, challenge: dns-01, dns_hook: {command: []}}",
            &["1:82: there is no program"],
        ),
        (
            "{terms_agreed: true, store: ./acme, external_account: {key_id: \"\", key_file: text}}",
            &[
                "1:70: key_id is empty",
                "1:84: text: the key is not base64 (it is one line, as the authority gave it)",
            ],
        ),
    ] {
        let found = said(directory, &file(acme, NAMES));
        if found != expected {
            wrong.push(format!("{acme}: {found:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn names_that_cannot_be_got_are_refused_with_their_place() {
    let directory = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for (acme, names, expected) in [
        (
            GOOD,
            "[]",
            &["3:76: there is no name (write one: names: [shop.example.com])"][..],
        ),
        (
            GOOD,
            "[192.0.2.1, a_b.example.com]",
            &[
                "3:77: \"192.0.2.1\" is an address; certificates are got for names",
                "3:88: \"a_b.example.com\" has an underscore, which no certificate may have (RFC 5280 §4.2.1.6)",
            ],
        ),
        (
            GOOD,
            "[\"*.a.example.com\"]",
            &[
                "3:77: \"*.a.example.com\" is a wildcard, which only dns-01 can show to be ours (write challenge: dns-01 with a dns_hook, or each name)",
            ],
        ),
        (
            "{terms_agreed: true, store: ./acme, challenge: dns-01, dns_hook: {command: [/bin/true]}}",
            "[\"*.a.example.com\"]",
            &[],
        ),
        (
            GOOD,
            "[example.org, A.example.com, a.example.com]",
            &[
                "3:77: \"example.org\" is not among the hostnames of the listener (\"*.example.com\")",
                "3:105: \"a.example.com\" is there twice",
            ],
        ),
    ] {
        let found = said(
            directory.path(),
            &file(acme, &format!("{{acme: {{names: {names}}}}}")),
        );
        if found != expected {
            wrong.push(format!("{names}: {found:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn account_and_names_belong_together() {
    let directory = tempfile::tempdir().unwrap();
    let said = |text: &str| said(directory.path(), text);
    let good = file(GOOD, NAMES);
    let (_, without) = good.split_once('\n').unwrap();
    assert_eq!(
        said(without),
        [
            "2:68: names are left to ACME, and there is no account for it (write one at the top: acme: {terms_agreed: true, store: ./acme})"
        ]
    );
    let tls_only = good.replace("  http: {address: \":8080\"}\n", "");
    assert_eq!(
        said(&tls_only),
        [
            "1:7: http-01 is asked for in clear text, and every listener has TLS (add a listener at :80 without tls, or write challenge: tls-alpn-01)"
        ]
    );
    let by_handshake = tls_only.replace("store:", "challenge: tls-alpn-01, store:");
    assert_eq!(said(&by_handshake), [""; 0]);
    let nobody = format!("acme: {GOOD}\nlisten: \":8080\"\nroutes: [{{to: \"10.0.0.1:1\"}}]\n");
    assert_eq!(
        said(&nobody),
        [
            "1:7: no listener leaves a name to ACME (write one at a listener: tls: {acme: {names: [shop.example.com]}})"
        ]
    );
}

#[test]
fn secrets_are_for_who_follows_a_cluster() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.yaml");
    for (acme, expected) in [(GOOD, None), ("{terms_agreed: true, secrets: {}}", Some("1:37"))] {
        std::fs::write(&path, file(acme, NAMES)).unwrap();
        let loaded = config::load(&path).unwrap();
        let said = loaded.wants_cluster.items().first().map(|item| {
            let place = item.place.unwrap();
            assert!(
                item.message.contains("no cluster is followed"),
                "{}",
                item.message
            );
            assert!(item.hint.as_ref().unwrap().contains("--kubernetes"));
            format!("{}:{}", place.line, place.column)
        });
        assert_eq!(said.as_deref(), expected, "{acme}");
        let shown = config::resolved(&loaded);
        let again = config::parse("again", &shown).unwrap();
        assert_eq!((again.world, again.settings), (loaded.world, loaded.settings));
    }
    // What is to be refused is refused: with its place, before anything is bound.
    let program = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["run", "--config"])
        .arg(&path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&program.stderr);
    assert_eq!(program.status.code(), Some(1), "{said}");
    assert!(
        said.contains("tidegate.yaml:1:37") && said.contains("run it with --kubernetes"),
        "{said}"
    );
}

#[test]
fn what_is_resolved_reads_the_same_and_has_no_key() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    std::fs::write(directory.join("eab.key"), "c2VjcmV0LWtleQ").unwrap();
    let acme = "{terms_agreed: true, store: ./acme, contact: [ops@example.com], challenge: dns-01, dns_hook: {command: \
                [/bin/true, zone], settle: 5s}, external_account: {key_id: kid, key_file: eab.key}}";
    let path = directory.join("tidegate.yaml");
    std::fs::write(
        &path,
        file(acme, "{acme: {names: [a.example.com, \"*.b.example.com\"]}}"),
    )
    .unwrap();
    let loaded = config::load(&path).unwrap();
    let shown = config::resolved(&loaded);
    assert!(
        !shown.contains("c2VjcmV0") && !shown.contains("secret"),
        "{shown}"
    );
    assert!(shown.contains("\"*.b.example.com\""), "{shown}");
    let again = config::parse("again", &shown).unwrap();
    assert_eq!((again.world, again.settings), (loaded.world, loaded.settings));
    assert!(!format!("{:?}", again.warnings).contains("c2VjcmV0"));
}
