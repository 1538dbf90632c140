//! What the documents say is so: their links lead somewhere, their commands parse, their tables are those of the code.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

#[path = "docs/markdown.rs"]
mod markdown;

use std::collections::BTreeMap;
use std::fs;

use clap::Parser;
use clap::error::ErrorKind;
use serde_json::Value;

use markdown::{Page, pages, root};
use tidegate::cli::Cli;
use tidegate::inject::wishes;
use tidegate::l7::failure::{Blame, Failure};
use tidegate::l7::headers::HeaderRefusal;
use tidegate::l7::path::PathRefusal;
use tidegate::l7::refusal::Refusal;
use tidegate::telemetry::{HandshakeEnd, Outcome};

#[test]
fn links_lead_somewhere() {
    let pages = pages();
    let mut broken = Vec::new();
    for page in &pages {
        for link in page.links() {
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() {
                page.path.clone()
            } else {
                page.beside(path)
            };
            let there = match pages.iter().find(|page| page.path == target) {
                Some(page) => anchor.is_empty() || page.anchors().any(|there| there == anchor),
                None => anchor.is_empty() && target.exists(),
            };
            if !there {
                broken.push(format!("{}: {link}", page.name()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn files_that_are_named_are_there() {
    let mut missing = Vec::new();
    for page in pages() {
        let commands = page.commands().into_iter().flatten();
        for word in page.code().into_iter().chain(commands) {
            if is_path(&word) && !root().join(&word).exists() {
                missing.push(format!("{}: {word}", page.name()));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn commands_parse() {
    let mut seen = 0;
    for page in pages() {
        for words in page.commands() {
            let Some(words) = ours(&words) else { continue };
            seen += 1;
            if let Err(error) = Cli::try_parse_from(&words) {
                let helps = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
                assert!(helps, "{}: {}: {error}", page.name(), words.join(" "));
            }
        }
    }
    assert!(seen >= 8, "only {seen} commands were found");
}

#[test]
fn verbs_that_are_named_are_there() {
    for page in pages() {
        for code in page.code() {
            let Some(verb) = code
                .strip_prefix("tidegate ")
                .and_then(|rest| rest.split(' ').next())
            else {
                continue;
            };
            if let Err(error) = Cli::try_parse_from(["tidegate", verb]) {
                let unknown = [ErrorKind::InvalidSubcommand, ErrorKind::UnknownArgument];
                assert!(!unknown.contains(&error.kind()), "{}: {code}", page.name());
            }
        }
    }
}

#[test]
fn steps_of_the_exchange_have_the_names_of_the_code() {
    let code = fs::read_to_string(root().join("src/l7/exchange.rs")).unwrap();
    let steps = Page::read("ARCHITECTURE.md").table("The life of an exchange");
    assert!(steps.len() > 8);
    for step in steps.iter().flat_map(|row| markdown::code_of(&row[0])) {
        assert!(
            code.contains(&format!("{step}(")),
            "{step} is no step of the exchange"
        );
    }
}

#[test]
fn bounds_have_the_names_of_the_code() {
    let bounds = Page::read("ARCHITECTURE.md").table("Bounds");
    assert!(bounds.len() > 20);
    for row in bounds {
        let mut names = markdown::code_of(&row[2]);
        let file = names.pop().unwrap();
        let code = fs::read_to_string(root().join(&file)).unwrap();
        assert!(!names.is_empty(), "{row:?}");
        for name in names {
            assert!(code.contains(&format!("const {name}: ")), "{file} has no {name}");
        }
    }
}

#[test]
fn outcomes_are_listed_with_their_status() {
    let rows = Page::read("docs/outcomes.md").table("Outcomes");
    let codes: Vec<_> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    let mut known: Vec<_> = Outcome::ALL.iter().map(|outcome| outcome.code()).collect();
    known.sort_unstable();
    let mut listed = codes.clone();
    listed.sort_unstable();
    assert_eq!(listed, known);

    let by_code: BTreeMap<_, _> = codes.into_iter().zip(&rows).collect();
    for failure in failures() {
        let row = by_code[failure.outcome().code()];
        let who = match failure.blame() {
            Blame::Client => "client",
            Blame::Proxy => "proxy",
            Blame::Endpoint => "endpoint",
        };
        let status = failure.status().as_u16().to_string();
        assert_eq!((row[1].as_str(), &row[2]), (who, &status), "{failure:?}");
    }
}

#[test]
fn ends_of_handshakes_are_listed() {
    let page = Page::read("docs/outcomes.md");
    let listed: Vec<_> = page
        .table("TLS handshakes")
        .iter()
        .map(|row| row[0].trim_matches('`').to_owned())
        .collect();
    let known: Vec<_> = HandshakeEnd::ALL.iter().map(|end| end.code()).collect();
    assert_eq!(listed, known);
}

#[test]
fn keys_of_the_configuration_are_listed_with_their_defaults() {
    let page = Page::read("docs/configuration.md");
    let schema: Value =
        serde_json::from_str(&fs::read_to_string(root().join("config/schema.json")).unwrap()).unwrap();
    let definitions = schema["definitions"].as_object().unwrap();
    let mut wrong = Vec::new();
    for (heading, name) in SECTIONS {
        let object = if name.is_empty() {
            &schema
        } else {
            &definitions[*name]
        };
        let mut expected: Vec<_> = keys(object).map(|key| row_of(object, key)).collect();
        let mut listed: Vec<_> = page
            .table(heading)
            .iter()
            .map(|cells| format!("| {} |", cells.join(" | ")))
            .collect();
        expected.sort();
        listed.sort();
        if expected != listed {
            wrong.push(format!("{heading} should have:\n{}", expected.join("\n")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn objects_and_words_of_the_configuration_are_listed() {
    let page = Page::read("docs/configuration.md");
    let schema: Value = serde_json::from_str(&tidegate::config::schema::text()).unwrap();
    let definitions = schema["definitions"].as_object().unwrap();
    for (name, object) in definitions {
        // A rule is a route with fewer keys, and the page says which.
        let listed = SECTIONS.iter().any(|(_, section)| section == name) || name == "RawRule";
        assert!(listed || keys(object).next().is_none(), "{name} has no section");
        for word in object["oneOf"].as_array().into_iter().flatten() {
            let word = word["const"].as_str().or_else(|| keys(word).next()).unwrap();
            let listed = page
                .text
                .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-' && letter != '_')
                .any(|there| there == word);
            assert!(listed, "{name}: {word} is not listed");
        }
        let text = object["description"].as_str().unwrap_or_default();
        let has_grammar = object.get("pattern").is_some();
        assert!(
            !has_grammar || page.text.contains(text),
            "{name} is not explained: {text}"
        );
    }
    for key in keys(&definitions["RawRule"]) {
        assert!(
            keys(&definitions["RawRoute"]).any(|there| there == key),
            "rules: {key}"
        );
    }
}

#[test]
fn annotations_of_sidecars_are_listed() {
    let listed: Vec<_> = Page::read("docs/sidecar.md")
        .table("What can be chosen")
        .iter()
        .map(|row| row[0].trim_matches('`').to_owned())
        .collect();
    let known: Vec<_> = wishes::KEYS.iter().map(|(name, _)| *name).collect();
    assert_eq!(listed, known);
}

/// Sections of docs/configuration.md, and the objects of the schema that they describe.
const SECTIONS: &[(&str, &str)] = &[
    ("The file", ""),
    ("`admin`", "RawAdmin"),
    ("`log`", "RawLog"),
    ("`log.access`", "RawAccessLog"),
    ("`drain`", "RawDrain"),
    ("`listeners`, by name", "RawListener"),
    ("`dns`", "RawDns"),
    ("`acme`", "RawAcme"),
    ("`acme.secrets`", "RawAcmeSecrets"),
    ("`acme.dns_hook`", "RawDnsHook"),
    ("`acme.external_account`", "RawExternalAccount"),
    ("`tls.acme` of a listener", "RawListenerAcme"),
    ("`proxy_protocol` of a listener", "RawProxyProtocol"),
    ("`identity`", "RawIdentity"),
    ("`mtls` of a listener", "RawInboundMtls"),
    ("`mtls` of a backend", "RawOutboundMtls"),
    ("`limits` of a listener", "RawListenerLimits"),
    ("`tls` of a listener", "RawListenerTls"),
    ("`certificates`, a list", "RawCertificate"),
    ("`client_auth`", "RawClientAuth"),
    ("`routes`, a list", "RawRoute"),
    ("`match`", "RawMatch"),
    ("`split`, a list", "RawShare"),
    ("`timeouts`", "RawTimeouts"),
    ("`retry`", "RawRetry"),
    ("`request_headers` and `response_headers`", "RawHeaderEdits"),
    ("`rewrite`", "RawRewrite"),
    ("`redirect`", "RawRedirect"),
    ("`mirror`", "RawMirror"),
    ("`direct`", "RawDirect"),
    ("`backends`, by name", "RawBackend"),
    ("`affinity`", "RawAffinity"),
    ("`affinity.cookie`", "RawAffinityCookie"),
    ("`slow_start_shape`", "RawSlowStartShape"),
    ("`endpoints`, a list", "RawEndpoint"),
    ("`tls` of a backend", "RawUpstreamTls"),
    ("`limits` of a backend", "RawEndpointLimits"),
    ("`concurrency_shape`", "RawConcurrencyShape"),
    ("`ejection`", "RawEjection"),
    ("`ejection.success_rate`", "RawSuccessRate"),
    ("`ejection.failure_share`", "RawFailureShare"),
    ("`ejection.latency`", "RawLatencyOutlier"),
    ("`check`", "RawCheck"),
    ("`check.http`", "RawHttpCheck"),
    ("`check.grpc`", "RawGrpcCheck"),
    ("`retry_budget`", "RawRetryBudget"),
    ("`hedge`", "RawHedge"),
    ("`load_reports` of a backend", "RawLoadReports"),
];

fn keys(object: &Value) -> impl Iterator<Item = &str> {
    object["properties"]
        .as_object()
        .into_iter()
        .flat_map(|properties| properties.keys().map(String::as_str))
}

/// The row that describes a key, from its text in the schema.
fn row_of(object: &Value, key: &str) -> String {
    let text = object["properties"][key]["description"]
        .as_str()
        .unwrap_or_default();
    let (what, default) = text.split_once("Default: ").unwrap_or((text, ""));
    let required = object["required"]
        .as_array()
        .is_some_and(|required| required.iter().any(|name| name == key));
    let default = if required {
        "required"
    } else {
        default.trim_end_matches('.')
    };
    format!("| `{key}` | {} | {default} |", what.trim())
}

/// The command line of ours within a line of shell: after `tidegate`, or after `cargo run … --`.
fn ours(words: &[String]) -> Option<Vec<String>> {
    let is_cargo = words.starts_with(&["cargo".to_owned(), "run".to_owned()]);
    let after = match words.first()?.as_str() {
        "tidegate" => 1,
        _ if is_cargo => words.iter().position(|word| word == "--")? + 1,
        _ => return None,
    };
    let rest = words[after..]
        .iter()
        .take_while(|word| !matches!(word.as_str(), ">" | "|" | "&&"));
    Some(
        std::iter::once("tidegate".to_owned())
            .chain(rest.cloned())
            .collect(),
    )
}

/// Whether a word names a file or directory of the project.
fn is_path(word: &str) -> bool {
    let plain = word
        .chars()
        .all(|letter| letter.is_ascii_alphanumeric() || "/._-".contains(letter));
    let known = [
        "src/", "tests/", "docs/", "config/", "benches/", "deploy/", ".ci/",
    ];
    // `peers/config`, `config/` and `downstream/` alone are rooms and kinds, not paths.
    plain
        && known
            .iter()
            .any(|prefix| word.len() > prefix.len() && word.starts_with(prefix))
}

/// Every failure there is; the compiler says when one is missing.
fn failures() -> Vec<Failure> {
    let listed = vec![
        Failure::Framing(Refusal::Malformed),
        Failure::Framing(Refusal::TooLarge),
        Failure::Framing(Refusal::TargetTooLong),
        Failure::Framing(Refusal::UnsupportedCoding),
        Failure::Framing(Refusal::TooSlow),
        Failure::Headers(HeaderRefusal::Host),
        Failure::Headers(HeaderRefusal::Connection),
        Failure::Headers(HeaderRefusal::Alias),
        Failure::Headers(HeaderRefusal::Expect),
        Failure::Headers(HeaderRefusal::Loop),
        Failure::Headers(HeaderRefusal::Length),
        Failure::Path(PathRefusal::NotAbsolute),
        Failure::Path(PathRefusal::Ambiguous),
        Failure::Path(PathRefusal::AboveRoot),
        Failure::TooManyFields,
        Failure::Method,
        Failure::ClientStalled,
        Failure::ClientBody,
        Failure::Misdirected,
        Failure::NoRoute,
        Failure::BadReference,
        Failure::NoEndpoint,
        Failure::Overloaded,
        Failure::Shed,
        Failure::NoIdentity,
        Failure::ConnectRefused,
        Failure::ConnectTimeout,
        Failure::ConnectFailed,
        Failure::ConnectTls,
        Failure::ConnectUntrusted,
        Failure::Reset,
        Failure::Protocol,
        Failure::Upgrade,
        Failure::TryTimeout,
        Failure::RequestTimeout,
    ];
    for failure in &listed {
        // A new variant does not compile here; list it above as well.
        match failure {
            Failure::Framing(
                Refusal::Malformed
                | Refusal::TooLarge
                | Refusal::TargetTooLong
                | Refusal::UnsupportedCoding
                | Refusal::TooSlow,
            )
            | Failure::Headers(
                HeaderRefusal::Host
                | HeaderRefusal::Connection
                | HeaderRefusal::Alias
                | HeaderRefusal::Expect
                | HeaderRefusal::Loop
                | HeaderRefusal::Length,
            )
            | Failure::Path(PathRefusal::NotAbsolute | PathRefusal::Ambiguous | PathRefusal::AboveRoot)
            | Failure::TooManyFields
            | Failure::Method
            | Failure::ClientStalled
            | Failure::ClientBody
            | Failure::Misdirected
            | Failure::NoRoute
            | Failure::BadReference
            | Failure::NoEndpoint
            | Failure::Overloaded
            | Failure::Shed
            | Failure::NoIdentity
            | Failure::ConnectRefused
            | Failure::ConnectTimeout
            | Failure::ConnectFailed
            | Failure::ConnectTls
            | Failure::ConnectUntrusted
            | Failure::Reset
            | Failure::Protocol
            | Failure::Upgrade
            | Failure::TryTimeout
            | Failure::RequestTimeout => {}
        }
    }
    listed
}
