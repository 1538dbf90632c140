//! One client connection, from its first byte to its last.
//!
//! # Life
//! An HTTP/1 connection is *served* while it has something to do and *parked* while it has not: after a moment without
//! a request the HTTP library is taken away from the socket, with its buffers, and only the socket and a timer wait for
//! the next byte. That is what an idle connection costs: a few hundred bytes instead of twenty thousand.
//!
//! Where the listener has TLS, the handshake comes first (`handshake.rs`); a connection behind TLS is parked in the same
//! way, and keeps its keys and the library's read buffer meanwhile.
//!
//! Where the listener relays bytes, none of this happens: the connection goes to the fourth layer (`src/l4/relay.rs`), with
//! its TLS ended, unopened, or none.
//!
//! A connection that turns out to speak HTTP/2 is handed to the HTTP/2 side with the bytes read so far.
//!
//! While served, a connection is looked at once a second (`watch.rs`).

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::accept::Place;
use super::framing::HeadLimits;
use super::gate::{Gate, GateControl};
use super::handshake::{Shaken, Stream, say_goodbye, shake, socket};
use super::introduce::introduce;
use super::mtls::{Greeted, greet};
use super::redirected::{Met, Told, canonical, meet, original_destination};
use super::watch::{Verdict, Watch};
use crate::l4::arrival::{Arrival, Carrier};
use crate::l4::prefixed::Prefixed;
use crate::l4::record;
use crate::l4::relay::relay;
use crate::l7::downstream::{Downstream, Pace, Stalls};
use crate::l7::exchange::exchange;
use crate::l7::record::Record;
use crate::l7::refusal::Refusal;
use crate::l7::worker::Worker;
use crate::model::{Inner, Opening, Protocols};
use crate::runtime::local::LocalExecutor;
use crate::runtime::stream::OnTcp;
use crate::telemetry::Outcome;

/// How long, and for how many bytes, a connection that ended early is read on, so that the client gets to read why.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;
/// Silence after which the kernel asks whether the client is still there, and how often it asks again.
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Buffer of an HTTP/1 connection beyond its head, in bytes.
const MAX_BUFFER: usize = 64 * 1024;
/// Bytes that wait for a client on one HTTP/2 stream.
const MAX_SEND_BUFFER: usize = 64 * 1024;
/// Streams reset for the client's faults in an HTTP/2 connection's life ("MadeYouReset").
const MAX_FAULTS: usize = 400;

