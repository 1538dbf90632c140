//! Lines of the access log: the documented examples, and any text a client may send.

use proptest::prelude::*;
use serde_json::Value;

use super::super::super::Outcome;
use super::*;

fn example() -> ExchangeRecord<'static> {
    ExchangeRecord {
        outcome: Outcome::Answered,
        status: 200,
        version: http::Version::HTTP_11,
        client: "203.0.113.7:54321".parse().unwrap(),
        method: &http::Method::GET,
        host: "shop.example",
        path: "/a?b=1",
        listener: "http",
        route: "shop",
        backend: "shop-v2",
        identity: "",
        endpoint: Some("10.0.0.7:8080".parse().unwrap()),
        attempts: 1,
        hedge: Hedge::None,
        request_bytes: 0,
        response_bytes: 5120,
        started_unix_us: 1_767_607_872_123_456,
        duration_us: 2311,
        head_us: Some(1204),
        user_agent: Some("curl/8.5.0"),
        request_id: Some("7d1f"),
    }
}

fn nothing_known() -> ExchangeRecord<'static> {
    ExchangeRecord {
        outcome: Outcome::HeadTimeout,
        status: 0,
        client: "[2001:db8::1]:443".parse().unwrap(),
        host: "",
        path: "",
        route: "",
        backend: "",
        identity: "",
        endpoint: None,
        attempts: 0,
        hedge: Hedge::None,
        response_bytes: 0,
        duration_us: 10_000_007,
        head_us: None,
        user_agent: None,
        request_id: None,
        ..example()
    }
}

fn line(format: Format, record: &ExchangeRecord<'_>) -> String {
    let mut out = Vec::new();
    LineWriter::new(format).write(record, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn text_is_as_documented() {
    assert_eq!(
        line(Format::Text, &example()),
        "203.0.113.7 - - [2026-01-05T10:11:12.123Z] \"GET /a?b=1 HTTP/1.1\" 200 5120 \"-\" \"curl/8.5.0\" \
         outcome=answered host=\"shop.example\" listener=\"http\" route=\"shop\" backend=\"shop-v2\" \
         endpoint=10.0.0.7:8080 attempts=1 received=0 head=1.204ms total=2.311ms id=\"7d1f\"\n"
    );
    assert_eq!(
        line(Format::Text, &nothing_known()),
        "2001:db8::1 - - [2026-01-05T10:11:12.123Z] \"GET  HTTP/1.1\" - 0 \"-\" \"-\" outcome=head_timeout host=\"\" \
         listener=\"http\" attempts=0 received=0 total=10000.007ms\n"
    );
}

#[test]
fn json_is_as_documented() {
    assert_eq!(
        line(Format::Json, &example()),
        "{\"time\":\"2026-01-05T10:11:12.123Z\",\"outcome\":\"answered\",\"status\":200,\"method\":\"GET\",\
         \"host\":\"shop.example\",\"path\":\"/a?b=1\",\"version\":\"HTTP/1.1\",\"client\":\"203.0.113.7:54321\",\
         \"listener\":\"http\",\"route\":\"shop\",\"backend\":\"shop-v2\",\"endpoint\":\"10.0.0.7:8080\",\
         \"attempts\":1,\"request_bytes\":0,\"response_bytes\":5120,\"duration_ms\":2.311,\"head_ms\":1.204,\
         \"user_agent\":\"curl/8.5.0\",\"request_id\":\"7d1f\"}\n"
    );
    let sparse: Value = serde_json::from_str(&line(Format::Json, &nothing_known())).unwrap();
    for name in [
        "route",
        "backend",
        "endpoint",
        "head_ms",
        "user_agent",
        "request_id",
    ] {
        assert_eq!(sparse.get(name), None, "{name}");
    }
    assert_eq!(sparse["client"], "[2001:db8::1]:443");
}

#[test]
fn a_mapped_address_is_written_as_ipv4() {
    let record = ExchangeRecord {
        client: "[::ffff:192.0.2.1]:80".parse().unwrap(),
        ..example()
    };
    assert!(line(Format::Json, &record).contains("\"client\":\"192.0.2.1:80\""));
    assert!(line(Format::Text, &record).starts_with("192.0.2.1 - - "));
}

#[test]
fn a_line_is_bounded() {
    let long = "\u{1}".repeat(100_000);
    let record = ExchangeRecord {
        host: &long,
        path: &long,
        user_agent: Some(&long),
        request_id: Some(&long),
        ..example()
    };
    for format in [Format::Json, Format::Text] {
        // Each escaped byte takes six.
        assert!(line(format, &record).len() < 6 * (MAX_PATH + 3 * MAX_TEXT) + 600);
    }
}

proptest! {
    #[test]
    fn any_text_is_one_line_of_valid_json(
        host in any::<String>(),
        path in any::<String>(),
        user_agent in any::<Option<String>>(),
        request_id in any::<Option<String>>(),
        route in any::<String>(),
        status in any::<u16>(),
        duration_us in 0..1u64 << 50,
        started_unix_us in any::<u64>(),
        outcome in 0..Outcome::ALL.len(),
    ) {
        let record = ExchangeRecord {
            outcome: Outcome::ALL[outcome],
            status,
            host: &host,
            path: &path,
            route: &route,
            user_agent: user_agent.as_deref(),
            request_id: request_id.as_deref(),
            duration_us,
            started_unix_us,
            ..example()
        };
        let json = line(Format::Json, &record);
        prop_assert_eq!(json.find('\n'), Some(json.len() - 1));
        let read: Value = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(&read["host"], &host);
        prop_assert_eq!(&read["path"], &path);
        prop_assert_eq!(&read["outcome"], Outcome::ALL[outcome].code());
        prop_assert_eq!(read["status"].as_u64(), Some(u64::from(status)));
        prop_assert_eq!(read["duration_ms"].as_f64(), Some(duration_us as f64 / 1000.0));
        prop_assert_eq!(
            read.get("user_agent").and_then(Value::as_str),
            user_agent.as_deref().filter(|text| !text.is_empty())
        );

        let text = line(Format::Text, &record);
        prop_assert_eq!(text.find('\n'), Some(text.len() - 1));
        prop_assert!(!text.trim_end().chars().any(char::is_control));
        // Quotes that are not escaped come in pairs: a reader finds the fields again.
        let bytes = text.as_bytes();
        let mut open = false;
        let mut at = 0;
        while at < bytes.len() {
            match bytes[at] {
                b'\\' => at += 1,
                b'"' => open = !open,
                _ => {}
            }
            at += 1;
        }
        prop_assert!(!open);
    }
}
