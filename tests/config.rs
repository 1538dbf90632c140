//! The configuration file from the outside: the examples, every refusal with its place, the way
//! there and back through `resolved`, and random bytes.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

#[path = "config/acme.rs"]
mod acme;
#[path = "config/mtls.rs"]
mod mtls;
#[path = "config/refusals.rs"]
mod refusals;
#[path = "config/tls.rs"]
mod tls;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;
use tidegate::config::{self, Loaded, Refusal, Severity};
use tidegate::model::{Backend, BackendName, EndpointLimits, ListenerLimits, RetryPolicy, Timeouts};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

fn examples() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    found.sort();
    assert!(found.len() >= 3, "{found:?}");
    found
}

fn load(path: &Path) -> Loaded {
    config::load(path).unwrap_or_else(|error| panic!("{error}"))
}

/// The complaints of a text: `line:column: message (hint) [what is related: line:column]`.
fn complaints(text: &str) -> Vec<String> {
    let found = match config::parse("a.yaml", text) {
        Ok(loaded) => loaded.warnings,
        Err(found) => found,
    };
    found
        .items()
        .iter()
        .map(|item| {
            let place = item.place.unwrap();
            let word = match item.severity {
                Severity::Error => "",
                Severity::Warning => "warning: ",
            };
            let hint = item
                .hint
                .as_ref()
                .map(|hint| format!(" ({hint})"))
                .unwrap_or_default();
            let related = item
                .related
                .map(|(place, what)| format!(" [{what}: {}:{}]", place.line, place.column))
                .unwrap_or_default();
            format!(
                "{}:{}: {word}{}{hint}{related}",
                place.line, place.column, item.message
            )
        })
        .collect()
}

#[test]
fn the_examples_are_good_and_have_a_modeline() {
    for path in examples() {
        let loaded = load(&path);
        assert_eq!(loaded.warnings.human(), "", "{}", path.display());
        // What is for a cluster gets its routes from there.
        assert!(!loaded.world.routes.is_empty() || !loaded.wants_cluster.is_empty());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("# yaml-language-server: $schema=./schema.json\n"),
            "{}",
            path.display()
        );
    }
}

#[test]
fn the_committed_schema_is_current() {
    let committed = std::fs::read_to_string(directory().join("schema.json")).unwrap();
    let committed: Value = serde_json::from_str(&committed).unwrap();
    assert!(
        committed == *config::schema::value(),
        "config/schema.json is stale: run `cargo run -- schema > config/schema.json`"
    );
    assert_eq!(committed["$schema"], "http://json-schema.org/draft-07/schema#");
}

/// Keys of the schema's objects with fixed keys, but not names that the user chooses.
fn schema_keys(schema: &Value, into: &mut BTreeSet<String>) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::Object(properties)) = fields.get("properties") {
                into.extend(properties.keys().cloned());
            }
            fields.values().for_each(|value| schema_keys(value, into));
        }
        Value::Array(values) => values.iter().for_each(|value| schema_keys(value, into)),
        _ => {}
    }
}

#[test]
fn every_key_of_the_schema_stands_in_an_example_or_in_what_is_resolved() {
    let mut keys = BTreeSet::new();
    schema_keys(config::schema::value(), &mut keys);
    let mut text: String = examples()
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap() + &config::resolved(&load(path)))
        .collect();
    text.push_str(EVERYTHING);
    let missing: Vec<&String> = keys
        .iter()
        .filter(|key| {
            !text.contains(&format!("{key}:"))
                && !text.contains(&format!("{key}: "))
                && !text.contains(&format!("{{{key}:"))
        })
        .collect();
    assert!(missing.is_empty(), "no example shows {missing:?}");
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    let loaded = load(&directory().join("backends.yaml"));
    let backend = &loaded.world.backends["web"];
    let default = Backend {
        check: backend.check.clone(),
        ..Backend::new(BackendName::new("web"))
    };
    assert_eq!(**backend, default);
    assert_eq!(backend.limits, EndpointLimits::default());
    assert_eq!(loaded.world.listeners["http"].limits, ListenerLimits::default());
    let rule = &loaded.world.routes["web"].rules[0];
    assert_eq!(rule.timeouts, Timeouts::default());
    assert_eq!(rule.retry, RetryPolicy::default());

    let bare = config::parse(
        "a",
        "listen: \":1\"\nroutes: [{to: web}]\nbackends: {web: {endpoints: [\"1.1.1.1:1\"], check: {http: {path: /healthz}}}}",
    )
    .unwrap();
    let (documented, bare) = (
        backend.check.as_ref().unwrap(),
        bare.world.backends["web"].check.clone().unwrap(),
    );
    assert_eq!(
        (
            documented.interval,
            documented.timeout,
            documented.healthy_after,
            documented.unhealthy_after
        ),
        (
            bare.interval,
            bare.timeout,
            bare.healthy_after,
            bare.unhealthy_after
        )
    );
}

