//! A pod and the rest of the world: two namespaces and the line between them, with addresses of their own.
//!
//! ```text
//! pod 10.77.0.1, fd77::1 ── 10.77.0.254, fd77::254: the world, which also has 10.77.0.11, .12, .50 and fd77::11
//! ```

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::namespace::Namespace;

/// Longer than anything takes on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// A pod, the world, and what runs in them.
pub struct Scene {
    /// Dropped before the namespaces that they run in.
    programs: Vec<Child>,
    pub pod: Namespace,
    pub world: Namespace,
    pub directory: TempDir,
}

impl Scene {
    /// Without anything running; none where no namespace can be made.
    pub fn new() -> Option<Self> {
        let (pod, world) = (Namespace::new()?, Namespace::new()?);
        pod.connect(&world, "line");
        for line in [
            "ip addr add 10.77.0.1/24 dev line",
            "ip -6 addr add fd77::1/64 dev line nodad",
            "ip link set line up",
            "ip route add default via 10.77.0.254",
            "ip -6 route add default via fd77::254",
        ] {
            pod.run(line);
        }
        for line in [
            "ip addr add 10.77.0.254/24 dev line",
            "for last in 11 12 50; do ip addr add 10.77.0.$last/24 dev line; done",
            "ip -6 addr add fd77::254/64 dev line nodad",
            "ip -6 addr add fd77::11/64 dev line nodad",
            "ip link set line up",
        ] {
            world.run(line);
        }
        Some(Self {
            programs: Vec::new(),
            pod,
            world,
            directory: tempfile::tempdir().unwrap(),
        })
    }

    /// Servers in a namespace, `KIND ADDRESS PORT` three by three.
    pub fn serve(&mut self, inside: fn(&Self) -> &Namespace, servers: &str) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sidecar/server.py");
        let mut command = inside(self).command("python3");
        command.arg(script).args(servers.split_whitespace());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut said)
            .unwrap();
        self.programs.push(child);
        assert_eq!(said, "ready\n");
    }

    /// Tidegate in the pod, as the user that the rules let be, with a configuration.
    pub fn tidegate(&mut self, configuration: &str) {
        let (file, log) = (self.directory.path().join("tidegate.yaml"), self.log());
        let head = format!(
            "workers: 1\nadmin: {{address: \"0.0.0.0:4191\"}}\nlog: {{access: {{to: {}}}}}\n",
            log.display()
        );
        fs::write(&file, head + configuration).unwrap();
        let mut command = self.command();
        command.arg("run").arg("--config").arg(file);
        self.start(command);
    }

    /// `tidegate` in the pod, as that user.
    pub fn command(&self) -> Command {
        let directory = self.directory.path();
        let log = self.log();
        fs::write(&log, "").unwrap();
        for path in [directory, &log] {
            std::os::unix::fs::chown(path, Some(2102), Some(2102)).unwrap();
        }
        let mut command = self.pod.command("setpriv");
        command
            .args(["--reuid", "2102", "--regid", "2102", "--clear-groups"])
            .arg(env!("CARGO_BIN_EXE_tidegate"));
        command
    }

    /// `tidegate sidecar` in the pod with these arguments.
    pub fn sidecar(&mut self, arguments: &str) {
        let mut command = self.command();
        command
            .args(["sidecar", "--access-log"])
            .args(arguments.split_whitespace())
            .stdout(fs::File::create(self.log()).unwrap());
        self.start(command);
    }

    /// Starts Tidegate and waits until it is ready.
    pub fn start(&mut self, mut command: Command) {
        self.programs.push(command.stdin(Stdio::null()).spawn().unwrap());
        self.soon("readiness", || {
            let asked = "curl -sf -o /dev/null http://127.0.0.1:4191/readyz";
            self.pod.output(asked).status.success().then_some(())
        });
    }

    /// Starts a line of the shell that says something and then waits until its input is closed.
    pub fn hold(&self, line: &str) -> Child {
        let mut shell = self.pod.command("sh");
        shell
            .args(["-c", line])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = shell.spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut said)
            .unwrap();
        assert_ne!(said, "", "{line}");
        child
    }

    /// What a line of the shell writes when an app in the pod runs it.
    pub fn app(&self, line: &str) -> String {
        self.pod.run(&format!(
            "setpriv --reuid 65534 --regid 65534 --clear-groups sh -c '{line}'"
        ))
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("access.log")
    }

    /// The access log's lines once there are so many.
    pub fn lines(&self, count: usize) -> Vec<Value> {
        let lines = self.soon("lines of the access log", || {
            let text = fs::read_to_string(self.log()).unwrap();
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let lines: Vec<Value> = whole
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect();
            (lines.len() >= count).then_some(lines)
        });
        assert_eq!(lines.len(), count, "{lines:#?}");
        lines
    }

    /// The value of a metric, as it stands in the exposition with its labels; 0 if it is not there.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.pod.run("curl -s http://127.0.0.1:4191/metrics");
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Waits for something that comes.
    pub fn soon<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let begin = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(begin.elapsed() < PATIENCE, "{what} did not come");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Sends the last program that was started a signal.
    pub fn signal(&self, signal: Signal) {
        let program = self.programs.last().unwrap();
        kill_process(Pid::from_child(program), signal).unwrap();
    }

    /// Whether the last program that was started still runs.
    pub fn runs(&mut self) -> bool {
        self.programs.last_mut().unwrap().try_wait().unwrap().is_none()
    }

    /// Waits for the end of the last program that was started; gives its exit code.
    pub fn end(&mut self) -> Option<i32> {
        let mut program = self.programs.pop().unwrap();
        let begin = Instant::now();
        while program.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        program.wait().unwrap().code()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for program in &mut self.programs {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}
