//! The server behind the proxies: answers every request with 128 bytes, HTTP/1.1 or HTTP/2 as the caller speaks.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::poll::Poller;
use crate::wire::{self, h2};

/// How often the thread looks whether it should end.
const LOOK: Duration = Duration::from_millis(200);

/// The number of the listener in the epoll set; connections have their index.
const LISTENER: usize = usize::MAX;

/// A running backend; it ends when this is dropped.
pub struct Backend {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// The head of the first request of the newest HTTP/1.1 connection.
    head: Mutex<String>,
}

impl Backend {
    /// Listens on a free port of the loopback and serves from a thread of its own.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("the backend cannot listen")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let thread = thread::Builder::new().name("backend".into()).spawn(move || {
            if let Err(error) = serve(&listener, &seen) {
                eprintln!("peers: the backend ended: {error}");
            }
        })?;
        Ok(Self {
            address,
            shared,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The request head that arrived on the newest HTTP/1.1 connection, in lower case.
    pub fn last_head(&self) -> String {
        self.shared
            .head
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .to_ascii_lowercase()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed already and the run has failed by then.
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, shared: &Shared) -> io::Result<()> {
    let mut poller = Poller::new()?;
    poller.add(listener, LISTENER)?;
    let answer = wire::h1_answer();
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free = Vec::new();
    let mut ready = Vec::new();
    let mut scratch = vec![0; 64 * 1024];
    while !shared.stop.load(Ordering::Relaxed) {
        poller.wait(LOOK, &mut ready)?;
        for &token in &ready {
            if token == LISTENER {
                // An error (the caller is gone again, no descriptors) concerns this one connection.
                let Ok((stream, _)) = listener.accept() else {
                    continue;
                };
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                let index = free.pop().unwrap_or(connections.len());
                poller.add(&stream, index)?;
                if index == connections.len() {
                    connections.push(None);
                }
                connections[index] = Some(Connection::new(stream));
                continue;
            }
            let Some(connection) = &mut connections[token] else {
                continue;
            };
            if connection.turn(&mut scratch, &answer, shared).is_err() {
                connections[token] = None;
                free.push(token);
            }
        }
    }
    Ok(())
}

enum Speech {
    Unknown,
    Http1,
    Http2,
}

struct Connection {
    stream: TcpStream,
    speech: Speech,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            speech: Speech::Unknown,
            input: Vec::new(),
            output: Vec::new(),
        }
    }

    /// Reads what is there and answers it; an error ends the connection.
    fn turn(&mut self, scratch: &mut [u8], answer: &[u8], shared: &Shared) -> io::Result<()> {
        let read = match self.stream.read(scratch) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        self.input.extend_from_slice(&scratch[..read]);
        if matches!(self.speech, Speech::Unknown) && !self.recognise(shared) {
            return Ok(());
        }
        let used = match self.speech {
            Speech::Http1 => self.http1(answer),
            Speech::Http2 => self.http2(),
            Speech::Unknown => 0,
        };
        self.input.drain(..used);
        if !self.output.is_empty() {
            // Answers are small and the callers read them: a full send buffer means a broken caller, so that
            // `WriteZero`/`WouldBlock` may end the connection.
            self.stream.write_all(&self.output)?;
            self.output.clear();
        }
        Ok(())
    }

    /// Tells the protocols apart by their first bytes; false while they are too few.
    fn recognise(&mut self, shared: &Shared) -> bool {
        if self.input.starts_with(h2::PREFACE) {
            self.input.drain(..h2::PREFACE.len());
            h2::write_server_opening(&mut self.output);
            self.speech = Speech::Http2;
            return true;
        }
        if h2::PREFACE.starts_with(&self.input) {
            return false;
        }
        let Some(end) = wire::head_end(&self.input) else {
            return false;
        };
        let head = String::from_utf8_lossy(&self.input[..end]).into_owned();
        *shared.head.lock().unwrap_or_else(PoisonError::into_inner) = head;
        self.speech = Speech::Http1;
        true
    }

    /// Answers every whole request head (they have no bodies); returns the bytes used.
    fn http1(&mut self, answer: &[u8]) -> usize {
        let mut used = 0;
        while let Some(end) = wire::head_end(&self.input[used..]) {
            used += end;
            self.output.extend_from_slice(answer);
        }
        used
    }

    /// Answers every stream that the caller has ended; returns the bytes used.
    fn http2(&mut self) -> usize {
        let mut used = 0;
        while let Some((frame, length)) = h2::read(&self.input[used..]) {
            used += length;
            match frame.kind {
                // No benchmark request is long enough for a CONTINUATION, so END_STREAM alone says that it is whole.
                h2::HEADERS | h2::DATA if frame.flags & h2::END_STREAM != 0 => {
                    h2::write_answer(&mut self.output, frame.stream);
                }
                h2::SETTINGS if frame.flags & h2::ACK == 0 => {
                    h2::write(&mut self.output, h2::SETTINGS, h2::ACK, 0, &[]);
                }
                h2::PING if frame.flags & h2::ACK == 0 => {
                    h2::write(&mut self.output, h2::PING, h2::ACK, 0, frame.payload);
                }
                _ => {}
            }
        }
        used
    }
}
