//! mTLS with another sidecar, where a listener asks for it: is this connection one, and who is on the other side?
//!
//! ```text
//! accepted ─► a port where nobody is asked? ─► first bytes ─► ClientHello with our ALPN? ─► handshake ─► who is it?
//! ```
//! The first bytes are looked at where they lie, in the socket's buffer (`MSG_PEEK`), until it is clear whether they are a
//! ClientHello of a sidecar. Nothing else is taken from the socket, so that in permissive mode a connection goes on as if
//! nobody had looked: clear text, the app's own TLS, half of a hello. A client that is silent costs `limits.detect` there,
//! because its server may be the one that speaks first; a strict listener waits as long as for any handshake.
//!
//! Each refusal has an outcome of its own. Bounds: a deadline for the whole handshake, handshakes under way per address
//! ([`ListenerLimits`]), and [`MAX_HELLO`].

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::{Accepted, Acceptor};
use rustls::{CertificateError, Error};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::StartHandshake;
use tokio_rustls::server::TlsStream;

use super::accept::Door;
use super::connection::linger;
use super::handshake::{self, Stream};
use crate::l4::arrival::KnownPeer;
use crate::l7::client_certificate;
use crate::l7::worker::Worker;
use crate::model::tls::PeerRefused;
use crate::model::tls::SpiffeId;
use crate::model::{Inner, ListenerLimits};
use crate::runtime::stream::OnTcp;
use crate::snapshot::MtlsService;
use crate::telemetry::Outcome;
use crate::telemetry::mtls::Came;

/// How a connection goes on.
pub(super) enum Greeted {
    /// As if nobody had asked. `waited`: nothing came while a first byte was waited for.
    Plain {
        /// The connection, of which nothing was read.
        stream: TcpStream,
        /// Whether its client is silent.
        waited: bool,
    },
    /// With a peer that is known.
    Peer {
        /// The connection.
        stream: Stream,
        /// What is spoken on it.
        inner: Inner,
        /// Who is on the other side.
        who: Rc<KnownPeer>,
    },
    /// Not at all; what was to be said is said.
    Refused(Outcome),
    /// The client has gone without a word.
    Gone,
}

/// Bytes of a ClientHello that are looked at: as much as a record holds (RFC 8446 §5.1). Those of sidecars are a tenth.
const MAX_HELLO: usize = 16 * 1024;
/// Bytes looked at first. Most hellos fit.
const FIRST_LOOK: usize = 2 * 1024;
/// How soon is looked again when a hello is not whole; twice as long each time, up to the second.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(50);

/// Finds out whether a connection is one of a sidecar, and who that is. `port`: the one that the client asked for.
pub(super) async fn greet(
    worker: &Worker,
    stream: TcpStream,
    (peer, port): (SocketAddr, u16),
    service: &MtlsService,
    door: &Door,
    limits: &ListenerLimits,
) -> Greeted {
    let count = |came| door.metrics.came(worker.index, came);
    if !service.asks_at(port) {
        count(Came::NotAsked);
        return Greeted::Plain {
            stream,
            waited: false,
        };
    }
    let deadline = Instant::now() + limits.handshake_deadline;
    let first = match service.is_strict() {
        true => deadline,
        false => deadline.min(Instant::now() + limits.detect),
    };
    let seen = look(&stream, first, deadline).await;
    let refused = match (seen, service.is_strict()) {
        (Seen::Gone, _) => return Greeted::Gone,
        (Seen::Hello(hello), _) => {
            match shake(worker, stream, hello, deadline, service, door, limits).await {
                Ok((stream, inner, who)) => {
                    count(Came::Mtls);
                    return Greeted::Peer { stream, inner, who };
                }
                Err(refused) => refused,
            }
        }
        (seen, false) => {
            count(Came::Plain);
            let waited = matches!(seen, Seen::Silent);
            return Greeted::Plain { stream, waited };
        }
        (Seen::Other, true) => Refused::at_once(stream, Outcome::MtlsPlain, "no mTLS of a sidecar"),
        (Seen::Broken, true) => Refused::at_once(stream, Outcome::MtlsHandshake, "no whole ClientHello"),
        (Seen::Silent | Seen::Half, true) => {
            Refused::at_once(stream, Outcome::MtlsTimeout, "no ClientHello in time")
        }
    };
    count(Came::Refused);
    tracing::debug!(%peer, address = %door.bind, outcome = refused.outcome.code(), why = %refused.why, "no mTLS");
    if let Some(mut stream) = refused.told {
        // So that the peer gets to read the alert.
        linger(&mut stream).await;
    }
    Greeted::Refused(refused.outcome)
}

