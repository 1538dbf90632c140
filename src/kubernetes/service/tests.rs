//! What annotations and fields of a Service make of its ports.

use std::time::Duration;

use super::*;
use crate::kubernetes::testing::{Fixture, WEB_AND_EDGE, route_with_rule};
use crate::model::{
    AdaptiveConcurrency, AffinityCookie, Balance, Concurrency, HashKey, HedgePolicy, LoadReports, Locality,
    PeerName,
};

fn with_service(metadata: &str, port: &str) -> Fixture {
    let service = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: web, {metadata}}}\nspec: {{ports: [{{port: 80, {port}}}]}}\n---\n"
    );
    Fixture::new(&(WEB_AND_EDGE.to_owned() + &service + &route_with_rule("")))
}

#[test]
fn annotations_give_the_policy() {
    let fixture = with_service(
        "annotations: {tidegate.dev/balance: round-robin, tidegate.dev/protocol: h2c, tidegate.dev/connect-timeout: 500ms, \
             tidegate.dev/max-in-flight: '7', tidegate.dev/slow-start: 30s, tidegate.dev/ejection: off, tidegate.dev/locality: zone, tidegate.dev/hash: 'header:X-User', \
             tidegate.dev/affinity: 'cookie:route balanced', tidegate.dev/concurrency: '200', tidegate.dev/load-reports: 'ask, pass-on', other/balance: x}",
        "",
    );
    let mut expected = Backend::new("default/web:80".into());
    expected.balance = Balance::RoundRobin;
    expected.protocol = BackendProtocol::H2c;
    expected.connect_timeout = Duration::from_millis(500);
    expected.limits.max_in_flight = 7;
    expected.slow_start = Duration::from_secs(30);
    expected.ejection = None;
    expected.locality = Locality::Zone;
    expected.hash = HashKey::parse("header:x-user").unwrap();
    expected.affinity = Some(Affinity {
        by: AffinityBy::Cookie(AffinityCookie {
            name: "route".into(),
            ..AffinityCookie::default()
        }),
        mode: AffinityMode::Balanced,
    });
    expected.concurrency = Some(Concurrency::Fixed(200));
    expected.load_reports = LoadReports {
        read: true,
        ask: true,
        pass_on: true,
    };
    assert_eq!(*fixture.world.backends["default/web:80"], expected);
    assert_eq!(fixture.rejects(), Vec::<String>::new());
}

#[test]
fn overload_hedging_and_reports_by_annotation() {
    let hedge = |percent| {
        Some(HedgePolicy {
            percent,
            ..HedgePolicy::default()
        })
    };
    for (annotation, expected) in [
        ("hedge: 'on'", hedge(2)),
        ("hedge: 'true'", hedge(2)),
        ("hedge: 'off'", None),
        ("hedge: 10%", hedge(10)),
        ("hedge: 0%", hedge(0)),
        ("hedge: 100%", hedge(100)),
    ] {
        let fixture = with_service(&format!("annotations: {{tidegate.dev/{annotation}}}"), "");
        let backend = &fixture.world.backends["default/web:80"];
        assert_eq!(backend.hedge, expected, "{annotation}");
        assert_eq!(fixture.rejects(), Vec::<String>::new());
    }
    let adaptive = Concurrency::Adaptive(AdaptiveConcurrency::default());
    for (annotation, expected) in [
        ("adaptive", Some(adaptive)),
        ("none", None),
        ("'1'", Some(Concurrency::Fixed(1))),
        ("'1000000'", Some(Concurrency::Fixed(1_000_000))),
    ] {
        let fixture = with_service(
            &format!("annotations: {{tidegate.dev/concurrency: {annotation}}}"),
            "",
        );
        assert_eq!(fixture.world.backends["default/web:80"].concurrency, expected);
        assert_eq!(fixture.rejects(), Vec::<String>::new());
    }
    for (annotation, read, ask, pass_on) in [
        ("off", false, false, false),
        ("ask", true, true, false),
        ("pass-on", true, false, true),
        ("'off,pass-on , ask'", false, true, true),
    ] {
        let fixture = with_service(
            &format!("annotations: {{tidegate.dev/load-reports: {annotation}}}"),
            "",
        );
        let expected = LoadReports { read, ask, pass_on };
        assert_eq!(fixture.world.backends["default/web:80"].load_reports, expected);
        assert_eq!(fixture.rejects(), Vec::<String>::new());
    }
}

