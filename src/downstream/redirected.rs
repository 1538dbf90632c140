//! Connections that the kernel redirected here: what they were meant for, and what is spoken on them.
//!
//! ```text
//! accepted ─► original destination ─► is it ourselves? ─► opaque? ─► first bytes ─► HTTP, or a relay
//! ```
//! # What is spoken
//! The first bytes are looked at where they lie, in the socket's buffer (`MSG_PEEK`); at most [`LOOK`] of them. A client
//! that speaks first has them there at once, so the time for it is short. Where the server speaks first (SMTP, MySQL) the
//! client is silent until the time has passed; then bytes are relayed. Ports that are known for that are not asked.
//!
//! Whatever is not clearly a request that Tidegate serves is relayed as it comes: unknown methods, CONNECT, requests in
//! absolute form, which are for another proxy, TLS. So the worst that a wrong guess costs is that requests are not told apart.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::accept::Door;
use crate::l4::arrival::Carrier;
use crate::l4::redirected::Redirected;
use crate::l7::worker::Worker;
use crate::model::{Direction, Inner, ListenerLimits};
use crate::snapshot::Destination;
use crate::telemetry::detection::Detected;

/// How a redirected connection is served.
pub(super) enum Met {
    /// Requests are read.
    Http(Rc<Redirected>),
    /// Bytes are relayed.
    Opaque(Rc<Redirected>, Carrier),
    /// The client has gone.
    Gone,
}

/// Bytes looked at: HTTP/2's preface, which is the longest that has to be told.
const LOOK: usize = 24;
/// How soon is looked again when the first bytes are too few to tell. A first segment is hardly ever so short.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What is known of a connection's bytes before they are looked at.
pub(super) enum Told {
    /// Nothing.
    Nothing,
    /// They were waited for, and did not come.
    Silent,
    /// The sidecar on the other side has said what they are.
    By(Inner),
}

/// Finds out where a connection goes and how. `original`: where its client wanted to go.
pub(super) async fn meet(
    worker: &Worker,
    stream: &TcpStream,
    original: SocketAddr,
    direction: Direction,
    door: &Door,
    limits: &ListenerLimits,
    told: Told,
) -> Met {
    let (listener, known) = {
        let snapshot = worker.snapshot();
        let bind = snapshot.bind(&door.bind);
        let first = bind.and_then(|bind| bind.listeners().next());
        let listener = first.map_or_else(|| "".into(), |entry| entry.name.clone());
        let known: Option<Arc<Destination>> = match direction {
            Direction::Inbound => None,
            Direction::Outbound => snapshot.destination(&original).cloned(),
        };
        (listener, known)
    };
    let address = known.is_some().then_some(original);
    let destination = known.unwrap_or_else(|| worker.originals(direction).get(original, worker.now()));
    let is_opaque = destination.opaque || limits.opaque_ports.contains(&original.port());
    let carrier = match told {
        Told::By(_) => Carrier::Mtls,
        Told::Nothing | Told::Silent => Carrier::Tcp,
    };
    let detected = match (is_opaque, told) {
        (true, _) | (_, Told::By(Inner::Opaque)) => Detected::NotAsked,
        (false, Told::By(Inner::Http1)) => Detected::Http1,
        (false, Told::By(Inner::Http2)) => Detected::Http2,
        (false, Told::Silent) => Detected::Silent,
        (false, Told::Nothing) => detect(stream, limits.detect).await,
    };
    door.metrics.detected(worker.index, detected);
    let redirected = Rc::new(Redirected {
        listener,
        destination,
        address,
        may_be_tls: matches!(detected, Detected::Tls | Detected::NotAsked),
    });
    match detected {
        Detected::Http1 | Detected::Http2 => Met::Http(redirected),
        Detected::Tls => Met::Opaque(redirected, Carrier::Passthrough),
        Detected::Other | Detected::Silent | Detected::NotAsked => Met::Opaque(redirected, carrier),
        Detected::Gone => Met::Gone,
    }
}

/// Where the client wanted to go, before the kernel redirected it. None: the kernel knows of no other place.
pub(super) fn original_destination(stream: &TcpStream, local: SocketAddr) -> Option<SocketAddr> {
    let socket = SockRef::from(stream);
    let found = match local.ip().to_canonical().is_ipv4() {
        true => socket.original_dst_v4(),
        false => socket.original_dst_v6(),
    };
    canonical(found.ok()?.as_socket()?).into()
}

