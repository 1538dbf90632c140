//! Who sidecars are: what they are mounted and told, and whether their Pods can be ready and are still taken under `restricted`.

use super::*;

/// A Pod with annotations and what else its one container has.
fn asking(annotations: &str, container: &str) -> String {
    format!(
        "metadata: {{annotations: {{{annotations}}}}}\nspec: {{volumes: [{{name: svid, csi: {{driver: spiffe.csi.cert-manager.io}}}}], \
         containers: [{{name: app{container}}}]}}"
    )
}

fn sidecar_of(pod: &Value) -> &Value {
    let mut all = pod["spec"]["initContainers"].as_array().unwrap().iter();
    all.find(|one| one["name"] == "tidegate").unwrap()
}

/// The arguments behind the ones that are always there.
fn said(pod: &Value) -> Vec<&str> {
    let args = sidecar_of(pod)["args"].as_array().unwrap().iter();
    let all = args.map(|arg| arg.as_str().unwrap());
    all.filter(|arg| !["sidecar", "--transparent", "--kubernetes", "--admin=0.0.0.0:4191"].contains(arg))
        .collect()
}

#[test]
fn an_identity_is_mounted_in_the_sidecar_alone() {
    for (identity, volume, mount, arg) in [
        (
            "workload-api",
            json!({"name": "tidegate-identity", "csi": {"driver": "csi.spiffe.io", "readOnly": true}}),
            json!({"name": "tidegate-identity", "mountPath": "/spiffe-workload-api", "readOnly": true}),
            "--workload-api=unix:///spiffe-workload-api/spire-agent.sock",
        ),
        (
            "'workload-api:agent.sock'",
            json!({"name": "tidegate-identity", "csi": {"driver": "csi.spiffe.io", "readOnly": true}}),
            json!({"name": "tidegate-identity", "mountPath": "/spiffe-workload-api", "readOnly": true}),
            "--workload-api=unix:///spiffe-workload-api/agent.sock",
        ),
        (
            "'secret:web'",
            json!({"name": "tidegate-identity", "secret": {"secretName": "web"}}),
            json!({"name": "tidegate-identity", "mountPath": "/var/run/secrets/spiffe", "readOnly": true}),
            "--identity=/var/run/secrets/spiffe",
        ),
        (
            "'volume:svid'",
            Value::Null,
            json!({"name": "svid", "mountPath": "/var/run/secrets/spiffe", "readOnly": true}),
            "--identity=/var/run/secrets/spiffe",
        ),
    ] {
        let pod = injected(&asking(&format!("tidegate.dev/identity: {identity}"), ""), ASKED);
        assert_eq!(said(&pod), [arg], "{identity}");
        let mounts = &sidecar_of(&pod)["volumeMounts"];
        assert_eq!((names(mounts).len(), &mounts[1]), (2, &mount));
        let volumes = pod["spec"]["volumes"].as_array().unwrap();
        assert_eq!(
            &volumes[..1],
            &[json!({"name": "svid", "csi": {"driver": "spiffe.csi.cert-manager.io"}})]
        );
        assert_eq!(volumes[1]["name"], "tidegate-token");
        assert_eq!(volumes.get(2).unwrap_or(&Value::Null), &volume);
        for other in [&pod["spec"]["initContainers"][0], &pod["spec"]["containers"][0]] {
            assert_eq!(other.get("volumeMounts"), None, "{other}");
        }
    }
}

/// The namespace's annotation is the Pod's wish, as long as it has none of its own.
#[test]
fn a_namespace_may_say_who_its_pods_are() {
    let of = "{labels: {tidegate.dev/inject: enabled}, annotations: {tidegate.dev/identity: workload-api, tidegate.dev/mtls: permissive}}";
    assert_eq!(
        said(&injected(&asking("a: b", ""), of)),
        [
            "--workload-api=unix:///spiffe-workload-api/spire-agent.sock",
            "--mtls=permissive"
        ]
    );
    let without = asking("tidegate.dev/identity: none, tidegate.dev/mtls: 'off'", "");
    assert_eq!(said(&injected(&without, of)), ["--mtls=off"]);
}

