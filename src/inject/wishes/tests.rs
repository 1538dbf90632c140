//! Wishes, in tables: what is read, and what is explained.

use super::*;

fn read(given: &[(Place, &str, &str)]) -> Result<Wishes, Vec<String>> {
    Wishes::read(given.iter().copied())
}

#[test]
fn the_pod_goes_before_its_namespace_and_that_before_defaults() {
    let wishes = read(&[
        (Place::Default, "grace", "1s"),
        (Place::Default, "proxy-cpu-request", "10m"),
        (Place::Default, "log-level", "warn"),
        (Place::Namespace, "log-level", "info"),
        (Place::Namespace, "grace", "nonsense that nobody reads"),
        (Place::Namespace, "something-else", "x"),
        (Place::Pod, "grace", "3s"),
    ])
    .unwrap();
    assert_eq!(wishes.grace, Some(Duration::from_secs(3)));
    assert_eq!(wishes.log_level.as_deref(), Some("info"));
    assert_eq!(wishes.cpu_request, Some("10m".parse().unwrap()));
}

#[test]
fn every_wish_is_read() {
    let wishes = read(&[
        (Place::Pod, "skip-inbound-ports", "9100, 4567-4568,"),
        (Place::Pod, "skip-outbound-ports", "25"),
        (Place::Pod, "skip-networks", "10.0.0.0/8,fd00::/8"),
        (Place::Pod, "opaque-ports", "3306,5432"),
        (Place::Pod, "proxy-cpu-request", "100m"),
        (Place::Pod, "proxy-cpu-limit", "1"),
        (Place::Pod, "proxy-memory-request", "32Mi"),
        (Place::Pod, "proxy-memory-limit", "32Mi"),
        (Place::Pod, "log-level", "info,tidegate=debug"),
        (Place::Pod, "grace", "1m30s"),
        (Place::Pod, "access-log", "true"),
        (Place::Pod, "outbound", "3001=shop/web:80, 3002=cart:8080"),
        (Place::Pod, "inbound", "8080=3000"),
        (Place::Pod, "identity", "workload-api"),
        (Place::Pod, "mtls", "strict"),
        (
            Place::Pod,
            "allow",
            "/ns/shop/*, spiffe://example.org/ns/bank/sa/teller",
        ),
        (Place::Pod, "plain-ports", "probes,9090"),
        (Place::Pod, "backend-tls", "true"),
    ])
    .unwrap();
    assert_eq!(
        wishes.skip_inbound_ports,
        ["9100".parse().unwrap(), "4567-4568".parse().unwrap()]
    );
    assert_eq!(
        (wishes.skip_networks.len(), wishes.opaque_ports),
        (2, Some(vec![3306, 5432]))
    );
    assert_eq!(
        (wishes.access_log, wishes.grace),
        (true, Some(Duration::from_secs(90)))
    );
    let targets: Vec<_> = wishes
        .outbound
        .iter()
        .map(|one| {
            (
                one.port,
                one.namespace.as_deref(),
                one.service.as_str(),
                one.service_port,
            )
        })
        .collect();
    assert_eq!(
        targets,
        [(3001, Some("shop"), "web", 80), (3002, None, "cart", 8080)]
    );
    assert_eq!(
        wishes.inbound,
        [Inbound {
            port: 8080,
            app: 3000
        }]
    );
    let allowed: Vec<String> = wishes.allow.iter().map(PeerName::to_string).collect();
    assert_eq!(allowed, ["/ns/shop/*", "spiffe://example.org/ns/bank/sa/teller"]);
    assert_eq!(
        (wishes.identity, wishes.mtls, wishes.backend_tls),
        (
            Some(Identity::WorkloadApi("spire-agent.sock".to_owned())),
            Some(Mtls::Strict),
            true
        )
    );
    assert_eq!(
        wishes.plain_ports,
        PlainPorts {
            ports: vec![9090],
            probes: true
        }
    );
}

#[test]
fn what_asks_for_mtls_takes_an_identity() {
    for (given, said) in [
        (
            &[("mtls", "strict")][..],
            "mtls strict asks for mTLS, which takes an identity",
        ),
        (
            &[("mtls", "permissive"), ("identity", "none")],
            "mtls permissive asks for",
        ),
        (
            &[("allow", "/ns/a/*")],
            "allow says who may connect by mTLS, which takes",
        ),
        (&[("mtls", "strict"), ("identity", "secret:a")], "-"),
        (&[("allow", "/ns/a/*"), ("identity", "volume:a")], "-"),
        (&[("allow", "/ns/a/*"), ("mtls", "off")], "-"),
        (&[("plain-ports", "probes")], "-"),
    ] {
        let given = given.iter().map(|(name, value)| (Place::Pod, *name, *value));
        let complaints = Wishes::read(given).unwrap().contradictions();
        match said {
            "-" => assert_eq!(complaints, [""; 0]),
            said => assert!(complaints[0].contains(said), "{complaints:?}"),
        }
    }
}

#[test]
fn what_cannot_be_understood_is_explained_all_at_once() {
    for (name, value, part) in [
        ("skip-outbound-port", "25", "did you mean skip-outbound-ports?"),
        ("x", "25", "known are skip-inbound-ports, "),
        ("skip-inbound-ports", "9-3", "ends before it begins"),
        ("skip-networks", "10.0.0.1", "is no network"),
        ("opaque-ports", "http", "is no port"),
        ("proxy-memory-limit", "64MB", "is no amount"),
        ("log-level", "loud", "is no level"),
        ("log-level", "[", "is no level"),
        ("grace", "30", "write 30s"),
        ("access-log", "yes", "neither true nor false"),
        ("outbound", "3001=http://shop", "leads nowhere"),
        ("outbound", "3001=Shop:80", "leads nowhere"),
        ("outbound", "0=shop:80", "is no port"),
        ("outbound", "1=a:1,1=b:1", "port 1 stands there twice"),
        ("inbound", "8080", "leads nowhere"),
        ("inbound", "80=80", "leads to itself"),
        ("identity", "unix:///run/agent.sock", "is no identity"),
        ("mtls", "true", "write strict, permissive or off"),
        ("allow", "ns/shop", "ns/shop"),
        ("plain-ports", "health", "is no port"),
        ("backend-tls", "yes", "neither true nor false"),
    ] {
        let said = read(&[(Place::Pod, name, value)]).unwrap_err().join(" ");
        assert!(said.contains(part), "{name}: {said}");
        assert!(
            said.contains(&format!("the annotation tidegate.dev/{name}")),
            "{said}"
        );
    }
    let two = read(&[(Place::Pod, "grace", "x"), (Place::Namespace, "log-level", "x")]).unwrap_err();
    assert!(
        two.len() == 2 && two[1].starts_with("the namespace's annotation tidegate.dev/log-level"),
        "{two:?}"
    );
    let said = read(&[
        (Place::Default, "proxy-cpu-request", "2"),
        (Place::Pod, "proxy-cpu-limit", "1"),
    ]);
    assert_eq!(
        said.unwrap_err(),
        ["proxy-cpu-request 2 is more than proxy-cpu-limit 1"]
    );
}
