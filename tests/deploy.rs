//! What `deploy/` installs is what the program takes: its flags, its configuration, its rights, its metrics, its values.
//!
//! What takes Helm, kubectl and an API server is the scenario `deploy` of `tests/cluster/run`.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use serde_json::{Value, json};

use tidegate::cli::Cli;
use tidegate::config;
use tidegate::kubernetes::{self, Kind, STATUS_KINDS};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The objects of a rendered file.
fn rendered(name: &str) -> Vec<Value> {
    let text = read(&format!("kubernetes/{name}.yaml"));
    text.split("\n---\n").map(yaml).collect()
}

fn object(objects: &[Value], kind: &str) -> Value {
    let found = objects.iter().find(|object| object["kind"] == kind);
    found.unwrap_or_else(|| panic!("there is no {kind}")).clone()
}

/// The templates of the chart, all in one.
fn templates() -> String {
    let mut all = String::new();
    for entry in fs::read_dir(root().join("helm/tidegate/templates")).unwrap() {
        all.push_str(&fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    all
}

#[test]
fn flags_of_the_chart_are_those_of_the_program() {
    let pod = read("helm/tidegate/templates/_pod.tpl");
    let args = &pod[pod.find("      args:\n").unwrap()..pod.find("      env:\n").unwrap()];
    let samples = [
        ("{{ .Values.ports.admin }}", "9900"),
        ("{{ .Values.ports.http }}", "80"),
        ("{{ .Values.ports.https }}", "443"),
        ("{{ .Values.statusAddress }}", "10.0.0.1"),
        ("{{ include \"tidegate.publishService\" . }}", "edge/tidegate"),
        ("{{ include \"tidegate.gatewayServices\" . }}", "node-port"),
        ("{{ .Values.gatewayServices.ports.first }}", "20000"),
        ("{{ .Values.gatewayServices.ports.last }}", "29999"),
    ];
    let mut words = vec!["tidegate".to_owned()];
    for line in args.lines() {
        let Some(word) = line.trim().strip_prefix("- ") else {
            continue;
        };
        if word == "{{ . | quote }}" {
            continue; // extraArgs
        }
        let word = samples
            .iter()
            .fold(word.to_owned(), |word, (name, value)| word.replace(name, value));
        words.push(word.replace("{{ . }}", "2"));
    }
    assert!(words.len() > 8, "{words:?}");
    assert!(!words.iter().any(|word| word.contains("{{")), "{words:?}");
    // The chart gives one of these two; Gateways' Services take the second, and that statuses are written.
    for left_out in [
        &["--status-address=", "--update-status="][..],
        &["--publish-service=", "--gateway-services="],
    ] {
        let is_left_out = |word: &&String| left_out.iter().any(|start| word.starts_with(start));
        let words: Vec<_> = words.iter().filter(|word| !is_left_out(word)).collect();
        Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
    }
}

#[test]
fn what_is_rendered_can_be_started() {
    let objects = rendered("deployment");
    let pod = object(&objects, "Deployment")["spec"]["template"]["spec"].clone();
    let container = &pod["containers"][0];
    let args = container["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap());
    let words: Vec<&str> = std::iter::once("tidegate").chain(args).collect();
    Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{words:?}: {error}"));

    // The ports that it is told to listen on are those of the container, and of them the probes' is the admin one.
    let port = |name: &str| {
        let ports = container["ports"].as_array().unwrap();
        let found = ports.iter().find(|port| port["name"] == name).unwrap();
        found["containerPort"].as_u64().unwrap()
    };
    for (flag, name) in [
        ("--admin", "admin"),
        ("--ingress-address", "http"),
        ("--ingress-tls-address", "https"),
    ] {
        let end = format!(":{}", port(name));
        assert!(
            words
                .iter()
                .any(|word| word.starts_with(flag) && word.ends_with(&end)),
            "{flag} {words:?}"
        );
    }
    for (probe, path) in [
        ("startupProbe", "/readyz"),
        ("readinessProbe", "/readyz"),
        ("livenessProbe", "/livez"),
    ] {
        let get = &container[probe]["httpGet"];
        assert_eq!(
            (&get["path"], &get["port"]),
            (&json!(path), &json!("admin")),
            "{probe}"
        );
    }

    let config = object(&objects, "ConfigMap")["data"]["tidegate.yaml"]
        .as_str()
        .unwrap()
        .to_owned();
    let loaded = config::parse("tidegate.yaml", &config).unwrap_or_else(|error| panic!("{error}"));
    let drain = loaded.settings.drain.lag + loaded.settings.drain.timeout;
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(
        drain.as_secs() < grace,
        "the pod is killed before its drain of {drain:?} is over"
    );

    for (what, is) in [
        ("/securityContext/runAsNonRoot", json!(true)),
        (
            "/containers/0/securityContext/readOnlyRootFilesystem",
            json!(true),
        ),
        (
            "/containers/0/securityContext/allowPrivilegeEscalation",
            json!(false),
        ),
        (
            "/containers/0/securityContext/capabilities",
            json!({"drop": ["ALL"]}),
        ),
    ] {
        assert_eq!(pod.pointer(what), Some(&is), "{what}");
    }
}

/// Verbs by group and resource.
type Rights = BTreeMap<(String, String), BTreeSet<String>>;

fn rights(rules: &Value) -> Rights {
    let texts = |value: &Value| -> Vec<String> {
        let all = value.as_array().unwrap().iter();
        all.map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let mut rights = Rights::new();
    for rule in rules.as_array().unwrap() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                rights
                    .entry((group.clone(), resource))
                    .or_default()
                    .extend(texts(&rule["verbs"]));
            }
        }
    }
    rights
}

#[test]
fn the_role_allows_what_is_done_and_nothing_else() {
    let mut wanted = Rights::new();
    let mut want = |group: &str, resource: String, verbs: &[&str]| {
        let entry = wanted.entry((group.to_owned(), resource)).or_default();
        entry.extend(verbs.iter().map(|verb| (*verb).to_owned()));
    };
    for kind in Kind::ALL {
        let name = kind.name().to_lowercase();
        let plural = match name.strip_suffix('y') {
            _ if name.ends_with('s') => format!("{name}es"),
            Some(stem) if !stem.ends_with('a') => format!("{stem}ies"),
            _ => format!("{name}s"),
        };
        want(kind.group(), plural.clone(), &["list", "watch"]);
        // Events name the uid of what they are about, and Services have Events too.
        if STATUS_KINDS.contains(kind) || *kind == Kind::Service {
            want(kind.group(), plural.clone(), &["get"]);
        }
        if STATUS_KINDS.contains(kind) {
            want(kind.group(), format!("{plural}/status"), &["patch"]);
        }
    }
    want("events.k8s.io", "events".to_owned(), &["create", "patch"]);
    assert_eq!(
        rights(&yaml(&read("helm/tidegate/files/cluster-rules.yaml"))),
        wanted
    );
    let rbac = rendered("rbac");
    assert_eq!(
        rights(&object(&rbac, "ClusterRole")["rules"]),
        wanted,
        "deploy/render.sh"
    );

    let lease = yaml(&read("helm/tidegate/files/lease-rules.yaml"));
    assert_eq!(object(&rbac, "Role")["rules"], lease, "deploy/render.sh");
    let verbs = &rights(&lease)[&("coordination.k8s.io".to_owned(), "leases".to_owned())];
    assert!(verbs.iter().eq(["create", "get", "update"]), "{verbs:?}");
}

/// What keeps certificates by ACME in Secrets: the rights that it takes, and no others.
#[test]
fn certificates_by_acme_take_a_role_of_their_own() {
    let rules = yaml(&read("helm/tidegate/files/acme-rules.yaml"));
    let rights = rights(&rules);
    let of = |group: &str, resource: &str| &rights[&(group.to_owned(), resource.to_owned())];
    let verbs = of("", "secrets");
    assert!(
        verbs
            .iter()
            .eq(["create", "delete", "get", "list", "patch", "watch"]),
        "{verbs:?}"
    );
    assert!(
        of("coordination.k8s.io", "leases")
            .iter()
            .eq(["create", "get", "update"])
    );
    assert_eq!(rights.len(), 2);
    assert_eq!(rules[2]["resourceNames"], json!([kubernetes::ACME_LEASE]));

    let text = read("kustomize/overlays/acme/acme.yaml");
    let objects: Vec<Value> = text.split("\n---\n").map(yaml).collect();
    assert_eq!(object(&objects, "Role")["rules"], rules, "deploy/render.sh");
    // Never for the whole cluster.
    assert!(!text.contains("kind: Cluster"));

    // The overlay's file is one that is taken, with nothing of the chart's left out.
    let overlay = yaml(&read("kustomize/overlays/acme/kustomization.yaml"));
    let patch = yaml(overlay["patches"][0]["patch"].as_str().unwrap());
    let parse = |text: &Value| config::parse("tidegate.yaml", text.as_str().unwrap()).unwrap();
    let patched = parse(&patch["data"]["tidegate.yaml"]);
    let plain = parse(&object(&rendered("deployment"), "ConfigMap")["data"]["tidegate.yaml"]);
    assert_eq!(patched.warnings.items(), []);
    assert!(patched.settings.acme.is_some() && plain.settings.acme.is_none());
    assert_eq!(
        config::Settings {
            acme: None,
            ..patched.settings
        },
        plain.settings
    );
}

/// What a Service for every Gateway takes is apart, for those who want it.
#[test]
fn services_of_gateways_take_rights_of_their_own() {
    let rules = yaml(&read("helm/tidegate/files/gateway-services-rules.yaml"));
    let mut wanted = Rights::new();
    for (kind, verbs) in [
        (Kind::Service, &["create", "delete", "patch"][..]),
        (Kind::EndpointSlice, &["create", "delete", "get", "patch"]),
    ] {
        let resource = format!("{}s", kind.name().to_lowercase());
        let verbs = verbs.iter().map(|verb| (*verb).to_owned()).collect();
        wanted.insert((kind.group().to_owned(), resource), verbs);
    }
    assert_eq!(rights(&rules), wanted);
    let text = read("kustomize/overlays/gateway-services/rights.yaml");
    let objects: Vec<Value> = text.split("\n---\n").map(yaml).collect();
    assert_eq!(
        object(&objects, "ClusterRole")["rules"],
        rules,
        "deploy/render.sh"
    );
    let account = &object(&rendered("rbac"), "ServiceAccount")["metadata"];
    let subject = &object(&objects, "ClusterRoleBinding")["subjects"][0];
    assert_eq!(
        (&subject["name"], &subject["namespace"]),
        (&account["name"], &account["namespace"])
    );

    // The overlay starts what can be started.
    let overlay = read("kustomize/overlays/gateway-services/kustomization.yaml");
    let added = overlay
        .split("value: ")
        .nth(1)
        .unwrap()
        .split('}')
        .next()
        .unwrap();
    let pod = object(&rendered("deployment"), "Deployment")["spec"]["template"]["spec"].clone();
    let args = pod["containers"][0]["args"].as_array().unwrap().iter();
    let words = ["tidegate"]
        .into_iter()
        .chain(args.map(|word| word.as_str().unwrap()));
    let words: Vec<&str> = words.chain([added]).collect();
    Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
}

/// The injector's objects: what runs can be started, may do what it does and no more, and is where the webhook says.
#[test]
fn the_injector_is_installed_as_it_is() {
    let text = read("kustomize/overlays/inject/inject.yaml");
    let objects: Vec<Value> = text.split("\n---\n").map(yaml).collect();
    let pod = object(&objects, "Deployment")["spec"]["template"]["spec"].clone();
    let container = &pod["containers"][0];
    let args = container["args"].as_array().unwrap().iter();
    let words: Vec<&str> = std::iter::once("tidegate")
        .chain(args.map(|word| word.as_str().unwrap()))
        .collect();
    Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
    let ports = container["ports"].as_array().unwrap();
    for (name, flag) in [("https", "--address"), ("admin", "--admin")] {
        let port = ports.iter().find(|port| port["name"] == name).unwrap();
        let flag = format!("{flag}=0.0.0.0:{}", port["containerPort"]);
        assert!(words.contains(&flag.as_str()), "{flag} {words:?}");
    }

    // One name for everything that the program looks for by name.
    let webhook = object(&objects, "MutatingWebhookConfiguration");
    let service = object(&objects, "Service");
    let name = webhook["metadata"]["name"].as_str().unwrap();
    assert!(words.contains(&format!("--name={name}").as_str()), "{words:?}");
    assert_eq!(
        (
            &service["metadata"]["name"],
            &object(&objects, "Secret")["metadata"]["name"]
        ),
        (&json!(name), &json!(name))
    );
    let labels = &object(&objects, "Deployment")["spec"]["template"]["metadata"]["labels"];
    for (label, value) in service["spec"]["selector"].as_object().unwrap() {
        assert_eq!(&labels[label], value);
    }
    let proxy = object(&rendered("deployment"), "Service");
    assert_ne!(proxy["spec"]["selector"], service["spec"]["selector"]);

    let asked = &webhook["webhooks"][0];
    assert_eq!(asked["clientConfig"]["service"]["path"], "/inject");
    assert_eq!(asked["clientConfig"]["service"]["name"], name);
    assert_eq!(asked["clientConfig"].get("caBundle"), None);
    for (field, is) in [
        ("failurePolicy", json!("Ignore")),
        ("sideEffects", json!("None")),
        ("reinvocationPolicy", json!("IfNeeded")),
        ("admissionReviewVersions", json!(["v1"])),
        (
            "rules",
            json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"], "scope": "Namespaced"}]),
        ),
    ] {
        assert_eq!(asked[field], is, "{field}");
    }

    let right = |kind: &str, resource: &str| {
        let role = object(&objects, kind);
        let rules = role["rules"].as_array().unwrap().clone();
        let of: Vec<Value> = rules
            .into_iter()
            .filter(|rule| rule["resources"] == json!([resource]))
            .collect();
        of.iter()
            .map(|rule| (rule["resourceNames"].clone(), rule["verbs"].clone()))
            .collect::<Vec<_>>()
    };
    let own = json!([name]);
    for (kind, resource, expected) in [
        ("ClusterRole", "namespaces", vec![(Value::Null, json!(["get"]))]),
        (
            "ClusterRole",
            "mutatingwebhookconfigurations",
            vec![(own.clone(), json!(["get", "patch"]))],
        ),
        ("Role", "secrets", vec![(own.clone(), json!(["get", "update"]))]),
        (
            "Role",
            "leases",
            vec![
                (Value::Null, json!(["create"])),
                (own.clone(), json!(["get", "update"])),
            ],
        ),
    ] {
        assert_eq!(right(kind, resource), expected, "{kind} {resource}");
    }
    let rules = |kind: &str| object(&objects, kind)["rules"].as_array().unwrap().len();
    assert_eq!((rules("ClusterRole"), rules("Role")), (2, 3));
}

#[test]
fn sidecars_may_read_the_same_wherever_they_come_from() {
    let injected = yaml(&read("helm/tidegate/files/sidecar-rules.yaml"));
    let by_hand = object(&rendered("sidecar"), "ClusterRole");
    assert_eq!(by_hand["rules"], injected);
    for kind in kubernetes_of_sidecars() {
        let of = rights(&injected);
        let plural = format!("{}s", kind.name().to_lowercase());
        let verbs = &of[&(kind.group().to_owned(), plural)];
        assert!(verbs.iter().eq(["list", "watch"]), "{verbs:?}");
    }
}

/// The kinds that a sidecar follows.
fn kubernetes_of_sidecars() -> &'static [Kind] {
    kubernetes::Settings {
        services_only: true,
        ..kubernetes::Settings::default()
    }
    .kinds()
}

