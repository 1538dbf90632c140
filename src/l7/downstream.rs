//! Who a request comes from: one connection's facts, made once and shared by its exchanges.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;

use super::interim::Interim;
use super::upgrade::Tunnel;
use crate::balance::Micros;
use crate::l4::arrival::KnownPeer;
use crate::l4::proxy_protocol::Header;
use crate::l4::redirected::Redirected;
use crate::model::{Certificate, ListenerLimits, ListenerName};

/// One client connection.
pub struct Downstream {
    /// Its number on its worker, from 1.
    pub number: u64,
    /// The address of the listener as configured: the key into the snapshot.
    pub bind: SocketAddr,
    /// Where the client connected to.
    pub local: SocketAddr,
    /// The client.
    pub peer: SocketAddr,
    /// The client's address as a field's value.
    pub peer_text: HeaderValue,
    /// Whether the client is a proxy whose own word is believed.
    pub trusted: bool,
    /// What the client may do.
    pub limits: Arc<ListenerLimits>,
    /// What was agreed on in its TLS handshake; none in clear text.
    pub tls: Option<Rc<ClientTls>>,
    /// Who the client is, if its sidecar has shown it. That TLS is below what the client speaks and no concern of its own.
    pub known: Option<Rc<KnownPeer>>,
    /// Where its requests go, if it was redirected; else the listener's rules say it.
    pub redirected: Option<Rc<Redirected>>,
    /// Interim responses for the client; none can be sent on HTTP/2.
    pub interim: Option<Rc<Interim>>,
    /// How its exchanges come and go.
    pub pace: Pace,
    /// Response bodies that wait for the client.
    pub stalls: Rc<Stalls>,
    /// What an HTTP/1 connection becomes once the response that agrees to it is written.
    pub tunnel: RefCell<Option<Tunnel>>,
}

impl Downstream {
    /// What endpoints are told of it by the PROXY protocol.
    pub fn header(&self) -> Header {
        let tls = self.tls.as_deref();
        Header {
            addresses: Some((self.peer, self.local)),
            authority: tls.and_then(|tls| tls.name.clone()),
            alpn: tls.and_then(|tls| tls.alpn.clone()),
            unique_id: None,
        }
    }

    /// Who the client is by a certificate that was verified, for endpoints.
    pub fn identity(&self) -> Option<&HeaderValue> {
        let by_tls = self.tls.as_ref().and_then(|tls| tls.identity.as_ref());
        by_tls.or_else(|| self.known.as_ref().map(|known| &known.field))
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        match self.tls {
            Some(_) => "https",
            None => "http",
        }
    }
}

/// What was agreed on in a client's TLS handshake.
#[derive(Debug)]
pub struct ClientTls {
    /// The listener that the name led to.
    pub listener: ListenerName,
    /// The name that the client asked for (SNI), in lower case.
    pub name: Option<Box<str>>,
    /// The application protocol that was agreed on (ALPN).
    pub alpn: Option<Box<[u8]>>,
    /// The certificate that it got.
    pub certificate: Arc<Certificate>,
    /// Whether the client was asked who it is.
    pub asked: bool,
    /// Who it is, for endpoints; none without a certificate.
    pub identity: Option<HeaderValue>,
}

/// How the exchanges of a connection come and go.
#[derive(Debug, Default)]
pub struct Pace {
    /// Exchanges that have not ended.
    active: Cell<u32>,
    /// Exchanges that have begun, ever.
    begun: Cell<u64>,
    /// Exchanges that the client gave up.
    given_up: Cell<u64>,
    /// When the last one ended; the connection's start before that.
    idle_since: Cell<Micros>,
    /// The connection is being given up because the client takes nothing.
    stalled: Cell<bool>,
}

impl Pace {
    /// A connection that starts now.
    pub fn starting(now: Micros) -> Self {
        Self {
            idle_since: Cell::new(now),
            ..Self::default()
        }
    }

    /// An exchange begins.
    pub fn begin(&self) {
        self.active.set(self.active.get() + 1);
        self.begun.set(self.begun.get() + 1);
    }

    /// An exchange has ended.
    pub fn end(&self, now: Micros, given_up: bool) {
        self.active.set(self.active.get().saturating_sub(1));
        self.idle_since.set(now);
        if given_up {
            self.given_up.set(self.given_up.get() + 1);
        }
    }

    /// Since when there has been no exchange; none while there is one.
    pub fn idle_since(&self) -> Option<Micros> {
        (self.active.get() == 0).then(|| self.idle_since.get())
    }

    /// Exchanges begun and given up, ever.
    pub fn totals(&self) -> (u64, u64) {
        (self.begun.get(), self.given_up.get())
    }

    /// The connection is given up because the client takes nothing.
    pub fn set_stalled(&self) {
        self.stalled.set(true);
    }

    /// Whether it is.
    pub fn stalled(&self) -> bool {
        self.stalled.get()
    }
}

/// Since when each response body of a connection has been waiting for the client to take what it was given.
///
/// The HTTP library does not ask a body for more while the client takes nothing, so the body cannot notice; the
/// connection looks here instead.
#[derive(Debug, Default)]
pub struct Stalls {
    /// One place per body being sent. Bounded by the streams of a connection.
    since: RefCell<Vec<Place>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Free,
    /// The endpoint is waited for, or nothing was given yet.
    Flowing,
    Waiting(Micros),
}

/// A body's place among [`Stalls`], until dropped.
#[derive(Debug)]
pub struct StallPlace {
    home: Rc<Stalls>,
    index: usize,
}

impl Stalls {
    /// A place for a body.
    pub fn enter(self: &Rc<Self>) -> StallPlace {
        let mut since = self.since.borrow_mut();
        let index = since
            .iter()
            .position(|place| *place == Place::Free)
            .unwrap_or_else(|| {
                since.push(Place::Free);
                since.len() - 1
            });
        since[index] = Place::Flowing;
        StallPlace {
            home: Rc::clone(self),
            index,
        }
    }

    /// The moment since which the client has taken nothing of some body.
    pub fn oldest(&self) -> Option<Micros> {
        let waiting = |place: &Place| match place {
            Place::Waiting(since) => Some(*since),
            Place::Free | Place::Flowing => None,
        };
        self.since.borrow().iter().filter_map(waiting).min()
    }
}

impl StallPlace {
    /// The client was given something and is waited for from now on.
    pub fn given(&self, now: Micros) {
        self.set(Place::Waiting(now));
    }

    /// The client has taken everything.
    pub fn taken(&self) {
        self.set(Place::Flowing);
    }

    fn set(&self, place: Place) {
        if let Some(own) = self.home.since.borrow_mut().get_mut(self.index) {
            *own = place;
        }
    }
}

impl Drop for StallPlace {
    fn drop(&mut self) {
        self.set(Place::Free);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_wait_is_known() {
        let stalls = Rc::new(Stalls::default());
        let first = stalls.enter();
        let second = stalls.enter();
        assert_eq!(stalls.oldest(), None);
        first.given(Micros(5));
        second.given(Micros(3));
        assert_eq!(stalls.oldest(), Some(Micros(3)));
        second.taken();
        assert_eq!(stalls.oldest(), Some(Micros(5)));
        drop(first);
        assert_eq!(stalls.oldest(), None);
        assert_eq!(stalls.enter().index, 0);
    }
}
