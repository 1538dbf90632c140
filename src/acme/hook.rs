//! The command that sets and takes away records of DNS: `PROGRAM [ARGUMENT..] add|remove NAME VALUE`, where NAME is
//! `_acme-challenge.shop.example.com` and VALUE the content of its TXT record. Exit code 0: done. It is a process group of its
//! own, which is killed when it takes too long; of what it writes, the end is told when it fails.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::model::acme::DnsHook;

/// Bytes of what it writes that are told.
const MAX_SAID: usize = 2048;
/// Between two looks whether it has ended.
const LOOK: Duration = Duration::from_millis(20);

/// What is to be done with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    /// There is to be one more of this name with this value; others of the name stay.
    Add,
    /// That one is to go.
    Remove,
}

/// Runs the command.
///
/// # Errors
/// Why it did not do its work, in words.
pub(super) async fn run(hook: &DnsHook, verb: Verb, name: &str, value: &str) -> Result<(), String> {
    let (hook, name, value) = (hook.clone(), name.to_owned(), value.to_owned());
    let ran = tokio::task::spawn_blocking(move || wait_for(&hook, verb, &name, &value)).await;
    ran.unwrap_or_else(|error| Err(error.to_string()))
}

/// The record's name for a name without `*.` (RFC 8555 §8.4).
pub(super) fn record(name: &str) -> String {
    format!("_acme-challenge.{name}")
}

fn wait_for(hook: &DnsHook, verb: Verb, name: &str, value: &str) -> Result<(), String> {
    let word = match verb {
        Verb::Add => "add",
        Verb::Remove => "remove",
    };
    let shown = hook.program.display();
    let mut child = Command::new(&hook.program)
        .args(&hook.arguments)
        .args([word, name, value])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| format!("{shown} cannot be run: {error}"))?;
    let said = Said::default();
    said.listen(child.stdout.take());
    said.listen(child.stderr.take());
    match ended_within(&mut child, hook.timeout) {
        Some(code) if code.success() => Ok(()),
        Some(code) => Err(format!("{shown} {word} failed ({code}): {}", said.text())),
        None => {
            kill(&mut child);
            let limit = hook.timeout;
            Err(format!(
                "{shown} {word} took longer than {limit:?} and was ended: {}",
                said.text()
            ))
        }
    }
}

fn ended_within(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let began = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(code)) => return Some(code),
            Ok(None) if began.elapsed() < limit => std::thread::sleep(LOOK),
            Ok(None) | Err(_) => return None,
        }
    }
}

fn kill(child: &mut Child) {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(group) = group {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// The end of what a command has written so far.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    /// Listens on a thread that ends with the stream. Something that the command has left running may hold that, so
    /// nobody waits for it.
    fn listen(&self, stream: Option<impl Read + Send + 'static>) {
        let (Some(mut stream), kept) = (stream, Arc::clone(&self.0)) else {
            return;
        };
        std::thread::spawn(move || {
            let mut piece = [0; MAX_SAID];
            while let Ok(length @ 1..) = stream.read(&mut piece) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&piece[..length]);
                let over = kept.len().saturating_sub(MAX_SAID);
                kept.drain(..over);
            }
        });
    }

    fn text(&self) -> String {
        // The last words may still be on their way through the pipe.
        std::thread::sleep(LOOK);
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str, timeout: Duration) -> DnsHook {
        DnsHook {
            program: "/bin/sh".into(),
            arguments: vec!["-c".to_owned(), script.to_owned(), "hook".to_owned()],
            timeout,
            settle: Duration::ZERO,
        }
    }

    async fn run_it(script: &str, timeout: Duration) -> Result<(), String> {
        run(&hook(script, timeout), Verb::Add, &record("a.example"), "value").await
    }

    #[tokio::test]
    async fn it_is_told_what_to_do_and_says_how_it_went() {
        let long = Duration::from_secs(60);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("said");
        let script = format!("echo \"$@\" > {}", file.display());
        assert_eq!(run_it(&script, long).await, Ok(()));
        let said = std::fs::read_to_string(&file).unwrap();
        assert_eq!(said, "add _acme-challenge.a.example value\n");

        let failed = run_it("exit 3", long).await.unwrap_err();
        assert_eq!(failed, "/bin/sh add failed (exit status: 3): ");
        let talks = run_it("yes | head -c 1000000; exit 1", long).await.unwrap_err();
        assert!(talks.len() < MAX_SAID + 100, "{}", talks.len());
        // Its children end with it.
        let slow = run_it("sleep 1000; true", Duration::from_millis(50))
            .await
            .unwrap_err();
        assert!(slow.contains("took longer than 50ms"), "{slow}");
        let mut gone = hook("", long);
        gone.program = "/nonexistent".into();
        let gone = run(&gone, Verb::Remove, "a", "b").await.unwrap_err();
        assert!(gone.contains("/nonexistent cannot be run"), "{gone}");
    }

    #[test]
    fn the_end_of_what_is_written_is_kept() {
        let said = Said::default();
        said.listen(Some(std::io::Cursor::new([b'x'; 3 * MAX_SAID])));
        let began = Instant::now();
        while said.text().len() < MAX_SAID && began.elapsed() < Duration::from_secs(40) {}
        said.listen(Some(std::io::Cursor::new(b"no such zone")));
        while !said.text().ends_with("no such zone") && began.elapsed() < Duration::from_secs(40) {}
        assert_eq!(said.text().len(), MAX_SAID);
        assert!(said.text().ends_with("xno such zone"));
    }
}