#[test]
fn what_is_tied_to_an_endpoint_is_not_hedged() {
    let tied = with_service(
        "annotations: {tidegate.dev/affinity: source, tidegate.dev/hedge: 'on'}",
        "",
    );
    let backend = &tied.world.backends["default/web:80"];
    assert!(backend.affinity.is_some() && backend.hedge.is_none());
    let rejects = tied.rejects();
    assert!(
        rejects[0].contains("metadata.annotations[tidegate.dev/hedge]: hedging sends requests"),
        "{rejects:?}"
    );
}

#[test]
fn each_annotation_stands_in_the_documents() {
    let page = include_str!("../../../docs/balancing.md");
    let (_, section) = page.split_once("## In Kubernetes").unwrap();
    let rows = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `tidegate.dev/"));
    let named: Vec<&str> = rows.filter_map(|row| Some(row.split_once('`')?.0)).collect();
    assert_eq!(named, annotations::KNOWN);
}

#[test]
fn a_client_stays_where_its_service_says_so() {
    let by_source = Some(Affinity {
        by: AffinityBy::Source,
        mode: AffinityMode::Strong,
    });
    let service = |spec: &str, annotations: &str| {
        let service = format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: web, annotations: {{{annotations}}}}}\nspec: {{ports: [{{port: 80}}], {spec}}}\n---\n"
        );
        let fixture = Fixture::new(&(WEB_AND_EDGE.to_owned() + &service + &route_with_rule("")));
        fixture.world.backends["default/web:80"].affinity.clone()
    };
    assert_eq!(service("sessionAffinity: ClientIP", ""), by_source);
    assert_eq!(service("sessionAffinity: None", ""), None);
    let header = service(
        "sessionAffinity: ClientIP",
        "tidegate.dev/affinity: 'header:x-user'",
    );
    assert_eq!(header.unwrap().by, AffinityBy::Header("x-user".parse().unwrap()));
}

#[test]
fn a_name_outside_is_followed_where_that_is_asked_for() {
    let world = |external_names, name: &str| {
        let service = format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{type: ExternalName, externalName: '{name}', ports: [{{port: 80}}]}}\n---\n"
        );
        let settings = crate::kubernetes::Settings {
            external_names,
            ..crate::kubernetes::Settings::default()
        };
        let yaml = WEB_AND_EDGE.to_owned() + &service + &route_with_rule("");
        let fixture = Fixture::with(settings, &yaml);
        let backend = fixture.world.backends.get("default/web:80");
        let named: Option<Vec<String>> =
            backend.map(|backend| backend.named.iter().map(ToString::to_string).collect());
        (named.unwrap_or_default(), fixture.rejects())
    };
    let (named, rejects) = world(true, "Shop.Example.com");
    assert_eq!(
        (&named[..], rejects.len()),
        (&["shop.example.com:80".to_owned()][..], 0)
    );
    for (external_names, name, reason) in [
        (
            false,
            "shop.example.com",
            "only with --external-names is it followed",
        ),
        (
            true,
            "10.0.0.1",
            "externalName \"10.0.0.1\": it is neither an address nor a name",
        ),
    ] {
        let (named, rejects) = world(external_names, name);
        assert_eq!(named, Vec::<String>::new());
        assert!(
            rejects.iter().any(|reject| reject.contains(reason)),
            "{rejects:?}"
        );
    }
}

