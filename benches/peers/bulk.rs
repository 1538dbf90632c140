//! Bytes in bulk, for proxies that relay them: a server that sends without end to whoever says [`MORE`], and a client that
//! counts what comes. Both block, on threads of their own: there are few connections and nothing else to do.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::load::Outcome;
use crate::wire;

/// What asks for bytes without end; everything else is taken for an HTTP request, by which proxies are found to be ready.
const MORE: &[u8] = b"MORE";
/// Bytes of one write.
const PIECE: usize = 256 * 1024;
/// Connections of the load.
const CONNECTIONS: usize = 8;

/// Starts a server on a free port; it ends with the program.
pub fn serve() -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("the bulk server cannot listen")?;
    let address = listener.local_addr()?;
    thread::Builder::new().name("bulk".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            // Errors are those of callers that have enough.
            thread::spawn(move || send(stream));
        }
    })?;
    Ok(address)
}

fn send(mut stream: TcpStream) -> std::io::Result<()> {
    let piece = vec![7; PIECE];
    let answer = wire::h1_answer();
    let mut asked = [0; 4096];
    loop {
        match stream.read(&mut asked)? {
            0 => return Ok(()),
            length if asked[..length].starts_with(MORE) => loop {
                stream.write_all(&piece)?;
            },
            _ => stream.write_all(&answer)?,
        }
    }
}

/// Takes bytes for a while; a "request" is a MiB of them.
pub fn take(address: SocketAddr, time: Duration) -> Result<Outcome> {
    let begin = Instant::now();
    let takers: Vec<_> = (0..CONNECTIONS)
        .map(|_| thread::spawn(move || take_one(address, begin + time)))
        .collect();
    let mut bytes = 0;
    for taker in takers {
        bytes += match taker.join() {
            Ok(taken) => taken?,
            Err(_) => bail!("a client panicked"),
        };
    }
    let mut outcome = Outcome::empty()?;
    outcome.completed = bytes >> 20;
    outcome.elapsed = begin.elapsed();
    Ok(outcome)
}

fn take_one(address: SocketAddr, until: Instant) -> Result<u64> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(MORE)?;
    let mut space = vec![0; PIECE];
    let mut bytes = 0;
    while Instant::now() < until {
        match stream.read(&mut space).context("no more bytes")? {
            0 => bail!("closed while bytes were to come"),
            length => bytes += length as u64,
        }
    }
    Ok(bytes)
}

/// Makes connections, one after the other, with one HTTP/1.1 exchange on each.
pub fn connections(address: SocketAddr, time: Duration) -> Result<Outcome> {
    let begin = Instant::now();
    let mut outcome = Outcome::empty()?;
    let mut answer = vec![0; wire::h1_answer().len()];
    while begin.elapsed() < time {
        let mut stream = TcpStream::connect(address)?;
        // Otherwise the client's port is kept for a minute, and they run out.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(wire::H1_REQUEST)?;
        stream.read_exact(&mut answer).context("no answer")?;
        outcome.completed += 1;
    }
    outcome.elapsed = begin.elapsed();
    Ok(outcome)
}