#[test]
fn settings_may_stand_alone_where_a_cluster_says_what_is_served() {
    let loaded = config::parse("a", "drain: {lag: 5s, timeout: 45s}\n").unwrap();
    assert!(loaded.world.listeners.is_empty() && loaded.warnings.is_empty());
    assert_eq!(loaded.settings.drain.lag.as_secs(), 5);
    let text = config::resolved(&loaded);
    assert_eq!(
        config::parse("again", &text).unwrap().settings,
        loaded.settings,
        "{text}"
    );
    for nothing in ["{}\n", "backends: {a: {endpoints: [\"1.1.1.1:1\"]}}\n"] {
        let refused = config::parse("a", nothing).unwrap_err();
        assert!(refused.to_string().contains("there is no listener"), "{refused}");
    }
}

#[test]
fn three_lines_are_enough() {
    let loaded = load(&directory().join("minimal.yaml"));
    let world = &loaded.world;
    assert_eq!(world.listeners["http"].address.to_string(), "0.0.0.0:8080");
    assert_eq!(world.endpoints["127.0.0.1:3000"].len(), 1);
    assert_eq!(world.routes["route-1"].listeners.len(), 1);
    assert_eq!(loaded.settings, config::Settings::default());
    let json = config::parse(
        "a.json",
        r#"{"listen": ":8080", "routes": [{"to": "127.0.0.1:3000"}]}"#,
    )
    .unwrap();
    assert_eq!(json.world, *world, "JSON is the same language");
}

/// Every kind of filter, match and setting that the examples leave out.
const EVERYTHING: &str = r#"
workers: 3
admin: {enabled: false}
log: {access: {format: text, to: /var/log/tidegate.log}}
drain: {lag: 1s500ms, timeout: 1m}
proxy_status_header: false
manifests: /etc/tidegate/manifests
zone: eu-1a
listeners:
  a: {address: "[::1]:81", hostname: "*.example.com", protocols: [h2c], trusted_proxies: [10.0.0.1, "fd00::/8"]}
  b: {address: "[::1]:81", hostname: a.example.com, trusted_proxies: [10.0.0.1, "fd00::/8"]}
routes:
  - listeners: [b]
    hostnames: [a.example.com]
    rules:
      - name: "odd \" name \\ \t \u2028 \u0085 é 😀"
        matches:
          - {regex: "/(?P<rest>.*)", method: POST, headers: {x-a: {regex: "^a+$"}, x-b: {present: true}, x-c: "null"}}
          - {regex: "/b/(?P<rest>.*)", query: {v: {regex: "1|2"}, "odd: key": "", "true": "~"}}
        filters:
          - rewrite: {hostname: "b.example.com:81", path: {captures: "/x/${rest}"}}
          - request_headers: {add: {x-a: b}, set: {x-b: "c: d # e"}, remove: [x-c]}
          - response_headers: {add: {x-a: b}, set: {x-b: c}, remove: [x-c]}
          - mirror: {to: "127.0.0.1:9", percent: 0.25%}
        split:
          - {to: named, weight: 0}
          - {to: "[::1]:9", weight: 7, filters: [{request_headers: {set: {x-share: "7"}}}]}
        timeouts: {request: none, per_try: 1s, idle: 90s, upgrade_idle: none}
        retry: {attempts: 1, on: [], max_replay: 0B, backoff: 25ms}
      - match: {prefix: /old/}
        filters: [{redirect: {scheme: https, hostname: c.example.com, port: 8443, path: {prefix: /new}, status: 308}}]
      - match: {prefix: /full}
        filters: [{rewrite: {path: {full: /else}}}]
        to: "127.0.0.1:9"
      - match: {exact: /teapot}
        filters: [{direct: {status: 418, headers: {x-a: b}, body: "short\nand\tstout\n"}}]
  - name: rest
    to: named
    retry: {on: [timeout, 429, "503", 503]}
