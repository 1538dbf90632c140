//! Tables of fields before and after.

use http::Uri;

use super::*;

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let parse = |(name, value): &(&str, &str)| {
        (
            HeaderName::try_from(*name).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        )
    };
    let mut headers = HeaderMap::new();
    for (name, value) in fields.iter().map(parse) {
        headers.append(name, value);
    }
    headers
}

fn forward(fields: &[(&str, &str)], trusted: bool) -> Result<HeaderMap, HeaderRefusal> {
    let mut headers = map(fields);
    let client = HeaderValue::from_static("192.0.2.1");
    let by = ForwardedBy {
        client: &client,
        address: "192.0.2.1".parse().unwrap(),
        trusted,
        scheme: "http",
        identity: None,
    };
    let survey = Survey::of(&headers);
    let host = host_of(&Uri::from_static("/"), Version::HTTP_11, &headers)?;
    forward_request(&mut headers, survey, &host, &by, Version::HTTP_11)?;
    Ok(headers)
}

fn all(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers
        .get_all(name)
        .iter()
        .map(|value| value.to_str().unwrap().to_owned())
        .collect()
}

#[test]
fn hosts_are_read_strictly() {
    let read = |uri: &str, version, fields: &[(&str, &str)]| {
        host_of(&uri.parse().unwrap(), version, &map(fields)).map(|host| host.name().to_owned())
    };
    let (v10, v11, v2) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
    let refused = Err(HeaderRefusal::Host);
    for (uri, version, fields, expected) in [
        ("/", v11, &[("host", "A.Example:80")][..], Ok("a.example")),
        ("/", v11, &[("host", "a.example.")], Ok("a.example")),
        ("/", v11, &[("host", "[::1]:8080")], Ok("[::1]")),
        (
            "http://b.example/",
            v11,
            &[("host", "a.example")],
            Ok("b.example"),
        ),
        ("http://b.example/", v2, &[], Ok("b.example")),
        ("http://b.example/", v2, &[("host", "B.example")], Ok("b.example")),
        ("/", v10, &[], Ok("")),
        ("http://b.example/", v2, &[("host", "a.example")], refused),
        ("/", v11, &[], refused),
        ("/", v11, &[("host", "a"), ("host", "a")], refused),
        ("/", v11, &[("host", "a,b")], refused),
        ("/", v11, &[("host", "u@a")], refused),
        ("/", v11, &[("host", "a/b")], refused),
        ("/", v11, &[("host", "a:x")], refused),
        ("/", v11, &[("host", "a:123456")], refused),
        ("/", v11, &[("host", "[::1")], refused),
        ("/", v11, &[("host", "[zz]")], refused),
        ("/", v11, &[("host", "a[b]")], refused),
        ("/", v11, &[("host", "a%41")], refused),
        ("/", v11, &[("host", "")], refused),
    ] {
        assert_eq!(
            read(uri, version, fields),
            expected.map(str::to_owned),
            "{uri} {version:?} {fields:?}"
        );
    }
}

#[test]
fn what_belongs_to_one_hop_stays_there() {
    let headers = forward(
        &[
            ("host", "a"),
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip, trailers"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("transfer-encoding", "chunked"),
            ("expect", "100-Continue"),
            ("x-kept", "1"),
        ],
        false,
    )
    .unwrap();
    let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "host",
            "te",
            "via",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-kept"
        ]
    );
    assert_eq!(all(&headers, "te"), ["trailers"]);
    assert_eq!(all(&headers, "via"), ["1.1 tidegate"]);
}

#[test]
fn what_could_confuse_the_endpoint_is_refused() {
    let looping = "1.1 tidegate, ".repeat(9) + "1.1 tidegate";
    for (field, refusal) in [
        (("connection", "content-length"), HeaderRefusal::Connection),
        (("connection", "x-forwarded-for"), HeaderRefusal::Connection),
        (("connection", "host"), HeaderRefusal::Connection),
        (("connection", "a b"), HeaderRefusal::Connection),
        (("content_length", "1"), HeaderRefusal::Alias),
        (("x_forwarded_for", "1"), HeaderRefusal::Alias),
        (("expect", "200-ok"), HeaderRefusal::Expect),
        (("via", looping.as_str()), HeaderRefusal::Loop),
    ] {
        assert_eq!(forward(&[("host", "a"), field], false), Err(refusal), "{field:?}");
    }
    assert!(
        forward(
            &[("host", "a"), ("my_field", "1"), ("via", "1.1 tidegate")],
            false
        )
        .is_ok()
    );
}

