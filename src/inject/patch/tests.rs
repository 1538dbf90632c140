//! What becomes of Pods, in tables: those that get a sidecar, those that stay as they are, and what is said.

mod identity;

use super::*;

fn pod(yaml: &str) -> (Pod, Value) {
    let value: Value = serde_saphyr::from_str(yaml).unwrap();
    (serde_json::from_value(value.clone()).unwrap(), value)
}

fn namespace(yaml: &str) -> Namespace {
    let value: Value = serde_saphyr::from_str(&format!("metadata: {yaml}")).unwrap();
    serde_json::from_value(value).unwrap()
}

fn template() -> Template {
    Template {
        image: "tidegate:1".to_owned(),
        init_image: Some("tidegate-init:1".to_owned()),
        pull_policy: None,
        own_namespace: "tidegate".to_owned(),
        defaults: Vec::new(),
    }
}

/// Does `add` operations as RFC 6902 says.
fn applied(mut object: Value, operations: &[Value]) -> Value {
    for operation in operations {
        assert_eq!(operation["op"], "add");
        let path = operation["path"].as_str().unwrap();
        let (parent, last) = path.rsplit_once('/').unwrap();
        let last = last.replace("~1", "/").replace("~0", "~");
        let value = operation["value"].clone();
        match object
            .pointer_mut(parent)
            .unwrap_or_else(|| panic!("no {parent}"))
        {
            Value::Array(all) if last == "-" => all.push(value),
            Value::Array(all) => all.insert(last.parse().unwrap(), value),
            Value::Object(all) => drop(all.insert(last, value)),
            other => panic!("{path}: {other}"),
        }
    }
    object
}

fn injected(yaml: &str, of: &str) -> Value {
    let (pod, value) = pod(yaml);
    match decide(&pod, "default", &namespace(of), &template()) {
        Decision::Inject(operations) => applied(value, &operations),
        Decision::Leave(why) => panic!("{why:?}"),
    }
}

fn names(of: &Value) -> Vec<&str> {
    let all = of.as_array().unwrap().iter();
    all.map(|one| one["name"].as_str().unwrap()).collect()
}

const PLAIN: &str = "spec: {containers: [{name: app}]}";
const ASKED: &str = "{labels: {tidegate.dev/inject: enabled}}";

#[test]
fn a_plain_pod_gets_rules_and_a_native_sidecar_in_front() {
    let pod = injected(
        "metadata: {annotations: {a: b}}\n\
         spec: {initContainers: [{name: first}], volumes: [{name: v}], containers: [{name: app}]}",
        ASKED,
    );
    assert_eq!(
        names(&pod["spec"]["initContainers"]),
        ["tidegate-init", "tidegate", "first"]
    );
    assert_eq!(names(&pod["spec"]["volumes"]), ["v", "tidegate-token"]);
    assert_eq!(
        pod["metadata"]["annotations"],
        json!({"a": "b", "tidegate.dev/injected": VERSION})
    );
    let [rules, sidecar] = [0, 1].map(|at| pod["spec"]["initContainers"][at].clone());
    assert_eq!(
        rules["args"],
        json!(["--proxy-uid=2102", "--skip-inbound-ports=4191"])
    );
    assert_eq!(
        rules["securityContext"]["capabilities"]["add"],
        json!(["NET_ADMIN", "NET_RAW"])
    );
    assert_eq!(rules.get("restartPolicy"), None);
    assert_eq!(sidecar["restartPolicy"], "Always");
    assert_eq!(
        sidecar["args"],
        json!(["sidecar", "--transparent", "--kubernetes", "--admin=0.0.0.0:4191"])
    );
    assert_eq!(
        sidecar["resources"],
        json!({"requests": {"cpu": "10m", "memory": "16Mi"}})
    );
    assert_eq!(sidecar["volumeMounts"][0]["mountPath"], TOKEN_PATH);
    // Nothing of it is there yet: everything is made.
    let bare = injected(PLAIN.replace("spec", "metadata: {}\nspec").as_str(), ASKED);
    assert_eq!(
        names(&bare["spec"]["initContainers"]),
        ["tidegate-init", "tidegate"]
    );
    assert_eq!(names(&bare["spec"]["volumes"]), ["tidegate-token"]);
}