/// Serves a connection until it ends.
pub async fn serve(worker: Rc<Worker>, mut stream: TcpStream, mut peer: SocketAddr, place: &Place) {
    let bind = place.door.bind;
    let snapshot = worker.snapshot();
    // A listener that is gone is still served to those who came while it was closed: they get an answer.
    let (limits, protocols, opening, mtls, public_port) = match snapshot.bind(&bind) {
        Some(entry) => (
            Arc::clone(&entry.limits),
            entry.protocols,
            entry.opening,
            entry.mtls.clone().filter(|_| entry.opening != Opening::Tls),
            entry.public_port,
        ),
        None => (Arc::default(), Protocols::default(), Opening::Http, None, None),
    };
    drop(snapshot);
    if place.count > limits.max_connections {
        place.door.metrics.refused(worker.index);
        return;
    }
    let Some(mut local) = prepare(&stream) else { return };
    if let Some(port) = public_port {
        local.set_port(port.get());
    }
    let mut introduced = None;
    if let Some(policy) = &limits.proxy_protocol {
        match Box::pin(introduce(&mut stream, peer, policy)).await {
            Ok(header) => {
                (peer, local) = header.addresses.unwrap_or((peer, local));
                introduced = Some(Box::new(header));
            }
            Err(outcome) => {
                stream.reset_on_drop();
                return refuse(&worker, Arrival::unknown(bind, local, peer), outcome);
            }
        }
    }
    let mut original = None;
    if matches!(opening, Opening::Redirected(_)) {
        let here = canonical(local);
        original = original_destination(&stream, here).filter(|original| *original != here);
        if original.is_none() {
            stream.reset_on_drop();
            let from = Arrival::unknown(bind, local, peer);
            return refuse(&worker, from, Outcome::RedirectLoop);
        }
    }
    let (stream, told, known) = match mtls {
        None => (Stream::Plain(stream), Told::Nothing, None),
        Some(service) => {
            let wanted = original.unwrap_or(local).port();
            let greeting = greet(&worker, stream, (peer, wanted), &service, &place.door, &limits);
            match Box::pin(greeting).await {
                Greeted::Plain { stream, waited } => {
                    let told = if waited { Told::Silent } else { Told::Nothing };
                    (Stream::Plain(stream), told, None)
                }
                Greeted::Peer { stream, inner, who } => (stream, Told::By(inner), Some(who)),
                Greeted::Refused(outcome) => {
                    let from = Arrival::unknown(bind, original.unwrap_or(local), peer);
                    return refuse(&worker, from, outcome);
                }
                Greeted::Gone => return,
            }
        }
    };
    let arrival = |name, alpn, carrier, introduced| {
        Rc::new(Arrival {
            name,
            alpn,
            carrier,
            introduced,
            known: known.clone(),
            ..Arrival::unknown(bind, local, peer)
        })
    };
    let mut redirected = None;
    let said = match told {
        Told::By(inner) => Some(inner),
        Told::Nothing | Told::Silent => None,
    };
    let (mut stream, tls, http2) = match (opening, stream) {
        (Opening::Http, stream) => (stream, None, said == Some(Inner::Http2)),
        (Opening::Anything, stream) => {
            let carrier = if said.is_some() {
                Carrier::Mtls
            } else {
                Carrier::Tcp
            };
            let from = arrival(None, None, carrier, introduced);
            return Box::pin(relay(worker.desk(), from, stream, limits.relay_idle)).await;
        }
        (Opening::Redirected(direction), stream) => {
            let original = original.unwrap_or(local);
            let met = meet(
                &worker,
                stream.tcp(),
                original,
                direction,
                &place.door,
                &limits,
                told,
            );
            match Box::pin(met).await {
                Met::Http(to) => {
                    // Where the client thinks that it is.
                    local = original;
                    redirected = Some(to);
                    (stream, None, said == Some(Inner::Http2))
                }
                Met::Opaque(to, carrier) => {
                    let from = Rc::new(Arrival {
                        carrier,
                        redirected: Some(to),
                        known,
                        ..Arrival::unknown(bind, original, peer)
                    });
                    return Box::pin(relay(worker.desk(), from, stream, limits.relay_idle)).await;
                }
                Met::Gone => return,
            }
        }
        // Nobody has begun with TLS here yet.
        (Opening::Tls, Stream::Tls(_)) => return,
        (Opening::Tls, Stream::Plain(stream)) => {
            match Box::pin(shake(&worker, stream, peer, &place.door, &limits)).await {
                Some(Shaken::Http { stream, tls, http2 }) => (stream, Some(Rc::new(tls)), http2),
                Some(Shaken::Opaque { stream, name, alpn }) => {
                    let from = arrival(name, alpn, Carrier::Tls, introduced);
                    return Box::pin(relay(worker.desk(), from, stream, limits.relay_idle)).await;
                }
                Some(Shaken::Unopened { stream, name }) => {
                    let from = arrival(name, None, Carrier::Passthrough, introduced);
                    return Box::pin(relay(worker.desk(), from, stream, limits.relay_idle)).await;
                }
                None => return,
            }
        }
    };
    let may_have_preface = protocols.http2 && tls.is_none() && said != Some(Inner::Http1);
    let control = Rc::new(GateControl::default());
    let from = Rc::new(Downstream {
        number: worker.next_number(),
        bind,
        local,
        peer,
        peer_text: address_text(peer),
        trusted: limits
            .trusted_proxies
            .iter()
            .any(|network| network.contains(&peer.ip()))
            // What clients say of those behind them is between them and the server: nobody asked for a proxy.
            || redirected.is_some(),
        tls,
        known,
        redirected,
        interim: Some(Rc::clone(control.interim())),
        pace: Pace::starting(worker.now()),
        stalls: Rc::new(Stalls::default()),
        tunnel: RefCell::new(None),
        limits,
    });
    if http2 {
        return Box::pin(serve_http2(&worker, &from, Prefixed::new(Bytes::new(), stream))).await;
    }
    let mut first = true;
    loop {
        // In a box of its own, so that a parked connection does not keep its room.
        let serving = Box::pin(serve_http1(
            &worker,
            &from,
            &control,
            stream,
            first,
            may_have_preface,
        ));
        stream = match serving.await {
            End::Parked(parked) => parked,
            End::Http2(http2, read) => {
                return Box::pin(serve_http2(&worker, &from, Prefixed::new(read, http2))).await;
            }
            End::Done => return,
        };
        first = false;
        if !wait_for_more(&worker, &from, socket(&stream)).await {
            say_goodbye(&mut stream).await;
            return;
        }
    }
}

