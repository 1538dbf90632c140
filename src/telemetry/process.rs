//! What the kernel says of this process, from `/proc/self`. Where there is no such directory, nothing is known.

use std::fs;

/// Ticks per second of the times in `/proc`: `USER_HZ`, 100 on every architecture that Linux still
/// builds for servers (it is part of the kernel's interface and not the timer's rate).
const TICKS_PER_SECOND: f64 = 100.0;

/// What is known of the process at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessTotals {
    /// Processor time used, user and system, in seconds.
    pub cpu_seconds: Option<f64>,
    /// Memory in use, in bytes.
    pub resident_bytes: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// Open file descriptors.
    pub open_fds: Option<u64>,
    /// File descriptors that may be open.
    pub max_fds: Option<u64>,
    /// When the process started, in seconds since 1970.
    pub started_unix_seconds: Option<f64>,
}

impl ProcessTotals {
    /// Reads them now.
    pub fn read() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            open_fds: fs::read_dir("/proc/self/fd")
                .ok()
                // One of them is the directory that is being read.
                .map(|entries| (entries.count() as u64).saturating_sub(1)),
            ..Self::parse(
                &text("/proc/self/stat"),
                &text("/proc/self/status"),
                &text("/proc/self/limits"),
                &text("/proc/stat"),
            )
        }
    }

    /// From the texts of `/proc/self/stat`, `/proc/self/status`, `/proc/self/limits` and `/proc/stat`.
    fn parse(stat: &str, status: &str, limits: &str, system: &str) -> Self {
        // The second field is the program's name in parentheses and may hold anything; those after
        // it begin with the third (proc_pid_stat(5)).
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let field = |number: usize| -> Option<f64> {
            after_name.split_ascii_whitespace().nth(number - 3)?.parse().ok()
        };
        let seconds = |number| field(number).map(|ticks| ticks / TICKS_PER_SECOND);
        let (user, system_time, started) = (seconds(14), seconds(15), seconds(22));
        Self {
            cpu_seconds: user.zip(system_time).map(|(user, system)| user + system),
            resident_bytes: after(status, "VmRSS:").map(|kibibytes| kibibytes * 1024),
            threads: after(status, "Threads:"),
            open_fds: None,
            max_fds: after(limits, "Max open files"),
            started_unix_seconds: after(system, "btime")
                .zip(started)
                .map(|(boot, started)| boot as f64 + started),
        }
    }
}

/// The number that follows a word at the beginning of a line.
fn after(text: &str, word: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(word))?
        .split_ascii_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let told = ProcessTotals::parse(
            "42 (tide) gate) S 1 42 42 0 -1 4194560 100 0 0 0 250 150 0 0 20 0 7 0 5000 1 2 3",
            "Name:\ttidegate\nVmRSS:\t    2048 kB\nThreads:\t7\n",
            "Limit  Soft  Hard  Units\nMax open files            1024                 4096                 files\n",
            "cpu  1 2 3\nbtime 1700000000\n",
        );
        assert_eq!(
            told,
            ProcessTotals {
                cpu_seconds: Some(4.0),
                resident_bytes: Some(2 << 20),
                threads: Some(7),
                open_fds: None,
                max_fds: Some(1024),
                started_unix_seconds: Some(1_700_000_050.0),
            }
        );
        assert_eq!(ProcessTotals::parse("", "", "", ""), ProcessTotals::default());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn reads_this_process() {
        let told = ProcessTotals::read();
        assert!(told.resident_bytes.unwrap() > 1 << 20, "{told:?}");
        assert!(told.open_fds.unwrap() >= 3, "{told:?}");
        assert!(told.started_unix_seconds.unwrap() > 1.6e9, "{told:?}");
    }
}
