//! The response's head: read by `httparse`, and what it says of the body and of the connection (RFC 9112 §6.3, §9.3).
//!
//! Where a head can be read in two ways it is refused: what stands behind an endpoint may be written by others, and a
//! response that we and the next reader cut at different places would be one more response for somebody else.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};

use super::Error;

/// Fields of a response; more are refused.
const MAX_FIELDS: usize = 100;
/// Room for fields that are added on the way to the client.
const ADDED: usize = 2;

/// A response's head.
#[derive(Debug)]
pub struct Head {
    /// The status.
    pub status: StatusCode,
    /// The version, HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// The fields as they came.
    pub headers: HeaderMap,
    /// Its length in bytes.
    pub bytes: usize,
    /// Which of the fields that matter here there are: to look for one that is not there costs as much.
    there: There,
}

#[derive(Clone, Copy, Debug, Default)]
struct There {
    connection: bool,
    content_length: bool,
    transfer_encoding: bool,
}

/// Reads a head; none when it is not whole.
pub fn read(bytes: &Bytes) -> Result<Option<Head>, Error> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let (response, parsed) = parse(bytes, &mut fields);
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Error::TooLarge),
        Err(_) => return Err(Error::Malformed("its head is no HTTP/1 head")),
    };
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
    let mut headers = HeaderMap::with_capacity(response.headers.len() + ADDED);
    let mut there = There::default();
    for field in response.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        // The value is of these bytes, so that nothing is copied.
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value));
        match (name, value) {
            (Ok(name), Ok(value)) => {
                there.connection |= name == CONNECTION;
                there.content_length |= name == CONTENT_LENGTH;
                there.transfer_encoding |= name == TRANSFER_ENCODING;
                headers.append(name, value)
            }
            _ => return Err(Error::Malformed("a field of its head is not allowed")),
        };
    }
    Ok(Some(Head {
        status: status.ok_or(Error::Malformed("its status is no status"))?,
        version: if response.version == Some(0) {
            Version::HTTP_10
        } else {
            Version::HTTP_11
        },
        headers,
        bytes: length,
        there,
    }))
}

/// Whether the bytes hold a whole head, or none that ever will be.
pub fn is_whole(bytes: &[u8]) -> bool {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    !matches!(parse(bytes, &mut fields).1, Ok(httparse::Status::Partial))
}

fn parse<'h, 'b>(
    bytes: &'b [u8],
    fields: &'h mut [MaybeUninit<httparse::Header<'b>>],
) -> (httparse::Response<'h, 'b>, httparse::Result<usize>) {
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let parsed = config.parse_response_with_uninit_headers(&mut response, bytes, fields);
    (response, parsed)
}

/// How a response's body is told from what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// There is none.
    Empty,
    /// So many bytes.
    Sized(u64),
    /// In chunks.
    Chunked,
    /// The connection's end is the body's.
    Close,
}

/// How the body ends, and whether the connection may carry another exchange after it.
///
/// # Errors
/// A length that is no number or that differs from another; a coding that was not asked for.
pub fn framing(head: &Head, to_head_request: bool) -> Result<(BodyEnd, bool), Error> {
    let persistent = persists(head);
    let bodiless = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if to_head_request || bodiless {
        return Ok((BodyEnd::Empty, persistent));
    }
    let length = if head.there.content_length {
        content_length(&head.headers)?
    } else {
        None
    };
    if !head.there.transfer_encoding {
        return Ok(match length {
            Some(0) => (BodyEnd::Empty, persistent),
            Some(length) => (BodyEnd::Sized(length), persistent),
            None => (BodyEnd::Close, false),
        });
    }
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next(), length) {
        (Some(coding), None, length)
            if coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked")
                && head.version == Version::HTTP_11 =>
        {
            // With a length beside it somebody may have been fooled: nothing else is read from there.
            Ok((BodyEnd::Chunked, persistent && length.is_none()))
        }
        _ => Err(Error::Malformed(
            "its transfer coding is not one that was asked for",
        )),
    }
}

/// Whether the connection outlives the response (RFC 9112 §9.3).
fn persists(head: &Head) -> bool {
    let mut close = false;
    let mut keep = false;
    if head.there.connection {
        for value in head.headers.get_all(CONNECTION) {
            for option in value.as_bytes().split(|byte| *byte == b',') {
                close |= option.trim_ascii().eq_ignore_ascii_case(b"close");
                keep |= option.trim_ascii().eq_ignore_ascii_case(b"keep-alive");
            }
        }
    }
    !close && (keep || head.version == Version::HTTP_11)
}

