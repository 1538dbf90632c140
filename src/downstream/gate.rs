//! The gate: stands between an HTTP/1 client's socket and the HTTP library, and lets only unambiguous bytes through.
//!
//! A head that [`Framing`](super::framing) refuses is replaced by a request of the gate's own,
//! `TIDEGATE-REFUSED /<reason>`, which no client can send. So the refusal takes the way of every exchange, behind the
//! responses still owed to earlier requests, and gets its answer and its one outcome there.
//!
//! The first bytes may also be HTTP/2's preface; the gate keeps them and says so, and the connection is served anew.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::framing::{Framing, HeadLimits, Passage};
use crate::l7::interim::Interim;
use crate::l7::refusal::Refusal;

/// A stream whose reads are unambiguous HTTP/1 requests.
#[derive(Debug)]
pub struct Gate<S> {
    stream: S,
    framing: Framing,
    control: Rc<GateControl>,
    /// Bytes that may not pass yet, or never: the start of a head, what was refused. Bounded by the limit on a head and
    /// one read.
    held: Vec<u8>,
    /// Whether the first head may be HTTP/2's preface instead.
    expect_preface: bool,
    /// Bytes that may pass but did not fit, and how many of them are gone.
    passing: (Vec<u8>, usize),
    /// Bytes to write before anything else (interim responses), and how many of them are gone.
    writing: (Vec<u8>, usize),
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    /// A refusal was put in the client's place; nothing more is read.
    Sealed(Refusal),
    /// The body broke the framing.
    Broken,
}

/// What the connection and the gate inside its HTTP library tell each other.
#[derive(Debug, Default)]
pub struct GateControl {
    /// The gate holds the start of a head.
    holding: Cell<bool>,
    /// The gate found HTTP/2's preface where the first head should be.
    preface: Cell<bool>,
    /// The connection wants the head that is being waited for refused.
    refuse: Cell<Option<Refusal>>,
    /// Interim responses, to be written before the response.
    interim: Rc<Interim>,
}

/// HTTP/2's preface as far as it looks like an HTTP/1 head (RFC 9113 §3.4).
const PREFACE_HEAD: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

impl GateControl {
    /// Whether the start of a head is held.
    pub fn holding(&self) -> bool {
        self.holding.get()
    }

    /// Whether the client speaks HTTP/2.
    pub fn preface(&self) -> bool {
        self.preface.get()
    }

    /// Has the head that is waited for refused; the connection must be polled after.
    pub fn refuse(&self, refusal: Refusal) {
        self.refuse.set(Some(refusal));
    }

    /// Where interim responses for this client are put.
    pub fn interim(&self) -> &Rc<Interim> {
        &self.interim
    }
}

impl<S> Gate<S> {
    /// A gate before a stream, at the start of a request; of the connection's first one if `expect_preface`.
    pub fn new(stream: S, limits: HeadLimits, control: Rc<GateControl>, expect_preface: bool) -> Self {
        Self {
            stream,
            framing: Framing::new(limits),
            control,
            held: Vec::new(),
            expect_preface,
            passing: (Vec::new(), 0),
            writing: (Vec::new(), 0),
            end: End::Open,
        }
    }

    /// The stream, and the bytes read from it that nobody has taken; `read` are those that passed and were not used. A
    /// refusal is taken back: what was refused as a request may be the start of another protocol.
    pub fn into_parts(self, read: &[u8]) -> (S, Vec<u8>) {
        let mut rest = read.to_vec();
        rest.extend_from_slice(&self.passing.0[self.passing.1..]);
        if let End::Sealed(refusal) = self.end {
            rest.truncate(rest.len().saturating_sub(refusal.stand_in().len()));
        }
        rest.extend_from_slice(&self.held);
        (self.stream, rest)
    }

    /// Whether nothing is held back, so that the stream can be taken away and served anew.
    pub fn is_clear(&self) -> bool {
        self.held.is_empty()
            && self.passing.0.len() == self.passing.1
            && self.end == End::Open
            && self.framing.at_head()
    }