/// Why there is no connection.
struct Refused {
    outcome: Outcome,
    why: String,
    /// The connection, if the peer was told why.
    told: Option<TcpStream>,
}

impl Refused {
    /// Without a word: whoever it is does not speak our TLS.
    fn at_once(stream: TcpStream, outcome: Outcome, why: &str) -> Self {
        stream.reset_on_drop();
        Self {
            outcome,
            why: why.to_owned(),
            told: None,
        }
    }
}

/// What the first bytes are.
enum Seen {
    /// The hello of a sidecar.
    Hello(Box<Hello>),
    /// Something else.
    Other,
    /// A hello that breaks the grammar, or off.
    Broken,
    /// A hello that is not whole in time.
    Half,
    /// Nothing.
    Silent,
    /// Nothing, and nothing will come.
    Gone,
}

/// A ClientHello that was read, and still lies in the socket's buffer.
struct Hello {
    accepted: Accepted,
    length: usize,
}

/// Looks at the first bytes: until `first` for the first of them, until `deadline` for a whole hello.
async fn look(stream: &TcpStream, first: Instant, deadline: Instant) -> Seen {
    let mut bytes = vec![0; FIRST_LOOK];
    let mut seen = 0;
    let mut again = LOOK_AGAIN;
    loop {
        let until = if seen == 0 { first } else { deadline };
        let length = match timeout_at(until, stream.peek(&mut bytes)).await {
            Ok(Ok(0)) if seen == 0 => return Seen::Gone,
            Ok(Ok(length)) => length,
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(Err(_)) => return Seen::Gone,
            Err(_) if seen == 0 => return Seen::Silent,
            Err(_) => return Seen::Half,
        };
        if length > seen {
            seen = length;
            match judge(&bytes[..length]) {
                Judged::Ours(accepted) => {
                    return Seen::Hello(Box::new(Hello {
                        accepted: *accepted,
                        length,
                    }));
                }
                Judged::Other => return Seen::Other,
                Judged::Broken => return Seen::Broken,
                Judged::TooFew if length == MAX_HELLO => return Seen::Broken,
                Judged::TooFew if length == bytes.len() => {
                    bytes.resize(MAX_HELLO, 0);
                    continue;
                }
                Judged::TooFew => {}
            }
        }
        // What lies there lies there still, so that waiting for the socket would not wait.
        let ready = stream.ready(Interest::READABLE).await;
        if ready.is_ok_and(|ready| ready.is_read_closed()) {
            return Seen::Broken;
        }
        if Instant::now() + again > deadline {
            return Seen::Half;
        }
        tokio::time::sleep(again).await;
        again = (again * 2).min(LOOK_AGAIN_MAX);
    }
}

/// What bytes are, of which there is at least one.
enum Judged {
    /// A sidecar's hello.
    Ours(Box<Accepted>),
    /// No hello, or one for somebody else.
    Other,
    /// The beginning of what is no TLS in the end.
    Broken,
    /// It is not clear yet.
    TooFew,
}

/// A TLS record with a handshake message: its type and the first byte of its version (RFC 8446 §5.1).
const TLS: &[u8] = &[22, 3];

fn judge(bytes: &[u8]) -> Judged {
    if !bytes.starts_with(TLS) {
        return match TLS.starts_with(bytes) {
            true => Judged::TooFew,
            false => Judged::Other,
        };
    }
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        match acceptor.read_tls(&mut rest) {
            Ok(0) | Err(_) => return Judged::Broken,
            Ok(_) => {}
        }
    }
    match acceptor.accept() {
        Ok(None) => Judged::TooFew,
        Err(_) => Judged::Broken,
        Ok(Some(accepted)) => {
            let offered = accepted.client_hello().alpn();
            let ours = offered.is_some_and(|mut names| names.any(|name| Inner::of_alpn(name).is_some()));
            match ours {
                true => Judged::Ours(Box::new(accepted)),
                false => Judged::Other,
            }
        }
    }
}

