//! Tests of the way from a worker's handle to the target.

use std::fs;
use std::io::{self, Write};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::super::super::record::Hedge;
use super::super::{AccessLog, AccessLogHandle, FULL, Format, QUEUE, Target};
use super::Sink;
use crate::telemetry::{ExchangeRecord, Metrics, Outcome};

const PATIENCE: Duration = Duration::from_secs(20);

fn write(handle: &mut AccessLogHandle, path: &str) {
    handle.write(&ExchangeRecord {
        outcome: Outcome::Answered,
        status: 200,
        version: http::Version::HTTP_11,
        client: "203.0.113.7:54321".parse().unwrap(),
        method: &http::Method::GET,
        host: "shop.example",
        path,
        listener: "http",
        route: "shop",
        backend: "shop",
        identity: "",
        endpoint: None,
        attempts: 1,
        hedge: Hedge::None,
        request_bytes: 0,
        response_bytes: 0,
        started_unix_us: 0,
        duration_us: 0,
        head_us: None,
        user_agent: None,
        request_id: None,
    });
}

/// The paths in a log, in its order; every line is whole and valid.
fn paths(log: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(log).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["path"].as_str().unwrap().to_owned()
        })
        .collect()
}

/// Writes to memory; waits while the gate is locked; fails when told to.
#[derive(Clone, Default)]
struct Slow {
    gate: Arc<Mutex<()>>,
    written: Arc<Mutex<Vec<u8>>>,
    /// Bytes until every write fails.
    room: Arc<Mutex<Option<usize>>>,
    on_write: Option<Sender<()>>,
}

impl Slow {
    fn written(&self) -> MutexGuard<'_, Vec<u8>> {
        self.written.lock().unwrap()
    }
}

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(on_write) = &self.on_write {
            let _ = on_write.send(());
        }
        let _open = self.gate.lock().unwrap();
        let count = match &mut *self.room.lock().unwrap() {
            None => bytes.len(),
            Some(0) => return Err(io::ErrorKind::StorageFull.into()),
            Some(room) => {
                let count = bytes.len().min(*room);
                *room -= count;
                count
            }
        };
        self.written().extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn start(sink: &Slow) -> (AccessLog, Arc<Metrics>) {
    let metrics = Metrics::new(1);
    let log = AccessLog::with_sink(Format::Json, Sink::to(sink.clone()), Arc::clone(&metrics)).unwrap();
    (log, metrics)
}

#[test]
fn all_lines_arrive_in_the_order_of_their_worker() {
    let sink = Slow::default();
    let (log, metrics) = start(&sink);
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let mut handle = log.handle();
            scope.spawn(move || {
                for number in 0..2000 {
                    write(&mut handle, &format!("/{worker}/{number}"));
                    if number % 100 == 0 {
                        handle.flush();
                    }
                    if number % 500 == 0 {
                        // Gives the writer time, so that nothing is dropped.
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            });
        }
    });
    assert!(log.close(PATIENCE));
    let told = paths(&sink.written());
    for worker in 0..3 {
        let of_worker: Vec<_> = told
            .iter()
            .filter(|path| path.starts_with(&format!("/{worker}/")))
            .collect();
        let expected: Vec<_> = (0..2000).map(|number| format!("/{worker}/{number}")).collect();
        assert!(of_worker.into_iter().eq(&expected), "worker {worker}");
    }
    assert_eq!(metrics.totals().access_log_dropped, 0);
}

#[test]
fn a_stuck_writer_costs_lines_and_no_waiting() {
    let (on_write, writing) = channel();
    let sink = Slow {
        on_write: Some(on_write),
        ..Slow::default()
    };
    let (log, metrics) = start(&sink);
    let mut handle = log.handle();
    let stuck = sink.gate.lock().unwrap();
    write(&mut handle, "/first");
    handle.flush();
    writing.recv().unwrap(); // the writer has taken it and waits
    for number in 0..QUEUE {
        write(&mut handle, &format!("/queued/{number}"));
        handle.flush();
    }
    assert_eq!(metrics.totals().access_log_dropped, 0);
    for _ in 0..2 {
        write(&mut handle, "/dropped");
        write(&mut handle, "/dropped");
        handle.flush();
    }
    assert_eq!(metrics.totals().access_log_dropped, 4);
    drop(stuck);
    assert!(log.close(PATIENCE));
    let told = paths(&sink.written());
    assert_eq!(told.len(), 1 + QUEUE);
    assert!(!told.contains(&"/dropped".to_owned()));
}

