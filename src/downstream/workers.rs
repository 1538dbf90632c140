//! The data-plane threads: one per core, each with its own runtime, sockets and pools.
//!
//! A worker is told what to do by commands from the control plane and its neighbours; it tells nobody anything but its
//! counts. Nothing that serves a request crosses a thread.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use super::accept::{Door, Neighbours, Place, accept, adopt};
use super::socket;
use crate::l4::udp::Datagrams;
use crate::l7::worker::{Worker, WorkerParts, WorkerSettings};
use crate::model::Transport;
use crate::telemetry::metrics::{ListenerMetrics, Metrics};

/// What a worker is told.
pub enum Command {
    /// Accept connections on this socket.
    Listen {
        /// The address as configured.
        bind: SocketAddr,
        /// The worker's own socket for it.
        socket: ListenSocket,
        /// Connections of the address over all workers.
        connections: Arc<AtomicU32>,
        /// TLS handshakes of the address under way, over all workers.
        handshakes: Arc<AtomicU32>,
        /// The address's counters.
        metrics: Arc<ListenerMetrics>,
    },
    /// Accept no more on this address.
    Close {
        /// The address as configured.
        bind: SocketAddr,
        /// What comes there.
        transport: Transport,
    },
    /// Serve a connection that a neighbour has accepted.
    Adopt {
        /// The connection.
        stream: std::net::TcpStream,
        /// The client.
        peer: SocketAddr,
        /// The address as configured.
        bind: SocketAddr,
        /// Connections of the address over all workers.
        connections: Arc<AtomicU32>,
        /// TLS handshakes of the address under way, over all workers.
        handshakes: Arc<AtomicU32>,
        /// The address's counters.
        metrics: Arc<ListenerMetrics>,
    },
    /// Settings of the process have changed.
    Set(WorkerSettings),
    /// Accept no more at all, and end every connection after the exchange at hand.
    Drain,
    /// End now.
    Stop,
}

/// A worker's own socket for an address.
pub enum ListenSocket {
    /// For connections.
    Tcp(std::net::TcpListener),
    /// For datagrams.
    Udp(std::net::UdpSocket),
}

/// How many connections each worker has; written by each for itself, read by all.
#[derive(Debug)]
pub struct Board {
    counts: Vec<Count>,
}

/// On a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Count(AtomicUsize);

impl Board {
    fn new(workers: usize) -> Self {
        Self {
            counts: (0..workers).map(|_| Count::default()).collect(),
        }
    }

    /// Connections over all workers.
    pub fn total(&self) -> usize {
        self.counts
            .iter()
            .map(|count| count.0.load(Ordering::Relaxed))
            .sum()
    }

