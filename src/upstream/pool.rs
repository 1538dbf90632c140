//! The pool: a worker's connections to all endpoints.
//!
//! # Shape
//! One lane per endpoint and protocol. An HTTP/1 lane keeps idle connections, the last used on top, because it is the
//! least likely to have been closed meanwhile. An HTTP/2 lane keeps connections with free streams and opens as many as
//! the streams need; while one is being opened, others wait for it instead of opening their own. Where the protocol is
//! what the endpoint agrees to in its TLS handshake, a lane keeps both kinds, and learns from each new connection whether
//! the next one is worth waiting for.
//!
//! Where endpoints are told who the client is (PROXY protocol), a connection is of one client's connection alone, and so is its
//! lane ([`Whose`]); it falls idle with it.
//!
//! A backend whose TLS changes gets lanes of its own: a connection is never used under other rules than those that it was
//! made by, and the old ones fall idle and go.
//!
//! # Bounds
//! Idle connections per lane: the backend's `max_idle`. All connections of an endpoint over all workers: the backend's
//! `max_connections`, counted in the endpoint's cell. Lanes: those of endpoints in use; empty ones go at the next sweep.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::hash::{BuildHasherDefault, Hasher};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::connect::{self, ConnectError, connect, speaks_http2};
use super::http1::{Http1, MAX_HEAD};
use super::lease::{Exclusive, Kept, Lease};
use crate::balance::{ConnectionSlot, EndpointCell};
use crate::model::{Backend, BackendProtocol, ProxyVersion};
use crate::runtime::local::LocalExecutor;

/// A worker's connections to all endpoints.
pub struct Pool<B> {
    lanes: RefCell<Lanes<B>>,
}

/// Lanes by their endpoint's id, the protocol, the number of the TLS and the owner.
type Lanes<B> = HashMap<(u64, BackendProtocol, u64, u64), Rc<Lane<B>>, BuildHasherDefault<IdHasher>>;

/// For whom a connection to an endpoint is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Whose<'a> {
    /// The number of the one client's connection that may use it, unique on its worker; 0: it is for all.
    pub owner: u64,
    /// What goes before everything else on a new one.
    pub header: &'a [u8],
}

impl Whose<'static> {
    /// For all; where endpoints are told who the client is, for nobody in particular.
    pub fn everybodys(policy: &Backend) -> Self {
        Self {
            owner: 0,
            header: policy.proxy_protocol.map_or(&[], ProxyVersion::own),
        }
    }
}

/// The connections to one endpoint in one protocol.
pub struct Lane<B> {
    cell: Arc<EndpointCell>,
    /// HTTP/1 connections that nobody uses, the last used at the end.
    idle: RefCell<Vec<Idle<B>>>,
    /// HTTP/2 connections.
    shared: RefCell<Vec<Rc<Shared<B>>>>,
    /// HTTP/2 connections being opened.
    opening: Cell<u32>,
    opened: Notify,
    /// Whether the last connection that could speak either turned out to be HTTP/1.
    learned_http1: Cell<bool>,
    /// The backend's bounds as of the last connection made.
    max_streams: Cell<u32>,
    max_idle: Cell<u32>,
    idle_timeout: Cell<std::time::Duration>,
}

struct Idle<B> {
    kept: Box<Kept<B>>,
    /// When a sweep first saw it.
    since: Option<Instant>,
}

/// An HTTP/2 connection.
struct Shared<B> {
    sender: http2::SendRequest<B>,
    streams: Cell<u32>,
    /// Streams that the endpoint allows at once; kept current by the connection's driver.
    allowed: Rc<Cell<usize>>,
    /// Streams ever opened; the connection is given up before ids or reset counters run out.
    opened: Cell<u32>,
    idle_since: Cell<Instant>,
}

/// A place among an HTTP/2 connection's streams.
pub struct Stream<B> {
    pub(super) sender: http2::SendRequest<B>,
    /// The response's body, once its head has come.
    pub(super) incoming: Option<Incoming>,
    pub(super) reused: bool,
    connection: Rc<Shared<B>>,
    lane: Rc<Lane<B>>,
}