#[test]
fn close_does_not_wait_for_ever() {
    let sink = Slow::default();
    let (log, _metrics) = start(&sink);
    let mut handle = log.handle();
    let _stuck = sink.gate.lock().unwrap();
    write(&mut handle, "/");
    handle.flush();
    assert!(!log.close(Duration::from_millis(50)));
}

#[test]
fn a_full_buffer_goes_without_being_asked() {
    let (on_write, writing) = channel();
    let sink = Slow {
        on_write: Some(on_write),
        ..Slow::default()
    };
    let (log, _metrics) = start(&sink);
    let mut handle = log.handle();
    let mut lines = 0;
    while handle.lines > 0 || lines == 0 {
        write(&mut handle, "/");
        lines += 1;
    }
    writing.recv_timeout(PATIENCE).unwrap();
    assert!(log.close(PATIENCE));
    let written = sink.written();
    assert!((FULL..FULL + 1000).contains(&written.len()));
    assert_eq!(paths(&written).len(), lines);
}

#[test]
fn buffers_come_back() {
    let (on_write, writing) = channel();
    let sink = Slow {
        on_write: Some(on_write),
        ..Slow::default()
    };
    let (log, _metrics) = start(&sink);
    let mut handle = log.handle();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..50 {
        write(&mut handle, "/");
        seen.insert(handle.buffer.as_ptr() as usize);
        handle.flush();
        writing.recv_timeout(PATIENCE).unwrap();
        // The buffer is on its way back; wait for it as a worker's ticker would.
        while handle.buffer.capacity() == 0 {
            match handle.spare.recv_timeout(PATIENCE) {
                Ok(buffer) => handle.buffer = buffer,
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert_eq!(seen.len(), 1, "one buffer went round");
}

#[test]
fn a_full_disk_is_counted_and_the_next_line_begins_anew() {
    let sink = Slow::default();
    let (log, metrics) = start(&sink);
    let mut handle = log.handle();
    let settled = |expected: u64| {
        let start = std::time::Instant::now();
        while metrics.totals().access_log_dropped != expected {
            assert!(
                start.elapsed() < PATIENCE,
                "dropped: {}",
                metrics.totals().access_log_dropped
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    *sink.room.lock().unwrap() = Some(10);
    write(&mut handle, "/torn");
    handle.flush();
    settled(1);
    write(&mut handle, "/lost");
    write(&mut handle, "/lost");
    handle.flush();
    settled(3);
    *sink.room.lock().unwrap() = None;
    write(&mut handle, "/whole");
    handle.flush();
    assert!(log.close(PATIENCE));
    let written = sink.written();
    assert_eq!(&written[..11], b"{\"time\":\"1\n");
    assert_eq!(paths(&written[11..]), ["/whole"]);
}

#[test]
fn a_file_is_appended_to_and_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let (path, moved) = (
        directory.path().join("access.log"),
        directory.path().join("access.log.1"),
    );
    fs::write(&path, "").unwrap();
    let metrics = Metrics::new(1);
    let log = AccessLog::start(Format::Json, Target::File(path.clone()), metrics).unwrap();
    let mut handle = log.handle();
    let wait_for = |path: &std::path::Path, lines: usize| {
        let start = std::time::Instant::now();
        while paths(&fs::read(path).unwrap()).len() < lines {
            assert!(start.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    write(&mut handle, "/before");
    handle.flush();
    wait_for(&path, 1);
    fs::rename(&path, &moved).unwrap();
    write(&mut handle, "/still the old file");
    handle.flush();
    wait_for(&moved, 2);
    log.reopen();
    write(&mut handle, "/after");
    drop(handle); // hands over what is left
    assert!(log.close(PATIENCE));
    assert_eq!(
        paths(&fs::read(&moved).unwrap()),
        ["/before", "/still the old file"]
    );
    assert_eq!(paths(&fs::read(&path).unwrap()), ["/after"]);
}

#[test]
fn a_target_that_cannot_be_opened_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let error = AccessLog::start(
        Format::Json,
        Target::File(directory.path().join("missing/access.log")),
        Metrics::new(1),
    )
    .unwrap_err();
    assert!(error.to_string().contains("missing/access.log"), "{error}");
}
