//! Command lines, and the worlds that they mean.

use super::*;
use clap::Parser;

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    args: SidecarArgs,
}

fn parse(line: &str) -> Result<ServeArgs, clap::Error> {
    let words = ["sidecar"].into_iter().chain(line.split_whitespace());
    Line::try_parse_from(words).map(|line| line.args.serve)
}

#[test]
fn addresses_of_this_host_lead_to_endpoints_and_services() {
    let line = "--outbound 127.0.0.1:3000=10.0.0.1:80,10.0.0.2:80 --outbound 127.0.0.1:3001=shop/web:8080 \
                    --inbound :8080=127.0.0.1:3000 --manifests objects";
    let args = parse(line).unwrap();
    assert_eq!(check(&args), Ok(()));
    let world = world(&args, true);
    let names: Vec<_> = world.listeners.keys().map(ListenerName::as_str).collect();
    assert_eq!(
        names,
        [
            "inbound-0.0.0.0:8080",
            "outbound-127.0.0.1:3000",
            "outbound-127.0.0.1:3001"
        ]
    );
    assert_eq!(world.endpoints["outbound-127.0.0.1:3000"].len(), 2);
    let backend_of = |route: &str| world.routes[route].rules[0].backends[0].target.clone();
    assert_eq!(
        backend_of("outbound-127.0.0.1:3001"),
        BackendTarget::Backend("shop/web:8080".into())
    );
    assert!(!world.backends.contains_key("shop/web:8080"));
}

#[test]
fn transparent_listeners_are_there_for_each_family() {
    let args = parse("--transparent").unwrap();
    for (has_ipv6, addresses) in [
        (false, &["0.0.0.0:4143", "127.0.0.1:4140"][..]),
        (true, &["[::]:4143", "127.0.0.1:4140", "[::1]:4140"]),
    ] {
        let world = world(&args, has_ipv6);
        let found: Vec<_> = world
            .listeners
            .values()
            .map(|one| one.address.to_string())
            .collect();
        assert_eq!(found, addresses);
    }
    let ports = |line: &str| {
        let world = world(&parse(line).unwrap(), true);
        world.listeners["outbound"].limits.opaque_ports.clone()
    };
    assert_eq!(ports("--transparent"), ListenerLimits::default().opaque_ports);
    assert_eq!(ports("--transparent --opaque-ports 3306,99"), [3306, 99]);
}

#[test]
fn those_who_connect_are_asked_as_it_is_wished() {
    for (line, mode, allow, ports) in [
        ("", None, "", &[][..]),
        ("--identity i", Some(MtlsMode::Permissive), "/*", &[]),
        ("--identity i --mtls off", None, "", &[]),
        (
            "--identity i --mtls strict --allow /ns/a/* --allow spiffe://b/c --plain-ports 1,2",
            Some(MtlsMode::Strict),
            "/ns/a/* spiffe://b/c",
            &[1, 2],
        ),
        (
            "--identity-cert c --identity-key k --identity-ca t",
            Some(MtlsMode::Permissive),
            "/*",
            &[],
        ),
    ] {
        let args = parse(&format!("--transparent --inbound :8080=127.0.0.1:3000 {line}")).unwrap();
        assert_eq!(check(&args), Ok(()), "{line}");
        let world = world(&args, false);
        for (name, listener) in &world.listeners {
            let asked = listener.limits.mtls.as_ref();
            if name.as_str() == "outbound" {
                assert_eq!(asked, None);
                continue;
            }
            assert_eq!(asked.map(|asked| asked.mode), mode, "{name} {line}");
            let names = asked.map_or(&[][..], |asked| &asked.peers.0);
            let names: Vec<_> = names.iter().map(PeerName::to_string).collect();
            assert_eq!(names.join(" "), allow, "{line}");
            assert_eq!(asked.map_or(&[][..], |asked| &asked.plain_ports), ports, "{line}");
        }
    }
    let args = parse("--identity i --identity-key k").unwrap();
    let files = identity_files(&args).unwrap();
    let shown = [files.cert, files.key, files.ca].map(|path| path.display().to_string());
    assert_eq!(shown, ["i/tls.crt", "k", "i/ca.crt"]);
}

#[test]
fn what_makes_no_sense_is_explained() {
    for (line, part) in [
        ("--outbound 127.0.0.1:3000", "write where it listens"),
        ("--outbound 127.0.0.1:3000=web/", "is no port of a Service"),
        ("--outbound 127.0.0.1:3000=example.com", "write an IP address"),
        ("--grace soon", "soon"),
        ("--allow web", "begins with spiffe://"),
        ("--transparent --workload-api /run/a.sock", "begins with unix:/"),
        (
            "--transparent --workload-api unix:///a --identity b",
            "cannot be used with",
        ),
    ] {
        let said = parse(line).unwrap_err().to_string();
        assert!(said.contains(part), "{line}: {said}");
    }
    for (line, part) in [
        ("", "there is nothing to serve"),
        ("--outbound 127.0.0.1:1=a/b:2", "where the Service a/b:2 is"),
        ("--transparent --backend-tls", "nobody says which there are"),
        ("--transparent --mtls strict", "mTLS needs an identity"),
        (
            "--transparent --identity-cert a",
            "a chain, a key and a trust bundle",
        ),
        ("--transparent --allow /ns/a/*", "mTLS, which is off"),
        (
            "--transparent --identity i --mtls off --plain-ports 1",
            "mTLS, which is off",
        ),
    ] {
        let said = check(&parse(line).unwrap()).unwrap_err();
        assert!(said.contains(part), "{line}: {said}");
    }
}
