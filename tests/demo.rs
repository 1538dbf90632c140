//! The demo as a user starts it: its verdict, and that nothing is left behind.
#![allow(clippy::unwrap_used)] // a test fails by it, also in the functions that its parts share

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Longer than the demo takes on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(120);

fn demo(temporary: &Path, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .arg("demo")
        .args(["--port", "0", "--admin", "127.0.0.1:0"])
        .args(arguments)
        .env("TMPDIR", temporary)
        .env_remove("TIDEGATE_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn end(mut child: Child, signal: Signal) -> Output {
    kill_process(Pid::from_child(&child), signal).unwrap();
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(begin.elapsed() < PATIENCE, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

#[test]
fn the_short_story_ends_well() {
    let temporary = tempfile::tempdir().unwrap();
    let output = demo(temporary.path(), &["--once", "--json"])
        .wait_with_output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}{complained}");
    let verdict: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(verdict["failures"], 0, "{said}");
    assert!(verdict["requests"].as_u64().unwrap() > 500, "{said}");
    assert!(verdict["ejections"].as_u64().unwrap() >= 1, "{said}");
    assert_eq!(verdict["endpoints"].as_array().unwrap().len(), 7, "{said}");
    assert_eq!(names(temporary.path()), [""; 0]);
}

#[test]
fn a_signal_ends_it_and_nothing_is_left() {
    for (signal, keep) in [(Signal::INT, false), (Signal::TERM, true)] {
        let temporary = tempfile::tempdir().unwrap();
        let child = demo(temporary.path(), if keep { &["--keep"] } else { &[] });
        let begin = Instant::now();
        // The folder is there before the proxy is: the signal may come at any moment of the start.
        while names(temporary.path()).is_empty() {
            assert!(begin.elapsed() < PATIENCE, "it does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        let output = end(child, signal);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains(" 0 failed"), "{said}");
        assert_eq!(names(temporary.path()).len(), usize::from(keep), "{said}");
    }
}

#[test]
fn a_port_that_is_taken_is_said() {
    let temporary = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["demo", "--port", &address.port().to_string()])
        .env("TMPDIR", temporary.path())
        .output()
        .unwrap();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    let expected = format!("error: cannot listen on {address}; choose another port with --port");
    assert!(complained.starts_with(&expected), "{complained}");
    assert_eq!(names(temporary.path()), [""; 0]);
}
