//! What the kernel knows about a proxy: CPU time, context switches, resident memory, system calls.
//!
//! A proxy is the process that was started and all its descendants; counts are sums over all their threads.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// CPU time and context switches since the processes began.
#[derive(Clone, Copy, Default)]
pub struct Usage {
    /// Exact, from the scheduler.
    pub cpu: Duration,
    /// Clock ticks, of use only to split `cpu`.
    user: u64,
    kernel: u64,
    /// Voluntary and involuntary.
    pub switches: u64,
}

impl Usage {
    /// Reads the counters of these processes.
    pub fn read(processes: &[u32]) -> Result<Self> {
        let mut sum = Self::default();
        for process in processes {
            let stat = read(format!("/proc/{process}/stat"))?;
            let fields = after_name(&stat);
            sum.user += number(&fields, 11)?;
            sum.kernel += number(&fields, 12)?;
            for task in fs::read_dir(format!("/proc/{process}/task"))? {
                let task = task?.path();
                let scheduler = read(task.join("schedstat"))?;
                let nanoseconds = number(&scheduler.split_whitespace().collect::<Vec<_>>(), 0)?;
                sum.cpu += Duration::from_nanos(nanoseconds);
                sum.switches += read(task.join("status"))?
                    .lines()
                    .filter(|line| line.contains("voluntary_ctxt_switches")) // also "nonvoluntary_…"
                    .filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok())
                    .sum::<u64>();
            }
        }
        Ok(sum)
    }

    /// What came to pass since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            user: self.user.saturating_sub(earlier.user),
            kernel: self.kernel.saturating_sub(earlier.kernel),
            switches: self.switches.saturating_sub(earlier.switches),
        }
    }

    /// The part of `cpu` that was spent in user space, 0 to 1.
    pub fn user_share(self) -> f64 {
        self.user as f64 / (self.user + self.kernel).max(1) as f64
    }
}

/// The process and its descendants.
pub fn tree(root: u32) -> Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(process) = entry?.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        // A process may end between the listing and the reading.
        let Ok(stat) = fs::read_to_string(format!("/proc/{process}/stat")) else {
            continue;
        };
        if let Ok(parent) = number(&after_name(&stat), 1) {
            parents.push((process, parent as u32));
        }
    }
    let mut family = vec![root];
    let mut at = 0;
    while let Some(&member) = family.get(at) {
        family.extend(
            parents
                .iter()
                .filter(|(_, parent)| *parent == member)
                .map(|(process, _)| process),
        );
        at += 1;
    }
    Ok(family)
}

/// Resident memory of the largest of these processes (of nginx: the worker; its master is not counted), in KB.
pub fn resident_kb(processes: &[u32]) -> Result<f64> {
    let mut largest = 0;
    for process in processes {
        let status = read(format!("/proc/{process}/status"))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kb = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        largest = largest.max(kb.with_context(|| format!("no VmRSS of process {process}"))?);
    }
    Ok(largest as f64)
}

/// How long a core has been busy with anything, since boot. To see whether something else ran beside the proxy.
pub fn core_busy(core: usize) -> Result<Duration> {
    let stat = read("/proc/stat")?;
    let name = format!("cpu{core} ");
    let line = stat
        .lines()
        .find(|line| line.starts_with(&name))
        .with_context(|| format!("no core {core}"))?;
    let fields: Vec<_> = line.split_whitespace().skip(1).collect();
    let mut ticks = 0;
    for field in [0, 1, 2, 5, 6, 7] {
        ticks += number(&fields, field)?; // user nice system irq softirq steal; without idle and iowait
    }
    Ok(Duration::from_secs_f64(
        ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
    ))
}

/// The fields of /proc/PID/stat after the name, which may hold blanks: 0 is the state, 1 the parent, 11 utime, 12 stime.
fn after_name(stat: &str) -> Vec<&str> {
    stat.rsplit_once(')')
        .map_or(stat, |(_, rest)| rest)
        .split_whitespace()
        .collect()
}

fn number(fields: &[&str], at: usize) -> Result<u64> {
    let field = fields.get(at).context("too few fields")?;
    field.parse().with_context(|| format!("not a number: {field}"))
}

fn read(path: impl Into<PathBuf>) -> Result<String> {
    let path = path.into();
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// What counts system calls here: `perf`, which hardly disturbs, or else `strace`, which slows the proxy so much that it
/// finds more to do per wake-up than usual.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counter {
    Perf,
    Strace,
}

impl Counter {
    /// The best one that works here.
    pub fn find() -> Option<Self> {
        let works = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        if works("perf", &["stat", "-e", "raw_syscalls:sys_enter", "--", "true"]) {
            Some(Self::Perf)
        } else if works("strace", &["-c", "-f", "-o", "/dev/null", "true"]) {
            Some(Self::Strace)
        } else {
            None
        }
    }

    /// Starts to count.
    pub fn start(self, processes: &[u32], output: PathBuf) -> Result<Counting> {
        let mut command = match self {
            Self::Perf => {
                let mut command = Command::new("perf");
                let list = processes.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
                command
                    .args([
                        "stat",
                        "-e",
                        "raw_syscalls:sys_enter",
                        "-x",
                        ",",
                        "-p",
                        &list,
                        "-o",
                    ])
                    .arg(&output);
                command
            }
            Self::Strace => {
                let mut command = Command::new("strace");
                command.args(["-c", "-f", "-o"]).arg(&output);
                for process in processes {
                    command.arg("-p").arg(process.to_string());
                }
                command
            }
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        // Neither says when it is attached. An idle proxy makes next to no calls meanwhile.
        thread::sleep(Duration::from_millis(500));
        Ok(Counting {
            counter: self,
            child,
            output,
        })
    }
}

/// A count under way.
pub struct Counting {
    counter: Counter,
    child: Child,
    output: PathBuf,
}

impl Counting {
    /// Ends it and reads the number of calls.
    pub fn finish(mut self) -> Result<u64> {
        interrupt(&self.child)?;
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("{:?} does not end", self.counter);
            }
            thread::sleep(Duration::from_millis(10));
        }
        let text = read(&self.output)?;
        let count = match self.counter {
            // "40213,,raw_syscalls:sys_enter,…"
            Counter::Perf => text
                .lines()
                .find(|line| line.contains("raw_syscalls"))
                .and_then(|line| line.split(',').next()?.parse().ok()),
            // "100.00    0.512345           3    160042        17 total": the column of errors may be empty
            Counter::Strace => text
                .lines()
                .find(|line| line.trim_end().ends_with("total"))
                .and_then(|line| line.split_whitespace().nth(3)?.parse().ok()),
        };
        count.with_context(|| format!("no count in the output of {:?}: {text}", self.counter))
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        // Already ended unless the run failed; nothing more can be done about an error here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn interrupt(child: &Child) -> Result<()> {
    let pid = Pid::from_raw(child.id() as i32).context("a process without a number")?;
    kill_process(pid, Signal::INT).context("cannot interrupt the counter")
}
