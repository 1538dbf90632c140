//! The TLS handshake of a client's connection: from its first byte to the first byte that HTTP may see.
//!
//! ```text
//! first bytes ─► whole ClientHello ─► listener by name ─► certificate ─► rest of the handshake ─► Stream, ClientTls
//! ```
//! The ClientHello is read before anything is decided, because the name in it says which listener it is for, and with it
//! which certificates, versions and client authentication there are. It may come in any number of pieces; with a
//! post-quantum key it is larger than a packet.
//!
//! Bounds: a deadline for the whole handshake, handshakes under way per address ([`ListenerLimits`]), and the library's
//! own on the size of a handshake message (64 KiB). Each handshake ends with one [`HandshakeEnd`].
//!
//! A listener that passes TLS on unopened branches off behind [`read_hello`], where the name is known and nothing was
//! answered yet: the bytes that were read go to the endpoint as they came. Where TLS is passed on, nobody here is a party to it: a
//! connection that cannot be passed on ends without an alert, as one does that nobody takes.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{Bytes, BytesMut};
use rustls::server::{Accepted, Acceptor};
use rustls::{AlertDescription, Error, HandshakeKind, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::StartHandshake;
use tokio_rustls::server::TlsStream;

use super::accept::Door;
use super::connection::linger;
use crate::l4::prefixed::Prefixed;
use crate::l7::client_certificate;
use crate::l7::downstream::ClientTls;
use crate::l7::worker::Worker;
use crate::model::{Certificate, ListenerKind, ListenerLimits, ListenerName};
use crate::runtime;
use crate::snapshot::{NoCertificate, Snapshot};
use crate::telemetry::HandshakeEnd;

/// A client's connection.
pub(super) type Stream = runtime::stream::Stream<TlsStream<TcpStream>>;

/// The socket below a client's connection.
pub(super) fn socket(stream: &Stream) -> &TcpStream {
    match stream {
        Stream::Plain(stream) => stream,
        Stream::Tls(stream) => stream.get_ref().0,
    }
}

/// A connection whose handshake is over, or not for us.
pub(super) enum Shaken {
    /// Requests come on it.
    Http {
        /// The connection.
        stream: Stream,
        /// What was agreed on.
        tls: ClientTls,
        /// Whether it is HTTP/2.
        http2: bool,
    },
    /// What comes on it is relayed.
    Opaque {
        /// The connection.
        stream: Stream,
        /// The name that the client asked for.
        name: Option<Box<str>>,
        /// The application protocol that was agreed on.
        alpn: Option<Box<[u8]>>,
    },
    /// It is relayed with its TLS, of which nothing but the first message was read.
    Unopened {
        /// The connection, with that message in front.
        stream: Prefixed<TcpStream>,
        /// The name that the client asked for.
        name: Option<Box<str>>,
    },
}

/// Bytes of a ClientHello read at once.
const PIECE: usize = 4096;
/// The type of a record with a handshake message (RFC 8446 §5.1): the first byte of all TLS.
const HANDSHAKE_RECORD: u8 = 22;

/// Makes the handshake; none when there is no connection after it.
pub(super) async fn shake(
    worker: &Worker,
    mut stream: TcpStream,
    peer: SocketAddr,
    door: &Door,
    limits: &ListenerLimits,
) -> Option<Shaken> {
    let Some(place) = Place::take(&door.handshakes, limits.max_handshakes) else {
        door.metrics.handshake(worker.index, HandshakeEnd::Overloaded);
        return None;
    };
    let deadline = Instant::now() + limits.handshake_deadline;
    let mut timer = worker.timers.lease();
    let mut raw = RawHello::of(&worker.snapshot(), door.bind);
    let read = timer
        .within(Some(deadline), pin!(read_hello(&mut stream, &mut raw)))
        .await;
    let refused = match read.unwrap_or(Err(Refused::silently(HandshakeEnd::TimedOut))) {
        Err(refused) => (refused, Some(stream)),
        Ok(accepted) => match choose(&worker.snapshot(), door.bind, &accepted, &raw) {
            Err(refused) => (refused, Some(stream)),
            Ok(Choice::Challenge(config)) => {
                let answered = pin!(answer_challenge(config, accepted, stream));
                let end = timer.within(Some(deadline), answered).await;
                (end.unwrap_or(Refused::silently(HandshakeEnd::TimedOut)), None)
            }
            Ok(Choice::PassOn { name }) => {
                door.metrics.handshake(worker.index, HandshakeEnd::PassedOn);
                let stream = Prefixed::new(raw.take(), stream);
                return Some(Shaken::Unopened { stream, name });
            }
            Ok(Choice::Serve(chosen)) => {
                let finished = finish(accepted, stream, Arc::clone(&chosen.config));
                match timer.within(Some(deadline), pin!(finished)).await {
                    Some(Ok(stream)) => match agreed(stream, chosen) {
                        Ok((shaken, end)) => {
                            door.metrics.handshake(worker.index, end);
                            return Some(shaken);
                        }
                        Err(refused) => (refused, None),
                    },
                    Some(Err((refused, stream))) => (refused, Some(stream)),
                    None => (Refused::silently(HandshakeEnd::TimedOut), None),
                }
            }
        },
    };
    drop((place, timer));
    let (refused, stream) = refused;
    door.metrics.handshake(worker.index, refused.end);
    tracing::debug!(%peer, address = %door.bind, end = refused.end.code(), why = %refused.why, "no TLS connection");
    if let Some(mut stream) = stream
        && refused.end != HandshakeEnd::ClientGone
    {
        if let Some(last) = refused.last_words {
            // What fits into the socket's empty buffer is written; more is not waited for.
            let _ = stream.try_write(&last);
        }
        linger(&mut stream).await;
    }
    None
}

/// Why there is no connection.
struct Refused {
    end: HandshakeEnd,
    why: String,
    /// What the client is still told, unless the library has told it.
    last_words: Option<Vec<u8>>,
}

impl Refused {
    fn silently(end: HandshakeEnd) -> Self {
        Self {
            end,
            why: String::new(),
            last_words: None,
        }
    }

    fn with_alert(end: HandshakeEnd, alert: AlertDescription, why: impl Into<String>) -> Self {
        const ALERT_RECORD: u8 = 21;
        const FATAL: u8 = 2;
        Self {
            end,
            why: why.into(),
            last_words: Some(vec![ALERT_RECORD, 3, 3, 0, 2, FATAL, alert.into()]),
        }
    }

    fn of(error: &Error) -> Self {
        Self {
            end: end_of(error),
            why: error.to_string(),
            last_words: None,
        }
    }
}

/// Reads until the ClientHello is whole.
async fn read_hello(stream: &mut TcpStream, raw: &mut RawHello) -> Result<Accepted, Refused> {
    let mut acceptor = Acceptor::default();
    let mut space = [0; PIECE];
    let mut first = true;
    loop {
        let length = match stream.read(&mut space).await {
            Ok(0) | Err(_) => return Err(Refused::silently(HandshakeEnd::ClientGone)),
            Ok(length) => length,
        };
        let mut piece = &space[..length];
        raw.keep(piece);
        if std::mem::take(&mut first) && piece.first() != Some(&HANDSHAKE_RECORD) {
            return Err(Refused {
                end: HandshakeEnd::NotTls,
                why: "the first byte is not that of TLS".to_owned(),
                last_words: looks_like_http(piece).then(|| CLEAR_TEXT_ANSWER.to_vec()),
            });
        }
        if acceptor.read_tls(&mut piece).is_err() || !piece.is_empty() {
            return Err(Refused::with_alert(
                HandshakeEnd::Malformed,
                AlertDescription::DecodeError,
                "too large for a ClientHello",
            ));
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok(accepted),
            Ok(None) => {}
            Err((error, mut alert)) => {
                let mut last_words = Vec::new();
                let _ = alert.write_all(&mut last_words);
                return Err(Refused {
                    last_words: Some(last_words),
                    ..Refused::of(&error)
                });
            }
        }
    }
}

/// A browser that was led to `http://` on this port shows this.
const CLEAR_TEXT_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n\
content-length: 52\r\nconnection: close\r\n\r\n400 Bad Request: this port speaks TLS, use https://\n";

fn looks_like_http(piece: &[u8]) -> bool {
    let word = piece.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    word >= 3 && piece.get(word) == Some(&b' ')
}

/// The ClientHello as it came, kept where it may have to be passed on. Bounded by what the library reads before it
/// gives up.
struct RawHello(Option<BytesMut>);

impl RawHello {
    fn of(snapshot: &Snapshot, bind: SocketAddr) -> Self {
        let passes_tls = snapshot.bind(&bind).is_some_and(|bind| bind.passes_tls);
        Self(passes_tls.then(BytesMut::new))
    }

    fn keep(&mut self, piece: &[u8]) {
        if let Some(kept) = &mut self.0 {
            kept.extend_from_slice(piece);
        }
    }

    fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    fn take(self) -> Bytes {
        self.0.unwrap_or_default().freeze()
    }
}

/// What becomes of a client.
enum Choice {
    /// It is served.
    Serve(Chosen),
    /// It is an authority that asks whether a name is ours, and this is the answer.
    Challenge(Arc<ServerConfig>),
    /// It is passed on unopened.
    PassOn { name: Option<Box<str>> },
}

/// Who serves a client, and with what.
struct Chosen {
    /// Whether what comes is relayed.
    opaque: bool,
    config: Arc<ServerConfig>,
    listener: ListenerName,
    certificate: Arc<Certificate>,
    name: Option<Box<str>>,
    asks_clients: bool,
    verifies_clients: bool,
    http2_only: bool,
}

fn choose(
    snapshot: &Snapshot,
    bind: SocketAddr,
    accepted: &Accepted,
    raw: &RawHello,
) -> Result<Choice, Refused> {
    let hello = accepted.client_hello();
    if let Some(answer) = snapshot.challenges().and_then(|table| table.alpn(&hello)) {
        return Ok(Choice::Challenge(Arc::clone(answer)));
    }
    let name = hello.server_name();
    let bind = snapshot.bind(&bind);
    let entry = bind.and_then(|bind| bind.listener_of(name.unwrap_or_default()));
    let ends_here = match (entry, bind) {
        (Some(entry), _) => !entry.passes_tls(),
        (None, Some(bind)) => bind.listeners().any(|entry| !entry.passes_tls()),
        (None, None) => true,
    };
    let unknown = || {
        let name = name.unwrap_or("none");
        let why = format!("nothing is configured for the name {name}");
        let end = HandshakeEnd::UnknownName;
        match ends_here {
            true => Refused::with_alert(end, AlertDescription::UnrecognisedName, why),
            false => Refused {
                why,
                ..Refused::silently(end)
            },
        }
    };
    if entry.is_some_and(|entry| entry.listener.kind == ListenerKind::Tls)
        && bind.is_none_or(|bind| bind.find_opaque(name.unwrap_or_default()).is_none())
    {
        return Err(unknown());
    }
    // What began to be passed on while the first message was read has not been kept.
    if entry.is_some_and(|entry| entry.passes_tls()) && raw.is_kept() {
        let name = name.map(Into::into);
        return Ok(Choice::PassOn { name });
    }
    let (Some(entry), Some(service)) = (entry, entry.and_then(|entry| entry.tls.as_ref())) else {
        return Err(unknown());
    };
    let certificate = service
        .certificates
        .choose_for(&hello)
        .map_err(|none| match none {
            NoCertificate::UnknownName => unknown(),
            NoCertificate::NotYet => Refused::with_alert(
                HandshakeEnd::NotYet,
                AlertDescription::InternalError,
                "the certificate is still to be got",
            ),
            NoCertificate::NothingInCommon => Refused::with_alert(
                HandshakeEnd::NothingInCommon,
                AlertDescription::HandshakeFailure,
                "the client can verify no certificate that is there",
            ),
        })?;
    Ok(Choice::Serve(Chosen {
        opaque: entry.listener.kind != ListenerKind::Http,
        config: Arc::clone(service.config_for(&hello)),
        listener: entry.name.clone(),
        certificate: Arc::clone(certificate),
        name: name.map(Into::into),
        asks_clients: service.asks_clients,
        verifies_clients: service.verifies_clients,
        http2_only: service.http2_only,
    }))
}

/// An authority asks whether a name is ours: the handshake is all that is wanted (RFC 8737 §3).
async fn answer_challenge(config: Arc<ServerConfig>, accepted: Accepted, stream: TcpStream) -> Refused {
    match finish(accepted, stream, config).await {
        Ok(mut stream) => {
            let _ = stream.shutdown().await;
            Refused::silently(HandshakeEnd::Challenge)
        }
        Err((refused, _)) => refused,
    }
}

async fn finish(
    accepted: Accepted,
    stream: TcpStream,
    config: Arc<ServerConfig>,
) -> Result<TlsStream<TcpStream>, (Refused, TcpStream)> {
    let start = StartHandshake::from_parts(accepted, stream);
    start
        .into_stream(config)
        .into_fallible()
        .await
        .map_err(|(error, stream)| (refused_by(&error), stream))
}

fn agreed(stream: TlsStream<TcpStream>, chosen: Chosen) -> Result<(Shaken, HandshakeEnd), Refused> {
    let connection = stream.get_ref().1;
    let http2 = connection.alpn_protocol() == Some(b"h2");
    if chosen.http2_only && !http2 {
        return Err(Refused {
            end: HandshakeEnd::NoAlpn,
            why: "only HTTP/2 is spoken, and the client did not ask for it".to_owned(),
            last_words: None,
        });
    }
    let end = match connection.handshake_kind() {
        Some(HandshakeKind::Resumed) => HandshakeEnd::Resumed,
        _ => HandshakeEnd::Full,
    };
    if chosen.opaque {
        let shaken = Shaken::Opaque {
            name: chosen.name,
            alpn: connection.alpn_protocol().map(Into::into),
            stream: Stream::Tls(Box::new(stream)),
        };
        return Ok((shaken, end));
    }
    let identity = connection
        .peer_certificates()
        .and_then(|chain| chain.first())
        .filter(|_| chosen.verifies_clients)
        .map(|certificate| client_certificate::field(certificate));
    let tls = ClientTls {
        alpn: connection.alpn_protocol().map(Into::into),
        listener: chosen.listener,
        name: chosen.name,
        certificate: chosen.certificate,
        asked: chosen.asks_clients,
        identity,
    };
    let shaken = Shaken::Http {
        stream: Stream::Tls(Box::new(stream)),
        tls,
        http2,
    };
    Ok((shaken, end))
}

/// What went wrong, as the library's stream says it: an error of its own in an input error.
fn refused_by(error: &io::Error) -> Refused {
    let own = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match own {
        Some(own) => Refused::of(own),
        None => Refused::silently(HandshakeEnd::ClientGone),
    }
}

fn end_of(error: &Error) -> HandshakeEnd {
    match error {
        Error::AlertReceived(_) => HandshakeEnd::ClientAlert,
        Error::NoApplicationProtocol => HandshakeEnd::NoAlpn,
        Error::NoCertificatesPresented => HandshakeEnd::NoClientCertificate,
        Error::InvalidCertificate(_) | Error::InvalidCertRevocationList(_) => {
            HandshakeEnd::BadClientCertificate
        }
        Error::PeerIncompatible(_) => HandshakeEnd::NothingInCommon,
        _ => HandshakeEnd::Malformed,
    }
}

/// A place among the handshakes under way, until dropped.
pub(super) struct Place(Arc<AtomicU32>);

impl Place {
    pub(super) fn take(count: &Arc<AtomicU32>, most: u32) -> Option<Self> {
        let place = Self(Arc::clone(count));
        (place.0.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Says goodbye on a connection that ends while it is idle, if it can be said at once.
pub(super) async fn say_goodbye(stream: &mut Stream) {
    if stream.is_tls() {
        let shut = pin!(stream.shutdown());
        let mut shut = Some(shut);
        std::future::poll_fn(|cx| {
            if let Some(shut) = shut.take() {
                let _ = std::future::Future::poll(shut, cx);
            }
            std::task::Poll::Ready(())
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let count = Arc::new(AtomicU32::new(0));
        let (first, second) = (Place::take(&count, 2), Place::take(&count, 2));
        assert!(first.is_some() && second.is_some() && Place::take(&count, 2).is_none());
        drop(first);
        assert!(Place::take(&count, 2).is_some());
        drop(second);
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn clear_text_is_answered_only_when_it_may_be_http() {
        for (piece, http) in [
            (&b"GET / HTTP/1.1"[..], true),
            (b"OPTIONS *", true),
            (b"get / ", false),
            (b"SSH-2.0-x", false),
            (b"\x80\x2e\x01", false),
            (b"GE", false),
        ] {
            assert_eq!(looks_like_http(piece), http);
        }
        let answer = str::from_utf8(CLEAR_TEXT_ANSWER).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())));
    }
}