/// Records a connection that is not served.
fn refuse(worker: &Worker, from: Arrival, outcome: Outcome) {
    record::Record::open(worker.desk(), &Rc::new(from)).end(outcome);
}

/// The options that all client sockets have; gives the address that the client connected to.
fn prepare(stream: &TcpStream) -> Option<SocketAddr> {
    let keep_alive = TcpKeepalive::new()
        .with_time(KEEP_ALIVE_AFTER)
        .with_interval(KEEP_ALIVE_INTERVAL);
    stream.set_nodelay(true).ok()?;
    SockRef::from(stream).set_tcp_keepalive(&keep_alive).ok()?;
    stream.local_addr().ok()
}

/// The address alone, IPv4 without its IPv6 clothes.
fn address_text(peer: SocketAddr) -> HeaderValue {
    HeaderValue::from_str(&peer.ip().to_canonical().to_string())
        .unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

/// How the serving of an HTTP/1 connection ended.
enum End {
    /// Idle: nothing but the socket is left of it.
    Parked(Stream),
    /// It is HTTP/2; these bytes were read.
    Http2(Stream, Bytes),
    /// The connection is over.
    Done,
}

/// Waits for a parked connection's next byte. False: it is over.
async fn wait_for_more(worker: &Worker, from: &Downstream, socket: &TcpStream) -> bool {
    let since = from
        .pace
        .idle_since()
        .map_or_else(Instant::now, |since| worker.clock.instant_of(since));
    let mut timer = worker.timers.lease();
    let more = async {
        tokio::select! {
            readable = socket.readable() => readable.is_ok(),
            () = worker.drained() => false,
        }
    };
    timer
        .within(Some(since + from.limits.keep_alive_idle), pin!(more))
        .await
        .unwrap_or(false)
}

async fn serve_http1(
    worker: &Rc<Worker>,
    from: &Rc<Downstream>,
    control: &Rc<GateControl>,
    stream: Stream,
    first: bool,
    may_have_preface: bool,
) -> End {
    let head = HeadLimits {
        bytes: from.limits.max_head_bytes as usize,
        fields: usize::from(from.limits.max_headers),
    };
    let gate = Gate::new(stream, head, Rc::clone(control), first && may_have_preface);
    let mut builder = http1::Builder::new();
    builder
        .auto_date_header(false)
        .header_read_timeout(None)
        .max_buf_size(MAX_BUFFER.max(2 * head.bytes));
    if head.fields > 100 {
        // Up to 100 the library keeps fields on the stack.
        builder.max_headers(head.fields);
    }
    let service = service_fn(|request| Box::pin(exchange(Rc::clone(worker), Rc::clone(from), request)));
    let mut connection = builder.serve_connection(TokioIo::new(gate), service);
    let mut watch = Watch::new(worker, from);
    let mut drained = pin!(worker.drained());
    let mut draining = false;
    let verdict = poll_fn(|cx| {
        if !draining && drained.as_mut().poll(cx).is_ready() {
            draining = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        loop {
            if let Poll::Ready(ended) = connection.poll_without_shutdown(cx) {
                if ended.is_err_and(|error| error.is_parse()) {
                    // The library has answered by itself.
                    Record::refused(worker, from, Refusal::Malformed);
                }
                return Poll::Ready(Verdict::Over);
            }
            if control.preface() {
                return Poll::Ready(Verdict::Preface);
            }
            match watch.poll(cx, control.holding(), first) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Verdict::HeadTooSlow) => control.refuse(Refusal::TooSlow),
                Poll::Ready(verdict) => return Poll::Ready(verdict),
            }
        }
    })
    .await;
    if verdict == Verdict::Idle {
        // An idle connection ends at once when asked to, and leaves the socket open.
        Pin::new(&mut connection).graceful_shutdown();
        let ended = poll_fn(|cx| Poll::Ready(connection.poll_without_shutdown(cx).is_ready())).await;
        if !ended {
            // A request came in this very moment; its response says that it is the last.
            let _ = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
        }
    }
    let parts = connection.into_parts();
    let gate = parts.io.into_inner();
    let clear = gate.is_clear() && parts.read_buf.is_empty();
    let broken = gate.is_broken();
    let (mut stream, rest) = gate.into_parts(&parts.read_buf);
    let tunnel = from.tunnel.borrow_mut().take();
    match verdict {
        Verdict::Preface => End::Http2(stream, Bytes::from(rest)),
        Verdict::Idle if clear => End::Parked(stream),
        _ if tunnel.is_some() && !broken => {
            if let Some(tunnel) = tunnel {
                tunnel.run(stream, Bytes::from(rest)).await;
            }
            End::Done
        }
        Verdict::Stalled | Verdict::Abusive => End::Done,
        _ => {
            linger(&mut stream).await;
            End::Done
        }
    }
}