/// The handshake, and who the peer is.
async fn shake(
    worker: &Worker,
    mut stream: TcpStream,
    hello: Box<Hello>,
    deadline: Instant,
    service: &MtlsService,
    door: &Door,
    limits: &ListenerLimits,
) -> Result<(Stream, Inner, Rc<KnownPeer>), Refused> {
    let Some(_place) = handshake::Place::take(&door.handshakes, limits.max_handshakes) else {
        return Err(Refused::at_once(
            stream,
            Outcome::Overloaded,
            "too many handshakes",
        ));
    };
    let Some(config) = service.config.as_ref().map(Arc::clone) else {
        return Err(Refused::at_once(
            stream,
            Outcome::NoIdentity,
            "there is no identity",
        ));
    };
    // It was read where it lies; now it is taken.
    let mut taken = vec![0; hello.length];
    if stream.read_exact(&mut taken).await.is_err() {
        return Err(Refused::at_once(
            stream,
            Outcome::MtlsHandshake,
            "the client has gone",
        ));
    }
    drop(taken);
    let start = StartHandshake::from_parts(hello.accepted, stream);
    let finished = start.into_stream(config).into_fallible();
    let mut timer = worker.timers.lease();
    match timer.within(Some(deadline), pin!(finished)).await {
        None => Err(Refused {
            outcome: Outcome::MtlsTimeout,
            why: "the handshake was not over in time".to_owned(),
            told: None,
        }),
        Some(Err((error, stream))) => {
            let own = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
            Err(Refused {
                outcome: own.map_or(Outcome::MtlsHandshake, outcome_of),
                why: error.to_string(),
                told: Some(stream),
            })
        }
        Some(Ok(stream)) => met(stream).ok_or_else(|| Refused {
            outcome: Outcome::MtlsHandshake,
            why: "nothing was agreed on".to_owned(),
            told: None,
        }),
    }
}

/// Who is there, and what is spoken. Both were verified; that one is missing does not happen.
fn met(stream: TlsStream<TcpStream>) -> Option<(Stream, Inner, Rc<KnownPeer>)> {
    let connection = stream.get_ref().1;
    let inner = Inner::of_alpn(connection.alpn_protocol()?)?;
    let leaf = connection.peer_certificates()?.first()?;
    let who = Rc::new(KnownPeer {
        id: SpiffeId::of_certificate(leaf).ok()?,
        field: client_certificate::field(leaf),
    });
    Some((Stream::Tls(Box::new(stream)), inner, who))
}

/// Why a handshake failed, as everybody reads it.
fn outcome_of(error: &Error) -> Outcome {
    if let Some(refused) = PeerRefused::of(error) {
        return match refused {
            PeerRefused::NoId(_) => Outcome::MtlsNoId,
            PeerRefused::TrustDomain(_) => Outcome::MtlsTrustDomain,
            PeerRefused::NotAllowed(_) => Outcome::MtlsNotAllowed,
        };
    }
    match error {
        Error::NoCertificatesPresented => Outcome::MtlsNoCertificate,
        Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => Outcome::MtlsExpired,
        Error::InvalidCertificate(_) => Outcome::MtlsUntrusted,
        _ => Outcome::MtlsHandshake,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_say_whether_it_may_be_a_sidecar() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], "other"),
            (&[22], "too few"),
            (&[22, 3, 1, 2], "too few"),
            (&[22, 4], "other"),
            (&[22, 3, 1, 0, 4, 99, 0, 0, 0], "broken"),
            (&[0], "other"),
        ] {
            let said = match judge(bytes) {
                Judged::Ours(_) => "ours",
                Judged::Other => "other",
                Judged::Broken => "broken",
                Judged::TooFew => "too few",
            };
            assert_eq!(said, expected, "{bytes:?}");
        }
    }

    #[test]
    fn an_error_of_the_library_has_one_outcome() {
        let id = SpiffeId::parse("spiffe://a/b").unwrap();
        for (error, code) in [
            (Error::NoCertificatesPresented, "mtls_no_certificate"),
            (CertificateError::UnknownIssuer.into(), "mtls_untrusted"),
            (CertificateError::Expired.into(), "mtls_expired"),
            (CertificateError::NotValidYet.into(), "mtls_expired"),
            (PeerRefused::TrustDomain(id.clone()).into(), "mtls_trust_domain"),
            (PeerRefused::NotAllowed(id).into(), "mtls_not_allowed"),
            (Error::DecryptError, "mtls_handshake"),
        ] {
            assert_eq!(outcome_of(&error).code(), code, "{error:?}");
        }
    }
}
