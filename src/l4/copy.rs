//! Bytes both ways between two connections until both have ended, one has failed, or both are silent for too long.
//!
//! A direction holds a buffer only while it has bytes that the other side has not taken: most such connections
//! (WebSockets) are silent most of the time and must not cost memory for it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::runtime::timers::Timer;

/// Bytes of one direction held at once.
const BUFFER: usize = 16 * 1024;

/// How a copy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyEnd {
    /// Both sides ended in good order.
    Finished,
    /// A side broke off.
    Broken,
    /// Both sides were silent for too long.
    Idle,
}

/// What was copied, and how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Bytes from the first side to the second.
    pub forth: u64,
    /// Bytes from the second side to the first.
    pub back: u64,
    /// How it ended.
    pub end: CopyEnd,
}

/// Copies both ways. An end of one side is passed on (half-close); the other direction goes on.
pub async fn copy_both<A, B>(mut a: A, mut b: B, idle: Option<Duration>, mut timer: Timer) -> Copied
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut forth = Direction::default();
    let mut back = Direction::default();
    let mut last_move = Instant::now();
    let mut moved = 0;
    let end = std::future::poll_fn(|cx| {
        let first = forth.poll(cx, &mut a, &mut b);
        let second = back.poll(cx, &mut b, &mut a);
        if matches!(first, Poll::Ready(Err(_))) || matches!(second, Poll::Ready(Err(_))) {
            return Poll::Ready(CopyEnd::Broken);
        }
        if first.is_ready() && second.is_ready() {
            return Poll::Ready(CopyEnd::Finished);
        }
        if forth.bytes + back.bytes != moved {
            moved = forth.bytes + back.bytes;
            last_move = Instant::now();
        }
        match idle {
            Some(idle) => timer.poll_passed(cx, last_move + idle).map(|()| CopyEnd::Idle),
            None => Poll::Pending,
        }
    })
    .await;
    Copied {
        forth: forth.bytes,
        back: back.bytes,
        end,
    }
}

#[derive(Default)]
struct Direction {
    buffer: Option<Box<[u8]>>,
    filled: usize,
    written: usize,
    bytes: u64,
    flushed: bool,
    state: State,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    Ending,
    Ended,
}

impl Direction {
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            match self.state {
                State::Ended => return Poll::Ready(Ok(())),
                State::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.state = State::Ended;
                }
                State::Open => {
                    ready!(self.poll_drain(cx, to))?;
                    match self.poll_fill(cx, from) {
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                        Poll::Ready(Ok(())) if self.filled == 0 => self.state = State::Ending,
                        Poll::Ready(Ok(())) => {}
                        Poll::Pending => {
                            self.buffer = None;
                            if !self.flushed {
                                ready!(Pin::new(&mut *to).poll_flush(cx))?;
                                self.flushed = true;
                            }
                            return Poll::Pending;
                        }
                    }
                }
            }
        }
    }

    fn poll_drain<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<io::Result<()>> {
        while let Some(buffer) = &self.buffer
            && self.written < self.filled
        {
            let length = ready!(Pin::new(&mut *to).poll_write(cx, &buffer[self.written..self.filled]))?;
            if length == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += length;
            self.flushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_fill<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
    ) -> Poll<io::Result<()>> {
        let buffer = self
            .buffer
            .get_or_insert_with(|| vec![0; BUFFER].into_boxed_slice());
        let mut space = ReadBuf::new(buffer);
        ready!(Pin::new(from).poll_read(cx, &mut space))?;
        self.filled = space.filled().len();
        self.written = 0;
        self.bytes += self.filled as u64;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::timers::Timers;
    use std::rc::Rc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    fn timer() -> Timer {
        Rc::new(Timers::default()).lease()
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_both_ways_and_half_closes_too() {
        let (mut client, a) = duplex(64);
        let (mut server, b) = duplex(64);
        let local = tokio::task::LocalSet::new();
        let copied = local
            .run_until(async move {
                let copy = tokio::task::spawn_local(copy_both(a, b, None, timer()));
                let request = vec![7; 100_000];
                let echo = tokio::task::spawn_local(async move {
                    let mut got = Vec::new();
                    server.read_to_end(&mut got).await.unwrap();
                    server.write_all(&got).await.unwrap();
                    server.shutdown().await.unwrap();
                });
                let sent = request.clone();
                let (mut read, mut write) = tokio::io::split(&mut client);
                let send = async {
                    write.write_all(&sent).await.unwrap();
                    write.shutdown().await.unwrap();
                };
                let mut got = Vec::new();
                let (_, _) = tokio::join!(send, async { read.read_to_end(&mut got).await.unwrap() });
                assert_eq!(got, request);
                echo.await.unwrap();
                copy.await.unwrap()
            })
            .await;
        assert_eq!(
            copied,
            Copied {
                forth: 100_000,
                back: 100_000,
                end: CopyEnd::Finished
            }
        );
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it_and_movement_puts_that_off() {
        let (mut client, a) = duplex(64);
        let (_server, b) = duplex(64);
        let start = Instant::now();
        let idle = Some(Duration::from_secs(10));
        let speak = async {
            tokio::time::sleep(Duration::from_secs(8)).await;
            client.write_all(b"x").await.unwrap();
            std::future::pending::<()>().await;
        };
        let copied = tokio::select! {
            copied = copy_both(a, b, idle, timer()) => copied,
            () = speak => unreachable!("it waits for ever"),
        };
        assert_eq!((copied.end, start.elapsed().as_secs()), (CopyEnd::Idle, 18));
    }
}
