//! Accepting: connections come in, within the bound, to the worker that has the fewest.
//!
//! The kernel spreads connections over the workers' sockets by a hash, which is lumpy when there are few of them: with
//! eight long-lived gRPC connections one worker may get six. A worker that has clearly more than the least loaded one
//! hands a new connection over to it.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::connection;
use super::workers::{Board, Command};
use crate::l7::worker::Worker;
use crate::telemetry::metrics::ListenerMetrics;

/// One address as a worker's accepting task sees it.
pub struct Door {
    /// The address as configured: the key into the snapshot.
    pub bind: SocketAddr,
    /// Connections of the address over all workers.
    pub connections: Arc<AtomicU32>,
    /// TLS handshakes of the address under way, over all workers.
    pub handshakes: Arc<AtomicU32>,
    /// Its counters.
    pub metrics: Arc<ListenerMetrics>,
}

/// The other workers, to hand connections over to.
pub struct Neighbours {
    /// How many connections each worker has.
    pub board: Arc<Board>,
    /// Each worker's commands, by its number.
    pub senders: Vec<mpsc::Sender<Command>>,
}

/// Pause after the process or the system ran out of descriptors or memory. Trying at once would only burn the CPU that
/// is needed to end connections.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until dropped.
pub async fn accept(worker: Rc<Worker>, listener: TcpListener, door: Rc<Door>, neighbours: Rc<Neighbours>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => take(&worker, stream, peer, &door, &neighbours),
            Err(error) if is_the_peers(&error) => {}
            Err(error) => {
                tracing::warn!(address = %door.bind, %error, "cannot accept connections for now");
                door.metrics.refused(worker.index);
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

/// Serves a connection here, or hands it over.
fn take(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr, door: &Rc<Door>, neighbours: &Neighbours) {
    let chosen = neighbours.board.choose(worker.index);
    if chosen == worker.index {
        return adopt(worker, stream, peer, door, &neighbours.board);
    }
    let Ok(stream) = stream.into_std() else { return };
    let handed = Command::Adopt {
        stream,
        peer,
        bind: door.bind,
        connections: Arc::clone(&door.connections),
        handshakes: Arc::clone(&door.handshakes),
        metrics: Arc::clone(&door.metrics),
    };
    // A worker that does not keep up with its commands gets no more; the connection stays here.
    door.metrics.handed_off(worker.index);
    if let Err(refused) = neighbours.senders[chosen].try_send(handed)
        && let Command::Adopt { stream, .. } = refused.into_inner()
        && let Ok(stream) = TcpStream::from_std(stream)
    {
        adopt(worker, stream, peer, door, &neighbours.board);
    }
}

/// Serves a connection on this worker.
pub fn adopt(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr, door: &Rc<Door>, board: &Arc<Board>) {
    let place = Place::take(door, board, worker.index);
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        connection::serve(worker, stream, peer, &place).await;
        drop(place);
    });
}

/// A connection's place in the counts, until dropped.
pub struct Place {
    /// Where it came in.
    pub door: Rc<Door>,
    /// Connections of the address, this one included.
    pub count: u32,
    board: Arc<Board>,
    worker: usize,
}

impl Place {
    pub(super) fn take(door: &Rc<Door>, board: &Arc<Board>, worker: usize) -> Self {
        board.add(worker);
        door.metrics.connection_opened(worker);
        let count = door.connections.fetch_add(1, Ordering::Relaxed) + 1;
        Self {
            door: Rc::clone(door),
            board: Arc::clone(board),
            worker,
            count,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.door.connections.fetch_sub(1, Ordering::Relaxed);
        self.board.remove(self.worker);
        self.door.metrics.connection_closed(self.worker);
    }
}

/// Errors of one connection that went away before it was accepted.
fn is_the_peers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