backends:
  named:
    endpoints: [{address: "10.0.0.1:1", weight: 3, state: draining, protocol: h2c, zone: z, priority: 2, label: "pod 1"}]
    balance: random
    locality: zone
    subset: 20
    hash: "header:x-user"
    hash_bound: none
    affinity: {mode: balanced, cookie: {name: route, ttl: 1h, path: /a b, secure: true, same_site: none}}
    panic: 0%
    slow_start_shape: {aggression: 2, minimum: 5%}
    ejection: {enabled: false}
    check: {tcp: {}, interval: 100ms, timeout: 50ms, healthy_after: 1, unhealthy_after: 1, port: 99}
    slow_start: 3s
    retry_budget: {percent: 0%, per_second: 0}
  "127.0.0.1:9":
    endpoints: ["127.0.0.1:9"]
    balance: round-robin
    affinity: {by: "header:x-user"}
    locality: off
  hashed:
    endpoints: ["127.0.0.1:9"]
    balance: ring-hash
    hash: cookie:session
    ejection:
      gateway_failures: 3
      interval: 1s
      success_rate: {enabled: false}
      failure_share: {enabled: true, min_endpoints: 2, min_requests: 10, percent: 40%}
      latency: {enabled: true, times: 3}
      ends_on_check: false
    check: {grpc: {service: shop.Cart}, before_use: true}
    affinity: {by: source, mode: strong}
  tabled:
    endpoints: ["127.0.0.1:9"]
    balance: maglev
    hash: path
    ejection: {success_rate: {min_endpoints: 3, min_requests: 10, deviation: 1500}}
    check: {http: {path: /, headers: {x-a: b}, statuses: "200-204,301", body: "it \"works\""}}
    affinity: {}
"#;

#[test]
fn what_is_resolved_means_the_same() {
    let mut files: Vec<Loaded> = examples().iter().map(|path| load(path)).collect();
    files.push(config::parse("everything", EVERYTHING).unwrap_or_else(|error| panic!("{error}")));
    for loaded in files {
        let text = config::resolved(&loaded);
        let again = config::parse("resolved", &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(again.world, loaded.world, "{text}");
        assert_eq!(again.settings, loaded.settings, "{text}");
        assert_eq!(config::resolved(&again), text, "resolving twice changes nothing");
    }
}

#[test]
fn everything_is_read_as_it_stands() {
    let loaded = config::parse("everything", EVERYTHING).unwrap();
    let settings = &loaded.settings;
    assert_eq!((settings.workers, settings.admin.address), (Some(3), None));
    assert_eq!(settings.drain.lag, Duration::from_millis(1500));
    assert!(!settings.proxy_status_header);
    assert_eq!(
        settings.needs_restart(&config::Settings::default()),
        ["workers", "admin", "zone", "manifests"]
    );
    let route = &loaded.world.routes["route-1"];
    assert_eq!(route.rules.len(), 4);
    let first = &route.rules[0];
    assert_eq!(first.timeouts.request, None);
    assert_eq!((first.backends[0].weight, first.backends[1].weight), (0, 7));
    assert_eq!(loaded.world.routes["rest"].rules[0].retry.on.statuses.len(), 2);
    assert_eq!(loaded.world.routes["rest"].listeners.len(), 2, "all listeners");
    let endpoint = &loaded.world.endpoints["named"][0];
    assert_eq!((endpoint.weight, endpoint.zone.as_deref()), (3, Some("z")));
    assert!(loaded.world.backends["named"].ejection.is_none());
}

#[test]
fn unreadable_files_are_told_from_bad_ones() {
    let directory = tempfile::tempdir().unwrap();
    let put = |name: &str, content: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    for (path, refusal, message) in [
        (
            directory.path().join("none"),
            Refusal::Unreadable,
            "error: the file cannot be read: No such file",
        ),
        (
            directory.path().to_owned(),
            Refusal::Unreadable,
            "error: the file cannot be read: Is a directory",
        ),
        (
            put("large", &vec![b' '; 16 * 1024 * 1024 + 1]),
            Refusal::Unreadable,
            "error: the file cannot be read: it is larger than 16MiB",
        ),
        (
            put("binary", b"listen: \":80\"\nx: \xff\n"),
            Refusal::Invalid,
            ":2:4: error: this is not UTF-8 text",
        ),
        (
            put("empty", b""),
            Refusal::Invalid,
            ":1:1: error: the file is empty",
        ),
        (
            put("comment", b"# nothing\n---\n"),
            Refusal::Invalid,
            ":1:1: error: the file is empty",
        ),
    ] {
        let found = config::load(&path).unwrap_err();
        assert_eq!(found.refusal(), refusal, "{found}");
        assert!(found.human().contains(message), "{found}");
    }
}

#[test]
fn relative_paths_start_at_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yaml");
    std::fs::write(
        &file,
        "manifests: ./objects\nlog: {access: {to: logs/access.log}}\n",
    )
    .unwrap();
    let settings = config::load(&file).unwrap().settings;
    assert_eq!(settings.manifests, Some(directory.path().join("./objects")));
    let config::AccessLogTarget::File(log) = settings.access_log.unwrap().to else {
        panic!("a file");
    };
    assert_eq!(log, directory.path().join("logs/access.log"));
}