#[test]
fn a_field_of_trust_is_taken_off_whatever_its_length_and_whatever_else_is_there() {
    for name in [
        "x-forwarded-a",
        "x-forwarded-prefix",
        "x-forwarded-client-cert",
        "x-forwarded-tls-client-cert-info",
    ] {
        let headers = forward(&[("host", "a"), (name, "forged")], false).unwrap();
        assert!(!headers.contains_key(name), "{name}");
    }
    let own = [("host", "a"), ("x-forwarded-client-cert", "forged")];
    assert!(
        !forward(&own, true)
            .unwrap()
            .contains_key("x-forwarded-client-cert")
    );
}

#[test]
fn only_a_trusted_proxy_is_believed() {
    let fields = [
        ("host", "a"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop"),
        ("x-forwarded-port", "1"),
        ("x-forwarded-user", "root"),
        ("x-real-ip", "203.0.113.9"),
        ("forwarded", "for=203.0.113.9"),
    ];
    let headers = forward(&fields, false).unwrap();
    assert_eq!(all(&headers, "x-forwarded-for"), ["192.0.2.1"]);
    assert_eq!(all(&headers, "x-forwarded-proto"), ["http"]);
    assert_eq!(all(&headers, "x-forwarded-host"), ["a"]);
    for gone in ["x-forwarded-port", "x-forwarded-user", "x-real-ip", "forwarded"] {
        assert!(!headers.contains_key(gone), "{gone}");
    }
    let headers = forward(&fields, true).unwrap();
    assert_eq!(all(&headers, "x-forwarded-for"), ["203.0.113.9, 192.0.2.1"]);
    assert_eq!(all(&headers, "x-forwarded-proto"), ["https"]);
    assert_eq!(all(&headers, "x-forwarded-host"), ["shop"]);
    assert_eq!(
        all(&headers, "forwarded"),
        ["for=203.0.113.9", "for=192.0.2.1;host=\"a\";proto=http"]
    );
}

#[test]
fn an_upgrade_is_asked_for_by_the_rules_or_not_at_all() {
    let good = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
    let asked =
        |method, version, fields: &[(&str, &str)]| upgrade_of(&method, version, &map(fields)).is_some();
    assert!(asked(Method::GET, Version::HTTP_11, &good));
    assert!(!asked(Method::POST, Version::HTTP_11, &good));
    assert!(!asked(Method::GET, Version::HTTP_10, &good));
    assert!(!asked(Method::GET, Version::HTTP_11, &[good[1]]));
    assert!(!asked(
        Method::GET,
        Version::HTTP_11,
        &[good[0], good[1], ("content-length", "1")]
    ));
    assert!(!asked(
        Method::GET,
        Version::HTTP_11,
        &[good[0], ("upgrade", "h2c")]
    ));
    assert!(!asked(
        Method::GET,
        Version::HTTP_11,
        &[good[0], good[1], ("upgrade", "h2c")]
    ));
}

#[test]
fn a_websocket_is_named_by_the_rules_or_not_at_all() {
    for (upgrade, connection, expected) in [
        (&["websocket"][..], "Upgrade", true),
        (&["WebSocket"], "keep-alive, upgrade", true),
        (&["websocket"], "keep-alive", false),
        (&["h2c"], "upgrade", false),
        (&["websocket", "h2c"], "upgrade", false),
        (&[], "upgrade", false),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static(connection));
        for protocol in upgrade {
            headers.append(UPGRADE, HeaderValue::from_static(protocol));
        }
        assert_eq!(websocket_of(&headers).is_some(), expected, "{headers:?}");
    }
}

#[test]
fn responses_lose_what_belongs_to_one_hop_and_gain_a_date() {
    let mut headers = map(&[
        ("connection", "close, x-mine"),
        ("x-mine", "1"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("content-length", "5"),
        ("etag", "a"),
    ]);
    let survey = ResponseSurvey::of(&headers);
    forward_response(&mut headers, survey, || HeaderValue::from_static("now"));
    let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["date", "etag"]);
    let mut headers = map(&[("date", "then"), ("content-length", "5")]);
    let survey = ResponseSurvey::of(&headers);
    forward_response(&mut headers, survey, || unreachable!("it is dated"));
    assert_eq!(headers, map(&[("date", "then"), ("content-length", "5")]));
}

#[test]
fn trailers_carry_no_framing_and_no_trust() {
    let mut trailers = map(&[
        ("grpc-status", "0"),
        ("content-length", "1"),
        ("x-forwarded-for", "1"),
        ("x_forwarded_for", "1"),
        ("set-cookie", "a=1"),
    ]);
    forward_trailers(&mut trailers);
    assert_eq!(trailers, map(&[("grpc-status", "0")]));
}