#[test]
fn a_bad_annotation_is_named_and_the_default_used() {
    for (annotation, reason) in [
        (
            "balance: best",
            "\"best\" is none of least-latency, least-request, maglev, random, ring-hash, round-robin; least-latency is used",
        ),
        (
            "protocol: http3",
            "\"http3\" is neither http1 nor h2c; appProtocol is used",
        ),
        (
            "connect-timeout: 0s",
            "a connection takes longer than no time; 2s is used",
        ),
        (
            "connect-timeout: '5'",
            "\"5\" is no duration like 500ms, 10s or 1m30s (GEP-2257); 2s is used",
        ),
        ("slow-start: 2h", "2h is longer than an hour; none is used"),
        (
            "max-in-flight: '0'",
            "\"0\" is no number from 1 to 4294967295; 10000 is used",
        ),
        ("ejection: maybe", "\"maybe\" is neither on nor off; on is used"),
        (
            "hash: query",
            "\"query\" is none of source, path, header:NAME, cookie:NAME; source is used",
        ),
        (
            "locality: near",
            "\"near\" is none of hints, off, zone; hints is used",
        ),
        (
            "affinity: path",
            "\"path\" is none of cookie, cookie:NAME, source, header:NAME; there is no affinity",
        ),
        (
            "hedge: 5",
            "\"5\" is none of on, off and a whole percentage like 5%; off is used",
        ),
        (
            "hedge: 101%",
            "\"101%\" is none of on, off and a whole percentage like 5%; off is used",
        ),
        (
            "concurrency: '0'",
            "\"0\" is none of adaptive, none and a number from 1 to 1000000; none is used",
        ),
        (
            "concurrency: some",
            "\"some\" is none of adaptive, none and a number from 1 to 1000000; none is used",
        ),
        (
            "load-reports: 'ask, always'",
            "\"always\" is none of ask, off, pass-on; reports are read and not asked for",
        ),
        (
            "load-reports: 'off, ask'",
            "off and ask: nobody would get what is asked for; reports are read and not asked for",
        ),
        (
            "hegde: 'on'",
            "there is no such annotation of a Service; did you mean tidegate.dev/hedge?",
        ),
        (
            "balanc: random",
            "there is no such annotation of a Service; did you mean tidegate.dev/balance?",
        ),
    ] {
        let fixture = with_service(&format!("annotations: {{tidegate.dev/{annotation}}}"), "");
        let name = annotation.split_once(':').unwrap().0;
        assert_eq!(
            fixture.rejects(),
            [format!(
                "test: Service default/web: metadata.annotations[tidegate.dev/{name}]: {reason}"
            )]
        );
        assert_eq!(
            *fixture.world.backends["default/web:80"],
            Backend::new("default/web:80".into())
        );
    }
}

#[test]
fn what_is_to_go_by_mtls_never_goes_in_clear_text() {
    for (annotations, peers, reason) in [
        ("mtls: 'true'", Some("/ns/default/*"), ""),
        ("mtls: 'false'", None, ""),
        ("mtls: 'false', tidegate.dev/mtls-peers: /a/b", None, ""),
        (
            "mtls-peers: '/ns/shop/sa/web, spiffe://example.org/*'",
            Some("/ns/shop/sa/web spiffe://example.org/*"),
            "",
        ),
        (
            "mtls: 'yes'",
            Some("/ns/default/*"),
            "[tidegate.dev/mtls]: \"yes\" is neither true nor false; it is taken for true",
        ),
        (
            "mtls-peers: web",
            Some(""),
            "[tidegate.dev/mtls-peers]: \"web\" is no SPIFFE id: it begins with spiffe://, or with a / for our own \
                 trust domain; until it can be read nothing is sent there",
        ),
    ] {
        let fixture = with_service(&format!("annotations: {{tidegate.dev/{annotations}}}"), "");
        let mtls = fixture.world.backends["default/web:80"].mtls.as_ref();
        let names = mtls.map(|peers| {
            peers
                .0
                .iter()
                .map(PeerName::to_string)
                .collect::<Vec<_>>()
                .join(" ")
        });
        assert_eq!(names.as_deref(), peers, "{annotations}");
        let expected: Vec<_> = [reason]
            .iter()
            .filter(|reason| !reason.is_empty())
            .map(|reason| format!("test: Service default/web: metadata.annotations{reason}"))
            .collect();
        assert_eq!(fixture.rejects(), expected, "{annotations}");
    }
}

#[test]
fn app_protocol_says_what_is_spoken() {
    for (app_protocol, protocol) in [
        ("kubernetes.io/h2c", Some(BackendProtocol::H2c)),
        ("kubernetes.io/ws", Some(BackendProtocol::Http1)),
        ("kubernetes.io/wss", Some(BackendProtocol::Http1)),
        ("http", Some(BackendProtocol::Http1)),
        ("example.com/own", Some(BackendProtocol::Http1)),
        ("https", None),
    ] {
        let fixture = with_service("namespace: default", &format!("appProtocol: {app_protocol}"));
        let backend = fixture.world.backends.get("default/web:80");
        assert_eq!(
            backend.map(|backend| backend.protocol),
            protocol,
            "{app_protocol}"
        );
        assert_eq!(fixture.rejects().len(), usize::from(protocol.is_none()));
    }
    let fixture = with_service(
        "annotations: {tidegate.dev/protocol: http1}",
        "appProtocol: https",
    );
    assert_eq!(fixture.rejects(), Vec::<String>::new());
}