#[test]
fn bombs_cost_a_message() {
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        laughs.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    let deep = "a: ".to_owned() + &"[".repeat(100_000);
    let nested = (0..1000)
        .map(|level| format!("{}a:\n", " ".repeat(level)))
        .collect::<String>();
    for bomb in [laughs, deep, nested] {
        let start = std::time::Instant::now();
        let found = config::parse("bomb", &bomb).unwrap_err();
        assert_eq!(found.items().len(), 1, "{found}");
        assert_eq!(
            found.items()[0].message,
            "the file is too large, too deep or has too many aliases"
        );
        // Without bounds the first alone is 10^10 texts; the machine may be slow and busy.
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    }
}

#[test]
fn a_large_file_is_read_in_reasonable_time() {
    let mut text = "listen: \":80\"\nroutes:\n".to_owned();
    for index in 0..2_000 {
        text.push_str(&format!(
            "- {{name: r{index}, hostnames: [h{index}.example.com], to: b{index}}}\n"
        ));
    }
    text.push_str("backends:\n");
    for index in 0..2_000 {
        let endpoints: Vec<String> = (0..10)
            .map(|host| format!("\"10.{}.{}.{host}:80\"", index / 250, index % 250))
            .collect();
        text.push_str(&format!(
            "  b{index}: {{endpoints: [{}]}}\n",
            endpoints.join(", ")
        ));
    }
    let start = std::time::Instant::now();
    let loaded = config::parse("large", &text).unwrap();
    assert_eq!(loaded.world.routes.len(), 2_000);
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());

    let start = std::time::Instant::now();
    let found = config::parse(
        "large",
        &text.replace("to: b", "to: c").replace("- {name", "- {nam"),
    )
    .unwrap_err();
    assert!(found.human().ends_with("... and more; the first 100 are shown\n"));
    let found = config::parse("large", &text.replace("to: b", "to: c")).unwrap_err();
    assert_eq!(found.items().len(), 100);
    assert_eq!(
        found.items()[0].place.map(|place| place.line),
        Some(3),
        "the first of all"
    );
    assert!(
        start.elapsed() < Duration::from_secs(120),
        "{:?}",
        start.elapsed()
    );
}

/// Pieces that configurations and YAML are made of, put together at random.
fn pieces() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "listen",
        "listeners",
        "routes",
        "backends",
        "to",
        "split",
        "match",
        "filters",
        "endpoints",
        "address",
        "hostname",
        "weight",
        "prefix",
        "regex",
        "timeouts",
        "request",
        "retry",
        "on",
        "limits",
        "check",
        "http",
        ": ",
        ":",
        "- ",
        "\n",
        "\n  ",
        "\n    ",
        "{",
        "}",
        "[",
        "]",
        ", ",
        "\"",
        "'",
        "*a",
        "&a ",
        "<<: *a",
        "!!str ",
        "|\n",
        ">\n",
        "? ",
        "---\n",
        "...\n",
        "# x\n",
        "\t",
        "~",
        "null",
        "true",
        "1",
        "-1",
        "0x1F",
        "1e9",
        ".inf",
        ":80",
        "10.0.0.1:80",
        "[::1]:80",
        "5s",
        "1MiB",
        "20%",
        "*.example.com",
        "/a",
        "$1",
        "(",
        "é",
        "😀",
        "\u{feff}",
        "\u{0}",
        "\u{85}",
        "\r\n",
        "@",
        "`",
        "%YAML 1.2\n",
    ]);
    prop::collection::vec(words, 0..40).prop_map(|words| words.concat())
}

/// A good file with some characters replaced.
fn damaged() -> impl Strategy<Value = String> {
    let replaced = prop::collection::vec((any::<prop::sample::Index>(), any::<char>()), 1..6);
    replaced.prop_map(|places| {
        let mut characters: Vec<char> = EVERYTHING.chars().collect();
        for (at, character) in places {
            let at = at.index(characters.len());
            characters[at] = character;
        }
        characters.into_iter().collect()
    })
}

fn survives(text: &str) -> Result<(), TestCaseError> {
    match config::parse("random", text) {
        Ok(loaded) => {
            let text = config::resolved(&loaded);
            let again = config::parse("resolved", &text);
            let again = again.map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
            prop_assert_eq!(again.world, loaded.world);
            prop_assert_eq!(again.settings, loaded.settings);
        }
        Err(found) => {
            prop_assert!(!found.is_empty());
            prop_assert!(
                !found
                    .human()
                    .chars()
                    .any(|character| character.is_control() && character != '\n')
            );
            prop_assert!(
                found
                    .json()
                    .as_array()
                    .is_some_and(|items| items.len() == found.items().len())
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_texts_never_panic(text in any::<String>()) {
        survives(&text)?;
    }

    #[test]
    fn random_yaml_never_panics(text in pieces()) {
        survives(&text)?;
    }

    #[test]
    fn damaged_files_never_panic_and_what_is_left_resolves(text in damaged()) {
        survives(&text)?;
    }
}
