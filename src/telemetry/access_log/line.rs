//! One line of the access log, in one of two formats.
//!
//! Text is nginx's and Apache's "combined" up to the user agent, so that what reads those reads this, and then
//! `name=value` (one line; broken here):
//! ```text
//! 203.0.113.7 - - [2026-01-05T10:11:12.123Z] "GET /a?b=1 HTTP/1.1" 200 5120 "-" "curl/8.5.0"
//!   outcome=answered host="shop.example" listener="http" route="shop" backend="shop-v2" endpoint=10.0.0.7:8080
//!   attempts=1 received=0 head=1.204ms total=2.311ms id="7d1f"
//! ```
//! JSON has one object per line (broken here too):
//! ```text
//! {"time":"2026-01-05T10:11:12.123Z","outcome":"answered","status":200,"method":"GET","host":"shop.example",
//!  "path":"/a?b=1","version":"HTTP/1.1","client":"203.0.113.7:54321","listener":"http","route":"shop",
//!  "backend":"shop-v2","endpoint":"10.0.0.7:8080","attempts":1,"request_bytes":0,"response_bytes":5120,
//!  "duration_ms":2.311,"head_ms":1.204,"user_agent":"curl/8.5.0","request_id":"7d1f"}
//! ```
//! `time` is when the request's head was complete, durations count from there. Status 0 (`-` in text) says that no
//! response was sent. What is not known is left out (`identity`, which is who the client's sidecar has shown to be by mTLS, `route`, `backend`, `endpoint`, `head_ms`, `user_agent`, `request_id`; `hedge`: `won` or `lost`;
//! in text also their `name=`). Bytes are of bodies. Text that others chose is escaped the same way in both formats (`\"`, `\\`,
//! `\n`, `\u001b`), and cut at [`MAX_PATH`] or [`MAX_TEXT`] bytes, marked by `…`.

use std::net::SocketAddr;

use super::super::ExchangeRecord;
use super::super::record::{Hedge, RelayRecord};
use super::address::Addresses;
use super::escape::escape;
use super::timestamp::Timestamp;

/// Bytes of path and query that are written.
pub const MAX_PATH: usize = 4096;

/// Bytes of any other text that are written.
pub const MAX_TEXT: usize = 512;

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// One object.
    #[default]
    Json,
    /// Combined log format and `name=value`.
    Text,
}

/// Formats lines; one per worker.
#[derive(Debug)]
pub struct LineWriter {
    format: Format,
    timestamp: Timestamp,
    addresses: Addresses,
}