/// The length that is announced. Repeated equal ones are one (RFC 9110 §8.6).
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Error> {
    let mut found = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        for text in value.as_bytes().split(|byte| *byte == b',') {
            let length = number(text.trim_ascii()).ok_or(Error::Malformed("its length is no number"))?;
            if found.is_some_and(|before| before != length) {
                return Err(Error::Malformed("it has two lengths"));
            }
            found = Some(length);
        }
    }
    Ok(found)
}

/// Digits only: no sign, no space, nothing above 2^64.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head_of(text: &str) -> Head {
        read(&Bytes::copy_from_slice(text.as_bytes())).unwrap().unwrap()
    }

    #[test]
    fn a_head_is_read_when_it_is_whole() {
        let text = "HTTP/1.1 200 OK\r\nServer: x\r\nX-A: 1\r\nx-a: 2\r\n\r\nbody";
        let whole = text.len() - 4;
        for end in 0..whole {
            let part = Bytes::copy_from_slice(&text.as_bytes()[..end]);
            assert!(read(&part).unwrap().is_none(), "{end}");
            assert!(!is_whole(&part), "{end}");
        }
        let head = head_of(text);
        assert_eq!((head.status, head.version), (StatusCode::OK, Version::HTTP_11));
        assert_eq!(head.bytes, whole);
        assert_eq!(head.headers.get_all("x-a").iter().count(), 2);
        assert_eq!(head.headers["server"], "x");
    }

    #[test]
    fn what_is_no_head_is_refused() {
        for text in [
            "HTTP/2 200 OK\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 099 No\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\na b: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\na : 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: 1\r\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: \0\r\n\r\n",
        ] {
            let bytes = Bytes::copy_from_slice(text.as_bytes());
            assert!(matches!(read(&bytes), Err(Error::Malformed(_))), "{text:?}");
            assert!(!text.contains("no colon") || is_whole(&bytes));
        }
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: 1\r\n".repeat(MAX_FIELDS + 1));
        assert!(matches!(read(&Bytes::from(many)), Err(Error::TooLarge)));
    }

    #[test]
    fn a_body_ends_where_the_standard_says() {
        let read = |first: &str, fields: &str, to_head| {
            let head = head_of(&format!("{first}\r\n{fields}\r\n"));
            framing(&head, to_head).ok()
        };
        let ok = "HTTP/1.1 200 OK";
        for (first, fields, to_head, expected) in [
            (
                ok,
                "content-length: 5\r\n",
                false,
                Some((BodyEnd::Sized(5), true)),
            ),
            (ok, "content-length: 0\r\n", false, Some((BodyEnd::Empty, true))),
            (ok, "content-length: 5\r\n", true, Some((BodyEnd::Empty, true))),
            (
                ok,
                "transfer-encoding: Chunked\r\n",
                false,
                Some((BodyEnd::Chunked, true)),
            ),
            (ok, "", false, Some((BodyEnd::Close, false))),
            (
                ok,
                "content-length: 5\r\nconnection: x, Close\r\n",
                false,
                Some((BodyEnd::Sized(5), false)),
            ),
            (
                ok,
                "content-length: 5, 5\r\ncontent-length: 5\r\n",
                false,
                Some((BodyEnd::Sized(5), true)),
            ),
            // Both: the coding counts, and the connection is not trusted further (RFC 9112 §6.3).
            (
                ok,
                "content-length: 5\r\ntransfer-encoding: chunked\r\n",
                false,
                Some((BodyEnd::Chunked, false)),
            ),
            (
                "HTTP/1.1 204 No",
                "content-length: 5\r\n",
                false,
                Some((BodyEnd::Empty, true)),
            ),
            (
                "HTTP/1.1 304 No",
                "content-length: 5\r\n",
                false,
                Some((BodyEnd::Empty, true)),
            ),
            (
                "HTTP/1.0 200 OK",
                "content-length: 5\r\n",
                false,
                Some((BodyEnd::Sized(5), false)),
            ),
            (
                "HTTP/1.0 200 OK",
                "content-length: 5\r\nconnection: keep-alive\r\n",
                false,
                Some((BodyEnd::Sized(5), true)),
            ),
            (ok, "content-length: 5\r\ncontent-length: 6\r\n", false, None),
            (ok, "content-length: +5\r\n", false, None),
            (ok, "content-length: 5 5\r\n", false, None),
            (ok, "content-length: \r\n", false, None),
            (ok, "content-length: 99999999999999999999\r\n", false, None),
            (ok, "transfer-encoding: gzip, chunked\r\n", false, None),
            (ok, "transfer-encoding: gzip\r\n", false, None),
            (
                ok,
                "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
                false,
                None,
            ),
            ("HTTP/1.0 200 OK", "transfer-encoding: chunked\r\n", false, None),
        ] {
            assert_eq!(read(first, fields, to_head), expected, "{first} {fields:?}");
        }
    }
}