    /// Whether the client broke the framing of a body: the connection must end.
    pub fn is_broken(&self) -> bool {
        self.end == End::Broken
    }

    /// Acts on what the framing says of bytes given to it: keeps what may not pass, gives how many may.
    fn settle(&mut self, bytes: &[u8]) -> usize {
        let passed = match self.framing.advance(bytes) {
            Passage::Pass(length) => {
                self.hold(&bytes[length..]);
                length
            }
            Passage::Refuse(0, _) if self.expect_preface && bytes.starts_with(PREFACE_HEAD) => {
                self.control.preface.set(true);
                self.hold(bytes);
                0
            }
            Passage::Refuse(length, refusal) => {
                self.seal(refusal, &bytes[length..]);
                length
            }
            Passage::Broken => {
                self.hold(&[]);
                self.end = End::Broken;
                0
            }
        };
        self.expect_preface &= passed == 0;
        passed
    }

    fn hold(&mut self, bytes: &[u8]) {
        // Split heads are rare: no buffer is kept for them.
        self.held = bytes.to_vec();
        self.control.holding.set(!bytes.is_empty());
    }

    fn seal(&mut self, refusal: Refusal, refused: &[u8]) {
        self.passing.0.extend_from_slice(refusal.stand_in().as_bytes());
        self.end = End::Sealed(refusal);
        self.hold(refused);
        self.control.holding.set(false);
    }

