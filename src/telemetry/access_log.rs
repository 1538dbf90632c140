//! The access log: one line for each ended exchange.
//!
//! A worker formats its lines into a buffer of its own ([`AccessLogHandle`]). When the buffer is full
//! or the worker's ticker says so, it is handed to the one thread that writes, and comes back empty; in
//! the steady state nothing is allocated. A worker never waits: when the queue to the writer is full,
//! the buffer's lines are thrown away and counted (`tidegate_access_log_dropped_total`).
//!
//! Bounds: [`QUEUE`] buffers wait at the most, each of [`FULL`] bytes and at most one line more; a line is
//! bounded because the client's texts are cut (see [`mod@line`]).
//!
//! Every write to the target is of whole lines, and a file is opened for appending, so that several
//! processes may share it.

mod address;
mod escape;
pub mod line;
mod timestamp;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

pub use self::line::Format;
use self::line::LineWriter;
use self::writer::{Control, Message, Writer};
use super::record::RelayRecord;
use super::{ExchangeRecord, Metrics};

/// A buffer with this many bytes is handed to the writer: one wake-up of its thread for about 300 lines.
pub const FULL: usize = 64 * 1024;

/// Buffers that may wait for the writer, of all workers together: about 4 MiB.
pub const QUEUE: usize = 64;

/// Room beyond [`FULL`] that a buffer starts with, for the line that fills it.
const SLACK: usize = 4 * 1024;

/// Empty buffers that wait to be used again, per worker: what 100 000 lines a second fill between two
/// visits of the writer.
const SPARE: usize = 8;

/// Where the lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file; made if it is not there (mode 0640), always appended to.
    File(PathBuf),
}

/// Why the access log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum AccessLogError {
    /// The target cannot be opened for writing.
    #[error("cannot open the access log {target}: {source}")]
    Open {
        /// The path or stream.
        target: String,
        /// The system's reason.
        source: io::Error,
    },
    /// No thread could be started.
    #[error("cannot start the access log's thread: {0}")]
    Thread(io::Error),
}

/// The access log of the process.
#[derive(Debug)]
pub struct AccessLog {
    format: Format,
    metrics: Arc<Metrics>,
    sender: SyncSender<Message>,
    control: Arc<Control>,
}

impl AccessLog {
    /// Opens the target and starts the thread that writes.
    pub fn start(format: Format, target: Target, metrics: Arc<Metrics>) -> Result<Self, AccessLogError> {
        let sink = writer::Sink::open(target)?;
        Self::with_sink(format, sink, metrics)
    }

    /// A handle for one worker.
    pub fn handle(&self) -> AccessLogHandle {
        let (home, spare) = sync_channel(SPARE);
        AccessLogHandle {
            line: LineWriter::new(self.format),
            buffer: Vec::new(),
            lines: 0,
            sender: self.sender.clone(),
            home,
            spare,
            metrics: Arc::clone(&self.metrics),
        }
    }

    /// Opens the file again by its name, after it was moved away ("logrotate"). Done by the writer
    /// before its next write; when it fails, the old file stays in use and an error is logged.
    pub fn reopen(&self) {
        self.control.ask_reopen();
        // If the queue is full, the writer is awake anyway.
        let _ = self.sender.try_send(Message::Wake);
    }

    /// Has everything written that was handed over, and ends the writer; lines handed over later are
    /// dropped. Waits no longer than given (a reader of a pipe may be stuck); tells whether all was written.
    /// Flush and drop the handles first.
    pub fn close(self, patience: Duration) -> bool {
        self.control.ask_end();
        let _ = self.sender.try_send(Message::Wake);
        self.control.wait_ended(patience)
    }

    fn with_sink(format: Format, sink: writer::Sink, metrics: Arc<Metrics>) -> Result<Self, AccessLogError> {
        let (sender, receiver) = sync_channel(QUEUE);
        let control = Arc::new(Control::default());
        let writer = Writer::new(sink, receiver, Arc::clone(&control), Arc::clone(&metrics));
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || writer.run())
            .map_err(AccessLogError::Thread)?;
        Ok(Self {
            format,
            metrics,
            sender,
            control,
        })
    }
}

/// One worker's side of the access log. What is left is handed over when it is dropped.
#[derive(Debug)]
pub struct AccessLogHandle {
    line: LineWriter,
    buffer: Vec<u8>,
    /// Lines in the buffer.
    lines: u64,
    sender: SyncSender<Message>,
    /// Where the writer sends the buffer back to.
    home: SyncSender<Vec<u8>>,
    spare: Receiver<Vec<u8>>,
    metrics: Arc<Metrics>,
}

impl AccessLogHandle {
    /// Writes the line of an ended exchange. Never waits.
    pub fn write(&mut self, record: &ExchangeRecord<'_>) {
        self.append(|line, buffer| line.write(record, buffer));
    }

    /// Writes the line of an ended relay. Never waits.
    pub fn write_relay(&mut self, record: &RelayRecord<'_>) {
        self.append(|line, buffer| line.write_relay(record, buffer));
    }

    fn append(&mut self, write: impl FnOnce(&mut LineWriter, &mut Vec<u8>)) {
        if self.buffer.capacity() == 0 {
            self.buffer = self
                .spare
                .try_recv()
                .unwrap_or_else(|_| Vec::with_capacity(FULL + SLACK));
        }
        write(&mut self.line, &mut self.buffer);
        self.lines += 1;
        if self.buffer.len() >= FULL {
            self.flush();
        }
    }

    /// Hands what there is to the writer. The worker's ticker calls this, so that lines are not kept
    /// for long when traffic is thin. Never waits.
    pub fn flush(&mut self) {
        if self.lines == 0 {
            return;
        }
        let message = Message::Lines {
            buffer: std::mem::take(&mut self.buffer),
            lines: std::mem::take(&mut self.lines),
            home: self.home.clone(),
        };
        if let Err(back) = self.sender.try_send(message)
            && let Message::Lines { buffer, lines, .. } = writer::unsent(back)
        {
            self.metrics.access_log_dropped(lines);
            self.buffer = buffer;
            self.buffer.clear();
        }
    }
}

impl Drop for AccessLogHandle {
    fn drop(&mut self) {
        self.flush();
    }
}