async fn serve_http2(worker: &Rc<Worker>, from: &Rc<Downstream>, stream: Prefixed<Stream>) {
    let limits = &from.limits;
    let from = Rc::new(Downstream {
        number: from.number,
        bind: from.bind,
        local: from.local,
        peer: from.peer,
        peer_text: from.peer_text.clone(),
        trusted: from.trusted,
        limits: Arc::clone(limits),
        tls: from.tls.clone(),
        known: from.known.clone(),
        redirected: from.redirected.clone(),
        interim: None,
        pace: Pace::starting(worker.now()),
        stalls: Rc::new(Stalls::default()),
        tunnel: RefCell::new(None),
    });
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .auto_date_header(false)
        .enable_connect_protocol()
        .max_concurrent_streams(limits.max_concurrent_streams)
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_header_list_size(limits.max_head_bytes)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .max_local_error_reset_streams(MAX_FAULTS);
    let service = service_fn(|request| exchange(Rc::clone(worker), Rc::clone(&from), request));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut watch = Watch::new(worker, &from);
    let mut drained = pin!(worker.drained());
    let mut ending = false;
    poll_fn(|cx| {
        if !ending && drained.as_mut().poll(cx).is_ready() {
            ending = true;
            connection.as_mut().graceful_shutdown();
        }
        loop {
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            match watch.poll(cx, false, false) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Verdict::Idle) if !watch.idle_for(limits.keep_alive_idle) => {}
                Poll::Ready(Verdict::Idle) if !ending => {
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
    })
    .await;
}

/// Ends a connection so that the client can read what was written last: closing with bytes unread would reset it.
pub(super) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let drain = async {
        let mut space = [0; 4096];
        let mut left = LINGER_BYTES;
        while let Ok(length @ 1..) = stream.read(&mut space).await {
            left = left.saturating_sub(length);
            if left == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, drain).await;
}