    fn give_out(&mut self, buf: &mut ReadBuf<'_>) {
        let (bytes, gone) = &mut self.passing;
        let length = buf.remaining().min(bytes.len() - *gone);
        buf.put_slice(&bytes[*gone..*gone + length]);
        *gone += length;
        if *gone == bytes.len() {
            self.passing = (Vec::new(), 0);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gate<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        loop {
            if gate.passing.0.len() > gate.passing.1 {
                gate.give_out(buf);
                return Poll::Ready(Ok(()));
            }
            match gate.end {
                End::Open if gate.control.preface.get() => return Poll::Pending,
                End::Open => {}
                End::Sealed(_) => return Poll::Pending,
                End::Broken => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            }
            if gate.framing.at_head()
                && let Some(refusal) = gate.control.refuse.take()
            {
                let held = std::mem::take(&mut gate.held);
                gate.seal(refusal, &held);
                continue;
            }
            if gate.held.is_empty() {
                let before = buf.filled().len();
                ready!(Pin::new(&mut gate.stream).poll_read(cx, buf))?;
                let new = &buf.filled()[before..];
                if new.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                let passed = gate.settle(new);
                buf.set_filled(before + passed);
                if passed > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                let mut space = [0; 4096];
                let mut more = ReadBuf::new(&mut space);
                ready!(Pin::new(&mut gate.stream).poll_read(cx, &mut more))?;
                if more.filled().is_empty() {
                    gate.hold(&[]);
                    return Poll::Ready(Ok(()));
                }
                let mut bytes = std::mem::take(&mut gate.held);
                bytes.extend_from_slice(more.filled());
                let passed = gate.settle(&bytes);
                bytes.truncate(passed);
                // A refusal may stand in `passing` already; what passed comes before it.
                bytes.extend_from_slice(&gate.passing.0);
                gate.passing = (bytes, 0);
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Gate<S> {
    /// Writes interim responses that wait, before the bytes of anything else.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let (bytes, gone) = &mut self.writing;
            while *gone < bytes.len() {
                *gone += ready!(Pin::new(&mut self.stream).poll_write(cx, &bytes[*gone..]))?;
            }
            self.writing = (self.control.interim.take(), 0);
            if self.writing.0.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn has_interim(&self) -> bool {
        !self.writing.0.is_empty() || !self.control.interim.is_empty()
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let gate = self.get_mut();
        if gate.has_interim() {
            ready!(gate.poll_interim(cx))?;
        }
        Pin::new(&mut gate.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let gate = self.get_mut();
        if gate.has_interim() {
            ready!(gate.poll_interim(cx))?;
        }
        Pin::new(&mut gate.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        if gate.has_interim() {
            ready!(gate.poll_interim(cx))?;
        }
        Pin::new(&mut gate.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const LIMITS: HeadLimits = HeadLimits {
        bytes: 256,
        fields: 8,
    };

    /// What a reader behind the gate gets of bytes sent in pieces.
    async fn through(
        pieces: &[&str],
        expect_preface: bool,
    ) -> (String, Rc<GateControl>, Gate<tokio::io::DuplexStream>) {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let control = Rc::new(GateControl::default());
        let mut gate = Gate::new(server, LIMITS, Rc::clone(&control), expect_preface);
        let mut got = Vec::new();
        for piece in pieces {
            client.write_all(piece.as_bytes()).await.unwrap();
            let mut buf = [0; 1024];
            while let Ok(Ok(length @ 1..)) =
                tokio::time::timeout(std::time::Duration::from_millis(1), gate.read(&mut buf)).await
            {
                got.extend_from_slice(&buf[..length]);
            }
        }
        (String::from_utf8(got).unwrap(), control, gate)
    }

    #[tokio::test(start_paused = true)]
    async fn good_requests_pass_unchanged_however_they_are_cut() {
        let request = "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";
        for cut in 0..request.len() {
            let (got, control, gate) = through(&[&request[..cut], &request[cut..], request], true).await;
            assert_eq!(got, request.repeat(2), "cut at {cut}");
            assert!(!control.holding() && gate.is_clear());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_head_is_replaced_behind_what_was_good() {
        let good = "GET /good HTTP/1.1\r\n\r\n";
        let bad = "GET /bad HTTP/1.1\nhost: a\n\n";
        for cut in 0..good.len() + bad.len() {
            let both = format!("{good}{bad}");
            let (got, _, gate) = through(&[&both[..cut], &both[cut..], good], true).await;
            assert_eq!(
                got,
                format!("{good}TIDEGATE-REFUSED /0 HTTP/1.1\r\n\r\n"),
                "cut at {cut}"
            );
            let refused = gate.into_parts(b"").1;
            assert!(
                !refused.is_empty() && bad.as_bytes().starts_with(&refused),
                "cut at {cut}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_preface_is_kept_for_whoever_serves_it() {
        let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let (got, control, gate) = through(&[&preface[..5], &preface[5..]], true).await;
        assert_eq!((got.as_str(), control.preface()), ("", true));
        assert_eq!(gate.into_parts(b"").1, preface.as_bytes());
        let (got, control, _) = through(&[preface], false).await;
        assert_eq!(
            (got.as_str(), control.preface()),
            ("TIDEGATE-REFUSED /0 HTTP/1.1\r\n\r\n", false)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_takes_too_long_can_be_refused() {
        let (got, control, mut gate) = through(&["GET / HT"], true).await;
        assert!(got.is_empty() && control.holding());
        control.refuse(Refusal::TooSlow);
        let mut buf = [0; 64];
        let length = gate.read(&mut buf).await.unwrap();
        assert_eq!(&buf[..length], b"TIDEGATE-REFUSED /4 HTTP/1.1\r\n\r\n");
    }

    #[tokio::test(start_paused = true)]
    async fn interim_responses_go_before_the_response() {
        let (mut client, server) = tokio::io::duplex(1024);
        let control = Rc::new(GateControl::default());
        let mut gate = Gate::new(server, LIMITS, Rc::clone(&control), true);
        control
            .interim()
            .push(http::StatusCode::EARLY_HINTS, &http::HeaderMap::new());
        gate.write_all(b"final").await.unwrap();
        let expected = b"HTTP/1.1 103 Early Hints\r\n\r\nfinal";
        let mut got = vec![0; expected.len()];
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(got, expected);
    }
}
