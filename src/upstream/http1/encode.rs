//! The request's bytes: the head, and the framing of a body (RFC 9112 §3, §7).

use http::header::{HOST, TE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method};

/// How a request's body is told from what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// There is none.
    Empty,
    /// So many bytes; the fields say so already.
    Sized(u64),
    /// In chunks, which [`head`] announces.
    Chunked,
}

/// Appends a request's head. `host` goes instead of a `Host` among the fields.
pub fn head(
    out: &mut Vec<u8>,
    method: &Method,
    path: &PathAndQuery,
    host: Option<&HeaderValue>,
    headers: &HeaderMap,
    length: BodyLength,
) {
    for part in [method.as_str(), " ", path.as_str(), " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    if let Some(host) = host {
        field(out, HOST.as_str(), host);
    }
    for (name, value) in headers {
        if host.is_none() || name != HOST {
            field(out, name.as_str(), value);
        }
        if name == TE {
            // It is for the next hop alone (RFC 9110 §10.1.4).
            out.extend_from_slice(b"connection: te\r\n");
        }
    }
    if length == BodyLength::Chunked {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the line before a chunk of so many bytes, which must not be 0.
pub fn chunk_size(out: &mut Vec<u8>, bytes: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - bytes.leading_zeros()).div_ceil(4);
    for place in (0..digits).rev() {
        out.push(DIGITS[bytes >> (4 * place) & 0xf]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the end of a body in chunks.
pub fn last_chunk(out: &mut Vec<u8>, trailers: &HeaderMap) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        field(out, name.as_str(), value);
    }
    out.extend_from_slice(b"\r\n");
}

fn field(out: &mut Vec<u8>, name: &str, value: &HeaderValue) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_a_line_fields_and_an_empty_line() {
        let headers = HeaderMap::from_iter([
            (HOST, HeaderValue::from_static("client.example")),
            (http::header::ACCEPT, HeaderValue::from_static("*/*")),
            (TE, HeaderValue::from_static("trailers")),
        ]);
        let written = |host, length| {
            let mut out = Vec::new();
            let path = PathAndQuery::from_static("/a?b");
            head(&mut out, &Method::PUT, &path, host, &headers, length);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            written(None, BodyLength::Empty),
            "PUT /a?b HTTP/1.1\r\nhost: client.example\r\naccept: */*\r\nte: trailers\r\nconnection: te\r\n\r\n"
        );
        assert_eq!(
            written(Some(&HeaderValue::from_static("pod")), BodyLength::Chunked),
            "PUT /a?b HTTP/1.1\r\nhost: pod\r\naccept: */*\r\nte: trailers\r\nconnection: te\r\ntransfer-encoding: chunked\r\n\r\n"
        );
    }

    #[test]
    fn chunks_are_measured_in_hexadecimal() {
        for (bytes, line) in [
            (1, "1\r\n"),
            (15, "f\r\n"),
            (16, "10\r\n"),
            (0xabcde, "abcde\r\n"),
        ] {
            let mut out = Vec::new();
            chunk_size(&mut out, bytes);
            assert_eq!(out, line.as_bytes());
        }
        let mut out = Vec::new();
        let trailers = HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("\"x\""))]);
        last_chunk(&mut out, &trailers);
        assert_eq!(out, b"0\r\netag: \"x\"\r\n\r\n");
    }
}
