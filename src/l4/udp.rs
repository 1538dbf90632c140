//! Datagrams: a client's datagrams go to one endpoint for as long as either of them has something to say, and the
//! endpoint's go back to the client.
//!
//! # Sessions
//! A session is a client's address at a listener, with a socket of its own towards its endpoint, connected, so that the kernel
//! gives back only what comes from there, and also says when nobody listens there (ICMP). The kernel gives all datagrams of a
//! client to one worker (it hashes addresses over the sockets of an address), so a worker's table is its own, and nothing is
//! locked. A session ends when both sides have been silent for `relay_idle`, when the endpoint has given the number of
//! responses that the listener says there are (`responses`; 1 for DNS), when the endpoint is gone, or when the process ends.
//!
//! # What is learnt of endpoints
//! How soon the first answer comes, as with connections (`answer.rs`). Refusal by ICMP is a failure of the endpoint; the client's
//! first datagram is kept until the first answer and then goes to another one. Where responses are expected, silence is a failure
//! too.
//!
//! # Bounds
//! Sessions: `max_connections` of the listener, over all workers; more datagrams of strangers are dropped. What a socket does not
//! take at once is dropped, as any router does: nothing is queued here. Batches (`recvmmsg`) would need what no safe library offers.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use foldhash::fast::RandomState;
use socket2::SockRef;
use tokio::io::{Interest, ReadBuf};
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::answer::FirstAnswer;
use super::arrival::{Arrival, Carrier};
use super::copy::Side;
use super::desk::Desk;
use super::plan::{Forward, decide, wants_another};
use super::record::Record;
use super::relay::{judge, pick};
use crate::balance::{EndpointCell, Observed};
use crate::model::{ListenerLimits, Transport};
use crate::telemetry::Outcome;

/// Datagrams received in a row before others get their turn.
const TURN: usize = 64;
/// The largest first datagram that is kept for another endpoint.
const MAX_KEPT: usize = 2048;
/// Silence after which a session ends when the process is to end.
const DRAIN_IDLE: Duration = Duration::from_secs(1);

/// One address of datagrams at one worker.
pub struct Datagrams<P> {
    desk: Rc<Desk>,
    /// As configured: the key into the snapshot.
    bind: SocketAddr,
    local: SocketAddr,
    socket: Rc<UdpSocket>,
    sessions: RefCell<HashMap<SocketAddr, Rc<Session>, RandomState>>,
    /// Gives a session its place in the counts, up to so many of them; none when there are as many.
    enter: Box<dyn Fn(u32) -> Option<P>>,
}

/// A client's exchange of datagrams with an endpoint.
struct Session {
    socket: RefCell<Rc<UdpSocket>>,
    answer: RefCell<Rc<FirstAnswer>>,
    record: RefCell<Record>,
    last: Cell<Instant>,
    /// A sending found out that nobody listens at the endpoint.
    refused: Cell<bool>,
    /// The client's first datagram, until there is an answer.
    first: RefCell<Option<Box<[u8]>>>,
}