#[test]
fn wishes_become_arguments() {
    let pod = injected(
        "metadata: {annotations: {tidegate.dev/skip-inbound-ports: '9100,4567-4568', tidegate.dev/skip-outbound-ports: '25', \
         tidegate.dev/skip-networks: 10.0.0.0/8, tidegate.dev/opaque-ports: '3306,5432', tidegate.dev/grace: 5s, \
         tidegate.dev/access-log: 'true', tidegate.dev/log-level: debug, tidegate.dev/proxy-memory-limit: 64Mi, \
         tidegate.dev/proxy-cpu-request: 20m}}\nspec: {containers: [{name: app}]}",
        ASKED,
    );
    let [rules, sidecar] = [0, 1].map(|at| pod["spec"]["initContainers"][at].clone());
    assert_eq!(
        rules["args"],
        json!([
            "--proxy-uid=2102",
            "--skip-inbound-ports=4191,9100,4567-4568",
            "--skip-outbound-ports=25",
            "--skip-networks=10.0.0.0/8"
        ])
    );
    assert_eq!(
        sidecar["args"],
        json!([
            "sidecar",
            "--transparent",
            "--opaque-ports=3306,5432",
            "--kubernetes",
            "--admin=0.0.0.0:4191",
            "--grace=5s",
            "--access-log"
        ])
    );
    assert_eq!(
        sidecar["resources"],
        json!({"requests": {"cpu": "20m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}})
    );
    let env = sidecar["env"].as_array().unwrap();
    assert!(
        env.contains(&json!({"name": "TIDEGATE_LOG", "value": "debug"})),
        "{env:?}"
    );
    let namespace =
        json!({"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}});
    assert!(env.contains(&namespace), "{env:?}");
}

#[test]
fn a_pod_that_speaks_with_its_own_addresses_gets_nothing_privileged() {
    let of = "{labels: {pod-security.kubernetes.io/enforce: restricted}}";
    let pod = injected(
        "metadata: {labels: {tidegate.dev/inject: localhost}, annotations: {tidegate.dev/outbound: '3001=web:80,3002=shop/cart:81', \
         tidegate.dev/inbound: '8080=3000'}}\nspec: {containers: [{name: app}]}",
        of,
    );
    let init = &pod["spec"]["initContainers"];
    assert_eq!(names(init), ["tidegate"]);
    assert_eq!(
        init[0]["args"],
        json!([
            "sidecar",
            "--outbound=127.0.0.1:3001=default/web:80",
            "--outbound=127.0.0.1:3002=shop/cart:81",
            "--inbound=:8080=127.0.0.1:3000",
            "--kubernetes",
            "--admin=0.0.0.0:4191"
        ])
    );
    assert_eq!(
        init[0]["securityContext"],
        json!({
            "runAsUser": 2102, "runAsGroup": 2102, "runAsNonRoot": true, "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}
        })
    );
    // What knows no Service needs no token.
    let inbound = injected(
        "metadata: {annotations: {tidegate.dev/inject: localhost, tidegate.dev/inbound: '8080=3000'}}\nspec: {containers: [{name: app}]}",
        of,
    );
    assert_eq!(inbound["spec"].get("volumes"), None);
    assert_eq!(inbound["spec"]["initContainers"][0].get("volumeMounts"), None);
}

/// What is left as it is: the pod, its namespace's metadata and name, and what is said, in part; `-` for nothing.
#[test]
fn what_is_left_as_it_is() {
    let on_pod =
        |value: &str| format!("metadata: {{annotations: {{tidegate.dev/inject: {value}}}}}\n{PLAIN}");
    let with = |annotation: &str| format!("metadata: {{annotations: {{{annotation}}}}}\n{PLAIN}");
    let restricted =
        "{labels: {tidegate.dev/inject: enabled, pod-security.kubernetes.io/enforce: restricted}}";
    for (pod_yaml, of, name, injection, said) in [
        (PLAIN.to_owned(), "{}", "default", Injection::NotAsked, "-"),
        (
            PLAIN.to_owned(),
            "{labels: {tidegate.dev/inject: disabled}}",
            "default",
            Injection::NotAsked,
            "-",
        ),
        (on_pod("disabled"), ASKED, "default", Injection::NotAsked, "-"),
        (
            on_pod("disabled").replace("annotations", "labels"),
            ASKED,
            "default",
            Injection::NotAsked,
            "-",
        ),
        (on_pod("enabled"), "{}", "kube-system", Injection::NotAsked, "-"),
        (on_pod("enabled"), "{}", "tidegate", Injection::NotAsked, "-"),
        (on_pod("enabled"), "{}", "../secrets", Injection::NotAsked, "-"),
        (
            PLAIN.replace("app", "tidegate"),
            ASKED,
            "default",
            Injection::Already,
            "-",
        ),
        (
            PLAIN.replace("spec: {", "spec: {hostNetwork: true, "),
            ASKED,
            "default",
            Injection::Impossible,
            "-",
        ),
        (
            on_pod("enabled").replace("spec: {", "spec: {hostNetwork: true, "),
            "{}",
            "default",
            Injection::Impossible,
            "node's network",
        ),
        (
            on_pod("enabled").replace("spec: {", "spec: {os: {name: windows}, "),
            "{}",
            "default",
            Injection::Impossible,
            "for Windows",
        ),
        (
            with("kubernetes.io/config.mirror: x"),
            ASKED,
            "default",
            Injection::Impossible,
            "-",
        ),
        (
            PLAIN.to_owned(),
            restricted,
            "default",
            Injection::Impossible,
            "localhost needs none",
        ),
        (
            PLAIN.replace("name: app", "name: app, securityContext: {runAsUser: 2102}"),
            ASKED,
            "default",
            Injection::Impossible,
            "runs as user 2102",
        ),
        (
            PLAIN.replace("spec: {", "spec: {securityContext: {runAsUser: 2102}, "),
            ASKED,
            "default",
            Injection::Impossible,
            "runs as user 2102",
        ),
        (
            PLAIN.replace("name: app", "name: app, ports: [{containerPort: 4143}]"),
            ASKED,
            "default",
            Injection::Impossible,
            "has port 4143",
        ),
        (
            on_pod("localhost"),
            "{}",
            "default",
            Injection::Impossible,
            "nothing for it to serve",
        ),
        (
            with("tidegate.dev/inject: localhost, tidegate.dev/inbound: '8080=3000'")
                .replace("name: app", "name: app, ports: [{containerPort: 8080}]"),
            "{}",
            "default",
            Injection::Impossible,
            "has port 8080",
        ),
        (
            on_pod("'true'"),
            "{}",
            "default",
            Injection::Misunderstood,
            "tidegate.dev/inject is \"true\"; write enabled",
        ),
        (
            PLAIN.to_owned(),
            "{annotations: {tidegate.dev/inject: on1}}",
            "default",
            Injection::Misunderstood,
            "the namespace's tidegate.dev/inject",
        ),
        (
            with("tidegate.dev/grace: soon"),
            ASKED,
            "default",
            Injection::Misunderstood,
            "grace: \"soon\" is not a duration",
        ),
        (
            with("tidegate.dev/gracee: 1s"),
            ASKED,
            "default",
            Injection::Misunderstood,
            "did you mean grace?",
        ),
    ] {
        let (pod, _) = pod(&pod_yaml);
        let decision = decide(&pod, name, &namespace(of), &template());
        assert_eq!(decision.injection(), injection, "{pod_yaml}");
        let Decision::Leave(why) = decision else {
            panic!("{pod_yaml} was injected");
        };
        let warnings = why.warnings().join("\n");
        match said {
            "-" => assert_eq!(warnings, "", "{pod_yaml}"),
            said => assert!(warnings.contains(said), "{pod_yaml}: {warnings}"),
        }
    }
}

#[test]
fn ports_of_datagrams_and_users_elsewhere_are_in_nobodys_way() {
    let yaml = "spec: {containers: [{name: app, ports: [{containerPort: 4191, protocol: UDP}, {containerPort: 70000}], \
                securityContext: {runAsUser: 1000}}], securityContext: {runAsUser: 2102}}";
    let (pod, _) = pod(yaml);
    assert!(matches!(
        decide(&pod, "default", &namespace(ASKED), &template()),
        Decision::Inject(_)
    ));
}

#[test]
fn who_has_one_gets_no_second() {
    let once = injected(PLAIN.replace("spec", "metadata: {}\nspec").as_str(), ASKED);
    let again: Pod = serde_json::from_value(once).unwrap();
    let decision = decide(&again, "default", &namespace(ASKED), &template());
    assert_eq!(decision, Decision::Leave(Why::Already));
}

#[test]
fn an_injector_without_the_image_for_rules_says_so() {
    let template = Template {
        init_image: None,
        ..template()
    };
    let (pod, _) = pod(PLAIN);
    let Decision::Leave(why) = decide(&pod, "default", &namespace(ASKED), &template) else {
        panic!("it was injected");
    };
    assert!(why.warnings()[0].contains("--init-image"), "{why:?}");
}

#[test]
fn defaults_are_checked_at_the_start() {
    let with = |name: &str, value: &str| Template {
        defaults: vec![(name.to_owned(), value.to_owned())],
        ..template()
    };
    assert_eq!(check_defaults(&with("grace", "10s")), Ok(()));
    let said = check_defaults(&with("grase", "10s")).unwrap_err();
    assert_eq!(said, ["--default grase is not known; did you mean grace?"]);
}
