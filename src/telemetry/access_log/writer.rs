//! The writer: the one thread that waits for the disk or the pipe, so that no worker does.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::super::Metrics;
use super::{AccessLogError, FULL, Target};

/// A returned buffer that one long line has made larger than this is not kept.
const KEEP: usize = 2 * FULL;

/// Pause before a stream that cannot take more is tried again: standard output may have been set to
/// non-blocking by whoever shares it.
const PAUSE: Duration = Duration::from_millis(5);

/// Pause after the queue has been emptied. A sender pays a system call to wake a sleeping receiver; with this,
/// busy workers find it awake and pay nothing, and what comes meanwhile is written after the pause.
const BREATH: Duration = Duration::from_millis(2);

/// What is asked of the writer through its queue.
pub(super) enum Message {
    /// Write this, then send the buffer home.
    Lines {
        buffer: Vec<u8>,
        lines: u64,
        home: SyncSender<Vec<u8>>,
    },
    /// See what [`Control`] says.
    Wake,
}

/// The message that could not be sent.
pub(super) fn unsent(error: TrySendError<Message>) -> Message {
    match error {
        TrySendError::Full(message) | TrySendError::Disconnected(message) => message,
    }
}

/// What is asked of the writer besides its queue, so that a full queue does not keep it from hearing.
#[derive(Debug, Default)]
pub(super) struct Control {
    reopen: AtomicBool,
    end: AtomicBool,
    ended: Mutex<bool>,
    on_end: Condvar,
}

impl Control {
    pub(super) fn ask_reopen(&self) {
        self.reopen.store(true, Ordering::Release);
    }

    pub(super) fn ask_end(&self) {
        self.end.store(true, Ordering::Release);
    }

    /// Waits for the writer's end; tells whether it came in time.
    pub(super) fn wait_ended(&self, patience: Duration) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let (ended, _) = self
            .on_end
            .wait_timeout_while(ended, patience, |ended| !*ended)
            .unwrap_or_else(PoisonError::into_inner);
        *ended
    }

    fn tell_ended(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.on_end.notify_all();
    }
}

/// Where the lines go.
pub(super) struct Sink {
    out: Box<dyn Write + Send>,
    /// The file's name, to open it again.
    path: Option<PathBuf>,
}

impl Sink {
    pub(super) fn open(target: Target) -> Result<Self, AccessLogError> {
        // The streams' descriptors are doubled: Rust's own handles buffer by line and share a lock.
        let (out, path) = match target {
            Target::Stdout => (
                io::stdout()
                    .as_fd()
                    .try_clone_to_owned()
                    .map(File::from)
                    .map_err(|source| failed("standard output", source))?,
                None,
            ),
            Target::Stderr => (
                io::stderr()
                    .as_fd()
                    .try_clone_to_owned()
                    .map(File::from)
                    .map_err(|source| failed("standard error", source))?,
                None,
            ),
            Target::File(path) => (
                append_to(&path).map_err(|source| failed(&path.display().to_string(), source))?,
                Some(path),
            ),
        };
        Ok(Self {
            out: Box::new(out),
            path,
        })
    }

    #[cfg(test)]
    pub(super) fn to(out: impl Write + Send + 'static) -> Self {
        Self {
            out: Box::new(out),
            path: None,
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Some(path) = &self.path {
            self.out = Box::new(append_to(path)?);
        }
        Ok(())
    }
}

/// The thread's state.
pub(super) struct Writer {
    sink: Sink,
    receiver: Receiver<Message>,
    control: Arc<Control>,
    metrics: Arc<Metrics>,
    /// The last write failed; said once, not for every buffer.
    failing: bool,
    /// The last write left part of a line behind.
    torn: bool,
}

impl Writer {
    pub(super) fn new(
        sink: Sink,
        receiver: Receiver<Message>,
        control: Arc<Control>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            sink,
            receiver,
            control,
            metrics,
            failing: false,
            torn: false,
        }
    }

    /// Runs until it is asked to end or nobody is left who could send.
    pub(super) fn run(mut self) {
        while let Ok(message) = self.receiver.recv() {
            self.take(message);
            self.take_all();
            // Read when the queue has been seen empty: whoever set it sent a message afterwards, or found the
            // queue full; either way there is a round after the one that may have missed it.
            if self.control.end.load(Ordering::Acquire) {
                self.take_all();
                break;
            }
            std::thread::sleep(BREATH);
        }
        self.control.tell_ended();
    }

    fn take_all(&mut self) {
        while let Ok(message) = self.receiver.try_recv() {
            self.take(message);
        }
    }

    fn take(&mut self, message: Message) {
        if self.control.reopen.swap(false, Ordering::AcqRel)
            && let Err(error) = self.sink.reopen()
        {
            tracing::error!(%error, "cannot open the access log again; the old file stays in use");
        }
        let Message::Lines {
            mut buffer,
            lines,
            home,
        } = message
        else {
            return;
        };
        match self.write(&buffer) {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!("the access log can be written again");
            }
            Ok(()) => {}
            Err(error) => {
                self.metrics.access_log_dropped(lines);
                if !self.failing {
                    self.failing = true;
                    tracing::error!(%error, "cannot write the access log; lines are dropped and counted");
                }
            }
        }
        buffer.clear();
        if buffer.capacity() <= KEEP {
            // No room at home: enough spares there.
            let _ = home.try_send(buffer);
        }
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.torn {
            write_all(&mut *self.sink.out, b"\n", &self.control).map_err(|(_, error)| error)?;
            self.torn = false;
        }
        write_all(&mut *self.sink.out, lines, &self.control).map_err(|(written, error)| {
            self.torn = written > 0 && lines[written - 1] != b'\n';
            error
        })
    }
}

/// As [`Write::write_all`], but also waits for a stream that is non-blocking (until the end is asked
/// for), and tells how much was written before a failure.
fn write_all(out: &mut dyn Write, bytes: &[u8], control: &Control) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < bytes.len() {
        match out.write(&bytes[written..]) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock && !control.end.load(Ordering::Acquire) =>
            {
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

fn failed(target: &str, source: io::Error) -> AccessLogError {
    AccessLogError::Open {
        target: target.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