/// Streams after which an HTTP/2 connection takes no new ones. Half of the resets that h2 lets one side cause on a
/// connection before it gives the whole connection up ([`MAX_RESETS`]), were every stream reset.
const MAX_STREAMS_EVER: u32 = 500_000;
const MAX_RESETS: usize = 1_000_000;
/// HTTP/2 windows towards endpoints, in bytes: what one exchange, and all of a connection, may have in flight unread.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Bytes of a response's head.
const MAX_RESPONSE_HEAD: u32 = MAX_HEAD as u32;

impl<B> Default for Pool<B>
where
    B: Body<Data = bytes::Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn default() -> Self {
        Self::new()
    }
}

impl<B> Pool<B>
where
    B: Body<Data = bytes::Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// An empty pool.
    pub fn new() -> Self {
        Self {
            lanes: RefCell::default(),
        }
    }

    /// A connection to the endpoint that is there already: an idle one or a free stream.
    ///
    /// `tls` is the number of the backend's TLS ([`tls_of`]), `owner` that of [`Whose`].
    pub fn take(
        &self,
        cell: &EndpointCell,
        protocol: BackendProtocol,
        tls: u64,
        owner: u64,
    ) -> Option<Lease<B>> {
        let lanes = self.lanes.borrow();
        let lane = lanes.get(&(cell.id(), protocol, tls, owner))?;
        let exclusive = || {
            lane.take_idle().map(|kept| {
                Lease::Exclusive(Exclusive {
                    kept,
                    lane: Rc::clone(lane),
                    reused: true,
                })
            })
        };
        match protocol {
            BackendProtocol::Http1 => exclusive(),
            BackendProtocol::H2c => lane.free_stream().map(Lease::Shared),
            BackendProtocol::Auto => lane.free_stream().map(Lease::Shared).or_else(exclusive),
        }
    }

    /// A connection to the endpoint: one that is there already, or a new one.
    pub async fn lease(
        &self,
        cell: &Arc<EndpointCell>,
        protocol: BackendProtocol,
        policy: &Backend,
        whose: Whose<'_>,
    ) -> Result<Lease<B>, ConnectError> {
        if let Some(lease) = self.take(cell, protocol, tls_of(policy), whose.owner) {
            return Ok(lease);
        }
        let lane = self.lane(cell, protocol, policy, whose.owner);
        match protocol {
            BackendProtocol::Http1 => {
                let opened = Self::open_exclusive(lane, policy, whose.header).await;
                opened.map(Lease::Exclusive)
            }
            BackendProtocol::H2c => self.stream(lane, policy, whose.header).await.map(Lease::Shared),
            BackendProtocol::Auto => self.either(lane, policy, whose).await,
        }
    }

    /// A new HTTP/1 connection: for a request whose idle connection turned out to be dead, or that must not share.
    pub async fn lease_fresh(
        &self,
        cell: &Arc<EndpointCell>,
        policy: &Backend,
        whose: Whose<'_>,
    ) -> Result<Lease<B>, ConnectError> {
        let lane = self.lane(cell, BackendProtocol::Http1, policy, whose.owner);
        let opened = Self::open_exclusive(lane, policy, whose.header).await;
        opened.map(Lease::Exclusive)
    }

    /// Closes what has been idle for too long or was closed by the endpoint, takes from what is idle the memory that it
    /// does not need, and forgets lanes that nobody needs. Called a few times a second.
    pub fn sweep(&self, now: Instant) {
        self.lanes.borrow_mut().retain(|_, lane| {
            let timeout = lane.idle_timeout.get();
            let fresh = |since: Instant| now.saturating_duration_since(since) < timeout;
            lane.idle.borrow_mut().retain_mut(|idle| {
                if idle.since.is_some() {
                    idle.kept.connection.trim();
                }
                idle.kept.connection.is_quiet() && fresh(*idle.since.get_or_insert(now))
            });
            lane.shared.borrow_mut().retain(|shared| {
                !shared.sender.is_closed() && (shared.streams.get() > 0 || fresh(shared.idle_since.get()))
            });
            let unused =
                lane.idle.borrow().is_empty() && lane.shared.borrow().is_empty() && lane.opening.get() == 0;
            !unused || Rc::strong_count(lane) > 1
        });
    }

    /// Idle HTTP/1 connections and HTTP/2 connections, over all lanes.
    pub fn size(&self) -> (usize, usize) {
        let lanes = self.lanes.borrow();
        lanes.values().fold((0, 0), |(idle, shared), lane| {
            (
                idle + lane.idle.borrow().len(),
                shared + lane.shared.borrow().len(),
            )
        })
    }

    fn lane(
        &self,
        cell: &Arc<EndpointCell>,
        protocol: BackendProtocol,
        policy: &Backend,
        owner: u64,
    ) -> Rc<Lane<B>> {
        let mut lanes = self.lanes.borrow_mut();
        let lane = lanes
            .entry((cell.id(), protocol, tls_of(policy), owner))
            .or_insert_with(|| {
                Rc::new(Lane {
                    cell: Arc::clone(cell),
                    idle: RefCell::default(),
                    shared: RefCell::default(),
                    opening: Cell::new(0),
                    opened: Notify::new(),
                    learned_http1: Cell::new(false),
                    max_streams: Cell::new(0),
                    max_idle: Cell::new(0),
                    idle_timeout: Cell::new(policy.limits.idle_timeout),
                })
            });
        lane.max_streams.set(policy.limits.max_streams);
        lane.max_idle.set(policy.limits.max_idle);
        lane.idle_timeout.set(policy.limits.idle_timeout);
        Rc::clone(lane)
    }

    async fn open_exclusive(
        lane: Rc<Lane<B>>,
        policy: &Backend,
        header: &[u8],
    ) -> Result<Exclusive<B>, ConnectError> {
        let (stream, slot) = connect(&lane.cell, BackendProtocol::Http1, policy, header).await?;
        Ok(Self::exclusive_over(lane, stream, slot))
    }

    /// HTTP/1 on a connection that is there.
    fn exclusive_over(lane: Rc<Lane<B>>, stream: connect::Stream, slot: ConnectionSlot) -> Exclusive<B> {
        Exclusive {
            kept: Box::new(Kept {
                connection: Http1::new(stream),
                slot,
            }),
            lane,
            reused: false,
        }
    }

    async fn stream(
        &self,
        lane: Rc<Lane<B>>,
        policy: &Backend,
        header: &[u8],
    ) -> Result<Stream<B>, ConnectError> {
        loop {
            if let Some(stream) = lane.free_stream() {
                return Ok(stream);
            }
            if lane.opening.get() == 0 {
                return Self::open_shared(lane, policy, header).await;
            }
            // One is on its way; those whom it has no room for come back here.
            lane.opened.notified().await;
        }
    }

    async fn open_shared(
        lane: Rc<Lane<B>>,
        policy: &Backend,
        header: &[u8],
    ) -> Result<Stream<B>, ConnectError> {
        let opening = Opening::new(&lane);
        let (stream, slot) = connect(&lane.cell, BackendProtocol::H2c, policy, header).await?;
        Self::shared_over(&lane, stream, slot, opening).await
    }

    /// One connection of the protocol that the endpoint agrees to, or a place on one that is there.
    async fn either(
        &self,
        lane: Rc<Lane<B>>,
        policy: &Backend,
        whose: Whose<'_>,
    ) -> Result<Lease<B>, ConnectError> {
        let tls = tls_of(policy);
        loop {
            if let Some(lease) = self.take(&lane.cell, BackendProtocol::Auto, tls, whose.owner) {
                return Ok(lease);
            }
            if lane.opening.get() == 0 || lane.learned_http1.get() {
                break;
            }
            // One is on its way that may be for many.
            lane.opened.notified().await;
        }
        let opening = Opening::new(&lane);
        let (stream, slot) = connect(&lane.cell, BackendProtocol::Auto, policy, whose.header).await?;
        let http2 = matches!(&stream, connect::Stream::Tls(stream) if speaks_http2(stream));
        lane.learned_http1.set(!http2);
        if http2 {
            Self::shared_over(&lane, stream, slot, opening)
                .await
                .map(Lease::Shared)
        } else {
            drop(opening);
            Ok(Lease::Exclusive(Self::exclusive_over(lane, stream, slot)))
        }
    }

    /// HTTP/2 on a connection that is there; those who wait for it are woken.
    async fn shared_over(
        lane: &Rc<Lane<B>>,
        stream: connect::Stream,
        slot: ConnectionSlot,
        opening: Opening<B>,
    ) -> Result<Stream<B>, ConnectError> {
        let handshake = http2::Builder::new(LocalExecutor)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_RESPONSE_HEAD)
            .max_local_error_reset_streams(MAX_RESETS)
            .max_concurrent_reset_streams(1024)
            .max_send_buf_size(64 * 1024)
            .handshake(TokioIo::new(stream));
        let (sender, mut connection) = handshake.await.map_err(ConnectError::Handshake)?;
        let allowed = Rc::new(Cell::new(connection.current_max_send_streams()));
        let newest = Rc::clone(&allowed);
        tokio::task::spawn_local(async move {
            let _ = poll_fn(|cx| {
                let ended = Pin::new(&mut connection).poll(cx);
                newest.set(connection.current_max_send_streams());
                ended
            })
            .await;
            drop(slot);
        });
        let shared = Rc::new(Shared {
            sender,
            streams: Cell::new(0),
            allowed,
            opened: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
        });
        let first = lane.take_stream(&shared);
        lane.shared.borrow_mut().push(shared);
        drop(opening);
        Ok(first)
    }
}

