//! One connection against a scripted endpoint in memory: framing both ways, pieces of any size, and every way to end.

use std::collections::VecDeque;
use std::future::poll_fn;

use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

use super::*;

/// A body whose frames come one at a time; `None` is a moment without one.
#[derive(Default)]
struct Frames(VecDeque<Option<Frame<Bytes>>>);

impl Frames {
    fn of(parts: &[Option<&'static str>]) -> Option<Self> {
        let frame =
            |part: &Option<&'static str>| part.map(|text| Frame::data(Bytes::from_static(text.as_bytes())));
        Some(Self(parts.iter().map(frame).collect()))
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.0.pop_front() {
            None => Poll::Ready(None),
            Some(Some(frame)) => Poll::Ready(Some(Ok(frame))),
            Some(None) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

type Connection = Http1<DuplexStream, Frames>;

fn pair() -> (Connection, DuplexStream) {
    let (ours, theirs) = duplex(64 * 1024);
    (Http1::new(ours), theirs)
}

fn start(connection: &mut Connection, method: &Method, length: BodyLength, body: Option<Frames>) {
    let head = RequestHead {
        method,
        path: &PathAndQuery::from_static("/a"),
        host: Some(&HeaderValue::from_static("pod")),
        headers: &HeaderMap::new(),
        length,
    };
    connection.start(&head, body);
}

async fn response(connection: &mut Connection) -> Result<Parts, Error> {
    poll_fn(|cx| connection.poll_response(cx, |_, _, _| {})).await
}

async fn body(connection: &mut Connection) -> Result<(String, Option<HeaderMap>), Error> {
    let (mut text, mut trailers) = (Vec::new(), None);
    while let Some(frame) = poll_fn(|cx| connection.poll_body(cx)).await {
        match frame?.into_data() {
            Ok(data) => text.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((String::from_utf8(text).unwrap(), trailers))
}

/// What the endpoint has got so far.
async fn got(theirs: &mut DuplexStream) -> String {
    let mut space = vec![0; 64 * 1024];
    let length = theirs.read(&mut space).await.unwrap();
    String::from_utf8_lossy(&space[..length]).into_owned()
}

/// One GET that is answered by these bytes.
async fn answered(bytes: &[u8]) -> (Connection, Result<(u16, String), Error>) {
    let (mut connection, mut theirs) = pair();
    start(&mut connection, &Method::GET, BodyLength::Empty, None);
    theirs.write_all(bytes).await.unwrap();
    theirs.shutdown().await.unwrap();
    let result = match response(&mut connection).await {
        Ok(parts) => body(&mut connection)
            .await
            .map(|(text, _)| (parts.status.as_u16(), text)),
        Err(error) => Err(error),
    };
    (connection, result)
}

#[tokio::test]
async fn a_connection_carries_one_exchange_after_the_other() {
    let (mut connection, mut theirs) = pair();
    for (bytes, text) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", "abc"),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n",
            "de",
        ),
        ("HTTP/1.1 204 No\r\n\r\n", ""),
    ] {
        start(&mut connection, &Method::GET, BodyLength::Empty, None);
        theirs.write_all(bytes.as_bytes()).await.unwrap();
        assert!(response(&mut connection).await.is_ok());
        assert_eq!(got(&mut theirs).await, "GET /a HTTP/1.1\r\nhost: pod\r\n\r\n");
        assert_eq!(body(&mut connection).await.unwrap().0, text);
        assert!(connection.is_reusable() && connection.is_quiet(), "{bytes:?}");
        connection.trim();
    }
}

#[tokio::test]
async fn a_response_may_come_in_any_pieces() {
    let bytes = b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
        5\r\nabcde\r\n1\r\nf\r\n0\r\nx-sum: 1\r\n\r\n";
    for size in [1, 2, 3, 7, 20, 50, bytes.len()] {
        let (mut connection, mut theirs) = pair();
        start(&mut connection, &Method::GET, BodyLength::Empty, None);
        let writes = async {
            for piece in bytes.chunks(size) {
                theirs.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let mut seen = Vec::new();
        let reads = async {
            let parts = poll_fn(|cx| {
                connection.poll_response(cx, |_, status, headers| {
                    seen.push((status.as_u16(), headers.len()))
                })
            })
            .await
            .unwrap();
            let (text, trailers) = body(&mut connection).await.unwrap();
            (parts.status.as_u16(), text, trailers.unwrap().len())
        };
        let ((), read) = tokio::join!(writes, reads);
        assert_eq!(read, (200, "abcdef".to_owned(), 1), "{size}");
        assert_eq!(seen, [(103, 1)]);
        assert!(connection.is_reusable());
    }
}

#[tokio::test]
async fn bodies_are_framed_as_announced() {
    for (length, parts, expected) in [
        (
            BodyLength::Chunked,
            &[Some("abc"), None, Some("d")][..],
            "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
        ),
        (
            BodyLength::Chunked,
            &[None],
            "transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (BodyLength::Sized(4), &[Some("ab"), None, Some("cd")], "\r\nabcd"),
        (BodyLength::Sized(0), &[], "\r\n"),
    ] {
        let (mut connection, mut theirs) = pair();
        start(&mut connection, &Method::PUT, length, Frames::of(parts));
        let endpoint = async {
            let mut all = String::new();
            while !all.ends_with(expected) {
                all += &got(&mut theirs).await;
            }
            theirs
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                .await
                .unwrap();
        };
        let (answer, ()) = tokio::join!(response(&mut connection), endpoint);
        assert!(answer.is_ok());
        assert!(connection.is_reusable(), "{expected:?}");
    }
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_announced_is_the_clients_failure() {
    for parts in [&[Some("ab")][..], &[Some("abcde")]] {
        let (mut connection, _theirs) = pair();
        start(
            &mut connection,
            &Method::PUT,
            BodyLength::Sized(4),
            Frames::of(parts),
        );
        assert!(matches!(response(&mut connection).await, Err(Error::RequestBody)));
    }
}

#[tokio::test]
async fn an_early_answer_is_taken_and_the_connection_is_not() {
    let (mut connection, mut theirs) = pair();
    let stuck = Some(Frames((0..1000).map(|_| None).collect()));
    start(&mut connection, &Method::PUT, BodyLength::Sized(4), stuck);
    theirs
        .write_all(b"HTTP/1.1 413 No\r\ncontent-length: 0\r\n\r\n")
        .await
        .unwrap();
    let parts = response(&mut connection).await.unwrap();
    assert_eq!(parts.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(connection.is_end_of_body() && !connection.is_reusable());
}

#[tokio::test]
async fn the_end_of_the_connection_is_told_apart() {
    let long = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "x".repeat(MAX_HEAD));
    let endless = "HTTP/1.1 103 Early\r\n\r\n".repeat(MAX_INTERIM as usize + 1);
    for (bytes, expected) in [
        ("", "Closed"),
        ("HTTP/1.1 200", "Truncated"),
        ("HTTP/1.1 103 Early\r\n\r\n", "Truncated"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", "Truncated"),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n",
            "Truncated",
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx",
            "Malformed",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            "Malformed",
        ),
        ("SSH-2.0-OpenSSH\r\n", "Malformed"),
        (long.as_str(), "TooLarge"),
        (endless.as_str(), "Malformed"),
    ] {
        let (connection, result) = answered_slowly(bytes.as_bytes()).await;
        let error = format!("{:?}", result.unwrap_err());
        assert!(error.starts_with(expected), "{error} for {bytes:.60?}");
        assert!(connection.has_sent());
    }
    let (connection, result) = answered(b"HTTP/1.1 200 OK\r\n\r\nto the end").await;
    assert_eq!(result.unwrap(), (200, "to the end".to_owned()));
    assert!(!connection.is_reusable());
}

/// Like [`answered`], for more bytes than the pipe holds.
async fn answered_slowly(bytes: &[u8]) -> (Connection, Result<(u16, String), Error>) {
    let (ours, mut theirs) = duplex(2 * MAX_HEAD);
    let mut connection = Http1::new(ours);
    start(&mut connection, &Method::GET, BodyLength::Empty, None);
    theirs.write_all(bytes).await.unwrap();
    let ends = async {
        got(&mut theirs).await;
        theirs.shutdown().await.unwrap();
    };
    let reads = async {
        let parts = response(&mut connection).await?;
        let (text, _) = body(&mut connection).await?;
        Ok((parts.status.as_u16(), text))
    };
    let ((), result) = tokio::join!(ends, reads);
    (connection, result)
}

#[tokio::test]
async fn what_nobody_asked_for_spoils_a_connection() {
    let behind = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
    let (connection, result) = answered(behind).await;
    assert!(result.is_ok() && !connection.is_reusable());

    let (mut connection, mut theirs) = pair();
    assert!(connection.is_quiet());
    theirs.write_all(b"HTTP/1.1 408 Late\r\n\r\n").await.unwrap();
    assert!(!connection.is_quiet());

    let (mut connection, theirs) = pair();
    drop(theirs);
    assert!(!connection.is_quiet());
}

#[tokio::test]
async fn a_request_to_a_closed_socket_has_not_left() {
    let (mut connection, theirs) = pair();
    drop(theirs);
    start(&mut connection, &Method::GET, BodyLength::Empty, None);
    assert!(matches!(response(&mut connection).await, Err(Error::Closed)));
    assert!(!connection.has_sent());
}

#[tokio::test]
async fn a_switch_of_protocols_gives_the_stream_and_what_was_read() {
    let (mut connection, mut theirs) = pair();
    start(&mut connection, &Method::GET, BodyLength::Empty, None);
    theirs
        .write_all(b"HTTP/1.1 101 Switching\r\nupgrade: websocket\r\n\r\nhello")
        .await
        .unwrap();
    let parts = response(&mut connection).await.unwrap();
    assert_eq!(parts.status, StatusCode::SWITCHING_PROTOCOLS);
    assert!(!connection.is_end_of_body() && !connection.is_reusable());
    assert_eq!(connection.into_stream().1, "hello");
}

#[tokio::test]
async fn an_answer_to_head_has_no_body() {
    let (mut connection, mut theirs) = pair();
    start(&mut connection, &Method::HEAD, BodyLength::Empty, None);
    theirs
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        .await
        .unwrap();
    response(&mut connection).await.unwrap();
    assert!(connection.is_reusable());
}