#[test]
fn classes_are_ours() {
    let classes = rendered("classes");
    assert_eq!(
        object(&classes, "IngressClass")["spec"]["controller"],
        kubernetes::INGRESS_CONTROLLER
    );
    assert_eq!(
        object(&classes, "GatewayClass")["spec"]["controllerName"],
        kubernetes::GATEWAY_CONTROLLER
    );
    for controller in [kubernetes::INGRESS_CONTROLLER, kubernetes::GATEWAY_CONTROLLER] {
        assert!(templates().contains(controller));
    }
}

/// The paths of all values, down to what has no names below it.
fn leaves(value: &Value, path: &str, into: &mut Vec<String>) {
    match value.as_object().filter(|object| !object.is_empty()) {
        Some(object) => {
            for (name, below) in object {
                leaves(below, &format!("{path}.{name}"), into);
            }
        }
        None => into.push(path.to_owned()),
    }
}

#[test]
fn values_are_used_and_in_the_schema() {
    let values = yaml(&read("helm/tidegate/values.yaml"));
    let schema: Value = serde_json::from_str(&read("helm/tidegate/values.schema.json")).unwrap();
    let templates = templates();
    let mut paths = Vec::new();
    leaves(&values, "", &mut paths);
    assert!(paths.len() > 80, "{}", paths.len());
    for path in &paths {
        // A template may use the whole that a value is part of: `toYaml .Values.resources`.
        let mut part = path.as_str();
        let is_used = loop {
            let name = format!(".Values{part}");
            let short = part
                .strip_prefix(".service.")
                .map(|rest| format!("$service.{rest}"));
            let used = |name: &str| {
                templates.match_indices(name).any(|(at, _)| {
                    let next = templates[at + name.len()..].chars().next();
                    !next.is_some_and(|next| next.is_ascii_alphanumeric() || next == '.')
                })
            };
            if used(&name) || short.is_some_and(|short| used(&short)) {
                break true;
            }
            match part.rfind('.') {
                Some(at) if at > 0 => part = &part[..at],
                _ => break false,
            }
        };
        assert!(is_used, "no template uses the value {path}");
    }

    for (number, line) in templates.lines().enumerate() {
        for (at, _) in line.match_indices(".Values.") {
            let name: String = line[at + ".Values".len()..]
                .chars()
                .take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '.')
                .collect();
            let pointer = name.trim_end_matches('.').replace('.', "/");
            let is_known = values.pointer(&pointer).is_some() || pointer == "/podSecurityContext/sysctls";
            assert!(
                is_known,
                "line {number} of the templates uses {name}, which is no value"
            );
        }
    }

    fn compare(value: &Value, schema: &Value, path: &str) {
        let Some(known) = schema["properties"].as_object() else {
            return; // any names
        };
        assert_eq!(schema["additionalProperties"], false, "{path}");
        let names: BTreeSet<&String> = value.as_object().unwrap().keys().collect();
        let known: BTreeSet<&String> = known
            .keys()
            .filter(|name| !(path.is_empty() && *name == "global"))
            .collect();
        assert_eq!(names, known, "{path}: values.yaml and values.schema.json");
        for name in names {
            compare(
                &value[name],
                &schema["properties"][name],
                &format!("{path}.{name}"),
            );
        }
    }
    compare(&values, &schema, "");
}

#[test]
fn alerts_are_about_metrics_that_there_are() {
    let alerts = read("helm/tidegate/files/alerts.yaml");
    let families = fs::read_to_string(root().join("../src/telemetry/exposition/families.rs")).unwrap();
    let mut seen = 0;
    for rule in yaml(&alerts).as_array().unwrap() {
        let expression = rule["expr"].as_str().unwrap();
        let words = expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        for metric in words.filter(|word| word.starts_with("tidegate_")) {
            seen += 1;
            assert!(
                families.contains(&format!("\"{metric}\"")),
                "there is no metric {metric}"
            );
        }
    }
    assert!(seen >= 6, "{seen}");
}

#[test]
fn annotations_of_ingress_nginx_are_listed() {
    let page = fs::read_to_string(root().join("../docs/ingress-nginx.md")).unwrap();
    let listed: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
    let known: Vec<String> = kubernetes::ANNOTATIONS
        .iter()
        .map(|one| format!("| `{}` | {} | {} |", one.name, one.treatment.words(), one.text))
        .collect();
    assert_eq!(listed, known);
}