impl LineWriter {
    /// A writer of lines in this format.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            timestamp: Timestamp::new(),
            addresses: Addresses::new(),
        }
    }

    /// Appends the line of an exchange, with its `\n`.
    pub fn write(&mut self, record: &ExchangeRecord<'_>, out: &mut Vec<u8>) {
        match self.format {
            Format::Json => self.json(record, out),
            Format::Text => self.text(record, out),
        }
    }

    /// Appends the line of a relay, with its `\n`.
    pub fn write_relay(&mut self, record: &RelayRecord<'_>, out: &mut Vec<u8>) {
        match self.format {
            Format::Json => self.relay_json(record, out),
            Format::Text => self.relay_text(record, out),
        }
    }

    fn relay_json(&mut self, record: &RelayRecord<'_>, out: &mut Vec<u8>) {
        put(out, "{\"time\":\"");
        self.timestamp.write(record.started_unix_us, out);
        put(out, "\",\"outcome\":\"");
        put(out, record.outcome.code());
        put(out, "\",\"protocol\":\"");
        put(out, record.protocol);
        put(out, "\"");
        put_known(out, ",\"host\":\"", record.host);
        self.json_way(&record.into(), out);
        for (name, value) in [
            (",\"request_bytes\":", record.request_bytes),
            (",\"response_bytes\":", record.response_bytes),
        ] {
            put(out, name);
            put_number(out, value);
        }
        for (name, micros) in [
            (",\"duration_ms\":", Some(record.duration_us)),
            (",\"connect_ms\":", record.connect_us.map(u64::from)),
            (",\"head_ms\":", record.head_us.map(u64::from)),
        ] {
            if let Some(micros) = micros {
                put(out, name);
                put_millis(out, micros);
            }
        }
        put(out, "}\n");
    }

    fn relay_text(&mut self, record: &RelayRecord<'_>, out: &mut Vec<u8>) {
        self.addresses.write_ip(record.client, out);
        put(out, " - - [");
        self.timestamp.write(record.started_unix_us, out);
        put(out, "] \"");
        put(out, record.protocol);
        if !record.host.is_empty() {
            put(out, " ");
            escape(record.host, MAX_TEXT, out);
        }
        put(out, "\" - ");
        put_number(out, record.response_bytes);
        put(out, " \"-\" \"-\" outcome=");
        put(out, record.outcome.code());
        self.text_way(&record.into(), out);
        put(out, " received=");
        put_number(out, record.request_bytes);
        for (name, micros) in [
            (" connect=", record.connect_us.map(u64::from)),
            (" head=", record.head_us.map(u64::from)),
            (" total=", Some(record.duration_us)),
        ] {
            if let Some(micros) = micros {
                put(out, name);
                put_millis(out, micros);
                put(out, "ms");
            }
        }
        put(out, "\n");
    }

    fn json(&mut self, record: &ExchangeRecord<'_>, out: &mut Vec<u8>) {
        put(out, "{\"time\":\"");
        self.timestamp.write(record.started_unix_us, out);
        put(out, "\",\"outcome\":\"");
        put(out, record.outcome.code());
        put(out, "\",\"status\":");
        put_number(out, u64::from(record.status));
        put_text(out, ",\"method\":\"", record.method.as_str(), MAX_TEXT);
        put_text(out, ",\"host\":\"", record.host, MAX_TEXT);
        put_text(out, ",\"path\":\"", record.path, MAX_PATH);
        put(out, ",\"version\":\"");
        put(out, version(record.version));
        put(out, "\"");
        self.json_way(&record.into(), out);
        put_known(out, ",\"hedge\":\"", record.hedge.word());
        put(out, ",\"request_bytes\":");
        put_number(out, record.request_bytes);
        put(out, ",\"response_bytes\":");
        put_number(out, record.response_bytes);
        put(out, ",\"duration_ms\":");
        put_millis(out, record.duration_us);
        if let Some(head_us) = record.head_us {
            put(out, ",\"head_ms\":");
            put_millis(out, u64::from(head_us));
        }
        put_known(out, ",\"user_agent\":\"", record.user_agent.unwrap_or_default());
        put_known(out, ",\"request_id\":\"", record.request_id.unwrap_or_default());
        put(out, "}\n");
    }

    fn text(&mut self, record: &ExchangeRecord<'_>, out: &mut Vec<u8>) {
        self.addresses.write_ip(record.client, out);
        put(out, " - - [");
        self.timestamp.write(record.started_unix_us, out);
        put(out, "] \"");
        escape(record.method.as_str(), MAX_TEXT, out);
        put(out, " ");
        escape(record.path, MAX_PATH, out);
        put(out, " ");
        put(out, version(record.version));
        put(out, "\" ");
        if record.status == 0 {
            put(out, "-");
        } else {
            put_number(out, u64::from(record.status));
        }
        put(out, " ");
        put_number(out, record.response_bytes);
        put_text(out, " \"-\" \"", record.user_agent.unwrap_or("-"), MAX_TEXT);
        put(out, " outcome=");
        put(out, record.outcome.code());
        put_text(out, " host=\"", record.host, MAX_TEXT);
        self.text_way(&record.into(), out);
        if record.hedge != Hedge::None {
            put(out, " hedge=");
            put(out, record.hedge.word());
        }
        put(out, " received=");
        put_number(out, record.request_bytes);
        if let Some(head_us) = record.head_us {
            put(out, " head=");
            put_millis(out, u64::from(head_us));
            put(out, "ms");
        }
        put(out, " total=");
        put_millis(out, record.duration_us);
        put(out, "ms");
        put_known(out, " id=\"", record.request_id.unwrap_or_default());
        put(out, "\n");
    }

    fn json_way(&mut self, way: &Way<'_>, out: &mut Vec<u8>) {
        put(out, ",\"client\":\"");
        self.addresses.write(way.client, out);
        put(out, "\"");
        put_known(out, ",\"identity\":\"", way.identity);
        put_text(out, ",\"listener\":\"", way.listener, MAX_TEXT);
        put_known(out, ",\"route\":\"", way.route);
        put_known(out, ",\"backend\":\"", way.backend);
        if let Some(endpoint) = way.endpoint {
            put(out, ",\"endpoint\":\"");
            self.addresses.write(endpoint, out);
            put(out, "\"");
        }
        put(out, ",\"attempts\":");
        put_number(out, u64::from(way.attempts));
    }

    fn text_way(&mut self, way: &Way<'_>, out: &mut Vec<u8>) {
        put_known(out, " identity=\"", way.identity);
        put_text(out, " listener=\"", way.listener, MAX_TEXT);
        put_known(out, " route=\"", way.route);
        put_known(out, " backend=\"", way.backend);
        if let Some(endpoint) = way.endpoint {
            put(out, " endpoint=");
            self.addresses.write(endpoint, out);
        }
        put(out, " attempts=");
        put_number(out, u64::from(way.attempts));
    }
}