/// The number of a backend's TLS; 0 in clear text.
pub fn tls_of(policy: &Backend) -> u64 {
    policy.tls.as_ref().map_or(0, |tls| tls.id())
}

impl<B: Body<Data = bytes::Bytes> + Unpin> Lane<B> {
    fn take_idle(&self) -> Option<Box<Kept<B>>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(mut candidate) = idle.pop() {
            if candidate.kept.connection.is_quiet() {
                return Some(candidate.kept);
            }
        }
        None
    }
}

impl<B> Lane<B> {
    /// Takes a connection back after a whole exchange.
    pub(super) fn keep(&self, kept: Box<Kept<B>>) {
        // Marked by the next sweep: a quarter of a second more or less does not matter.
        let mut idle = self.idle.borrow_mut();
        if idle.len() < self.max_idle.get() as usize {
            idle.push(Idle { kept, since: None });
        }
    }

    fn free_stream(self: &Rc<Self>) -> Option<Stream<B>> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|connection| !connection.sender.is_closed());
        let free = shared
            .iter()
            .filter(|connection| {
                let bound = (self.max_streams.get() as usize).min(connection.allowed.get());
                (connection.streams.get() as usize) < bound && connection.opened.get() < MAX_STREAMS_EVER
            })
            // The fullest that has room: connections that are not needed fall idle and go.
            .max_by_key(|connection| connection.streams.get())?;
        Some(self.take_stream(free))
    }

    fn take_stream(self: &Rc<Self>, connection: &Rc<Shared<B>>) -> Stream<B> {
        let reused = connection.opened.get() > 0;
        connection.streams.set(connection.streams.get() + 1);
        connection.opened.set(connection.opened.get() + 1);
        Stream {
            sender: connection.sender.clone(),
            incoming: None,
            reused,
            connection: Rc::clone(connection),
            lane: Rc::clone(self),
        }
    }
}

impl<B> Drop for Stream<B> {
    fn drop(&mut self) {
        self.connection.streams.set(self.connection.streams.get() - 1);
        self.connection.idle_since.set(Instant::now());
        // Somebody may wait for room.
        self.lane.opened.notify_one();
    }
}

/// Says that a connection is being opened, and at its end, good or bad, wakes those who wait for it.
struct Opening<B> {
    lane: Rc<Lane<B>>,
}

impl<B> Opening<B> {
    fn new(lane: &Rc<Lane<B>>) -> Self {
        lane.opening.set(lane.opening.get() + 1);
        Self {
            lane: Rc::clone(lane),
        }
    }
}

impl<B> Drop for Opening<B> {
    fn drop(&mut self) {
        self.lane.opening.set(self.lane.opening.get() - 1);
        self.lane.opened.notify_waiters();
    }
}

/// Spreads ids that are counted up; the standard hasher's defence against chosen keys is not needed for our own.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(value as u64);
    }
}