impl<P: 'static> Datagrams<P> {
    /// At a socket. `enter` gives a session its place in the counts; it is told how many there may be.
    pub fn new(
        desk: &Rc<Desk>,
        bind: SocketAddr,
        socket: UdpSocket,
        enter: impl Fn(u32) -> Option<P> + 'static,
    ) -> io::Result<Rc<Self>> {
        Ok(Rc::new(Self {
            desk: Rc::clone(desk),
            bind,
            local: socket.local_addr()?,
            socket: Rc::new(socket),
            sessions: RefCell::default(),
            enter: Box::new(enter),
        }))
    }

    /// Takes datagrams until dropped.
    pub async fn serve(self: Rc<Self>) {
        loop {
            if self.socket.readable().await.is_err() {
                tokio::task::yield_now().await;
                continue;
            }
            for _ in 0..TURN {
                let taken = self.desk.scratch.with(|space| {
                    let (length, client) = self.socket.try_recv_from(space)?;
                    self.take(client, space.get(..length).unwrap_or_default());
                    Ok::<_, io::Error>(())
                });
                match taken {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // Of a datagram sent to a client that is gone; the next one may be good.
                    Err(_) => {}
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// A client's datagram.
    fn take(self: &Rc<Self>, client: SocketAddr, datagram: &[u8]) {
        let known = self.sessions.borrow().get(&client).cloned();
        match known {
            Some(session) => session.send(&self.desk, datagram),
            None if self.desk.draining() => {}
            None => self.open(client, datagram),
        }
    }

    /// A client that was not known.
    fn open(self: &Rc<Self>, client: SocketAddr, datagram: &[u8]) {
        let snapshot = self.desk.snapshot();
        let Some(entry) = snapshot.bind_of(&self.bind, Transport::Udp) else {
            return;
        };
        let limits = Arc::clone(&entry.limits);
        let Some(place) = (self.enter)(limits.max_connections) else {
            return;
        };
        let mut local = self.local;
        if let Some(port) = entry.public_port {
            local.set_port(port.get());
        }
        let from = Rc::new(Arrival {
            carrier: Carrier::Udp,
            ..Arrival::unknown(self.bind, local, client)
        });
        let mut record = Record::open(&self.desk, &from);
        let decided = decide(Some(&**entry), "", || self.desk.random());
        drop(snapshot);
        let reached = decided.and_then(|forward| {
            record.set_forward(&forward);
            let (socket, answer) = reach(&self.desk, &from, &forward, &mut record, &[], datagram)?;
            Ok((forward, socket, answer))
        });
        let (forward, socket, answer) = match reached {
            Ok(reached) => reached,
            Err(outcome) => return record.end(outcome),
        };
        let session = Rc::new(Session {
            socket: RefCell::new(socket),
            answer: RefCell::new(answer),
            record: RefCell::new(record),
            last: Cell::new(Instant::now()),
            refused: Cell::new(false),
            first: RefCell::new((datagram.len() <= MAX_KEPT).then(|| datagram.into())),
        });
        session.asked(&self.desk, datagram.len());
        self.sessions.borrow_mut().insert(client, Rc::clone(&session));
        let own = Rc::clone(self);
        tokio::task::spawn_local(async move {
            own.follow(&session, &from, &forward, &limits).await;
            own.sessions.borrow_mut().remove(&client);
            drop(place);
        });
    }

    /// Carries the endpoint's datagrams back until the session ends.
    async fn follow(&self, session: &Session, from: &Arrival, forward: &Forward, limits: &ListenerLimits) {
        let mut tried = vec![session.answer.borrow().cell().id()];
        loop {
            let end = self.carry(session, from.peer, limits).await;
            let now = self.desk.now();
            let answer = Rc::clone(&session.answer.borrow());
            let silent = session.record.borrow().meter.back.get() == 0;
            let seen = match end {
                End::Gone => Observed::Failed,
                End::Idle if silent && limits.responses.is_some() => Observed::Failed,
                End::Idle | End::Done => Observed::Answered,
            };
            answer.ended(now, seen);
            if seen == Observed::Failed {
                judge(&self.desk, forward, &answer.cell());
            }
            let outcome = match end {
                End::Gone => Outcome::ConnectRefused,
                End::Idle => Outcome::RelayIdle,
                End::Done => Outcome::Relayed,
            };
            let kept = session.first.borrow_mut().take();
            let retry = &forward.rule.rule.retry;
            let tries = u8::try_from(tried.len()).unwrap_or(u8::MAX);
            if let (End::Gone, Some(first)) = (end, kept)
                && wants_another(retry, tries)
                && forward.backend.with_budget(|budget| budget.try_retry(now))
            {
                forward.backend.metrics.retry(self.desk.index);
                let mut record = session.record.borrow_mut();
                let reached = reach(&self.desk, from, forward, &mut record, &tried, &first);
                drop(record);
                if let Ok((socket, answer)) = reached {
                    tried.push(answer.cell().id());
                    session.socket.replace(socket);
                    session.answer.replace(answer);
                    session.asked(&self.desk, 0);
                    session.first.replace(Some(first));
                    continue;
                }
            }
            return session.record.borrow_mut().end(outcome);
        }
    }

    /// Carries what one endpoint sends.
    async fn carry(&self, session: &Session, client: SocketAddr, limits: &ListenerLimits) -> End {
        let socket = Rc::clone(&session.socket.borrow());
        let answer = Rc::clone(&session.answer.borrow());
        let mut timer = self.desk.timers.lease();
        let mut responses = 0;
        let mut drained = std::pin::pin!(self.desk.drained());
        let mut draining = false;
        let mut refused = std::pin::pin!(refusal(&socket));
        std::future::poll_fn(|cx| {
            if refused.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::Gone);
            }
            for _ in 0..TURN {
                let came = self.desk.scratch.with(|space| {
                    let mut space = ReadBuf::new(space);
                    socket.poll_recv(cx, &mut space).map(|came| {
                        came.map(|()| {
                            let datagram = space.filled();
                            session.received(&self.desk, datagram.len());
                            // What the client's socket does not take is lost, as anywhere on its way.
                            let _ = self.socket.try_send_to(datagram, client);
                        })
                    })
                });
                match came {
                    Poll::Pending => break,
                    Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                        return Poll::Ready(End::Gone);
                    }
                    Poll::Ready(Err(_)) => {}
                    Poll::Ready(Ok(())) => {
                        responses += 1;
                        if limits.responses.is_some_and(|most| responses >= most) {
                            return Poll::Ready(End::Done);
                        }
                    }
                }
            }
            if session.refused.take() {
                return Poll::Ready(End::Gone);
            }
            answer.poll(cx, || self.desk.now());
            if !draining && drained.as_mut().poll(cx).is_ready() {
                draining = true;
            }
            let idle = match limits.relay_idle {
                Some(idle) if !draining => idle,
                Some(idle) => idle.min(DRAIN_IDLE),
                None if draining => DRAIN_IDLE,
                None => return Poll::Pending,
            };
            timer
                .poll_passed(cx, session.last.get() + idle)
                .map(|()| End::Idle)
        })
        .await
    }
}