/// From whom, over what, to whom: what lines of exchanges and of relays have in common.
struct Way<'a> {
    client: SocketAddr,
    listener: &'a str,
    route: &'a str,
    backend: &'a str,
    identity: &'a str,
    endpoint: Option<SocketAddr>,
    attempts: u8,
}

impl<'a> From<&ExchangeRecord<'a>> for Way<'a> {
    fn from(record: &ExchangeRecord<'a>) -> Self {
        Self {
            client: record.client,
            listener: record.listener,
            route: record.route,
            backend: record.backend,
            identity: record.identity,
            endpoint: record.endpoint,
            attempts: record.attempts,
        }
    }
}

impl<'a> From<&RelayRecord<'a>> for Way<'a> {
    fn from(record: &RelayRecord<'a>) -> Self {
        Self {
            client: record.client,
            listener: record.listener,
            route: record.route,
            backend: record.backend,
            identity: record.identity,
            endpoint: record.endpoint,
            attempts: record.attempts,
        }
    }
}

fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

/// `before` ends with the opening quote.
fn put_text(out: &mut Vec<u8>, before: &str, text: &str, limit: usize) {
    put(out, before);
    escape(text, limit, out);
    put(out, "\"");
}

fn put_known(out: &mut Vec<u8>, before: &str, text: &str) {
    if !text.is_empty() {
        put_text(out, before, text, MAX_TEXT);
    }
}

fn put_number(out: &mut Vec<u8>, number: u64) {
    put(out, itoa::Buffer::new().format(number));
}

/// Microseconds as milliseconds with three decimals.
fn put_millis(out: &mut Vec<u8>, us: u64) {
    put_number(out, us / 1000);
    let rest = us % 1000;
    let digit = |place: u64| b'0' + (rest / place % 10) as u8;
    out.extend_from_slice(&[b'.', digit(100), digit(10), digit(1)]);
}

fn version(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_09 => "HTTP/0.9",
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_11 => "HTTP/1.1",
        http::Version::HTTP_2 => "HTTP/2.0",
        http::Version::HTTP_3 => "HTTP/3.0",
        _ => "-",
    }
}

#[cfg(test)]
mod tests;
