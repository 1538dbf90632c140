//! Bytes both ways between two connections until both have ended, one has failed, or both are silent for too long.
//!
//! What is read is written on at once, through the one buffer of the worker ([`Scratch`]). A direction holds bytes of its
//! own only while the other side has not taken them: most such connections are silent most of the time, or flow, and
//! must not cost memory for it.
//!
//! An end of one side is passed on as an end (half-close), and the other direction goes on. A side that broke off is
//! named, so that whoever asked can break off the other one too.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::runtime::scratch::{SCRATCH, Scratch};
use crate::runtime::timers::Timer;

/// Bytes of one direction held at once: what one read gave and the other side did not take.
pub const MAX_HELD: usize = SCRATCH;
/// Bytes of one direction passed on before others get their turn.
const TURN: usize = 1024 * 1024;

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first: the client.
    First,
    /// The second: the endpoint.
    Second,
}

/// How a copy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyEnd {
    /// Both sides ended in good order, this one first.
    Finished(Side),
    /// This side broke off.
    Broken(Side),
    /// Both sides were silent for too long.
    Idle,
}

/// Bytes that have passed, as they pass.
#[derive(Debug, Default)]
pub struct Meter {
    /// From the first side to the second.
    pub forth: Cell<u64>,
    /// From the second side to the first.
    pub back: Cell<u64>,
}

/// What a copy is told besides the two sides.
pub struct CopyPlan<'a, F> {
    /// Silence of both sides after which it ends. None: never.
    pub idle: Option<Duration>,
    /// Waits for that.
    pub timer: Timer,
    /// The worker's buffer.
    pub scratch: &'a Scratch,
    /// Where bytes are counted.
    pub meter: &'a Meter,
    /// Told when the first bytes of a side come, before they are passed on.
    pub on_first: F,
}

