//! Network namespaces that a test makes for itself, which end with the test.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};

/// A network namespace, with its loopback interface up. It is there as long as this is: what holds it is a process that
/// ends when its standard input is closed, also when the test is killed.
pub struct Namespace {
    holder: Child,
}

impl Namespace {
    /// A new one, or none where making one is not allowed. That is said aloud, and fails where `CI` is set.
    pub fn new() -> Option<Self> {
        let why = match Self::make() {
            Ok(namespace) => return Some(namespace),
            Err(why) => why,
        };
        let said = format!(
            "NOT TESTED: the sidecar's rules take a network namespace, and there is none to be had ({why}); run as root, \
             with unshare, ip, nft and iptables installed"
        );
        assert!(std::env::var_os("CI").is_none(), "{said}");
        // Not with a macro: what those write is shown only of tests that fail.
        let _ = writeln!(io::stderr(), "\n{said}\n");
        None
    }

    fn make() -> Result<Self, String> {
        for tool in ["ip", "nft", "iptables-restore", "nsenter"] {
            let asked = Command::new(tool).arg("--version").output();
            let asked = asked.or_else(|_| Command::new(tool).arg("-V").output());
            asked.map_err(|error| format!("{tool}: {error}"))?;
        }
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo there; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        let mut said = String::new();
        BufReader::new(holder.stdout.as_mut().unwrap())
            .read_line(&mut said)
            .unwrap();
        if said != "there\n" {
            let output = holder.wait_with_output().unwrap();
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        let namespace = Self { holder };
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        assert_ne!(
            fs::read_link(namespace.path()).unwrap(),
            own,
            "rules would be the host's"
        );
        namespace.run("ip link set lo up");
        Ok(namespace)
    }

    /// Connects it with another: `name` is the interface in both.
    pub fn connect(&self, other: &Self, name: &str) {
        let (one, two) = (self.holder.id(), other.holder.id());
        self.run(&format!(
            "ip link add {name} type veth peer name {name} netns /proc/{two}/ns/net"
        ));
        assert_ne!(one, two);
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    /// A command in it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg(program);
        command
    }

    /// What a shell's line says in it.
    pub fn output(&self, line: &str) -> Output {
        let mut shell = self.command("sh");
        shell
            .args(["-c", line])
            .env("TIDEGATE", env!("CARGO_BIN_EXE_tidegate"));
        shell.output().unwrap()
    }

    /// What a shell's line, which succeeds, writes in it.
    pub fn run(&self, line: &str) -> String {
        let output = self.output(line);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {}: {said}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}