    pub(super) fn add(&self, worker: usize) {
        self.counts[worker].0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn remove(&self, worker: usize) {
        self.counts[worker].0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The worker that a new connection of `own` goes to: its own, unless another has clearly fewer.
    pub(super) fn choose(&self, own: usize) -> usize {
        let load = |worker: usize| self.counts[worker].0.load(Ordering::Relaxed);
        let mine = load(own);
        let least = (0..self.counts.len())
            .min_by_key(|worker| load(*worker))
            .unwrap_or(own);
        // A hand-over costs a wake-up and two calls, so small differences are let be.
        let clearly = mine > load(least) + 1 + load(least) / 8;
        if clearly { least } else { own }
    }
}

/// All workers of a process.
pub struct Workers {
    senders: Vec<mpsc::Sender<Command>>,
    board: Arc<Board>,
    threads: Vec<JoinHandle<()>>,
    /// Connections of each address, over all workers. Only the control plane looks here.
    at: Mutex<HashMap<SocketAddr, Arc<AtomicU32>>>,
}

/// Commands that may wait at a worker.
const MAX_COMMANDS: usize = 1024;
/// How often a worker closes what is idle and hands its log lines on.
const TICK: Duration = Duration::from_millis(250);

impl Workers {
    /// Starts a thread per worker.
    pub fn start(parts: Vec<WorkerParts>) -> io::Result<Self> {
        let board = Arc::new(Board::new(parts.len()));
        let (senders, receivers): (Vec<_>, Vec<_>) =
            parts.iter().map(|_| mpsc::channel(MAX_COMMANDS)).unzip();
        let mut threads = Vec::new();
        for (parts, receiver) in parts.into_iter().zip(receivers) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let neighbours = Neighbours {
                board: Arc::clone(&board),
                senders: senders.clone(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("worker-{}", parts.index))
                .spawn(move || {
                    LocalSet::new()
                        .block_on(&runtime, run(Worker::new(parts), receiver, Rc::new(neighbours)));
                })?;
            threads.push(thread);
        }
        Ok(Self {
            senders,
            board,
            threads,
            at: Mutex::default(),
        })
    }

    /// Binds an address and has every worker accept there; gives the address with its port.
    pub async fn listen(
        &self,
        bind: SocketAddr,
        transport: Transport,
        metrics: &Metrics,
    ) -> io::Result<SocketAddr> {
        let (bound, sockets, name): (_, Vec<_>, _) = match transport {
            Transport::Tcp => {
                let sockets = socket::bind(bind, self.senders.len())?;
                let bound = sockets[0].local_addr()?;
                let sockets = sockets.into_iter().map(ListenSocket::Tcp);
                (bound, sockets.collect(), bound.to_string())
            }
            Transport::Udp => {
                let sockets = socket::bind_datagrams(bind, self.senders.len())?;
                let bound = sockets[0].local_addr()?;
                let sockets = sockets.into_iter().map(ListenSocket::Udp);
                (bound, sockets.collect(), format!("udp {bound}"))
            }
            Transport::Redirected => return Err(io::ErrorKind::Unsupported.into()),
        };
        let (connections, handshakes) = (Arc::default(), Arc::default());
        self.at().insert(bind, Arc::clone(&connections));
        let metrics = metrics.listener(&name);
        for (sender, socket) in self.senders.iter().zip(sockets) {
            let listen = Command::Listen {
                bind,
                socket,
                connections: Arc::clone(&connections),
                handshakes: Arc::clone(&handshakes),
                metrics: Arc::clone(&metrics),
            };
            // A worker that is gone accepts nothing.
            let _ = sender.send(listen).await;
        }
        Ok(bound)
    }

    /// No worker accepts on an address any more.
    pub async fn close(&self, bind: SocketAddr, transport: Transport) {
        if transport == Transport::Tcp {
            self.at().remove(&bind);
        }
        for sender in &self.senders {
            let _ = sender.send(Command::Close { bind, transport }).await;
        }
    }

    /// Gives every worker its settings.
    pub async fn set(&self, settings: impl Fn() -> WorkerSettings) {
        for sender in &self.senders {
            let _ = sender.send(Command::Set(settings())).await;
        }
    }

    /// No worker accepts any more, and connections end after the exchange at hand.
    pub async fn drain(&self) {
        for sender in &self.senders {
            let _ = sender.send(Command::Drain).await;
        }
    }

    /// Connections over all workers.
    pub fn connections(&self) -> usize {
        self.board.total()
    }

    /// Those of one address, as configured.
    pub fn connections_at(&self, bind: SocketAddr) -> u32 {
        self.at()
            .get(&bind)
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }

    fn at(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<AtomicU32>>> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all workers, whatever they are doing, and waits for their threads.
    pub async fn stop(self) {
        for sender in &self.senders {
            let _ = sender.send(Command::Stop).await;
        }
        let joined = tokio::task::spawn_blocking(move || {
            self.threads.into_iter().for_each(|thread| drop(thread.join()))
        });
        let _ = joined.await;
    }
}

/// A worker's own thread.
async fn run(worker: Rc<Worker>, mut commands: mpsc::Receiver<Command>, neighbours: Rc<Neighbours>) {
    let mut doors: HashMap<(SocketAddr, Transport), (Rc<Door>, tokio::task::JoinHandle<()>)> = HashMap::new();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let command = tokio::select! {
            command = commands.recv() => command,
            _ = tick.tick() => {
                // All of its connections, however many: the runtime would make a long look give way half-way.
                tokio::task::unconstrained(async { worker.tick() }).await;
                continue;
            }
        };
        match command {
            Some(Command::Listen {
                bind,
                socket,
                connections,
                handshakes,
                metrics,
            }) => {
                let door = Rc::new(Door {
                    bind,
                    connections,
                    handshakes,
                    metrics,
                });
                let task = match open(&worker, socket, &door, &neighbours) {
                    Ok(task) => task,
                    Err(error) => {
                        tracing::error!(address = %bind, %error, "cannot listen");
                        continue;
                    }
                };
                let (transport, task) = task;
                if let Some((_, before)) = doors.insert((bind, transport), (door, task)) {
                    before.abort();
                }
            }
            Some(Command::Close { bind, transport }) => {
                if let Some((_, task)) = doors.remove(&(bind, transport)) {
                    task.abort();
                }
            }
            Some(Command::Adopt {
                stream,
                peer,
                bind,
                connections,
                handshakes,
                metrics,
            }) => {
                let own = doors
                    .get(&(bind, Transport::Tcp))
                    .map(|(door, _)| Rc::clone(door));
                let door = own.unwrap_or_else(|| {
                    Rc::new(Door {
                        bind,
                        connections,
                        handshakes,
                        metrics,
                    })
                });
                if let Ok(stream) = TcpStream::from_std(stream) {
                    adopt(&worker, stream, peer, &door, &neighbours.board);
                }
            }
            Some(Command::Set(settings)) => worker.set(settings),
            Some(Command::Drain) => {
                for ((_, transport), (_, task)) in doors.drain() {
                    // Sessions of datagrams come in where new ones do; who takes them knows of the drain.
                    if transport == Transport::Tcp {
                        task.abort();
                    }
                }
                worker.start_draining();
            }
            Some(Command::Stop) | None => {
                worker.start_stopping();
                worker.tick();
                return;
            }
        }
    }
}

/// Takes what comes to a socket from now on.
fn open(
    worker: &Rc<Worker>,
    socket: ListenSocket,
    door: &Rc<Door>,
    neighbours: &Rc<Neighbours>,
) -> io::Result<(Transport, tokio::task::JoinHandle<()>)> {
    Ok(match socket {
        ListenSocket::Tcp(listener) => {
            let accepting = accept(
                Rc::clone(worker),
                TcpListener::from_std(listener)?,
                Rc::clone(door),
                Rc::clone(neighbours),
            );
            (Transport::Tcp, tokio::task::spawn_local(accepting))
        }
        ListenSocket::Udp(socket) => {
            let (index, own, board) = (worker.index, Rc::clone(door), Arc::clone(&neighbours.board));
            let enter = move |most| {
                let place = Place::take(&own, &board, index);
                if place.count > most {
                    own.metrics.refused(index);
                    return None;
                }
                Some(place)
            };
            let socket = UdpSocket::from_std(socket)?;
            let datagrams = Datagrams::new(worker.desk(), door.bind, socket, enter)?;
            (Transport::Udp, tokio::task::spawn_local(datagrams.serve()))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clearly_loaded_worker_hands_over() {
        let board = Board::new(3);
        assert_eq!(board.choose(1), 1);
        board.add(1);
        assert_eq!(board.choose(1), 1, "a difference of one is let be");
        board.add(1);
        assert_eq!(board.choose(1), 0);
        board.add(0);
        assert_eq!(board.choose(1), 2);
        board.remove(1);
        board.remove(1);
        assert_eq!((board.choose(1), board.total()), (1, 1));
    }
}