/// Copies both ways.
pub async fn copy_both<A, B, F>(mut a: &mut A, mut b: &mut B, plan: CopyPlan<'_, F>) -> CopyEnd
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
    F: FnMut(Side),
{
    let CopyPlan {
        idle,
        mut timer,
        scratch,
        meter,
        mut on_first,
    } = plan;
    let mut forth = Direction::default();
    let mut back = Direction::default();
    let mut last_move = Instant::now();
    let mut moved = 0;
    let mut first_to_end = None;
    std::future::poll_fn(|cx| {
        let one = forth.poll(cx, &mut a, &mut b, scratch, &meter.forth, || {
            on_first(Side::First)
        });
        if let Poll::Ready(Err(broken)) = one {
            let side = match broken {
                Broken::Source => Side::First,
                Broken::Sink => Side::Second,
            };
            return Poll::Ready(broken_off(side, first_to_end, meter));
        }
        if forth.has_ended() {
            first_to_end.get_or_insert(Side::First);
        }
        let other = back.poll(cx, &mut b, &mut a, scratch, &meter.back, || {
            on_first(Side::Second)
        });
        if let Poll::Ready(Err(broken)) = other {
            let side = match broken {
                Broken::Source => Side::Second,
                Broken::Sink => Side::First,
            };
            return Poll::Ready(broken_off(side, first_to_end, meter));
        }
        if back.has_ended() {
            first_to_end.get_or_insert(Side::Second);
        }
        if one.is_ready() && other.is_ready() {
            return Poll::Ready(CopyEnd::Finished(first_to_end.unwrap_or(Side::First)));
        }
        let Some(idle) = idle else { return Poll::Pending };
        let now = forth.steps + back.steps;
        if now != moved {
            moved = now;
            last_move = Instant::now();
        }
        timer.poll_passed(cx, last_move + idle).map(|()| CopyEnd::Idle)
    })
    .await
}

/// What it means that a side broke off. Once the other side has ended, a reset is a common way to end too: of whoever closes
/// without reading the last words (PostgreSQL, of TLS's goodbye). Not so of an endpoint that never answered.
fn broken_off(side: Side, ended: Option<Side>, meter: &Meter) -> CopyEnd {
    match (side, ended) {
        (Side::First, Some(Side::Second)) => CopyEnd::Finished(Side::Second),
        (Side::Second, Some(Side::First)) if meter.back.get() > 0 => CopyEnd::Finished(Side::First),
        _ => CopyEnd::Broken(side),
    }
}

#[derive(Default)]
struct Direction {
    /// What was read and not yet taken, from `taken` on.
    held: Vec<u8>,
    taken: usize,
    /// Reads and writes that moved something.
    steps: u64,
    unflushed: bool,
    spoke: bool,
    state: State,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    Ending,
    Ended,
}

/// Which end of a direction failed.
enum Broken {
    Source,
    Sink,
}

impl Direction {
    fn has_ended(&self) -> bool {
        self.state != State::Open
    }

    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        scratch: &Scratch,
        bytes: &Cell<u64>,
        mut on_first: impl FnMut(),
    ) -> Poll<Result<(), Broken>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut turn = TURN;
        loop {
            match self.state {
                State::Ended => return Poll::Ready(Ok(())),
                State::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(|_| Broken::Sink)?;
                    self.state = State::Ended;
                }
                State::Open => {
                    ready!(self.poll_drain(cx, to)).map_err(|_| Broken::Sink)?;
                    if turn == 0 {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    let passed = scratch.with(|space| {
                        let mut space = ReadBuf::new(space);
                        match Pin::new(&mut *from).poll_read(cx, &mut space) {
                            Poll::Pending => return Poll::Pending,
                            Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Source)),
                            Poll::Ready(Ok(())) => {}
                        }
                        let read = space.filled();
                        if !read.is_empty() {
                            bytes.set(bytes.get() + read.len() as u64);
                            if !std::mem::replace(&mut self.spoke, true) {
                                on_first();
                            }
                        }
                        Poll::Ready(
                            self.pass(cx, to, read)
                                .map(|()| read.len())
                                .map_err(|_| Broken::Sink),
                        )
                    });
                    match passed {
                        Poll::Ready(Ok(0)) => self.state = State::Ending,
                        Poll::Ready(Ok(length)) => {
                            self.steps += 1;
                            turn = turn.saturating_sub(length);
                        }
                        Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken)),
                        Poll::Pending => {
                            self.held = Vec::new();
                            if self.unflushed {
                                ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(|_| Broken::Sink)?;
                                self.unflushed = false;
                            }
                            return Poll::Pending;
                        }
                    }
                }
            }
        }
    }

    /// Writes what was just read, and holds what is not taken.
    fn pass<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        read: &[u8],
    ) -> io::Result<()> {
        if read.is_empty() {
            return Ok(());
        }
        self.unflushed = true;
        let taken = match Pin::new(to).poll_write(cx, read) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(taken) => taken?,
            Poll::Pending => 0,
        };
        self.held.clear();
        self.held.extend_from_slice(read.get(taken..).unwrap_or_default());
        self.taken = 0;
        Ok(())
    }

    fn poll_drain<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<io::Result<()>> {
        while let Some(left @ [_, ..]) = self.held.get(self.taken..) {
            let taken = ready!(Pin::new(&mut *to).poll_write(cx, left))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.taken += taken;
            self.steps += 1;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::timers::Timers;
    use std::rc::Rc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    async fn copy(
        mut a: DuplexStream,
        mut b: DuplexStream,
        idle: Option<Duration>,
    ) -> (CopyEnd, (u64, u64), Vec<Side>) {
        let (scratch, meter) = (Scratch::default(), Meter::default());
        let mut order = Vec::new();
        let plan = CopyPlan {
            idle,
            timer: Rc::new(Timers::default()).lease(),
            scratch: &scratch,
            meter: &meter,
            on_first: |side| order.push(side),
        };
        let end = copy_both(&mut a, &mut b, plan).await;
        (end, (meter.forth.get(), meter.back.get()), order)
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_both_ways_and_half_closes_too() {
        let (mut client, a) = duplex(64);
        let (mut server, b) = duplex(64);
        let request = vec![7; 300_000];
        let echo = async {
            let mut got = Vec::new();
            server.read_to_end(&mut got).await.unwrap();
            server.write_all(&got).await.unwrap();
            server.shutdown().await.unwrap();
        };
        let (mut read, mut write) = tokio::io::split(&mut client);
        let send = async {
            write.write_all(&request).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let receive = async { read.read_to_end(&mut got).await.unwrap() };
        let (copied, ..) = tokio::join!(copy(a, b, None), echo, send, receive);
        assert_eq!(got, request);
        assert_eq!(
            copied,
            (
                CopyEnd::Finished(Side::First),
                (300_000, 300_000),
                vec![Side::First, Side::Second]
            )
        );
    }

    #[test]
    fn a_reset_after_the_others_end_is_an_end() {
        use CopyEnd::{Broken, Finished};
        use Side::{First, Second};
        for (side, ended, back, end) in [
            (First, None, 9, Broken(First)),
            (First, Some(First), 9, Broken(First)),
            (First, Some(Second), 9, Finished(Second)),
            (Second, None, 9, Broken(Second)),
            (Second, Some(First), 9, Finished(First)),
            (Second, Some(First), 0, Broken(Second)),
        ] {
            let meter = Meter::default();
            meter.back.set(back);
            assert_eq!(broken_off(side, ended, &meter), end, "{side:?} {ended:?} {back}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_side_that_broke_off_is_named() {
        let (client, a) = duplex(64);
        let (mut server, b) = duplex(64);
        drop(client);
        let write = async { server.write_all(&[1; 1000]).await };
        // Half a connection ends the direction from the client, then the endpoint's bytes find nobody.
        let ((end, ..), _) = tokio::join!(copy(a, b, None), write);
        assert_eq!(end, CopyEnd::Broken(Side::First));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it_and_movement_puts_that_off() {
        let (mut client, a) = duplex(64);
        let (_server, b) = duplex(64);
        let start = Instant::now();
        let speak = async {
            tokio::time::sleep(Duration::from_secs(8)).await;
            client.write_all(b"x").await.unwrap();
            std::future::pending::<()>().await;
        };
        let copied = tokio::select! {
            copied = copy(a, b, Some(Duration::from_secs(10))) => copied,
            () = speak => unreachable!("it waits for ever"),
        };
        assert_eq!((copied.0, start.elapsed().as_secs()), (CopyEnd::Idle, 18));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_is_one_read() {
        let (mut client, a) = duplex(MAX_HELD);
        let (_server, b) = duplex(10);
        let mut sent = 0;
        let write = async {
            while client.write_all(&[0; 1024]).await.is_ok() {
                sent += 1024;
            }
        };
        tokio::select! {
            _ = copy(a, b, None) => unreachable!("nobody ends it"),
            () = write => unreachable!("nobody reads"),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        // One pipe full, one read, and what the other pipe took.
        assert!((MAX_HELD..=2 * MAX_HELD + 10).contains(&sent), "{sent}");
    }
}