/// IPv4 without its IPv6 clothes.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Looks at the first bytes until it is clear what they are, or the time has passed.
async fn detect(stream: &TcpStream, patience: Duration) -> Detected {
    let deadline = Instant::now() + patience;
    let mut seen = 0;
    let mut bytes = [0; LOOK];
    loop {
        match timeout_at(deadline, stream.peek(&mut bytes)).await {
            Ok(Ok(0)) if seen == 0 => return Detected::Gone,
            Ok(Ok(length)) => {
                seen = length;
                if let Some(found) = judge(&bytes[..length]) {
                    return found;
                }
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(_)) => return Detected::Gone,
            Err(_) if seen == 0 => return Detected::Silent,
            Err(_) => return Detected::Other,
        }
        // They lie there still, so that waiting for the socket would not wait.
        if Instant::now() + LOOK_AGAIN > deadline {
            return Detected::Other;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// HTTP/2's preface (RFC 9113 §3.4).
const PREFACE: &[u8; LOOK] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How a request in origin form begins (RFC 9112 §3.2.1), and OPTIONS in asterisk form. CONNECT, TRACE and absolute form
/// are missing on purpose: they are for another proxy, or refused here.
const REQUESTS: &[&[u8]] = &[
    b"GET /",
    b"POST /",
    b"PUT /",
    b"HEAD /",
    b"DELETE /",
    b"PATCH /",
    b"OPTIONS /",
    b"OPTIONS *",
];

/// A TLS record with a handshake message: its type and the first byte of its version (RFC 8446 §5.1).
const TLS: &[u8] = &[22, 3];

/// What the first bytes are; none while they are too few to tell. There is at least one.
fn judge(bytes: &[u8]) -> Option<Detected> {
    let begins = |whole: &[u8]| bytes.starts_with(whole);
    if REQUESTS.iter().any(|request| begins(request)) {
        return Some(Detected::Http1);
    }
    if begins(PREFACE) {
        return Some(Detected::Http2);
    }
    if begins(TLS) {
        return Some(Detected::Tls);
    }
    let may_become = |whole: &[u8]| whole.starts_with(bytes);
    let undecided =
        may_become(PREFACE) || may_become(TLS) || REQUESTS.iter().any(|request| may_become(request));
    (!undecided).then_some(Detected::Other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_say_what_is_spoken() {
        for (bytes, found) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Detected::Http1)),
            (b"GET /", Some(Detected::Http1)),
            (b"GET ", None),
            (b"G", None),
            (b"GET http://a/ HTTP/1.1", Some(Detected::Other)),
            (b"OPTIONS * HTTP/1.1", Some(Detected::Http1)),
            (b"OPTIONS http", Some(Detected::Other)),
            (b"CONNECT a:443 HTTP/1.1", Some(Detected::Other)),
            (b"get /", Some(Detected::Other)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Detected::Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", None),
            (b"PRI * HTTP/1.1\r\n", Some(Detected::Other)),
            (b"P", None),
            (&[22, 3, 1], Some(Detected::Tls)),
            (&[22], None),
            (&[22, 4], Some(Detected::Other)),
            (&[0], Some(Detected::Other)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Detected::Other)),
        ] {
            assert_eq!(judge(bytes), found, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    /// Two ends of a connection.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn bytes_that_were_looked_at_are_still_there() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut client, mut server) = pair().await;
        client.write_all(b"G").await.unwrap();
        let long = Duration::from_secs(60);
        let (found, sent) = tokio::join!(detect(&server, long), async {
            tokio::time::sleep(LOOK_AGAIN).await;
            client.write_all(b"ET / HTTP/1.1\r\n").await
        });
        sent.unwrap();
        assert_eq!(found, Detected::Http1);
        let mut all = [0; 16];
        server.read_exact(&mut all).await.unwrap();
        assert_eq!(&all, b"GET / HTTP/1.1\r\n");

        let (client, server) = pair().await;
        assert_eq!(detect(&server, Duration::from_millis(1)).await, Detected::Silent);
        drop(client);
        assert_eq!(detect(&server, long).await, Detected::Gone);
    }
}