/// Ready once the kernel says that nobody listens at the other end. That makes a socket neither readable nor writable, so it is
/// waited for apart.
async fn refusal(socket: &UdpSocket) {
    while socket.ready(Interest::ERROR).await.is_ok() {
        let error = socket.take_error().ok().flatten();
        if error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            return;
        }
        // Looked at: the next one is waited for.
        let _ = socket.try_io(Interest::ERROR, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }
}

/// How the carrying for one endpoint ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nobody listens at the endpoint.
    Gone,
    /// Both sides were silent for too long.
    Idle,
    /// All responses have come.
    Done,
}

impl Session {
    /// A datagram of the client's.
    fn send(&self, desk: &Desk, datagram: &[u8]) {
        self.asked(desk, datagram.len());
        // Past the runtime, which holds a new socket for full until its own first look. What does not fit is lost. A refusal of an earlier datagram shows here or at the receiving, once; the session is
        // woken by it in either case.
        let sent = SockRef::from(&**self.socket.borrow()).send(datagram);
        if sent.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            self.refused.set(true);
        }
    }

    /// So many bytes of the client's go to the endpoint.
    fn asked(&self, desk: &Desk, length: usize) {
        self.last.set(Instant::now());
        let record = self.record.borrow();
        record.meter.forth.set(record.meter.forth.get() + length as u64);
        self.answer.borrow().spoke(Side::First, desk.now());
    }

    /// A datagram of the endpoint's.
    fn received(&self, desk: &Desk, length: usize) {
        self.last.set(Instant::now());
        self.first.replace(None);
        let mut record = self.record.borrow_mut();
        record.meter.back.set(record.meter.back.get() + length as u64);
        if let Some(micros) = self.answer.borrow().spoke(Side::Second, desk.now()) {
            record.answered(micros);
        }
    }
}

/// A socket towards an endpoint that was not tried, to which the datagram was sent.
fn reach(
    desk: &Rc<Desk>,
    from: &Arrival,
    forward: &Forward,
    record: &mut Record,
    tried: &[u64],
    first: &[u8],
) -> Result<(Rc<UdpSocket>, Rc<FirstAnswer>), Outcome> {
    if tried.is_empty() {
        let now = record.started();
        forward.backend.with_budget(|budget| budget.on_request(now));
    }
    let cell = pick(desk, from, forward, tried)?.ok_or(Outcome::Overloaded)?;
    let now = desk.now();
    let in_flight = EndpointCell::start(&cell, now);
    record.attempt(&in_flight);
    let socket = connected(cell.address(), first).map_err(|error| {
        tracing::warn!(endpoint = %cell.address(), %error, "no socket for a session");
        Outcome::ConnectFailed
    })?;
    record.connected(0);
    let answer = FirstAnswer::connected(in_flight, now, desk.timers.lease());
    Ok((Rc::new(socket), Rc::new(answer)))
}

/// A socket that speaks with one address only. The first datagram is sent before the runtime knows the socket: it would hold it for
/// full until its own first look.
fn connected(address: SocketAddr, first: &[u8]) -> io::Result<UdpSocket> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = StdSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    socket.connect(address)?;
    socket.send(first)?;
    UdpSocket::from_std(socket)
}