/// What a Pod's annotations say beside its identity, its container's probes, and what the sidecar is told.
#[test]
fn probes_are_let_be_where_that_is_asked_for() {
    let probe = ", ports: [{name: health, containerPort: 8090}, {containerPort: 3000}], readinessProbe: {httpGet: {port: health}}, \
                 livenessProbe: {grpc: {port: 8091}}, startupProbe: {tcpSocket: {port: 8092}}, lifecycle: {preStop: {httpGet: {port: 8093}}}";
    for (wishes, container, expected) in [
        ("mtls: strict", "", vec!["--mtls=strict"]),
        (
            "mtls: strict, tidegate.dev/plain-ports: probes",
            probe,
            vec!["--mtls=strict", "--plain-ports=8090,8091,8092,8093"],
        ),
        (
            "mtls: strict, tidegate.dev/plain-ports: 'probes,9090,8091', tidegate.dev/skip-inbound-ports: '8092-8093'",
            probe,
            vec!["--mtls=strict", "--plain-ports=8090,8091,9090"],
        ),
        (
            "mtls: strict, tidegate.dev/plain-ports: '8093,8092,8091,8090'",
            probe,
            vec!["--mtls=strict", "--plain-ports=8090,8091,8092,8093"],
        ),
        // Clear text is taken anyway, or nobody is asked.
        (
            "mtls: permissive, tidegate.dev/plain-ports: 'probes,9090'",
            probe,
            vec!["--mtls=permissive", "--plain-ports=9090"],
        ),
        ("plain-ports: probes", probe, vec![]),
        (
            "mtls: 'off', tidegate.dev/plain-ports: '9090', tidegate.dev/allow: /*",
            probe,
            vec!["--mtls=off"],
        ),
        // Others are asked, or the nodes may be let be.
        (
            "mtls: strict",
            ", livenessProbe: {httpGet: {port: 80, host: 192.0.2.1}}, readinessProbe: {exec: {command: [a]}}",
            vec!["--mtls=strict"],
        ),
        (
            "mtls: strict, tidegate.dev/skip-networks: 10.0.0.0/8",
            probe,
            vec!["--mtls=strict"],
        ),
        (
            "allow: '/ns/a/*, spiffe://b/c', tidegate.dev/backend-tls: 'true'",
            "",
            vec!["--backend-tls", "--allow=/ns/a/*", "--allow=spiffe://b/c"],
        ),
    ] {
        let pod = asking(
            &format!("tidegate.dev/identity: 'volume:svid', tidegate.dev/{wishes}"),
            container,
        );
        let pod = injected(&pod, ASKED);
        let mut said = said(&pod);
        said.retain(|arg| !arg.starts_with("--identity="));
        assert_eq!(said, expected, "{wishes}");
    }
}

#[test]
fn who_could_not_be_ready_is_left_as_it_is() {
    let probe = ", readinessProbe: {httpGet: {port: 3000}}, livenessProbe: {tcpSocket: {port: 3000}}";
    for (wishes, container, injection, part) in [
        (
            "identity: workload-api, tidegate.dev/mtls: strict",
            probe,
            Injection::Impossible,
            "ask port 3000 in clear text",
        ),
        (
            "identity: workload-api, tidegate.dev/mtls: strict, tidegate.dev/plain-ports: '9090'",
            probe,
            Injection::Impossible,
            "say tidegate.dev/plain-ports: probes",
        ),
        (
            "identity: 'volume:nowhere'",
            "",
            Injection::Impossible,
            "the volume \"nowhere\", which the Pod does not have",
        ),
        (
            "inject: localhost, tidegate.dev/outbound: '3001=a:80', tidegate.dev/identity: workload-api, tidegate.dev/mtls: strict",
            "",
            Injection::Impossible,
            "say tidegate.dev/inbound",
        ),
        (
            "inject: localhost, tidegate.dev/inbound: '3000=80', tidegate.dev/identity: workload-api, tidegate.dev/mtls: strict",
            probe,
            Injection::Impossible,
            "ask port 3000 in clear text",
        ),
        (
            "mtls: strict",
            "",
            Injection::Misunderstood,
            "mtls strict asks for mTLS, which takes an identity",
        ),
    ] {
        let (pod, _) = pod(&asking(&format!("tidegate.dev/{wishes}"), container));
        let decision = decide(&pod, "default", &namespace(ASKED), &template());
        assert_eq!(decision.injection(), injection, "{wishes}: {decision:?}");
        let Decision::Leave(why) = decision else {
            panic!("{wishes} was injected");
        };
        assert!(why.warnings().join("\n").contains(part), "{wishes}: {why:?}");
    }
}

/// Volumes that the level `restricted` takes (Kubernetes, Pod Security Standards).
#[test]
fn a_restricted_namespace_takes_identities() {
    let taken = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let of = "{labels: {pod-security.kubernetes.io/enforce: restricted}}";
    for identity in ["workload-api", "'secret:web'", "'volume:svid'"] {
        let pod = injected(
            &asking(
                &format!(
                    "tidegate.dev/inject: localhost, tidegate.dev/inbound: '8080=3000', tidegate.dev/mtls: strict, tidegate.dev/identity: {identity}"
                ),
                // The app itself is asked, past the sidecar.
                ", readinessProbe: {httpGet: {port: 3000}}",
            ),
            of,
        );
        for volume in pod["spec"]["volumes"].as_array().unwrap() {
            let kinds = volume.as_object().unwrap().keys().filter(|key| *key != "name");
            assert!(
                kinds.clone().count() == 1 && kinds.clone().all(|kind| taken.contains(&kind.as_str())),
                "{volume}"
            );
        }
        let security = &sidecar_of(&pod)["securityContext"];
        assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}));
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(names(&pod["spec"]["initContainers"]), ["tidegate"]);
        // No token, as it knows no Services; no way to ask for them either.
        assert_eq!(names(&sidecar_of(&pod)["volumeMounts"]).len(), 1);
        assert_eq!(said(&pod).last(), Some(&"--mtls=strict"));
    }
}
